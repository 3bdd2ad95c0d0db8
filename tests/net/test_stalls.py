"""Who keeps blocks back that all wait for costs a node seconds, and that once."""

from __future__ import annotations

from hashlib import sha256

from cairn.core.block import Block
from cairn.core.segment import Segment
from cairn.core.work import work_of
from cairn.net import limits
from cairn.net.events import Closed, Event, Opened, Received, Send, Tick
from cairn.net.handshake import Handshake
from cairn.net.messages import Bodies, GetBodies, GetHeaders, Head, Headers, Message, decode, encode
from cairn.net.network import Network
from tests.builders import mined
from tests.net.test_refusals import NOW, node_of
from tests.simulator.world import CheapIdentity

CHAIN = mined(["a"], ["b"], ["c"])


class Peers:
    """A node, and peers by their links."""

    def __init__(self, node: Network | None = None) -> None:
        """By default the node has genesis alone; the peers have all of `CHAIN`."""
        self.node = node or node_of(CHAIN[:1])
        self.now = NOW

    def handle(self, event: Event) -> list[tuple[int, Message]]:
        """Return what the node says to each."""
        actions = self.node.handle(event, self.now)
        return [(a.peer, decode(a.frame)) for a in actions if isinstance(a, Send)]

    def say(self, link: int, message: Message) -> list[tuple[int, Message]]:
        return self.handle(Received(link, encode(message)))

    def meet(self, link: int, name: str) -> None:
        handshake = Handshake(
            CheapIdentity(name), self.node._chain.id, dialled=True,
            nonce=sha256(bytes([link])).digest(), address="", allowed=lambda key: True,
        )  # fmt: skip
        [(_, hello)] = self.handle(Opened(link, None, f"20.0.0.{link}"))
        self.say(link, handshake.hello())
        [proof] = handshake.take(hello)
        self.say(link, proof)

    def claim(self, link: int, blocks: list[Block]) -> dict[int, GetBodies]:
        """Tell of a chain and show its headers; return whom the node asks for blocks."""
        work = sum(work_of(block.header.bits) for block in blocks)
        said = self.say(link, Head(blocks[-1].header.pack(), work.to_bytes(32, "big")))
        asked = requests(said)
        for to, message in said:
            if isinstance(message, GetHeaders):
                headers = b"".join(block.header.pack() for block in blocks)
                asked |= requests(self.say(to, Headers(message.number, headers)))
        return asked

    def tick(self, seconds: float) -> list[tuple[int, Message]]:
        self.now += seconds
        return self.handle(Tick())

    def wait(self, seconds: float) -> dict[int, GetBodies]:
        return requests(self.tick(seconds))

    @property
    def length(self) -> int:
        return self.node._chain.length


def requests(said: list[tuple[int, Message]]) -> dict[int, GetBodies]:
    return {to: message for to, message in said if isinstance(message, GetBodies)}


def bodies(request: GetBodies) -> Bodies:
    segment = Segment.from_blocks(
        request.first, CHAIN[request.first : request.first + request.count]
    )
    lengths = (segment.offsets[1:] - segment.offsets[:-1]).astype(">u4").tobytes()
    return Bodies(request.number, lengths, segment.data.tobytes())


def test_blocks_that_a_peer_keeps_back_are_asked_of_another() -> None:
    peers = Peers()
    peers.meet(1, "slow")
    peers.meet(2, "prompt")
    first = peers.claim(1, CHAIN[1:])
    assert list(first) == [1]
    assert peers.claim(2, CHAIN[1:]) == {}
    assert peers.wait(limits.STALLED_SECONDS - 0.1) == {}
    again = peers.wait(0.2)
    assert list(again) == [2]
    assert peers.wait(limits.STALLED_SECONDS - 0.1) == {}, "it is asked once"

    rest = requests(peers.say(2, bodies(GetBodies(again[2].number, 1, 1, b""))))
    assert peers.length == 2
    assert peers.say(1, bodies(first[1])) == [], "what comes late is passed over"
    [branch] = peers.node._sync.branches
    assert not branch.here
    peers.say(2, bodies(rest[2]))
    assert peers.length == len(CHAIN)
    assert peers.node.connected == 2


def test_of_a_peer_that_was_asked_for_much_no_part_is_waited_for_longer() -> None:
    peers = Peers()
    peers.meet(1, "slow")
    other = mined(["d"], ["e"], first=CHAIN[:1])
    assert list(peers.claim(1, other[1:])) == [1]
    assert list(peers.claim(1, CHAIN[1:])) == [1]
    peers.meet(2, "prompt")
    assert peers.claim(2, CHAIN[1:]) == {}
    assert list(peers.wait(limits.STALLED_SECONDS + 0.1)) == [2]


def test_who_has_kept_blocks_back_is_asked_last() -> None:
    peers = Peers()
    peers.meet(1, "slow")
    assert list(peers.claim(1, CHAIN[1:])) == [1]
    peers.wait(limits.STALLED_SECONDS + 0.1)
    peers.handle(Closed(1))  # before it is told to go
    peers.meet(2, "slow")
    peers.meet(3, "prompt")
    asked = peers.claim(3, CHAIN[1:])
    assert list(asked) == [3]
    assert peers.claim(2, CHAIN[1:]) == {}
    some = GetBodies(asked[3].number, 1, 1, b"")
    assert list(requests(peers.say(3, bodies(some)))) == [3], "the rest, too"
    peers.handle(Closed(3))
    assert list(peers.wait(1)) == [], "it is asked already"
    assert peers.node._hub.peers[2].bodies, "there is nobody else"
