"""Validation in bulk against the rules, block by block: every bit, every split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairn.core.block import Block
from cairn.core.genesis import Limits, Terms
from cairn.core.header import Header
from cairn.core.rules import Failure
from cairn.core.segment import Segment
from cairn.core.validation import Summary, validate
from cairn.hashing.portable import HashlibHasher
from tests.core import reference
from tests.core.chains import TERMS, chain, columns, flipped, sealed, segment_of

HASHER = HashlibHasher()
SHAPE = "gv012r30"
BLOCKS = chain(SHAPE)
WHOLE = Segment.from_blocks(0, BLOCKS)
N = len(BLOCKS)


def failures(segment: Segment, *, every: bool, terms: Terms = TERMS) -> tuple[Failure, ...]:
    return validate(segment, HASHER, terms, every=every).failures


def agrees(segment: Segment, terms: Terms = TERMS) -> list[Failure]:
    """Hold validation to the rules, and the rules to the format; return all failures."""
    row = columns(segment)
    expected = reference.broken(row, terms)
    named = [
        (block.position, rule)
        for block in reference.read(row)
        if (rule := reference.first_rule(block, terms)) is not None
    ]
    assert [(failure.index, failure.rule) for failure in expected] == named
    assert failures(segment, every=True, terms=terms) == tuple(expected)
    assert failures(segment, every=False, terms=terms) == tuple(expected[:1])
    return expected


def block_of_entry(j: int) -> int:
    """Return which block of `BLOCKS` holds entry j."""
    owners = [i for i, block in enumerate(BLOCKS) for _ in block.entries]
    return owners[j]


# Good chains


def test_a_good_chain_has_no_failure_and_its_summary_says_what_it_is() -> None:
    summary = validate(WHOLE, HASHER, TERMS)
    assert summary == Summary(
        start=0,
        stop=8,
        blocks=8,
        entries=9,
        nbytes=8 * 104 + sum(block.header.size for block in BLOCKS),
        work=0,
        link=bytes(32),
        last_hash=BLOCKS[-1].stored_hash,
        first_bits=0,
        first_timestamp=BLOCKS[0].header.timestamp,
        last_timestamp=BLOCKS[-1].header.timestamp,
        asert=None,
        every=False,
        failures=(),
    )
    assert agrees(WHOLE) == []


def test_every_part_of_a_good_chain_has_no_failure() -> None:
    for first in range(N):
        for last in range(first + 1, N + 1):
            part = WHOLE.cut(first, last)
            assert agrees(part) == []
            summary = validate(part, HASHER, TERMS)
            assert (summary.start, summary.stop, summary.blocks) == (first, last, last - first)
            assert summary.link == BLOCKS[first].header.previous_hash
            assert summary.last_hash == BLOCKS[last - 1].stored_hash
            assert summary.first_timestamp == BLOCKS[first].header.timestamp
            assert summary.last_timestamp == BLOCKS[last - 1].header.timestamp


def test_validation_changes_nothing() -> None:
    before = columns(WHOLE)
    for array in (WHOLE.headers, WHOLE.hashes, WHOLE.data):
        assert not array.flags.writeable
    validate(WHOLE, HASHER, TERMS, every=True)
    assert columns(WHOLE) == before


def test_columns_need_not_lie_together() -> None:
    wide = np.zeros((N, 150), np.uint8)
    wide[:, 7:111] = WHOLE.headers
    wide[:, 111:143] = WHOLE.hashes
    doubled = np.repeat(WHOLE.data, 2)
    segment = Segment(0, wide[:, 7:111], wide[:, 111:143], doubled[::2], WHOLE.offsets)
    assert agrees(segment) == []
    assert [f.rule for f in agrees(flipped(segment, "hashes", 300))] == ["hash", "link"]


# Every bit of what is stored


def bits_of(column: str) -> range:
    return range(8 * getattr(WHOLE, column).nbytes)


@pytest.mark.parametrize("i", range(N))
def test_every_flipped_bit_of_every_header_is_a_failure_of_that_block(i: int) -> None:
    for bit in range(104 * 8 * i, 104 * 8 * (i + 1)):
        found = agrees(flipped(WHOLE, "headers", bit))
        assert found[0].index == i


@pytest.mark.parametrize("i", range(N))
def test_every_flipped_bit_of_every_stored_hash_is_a_failure_of_that_block(i: int) -> None:
    for bit in range(32 * 8 * i, 32 * 8 * (i + 1)):
        found = agrees(flipped(WHOLE, "hashes", bit))
        after = [(i + 1, "link")] if i + 1 < N else []
        assert [(f.index, f.rule) for f in found] == [(i, "hash"), *after]


@pytest.mark.parametrize("j", range(len(WHOLE.offsets) - 1))
def test_every_flipped_bit_of_every_entry_is_a_failure_of_its_block_alone(j: int) -> None:
    start, stop = WHOLE.offsets[j : j + 2].tolist()
    for bit in range(8 * start, 8 * stop):
        found = agrees(flipped(WHOLE, "data", bit))
        assert [(f.index, f.rule) for f in found] == [(block_of_entry(j), "data_root")]


@pytest.mark.parametrize("j", range(len(WHOLE.offsets)))
def test_every_flipped_bit_of_every_offset_is_a_failure_of_the_block_it_cuts(j: int) -> None:
    right = int(WHOLE.offsets[j])
    for bit in range(64 * j, 64 * (j + 1)):
        segment = flipped(WHOLE, "offsets", bit)
        found = agrees(segment)
        if min(int(segment.offsets[j]), len(WHOLE.data)) == right:
            assert found == []  # past the end counts as the end, so nothing is read otherwise
        else:
            assert found[0].index == block_of_entry(max(j - 1, 0))
            assert found[0].rule in ("size", "data_root")


def test_all_header_bits_together_break_every_rule_but_those_of_data() -> None:
    """So that the exhaustive runs above are known to reach the rules they are about."""
    rules = {agrees(flipped(WHOLE, "headers", bit))[0].rule for bit in bits_of("headers")[::29]}
    assert rules >= {"version", "kind", "count", "index", "timestamp", "link", "hash"}


def test_an_edited_header_is_one_failure_not_two() -> None:
    """The block after it still links to the stored hash."""
    found = agrees(flipped(WHOLE, "headers", 8 * (104 * 3 + 103)))  # a nonce
    assert [(f.index, f.rule) for f in found] == [(3, "hash")]


# Attacks by name


def rehashed(i: int, **fields: int | bytes) -> Segment:
    """Return the chain with fields of block i edited, and its stored hash made to agree."""
    block = BLOCKS[i]
    header = block.header.pack()
    for name, value in fields.items():
        header = reference.put(header, name, value)
    row = columns(WHOLE)
    headers = [*row.headers[:i], header, *row.headers[i + 1 :]]
    hashes = [*row.hashes[:i], reference.leaf(header), *row.hashes[i + 1 :]]
    return segment_of(row._replace(headers=headers, hashes=hashes))


def lone_edits(i: int) -> list[tuple[str, str, int | bytes]]:
    """Return rule, field and value of edits of block i that break that rule alone."""
    header = BLOCKS[i].header
    edits: list[tuple[str, str, list[int | bytes]]] = [
        ("version", "version", [0, 2, 65535]),
        ("index", "index", [i + 1, i ^ 2**31, 2**64 - 1]),
        ("timestamp", "timestamp", [2**63, 2**64 - 1]),
        ("link", "previous_hash", [b"\x01" * 32, bytes(31) + b"\x01"]),
        ("size", "size", [header.size + 1, header.size ^ 2**31]),
        ("data_root", "data_root", [bytes(32), b"\xff" * 32]),
        ("work", "bits", [1, 2**31, 2**32 - 1]),
        ("work", "nonce", [1, 2**63, 2**64 - 1]),
    ]
    if i > 0:
        before = BLOCKS[i - 1].header.timestamp
        edits += [("timestamp", "timestamp", [0, before - 1]), ("kind", "kind", [3, 4, 65535])]
    if header.count != 1:
        edits += [("count", "kind", [0, 2])]
    return [(rule, field, value) for rule, field, values in edits for value in values]


@pytest.mark.parametrize("i", range(N))
def test_each_rule_broken_alone_is_found_in_bulk(i: int) -> None:
    """No other rule is broken in block i, so that nothing else can make up for a lost check."""
    for rule, field, value in lone_edits(i):
        found = agrees(rehashed(i, **{field: value}))
        assert (found[0].index, found[0].rule) == (i, rule)
        assert all(f.index == i + 1 and f.rule in ("link", "timestamp") for f in found[1:])


@pytest.mark.parametrize("kind", [0, 1, 3])
def test_a_genesis_that_is_no_record_is_found_in_bulk(kind: int) -> None:
    found = agrees(rehashed(0, kind=kind))
    assert [(f.index, f.rule) for f in found] == [(0, "kind"), (1, "link")]


@pytest.mark.parametrize("i", range(N - 1))
def test_editing_a_block_and_its_hash_breaks_the_link_after_it(i: int) -> None:
    timestamp = BLOCKS[i].header.timestamp
    found = agrees(rehashed(i, data_root=b"\x07" * 32, timestamp=timestamp))
    assert [(f.index, f.rule) for f in found] == [(i, "data_root"), (i + 1, "link")]


def test_dating_a_block_before_its_neighbour_is_found() -> None:
    for i in range(1, N - 1):
        before = BLOCKS[i - 1].header.timestamp
        assert agrees(rehashed(i, timestamp=before - 1))[0].rule == "timestamp"
        if before != BLOCKS[i].header.timestamp:
            assert [f.rule for f in agrees(rehashed(i, timestamp=before))] == ["link"]
        after = agrees(rehashed(i, timestamp=2**63 - 1))
        assert [(f.index, f.rule) for f in after] == [(i + 1, "timestamp")]


def test_dating_a_block_past_2_to_the_63_is_found() -> None:
    for i in range(N):
        for timestamp in (2**63, 2**64 - 1):
            found = agrees(rehashed(i, timestamp=timestamp))
            assert (found[0].index, found[0].rule) == (i, "timestamp")
        assert (N - 1, "timestamp") not in [
            (f.index, f.rule) for f in agrees(rehashed(N - 1, timestamp=2**63 - 1))
        ]


def test_blocks_taken_out_put_in_or_swapped_are_found_at_their_place() -> None:
    for i in range(1, N):
        without = Segment.from_blocks(0, BLOCKS[:i] + BLOCKS[i + 1 :])
        doubled = Segment.from_blocks(0, BLOCKS[: i + 1] + BLOCKS[i:])
        if i + 1 < N:
            found = agrees(without)
            assert (found[0].index, found[0].rule) == (i, "index")
            order = [*BLOCKS[:i], BLOCKS[i + 1], BLOCKS[i], *BLOCKS[i + 2 :]]
            found = agrees(Segment.from_blocks(0, order))
            assert (found[0].index, found[0].rule) == (i, "index")
        found = agrees(doubled)
        assert (found[0].index, found[0].rule) == (i + 1, "index")


def test_a_genesis_that_cannot_be_read_is_found_though_all_hashes_agree() -> None:
    entry = bytes(16) + b'{"format":1}'
    block = sealed(2, [entry], index=0, previous_hash=bytes(32), timestamp=0)
    rest = chain("vv", start=1, previous_hash=block.stored_hash)
    found = agrees(Segment.from_blocks(0, [block, *rest]))
    assert [(f.index, f.rule) for f in found] == [(0, "genesis")]


def test_a_genesis_that_follows_something_is_found_though_all_hashes_agree() -> None:
    blocks = chain("gv", previous_hash=b"\x01" * 32)
    found = agrees(Segment.from_blocks(0, blocks))
    assert [(f.index, f.rule) for f in found] == [(0, "link")]


def test_a_chain_that_is_made_anew_from_some_block_on_is_not_found() -> None:
    """What hashes alone cannot tell: that takes a head that somebody else remembers."""
    anew = [*BLOCKS[:3], *chain("vvv", start=3, previous_hash=BLOCKS[2].stored_hash)]
    anew = [replace(block) for block in anew]
    assert agrees(Segment.from_blocks(0, anew)) == []


@pytest.mark.parametrize("limits", [Limits(count=2), Limits(size=50), Limits(count=1, size=40)])
def test_blocks_past_the_limits_are_found_exactly(limits: Limits) -> None:
    terms = Terms(limits)
    found = agrees(WHOLE, terms)
    past = [
        i
        for i, block in enumerate(BLOCKS)
        if block.header.count > terms.limits.count or block.header.size > terms.limits.size
    ]
    assert past
    assert [(f.index, f.rule) for f in found] == [(i, "limits") for i in past]


def test_blocks_at_the_limits_are_kept() -> None:
    most = max(block.header.size for block in BLOCKS)
    assert agrees(WHOLE, Terms(Limits(count=3, size=most))) == []
    assert [f.index for f in agrees(WHOLE, Terms(Limits(count=3, size=most - 1)))] == [0]
    assert [f.index for f in agrees(WHOLE, Terms(Limits(count=2, size=most)))] == [6]


# Rules on columns, field by field, with hashes that agree


edge_fields = st.fixed_dictionaries(
    {},
    optional={
        "version": st.sampled_from((0, 1, 2)),
        "kind": st.integers(0, 3),
        "count": st.integers(0, 4),
        "index": st.sampled_from((0, 1, 2, 2**63, 2**64 - 1)),
        "timestamp": st.sampled_from((0, 1_526_995_403_022_216, 2**63 - 1, 2**63, 2**64 - 1)),
        "size": st.sampled_from((0, 17, 18, 2**32 - 1)),
        "bits": st.sampled_from((0, 1)),
        "nonce": st.sampled_from((0, 1)),
    },
)


@given(
    st.text("vr0123", max_size=4),
    st.booleans(),
    st.lists(edge_fields, min_size=5, max_size=5),
    st.sampled_from((TERMS, Terms(Limits(count=2)), Terms(Limits(size=40)))),
)
def test_any_consistent_edit_is_judged_as_the_rules_judge_it(
    shape: str, first: bool, edits: list[dict[str, int]], terms: Terms
) -> None:
    """Each block is rehashed and links to the one before, so that later rules are reached too."""
    start = 0 if first else 3
    blocks: list[Block] = []
    made = chain(("g" if first else "v") + shape, start=start)
    for block, edit in zip(made, edits, strict=False):
        header = block.header.pack()
        if blocks:
            header = reference.put(header, "previous_hash", blocks[-1].stored_hash)
        for name, value in edit.items():
            header = reference.put(header, name, value)
        stored_hash = reference.leaf(header)
        blocks.append(replace(block, header=Header.unpack(header), stored_hash=stored_hash))
    agrees(Segment.from_blocks(start, blocks), terms)


# Summaries add up


def splits(n: int) -> Iterator[list[tuple[int, int]]]:
    """Yield every way to cut `range(n)` into pieces."""
    for pattern in range(2 ** (n - 1)):
        places = [0, *(i for i in range(1, n) if pattern >> (i - 1) & 1), n]
        yield list(pairwise(places))


def folds(summaries: Sequence[Summary]) -> Iterator[Summary]:
    """Yield the sum of all, from the left, from the right, and in pairs."""
    yield reduce(add, summaries)
    yield reduce(lambda total, summary: summary + total, reversed(summaries))
    level = list(summaries)
    while len(level) > 1:
        level = [
            add(*level[i : i + 2]) if level[i + 1 :] else level[i] for i in range(0, len(level), 2)
        ]
    yield level[0]


def assert_splits_do_not_matter(segment: Segment, terms: Terms, *, every: bool) -> None:
    @cache
    def part(first: int, last: int) -> Summary:
        return validate(segment.cut(first, last), HASHER, terms, every=every)

    whole = validate(segment, HASHER, terms, every=every)
    for places in splits(len(segment)):
        for total in folds([part(first, last) for first, last in places]):
            assert total == whole


shapes = st.text("vr0123", max_size=4)
faults = st.lists(
    st.tuples(st.sampled_from(("headers", "hashes", "data")), st.integers(0, 2**20)), max_size=3
)


def with_faults(segment: Segment, places: list[tuple[str, int]]) -> Segment:
    for column, place in places:
        if nbytes := getattr(segment, column).nbytes:
            segment = flipped(segment, column, place % (8 * nbytes))
    return segment


@given(shapes, st.booleans(), faults, st.booleans())
@example("vvvv", True, [], False)
def test_however_a_chain_is_split_its_parts_add_up_to_the_whole(
    shape: str, first: bool, places: list[tuple[str, int]], every: bool
) -> None:
    start = 0 if first else 3
    blocks = chain(("g" if first else "v") + shape, start=start)
    segment = with_faults(Segment.from_blocks(start, blocks), places)
    assert_splits_do_not_matter(segment, TERMS, every=every)


@given(shapes, st.lists(edge_fields, min_size=5, max_size=5), st.booleans())
def test_parts_of_consistently_edited_chains_add_up_to_the_whole(
    shape: str, edits: list[dict[str, int]], every: bool
) -> None:
    """Timestamps and links go wrong just where the parts meet."""
    row = columns(Segment.from_blocks(0, chain("g" + shape)))
    headers, hashes = list(row.headers), list(row.hashes)
    for i, edit in zip(range(len(headers)), edits, strict=False):
        for name, value in edit.items():
            headers[i] = reference.put(headers[i], name, value)
        hashes[i] = reference.leaf(headers[i])
    segment = segment_of(row._replace(headers=headers, hashes=hashes))
    assert_splits_do_not_matter(segment, Terms(Limits(count=2)), every=every)


@pytest.mark.parametrize("every", [False, True])
def test_every_flipped_bit_of_a_link_or_timestamp_is_the_same_failure_across_a_split(
    every: bool,
) -> None:
    segment = Segment.from_blocks(0, chain("gv2"))
    for i in range(3):
        for bit in [*range(128, 384, 5), *range(384, 448)]:
            changed = flipped(segment, "headers", 8 * 104 * i + bit)
            assert_splits_do_not_matter(changed, TERMS, every=every)


@given(shapes, st.integers(0, 2**20), st.booleans())
@example("vv", 64 * 2 + 5, True)
def test_parts_of_a_chain_with_a_damaged_offset_fail_where_the_whole_does(
    shape: str, place: int, every: bool
) -> None:
    blocks = chain("g" + shape)
    segment = with_faults(Segment.from_blocks(0, blocks), [("offsets", place)])
    assert_splits_do_not_matter(segment, TERMS, every=every)


def test_whether_a_chain_is_valid_does_not_depend_on_which_rows_are_read_together() -> None:
    """An offset past the end of its row must not reach into the row after it."""
    stored = bytes(40)
    after = sealed(0, [bytes(range(50))], index=2, previous_hash=bytes(32), timestamp=0)
    reaching = stored + after.entries[0].to_bytes()[:20]
    batch = sealed(1, [reaching, b""], index=1, previous_hash=bytes(32), timestamp=0, size=40)
    after = sealed(0, [bytes(range(50))], index=2, previous_hash=batch.stored_hash, timestamp=0)
    header, stored_hash = batch.header.pack(), batch.stored_hash
    rows = [
        segment_of(reference.Columns(1, [header], [stored_hash], stored, [0, 60, 40])),
        Segment.from_blocks(2, [after]),
    ]
    apart = reduce(add, (validate(row, HASHER, TERMS, every=True) for row in rows))
    assert [(f.index, f.rule) for f in apart.failures] == [(1, "data_root")]
    if all(row.is_regular for row in rows):
        assert failures(Segment.join(rows), every=True) == apart.failures


def gap_summaries(*parts: tuple[int, int, int]) -> list[Summary]:
    """Return the summaries of `BLOCKS[first:last]`, each claiming to begin at some position."""
    return [
        validate(Segment.from_blocks(start, BLOCKS[first:last]), HASHER, TERMS, every=True)
        for start, first, last in parts
    ]


def test_a_missing_segment_is_a_failure_of_rule_index_at_the_first_missing_block() -> None:
    for stop in range(1, N - 1):
        for start in range(stop + 1, N):
            a, b = gap_summaries((0, 0, stop), (start, start, N))
            [failure] = (a + b).failures
            assert (failure.index, failure.rule) == (stop, "index")
            assert (failure.expected, failure.found) == (stop, start)
            assert (a + b).stop == N


def test_an_overlapping_segment_is_a_failure_of_rule_index_where_it_should_begin() -> None:
    for stop in range(1, N):
        for start in range(1, stop):
            a, b = gap_summaries((0, 0, stop), (start, start, N))
            [failure] = (a + b).failures
            assert (failure.index, failure.rule) == (stop, "index")
            assert (failure.expected, failure.found) == (stop, start)


def test_segments_in_the_wrong_order_are_failures_of_rule_index() -> None:
    a, b, c = gap_summaries((0, 0, 3), (3, 3, 6), (6, 6, N))
    assert [(f.index, f.rule) for f in (a + c + b).failures] == [(3, "index"), (N, "index")]


def test_blocks_after_a_gap_are_still_judged() -> None:
    broken = flipped(WHOLE.cut(5, N), "hashes", 0)
    a = validate(WHOLE.cut(0, 3), HASHER, TERMS, every=True)
    b = validate(broken, HASHER, TERMS, every=True)
    found = [(f.index, f.rule) for f in (a + b).failures]
    assert found == [(3, "index"), (5, "hash"), (6, "link")]


def test_where_two_parts_meet_the_lower_rule_is_the_failure() -> None:
    bits = {"timestamp": 8 * 48, "link": 8 * 16, "version": 0}
    for name, bit in bits.items():
        second = flipped(WHOLE.cut(4, N), "headers", bit)
        if name == "timestamp":  # below the one before, and the hash is wrong as well
            second = segment_of(
                (row := columns(WHOLE.cut(4, N)))._replace(
                    headers=[reference.put(row.headers[0], "timestamp", 1), *row.headers[1:]]
                )
            )
        a = validate(WHOLE.cut(0, 4), HASHER, TERMS)
        b = validate(second, HASHER, TERMS)
        assert [(f.index, f.rule) for f in (a + b).failures] == [(4, name)]


def test_a_sum_keeps_only_the_first_failure_unless_every_one_is_asked_for() -> None:
    changed = flipped(flipped(WHOLE, "hashes", 8 * 32 * 2), "data", 8)
    expected = [(0, "data_root"), (2, "hash"), (3, "link")]
    for every in (False, True):
        a, b = (validate(changed.cut(*c), HASHER, TERMS, every=every) for c in ((0, 3), (3, N)))
        found = [(f.index, f.rule) for f in (a + b).failures]
        assert found == (expected if every else expected[:1])


pieces = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, N - 1), st.integers(1, 3)), min_size=3, max_size=4
)


@given(pieces, faults, st.booleans())
@example([(0, 0, 1), (3, 3, 1), (1, 7, 1)], [], True)
def test_adding_is_associative_whatever_the_parts(
    parts: list[tuple[int, int, int]], places: list[tuple[str, int]], every: bool
) -> None:
    """Gaps, overlaps and blocks out of place included: any order of combining says the same."""
    changed = with_faults(WHOLE, places)
    blocks = list(changed.blocks())
    summaries = [
        validate(Segment.from_blocks(start, blocks[first : first + n]), HASHER, TERMS, every=every)
        for start, first, n in parts
    ]
    totals = list(folds(summaries))
    assert totals == totals[:1] * len(totals)
