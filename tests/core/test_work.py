"""Targets, ASERT, and what the rules ask of a ledger of work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cairn.core import rules
from cairn.core.block import Block
from cairn.core.errors import FormatError
from cairn.core.genesis import Genesis, Limits, Terms, Work
from cairn.core.header import Header, Kind
from cairn.core.rules import Failure, InvalidChainError, Stored
from cairn.core.segment import Segment
from cairn.core.validation import FEW_HEADERS, Edge, Summary, check_headers, validate
from cairn.core.work import (
    MAX_BITS,
    Asert,
    are_met,
    bits_of,
    is_target,
    target_of,
    total_work,
    work_of,
)
from cairn.hashing import best_hasher
from cairn.hashing.portable import HashlibHasher
from tests import independent
from tests.builders import SEAL, START, mined, mined_genesis
from tests.conftest import shared
from tests.core import reference
from tests.core.chains import columns, flipped

HASHERS = (HashlibHasher(), best_hasher())
TIMES = (0, 400_000, 3_000_000, 1_000_000, 1, 700_000)
"""µs between the blocks of the chain here, which so is now before its schedule, now behind."""
CHAIN = mined([1], ["two", 3], [], [{"four": 5}], [6], [7, 8, 9], times=TIMES)
WHOLE = Segment.from_blocks(0, CHAIN)
SHORT = WHOLE.cut(0, 4)
TERMS = Terms.of(CHAIN[0])
N = len(CHAIN)


# Compact targets


@pytest.mark.parametrize(
    ("bits", "target", "back"),
    [
        (0x01123456, 0x12, 0x01120000),
        (0x02123456, 0x1234, 0x02123400),
        (0x03123456, 0x123456, 0x03123456),
        (0x04123456, 0x12345600, 0x04123456),
        (0x05009234, 0x92340000, 0x05009234),
        (0x20123456, 0x123456 << 232, 0x20123456),
        (0x02008000, 0x80, 0x02008000),
        (0x1D00FFFF, 0xFFFF << 208, 0x1D00FFFF),
        (MAX_BITS, 0x7FFFFF << 232, MAX_BITS),
    ],
)
def test_compact_targets_are_those_of_bitcoins_own_tests(bits: int, target: int, back: int) -> None:
    assert target_of(bits) == target
    assert bits_of(target) == back


ZERO = [0, 0x00123456, 0x01003456, 0x02000056, 0x03000000, 0x04000000]
NEGATIVE = [0x00923456, 0x01803456, 0x02800056, 0x03800000, 0x04800000, 0x01FEDCBA, 0x04923456]
TOO_LARGE = [0xFF123456, 0x21010000, 0x22000100, 0x23000001, 0x20800000]


@pytest.mark.parametrize("bits", [*ZERO, *NEGATIVE, *TOO_LARGE])
def test_bits_that_are_zero_negative_or_overflow_are_no_target(bits: int) -> None:
    assert not is_target(bits)
    for read in (target_of, work_of):
        with pytest.raises(FormatError, match=f"bits {bits:08x} are no target"):
            read(bits)


@pytest.mark.parametrize("bits", [0x2100FFFF, 0x220000FF, 0x20123456])
def test_the_largest_exponents_hold_what_fits_256_bits(bits: int) -> None:
    assert target_of(bits) == reference.compact(bits)


def test_targets_round_trip_for_every_exponent() -> None:
    for size in range(256):
        for mantissa in (1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x123456, 0x7FFFFF):
            bits = size << 24 | mantissa
            target = reference.compact(bits)
            assert is_target(bits) == (target is not None)
            if target is not None:
                assert target_of(bits) == target
                assert bits_of(target) == reference.to_compact(target)
                assert target_of(bits_of(target)) == target
                if size >= 3 and mantissa >= 0x8000:  # the one form without leading zeros
                    assert bits_of(target) == bits


@given(st.integers(0, 2**256 - 1), st.integers(0, 255))
def test_bits_are_the_largest_compact_target_that_is_not_larger(number: int, shift: int) -> None:
    target = number >> shift
    bits = bits_of(target)
    assert bits == reference.to_compact(target)
    if target:
        assert target_of(bits) <= target < (target_of(bits) or 1) + 256 ** max((bits >> 24) - 3, 0)


def test_work_is_the_number_of_hashes_that_are_tried_on_average() -> None:
    assert work_of(MAX_BITS) == 2
    assert work_of(0x1D00FFFF) == 0x100010001
    assert work_of(bits_of(1)) == 2**255


@given(st.lists(st.sampled_from((0, MAX_BITS, 0x1D00FFFF, 0x04800000, 0x03000001)), max_size=9))
def test_total_work_is_that_of_all_that_are_targets(bits: list[int]) -> None:
    expected = sum(work_of(b) for b in bits if is_target(b))
    for dtype in ("<u4", ">u4"):
        assert total_work(np.array(bits, dtype)) == expected


def hashes_of(numbers: Sequence[int]) -> NDArray[np.uint8]:
    raw = b"".join(number.to_bytes(32, "big") for number in numbers)
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)


compacts = st.one_of(
    st.integers(0, 2**32 - 1),
    st.builds(lambda s, m: s << 24 | m, st.integers(0, 36), st.integers(0, 0x8000FF)),
    st.builds(lambda s, m: s << 24 | m, st.integers(31, 35), st.integers(0, 0x1FF)),
)


@given(st.lists(st.tuples(compacts, st.integers(-2, 2), st.integers(0, 31)), max_size=20))
def test_hashes_are_held_to_targets_in_columns_as_one_by_one(
    cases: list[tuple[int, int, int]],
) -> None:
    """Hashes are near the target, differing in any byte."""
    bits = [case[0] for case in cases]
    near = [(reference.compact(b) or 2**255) + d * 256**place for b, d, place in cases]
    hashes = [min(max(number, 0), 2**256 - 1) for number in near]
    found = are_met(np.array(bits, ">u4"), hashes_of(hashes)).tolist()
    targets = [reference.compact(b) for b in bits]
    expected = [t is not None and h <= t for h, t in zip(hashes, targets, strict=True)]
    assert found == expected


@pytest.mark.parametrize("bits", [*ZERO, *NEGATIVE, *TOO_LARGE])
def test_no_hash_meets_what_is_no_target(bits: int) -> None:
    assert are_met(np.array([bits], np.uint32), hashes_of([0])).tolist() == [False]


# ASERT


@pytest.mark.parametrize("unit", [1, 1_000_000])
@pytest.mark.parametrize("run", range(1, 7))
def test_the_published_asert_vectors_match(run: int, unit: int) -> None:
    lines = shared(f"vectors/asert/run{run:02}").read_text(encoding="utf-8").splitlines()
    said = dict(line[2:].strip().split(": ") for line in lines if line.startswith("##"))
    rows = [line.split() for line in lines if line[:1].isdigit()]
    asert = Asert(
        bits=int(said["anchor nBits"], 16),
        time=int(said["anchor parent time"]) * unit,
        interval=600 * unit,
        half_life=172_800 * unit,
        limit=0x1D00FFFF,
    )
    assert len(rows) == int(said["iterations"])
    for _, height, time, bits in rows:
        after = int(height) - int(said["anchor height"])
        timestamp = int(time) * unit
        assert asert.bits_after(after, timestamp) == int(bits, 16)
        column = asert.bits_after_each(after, np.array([timestamp], np.uint64))
        assert column.tolist() == [int(bits, 16)]


def test_a_chain_on_schedule_keeps_the_target_of_its_genesis() -> None:
    asert = Asert(0x1C123456, START - 600, 600, 6000)
    timestamps = START + 600 * np.arange(100, dtype=np.uint64)
    assert set(asert.bits_after_each(0, timestamps).tolist()) == {0x1C123456}


def test_the_target_doubles_with_every_half_life_behind_and_halves_with_every_one_before() -> None:
    asert = Asert(0x1C100000, -600, 600, 6000)
    for n in range(-8, 8):
        bits = asert.bits_after(99, 600 * 99 + 6000 * n)
        assert target_of(bits) == target_of(0x1C100000) * 2 ** (n + 8) // 2**8


def test_the_target_stays_between_1_and_the_limit() -> None:
    asert = Asert(0x1C100000, -600, 600, 6000)
    for far in (2**40, 2**63, 2**64 - 1, 2**100):
        assert asert.bits_after(0, far) == MAX_BITS
        assert asert.bits_after(far, 0) == bits_of(1)
    assert replace(asert, limit=0x1D00FFFF).bits_after(0, 2**60) == 0x1D00FFFF


interval = st.sampled_from((1_000, 1_000_000, 600_000_000, 86_400_000_000))
halflives = st.sampled_from((1, 3, 288, 100_000))
anchors = st.sampled_from(
    (MAX_BITS, 0x1D00FFFF, 0x1802AEE8, 0x01010000, 0x03000001, 0x2000FFFF, 0x2100007F, 0x1C000001)
)
drifts = st.one_of(
    st.integers(-10, 10),
    st.integers(-(2**20), 2**20),
    st.integers(-(2**40), 2**40),
    st.integers(-(2**63), 2**63),
)


@given(
    anchors,
    interval,
    halflives,
    st.sampled_from((0, START, 2**61, 2**63 - 1)),
    st.sampled_from((0, 1, 1_000, 2**40, 2**63 - 1)),
    st.lists(drifts, max_size=6),
    st.sampled_from((MAX_BITS, 0x1D00FFFF)),
)
@example(MAX_BITS, 1_000, 1, START, 0, [1, -1, 2**60], MAX_BITS)
def test_asert_in_columns_and_one_by_one_is_what_the_specification_says(
    bits: int, every: int, factor: int, first: int, start: int, drift: list[int], limit: int
) -> None:
    half_life = min(every * factor, 2**46)
    asert = Asert(bits, first - every, every, half_life, limit)
    planned = [first + every * (start + i) + drift[i] for i in range(len(drift))]
    timestamps = [min(max(time, 0), 2**64 - 1) for time in planned]
    expected = [
        reference.next_bits(bits, first, every, half_life, start + i + 1, time, limit)
        for i, time in enumerate(timestamps)
    ]
    one_by_one = [asert.bits_after(start + i, time) for i, time in enumerate(timestamps)]
    assert one_by_one == expected
    for dtype in ("<u8", ">u8"):
        column = asert.bits_after_each(start, np.array(timestamps, dtype))
        assert column.dtype == np.uint32
        assert column.tolist() == expected


# What genesis fixes


def test_terms_are_read_from_genesis() -> None:
    seal = Work(interval=5_000_000, half_life=7_000_000, final_depth=9)
    genesis = Genesis(seal=seal, limits=Limits(count=3))
    block = genesis.block(timestamp=START, salt=bytes(16), bits=0x1D00FFFF)
    assert block.header.hash == block.stored_hash
    assert (block.header.bits, block.header.nonce) == (0x1D00FFFF, 0)
    asert = Asert(0x1D00FFFF, START - 5_000_000, 5_000_000, 7_000_000)
    assert Terms.of(block) == Terms(Limits(count=3), asert, 9)
    assert asert.bits_after(0, START) == 0x1D00FFFF


def test_terms_of_an_instant_ledger_ask_for_no_work() -> None:
    block = Genesis(limits=Limits(count=3)).block(timestamp=START, salt=bytes(16))
    assert Terms.of(block) == Terms(Limits(count=3))
    assert Terms() == Terms(Limits(), None, 0)


def test_terms_of_what_is_no_genesis_are_refused() -> None:
    with pytest.raises(FormatError, match="genesis is one entry"):
        Terms.of(CHAIN[2])


@pytest.mark.parametrize("bits", [0, 0x04800000, 0x20800000, 0x2100FFFF, 0x21008000])
def test_a_genesis_whose_target_cannot_be_asked_for_is_not_made(bits: int) -> None:
    with pytest.raises(FormatError, match=f"bits {bits:08x} do not go with the seal"):
        mined_genesis(bits=bits)
    block = mined_genesis()
    asert = Terms.of(replace(block, header=replace(block.header, bits=bits))).asert
    assert asert is not None
    assert asert.bits == MAX_BITS


def test_bits_do_not_go_with_an_instant_seal() -> None:
    with pytest.raises(FormatError, match="bits 207fffff do not go with the seal"):
        Genesis().block(timestamp=0, salt=bytes(16), bits=MAX_BITS)


# Blocks of a ledger of work, by the rules


def put(block: Block, **fields: int | bytes) -> Block:
    """Return a block with other fields in its header, and the hash that goes with them."""
    header = replace(block.header, **fields)  # type: ignore[arg-type]
    return Block(header, header.hash, block.entries)


def worked(block: Block, **fields: int | bytes) -> Block:
    """Return the same with a hash that meets the target that it claims."""
    for nonce in range(10_000):
        found = put(block, **fields, nonce=nonce)
        if int(found.hash, 16) <= target_of(found.header.bits):
            return found
    raise AssertionError(block)


def judged(block: Block, before: Block | None, terms: Terms | None = TERMS) -> Failure | None:
    """Return the failure of a block, on which the reference agrees."""
    stored = Stored.of(block, block.index, before)._replace(terms=terms)
    lying = reference.Lying(
        stored.position,
        stored.header.pack(),
        stored.hash,
        list(stored.entries),
        stored.size,
        stored.previous_hash,
        stored.previous_timestamp,
    )
    found = rules.first_broken(stored)
    assert (found and found.rule) == reference.first_rule(lying, terms)
    return found


def test_mined_blocks_keep_every_rule() -> None:
    assert judged(CHAIN[0], None) is None
    for before, block in pairwise(CHAIN):
        assert judged(block, before) is None
        assert judged(block, None) is None
        assert judged(block, before, None) is None


@pytest.mark.parametrize("bits", [0x207FFFFE, 0x1F7FFFFF, 0x2000FFFF, 0x20008000])
def test_wrong_target_is_refused_though_it_is_met(bits: int) -> None:
    block = worked(CHAIN[1], bits=bits)
    failure = judged(block, CHAIN[0])
    assert failure is not None
    assert (failure.index, failure.rule) == (1, "work")
    assert (failure.expected, failure.found) == ("207fffff", f"{bits:08x}")
    assert judged(block, None) is None, "that takes the block before"


def test_hash_above_the_target_is_refused() -> None:
    for before, block in pairwise(CHAIN):
        idle = next(
            made
            for nonce in range(10_000)
            if int((made := put(block, nonce=nonce)).hash, 16) > target_of(block.header.bits)
        )
        for known in (before, None):
            for terms in (TERMS, None):
                failure = judged(idle, known, terms)
                assert failure is not None
                assert failure.rule == "work"
                assert failure.expected == f"at most {target_of(block.header.bits):064x}"
                assert failure.found == idle.hash


@pytest.mark.parametrize("bits", [0x04800000, 0x03000000, 0x22010000])
def test_bits_that_are_no_target_are_refused(bits: int) -> None:
    failure = judged(put(CHAIN[1], bits=bits), None)
    assert failure is not None
    assert (failure.rule, failure.expected, failure.found) == ("work", "a target", f"{bits:08x}")


@pytest.mark.parametrize(
    ("fields", "expected", "found"),
    [
        ({"bits": 0}, "a target of at most 207fffff", "00000000"),
        ({"bits": 0x21008000}, "a target of at most 207fffff", "21008000"),
        ({"nonce": 1}, "nonce 0000000000000000", "nonce 0000000000000001"),
    ],
)
def test_genesis_of_a_ledger_of_work_has_a_target_and_no_nonce(
    fields: dict[str, int], expected: str, found: str
) -> None:
    failure = judged(put(CHAIN[0], **fields), None)
    assert failure is not None
    assert (failure.rule, failure.expected, failure.found) == ("work", expected, found)


@pytest.mark.parametrize("kind", [Kind.VALUE, Kind.RECORD, 3])
def test_a_value_or_a_record_from_a_peer_is_refused(kind: int) -> None:
    failure = judged(worked(CHAIN[1], kind=kind), CHAIN[0])
    assert failure is not None
    assert (failure.rule, failure.expected, failure.found) == ("kind", 1, kind)


def test_a_block_without_work_is_refused_on_a_ledger_of_work() -> None:
    failure = judged(put(CHAIN[1], bits=0, nonce=0), CHAIN[0])
    assert failure is not None
    assert failure.rule == "work"


def test_a_block_that_is_shown_without_terms_is_held_to_its_own_target() -> None:
    block = worked(CHAIN[1], bits=0x2000FFFF)
    assert judged(block, CHAIN[0], None) is None
    assert judged(put(CHAIN[1], bits=0, nonce=5), CHAIN[0], None) is not None


# In bulk


def failing(start: int, named: Sequence[str | None]) -> list[tuple[int, str]]:
    return [(position, rule) for position, rule in enumerate(named, start) if rule]


def independently(start: int, blocks: Sequence[reference.Lying], terms: Terms) -> list[str | None]:
    """Return what the validator says that was written from the format alone."""
    seal = None
    bits = timestamp = 0
    if terms.asert:
        seal = {"interval": terms.asert.interval, "half_life": terms.asert.half_life}
        bits, timestamp = terms.asert.bits, terms.asert.time + terms.asert.interval
    limits = {"count": terms.limits.count, "size": terms.limits.size}
    fixed = independent.Terms(limits, seal, bits, timestamp)
    said: list[str | None] = []
    before: independent.Block | None = None
    for position, lying in enumerate(blocks, start):
        header = independent.Header(lying.header)
        block = independent.Block(lying.hash, header, lying.entries, lying.size)
        said.append(independent.broken_rule(block, position, before, fixed))
        before = block
    return said


def agrees(segment: Segment, terms: Terms = TERMS) -> list[Failure]:
    """Hold every hasher's validation to the rules, and the rules to the format, read twice."""
    row = columns(segment)
    expected = reference.broken(row, terms)
    blocks = reference.read(row)
    named = [reference.first_rule(block, terms) for block in blocks]
    assert [(f.index, f.rule) for f in expected] == failing(segment.start, named)
    assert independently(segment.start, blocks, terms) == named
    for hasher in HASHERS:
        assert validate(segment, hasher, terms, every=True).failures == tuple(expected)
        assert validate(segment, hasher, terms).failures == tuple(expected[:1])
    return expected


