"""A validator of stored ledgers, written from docs/format.md alone, to hold `cairn validate` to it.

It shares no code with cairn, and prefers the words of that page to speed.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

RULES = "version kind count index timestamp link hash size data_root work genesis limits erasure"
LIMITS = {  # default, lowest, highest
    "count": (65_536, 1, 2**32 - 1),
    "size": (16_777_216, 17, 2**32 - 1),
    "depth": (128, 1, 256),
}
SEALS = {  # lowest, highest; a half-life is at least the interval, too
    "interval": (1_000, 86_400_000_000),
    "half_life": (1_000, 2**46),
    "final_depth": (1, 2**20),
}
EASIEST = 0x207FFFFF
PART_BLOCKS = 131_072
PART_BYTES = 2**25
DEFAULTS = {name: default for name, (default, _, _) in LIMITS.items()}
ESCAPES = {chr(code): f"\\u{code:04x}" for code in range(32)}
ESCAPES |= {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
ESCAPES |= {'"': '\\"', "\\": "\\\\"}


@dataclass(frozen=True)
class Finding:
    index: int
    rule: str


@dataclass(frozen=True)
class Terms:
    """What a genesis fixes for the blocks after it."""

    limits: dict[str, int]
    seal: dict[str, int] | None = None  # None: instant
    bits: int = 0
    timestamp: int = 0


class UnreadableError(Exception):
    """What is stored cannot be taken apart into blocks."""


class Header:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.version, self.kind, self.bits, self.index = struct.unpack(">HHIQ", data[:16])
        self.previous_hash = data[16:48]
        self.timestamp, self.count, self.size = struct.unpack(">QII", data[48:64])
        self.data_root = data[64:96]
        (self.nonce,) = struct.unpack(">Q", data[96:])


@dataclass(frozen=True)
class Block:
    stored_hash: bytes
    header: Header
    entries: list[bytes]
    stored_bytes: int


def check(directory: Path) -> list[Finding]:
    """Every failing block, by position, each with the first rule it breaks."""
    broken: list[Finding] = []
    position = 0  # of the next block
    before: Block | None = None
    terms = Terms(DEFAULTS)
    length = work = 0
    erased: dict[int, bytes] = {}  # position and data root
    named: set[tuple[int, bytes]] = set()  # by records
    folder = directory / "segments"  # looked into first: a writer may be at work
    present = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    uri = (directory / "tail.sqlite").resolve().as_uri() + "?mode=ro"
    try:
        database = sqlite3.connect(uri, uri=True, isolation_level=None)
    except sqlite3.Error:
        return [Finding(0, "storage")]
    try:
        database.execute("BEGIN")
        length, last_hash = read_head(database)
        for first, blocks in stored(database, folder, length):
            require(first >= position)
            if first > position:
                broken.append(Finding(position, "index"))
                position, before = first, None
            for block in blocks:
                if position == 0:
                    terms = genesis_terms(block) or Terms(DEFAULTS)
                rule = broken_rule(block, position, before, terms)
                if rule is not None and position < length:
                    broken.append(Finding(position, rule))
                elif lacks_its_data(block) and position < length:
                    erased[position] = block.header.data_root
                if block.header.kind == 2 and position < length:
                    named |= {name for name in erasures(block.entries) if name[0] < position}
                if terms.seal is not None and 0 < position < length:
                    work += 2**256 // ((target_of(block.header.bits) or 0) + 1)
                position, before = position + 1, block
        broken += [Finding(at, "erasure") for at in erased if (at, erased[at]) not in named]
        recorded_end = require_nothing_else(database, present)
        if position < max(length, 1):
            end = [Finding(position, "head")]
        elif recorded_end > length:
            end = [Finding(length, "head")]
        elif (before is not None and before.stored_hash != last_hash) or (
            not broken and recorded_work(database) != work
        ):
            end = [Finding(length - 1, "head")]
        else:
            end = []
    except (sqlite3.Error, UnicodeDecodeError, UnreadableError):
        end = [Finding(min(position, length), "storage")]
    finally:
        database.close()
    return sorted(first_of_each(broken) + end, key=lambda finding: finding.index)


def stored(
    database: sqlite3.Connection, folder: Path, length: int
) -> Iterator[tuple[int, list[Block]]]:
    """What is stored before `length`: the parts of all files, then the rows of the tail."""
    end = 0
    for file in manifest(database, length - 1):
        for first, blocks in parts_of_file(folder, *file, length):
            yield first, blocks
            end = first + len(blocks)
    least = -(2**63)
    if end > 0:
        (before,) = database.execute(
            "SELECT max(first) FROM runs WHERE first <= ?", (end,)
        ).fetchone()
        least = end if before is None else before
    for first, *columns in database.execute(
        "SELECT first, hashes, headers, offsets, data FROM runs WHERE first >= ? ORDER BY first",
        (least,),
    ):
        if natural(first) >= length:
            break
        offsets = blob(columns[2])
        require(len(offsets) % 8 == 0)
        columns[2] = struct.unpack(f">{len(offsets) // 8}Q", offsets)
        blocks = blocks_of_row(*columns)
        sealed = max(end - first, 0)
        if blocks[sealed:]:
            yield first + sealed, blocks[sealed:]


def manifest(database: sqlite3.Connection, last: int) -> list[tuple[int, int, int, bytes]]:
    """The recorded files that begin at position `last` or before."""
    rows, end = [], 0
    for first, blocks, size, digest in database.execute(
        "SELECT first, blocks, size, digest FROM segments WHERE first <= ? ORDER BY first", (last,)
    ):
        require(natural(first) >= end and natural(blocks) >= 1)
        require(isinstance(size, int) and isinstance(digest, bytes))
        rows.append((first, blocks, size, digest))
        end = first + blocks
    return rows


def require_nothing_else(database: sqlite3.Connection, present: list[str]) -> int:
    """Where all that is stored ends; nothing may be in a file and in the tail, or be no file's."""
    files = manifest(database, 2**63 - 1)
    end = files[-1][0] + files[-1][1] if files else 0
    names = {file_name(first) for first in [*(file[0] for file in files), end]}
    require(all(name in names for name in present if name.endswith(".segment")))
    rows = database.execute("SELECT first, length(hashes) FROM runs ORDER BY first").fetchall()
    require(not rows or rows[0][0] >= end)
    return rows[-1][0] + max(rows[-1][1] // 32, 1) if rows else end


def file_name(first: int) -> str:
    return f"{first:015}.segment"


def parts_of_file(
    folder: Path, first: int, n: int, size: int, digest: bytes, length: int
) -> Iterator[tuple[int, list[Block]]]:
    try:
        file = (folder / file_name(first)).read_bytes()
    except OSError:
        raise UnreadableError from None
    require(len(file) == size >= 64)
    magic, version, others, file_first, file_n, m, data_size = struct.unpack("<8sIIQQQQ", file[:48])
    require((magic, file_first, file_n) == (b"CAIRNSEG", first, n) and version in (1, 2))

    at, columns = 64, []
    ids_size = m * 8 if version == 2 else 0
    for width in (n * 32, n * 104, (m + 1) * 8, n * 8, ids_size, data_size):
        columns.append(file[at : at + width])
        at += width
        if len(columns) < 6:
            require(not any(file[at : -(-at // 64) * 64]))
            at = -(-at // 64) * 64
    require(at == size)
    hashes, headers, offset_bytes, index, ids, data = columns
    offsets = struct.unpack(f"<{m + 1}Q", offset_bytes)
    pages = [
        words[page : page + 4096] for words in (index, ids) for page in range(0, len(words), 4096)
    ]
    covered = file[:64] + b"".join(sha256(b"\x00" + page).digest() for page in pages)
    require(sha256(covered).digest() == digest)
    require((offsets[0], offsets[-1]) == (0, data_size))

    counts = [Header(headers[k * 104 : k * 104 + 104]).count for k in range(n)]
    entry = list(accumulate(counts, initial=0)) if others else list(range(n + 1))
    entry = [min(e, m) for e in entry[:-1]] + [m]
    most = min(max(n * PART_BYTES // size, 1), PART_BLOCKS)
    n_judged = min(n, length - first)
    for lo in range(0, n_judged, most):
        hi = min(lo + most, n_judged)
        own = offsets[entry[lo] : entry[hi] + 1]
        begin = min(own[0], data_size) if lo > 0 else 0
        end = max(min(max(own[-2:]), data_size) if hi < n else data_size, begin)
        inside = tuple(offset - begin if offset >= begin else end - begin for offset in own)
        row = (hashes[lo * 32 : hi * 32], headers[lo * 104 : hi * 104], inside, data[begin:end])
        yield first + lo, blocks_of_row(*row)


def first_of_each(broken: list[Finding]) -> list[Finding]:
    """Of each position the rule with the lowest number: two rows may claim the same position."""
    kept: dict[int, Finding] = {}
    for finding in sorted(broken, key=lambda finding: RULES.split().index(finding.rule)):
        kept.setdefault(finding.index, finding)
    return list(kept.values())


def require(condition: bool) -> None:
    if not condition:
        raise UnreadableError


def natural(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise UnreadableError
    return value


def blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise UnreadableError
    return value


def read_head(database: sqlite3.Connection) -> tuple[int, bytes]:
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    rows = database.execute("SELECT length, hash FROM head").fetchall()
    if application != 0x4361726E or version != 4 or len(rows) != 1:
        raise UnreadableError
    return natural(rows[0][0]), blob(rows[0][1])


def recorded_work(database: sqlite3.Connection) -> int:
    ((work,),) = database.execute("SELECT work FROM head").fetchall()
    return 0 if work is None else int.from_bytes(blob(work), "big")


def blocks_of_row(
    hashes: object, headers: object, offsets: tuple[int, ...], data: object
) -> list[Block]:
    hashes, headers, data = blob(hashes), blob(headers), blob(data)
    n = len(headers) // 104
    m = len(offsets) - 1
    if n < 1 or m < 0:
        raise UnreadableError
    if (len(hashes), len(headers)) != (n * 32, n * 104):
        raise UnreadableError

    bounds = [min(offset, len(data)) for offset in offsets]
    entries = [data[bounds[j] : bounds[j + 1]] for j in range(m)]
    parsed = [Header(headers[k * 104 : k * 104 + 104]) for k in range(n)]

    entry = [0]  # the first of each block, and the end
    for k in range(n - 1):
        entry.append(min(entry[k] + parsed[k].count, m))
    entry.append(m)
    around = [0] * n  # bytes that are of no entry
    around[0] += bounds[0]
    around[-1] += len(data) - bounds[-1]

    return [
        Block(
            stored_hash=hashes[k * 32 : k * 32 + 32],
            header=parsed[k],
            entries=entries[entry[k] : entry[k + 1]],
            stored_bytes=sum(map(len, entries[entry[k] : entry[k + 1]])) + around[k],
        )
        for k in range(n)
    ]


def broken_rule(block: Block, position: int, before: Block | None, terms: Terms) -> str | None:
    header = block.header
    follows = before is None or header.previous_hash == before.stored_hash
    in_order = before is None or header.timestamp >= before.header.timestamp
    at_start = position == 0
    root = tree([sha256(b"\x00" + entry).digest() for entry in block.entries])
    kept = {
        "version": header.version == 1,
        "kind": header.kind in ((2,) if at_start else (1,) if terms.seal else (0, 1, 2)),
        "count": (header.kind == 1 or header.count == 1) and header.count == len(block.entries),
        "index": header.index == position,
        "timestamp": header.timestamp < 2**63 and in_order,
        "link": header.previous_hash == bytes(32) if at_start else follows,
        "hash": block.stored_hash == sha256(b"\x00" + header.data).digest(),
        "size": header.size == block.stored_bytes,
        "data_root": header.data_root == root or is_erased(block),
        "work": has_work(block, position, before, terms),
        "genesis": genesis_terms(block) is not None if at_start else True,
        "limits": header.count <= terms.limits["count"] and header.size <= terms.limits["size"],
    }
    return next((rule for rule, is_kept in kept.items() if not is_kept), None)


def has_work(block: Block, position: int, before: Block | None, terms: Terms) -> bool:
    header = block.header
    if terms.seal is None:
        return bool(header.bits == header.nonce == 0)
    target = target_of(header.bits)
    if target is None:
        return False
    if position == 0:
        return target <= (0x7FFFFF << 232) and bool(header.nonce == 0)
    if int.from_bytes(block.stored_hash, "big") > target:
        return False
    return before is None or bool(
        header.bits == asked_bits(position, before.header.timestamp, terms)
    )


def target_of(bits: int) -> int | None:
    length, first, second, third = bits.to_bytes(4, "big")
    if first >= 128:
        return None
    digits = bytes([first, second, third]) + bytes(max(length - 3, 0))
    number = int.from_bytes(digits[: max(length, 3)][:length], "big")
    return number if 0 < number < 2**256 else None


def compact(target: int) -> int:
    digits = target.to_bytes(33, "big").lstrip(b"\x00")
    if digits[0] >= 128:
        digits = b"\x00" + digits
    return int.from_bytes(bytes([len(digits)]) + (digits + bytes(2))[:3], "big")


def asked_bits(position: int, before: int, terms: Terms) -> int:
    """The bits of the block at a position, after one with that timestamp."""
    assert terms.seal is not None
    late = before - (terms.timestamp + terms.seal["interval"] * (position - 1))
    exponent = abs(late) * 65536 // terms.seal["half_life"]
    if late < 0:
        exponent = -exponent
    easiest = target_of(EASIEST)
    first = target_of(terms.bits)
    if first is None or easiest is None or first > easiest:
        first = easiest
    assert first is not None
    assert easiest is not None
    if exponent >= 256 * 65536:
        return EASIEST
    if exponent < -300 * 65536:
        return compact(1)
    x = exponent % 65536
    cubic = 195766423245049 * x + 971821376 * x * x + 5127 * x * x * x
    number = first * (65536 + (cubic + 2**47) // 2**48)
    number = number * 2 ** (exponent // 65536 + 300) // 2**316
    return compact(min(max(number, 1), easiest))


def is_erased(block: Block) -> bool:
    if block.header.kind != 0 or block.header.count != 1 or len(block.entries) != 1:
        return False
    (entry,) = block.entries
    return len(entry) > 16 and entry == bytes(len(entry))


def lacks_its_data(block: Block) -> bool:
    return (
        is_erased(block) and block.header.data_root != sha256(b"\x00" + block.entries[0]).digest()
    )


def erasures(entries: list[bytes]) -> set[tuple[int, bytes]]:
    """The position and data root that a record names, if it is that of an erasure."""
    if len(entries) != 1:
        return set()
    text = entries[0][16:]
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=object_of)
        if canonical(value).encode("utf-8") != text:
            return set()
    except (ValueError, RecursionError):
        return set()
    if not isinstance(value, dict) or set(value) != {"id", "index", "reason", "record"}:
        return set()
    if value["record"] != "erasure" or not isinstance(value["reason"], str):
        return set()
    if type(value["index"]) is not int or not isinstance(value["id"], str):
        return set()
    if len(value["id"]) != 64 or not set(value["id"]) <= set("0123456789abcdef"):
        return set()
    return {(value["index"], bytes.fromhex(value["id"]))}


def tree(leaves: list[bytes]) -> bytes:
    if len(leaves) == 0:
        return sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + tree(leaves[:k]) + tree(leaves[k:])).digest()


def genesis_terms(block: Block) -> Terms | None:
    """What a genesis sets, or None where the entries do not record a genesis."""
    if len(block.entries) != 1:
        return None
    text = block.entries[0][16:]
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=object_of)
        if canonical(value).encode("utf-8") != text:
            return None
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or set(value) != {"format", "name", "seal", "limits", "message"}:
        return None
    if value["format"] != 1 or not isinstance(value["seal"], dict):
        return None
    seal = value["seal"]
    if seal != {"kind": "instant"} and not is_seal_of_work(seal):
        return None
    if not isinstance(value["name"], str) or not 1 <= len(value["name"]) <= 255:
        return None
    if not isinstance(value["message"], str) or not isinstance(value["limits"], dict):
        return None
    for name, limit in value["limits"].items():
        if name not in LIMITS or not isinstance(limit, int):
            return None
        if not LIMITS[name][1] <= limit <= LIMITS[name][2]:
            return None
    limits = DEFAULTS | value["limits"]
    if seal["kind"] == "instant":
        return Terms(limits)
    if limits["size"] > 16_777_216:
        return None
    numbers = {name: seal[name] for name in SEALS}
    return Terms(limits, numbers, block.header.bits, block.header.timestamp)


def is_seal_of_work(seal: dict[str, object]) -> bool:
    if set(seal) != {"kind", *SEALS} or seal["kind"] != "work":
        return False
    numbers = {name: seal[name] for name in SEALS}
    for name, (lowest, highest) in SEALS.items():
        number = numbers[name]
        if type(number) is not int or not lowest <= number <= highest:
            return False
    return bool(numbers["half_life"] >= numbers["interval"])  # type: ignore[operator]


def object_of(members: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(members)) != len(members):
        raise ValueError("equal keys in one object")
    return dict(members)


def canonical(value: object) -> str:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(quoted(key) + ":" + canonical(value[key]) for key in keys) + "}"
    if isinstance(value, str):
        return quoted(value)
    if type(value) is int:
        return str(value)
    raise ValueError("a genesis holds no doubles, arrays, true, false or null")


def quoted(text: str) -> str:
    return '"' + "".join(ESCAPES.get(character, character) for character in text) + '"'
