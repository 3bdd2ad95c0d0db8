"""The manifest: which files hold sealed history, as the database has it."""

from __future__ import annotations

import sqlite3
from itertools import pairwise
from typing import Final

from cairn.core.errors import DamagedError
from cairn.core.header import LIMIT_63
from cairn.store.database import Database
from cairn.store.flat import Sealed

_MANIFEST: Final = """SELECT first, blocks, size, digest FROM segments
    WHERE first >= coalesce((SELECT max(first) FROM segments WHERE first <= ?1), ?1)
    AND first <= ?2 ORDER BY first"""


def read_manifest(
    database: Database,
    connection: sqlite3.Connection,
    start: int = -LIMIT_63,
    last: int = LIMIT_63 - 1,
) -> list[Sealed]:
    """Return the files from the one that holds position `start` on to that of `last`.

    Raises:
        DamagedError: it is not a manifest that was written here.
    """
    rows = connection.execute(_MANIFEST, (start, last)).fetchall()
    files = [Sealed(*database.typed(row, int, int, int, bytes)) for row in rows]
    for file, following in pairwise([Sealed(0, 0, 0, b""), *files]):
        if following.first < file.stop or following.blocks < 1:
            raise DamagedError(f"{database.path}: the manifest is damaged at {following}")
    return files
