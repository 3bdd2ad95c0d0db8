"""Random and exhaustive histories of work ledgers, against lists of blocks and a plain search.

Beside the store that advances, another one of the same directory reads, as other processes do.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from cairn.core.block import Block
from cairn.core.tree import WIDTH, as_hashes, subtree_roots
from cairn.hashing import best_hasher
from cairn.store import disk, runs, stored_runs
from cairn.store.disk import DiskStore
from cairn.store.memory import MemoryStore
from tests.store.branches import GENESIS, Model, branch, segment_of
from tests.store.sealed import cut_into_parts, files_of


class Both:
    """A store in memory, one on disk that can be opened again, and one that reads beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.model = Model()
        self.memory = MemoryStore(segment_of([GENESIS]), mined=True)
        self.disk = self._opened(read_only=False)
        self.reader = self._opened(read_only=True)

    def _opened(self, *, read_only: bool) -> DiskStore:
        return DiskStore(self.directory, best_hasher(), read_only=read_only)

    def reopen(self) -> None:
        self.disk.close()
        self.disk = self._opened(read_only=False)

    def advance(self, blocks: list[Block], final: int) -> None:
        self.model.advance((self.memory, self.disk), blocks, final)

    def look(self, index: int) -> None:
        """Let the indexes in memory be as they are now."""
        block = self.model.seen[index % len(self.model.seen)]
        for store in (self.memory, self.disk, self.reader):
            is_there = block in self.model.chain
            assert store.find(block.stored_hash) == (block.index if is_there else None)
            for entry in block.entries:
                assert bool(store.find_entry(entry.id)) == is_there

    def check(self, every: int = 1) -> None:
        for store in (self.memory, self.disk, self.reader):
            self.model.check(store, every)

    def close(self) -> None:
        for store in (self.disk, self.reader):
            store.close()


@pytest.fixture
def open_both(memory_path: Path) -> Iterator[Callable[[], Both]]:
    template = memory_path / "template"
    template.mkdir()
    DiskStore.create(template)
    with closing(DiskStore(template, best_hasher())) as store:
        Model().begin(store)
    opened: list[Both] = []

    def open_one() -> Both:
        if opened:
            last = opened.pop()
            last.close()
            shutil.rmtree(last.directory)
        opened.append(Both(shutil.copytree(template, memory_path / "ledger")))
        return opened[0]

    yield open_one
    opened[0].close()


def small(patch: pytest.MonkeyPatch, blocks: int, size: int, run: int) -> None:
    patch.setattr(disk, "SEAL_BLOCKS", blocks)
    patch.setattr(disk, "SEAL_BYTES", size)
    patch.setattr(runs, "RUN_BLOCKS", run)
    patch.setattr(stored_runs, "SCAN_BLOCKS", run + 1)
    cut_into_parts(patch, 3, 600)


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(6, 300))]
)
def test_random_histories(
    seed: int, open_both: Callable[[], Both], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = random.Random(seed)
    sizes = choose.choice([2**30, 1, 3, 6]), choose.choice([2**30, 2**30, 100, 400])
    small(monkeypatch, *sizes, choose.choice([2, 3, 1024]))
    both = open_both()
    model = both.model
    for step in range(30):
        height = len(model.chain)
        start = choose.choice([height, height, choose.randint(model.final, height)])
        before = model.chain[start - 1]
        kind = choose.random()
        back = [b for b in model.sides if b.previous_hash == before.hash]
        if kind < 0.1:
            both.reopen()
            continue
        if kind < 0.3 and back:  # to a branch that was left
            blocks = [choose.choice(back)]
            while more := [b for b in model.sides if b.previous_hash == blocks[-1].hash]:
                blocks.append(choose.choice(more))
            blocks += branch(blocks[-1], f"{step}", choose.choice([0, 0, 1, 2]))
        else:
            length = choose.choice([1, 1, 2, 5, 9])
            blocks = branch(before, f"{step}", length, entries=choose.choice([0, 1, 4]))
        stop = blocks[-1].index + 1
        lag = choose.choice([0, 2, 2, 5, 100])
        both.advance(blocks, max(model.final, min(stop - lag, stop)))
        if choose.random() < 0.5:
            both.look(choose.randrange(1000))
        if choose.random() < 0.2:
            both.check(9)
    both.check(2)
    both.reopen()
    both.check(9)


STEPS = list(product((0, 1, 2), (1, 2), (0, 9)))
"""How many blocks a step takes off, and adds, and how many more are final then, at most."""
SMALL = {"everything stays": (2**30, 2**30), "every final block goes": (1, 2**30)}


@pytest.mark.parametrize("sizes", SMALL)
@pytest.mark.parametrize("length", [2, pytest.param(3, marks=pytest.mark.soak)])
def test_every_history_of_a_few_steps(
    length: int,
    sizes: str,
    open_both: Callable[[], Both],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small(monkeypatch, *SMALL[sizes], 2)
    for history in product(STEPS, repeat=length):
        both = open_both()
        model = both.model
        both.advance(branch(GENESIS, "first", 3, entries=1), 2)
        for number, (off, on, more) in enumerate(history):
            start = max(len(model.chain) - off, model.final)
            blocks = branch(model.chain[start - 1], f"{number}", on, entries=1)
            both.advance(blocks, min(model.final + more, start + on))
            both.look(number)
        both.check()


def test_nodes_of_the_tree_are_kept_of_final_blocks_alone(
    open_both: Callable[[], Both], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of hundreds of blocks, a part of which is replaced again and again."""
    choose = random.Random(3)
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 300)
    store, chain, final = open_both().disk, [GENESIS], 1
    spare = branch(GENESIS, "long", 1200)
    while len(chain) < 1100:
        at = len(chain)
        if choose.random() < 0.3 and final < at:
            at = choose.randint(final, at)
            blocks = branch(chain[at - 1], f"{len(chain)}", 3)
        elif chain[-1] in spare:
            blocks = spare[at - 1 : at - 1 + choose.choice([1, 60, 255, 300])]
        else:
            blocks = branch(chain[-1], f"{len(chain)}", choose.choice([1, 70, 256]))
        chain[at:] = blocks
        final = choose.randint(max(final, len(chain) - 20), len(chain))
        store.advance(segment_of(blocks), work=0, final=final)
        hashes = as_hashes(b"".join(b.stored_hash for b in chain[:final]))
        expected = subtree_roots(hashes, best_hasher()) if final >= WIDTH else as_hashes(b"")
        assert np.array_equal(store.nodes(1, 0, 99), expected)
    assert len(files_of(store.directory)) > 1
