"""What validation holds in memory does not grow with the chain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cairn import Ledger

MOST = 300 * 2**20
"""Bytes of memory of its own, whatever the chain: far above what an interpreter and NumPy take."""
PROGRAM = """
import sys, threading, time
from cairn import Ledger

def own():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) * 1024

def watch():
    global most
    while True:
        most = max(most, own())
        time.sleep(0.001)

most = 0
threading.Thread(target=watch, daemon=True).start()
with Ledger.open(sys.argv[1], read_only=True) as ledger:
    assert ledger.validate(hasher=sys.argv[2]).valid
print(most)
"""
"""Validates, and says how many bytes of its own it had at most."""


def held(path: Path, hasher: str) -> int:
    command = [sys.executable, "-c", PROGRAM, str(path), hasher]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory is a process's own")
@pytest.mark.parametrize("hasher", ["hashlib", "lanes"])
def test_ten_times_the_blocks_take_no_more_memory(tmp_path: Path, hasher: str) -> None:
    sizes = []
    for blocks in (100_000, 1_000_000):
        path = tmp_path / str(blocks)
        with Ledger.open(path) as ledger:
            ledger.extend({"n": n} for n in range(blocks))
        sizes.append(max(held(path, hasher) for _ in range(3)))
    small, large = sizes
    assert large < MOST
    assert large < small + 32 * 2**20
