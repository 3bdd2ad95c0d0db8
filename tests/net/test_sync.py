"""What goes wrong between nodes when one is new, off for long, slow or hostile: a case each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cairn.core.block import Block
from cairn.core.genesis import Work
from cairn.core.merkle import leaf_hash
from cairn.core.work import MAX_BITS, bits_of, work_of
from cairn.net import limits
from cairn.net.events import Received, Submitted
from cairn.net.messages import (
    Addresses,
    Bodies,
    Entries,
    GetAddresses,
    GetBodies,
    GetHeaders,
    Have,
    Head,
    Headers,
    Message,
    Want,
    encode,
)
from cairn.net.network import Network
from cairn.net.pool import Pool
from tests.builders import START, mined
from tests.net.wiring import Script, Wires
from tests.simulator.world import settings, url_of

LATE = Work(interval=10_000_000, half_life=100_000_000, final_depth=6)
SHORT = Work(interval=10_000_000, half_life=3_600_000_000, final_depth=60)
REAL = mined(*[[]] * 20, seal=LATE, bits=bits_of(2**251))
NOW = START / 1e6 + 2_000
"""20 half-lives after the start: who begins there has 32 hashes to try, and then two a block."""


def head(block: Block, work: int) -> Head:
    return Head(block.header.pack(), work.to_bytes(32, "big"))


def cheap_after(known: int, blocks: int = 9) -> list[Block]:
    """Return the first `known` real blocks, and others that are dated now."""
    first = REAL[:known]
    late = int(NOW * 1e6) - first[-1].header.timestamp - 1_000_000
    return mined(*[["cheap"]] * blocks, seal=LATE, times=[late, *[0] * (blocks - 1)], first=first)


def work(blocks: Sequence[Block]) -> int:
    return sum(work_of(block.header.bits) for block in blocks[1:])


def is_at(node: Network, other: Network) -> bool:
    return node._chain.tip == other._chain.tip and node.halted is None


# What is final


@pytest.mark.parametrize("known", [1, 12], ids=["new", "off for long"])
def test_a_cheap_chain_that_comes_first_does_not_bind_a_node(known: int) -> None:
    wires = Wires(REAL[:known], NOW)
    honest, hostile = wires.node(REAL[known:]), wires.node(cheap_after(known)[known:])
    late = wires.node(expects=2)
    wires.holds = lambda sender, message: sender is honest and isinstance(message, Bodies)
    wires.link(late, honest)
    assert late._sync.branches[0].work == work(REAL)
    final = late._chain.final
    wires.link(late, hostile)
    assert is_at(late, hostile), "it is the best that there is of what is here"
    wires.mine(hostile, 3)
    assert late._chain.final == final
    wires.holds = lambda sender, message: False
    wires.release()
    wires.tick(1)
    assert is_at(late, honest)


def test_nothing_is_final_past_a_branch_that_has_shown_more_and_whose_blocks_are_late() -> None:
    with settings(HELD_SECONDS=3.0):
        wires = Wires(REAL[:1], NOW)
        honest, hostile = wires.node(REAL[1:]), wires.node(cheap_after(1)[1:])
        late = wires.node(expects=2)
        wires.holds = lambda sender, message: sender is honest and isinstance(message, Bodies)
        wires.link(late, honest)
        wires.link(late, hostile)
        wires.tick(2 * limits.HELD_SECONDS)
        wires.mine(hostile)
        assert is_at(late, hostile)
        assert late._chain.final == 1
        wires.holds = lambda sender, message: False
        wires.release()
        wires.tick(1)
        assert is_at(late, honest)


@pytest.mark.parametrize("is_linked", [False, True], ids=["alone", "with one as late"])
def test_the_first_peer_to_show_a_long_chain_does_not_bind_a_late_node(is_linked: bool) -> None:
    wires = Wires(REAL[:1], NOW)
    honest, late, other = wires.node(REAL[1:]), wires.node(expects=2), wires.node()
    if is_linked:
        wires.link(late, other)
        wires.tick(limits.HELD_SECONDS + 1)
    cheap = cheap_after(1, 12)
    hostile = Script(wires, late, "hostile")

    said = hostile.say(head(cheap[11], work(cheap[:12])))
    [asked] = [message for message in said if isinstance(message, GetHeaders)]
    shown = b"".join(block.header.pack() for block in cheap[1:12])
    hostile.say(Headers(asked.number, shown))
    hostile.say(head(cheap[12], work(cheap)))  # in two parts, as a long one is
    for message in hostile.heard:
        if isinstance(message, GetBodies):
            some = cheap[message.first : message.first + message.count]
            entries = [entry.to_bytes() for block in some for entry in block.entries]
            lengths = b"".join(len(entry).to_bytes(4, "big") for entry in entries)
            hostile.say(Bodies(message.number, lengths, b"".join(entries)))
    wires.tick(limits.SETTLING_SECONDS + 1)
    assert late._chain.length == len(cheap)
    assert late._chain.final == 1
    wires.link(late, honest)
    assert is_at(late, honest)


def answer(peer: Script, chain: list[Block], asked: Sequence[Message]) -> list[Message]:
    """Let a peer give what it was asked for of a chain; return what it is asked for then."""
    more: list[Message] = []
    for message in asked:
        if isinstance(message, GetHeaders):
            known = {block.stored_hash: i for i, block in enumerate(chain)}
            start = next(
                known[block_hash] + 1 for block_hash in message.locator if block_hash in known
            )
            some = chain[start : start + limits.MAX_HEADERS]
            more += peer.say(Headers(message.number, b"".join(b.header.pack() for b in some)))
        elif isinstance(message, GetBodies):
            some = chain[message.first : message.first + message.count]
            entries = [entry.to_bytes() for block in some for entry in block.entries]
            lengths = b"".join(len(entry).to_bytes(4, "big") for entry in entries)
            more += peer.say(Bodies(message.number, lengths, b"".join(entries)))
    return more


def test_a_cheap_chain_that_is_shown_slowly_does_not_bind_a_node_whose_peer_claims_more() -> None:
    """Who shows a long branch keeps others from being asked for a while: longer than it is held."""
    real = mined(*[[]] * 320, seal=LATE, bits=bits_of(2**251))
    now = real[-1].header.timestamp / 1e6 + 5
    late_by = int(now * 1e6) - START - 1_000_000
    cheap = mined(*[["cheap"]] * 300, seal=LATE, times=[late_by, *[0] * 299], first=real[:1])
    with settings(MAX_HEADERS=20):
        wires = Wires(real[:1], now)
        honest, late = wires.node(real[1:]), wires.node(expects=2)
        hostile = Script(wires, late, "hostile")
        asked = answer(hostile, cheap, hostile.say(head(cheap[-1], 2**255)))
        wires.link(late, honest)
        for _ in range(20):
            before = len(hostile.heard)
            wires.tick(4.5)
            asked = [*answer(hostile, cheap, asked), *hostile.heard[before:]]
            assert late._chain.final == 1
        wires.tick(10)
    assert is_at(late, honest)


def test_who_claims_much_and_shows_nothing_holds_up_what_is_final_for_a_while_only() -> None:
    wires = Wires(REAL, NOW)
    one, other, liar = wires.node(expects=2), wires.node(), wires.node()
    wires.link(one, other)
    wires.link(one, liar)
    wires.tick(limits.HELD_SECONDS + 1)
    peer = next(peer for peer in one._hub.ready if peer.dialled == url_of("20.2.0.2"))
    wires.holds = lambda sender, message: isinstance(message, GetHeaders)
    wires.handle(one, Received(peer.id, encode(head(REAL[-1], 2**255))))
    peer.headers, peer.early = None, float("inf")  # as if it were slow to show what it has
    final = one._chain.final
    for _ in range(int(limits.CLAIMED_SECONDS / 50)):
        wires.mine(other)
        assert one._chain.final == final
        wires.tick(50)
    assert one._chain.length > len(REAL)
    wires.mine(other)
    assert one._chain.final > final, "it is believed no more"
    assert peer in one._hub.ready


def test_a_long_branch_whose_fork_becomes_final_meanwhile_stops_the_node_loudly() -> None:
    seal = replace(SHORT, final_depth=6)
    common = mined(*[[]] * 10, seal=seal)
    ours = mined(*[["ours"]] * 60, seal=seal, first=common)
    theirs = mined(*[["theirs"]] * 80, seal=seal, first=common)
    with settings(MAX_HEADERS=40, HELD_SECONDS=0.0):
        wires = Wires(common, theirs[-1].header.timestamp / 1e6 + 10)
        node = wires.node(ours[len(common) :])
        node._chain._end = node._chain._end._replace(final=3)
        peer = Script(wires, node, "peer")
        asked = answer(peer, theirs, peer.say(head(theirs[-1], work(theirs))))
        assert node.halted is None
        wires.mine(node)
        assert node._chain.final > len(common)
        while asked and node.halted is None:
            asked = answer(peer, theirs, asked)
    assert node.halted is not None
    assert f"parts from ours at block {len(common) - 1}" in node.halted


def test_blocks_that_wait_for_a_stalled_one_are_bounded_by_their_bytes() -> None:
    long = mined(*[["x" * 20_000]] * 200, seal=SHORT)
    most = 0
    with settings(MAX_HEADERS=20, WINDOW_BYTES=2**19, ANSWER_BYTES=2**16, STALLED_SECONDS=9.0):
        wires = Wires(long[:1], long[-1].header.timestamp / 1e6 + 10)
        stalled, prompt, new = wires.node(long[1:]), wires.node(long[1:]), wires.node()
        wires.holds = lambda sender, message: sender is stalled and isinstance(message, Bodies)
        wires.link(new, stalled)
        wires.link(new, prompt)
        for _ in range(80):
            wires.tick(0.25)
            waiting = sum(branch.waiting_bytes for branch in new._sync.branches)
            most = max(most, waiting)
        assert is_at(new, prompt)
        assert 0 < most <= limits.WINDOW_BYTES + limits.ANSWER_BYTES


def test_a_node_that_mines_before_it_has_met_anybody_is_final_on_nothing() -> None:
    wires = Wires(REAL[:1], NOW)
    honest, alone = wires.node(REAL[1:]), wires.node(expects=1)
    wires.mine(alone, 15, seconds=10)
    assert alone._chain.final == 1
    wires.link(alone, honest)
    assert is_at(alone, honest)


def test_the_first_link_of_a_node_that_was_alone_does_not_make_all_final_at_once() -> None:
    wires = Wires(REAL[:1], NOW)
    honest, other = wires.node(REAL[1:]), wires.node()
    alone = wires.node(expects=1)
    wires.mine(alone, 15, seconds=10)
    wires.link(alone, other)
    wires.mine(alone)
    assert alone._chain.final == 1
    wires.link(alone, honest)
    assert is_at(alone, honest)


def test_what_was_there_for_long_becomes_final_with_the_next_block() -> None:
    wires = Wires(REAL, NOW)
    one, other = wires.node(expects=1), wires.node()
    wires.link(one, other)
    wires.tick(limits.HELD_SECONDS + 1)
    wires.mine(other, 3)
    assert one._chain.final == len(REAL) - LATE.final_depth
    wires.tick(limits.HELD_SECONDS + 1)
    wires.mine(other)
    assert one._chain.length == len(REAL) + 4
    assert one._chain.final == len(REAL) + 3 - LATE.final_depth


def test_nodes_that_meet_a_halted_one_are_not_kept_waiting() -> None:
    wires = Wires(REAL[:1], NOW)
    halted, best = wires.node(cheap_after(1)[1:]), wires.node(REAL[1:])
    wires.link(halted, best)
    assert halted.halted is not None
    assert wires.links_of(halted) == 0
    another = wires.node()
    wires.link(another, halted)
    assert wires.links_of(halted) == wires.links_of(another) == 0


def test_an_address_that_leads_to_a_peer_that_is_there_already_is_told_to_others() -> None:
    wires = Wires(REAL[:1], NOW)
    nodes = wires.node(expects=1), wires.node(expects=1)
    wires.link(*nodes)
    for node, other in (nodes, nodes[::-1]):  # which of two links stays goes by the keys
        wires.open(node, url_of("20.1.0.0"), other)
        [told] = Script(wires, node, "another").say(GetAddresses())
        assert told == Addresses([url_of("20.1.0.0")])


# Headers


LONG = mined(*[[]] * 45, seal=SHORT, bits=MAX_BITS)
AT_ONCE = 20
"""Headers in an answer, for these tests."""


def test_a_head_that_another_peer_says_meanwhile_gets_nobody_refused() -> None:
    with settings(MAX_HEADERS=AT_ONCE):
        wires = Wires(LONG[:1], NOW)
        honest, new = wires.node(LONG[1:]), wires.node()
        wires.holds = lambda sender, message: (
            sender is honest and isinstance(message, Bodies | Headers) and message.number > 1
        )
        wires.link(new, honest)
        [branch] = new._sync.branches
        assert branch.end.index == AT_ONCE
        other = Script(wires, new, "other")
        other.say(head(LONG[AT_ONCE + 1], work(LONG[: AT_ONCE + 2])))
        assert branch.end.index == AT_ONCE + 1
        wires.holds = lambda sender, message: False
        wires.release()
        wires.tick(limits.STALLED_SECONDS + 1)  # the other one gives nothing
        assert is_at(new, honest)
        assert not new.refusals


def test_a_peer_that_shows_our_own_headers_keeps_nobody_from_being_asked() -> None:
    with settings(MAX_HEADERS=AT_ONCE):
        wires = Wires(LONG, NOW)
        honest, node = wires.node(), wires.node()
        wires.mine(node)
        hostile = Script(wires, node, "hostile")
        unknown = LONG[-1].header.pack()[:96] + bytes(8)
        said = hostile.say(Head(unknown, b"\xff" * 32))
        [asked] = [message for message in said if isinstance(message, GetHeaders)]
        ours = b"".join(block.header.pack() for block in LONG[1 : AT_ONCE + 1])
        [more] = hostile.say(Headers(asked.number, ours))
        assert isinstance(more, GetHeaders), "it may yet show something"
        wires.mine(honest, 3)
        wires.link(node, honest)
        wires.tick(1)
        assert is_at(node, honest)
        assert not node.refusals


def test_a_missing_that_crosses_a_newer_head_leaves_the_newer_claim() -> None:
    wires = Wires(LONG[:1], NOW)
    peer, node, best = wires.node(), wires.node(), wires.node()
    wires.mine(peer, 2, seconds=1)
    wires.mine(best, 4, seconds=1)
    wires.holds = lambda sender, message: sender is node and isinstance(message, GetBodies)
    wires.link(node, peer)
    asked, wires.held = wires.held, []
    assert len(asked) == 1
    wires.holds = lambda sender, message: sender is peer and isinstance(message, Headers)
    wires.link(peer, best)  # and says so; the node has asked for the headers
    shown, wires.held = wires.held, asked
    wires.release()  # what it had asked for before is gone
    wires.holds = lambda sender, message: False
    wires.held = shown
    wires.release()
    wires.tick(1)
    assert is_at(node, best)


# Blocks


def test_answers_that_come_one_after_the_other_have_their_time_one_after_the_other() -> None:
    with settings(MAX_HEADERS=5):
        wires = Wires(LONG[:1], NOW)
        honest, new = wires.node(LONG[1:31]), wires.node()
        wires.holds = lambda sender, message: sender is honest and isinstance(message, Bodies)
        wires.link(new, honest)
        assert len(wires.held) == 3
        while wires.held:
            wires.tick(0.9 * limits.BODIES_SECONDS)
            wires.release(1)
        assert is_at(new, honest)
        assert not new.refusals


# Entries


def entries(number: int, size: int = 1) -> list[bytes]:
    return [i.to_bytes(16, "big") + b'"' + b"x" * size + b'"' for i in range(number)]


def test_one_request_for_all_that_waits_is_not_answered_at_once() -> None:
    wires = Wires(LONG[:1], NOW)
    node = wires.node()
    some = entries(10, 2**20)
    for entry in some:
        wires.handle(node, Submitted(entry))
    peer = Script(wires, node, "peer")
    ids = b"".join(message.ids for message in peer.heard if isinstance(message, Have))
    assert len(ids) == 32 * len(some)
    peer.say(Want(ids))
    wires.tick(5)
    came = [e for message in peer.heard if isinstance(message, Entries) for e in message.entries]
    assert came == some
    assert max(wires.most_sent.values()) < limits.ANSWER_BYTES + limits.OVERHEAD_BYTES


def test_entries_that_a_peer_had_no_room_for_are_told_again() -> None:
    wires = Wires(LONG[:1], NOW)
    node, miner = wires.node(), wires.node(pool=Pool(entries=40))
    wires.link(node, miner)
    some = entries(15)
    for entry in some:
        wires.handle(node, Submitted(entry))
    wires.tick(1)
    assert len(miner.relay.pool) == 40 // limits.POOL_SHARE < len(some)
    wires.mine(miner)
    assert len(miner.relay.pool) == 0
    wires.tick(limits.REPEAT_SECONDS + 1)
    wires.mine(miner)
    assert len(node.relay.pool) == 0
    assert all(node._chain.has_entry(leaf_hash(entry)) for entry in some)


def test_entries_that_come_too_late_are_asked_for_again() -> None:
    with settings(ANSWER_BYTES=50):  # two of them
        wires = Wires(LONG[:1], NOW)
        node, slow = wires.node(), wires.node()
        for entry in entries(8):
            wires.handle(slow, Submitted(entry))
        wires.holds = lambda sender, message: isinstance(message, Entries)
        wires.link(node, slow)
        until = wires.now + 3 * limits.REPEAT_SECONDS
        while wires.now < until:
            wires.tick(0.45 * limits.ENTRIES_SECONDS)
            wires.release(1)
        assert len(node.relay.pool) == 8
        assert not node.refusals
