"""Charts as SVG, drawn on the server: no script and no style in them, only classes.

They are as wide as there is room, and lines and letters stay as they are: places across are
percentages, and what is drawn between them lies in an inner picture that is stretched.

Classes, for a stylesheet: `plot` the picture, whose padding is the room for labels beside it;
`axis` its base; `tick` lines across at the labelled values; `label` and `note` text; `line` what is
drawn, the second one also `second`; `dot` a single value; `wanted` what was aimed at; `mark` a
chosen place. Without one, everything is in the colour of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from statistics import median
from typing import Final, Literal, NamedTuple

import numpy as np
from markupsafe import Markup

from cairn.core.errors import FormatError
from cairn.core.header import LIMIT_63
from cairn.core.work import work_of
from cairn.explorer.shown import count, digits, seconds, short, size
from cairn.ledger.outline import Outline, Sample

HEIGHT: Final = 204
"""Pixels of a picture, with the labels under it."""
TOP: Final = 22
BASE: Final = 160
"""Where the base of what is drawn lies: pixels from the top."""
ACROSS: Final = 1000
"""What is drawn is so wide and high, before it is stretched."""
MOST_TICKS: Final = 4
"""Labels on an axis, at most: what a narrow phone has room for."""
MOST_LETTERS: Final = 28
"""Letters of the labels along the base, at most: of more, every second label is left out."""
MOST_ROWS: Final = 64
"""Rows of a table, at most: a longer one has every second one of them, and so on."""
WIDE: Final = 100
"""A range is wide, and its scale logarithmic, where the largest value is so many times another."""

Point = tuple[float, float]
"""Two numbers, or a time in µs since the Unix epoch and a number."""
_Show = Callable[[float], str]


class Chart(NamedTuple):
    """A picture, and the numbers that it shows."""

    svg: Markup
    table: Markup


class Series(NamedTuple):
    """Points that a line goes through; None between two leaves a gap."""

    name: str
    points: Sequence[Point | None]
    steps: bool = False
    """Whether a value holds until the next."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where values lie on an axis, and how they are written."""

    name: str
    show: _Show
    """A value in the table and in words."""
    place: Callable[[float], float]
    """From 0, the beginning, to 1."""
    ticks: Sequence[tuple[float, str]]
    """Values that have a label."""
    notes: tuple[str, str] = ("", "")
    """What holds for all labels, at its beginning and end."""
    is_log: bool = False


def growth(outline: Outline, what: Literal["blocks", "bytes"]) -> Chart:
    """Draw how many blocks there were, or bytes of their entries, at any time."""
    samples = _usable(outline.samples)
    points = [_grown(sample, outline, what) for sample in samples]
    pieces = _with_gaps([sample.position for sample in samples], points)
    # Where every block is a sample, it is known that nothing came between.
    is_each = len(samples) == outline.length
    name, show = ("Blocks", _amount) if what == "blocks" else ("Bytes", size)
    y = _linear(name, [value for _, value in points], show, whole=True)
    return _chart(f"{name} over time", [Series(name, pieces, is_each)], _times(samples), y)


def difficulty(outline: Outline) -> Chart:
    """Draw how many hashes a block took on average, as its target says."""
    samples = [sample for sample in _usable(outline.samples) if sample.position > 0]
    found = [(sample, _work(sample.bits)) for sample in samples]
    points: list[Point] = [(sample.timestamp, work) for sample, work in found if work > 0]
    y = _hashes([value for _, value in points])
    series = Series(y.name, points, steps=True)
    return _chart("Difficulty over time", [series], _times(samples), y)


def intervals(start: int, timestamps: Sequence[int], wanted: int) -> Chart:
    """Draw how long each block came after the one before, a needle each.

    `timestamps` are those of the blocks from position `start` on, `wanted` is the interval that is
    aimed at; in µs. A block whose clock was behind has none.
    """
    passed = [(after - before) / 1e6 for before, after in pairwise(timestamps)]
    points: list[Point] = [(start + 1 + i, length) for i, length in enumerate(passed)]
    x = _numbers("Block", [place for place, _ in points])
    y = _lengths("Interval", [*passed, wanted / 1e6])
    series = Series("Interval", points)
    return _chart("Block interval", [series], x, y, wanted=wanted / 1e6, needles=True)


