"""Which chain to follow, and how to get it: headers first, then blocks from several peers.

A branch is what a peer has shown us by headers, each of them checked, from a block of our chain on.
Nothing else is believed: no length, no work. When it has more work than our chain its blocks are
asked for, of all peers that may have them, and it takes the place of what follows on our chain as
soon as what is here of it has more work. Of two with as much work the first one stays: the first
whose blocks are here, so that nobody gains by showing headers and keeping the blocks.

A branch may be long. Of most of it only the ends of its parts are kept, a hash for 2,000 headers;
those headers are asked for again before their blocks, of any peer, and must lead to the same hash.
Of long ones the blocks of one at a time are asked for, that with the most work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from cairn.core.header import HEADER_BYTES, Header
from cairn.core.rules import InvalidChainError
from cairn.core.segment import Segment
from cairn.core.validation import Edge
from cairn.core.work import total_work
from cairn.ledger.chain import Move, Run
from cairn.net import limits
from cairn.net.branches import BodyRequest, Branch, Part, Span
from cairn.net.events import Note
from cairn.net.finality import Finality
from cairn.net.messages import Bodies, GetBodies, GetHeaders, Head, Headers, Missing, Refusal
from cairn.net.peers import Claim, Hub, Peer

PER_PEER: Final = 3
"""Requests for blocks that wait with one peer: so it has the next when one is answered."""
MICROSECONDS: Final = 1_000_000


@dataclass(eq=False, slots=True)
class HeaderRequest:
    """Headers that a peer was asked for."""

    number: int
    until: float
    locator: list[bytes]
    """What they are to follow: one of these."""
    claimed: Claim
    branch: Branch | None
    """What they are to go on with; None: from a block of our chain on."""
    before: Edge | None
    """Its end when they were asked for."""
    part: Part | None
    """What they are to be, where that is known."""


class Sync:
    """Follows the chain with the most work that peers can show."""

    def __init__(
        self,
        hub: Hub,
        moved: Callable[[Move], None],
        *,
        minimum_work: int = 0,
        expected: int = 0,
    ) -> None:
        """Work on the hub's chain; `moved` is told when peers have changed it.

        The blocks of a branch of less than `minimum_work` are not asked for. So many peers are
        `expected`, since their addresses are known.
        """
        self._hub = hub
        self._chain = hub.chain
        self._moved = moved
        self._minimum = minimum_work
        self._expected = expected
        self._until = hub.now + limits.SETTLING_SECONDS
        self._finality = Finality(hub, expects_peers=expected > 0)
        self._number = 0  # of the last request
        self._slow: dict[bytes, None] = {}  # keys of those that kept us waiting, the oldest first
        self.branches: list[Branch] = []
        """Those with more work than our chain, that with the most first."""
        self.deep: Branch | None = None
        """One with more work than our chain that only a change of final blocks would follow."""

    # What peers say

    def on_head(self, peer: Peer, message: Head) -> None:
        """Hear where a peer's chain ends.

        Raises:
            Refusal: it follows our chain, and breaks a rule or has less work than it claims.
        """
        header = Header.unpack(message.header)
        end = Edge(header.index, header.hash, header.timestamp)
        since = peer.claim.since if peer.claim else self._hub.now
        if peer.claim is None or peer.claim.tip != end:
            peer.early = 0.0
        peer.claim = claim = Claim(end, int.from_bytes(message.work, "big"), since)
        chain = self._chain
        if claim.work <= chain.work or peer.early > self._hub.now:
            return
        follows = (b for b in self.branches if b.end.hash == header.previous_hash)
        if header.previous_hash == chain.tip.hash and not self._is_known(claim):
            branch = Branch(chain.tip, chain.tip, chain.work, chain.work, False, self._hub.now)
        elif (found := next(follows, None)) is not None:
            branch = found
        else:
            self.ask(peer)
            return
        if self._extend(peer, branch, message.header):
            self._require_shown(branch, claim)
            self._consider(branch)

    def ask(self, peer: Peer) -> None:
        """Ask a peer for its headers, if it claims more work than we have and has not shown it."""
        claim = peer.claim
        if claim is None or claim.work <= self._chain.work or peer.headers:
            return
        if peer.early > self._hub.now:
            return
        for branch in self.branches:
            if branch.end.hash == claim.tip.hash and peer.id not in branch.lacking:
                if peer.id not in branch.shown:
                    branch.shown.add(peer.id)
                    self._request()
                return
            if peer.id in branch.shown and branch.work >= claim.work:
                return
        if not self._is_being_shown(claim):
            self._ask_headers(peer, self._chain.locator())

    def on_headers(self, peer: Peer, message: Headers) -> None:
        """Take headers that a peer was asked for; others are passed over.

        Raises:
            Refusal: they break a rule, or are not what it claimed.
        """
        request = peer.headers
        if request is None or request.number != message.number:
            return
        peer.headers = None
        if request.part is not None:
            self._refill(peer, request, message.headers)
            return
        branch, headers = request.branch, message.headers
        if branch is not None and branch.end != request.before:  # it has grown meanwhile
            self._ask_headers(peer, [branch.end.hash], branch)
            return
        if headers:
            if branch is None or branch.end == branch.base:
                begun = self._begin(headers, request.locator)
                if begun is None:
                    return
                branch, headers = begun
            if headers and not self._extend(peer, branch, headers):
                self._consider(branch)
                return
        is_last = len(message.headers) < limits.MAX_HEADERS * HEADER_BYTES
        if request.branch is None and is_last:  # later its chain may have been reorganised
            self._require_shown(branch, request.claimed)
        if branch is not None:
            if not is_last:
                self._ask_headers(peer, [branch.end.hash], branch)
            elif branch.work < request.claimed.work:
                peer.claim = None  # until it says something new
            self._consider(branch)

    def on_bodies(self, peer: Peer, message: Bodies) -> None:
        """Take blocks that a peer was asked for; others are passed over.

        Raises:
            Refusal: they break a rule, or are not what the headers say.
        """
        request = peer.bodies.pop(message.number, None)
        if request is None or not self._is_wanted(request):
            return
        branch, span = request.branch, request.span
        branch.spans.appendleft(span)  # until it is here
        segment = span.segment(message)
        try:
            self._chain.check_bodies(segment)
        except InvalidChainError as error:
            raise _refusal(error) from error
        branch.spans.popleft()
        branch.here[segment.start] = segment
        if segment.stop < span.stop:
            branch.spans.appendleft(replace(span, start=segment.stop))
        self._connect(branch)

    def on_missing(self, peer: Peer, message: Missing) -> None:
        """Hear that a peer does not have the blocks that we asked it for."""
        request = peer.bodies.pop(message.number, None)
        if request is not None and self._is_wanted(request):
            request.branch.spans.appendleft(request.span)
            self._lacks(peer, request.branch)

    def gone(self, peer: Peer) -> None:
        """Ask others for what a peer that is gone was asked for."""
        if peer.handshake.peer_key and any(map(self._is_stalled, peer.bodies.values())):
            self._slow[peer.handshake.peer_key] = None
            for key in list(self._slow)[: -limits.SLOW_PEERS]:
                del self._slow[key]
        for request in reversed(peer.bodies.values()):
            if self._is_wanted(request):
                request.branch.spans.appendleft(request.span)
        for branch in self.branches:
            branch.shown.discard(peer.id)
        self._request()

    def mined(self, block: Segment) -> Move | None:
        """Let a block that was found here follow the chain; None where it does not any more.

        Raises:
            InvalidChainError: it breaks a rule: the miner is broken.
        """
        tip = self._chain.tip
        if Header.unpack(block.headers[0].tobytes()).previous_hash != tip.hash:
            return None
        self._chain.check_headers(block.headers, tip)
        self._chain.check_bodies(block)
        work = self._chain.work + total_work(block.fields["bits"])
        return self._advance([block], work, None)

    def overdue(self) -> list[Peer]:
        """Return the peers that have not answered in time."""
        return [peer for peer in self._hub.ready if _due(peer) <= self._hub.now]

    def tick(self) -> None:
        """Let branches go that nobody can give us, and go on."""
        ready = list(self._hub.ready)
        self.branches = [b for b in self.branches if any(_may_have(peer, b) for peer in ready)]
        for branch in self.branches[:]:
            if branch in self.branches and branch.ready():
                self._connect(branch)
        self._request()
        for peer in ready:
            self.ask(peer)

    # Branches

    def _is_known(self, claim: Claim) -> bool:
        return any(branch.end.hash == claim.tip.hash for branch in self.branches)

    def _is_being_shown(self, claim: Claim) -> bool:
        """Whether another peer shows a long branch that may well be the one that is claimed.

        It must have shown more work than we have, and nobody waits for it for long.
        """
        if self._hub.now - claim.since > limits.SHOWING_SECONDS:
            return False
        requests = (peer.headers for peer in self._hub.ready)
        return any(
            request.claimed.work >= claim.work and request.branch.work > self._chain.work
            for request in requests
            if request and request.branch and request.part is None
        )

    def _begin(self, headers: bytes, locator: list[bytes]) -> tuple[Branch, bytes] | None:
        """Return an empty branch, and those of the headers that follow it.

        A locator is sparse far down, so the first headers may be those of our chain: the branch
        begins after them, and is deep only if it parts from our chain below what is final.
        None where what they follow was taken off our chain meanwhile.

        Raises:
            Refusal: they follow nothing that we said we have.
        """
        previous = Header.unpack(headers[:HEADER_BYTES]).previous_hash
        if previous not in locator:
            raise Refusal("unconnected", "headers that follow no block of our chain")
        position = self._chain.position(previous)
        if position is None:
            return None
        ours = self._chain.headers(position + 1, len(headers) // HEADER_BYTES)
        known = 0
        while (
            known < len(ours)
            and ours[known : known + HEADER_BYTES] == (headers[known : known + HEADER_BYTES])
        ):
            known += HEADER_BYTES
        position += known // HEADER_BYTES
        base = self._chain.edge(position)
        is_deep = position + 1 < self._chain.final
        work = self._chain.work_above(position) if is_deep else self._chain.work_at(position)
        return Branch(base, base, work, work, is_deep, self._hub.now), headers[known:]

    def _extend(self, peer: Peer, branch: Branch, headers: bytes) -> bool:
        """Let headers go on with a branch, unless one is dated too far ahead of our clock.

        Then the peer is asked again when that is over. It is not refused: a block at the very limit
        is taken by honest nodes whose clocks are ahead of ours, and they pass it on.

        Raises:
            Refusal: one breaks a rule.
        """
        run = self._checked(headers, branch.end)
        due = run.end.timestamp / MICROSECONDS - limits.FUTURE_SECONDS
        if due > self._hub.now:
            peer.early = due
            text = (
                f"future: block {run.end.index} of peer {peer.name} is too far ahead of our clock"
            )
            self._hub.actions.append(Note(text))
            return False
        branch.extend(run)
        branch.shown.add(peer.id)
        return True

    def _checked(self, headers: bytes, before: Edge) -> Run:
        rows = np.frombuffer(headers, np.uint8).reshape(-1, HEADER_BYTES)
        try:
            return self._chain.check_headers(rows, before)
        except InvalidChainError as error:
            raise _refusal(error) from error

    def _require_shown(self, branch: Branch | None, claim: Claim) -> None:
        """Refuse a claim that is more than what was shown, or than what we have ourselves.

        Raises:
            Refusal: it is.
        """
        shown = branch.work if branch else self._chain.work
        if shown < claim.work:
            raise Refusal("unproved", f"it claims work {claim.work:x}, and shows {shown:x}")

    def _consider(self, branch: Branch) -> None:
        """Follow a branch, if it has more work than what we have."""
        if not self._is_from_ours(branch):
            return
        best = max(self._chain.work, self._minimum - 1)
        base, shown = branch.base.index, branch.work - branch.before
        if branch.is_deep and self._chain.work_above(base) + shown > best:
            # It may be of more work than what we know at hand: now it is worth looking.
            self.deep = branch if self._chain.work_at(base) + shown > best else None
        elif not branch.is_deep and branch.work > best and branch not in self.branches:
            # Who shows another one has left what nobody else has shown.
            self.branches = [b for b in self.branches if b.shown != branch.shown]
            self.branches.append(branch)
        self.branches.sort(key=lambda branch: branch.work, reverse=True)
        del self.branches[limits.BRANCHES :]
        self._request()

    def settle(self) -> None:
        """See what the chain's having moved has made of the branches."""
        self.branches = [
            branch
            for branch in self.branches
            if self._is_from_ours(branch)
            and branch.parts
            and branch.work > self._chain.work
            and not branch.is_deep
        ]
        self._request()

    def _is_from_ours(self, branch: Branch) -> bool:
        """Whether a branch parts from our chain as it is now, having noted where."""
        chain = self._chain
        while branch.parts and chain.has(branch.parts[0].end):
            branch.rebase(branch.parts[0].end)
        if not branch.is_deep and branch.base.index + 1 < chain.final:  # meanwhile
            branch.is_deep, branch.before = True, chain.work_at(branch.base.index)
        return chain.has(branch.base)

    # Blocks

    def _is_wanted(self, request: BodyRequest) -> bool:
        branch, span = request.branch, request.span
        is_followed = branch in self.branches and span.part in branch.parts
        return is_followed and branch.base.index < span.start and span.start not in branch.here

    def _is_stalled(self, request: BodyRequest) -> bool:
        return request.asked + limits.STALLED_SECONDS <= self._hub.now

    def _lacks(self, peer: Peer, branch: Branch) -> None:
        """Ask a peer for no more of a branch; if it has shown it, not before it says more."""
        branch.lacking.add(peer.id)
        if peer.id in branch.shown:
            branch.shown.discard(peer.id)
            if peer.claim and peer.claim.tip == branch.end:
                peer.claim = None
        self._request()

    def _request(self) -> None:
        """Ask for what is wanted next, of those peers that have least to do."""
        for branch in self.branches:
            if not branch.is_long:
                self._request_of(branch, window=1)
        for branch in self.branches:
            if branch.is_long:
                self._request_of(branch, window=limits.WINDOW_PARTS)
                return

    def _request_of(self, branch: Branch, *, window: int) -> None:
        able = [peer for peer in self._hub.ready if _may_have(peer, branch)]
        part = branch.cut_next(window)
        asked = [peer.headers.part for peer in self._hub.ready if peer.headers]
        idle = next((peer for peer in able if peer.headers is None), None)
        if part is not None and part not in asked and idle is not None:
            self._ask_headers(idle, [part.before.hash], branch, part)
        self._ask_again(branch, able)
        if not branch.spans:
            return
        first = branch.first_missing
        waiting = branch.waiting_bytes
        waiting += sum(
            r.size for p in self._hub.ready for r in p.bodies.values() if r.branch is branch
        )
        while branch.spans and (peer := self._least_busy(able)):
            span = min(branch.spans, key=lambda span: span.start)
            waiting += span.answer_bytes
            if waiting > limits.WINDOW_BYTES and span.start != first:
                return
            branch.spans.remove(span)
            self._ask_bodies(peer, branch, span)

    def _least_busy(self, able: list[Peer]) -> Peer | None:
        """Return who may be asked for blocks; who has kept us waiting only if all have."""
        prompt = [peer for peer in able if peer.handshake.peer_key not in self._slow]
        peer = min(prompt or able, key=lambda peer: len(peer.bodies), default=None)
        return None if peer is None or len(peer.bodies) >= PER_PEER else peer

    def _ask_again(self, branch: Branch, able: list[Peer]) -> None:
        """Ask another peer for the blocks that all others wait for, where they take long."""
        asked = self._asked_first(branch)
        if asked and all(map(self._is_stalled, asked.values())):
            peer = self._least_busy([peer for peer in able if peer not in asked])
            if peer is not None:
                self._ask_bodies(peer, branch, next(iter(asked.values())).span)

    def _asked_first(self, branch: Branch) -> dict[Peer, BodyRequest]:
        """Return of whom the first blocks were asked that are not here."""
        first = branch.first_missing
        return {
            peer: request
            for peer in self._hub.ready
            for request in peer.bodies.values()
            if request.branch is branch and request.span.start == first
        }

    def _ask_bodies(self, peer: Peer, branch: Branch, span: Span) -> None:
        self._number += 1
        now = self._hub.now
        until = now + limits.BODIES_SECONDS * (1 + len(peer.bodies))
        peer.bodies[self._number] = BodyRequest(branch, span, now, until, span.answer_bytes)
        count = span.stop - span.start
        self._hub.send(peer, GetBodies(self._number, span.start, count, span.last_hash))

    def _ask_headers(
        self,
        peer: Peer,
        locator: list[bytes],
        branch: Branch | None = None,
        part: Part | None = None,
    ) -> None:
        assert peer.claim is not None
        self._number += 1
        peer.headers = HeaderRequest(
            self._number,
            self._hub.now + limits.HEADERS_SECONDS,
            locator,
            peer.claim,
            branch,
            branch.end if branch else None,
            part,
        )
        self._hub.send(peer, GetHeaders(self._number, locator))

    def _refill(self, peer: Peer, request: HeaderRequest, headers: bytes) -> None:
        """Take headers that were known, and not kept.

        Raises:
            Refusal: one breaks a rule.
        """
        branch, part = request.branch, request.part
        assert branch is not None
        assert part is not None
        if branch not in self.branches or part not in branch.parts:
            return
        headers = headers[: (part.stop - part.start) * HEADER_BYTES]
        run = self._checked(headers, part.before) if headers else None
        if run is not None and run.end == part.end:
            part.run = run
            self._request()
        else:
            self._lacks(peer, branch)

    def _connect(self, branch: Branch) -> None:
        """Let the chain follow a branch, as far as its blocks are here and have more work."""
        chain = self._chain
        if self._is_settling():
            return
        pieces = branch.ready()
        work = chain.work_at(branch.base.index)
        work += sum(total_work(piece.fields["bits"]) for piece in pieces)
        if work <= chain.work or self._is_soon_more(branch, pieces):
            self._request()
            return
        move = self._advance(pieces, work, branch)
        branch.rebase(chain.tip)
        self._moved(move)
        self.settle()

    def _advance(self, pieces: list[Segment], work: int, branch: Branch | None) -> Move:
        """Let the chain move, to blocks of a branch or to one that was found here.

        `work` is what it has then.
        """
        others = (b for b in self.branches if b is not branch and b.work > work)
        most = self._finality.most(pieces[0].start, pieces[-1].stop, work, others, branch)
        move = self._chain.advance(pieces, most)
        self._finality.moved(move)
        return move

    def _is_settling(self) -> bool:
        """Whether peers that we know of may yet have to say where their chains end."""
        said = sum(peer.claim is not None and bool(peer.urls) for peer in self._hub.ready)
        return said < self._expected and self._hub.now < self._until

    def _is_soon_more(self, branch: Branch, pieces: list[Segment]) -> bool:
        """Whether it is worth to wait for more blocks: to write few at once takes as long."""
        blocks = sum(map(len, pieces))
        size = sum(len(piece.data) for piece in pieces)
        if blocks >= limits.WRITTEN_BLOCKS or size >= limits.WRITTEN_BYTES:
            return False
        asked = self._asked_first(branch).values()
        return branch.is_long and not all(map(self._is_stalled, asked))


def _may_have(peer: Peer, branch: Branch) -> bool:
    """Whether a peer may have the blocks of a branch."""
    if peer.claim is None or peer.id in branch.lacking:
        return False
    return peer.id in branch.shown or (branch.is_long and peer.claim.work >= branch.work)


def _refusal(error: InvalidChainError) -> Refusal:
    return Refusal(error.failure.rule, error.failure.message)


def _due(peer: Peer) -> float:
    """Return when the first answer of a peer is due."""
    headers = [peer.headers.until] if peer.headers else []
    return min([*headers, *(request.until for request in peer.bodies.values())], default=np.inf)
