"""Hostile peers: the real protocol for following the chain, and lies on top of it.

Each knows what an honest node knows and has hash power of its own. What it lies about is forged
with care: only the rule that it breaks is broken, so that nothing else gives it away. One that is
found out comes back with another key, from another address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Final, NamedTuple

import numpy as np

from cairn.core.header import Header, Kind
from cairn.core.merkle import leaf_hash, tree_hash
from cairn.core.segment import Segment
from cairn.core.work import MAX_BITS, target_of, work_of
from cairn.net import limits
from cairn.net.events import Action, Event, HeadMoved, Mined, Received, Send, Tick
from cairn.net.messages import (
    Addresses,
    Bodies,
    Entries,
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
    Want,
    decode,
    encode,
    split,
)
from tests.simulator.world import (
    FIRST_BITS,
    Node,
    World,
    as_block,
    seal,
    search,
    url_of,
)

US: Final = 1_000_000
NOTHING: Final = np.empty(0, np.uint8)


class Forged(NamedTuple):
    """A block that is shown to peers; its entries are served as they are given here."""

    header: bytes
    lengths: bytes
    data: bytes
    work: int
    """Of the chain that ends with it, as it would be if all were right."""
    parent: bytes = b""
    """Hash of the block that it is shown after."""

    @property
    def hash(self) -> bytes:
        return leaf_hash(self.header)

    @property
    def head(self) -> Head:
        return Head(self.header, min(self.work, 2**256 - 1).to_bytes(32, "big"))


class Hostile(Node):
    """Follows the chain as the honest do, and mines honestly: attacks say what they do else."""

    is_honest = False
    lies = False
    """Whether what it tells is to get it refused."""
    returns = True
    """Whether it comes back under another name when it was refused."""

    def __init__(self, world: World, number: int, **others: Any) -> None:
        self.forged: dict[bytes, Forged] = {}
        self._names = count(1)
        self.told = 0
        """Lies."""
        super().__init__(world, number, **others)
        self.name = f"{type(self).__name__.lower()} {number}"
        self.world.later(self.world.random.random() * 30, self._again)

    def boot(self) -> None:
        self._is_leaving = False
        super().boot()

    # What it sees

    def handle(self, event: Event) -> None:
        try:
            if isinstance(event, Received) and not self.takes(event.peer, event.frame):
                return
        except Refusal:  # another hostile peer's garbage
            return
        super().handle(event)

    def takes(self, peer: int, frame: bytes) -> bool:
        """Whether the honest part of it sees a frame; else it is answered here, or not at all."""
        message = decode(frame)
        if isinstance(message, GetHeaders) and self.forged:
            return not self.shows(peer, message)
        if isinstance(message, GetBodies) and message.last_hash in self.forged:
            self.serves(peer, message, self.forged[message.last_hash])
            return False
        return True

    def shows(self, peer: int, request: GetHeaders) -> bool:
        """Answer with forged headers, if they follow what the peer has."""
        known = set(request.locator)
        for forged in reversed(self.forged.values()):
            run = self._run(forged, known)
            if run:
                self.say(peer, Headers(request.number, b"".join(run[: limits.MAX_HEADERS])))
                return True
        return False

    def serves(self, peer: int, request: GetBodies, forged: Forged) -> None:
        """Answer with a forged block's entries; those before it are not in question."""
        if request.count == 1:
            self.say(peer, Bodies(request.number, forged.lengths, forged.data))
            return
        run: list[Forged] = []
        block_hash = request.last_hash
        while len(run) < request.count and block_hash in self.forged:
            run.insert(0, self.forged[block_hash])
            block_hash = run[0].parent
        if len(run) < request.count:
            self.say(peer, Missing(request.number))
            return
        lengths = b"".join(one.lengths for one in run)
        self.say(peer, Bodies(request.number, lengths, b"".join(one.data for one in run)))

    # What it does

    def attack(self) -> None:
        """Do what takes no work, every now and then."""

    def say(self, peer: int, message: Message) -> None:
        self.throw(peer, encode(message))

    def throw(self, peer: int, frame: bytes) -> None:
        if end := self.links.get(peer):
            self.world.send(*end, frame)

    def lie(self, message: Message) -> None:
        """Tell all what has to be found out, if it comes through."""
        self.told += bool(self.ready)
        self.tell(message)

    def tell(self, message: Message, peers: Sequence[int] | None = None) -> None:
        for peer in self.ready if peers is None else peers:
            self.say(peer, message)

    @property
    def ready(self) -> list[int]:
        """Links on which it may say what it likes."""
        return [peer.id for peer in self.network._hub.ready]

    def forge(
        self,
        entries: Sequence[bytes] = (),
        *,
        data: Sequence[bytes] | None = None,
        target: int | None = None,
        before: Forged | None = None,
        **changes: Any,
    ) -> Forged:
        """Return a block that would follow our chain, or `before`, with some fields changed.

        It holds `entries`, and `data` is served for them. Its hash is found at `target`, or at that
        of its bits; at none, if `target` is 0.
        """
        asert = self.world.terms.asert
        assert asert is not None
        if before is None:
            tip, work = self.chain.tip, self.chain.work
        else:
            end = Header.unpack(before.header)
            tip = replace(self.chain.tip, index=end.index, hash=end.hash, timestamp=end.timestamp)
            work = before.work
        bits = asert.bits_after(tip.index, tip.timestamp)
        header = Header(
            kind=Kind.BATCH,
            bits=bits,
            index=tip.index + 1,
            previous_hash=tip.hash,
            timestamp=max(int(self.clock * US), tip.timestamp),
            count=len(entries),
            size=sum(map(len, entries)),
            data_root=tree_hash(map(leaf_hash, entries)),
        )
        header = replace(header, **changes)
        packed = header.pack()
        if target != 0:
            packed = search(packed, target or max(target_of(bits), target_of(FIRST_BITS)))
        else:
            while leaf_hash(packed) <= target_of(bits).to_bytes(32, "big"):
                packed = packed[:96] + self.world.random.randbytes(8)
        served = entries if data is None else data
        lengths = b"".join(len(entry).to_bytes(4, "big") for entry in served)
        forged = Forged(packed, lengths, b"".join(served), work + work_of(bits), tip.hash)
        self.forged[forged.hash] = forged
        self.world.checker.hostile_blocks.add(forged.hash)
        if len(self.forged) > 500:
            del self.forged[next(iter(self.forged))]
        return forged

    def entry(self) -> bytes:
        return self.world.random.randbytes(16) + b'"hostile"'

    def mine(self) -> None:
        """Find a block as the honest do."""
        block = seal(self.network.candidate(self.clock))
        self.world.checker.hostile_blocks.add(block.hashes[0].tobytes())
        self.handle(Mined(block))

    def _run(self, forged: Forged, known: set[bytes]) -> list[bytes]:
        """Return forged headers that lead from what a peer knows to this one."""
        run: list[bytes] = []
        at: Forged | None = forged
        while at is not None:
            run.insert(0, at.header)
            link = at.parent
            if link in known:
                return run
            at = self.forged.get(link)
            if at is None:
                return self._down(link, known, run)
        return []

    def _down(self, link: bytes, known: set[bytes], run: list[bytes]) -> list[bytes]:
        """Go on below, on our own chain."""
        position = self.chain.position(link)
        while position is not None and position > 0:
            edge = self.chain.edge(position)
            if edge.hash in known:
                return run
            run.insert(0, self.chain.headers(position, 1))
            position -= 1
        return run if position == 0 and self.chain.id in known else []

    def _again(self) -> None:
        if self.is_at_work:
            self.attack()
        self.world.later(self.world.random.expovariate(1 / 20), self._again)

    def is_refused(self) -> None:
        if self.returns and not self._is_leaving:
            self._is_leaving = True
            self.world.later(self.world.random.uniform(1, 20), self._leave)

    def _leave(self) -> None:
        """Go, and come back later as somebody else."""
        if self.is_down or not self.world.has_faults:
            return
        self.crash()
        number = next(self._names)
        self.alias = f"{self.name} alias {number}"
        self.host = f"21.{self.number & 255}.{number >> 8 & 255}.{number & 255}"
        self.url = url_of(self.host)
        self.world.moves_to(self.host, self)
        self.world.later(self.world.random.uniform(1, 30), self._return)

    def _return(self) -> None:
        if self.world.has_faults:
            self.restart()


