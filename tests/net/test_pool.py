"""The pool: in order, within bounds, and no one at the cost of another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.net.pool import Added, Pool

ENTRIES, SIZE, SECONDS, SHARE = 6, 60, 10.0, 2


def small() -> Pool:
    return Pool(entries=ENTRIES, size=SIZE, seconds=SECONDS, share=SHARE)


def entry_of(number: int) -> tuple[bytes, bytes]:
    """Return id and entry number `number`: 3 to 35 bytes."""
    return bytes([number]) * 32, bytes([number]) * (3 + number * number % 33)


@dataclass
class One:
    id: bytes
    entry: bytes
    received: float
    source: str | None
    arrival: int


@dataclass
class Model:
    """The pool, as a list that is searched from end to end for everything."""

    all: list[One] = field(default_factory=list)
    arrivals: int = 0

    def size(self, *, kept: bool = False) -> int:
        return sum(len(one.entry) for one in self.all if not kept or one.source is None)

    def known(self, entry_id: bytes) -> One | None:
        return next((one for one in self.all if one.id == entry_id), None)

    def new(self, entry_id: bytes, entry: bytes, now: float, source: str | None) -> One:
        self.arrivals += 1
        return One(entry_id, entry, now, source, self.arrivals)

    def make_room(self, entry: bytes) -> None:
        while len(self.all) + 1 > ENTRIES or self.size() + len(entry) > SIZE:
            peers = [one for one in self.all if one.source is not None]
            if not peers:
                return
            self.all.remove(max(peers, key=lambda one: one.arrival))

    def add(self, entry_id: bytes, entry: bytes, now: float, source: str | None) -> Added:
        if known := self.known(entry_id):
            known.source = None if source is None else known.source
            return Added.KNOWN
        if source is None:
            kept = [one for one in self.all if one.source is None]
            if len(kept) >= ENTRIES or self.size(kept=True) + len(entry) > SIZE:
                return Added.FULL
            self.make_room(entry)
        else:
            mine = [one for one in self.all if one.source == source]
            size = sum(len(one.entry) for one in mine) + len(entry)
            if len(mine) + 1 > ENTRIES / SHARE or size > SIZE / SHARE:
                return Added.SHARE
            if len(self.all) + 1 > ENTRIES or self.size() + len(entry) > SIZE:
                return Added.FULL
        self.all.append(self.new(entry_id, entry, now, source))
        return Added.NEW

    def give_back(self, entries: list[tuple[bytes, bytes]], now: float) -> None:
        for entry_id, entry in entries[::-1]:
            one = self.known(entry_id)
            if one:
                self.all.remove(one)
                one = replace(one, source=None)
            else:
                self.make_room(entry)
                one = self.new(entry_id, entry, now, None)
            self.all.insert(0, one)

    def remove(self, ids: list[bytes]) -> None:
        self.all = [one for one in self.all if one.id not in ids]

    def take(self, count: int, size: int) -> list[bytes]:
        fit = [one.entry for one in self.all if len(one.entry) <= size]
        most = max(n for n in range(len(fit) + 1) if n <= count and sum(map(len, fit[:n])) <= size)
        return fit[:most]

    def expired(self, now: float) -> list[bytes]:
        """Return what is too old, up to the first from a peer that is not: time may go back."""
        found = []
        for one in sorted(self.all, key=lambda one: one.arrival):
            if one.source is not None:
                if one.received + SECONDS > now:
                    break
                found.append(one.id)
        return found


class Add(NamedTuple):
    number: int
    source: str | None


class GiveBack(NamedTuple):
    numbers: list[int]


class Remove(NamedTuple):
    numbers: list[int]


class Wait(NamedTuple):
    seconds: float


class Expire(NamedTuple):
    pass


numbers = st.integers(0, 25)
some = st.lists(numbers, max_size=5, unique=True)
steps = st.one_of(
    st.builds(Add, numbers, st.sampled_from(["mallory", "bob", "carol", None])),
    st.builds(GiveBack, some),
    st.builds(Remove, some),
    st.builds(Wait, st.sampled_from([1.0, 5.0, 10.0, -2.0])),
    st.just(Expire()),
)


@given(st.lists(steps, max_size=40))
def test_it_does_what_the_slow_model_does(script: list[object]) -> None:
    pool, model, now = small(), Model(), 100.0
    given_back: set[bytes] = set()
    for step in script:
        kept = {one.id for one in model.all if one.source is None}
        match step:
            case Add(number, source):
                args = (*entry_of(number), now, source)
                assert pool.add(*args) == model.add(*args)
                assert kept <= set(pool)
            case GiveBack(some_numbers):
                entries = [entry_of(number) for number in some_numbers]
                given_back |= {entry_id for entry_id, _ in entries}
                pool.give_back(entries, now)
                model.give_back(entries, now)
                assert list(pool)[: len(entries)] == [entry_id for entry_id, _ in entries]
                assert kept <= set(pool)
            case Remove(some_numbers):
                ids = [entry_of(number)[0] for number in some_numbers]
                pool.remove(ids)
                model.remove(ids)
            case Wait(seconds):
                now += seconds
            case Expire():
                assert pool.expired(now) == model.expired(now)
                pool.remove(pool.expired(now))
                model.remove(model.expired(now))
                assert kept <= set(pool)
        agree(pool, model)
        bound(pool, given_back)


def agree(pool: Pool, model: Model) -> None:
    assert list(pool) == [one.id for one in model.all]
    assert len(pool) == len(model.all)
    assert pool.size == model.size()
    for one in model.all:
        assert one.id in pool
        assert pool.get(one.id) == one.entry
    for count in (0, 1, 2, 3, 100):
        for size in (0, 5, 20, 35, 1000):
            assert pool.take(count, size) == model.take(count, size)


def bound(pool: Pool, given_back: set[bytes]) -> None:
    """Nothing but what was given back can be past the bounds."""
    others = [entry for i in pool if i not in given_back and (entry := pool.get(i))]
    assert len(others) <= ENTRIES
    assert sum(map(len, others)) <= SIZE
    if not given_back:
        assert pool.size <= SIZE


def fill(pool: Pool, source: str | None, first: int, count: int, length: int = 5) -> list[Added]:
    return [
        pool.add(number.to_bytes(32, "big"), bytes(length), 0.0, source)
        for number in range(first, first + count)
    ]


def test_entries_come_out_in_the_order_in_which_they_came() -> None:
    pool = small()
    for number, source in ((3, "bob"), (1, None), (2, "carol")):
        pool.add(*entry_of(number), 0.0, source)
    assert pool.take(10, 100) == [entry_of(number)[1] for number in (3, 1, 2)]
    assert len(pool) == 3


def test_one_peer_cannot_have_more_than_its_share() -> None:
    pool = small()
    assert fill(pool, "mallory", 0, 5) == [Added.NEW] * 3 + [Added.SHARE] * 2
    assert fill(pool, "bob", 10, 1) == [Added.NEW]


def test_one_peer_cannot_have_more_bytes_than_its_share() -> None:
    assert fill(small(), "mallory", 0, 3, length=15) == [Added.NEW, Added.NEW, Added.SHARE]


def test_a_share_is_free_again_when_its_entries_are_mined() -> None:
    pool = small()
    fill(pool, "bob", 0, 3)
    pool.remove([(0).to_bytes(32, "big")])
    assert fill(pool, "bob", 5, 2) == [Added.NEW, Added.SHARE]


def test_peers_that_flood_a_full_pool_push_nobody_out() -> None:
    pool = small()
    fill(pool, "bob", 0, 3)
    fill(pool, None, 3, 3)
    before = list(pool)
    for peer in range(50):
        assert fill(pool, f"mallory {peer}", 100 + peer, 1) == [Added.FULL]
    assert list(pool) == before


def test_an_entry_of_our_own_user_finds_room_and_the_newest_from_peers_goes() -> None:
    pool = small()
    fill(pool, "mallory", 0, 3)
    fill(pool, "bob", 3, 3)
    assert fill(pool, None, 6, 1) == [Added.NEW]
    assert list(pool) == [n.to_bytes(32, "big") for n in (0, 1, 2, 3, 4, 6)]


def test_an_entry_of_our_own_user_that_cannot_fit_pushes_nobody_out() -> None:
    pool = small()
    fill(pool, "bob", 0, 3)
    assert fill(pool, None, 10, 1, length=SIZE + 1) == [Added.FULL]
    assert len(pool) == 3


def test_our_own_user_is_told_when_the_pool_is_full_of_kept_entries() -> None:
    assert fill(small(), None, 0, 7) == [Added.NEW] * 6 + [Added.FULL]


def test_an_entry_from_a_peer_that_our_own_user_posts_is_kept_from_then_on() -> None:
    pool = small()
    fill(pool, "bob", 0, 1)
    assert fill(pool, None, 0, 1) == [Added.KNOWN]
    assert pool.expired(1e9) == []
    pool.give_back([(bytes([n]) * 32, bytes(9)) for n in range(50, 60)], 0.0)
    assert (0).to_bytes(32, "big") in pool
    assert fill(pool, "bob", 20, 1) == [Added.FULL]


def test_a_peer_that_tells_of_a_kept_entry_does_not_get_to_own_it() -> None:
    pool = small()
    fill(pool, None, 0, 1)
    assert fill(pool, "mallory", 0, 1) == [Added.KNOWN]
    assert pool.expired(1e9) == []


def test_what_a_reorganisation_gives_back_goes_in_front_in_its_order() -> None:
    pool = small()
    fill(pool, "bob", 0, 3)
    fill(pool, None, 3, 3)
    back = [(bytes([n]) * 32, bytes(5)) for n in (7, 8)]
    pool.give_back(back, 1.0)
    assert list(pool)[:2] == [b"\7" * 32, b"\x08" * 32]
    kept = [n.to_bytes(32, "big") for n in (0, 3, 4, 5)]
    assert list(pool)[2:] == kept  # the newest from peers made room


def test_what_is_given_back_is_never_refused_and_goes_by_no_age() -> None:
    pool = small()
    fill(pool, None, 0, 6)
    back = [(bytes([n]) * 32, bytes(50)) for n in range(100, 110)]
    pool.give_back(back, 0.0)
    assert len(pool) == 16
    assert pool.expired(1e9) == []
    assert fill(pool, "bob", 50, 1) == fill(pool, None, 60, 1) == [Added.FULL]
    pool.remove(list(pool))
    assert (len(pool), pool.size) == (0, 0)
    assert fill(pool, "bob", 50, 1) == fill(pool, None, 60, 1) == [Added.NEW]


def test_an_entry_from_a_peer_that_was_on_the_chain_is_kept_from_then_on() -> None:
    pool = small()
    fill(pool, "bob", 0, 3)
    pool.give_back([((1).to_bytes(32, "big"), bytes(5))], 1.0)
    assert list(pool) == [n.to_bytes(32, "big") for n in (1, 0, 2)]
    assert pool.expired(1e9) == [n.to_bytes(32, "big") for n in (0, 2)]
    assert fill(pool, "bob", 20, 2) == [Added.NEW, Added.SHARE]


def test_the_pool_can_be_filled_to_the_last_byte() -> None:
    pool = small()
    assert fill(pool, "bob", 0, 2, length=15) == fill(pool, "carol", 2, 2, length=15)
    assert pool.size == SIZE
    assert fill(pool, None, 4, 4, length=15) == [Added.NEW] * 4
    assert (pool.size, len(pool)) == (SIZE, 4)


def test_what_nobody_mines_in_time_goes_by_age() -> None:
    pool = Pool(entries=100, size=1000, seconds=10.0, share=1)
    for second in range(5):
        pool.add(bytes([second]) * 32, b"entry", float(second), "bob")
    assert pool.expired(9.9) == []
    assert pool.expired(10.0) == [b"\0" * 32]
    assert pool.expired(12.5) == [bytes([n]) * 32 for n in range(3)]
    assert len(pool) == 5


def test_an_entry_that_fits_no_block_does_not_hold_up_the_others() -> None:
    pool = small()
    pool.add(b"a" * 32, bytes(30), 0.0, None)
    pool.add(b"b" * 32, bytes(20), 0.0, None)
    assert pool.take(10, 25) == [bytes(20)]


def test_an_entry_that_does_not_fit_this_block_is_the_first_of_the_next() -> None:
    pool = small()
    for name, length in ((b"a", 20), (b"b", 25), (b"c", 3)):
        pool.add(name * 32, bytes(length), 0.0, None)
    assert pool.take(10, 40) == [bytes(20)]
    pool.remove([b"a" * 32])
    assert pool.take(10, 40) == [bytes(25), bytes(3)]


@pytest.mark.parametrize("seconds", [0.0, 1e12])
def test_nothing_is_there_in_an_empty_pool(seconds: float) -> None:
    pool = Pool()
    assert pool.take(10, 1000) == pool.expired(seconds) == list(pool) == []
    assert pool.get(b"a" * 32) is None
    pool.remove([b"a" * 32])
    assert pool.size == 0


def test_as_many_peers_as_there_are_leave_nothing_behind() -> None:
    """What is kept of a peer goes with its last entry: peers come and go for years."""
    pool = Pool()
    for peer in range(1000):
        pool.add(peer.to_bytes(32, "big"), b"entry", 0.0, peer)
    pool.remove(list(pool))
    tables = [v for v in vars(pool).values() if isinstance(v, dict)]
    assert len(tables) >= 4
    assert not any(tables)
