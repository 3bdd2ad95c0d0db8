"""Canonical JSON against RFC 8785, a slow writer, and everything that must be refused."""

from __future__ import annotations

import random
import struct
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairn.core.canonical import DEFAULT_DEPTH, MAX_INTEGER, MIN_INTEGER, canonical, number, parse
from cairn.core.errors import EntryError
from tests.core import reference, strategies


def double(bits: str) -> float:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert isinstance(value, float)
    return value


def refusal(call: Any, *args: Any, **options: Any) -> EntryError:
    with pytest.raises(EntryError) as caught:
        call(*args, **options)
    return caught.value


def nested(levels: int, inner: object = None) -> object:
    """Return `inner` inside so many containers, lists and objects by turns."""
    value = inner
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


# The examples of RFC 8785

SECTION_3_2_2 = r"""{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"""
SECTION_3_2_4 = bytes.fromhex(
    "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a5b333333333333"
    "3333332e333333333333332c31652b33302c342e352c302e3030322c31652d32375d2c22737472696e67223a22e282"
    "ac245c75303030665c6e4127425c225c5c5c5c5c222f227d"
)
SECTION_3_2_3 = r"""{
  "\u20ac": "Euro Sign",
  "\r": "Carriage Return",
  "\ufb33": "Hebrew Letter Dalet With Dagesh",
  "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face",
  "\u0080": "Control",
  "\u00f6": "Latin Small Letter O With Diaeresis"
}"""
SECTION_3_2_3_ORDER = [
    "Carriage Return",
    "One",
    "Control",
    "Latin Small Letter O With Diaeresis",
    "Euro Sign",
    "Emoji: Grinning Face",
    "Hebrew Letter Dalet With Dagesh",
]

APPENDIX_B = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


def test_rfc_8785_section_3_2_2_sample_has_the_bytes_of_section_3_2_4() -> None:
    assert canonical(parse(SECTION_3_2_2)) == SECTION_3_2_4
    assert canonical(parse(SECTION_3_2_2.encode())) == SECTION_3_2_4


def test_rfc_8785_section_3_2_3_sample_is_sorted_by_utf_16_code_units() -> None:
    value = parse(canonical(parse(SECTION_3_2_3)))
    assert list(value.values()) == SECTION_3_2_3_ORDER


@pytest.mark.parametrize(("bits", "form"), APPENDIX_B)
def test_rfc_8785_appendix_b_numbers(bits: str, form: str) -> None:
    assert number(double(bits)) == form
    assert canonical(double(bits)) == form.encode()
    assert reference.write_double(double(bits)) == form


@pytest.mark.parametrize(
    ("bits", "name"),
    [("7fffffffffffffff", "nan"), ("7ff0000000000000", "inf"), ("fff0000000000000", "-inf")],
)
def test_rfc_8785_appendix_b_refuses_nan_and_infinity(bits: str, name: str) -> None:
    for call in (number, canonical):
        assert refusal(call, double(bits)).reason == f"{name} is not a JSON number"


# The slow writer agrees


@given(strategies.values)
def test_every_value_is_written_as_the_reference_writes_it(value: object) -> None:
    assert canonical(value).decode() == reference.write(value)


@given(strategies.values)
def test_canonical_form_is_a_fixed_point(value: object) -> None:
    text = canonical(value)
    assert canonical(parse(text)) == text
    assert canonical(parse(text.decode())) == text


@given(strategies.values, st.randoms(use_true_random=False))
def test_white_space_escapes_and_order_of_a_text_do_not_matter(
    value: object, chance: random.Random
) -> None:
    text = strategies.noisy(value, chance)
    assert canonical(parse(text)).decode() == reference.write(value)


@given(strategies.any_doubles)
def test_any_64_bits_read_as_a_double_are_laid_out_as_the_reference_does(value: float) -> None:
    if abs(value) < float("inf"):
        assert number(value) == reference.write_double(value)
        assert float(number(value)) == value
    else:
        refusal(number, value)


def test_every_power_of_ten_and_two_is_laid_out_as_the_reference_does() -> None:
    powers = [float(f"1e{e}") for e in range(-323, 309)] + [2.0**e for e in range(-1074, 1024)]
    for power in powers:
        for value in (power, -power, power * 1.5, power * (1 + 2**-52)):
            if abs(value) < float("inf"):
                assert number(value) == reference.write_double(value)


def test_every_character_of_the_basic_plane_is_written_as_the_reference_writes_it() -> None:
    for code in (*range(0xD800), *range(0xE000, 0x10000)):
        character = chr(code)
        text = canonical(character)
        assert text.decode() == reference.write_string(character)
        assert parse(text) == character


