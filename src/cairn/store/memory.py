"""A store in memory: for tests, teaching and simulation."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from cairn.core.block import Block
from cairn.core.errors import DamagedError, StoreError, UsageError
from cairn.core.header import DATA_ROOT, HEADER_BYTES, LINK, NO_HASH
from cairn.core.merkle import leaf_hash
from cairn.core.segment import Segment
from cairn.core.tree import as_hashes
from cairn.store.interface import Head, Pooled, require_advance, require_key
from cairn.store.runs import chained


class MemoryStore:
    """`cairn.store.interface.Store` over a list of segments."""

    def __init__(self, first: Segment, *, mined: bool = False) -> None:
        """Hold `first`: genesis, and what follows it. It is a work ledger if `mined`."""
        self._segments = [first]
        self._mined = mined
        self._work = 0
        self._final = 1  # of a work ledger
        self._sides: dict[int, dict[bytes, Segment]] = {}  # by position, by hash: a block each
        self._index_lock = Lock()
        self._indexed = 0  # owned by _index_lock, with the next: the blocks that are in them
        self._positions: dict[bytes, int] = {}
        self._entries: dict[bytes, list[tuple[int, int]]] = {}
        self._keys: dict[str, range] = {}
        self._pool: dict[bytes, Pooled] = {}
        self._pool_keys: dict[str, bytes] = {}
        self._addresses: list[str] = []
        self._mark: Head | None = None
        self._checkpoint: bytes | None = None

    def head(self) -> Head:
        """See `Store.head`."""
        last = self._segments[-1]
        return Head(last.stop, last.hashes[-1].tobytes())

    def end(self) -> int:
        """See `Store.end`."""
        return self._segments[-1].stop

    def get(self, index: int) -> Block | None:
        """See `Store.get`."""
        if not 0 <= index < self._segments[-1].stop:
            return None
        segment = self._segments[self._place(index)]
        return segment.block(index - segment.start)

    def find(self, block_hash: bytes) -> int | None:
        """See `Store.find`."""
        with self._index_lock:
            self._index()
            return self._positions.get(block_hash)

    def find_entry(self, entry_id: bytes) -> list[tuple[int, int]]:
        """See `Store.find_entry`."""
        return self.find_entries([entry_id])[0]

    def find_entries(self, ids: Sequence[bytes]) -> list[list[tuple[int, int]]]:
        """See `Store.find_entries`."""
        with self._index_lock:
            self._index()
            return [list(self._entries.get(entry_id, ())) for entry_id in ids]

    def recall(self, key: str) -> range | None:
        """See `Store.recall`."""
        return self._keys.get(key)

    def hashes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Store.hashes`."""
        if start < stop > self.end():
            raise DamagedError(f"there is no block {stop - 1}")
        found = [segment.hashes for segment in self.scan(start, stop)]
        return np.concatenate([as_hashes(b""), *found])

    def headers(self, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Store.headers`."""
        if start < stop > self.end():
            raise DamagedError(f"there is no block {stop - 1}")
        found = [segment.headers for segment in self.scan(start, stop)]
        return np.concatenate([np.empty((0, HEADER_BYTES), np.uint8), *found])

    def stored_bytes(self, start: int, stop: int) -> int:
        """See `Store.stored_bytes`."""
        if start < stop > self.end():
            raise DamagedError(f"there is no block {stop - 1}")
        return sum(len(segment.data) for segment in self.scan(start, stop))

    def nodes(self, level: int, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Store.nodes`. None are kept."""
        return as_hashes(b"")

    def append(self, segment: Segment, keys: Mapping[str, range], erase: int | None = None) -> None:
        """See `Store.append`."""
        if self._mined:
            raise UsageError("nothing is appended to a work ledger: it is mined")
        self._segments.append(segment)
        self._keys.update(keys)
        if erase is not None:
            self._erase(erase)

    def advance(self, segment: Segment, *, work: int, final: int) -> None:
        """See `Store.advance`."""
        if not self._mined:
            raise UsageError("nothing is taken off an instant ledger: it is appended to")
        require_advance(segment, work, final, before=self._final)
        gone = list(self.scan(segment.start, self.end()))
        link = segment.headers[0, LINK].tobytes()
        if segment.start > self.end() or self._hash_before(segment.start) != link:
            raise StoreError(f"block {segment.start} does not follow a stored one")
        with self._index_lock:
            for piece in reversed(gone):
                self._take_off(piece)
            if self._sides:
                for i, row in enumerate(segment.hashes):
                    self._sides.get(segment.start + i, {}).pop(row.tobytes(), None)
            place = self._place(segment.start) if gone else len(self._segments)
            kept = list(self.scan(self._segments[place].start, segment.start)) if gone else []
            self._segments[place:] = [*kept, segment]
            self._work = work
            if self._sides:
                for position in range(self._final, final):
                    self._sides.pop(position, None)
            self._final = final  # last: those who are not kept waiting take it at its word

    def work(self) -> int:
        """See `Store.work`."""
        return self._work

    def final(self) -> int:
        """See `Store.final`."""
        return self._final if self._mined else self.end()

    def sides(self) -> Iterator[Segment]:
        """See `Store.sides`."""
        with self._index_lock:
            blocks = [block for at in sorted(self._sides) for block in self._sides[at].values()]
        links = [(block.hashes.tobytes(), block.headers[0, LINK].tobytes()) for block in blocks]
        for run in chained(links):
            yield Segment.join([blocks[number] for number in run])

    def pool_add(self, pooled: Sequence[Pooled], key: str | None = None) -> None:
        """See `Store.pool_add`."""
        if key is not None:
            require_key(pooled, key, self._pool_keys.get(key))
            self._pool_keys[key] = pooled[0].id
        for one in pooled:
            self._pool.setdefault(one.id, one)

    def pool_remove(self, ids: Sequence[bytes]) -> None:
        """See `Store.pool_remove`."""
        for entry_id in ids:
            self._pool.pop(entry_id, None)

    def pool(self) -> list[Pooled]:
        """See `Store.pool`."""
        return list(self._pool.values())

    def pool_has(self, entry_id: bytes) -> bool:
        """See `Store.pool_has`."""
        return entry_id in self._pool

    def pool_key(self, key: str) -> bytes | None:
        """See `Store.pool_key`."""
        return self._pool_keys.get(key)

    def addresses(self) -> list[str]:
        """See `Store.addresses`."""
        return list(self._addresses)

    def set_addresses(self, urls: Sequence[str]) -> None:
        """See `Store.set_addresses`."""
        self._addresses = list(urls)

    def erasing(self) -> Mapping[int, int]:
        """See `Store.erasing`. None waits to be finished."""
        return {}

    def finish_erasing(self) -> Mapping[int, int]:
        """See `Store.finish_erasing`."""
        return {}

    def scan(self, start: int, stop: int) -> Iterator[Segment]:
        """See `Store.scan`."""
        for segment in self._segments[self._place(start) :]:
            if segment.start >= stop:
                return
            first = max(start - segment.start, 0)
            last = min(stop - segment.start, len(segment))
            if first < last:
                yield segment.cut(first, last)

    def parts(self, start: int, stop: int) -> Iterator[Segment]:
        """See `Store.parts`."""
        return self.scan(start, stop)

    def require_nothing_else(self) -> None:
        """See `Store.require_nothing_else`."""

    def checkpoint(self) -> bytes | None:
        """See `Store.checkpoint`."""
        return self._checkpoint

    def publish(self, checkpoint: bytes) -> None:
        """See `Store.publish`."""
        self._checkpoint = checkpoint

    def mark(self) -> Head | None:
        """See `Store.mark`."""
        return self._mark

    def set_mark(self, head: Head) -> None:
        """See `Store.set_mark`."""
        self._mark = head

    def backup(self, target: Path, progress: Callable[[int, int], None]) -> None:
        """Refuse: there are no files to copy.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"a ledger in memory has no files to back up to {target}")

    def tampering(self) -> AbstractContextManager[None]:
        """See `Store.tampering`. Nobody else has what is here."""
        return nullcontext()

    def close(self) -> None:
        """See `Store.close`."""

    def _erase(self, position: int) -> None:
        """Remove the entry of a block, at once for all who read."""
        place = self._place(position)
        segment = self._segments[place]
        start, stop = segment.entry_bytes(position - segment.start)
        data = segment.data.copy()
        data[start:stop] = 0
        self._segments[place] = replace(segment, data=data)

    def _hash_before(self, index: int) -> bytes:
        """Return the stored hash of the block before position `index`, which is not past the end.

        Of none, that of genesis.
        """
        if index == 0:
            return NO_HASH
        return self.hashes(index - 1, index).tobytes()

    def _take_off(self, piece: Segment) -> None:
        """Let these blocks, the last of the chain, be side blocks. Requires the lock."""
        for i, row in enumerate(piece.hashes):
            position, block_hash = piece.start + i, row.tobytes()
            block = piece.cut(i, i + 1)
            self._sides.setdefault(position, {})[block_hash] = block
            if position < self._indexed:
                del self._positions[block_hash]
                for entry_id in set(_ids(block)):
                    places = self._entries[entry_id]
                    places[:] = [place for place in places if place[0] != position]
                    if not places:
                        del self._entries[entry_id]
        self._indexed = min(self._indexed, piece.start)

    def _index(self) -> None:
        """Note where the blocks are that have come since the last time. Requires the lock."""
        for segment in self.scan(self._indexed, self.end()):
            for i, row in enumerate(segment.hashes):
                position = segment.start + i
                self._positions[row.tobytes()] = position
                for place, entry_id in enumerate(_ids(segment, i)):
                    self._entries.setdefault(entry_id, []).append((position, place))
            self._indexed = segment.stop

    def _place(self, index: int) -> int:
        """Return which segment holds position `index`."""
        return max(bisect_right(self._segments, index, key=lambda s: s.start) - 1, 0)


def _ids(segment: Segment, i: int = 0) -> list[bytes]:
    """Return the ids of the entries of the i-th block; of a single one also where it was erased."""
    if segment.fields["count"][i] == 1:
        return [segment.headers[i, DATA_ROOT].tobytes()]
    return [leaf_hash(entry) for entry in segment.entries(i)]
