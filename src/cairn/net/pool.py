"""The pool: entries that wait to be mined."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from cairn.net.limits import POOL_BYTES, POOL_ENTRIES, POOL_SECONDS, POOL_SHARE


class Added(StrEnum):
    """What became of an entry that was offered to the pool."""

    NEW = "new"
    KNOWN = "known"
    """It waits already."""
    SHARE = "share"
    """Its source has as much of the pool as any one may."""
    FULL = "full"
    """There is no room."""


class _Waiting(NamedTuple):
    entry: bytes
    received: float
    source: Hashable | None


class Pool:
    """Entries by id, in the order in which they are to be mined.

    An entry is *kept* (source None), or comes from a peer. Kept are those of this node's own user,
    who was told that they are safe, and those that were on the chain. They stay until they are
    removed, and make room for themselves: the newest from peers go. One from a peer never takes the
    place of another, and goes by itself after `seconds`.

    Not protected: four peers can fill the part that kept entries leave, as nothing has a price.
    """

    def __init__(
        self,
        *,
        entries: int = POOL_ENTRIES,
        size: int = POOL_BYTES,
        seconds: float = POOL_SECONDS,
        share: int = POOL_SHARE,
    ) -> None:
        """`size` is in bytes; to hold any entry at all from a peer, `share` times the largest."""
        self._entries: Final = entries
        self._size: Final = size
        self._seconds: Final = seconds
        self._share: Final = share
        self._waiting: OrderedDict[bytes, _Waiting] = OrderedDict()
        self._from_peers: OrderedDict[bytes, None] = OrderedDict()  # in order of arrival
        self._count_of: Counter[Hashable] = Counter()  # peers only, none at zero
        self._size_of: Counter[Hashable] = Counter()
        self.size = 0
        """Bytes of all entries."""
        self._kept_size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, entry_id: bytes) -> bool:
        return entry_id in self._waiting

    def __iter__(self) -> Iterator[bytes]:
        """Yield all ids, the first to be mined first."""
        return iter(self._waiting)

    def get(self, entry_id: bytes) -> bytes | None:
        """Return the entry with this id, or None where none waits."""
        found = self._waiting.get(entry_id)
        return found.entry if found else None

    def add(self, entry_id: bytes, entry: bytes, now: float, source: Hashable | None) -> Added:
        """Put `entry` (salt and JSON) at the end, unless it is there or finds no room.

        `source` is what a peer can not change at will, or None for an entry that is to be kept. One
        that came from a peer and is to be kept now keeps its place.
        """
        known = self._waiting.get(entry_id)
        if known is not None:
            if source is None:
                self._keep(entry_id, known)
            return Added.KNOWN
        if source is None:
            if not self._fits(len(self) - len(self._from_peers), self._kept_size, entry):
                return Added.FULL
            self._make_room(entry)
        elif self._takes_too_much(source, entry):
            return Added.SHARE
        elif not self._fits(len(self), self.size, entry):
            return Added.FULL
        self._insert(entry_id, _Waiting(entry, now, source))
        return Added.NEW

    def has_room(self, requests: Sequence[Mapping[bytes, bytes]]) -> list[bool]:
        """Whether all entries (by id) of each request would be kept, after those before it."""
        count, size = len(self) - len(self._from_peers), self._kept_size
        taken: set[bytes] = set()
        found = []
        for entries in requests:
            kept = {i for i in entries if i in self and i not in self._from_peers}
            new = entries.keys() - taken - kept
            more = count + len(new), size + sum(len(entries[entry_id]) for entry_id in new)
            found.append(not new or (more[0] <= self._entries and more[1] <= self._size))
            if found[-1]:
                count, size = more
                taken |= new
        return found

    def give_back(self, entries: Iterable[tuple[bytes, bytes]], now: float) -> None:
        """Put entries (id, entry) that have left the chain in front of all, in this order.

        They are kept and never refused, so that the pool can grow past its bounds by what is in the
        blocks that a reorganisation takes off; it takes nothing else then.
        """
        for entry_id, entry in reversed(list(entries)):
            if known := self._waiting.get(entry_id):
                self._keep(entry_id, known)
            else:
                self._make_room(entry)
                self._insert(entry_id, _Waiting(entry, now, None))
            self._waiting.move_to_end(entry_id, last=False)

    def remove(self, ids: Iterable[bytes]) -> None:
        """Take out the entries with these ids, where they are here: mined, expired or refused."""
        for entry_id in ids:
            if (gone := self._waiting.pop(entry_id, None)) is not None:
                self._forget(entry_id, gone)

    def take(self, count: int, size: int) -> list[bytes]:
        """Return what a block with so many entries and bytes at most should hold; all stay here.

        They are the first in order up to where one does not fit; one that would fit no block at all
        is passed over.
        """
        taken: list[bytes] = []
        room = size
        for waiting in self._waiting.values():
            length = len(waiting.entry)
            if length > size:
                continue
            if len(taken) == count or length > room:
                break
            taken.append(waiting.entry)
            room -= length
        return taken

    def expired(self, now: float) -> list[bytes]:
        """Return the ids of entries from peers that nobody has mined for `seconds`."""
        found = []
        for entry_id in self._from_peers:
            if self._waiting[entry_id].received + self._seconds > now:
                break
            found.append(entry_id)
        return found

    def _fits(self, count: int, size: int, entry: bytes) -> bool:
        return count < self._entries and size + len(entry) <= self._size

    def _takes_too_much(self, source: Hashable, entry: bytes) -> bool:
        count, size = self._count_of[source] + 1, self._size_of[source] + len(entry)
        return count * self._share > self._entries or size * self._share > self._size

    def _make_room(self, entry: bytes) -> None:
        while self._from_peers and not self._fits(len(self), self.size, entry):
            self.remove([next(reversed(self._from_peers))])

    def _insert(self, entry_id: bytes, waiting: _Waiting) -> None:
        self._waiting[entry_id] = waiting
        self.size += len(waiting.entry)
        if waiting.source is None:
            self._kept_size += len(waiting.entry)
        else:
            self._from_peers[entry_id] = None
            self._count_of[waiting.source] += 1
            self._size_of[waiting.source] += len(waiting.entry)

    def _forget(self, entry_id: bytes, waiting: _Waiting) -> None:
        """Undo what `_insert` did but for the place in order."""
        self.size -= len(waiting.entry)
        if waiting.source is None:
            self._kept_size -= len(waiting.entry)
            return
        del self._from_peers[entry_id]
        self._count_of[waiting.source] -= 1
        self._size_of[waiting.source] -= len(waiting.entry)
        if not self._count_of[waiting.source]:
            del self._count_of[waiting.source], self._size_of[waiting.source]

    def _keep(self, entry_id: bytes, known: _Waiting) -> None:
        self._forget(entry_id, known)
        self._insert(entry_id, known._replace(source=None))  # where it is: the key is there