def test_every_character_as_a_key_is_sorted_as_the_reference_sorts_it() -> None:
    codes = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 997), 0x10FFFF]
    random.Random(1).shuffle(codes)
    value = {chr(code): code for code in codes}
    assert canonical(value).decode() == reference.write(value)


def test_keys_above_the_basic_plane_come_before_those_from_u_e000() -> None:
    value = {"\ue000": 1, "\U00010000": 2, "\uffff": 3, "\U0010ffff": 4, "\ud7ff": 5}
    assert list(parse(canonical(value)).values()) == [5, 2, 4, 1, 3]


@pytest.mark.parametrize("bound", [2**53, 2**63, 2**64, 10**20, 10**21, 2**70, 10**400])
def test_integers_around_every_bound_are_as_the_reference_has_them(bound: int) -> None:
    for value in (sign * (bound + off) for sign in (1, -1) for off in range(-2050, 2051)):
        try:
            form = reference.write_integer(value)
        except reference.RefusedError:
            bits = value.bit_length()
            assert refusal(canonical, value).reason.startswith(f"integer of {bits} bits")
            assert "is past 64 bits" in refusal(parse, str(value)).reason
        else:
            assert canonical(value).decode() == form == str(value)
            assert canonical(parse(form)).decode() == form


def test_64_bit_integers_keep_all_their_digits() -> None:
    assert (MIN_INTEGER, MAX_INTEGER) == (-(2**63), 2**64 - 1)
    for value in (MIN_INTEGER, MAX_INTEGER, 505874924095815681, 2**53 + 1, -(2**53) - 1):
        assert canonical(value) == str(value).encode()
        assert parse(str(value)) == value
        assert type(parse(str(value))) is int


def test_a_longer_integer_is_accepted_only_as_its_own_rfc_8785_form() -> None:
    accepted = "100000000000000000000"
    assert canonical(parse(accepted)) == canonical(10**20) == accepted.encode()
    assert type(parse(accepted)) is float
    for literal in ("100000000000000000001", "18446744073709551616", "-9223372036854775809"):
        reason = f"integer {literal} is past 64 bits and not its own RFC 8785 form"
        assert refusal(parse, literal).reason == reason
        assert refusal(canonical, int(literal)).reason.endswith("not its own RFC 8785 form")
    assert canonical(parse("18446744073709552000")) == b"18446744073709552000"
    assert canonical(parse("-9223372036854776000")) == b"-9223372036854776000"
    assert refusal(parse, "1" + "0" * 21).reason.startswith("integer 1000000000000000000000 is")


def test_a_huge_integer_is_refused_at_once() -> None:
    began = time.perf_counter()
    assert refusal(canonical, 10**200_000).reason.startswith("integer of 664386 bits")
    refused = refusal(parse, "9" * 1_000_000)
    assert refused.reason.startswith("integer " + "9" * 40 + "… is past 64 bits")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("-0", "0"),
        ("-0.0", "0"),
        ("-0e5", "0"),
        ("1.0", "1"),
        ("1e2", "100"),
        ("1E21", "1e+21"),
        ("1e20", "100000000000000000000"),
        ("0.000001", "0.000001"),
        ("0.0000001", "1e-7"),
        ("1e-400", "0"),
        ("5e-324", "5e-324"),
        ("9007199254740993.0", "9007199254740992"),
        (" true ", "true"),
        ("\t\r\n null", "null"),
        ("false", "false"),
        ('"\\u0022\\/\\b\\f\\n\\r\\t\\u001F\\u007f"', '"\\"/\\b\\f\\n\\r\\t\\u001f\x7f"'),
        ('"\\uD83D\\uDE00"', '"😀"'),
        ("[ ]", "[]"),
        ("{ }", "{}"),
        ('{"":{"":[]}}', '{"":{"":[]}}'),
    ],
)
def test_a_text_has_this_canonical_form(text: str, form: str) -> None:
    assert canonical(parse(text)).decode() == form
    assert canonical(parse(text.encode())).decode() == form


def test_subclasses_are_written_as_what_they_are() -> None:
    class Number(IntEnum):
        ONE = 1

    class Word(StrEnum):
        A = "a"

    class Real(float):
        def __repr__(self) -> str:
            return "nonsense"

    assert canonical([Number.ONE, Word.A, Real(1.5), {Word.A: (1,)}]) == b'[1,"a",1.5,{"a":[1]}]'


