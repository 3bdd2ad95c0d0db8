"""The tail of a store on disk: recent history in SQLite, runs of blocks in a row.

SQLite in WAL mode with `synchronous=FULL` gives the promise: when COMMIT returns, the write-ahead
log with the new rows was fsynced. The order of every append is

1. BEGIN IMMEDIATE: a crash from here to 3 leaves the log without a commit frame: nothing happened;
2. rows, keys and head are written;
3. COMMIT: writes the commit frame, then fsyncs the log. After a crash inside, recovery finds the
   whole transaction or none of it; the caller was told nothing, or that the outcome is unknown.

What is deleted is overwritten (`secure_delete`), so that nothing of an entry stays in free pages
when its block is sealed.

On a work ledger the end of the chain may be replaced. So a scan there reads all of it in one
transaction, and what readers keep in memory of the tail is held to it again before it is used.

After any failure the connection is given up, and the next use opens a new one. What the log holds
is then written again where it lies, and fsynced, before SQLite recovers it: a failed fsync is never
retried, since the system may have taken what it could not write for written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import RLock
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cairn.core.block import Block
from cairn.core.errors import (
    DamagedError,
    FormatError,
    NotFoundError,
    OutcomeUnknownError,
    ReadOnlyError,
    StoreError,
    UsageError,
)
from cairn.core.hasher import Hasher
from cairn.core.header import HEADER_BYTES, HEADER_DTYPE, LIMIT_63, LINK, NO_HASH
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment
from cairn.core.tree import as_hashes
from cairn.store.directory import FILE_NAME as FILE_NAME
from cairn.store.directory import WriterLock, keep_access, occupied, rewrite, sync_names
from cairn.store.flat import Sealed, entry_ids
from cairn.store.hash_index import HashIndex
from cairn.store.interface import Head, Pooled, require_key
from cairn.store.reader import Reader, reading
from cairn.store.runs import RUN_BLOCKS, Row, before, chained, in_runs, joined, since

APPLICATION_ID: Final = 0x4361726E  # "Carn": what `file` shows
SCHEMA_VERSION: Final = 4

Node = tuple[int, int, bytes]
"""A node of the tree: level in steps of 8, number on it, hash."""
_ReadIndexed = Callable[[sqlite3.Connection, int], "Iterator[_Indexed]"]
"""What reads for an index the runs that begin after a position."""

_COLUMNS: Final = "first, hashes, headers, offsets, data"
_APPEND: Final = f"INSERT INTO appends ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)"
_PUT: Final = f"INSERT OR REPLACE INTO runs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)"

_SEAL: Final = "INSERT INTO seals VALUES (?, ?, ?, ?, ?, ?, ?)"
_MANIFEST: Final = """SELECT first, blocks, size, digest FROM segments
    WHERE first >= coalesce((SELECT max(first) FROM segments WHERE first <= ?1), ?1)
    AND first <= ?2 ORDER BY first"""
_SIZE: Final = f"""SELECT coalesce(sum(length(hashes)), 0) / {HASH_BYTES},
    coalesce(sum(length(data)), 0) FROM runs WHERE first < ?"""

_BEFORE: Final = "SELECT coalesce((SELECT max(first) FROM runs WHERE first <= ?), 0)"
_RUN_OF: Final = f"SELECT {_COLUMNS} FROM runs WHERE first <= ? ORDER BY first DESC LIMIT 1"
_END_OF: Final = f"""SELECT first, first + length(hashes) / {HASH_BYTES} FROM runs
    WHERE first <= ? ORDER BY first DESC LIMIT 1"""
_HASH_BEFORE: Final = f"""SELECT substr(hashes, (?1 - 1 - first) * {HASH_BYTES} + 1, {HASH_BYTES})
    FROM runs WHERE first < ?1 ORDER BY first DESC LIMIT 1"""
_RUNS: Final = f"SELECT {_COLUMNS} FROM runs WHERE first >= ? AND first < ? ORDER BY first"

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
_POOL: Final = "INSERT OR IGNORE INTO pool (id, entry, received) VALUES (?, ?, ?)"

_OBJECTS: Final = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"

SCHEMA: Final = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE runs (      -- consecutive blocks as the columns of a segment
    first INTEGER PRIMARY KEY,  -- position of the first block
    hashes BLOB NOT NULL,       -- n x 32 bytes; first, so that a search reads nothing else
    headers BLOB NOT NULL,      -- n x 104 bytes
    offsets BLOB NOT NULL,      -- (m + 1) x 8 bytes, big-endian
    data BLOB NOT NULL          -- m entries end to end
) STRICT;
CREATE TABLE head (      -- one row: where the chain ends, written with every append
    length INTEGER NOT NULL,
    hash BLOB NOT NULL,
    work BLOB,                  -- of a work ledger: its chain work, 32 bytes big-endian
    final INTEGER               -- of a work ledger: how many blocks can no longer change
) STRICT;
CREATE VIEW appends AS SELECT {_COLUMNS} FROM runs;
CREATE TRIGGER append INSTEAD OF INSERT ON appends BEGIN  -- the only way that Cairn writes
    SELECT RAISE(ABORT, 'the blocks do not follow the recorded head') FROM head
        WHERE new.first <> length OR substr(new.headers, {LINK.start + 1}, {HASH_BYTES}) <> hash;
    INSERT INTO runs ({_COLUMNS})
        VALUES (new.first, new.hashes, new.headers, new.offsets, new.data);
    UPDATE head SET length = new.first + length(new.hashes) / {HASH_BYTES},
        hash = substr(new.hashes, -{HASH_BYTES});
END;
CREATE TABLE segments (  -- the manifest: sealed history, in flat files
    first INTEGER PRIMARY KEY,  -- position of the first block
    blocks INTEGER NOT NULL,
    size INTEGER NOT NULL,      -- bytes of the file
    digest BLOB NOT NULL        -- of what no rule covers; see cairn.store.flat
) STRICT;
CREATE VIEW seals AS SELECT *, 0 AS start, x'' AS link, x'' AS hash FROM segments;
CREATE TRIGGER seal INSTEAD OF INSERT ON seals BEGIN  -- the way for what a tail shall not hold
    SELECT RAISE(ABORT, 'the blocks do not follow the recorded head') FROM head
        WHERE new.start <> length OR new.link <> hash;
    INSERT INTO segments VALUES (new.first, new.blocks, new.size, new.digest);
    DELETE FROM runs WHERE first < new.first + new.blocks;
    UPDATE head SET length = max(length, new.first + new.blocks), hash = new.hash;
END;
CREATE TABLE sides (     -- blocks that others have replaced, where the chain is not final
    position INTEGER NOT NULL,
    hash BLOB NOT NULL,
    header BLOB NOT NULL,
    offsets BLOB NOT NULL,      -- as in runs
    data BLOB NOT NULL,
    PRIMARY KEY (position, hash)
) STRICT;
CREATE TABLE pool (      -- entries that wait to be mined
    place INTEGER PRIMARY KEY,  -- rises in the order in which they came
    id BLOB NOT NULL UNIQUE,
    entry BLOB NOT NULL,
    received INTEGER NOT NULL   -- microseconds since the Unix epoch
) STRICT;
CREATE TABLE pool_keys ( -- what retries with a key have already put there
    key TEXT PRIMARY KEY,
    id BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE addresses ( -- peers to dial after a restart
    place INTEGER PRIMARY KEY,
    url TEXT NOT NULL
) STRICT;
CREATE TABLE nodes (     -- the tree over all final blocks, 8 levels apart: for proofs
    level INTEGER NOT NULL,     -- 1 is 8 above the blocks
    number INTEGER NOT NULL,    -- from 0 on each level
    hash BLOB NOT NULL,
    PRIMARY KEY (level, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE keys (      -- what retries with a key have already recorded
    key TEXT PRIMARY KEY,
    first INTEGER NOT NULL,     -- position of the first block
    count INTEGER NOT NULL      -- blocks
) STRICT, WITHOUT ROWID;
CREATE TABLE erasing (   -- erasures that are recorded, and whose entry may still be somewhere
    position INTEGER PRIMARY KEY,  -- of the block
    record INTEGER NOT NULL        -- position of the record
) STRICT;
"""

