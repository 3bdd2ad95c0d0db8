"""Genesis: exactly the members of format 1, nothing passed over."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.core.block import Block
from cairn.core.errors import FormatError
from cairn.core.genesis import MAX_DEPTH, MAX_MINED_SIZE, MAX_U32, Genesis, Limits, Work
from cairn.core.header import Kind
from cairn.core.work import MAX_BITS
from tests import independent
from tests.core import chains, reference

SALT = b"\x01" * 16
VALUE: dict[str, Any] = {
    "format": 1,
    "name": "example",
    "seal": {"kind": "instant"},
    "limits": {},
    "message": "one stone upon another",
}
CANONICAL = (
    b'{"format":1,"limits":{},"message":"one stone upon another",'
    b'"name":"example","seal":{"kind":"instant"}}'
)
RANGES = [("count", 1, 2**32 - 1), ("size", 17, 2**32 - 1), ("depth", 1, 256)]


def recording(*texts: bytes) -> Block:
    entries = [SALT + text for text in texts]
    return chains.sealed(2, entries, index=0, previous_hash=bytes(32), timestamp=0)


def recorded_alike(entries: list[bytes]) -> bool:
    """Return whether entries record a genesis; both who read the format say the same."""
    header = independent.Header(bytes(104))
    terms = independent.genesis_terms(independent.Block(bytes(32), header, entries, 0))
    assert reference.records_genesis(entries) == (terms is not None)
    return terms is not None


def refused(value: object) -> str:
    with pytest.raises(FormatError) as caught:
        Genesis.from_value(value)
    return str(caught.value)


def test_the_block_of_genesis_is_a_record_at_the_start_that_follows_nothing() -> None:
    genesis = Genesis(name="example", message="one stone upon another")
    block = genesis.block(timestamp=1_526_995_403_022_216, salt=SALT)
    assert block.kind == "record"
    assert block.entries[0].to_bytes() == SALT + CANONICAL
    header = reference.pack(
        kind=2,
        timestamp=1_526_995_403_022_216,
        count=1,
        size=16 + len(CANONICAL),
        data_root=reference.leaf(SALT + CANONICAL),
    )
    assert block.header.pack() == header
    assert block.stored_hash == reference.leaf(header)
    assert Genesis.of(block) == genesis


def test_equal_rules_with_other_salts_are_other_ledgers() -> None:
    a, b = (Genesis().block(timestamp=0, salt=bytes([i]) * 16) for i in range(2))
    assert a.stored_hash != b.stored_hash
    assert Genesis.of(a) == Genesis.of(b)


def test_what_is_not_said_has_its_default() -> None:
    assert Genesis().to_value() == VALUE | {"name": "ledger", "message": ""}
    assert Limits() == Limits(count=65536, size=16777216, depth=128)
    assert (MAX_U32, MAX_DEPTH) == (2**32 - 1, 256)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(count=1),
        Limits(size=1000),
        Limits(depth=256),
        Limits(count=1, size=200, depth=1),
        Limits(count=2**32 - 1, size=2**32 - 1, depth=256),
    ],
)
def test_only_limits_that_differ_from_the_defaults_are_written(limits: Limits) -> None:
    defaults = {"count": 65536, "size": 16777216, "depth": 128}
    expected = {n: d for n in defaults if (d := getattr(limits, n)) != defaults[n]}
    assert limits.to_value() == expected
    assert Limits.from_value(expected) == limits
    genesis = chains.genesis(limits)
    assert Genesis.of(genesis.block(timestamp=0, salt=SALT)) == genesis
    assert Genesis.from_value(genesis.to_value()) == genesis


def test_a_default_limit_may_be_written_too() -> None:
    assert Limits.from_value({"count": 65536}) == Limits()


@pytest.mark.parametrize(("name", "low", "high"), RANGES)
def test_a_limit_is_refused_exactly_past_its_range(name: str, low: int, high: int) -> None:
    for value in (low, low + 1, high - 1, high):
        assert getattr(Limits.from_value({name: value}), name) == value
    wrong: tuple[object, ...] = (
        low - 1,
        high + 1,
        -1,
        2**64,
        True,
        False,
        None,
        1.0,
        float(high),
        "1",
        [],
        {},
    )
    for other in wrong:
        message = f"limits.{name} is an integer from {low} to {high}, found {other!r}"
        assert refused(VALUE | {"limits": {name: other}}) == message


@pytest.mark.parametrize("limits", [None, 1, "count", [], ["count"], True])
def test_limits_that_are_no_object_are_refused(limits: object) -> None:
    assert refused(VALUE | {"limits": limits}) == f"limits is an object, found {limits!r}"


def test_an_unknown_limit_is_refused_by_name() -> None:
    limits = {"speed": 1, "count": 1, "rate": 2}
    assert refused(VALUE | {"limits": limits}) == "unknown limit 'rate'"


@pytest.mark.parametrize("member", sorted(VALUE))
def test_each_member_must_be_there(member: str) -> None:
    value = {name: item for name, item in VALUE.items() if name != member}
    assert refused(value) == (
        "genesis is an object with the members ['format', 'limits', 'message', 'name', 'seal']"
    )


def test_an_unknown_member_is_refused() -> None:
    assert refused(VALUE | {"extra": 1}).startswith("genesis is an object with the members")


@pytest.mark.parametrize("value", [None, 1, "genesis", [], list(VALUE), [VALUE]])
def test_what_is_no_object_is_refused(value: object) -> None:
    assert refused(value).startswith("genesis is an object with the members")


@pytest.mark.parametrize("version", [0, 2, -1, True, "1", None, 1.5, [1]])
def test_another_format_is_refused(version: object) -> None:
    message = f"format {version!r} is not known; this is 1"
    assert refused(VALUE | {"format": version}) == message


@pytest.mark.parametrize(
    "seal",
    [None, "instant", {}, {"kind": "work"}, {"kind": "instant", "interval": 1}, {"kind": None}, []],
)
def test_another_seal_is_refused(seal: object) -> None:
    message = f"seal {seal!r} is not known to this version of Cairn"
    assert refused(VALUE | {"seal": seal}) == message


@pytest.mark.parametrize("length", [1, 2, 254, 255])
def test_a_name_has_1_to_255_characters(length: int) -> None:
    for character in ("a", "é", "😀"):
        assert Genesis.from_value(VALUE | {"name": character * length}).name == character * length


@pytest.mark.parametrize("name", ["", "a" * 256, "😀" * 256])
def test_a_name_of_another_length_is_refused(name: str) -> None:
    message = f"name is a string of 1 to 255 characters, found {name!r}"
    assert refused(VALUE | {"name": name}) == message


@pytest.mark.parametrize("member", ["name", "message"])
@pytest.mark.parametrize("other", [None, 1, True, ["a"], {}, b"a"])
def test_name_and_message_are_strings(member: str, other: object) -> None:
    assert refused(VALUE | {member: other}) == f"{member} is a string, found {other!r}"


def test_a_message_may_be_empty_and_long() -> None:
    for message in ("", "é" * 100_000):
        block = Genesis(message=message).block(timestamp=0, salt=SALT)
        assert Genesis.of(block).message == message


WORK: dict[str, Any] = {
    "kind": "work",
    "interval": 10_000_000,
    "half_life": 3_600_000_000,
    "final_depth": 60,
}
SEAL_RANGES = [
    ("interval", 1_000, 3_600_000_000),
    ("half_life", 10_000_000, 2**46),
    ("final_depth", 1, 2**20),
]
"""With the other two as above; by itself an interval may be a day long."""


def test_the_seal_of_work_is_read_and_written() -> None:
    seal = Work(interval=10_000_000, half_life=3_600_000_000, final_depth=60)
    assert seal.to_value() == WORK
    genesis = Genesis.from_value(VALUE | {"seal": WORK})
    assert genesis.seal == seal
    assert genesis.to_value() == VALUE | {"seal": WORK}
    block = genesis.block(timestamp=5, salt=SALT, bits=MAX_BITS)
    assert Genesis.of(block) == genesis
    assert recorded_alike([entry.to_bytes() for entry in block.entries])
    assert Genesis.from_value(VALUE).seal is None


@pytest.mark.parametrize(("name", "low", "high"), SEAL_RANGES)
def test_each_number_of_a_seal_is_an_integer_in_its_range(name: str, low: int, high: int) -> None:
    for value in (low, high):
        assert getattr(Work.from_value(WORK | {name: value}), name) == value
    others: tuple[Any, ...] = (
        low - 1,
        high + 1,
        0,
        -1,
        True,
        False,
        None,
        "60",
        60.5,
        [60],
        10**20,
    )
    for other in others:
        wrong = VALUE | {"seal": WORK | {name: other}}
        named = "half_life" if name == "interval" and other == high + 1 else name
        assert refused(wrong).startswith(f"seal.{named} is an integer from ")
        text = reference.write(wrong).encode()
        assert not recorded_alike([SALT + text])
        with pytest.raises(FormatError):
            Genesis.of(recording(text))


def test_an_interval_is_a_day_at_most() -> None:
    day = 86_400_000_000
    assert Work(interval=day, half_life=day, final_depth=1).interval == day
    for interval in (day + 1, 2**46):
        value = WORK | {"interval": interval, "half_life": 2**46}
        assert "seal.interval is an integer" in refused(VALUE | {"seal": value})


@pytest.mark.parametrize("member", sorted(WORK))
def test_each_member_of_a_seal_must_be_there(member: str) -> None:
    seal = {name: value for name, value in WORK.items() if name != member}
    assert refused(VALUE | {"seal": seal}) == (
        f"seal {seal!r} is not known to this version of Cairn"
    )


@pytest.mark.parametrize(
    "changes", [{"bits": 1}, {"": 1}, {"kind": "instant"}, {"kind": "Work"}, {"kind": True}]
)
def test_an_unknown_member_or_kind_of_a_seal_is_refused(changes: dict[str, Any]) -> None:
    seal = WORK | changes
    assert refused(VALUE | {"seal": seal}) == (
        f"seal {seal!r} is not known to this version of Cairn"
    )
    assert not recorded_alike([SALT + reference.write(VALUE | {"seal": seal}).encode()])


def test_genesis_and_limits_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Genesis().name = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Limits().count = 1  # type: ignore[misc]


@pytest.mark.parametrize("short_by", [0, 1, 2, 5])
def test_a_genesis_must_fit_the_limit_that_it_sets(short_by: int) -> None:
    """Else the very first block breaks the ledger's own rule."""
    size = 16 + len(reference.write(Genesis(limits=Limits(size=100)).to_value()))
    genesis = Genesis(limits=Limits(size=size - short_by))
    if short_by:
        with pytest.raises(FormatError, match=f"a genesis of {size} bytes does not fit its own"):
            genesis.block(timestamp=0, salt=SALT)
    else:
        assert genesis.block(timestamp=0, salt=SALT).header.size == size


