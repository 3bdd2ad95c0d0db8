"""What every store of a work ledger does: blocks come, and go again, down to the final ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from cairn import StoreError, UsageError
from cairn.core.merkle import leaf_hash
from cairn.hashing import best_hasher
from cairn.store import disk, runs, stored_runs
from cairn.store.disk import DiskStore
from cairn.store.hash_index import HashIndex
from cairn.store.interface import Pooled, Store
from cairn.store.memory import MemoryStore
from tests.builders import chain, segments
from tests.store.branches import GENESIS, Model, branch, segment_of, side_blocks, with_entries
from tests.store.sealed import cut_into_parts

A = branch(GENESIS, "a", 12)
"""A chain, and others that leave it after so many of its blocks."""
B = {height: branch([GENESIS, *A][height], "b", 12) for height in range(12)}

Open = Callable[[], Store]
LIMITS = {
    "memory": None,
    "disk": (2**30, 2**30),
    "every final block in a file": (1, 2**30),
    "a few blocks in a file": (3, 2**30),
    "a few bytes in a file": (2**30, 150),
}
"""The final blocks and bytes that a tail holds at most."""


@pytest.fixture(params=LIMITS)
def open_store(
    request: pytest.FixtureRequest, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    """Open the same store again and again, but for one in memory, which is opened once."""
    limits = LIMITS[request.param]
    if limits is None:
        store = MemoryStore(segment_of([GENESIS]), mined=True)
        yield lambda: store
        return
    monkeypatch.setattr(disk, "SEAL_BLOCKS", limits[0])
    monkeypatch.setattr(disk, "SEAL_BYTES", limits[1])
    cut_into_parts(monkeypatch, 3, 600)
    DiskStore.create(memory_path)
    opened: list[Store] = []

    def open_one() -> Store:
        if opened:
            opened.pop().close()
        opened.append(DiskStore(memory_path, best_hasher()))
        if opened[0].head().length == 0:
            Model().begin(opened[0])
        return opened[0]

    yield open_one
    opened[0].close()


def test_a_chain_grows_and_its_work_and_final_blocks_are_recorded(open_store: Open) -> None:
    store, model = open_store(), Model()
    model.check(store)
    for at in range(0, 12, 3):
        model.advance([store], A[at : at + 3], max(at - 1, 1))
        model.check(store)
    model.check(open_store())


def test_every_reorganisation_leaves_the_new_chain_and_keeps_the_old_blocks(
    open_store: Open,
) -> None:
    """Of every depth and length, in one piece or block by block, and back again."""
    store, model = open_store(), Model()
    model.advance([store], A[:3], 3)
    for height, length in product(range(2, 6), range(1, 5)):
        model.advance([store], B[height][:length], 3)
        model.check(store)
        model.advance([store], A[2:6], 3)
        model.check(store)
    model.advance([store], A[6:10], 10)
    model.check(store)
    assert side_blocks(store) == []


def test_blocks_that_come_back_are_side_blocks_no_more(open_store: Open) -> None:
    store, model = open_store(), Model()
    model.advance([store], A[:4], 1)
    model.advance([store], B[2][:3], 1)
    assert side_blocks(store) == A[2:4]
    model.advance([store], A[2:5], 1)
    assert [b.index for b in side_blocks(store)] == [3, 4, 5]
    model.check(store)


def test_side_blocks_go_when_their_place_is_final(open_store: Open) -> None:
    store, model = open_store(), Model()
    model.advance([store], A[:4], 1)
    model.advance([store], B[2][:4], 4)
    assert side_blocks(store) == A[3:4]
    model.advance([store], branch(model.chain[-1], "c", 1), 5)
    assert side_blocks(store) == []


def test_runs_of_side_blocks_are_as_long_as_they_can_be(open_store: Open) -> None:
    store, model = open_store(), Model()
    model.advance([store], A[:5], 1)
    model.advance([store], branch(A[2], "fork", 3), 1)
    model.advance([store], B[1][:7], 1)
    model.check(store)
    runs = sorted((run.start, run.stop) for run in store.sides())
    assert runs in ([(2, 6), (4, 7)], [(2, 7), (4, 6)])


def test_what_does_not_follow_a_stored_block_is_refused_and_nothing_is_written(
    open_store: Open,
) -> None:
    store, model = open_store(), Model()
    model.advance([store], A[:5], 2)
    for blocks in (A[6:8], B[4][1:2], B[3][1:3], B[2][3:5], B[5][6:8]):
        with pytest.raises(StoreError, match="follow"):
            store.advance(segment_of(blocks), work=99, final=2)
        model.check(store)


def test_final_blocks_stay_and_their_number_never_falls(open_store: Open) -> None:
    store, model = open_store(), Model()
    model.advance([store], A[:5], 4)
    for blocks, final in (
        (B[2][:6], 4),  # block 3 is final
        ([GENESIS, *A[:9]], 4),
        (A[5:7], 3),
        (A[5:7], 9),
        (B[3][:1], 6),
    ):
        with pytest.raises(UsageError, match="final"):
            store.advance(segment_of(blocks), work=99, final=final)
        model.check(store)
    for work in (-1, 2**256):
        with pytest.raises(UsageError, match="work"):
            store.advance(segment_of(A[5:7]), work=work, final=4)
    store.advance(segment_of(A[5:7]), work=2**256 - 1, final=7 + 1)
    assert (store.work(), store.final()) == (2**256 - 1, 8)


def seal_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 4)
    monkeypatch.setattr(runs, "RUN_BLOCKS", 2)
    monkeypatch.setattr(stored_runs, "SCAN_BLOCKS", 2)


def test_final_blocks_of_an_overgrown_tail_are_sealed_a_file_an_advance(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal_small_files(monkeypatch)
    DiskStore.create(memory_path)
    model, blocks = Model(), branch(GENESIS, "a", 40)
    with closing(DiskStore(memory_path, best_hasher())) as store:
        model.begin(store)
        model.advance([store], blocks[:30], 1)
    for number in range(4):
        with closing(DiskStore(memory_path, best_hasher())) as store:
            model.advance([store], [blocks[30 + number]], 29)
            model.check(store, 5)
            ends = [sealed.stop for sealed in store._tail.sealed()]
            assert ends == [9, 19, 29][: number + 1], "two files' worth, and a run or so"
            assert store._tail.begin() == ends[-1]


def test_what_is_sealed_of_an_overgrown_tail_costs_no_search_a_look_at_the_rest(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal_small_files(monkeypatch)
    DiskStore.create(memory_path)
    model, blocks, read = Model(), branch(GENESIS, "a", 40), list[int]()
    with closing(DiskStore(memory_path, best_hasher())) as store:
        model.begin(store)
        model.advance([store], blocks[:30], 1)
        model.check(store, 5)
        add = HashIndex.add

        def count(index: HashIndex, positions: Any, hashes: Any) -> None:
            read.append(len(hashes))
            add(index, positions, hashes)

        monkeypatch.setattr(HashIndex, "add", count)
        for block in blocks[30:34]:
            model.advance([store], [block], 25)
            model.check(store, 5)
            assert sum(read) <= 1 + len(block.entries), "the new block, and no more"
            read.clear()
        assert store._tail.begin() == 25


def test_a_work_ledger_is_not_appended_to_and_an_instant_one_does_not_advance(
    open_store: Open, memory_path: Path
) -> None:
    store, model = open_store(), Model()
    with pytest.raises(UsageError):
        store.append(segment_of(A[:1]), {})
    model.check(store)
    blocks = chain("one", ("a", "b"), "one", ("c",))
    others: list[Store] = [MemoryStore(segments(blocks)[0])]
    (memory_path / "instant").mkdir()
    DiskStore.create(memory_path / "instant")
    others.append(DiskStore(memory_path / "instant", best_hasher()))
    with closing(others[1]):
        assert others[1].final() == 0
        others[1].append(segments(blocks)[0], {})
        for other in others:
            with pytest.raises(UsageError):
                other.advance(segment_of(A[:1]), work=1, final=1)
            assert (other.head().length, other.work(), other.final()) == (5, 0, 5)
            assert list(other.sides()) == []
            for block in blocks:
                for place, entry in enumerate(block.entries):
                    assert other.find_entry(entry.id) == [(block.index, place)]
            assert other.find_entry(bytes(32)) == []


def test_an_entry_is_found_wherever_it_is_mined(open_store: Open) -> None:
    """Also twice: in two blocks, or in one."""
    store = open_store()
    first = branch(GENESIS, "a", 4, entries=5)
    twice = next(b for b in first if len(b.entries) > 2).entries[1]
    last = branch(first[-1], "again", 3, entries=5)
    again = with_entries(last[-1], (*last[-1].entries, twice, twice))
    store.advance(segment_of(first), work=1, final=1)
    (place,) = store.find_entry(twice.id)
    store.advance(segment_of([*last[:-1], again]), work=2, final=1)
    n = len(last[-1].entries)
    assert store.find_entry(twice.id) == [place, (7, n), (7, n + 1)]
    more = branch(again, "more", 5)
    store.advance(segment_of(more[:3]), work=3, final=10)
    store.advance(segment_of(more[3:]), work=3, final=12)
    assert store.find_entry(twice.id) == [place, (7, n), (7, n + 1)]
    assert open_store().find_entry(twice.id) == [place, (7, n), (7, n + 1)]


# The pool, and peers


def pooled(number: int) -> Pooled:
    entry = b"salt and JSON %d" % number * 20
    return Pooled(leaf_hash(entry), entry, 1_700_000_000_000_000 + number)


def test_the_pool_keeps_entries_in_the_order_in_which_they_came(open_store: Open) -> None:
    store = open_store()
    assert store.pool() == []
    store.pool_add([pooled(3), pooled(1)])
    store.pool_add([pooled(2), pooled(1)._replace(received=5), pooled(4)])
    assert store.pool() == [pooled(n) for n in (3, 1, 2, 4)]
    assert [store.pool_has(pooled(n).id) for n in (0, 1, 3)] == [False, True, True]
    store.pool_remove([pooled(4).id, pooled(3).id, bytes(32)])
    store.pool_add([])
    store.pool_add([pooled(3)])
    store.pool_remove([])
    assert store.pool() == [pooled(n) for n in (1, 2, 3)]
    Model().check(store)
    assert open_store().pool() == [pooled(n) for n in (1, 2, 3)]


def test_the_key_of_an_entry_is_remembered_when_the_entry_is_not_pooled_any_more(
    open_store: Open,
) -> None:
    store = open_store()
    store.pool_add([pooled(1), pooled(2)], "one")
    store.pool_add([pooled(1), pooled(3)], "é😀'\"")
    store.pool_remove([pooled(n).id for n in range(9)])
    for _ in range(2):
        assert [store.pool_key(key) for key in ("one", "é😀'\"", "other")] == [
            pooled(1).id,
            pooled(1).id,
            None,
        ]
        assert store.pool() == []
        store = open_store()


def test_a_key_that_is_known_is_never_moved(open_store: Open) -> None:
    store = open_store()
    store.pool_add([pooled(1)], "one")
    for entries, key in (([pooled(2)], "one"), ([pooled(1)], "one"), ([], "two")):
        with pytest.raises(UsageError):
            store.pool_add(entries, key)
    assert (store.pool(), store.pool_key("one")) == ([pooled(1)], pooled(1).id)
    assert store.pool_key("two") is None


def test_the_addresses_are_those_that_were_set_last(open_store: Open) -> None:
    store = open_store()
    assert store.addresses() == []
    for urls in (["ws://b:1", "wss://a:2"], ["ws://c:3", "wss://a:2"]):
        store.set_addresses(urls)
        assert store.addresses() == urls
    store = open_store()
    assert store.addresses() == ["ws://c:3", "wss://a:2"]
    store.set_addresses([])
    assert store.addresses() == []
