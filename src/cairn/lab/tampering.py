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
from cairn.core.errors import NoSuchBlockError, UsageError
from cairn.core.header import Header
from cairn.core.merkle import HASH_BYTES, leaf_hash, tree_hash
from cairn.core.segment import Segment
from cairn.core.tree import HEIGHT
from cairn.hashing import best_hasher
from cairn.ledger import Ledger
from cairn.store import flat
from cairn.store.directory import FILE_NAME, SEGMENTS_NAME
from cairn.store.flat import Part, Sealed

_RUN = """SELECT first, headers, hashes, data, offsets FROM runs
    WHERE first <= ? ORDER BY first DESC LIMIT 1"""
_FILE = """SELECT first, blocks, size, digest FROM segments
    WHERE first <= ?1 AND first + blocks > ?1"""
_FROM = f"""SELECT first FROM segments WHERE first + blocks > ?1 UNION ALL
    SELECT first FROM runs WHERE first + length(hashes) / {HASH_BYTES} > ?1 ORDER BY first"""


@dataclass
class Forgery:
    """One stored block, every part of it open to change."""

    header: Header
    hash: bytes
    entries: list[bytes] = field(default_factory=list)
    """Salt ‖ JSON each."""

    @classmethod
    def of(cls, block: Block) -> Forgery:
        """Return a block as it is stored."""
        return cls(block.header, block.stored_hash, [e.to_bytes() for e in block.entries])

    def change(self, **fields: int | bytes) -> None:
        """Set header fields, and leave the stored hash as it was."""
        self.header = replace(self.header, **fields)  # type: ignore[arg-type]

    def record(self, texts: Sequence[bytes]) -> None:
        """Put these texts in the place of what the entries say, and leave all else as it was.

        Raises:
            UsageError: there are more of them than entries, or less.
        """
        if len(texts) != len(self.entries) or not texts:
            raise UsageError(
                f"block {self.header.index} has {len(self.entries)} entries: give as many values, "
                f"not {len(texts)}"
            )
        pairs = zip(self.entries, texts, strict=True)
        self.entries = [entry[:SALT_BYTES] + text for entry, text in pairs]

    def rehash(self) -> None:
        """Make the block consistent with itself: size, data root and hash."""
        self.change(
            size=sum(map(len, self.entries)),
            data_root=tree_hash(map(leaf_hash, self.entries)),
        )
        self.hash = self.header.hash


def rechain(blocks: Sequence[Forgery], *, after: Forgery | None = None) -> None:
    """Make all `blocks` follow one another as an honest chain would: from genesis, or `after`."""
    previous = after
    for index, block in enumerate(blocks, start=after.header.index + 1 if after else 0):
        block.change(index=index)
        if previous:
            block.change(
                previous_hash=previous.hash,
                timestamp=max(block.header.timestamp, previous.header.timestamp),
            )
        block.rehash()
        previous = block


