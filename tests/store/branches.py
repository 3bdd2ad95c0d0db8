"""Chains that fork, for tests of stores, which judge no work: nobody has mined these blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from zlib import crc32

from cairn.core.block import Block
from cairn.core.entry import Entry
from cairn.core.header import Kind
from cairn.core.merkle import tree_hash
from cairn.core.segment import Segment
from cairn.store.interface import Head, Store
from tests.builders import block, chain

GENESIS = chain()[0]
WORK = 3
"""Of each block."""


def branch(previous: Block, name: str, length: int, *, entries: int = 2) -> list[Block]:
    """Return batches that follow `previous`, of none to so many entries; others for each name."""
    found = [previous]
    for _ in range(length):
        number = crc32(f"{name} {found[-1].index}".encode())
        values = [f"{name} {i}" for i in range((found[-1].index + len(name)) % (entries + 1))]
        salts = ((number + i).to_bytes(16, "big") for i in range(entries))
        sealed = block(Kind.BATCH, values, found[-1], salts)
        header = replace(sealed.header, bits=number, nonce=number)
        found.append(Block(header, header.hash, sealed.entries))
    return found[1:]


def with_entries(like: Block, entries: tuple[Entry, ...]) -> Block:
    """Return a block in the place of another one, with these entries."""
    header = replace(
        like.header,
        count=len(entries),
        size=sum(len(entry.to_bytes()) for entry in entries),
        data_root=tree_hash(entry.id for entry in entries),
    )
    return Block(header, header.hash, entries)


def segment_of(blocks: Sequence[Block]) -> Segment:
    return Segment.from_blocks(blocks[0].index, blocks)


@dataclass
class Model:
    """What a store must be after every `advance`: lists of blocks, and a plain search."""

    chain: list[Block] = field(default_factory=lambda: [GENESIS])
    final: int = 1
    sides: list[Block] = field(default_factory=list)
    seen: list[Block] = field(default_factory=lambda: [GENESIS])

    def begin(self, store: Store) -> None:
        store.advance(segment_of([GENESIS]), work=0, final=1)

    @property
    def work(self) -> int:
        return WORK * (len(self.chain) - 1)

    def advance(self, stores: Iterable[Store], blocks: Sequence[Block], final: int) -> None:
        """Let `blocks` follow the one before them, here and in stores."""
        start = blocks[0].index
        new = {b.stored_hash for b in blocks}
        gone = [b for b in self.chain[start:] if b not in self.sides]
        self.sides = [b for b in (*self.sides, *gone) if b.stored_hash not in new]
        self.chain[start:] = blocks
        self.final = final
        self.sides = [b for b in self.sides if b.index >= final]
        self.seen += [b for b in blocks if b not in self.seen]
        for store in stores:
            store.advance(segment_of(blocks), work=self.work, final=final)

    def check(self, store: Store, every: int = 1) -> None:
        """Hold all that a store says to what it must; it is asked to find some of what was seen."""
        n = len(self.chain)
        assert store.head() == Head(n, self.chain[-1].stored_hash)
        assert (store.end(), store.work(), store.final()) == (n, self.work, self.final)
        assert [b for segment in store.scan(0, n + 2) for b in segment.blocks()] == self.chain
        assert store.get(n) is None
        hashes = b"".join(b.stored_hash for b in self.chain)
        assert store.hashes(0, n).tobytes() == hashes
        assert store.headers(0, n).tobytes() == b"".join(b.header.pack() for b in self.chain)
        for index in range(n):
            assert store.get(index) == self.chain[index]
        assert side_blocks(store) == sorted(self.sides, key=_order)
        places: dict[bytes, list[tuple[int, int]]] = {}
        for b in self.chain:
            for place, entry in enumerate(b.entries):
                places.setdefault(entry.id, []).append((b.index, place))
        wanted = [*self.seen[::every], *self.seen[-3:]]
        for b in wanted:
            assert store.find(b.stored_hash) == (b.index if b in self.chain else None)
            for entry in b.entries:
                assert store.find_entry(entry.id) == places.get(entry.id, [])
        ids = [bytes(32), *(entry.id for b in wanted for entry in b.entries), bytes(32)]
        assert store.find_entries(ids) == [places.get(entry_id, []) for entry_id in ids]
        store.require_nothing_else()


def side_blocks(store: Store) -> list[Block]:
    """Return the side blocks, having checked that in each run one follows the other."""
    found: list[Block] = []
    for run in store.sides():
        blocks = list(run.blocks())
        assert [b.index for b in blocks] == list(range(run.start, run.stop))
        assert all(b.previous_hash == a.hash for a, b in pairwise(blocks))
        found += blocks
    return sorted(found, key=_order)


def _order(block: Block) -> tuple[int, bytes]:
    return block.index, block.stored_hash
