"""A world for the protocol: a virtual clock, bad links, bad clocks, crashes, and hash power.

One heap of what is going to happen, and one generator for all that is random: a seed is a run. The
nodes are the real `Network` over the real `Chain`; the store in memory is the disk of a node, all
that a crash leaves of it. What is not simulated: sockets, frames too large for a link, slow disks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from cairn.core.entry import Entry
from cairn.core.genesis import Terms, Work
from cairn.core.header import HEADER_BYTES, HEADER_DTYPE
from cairn.core.merkle import leaf_hash
from cairn.core.rules import InvalidChainError
from cairn.core.segment import Segment
from cairn.core.validation import Edge
from cairn.core.work import bits_of, target_of, total_work, work_of
from cairn.hashing.portable import HashlibHasher
from cairn.ledger.chain import Chain, Run
from cairn.net import limits
from cairn.net.addresses import AddressBook
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
    Received,
    Send,
    Submitted,
    Tick,
)
from cairn.net.messages import decode
from cairn.net.network import Network
from cairn.net.pool import Pool
from cairn.store.interface import Pooled
from cairn.store.memory import MemoryStore
from tests.builders import mine, mined_genesis
from tests.simulator.invariants import Checker, Judge, Violation

INTERVAL: Final = 30.0
"""Seconds between blocks that the targets aim at: delays are small beside it, timeouts are not."""
FIRST_BITS: Final = bits_of(2**251)
"""Of genesis: 32 hashes, and room for easier and harder ones."""
MOST_RATE: Final = 4.0
"""Blocks an interval that would be found at the easiest target that is simulated, 8 hashes."""
PREFIX: Final = 70
"""Blocks that all nodes begin with."""
START_SECONDS: Final = 10.0
"""What peers that a node knows of have at its start, before it mines: as `cairn.node` has it."""
DIAL_SECONDS: Final = 3.0
"""Until one who dials a machine that is gone is told so."""
QUICK: Final = 0.02
"""Seconds, mean, from one end to the other of the links of a hostile peer that is there for nodes
that are late, and"""
SLOW: Final = 1.5
"""of other links of such nodes: so that they follow a chain already when they hear of others."""
HASHER: Final = HashlibHasher()


class CheapIdentity:
    """A key whose proofs take no curve: who knows the key could make them, but nobody here does."""

    def __init__(self, name: str) -> None:
        self.key: Final = sha256(name.encode()).digest()

    def sign(self, message: bytes) -> bytes:
        return self._signature(self.key, message)

    def verify(self, key: bytes, signature: bytes, message: bytes) -> bool:
        return signature == self._signature(key, message)

    @staticmethod
    def _signature(key: bytes, message: bytes) -> bytes:
        return 2 * sha256(b"secret of" + key + message).digest()


class Memo:
    """What was found of bytes, for all nodes of a run: the same bytes, the same finding."""

    def __init__(self) -> None:
        self.headers: dict[tuple[bytes, bytes], Run | InvalidChainError] = {}
        self.bodies: dict[tuple[bytes, bytes, bytes], InvalidChainError | None] = {}
        self.ids: dict[bytes, list[bytes]] = {}


class SharedChain(Chain):
    """`Chain`, which does not check the same bytes once more for every node."""

    def __init__(self, store: MemoryStore, memo: Memo) -> None:
        self._memo = memo
        super().__init__(store, HASHER)

    def check_headers(self, headers: NDArray[np.uint8], before: Edge) -> Run:
        key = (headers.tobytes(), before.hash)
        found = self._memo.headers.get(key)
        if found is None:
            try:
                found = super().check_headers(headers, before)
            except InvalidChainError as error:
                found = error
            self._memo.headers[key] = found
        if isinstance(found, InvalidChainError):
            raise InvalidChainError(found.failure)
        return found

    def check_bodies(self, segment: Segment) -> None:
        key = (segment.hashes.tobytes(), segment.offsets.tobytes(), segment.data.tobytes())
        if key not in self._memo.bodies:
            try:
                super().check_bodies(segment)
                self._memo.bodies[key] = None
            except InvalidChainError as error:
                self._memo.bodies[key] = error
        if found := self._memo.bodies[key]:
            raise InvalidChainError(found.failure)

    def ids(self, segment: Segment) -> list[bytes]:
        key = segment.hashes.tobytes()
        if key not in self._memo.ids:
            self._memo.ids[key] = super().ids(segment)
        return self._memo.ids[key]


class SeenBook(AddressBook):
    """`AddressBook`, which tells the world who is discouraged."""

    def __init__(self, node: Node, **others: Any) -> None:
        self._node = node
        super().__init__(node.configured, node.store.addresses(), own=node.url, **others)

    def discourage(self, now: float, *, host: str, key: bytes | None, url: str | None) -> None:
        super().discourage(now, host=host, key=key, url=url)
        self._node.world.discouraged(self._node, host)


@dataclass(slots=True, eq=False)
class Link:
    """Two ends, each a node and what that one calls the link; frames are on their way between."""

    ends: tuple[tuple[Node, int], tuple[Node, int]]
    delay: float
    """Seconds, mean."""
    last: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """When the last frame comes at each end."""
    is_cut: bool = False
    """Whether nothing gets through, and nobody is told."""
    has_lost: bool = False


@dataclass(frozen=True, slots=True)
class Faults:
    """How bad links are: the share of frames that are lost, doubled, or overtake others."""

    lost: float = 0.0
    doubled: float = 0.0
    early: float = 0.0
    cut: float = 0.0
    """Share of frames after which the link breaks."""
    dial: float = 0.0
    """Share of attempts to dial that fail."""


class Node:
    """An honest node: the protocol, and what a machine does for it."""

    is_honest = True
    is_quick = False
    """Whether its links are faster than those of others."""

    def __init__(
        self,
        world: World,
        number: int,
        *,
        share: float = 0.0,
        skew: float = 0.0,
        configured: Sequence[str] = (),
        known: int | None = None,
    ) -> None:
        """`share` is of all hash power; `skew` are seconds that its clock is ahead.

        It has the first `known` blocks of those that are there at the beginning: all, unless it is
        new or was off.
        """
        self.world, self.number, self.share, self.skew = world, number, share, skew
        self.configured = list(configured)
        self.host = f"20.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        self.url = url_of(self.host)
        self.name = self.alias = f"node {number}"
        self.store: MemoryStore = MemoryStore(world.prefix.cut(0, 1), mined=True)
        self.known = len(world.prefix) if known is None else known
        if self.known > 1:
            rest = world.prefix.cut(1, self.known)
            final = max(1, self.known - world.terms.final_depth)
            self.store.advance(rest, work=total_work(rest.fields["bits"]), final=final)
        self.is_down = False
        self.is_doomed = False
        """Whether it crashes before all is done that the next event asks for."""
        self.has_gone_back = False
        """Whether its clock was ever set back."""
        self.boot()

    def __str__(self) -> str:
        return self.name

    @property
    def clock(self) -> float:
        return self.world.now + self.skew

    @property
    def is_at_work(self) -> bool:
        return not self.is_down and self.network.halted is None

    @property
    def mines(self) -> bool:
        """Whether it looks for blocks: not while peers may have to show it a better chain."""
        is_new = self.world.now - self.booted < START_SECONDS
        waits = is_new and self.book.begins_with > 0 and not self.network.is_settled
        return self.is_at_work and not waits and self.network.missing <= limits.MAX_HEADERS

    @property
    def head(self) -> bytes:
        return self.chain.tip.hash

    def boot(self) -> None:
        """Begin with what is on disk."""
        world = self.world
        self.booted = world.now
        self.links: dict[int, tuple[Link, int]] = {}
        self.chain = SharedChain(self.store, world.memo)
        pool = Pool()
        pool.give_back(self.chain.waiting(), self.clock)
        self.book = SeenBook(self, random=Random(world.random.getrandbits(64)))
        self.identity = CheapIdentity(self.alias)
        self.network = Network(
            self.chain,
            self.identity,
            pool=pool,
            book=self.book,
            random=Random(world.random.getrandbits(64)),
            now=self.clock,
            address=self.url,
        )

    def handle(self, event: Event) -> None:
        """Let the protocol handle an event, and do what it asks for."""
        if self.is_down or self.network.halted is not None:
            return
        try:
            actions = self.network.handle(event, self.clock)
        except Violation:
            raise
        except Exception as error:
            raise Violation("bug", f"{self} fails at {type(event).__name__}: {error!r}") from error
        if self.is_doomed:  # what is stored is stored; of the rest only some gets out
            for action in actions:
                if isinstance(action, HeadMoved):
                    self.act(action)
            self.world.settled(self, actions)
            for action in actions[: self.world.random.randrange(len(actions) + 1)]:
                if not isinstance(action, HeadMoved):
                    self.act(action)
            self.crash()
            return
        for action in actions:
            self.act(action)
        self.world.settled(self, actions)

    def act(self, action: Action) -> None:
        """Do what the protocol asks for."""
        world = self.world
        if isinstance(action, Send):
            if end := self.links.get(action.peer):
                world.send(*end, action.frame)
        elif isinstance(action, HeadMoved):
            world.moved(self, action)
        elif isinstance(action, Close):
            if end := self.links.pop(action.peer, None):
                world.log(f"{self} closes #{action.peer}: {action.reason}")
                world.hang_up(*end)
                world.later(0.0, self.handle, Closed(action.peer))
        elif isinstance(action, Dial):
            world.dial(self, action.url)
        elif isinstance(action, Note):
            world.log(f"{self}: {action.text}")
        elif isinstance(action, Halted):
            world.log(f"{self} stops: {action.reason}")
            world.stopped(self)

    def submit(self, entry: bytes) -> None:
        """Take an entry of this node's user, durably."""
        received = int(self.clock * 1e6)
        self.store.pool_add([Pooled(leaf_hash(entry), entry, received)])
        self.handle(Submitted(entry))

    def mine(self) -> None:
        """Find a block, as its hash power has it."""
        self.handle(Mined(seal(self.network.candidate(self.clock))))

    def crash(self) -> None:
        """Lose all that is not on disk."""
        world = self.world
        world.log(f"{self} crashes")
        self.is_doomed, self.is_down = False, True
        for end in self.links.values():
            if world.random.random() < 0.7:
                world.hang_up(*end)
            else:  # as if the machine were gone: the other side has to find out
                end[0].is_cut = True
        self.store.set_addresses(self.book.urls())
        self.links = {}

    def is_refused(self) -> None:
        """Hear that another node has discouraged this one."""

    def restart(self) -> None:
        self.world.log(f"{self} starts again")
        self.is_down = False
        self.boot()