class Invalid(Hostile):
    """Blocks that break one rule each, with all the work that they need."""

    lies = True
    breaks: tuple[str, ...] = ()
    """Those that are chosen from; all, if none are named."""

    def mine(self) -> None:
        random = self.world.random
        names = self.breaks or [name for name in dir(self) if name.startswith("break_")]
        forged: Forged = getattr(self, random.choice(names))()
        for _ in range(random.choice((0, 0, 1, 3))):
            forged = self.forge([self.entry()], before=forged)
        self.lie(forged.head)

    def attack(self) -> None:
        if "break_work" in (self.breaks or ["break_work"]):  # it costs nothing not to work
            self.lie(self.break_work().head)

    def break_work(self) -> Forged:
        return self.forge([self.entry()], target=0)

    def break_chain(self) -> Forged:
        first = self.forge([self.entry()])
        return self.forge(
            [self.entry()], before=first, previous_hash=self.world.random.randbytes(32)
        )

    def break_version(self) -> Forged:
        return self.forge([self.entry()], version=2)

    def break_kind_value(self) -> Forged:
        return self.forge([self.entry()], kind=Kind.VALUE)

    def break_kind_record(self) -> Forged:
        return self.forge([self.entry()], kind=Kind.RECORD)

    def break_kind_unknown(self) -> Forged:
        return self.forge([self.entry()], kind=7)

    def break_index(self) -> Forged:
        return self.forge(index=self.chain.tip.index + self.world.random.choice((0, 2, 2**40)))

    def break_link(self) -> Forged:
        return self.forge(previous_hash=self.world.random.randbytes(32))

    def break_timestamp(self) -> Forged:
        return self.forge(timestamp=self.chain.tip.timestamp - 1)

    def break_timestamp_range(self) -> Forged:
        return self.forge(timestamp=2**63)

    def break_future(self) -> Forged:
        ahead = limits.FUTURE_SECONDS + 300
        return self.forge(timestamp=int((self.clock + ahead) * US))

    def break_target(self) -> Forged:
        forged = self.forge(bits=MAX_BITS, target=target_of(MAX_BITS))
        work = self.chain.work + work_of(MAX_BITS)
        self.forged[forged.hash] = forged._replace(work=work)
        return forged._replace(work=work)

    def break_target_none(self) -> Forged:
        return self.forge(bits=0, target=2**255)

    def break_limits(self) -> Forged:
        return self.forge(size=self.world.terms.limits.size + 1)

    def break_count(self) -> Forged:
        entries = [self.entry(), self.entry()]
        return self.forge(entries, data=[b"".join(entries)])

    def break_count_header(self) -> Forged:
        return self.forge([self.entry()], count=2)

    def break_size(self) -> Forged:
        return self.forge([self.entry()], size=7)

    def break_data(self) -> Forged:
        entry = self.entry()
        return self.forge([entry], data=[entry[:-2] + b'!"'])

    def break_data_root(self) -> Forged:
        return self.forge([self.entry()], data_root=bytes(32))

    def break_canonical(self) -> Forged:
        return self.forge([bytes(16) + b'{"b":1, "a":2}'])

    def break_json(self) -> Forged:
        return self.forge([self.entry()[:-1]])

    def break_salt(self) -> Forged:
        return self.forge([bytes(16)], data=[bytes(9), bytes(7)])


