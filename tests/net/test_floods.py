"""Who sends more than it may is let go; what one may send costs little."""

from __future__ import annotations

from collections import deque

import pytest

from cairn.core.entry import Entry
from cairn.core.merkle import leaf_hash
from cairn.net import limits
from cairn.net.events import Closed, Tick
from cairn.net.messages import Bodies, Entries, Have, Headers, Message, Want, split
from tests.builders import mined
from tests.net.test_refusals import Peer, node_of

CHAIN = mined(["a"])
LARGE = bytes(2**20)


@pytest.mark.parametrize(
    "message",
    [
        Bodies(7, (2**20).to_bytes(4, "big"), LARGE),
        Headers(7, LARGE[: 104 * 2000]),
        Entries([LARGE]),
    ],
    ids=["blocks", "headers", "entries"],
)
def test_flood_of_bytes_that_nobody_asked_for_is_ended(message: Message) -> None:
    peer = Peer.met(node_of(CHAIN))
    sent = 0
    while peer.refused is None:
        peer.say(message)
        sent += 1
        assert sent < 100
    assert peer.refused == "flood"


def test_bytes_that_nobody_asked_for_are_few_over_time() -> None:
    peer = Peer.met(node_of(CHAIN))
    for _ in range(50):
        peer.now += 10
        peer.say(Bodies(7, (2**20).to_bytes(4, "big"), LARGE))
    assert peer.refused is None


def test_large_entries_are_asked_for_as_fast_as_they_may_come_and_nobody_is_refused() -> None:
    peer = Peer.met(node_of(CHAIN))
    text = b"x" * 2**16
    entries = [Entry(bytes(16), b'"%d %s"' % (i, text)).to_bytes() for i in range(3000)]
    by_id = {leaf_hash(entry): entry for entry in entries}
    todo = deque(
        message
        for ids in (b"".join(list(by_id)[i : i + 1000]) for i in range(0, 3000, 1000))
        for message in peer.say(Have(ids))
    )
    came: list[int] = []
    while sum(came) < sum(map(len, entries)) and len(came) < 300:
        came.append(0)
        while todo:
            if isinstance(message := todo.popleft(), Want):
                some = [by_id[one] for one in split(message.ids, 32)]
                came[-1] += sum(map(len, some))
                for i in range(0, len(some), 50):
                    todo += peer.say(Entries(some[i : i + 50]))
        peer.now += limits.TICK_SECONDS
        todo += peer.handle(Tick())
    assert sum(came) == sum(map(len, entries))
    assert peer.refused is None
    at_once = limits.ENTRY_BYTES_BURST + limits.ASKED_ENTRIES * len(entries[0])
    assert came[0] <= at_once
    rest = sum(came) - at_once
    assert len(came) * limits.TICK_SECONDS >= rest / limits.ENTRY_BYTES_RATE


def test_ids_that_are_told_twice_are_asked_for_once() -> None:
    node = node_of(CHAIN)
    peer = Peer.met(node)
    entry_id = leaf_hash(b"entry")
    [asked] = peer.say(Have(entry_id * 3))
    assert asked == Want(entry_id)
    peer.handle(Closed(1))
    assert not node.relay._asked
    assert not node.relay._asked_of
