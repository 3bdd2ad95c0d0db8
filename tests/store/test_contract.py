"""What every store does, whatever it is made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cairn.core.block import Block
from cairn.core.canonical import canonical
from cairn.core.entry import Entry
from cairn.core.erasure import Erasure
from cairn.core.errors import DamagedError
from cairn.core.header import Kind
from cairn.core.segment import Segment
from cairn.hashing import best_hasher
from cairn.store import disk, runs, stored_runs
from cairn.store.disk import DiskStore
from cairn.store.flat import Part
from cairn.store.interface import Head, Store
from cairn.store.memory import MemoryStore
from tests.builders import chain, segments
from tests.store.sealed import cut_into_parts, files_of

BLOCKS = chain("one", ("a", "b"), {"three": 3}, (), "five", 6, [7], None)

Open = Callable[[list[Segment]], Store]


def open_memory(parts: list[Segment], _directory: Path) -> Store:
    store = MemoryStore(parts[0])
    for part in parts[1:]:
        store.append(part, {})
    return store


def open_disk(parts: list[Segment], directory: Path) -> Store:
    DiskStore.create(directory)
    store = DiskStore(directory, best_hasher())
    for part in parts:
        store.append(part, {})
    return store


STORES = {
    "memory": (open_memory, None),
    "disk": (open_disk, None),
    "every append in a file": (open_disk, (0, 2**30)),
    "a few blocks in a file": (open_disk, (2, 2**30)),
    "a few bytes in a file": (open_disk, (2**30, 150)),
}
"""How to open a store, and the blocks and bytes that its tail holds."""


@pytest.fixture(params=STORES)
def open_store(
    request: pytest.FixtureRequest, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    opened: list[Store] = []
    make, limits = STORES[request.param]
    if limits is not None:
        monkeypatch.setattr(disk, "SEAL_BLOCKS", limits[0])
        monkeypatch.setattr(disk, "SEAL_BYTES", limits[1])
        cut_into_parts(monkeypatch, 3, 600)

    def open_one(parts: list[Segment]) -> Store:
        directory = memory_path / str(len(opened))
        directory.mkdir()
        opened.append(make(parts, directory))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def blocks_of(store: Store, start: int, stop: int) -> list[Block]:
    return [block for segment in store.scan(start, stop) for block in segment.blocks()]


@pytest.mark.parametrize("sizes", [(9,), (1,) * 9, (1, 8), (4, 1, 4), (2, 3, 4)])
def test_every_range_reads_back_as_it_was_appended(
    open_store: Open, sizes: tuple[int, ...]
) -> None:
    store = open_store(segments(BLOCKS, *sizes))
    for start in range(len(BLOCKS) + 1):
        for stop in range(start, len(BLOCKS) + 3):
            assert blocks_of(store, start, stop) == BLOCKS[start:stop]


def test_scanned_segments_follow_one_another(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_runs, "SCAN_BLOCKS", 3)
    store = open_store(segments(BLOCKS, 1, 1, 2, 1))
    scanned = list(store.scan(0, len(BLOCKS)))
    assert [segment.start for segment in scanned] == [0, *(s.stop for s in scanned[:-1])]
    assert [b for segment in scanned for b in segment.blocks()] == BLOCKS


@pytest.mark.parametrize("sizes", [(9,), (1,) * 9, (2, 3, 4)])
def test_every_block_is_got_by_index_and_found_by_hash(
    open_store: Open, sizes: tuple[int, ...]
) -> None:
    store = open_store(segments(BLOCKS, *sizes))
    for index, block in enumerate(BLOCKS):
        assert store.get(index) == block
        assert store.find(block.stored_hash) == index
    assert store.get(len(BLOCKS)) is None
    assert store.get(10**15) is None
    assert store.find(bytes(32)) is None


def test_a_hash_across_two_hashes_is_not_found(open_store: Open) -> None:
    store = open_store(segments(BLOCKS))
    across = BLOCKS[2].stored_hash[16:] + BLOCKS[3].stored_hash[:16]
    assert store.find(across) is None


@pytest.mark.parametrize("run", [2, 1024])
@pytest.mark.parametrize("sizes", [(9,), (1,) * 9, (1, 8), (4, 1, 4)])
def test_bytes_of_every_range_are_those_of_its_entries(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], run: int
) -> None:
    monkeypatch.setattr(runs, "RUN_BLOCKS", run)
    store = open_store(segments(BLOCKS, *sizes))
    for start in range(len(BLOCKS) + 1):
        for stop in range(start, len(BLOCKS) + 1):
            entries = [entry for block in BLOCKS[start:stop] for entry in block.entries]
            size = sum(len(entry.to_bytes()) for entry in entries)
            assert store.stored_bytes(start, stop) == size
        with pytest.raises(DamagedError):
            store.stored_bytes(start, len(BLOCKS) + 1)


def test_head_moves_with_every_append(open_store: Open) -> None:
    store = open_store(segments(BLOCKS[:1]))
    for part in segments(BLOCKS, 1, 1, 3, 4)[1:]:
        store.append(part, {})
        assert store.head() == Head(part.stop, part.hashes[-1].tobytes())
        assert store.end() == part.stop


def test_parts_hold_what_a_scan_yields(open_store: Open) -> None:
    store = open_store(segments(BLOCKS, 1, 4, 1))
    for start in range(len(BLOCKS)):
        for stop in range(start + 1, len(BLOCKS) + 1):
            read = [
                part.mapped(best_hasher()) if isinstance(part, Part) else part
                for part in store.parts(start, stop)
            ]
            assert [b for segment in read for b in segment.blocks()] == BLOCKS[start:stop]
    store.require_nothing_else()


def test_random_chains_read_back_from_random_cuts(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(12):
        choose = random.Random(seed)
        texts = ["x" * choose.choice([0, 3, 70]) for _ in range(40)]
        contents = [(text,) * choose.choice([0, 1, 5]) if seed % 2 else text for text in texts]
        blocks = chain(*contents)
        monkeypatch.setattr(runs, "RUN_BLOCKS", choose.randint(1, 5))
        cut_into_parts(monkeypatch, choose.randint(1, 9))
        store = open_store(segments(blocks, *choose.choices([1, 1, 2, 3, 6], k=40)))
        for _ in range(12):
            start, stop = sorted(choose.sample(range(len(blocks) + 2), 2))
            assert blocks_of(store, start, stop) == blocks[start:stop]
        for index in choose.sample(range(len(blocks)), 8):
            assert store.get(index) == blocks[index]
            assert store.find(blocks[index].stored_hash) == index
        store.close()


def test_files_hold_what_a_tail_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 3)
    store = open_disk(segments(BLOCKS, 1, 2, 1, 1), tmp_path)
    store.close()
    assert [file.name for file in files_of(tmp_path)] == [
        "000000000000000.segment",  # 1 and 2 fit, 1 more does not
        "000000000000004.segment",  # 1 fits, and all that is left goes at once
    ]


def test_keys_are_remembered_with_their_positions(open_store: Open) -> None:
    store = open_store(segments(BLOCKS[:1]))
    store.append(segments(BLOCKS, 1, 2, 6)[1], {"first": range(1, 2), "é😀'\"": range(2, 6)})
    assert [store.recall(key) for key in ("first", "é😀'\"", "other")] == [
        range(1, 2),
        range(2, 6),
        None,
    ]


def test_runs_are_cut_by_blocks_and_bytes(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "RUN_BLOCKS", 4)
    monkeypatch.setattr(runs, "RUN_BYTES", 60)
    blocks = chain(*("x" * (i * 7 % 90) for i in range(40)))
    store = open_store(segments(blocks, 1, 30))
    assert blocks_of(store, 0, 99) == blocks


def test_closing_twice_is_fine(open_store: Open) -> None:
    store = open_store(segments(BLOCKS))
    store.close()
    store.close()


def test_an_erased_entry_is_zeros_and_nothing_else_changes(open_store: Open) -> None:
    for position, block in enumerate(BLOCKS):
        if block.kind != "value":
            continue
        store = open_store(segments(BLOCKS, 1, 4, 1))
        erasure = Erasure(position, block.header.data_root, "why not")
        entry = Entry(bytes(range(16)), canonical(erasure.to_value()))
        last = BLOCKS[-1]
        record = Block.of(
            Kind.RECORD,
            entry,
            index=len(BLOCKS),
            previous_hash=last.stored_hash,
            timestamp=last.header.timestamp,
        )
        store.append(Segment.from_blocks(len(BLOCKS), [record]), {}, position)
        store.finish_erasing()
        assert store.erasing() == {}
        left = tuple(Entry(bytes(16), bytes(len(entry.canonical))) for entry in block.entries)
        expected = [*BLOCKS, record]
        expected[position] = replace(block, entries=left)
        assert blocks_of(store, 0, len(expected)) == expected
        assert [store.get(i) for i in range(len(expected))] == expected
        assert store.find(block.stored_hash) == position
        assert store.finish_erasing() == {}