class Withholding(Hostile):
    """Shows the headers of blocks, and never the blocks."""

    def mine(self) -> None:
        forged = None
        for _ in range(self.world.random.choice((1, 1, 1, 2))):
            forged = self.forge([self.entry()], before=forged)
        assert forged is not None
        self.tell(forged.head)

    def attack(self) -> None:
        if self.forged:  # once more: it may still be more work than some have
            self.tell(next(reversed(self.forged.values())).head)

    def serves(self, peer: int, request: GetBodies, forged: Forged) -> None:
        if self.world.random.random() < 0.3:
            self.say(peer, Missing(request.number))


class LowWork(Hostile):
    """Floods of headers from far below, each with work, and not enough of it."""

    def attack(self) -> None:
        random = self.world.random
        asert = self.world.terms.asert
        assert asert is not None
        base = random.choice((0, 0, max(self.chain.tip.index - 80, 0)))
        edge = self.chain.edge(base)
        forged: Forged | None = None
        start = Forged(self.chain.headers(base, 1), b"", b"", self.chain.work_at(base))
        for _ in range(random.choice((5, 20, 60))):
            before = forged or start
            ahead = self.chain.tip.timestamp - edge.timestamp
            forged = self.forge([], before=before, timestamp=edge.timestamp + ahead)
        assert forged is not None
        claimed = (
            forged.work if random.random() < 0.3 else self.chain.work + 2 ** random.randrange(9)
        )
        self.tell(forged._replace(work=claimed).head)


