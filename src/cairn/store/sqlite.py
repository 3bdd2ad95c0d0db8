"""The store on disk: recent history in SQLite, runs of blocks in a row.

SQLite in WAL mode with `synchronous=FULL` gives the promise: when COMMIT returns, the write-ahead
log with the new rows was fsynced. The order of every append is

1. BEGIN IMMEDIATE: a crash from here to 3 leaves the log without a commit frame: nothing happened;
2. rows, keys and head are written;
3. COMMIT: writes the commit frame, then fsyncs the log. After a crash inside, recovery finds the
   whole transaction or none of it; the caller was told nothing, or that the outcome is unknown.

After any failure the connection is given up, and the next use opens a new one. What the log holds
is then written again where it lies, and fsynced, before SQLite recovers it: a failed fsync is never
retried, since the system may have taken what it could not write for written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, Final

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
from cairn.core.header import LIMIT_63, LINK, NO_HASH
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment
from cairn.store.directory import FILE_NAME as FILE_NAME
from cairn.store.directory import WriterLock, keep_access, occupied, rewrite, sync_names
from cairn.store.hash_index import HashIndex
from cairn.store.interface import Head
from cairn.store.reader import Reader, reading
from cairn.store.runs import RUN_BLOCKS, before, in_runs, joined, since

APPLICATION_ID: Final = 0x4361726E  # "Carn": what `file` shows
SCHEMA_VERSION: Final = 1

_COLUMNS: Final = "first, hashes, headers, offsets, data"
_APPEND: Final = f"INSERT INTO appends ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)"

_BEFORE: Final = "SELECT coalesce((SELECT max(first) FROM runs WHERE first <= ?), 0)"
_RUNS: Final = f"SELECT {_COLUMNS} FROM runs WHERE first >= ? AND first < ? ORDER BY first"

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
    hash BLOB NOT NULL
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
CREATE TABLE keys (      -- what retries with a key have already recorded
    key TEXT PRIMARY KEY,
    first INTEGER NOT NULL,     -- position of the first block
    count INTEGER NOT NULL      -- blocks
) STRICT, WITHOUT ROWID;
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


class SqliteStore:
    """`cairn.store.interface.Store` in a directory, for one writer and any number of readers."""

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
        self._hash_index = HashIndex()  # with the next, under the read lock
        self._hashes_read = -LIMIT_63  # the first block of the last run that is in it
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
                connection.execute("INSERT INTO head VALUES (0, ?)", (NO_HASH,))
        except sqlite3.Error as error:
            raise StoreError(f"{path} cannot be made: {error}") from error

    def head(self) -> Head:
        """See `Store.head`."""
        row = self._read_one("SELECT length, hash, (SELECT count(*) FROM head) FROM head", ())
        length, block_hash, rows = self._typed(row, int, bytes, int)
        if rows != 1 or length < 0:
            raise DamagedError(f"{self._path}: {rows} heads are recorded, of length {length}")
        return Head(length, block_hash)

    def end(self) -> int:
        """See `Store.end`."""
        query = "SELECT first, length(hashes) FROM runs ORDER BY first DESC LIMIT 1"
        row = self._read_one(query, ())
        if row is None:
            return 0
        first, size = self._typed(row, int, int)
        end: int = first + max(size // HASH_BYTES, 1)
        return end

    def get(self, index: int) -> Block | None:
        """See `Store.get`."""
        if index >= LIMIT_63:
            return None
        row = self._read_one(
            f"SELECT {_COLUMNS} FROM runs WHERE first <= ? ORDER BY first DESC LIMIT 1", (index,)
        )
        segment = None if row is None else self._segment(row, 0)
        if segment is None or index >= segment.stop:
            return None
        return segment.block(index - segment.start)

    def find(self, block_hash: bytes) -> int | None:
        """See `Store.find`. Reads the hashes that came since the last search, and keeps prefixes.

        A stored hash that was changed after it was read is not found any more.
        """
        with self._read_lock:
            self._reader.run(self._index_hashes)
            candidates = self._hash_index.candidates(block_hash)
        for position in candidates:
            block = self.get(position)
            if block is not None and block.stored_hash == block_hash:
                return position
        return None

    def recall(self, key: str) -> range | None:
        """See `Store.recall`."""
        row = self._read_one("SELECT first, count FROM keys WHERE key = ?", (key,))
        return None if row is None else range(row[0], row[0] + row[1])

    def append(self, segment: Segment, keys: Mapping[str, range]) -> None:
        """See `Store.append`."""
        with self._write_lock:
            if self._lock is None or self._closed:
                raise ReadOnlyError(f"{self._directory} is not open for writing")
            self._require_own_process()
            connection = self._writer or self._connect_writer()
            try:
                _insert(connection, segment, keys)
            except BaseException as error:
                self._drop_writer()
                if isinstance(error, sqlite3.IntegrityError):
                    raise StoreError(f"{self._path}: {error}; nothing was written") from error
                if isinstance(error, sqlite3.Error | UnicodeDecodeError | OSError | MemoryError):
                    raise OutcomeUnknownError(
                        f"writing to {self._path} failed ({error}); blocks {segment.start} to "
                        f"{segment.stop - 1} may or may not be durable"
                    ) from error
                raise

    def scan(self, start: int, stop: int) -> Iterator[Segment]:
        """See `Store.scan`. No transaction stays open between segments: history does not change."""
        if start >= stop:
            return
        with self._scanner() as reader:
            least = -LIMIT_63  # a scan of everything passes over no row
            if start > 0:
                (least,) = reader.run(lambda c: c.execute(_BEFORE, (start,)).fetchone())
            end = 0
            while segments := reader.run(partial(self._next_runs, least, stop, end)):
                least, end = segments[-1].start + 1, segments[-1].stop
                segments[-1] = before(segments[-1], stop)
                segments[:1] = since(segments[0], start)
                yield from joined(segments)

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

    def backup(self, target: Path, progress: Callable[[int, int], None]) -> None:
        """See `Store.backup`."""

        def copy(source: sqlite3.Connection) -> None:
            with closing(sqlite3.connect(target / FILE_NAME, isolation_level=None)) as copied:
                source.execute("BEGIN")  # one snapshot, whatever is appended meanwhile
                source.execute("SELECT length FROM head").fetchone()
                source.backup(
                    copied,
                    pages=LOG_PAGES,
                    progress=lambda _, left, total: progress(total - left, total),
                )

        keep_access(self._directory, target)  # first, so that nobody else looks in meanwhile
        with closing(Reader(self._path, self._open)) as reader:
            reader.run(copy)
        keep_access(self._path, target / FILE_NAME)

    def close(self) -> None:
        """See `Store.close`."""
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
        with self._read_lock:
            self._require_own_process()
            row = self._reader.run(lambda connection: connection.execute(query, values).fetchone())
        return row

    def _index_hashes(self, connection: sqlite3.Connection) -> None:
        query = "SELECT first, hashes FROM runs WHERE first > ? ORDER BY first"
        with closing(connection.execute(query, (self._hashes_read,))) as rows:
            while runs := rows.fetchmany(RUN_BLOCKS):
                for row in runs:
                    self._typed(row, int, bytes)
                self._hash_index.add(runs)
                self._hashes_read = runs[-1][0]

    def _next_runs(
        self, least: int, stop: int, end: int, connection: sqlite3.Connection
    ) -> list[Segment]:
        """Return the runs that begin from `least` to before `stop`, as many as one step takes.

        None may begin before `end`, where the one before ended. Damage ends a step early; only a
        step that begins with it raises.
        """
        segments: list[Segment] = []
        blocks = size = 0
        try:
            with closing(connection.execute(_RUNS, (least, stop))) as rows:
                for row in rows:
                    segment = self._segment(row, end)
                    segments.append(segment)
                    blocks, size = blocks + len(segment), size + len(segment.data)
                    end = segment.stop
                    if blocks >= SCAN_BLOCKS or size >= SCAN_BYTES:
                        break
        except (DamagedError, sqlite3.Error, UnicodeDecodeError):
            if not segments:
                raise
        return segments

    def _typed(self, row: tuple[Any, ...] | None, *types: type) -> tuple[Any, ...]:
        """Return `row`, of these types: STRICT tables hold them, unless they were damaged."""
        if row is None or tuple(map(type, row)) != types:
            raise DamagedError(f"{self._path}: a row is missing or of other types than written")
        return row

    def _segment(self, row: tuple[Any, ...], end: int) -> Segment:
        """Return a run, which may not begin before `end`, where the one before ended."""
        first, hashes, headers, offsets, data = self._typed(row, int, *[bytes] * 4)
        if first < end:
            raise DamagedError(f"{self._path}: a run begins at block {first}, before {end}")
        try:
            return Segment.from_bytes(first, headers, hashes, data, offsets)
        except FormatError as error:
            raise DamagedError(f"{self._path}: damaged run at block {first}: {error}") from None


def _insert(connection: sqlite3.Connection, segment: Segment, keys: Mapping[str, range]) -> None:
    """Write `segment` and `keys` in one transaction."""
    rows = list(map(_row, in_runs(segment)))
    if len(rows) == 1 and not keys:  # a statement is a transaction
        connection.execute(_APPEND, rows[0])
        return
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_APPEND, rows)
    remembered = [(key, places.start, len(places)) for key, places in keys.items()]
    connection.executemany("INSERT INTO keys VALUES (?, ?, ?)", remembered)
    connection.execute("COMMIT")


def _row(run: Segment) -> tuple[object, ...]:
    return (run.start, run.hashes.data, run.headers.data, run.offset_bytes(), run.data.data)
