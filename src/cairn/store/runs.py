"""Runs: the pieces in which a store keeps a chain, and how segments are cut and joined to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cairn.core.segment import Segment

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


def joined(segments: list[Segment]) -> Iterator[Segment]:
    """Join the segments that follow one another and can be joined; the others stay alone."""
    group: list[Segment] = []
    for segment in segments:
        if group and not (
            segment.is_regular and group[-1].is_regular and group[-1].stop == segment.start
        ):
            yield Segment.join(group)
            group = []
        group.append(segment)
    if group:
        yield Segment.join(group)
