"""Columns of blocks against a plain list of blocks."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairn.core.block import Block
from cairn.core.entry import Entry
from cairn.core.errors import FormatError
from cairn.core.genesis import Terms
from cairn.core.header import Kind
from cairn.core.segment import Segment
from cairn.core.validation import validate
from cairn.hashing.portable import HashlibHasher
from tests.core import reference
from tests.core.chains import chain, columns, segment_of
from tests.core.reference import Columns

SHAPES = ["".join(shape) for n in (1, 2, 3) for shape in product("vr0123", repeat=n)]
HASHER = HashlibHasher()


def splits(n: int) -> Iterator[list[tuple[int, int]]]:
    """Yield every way to cut `range(n)` into pieces."""
    for pattern in range(2 ** (n - 1)):
        places = [0, *(i for i in range(1, n) if pattern >> (i - 1) & 1), n]
        yield list(pairwise(places))


def assert_holds(segment: Segment, start: int, blocks: list[Block]) -> None:
    """Hold `segment` to a list of blocks, by every reading."""
    n = len(blocks)
    entries = [[entry.to_bytes() for entry in block.entries] for block in blocks]
    flat = [entry for several in entries for entry in several]
    assert (segment.start, segment.stop, len(segment)) == (start, start + n, n)
    assert list(segment.blocks()) == blocks
    assert [segment.block(i) for i in range(n)] == blocks
    assert [list(segment.entries(i)) for i in range(n)] == entries
    assert [row.tobytes() for row in segment.headers] == [block.header.pack() for block in blocks]
    assert [row.tobytes() for row in segment.hashes] == [block.stored_hash for block in blocks]
    assert segment.data.tobytes() == b"".join(flat)
    ends = [sum(map(len, flat[:j])) for j in range(len(flat) + 1)]
    assert segment.offsets.tolist() == ends
    assert segment.offset_bytes() == b"".join(end.to_bytes(8, "big") for end in ends)
    starts, stops = segment.entry_bounds
    assert (starts.tolist(), stops.tolist()) == (ends[:-1], ends[1:])
    counts = [len(several) for several in entries]
    assert segment.block_bounds.tolist() == [sum(counts[:i]) for i in range(n + 1)]
    sizes = [sum(map(len, several)) for several in entries]
    assert segment.sizes.tolist() == sizes
    assert segment.fields["index"].tolist() == [block.index for block in blocks]
    assert segment.is_regular


# Good chains, all small shapes


@pytest.mark.parametrize("start", [0, 5])
def test_columns_of_blocks_give_the_same_blocks_back(start: int) -> None:
    for shape in SHAPES:
        blocks = chain(shape, start=start)
        assert_holds(Segment.from_blocks(start, blocks), start, blocks)


def test_columns_survive_being_stored_as_bytes() -> None:
    for shape in SHAPES:
        blocks = chain(shape, start=5)
        made = Segment.from_blocks(5, blocks)
        parts = (made.headers, made.hashes, made.data)
        headers, hashes, data = (part.tobytes() for part in parts)
        assert_holds(Segment.from_bytes(5, headers, hashes, data, made.offset_bytes()), 5, blocks)


def test_columns_survive_being_sent_to_another_process() -> None:
    blocks = chain("gv3", start=0)
    segment = Segment.from_blocks(0, blocks)
    summary = validate(segment, HASHER, Terms())  # fills what is computed once
    assert_holds(pickle.loads(pickle.dumps(segment)), 0, blocks)
    assert pickle.loads(pickle.dumps(summary)) == summary


def test_every_cut_holds_the_blocks_between() -> None:
    for shape in SHAPES:
        blocks = chain(shape, start=5)
        segment = Segment.from_blocks(5, blocks)
        for last in range(1, len(blocks) + 1):
            for first in range(last):
                assert_holds(segment.cut(first, last), 5 + first, blocks[first:last])


def test_every_cut_of_a_cut_holds_the_blocks_between() -> None:
    blocks = chain("gv0v123r0v")
    segment = Segment.from_blocks(0, blocks)
    for last in range(1, len(blocks) + 1):
        for first in range(last):
            part = segment.cut(first, last)
            for inner_last in range(1, len(part) + 1):
                for inner_first in range(inner_last):
                    inner = part.cut(inner_first, inner_last)
                    between = blocks[first + inner_first : first + inner_last]
                    assert list(inner.blocks()) == between


def test_cutting_copies_nothing() -> None:
    segment = Segment.from_blocks(0, chain("gv3v"))
    assert segment.cut(0, 4) is segment
    part = segment.cut(1, 3)
    for name in ("headers", "hashes", "data"):
        assert np.shares_memory(getattr(part, name), getattr(segment, name))


def test_every_way_to_join_what_was_cut_gives_the_whole() -> None:
    for shape in [*SHAPES, "gv0v12", "0000", "3v3v"]:
        blocks = chain(shape, start=5)
        segment = Segment.from_blocks(5, blocks)
        for places in splits(len(blocks)):
            parts = [segment.cut(first, last) for first, last in places]
            joined = Segment.join(parts)
            assert_holds(joined, 5, blocks)
            assert columns(joined) == columns(segment)


def test_joining_one_segment_copies_nothing() -> None:
    segment = Segment.from_blocks(0, chain("gv"))
    assert Segment.join([segment]) is segment


def sealed(entries: list[bytes], *, start: int, previous_hash: bytes, timestamp: int) -> Segment:
    """Seal `entries`, salts included."""
    return Segment.seal(
        [len(entry) - 16 for entry in entries],
        bytearray().join(bytes(16) + entry[16:] for entry in entries),
        b"".join(entry[:16] for entry in entries),
        start=start,
        previous_hash=previous_hash,
        timestamp=timestamp,
        hasher=HASHER,
    )


@pytest.mark.parametrize("start", [0, 1, 5, 2**40])
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_sealed_entries_are_the_blocks_one_would_make_one_by_one(start: int, n: int) -> None:
    entries = [bytes([i]) * 16 + b"1" * (i + 1) for i in range(n)]
    previous = b"\x11" * 32
    segment = sealed(entries, start=start, previous_hash=previous, timestamp=9)
    blocks: list[Block] = []
    for i, entry in enumerate(entries):
        block = Block.of(
            Kind.VALUE,
            Entry.from_bytes(entry),
            index=start + i,
            previous_hash=blocks[-1].stored_hash if blocks else previous,
            timestamp=9,
        )
        blocks.append(block)
    assert_holds(segment, start, blocks)
    assert validate(segment, HASHER, Terms()).failures == () or start == 0


@given(st.lists(st.binary(min_size=16, max_size=56), min_size=1, max_size=8), st.integers(1, 2**62))
def test_any_entries_are_sealed_in_order(entries: list[bytes], start: int) -> None:
    previous = b"\x11" * 32
    segment = sealed(entries, start=start, previous_hash=previous, timestamp=0)
    assert [segment.entries(i) for i in range(len(segment))] == [(entry,) for entry in entries]
    assert validate(segment, HASHER, Terms(), every=True).failures == ()
    assert segment.fields["previous_hash"][0].tobytes() == previous


def test_sealing_at_the_last_positions_of_all_keeps_every_index() -> None:
    entries = [bytes(17)] * 2
    segment = sealed(entries, start=2**63 - 2, previous_hash=bytes(32), timestamp=0)
    assert [block.index for block in segment.blocks()] == [2**63 - 2, 2**63 - 1]


def test_sealing_at_a_time_that_no_header_can_hold_is_refused() -> None:
    for timestamp in (-1, 2**64):
        with pytest.raises(FormatError, match="header field out of range"):
            sealed([bytes(17)], start=1, previous_hash=bytes(32), timestamp=timestamp)


# Shapes that are none


@pytest.mark.parametrize(
    ("headers", "hashes", "offsets"),
    [
        (103, 32, 16),
        (105, 32, 16),
        (1, 32, 16),
        (104, 31, 16),
        (104, 33, 16),
        (104, 32, 15),
        (104, 32, 17),
    ],
)
def test_columns_of_broken_rows_are_refused(headers: int, hashes: int, offsets: int) -> None:
    message = f"columns of {headers}, {hashes} and {offsets} bytes are no headers, hashes and off"
    with pytest.raises(FormatError, match=message):
        Segment.from_bytes(0, bytes(headers), bytes(hashes), b"", bytes(offsets))


@pytest.mark.parametrize(
    ("headers", "hashes", "offsets"),
    [(0, 0, 8), (1, 1, 0), (1, 0, 16), (0, 1, 16), (2, 1, 16), (1, 2, 16)],
)
def test_columns_that_do_not_go_together_are_refused(
    headers: int, hashes: int, offsets: int
) -> None:
    with pytest.raises(FormatError, match=r"headers and|at least one"):
        Segment.from_bytes(0, bytes(104 * headers), bytes(32 * hashes), b"", bytes(offsets))


def test_columns_of_another_width_are_refused() -> None:
    headers, hashes = np.zeros((1, 104), np.uint8), np.zeros((1, 32), np.uint8)
    data, offsets = np.zeros(0, np.uint8), np.zeros(1, np.uint64)
    assert len(Segment(0, headers, hashes, data, offsets)) == 1
    for wrong in (headers[:, 1:], headers[0]):
        with pytest.raises(FormatError, match="headers and"):
            Segment(0, wrong, hashes, data, offsets)
    with pytest.raises(FormatError, match="headers and"):
        Segment(0, headers, hashes[:, 1:], data, offsets)
    with pytest.raises(FormatError, match="one offset"):
        Segment(0, headers, hashes, data, offsets.reshape(1, 1))


# Damaged counts and offsets


def assert_reads_as_stored(segment: Segment) -> None:
    """Hold every reading to the reference, which reads as the format says."""
    lying = reference.read(columns(segment))
    assert [list(segment.entries(i)) for i in range(len(segment))] == [b.entries for b in lying]
    assert segment.sizes.tolist() == [block.size for block in lying]
    for block, stored in zip(segment.blocks(), lying, strict=True):
        assert block.header.pack() == stored.header
        assert block.stored_hash == stored.hash
        assert [entry.to_bytes() for entry in block.entries] == stored.entries


def read_in_every_way(segment: Segment) -> None:
    n = len(segment)
    assert_reads_as_stored(segment)
    segment.offset_bytes()
    for last in range(1, n + 1):
        for first in range(last):
            part = segment.cut(first, last)
            assert (part.start, len(part)) == (segment.start + first, last - first)
            assert_reads_as_stored(part)
    for every in (False, True):
        validate(segment, HASHER, Terms(), every=every)
    joined = Segment.join([segment, Segment.from_blocks(segment.stop, chain("v", start=1))])
    assert len(joined) == n + 1
    list(joined.blocks())
    for block in segment.blocks():
        repr(block)
        with suppress(FormatError):
            block.to_json()


odd = st.one_of(
    st.integers(0, 70),
    st.integers(0, 2**64 - 1),
    st.sampled_from((2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)),
)


@st.composite
def damaged_rows(draw: st.DrawFn) -> Columns:
    """Draw a row where only the shapes are right."""
    headers = [
        reference.pack(
            kind=draw(st.integers(0, 3)),
            index=i,
            count=draw(st.one_of(st.integers(0, 4), st.integers(0, 2**32 - 1))),
            size=draw(st.integers(0, 70)),
        )
        for i in range(draw(st.integers(1, 5)))
    ]
    hashes = [bytes([i]) * 32 for i in range(len(headers))]
    data = bytes(range(draw(st.integers(0, 60))))
    offsets = draw(st.lists(odd, min_size=1, max_size=7))
    return Columns(draw(st.integers(0, 3)), headers, hashes, data, offsets)


@given(damaged_rows())
@example(Columns(0, [bytes(104)], [bytes(32)], b"", [0]))
@example(Columns(0, [bytes(104)], [bytes(32)], b"", [2**64 - 1]))
@example(Columns(1, [reference.pack(count=2**32 - 1)] * 3, [bytes(32)] * 3, b"abc", [3, 2, 1, 0]))
def test_no_damage_of_counts_and_offsets_makes_a_reading_fail(row: Columns) -> None:
    read_in_every_way(segment_of(row))


@pytest.mark.parametrize("value", [0, 1, 16, 17, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
def test_no_offset_at_any_place_makes_a_reading_fail(value: int) -> None:
    whole = columns(Segment.from_blocks(0, chain("gv02")))
    for j in range(len(whole.offsets)):
        offsets = [*whole.offsets[:j], value, *whole.offsets[j + 1 :]]
        read_in_every_way(segment_of(whole._replace(offsets=offsets)))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 2**31, 2**32 - 1])
def test_no_count_at_any_place_makes_a_reading_fail(count: int) -> None:
    whole = columns(Segment.from_blocks(0, chain("gv02v")))
    for i in range(len(whole.headers)):
        headers = list(whole.headers)
        headers[i] = reference.put(headers[i], "count", count)
        read_in_every_way(segment_of(whole._replace(headers=headers)))


def test_the_last_block_has_all_entries_that_are_left() -> None:
    whole = columns(Segment.from_blocks(1, chain("vvv", start=1)))
    segment = segment_of(whole._replace(headers=whole.headers[:2], hashes=whole.hashes[:2]))
    assert [len(segment.entries(i)) for i in range(2)] == [1, 2]
    assert segment.sizes.sum() == len(segment.data)
    assert not segment.is_regular


def test_bytes_before_the_first_entry_belong_to_the_first_block() -> None:
    whole = columns(Segment.from_blocks(1, chain("vv", start=1)))
    moved = [offset + 5 for offset in whole.offsets]
    segment = segment_of(whole._replace(data=b"extra" + whole.data, offsets=moved))
    assert segment.sizes.tolist() == [moved[1], moved[2] - moved[1]]
    assert list(segment.blocks()) == chain("vv", start=1)
    assert not segment.is_regular


def test_regular_is_what_has_neither_too_few_nor_too_many() -> None:
    whole = columns(Segment.from_blocks(1, chain("v2", start=1)))
    assert segment_of(whole).is_regular
    fewer = whole.offsets[:-1]
    more = [*whole.offsets, whole.offsets[-1]]
    late = [1, *whole.offsets[1:]]
    short = [*whole.offsets[:-1], whole.offsets[-1] - 1]
    for offsets in (fewer, more, late, short):
        assert not segment_of(whole._replace(offsets=offsets)).is_regular


@given(damaged_rows(), damaged_rows())
@example(
    Columns(1, [reference.pack(kind=1, count=2)], [bytes(32)], bytes(40), [0, 60, 40]),
    Columns(2, [reference.pack(count=1)], [bytes(32)], bytes(20), [0, 20]),
)
def test_joining_regular_segments_changes_no_block(row: Columns, next_row: Columns) -> None:
    """A block must not read otherwise because of the rows that happen to be read with it."""
    segments = [segment_of(row), segment_of(next_row._replace(start=row.start + len(row.headers)))]
    if all(segment.is_regular for segment in segments):
        apart = [block for segment in segments for block in segment.blocks()]
        assert list(Segment.join(segments).blocks()) == apart


@given(damaged_rows())
@example(
    Columns(
        1,
        [reference.pack(kind=1, count=2), reference.pack(count=1)],
        [bytes(32)] * 2,
        bytes(range(80)),
        [0, 60, 40, 80],
    )
)
def test_cutting_changes_no_block(row: Columns) -> None:
    """A block must not read otherwise because of where a scan begins or ends."""
    segment = segment_of(row)
    blocks = list(segment.blocks())
    for last in range(1, len(segment) + 1):
        for first in range(last):
            assert list(segment.cut(first, last).blocks()) == blocks[first:last]
