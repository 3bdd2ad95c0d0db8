"""Entries on their way into a work ledger: how they are made, and kept until a block has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from cairn.core.entry import SALT_BYTES
from cairn.core.errors import EntryError, KeyReusedError, UsageError
from cairn.core.merkle import leaf_hash, tree_hash
from cairn.ledger.writer import require_key
from cairn.store.interface import Pooled, Store

PURPOSE: Final = b"cairn/key/1"
"""What is hashed into a salt first, so that the hash is good for nothing else."""
_PLACE_BYTES: Final = 8


class Submission:
    """Makes entries of canonical JSON, and keeps them in the pool of a store.

    `clock` returns µs since the Unix epoch; `entropy(n)` returns n random bytes, for salts.
    """

    def __init__(
        self,
        store: Store,
        ledger_id: bytes,
        *,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._ledger_id = ledger_id
        self._clock = clock
        self._entropy = entropy

    def make(self, texts: Sequence[bytes], key: str | None) -> list[Pooled]:
        """Return an entry for each text, as `Ledger.make_entries` says."""
        if not texts:
            raise EntryError("there is no value to submit")
        salts = self._salts(texts, key)
        now = self._clock()
        entries = [salt + text for salt, text in zip(salts, texts, strict=True)]
        pooled = [Pooled(leaf_hash(entry), entry, now) for entry in entries]
        if key is not None:
            self._require_same(key, pooled[0].id)
        return pooled

    def keep(self, pooled: Sequence[Pooled], key: str | None) -> None:
        """Put entries into the pool, as `Ledger.keep` says."""
        if key is None:
            self._store.pool_add(pooled)
            return
        final = self._store.final()  # first: what is found below it cannot change any more
        places = self._store.find_entries([one.id for one in pooled])
        mined = {
            one.id
            for one, found in zip(pooled, places, strict=True)
            if found and found[0][0] < final
        }
        if not self._require_same(key, pooled[0].id):
            try:
                self._store.pool_add(pooled, key)
            except UsageError:
                if not self._require_same(key, pooled[0].id):
                    raise  # it was not that another thread was faster
            else:
                if mined:  # it came by another node
                    self._store.pool_remove(list(mined))
                return
        if waiting := [one for one in pooled if one.id not in mined]:
            self._store.pool_add(waiting)

    def _require_same(self, key: str, entry_id: bytes) -> bool:
        """Return whether `key` is known here; refuse it where it is that of another entry."""
        known = self._store.pool_key(key)
        if known is not None and known != entry_id:
            raise KeyReusedError(f"key {key!r} was used for another value")
        return known is not None

    def _salts(self, texts: Sequence[bytes], key: str | None) -> list[bytes]:
        """Return a salt for each text: random, or those of a key and these very texts.

        So a retry makes the same ids, whichever node it is sent to, and none of its entries can be
        taken for one of another list under the same key.
        """
        if key is None:
            drawn = self._entropy(SALT_BYTES * len(texts))
            return [drawn[at : at + SALT_BYTES] for at in range(0, len(drawn), SALT_BYTES)]
        require_key(key)
        root = tree_hash(map(leaf_hash, texts))
        begun = sha256(PURPOSE + self._ledger_id + root + key.encode())
        salts = []
        for place in range(len(texts)):
            salt = begun.copy()
            salt.update(place.to_bytes(_PLACE_BYTES, "big"))
            salts.append(salt.digest()[:SALT_BYTES])
        return salts
