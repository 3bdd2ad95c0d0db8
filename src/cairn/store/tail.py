"""The tail of a store on disk: recent history in a database, runs of blocks in a row.

The order of every append is

1. BEGIN IMMEDIATE: a crash from here to 3 leaves the log without a commit frame: nothing happened;
2. rows, keys and head are written;
3. COMMIT: writes the commit frame, then fsyncs the log. After a crash inside, recovery finds the
   whole transaction or none of it; the caller was told nothing, or that the outcome is unknown.

What recovery is, and why nothing of an entry stays when its block is sealed, is told in
`cairn.store.database`.

On a work ledger the end of the chain may be replaced. So a scan there reads all of it in one
transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from cairn.core.block import Block
from cairn.core.errors import DamagedError, StoreError
from cairn.core.hasher import Hasher
from cairn.core.header import HEADER_BYTES, HEADER_DTYPE, LIMIT_63, LINK
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment
from cairn.store import stored_runs
from cairn.store.database import Database
from cairn.store.flat import Sealed
from cairn.store.interface import Head
from cairn.store.manifest import read_manifest
from cairn.store.runs import before, chained, in_runs, since
from cairn.store.schema import COLUMNS
from cairn.store.stored_runs import StoredRuns
from cairn.store.tail_index import Candidates, TailIndex, read_hashes, read_ids

Node = tuple[int, int, bytes]
"""A node of the tree: level in steps of 8, number on it, hash."""

_APPEND: Final = f"INSERT INTO appends ({COLUMNS}) VALUES (?, ?, ?, ?, ?)"
_PUT: Final = f"INSERT OR REPLACE INTO runs ({COLUMNS}) VALUES (?, ?, ?, ?, ?)"

_SEAL: Final = "INSERT INTO seals VALUES (?, ?, ?, ?, ?, ?, ?)"
_SIZE: Final = f"""SELECT coalesce(sum(length(hashes)), 0) / {HASH_BYTES},
    coalesce(sum(length(data)), 0) FROM runs WHERE first < ?"""

_BEFORE: Final = "SELECT coalesce((SELECT max(first) FROM runs WHERE first <= ?), 0)"
_END_OF: Final = f"""SELECT first, first + length(hashes) / {HASH_BYTES} FROM runs
    WHERE first <= ? ORDER BY first DESC LIMIT 1"""

_COLUMN: Final = """SELECT first, {} FROM runs
    WHERE first >= coalesce((SELECT max(first) FROM runs WHERE first <= ?1), ?1)
    AND first < ?2 ORDER BY first"""
_LENGTHS: Final = _COLUMN.format(
    f"""length(hashes) / {HASH_BYTES}, length(data), CASE
    WHEN first < ?1 OR first + length(hashes) / {HASH_BYTES} > ?2 THEN headers ELSE x'' END"""
)
_WHOLE_RUNS: Final = f"""SELECT sum(length(hashes)) / {HASH_BYTES}, sum(length(data)),
    max(first + length(hashes) / {HASH_BYTES}) FROM runs WHERE first >= ? AND first < ?"""
_NODES: Final = """SELECT number, hash FROM nodes
    WHERE level = ? AND number >= ? AND number < ? ORDER BY number"""

_SET_ASIDE: Final = "INSERT OR REPLACE INTO sides VALUES (?, ?, ?, ?, ?)"
_SIDES: Final = "SELECT position, hash, header FROM sides ORDER BY position, hash"
_SIDE: Final = (
    "SELECT position, hash, header, offsets, data FROM sides WHERE position = ? AND hash = ?"
)


class Tail:
    """The head, the keys, the blocks that are not sealed yet, and the manifest of those that are.

    `cairn.store.disk` adds the flat files.
    """

    def __init__(self, database: Database, hasher: Hasher) -> None:
        self._database = database
        self._path = database.path
        self._runs = StoredRuns(database)
        self._hash_index = TailIndex(database, partial(read_hashes, database))
        self._entry_index = TailIndex(database, partial(read_ids, self._runs, hasher))
        self._is_mined: bool | None = None  # None: not known, or genesis has yet to come

    def head(self) -> Head:
        """See `Store.head`."""
        row = self._database.read_one("SELECT length, hash, (SELECT count(*) FROM head) FROM head")
        length, block_hash, rows = self._database.typed(row, int, bytes, int)
        if rows != 1 or length < 0:
            raise DamagedError(f"{self._path}: {rows} heads are recorded, of length {length}")
        return Head(length, block_hash)

    def is_mined(self) -> bool | None:
        """Whether blocks come by `advance`, as genesis did; None before it has come."""
        if self._is_mined is None:
            row = self._database.read_one("SELECT length, final IS NOT NULL FROM head")
            length, is_mined = self._database.typed(row, int, int)
            self._is_mined = bool(is_mined) if length > 0 else None
        return self._is_mined

    def work(self) -> int:
        """See `Store.work`."""
        row = self._database.read_one("SELECT coalesce(work, x'') FROM head")
        (work,) = self._database.typed(row, bytes)
        return int.from_bytes(work)

    def final(self) -> int:
        """See `Store.final`."""
        row = self._database.read_one("SELECT length, coalesce(final, length) FROM head")
        length, final = self._database.typed(row, int, int)
        if not 0 <= final <= length:
            raise DamagedError(f"{self._path}: {final} of {length} blocks are recorded as final")
        return int(final)

    def end(self) -> int:
        """See `Store.end`."""
        query = "SELECT first, length(hashes) FROM runs ORDER BY first DESC LIMIT 1"
        row = self._database.read_one(query)
        if row is None:
            return max((sealed.stop for sealed in self.sealed()), default=0)
        first, size = self._database.typed(row, int, int)
        end: int = first + max(size // HASH_BYTES, 1)
        return end

    def begin(self) -> int | None:
        """Return the position of the first block that is not sealed, or None: all are."""
        (first,) = self._database.read_one("SELECT min(first) FROM runs") or (None,)
        return None if first is None else int(first)

    def size(self, stop: int = LIMIT_63 - 1) -> tuple[int, int]:
        """Return how many blocks are not sealed, and the bytes of their entries.

        Of the runs that begin before position `stop`.
        """
        row = self._database.read_one(_SIZE, (stop,))
        blocks, size = self._database.typed(row, int, int)
        return blocks, size

    def sealed(self, start: int = 0, stop: int = LIMIT_63) -> list[Sealed]:
        """Return the manifest from the file that holds position `start` on to that before `stop`.

        From 0 on, it is all of the manifest, whatever it says of positions.

        Raises:
            DamagedError: it is not one that was written here.
        """
        bounds = min(start, LIMIT_63 - 1) if start > 0 else -LIMIT_63, min(stop, LIMIT_63) - 1
        return self._database.read(lambda c: read_manifest(self._database, c, *bounds))

    def get(self, index: int) -> Block | None:
        """See `Store.get`."""
        if index >= LIMIT_63:
            return None
        run = self._runs.holding(index)
        return None if run is None else run.block(index - run.start)

    def find(self, hashes: Sequence[bytes]) -> Candidates:
        """Look for blocks by their hashes (32 bytes each). See `TailIndex.find`."""
        return self._hash_index.find(hashes)

    def find_entries(self, ids: Sequence[bytes]) -> Candidates:
        """Look for blocks by the ids of their entries, likewise.

        Raises:
            DamagedError: as for `scan`.
        """
        return self._entry_index.find(ids)

    def recall(self, key: str) -> range | None:
        """See `Store.recall`."""
        row = self._database.read_one("SELECT first, count FROM keys WHERE key = ?", (key,))
        return None if row is None else range(row[0], row[0] + row[1])

    def column(self, name: str, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Return what there is of a column for blocks `start` to `stop`, run by run.

        Each with the position of its first block, in order; all at one moment.
        """
        return self._database.read(lambda c: self._column(c, name, start, stop))

    def _column(
        self, connection: sqlite3.Connection, name: str, start: int, stop: int
    ) -> list[tuple[int, bytes]]:
        rows = connection.execute(_COLUMN.format(name), (start, stop)).fetchall()
        return [self._database.typed(row, int, bytes) for row in rows]

    def stored_bytes(self, start: int, stop: int) -> tuple[int, int]:
        """Return the bytes of the entries of the blocks from `start` on, and where that ends.

        At `stop`, or before it where a block is missing.
        """
        return self._database.read(lambda c: self._stored_bytes(c, start, stop))

    def _stored_bytes(
        self, connection: sqlite3.Connection, start: int, stop: int
    ) -> tuple[int, int]:
        # Many small runs, of one append each, are added up where they lie.
        blocks, size, end = connection.execute(_WHOLE_RUNS, (start, stop)).fetchone()
        if blocks == stop - start and end == stop:
            return int(size), stop
        total, at = 0, start
        for row in connection.execute(_LENGTHS, (start, stop)).fetchall():
            first, blocks, size, headers = self._database.typed(row, int, int, int, bytes)
            if first > at:
                break
            lo, hi = at - first, min(stop - first, blocks)
            if lo < hi:
                total += size if (lo, hi) == (0, blocks) else _sizes(headers, lo, hi)
                at = first + hi
        return total, at

    def nodes(self, level: int, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Return what there is of nodes `start` to `stop` of a level of the tree, numbered."""
        return self._database.read_all(_NODES, (level, start, stop))

    def append(
        self,
        segment: Segment,
        keys: Mapping[str, range],
        sealed: Sealed | None = None,
        nodes: Sequence[Node] = (),
        erase: int | None = None,
    ) -> None:
        """See `Store.append`.

        With `sealed`, a file that is durable and holds all that is here and `segment`, the manifest
        takes the place of all blocks here. `nodes` of the tree are kept in the same transaction.
        """
        beside = _Beside(keys, nodes, erase)
        blocks = f"blocks {segment.start} to {segment.stop - 1}"
        with self._database.writing(f"{blocks} may or may not be durable") as connection:
            if sealed is None:
                _insert(connection, segment, beside)
            else:
                previous_hash, last_hash = segment.headers[0, LINK], segment.hashes[-1]
                end = segment.start, previous_hash.tobytes(), last_hash.tobytes()
                _insert_sealed(connection, sealed, end, beside)

    def seal(self, sealed: Sealed) -> None:
        """Let a file take the place of the first blocks here: one that is durable and holds them.

        Requires that runs end where it does.

        Raises:
            OutcomeUnknownError: a write failed; the blocks are here or in the file.
        """
        length, last_hash = self.head()
        with self._database.writing(f"{sealed.name} may or may not be recorded") as connection:
            _insert_sealed(connection, sealed, (length, last_hash, last_hash), _Beside())

    def advance(
        self,
        segment: Segment,
        work: int,
        final: int,
        sealed: Sealed | None = None,
        nodes: Sequence[Node] = (),
    ) -> None:
        """See `Store.advance`.

        With `sealed`, a file that is durable and holds the first blocks here, or what is to be
        them, it takes their place: final ones. `nodes` of the tree are kept in the same
        transaction.
        """
        blocks = f"blocks {segment.start} to {segment.stop - 1}"
        with self._database.writing(f"{blocks} may or may not be durable") as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._require_follows(connection, segment)
            self._take_off(connection, segment.start, final)
            begin = segment.start
            if sealed is not None:
                self._drop_sealed(connection, sealed)
                begin = max(begin, sealed.stop)
            for rest in since(segment, begin):
                connection.executemany(_PUT, map(_row, in_runs(rest)))
            connection.execute("DELETE FROM sides WHERE position < ?", (final,))
            _forget_sides(connection, segment)
            _Beside(nodes=nodes).write(connection, segment.start)
            head = segment.stop, segment.hashes[-1].data, work.to_bytes(HASH_BYTES), final
            connection.execute("UPDATE head SET length = ?, hash = ?, work = ?, final = ?", head)
            connection.execute("COMMIT")

    def require_follows(self, segment: Segment) -> None:
        """Refuse a segment that does not follow a stored block, or replaces a final one.

        Raises:
            StoreError: it does.
        """
        self._database.read(lambda connection: self._require_follows(connection, segment))

    def _require_follows(self, connection: sqlite3.Connection, segment: Segment) -> None:
        head = connection.execute("SELECT length, hash, coalesce(final, 0) FROM head").fetchone()
        length, before, final = self._database.typed(head, int, bytes, int)
        start = segment.start
        if final <= start < length:
            run = self._runs.require(connection, start)
            i = start - run.start
            # What precedes a run is in another one, or in a file: what follows it here says which.
            before = (run.hashes[i - 1] if i > 0 else run.headers[0, LINK]).tobytes()
        if not final <= start <= length or segment.headers[0, LINK].tobytes() != before:
            raise StoreError(
                f"{self._path}: block {start} does not follow a stored one; nothing was written"
            )

    def _cut(self, connection: sqlite3.Connection, position: int) -> None:
        """Let a run begin at `position`, if there is a block."""
        row = connection.execute(_END_OF, (position,)).fetchone()
        if row is not None and row[0] < position < row[1]:
            run = self._runs.require(connection, position)
            i = position - run.start
            connection.executemany(_PUT, map(_row, (run.cut(0, i), run.cut(i, len(run)))))

    def _take_off(self, connection: sqlite3.Connection, start: int, final: int) -> None:
        """Let the blocks from `start` on be side blocks: those that are not below `final`."""
        self._cut(connection, start)
        query = f"SELECT {COLUMNS} FROM runs WHERE first >= ? ORDER BY first"
        with closing(connection.execute(query, (start,))) as rows:
            for row in rows:
                run = self._runs.segment(row)
                for kept in since(run, final):
                    blocks = (kept.cut(i, i + 1) for i in range(len(kept)))
                    connection.executemany(_SET_ASIDE, map(_row, blocks))
        connection.execute("DELETE FROM runs WHERE first >= ?", (start,))

    def _drop_sealed(self, connection: sqlite3.Connection, sealed: Sealed) -> None:
        """Let a file take the place of what it holds."""
        self._cut(connection, sealed.stop)
        connection.execute("DELETE FROM runs WHERE first < ?", (sealed.stop,))
        connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?)", sealed)

    def sides(self) -> Iterator[Segment]:
        """See `Store.sides`. One that goes meanwhile ends its run."""
        found = self._database.read_all(_SIDES)
        rows = [self._database.typed(row, int, bytes, bytes) for row in found]
        for numbers in chained((block_hash, header[LINK]) for _, block_hash, header in rows):
            pieces: list[Segment] = []
            size = 0
            for number in numbers:
                position, block_hash, _ = rows[number]
                row = self._database.read_one(_SIDE, (position, block_hash))
                if row is None:
                    break
                piece = self._runs.segment(row, position)
                if not piece.is_regular:
                    raise DamagedError(f"{self._path}: a side block {position} is damaged")
                pieces.append(piece)
                size += len(piece.data)
                if size >= stored_runs.SCAN_BYTES:
                    yield Segment.join(pieces)
                    pieces, size = [], 0
            if pieces:
                yield Segment.join(pieces)

    def erasing(self) -> dict[int, int]:
        """See `Store.erasing`."""
        rows = self._database.read_all("SELECT * FROM erasing")
        return dict(self._database.typed(row, int, int) for row in rows)

    def zero(self, position: int) -> bool:
        """Overwrite the entry of a block where it lies; return whether it does so here.

        Raises:
            DamagedError: it is not as long as its header says.
            OutcomeUnknownError: a write failed.
        """
        run = self._runs.holding(position)
        if run is None:
            return False
        i = position - run.start
        start, stop = run.entry_bytes(i)
        if stop - start != run.fields["size"][i]:
            raise DamagedError(f"{self._path}: the entry of block {position} is damaged")
        doubt = f"block {position} may or may not be overwritten"
        with self._database.writing(doubt) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with connection.blobopen("runs", "data", run.start) as data:
                data.seek(start)
                data.write(bytes(stop - start))
            connection.execute("COMMIT")
        return True

    def forget_erasing(self) -> None:
        """Empty `erasing`, when the log holds no copy of what was overwritten any more.

        For that, all of it goes into the database, and it is cut to nothing.

        Raises:
            OutcomeUnknownError: a write failed.
            StoreError: for `BUSY_SECONDS`, somebody was reading what is in the log.
        """
        with self._database.writing("what was erased may still be in the log") as connection:
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                connection.execute("DELETE FROM erasing")
        if busy:
            raise StoreError(f"{self._path}-wal may still hold the entry: it is being read")

    def scan(self, start: int, stop: int) -> Iterator[Segment]:
        """See `Store.scan`.

        Unless this is a work ledger, no transaction stays open between segments: history does not
        change.
        """
        if start >= stop:
            return
        with (
            self._database.scanner() as reader,
            reader.steady() if self.is_mined() else nullcontext(),
        ):
            least = -LIMIT_63  # a scan of everything passes over no row
            if start > 0:
                (least,) = reader.run(lambda c: c.execute(_BEFORE, (start,)).fetchone())
            end = 0
            while True:
                segments, last = reader.run(partial(self._runs.next, least, stop, end))
                if not segments:
                    return
                least, end = last + 1, segments[-1].stop
                segments[-1] = before(segments[-1], stop)
                segments[:1] = since(segments[0], start)
                yield from segments

    def backup(self, target: Path, progress: Callable[[int, int], None]) -> list[Sealed]:
        """See `Store.backup`, in bytes; return the manifest that was copied."""
        return self._database.backup(target, progress, partial(read_manifest, self._database))

    def forget(self) -> None:
        """Let go of what is remembered of what is stored: somebody else has changed it."""
        self._hash_index.forget()
        self._entry_index.forget()


def _insert(connection: sqlite3.Connection, segment: Segment, beside: _Beside) -> None:
    """Write `segment`, and what comes with it, in one transaction."""
    rows = list(map(_row, in_runs(segment)))
    if len(rows) == 1 and beside.is_nothing:  # a statement is a transaction
        connection.execute(_APPEND, rows[0])
        return
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_APPEND, rows)
    beside.write(connection, segment.start)
    connection.execute("COMMIT")


def _insert_sealed(
    connection: sqlite3.Connection, sealed: Sealed, end: tuple[int, bytes, bytes], beside: _Beside
) -> None:
    """Record a file, and drop what it holds, in one transaction.

    `end` is where the recorded chain must end now, by length and hash, and its last hash then.
    """
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_SEAL, (*sealed, *end))
    beside.write(connection, end[0])
    connection.execute("COMMIT")


class _Beside(NamedTuple):
    """What is recorded with blocks, and is not of the chain."""

    keys: Mapping[str, range] = {}
    nodes: Sequence[Node] = ()
    erase: int | None = None

    @property
    def is_nothing(self) -> bool:
        return not self.keys and not self.nodes and self.erase is None

    def write(self, connection: sqlite3.Connection, start: int) -> None:
        """Write it. The first of the blocks is at `start`."""
        remembered = [(key, places.start, len(places)) for key, places in self.keys.items()]
        connection.executemany("INSERT INTO keys VALUES (?, ?, ?)", remembered)
        connection.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)", self.nodes)
        if self.erase is not None:
            connection.execute("INSERT INTO erasing VALUES (?, ?)", (self.erase, start))


def _row(run: Segment) -> tuple[object, ...]:
    return (run.start, run.hashes.data, run.headers.data, run.offset_bytes(), run.data.data)


def _forget_sides(connection: sqlite3.Connection, segment: Segment) -> None:
    """Let blocks that are in the chain again be side blocks no more."""
    among = "SELECT 1 FROM sides WHERE position >= ? AND position < ? LIMIT 1"
    if connection.execute(among, (segment.start, segment.stop)).fetchone():
        named = ((segment.start + i, row.data) for i, row in enumerate(segment.hashes))
        connection.executemany("DELETE FROM sides WHERE position = ? AND hash = ?", named)


def _sizes(headers: bytes, lo: int, hi: int) -> int:
    """Return the bytes of the entries of the blocks `lo` to `hi` of a run, as headers have them."""
    cut = headers[lo * HEADER_BYTES : hi * HEADER_BYTES]
    if len(cut) != (hi - lo) * HEADER_BYTES:
        raise DamagedError(f"{len(headers)} bytes of headers are not those of {hi} blocks")
    return int(np.frombuffer(cut, HEADER_DTYPE)["size"].sum(dtype=np.uint64))
