"""The database of a ledger: the connection that writes, those that read, and recovery.

SQLite in WAL mode with `synchronous=FULL` gives the promise: when COMMIT returns, the write-ahead
log with what was written was fsynced. What is deleted is overwritten (`secure_delete`), so that
nothing of it stays in free pages.

After any failure the connection is given up, and the next use opens a new one. What the log holds
is then written again where it lies, and fsynced, before SQLite recovers it: a failed fsync is never
retried, since the system may have taken what it could not write for written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any, Final

from cairn.core.errors import (
    DamagedError,
    NotFoundError,
    OutcomeUnknownError,
    ReadOnlyError,
    StoreError,
    UsageError,
)
from cairn.store import schema
from cairn.store.directory import (
    FILE_NAME,
    WriterLock,
    keep_access,
    occupied,
    rewrite,
    sync_names,
)
from cairn.store.reader import Reader, Result, reading

SPARE_SCANNERS: Final = 4
"""Connections kept for the next scan: as many as a node has threads that read."""
LOG_PAGES: Final = 1000
"""Pages of 4 KiB in the write-ahead log before it is moved into the database: 16 MiB."""
BUSY_SECONDS: Final = 10.0
"""How long to wait for a lock inside SQLite; only programs that are not Cairn make us wait."""


class Database:
    """The database in a ledger's directory, for one writing process and any number of readers."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self.path = directory / FILE_NAME
        self._directory = directory
        self._require_there()
        self._process = os.getpid()
        self._lock = None if read_only else WriterLock(directory)
        self._closed = False
        # One connection writes, one reads; each is used under its own lock. A scan has its own.
        # Both are None until used, and again after a failure.
        self.write_lock, self.read_lock = RLock(), RLock()
        self._writer: sqlite3.Connection | None = None
        self._reader = Reader(self.path, self._open)
        self._scanners: list[Reader] = []  # at rest
        try:
            if read_only:
                self.read_one("SELECT 1")  # is it a ledger at all?
            else:
                self._connect_writer()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, directory: Path) -> None:
        """Make a database with no block in the empty directory `directory`.

        Not durable by itself: `new_directory` makes it so, with the name.
        """
        schema.create(directory / FILE_NAME)

    def read(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return what `query` returns for the reader's connection; it may be run more than once.

        Raises:
            DamagedError, StoreError: as for `Reader.run`.
            UsageError: this was opened before a fork.
        """
        self._require_own_process()  # before the lock, which a fork may have left taken
        with self.read_lock:
            return self._reader.run(query)

    def read_one(self, query: str, values: tuple[object, ...] = ()) -> tuple[Any, ...] | None:
        """Return the first row that an SQL query finds, or None."""
        row: tuple[Any, ...] | None
        self._require_own_process()
        with self.read_lock:
            row = self._reader.run(lambda connection: connection.execute(query, values).fetchone())
        return row

    def read_all(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Return all rows that an SQL query finds, at one moment."""
        return self.read(lambda connection: connection.execute(query, values).fetchall())

    def typed(self, row: tuple[Any, ...] | None, *types: type) -> Any:
        """Return `row`, of these types: STRICT tables hold them, unless they were damaged.

        Raises:
            DamagedError: it is missing, or of others.
        """
        if row is None or tuple(map(type, row)) != types:
            raise DamagedError(f"{self.path}: a row is missing or of other types than written")
        return row

    @contextmanager
    def scanner(self) -> Iterator[Reader]:
        """Yield a reader of one's own: one that an earlier scan left, as opening takes long."""
        self._require_open()
        try:
            reader = self._scanners.pop()
        except IndexError:
            reader = Reader(self.path, self._open)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        with self.read_lock:
            if self._closed or len(self._scanners) >= SPARE_SCANNERS:
                reader.close()
            else:
                self._scanners.append(reader)

    @contextmanager
    def writing(self, doubt: str) -> Iterator[sqlite3.Connection]:
        """Yield the writer's connection; give it up where anything fails.

        `doubt` says what nobody knows then.

        Raises:
            OutcomeUnknownError: a write failed.
            ReadOnlyError, UsageError: as for `require_writable`.
            StoreError: the schema refuses what was to be written. Nothing was.
        """
        self.require_writable()
        with self.write_lock:
            self.require_writable()  # it may have been closed meanwhile
            connection = self._writer or self._connect_writer()
            try:
                yield connection
            except BaseException as error:
                self._drop_writer()
                if isinstance(error, sqlite3.IntegrityError):
                    raise StoreError(f"{self.path}: {error}; nothing was written") from error
                if isinstance(error, sqlite3.Error | UnicodeDecodeError | OSError | MemoryError):
                    raise OutcomeUnknownError(
                        f"writing to {self.path} failed ({error}); {doubt}"
                    ) from error
                raise

    def overwrite_log(self) -> None:
        """Commit nothing, durably: what an earlier commit left in the log, and failed, goes.

        Raises:
            OutcomeUnknownError: the disk failed again.
        """
        with self.write_lock:
            connection = self._writer or self._connect_writer()
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(schema.NO_CHANGE)
                connection.execute("COMMIT")
            except BaseException as error:
                self._drop_writer()
                if isinstance(error, sqlite3.Error):
                    raise OutcomeUnknownError(f"{self.path}: {error}") from error
                raise

    def require_writable(self) -> None:
        """Refuse to write where it may not be done.

        Raises:
            ReadOnlyError: this was opened for reading, or is closed.
            UsageError: it was opened before a fork.
        """
        if self._lock is None or self._closed:
            raise ReadOnlyError(f"{self._directory} is not open for writing")
        self._require_own_process()

    def backup(
        self,
        target: Path,
        progress: Callable[[int, int], None],
        query: Callable[[sqlite3.Connection], Result],
    ) -> Result:
        """Copy the database into the directory `target`, as it is at one moment.

        Calls `progress` with the bytes done and in all. Returns what `query` does at that moment.
        """

        def copy(source: sqlite3.Connection) -> Result:
            with closing(sqlite3.connect(target / FILE_NAME, isolation_level=None)) as copied:
                (size,) = source.execute("PRAGMA page_size").fetchone()
                source.execute("BEGIN")  # one snapshot, whatever is appended meanwhile
                found = query(source)
                source.backup(
                    copied,
                    pages=LOG_PAGES,
                    progress=lambda _, left, pages: progress(size * (pages - left), size * pages),
                )
                return found

        keep_access(self._directory, target)  # first, so that nobody else looks in meanwhile
        with closing(Reader(self.path, self._open)) as reader:
            found = reader.run(copy)
        keep_access(self.path, target / FILE_NAME)
        return found

    def close(self) -> None:
        """See `Store.close`. After a fork the connections are left alone, as SQLite asks."""
        if os.getpid() != self._process:
            self._closed = True
            return
        with self.write_lock, self.read_lock:
            self._closed = True
            self._reader.close()
            while self._scanners:
                self._scanners.pop().close()
            self._drop_writer()
            if self._lock is not None:
                self._lock.release()

    def _connect_writer(self) -> sqlite3.Connection:
        """Return the writer's connection; opening it is also all there is to recovery."""
        log = self.path.with_name(f"{FILE_NAME}-wal")
        try:
            if log.exists():  # left by a crash, a failure, or readers that are still there
                rewrite(log)
        except OSError as error:
            raise StoreError(f"{log} cannot be recovered: {error}") from error
        connection = self._open("rw")
        try:
            with reading(self.path):
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON").fetchone()
                connection.execute("PRAGMA fullfsync = ON")  # macOS: past the drive's own cache
                connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
                schema.require_own(connection, self.path)
                # SQLite opens for reading what it cannot write; only a write tells.
                connection.execute(f"{schema.NO_CHANGE} WHERE false")
            # Now the log is there, under a name that SQLite would not make sure of.
            sync_names(self.path)
        except OSError as error:
            connection.close()
            raise StoreError(f"{self.path} cannot be opened for writing: {error}") from error
        except BaseException:
            connection.close()
            raise
        self._writer = connection
        return connection

    def _drop_writer(self) -> None:
        if self._writer is not None:
            with suppress(sqlite3.Error):  # what failed before may fail again; nothing is lost
                self._writer.close()
            self._writer = None

    def _open(self, mode: str) -> sqlite3.Connection:
        self._require_open()
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        with reading(self.path):
            connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA cell_size_check = ON")
                schema.require_known(connection, self.path)
            except BaseException:
                connection.close()
                raise
            return connection

    def _require_there(self) -> None:
        if self.path.is_file():
            return
        is_left_over = self._directory.is_dir() and occupied(self._directory)
        if self.path.is_file():  # it has just been created
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