def mean_intervals(outline: Outline, wanted: int) -> Chart:
    """Draw how long blocks took on average, between one sample and the next.

    `wanted` is the interval that is aimed at; in µs.
    """
    samples = _usable(outline.samples)
    points: list[Point] = []
    for before, after in pairwise(samples):
        length = (after.timestamp - before.timestamp) / (after.position - before.position) / 1e6
        points.append((before.timestamp, length))
    if points:
        points.append((samples[-1].timestamp, points[-1][1]))
    y = _lengths("Mean interval", [*(value for _, value in points), wanted / 1e6])
    series = Series("Mean interval", points, steps=True)
    return _chart("Mean interval over time", [series], _times(samples), y, wanted=wanted / 1e6)


def line(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    log: bool = False,
    show: _Show = digits,
    across: Sequence[float] = (),
    up: Sequence[float] = (),
    mark: float | None = None,
) -> Chart:
    """Draw lines through points, of one or two series. x is whole.

    `x` and `y` name what is drawn. With `log`, y has a logarithmic scale, from which values that
    are not positive are missing. `show` writes a value of y. The axes have room for the values of x
    in `across` and of y in `up`, drawn or not: with them, they stay the same whatever is drawn. An
    upright line, and a dot on each other one, are at the x of `mark`.
    """
    points = [point for one in series for point in one.points if point is not None]
    along = _numbers(x, [*across, *(place for place, _ in points)])
    values = [*up, *(value for _, value in points)]
    rising = _logarithmic(y, values, show) if log else _linear(y, values, show)
    return _chart(title, series, along, rising, mark=mark)