class Stored:
    """What a ledger has stored, open to change. What is not changed stays where and as it is."""

    def __init__(self, directory: Path, connection: sqlite3.Connection) -> None:
        self._directory = directory
        self._connection = connection

    def run(self, position: int) -> Segment:
        """Return what lies together with a block: in a row, or in a file.

        Raises:
            NoSuchBlockError: there is no such block.
        """
        if file := self._connection.execute(_FILE, (position,)).fetchone():
            sealed = Sealed(*file)
            whole = Part(self._directory / SEGMENTS_NAME, sealed, sealed.first, sealed.stop)
            return whole.segment()
        row = self._connection.execute(_RUN, (position,)).fetchone()
        run = Segment.from_bytes(*row) if row else None
        if run is None or not 0 <= position < run.stop:
            raise NoSuchBlockError(f"there is no block {position}")
        return run

    def block(self, position: int) -> Forgery:
        """Return a block.

        Raises:
            NoSuchBlockError: there is no such block.
        """
        run = self.run(position)
        return Forgery.of(run.block(position - run.start))

    def put(self, position: int, block: Forgery) -> None:
        """Store a block in the place of the one that is there, and make nothing agree with it."""
        run = self.run(position)
        i = position - run.start
        lo, hi = int(run.block_bounds[i]), int(run.block_bounds[i + 1])
        first, last = int(run.offsets[lo]), int(run.offsets[hi])
        headers, hashes = run.headers.copy(), run.hashes.copy()
        headers[i] = np.frombuffer(block.header.pack(), np.uint8)
        hashes[i] = np.frombuffer(block.hash, np.uint8)
        own = _laid_out(block.entries)
        offsets = [
            run.offsets[:lo],
            own["offsets"] + np.uint64(first),
            run.offsets[hi + 1 :] - np.uint64(last) + np.uint64(first + len(own["data"])),
        ]
        data = np.concatenate([run.data[:first], own["data"], run.data[last:]])
        self._write(Segment(run.start, headers, hashes, data, np.concatenate(offsets)))

    def follow(self, start: int, blocks: Sequence[Forgery]) -> None:
        """Let the chain from position `start` on be these blocks, no more than there are now."""
        for (first,) in self._connection.execute(_FROM, (start,)).fetchall():
            run = self.run(first)
            at = max(first, start)
            kept = [run.cut(0, start - first)] if start > first else []
            if part := blocks[at - start : run.stop - start]:
                kept.append(_segment(at, part))
            if kept:
                self._write(Segment.join(kept))
            else:
                self._remove(first)

    def cover_tracks(self, start: int) -> None:
        """Make the records of the chain agree with it, of which all from `start` on was changed.

        Where it ends; the retries of appends that are gone; the tree over its blocks.
        """
        (last,) = self._connection.execute(
            "SELECT max(first) FROM (" + _FROM + ")", (0,)
        ).fetchone()
        run = self.run(last)
        head = run.stop, run.hashes[-1].tobytes()
        self._connection.execute("UPDATE head SET length = ?, hash = ?", head)
        self._connection.execute("DELETE FROM keys WHERE first + count > ?", (run.stop,))
        changed = f"DELETE FROM nodes WHERE (number + 1) << ({HEIGHT} * level) > ?"
        self._connection.execute(changed, (start,))

    def _write(self, run: Segment) -> None:
        """Write what lies together where it lay, in a row or a file; known by its first block."""
        sealed = "SELECT 1 FROM segments WHERE first = ?"
        if self._connection.execute(sealed, (run.start,)).fetchone():
            self._write_file(run)
            return
        row = run.headers.tobytes(), run.hashes.tobytes(), run.data.data, run.offset_bytes()
        statement = "UPDATE runs SET headers = ?, hashes = ?, data = ?, offsets = ? WHERE first = ?"
        self._connection.execute(statement, (*row, run.start))

    def _write_file(self, segment: Segment) -> None:
        """Replace the file that begins with the first block of `segment`, and record it."""
        path = _path(self._directory, segment.start)
        forged = path.with_suffix(".forged")
        (is_mined,) = self._connection.execute("SELECT final IS NOT NULL FROM head").fetchone()
        sealed = flat.write(forged, segment, best_hasher(), with_ids=bool(is_mined))
        forged.replace(path)
        recorded = (sealed.blocks, sealed.size, sealed.digest, sealed.first)
        statement = "UPDATE segments SET blocks = ?, size = ?, digest = ? WHERE first = ?"
        self._connection.execute(statement, recorded)

    def _remove(self, first: int) -> None:
        """Remove what lies together, in a row or a file, and the record of a file."""
        self._connection.execute("DELETE FROM runs WHERE first = ?", (first,))
        if self._connection.execute("DELETE FROM segments WHERE first = ?", (first,)).rowcount:
            _path(self._directory, first).unlink()


@contextmanager
def changing(directory: Path) -> Iterator[Stored]:
    """Yield what the ledger in `directory` has stored, to be changed in one transaction.

    The ledger may be open, for writing too: see `Ledger.tampering`.
    """
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")  # an attack need not be durable
        connection.execute("BEGIN IMMEDIATE")
        yield Stored(directory, connection)


@contextmanager
def forging(directory: Path, *, cover_tracks: bool) -> Iterator[list[Forgery]]:
    """Yield all stored blocks of a ledger; whatever the list is then, is written back.

    With `cover_tracks`, the record of where the chain ends is made to agree; without, it stays.
    The ledger must not be open for writing.
    """
    with Ledger.open(directory, read_only=True) as ledger:
        blocks = [Forgery.of(block) for block in ledger]
    yield blocks
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")  # an attack need not be durable
        stored = Stored(directory, connection)
        end = 0
        for first, size in connection.execute("SELECT first, blocks FROM segments").fetchall():
            if part := blocks[first : first + size]:
                stored._write_file(_segment(first, part))
                end = first + len(part)
            else:
                stored._remove(first)
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
        position, texts = made_up(ledger, choose)
        with changing(directory) as stored:
            block = stored.block(position)
            block.record(texts)
            stored.put(position, block)
        return ledger[position]


def made_up(ledger: Ledger, choose: random.Random) -> tuple[int, list[bytes]]:
    """Return the position of a block that records something, and other texts for it."""
    while not (entries := ledger[position := choose.randrange(len(ledger))].entries):
        pass  # a batch with nothing in it: genesis is none
    text = canonical(f"tampered with: {choose.randrange(2**32):08x}")
    return position, [text, *(entry.canonical for entry in entries[1:])]


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
