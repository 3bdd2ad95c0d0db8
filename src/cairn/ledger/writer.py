"""The writer: seals entries in blocks and makes them durable, those that come together at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, get_ident
from typing import Any, Final, NamedTuple

from cairn.core.block import Block
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.errors import CairnError, EntryError
from cairn.core.hasher import Hasher
from cairn.core.header import Kind
from cairn.core.segment import Segment
from cairn.store.errors import DamagedError, OutcomeUnknownError, UsageError
from cairn.store.interface import Store

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
    """`extend` stopped at an item that cannot be recorded; `cause` is the item's error.

    All items before it are durable: there are `durable` of them, so it is also the position of
    the bad one, from 0.
    """

    def __init__(self, durable: int, cause: EntryError) -> None:
        super().__init__(durable, cause)
        self.durable = durable
        self.cause = cause

    def __str__(self) -> str:
        return f"item {self.durable} is refused: {self.cause}; the items before it are durable"


class _RefusedError(Exception):
    """An item was refused, by the encoder and not by the iterable itself."""

    def __init__(self, cause: EntryError) -> None:
        super().__init__(cause)
        self.cause = cause


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


class Writer:
    """Appends to a store. One thread at a time seals and commits; the others queue.

    `clock` returns µs since the Unix epoch; `entropy(n)` returns n random bytes, for salts.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
        hasher: Hasher,
    ) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._hasher = hasher
        self._turn = Condition()
        self._owner: int | None = None  # owned by _turn; the thread whose turn it is
        self._pending: list[_Request] = []  # owned by _turn; whose turn is next takes them all
        self._tip: _Tip | None = None  # owned by who commits; None: read it from the store

    def append(self, canonical: bytes, key: str | None) -> Block:
        """Record one canonical JSON text, as `Ledger.append` says; return its block, durable.

        It is queued, and whoever's turn comes first seals and commits the whole queue.

        Raises:
            EntryError: the key is not 1 to 255 characters, or was used for another text.
            OutcomeUnknownError: the disk failed.
        """
        request = _Request(canonical, _checked(key))
        mine = False
        try:
            with self._turn:
                self._require_no_turn()
                self._pending.append(request)
                try:
                    self._turn.wait_for(lambda: request.done or self._owner is None)
                except BaseException:  # interrupted: withdraw, unless it is being committed already
                    self._pending = [other for other in self._pending if other is not request]
                    raise
                if not request.done:
                    requests, self._pending = self._pending, []
                    self._owner, mine = get_ident(), True
            if mine:
                self._commit_all(requests)
        finally:
            if mine:
                self._end_turn()
        if request.block is None:
            raise request.error or OutcomeUnknownError("the writer was interrupted")
        return request.block

    def extend(self, items: Iterable[Any], encode: Callable[[Any], bytes]) -> int:
        """Record what `encode` makes of each item, as `Ledger.extend` says; return how many.

        Raises:
            ExtendError: `encode` refused an item; all before it are durable.
            OutcomeUnknownError: the disk failed.
        """
        durable = 0
        try:
            for batch in self._batches(items, encode):
                with self.own_turn():
                    durable += self._commit_entries(batch)
        except _RefusedError as error:
            raise ExtendError(durable, error.cause) from error.cause
        except OutcomeUnknownError as error:
            error.durable = durable
            raise
        except BaseException as error:
            error.add_note(f"the {durable} items before are durable")
            raise
        return durable

    @contextmanager
    def own_turn(self) -> Iterator[None]:
        """Wait until no other thread commits, and keep them waiting."""
        mine = False
        try:
            with self._turn:
                self._require_no_turn()
                self._turn.wait_for(lambda: self._owner is None)
                self._owner, mine = get_ident(), True
            yield
        finally:
            if mine:
                self._end_turn()

    def _require_no_turn(self) -> None:
        """Refuse to wait for oneself: in a signal handler, say, that came while committing."""
        if self._owner == get_ident():
            raise UsageError(
                "this thread is writing to the ledger already, and cannot wait for itself"
            )

    def _end_turn(self) -> None:
        with self._turn:
            self._owner = None
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
            block = self._store.get(position)
            if block is None:
                raise DamagedError(
                    f"key {request.key!r} names block {position}, which is not there"
                )
            request.block, recorded = block, block.data_json()
        else:
            request.same = next((r for r in fresh if r.key == request.key), None)
            recorded = request.same.canonical if request.same else request.canonical
        if recorded != request.canonical:
            request.block = request.same = None
            request.error = EntryError(f"key {request.key!r} was used for another value")
        return (request.block or request.same or request.error) is not None

    def _batches(
        self, items: Iterable[Any], encode: Callable[[Any], bytes]
    ) -> Iterator[list[bytes]]:
        """Yield the items as entry bytes, in batches; before an error of theirs, what there is."""
        batch: list[bytes] = []
        salts, size, began = b"", 0, time.monotonic()
        try:
            for item in items:
                try:
                    canonical = encode(item)
                except EntryError as error:
                    raise _RefusedError(error) from error
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
            length = self._store.head().length
            segments = list(self._store.scan(length - 1, length))
            if not segments:
                raise DamagedError(f"block {length - 1}, the recorded head, is not there")
            self._tip = _tip_of(segments[-1])
        return self._tip


def _checked(key: object) -> str | None:
    if key is None:
        return None
    if not (isinstance(key, str) and 1 <= len(key) <= MAX_KEY and key.isprintable()):
        raise EntryError(f"a key has 1 to {MAX_KEY} printable characters, found {key!r:.80}")
    return key


def _tip_of(segment: Segment) -> _Tip:
    return _Tip(segment.stop, segment.hashes[-1].tobytes(), int(segment.fields["timestamp"][-1]))
