"""Benchmarks of proofs, beside pymerkle's, and of what signing checkpoints costs appends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from random import Random
from threading import Event

import httpx
import pymerkle  # type: ignore[import-untyped]

from bench.measure import MILLION, million, rate, small_events, spread, timed
from bench.service import BODY, load, node
from cairn import Ledger
from cairn.core.proofs import check_consistency, check_inclusion
from cairn.node.checkpoints import SECONDS
from cairn.store.disk import SEAL_BLOCKS

BULK, SOME, FEW = 100_000, 2000, 500
"""Proofs in a round: in bulk, one by one, and where each takes a millisecond."""
CACHED = 128
"""Leaves below a node that pymerkle keeps in its cache, at least."""
FULL_TAIL = 32_000
"""Blocks that are not sealed yet, each appended by itself: nearly as many as there can be."""

FIRST_PROOF = """
import sys, time
from cairn import Ledger

moments = [time.perf_counter()]
with Ledger.open(sys.argv[1], read_only=True) as ledger:
    moments.append(time.perf_counter())
    ledger.published()
    moments.append(time.perf_counter())
    import cryptography.hazmat.primitives.asymmetric.ed25519
    moments.append(time.perf_counter())
    receipt = ledger.receipt(int(sys.argv[2]))
    moments.append(time.perf_counter())
    receipt.check(ledger.notary.policy())
print(moments[4] - moments[0], *(b - a for a, b in zip(moments, moments[1:])))
"""

UNSIGNED_NODE = """
from runpy import run_module
from cairn.node.checkpoints import Checkpoints

Checkpoints.grown = lambda self: None
run_module("bench.server", run_name="__main__")
"""


def bench_proofs(folder: Path) -> Iterator[tuple[str, str]]:
    """Prove blocks of a ledger of a million, beside pymerkle's tree of the same headers."""
    path = million(folder)
    with Ledger.open(path) as ledger:
        ledger.checkpoint()
    with Ledger.open(path, read_only=True) as ledger:
        yield from in_turn(ledger, folder / "pymerkle.sqlite")
    yield from first_proof(path, f"{MILLION:,} blocks")
    full = with_full_tail(path, folder / "full-tail")
    yield from first_proof(full, f"{FULL_TAIL:,} more, not sealed yet")


