"""Stand-ins for a ledger: slow, closed, failing; and what the tests read from one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cairn import Ledger


class Memory:
    """Remembers values, each key once, as a ledger does."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.keys: list[str | None] = []
        """The key of every try, whether it succeeded or not."""
        self.closed = False
        self._known: dict[str | None, range] = {}

    def append_all(self, values: Iterable[object], *, key: str | None = None) -> range:
        self.keys.append(key)
        return self.keep(list(values), key)

    def keep(self, values: list[object], key: str | None) -> range:
        if key not in self._known:
            self._known[key] = range(len(self.values), len(self.values) + len(values))
            self.values += values
        return self._known[key]

    def close(self) -> None:
        self.closed = True

    @property
    def messages(self) -> list[str]:
        return [value["message"] for value in self.values if "dropped" not in value]

    @property
    def gaps(self) -> list[int]:
        return [value["dropped"] for value in self.values if "dropped" in value]


class Gated(Memory):
    """Records nothing while its gate is closed, as it is at first; `once`: after each time, too."""

    def __init__(self, *, once: bool = False) -> None:
        super().__init__()
        self._once = once
        self.gate = threading.Event()
        self.reached = threading.Event()

    def append_all(self, values: Iterable[object], *, key: str | None = None) -> range:
        self.reached.set()
        self.gate.wait()
        if self._once:
            self.gate.clear()
        return super().append_all(values, key=key)


class Failing(Memory):
    """Fails as often as there are errors left; may have recorded all the same."""

    def __init__(self, errors: Iterable[Exception], *, records: bool = False) -> None:
        super().__init__()
        self.errors: Iterator[Exception] = iter(errors)
        self._records = records

    def append_all(self, values: Iterable[object], *, key: str | None = None) -> range:
        values = list(values)
        for error in self.errors:
            self.keys.append(key)
            if self._records:
                self.keep(values, key)
            raise error
        return super().append_all(values, key=key)


class Talking(Memory):
    """Says something to the loggers of the process whenever it records."""

    def __init__(self, say: Callable[[], None]) -> None:
        super().__init__()
        self._say = say

    def append_all(self, values: Iterable[object], *, key: str | None = None) -> range:
        self._say()
        return super().append_all(values, key=key)


class Slow:
    """A ledger on a disk that takes its time, so that entries have to wait in the queue."""

    def __init__(self, ledger: Ledger, seconds: float = 0.05) -> None:
        self._ledger = ledger
        self._seconds = seconds

    def append_all(self, values: Iterable[object], *, key: str | None = None) -> range:
        time.sleep(self._seconds)
        return self._ledger.append_all(values, key=key)

    def close(self) -> None:
        self._ledger.close()


def recorded(ledger: Ledger) -> list[Any]:
    """Return all entries of a ledger, having checked that it is valid."""
    report = ledger.validate()
    assert report.valid, report.failure
    return [block.data for block in ledger if block.kind == "value"]
