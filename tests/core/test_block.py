"""A block and its JSON view."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.core.block import VIEW_KEYS, Block, rfc3339
from cairn.core.canonical import canonical, parse
from cairn.core.entry import Entry
from cairn.core.errors import EntryError, FormatError
from cairn.core.genesis import Terms
from cairn.core.header import Header, Kind
from tests.core import chains, reference, strategies

SALT = bytes(range(16))
LINK = bytes(range(32, 64))
MOMENT = 1_526_995_403_022_216


def value_block(text: bytes, timestamp: int = MOMENT) -> Block:
    entry = Entry(SALT, text)
    return Block.of(Kind.VALUE, entry, index=7, previous_hash=LINK, timestamp=timestamp)


def batch_block(*texts: bytes) -> Block:
    entries = [bytes([i]) * 16 + text for i, text in enumerate(texts)]
    return chains.sealed(1, entries, index=8, previous_hash=LINK, timestamp=MOMENT)


def view_of(block: Block) -> dict[str, Any]:
    view = json.loads(block.to_json())
    assert isinstance(view, dict)
    return view


BLOCKS = [*chains.chain("gv0123r"), value_block(b"null"), batch_block(b"[]", b'{"a":"b"}')]


# Making and reading


@pytest.mark.parametrize("kind", [Kind.VALUE, Kind.RECORD])
def test_a_sealed_entry_has_the_header_that_the_format_says(kind: Kind) -> None:
    entry = Entry(SALT, b'{"a":1}')
    block = Block.of(kind, entry, index=7, previous_hash=LINK, timestamp=MOMENT)
    data = SALT + b'{"a":1}'
    header = reference.pack(
        kind=int(kind),
        index=7,
        previous_hash=LINK,
        timestamp=MOMENT,
        count=1,
        size=23,
        data_root=reference.leaf(data),
    )
    assert block.header.pack() == header
    assert block.stored_hash == reference.leaf(header)
    assert block.entries == (entry,)


def test_the_five_facts_come_first_and_are_for_people() -> None:
    block = value_block(b'{"a":1}')
    assert block.index == 7
    assert block.timestamp == "2018-05-22T13:23:23.022216Z"
    assert block.data == {"a": 1}
    assert block.previous_hash == LINK.hex()
    assert block.hash == block.header.hash.hex()
    assert VIEW_KEYS[:5] == ("index", "timestamp", "data", "previous_hash", "hash")
    assert repr(block) == (
        f"Block(index=7, timestamp='2018-05-22T13:23:23.022216Z', data={{\"a\":1}}, "
        f"previous_hash='{LINK.hex()}', hash='{block.hash}')"
    )


def test_hash_is_the_stored_one_not_the_computed_one() -> None:
    block = replace(value_block(b"1"), stored_hash=bytes(32))
    assert block.hash == "0" * 64
    assert view_of(block)["hash"] == "0" * 64
    assert block != value_block(b"1")


def test_kind_is_named_or_numbered_where_it_is_unknown() -> None:
    kinds = {0: "value", 1: "batch", 2: "record", 3: "3", 65535: "65535"}
    for number, name in kinds.items():
        block = chains.sealed(number, [SALT + b"1"], index=1, previous_hash=LINK, timestamp=0)
        assert block.kind == name
        assert view_of(block)["kind"] == name


def test_data_is_the_value_itself_or_the_list_of_a_batch() -> None:
    assert value_block(b"[1]").data == [1]
    assert value_block(b"[1]").data_json() == b"[1]"
    assert batch_block().data == []
    assert batch_block().data_json() == b"[]"
    assert batch_block(b"[1]").data == [[1]]
    assert batch_block(b"[1]").data_json() == b"[[1]]"
    assert batch_block(b"1", b'"a"').data == [1, "a"]
    assert batch_block(b"1", b'"a"').data_json() == b'[1,"a"]'


@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_value_with_another_number_of_entries_shows_them_all(count: int) -> None:
    entries = [bytes(16) + b"%d" % i for i in range(count)]
    block = chains.sealed(0, entries, index=1, previous_hash=LINK, timestamp=0)
    assert block.data == list(range(count))
    view = view_of(block)
    assert view["data"] == list(range(count))
    assert view["salt"] == [bytes(16).hex()] * count


# The JSON view


def test_the_view_has_exactly_the_members_of_the_format_in_order() -> None:
    block = value_block(b'{"a":1}')
    assert view_of(block) == {
        "index": 7,
        "timestamp": "2018-05-22T13:23:23.022216Z",
        "data": {"a": 1},
        "previous_hash": LINK.hex(),
        "hash": block.header.hash.hex(),
        "kind": "value",
        "count": 1,
        "size": 23,
        "data_root": reference.leaf(SALT + b'{"a":1}').hex(),
        "bits": "00000000",
        "nonce": "0000000000000000",
        "salt": SALT.hex(),
        "header": block.header.pack().hex(),
    }
    for each in BLOCKS:
        assert tuple(view_of(each)) == VIEW_KEYS


def test_bits_and_nonce_are_8_and_16_digits() -> None:
    block = chains.sealed(
        0, [SALT + b"1"], index=1, previous_hash=LINK, timestamp=0, bits=0x1D00FFFF, nonce=0xAB
    )
    assert (view_of(block)["bits"], view_of(block)["nonce"]) == ("1d00ffff", "00000000000000ab")


@pytest.mark.parametrize("block", BLOCKS)
def test_the_view_reads_back_as_the_same_block(block: Block) -> None:
    for view in (view_of(block), parse(block.to_json())):
        assert Block.from_view(view) == block


headers = st.fixed_dictionaries(
    {
        name: st.binary(min_size=size, max_size=size)
        if name in reference.HASHES
        else st.integers(0, 256**size - 1)
        for name, _, size in reference.FIELDS
        if name != "kind"
    }
)
salts = st.binary(min_size=16, max_size=16)


@given(
    headers,
    st.sampled_from((0, 1, 2, 3, 65535)),
    st.binary(min_size=32, max_size=32),
    st.lists(st.tuples(salts, strategies.values), max_size=3),
    st.data(),
)
def test_any_view_reads_back_with_the_exact_bytes(
    fields: dict[str, Any],
    kind: int,
    stored_hash: bytes,
    recorded: list[tuple[bytes, object]],
    data: st.DataObject,
) -> None:
    if kind != Kind.BATCH:
        recorded = [data.draw(st.tuples(salts, strategies.values))]
    entries = tuple(Entry(salt, canonical(value)) for salt, value in recorded)
    block = Block(Header(kind=kind, **fields), stored_hash, entries)
    text = block.to_json()
    assert "\n" not in text
    assert Block.from_view(json.loads(text)) == block


@pytest.mark.parametrize(
    "text",
    [
        b"18446744073709551615",
        b"-9223372036854775808",
        b"505874924095815681",
        b"100000000000000000000",
        b"[1e+21,1e-7,0.1,5e-324,1.7976931348623157e+308]",
        '{"😀":1,"\ufb33":2}'.encode(),
        '"\u2028\x85\x7f"'.encode(),
        b'"\\u0000\\n"',
    ],
)
def test_numbers_and_odd_characters_keep_their_exact_bytes(text: bytes) -> None:
    assert canonical(parse(text)) == text
    block = value_block(text)
    assert b'"data": ' + text + b', "previous_hash"' in block.to_json().encode()
    assert block.to_json(fresh=True) == block.to_json()
    assert Block.from_view(view_of(block)).entries[0].canonical == text


@pytest.mark.parametrize("text", [b"[1,\n2]", b'{"a":\r\n1}', b"\n1", b"1\n"])
def test_the_view_is_one_line_though_the_stored_json_is_not_canonical(text: bytes) -> None:
    """No rule covers white space in stored JSON, and an export is one block a line."""
    lines = value_block(text).to_json().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["data"] == json.loads(text)


@pytest.mark.parametrize("damaged", [b"", b"\xff", b"{", b"NaN", b"1,2", b'1, "index": 0'])
def test_damaged_data_has_no_view_and_the_error_names_the_block(damaged: bytes) -> None:
    for block in (value_block(damaged), batch_block(b"1", damaged)):
        with pytest.raises(FormatError, match=f"the data of block {block.index} is not JSON: "):
            block.to_json()
        assert repr(block).startswith(f"Block(index={block.index}, ")
    with pytest.raises(EntryError):
        value_block(damaged).data  # noqa: B018


# Reading a view that someone else wrote


def refused(view: object) -> str:
    with pytest.raises(FormatError) as caught:
        Block.from_view(view)
    return str(caught.value)


@pytest.mark.parametrize("view", [None, 1, "block", [], {}, [["index", 1]]])
def test_what_is_no_object_with_the_members_is_refused(view: object) -> None:
    assert refused(view).startswith("a block is an object with the members index, timestamp, ")


@pytest.mark.parametrize("name", VIEW_KEYS)
def test_each_member_must_be_there(name: str) -> None:
    view = view_of(value_block(b"1"))
    del view[name]
    assert "a block is an object with the members" in refused(view)


def test_an_unknown_member_is_refused() -> None:
    assert "a block is an object" in refused(view_of(value_block(b"1")) | {"extra": 1})


OTHERS: list[object] = [None, True, False, 0, 1, -1, 1.0, 2**64, "", "0", "value", [], [1], {}]


@pytest.mark.parametrize("name", [name for name in VIEW_KEYS if name not in ("data", "hash")])
@pytest.mark.parametrize("block", BLOCKS)
def test_each_member_saying_something_else_is_refused(block: Block, name: str) -> None:
    view = view_of(block)
    for other in OTHERS:
        same = other == view[name] and type(other) is type(view[name])
        if not same:
            assert name in refused(view | {name: other}) or name == "salt"


@pytest.mark.parametrize("block", BLOCKS)
def test_no_character_of_any_member_can_be_changed_unnoticed(block: Block) -> None:
    """What the view's members do not show to disagree, the rules find."""
    view = view_of(block)
    for name in VIEW_KEYS:
        if not isinstance(view[name], str):
            continue
        for at, character in enumerate(view[name]):
            other = "1" if character == "0" else "0"
            text = view[name][:at] + other + view[name][at + 1 :]
            assert_noticed(view | {name: text})


