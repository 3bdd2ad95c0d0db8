"""What a client believes of a node: only what follows from a signed checkpoint. No I/O but memory.

Every block must be in the tree of a checkpoint that a trusted key has signed, and every checkpoint
must agree with the one that this user was shown before, by this client or another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from cairn.client import answers, wire
from cairn.client.errors import NodeError
from cairn.client.retry import Steps, Tries, answered
from cairn.core import rules
from cairn.core.block import Block
from cairn.core.errors import InconsistentError, ProofError
from cairn.core.genesis import MAX_U32, Limits
from cairn.core.proofs import (
    Nodes,
    check_consistency,
    check_inclusion,
    prove_consistency,
    prove_inclusion,
)
from cairn.core.rules import InvalidChainError, Stored
from cairn.core.tree import WIDTH
from cairn.proof.checkpoint import Checkpoint, Policy, SignedCheckpoint, hinted
from cairn.proof.keyring import Keyring
from cairn.proof.memory import keep_evidence
from cairn.proof.note import Note, UnknownSignerError, VerifierKey
from cairn.proof.receipt import Receipt, UntrustedSignerError
from cairn.proof.tiles import Tile, nodes_of, tiles_for

STALE_TRIES: Final = 3
"""Times that a checkpoint is asked for again that is older than one that was seen."""
STALE_SECONDS: Final = 0.3
"""Between these: a cache may hold one for a moment."""
MEMORY_TRIES: Final = 20
"""Times that another process may be faster to remember a checkpoint."""
KEPT_TILES: Final = 1024
"""Tiles that are held, of 8 KiB at most."""
ACKNOWLEDGED: Final = 1000
"""Acknowledged appends that are held until a checkpoint shows that they were not forgotten."""
LOOK_SECONDS: Final = 10.0
"""After how long a client that only appends looks for such a checkpoint."""

_ANY: Final = Limits(count=MAX_U32, size=MAX_U32)
"""The limits are in genesis, which a node that is asked for one block does not show."""

log = logging.getLogger(__name__)


class Trust:
    """What one client knows of the ledger on its node. Its methods are steps; see `retry`."""

    def __init__(
        self,
        url: str,
        patience: float,
        keyring: Keyring,
        *,
        keys: Sequence[VerifierKey] = (),
        witnesses: Sequence[VerifierKey] = (),
        quorum: int = 0,
    ) -> None:
        """Believe `keys`; without any, those that the user has recorded, or else the first seen.

        Raises:
            ProofError: they make no `Policy`.
        """
        self._url = url
        self._patience = patience
        self._keyring = keyring
        self._keys = tuple(keys)
        self._witnesses = tuple(witnesses)
        self._quorum = quorum
        Policy(self._keys, self._witnesses, quorum)
        self._signed: SignedCheckpoint | None = None
        self._tiles: dict[Tile, bytes] = {}
        self._acknowledged: list[Block] = []
        self._looked = time.monotonic()

    # Checkpoints

    def checkpoint(self, size: int = 1) -> Steps[SignedCheckpoint]:
        """Read a checkpoint of at least `size` blocks, check it and remember it.

        Raises:
            InconsistentError: it contradicts one that was seen before.
            UntrustedSignerError: its signer is not trusted.
            ProofError: a signature is wrong, or witnesses are missing.
        """
        signed = yield from self._read_checkpoint(size)
        for _ in range(STALE_TRIES):
            if (yield from self._remember(signed)):
                break
            signed = yield from self._read_checkpoint(size, wait=STALE_SECONDS)
        else:
            remembered = yield from self._remembered(signed.checkpoint.origin)
            why = f"the node shows {signed.checkpoint.size} blocks, fewer than it did"
            yield from self._contradicted(why, str(remembered), str(signed.note))
        self._signed, self._looked = signed, time.monotonic()
        yield from self._require_acknowledged(signed)
        return signed

    def covering(self, size: int) -> Steps[SignedCheckpoint]:
        """Return a checkpoint of at least `size` blocks: the last one, or read one."""
        if self._signed is not None and self._signed.checkpoint.size >= size:
            return self._signed
        return (yield from self.checkpoint(size))

    @property
    def size(self) -> int:
        """Blocks that the ledger is known to have; 0 before the first checkpoint."""
        return 0 if self._signed is None else self._signed.checkpoint.size

    def _read_checkpoint(self, size: int, wait: float = 0.0) -> Steps[SignedCheckpoint]:
        """Read a checkpoint of the ledger that was at this URL before.

        Not so at an address of this machine, where ledgers come and go.
        """
        request = wire.get("/checkpoint", {"covering": str(size)} if size > 1 else None)
        answer = yield from answered(request, Tries(self._patience), wait)
        if answer.status != 200:
            raise answers.refusal(request, answer)
        try:
            note = Note.parse(answer.body)
            checkpoint = Checkpoint.parse(note.text)
        except ProofError as error:
            raise answers.bad_answer(request, f"not a checkpoint: {error}") from error
        if checkpoint.size < size:
            raise answers.bad_answer(request, f"a checkpoint of {checkpoint.size} blocks only")
        is_pinned = not self._keys and not _is_loopback(self._url)
        known = (yield lambda: self._keyring.nodes.last(self._url)) if is_pinned else None
        if known not in (None, checkpoint.origin):
            why = f"another ledger answers at {self._url}"
            yield from self._contradicted(why, f"{known}\n", str(note))
        signed = yield from self._opened(checkpoint.origin, note)
        if is_pinned and known is None:
            yield lambda: self._keyring.nodes.replace(self._url, None, checkpoint.origin)
        return signed

    def _opened(self, origin: str, note: Note) -> Steps[SignedCheckpoint]:
        """Return the checkpoint, if a key that may be trusted has signed it."""
        keys: Sequence[VerifierKey] = self._keys or (yield lambda: self._trusted(origin))
        try:
            return self._policy(keys).open(note)
        except UnknownSignerError as error:
            unknown = error
        claimed = yield from self._claimed(note)
        if keys or not claimed:
            raise UntrustedSignerError(unknown.signers, claimed) from None
        signed = self._policy(claimed[:1]).open(note)
        log.warning("trusting %s, the first key seen for its ledger", claimed[0])
        yield lambda: self._keyring.nodes.replace(origin, None, str(claimed[0]))
        return signed

    def _policy(self, keys: Sequence[VerifierKey]) -> Policy:
        return Policy(tuple(keys), self._witnesses, self._quorum)

    def _trusted(self, origin: str) -> list[VerifierKey]:
        """Return the keys on record for a ledger; the first that was seen, if there are none."""
        recorded = [key for key in self._keyring.trusted(origin) if not key.is_witness]
        first = self._keyring.nodes.last(origin)
        return recorded or ([VerifierKey.parse(first)] if first else [])

    def _claimed(self, note: Note) -> Steps[list[VerifierKey]]:
        """Return the keys that the node says have signed, by a receipt that has them in full."""
        receipt = yield from self._read_receipt(0, 0)
        keys = [VerifierKey.parse(key) for key in receipt.keys]
        return [key for key in hinted(keys, note) if not key.is_witness]

    def _remembered(self, origin: str) -> Steps[str | None]:
        note: str | None = yield lambda: self._keyring.seen.last(origin)
        return note

    def _remember(self, signed: SignedCheckpoint) -> Steps[bool]:
        """Remember a checkpoint that agrees with what was; return False for one that is older."""
        origin, note = signed.checkpoint.origin, str(signed.note)
        for _ in range(MEMORY_TRIES):
            before = yield from self._remembered(origin)
            if before == note:
                return True
            if before is not None:
                old = Checkpoint.parse(Note.parse(before).text)
                if old.size > signed.checkpoint.size:
                    return False
                yield from self._require_consistent(old, before, signed)
            if (yield lambda: self._keyring.seen.replace(origin, before, note)):  # noqa: B023
                return True
        return True  # others have remembered newer ones, and held them to the same

    def _require_consistent(
        self, old: Checkpoint, before: str, signed: SignedCheckpoint
    ) -> Steps[None]:
        """Refuse a checkpoint that does not begin with the one that was seen `before`."""
        new = signed.checkpoint

        def prove(node: Nodes) -> list[bytes]:
            return prove_consistency(old.size, new.size, node)

        try:
            proof = yield from self._proof(new.size, prove)
            check_consistency(proof, old.size, new.size, old.root, new.root)
        except ProofError as error:
            why = f"the node's history is not the one that it showed before: {error}"
            yield from self._contradicted(why, before, str(signed.note))

    def _contradicted(self, why: str, remembered: str, found: str) -> Steps[None]:
        """Write down the evidence, and raise."""
        path = yield lambda: keep_evidence(self._keyring.evidence, remembered, found, why)
        raise InconsistentError(why, remembered, found, str(path))

    # Blocks

    def check(self, blocks: Sequence[Block]) -> Steps[Sequence[Block]]:
        """Return `blocks`, each of which keeps the rules and is in the signed tree.

        In rising order. Where they follow one another, they are held to their links, and only the
        last is looked up in the tree.

        Raises:
            InvalidChainError: a block is not what its hashes say, or not linked to the one before.
            InconsistentError: a block is not in the tree.
        """
        runs = _runs(blocks)
        for run in runs:
            before: Block | None = None
            for block in run:
                _require_sound(block, before)
                before = block
        if blocks:
            signed = yield from self.covering(blocks[-1].index + 1)
            for run in runs:
                yield from self._require_included(run[-1], signed)
        return blocks

    def acknowledged(self, block: Block) -> Steps[None]:
        """Hold on to a block that was recorded until a checkpoint shows it.

        Looks for one when there are many, or when it is time to. That the node cannot be reached
        just now is not this append's problem.
        """
        self._acknowledged.append(block)
        due = time.monotonic() - self._looked > LOOK_SECONDS
        if due or len(self._acknowledged) >= ACKNOWLEDGED:
            try:
                yield from self.checkpoint()
            except NodeError as error:
                self._looked = time.monotonic()
                log.warning("no checkpoint to hold appends to: %s", error)
            except ProofError as error:
                error.add_note(f"block {block.index} was acknowledged")
                raise

    def _require_acknowledged(self, signed: SignedCheckpoint) -> Steps[None]:
        """Check that what was acknowledged is there. Nothing is forgotten before it was found."""
        mine, size = self._acknowledged, signed.checkpoint.size
        for block in [block for block in mine if block.index < size]:
            yield from self._require_included(block, signed)
            mine.remove(block)
        del mine[:-ACKNOWLEDGED]

    def _require_included(self, block: Block, signed: SignedCheckpoint) -> Steps[None]:
        index, tree = block.index, signed.checkpoint

        def prove(node: Nodes) -> list[bytes]:
            return prove_inclusion(index, tree.size, node)

        try:
            proof = yield from self._proof(tree.size, prove)
            check_inclusion(proof, index, tree.size, block.stored_hash, tree.root)
        except ProofError as error:
            why = f"block {index} is not the one that was signed: {error}"
            yield from self._contradicted(why, str(signed.note), block.to_json() + "\n")

    def receipt(self, index: int, entry: int) -> Steps[Receipt]:
        """Read a receipt, and check that it proves the entry to this client."""
        receipt = yield from self._read_receipt(index, entry)
        signed = yield from self.covering(index + 1)
        note = Note.parse(receipt.checkpoint)
        origin = Checkpoint.parse(note.text).origin
        if (receipt.index, receipt.place) != (index, entry) or origin != signed.checkpoint.origin:
            raise ProofError(f"a receipt of entry {receipt.place} of block {receipt.index}")
        opened = yield from self._opened(origin, note)
        receipt.check(self._policy(opened.log_keys))
        if not (yield from self._remember(opened)):  # older than what was seen since
            yield from self._require_older(opened, signed)
        return receipt

    def _require_older(self, older: SignedCheckpoint, signed: SignedCheckpoint) -> Steps[None]:
        if older.checkpoint.size <= signed.checkpoint.size:
            old = older.checkpoint
            yield from self._require_consistent(old, str(older.note), signed)

    def _read_receipt(self, index: int, entry: int) -> Steps[Receipt]:
        request = wire.get(f"/blocks/{index}/receipt", {"entry": str(entry)} if entry else None)
        answer = yield from answered(request, Tries(self._patience))
        if answer.status != 200:
            raise answers.refusal(request, answer)
        try:
            return Receipt.parse(answer.body)
        except ProofError as error:
            raise answers.bad_answer(request, f"not a receipt: {error}") from error

    # Tiles

    def _proof(self, size: int, prove: Callable[[Nodes], list[bytes]]) -> Steps[list[bytes]]:
        """Return a proof in the tree of `size`, from tiles that the node gives.

        They are not checked: what is made of them is.
        """
        held: dict[Tile, bytes] = {}
        for tile in tiles_for(size, prove):
            held[tile] = yield from self._tile(tile)
        return prove(nodes_of(size, held.__getitem__))

    def _tile(self, tile: Tile) -> Steps[bytes]:
        data = self._tiles.pop(tile, None)
        if data is None:
            data = yield from self._read_tile(tile)
        self._tiles[tile] = data  # the last to be dropped
        while len(self._tiles) > KEPT_TILES:
            del self._tiles[next(iter(self._tiles))]
        return data

    def _read_tile(self, tile: Tile) -> Steps[bytes]:
        request = wire.get(f"/{tile.path}")
        answer = yield from answered(request, Tries(self._patience))
        if answer.status == 404 and tile.width < WIDTH:  # it may be gone since the full one came
            full = yield from self._read_tile(tile._replace(width=WIDTH))
            return full[: tile.nbytes]
        if answer.status != 200:
            raise answers.refusal(request, answer)
        if len(answer.body) != tile.nbytes:
            raise answers.bad_answer(request, f"{len(answer.body)} bytes, not {tile.nbytes}")
        return answer.body


def _runs(blocks: Iterable[Block]) -> list[list[Block]]:
    """Return `blocks` in runs of those that follow one another."""
    runs: list[list[Block]] = []
    for block in blocks:
        if runs and runs[-1][-1].index + 1 == block.index:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _require_sound(block: Block, before: Block | None) -> None:
    """Refuse a block that breaks a rule; `before` is the one before it, where that is at hand."""
    entries = tuple(entry.to_bytes() for entry in block.entries)
    stored = Stored(
        position=block.index,
        header=block.header,
        hash=block.stored_hash,
        entries=entries,
        size=sum(map(len, entries)),
        previous_hash=before.stored_hash if before else None,
        previous_timestamp=before.header.timestamp if before else None,
        limits=_ANY,
    )
    if failure := rules.first_broken(stored):
        raise InvalidChainError(failure)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def parse_keys(keys: str | Sequence[str] | None) -> list[VerifierKey]:
    """Return verifier keys that a caller gives as text.

    Raises:
        ProofError: one is none.
    """
    given = [keys] if isinstance(keys, str) else keys or []
    return [VerifierKey.parse(key) for key in given]
