"""The end of a work ledger's chain with the branches beside it, and how it was reorganised.

For people who look: nothing is decided by it, and what it remembers is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cairn.core.errors import DamagedError
from cairn.core.header import Header
from cairn.core.segment import Segment
from cairn.core.work import total_work
from cairn.ledger.ledger import now_us
from cairn.net.events import HeadMoved
from cairn.store.interface import Head, Store

SHOWN: Final = 40
"""Blocks of the chain in the tree."""
KEPT_SIDES: Final = 128
"""Side blocks that are remembered: those that were taken off last."""
KEPT_REORGANISATIONS: Final = 100


@dataclass(frozen=True, slots=True)
class TreeBlock:
    """A block of the tree."""

    index: int
    hash: bytes
    previous_hash: bytes
    timestamp: int
    """µs since the Unix epoch, as its miner says."""
    count: int
    """Entries."""
    status: str
    """`final`, `confirmed`, or `side`: not on the chain."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The blocks on one side of a fork."""

    index: int
    """Of the last of them; so with the hash."""
    hash: bytes
    work: int
    """Of them all."""


@dataclass(slots=True)
class Reorganisation:
    """How a branch has taken the place of another one."""

    timestamp: int
    """When this node has followed it, by its clock; µs since the Unix epoch."""
    depth: int
    """Blocks that were taken off."""
    before: Branch
    after: Branch
    returned: int | None = None
    """Entries of the blocks that went which those that came do not have; None: not counted yet."""

    @classmethod
    def of(cls, move: HeadMoved) -> Reorganisation:
        """Return what a move was that took blocks off."""
        depth = sum(map(len, move.disconnected))
        return cls(now_us(), depth, _branch(move.disconnected), _branch(move.connected))

    def count_returned(self, move: HeadMoved) -> None:
        """Count the entries that have come back. Takes time where there are many."""
        came = set(_entries(move.connected))
        self.returned = sum(entry not in came for entry in _entries(move.disconnected))


class Forks:
    """What the node of a work ledger remembers of how its chain has forked; for any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()  # of what is next
        self._sides: dict[bytes, TreeBlock] = {}  # by hash, the one that went last at the end
        self._version = 0  # changes with them
        self._reorganisations: deque[Reorganisation] = deque(maxlen=KEPT_REORGANISATIONS)
        self._reading = Lock()  # of what is next
        self._is_read = False  # what was taken off before the start
        self._tree: tuple[Head, int, list[TreeBlock]] | None = None  # as it was at that head

    @property
    def reorganisations(self) -> list[Reorganisation]:
        """The last ones since the start, in order."""
        with self._lock:
            return list(self._reorganisations)

    def moved(self, move: HeadMoved) -> Reorganisation | None:
        """Note that the chain has moved; return how it was reorganised, if it was."""
        if not move.disconnected:
            return None
        reorganisation = Reorganisation.of(move)
        gone = _last_blocks(move.disconnected)
        with self._lock:
            self._note(gone)
            self._reorganisations.append(reorganisation)
        return reorganisation

    def tree(self) -> list[TreeBlock]:
        """Return the last blocks of the chain, from the lowest on, and then the side blocks there.

        Reads the store only when the chain has moved since the last time.

        Raises:
            DamagedError: the store cannot be read.
        """
        with self._reading:
            if not self._is_read:
                before = _last_blocks(self._store.sides())
                with self._lock:
                    later = list(self._sides.values())
                    self._note([*before, *later])
                self._is_read = True
            known = (self._store.head(), self._version)
            if self._tree is None or self._tree[:2] != known:
                self._tree = (*known, self._read(known[0]))
            return self._tree[2]

    def _read(self, head: Head) -> list[TreeBlock]:
        while True:
            start = max(head.length - SHOWN, 0)
            try:
                headers = self._store.headers(start, head.length)
                break
            except DamagedError:
                before, head = head, self._store.head()
                if head == before:
                    raise  # else the end is lower than it was
        chain = [_block(row, final=self._store.final()) for row in headers]
        hashes = {block.hash for block in chain}
        with self._lock:
            sides = [side for side in self._sides.values() if side.hash not in hashes]
        sides.sort(key=lambda side: (side.index, side.hash))
        shown = range(start, head.length + SHOWN)
        return [*chain, *(side for side in sides if side.index in shown)]

    def _note(self, sides: Iterable[TreeBlock]) -> None:
        """Remember side blocks; with the lock held."""
        for side in sides:
            self._sides.pop(side.hash, None)  # so that it comes last
            self._sides[side.hash] = side
        for side_hash in list(self._sides)[:-KEPT_SIDES]:
            del self._sides[side_hash]
        self._version += 1


def _last_blocks(segments: Iterable[Segment]) -> deque[TreeBlock]:
    """Return side blocks, no more than are remembered."""
    rows = (row for segment in segments for row in segment.headers[-KEPT_SIDES:])
    return deque(map(_block, rows), maxlen=KEPT_SIDES)


def _block(header: NDArray[np.uint8], final: int | None = None) -> TreeBlock:
    """Return the block of a header `(104,)`: of the chain, of which so many are final; or not."""
    read = Header.unpack(header.tobytes())
    status = "side"
    if final is not None:
        status = "final" if read.index < final else "confirmed"
    return TreeBlock(read.index, read.hash, read.previous_hash, read.timestamp, read.count, status)


def _branch(segments: Sequence[Segment]) -> Branch:
    last = segments[-1]
    work = sum(total_work(segment.fields["bits"]) for segment in segments)
    return Branch(last.stop - 1, last.hashes[-1].tobytes(), work)


def _entries(segments: Sequence[Segment]) -> Iterator[bytes]:
    """Yield the bytes of all entries."""
    for segment in segments:
        for i in range(len(segment)):
            yield from segment.entries(i)
