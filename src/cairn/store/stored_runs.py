"""The runs of the tail, read from their rows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any, Final

from cairn.core.errors import DamagedError, FormatError
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment
from cairn.store.database import Database
from cairn.store.runs import Row, joined
from cairn.store.schema import COLUMNS

SCAN_BLOCKS: Final = 8192
"""Blocks in a scanned segment, about: enough to make the cost of a segment small."""
SCAN_BYTES: Final = 8 * 2**20
"""Bytes in a scanned segment, about: fits a cache, and bounds memory."""

_TYPES: Final = (int, bytes, bytes, bytes, bytes)
_RUN_OF: Final = f"SELECT {COLUMNS} FROM runs WHERE first <= ? ORDER BY first DESC LIMIT 1"
_RUNS: Final = f"SELECT {COLUMNS} FROM runs WHERE first >= ? AND first < ? ORDER BY first"


class StoredRuns:
    """The runs in a database, as segments. A row that is none raises `DamagedError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def holding(self, position: int) -> Segment | None:
        """Return the run that holds a block, or None where there is no such block."""
        row = self._database.read_one(_RUN_OF, (position,))
        if row is None:
            return None
        run = self.segment(row)
        return run if position < run.stop else None

    def require(self, connection: sqlite3.Connection, position: int) -> Segment:
        """Return the run that holds a block which has to be there."""
        run = self.segment(connection.execute(_RUN_OF, (position,)).fetchone())
        if position >= run.stop:
            raise DamagedError(f"{self._database.path}: block {position} is missing")
        return run

    def next(
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
                    rows.append(self._database.typed(row, *_TYPES))
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

    def segment(self, row: tuple[Any, ...] | None, end: int = 0) -> Segment:
        """Return the run in a row, which may not begin before `end`, where the one before ended."""
        return self._segment(self._database.typed(row, *_TYPES), end)

    def _segment(self, row: Row, end: int) -> Segment:
        path = self._database.path
        first, hashes, headers, offsets, data = row
        if first < end:
            raise DamagedError(f"{path}: a run begins at block {first}, before {end}")
        try:
            return Segment.from_bytes(first, headers, hashes, data, offsets)
        except FormatError as error:
            raise DamagedError(f"{path}: damaged run at block {first}: {error}") from None
