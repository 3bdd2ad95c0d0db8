"""Canonical JSON: RFC 8785 (JCS), with 64-bit integers kept exactly.

This module is the definition. `cairn.encoding` is the fast twin, where it provably agrees.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from json.encoder import encode_basestring
from typing import Any, Final

from cairn.core.errors import EntryError

MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**64 - 1

DEFAULT_DEPTH: Final = 128
"""Containers inside one another, at most. Real documents stay under 30."""

_SURROGATE: Final = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
"""A surrogate, plain or escaped; escaped ones may still be a pair."""

_LONGEST_64_BIT: Final = 20
"""Characters of the longest integer literal that can fit 64 bits: `-9223372036854775808`."""


def canonical(value: object, *, depth: int = DEFAULT_DEPTH) -> bytes:
    """Return the canonical JSON of `value` as UTF-8.

    `value` is what JSON can say: None, bool, int, float, str, a list or tuple of values, a dict
    from str to value. Requires `0 <= depth <= 256`, the containers allowed inside one another.

    Source: RFC 8785; integers in [-2**63, 2**64 - 1] keep all their digits.

    Raises:
        EntryError: NaN, infinities, lone surrogates, an integer past 64 bits that is not already
            its own RFC 8785 form, a key that is no string, another type, or too deep.
    """
    return _text(value, depth).encode()


def parse(text: bytes | str) -> Any:
    """Return the value of one JSON text, refusing whatever `canonical` could not keep.

    Integer literals past 64 bits are doubles, as everywhere in RFC 8785. For every canonical `c`,
    `canonical(parse(c)) == c`.

    Source: RFC 8259 for the grammar; RFC 7493 (I-JSON) for unique keys.

    Raises:
        EntryError: not one JSON text in UTF-8, a byte-order mark, equal keys in one object, NaN,
            an infinity, a literal past the range of a double, or nesting past the interpreter's.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = _DECODER.decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _lone_surrogate(error) from None
    except UnicodeDecodeError as error:
        raise EntryError(
            f"not UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        ) from None
    except json.JSONDecodeError as error:
        raise EntryError(f"not JSON: {error}") from None
    except RecursionError:
        raise EntryError("not acceptable JSON: nested too deeply") from None
    return value


def number(value: float) -> str:
    """Return the shortest decimal form of a finite double, laid out as ECMAScript does.

    Source: RFC 8785 section 3.2.2.3 (ECMA-262 Number::toString).

    Raises:
        EntryError: `value` is NaN or an infinity.
    """
    if value != value or value in (float("inf"), float("-inf")):
        raise EntryError(f"{value} is not a JSON number")
    if value == 0:
        return "0"  # minus zero too
    mantissa, _, exponent = float.__repr__(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)  # digits before the decimal point
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    if len(digits) <= point <= 21:
        return sign + digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{digits.rjust(len(digits) - point, '0')}"
    shown = f"{digits[0]}.{digits[1:]}" if len(digits) > 1 else digits
    return f"{sign}{shown}e{point - 1:+d}"


def _text(value: object, depth: int) -> str:
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return number(value)
    if not isinstance(value, dict | list | tuple):
        raise EntryError(f"{type(value).__name__} is not a JSON type")
    if depth == 0:
        raise EntryError("nested too deeply: past the limit of this ledger")
    if isinstance(value, dict):
        return _object(value, depth - 1)
    return _array(value, depth - 1)


def _object(value: dict[Any, Any], depth: int) -> str:
    members = []
    for key in value:
        if not isinstance(key, str):
            raise EntryError(f"object key {key!r} is {type(key).__name__}, not a string")
        members.append((_string(key), key))
    # RFC 8785 section 3.2.3 sorts by UTF-16 code units; big-endian bytes sort the same.
    members.sort(key=lambda member: member[1].encode("utf-16-be"))
    for (quoted, key), (following, _) in pairwise(members):
        if quoted == following:  # keys of a type of their own, that are not equal as keys
            raise EntryError(f"duplicate key {key!r}")
    parts = []
    for quoted, key in members:
        try:
            parts.append(f"{quoted}:{_text(value[key], depth)}")
        except EntryError as error:
            raise error.inside(f".{key}") from None
    return "{" + ",".join(parts) + "}"


def _array(value: list[Any] | tuple[Any, ...], depth: int) -> str:
    parts = []
    for index, item in enumerate(value):
        try:
            parts.append(_text(item, depth))
        except EntryError as error:
            raise error.inside(f"[{index}]") from None
    return "[" + ",".join(parts) + "]"


def _string(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _lone_surrogate(error) from None
    return encode_basestring(value)


def _lone_surrogate(error: UnicodeEncodeError) -> EntryError:
    return EntryError(f"lone surrogate U+{ord(error.object[error.start]):04X} in a string")


def _integer(value: int) -> str:
    if MIN_INTEGER <= value <= MAX_INTEGER:
        return int.__repr__(value)
    # Compared by magnitude first: turning a huge int into digits takes quadratic time.
    if abs(value) < 10**21:
        digits = int.__repr__(value)
        if number(float(value)) == digits:
            return digits
    raise EntryError(
        f"integer of {value.bit_length()} bits is past 64 and not its own RFC 8785 form"
    )


def _parse_integer(literal: str) -> int | float:
    if len(literal) <= _LONGEST_64_BIT:
        value = int(literal)
        if MIN_INTEGER <= value <= MAX_INTEGER:
            return value
    double = float(literal)
    if abs(double) < 1e21 and number(double) == literal:
        return double
    raise EntryError(f"integer {_short(literal)} is past 64 bits and not its own RFC 8785 form")


def _parse_float(literal: str) -> float:
    value = float(literal)
    if value in (float("inf"), float("-inf")):
        raise EntryError(f"number {_short(literal)} is past the range of a double")
    return value


def _parse_constant(literal: str) -> float:
    raise EntryError(f"{literal} is not JSON")


def _unique_members(members: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(members)
    if len(result) != len(members):
        [(key, _)] = Counter(key for key, _ in members).most_common(1)
        raise EntryError(f"duplicate key {key!r}")
    return result


def _short(literal: str) -> str:
    return literal if len(literal) <= 40 else f"{literal[:40]}…"


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique_members,
    parse_int=_parse_integer,
    parse_float=_parse_float,
    parse_constant=_parse_constant,
)
