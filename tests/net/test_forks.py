"""What a node remembers of how its chain has forked, against lists of blocks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cairn.core.block import Block
from cairn.core.errors import DamagedError
from cairn.core.work import is_target, work_of
from cairn.hashing import best_hasher
from cairn.net.events import HeadMoved
from cairn.node.forks import KEPT_REORGANISATIONS, KEPT_SIDES, SHOWN, Forks, Reorganisation
from cairn.store.disk import DiskStore
from cairn.store.interface import Head, Store
from cairn.store.memory import MemoryStore
from tests.store.branches import GENESIS, Model, branch, segment_of


class World:
    """A store, what its node remembers, and lists of what both should have."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.model = Model()
        self.forks = Forks(store)
        self.gone: list[Block] = []

    def advance(self, blocks: list[Block], final: int) -> Reorganisation | None:
        """Let `blocks` follow the one before them, and tell of it, in pieces as nodes do."""
        off = self.model.chain[blocks[0].index :]
        self.model.advance([self.store], blocks, final)
        self.gone += off
        pieces = [[block] for block in off[:1]] + ([off[1:]] if off[1:] else [])
        return self.forks.moved(HeadMoved(tuple(map(segment_of, pieces)), (segment_of(blocks),)))

    def check(self, sides: list[Block]) -> None:
        """Hold the tree to the chain, and to these blocks beside it."""
        model, tree = self.model, self.forks.tree()
        chain = model.chain[-SHOWN:]
        lowest = chain[0].index
        beside = {block.stored_hash: block for block in sides if block not in model.chain}
        shown = [block for block in beside.values() if block.index >= lowest]
        wanted = [(b, "final" if b.index < model.final else "confirmed") for b in chain]
        wanted += [(b, "side") for b in sorted(shown, key=lambda b: (b.index, b.stored_hash))]
        found = [(b.index, b.hash, b.previous_hash, b.timestamp, b.count, b.status) for b in tree]
        assert found == [
            (b.index, b.stored_hash, b.header.previous_hash, b.header.timestamp, b.header.count, s)
            for b, s in wanted
        ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    directory = tmp_path / "ledger"
    directory.mkdir()
    DiskStore.create(directory)
    store = DiskStore(directory, best_hasher())
    Model().begin(store)
    yield store
    store.close()


@pytest.mark.parametrize("seed", range(4))
def test_the_tree_is_the_end_of_the_chain_and_what_was_beside_it(
    seed: int, store: DiskStore
) -> None:
    chance = random.Random(seed)
    world = World(store)
    for number in range(120):
        model = world.model
        fork = chance.randint(max(model.final - 1, len(model.chain) - 5), len(model.chain) - 1)
        if chance.random() < 0.6:
            fork = len(model.chain) - 1
        blocks = branch(model.chain[fork], f"{seed} {number}", chance.randint(1, 3))
        again = [b for b in world.gone if b.header.previous_hash == model.chain[fork].stored_hash]
        if again and chance.random() < 0.3:  # what was taken off comes back
            blocks = [again[-1]]
        world.advance(blocks, max(model.final, blocks[-1].index - 6))
        if chance.random() < 0.7:
            world.check(world.gone)
    assert world.gone
    world.forks = Forks(store)
    world.check(world.model.sides)


def test_a_reorganisation_says_what_gave_way_to_what(store: DiskStore) -> None:
    world = World(store)
    common = branch(GENESIS, "common", 3)
    before, after = branch(common[-1], "before", 4), branch(common[-1], "after", 5)
    assert world.advance(common, 1) is None
    assert world.advance(before, 1) is None
    move = HeadMoved((segment_of(before[:1]), segment_of(before[1:])), (segment_of(after),))
    found = world.advance(after, 1)
    assert found is not None
    assert world.forks.reorganisations == [found]
    assert found.depth == 4
    for side, blocks in ((found.before, before), (found.after, after)):
        work = sum(work_of(b.header.bits) for b in blocks if is_target(b.header.bits))
        assert (side.index, side.hash, side.work) == (
            blocks[-1].index,
            blocks[-1].stored_hash,
            work,
        )
    assert found.returned is None
    found.count_returned(move)
    assert found.returned == sum(len(b.entries) for b in before) > 0
    found.count_returned(HeadMoved(move.disconnected, (segment_of(before[1:]),)))
    assert found.returned == len(before[0].entries)


def test_what_is_remembered_is_bounded(store: DiskStore) -> None:
    world = World(store)
    for number in range(KEPT_REORGANISATIONS + 50):
        world.advance(branch(GENESIS, f"{number}", 3), 1)
        assert len(world.forks._sides) <= KEPT_SIDES
    kept = world.forks.reorganisations
    assert len(kept) == KEPT_REORGANISATIONS
    assert kept[-1].after.hash == world.model.chain[-1].stored_hash
    world.check(world.gone[-KEPT_SIDES:])
    world.advance(branch(GENESIS, "long", KEPT_SIDES + 90), 1)
    world.advance(branch(GENESIS, "longer", KEPT_SIDES + 92), 1)
    world.check(world.gone[-KEPT_SIDES:])


class Counting(MemoryStore):
    """Counts how often headers are read; and says of some heads that they are higher."""

    reads = 0
    stale: list[Head]

    def headers(self, start: int, stop: int) -> NDArray[np.uint8]:
        self.reads += 1
        return super().headers(start, stop)

    def head(self) -> Head:
        return self.stale.pop() if self.stale else super().head()


@pytest.fixture
def counting() -> Counting:
    store = Counting(segment_of([GENESIS]), mined=True)
    store.stale = []
    return store


def test_the_store_is_read_once_for_each_end_of_the_chain(counting: Counting) -> None:
    world = World(counting)
    world.advance(branch(GENESIS, "one", 2), 1)
    for _ in range(3):
        world.check([])
    assert counting.reads == 1
    gone = world.model.chain[1:]
    move = HeadMoved((segment_of(gone),), (segment_of(branch(GENESIS, "two", 3)),))
    world.model.advance([counting], branch(GENESIS, "two", 3), 1)
    for _ in range(3):
        world.check([])  # of what has moved, we were not told yet
    assert counting.reads == 2
    world.forks.moved(move)
    world.check(gone)
    assert counting.reads == 3


def test_an_end_that_has_just_become_lower_is_looked_up_again(counting: Counting) -> None:
    world = World(counting)
    world.advance(branch(GENESIS, "one", 2), 1)
    counting.stale = [Head(9, bytes(32))]
    world.check([])
    counting.stale = [Head(9, bytes(32))] * 4
    with pytest.raises(DamagedError):
        Forks(counting).tree()