class Equivocating(Hostile):
    """Two blocks for one height, to one half of the peers each."""

    def mine(self) -> None:
        blocks = [self.forge([self.entry()]) for _ in range(2)]
        peers = self.ready
        self.world.random.shuffle(peers)
        half = len(peers) // 2
        self.tell(blocks[0].head, peers[:half])
        self.tell(blocks[1].head, peers[half:])
        if self.world.random.random() < 0.5:  # and then it goes on with one of them
            self.handle(Mined(self.block(blocks[0])))

    def block(self, forged: Forged) -> Segment:
        lengths = np.frombuffer(forged.lengths, ">u4")
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
        like = Segment(1, np.zeros((1, 104), np.uint8), np.zeros((1, 32), np.uint8),
                       np.frombuffer(forged.data, np.uint8), offsets)  # fmt: skip
        return as_block(forged.header, like)


class Claiming(Hostile):
    """Work and heights that nothing shows."""

    lies = True

    def attack(self) -> None:
        random = self.world.random
        far = self.chain.tip.index + random.randrange(1, 10**6)
        header = Header(kind=Kind.BATCH, bits=random.getrandbits(32), index=far,
                        previous_hash=random.randbytes(32), timestamp=int(self.clock * US),
                        count=0, size=0, data_root=bytes(32)).pack()  # fmt: skip
        real = self.chain.header
        work = self.chain.work + 2 ** random.randrange(1, 255)
        self.lie(Head(random.choice((header, real)), work.to_bytes(32, "big")))


class Stalling(Hostile):
    """Says what there is, and answers nothing, or late, or that it does not have it."""

    def takes(self, peer: int, frame: bytes) -> bool:
        message = decode(frame)
        if isinstance(message, GetHeaders | GetBodies | Want | Ping):
            if self.world.random.random() < 0.2:
                self.world.later(self.world.random.uniform(3, 15), self._late, peer, frame)
            elif isinstance(message, GetBodies) and self.world.random.random() < 0.2:
                self.say(peer, Missing(message.number))
            return False
        return True

    def _late(self, peer: int, frame: bytes) -> None:
        Node.handle(self, Received(peer, frame))

    def mine(self) -> None:
        """Nothing: it is no good to anybody."""


