"""Benchmarks of the network: blocks from node to node, and the first sync of a long chain."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

import httpx
import numpy as np

from bench.measure import MILLION, spread, timed
from bench.peer import NOWHERE
from cairn import Ledger
from cairn.core.genesis import Genesis, Work
from cairn.core.header import DATA_ROOT, HEADER_BYTES, HEADER_DTYPE, LINK, Kind
from cairn.core.merkle import leaf_hash, tree_hash
from cairn.core.segment import Segment
from cairn.core.work import MAX_BITS, target_of, work_of
from cairn.hashing import best_hasher
from cairn.hashing.search import NONCE_BYTES
from cairn.ledger.exchange import export_lines, import_chain
from cairn.net.limits import BODIES_SECONDS, HELD_SECONDS
from cairn.store.disk import DiskStore

NODES: Final = 8
BLOCKS: Final = 24
BLOCK_BYTES: Final = 1_000_000
SEGMENT: Final = 8192
INTERVAL: Final = 10_000_000
NEXT_BLOCKS: Final = 20
DAY: Final = 86400 * 10**6
BEGAN: Final = 1_700_000_000_000_000
PATIENCE: Final = 60.0
_LISTENS: Final = re.compile(r"Cairn on (http://\S+)")
_BLOCK: Final = re.compile(r"(\S+ \S+) INFO cairn\.node\.peering: block (\d+) ([0-9a-f]+)\b")


@contextmanager
def node(ledger: Path, log: IO[bytes], *peers: str) -> Iterator[str]:
    """Run `cairn serve` on a ledger, and yield its address, without the scheme."""
    command = [sys.executable, "-m", "cairn", "serve", "--port", "0", "--verbose"]
    command += ["--ledger", str(ledger), "--peer-address", NOWHERE]
    for peer in peers:
        command += ["--peer", f"ws://{peer}"]
    env = {**os.environ, "CAIRN_HOME": str(ledger.with_suffix(".home"))}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, env=env
    ) as process:
        try:
            assert process.stdout is not None
            found = _LISTENS.search(process.stdout.readline())
            assert found is not None, "it does not start"
            yield found[1].removeprefix("http://")
        finally:
            process.terminate()


@contextmanager
def peer(ledger: Path, address: str, twist: str) -> Iterator[subprocess.Popen[str]]:
    """Run `bench.peer` on a ledger: it dials `address`."""
    command = [sys.executable, "-m", "bench.peer", str(ledger), f"ws://{address}", twist]
    env = {**os.environ, "CAIRN_HOME": str(ledger.with_suffix(".home"))}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def bench_hop(folder: Path) -> Iterator[tuple[str, str]]:
    """Pass blocks of 1 MB along a line of nodes, each a process, mined at one end."""
    folder = folder / "line"
    seal = Work(interval=INTERVAL, half_life=365 * DAY, final_depth=60)
    first = folder / "node1" / "ledger"
    with Ledger.create(first, Genesis(name="line", seal=seal), bits=MAX_BITS) as ledger:
        genesis = ledger[0].to_json().encode()
    logs = []
    with ExitStack() as stack:
        addresses: list[str] = []
        for number in range(2, NODES + 1):
            path = folder / f"node{number}" / "ledger"
            import_chain(path, [genesis])
            log = stack.enter_context((folder / f"log{number}").open("wb+"))
            logs.append(Path(log.name))
            addresses.append(stack.enter_context(node(path, log, *addresses[-1:])))
        miner = stack.enter_context(peer(first, addresses[0], "mines"))
        for number, address in enumerate(addresses, start=2):
            _until(lambda a=address, n=2 if number < NODES else 1: _connected(a) == n)
        mined = []
        for number in range(1, BLOCKS + 1):
            mined.append(_mine(miner, BLOCK_BYTES))
            _until(lambda n=number: _index(addresses[-1]) == n)
    seen = [_times(log) for log in logs]
    hops: list[list[float]] = []
    for number, at in enumerate(mined, start=1):
        times = [at, *(one[number] for one in seen)]
        hops.append([b - a for a, b in pairwise(times)])
    warm = hops[2:]
    yield "line", f"{NODES} nodes, {len(warm)} blocks of {BLOCK_BYTES / 1e6:.0f} MB, one at a time"
    every = sorted(hop for one in warm for hop in one)
    yield "**a hop** (goal: median under 100 ms)", spread(every, 1e3, "ms")
    yield "a hop, 9 of 10 at most", f"{1e3 * every[len(every) * 9 // 10]:.4g} ms"
    yield f"the whole line, {NODES - 1} hops", spread([sum(one) for one in warm], 1e3, "ms")


def _mine(miner: subprocess.Popen[str], size: int) -> float:
    """Have a block of so many bytes mined; return when it joined the miner's chain."""
    assert miner.stdin is not None
    assert miner.stdout is not None
    miner.stdin.write(f"{size}\n")
    miner.stdin.flush()
    return float(miner.stdout.readline())


def _times(log: Path) -> dict[int, float]:
    """Return when a node said of each block that it has it."""
    found = _BLOCK.findall(log.read_text())
    return {
        int(index): datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp()
        for at, index, _ in found
    }


