"""What somebody has seen: the last checkpoint of each ledger, durable, for several processes.

A client remembers what it was shown, a signer what it has signed, a witness what it has cosigned.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
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
        if not self._path.exists():
            return None
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
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA fullfsync = ON")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                if version == 0 and application == 0:
                    connection.executescript(_SCHEMA)
                elif (application, version) != (APPLICATION_ID, VERSION):
                    raise StoreError(f"{self._path} is not what Cairn remembers checkpoints in")
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error


def keep_evidence(folder: Path, remembered: str, found: str, why: str) -> Path:
    """Write down two statements of one ledger that cannot both be true; return the new file.

    Raises:
        StoreError: it cannot be written.
    """
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = folder / f"{now}-{token_hex(4)}.txt"
    text = f"{why}\n\n--- remembered ---\n{remembered}\n--- found ---\n{found}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise StoreError(f"the evidence cannot be written: {error}") from error
    return path