def _usable(samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples that have a time: others are damage."""
    return [sample for sample in samples if sample.timestamp < LIMIT_63]


def _grown(sample: Sample, outline: Outline, what: str) -> Point:
    """Return what there was with a sample: the last one has all."""
    if what == "blocks":
        return sample.timestamp, sample.position + 1
    is_last = sample.position == outline.length - 1
    return sample.timestamp, outline.size if is_last else sample.before


def _with_gaps(positions: Sequence[int], points: Sequence[Point]) -> list[Point | None]:
    """Leave a gap where samples are missing."""
    usual = median([after - before for before, after in pairwise(positions)] or [1])
    pieces: list[Point | None] = list(points[:1])
    for (before, after), point in zip(pairwise(positions), points[1:], strict=True):
        pieces += [None, point] if after - before > usual * 1.5 else [point]
    return pieces


def _work(bits: int) -> int:
    try:
        return work_of(bits)
    except FormatError:
        return 0


# Axes


def _linear(
    name: str,
    values: Sequence[float],
    show: _Show,
    *,
    whole: bool = False,
    zero: bool = True,
    unit: int = 1,
) -> _Axis:
    """Return an axis from 0, or the least value, to the largest; labels are round in `unit`s."""
    values = [value for value in values if isfinite(value)] or [0]
    low, high = 0 if zero else min(values), max(values)
    if low >= high:
        low, high = (0, 1) if zero else (low - 1, low + 1)
    step = _round_step((high - low) / MOST_TICKS / unit)
    step = (max(step, 1) if whole else step) * unit
    ticks = [i * step for i in range(ceil(low / step), floor(high / step) + 1)]
    return _Axis(name, show, lambda v: (v - low) / (high - low), [(t, show(t)) for t in ticks])


def _round_step(least: float) -> float:
    """Return the least of 1, 2 and 5 times the powers of ten that is not below `least`."""
    power = 10.0 ** floor(log10(least))
    return next((f * power for f in (1, 2, 5) if f * power >= least), 10 * power)


def _numbers(name: str, values: Sequence[float]) -> _Axis:
    """Return an axis along the base of whole numbers, which says what they are."""
    return replace(_linear(name, values, _number, whole=True, zero=False), notes=(name, ""))


def _logarithmic(
    name: str, values: Sequence[float], show: _Show, marks: Sequence[float] = ()
) -> _Axis:
    """Return an axis of the powers of ten around all values that are positive.

    With labels at some of them, or at those of `marks` that are within.
    """
    values = [value for value in values if isfinite(value) and value > 0] or [1]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    high = max(high, low + 1)
    powers = range(high, low - 1, -ceil((high - low) / MOST_TICKS))
    ticks = [mark for mark in marks if 10.0**low <= mark <= 10.0**high]
    ticks = ticks or [10.0**power for power in powers]
    return _Axis(
        name,
        show,
        lambda v: (log10(v) - low) / (high - low),
        [(tick, show(tick)) for tick in ticks],
        ("logarithmic scale", ""),
        is_log=True,
    )


def _is_wide(values: Sequence[float]) -> bool:
    """Whether few values are much larger than the others: these would lie on the base."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) > WIDE * median(positive)


def _hashes(values: Sequence[float]) -> _Axis:
    """Return an axis of how many hashes a block takes."""
    name, show = "Hashes a block", lambda number: short(number).strip()
    is_wide = _is_wide(values) or (bool(values) and max(values) > WIDE * min(values))
    return (_logarithmic if is_wide else _linear)(name, values, show)


def _lengths(name: str, values: Sequence[float]) -> _Axis:
    """Return an axis of lengths of time, in seconds."""
    if _is_wide(values):
        return _logarithmic(name, values, seconds, _ROUND_LENGTHS)
    longest = max(values, default=0)
    unit = next((unit for unit in (86400, 3600, 60) if longest >= 2 * unit), 1)
    return _linear(name, values, seconds, unit=unit)


_ROUND_LENGTHS: Final = (1e-6, 1e-3, 1, 60, 3600, 86400, 365.2425 * 86400)
_MILLISECOND: Final = 1000
_SECOND: Final = 1_000_000
_STEPS: Final = (
    *(factor * 10**power for power in range(6) for factor in (1, 2, 5)),
    *(_SECOND * n for n in (1, 2, 5, 10, 15, 30)),
    *(_SECOND * 60 * n for n in (1, 2, 5, 10, 15, 30)),
    *(_SECOND * 3600 * n for n in (1, 2, 3, 6, 12)),
    *(_SECOND * 86400 * n for n in (1, 2, 5, 10)),
)
"""Times between labels, in µs; longer ones are of months."""
_MONTHS: Final = (1, 3, 6, *(12 * f * 10**power for power in range(6) for f in (1, 2, 5)))


_MONTH_0: Final = 12 * 1970
"""Months before those that NumPy counts."""


def _times(samples: Sequence[Sample]) -> _Axis:
    """Return an axis of times, from the first to the last."""
    times = [sample.timestamp for sample in samples] or [0]
    low, high = min(times), max(times)
    ticks: list[tuple[float, str]]
    if low == high:
        ticks, notes = [(low, _text(low)[11:].removesuffix(".000000"))], (f"{_date(low)} UTC", "")
        return _Axis("Time (UTC)", _moment, lambda _: 0.5, ticks, notes)
    step = next((s for s in _STEPS if _multiples(low, high, s) <= MOST_TICKS), 0)
    if step:
        found = range(-(-low // step) * step, high + 1, step)
        if step < _MILLISECOND:  # said by the note but for the rest
            ticks = [(time, f"{time - low // _MILLISECOND * _MILLISECOND} µs") for time in found]
        else:
            ticks = [(time, _clock(time, step)) for time in found]
        notes = _notes(low, high, step)
    else:
        ticks = _months(low, high)
        notes = _year(low), ""
    # Whole numbers first: a float has no room for a µs in some thousand years.
    return _Axis("Time (UTC)", _moment, lambda v: int(v - low) / (high - low), ticks, notes)


def _multiples(low: int, high: int, step: int) -> int:
    return high // step - -(-low // step) + 1


def _months(low: int, high: int) -> list[tuple[float, str]]:
    """Return the labels of an axis that is longer than some weeks: months, or years."""
    first, last = (_month(time) for time in (low, high))
    step = next((s for s in _MONTHS if _multiples(first + 1, last, s) <= MOST_TICKS), _MONTHS[-1])
    found: list[tuple[float, str]] = []
    for month in range(-(-(first + 1) // step) * step, last + 1, step):
        time = int(np.datetime64(month - _MONTH_0, "M").astype("M8[us]").astype(int))
        found.append((time, _year(time) if month % 12 == 0 else _date(time).split()[1]))
    return found


def _month(time: int) -> int:
    """Return the month of a time, counted from the beginning of the year 0."""
    return int(np.datetime64(time, "us").astype("M8[M]").astype(int)) + _MONTH_0


def _notes(low: int, high: int, step: int) -> tuple[str, str]:
    """Return what the labels leave out, at the beginning of an axis and, if it differs, the end."""
    if step >= 86400 * _SECOND:
        first, last = _year(low), _year(high)
    else:
        first, last = _date(low), _date(high)
    if step < _MILLISECOND:
        return f"{first} {_text(low)[11:23]} UTC", ""
    if step < _SECOND:
        first += f" {_text(low)[11:16]}"
        last += f" {_text(high)[11:16]}"
    utc = "" if step >= 86400 * _SECOND else " UTC"
    return f"{first}{utc}", last if last != first else ""


def _clock(time: int, step: int) -> str:
    """Return a time as labels that are so far apart have it."""
    text = _text(time)
    if step >= 86400 * _SECOND:
        return _date(time).rsplit(" ", 1)[0]
    if step < _SECOND:
        places = next(n for n in (1, 2, 3) if step % 10 ** (6 - n) == 0)
        return f"{text[17 : 20 + places]} s"
    if step < 60 * _SECOND:
        return text[11:19]
    is_midnight = time % (86400 * _SECOND) == 0
    return _date(time).rsplit(" ", 1)[0] if is_midnight else text[11:16]


_NAMES: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


def _text(time: int) -> str:
    """Return a time as in RFC 3339, without the digits of the year that are more than four."""
    return str(np.datetime64(time, "us"))[-26:]


def _date(time: int) -> str:
    year, month, day = str(np.datetime64(time, "us").astype("M8[D]")).rsplit("-", 2)
    return f"{int(day)} {_NAMES[int(month) - 1]} {year}"


def _year(time: int) -> str:
    return _date(time).rsplit(" ", 1)[1]


def _moment(time: float) -> str:
    """Return a time in the table: to the second, or finer where it is."""
    return f"{np.datetime64(int(time), 'us')}".replace("T", " ").removesuffix(".000000")


def _amount(number: float) -> str:
    return count(round(number)) if number < 100_000 else short(number).strip()


def _number(number: float) -> str:
    return count(round(number))


# Pictures


def _chart(
    title: str,
    series: Sequence[Series],
    x: _Axis,
    y: _Axis,
    *,
    wanted: float | None = None,
    needles: bool = False,
    mark: float | None = None,
) -> Chart:
    series = [one for one in series if _drawn(one)]
    if not series:
        return Chart(_picture(title, "There is nothing to show yet.", []), Markup())
    parts = [*_across(y), *_along(x), *_note(y, wanted)]
    lines = [_path(i, one, x, y, needles=needles) for i, one in enumerate(series)]
    inner = Markup(
        '<svg x="0" y="{}" width="100%" height="{}" viewBox="0 0 {} {}" '
        'preserveAspectRatio="none" overflow="visible">{}</svg>'
    ).format(TOP, BASE - TOP, ACROSS, ACROSS, Markup().join(lines))
    parts.append(inner)
    if wanted is not None:
        parts.append(_wanted(wanted, y))
    if not needles:
        parts += [dot for one in series for dot in _dots(one, x, y)]
    if mark is not None:
        parts += _marked(series, x, y, mark)
    parts += _names(series)
    return Chart(_picture(title, _said(series, x, y), parts), _table(series, x, y))


def _picture(title: str, said: str, parts: Sequence[Markup]) -> Markup:
    empty = Markup('<text class="note" x="0" y="{}" fill="currentColor">{}</text>')
    return Markup(
        '<svg class="plot" role="img" width="100%" height="{}" overflow="visible" font-size="12" '
        'fill="none"><title>{}</title><desc>{}</desc>{}</svg>'
    ).format(HEIGHT, title, said, Markup().join(parts or [empty.format(HEIGHT // 2, said)]))


def _across(y: _Axis) -> list[Markup]:
    """Draw the labels of an axis that goes up, and a line for each."""
    form = Markup(
        '<line class="tick" x1="0" x2="100%" y1="{0}" y2="{0}" stroke="currentColor" '
        'stroke-opacity="0.2"/><text class="label" x="-8" y="{1}" text-anchor="end" '
        'fill="currentColor">{2}</text>'
    )
    heights = [(_height(y.place(value)), text) for value, text in y.ticks]
    return [form.format(_n(at), _n(at + 4), text) for at, text in heights]


def _along(x: _Axis) -> list[Markup]:
    """Draw the axis at the base, with its labels, and what holds for all of them."""
    axis = '<line class="axis" x1="0" x2="100%" y1="{0}" y2="{0}" stroke="currentColor"/>'
    form = Markup(
        '<line class="axis" x1="{0}%" x2="{0}%" y1="{1}" y2="{2}" stroke="currentColor"/>'
        '<text class="label" x="{0}%" y="{3}" text-anchor="middle" fill="currentColor">{4}</text>'
    )
    parts = [Markup(axis).format(BASE)]
    is_tight = sum(len(text) for _, text in x.ticks) > MOST_LETTERS
    for number, (value, text) in enumerate(x.ticks):
        at, text = _n(100 * x.place(value)), "" if is_tight and number % 2 else text
        parts.append(form.format(at, BASE, BASE + 4, BASE + 18, text))
    note = Markup('<text class="note" x="{}" y="{}" text-anchor="{}" fill="currentColor">{}</text>')
    places = (("0", "start"), ("100%", "end"))
    for (at, anchor), text in zip(places, x.notes, strict=True):
        if text:
            parts.append(note.format(at, BASE + 36, anchor, text))
    return parts


def _note(y: _Axis, wanted: float | None) -> list[Markup]:
    """Say above a picture, on the right, what is to be known of it."""
    said = [y.notes[0]] if y.notes[0] else []
    said += [] if wanted is None else [f"dashes: {y.show(wanted)}, aimed at"]
    form = '<text class="note" x="100%" y="{}" text-anchor="end" fill="currentColor">{}</text>'
    return [Markup(form).format(TOP - 8, "; ".join(said))] if said else []


def _wanted(value: float, y: _Axis) -> Markup:
    """Draw what was aimed at, across."""
    form = (
        '<line class="wanted" x1="0" x2="100%" y1="{0}" y2="{0}" stroke="currentColor" '
        'stroke-width="1.5" stroke-dasharray="4 4"/>'
    )
    return Markup(form).format(_n(_height(y.place(value))))


def _path(number: int, series: Series, x: _Axis, y: _Axis, *, needles: bool) -> Markup:
    """Draw a series: a line through its points, or a needle for each."""
    commands: list[str] = []
    is_begun = False
    for place in (_placed(point, x, y) for point in series.points):
        if place is None:
            is_begun = False
            continue
        across, up = (_n(part * ACROSS) for part in (place[0], 1 - place[1]))
        if needles:
            commands.append(f"M{across} {ACROSS}V{up}")
        elif not is_begun:
            commands.append(f"M{across} {up}")
        else:
            commands.append(f"H{across}V{up}" if series.steps else f"L{across} {up}")
        is_begun = True
    return Markup(
        '<path class="{}" d="{}" stroke="currentColor" stroke-width="1.75" '
        'stroke-linejoin="round"{} vector-effect="non-scaling-stroke"/>'
    ).format(*_look(number)[:1], "".join(commands), *_look(number)[1:])


def _look(number: int) -> tuple[str, Markup]:
    """Return the class of a series, and how its line is broken: colour does not tell it alone."""
    return ("line second", Markup(' stroke-dasharray="6 4"')) if number else ("line", Markup())


def _dots(series: Series, x: _Axis, y: _Axis) -> list[Markup]:
    """Draw the points of a series that no line goes to or from."""
    places = [None, *(_placed(point, x, y) for point in series.points), None]
    return [
        _dot(place)
        for before, place, after in zip(places, places[1:], places[2:], strict=False)
        if place and not before and not after
    ]


def _dot(place: Point) -> Markup:
    form = '<circle class="dot" cx="{}%" cy="{}" r="3" fill="currentColor"/>'
    return Markup(form).format(_n(100 * place[0]), _n(_height(place[1])))


def _marked(series: Sequence[Series], x: _Axis, y: _Axis, mark: float) -> list[Markup]:
    """Draw an upright line at a place, and a dot on each line there."""
    form = (
        '<line class="mark" x1="{0}%" x2="{0}%" y1="{1}" y2="{2}" stroke="currentColor" '
        'stroke-opacity="0.5"/>'
    )
    points = [_placed(point, x, y) for one in series for point in _drawn(one) if point[0] == mark]
    upright = Markup(form).format(_n(100 * x.place(mark)), TOP, BASE)
    return [upright, *(_dot(point) for point in points if point)]


def _names(series: Sequence[Series]) -> list[Markup]:
    """Say which line is which, where there are more than one: at the top, on the right."""
    form = Markup(
        '<svg x="100%" y="{}" overflow="visible"><text class="label" x="-36" y="4" '
        'text-anchor="end" fill="currentColor">{}</text><line class="{}" x1="-30" x2="0" '
        'stroke="currentColor" stroke-width="1.75"{}/></svg>'
    )
    heights = (TOP + 10 + 18 * number for number in range(len(series)))
    return [
        form.format(at, one.name, *_look(number))
        for number, (at, one) in enumerate(zip(heights, series, strict=True))
        if len(series) > 1
    ]


def _placed(point: Point | None, x: _Axis, y: _Axis) -> Point | None:
    """Return where a point lies, from 0 to 1; None for one that the scale has no place for."""
    if point is None or not isfinite(point[1]) or (y.is_log and point[1] <= 0):
        return None
    return x.place(point[0]), min(max(y.place(point[1]), 0), 1)


def _height(up: float) -> float:
    return BASE - up * (BASE - TOP)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


# Words


def _said(series: Sequence[Series], x: _Axis, y: _Axis) -> str:
    """Say in a sentence what a picture shows."""
    parts = []
    for one in series:
        (first, begin), *_, (last, end) = [*_drawn(one)] * 2
        most = max(value for _, value in _drawn(one))
        parts.append(
            f"{one.name}: {y.show(begin)} at {x.show(first)}, {y.show(end)} at {x.show(last)}, "
            f"at most {y.show(most)}."
        )
    return " ".join(parts)


def _table(series: Sequence[Series], x: _Axis, y: _Axis) -> Markup:
    """Return the numbers that a picture shows, or every second of them, and so on."""
    rows: dict[float, dict[int, str]] = {}
    for number, one in enumerate(series):
        for place, value in _drawn(one):
            rows.setdefault(place, {})[number] = y.show(value)
    step = -(-len(rows) // MOST_ROWS)
    places = sorted(rows)
    kept = places[:-step:step] + places[-1:]
    head = Markup().join(
        Markup('<th scope="col">{}</th>').format(name) for name in _heads(series, x)
    )
    cells = (
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            x.show(place),
            Markup().join(
                Markup("<td>{}</td>").format(rows[place].get(number, ""))
                for number in range(len(series))
            ),
        )
        for place in kept
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
        head, Markup().join(cells)
    )


def _heads(series: Sequence[Series], x: _Axis) -> list[str]:
    return [x.name, *(one.name for one in series)]


def _drawn(series: Series) -> list[Point]:
    return [point for point in series.points if point is not None]