def test_a_mined_chain_has_no_failure_and_its_summary_has_its_work() -> None:
    assert agrees(WHOLE) == []
    bits = [block.header.bits for block in CHAIN[1:]]
    assert len(set(bits)) > 2, "the target moves"
    for hasher in HASHERS:
        summary = validate(WHOLE, hasher, TERMS)
        assert summary.work == sum(work_of(b) for b in bits)
        assert (summary.first_bits, summary.asert) == (MAX_BITS, TERMS.asert)


def test_a_harder_chain_is_valid_and_counts_more_work() -> None:
    """Not at the limit, so that targets go both ways."""
    seal = Work(interval=1_000_000, half_life=4_000_000, final_depth=1)
    blocks = mined(
        *[[i] for i in range(12)], seal=seal, bits=0x200FFFFF, times=(300_000, 1_500_000)
    )
    terms = Terms.of(blocks[0])
    segment = Segment.from_blocks(0, blocks)
    assert agrees(segment, terms) == []
    assert validate(segment, HASHERS[0], terms).work == sum(
        work_of(block.header.bits) for block in blocks[1:]
    )


@pytest.mark.parametrize("i", range(len(SHORT)))
def test_every_flipped_bit_of_every_header_is_found_and_named(i: int) -> None:
    for bit in range(104 * 8 * i, 104 * 8 * (i + 1)):
        found = agrees(flipped(SHORT, "headers", bit))
        assert found[0].index == i


