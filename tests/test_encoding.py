"""The fast path of encoding against the slow one: both accept or both refuse, with equal bytes."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cairn.core.canonical import canonical, parse
from cairn.core.errors import EntryError
from cairn.core.genesis import Limits
from cairn.encoding import Encoder, _are_plain, are_plain
from tests.core import reference, strategies

ENCODER = Encoder(Limits())


def outcome(encode: Callable[[Any], bytes], given: Any) -> bytes | str:
    """Return the canonical form, or the words of the refusal."""
    try:
        return encode(given)
    except EntryError as error:
        return str(error)


def slow_text(text: bytes) -> bytes:
    return canonical(parse(text))


def assert_value_agrees(value: Any) -> bytes | str:
    found = outcome(ENCODER.value, value)
    assert found == outcome(canonical, value)
    return found


def assert_text_agrees(text: bytes) -> bytes | str:
    found = outcome(ENCODER.text, text)
    assert found == outcome(slow_text, text)
    return found


# Values


@given(strategies.values)
@settings(max_examples=300)
def test_every_value_has_the_form_that_the_slow_path_gives(value: object) -> None:
    assert assert_value_agrees(value) == reference.write(value).encode()


@given(strategies.plain_values)
@settings(max_examples=300)
def test_plain_values_have_the_form_that_the_slow_path_gives(value: object) -> None:
    assert assert_value_agrees(value) == reference.write(value).encode()


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 9


class Word(StrEnum):
    A = "a"


class Pair(NamedTuple):
    a: int
    b: int


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Items(list[Any]):
    pass


@dataclasses.dataclass
class Point:
    x: int


class Said:
    def __str__(self) -> str:
        return "said"


ODD: list[Any] = [
    Colour.RED,
    Level.HIGH,
    Word.A,
    Pair(1, 2),
    Text("t"),
    Whole(5),
    Real(0.5),
    Real("nan"),
    Items([1]),
    OrderedDict(b=1, a=2),
    Point(1),
    Said(),
    (1, (2,)),
    {1},
    frozenset(),
    b"bytes",
    bytearray(b"x"),
    memoryview(b"x"),
    Decimal("1.5"),
    1j,
    UUID(int=1),
    date(2026, 1, 1),
    datetime(2026, 1, 1, tzinfo=UTC),
    np.int64(5),
    np.float64(1.5),
    np.float32(1.5),
    np.bool_(True),
    np.array([1, 2]),
    np.str_("n"),
    orjson.Fragment(b'{"b":1,"a":2}'),
    range(3),
    object(),
    int,
    None,
    True,
    False,
    "\ud800",
    "a\udfffb",
    float("nan"),
    float("inf"),
    -float("inf"),
    -0.0,
    0.0,
    1e15,
    1e15 - 0.125,
    1e-4,
    9.999e-5,
    5e-324,
    1.7976931348623157e308,
    2**53 + 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**20,
    10**20 + 1,
    -(10**20),
    10**21,
    10**400,
]


@pytest.mark.parametrize("odd", ODD, ids=lambda value: type(value).__name__)
def test_odd_values_are_taken_or_refused_alike_wherever_they_lie(odd: Any) -> None:
    for value in (odd, [odd], (odd,), {"k": odd}, {"a": [1, {"b": odd}]}, [[odd], "\U0001f600"]):
        assert_value_agrees(value)


@pytest.mark.parametrize(
    "key", [1, 1.5, None, True, b"k", (1,), Colour.RED, Word.A, Text("t"), UUID(int=0), "\ud800"]
)
def test_odd_keys_are_taken_or_refused_alike(key: Any) -> None:
    for value in ({key: 1}, [{"a": {key: 1, "b": 2}}], {"a": 1, key: 2}):
        assert_value_agrees(value)


def test_equal_keys_of_different_types_are_not_quietly_merged() -> None:
    for value in ({"1": "a", 1: "b"}, {"true": 1, True: 2}):
        assert "object key" in str(assert_value_agrees(value))


def test_keys_are_sorted_by_utf_16_and_not_by_code_point() -> None:
    value = {"\ue000": 1, "\U00010000": 2, "\uffff": 3, "a": 4}
    assert assert_value_agrees(value) == '{"a":4,"\U00010000":2,"\ue000":1,"\uffff":3}'.encode()
    assert assert_value_agrees({"\ue000": "\U00010000"})


def test_every_character_is_written_alike_as_text_and_as_key() -> None:
    for code in (*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 997)):
        character = chr(code)
        assert ENCODER.value({character: character}) == canonical({character: character})


@given(st.lists(strategies.any_doubles, max_size=20))
@example([1e15, -1e15, 1e-4, -1e-4, 999999999999999.9, 0.00010000000000000002])
def test_every_double_is_written_alike(doubles: list[float]) -> None:
    for double in doubles:
        assert_value_agrees(double)
        assert_value_agrees([double])


fast_doubles = st.builds(
    lambda sign, exponent, bits: (
        sign * struct.unpack(">d", struct.pack(">Q", (1023 + exponent << 52) | bits))[0]
    ),
    st.sampled_from((1, -1)),
    st.integers(-15, 51),
    st.integers(0, 2**52 - 1),
)


@given(st.lists(fast_doubles, min_size=1, max_size=20))
def test_doubles_of_everyday_size_are_written_alike(doubles: list[float]) -> None:
    assert assert_value_agrees(doubles) == reference.write(doubles).encode()


# Texts


TEXTS = [
    b"",
    b" ",
    b"null",
    b" true\n",
    b"-0",
    b"[-0, -0.0, 0e9, -0E-5]",
    b"1.0",
    b"1e2",
    b"1E400",
    b"-1e400",
    b"1e-400",
    b"0.1",
    b"123456789.125",
    b"1e21",
    b"100000000000000000000",
    b"100000000000000000001",
    b"18446744073709551615",
    b"18446744073709551616",
    b"18446744073709552000",
    b"-9223372036854775808",
    b"-9223372036854775809",
    b"-9223372036854776000",
    b"9007199254740993",
    b"9007199254740993.0",
    b"NaN",
    b"[Infinity]",
    b"-Infinity",
    b"nan",
    b"01",
    b"[1,]",
    b'{"a":1,}',
    b"[1] 2",
    b"\xef\xbb\xbf1",
    b"\xff",
    b'"\xed\xa0\x80"',
    b'"\xc0\x80"',
    b'"\xf4\x90\x80\x80"',
    b'"\x00"',
    b'"\x7f"',
    b'"\\u0000"',
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\ud83d\\ude00"',
    b'{"\\ud800":1}',
    b'{"a":1,"a":1}',
    b'{"a":1,"\\u0061":2}',
    b'{"a":{"b":1,"b":2}}',
    b'{"a":":","a":1}',
    b'{"a":1,"a":"\\u003a"}',
    b'{"a":1,"a":"\\u003A"}',
    b'{"a":"\\u003a","a":"x:x"}',
    b'{"\\u003a":1,"\\u003a":2}',
    b'{"\\u003a":1,":":2,"b":3}',
    b'{"a":1,"a":{"\\\\u003a":1}}',
    b'{"a":1,"a":"\\\\u003a"}',
    b'{"":1,"":2,"x":"\\u003a"}',
    b'[{"a":1,"a":1},"\\u003a"]',
    b'{"a":"\\u003a"}',
    b'{"a:b":"c:d"}',
    b'{"b":1,"a":2}',
    '{"\ue000":1,"\U00010000":2}'.encode(),
    b'{"\\ue000":1,"\\ud800\\udc00":2}',
    b"[" * 1000 + b"]" * 1000,
    b"[" * 100_000,
    b"[" * 128 + b"]" * 128,
    b"[" * 129 + b"]" * 129,
    b'{"a":' * 128 + b"1" + b"}" * 128,
    b'{"a":' * 129 + b"1" + b"}" * 129,
    "[1]".encode("utf-16"),
    b"9" * 10_000,
    b"0." + b"1" * 10_000,
    b'"' + b"\\" * 9 + b'"',
    b'"\\x41"',
    b"'a'",
    b"// 1\n1",
    b"[1\x0b]",
    b"[1\xa0]",
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:40]))
def test_texts_on_the_edges_are_taken_or_refused_alike(text: bytes) -> None:
    for whole in (text, b" " + text + b"\r\n\t", b"[" + text + b"]", b'{"k":' + text + b"}"):
        assert_text_agrees(whole)


@given(strategies.values, st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_every_text_has_the_form_that_the_slow_path_gives(
    value: object, chance: random.Random
) -> None:
    text = strategies.noisy(value, chance).encode()
    assert assert_text_agrees(text) == reference.write(value).encode()


@given(strategies.plain_values, st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_broken_texts_are_taken_or_refused_alike(value: object, chance: random.Random) -> None:
    text = strategies.noisy(value, chance).encode()
    assert_text_agrees(strategies.damaged(text, chance))
    assert_text_agrees(strategies.damaged(json.dumps(value).encode(), chance))


pieces = st.sampled_from(
    [b'"a"', b'"b"', b'":"', b'"\\u003a"', b'"\\u0061"', b'""', b'"\\\\u003a"', '"é"'.encode()]
)
members = st.builds(lambda key, value: key + b":" + value, pieces, pieces | st.just(b"1"))
objects = st.lists(members, max_size=4).map(lambda members: b"{" + b",".join(members) + b"}")


@given(st.lists(st.one_of(objects, pieces), min_size=1, max_size=3))
@example([b'{"a":1,"a":":"}'])
@example([b'{"a":1,"a":"\\u003a"}'])
def test_equal_keys_are_seen_behind_any_colons(parts: list[bytes]) -> None:
    """The fast path counts colons; none that is written otherwise may make up for a lost key."""
    assert_text_agrees(b"[" + b",".join(parts) + b"]")
    assert_text_agrees(b'{"k":' + parts[0] + b',"a":[' + b",".join(parts) + b"]}")


def test_colons_in_strings_alone_do_not_hide_equal_keys() -> None:
    for colons in range(5):
        for text in (
            '{"a":1,"a":"%s"}' % (":" * colons),
            '{"a":"%s","a":1}' % (":" * colons),
            '{"a":1,"a":"%s"}' % ("\\u003a" * colons),
            '{"a":1,"%s":2,"a":3}' % ("\\u003A" * colons),
        ):
            assert assert_text_agrees(text.encode()) == "duplicate key 'a'"


@given(st.binary(max_size=12))
def test_any_bytes_are_taken_or_refused_alike(text: bytes) -> None:
    assert_text_agrees(text)


@given(st.text('[]{}",:0123456789.eE+-\\u truefalsn\n', max_size=12))
def test_any_json_characters_are_taken_or_refused_alike(text: str) -> None:
    assert_text_agrees(text.encode())


# Many at once


def one_by_one(encode: Callable[[Any], bytes], items: Sequence[Any]) -> tuple[list[bytes], str]:
    """Return what is made of the items up to the first that is refused, and the refusal."""
    made: list[bytes] = []
    for item in items:
        found = outcome(encode, item)
        if isinstance(found, str):
            return made, found
        made.append(found)
    return made, ""


def assert_many_agree(encoder: Encoder, values: Sequence[Any], texts: Sequence[bytes]) -> None:
    many = encoder.texts(texts)
    assert (many.texts, str(many.error or "")) == one_by_one(encoder.text, texts)


@given(
    st.lists(strategies.plain_values | strategies.values, max_size=12),
    st.sampled_from((Limits(), Limits(depth=2), Limits(size=16 + 150))),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100)
def test_many_at_once_are_as_one_by_one(
    values: list[object], limits: Limits, chance: random.Random
) -> None:
    texts = [strategies.noisy(value, chance).encode() for value in values]
    assert_many_agree(Encoder(limits), values, texts)
    if texts:
        place = chance.randrange(len(texts))
        texts[place] = strategies.damaged(texts[place], chance)
        assert_many_agree(Encoder(limits), values, texts)


@pytest.mark.parametrize("place", [0, 1, 4, 5])
def test_an_odd_one_among_many_is_taken_or_refused_as_alone(place: int) -> None:
    plain: list[Any] = [{"a": 1}, "é", [1.5, None], {"b": {"a": "x:y"}}, 7]
    plain_texts = [json.dumps(value, ensure_ascii=False).encode() for value in plain]
    for odd in [*ODD, {1: 2}, {"a": {1: 2}}, nested(200, 1, lists=True), "x" * 2**25]:
        values = [*plain[:place], odd, *plain[place:]]
        assert_many_agree(ENCODER, values, plain_texts)
    for text in TEXTS:
        assert_many_agree(ENCODER, [], [*plain_texts[:place], text, *plain_texts[place:]])


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 300])
def test_a_refusal_at_each_border_of_a_group_is_the_same(count: int) -> None:
    values: list[Any] = [{"n": n} for n in range(count)]
    texts = [json.dumps(value).encode() for value in values]
    assert_many_agree(ENCODER, values, texts)
    assert_many_agree(ENCODER, [*values, float("nan"), 1], [*texts, b'{"a":1,"a":1}', b"1"])


# Limits


def nested(levels: int, inner: Any, *, lists: bool) -> Any:
    for _ in range(levels):
        inner = [inner] if lists else {"a": inner}
    return inner


@pytest.mark.parametrize("depth", [1, 2, 3, 100, 128, 253, 254, 255, 256])
@pytest.mark.parametrize("inner", [1, 1.5, "a", [], {}, (), [1.5], {"a": 1.5}])
@pytest.mark.parametrize("lists", [True, False])
def test_depth_is_refused_alike_exactly_past_the_limit(depth: int, inner: Any, lists: bool) -> None:
    encoder = Encoder(Limits(depth=depth))
    for levels in {0, max(depth - 1, 0), depth, depth + 1}:
        value = nested(levels, inner, lists=lists)
        deep = reference.depth(value) > depth
        expected = outcome(lambda value: canonical(value, depth=depth), value)
        assert isinstance(expected, str) == deep
        assert outcome(encoder.value, value) == expected
        text = json.dumps(value).encode()
        assert outcome(encoder.text, text) == expected


@given(strategies.plain_values, st.integers(1, 4))
def test_any_value_is_refused_by_depth_alike(value: object, depth: int) -> None:
    encoder = Encoder(Limits(depth=depth))
    expected = outcome(lambda value: canonical(value, depth=depth), value)
    assert isinstance(expected, str) == (reference.depth(value) > depth)
    assert outcome(encoder.value, value) == expected
    assert outcome(encoder.text, json.dumps(value).encode()) == expected


def test_a_value_inside_itself_is_refused_alike() -> None:
    loop: list[Any] = [1]
    loop.append({"again": loop})
    assert "nested too deeply" in str(assert_value_agrees(loop))


@pytest.mark.parametrize("text", [b'"aaaa"', b"123456", b"[1.5,2]", '"😀"'.encode(), b"1e+300"])
def test_size_is_refused_exactly_past_the_limit_salt_included(text: bytes) -> None:
    size = len(text)
    value = parse(text)
    roomy = Encoder(Limits(size=16 + size))
    assert roomy.text(b"  " + text + b"  ") == roomy.value(value) == text
    tight = Encoder(Limits(size=16 + size - 1))
    message = f"{size} bytes of canonical JSON are past the limit of this ledger, {size - 1}"
    assert outcome(tight.text, text) == outcome(tight.value, value) == message


def test_a_refused_value_is_named_before_its_size_is() -> None:
    tight = Encoder(Limits(size=17))
    assert outcome(tight.value, [float("nan")] * 10) == "nan is not a JSON number (at $[0])"
    assert outcome(tight.text, b'{"a":1,"a":2}') == "duplicate key 'a'"


def test_the_slow_path_is_taken_where_it_must_be_and_not_where_it_need_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that the runs above are known to compare two paths, not one with itself."""
    taken: list[object] = []

    def slow(value: object, *, depth: int) -> bytes:
        taken.append(value)
        return canonical(value, depth=depth)

    monkeypatch.setattr("cairn.encoding.canonical", slow)
    plain: list[Any] = [1, "é", [1.5, None, True], {"b": {"a": "\n"}}, 2**64 - 1, [[], {}]]
    for value in plain:
        ENCODER.value(value)
        ENCODER.text(json.dumps(value, ensure_ascii=False).encode())
    assert taken == []
    odd: list[Any] = ["\U0001f600", 1e15, 1e-5, 2.0, -0.0, (1,), Level.HIGH]
    for value in odd:
        ENCODER.value(value)
    assert len(taken) == len(odd)