# Refusals


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({1}, "set"),
        (frozenset({1}), "frozenset"),
        (b"a", "bytes"),
        (bytearray(b"a"), "bytearray"),
        (Decimal(1), "Decimal"),
        (UUID(int=0), "UUID"),
        (datetime(2026, 1, 1, tzinfo=UTC), "datetime"),
        (Colour.RED, "Colour"),
        (1j, "complex"),
        (range(3), "range"),
        (object(), "object"),
        (iter([1]), "list_iterator"),
        ({}.keys(), "dict_keys"),
    ],
)
def test_other_types_are_refused_by_name_and_place(value: object, name: str) -> None:
    assert str(refusal(canonical, value)) == f"{name} is not a JSON type"
    error = refusal(canonical, {"items": [1, {"id": value}]})
    assert str(error) == f"{name} is not a JSON type (at $.items[1].id)"
    assert (error.reason, error.path) == (f"{name} is not a JSON type", ".items[1].id")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "nan is not a JSON number"),
        ([0, float("inf")], "inf is not a JSON number (at $[1])"),
        ({"a": (-float("inf"),)}, "-inf is not a JSON number (at $.a[0])"),
        ({"a": 2**64}, "integer of 65 bits is past 64 and not its own RFC 8785 form (at $.a)"),
        (["\ud800"], "lone surrogate U+D800 in a string (at $[0])"),
        ({"a": "b\udfff"}, "lone surrogate U+DFFF in a string (at $.a)"),
        ({"\udc00": 1}, "lone surrogate U+DC00 in a string"),
        ([{"\udc00": 1}], "lone surrogate U+DC00 in a string (at $[0])"),
        ("\ud83d\ude00", "lone surrogate U+D83D in a string"),
        ({1: 2}, "object key 1 is int, not a string"),
        ({"a": {None: 2}}, "object key None is NoneType, not a string (at $.a)"),
        ([{True: 2}], "object key True is bool, not a string (at $[0])"),
        ({(1, 2): 3}, "object key (1, 2) is tuple, not a string"),
        ({b"a": 3}, "object key b'a' is bytes, not a string"),
    ],
)
def test_refusal_of_a_value_names_the_offender_and_the_path(value: object, message: str) -> None:
    assert str(refusal(canonical, value)) == message


@pytest.mark.parametrize("code", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_lone_surrogates_are_refused_raw_and_escaped(code: int) -> None:
    raw = chr(code)
    for text in (f'"{raw}"', f'"\\u{code:04x}"', f'["\\u{code:04X}x"]', f'{{"\\u{code:04x}":1}}'):
        error = refusal(lambda text: canonical(parse(text)), text)
        assert error.reason == f"lone surrogate U+{code:04X} in a string"
    as_utf_8 = b'"' + raw.encode(errors="surrogatepass") + b'"'
    assert refusal(parse, as_utf_8).reason == "not UTF-8: byte 1 is 0xed"


def test_surrogates_the_wrong_way_round_are_two_lone_ones() -> None:
    assert "U+DE00" in refusal(parse, '"\\ude00\\ud83d"').reason


def test_keys_that_only_look_equal_are_refused() -> None:
    class Own(str):
        __slots__ = ()
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return self is other

    with pytest.raises(EntryError, match="duplicate key 'a'"):
        canonical({Own("a"): 1, Own("a"): 2})


def test_parse_refuses_lone_surrogates_as_all_that_canonical_could_not_keep() -> None:
    for text in ('"\\ud800"', '{"\\udfff":1}', '[["\udc00"]]'):
        assert refusal(parse, text).reason.startswith("lone surrogate")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a":1,"a":2}', "a"),
        ('{"a":1,"a":1}', "a"),
        (r'{"a":1,"\u0061":2}', "a"),
        (r'{"\u0061":1,"b":0,"\u0061":2}', "a"),
        (r'{"/":1,"\/":2}', "/"),
        (r'{"😀":1,"\ud83d\ude00":2}', "😀"),
        ('{"":1,"":2}', ""),
        ('[{"x":{"b":0,"c":1,"c":{}}}]', "c"),
        ('{"a":{"a":1},"b":2,"b":3}', "b"),
    ],
)
def test_equal_keys_are_refused_however_they_are_written(text: str, key: str) -> None:
    assert refusal(parse, text).reason == f"duplicate key {key!r}"


def test_equal_keys_of_different_objects_are_fine() -> None:
    assert parse('[{"a":{"a":1}},{"a":2}]') == [{"a": {"a": 1}}, {"a": 2}]


