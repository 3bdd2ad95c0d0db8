"""Reading a database that another process may be writing, also where we may not write ourselves."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from cairn.core.errors import DamagedError, StoreError

Result = TypeVar("Result")

_WORLD: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
"""Primary error codes that say nothing against the file."""
_UNREADABLE: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR_READ,
        sqlite3.SQLITE_IOERR_SHORT_READ,
        sqlite3.SQLITE_IOERR_DATA,
        sqlite3.SQLITE_IOERR_CORRUPTFS,
    }
)
"""Input and output errors that do: what was stored cannot be read."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours: the file is damaged, or the world is in the way."""
    try:
        yield
    except UnicodeDecodeError as error:  # sqlite3 has no words for some damage
        raise DamagedError(f"{path} cannot be read: its schema is damaged") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        world = code & 0xFF in _WORLD and code not in _UNREADABLE
        kind = StoreError if world else DamagedError
        raise kind(f"{path} cannot be read: {error}") from error


class Reader:
    """A connection for reading, kept from query to query. For one thread at a time.

    Where we may not write, SQLite cannot share the log's index with a writer. While there is no log
    nobody writes, and the file is read as it lies; a query during which that changes is run again.
    """

    def __init__(self, path: Path, connect: Callable[[str], sqlite3.Connection]) -> None:
        """Read the database `path`; `connect(mode)` opens it, `mode` as in SQLite's URIs."""
        self._path = path
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._is_steady = self._has_answered = False
        self._lying: tuple[int, ...] | None = None  # what the file was when taken as it lies

    def run(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return what `query` returns for a connection; it may be run more than once.

        Raises:
            DamagedError: SQLite cannot make sense of the file.
            StoreError: something other than the file is in the way.
        """
        while True:
            connection = self._connection or self._open()
            try:
                with reading(self._path):
                    if self._is_steady:
                        self._begin(connection)
                    result = query(connection)
            except StoreError:
                if not self._moved():
                    raise
            else:
                if not self._moved():
                    self._has_answered = True
                    return result
            self.close()

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Let all queries see what there is when the first is answered, whatever is written.

        Where that cannot be, a query raises `StoreError`.
        """
        self._is_steady, self._has_answered = True, False
        try:
            yield
        finally:
            self._is_steady = False
            if self._connection is not None:
                self._connection.rollback()

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Stay at this moment; refuse to go on at another one than before."""
        if connection.in_transaction:
            return
        if self._has_answered:
            raise StoreError(f"{self._path} was written to while it was read: read it again")
        connection.execute("BEGIN")

    def close(self) -> None:
        """Let go of the connection; the next query opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        self._lying = None
        if not os.access(self._path.parent, os.W_OK) and not self._log().exists():
            self._lying = self._looks()
        self._connection = self._connect("ro" if self._lying is None else "ro&immutable=1")
        return self._connection

    def _moved(self) -> bool:
        """Whether a file that is read as it lies may have been written since it was opened."""
        return self._lying is not None and (self._log().exists() or self._looks() != self._lying)

    def _log(self) -> Path:
        return self._path.with_name(f"{self._path.name}-wal")

    def _looks(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from error
        return (status.st_ino, status.st_size, status.st_mtime_ns)
