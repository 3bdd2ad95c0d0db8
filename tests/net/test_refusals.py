"""What a node does not take from a peer, each by the name of the rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from random import Random

import pytest

from cairn.core.block import Block
from cairn.core.entry import Entry
from cairn.core.genesis import Work
from cairn.core.header import Header, Kind
from cairn.core.merkle import tree_hash
from cairn.core.segment import Segment
from cairn.core.work import MAX_BITS, target_of, work_of
from cairn.hashing.portable import HashlibHasher
from cairn.ledger.chain import Chain
from cairn.net.addresses import AddressBook
from cairn.net.events import Action, Close, Event, Halted, HeadMoved, Note, Opened, Received, Send
from cairn.net.handshake import Handshake
from cairn.net.limits import FUTURE_SECONDS
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
    Pong,
    Proof,
    Refused,
    Want,
    decode,
    encode,
)
from cairn.net.network import Network
from cairn.net.pool import Pool
from cairn.store.memory import MemoryStore
from tests.builders import SEAL, START, mined, mined_genesis
from tests.simulator.world import CheapIdentity, search

NOW = START / 1e6 + 100
HOST = "20.0.0.9"
STEEP = Work(interval=1_000_000, half_life=1_000_000, final_depth=60)
"""Blocks that come an interval early are twice the work each time."""


def node_of(blocks: Sequence[Block], name: str = "node") -> Network:
    """Return a node that has these blocks."""
    store = MemoryStore(Segment.from_blocks(0, blocks[:1]), mined=True)
    chain = Chain(store, HashlibHasher())
    if len(blocks) > 1:
        chain.advance([Segment.from_blocks(1, blocks[1:])])
    return Network(
        chain,
        CheapIdentity(name),
        pool=Pool(),
        book=AddressBook(random=Random(1)),
        random=Random(2),
        now=NOW,
    )


class Peer:
    """One who has dialled a node, and says what it likes."""

    def __init__(self, node: Network, genesis: bytes | None = None, name: str = "peer") -> None:
        self.node = node
        self.now = NOW
        self.heard: list[Message] = []
        self.actions: list[Action] = []
        self.handshake = Handshake(
            CheapIdentity(name),
            genesis or node._chain.id,
            dialled=True,
            nonce=sha256(name.encode()).digest(),
            address="",
            allowed=lambda key: True,
        )
        self.handle(Opened(1, None, HOST))
        (self.hello,) = self.heard

    @classmethod
    def met(cls, node: Network, name: str = "peer") -> Peer:
        """Return one whose handshake is done."""
        peer = cls(node, name=name)
        peer.say(peer.handshake.hello())
        (proof,) = peer.handshake.take(peer.hello)
        peer.say(proof)
        assert peer.refused is None
        return peer

    def handle(self, event: Event) -> list[Message]:
        actions = self.node.handle(event, self.now)
        self.actions += actions
        said = [decode(action.frame) for action in actions if isinstance(action, Send)]
        self.heard += said
        return said

    def say(self, message: Message) -> list[Message]:
        """Return what the node answers."""
        return self.throw(encode(message))

    def throw(self, frame: bytes) -> list[Message]:
        return self.handle(Received(1, frame))

    @property
    def refused(self) -> str | None:
        """The rule by which the node has hung up."""
        rules = [message.rule for message in self.heard if isinstance(message, Refused)]
        closed = any(isinstance(action, Close) for action in self.actions)
        assert closed == bool(rules)
        return rules[0] if rules else None

    @property
    def has_moved(self) -> bool:
        return any(isinstance(action, HeadMoved) for action in self.actions)

    def show(self, blocks: Sequence[Block], work: int | None = None) -> list[Message]:
        """Claim to have these blocks, the first after genesis, and show all that is asked for."""
        if work is None:
            work = sum(work_of(block.header.bits) for block in blocks)
        answers = self.say(Head(blocks[-1].header.pack(), work.to_bytes(32, "big")))
        for answer in answers:
            if isinstance(answer, GetHeaders):
                headers = b"".join(block.header.pack() for block in blocks)
                answers += self.say(Headers(answer.number, headers))
            elif isinstance(answer, GetBodies):
                asked = blocks[answer.first - 1 : answer.first - 1 + answer.count]
                answers += self.say(bodies(answer.number, asked))
        return answers


def bodies(number: int, blocks: Sequence[Block]) -> Bodies:
    entries = [entry.to_bytes() for block in blocks for entry in block.entries]
    lengths = b"".join(len(entry).to_bytes(4, "big") for entry in entries)
    return Bodies(number, lengths, b"".join(entries))


def sealed(block: Block, **changes: object) -> Block:
    """Return a block with some fields of its header changed, and the work that it then needs."""
    header = replace(block.header, **changes)  # type: ignore[arg-type]
    header = Header.unpack(search(header.pack(), target_of(header.bits)))
    return Block(header, header.hash, block.entries)


def holding(block: Block, entries: Sequence[Entry]) -> Block:
    """Return a block in the place of another one, with these entries."""
    size = sum(len(entry.to_bytes()) for entry in entries)
    root = tree_hash(entry.id for entry in entries)
    found = sealed(block, count=len(entries), size=size, data_root=root)
    return replace(found, entries=tuple(entries))


CHAIN = mined(["a"], ["b", "c"], [])


def test_a_good_chain_is_followed() -> None:
    peer = Peer.met(node_of(CHAIN[:1]))
    peer.show(CHAIN[1:])
    assert peer.refused is None
    assert peer.node._chain.tip.hash == CHAIN[-1].stored_hash


def test_a_longer_chain_with_less_work_loses() -> None:
    quick = mined(["q"], [], [], [], seal=STEEP, times=[0])
    slow = mined(["s"], *[[]] * 9, seal=STEEP, first=quick[:1])
    assert len(slow) > len(quick)
    peer = Peer.met(node_of(quick))
    assert peer.show(slow[1:]) == []
    assert not peer.has_moved
    other = Peer.met(node_of(slow))
    other.show(quick[1:])
    assert other.node._chain.tip.hash == quick[-1].stored_hash
    assert other.node._chain.length < len(slow)


def test_another_genesis_is_refused() -> None:
    node = node_of(CHAIN)
    peer = Peer(node, genesis=mined_genesis(name="another").stored_hash)
    peer.say(peer.handshake.hello())
    assert peer.refused == "genesis"


def test_another_version_is_refused() -> None:
    peer = Peer(node_of(CHAIN))
    ours = peer.handshake.hello()
    peer.say(Hello(2, ours.genesis, ours.key, ours.nonce, ""))
    assert peer.refused == "version"


def test_claimed_work_that_is_not_shown_is_refused() -> None:
    peer = Peer.met(node_of(CHAIN[:1]))
    peer.show(CHAIN[1:], work=10**9)
    assert peer.refused == "unproved"
    assert not peer.has_moved


def test_claimed_work_of_a_block_after_ours_is_refused_at_once() -> None:
    peer = Peer.met(node_of(CHAIN[:-1]))
    peer.say(Head(CHAIN[-1].header.pack(), (2**255).to_bytes(32, "big")))
    assert peer.refused == "unproved"


def test_a_claimed_length_that_is_not_shown_is_refused() -> None:
    peer = Peer.met(node_of(CHAIN))
    far = replace(CHAIN[-1].header, index=10**6, previous_hash=bytes(32))
    (asked,) = peer.say(Head(far.pack(), (10**9).to_bytes(32, "big")))
    assert isinstance(asked, GetHeaders)
    peer.say(Headers(asked.number, b""))
    assert peer.refused == "unproved"


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("version", {"version": 2}),
        ("kind", {"kind": Kind.RECORD}),
        ("kind", {"kind": Kind.VALUE}),
        ("index", {"index": 7}),
        ("timestamp", {"timestamp": CHAIN[2].header.timestamp - 1}),
        ("work", {"bits": 0x207FFFFE}),
        ("work", {"bits": MAX_BITS - 0x10000}),
        ("limits", {"size": 2**31}),
    ],
)
@pytest.mark.parametrize("how", ["as a head", "as headers"])
def test_a_header_that_breaks_a_rule_is_refused(
    rule: str, changes: dict[str, int], how: str
) -> None:
    bad = sealed(CHAIN[3], **changes)
    if how == "as a head":
        peer = Peer.met(node_of(CHAIN[:3]))
        peer.show([bad], work=10**6)
    else:
        peer = Peer.met(node_of(CHAIN[:1]))
        peer.show([*CHAIN[1:3], bad])
    assert peer.refused == rule
    assert not peer.has_moved


def test_a_header_without_work_is_refused() -> None:
    header = CHAIN[3].header
    nonces = (replace(header, nonce=nonce) for nonce in range(100))
    bad = next(h for h in nonces if int.from_bytes(h.hash, "big") > target_of(h.bits))
    peer = Peer.met(node_of(CHAIN[:3]))
    peer.say(Head(bad.pack(), (100).to_bytes(32, "big")))
    assert peer.refused == "work"


def test_a_block_whose_parent_is_unknown_is_refused() -> None:
    peer = Peer.met(node_of(CHAIN))
    stray = sealed(CHAIN[3], previous_hash=bytes(32))
    peer.show([stray], work=10**6)
    assert peer.refused == "unconnected"


def test_headers_that_do_not_link_are_refused() -> None:
    peer = Peer.met(node_of(CHAIN[:1]))
    peer.show([CHAIN[1], sealed(CHAIN[2], previous_hash=CHAIN[0].stored_hash), CHAIN[3]])
    assert peer.refused == "link"


def test_a_block_past_the_future_limit_waits_until_it_is_due() -> None:
    """It is named, and nobody is refused: an honest peer's clock may be ahead of ours."""
    node = node_of(CHAIN[:3])
    stamp = int((NOW + FUTURE_SECONDS + 5) * 1e6)
    early = sealed(CHAIN[3], timestamp=stamp)
    peer = Peer.met(node)
    assert peer.show([early], work=node._chain.work + 2) == []
    for _ in range(3):
        peer.say(Head(early.header.pack(), (node._chain.work + 2).to_bytes(32, "big")))
    notes = [action.text for action in peer.actions if isinstance(action, Note)]
    assert sum(text.startswith("future:") for text in notes) == 1
    assert peer.refused is None
    peer.now += 10
    peer.show([*CHAIN[1:3], early])
    assert node._chain.tip.hash == early.stored_hash


