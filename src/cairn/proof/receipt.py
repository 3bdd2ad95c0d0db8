"""Receipts: small files, each of which proves an entry to whoever trusts a key, with nothing else.

entry → data root → header → tree → signed checkpoint. docs/format.md describes them.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from cairn.core.canonical import canonical, parse
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.errors import EntryError, ProofError
from cairn.core.genesis import MAX_DEPTH
from cairn.core.header import FORMAT_VERSION, HEADER_BYTES, LIMIT_63, Header
from cairn.core.merkle import HASH_BYTES
from cairn.core.proofs import check_inclusion
from cairn.proof.checkpoint import Checkpoint, Policy, SignedCheckpoint, hinted, ledger_of
from cairn.proof.note import (
    MAX_SIGNATURES,
    Note,
    UnknownSignerError,
    VerifierKey,
    decoded,
    unbase64,
)

FORMAT: Final = "receipt/1"
TLOG_PROOF: Final = "c2sp.org/tlog-proof@v1"
"""The first line of the other form, C2SP tlog-proof."""
MAX_RECEIPT: Final = 2**26
"""Bytes of a receipt, at most: an entry as large as the default limits allow, all of it escaped."""
MAX_HASHES: Final = 64
"""Hashes of an inclusion proof, at most."""

_MEMBERS: Final = {
    "cairn": str,
    "index": int,
    "entry": int,
    "salt": str,
    "data": str,
    "entry_proof": list,
    "header": str,
    "block_proof": list,
    "checkpoint": str,
    "keys": list,
}
_BESIDE: Final = ("entry", "salt", "data", "entry_proof", "header", "keys")
"""What a tlog-proof has no place for, and takes as extra data."""


class UntrustedSignerError(UnknownSignerError):
    """A receipt proves its entry, to whoever trusts a signer that is not trusted here.

    `keys` are the verifier keys that the receipt says are theirs.
    """

    def __init__(self, signers: Sequence[str], keys: Sequence[VerifierKey]) -> None:
        super().__init__(signers)
        self.args = signers, keys
        self.keys = tuple(keys)

    def __str__(self) -> str:
        named = {f"{key.name}+{key.id.hex()}": str(key) for key in self.keys}
        shown = ", ".join(named.get(signer, signer) for signer in self.signers)
        return f"no trusted key has signed it; it is signed by {shown or 'none'}"


@dataclass(frozen=True)
class Proved:
    """What a receipt proves."""

    entry: Entry
    header: Header
    signed: SignedCheckpoint

    @property
    def ledger(self) -> str:
        """The id of the ledger: the hash of its genesis, 64 hex digits."""
        return ledger_of(self.signed.checkpoint.origin)


@dataclass(frozen=True)
class Receipt:
    """A proof that an entry is in a ledger, as it was read; `check` says whether it holds."""

    index: int
    """Position of the block."""
    place: int
    """Which of the block's entries, from 0."""
    entry: Entry
    entry_proof: tuple[bytes, ...]
    """That the entry is below the data root."""
    header: bytes
    """104 bytes."""
    block_proof: tuple[bytes, ...]
    """That the block is in the tree."""
    checkpoint: str
    """A signed note."""
    keys: tuple[str, ...] = ()
    """Verifier keys of those who signed: to name them, not to trust them."""

    def check(self, policy: Policy) -> Proved:
        """Return what it proves to those who believe whom `policy` says.

        Raises:
            UntrustedSignerError: all else holds, but no trusted key of the ledger has signed.
            ProofError: it proves nothing; the message says why.
        """
        header = Header.unpack(self.header)
        if header.version != FORMAT_VERSION:
            raise ProofError(f"format version {header.version} is not known")
        if header.index != self.index:
            raise ProofError(f"the header is of block {header.index}, not {self.index}")
        if header.count == 1 and len(self.entry.to_bytes()) != header.size:
            raise ProofError(f"the entry has {len(self.entry.to_bytes())} bytes, not {header.size}")
        try:
            check_inclusion(
                self.entry_proof, self.place, header.count, self.entry.id, header.data_root
            )
        except ProofError as error:
            raise ProofError(f"the entry is not in the block: {error}") from None
        note = Note.parse(self.checkpoint)
        checkpoint = Checkpoint.parse(note.text)
        genesis = ledger_of(checkpoint.origin)
        if self.index == 0 and header.hash.hex() != genesis:
            raise ProofError(f"block 0 has hash {header.hash.hex()}, not {genesis}")
        try:
            check_inclusion(
                self.block_proof, self.index, checkpoint.size, header.hash, checkpoint.root
            )
        except ProofError as error:
            raise ProofError(f"the block is not in the ledger: {error}") from None
        try:
            signed = policy.open(note)
        except UnknownSignerError as error:
            raise UntrustedSignerError(error.signers, hinted(self._hints(), note)) from None
        return Proved(self.entry, header, signed)

    def _hints(self) -> Iterator[VerifierKey]:
        for text in self.keys:
            with suppress(ProofError):  # of a kind that is not known here, for one
                yield VerifierKey.parse(text)

    def to_json(self) -> str:
        """Return the file: a JSON object, over some lines for people to read."""
        return json.dumps(self._members(), ensure_ascii=False, indent=1) + "\n"

    def to_tlog_proof(self) -> str:
        """Return the same as a C2SP tlog-proof, of which each entry of the log is a header."""
        members = self._members()
        beside = {name: members[name] for name in _BESIDE}
        extra = json.dumps(beside, ensure_ascii=False, separators=(",", ":"))
        lines = [TLOG_PROOF, f"extra {b64encode(extra.encode()).decode()}", f"index {self.index}"]
        lines += (b64encode(sibling).decode() for sibling in self.block_proof)
        return "\n".join([*lines, "", self.checkpoint])

    def _members(self) -> dict[str, Any]:
        return {
            "cairn": FORMAT,
            "index": self.index,
            "entry": self.place,
            "salt": self.entry.salt.hex(),
            "data": self.entry.canonical.decode(),
            "entry_proof": [sibling.hex() for sibling in self.entry_proof],
            "header": self.header.hex(),
            "block_proof": [sibling.hex() for sibling in self.block_proof],
            "checkpoint": self.checkpoint,
            "keys": list(self.keys),
        }

    @classmethod
    def parse(cls, data: bytes | str) -> Receipt:
        """Read a receipt in either form.

        Raises:
            ProofError: it is none.
        """
        text = decoded("a receipt", data, MAX_RECEIPT)
        is_tlog_proof = text.startswith(TLOG_PROOF)
        return cls._of(_tlog_proof(text) if is_tlog_proof else _object(text))

    @classmethod
    def _of(cls, members: dict[str, Any]) -> Receipt:
        if set(members) != set(_MEMBERS):
            raise ProofError(f"a receipt has the members {', '.join(_MEMBERS)}")
        for name, kind in _MEMBERS.items():
            if type(members[name]) is not kind:
                raise ProofError(f"{name} of a receipt is no {kind.__name__}")
        if members["cairn"] != FORMAT:
            raise ProofError(f"{members['cairn']!r:.80} is not known; this is {FORMAT!r}")
        for name in ("index", "entry"):
            if not 0 <= members[name] < LIMIT_63:
                raise ProofError(f"{name} of a receipt is {members[name]}")
        keys = members["keys"]
        if len(keys) > MAX_SIGNATURES or not all(isinstance(key, str) for key in keys):
            raise ProofError(f"keys of a receipt are strings, {MAX_SIGNATURES} at most")
        return cls(
            index=members["index"],
            place=members["entry"],
            entry=Entry(_unhex(members, "salt", SALT_BYTES), _canonical(members["data"])),
            entry_proof=_hashes(members, "entry_proof"),
            header=_unhex(members, "header", HEADER_BYTES),
            block_proof=_hashes(members, "block_proof"),
            checkpoint=members["checkpoint"],
            keys=tuple(keys),
        )


