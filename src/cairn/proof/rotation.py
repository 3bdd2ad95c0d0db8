"""Key changes: the old key of a ledger names the new one, in a record of the ledger.

Whoever believes the old key may so believe the new one, and everybody can see since when.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cairn.core.canonical import parse
from cairn.core.errors import EntryError, ProofError
from cairn.proof.note import Note, SigningKey, UnknownSignerError, VerifierKey

MARK: Final = '"record":"key"}'
"""What the canonical JSON of every such record ends with: what a client searches for."""
_WHAT: Final = "new key"
"""The second line of what is signed, which is the size in a checkpoint: neither is the other."""


@dataclass(frozen=True)
class KeyChange:
    """A note by the old key, a line each: origin, `new key`, and the new verifier key."""

    note: Note

    @classmethod
    def sign(cls, old: SigningKey, new: VerifierKey) -> KeyChange:
        """Let `old` name its successor, which has the same name."""
        text = f"{old.verifier.name}\n{_WHAT}\n{new}\n"
        return cls(Note(text, (old.sign(text),)))

    def to_value(self) -> dict[str, Any]:
        """Return the JSON object that is recorded."""
        return {"note": str(self.note), "record": "key"}

    @classmethod
    def of(cls, text: bytes) -> KeyChange | None:
        """Read the canonical JSON of a record; None where it is not that of a key change."""
        if not text.endswith(MARK.encode()):
            return None
        try:
            value = parse(text)
            if not isinstance(value, dict) or set(value) != {"note", "record"}:
                return None
            return cls(Note.parse(value["note"])) if isinstance(value["note"], str) else None
        except (EntryError, ProofError):
            return None

    def check(self, origin: str, keys: Iterable[VerifierKey]) -> VerifierKey:
        """Return the new key of the ledger with this origin, as one of `keys` names it.

        Raises:
            UnknownSignerError: none of `keys` has signed it.
            ProofError: it is no key change of this ledger, or a signature is wrong.
        """
        if not self.note.verified(key for key in keys if key.name == origin):
            raise UnknownSignerError(self.note.signers())
        lines = self.note.text.split("\n")
        if len(lines) != 4 or lines[:2] != [origin, _WHAT]:
            raise ProofError(f"not a change of the key of {origin}: {self.note.text!r:.200}")
        new = VerifierKey.parse(lines[2])
        if new.name != origin or new.is_witness:
            raise ProofError(f"{new} is no key of {origin}")
        return new
