"""An entry: one JSON value that a user submits, with its salt."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from cairn.core.canonical import parse
from cairn.core.merkle import leaf_hash

SALT_BYTES: Final = 16
"""128 random bits: equal values get different ids, and an erased value cannot be guessed."""


class Entry(NamedTuple):
    """Salt and canonical JSON; the bytes of an entry are the two end to end."""

    salt: bytes
    canonical: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry:
        """Split entry bytes after the salt, whatever they are: hashes judge bytes, not values."""
        return cls(data[:SALT_BYTES], data[SALT_BYTES:])

    def to_bytes(self) -> bytes:
        """Return salt ‖ canonical JSON."""
        return self.salt + self.canonical

    @property
    def id(self) -> bytes:
        """The entry's 32-byte id: its leaf hash, `SHA-256(0x00 ‖ salt ‖ canonical JSON)`."""
        return leaf_hash(self.to_bytes())

    @property
    def is_zeroed(self) -> bool:
        """Whether it is zero bytes only, and more than a salt: no entry is, as JSON has no NUL."""
        return bool(self.canonical) and not (self.canonical.strip(b"\0") or self.salt.strip(b"\0"))

    @property
    def value(self) -> Any:
        """The JSON value.

        Raises:
            EntryError: the stored bytes are not acceptable JSON (damage).
        """
        return parse(self.canonical)
