"""Measure validation of a sealed ledger beside its rivals, for one size of data after another."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from cairn.bench import rivals
from cairn.bench.data import build, objects, strings
from cairn.bench.measure import Contender, Spread, in_turn, machine, others_cpu, timed
from cairn.core.entry import SALT_BYTES
from cairn.core.header import HEADER_BYTES
from cairn.core.rules import InvalidChainError
from cairn.hashing import best_hasher, names
from cairn.hashing.lanes import INSTRUCTION_SETS
from cairn.hashing.search import cpus
from cairn.ledger import Ledger

EXAMPLE: Final = "example's loop, strings"
EXAMPLE_OBJECTS: Final = "example's loop, objects"
EXAMPLE_JSON: Final = "example's loop, objects as sorted JSON"
CAREFUL: Final = "careful hashlib loop, 1 thread"
OPENSSL: Final = "openssl speed, all cores"
CEILING: Final = "pure compressions, all cores"
OURS: Final = "cairn, all cores"
OURS_OBJECTS: Final = "cairn, all cores, objects"

GOALS: Final = {
    "over the example, strings": {64: 30.0, 256: 20.0, 4096: 6.0, 65536: 4.0},
    "over the example, objects": {64: 50.0, 256: 60.0, 4096: 85.0, 65536: 85.0},
    "over OpenSSL": {4096: 1.3, 65536: 1.3},
    "of the ceiling": {64: 0.75, 256: 0.75, 4096: 0.75, 65536: 0.75},
}
"""At least so many times as fast, on two cores with AVX-512, by size of data."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    sizes: tuple[int, ...] = (64, 256, 4096, 65536)
    """Bytes of the canonical JSON of each entry."""
    blocks: int = 2**20
    """In a ledger, at most."""
    data: int = 512 * 2**20
    """Bytes of headers and entries in a ledger, about: some 20 parts for each of two cores."""
    example: int = 32 * 2**20
    """Bytes of data in a chain of the teaching example, at most: a fraction of a second."""
    compressions: int = 500_000
    """Of all lanes at once, for the ceiling, of each thread."""
    rounds: int = 5


QUICK: Final = Plan(
    sizes=(64, 256), blocks=2000, data=2**21, example=2**17, compressions=1000, rounds=1
)
"""To see that it works; says nothing about speed."""

EXAMPLE_BLOCKS: Final = 50_000
"""In a chain of the teaching example, at most."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast one median is as another."""

    name: str
    value: float
    goal: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured for one size of data."""

    size: int
    """Bytes of the canonical JSON of each entry."""
    blocks: int
    """In the ledger of strings."""
    members: int
    """Of each object."""
    rates: dict[str, Spread]
    """Blocks a second by contender; of OpenSSL messages, of the ceiling as many as it allows."""
    nbytes: dict[str, int]
    """Bytes of each of these: a header and an entry; of OpenSSL a message."""

    @property
    def gigabytes(self) -> dict[str, Spread]:
        """GB/s by contender."""
        return {name: rate.times(self.nbytes[name] / 1e9) for name, rate in self.rates.items()}

    @property
    def ratios(self) -> Iterator[Ratio]:
        """Our medians over those of the others; over OpenSSL in bytes, else in blocks."""
        for name, ours, other, rates in (
            ("over the example, strings", OURS, EXAMPLE, self.rates),
            ("over the example, objects", OURS_OBJECTS, EXAMPLE_OBJECTS, self.rates),
            ("over the example, objects as sorted JSON", OURS_OBJECTS, EXAMPLE_JSON, self.rates),
            ("over the careful loop", OURS, CAREFUL, self.rates),
            ("over OpenSSL", OURS, OPENSSL, self.gigabytes),
            ("of the ceiling", OURS, CEILING, self.rates),
        ):
            if other in rates:
                value = rates[ours].median / rates[other].median
                yield Ratio(name, value, GOALS.get(name, {}).get(self.size))

    def to_value(self) -> dict[str, Any]:
        """Return a JSON object."""
        gigabytes = self.gigabytes
        return {
            "size": self.size,
            "blocks": self.blocks,
            "members": self.members,
            "rates": [
                {
                    "name": name,
                    "bytes": self.nbytes[name],
                    "per_second": rate._asdict(),
                    "gigabytes_per_second": gigabytes[name]._asdict(),
                }
                for name, rate in self.rates.items()
            ],
            "ratios": [
                {"name": ratio.name, "value": ratio.value, "goal": ratio.goal}
                for ratio in self.ratios
            ],
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that was measured, and on what."""

    machine: str
    others: float | None
    """The share of all cores' time that other programs took meanwhile, if the system says."""
    rounds: int
    missing: tuple[str, ...]
    """What could not be measured here, and why."""
    results: tuple[Result, ...]

    def to_value(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "machine": self.machine,
            "others": self.others,
            "rounds": self.rounds,
            "missing": list(self.missing),
            "sizes": [result.to_value() for result in self.results],
        }


