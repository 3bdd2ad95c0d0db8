"""A `logging.Handler` that records what an application logs in a ledger, or at a node.

    logging.getLogger("audit").addHandler(LedgerHandler("audit.cairn"))

Read in this order: an entry (`_entry`, `_Plain`), the queue of entries (`_Queue`), the handler, and
what concerns the process as a whole (`_Termination`, forks).
"""

from __future__ import annotations

import _thread
import codecs
import logging
import math
import os
import reprlib
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from types import FrameType
from typing import Any, Final, NamedTuple, Protocol

import orjson

from cairn.core.block import rfc3339
from cairn.core.canonical import MAX_INTEGER, MIN_INTEGER
from cairn.core.errors import EntryError, StoreError, UsageError
from cairn.core.genesis import Limits
from cairn.encoding import Encoder
from cairn.ledger import Ledger

NAME: Final = "cairn.logging"
"""The logger that entries about the handler itself name."""

CAPACITY: Final = 10_000
"""Entries that may wait, by default: some seconds of a busy application, some MB."""
QUEUE_BYTES: Final = 64 * 2**20
"""Bytes of entries from which on a queue is full, too: bounds memory when entries are large."""
WAIT_SECONDS: Final = 1.0
"""How long a logging call waits for room, by default: longer than a slow commit."""

BATCH_ENTRIES: Final = 1000
"""Entries recorded at once, at most: makes the cost of an fsync or a request small."""
BATCH_BYTES: Final = 2**20
"""Bytes from which on a batch takes no more: with the largest entry, half of what a node takes."""

FIRST_PAUSE_SECONDS: Final = 0.05
"""Pause before the second try to record; it doubles with each."""
LONGEST_PAUSE_SECONDS: Final = 2.0
"""So that a node or disk that is back is soon found, and at exit tried a few times more."""
PATIENCE_SECONDS: Final = 5.0
"""How long a client tries by itself, unreported: a node that is restarted is back by then."""

FLUSH_SECONDS: Final = 10.0
"""How long flush, close and the end by SIGTERM wait: what service managers allow at least."""
STOP_SECONDS: Final = 1.0
"""How long `close` then waits for a try that is under way."""
RESEND_SECONDS: Final = 0.05
"""How soon a signal that was missed is sent again."""

_URLS: Final = ("http://", "https://")


class Target(Protocol):
    """What is asked of a ledger: `Ledger` and `cairn.client.Client` have it."""

    def append_all(self, values: Iterable[object], *, key: str | None = None) -> range:
        """Record values, all or nothing; with the same key, once."""

    def close(self) -> None:
        """Let go of it."""


# An entry


class _Bounds(NamedTuple):
    """How much of an entry is kept."""

    chars: int
    """Characters of a text."""
    values: int
    """Values inside a member of the entry, in all."""
    depth: int
    """Containers inside one another in a member."""


_BOUNDS: Final = (
    _Bounds(2**24, 2**13, 100),
    _Bounds(2**16, 2**10, 16),
    _Bounds(2**12, 2**8, 8),
    _Bounds(2**8, 2**4, 2),
    _Bounds(2**5, 0, 0),
)
"""What is tried in turn where an entry is odd or too large. The first keeps what can be kept, such
as all texts beside a NaN; the last makes some 250 bytes, without a container in it."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What a record has by itself, or from a formatter; all else came in as `extra`."""

_ENCODER: Final = Encoder(Limits())
_TRACEBACKS: Final = logging.Formatter()


