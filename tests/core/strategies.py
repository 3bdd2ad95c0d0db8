"""What Hypothesis draws: JSON values of every kind, and texts that say them in odd ways."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

from hypothesis import strategies as st

bounds = (2**53, 2**63, 2**64, 10**20, 10**21)


def _double(bits: int) -> float:
    (value,) = struct.unpack(">d", bits.to_bytes(8, "big"))
    assert isinstance(value, float)
    return value


any_doubles = st.integers(0, 2**64 - 1).map(_double)
"""Every double as likely as another: mostly far from 1, NaN and infinities among them."""

doubles = st.one_of(
    any_doubles.filter(lambda x: abs(x) < float("inf")),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1e22, 1e22).map(lambda x: float(round(x, 3))),
    st.integers(-(10**22), 10**22).map(float),
    st.builds(lambda m, e: m * 10.0**e, st.integers(-99999, 99999), st.integers(-25, 25)),
)

near_bounds = st.builds(
    lambda sign, bound, off: sign * (bound + off),
    st.sampled_from((1, -1)),
    st.sampled_from(bounds),
    st.integers(-5000, 5000),
)
integers = st.one_of(
    st.integers(-1000, 1000),
    st.integers(-(2**63), 2**64 - 1),
    near_bounds.filter(lambda i: -(2**63) <= i < 2**64),
    # Past 64 bits, and their own RFC 8785 form: multiples of what a double can still tell apart.
    st.integers(2 * 10**4, 10**5 - 1).map(lambda i: i * 10**15),
)

# Where the order of keys by code point and by UTF-16 code unit part, what is escaped, what is not.
edges = "\x00\x08\x09\x0a\x0c\x0d\x1f\x20\x22/:\\\x7f\x80\u2028\ud7ff\ue000\ufb33\uffff"
edges += "\U00010000\U0001f600\U0010ffff"
characters = st.one_of(
    st.sampled_from(edges), st.characters(exclude_categories=["Cs"]), st.sampled_from("ab")
)
texts = st.text(characters, max_size=6)

scalars = st.one_of(st.none(), st.booleans(), integers, doubles, texts)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(texts, inner, max_size=5),
    ),
    max_leaves=12,
)

plain_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-1000, 10**6), st.text('ab:\\"/é\n', max_size=4)
) | st.floats(-1e6, 1e6).map(lambda x: round(x, 2))
plain_values: st.SearchStrategy[Any] = st.recursive(
    plain_scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("ab:é", max_size=2), inner),
    max_leaves=12,
)
"""Such as the fast path of `cairn.encoding` takes, most of them."""


def noisy(value: object, chance: random.Random) -> str:
    """Write `value` as JSON with white space, escapes and order as `chance` has it."""

    def space() -> str:
        return "".join(chance.choices(" \t\n\r", k=chance.choice((0, 0, 0, 1, 2))))

    def quoted(text: str) -> str:
        return '"' + "".join(escaped(c) for c in text) + '"'

    def escaped(character: str) -> str:
        must = character in '"\\' or character < " "
        if not must and chance.random() < 0.7:
            return character
        if character == "/":
            return "\\/"
        units = character.encode("utf-16-be", "surrogatepass").hex()
        digits = [units[i : i + 4] for i in range(0, len(units), 4)]
        return "".join("\\u" + chance.choice((d, d.upper())) for d in digits)

    def written(item: object) -> str:
        if isinstance(item, str):
            return quoted(item)
        if isinstance(item, dict):
            keys = list(item)
            chance.shuffle(keys)
            pairs = (f"{space()}{quoted(k)}{space()}:{outer(item[k])}" for k in keys)
            return "{" + (",".join(pairs) or space()) + "}"
        if isinstance(item, list | tuple):
            return "[" + (",".join(map(outer, item)) or space()) + "]"
        return json.dumps(item)

    def outer(item: object) -> str:
        return space() + written(item) + space()

    return outer(value)


def damaged(text: bytes, chance: random.Random) -> bytes:
    """Change, insert, double or delete some bytes of `text`."""
    pieces = [b"0", b"-", b"9", b".", b"e", b":", b",", b'"', b"\\", b"{", b"}", b"[", b"]", b" "]
    pieces += [b'"a":', b"\\u003a", b"\\u0061", b"\\ud800", b"\xff", b"\xed\xa0\x80", b"\x00", b"1"]
    pieces += [b"18446744073709551616", b"1e400", b"NaN", b"\xef\xbb\xbf", b"null", b"\xf0\x9f\x98"]
    for _ in range(chance.choice((1, 1, 2, 3))):
        a = chance.randrange(len(text) + 1)
        b = min(a + chance.choice((0, 0, 1, 1, 2)), len(text))
        new = chance.choice((chance.choice(pieces), chance.randbytes(1), text[a : a + 9], b""))
        text = text[:a] + new + text[b:]
    return text
