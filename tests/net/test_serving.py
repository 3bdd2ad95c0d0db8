"""How much of its chain a node gives, and to whom first."""

from __future__ import annotations

from collections import Counter

from cairn.core.segment import Segment
from cairn.net import limits
from cairn.net.messages import Bodies, GetBodies, Message
from tests.builders import mined
from tests.net.test_refusals import node_of
from tests.net.test_stalls import Peers

CHAIN = mined(*[["x" * 2**20] for _ in range(4)])
SIZE = len(Segment.from_blocks(1, CHAIN[1:]).data)
GREEDY = range(1, 9)
MODEST = 9


def served(peers: Peers, waiting: Counter[int], seconds: float) -> Counter[int]:
    """Have some ask for all blocks, again and again; return the bytes that each was sent.

    `waiting` counts the requests of each that are not answered.
    """
    sent: Counter[int] = Counter()

    def take(said: list[tuple[int, Message]]) -> None:
        for to, message in said:
            if isinstance(message, Bodies):
                sent[to] += len(message.data)
                waiting[to] -= 1

    until = peers.now + seconds
    while peers.now < until:
        for link in GREEDY:
            for _ in range(limits.WAITING_REQUESTS - waiting[link]):
                waiting[link] += 1
                take(peers.say(link, GetBodies(0, 1, 4, CHAIN[-1].stored_hash)))
        take(peers.tick(limits.TICK_SECONDS))
    return sent


def test_all_who_read_everything_share_and_nobody_else_waits_for_them() -> None:
    peers = Peers(node_of(CHAIN))
    for link in (*GREEDY, MODEST):
        peers.meet(link, f"peer {link}")
    waiting: Counter[int] = Counter()
    served(peers, waiting, 2)  # what each may have at once
    seconds = 4
    sent = served(peers, waiting, seconds)
    of_each = limits.LITTLE_RATE * seconds + SIZE
    assert sum(sent.values()) <= limits.SHARED_RATE * seconds + SIZE + len(GREEDY) * of_each
    assert sum(sent.values()) > limits.SHARED_RATE * seconds - SIZE
    assert max(sent.values()) - min(sent.values()) <= 3 * SIZE
    [(to, answer)] = peers.say(MODEST, GetBodies(0, 1, 4, CHAIN[-1].stored_hash))
    assert to == MODEST
    assert isinstance(answer, Bodies)
