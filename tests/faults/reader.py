"""A process that reads beside a writer, and fails where what it sees does not fit together.

Usage: reader DIRECTORY USER TASK [ARGUMENT]. With a USER other than 0 it gives up all rights for
those of that user id before it opens anything. It says "open", then does its task:

    look                      say what is there, once for each line on its input
    scan                      say "begun", and count the blocks after a line on its input
    watch SECONDS             read and validate again and again, for so long or some times
    backup SECONDS            back up again and again, and validate each copy, likewise
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cairn import Ledger
from cairn.store import stored_runs
from tests.faults.harness import tune

ROUNDS = 4
"""At least, on however slow a machine."""


def say(*words: object) -> None:
    print(*words, flush=True)


def look(ledger: Ledger) -> None:
    for _ in sys.stdin:
        report = ledger.validate()
        assert report.valid, report.failure
        blocks = list(ledger)
        assert [block.index for block in blocks] == list(range(len(blocks)))
        say(len(blocks), blocks[-1].hash)


def scan(ledger: Ledger) -> None:
    segments = ledger.scan()
    count = len(next(segments))
    say("begun")
    sys.stdin.readline()
    say(count + sum(map(len, segments)))


def rounds(seconds: float) -> Iterator[int]:
    end = time.monotonic() + seconds
    count = 0
    while count < ROUNDS or time.monotonic() < end:
        yield count
        count += 1


def watch(ledger: Ledger, seconds: float) -> None:
    length, known = len(ledger), ledger.head
    for _ in rounds(seconds):
        now = len(ledger)
        assert now >= length, f"{length} blocks became {now}"
        assert ledger[known.index] == known
        report = ledger.validate()
        assert report.valid, report.failure
        assert report.blocks >= now
        length, known = report.blocks, ledger[report.blocks - 1]
        assert ledger.find(known.hash) == known
    say("length", length)


def backup(ledger: Ledger, seconds: float) -> None:
    length = 0
    with tempfile.TemporaryDirectory() as directory:
        for count in rounds(seconds):
            target = Path(directory) / str(count)
            at_least = len(ledger)
            ledger.backup(target)
            with Ledger.open(target, read_only=True) as copy:
                report = copy.validate()
                assert report.valid, report.failure
                assert report.blocks == len(copy) >= max(at_least, length)
                assert ledger[len(copy) - 1] == copy.head
                length = len(copy)
    say("length", length)


def main(directory: str, user: str, task: str, seconds: str = "0") -> None:
    tune(stored_runs, SCAN_BLOCKS=100)
    if user != "0":
        with Ledger.in_memory() as ledger:  # imports all there is, while we may
            assert ledger.append({"some": "value"}) == ledger.head
            assert ledger.validate().valid
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
    with Ledger.open(Path(directory), read_only=True) as ledger:
        say("open")
        match task:
            case "look":
                look(ledger)
            case "scan":
                scan(ledger)
            case "watch":
                watch(ledger, float(seconds))
            case "backup":
                backup(ledger, float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
