"""An entry: salt and canonical JSON, and the id that commits to both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.core.canonical import canonical
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.errors import EntryError
from tests.core import reference, strategies

salts = st.binary(min_size=SALT_BYTES, max_size=SALT_BYTES)


@given(salts, strategies.values)
def test_bytes_are_salt_then_canonical_json(salt: bytes, value: object) -> None:
    entry = Entry(salt, canonical(value))
    data = entry.to_bytes()
    assert data == salt + reference.write(value).encode()
    assert Entry.from_bytes(data) == entry
    assert entry.id == reference.leaf(data)
    assert canonical(entry.value) == entry.canonical


@given(st.binary(max_size=60))
def test_any_bytes_are_some_entry(data: bytes) -> None:
    entry = Entry.from_bytes(data)
    assert (entry.salt, entry.canonical) == (data[:16], data[16:])
    assert entry.to_bytes() == data
    assert entry.id == reference.leaf(data)


def test_every_single_bit_changes_the_id() -> None:
    data = bytes(range(SALT_BYTES)) + b'{"a":1}'
    ids = {Entry.from_bytes(data).id}
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        ids.add(Entry.from_bytes(bytes(changed)).id)
    assert len(ids) == 1 + 8 * len(data)


def test_equal_values_with_other_salts_have_other_ids() -> None:
    assert Entry(bytes(16), b"1").id != Entry(b"\x01" + bytes(15), b"1").id


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff", b"NaN", b'{"a":1,"a":2}', b"1 2"])
def test_damaged_bytes_have_an_id_but_no_value(damaged: bytes) -> None:
    entry = Entry(bytes(16), damaged)
    assert entry.id == reference.leaf(bytes(16) + damaged)
    with pytest.raises(EntryError):
        entry.value  # noqa: B018
