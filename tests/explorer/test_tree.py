"""How the tree of blocks is laid out: nothing lies on anything else, and all lines lead home."""

from __future__ import annotations

import random
import re
from itertools import combinations
from typing import Any

import pytest

from cairn.explorer.tree import BEND, HEIGHT, STEP, WIDTH, Drawing, Placed, drawing

Block = dict[str, Any]


def block(index: int, name: str, previous: str, status: str = "confirmed") -> Block:
    return {
        "index": index, "hash": name, "previous_hash": previous, "status": status, "count": 1,
    }  # fmt: skip


def chain(start: int, stop: int, final: int = 0) -> list[Block]:
    return [
        block(i, f"c{i}", f"c{i - 1}", "final" if i < final else "confirmed")
        for i in range(start, stop)
    ]


def side(fork: str, name: str, first: int, blocks: int) -> list[Block]:
    names = [fork, *(f"{name}{i}" for i in range(blocks))]
    return [block(first + i, names[i + 1], names[i], "side") for i in range(blocks)]


def ends(line: str) -> tuple[tuple[int, int], tuple[int, int], int | None]:
    """Return where a line starts and ends, and at which x it goes up or down."""
    flat = re.fullmatch(r"M(\d+) (\d+)H(\d+)", line)
    if flat:
        x, y, to = map(int, flat.groups())
        return (x, y), (to, y), None
    bent = re.fullmatch(r"M(\d+) (\d+)H(\d+)q10 0 10 (-?10)v(-?\d+)", line)
    assert bent, line
    x, y, to, bend, rest = map(int, bent.groups())
    assert abs(bend) == BEND
    return (x, y), (to + BEND, y + bend + rest), to + BEND


def require_sound(drawn: Drawing, *, crossing: bool = False) -> None:
    by_place = {(p.x, p.y): p for p in drawn.blocks}
    assert len(by_place) == len(drawn.blocks)
    for a, b in combinations(drawn.blocks, 2):
        assert abs(a.x - b.x) >= STEP or abs(a.y - b.y) > HEIGHT
    for p in drawn.blocks:
        assert 0 <= p.x <= drawn.width - WIDTH
        assert 0 <= p.y <= drawn.height - HEIGHT
    hashes = {p.block["hash"]: p for p in drawn.blocks}
    wanted = {
        (p.block["hash"], p.block["previous_hash"])
        for p in drawn.blocks
        if p.block["previous_hash"] in hashes
    }
    found = set()
    for line in drawn.lines:
        start, end, bend = ends(line)
        source = by_place[start[0] - WIDTH, start[1] - HEIGHT // 2]
        target = at(drawn, end)
        found.add((source.block["hash"], target.block["hash"]))
        if bend is not None and not crossing:
            low, high = sorted((start[1], end[1]))
            for p in drawn.blocks:
                if p is not target and p.x <= bend <= p.x + WIDTH:
                    assert not (low < p.y + HEIGHT and p.y < high), "a line crosses a block"
    assert found == wanted
    assert len(drawn.lines) == len(wanted)


def at(drawn: Drawing, point: tuple[int, int]) -> Placed:
    """Return the block on whose edge a point is."""
    x, y = point
    [found] = [p for p in drawn.blocks if p.x <= x <= p.x + WIDTH and p.y <= y <= p.y + HEIGHT]
    return found


def test_the_chain_is_one_line_with_its_head_on_the_left() -> None:
    drawn = drawing(chain(7, 12))
    assert [p.block["index"] for p in sorted(drawn.blocks, key=lambda p: p.x)] == [11, 10, 9, 8, 7]
    assert len({p.y for p in drawn.blocks}) == 1
    assert [p.block["index"] for p in drawn.blocks if p.is_head] == [11]
    assert drawn.branches == []
    assert len(drawn.lines) == 4
    assert len(drawn.loose) == 1, "block 6 is not shown"
    require_sound(drawn)


def test_a_chain_of_genesis_alone_is_drawn() -> None:
    drawn = drawing(chain(0, 1, final=1))
    assert (len(drawn.blocks), drawn.lines, drawn.loose, drawn.final_x) == (1, [], [], None)


def test_side_branches_are_under_the_chain_and_the_line_leads_to_the_fork() -> None:
    drawn = drawing([*chain(0, 8), *side("c4", "a", 5, 2), *side("c1", "b", 2, 1)])
    rows = {p.block["hash"]: p.y for p in drawn.blocks}
    assert rows["a0"] == rows["a1"] == rows["b0"] > rows["c0"], "there is room for both in a row"
    assert [(b.fork, b.first, b.last) for b in drawn.branches] == [(4, 5, 6), (1, 2, 2)]
    require_sound(drawn)


def test_branches_that_overlap_have_rows_of_their_own() -> None:
    drawn = drawing([*chain(0, 8), *side("c2", "a", 3, 4), *side("c4", "b", 5, 1)])
    rows = {p.block["hash"]: p.y for p in drawn.blocks}
    assert len({rows["a0"], rows["b0"], rows["c0"]}) == 3
    require_sound(drawn)


def test_a_branch_whose_fork_is_too_far_back_is_drawn_all_the_same() -> None:
    drawn = drawing([*chain(10, 14), *side("old", "a", 11, 2)])
    assert len(drawn.loose) == 2
    require_sound(drawn)


def test_a_branch_may_be_longer_than_the_chain() -> None:
    """It has less work for all that."""
    drawn = drawing([*chain(0, 4), *side("c1", "a", 2, 5)])
    assert [p.block["index"] for p in drawn.blocks if p.is_head] == [3]
    require_sound(drawn)


@pytest.mark.parametrize(("final", "between"), [(9, (8, 9)), (6, None), (12, None)])
def test_where_final_begins_is_between_two_blocks(
    final: int, between: tuple[int, int] | None
) -> None:
    drawn = drawing(chain(6, 12, final))
    x = {p.block["index"]: p.x for p in drawn.blocks}
    if between is None:
        assert drawn.final_x is None
        return
    older, newer = between
    assert drawn.final_x is not None
    assert x[newer] + WIDTH < drawn.final_x < x[older]


@pytest.mark.parametrize("seed", range(60))
def test_random_trees(seed: int) -> None:
    chance = random.Random(seed)
    base = chance.randint(0, 5)
    blocks = chain(base, base + chance.randint(1, 20))
    is_deep = seed % 2 == 1
    for number in range(chance.randint(1, 12)):
        parent = chance.choice(blocks if is_deep else blocks[: len(chain(base, base + 1))])
        if not is_deep:
            parent = chance.choice([b for b in blocks if b["status"] != "side"])
        blocks += side(parent["hash"], f"s{number}_", parent["index"] + 1, chance.randint(1, 4))
    chance.shuffle(blocks)
    blocks.sort(key=lambda b: (b["status"] == "side", b["index"]))
    require_sound(drawing(blocks), crossing=is_deep)
