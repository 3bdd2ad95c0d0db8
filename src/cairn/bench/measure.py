"""What every measurement needs: rates with their spread, contenders in turn, the machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    nbytes: int
    """Bytes of a unit, to say the same in GB/s."""


def in_turn(
    contenders: Sequence[Contender], rounds: int, step: Callable[[], None]
) -> dict[str, Spread]:
    """Run all contenders in turn, `rounds` times after a round that is not counted.

    So what else the machine does meets all of them alike. `step` is called after each run.
    Returns units a second by name.
    """
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(1 + rounds):
        for contender in contenders:
            rate = contender.run()
            if number > 0:
                rates[contender.name].append(rate)
            step()
    return {name: Spread.of(found) for name, found in rates.items()}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def machine() -> str:
    """Return what this runs on, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
    kernel = ", ".join(INSTRUCTION_SETS) or "not built"
    return (
        f"{cpus()} × {model}, C kernel: {kernel}; {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; load {os.getloadavg()[0]:.1f} at the start"
    )