def test_other_numbers_in_a_member_are_noticed() -> None:
    for block in BLOCKS:
        view = view_of(block)
        for name in ("index", "count", "size"):
            for other in (view[name] + 1, view[name] ^ 2**31, float(view[name]), str(view[name])):
                assert name in refused(view | {name: other})


def test_other_data_and_other_salts_are_noticed() -> None:
    for block in BLOCKS:
        view = view_of(block)
        assert_noticed(view | {"data": ["something else"]})
        if block.kind == "batch" and len(block.entries) > 1:
            assert_noticed(view | {"data": view["data"][::-1]})
            assert_noticed(view | {"salt": view["salt"][::-1]})
            assert "as many salts" in refused(view | {"salt": view["salt"][1:]})
            assert "as many salts" in refused(view | {"data": view["data"][1:]})


def assert_noticed(view: dict[str, Any]) -> None:
    try:
        block = Block.from_view(view)
    except (FormatError, EntryError):
        return
    header = block.header.pack()
    entries = [entry.to_bytes() for entry in block.entries]
    position = block.index
    size = sum(len(entry) for entry in entries)
    stored = reference.Lying(position, header, block.stored_hash, entries, size, None, None)
    assert reference.first_rule(stored, Terms()) in (
        "version",
        "count",
        "hash",
        "size",
        "data_root",
    )


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("header", str.upper),
        ("hash", str.upper),
        ("salt", str.upper),
        ("header", lambda text: text + "00"),
        ("header", lambda text: text[2:]),
        ("hash", lambda text: text[2:]),
        ("salt", lambda text: text[2:]),
        ("header", lambda text: "zz" + text[2:]),
        ("hash", lambda text: "0x" + text[2:]),
        ("hash", lambda text: " " + text[:-2] + " "),
        ("salt", lambda text: "  " + text[2:]),
        ("salt", lambda text: "٠" * 32),
        ("hash", lambda text: text.encode()),
    ],
)
def test_hex_is_lower_case_and_of_its_length(name: str, change: Callable[[str], object]) -> None:
    view = view_of(value_block(b'"abc"'))
    assert name in refused(view | {name: change(view[name])})


