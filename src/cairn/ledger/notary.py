"""Signing a ledger's checkpoints, and making receipts under them.

A log must never sign two heads that do not agree. So what is signed is remembered beside the key,
away from the ledger, before anybody is shown it; and before the next is signed, the blocks since
then are read and validated again, and what came before must still lead to the root that was signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import cache
from typing import Any, Final, TypeVar

import numpy as np

from cairn.core.block import Block
from cairn.core.errors import (
    CairnError,
    DamagedError,
    ErasedError,
    InconsistentError,
    NoSuchBlockError,
    NotFinalError,
    NotFoundError,
    ProofError,
    StoreError,
    UsageError,
)
from cairn.core.genesis import Terms
from cairn.core.hasher import Hasher
from cairn.core.merkle import EMPTY_ROOT, HASH_BYTES, node_hash, tree_hash
from cairn.core.proofs import Nodes, check_consistency, check_inclusion, prove_inclusion, root
from cairn.core.rules import Broken, InvalidChainError
from cairn.core.tree import HEIGHT
from cairn.ledger.tree import BULK_PROOFS, Tree
from cairn.ledger.validation import Task, validate_store
from cairn.proof.checkpoint import Checkpoint, Policy, SignedCheckpoint, origin_of
from cairn.proof.keyring import Keyring
from cairn.proof.memory import keep_evidence
from cairn.proof.note import Note, SigningKey
from cairn.proof.receipt import Receipt
from cairn.proof.tiles import ENTRIES, Tile, bundle_of, nodes_of, tile_with
from cairn.store.interface import Store

T = TypeVar("T")

BULK_LEVELS: Final = 16
"""Of a tree over blocks that are read at once: 2 MiB of hashes."""
TRIES: Final = 10
"""Times that another process with the same key may be faster."""


class Notary:
    """What one ledger signs and proves."""

    def __init__(
        self, store: Store, hasher: Hasher, terms: Terms, ledger_id: str, keyring: Keyring
    ) -> None:
        self.origin: Final = origin_of(ledger_id)
        self.tree: Final = Tree(store, hasher)
        self._store = store
        self._hasher = hasher
        self._terms = terms
        self._keyring = keyring

    def sign(self) -> Note:
        """Return a signed checkpoint of all final blocks; remembered, but not published.

        Raises:
            InconsistentError: the ledger is not the one that was signed before.
            InvalidChainError: a block since then breaks a rule.
            StoreError: keys or memories cannot be read or written; or it is a work ledger that has
                yet to catch up with what was signed.
        """
        key = self.key()
        for _ in range(TRIES):
            before = self._keyring.signed.last(self.origin)
            known = self._require_consistent()
            length = self._validated(known.size if known else 0)
            text = Checkpoint(self.origin, length, self._extended(known, length)).text
            note = Note(text, (key.sign(text),))
            if str(note) == before or self._keyring.signed.replace(self.origin, before, str(note)):
                return note
        raise UsageError(f"another process keeps signing for {self.origin}")

    def key(self) -> SigningKey:
        """Return the key that signs for this ledger; made on first use.

        Raises:
            UsageError: the ledger is signed already, with a key that is not this user's.
            StoreError: it cannot be read or made.
        """
        if not self._keyring.path_of(self.origin).exists():
            with suppress(NotFoundError, ProofError):
                raise UsageError(
                    f"the ledger is signed by {', '.join(self.published().signers())}, and that "
                    "key is not here: set CAIRN_HOME to where it is"
                )
        return self._keyring.signing_key(self.origin)

    def _require_consistent(self) -> Checkpoint | None:
        """Return the longest of the checkpoints that are remembered, none of which is contradicted.

        Not only what was signed here: that memory may be gone.
        """
        longest: Checkpoint | None = None
        for note in self.remembered():
            self._require_caught_up(note)
            if broken := self.contradiction(note):
                raise self.inconsistent(note, broken)
            checkpoint = Checkpoint.parse(note.text)
            if longest is None or checkpoint.size > longest.size:
                longest = checkpoint
        return longest

    def _require_caught_up(self, note: Note) -> None:
        """Leave a work ledger that has fewer final blocks than were signed until it has as many.

        Others have them: this node was restored, or is another one of the same user.

        Raises:
            StoreError: it has fewer.
        """
        size, final = Checkpoint.parse(note.text).size, self._store.final()
        if self._terms.asert is not None and size > final:
            raise StoreError(f"{size} blocks were signed, and {final} are final here: not yet")

    def _validated(self, start: int) -> int:
        """Return how many blocks are final, having checked all from `start` on."""
        task = Task(self._terms)
        report, end = validate_store(self._store, task, executor=_Reading(), start=start)
        if report.failure is not None:
            raise InvalidChainError(report.failure)
        return end.length

    def _extended(self, known: Checkpoint | None, length: int) -> bytes:
        """Return the root of `length` blocks, made of what is known and the blocks since alone.

        What is kept of the tree may be wrong, and would make a fork of it: of that, only what leads
        to the root that was signed is used.

        Raises:
            DamagedError: nothing does.
        """
        old = known or Checkpoint(self.origin, 0, EMPTY_ROOT)
        for tree in self._trees():
            node = self._nodes(tree, old.size)
            if root(old.size, node) == old.root:
                return root(length, node)
        raise DamagedError("what is stored does not lead to the root that was signed")

    def _nodes(self, tree: Tree, old: int) -> Nodes:
        """Return nodes: of `tree` where they have none of the blocks after `old`, else of blocks.

        One that was asked for before is the same again.
        """

        @cache
        def node(level: int, index: int) -> bytes:
            start, stop = index << level, index + 1 << level
            if stop <= old:
                row, step = divmod(level, HEIGHT)
                hashes = tree.row(row, index << step, index + 1 << step)
            elif start >= old and level <= BULK_LEVELS:
                hashes = self._store.hashes(start, stop)
            else:
                return node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))
            while len(hashes) > 1:
                hashes = self._hasher.node_hashes(hashes.reshape(-1, 2 * HASH_BYTES))
            return hashes.tobytes()

        return node

    def contradiction(self, note: Note) -> Broken | None:
        """Return how the stored chain is not the one of which a checkpoint speaks, or None."""
        checkpoint, length = Checkpoint.parse(note.text), self._store.final()
        if checkpoint.origin != self.origin:
            meaning = "the published checkpoint was signed for another ledger than this one"
            return Broken(checkpoint.origin, self.origin, meaning)
        if checkpoint.size > length:
            meaning = "the ledger was cut since a remembered checkpoint, or is an older copy"
            return Broken(checkpoint.size, length, meaning)
        for tree in self._trees():
            if checkpoint.size == 0 or self._has_last(tree, checkpoint):
                return None
        found = tree.root(checkpoint.size)
        meaning = f"the first {checkpoint.size} blocks are not those of a remembered checkpoint"
        return Broken(checkpoint.root.hex(), found.hex(), meaning)

    def _has_last(self, tree: Tree, checkpoint: Checkpoint) -> bool:
        """Whether the last block of a checkpoint is stored; it stands for all those before it.

        The root alone might be that of nodes which were kept when those were rewritten.
        """
        last, size = checkpoint.size - 1, checkpoint.size
        leaf = self._store.hashes(last, size).tobytes()
        try:
            check_inclusion(tree.prove_inclusion(last, size), last, size, leaf, checkpoint.root)
        except ProofError:
            return False
        return True

    def inconsistent(self, remembered: Note, broken: Broken) -> InconsistentError:
        """Write down the evidence, if that can be, and return the error that says so."""
        length = self._store.final()
        found = Checkpoint(self.origin, length, self.tree.root(length)).text
        why = f"{broken.meaning} (expected {broken.expected}, found {broken.found})"
        try:
            place = str(keep_evidence(self._keyring.evidence, str(remembered), found, why))
        except StoreError as error:  # which is the lesser evil
            place = f"no file: {error}"
        return InconsistentError(why, str(remembered), found, place)

    def remembered(self) -> list[Note]:
        """Return the checkpoints that this user knows of: signed, shown by nodes, or published.

        What others have shown counts where a key has signed it that is believed about the ledger
        that it is of.

        Raises:
            StoreError: a memory cannot be read, or was damaged.
        """
        texts = [memory.last(self.origin) for memory in (self._keyring.signed, self._keyring.seen)]
        try:
            mine, seen = (Note.parse(text) if text else None for text in texts)
            notes = [note for note in (mine, seen) if note]
            for note in notes:
                Checkpoint.parse(note.text)
        except ProofError as error:
            raise StoreError(f"what is remembered of {self.origin} was damaged: {error}") from error
        notes = [mine] if mine else []
        for shown in (seen, self._store.checkpoint()):
            with suppress(ProofError):
                note = shown if isinstance(shown, Note) else Note.parse(shown or b"")
                keys = self._keyring.keys_of(Checkpoint.parse(note.text).origin)
                notes.append(Policy(tuple(keys)).open(note).note)
        return list({note.text: note for note in notes}.values())

    def published(self) -> Note:
        """Return the checkpoint that was published last; its signatures are not checked.

        Raises:
            NotFoundError: there is none yet.
            ProofError: it is none of this ledger.
        """
        data = self._store.checkpoint()
        if data is None:
            raise NotFoundError("no checkpoint of this ledger has been published yet")
        note = Note.parse(data)
        if (origin := Checkpoint.parse(note.text).origin) != self.origin:
            raise ProofError(f"the published checkpoint is of {origin}")
        return note

    def publish(self, note: Note) -> None:
        """Let `note` be what everybody is shown.

        Raises:
            StoreError: it cannot be written.
        """
        self._store.publish(str(note).encode())

    def believed(self) -> SignedCheckpoint | None:
        """Return the published checkpoint, if this user believes it; None where there is none."""
        try:
            return self.policy().open(self.published())
        except (NotFoundError, ProofError):
            return None

    def policy(self) -> Policy:
        """Whom this user believes about this ledger: the trusted keys, and any trusted witness."""
        keys = self._keyring.trusted()
        return Policy(
            tuple(key for key in keys if key.name == self.origin and not key.is_witness),
            tuple(key for key in keys if key.is_witness),
        )

    def _require_final(self, index: int) -> None:
        """Refuse to prove what may still change.

        Raises:
            NotFinalError: block `index` is there, and may give way to another.
        """
        final, length = self._store.final(), self._store.head().length
        if final <= index < length:
            raise NotFinalError(
                f"block {index} is confirmed and not final: {length - 1 - index} of "
                f"{self._terms.final_depth} blocks follow it"
            )

    def receipt(self, index: int, place: int, note: Note) -> Receipt:
        """Return the proof that entry `place` of block `index` is in the ledger, under `note`.

        Raises:
            NoSuchBlockError: there is no such block under that checkpoint, or no such entry.
            NotFinalError: the block may still give way to another.
            ErasedError: the entry was erased.
            DamagedError: what is stored is not what was signed.
        """
        checkpoint = Checkpoint.parse(note.text)
        self._require_final(index)
        block = self._store.get(index) if 0 <= index < checkpoint.size else None
        if block is None:
            raise NoSuchBlockError(f"there is no block {index} below size {checkpoint.size}")
        if not 0 <= place < len(block.entries):
            raise NoSuchBlockError(f"there is no entry {place} in block {index}")
        ids = [entry.id for entry in block.entries]
        if block.erased:
            raise ErasedError(f"the entry of block {index} was erased")
        if tree_hash(ids) != block.header.data_root:
            raise DamagedError(f"the data of block {index} was changed: validate the ledger")
        return Receipt(
            index=index,
            place=place,
            entry=block.entries[place],
            entry_proof=tuple(_prove_entry(ids, place)),
            header=block.header.pack(),
            block_proof=tuple(self._prove_block(block, checkpoint)),
            checkpoint=str(note),
            keys=tuple(
                str(k) for k in self._keyring.trusted() if any(map(k.has_made, note.signatures))
            ),
        )

    def prove(self, indexes: Sequence[int], checkpoint: Checkpoint) -> Iterator[list[bytes]]:
        """Yield the inclusion proof of each of these blocks under `checkpoint`, in bulk.

        Raises:
            NotFinalError: a block may still give way to another.
            ProofError: a block is not below it.
            DamagedError: what is stored is not what was signed.
        """
        if len(indexes):
            self._require_final(max(indexes))
        for first in range(0, len(indexes), BULK_PROOFS):
            some = indexes[first : first + BULK_PROOFS]
            for tree in self._trees():
                with suppress(DamagedError):
                    found = list(tree.prove_inclusions(some, checkpoint.size, checkpoint.root))
                    break
            else:
                raise DamagedError("what is stored is not what was signed: validate the ledger")
            yield from found

    def prove_consistency(self, old: int, checkpoint: Checkpoint) -> list[bytes]:
        """Return the proof that `checkpoint` begins with the tree of the first `old` blocks.

        Raises:
            ProofError: it has less.
            DamagedError: what is stored is not what was signed.
        """
        for tree in self._trees():
            proof = tree.prove_consistency(old, checkpoint.size)
            with suppress(ProofError):
                before = tree.root(old)
                check_consistency(proof, old, checkpoint.size, before, checkpoint.root)
                return proof
        raise DamagedError("what is stored is not what was signed: validate the ledger")

    def tile(self, tile: Tile, checkpoint: Checkpoint) -> bytes:
        """Return a tile or bundle of the tree of `checkpoint`, as C2SP tlog-tiles serves it.

        Raises:
            DamagedError: blocks below it are missing, or are not what was signed.
        """
        stop = tile.start + tile.width
        if tile.level == 0:
            return self._store.hashes(tile.start, stop).tobytes()
        if tile.level == ENTRIES:
            headers = [segment.headers for segment in self._store.scan(tile.start, stop)]
            if sum(map(len, headers)) != tile.width:
                raise DamagedError(f"blocks from {tile.start} to {stop} are missing")
            return bundle_of(np.concatenate(headers))
        for tree in self._trees():
            if (data := _signed_tile(tree, tile, checkpoint)) is not None:
                return data
        raise DamagedError("what is stored is not what was signed: validate the ledger")

    def _prove_block(self, block: Block, checkpoint: Checkpoint) -> list[bytes]:
        index, leaf = block.index, block.header.hash
        for tree in self._trees():
            proof = tree.prove_inclusion(index, checkpoint.size)
            with suppress(ProofError):
                check_inclusion(proof, index, checkpoint.size, leaf, checkpoint.root)
                return proof
        raise DamagedError(f"block {index} is not what was signed: validate the ledger")

    def _trees(self) -> Iterator[Tree]:
        """Yield the tree; and, should it not lead where it must, one made from the blocks alone."""
        yield self.tree
        yield Tree(self._store, self._hasher, kept=False)


class _Reading(Executor):
    """Does at once what it is given, with files read into memory, and not mapped.

    A page of a mapping that cannot be read ends the process, and this one may be a node.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call `fn` with the segment of the part that comes first in `args`."""
        future: Future[T] = Future()
        part, *others = args
        try:
            future.set_result(fn(part.segment(), *others, **kwargs))
        except CairnError as error:
            future.set_exception(error)
        return future


def _signed_tile(tree: Tree, tile: Tile, checkpoint: Checkpoint) -> bytes | None:
    """Return a tile of a higher row, if what is stored of it leads to the root that was signed.

    The way from a block below its first hash goes through that hash, and past all the others.
    """
    size, level = checkpoint.size, HEIGHT * tile.level

    @cache
    def read(tile: Tile) -> bytes:
        return tree.row(tile.level, tile.start, tile.start + tile.width).tobytes()

    data = read(tile_with(level, tile.start, size))  # as wide as it is now
    first, node = tile.leaves[0], nodes_of(size, read)
    proof, found = prove_inclusion(first, size, node), node(0, first)
    try:
        check_inclusion(proof, first, size, found, checkpoint.root)
    except ProofError:
        return None
    for sibling in proof[:level]:
        found = node_hash(found, sibling)
    return data[: tile.nbytes] if data.startswith(found) else None


def _prove_entry(ids: list[bytes], place: int) -> list[bytes]:
    """Return the inclusion proof of an entry in its block."""
    return prove_inclusion(
        place, len(ids), lambda level, i: tree_hash(ids[i << level : (i + 1) << level])
    )
