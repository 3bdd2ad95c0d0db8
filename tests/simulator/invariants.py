"""What has to hold in every run, looked at whenever a chain moves: each has a name.

Nothing here asks a node what it thinks of its own chain: blocks are judged once more, by code of
its own, and what is final is counted here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cairn.core.canonical import canonical, parse
from cairn.core.errors import CairnError
from cairn.core.genesis import Terms
from cairn.core.segment import Segment
from cairn.net import limits
from cairn.net.sync import PER_PEER

if TYPE_CHECKING:
    from tests.simulator.world import Node

FUTURE_SECONDS: Final = 600.0
"""How far ahead of a node's clock a block may be dated, as the format has it."""
CLOCK_ERROR: Final = 1e-3
"""Seconds by which a time may be off for being a float."""
HEADER: Final = struct.Struct(">HHIQ32sQII32sQ")


class Violation(AssertionError):  # noqa: N818 - it is what was found, by its name
    """An invariant does not hold; `name` says which."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Judged:
    """A block that somebody honest has on the chain."""

    index: int
    timestamp: int
    """µs."""
    work: int
    """Of the chain that ends with it."""
    previous: bytes
    ids: tuple[bytes, ...]


def _tree(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, word for word."""
    if len(leaves) == 0:
        return sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\1" + _tree(leaves[:k]) + _tree(leaves[k:])).digest()


def _target(bits: int) -> int:
    size, digits = bits >> 24, bits & 0x7FFFFF
    return digits << 8 * (size - 3) if size > 3 else digits >> 8 * (3 - size)


class Judge:
    """Judges every block once, whoever has it: plainly, by the rules of a ledger of work."""

    def __init__(self, terms: Terms, known: Segment) -> None:
        """`known` are the blocks that every run begins with; the first is genesis."""
        self.terms = terms
        self.blocks: dict[bytes, Judged] = {}
        self.bodies: dict[bytes, list[bytes]] = {}
        for i in range(len(known)):
            self._judge(known.headers[i].tobytes(), known.hashes[i].tobytes(), known.entries(i))

    def look(self, segment: Segment) -> None:
        """Judge what was not judged before.

        Raises:
            Violation: `valid`: a block breaks a rule.
        """
        for i, row in enumerate(segment.hashes):
            block_hash = row.tobytes()
            if block_hash not in self.blocks:
                self._judge(segment.headers[i].tobytes(), block_hash, segment.entries(i))

    def entries(self, block_hash: bytes) -> list[bytes]:
        return self.bodies[block_hash]

    def _judge(self, header: bytes, block_hash: bytes, entries: Sequence[bytes]) -> None:
        fields = HEADER.unpack(header)
        version, kind, bits, index, link, timestamp, count, size, root, _ = fields
        ids = tuple(sha256(b"\0" + entry).digest() for entry in entries)
        terms, asert = self.terms, self.terms.asert
        assert asert is not None
        before = self.blocks.get(link)
        good = {
            "hash": sha256(b"\0" + header).digest() == block_hash,
            "version": version == 1,
            "kind": kind == (1 if index else 2),
            "count": count == len(entries) <= terms.limits.count,
            "size": size == sum(map(len, entries)) <= terms.limits.size,
            "data_root": root == _tree(ids),
            "canonical": all(map(_is_canonical, entries)),
        }
        if index:
            good["link"] = before is not None
        if before is not None:
            good |= {
                "index": index == before.index + 1,
                "timestamp": before.timestamp <= timestamp < 2**63,
                "target": bits == asert.bits_after(before.index, before.timestamp),
                "work": int.from_bytes(block_hash, "big") <= _target(bits),
            }
        broken = [name for name, is_good in good.items() if not is_good]
        if broken:
            raise Violation("valid", f"block {index} breaks {', '.join(broken)}: {header.hex()}")
        work = before.work + 2**256 // (_target(bits) + 1) if before else 0
        self.blocks[block_hash] = Judged(index, timestamp, work, link, ids)
        self.bodies[block_hash] = list(entries)


def _is_canonical(entry: bytes) -> bool:
    try:
        return len(entry) > 16 and canonical(parse(entry[16:])) == entry[16:]
    except CairnError:
        return False


@dataclass
class View:
    """What is known here of an honest node's chain."""

    chain: list[bytes]
    """Hashes, from genesis on."""
    final: int
    """Blocks that the node has called final, of those with enough others after them, ever."""


