"""Answering what peers ask of our chain, as much of it as each may have."""

from __future__ import annotations

from typing import Final

from cairn.core.errors import StoreError
from cairn.net import limits
from cairn.net.events import Note
from cairn.net.messages import Bodies, GetBodies, GetHeaders, Headers, Missing, Refusal
from cairn.net.peers import Budget, Hub, Peer

LOOKUP_BYTES: Final = 4096
"""What looking for one hash counts as: it takes as long as reading so much."""


class Serving:
    """Answers each in order; who has had its share waits."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._chain = hub.chain
        self._shared = Budget(limits.SHARED_RATE, limits.SHARED_BURST, hub.now)
        self._last = 0  # who was answered last, of those who wait: the next one is next

    def ask(self, peer: Peer, request: GetHeaders | GetBodies) -> None:
        """Answer a request, now or when the peer may have more.

        Raises:
            Refusal: too many wait already.
        """
        if len(peer.waiting) >= limits.WAITING_REQUESTS:
            raise Refusal("flood", f"more than {limits.WAITING_REQUESTS} requests wait")
        peer.waiting.append(request)
        self._answer(peer)

    def tick(self) -> None:
        """Answer what waits, one request of each in turn."""
        asking = sorted(self._hub.ready, key=lambda peer: peer.id <= self._last)
        while asking:
            asking = [peer for peer in asking if self._answer(peer)]
            self._last = asking[-1].id if asking else self._last

    def _answer(self, peer: Peer) -> bool:
        """Answer the next request of a peer; return whether there was one that it may have now."""
        now = self._hub.now
        budget = peer.little if peer.little.take(0, now) else self._shared
        if not (peer.waiting and peer.served.take(0, now) and budget.take(0, now)):
            return False
        request = peer.waiting.popleft()
        try:
            if isinstance(request, GetHeaders):
                cost = self._headers(peer, request)
            else:
                cost = self._bodies(peer, request)
        except StoreError as error:  # what is damaged here, others may have
            is_headers = isinstance(request, GetHeaders)
            nothing = Headers(request.number, b"") if is_headers else Missing(request.number)
            self._hub.send(peer, nothing)
            self._hub.actions.append(Note(f"not served to peer {peer.name}: {error}"))
            cost = LOOKUP_BYTES
        peer.served.take(cost, now)
        budget.take(cost, now)
        return True

    def _headers(self, peer: Peer, request: GetHeaders) -> int:
        start = self._chain.after(request.locator)
        found = b"" if start is None else self._chain.headers(start, limits.MAX_HEADERS)
        self._hub.send(peer, Headers(request.number, found))
        return len(found) + LOOKUP_BYTES * len(request.locator)

    def _bodies(self, peer: Peer, request: GetBodies) -> int:
        chain, last = self._chain, request.first + request.count - 1
        if last >= chain.length or chain.edge(last).hash != request.last_hash:
            self._hub.send(peer, Missing(request.number))
            return LOOKUP_BYTES
        count = min(request.count, limits.MAX_HEADERS)
        lengths, data = chain.bodies(request.first, count, limits.ANSWER_BYTES)
        self._hub.send(peer, Bodies(request.number, lengths, data))
        return len(lengths) + len(data) + LOOKUP_BYTES
