"""Finding blocks, held to a naive filter of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn import Ledger
from cairn.hashing import best_hasher
from cairn.store.disk import DiskStore
from tests.api.answers import problem
from tests.api.conftest import Serve
from tests.api.test_pages import pages

YEAR_2100 = 4_102_444_800_000_000
"""µs since the Unix epoch; genesis is as old as the test."""
SALT = b'"needle"in salt"'
VALUES: list[Any] = [
    "needle",
    "needle needle needle",
    {"needle": 1},
    ['say "hi"', "back\\slash", "tab\there", "line\nbreak", "bell\x07", "nul\x00", "del\x7f"],
    {"a": {"b": [1, 2.5, None, True, "x"]}, "zz": -1},
    "naïve café 😀 \u2028 \ufffd",
    "1",
    1,
    12,
    121,
    18446744073709551615,
    [],
    {},
    "",
    "%41+&=?#/\\",
    "ends with need",
    "le begins",
    "aaaa",
    "aaa",
    "NEEDLE",
    {'quote"d': "v"},
    "x" * 3000 + "y",
]
NEEDLES = [
    "needle",
    "NEEDLE",
    '"needle"',
    "needle ",
    "eedl",
    "in salt",
    '"in salt"',
    't""',
    't""n',
    '"1',
    '1"',
    '""',
    '1""needle',
    'need"',
    'need"le',
    "[]",
    "{}",
    "]{",
    '}"',
    "1",
    "12",
    "aaa",
    "aaaa",
    "aaaaa",
    'say "hi"',
    'say \\"hi\\"',
    '"b":[1,2.5,null,true,"x"]',
    "back\\slash",
    "back\\\\slash",
    "\\",
    "\n",
    "\\n",
    "line\nbreak",
    "tab\there",
    "\t",
    "\x07",
    "\x00",
    "\x7f",
    "\\u0007",
    "é",
    "café 😀",
    "😀",
    "\u2028",
    "\ufffd",
    "%41+&=?#/\\",
    "x" * 999,
    "y",
    "not there",
    " ",
    "format",
    "null",
]


@pytest.fixture(scope="module")
def filed(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Serve three rounds of VALUES: in a run a commit, in one run, and two after a pause.

    All salts are the same, so that a search could find something in them, or across their ends.
    A second passes between blocks.
    """
    path = tmp_path_factory.mktemp("search") / "ledger"
    Ledger.create(path).close()
    times = iter(range(YEAR_2100, YEAR_2100 * 2, 1_000_000))
    store = DiskStore(path, best_hasher())
    with Ledger(store, clock=lambda: next(times), entropy=lambda n: SALT * (n // 16)) as ledger:
        for value in VALUES:
            ledger.append(value)
        ledger.extend(VALUES)
        ledger.extend(VALUES[:2])
    with serve_all(ledger=path).client() as client:
        yield client


@pytest.fixture(scope="module")
def everything(filed: httpx.Client) -> list[tuple[dict[str, Any], str]]:
    """Return every block and its JSON text."""
    blocks = [block for page in pages(filed, "/", "chain") for block in page["chain"]]
    assert len(blocks) == 1 + 2 * len(VALUES) + 2
    return [(b, filed.get(f"/blocks/{b['index']}/data").content.decode()) for b in blocks]


Everything = list[tuple[dict[str, Any], str]]


def naive(
    everything: Everything, contains: str = "", since: str = "0001-01-01", until: str = "9999-12-31"
) -> list[dict[str, Any]]:
    """Return which blocks are to be found."""
    quoted = json.dumps(contains, ensure_ascii=False)[1:-1]
    return [
        block
        for block, text in everything
        if (contains in text or quoted in text)
        and when(since) <= when(block["timestamp"]) < when(until)
    ]


def when(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def found(client: httpx.Client, **parameters: str | int) -> list[dict[str, Any]]:
    first = str(httpx.URL("/blocks", params=parameters))
    limit = int(parameters.get("limit", 1000))
    blocks = []
    for page in pages(client, first, "blocks"):
        assert list(page) == ["blocks", "next"]
        assert len(page["blocks"]) == limit or page["next"] is None
        blocks += page["blocks"]
    return blocks


@pytest.mark.parametrize("needle", NEEDLES)
def test_text_is_found(filed: httpx.Client, everything: Everything, needle: str) -> None:
    expected = naive(everything, needle)
    for limit in (1000, 2):
        assert found(filed, contains=needle, limit=limit) == expected


def test_what_these_needles_are_for(everything: Everything) -> None:
    """Some are there, some only in salts or across the ends of entries, and are not found."""
    assert len(naive(everything, "needle")) > 6
    for needle in ("in salt", 't""', 't""n', 'need"le', "]{", "not there"):
        assert not naive(everything, needle)
    text = "".join(SALT.decode() + text for _, text in everything)
    for needle in ("in salt", 't""', 't""n', '"needle"in'):
        assert needle in text


@settings(max_examples=60)
@given(data=st.data())
def test_any_piece_of_a_text_is_found(
    filed: httpx.Client, everything: Everything, data: st.DataObject
) -> None:
    _, text = data.draw(st.sampled_from(everything))
    at = data.draw(st.integers(0, len(text)))
    needle = text[at : at + data.draw(st.integers(0, 12))]
    assert found(filed, contains=needle) == naive(everything, needle)


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_nothing_asked_for_is_everything(
    filed: httpx.Client, everything: Everything, limit: int
) -> None:
    assert found(filed, limit=limit) == [block for block, _ in everything]


@pytest.mark.parametrize(
    "times",
    [
        {"since": "2100-01-01T00:00:00Z"},
        {"since": "2100-01-01T00:00:05Z"},
        {"since": "2100-01-01T00:00:05.000001Z"},
        {"since": "2100-01-01", "until": "2100-01-01T00:00:07.5Z"},
        {"since": "2100-01-01T01:00:05+01:00", "until": "2099-12-31T19:00:20-05:00"},
        {"until": "2100-01-01T00:00:00Z"},
        {"until": "2100-01-01T00:00:00.000001Z"},
        {"until": "1970-01-01"},
        {"since": "2100-01-01T00:00:30Z", "until": "2100-01-01T00:00:10Z"},
        {"since": "9999-12-31T23:59:59Z"},
        {"since": "0001-01-01", "until": "9999-12-31"},
        {"since": "0001-01-01T00:00:00+23:59", "until": "9999-12-31T23:59:59.999999-23:59"},
    ],
)
def test_times_bound_the_search(
    filed: httpx.Client, everything: Everything, times: dict[str, str]
) -> None:
    for contains in ("", "needle"):
        expected = naive(everything, contains, **times)
        for limit in (1000, 2):
            assert found(filed, **times, contains=contains, limit=limit) == expected


def test_ages_are_times(filed: httpx.Client) -> None:
    assert found(filed, since="1d")[0]["index"] == 0
    assert [block["index"] for block in found(filed, until="0s")] == [0]
    assert found(filed, until="1d") == []


def test_a_cursor_wins_over_a_time(filed: httpx.Client) -> None:
    assert found(filed, cursor=2, since="9999-12-31")[0]["index"] == 2


@pytest.mark.parametrize(
    "query",
    [
        "since=",
        "since=yesterday",
        "since=2026-13-01",
        "until=2026-01-01T25:00:00Z",
        "until=1w",
        "until=-1h",
        "since=99999999999999999999d",
        "since=%D9%A3h",
        "since=2026-01-01T00:00:00Z%00",
        "since=" + "1" * 65,
        "contains=" + "x" * 1001,
        "cursor=-1",
        "cursor=",
        "cursor=9223372036854775808",
        "limit=0",
        "limit=1001",
        "start=0",
        "contains=a&contains=a",
        "Contains=a",
    ],
)
def test_what_cannot_be_searched_for(filed: httpx.Client, query: str) -> None:
    problem(filed.get(f"/blocks?{query}"), 400, "bad-request")


def test_a_cursor_past_the_end(filed: httpx.Client, everything: Everything) -> None:
    assert found(filed, cursor=len(everything)) == []
    problem(filed.get(f"/blocks?cursor={len(everything) + 1}"), 404, "no-such-block")
    problem(filed.get("/blocks?cursor=9223372036854775807"), 404, "no-such-block")
