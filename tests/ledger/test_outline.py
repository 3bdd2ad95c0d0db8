"""What charts are made of, held to a slow obvious reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from cairn import Ledger
from cairn.core.block import Block
from cairn.core.errors import DamagedError
from cairn.core.genesis import Genesis, Work
from cairn.hashing import best_hasher
from cairn.ledger import outline as outlines
from cairn.ledger.outline import Outline, Outliner, Sample, positions
from cairn.store import disk
from cairn.store.disk import DiskStore
from cairn.store.interface import Store
from cairn.store.memory import MemoryStore
from tests.builders import chain, mined, segments
from tests.ledger.conftest import files, tail
from tests.store.branches import segment_of
from tests.store.sealed import database
from tests.store.test_disk import Between

VALUES = chain(*range(4), "longer than the others", None, *(["x"] * i for i in range(8)))
BATCHES = chain("one", ("a", "b"), (), (3,), *((i,) * (i % 3) for i in range(7)), "last")
POINTS = (1, 2, 3, 4, 7, 8, 100)
SEALS = (1, 3, 5, 100)
"""Blocks that a tail holds, at most."""


def expected(blocks: list[Block], points: int) -> Outline:
    """Return the outline of blocks by adding up all of them."""
    before, samples = 0, []
    wanted = set(positions(len(blocks), points))
    for position, block in enumerate(blocks):
        if position in wanted:
            samples.append(Sample(position, block.header.timestamp, before, block.header.bits))
        before += sum(len(entry.to_bytes()) for entry in block.entries)
    return Outline(tuple(samples), len(blocks), before, complete=True)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., DiskStore]]:
    """Make a store of blocks, sealed in so small files, that were appended so many at once."""
    opened: list[DiskStore] = []

    def make(blocks: list[Block], *, seal: int = 100, at_once: int = 1) -> DiskStore:
        monkeypatch.setattr(disk, "SEAL_BLOCKS", seal)
        path = tmp_path / str(len(opened))
        path.mkdir()
        DiskStore.create(path)
        opened.append(store := DiskStore(path, best_hasher()))
        for start in range(0, len(blocks), at_once):
            store.append(segment_of(blocks[start : start + at_once]), {})
        return store

    yield make
    for store in opened:
        store.close()


def test_positions_are_genesis_head_and_few_between() -> None:
    for length in range(200):
        for points in range(1, 40):
            found = positions(length, points)
            assert found == sorted(set(found))
            assert len(found) <= points + 1
            assert len(found) >= min(length, points / 2)
            assert {0, length - 1} <= set(found) if length else not found


def test_a_grown_ledger_is_sampled_where_it_was_before() -> None:
    for length in range(1, 300):
        before, now = set(positions(length, 8)), set(positions(length + 1, 8))
        kept = now - {length}
        assert kept <= before


@pytest.mark.parametrize("blocks", [VALUES, BATCHES], ids=["values", "batches"])
@pytest.mark.parametrize("seal", SEALS)
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_every_ledger_is_outlined_as_by_reading_all_of_it(
    make: Callable[..., DiskStore], blocks: list[Block], seal: int, at_once: int
) -> None:
    for length in range(1, len(blocks) + 1, 3):
        for store in (
            make(blocks[:length], seal=seal, at_once=at_once),
            MemoryStore(segments(blocks[:length])[0]),
        ):
            for points in POINTS:
                assert Outliner(store).outline(points) == expected(blocks[:length], points)


@pytest.mark.parametrize("seal", SEALS)
def test_what_is_remembered_is_what_would_be_read_again(
    make: Callable[..., DiskStore], seal: int
) -> None:
    store = make(BATCHES[:1], seal=seal)
    outliner = Outliner(store)
    for length in range(1, len(BATCHES)):
        for points in (3, 5, 100):
            assert outliner.outline(points) == expected(BATCHES[:length], points)
        store.append(segment_of(BATCHES[length : length + 1]), {})


def test_what_is_remembered_is_bounded(
    make: Callable[..., DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlines, "MOST_KNOWN", 6)
    store = make(VALUES[:1], seal=4)
    outliner = Outliner(store)
    for length in range(1, len(VALUES)):
        assert outliner.outline(3) == expected(VALUES[:length], 3)
        assert len(outliner._known) <= 7
        store.append(segment_of(VALUES[length : length + 1]), {})


def test_erased_blocks_keep_their_place_and_size(tmp_path: Path) -> None:
    with patch.object(disk, "SEAL_BLOCKS", 4), Ledger.create(tmp_path / "ledger") as ledger:
        for i in range(10):
            ledger.append({"n": i})
        before = ledger.outline(4)
        for index in (2, 9):
            ledger.erase(index, reason="asked for")
        assert Outliner(ledger._store).outline(100) == expected(list(ledger), 100)
        held = {sample.position: sample for sample in before.samples}
        for sample in ledger.outline(4).samples:
            assert held.get(sample.position, sample) == sample


def reorganised(store: Store) -> list[Block]:
    """Let one branch of a work ledger take the place of another; return the chain then."""
    seal = Work(interval=1_000_000, half_life=10_000_000, final_depth=3)
    trunk = mined(*(["t"] * (i % 3) for i in range(9)), seal=seal)
    short, long = (
        mined(*([[name] * 2] * n), first=trunk, times=[pace])
        for name, n, pace in (("a", 3, 10_000), ("b", 8, 200_000))
    )
    store.advance(segment_of(trunk[:1]), work=0, final=1)
    store.advance(segment_of(trunk[1:]), work=1, final=7)
    outliner = Outliner(store)
    store.advance(segment_of(short[10:]), work=2, final=8)
    assert outliner.outline(100) == expected(short, 100)
    store.advance(segment_of(long[10:]), work=3, final=12)
    for points in POINTS:
        assert outliner.outline(points) == Outliner(store).outline(points)
    assert len({sample.bits for sample in outliner.outline(100).samples}) > 2
    return long


@pytest.mark.parametrize("seal", SEALS)
def test_side_branches_of_a_work_ledger_do_not_count(tmp_path: Path, seal: int) -> None:
    DiskStore.create(tmp_path)
    with (
        patch.object(disk, "SEAL_BLOCKS", seal),
        closing(DiskStore(tmp_path, best_hasher())) as store,
    ):
        blocks = reorganised(store)
        for points in POINTS:
            assert Outliner(store).outline(points) == expected(blocks, points)


def test_a_work_ledger_in_memory_is_outlined_alike() -> None:
    genesis = Genesis(seal=Work(interval=1_000_000, half_life=10_000_000, final_depth=3))
    with Ledger.in_memory(genesis) as ledger:
        outline = ledger.outline()
        assert (outline.length, outline.complete) == (1, True)
        assert outline.samples[0].bits == ledger[0].header.bits != 0


def test_a_store_that_was_rewritten_is_outlined_anew(
    make: Callable[..., DiskStore], tmp_path: Path
) -> None:
    others = chain(*("quite other values" for _ in VALUES[1:]))
    store = make(VALUES, at_once=100)
    outliner = Outliner(store)
    outliner.outline(100)
    rewritten = make(others, at_once=100)
    with database(rewritten.directory) as new, database(store.directory) as old:
        old.execute("DELETE FROM runs")
        for row in new.execute("SELECT * FROM runs"):
            old.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", row)
    assert outliner.outline(100) == expected(others, 100)


def test_a_store_that_was_cut_off_is_outlined_as_far_as_it_goes(
    make: Callable[..., DiskStore],
) -> None:
    store = make(VALUES)
    outliner = Outliner(store)
    whole = outliner.outline(100)
    with database(store.directory) as connection:
        connection.execute("DELETE FROM runs WHERE first >= 6")
    found = outliner.outline(100)
    assert not found.complete
    assert found.samples == whole.samples[:6]


def test_bytes_of_a_run_that_is_missing_are_not_made_up(make: Callable[..., DiskStore]) -> None:
    store = make(VALUES)
    with database(store.directory) as connection:
        connection.execute("DELETE FROM runs WHERE first = 6")
    for start in range(7):
        with pytest.raises(DamagedError):
            store.stored_bytes(start, 12)
    found = Outliner(store).outline(100)
    assert [sample.position for sample in found.samples] == [*range(6), *range(7, len(VALUES))]


def test_a_shorter_recorded_end_is_where_the_outline_ends(make: Callable[..., DiskStore]) -> None:
    store = make(VALUES)
    outliner = Outliner(store)
    outliner.outline(100)
    with database(store.directory) as connection:
        connection.execute("UPDATE head SET length = 6")
    assert outliner.outline(100) == expected(VALUES[:6], 100)


def test_a_missing_file_leaves_a_gap(make: Callable[..., DiskStore]) -> None:
    store = make(VALUES, seal=2)
    whole = expected(VALUES, 100)
    paths = files(store.directory)
    assert len(paths) > 3
    gone = range(int(paths[2].stem), int(paths[3].stem))
    paths[2].unlink()
    found = Outliner(store).outline(100)
    assert not found.complete
    assert found.length == len(VALUES)
    assert [s.position for s in found.samples] == [s for s in range(len(VALUES)) if s not in gone]
    assert found.samples[: gone.start] == whole.samples[: gone.start]
    lost = sum(len(e.to_bytes()) for b in VALUES[gone.start : gone.stop] for e in b.entries)
    assert found.size == whole.size - lost


def test_what_comes_after_damage_is_not_remembered(make: Callable[..., DiskStore]) -> None:
    store = make(VALUES, seal=2)
    path = files(store.directory)[2]
    content = path.read_bytes()
    path.unlink()
    outliner = Outliner(store)
    assert not outliner.outline(100).complete
    path.write_bytes(content)
    assert outliner.outline(100) == expected(VALUES, 100)


def test_no_damage_to_a_file_raises(make: Callable[..., DiskStore]) -> None:
    store = make(VALUES, seal=2)
    whole = expected(VALUES, 100)
    path = files(store.directory)[1]
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        path.write_bytes(bytes([*content[:at], content[at] ^ 0x81, *content[at + 1 :]]))
        found = Outliner(store).outline(100)
        assert found.length == whole.length
        assert found.size <= whole.size or not found.complete or at >= 64
    path.write_bytes(content[:-1])
    assert not Outliner(store).outline(100).complete


@pytest.mark.damages_database
def test_no_damage_to_the_tail_raises(make: Callable[..., DiskStore]) -> None:
    with closing(make(VALUES, at_once=4)) as store:
        directory = store.directory
    content = tail(directory).read_bytes()
    for at in range(0, len(content), 211):
        tail(directory).write_bytes(bytes([*content[:at], content[at] ^ 0xFF, *content[at + 1 :]]))
        try:
            damaged = DiskStore(directory, best_hasher(), read_only=True)
        except DamagedError:
            continue
        with closing(damaged):
            Outliner(damaged).outline(100)


@pytest.mark.parametrize("column", ["hashes", "headers", "data"])
def test_a_run_with_a_short_column_ends_the_outline(
    make: Callable[..., DiskStore], column: str
) -> None:
    store = make(VALUES, at_once=4)
    with database(store.directory) as connection:
        query = f"UPDATE runs SET {column} = substr({column}, 1, length({column}) - 1)"
        connection.execute(f"{query} WHERE first = 4")
    for points in POINTS:
        found = Outliner(store).outline(points)
        assert {sample.position for sample in found.samples} <= set(range(len(VALUES)))


def test_files_are_opened_once_and_never_again(
    make: Callable[..., DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(chain(*range(300)), seal=2)
    opened: list[str] = []
    open_file = os.open

    def counting(path: Any, *others: Any, **more: Any) -> int:
        opened.append(os.fspath(path))
        return open_file(path, *others, **more)

    monkeypatch.setattr(os, "open", counting)
    outliner = Outliner(store)
    outliner.outline(10)
    paths = files(store.directory)
    assert len(paths) > 90
    assert len(opened) <= len(paths) + 4 * 11  # those that a sample lies in are opened for it, too
    opened.clear()
    outliner.outline(10)
    assert len(opened) <= 2


def test_a_ledger_has_its_outline() -> None:
    with Ledger.in_memory() as ledger:
        for i in range(20):
            ledger.append(i)
        assert ledger.outline(5) == expected(list(ledger), 5)
        assert ledger.outline() == expected(list(ledger), 200)


def test_bytes_are_told_whenever_the_tail_is_sealed(
    make: Callable[..., DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [sum(len(entry.to_bytes()) for entry in block.entries) for block in BATCHES]
    for n in range(1, 8):
        writer = make(BATCHES[:8], seal=100)
        monkeypatch.setattr(disk, "SEAL_BLOCKS", 3)
        writer._room = None
        with closing(DiskStore(writer.directory, best_hasher(), read_only=True)) as reader:
            event = partial(writer.append, segment_of(BATCHES[8:9]), {})
            tail: Any = Between(reader._tail, event, n, often=False)
            reader._tail = tail
            for start in range(8):
                assert reader.stored_bytes(start, 8) == sum(sizes[start:8])
        assert files(writer.directory)
