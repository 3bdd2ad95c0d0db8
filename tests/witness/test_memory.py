"""A witness does not forget what it cosigned, nor cosign what it cannot remember."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cairn.core.errors import StoreError
from cairn.proof.memory import Memory
from cairn.proof.note import SigningKey
from cairn.proof.witness import TRIES, Answer, Witness, origin_hash
from tests.witness.dying import witness_in
from tests.witness.logs import Cosigned, Log


def dying(home: Path, log: Log, when: str, body: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tests.witness.dying", str(home), str(log.key.verifier), when]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, input=body, capture_output=True, timeout=60, check=False, cwd=root
    )


def test_crash_between_deciding_and_answering_is_remembered(tmp_path: Path, log: Log) -> None:
    fork = log.forked(3)
    died = dying(tmp_path, log, "after", log.request(0, 7))
    assert (died.returncode, died.stdout) == (-9, b""), died.stderr

    again = witness_in(tmp_path, log.key.verifier)

    assert again.add_checkpoint(fork.request(0, 7)).body == b"7\n"
    assert again.add_checkpoint(fork.request(7, 7)).status == 422
    assert again.add_checkpoint(fork.request(7, 8)).status == 422
    assert again.add_checkpoint(log.request(7, 7)).status == 200
    assert again.add_checkpoint(log.request(7, 8)).status == 200


def test_crash_before_it_is_remembered_has_cosigned_nothing(tmp_path: Path, log: Log) -> None:
    died = dying(tmp_path, log, "before", log.request(0, 7))
    assert (died.returncode, died.stdout) == (-9, b""), died.stderr

    again = witness_in(tmp_path, log.key.verifier)

    assert again.checkpoint(origin_hash(log.origin)) is None
    assert again.add_checkpoint(log.forked(3).request(0, 7)).status == 200


class Failing(Memory):
    """Fails when it is to remember, or after it has."""

    fails = ""

    def replace(self, origin: str, before: str | None, note: str) -> bool:
        if self.fails == "before":
            raise StoreError("the disk is full")
        done = super().replace(origin, before, note)
        if self.fails == "after":
            raise StoreError("the disk is full")
        return done


@pytest.mark.parametrize("fails", ["before", "after"])
def test_no_cosignature_leaves_when_the_memory_fails(
    key: SigningKey, log: Log, tmp_path: Path, fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Failing(tmp_path / "cosigned.sqlite")
    witness = Witness(key, {log.origin: [log.key.verifier]}, memory, tmp_path / "evidence")
    witness.add_checkpoint(log.request(0, 5))
    memory.fails = fails

    answer = witness.add_checkpoint(log.request(5, 7))

    assert answer.status == 503
    assert b"\xe2\x80\x94" not in answer.body
    assert "the disk is full" in caplog.text
    memory.fails = ""
    at = 5 if fails == "before" else 7  # not known to who asked: the size is asked for again
    assert witness.add_checkpoint(log.request(0, 8)).body == b"%d\n" % at
    assert witness.add_checkpoint(log.request(at, 8)).status == 200


@pytest.mark.parametrize("pages", [2, 3])
def test_disk_that_is_full_gives_no_cosignature(
    witness: Witness, log: Log, memory: Memory, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """SQLite itself is told that there is no room: as from a disk that is full."""
    witness.add_checkpoint(log.request(0, 5))
    connect = sqlite3.connect

    def full(*args: object, **options: object) -> sqlite3.Connection:
        connection = connect(*args, **options)  # type: ignore[call-overload]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        assert isinstance(connection, sqlite3.Connection)
        return connection

    monkeypatch.setattr(sqlite3, "connect", full)
    large = log.checkpoint(7, "x" * 60_000)
    body = b"\n".join([*log.request(5, 7).split(b"\n\n")[:1], b"", str(large).encode()])
    assert witness.add_checkpoint(body).status == 503

    monkeypatch.undo()
    assert witness.add_checkpoint(log.request(0, 7)).body == b"5\n"
    assert witness.add_checkpoint(body).status == 200


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    path.write_bytes(b"\xa5" * path.stat().st_size)


def another_digit(path: Path) -> None:
    """Change the size within what is remembered: to SQLite, it is as good as before."""
    whole = path.read_bytes()
    assert b"log.example/a\n7\n" in whole
    path.write_bytes(whole.replace(b"log.example/a\n7\n", b"log.example/a\n6\n"))


def other_database(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE checkpoints (origin, note)")
    connection.close()


def newer_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def not_a_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


def unsigned(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE checkpoints SET note = 'log.example/a'")
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [cut, overwrite, another_digit, other_database, newer_version, not_a_file, unsigned],
    ids=lambda damage: damage.__name__,
)
def test_damaged_memory_gives_no_cosignature(
    witness: Witness, log: Log, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    witness.add_checkpoint(log.request(0, 7))
    damage(tmp_path / "cosigned.sqlite")
    for one in (log, log.forked(3)):
        for old, new in ((0, 5), (6, 8), (7, 7), (7, 8)):
            assert witness.add_checkpoint(one.request(old, new)).status == 503


def test_folder_that_cannot_be_written_gives_no_cosignature(
    key: SigningKey, log: Log, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    memory = Memory(tmp_path / "file" / "cosigned.sqlite")
    witness = Witness(key, {log.origin: [log.key.verifier]}, memory, tmp_path)
    assert witness.add_checkpoint(log.request(0, 7)).status == 503


class Slow(Memory):
    """Another request is always faster."""

    asked = 0

    def replace(self, origin: str, before: str | None, note: str) -> bool:
        self.asked += 1
        return False


def test_request_that_always_loses_ends_without_a_cosignature(
    key: SigningKey, log: Log, tmp_path: Path
) -> None:
    memory = Slow(tmp_path / "cosigned.sqlite")
    witness = Witness(key, {log.origin: [log.key.verifier]}, memory, tmp_path)
    assert witness.add_checkpoint(log.request(0, 7)).status == 503
    assert memory.asked == TRIES


class Overtaken(Memory):
    """Lets `first` happen between deciding and remembering, once."""

    first: Callable[[], object] | None = None

    def replace(self, origin: str, before: str | None, note: str) -> bool:
        first, self.first = self.first, None
        if first is not None:
            first()
        return super().replace(origin, before, note)


@pytest.mark.parametrize(
    ("at", "size", "status"), [(7, 9, 409), (7, 8, 409), (7, 20, 409), (0, 8, 409), (7, 7, 422)]
)
def test_request_that_is_overtaken_is_decided_anew(
    key: SigningKey, log: Log, tmp_path: Path, at: int, size: int, status: int
) -> None:
    """The race of the specification: a smaller tree must not be remembered after a larger one."""
    memory = Overtaken(tmp_path / "cosigned.sqlite")
    witness = Witness(key, {log.origin: [log.key.verifier]}, memory, tmp_path / "evidence")
    if at:
        witness.add_checkpoint(log.request(0, at))
    fork = log.forked(3)
    others: list[Answer] = []
    # Before the fork at 7 is remembered, the log goes on; at 7 again, only with other lines.
    quick = log.request(at, size)
    memory.first = lambda: others.append(witness.add_checkpoint(quick))

    late = witness.add_checkpoint(fork.request(7, 7) if status == 422 else log.request(at, 8))

    if status == 422:
        assert late.status == 422
    else:
        assert [one.status for one in others] == [200]
        assert (late.status, late.body) == (409, b"%d\n" % size)


def test_same_checkpoint_by_two_at_once_is_cosigned_for_both(
    key: SigningKey, log: Log, tmp_path: Path
) -> None:
    memory = Overtaken(tmp_path / "cosigned.sqlite")
    times = iter(range(1000, 2000))
    witness = Witness(
        key, {log.origin: [log.key.verifier]}, memory, tmp_path, clock=lambda: next(times)
    )
    witness.add_checkpoint(log.request(0, 7))
    others: list[Answer] = []
    memory.first = lambda: others.append(witness.add_checkpoint(log.request(7, 7)))

    late = witness.add_checkpoint(log.request(7, 7))

    assert (late.status, others[0].status) == (200, 200)
    cosigned = Cosigned([log], (key.verifier,))
    first = cosigned.note(log.request(7, 7), others[0].body)
    assert cosigned.note(log.request(7, 7), late.body).time > first.time


def test_64_threads_that_offer_two_forks_get_one(key: SigningKey, log: Log, tmp_path: Path) -> None:
    """Two witnesses with one memory, as two processes are."""
    keys = {log.origin: [log.key.verifier]}
    path = tmp_path / "cosigned.sqlite"
    witnesses = [Witness(key, keys, Memory(path), tmp_path / "evidence") for _ in range(2)]
    logs = [log, log.forked(2)]
    cosigned = Cosigned(logs, (key.verifier,))
    ready = threading.Barrier(64)

    def ask(number: int) -> None:
        choose, witness, mine = random.Random(number), witnesses[number % 2], logs[number // 2 % 2]
        ready.wait()
        at = 0
        for _ in range(3):
            body = mine.request(at, min(at + choose.choice((0, 1, 2)), mine.size))
            answer = witness.add_checkpoint(body)
            if answer.status == 200:
                at = cosigned.note(body, answer.body).size
            elif answer.status == 409:
                at = int(answer.body)
            else:
                assert answer.status == 422, answer

    with ThreadPoolExecutor(64) as executor:
        list(executor.map(ask, range(64)))
    shown = witnesses[0].checkpoint(origin_hash(log.origin))
    assert shown is not None
    last = cosigned.note_shown(shown)
    cosigned.check()
    assert last.size == max(head.size for head in cosigned.heads) > 0