# One long run


def any_value(chance: random.Random, levels: int = 4) -> Any:
    kind = chance.randrange(12 if levels else 8)
    if kind == 0:
        return chance.choice((None, True, False))
    if kind == 1:
        return chance.randrange(-1000, 1000)
    if kind == 2:
        bound = chance.choice((2**53, 2**63, 2**64, 10**20))
        return chance.choice((1, -1)) * (bound + chance.randrange(-3000, 3000))
    if kind == 3:
        return struct.unpack(">d", chance.randbytes(8))[0]
    if kind == 4:
        return chance.uniform(-1e6, 1e6)
    if kind == 5:
        return round(chance.uniform(-1e16, 1e16), chance.randrange(8))
    if kind in (6, 7):
        return any_text(chance)
    if kind in (8, 9):
        return [any_value(chance, levels - 1) for _ in range(chance.randrange(5))]
    return {any_text(chance): any_value(chance, levels - 1) for _ in range(chance.randrange(5))}


def any_text(chance: random.Random) -> str:
    alphabet = chance.choice(
        ("ab", 'ab:\\"/u03a', "\x00\x1f\n\x7f é€\ue000\uffff", "😀\U00010000\ue000")
    )
    return "".join(chance.choices(alphabet, k=chance.randrange(6)))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(8))
