"""The tree of blocks as it is drawn: the chain in a line, the newest first, and what is beside it.

A block is as `tree` of `GET /peers` has it. Lengths are in the drawing's own units, about a pixel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

TreeBlock = Mapping[str, Any]

WIDTH: Final = 92
"""Of a block; so with the height."""
HEIGHT: Final = 46
STEP: Final = 116
"""From a block to the one that it follows."""
ROW: Final = 62
"""From the chain to a branch under it."""
TOP: Final = 30
"""Above the chain: what says which block is the head, and which are final."""
MARGIN: Final = 6
BEND: Final = 10
"""Radius of the corner of a line that leads from a branch up to the chain."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A block and where its upper left corner is."""

    block: TreeBlock
    x: int
    y: int
    is_head: bool


@dataclass(frozen=True, slots=True)
class Branch:
    """Blocks beside the chain that follow one another, in words."""

    fork: int
    """The last block that it has in common with what it parted from."""
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is to be drawn, and said to those who do not see it."""

    width: int
    height: int
    blocks: list[Placed]
    lines: list[str]
    """From blocks to those that they follow: path data of SVG."""
    loose: list[str]
    """From blocks to what is too far back to be shown."""
    final_x: int | None
    """Where, to the right, blocks are final; None where all are, or none is."""
    branches: list[Branch]
    """The highest fork first."""


def drawing(blocks: Sequence[TreeBlock]) -> Drawing:
    """Lay out a tree of at least one block of the chain."""
    chain = [block for block in blocks if block["status"] != "side"]
    runs = _runs([block for block in blocks if block["status"] == "side"])
    rows = {block["hash"]: 0 for block in chain} | _rows(runs)
    newest = max(block["index"] for block in blocks)

    def x(block: TreeBlock) -> int:
        return MARGIN + STEP * int(newest - block["index"])

    def y(block: TreeBlock) -> int:
        return TOP + ROW * rows[block["hash"]]

    placed = [Placed(block, x(block), y(block), block is chain[-1]) for block in blocks]
    by_hash = {block["hash"]: block for block in blocks}
    lines: list[str] = []
    loose: list[str] = []
    for block in blocks:
        before = by_hash.get(block["previous_hash"])
        start = f"M{x(block) + WIDTH} {y(block) + HEIGHT // 2}"
        if before is not None:
            lines.append(start + _to(x(before), y(before) - y(block)))
        elif block["index"] > 0:
            loose.append(f"{start}h{STEP - WIDTH}")
    final = [block for block in chain if block["status"] == "final"]
    return Drawing(
        width=MARGIN * 2 + STEP * (newest - min(block["index"] for block in blocks) + 1),
        height=TOP + ROW * max(rows.values()) + HEIGHT + MARGIN,
        blocks=placed,
        lines=lines,
        loose=loose,
        final_x=x(final[-1]) - (STEP - WIDTH) // 2 if final and final != chain else None,
        branches=[Branch(run[0]["index"] - 1, run[0]["index"], run[-1]["index"]) for run in runs],
    )


def _to(x: int, down: int) -> str:
    """Return the rest of a line to a block at `x`, so far below the one where it starts."""
    if down == 0:
        return f"H{x}"
    sign = 1 if down > 0 else -1
    rest = abs(down) - HEIGHT // 2 - BEND
    return f"H{x + WIDTH // 2 - BEND}q{BEND} 0 {BEND} {sign * BEND}v{sign * rest}"


def _runs(sides: Iterable[TreeBlock]) -> list[list[TreeBlock]]:
    """Return side blocks in runs of such as follow one another, the highest fork first."""
    runs: list[list[TreeBlock]] = []
    ends: dict[str, list[TreeBlock]] = {}  # by the hash of their last block
    for block in sorted(sides, key=lambda block: block["index"]):
        run = ends.pop(block["previous_hash"], [])
        if not run:
            runs.append(run)
        run.append(block)
        ends[block["hash"]] = run
    return sorted(runs, key=lambda run: -run[0]["index"])


def _rows(runs: Iterable[Sequence[TreeBlock]]) -> dict[str, int]:
    """Return how far under the chain each side block is.

    A run takes the first row in which it has room. As the highest forks come first, and rows are
    kept free for lines, none from a run to the chain meets a block of another run.
    """
    rows: dict[str, int] = {}
    taken: defaultdict[int, set[int]] = defaultdict(set)  # columns, by row
    for run in runs:
        fork, last = run[0]["index"] - 1, run[-1]["index"]
        columns = range(fork, last + 1)
        row = next(row for row in count(1) if taken[row].isdisjoint(columns))
        taken[row].update(columns)
        for above in range(1, row):
            taken[above].add(fork)
        rows |= {block["hash"]: row for block in run}
    return rows
