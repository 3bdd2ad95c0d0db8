"""Erasure: an entry's bytes are removed on purpose, and a later record says of which block."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from cairn.core.canonical import canonical, parse
from cairn.core.errors import EntryError
from cairn.core.merkle import HASH_BYTES

_KEYS: Final = {"id", "index", "reason", "record"}
_ENDS: Final = b'{"id":"', b'"record":"erasure"}'
"""How the JSON of every such record begins and ends; nothing else has to be parsed."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What the record of an erasure says."""

    index: int
    """Position of the block whose entry is erased."""
    id: bytes
    """The entry's id, which is the block's data root; 32 bytes."""
    reason: str
    """For people."""

    def to_value(self) -> dict[str, Any]:
        """Return the JSON object that is recorded."""
        return {**asdict(self), "id": self.id.hex(), "record": "erasure"}

    @classmethod
    def of(cls, text: bytes) -> Erasure | None:
        """Read the canonical JSON of a record; None where it is not exactly that of an erasure."""
        if not (text.startswith(_ENDS[0]) and text.endswith(_ENDS[1])):
            return None
        try:
            value = parse(text)
            if not isinstance(value, dict) or set(value) != _KEYS or canonical(value) != text:
                return None
            erasure = cls(value["index"], bytes.fromhex(value["id"]), value["reason"])
        except (EntryError, ValueError, TypeError):
            return None
        is_one = type(erasure.index) is int and isinstance(erasure.reason, str)
        is_one &= len(erasure.id) == HASH_BYTES and erasure.to_value() == value
        return erasure if is_one else None