class Babbling(Hostile):
    """Garbage, and messages that nobody has asked for."""

    def attack(self) -> None:
        random = self.world.random
        peers = self.ready
        if not peers:
            return
        peer = random.choice(peers)
        unasked: list[Message] = [
            Headers(random.getrandbits(8), self.chain.headers(1, 5)),
            Headers(random.getrandbits(8), b""),
            Bodies(random.getrandbits(8), b"", b""),
            Missing(random.getrandbits(8)),
            Pong(3),
            Entries([self.entry()]),
            Want(random.randbytes(32 * 5)),
            GetHeaders(2**60, [random.randbytes(32)] * limits.MAX_LOCATOR),
            GetBodies(2**60, 2**62, 2**62, bytes(32)),
            GetBodies(2**60, 1, 2**62, bytes(32)),
            GetBodies(1, 0, 1, self.chain.id),
            GetHeaders(0, [self.chain.id]),
        ]
        for message in random.sample(unasked, 5):
            self.say(peer, message)
        if random.random() < 0.5:
            frame = encode(random.choice(unasked))
            bad: list[bytes] = [
                random.randbytes(random.randrange(300)),
                frame[: random.randrange(len(frame))],
                frame + b"\0",
                b"",
                encode(Proof(bytes(64))),
                encode(Hello(1, self.chain.id, self.identity.key, bytes(32), "")),
            ]
            self.throw(peer, random.choice(bad))


class Replaying(Hostile):
    """Entries that were mined already, offered again."""

    def attack(self) -> None:
        random = self.world.random
        old = self.chain.store.get(random.randrange(1, self.chain.length))
        assert old is not None
        self.old = {entry.id: entry.to_bytes() for entry in old.entries}
        if self.old:
            self.tell(Have(b"".join(self.old)))

    def takes(self, peer: int, frame: bytes) -> bool:
        message = decode(frame)
        if isinstance(message, Want) and self.old:
            known = set(split(message.ids, 32)) & set(self.old)
            if known:
                self.say(peer, Entries([self.old[i] for i in sorted(known)]))
                return False
        return super().takes(peer, frame)

    old: dict[bytes, bytes] = {}  # noqa: RUF012 - replaced, and never changed


class Flooding(Hostile):
    """Entries that nobody needs, ids of entries that do not exist, and addresses of nobody."""

    def attack(self) -> None:
        random = self.world.random
        for peer in self.ready:
            self.say(peer, Have(random.randbytes(32 * random.choice((1, 50, 500)))))
        if self.ready and random.random() < 0.1:
            urls = [url_of(f"9.9.{i}.{random.getrandbits(8)}") for i in range(40)]
            self.say(random.choice(self.ready), Addresses(urls))
        most = 50 if len(self.world.nodes) < 50 else 2  # each goes over every link there is
        for _ in range(min(random.choice((1, 5, 50)), most)):
            self.submit(self.entry())
        if random.random() < 0.05:
            for peer in self.ready[:1]:
                for number in range(limits.MESSAGE_BURST + 500):
                    self.say(peer, Ping(number))


class Doubling(Hostile):
    """Blocks with an entry that is on the chain already, or twice in the same block."""

    def mine(self) -> None:
        random = self.world.random
        old = self.chain.store.get(random.randrange(1, self.chain.length))
        assert old is not None
        entries = [entry.to_bytes() for entry in old.entries] or [self.entry()]
        if random.random() < 0.3:
            entries *= 2
        if random.random() < 0.3:  # what waits, as an honest one would
            entries += self.network.relay.candidates()[:20]
        block = Equivocating.block(self, self.forge(entries))  # type: ignore[arg-type]
        self.handle(Mined(block))


class Dating(Hostile):
    """Blocks that are dated as far ahead as may be: some clocks take them, others do not yet."""

    def mine(self) -> None:
        ahead = limits.FUTURE_SECONDS + self.world.random.uniform(-5, 5)
        stamp = max(int((self.world.now + ahead) * US), self.chain.tip.timestamp)
        forged = self.forge([self.entry()], timestamp=stamp)
        self.handle(Mined(Equivocating.block(self, forged)))  # type: ignore[arg-type]
        self.tell(forged.head)


