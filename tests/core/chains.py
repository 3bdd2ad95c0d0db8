"""Small chains, made by hand with the reference, to be broken in every way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cairn.core.block import Block
from cairn.core.entry import Entry
from cairn.core.genesis import Genesis, Limits, Terms
from cairn.core.header import Header
from cairn.core.segment import Segment
from tests.core import reference
from tests.core.reference import Columns

KINDS = {"g": 2, "v": 0, "r": 2, "0": 1, "1": 1, "2": 1, "3": 1}
"""What a block is: genesis, value, record, or a batch of so many entries."""

LIMITS = Limits()
TERMS = Terms()
GENESIS = (
    b'{"format":1,"limits":{},"message":"","name":"example","seal":{"kind":"instant"}}'  # canonical
)
VALUES = (b"1", b'"two"', b'{"three":3}', b"[1.5,null]", b'"\xe2\x82\xac"')


def sealed(
    kind: int,
    entries: Sequence[bytes],
    *,
    index: int,
    previous_hash: bytes,
    timestamp: int,
    stored_hash: bytes | None = None,
    **fields: int | bytes,
) -> Block:
    """Return a block of `entries` (salt ‖ JSON); `fields` of its header may be said otherwise."""
    header = reference.pack(
        kind=kind,
        index=index,
        previous_hash=previous_hash,
        timestamp=timestamp,
        count=len(entries),
        size=sum(len(entry) for entry in entries),
        data_root=reference.tree([reference.leaf(entry) for entry in entries]),
    )
    for name, value in fields.items():
        header = reference.put(header, name, value)
    return Block(
        Header.unpack(header),
        reference.leaf(header) if stored_hash is None else stored_hash,
        tuple(Entry(entry[:16], entry[16:]) for entry in entries),
    )


def chain(shape: str, *, start: int = 0, previous_hash: bytes = bytes(32)) -> list[Block]:
    """Return a valid chain, a block for each letter of `shape` (see `KINDS`)."""
    blocks: list[Block] = []
    salt = start
    for i, letter in enumerate(shape):
        texts = [GENESIS] if letter == "g" else [b""] * int(letter if letter.isdigit() else 1)
        entries = []
        for text in texts:
            salt += 1
            entries.append(bytes([salt % 256]) * 16 + (text or VALUES[salt % len(VALUES)]))
        block = sealed(
            KINDS[letter],
            entries,
            index=start + i,
            previous_hash=blocks[-1].stored_hash if blocks else previous_hash,
            timestamp=1_526_995_403_022_216 + (start + i) // 2,  # every other one at once
        )
        blocks.append(block)
    return blocks


def columns(segment: Segment) -> Columns:
    """Return what a segment holds, in plain Python."""
    return Columns(
        segment.start,
        [row.tobytes() for row in segment.headers],
        [row.tobytes() for row in segment.hashes],
        segment.data.tobytes(),
        [int(offset) for offset in segment.offsets],
    )


def segment_of(row: Columns) -> Segment:
    return Segment(
        row.start,
        np.frombuffer(b"".join(row.headers), np.uint8).reshape(-1, 104),
        np.frombuffer(b"".join(row.hashes), np.uint8).reshape(-1, 32),
        np.frombuffer(row.data, np.uint8),
        np.array(row.offsets, np.uint64),
    )


def flipped(segment: Segment, column: str, bit: int) -> Segment:
    """Return `segment` with one bit of a column changed; its parts are shared with it."""
    parts = {name: getattr(segment, name) for name in ("headers", "hashes", "data", "offsets")}
    changed = parts[column].copy()
    changed.reshape(-1).view(np.uint8)[bit // 8] ^= np.uint8(1 << bit % 8)
    parts[column] = changed
    return Segment(segment.start, **parts)


def genesis(limits: Limits = LIMITS) -> Genesis:
    return Genesis(name="example", limits=limits)
