"""What every store does, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cairn.core.block import Block
from cairn.core.segment import Segment
from cairn.store import runs, sqlite
from cairn.store.interface import Head, Store
from cairn.store.memory import MemoryStore
from cairn.store.sqlite import SqliteStore
from tests.builders import chain, segments

BLOCKS = chain("one", ("a", "b"), {"three": 3}, (), "five", 6, [7], None)

Open = Callable[[list[Segment]], Store]


def open_memory(parts: list[Segment], _directory: Path) -> Store:
    store = MemoryStore(parts[0])
    for part in parts[1:]:
        store.append(part, {})
    return store


def open_sqlite(parts: list[Segment], directory: Path) -> Store:
    SqliteStore.create(directory)
    store = SqliteStore(directory)
    for part in parts:
        store.append(part, {})
    return store


@pytest.fixture(params=[open_memory, open_sqlite], ids=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    opened: list[Store] = []

    def open_one(parts: list[Segment]) -> Store:
        directory = tmp_path / str(len(opened))
        directory.mkdir()
        opened.append(request.param(parts, directory))
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
    monkeypatch.setattr(sqlite, "SCAN_BLOCKS", 3)
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


def test_head_moves_with_every_append(open_store: Open) -> None:
    store = open_store(segments(BLOCKS[:1]))
    for part in segments(BLOCKS, 1, 1, 3, 4)[1:]:
        store.append(part, {})
        assert store.head() == Head(part.stop, part.hashes[-1].tobytes())
        assert store.end() == part.stop


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