SCAN_BLOCKS: Final = 8192
"""Blocks in a scanned segment, about: enough to make the cost of a segment small."""
SCAN_BYTES: Final = 8 * 2**20
"""Bytes in a scanned segment, about: fits a cache, and bounds memory."""
SPARE_SCANNERS: Final = 4
"""Connections kept for the next scan: as many as a node has threads that read."""
LOG_PAGES: Final = 1000
"""Pages of 4 KiB in the write-ahead log before it is moved into the database: 16 MiB."""
BUSY_SECONDS: Final = 10.0
"""How long to wait for a lock inside SQLite; only programs that are not Cairn make us wait."""


class Candidates(NamedTuple):
    """Where hashes may be found, as far as their first bits tell; all as it is at one moment."""

    positions: list[list[int]]
    """For each hash those in the tail, in order, each once."""
    end: tuple[int, bytes | None]
    """Position after the last block of the tail, and its hash: while they stay, so does the tail,
    unless some of it is sealed."""
    files: Sequence[Sealed]
    """The manifest: what is not in the tail is there."""


class SqliteStore:
    """The head, the keys, the blocks that are not sealed yet, and the manifest of those that are.

    For one writer and any number of readers. `cairn.store.disk` adds the flat files.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._directory = directory
        self._path = directory / FILE_NAME
        self._require_there()
        self._process = os.getpid()
        self._lock = None if read_only else WriterLock(directory)
        self._closed = False
        # One connection writes, one reads single blocks; each is used under its own lock. A scan
        # opens its own. Both are None until used, and again after a failure.
        self._write_lock, self._read_lock = RLock(), RLock()
        self._writer: sqlite3.Connection | None = None
        self._reader = Reader(self._path, self._open)
        self._scanners: list[Reader] = []  # at rest
        self._hash_index, self._entry_index = _TailIndex(), _TailIndex()  # under the read lock
        self._files: list[Sealed] = []  # the manifest, when an index was last read, likewise
        self._is_mined: bool | None = None  # None: not known, or genesis has yet to come
        try:
            if read_only:
                self._read_one("SELECT 1", ())  # is it a ledger at all?
            else:
                self._connect_writer()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, directory: Path) -> None:
        """Make a store with no block in the empty directory `directory`.

        Not durable by itself: `new_directory` makes it so, with the name.
        """
        path = directory / FILE_NAME
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(SCHEMA)
                connection.execute("INSERT INTO head VALUES (0, ?, NULL, NULL)", (NO_HASH,))
        except sqlite3.Error as error:
            raise StoreError(f"{path} cannot be made: {error}") from error

    def head(self) -> Head:
        """See `Store.head`."""
        row = self._read_one("SELECT length, hash, (SELECT count(*) FROM head) FROM head", ())
        length, block_hash, rows = self._typed(row, int, bytes, int)
        if rows != 1 or length < 0:
            raise DamagedError(f"{self._path}: {rows} heads are recorded, of length {length}")
        return Head(length, block_hash)

    def is_mined(self) -> bool | None:
        """Whether blocks come by `advance`, as genesis did; None before it has come."""
        if self._is_mined is None:
            row = self._read_one("SELECT length, final IS NOT NULL FROM head", ())
            length, is_mined = self._typed(row, int, int)
            self._is_mined = bool(is_mined) if length > 0 else None
        return self._is_mined

    def work(self) -> int:
        """See `Store.work`."""
        (work,) = self._typed(self._read_one("SELECT coalesce(work, x'') FROM head", ()), bytes)
        return int.from_bytes(work)

    def final(self) -> int:
        """See `Store.final`."""
        row = self._read_one("SELECT length, coalesce(final, length) FROM head", ())
        length, final = self._typed(row, int, int)
        if not 0 <= final <= length:
            raise DamagedError(f"{self._path}: {final} of {length} blocks are recorded as final")
        return int(final)

    def end(self) -> int:
        """See `Store.end`."""
        query = "SELECT first, length(hashes) FROM runs ORDER BY first DESC LIMIT 1"
        row = self._read_one(query, ())
        if row is None:
            return max((sealed.stop for sealed in self.sealed()), default=0)
        first, size = self._typed(row, int, int)
        end: int = first + max(size // HASH_BYTES, 1)
        return end

    def begin(self) -> int | None:
        """Return the position of the first block that is not sealed, or None: all are."""
        (first,) = self._read_one("SELECT min(first) FROM runs", ()) or (None,)
        return None if first is None else int(first)

    def size(self, stop: int = LIMIT_63 - 1) -> tuple[int, int]:
        """Return how many blocks are not sealed, and the bytes of their entries.

        Of the runs that begin before position `stop`.
        """
        row = self._read_one(_SIZE, (stop,))
        blocks, size = self._typed(row, int, int)
        return blocks, size

    def sealed(self, start: int = 0, stop: int = LIMIT_63) -> list[Sealed]:
        """Return the manifest from the file that holds position `start` on to that before `stop`.

        From 0 on, it is all of the manifest, whatever it says of positions.

        Raises:
            DamagedError: it is not one that was written here.
        """
        bounds = min(start, LIMIT_63 - 1) if start > 0 else -LIMIT_63, min(stop, LIMIT_63) - 1
        self._require_own_process()
        with self._read_lock:
            return self._reader.run(lambda connection: self._manifest(connection, *bounds))

    def _manifest(
        self, connection: sqlite3.Connection, start: int = -LIMIT_63, last: int = LIMIT_63 - 1
    ) -> list[Sealed]:
        rows = connection.execute(_MANIFEST, (start, last)).fetchall()
        files = [Sealed(*self._typed(row, int, int, int, bytes)) for row in rows]
        for file, following in pairwise([Sealed(0, 0, 0, b""), *files]):
            if following.first < file.stop or following.blocks < 1:
                raise DamagedError(f"{self._path}: the manifest is damaged at {following}")
        return files

    def get(self, index: int) -> Block | None:
        """See `Store.get`."""
        if index >= LIMIT_63:
            return None
        row = self._read_one(_RUN_OF, (index,))
        if row is None:
            return None
        segment = self._segment(self._typed(row, int, *[bytes] * 4), 0)
        if index >= segment.stop:
            return None
        return segment.block(index - segment.start)

    def find(self, hashes: Sequence[bytes]) -> Candidates:
        """Look for blocks by their hashes (32 bytes each).

        Reads the hashes that came since the last search, and keeps prefixes. A stored hash that was
        changed after it was read is not found any more.
        """
        return self._find(hashes, self._hash_index, self._read_hashes)

    def find_entries(self, ids: Sequence[bytes], hasher: Hasher) -> Candidates:
        """Look for blocks by the ids of their entries, likewise.

        Raises:
            DamagedError: as for `scan`.
        """
        return self._find(ids, self._entry_index, partial(self._read_ids, hasher))

    def _find(self, hashes: Sequence[bytes], index: _TailIndex, read: _ReadIndexed) -> Candidates:
        self._require_own_process()
        with self._read_lock:
            self._reader.run(lambda connection: self._follow(connection, index, read))
            found = [list(dict.fromkeys(some)) for some in index.hashes.candidates(hashes)]
            return Candidates(found, index.end, self._files)

    def _follow(
        self, connection: sqlite3.Connection, index: _TailIndex, read: _ReadIndexed
    ) -> None:
        """Let what is in memory be as it is now, all at one moment. Requires the read lock."""
        # Asked before all else, so that what is written meanwhile makes it another one next time.
        moment = connection, *connection.execute("PRAGMA data_version").fetchone()
        if moment == index.moment:
            return
        connection.execute("BEGIN")
        try:
            index.follow(connection, read)
            self._files = self._followed(connection)
            if self._files and index.begin is not None and index.begin < self._files[-1].stop:
                raise DamagedError(
                    f"{self._path}: block {index.begin} is in a file and in the tail"
                )
        finally:
            connection.rollback()
        index.moment = moment

    def _followed(self, connection: sqlite3.Connection) -> list[Sealed]:
        """Return the manifest, by what was known of it: files are only ever added to it."""
        known = self._files
        found = self._manifest(connection, known[-1].first if known else -LIMIT_63)
        if not known:
            return found
        if found[:1] != known[-1:]:
            return self._manifest(connection)
        return [*known, *found[1:]] if len(found) > 1 else known

    def recall(self, key: str) -> range | None:
        """See `Store.recall`."""
        row = self._read_one("SELECT first, count FROM keys WHERE key = ?", (key,))
        return None if row is None else range(row[0], row[0] + row[1])

    def column(self, name: str, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Return what there is of a column for blocks `start` to `stop`, run by run.

        Each with the position of its first block, in order; all at one moment.
        """
        self._require_own_process()
        with self._read_lock:
            return self._reader.run(lambda connection: self._column(connection, name, start, stop))

    def _column(
        self, connection: sqlite3.Connection, name: str, start: int, stop: int
    ) -> list[tuple[int, bytes]]:
        rows = connection.execute(_COLUMN.format(name), (start, stop)).fetchall()
        return [self._typed(row, int, bytes) for row in rows]

    def stored_bytes(self, start: int, stop: int) -> tuple[int, int]:
        """Return the bytes of the entries of the blocks from `start` on, and where that ends.

        At `stop`, or before it where a block is missing.
        """
        self._require_own_process()
        with self._read_lock:
            return self._reader.run(lambda c: self._stored_bytes(c, start, stop))

    def _stored_bytes(
        self, connection: sqlite3.Connection, start: int, stop: int
    ) -> tuple[int, int]:
        # Many small runs, of one append each, are added up where they lie.
        blocks, size, end = connection.execute(_WHOLE_RUNS, (start, stop)).fetchone()
        if blocks == stop - start and end == stop:
            return int(size), stop
        total, at = 0, start
        for row in connection.execute(_LENGTHS, (start, stop)).fetchall():
            first, blocks, size, headers = self._typed(row, int, int, int, bytes)
            if first > at:
                break
            lo, hi = at - first, min(stop - first, blocks)
            if lo < hi:
                total += size if (lo, hi) == (0, blocks) else _sizes(headers, lo, hi)
                at = first + hi
        return total, at

    def nodes(self, level: int, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Return what there is of nodes `start` to `stop` of a level of the tree, numbered."""
        self._require_own_process()
        with self._read_lock:
            return self._reader.run(
                lambda connection: connection.execute(_NODES, (level, start, stop)).fetchall()
            )

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
        with self._writing(f"{blocks} may or may not be durable") as connection:
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
        with self._writing(f"{sealed.name} may or may not be recorded") as connection:
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
        with self._writing(f"{blocks} may or may not be durable") as connection:
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
        self._require_own_process()
        with self._read_lock:
            self._reader.run(lambda connection: self._require_follows(connection, segment))

    def _require_follows(self, connection: sqlite3.Connection, segment: Segment) -> None:
        head = connection.execute("SELECT length, hash, coalesce(final, 0) FROM head").fetchone()
        length, before, final = self._typed(head, int, bytes, int)
        start = segment.start
        if final <= start < length:
            run = self._run_of(connection, start)
            i = start - run.start
            # What precedes a run is in another one, or in a file: what follows it here says which.
            before = (run.hashes[i - 1] if i > 0 else run.headers[0, LINK]).tobytes()
        if not final <= start <= length or segment.headers[0, LINK].tobytes() != before:
            raise StoreError(
                f"{self._path}: block {start} does not follow a stored one; nothing was written"
            )

    def _run_of(self, connection: sqlite3.Connection, position: int) -> Segment:
        """Return the run that holds a block."""
        row = connection.execute(_RUN_OF, (position,)).fetchone()
        run = self._segment(self._typed(row, int, *[bytes] * 4), 0)
        if position >= run.stop:
            raise DamagedError(f"{self._path}: block {position} is missing")
        return run

    def _cut(self, connection: sqlite3.Connection, position: int) -> None:
        """Let a run begin at `position`, if there is a block."""
        row = connection.execute(_END_OF, (position,)).fetchone()
        if row is not None and row[0] < position < row[1]:
            run = self._run_of(connection, position)
            i = position - run.start
            connection.executemany(_PUT, map(_row, (run.cut(0, i), run.cut(i, len(run)))))

    def _take_off(self, connection: sqlite3.Connection, start: int, final: int) -> None:
        """Let the blocks from `start` on be side blocks: those that are not below `final`."""
        self._cut(connection, start)
        query = f"SELECT {_COLUMNS} FROM runs WHERE first >= ? ORDER BY first"
        with closing(connection.execute(query, (start,))) as rows:
            for row in rows:
                run = self._segment(self._typed(row, int, *[bytes] * 4), 0)
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
        self._require_own_process()
        with self._read_lock:
            found = self._reader.run(lambda connection: connection.execute(_SIDES).fetchall())
        rows = [self._typed(row, int, bytes, bytes) for row in found]
        for numbers in chained((block_hash, header[LINK]) for _, block_hash, header in rows):
            pieces: list[Segment] = []
            size = 0
            for number in numbers:
                position, block_hash, _ = rows[number]
                row = self._read_one(_SIDE, (position, block_hash))
                if row is None:
                    break
                piece = self._segment(self._typed(row, int, *[bytes] * 4), position)
                if not piece.is_regular:
                    raise DamagedError(f"{self._path}: a side block {position} is damaged")
                pieces.append(piece)
                size += len(piece.data)
                if size >= SCAN_BYTES:
                    yield Segment.join(pieces)
                    pieces, size = [], 0
            if pieces:
                yield Segment.join(pieces)

    def pool_add(self, pooled: Sequence[Pooled], key: str | None = None) -> None:
        """See `Store.pool_add`."""
        self.require_writable()
        with self._write_lock:
            if key is not None:
                require_key(pooled, key, self.pool_key(key))
            with self._writing("the entries may or may not be pooled") as connection:
                connection.execute("BEGIN IMMEDIATE")
                if key is not None:
                    connection.execute("INSERT INTO pool_keys VALUES (?, ?)", (key, pooled[0].id))
                connection.executemany(_POOL, pooled)
                connection.execute("COMMIT")

    def pool_remove(self, ids: Sequence[bytes]) -> None:
        """See `Store.pool_remove`."""
        with self._writing("the entries may or may not be pooled") as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM pool WHERE id = ?", [(one,) for one in ids])
            connection.execute("COMMIT")

    def pool(self) -> list[Pooled]:
        """See `Store.pool`."""
        query = "SELECT id, entry, received FROM pool ORDER BY place"
        self._require_own_process()
        with self._read_lock:
            rows = self._reader.run(lambda connection: connection.execute(query).fetchall())
        return [Pooled(*self._typed(row, bytes, bytes, int)) for row in rows]

    def pool_has(self, entry_id: bytes) -> bool:
        """See `Store.pool_has`."""
        return self._read_one("SELECT 1 FROM pool WHERE id = ?", (entry_id,)) is not None

    def pool_key(self, key: str) -> bytes | None:
        """See `Store.pool_key`."""
        row = self._read_one("SELECT id FROM pool_keys WHERE key = ?", (key,))
        return None if row is None else bytes(*self._typed(row, bytes))

    def addresses(self) -> list[str]:
        """See `Store.addresses`."""
        query = "SELECT url FROM addresses ORDER BY place"
        self._require_own_process()
        with self._read_lock:
            rows = self._reader.run(lambda connection: connection.execute(query).fetchall())
        return [url for (url,) in rows]

    def set_addresses(self, urls: Sequence[str]) -> None:
        """See `Store.set_addresses`."""
        with self._writing("the addresses may or may not be kept") as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM addresses")
            connection.executemany("INSERT INTO addresses (url) VALUES (?)", [(u,) for u in urls])
            connection.execute("COMMIT")

    def erasing(self) -> dict[int, int]:
        """See `Store.erasing`."""
        self._require_own_process()
        with self._read_lock:
            rows = self._reader.run(lambda c: c.execute("SELECT * FROM erasing").fetchall())
        return dict(self._typed(row, int, int) for row in rows)

    def zero(self, position: int) -> bool:
        """Overwrite the entry of a block where it lies; return whether it does so here.

        Raises:
            DamagedError: it is not as long as its header says.
            OutcomeUnknownError: a write failed.
        """
        row = self._read_one(_RUN_OF, (position,))
        run = None if row is None else self._segment(self._typed(row, int, *[bytes] * 4), 0)
        if run is None or position >= run.stop:
            return False
        i = position - run.start
        start, stop = run.entry_bytes(i)
        if stop - start != run.fields["size"][i]:
            raise DamagedError(f"{self._path}: the entry of block {position} is damaged")
        with self._writing(f"block {position} may or may not be overwritten") as connection:
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
        with self._writing("what was erased may still be in the log") as connection:
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                connection.execute("DELETE FROM erasing")
        if busy:
            raise StoreError(f"{self._path}-wal may still hold the entry: it is being read")

    @contextmanager
    def _writing(self, doubt: str) -> Iterator[sqlite3.Connection]:
        """Yield the writer's connection; give it up where anything fails."""
        self.require_writable()
        with self._write_lock:
            self.require_writable()  # it may have been closed meanwhile
            connection = self._writer or self._connect_writer()
            try:
                yield connection
            except BaseException as error:
                self._drop_writer()
                if isinstance(error, sqlite3.IntegrityError):
                    raise StoreError(f"{self._path}: {error}; nothing was written") from error
                if isinstance(error, sqlite3.Error | UnicodeDecodeError | OSError | MemoryError):
                    raise OutcomeUnknownError(
                        f"writing to {self._path} failed ({error}); {doubt}"
                    ) from error
                raise

    def overwrite_log(self) -> None:
        """Commit nothing, durably: what an earlier commit left in the log, and failed, goes.

        Raises:
            OutcomeUnknownError: the disk failed again.
        """
        with self._write_lock:
            connection = self._writer or self._connect_writer()
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE head SET length = length")
                connection.execute("COMMIT")
            except BaseException as error:
                self._drop_writer()
                if isinstance(error, sqlite3.Error):
                    raise OutcomeUnknownError(f"{self._path}: {error}") from error
                raise

    def require_writable(self) -> None:
        """Refuse to write where it may not be done.

        Raises:
            ReadOnlyError: this store was opened for reading, or is closed.
            UsageError: it was opened before a fork.
        """
        if self._lock is None or self._closed:
            raise ReadOnlyError(f"{self._directory} is not open for writing")
        self._require_own_process()

    def scan(self, start: int, stop: int) -> Iterator[Segment]:
        """See `Store.scan`.

        Unless this is a work ledger, no transaction stays open between segments: history does not
        change.
        """
        if start >= stop:
            return
        with self._scanner() as reader, reader.steady() if self.is_mined() else nullcontext():
            least = -LIMIT_63  # a scan of everything passes over no row
            if start > 0:
                (least,) = reader.run(lambda c: c.execute(_BEFORE, (start,)).fetchone())
            end = 0
            while True:
                segments, last = reader.run(partial(self._next_runs, least, stop, end))
                if not segments:
                    return
                least, end = last + 1, segments[-1].stop
                segments[-1] = before(segments[-1], stop)
                segments[:1] = since(segments[0], start)
                yield from segments

    @contextmanager
    def _scanner(self) -> Iterator[Reader]:
        """Yield a reader of one's own: one that an earlier scan left, as opening takes long."""
        self._require_open()
        try:
            reader = self._scanners.pop()
        except IndexError:
            reader = Reader(self._path, self._open)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        with self._read_lock:
            if self._closed or len(self._scanners) >= SPARE_SCANNERS:
                reader.close()
            else:
                self._scanners.append(reader)

    def backup(self, target: Path, progress: Callable[[int, int], None]) -> list[Sealed]:
        """See `Store.backup`, in bytes; return the manifest that was copied."""

        def copy(source: sqlite3.Connection) -> list[Sealed]:
            with closing(sqlite3.connect(target / FILE_NAME, isolation_level=None)) as copied:
                (size,) = source.execute("PRAGMA page_size").fetchone()
                source.execute("BEGIN")  # one snapshot, whatever is appended meanwhile
                files = self._manifest(source)
                source.backup(
                    copied,
                    pages=LOG_PAGES,
                    progress=lambda _, left, pages: progress(size * (pages - left), size * pages),
                )
                return files

        keep_access(self._directory, target)  # first, so that nobody else looks in meanwhile
        with closing(Reader(self._path, self._open)) as reader:
            files = reader.run(copy)
        keep_access(self._path, target / FILE_NAME)
        return files

    def forget(self) -> None:
        """Let go of what is remembered of what is stored: somebody else has changed it."""
        with self._read_lock:
            self._hash_index, self._entry_index = _TailIndex(), _TailIndex()
            self._files = []

    def close(self) -> None:
        """See `Store.close`. After a fork the connections are left alone, as SQLite asks."""
        if os.getpid() != self._process:
            self._closed = True
            return
        with self._write_lock, self._read_lock:
            self._closed = True
            self._reader.close()
            while self._scanners:
                self._scanners.pop().close()
            self._drop_writer()
            if self._lock is not None:
                self._lock.release()

    def _connect_writer(self) -> sqlite3.Connection:
        """Return the writer's connection; opening it is also all there is to recovery."""
        log = self._path.with_name(f"{FILE_NAME}-wal")
        try:
            if log.exists():  # left by a crash, a failure, or readers that are still there
                rewrite(log)
        except OSError as error:
            raise StoreError(f"{log} cannot be recovered: {error}") from error
        connection = self._open("rw")
        try:
            with reading(self._path):
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON").fetchone()
                connection.execute("PRAGMA fullfsync = ON")  # macOS: past the drive's own cache
                connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
                self._require_own_schema(connection)
                # SQLite opens for reading what it cannot write; only a write tells.
                connection.execute("UPDATE head SET length = length WHERE false")
            # Now the log is there, under a name that SQLite would not make sure of.
            sync_names(self._path)
        except OSError as error:
            connection.close()
            raise StoreError(f"{self._path} cannot be opened for writing: {error}") from error
        except BaseException:
            connection.close()
            raise
        self._writer = connection
        return connection

    def _require_own_schema(self, connection: sqlite3.Connection) -> None:
        """Refuse to write through a view or trigger that is not the one made here."""
        with closing(sqlite3.connect(":memory:")) as pristine:
            pristine.executescript(SCHEMA)
            expected = pristine.execute(_OBJECTS).fetchall()
        if connection.execute(_OBJECTS).fetchall() != expected:
            raise DamagedError(f"{self._path}: its schema is not the one that Cairn makes")

    def _require_there(self) -> None:
        if self._path.is_file():
            return
        is_left_over = self._directory.is_dir() and occupied(self._directory)
        if self._path.is_file():  # it has just been created
            return
        raise (
            DamagedError(f"{self._directory} is there, but {FILE_NAME} is not in it")
            if is_left_over
            else NotFoundError(f"there is no ledger at {self._directory}")
        )

    def _require_open(self) -> None:
        if self._closed:
            raise ReadOnlyError(f"{self._directory} is closed")
        self._require_own_process()

    def _require_own_process(self) -> None:
        """Refuse what SQLite forbids: to use a connection on both sides of a fork."""
        if os.getpid() != self._process:
            raise UsageError(
                f"{self._directory} was opened by process {self._process}, before a fork: open it "
                "again in this one"
            )

    def _drop_writer(self) -> None:
        if self._writer is not None:
            with suppress(sqlite3.Error):  # what failed before may fail again; nothing is lost
                self._writer.close()
            self._writer = None

    def _open(self, mode: str) -> sqlite3.Connection:
        self._require_open()
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        with reading(self._path):
            connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA cell_size_check = ON")
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                self._require_schema(application, version)
            except BaseException:
                connection.close()
                raise
            return connection

    def _require_schema(self, application: int, version: int) -> None:
        if application != APPLICATION_ID:
            raise DamagedError(f"{self._path} is a database, but not a ledger")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} has schema {version}; this version of Cairn reads {SCHEMA_VERSION}"
            )

    def _read_one(self, query: str, values: tuple[object, ...]) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None
        self._require_own_process()  # before the lock, which a fork may have left taken
        with self._read_lock:
            row = self._reader.run(lambda connection: connection.execute(query, values).fetchone())
        return row

    def _read_hashes(self, connection: sqlite3.Connection, after: int) -> Iterator[_Indexed]:
        """Yield the hashes of the runs that begin after a position."""
        query = "SELECT first, hashes FROM runs WHERE first > ? ORDER BY first"
        with closing(connection.execute(query, (after,))) as rows:
            while runs := rows.fetchmany(RUN_BLOCKS):
                for row in runs:
                    self._typed(row, int, bytes)
                firsts, columns = zip(*runs, strict=True)
                lengths = np.array([len(column) // HASH_BYTES for column in columns])
                whole = (c[: n * HASH_BYTES] for c, n in zip(columns, lengths, strict=True))
                hashes = as_hashes(b"".join(whole))
                begins = np.array(firsts) - np.cumsum(lengths) + lengths
                positions = np.repeat(begins, lengths) + np.arange(len(hashes))
                yield _Indexed(firsts[-1], firsts[-1] + int(lengths[-1]), positions, hashes)

    def _read_ids(
        self, hasher: Hasher, connection: sqlite3.Connection, after: int
    ) -> Iterator[_Indexed]:
        """Yield the ids of the entries in the runs that begin after a position."""
        end = 0
        while True:
            segments, last = self._next_runs(after + 1, LIMIT_63 - 1, end, connection)
            for segment in segments:
                ids, places = entry_ids(segment, hasher)
                positions = places.astype(np.int64) + segment.start
                begin = last if len(segments) == 1 else segment.start
                yield _Indexed(begin, segment.stop, positions, ids)
            if not segments:
                return
            after, end = last, segments[-1].stop

    def _next_runs(
        self, least: int, stop: int, end: int, connection: sqlite3.Connection
    ) -> tuple[list[Segment], int]:
        """Return the runs that begin from `least` to before `stop`, as many as one step takes.

        Also where the last of them begins.
        None may begin before `end`, where the one before ended. Damage ends a step early; only a
        step that begins with it raises.
        """
        rows: list[Row] = []
        hashes = size = 0
        try:
            with closing(connection.execute(_RUNS, (least, stop))) as found:
                for row in found:
                    rows.append(self._typed(row, int, *[bytes] * 4))
                    hashes, size = hashes + len(row[1]), size + len(row[4])
                    if hashes >= SCAN_BLOCKS * HASH_BYTES or size >= SCAN_BYTES:
                        break
        except (DamagedError, sqlite3.Error, UnicodeDecodeError):
            if not rows:
                raise
        if rows and rows[0][0] >= end and (whole := joined(rows)):
            return [whole], rows[-1][0]
        segments: list[Segment] = []
        for row in rows:
            try:
                segments.append(self._segment(row, end))
            except DamagedError:
                if not segments:
                    raise
                break
            end = segments[-1].stop
        return segments, segments[-1].start if segments else least

    def _typed(self, row: tuple[Any, ...] | None, *types: type) -> Any:
        """Return `row`, of these types: STRICT tables hold them, unless they were damaged."""
        if row is None or tuple(map(type, row)) != types:
            raise DamagedError(f"{self._path}: a row is missing or of other types than written")
        return row

    def _segment(self, row: Row, end: int) -> Segment:
        """Return a run, which may not begin before `end`, where the one before ended."""
        first, hashes, headers, offsets, data = row
        if first < end:
            raise DamagedError(f"{self._path}: a run begins at block {first}, before {end}")
        try:
            return Segment.from_bytes(first, headers, hashes, data, offsets)
        except FormatError as error:
            raise DamagedError(f"{self._path}: damaged run at block {first}: {error}") from None


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


class _Indexed(NamedTuple):
    """Some hashes of runs, for an index."""

    last: int
    """Where the last of the runs begins."""
    stop: int
    """Where it ends."""
    positions: NDArray[np.int64]
    hashes: NDArray[np.uint8]


class _TailIndex:
    """An index of what the tail holds, which follows it. Owned by who has the read lock."""

    def __init__(self) -> None:
        self.moment: tuple[sqlite3.Connection, int] | None = None
        """When it was last read: what no other connection has written to since has not changed."""
        self._begin_anew(None)

    def _begin_anew(self, begin: int | None) -> None:
        self.hashes = HashIndex()
        self.begin = begin
        """The first block of the tail."""
        self._read = -LIMIT_63
        """Where the last run begins that is in the index."""
        self._stop = -LIMIT_63
        """Where that ends."""
        self._last: bytes | None = None
        """The hash of its last block."""
        self._final = 0
        """What was final when it was read."""

    @property
    def end(self) -> tuple[int, bytes | None]:
        """See `Candidates.end`."""
        return self._stop, self._last

    def follow(self, connection: sqlite3.Connection, read: _ReadIndexed) -> None:
        """Let go of what has gone and take in what has come. Requires a transaction.

        As long as its last block is there, so is all before it. Else at least what was final is.
        """
        query = "SELECT (SELECT min(first) FROM runs), (SELECT max(final) FROM head)"
        begin, final = connection.execute(query).fetchone()
        if begin is None or self.begin is None or begin < self.begin:
            self._begin_anew(begin)
        elif begin > self.begin:  # what lies before is of sealed blocks now
            self.begin = begin
            self.hashes.drop_before(begin)
        if self._last != _hash_before(connection, self._stop):
            query = "SELECT max(first) FROM runs WHERE first <= ?"
            (first,) = connection.execute(query, (self._final,)).fetchone()
            if first is None:
                self._begin_anew(begin)
            else:
                self.hashes.drop(first)
                self._read, self._stop = first - 1, first
        self._final = final or 0
        for some in read(connection, self._read):
            is_new = some.positions >= self._stop
            self.hashes.add(some.positions[is_new], some.hashes[is_new])
            self._read, self._stop = some.last, max(some.stop, self._stop)
        self._last = _hash_before(connection, self._stop)


def _sizes(headers: bytes, lo: int, hi: int) -> int:
    """Return the bytes of the entries of the blocks `lo` to `hi` of a run, as headers have them."""
    cut = headers[lo * HEADER_BYTES : hi * HEADER_BYTES]
    if len(cut) != (hi - lo) * HEADER_BYTES:
        raise DamagedError(f"{len(headers)} bytes of headers are not those of {hi} blocks")
    return int(np.frombuffer(cut, HEADER_DTYPE)["size"].sum(dtype=np.uint64))


def _hash_before(connection: sqlite3.Connection, position: int) -> bytes | None:
    """Return the stored hash of the block before `position`, if there is one in the tail."""
    (found,) = connection.execute(_HASH_BEFORE, (position,)).fetchone() or (None,)
    return found