# Reading what block 0 records


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(VALUE).encode(),
        CANONICAL + b" ",
        b"\n" + CANONICAL,
        CANONICAL.replace(b'"format":1', b'"format":1.0'),
        CANONICAL.replace(b"example", rb"ex\u0061mple"),
        CANONICAL.replace(b'{"format":1,', b"{").replace(b'"instant"}}', b'"instant"},"format":1}'),
    ],
)
def test_json_of_genesis_that_is_not_canonical_is_refused(text: bytes) -> None:
    assert json.loads(text) == VALUE
    with pytest.raises(FormatError, match="the JSON of genesis is not in canonical form"):
        Genesis.of(recording(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON: "),
        (b"\xff", "not UTF-8: "),
        (CANONICAL + b"}", "not JSON: "),
        (b'{"format":1,"format":1}', "duplicate key 'format'"),
        (b'{"format":1e400}', "past the range of a double"),
        (rb'{"name":"\ud800"}', "lone surrogate U"),
        (b"[" * 257 + b"]" * 257, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_json_of_genesis_that_is_bad_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=f"the JSON of genesis is bad: .*{reason}"):
        Genesis.of(recording(text))


def test_json_of_genesis_nested_as_deep_as_allowed_is_judged_by_its_members() -> None:
    with pytest.raises(FormatError, match="genesis is an object"):
        Genesis.of(recording(b"[" * 256 + b"]" * 256))


def test_a_block_without_entries_or_with_two_is_no_genesis() -> None:
    for block in (recording(), recording(CANONICAL, CANONICAL)):
        with pytest.raises(FormatError, match="genesis is one entry"):
            Genesis.of(block)


@pytest.mark.parametrize("seal", [VALUE["seal"], WORK], ids=["instant", "work"])
def test_every_flipped_bit_of_genesis_is_another_genesis_or_none(seal: dict[str, Any]) -> None:
    recorded = reference.write(VALUE | {"seal": seal}).encode()
    block = recording(recorded)
    assert reference.records_genesis([SALT + recorded])
    for bit in range(8 * len(recorded)):
        changed = bytearray(recorded)
        changed[bit // 8] ^= 1 << bit % 8
        text = bytes(changed)
        try:
            other = Genesis.of(recording(text))
        except FormatError:
            assert not reference.records_genesis([SALT + text])
        else:
            assert reference.records_genesis([SALT + text])
            assert other != Genesis.of(block)


characters = st.characters(exclude_categories=["Cs"])


@given(
    st.text(characters, min_size=1, max_size=255),
    st.text(characters),
    st.builds(Limits, **{name: st.integers(low, high) for name, low, high in RANGES}),
)
def test_any_genesis_that_fits_its_limit_reads_back_as_itself(
    name: str, message: str, limits: Limits
) -> None:
    genesis = Genesis(name=name, message=message, limits=limits)
    size = 16 + len(reference.write(genesis.to_value()).encode())
    if size > limits.size:
        with pytest.raises(FormatError, match=f"a genesis of {size} bytes does not fit"):
            genesis.block(timestamp=5, salt=SALT)
        return
    block = genesis.block(timestamp=5, salt=SALT)
    assert Genesis.of(block) == genesis
    assert block.data_json().decode() == reference.write(genesis.to_value())
    assert reference.records_genesis([entry.to_bytes() for entry in block.entries])
    assert Block.from_view(json.loads(block.to_json())) == block
    assert block.header.kind == Kind.RECORD


def test_blocks_of_a_ledger_of_work_have_a_size_that_can_be_sent() -> None:
    seal = Work(interval=1_000_000, half_life=60_000_000, final_depth=6)
    Genesis(seal=seal, limits=Limits(size=MAX_MINED_SIZE))
    Genesis(limits=Limits(size=MAX_MINED_SIZE + 1))
    with pytest.raises(FormatError, match=r"limits\.size of a ledger of work"):
        Genesis(seal=seal, limits=Limits(size=MAX_MINED_SIZE + 1))
    for size, good in ((MAX_MINED_SIZE, True), (MAX_MINED_SIZE + 1, False)):
        value = VALUE | {"seal": seal.to_value(), "limits": {"size": size}}
        assert recorded_alike([SALT + reference.write(value).encode()]) == good
