"""One writer, any number of readers, in processes of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cairn import Ledger, LockedError
from cairn.store import runs
from cairn.store.directory import SEGMENTS_NAME
from tests.faults.harness import finish, open_and_check, start, value

NOBODY = 65534


@contextmanager
def writing(
    path: Path, *, threads: int = 2, seal_blocks: int = 32_768
) -> Iterator[subprocess.Popen[str]]:
    """Have a process write there that has acknowledged something by now; kill it at the end."""
    process = start("writer", path, 1, threads, 1000, seal_blocks)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.close()
        while not process.stdout.readline().startswith("ack"):
            assert process.poll() is None, "the writer ended by itself"
        drain = threading.Thread(target=process.stdout.readlines)
        drain.start()
        yield process
        assert process.poll() is None, "the writer ended by itself"
        process.kill()
        drain.join()
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@contextmanager
def reading(path: Path, task: str, user: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Have a process open the ledger to read."""
    process = start("reader", path, user, task)
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdin, process.stdout:
        assert process.stdout.readline() == "open\n"
        yield process
    assert process.returncode == 0


def look(reader: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the length and the last hash that the reader sees now."""
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write("\n")
    reader.stdin.flush()
    length, head = reader.stdout.readline().split()
    return int(length), head


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the suite remembers is not for other users to read."""
    monkeypatch.setenv("CAIRN_HOME", "/no/such/folder")


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user can reach."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@contextmanager
def not_writable(path: Path) -> Iterator[int]:
    """Yield a user who may read all in this directory, but not write."""
    if os.getuid() == 0:
        yield NOBODY
        return
    path.chmod(0o555)
    try:
        yield 0
    finally:
        path.chmod(0o755)


def test_a_second_writer_is_told_who_holds_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with writing(path) as holder:
        says = re.compile(rf"process {holder.pid} on \S+ \('writer\.py'\) since ")
        for _ in range(3):
            with pytest.raises(LockedError, match=says):
                Ledger.open(path)
        assert holder.poll() is None


def test_a_second_writer_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        with pytest.raises(LockedError, match=f"process {os.getpid()} "):
            Ledger.open(tmp_path / "ledger")
        ledger.append("goes on")
    Ledger.open(tmp_path / "ledger").close()


def test_the_lock_ends_with_its_holder_also_by_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    for _ in range(3):
        with writing(path):
            pass
        with Ledger.open(path) as ledger:
            assert ledger.validate().valid


def test_of_writers_that_create_at_once_one_wins_and_all_the_others_are_told(
    tmp_path: Path,
) -> None:
    for attempt in range(3):
        rivals = [start("writer", tmp_path / str(attempt), 1, 1, 1000) for _ in range(4)]
        fates = []
        try:
            for rival in rivals:
                assert rival.stdin is not None
                rival.stdin.close()
            for rival in rivals:
                assert rival.stdout is not None
                assert rival.stdout.readline() == "ready\n"
                fates.append(rival.stdout.readline())
        finally:
            for rival in rivals:
                end(rival)
        assert sorted(fates) == ["open\n", "refused\n", "refused\n", "refused\n"]


def test_readers_beside_a_busy_writer_see_a_valid_chain_that_only_grows(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with writing(path, seal_blocks=25):
        readers = [start("reader", path, 0, task, 3) for task in ("watch", "watch", "backup")]
        for reader in readers:
            words = finish(reader).split()
            assert int(words[words.index("length") + 1]) > 100
    assert len(list((path / SEGMENTS_NAME).iterdir())) > 3
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.validate().valid


def test_what_cannot_be_written_to_can_be_read_after_a_clean_close(open_path: Path) -> None:
    path = open_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(map(value, range(10)))
        head = ledger.head.hash
    with not_writable(path) as user, reading(path, "look", user) as reader:
        assert look(reader) == (11, head)
    assert sorted(file.name for file in path.iterdir()) == ["lock", "tail.sqlite"]


@pytest.mark.parametrize("may_write", [True, False])
def test_what_a_killed_writer_left_can_be_read_before_anyone_recovers_it(
    may_write: bool, open_path: Path
) -> None:
    path = open_path / "ledger"
    with writing(path):
        pass
    left = {file.name: file.read_bytes() for file in path.iterdir()}
    assert left["tail.sqlite-wal"]
    shutil.copytree(path, open_path / "copy")
    length = len(open_and_check(open_path / "copy", {}, range(10**9))) + 1
    if may_write:
        with reading(path, "look") as reader:
            assert look(reader)[0] == length
    else:
        with not_writable(path) as user, reading(path, "look", user) as reader:
            assert look(reader)[0] == length
    assert (path / "tail.sqlite").read_bytes() == left["tail.sqlite"]
    assert (path / "tail.sqlite-wal").read_bytes() == left["tail.sqlite-wal"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be two users")
def test_a_reader_who_may_not_write_sees_what_is_appended_later(open_path: Path) -> None:
    path = open_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(map(value, range(10)))
    with reading(path, "look", NOBODY) as reader:
        assert look(reader)[0] == 11
        with Ledger.open(path) as ledger:
            for _ in range(3):
                ledger.extend(map(value, range(5000)))
                assert look(reader) == (len(ledger), ledger.head.hash)
        assert look(reader)[0] == 15011


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be two users")
def test_a_scan_by_one_who_may_not_write_misses_nothing_when_a_writer_comes(
    open_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = open_path / "ledger"
    monkeypatch.setattr(runs, "RUN_BLOCKS", 1)  # a large database of few blocks
    with Ledger.open(path) as ledger:
        ledger.extend(map(value, range(4000)))
    with reading(path, "scan", NOBODY) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "begun\n"
        with Ledger.open(path) as ledger:
            ledger.extend(map(value, range(12000)))
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "4001\n"
