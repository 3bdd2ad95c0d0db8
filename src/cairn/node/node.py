"""The node: a ledger, its writer, its readers and those who follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from cairn.core.block import Block
from cairn.ledger import Ledger
from cairn.ledger.search import Page, find_blocks
from cairn.ledger.writer import Append
from cairn.node.appender import Appender
from cairn.node.validator import Validator
from cairn.report import Report

Result = TypeVar("Result")

READERS: Final = 4
"""Threads that read blocks: enough to keep a disk busy, few enough to bound memory."""
FOLLOW_BLOCKS: Final = 128
"""Blocks that one who follows is given at once, at most."""


class Node:
    """Everything that a service does with one ledger, on one event loop.

    An asynchronous context manager: it starts with a running loop, and closes the ledger.
    """

    def __init__(self, ledger: Ledger, directory: Path) -> None:
        """Serve `ledger`, open to write, which lies in `directory`."""
        self.ledger = ledger
        self.directory = directory
        self.committed: Callable[[list[Append], float], None] = lambda _appends, _seconds: None
        """Told of every commit and the seconds it took, on the event loop."""
        self._validator = Validator(directory)
        self._readers = ThreadPoolExecutor(READERS, "cairn-reader")
        self._searcher = ThreadPoolExecutor(1, "cairn-searcher")  # so that reading goes on

    async def __aenter__(self) -> Self:
        self._appender = Appender(self.ledger, self._committed)
        self._grown = asyncio.Event()  # set, and replaced by a new one, by every commit
        self._stopping = False
        self.length = len(self.ledger)
        """Blocks, those of the last commit included."""
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
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

    async def follow(self, start: int, *, seconds: float) -> AsyncGenerator[Page, None]:
        """Yield the blocks from position `start` on, as they come, until the node stops.

        When none has come for so many `seconds`, a page with none. Holds no queue: one who is slow
        reads later.
        """
        while not self._stopping:
            grown = self._grown
            if start < self.length:
                page = await self.read(partial(self._next_blocks, start))
                start = page.places[-1] + 1
                yield page
                continue
            try:
                await asyncio.wait_for(grown.wait(), seconds)
            except TimeoutError:
                yield Page([], [], None)

    def _next_blocks(self, start: int) -> Page:
        return find_blocks(self.ledger, start=start, limit=FOLLOW_BLOCKS)

    def _committed(self, appends: list[Append], seconds: float) -> None:
        ends = [append.last.index + 1 for append in appends if append.last]
        self.length = max([self.length, *ends])
        self._grown.set()
        self._grown = asyncio.Event()
        self.committed(appends, seconds)
