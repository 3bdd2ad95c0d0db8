"""Finding a block of the tail: an index in memory that follows what the database holds.

On a work ledger the end of the chain may be replaced. So what is kept of the tail is held to it
again before it is used.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cairn.core.errors import DamagedError
from cairn.core.hasher import Hasher
from cairn.core.header import LIMIT_63
from cairn.core.merkle import HASH_BYTES
from cairn.core.tree import as_hashes
from cairn.store.database import Database
from cairn.store.flat import Sealed, entry_ids
from cairn.store.hash_index import HashIndex
from cairn.store.manifest import read_manifest
from cairn.store.runs import RUN_BLOCKS
from cairn.store.stored_runs import StoredRuns

_HASH_BEFORE: Final = f"""SELECT substr(hashes, (?1 - 1 - first) * {HASH_BYTES} + 1, {HASH_BYTES})
    FROM runs WHERE first < ?1 ORDER BY first DESC LIMIT 1"""


class Candidates(NamedTuple):
    """Where hashes may be found, as far as their first bits tell; all as it is at one moment."""

    positions: list[list[int]]
    """For each hash those in the tail, in order, each once."""
    end: tuple[int, bytes | None]
    """Position after the last block of the tail, and its hash: while they stay, so does the tail,
    unless some of it is sealed."""
    files: Sequence[Sealed]
    """The manifest: what is not in the tail is there."""


class Indexed(NamedTuple):
    """Some hashes of runs, for an index."""

    last: int
    """Where the last of the runs begins."""
    stop: int
    """Where it ends."""
    positions: NDArray[np.int64]
    hashes: NDArray[np.uint8]


ReadIndexed = Callable[[sqlite3.Connection, int], Iterator[Indexed]]
"""What reads for an index the runs that begin after a position."""


class TailIndex:
    """An index of what the tail holds, which follows it."""

    def __init__(self, database: Database, read: ReadIndexed) -> None:
        self._database = database
        self._read = read
        self.forget()

    def find(self, hashes: Sequence[bytes]) -> Candidates:
        """Look for hashes (32 bytes each).

        Reads those that came since the last search, and keeps prefixes. A stored hash that was
        changed after it was read is not found any more.

        Raises:
            DamagedError: what `read` raises, or the tail and the files do not go together.
        """

        def find(connection: sqlite3.Connection) -> Candidates:
            self._follow(connection)
            found = [list(dict.fromkeys(some)) for some in self._hashes.candidates(hashes)]
            return Candidates(found, (self._stop, self._last_hash), self._files)

        return self._database.read(find)

    def forget(self) -> None:
        """Let go of what is remembered: somebody else has changed what is stored."""
        with self._database.read_lock:  # which all that is here is owned by
            self._moment: tuple[sqlite3.Connection, int] | None = None
            """When it was last read: what no other connection has written to has not changed."""
            self._files: list[Sealed] = []
            """The manifest then."""
            self._begin_anew(None)

    def _begin_anew(self, begin: int | None) -> None:
        self._hashes = HashIndex()
        self._begin = begin
        """The first block of the tail."""
        self._last = -LIMIT_63
        """Where the last run begins that is in the index."""
        self._stop = -LIMIT_63
        """Where that ends."""
        self._last_hash: bytes | None = None
        """The hash of its last block."""
        self._final = 0
        """What was final when it was read."""

    def _follow(self, connection: sqlite3.Connection) -> None:
        """Let what is in memory be as it is now, all at one moment. Requires the read lock."""
        # Asked before all else, so that what is written meanwhile makes it another one next time.
        moment = connection, *connection.execute("PRAGMA data_version").fetchone()
        if moment == self._moment:
            return
        connection.execute("BEGIN")
        try:
            self._follow_runs(connection)
            self._files = self._followed_files(connection)
            if self._files and self._begin is not None and self._begin < self._files[-1].stop:
                raise DamagedError(
                    f"{self._database.path}: block {self._begin} is in a file and in the tail"
                )
        finally:
            connection.rollback()
        self._moment = moment

    def _follow_runs(self, connection: sqlite3.Connection) -> None:
        """Let go of what has gone and take in what has come. Requires a transaction.

        As long as its last block is there, so is all before it. Else at least what was final is.
        """
        query = "SELECT (SELECT min(first) FROM runs), (SELECT max(final) FROM head)"
        begin, final = connection.execute(query).fetchone()
        if begin is None or self._begin is None or begin < self._begin:
            self._begin_anew(begin)
        elif begin > self._begin:  # what lies before is of sealed blocks now
            self._begin = begin
            self._hashes.drop_before(begin)
        if self._last_hash != _hash_before(connection, self._stop):
            query = "SELECT max(first) FROM runs WHERE first <= ?"
            (first,) = connection.execute(query, (self._final,)).fetchone()
            if first is None:
                self._begin_anew(begin)
            else:
                self._hashes.drop(first)
                self._last, self._stop = first - 1, first
        self._final = final or 0
        for some in self._read(connection, self._last):
            is_new = some.positions >= self._stop
            self._hashes.add(some.positions[is_new], some.hashes[is_new])
            self._last, self._stop = some.last, max(some.stop, self._stop)
        self._last_hash = _hash_before(connection, self._stop)

    def _followed_files(self, connection: sqlite3.Connection) -> list[Sealed]:
        """Return the manifest, by what was known of it: files are only ever added to it."""
        known = self._files
        start = known[-1].first if known else -LIMIT_63
        found = read_manifest(self._database, connection, start)
        if not known:
            return found
        if found[:1] != known[-1:]:
            return read_manifest(self._database, connection)
        return [*known, *found[1:]] if len(found) > 1 else known


def read_hashes(
    database: Database, connection: sqlite3.Connection, after: int
) -> Iterator[Indexed]:
    """Yield the hashes of the runs that begin after a position."""
    query = "SELECT first, hashes FROM runs WHERE first > ? ORDER BY first"
    with closing(connection.execute(query, (after,))) as rows:
        while runs := rows.fetchmany(RUN_BLOCKS):
            for row in runs:
                database.typed(row, int, bytes)
            firsts, columns = zip(*runs, strict=True)
            lengths = np.array([len(column) // HASH_BYTES for column in columns])
            whole = (c[: n * HASH_BYTES] for c, n in zip(columns, lengths, strict=True))
            hashes = as_hashes(b"".join(whole))
            begins = np.array(firsts) - np.cumsum(lengths) + lengths
            positions = np.repeat(begins, lengths) + np.arange(len(hashes))
            yield Indexed(firsts[-1], firsts[-1] + int(lengths[-1]), positions, hashes)


def read_ids(
    runs: StoredRuns, hasher: Hasher, connection: sqlite3.Connection, after: int
) -> Iterator[Indexed]:
    """Yield the ids of the entries in the runs that begin after a position."""
    end = 0
    while True:
        segments, last = runs.next(after + 1, LIMIT_63 - 1, end, connection)
        for segment in segments:
            ids, places = entry_ids(segment, hasher)
            positions = places.astype(np.int64) + segment.start
            begin = last if len(segments) == 1 else segment.start
            yield Indexed(begin, segment.stop, positions, ids)
        if not segments:
            return
        after, end = last, segments[-1].stop


def _hash_before(connection: sqlite3.Connection, position: int) -> bytes | None:
    """Return the stored hash of the block before `position`, if there is one in the tail."""
    (found,) = connection.execute(_HASH_BEFORE, (position,)).fetchone() or (None,)
    return found
