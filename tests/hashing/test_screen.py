"""The kernel's screen against the plain one of `cairn.core.validation`, block by block."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cairn.core.genesis import Limits, Terms
from cairn.core.segment import Segment
from cairn.core.validation import screen
from cairn.core.work import MAX_BITS, Asert
from cairn.hashing.lanes import INSTRUCTION_SETS, LanesHasher
from cairn.hashing.portable import HashlibHasher
from tests.core import reference
from tests.core.chains import chain, columns, flipped, sealed, segment_of
from tests.hashing.memory import at_the_end, at_the_start

HASHERS = [LanesHasher(isa) for isa in INSTRUCTION_SETS]
LIMITS = Limits()
ASERT = Asert(MAX_BITS, 0, 1, 1)
COLUMNS = ("headers", "hashes", "data", "offsets")
CHUNK = 1024
"""Blocks that the kernel takes at a time; also the entries, but for one large block."""

pytestmark = pytest.mark.skipif(not HASHERS, reason="no C kernel was built")


def compare(segment: Segment, limits: Limits = LIMITS) -> list[int] | None:
    """Hold every instruction set to the plain screen; return which blocks are bad.

    None where the segment is not regular, and left to the plain screen.
    """
    compare_in(segment, Terms(limits, ASERT))
    return compare_in(segment, Terms(limits))


def compare_in(segment: Segment, terms: Terms) -> list[int] | None:
    found = [hasher.screen(segment, terms) for hasher in HASHERS]
    if not segment.is_regular:
        assert found == [None] * len(HASHERS)
        return None
    bad: list[int] = np.flatnonzero(screen(segment, HashlibHasher(), terms)).tolist()
    for flags in found:
        assert flags is not None
        assert flags.dtype == np.bool_
        assert set(flags.view(np.uint8).tolist()) <= {0, 1}
        assert np.flatnonzero(flags).tolist() == bad
    return bad


def values(
    sizes: Iterable[int], *, start: int = 5, timestamps: Sequence[int] | None = None
) -> Segment:
    """Return sealed value blocks of so many bytes each."""
    entries = [random.Random(i).randbytes(size) for i, size in enumerate(sizes)]
    offsets = np.cumsum([0, *map(len, entries)], dtype=np.uint64)
    headers = np.zeros((len(entries), 104), np.uint8)
    segment = Segment(
        start,
        headers,
        np.zeros((len(entries), 32), np.uint8),
        np.frombuffer(b"".join(entries), np.uint8),
        offsets,
    )
    fields = segment.fields
    fields["version"] = 1
    fields["index"] = np.arange(start, start + len(entries))
    fields["timestamp"] = 1_700_000_000_000_000
    fields["count"] = 1
    fields["size"] = np.diff(offsets)
    roots = b"".join(reference.leaf(entry) for entry in entries)
    headers[:, 64:96] = np.frombuffer(roots, np.uint8).reshape(-1, 32)
    link(segment)
    if timestamps is not None:
        segment.fields["timestamp"] = timestamps
        link(segment)
    return segment


def link(segment: Segment) -> None:
    """Link and hash the headers as they now are."""
    segment.hashes[...] = HashlibHasher().link(segment.headers, bytes(range(32)))


def batches(counts: Iterable[int], *, start: int = 3) -> Segment:
    """Return a batch of so many entries after another."""
    blocks, previous, salt = [], bytes(32), 0
    for i, count in enumerate(counts):
        entries = []
        for _ in range(count):
            salt += 1
            entries.append(salt.to_bytes(16, "big") + b"1" * (salt % 150))
        blocks.append(sealed(1, entries, index=start + i, previous_hash=previous, timestamp=10**15))
        previous = blocks[-1].stored_hash
    return Segment.from_blocks(start, blocks)


@pytest.mark.parametrize("n", [1, 2, 3, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("size", [16, 17, 54, 55, 80, 118, 119, 272])
def test_good_blocks_are_not_flagged(n: int, size: int) -> None:
    assert compare(values([size] * n)) == []


def test_good_blocks_of_any_sizes_are_not_flagged() -> None:
    chance = random.Random(4)
    for _ in range(10):
        sizes = chance.choices((16, 80, 81, 300, 4_000, 30_000), weights=(1, 9, 9, 9, 2, 1), k=200)
        assert compare(values(sizes)) == []


@pytest.mark.parametrize(
    "shape", ["g", "gv", "v", "vrv", "0", "000", "1", "2", "3", "v0r3v", "gv2"]
)
def test_each_flipped_bit_of_a_small_segment_is_flagged(shape: str) -> None:
    """Every bit of every column; the last offset and counts make it irregular."""
    start = 0 if shape[0] == "g" else 40
    segment = Segment.from_blocks(start, chain(shape, start=start))
    assert compare(segment) == []
    caught = 0
    for column in COLUMNS:
        for bit in range(getattr(segment, column).nbytes * 8):
            bad = compare(flipped(segment, column, bit))
            caught += bad is None or bool(bad)
    first_link = 256  # of the first block: what that must be is not in the segment
    every = sum(getattr(segment, column).nbytes * 8 for column in COLUMNS)
    assert caught >= every - first_link


def test_flipped_bits_in_full_lanes_are_flagged() -> None:
    chance = random.Random(6)
    for segment in (values([80] * 70), values([80, 81, 300, 16] * 20), batches([3, 0, 1, 20] * 6)):
        for column in ("headers", "hashes", "data"):
            for _ in range(250):
                bit = chance.randrange(getattr(segment, column).nbytes * 8)
                assert compare(flipped(segment, column, bit)) != []


@pytest.mark.parametrize("n", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 17])
def test_blocks_around_the_kernels_chunks_follow_one_another(n: int) -> None:
    segment = values([20] * n)
    assert compare(segment) == []
    for block in {0, 15, 16, n - 1, *range(CHUNK - 2, min(CHUNK + 2, n))}:
        for position in (0, 2, 8, 15, 16, 47, 64, 95, 96):
            bad = compare(flipped(segment, "headers", (block * 104 + position) * 8))
            assert bad == [block]
        assert compare(flipped(segment, "hashes", block * 256)) == [
            block,
            *([block + 1] if block + 1 < n else []),
        ]


def test_a_batch_may_stand_between_chunks_of_values() -> None:
    segment = Segment.from_blocks(7, chain("v" * CHUNK + "3" + "v" * (CHUNK + 50), start=7))
    assert compare(segment) == []
    for entry in (0, CHUNK, CHUNK + 2, CHUNK + 3, len(segment.offsets) - 2):
        block = entry if entry < CHUNK else max(CHUNK, entry - 2)
        damaged = flipped(segment, "data", int(segment.offsets[entry]) * 8)
        assert compare(damaged) == [block]


def test_time_never_goes_back() -> None:
    times = [10**15 + i for i in range(40)]
    assert compare(values([30] * 40, timestamps=times)) == []
    assert compare(values([30] * 40, timestamps=[10**15] * 40)) == []
    for block in range(1, 40):
        earlier = [*times[:block], times[block - 1] - 1, *times[block + 1 :]]
        assert compare(values([30] * 40, timestamps=earlier)) == [block]


@pytest.mark.parametrize("timestamp", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_timestamp_has_63_bits(timestamp: int) -> None:
    good = timestamp < 2**63
    assert compare(values([30], timestamps=[timestamp])) == ([] if good else [0])


def test_time_goes_back_from_a_time_out_of_range() -> None:
    for block in range(40):
        times = [2**64 - 1 if i == block else 0 for i in range(40)]
        assert compare(values([30] * 40, timestamps=times)) == [block, block + 1][: 40 - block]


def test_time_stays_out_of_range() -> None:
    for block in range(40):
        times = [10 if i < block else 2**63 for i in range(40)]
        assert compare(values([30] * 40, timestamps=times)) == list(range(block, 40))


def test_equal_entries_after_a_batch_are_not_taken_for_one_another() -> None:
    """Each block is judged by its own entry, though the entry before is what it should be."""
    entry, blocks, previous = bytes(16) + b"1", [], bytes(32)
    for i in range(32):
        entries = [entry] * (2 if i == 0 else 1)
        kind = 1 if i == 0 else 0
        blocks.append(sealed(kind, entries, index=9 + i, previous_hash=previous, timestamp=1))
        previous = blocks[-1].stored_hash
    segment = Segment.from_blocks(9, blocks)
    assert compare(segment) == []
    for block in range(1, 32):
        assert compare(flipped(segment, "data", (block + 1) * len(entry) * 8)) == [block]


@pytest.mark.parametrize("field", ["version", "kind", "bits", "index", "size", "nonce"])
@pytest.mark.parametrize("value", [0, 1, 2, 3, 2**16 - 1])
@pytest.mark.parametrize("block", [0, 7, 17, 39])
def test_a_field_is_judged_though_the_hash_is_right(field: str, value: int, block: int) -> None:
    segment = values([30] * 44)
    right = segment.fields[field][block]
    segment.fields[field][block] = value
    link(segment)
    good = value == right or (field == "kind" and value <= 2)
    assert compare(segment) == ([] if good else [block])


@pytest.mark.parametrize("field", ["bits", "nonce"])
@pytest.mark.parametrize("value", [1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("make", [values, batches])
def test_bits_and_nonce_are_left_to_others_on_a_ledger_of_work_alone(
    field: str, value: int, make: Callable[[Iterable[int]], Segment]
) -> None:
    made = make([30] * 44)
    for block in (0, 7, 17, 39):
        columns = made.headers.copy(), made.hashes.copy(), made.data, made.offsets
        segment = Segment(made.start, *columns)
        segment.fields[field][block] = value
        link(segment)
        assert compare_in(segment, Terms()) == [block]
        assert compare_in(segment, Terms(asert=ASERT)) == []


@pytest.mark.parametrize("block", [0, 7, 17, 39, 43])
def test_a_root_is_judged_though_the_hash_is_right(block: int) -> None:
    for byte in range(64, 96):
        segment = values([30] * 44)
        segment.headers[block, byte] ^= 0x40
        link(segment)
        assert compare(segment) == [block]


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_only_a_batch_has_other_than_one_entry(kind: int, count: int) -> None:
    entries = [bytes(16) + b"1"] * count
    block = sealed(kind, entries, index=9, previous_hash=bytes(32), timestamp=1)
    good = kind == 1 or (count == 1 and kind < 3)
    assert compare(Segment.from_blocks(9, [block])) == ([] if good else [0])


@pytest.mark.parametrize("start", [0, 1, 2**32, 2**63 - 2, 2**63, 2**64 - 2])
def test_an_index_is_its_position(start: int) -> None:
    segment = values([30] * 2, start=1)
    segment.fields["index"] = [start, (start + 1) % 2**64]
    link(segment)
    moved = Segment(start, segment.headers, segment.hashes, segment.data, segment.offsets)
    assert compare(moved) == []
    assert compare(segment) == ([] if start == 1 else [0, 1])


def test_limits_are_held() -> None:
    assert compare(values([30] * 20 + [31] + [30] * 20), Limits(size=30)) == [20]
    segment = batches([2, 3, 4, 0, 1])
    sizes = segment.fields["size"].tolist()
    assert compare(segment, Limits(count=3)) == [2]
    assert compare(segment, Limits(count=2)) == [1, 2]
    most = sorted(sizes)[-2]
    assert compare(segment, Limits(size=most)) == [sizes.index(max(sizes))]
    assert compare(segment, Limits(size=max(sizes))) == []


# Trees


@pytest.mark.parametrize("count", range(41))
def test_the_root_of_a_batch_is_that_of_rfc_9162(count: int) -> None:
    segment = batches([count])
    assert compare(segment) == []
    for entry in range(count):
        assert compare(flipped(segment, "data", int(segment.offsets[entry]) * 8)) == [0]


def test_batches_of_all_sizes_may_stand_together() -> None:
    assert compare(batches(range(41))) == []
    assert compare(batches([7] * 100)) == []
    assert compare(batches([0] * 40)) == []
    mixed = Segment.from_blocks(0, chain("gv3v0r2v1" * 5))
    assert compare(mixed) is not None


@pytest.mark.parametrize(
    "counts", [[CHUNK], [CHUNK + 1], [1, CHUNK], [600, 600, 600], [1, 5000, 1]]
)
def test_batches_larger_than_a_chunk_are_hashed_whole(counts: list[int]) -> None:
    segment = batches(counts)
    assert compare(segment) == []
    last = len(segment.data) * 8 - 1
    bad = compare(flipped(segment, "data", last))
    assert bad == [len(counts) - 1]


# Where it leaves a segment to the plain screen


def test_damaged_offsets_and_counts_are_left_alone() -> None:
    segment = values([20] * 40)
    for offsets in (
        segment.offsets[:-1],
        segment.offsets[1:],
        np.append(segment.offsets, segment.offsets[-1]),
        segment.offsets + np.uint64(1),
        segment.offsets[::-1].copy(),
        np.full(41, 2**64 - 1, np.uint64),
        np.zeros(41, np.uint64),
        np.zeros(1, np.uint64),
    ):
        damaged = Segment(5, segment.headers, segment.hashes, segment.data, offsets)
        assert compare(damaged) is None
    for place in (1, 16, 20, 39):
        for value in (2**64 - 1, 2**63, len(segment.data) + 1, 20 * place - 21, 20 * place + 21):
            offsets = segment.offsets.copy()
            offsets[place] = value % 2**64
            damaged = Segment(5, segment.headers, segment.hashes, segment.data, offsets)
            assert compare(damaged) is None
    for count in (0, 2, 2**32 - 1):
        damaged = segment_of(columns(segment))
        headers = damaged.headers.copy()
        headers[20, 56:60] = np.frombuffer(count.to_bytes(4, "big"), np.uint8)
        assert compare(Segment(5, headers, segment.hashes, segment.data, segment.offsets)) is None


# Where the columns lie


def moved(column: NDArray[np.uint8], how: str) -> NDArray[np.uint8]:
    if how == "unaligned":
        buffer = np.zeros(column.nbytes + 3, np.uint8)
        buffer[3:] = column.reshape(-1)
        return buffer[3:].reshape(column.shape)
    return at_the_end(column) if how == "end" else at_the_start(column)


@pytest.mark.parametrize("how", ["start", "end", "unaligned"])
@pytest.mark.parametrize("n", [1, 2, 16, 17, 64, 1100])
def test_nothing_around_the_columns_is_read(n: int, how: str) -> None:
    for segment in (values([80] * n), values([16] * n), batches([2] * n)):
        offsets = segment.offsets
        if how != "unaligned":
            offsets = moved(offsets.view(np.uint8), how).view(np.uint64)
        headers, hashes = moved(segment.headers, how), moved(segment.hashes, how)
        there = Segment(segment.start, headers, hashes, moved(segment.data, how), offsets)
        assert compare(there) == []


def test_columns_need_not_be_contiguous() -> None:
    segment = values([20] * 40)
    headers, hashes = np.zeros((40, 200), np.uint8), np.zeros((40, 64), np.uint8)
    headers[:, 7:111], hashes[:, 32:] = segment.headers, segment.hashes
    there = Segment(5, headers[:, 7:111], hashes[:, 32:], segment.data, segment.offsets)
    assert compare(there) == []


@given(st.data())
def test_any_segment_with_any_damage_is_judged_as_the_plain_screen_does(
    data: st.DataObject,
) -> None:
    shape = data.draw(st.text("vr0123", min_size=1, max_size=40))
    segment = Segment.from_blocks(7, chain(shape, start=7))
    assert compare(segment) == []
    for _ in range(data.draw(st.integers(1, 3))):
        column = data.draw(st.sampled_from(COLUMNS))
        if bits := getattr(segment, column).nbytes * 8:
            segment = flipped(segment, column, data.draw(st.integers(0, bits - 1)))
    compare(segment)
    if segment.is_regular and data.draw(st.booleans()):
        hashed = segment_of(columns(segment))
        headers = hashed.headers.copy()
        HashlibHasher().link(headers, bytes(32))
        hashes = np.array([list(reference.leaf(row.tobytes())) for row in headers], np.uint8)
        compare(Segment(7, headers, hashes, hashed.data, hashed.offsets))
