"""What a store keeps that is not of the chain: the pool, and addresses of peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cairn.store.database import Database
from cairn.store.interface import Pooled, require_key

_ADD: Final = "INSERT OR IGNORE INTO pool (id, entry, received) VALUES (?, ?, ?)"


class StoredPool:
    """The pool, in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, pooled: Sequence[Pooled], key: str | None = None) -> None:
        """See `Store.pool_add`."""
        self._database.require_writable()  # before the lock, which a fork may have left taken
        with self._database.write_lock:
            if key is not None:
                require_key(pooled, key, self.key(key))
            with self._database.writing("the entries may or may not be pooled") as connection:
                connection.execute("BEGIN IMMEDIATE")
                if key is not None:
                    connection.execute("INSERT INTO pool_keys VALUES (?, ?)", (key, pooled[0].id))
                connection.executemany(_ADD, pooled)
                connection.execute("COMMIT")

    def remove(self, ids: Sequence[bytes]) -> None:
        """See `Store.pool_remove`."""
        with self._database.writing("the entries may or may not be pooled") as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM pool WHERE id = ?", [(one,) for one in ids])
            connection.execute("COMMIT")

    def all(self) -> list[Pooled]:
        """See `Store.pool`."""
        rows = self._database.read_all("SELECT id, entry, received FROM pool ORDER BY place")
        return [Pooled(*self._database.typed(row, bytes, bytes, int)) for row in rows]

    def has(self, entry_id: bytes) -> bool:
        """See `Store.pool_has`."""
        row = self._database.read_one("SELECT 1 FROM pool WHERE id = ?", (entry_id,))
        return row is not None

    def key(self, key: str) -> bytes | None:
        """See `Store.pool_key`."""
        row = self._database.read_one("SELECT id FROM pool_keys WHERE key = ?", (key,))
        return None if row is None else bytes(*self._database.typed(row, bytes))


class StoredAddresses:
    """The addresses of peers, in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[str]:
        """See `Store.addresses`."""
        return [
            url for (url,) in self._database.read_all("SELECT url FROM addresses ORDER BY place")
        ]

    def set(self, urls: Sequence[str]) -> None:
        """See `Store.set_addresses`."""
        with self._database.writing("the addresses may or may not be kept") as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM addresses")
            connection.executemany("INSERT INTO addresses (url) VALUES (?)", [(u,) for u in urls])
            connection.execute("COMMIT")
