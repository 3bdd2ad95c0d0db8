"""The ledger: append, extend, read, validate. What all else is built on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from threading import Condition
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, overload

from cairn.core import rules
from cairn.core.block import Block
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.errors import CairnError, EntryError, FormatError, InvalidChainError
from cairn.core.genesis import Genesis, Limits
from cairn.core.hasher import Hasher
from cairn.core.header import Kind
from cairn.core.rules import Broken, Failure
from cairn.core.segment import Segment
from cairn.core.validation import Summary, validate
from cairn.encoding import Encoder
from cairn.hashing.portable import HashlibHasher
from cairn.store.directory import new_directory
from cairn.store.errors import (
    DamagedError,
    ExistsError,
    NoSuchBlockError,
    NotFoundError,
    OutcomeUnknownError,
)
from cairn.store.interface import Head, Store
from cairn.store.memory import MemoryStore
from cairn.store.sqlite import SqliteStore

BATCH_ENTRIES: Final = 8192
"""Entries that `extend` commits at once, at most: makes the cost of an fsync small."""
BATCH_BYTES: Final = 4 * 2**20
"""Bytes of entries that `extend` commits at once, about: bounds what it holds in memory."""
BATCH_SECONDS: Final = 0.2
"""How long `extend` may hold an entry before it commits, when the next one comes."""
SALTS_AT_ONCE: Final = 64
"""Salts drawn from the operating system in one call by `extend`."""
MAX_KEY: Final = 255
"""Characters of an idempotency key, as HTTP services commonly bound it."""


class ExtendError(CairnError):
    """`extend` stopped at an item that cannot be recorded; `__cause__` is the item's `EntryError`.

    All items before it are durable: there are `durable` of them, so it is also the position of
    the bad one, from 0.
    """

    def __init__(self, durable: int, cause: EntryError) -> None:
        super().__init__(f"item {durable} is refused: {cause}; the {durable} before it are durable")
        self.durable = durable


@dataclass(frozen=True, slots=True)
class Report:
    """What validation found."""

    valid: bool
    blocks: int
    """Blocks that were read."""
    bytes: int
    """Bytes of headers and entries that were checked."""
    seconds: float
    failures: tuple[Failure, ...]
    """By position; only the first unless `all=True` was asked for."""

    @property
    def failure(self) -> Failure | None:
        """The first failure."""
        return self.failures[0] if self.failures else None

    def to_value(self) -> dict[str, Any]:
        """Return the JSON object that `cairn validate --json` prints."""
        value: dict[str, Any] = {
            "valid": self.valid,
            "execution_time": self.seconds,
            "blocks": self.blocks,
            "bytes": self.bytes,
        }
        if self.failure is not None:
            value["failed_block"] = self.failure.index
            value["failure"] = self.failure.to_value()
        return value


@dataclass(eq=False, slots=True)
class _Request:
    """One append that waits for the next commit."""

    canonical: bytes
    key: str | None
    block: Block | None = None
    same: _Request | None = None
    """An earlier request of the same commit with the same key."""
    error: CairnError | None = None
    done: bool = False


class _Tip(NamedTuple):
    """What the next block follows."""

    length: int
    hash: bytes
    timestamp: int


def now_us() -> int:
    """Return the time of this machine's clock in µs since the Unix epoch."""
    return time.time_ns() // 1000


