"""Canonical JSON at speed: orjson where it provably agrees with `cairn.core.canonical`, else that.

Why the two agree on what the fast path lets through:

- The types are exactly None, bool, int, str, list, dict and float, so nothing is converted.
- Floats are neither integral nor outside 1e-4 to 1e15: both then write the shortest digits that
  read back the same, in positional notation. NaN, which orjson writes as null, is outside.
- No character is above U+FFFF, where orjson's order of keys (code points) and RFC 8785's
  (UTF-16 code units) part. Below, the two orders are one.
- orjson refuses what else we refuse: lone surrogates, integers past 64 bits, keys that are no
  strings. It escapes strings as RFC 8785 does.
- In a text, equal keys show as a colon too many: orjson keeps the last, and the colons of all
  others are gone from what it writes. Only an escaped colon (`\\u003a`) could make up for one.

Whatever fails one of these takes the slow path, which also words every refusal.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import Final

import orjson

from cairn.core.canonical import canonical, parse
from cairn.core.errors import EntryError

_OPTIONS: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
)
_SCALARS: Final = frozenset({type(None), bool, int, str})
_CONTAINERS: Final = frozenset({dict, list})
_ABOVE_BMP: Final = re.compile(rb"[\xf0-\xf4]")
"""Lead byte of a UTF-8 character above U+FFFF."""


def encode(value: object, *, depth: int) -> bytes:
    """Return `cairn.core.canonical.canonical(value, depth=depth)`, faster.

    Raises:
        EntryError: as there.
    """
    fast = _encode_fast(value, depth)
    return canonical(value, depth=depth) if fast is None else fast


def recode(text: bytes, *, depth: int) -> bytes:
    """Return the canonical form of one JSON text: `canonical(parse(text), depth=depth)`, faster.

    Raises:
        EntryError: as `parse` and `canonical` do.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = parse(text)  # it refuses too, and says why
        return canonical(value, depth=depth)
    fast = _encode_fast(value, depth)
    if fast is None or fast.count(b":") != text.count(b":") or b"\\u003" in text:
        return canonical(parse(text), depth=depth)
    return fast


def _encode_fast(value: object, depth: int) -> bytes | None:
    """Return the canonical form of `value`, or None where orjson might write another."""
    try:
        text = orjson.dumps(value, option=_OPTIONS)
    except TypeError:  # orjson.JSONEncodeError
        return None
    if not text.isascii() and _ABOVE_BMP.search(text):
        return None
    return text if _agrees(value, depth) else None


def _agrees(value: object, depth: int) -> bool:
    """Whether all of `value` is of the types and numbers that both write alike, level by level."""
    level: list[object] = [value]
    while True:
        types = set(map(type, level))
        if float in types:
            types.remove(float)
            if not all(_agrees_on(item) for item in level if type(item) is float):
                return False
        inner = types - _SCALARS
        if not inner:
            return True
        if not inner <= _CONTAINERS or depth == 0:
            return False
        depth -= 1
        containers = [item for item in level if type(item) in _CONTAINERS]
        level = list(chain.from_iterable(map(_children, containers)))


def _children(container: object) -> object:
    return container.values() if type(container) is dict else container


def _agrees_on(value: object) -> bool:
    assert isinstance(value, float)
    return 1e-4 <= abs(value) < 1e15 and not value.is_integer()


__all__ = ["EntryError", "encode", "recode"]
