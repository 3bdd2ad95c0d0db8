"""The mining search, by every implementation, against hashing one header after another."""

from __future__ import annotations

import threading
import time
from functools import partial
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairn.core.header import Header, Kind
from cairn.hashing.lanes import INSTRUCTION_SETS
from cairn.hashing.search import Search, plain, search, search_all

SEARCHES: list[Search] = [plain, search, *(partial(search, isa=i) for i in INSTRUCTION_SETS)]
NAMES = ["plain", "search", *INSTRUCTION_SETS]
HEADER = bytes(range(104))
ALL = 2**64


def hash_of(header: bytes, nonce: int) -> int:
    """The definition, by nothing but the format."""
    whole = header[:96] + nonce.to_bytes(8, "big")
    return int.from_bytes(sha256(b"\x00" + whole).digest(), "big")


@pytest.fixture(params=SEARCHES, ids=NAMES)
def find(request: pytest.FixtureRequest) -> Search:
    found: Search = request.param
    return found


@pytest.mark.parametrize("first", [0, 1, 255, 256, 2**40 - 300, 2**56, ALL - 600])
def test_the_nonce_found_is_the_lowest_of_the_range(find: Search, first: int) -> None:
    hashes = [hash_of(HEADER, first + i) for i in range(600)]
    for bits in range(245, 257):
        served = [i for i, value in enumerate(hashes) if value <= 2**bits]
        for begin in (0, 1, 7, 255, 256, 300):
            lowest = next((first + i for i in served if i >= begin), None)
            assert find(HEADER, first + begin, 600 - begin, 2**bits) == lowest


def test_no_nonce_outside_the_range_is_found(find: Search) -> None:
    nonce = plain(HEADER, 0, 2**16, 2**244)
    assert nonce is not None
    assert find(HEADER, 0, nonce, 2**244) is None
    assert find(HEADER, nonce, 1, 2**244) == nonce
    assert find(HEADER, 0, 0, 2**256) is None
    assert find(HEADER, ALL, 0, 2**256) is None


def test_all_bits_of_the_target_count(find: Search) -> None:
    """Near the hash in each of its words, so that a word left out would be noticed."""
    value = hash_of(HEADER, 77)
    assert find(HEADER, 77, 1, value) == 77
    for bit in range(256):
        serves = value ^ 1 << bit > value
        assert find(HEADER, 77, 1, value ^ 1 << bit) == (77 if serves else None)


def test_the_least_hash_of_a_group_serves_for_itself_as_target(find: Search) -> None:
    """With no other nonce near that would make one look there."""
    value, nonce = min((hash_of(HEADER, i), i) for i in range(256))
    assert find(HEADER, 0, 256, value) == nonce
    assert find(HEADER, 0, 256, value - 1) is None


def test_every_byte_of_the_header_counts_but_the_nonce(find: Search) -> None:
    for position in range(104):
        header = bytearray(HEADER)
        header[position] ^= 0x80
        value = hash_of(bytes(header), 5)
        assert find(bytes(header), 5, 1, value) == 5
        assert find(bytes(header), 5, 1, value - 1) is None
        assert (value == hash_of(HEADER, 5)) == (position >= 96)


def test_the_extremes_of_targets(find: Search) -> None:
    for target in (2**256 - 1, 2**256, 2**300):
        assert find(HEADER, 300, 10, target) == 300
        assert find(HEADER, ALL - 1, 1, target) == ALL - 1
    assert find(HEADER, 0, 1000, 0) is None


@given(
    st.binary(min_size=104, max_size=104),
    st.integers(0, ALL - 1) | st.integers(0, 600) | st.integers(ALL - 600, ALL - 1),
    st.integers(0, 1500),
    st.integers(240, 257),
    st.integers(-1, 1),
)
@example(HEADER, ALL - 1, 1, 256, 0)
def test_any_search_finds_what_the_plain_one_finds(
    header: bytes, first: int, count: int, bits: int, off: int
) -> None:
    count = min(count, ALL - first)
    expected = plain(header, first, count, 2**bits + off)
    for one in SEARCHES[1:]:
        assert one(header, first, count, 2**bits + off) == expected


def test_the_nonce_found_makes_a_header_with_that_hash(find: Search) -> None:
    header = Header(
        kind=Kind.BATCH,
        bits=0x1F00FFFF,
        index=9,
        previous_hash=bytes(range(32)),
        timestamp=1_700_000_000_000_000,
        count=0,
        size=0,
        data_root=sha256().digest(),
    )
    target = 0xFFFF << 232
    nonce = find(header.pack(), 0, 2**20, target)
    assert nonce is not None
    found = Header.unpack(header.pack()[:96] + nonce.to_bytes(8, "big"))
    assert found.nonce == nonce
    assert int.from_bytes(found.hash, "big") <= target


