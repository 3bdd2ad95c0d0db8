"""The interface of a store. Everything in it is as stored: judging it is for `core.rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cairn.core.block import Block
from cairn.core.errors import UsageError
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment
from cairn.store.flat import Part


class Head(NamedTuple):
    """Where the chain ends, as recorded with each append."""

    length: int
    """Blocks."""
    hash: bytes
    """Stored hash of the last block; 32 bytes."""


class Pooled(NamedTuple):
    """An entry that waits to be mined."""

    id: bytes
    """Its leaf hash; 32 bytes."""
    entry: bytes
    """Salt and canonical JSON."""
    received: int
    """When it came; µs since the Unix epoch."""


class Store(Protocol):
    """A chain of blocks. Any number of threads may call it; one process writes.

    On an instant ledger, `append` adds to it and nothing ever goes. On a work ledger, `advance` may
    also take off its end, down to `final`. What the first block came by, genesis, is what all come
    by.
    """

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
            UsageError: this is a work ledger.
        """
        ...

    def advance(self, segment: Segment, *, work: int, final: int) -> None:
        """Let `segment` follow the block before it, in place of whatever follows that now.

        Durable when it returns, and all or nothing. What it takes the place of is kept in `sides`,
        of which those that are below `final` go, and those that are in `segment`. `work` is what
        `work()` says from then on, below 2**256, and `final` what `final()` does.

        Raises:
            OutcomeUnknownError: a write failed; the store recovers on next use.
            StoreError: the segment does not follow a stored block. Nothing was written.
            UsageError: this is an instant ledger, a block that is final would go, or `final` would
                fall or be more than there are blocks. Nothing was written.
        """
        ...

    def work(self) -> int:
        """Return the chain work of all blocks, as recorded with the head; 0 where none is."""
        ...

    def final(self) -> int:
        """Return how many blocks, from genesis on, can no longer change. It never falls.

        All there are, on an instant ledger.
        """
        ...

    def sides(self) -> Iterator[Segment]:
        """Yield the side blocks: those that were taken off the chain, or off what replaced it.

        As runs in which each block follows the one before, from the lowest on; where two follow the
        same one, the run goes on with one of them.
        """
        ...

    def find_entry(self, entry_id: bytes) -> list[tuple[int, int]]:
        """Return where the entries of the chain with this id (32 bytes) are, in order.

        The position of the block and the place in it, each. By an index on a work ledger; an
        instant one is read from end to end.
        """
        ...

    def find_entries(self, ids: Sequence[bytes]) -> list[list[tuple[int, int]]]:
        """Return what `find_entry` does for each of `ids`, in their order; all at one moment.

        For many at once it takes a small part of the time.
        """
        ...

    def pool_add(self, pooled: Sequence[Pooled], key: str | None = None) -> None:
        """Keep entries that wait to be mined; one that is there already stays where it is.

        With a `key`, it is remembered for good, with the id of the first of them. Durable when it
        returns, and all or nothing.

        Raises:
            OutcomeUnknownError: a write failed; the store recovers on next use.
            UsageError: `key` is remembered already, or there is no entry for it.
        """
        ...

    def pool_remove(self, ids: Sequence[bytes]) -> None:
        """Let go of the entries that have these ids, as far as they are there.

        Raises:
            OutcomeUnknownError: a write failed; the store recovers on next use.
        """
        ...

    def pool(self) -> list[Pooled]:
        """Return the entries that wait to be mined, in the order in which they came."""
        ...

    def pool_has(self, entry_id: bytes) -> bool:
        """Return whether the entry with this id (32 bytes) is in the pool."""
        ...

    def pool_key(self, key: str) -> bytes | None:
        """Return the id of the entry that was first kept under `key`, or None."""
        ...

    def addresses(self) -> list[str]:
        """Return the URLs that were set last: peers to dial after a restart."""
        ...

    def set_addresses(self, urls: Sequence[str]) -> None:
        """Keep these URLs, in their order, in place of those before.

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

    def headers(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the stored headers of the blocks from `start` to `stop`, `(n, 104)`.

        As `hashes` does: in memory, and without the rest of their blocks.

        Raises:
            DamagedError: one of them is not there.
        """
        ...

    def stored_bytes(self, start: int, stop: int) -> int:
        """Return how many bytes the entries of the blocks from `start` to `stop` have.

        As far as it goes by what is recorded of whole runs and files, which are not read for it; of
        a part of one, by the offsets or headers in it.

        Raises:
            DamagedError: one of the blocks is not there.
        """
        ...

    def nodes(self, level: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Return hashes of the tree over all final blocks that were kept, `(m, 32)`.

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

        Memory is bounded by a few MiB and the largest stored run; appends go on meanwhile. What is
        taken off the chain after the first segment was yielded is still a part of it.

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

    def tampering(self) -> AbstractContextManager[None]:
        """Commit nothing meanwhile, and forget in the end what was remembered of what is stored.

        For the lab: somebody changes it there, without asking the store.
        """
        ...

    def close(self) -> None:
        """Let go of files and locks. Closing twice is fine."""
        ...


def require_advance(segment: Segment, work: int, final: int, *, before: int) -> None:
    """Refuse what `Store.advance` does, where `before` blocks are final now.

    Raises:
        UsageError: why.
    """
    if segment.start < before:
        raise UsageError(f"block {segment.start} is final, as are {before} in all")
    if not before <= final <= segment.stop:
        raise UsageError(f"{final} final blocks, after {before}, of {segment.stop}")
    if not 0 <= work < 2 ** (8 * HASH_BYTES):
        raise UsageError(f"the chain work is {work}, which is not below 2**256")


def require_key(pooled: Sequence[Pooled], key: str, known: bytes | None) -> None:
    """Refuse to remember `key`, which is that of the entry `known` already, or for no entry.

    Raises:
        UsageError: why.
    """
    if known is not None:
        raise UsageError(f"key {key!r} is that of the entry {known.hex()} already")
    if not pooled:
        raise UsageError(f"there is no entry for key {key!r}")
