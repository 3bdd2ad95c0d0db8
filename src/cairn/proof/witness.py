"""A witness: it cosigns the checkpoint of a log only if that extends the one it cosigned before.

What is asked and answered is bytes; who serves them, or sends them, does the rest of HTTP.

Source: C2SP tlog-witness (add-checkpoint, and the checkpoint for monitors).
"""

from __future__ import annotations

import logging
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from cairn.core.errors import ProofError, StoreError
from cairn.core.header import LIMIT_63
from cairn.core.merkle import EMPTY_ROOT, HASH_BYTES
from cairn.core.proofs import check_consistency
from cairn.proof.checkpoint import Checkpoint
from cairn.proof.memory import Memory, keep_evidence
from cairn.proof.note import (
    MAX_NOTE,
    Algorithm,
    Note,
    Signature,
    SigningKey,
    UnknownSignerError,
    VerifierKey,
    parse_signatures,
    unbase64,
)

MAX_BODY: Final = MAX_NOTE // 2
"""Bytes of a request, at most: the note that is remembered has one more signature."""
MAX_PROOF: Final = 63
"""Hashes of a consistency proof, at most."""
MAX_EVIDENCE: Final = 100
"""Files of evidence against one log."""
TRIES: Final = 10
"""Times that another request may be faster."""
PLAIN: Final = "text/plain; charset=utf-8"
SIZE: Final = "text/x.tlog.size"
"""Media type of the size that a witness is at."""

log = logging.getLogger(__name__)


class Request(NamedTuple):
    """A request to cosign a checkpoint."""

    old_size: int
    """Leaves of the tree that the witness has cosigned last; 0 if none."""
    proof: tuple[bytes, ...]
    """That the tree of the checkpoint begins with it: hashes of 32 bytes, as RFC 9162 has them."""
    note: Note
    """The checkpoint, signed by the log."""

    @classmethod
    def parse(cls, body: bytes) -> Request:
        """Read the body of a request.

        Raises:
            ProofError: it is none, or is past a limit.
        """
        if len(body) > MAX_BODY:
            raise ProofError(f"a request may have {MAX_BODY} bytes")
        head, _, note = body.partition(b"\n\n")
        first, *lines = head.decode("latin-1").split("\n")
        found = re.fullmatch("old (0|[1-9][0-9]{0,18})", first)
        if found is None:
            raise ProofError(f"a request begins with `old` and a size, found {first!r:.80}")
        if len(lines) > MAX_PROOF:
            raise ProofError(f"a proof has {MAX_PROOF} hashes at most, found {len(lines)}")
        return cls(int(found[1]), tuple(map(_hash, lines)), Note.parse(note))

    @property
    def body(self) -> bytes:
        """The bytes to be sent."""
        lines = [f"old {self.old_size}", *(b64encode(sibling).decode() for sibling in self.proof)]
        return "\n".join([*lines, "", str(self.note)]).encode()


class Answer(NamedTuple):
    """What a witness answers, in terms of HTTP."""

    status: HTTPStatus
    body: bytes
    media_type: str = PLAIN


