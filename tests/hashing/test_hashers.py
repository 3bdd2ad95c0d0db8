"""Every hasher against `hashlib`, one message after another."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import cairn.hashing
from cairn.core.errors import UsageError
from cairn.core.hasher import Hasher
from cairn.hashing import best_hasher, names
from cairn.hashing import hasher as hasher_named
from cairn.hashing.lanes import EXAMPLES, INSTRUCTION_SETS, LanesHasher, works
from cairn.hashing.portable import HashlibHasher
from tests.core import reference
from tests.hashing.memory import PAGE, guarded

HASHERS: list[Hasher] = [HashlibHasher(), *(LanesHasher(isa) for isa in INSTRUCTION_SETS)]
"""All that this machine runs on its CPU: just the definition where no C kernel was built."""
IDS = [hasher.name for hasher in HASHERS]
COUNTS = sorted(
    {lanes * k + d for lanes in (1, 2, 4, 8, 16) for k in (1, 2, 3) for d in (-1, 0, 1)}
)
"""Numbers of messages around multiples of every number of lanes."""


@pytest.fixture(params=HASHERS, ids=IDS)
def hasher(request: pytest.FixtureRequest) -> Hasher:
    made: Hasher = request.param
    return made


def positions(values: Iterable[int]) -> NDArray[np.int64]:
    return np.array(list(values), np.int64)


def rows(hashes: NDArray[np.uint8]) -> list[bytes]:
    assert hashes.dtype == np.uint8
    assert hashes.shape[1:] == (32,)
    return [row.tobytes() for row in hashes]


def headers_of(*packed: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(bytearray(b"".join(packed)), np.uint8).reshape(-1, 104)


def noise(size: int, seed: int = 1) -> NDArray[np.uint8]:
    return np.frombuffer(random.Random(seed).randbytes(size), np.uint8)


def check(hasher: Hasher, data: NDArray[np.uint8], cuts: Iterable[tuple[int, int]]) -> None:
    """Hold the hashes of `cuts` of `data` to `hashlib`."""
    cuts = list(cuts)
    raw = data.tobytes()
    starts, stops = (positions(cut[i] for cut in cuts) for i in (0, 1))
    found = rows(hasher.leaf_hashes(data, starts, stops))
    assert found == [sha256(b"\x00" + raw[a:b]).digest() for a, b in cuts]


def linked(headers: list[bytes], previous: bytes) -> tuple[list[bytes], list[bytes]]:
    """Link one header after another; return the headers and their hashes."""
    whole, hashes = [], []
    for header in headers:
        whole.append(header[:16] + previous + header[48:])
        previous = sha256(b"\x00" + whole[-1]).digest()
        hashes.append(previous)
    return whole, hashes


# Leaves


def test_every_length_around_the_blocks_of_sha_256_is_hashed_as_a_leaf(hasher: Hasher) -> None:
    data = np.arange(300 * 301 // 2, dtype=np.uint64).astype(np.uint8)
    check(hasher, data, pairwise([0, *np.cumsum(np.arange(301)).tolist()]))


@pytest.mark.parametrize("around", [0, 1, 64])
def test_every_length_is_hashed_in_every_lane(hasher: Hasher, around: int) -> None:
    """With neighbours of the same length, at the very ends of the data and away from them."""
    data = noise(300 + 40 + 2 * around)
    for size in range(301):
        check(hasher, data, [(around + i, around + i + size) for i in range(40)])
    check(hasher, data[: 300 + 2 * around], [(around, around + 300)] * 40)


@pytest.mark.parametrize("size", [0, 54, 55, 63, 64, 118, 119, 200, 4097, 5000])
def test_any_number_of_messages_fills_the_lanes(hasher: Hasher, size: int) -> None:
    data = noise(size + max(COUNTS) + 1)
    for count in COUNTS:
        check(hasher, data, [(i, i + size) for i in range(count)])


def test_long_messages_among_short_ones_are_hashed(hasher: Hasher) -> None:
    """A lane that ends early takes the next message; the last few are finished alone."""
    chance = random.Random(2)
    data = noise(200_000)
    for _ in range(30):
        sizes = chance.choices((0, 5, 80, 300, 5_000, 70_000), weights=(1, 1, 9, 9, 3, 1), k=90)
        starts = [chance.randint(0, len(data) - size) for size in sizes]
        check(hasher, data, [(a, a + size) for a, size in zip(starts, sizes, strict=True)])


def test_messages_at_both_ends_of_readable_memory_are_hashed(hasher: Hasher) -> None:
    """Neither side of the page can be read: a byte too many would end the process."""
    page = guarded(PAGE)
    page[:] = noise(len(page))
    last = len(page)
    for size in range(200):
        check(hasher, page, [(0, size)])
        check(hasher, page, [(last - size, last)])
        check(hasher, page, [(0, size), (last - size, last)] * 20)
    check(hasher, page, [(0, last)] * 33)
    for size in (1, 63, 64, 65, 80, 104, 4095):
        check(hasher, page, [(i, i + size) for i in range(0, last - size + 1, size)])


def test_data_may_begin_at_any_address(hasher: Hasher) -> None:
    data = noise(3000)
    for offset in range(64):
        check(hasher, data[offset:], [(i, i + 120) for i in range(0, 2400, 70)])


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
    for n in COUNTS:
        found = hasher.leaf_hashes(np.zeros(0, np.uint8), positions([0] * n), positions([0] * n))
        assert rows(found) == [sha256(b"\x00").digest()] * n


@given(st.data())
def test_any_cuts_of_any_data_are_hashed_as_the_reference_does(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 1000))
    raw = data.draw(st.binary(min_size=size, max_size=size))
    place = st.integers(0, len(raw))
    pairs = [sorted(pair) for pair in data.draw(st.lists(st.tuples(place, place), max_size=60))]
    starts, stops = (positions(pair[i] for pair in pairs) for i in (0, 1))
    expected = [reference.leaf(raw[a:b]) for a, b in pairs]
    for hasher in HASHERS:
        assert rows(hasher.leaf_hashes(np.frombuffer(raw, np.uint8), starts, stops)) == expected


# Nodes


@pytest.mark.parametrize("n", [0, *COUNTS, 100])
def test_nodes_are_hashed(hasher: Hasher, n: int) -> None:
    children = noise(64 * n).reshape(n, 64)
    expected = [sha256(b"\x01" + row.tobytes()).digest() for row in children]
    assert rows(hasher.node_hashes(children)) == expected


def test_nodes_at_both_ends_of_readable_memory_are_hashed(hasher: Hasher) -> None:
    page = guarded(PAGE)
    page[:] = noise(len(page))
    children = page.reshape(-1, 64)
    assert rows(hasher.node_hashes(children)) == rows(HashlibHasher().node_hashes(children))


# Links


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
    for hasher in HASHERS:
        headers = headers_of(*before)
        assert rows(hasher.link(headers, previous)) == expected_hashes
        assert [row.tobytes() for row in headers] == expected_headers


# Choosing one


def test_every_hasher_can_be_had_by_its_name() -> None:
    for name in names():
        if name != "cuda":
            assert hasher_named(name).name == name
    assert names()[0] == "hashlib"
    assert set(names()) >= {hasher.name for hasher in HASHERS}


def test_the_best_hasher_is_the_kernel_where_it_was_built() -> None:
    assert best_hasher().name == ("lanes" if INSTRUCTION_SETS else "hashlib")


@pytest.mark.parametrize("name", ["", "lanes-", "lanes-mmx", "Lanes", "sha256", "lanesavx2"])
def test_a_name_that_no_hasher_has_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        hasher_named(name)


def test_without_the_kernel_hashlib_is_used() -> None:
    """As after an installation without a compiler: no warning, and `lanes` says why."""
    program = """
