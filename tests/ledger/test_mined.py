"""Work ledgers without a network: entries that wait, chains that give way, and what is final.

The chain is driven by hand, with blocks that were mined at the easiest target there is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cairn import Ledger
from cairn.core.block import Block
from cairn.core.canonical import canonical
from cairn.core.entry import Entry
from cairn.core.errors import (
    DamagedError,
    EntryError,
    FormatError,
    KeyReusedError,
    NoSuchBlockError,
    NoSuchEntryError,
    NotFinalError,
    ReadOnlyError,
    StoreError,
    UsageError,
)
from cairn.core.genesis import Genesis, Limits, Terms, Work
from cairn.core.header import Kind
from cairn.core.rules import InvalidChainError
from cairn.core.segment import Segment
from cairn.core.work import MAX_BITS, work_of
from cairn.ledger import chain as chain_module
from cairn.ledger.chain import Chain
from cairn.ledger.exchange import export_lines, import_chain
from cairn.ledger.search import find_blocks, first_at
from cairn.ledger.standing import Standing
from cairn.ledger.writer import Append
from cairn.proof.checkpoint import Checkpoint
from cairn.proof.keyring import Keyring
from cairn.store import disk
from cairn.store.interface import Pooled
from tests.builders import SEAL, START, mine, mined, salts
from tests.store.sealed import files_of

GENESIS = Genesis(name="test", seal=SEAL, limits=Limits(size=2048))
DEPTH = SEAL.final_depth


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "home")


@pytest.fixture(params=["memory", "disk"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, keyring: Keyring) -> Iterator[Ledger]:
    made = (
        Ledger.in_memory(GENESIS, keyring=keyring)
        if request.param == "memory"
        else Ledger.create(tmp_path / "ledger", GENESIS, keyring=keyring)
    )
    with made:
        yield made


def grow(ledger: Ledger, *contents: Sequence[Any], at: int | None = None) -> list[Block]:
    """Mine a batch of each of `contents` on the block before position `at`, by default the end."""
    at = len(ledger) if at is None else at
    return follow(ledger, mined(*contents, first=ledger[:at])[at:])


def follow(ledger: Ledger, blocks: list[Block]) -> list[Block]:
    """Let mined blocks take the place of what the chain has there."""
    segment = Segment.from_blocks(blocks[0].index, blocks)
    chain = ledger.chain()
    chain.check_bodies(segment)
    chain.advance([segment])
    return blocks


def with_entries(ledger: Ledger, *entries: bytes) -> Block:
    """Return a mined block of these entries that may follow the end."""
    head = ledger.head
    time = head.header.timestamp + SEAL.interval
    return mine(ledger.terms, [Entry.from_bytes(entry) for entry in entries], head, time)


def entry_of(ledger: Ledger, entry_id: str) -> bytes:
    """Return what waits under an id."""
    return next(one.entry for one in ledger._store.pool() if one.id.hex() == entry_id)


# What kind of ledger it is


def test_a_work_ledger_says_so_and_keeps_it_on_the_disk(tmp_path: Path) -> None:
    for bits, found in ((None, MAX_BITS), (0x1F00FFFF, 0x1F00FFFF)):
        path = tmp_path / f"{bits}"
        Ledger.create(path, GENESIS, bits=bits).close()
        with Ledger.open(path) as ledger:
            assert ledger.is_mined
            assert ledger.genesis == GENESIS
            assert ledger[0].header.bits == found
            assert ledger.terms == Terms.of(ledger[0])
            assert (ledger.terms.final_depth, ledger.final, len(ledger)) == (DEPTH, 1, 1)
            assert ledger.validate().valid
    assert Ledger.in_memory(GENESIS, bits=0x1F00FFFF)[0].header.bits == 0x1F00FFFF


def test_an_instant_ledger_is_final_to_its_end_and_asks_for_no_work(tmp_path: Path) -> None:
    ledger = Ledger.in_memory()
    ledger.append(1)
    assert (ledger.is_mined, ledger.final, ledger.terms.asert) == (False, 2, None)
    with pytest.raises(FormatError, match="bits 207fffff do not go with the seal"):
        Ledger.create(tmp_path / "ledger", Genesis(), bits=MAX_BITS)
    assert not (tmp_path / "ledger").exists()


@pytest.mark.parametrize("bits", [0, 0x217FFFFF, 0x01FEDCBA])
def test_a_work_ledger_does_not_begin_with_what_is_no_target(tmp_path: Path, bits: int) -> None:
    with pytest.raises(FormatError, match=f"bits {bits:08x} do not go with the seal"):
        Ledger.create(tmp_path / "ledger", GENESIS, bits=bits)


APPENDS: dict[str, Callable[[Ledger], object]] = {
    "append": lambda ledger: ledger.append(1),
    "append_json": lambda ledger: ledger.append_json("1"),
    "append_all": lambda ledger: ledger.append_all([1, 2]),
    "commit": lambda ledger: ledger.commit([Append([b"1"])]),
    "extend": lambda ledger: ledger.extend([1]),
    "extend_json": lambda ledger: ledger.extend_json(["1"]),
}


@pytest.mark.parametrize("name", APPENDS)
def test_nothing_is_appended_to_a_work_ledger(ledger: Ledger, name: str) -> None:
    with pytest.raises(UsageError, match=r"work ledger, of which every block is mined.*use submit"):
        APPENDS[name](ledger)
    assert (len(ledger), ledger._store.pool()) == (1, [])


def test_no_record_is_made_in_a_work_ledger(ledger: Ledger) -> None:
    grow(ledger, [1])
    with pytest.raises(UsageError, match="no record of an erasure"):
        ledger.erase(1, reason="asked to")
    with pytest.raises(UsageError, match="every node signs with a key of its own"):
        ledger.rotate_key()
    assert len(ledger) == 2


def test_nothing_is_submitted_to_an_instant_ledger() -> None:
    ledger = Ledger.in_memory()
    for submit in (
        lambda: ledger.submit(1),
        lambda: ledger.submit_json("1"),
        lambda: ledger.make_entries([b"1"]),
        lambda: ledger.keep([]),
    ):
        with pytest.raises(UsageError, match=r"instant ledger.*use append"):
            submit()
    with pytest.raises(UsageError, match="instant ledger"):
        ledger.chain()


def test_the_writing_side_is_for_who_has_opened_it_to_write(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.create(path, GENESIS) as ledger:
        assert isinstance(ledger.chain(), Chain)
        assert ledger.chain().id.hex() == ledger.id
    with Ledger.open(path, read_only=True) as ledger:
        with pytest.raises(ReadOnlyError):
            ledger.chain()
        with pytest.raises(ReadOnlyError):
            ledger.submit(1)


# Entries that wait


def test_what_was_submitted_waits_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.create(path, GENESIS) as ledger:
        ids = [ledger.submit({"b": 1.0, "a": 2}), ledger.submit_json('{"b": 1, "a": 2.0}')]
        ids.append(ledger.submit(3))
    with Ledger.open(path, read_only=True) as ledger:
        assert [ledger.entry(one) for one in ids] == [Standing(one, "pending") for one in ids]
        assert len(set(ids)) == 3  # equal values are entries of their own
        entries = [Entry.from_bytes(one.entry) for one in ledger._store.pool()]
        assert [entry.canonical for entry in entries] == [b'{"a":2,"b":1}'] * 2 + [b"3"]
        assert [entry.id.hex() for entry in entries] == ids


def test_what_cannot_be_recorded_is_refused_and_nothing_waits(ledger: Ledger) -> None:
    with pytest.raises(EntryError, match="nan"):
        ledger.submit(float("nan"))
    with pytest.raises(EntryError, match="duplicate key"):
        ledger.submit_json('{"a":1,"a":2}')
    with pytest.raises(EntryError, match="past the limit of this ledger, 2032"):
        ledger.submit("x" * 2031)
    with pytest.raises(EntryError, match="no value"):
        ledger.make_entries([])
    for key in ("", "x" * 256, "a\nb"):
        with pytest.raises(EntryError, match="printable"):
            ledger.submit(1, key=key)
    assert ledger._store.pool() == []
    ledger.submit("x" * 2030)


def test_a_retry_is_the_same_entry_on_every_node(ledger: Ledger, tmp_path: Path) -> None:
    first = ledger.submit({"paid": 100}, key="order-1")
    assert ledger.submit({"paid": 100}, key="order-1") == first
    assert ledger.submit_json('{"paid": 1e2}', key="order-1") == first
    assert len(ledger._store.pool()) == 1
    import_chain(tmp_path / "other node", [line.encode() for line in export_lines(ledger)])
    with Ledger.open(tmp_path / "other node") as other:
        assert other.submit({"paid": 100}, key="order-1") == first
    assert ledger.submit({"paid": 100}, key="order-2") != first
    assert Ledger.in_memory(GENESIS).submit({"paid": 100}, key="order-1") != first
    assert ledger.submit({"paid": 100}) != first


def test_key_of_another_value_is_refused(ledger: Ledger) -> None:
    first = ledger.submit(1, key="k")
    grow(ledger, *[[]] * (DEPTH + 1))
    for again in (
        lambda: ledger.submit(2, key="k"),
        lambda: ledger.make_entries([b"1", b"2"], key="k"),
        lambda: ledger.make_entries([b"2", b"1"], key="k"),
    ):
        with pytest.raises(KeyReusedError, match="key 'k' was used for another value"):
            again()
    made = Ledger.in_memory(GENESIS).make_entries([b"2"], key="k")
    with pytest.raises(KeyReusedError):
        ledger.keep(made, key="k")
    assert [one.id.hex() for one in ledger._store.pool()] == [first]


def test_list_under_a_key_is_the_same_only_if_all_of_it_is(ledger: Ledger) -> None:
    texts = [b"1", b"1", b"2"]
    made = ledger.make_entries(texts, key="k")
    ledger.keep(made, key="k")
    assert len({one.id for one in made}) == 3
    again = ledger.make_entries(texts, key="k")
    ledger.keep(again, key="k")
    assert [one.id for one in again] == [one.id for one in made]
    assert len(ledger._store.pool()) == 3
    for others in ([b"1"], [b"1", b"1"], [b"1", b"1", b"3"], [b"1", b"2", b"1"]):
        with pytest.raises(KeyReusedError):
            ledger.make_entries(others, key="k")


def test_retry_of_what_is_final_does_not_wait_again(ledger: Ledger) -> None:
    first = ledger.submit(1, key="k")
    entry = entry_of(ledger, first)
    ledger._store.pool_remove([bytes.fromhex(first)])
    assert ledger.submit(1, key="k") == first  # it had been dropped, for its age
    assert ledger.entry(first).status == "pending"
    follow(ledger, [with_entries(ledger, entry)])
    grow(ledger, *[[]] * DEPTH)
    ledger._store.pool_remove([bytes.fromhex(first)])
    assert ledger.submit(1, key="k") == first
    assert (ledger._store.pool(), ledger.entry(first).status) == ([], "final")


@pytest.mark.parametrize("is_retry", [True, False], ids=["retry", "first try here"])
def test_what_was_answered_while_it_was_confirmed_outlives_a_reorganisation_and_a_restart(
    ledger: Ledger, is_retry: bool
) -> None:
    if is_retry:
        ledger.submit(1, key="k")
    [made] = ledger.make_entries([b"1"], key="k")
    follow(ledger, [with_entries(ledger, made.entry)])
    assert ledger.submit(1, key="k") == made.id.hex()
    assert ledger.entry(made.id.hex()).status == "confirmed"
    grow(ledger, *[[]] * (DEPTH + 2), at=1)  # so that its block is forgotten
    assert list(ledger._store.sides()) == []
    assert list(ledger.chain().waiting()) == [(made.id, made.entry)]


def test_what_is_final_is_let_go_of_without_a_look_at_what_waits(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [ledger.submit(i) for i in range(6)]
    entries = [one.entry for one in ledger._store.pool()]

    def left() -> list[str]:
        chain.forget_final()
        return [one.id.hex() for one in ledger._store.pool()]

    follow(ledger, [with_entries(ledger, entries[0])])
    grow(ledger, *[[]] * (DEPTH - 1))
    follow(ledger, [with_entries(ledger, entries[5])])
    chain = ledger.chain()
    assert left() == kept[1:], "of a run before"

    looked_up: list[bytes] = []
    monkeypatch.setattr(ledger._store, "find_entry", looked_up.append)
    monkeypatch.setattr(ledger._store, "find_entries", looked_up.extend)
    follow(ledger, [with_entries(ledger, entries[1], entries[2])])
    follow(ledger, [with_entries(ledger, entries[3])])
    assert left() == kept[1:], "they are confirmed"
    grow(ledger, *[[]] * (DEPTH - 1))
    assert left() == kept[3:5]
    grow(ledger, [])
    assert left() == left() == kept[4:5]
    assert looked_up == []


def test_of_much_that_is_final_at_once_what_waits_is_looked_up_and_not_every_entry(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_module, "FEW_FINAL", 2)
    kept = [ledger.submit(i) for i in range(4)]
    entries = [one.entry for one in ledger._store.pool()]
    chain = ledger.chain()
    chain.forget_final()
    follow(ledger, [with_entries(ledger, entries[0])])
    follow(ledger, [with_entries(ledger, entries[1], entries[2])])
    grow(ledger, *[[]] * DEPTH)
    follow(ledger, [with_entries(ledger, entries[3])])
    asked: list[bytes] = []
    monkeypatch.setattr(ledger._store, "pool_has", asked.append)
    chain.forget_final()
    assert [one.id.hex() for one in ledger._store.pool()] == kept[3:], "it is confirmed"
    assert asked == []


def test_what_a_first_sync_has_brought_becomes_final_in_turns(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is sealed in turns, by the blocks that come after it, also after a restart."""
    monkeypatch.setattr(chain_module, "FINAL_AT_ONCE", 3)
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 3)
    blocks = mined(*([n] for n in range(30)), first=ledger[:1])
    chain = ledger.chain()
    chain.advance([Segment.from_blocks(1, blocks[1:19])], most_final=1)
    assert chain.final == 1
    finals = []
    for block in blocks[19:]:
        if block.index == 21:
            chain = ledger.chain()
        chain.advance([Segment.from_blocks(block.index, [block])])
        finals.append(chain.final)
        assert ledger.final == chain.final
        assert len(files_of(tmp_path / "ledger")) <= len(finals)
    assert finals == [4, 7, 10, 13, 16, *range(25 - DEPTH, 32 - DEPTH)]
    assert ledger[:] == blocks
    assert ledger.validate().valid


