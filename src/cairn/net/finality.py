"""When blocks become final: what is final is never taken back, so nothing is called so in haste.

Enough blocks must follow, as genesis says. That alone is cheap for who shows a chain to a node that
is new, or was off for long: targets of a chain that is late are easy, and `final_depth` blocks can
be made in no time. So they also must have followed for a while, in which others could show more
work; and nothing becomes final past the place where a branch parts that has shown more, while one
whom we have dialled claims more than was shown, and may yet show it, or before a node that knows of
peers has had one for as long: the first to answer may be hostile.

What is due becomes final with the next block, 65,536 blocks at most with each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from cairn.ledger.chain import Move
from cairn.net import limits
from cairn.net.branches import Branch
from cairn.net.peers import Hub

MICROSECONDS: Final = 1_000_000


class Finality:
    """Says how many blocks may be final when the chain moves."""

    def __init__(self, hub: Hub, *, expects_peers: bool) -> None:
        """Begin with the chain as it is: what it has, it has had for long enough."""
        self._hub = hub
        self._expects_peers = expects_peers
        asert = hub.chain.terms.asert
        assert asert is not None
        intervals = limits.HELD_INTERVALS * asert.interval / MICROSECONDS
        self._seconds = min(intervals, limits.HELD_SECONDS)
        self._held = deque([(float("-inf"), hub.chain.length)])  # since when so many blocks
        self._claimed: dict[str, float] = {}  # by URL, since when it claims more than was shown

    def most(
        self, start: int, stop: int, work: int, others: Iterable[Branch], branch: Branch | None
    ) -> int:
        """Return how many blocks may be final when those from `start` to `stop` have come.

        `work` is what the chain has then, `others` are branches with more, `branch` the one that
        the blocks are of, if any. A long one that was shown a while ago, and that no peer claims to
        surpass, is taken for what there is, and becomes final as it comes.
        """
        until = self._hub.now - self._seconds
        if self._expects_peers and all(peer.since > until for peer in self._hub.ready):
            return 0
        others = list(others)
        if self._is_claimed(max([work, *(b.work for b in (*others, branch) if b is not None)])):
            return 0
        claims = (peer.claim.work for peer in self._hub.ready if peer.claim)
        is_old = branch is not None and branch.is_long and branch.since <= until
        if branch is not None and is_old and all(claim <= branch.work for claim in claims):
            held = stop
        else:
            held = max((length for since, length in self._held if since <= until), default=0)
            held = min(held, start)
        most = held - self._hub.chain.terms.final_depth
        return min([most, *(other.base.index + 1 for other in others)])

    def _is_claimed(self, shown: int) -> bool:
        """Whether one whom we have dialled claims more than what was shown, and may yet show it.

        Not one who has dialled us: anybody can, and could have nothing become final.
        """
        now, is_claimed = self._hub.now, False
        for peer in self._hub.ready:
            if peer.urls and peer.claim and peer.claim.work > shown:
                since = self._claimed.setdefault(peer.urls[0], now)
                is_claimed |= now - since < limits.CLAIMED_SECONDS
            elif peer.urls and peer.claim:
                self._claimed.pop(peer.urls[0], None)
        for url in list(self._claimed)[: -limits.SLOW_PEERS]:
            del self._claimed[url]
        return is_claimed

    def moved(self, move: Move) -> None:
        """Note that the chain has moved."""
        start, stop = move.connected[0].start, move.connected[-1].stop
        since = self._hub.now
        while self._held and self._held[-1][1] >= start:
            since, _ = self._held.pop()
        self._held.append((since, start))
        self._held.append((self._hub.now, stop))
        until = self._hub.now - self._seconds
        while len(self._held) > 1 and self._held[1][0] <= until:
            self._held.popleft()
