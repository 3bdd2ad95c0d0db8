"""Blocks and chains for tests, without clock or randomness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from cairn.core.block import Block
from cairn.core.canonical import canonical
from cairn.core.entry import Entry
from cairn.core.genesis import Genesis
from cairn.core.header import Header, Kind
from cairn.core.merkle import tree_hash
from cairn.core.segment import Segment

START = 1_700_000_000_000_000
"""µs; the timestamp of genesis."""


def salts() -> Iterator[bytes]:
    return (number.to_bytes(16, "big") for number in count(1))


def block(kind: Kind, values: Sequence[Any], previous: Block, salt: Iterator[bytes]) -> Block:
    """Seal `values` in a block that follows `previous`."""
    entries = tuple(Entry(next(salt), canonical(value)) for value in values)
    header = Header(
        kind=kind,
        index=previous.index + 1,
        previous_hash=previous.stored_hash,
        timestamp=previous.header.timestamp + 1,
        count=len(entries),
        size=sum(len(entry.to_bytes()) for entry in entries),
        data_root=tree_hash(entry.id for entry in entries),
    )
    return Block(header, header.hash, entries)


def chain(*contents: Any) -> list[Block]:
    """Return genesis and a block for each of `contents`: a tuple makes a batch of its values."""
    salt = salts()
    blocks = [Genesis(name="test").block(timestamp=START, salt=next(salt))]
    for content in contents:
        kind = Kind.BATCH if isinstance(content, tuple) else Kind.VALUE
        values = content if isinstance(content, tuple) else (content,)
        blocks.append(block(kind, values, blocks[-1], salt))
    return blocks


def segments(blocks: Sequence[Block], *sizes: int) -> list[Segment]:
    """Cut `blocks` into segments of these sizes; the last one takes the rest."""
    result, at = [], 0
    for size in (*sizes, len(blocks)):
        if part := blocks[at : at + size]:
            result.append(Segment.from_blocks(at, part))
        at += size
    return result
