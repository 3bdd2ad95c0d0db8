"""The schema of the database, and how one is told to be ours."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from cairn.core.errors import DamagedError, StoreError
from cairn.core.header import LINK, NO_HASH
from cairn.core.merkle import HASH_BYTES

APPLICATION_ID: Final = 0x4361726E  # "Carn": what `file` shows
SCHEMA_VERSION: Final = 4

COLUMNS: Final = "first, hashes, headers, offsets, data"
"""Of a run, as `cairn.store.runs.Row` has them."""
NO_CHANGE: Final = "UPDATE head SET length = length"
"""A statement that writes, and changes nothing."""

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
CREATE VIEW appends AS SELECT {COLUMNS} FROM runs;
CREATE TRIGGER append INSTEAD OF INSERT ON appends BEGIN  -- the only way that Cairn writes
    SELECT RAISE(ABORT, 'the blocks do not follow the recorded head') FROM head
        WHERE new.first <> length OR substr(new.headers, {LINK.start + 1}, {HASH_BYTES}) <> hash;
    INSERT INTO runs ({COLUMNS})
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


def create(path: Path) -> None:
    """Make the database `path`, of a chain with no block. Not durable by itself.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
            connection.execute("INSERT INTO head VALUES (0, ?, NULL, NULL)", (NO_HASH,))
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be made: {error}") from error


def require_known(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse to read what is no ledger, or of another version of the schema.

    Raises:
        DamagedError: it is no ledger.
        StoreError: it has another version.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise DamagedError(f"{path} is a database, but not a ledger")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema {version}; this version of Cairn reads {SCHEMA_VERSION}"
        )


def require_own(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse to write through a view or trigger that is not the one made here.

    Raises:
        DamagedError: there is one.
    """
    with closing(sqlite3.connect(":memory:")) as pristine:
        pristine.executescript(SCHEMA)
        expected = pristine.execute(_OBJECTS).fetchall()
    if connection.execute(_OBJECTS).fetchall() != expected:
        raise DamagedError(f"{path}: its schema is not the one that Cairn makes")