@pytest.mark.parametrize("frame", [b"", b"\x00", b"hello", bytes(900), b"\x93\x03\x01\x02"])
def test_garbage_is_refused(frame: bytes) -> None:
    peer = Peer.met(node_of(CHAIN))
    peer.throw(frame)
    assert peer.refused == "garbage"


def test_every_truncated_frame_is_refused() -> None:
    frame = encode(Head(CHAIN[-1].header.pack(), bytes(32)))
    for length in range(len(frame)):
        peer = Peer.met(node_of(CHAIN[:1]))
        peer.throw(frame[:length])
        assert peer.refused == "garbage"


def test_a_replayed_handshake_is_refused() -> None:
    first = Peer(node_of(CHAIN))
    first.say(first.handshake.hello())
    (proof,) = first.handshake.take(first.hello)
    assert isinstance(proof, Proof)
    node = node_of(CHAIN)
    node._random.seed(77)  # it does not say the same nonce twice
    again = Peer(node)
    again.say(first.handshake.hello())
    again.say(proof)
    assert again.refused == "signature"


def test_nothing_is_taken_before_the_handshake() -> None:
    peer = Peer(node_of(CHAIN[:1]))
    peer.say(Head(CHAIN[1].header.pack(), (2).to_bytes(32, "big")))
    assert peer.refused == "order"


