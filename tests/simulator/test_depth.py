"""How deep a reorganisation may go: as deep as nothing is final, and not one block deeper."""

from __future__ import annotations

import pytest

from cairn.core.genesis import Work
from cairn.net import limits
from tests.simulator.runs import quick
from tests.simulator.world import Faults, Node, World, url_of

FINAL_DEPTHS = (3, 13, 60)
HELD = 1.1 * limits.HELD_SECONDS


def part(final_depth: int, ours: int, theirs: int, *, is_alone: bool = False) -> tuple[Node, Node]:
    """Return two nodes that have met again after they found so many blocks on their own.

    The last of each comes when those before it were there for long. The first node knows of
    nobody but who dials it, unless it `is_alone`: it knows the other, and has lost it.
    """
    seal = Work(interval=30_000_000, half_life=3_600_000_000, final_depth=final_depth)
    with quick(3):
        world = World(1, seal=seal, faults=Faults(), delay=0.05, is_final=False)
        urls = [url_of("20.0.0.0"), url_of("20.0.0.1")]
        a = Node(world, 0, configured=urls[1:] if is_alone else [])
        b = Node(world, 1, configured=urls[:1])
        world.add(a)
        world.add(b)
        world.run(15)
        world.part({0: 0, 1: 1}, reset=True)
        for node, blocks in ((a, ours), (b, theirs)):
            for _ in range(blocks - 1):
                node.mine()
                world.run(0.1)
            world.run(HELD)
            node.mine()
        world.heal()
        world.run(400, lambda: a.head == b.head or a.network.halted is not None)
    return a, b


@pytest.mark.parametrize("final_depth", FINAL_DEPTHS)
@pytest.mark.parametrize("part_of_depth", [0.7, 0.9, 1.0])
def test_a_branch_from_above_what_is_final_is_followed(
    final_depth: int, part_of_depth: float
) -> None:
    ours = 1 + round(final_depth * part_of_depth)  # what is due becomes final with the next block
    a, b = part(final_depth, ours, ours + 1)
    assert a.network.halted is None
    assert a.head == b.head


@pytest.mark.parametrize("final_depth", FINAL_DEPTHS)
def test_a_branch_from_below_what_is_final_stops_the_node_loudly(final_depth: int) -> None:
    a, b = part(final_depth, final_depth + 2, final_depth + 3)
    assert a.network.halted is not None
    assert "person has to" in a.network.halted
    assert b.network.halted is None
    assert a.head != b.head


@pytest.mark.parametrize("final_depth", FINAL_DEPTHS)
def test_a_node_that_was_alone_in_a_long_partition_is_final_on_nothing_and_follows(
    final_depth: int,
) -> None:
    a, b = part(final_depth, 3 * final_depth, 3 * final_depth + 1, is_alone=True)
    assert a.network.halted is None
    assert a.head == b.head


def test_those_who_know_of_one_another_only_by_a_node_that_stops_still_meet() -> None:
    seal = Work(interval=30_000_000, half_life=3_600_000_000, final_depth=3)
    configured: list[list[str]] = [["20.0.0.1"], [], ["20.0.0.0"]]
    with quick(3):
        world = World(1, seal=seal, faults=Faults(), delay=0.05, is_final=False)
        hub, best, other = nodes = [
            Node(world, number, configured=[url_of(host) for host in hosts])
            for number, hosts in enumerate(configured)
        ]
        for node in nodes:
            world.add(node)
        world.part({0: 0, 1: 1, 2: 0}, reset=True)
        world.run(15)
        for node in (hub, best, hub, best, best):
            for _ in range(4):
                node.mine()
                world.run(HELD)
        assert other.head == hub.head
        world.heal()
        world.run(400, lambda: len(world.halted) == 2)
    assert world.halted == [hub, other]
