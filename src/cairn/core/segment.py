"""A segment, for machines: consecutive blocks as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from cairn.core.block import Block
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.errors import FormatError
from cairn.core.hasher import Hasher
from cairn.core.header import (
    DATA_ROOT,
    HEADER_BYTES,
    HEADER_DTYPE,
    NO_HASH,
    Header,
    Kind,
)
from cairn.core.merkle import HASH_BYTES


@dataclass(frozen=True, eq=False)
class Segment:
    """n consecutive blocks with m entries, as stored; valid or not is for the rules to say.

    Only the shapes are promised. Counts and offsets may be anything that was stored: every reading
    here is clipped to the columns, so that no damage can do more than break a hash.
    """

    start: int
    """Position of the first block."""
    headers: NDArray[np.uint8]
    """`(n, 104)`."""
    hashes: NDArray[np.uint8]
    """`(n, 32)`, as stored."""
    data: NDArray[np.uint8]
    """All entries end to end, bytes."""
    offsets: NDArray[np.uint64]
    """`(m + 1)`: entry j is `data[offsets[j]:offsets[j + 1]]`."""

    def __post_init__(self) -> None:
        n = len(self.hashes)
        if self.headers.shape != (n, HEADER_BYTES) or self.hashes.shape != (n, HASH_BYTES):
            raise FormatError(f"{self.headers.shape} headers and {self.hashes.shape} hashes")
        if n == 0 or self.offsets.ndim != 1 or len(self.offsets) == 0:
            raise FormatError("a segment has at least one block and one offset")

    @classmethod
    def from_bytes(
        cls, start: int, headers: bytes, hashes: bytes, data: bytes, offsets: bytes
    ) -> Segment:
        """Read columns from their stored bytes, without copying. Offsets are big-endian u64.

        Raises:
            FormatError: a column whose length does not go with the others'.
        """
        if len(headers) % HEADER_BYTES or len(hashes) % HASH_BYTES or len(offsets) % 8:
            lengths = f"{len(headers)}, {len(hashes)} and {len(offsets)}"
            raise FormatError(f"columns of {lengths} bytes are no headers, hashes and offsets")
        return cls(
            start,
            np.frombuffer(headers, np.uint8).reshape(-1, HEADER_BYTES),
            np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES),
            np.frombuffer(data, np.uint8),
            np.frombuffer(offsets, ">u8").astype(np.uint64),
        )

    @classmethod
    def from_blocks(cls, start: int, blocks: Sequence[Block]) -> Segment:
        """Lay out `blocks` (at least one) as columns, the first at position `start`."""
        entries = [entry.to_bytes() for block in blocks for entry in block.entries]
        return cls(
            start,
            _rows(b"".join(block.header.pack() for block in blocks), HEADER_BYTES),
            _rows(b"".join(block.stored_hash for block in blocks), HASH_BYTES),
            np.frombuffer(b"".join(entries), np.uint8),
            np.fromiter(accumulate(map(len, entries), initial=0), np.uint64),
        )

    @classmethod
    def join(cls, segments: Sequence[Segment]) -> Segment:
        """Return one segment of `segments` (at least one), which follow one another.

        Each must be `is_regular`, or its entries would shift those of the next.
        """
        if len(segments) == 1:
            return segments[0]
        bases = np.cumsum([0, *(len(s.data) for s in segments)], dtype=np.uint64)
        inner = [s.offsets[:-1] + base for s, base in zip(segments, bases[:-1], strict=True)]
        return cls(
            segments[0].start,
            np.concatenate([s.headers for s in segments]),
            np.concatenate([s.hashes for s in segments]),
            np.concatenate([s.data for s in segments]),
            np.concatenate([*inner, bases[-1:]]),
        )

    @classmethod
    def seal(
        cls,
        lengths: Sequence[int],
        texts: bytearray,
        salts: bytes,
        *,
        start: int,
        previous_hash: bytes,
        timestamp: int,
        hasher: Hasher,
    ) -> Segment:
        """Make one value block of each text of canonical JSON, of these lengths (at least one).

        `texts` are end to end, with room for 16 bytes before each, which are filled with `salts`.

        The first is at position `start` and links to `previous_hash`; `timestamp` is in µs and the
        same for all: they are sealed at once.
        """
        n = len(lengths)
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(np.fromiter(lengths, np.int64, n) + SALT_BYTES, out=offsets[1:])
        starts, stops = offsets[:-1], offsets[1:]
        data = np.frombuffer(texts, np.uint8)
        salted = np.ndarray((len(data) - SALT_BYTES + 1,), f"V{SALT_BYTES}", data, strides=(1,))
        salted[starts] = np.frombuffer(salts, salted.dtype)
        template = Header(
            kind=Kind.VALUE,
            index=0,
            previous_hash=NO_HASH,
            timestamp=timestamp,
            count=1,
            size=0,
            data_root=NO_HASH,
        )
        headers = np.frombuffer(bytearray(template.pack() * n), np.uint8).reshape(n, HEADER_BYTES)
        fields = headers.view(HEADER_DTYPE).reshape(-1)
        fields["index"] = np.uint64(start) + np.arange(n, dtype=np.uint64)
        fields["size"] = stops - starts
        headers[:, DATA_ROOT] = hasher.leaf_hashes(data, starts, stops)
        hashes = hasher.link(headers, previous_hash)
        return cls(start, headers, hashes, data, offsets.astype(np.uint64))

    def offset_bytes(self) -> bytes:
        """Return the offsets as stored: big-endian u64."""
        return self.offsets.astype(">u8").tobytes()

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def stop(self) -> int:
        """Position after the last block."""
        return self.start + len(self)

    @cached_property
    def fields(self) -> NDArray[np.void]:
        """The headers as `(n,)` records of `HEADER_DTYPE`, a view where they are contiguous."""
        return np.ascontiguousarray(self.headers).view(HEADER_DTYPE).reshape(-1)

    @cached_property
    def entry_bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each entry starts and stops in `data`, `(m,)` each, clipped to it."""
        clipped = np.minimum(self.offsets, np.uint64(len(self.data))).astype(np.int64)
        starts, stops = clipped[:-1], clipped[1:]
        return starts, np.maximum(starts, stops)

    @cached_property
    def block_bounds(self) -> NDArray[np.int64]:
        """`(n + 1)`: block i holds entries `[i]` to `[i + 1]`, by the headers' counts.

        The last block gets whatever entries are left, so that none goes unseen.
        """
        entries = len(self.offsets) - 1
        ends = np.cumsum(self.fields["count"], dtype=np.uint64)
        bounds = np.zeros(len(self) + 1, np.int64)
        bounds[1:] = np.minimum(ends, np.uint64(entries))
        bounds[-1] = entries
        return bounds

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """`(n,)`: the bytes stored for each block: of its entries, and what lies around them all.

        The first block has the bytes before the first offset, the last those after the last.
        """
        starts, stops = self.entry_bounds
        upto = np.zeros(len(starts) + 1, np.int64)
        np.cumsum(stops - starts, out=upto[1:])
        sizes = np.diff(upto[self.block_bounds])
        before, after = self._surroundings
        sizes[0] += before
        sizes[-1] += after
        return sizes

    @property
    def _surroundings(self) -> tuple[int, int]:
        """The bytes of `data` before the first offset and after the last one."""
        size = len(self.data)
        return min(int(self.offsets[0]), size), max(size - int(self.offsets[-1]), 0)

    @cached_property
    def erased(self) -> NDArray[np.bool_]:
        """`(n,)`: whether `is_erased` says so of each block.

        Reads little of what is not: where canonical JSON begins, there is no zero.
        """
        fields = self.fields
        erased: NDArray[np.bool_] = (fields["kind"] == Kind.VALUE) & (fields["count"] == 1)
        erased &= np.diff(self.block_bounds) == 1
        places = np.flatnonzero(erased)
        starts, stops = (bounds[self.block_bounds[places]] for bounds in self.entry_bounds)
        suspects = np.flatnonzero(stops - starts > SALT_BYTES)
        suspects = suspects[self.data[starts[suspects] + SALT_BYTES] == 0]
        erased[:] = False
        if len(suspects):
            starts, stops = starts[suspects], stops[suspects]
            # Pairs: what is wanted is from the first of a pair to the last byte, and that one.
            pairs = np.stack([starts, stops - 1], axis=1).reshape(-1)
            found = np.bitwise_or.reduceat(self.data, pairs)[::2] | self.data[stops - 1]
            erased[places[suspects]] = found == 0
        return erased

    @property
    def is_regular(self) -> bool:
        """Whether counts, offsets and data agree, as they do unless they were damaged."""
        entries = int(self.fields["count"].sum(dtype=np.uint64))
        return (
            entries == len(self.offsets) - 1
            and int(self.offsets[0]) == 0
            and int(self.offsets[-1]) == len(self.data)
            and bool(np.all(self.offsets[:-1] <= self.offsets[1:]))
        )

    def entries(self, i: int) -> tuple[bytes, ...]:
        """Return the stored bytes of each entry of the i-th block. Requires 0 <= i < n."""
        starts, stops = self.entry_bounds
        first, last = self.block_bounds[i : i + 2].tolist()
        pairs = zip(starts[first:last].tolist(), stops[first:last].tolist(), strict=True)
        return tuple(self.data[start:stop].tobytes() for start, stop in pairs)

    def entry_bytes(self, i: int) -> tuple[int, int]:
        """Return where in `data` all entries of the i-th block start and stop."""
        starts, stops = self.entry_bounds
        first, last = self.block_bounds[i : i + 2].tolist()
        return int(starts[first]), int(stops[last - 1])

    def block(self, i: int) -> Block:
        """Return the i-th block. Requires 0 <= i < n."""
        return Block(
            Header.unpack(self.headers[i].tobytes()),
            self.hashes[i].tobytes(),
            tuple(Entry.from_bytes(entry) for entry in self.entries(i)),
        )

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks one by one, for people: bulk code works on the columns."""
        return map(self.block, range(len(self)))

    def cut(self, first: int, last: int) -> Segment:
        """Return blocks `first` to `last`, as they read here. Requires 0 <= first < last <= n.

        They are views, unless damaged offsets or counts make it necessary to lay them out anew.
        """
        if (first, last) == (0, len(self)):
            return self
        lo, hi = self.block_bounds[[first, last]].tolist()
        if self.is_regular:
            offsets = self.offsets[lo : hi + 1]
            data = self.data[int(offsets[0]) : int(offsets[-1])]
            offsets = offsets - offsets[0]
        else:
            data, offsets = self._laid_out(lo, hi, at_start=first == 0, at_end=last == len(self))
        return Segment(
            self.start + first, self.headers[first:last], self.hashes[first:last], data, offsets
        )

    def _laid_out(
        self, lo: int, hi: int, *, at_start: bool, at_end: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """Return data and offsets with entries `lo` to `hi` end to end, and what is around."""
        before, after = self._surroundings
        head = self.data[: before if at_start else 0]
        tail = self.data[len(self.data) - (after if at_end else 0) :]
        starts, stops = (bounds[lo:hi].tolist() for bounds in self.entry_bounds)
        entries = [self.data[a:b] for a, b in zip(starts, stops, strict=True)]
        ends = accumulate(map(len, entries), initial=len(head))
        return np.concatenate([head, *entries, tail]), np.fromiter(ends, np.uint64)


def _rows(data: bytes, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).reshape(-1, width)
