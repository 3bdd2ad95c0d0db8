"""Validating a store, by any number of workers, and what is said of it.

A worker takes a part of the store and returns what `core.validation` says of it. Here the answers
are put together, in order, whoever gave them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, NamedTuple

from cairn.core import rules
from cairn.core.entry import SALT_BYTES
from cairn.core.errors import DamagedError, EntryError, NoSuchBlockError, StoreError
from cairn.core.genesis import Terms
from cairn.core.hasher import Hasher
from cairn.core.header import LIMIT_63, NO_HASH
from cairn.core.rules import NUMBERS, Broken, Failure, InvalidChainError
from cairn.core.segment import Segment
from cairn.core.validation import Named, Summary, erasures, validate
from cairn.encoding import Encoder
from cairn.hashing import best_hasher, hasher
from cairn.report import Report
from cairn.store.flat import Part
from cairn.store.interface import Head, Store

WAITING: Final = 256
"""Parts that are given to an executor before the first of them must be done."""
TRIES: Final = 5
"""Times that what is not final is read again, since the chain was reorganised meanwhile."""
SHOWN: Final = 200
"""Bytes of an entry that a failure shows."""
ERASING_SECONDS: Final = 10.0
"""How long to wait while an entry that was found changed is being erased: that takes a moment, or
for ever, where it was interrupted."""
ERASING_POLL_SECONDS: Final = 0.01
_LEAST: Final = frozenset({"canonical", rules.ERASURE})
"""Rules that come after all others: a block that breaks another one is named by that."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is to check of every part."""

    terms: Terms
    every: bool = False
    canonical: bool = False
    hasher: str | None = None
    """The worker's own best, if None."""


class Checked(NamedTuple):
    """What a worker says of a part."""

    summary: Summary
    not_canonical: tuple[Failure, ...] = ()


Answer = Checked | str
"""Of a part that cannot be read, why."""


def check(part: Segment | Part, task: Task) -> Answer:
    """Check one part of a store, wherever this runs; or say how it cannot be read."""
    chosen = _hasher(task.hasher)
    try:
        segment = part.mapped(chosen) if isinstance(part, Part) else part
    except DamagedError as error:
        return str(error)
    summary = validate(segment, chosen, task.terms, every=task.every)
    return Checked(summary, tuple(_not_canonical(segment, task)) if task.canonical else ())


def validate_store(
    store: Store,
    task: Task,
    *,
    executor: Executor,
    start: int = 0,
    mark: Head | None = None,
    progress: Callable[[Summary], None] = lambda _total: None,
) -> tuple[Report, Head]:
    """Read `store` from block `start` to head and check every rule, as `Ledger.validate` says.

    `mark` is where an earlier run ended, which is where this one starts. Returns the report, and
    where this run has read all that can no longer change.

    What is not final may be replaced by another process while it is read. So where something is
    wrong there, and the chain ends otherwise than it did before, that part is read again.

    Raises:
        NoSuchBlockError, StoreError, UsageError: as `Ledger.validate`.
    """
    began = time.perf_counter()
    _hasher(task.hasher)  # there is one, or nothing is begun
    settled = found = _Found()
    try:
        final = store.final()  # before the head: it only rises
        head = store.head()
        if mark is None and not 0 <= start <= head.length:
            raise NoSuchBlockError(f"there is no block {start}; the ledger has {head.length}")
        reader = _Reader(store, task, executor, progress)
        upto = min(max(start, final), head.length)
        settled = reader.read(reader.begun(start, head, mark), start, upto)
        found = reader.finished(settled, start, upto, head)
        for _ in range(TRIES):
            now = store.head()
            if now == head or all(failure.index < final for failure in found.failures):
                break
            head = now
            settled = reader.begun(start, head, None) if start > final else settled
            found = reader.finished(settled, start, min(upto, head.length), head)
    except DamagedError as error:
        found = found.plus(_storage(found.total.stop if found.total else start, error))
    total, others = found.total, found.others
    failures = list(total.failures if total else ())
    named = {failure.index for failure in failures}  # of which one failure is enough
    failures += (o for o in others if o.rule not in _LEAST or o.index not in named)
    failures.sort(key=lambda failure: (failure.index, NUMBERS.get(failure.rule, len(NUMBERS) + 1)))
    erased = {at for at, _ in total.erased} if total else set()
    report = Report(
        valid=not failures,
        blocks=total.blocks if total else 0,
        bytes=total.nbytes if total else 0,
        seconds=time.perf_counter() - began,
        failures=tuple(failures if task.every else failures[:1]),
        erased=len(erased.difference(failure.index for failure in failures)),
    )
    end = settled.total
    return report, Head(end.stop, end.last_hash) if end else Head(0, NO_HASH)


class _Found(NamedTuple):
    """What was found so far."""

    total: Summary | None = None
    others: tuple[Failure, ...] = ()
    """Failures than those of the rules."""
    is_read: bool = True
    """Whether that is all of what was to be read."""
    is_damaged: bool = False
    """Whether something could not be read, which is in `others`."""

    @property
    def failures(self) -> tuple[Failure, ...]:
        return (*(self.total.failures if self.total else ()), *self.others)

    def plus(self, *failures: Failure) -> _Found:
        return self._replace(others=(*self.others, *failures))