def _until(holds: Any, seconds: float = PATIENCE, every: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(every)


def _connected(address: str) -> int:
    return len(httpx.get(f"http://{address}/peers").json()["peers"])


def _index(address: str) -> int:
    index: int = httpx.get(f"http://{address}/head", timeout=PATIENCE).json()["index"]
    return index


def bench_sync(folder: Path) -> Iterator[tuple[str, str]]:
    """Sync a million blocks from three peers, of which one stalls and one corrupts blocks."""
    folder = folder / "sync"
    chain = long_chain(folder / "made" / "ledger", MILLION)
    exported = folder / "exported"
    with Ledger.open(chain, read_only=True) as ledger:
        genesis = ledger[0].to_json().encode()
        with exported.open("w") as file:
            file.writelines(line + "\n" for line in export_lines(ledger))
    command = [sys.executable, "-m", "cairn", "import", str(exported), "--ledger"]

    def imported(name: str) -> float:
        return timed(
            lambda: subprocess.run([*command, str(folder / name)], check=True, capture_output=True)
        )

    before = imported("before")
    serving = []
    for twist in ("mines", "stalls", "corrupts"):
        serving.append((twist, folder / twist / "ledger"))
        shutil.copytree(chain, serving[-1][1])
    fresh = folder / "fresh" / "ledger"
    import_chain(fresh, [genesis])
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb+"))
        address = stack.enter_context(node(fresh, log))
        began = time.perf_counter()
        miner, *_ = [stack.enter_context(peer(path, address, twist)) for twist, path in serving]
        _until(lambda: _index(address) == MILLION, 600)
        synced = time.perf_counter() - began
        refusals = httpx.get(f"http://{address}/metrics").text
        time.sleep(HELD_SECONDS)  # then they may become final, by the blocks that come
        mined = []
        for number in range(1, NEXT_BLOCKS + 1):
            mined.append(_mine(miner, 1000))
            _until(lambda n=number: _index(address) == MILLION + n)
    seen = _times(Path(log.name))
    delays = [seen[MILLION + number] - at for number, at in enumerate(mined, start=1)]
    taken = median([before, imported("after")])
    said = dict(
        re.findall(r'^cairn_peer_refusals_total\{rule="(\S+)"\} (\S+)$', refusals, re.MULTILINE)
    )
    yield (
        "chain",
        f"{MILLION:,} blocks of one entry, {exported.stat().st_size / 1e6:.0f} MB exported",
    )
    yield "`cairn import`, before and after", f"{taken:.1f} s"
    yield "sync by a fresh node, three peers starting", f"{synced:.1f} s"
    yield (
        "peers let go meanwhile, by rule",
        ", ".join(f"{k} {float(n):.0f}" for k, n in said.items()),
    )
    yield f"the next {NEXT_BLOCKS} blocks, while it seals the others", spread(delays, 1e3, "ms")
    goal = f"goal at most 3, and {BODIES_SECONDS:.0f} s more for who stalls"
    yield f"**ratio** ({goal})", f"{synced / taken:.2f} ×"


def long_chain(path: Path, count: int) -> Path:
    """Make a ledger of work of genesis and `count` blocks of one entry, as easy as can be."""
    seal = Work(interval=INTERVAL, half_life=DAY, final_depth=60)
    genesis = Genesis(name="long", seal=seal).block(timestamp=BEGAN, salt=bytes(16), bits=MAX_BITS)
    import_chain(path, [genesis.to_json().encode()])
    before = genesis.stored_hash
    with closing(DiskStore(path, best_hasher())) as store:
        work = 0
        for start in range(1, count + 1, SEGMENT):
            stop = min(start + SEGMENT, count + 1)
            segment = _mined(start, stop, before)
            before = segment.hashes[-1].tobytes()
            work += (stop - start) * work_of(MAX_BITS)
            store.advance(segment, work=work, final=max(stop - seal.final_depth, 1))
    return path


def _mined(start: int, stop: int, before: bytes) -> Segment:
    """Return blocks that follow `before`, by the schedule: then targets stay as they are."""
    entries = [i.to_bytes(16) + b'{"id":%d}' % i for i in range(start, stop)]
    rows = np.zeros((stop - start, HEADER_BYTES), np.uint8)
    fields = rows.view(HEADER_DTYPE).reshape(-1)
    fields["version"], fields["kind"], fields["bits"], fields["count"] = 1, Kind.BATCH, MAX_BITS, 1
    fields["index"] = np.arange(start, stop)
    fields["timestamp"] = BEGAN + INTERVAL * np.arange(start, stop)
    fields["size"] = [len(entry) for entry in entries]
    roots = b"".join(tree_hash([leaf_hash(entry)]) for entry in entries)
    rows[:, DATA_ROOT] = np.frombuffer(roots, np.uint8).reshape(-1, 32)
    target = target_of(MAX_BITS).to_bytes(32)
    hashes = []
    for i in range(stop - start):
        row = rows[i]
        row[LINK] = np.frombuffer(before, np.uint8)
        head = sha256(b"\0" + row[:-NONCE_BYTES].tobytes())
        for nonce in range(256):
            found = head.copy()
            found.update(nonce.to_bytes(NONCE_BYTES))
            if (before := found.digest()) <= target:
                break
        row[-1] = nonce
        hashes.append(before)
    return Segment(
        start, rows, np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32),
        np.frombuffer(b"".join(entries), np.uint8),
        np.cumsum([0, *map(len, entries)], dtype=np.uint64),
    )  # fmt: skip


BENCHES = {"hop": bench_hop, "sync": bench_sync}
