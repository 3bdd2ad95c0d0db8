"""What readers see of a chain that another process reorganises at any moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from cairn import Ledger, StoreError
from cairn.core.block import Block
from cairn.core.genesis import Terms
from cairn.core.work import total_work
from cairn.hashing import best_hasher
from cairn.ledger.validation import Task, validate_store
from cairn.report import Report
from cairn.store import disk, runs, stored_runs
from cairn.store.directory import FILE_NAME
from cairn.store.disk import DiskStore
from cairn.store.interface import Head
from cairn.store.reader import Reader
from tests.builders import mined
from tests.store.branches import segment_of
from tests.store.sealed import cut_into_parts, database
from tests.store.test_disk import Between

TRUNK = mined(*(["trunk", i] for i in range(8)))
BRANCHES = [
    mined(*([name, i] for i in range(length)), first=TRUNK, times=[pace])
    for name, length, pace in (("a", 4, 10), ("b", 9, 30), ("c", 2, 50), ("d", 12, 70))
]
"""Chains that share a trunk. The shorter ones, too, take the place of others here."""
TERMS = Terms.of(TRUNK[0])
FINAL = 7


def opened(directory: Path, *, read_only: bool = False) -> DiskStore:
    return DiskStore(directory, best_hasher(), read_only=read_only)


def work_of(blocks: list[Block]) -> int:
    return total_work(segment_of(blocks).fields["bits"][1:])


def reorganise(store: DiskStore, chain: list[Block], final: int) -> None:
    """Let `chain` take the place of what is there from the end of the trunk on."""
    segment = segment_of(chain[FINAL + 1 :])
    store.advance(segment, work=work_of(chain), final=final)


@pytest.fixture
def directory(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 5)
    monkeypatch.setattr(runs, "RUN_BLOCKS", 2)
    monkeypatch.setattr(stored_runs, "SCAN_BLOCKS", 1)
    cut_into_parts(monkeypatch, 2)
    DiskStore.create(memory_path)
    with closing(opened(memory_path)) as store:
        store.advance(segment_of(TRUNK[:1]), work=0, final=1)
        store.advance(segment_of(TRUNK[1:]), work=work_of(TRUNK), final=FINAL)
        reorganise(store, BRANCHES[0], FINAL)
    return memory_path


def between(reader: DiskStore, event: Callable[[], None], n: int, *, often: bool) -> None:
    """Let something happen before, in or after the n-th call of a reader's tail."""
    tail: Any = Between(reader._tail, event, n, often=often)
    reader._tail = tail


def next_of(chains: Iterator[list[Block]], store: DiskStore) -> Callable[[], None]:
    """Return a step that lets the next of `chains` take the place of the one before."""
    return lambda: reorganise(store, next(chains), FINAL)


@pytest.mark.parametrize("often", [False, True])
def test_a_scan_yields_one_chain_however_often_it_is_replaced(often: bool, directory: Path) -> None:
    seen, chains = set(), cycle(BRANCHES)
    for n in range(1, 20):
        with (
            closing(opened(directory)) as writer,
            closing(opened(directory, read_only=True)) as reader,
        ):
            between(reader, next_of(chains, writer), n, often=often)
            found = [block for s in reader.scan(0, 10**6) for block in s.blocks()]
            assert found in BRANCHES
            seen.add(len(found))
            hashes = reader.hashes(0, len(TRUNK)).tobytes()
            assert hashes == b"".join(block.stored_hash for block in TRUNK)
            head = reader.head()
            assert head in [Head(len(c), c[-1].stored_hash) for c in BRANCHES]
    assert len(seen) > 1


def test_entries_are_found_in_one_chain_whenever_it_is_replaced(directory: Path) -> None:
    ids = [entry.id for chain in BRANCHES for block in chain[1:] for entry in block.entries]
    expected = []
    for chain in BRANCHES:
        places = {e.id: [(b.index, i)] for b in chain for i, e in enumerate(b.entries)}
        expected.append([places.get(one, []) for one in ids])
    seen, chains = set(), cycle(BRANCHES)
    for n in range(1, 40):
        with (
            closing(opened(directory)) as writer,
            closing(opened(directory, read_only=True)) as reader,
        ):
            between(reader, next_of(chains, writer), n, often=False)
            for _ in range(2):
                seen.add(expected.index(reader.find_entries(ids)))
    assert len(seen) > 1