def test_terms_of_a_changed_genesis_do_not_hide_the_change() -> None:
    """They are read from what is stored, whatever was done to it."""
    for bit in range(104 * 8):
        changed = flipped(SHORT, "headers", bit)
        try:
            terms = Terms.of(changed.block(0))
        except FormatError:
            terms = Terms()
        assert agrees(changed, terms)[0].index == 0


def test_flipped_bits_of_every_hash_and_of_the_data_are_found_and_named() -> None:
    for i in range(len(SHORT)):
        for bit in range(32 * 8 * i, 32 * 8 * (i + 1), 3):
            found = agrees(flipped(SHORT, "hashes", bit))
            after = [(i + 1, "link")] if i + 1 < len(SHORT) else []
            assert [(f.index, f.rule) for f in found] == [(i, "hash"), *after]
    for bit in range(0, 8 * len(SHORT.data), 5):
        assert agrees(flipped(SHORT, "data", bit))[0].rule == "data_root"


def cut_anywhere(segment: Segment, terms: Terms = TERMS) -> None:
    """Hold the sum of two parts, wherever they meet, and of single blocks to the whole."""
    for every in (False, True):

        @cache
        def part(first: int, last: int, every: bool = every) -> Summary:
            return validate(segment.cut(first, last), HASHERS[0], terms, every=every)

        n = len(segment)
        whole = part(0, n)
        for at in range(1, n):
            assert part(0, at) + part(at, n) == whole
        singles = [part(i, i + 1) for i in range(n)]
        assert reduce(add, singles) == whole
        backwards = reduce(lambda total, one: one + total, reversed(singles))
        assert backwards == whole


