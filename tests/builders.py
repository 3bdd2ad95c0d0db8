"""Blocks and chains for tests, without clock or randomness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from cairn.core.block import Block
from cairn.core.canonical import canonical
from cairn.core.entry import Entry
from cairn.core.genesis import Genesis, Terms, Work
from cairn.core.header import Header, Kind
from cairn.core.merkle import tree_hash
from cairn.core.segment import Segment
from cairn.core.work import MAX_BITS, target_of

START = 1_700_000_000_000_000
"""µs; the timestamp of genesis."""
SEAL = Work(interval=1_000_000, half_life=60_000_000, final_depth=6)
"""Of the chains that `mined` makes, unless another is wanted."""


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


def mined_genesis(seal: Work = SEAL, *, bits: int = MAX_BITS, name: str = "test") -> Block:
    return Genesis(name=name, seal=seal).block(timestamp=START, salt=next(salts()), bits=bits)


def mine(terms: Terms, entries: Sequence[Entry], previous: Block, timestamp: int) -> Block:
    """Seal `entries` in a batch that follows `previous`, with the work that `terms` ask for.

    `timestamp` is in µs. At `MAX_BITS` that takes two hashes or so.
    """
    assert terms.asert is not None
    header = Header(
        kind=Kind.BATCH,
        bits=terms.asert.bits_after(previous.index, previous.header.timestamp),
        index=previous.index + 1,
        previous_hash=previous.stored_hash,
        timestamp=timestamp,
        count=len(entries),
        size=sum(len(entry.to_bytes()) for entry in entries),
        data_root=tree_hash(entry.id for entry in entries),
    )
    target = target_of(header.bits)
    tries = (replace(header, nonce=nonce) for nonce in count())
    found = next(header for header in tries if int.from_bytes(header.hash, "big") <= target)
    return Block(found, found.hash, tuple(entries))


def mined(
    *contents: Sequence[Any],
    seal: Work = SEAL,
    bits: int = MAX_BITS,
    times: Sequence[int] = (),
    first: Sequence[Block] = (),
) -> list[Block]:
    """Return a valid chain of a ledger of work: genesis, and a batch of each of `contents`.

    `times` are µs between a block and the one before, in turn and then again; by the schedule
    unless they are given. `first` are the blocks to go on from, in place of a new genesis: they
    are not changed, and the salts of what follows differ from theirs and by its times, too.
    """
    blocks = list(first) or [mined_genesis(seal, bits=bits)]
    terms = Terms.of(blocks[0])
    number = count(2 + sum(len(block.entries) for block in blocks[1:]))
    for i, values in enumerate(contents):
        time = blocks[-1].header.timestamp + (times[i % len(times)] if times else seal.interval)
        salt = (time.to_bytes(8, "big") + next(number).to_bytes(8, "big") for _ in count())
        entries = [Entry(next(salt), canonical(value)) for value in values]
        blocks.append(mine(terms, entries, blocks[-1], time))
    return blocks


def segments(blocks: Sequence[Block], *sizes: int) -> list[Segment]:
    """Cut `blocks` into segments of these sizes; the last one takes the rest."""
    result, at = [], 0
    for size in (*sizes, len(blocks)):
        if part := blocks[at : at + size]:
            result.append(Segment.from_blocks(at, part))
        at += size
    return result