class Ledger:
    """An append-only chain of JSON values, each sealed in a block.

    A sequence of `Block`: `len(ledger)`, `ledger[index]`, `ledger[-1]`, iteration. Safe to use from
    many threads; appends that come together share one commit.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], int] = now_us,
        entropy: Callable[[int], bytes] = os.urandom,
        hasher: Hasher | None = None,
    ) -> None:
        """Take over `store`, which holds at least genesis.

        `clock` returns µs since the Unix epoch; `entropy(n)` returns n random bytes, for salts.
        """
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._hasher = hasher or HashlibHasher()
        # One thread at a time seals and commits; others queue here, and the next takes all.
        self._turn = Condition()
        self._committing = False  # owned by _turn
        self._pending: list[_Request] = []  # owned by _turn
        self._tip: _Tip | None = None  # owned by who commits; None: read it from the store

    @classmethod
    def open(cls, path: str | PathLike[str], *, read_only: bool = False) -> Ledger:
        """Open the ledger in directory `path`; to write, unless `read_only`.

        To write, it is created if missing. Reads no history, so takes no longer for a long one.

        Raises:
            LockedError: another writer holds it; the message says who.
            NotFoundError: nothing is there, and `read_only`.
            DamagedError: what is there cannot be read as a ledger.
            InvalidChainError: genesis or the last block breaks a rule, so nothing may follow it.
        """
        path = Path(path)
        if not read_only and not _occupied(path):
            with suppress(ExistsError):  # another process was faster
                return cls.create(path)
        ledger = cls(SqliteStore(path, read_only=read_only))
        if not read_only:
            try:
                ledger._require_sound_ends()
            except BaseException:
                ledger.close()
                raise
        return ledger

    @classmethod
    def create(cls, path: str | PathLike[str], genesis: Genesis | None = None) -> Ledger:
        """Create a ledger in directory `path` and open it to write.

        Without `genesis`, its name is that of the directory.

        Raises:
            ExistsError: something is there already.
        """
        path = Path(path)
        genesis = genesis or Genesis(name=path.absolute().stem[:255] or "ledger")
        block = genesis.block(timestamp=now_us(), salt=os.urandom(SALT_BYTES))
        with new_directory(path) as directory:
            SqliteStore.create(directory)
            with closing(SqliteStore(directory)) as store:
                store.append(Segment.from_blocks(0, [block]), {})
        return cls.open(path)

    @classmethod
    def in_memory(
        cls,
        genesis: Genesis | None = None,
        *,
        clock: Callable[[], int] = now_us,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> Ledger:
        """Return a new ledger that is gone when it is: for tests and teaching."""
        block = (genesis or Genesis()).block(timestamp=clock(), salt=entropy(SALT_BYTES))
        return cls(MemoryStore(Segment.from_blocks(0, [block])), clock=clock, entropy=entropy)

    def append(self, value: object, *, key: str | None = None) -> Block:
        """Record one JSON value; return its block, durable.

        With a `key` (1 to 255 characters), a retry of the same value returns the block of the first
        try instead of recording it again, however the first try ended.

        Raises:
            EntryError: `value` has no canonical JSON, is past a limit, or `key` was used for
                another value. Nothing was written.
            OutcomeUnknownError: the disk failed; whether the entry is durable is not known.
        """
        return self._append(self._encoder.value(value), key)

    def append_json(self, text: bytes | str, *, key: str | None = None) -> Block:
        """Record the value of one JSON text, as `append` does.

        Raises:
            EntryError: also where the text is not acceptable JSON (see `core.canonical.parse`).
            OutcomeUnknownError: as for `append`.
        """
        return self._append(self._encoder.text(_utf8(text)), key)

    def extend(self, values: Iterable[object]) -> int:
        """Record many JSON values, a block each; return how many. All are durable.

        Takes any iterable, once, and commits in batches as it goes.

        Raises:
            ExtendError: an item was refused; all before it are durable, and `durable` is their
                number. Whatever the iterable itself raises leaves the same behind.
            OutcomeUnknownError: the disk failed; its `durable` items are, those of one more batch
                may be.
        """
        return self._extend(values, self._encoder.value)

    def extend_json(self, texts: Iterable[bytes | str]) -> int:
        """Record the values of many JSON texts, such as the lines of an NDJSON file, as `extend`.

        Raises:
            ExtendError: also where a text is not acceptable JSON.
            OutcomeUnknownError: as for `extend`.
        """
        return self._extend(map(_utf8, texts), self._encoder.text)

    @cached_property
    def genesis(self) -> Genesis:
        """The rules of this ledger, from block 0.

        Raises:
            FormatError: block 0 does not record a genesis (damage).
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
            NotFoundError: there is none (it is an `IndexError`, too).
        """
        if isinstance(index, slice):
            positions = range(*index.indices(len(self)))
            if positions.step == 1:
                return [b for s in self.scan(positions.start, positions.stop) for b in s.blocks()]
            return [self[i] for i in positions]
        position = index if index >= 0 else index + len(self)
        block = self._store.get(position) if position >= 0 else None
        if block is None:
            raise NoSuchBlockError(f"there is no block {index}; the ledger has {len(self)}")
        return block

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

    def scan(self, start: int = 0, stop: int | None = None) -> Iterator[Segment]:
        """Yield the blocks from `start` to `stop` (by default all there are now) as segments.

        In constant memory, while appends go on. Stored bytes as they are, valid or not.

        Raises:
            DamagedError: stored columns that cannot be read at all.
        """
        length = len(self)
        return self._store.scan(start, length if stop is None else min(stop, length))

    def validate(
        self,
        *,
        all: bool = False,  # noqa: A002 - the pinned name
        progress: Callable[[Summary], None] | None = None,
    ) -> Report:
        """Read the whole store again and check every rule on every block, genesis to head.

        With `all`, every failing block is reported, each by the first rule that it breaks; without,
        only the first. `progress` is called now and then with the summary of all so far. Never
        raises for what it finds: damage that cannot be read ends the run, as a failure of the rule
        `storage`; an end that is not the recorded one is a failure of the rule `head`.
        """
        began = time.perf_counter()
        limits = self._limits_or_default()
        total: Summary | None = None
        failures: list[Failure] = []
        try:
            head = self._store.head()
            for segment in self._store.scan(0, head.length):
                summary = validate(segment, self._hasher, limits, every=all)
                total = summary if total is None else total + summary
                if progress:
                    progress(total)
                if total.failures and not all:
                    break
            failures += total.failures if total else ()
            failures += _check_start(total)
            if all or not failures:
                failures += _check_head(head, total)
        except DamagedError as error:
            failures += total.failures if total else ()
            at = total.stop if total else 0
            failures.append(rules.failure(at, "storage", Broken("readable", "damaged", str(error))))
        failures.sort(key=lambda failure: failure.index)
        return Report(
            valid=not failures,
            blocks=total.blocks if total else 0,
            bytes=total.nbytes if total else 0,
            seconds=time.perf_counter() - began,
            failures=tuple(failures if all else failures[:1]),
        )

    def backup(
        self, target: str | PathLike[str], *, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Write a consistent copy of the ledger to the directory `target`, whole or not at all.

        Works while a writer appends, in this process or another. `progress` is called with how
        much of how much is done.

        Raises:
            ExistsError: `target` is there already.
        """
        with new_directory(Path(target)) as directory:
            self._store.backup(directory, progress or (lambda _done, _total: None))

    def close(self) -> None:
        """Let go of the files and of the right to write. Closing twice is fine."""
        with self._own_turn():
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
    def _encoder(self) -> Encoder:
        return Encoder(self.genesis.limits)

    def _append(self, canonical: bytes, key: str | None) -> Block:
        """Queue one entry; whoever's turn comes first seals and commits the whole queue."""
        if key is not None and not 1 <= len(key) <= MAX_KEY:
            raise EntryError(f"a key has 1 to {MAX_KEY} characters, found {len(key)}")
        request = _Request(canonical, key)
        with self._turn:
            self._pending.append(request)
            self._turn.wait_for(lambda: request.done or not self._committing)
            mine = not request.done
            if mine:
                requests, self._pending, self._committing = self._pending, [], True
        if mine:
            try:
                self._commit_all(requests)
            finally:
                self._end_turn()
        if request.error is not None:
            raise request.error
        assert request.block is not None
        return request.block

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """Wait until no other thread commits, and keep them waiting."""
        with self._turn:
            self._turn.wait_for(lambda: not self._committing)
            self._committing = True
        try:
            yield
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        with self._turn:
            self._committing = False
            self._turn.notify_all()

    def _commit_all(self, requests: list[_Request]) -> None:
        """Commit the requests at once, and leave each a block or an error."""
        fresh: list[_Request] = []
        try:
            for request in requests:
                if request.key is None or not self._recall(request, fresh):
                    fresh.append(request)
            if fresh:
                self._commit_requests(fresh)
            for request in requests:
                if request.same is not None:
                    request.block = request.same.block
        except CairnError as error:
            for request in requests:
                if request.block is None and request.error is None:
                    request.error = type(error)(*error.args)
                    request.error.__cause__ = error
        finally:
            for request in requests:
                if request.block is None and request.error is None:
                    request.error = OutcomeUnknownError("the writer was interrupted")
                request.done = True

    def _commit_requests(self, requests: list[_Request]) -> None:
        """Seal the requests as blocks: a few at a time, this is quicker than as columns."""
        tip = self._read_tip()
        timestamp = max(self._clock(), tip.timestamp)
        blocks, keys, previous_hash = [], {}, tip.hash
        for index, request in enumerate(requests, start=tip.length):
            entry = Entry(self._entropy(SALT_BYTES), request.canonical)
            block = Block.of(
                Kind.VALUE, entry, index=index, previous_hash=previous_hash, timestamp=timestamp
            )
            blocks.append(block)
            previous_hash = block.stored_hash
            if request.key is not None:
                keys[request.key] = index
        self._tip = None  # until the store has it
        self._store.append(Segment.from_blocks(tip.length, blocks), keys)
        self._tip = _Tip(tip.length + len(blocks), previous_hash, timestamp)
        for request, block in zip(requests, blocks, strict=True):
            request.block = block

    def _recall(self, request: _Request, fresh: list[_Request]) -> bool:
        """Answer a request whose key is known already, from the store or from this commit."""
        assert request.key is not None
        position = self._store.recall(request.key)
        if position is not None:
            block = self[position]
            request.block, recorded = block, block.data_json()
        else:
            request.same = next((r for r in fresh if r.key == request.key), None)
            recorded = request.same.canonical if request.same else request.canonical
        if recorded != request.canonical:
            request.block = request.same = None
            request.error = EntryError(f"key {request.key!r} was used for another value")
        return (request.block or request.same or request.error) is not None

    def _extend(self, items: Iterable[Any], encode: Callable[[Any], bytes]) -> int:
        durable = 0
        try:
            for batch in self._batches(items, encode):
                with self._own_turn():
                    durable += self._commit_entries(batch)
        except EntryError as error:
            raise ExtendError(durable, error) from error
        except OutcomeUnknownError as error:
            error.durable = durable
            raise
        except BaseException as error:
            error.add_note(f"the {durable} items before are durable")
            raise
        return durable

    def _batches(
        self, items: Iterable[Any], encode: Callable[[Any], bytes]
    ) -> Iterator[list[bytes]]:
        """Yield the items as entry bytes, in batches; before an error of theirs, what there is."""
        batch: list[bytes] = []
        salts, size, began = b"", 0, time.monotonic()
        try:
            for item in items:
                canonical = encode(item)
                salts = salts or self._entropy(SALT_BYTES * SALTS_AT_ONCE)
                # Joined at once: orjson's own buffers are large, and keeping thousands is slow.
                batch.append(salts[:SALT_BYTES] + canonical)
                salts = salts[SALT_BYTES:]
                size += len(canonical)
                waited = time.monotonic() - began
                if len(batch) >= BATCH_ENTRIES or size >= BATCH_BYTES or waited >= BATCH_SECONDS:
                    yield batch
                    batch, size, began = [], 0, time.monotonic()
        except GeneratorExit:
            raise
        except BaseException:
            if batch:
                yield batch
            raise
        if batch:
            yield batch

    def _commit_entries(self, entries: list[bytes]) -> int:
        """Seal the entries as columns and make them durable. Requires the turn."""
        tip = self._read_tip()
        segment = Segment.seal(
            entries,
            start=tip.length,
            previous_hash=tip.hash,
            timestamp=max(self._clock(), tip.timestamp),
            hasher=self._hasher,
        )
        self._tip = None  # until the store has it
        self._store.append(segment, {})
        self._tip = _tip_of(segment)
        return len(segment)

    def _read_tip(self) -> _Tip:
        """Return what the next block follows. Requires the turn."""
        if self._tip is None:
            length = len(self)
            *_, segment = self._store.scan(length - 1, length)
            self._tip = _tip_of(segment)
        return self._tip

    def _limits_or_default(self) -> Limits:
        """Return the limits to validate by, also where genesis cannot be read."""
        try:
            return self.genesis.limits
        except (FormatError, DamagedError, NotFoundError):
            return Limits()

    def _require_sound_ends(self) -> None:
        """Refuse to write on a ledger whose first or last block breaks a rule.

        Raises:
            InvalidChainError: which block, which rule.
        """
        head = self._store.head()
        limits = self._limits_or_default()
        last = None
        for at in dict.fromkeys((0, head.length - 1)):
            for segment in self._store.scan(at, at + 1):
                last = validate(segment, self._hasher, limits)
                if last.failures:
                    raise InvalidChainError(last.failures[0])
        for failure in _check_head(head, last):
            raise InvalidChainError(failure)


