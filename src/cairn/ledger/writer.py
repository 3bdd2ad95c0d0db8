"""The writer: seals entries in blocks and makes them durable, those that come together at once."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from threading import Condition, Lock, get_ident
from typing import Any, Final, NamedTuple, Self

from cairn.core.block import Block
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.errors import (
    CairnError,
    DamagedError,
    EntryError,
    ExtendError,
    KeyReusedError,
    OutcomeUnknownError,
    UsageError,
)
from cairn.core.hasher import Hasher
from cairn.core.header import Kind
from cairn.core.segment import Segment
from cairn.store.interface import Store

BATCH_ENTRIES: Final = 65_536
"""Entries that `extend` commits at once, at most: enough for a sealed segment of their own."""
BATCH_BYTES: Final = 16 * 2**20
"""Bytes of entries that `extend` commits at once, about: bounds what it holds in memory."""
BATCH_SECONDS: Final = 0.5
"""How long `extend` may hold an entry before it commits, when the next one comes."""
GROUP_TEXTS: Final = 128
"""Texts that are laid out at once: so few that they are still in the cache."""
TURN_SECONDS: Final = 0.0005
"""How long a thread keeps the interpreter that another waits for, while `extend` does both."""
BACKGROUND_FROM: Final = 8192
"""Entries from which on a batch is committed while `extend` encodes the next one."""
COLUMNS_FROM: Final = 64
"""Values from which on sealing them as columns is quicker than one by one."""
MAX_KEY: Final = 255
"""Characters of an idempotency key, as HTTP services commonly bound it."""


_ROOM: Final = bytes(SALT_BYTES)


class _RefusedError(Exception):
    """An item was refused, by the encoder and not by the iterable itself."""

    def __init__(self, cause: EntryError) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(eq=False, slots=True)
class Append:
    """Values to record together, all or none, a block each; and then what became of them.

    Raises:
        EntryError: there is no value, or the key is not 1 to 255 printable characters.
    """

    texts: Sequence[bytes]
    """The canonical JSON of each value."""
    key: str | None = None
    """What a retry of the same values is recognised by."""
    last: Block | None = None
    """The block of the last value, once all are durable."""
    error: CairnError | None = None
    """Why they were not recorded."""
    _same: Append | None = None  # an earlier one of the same commit with the same key
    _done: bool = False

    def __post_init__(self) -> None:
        if not self.texts:
            raise EntryError("there is no value to record")
        if self.key is not None:
            require_key(self.key)

    def result(self) -> Block:
        """Return the block of the last value; raise what kept them from being recorded."""
        if self.last is None:
            raise self.error or OutcomeUnknownError("the writer was interrupted")
        return self.last


class _Batch:
    """Texts of canonical JSON to be sealed, laid out group by group while they are in the cache."""

    def __init__(self) -> None:
        self._groups: list[tuple[list[int], bytes]] = []

    def add(self, texts: list[bytes]) -> None:
        """Take some more texts."""
        if texts:
            self._groups.append((list(map(len, texts)), _ROOM.join([b"", *texts])))

    def __len__(self) -> int:
        return sum(len(lengths) for lengths, _ in self._groups)

    def columns(self) -> tuple[list[int], bytearray]:
        """Return the bytes of each text; and the texts, with room for a salt before each."""
        lengths = [length for group, _ in self._groups for length in group]
        return lengths, bytearray().join(texts for _, texts in self._groups)


class _Commits:
    """Batches on their way to the disk: a large one in a thread, while the next is encoded.

    One at a time and in order. Leaving waits for what is under way, and raises what kept it from
    being durable.
    """

    def __init__(self, commit: Callable[[_Batch], None]) -> None:
        self._commit = commit
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: tuple[int, Future[None]] | None = None
        self.durable = 0
        """Entries."""

    def add(self, batch: _Batch) -> None:
        """Commit a batch, after those before it."""
        self._settle()
        if len(batch) < BACKGROUND_FROM:
            self._commit(batch)
            self.durable += len(batch)
            return
        if self._thread is None:
            _QuickTurns.begin()
            self._thread = ThreadPoolExecutor(1, "cairn-extend")
        self._waiting = len(batch), self._thread.submit(self._commit, batch)

    def _settle(self) -> None:
        if self._waiting is not None:
            count, commit = self._waiting
            commit.result()  # who is interrupted here has yet to count it
            self._waiting = None
            self.durable += count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            try:
                self._thread.shutdown()
            finally:
                _QuickTurns.end()
        self._settle()


class _QuickTurns:
    """Lets Python's threads take turns quickly while some `extend` commits in the background.

    Committing is a hundred short steps that each leave the interpreter to the thread that encodes,
    and at Python's usual interval of 5 ms it would get it back so late that nothing overlapped.
    """

    _lock = Lock()
    _holders = 0  # owned by _lock, with the next
    _usual = 0.0

    @classmethod
    def begin(cls) -> None:
        with cls._lock:
            if cls._holders == 0:
                cls._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(cls._usual, TURN_SECONDS))
            cls._holders += 1

    @classmethod
    def end(cls) -> None:
        with cls._lock:
            cls._holders -= 1
            if cls._holders == 0:
                sys.setswitchinterval(cls._usual)


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
        self._process = os.getpid()
        self._turn = Condition()
        self._owner: int | None = None  # owned by _turn; the thread whose turn it is
        self._pending: list[Append] = []  # owned by _turn; whose turn is next takes them all
        self._tip: _Tip | None = None  # owned by who commits; None: read it from the store

    def commit(self, appends: Sequence[Append]) -> None:
        """Record each of `appends` (at least one), as `Ledger.commit` says.

        They are queued, and whoever's turn comes first seals and commits the whole queue.
        """
        self._begin_in_child()
        mine = False
        try:
            with self._turn:
                self._require_no_turn()
                self._pending += appends  # taken all at once, so that one stands for the others
                try:
                    self._turn.wait_for(lambda: appends[0]._done or self._owner is None)
                except BaseException:  # interrupted: withdraw, unless being committed already
                    self._pending = [other for other in self._pending if other not in appends]
                    raise
                if not appends[0]._done:
                    queue, self._pending = self._pending, []
                    self._owner, mine = get_ident(), True
            if mine:
                self._commit_all(queue)
        finally:
            if mine:
                self._end_turn()

    def extend(self, items: Iterable[Any], encode: Callable[[Any], bytes]) -> int:
        """Record what `encode` makes of the items, as `Ledger.extend` says; return how many.

        Raises:
            ExtendError: `encode` refused an item; all before it are durable.
            OutcomeUnknownError: the disk failed.
        """
        self._begin_in_child()
        with self._turn:
            self._require_no_turn()  # a thread of ours would wait for this one
        commits = _Commits(self._commit_batch)
        try:
            with commits:
                for batch in _batches(items, encode):
                    commits.add(batch)
        except _RefusedError as error:
            raise ExtendError(commits.durable, error.cause) from error.cause
        except OutcomeUnknownError as error:
            error.durable = commits.durable
            raise
        except BaseException as error:
            error.add_note(f"the {commits.durable} items before are durable")
            raise
        return commits.durable

    def _commit_batch(self, batch: _Batch) -> None:
        """Make a block of each text, all durable."""
        salts = self._entropy(SALT_BYTES * len(batch))
        with self.own_turn():
            self._store_segment(self._seal(batch, salts, self._read_tip()), {})

    def record(self, text: bytes, *, erase: int | None = None) -> Block:
        """Append a record of the ledger itself: `text`, canonical JSON within its limits.

        With `erase`, it is that of the erasure of this block, which the store notes with it.
        Requires the turn: see `own_turn`.
        """
        tip = self._read_tip()
        timestamp = max(self._clock(), tip.timestamp)
        entry = Entry(self._entropy(SALT_BYTES), text)
        block = Block.of(
            Kind.RECORD, entry, index=tip.length, previous_hash=tip.hash, timestamp=timestamp
        )
        self._store_segment(Segment.from_blocks(tip.length, [block]), {}, erase)
        return block

    @contextmanager
    def own_turn(self) -> Iterator[None]:
        """Wait until no other thread commits, and keep them waiting."""
        self._begin_in_child()
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

    def forget_end(self) -> None:
        """Read from the store what the next block follows: it was changed. Requires the turn."""
        self._tip = None

    def _begin_in_child(self) -> None:
        """Forget, after a fork, the thread whose turn it was: it has not come along."""
        if self._process != os.getpid():
            self._process, self._turn = os.getpid(), Condition()
            self._owner, self._pending, self._tip = None, [], None

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

    def _commit_all(self, appends: list[Append]) -> None:
        """Commit all of `appends` at once, and leave each a block or an error."""
        fresh: list[Append] = []
        try:
            for append in appends:
                if append.key is None or not self._recall(append, fresh):
                    fresh.append(append)
            if fresh:
                self._commit_fresh(fresh)
            for append in appends:
                if append._same is not None:
                    append.last = append._same.last
        except CairnError as error:
            for append in appends:
                if append.last is None and append.error is None:
                    append.error = type(error)(*error.args)
                    append.error.__cause__ = error
        finally:
            for append in appends:
                if append.last is None and append.error is None:
                    append.error = OutcomeUnknownError("the writer was interrupted")
                append._done = True

    def _commit_fresh(self, appends: list[Append]) -> None:
        """Seal the values of `appends` and make them durable, with their keys."""
        tip = self._read_tip()
        texts = [text for append in appends for text in append.texts]
        seal = self._as_blocks if len(texts) < COLUMNS_FROM else self._as_columns
        segment, block_at = seal(texts, tip)
        ends = list(accumulate((len(append.texts) for append in appends), initial=0))
        keys = {
            append.key: range(tip.length + start, tip.length + stop)
            for append, (start, stop) in zip(appends, pairwise(ends), strict=True)
            if append.key is not None
        }
        self._store_segment(segment, keys)
        for append, end in zip(appends, ends[1:], strict=True):
            append.last = block_at(end - 1)

    def _as_blocks(self, texts: list[bytes], tip: _Tip) -> tuple[Segment, Callable[[int], Block]]:
        """Seal texts one by one; return them, and what gives the block of each."""
        timestamp = max(self._clock(), tip.timestamp)
        blocks, previous_hash = [], tip.hash
        for index, text in enumerate(texts, start=tip.length):
            entry = Entry(self._entropy(SALT_BYTES), text)
            block = Block.of(
                Kind.VALUE, entry, index=index, previous_hash=previous_hash, timestamp=timestamp
            )
            blocks.append(block)
            previous_hash = block.stored_hash
        return Segment.from_blocks(tip.length, blocks), blocks.__getitem__

    def _as_columns(self, texts: list[bytes], tip: _Tip) -> tuple[Segment, Callable[[int], Block]]:
        """Do the same as columns."""
        batch = _Batch()
        batch.add(texts)
        segment = self._seal(batch, self._entropy(SALT_BYTES * len(texts)), tip)
        return segment, segment.block

    def _recall(self, append: Append, fresh: list[Append]) -> bool:
        """Answer an append whose key is known already, from the store or from this commit."""
        assert append.key is not None
        places = self._store.recall(append.key)
        recorded: Sequence[bytes] | None
        if places is not None:
            recorded, append.last = self._recorded(append.key, places)
        else:
            append._same = next((a for a in fresh if a.key == append.key), None)
            recorded = append._same.texts if append._same else append.texts
        if recorded is None or list(recorded) != list(append.texts):
            append.last = append._same = None
            what = "for a value that is erased" if recorded is None else "for another value"
            append.error = KeyReusedError(f"key {append.key!r} was used {what}")
        return (append.last or append._same or append.error) is not None

    def _recorded(self, key: str, places: range) -> tuple[list[bytes] | None, Block]:
        """Return what was recorded under `key`: the canonical texts and the last block.

        None where one of the texts was erased since.
        """
        blocks = [
            block
            for segment in self._store.scan(places.start, places.stop)
            for block in segment.blocks()
        ]
        if not blocks or len(blocks) != len(places):
            raise DamagedError(f"key {key!r} names blocks {places}, which are not all there")
        erased = any(block.erased for block in blocks)
        return None if erased else [block.data_json() for block in blocks], blocks[-1]

    def _seal(self, batch: _Batch, salts: bytes, tip: _Tip) -> Segment:
        return Segment.seal(
            *batch.columns(),
            salts,
            start=tip.length,
            previous_hash=tip.hash,
            timestamp=max(self._clock(), tip.timestamp),
            hasher=self._hasher,
        )

    def _store_segment(
        self, segment: Segment, keys: Mapping[str, range], erase: int | None = None
    ) -> None:
        """Make `segment` durable, with its keys. Requires the turn."""
        self._tip = None  # until the store has it
        self._store.append(segment, keys, erase)
        self._tip = _tip_of(segment)

    def _read_tip(self) -> _Tip:
        """Return what the next block follows. Requires the turn."""
        if self._tip is None:
            length = self._store.head().length
            segments = list(self._store.scan(length - 1, length))
            if not segments:
                raise DamagedError(f"block {length - 1}, the recorded head, is not there")
            self._tip = _tip_of(segments[-1])
        return self._tip


def _batches(items: Iterable[Any], encode: Callable[[Any], bytes]) -> Iterator[_Batch]:
    """Yield the items as canonical JSON, in batches; before an error of theirs, what there is.

    Each is encoded before the next one is asked for: that may be the same object, changed.
    """
    batch, texts = _Batch(), list[bytes]()
    most, count, size = min(GROUP_TEXTS, BATCH_ENTRIES), 0, 0
    due = time.monotonic() + BATCH_SECONDS
    try:
        for item in items:
            try:
                text = encode(item)
            except EntryError as error:
                raise _RefusedError(error) from error
            texts.append(text)
            size += len(text)
            if len(texts) < most and size < BATCH_BYTES and time.monotonic() < due:
                continue
            batch.add(texts)
            count, texts = count + len(texts), []
            if count >= BATCH_ENTRIES or size >= BATCH_BYTES or time.monotonic() >= due:
                yield batch
                batch, count, size, due = _Batch(), 0, 0, time.monotonic() + BATCH_SECONDS
            most = min(GROUP_TEXTS, BATCH_ENTRIES - count)
    except GeneratorExit:
        raise
    except BaseException:
        batch.add(texts)
        if batch:
            yield batch
        raise
    batch.add(texts)
    if batch:
        yield batch


def require_key(key: object) -> None:
    """Refuse what is no key of a retry.

    Raises:
        EntryError: it is not 1 to 255 printable characters.
    """
    if not (isinstance(key, str) and 1 <= len(key) <= MAX_KEY and key.isprintable()):
        raise EntryError(f"a key has 1 to {MAX_KEY} printable characters, found {key!r:.80}")


def _tip_of(segment: Segment) -> _Tip:
    return _Tip(segment.stop, segment.hashes[-1].tobytes(), int(segment.fields["timestamp"][-1]))