class Witness:
    """Decides what is cosigned. Any number of threads, and of processes with one memory, may ask.

    Two heads that it cosigns, ever, are consistent; the later is not smaller, nor dated earlier.
    This holds for as long as `memory` is kept: a copy that is put back makes it sign a fork.
    """

    def __init__(
        self,
        key: SigningKey,
        logs: Mapping[str, Sequence[VerifierKey]],
        memory: Memory,
        evidence: Path,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Cosign with `key` for `logs`: the keys that are trusted for each origin.

        What `memory` holds is for witnesses alone. Contradictions are written to the folder
        `evidence`. `clock` tells seconds since the Unix epoch.

        Raises:
            ProofError: a key is not of the kind that is asked for.
        """
        if not key.verifier.is_witness:
            raise ProofError(f"the key of {key.verifier.name} is not that of a witness")
        for one in (key for keys in logs.values() for key in keys):
            if one.algorithm != Algorithm.ED25519:
                raise ProofError(f"the key of {one.name} is not one that logs sign with")
        self._key = key
        self._logs = logs
        self._memory = memory
        self._evidence = evidence
        self._clock = clock
        self._origins = {origin_hash(origin): origin for origin in logs}
        self._kept: set[tuple[str, str]] = set()  # reasons and texts that were written down

    @property
    def verifier(self) -> VerifierKey:
        """What others check its cosignatures by."""
        return self._key.verifier

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer a request to cosign a checkpoint.

        200 with the cosignature; 400: no request; 404: a log not known here; 403: not signed by it;
        409 with the size the witness is at; 422: not consistent; 503: the memory fails.
        """
        try:
            old_size, proof, note = Request.parse(body)
        except ProofError as error:
            return _refusal(HTTPStatus.BAD_REQUEST, error)
        origin = note.text.partition("\n")[0]
        if origin not in self._logs:
            return _refusal(HTTPStatus.NOT_FOUND, f"{origin!r:.200} is no log that is known here")
        try:
            signers = note.verified(self._logs[origin])
            if not signers:
                raise UnknownSignerError(note.signers())
        except ProofError as error:
            return _refusal(HTTPStatus.FORBIDDEN, error)
        try:
            checkpoint = Checkpoint.parse(note.text)
        except ProofError as error:
            if note.text.split("\n")[1] == "0":  # the empty tree, and another root than it has
                return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, error)
            return _refusal(HTTPStatus.BAD_REQUEST, error)
        if old_size > checkpoint.size:
            return _refusal(HTTPStatus.BAD_REQUEST, f"{old_size} is past {checkpoint.size}")
        one_each = [next(filter(key.has_made, note.signatures)) for key in signers]
        try:
            return self._extend(checkpoint, old_size, proof, Note(note.text, tuple(one_each)))
        except StoreError as error:
            log.error("%s: %s", origin, error)  # noqa: TRY400 - where it failed is no news
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the witness cannot use its memory")

    def checkpoint(self, origin_hash: str) -> str | None:
        """Return the checkpoint that was cosigned last for a log, or None.

        It is signed by the log and the witness. `origin_hash` is that of the log: 64 hex digits.

        Raises:
            StoreError: the memory fails.
        """
        origin = self._origins.get(origin_hash)
        return None if origin is None else self._memory.last(origin)

    def _extend(
        self, checkpoint: Checkpoint, old_size: int, proof: Sequence[bytes], note: Note
    ) -> Answer:
        """Cosign `checkpoint`, of which the log has signed `note`, if it extends the last one.

        Raises:
            StoreError: it is not known whether that is remembered: nobody sees the cosignature.
        """
        for _ in range(TRIES):
            before = self._memory.last(checkpoint.origin)
            last, dated = self._remembered(checkpoint.origin, before)
            forked = checkpoint.size == last.size and checkpoint.root != last.root
            if before is not None and forked:
                why = f"two trees of {last.size} leaves are signed"
                self._keep(checkpoint.origin, before, note, why, MAX_EVIDENCE)
            if old_size != last.size:
                return Answer(HTTPStatus.CONFLICT, b"%d\n" % last.size, SIZE)
            try:
                check_consistency(proof, old_size, checkpoint.size, last.root, checkpoint.root)
            except ProofError as error:
                if before is not None and not forked:  # anybody can send a wrong proof
                    self._keep(checkpoint.origin, before, note, str(error), MAX_EVIDENCE // 2)
                return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, error)
            cosignature = self._key.sign(note.text, time=max(1, int(self._clock()), dated))
            after = Note(note.text, (*note.signatures, cosignature))
            if self._memory.replace(checkpoint.origin, before, str(after)):
                return Answer(HTTPStatus.OK, str(cosignature).encode())
            # another request was faster: nobody has seen what was signed here
        return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests for this log at once")

    def _remembered(self, origin: str, text: str | None) -> tuple[Checkpoint, int]:
        """Return the checkpoint that was cosigned last, and the time of it in seconds.

        Raises:
            StoreError: what is remembered is not what was written.
        """
        if text is None:
            return Checkpoint(origin, 0, EMPTY_ROOT), 0
        try:
            note = Note.parse(text)
            signers = note.verified([self.verifier, *self._logs[origin]])
            if not signers:  # the witness, and the log, may have new keys: one is enough
                raise UnknownSignerError(note.signers())
            return Checkpoint.parse(note.text), signers.get(self.verifier, 0)
        except ProofError as error:
            raise StoreError(f"what is remembered was damaged: {error}") from error

    def _keep(self, origin: str, remembered: str, found: Note, why: str, most: int) -> None:
        """Write down a contradiction, if it is a new one and there are less than `most`."""
        folder = self._evidence / origin_hash(origin)
        what = (why, found.text)
        if what in self._kept or len(list(folder.glob("*.txt"))) >= most:
            return
        try:
            path = keep_evidence(folder, remembered, str(found), why)
        except StoreError as error:
            log.error("%s: %s; %s", origin, why, error)  # noqa: TRY400
        else:
            self._kept.add(what)
            log.warning("%s: %s: %s", origin, why, path)


def origin_hash(origin: str) -> str:
    """Return what a log is called in the paths of a witness: 64 hex digits."""
    return sha256(origin.encode()).hexdigest()


def cosignatures(answer: bytes, note: Note, keys: Iterable[VerifierKey]) -> list[Signature]:
    """Return the latest of the signatures in a witness's answer by each of `keys`, checked.

    `note` is what it was asked to cosign.

    Raises:
        ProofError: it is no answer, or one that claims to be by `keys` is not.
    """
    if len(answer) > MAX_NOTE:
        raise ProofError(f"an answer of {len(answer)} bytes is past the limit, {MAX_NOTE}")
    try:
        found = parse_signatures(answer.decode())
    except UnicodeDecodeError as error:
        raise ProofError(f"signatures are UTF-8: {error}") from None
    witnesses = Note(note.text, found).verified(key for key in keys if key.is_witness)
    for key, dated in witnesses.items():
        if not 0 < dated < LIMIT_63:
            raise ProofError(f"the cosignature by {key.name} is dated {dated}")
    return [
        max((one for one in found if key.has_made(one)), key=lambda one: one.data)
        for key in witnesses
    ]


def _hash(line: str) -> bytes:
    found = unbase64(line)
    if found is None or len(found) != HASH_BYTES:
        raise ProofError(f"a line of a proof is a hash in base64, found {line!r:.80}")
    return found


def _refusal(status: HTTPStatus, why: object) -> Answer:
    return Answer(status, f"{why}\n".encode(errors="replace"))