class Selfish(Hostile):
    """Keeps what it finds to itself while it is ahead, and shows all when others come close."""

    def __init__(self, world: World, number: int, **others: Any) -> None:
        self.private: list[Segment] = []
        self.others = 0
        """Work of the best chain that it has heard of."""
        super().__init__(world, number, **others)

    def act(self, action: Action) -> None:
        if isinstance(action, Send) and self.hides(action.frame):
            return
        if isinstance(action, HeadMoved) and action.disconnected:
            self.world.log(f"{self} gives up a branch")
        super().act(action)

    def hides(self, frame: bytes) -> bool:
        """Whether this would show what is hidden."""
        message = decode(frame)
        if isinstance(message, Head):
            return self.lead > 0 and int.from_bytes(message.work, "big") > self.others
        if isinstance(message, Headers | Bodies) and self.lead > 0:
            return self.hidden
        return False

    hidden = False

    @property
    def lead(self) -> int:
        return self.chain.work - self.others if self.hidden else 0

    def takes(self, peer: int, frame: bytes) -> bool:
        message = decode(frame)
        if isinstance(message, Head):
            work = int.from_bytes(message.work, "big")
            self.others = max(self.others, work)
        return super().takes(peer, frame)

    def handle(self, event: Event) -> None:
        super().handle(event)
        if self.hidden and isinstance(event, Received | Tick) and not self.is_down:
            step = 2 * work_of(int(self.chain.store.headers(0, 1).view(">u4")[0, 1]))
            if self.chain.work - self.others < step:
                self.show()

    def show(self) -> None:
        self.hidden = False
        self.tell(Head(self.chain.header, self.chain.work.to_bytes(32, "big")))

    def mine(self) -> None:
        if not self.hidden:
            self.others = max(self.others, self.chain.work)
        self.hidden = True
        super().mine()


class Cheap(Hostile):
    """Shows nodes that are far behind a chain of its own from where they are, and first.

    It is dated now: the targets of a chain that is late are easy, so that it costs next to nothing.
    What these nodes would hear of the real chain they do not hear from this one.
    """

    is_quick = True
    returns = False
    behind: Final = 20
    """Blocks by which a node is far behind: fewer cost as much as those of others."""

    def boot(self) -> None:
        super().boot()
        self.met: set[int] = set()
        """Links on which we have heard how far the other node is."""
        self.victims: dict[int, Forged] = {}
        """What nodes that are far behind were shown last."""

    def takes(self, peer: int, frame: bytes) -> bool:
        message = decode(frame)
        if isinstance(message, Head) and peer not in self.met:
            self.met.add(peer)
            position = self.chain.position(leaf_hash(message.header))
            if position is None or position >= self.chain.length - self.behind:
                self.say(peer, Head(self.chain.header, self.chain.work.to_bytes(32, "big")))
            else:
                work = self.chain.work_at(position)
                self.victims[peer] = Forged(message.header, b"", b"", work)
                self.go_on(peer, self.world.terms.final_depth + 3)
                for seconds in (1.0, 6.0):  # before it follows anybody, and when it has begun to
                    self.world.later(seconds, self.go_on, peer, 1)
        return super().takes(peer, frame) if peer in self.victims else True

    def shows(self, peer: int, request: GetHeaders) -> bool:
        run = self._run(self.victims[peer], set(request.locator))
        self.say(peer, Headers(request.number, b"".join(run)))
        return True

    def attack(self) -> None:
        for peer in self.victims:
            self.go_on(peer, self.world.random.choice((1, 1, 3)))

    def go_on(self, peer: int, blocks: int) -> None:
        """Show so many more."""
        if peer not in self.links:
            return
        last = self.victims[peer]
        for _ in range(blocks):
            last = self.forge([self.entry()], before=last)
        self.victims[peer] = last
        self.say(peer, last.head)

    def act(self, action: Action) -> None:
        if isinstance(action, Send):
            message = decode(action.frame)
            if isinstance(message, Head) and action.peer not in self.met:
                return
            if isinstance(message, Head | Headers | Bodies) and action.peer in self.victims:
                return
        super().act(action)


KINDS: Final[tuple[type[Hostile], ...]] = (
    Invalid,
    Withholding,
    LowWork,
    Equivocating,
    Claiming,
    Stalling,
    Babbling,
    Flooding,
    Replaying,
    Doubling,
    Dating,
    Selfish,
)