def test_a_hundred_thousand_random_values_and_texts_agree(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(100_000):
        value = any_value(chance)
        assert_value_agrees(value)
        text = strategies.noisy(value, chance).encode()
        assert_text_agrees(text)
        assert_text_agrees(strategies.damaged(text, chance))


@pytest.mark.soak
def test_a_million_random_doubles_agree() -> None:
    chance = random.Random(1)
    for _ in range(1_000_000):
        mantissa, exponent = chance.getrandbits(52), chance.randrange(1000, 1080)
        value: float = struct.unpack(">d", struct.pack(">Q", (exponent << 52) | mantissa))[0]
        found = ENCODER.value(value)
        assert found == canonical(value)
        assert found.decode() == reference.write_double(value)


# The twin in C


class Words(str):
    """A string that may not take the fast way, as all that is of another class."""

    __slots__ = ()


STRANGE = st.sampled_from(
    [(), (1,), Words("a"), {1}, b"", UUID(int=0), 1e15, 0.5, -1e-4, 1e-5, 2.0]
)
MIXED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | STRANGE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=12,
)


@pytest.mark.skipif(are_plain is _are_plain, reason="there was no compiler when it was installed")
@given(st.lists(MIXED, max_size=4), st.integers(0, 4))
@settings(max_examples=300)
def test_the_c_twin_says_the_same(values: list[object], depth: int) -> None:
    assert are_plain(values, depth) is _are_plain(values, depth)


@pytest.mark.skipif(are_plain is _are_plain, reason="there was no compiler when it was installed")
@pytest.mark.parametrize("arguments", [(), ([],), ((), 1), ({}, 1), ([], "1"), ([], 1, 2)])
def test_the_c_twin_refuses_other_arguments(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        are_plain(*arguments)
