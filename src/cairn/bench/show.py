"""What was measured, for people: Markdown tables, and a chart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import ceil, floor, log10
from typing import Final
from xml.sax.saxutils import escape

from cairn.bench.measure import number, with_range
from cairn.bench.validate import (
    CAREFUL,
    CEILING,
    EXAMPLE,
    EXAMPLE_OBJECTS,
    OPENSSL,
    OURS,
    Outcome,
    Result,
)

WIDTH, HEIGHT = 860, 410
"""Of the chart, in its own units, about pixels."""
LEFT, RIGHT, TOP, BOTTOM = 60, 560, 60, 370
"""Where the lines lie in it; their names follow on the right."""
LINE: Final = 19
"""Height of a name."""
LINES: Final = (
    (CEILING, "ceiling"),
    (OURS, "ours"),
    (OPENSSL, "openssl"),
    (CAREFUL, "careful"),
    (EXAMPLE, "strings"),
    (EXAMPLE_OBJECTS, "objects"),
)
"""What the chart shows, by which style."""
STYLE: Final = """
  .paper{fill:#fff} text{fill:#333} .grid{stroke:#ddd} path{fill:none;stroke-width:2}
  .ceiling{stroke:#777;stroke-dasharray:5 4} .ours{stroke:#0a7d53;stroke-width:3.5}
  .openssl{stroke:#b35c00} .careful{stroke:#2f6fd0}
  .strings{stroke:#9b3fa8} .objects{stroke:#c62828}
  @media (prefers-color-scheme:dark){.paper{fill:#16191d} text{fill:#d6d6d6} .grid{stroke:#3a3f45}
  .ceiling{stroke:#999} .ours{stroke:#37c98f} .openssl{stroke:#f0a050} .careful{stroke:#7fb0ff}
  .strings{stroke:#d58be0} .objects{stroke:#ff8078}}
"""


def markdown(outcome: Outcome) -> str:
    """Return tables of ratios, of blocks a second and of GB/s, with a column for each size."""
    results = outcome.results
    return "\n".join(
        [
            f"Machine: {outcome.machine}",
            _how(outcome),
            *(f"Not measured: {missing}" for missing in outcome.missing),
            "",
            *_table("times as fast (goal)", results, _ratio_rows(results)),
            "",
            *_table("thousand blocks/s (range)", results, _rate_rows(results)),
            "",
            *_table("GB/s of headers and entries", results, _gigabyte_rows(results)),
        ]
    )


def _how(outcome: Outcome) -> str:
    taken = f"{outcome.others:.0%}" if outcome.others is not None else "an unknown part"
    return f"{outcome.rounds} rounds in turn; other programs took {taken} of the cores meanwhile"


def size_name(size: int) -> str:
    """Return a number of bytes in words, such as "4 KB"."""
    return f"{size >> 10} KB" if size % 1024 == 0 else f"{size} B"


def _table(
    heading: str, results: Sequence[Result], rows: Iterable[tuple[str, list[str]]]
) -> Iterator[str]:
    yield f"| {' | '.join([heading, *(size_name(result.size) for result in results)])} |"
    yield "|---" * (1 + len(results)) + "|"
    for name, cells in rows:
        yield f"| {' | '.join([name, *cells])} |"


def _ratio_rows(results: Sequence[Result]) -> Iterator[tuple[str, list[str]]]:
    for ratios in zip(*(result.ratios for result in results), strict=True):
        goals = [f" ({ratio.goal:g})" if ratio.goal else "" for ratio in ratios]
        cells = [number(r.value) + goal for r, goal in zip(ratios, goals, strict=True)]
        yield ratios[0].name, cells


def _rate_rows(results: Sequence[Result]) -> Iterator[tuple[str, list[str]]]:
    for name in results[0].rates:
        yield name, [with_range(result.rates[name].times(1e-3)) for result in results]


def _gigabyte_rows(results: Sequence[Result]) -> Iterator[tuple[str, list[str]]]:
    for name in results[0].rates:
        yield name, [number(result.gigabytes[name].median) for result in results]


def svg(outcome: Outcome) -> str:
    """Return a chart of GB/s by size of data, both on logarithmic scales."""
    results = outcome.results
    sizes = [result.size for result in results]
    shown = [(name, style) for name, style in LINES if name in results[0].rates]
    values = {name: [r.gigabytes[name].median for r in results] for name, _ in shown}
    every = [value for line in values.values() for value in line]
    low, high = floor(log10(min(every))), ceil(log10(max(every)))

    def x(size: int) -> float:
        return LEFT + (RIGHT - LEFT) * log10(size / sizes[0]) / (log10(sizes[-1] / sizes[0]) or 1)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (log10(value) - low) / (high - low)

    title = "Validation: GB/s of headers and entries, by size of the data of a block"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"',
        f' aria-label="{title}" font-family="system-ui, sans-serif" font-size="13">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="10"/>',
        f'<text x="{LEFT}" y="30" font-size="15" font-weight="bold">{title}</text>',
    ]
    for power in (10.0**n for n in range(low, high + 1)):
        parts.append(f'<path class="grid" d="M{LEFT} {y(power):.1f}H{RIGHT}"/>')
        parts.append(_text(LEFT - 8, y(power), f"{power:g}", "end"))
    parts += [_text(x(size), BOTTOM + 20, size_name(size), "middle") for size in sizes]
    below = 0.0  # names stand under one another
    for name, style in sorted(shown, key=lambda line: -values[line[0]][-1]):
        line = zip(sizes, values[name], strict=True)
        points = " L".join(f"{x(size):.1f} {y(value):.1f}" for size, value in line)
        below = max(y(values[name][-1]), below + LINE)
        parts.append(f'<path class="{style}" d="M{points} L{RIGHT + 24} {below:.1f}"/>')
        parts.append(_text(RIGHT + 30, below, f"{name}, {number(values[name][-1])}"))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    """Return a text with the middle of its letters at `y`."""
    at = f'x="{x:.1f}" y="{y + 4:.1f}"'
    return f'<text {at} text-anchor="{anchor}">{escape(text)}</text>'