def test_a_scan_goes_on_with_what_was_sealed_meanwhile(directory: Path) -> None:
    """What it has read of the tail is of one moment; so nothing of a later one comes after."""
    with (
        closing(opened(directory)) as writer,
        closing(opened(directory, read_only=True)) as reader,
    ):
        found = reader.scan(0, 10**6)
        read = [next(found) for _ in range(5)]
        reorganise(writer, BRANCHES[3], len(BRANCHES[3]))
        blocks = [block for segment in (*read, *found) for block in segment.blocks()]
        assert blocks == BRANCHES[0]
        assert [b for s in reader.scan(0, 10**6) for b in s.blocks()] == BRANCHES[3]


def validated(store: DiskStore, *, every: bool = False, start: int = 0) -> tuple[Report, Head]:
    with ThreadPoolExecutor(1) as executor:
        return validate_store(store, Task(TERMS, every=every), executor=executor, start=start)


@pytest.mark.parametrize("start", [0, 3, FINAL, 10])
def test_a_validation_beside_reorganisations_finds_no_damage(directory: Path, start: int) -> None:
    final, chains = Head(FINAL, TRUNK[FINAL - 1].stored_hash), cycle(BRANCHES)
    for n in range(1, 30):
        with (
            closing(opened(directory)) as writer,
            closing(opened(directory, read_only=True)) as reader,
        ):
            between(reader, next_of(chains, writer), n, often=False)
            report, end = validated(reader, every=n % 2 == 0, start=start)
            assert report.valid, (n, report.failures)
            assert end == final or start > FINAL


def test_a_validation_of_what_changes_all_the_time_comes_to_an_end(directory: Path) -> None:
    with (
        closing(opened(directory)) as writer,
        closing(opened(directory, read_only=True)) as reader,
    ):
        between(reader, next_of(cycle(BRANCHES), writer), 1, often=True)
        validated(reader)


def test_damage_of_what_is_not_final_is_found_also_beside_a_reorganisation(
    directory: Path,
) -> None:
    with closing(opened(directory)) as writer:
        reorganise(writer, BRANCHES[1], FINAL)
        with database(directory) as connection:
            connection.execute(
                "UPDATE runs SET headers = zeroblob(length(headers)) "
                "WHERE first = (SELECT max(first) FROM runs WHERE first <= 7)"
            )
        for n in range(1, 20):
            with closing(opened(directory, read_only=True)) as reader:
                chain = mined(["more"], first=[*BRANCHES[1]])
                event = partial(
                    writer.advance, segment_of(chain[-1:]), work=work_of(chain), final=FINAL
                )
                between(reader, event, n, often=False)
                report, _ = validated(reader)
                assert report.failure is not None
                assert report.failure.index <= 7


def test_a_recorded_work_that_the_blocks_do_not_have_is_found(directory: Path) -> None:
    with closing(opened(directory, read_only=True)) as reader:
        assert validated(reader)[0].valid
        with database(directory) as connection:
            connection.execute("UPDATE head SET work = ?", ((1).to_bytes(32),))
        (failure,) = validated(reader, every=True)[0].failures
        assert (failure.index, failure.rule) == (len(BRANCHES[0]) - 1, "head")


def test_an_incremental_run_never_starts_from_what_may_change(directory: Path) -> None:
    with Ledger.open(directory, read_only=True) as ledger:
        assert ledger.validate(incremental=True).valid
        with closing(opened(directory)) as writer:
            reorganise(writer, BRANCHES[2], FINAL)
        assert ledger.validate(incremental=True).valid


# Who may not write sees no snapshot, where nobody else writes


def test_a_reader_that_cannot_stay_at_one_moment_says_so(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")

    def connect(mode: str) -> sqlite3.Connection:
        return sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None)

    def count(connection: sqlite3.Connection) -> int:
        (found,) = connection.execute("SELECT count(*) FROM t").fetchone()
        return int(found)

    with closing(Reader(path, connect)) as reader, reader.steady():
        assert reader.run(count) == 0
        reader.close()
        with pytest.raises(StoreError, match="was written to while it was read"):
            reader.run(count)