ENTRY = CHAIN[1].entries[0]


@pytest.mark.parametrize(
    ("rule", "lengths", "data"),
    [
        ("data_root", [17], bytes(17)),
        ("bodies", [], b""),
        ("bodies", [9, 9], bytes(18)),
        ("size", [18], bytes(18)),
        ("size", [0], b""),
    ],
)
def test_bodies_that_do_not_fit_the_headers_are_refused(
    rule: str, lengths: list[int], data: bytes
) -> None:
    chain = mined([1])
    peer = Peer.met(node_of(chain[:1]))
    (asked,) = peer.say(Head(chain[1].header.pack(), (2).to_bytes(32, "big")))
    assert isinstance(asked, GetBodies)
    packed = b"".join(length.to_bytes(4, "big") for length in lengths)
    peer.say(Bodies(asked.number, packed, data))
    assert peer.refused == rule
    assert not peer.has_moved


@pytest.mark.parametrize("text", [b'{"b":1,"a":2}', b"1.0", b" 1", b"NaN", b'"\xff"', b"["])
def test_data_that_is_not_canonical_is_refused(text: bytes) -> None:
    bad = holding(CHAIN[1], [Entry(bytes(16), text)])
    peer = Peer.met(node_of(CHAIN[:1]))
    peer.show([bad])
    assert peer.refused == "canonical"
    assert not peer.has_moved


