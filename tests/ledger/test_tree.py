"""The tree over stored blocks, against plain lists: from memory, runs, files and kept nodes."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cairn.core import proofs
from cairn.core.errors import DamagedError, ProofError
from cairn.core.header import LINK
from cairn.core.merkle import node_hash, tree_hash
from cairn.core.segment import Segment
from cairn.core.tree import WIDTH
from cairn.hashing import best_hasher
from cairn.ledger import tree as trees
from cairn.ledger.tree import Tree
from cairn.store.directory import FILE_NAME
from cairn.store.disk import DiskStore
from cairn.store.memory import MemoryStore
from tests.builders import chain, segments
from tests.ledger.conftest import tiny

MOST = 200_000
HASHES: NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, (MOST, 32), np.uint8)
"""Of blocks, as far as a tree is concerned."""
LEVELS: list[list[bytes]] = [[row.tobytes() for row in HASHES]]
while len(below := LEVELS[-1]) > 1:
    LEVELS.append([node_hash(*below[i : i + 2]) for i in range(0, len(below) - 1, 2)])
BIG = (65_279, 65_535, 65_536, 65_537, 65_792, 70_000)
HASHER = best_hasher()


def node(level: int, index: int) -> bytes:
    """Return a node of the tree, from plain lists: full ones are the same in every tree."""
    return LEVELS[level][index]


def columns(start: int, stop: int) -> Segment:
    """Return blocks of no entries, with hashes that a tree may be made of; each links rightly."""
    headers = np.zeros((stop - start, 104), np.uint8)
    headers[1:, LINK] = HASHES[start : stop - 1]
    if start:
        headers[0, LINK] = HASHES[start - 1]
    return Segment(
        start, headers, HASHES[start:stop], np.zeros(0, np.uint8), np.zeros(1, np.uint64)
    )


def in_memory(size: int) -> MemoryStore:
    return MemoryStore(columns(0, size))


@contextmanager
def on_disk(path: Path, size: int, *, seal: int, at_once: int) -> Iterator[DiskStore]:
    path.mkdir()
    DiskStore.create(path)
    with tiny(seal=seal, part=seal), closing(DiskStore(path, HASHER)) as store:
        for start in range(0, size, at_once):
            store.append(columns(start, min(start + at_once, size)), {})
        yield store


def some_indexes(size: int, count: int, seed: int = 0) -> list[int]:
    """Return places in a tree, the ends of tiles among them, in no order and some twice."""
    chance = random.Random(size + seed)
    edges = {0, 1, 255, 256, 257, 65_535, 65_536, size // 256 * 256 - 1, size // 256 * 256}
    found = [i for i in (*edges, size - 2, size - 1) if 0 <= i < size]
    found += chance.choices(range(size), k=count)
    chance.shuffle(found)
    return found


def check_all(tree: Tree, size: int, indexes: Sequence[int]) -> None:
    """Hold everything that a tree says of itself to plain lists."""
    assert tree.root(size) == proofs.root(size, node)
    expected = [proofs.prove_inclusion(index, size, node) for index in indexes]
    assert list(tree.prove_inclusions(indexes, size, tree.root(size))) == expected
    for index, proof in list(zip(indexes, expected, strict=True))[:20]:
        assert tree.prove_inclusion(index, size) == proof
        assert tree.prove_consistency(index, size) == proofs.prove_consistency(index, size, node)


# From memory


@pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
def test_roots_of_all_sizes_are_those_of_plain_lists_in_any_order(order: str) -> None:
    """One tree is asked for all: what it holds of one size must not spoil another."""
    sizes = list(range(601))
    if order == "falling":
        sizes.reverse()
    if order == "shuffled":
        random.Random(1).shuffle(sizes)
    tree = Tree(in_memory(600), HASHER)
    for size in sizes:
        assert tree.root(size) == proofs.root(size, node)
        if size:
            index = size * 7 % size if size % 2 else size - 1
            assert tree.prove_inclusion(index, size) == proofs.prove_inclusion(index, size, node)
            assert tree.prove_consistency(index, size) == proofs.prove_consistency(
                index, size, node
            )


@pytest.mark.parametrize("size", [*range(1, 18), 127, 128, 129, *range(254, 259), 511, 512, 513])
def test_all_blocks_are_proved_in_bulk_as_one_by_one(size: int) -> None:
    tree = Tree(in_memory(600), HASHER)
    check_all(tree, size, range(size))
    check_all(tree, size, some_indexes(size, 40))


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1, 601, 50))
def test_all_blocks_of_all_sizes_are_proved_in_bulk_as_one_by_one(first: int) -> None:
    for size in range(first, min(first + 50, 601)):
        check_all(Tree(in_memory(size), HASHER), size, range(size))


@pytest.mark.parametrize("size", [*BIG, 131_072, MOST])
def test_blocks_of_large_trees_are_proved_in_bulk_as_one_by_one(size: int) -> None:
    check_all(Tree(in_memory(size), HASHER), size, some_indexes(size, 300))


def test_blocks_of_trees_of_random_sizes_are_proved() -> None:
    chance, tree = random.Random(5), Tree(in_memory(MOST), HASHER)
    for _ in range(8):
        size = chance.randrange(1, MOST)
        check_all(tree, size, some_indexes(size, 30))


def test_bulk_that_is_done_in_small_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit is met, and what is held is dropped all the time."""
    limits = {
        "BULK_PROOFS": 7,
        "BULK_TILES": 2,
        "BULK_HASHES": 512,
        "KEPT_TILES": 2,
        "KEPT_NODES": 3,
    }
    for name, limit in limits.items():
        monkeypatch.setattr(trees, name, limit)
    for size in (1, 255, 257, 3000, 65_537):
        check_all(Tree(in_memory(size), HASHER), size, some_indexes(size, 10)[:6])


