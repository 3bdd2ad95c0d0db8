"""Nodes that are wired to one another by hand: any message can be held back, and time is ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import count
from random import Random

from cairn.core.block import Block
from cairn.core.segment import Segment
from cairn.hashing.portable import HashlibHasher
from cairn.ledger.chain import Chain
from cairn.net.addresses import AddressBook
from cairn.net.events import (
    Action,
    Close,
    Closed,
    Dial,
    Event,
    Mined,
    Opened,
    Received,
    Send,
    Tick,
)
from cairn.net.handshake import Handshake
from cairn.net.messages import Hello, Message, Refused, decode, encode
from cairn.net.network import Network
from cairn.net.pool import Pool
from cairn.store.memory import MemoryStore
from tests.simulator.world import CheapIdentity, seal, url_of


class Script:
    """One who has dialled a node, and says what it is told to say, if it is let in."""

    def __init__(self, wires: Wires, node: Network, name: str) -> None:
        self.heard: list[Message] = []
        self._wires, self._node = wires, node
        handshake = Handshake(
            CheapIdentity(name),
            node._chain.id,
            dialled=True,
            nonce=sha256(name.encode()).digest(),
            address="",
            allowed=lambda key: True,
        )
        self._link = wires.open(node, None, self)
        [hello] = self.heard
        if isinstance(hello, Refused):
            return
        assert isinstance(hello, Hello)
        self.say(handshake.hello())
        [proof] = handshake.take(hello)
        self.say(proof)

    def say(self, message: Message) -> list[Message]:
        """Return what the node says at once."""
        before = len(self.heard)
        self._wires.handle(self._node, Received(self._link, encode(message)))
        return self.heard[before:]


End = tuple["Network | Script", int]


class Wires:
    """All nodes, and the links between them; a message is there at once, unless it is held."""

    def __init__(self, blocks: Sequence[Block], now: float) -> None:
        """Nodes begin with `blocks`, the first of which is genesis; `now` is in seconds."""
        self.blocks, self.now = list(blocks), now
        self.nodes: list[Network] = []
        self.holds: Callable[[Network, Message], bool] = lambda sender, message: False
        """Which messages do not get through yet, by who sends them."""
        self.held: list[tuple[End, bytes]] = []
        self.dials: list[tuple[Network, str]] = []
        """Which nodes would have dialled what: nobody does it for them."""
        self.most_sent: Counter[int] = Counter()
        """The most bytes that an event has made a node send on each link."""
        self._ends: dict[End, End] = {}
        self._on_the_way: list[tuple[End, bytes | None]] = []
        self._links = count(1)

    def node(
        self, more: Sequence[Block] = (), *, expects: int = 0, pool: Pool | None = None
    ) -> Network:
        """Return a node that has more blocks than all have, and knows so many addresses."""
        chain = Chain(MemoryStore(Segment.from_blocks(0, self.blocks[:1]), mined=True), _HASHER)
        if known := [*self.blocks[1:], *more]:
            chain.advance([Segment.from_blocks(1, known)])
        number = len(self.nodes)
        urls = [url_of(f"20.1.0.{i}") for i in range(expects)]
        node = Network(
            chain,
            CheapIdentity(f"node {number}"),
            pool=Pool() if pool is None else pool,
            book=AddressBook(urls, random=Random(number)),
            random=Random(number),
            now=self.now,
        )
        self.nodes.append(node)
        return node

    def open(self, node: Network, url: str | None, other: Network | Script) -> int:
        """Open a link; return what `node` calls it. `url` is what it has dialled, if it has."""
        ours, theirs = next(self._links), next(self._links)
        self._ends[node, ours], self._ends[other, theirs] = (other, theirs), (node, ours)
        self._handle(node, Opened(ours, url, f"20.0.{theirs >> 8}.{theirs & 255}"))
        if isinstance(other, Network):
            self._handle(other, Opened(theirs, None, f"20.0.{ours >> 8}.{ours & 255}"))
        self._carry()
        return ours

    def link(self, node: Network, other: Network) -> None:
        """Let a node have dialled another."""
        self.open(node, url_of(f"20.2.0.{self.nodes.index(other)}"), other)

    def handle(self, node: Network, event: Event) -> None:
        """Let an event happen, and all that follows from it."""
        self._handle(node, event)
        self._carry()

    def mine(self, node: Network, blocks: int = 1, seconds: float = 0.0) -> None:
        """Let a node find blocks, with some time before each."""
        for _ in range(blocks):
            self.tick(seconds)
            self.handle(node, Mined(seal(node.candidate(self.now))))

    def tick(self, seconds: float = 0.25) -> None:
        """Let time pass, a second or less at once."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 1.0, until)
            for node in self.nodes:
                self.handle(node, Tick())

    def release(self, most: int = 1_000_000) -> None:
        """Let through what was held, or the first of it."""
        some, self.held = self.held[:most], self.held[most:]
        self._on_the_way += some
        self._carry()

    def links_of(self, node: Network) -> int:
        return sum(end[0] is node for end in self._ends)

    def _handle(self, node: Network, event: Event) -> None:
        sent: Counter[int] = Counter()
        for action in node.handle(event, self.now):
            if isinstance(action, Send):
                sent[action.peer] += len(action.frame)
            self._do(node, action)
        self.most_sent |= sent

    def _do(self, node: Network, action: Action) -> None:
        if isinstance(action, Dial):
            self.dials.append((node, action.url))
        if not isinstance(action, Send | Close) or (node, action.peer) not in self._ends:
            return
        end = self._ends[node, action.peer]
        if isinstance(action, Close):
            del self._ends[node, action.peer]
            self._ends.pop(end, None)
            self._on_the_way.append((end, None))
        elif self.holds(node, decode(action.frame)):
            self.held.append((end, action.frame))
        else:
            self._on_the_way.append((end, action.frame))

    def _carry(self) -> None:
        while self._on_the_way:
            (node, link), frame = self._on_the_way.pop(0)
            if isinstance(node, Network):
                self._handle(node, Closed(link) if frame is None else Received(link, frame))
            elif frame is not None:
                node.heard.append(decode(frame))


_HASHER = HashlibHasher()