class World:
    """Runs nodes on links, in virtual time."""

    def __init__(
        self,
        seed: int,
        *,
        seal: Work,
        faults: Faults,
        delay: float = 0.3,
        tick: float = 2.0,
        bits: int = FIRST_BITS,
        prefix: int = PREFIX,
        is_final: bool = True,
        trace: TextIO | None = None,
    ) -> None:
        self.random = Random(seed)
        self.prefix = prefix_of(seal, bits, prefix)
        self.terms = Terms.of(self.prefix.block(0))
        self.interval = seal.interval / 1e6
        last = int(self.prefix.fields["timestamp"][-1])
        self.start = self.now = last / 1e6
        """Seconds since the Unix epoch, of a clock that is right."""
        self.faults, self.delay, self.tick = faults, delay, tick
        self.memo = Memo()
        self.checker = Checker(Judge(self.terms, self.prefix), is_final)
        self.nodes: list[Node] = []
        self.side: dict[int, int] = {}
        """Of a partition that nodes are on, by their numbers."""
        self.halted: list[Node] = []
        self.submitted: list[bytes] = []
        """Ids of the entries that users of honest nodes were told are safe."""
        self.found_out: Counter[int] = Counter()
        """How often honest nodes have refused each, by their numbers."""
        self.frames = 0
        self.digest = sha256()
        self._hosts: dict[str, Node] = {}
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = count(1)
        self._peers = count(1)
        self._trace = trace
        self._shares: list[float] = []
        self._first_work = work_of(int(self.prefix.fields["bits"][0]))
        self.has_faults = True
        self._has_changed = False

    # Time

    def later(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        heappush(self._heap, (self.now + seconds, next(self._numbers), act, arguments))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; whether `until` came true, looked at when a head has moved or a node
        has stopped."""
        end = self.now + seconds
        heap = self._heap
        if until is not None and until():
            return True
        while heap and heap[0][0] <= end:
            self.now, _, act, arguments = heappop(heap)
            act(*arguments)
            if self._has_changed:
                self._has_changed = False
                if until is not None and until():
                    return True
        self.now = end
        return False

    def log(self, text: str) -> None:
        if self._trace is not None:
            print(f"{self.now - self.start:9.2f}  {text}", file=self._trace)

    # Nodes

    def add(self, node: Node) -> None:
        """Let a node begin."""
        self.nodes.append(node)
        self._hosts[node.host] = node
        self._shares.append(node.share)
        if node.is_honest:
            self.checker.begin(node.number, self.prefix.cut(0, node.known))
        self.later(self.random.random() * self.tick, self._tick, node)

    @property
    def honest(self) -> list[Node]:
        return [node for node in self.nodes if node.is_honest]

    def moves_to(self, host: str, node: Node) -> None:
        """Let a node have this address, too."""
        self._hosts[host] = node

    def _tick(self, node: Node) -> None:
        node.handle(Tick())
        self.later(self.tick * (0.9 + 0.2 * self.random.random()), self._tick, node)

    def start_mining(self) -> None:
        """Let blocks be found from now on: a Poisson process, whose rate goes by the targets.

        Chances come as often as they would at the easiest target, to nodes by their shares, and
        one is taken as often as the target asks for.
        """
        self.later(self._pause(), self._chance)

    def _pause(self) -> float:
        return self.random.expovariate(MOST_RATE / self.interval)

    def _chance(self) -> None:
        self.later(self._pause(), self._chance)
        node = self.random.choices(self.nodes, self._shares)[0]
        luck = self.random.random() * MOST_RATE
        if node.mines:
            tip, asert = node.chain.tip, self.terms.asert
            assert asert is not None
            if luck < self._first_work / work_of(asert.bits_after(tip.index, tip.timestamp)):
                node.mine()

    def stopped(self, node: Node) -> None:
        self._has_changed = True
        self.halted.append(node)
        if node.is_honest:
            self.checker.stopped(node)

    def settled(self, node: Node, actions: Iterable[Action]) -> None:
        """Look at a node after all that it has done about an event."""
        if node.is_honest and any(isinstance(action, HeadMoved) for action in actions):
            self.checker.settled(node)

    def moved(self, node: Node, action: HeadMoved) -> None:
        self._has_changed = True
        self.log(
            f"{node} is at {node.chain.tip.index} {node.head.hex()[:8]}"
            f" -{sum(map(len, action.disconnected))} +{sum(map(len, action.connected))}"
        )
        self.digest.update(f"{self.now} {node} {node.head.hex()}".encode())
        if node.is_honest:
            self.checker.moved(node, action.disconnected, action.connected)

    def discouraged(self, by: Node, host: str) -> None:
        if by.is_honest and self._hosts[host].is_honest:
            raise Violation("innocent", f"{by} refuses {self._hosts[host]}, which is honest")
        self.found_out[self._hosts[host].number] += by.is_honest
        self._hosts[host].is_refused()

    def submit(self, node: Node) -> None:
        """Let a node's user record something."""
        number = len(self.submitted)
        entry = self.random.randbytes(16) + f'"entry {number}"'.encode()
        if node.is_at_work:
            self.submitted.append(leaf_hash(entry))
            node.submit(entry)

    # Links

    def dial(self, node: Node, url: str) -> None:
        other = self._hosts.get(url.removeprefix("ws://").split(":")[0])
        delay = self.delay * (0.2 + self.random.random())
        if other is None or self.random.random() < self.faults.dial:
            self.later(DIAL_SECONDS, node.handle, DialFailed(url))
        else:
            self.later(delay, self._dialled, node, node.network, other, url)

    def _dialled(self, node: Node, network: Network, other: Node, url: str) -> None:
        if node.is_down or node.network is not network:
            return
        if not other.is_at_work or self._is_between(node, other):
            self.later(DIAL_SECONDS, node.handle, DialFailed(url))
            return
        ours, theirs = next(self._peers), next(self._peers)
        delay = self.delay * self.random.choice((0.1, 0.3, 1.0, 2.0))
        if node.is_quick or other.is_quick:
            delay = QUICK
        elif min(node.known, other.known) < len(self.prefix):
            delay = SLOW
        link = Link(((node, ours), (other, theirs)), delay, [self.now, self.now])
        node.links[ours], other.links[theirs] = (link, 0), (link, 1)
        node.handle(Opened(ours, url, other.host))
        other.handle(Opened(theirs, None, node.host))

    def _is_between(self, a: Node, b: Node) -> bool:
        """Whether a partition is."""
        return bool(self.side) and self.side.get(a.number) != self.side.get(b.number)

    def send(self, link: Link, side: int, frame: bytes) -> None:
        """Send a frame from one end of a link."""
        self.frames += 1
        if link.is_cut:
            return
        random, faults = self.random.random, self.faults
        if faults.lost and random() < faults.lost:
            link.has_lost = True
            return
        self._carry(link, 1 - side, frame, is_early=random() < faults.early)
        if faults.doubled and random() < faults.doubled:
            self._carry(link, 1 - side, frame, is_early=False)
        if faults.cut and random() < faults.cut:
            self.break_link(link)

    def _carry(self, link: Link, side: int, frame: bytes, *, is_early: bool) -> None:
        at = self.now + link.delay * (0.5 + self.random.random())
        if not is_early:
            at = link.last[side] = max(at, link.last[side])
        heappush(self._heap, (at, next(self._numbers), self._deliver, (link, side, frame)))

    def _deliver(self, link: Link, side: int, frame: bytes) -> None:
        node, peer = link.ends[side]
        if peer in node.links and not link.is_cut:
            if self.side and self._is_between(node, link.ends[1 - side][0]):
                link.has_lost = True
                return
            if self._trace is not None:
                self._show(link, side, frame)
            node.handle(Received(peer, frame))

    def hang_up(self, link: Link, side: int) -> None:
        """Close a link from one end: the other one hears of it after what was sent."""
        node, peer = link.ends[1 - side]
        at = max(self.now + link.delay, link.last[1 - side])
        heappush(self._heap, (at, next(self._numbers), self._hung_up, (node, peer)))

    def _hung_up(self, node: Node, peer: int) -> None:
        if node.links.pop(peer, None):
            node.handle(Closed(peer))

    def break_link(self, link: Link) -> None:
        """Let both ends find out that the link is gone."""
        link.is_cut = True
        for node, peer in link.ends:
            self.later(link.delay, self._hung_up, node, peer)

    def links(self) -> list[Link]:
        found = {id(link): link for node in self.nodes for link, _ in node.links.values()}
        return list(found.values())

    def part(self, side: dict[int, int], *, reset: bool) -> None:
        """Let nodes of different sides hear nothing of one another; with `reset`, they are told."""
        self.log(f"a partition: {side}")
        self.side = side
        for link in self.links():
            (a, _), (b, _) = link.ends
            if reset and self._is_between(a, b):
                self.break_link(link)

    def heal(self) -> None:
        self.log("no partition any more")
        self.side = {}

    def stop_faults(self) -> None:
        """Let all be well from now on. A link that has lost anything is broken, as TCP's are."""
        self.log("no faults any more")
        self.faults, self.has_faults = Faults(), False
        self.heal()
        for link in self.links():
            if link.has_lost or link.is_cut:
                self.break_link(link)
        for node in self.nodes:
            node.is_doomed = False
            if node.is_down and node.is_honest:
                node.restart()

    def _show(self, link: Link, side: int, frame: bytes) -> None:
        try:
            text = type(decode(frame)).__name__
        except Exception:
            text = "garbage"
        self.log(f"{link.ends[1 - side][0]} -> {link.ends[side][0]}: {text}, {len(frame)} bytes")


def url_of(host: str) -> str:
    return f"ws://{host}:80"


def seal(candidate: Segment, start: int = 0) -> Segment:
    """Return a block with the first nonce from `start` on that serves."""
    header = bytearray(candidate.headers[0].tobytes())
    target = target_of(int(candidate.fields["bits"][0]))
    return as_block(search(header, target, start), candidate)


def search(header: bytes | bytearray, target: int, start: int = 0) -> bytes:
    """Return a header with a nonce for that target."""
    most = target.to_bytes(32, "big")
    first = sha256(b"\0" + header[:96])
    for nonce in count(start):
        tried = first.copy()
        tail = nonce.to_bytes(8, "big")
        tried.update(tail)
        if tried.digest() <= most:
            return bytes(header[:96]) + tail
    raise AssertionError


def as_block(header: bytes, like: Segment) -> Segment:
    """Return a block with this header and another one's entries."""
    rows = np.frombuffer(header, np.uint8).reshape(1, HEADER_BYTES)
    hashes = np.frombuffer(leaf_hash(header), np.uint8).reshape(1, 32)
    index = int(rows.view(HEADER_DTYPE)["index"][0, 0])
    return Segment(index, rows, hashes, like.data, like.offsets)


@cache
def prefix_of(seal: Work, bits: int, length: int) -> Segment:
    """Return genesis and blocks that follow it by the schedule, an entry in each."""
    blocks = [mined_genesis(seal, bits=bits)]
    terms = Terms.of(blocks[0])
    for number in range(1, length):
        entry = Entry(number.to_bytes(16, "big"), f'"before {number}"'.encode())
        time = blocks[-1].header.timestamp + seal.interval
        blocks.append(mine(terms, [entry], blocks[-1], time))
    return Segment.from_blocks(0, blocks)


@contextmanager
def settings(**values: Any) -> Iterator[None]:
    """Let some of `cairn.net.limits` have other values for a while."""
    before = {name: getattr(limits, name) for name in values}
    try:
        for name, value in values.items():
            setattr(limits, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(limits, name, value)