@dataclass(frozen=True)
class _Reader:
    """Reads a store piece by piece, and puts together what is said of the pieces."""

    store: Store
    task: Task
    executor: Executor
    progress: Callable[[Summary], None]

    def begun(self, start: int, head: Head, mark: Head | None) -> _Found:
        """Return what there is to begin with, for a run from block `start` on."""
        edge = _edge(self.store, start, self.task) if 0 < start <= head.length else None
        return _Found(edge, tuple(_check_mark(mark, head, edge)) if mark else ())

    def read(self, found: _Found, start: int, stop: int) -> _Found:
        """Return what is found between two positions, too, where all is read that comes before."""
        total, others, is_read, is_damaged = found
        if not is_read:
            return found
        try:
            between = (start, stop)
            with closing(_in_order(self.store, between, self.task, self.executor)) as results:
                for checked in results:
                    follows = rules.index_follows(start, checked.summary.start)
                    if total is None and follows:
                        others += (rules.failure(start, "index", follows),)
                    total = total + checked.summary if total else checked.summary
                    others += checked.not_canonical
                    self.progress(total)
                    if (total.failures or others) and not self.task.every:
                        is_read = False
                        break
        except DamagedError as error:
            others += (_storage(total.stop if total else start, error),)
            is_read, is_damaged = False, True
        return _Found(total, others, is_read, is_damaged)

    def finished(self, found: _Found, start: int, at: int, head: Head) -> _Found:
        """Return what is found from position `at` to the end, too, in a run from `start` on."""
        found = self.read(found, at, head.length) if at < head.length else found
        total, store = found.total, self.store
        if found.is_damaged:
            return found
        try:
            before = _first(total, found.others, self.task)
            found = found.plus(*_unrecorded(store, total, before=before))
            if found.is_read:
                if start == 0:
                    store.require_nothing_else()
                found = found.plus(*_check_end(store, head, total.stop if total else start, total))
                if start == 0 and not found.failures:
                    found = found.plus(*_check_work(store, head, total))
        except DamagedError as error:
            found = found.plus(_storage(total.stop if total else start, error))
        return found


def _storage(at: int, error: DamagedError) -> Failure:
    return rules.failure(at, "storage", Broken("readable", "damaged", str(error)))


def require_sound_ends(store: Store, terms: Terms) -> None:
    """Refuse a store whose first or last block breaks a rule, or whose end is not the recorded one.

    Raises:
        InvalidChainError: which block, which rule.
    """
    head = store.head()
    last: Summary | None = None
    for at in dict.fromkeys((0, head.length - 1)):
        for segment in store.scan(at, at + 1):
            last = validate(segment, best_hasher(), terms)
            for failure in (*last.failures, *last.unrecorded(frozenset())):  # nothing is after it
                raise InvalidChainError(failure)
    whole = last and last.stop == head.length
    stop = head.length if whole else min(store.end(), head.length - 1)
    for failure in _check_end(store, head, stop, last):
        raise InvalidChainError(failure)


def _first(total: Summary | None, others: Iterable[Failure], task: Task) -> int:
    """Return the position before which a failure would still count; the end if all do."""
    known = [failure.index for failure in (*(total.failures if total else ()), *others)]
    return LIMIT_63 if task.every or not known else min(known)


def _unrecorded(store: Store, total: Summary | None, *, before: int) -> Iterator[Failure]:
    """Yield which erased blocks, of those before this position, no record after them names.

    Those that came since the run began are looked at, too: what it read may have been erased then.

    Raises:
        DamagedError: what comes after cannot be read, and might be the record.
    """
    if total is None or not any(at < before for at, _ in total.erased):
        return
    recorded: set[Named] = set()
    for part in store.parts(total.erased[0][0] + 1, store.head().length):
        if isinstance(part, Part) and not part.has_records(best_hasher()):
            continue
        recorded.update(erasures(part.segment() if isinstance(part, Part) else part))
    yield from (failure for failure in total.unrecorded(recorded) if failure.index < before)


def _in_order(
    store: Store, between: tuple[int, int], task: Task, executor: Executor
) -> Generator[Checked, None, None]:
    """Yield what is said of each part between two positions, in order, as far as they can be read.

    What lies in files is for the executor; all else is checked here, meanwhile.

    Raises:
        DamagedError: from there on, they cannot.
        StoreError: the workers are gone.
    """
    parts = store.parts(*between)
    waiting: deque[tuple[Part | None, Answer | Future[Answer]]] = deque()
    damage: DamagedError | None = None
    try:
        while True:
            try:
                part = next(parts, None)
            except DamagedError as error:
                part, damage = None, error
            if part is None:
                break
            if isinstance(part, Part):
                waiting.append((part, executor.submit(check, part, task)))
            else:  # and let go of it: it is not small
                waiting.append((None, check(part, task)))
            if len(waiting) >= WAITING:
                yield _result(*waiting.popleft(), task, store)
        while waiting:
            yield _result(*waiting.popleft(), task, store)
    except (BrokenExecutor, CancelledError) as error:
        why = str(error) or "they were called off"
        raise StoreError(f"validation came to no verdict, its workers are gone: {why}") from error
    finally:
        for _, answer in waiting:
            if isinstance(answer, Future):
                answer.cancel()
    if damage is not None:
        raise damage