def test_upper_case_hex_is_refused_as_such() -> None:
    view = view_of(value_block(b'"abc"'))
    for name in ("header", "hash", "salt"):
        message = f"{name} has {len(view[name])} lower-case hex digits, found '"
        assert refused(view | {name: view[name].upper()[:-1] + "F"}).startswith(message)


@pytest.mark.parametrize(
    ("data", "salt"),
    [
        (None, []),
        ({}, []),
        ("ab", ["00" * 16] * 2),
        ([1], "00" * 16),
        ([1], None),
        ([1], {"0": "00" * 16}),
        ([1], []),
        ([], ["00" * 16]),
    ],
)
def test_a_batch_needs_a_list_of_values_and_as_many_salts(data: object, salt: object) -> None:
    view = view_of(batch_block(b"1")) | {"data": data, "salt": salt}
    assert refused(view) == "a batch has a list of values and as many salts"


def test_data_without_a_canonical_form_is_refused_as_an_entry() -> None:
    for data in (float("nan"), 2**64, "\ud800", {1: 2}):
        with pytest.raises(EntryError):
            Block.from_view(view_of(value_block(b"1")) | {"data": data})


def test_values_are_encoded_by_whatever_is_given() -> None:
    seen: list[object] = []

    def encode(value: object) -> bytes:
        seen.append(value)
        return canonical(value)

    block = batch_block(b"1", b'"a"')
    assert Block.from_view(view_of(block), encode=encode) == block
    assert seen == [1, "a"]


# Timestamps


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (1_526_995_403_022_216, "2018-05-22T13:23:23.022216Z"),
        (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
        (253_402_300_800_000_000, "10000-01-01T00:00:00.000000Z"),
        (2**63 - 1, "294247-01-10T04:00:54.775807Z"),
        (2**63, "9223372036854775808"),
        (2**64 - 1, "18446744073709551615"),
        (2**70, "1180591620717411303424"),
        (-1, "1969-12-31T23:59:59.999999Z"),
    ],
)
def test_timestamps_at_their_limits(microseconds: int, text: str) -> None:
    assert rfc3339(microseconds) == text
    if 0 <= microseconds < 2**64:
        block = value_block(b"1", microseconds)
        assert block.timestamp == text
        assert Block.from_view(view_of(block)) == block


@given(st.integers(0, 253_402_300_799_999_999))
def test_timestamps_are_as_datetime_counts_them(microseconds: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    expected = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert rfc3339(microseconds) == expected


@pytest.mark.parametrize("microseconds", [-(2**63) - 1, -(2**63), -(2**63) + 1])
def test_no_timestamp_is_shown_as_not_a_time(microseconds: int) -> None:
    assert "NaT" not in rfc3339(microseconds)
