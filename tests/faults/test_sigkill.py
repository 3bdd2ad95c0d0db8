"""A writer is killed at any moment, again and again: what it acknowledged is there."""

from __future__ import annotations

import os
import random
import shutil
import threading
from pathlib import Path

import pytest

from cairn import Ledger
from cairn.store.directory import FILE_NAME, occupied
from tests.faults.harness import FILES, LEFTOVER, Place, check, names_in, open_and_check, start

DELAYS = (0.004, 0.015, 0.2)
"""Seconds that a writer gets, at most: to die while creating, while opening, while writing."""
SEALS = (1, 5, 32_768)
"""Blocks that a tail holds: with few, most appends write a file."""


class History:
    """One directory, and what all the writers that died on it have said."""

    def __init__(self, directory: Path, choose: random.Random) -> None:
        self.path = directory / "ledger"
        self.copies = directory / "copies"
        self.choose = choose
        self.acknowledged: dict[int, Place] = {}
        self.tried: set[int] = set()
        self.unanswered: set[int] = set()

    def kill_one_writer(self) -> None:
        choose = self.choose
        threads, pages, seal = (
            choose.choice((1, 4)),
            choose.choice((20, 1000)),
            choose.choice(SEALS),
        )
        process = start("writer", self.path, choose.random(), threads, pages, seal)
        assert process.stdin is not None
        assert process.stdout is not None
        with process, process.stdin, process.stdout:
            process.stdin.write(" ".join(map(str, self.unanswered)))
            process.stdin.close()
            assert process.stdout.readline() == "ready\n"
            killer = threading.Timer(choose.uniform(0, choose.choice(DELAYS)), process.kill)
            killer.start()
            for line in process.stdout:
                if line.endswith("\n"):
                    self._hear(line.split())
            killer.join()
        assert process.returncode == -9, "the writer ended by itself"

    def _hear(self, words: list[str]) -> None:
        match words:
            case ["try", number, kind]:
                self.tried.add(int(number))
                if kind == "keyed":
                    self.unanswered.add(int(number))
            case ["ack", number, index, block_hash]:
                at = Place(int(index), block_hash)
                assert self.acknowledged.setdefault(int(number), at) == at
                self.unanswered.discard(int(number))

    def is_there(self) -> bool:
        """Whether there is a ledger; without one, there is nothing but what creators left."""
        if not self.path.exists():
            return False
        assert names_in(self.path.parent) == {self.path.name}
        names = names_in(self.path)
        assert all(LEFTOVER.fullmatch(name) for name in names - FILES), names
        assert FILE_NAME in names or not occupied(self.path), f"a piece of a ledger: {names}"
        return FILE_NAME in names

    def check(self) -> None:
        if not self.is_there():
            assert not self.acknowledged
            return
        # Recovery is tried out on a copy: for the next writer there must be some left to do.
        copy = self.copies / "ledger"
        shutil.copytree(self.path, copy)
        open_and_check(copy, self.acknowledged, self.tried)
        shutil.rmtree(self.copies)

    def check_beside_the_log(self) -> None:
        if self.is_there():
            with Ledger.open(self.path, read_only=True) as ledger:
                check(ledger, self.acknowledged, self.tried)


def kill(times: int, directory: Path, *, on_each: int) -> int:
    """Kill `times` writers, `on_each` on the same directory; return how many values were safe."""
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(2**32))
    choose = random.Random(seed)
    safe = 0
    try:
        for history in range(times // on_each):
            one = History(directory / str(history), choose)
            for _ in range(on_each):
                one.kill_one_writer()
                one.check()
                if choose.random() < 0.3:
                    one.check_beside_the_log()
            one.check_beside_the_log()
            safe += len(one.acknowledged)
            shutil.rmtree(directory / str(history), ignore_errors=True)
    except BaseException as error:
        error.add_note(f"FAULT_SEED={seed}")
        raise
    return safe


def test_what_was_acknowledged_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    assert kill(20, tmp_path, on_each=10) > 0


@pytest.mark.soak
def test_what_was_acknowledged_survives_kills_of_writers_that_always_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.faults.test_sigkill.SEALS", (1,))
    monkeypatch.setattr("tests.faults.test_sigkill.DELAYS", (0.2,))
    assert kill(200, tmp_path, on_each=25) > 0


@pytest.mark.soak
def test_what_was_acknowledged_survives_a_thousand_kills(tmp_path: Path) -> None:
    assert kill(1000, tmp_path, on_each=25) > 0