def test_wrong_target_is_found_wherever_the_chain_is_cut() -> None:
    cut_anywhere(WHOLE)
    for i in range(1, N):
        blocks = [*CHAIN[:i], worked(CHAIN[i], bits=0x207FFF00), *CHAIN[i + 1 :]]
        segment = Segment.from_blocks(0, blocks)
        found = [(f.index, f.rule) for f in agrees(segment)]
        assert found == [(i, "work"), *([(i + 1, "link")] if i + 1 < N else [])]
        cut_anywhere(segment)


edits = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.integers(0, 3),
        "bits": st.sampled_from((0, MAX_BITS, 0x207FFFFE, 0x1F7FFFFF, 0x04800000, 0x23000001)),
        "index": st.sampled_from((1, 2, 2**63)),
        "timestamp": st.sampled_from((0, START, START + 10**8, 2**63 - 1, 2**63, 2**64 - 1)),
        "count": st.integers(0, 2),
        "size": st.sampled_from((17, 2**32 - 1)),
        "nonce": st.integers(0, 3),
    },
)


@given(st.lists(edits, min_size=N, max_size=N), st.booleans(), st.booleans())
def test_any_consistent_edit_of_a_mined_chain_is_judged_as_the_rules_judge_it(
    changes: list[dict[str, int]], first: bool, mine: bool
) -> None:
    """Each block is rehashed and links to the one before, and some are mined to their target."""
    start = 0 if first else 2
    blocks: list[Block] = []
    for block, change in zip(CHAIN[start:], changes, strict=False):
        link = blocks[-1].stored_hash if blocks else block.header.previous_hash
        edited = put(block, **(change | {"previous_hash": link}))
        easy = is_target(edited.header.bits) and target_of(edited.header.bits) > 2**250
        blocks.append(worked(edited) if mine and easy and "nonce" not in change else edited)
    segment = Segment.from_blocks(start, blocks)
    agrees(segment)
    agrees(segment, Terms(Limits(count=1)))
    cut_anywhere(segment)