@pytest.mark.parametrize(
    ("header", "first", "count", "target", "says"),
    [
        (HEADER[:-1], 0, 1, 0, "104 bytes, not 103"),
        (HEADER + b"\x00", 0, 1, 0, "104 bytes, not 105"),
        (HEADER, -1, 1, 0, "below 2\\^64"),
        (HEADER, 0, -1, 0, "below 2\\^64"),
        (HEADER, 1, ALL, 0, "below 2\\^64"),
        (HEADER, ALL, 1, 0, "below 2\\^64"),
        (HEADER, 0, 1, -1, "at least 0"),
    ],
)
def test_what_is_no_search_is_refused(
    find: Search, header: bytes, first: int, count: int, target: int, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        find(header, first, count, target)


@pytest.mark.skipif(not INSTRUCTION_SETS, reason="the C kernel was not built")
def test_the_kernel_checks_its_arguments_itself() -> None:
    from cairn.hashing import _lanes

    isa, target = INSTRUCTION_SETS[0], bytes(32)
    assert _lanes.search(isa, HEADER, 3, 3, b"\xff" * 32) == 3
    for bad in (
        ("no such", HEADER, 0, 1, target),
        (isa, HEADER[1:], 0, 1, target),
        (isa, HEADER, 2, 1, target),
        (isa, HEADER, 0, 1, target[1:]),
    ):
        with pytest.raises(ValueError):
            _lanes.search(*bad)
    for first, last in ((-1, 1), (0, ALL), (ALL, ALL)):
        with pytest.raises(OverflowError):
            _lanes.search(isa, HEADER, first, last, target)
    with pytest.raises(TypeError):
        _lanes.search(isa, HEADER, 0.0, 1, target)  # type: ignore[arg-type]


# On all cores


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("step", [1, 100, 256, 1000, 10**6])
def test_on_all_cores_the_lowest_is_found_too(threads: int, step: int) -> None:
    for bits in (0, 244, 246, 256):
        expected = plain(HEADER, 100, 3000, 2**bits - 1)
        outcome = search_all(HEADER, 100, 3000, 2**bits - 1, threads=threads, step=step)
        assert outcome.nonce == expected
        assert outcome.tried == (3000 if expected is None else expected + 1 - 100)


def test_by_default_it_uses_what_is_here() -> None:
    nonce = plain(HEADER, 0, 2**16, 2**244)
    assert nonce is not None
    outcome = search_all(HEADER, 0, ALL, 2**244)
    assert (outcome.nonce, outcome.tried) == (nonce, nonce + 1)


def test_a_slow_slice_before_the_one_that_finds_is_waited_for() -> None:
    """Two slices have a nonce; the later one is done first."""
    later_done = threading.Event()

    def by(header: bytes, first: int, count: int, target: int, /) -> int | None:
        if first == 10:
            assert later_done.wait(10)
            return 13
        if first == 20:
            later_done.set()
            return 20
        return None

    outcome = search_all(HEADER, 0, 1000, 0, by=by, threads=3, step=10)
    assert (outcome.nonce, outcome.tried) == (13, 14)


def test_it_stops_when_told_and_says_how_far_it_came() -> None:
    asked: list[int] = []
    begun: list[int] = []

    def by(header: bytes, first: int, count: int, target: int, /) -> int | None:
        begun.append(first)
        return None

    def should_stop(tried: int) -> bool:
        assert threading.current_thread() is caller
        asked.append(tried)
        return tried >= 30

    caller = threading.current_thread()
    outcome = search_all(HEADER, 5, ALL - 5, 0, by=by, threads=2, step=10, should_stop=should_stop)
    assert (outcome.nonce, outcome.tried) == (None, 30)
    assert asked == [10, 20, 30]
    assert max(begun) <= 5 + 60


def test_slices_that_no_thread_has_begun_are_dropped_when_it_stops() -> None:
    begun: list[int] = []

    def by(header: bytes, first: int, count: int, target: int, /) -> int | None:
        begun.append(first)
        if first > 0:
            time.sleep(0.5)  # by then it was stopped
        return None

    search_all(HEADER, 0, ALL, 0, by=by, threads=2, step=10, should_stop=lambda tried: True)
    assert 30 not in begun


def test_it_stops_at_the_end_of_the_range_without_being_told() -> None:
    outcome = search_all(HEADER, ALL - 25, 25, 0, threads=2, step=10)
    assert (outcome.nonce, outcome.tried) == (None, 25)
    assert search_all(HEADER, 7, 0, 2**256).tried == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_ends_it_and_leaves_no_thread(error: type[BaseException]) -> None:
    before = threading.active_count()

    def should_stop(tried: int) -> bool:
        raise error

    with pytest.raises(error):
        search_all(HEADER, 0, ALL, 0, should_stop=should_stop, threads=2, step=1000)
    assert threading.active_count() == before


def test_a_failing_search_is_not_taken_for_an_unlucky_one() -> None:
    def by(header: bytes, first: int, count: int, target: int, /) -> int | None:
        raise OSError("the device is gone")

    with pytest.raises(OSError, match="gone"):
        search_all(HEADER, 0, ALL, 0, by=by)


def test_no_threads_and_no_step_are_refused() -> None:
    for threads, step in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ValueError, match="at least 1"):
            search_all(HEADER, 0, 1, 0, threads=threads, step=step)
