"""Each rule, broken alone and kept at its limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.core import rules
from cairn.core.genesis import Limits, Terms
from cairn.core.header import Header
from cairn.core.rules import NUMBERS, RULES, Broken, Failure, Stored
from tests.builders import chain
from tests.core import reference
from tests.core.chains import GENESIS, TERMS, VALUES, sealed

ORDER = [
    *("version", "kind", "count", "index", "timestamp", "link"),
    *("hash", "size", "data_root", "work", "genesis", "limits"),
]
SALT = bytes(range(16))
ENTRY = SALT + b"1"
LINK = b"\x11" * 32
BEFORE = 1000
"""Timestamp of the block before, µs."""


def stored(
    kind: int = 0,
    entries: tuple[bytes, ...] = (ENTRY,),
    *,
    position: int = 5,
    terms: Terms = TERMS,
    stored_hash: bytes | None = None,
    **fields: Any,
) -> Stored:
    """Return a block that keeps every rule but for what `fields` of its header say."""
    fields = {"index": position, "timestamp": BEFORE} | fields
    previous_hash = fields.pop("previous_hash", LINK if position else bytes(32))
    block = sealed(kind, entries, previous_hash=previous_hash, stored_hash=stored_hash, **fields)
    return Stored(
        position=position,
        header=block.header,
        hash=block.stored_hash,
        entries=entries,
        size=sum(len(entry) for entry in entries),
        previous_hash=LINK if position else None,
        previous_timestamp=BEFORE if position else None,
        terms=terms,
    )


def genesis_stored(text: bytes = GENESIS, **fields: Any) -> Stored:
    kind = fields.pop("kind", 2)
    return stored(kind, (SALT + text,), position=0, **fields)


def broken_rules(block: Stored) -> list[str]:
    return [rule.name for rule in RULES if rule.check(block) is not None]


def only(rule: str, block: Stored) -> Broken:
    """Return what `rule` says of `block`, which breaks no other."""
    assert broken_rules(block) == [rule]
    broken = RULES[NUMBERS[rule] - 1].check(block)
    assert broken is not None
    found = rules.first_broken(block)
    assert found == rules.failure(block.position, rule, broken)
    lying = reference.Lying(
        block.position,
        block.header.pack(),
        block.hash,
        list(block.entries),
        block.size,
        block.previous_hash,
        block.previous_timestamp,
    )
    assert reference.first_rule(lying, block.terms) == rule
    return broken


def kept(block: Stored) -> None:
    assert broken_rules(block) == []
    assert rules.first_broken(block) is None


# The list


def test_rules_have_the_names_numbers_and_order_of_the_format() -> None:
    assert [rule.name for rule in RULES] == ORDER
    assert {name: i for i, name in enumerate([*ORDER, "erasure"], start=1)} == NUMBERS


def test_good_blocks_of_every_kind_keep_every_rule() -> None:
    kept(genesis_stored())
    for kind in (0, 1, 2):
        kept(stored(kind))
    for count in (0, 2, 3, 7):
        kept(stored(1, tuple(bytes([i]) * 16 + b"1" for i in range(count))))


# Each rule, broken alone


@pytest.mark.parametrize("version", [0, 2, 256, 65535])
def test_version_that_is_not_1_breaks_rule_version(version: int) -> None:
    for block in (stored(version=version), genesis_stored(version=version)):
        assert only("version", block) == (1, version, "the format version is not known")


@pytest.mark.parametrize("kind", [3, 4, 256, 65535])
def test_kind_that_is_unknown_breaks_rule_kind(kind: int) -> None:
    assert only("kind", stored(kind)) == ("0, 1 or 2", kind, "the kind is not known")


@pytest.mark.parametrize("kind", [0, 1, 3, 65535])
def test_genesis_that_is_no_record_breaks_rule_kind(kind: int) -> None:
    assert only("kind", genesis_stored(kind=kind)) == (2, kind, "genesis is a record")


@pytest.mark.parametrize("kind", [0, 2])
@pytest.mark.parametrize("count", [0, 2, 3])
def test_value_or_record_without_exactly_one_entry_breaks_rule_count(kind: int, count: int) -> None:
    block = stored(kind, tuple(bytes([i]) * 16 + b"1" for i in range(count)))
    assert only("count", block) == (1, count, "a value or record has one entry")


@pytest.mark.parametrize(("kind", "count"), [(0, 1), (2, 1), (1, 0), (1, 1), (1, 3)])
def test_count_that_is_not_that_of_the_entries_stored_breaks_rule_count(
    kind: int, count: int
) -> None:
    for found in {0, 1, 2, 3, 4} - {count}:
        block = stored(kind, (ENTRY,) * found, count=count)
        meaning = "the count is not the number of entries stored"
        assert only("count", block) == (found, count, meaning)


@pytest.mark.parametrize("index", [0, 4, 6, 2**63, 2**64 - 1])
def test_index_that_is_not_the_position_breaks_rule_index(index: int) -> None:
    meaning = "a block is missing, added or out of place"
    assert only("index", stored(index=index)) == (5, index, meaning)
    if index:
        assert only("index", genesis_stored(index=index)) == (0, index, meaning)


@pytest.mark.parametrize("timestamp", [0, BEFORE - 1])
def test_timestamp_before_the_one_before_breaks_rule_timestamp(timestamp: int) -> None:
    meaning = "the timestamp is before the one before"
    assert only("timestamp", stored(timestamp=timestamp)) == ("1000 or later", timestamp, meaning)


@pytest.mark.parametrize("timestamp", [2**63, 2**63 + 1, 2**64 - 1])
def test_timestamp_of_2_to_the_63_or_more_breaks_rule_timestamp(timestamp: int) -> None:
    expected = ("below 9223372036854775808", timestamp, "the timestamp is out of range")
    assert only("timestamp", stored(timestamp=timestamp)) == expected
    assert only("timestamp", genesis_stored(timestamp=timestamp)) == expected
    assert only("timestamp", stored(timestamp=timestamp)._replace(previous_timestamp=None))


@pytest.mark.parametrize("timestamp", [BEFORE, BEFORE + 1, 2**63 - 1])
def test_timestamp_at_its_limits_is_kept(timestamp: int) -> None:
    kept(stored(timestamp=timestamp))
    kept(genesis_stored(timestamp=timestamp))


def test_timestamp_follows_nothing_where_the_block_before_is_not_at_hand() -> None:
    kept(stored(timestamp=0)._replace(previous_timestamp=None))
    kept(genesis_stored(timestamp=0))


@pytest.mark.parametrize("link", [bytes(32), LINK[:31] + b"\x10", b"\x91" + LINK[1:]])
def test_link_to_another_hash_breaks_rule_link(link: bytes) -> None:
    meaning = "previous_hash is not the hash of the block before"
    assert only("link", stored(previous_hash=link)) == (LINK.hex(), link.hex(), meaning)


@pytest.mark.parametrize("link", [LINK, bytes(31) + b"\x01", b"\x80" + bytes(31)])
def test_genesis_that_links_to_something_breaks_rule_link(link: bytes) -> None:
    expected = (bytes(32).hex(), link.hex(), "previous_hash is not the hash of the block before")
    assert only("link", genesis_stored(previous_hash=link)) == expected
    # Whatever the store has before position 0, genesis follows nothing.
    block = genesis_stored(previous_hash=link)._replace(previous_hash=link)
    assert only("link", block) == expected


def test_link_is_not_checked_where_the_block_before_is_not_at_hand() -> None:
    kept(stored(previous_hash=bytes(32))._replace(previous_hash=None))


def test_stored_hash_that_is_not_that_of_the_header_breaks_rule_hash() -> None:
    good = stored()
    for bit in range(256):
        changed = (int.from_bytes(good.hash, "big") ^ 1 << bit).to_bytes(32, "big")
        expected = (good.hash.hex(), changed.hex(), "the header or its stored hash was changed")
        assert only("hash", good._replace(hash=changed)) == expected


@pytest.mark.parametrize("size", [-3, 0, 16, 18, 2**32])
def test_data_of_another_length_breaks_rule_size(size: int) -> None:
    meaning = "the data has another length than was recorded"
    assert only("size", stored()._replace(size=size)) == (17, size, meaning)


@pytest.mark.parametrize("size", [0, 16, 18])
def test_size_that_is_not_that_of_the_data_breaks_rule_size(size: int) -> None:
    assert only("size", stored(size=size))[:2] == (size, 17)


def test_other_data_of_the_same_length_breaks_rule_data_root() -> None:
    good = stored()
    for bit in range(8 * len(ENTRY)):
        changed = bytearray(ENTRY)
        changed[bit // 8] ^= 1 << bit % 8
        block = good._replace(entries=(bytes(changed),))
        found = reference.leaf(bytes(changed)).hex()
        expected = (reference.leaf(ENTRY).hex(), found, "the data was changed")
        assert only("data_root", block) == expected


def test_reordered_or_regrouped_entries_of_a_batch_break_rule_data_root() -> None:
    a, b = SALT + b"12", SALT + b"345"
    block = stored(1, (a, b))
    for others in ((b, a), (a + b[:1], b[1:]), (a[:-1], a[-1:] + b)):
        assert only("data_root", block._replace(entries=others))


@pytest.mark.parametrize(("bits", "nonce"), [(1, 0), (0, 1), (2**32 - 1, 0), (0, 2**64 - 1)])
def test_bits_or_nonce_on_an_instant_ledger_break_rule_work(bits: int, nonce: int) -> None:
    expected = (
        "bits 00000000, nonce 0000000000000000",
        f"bits {bits:08x}, nonce {nonce:016x}",
        "this ledger asks for no work",
    )
    assert only("work", stored(bits=bits, nonce=nonce)) == expected
    assert only("work", genesis_stored(bits=bits, nonce=nonce)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"1", "genesis is an object with the members"),
        (b"", "the JSON of genesis is bad: not JSON"),
        (b"\xff", "the JSON of genesis is bad: not UTF-8"),
        (b'{"a":1,"a":2}', "the JSON of genesis is bad: duplicate key 'a'"),
        (b" " + GENESIS, "the JSON of genesis is not in canonical form"),
        (GENESIS.replace(b"example", b""), "name is a string of 1 to 255 characters, found ''"),
        (GENESIS.replace(b'"format":1', b'"format":2'), "format 2 is not known"),
        (GENESIS.replace(b"instant", b"work"), "seal {'kind': 'work'} is not known"),
        (GENESIS.replace(b'"limits":{}', b'"limits":{"size":16}'), "limits.size is an integer"),
        (GENESIS.replace(b'"message":""', b'"message":1'), "message is a string, found 1"),
    ],
)
def test_block_0_that_records_no_genesis_breaks_rule_genesis(text: bytes, reason: str) -> None:
    broken = only("genesis", genesis_stored(text))
    assert broken.expected == "a genesis of format 1"
    assert str(broken.found).startswith(reason)
    assert broken.meaning == "the ledger's own rules are unreadable"


@pytest.mark.parametrize("position", [1, 2, 2**63 - 1])
def test_later_records_need_not_be_a_genesis(position: int) -> None:
    kept(stored(2, position=position))
    kept(stored(2, (SALT + GENESIS,), position=position))


def test_count_past_the_limit_breaks_rule_limits() -> None:
    entries = tuple(bytes([i]) * 16 + b"1" for i in range(4))
    expected = ("count at most 3", 4, "the count is past the limit")
    assert only("limits", stored(1, entries, terms=Terms(Limits(count=3)))) == expected
    kept(stored(1, entries, terms=Terms(Limits(count=4))))


def test_size_past_the_limit_breaks_rule_limits() -> None:
    entry = SALT + b'"' + b"a" * 10 + b'"'
    expected = ("size at most 27", 28, "the size is past the limit")
    assert only("limits", stored(0, (entry,), terms=Terms(Limits(size=27)))) == expected
    kept(stored(0, (entry,), terms=Terms(Limits(size=28))))
    broken = only("limits", genesis_stored(terms=Terms(Limits(size=90))))
    assert broken[:2] == ("size at most 90", 96)


def test_both_limits_past_name_the_count_first() -> None:
    entries = (ENTRY, ENTRY)
    broken = only("limits", stored(1, entries, terms=Terms(Limits(count=1, size=17))))
    assert broken.expected == "count at most 1"


def test_depth_is_not_a_matter_of_validation() -> None:
    kept(stored(0, (SALT + b"[" * 200 + b"]" * 200,), terms=Terms(Limits(depth=1))))


# The first one counts


BREAKS: dict[str, Callable[[Stored], Stored]] = {
    "version": lambda b: b._replace(header=replace(b.header, version=9)),
    "kind": lambda b: b._replace(header=replace(b.header, kind=9)),
    "count": lambda b: b._replace(header=replace(b.header, count=9)),
    "index": lambda b: b._replace(header=replace(b.header, index=9)),
    "timestamp": lambda b: b._replace(header=replace(b.header, timestamp=2**63)),
    "link": lambda b: b._replace(header=replace(b.header, previous_hash=b"\x22" * 32)),
    "hash": lambda b: b._replace(hash=bytes(32)),
    "size": lambda b: b._replace(size=1),
    "data_root": lambda b: b._replace(entries=(SALT + b"2",)),
    "work": lambda b: b._replace(header=replace(b.header, nonce=9)),
    "genesis": lambda b: b,
    "limits": lambda b: b._replace(header=replace(b.header, size=2**31)),
}


@given(st.sets(st.sampled_from(ORDER)), st.booleans())
def test_of_several_broken_rules_the_first_is_the_failure(names: set[str], first: bool) -> None:
    block = genesis_stored(b"1") if first else stored()
    for name in sorted(names):
        block = BREAKS[name](block)
    if "hash" not in names:
        block = block._replace(hash=reference.leaf(block.header.pack()))
    broken = broken_rules(block)
    expected = names - {"genesis"}
    if first:
        expected |= {"genesis"}
    if "limits" in names and "size" not in names:
        expected |= {"size"}  # it cannot be past the limit and still be that of the data
    assert set(broken) == expected
    found = rules.first_broken(block)
    assert (found and found.rule) == (min(broken, key=ORDER.index) if broken else None)


headers = st.fixed_dictionaries(
    {
        "version": st.sampled_from((1, 1, 1, 0, 2)),
        "kind": st.integers(0, 3),
        "bits": st.sampled_from((0, 0, 1)),
        "index": st.integers(0, 2),
        "previous_hash": st.sampled_from((bytes(32), LINK)),
        "timestamp": st.sampled_from((BEFORE - 1, BEFORE, 2**63 - 1, 2**63)),
        "nonce": st.sampled_from((0, 0, 1)),
    }
)


@given(
    headers,
    st.lists(st.sampled_from((ENTRY, SALT + GENESIS, *(SALT + v for v in VALUES))), max_size=3),
    st.integers(0, 2),
    st.sampled_from((None, LINK)),
    st.sampled_from((None, BEFORE)),
    st.sampled_from((Terms(), Terms(Limits(count=2)), Terms(Limits(size=60)))),
    st.data(),
)
def test_the_first_broken_rule_is_the_one_that_the_format_names(
    fields: dict[str, Any],
    entries: list[bytes],
    position: int,
    previous_hash: bytes | None,
    previous_timestamp: int | None,
    terms: Terms,
    data: st.DataObject,
) -> None:
    size = sum(len(entry) for entry in entries)
    fields["count"] = data.draw(st.sampled_from((len(entries), len(entries), 1)))
    fields["size"] = data.draw(st.sampled_from((size, size, 17)))
    fields["data_root"] = reference.tree([reference.leaf(entry) for entry in entries])
    header = reference.pack(**fields)
    stored_hash = data.draw(st.sampled_from((reference.leaf(header), LINK)))
    block = Stored(
        position,
        Header.unpack(header),
        stored_hash,
        tuple(entries),
        size,
        previous_hash,
        previous_timestamp,
        terms,
    )
    lying = reference.Lying(
        position, header, stored_hash, entries, size, previous_hash, previous_timestamp
    )
    found = rules.first_broken(block)
    assert (found and found.rule) == reference.first_rule(lying, terms)


# The words


def test_a_failure_says_which_block_which_rule_and_both_values() -> None:
    failure = rules.first_broken(stored(index=6))
    assert failure == Failure(
        index=5,
        rule="index",
        expected=5,
        found=6,
        message="block 5 breaks rule 'index': a block is missing, added or out of place "
        "(expected 5, found 6)",
    )


def test_a_failure_is_json_with_the_members_of_the_format() -> None:
    for name in ORDER:
        block = BREAKS[name](genesis_stored(b"1"))
        failure = rules.first_broken(block)
        assert failure is not None
        value = failure.to_value()
        assert list(value) == ["index", "rule", "expected", "found", "message"]
        assert json.loads(json.dumps(value)) == value
        assert (type(value["index"]), type(value["expected"])) in ((int, int), (int, str))


def test_a_failure_cannot_be_changed() -> None:
    failure = rules.failure(1, "link", Broken("a", "b", "c"))
    with pytest.raises(FrozenInstanceError):
        failure.index = 2  # type: ignore[misc]


def test_a_block_that_is_shown_is_judged_by_what_was_shown_before_it() -> None:
    first, second = chain("recorded")
    for before in (None, first):
        shown = Stored.of(second, 1, before)
        assert rules.first_broken(shown) is None
        assert shown.previous_hash == (before and first.stored_hash)
        assert shown.previous_timestamp == (before and first.header.timestamp)
        assert shown.size == second.header.size
