"""A process that writes until it is killed, and says at once what was acknowledged to it.

Usage: writer DIRECTORY SEED THREADS LOG_PAGES [SEAL_BLOCKS]. On its input it is given the numbers
that earlier writers tried with a key and had no answer for; it tries those again. Then it goes on
from the highest number that is there. Lines on its output: "ready"; "open", or "refused" and it
ends; "try NUMBER KIND" before, and "ack NUMBER INDEX HASH" after, a value was recorded.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from cairn import Block, Ledger, LockedError
from cairn.store import database, disk
from tests.faults.harness import key, numbers, tune, value


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # one call: whole lines


def acknowledge(number: int, block: Block) -> None:
    say("ack", number, block.index, block.hash)


def append(ledger: Ledger, number: int) -> None:
    say("try", number, "plain")
    acknowledge(number, ledger.append(value(number)))


def append_keyed(ledger: Ledger, number: int) -> None:
    say("try", number, "keyed")
    acknowledge(number, ledger.append(value(number), key=key(number)))


def extend(ledger: Ledger, batch: list[int]) -> None:
    for number in batch:
        say("try", number, "plain")
    before = len(ledger)
    assert ledger.extend(map(value, batch)) == len(batch)
    mine = set(batch)
    for segment in ledger.scan(before):  # others' blocks may lie between
        for block in segment.blocks():
            if block.data["n"] in mine:
                acknowledge(block.data["n"], block)


def work(ledger: Ledger, counter: Iterator[int], choose: random.Random) -> None:
    while True:
        kind = choose.random()
        if kind < 0.4:
            append(ledger, next(counter))
        elif kind < 0.8:
            append_keyed(ledger, next(counter))
        else:
            extend(ledger, [next(counter) for _ in range(choose.choice((1, 2, 7, 40)))])


def main(
    directory: str, seed: str, threads: str, log_pages: str, seal_blocks: str = "32768"
) -> None:
    tune(database, LOG_PAGES=int(log_pages))
    tune(disk, SEAL_BLOCKS=int(seal_blocks))
    unanswered = [int(word) for word in sys.stdin.read().split()]
    say("ready")
    try:
        ledger = Ledger.open(Path(directory))
    except LockedError:
        say("refused")
        return
    with ledger:
        say("open")
        for number in unanswered:
            append_keyed(ledger, number)
        counter = itertools.count(max(numbers(ledger), default=0) + 1)
        for thread in range(int(threads) - 1):
            choose = random.Random(f"{seed} {thread}")
            threading.Thread(target=work, args=(ledger, counter, choose), daemon=True).start()
        work(ledger, counter, random.Random(seed))


if __name__ == "__main__":
    main(*sys.argv[1:])
