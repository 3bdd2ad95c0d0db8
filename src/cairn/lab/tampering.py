"""Changing what is stored, as someone with the disk and the source code would."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from cairn.core.block import Block
from cairn.core.canonical import canonical
from cairn.core.entry import SALT_BYTES
from cairn.core.header import Header
from cairn.core.merkle import leaf_hash, tree_hash
from cairn.core.segment import Segment
from cairn.ledger import Ledger
from cairn.store.sqlite import FILE_NAME

_RUN = """SELECT first, headers, hashes, data, offsets FROM runs
    WHERE first <= ? ORDER BY first DESC LIMIT 1"""


@dataclass
class Forgery:
    """One stored block, every part of it open to change."""

    header: Header
    hash: bytes
    entries: list[bytes] = field(default_factory=list)
    """Salt ‖ JSON each."""

    def change(self, **fields: int | bytes) -> None:
        """Set header fields, and leave the stored hash as it was."""
        self.header = replace(self.header, **fields)  # type: ignore[arg-type]

    def rehash(self) -> None:
        """Make the block consistent with itself: size, data root and hash."""
        self.change(
            size=sum(map(len, self.entries)),
            data_root=tree_hash(map(leaf_hash, self.entries)),
        )
        self.hash = self.header.hash


def rechain(blocks: Sequence[Forgery]) -> None:
    """Make all `blocks` (from genesis) follow one another as an honest chain would."""
    for index, block in enumerate(blocks):
        previous = blocks[index - 1] if index else None
        block.change(index=index)
        if previous:
            block.change(
                previous_hash=previous.hash,
                timestamp=max(block.header.timestamp, previous.header.timestamp),
            )
        block.rehash()


@contextmanager
def forging(directory: Path, *, cover_tracks: bool) -> Iterator[list[Forgery]]:
    """Yield all stored blocks of a ledger; whatever the list is then, is written back.

    With `cover_tracks`, the record of where the chain ends is made to agree; without, it stays.
    The ledger must not be open for writing.
    """
    with Ledger.open(directory, read_only=True) as ledger:
        blocks = [
            Forgery(b.header, b.stored_hash, [entry.to_bytes() for entry in b.entries])
            for b in ledger
        ]
    yield blocks
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")  # an attack need not be durable
        connection.execute("DELETE FROM runs")
        connection.executemany(
            "INSERT INTO runs (first, hashes, headers, offsets, data) VALUES (?, ?, ?, ?, ?)",
            (_row(position, block) for position, block in enumerate(blocks)),
        )
        if cover_tracks:
            end = (len(blocks), blocks[-1].hash)
            connection.execute("UPDATE head SET length = ?, hash = ?", end)


def tamper(directory: Path, choose: random.Random) -> Block:
    """Change the data of a block chosen at random, genesis included; return the block.

    In place, and nothing is made to agree with it. The ledger may be open, for writing too.
    """
    with Ledger.open(directory, read_only=True) as ledger:
        position = choose.randrange(len(ledger))
        with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            run = Segment.from_bytes(*connection.execute(_RUN, (position,)).fetchone())
            entries = [entry for i in range(len(run)) for entry in run.entries(i)]
            target = int(run.block_bounds[position - run.start])
            text = canonical(f"tampered with: {choose.randrange(2**32):08x}")
            entries[target] = entries[target][:SALT_BYTES] + text
            changed = (b"".join(entries), _offsets(entries), run.start)
            connection.execute("UPDATE runs SET data = ?, offsets = ? WHERE first = ?", changed)
        return ledger[position]


def _row(position: int, block: Forgery) -> tuple[int, bytes, bytes, bytes, bytes]:
    data = b"".join(block.entries)
    return position, block.hash, block.header.pack(), _offsets(block.entries), data


def _offsets(entries: Sequence[bytes]) -> bytes:
    ends = accumulate(map(len, entries), initial=0)
    return b"".join(end.to_bytes(8, "big") for end in ends)
