"""Blocks as lines, many at once: always what they are one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.core.block import Block
from cairn.core.canonical import parse
from cairn.core.entry import Entry
from cairn.core.errors import EntryError, FormatError
from cairn.core.genesis import Limits
from cairn.core.segment import Segment
from cairn.encoding import Encoder
from cairn.hashing import best_hasher
from cairn.ledger.lines import read_lines, write_lines
from tests.builders import chain

HASHER = best_hasher()
ENCODER = Encoder(Limits())


def slowly(lines: Sequence[bytes], start: int) -> Segment | None:
    """Read lines one by one."""
    try:
        blocks = [Block.from_view(parse(line), encode=ENCODER.value) for line in lines]
    except (EntryError, FormatError):
        return None
    return Segment.from_blocks(start, blocks)


def blocks_of(segment: Segment) -> list[Block]:
    return list(segment.blocks())


def with_header(block: Block, **fields: Any) -> Block:
    header = replace(block.header, **fields)
    return replace(block, header=header, stored_hash=header.hash)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=60)
@given(
    st.lists(JSON | st.lists(JSON, max_size=4).map(tuple), min_size=1, max_size=6),
    st.data(),
)
def test_lines_in_bulk_are_those_of_each_block(contents: list[Any], data: st.DataObject) -> None:
    blocks = chain(*contents)
    segment = Segment.from_blocks(0, blocks)
    lines = [block.to_json() for block in blocks]
    assert write_lines(segment, ENCODER) == lines
    texts = [line.encode() for line in lines]
    found = read_lines(texts, 0, ENCODER, HASHER)
    assert found is not None
    assert blocks_of(found) == blocks
    # One byte is another: then it is left, or it is what one by one would give.
    at = data.draw(st.integers(0, len(texts) - 1))
    line = bytearray(texts[at])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] = data.draw(st.integers(0, 255))
    texts[at] = bytes(line)
    changed = read_lines(texts, 0, ENCODER, HASHER)
    one_by_one = slowly(texts, 0)
    if changed is not None:
        assert one_by_one is not None
        assert blocks_of(changed) == blocks_of(one_by_one)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: replace(b, entries=(Entry(bytes(16), bytes(3)),)),
        lambda b: replace(b, entries=(Entry(b"x" * 16, b"1.0"),)),
        lambda b: replace(b, entries=(Entry(b"x" * 16, b'{"a":1,"a":1}'),)),
        lambda b: replace(b, entries=(Entry(b"x" * 16, b"\xff"),)),
        lambda b: replace(b, entries=(Entry(b"x" * 16, b""),)),
        lambda b: replace(b, entries=(*b.entries, *b.entries)),
        lambda b: replace(b, entries=()),
        lambda b: with_header(replace(b, entries=(*b.entries, *b.entries)), count=2),
        lambda b: with_header(replace(b, entries=()), count=0),
        lambda b: with_header(b, count=2),
        lambda b: with_header(b, kind=3),
        lambda b: with_header(b, timestamp=2**63),
    ],
    ids=[
        "erased",
        "form",
        "keys",
        "utf8",
        "empty",
        "two",
        "none",
        "two counted",
        "none counted",
        "count",
        "kind",
        "time",
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_reading_one_by_one(
    change: Callable[[Block], Block],
) -> None:
    blocks = chain(1, 2, 3)
    segment = Segment.from_blocks(0, [*blocks[:2], change(blocks[2]), blocks[3]])
    assert write_lines(segment, ENCODER) is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"x" * 210,
        b"0" * 1000,
        b'{"index": 0, "data": ' + b"0" * 1000,
        b'"\xff' * 300,
    ],
)
def test_line_that_is_none_of_ours_is_left(line: bytes) -> None:
    good = chain(1)[1].to_json().encode()
    for lines in ([line], [good, line], [line, good]):
        assert read_lines(lines, 0, ENCODER, HASHER) is None
