"""Entries that wait to be mined, told from peer to peer until every node has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from cairn.core.merkle import leaf_hash
from cairn.ledger.chain import Move
from cairn.net import limits
from cairn.net.addresses import group_of
from cairn.net.events import PeerId, Pooled, Taken
from cairn.net.messages import HASH, Entries, Have, Refusal, Want, split
from cairn.net.peers import Hub, Peer
from cairn.net.pool import Added, Pool


class _Asked(NamedTuple):
    """An entry that a peer was asked for."""

    peer: PeerId
    until: float


class Relay:
    """Keeps the pool, and tells peers of what comes into it."""

    def __init__(self, hub: Hub, pool: Pool) -> None:
        self._hub = hub
        self._chain = hub.chain
        self.pool = pool
        self._asked: dict[bytes, _Asked] = {}
        self._asked_of: Counter[PeerId] = Counter()
        self._repeated = hub.now  # when peers were told again of what is to be mined next
        self._mined: dict[bytes, None] = {}  # ids that came to the chain lately, the oldest first

    def submit(self, entry: bytes) -> None:
        """Take an entry of this node's own user, and tell all peers."""
        entry_id = leaf_hash(entry)
        added = Added.KNOWN
        if not self._chain.has_entry(entry_id):
            added = self.pool.add(entry_id, entry, self._hub.now, None)
        self._hub.actions.append(Taken(entry_id, added))
        if added is Added.NEW:
            self._came([entry_id])

    def welcome(self, peer: Peer) -> None:
        """Tell a new peer what waits here."""
        peer.untold.extend(self.pool)
        self._announce(peer)

    def on_have(self, peer: Peer, message: Have) -> None:
        """Ask for entries that we do not have.

        Raises:
            Refusal: there are too many of them.
        """
        ids = split(message.ids, HASH)
        peer.entries.charge(len(ids), self._hub.now, "entries")
        wanted: dict[bytes, None] = {}
        room = self._room(peer)
        for entry_id in ids:
            peer.knows(entry_id)
            if self._has(entry_id):
                continue
            if entry_id not in self._asked and len(wanted) < room:
                wanted[entry_id] = None
            elif len(peer.offered) < limits.KNOWN_IDS:
                peer.offered.append(entry_id)
        self._ask(peer, wanted)

    def on_want(self, peer: Peer, message: Want) -> None:
        """Send entries that a peer asks for, as far as they are here.

        Raises:
            Refusal: there are too many of them.
        """
        ids = split(message.ids, HASH)
        peer.entries.charge(len(ids), self._hub.now, "entries")
        peer.wanted.extend(ids)
        self._give(peer)

    def on_entries(self, peer: Peer, message: Entries) -> None:
        """Take entries that a peer was asked for; others are passed over.

        Raises:
            Refusal: one cannot be an entry of this ledger, or there are too many.
        """
        peer.entries.charge(len(message.entries), self._hub.now, "entries")
        before = self._asked_of[peer.id]
        came: list[bytes] = []
        try:
            came.extend(self._taken(peer, message))
        finally:
            self._came(came)
        if self._asked_of[peer.id] < before:
            self._pull(peer)

    def moved(self, move: Move) -> None:
        """Take out of the pool what was mined, and take back what no longer is."""
        connected = [i for segment in move.connected for i in self._chain.ids(segment)]
        self.pool.remove(connected)
        self._mined.update(dict.fromkeys(connected[-limits.KNOWN_IDS :]))
        for entry_id in list(islice(self._mined, max(len(self._mined) - limits.KNOWN_IDS, 0))):
            del self._mined[entry_id]
        back = [found for segment in move.disconnected for found in self._chain.unmined(segment)]
        if back:
            for entry_id, _ in back:
                self._mined.pop(entry_id, None)
            self.pool.give_back(back, self._hub.now)
            self._came([entry_id for entry_id, _ in back])

    def candidates(self) -> list[bytes]:
        """Return what the next block should hold."""
        bounds = self._chain.terms.limits
        return self.pool.take(bounds.count, bounds.size)

    def gone(self, peer: Peer) -> None:
        """Ask others for what a peer that is gone was asked for."""
        for entry_id in [i for i, asked in self._asked.items() if asked.peer == peer.id]:
            self._forget(entry_id)

    def tick(self) -> None:
        """Drop what is too old, and ask others for what did not come."""
        now = self._hub.now
        self.pool.remove(self.pool.expired(now))
        for entry_id in [i for i, asked in self._asked.items() if asked.until <= now]:
            self._forget(entry_id)
        again: list[bytes] = []
        if now - self._repeated > limits.REPEAT_SECONDS:
            self._repeated = now
            again = list(islice(self.pool, limits.MAX_IDS))
        for peer in self._hub.ready:
            for entry_id in again:  # it may have had no room, or been too slow
                peer.known.pop(entry_id, None)
            peer.untold.extend(again)
            self._announce(peer)
            self._pull(peer)
            self._give(peer)

    def _give(self, peer: Peer) -> None:
        """Send a peer what it waits for: one answer, the next one later."""
        given: list[bytes] = []
        size = 0
        while peer.wanted and len(given) < limits.MAX_IDS:
            entry = self.pool.get(peer.wanted[0])
            if entry is not None:
                is_large = given and size + len(entry) > limits.ANSWER_BYTES
                if is_large or not peer.served.take(len(entry), self._hub.now):
                    break
                given.append(entry)
                size += len(entry)
            peer.wanted.popleft()
        if given:
            self._hub.send(peer, Entries(given))

    def _taken(self, peer: Peer, message: Entries) -> Iterator[bytes]:
        """Yield the ids of those entries that have come into the pool.

        Raises:
            Refusal: one cannot be an entry of this ledger.
        """
        for entry in message.entries:
            entry_id = leaf_hash(entry)
            asked = self._asked.get(entry_id)
            if asked is None or asked.peer != peer.id:
                peer.unasked.charge(len(entry), self._hub.now, "bytes unasked")
                continue
            self._forget(entry_id)
            peer.entry_bytes.owe(len(entry), self._hub.now)
            if not self._chain.is_entry(entry):
                raise Refusal(
                    "canonical", f"entry {entry_id.hex()} is not canonical JSON in limits"
                )
            added = self.pool.add(entry_id, entry, self._hub.now, group_of(peer.host))
            if added is Added.NEW and self._chain.has_entry(entry_id):  # which takes longer
                self.pool.remove([entry_id])
            elif added is Added.NEW:
                yield entry_id

    def _came(self, ids: Sequence[bytes]) -> None:
        """Tell of entries that have come into the pool."""
        if ids:
            self._tell(ids)
            self._hub.actions.append(Pooled())

    def _tell(self, ids: Sequence[bytes]) -> None:
        for peer in self._hub.ready:
            peer.untold.extend(ids)
            self._announce(peer)

    def _announce(self, peer: Peer) -> None:
        """Tell a peer of what it has not been told of, as fast as it may be.

        One entry at once, while there are few; when there are many, many in a message.
        """
        while peer.untold:
            count = min(len(peer.untold), limits.MAX_IDS)
            if not peer.telling.take(max(count, limits.LEAST_TOLD), self._hub.now):
                return
            ids = [peer.untold.popleft() for _ in range(count)]
            ids = [i for i in ids if i not in peer.known and i in self.pool]
            for entry_id in ids:
                peer.knows(entry_id)
            if ids:
                self._hub.send(peer, Have(b"".join(ids)))

    def _pull(self, peer: Peer) -> None:
        """Ask a peer for what it has offered, as far as no other is being asked for that."""
        wanted: dict[bytes, None] = {}
        room = self._room(peer)
        for _ in range(min(len(peer.offered), 2 * limits.MAX_IDS)):
            if len(wanted) >= min(room, limits.MAX_IDS):
                break
            entry_id = peer.offered.popleft()
            if entry_id in self._asked:
                peer.offered.append(entry_id)
            elif not self._has(entry_id):
                wanted[entry_id] = None
        self._ask(peer, wanted)

    def _room(self, peer: Peer) -> int:
        """Return how many entries a peer may be asked for now."""
        may_send = peer.entry_bytes.take(0, self._hub.now)
        return limits.ASKED_ENTRIES - self._asked_of[peer.id] if may_send else 0

    def _ask(self, peer: Peer, wanted: Collection[bytes]) -> None:
        if wanted:
            asked = _Asked(peer.id, self._hub.now + limits.ENTRIES_SECONDS)
            self._asked.update(dict.fromkeys(wanted, asked))
            self._asked_of[peer.id] += len(wanted)
            self._hub.send(peer, Want(b"".join(wanted)))

    def _forget(self, entry_id: bytes) -> None:
        """Wait for an entry no more."""
        peer = self._asked.pop(entry_id).peer
        self._asked_of[peer] -= 1
        if not self._asked_of[peer]:
            del self._asked_of[peer]

    def _has(self, entry_id: bytes) -> bool:
        return entry_id in self.pool or entry_id in self._mined
