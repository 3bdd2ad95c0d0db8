"""The published vectors, from an implementation written from the format alone, to the last byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cairn.core.block import Block
from cairn.core.canonical import canonical, parse
from cairn.core.entry import Entry
from cairn.core.errors import EntryError
from cairn.core.genesis import Genesis, Limits, Terms
from cairn.core.header import Header, Kind
from cairn.core.merkle import node_hash, tree_hash
from cairn.core.segment import Segment
from cairn.core.validation import validate
from cairn.encoding import Encoder
from cairn.hashing.portable import HashlibHasher
from tests.conftest import shared
from tests.core import reference
from tests.core.chains import columns

GENESIS_TIME = 1_526_995_403_022_216
"""µs; each block of the vectors is 1 µs after the one before."""
KINDS = {"value": Kind.VALUE, "batch": Kind.BATCH, "record": Kind.RECORD}


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    loaded = json.loads(shared("vectors/format-v1.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def made(vectors: dict[str, Any]) -> list[Block]:
    """Build the chain from the values alone."""
    blocks: list[Block] = []
    for index, vector in enumerate(vectors["blocks"]):
        salts = [bytes.fromhex(salt) for salt in vector["salts"]]
        entries = [
            Entry(salt, canonical(json.loads(text)))
            for salt, text in zip(salts, vector["canonical"], strict=True)
        ]
        timestamp = GENESIS_TIME + index
        if index == 0:
            genesis = Genesis(name="example", message="one stone upon another")
            blocks.append(genesis.block(timestamp=timestamp, salt=salts[0]))
            continue
        previous_hash = blocks[-1].stored_hash
        if vector["kind"] == "batch":
            header = Header(
                kind=Kind.BATCH,
                index=index,
                previous_hash=previous_hash,
                timestamp=timestamp,
                count=len(entries),
                size=sum(len(entry.to_bytes()) for entry in entries),
                data_root=tree_hash(entry.id for entry in entries),
            )
            blocks.append(Block(header, header.hash, tuple(entries)))
            continue
        [entry] = entries
        kind = KINDS[vector["kind"]]
        block = Block.of(kind, entry, index=index, previous_hash=previous_hash, timestamp=timestamp)
        blocks.append(block)
    return blocks


def parsed(vectors: dict[str, Any]) -> list[Block]:
    """Read the chain from its bytes."""
    return [
        Block(
            Header.unpack(bytes.fromhex(vector["header"])),
            bytes.fromhex(vector["hash"]),
            tuple(
                Entry.from_bytes(bytes.fromhex(salt) + text.encode())
                for salt, text in zip(vector["salts"], vector["canonical"], strict=True)
            ),
        )
        for vector in vectors["blocks"]
    ]


def test_blocks_built_from_values_have_the_published_bytes(vectors: dict[str, Any]) -> None:
    blocks = made(vectors)
    assert len(blocks) == len(vectors["blocks"]) == 7
    for block, vector in zip(blocks, vectors["blocks"], strict=True):
        assert block.kind == vector["kind"]
        assert [entry.salt.hex() for entry in block.entries] == vector["salts"]
        assert [entry.canonical.decode() for entry in block.entries] == vector["canonical"]
        assert [entry.id.hex() for entry in block.entries] == vector["entry_ids"]
        assert block.header.data_root.hex() == vector["data_root"]
        assert block.header.pack().hex() == vector["header"]
        assert block.header.hash.hex() == block.hash == vector["hash"]


def test_blocks_read_from_bytes_are_those_that_were_built(vectors: dict[str, Any]) -> None:
    assert parsed(vectors) == made(vectors)
    for block in parsed(vectors):
        assert Block.from_view(json.loads(block.to_json())) == block


def test_published_chain_keeps_every_rule(vectors: dict[str, Any]) -> None:
    segment = Segment.from_blocks(0, parsed(vectors))
    assert validate(segment, HashlibHasher(), Terms(), every=True).failures == ()
    for block in reference.read(columns(segment)):
        assert reference.first_rule(block, Terms()) is None


def test_published_values_are_sealed_to_the_published_columns(vectors: dict[str, Any]) -> None:
    """Blocks 1 to 3 and 6 are single values; `seal` makes each as `Block.of` does."""
    blocks = parsed(vectors)
    for i in (1, 2, 3, 6):
        segment = Segment.seal(
            [len(entry.canonical) for entry in blocks[i].entries],
            bytearray().join(bytes(16) + entry.canonical for entry in blocks[i].entries),
            b"".join(entry.salt for entry in blocks[i].entries),
            start=i,
            previous_hash=blocks[i - 1].stored_hash,
            timestamp=GENESIS_TIME + i,
            hasher=HashlibHasher(),
        )
        assert columns(segment) == columns(Segment.from_blocks(i, [blocks[i]]))


def test_tree_of_headers_has_the_published_root_at_every_size(vectors: dict[str, Any]) -> None:
    hashes = [block.stored_hash for block in parsed(vectors)]
    roots = [tree_hash(hashes[:size]).hex() for size in range(len(hashes) + 1)]
    assert roots == vectors["tree_roots_by_size"]
    assert [reference.tree(hashes[:size]).hex() for size in range(8)] == roots


def test_published_inclusion_proof_leads_from_block_4_to_the_root(vectors: dict[str, Any]) -> None:
    neighbour, last, left = map(bytes.fromhex, vectors["inclusion_proof_of_block_4_in_size_7"])
    right = node_hash(node_hash(parsed(vectors)[4].stored_hash, neighbour), last)
    assert node_hash(left, right).hex() == vectors["tree_roots_by_size"][7]


def test_published_canonical_forms(vectors: dict[str, Any]) -> None:
    assert len(vectors["canonical"]) == 15
    for vector in vectors["canonical"]:
        text, form = vector["input"].encode(), vector["canonical"].encode()
        assert canonical(parse(text)) == form
        assert canonical(parse(text.decode())) == form
        assert canonical(parse(form)) == form
        assert Encoder(Limits()).text(text) == form
        assert reference.write(parse(text)).encode() == form


def test_published_refusals(vectors: dict[str, Any]) -> None:
    assert len(vectors["refused"]) == 11
    for text in vectors["refused"]:
        with pytest.raises(EntryError):
            canonical(parse(text.encode()))
        with pytest.raises(EntryError):
            canonical(parse(text))
        with pytest.raises(EntryError):
            Encoder(Limits()).text(text.encode())
