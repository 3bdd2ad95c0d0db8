"""What is done in the lab of one node, one act after another, and what catches it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final
from weakref import WeakKeyDictionary

from cairn.api import problems
from cairn.core.errors import CairnError, DamagedError, FormatError, InconsistentError
from cairn.core.rules import InvalidChainError
from cairn.lab.attacks import Fork
from cairn.lab.caught import Caught
from cairn.lab.playground import Done, Playground
from cairn.node import Node, checkpoints
from cairn.proof import witness
from cairn.report import Report

_TELLING: Final = tuple(logging.getLogger(module.__name__) for module in (checkpoints, problems))
"""Who tells the operator of a ledger that is broken."""
_BROKEN: Final = (DamagedError, FormatError, InconsistentError, InvalidChainError)


class Laboratory:
    """The playground of a node: its ledger is a scratch copy, and goes on being served."""

    def __init__(self, node: Node, *, asks_for_token: bool = False) -> None:
        """`asks_for_token`: whether not everyone may change something."""
        self.asks_for_token = asks_for_token
        self._node = node
        self._play = Playground(node.ledger, node.directory)
        self._lock = asyncio.Lock()  # one act at a time
        self._caught: WeakKeyDictionary[Done, Caught] = WeakKeyDictionary()
        self.report: Report | None = None
        """What the validation after the last act, or after undoing one, has found."""
        self.fork: Fork | None = None
        """The last fork, until something else is done."""

    @property
    def done(self) -> list[tuple[Done, Caught | None]]:
        """What was done and not undone, in order; None where nobody has looked what catches it."""
        return [(done, self._caught.get(done)) for done in self._play.done]

    async def act(self, work: Callable[[Playground], Done], *, look: bool = True) -> Done:
        """Let `work` do something; with `look`, validate then, to see what catches it.

        Raises:
            CairnError: as `work` does. Nothing was changed.
        """
        async with self._lock:
            if look:  # what is there has been signed, as it has where time passes
                with suppress(CairnError):
                    await self._node.checkpoints.covering(self._node.final)
            with self._breaking():
                done = await self._tamper(work)
                if look and (report := await self._validated()):
                    self._caught[done] = Caught.of(done, report)
            return done

    async def undo(self, *, everything: bool = False) -> None:
        """Undo the last act, or all of them, and validate.

        Raises:
            UsageError: there is none.
        """
        async with self._lock:
            with self._breaking():
                await self._tamper(Playground.undo)
                while everything and self._play.done:  # one by one: others append in between
                    await self._tamper(Playground.undo)
                self._node.checkpoints.restart()
                await self._validated()

    async def show_two_histories(self) -> None:
        """Make a fork.

        Raises:
            CairnError: as `Playground.fork` does.
        """
        async with self._lock:
            # What its witness finds is shown to who has asked for it.
            told = logging.getLogger(witness.__name__)
            told.addFilter(_nothing)
            try:
                self.fork = await asyncio.to_thread(self._play.fork)
            finally:
                told.removeFilter(_nothing)

    async def _tamper(self, work: Callable[[Playground], Done]) -> Done:
        def tamper() -> tuple[Done, int | None]:
            done = work(self._play)
            self.report = self.fork = None
            return done, done.replaced_from

        return await self._node.tamper(tamper)

    async def _validated(self) -> Report | None:
        """Return what validation finds; None where it comes to no verdict."""
        with suppress(CairnError):
            self.report = await self._node.validate()
        return self.report

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """Let nobody be alarmed, from now until all is undone: it is done on purpose."""
        for one in _TELLING:
            one.addFilter(_unbroken)
        try:
            yield
        finally:
            if not self._play.done:
                for one in _TELLING:
                    one.removeFilter(_unbroken)


def _unbroken(record: logging.LogRecord) -> bool:
    """Whether something else is said than that the ledger is broken."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(isinstance(argument, _BROKEN) for argument in arguments)


def _nothing(_record: logging.LogRecord) -> bool:
    return False