def _object(text: str) -> dict[str, Any]:
    try:
        value = parse(text)
    except EntryError as error:
        raise ProofError(f"a receipt is a JSON object: {error}") from None
    if not isinstance(value, dict):
        raise ProofError(f"a receipt is a JSON object, found a {type(value).__name__}")
    return value


def _tlog_proof(text: str) -> dict[str, Any]:
    """Return the members of a receipt that was written as a tlog-proof."""
    head, _, checkpoint = text.partition("\n\n")
    first, extra, index, *proof = [*head.split("\n"), "", ""]
    if len(proof) > MAX_HASHES + 2:
        raise ProofError(f"a tlog-proof has {len(proof) - 2} hashes, too many")
    hashes = [unbase64(line) for line in proof[:-2]]
    beside = unbase64(extra.removeprefix("extra "))
    if first != TLOG_PROOF or beside is None or None in hashes:
        raise ProofError("a tlog-proof has lines of extra data, an index and hashes in base64")
    if not re.fullmatch(r"index (0|[1-9][0-9]{0,18})", index) or not extra.startswith("extra "):
        raise ProofError(f"not the index of a tlog-proof: {index!r:.80}")
    try:
        members = _object(beside.decode())
    except UnicodeDecodeError as error:
        raise ProofError(f"the extra data of a tlog-proof is UTF-8: {error}") from None
    if set(members) != set(_BESIDE):
        raise ProofError(f"the extra data of a tlog-proof has the members {', '.join(_BESIDE)}")
    return members | {
        "cairn": FORMAT,
        "index": int(index.removeprefix("index ")),
        "block_proof": [sibling.hex() for sibling in hashes if sibling is not None],
        "checkpoint": checkpoint,
    }


def _canonical(text: str) -> bytes:
    """Return the bytes of `text`, which must be canonical JSON: whoever shows it relies on that."""
    try:
        found = canonical(parse(text), depth=MAX_DEPTH)
    except EntryError as error:
        raise ProofError(f"the data of a receipt is not JSON: {error}") from None
    if found != text.encode():
        raise ProofError("the data of a receipt is JSON, but not in its canonical form")
    return found


def _hashes(members: dict[str, Any], name: str) -> tuple[bytes, ...]:
    listed = members[name]
    if len(listed) > MAX_HASHES:
        raise ProofError(f"{name} of a receipt has {len(listed)} hashes, too many")
    return tuple(_unhex({name: sibling}, name, HASH_BYTES) for sibling in listed)


def _unhex(members: dict[str, Any], name: str, size: int) -> bytes:
    text = members[name]
    if isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{2 * size}}}", text):
        return bytes.fromhex(text)
    raise ProofError(f"{name} of a receipt has {2 * size} lower-case hex digits")
