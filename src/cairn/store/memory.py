"""A store in memory: for tests, teaching and simulation."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cairn.core.block import Block
from cairn.core.errors import DamagedError, UsageError
from cairn.core.segment import Segment
from cairn.core.tree import as_hashes
from cairn.store.interface import Head


class MemoryStore:
    """`cairn.store.interface.Store` over a list of segments."""

    def __init__(self, first: Segment) -> None:
        self._segments = [first]
        self._keys: dict[str, range] = {}
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
        for segment in self._segments:
            for i, row in enumerate(segment.hashes):
                if row.tobytes() == block_hash:
                    return segment.start + i
        return None

    def recall(self, key: str) -> range | None:
        """See `Store.recall`."""
        return self._keys.get(key)

    def hashes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Store.hashes`."""
        if start < stop > self.end():
            raise DamagedError(f"there is no block {stop - 1}")
        found = [segment.hashes for segment in self.scan(start, stop)]
        return np.concatenate([as_hashes(b""), *found])

    def nodes(self, level: int, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Store.nodes`. None are kept."""
        return as_hashes(b"")

    def append(self, segment: Segment, keys: Mapping[str, range], erase: int | None = None) -> None:
        """See `Store.append`."""
        self._segments.append(segment)
        self._keys.update(keys)
        if erase is not None:
            self._erase(erase)

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

    def _place(self, index: int) -> int:
        """Return which segment holds position `index`."""
        return max(bisect_right(self._segments, index, key=lambda s: s.start) - 1, 0)
