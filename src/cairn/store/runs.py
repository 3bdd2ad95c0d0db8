"""Runs: the pieces in which a store keeps a chain, and how segments are cut and joined to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cairn.core.header import HEADER_BYTES
from cairn.core.merkle import HASH_BYTES, leaf_hash
from cairn.core.segment import Segment

Row = tuple[int, bytes, bytes, bytes, bytes]
"""A stored run: the position of its first block, hashes, headers, offsets (big-endian), data."""

RUN_BLOCKS: Final = 1024
"""Blocks in a row, at most: what reading one block has to load."""
RUN_BYTES: Final = 2**20
"""Bytes of entries in a row, unless one block is larger."""


def in_runs(segment: Segment) -> Iterator[Segment]:
    """Yield `segment` in the pieces that a store keeps together."""
    n = len(segment)
    if n == 1 or (n <= RUN_BLOCKS and len(segment.data) <= RUN_BYTES):
        yield segment
        return
    bounds, first = segment.offsets[segment.block_bounds], 0
    while first < n:
        limit = int(bounds[first]) + RUN_BYTES
        last = int(bounds[first + 1 : first + RUN_BLOCKS + 1].searchsorted(limit, "right"))
        last = first + max(last, 1)
        yield segment.cut(first, last)
        first = last


def since(run: Segment, start: int) -> list[Segment]:
    """Return the blocks of `run` from position `start` on: all, some or none."""
    if run.start >= start:
        return [run]
    return [run.cut(start - run.start, len(run))] if start < run.stop else []


def before(run: Segment, stop: int) -> Segment:
    """Return the blocks of `run` before position `stop`, which is past its start."""
    return run.cut(0, stop - run.start) if stop < run.stop else run


def joined(rows: Sequence[Row]) -> Segment | None:
    """Return one segment of stored `rows` (at least one), however many and small they are.

    None where they do not follow one another, or one of them would not be regular.
    """
    firsts, hashes, headers, offsets, data = zip(*rows, strict=True)
    blocks, words, sizes = _lengths(hashes) // HASH_BYTES, _lengths(offsets) // 8, _lengths(data)
    if not (
        np.array_equal(blocks * HASH_BYTES, _lengths(hashes))
        and np.array_equal(blocks * HEADER_BYTES, _lengths(headers))
        and np.array_equal(words * 8, _lengths(offsets))
        and bool(np.all(blocks > 0) and np.all(words > 0))
        and list(firsts) == (firsts[0] + _starts(blocks)).tolist()
    ):
        return None
    stored = np.frombuffer(b"".join(offsets), ">u8").astype(np.uint64)
    begins, lasts = _starts(words), np.cumsum(words) - 1
    rising = stored[1:] >= stored[:-1]
    rising[lasts[:-1]] = True  # from one row to the next
    if stored[begins].any() or not (np.array_equal(stored[lasts], sizes) and np.all(rising)):
        return None
    stored += np.repeat(_starts(sizes).astype(np.uint64), words)
    inner = np.ones(len(stored), np.bool_)
    inner[lasts[:-1]] = False  # it is the first of the next row, too
    segment = Segment(
        firsts[0],
        np.frombuffer(b"".join(headers), np.uint8).reshape(-1, HEADER_BYTES),
        np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES),
        np.frombuffer(b"".join(data), np.uint8),
        stored[inner],
    )
    counts = np.add.reduceat(segment.fields["count"].astype(np.int64), _starts(blocks))
    return segment if np.array_equal(counts, words - 1) else None


def _lengths(columns: Sequence[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(len, columns), np.int64, len(columns))


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each begins, if they are laid end to end."""
    return np.cumsum(lengths) - lengths


def places_of(segment: Segment, entry_id: bytes) -> list[tuple[int, int]]:
    """Return where the entries with this id (32 bytes) are: position of the block, place in it.

    A single entry is known by its block's data root, also where it was erased.
    """
    single = segment.fields["count"] == 1
    named = segment.fields["data_root"] == np.void(entry_id)
    found: list[tuple[int, int]] = []
    for i in np.flatnonzero(named & single | ~single).tolist():
        ids = [entry_id] if single[i] else map(leaf_hash, segment.entries(i))
        found += [(segment.start + i, place) for place, one in enumerate(ids) if one == entry_id]
    return found


def chained(blocks: Iterable[tuple[bytes, bytes]]) -> list[list[int]]:
    """Return which of some blocks follow one another: in runs, each block in one, by its number.

    A block is its hash and that of the block before it, and comes after that one.
    """
    runs: list[list[int]] = []
    ends: dict[bytes, list[int]] = {}  # by the hash of their last block
    for number, (block_hash, link) in enumerate(blocks):
        run = ends.pop(link, None)
        if run is None:
            runs.append(run := [])
        run.append(number)
        ends[block_hash] = run
    return runs