def test_tree_grows_with_its_store() -> None:
    store = MemoryStore(columns(0, 1))
    tree, size = Tree(store, HASHER), 1
    for more in (1, 2, 252, 1, 255, 256, 257, 64_000, 511, 1, 3000):
        check_all(tree, size, some_indexes(size, 5))
        store.append(columns(size, size + more), {})
        size += more
    check_all(tree, size, some_indexes(size, 5))


def test_nothing_is_proved_of_no_blocks() -> None:
    tree = Tree(in_memory(300), HASHER)
    for size in (300, 0):
        assert list(tree.prove_inclusions([], size, tree.root(size))) == []
    assert tree.root(0) == sha256().digest()


@pytest.mark.parametrize("indexes", [[-1], [300], [5, 300], [5, -1], [2**62], [2**63]])
def test_block_that_is_not_in_the_tree_is_refused(indexes: list[int]) -> None:
    tree = Tree(in_memory(400), HASHER)
    with pytest.raises(ProofError, match="is not in a tree of 300"):
        list(tree.prove_inclusions(indexes, 300, tree.root(300)))
    with pytest.raises(ProofError, match="is not in a tree of 300"):
        tree.prove_inclusion(indexes[-1], 300)


# From a real ledger's blocks, runs, files and kept nodes


def test_hashes_of_real_blocks_are_the_leaves(tmp_path: Path) -> None:
    blocks = chain(*range(40))
    leaves = [block.stored_hash for block in blocks]
    tmp_path = tmp_path / "ledger"
    tmp_path.mkdir()
    DiskStore.create(tmp_path)
    with tiny(seal=7, part=3), closing(DiskStore(tmp_path, HASHER)) as store:
        for segment in segments(blocks, 3, 1, 9, 2, 2, 5, 12):
            store.append(segment, {})
        tree = Tree(store, HASHER)
        for size in range(1, 42):
            assert tree.root(size) == tree_hash(leaves[:size])
            for index, proof in enumerate(
                tree.prove_inclusions(range(size), size, tree.root(size))
            ):
                proofs.check_inclusion(proof, index, size, leaves[index], tree.root(size))


LAYOUTS = [
    (257, 100, 33),  # blocks, of which a tail holds so many, appended so many at once
    (1500, 256, 256),
    (1500, 255, 85),
    (1537, 300, 299),
    (2000, 100, 1),
    (2000, 4, 700),  # every append is a file
    (3000, 10_000, 999),  # none is
]


@pytest.mark.parametrize(("size", "seal", "at_once"), LAYOUTS)
def test_blocks_are_proved_from_files_runs_and_kept_nodes(
    tmp_path: Path, size: int, seal: int, at_once: int
) -> None:
    at_once = max(at_once, 7)  # a few hundred transactions would only take time
    with on_disk(tmp_path / "l", size, seal=seal, at_once=at_once) as store:
        sealed = max((part.stop for part in store._tail.sealed()), default=0)
        assert len(store.nodes(1, 0, 10**6)) == size // WIDTH
        for kept in (True, False):
            tree = Tree(store, HASHER, kept=kept)
            for some in (size, sealed, sealed + 1, sealed - 1, size - 1, size // 2, 256, 257):
                if 0 < some <= size:
                    check_all(tree, some, some_indexes(some, 40))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiskStore]:
    """65,536 blocks and some in files, with kept nodes of two levels; the last ones in the tail."""
    path = tmp_path_factory.mktemp("large") / "l"
    with on_disk(path, 70_000, seal=9_000, at_once=2_500) as store:
        yield store


def test_blocks_of_a_large_ledger_are_proved(large: DiskStore) -> None:
    assert len(large.nodes(1, 0, 10**6)) > 256
    assert len(large.nodes(2, 0, 10**6)) == 1
    for kept in (True, False):
        tree = Tree(large, HASHER, kept=kept)
        for size in BIG:
            check_all(tree, size, some_indexes(size, 100))


