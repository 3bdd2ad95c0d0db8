"""Measure the mining search beside the kernel's pure compressions and a loop of `hashlib`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from cairn.bench.measure import Contender, Spread, in_turn, machine, timed, with_range
from cairn.bench.rivals import pure_compressions
from cairn.core.header import HEADER_BYTES
from cairn.hashing.lanes import INSTRUCTION_SETS
from cairn.hashing.search import cpus, plain, search, search_all

HEADER: Final = bytes(range(HEADER_BYTES))
SECONDS: Final = 0.25
"""About how long one run takes."""
ROUNDS: Final = 15
GOAL: Final = 0.8
"""Of the pure compressions, which are one for each nonce."""

LOOP: Final = "hashlib loop, 1 thread"


def measure(seconds: float, rounds: int, progress: Callable[[float], None]) -> str:
    """Return Markdown: nonces of one header tried in a second, and ratios of medians."""
    rates = in_turn(list(_contenders(seconds)), rounds, progress)
    rows = [(name, with_range(rate.times(1e-6))) for name, rate in rates.items()]
    rows += [(f"**{name}**", f"{value:.3g} ×") for name, value in _ratios(rates)]
    return "\n".join(
        [
            f"Machine: {machine()}",
            "",
            "| million nonces/s | median (range) |",
            "|---|---|",
            *(f"| {name} | {cell} |" for name, cell in rows),
        ]
    )


def _contenders(seconds: float) -> Iterator[Contender]:
    """Yield the loop, and the search and its ceiling wherever they run."""
    yield _fitting(LOOP, seconds, lambda n: plain(HEADER, 0, n, 0))
    for where, isa, threads in _places():
        tries = partial(_search, isa) if threads == 1 else _search_all
        yield _fitting(f"search, {where}", seconds, tries)
        times = _times(seconds, partial(pure_compressions, isa, 1))
        ceiling = partial(pure_compressions, isa, threads, times)
        yield Contender(f"pure compressions, {where}", ceiling)


def _places() -> Iterator[tuple[str, str, int]]:
    """Yield instruction sets, and on how many threads."""
    for isa in INSTRUCTION_SETS:
        yield f"{isa}, 1 thread", isa, 1
    for isa in INSTRUCTION_SETS[:1]:
        yield f"{isa}, all cores", isa, cpus()


def _ratios(rates: dict[str, Spread]) -> Iterator[tuple[str, float]]:
    for where, _, threads in _places():
        ours = rates[f"search, {where}"].median
        ceiling = rates[f"pure compressions, {where}"].median
        yield f"of pure compressions, {where} (goal at least {GOAL})", ours / ceiling
        if threads == 1:
            yield f"over the loop, {where}", ours / rates[LOOP].median


def _search(isa: str, count: int) -> None:
    search(HEADER, 0, count, 0, isa=isa)


def _search_all(count: int) -> None:
    search_all(HEADER, 0, count, 0)


def _fitting(name: str, seconds: float, work: Callable[[int], object]) -> Contender:
    """Return a contender that does so many of `work` at once as take about `seconds`."""
    count = _times(seconds, work)
    return Contender(name, lambda: count / timed(lambda: work(count)))


def _times(seconds: float, work: Callable[[int], object]) -> int:
    """Return the argument with which `work` takes about `seconds`."""
    count = 1000
    while (took := timed(partial(work, count))) < seconds / 4:
        count *= 2
    return int(count * seconds / took)
