"""Erased blocks: what counts as one, what its record says, and that nothing else is excused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairn.core import rules
from cairn.core.block import ERASED_BYTES, Block
from cairn.core.canonical import canonical
from cairn.core.entry import Entry
from cairn.core.erasure import Erasure
from cairn.core.errors import FormatError
from cairn.core.hasher import Hasher
from cairn.core.header import Header
from cairn.core.rules import Failure
from cairn.core.segment import Segment
from cairn.core.validation import Summary, erasures, screen, validate
from cairn.hashing import best_hasher
from cairn.hashing.portable import HashlibHasher
from tests.core import reference
from tests.core.chains import TERMS, chain, columns, flipped, sealed

HASHERS = [HashlibHasher(), best_hasher()]
SHAPE = "gvvr0v2v"
ERASED = (1, 2, 7)
"""Of these, the last two stand at the end of a part and of the chain."""
ID = bytes(range(32))
RECORD = Erasure(5, ID, "asked for by the person it is of")


def zeroed(block: Block) -> Block:
    return replace(block, entries=tuple(Entry(bytes(16), bytes(len(e[1]))) for e in block.entries))


def erased(shape: str, *positions: int) -> list[Block]:
    return [zeroed(b) if i in positions else b for i, b in enumerate(chain(shape))]


WHOLE = Segment.from_blocks(0, erased(SHAPE, *ERASED))


def found(segment: Segment, hasher: Hasher = HASHERS[0], *, every: bool = True) -> Summary:
    return validate(segment, hasher, TERMS, every=every)


def named(blocks: Sequence[Block], *positions: int) -> tuple[tuple[int, bytes], ...]:
    return tuple((i, blocks[i].header.data_root) for i in positions)


# What is erased


@pytest.mark.parametrize(
    ("kind", "entries", "fields", "is_erased"),
    [
        (0, [bytes(17)], {}, True),
        (0, [bytes(1000)], {}, True),
        (0, [bytes(16)], {}, False),
        (0, [b""], {}, False),
        (0, [bytes(16) + b"0"], {}, False),
        (0, [b"\x01" + bytes(16)], {}, False),
        (0, [bytes(16) + b"\x80"], {}, False),
        (0, [bytes(500) + b"\x01" + bytes(500)], {}, False),
        (0, [bytes(17), bytes(17)], {"count": 1}, False),
        (0, [bytes(17)], {"count": 2}, False),
        (1, [bytes(17)], {}, False),
        (2, [bytes(17)], {}, False),
        (3, [bytes(17)], {}, False),
    ],
)
def test_what_is_erased(kind: int, entries: Any, fields: Any, is_erased: bool) -> None:
    values = {"data_root": ID, **fields}
    block = sealed(kind, entries, index=3, previous_hash=ID, timestamp=1, **values)
    assert block.erased == is_erased
    assert Segment.from_blocks(3, [block]).erased.tolist() == [is_erased]


entry_bytes = st.one_of(
    st.integers(0, 40).map(bytes),
    st.builds(
        lambda n, at: bytes(n)[:at] + b"\x01" + bytes(n)[at:],
        st.integers(0, 40),
        st.integers(0, 40),
    ),
    st.binary(max_size=40),
)


@given(
    st.lists(
        st.tuples(st.sampled_from((0, 0, 0, 1, 2)), st.lists(entry_bytes, max_size=2)), min_size=1
    ),
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 60)), max_size=2),
)
def test_columns_and_blocks_agree_on_what_is_erased(
    shape: list[tuple[int, list[bytes]]], moved: list[tuple[int, int]]
) -> None:
    """Also where offsets are damaged."""
    blocks = [
        sealed(kind, entries, index=i, previous_hash=ID, timestamp=1)
        for i, (kind, entries) in enumerate(shape)
    ]
    segment = Segment.from_blocks(0, blocks)
    offsets = segment.offsets.copy()
    for at, value in moved:
        offsets[at % len(offsets)] = value
    segment = replace(segment, offsets=offsets)
    assert segment.erased.tolist() == [block.erased for block in segment.blocks()]


# What its record says


def test_a_record_reads_back() -> None:
    text = canonical(RECORD.to_value())
    assert text == (
        b'{"id":"%s","index":5,"reason":"asked for by the person it is of","record":"erasure"}'
        % ID.hex().encode()
    )
    assert Erasure.of(text) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"index": "5"},
        {"index": 5.5},
        {"index": True},
        {"index": None},
        {"id": ID.hex().upper()},
        {"id": ID.hex()[:-2]},
        {"id": ID.hex() + "00"},
        {"id": " " + ID.hex()[1:]},
        {"id": 7},
        {"reason": None},
        {"reason": {}},
        {"record": "erasures"},
        {"record": "key"},
        {"more": 1},
    ],
)
def test_a_record_that_is_not_exact_names_nothing(change: dict[str, object]) -> None:
    assert Erasure.of(canonical(RECORD.to_value() | change)) is None


def test_a_record_that_is_not_canonical_names_nothing() -> None:
    text = canonical(RECORD.to_value())
    others = [text + b" ", text.replace(b":5", b":5.0"), text.replace(b'"index"', b'"inde\\u0078"')]
    others += [json.dumps(RECORD.to_value()).encode(), text[:-1], b"", b"\xff" + text]
    others += [text.replace(b'"reason"', b'"id":"0","reason"'), text.replace(b"asked", b"\xff")]
    assert [Erasure.of(other) for other in others] == [None] * len(others)


def record_of(text: bytes, kind: int = 2, index: int = 9) -> Segment:
    block = sealed(kind, [bytes(16) + text], index=index, previous_hash=ID, timestamp=1)
    return Segment.from_blocks(index, [block])


def test_only_a_record_after_the_block_names_it() -> None:
    text = canonical(RECORD.to_value())
    assert list(erasures(record_of(text))) == [(5, ID)]
    assert list(erasures(record_of(text, index=6))) == [(5, ID)]
    for other in (record_of(text, index=5), record_of(text, index=4), record_of(text, index=0)):
        assert list(erasures(other)) == []
    assert list(erasures(record_of(text, kind=0))) == []
    assert list(erasures(record_of(text, kind=1))) == []
    assert list(erasures(record_of(b"{}"))) == []
    two = sealed(2, [bytes(16) + text] * 2, index=9, previous_hash=ID, timestamp=1)
    assert list(erasures(Segment.from_blocks(9, [two]))) == []


# Validation


@pytest.mark.parametrize("hasher", HASHERS, ids=lambda hasher: hasher.name)
def test_erased_blocks_break_no_rule_of_one_block_and_are_named(hasher: Hasher) -> None:
    summary = found(WHOLE, hasher)
    assert summary.failures == ()
    assert summary.erased == named(chain(SHAPE), *ERASED)


@pytest.mark.parametrize("hasher", HASHERS, ids=lambda hasher: hasher.name)
def test_an_erased_block_lacks_a_record_unless_one_names_its_place_and_id(hasher: Hasher) -> None:
    summary = found(WHOLE, hasher)
    first, second, third = summary.erased
    assert list(summary.unrecorded({first, second, third, (3, ID)})) == []
    (failure,) = summary.unrecorded({first, (second[0], ID), (4, second[1]), third})
    assert failure == Failure(
        index=2,
        rule="erasure",
        expected="a record of its erasure",
        found="none",
        message=(
            "block 2 breaks rule 'erasure': the entry was removed without a record "
            "(expected a record of its erasure, found none)"
        ),
    )
    assert [f.index for f in summary.unrecorded(set())] == list(ERASED)


@pytest.mark.parametrize("column", ["headers", "hashes", "data"])
def test_each_flipped_bit_of_erased_blocks_is_named_as_the_format_says(column: str) -> None:
    whole = Segment.from_blocks(0, erased("gvv", 1))
    for bit in range(getattr(whole, column).nbytes * 8):
        changed = flipped(whole, column, bit)
        row = columns(changed)
        expected = [
            (block.position, rule)
            for block in reference.read(row)
            if (rule := reference.first_rule(block, TERMS)) is not None
        ]
        assert expected
        failures = found(changed, HASHERS[bit % 2]).failures
        assert [(f.index, f.rule) for f in failures] == expected
        assert found(changed, HASHERS[bit % 2 - 1], every=False).failures == failures[:1]


def test_an_erased_block_is_excused_from_its_data_root_only() -> None:
    blocks = erased("gvvv", 2)
    for change in ("version", "bits", "nonce", "index", "timestamp", "size"):
        header = replace(blocks[2].header, **{change: 7})  # type: ignore[arg-type]
        bad = [*blocks[:2], Block(header, header.hash, blocks[2].entries), blocks[3]]
        for hasher in HASHERS:
            failures = found(Segment.from_blocks(0, bad), hasher).failures
            assert failures[0].index == 2
            assert failures[0].rule == {"bits": "work", "nonce": "work"}.get(change, change)


def test_zeros_that_were_recorded_as_such_lack_no_record() -> None:
    """No one can record that, but whoever makes a chain anew: and there was never a value."""
    blocks = chain("gv")
    block = sealed(0, [bytes(20)], index=2, previous_hash=blocks[1].stored_hash, timestamp=2**60)
    for hasher in HASHERS:
        summary = found(Segment.from_blocks(0, [*blocks, block]), hasher)
        assert (summary.failures, summary.erased) == ((), ())
    assert block.erased
    assert block.data == {"erased": reference.leaf(bytes(20)).hex()}


def test_genesis_cannot_be_erased() -> None:
    genesis, following = chain("gv")
    header = Header.unpack(reference.put(genesis.header.pack(), "kind", 0))
    for block in (zeroed(genesis), Block(header, header.hash, zeroed(genesis).entries)):
        for hasher in HASHERS:
            summary = found(Segment.from_blocks(0, [block, following]), hasher)
            assert summary.failures[0].index == 0
            assert summary.failures[0].rule in ("kind", "data_root")


def test_an_entry_that_is_erased_while_it_is_read_is_erased() -> None:
    """A file that is mapped changes while it is read: it is seen half erased first."""
    blocks = chain("gvvv")
    whole = Segment.from_blocks(0, blocks)
    data = whole.data.copy()
    start, stop = whole.entry_bytes(2)
    data[start : stop - 1] = 0
    live = replace(whole, data=data)

    class Slow(HashlibHasher):
        def screen(self, segment: Segment, terms: Any) -> Any:
            bad = screen(segment, self, terms)
            assert not segment.erased.any()  # and it is remembered
            data[start:stop] = 0
            return bad

    summary = validate(live, Slow(), TERMS, every=True)
    assert (summary.failures, summary.erased) == ((), named(blocks, 2))


@given(
    st.text("vr02", min_size=2, max_size=8),
    st.sets(st.integers(1, 8)),
    st.lists(st.integers(1, 8), max_size=3),
    st.lists(st.integers(0, 2**16), max_size=1),
    st.booleans(),
)
@example("vvvv", {1, 2, 3, 4}, [2, 3], [], True)
def test_any_split_finds_the_same_erased_blocks(
    shape: str, positions: set[int], cuts: list[int], places: list[int], every: bool
) -> None:
    """And adding is associative: however the parts are combined, the sum is the same."""
    values = [i for i in positions if shape[i - 1 : i] == "v"]
    whole = Segment.from_blocks(0, erased("g" + shape, *values))
    for bit in places:
        whole = flipped(whole, "data", bit % (8 * len(whole.data)))
    bounds = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    parts = [found(whole.cut(a, b), every=every) for a, b in pairwise(bounds)]
    left = parts[0]
    for part in parts[1:]:
        left = left + part
    right = parts[-1]
    for part in reversed(parts[:-1]):
        right = part + right
    assert left == right == found(whole, every=every)


def test_many_erased_blocks_are_seen_to_as_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Segment.from_blocks(0, erased("g" + "v" * 300, *range(1, 301)))
    asked: list[int] = []
    monkeypatch.setattr(rules, "first_broken", lambda stored: asked.append(stored.position))
    for hasher in HASHERS:
        assert len(found(whole, hasher).erased) == 300
    assert asked == [0, 0]


# Views


def test_the_view_of_an_erased_block_says_its_id_and_reads_back() -> None:
    blocks = chain("gvv")
    block = zeroed(blocks[1])
    view = json.loads(block.to_json())
    assert view == json.loads(blocks[1].to_json()) | {
        "data": {"erased": blocks[1].header.data_root.hex()},
        "salt": None,
    }
    assert block.data == view["data"] == json.loads(block.data_json())
    assert "0000000000000000" not in block.to_json().split('"nonce"')[0]
    assert Block.from_view(view) == block
    assert Block.from_view(view).erased


def test_a_value_that_looks_like_an_erased_one_is_told_from_it() -> None:
    root = "ab" * 32
    entry = bytes(range(16)) + canonical({"erased": root})
    block = sealed(0, [entry], index=1, previous_hash=ID, timestamp=1)
    view = json.loads(block.to_json())
    assert (view["data"], view["salt"]) == ({"erased": root}, bytes(range(16)).hex())
    assert not block.erased
    assert Block.from_view(view) == block
    with pytest.raises(FormatError, match="salt is null where the entry is erased"):
        Block.from_view(view | {"salt": None})


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"erased": None},
        {"erased": "00" * 32},
        {"erased": ID.hex().upper()},
        {"erased": ID.hex(), "more": 1},
        [{"erased": ID.hex()}],
        ID.hex(),
    ],
)
def test_an_erased_view_that_disagrees_with_its_header_is_refused(data: object) -> None:
    block = sealed(0, [bytes(20)], index=1, previous_hash=ID, timestamp=1, data_root=ID)
    view = json.loads(block.to_json())
    assert Block.from_view(view) == block
    with pytest.raises(FormatError, match="data says its id"):
        Block.from_view(view | {"data": data})


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_only_a_value_can_have_no_salt(kind: int) -> None:
    block = sealed(0, [bytes(20)], index=1, previous_hash=ID, timestamp=1, data_root=ID)
    view = json.loads(block.to_json())
    other = replace(block.header, kind=kind)
    view |= {"header": other.pack().hex(), "kind": str(kind)}
    with pytest.raises(FormatError):
        Block.from_view(view)


@pytest.mark.parametrize("size", [0, 16, ERASED_BYTES + 1, 2**32 - 1])
def test_a_view_cannot_ask_for_more_zeros_than_a_reader_takes(size: int) -> None:
    block = sealed(0, [bytes(20)], index=1, previous_hash=ID, timestamp=1, data_root=ID, size=size)
    view = json.loads(block.to_json()) | {"data": {"erased": ID.hex()}, "salt": None}
    with pytest.raises(FormatError, match=r"an erased entry of|salt is null where"):
        Block.from_view(view)


def test_a_reader_says_how_many_zeros_it_takes() -> None:
    block = sealed(0, [bytes(20)], index=1, previous_hash=ID, timestamp=1, data_root=ID)
    view = json.loads(block.to_json())
    assert Block.from_view(view, erased_bytes=20) == block
    with pytest.raises(FormatError, match="an erased entry of 20 bytes; at most 19 are read"):
        Block.from_view(view, erased_bytes=19)


def test_no_column_is_looked_at_for_erased_blocks_where_none_is_bad(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Segment, "erased", property(lambda _: pytest.fail("looked for")))
    for hasher in HASHERS:
        assert found(Segment.from_blocks(0, chain(SHAPE)), hasher).failures == ()


def test_a_segment_s_entry_is_where_it_says() -> None:
    for i, block in enumerate(WHOLE.blocks()):
        if block.entries:
            start, stop = WHOLE.entry_bytes(i)
            assert WHOLE.data[start:stop].tobytes() == b"".join(e.to_bytes() for e in block.entries)
    assert np.array_equal(WHOLE.erased, [i in ERASED for i in range(len(WHOLE))])