def _utf8(text: bytes | str) -> bytes:
    """Return `text` as bytes; a lone surrogate becomes bad UTF-8, which parsing refuses."""
    return text.encode(errors="surrogatepass") if isinstance(text, str) else text


def _occupied(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _tip_of(segment: Segment) -> _Tip:
    return _Tip(segment.stop, segment.hashes[-1].tobytes(), int(segment.fields["timestamp"][-1]))


def _check_start(total: Summary | None) -> Iterator[Failure]:
    """Yield how the stored chain does not begin at genesis."""
    found = "no block at all" if total is None else total.start
    if found != 0:
        yield rules.failure(0, "index", Broken(0, found, "genesis is missing"))


def _check_head(head: Head, total: Summary | None) -> Iterator[Failure]:
    """Yield how the stored chain does not end where the store has recorded that it does."""
    stop = total.stop if total else 0
    if stop < head.length:
        meaning = "blocks are missing at the end"
        yield rules.failure(stop, "head", Broken(head.length, stop, meaning))
    elif head.stored != head.length:
        meaning = "there are blocks past the recorded end"
        yield rules.failure(head.length, "head", Broken(head.length, head.stored, meaning))
    elif total and total.last_hash != head.hash:
        meaning = "the last block is not the one recorded as head"
        broken = Broken(head.hash.hex(), total.last_hash.hex(), meaning)
        yield rules.failure(head.length - 1, "head", broken)
