r"""Canonical JSON at speed: orjson where it provably agrees with `core.canonical`, else that.

Why the two agree on what the fast path lets through:

- The types are exactly None, bool, int, str, list, dict and float, so nothing is converted.
- Floats are neither integral nor outside 1e-4 to 1e15: both then write the shortest digits that
  read back the same, in positional notation. NaN, which orjson writes as null, is outside.
- No character is above U+FFFF, where orjson's order of keys (code points) and RFC 8785's
  (UTF-16 code units) part. Below, the two orders are one.
- orjson refuses what else we refuse: lone surrogates, integers past 64 bits, keys that are no
  strings. It escapes strings as RFC 8785 does.
- In a text, equal keys show as a colon too many: orjson keeps the last, and the colons of all
  others are gone from what it writes. Only an escaped colon (`\u003a`) could make up for one.

Whatever fails one of these takes the slow path, which also words every refusal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from itertools import chain, repeat
from typing import Any, Final, NamedTuple, Never

import orjson

from cairn.core.canonical import canonical, parse
from cairn.core.entry import SALT_BYTES
from cairn.core.errors import EntryError
from cairn.core.genesis import Limits

GROUP: Final = 128
"""Texts that are parsed and written at once, at most: makes the cost of a call small."""
GROUP_BYTES: Final = 2**20
"""Bytes of them: parsed, each may take a hundred times as much."""
_SCALARS: Final = frozenset({type(None), bool, int, str})
_NESTED: Final = frozenset({dict, list, float})
_ABOVE_BMP: Final = re.compile(rb"[\xf0-\xf4]")
"""Lead byte of a UTF-8 character above U+FFFF."""


class Encoded(NamedTuple):
    """The canonical JSON of items, up to the first that was refused."""

    texts: list[bytes]
    error: EntryError | None = None
    """Why the item after these was refused."""


class Encoder:
    """Makes canonical JSON of values and texts, within the limits of a ledger."""

    def __init__(self, limits: Limits) -> None:
        self._depth = limits.depth
        self._longest = limits.size - SALT_BYTES

    def value(self, value: object) -> bytes:
        """Return the canonical JSON of a value, as `core.canonical.canonical` does.

        Raises:
            EntryError: as there; or with its salt it is past the size limit.
        """
        text = self._fast(value)
        if text is None:
            text = canonical(value, depth=self._depth)
        return text if len(text) <= self._longest else self._refuse(text)

    def text(self, text: bytes) -> bytes:
        """Return the canonical form of one JSON text, as `canonical(parse(text))` does.

        Raises:
            EntryError: as they do; or with its salt it is past the size limit.
        """
        try:
            fast = self._fast(orjson.loads(text))
        except orjson.JSONDecodeError:
            fast = None  # the slow path refuses too, and says why
        if fast is None or fast.count(b":") != text.count(b":") or b"\\u003" in text:
            fast = canonical(parse(text), depth=self._depth)
        return fast if len(fast) <= self._longest else self._refuse(fast)

    def texts(self, texts: Sequence[bytes]) -> Encoded:
        """Return the canonical form of each JSON text, as `text` does, but of many at once."""
        made: list[bytes] = []
        for start in range(0, len(texts), GROUP):
            group = texts[start : start + GROUP]
            encoded = self._texts(group)
            made += encoded.texts
            if encoded.error is not None:
                return Encoded(made, encoded.error)
        return Encoded(made)

    def _texts(self, texts: Sequence[bytes]) -> Encoded:
        """Do so for texts that are parsed at the same time, unless they are large."""
        whole = b"".join(texts)
        if len(whole) > GROUP_BYTES or b"\\u003" in whole:
            return _each(self.text, texts)
        try:
            values = list(map(orjson.loads, texts))
            fast = list(map(orjson.dumps, values, repeat(None), repeat(orjson.OPT_SORT_KEYS)))
        except (orjson.JSONDecodeError, TypeError):
            return _each(self.text, texts)
        made = b"".join(fast)
        # No text has fewer colons than its canonical form, so what holds of all holds of each.
        alike = made.isascii() or not _ABOVE_BMP.search(made)
        alike = alike and made.count(b":") == whole.count(b":") and are_plain(values, self._depth)
        if alike and max(map(len, fast)) <= self._longest:
            return Encoded(fast)
        return _each(self.text, texts)

    def _fast(self, value: object) -> bytes | None:
        """Return the canonical form of `value`, or None where orjson might write another."""
        try:
            text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except TypeError:  # orjson.JSONEncodeError
            return None
        if not text.isascii() and _ABOVE_BMP.search(text):
            return None
        return text if are_plain([value], self._depth) else None

    def _refuse(self, text: bytes) -> Never:
        raise EntryError(
            f"{len(text)} bytes of canonical JSON are past the limit of this ledger, "
            f"{self._longest}"
        )


def _each(encode: Callable[[Any], bytes], items: Sequence[Any]) -> Encoded:
    texts: list[bytes] = []
    try:
        for item in items:
            texts.append(encode(item))  # noqa: PERF401 - what was made before an error is kept
    except EntryError as error:
        return Encoded(texts, error)
    return Encoded(texts)


def _are_plain(values: Sequence[Any], depth: int) -> bool:
    """Whether all of `values` is of the types and numbers that both write alike, level by level.

    No more than `depth` levels down, and maybe not for a number on the last of these.
    """
    level: Collection[Any] = values
    while others := set(map(type, level)) - _SCALARS:
        if depth == 0 or not others <= _NESTED:
            return False
        depth -= 1
        if float in others and not all(_is_plain(i) for i in level if type(i) is float):
            return False
        dicts = [item for item in level if type(item) is dict]
        lists = [item for item in level if type(item) is list]
        level = [*chain.from_iterable(map(dict.values, dicts)), *chain.from_iterable(lists)]
    return True


def _is_plain(value: float) -> bool:
    return 1e-4 <= abs(value) < 1e15 and not value.is_integer()


are_plain: Callable[[list[Any], int], bool]
try:
    from cairn._plain import are_plain  # the same in C
except ImportError:  # installed without a compiler
    are_plain = _are_plain
