"""Changing what is stored, as someone with the disk and the source code would."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from cairn.core.block import Block
from cairn.core.canonical import canonical
from cairn.core.entry import SALT_BYTES
from cairn.core.header import Header
from cairn.core.merkle import leaf_hash, tree_hash
from cairn.core.segment import Segment
from cairn.hashing import best_hasher
from cairn.ledger import Ledger
from cairn.store import flat
from cairn.store.directory import FILE_NAME, SEGMENTS_NAME
from cairn.store.flat import Part, Sealed

_RUN = """SELECT first, headers, hashes, data, offsets FROM runs
    WHERE first <= ? ORDER BY first DESC LIMIT 1"""
_FILE = """SELECT first, blocks, size, digest FROM segments
    WHERE first <= ?1 AND first + blocks > ?1"""


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
        end = 0
        for first, size in connection.execute("SELECT first, blocks FROM segments").fetchall():
            if part := blocks[first : first + size]:
                _rewrite(connection, directory, _segment(first, part))
                end = first + len(part)
            else:
                connection.execute("DELETE FROM segments WHERE first = ?", (first,))
                _path(directory, first).unlink()
        connection.execute("DELETE FROM runs")
        connection.executemany(
            "INSERT INTO runs (first, hashes, headers, offsets, data) VALUES (?, ?, ?, ?, ?)",
            (_row(position, block) for position, block in enumerate(blocks[end:], start=end)),
        )
        if cover_tracks:
            last = (len(blocks), blocks[-1].hash)
            connection.execute("UPDATE head SET length = ?, hash = ?", last)


def tamper(directory: Path, choose: random.Random) -> Block:
    """Change the data of a block chosen at random, genesis included; return the block.

    In place: in its row, or in its file, which is made to be the one that was recorded. Nothing
    else is made to agree with it. The ledger may be open, for writing too.
    """
    with Ledger.open(directory, read_only=True) as ledger:
        position = choose.randrange(len(ledger))
        text = canonical(f"tampered with: {choose.randrange(2**32):08x}")
        with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            if file := connection.execute(_FILE, (position,)).fetchone():
                sealed = Sealed(*file)
                whole = Part(directory / SEGMENTS_NAME, sealed, sealed.first, sealed.stop)
                _rewrite(connection, directory, _edited(whole.segment(), position, text))
            else:
                run = Segment.from_bytes(*connection.execute(_RUN, (position,)).fetchone())
                run = _edited(run, position, text)
                changed = (run.data.data, run.offset_bytes(), run.start)
                connection.execute("UPDATE runs SET data = ?, offsets = ? WHERE first = ?", changed)
        return ledger[position]


def _edited(segment: Segment, position: int, text: bytes) -> Segment:
    """Return `segment` with the text of the first entry of a block replaced."""
    entries = [entry for i in range(len(segment)) for entry in segment.entries(i)]
    target = int(segment.block_bounds[position - segment.start])
    entries[target] = entries[target][:SALT_BYTES] + text
    return replace(segment, **_laid_out(entries))


def _rewrite(connection: sqlite3.Connection, directory: Path, segment: Segment) -> None:
    """Replace the file that begins with the first block of `segment`, and record it."""
    path = _path(directory, segment.start)
    forged = path.with_suffix(".forged")
    (is_mined,) = connection.execute("SELECT final IS NOT NULL FROM head").fetchone()
    sealed = flat.write(forged, segment, best_hasher(), with_ids=bool(is_mined))
    forged.replace(path)
    recorded = (sealed.blocks, sealed.size, sealed.digest, sealed.first)
    statement = "UPDATE segments SET blocks = ?, size = ?, digest = ? WHERE first = ?"
    connection.execute(statement, recorded)


def _path(directory: Path, first: int) -> Path:
    return directory / SEGMENTS_NAME / Sealed(first, 0, 0, b"").name


def _segment(first: int, blocks: Sequence[Forgery]) -> Segment:
    headers = b"".join(block.header.pack() for block in blocks)
    hashes = b"".join(block.hash for block in blocks)
    columns = _laid_out([entry for block in blocks for entry in block.entries])
    return replace(Segment.from_bytes(first, headers, hashes, b"", bytes(8)), **columns)


def _laid_out(entries: Sequence[bytes]) -> dict[str, Any]:
    """Return the columns of a segment that hold `entries` end to end."""
    ends = accumulate(map(len, entries), initial=0)
    data = np.frombuffer(b"".join(entries), np.uint8)
    return {"data": data, "offsets": np.fromiter(ends, np.uint64, len(entries) + 1)}


def _row(position: int, block: Forgery) -> tuple[object, ...]:
    row = _segment(position, [block])
    return position, row.hashes.data, row.headers.data, row.offset_bytes(), row.data.data
