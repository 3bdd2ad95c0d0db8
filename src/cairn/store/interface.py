"""The interface of a store. Everything in it is as stored: judging it is for `core.rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cairn.core.block import Block
from cairn.core.segment import Segment
from cairn.store.flat import Part


class Head(NamedTuple):
    """Where the chain ends, as recorded with each append."""

    length: int
    """Blocks."""
    hash: bytes
    """Stored hash of the last block; 32 bytes."""


class Store(Protocol):
    """An append-only chain of blocks. Any number of threads may call it; one process writes."""

    def head(self) -> Head:
        """Return the recorded head."""
        ...

    def end(self) -> int:
        """Return the position after the last stored block: the recorded length, if all is well."""
        ...

    def get(self, index: int) -> Block | None:
        """Return the block stored at position `index`, or None where there is none."""
        ...

    def find(self, block_hash: bytes) -> int | None:
        """Return the position of the block whose stored hash this is (32 bytes), or None."""
        ...

    def recall(self, key: str) -> range | None:
        """Return the positions of the blocks that were appended under `key`, or None."""
        ...

    def append(self, segment: Segment, keys: Mapping[str, range], erase: int | None = None) -> None:
        """Add `segment` at the end and remember `keys` (key → positions), both or neither.

        Durable when it returns. Requires that the segment follows the recorded head. With `erase`,
        it is the record of that block's erasure, and `erasing` has it from then on, too.

        Raises:
            OutcomeUnknownError: a write failed; the store recovers on next use.
        """
        ...

    def hashes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the stored hashes of the blocks from `start` to `stop`, `(n, 32)`.

        They are all in memory: ask for no more than that takes. A few are read without the rest of
        their blocks.

        Raises:
            DamagedError: one of them is not there.
        """
        ...

    def nodes(self, level: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Return hashes of the tree over all blocks that were kept, `(m, 32)`.

        Those at `start` and after it of `level`, in steps of 8 (node i of level 1 is the root over
        the 256 blocks from 256 × i on), as far as there are any without a gap and before `stop`.
        Nothing rests on them: a proof that they spoil is wrong, and made again without.
        """
        ...

    def erasing(self) -> Mapping[int, int]:
        """Return the erasures that are recorded and not finished: position → that of the record."""
        ...

    def finish_erasing(self) -> Mapping[int, int]:
        """Remove every entry that `erasing` has, durably, and return what it was.

        As many zeros as it had bytes are left of an entry, and no other copy in the store's files.

        Raises:
            StoreError: it could not be finished, and `erasing` still has it.
        """
        ...

    def scan(self, start: int, stop: int) -> Iterator[Segment]:
        """Yield what is stored from position `start` to `stop`, in order, as segments.

        Memory is bounded by a few MiB and the largest stored run; appends go on meanwhile.

        Raises:
            DamagedError: stored columns that are no segment, or that overlap. All blocks before
                were yielded.
        """
        ...

    def parts(self, start: int, stop: int) -> Iterator[Segment | Part]:
        """Yield the same as `scan`, but what lies in files as where it lies.

        Workers read these on their own: `Part.mapped`.

        Raises:
            DamagedError: as `scan` does; what is in files is not looked at.
        """
        ...

    def require_nothing_else(self) -> None:
        """Check that nothing is stored as blocks that `scan` would not come to.

        Raises:
            DamagedError: what there is.
        """
        ...

    def checkpoint(self) -> bytes | None:
        """Return the checkpoint that was published last, a signed note; not looked at."""
        ...

    def publish(self, checkpoint: bytes) -> None:
        """Keep the checkpoint that is published, in place of the one before.

        Raises:
            StoreError: it cannot be written.
        """
        ...

    def mark(self) -> Head | None:
        """Return up to where the chain was once found valid, if that was noted and can be read."""
        ...

    def set_mark(self, head: Head) -> None:
        """Note up to where the chain was found valid: a convenience, that nothing rests on.

        Raises:
            StoreError: it cannot be written.
        """
        ...

    def backup(self, target: Path, progress: Callable[[int, int], None]) -> None:
        """Write a consistent copy into the empty directory `target`, while appends go on.

        Calls `progress(done, total)` now and then, in units of its own.
        """
        ...

    def close(self) -> None:
        """Let go of files and locks. Closing twice is fine."""
        ...
