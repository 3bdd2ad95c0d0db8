"""A node's part in the network: events come in, actions go out. See docs/network.md.

One thread handles one event after another. All that is random comes from a generator that is given,
and the time comes with each event: the same events at the same times give the same actions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from random import Random
from typing import Final, NamedTuple

from cairn.core.rules import InvalidChainError
from cairn.core.segment import Segment
from cairn.ledger.chain import Chain, Move
from cairn.net import limits
from cairn.net.addresses import AddressBook, Scope, group_of, scope_of
from cairn.net.events import (
    Action,
    Close,
    Closed,
    Dial,
    DialFailed,
    Event,
    Halted,
    HeadMoved,
    Mined,
    Note,
    Opened,
    PeerId,
    Received,
    Submitted,
    Tick,
)
from cairn.net.handshake import Handshake, Identity
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
    Hello,
    Message,
    Missing,
    Ping,
    Pong,
    Proof,
    Refusal,
    Refused,
    Want,
    decode,
)
from cairn.net.peers import Budget, Hub, Peer
from cairn.net.pool import Pool
from cairn.net.relay import Relay
from cairn.net.serving import Serving
from cairn.net.sync import Sync

NONCE_BYTES: Final = 32
MICROSECONDS: Final = 1_000_000
BLAMELESS: Final = frozenset({"slow", "silent", "busy", "order", "deadline"})
"""Rules that are broken by bad links, too: who breaks them may come again at once."""

STRANGERS: Final = frozenset({"version", "genesis", "not-allowed"})
"""Rules that are broken by those who are no peers of ours, and have done nothing wrong: there may
be several networks at one address."""


class PeerInfo(NamedTuple):
    """What people may know of a peer."""

    name: str
    key: str
    """Hex."""
    dialled: bool
    seconds: float
    """Since the link was opened."""
    height: int | None
    """Of its last block, as it says."""
    work: str | None
    """Of its chain, as it says; hex."""
    latency: float | None
    """Seconds."""


class Network:
    """The protocol of one node of a work ledger."""

    def __init__(
        self,
        chain: Chain,
        identity: Identity,
        *,
        pool: Pool,
        book: AddressBook,
        random: Random,
        now: float,
        address: str = "",
        allowed: Collection[bytes] = (),
        minimum_work: int = 0,
    ) -> None:
        """Begin with the chain and the pool as they are.

        `address` is where this node can be dialled, if it can. `allowed` are the keys of the nodes
        that may be peers: all, if there are none. Blocks of a branch of less than `minimum_work`
        are not asked for.
        """
        self._chain = chain
        self._identity = identity
        self._book = book
        self._random = random
        self._address = address
        self._allowed = frozenset(allowed)
        self._hub = Hub(chain, now)
        self.relay = Relay(self._hub, pool)
        self._sync = Sync(
            self._hub, self._moved, minimum_work=minimum_work, expected=book.begins_with
        )
        self._serving = Serving(self._hub)
        self._dialling: set[str] = set()
        self._felt = now  # when we last dialled more than we need, to see what there is
        self.refusals: Counter[str] = Counter()
        """How often peers broke each rule, so that their links were closed."""
        self.halted: str | None = None
        """Why this node takes part no more, if it does not."""

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take an event; return what is to be done, in order. `now` is in seconds."""
        hub = self._hub
        hub.now, hub.actions = now, []
        if self.halted is not None and isinstance(event, Opened):
            return [Close(event.peer, "this node has stopped")]
        if self.halted is None:
            self._handle(event)
            if self._sync.deep is not None:
                self._halt(self._sync.deep.base.index)
        return hub.actions

    def candidate(self, now: float) -> Segment:
        """Return the block to mine now, which lacks only its nonce."""
        return self._chain.candidate(self.relay.candidates(), int(now * MICROSECONDS))

    def is_ready(self, peer: PeerId) -> bool:
        """Whether a peer has proven its key."""
        return peer in self._hub.peers and self._hub.peers[peer].handshake.ready

    @property
    def connected(self) -> int:
        """How many peers have proven their keys."""
        return sum(peer.handshake.ready for peer in list(self._hub.peers.values()))

    @property
    def missing(self) -> int:
        """How many blocks are still to come of the branch that is being followed."""
        ends = [branch.end.index for branch in self._sync.branches]
        return max([end - self._chain.tip.index for end in ends], default=0)

    @property
    def is_settled(self) -> bool:
        """Whether some peer has said where its chain ends, and none has more than we do."""
        claims = [peer.claim for peer in self._hub.ready if peer.claim is not None]
        return bool(claims) and all(claim.work <= self._chain.work for claim in claims)

    def peers(self) -> list[PeerInfo]:
        """Return what is known of all who have proven their keys."""
        return [
            PeerInfo(
                name=peer.name,
                key=(peer.handshake.peer_key or b"").hex(),
                dialled=peer.dialled is not None,
                seconds=self._hub.now - peer.since,
                height=peer.claim.tip.index if peer.claim else None,
                work=f"{peer.claim.work:x}" if peer.claim else None,
                latency=peer.latency,
            )
            for peer in self._hub.ready
        ]

    def _handle(self, event: Event) -> None:
        match event:
            case Received(peer_id, frame):
                if peer := self._hub.peers.get(peer_id):
                    self._receive(peer, frame)
            case Opened():
                self._open(event)
            case Closed(peer_id):
                if peer := self._hub.peers.pop(peer_id, None):
                    self._forget(peer)
            case DialFailed(url):
                self._dialling.discard(url)
                self._book.ended(url, self._hub.now)
            case Submitted(entry):
                self.relay.submit(entry)
            case Mined(block):
                self._mined(block)
            case Tick():
                self._tick()

    # Links

    def _open(self, event: Opened) -> None:
        hub, now = self._hub, self._hub.now
        handshake = Handshake(
            self._identity,
            self._chain.id,
            dialled=event.dialled is not None,
            nonce=self._random.randbytes(NONCE_BYTES),
            address=self._address,
            allowed=lambda key: self._may_be_peer(key),
        )
        peer = Peer(
            event.peer,
            event.dialled,
            event.host,
            handshake,
            urls=[event.dialled] if event.dialled is not None else [],
            since=now,
            heard=now,
            messages=Budget(limits.MESSAGE_RATE, limits.MESSAGE_BURST, now),
            entries=Budget(limits.ENTRY_RATE, limits.ENTRY_BURST, now),
            entry_bytes=Budget(limits.ENTRY_BYTES_RATE, limits.ENTRY_BYTES_BURST, now),
            unasked=Budget(limits.UNASKED_RATE, limits.UNASKED_BURST, now),
            served=Budget(limits.SERVED_RATE, limits.SERVED_BURST, now),
            little=Budget(limits.LITTLE_RATE, limits.LITTLE_BURST, now),
            telling=Budget(
                limits.ENTRY_RATE / limits.TELLING_SHARE,
                limits.ENTRY_BURST / limits.TELLING_SHARE,
                now,
            ),
        )
        hub.peers[peer.id] = peer
        if event.dialled is not None:
            self._dialling.discard(event.dialled)
        elif why := self._no_room(event.host):
            self._refuse(peer, Refusal("busy", why))
            return
        hub.send(peer, handshake.hello())

    def _no_room(self, host: str) -> str | None:
        """Return why one who has dialled us cannot stay, or None."""
        others = [peer for peer in self._hub.peers.values() if peer.dialled is None]
        if len(others) >= limits.PEERS - limits.DIALLED:  # one place is left for a feeler
            return f"{len(others) - 1} others have dialled this node already"
        if self._places < 0:
            return f"this node has {limits.PEERS} links already"
        if self._book.is_discouraged(self._hub.now, host=host):
            return "this address has broken a rule lately"
        same = sum(group_of(peer.host) == group_of(host) for peer in others)
        if same > limits.SAME_HOST and scope_of(host) != Scope.LOOPBACK:
            return f"{same - 1} links come from this address already"
        return None

    @property
    def _dialled(self) -> list[Peer]:
        return [peer for peer in self._hub.peers.values() if peer.dialled is not None]

    @property
    def _places(self) -> int:
        """How many links more there may be."""
        return limits.PEERS - len(self._hub.peers) - len(self._dialling)

    def _may_be_peer(self, key: bytes) -> bool:
        return not self._allowed or key in self._allowed

    def _forget(self, peer: Peer) -> None:
        self._sync.gone(peer)
        self.relay.gone(peer)
        for url in peer.urls:
            self._book.ended(url, self._hub.now)
        if peer.handshake.ready and not peer.is_twin:
            self._hub.actions.append(Note(f"peer {peer.name} is gone"))

    def _refuse(self, peer: Peer, refusal: Refusal) -> None:
        """Hang up on a peer that broke a rule, and say which."""
        hub = self._hub
        self.refusals[refusal.rule] += 1
        hub.send(peer, Refused(refusal.rule, refusal.detail))
        hub.close(peer, str(refusal))
        hub.peers.pop(peer.id, None)
        if refusal.rule == "self" and peer.dialled is not None:
            self._book.is_own(peer.dialled)
        elif refusal.rule in STRANGERS:
            if peer.dialled is not None:
                self._book.avoid(peer.dialled, hub.now)
        elif refusal.rule not in BLAMELESS:
            key = peer.handshake.peer_key
            self._book.discourage(hub.now, host=peer.host, key=key, url=peer.dialled)
            hub.actions.append(Note(f"peer {peer.name} is refused: {refusal}"))
        self._forget(peer)

    # Messages

    def _receive(self, peer: Peer, frame: bytes) -> None:
        hub = self._hub
        peer.heard = hub.now
        try:
            peer.messages.charge(1, hub.now, "messages")
            message = decode(frame)
            if peer.handshake.ready:
                if not self._is_awaited(peer, message):
                    peer.unasked.charge(len(frame), hub.now, "bytes unasked")
                self._take(peer, message)
            else:
                for answer in peer.handshake.take(message):
                    hub.send(peer, answer)
                if peer.handshake.ready:
                    self._welcome(peer)
        except Refusal as refusal:
            self._refuse(peer, refusal)

    def _welcome(self, peer: Peer) -> None:
        """Begin with a peer that has proven its key."""
        hub = self._hub
        key = peer.handshake.peer_key or b""
        if self._book.is_discouraged(hub.now, host=peer.host, key=key):
            self._refuse(peer, Refusal("busy", "this node has broken a rule lately"))
            return
        if peer.dialled is not None:
            self._book.met(peer.dialled, hub.now)
        twins = [p for p in hub.ready if p is not peer and p.handshake.peer_key == key]
        if twins:
            worse = self._worse(peer, twins[0])
            better = twins[0] if worse is peer else peer
            worse.is_twin = True
            better.urls, worse.urls = [*better.urls, *worse.urls], []  # not to be dialled again
            self._refuse(worse, Refusal("busy", "there is a link between us already"))
            if worse is peer:
                return
        if peer.dialled is not None:
            peer.may_tell += 1
            hub.send(peer, GetAddresses())
        elif peer.handshake.peer_address:
            self._book.hear([peer.handshake.peer_address], peer.host)
        hub.send(peer, self._head())
        self.relay.welcome(peer)
        if not twins:
            hub.actions.append(Note(f"peer {peer.name} is there, with key {key.hex()[:16]}"))

    def _worse(self, new: Peer, old: Peer) -> Peer:
        """Return which of two links to the same node is to go: both ends choose the same."""
        if (new.dialled is None) is (old.dialled is None):
            return old  # it may be dead
        dialler_stays = self._identity.key < (new.handshake.peer_key or b"")
        return old if (new.dialled is not None) is dialler_stays else new

    def _is_awaited(self, peer: Peer, message: Message) -> bool:
        """Whether a message is one that may be large, and that we have asked for."""
        match message:
            case Headers():
                return peer.headers is not None and peer.headers.number == message.number
            case Bodies():
                return message.number in peer.bodies
        return isinstance(message, Entries)  # each of which the relay looks at

    def _take(self, peer: Peer, message: Message) -> None:
        """Take a message of a peer that has proven its key.

        Raises:
            Refusal: it broke a rule.
        """
        match message:
            case Head():
                self._sync.on_head(peer, message)
            case Headers():
                self._sync.on_headers(peer, message)
            case Bodies():
                self._sync.on_bodies(peer, message)
            case Missing():
                self._sync.on_missing(peer, message)
            case GetHeaders() | GetBodies():
                self._serving.ask(peer, message)
            case Have():
                self.relay.on_have(peer, message)
            case Want():
                self.relay.on_want(peer, message)
            case Entries():
                self.relay.on_entries(peer, message)
            case GetAddresses():
                if not peer.gave_addresses:
                    peer.gave_addresses = True
                    self._hub.send(peer, Addresses(self._book.shared(peer.host)))
            case Addresses():
                if peer.may_tell > 0:
                    peer.may_tell -= 1
                    self._book.hear(message.urls, peer.host)
            case Ping():
                self._hub.send(peer, Pong(message.number))
            case Pong():
                if peer.pinged is not None:
                    peer.latency, peer.pinged = self._hub.now - peer.pinged, None
            case Refused():
                self._hub.actions.append(Note(f"peer {peer.name} refuses us: {message.rule}"))
                self._hub.close(peer, f"it refuses us: {message.rule}")
            case Hello() | Proof():
                raise Refusal("order", "the handshake is over")

    # The chain

    def _head(self) -> Head:
        return Head(self._chain.header, self._chain.work.to_bytes(32, "big"))

    def _moved(self, move: Move) -> None:
        """Tell all of a new end of the chain."""
        hub = self._hub
        hub.actions.append(HeadMoved(move.disconnected, move.connected))
        tip, head = self._chain.tip, self._head()
        for peer in hub.ready:
            if peer.claim is None or peer.claim.tip.hash != tip.hash:
                hub.send(peer, head)
        self.relay.moved(move)

    def _mined(self, block: Segment) -> None:
        try:
            move = self._sync.mined(block)
        except InvalidChainError as error:
            self._hub.actions.append(Note(f"a block that was mined here is refused: {error}"))
            return
        if move is not None:
            self._moved(move)
            self._sync.settle()

    def _halt(self, fork: int) -> None:
        depth = self._chain.tip.index - fork
        self.halted = (
            f"a chain with more work parts from ours at block {fork}, {depth} blocks below its "
            f"end: final are all but the last {self._chain.terms.final_depth}. Nothing is taken "
            "back that was final; a person has to find out which chain is right"
        )
        for peer in self._hub.ready:  # which may have no other way to one another
            self._hub.send(peer, Addresses(self._book.shared(peer.host)))
        self._hub.actions.append(Halted(self.halted))
        for peer in list(self._hub.peers.values()):
            self._hub.close(peer, "this node has stopped")
        self._hub.peers.clear()

    # Time

    def _tick(self) -> None:
        hub, now = self._hub, self._hub.now
        for peer in list(hub.peers.values()):
            if not peer.handshake.ready:
                if now - peer.since > limits.HANDSHAKE_SECONDS:
                    self._refuse(peer, Refusal("deadline", "the handshake takes too long"))
            elif now - peer.heard > limits.SILENT_SECONDS:
                self._refuse(peer, Refusal("silent", "nothing was heard for too long"))
            elif now - peer.heard > limits.PING_SECONDS and peer.pinged is None:
                peer.pinged = now
                hub.send(peer, Ping(self._random.getrandbits(32)))
        for peer in self._sync.overdue():
            self._refuse(peer, Refusal("slow", "an answer did not come in time"))
        self._serving.tick()
        self.relay.tick()
        self._sync.tick()
        self._let_go()
        self._dial()

    def _dial(self) -> None:
        now = self._hub.now
        room = limits.DIALLED - len(self._dialled) - len(self._dialling)
        feels = room <= 0 and now - self._felt > limits.FEELER_SECONDS
        for url in self._book.due(now, 1 if feels else max(room, 0), max(self._places, 0)):
            self._dialling.add(url)
            self._hub.actions.append(Dial(url))
            if feels:
                self._felt = now

    def _let_go(self) -> None:
        """Close the links that we have opened last, of those that we need no more."""
        proven = [peer for peer in self._dialled if peer.handshake.ready]
        others = [peer for peer in proven if not self._book.is_configured(peer.dialled or "")]
        others.sort(key=lambda peer: peer.since, reverse=True)
        for peer in others[: max(len(proven) - limits.DIALLED, 0)]:
            if self._hub.now - peer.since > limits.FEELER_KEPT_SECONDS:
                self._refuse(peer, Refusal("busy", "we have seen what there is"))
