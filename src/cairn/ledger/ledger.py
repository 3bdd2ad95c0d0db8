"""The ledger: append, extend, read, validate. What all else is built on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, overload
from warnings import warn

from cairn.core.block import Block
from cairn.core.entry import SALT_BYTES
from cairn.core.erasure import Erasure
from cairn.core.errors import (
    DamagedError,
    EntryError,
    ExistsError,
    FormatError,
    NoSuchBlockError,
    NoSuchEntryError,
    NotFoundError,
    ProofError,
    ReadOnlyError,
    StoreError,
    UsageError,
)
from cairn.core.genesis import Genesis, Terms
from cairn.core.header import Kind
from cairn.core.merkle import HASH_BYTES
from cairn.core.rules import failure
from cairn.core.segment import Segment
from cairn.core.validation import Summary
from cairn.core.work import MAX_BITS
from cairn.encoding import Encoder
from cairn.hashing import best_hasher
from cairn.hashing.search import cpus
from cairn.ledger.chain import Chain
from cairn.ledger.notary import Notary
from cairn.ledger.outline import Outline, Outliner
from cairn.ledger.standing import Standing, standing_of
from cairn.ledger.submission import Submission
from cairn.ledger.validation import Task, require_sound_ends, validate_store
from cairn.ledger.writer import Append, Writer
from cairn.proof.checkpoint import Checkpoint, SignedCheckpoint
from cairn.proof.keyring import Keyring
from cairn.proof.note import Note
from cairn.proof.receipt import Receipt
from cairn.proof.rotation import KeyChange
from cairn.report import Report
from cairn.store.directory import new_directory, occupied
from cairn.store.disk import DiskStore
from cairn.store.interface import Pooled, Store
from cairn.store.memory import MemoryStore

if TYPE_CHECKING:
    import numpy as np
    import pyarrow  # type: ignore[import-untyped]
    from numpy.typing import NDArray


MAX_REASON: Final = 1000
"""Characters of the reason of an erasure: for a sentence and a reference, not for a document."""


def now_us() -> int:
    """Return the time of this machine's clock in µs since the Unix epoch."""
    return time.time_ns() // 1000