def in_turn(ledger: Ledger, database: Path) -> Iterator[tuple[str, str]]:
    """Prove the same, again and again, by all there is; then check what was proved."""
    rounds, chosen = 5, Random(1)
    signed, policy = ledger.checkpoint().checkpoint, ledger.notary.policy()
    tree, size = ledger.notary.tree, signed.size
    indexes = [chosen.randrange(size) for _ in range(BULK)]
    rising, some, few = sorted(indexes), indexes[:SOME], indexes[:FEW]
    olds = [1 + index for index in some]
    receipts = [ledger.receipt(index) for index in few]

    rival = pymerkle.SqliteTree(str(database))
    headers = (header.tobytes() for part in ledger.scan() for header in part.headers)
    made = timed(lambda: rival.append_entries(headers))
    fresh = until_done(lambda: (rival.prove_inclusion(1 + index) for index in some))
    until_done(lambda: (rival.prove_inclusion(1 + index) for index in range(0, size, CACHED)))

    bulk, theirs = "`Ledger.prove`, at random (goal at least 50,000/s)", "all it can in its cache"
    contenders: dict[str, tuple[int, Callable[[], Iterator[object]]]] = {
        theirs: (SOME, lambda: (rival.prove_inclusion(1 + index) for index in some)),
        bulk: (BULK, lambda: ledger.prove(indexes)),
        "the same, in rising order": (BULK, lambda: ledger.prove(rising)),
        f"the same, a run of {BULK:,}": (BULK, lambda: ledger.prove(range(size - BULK, size))),
        f"the same, {SOME:,} at random": (SOME, lambda: ledger.prove(some)),
        "`Tree.prove_inclusion`": (SOME, lambda: (tree.prove_inclusion(i, size) for i in some)),
        "`Tree.prove_consistency`, from any size": (
            SOME,
            lambda: (tree.prove_consistency(old, size) for old in olds),
        ),
        "`Ledger.receipt`": (FEW, lambda: map(ledger.receipt, few)),
        "`Receipt.check`": (FEW, lambda: (receipt.check(policy) for receipt in receipts)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (_, work) in contenders.items():
            seconds[name].append(until_done(work))

    yield "proofs", f"of {size:,} blocks, the same ones, {rounds} rounds in turn"
    what = f"pymerkle {pymerkle.__version__} `SqliteTree`"
    yield f"{what}, made of all headers at once", f"{made:.1f} s"
    yield f"{what}, the first {SOME:,} after that", rate([fresh], SOME)
    for name, (count, _) in contenders.items():
        yield f"{what}, {name}" if name == theirs else name, rate(seconds[name], count)
    pairs = zip(seconds[theirs], seconds[bulk], strict=True)
    ratios = [a / SOME * BULK / b for a, b in pairs]
    yield "**ratio**, at random (goal at least 10)", spread(ratios, 1, "×")
    sizes = [float(len(receipt.to_json().encode())) for receipt in receipts]
    yield "size of a receipt", spread(sizes, 1, "bytes")

    leaves = [leaf.tobytes() for leaf in tree.row(0, 0, size)]
    for index, proof in zip(indexes, ledger.prove(indexes), strict=True):
        check_inclusion(proof, index, size, leaves[index], signed.root)
    for index in some:
        proof = tree.prove_inclusion(index, size)
        check_inclusion(proof, index, size, leaves[index], signed.root)
        rival.prove_inclusion(1 + index).verify(leaves[index], signed.root, 1 + index, size)
    for old in olds:
        proof = tree.prove_consistency(old, size)
        check_consistency(proof, old, size, tree.root(old), signed.root)
    rival.close()


def until_done(work: Callable[[], Iterator[object]]) -> float:
    """Return the seconds until all that `work` yields has come."""
    return timed(lambda: deque(work(), maxlen=0))


def first_proof(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """Open a ledger in a new process, again and again, and make one receipt."""
    with Ledger.open(path, read_only=True) as ledger:
        length = len(ledger)
    chosen, times = Random(2), 15
    runs: list[list[float]] = []
    for _ in range(times):
        command = [sys.executable, "-c", FIRST_PROOF, str(path), str(chosen.randrange(length))]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        runs.append([float(seconds) for seconds in output.split()])
    whole, *parts = (spread(list(each), 1e3, "ms") for each in zip(*runs, strict=True))
    yield f"first receipt in a new process, {name}, {times} times (goal under 10 ms)", whole
    names = ["opening to read", "the checkpoint", "loading `cryptography`", "the receipt"]
    yield "of which " + ", ".join(names), ", ".join(parts)


def with_full_tail(path: Path, copy: Path) -> Path:
    """Return a copy of a ledger with `FULL_TAIL` blocks more, appended one by one."""
    with Ledger.open(path, read_only=True) as ledger:
        ledger.backup(copy)
    with Ledger.open(copy) as ledger:
        ledger.append_all([{"id": i} for i in range(SEAL_BLOCKS + 1)])  # too many: all is sealed
        for i in range(FULL_TAIL):
            ledger.append({"id": i})
        ledger.checkpoint()
    return copy


def bench_signing(folder: Path) -> Iterator[tuple[str, str]]:
    """Durable appends while checkpoints are signed every 0.25 s, against the same without."""
    yield from embedded_appends(folder / "signed-appends")
    yield from embedded_extend(folder / "signed-extend")
    yield from over_http(folder)


def embedded_appends(path: Path) -> Iterator[tuple[str, str]]:
    count, rounds, value = 10_000, 9, {"user": "alice", "note": "x" * 150}

    def work(ledger: Ledger) -> None:
        for _ in range(count):
            ledger.append(value)

    yield from embedded(path, f"`Ledger.append`, {count:,} by one thread", count, rounds, work)


def embedded_extend(path: Path) -> Iterator[tuple[str, str]]:
    objects, times, rounds = small_events(300_000), 3, 5
    count = times * len(objects)

    def work(ledger: Ledger) -> None:
        ledger.extend(chain.from_iterable(repeat(objects, times)))

    yield from embedded(path, f"`Ledger.extend`, {count:,} of 100 bytes", count, rounds, work)


def embedded(
    path: Path, name: str, count: int, rounds: int, work: Callable[[Ledger], None]
) -> Iterator[tuple[str, str]]:
    """Append `count` blocks by `work`, in turns with and without a thread that signs."""
    each: list[float] = []
    with Ledger.open(path) as ledger:

        def without() -> float:
            ledger.checkpoint()  # so that what came before is not for the next to sign
            return timed(lambda: work(ledger))

        def with_signing() -> float:
            ledger.checkpoint()
            with signing(ledger, each):
                return timed(lambda: work(ledger))

        without()  # the log has grown to its size
        yield from compared(name, count, rounds, without, with_signing)
    yield "a checkpoint meanwhile, signed and published", spread(each, 1e3, "ms")


@contextmanager
def signing(ledger: Ledger, each: list[float]) -> Iterator[None]:
    """Sign as often as a node does, in a thread; add the seconds that each took to `each`."""
    done, notary = Event(), ledger.notary

    def sign() -> None:
        while not done.wait(SECONDS):
            each.append(timed(lambda: notary.publish(notary.sign())))

    with ThreadPoolExecutor(1) as executor:
        signer = executor.submit(sign)
        try:
            yield
        finally:
            done.set()
        signer.result()


def over_http(folder: Path) -> Iterator[tuple[str, str]]:
    """Load two nodes in turn, of which one signs nothing but its genesis."""
    connections, requests, rounds = 32, 12_000, 9
    body = folder / "signing-body"
    body.write_bytes(BODY)

    def seconds(url: str) -> float:
        return float(load(url, "/block", body, connections, requests)["seconds"])

    with (
        unsigned_node(folder / "unsigned-node") as plain,
        node(folder / "signed-node") as (signed, _),
    ):
        for url in (plain, signed):
            seconds(url)  # the log has grown to its size
        name = f"`POST /block`, {requests:,} by {connections} connections"
        yield from compared(name, requests, rounds, lambda: seconds(plain), lambda: seconds(signed))
        assert checkpoint_size(plain) == 1 < checkpoint_size(signed)


@contextmanager
def unsigned_node(directory: Path) -> Iterator[str]:
    """Run a node that signs nothing but what there is when it starts; yield its URL."""
    command = [sys.executable, "-c", UNSIGNED_NODE, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGTERM)


def checkpoint_size(url: str) -> float:
    metrics = httpx.get(f"{url}/metrics").text
    [size] = re.findall(r"^cairn_checkpoint_blocks (.*)$", metrics, re.MULTILINE)
    return float(size)


def compared(
    name: str,
    count: int,
    rounds: int,
    without: Callable[[], float],
    with_signing: Callable[[], float],
) -> Iterator[tuple[str, str]]:
    """Run both in turn, each first in every second round: a seal meets them alike."""
    plain: list[float] = []
    signed: list[float] = []
    for number in range(rounds):
        pair = [(without, plain), (with_signing, signed)]
        for work, seconds in pair[:: -1 if number % 2 else 1]:
            seconds.append(work())
    yield f"{name}, {rounds} rounds in turn, nothing signed", rate(plain, count)
    yield "the same, and checkpoints are signed", rate(signed, count)
    ratios = [a / b for a, b in zip(plain, signed, strict=True)]
    yield "**ratio** (goal at least 0.9)", spread(ratios, 1, "×")


BENCHES = {"proofs": bench_proofs, "signing": bench_signing}
