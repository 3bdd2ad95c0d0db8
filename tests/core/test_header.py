"""The 104 bytes of a header, field by field and bit by bit."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.core.errors import FormatError
from cairn.core.header import (
    DATA_ROOT,
    FORMAT_VERSION,
    HEADER_BYTES,
    HEADER_DTYPE,
    LIMIT_63,
    LINK,
    NO_HASH,
    Header,
    Kind,
)
from tests.core import reference

COUNTING = bytes(range(104))
HEADER = Header.unpack(COUNTING)

fields = st.fixed_dictionaries(
    {
        name: st.binary(min_size=size, max_size=size)
        if name in reference.HASHES
        else st.integers(0, 256**size - 1)
        for name, _, size in reference.FIELDS
    }
)


def values_of(header: Header) -> dict[str, int | bytes]:
    return asdict(header)


def test_constants_are_those_of_the_format() -> None:
    assert (FORMAT_VERSION, HEADER_BYTES) == (1, 104)
    assert bytes(32) == NO_HASH
    assert LIMIT_63 == 2**63
    assert [(kind.label, int(kind)) for kind in Kind] == [("value", 0), ("batch", 1), ("record", 2)]


@pytest.mark.parametrize(("name", "offset", "size"), reference.FIELDS)
def test_each_field_lies_where_the_table_says(name: str, offset: int, size: int) -> None:
    raw = COUNTING[offset : offset + size]
    expected = raw if name in reference.HASHES else int.from_bytes(raw, "big")
    assert getattr(HEADER, name) == expected


@pytest.mark.parametrize(("name", "offset", "size"), reference.FIELDS)
def test_each_field_at_its_limits_keeps_its_place(name: str, offset: int, size: int) -> None:
    for filling in (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff"):
        raw = filling * size
        value = raw if name in reference.HASHES else int.from_bytes(raw, "big")
        change: dict[str, Any] = {name: value}
        packed = replace(HEADER, **change).pack()
        assert packed == COUNTING[:offset] + raw + COUNTING[offset + size :]
        assert getattr(Header.unpack(packed), name) == value


@pytest.mark.parametrize(
    ("name", "size"), [(n, size) for n, _, size in reference.FIELDS if n not in reference.HASHES]
)
def test_an_integer_past_its_bytes_is_refused(name: str, size: int) -> None:
    for value in (-1, 256**size, 2**200, 1.5, "1", None):
        change: dict[str, Any] = {name: value}
        with pytest.raises(FormatError, match="header field out of range"):
            replace(HEADER, **change).pack()


@pytest.mark.parametrize("name", sorted(reference.HASHES))
@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_a_hash_of_another_length_is_refused(name: str, size: int) -> None:
    change: dict[str, Any] = {name: bytes(size)}
    with pytest.raises(FormatError, match="have 32 bytes each"):
        replace(HEADER, **change).pack()


@pytest.mark.parametrize("size", [n for n in range(220) if n != 104])
def test_another_length_is_no_header(size: int) -> None:
    with pytest.raises(FormatError, match=f"a header has 104 bytes, found {size}"):
        Header.unpack(bytes(size))


def test_version_bits_and_nonce_need_not_be_said() -> None:
    header = Header(
        kind=2,
        index=0,
        previous_hash=bytes(32),
        timestamp=5,
        count=1,
        size=17,
        data_root=b"\x09" * 32,
    )
    packed = reference.pack(kind=2, timestamp=5, count=1, size=17, data_root=b"\x09" * 32)
    assert header.pack() == packed
    assert (header.version, header.bits, header.nonce) == (1, 0, 0)


def test_a_header_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        HEADER.index = 1  # type: ignore[misc]


def test_hash_is_the_leaf_hash_of_the_104_bytes() -> None:
    assert HEADER.hash == reference.leaf(COUNTING)


@pytest.mark.parametrize("start", [bytes(104), COUNTING, b"\xff" * 104])
def test_every_single_bit_changes_the_hash(start: bytes) -> None:
    hashes = {Header.unpack(start).hash}
    for bit in range(8 * HEADER_BYTES):
        changed = bytearray(start)
        changed[bit // 8] ^= 1 << bit % 8
        header = Header.unpack(bytes(changed))
        assert header != Header.unpack(start)
        hashes.add(header.hash)
    assert len(hashes) == 1 + 8 * HEADER_BYTES


@given(fields)
def test_fields_survive_packing_as_the_reference_packs(values: dict[str, Any]) -> None:
    header = Header(**values)
    assert header.pack() == reference.pack(**values)
    assert Header.unpack(header.pack()) == header
    assert values_of(Header.unpack(header.pack())) == values


@given(st.binary(min_size=104, max_size=104))
def test_any_104_bytes_are_some_header(data: bytes) -> None:
    assert Header.unpack(data).pack() == data
    assert Header.unpack(data).hash == reference.leaf(data)


@given(st.lists(st.binary(min_size=104, max_size=104), min_size=1, max_size=5))
def test_numpy_record_has_the_same_layout(rows: list[bytes]) -> None:
    assert HEADER_DTYPE.itemsize == HEADER_BYTES
    columns = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, HEADER_BYTES)
    records = columns.view(HEADER_DTYPE).reshape(-1)
    for i, row in enumerate(rows):
        for name, value in values_of(Header.unpack(row)).items():
            found = records[name][i]
            assert (found.tobytes() if isinstance(value, bytes) else int(found)) == value


@given(st.binary(min_size=104, max_size=104))
def test_link_and_data_root_are_cut_out_where_the_fields_lie(data: bytes) -> None:
    header = Header.unpack(data)
    assert data[LINK] == header.previous_hash
    assert data[DATA_ROOT] == header.data_root


def test_nonce_lies_in_the_second_block_that_sha_256_takes_in() -> None:
    offset, size = reference.PLACES["nonce"]
    prefix = 1
    assert prefix + offset >= 64
    assert prefix + offset + size <= 128 - 9  # room for the padding: no third block