def test_keys_that_only_look_alike_are_different() -> None:
    assert canonical(parse('{"é":1,"e\u0301":2}')) == '{"e\u0301":2,"é":1}'.encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "NaN is not JSON"),
        ("[Infinity]", "Infinity is not JSON"),
        ("-Infinity", "-Infinity is not JSON"),
        ("1e400", "number 1e400 is past the range of a double"),
        ("-1.5E+999", "number -1.5E+999 is past the range of a double"),
        ("1." + "0" * 50 + "e400", f"number 1.{'0' * 38}… is past the range of a double"),
    ],
)
def test_numbers_that_are_none_are_refused(text: str, reason: str) -> None:
    assert refusal(parse, text).reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        "nul",
        "nulll",
        "True",
        "None",
        "undefined",
        "1 2",
        "{} x",
        "[1]]",
        '"a" "b"',
        "1,",
        "01",
        "-01",
        "00",
        "+1",
        ".5",
        "1.",
        "1.e5",
        "1e",
        "1e+",
        "-",
        "--1",
        "0x10",
        "1_000",
        "١",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[",
        "]",
        "{",
        '{"a"}',
        '{"a":}',
        '{"a":1,}',
        '{"a" 1}',
        "{a:1}",
        "{'a':1}",
        "{1:2}",
        "'a'",
        '"a',
        '"\\x41"',
        '"\\u12"',
        '"\\u12G4"',
        '"\\"',
        '"\t"',
        '"\n"',
        '"\x00"',
        "/* */ 1",
        "1 // one",
        "\x0b1",
        "\x0c1",
        "\xa01",
        "1\x00",
        "\ufeff1",
        "1\ufeff",
        "\ufeff",
    ],
)
def test_what_is_not_one_json_text_is_refused(text: str) -> None:
    assert refusal(parse, text).reason.startswith("not JSON: ")
    assert refusal(parse, text.encode()).reason.startswith("not JSON: ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff", "not UTF-8: byte 0 is 0xff"),
        (b'"a\xc3"', "not UTF-8: byte 2 is 0xc3"),
        (b'"\xc0\x80"', "not UTF-8: byte 1 is 0xc0"),
        (b'"\xf4\x90\x80\x80"', "not UTF-8: byte 1 is 0xf4"),
        (b'"\xe9"', "not UTF-8: byte 1 is 0xe9"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8: byte 0 is 0xff"),
    ],
)
def test_bad_utf_8_is_refused_and_the_byte_named(text: bytes, reason: str) -> None:
    assert refusal(parse, text).reason == reason


def test_a_byte_order_mark_is_refused_in_every_encoding() -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        refusal(parse, '{"a":1}'.encode(encoding))


# Depth


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 127, 128, 255, 256])
def test_depth_is_refused_exactly_past_the_limit(limit: int) -> None:
    for scalar in (1, 1.5, "a", None):
        kept = nested(limit, scalar)
        assert reference.depth(kept) == limit
        assert canonical(kept, depth=limit).decode() == reference.write(kept)
    for inner in ([], {}, (), [1], {"a": 1}):
        error = refusal(canonical, nested(limit, inner), depth=limit)
        assert error.reason == "nested too deeply: past the limit of this ledger"
        assert len(error.path.replace("[0]", "_").replace(".a", "_")) == limit


def test_depth_is_128_unless_said_otherwise() -> None:
    assert DEFAULT_DEPTH == 128
    assert canonical(nested(128))
    refusal(canonical, nested(129))


def test_depth_counts_nesting_not_length() -> None:
    assert canonical([[], [], {}, {"a": 1}], depth=2) == b'[[],[],{},{"a":1}]'
    wide = [[i] for i in range(1000)]
    assert parse(canonical(wide, depth=2)) == wide


def test_a_value_inside_itself_is_too_deep() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert refusal(canonical, loop).reason.startswith("nested too deeply")


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_a_hundred_thousand_open_brackets_are_refused(opening: str) -> None:
    recursion_limit = sys.getrecursionlimit()
    closing = {"[": "]", '{"a":': "}", '[{"a":': "}]"}[opening]
    for text in (opening * 100_000, opening * 100_000 + "1" + closing * 100_000):
        assert refusal(parse, text.encode()).reason == "not acceptable JSON: nested too deeply"
    assert sys.getrecursionlimit() == recursion_limit


@given(strategies.values, st.integers(0, 6))
@example([[[]]], 2)
def test_a_value_is_refused_by_depth_exactly_when_the_reference_counts_more(
    value: object, limit: int
) -> None:
    if reference.depth(value) <= limit:
        assert canonical(value, depth=limit) == canonical(value)
    else:
        assert refusal(canonical, value, depth=limit).reason.startswith("nested too deeply")
