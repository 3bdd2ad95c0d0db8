"""What a log record becomes, whatever an application puts into it."""

from __future__ import annotations

import enum
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn import Ledger
from cairn.core.canonical import canonical
from cairn.core.genesis import Limits
from cairn.logging import LedgerHandler
from tests.logs.targets import Memory


class Bench(NamedTuple):
    logger: logging.Logger
    handler: LedgerHandler
    ledger: Ledger

    def entry(self, message: object, *arguments: object, **options: Any) -> dict[str, Any]:
        """Log something; return what is recorded of it."""
        length = len(self.ledger)
        self.logger.info(message, *arguments, **options)
        return self.last(length)

    def handled(self, **attributes: Any) -> dict[str, Any]:
        length = len(self.ledger)
        level = {"levelno": logging.INFO, "levelname": "INFO"}
        self.logger.handle(logging.makeLogRecord({**level, **attributes}))
        return self.last(length)

    def last(self, length: int) -> dict[str, Any]:
        assert self.handler.flush()
        assert len(self.ledger) == length + 1, "not recorded, or more than once"
        entry: dict[str, Any] = self.ledger.head.data
        return entry


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    ledger = Ledger.in_memory()
    logger, handler = logging.Logger("shop.orders"), LedgerHandler(ledger)
    logger.addHandler(handler)
    yield Bench(logger, handler, ledger)
    handler.close()


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Rude(dict[str, object]):
    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("changed size during iteration")

    items = __iter__  # type: ignore[assignment]


class Liar:
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


@dataclass
class Point:
    x: int


class Colour(enum.IntEnum):
    RED = 1


def cyclic() -> list[object]:
    cycle: list[object] = []
    cycle += [cycle, {"again": cycle}]
    return cycle


def deep(levels: int) -> list[object]:
    nest: list[object] = []
    for _ in range(levels):
        nest = [nest]
    return nest


# Plain records


def test_an_entry_has_time_level_logger_message_and_extra(bench: Bench) -> None:
    entry = bench.handled(
        name="shop.orders", msg="sold %d", args=(3,), created=1767323045.123456, user="alice"
    )
    assert entry == {
        "time": "2026-01-02T03:04:05.123456Z",
        "level": "INFO",
        "logger": "shop.orders",
        "message": "sold 3",
        "extra": {"user": "alice"},
    }


def test_the_time_is_that_of_the_logging_call(bench: Bench) -> None:
    before = time.time()
    entry = bench.entry("now")
    assert set(entry) == {"time", "level", "logger", "message"}
    assert before - 1e-6 <= datetime.fromisoformat(entry["time"]).timestamp() <= time.time()


def test_an_exception_and_a_stack_are_recorded_as_text(bench: Bench) -> None:
    try:
        os.environ["MISSING"]
    except KeyError:
        entry = bench.entry("failed", exc_info=True, stack_info=True)
    assert entry["exception"].startswith("Traceback (most recent call last):\n")
    assert entry["exception"].endswith("KeyError: 'MISSING'")
    assert "test_an_exception_and_a_stack" in entry["stack"]
    assert entry["message"] == "failed"


def test_a_formatter_makes_the_message(bench: Bench) -> None:
    bench.handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    try:
        entry = bench.entry("hello %s", "you", extra={"user": "alice"})
    finally:
        bench.handler.setFormatter(None)
    assert entry["message"] == "[INFO] hello you"
    assert entry["extra"] == {"user": "alice"}  # not what the formatter left in the record


def test_extras_cannot_pass_for_what_the_handler_says(bench: Bench) -> None:
    claims = {"time": "yesterday", "level": "DEBUG", "dropped": 7, "truncated": True}
    entry = bench.entry("honest", extra=claims)
    assert entry["extra"] == claims
    assert entry["level"] == "INFO"
    assert not {"dropped", "truncated"} & set(entry)


def test_what_is_recorded_is_what_was_when_it_was_logged() -> None:
    target = Memory()
    logger, handler = logging.Logger("test"), LedgerHandler(target)
    logger.addHandler(handler)
    basket = ["apple"]
    logger.info("sold", extra={"basket": basket})
    basket.append("pear")
    handler.close()
    assert target.values[0]["extra"] == {"basket": ["apple"]}


