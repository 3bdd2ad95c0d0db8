"""Running the programs, and comparing what they said with what is recorded."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 60.0
"""Seconds until a program that does not end is killed, on a busy machine too."""


@dataclass
class Said:
    """What a program said until it ended."""

    code: int
    """What it exited with; minus the signal that it died of."""
    last: dict[str, int]
    """By thread, the last number of which the logging call returned."""
    words: list[str]
    errors: str


@dataclass
class Program:
    """A program that runs."""

    process: subprocess.Popen[str]
    errors: IO[str]
    patience: threading.Timer
    last: dict[str, int] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def read_until(self, word: str) -> None:
        """Read until it says a line with this word first."""
        for line in self._lines():
            if line[0] == word:
                return
        raise AssertionError(f"it ended before it said {word}: {self._end().errors}")

    def kill(self, *signals: int, pause: float = 0.0) -> Said:
        """Send signals, and read what it says until it is gone."""
        for number in signals:
            self.process.send_signal(number)
            time.sleep(pause)
        return self._end()

    def _end(self) -> Said:
        for _ in self._lines():
            pass
        code = self.process.wait()
        self.patience.cancel()
        with self.errors:
            self.errors.seek(0)
            return Said(code, self.last, self.words, self.errors.read())

    def _lines(self) -> Iterator[list[str]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            words = line.split()
            match words:
                case [thread, number]:
                    assert int(number) == self.last.get(thread, -1) + 1, line
                    self.last[thread] = int(number)
                case [word]:
                    self.words.append(word)
            yield words
        self.process.stdout.close()


def start(name: str, target: object) -> Program:
    command = [sys.executable, "-m", "tests.logs.programs", name, str(target)]
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - not a pipe, which may be full
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
    patience = threading.Timer(PATIENCE, process.kill)
    patience.daemon = True
    patience.start()
    return Program(process, errors, patience)


def run(name: str, target: object) -> Said:
    """Run a program to its end."""
    return start(name, target).kill()


def numbers(entries: Iterable[Any]) -> dict[str, list[int]]:
    """Return by thread the numbers that are recorded, in the order of the ledger."""
    found = defaultdict(list)
    for entry in entries:
        if "dropped" not in entry:
            found[entry["extra"]["thread_"]].append(int(entry["message"]))
    return found


def assert_all_recorded(said: Said, entries: Iterable[Any]) -> None:
    """Hold that each thread's records are there once, in order, and none is missing that returned.

    One more may be: that of the call which the end interrupted.
    """
    found = numbers(entries)
    assert said.last.keys() <= found.keys()
    for thread, recorded in found.items():
        assert recorded == list(range(len(recorded))), f"{thread} is not in order, or has holes"
        returned = said.last.get(thread, -1) + 1
        assert returned <= len(recorded) <= returned + 1, thread