class Ledger:
    """An append-only chain of JSON values, each sealed in a block.

    A sequence of `Block`: `len(ledger)`, `ledger[index]`, `ledger[-1]`, iteration. Safe to use from
    many threads; appends that come together share one commit.

    On a work ledger, nodes put entries into blocks by mining, and agree on the chain with the most
    work: nothing is appended to it or erased, entries are submitted, and what is not `final` yet
    may still change.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], int] = now_us,
        entropy: Callable[[int], bytes] = os.urandom,
        keyring: Keyring | None = None,
    ) -> None:
        """Take over `store`, which holds at least genesis.

        `clock` returns µs since the Unix epoch; `entropy(n)` returns n random bytes, for salts.
        `keyring` has the keys to sign with, and those to trust: by default, this user's.
        """
        self._store = store
        self._given_keyring = keyring
        self._hasher = best_hasher()
        self._clock, self._entropy = clock, entropy
        self._writer = Writer(store, clock=clock, entropy=entropy, hasher=self._hasher)
        self._read_only = False

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        read_only: bool = False,
        keyring: Keyring | None = None,
    ) -> Ledger:
        """Open the ledger in directory `path`; to write, unless `read_only`.

        To write, it is created if missing, and an erasure that was not finished is; where that does
        not work, there is a `RuntimeWarning`. Reads no history, so takes no longer for a long one.
        `keyring` has the keys to sign with, and those to trust: by default, this user's.

        Raises:
            LockedError: another writer holds it; the message says who.
            NotFoundError: nothing is there, and `read_only`.
            DamagedError: what is there cannot be read as a ledger.
            InvalidChainError: genesis or the last block breaks a rule, so nothing may follow it.
        """
        path = Path(path)
        if not read_only and not occupied(path):
            with suppress(ExistsError):  # another process was faster
                return cls.create(path, keyring=keyring)
        ledger = cls(DiskStore(path, best_hasher(), read_only=read_only), keyring=keyring)
        ledger._read_only = read_only
        if not read_only:
            try:
                require_sound_ends(ledger._store, ledger._terms_or_default())
                try:
                    ledger._finish_erasing("an erasure")
                except StoreError as error:  # all else can go on
                    warn(str(error), RuntimeWarning, stacklevel=2)
            except BaseException:
                ledger.close()
                raise
        return ledger

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        genesis: Genesis | None = None,
        *,
        bits: int | None = None,
        keyring: Keyring | None = None,
    ) -> Ledger:
        """Create a ledger in directory `path` and open it to write.

        Without `genesis`, its name is that of the directory. `bits` are the target of a work
        ledger's first blocks, in Bitcoin's compact form: by default the easiest there is.

        Raises:
            ExistsError: something is there already.
            FormatError: `bits` do not go with the seal of `genesis`.
        """
        path = Path(path)
        genesis = genesis or Genesis(name=path.absolute().stem[:255] or "ledger")
        segment = _first(genesis, bits, now_us(), os.urandom(SALT_BYTES))
        with new_directory(path) as directory:
            DiskStore.create(directory)
            with closing(DiskStore(directory, best_hasher())) as store:
                if genesis.seal is None:
                    store.append(segment, {})
                else:
                    store.advance(segment, work=0, final=1)
        return cls.open(path, keyring=keyring)

    @classmethod
    def in_memory(
        cls,
        genesis: Genesis | None = None,
        *,
        bits: int | None = None,
        clock: Callable[[], int] = now_us,
        entropy: Callable[[int], bytes] = os.urandom,
        keyring: Keyring | None = None,
    ) -> Ledger:
        """Return a new ledger that is gone when it is: for tests and teaching.

        `bits` are as for `create`.
        """
        genesis = genesis or Genesis()
        segment = _first(genesis, bits, clock(), entropy(SALT_BYTES))
        store = MemoryStore(segment, mined=genesis.seal is not None)
        return cls(store, clock=clock, entropy=entropy, keyring=keyring)

    def append(self, value: object, *, key: str | None = None) -> Block:
        """Record one JSON value; return its block, durable.

        With a `key` (1 to 255 printable characters), a retry of the same value returns the block of
        the first try instead of recording it again, however the first try ended.

        A float without a fraction is recorded in its shortest form, an integer, and past 2**53 the
        exact integer that reads back may differ from the double.

        Raises:
            EntryError: `value` has no canonical JSON or is past a limit. Nothing was written.
            KeyReusedError: `key` was used for another value. Nothing was written.
            OutcomeUnknownError: the disk failed; whether the entry is durable is not known.
            UsageError: this is a work ledger: use `submit`.
        """
        self._require_instant()
        return self._append(self.encoder.value(value), key)

    def append_json(self, text: bytes | str, *, key: str | None = None) -> Block:
        """Record the value of one JSON text, as `append` does.

        Raises:
            EntryError: also where the text is not acceptable JSON (see `core.canonical.parse`).
            OutcomeUnknownError, UsageError: as for `append`.
        """
        self._require_instant()
        return self._append(self.encoder.text(_utf8(text)), key)

    def append_all(self, values: Iterable[object], *, key: str | None = None) -> range:
        """Record values, a block each, all or nothing, in one commit; return their positions.

        All of them are held in memory: for many, use `extend`. A `key` tells a retry of the same
        values, as for `append`.

        Raises:
            EntryError: there is no value, or one is refused, as for `append`. Nothing was written.
            KeyReusedError: `key` was used for other values. Nothing was written.
            OutcomeUnknownError, UsageError: as for `append`.
        """
        self._require_instant()
        append = Append([self.encoder.value(value) for value in values], key)
        self._writer.commit((append,))
        stop = append.result().index + 1
        return range(stop - len(append.texts), stop)

    def commit(self, appends: Sequence[Append]) -> None:
        """Record many appends, of one value or more each, in one commit; each gets its own answer.

        An append is recorded whole or not at all, whatever becomes of the others: look at `last`
        and `error` of each. Waits until what could be recorded is durable.

        Raises:
            UsageError: this is a work ledger: use `make_entries` and `keep`.
        """
        self._require_instant()
        if appends:
            self._writer.commit(appends)

    def _append(self, canonical: bytes, key: str | None) -> Block:
        append = Append((canonical,), key)
        self._writer.commit((append,))
        return append.result()

    def extend(self, values: Iterable[object]) -> int:
        """Record many JSON values, a block each; return how many. All are durable.

        Takes any iterable, once, and commits in batches as it goes.

        Raises:
            ExtendError: an item was refused; all before it are durable, and `durable` is their
                number. Whatever the iterable itself raises leaves the same behind.
            OutcomeUnknownError: the disk failed; its `durable` items are, those of one more batch
                may be.
            UsageError: as for `append`.
        """
        self._require_instant()
        return self._writer.extend(values, self.encoder.value)

    def extend_json(self, texts: Iterable[bytes | str]) -> int:
        """Record the values of many JSON texts, such as the lines of an NDJSON file, as `extend`.

        Raises:
            ExtendError: also where a text is not acceptable JSON.
            OutcomeUnknownError, UsageError: as for `extend`.
        """
        self._require_instant()
        return self._writer.extend(map(_utf8, texts), self.encoder.text)

    def erase(self, index: int, *, reason: str) -> Block:
        """Remove the entry of block `index`, value and salt, for good; return the record of it.

        The record, a new block, keeps `reason` (1 to 1,000 characters) and the entry's id. The
        chain and all other blocks stay as they are. Where an erasure of the block was recorded and
        could not be finished, this finishes it, and returns that record.

        What is out of reach: earlier exports and backups, copies at other places, and what file
        systems and drives keep of bytes that were overwritten.

        Raises:
            EntryError: `reason` cannot be recorded.
            NoSuchBlockError: there is no such block.
            UsageError: its entry is erased already; or it is genesis, a record or a batch, as all
                blocks of a work ledger are.
            DamagedError: its entry is not the one that was recorded. Nothing was done.
            OutcomeUnknownError: the disk failed; whether the erasure is recorded is not known.
            StoreError: the erasure is recorded, and not finished: the disk failed, or somebody was
                reading the write-ahead log, which has a copy. Opening the ledger to write, or
                erasing again, goes on with it.
        """
        self._require_instant("there is no record of an erasure")
        _require_reason(reason)
        with self._writer.own_turn():
            finished = self._finish_erasing("an earlier erasure")
            block = self._store.get(index) if index >= 0 else None
            if block is None:
                raise NoSuchBlockError(f"there is no block {index}; the ledger has {len(self)}")
            if index in finished:
                return self[finished[index]]
            _require_erasable(index, block)
            erasure = Erasure(index, block.header.data_root, reason)
            record = self._writer.record(self.encoder.value(erasure.to_value()), erase=index)
            self._finish_erasing(f"the erasure, which block {record.index} records,")
        return record

    def rotate_key(self) -> Block:
        """Sign with a new key from now on; return the record, in which the old one names it.

        The old private key is gone then. What it has signed stays good, so its verifier key stays
        trusted; whoever trusts it can follow to the new one. If this is cut short, the old key is
        still used, and doing it again names the same new one.

        Raises:
            OutcomeUnknownError: the disk failed; whether the change is recorded is not known.
            StoreError: keys cannot be read or written.
            UsageError: this is a work ledger, which has no records of its nodes' keys.
        """
        self._require_instant("every node signs with a key of its own")
        keyring, origin = self.keyring, self.notary.origin
        with self._writer.own_turn():
            change = KeyChange.sign(self.notary.key(), keyring.next_key(origin).verifier)
            record = self._writer.record(self.encoder.value(change.to_value()))
        keyring.adopt_next(origin)
        return record

    def submit(self, value: object, *, key: str | None = None) -> str:
        """Let one JSON value wait to be mined into a work ledger; return its entry's id, durable.

        64 hex digits; `entry` says what becomes of it. A node of the ledger hands it on and mines
        it. With a `key` (1 to 255 printable characters), a retry of the same value has the same id,
        here and on every other node, and is mined once.

        Raises:
            EntryError: `value` has no canonical JSON or is past a limit. Nothing was written.
            KeyReusedError: `key` was used for another value here. Nothing was written.
            OutcomeUnknownError: the disk failed; whether the entry is durable is not known.
            UsageError: this is an instant ledger: use `append`.
        """
        self._require_mined()
        return self._submit(self.encoder.value(value), key)

    def submit_json(self, text: bytes | str, *, key: str | None = None) -> str:
        """Submit the value of one JSON text, as `submit` does.

        Raises:
            EntryError: also where the text is not acceptable JSON (see `core.canonical.parse`).
            OutcomeUnknownError, UsageError: as for `submit`.
        """
        self._require_mined()
        return self._submit(self.encoder.text(_utf8(text)), key)

    def make_entries(self, texts: Sequence[bytes], *, key: str | None = None) -> list[Pooled]:
        """Return an entry for each canonical JSON text, with an id and salt of its own.

        Nothing is written: see `keep`. A `key` tells a retry of the same texts, as for `submit`.

        Raises:
            EntryError: there is no text, or `key` is none.
            KeyReusedError: `key` was used for other texts here.
            UsageError: as for `submit`.
        """
        self._require_mined()
        return self._submission.make(texts, key)

    def keep(self, pooled: Sequence[Pooled], *, key: str | None = None) -> None:
        """Let entries wait to be mined, all or none. Durable when it returns.

        They were made under `key`. Of a retry, those that are mined already do not wait again.

        Raises:
            KeyReusedError: `key` was used for other entries meanwhile. Nothing was written.
            OutcomeUnknownError, UsageError: as for `submit`.
        """
        self._require_mined()
        self._submission.keep(pooled, key)

    def _submit(self, canonical: bytes, key: str | None) -> str:
        [pooled] = self._submission.make([canonical], key)
        self._submission.keep([pooled], key)
        return pooled.id.hex()

    def entry(self, entry_id: str) -> Standing:
        """Return where the entry with this id (64 hex digits) stands: see `Standing`.

        On an instant ledger, which is read for it from end to end, an entry is final at once.

        Raises:
            NoSuchEntryError: neither the chain nor the pool has it.
        """
        try:
            raw = bytes.fromhex(entry_id)
        except ValueError:
            raw = b""
        if len(raw) != HASH_BYTES:
            raise NoSuchEntryError(f"the id of an entry has 64 hex digits, found {entry_id!r:.80}")
        return standing_of(self._store, raw)

    def chain(self) -> Chain:
        """Return the writing side of a work ledger, for the one thread that lets it grow.

        Raises:
            ReadOnlyError: it was opened to read.
            UsageError: this is an instant ledger.
        """
        self._require_mined("it has no chain that gives way to one of more work")
        if self._read_only:
            raise ReadOnlyError("the ledger was opened for reading")
        return Chain(self._store, self._hasher)

    @cached_property
    def terms(self) -> Terms:
        """What genesis fixes for all blocks after it.

        Raises:
            FormatError, NoSuchBlockError: block 0 does not record a genesis (damage).
        """
        return Terms.of(self[0])

    @property
    def is_mined(self) -> bool:
        """Whether this is a work ledger, and not an instant one."""
        return self.terms.asert is not None

    @property
    def final(self) -> int:
        """How many blocks, from genesis on, can no longer change. All, on an instant ledger."""
        return self._store.final()

    @cached_property
    def genesis(self) -> Genesis:
        """The rules of this ledger, from block 0.

        Raises:
            FormatError: block 0 does not record a genesis (damage).
            NoSuchBlockError: there is no block 0 (damage).
        """
        return Genesis.of(self[0])

    @property
    def id(self) -> str:
        """The ledger's id in every network: the hash of genesis, 64 hex digits."""
        return self[0].hash

    @property
    def head(self) -> Block:
        """The last block."""
        return self[-1]

    def __len__(self) -> int:
        return self._store.head().length

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        """Return the block at `index`, or those of a slice. Negative ones count from the end.

        Raises:
            NoSuchBlockError: there is none (it is an `IndexError`, too).
            DamagedError: there should be one, which cannot be read, or is missing.
        """
        if isinstance(index, slice):
            positions = range(*index.indices(len(self)))
            if positions.step == 1:
                return [b for s in self.scan(positions.start, positions.stop) for b in s.blocks()]
            return [self[i] for i in positions]
        position = index if index >= 0 else index + len(self)
        block = self._store.get(position) if position >= 0 else None
        if block is not None:
            return block
        if 0 <= position < len(self):
            raise DamagedError(f"block {position} is missing; the ledger has {len(self)}")
        raise NoSuchBlockError(f"there is no block {index}; the ledger has {len(self)}")

    def __iter__(self) -> Iterator[Block]:
        return (block for segment in self.scan() for block in segment.blocks())

    def find(self, block_hash: str) -> Block | None:
        """Return the block with this hash (64 hex digits), or None."""
        try:
            raw = bytes.fromhex(block_hash)
        except ValueError:
            return None
        position = self._store.find(raw) if len(raw) == 32 else None
        return None if position is None else self[position]

    def headers(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the stored headers of the blocks from `start` to `stop`, `(n, 104)`, in memory.

        Without the rest of the blocks, so it is quick however large they are.

        Raises:
            DamagedError: one of them is not there.
        """
        return self._store.headers(start, stop)

    def hashes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return their stored hashes, `(n, 32)`, as `headers` does.

        Raises:
            DamagedError: one of them is not there.
        """
        return self._store.hashes(start, stop)

    def scan(self, start: int = 0, stop: int | None = None) -> Iterator[Segment]:
        """Yield the blocks from `start` to `stop` (by default all there are now) as segments.

        In constant memory, while appends go on. Stored bytes as they are, valid or not.

        Raises:
            DamagedError: stored columns that cannot be read at all.
        """
        length = len(self)
        return self._store.scan(start, length if stop is None else min(stop, length))

    def outline(self, points: int = 200) -> Outline:
        """Return at most `points` + 1 samples of the chain, from genesis to head, for charts.

        History is not read for it; what cannot be read is left out.
        """
        return self._outliner.outline(points)

    def to_arrow(self, start: int = 0, stop: int | None = None) -> pyarrow.RecordBatchReader:
        """Return the blocks that `scan` yields as an Arrow stream, which reads them as it is read.

        In constant memory; a `pyarrow.RecordBatchReader` of `cairn.ledger.arrow.SCHEMA`, a block a
        row: `index`, `timestamp`, `data` (the recorded JSON), `previous_hash`, `hash`, `kind` and
        so on, as in the JSON view. Can be read once; DuckDB and polars take it as it is, pandas by
        `read_pandas()`.

        Reading it raises:
            DamagedError: stored columns that cannot be read, or do not agree.
            FormatError: a block that Cairn does not write, and that does not fit the columns.

        Raises:
            UsageError: pyarrow is not installed: `pip install 'cairn-ledger[arrow]'`.
        """
        from cairn.ledger import arrow

        return arrow.batches(self.scan(start, stop))

    def validate(
        self,
        *,
        all: bool = False,  # noqa: A002 - it reads best where it is called
        start: int = 0,
        incremental: bool = False,
        canonical: bool = False,
        older: bool = False,
        hasher: str | None = None,
        executor: Executor | None = None,
        progress: Callable[[Summary], None] | None = None,
    ) -> Report:
        """Read the whole store again and check every rule on every block, genesis to head.

        With `all`, every failing block is reported, each by the first rule that it breaks; without,
        only the first. `progress` is called now and then with the summary of all so far. Never
        raises for what it finds: damage that cannot be read ends the run, as a failure of the rule
        `storage`; an end that is not the recorded one is a failure of the rule `head`. Blocks that
        were erased, with a record of it, are no failures; the report has their number.

        `start` leaves out the blocks before it. `incremental` starts where the last incremental run
        ended well, as noted in the ledger's directory: it finds (rule `mark`) that the chain is not
        that one any more, and nothing else that was changed before. A run without it neither reads
        nor writes that note. Where it cannot be written, there is a `RuntimeWarning`, and the next
        incremental run starts where this one did.

        `canonical` also checks that each entry is the canonical JSON of its value (rule
        `canonical`), which is slow: it parses.

        The chain must also be the one that this user has signed or been shown before: one that is
        not what a remembered checkpoint says is a failure of the rule `checkpoint`, of which the
        evidence is written down beside the user's keys. With `older`, it is a copy from before, and
        may end earlier.

        The work is done by `executor`, by default a thread for each of this process's cores. Other
        processes and machines must see the ledger's directory under the same path. `hasher` is one
        of `cairn.hashing.names()`, by default each worker's best.

        Raises:
            NoSuchBlockError: `start` is past the end.
            StoreError: a worker cannot read what can be read here, the workers are gone, or what is
                remembered cannot be read.
            UsageError: `start` and `incremental` do not go together; or there is no such hasher.
        """
        if start and incremental:
            raise UsageError("an incremental run starts where the last one ended")
        mark = self._store.mark() if incremental else None
        remembered = self._remembered()  # first: what is signed meanwhile is longer
        with ExitStack() as stack:
            if executor is None:
                executor = stack.enter_context(ThreadPoolExecutor(cpus(), "cairn-validate"))
            report, end = validate_store(
                self._store,
                Task(self._terms_or_default(), every=all, canonical=canonical, hasher=hasher),
                executor=executor,
                start=mark.length if mark else start,
                mark=mark,
                progress=progress or (lambda _total: None),
            )
        if report.valid or all:
            if older:
                remembered = [n for n in remembered if Checkpoint.parse(n.text).size <= len(self)]
            report = self._compared(report, remembered, every=all)
        if incremental and report.valid:
            try:
                self._store.set_mark(end)
            except StoreError as error:  # the verdict stands, and may have taken long
                warn(str(error), RuntimeWarning, stacklevel=2)
        return report

    @cached_property
    def keyring(self) -> Keyring:
        """The user's keys and memories."""
        return self._given_keyring or Keyring()

    @cached_property
    def notary(self) -> Notary:
        """What signs and proves for this ledger.

        Raises:
            FormatError, NoSuchBlockError: block 0 does not record a genesis (damage).
        """
        return Notary(self._store, self._hasher, self.terms, self.id, self.keyring)

    def checkpoint(self) -> SignedCheckpoint:
        """Return a signed statement of how many blocks there are, and the root of their tree.

        It is signed and published now, if blocks have come since the last; opened for reading, the
        ledger has the one that its writer has published. A key is made on first use.

        Raises:
            InconsistentError: the ledger is not the one that was signed before.
            InvalidChainError: a block since then breaks a rule.
            NotFoundError: none was published yet.
            ProofError: a published one is not by a key that this user trusts.
        """
        note = self.published()  # which may record a key to trust
        return self.notary.policy().open(note)

    def receipt(self, index: int, entry: int = 0) -> Receipt:
        """Return the proof, for whoever trusts the signer, that an entry is in the ledger.

        `index` is that of its block, `entry` its place there. `Receipt.to_json` makes a file of it.

        Raises:
            NoSuchBlockError: there is no such block, or none that the published checkpoint covers.
            NotFinalError: the block may still give way to another.
            DamagedError: what is stored is not what was signed.
            InconsistentError, InvalidChainError, NotFoundError: as for `checkpoint`.
        """
        return self.notary.receipt(index, entry, self.published())

    def prove(
        self, indexes: Sequence[int], checkpoint: Checkpoint | None = None
    ) -> Iterator[list[bytes]]:
        """Yield the inclusion proof of each of these blocks under a checkpoint, in bulk.

        Hashes of 32 bytes, the leaf's sibling first, to be checked by
        `cairn.core.proofs.check_inclusion`. By default under the published checkpoint, as for
        `checkpoint`, which see for what else it raises.

        Raises:
            NotFinalError: a block may still give way to another.
            ProofError: a block is not below the checkpoint.
            DamagedError: what is stored is not what was signed.
        """
        if checkpoint is None:
            checkpoint = Checkpoint.parse(self.published().text)
        return self.notary.prove(indexes, checkpoint)

    @property
    def assurance(self) -> str:
        """The rung of the ladder that this ledger has reached, in this user's eyes.

        `chained`: it agrees with itself. `signed`: a trusted key has signed its checkpoint.
        `witnessed`: trusted witnesses have cosigned that, too.
        """
        signed = self.notary.believed()
        return "chained" if signed is None else signed.assurance

    def published(self) -> Note:
        """Return the note of `checkpoint`, whoever has signed it."""
        try:
            published = self.notary.published()
        except (NotFoundError, ProofError):
            if self._read_only:
                raise
            published = None
        if self._read_only and published is not None:
            return published
        signed = self.notary.sign()
        if published is not None and set(signed.signatures) <= set(published.signatures):
            return published  # it may be cosigned
        self.notary.publish(signed)
        return signed

    def _remembered(self) -> list[Note]:
        """Return what this user knows of the ledger from before."""
        try:
            return self.notary.remembered()
        except (FormatError, DamagedError, NoSuchBlockError):
            return []  # which validation will say better

    def _compared(self, report: Report, remembered: Sequence[Note], *, every: bool) -> Report:
        """Return `report`, with how the chain is not the one that was `remembered`."""
        found = list(report.failures)
        for note in remembered:
            with suppress(DamagedError):  # which is in the report
                if broken := self.notary.contradiction(note):
                    checkpoint = Checkpoint.parse(note.text)
                    is_ours = checkpoint.origin == self.notary.origin
                    at = min(checkpoint.size - 1, len(self)) if is_ours else 0
                    found.append(failure(at, "checkpoint", broken))
                    with suppress(StoreError):
                        self.notary.inconsistent(note, broken)
        found = sorted(dict.fromkeys(found), key=lambda failure: failure.index)
        kept = found if every else found[:1]
        return replace(report, valid=not found, failures=tuple(kept))

    def backup(
        self, target: str | PathLike[str], *, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Write a consistent copy of the ledger to the directory `target`, whole or not at all.

        With the published checkpoint, if there is one.

        Works while a writer appends, in this process or another. `progress` is called with how
        much of how much is done.

        Raises:
            ExistsError: `target` is there already.
        """
        checkpoint = self._store.checkpoint()  # first: it covers no more than the copy
        with new_directory(Path(target)) as directory:
            self._store.backup(directory, progress or (lambda _done, _total: None))
        if checkpoint is not None:
            with closing(DiskStore(Path(target), best_hasher(), read_only=True)) as copy:
                copy.publish(checkpoint)

    @contextmanager
    def tampering(self) -> Iterator[None]:
        """Keep all who write waiting while what is stored is changed from outside; then go on.

        For the lab: with what is stored then, whatever it is. Of what genesis fixes, this ledger
        keeps to what it has read before.

        Raises:
            ReadOnlyError: it was opened to read, or is closed.
        """
        with self._writer.own_turn():
            try:
                with self._store.tampering():
                    yield
            finally:
                self._writer.forget_end()
                self.__dict__.pop("_outliner", None)
                if "notary" in self.__dict__:
                    self.notary.tree.forget()

    def close(self) -> None:
        """Let go of the files and of the right to write. Closing twice is fine."""
        with self._writer.own_turn():
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @cached_property
    def encoder(self) -> Encoder:
        """What makes the canonical JSON of values and texts, within this ledger's limits."""
        return Encoder(self.terms.limits)

    @cached_property
    def _outliner(self) -> Outliner:
        return Outliner(self._store)

    @cached_property
    def _submission(self) -> Submission:
        return Submission(
            self._store, bytes.fromhex(self.id), clock=self._clock, entropy=self._entropy
        )

    def _require_instant(self, why: str = "entries are submitted to it: use submit") -> None:
        with suppress(FormatError, DamagedError, NoSuchBlockError):  # all else says so
            if self.is_mined:
                raise UsageError(f"this is a work ledger, of which every block is mined: {why}")

    def _require_mined(self, why: str = "use append") -> None:
        if not self.is_mined:
            raise UsageError(f"this is an instant ledger, of which no block is mined: {why}")

    def _finish_erasing(self, which: str) -> Mapping[int, int]:
        """Finish the erasures that are recorded; return where of which block.

        Raises:
            StoreError: why not, and what to do.
        """
        try:
            return self._store.finish_erasing()
        except StoreError as error:
            raise StoreError(
                f"{which} is not finished: {error}; opening the ledger to write, or "
                "erasing again, goes on with it"
            ) from error

    def _terms_or_default(self) -> Terms:
        """Return the terms to validate by, also where genesis cannot be read."""
        try:
            return self.terms
        except (FormatError, DamagedError, NoSuchBlockError):
            return Terms()


def _first(genesis: Genesis, bits: int | None, timestamp: int, salt: bytes) -> Segment:
    """Return what a new ledger begins with."""
    if bits is None:
        bits = MAX_BITS if genesis.seal else 0
    return Segment.from_blocks(0, [genesis.block(timestamp=timestamp, salt=salt, bits=bits)])


def _require_reason(reason: object) -> None:
    if not (isinstance(reason, str) and 1 <= len(reason) <= MAX_REASON):
        raise EntryError(f"a reason has 1 to {MAX_REASON} characters, found {reason!r:.80}")


def _require_erasable(index: int, block: Block) -> None:
    """Refuse to erase what nothing may take the place of, or what is evidence of another change.

    Raises:
        UsageError, DamagedError: why.
    """
    if block.header.kind != Kind.VALUE:
        what = "genesis" if index == 0 else f"a {block.kind}"
        raise UsageError(f"block {index} is {what}: only what holds one value can be erased")
    if block.erased:
        raise UsageError(f"block {index} is erased already")
    if [entry.id for entry in block.entries] != [block.header.data_root]:
        raise DamagedError(f"block {index} is damaged: its entry is not the one that was recorded")


def _utf8(text: bytes | str) -> bytes:
    """Return `text` as bytes; a lone surrogate becomes bad UTF-8, which parsing refuses."""
    return text.encode(errors="surrogatepass") if isinstance(text, str) else bytes(text)
