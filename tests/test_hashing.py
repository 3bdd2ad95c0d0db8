"""Every hasher against `hashlib`, one message after another."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cairn.core.hasher import Hasher
from cairn.hashing.portable import HashlibHasher
from tests.core import reference

HASHERS: list[Callable[[], Hasher]] = [HashlibHasher]


@pytest.fixture(params=HASHERS)
def hasher(request: pytest.FixtureRequest) -> Hasher:
    made: Hasher = request.param()
    return made


def positions(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def rows(hashes: NDArray[np.uint8]) -> list[bytes]:
    assert hashes.dtype == np.uint8
    assert hashes.shape[1:] == (32,)
    return [row.tobytes() for row in hashes]


def headers_of(*packed: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(bytearray(b"".join(packed)), np.uint8).reshape(-1, 104)


def linked(headers: list[bytes], previous: bytes) -> tuple[list[bytes], list[bytes]]:
    """Link one header after another; return the headers and their hashes."""
    whole, hashes = [], []
    for header in headers:
        whole.append(header[:16] + previous + header[48:])
        previous = sha256(b"\x00" + whole[-1]).digest()
        hashes.append(previous)
    return whole, hashes


def test_every_length_around_the_blocks_of_sha_256_is_hashed_as_a_leaf(hasher: Hasher) -> None:
    data = np.arange(300 * 301 // 2, dtype=np.uint64).astype(np.uint8)
    ends = np.cumsum(np.arange(301), dtype=np.int64)
    found = rows(hasher.leaf_hashes(data, ends[:-1], ends[1:]))
    raw, bounds = data.tobytes(), ends.tolist()
    assert found == [sha256(b"\x00" + raw[a:b]).digest() for a, b in pairwise(bounds)]


def test_messages_may_be_empty_overlap_and_come_in_any_order(hasher: Hasher) -> None:
    data = np.frombuffer(b"abcdef", np.uint8)
    found = hasher.leaf_hashes(data, positions([3, 0, 6, 2, 0]), positions([5, 6, 6, 2, 6]))
    messages = [b"de", b"abcdef", b"", b"", b"abcdef"]
    assert rows(found) == [reference.leaf(message) for message in messages]


def test_no_message_gives_no_hash(hasher: Hasher) -> None:
    for data in (b"", b"abc"):
        found = hasher.leaf_hashes(np.frombuffer(data, np.uint8), positions([]), positions([]))
        assert found.shape == (0, 32)


def test_empty_messages_of_empty_data_have_the_hash_of_an_empty_leaf(hasher: Hasher) -> None:
    found = hasher.leaf_hashes(np.zeros(0, np.uint8), positions([0, 0]), positions([0, 0]))
    assert rows(found) == [sha256(b"\x00").digest()] * 2


@given(st.data())
def test_any_cuts_of_any_data_are_hashed_as_the_reference_does(data: st.DataObject) -> None:
    raw = data.draw(st.binary(max_size=500))
    place = st.integers(0, len(raw))
    pairs = [sorted(pair) for pair in data.draw(st.lists(st.tuples(place, place), max_size=20))]
    starts, stops = (positions([pair[i] for pair in pairs]) for i in (0, 1))
    for make in HASHERS:
        found = make().leaf_hashes(np.frombuffer(raw, np.uint8), starts, stops)
        assert rows(found) == [reference.leaf(raw[a:b]) for a, b in pairs]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 64, 100])
def test_linking_writes_each_hash_into_the_next_header(hasher: Hasher, n: int) -> None:
    before = [bytes((7 * i + j) % 256 for j in range(104)) for i in range(n)]
    headers = headers_of(*before)
    hashes = hasher.link(headers, b"\x11" * 32)
    expected_headers, expected_hashes = linked(before, b"\x11" * 32)
    assert rows(hashes) == expected_hashes
    assert [row.tobytes() for row in headers] == expected_headers


def test_linking_overwrites_whatever_link_was_there(hasher: Hasher) -> None:
    clean, dirty = headers_of(bytes(104), bytes(104)), headers_of(bytes(104), bytes(104))
    dirty[:, 16:48] = 0xFF
    assert rows(hasher.link(clean, bytes(32))) == rows(hasher.link(dirty, bytes(32)))
    assert clean.tobytes() == dirty.tobytes()


@given(
    st.lists(st.binary(min_size=104, max_size=104), max_size=12),
    st.binary(min_size=32, max_size=32),
)
def test_any_headers_are_linked_as_the_reference_does(before: list[bytes], previous: bytes) -> None:
    expected_headers, expected_hashes = linked(before, previous)
    for make in HASHERS:
        headers = headers_of(*before)
        assert rows(make().link(headers, previous)) == expected_hashes
        assert [row.tobytes() for row in headers] == expected_headers