def test_blocks_that_are_not_there_are_missed(large: DiskStore) -> None:
    tree = Tree(large, HASHER)
    with pytest.raises(DamagedError, match="is missing"):
        tree.root(70_001)
    with pytest.raises(DamagedError, match="is missing"):
        list(tree.prove_inclusions([1], 70_257, bytes(32)))


# Kept nodes that are not right


@contextmanager
def changed(store: DiskStore, statement: str, *values: Any) -> Iterator[None]:
    """Change the nodes in the database of a store, and put them back."""
    with closing(sqlite3.connect(store.directory / FILE_NAME)) as connection:
        right = connection.execute("SELECT * FROM nodes").fetchall()
        with connection:
            assert connection.execute(statement, values).rowcount > 0
        try:
            yield
        finally:
            with connection:
                connection.execute("DELETE FROM nodes")
                connection.executemany("INSERT INTO nodes VALUES (?, ?, ?)", right)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM nodes",
        "DELETE FROM nodes WHERE level = 1",
        "DELETE FROM nodes WHERE level = 2",
        "DELETE FROM nodes WHERE number % 2",
        "DELETE FROM nodes WHERE number = 0",
        "DELETE FROM nodes WHERE level = 1 AND number > 3",
        "UPDATE nodes SET hash = x'' WHERE number = 1",
        "UPDATE nodes SET hash = substr(hash, 1, 31) WHERE number % 3 = 0",
        "UPDATE nodes SET hash = CAST(hash || x'00' AS BLOB)",
    ],
)
def test_kept_nodes_that_are_missing_are_made_again(large: DiskStore, statement: str) -> None:
    with changed(large, statement):
        for size in (65_536, 70_000):
            check_all(Tree(large, HASHER), size, some_indexes(size, 30))


def check_damaged(store: DiskStore, size: int, suspects: Sequence[int]) -> None:
    """Ask for proofs in bulk: each is right, or none is given."""
    right = proofs.root(size, node)
    for indexes in (suspects, range(0, size, 997)):
        with suppress(DamagedError):
            given = list(Tree(store, HASHER).prove_inclusions(indexes, size, right))
            assert given == [proofs.prove_inclusion(index, size, node) for index in indexes]
    with pytest.raises(DamagedError, match="does not lead to its root"):
        list(Tree(store, HASHER).prove_inclusions([*suspects, *range(0, size, 97)], size, right))
    check_all(Tree(store, HASHER, kept=False), size, some_indexes(size, 30))


@pytest.mark.parametrize(
    ("level", "number"), [(1, 0), (1, 1), (1, 100), (1, 255), (1, 256), (2, 0)]
)
def test_altered_kept_node_never_gives_a_wrong_proof_in_bulk(
    large: DiskStore, level: int, number: int
) -> None:
    below = range(number * 256**level, (number + 1) * 256**level, 97)
    statement = "UPDATE nodes SET hash = randomblob(32) WHERE level = ? AND number = ?"
    with changed(large, statement, level, number):
        check_damaged(large, 70_000, below)


def test_kept_nodes_that_were_exchanged_never_give_a_wrong_proof_in_bulk(large: DiskStore) -> None:
    swap = """UPDATE nodes SET hash = (SELECT hash FROM nodes AS other
        WHERE other.level = 1 AND other.number = 9 - nodes.number)
        WHERE level = 1 AND number IN (4, 5)"""
    with changed(large, swap):
        check_damaged(large, 70_000, [4 * 256 + 7, 5 * 256, 6 * 256])


# Many at once


def run_together(work: Iterable[Any]) -> None:
    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(*some) for some in work]:
            done.result(120)


def test_many_threads_ask_one_tree_that_holds_little(
    large: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "KEPT_TILES", 3)
    monkeypatch.setattr(trees, "KEPT_NODES", 20)
    with changed(large, "DELETE FROM nodes WHERE number > 40"):
        tree = Tree(large, HASHER)
        sizes = [*BIG, 1, 256, 257, 9_000, 67_500, 10_001]
        run_together(
            (check_all, tree, size, some_indexes(size, 4, seed))
            for seed in (1, 2, 3)
            for size in sizes
        )


def test_many_threads_ask_while_blocks_are_appended_and_sealed(tmp_path: Path) -> None:
    with on_disk(tmp_path / "l", 100, seal=150, at_once=100) as store:
        tree = Tree(store, HASHER)

        def ask(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(25):
                size = chance.randrange(1, store.head().length + 1)
                check_all(tree, size, chance.choices(range(size), k=3))

        def append() -> None:
            for start in range(100, 2900, 70):
                store.append(columns(start, start + 70), {})

        run_together([(append,), *((ask, seed) for seed in range(10))])
        check_all(tree, 2900, some_indexes(2900, 100))
        check_all(Tree(store, HASHER), 2900, some_indexes(2900, 100))