def measure(plan: Plan, progress: Callable[[int], None]) -> Outcome:
    """Measure as `plan` says, in a scratch folder; `progress` is told the percentage done."""
    where = "; ".join([machine(), *filter(None, [rivals.openssl_version()])])
    results = []
    began, taken = time.perf_counter(), others_cpu()
    with ProcessPoolExecutor(cpus(), get_context("spawn")) as processes:
        for number, size in enumerate(plan.sizes):
            part = partial(_part, progress, number, len(plan.sizes))
            with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
                results.append(_measure_size(size, plan, Path(folder), processes, part))
    after, available = others_cpu(), (time.perf_counter() - began) * cpus()
    others = None if taken is None or after is None else (after - taken) / available
    return Outcome(where, others, plan.rounds, tuple(missing()), tuple(results))


def missing() -> Iterator[str]:
    """Yield what cannot be measured here, and why."""
    if rivals.openssl_version() is None:
        yield f"{OPENSSL}: openssl is not installed"
    if not INSTRUCTION_SETS:
        yield f"{CEILING}: the C kernel was not built"


def _part(progress: Callable[[int], None], number: int, parts: int, done: float) -> None:
    """Report that of part `number` of so many this share is done."""
    progress(int(100 * (number + done) / parts))


def compressions(size: int) -> int:
    """Return how many compressions a block needs whose entry has `size` bytes of JSON."""
    return _padded(SALT_BYTES + size) + _padded(HEADER_BYTES)


def _padded(leaf: int) -> int:
    """Return the 64-byte blocks of a leaf: a prefix byte, the leaf, a bit and the length."""
    return (1 + leaf + 9 + 63) // 64


def _measure_size(
    size: int, plan: Plan, folder: Path, processes: Executor, progress: Callable[[float], None]
) -> Result:
    nbytes = HEADER_BYTES + SALT_BYTES + size
    wanted = min(plan.blocks, plan.data // nbytes)
    blocks = build(folder / "strings", strings(size), size, wanted)
    build(folder / "objects", objects(size), size, wanted)
    message = 1 + SALT_BYTES + size
    found = list(contenders(size, message, plan, folder, processes))
    return Result(
        size=size,
        blocks=blocks,
        members=len(next(objects(size))),
        rates=in_turn(found, plan.rounds, progress),
        nbytes={c.name: message if c.name == OPENSSL else nbytes for c in found},
    )


def contenders(
    size: int, message: int, plan: Plan, folder: Path, processes: Executor
) -> Iterator[Contender]:
    """Yield all that can run here; `message` bytes are hashed for an entry."""

    def ours(name: str, hasher: str | None = None, threads: int | None = None) -> Contender:
        return Contender(name, partial(_ours, folder / "strings", hasher, threads))

    count = max(min(EXAMPLE_BLOCKS, plan.example // size), 2)
    for name, values, digest in (
        (EXAMPLE, strings(size), rivals.example_hash),
        (EXAMPLE_OBJECTS, objects(size), rivals.example_hash),
        (EXAMPLE_JSON, objects(size), rivals.example_json_hash),
    ):
        chain = rivals.example_chain(list(islice(values, count)), digest)
        yield Contender(name, partial(_example, chain, digest))
    yield Contender(CAREFUL, partial(_careful, folder / "strings"))
    if rivals.openssl_version():
        yield Contender(OPENSSL, partial(rivals.openssl_rate, message, cpus()))
    if INSTRUCTION_SETS:
        yield Contender(CEILING, partial(_ceiling, size, plan.compressions))
    yield ours(OURS)
    yield Contender(OURS_OBJECTS, partial(_ours, folder / "objects"))
    yield ours("cairn, 1 thread", threads=1)
    for name in _others():
        yield ours(f"cairn, {name}, all cores", name)
        yield ours(f"cairn, {name}, 1 thread", name, 1)
    in_processes = partial(_ours, folder / "strings", "hashlib", pool=processes)
    yield Contender("cairn, hashlib, a process for each core", in_processes)


def _others() -> list[str]:
    """Return the hashers that are not the best one under some name."""
    best = {best_hasher().name, *(f"lanes-{isa}" for isa in INSTRUCTION_SETS[:1])}
    return [name for name in names() if name not in best]


def _example(chain: list[rivals.ExampleBlock], digest: rivals.ExampleHash) -> float:
    began = time.perf_counter()
    valid = rivals.example_is_valid(chain, digest)
    seconds = time.perf_counter() - began
    assert valid, "a chain that was made a moment ago is not valid"
    return (len(chain) - 1) / seconds


def _careful(path: Path) -> float:
    with Ledger.open(path, read_only=True) as ledger:
        return len(ledger) / timed(lambda: rivals.validate_by_hashlib(ledger))


def _ceiling(size: int, times: int) -> float:
    return rivals.pure_compressions(INSTRUCTION_SETS[0], cpus(), times) / compressions(size)


def _ours(
    path: Path,
    hasher: str | None = None,
    threads: int | None = None,
    pool: Executor | None = None,
) -> float:
    """Open the ledger, validate it, close it; on `threads`, or in `pool`, or on all cores."""
    with ExitStack() as stack:
        began = time.perf_counter()
        if threads is not None:
            pool = stack.enter_context(ThreadPoolExecutor(threads))
        with Ledger.open(path, read_only=True) as ledger:
            report = ledger.validate(hasher=hasher, executor=pool)
        seconds = time.perf_counter() - began
    if not report.valid:
        raise InvalidChainError(report.failures[0])
    return report.blocks / seconds