import sys, warnings
warnings.simplefilter("error")
sys.modules["cairn.hashing._lanes"] = None
from cairn.core.errors import UsageError
from cairn.hashing import best_hasher, hasher, names
print(best_hasher().name, *(name for name in names() if name != "cuda"))
for name in ("lanes", "lanes-scalar"):
    try:
        hasher(name)
    except UsageError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    refused = "the C kernel was not built when cairn-ledger was installed"
    assert (done.stderr, done.stdout.splitlines()) == ("", ["hashlib hashlib", refused, refused])


# Its self-test


@pytest.fixture
def _asked_anew() -> Iterator[None]:
    cairn.hashing._lanes_work.cache_clear()
    yield
    cairn.hashing._lanes_work.cache_clear()


needs_kernel = pytest.mark.skipif(not INSTRUCTION_SETS, reason="no C kernel was built")


@needs_kernel
@pytest.mark.usefixtures("_asked_anew")
def test_a_kernel_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = INSTRUCTION_SETS[-1]
    monkeypatch.setattr(cairn.hashing, "works", lambda isa: isa != wrong)
    with pytest.warns(RuntimeWarning, match=f"wrong hashes with {wrong}"):
        assert best_hasher().name == "hashlib"
    assert [name for name in names() if name != "cuda"] == ["hashlib"]
    with pytest.raises(UsageError, match="wrong hashes"):
        hasher_named("lanes")


@needs_kernel
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_the_kernel_gives_known_answers(isa: str) -> None:
    assert works(isa)


@needs_kernel
@pytest.mark.parametrize("method", ["leaf_hashes", "node_hashes", "link"])
def test_one_wrong_bit_of_the_last_hash_is_noticed(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    right = getattr(LanesHasher, method)

    def wrong(*arguments: Any) -> NDArray[np.uint8]:
        hashes: NDArray[np.uint8] = right(*arguments)
        hashes[-1, -1] ^= 1
        return hashes

    monkeypatch.setattr(LanesHasher, method, wrong)
    assert not works(INSTRUCTION_SETS[0])


@needs_kernel
@pytest.mark.parametrize("message", EXAMPLES)
def test_every_example_is_asked(monkeypatch: pytest.MonkeyPatch, message: bytes) -> None:
    monkeypatch.setitem(EXAMPLES, message, "0" * 64)
    assert not works(INSTRUCTION_SETS[0])


def test_the_examples_are_right() -> None:
    assert all(sha256(message).hexdigest() == digest for message, digest in EXAMPLES.items())
