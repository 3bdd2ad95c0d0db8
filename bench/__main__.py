"""Measure, and print ratios of what was measured in the same run, as Markdown.

python -m bench [extend] [append] [open] [memory] [service] [bulk] [long] [pages] [proofs] [signing]
[hop] [sync], or all of these; and only if they are named: scale (100 million blocks, 20 GB), cuda
(needs a GPU)
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from bench import cuda, network, proofs, service
from bench.measure import MILLION, events, million, rate, small_events, spread, timed
from cairn import Ledger


def bench_extend(folder: Path) -> Iterator[tuple[str, str]]:
    """Durable `extend` against hashing alone, with nothing stored."""
    for name, objects in (("100 bytes", small_events(300_000)), ("200 bytes", events(300_000))):
        yield from extend_objects(folder / name, objects)


def extend_objects(folder: Path, objects: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    count, rounds = len(objects), 7
    size = sum(len(json.dumps(o)) for o in objects) / count

    def loop() -> None:
        for item in objects:
            hashlib.sha256(json.dumps(item, sort_keys=True).encode()).digest()

    plain, ours = [], []
    for i in range(rounds):
        plain.append(timed(loop))
        with Ledger.open(folder / f"extend{i}") as ledger:
            ours.append(timed(lambda: ledger.extend(objects)))
    ratios = [a / b for a, b in zip(plain, ours, strict=True)]
    yield "objects", f"{count:,} of {size:.0f} bytes on average, {rounds} rounds in turn"
    yield "`json.dumps(sort_keys=True)` + SHA-256, no storage", rate(plain, count)
    yield "`Ledger.extend`, durable (goal at least 500,000/s of 100 bytes)", rate(ours, count)
    yield "**ratio** (goal at least 2)", spread(ratios, 1, "×")


def bench_append(folder: Path) -> Iterator[tuple[str, str]]:
    """Durable `append` against the least that SQLite can do with the same promise."""
    warm, rounds, calls = 20, 25, 100
    plain, ours = [], []
    with (
        closing(sqlite3.connect(folder / "bare.sqlite", isolation_level=None)) as connection,
        Ledger.open(folder / "append") as ledger,
    ):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, row BLOB)")
        value, row = {"user": "alice", "note": "x" * 150}, bytes(360)

        def commit() -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO rows (row) VALUES (?)", (row,))
            connection.execute("COMMIT")

        for number in range(warm + rounds):
            a = median(timed(commit) for _ in range(calls))
            b = median(timed(lambda: ledger.append(value)) for _ in range(calls))
            if number >= warm:  # both logs have grown to their size, and are written in place
                plain.append(a)
                ours.append(b)
    ratios = [a / b for a, b in zip(plain, ours, strict=True)]
    yield "calls", f"{rounds} rounds of {calls} in turn, the median of each"
    yield "bare SQLite commit of a 360-byte row, WAL and FULL", spread(plain, 1e6, "µs")
    yield "`Ledger.append`, durable", spread(ours, 1e6, "µs")
    yield "**ratio** (goal at least 0.7)", spread(ratios, 1, "×")


def bench_open(folder: Path) -> Iterator[tuple[str, str]]:
    """Open a long ledger, to read and to write, and get first answers from it."""
    count = 10 * MILLION
    path = million(folder, count)
    with Ledger.open(path) as ledger:
        wanted = ledger[count // 2].hash
    reading: list[float] = []
    writing: list[float] = []
    blocks: list[float] = []
    finding: list[float] = []
    for _ in range(15):
        reading.append(timed(lambda: Ledger.open(path, read_only=True).close()))
        writing.append(timed(lambda: Ledger.open(path).close()))
        with Ledger.open(path, read_only=True) as ledger:
            blocks.append(timed(lambda: ledger[count // 3]))
            finding.append(timed(lambda: ledger.find(wanted)))
    yield "ledger", f"{count:,} blocks, page cache warm, 15 times"
    yield "open to read", spread(reading, 1e3, "ms")
    yield "open to write (goal under 200 ms)", spread(writing, 1e3, "ms")
    yield "the first block by index", spread(blocks, 1e3, "ms")
    yield "a block by hash", spread(finding, 1e3, "ms")


VALIDATE_AND_WATCH = """
import re, sys, threading
from pathlib import Path
from cairn import Ledger

def resident(kind):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{kind}:\\s+(\\d+)", status)[1]) / 1024

def watch():
    while not done.wait(0.005):
        seen.append((resident("RssAnon"), resident("RssFile")))

done, seen = threading.Event(), []
watcher = threading.Thread(target=watch)
with Ledger.open(sys.argv[1], read_only=True) as ledger:
    before = resident("RssAnon")
    watcher.start()
    report = ledger.validate()
    done.set()
    watcher.join()
    assert report.valid
    print(before, *map(max, zip(*seen)), report.seconds)
"""


def bench_memory(folder: Path) -> Iterator[tuple[str, str]]:
    """Time and memory of validation, as the ledger grows."""
    for count in (MILLION, 10 * MILLION):
        yield validated(folder, count)


def bench_scale(folder: Path) -> Iterator[tuple[str, str]]:
    """Time and memory of validation of 100 million blocks."""
    yield validated(folder, 100 * MILLION)


def validated(folder: Path, count: int) -> tuple[str, str]:
    path = million(folder, count)
    command = [sys.executable, "-c", VALIDATE_AND_WATCH, str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, anonymous, mapped, seconds = map(float, output.split())
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return (
        f"validate {count:,} blocks, {size / 1e9:.1f} GB",
        (
            f"{seconds:.2f} s, {count / seconds / 1e6:.1f} million blocks/s; RssAnon "
            f"{before:.0f} MiB before, {anonymous:.0f} MiB at most (goal under 300); mapped "
            f"{mapped:.0f} MiB at most"
        ),
    )


def machine() -> str:
    """Return what this ran on."""
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(": ")[2]
    flags = Path("/proc/cpuinfo").read_text()
    simd = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return (
        f"{os.cpu_count()} × {cpu} ({simd}), {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


BENCHES = {
    "extend": bench_extend,
    "append": bench_append,
    "open": bench_open,
    "memory": bench_memory,
    **service.BENCHES,
    **proofs.BENCHES,
    **network.BENCHES,
}
ON_REQUEST = {"scale": bench_scale, **cuda.BENCHES}


def main() -> None:
    """Run the benchmarks that are named, or all."""
    names = sys.argv[1:] or list(BENCHES)
    known = BENCHES | ON_REQUEST
    print(f"Machine: {machine()}\n")
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        os.environ["CAIRN_HOME"] = str(Path(folder) / "home")  # of no use after this: keys, too
        for name in names:
            print(f"### {name}: {known[name].__doc__}\n")
            print("| what | measured |\n|---|---|")
            for what, measured in known[name](Path(folder)):
                print(f"| {what} | {measured} |", flush=True)
            print()


if __name__ == "__main__":
    main()
