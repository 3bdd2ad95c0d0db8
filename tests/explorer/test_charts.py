"""Charts: what they say is what they were given, and there is room for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from math import log10
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from playwright.sync_api import Browser

from cairn.core.header import LIMIT_63
from cairn.core.work import MAX_BITS, bits_of, work_of
from cairn.explorer import charts
from cairn.explorer.charts import ACROSS, BASE, MOST_ROWS, MOST_TICKS, TOP, Chart, Series
from cairn.ledger.outline import Outline, Sample

START = 1_773_486_600_000_000
"""µs: 2026-03-14 11:10."""
DAY = 86_400_000_000
BYTES = 100
"""Of each block."""


def outline(times: Sequence[int], *, step: int = 1, bits: int = MAX_BITS) -> Outline:
    """Return an outline with a sample at each of these times, every `step` blocks."""
    samples = (Sample(i * step, time, i * step * BYTES, bits) for i, time in enumerate(times))
    length = (len(times) - 1) * step + 1 if times else 0
    return Outline(tuple(samples), length, length * BYTES, complete=True)


LIVES = {
    "nothing": [],
    "one block": [START],
    "two blocks": [START, START + 7_000_000],
    "three blocks": [START, START + 7_000_000, START + 180_000_000],
    "all in one microsecond": [START] * 200,
    "three microseconds": [START + i for i in range(4)],
    "50 ms": [START + i * 2500 for i in range(20)],
    "a minute": [START + i * 10**6 for i in range(61)],
    "two days": [START + i * 10**9 for i in range(170)],
    "a month": [START + i * DAY for i in range(31)],
    "a year's gap": [START + i * 10**6 + i // 60 * 365 * DAY for i in range(120)],
    "a million blocks": [START + i * 40 * 10**9 + i % 7 * 10**9 for i in range(124)],
    "twelve years": [START + i * 40 * DAY for i in range(110)],
    "clocks that go back": [START + (i - i % 5 * 2) * 10**7 for i in range(100)],
    "to the end of time": [0, 2**62, LIMIT_63 - 1],
    "past the end of time": [START, 2**64 - 1, START + 10**6],
}


def drawn(lives: Sequence[int]) -> dict[str, Chart]:
    """Return every chart of a ledger that has blocks at these times."""
    many = outline(lives, step=8192 if len(lives) == 124 else 1)
    return {
        "blocks": charts.growth(many, "blocks"),
        "bytes": charts.growth(many, "bytes"),
        "difficulty": charts.difficulty(many),
        "intervals": charts.intervals(1000, lives, 10_000_000),
        "mean intervals": charts.mean_intervals(many, 10_000_000),
    }


def attack(log: bool, *, least: float = 0.3) -> Chart:
    series = [
        Series(name, [(z, rate**z) for z in range(31)])
        for name, rate in (("Poisson", least), ("exact", least * 1.5))
    ]
    return charts.line("Attack", series, x="Confirmations", y="Chance", log=log)


def parsed(chart: Chart) -> ET.Element:
    """Return the picture, of which nothing needs a script, a style or another file."""
    for part in (chart.svg, chart.table):
        assert isinstance(part, Markup)
        assert not re.search(r"<script|style=|<style|\son\w+=|href|url\(|<image|<use", part)
        assert not re.search(r"\bnan\b|\binf\b", part)
    return ET.fromstring(chart.svg)


def labels(chart: Chart, kind: str) -> list[str]:
    """Return the texts on the axis that goes up, or along the base."""
    at = "end" if kind == "up" else "middle"
    found = parsed(chart).findall("text[@class='label']")
    return [one.text or "" for one in found if one.get("text-anchor") == at and one.text]


def path(chart: Chart, number: int = 0) -> list[list[tuple[float, float]]]:
    """Return the lines of a series, as the points that they go through."""
    lines: list[list[tuple[float, float]]] = []
    x = y = 0.0
    text = parsed(chart).findall("svg/path")[number].get("d") or ""
    for command, numbers in re.findall(r"([MLHV])([-0-9. ]+)", text):
        values = [float(one) for one in numbers.split()]
        if command == "V":
            y = values[0]
        else:
            x, y = (*values, y)[:2]
        if command == "M":
            lines.append([])
        lines[-1].append((x, y))
    return lines


def rows(chart: Chart) -> list[list[str]]:
    table = ET.fromstring(chart.table)
    return [[cell.text or "" for cell in row] for row in table.iter("tr")]


@pytest.mark.parametrize("life", LIVES)
def test_every_life_of_a_ledger_can_be_drawn(life: str) -> None:
    for name, chart in drawn(LIVES[life]).items():
        picture = parsed(chart)
        assert picture.get("role") == "img"
        assert picture.findtext("title")
        assert picture.findtext("desc")
        if not LIVES[life] or "<path" not in chart.svg:
            assert "nothing to show" in chart.svg
            continue
        for kind in ("up", "along"):
            found = labels(chart, kind)
            assert 1 <= len(found) <= MOST_TICKS + 3, (name, found)
            assert all(before != after for before, after in pairwise(found))
        for line in path(chart):
            for x, y in line:
                assert 0 <= x <= ACROSS
                assert 0 <= y <= ACROSS


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.integers(0, 2**32 - 1))
def test_whatever_times_and_bits_are_stored_can_be_drawn(times: list[int], bits: int) -> None:
    many = outline(times, bits=bits)
    for chart in (
        charts.growth(many, "blocks"),
        charts.growth(many, "bytes"),
        charts.difficulty(many),
        charts.intervals(5, times, 1),
        charts.mean_intervals(many, 1),
    ):
        parsed(chart)


@pytest.mark.parametrize(
    ("length", "expected", "notes"),
    [
        (3, ["0 µs", "1 µs", "2 µs", "3 µs"], ["14 Mar 2026 11:10:00.000 UTC"]),
        (50_000, ["00.00 s", "00.02 s", "00.04 s"], ["14 Mar 2026 11:10 UTC"]),
        (7 * 10**6, ["11:10:00", "11:10:04"], ["14 Mar 2026 UTC"]),  # every second one
        (180 * 10**6, ["11:10", "11:11", "11:12", "11:13"], ["14 Mar 2026 UTC"]),
        (2 * DAY, ["12:00", "15 Mar", "12:00", "16 Mar"], ["14 Mar 2026 UTC", "16 Mar 2026"]),
        (40 * DAY, ["18 Mar", "28 Mar", "7 Apr", "17 Apr"], ["2026"]),
        (300 * DAY, ["Apr", "Jul", "Oct", "2027"], ["2026"]),
        (12 * 365 * DAY, ["2030", "2035"], ["2026"]),
        (300 * 365 * DAY, ["2100", "2200", "2300"], ["2026"]),
    ],
)
def test_times_have_round_labels(length: int, expected: list[str], notes: list[str]) -> None:
    chart = charts.growth(outline([START, START + length]), "blocks")
    assert labels(chart, "along") == expected
    assert [one.text for one in parsed(chart).findall("text[@class='note']")] == notes


@given(st.integers(0, LIMIT_63 - 1), st.integers(1, 2**61))
def test_labels_of_times_are_few_and_differ(begin: int, length: int) -> None:
    chart = charts.growth(outline([begin, min(begin + length, LIMIT_63 - 1)]), "blocks")
    found = labels(chart, "along")
    assert len(found) <= MOST_TICKS
    assert all(before != after for before, after in pairwise(found))


def test_growth_goes_from_the_first_block_to_all_of_them() -> None:
    chart = charts.growth(outline([START + i * DAY for i in range(101)], step=64), "blocks")
    [line] = path(chart)
    assert line[0] == (0, round(ACROSS * (1 - 1 / 6401), 1))
    assert line[-1] == (ACROSS, 0)
    assert all(before[0] < after[0] for before, after in pairwise(line))
    assert all(before[1] > after[1] for before, after in pairwise(line))
    assert rows(chart)[0] == ["Time (UTC)", "Blocks"]
    assert rows(chart)[1] == ["2026-03-14 11:10:00", "1"]
    assert rows(chart)[-1] == ["2026-06-22 11:10:00", "6,401"]


def test_bytes_end_with_those_of_the_last_block() -> None:
    chart = charts.growth(outline([START, START + 1, START + 2]), "bytes")
    assert [row[1] for row in rows(chart)[1:]] == ["0 bytes", "100 bytes", "300 bytes"]


def test_a_few_blocks_are_steps_since_nothing_came_between() -> None:
    times = [START, START + 10 * DAY, START + 11 * DAY]
    [line] = path(charts.growth(outline(times), "blocks"))
    assert [(round(x), round(y)) for x, y in line] == [
        *((0, 667), (909, 667), (909, 333), (1000, 333), (1000, 0))
    ]


def test_missing_samples_leave_a_gap_and_a_lonely_one_is_a_dot() -> None:
    whole = outline([START + i * DAY for i in range(40)], step=8)
    left = tuple(s for s in whole.samples if s.position // 8 not in (10, 11, 12, 20, 22))
    chart = charts.growth(Outline(left, whole.length, whole.size, complete=False), "blocks")
    assert [len(line) for line in path(chart)] == [10, 7, 1, 17]
    assert len(parsed(chart).findall("circle")) == 1


def test_one_block_is_a_dot() -> None:
    picture = parsed(charts.growth(outline([START]), "blocks"))
    [dot] = picture.findall("circle")
    assert (dot.get("cx"), dot.get("cy")) == ("50%", str(TOP))


def test_difficulty_is_the_hashes_that_a_block_takes() -> None:
    targets = [2**240, 2**236, 2**230]
    samples = tuple(
        Sample(i, START + i * DAY, 0, bits)
        for i, bits in enumerate([MAX_BITS, *map(bits_of, targets), 0, 0xFF00_0000])
    )
    chart = charts.difficulty(Outline(samples, 6, 0, complete=True))
    assert [row[1] for row in rows(chart)[1:]] == ["65.5 k", "1.05 M", "67.1 M"]
    assert work_of(bits_of(targets[0])) == 65_535
    assert "logarithmic" in chart.svg


def test_intervals_are_needles_with_what_was_aimed_at() -> None:
    times = [START, START + 5_000_000, START + 25_000_000, START + 24_000_000]
    chart = charts.intervals(7, times, 10_000_000)
    assert rows(chart)[1:] == [["8", "5 s"], ["9", "20 s"], ["10", "-1 s"]]
    needles = path(chart)
    assert [needle[0][1] for needle in needles] == [ACROSS] * 3
    assert [round(needle[1][1]) for needle in needles] == [750, 0, ACROSS]
    [wanted] = parsed(chart).findall("line[@class='wanted']")
    assert wanted.get("y1") == str((TOP + BASE) // 2)
    assert "dashes: 10 s, aimed at" in chart.svg


def test_one_long_interval_does_not_hide_the_others() -> None:
    times = [START + i * 10**7 + i // 50 * 90 * DAY for i in range(100)]
    chart = charts.intervals(0, times, 10_000_000)
    assert "logarithmic" in chart.svg
    assert {"1 min", "1 h", "1 day"} == set(labels(chart, "up"))


def test_mean_intervals_count_the_blocks_between_samples() -> None:
    chart = charts.mean_intervals(outline([START, START + 640 * 10**6], step=64), 10_000_000)
    assert [row[1] for row in rows(chart)[1:]] == ["10 s", "10 s"]


def test_a_line_of_chances_has_every_number_in_its_table() -> None:
    chart = attack(log=False)
    assert len(rows(chart)) == 32
    assert rows(chart)[0] == ["Confirmations", "Poisson", "exact"]
    assert rows(chart)[3] == ["2", "0.09", "0.202"]
    assert path(chart, 0)[0][1] == (33.3, 700)
    assert path(chart, 1)[0][1] == (33.3, 550)


def test_a_logarithmic_line_is_straight_where_it_should_be() -> None:
    [line] = path(attack(log=True))
    falls = {round(after[1] - before[1]) for before, after in pairwise(line)}
    assert max(falls) - min(falls) <= 1
    labelled = [float(text) for text in labels(attack(log=True), "up") if text[0] in "01"]
    assert all(value == 10 ** round(log10(value)) for value in labelled)


def test_chances_of_zero_are_not_on_a_logarithmic_scale() -> None:
    series = Series("p", [(0, 1), (1, 0.1), (2, 0), (3, 0.01)])
    chart = charts.line("t", [series], x="x", y="y", log=True)
    assert [len(line) for line in path(chart)] == [2, 1]
    assert rows(chart)[3] == ["2", "0"]


def test_axes_with_room_stay_the_same_and_a_place_can_be_marked() -> None:
    few = Series("few", [(0, 1), (1, 0.01)])
    many = Series("many", [(z, 0.5**z) for z in range(30)])
    charted = [
        charts.line("t", [one], x="x", y="y", log=True, across=(0, 60), up=(1e-9, 1), mark=place)
        for one, place in ((few, 1), (many, 60))
    ]
    for kind in ("up", "along"):
        assert labels(charted[0], kind) == labels(charted[1], kind)
    assert labels(charted[0], "along") == ["0", "20", "40", "60"]
    [at], [end] = (parsed(chart).findall("line[@class='mark']") for chart in charted)
    assert (at.get("x1"), end.get("x1")) == ("1.7%", "100%")
    [dot] = parsed(charted[0]).findall("circle")
    assert (dot.get("cx"), float(dot.get("cy") or 0)) == (
        "1.7%",
        TOP + round((BASE - TOP) * 2 / 9, 1),
    )
    assert parsed(charted[1]).findall("circle") == []  # it ends before


def test_names_are_text_and_never_markup() -> None:
    name = "<script>alert(1)</script>\"'&"
    one, two = (Series(name, [(0, 1), (1, 2)]) for _ in range(2))
    chart = charts.line(name, [one, two], x=name, y=name)
    assert parsed(chart).findtext("title") == name
    assert rows(chart)[0] == [name] * 3


def test_a_table_is_bounded_and_has_first_and_last() -> None:
    for length in range(2, 5 * MOST_ROWS, 7):
        chart = charts.growth(outline([START + i for i in range(length)]), "blocks")
        found = [row[1] for row in rows(chart)[1:]]
        assert len(found) <= MOST_ROWS + 1
        assert (found[0], found[-1]) == ("1", str(length))


def test_labels_never_meet_however_narrow_the_page(browser: Browser) -> None:
    lives = [life for name, life in LIVES.items() if "end of time" not in name]  # of damage
    found = [chart for life in lives for chart in drawn(life).values()]
    found += [attack(log, least=least) for log in (False, True) for least in (0.3, 1e-3)]
    style = ".plot { padding: 0 0.75rem 0 3.6rem; box-sizing: border-box; display: block }"
    page = browser.new_page()
    for width in (320, 1000):
        page.set_viewport_size({"width": width, "height": 800})
        page.set_content(
            f"<style>{style} body {{ margin: 0 20px; font-family: sans-serif }}</style>"
            + "".join(chart.svg for chart in found)
        )
        met = page.evaluate(
            """() => [...document.querySelectorAll("svg.plot")].flatMap((plot) => {
                const texts = [...plot.querySelectorAll("text")].filter((t) => t.textContent)
                    .map((t) => [t.textContent, t.getBoundingClientRect()]);
                const meet = ([, a], [, b]) => a.left < b.right && b.left < a.right
                    && a.top + 2 < b.bottom && b.top + 2 < a.bottom;
                return texts.flatMap((a, i) => texts.slice(i + 1).filter((b) => meet(a, b))
                    .map((b) => `${plot.textContent.slice(0, 40)}: ${a[0]} / ${b[0]}`))
                    .concat(texts.filter(([, a]) => a.left < 0 || a.right > innerWidth)
                    .map(([text]) => `${plot.textContent.slice(0, 40)}: ${text} is cut off`));
            })"""
        )
        assert "; ".join(met) == "", width
    page.close()