@dataclass
class Checker:
    """Follows all honest nodes."""

    judge: Judge
    is_final: bool = True
    """Whether what is final is to stay: not where the attacker is stronger than the promise."""
    final: list[bytes] = field(default_factory=list)
    """Hashes of the blocks that are final anywhere."""
    views: dict[int, View] = field(default_factory=dict)
    hostile_blocks: set[bytes] = field(default_factory=set)
    reorganisations: int = 0

    def begin(self, number: int, chain: Segment) -> None:
        hashes = [row.tobytes() for row in chain.hashes]
        self.views[number] = View(hashes, self._depth(len(hashes)))
        self._finalise(self.views[number])

    def moved(self, node: Node, gone: Iterable[Segment], come: Sequence[Segment]) -> None:
        """Look at a change of an honest node's chain.

        Raises:
            Violation: an invariant does not hold.
        """
        view, judge = self.views[node.number], self.judge
        for segment in come:
            judge.look(segment)
        start = come[0].start
        taken = [row.tobytes() for segment in gone for row in segment.hashes]
        if taken != view.chain[start:]:
            raise Violation("events", f"{node} takes off what is not the end of its chain")
        self.reorganisations += bool(taken)
        if start < view.final:
            raise Violation("final", f"{node} changes block {start}, and {view.final} are final")
        before = judge.blocks[view.chain[-1]]
        if judge.blocks[come[0].hashes[0].tobytes()].previous != view.chain[start - 1]:
            raise Violation("link", f"block {start} of {node} does not follow its chain")
        view.chain[start:] = [row.tobytes() for segment in come for row in segment.hashes]
        end = judge.blocks[view.chain[-1]]
        if end.work <= before.work:
            raise Violation("work", f"{node} goes from work {before.work} to {end.work}")
        ahead = end.timestamp / 1e6 - node.clock
        if not node.has_gone_back and ahead > FUTURE_SECONDS + CLOCK_ERROR:
            raise Violation("future", f"{node} takes a block {ahead:.0f} s ahead of its clock")

    def settled(self, node: Node) -> None:
        """Look at an honest node after an event that has moved its chain, maybe more than once.

        Raises:
            Violation: an invariant does not hold.
        """
        view = self.views[node.number]
        if node.head != view.chain[-1]:
            raise Violation("events", f"{node} does not say all that has become of its chain")
        work = self.judge.blocks[node.head].work
        if node.chain.work != work:
            raise Violation("work", f"{node} counts {node.chain.work}, and has {work}")
        most = max(view.final, self._depth(len(view.chain)))
        if not view.final <= node.chain.final <= most:  # it may wait, for others to show more
            raise Violation("final", f"{node} says {node.chain.final}, and has {most}")
        view.final = node.chain.final
        self._finalise(view)

    def stopped(self, node: Node) -> None:
        """Look at an honest node when it stops.

        Raises:
            Violation: `halt`: no chain of anybody honest has had more work without what is final.
        """
        chain, last = self.views[node.number].chain, node.chain.final - 1
        blocks = self.judge.blocks
        for at, block in blocks.items():
            if block.work > blocks[chain[-1]].work:
                while blocks[at].index > last:
                    at = blocks[at].previous
                if at != chain[last]:
                    return
        raise Violation("halt", f"{node} stops, and need not")

    def node(self, node: Node) -> None:
        """Look at all that an honest node has.

        Raises:
            Violation: an invariant does not hold.
        """
        view = self.views[node.number]
        stored = node.store.hashes(0, node.store.head().length)
        if [row.tobytes() for row in stored] != view.chain:
            raise Violation("stored", f"{node} has not stored the chain that it tells of")
        if self.is_final and view.chain[: view.final] != self.final[: view.final]:
            raise Violation("final", f"{node} is final on another chain")
        if node.chain.final != view.final:
            raise Violation("final", f"{node} has changed its mind without a block")
        self._ids(node, view)
        self.bounds(node)

    def lag(self, node: Node) -> int:
        """Return how many blocks are not final that have enough others after them."""
        view = self.views[node.number]
        return self._depth(len(view.chain)) - view.final

    def bounds(self, node: Node) -> None:
        """Look at how much an honest node holds.

        Raises:
            Violation: more than it may.
        """
        network, chain = node.network, node.chain
        hub, sync, pool = network._hub, network._sync, network.relay.pool
        most = {
            "peers": (len(hub.peers), limits.PEERS),
            "pool": (len(pool), limits.POOL_ENTRIES),
            "pool bytes": (pool.size, limits.POOL_BYTES),
            "asked": (len(network.relay._asked), limits.ASKED_ENTRIES * limits.PEERS),
            "branches": (len(sync.branches), limits.BRANCHES),
            "blocks": (
                sum(len(s.data) for b in sync.branches for s in b.here.values()),
                2 * limits.WINDOW_BYTES,
            ),
            "known blocks": (len(chain._known), 2 * (1024 + chain.terms.final_depth) + 1),
            "book": (len(node.book), 1000 + 100 + len(node.configured)),
            "parts": (
                max((sum(p.run is not None for p in b.parts) for b in sync.branches), default=0),
                limits.KEPT_PARTS + limits.WINDOW_PARTS,
            ),
        }
        for peer in hub.peers.values():
            most["requests"] = (len(peer.waiting), limits.WAITING_REQUESTS)
            most["asked blocks"] = (len(peer.bodies), PER_PEER)
            most["known ids"] = (len(peer.known), limits.KNOWN_IDS)
            _require_within(node, most)
        _require_within(node, most)

    def _ids(self, node: Node, view: View) -> None:
        """Look for an entry that an honest miner has put on a chain that had it."""
        seen: set[bytes] = set()
        for block_hash in view.chain:
            ids = self.judge.blocks[block_hash].ids
            if block_hash not in self.hostile_blocks:
                twice = seen & set(ids) or len(set(ids)) < len(ids)
                if twice:
                    raise Violation("twice", f"an entry is twice on the chain of {node}")
            seen.update(ids)

    def _depth(self, length: int) -> int:
        return max(1, length - self.judge.terms.final_depth)

    def _finalise(self, view: View) -> None:
        if not self.is_final:
            return
        at = len(self.final)
        if view.final > at:
            if at and self.judge.blocks[view.chain[at]].previous != self.final[-1]:
                raise Violation("final", f"two blocks are final at {at - 1}")
            self.final += view.chain[at : view.final]
        # The ends agree, and each block holds the hash of the one before.
        elif view.chain[view.final - 1] != self.final[view.final - 1]:
            raise Violation("final", f"two blocks are final at {view.final - 1}")


def _require_within(node: Node, most: dict[str, tuple[int, int]]) -> None:
    for name, (found, bound) in most.items():
        if found > bound:
            raise Violation("bounds", f"{node} has {found} of {name}, more than {bound}")