def test_what_is_erased_on_an_instant_ledger_is_refused_on_one_of_work() -> None:
    value = worked(CHAIN[1], kind=Kind.VALUE)
    segment = Segment.from_blocks(0, [CHAIN[0], value])
    zeros = segment.data.copy()
    zeros[CHAIN[0].header.size :] = 0
    erased = Segment(0, segment.headers, segment.hashes, zeros, segment.offsets)
    assert erased.erased.tolist() == [False, True]
    assert [(f.index, f.rule) for f in agrees(erased)] == [(1, "kind")]
    assert validate(erased, HASHERS[0], TERMS, every=True).erased == ()


# Headers alone


LONG = mined(*[[] for _ in range(3 * FEW_HEADERS)], times=TIMES)


def headers_of(blocks: Sequence[Block]) -> NDArray[np.uint8]:
    raw = b"".join(block.header.pack() for block in blocks)
    return np.frombuffer(raw, np.uint8).reshape(-1, 104)


def edge_of(block: Block) -> Edge:
    return Edge(block.index, block.stored_hash, block.header.timestamp)


@pytest.mark.parametrize("hasher", HASHERS, ids=["hashlib", "best"])
@pytest.mark.parametrize("n", [1, 2, FEW_HEADERS, FEW_HEADERS + 1, 2 * FEW_HEADERS])
def test_headers_that_keep_the_rules_give_their_hashes_and_work(
    n: int, hasher: HashlibHasher
) -> None:
    for first in (1, 2, 5):
        blocks = LONG[first : first + n]
        hashes, work = check_headers(headers_of(blocks), edge_of(LONG[first - 1]), TERMS, hasher)
        assert [row.tobytes() for row in hashes] == [block.stored_hash for block in blocks]
        assert work == sum(work_of(block.header.bits) for block in blocks)


