"""Values as people read them: data keeps its every character, and nothing of it stays hidden."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.core.canonical import canonical
from cairn.explorer.shown import (
    DEEPEST,
    ago,
    count,
    digits,
    plain,
    rate,
    readable,
    seconds,
    short,
    size,
)

HIDING = "\u202e\u2066\u200b\u200f\u2028\u2029\x85\x7f\xad\ufeff\u2060\ufe0f\u3164\U000e0041"
TEXTS = st.text(
    st.one_of(
        st.sampled_from(HIDING + '"\\/{}[],: \n\té😀'), st.characters(exclude_categories=["Cs"])
    )
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda some: st.lists(some, max_size=4) | st.dictionaries(TEXTS, some, max_size=4),
)
WHOLE = 10**9


def taken_back(shown: str) -> str:
    """Remove white space outside of strings, and undo escapes that canonical JSON does not have."""

    def undo(match: re.Match[str]) -> str:
        token = match[0]
        if not token.startswith('"'):
            return "" if token.isspace() else token
        return re.sub(
            r"\\(?:u([0-9a-f]{4}(?:\\ud[c-f][0-9a-f]{2})?)|.)",
            lambda m: m[0] if m[1] is None or m[1] < "007f" else json.loads(f'"{m[0]}"'),
            token,
        )

    return re.sub(r'"(?:[^"\\]|\\.)*"|[\s\S]', undo, shown)


@given(VALUES)
def test_what_is_shown_is_the_recorded_text_and_white_space(value: object) -> None:
    text = canonical(value).decode()
    shown, is_whole = readable(text, WHOLE)
    assert is_whole
    assert taken_back(shown) == text
    assert json.loads(shown) == json.loads(text)


@given(VALUES)
def test_nothing_that_hides_or_reorders_is_left(value: object) -> None:
    shown, _ = readable(canonical(value).decode(), WHOLE)
    for letter in shown:
        category = unicodedata.category(letter)
        assert letter == "\n" or category not in ("Cc", "Cf", "Zl", "Zp", "Cs")
        assert unicodedata.bidirectional(letter) not in ("LRE", "RLO", "RLE", "PDF", "LRI", "RLI")


def test_every_character_that_formats_or_controls_is_escaped() -> None:
    shown = plain("".join(map(chr, range(0x110000))))
    left = [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")]
    # These have a shape of their own, that includes the digits or letters after them.
    shapes = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
    shapes += "\U000110bd\U000110cd" + "".join(map(chr, range(0x13430, 0x13440)))
    assert set(left) <= {"\t", "\n", *shapes}


@given(VALUES, st.integers(0, 120))
def test_what_is_cut_is_the_beginning_and_ends_in_no_escape(value: object, limit: int) -> None:
    text = canonical(value).decode()
    all_of_it, _ = readable(text, WHOLE)
    shown, is_whole = readable(text, limit)
    assert len(shown) <= limit
    assert all_of_it.startswith(shown)
    assert is_whole == (shown == all_of_it)
    assert len(all_of_it) <= limit or len(shown) > limit - 12 - 2 * DEEPEST
    string = shown[shown.rfind("\n") :]
    assert not re.search(r"(?<!\\)(\\\\)*\\(u[0-9a-f]{0,3})?$", string)


@given(st.text(max_size=80), st.integers(0, 200))
def test_damaged_text_is_shown_too(text: str, limit: int) -> None:
    shown, is_whole = readable(text, limit)
    assert len(shown) <= limit
    shown.encode()
    if is_whole:
        kept = re.sub(r"\s", "", shown)
        assert kept == re.sub(r"\s", "", plain(text)).replace("\n", "")


def test_a_long_escape_is_shown_whole_or_not_at_all() -> None:
    tag = "\\udb40\\udc41"
    for limit in range(60):
        shown, is_whole = readable('"' + "\U000e0041" * 10 + '"', limit)
        assert not is_whole
        assert shown == ('"' + tag * ((limit - 1) // len(tag)) if limit else "")


def test_json_is_laid_out_over_lines() -> None:
    assert readable('{"a":[1,{"b":[]},{}],"c":"{x,\\"y:\u202e"}', WHOLE)[0] == (
        '{\n  "a": [\n    1,\n    {\n      "b": []\n    },\n    {}\n  ],\n'
        '  "c": "{x,\\"y:\\u202e"\n}'
    )


def test_numbers_keep_every_digit() -> None:
    text = "[18446744073709551615,1e+21,100000000000000000000,5e-324]"
    assert "".join(readable(text, WHOLE)[0].split()) == text


def test_deep_nesting_stays_readable_and_short() -> None:
    depth = 10_000
    shown, is_whole = readable("[" * depth + "1" + "]" * depth, WHOLE)
    assert is_whole
    assert max(map(len, shown.split("\n"))) <= 2 * DEEPEST + 1
    assert len(shown) < 2 * depth * (2 * DEEPEST + 2)


@pytest.mark.parametrize(
    "text",
    [
        '"' + "x" * 300_000 + '"',
        '"' + "\\\\" * 150_000,
        '"' + "\u202e" * 100_000 + '"',
        "[" * 300_000,
        "[" + "1," * 150_000,
        '{"' + "a" * 300_000,
        '"\\' * 150_000,
    ],
)
def test_long_text_takes_no_longer_than_what_is_shown_of_it(text: str) -> None:
    began = time.process_time()
    for _ in range(20):
        assert len(readable(text, 1000)[0]) <= 1000
    assert time.process_time() - began < 0.5
    readable(text, WHOLE)  # in one pass
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        *((0, "0 s"), (3e-6, "3 µs"), (0.0123, "12.3 ms"), (0.9996, "1 s"), (1.5, "1.5 s")),
        *((59.96, "1 min"), (125, "2 min 5 s"), (3599.7, "1 h"), (12_000, "3 h 20 min")),
        *((86_400, "1 day"), (86_400 * 3.4, "3 days"), (1e8, "3.17 years"), (-5, "-5 s")),
    ],
)
def test_seconds(number: float, shown: str) -> None:
    assert seconds(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        *((0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1 kB"), (1536, "1.54 kB")),
        *((999_499, "999 kB"), (999_999, "1 MB"), (1_234_567, "1.23 MB"), (10**24, "1e24 B")),
    ],
)
def test_sizes(number: int, shown: str) -> None:
    assert size(number) == shown


@given(st.integers(0, 10**30))
def test_a_short_number_is_right_to_three_digits(number: int) -> None:
    mantissa, _, unit = short(number).partition(" ")
    factor = 1000 ** ["", "k", "M", "G", "T", "P", "E"].index(unit)
    assert abs(float(mantissa) * factor - number) <= 0.0051 * number


@given(st.floats(1e-300, 1e15))
def test_digits_are_right_to_three_and_no_more(number: float) -> None:
    text = digits(number)
    assert abs(float(text) - number) <= 0.0051 * number
    assert len(text.lstrip("0.").replace(".", "")) <= max(3, len(str(round(number)))) + 5


@pytest.mark.parametrize(
    ("number", "what", "shown"),
    [
        *((0, "blocks", "0 blocks/s"), (12.345, "blocks", "12.3 blocks/s")),
        *((4_512_345, "blocks", "4,510,000 blocks/s"), (1.2e9, "B", "1.2 GB/s")),
        *((0.5, "blocks", "30 blocks a minute"), (1e-3, "blocks", "3.6 blocks an hour")),
        *((1e-4, "blocks", "8.64 blocks a day"), (1e-6, "blocks", "31.6 blocks a year")),
    ],
)
def test_rates(number: float, what: str, shown: str) -> None:
    assert rate(number, what) == shown


@pytest.mark.parametrize(
    ("passed", "shown"),
    [
        *((0, "just now"), (12.9, "12 s ago"), (59.99, "59 s ago"), (119, "1 min ago")),
        *((7199, "1 h ago"), (200_000, "2 days ago"), (1e8, "3.17 years ago"), (-300, "in 5 min")),
    ],
)
def test_ago(passed: float, shown: str) -> None:
    now = datetime(2026, 3, 14, tzinfo=UTC)
    assert ago(now - timedelta(seconds=passed), now) == shown


def test_counts() -> None:
    assert count(1_234_567) == "1,234,567"
