"""What a client believes of a node: only what follows from a signed checkpoint. No I/O but memory.

Every block must be in the tree of a checkpoint that a trusted key has signed, and every checkpoint
must agree with the one that this user was shown before, by this client or another.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from itertools import groupby
from threading import Lock
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from cairn.client import answers, wire
from cairn.client.errors import BadAnswerError, NodeError
from cairn.client.retry import Steps, Tries, answered
from cairn.client.wire import Answer, Request
from cairn.core import rules
from cairn.core.block import Block
from cairn.core.erasure import Erasure
from cairn.core.errors import (
    CairnError,
    DamagedError,
    InconsistentError,
    NoSuchBlockError,
    ProofError,
    StoreError,
)
from cairn.core.genesis import Terms
from cairn.core.header import Kind
from cairn.core.merkle import HASH_BYTES
from cairn.core.proofs import (
    Nodes,
    check_consistency,
    check_inclusion,
    prove_consistency,
    prove_inclusion,
)
from cairn.core.rules import Broken, InvalidChainError, Stored
from cairn.core.tree import WIDTH
from cairn.proof.checkpoint import Checkpoint, Policy, SignedCheckpoint, hinted, ledger_of
from cairn.proof.keyring import Keyring
from cairn.proof.memory import keep_evidence
from cairn.proof.note import Note, UnknownSignerError, VerifierKey
from cairn.proof.receipt import Receipt, UntrustedSignerError
from cairn.proof.rotation import MARK, KeyChange
from cairn.proof.tiles import Tile, nodes_of, tile_with, tiles_for

STALE_TRIES: Final = 3
"""Times that a checkpoint is asked for again that is older than one that was seen."""
STALE_SECONDS: Final = 0.3
"""Between these: a cache may hold one for a moment."""
MEMORY_TRIES: Final = 20
"""Times that another process may be faster to remember a checkpoint."""
KEPT_TILES: Final = 1024
"""Tiles that are held, of 8 KiB at most."""
ACKNOWLEDGED: Final = 100_000
"""Acknowledged appends that are held, of some 100 bytes each, until a checkpoint shows them."""
SEARCH_PAGES: Final = 10_000
"""Pages that records are looked for on, at most: a node searches for a second before it gives one
that is not full, so that these are hours."""
KEPT_MINED: Final = 10_000
"""Blocks above a checkpoint that are remembered to have shown their work, of some 500 bytes."""
BRANCH_BLOCKS: Final = 1000
"""Of these that are asked for at once: a page."""
FUTURE_MICROSECONDS: Final = 600_000_000
"""How far the clock of a miner may be ahead of ours; what nodes allow."""
LOOK_APPENDS: Final = 1000
"""After how many a client that only appends looks for such a checkpoint, ..."""
LOOK_SECONDS: Final = 10.0
"""... and after how long."""

log = logging.getLogger(__name__)


class _Shown(NamedTuple):
    """A checkpoint, and the signed note that says it."""

    checkpoint: Checkpoint
    note: str


class Trust:
    """What one client knows of the ledger on its node. Its methods are steps; see `retry`.

    Any number of threads or tasks may carry them out at once.
    """

    def __init__(
        self,
        url: str,
        patience: float,
        keyring: Keyring,
        *,
        keys: Sequence[VerifierKey] = (),
        witnesses: Sequence[VerifierKey] = (),
        quorum: int | None = None,
    ) -> None:
        """Believe `keys`; without any, those that the user has recorded, or else the first seen.

        `quorum` of `witnesses` (by default, all) must have cosigned.

        Raises:
            ProofError: they make no `Policy`.
        """
        self._url = url
        self._patience = patience
        self._keyring = keyring
        self._keys = tuple(keys)
        self._witnesses = tuple(witnesses)
        self._quorum = len(witnesses) if quorum is None else quorum
        Policy(self._keys, self._witnesses, self._quorum)
        self._lock = Lock()  # of the next three
        self._signed: SignedCheckpoint | None = None  # never an older one than before
        self._tiles: dict[Tile, bytes] = {}
        self._mined: dict[bytes, Block] = {}  # above a checkpoint, by hash; without entries
        self._terms: Terms | None = None  # those of genesis, once they are asked for
        self._acknowledged: dict[int, bytes] = {}  # hashes by position
        self._looked, self._appends = time.monotonic(), 0  # when, and how many there were since
        self._written: tuple[str, str, str] | None = None  # the last evidence, and its file

    # Checkpoints

    def checkpoint(
        self, size: int = 1, *, patience: float | None = None
    ) -> Steps[SignedCheckpoint]:
        """Read a checkpoint of at least `size` blocks, check it and remember it.

        It must show all that was seen before, and all that was acknowledged to this client.

        Raises:
            InconsistentError: it contradicts what was seen or acknowledged before.
            UntrustedSignerError: its signer is not trusted.
            ProofError: a signature is wrong, or witnesses are missing.
            BadAnswerError: there is none of so many blocks.
            StoreError: what is remembered cannot be read or written.
        """
        held = self._acknowledged.copy()
        due = max([size, *(index + 1 for index in held)])
        signed = yield from self._read_checkpoint(due, patience=patience)
        before = yield from self._remembered(signed.checkpoint.origin)
        due = max(due, before.checkpoint.size if before else 0)
        for _ in range(STALE_TRIES):
            if signed.checkpoint.size >= due:
                break
            signed = yield from self._read_checkpoint(due, wait=STALE_SECONDS)
        found = signed.checkpoint.size
        if before is not None and found < before.checkpoint.size:
            why = f"the node shows {found} blocks, fewer than the {before.checkpoint.size} it did"
            raise (yield from self._contradiction(why, before.note, str(signed.note)))
        yield from self._require_acknowledged(held, signed)  # before anybody believes it
        yield from self._remember(signed)
        with self._lock:
            if self.size <= found:
                self._signed = signed
        self._looked, self._appends = time.monotonic(), 0
        if found < size:
            what = f"a checkpoint of {found} blocks only"
            raise answers.bad_answer(wire.get("/checkpoint", {"covering": str(size)}), what)
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

    def known(self) -> Steps[int]:
        """Return how many blocks the ledger has at least, of which none may be withheld."""
        return (yield from self.covering(1)).checkpoint.size

    def doubt(self) -> Steps[None]:
        """Look at a new checkpoint, after what cannot be: two signed statements say it better.

        Raises:
            InconsistentError: the node has signed two histories.
        """
        self._forget_tiles()
        try:
            yield from self.checkpoint()
        except InconsistentError:
            raise
        except CairnError as error:
            log.warning("no checkpoint to hold the node to: %s", error)

    def withheld(self, what: str) -> Steps[BadAnswerError]:
        """Return the error for a node that does not show `what`, which it has signed."""
        yield from self.doubt()
        return BadAnswerError(f"the node does not show {what}, which it has signed")

    def _read_checkpoint(
        self, size: int, *, wait: float = 0.0, patience: float | None = None
    ) -> Steps[SignedCheckpoint]:
        """Read a checkpoint, of `size` blocks if there are so many; check whose it is.

        It must be of the ledger that this client has seen; and of the one that was at this URL
        before, but not so at an address of this machine, where ledgers come and go.
        """
        request = wire.get("/checkpoint", {"covering": str(size)} if size > 1 else None)
        tries = Tries(self._patience if patience is None else patience)
        answer = yield from answered(request, tries, wait)
        if answer.status in (404, 409) and size > 1:  # how many does it say there are?
            return (yield from self._read_checkpoint(1, patience=patience))
        _require_found(request, answer)
        try:
            note = Note.parse(answer.body)
            origin = Checkpoint.parse(note.text).origin
            ledger_of(origin)
        except ProofError as error:
            raise answers.bad_answer(request, f"not a checkpoint: {error}") from error
        is_new = (yield from self._require_same_ledger(origin, note)) is None
        signed = yield from self._opened(origin, note)
        if is_new and self._is_pinned:
            yield lambda: self._keyring.nodes.replace(self._url, None, origin)
            yield from self._require_same_ledger(origin, note)  # another may have been faster
        return signed

    @property
    def _is_pinned(self) -> bool:
        return not self._keys and not _is_loopback(self._url)

    def _require_same_ledger(self, origin: str, note: Note) -> Steps[str | None]:
        """Return the origin of the ledger that is known to be here, which must be this one."""
        known: str | None = None
        if self._signed is not None:
            known = self._signed.checkpoint.origin
        elif self._is_pinned:
            known = yield lambda: self._keyring.nodes.last(self._url)
        if known is not None and known != origin:
            before = yield from self._remembered(known)
            why = f"another ledger answers at {self._url}"
            shown = before.note if before else f"{known}\n"
            raise (yield from self._contradiction(why, shown, str(note)))
        return known

    def _opened(self, origin: str, note: Note) -> Steps[SignedCheckpoint]:
        """Return the checkpoint, if a key that may be trusted has signed it."""
        keys: Sequence[VerifierKey] = self._keys or (yield lambda: self._keyring.keys_of(origin))
        try:
            return self._policy(keys).open(note)
        except UnknownSignerError as error:
            unknown = error
        claimed: list[VerifierKey] = []
        try:
            claimed = yield from self._claimed(origin, note)
        except CairnError as error:
            if not keys and isinstance(error, NodeError):
                raise
        if keys and (followed := (yield from self._followed(origin, keys, note))):
            return followed
        if keys or not claimed:
            raise UntrustedSignerError(unknown.signers, claimed) from None
        signed = self._policy(claimed[:1]).open(note)
        if not (yield lambda: self._keyring.nodes.replace(origin, None, str(claimed[0]))):
            return (yield from self._opened(origin, note))  # another has seen a first key before
        log.warning("trusting %s, the first key seen for its ledger", claimed[0])
        return signed

    def _followed(
        self, origin: str, keys: Sequence[VerifierKey], note: Note
    ) -> Steps[SignedCheckpoint | None]:
        """Return the checkpoint, if one of `keys` has named its key, or one that was so named has.

        In records that are in its tree: so everybody can see them.
        """
        known, records = list(keys), list[Block]()

        def names(record: Block) -> bool:
            change = KeyChange.of(record.data_json()) if record.kind == "record" else None
            with suppress(ProofError):
                if change and (new := change.check(origin, known)) not in known:
                    known.append(new)
                    records.append(record)
            return False

        try:
            yield from self._search(MARK, 0, names)
            signed = self._policy(known).open(note)
        except (UnknownSignerError, NodeError, NoSuchBlockError):
            return None
        for record in records:
            _require_sound(record, None, self._terms)
            try:
                yield from self._require_included(record.index, record.stored_hash, signed)
            except ProofError as error:
                why = f"the key was changed in block {record.index}, which is not signed: {error}"
                found = record.to_json() + "\n"
                raise (yield from self._contradiction(why, str(note), found)) from error
        for new in known[len(keys) :]:
            log.warning("trusting %s, which the key before it has named", new)
            yield lambda: self._keyring.trust(new)  # noqa: B023 - it is done before the next
        self._keys = tuple(known) if self._keys else ()
        return signed

    def _policy(self, keys: Sequence[VerifierKey]) -> Policy:
        return Policy(tuple(keys), self._witnesses, self._quorum)

    def _claimed(self, origin: str, note: Note) -> Steps[list[VerifierKey]]:
        """Return the ledger's keys that have signed, by a receipt that has them in full."""
        keys: list[VerifierKey] = []
        for text in (yield from self._read_receipt(0, 0)).keys:
            with suppress(ProofError):  # of a kind that is not known here, for one
                keys.append(VerifierKey.parse(text))
        ours = [key for key in keys if key.name == origin and not key.is_witness]
        return hinted(ours, note)

    # What was seen before

    def _remembered(self, origin: str) -> Steps[_Shown | None]:
        note: str | None = yield lambda: self._keyring.seen.last(origin)
        if note is None:
            return None
        try:
            return _Shown(Checkpoint.parse(Note.parse(note).text), note)
        except ProofError as error:
            raise StoreError(f"what is remembered of {origin} was damaged: {error}") from error

    def _remember(self, signed: SignedCheckpoint) -> Steps[None]:
        """Refuse a checkpoint that contradicts what is remembered; remember it if it is newer."""
        new = _Shown(signed.checkpoint, str(signed.note))
        origin = new.checkpoint.origin
        for _ in range(MEMORY_TRIES):
            before = yield from self._remembered(origin)
            if before is not None:
                yield from self._require_consistent(before, new)
                if before.checkpoint.size >= new.checkpoint.size:
                    return
            text = before.note if before else None
            if (yield lambda: self._keyring.seen.replace(origin, text, new.note)):  # noqa: B023
                return
        raise StoreError(f"other processes keep remembering checkpoints of {origin}")

    def _require_consistent(self, before: _Shown, now: _Shown) -> Steps[None]:
        """Refuse two checkpoints of which the smaller is not what the larger begins with."""
        old, new = sorted((before.checkpoint, now.checkpoint), key=lambda one: one.size)

        def prove(node: Nodes) -> list[bytes]:
            return prove_consistency(old.size, new.size, node)

        try:
            proof, _ = yield from self._proof(new.size, prove)
            check_consistency(proof, old.size, new.size, old.root, new.root)
        except ProofError as error:
            why = f"the node's history is not the one that it showed before: {error}"
            raise (yield from self._contradiction(why, before.note, now.note)) from error

    def _contradiction(self, why: str, remembered: str, found: str) -> Steps[InconsistentError]:
        """Write down the evidence, once; return the error."""
        self._forget_tiles()
        if self._written is None or self._written[:2] != (remembered, found):
            try:
                path = yield lambda: keep_evidence(self._keyring.evidence, remembered, found, why)
            except StoreError as error:  # which must not hide it
                return InconsistentError(why, remembered, found, f"nowhere: {error}")
            self._written = remembered, found, str(path)
        return InconsistentError(why, remembered, found, self._written[2])

    # Blocks

    def check(self, blocks: Sequence[Block]) -> Steps[Sequence[Block]]:
        """Return `blocks`, each of which keeps the rules and is in the signed tree.

        In rising order. Where they follow one another, they are held to their links, too. Of a work
        ledger, only final blocks are signed: those above follow them, and show their work.

        Raises:
            InvalidChainError: a block is not what its hashes say, not linked to the one before, or
                erased without a record of it.
            InconsistentError: a block is not in the tree, or block 0 is that of another ledger.
        """
        shown, runs = blocks, _runs(blocks)
        if not blocks:
            return blocks
        if not self.is_mined and any(block.header.bits for block in blocks):
            yield from self._read_terms()
        for run in runs:
            before: Block | None = None
            for block in run:
                _require_sound(block, before, self._terms)
                before = block
        if self.is_mined:
            signed = yield from self._newest(blocks[-1].index + 1)
            yield from self._require_mined(blocks, signed)
            blocks = [block for block in blocks if block.index < signed.checkpoint.size]
        else:
            signed = yield from self.covering(blocks[-1].index + 1)
        yield from self._require_in_tree(blocks, signed)
        return shown

    def _require_in_tree(self, blocks: Sequence[Block], signed: SignedCheckpoint) -> Steps[None]:
        """Look up blocks, all of which a checkpoint covers."""
        for _, group in groupby(blocks, lambda block: block.index // WIDTH):
            yield from self._require_signed(list(group), signed)
        for block in blocks:
            if block.erased:
                yield from self._require_recorded(block, signed)

    # Blocks of a work ledger that are not signed yet

    @property
    def is_mined(self) -> bool:
        """Whether it is known that every block is mined."""
        return self._terms is not None and self._terms.asert is not None

    def _read_terms(self) -> Steps[None]:
        """Read genesis, which says what work is asked for.

        Raises:
            BadAnswerError: it is not that of the ledger.
        """
        signed = yield from self.covering(1)
        request = wire.get("/blocks/0")
        genesis = answers.read_block(request, (yield from answered(request, Tries(self._patience))))
        _require_sound(genesis, None, None)
        if genesis.index != 0 or genesis.hash != ledger_of(signed.checkpoint.origin):
            raise answers.bad_answer(request, f"another genesis: {genesis!r:.200}")
        self._terms = Terms.of(genesis)

    def _newest(self, size: int) -> Steps[SignedCheckpoint]:
        """Return a checkpoint of `size` blocks, or the newest if there is none of so many."""
        if size <= self.size:
            return (yield from self.covering(size))
        return (yield from self.checkpoint())

    def _require_mined(self, blocks: Sequence[Block], signed: SignedCheckpoint) -> Steps[None]:
        """Check that blocks above a checkpoint cost the work that is asked for.

        By their links down to a block that is signed, with all between. That bounds what it costs
        to make them up, and no more: until they are final, the chain may change.
        """
        for i, block in enumerate(blocks):
            if block.index < signed.checkpoint.size:
                continue
            if block.header.timestamp > time.time() * 1e6 + FUTURE_MICROSECONDS:
                broken = Broken("a time that may be", block.timestamp, "it is ahead of our clock")
                raise InvalidChainError(rules.failure(block.index, "timestamp", broken))
            before = blocks[i - 1] if i and blocks[i - 1].index == block.index - 1 else None
            if before is None:
                before = self._mined.get(block.header.previous_hash)
            if before is None or before.index != block.index - 1:
                before = yield from self._read_before(block, signed)
            _require_sound(block, before, self._terms)
            self._hold(block)

    def _read_before(self, block: Block, signed: SignedCheckpoint) -> Steps[Block]:
        """Read all blocks from the last signed one to the one before `block`; return that."""
        at, before = signed.checkpoint.size - 1, None
        while before is None or before.index < block.index - 1:
            limit = min(block.index - at, BRANCH_BLOCKS)
            request = wire.get("/", {"start": str(at), "limit": str(limit)})
            answer = yield from answered(request, Tries(self._patience))
            page = answers.read_chain(request, answer).views[:limit]
            found = [answers.to_block(request, view) for view in page]
            if not found or [one.index for one in found] != list(range(at, at + len(found))):
                raise answers.bad_answer(request, f"not the blocks from {at} on")
            for one in found:
                _require_sound(one, before, self._terms)
                if before is None:
                    yield from self._require_in_tree([one], signed)
                self._hold(one)
                before = one
            at += len(found)
        return before

    def _hold(self, block: Block) -> None:
        """Remember a block that is known to have cost its work, without its entries."""
        with self._lock:
            self._mined[block.stored_hash] = Block(block.header, block.stored_hash, ())
            while len(self._mined) > KEPT_MINED:
                del self._mined[next(iter(self._mined))]

    def _require_signed(self, blocks: Sequence[Block], signed: SignedCheckpoint) -> Steps[None]:
        """Look up blocks that are below one tile: each is in it, and the tile is in the tree.

        The way from one of them to the root goes past all other hashes of the tile.
        """
        last = blocks[-1]
        try:
            tiles = yield from self._require_included(last.index, last.stored_hash, signed)
            tile = tile_with(0, last.index, signed.checkpoint.size)
            row = tiles.get(tile, last.stored_hash)  # which is alone, if nothing else was asked for
            for block in blocks:
                at = (block.index - tile.start) * HASH_BYTES if tile in tiles else 0
                last = block
                _require_same(row[at : at + HASH_BYTES], block.stored_hash)
            if blocks[0].index == 0:
                _require_genesis(blocks[0].stored_hash, signed.checkpoint.origin)
        except ProofError as error:
            yield from self.doubt()
            why = f"block {last.index} is not the one that was signed: {error}"
            found = last.to_json() + "\n"
            raise (yield from self._contradiction(why, str(signed.note), found)) from error

    def _require_recorded(self, block: Block, signed: SignedCheckpoint) -> Steps[None]:
        """Refuse an erased block that no later record of the ledger names."""

        def names(record: Block) -> bool:
            if record.header.kind != Kind.RECORD or record.index <= block.index:
                return False
            erasure = Erasure.of(record.data_json())
            return erasure is not None and (erasure.index, erasure.id) == said

        said = (block.index, block.header.data_root)
        text = f'{{"id":"{said[1].hex()}","index":{said[0]},'
        for record in (yield from self._search(text, block.index + 1, names)):
            _require_sound(record, None, self._terms)
            covering = yield from self.covering(record.index + 1)
            yield from self._require_signed([record], covering)
            return
        broken = Broken("a record of the erasure", "none", "the value was removed")
        raise InvalidChainError(rules.failure(block.index, "erasure", broken))

    def _search(self, text: str, start: int, wanted: Callable[[Block], bool]) -> Steps[list[Block]]:
        """Return the blocks from `start` on that have `text` in them and are wanted, unchecked."""
        found: list[Block] = []
        for _ in range(SEARCH_PAGES):
            request = wire.get("/blocks", {"contains": text, "cursor": str(start)})
            answer = yield from answered(request, Tries(self._patience))
            page = answers.read_found(request, answer)
            found += filter(wanted, (answers.to_block(request, view) for view in page.views))
            if page.next is None:
                return found
            following = dict(parse_qsl(page.next.partition("?")[2])).get("cursor", "")
            if not re.fullmatch("[0-9]{1,19}", following) or int(following) <= start:
                raise answers.bad_answer(request, "a page that leads nowhere")
            start = int(following)
        raise answers.bad_answer(request, f"{SEARCH_PAGES} pages, and more pages")

    def acknowledged(self, index: int, block_hash: bytes) -> Steps[None]:
        """Hold on to what was recorded until a checkpoint shows it.

        Looks for one when there are many, or when it is time to. That the node gives none just now
        is not this append's problem.

        Raises:
            InconsistentError: it was acknowledged before, as another block.
        """
        held = self._acknowledged.setdefault(index, block_hash)
        if held != block_hash:
            why = f"block {index} was acknowledged twice, as two blocks"
            shown = _acknowledgement(index, held), _acknowledgement(index, block_hash)
            raise (yield from self._contradiction(why, *shown))
        self._appends += 1
        if self._appends < LOOK_APPENDS and time.monotonic() - self._looked <= LOOK_SECONDS:
            return
        self._looked, self._appends = time.monotonic(), 0
        try:
            yield from self.checkpoint(patience=0.0)
        except BadAnswerError as error:
            error.add_note(f"block {index} was acknowledged")
            raise
        except (NodeError, DamagedError) as error:
            log.warning("no checkpoint to hold appends to: %s", error)
            for dropped in list(self._acknowledged)[:-ACKNOWLEDGED]:
                self._acknowledged.pop(dropped, None)
        except CairnError as error:
            error.add_note(f"block {index} was acknowledged")
            raise

    def _require_acknowledged(
        self, held: dict[int, bytes], signed: SignedCheckpoint
    ) -> Steps[None]:
        """Check that what was acknowledged is there. Nothing is forgotten before it was found."""
        for index, block_hash in held.items():
            try:
                yield from self._require_included(index, block_hash, signed)
            except ProofError as error:
                why = f"block {index} was acknowledged, and is not in the ledger: {error}"
                found = _acknowledgement(index, block_hash)
                raise (yield from self._contradiction(why, str(signed.note), found)) from error
            self._acknowledged.pop(index, None)

    def _require_included(
        self, index: int, block_hash: bytes, signed: SignedCheckpoint
    ) -> Steps[dict[Tile, bytes]]:
        """Look up a block in the tree; return the tiles that led to the root."""
        tree = signed.checkpoint
        if index == 0:
            _require_genesis(block_hash, tree.origin)

        def prove(node: Nodes) -> list[bytes]:
            return prove_inclusion(index, tree.size, node)

        proof, tiles = yield from self._proof(tree.size, prove)
        check_inclusion(proof, index, tree.size, block_hash, tree.root)
        return tiles

    def receipt(self, index: int, entry: int) -> Steps[Receipt]:
        """Read a receipt, and check that it proves the entry to this client."""
        signed = yield from self.covering(1)
        try:
            receipt = yield from self._read_receipt(index, entry)
        except NoSuchBlockError as error:
            if 0 <= index < signed.checkpoint.size and entry == 0:
                raise (yield from self.withheld(f"a receipt of block {index}")) from error
            raise
        note = Note.parse(receipt.checkpoint)
        origin = Checkpoint.parse(note.text).origin
        if (receipt.index, receipt.place) != (index, entry) or origin != signed.checkpoint.origin:
            raise ProofError(
                f"the node gives a receipt of entry {receipt.place} of block {receipt.index} of "
                f"{origin}"
            )
        opened = yield from self._opened(origin, note)
        receipt.check(self._policy(opened.log_keys))
        yield from self._remember(opened)
        return receipt

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

    def _proof(
        self, size: int, prove: Callable[[Nodes], list[bytes]]
    ) -> Steps[tuple[list[bytes], dict[Tile, bytes]]]:
        """Return a proof in the tree of `size`, and the tiles it is from, which the node gives.

        They are not checked: what is made of them is.
        """
        held: dict[Tile, bytes] = {}
        for tile in tiles_for(size, prove):
            held[tile] = yield from self._tile(tile)
        return prove(nodes_of(size, held.__getitem__)), held

    def _tile(self, tile: Tile) -> Steps[bytes]:
        with self._lock:
            data = self._tiles.pop(tile, None)
        if data is None:
            data = yield from self._read_tile(tile)
        with self._lock:
            self._tiles[tile] = data  # the last to be dropped
            while len(self._tiles) > KEPT_TILES:
                del self._tiles[next(iter(self._tiles))]
        return data

    def _forget_tiles(self) -> None:
        """One of them may be what is wrong."""
        with self._lock:
            self._tiles.clear()

    def _read_tile(self, tile: Tile) -> Steps[bytes]:
        request = wire.get(f"/{tile.path}")
        answer = yield from answered(request, Tries(self._patience))
        if answer.status == 404 and tile.width < WIDTH:  # it may be gone since the full one came
            full = yield from self._read_tile(tile._replace(width=WIDTH))
            return full[: tile.nbytes]
        _require_found(request, answer)
        if len(answer.body) != tile.nbytes:
            raise answers.bad_answer(request, f"{len(answer.body)} bytes, not {tile.nbytes}")
        return answer.body


def _require_found(request: Request, answer: Answer) -> None:
    """Refuse an answer without what every node has: that it has none is no want of a block."""
    if answer.status != 200:
        error = answers.refusal(request, answer)
        raise answers.bad_answer(request, str(error)) if answer.status == 404 else error


def _acknowledgement(index: int, block_hash: bytes) -> str:
    return f"block {index} was acknowledged with the hash {block_hash.hex()}\n"


def _require_same(in_tree: bytes, block_hash: bytes) -> None:
    if in_tree != block_hash:
        raise ProofError(f"the tree has {in_tree.hex()}")


def _require_genesis(block_hash: bytes, origin: str) -> None:
    if block_hash.hex() != ledger_of(origin):
        raise ProofError(f"{block_hash.hex()} is not the genesis of {origin}")


def _runs(blocks: Iterable[Block]) -> list[list[Block]]:
    """Return `blocks` in runs of those that follow one another."""
    runs: list[list[Block]] = []
    for block in blocks:
        if runs and runs[-1][-1].index + 1 == block.index:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _require_sound(block: Block, before: Block | None, terms: Terms | None) -> None:
    """Refuse a block that breaks a rule.

    `before` is the one before it, where that is at hand, and `terms` are the ledger's, where they
    are known.
    """
    stored = Stored.of(block, block.index, before)._replace(terms=terms)
    if failure := rules.first_broken(stored):
        raise InvalidChainError(failure)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def parse_keys(keys: str | Sequence[str] | None) -> list[VerifierKey]:
    """Return verifier keys that a caller gives as text.

    Raises:
        ProofError: one is none.
    """
    given = [keys] if isinstance(keys, str) else keys or []
    return [VerifierKey.parse(key) for key in given]
