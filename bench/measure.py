"""What the benchmarks share: objects, a long ledger, times, and how they are shown."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from cairn import Ledger
from cairn.bench.measure import timed as timed

MILLION = 1_000_000


def events(count: int) -> list[dict[str, Any]]:
    """Return objects of about 200 bytes of JSON, such as an application logs."""
    return [
        {
            "id": i,
            "user": f"user{i % 97}",
            "action": "login",
            "ip": f"10.1.2.{i % 250}",
            "ok": True,
            "note": "x" * 90,
            "session": f"abcdef{i}",
        }
        for i in range(count)
    ]


def small_events(count: int) -> list[dict[str, Any]]:
    """Return objects of about 100 bytes of JSON."""
    return [
        {"id": i, "user": f"user{i % 97}", "action": "login", "ip": f"10.1.2.{i % 250}", "ok": True}
        | {"note": "x" * 10}
        for i in range(count)
    ]


def spread(values: list[float], scale: float, unit: str) -> str:
    """Return median, minimum and maximum for people."""
    middle, low, high = (scale * v for v in (median(values), min(values), max(values)))
    return f"{middle:.4g} {unit} ({low:.4g} to {high:.4g})"


def rate(seconds: list[float], count: int) -> str:
    """Return how many of `count` things are done in a second, for people."""
    rates = [count / value for value in seconds]
    return f"{median(rates):,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f})"


def million(folder: Path, count: int = MILLION) -> Path:
    """Return a ledger of `count` small blocks, made once."""
    path = folder / f"blocks-{count}"
    if not path.exists():
        with Ledger.open(path) as ledger:
            ledger.extend({"id": i} for i in range(count - 1))
    return path
