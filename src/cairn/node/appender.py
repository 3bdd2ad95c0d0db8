"""Group commit for asyncio: what arrives while one commit is under way shares the next."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, NamedTuple, TypeVar

from cairn.core.block import Block
from cairn.core.errors import CairnError
from cairn.ledger import Ledger
from cairn.ledger.writer import Append

COMMIT_ENTRIES: Final = 65_536
"""Entries in a commit, about: more would only make those that came first wait longer."""

_Asked = tuple[Append, asyncio.Future[None]]
Result = TypeVar("Result")


class _Between(NamedTuple):
    """Work that is to be done while nothing is committed."""

    work: Callable[[], Any]
    future: asyncio.Future[Any]


log = logging.getLogger(__name__)


class WriterStoppedError(CairnError):
    """A bug has ended the writer: nothing can be appended until the node is restarted."""


class Appender:
    """Commits appends in a thread of its own, so that the event loop never waits for the disk."""

    def __init__(self, ledger: Ledger, committed: Callable[[list[Append], float], None]) -> None:
        """Start; `committed` is called on the event loop with each commit and the seconds it took.

        Requires a running event loop.
        """
        self._ledger = ledger
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Asked | _Between | None] = SimpleQueue()
        self._bug: BaseException | None = None  # which ended the thread
        self._thread = Thread(target=self._run, name="cairn-appender", daemon=True)
        self._thread.start()

    async def append(self, append: Append) -> Block:
        """Record what `append` holds; return the block of its last value, durable.

        Raises:
            CairnError: as for `Ledger.append`.
            WriterStoppedError: a bug has ended the writer.
        """
        future = self._loop.create_future()
        self._queue.put((append, future))
        if self._bug is not None:
            self._fail_queued()
        await future
        return append.result()

    async def between(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, done between two commits, in the thread that commits.

        What it has the event loop told is told after the commits before it, and before those after.

        Raises:
            WriterStoppedError: a bug has ended the writer.
        """
        future: asyncio.Future[Result] = self._loop.create_future()
        self._queue.put(_Between(work, future))
        if self._bug is not None:
            self._fail_queued()
        return await future

    @property
    def alive(self) -> bool:
        """Whether appends are being answered; not after a bug of ours."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Commit what was asked for, and stop. Waits for the disk."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            group = [self._queue.get()]
            entries = 0
            with suppress(Empty):
                while entries < COMMIT_ENTRIES:
                    group.append(self._queue.get_nowait())
                    last = group[-1]
                    if last is None or isinstance(last, _Between):
                        break
                    entries += len(last[0].texts)
            open_ = None not in group
            for one in group:
                if isinstance(one, _Between):
                    self._do(one)
            if asked := [one for one in group if one and not isinstance(one, _Between)]:
                self._commit(asked)

    def _do(self, between: _Between) -> None:
        """Do what is to be done between commits. An error is that of who has asked for it."""
        try:
            result, error = between.work(), None
        except Exception as found:
            result, error = None, found
        self._loop.call_soon_threadsafe(_settle, between.future, result, error)

    def _commit(self, group: list[_Asked]) -> None:
        appends = [append for append, _ in group]
        futures = [future for _, future in group]
        began = time.perf_counter()
        try:
            self._ledger.commit(appends)
        except CairnError as error:  # not one of theirs: the ledger is closed, say
            for append in appends:
                append.error = append.error or error
        except BaseException as error:
            log.exception("the writer stops: this is a bug")
            self._bug = error
            for asked in group:
                self._queue.put(asked)
            self._loop.call_soon_threadsafe(self._fail_queued)
            raise SystemExit from None  # of this thread
        seconds = time.perf_counter() - began
        self._loop.call_soon_threadsafe(self._answer, appends, futures, seconds)

    def _fail_queued(self) -> None:
        """Answer those whom nobody will answer any more."""
        with suppress(Empty):
            while True:
                asked = self._queue.get_nowait()
                if asked and not asked[1].done():  # the future of both kinds
                    asked[1].set_exception(WriterStoppedError(f"the writer stopped: {self._bug!r}"))

    def _answer(
        self, appends: list[Append], futures: list[asyncio.Future[None]], seconds: float
    ) -> None:
        self._committed(appends, seconds)
        for future in futures:
            if not future.done():  # who asked may have gone
                future.set_result(None)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():  # who asked may have gone
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
