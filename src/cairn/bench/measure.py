"""What every measurement needs: rates with their spread, contenders in turn, the machine."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from statistics import median
from typing import NamedTuple

from cairn.hashing.lanes import INSTRUCTION_SETS
from cairn.hashing.search import cpus


class Spread(NamedTuple):
    """Median and range of what was measured in several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(median(values), min(values), max(values))

    def times(self, factor: float) -> Spread:
        """Return the same in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to measure."""

    name: str
    run: Callable[[], float]
    """Does the work once and returns units a second, such as blocks."""


def in_turn(
    contenders: Sequence[Contender], rounds: int, progress: Callable[[float], None]
) -> dict[str, Spread]:
    """Run all contenders in turn, `rounds` times after a round that is not counted.

    So what else the machine does meets all of them alike. `progress` is told what share is done.
    Returns units a second by name.
    """
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    runs = (1 + rounds) * len(contenders)
    for run, contender in enumerate(list(contenders) * (1 + rounds)):
        progress(run / runs)
        rate = contender.run()
        if run >= len(contenders):
            rates[contender.name].append(rate)
    return {name: Spread.of(found) for name, found in rates.items()}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def number(value: float) -> str:
    """Return three digits that count, or all before the point."""
    digits = 2 - floor(log10(value)) if value > 0 else 0
    return f"{value:,.{min(max(digits, 0), 6)}f}"


def with_range(rate: Spread) -> str:
    """Return median and range for people."""
    return f"{number(rate.median)} ({number(rate.low)} to {number(rate.high)})"


def others_cpu() -> float | None:
    """Return the CPU seconds, of all cores, that others than this process and its children took.

    Since the machine started, so that two readings differ by what was taken between them; of a
    virtual machine, with what its host took. None where the system does not say.
    """
    if sys.platform != "linux":
        return None
    ticks = [int(count) for count in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def machine() -> str:
    """Return what this runs on, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
    return (
        f"{cpus()} × {model}, kernel for {', '.join(INSTRUCTION_SETS) or 'none of it'}; "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )
