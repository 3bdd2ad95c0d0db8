"""The node: a ledger, its writer, its readers and those who follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from cairn.core.block import Block
from cairn.ledger import Ledger
from cairn.ledger.search import Page, find_blocks
from cairn.ledger.writer import Append
from cairn.node.appender import Appender
from cairn.node.checkpoints import Checkpoints, WitnessAddress
from cairn.node.validator import Validator
from cairn.report import Report

Result = TypeVar("Result")
Shown = TypeVar("Shown")

READERS: Final = 4
"""Threads that read blocks: enough to keep a disk busy, few enough to bound memory."""
FOLLOW_BLOCKS: Final = 128
"""Blocks that one who follows is given at once, at most."""


class Node:
    """Everything that a service does with one ledger, on one event loop.

    An asynchronous context manager: it starts with a running loop, and closes the ledger.
    """

    def __init__(
        self, ledger: Ledger, directory: Path, witnesses: Sequence[WitnessAddress] = ()
    ) -> None:
        """Serve `ledger`, open to write, which lies in `directory`.

        `witnesses` are asked to cosign its checkpoints.
        """
        self.ledger = ledger
        self.directory = directory
        self.committed: Callable[[list[Append], float], None] = lambda _appends, _seconds: None
        """Told of every commit and the seconds it took, on the event loop."""
        self.checkpoints = Checkpoints(lambda: ledger.notary, witnesses)
        self._validator = Validator(directory, ledger.keyring.folder)
        self._readers = ThreadPoolExecutor(READERS, "cairn-reader")
        self._searcher = ThreadPoolExecutor(1, "cairn-searcher")  # so that reading goes on

    async def __aenter__(self) -> Self:
        self._appender = Appender(self.ledger, self._committed)
        self._grown = asyncio.Event()  # set, and replaced by a new one, by every commit
        self._stopping = False
        self._latest: tuple[int, Callable[..., Any], asyncio.Future[Any]] | None = None
        self.length = len(self.ledger)
        """Blocks, those of the last commit included."""
        self.checkpoints.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await self.checkpoints.stop()
        await asyncio.to_thread(self._close)

    def stop(self) -> None:
        """Let those go who wait for what may take long: followers, and validation."""
        self._stopping = True
        self._validator.stop()
        self._grown.set()

    def _close(self) -> None:
        self._appender.close()
        self._readers.shutdown()
        self._searcher.shutdown()
        self.ledger.close()

    @property
    def healthy(self) -> bool:
        """Whether the node can do its work: only a bug of ours makes it false."""
        return self._appender.alive

    async def append(self, append: Append) -> Block:
        """Record what `append` holds; return the block of its last value, durable.

        Raises:
            CairnError: as for `Ledger.append_all`.
        """
        return await self._appender.append(append)

    async def read(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, which reads a few blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def search(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, which reads many blocks: one search at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._searcher, work)

    async def validate(self) -> Report:
        """Validate the stored ledger, in a process of its own.

        Raises:
            StoreError: the run came to no verdict.
        """
        return await self._validator.run()

    async def follow(
        self, start: int, show: Callable[[Page], Shown], *, seconds: float
    ) -> AsyncGenerator[Shown | None, None]:
        """Yield what `show` makes of the blocks from position `start` on, as they come.

        None when none has come for so many `seconds`. Ends when the node stops. Holds no queue: one
        who is slow reads later. Those who keep up share the reading and the showing.
        """
        while not self._stopping:
            grown = self._grown
            if start < self.length:
                start, shown = await self._shared(start, show)
                yield shown
                continue
            try:
                await asyncio.wait_for(grown.wait(), seconds)
            except TimeoutError:
                yield None

    async def _shared(self, start: int, show: Callable[[Page], Shown]) -> tuple[int, Shown]:
        """Return the position after the next blocks, and what `show` makes of them."""

        def work() -> tuple[int, Shown]:
            page = find_blocks(self.ledger, start=start, limit=FOLLOW_BLOCKS)
            after = page.places[-1] + 1 if page.places else self.length  # a gap is passed over
            return after if page.next is None else page.next, show(page)

        latest = self._latest
        if latest is None or latest[:2] != (start, show):
            task = asyncio.ensure_future(self.read(work))
            task.add_done_callback(self._forget_failed)
            latest = self._latest = (start, show, task)
        following, shown = await asyncio.shield(latest[2])
        return following, shown

    def _forget_failed(self, task: asyncio.Future[Any]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._latest = None

    def _committed(self, appends: list[Append], seconds: float) -> None:
        ends = [append.last.index + 1 for append in appends if append.last]
        self.length = max([self.length, *ends])
        self._grown.set()
        self._grown = asyncio.Event()
        self.checkpoints.grown()
        self.committed(appends, seconds)