def first_failure(headers: NDArray[np.uint8], before: Block, terms: Terms) -> Failure | None:
    """Return the first failure of the rules that need no data, asked one by one."""
    previous = edge_of(before)
    for i, row in enumerate(headers):
        header = Header.unpack(row.tobytes())
        stored = Stored(
            position=before.index + 1 + i,
            header=header,
            hash=header.hash,
            entries=(),
            size=0,
            previous_hash=previous.hash,
            previous_timestamp=previous.timestamp,
            terms=terms,
        )
        names = ("version", "kind", "index", "timestamp", "link", "work", "limits")
        for name in names:
            if broken := rules.RULES[rules.NUMBERS[name] - 1].check(stored):
                return rules.failure(stored.position, name, broken)
        previous = Edge(stored.position, header.hash, header.timestamp)
    return None


def headers_agree(headers: NDArray[np.uint8], before: Block, terms: Terms = TERMS) -> str | None:
    expected = first_failure(headers, before, terms)
    for hasher in HASHERS:
        found = None
        try:
            check_headers(headers, edge_of(before), terms, hasher)
        except InvalidChainError as error:
            found = error.failure
        assert found == expected
    return expected.rule if expected else None


@pytest.mark.parametrize("n", [1, 2, FEW_HEADERS + 1])
def test_every_flipped_bit_of_headers_is_refused_as_the_rules_say(n: int) -> None:
    """But for those that the data or the hash must tell: any other hash may meet the target."""
    good = headers_of(LONG[2 : 2 + n])
    for bit in range(0, 8 * good.nbytes, 1 if n < 3 else 7):
        changed = good.copy()
        changed.reshape(-1)[bit // 8] ^= np.uint8(1 << bit % 8)
        rule = headers_agree(changed, LONG[1])
        if bit // 832 < n - 1:
            assert rule is not None


@given(st.lists(edits, max_size=2 * FEW_HEADERS), st.integers(0, 3), st.booleans(), st.booleans())
def test_headers_are_refused_as_the_rules_say(
    changes: list[dict[str, int]], easy: int, linked: bool, mine: bool
) -> None:
    blocks: list[Block] = []
    for block, change in zip(LONG[2:], [{}] * easy * 4 + changes + [{}], strict=False):
        link = blocks[-1].stored_hash if blocks and linked else block.header.previous_hash
        edited = put(block, **(change | {"previous_hash": link}))
        met = is_target(edited.header.bits) and target_of(edited.header.bits) > 2**250
        blocks.append(worked(edited) if mine and met and "nonce" not in change else edited)
    headers_agree(headers_of(blocks), LONG[1])
    headers_agree(headers_of(blocks), LONG[1], Terms(Limits(count=1, size=40)))
    headers_agree(headers_of(blocks), LONG[0], replace(TERMS, limits=Limits(count=1)))


def test_headers_of_an_instant_ledger_count_no_work() -> None:
    """How many entries a block of its kind may have is asked when they are there."""
    blocks = [put(block, kind=0, bits=0, nonce=0) for block in LONG[: FEW_HEADERS + 2]]
    for i in range(1, len(blocks)):
        blocks[i] = put(blocks[i], previous_hash=blocks[i - 1].stored_hash)
    for n in (2, len(blocks)):
        _, work = check_headers(headers_of(blocks[1:n]), edge_of(blocks[0]), Terms(), HASHERS[0])
        assert work == 0


def test_headers_and_screens_agree_with_the_seal_of_the_builders() -> None:
    assert TERMS.asert == Asert(MAX_BITS, START - SEAL.interval, SEAL.interval, SEAL.half_life)
    assert TERMS.final_depth == SEAL.final_depth