def _result(
    part: Part | None, answer: Answer | Future[Answer], task: Task, store: Store
) -> Checked:
    """Return what was said of `part`; damage is believed only where it is found here, too."""
    said = answer.result() if isinstance(answer, Future) else answer
    if isinstance(said, Checked):
        return said if part is None else _after_erasures(part, said, task, store)
    assert part is not None, "what is in memory can be read"
    if isinstance(again := check(part, task), str):
        raise DamagedError(again)
    raise StoreError(f"a worker could not read what can be read here: {said}")


def _after_erasures(part: Part, said: Checked, task: Task, store: Store) -> Checked:
    """Return what is said of `part` when no entry that was found changed is being erased any more.

    Zeros do not come all at once, and what was read between them is no damage.
    """
    failures = [f for f in said.summary.failures if f.rule == "data_root"]
    changed = {failure.index for failure in (*failures, *said.not_canonical)}
    if not changed:
        return said
    deadline = time.monotonic() + ERASING_SECONDS
    while not changed.isdisjoint(store.erasing()) and time.monotonic() < deadline:
        time.sleep(ERASING_POLL_SECONDS)
    again = check(part, task)
    if isinstance(again, str):
        raise DamagedError(again)
    return again


def _edge(store: Store, start: int, task: Task) -> Summary | None:
    """Return what the block before `start` asks of the next one, and nothing else of it."""
    for segment in store.scan(start - 1, start):
        summary = validate(segment, best_hasher(), task.terms)
        summary = replace(summary, every=task.every, blocks=0, entries=0, nbytes=0, work=0)
        return replace(summary, failures=(), erased=())
    return None


def _check_mark(mark: Head, head: Head, edge: Summary | None) -> Iterator[Failure]:
    """Yield how the chain is not the one that an earlier run has validated."""
    if head.length < mark.length:
        meaning = "the chain is shorter than when it was validated last"
        yield rules.failure(head.length, "mark", Broken(mark.length, head.length, meaning))
    elif edge is None or edge.last_hash != mark.hash:
        meaning = "the chain was changed since it was validated last"
        broken = Broken(mark.hash.hex(), edge.last_hash.hex() if edge else "missing", meaning)
        yield rules.failure(mark.length - 1, "mark", broken)


def _hasher(name: str | None) -> Hasher:
    return best_hasher() if name is None else _named(name)


@cache  # one that is compiled, and holds memory of a GPU, is not for a part alone
def _named(name: str) -> Hasher:
    return hasher(name)


def _not_canonical(segment: Segment, task: Task) -> Iterator[Failure]:
    """Yield the blocks of which an entry is not the canonical JSON of its value."""
    encoder = Encoder(task.terms.limits)
    for i in range(len(segment)):
        for entry in segment.entries(i):
            if not entry.strip(b"\0") and segment.block(i).erased:
                continue
            text = entry[SALT_BYTES:]
            try:
                expected = encoder.text(text)
            except EntryError as error:
                shown = "acceptable JSON", _shown(str(error).encode(errors="replace"))
            else:
                if expected == text:
                    continue
                shown = _shown(expected), _shown(text)
            broken = Broken(*shown, "the data is not canonical JSON")
            yield rules.failure(segment.start + i, "canonical", broken)
            if not task.every:
                return
            break


def _shown(text: bytes) -> str:
    return text[:SHOWN].decode(errors="replace") + ("…" if len(text) > SHOWN else "")


def _check_work(store: Store, head: Head, total: Summary | None) -> Iterator[Failure]:
    """Yield how the chain work is not what the store has recorded, if that is still of `head`."""
    recorded, work = store.work(), total.work if total else 0
    if work != recorded and store.head() == head:
        broken = Broken(recorded, work, "the recorded work is not that of the blocks")
        yield rules.failure(head.length - 1, "head", broken)


def _check_end(store: Store, head: Head, stop: int, last: Summary | None) -> Iterator[Failure]:
    """Yield how the stored chain does not end where the store has recorded that it does.

    `stop` is where what was read ends.
    """
    end = store.end()  # before the head is looked at again: there may be appends meanwhile
    length = store.head().length
    if stop < max(head.length, 1):
        meaning = "blocks are missing at the end" if stop > 0 else "genesis is missing"
        yield rules.failure(max(stop, 0), "head", Broken(head.length, max(stop, 0), meaning))
    elif end > length:
        meaning = "there are blocks past the recorded end"
        yield rules.failure(length, "head", Broken(length, end, meaning))
    elif last and last.last_hash != head.hash:
        meaning = "the last block is not the one recorded as head"
        broken = Broken(head.hash.hex(), last.last_hash.hex(), meaning)
        yield rules.failure(head.length - 1, "head", broken)
