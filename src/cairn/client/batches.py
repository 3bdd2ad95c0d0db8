"""Recording a stream of values in batches. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from cairn.client.calls import Calls
from cairn.client.errors import NodeError, RefusedEntryError
from cairn.client.retry import Steps
from cairn.client.wire import require_size
from cairn.core.errors import EntryError, ExtendError, OutcomeUnknownError

BATCH_LINES: Final = 4096
"""Values sent at once, at most: makes the cost of a round trip and an fsync small."""
BATCH_BYTES: Final = 4 * 2**20
"""Bytes sent at once, unless one value has more: bounds what a failure sends again."""
BATCH_SECONDS: Final = 0.2
"""How long a value may wait before it is sent, when the next one comes."""


class _StopError(Exception):
    """An item was refused, here or by the node, and not by the iterable itself."""

    def __init__(self, cause: EntryError) -> None:
        super().__init__(cause)
        self.cause = cause


class Extension:
    """Items on their way to a node, each batch of them all or nothing, under a key of its own.

    Inside `accounting`, `take` each item, and `flush` at the end or at an error of the iterable.
    """

    def __init__(self, calls: Calls, encode: Callable[[Any], bytes]) -> None:
        self.durable = 0
        """Items that the node has acknowledged: all before the first that it has not."""
        self._calls = calls
        self._encode = encode
        self._lines: list[bytes] = []
        self._size = 0
        self._began = time.monotonic()

    def take(self, item: Any) -> Steps[None]:
        """Take an item in; send what is there once that is enough, or old enough."""
        line = self._line(item)
        if self._size + len(line) > BATCH_BYTES:
            yield from self.flush()
        self._lines.append(line)
        self._size += len(line)
        waited = time.monotonic() - self._began
        if len(self._lines) >= BATCH_LINES or waited >= BATCH_SECONDS:
            yield from self.flush()

    def flush(self) -> Steps[None]:
        """Send what is there. What fails is not sent by the next flush."""
        lines, self._lines, self._size = self._lines, [], 0
        if lines:
            yield from self._record(lines)
        self._began = time.monotonic()

    @contextmanager
    def accounting(self) -> Iterator[None]:
        """Say of every error how many items are durable."""
        try:
            yield
        except _StopError as error:
            raise ExtendError(self.durable, error.cause) from error.cause
        except (NodeError, OutcomeUnknownError) as error:
            error.durable = self.durable
            raise
        except BaseException as error:
            error.add_note(f"the {self.durable} items before are durable")
            raise

    def _line(self, item: Any) -> bytes:
        try:
            line = self._encode(item)
            require_size(len(line))
        except EntryError as error:
            raise _StopError(error) from error
        return line

    def _record(self, lines: list[bytes]) -> Steps[None]:
        """Record `lines`; where one is refused, all those before it.

        A refusal that names none is looked for in halves: something between here and the node may
        take less at once than the node does.
        """
        try:
            yield from self._calls.append_all(lines, None)
            self.durable += len(lines)
        except RefusedEntryError as error:
            named = error.position if error.position in range(len(lines)) else None
            at = len(lines) // 2 if named is None else named
            if at:
                yield from self._record(lines[:at])
            if named is not None or len(lines) == 1:
                raise _StopError(error) from error
            yield from self._record(lines[at:])
