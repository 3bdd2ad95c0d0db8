"""The handler: it queues what is logged, and has a thread that records what is queued."""

from __future__ import annotations

import codecs
import logging
import os
import secrets
import threading
from collections.abc import Iterable
from contextlib import suppress
from os import PathLike
from typing import Any, Final, Protocol

import orjson

from cairn.core.errors import EntryError, UsageError
from cairn.ledger import Ledger
from cairn.logging.entry import entry_of, shown, shrunk
from cairn.logging.process import flush_with_multiprocessing, open_handlers, termination, workers
from cairn.logging.queue import FLUSH_SECONDS, NAME, Gap, Queue

CAPACITY: Final = 10_000
"""Entries that may wait, by default: some seconds of a busy application, some MB."""

WAIT_SECONDS: Final = 1.0
"""How long a logging call waits for room, by default: longer than a slow commit."""

FIRST_PAUSE_SECONDS: Final = 0.05
"""Pause before the second try to record; it doubles with each."""
LONGEST_PAUSE_SECONDS: Final = 2.0
"""So that a node or disk that is back is soon found, and at exit tried a few times more."""
PATIENCE_SECONDS: Final = 5.0
"""How long a client tries by itself, unreported: a node that is restarted is back by then."""

STOP_SECONDS: Final = 1.0
"""How long `close` then waits for a try that is under way."""


class Target(Protocol):
    """What is asked of a ledger: `Ledger` and `cairn.client.Client` have it."""

    def append_all(self, values: Iterable[object], *, key: str | None = None) -> range:
        """Record values, all or nothing; with the same key, once."""

    def close(self) -> None:
        """Let go of it."""


class _EndError(Exception):
    """The handler was closed before all could be recorded."""


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
        self._url: str | None = None
        if isinstance(target, str) and target.startswith(("http://", "https://")):
            self._url = target
        self._token = token
        self._capacity = capacity
        self._wait = wait
        self._opens = isinstance(target, str | PathLike)
        self._process = os.getpid()
        self._inherited: list[Target | None] = []
        self.synchronous = False
        self._queue = Queue(capacity)
        self._worker: threading.Thread | None = None
        # It may fail, so only then does `logging` get to know of this handler.
        self._target: Target | None
        if self._url:
            self._target = self._connected()
        elif isinstance(target, str | PathLike):
            self._target = Ledger.open(target)
        else:
            self._target = target
        super().__init__()
        self._start()
        open_handlers.add(self)
        termination.install()

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
            number = self._queue.put(entry_of(record, self._message(record)), self._wait)
            if self.synchronous:
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
        open_handlers.discard(self)
        termination.uninstall()
        super().close()

    def _message(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) if self.formatter else record.getMessage()
        except Exception:  # a mistake in the call, for which no record is lost
            self.handleError(record)
            return f"{shown(record.msg)} % {shown(record.args)}"

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
                flush_with_multiprocessing(self)

    def _connected(self) -> Target:
        """Return a client of the node."""
        if self._url is None:
            raise UsageError(
                f"the ledger was opened by process {self._process}, before a fork, and cannot be "
                "written by this one: make the LedgerHandler after the fork, or give it a URL"
            )
        from cairn.client import Client  # only here: whoever has a ledger need not load httpx

        # Else the first request would import it. After a fork amidst that, a child could not.
        codecs.lookup("idna")
        return Client(self._url, token=self._token, patience=PATIENCE_SECONDS)

    def _let_go(self) -> None:
        """Wait for the thread that records, and close what was opened here."""
        if self._worker is not None:
            self._worker.join(STOP_SECONDS)
            if self._opens and self._target is not None and not self._worker.is_alive():
                self._target.close()

    def _work(self, queue: Queue, target: Target) -> None:
        """Record what comes, until the end. This is the thread that records."""
        ident = threading.get_ident()
        workers.add(ident)
        try:
            while batch := queue.take():
                values = [e.value() if isinstance(e, Gap) else orjson.loads(e) for e in batch]
                self._record(queue, target, values)
                queue.settle(len(batch))
        except _EndError:
            pass
        finally:
            workers.discard(ident)

    def _record(self, queue: Queue, target: Target, values: list[dict[str, Any]]) -> None:
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
        self, queue: Queue, target: Target, value: dict[str, Any], error: EntryError
    ) -> None:
        """Record one entry that the ledger refused as it is."""
        for smaller in shrunk(value):
            try:
                return self._append(queue, target, [smaller])
            except EntryError as refusal:
                error = refusal
        try:
            self._append(queue, target, [queue.refused(error).value()])
        except EntryError:
            self._report(f"an entry is not recorded at all: {value!r:.200}")

    def _append(self, queue: Queue, target: Target, values: list[dict[str, Any]]) -> None:
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

    def start_over(self) -> None:
        """Begin anew in the child of a fork, without what belongs to the parent.

        That is kept, not closed: closing would end the parent's connections, and SQLite forbids it.
        """
        self._inherited.append(self._target)
        self._queue = Queue(self._capacity)
        self._target = self._worker = None
        self.synchronous = False


def _is_own(record: logging.LogRecord) -> bool:
    """Whether a thread that records logged it, directly or through a `QueueHandler`.

    Recording it would make another. Other processes may have threads with the same numbers.
    """
    return threading.get_ident() in workers or (
        record.thread in workers and record.process == os.getpid()
    )