def test_a_mistake_in_the_call_is_reported_but_recorded(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = bench.entry("sold %d", "three", extra={"user": "alice"})
    assert entry["message"] == "sold %d % ('three',)"
    assert entry["extra"] == {"user": "alice"}
    assert "TypeError" in capsys.readouterr().err


# Odd ones


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (10**25, "1" + "0" * 25),
        (-(2**63) - 1, "-9223372036854775809"),
        (2**64 - 1, 2**64 - 1),
        (b"\xff\0", "b'\\xff\\x00'"),
        ("half \ud800", "half \\ud800"),
        (Decimal("1.50"), "1.50"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Path("/tmp/x"), "/tmp/x"),
        (ValueError("bad"), "ValueError('bad')"),
        (Point(3), "Point(x=3)"),
        (Colour.RED, 1),
        ((1, 2), [1, 2]),
        ({7}, [7]),
        ({1: "a", "1": "b", None: "c"}, {"1": "a", "1~": "b", "None": "c"}),
        (Hostile(), "<Hostile that cannot be shown: RuntimeError>"),
        (Liar(), "<Liar that cannot be shown: TypeError>"),
        (Rude(a=1), "<Rude that cannot be shown: RuntimeError>"),
        ({}, {}),
        ([[], [{}]], [[], [{}]]),
    ],
)
def test_what_json_cannot_say_becomes_text(bench: Bench, value: object, expected: object) -> None:
    entry = bench.entry("odd", extra={"value": value, "whole": ["as", {"it": "is"}, None]})
    assert entry["extra"] == {"value": expected, "whole": ["as", {"it": "is"}, None]}
    assert ("truncated" in entry) is isinstance(value, Rude)


@pytest.mark.parametrize("value", [cyclic(), deep(10_000), deep(200)], ids=["cyclic", "10k", "200"])
def test_structures_without_end_are_cut(bench: Bench, value: object) -> None:
    entry = bench.entry("deep", extra={"value": value, "user": "alice"})
    assert entry["extra"]["user"] == "alice"
    assert entry["truncated"] is True


def test_an_integer_of_a_million_digits_costs_little(bench: Bench) -> None:
    began = time.monotonic()
    entry = bench.entry("huge", extra={"value": 1 << 3_000_000})
    assert entry["extra"]["value"].startswith("0x1000")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("character", ["x", "\0", "😀"])
def test_a_record_past_the_limit_is_truncated_and_says_so(bench: Bench, character: str) -> None:
    size = 20 * 2**20 // len(json.dumps(character, ensure_ascii=False).encode()) + 1
    entry = bench.entry(character * size * 3, extra={"user": "alice", "items": list(range(100))})
    assert entry["truncated"] is True
    assert entry["message"].endswith(f"… ({size * 3} characters)")
    assert entry["message"].startswith(character * 1000)
    assert entry["extra"] == {"user": "alice", "items": list(range(100))}
    assert len(canonical(entry)) <= Limits().size


def test_many_small_values_leave_room_for_the_others(bench: Bench) -> None:
    many = {str(n): ["x" * 50] * 100 for n in range(5000)}
    entry = bench.entry("many", extra={"many": many, "user": "alice", "last": [1, {"a": 2}]})
    assert entry["truncated"] is True
    assert entry["extra"]["user"] == "alice"
    assert entry["extra"]["last"] == [1, {"a": 2}]
    assert 1000 < len(entry["extra"]["many"]) < 5000
    assert entry["extra"]["many"]["…"] == f"{5001 - len(entry['extra']['many'])} more"


def test_attributes_of_a_record_may_be_anything(bench: Bench) -> None:
    entry = bench.handled(
        name=b"n", msg=Hostile(), args=None, levelname=None, created="soon", exc_text=Hostile()
    )
    assert entry["time"] == "soon"
    assert entry["exception"] == "<Hostile that cannot be shown: RuntimeError>"
    nan = bench.handled(msg="x", created=float("nan"), exc_info=(1, 2, 3), stack_info=b"s")
    assert nan["time"] == "nan"


# All there is

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    # A float without a fraction reads back as an integer.
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda f: not f.is_integer()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
NAMES = st.text(min_size=1).filter(
    lambda name: name not in {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
)
ODD = st.one_of(
    st.floats(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.binary(),
    st.text(st.characters(categories=["Cs", "L"])),
    st.builds(Hostile),
    st.builds(Liar),
    st.builds(object),
    st.builds(cyclic),
    st.builds(deep, st.sampled_from([1, 90, 130, 1500])),
    st.builds(Point, st.integers()),
    st.datetimes(),
    st.decimals(),
    st.sampled_from([Colour.RED, Ellipsis, int, 1j, range(3), ValueError("x")]),
)
ANYTHING = st.recursive(
    ODD | JSON,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.none() | st.tuples(st.text()), inner)
    ),
    max_leaves=15,
)


@settings(max_examples=50)
@given(extra=st.dictionaries(NAMES, JSON), message=st.text())
def test_json_in_extras_is_recorded_as_it_is(
    bench: Bench, extra: dict[str, object], message: str
) -> None:
    entry = bench.entry("%s", message, extra=extra)
    assert entry["message"] == message
    assert entry.get("extra", {}) == extra
    assert "truncated" not in entry


@settings(max_examples=50)
@given(
    extra=st.dictionaries(NAMES, ANYTHING),
    message=st.text() | st.text(st.characters(categories=["Cs"])),
)
def test_whatever_is_in_extras_the_record_is_recorded(
    bench: Bench, extra: dict[str, object], message: str
) -> None:
    entry = bench.entry("%s", message, extra=extra)
    assert entry["message"] == message.encode("utf-8", "backslashreplace").decode()
    assert len(entry.get("extra", {})) == len(extra)
    for name, value in extra.items():
        if name.isascii() and isinstance(value, str) and value.isascii():
            assert entry["extra"][name] == value