def test_an_entry_that_is_not_canonical_is_refused() -> None:
    entry = Entry(bytes(16), b'{"b":1,"a":2}')
    peer = Peer.met(node_of(CHAIN))
    (want,) = peer.say(Have(entry.id))
    assert isinstance(want, Want)
    peer.say(Entries([entry.to_bytes()]))
    assert peer.refused == "canonical"


def test_a_record_from_a_peer_is_refused() -> None:
    record = Entry(bytes(16), b'{"erase":1}')
    bad = sealed(holding(CHAIN[1], [record]), kind=Kind.RECORD)
    peer = Peer.met(node_of(CHAIN[:1]))
    peer.show([bad])
    assert peer.refused == "kind"


def test_answers_that_nobody_asked_for_are_passed_over() -> None:
    peer = Peer.met(node_of(CHAIN[:2]))
    headers = b"".join(block.header.pack() for block in CHAIN[2:])
    unasked: list[Message] = [
        Headers(1, headers),
        bodies(1, CHAIN[2:]),
        Missing(1),
        Entries([ENTRY.to_bytes()]),
        Pong(1),
    ]
    for message in unasked:
        assert peer.say(message) == []
    assert peer.refused is None
    assert not peer.has_moved
    assert len(peer.node.relay.pool) == 0


def test_addresses_that_nobody_asked_for_are_heard_once() -> None:
    peer = Peer.met(node_of(CHAIN))
    first, second = "ws://20.0.0.1:80", "ws://20.0.0.2:80"
    assert peer.say(Addresses([first])) == peer.say(Addresses([second])) == []
    assert first in peer.node._book
    assert second not in peer.node._book


def test_a_branch_from_below_what_is_final_stops_the_node_loudly() -> None:
    ours = mined(*[[]] * (SEAL.final_depth + 1))
    theirs = mined(["other"], *[[]] * (SEAL.final_depth + 2), first=ours[:1])
    peer = Peer.met(node_of(ours))
    answers = peer.show(theirs[1:])
    halted = [action for action in peer.actions if isinstance(action, Halted)]
    assert len(halted) == 1
    assert "block 0" in halted[0].reason
    assert peer.node.halted == halted[0].reason
    assert not any(isinstance(answer, GetBodies) for answer in answers)
    assert peer.node._chain.tip.hash == ours[-1].stored_hash
    assert peer.node.handle(Received(1, encode(Pong(1))), NOW) == []


def test_a_branch_from_below_what_is_final_with_less_work_stops_nobody() -> None:
    ours = mined(*[[]] * (SEAL.final_depth + 2))
    theirs = mined(["other"], *[[]] * SEAL.final_depth, first=ours[:1])
    peer = Peer.met(node_of(ours))
    peer.show(theirs[1:])
    assert peer.node.halted is None
    assert peer.refused is None
