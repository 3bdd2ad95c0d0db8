"""Values as people read them."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import takewhile
from math import floor, log10
from typing import Final

DEEPEST: Final = 20
"""Levels of indentation, at most: what lies deeper stays readable, and a line short."""

_HIDDEN: Final = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and new line
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # invisible
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero width, other line ends, order of writing
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # the last: tags
    "]"
)
"""What reorders or hides other characters, or is not seen itself: `Default_Ignorable_Code_Point`,
`Bidi_Control`, control characters, line ends that are none in JSON, and lone surrogates.

Source: Unicode 15.0, DerivedCoreProperties.txt and PropList.txt.
"""
_TOKENS: Final = re.compile(
    r"""
    "(?:[^"\\]++|\\.)*+"?   # a string, or what is there of one
    | \{\} | \[\] | [{}\[\],:]
    | [^"{}\[\],:]++        # a number or a word
    """,
    re.DOTALL | re.VERBOSE,
)
_WHOLE: Final = re.compile(r"(?:\\ud[89ab]..\\u....|\\u(?!d[89ab])....|\\[^u]|[^\\])*+", re.DOTALL)
"""As much of a text as does not end in the middle of an escape."""

_UNITS: Final = ("", "k", "M", "G", "T", "P", "E")
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_YEAR: Final = 365.2425 * _DAY


def readable(canonical: str, limit: int) -> tuple[str, bool]:
    """Return canonical JSON on lines that people can read, and whether that is all of it.

    Only white space is added, and characters that reorder or hide others become escapes: nothing is
    parsed, so numbers keep their digits. What is not JSON comes out as it is, with its escapes.
    Cut after `limit` characters, or a few before; takes time for no more than these.
    """
    pieces: list[str] = []
    room, depth = limit, 0
    # Nothing gets shorter, so that what comes later is not shown anyway.
    for match in _TOKENS.finditer(canonical[: limit + 1]):
        token = match[0]
        if token in ("{", "["):
            depth += 1
            piece = token + _line(depth)
        elif token in ("}", "]"):
            depth -= 1
            piece = _line(depth) + token
        elif token == ",":
            piece = token + _line(depth)
        elif token == ":":
            piece = ": "
        else:
            piece = plain(token)
        if len(piece) > room:
            whole = _WHOLE.match(piece, 0, room)
            pieces.append(whole[0] if whole else "")
            return "".join(pieces), False
        pieces.append(piece)
        room -= len(piece)
    return "".join(pieces), True


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, DEEPEST)


def plain(text: str) -> str:
    r"""Return `text` with what reorders or hides characters written as in JSON: `\u202e`."""
    return _HIDDEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def count(number: int) -> str:
    """Return a whole number with its thousands apart: `1,234,567`."""
    return f"{number:,}"


def size(number: float) -> str:
    """Return so many bytes in SI units, to three digits: `1.23 MB`, `1 byte`."""
    if abs(float(digits(number))) < 1000:
        return "1 byte" if number == 1 else f"{digits(number)} bytes"
    return f"{short(number)}B"


def short(number: float) -> str:
    """Return a number to three digits with the SI prefix of its unit, which is to follow: `1.2 M`.

    With a space at the end where there is no prefix. Past the last prefix, as a power of ten.
    """
    power = 0
    while power < len(_UNITS) and abs(float(digits(number / 1000**power))) >= 1000:
        power += 1
    if power == len(_UNITS):
        mantissa, _, exponent = f"{number:.2e}".partition("e")
        return f"{digits(float(mantissa))}e{int(exponent)} "
    return f"{digits(number / 1000**power)} {_UNITS[power]}"


def digits(number: float) -> str:
    """Return a number to three digits, or to all before the point; no zeros at its end.

    A very small one by its power of ten: `1.23e-9`.
    """
    if number == 0:
        return "0"
    if abs(number) < 1e-4:
        mantissa, _, exponent = f"{number:.2e}".partition("e")
        return f"{digits(float(mantissa))}e{int(exponent)}"
    places = max(2 - floor(log10(abs(number))), 0)
    text = f"{number:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def seconds(number: float) -> str:
    """Return a time in seconds by its largest units: `12 ms`, `1.5 s`, `2 min 5 s`, `3 days`."""
    if number < 0:
        return f"-{seconds(-number)}"
    if float(digits(number)) < _MINUTE:
        for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
            text = digits(number * factor)
            if float(text) >= 1 or number == 0 or unit == "µs":
                return f"{text} {unit}"
    if number >= _YEAR:
        years = number / _YEAR
        return _plural(digits(years) if years < 1000 else short(years).strip(), "year")
    parts = _parts(round(number))
    return " ".join(takewhile(lambda part: not part.startswith("0 "), parts))


def _parts(whole: int) -> tuple[str, ...]:
    """Return the two largest units of so many seconds, a minute at least; days stand alone."""
    if whole < _HOUR:
        return f"{whole // _MINUTE} min", f"{whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h", f"{whole % _HOUR // _MINUTE} min"
    return (_plural(str(whole // _DAY), "day"),)


def _plural(number: str, unit: str) -> str:
    return f"{number} {unit}" if number == "1" else f"{number} {unit}s"


def rate(number: float, what: str = "blocks") -> str:
    """Return so many a second: `1,230 blocks/s`, `1.23 GB/s` of `B`; few by longer times."""
    if what == "B":
        return f"{size(number)}/s"
    if number >= 1 or number == 0:
        whole, point, rest = digits(float(f"{number:.3g}")).partition(".")
        return f"{int(whole):,}{point}{rest} {what}/s"
    for unit, length in (("a minute", _MINUTE), ("an hour", _HOUR), ("a day", _DAY)):
        if number * length >= 1:
            return f"{digits(number * length)} {what} {unit}"
    return f"{digits(number * _YEAR)} {what} a year"


def ago(then: datetime, now: datetime) -> str:
    """Return when something was, by one unit: `12 s ago`, `in 5 min`, `just now`."""
    length = (now - then).total_seconds()
    away = abs(length)
    if away < 1:
        return "just now"
    for unit, limit in ((1, _MINUTE), (_MINUTE, _HOUR), (_HOUR, _DAY), (_DAY, _YEAR)):
        if away < limit:
            away = away // unit * unit
            break
    shown = seconds(away)
    return f"{shown} ago" if length > 0 else f"in {shown}"
