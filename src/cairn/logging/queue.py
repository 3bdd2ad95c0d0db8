"""Entries on their way to the ledger: a bounded queue, and gaps where there was no room."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from cairn.core.block import rfc3339
from cairn.core.errors import EntryError, StoreError, UsageError
from cairn.ledger.ledger import now_us

NAME: Final = "cairn.logging"
"""The logger that entries about the handler itself name."""

QUEUE_BYTES: Final = 64 * 2**20
"""Bytes of entries from which on a queue is full, too: bounds memory when entries are large."""

BATCH_ENTRIES: Final = 1000
"""Entries recorded at once, at most: makes the cost of an fsync or a request small."""
BATCH_BYTES: Final = 2**20
"""Bytes from which on a batch takes no more: with the largest entry, half of what a node takes."""

FLUSH_SECONDS: Final = 10.0
"""How long flush, close and the end by SIGTERM wait: what service managers allow at least."""


@dataclass(slots=True)
class Gap:
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


class Queue:
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
        self._entries: deque[bytes | Gap] = deque()
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
        now = now_us()
        self.dropped += 1
        last = self._entries[-1]  # there is one: the queue is full
        if isinstance(last, Gap):
            last.count += 1
            last.until = now
        else:
            self._entries.append(Gap(1, "there was no room for them", now, now))

    def refused(self, error: EntryError) -> Gap:
        """Count one that the ledger refused; return the gap."""
        now = now_us()
        with self.lock:
            self.dropped += 1
        return Gap(1, f"refused, {error!s:.200}", now, now)

    def take(self) -> list[bytes | Gap]:
        """Wait for entries and return the first of them; none at the end."""
        batch: list[bytes | Gap] = []
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
                size += 0 if isinstance(entry, Gap) else len(entry)
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
