"""Finding blocks by time and text, against a plain look at every block."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn import Ledger
from cairn.core.canonical import canonical
from cairn.ledger import search
from cairn.ledger.search import Page, find_blocks, first_at, moment

VALUES: list[Any] = [
    "plain",
    'with "quotes" and \\ and / and \n a line',
    {"user": "alice", "deep": [{"é😀": "ü"}]},
    "x" * 300,
    ["alice"],
    "",
    7,
    None,
    "ali",
    "ce",  # so that what is looked for lies across two entries
    {"\u007f": "\u2028"},
]


def ledger_of(values: list[Any]) -> Ledger:
    clock = itertools.count(1_000_000, 1000)
    ledger = Ledger.in_memory(clock=lambda: next(clock), entropy=lambda n: (b"alice" * n)[:n])
    for value in values:
        ledger.append(value)
    return ledger


def pages(find: Callable[[int], Page]) -> list[Page]:
    found = [find(0)]
    while (following := found[-1].next) is not None:
        found.append(find(following))
        assert len(found) < 1000
    return found


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
@pytest.mark.parametrize(
    "text",
    ["alice", "a", '"', '"quotes"', "\\", "\n", "é😀", "ü", '{"', "/", "7", "none", "\ud800"],
)
def test_every_block_with_the_text_is_found_once(text: str, limit: int) -> None:
    ledger = ledger_of(VALUES)
    quoted = canonical(text)[1:-1] if text != "\ud800" else b"\xff"
    raw = text.encode(errors="surrogatepass")
    wanted = [b.index for b in ledger if raw in b.data_json() or quoted in b.data_json()]
    found = pages(lambda at: find_blocks(ledger, start=at, contains=text, limit=limit))
    assert [place for page in found for place in page.places] == wanted
    assert all(len(page.blocks) <= limit for page in found)
    assert all(
        b.index == p for page in found for b, p in zip(page.blocks, page.places, strict=True)
    )


def test_a_page_ends_by_bytes_and_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledger_of(["x" * 100] * 20)
    monkeypatch.setattr(search, "PAGE_BYTES", 350)
    by_bytes = pages(lambda at: find_blocks(ledger, start=at, limit=100))
    assert [place for page in by_bytes for place in page.places] == list(range(21))
    assert max(len(page.blocks) for page in by_bytes) == 4
    in_no_time = pages(lambda at: find_blocks(ledger, start=at, limit=100, seconds=-1))
    assert [place for page in in_no_time for place in page.places] == list(range(21))


def test_times_are_bounds() -> None:
    ledger = ledger_of(VALUES)
    times = [block.header.timestamp for block in ledger]
    for at in [0, *times, *(t + 1 for t in times), 2**62]:
        assert first_at(ledger, at) == sum(t < at for t in times)
        before = find_blocks(ledger, stop=first_at(ledger, at), limit=100)
        assert before.places == [i for i, t in enumerate(times) if t < at]
        assert before.next is None


@given(st.lists(st.text("ab", max_size=4), max_size=8), st.text("ab", min_size=1, max_size=3))
def test_what_is_found_is_what_is_there(values: list[str], text: str) -> None:
    ledger = ledger_of(values)
    found = find_blocks(ledger, contains=text, limit=100)
    wanted = [i for i, block in enumerate(ledger) if text.encode() in block.data_json()]
    assert found.places == wanted


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01T01:00:00.000001+01:00", 1),
        ("1969-12-31T23:59:59.5Z", -500_000),
    ],
)
def test_a_moment_is_read(text: str, microseconds: int) -> None:
    assert moment(text) == microseconds


def test_an_age_counts_from_now() -> None:
    assert abs(moment("2h") - moment("120m")) < 10_000_000
    assert moment("1d") < moment("1h") < moment("1s")


@pytest.mark.parametrize(
    "text", ["", "now", "2y", "٣h", "-1h", "2026-13-01", "2026-01-01Z\x00", "1e3s"]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a time"):
        moment(text)
