"""What is known of each peer, how much it may still ask, and what the parts of a node share."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cairn.core.validation import Edge
from cairn.ledger.chain import Chain
from cairn.net import limits
from cairn.net.events import Action, Close, PeerId, Send
from cairn.net.handshake import Handshake
from cairn.net.messages import GetBodies, GetHeaders, Message, Refusal, encode

if TYPE_CHECKING:
    from cairn.net.branches import BodyRequest
    from cairn.net.sync import HeaderRequest


class Budget:
    """So much a second over time, and some at once: a token bucket."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, now

    def take(self, amount: float, now: float) -> bool:
        """Take `amount`; whether there was anything left. It may be owed after."""
        self._fill(now)
        if self._left <= 0:
            return False
        self._left -= amount
        return True

    def charge(self, amount: float, now: float, what: str) -> None:
        """Take `amount` of what a peer has sent or told.

        Raises:
            Refusal: there was nothing left.
        """
        if not self.take(amount, now):
            raise Refusal("flood", f"more {what} than a peer may send")

    def owe(self, amount: float, now: float) -> None:
        """Take `amount`, whether there is anything left or not."""
        self._fill(now)
        self._left -= amount

    def _fill(self, now: float) -> None:
        self._left = min(self._burst, self._left + max(now - self._at, 0.0) * self._rate)
        self._at = now


@dataclass(frozen=True, slots=True)
class Claim:
    """What a peer says its chain is: believed when its headers have shown it."""

    tip: Edge
    work: int
    since: float
    """When it first claimed anything."""


@dataclass(eq=False, slots=True)
class Peer:
    """One link, and the node at its other end."""

    id: PeerId
    dialled: str | None
    """The URL that we dialled, if we did."""
    host: str
    handshake: Handshake
    urls: list[str]
    """What is known to lead to it, and is not to be dialled while it is there."""
    since: float
    heard: float
    """When the last frame came."""
    messages: Budget
    entries: Budget
    entry_bytes: Budget
    """Of entries that it is asked for."""
    unasked: Budget
    """How many bytes it may send that are no answers."""
    served: Budget
    little: Budget
    """Of what it is served, as much as never waits for others."""
    telling: Budget
    """How much we may tell it of entries, so that it does not find it too much."""
    claim: Claim | None = None
    early: float = 0.0
    """When our clock may say that what it claims is not dated too far ahead."""
    pinged: float | None = None
    """When it was asked whether it is there, until it answers."""
    latency: float | None = None
    """Seconds, of the last ping."""
    headers: HeaderRequest | None = None
    """What we have asked it for, and wait for."""
    bodies: dict[int, BodyRequest] = field(default_factory=dict)
    waiting: deque[GetHeaders | GetBodies] = field(default_factory=deque)
    """What it has asked us for, and waits for."""
    untold: deque[bytes] = field(default_factory=lambda: deque(maxlen=limits.POOL_ENTRIES))
    """Ids of entries that it is to be told of."""
    wanted: deque[bytes] = field(default_factory=lambda: deque(maxlen=limits.KNOWN_IDS))
    """Ids of entries that it has asked for, and waits for."""
    offered: deque[bytes] = field(default_factory=deque)
    """Ids of entries that it has, and that we have neither got nor asked it for."""
    known: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """Ids of entries that it knows of, the oldest first."""
    is_twin: bool = False
    """Whether there is another link to the same node, which stays."""
    may_tell: int = 1
    """How often it may yet tell us addresses: when it was asked, and once when it stops."""
    gave_addresses: bool = False
    """Whether it was told addresses: once is enough."""

    @property
    def name(self) -> str:
        """What it is called in messages for people."""
        return self.dialled or f"{self.host} #{self.id}"

    def knows(self, entry_id: bytes) -> None:
        """Remember that it knows of an entry."""
        self.known[entry_id] = None
        if len(self.known) > limits.KNOWN_IDS:
            self.known.popitem(last=False)


class Hub:
    """What the parts of a node share: its chain, its peers, the time, and what is to be done."""

    def __init__(self, chain: Chain, now: float) -> None:
        self.chain = chain
        self.peers: dict[PeerId, Peer] = {}
        self.now = now
        """Of the event that is being handled; seconds since the Unix epoch."""
        self.actions: list[Action] = []

    @property
    def ready(self) -> Iterator[Peer]:
        """Those who have proven their keys."""
        return (peer for peer in self.peers.values() if peer.handshake.ready)

    def send(self, peer: Peer, message: Message) -> None:
        """Send one message to one peer."""
        self.actions.append(Send(peer.id, encode(message)))

    def close(self, peer: Peer, reason: str) -> None:
        """Hang up; what was sent goes out before."""
        self.actions.append(Close(peer.id, reason))