def _entry(record: logging.LogRecord, message: str) -> bytes:
    """Return what is recorded of `record`, as canonical JSON within the default limits."""
    entry: dict[str, Any] = {
        "time": _time(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": message,
    }
    if exception := _exception(record):
        entry["exception"] = exception
    if record.stack_info:
        entry["stack"] = record.stack_info
    if extra := {name: value for name, value in vars(record).items() if name not in _STANDARD}:
        entry["extra"] = extra
    try:
        return _ENCODER.value(entry)
    except Exception:  # whatever the application put into it: cyclic, hostile, too large
        return _fitting(entry)


def _fitting(entry: dict[str, Any]) -> bytes:
    for bounds in _BOUNDS:
        try:
            return _ENCODER.value(_Plain(bounds).entry(entry))
        except EntryError as error:  # too large, since all else is plain now
            refusal = error
    raise refusal


def _time(created: float) -> str:
    """Return a time in seconds since the Unix epoch as RFC 3339, or as it is if it is none."""
    try:
        return rfc3339(round(float(created) * 1_000_000))
    except (TypeError, ValueError, OverflowError):
        return _shown(created)


def _exception(record: logging.LogRecord) -> str | None:
    if record.exc_text or not record.exc_info:
        return record.exc_text
    try:
        return _TRACEBACKS.formatException(record.exc_info)
    except Exception:  # an exception of the application that cannot even be shown
        return _shown(record.exc_info[0])


class _Plain:
    """Makes canonical-JSON-able values of any, within `bounds`. `cut` tells if something is gone.

    What JSON cannot say becomes text: numbers past its range, bytes, objects, odd keys.
    """

    def __init__(self, bounds: _Bounds) -> None:
        self._bounds = bounds
        self.cut = False

    def entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return an entry with plain members, and a mark if it was truncated."""
        plain = {
            name: self._value(value, self._bounds.values, self._bounds.depth)
            for name, value in entry.items()
        }
        return {**plain, "truncated": True} if self.cut else plain

    def _value(self, value: object, budget: int, depth: int) -> object:
        """Return `value`, with at most `budget` values in it."""
        if value is None or isinstance(value, bool) or _is_number(value):
            return value
        try:
            if isinstance(value, dict | list | tuple | set | frozenset):
                return self._container(value, budget, depth)
            return self._text(_shown(value))
        except Exception as error:  # such as another thread that changes it meanwhile
            self.cut = True
            return _not_shown(value, error)

    def _container(self, value: Collection[Any], budget: int, depth: int) -> object:
        kept = min(len(value), budget)
        if depth == 0 or (value and not kept):
            self.cut = True
            return self._text(_shown(value))
        # An equal share for each, so that no member can use up the room of the next.
        share = (budget - kept) // kept if kept else 0
        left = len(value) - kept
        self.cut = self.cut or left > 0
        if not isinstance(value, dict):
            items = [self._value(item, share, depth - 1) for item in islice(value, kept)]
            return [*items, f"… ({left} more)"] if left else items
        members: dict[str, object] = {}
        for key, item in islice(value.items(), kept):
            members[self._key(key, members)] = self._value(item, share, depth - 1)
        if left:
            members[self._key("…", members)] = f"{left} more"
        return members

    def _key(self, key: object, members: dict[str, object]) -> str:
        """Return `key` as a text that is no key of `members` yet."""
        text = self._text(_shown(key))
        while text in members:
            text += "~"
        return text

    def _text(self, text: str) -> str:
        kept = text[: self._bounds.chars]
        if len(kept) < len(text):
            self.cut = True
            kept += f"… ({len(text)} characters)"
        return kept.encode("utf-8", "backslashreplace").decode()  # half a surrogate is no text


def _is_number(value: object) -> bool:
    if isinstance(value, int):
        return MIN_INTEGER <= value <= MAX_INTEGER
    return isinstance(value, float) and math.isfinite(value)


def _shown(value: object) -> str:
    """Return any value as text, whatever its own methods do."""
    try:
        if isinstance(value, dict | list | tuple | set | frozenset):
            return reprlib.repr(value)  # does not follow cycles, nor grow without end
        if isinstance(value, int) and value.bit_length() > 1000:
            return hex(value)  # its decimal digits would take quadratic time
        if isinstance(value, BaseException | bytes | bytearray):
            return repr(value)
        return str(value)
    except Exception as error:
        return _not_shown(value, error)


def _not_shown(value: object, error: Exception) -> str:
    return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


# The queue


@dataclass(slots=True)
class _Gap:
    """Records that were dropped, one after the other. It is recorded where they would have been."""

    count: int
    reason: str
    since: int
    """When the first was dropped, in µs since the Unix epoch."""
    until: int
    """When the last was."""

    def value(self) -> dict[str, Any]:
        """Return the entry. No record makes one with `dropped`: its extras are under `extra`."""
        return {
            "time": rfc3339(self.until),
            "level": "ERROR",
            "logger": NAME,
            "message": f"records dropped: {self.reason}",
            "dropped": self.count,
            "since": rfc3339(self.since),
        }


def _now_us() -> int:
    return time.time_ns() // 1000


class _Queue:
    """Entries on their way to the ledger, in order; where there was no room, a gap.

    The lock is reentrant, as what logs may be a signal handler or a finalizer that interrupted
    `put` in the same thread. So `put` changes the queue in steps that leave it sound: `append` is
    one step of the interpreter, and nothing is called between reading and writing a count.
    """

    def __init__(self, capacity: int) -> None:
        self.lock = threading.RLock()
        self._arrived = threading.Condition(self.lock)  # for the worker: entries, or the end
        self._room = threading.Condition(self.lock)  # for those who log
        self._settled = threading.Condition(self.lock)  # for those who flush
        self._capacity = capacity
        self._entries: deque[bytes | _Gap] = deque()
        self._bytes = 0  # of the entries in the queue, without gaps
        self._taken = 0  # entries that left the queue, ever
        self._done = 0  # of these, the entries that are durable
        self._in_vain = (-1, 0.0)  # _done, when somebody last waited in vain, and for how long
        self._closed = self._abandoned = False
        self.dropped = 0

    def put(self, text: bytes, wait: float) -> int:
        """Queue an entry, or drop it if there is no room for `wait` seconds; return its number.

        Raises:
            UsageError: the queue is closed.
        """
        size = len(text)
        with self.lock:
            room = self._room.wait_for(lambda: self._closed or self._has_room(), wait)
            if self._closed:
                raise UsageError("the handler is closed")
            if room:
                self._bytes += size
                self._entries.append(text)
            else:
                self._drop()
            self._arrived.notify()
            return self._taken + len(self._entries)

    def _has_room(self) -> bool:
        return len(self._entries) < self._capacity and self._bytes < QUEUE_BYTES

    def _drop(self) -> None:
        now = _now_us()
        self.dropped += 1
        last = self._entries[-1]  # there is one: the queue is full
        if isinstance(last, _Gap):
            last.count += 1
            last.until = now
        else:
            self._entries.append(_Gap(1, "there was no room for them", now, now))

    def refused(self, error: EntryError) -> _Gap:
        """Count one that the ledger refused; return the gap."""
        now = _now_us()
        with self.lock:
            self.dropped += 1
        return _Gap(1, f"refused, {error!s:.200}", now, now)

    def take(self) -> list[bytes | _Gap]:
        """Wait for entries and return the first of them; none at the end."""
        batch: list[bytes | _Gap] = []
        size = 0
        with self.lock:
            self._arrived.wait_for(lambda: self._entries or self._closed)
            while (
                self._entries
                and not self._abandoned
                and len(batch) < BATCH_ENTRIES
                and size < BATCH_BYTES
            ):
                entry = self._entries.popleft()
                size += 0 if isinstance(entry, _Gap) else len(entry)
                batch.append(entry)
            self._bytes -= size
            self._taken += len(batch)
            self._room.notify_all()
        return batch

    def settle(self, count: int) -> None:
        """Note that the first `count` of those taken are durable."""
        with self.lock:
            self._done += count
            self._settled.notify_all()

    def wait(self, timeout: float | None, number: int | None = None) -> bool:
        """Wait until the entry with this number, by default the last, is durable; return if so."""
        with self.lock:
            began = time.monotonic()
            goal = self._taken + len(self._entries) if number is None else number
            settled = self._settled.wait_for(lambda: self._done >= goal, timeout)
            if not settled:
                self._in_vain = (self._done, time.monotonic() - began)
            return settled

    def close(self) -> bool:
        """Let no more entries in; return False if that was so already."""
        with self.lock:
            already, self._closed = self._closed, True
            self._arrived.notify()
            self._room.notify_all()
            return not already

    def finish(self) -> None:
        """Wait some time for the rest to be durable, then end.

        Waiting in vain before counts, if nothing became durable since: at exit, `flush` comes just
        before `close`.

        Raises:
            StoreError: some are not known to be.
        """
        with self.lock:
            done, waited = self._in_vain
            durable = self.wait(FLUSH_SECONDS - (waited if done == self._done else 0.0))
            self._abandoned = True
            self._arrived.notify()
            if not durable:
                left = self._taken + len(self._entries) - self._done
                raise StoreError(f"{left} log entries are not known to be recorded")

    def pause(self, seconds: float) -> bool:
        """Wait, but not past the end; return whether this is it."""
        with self.lock:
            return self._arrived.wait_for(lambda: self._abandoned, seconds)


class _EndError(Exception):
    """The handler was closed before all could be recorded."""


# The handler


class LedgerHandler(logging.Handler):
    """Records each log record as an entry of a ledger, in the background.

    `target` is a ledger's directory, which is opened here, created if missing, and closed with the
    handler; an open `Ledger` or `cairn.client.Client`, which must stay open until `close` of the
    handler; or a node's URL (`http://…`, `https://…`), with `token` if the node wants one.

    An entry is a JSON object: `time` (RFC 3339, UTC, µs), `level`, `logger`, `message`, and where
    there are such, `exception` and `stack` as text and `extra`, an object of the record's extras.
    A formatter, if one is set, makes `message`. What JSON cannot say is recorded as its `str`. What
    is past the ledger's limits, or 16 MiB, is cut, longest texts first, and marked by
    `"truncated": true`.

    A logging call queues its entry. One thread records what is in the queue, in one commit; when it
    fails, with the same key again until it succeeds, with growing pauses. It says so on standard
    error, once. So every record is in the ledger once, those of a thread in order.

    When `capacity` entries (or 64 MiB) wait, a logging call waits for room, `wait` seconds at most,
    never longer. Then the record is dropped, and counted in `dropped` and by an entry in its place,
    with `"logger": "cairn.logging"` and the number as `"dropped"`.

    Not lost is what was logged before:

    - `flush` returned True;
    - the interpreter exits, by an exception too, or `close`: both record what is queued. What could
      not be recorded in 10 s is counted on standard error;
    - SIGTERM, if nobody handles it when the handler is made, in the main thread. It is then handled
      here: what is queued is recorded, in 10 s at most, and the process dies by the signal. From
      the signal on a logging call returns when its record is durable. As all handlers in Python,
      this one has to wait for C code that keeps the main thread. An application that handles
      SIGTERM itself, before or later, is not interfered with; it should exit, or call `flush`;
    - a restart of the node, or a full disk, within 10 s of an exit and while there is room.

    Lost is what is queued, a few milliseconds' worth if the disk keeps up, when the process ends by
    SIGKILL, a crash of the interpreter, `os._exit`, `os.exec…` or a loss of power.

    In the child of a fork a node's URL works as before, over a connection of its own; what the
    parent has queued is left to the parent. A ledger cannot be shared: there, each record is
    reported by `handleError`, and not recorded. Make the handler after the fork, or use a node.

    What is logged by the thread that records, by httpx for example, is not recorded.

    Raises:
        CairnError: the directory cannot be opened, as `Ledger.open` says.
        UsageError: there is no capacity.
    """

    def __init__(
        self,
        target: str | PathLike[str] | Target,
        *,
        token: str | None = None,
        capacity: int = CAPACITY,
        wait: float = WAIT_SECONDS,
    ) -> None:
        if capacity < 1:
            raise UsageError(f"a queue has a capacity of at least 1, found {capacity}")
        self._url = target if isinstance(target, str) and target.startswith(_URLS) else None
        self._token = token
        self._capacity = capacity
        self._wait = wait
        self._opens = isinstance(target, str | PathLike)
        self._process = os.getpid()
        self._inherited: list[Target | None] = []
        self._synchronous = False
        self._queue = _Queue(capacity)
        self._worker: threading.Thread | None = None
        # It may fail, so only then does `logging` get to know of this handler.
        self._target: Target | None = self._connected() if self._url else _opened(target)
        super().__init__()
        self._start()
        _open.add(self)
        _termination.install()

    @property
    def dropped(self) -> int:
        """Records that were not recorded since there was no room, or the ledger refused them."""
        return self._queue.dropped

    def handle(self, record: logging.LogRecord) -> bool:
        """Filter and emit, without the handler's lock: nobody waits for room in a row."""
        kept: object = self.filter(record)
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return bool(kept)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue an entry; blocks for `wait` seconds at most, and never raises."""
        if _is_own(record):
            return
        try:
            self._start()
            number = self._queue.put(_entry(record, self._message(record)), self._wait)
            if self._synchronous:
                self._queue.wait(FLUSH_SECONDS, number)
        except Exception:
            self.handleError(record)

    def flush(self, timeout: float | None = FLUSH_SECONDS) -> bool:  # type: ignore[override]
        """Wait until all that was logged before is durable; return whether it is.

        `timeout` is in seconds; None waits as long as it takes.
        """
        return self._queue.wait(timeout)

    def close(self) -> None:
        """Record what is queued, in 10 s at most, and let go of what was opened here.

        What could not be recorded is reported by `handleError`. Closing twice is fine.
        """
        if self._queue.close():
            for step in (self._queue.finish, self._let_go):
                try:
                    step()
                except Exception:
                    self._report("closing the handler")
        _open.discard(self)
        _termination.uninstall()
        super().close()

    def _message(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) if self.formatter else record.getMessage()
        except Exception:  # a mistake in the call, for which no record is lost
            self.handleError(record)
            return f"{_shown(record.msg)} % {_shown(record.args)}"

    def _start(self) -> None:
        """Have a thread that records: a new one in the child of a fork, on a target of its own."""
        if self._worker is not None:
            return
        with self._queue.lock:
            target = self._connected() if self._target is None else self._target
            worker = threading.Thread(
                target=self._work, args=(self._queue, target), name=NAME, daemon=True
            )
            if self._worker is None:  # a signal handler that logs may have been here
                self._worker, self._target = worker, target
                try:
                    worker.start()
                except RuntimeError:  # there are too many now
                    self._worker = None
                    raise
                _flush_with_multiprocessing(self)

    def _connected(self) -> Target:
        """Return a client of the node."""
        if self._url is None:
            raise UsageError(
                f"the ledger was opened by process {self._process}, before a fork, and cannot be "
                "written by this one: make the LedgerHandler after the fork, or give it a URL"
            )
        from cairn.client import Client  # only here: whoever has a ledger need not have httpx

        # Else the first request would import it. After a fork amidst that, a child could not.
        codecs.lookup("idna")
        return Client(self._url, token=self._token, patience=PATIENCE_SECONDS)

    def _let_go(self) -> None:
        """Wait for the thread that records, and close what was opened here."""
        if self._worker is not None:
            self._worker.join(STOP_SECONDS)
            if self._opens and self._target is not None and not self._worker.is_alive():
                self._target.close()

    def _work(self, queue: _Queue, target: Target) -> None:
        """Record what comes, until the end. This is the thread that records."""
        ident = threading.get_ident()
        _workers.add(ident)
        try:
            while batch := queue.take():
                self._record(queue, target, list(map(_value, batch)))
                queue.settle(len(batch))
        except _EndError:
            pass
        finally:
            _workers.discard(ident)

    def _record(self, queue: _Queue, target: Target, values: list[dict[str, Any]]) -> None:
        """Record entries in order; those that the ledger refuses, truncated or as a gap.

        Raises:
            _EndError: it could not be done before the end.
        """
        try:
            self._append(queue, target, values)
        except EntryError as error:
            middle = len(values) // 2
            if middle:  # nothing was written: find out which it was
                self._record(queue, target, values[:middle])
                self._record(queue, target, values[middle:])
            else:
                self._record_less(queue, target, values[0], error)

    def _record_less(
        self, queue: _Queue, target: Target, value: dict[str, Any], error: EntryError
    ) -> None:
        """Record one entry that the ledger refused as it is."""
        for smaller in _smaller(value):
            try:
                return self._append(queue, target, [smaller])
            except EntryError as refusal:
                error = refusal
        try:
            self._append(queue, target, [queue.refused(error).value()])
        except EntryError:
            self._report(f"an entry is not recorded at all: {value!r:.200}")

    def _append(self, queue: _Queue, target: Target, values: list[dict[str, Any]]) -> None:
        """Record values, trying until it succeeds.

        Raises:
            EntryError: one of them is refused; nothing was written.
            _EndError: it could not be done before the end.
        """
        key, pause = secrets.token_hex(16), 0.0
        while True:
            try:
                target.append_all(values, key=key)
            except EntryError:
                raise
            except Exception:  # whatever it is, the next try may succeed
                if not pause:
                    self._report("log entries cannot be recorded yet, and wait")
                pause = min(2 * pause or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
                if queue.pause(pause):
                    raise _EndError from None
            else:
                return

    def _report(self, message: str) -> None:
        """Tell of the current exception as `logging` does, and go on whatever becomes of that."""
        with suppress(Exception):
            self.handleError(logging.makeLogRecord({"name": NAME, "msg": message}))

    def _start_over(self) -> None:
        """Begin anew in the child of a fork, without what belongs to the parent.

        That is kept, not closed: closing would end the parent's connections, and SQLite forbids it.
        """
        self._inherited.append(self._target)
        self._queue = _Queue(self._capacity)
        self._target = self._worker = None
        self._synchronous = False


def _opened(target: str | PathLike[str] | Target) -> Target:
    return Ledger.open(target) if isinstance(target, str | PathLike) else target


def _value(entry: bytes | _Gap) -> dict[str, Any]:
    if isinstance(entry, _Gap):
        return entry.value()
    value: dict[str, Any] = orjson.loads(entry)
    return value


def _smaller(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an entry in less and less bytes."""
    for bounds in _BOUNDS[1:]:
        plain = _Plain(bounds)
        smaller = plain.entry(value)
        if plain.cut:
            yield smaller


def _is_own(record: logging.LogRecord) -> bool:
    """Whether a thread that records logged it, directly or through a `QueueHandler`.

    Recording it would make another. Other processes may have threads with the same numbers.
    """
    return threading.get_ident() in _workers or (
        record.thread in _workers and record.process == os.getpid()
    )


# The process as a whole


class _Termination:
    """What SIGTERM does, where nobody else handles it: record what is queued, then die of it.

    Python runs a handler of a signal in the main thread, between any two of its bytecodes: it may
    hold any lock. So nothing is waited for there. A new thread waits, and then sends the signal
    again, as only the main thread may set what a signal does.
    """

    def __init__(self) -> None:
        self._begun = self._flushed = False

    def install(self) -> None:
        """Handle SIGTERM, if this is the main thread and nobody handles it."""
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self)

    def uninstall(self) -> None:
        """Let SIGTERM be, when the last handler is closed."""
        idle = not _open and not self._begun and _in_main_thread()
        if idle and signal.getsignal(signal.SIGTERM) is self:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if self._flushed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self._begun:  # a second signal does not cut short what the first began
            self._begun = True
            for handler in list(_open):
                handler._synchronous = True
            try:
                # Not threading.Thread: starting one takes a lock that may be held.
                _thread.start_new_thread(self._flush, ())
            except RuntimeError:  # the interpreter is exiting, and starts no threads any more
                self._flush()

    def _flush(self) -> None:
        try:
            end = time.monotonic() + FLUSH_SECONDS
            for handler in list(_open):
                handler.flush(max(0.0, end - time.monotonic()))
        finally:
            self._flushed = True
            self._signal_main_thread()

    def _signal_main_thread(self) -> None:
        """Have the main thread called again, out of whatever it waits for.

        More than once: a signal that comes when the main thread is about to wait does not wake it.
        """
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)
        while signal.getsignal(signal.SIGTERM) is self:
            time.sleep(RESEND_SECONDS)
            signal.pthread_kill(main, signal.SIGTERM)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _flush_with_multiprocessing(handler: LedgerHandler) -> None:
    """Flush at the end of a child of `multiprocessing`: it ends by `os._exit`."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(handler, handler.flush, exitpriority=0)


def _after_fork() -> None:
    """Leave the threads, locks and connections of the parent to it."""
    _workers.clear()
    for handler in list(_open):
        handler._start_over()
    _termination._begun = _termination._flushed = False


_open: Final[set[LedgerHandler]] = set()
"""Every handler that is not closed: what a signal or a fork concerns."""
_workers: Final[set[int]] = set()
"""The numbers of the threads that record."""
_termination: Final = _Termination()

os.register_at_fork(after_in_child=_after_fork)
