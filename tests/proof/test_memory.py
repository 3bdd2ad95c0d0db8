"""What is remembered: by many at once, killed at any moment, and files that are none of it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from threading import Barrier, Thread
from typing import Any
from unittest.mock import patch

import pytest

from cairn.core.errors import StoreError
from cairn.proof import memory as memories
from cairn.proof.memory import Memory, keep_evidence
from tests.proof.processes import at_once, ended_well, folder_of_nobody, started

ORIGIN = "cairn/" + "ab" * 32
NOTE = "cairn/…\n7\n…\n\n— cairn/… AAAA\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "not" / "there" / "yet" / "seen.sqlite"


def refused(path: Path) -> None:
    """It is neither read nor written."""
    memory = Memory(path)
    with pytest.raises(StoreError):
        memory.last(ORIGIN)
    for before in (None, NOTE):
        with pytest.raises(StoreError):
            memory.replace(ORIGIN, before, NOTE)


# One user of it


def test_looking_makes_nothing(path: Path) -> None:
    assert Memory(path).last(ORIGIN) is None
    assert not path.parents[2].exists()


def test_what_is_remembered_is_replaced_only_by_who_knows_it(path: Path) -> None:
    memory = Memory(path)
    assert not memory.replace(ORIGIN, "never seen", "1")
    assert memory.last(ORIGIN) is None
    assert memory.replace(ORIGIN, None, "1")
    assert not memory.replace(ORIGIN, None, "2")
    assert not memory.replace(ORIGIN, "0", "2")
    assert not memory.replace(ORIGIN, "", "2")
    assert memory.last(ORIGIN) == "1"
    assert memory.replace(ORIGIN, "1", NOTE)
    assert memory.replace(ORIGIN, NOTE, NOTE)
    assert not memory.replace(ORIGIN, "1", "3")
    assert Memory(path).last(ORIGIN) == NOTE


def test_ledgers_are_remembered_apart(path: Path) -> None:
    origins = [ORIGIN, ORIGIN + " ", ORIGIN.upper(), "", "é", "e\u0301", "'; --", "%", "a\nb"]
    memory = Memory(path)
    for number, origin in enumerate(origins):
        assert memory.replace(origin, None, f"{number}\n")
    assert [memory.last(origin) for origin in origins] == [f"{n}\n" for n in range(len(origins))]


def test_folders_are_for_the_user_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        Memory(path).replace(ORIGIN, None, NOTE)
        kept = keep_evidence(path.parents[2] / "evidence" / "more", NOTE, NOTE, "a fork")
    finally:
        os.umask(before)
    for made in (*path.parents[:3], kept.parent, kept.parents[1]):
        assert made.stat().st_mode & 0o777 == 0o700


def test_commit_is_durable_with_the_end_of_its_journal(path: Path) -> None:
    """With FULL, a loss of power could bring the journal back, which undoes the commit."""
    memory = Memory(path)
    memory.replace(ORIGIN, None, NOTE)
    with memory._connection() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


# Many at once


def win(path: Path, wins: int, tally: Path) -> None:
    """Add one to what is remembered, so many times; write a byte for each."""
    memory = Memory(path)
    while wins:
        before = memory.last(ORIGIN)
        if memory.replace(ORIGIN, before, str(int(before or 0) + 1)):
            with tally.open("ab", buffering=0) as file:
                file.write(b".")
            wins -= 1


def compare_and_swap(path: Path, processes: int, threads: int, wins: int) -> None:
    """Nobody gives up, however long others are served before: SQLite does not queue them."""
    tally = path.parents[3] / "tally"
    with patch.object(memories, "BUSY_SECONDS", 300.0):
        at_once(processes, threads, lambda: win(path, wins, tally))
    assert tally.stat().st_size == processes * threads * wins
    assert Memory(path).last(ORIGIN) == str(processes * threads * wins)


def test_compare_and_swap_by_many_threads_of_8_processes(path: Path) -> None:
    compare_and_swap(path, processes=8, threads=4, wins=2)


@pytest.mark.soak
def test_compare_and_swap_by_many_threads_of_8_processes_for_long(path: Path) -> None:
    compare_and_swap(path, processes=8, threads=8, wins=20)


def test_first_of_many_makes_it_and_is_the_only_one(tmp_path: Path) -> None:
    for number in range(10):
        path, won = tmp_path / str(number) / "seen.sqlite", tmp_path / f"won{number}"
        won.touch()
        barrier = Barrier(8)

        def first(path: Path = path, won: Path = won, barrier: Barrier = barrier) -> None:
            barrier.wait(30)
            if Memory(path).replace(ORIGIN, None, str(os.getpid())):
                with won.open("ab", buffering=0) as file:
                    file.write(b".")

        at_once(2, 8, first)
        assert won.stat().st_size == 1
        assert Memory(path).last(ORIGIN)


@pytest.mark.parametrize("moment", range(8))
def test_file_that_another_makes_while_one_looks_is_taken_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    path, statements = tmp_path / "seen.sqlite", count()
    path.touch()
    other = Thread(target=lambda: Memory(path).replace(ORIGIN, None, NOTE))

    class Interrupted(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            if next(statements) == moment:
                other.start()
                other.join(0.1)  # or it waits for this one
            return super().execute(*arguments)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Interrupted))
    assert Memory(path).last(ORIGIN) in (None, NOTE)
    other.join(30)
    assert Memory(path).last(ORIGIN) == NOTE


# Killed


def killed(path: Path, rounds: int) -> None:
    """Kill a process that counts up, in many moments; what it said was remembered is."""
    chance, said = random.Random(1), 0
    for _ in range(rounds):
        out, into = os.pipe()

        def count_up(into: int = into) -> None:
            memory = Memory(path)
            while True:
                before = memory.last(ORIGIN)
                note = str(int(before or 0) + 1)
                if memory.replace(ORIGIN, before, note):
                    os.write(into, f"{note}\n".encode())

        child = started(count_up)
        os.close(into)
        time.sleep(chance.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        assert not ended_well(child)
        with os.fdopen(out) as file:
            said = max([said, *map(int, file.read().split())])
        assert int(Memory(path).last(ORIGIN) or 0) - said in (0, 1)
        said = int(Memory(path).last(ORIGIN) or 0)
    assert said > 0


def test_what_was_remembered_is_not_lost_by_sigkill(path: Path) -> None:
    killed(path, rounds=15)


@pytest.mark.soak
def test_what_was_remembered_is_not_lost_by_much_sigkill(path: Path) -> None:
    killed(path, rounds=300)


# Files that are something else


def test_empty_file_remembers_nothing(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    assert Memory(path).last(ORIGIN) is None
    assert Memory(path).replace(ORIGIN, None, NOTE)


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    refused(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE notes (text TEXT);",  # of a program that does not mark its files
        "CREATE TABLE checkpoints (origin TEXT PRIMARY KEY, note TEXT);",
        "CREATE VIEW v AS SELECT 1;",
        "PRAGMA application_id = 1; CREATE TABLE notes (text TEXT);",
        "PRAGMA application_id = 1;",
        "PRAGMA user_version = 1;",
        f"PRAGMA application_id = {0x4361526D}; PRAGMA user_version = 2;",
        f"PRAGMA application_id = {0x4361526D};",
        f"PRAGMA application_id = {0x4361526D}; PRAGMA user_version = 1;",  # but no table
    ],
)
def test_another_database_is_refused_and_left_alone(tmp_path: Path, script: str) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    before = path.read_bytes()
    refused(path)
    assert path.read_bytes() == before


def test_paths_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path)
    refused(tmp_path / "file" / "seen.sqlite")
    refused(tmp_path / "loop" / "seen.sqlite")
    refused(tmp_path / ("long" * 100))
    with pytest.raises(StoreError):
        keep_evidence(tmp_path / "file" / "evidence", NOTE, NOTE, "a fork")
    with pytest.raises(StoreError):
        keep_evidence(tmp_path / "file", NOTE, NOTE, "a fork")


@pytest.fixture
def nobodys() -> Iterator[Path]:
    with folder_of_nobody() as folder:
        yield folder


def by_nobody(work: Callable[[], None]) -> None:
    assert ended_well(started(work, as_nobody=True))


def test_read_only_folder_is_refused_when_there_is_something_to_remember(nobodys: Path) -> None:
    def work() -> None:
        memory = Memory(nobodys / "seen.sqlite")
        memory.replace(ORIGIN, None, NOTE)
        (nobodys / "seen.sqlite").chmod(0o400)
        nobodys.chmod(0o500)
        assert memory.last(ORIGIN) == NOTE
        for path in (nobodys / "seen.sqlite", nobodys / "new.sqlite", nobodys / "new" / "file"):
            with pytest.raises(StoreError):
                Memory(path).replace(ORIGIN, None, NOTE)
        with pytest.raises(StoreError):
            keep_evidence(nobodys / "evidence", NOTE, NOTE, "a fork")

    by_nobody(work)


def test_what_may_not_be_looked_at_is_not_taken_for_nothing(nobodys: Path) -> None:
    """A memory that seems empty would let a fork pass."""

    def work() -> None:
        path = nobodys / "inner" / "seen.sqlite"
        Memory(path).replace(ORIGIN, None, NOTE)
        path.chmod(0)
        refused(path)
        path.chmod(0o600)
        path.parent.chmod(0)
        refused(path)

    by_nobody(work)


def test_damaged_file_is_read_or_refused(path: Path) -> None:
    memory = Memory(path)
    for number in range(20):
        memory.replace(f"{ORIGIN}/{number}", None, NOTE)
    right, chance = path.read_bytes(), random.Random(2)
    for _ in range(150):
        data = bytearray(right)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        try:
            assert isinstance(memory.last(f"{ORIGIN}/7"), str | None)
            memory.replace(f"{ORIGIN}/7", NOTE, "other")
        except StoreError:
            pass
        path.with_name("seen.sqlite-journal").unlink(missing_ok=True)


# Evidence


def test_evidence_holds_both_statements_each_in_a_file_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    paths = {keep_evidence(folder, NOTE, NOTE.replace("7", "8"), "a fork") for _ in range(20)}
    assert set(folder.iterdir()) == paths
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("a fork\n")
        assert NOTE in text
        assert text.endswith(NOTE.replace("7", "8"))


def test_evidence_is_utf8_where_the_locale_is_not(tmp_path: Path) -> None:
    work = (
        "import sys; from pathlib import Path; from cairn.proof.memory import keep_evidence;"
        "keep_evidence(Path(sys.argv[1]), chr(0x2014), chr(0x2014), 'why')"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", work, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | ascii_only)
    [path] = tmp_path.iterdir()
    assert path.read_bytes().count("\u2014".encode()) == 2