def test_after_a_restart_a_chain_is_the_same_with_less_of_it_at_hand(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little of it is final."""
    monkeypatch.setattr(chain_module, "REMEMBERED", 2)
    before = ledger.chain()
    blocks = mined(*([n] for n in range(3 * DEPTH)), first=ledger[:1])
    before.advance([Segment.from_blocks(1, blocks[1:])], most_final=3)
    chain = ledger.chain()
    assert len(chain._known) == 2 + DEPTH
    for one in (before, chain):
        assert (one.length, one.work, one.final) == (len(blocks), 2 * (len(blocks) - 1), 3)
        assert one.tip.hash == blocks[-1].stored_hash
        for block in blocks:
            assert one.position(block.stored_hash) == block.index
            assert one.edge(block.index).hash == block.stored_hash
            assert one.work_at(block.index) == 2 * block.index
        assert one.locator()[-1] == blocks[0].stored_hash
    other = mined(*["other"] * len(blocks), first=blocks[:4])[4:]
    move = chain.advance([Segment.from_blocks(4, other)])  # from before what is at hand
    assert [segment.start for segment in move.disconnected][:1] == [4]
    assert chain.work == 2 * (len(other) + 3) == ledger._store.work()
    assert ledger[:] == [*blocks[:4], *other]


def test_the_end_is_seen_whole_by_other_threads_while_the_chain_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chain_module, "REMEMBERED", 1)
    ledger = Ledger.in_memory(GENESIS)
    chain, seen = ledger.chain(), []

    def asked(bits: int) -> int:  # in the middle of it
        seen.append((chain.length, chain.tip, chain.work, chain.final))
        return work_of(bits)

    monkeypatch.setattr(chain_module, "work_of", asked)
    blocks = mined(*[[]] * 40, first=ledger[:1])
    for start, stop in ((1, 4), (4, 41)):  # more at last than are remembered
        before = chain.length, chain.tip, chain.work, chain.final
        chain.advance([Segment.from_blocks(start, blocks[start:stop])])
        assert set(seen) == {before}
        assert (chain.length, chain.tip.index, chain.work) == (stop, stop - 1, 2 * (stop - 1))
        assert chain.final == max(stop - DEPTH, 1) == ledger.final
        assert chain.tip.hash == blocks[stop - 1].stored_hash
        seen.clear()


def test_first_try_here_of_what_is_final_does_not_wait(ledger: Ledger) -> None:
    [elsewhere] = ledger.make_entries([b"1"], key="k")
    follow(ledger, [with_entries(ledger, elsewhere.entry)])
    grow(ledger, *[[]] * DEPTH)
    assert ledger.submit(1, key="k") == elsewhere.id.hex()
    assert ledger._store.pool() == []
    with pytest.raises(KeyReusedError):
        ledger.submit(2, key="k")


def test_many_threads_with_one_key_submit_one_entry(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: ledger.submit({"a": 1}, key="k"), range(64)))
        others = list(pool.map(partial(ledger.submit, key=None), range(64)))
    assert len(ids) == 1
    assert [one.id.hex() for one in ledger._store.pool()][:1] == list(ids)
    assert {one.id.hex() for one in ledger._store.pool()} == ids | set(others)


@pytest.mark.parametrize("text", [b"1", b"2"])
def test_of_two_with_one_key_at_once_the_later_is_a_retry_or_refused(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    """Both have seen that the key is not known yet."""
    store, pool_add = ledger._store, ledger._store.pool_add
    mine, other = (ledger.make_entries([text], key="k") for text in (b"1", text))

    def faster(pooled: Sequence[Pooled], key: str | None = None) -> None:
        monkeypatch.setattr(store, "pool_add", pool_add)
        pool_add(other, key)
        pool_add(pooled, key)

    monkeypatch.setattr(store, "pool_add", faster)
    if text == b"1":
        ledger.keep(mine, key="k")
    else:
        with pytest.raises(KeyReusedError):
            ledger.keep(mine, key="k")
    assert [one.id for one in store.pool()] == [other[0].id]


# Where an entry stands


def test_entry_is_pending_then_confirmed_then_final(ledger: Ledger) -> None:
    entry_id = ledger.submit("x")
    entry = entry_of(ledger, entry_id)
    assert ledger.entry(entry_id) == Standing(entry_id, "pending")
    grow(ledger, ["other"])
    [block] = follow(ledger, [with_entries(ledger, ledger.make_entries([b"1"])[0].entry, entry)])
    for depth in range(DEPTH):
        assert ledger.entry(entry_id) == Standing(entry_id, "confirmed", 2, 1, depth)
        grow(ledger, [])
    assert ledger.entry(entry_id) == Standing(entry_id, "final", 2, 1, DEPTH)
    assert ledger[2].hash == block.hash
    grow(ledger, [])
    assert ledger.entry(entry_id).depth == DEPTH + 1
    assert ledger.final == len(ledger) - DEPTH
    assert ledger.entry(entry_id.upper()) == ledger.entry(entry_id)


def test_reorganisation_makes_a_confirmed_entry_pending_and_it_is_mined_again(
    ledger: Ledger,
) -> None:
    grow(ledger, ["a"], ["b"])
    entry_id = ledger.submit("x")
    entry = entry_of(ledger, entry_id)
    follow(ledger, [with_entries(ledger, entry)])
    grow(ledger, ["c"])
    assert ledger.entry(entry_id) == Standing(entry_id, "confirmed", 3, 0, 1)
    # A branch with more work, which does not have it.
    grow(ledger, ["b'"], ["c'"], ["d'"], ["e'"], at=2)
    assert [block.data for block in ledger[1:]] == [["a"], ["b'"], ["c'"], ["d'"], ["e'"]]
    assert ledger.entry(entry_id) == Standing(entry_id, "pending")
    follow(ledger, [with_entries(ledger, entry)])
    assert ledger.entry(entry_id) == Standing(entry_id, "confirmed", 6, 0, 0)
    assert ledger.validate().valid


def test_reorganisation_that_keeps_an_entry_moves_it(ledger: Ledger) -> None:
    grow(ledger, ["a"])
    entry_id = ledger.submit("x")
    entry = entry_of(ledger, entry_id)
    follow(ledger, [with_entries(ledger, entry)])
    other = Ledger.in_memory(GENESIS)
    blocks = mined(["b"], first=ledger[:2])[2:]
    time = blocks[-1].header.timestamp + 1
    blocks.append(mine(ledger.terms, [Entry.from_bytes(entry)], blocks[-1], time))
    follow(ledger, blocks)
    assert ledger.entry(entry_id) == Standing(entry_id, "confirmed", 3, 0, 0)
    assert other.final == 1


def test_of_an_entry_that_was_mined_twice_the_first_counts(ledger: Ledger) -> None:
    entry_id = ledger.submit("x")
    entry = entry_of(ledger, entry_id)
    [other] = ledger.make_entries([b"1"])
    follow(ledger, [with_entries(ledger, other.entry, entry)])
    follow(ledger, [with_entries(ledger, entry, other.entry, entry)])
    expected = Standing(entry_id, "confirmed", 1, 1, 1, ((2, 0), (2, 2)))
    assert ledger.entry(entry_id) == expected
    grow(ledger, *[[]] * (DEPTH - 1))
    assert ledger.entry(entry_id) == replace(expected, status="final", depth=DEPTH)


def test_entry_that_goes_into_a_block_between_two_looks_is_found(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_id = ledger.submit("x")
    pool_has = ledger._store.pool_has

    def mined_meanwhile(found: bytes) -> bool:
        monkeypatch.setattr(ledger._store, "pool_has", pool_has)
        follow(ledger, [with_entries(ledger, entry_of(ledger, entry_id))])
        ledger._store.pool_remove([bytes.fromhex(entry_id)])
        return pool_has(found)

    monkeypatch.setattr(ledger._store, "pool_has", mined_meanwhile)
    assert ledger.entry(entry_id) == Standing(entry_id, "confirmed", 1, 0, 0)


def test_entry_that_nobody_knows_of_is_refused(ledger: Ledger) -> None:
    grow(ledger, [1])
    for entry_id in ("00" * 32, ledger[1].hash):
        with pytest.raises(NoSuchEntryError, match=f"there is no entry {entry_id}"):
            ledger.entry(entry_id)
    for wrong in ("", "0", "00" * 31, "zz" * 32, "00" * 33):
        with pytest.raises(NoSuchEntryError, match="64 hex digits"):
            ledger.entry(wrong)


def test_entry_of_an_instant_ledger_is_final_at_once(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        blocks = [ledger.append({"n": n}) for n in range(5)]
        ledger.erase(2, reason="asked to")
        for block in blocks:
            entry_id = block.header.data_root.hex()
            depth = 6 - block.index
            assert ledger.entry(entry_id) == Standing(entry_id, "final", block.index, 0, depth)


# What is proved


def test_only_final_blocks_are_signed_and_proved(ledger: Ledger) -> None:
    grow(ledger, *[[n, "x"] for n in range(9)])
    assert (len(ledger), ledger.final) == (10, 4)
    signed = ledger.checkpoint()
    assert signed.checkpoint.size == 4
    for index in range(4):
        proved = ledger.receipt(index).check(ledger.notary.policy())
        assert (proved.header.index, proved.ledger) == (index, ledger.id)
    assert ledger.receipt(3, 1).check(ledger.notary.policy()).entry.value == "x"
    for index in range(4, 10):
        why = f"block {index} is confirmed and not final: {9 - index} of 6 blocks follow it"
        with pytest.raises(NotFinalError, match=why):
            ledger.receipt(index)
        with pytest.raises(NotFinalError, match=why):
            list(ledger.prove([0, index]))
    with pytest.raises(NoSuchBlockError, match="no block 10 below size 4"):
        ledger.receipt(10)
    grow(ledger, [])
    assert ledger.receipt(4).check(ledger.notary.policy()).signed.checkpoint.size == 5


def test_reorganisation_never_contradicts_what_was_signed(ledger: Ledger) -> None:
    grow(ledger, *[[n] for n in range(9)])
    first = ledger.receipt(3)
    grow(ledger, *[[n, "other"] for n in range(8)], at=4)
    assert ledger.final == 6
    assert ledger.validate().valid
    assert ledger.checkpoint().checkpoint.size == 6
    proof = ledger.notary.prove_consistency(4, ledger.checkpoint().checkpoint)
    assert proof
    assert first.check(ledger.notary.policy()).signed.checkpoint.size == 4
    assert Checkpoint.parse(ledger.published().text).size == 6


def test_ledger_that_is_behind_what_was_signed_is_signed_when_it_has_caught_up(
    tmp_path: Path,
) -> None:
    keyring = Keyring(tmp_path / "home")
    with Ledger.create(tmp_path / "first", GENESIS, keyring=keyring) as first:
        grow(first, *[[n] for n in range(9)])
        first.backup(tmp_path / "copy")
        grow(first, *[[n] for n in range(3)])
        assert first.checkpoint().checkpoint.size == 7
        later = first[10:]
    with Ledger.open(tmp_path / "copy", keyring=keyring) as copy:
        with pytest.raises(StoreError, match="7 blocks were signed, and 4 are final here: not yet"):
            copy.notary.sign()
        copy.chain().advance([Segment.from_blocks(10, later)])
        assert copy.checkpoint().checkpoint.size == 7


def test_run_that_starts_where_the_last_one_ended_outlives_a_reorganisation(
    tmp_path: Path,
) -> None:
    with Ledger.create(tmp_path / "ledger", GENESIS) as ledger:
        grow(ledger, *[[n] for n in range(9)])
        assert ledger.validate(incremental=True).blocks == 10
        grow(ledger, *[[n, "other"] for n in range(7)], at=4)
        report = ledger.validate(incremental=True)
        assert report.valid
        assert report.blocks == len(ledger) - 4


# Whole chains, out and in


def lines_of(ledger: Ledger) -> list[bytes]:
    return [line.encode() for line in export_lines(ledger)]


def of(path: Path, blocks: Sequence[Block]) -> None:
    import_chain(path, [block.to_json().encode() for block in blocks])


CONTENTS: list[list[Any]] = [
    [],
    [1],
    ["é", {"a": [1.5, None]}, 2**64 - 1, "\U0001f600"],
    ['", "', "],["],
    [],
    [[]],
]


@pytest.mark.parametrize("at_once", [8192, 3])
def test_mined_chain_round_trips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("cairn.ledger.exchange.BATCH_ENTRIES", at_once)
    blocks = mined(*CONTENTS, *[[n] for n in range(12)])
    lines = [block.to_json().encode() for block in blocks]
    total = import_chain(tmp_path / "ledger", lines)
    assert (total.blocks, total.last_hash) == (19, blocks[-1].stored_hash)
    with Ledger.open(tmp_path / "ledger") as ledger:
        assert lines_of(ledger) == lines
        assert ledger[:] == blocks
        assert ledger.is_mined
        assert (ledger.final, ledger._store.work()) == (19 - DEPTH, total.work)
        assert ledger.validate(canonical=True).valid
        grow(ledger, ["on"], ["and on"])
        grow(ledger, ["other"] * 3, [], [], at=len(ledger) - 2)
        assert ledger.validate().valid


def test_import_is_the_same_whichever_way_lines_are_read(tmp_path: Path) -> None:
    blocks = mined(*CONTENTS)
    odd = [json.dumps(json.loads(block.to_json()), indent=None) for block in blocks[1:]]
    import_chain(tmp_path / "ledger", [blocks[0].to_json().encode(), *map(str.encode, odd)])
    with Ledger.open(tmp_path / "ledger") as ledger:
        assert ledger[:] == blocks


@contextmanager
def refused(rule: str, index: int) -> Iterator[None]:
    with pytest.raises(InvalidChainError) as error:
        yield
    assert (error.value.failure.rule, error.value.failure.index) == (rule, index)


def remade(block: Block, *, rehash: bool = True, **fields: Any) -> Block:
    header = replace(block.header, **fields)
    return replace(block, header=header, stored_hash=header.hash if rehash else block.stored_hash)


@pytest.mark.parametrize("at", [1, 3, 6])
@pytest.mark.parametrize("field", ["timestamp", "nonce", "bits"])
def test_bit_of_a_mined_header_that_was_changed_is_named(
    tmp_path: Path, at: int, field: str
) -> None:
    blocks = mined(*CONTENTS)
    value = getattr(blocks[at].header, field) ^ 1 << 3
    blocks[at] = remade(blocks[at], rehash=False, **{field: value})
    with refused("hash", at):
        of(tmp_path / "ledger", blocks)
    assert not (tmp_path / "ledger").exists()


def test_bit_of_mined_data_that_was_changed_is_named(tmp_path: Path) -> None:
    for at in (2, 3, 4):
        blocks = mined(*CONTENTS)
        [first, *others] = blocks[at].entries
        salt = bytes([first.salt[0] ^ 1]) + first.salt[1:]
        blocks[at] = replace(blocks[at], entries=(Entry(salt, first.canonical), *others))
        with refused("data_root", at):
            of(tmp_path / "ledger", blocks)


def test_block_without_the_work_that_is_asked_for_is_named(tmp_path: Path) -> None:
    blocks = mined(*CONTENTS, bits=0x1F7FFFFF)
    tries = (remade(blocks[-1], nonce=nonce) for nonce in range(10))
    blocks[-1] = next(block for block in tries if block.stored_hash > b"\x7f")
    with refused("work", len(blocks) - 1):
        of(tmp_path / "ledger", blocks)


def test_block_that_is_easier_than_the_schedule_allows_is_named(tmp_path: Path) -> None:
    """Its hash is below the target that it claims."""
    blocks = mined(*CONTENTS, bits=0x1F7FFFFF)
    last = remade(blocks[-1], bits=MAX_BITS)
    tries = (remade(last, nonce=nonce) for nonce in range(100))
    blocks[-1] = next(block for block in tries if block.stored_hash < b"\x7f")
    with refused("work", len(blocks) - 1):
        of(tmp_path / "ledger", blocks)


def test_link_is_judged_wherever_an_import_cuts_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairn.ledger.exchange.BATCH_ENTRIES", 2)
    blocks = mined(*CONTENTS)
    of(tmp_path / "good", blocks)
    for at in range(1, len(blocks)):
        changed = [*blocks[:at], remade(blocks[at], previous_hash=bytes(32)), *blocks[at + 1 :]]
        with refused("link", at):
            of(tmp_path / "ledger", changed)


def test_value_or_record_in_a_mined_chain_is_named(tmp_path: Path) -> None:
    blocks = mined([1], [2], [3])
    for kind in (Kind.VALUE, Kind.RECORD):
        changed = [*blocks[:-1], remade(blocks[-1], kind=kind)]
        with refused("kind", 3):
            of(tmp_path / "ledger", changed)


def test_data_that_is_not_canonical_does_not_come_in_as_it_is(tmp_path: Path) -> None:
    """An import makes the canonical form, and then the hashes do not fit."""
    blocks = mined([1])
    entry = Entry(next(salts()), b"1.0")
    blocks.append(mine(Terms.of(blocks[0]), [entry], blocks[-1], START + 2 * SEAL.interval))
    with pytest.raises(InvalidChainError, match="block 2"):
        of(tmp_path / "ledger", blocks)


# All else that reads


def test_backup_has_the_chain_and_what_waits(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", GENESIS) as ledger:
        grow(ledger, *[[n] for n in range(9)])
        grow(ledger, ["other"], [], at=9)
        entry_id = ledger.submit(1, key="k")
        ledger.backup(tmp_path / "copy")
        blocks = ledger[:]
    with Ledger.open(tmp_path / "copy") as copy:
        assert copy[:] == blocks
        assert copy.final == len(blocks) - DEPTH
        assert copy.entry(entry_id).status == "pending"
        assert copy.submit(1, key="k") == entry_id
        assert copy.validate().valid
        grow(copy, ["on"])


def test_batches_are_found_by_text_and_time(ledger: Ledger) -> None:
    blocks = grow(ledger, ["needle", 1], [], [2, {"a": "needle"}])
    page = find_blocks(ledger, contains="needle", limit=10)
    assert [block.index for block in page.blocks] == [1, 3]
    assert first_at(ledger, blocks[1].header.timestamp) == 2
    assert first_at(ledger, blocks[2].header.timestamp + 1) == 4


def test_search_by_time_goes_on_when_the_chain_gets_shorter(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain of fewer blocks may have more work."""
    grow(ledger, [1], [2], [3])
    monkeypatch.setattr(Ledger, "__len__", lambda _: 9)
    with pytest.raises(DamagedError):
        first_at(ledger, 2**62)
    lengths = iter([9] + [4] * 9)
    monkeypatch.setattr(Ledger, "__len__", lambda _: next(lengths))
    assert first_at(ledger, ledger[2].header.timestamp) == 2


def test_mined_blocks_are_columns_too(ledger: Ledger) -> None:
    pytest.importorskip("pyarrow")
    grow(ledger, ["a", 1], [], [2])
    table = ledger.to_arrow().read_all().to_pydict()
    assert table["data"][1:] == ['["a",1]', "[]", "[2]"]
    assert table["count"] == [1, 2, 0, 1]
    assert table["bits"] == [block.header.bits for block in ledger]
    assert table["nonce"] == [block.header.nonce for block in ledger]


def test_genesis_of_work_has_a_seal_and_its_members() -> None:
    value = canonical(GENESIS.to_value())
    assert (
        b'"seal":{"final_depth":6,"half_life":60000000,"interval":1000000,"kind":"work"}' in value
    )
    assert Work.from_value(SEAL.to_value()) == SEAL
