"""Measure the mining search against the kernel's ceiling and a `hashlib` loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.measure import spread, timed
from cairn.hashing.lanes import INSTRUCTION_SETS
from cairn.hashing.search import cpus, plain, search, search_all

HEADER = bytes(range(104))
SECONDS = 0.25
"""About how long one measurement takes."""
ROUNDS = 15


def bench_search(folder: Path) -> Iterator[tuple[str, str]]:
    """Compare the mining search with pure compressions and with a hashlib loop."""
    cores = cpus()
    yield "rounds", f"{ROUNDS} in turn of about {SECONDS:.2g} s each, in nonces of one header"
    tries = fitting(lambda n: plain(HEADER, 0, n, 0))
    loop: list[float] = []
    if not INSTRUCTION_SETS:
        loop += [tries / timed(lambda: plain(HEADER, 0, tries, 0)) for _ in range(ROUNDS)]
        yield "hashlib, one core", spread(loop, 1e-6, "M/s")
        return
    for isa in INSTRUCTION_SETS:
        yield from against_ceiling(isa, 1)
    yield from against_ceiling(INSTRUCTION_SETS[0], cores)

    best = fitting(lambda n: search(HEADER, 0, n, 0))
    ours: list[float] = []
    for _ in range(ROUNDS):
        loop.append(tries / timed(lambda: plain(HEADER, 0, tries, 0)))
        ours.append(best / timed(lambda: search(HEADER, 0, best, 0)))
    yield "hashlib loop, one core", spread(loop, 1e-6, "M/s")
    yield f"search ({INSTRUCTION_SETS[0]}), one core", spread(ours, 1e-6, "M/s")
    ratios = [a / b for a, b in zip(ours, loop, strict=True)]
    yield "**search / hashlib loop**", spread(ratios, 1, "×")


def against_ceiling(isa: str, threads: int) -> Iterator[tuple[str, str]]:
    """Compare the search on `threads` cores with as many that only compress registers."""
    from cairn.hashing import _lanes

    lanes = _lanes.compress(isa, 1)
    times = fitting(lambda n: _lanes.compress(isa, n))
    tries = fitting(lambda n: search(HEADER, 0, n, 0, isa=isa)) * threads

    def ceiling() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: _lanes.compress(isa, times), range(threads)))

    def ours() -> None:
        if threads == 1:
            search(HEADER, 0, tries, 0, isa=isa)
        else:
            search_all(HEADER, 0, tries, 0)

    most, found = [], []
    for _ in range(ROUNDS):
        most.append(times * lanes * threads / timed(ceiling))
        found.append(tries / timed(ours))
    ratios = [a / b for a, b in zip(found, most, strict=True)]
    where = f"{isa}, one core" if threads == 1 else f"{isa}, {threads} cores"
    yield f"pure compressions ({where})", spread(most, 1e-6, "M/s")
    yield f"search ({where})", spread(found, 1e-6, "M/s")
    yield f"**search / pure compressions** ({where}; goal at least 0.8)", spread(ratios, 1, "×")


def fitting(work: Callable[[int], object]) -> int:
    """Return the argument with which `work` takes about `SECONDS`."""
    n = 1000
    while (took := timed(partial(work, n))) < SECONDS / 4:
        n *= 2
    return int(n * SECONDS / took)


BENCHES = {"search": bench_search}
