"""The format once more, slow and plain, from `docs/format.md`: what the tests believe.

Nothing here calls the code under test, but for `Stored` and `Header`, which `broken` needs to ask
the rules one block at a time.
"""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from functools import cache
from hashlib import sha256
from itertools import pairwise
from math import floor, isfinite
from typing import NamedTuple

from cairn.core import rules
from cairn.core.genesis import Terms
from cairn.core.header import Header
from cairn.core.rules import Failure, Stored


class RefusedError(Exception):
    """A value without canonical JSON."""


# Canonical JSON

SHORT_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\t": "\\t",
    "\n": "\\n",
    "\f": "\\f",
    "\r": "\\r",
}


def write(value: object) -> str:
    """Write canonical JSON, character by character."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return write_string(value)
    if isinstance(value, int):
        return write_integer(value)
    if isinstance(value, float):
        return write_double(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(write(item) for item in value) + "]"
    if isinstance(value, dict):
        keys = sorted(value, key=utf16_units)
        return "{" + ",".join(write_string(key) + ":" + write(value[key]) for key in keys) + "}"
    raise RefusedError(type(value))


def write_string(text: str) -> str:
    written = '"'
    for character in text:
        code = ord(character)
        if character in SHORT_ESCAPES:
            written += SHORT_ESCAPES[character]
        elif code < 0x20:
            written += "\\u00" + "0123456789abcdef"[code // 16] + "0123456789abcdef"[code % 16]
        elif 0xD800 <= code <= 0xDFFF:
            raise RefusedError(hex(code))
        else:
            written += character
    return written + '"'


def utf16_units(key: str) -> list[int]:
    """Return the UTF-16 code units of `key`, by which RFC 8785 sorts."""
    units = []
    for character in key:
        code = ord(character)
        if code >= 0x10000:
            units += [0xD800 + (code - 0x10000) // 0x400, 0xDC00 + (code - 0x10000) % 0x400]
        else:
            units.append(code)
    return units


def write_integer(value: int) -> str:
    digits = str(value)
    if -(2**63) <= value < 2**64:
        return digits
    try:
        if write_double(float(value)) == digits:
            return digits
    except OverflowError:
        pass
    raise RefusedError(value)


def write_double(value: float) -> str:
    """Lay out the shortest digits as ECMA-262 Number::toString does, with its names k and n."""
    if not isfinite(value):
        raise RefusedError(value)
    if value == 0:
        return "0"
    if value < 0:
        return "-" + write_double(-value)
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    s = "".join(str(digit) for digit in digits)
    k = len(s)
    n = k + exponent
    if k <= n <= 21:
        return s + "0" * (n - k)
    if 0 < n <= 21:
        return s[:n] + "." + s[n:]
    if -6 < n <= 0:
        return "0." + "0" * -n + s
    sign = "+" if n - 1 >= 0 else "-"
    return s[0] + ("." + s[1:] if k > 1 else "") + "e" + sign + str(abs(n - 1))


def depth(value: object) -> int:
    """Return how many containers lie inside one another."""
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    if isinstance(value, list | tuple):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


# Merkle tree: RFC 9162 section 2.1.1


@cache
def leaf(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def tree(leaves: list[bytes]) -> bytes:
    n = len(leaves)
    if n == 0:
        return sha256(b"").digest()
    if n == 1:
        return leaves[0]
    k = 1  # the largest power of two smaller than n
    while 2 * k < n:
        k = 2 * k
    return sha256(b"\x01" + tree(leaves[:k]) + tree(leaves[k:])).digest()


# Header

FIELDS = (
    ("version", 0, 2),
    ("kind", 2, 2),
    ("bits", 4, 4),
    ("index", 8, 8),
    ("previous_hash", 16, 32),
    ("timestamp", 48, 8),
    ("count", 56, 4),
    ("size", 60, 4),
    ("data_root", 64, 32),
    ("nonce", 96, 8),
)
PLACES = {name: (offset, size) for name, offset, size in FIELDS}
HASHES = {"previous_hash", "data_root"}


def number(header: bytes, field: str) -> int:
    """Return the integer in `field`."""
    offset, size = PLACES[field]
    return int.from_bytes(header[offset : offset + size], "big")


def put(header: bytes, field: str, value: int | bytes) -> bytes:
    """Return `header` with another `field`."""
    offset, size = PLACES[field]
    raw = value if isinstance(value, bytes) else value.to_bytes(size, "big")
    assert len(raw) == size
    return header[:offset] + raw + header[offset + size :]


def pack(**fields: int | bytes) -> bytes:
    """Return the 104 bytes of a header; what is not named is zero, but for the version."""
    header = put(bytes(104), "version", 1)
    for name, value in fields.items():
        header = put(header, name, value)
    return header


# What is stored, and the rules


class Columns(NamedTuple):
    """One row of the table `runs`."""

    start: int
    headers: list[bytes]
    hashes: list[bytes]
    data: bytes
    offsets: list[int]


class Lying(NamedTuple):
    """One block as it lies in the store."""

    position: int
    header: bytes
    hash: bytes
    entries: list[bytes]
    size: int
    previous_hash: bytes | None
    previous_timestamp: int | None


def read(row: Columns) -> list[Lying]:
    """Read a row as `docs/format.md` says under "On disk"."""
    end = len(row.data)
    offsets = [min(offset, end) for offset in row.offsets]  # past the end counts as the end
    entries = [row.data[a:b] for a, b in pairwise(offsets)]
    n = len(row.headers)
    firsts = [0]  # number of each block's first entry
    for header in row.headers[:-1]:
        firsts.append(min(firsts[-1] + number(header, "count"), len(entries)))
    firsts.append(len(entries))  # the last block has all that are left
    sizes = [sum(map(len, entries[a:b])) for a, b in pairwise(firsts)]
    sizes[0] += offsets[0]  # what lies around all entries
    sizes[-1] += end - offsets[-1]
    return [
        Lying(
            position=row.start + i,
            header=row.headers[i],
            hash=row.hashes[i],
            entries=entries[firsts[i] : firsts[i + 1]],
            size=sizes[i],
            previous_hash=row.hashes[i - 1] if i > 0 else None,
            previous_timestamp=number(row.headers[i - 1], "timestamp") if i > 0 else None,
        )
        for i in range(n)
    ]


def broken(row: Columns, terms: Terms) -> list[Failure]:
    """Ask the rules about one block after another."""
    failures = []
    for block in read(row):
        stored = Stored(
            position=block.position,
            header=Header.unpack(block.header),
            hash=block.hash,
            entries=tuple(block.entries),
            size=block.size,
            previous_hash=block.previous_hash,
            previous_timestamp=block.previous_timestamp,
            terms=terms,
        )
        failure = rules.first_broken(stored)
        if failure is not None:
            failures.append(failure)
    return failures


def first_rule(block: Lying, terms: Terms | None) -> str | None:
    """Return the name of the first rule that `block` breaks: the table of rules, top to bottom.

    Terms of None are not known: what they say is not asked for.
    """
    asert = terms.asert if terms else None
    header = block.header
    kind, count = number(header, "kind"), number(header, "count")
    timestamp, previous_timestamp = number(header, "timestamp"), block.previous_timestamp
    link, previous_hash = header[16:48], block.previous_hash
    at_genesis = block.position == 0
    if at_genesis:
        previous_hash = bytes(32)
    kept = {
        "version": number(header, "version") == 1,
        "kind": kind in ([2] if at_genesis else [1] if asert else [0, 1, 2]),
        "count": (count == 1 or kind == 1) and count == len(block.entries),
        "index": number(header, "index") == block.position,
        "timestamp": timestamp < 2**63
        and (previous_timestamp is None or timestamp >= previous_timestamp),
        "link": previous_hash is None or link == previous_hash,
        "hash": block.hash == leaf(header),
        "size": number(header, "size") == block.size,
        "data_root": header[64:96] == tree([leaf(entry) for entry in block.entries])
        or is_erased(block),
        "work": keeps_work(block, terms),
        "genesis": not at_genesis or records_genesis(block.entries),
        "limits": terms is None
        or (count <= terms.limits.count and number(header, "size") <= terms.limits.size),
    }
    return next((name for name, keeps in kept.items() if not keeps), None)


def keeps_work(block: Lying, terms: Terms | None) -> bool:
    """Return whether the block keeps rule 10."""
    bits, nonce = number(block.header, "bits"), number(block.header, "nonce")
    asert = terms.asert if terms else None
    if asert is None and (terms or bits == 0):
        return bits == 0 and nonce == 0
    target = compact(bits)
    if block.position == 0:
        return target is not None and target <= 0x7FFFFF * 256**29 and nonce == 0
    if target is None or int(block.hash.hex(), 16) > target:
        return False
    if asert is None or block.previous_timestamp is None:
        return True
    first = asert.time + asert.interval  # the timestamp of genesis
    expected = next_bits(
        asert.bits, first, asert.interval, asert.half_life, block.position, block.previous_timestamp
    )
    return bits == expected


def is_erased(block: Lying) -> bool:
    if number(block.header, "kind") != 0 or number(block.header, "count") != 1:
        return False
    return len(block.entries) == 1 and len(block.entries[0]) > 16 and set(block.entries[0]) == {0}


# Work


@cache
def compact(bits: int) -> int | None:
    """Return the target of compact bits, digit by digit, or None if they are none."""
    length, digits = bits // 2**24, bits % 2**24
    if digits >= 0x800000:  # negative
        return None
    target = int(Fraction(digits) * Fraction(256) ** (length - 3))
    return target if 0 < target < 2**256 else None


def to_compact(target: int) -> int:
    """Return the compact bits of a target: its first digits, as many as fit below the sign."""
    length = 0
    while target >= 0x800000 * Fraction(256) ** (length - 3):
        length += 1
    return length * 2**24 + int(target / Fraction(256) ** (length - 3))


@cache
def next_bits(
    genesis_bits: int,
    genesis_time: int,
    interval: int,
    half_life: int,
    position: int,
    timestamp: int,
    limit: int = 0x207FFFFF,
) -> int:
    """Return the bits of the block at `position`; `timestamp` is that of the block before."""
    schedule = genesis_time + interval * (position - 1)
    exponent = int(Fraction((timestamp - schedule) * 65536, half_life))  # toward zero
    exponent = min(max(exponent, -600 * 65536), 600 * 65536)  # out of range anyway
    f = exponent % 65536
    factor = 65536 + (195766423245049 * f + 971821376 * f**2 + 5127 * f**3 + 2**47) // 2**48
    target, most = compact(genesis_bits), compact(limit)
    assert target is not None
    assert most is not None
    target = floor(target * factor * Fraction(2) ** (exponent // 65536 - 16))
    return to_compact(min(max(target, 1), most))


LIMIT_RANGES = {"count": (1, 2**32 - 1), "size": (17, 2**32 - 1), "depth": (1, 256)}


def records_genesis(entries: list[bytes]) -> bool:
    """Return whether the one entry is what the table of genesis asks for."""
    try:
        text = b"".join(entry[16:] for entry in entries).decode()
        value = json.loads(text)
        canonical = write(value)
    except (UnicodeDecodeError, json.JSONDecodeError, RefusedError):
        return False
    return (
        canonical == text
        and isinstance(value, dict)
        and set(value) == {"format", "name", "seal", "limits", "message"}
        and type(value["format"]) is int
        and value["format"] == 1
        and isinstance(value["name"], str)
        and 1 <= len(value["name"]) <= 255
        and is_seal(value["seal"])
        and isinstance(value["message"], str)
        and isinstance(value["limits"], dict)
        and all(
            name in LIMIT_RANGES
            and type(limit) is int
            and LIMIT_RANGES[name][0] <= limit <= LIMIT_RANGES[name][1]
            for name, limit in value["limits"].items()
        )
        and (value["seal"]["kind"] == "instant" or value["limits"].get("size", 0) <= 16_777_216)
    )


def is_seal(value: object) -> bool:
    """Return whether a value is what the table of seals asks for."""
    if not isinstance(value, dict) or value.get("kind") != "work":
        return value == {"kind": "instant"}
    if set(value) != {"kind", "interval", "half_life", "final_depth"}:
        return False
    interval, half_life, depth = value["interval"], value["half_life"], value["final_depth"]
    if not (type(interval) is int and type(half_life) is int and type(depth) is int):
        return False
    return (
        1_000 <= interval <= 86_400_000_000
        and interval <= half_life <= 2**46
        and 1 <= depth <= 2**20
    )
