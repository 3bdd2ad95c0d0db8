"""Checkpoints: signed statements of a ledger's size and root, and whom to believe them.

Source: C2SP tlog-checkpoint.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cairn.core.errors import ProofError
from cairn.core.header import LIMIT_63
from cairn.core.merkle import EMPTY_ROOT, HASH_BYTES
from cairn.proof.note import Algorithm, Note, UnknownSignerError, VerifierKey, unbase64

ORIGIN: Final = "cairn/"
"""What the origin of every ledger begins with; the hash of its genesis follows."""


def origin_of(ledger_id: str) -> str:
    """Return the origin of the ledger whose genesis has this hash (64 hex digits)."""
    return ORIGIN + ledger_id


def ledger_of(origin: str) -> str:
    """Return the id of the ledger with this origin: 64 hex digits.

    Raises:
        ProofError: it is not that of a ledger.
    """
    found = re.fullmatch(ORIGIN + "([0-9a-f]{64})", origin)
    if found is None:
        raise ProofError(f"{origin!r:.200} is not the origin of a ledger")
    return found[1]


@dataclass(frozen=True)
class Checkpoint:
    """How many blocks a ledger has, and the root of the tree over their headers."""

    origin: str
    size: int
    root: bytes
    """32 bytes."""

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the text of a checkpoint. Extension lines are passed over.

        Raises:
            ProofError: it is not exactly one.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() != "" or "" in lines:
            raise ProofError("a checkpoint has three lines: origin, size and root")
        origin, size, encoded = lines[:3]
        if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size) or int(size) >= LIMIT_63:
            raise ProofError(f"the size of a checkpoint is a number below 2^63, found {size!r:.80}")
        root = unbase64(encoded)
        if root is None or len(root) != HASH_BYTES:
            raise ProofError(f"the root of a checkpoint is a hash in base64, found {encoded!r:.80}")
        if size == "0" and root != EMPTY_ROOT:
            raise ProofError("the root of an empty tree is the hash of nothing")
        return cls(origin, int(size), root)

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint whose signatures were checked, and who made them."""

    checkpoint: Checkpoint
    note: Note
    log_keys: tuple[VerifierKey, ...]
    """Of the ledger's own keys, those that have signed."""
    witnesses: Mapping[VerifierKey, int]
    """Of the trusted witnesses, those that have cosigned, and when: seconds since the epoch."""

    @property
    def assurance(self) -> str:
        """The rung of the ladder that it reaches: `signed`, or `witnessed`."""
        return "witnessed" if self.witnesses else "signed"


@dataclass(frozen=True)
class Policy:
    """Whom to believe: keys of the ledger, and how many of which witnesses must have cosigned."""

    keys: tuple[VerifierKey, ...] = ()
    """Any one of them will do."""
    witnesses: tuple[VerifierKey, ...] = ()
    quorum: int = 0
    """How many of `witnesses` it takes."""

    def __post_init__(self) -> None:
        wrong = [k.name for k in self.keys if k.algorithm != Algorithm.ED25519]
        wrong += [k.name for k in self.witnesses if k.algorithm != Algorithm.COSIGNATURE]
        if wrong:
            raise ProofError(f"the key of {wrong[0]} is not of the kind that is asked for")
        if len({k.public for k in self.witnesses}) != len(self.witnesses):
            raise ProofError("a witness is named twice")
        if not 0 <= self.quorum <= len(self.witnesses):
            raise ProofError(f"{self.quorum} of {len(self.witnesses)} witnesses is no quorum")

    def open(self, data: bytes | str | Note) -> SignedCheckpoint:
        """Check the signatures of a checkpoint, and return it.

        Raises:
            UnknownSignerError: none of the ledger's keys has signed it.
            ProofError: it is none, a signature is wrong, or witnesses are missing.
        """
        note = data if isinstance(data, Note) else Note.parse(data)
        checkpoint = Checkpoint.parse(note.text)
        logs = note.verified(k for k in self.keys if k.name == checkpoint.origin)
        if not logs:
            raise UnknownSignerError(note.signers())
        witnesses = note.verified(self.witnesses)
        if len(witnesses) < self.quorum:
            raise ProofError(
                f"{len(witnesses)} of {len(self.witnesses)} trusted witnesses have cosigned the "
                f"checkpoint of size {checkpoint.size}; {self.quorum} are asked for"
            )
        return SignedCheckpoint(checkpoint, note, tuple(logs), witnesses)


def hinted(keys: Iterable[VerifierKey], note: Note) -> list[VerifierKey]:
    """Return those of `keys` that have signed `note`, which names a signer in full."""
    found: dict[VerifierKey, int] = {}
    for key in dict.fromkeys(keys):
        with suppress(ProofError):
            found |= note.verified([key])
    return list(found)
