"""What only the store on disk does: schema, refusals, damage, recovery."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cairn import (
    DamagedError,
    Ledger,
    NotFoundError,
    OutcomeUnknownError,
    ReadOnlyError,
    StoreError,
    UsageError,
)
from cairn.hashing import best_hasher
from cairn.store.database import Database
from cairn.store.directory import FILE_NAME
from cairn.store.interface import Pooled
from cairn.store.off_chain import StoredPool
from cairn.store.runs import RUN_BLOCKS
from cairn.store.schema import SCHEMA_VERSION
from cairn.store.tail import Tail
from tests.builders import chain, segments
from tests.store.branches import GENESIS, branch, segment_of


@contextmanager
def opened(directory: Path, *, read_only: bool = False) -> Iterator[Tail]:
    with closing(Database(directory, read_only=read_only)) as database:
        yield Tail(database, best_hasher())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    Database.create(tmp_path)
    with opened(tmp_path) as store:
        store.append(segments(chain(1, 2, 3))[0], {})
    return tmp_path


def execute(directory: Path, *statements: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


def test_bulk_goes_into_few_rows_and_single_appends_into_one_each(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(range(3000))
        ledger.append("alone")
    counts = execute(tmp_path / "ledger", "SELECT length(hashes) / 32 FROM runs ORDER BY first")
    assert [n for (n,) in counts] == [1, RUN_BLOCKS, RUN_BLOCKS, 3000 - 2 * RUN_BLOCKS, 1]


def test_commits_are_synced_in_full(directory: Path) -> None:
    with opened(directory) as store:
        connection = store._database._connect_writer()
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    assert (synchronous, mode) == (2, "wal")


def test_a_segment_that_does_not_follow_the_head_is_refused(directory: Path) -> None:
    stray = chain(9, 8, 7, 6)
    with opened(directory) as store:
        for start in (4, 3, 5):
            with pytest.raises(StoreError, match="do not follow the recorded head"):
                store.append(segments(stray, start)[-1], {})
        assert store.head().length == 4
        store.append(segments(chain(1, 2, 3, 4), 4)[1], {})
        assert store.head().length == 5


def test_a_key_that_is_there_already_is_never_moved(directory: Path) -> None:
    with opened(directory) as store:
        parts = segments(chain(1, 2, 3, 4, 5), 4, 1)
        store.append(parts[1], {"key": range(4, 5)})
        with pytest.raises(StoreError):
            store.append(parts[2], {"key": range(5, 6)})
        assert store.recall("key") == range(4, 5)
        assert store.head().length == 5


def test_a_full_database_is_an_unknown_outcome_and_the_next_append_works(directory: Path) -> None:
    parts = segments(chain(1, 2, 3, "x" * 100_000, 5), 4, 1)
    with opened(directory) as store:
        connection = store._database._connect_writer()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OutcomeUnknownError, match="blocks 4 to 4 may or may not be durable"):
            store.append(parts[1], {})
        assert store.head().length == 4
        store.append(parts[1], {})
        assert store.head().length == 5


def test_a_reader_cannot_append(directory: Path) -> None:
    with opened(directory, read_only=True) as store, pytest.raises(ReadOnlyError):
        store.append(segments(chain(1, 2, 3, 4), 4)[1], {})


def test_a_closed_store_refuses(directory: Path) -> None:
    with opened(directory) as store:
        pass
    with pytest.raises(ReadOnlyError):
        store.append(segments(chain(1, 2, 3, 4), 4)[1], {})
    with pytest.raises(ReadOnlyError):
        store.head()


def test_another_schema_version_is_named(directory: Path) -> None:
    said = f"schema {SCHEMA_VERSION - 1}; this version of Cairn reads {SCHEMA_VERSION}"
    execute(directory, f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
    for read_only in (True, False):
        with pytest.raises(StoreError, match=said):
            Database(directory, read_only=read_only)


def test_another_program_s_database_is_no_ledger(tmp_path: Path) -> None:
    execute(tmp_path, "CREATE TABLE t (x)")
    with pytest.raises(DamagedError, match="not a ledger"):
        Database(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"no database", bytes(4096)], ids=["empty", "text", "zeros"]
)
def test_a_file_that_is_no_database_is_damage(directory: Path, content: bytes) -> None:
    (directory / FILE_NAME).write_bytes(content)
    for read_only in (True, False):
        with pytest.raises(DamagedError):
            Database(directory, read_only=read_only)


def test_a_directory_without_its_file_is_damage_and_an_empty_one_no_ledger(directory: Path) -> None:
    (directory / FILE_NAME).unlink()
    with pytest.raises(DamagedError, match="not in it"):
        Database(directory, read_only=True)
    with pytest.raises(DamagedError):
        Ledger.open(directory)  # and does not make a new ledger over what is left
    (directory / "lock").unlink()
    with pytest.raises(NotFoundError):
        Database(directory, read_only=True)


def test_a_ledger_that_comes_while_somebody_looks_for_it_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    path.mkdir()

    def look(_: Path) -> bool:
        Ledger.create(path).close()
        return True

    monkeypatch.setattr("cairn.store.database.occupied", look)
    with Ledger.open(path, read_only=True) as ledger:
        assert len(ledger) == 1


def test_nothing_is_written_through_a_trigger_that_is_not_ours(directory: Path) -> None:
    """It could acknowledge appends that it never stores."""
    execute(
        directory,
        "DROP TRIGGER append",
        "CREATE TRIGGER append INSTEAD OF INSERT ON appends BEGIN SELECT 1; END",
    )
    with pytest.raises(DamagedError, match="its schema is not the one that Cairn makes"):
        Ledger.open(directory)
    with Ledger.open(directory, read_only=True) as ledger:
        assert ledger.validate().valid


@pytest.mark.parametrize("first", [-(2**63), -1])
def test_a_row_before_the_first_is_found(directory: Path, first: int) -> None:
    execute(
        directory,
        f"INSERT INTO runs SELECT {first}, hashes, headers, offsets, data FROM runs LIMIT 1",
    )
    with Ledger.open(directory, read_only=True) as ledger:
        failure = ledger.validate().failure
    assert failure is not None
    assert failure.rule == "storage"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runs SET hashes = x'00'",
        "UPDATE runs SET headers = x'00'",
        "UPDATE runs SET offsets = x''",
        "UPDATE runs SET hashes = x'', headers = x''",
        "UPDATE runs SET first = -1",
        "DELETE FROM head",
        "UPDATE head SET length = -5",
        "DROP TABLE head",
        "DROP TABLE runs",
    ],
)
def test_columns_that_are_no_segment_end_validation_as_a_failure(
    directory: Path, statement: str
) -> None:
    with Ledger.open(directory, read_only=True) as ledger:
        execute(directory, "PRAGMA foreign_keys = OFF", statement)
        report = ledger.validate()
        assert report.failure is not None
        assert report.failure.rule == "storage"


def test_opening_does_not_read_history(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend("x" * 1000 for _ in range(10_000))
    # Damage in the middle of the file does not show when opening, nor when reading the ends.
    with (path / FILE_NAME).open("r+b") as file:
        file.seek(4_000_000)
        file.write(b"\xff" * 100_000)
    with Ledger.open(path) as ledger:
        assert len(ledger) == 10_001
        assert ledger.head.data == "x" * 1000
        ledger.append("goes on")
        assert not ledger.validate().valid


def test_a_second_writer_that_got_around_the_lock_cannot_fork_a_work_ledger(
    tmp_path: Path,
) -> None:
    Database.create(tmp_path)
    chain_a = branch(GENESIS, "a", 4)
    with opened(tmp_path) as store:
        store.advance(segment_of([GENESIS]), 0, 1)
        store.advance(segment_of(chain_a), 9, 3)
        stray = branch(chain_a[-1], "b", 2)
        for blocks in (stray[1:], branch(chain_a[0], "c", 3), [GENESIS]):
            with pytest.raises(StoreError, match="does not follow a stored one"):
                store.advance(segment_of(blocks), 99, 3)
        assert (store.head().length, store.work()) == (5, 9)


def test_a_recorded_number_of_final_blocks_that_cannot_be_is_damage(tmp_path: Path) -> None:
    Database.create(tmp_path)
    with opened(tmp_path) as store:
        store.advance(segment_of([GENESIS]), 0, 1)
        for final in (-1, 2):
            execute(tmp_path, f"UPDATE head SET final = {final}")
            with pytest.raises(DamagedError, match="are recorded as final"):
                store.final()


def test_only_the_first_of_two_threads_puts_a_key(tmp_path: Path) -> None:
    Database.create(tmp_path)
    entries = [Pooled(bytes([number]) * 32, b"entry", 1) for number in range(8)]

    def put(entry: Pooled) -> bool:
        try:
            pool.add([entry], "key")
        except UsageError:
            return False
        return True

    with closing(Database(tmp_path)) as database, ThreadPoolExecutor(8) as threads:
        pool = StoredPool(database)
        assert sum(threads.map(put, entries)) == 1
        (kept,) = pool.all()
        assert pool.key("key") == kept.id
