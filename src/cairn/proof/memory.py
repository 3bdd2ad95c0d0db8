"""What somebody has seen: the last checkpoint of each ledger, durable, for several processes.

A client remembers what it was shown, a signer what it has signed, a witness what it has cosigned.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Final

from cairn.core.errors import StoreError

APPLICATION_ID: Final = 0x4361526D  # "CaRm"
VERSION: Final = 1
BUSY_SECONDS: Final = 10.0
"""How long to wait for another process that writes."""

_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS checkpoints (
    origin TEXT PRIMARY KEY,
    note TEXT NOT NULL       -- the signed checkpoint
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
COMMIT;
"""


class Memory:
    """The last checkpoint of each ledger. Any number of threads and processes may use it."""

    def __init__(self, path: Path) -> None:
        """Use the file `path`, which is made when there is something to remember."""
        self._path = path

    def last(self, origin: str) -> str | None:
        """Return the checkpoint that is remembered of the ledger with this origin.

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"what is remembered cannot be read: {error}") from error
        with self._connection() as connection:
            row = connection.execute(
                "SELECT note FROM checkpoints WHERE origin = ?", (origin,)
            ).fetchone()
        return None if row is None else str(row[0])

    def replace(self, origin: str, before: str | None, note: str) -> bool:
        """Remember `note`, if what was remembered is still `before`; return whether it was.

        Durable when it returns.

        Raises:
            StoreError: it cannot be written; whether it is remembered is not known.
        """
        private_folder(self._path.parent)
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if before is None:
                statement = "INSERT OR IGNORE INTO checkpoints (note, origin) VALUES (?, ?)"
                changed = connection.execute(statement, (note, origin))
            else:
                statement = "UPDATE checkpoints SET note = ? WHERE origin = ? AND note = ?"
                changed = connection.execute(statement, (note, origin, before))
            connection.execute("COMMIT")
            return changed.rowcount == 1

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection of its own: nothing is kept that a fork or a crash could spoil."""
        try:
            connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = EXTRA")  # the journal's end commits
                connection.execute("PRAGMA fullfsync = ON")
                connection.execute("BEGIN")  # one moment for all three: another may be making it
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                connection.execute("COMMIT")
                if (application, version, objects) == (0, 0, 0):
                    connection.executescript(_SCHEMA)
                elif (application, version) != (APPLICATION_ID, VERSION):
                    raise StoreError(f"{self._path} is not what Cairn remembers checkpoints in")
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error


def keep_evidence(folder: Path, remembered: str, found: str, why: str) -> Path:
    """Write down two statements of one ledger that cannot both be true; return the file.

    It is named after what it holds: the same contradiction is written down once.

    Raises:
        StoreError: it cannot be written.
    """
    text = f"{why}\n\n--- remembered ---\n{remembered}\n--- found ---\n{found}"
    path = folder / f"{sha256(text.encode()).hexdigest()[:32]}.txt"
    temporary = folder / f".{token_hex(8)}.new"
    private_folder(folder)
    try:
        if path.exists():
            return path
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(folder)
    except OSError as error:
        raise StoreError(f"the evidence cannot be written: {error}") from error
    return path


def private_folder(folder: Path) -> None:
    """Make `folder` and whatever is missing above it, durable, for nobody but the user.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
        for path in reversed(missing):  # `parents=True` gives those above the mode of the umask
            path.mkdir(mode=0o700, exist_ok=True)
            sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
