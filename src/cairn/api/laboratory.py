"""What is done in the lab of one node, one act after another, and what catches it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from cairn.core.errors import CairnError
from cairn.lab.attacks import Fork
from cairn.lab.caught import Caught
from cairn.lab.playground import Done, Playground
from cairn.node import Node
from cairn.proof import witness
from cairn.report import Report


class Laboratory:
    """The playground of a node: its ledger is a scratch copy, and goes on being served."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._play = Playground(node.ledger, node.directory)
        self._lock = asyncio.Lock()  # one act at a time
        self._caught: list[Caught | None] = []
        self.report: Report | None = None
        """What the validation after the last act, or after undoing one, has found."""
        # What the witness of a fork finds is shown to who has asked for it.
        logging.getLogger(witness.__name__).setLevel(logging.CRITICAL)
        self.fork: Fork | None = None
        """The last fork, until something else is done."""

    @property
    def done(self) -> list[tuple[Done, Caught | None]]:
        """What was done and not undone, in order; None where nobody has looked what catches it."""
        return list(zip(self._play.done, self._caught, strict=False))

    async def act(self, work: Callable[[Playground], Done], *, look: bool = True) -> Done:
        """Let `work` do something; with `look`, validate then, to see what catches it.

        Raises:
            CairnError: as `work` does. Nothing was changed.
        """
        async with self._lock:
            if look:  # what is there has been signed, as it has where time passes
                with suppress(CairnError):
                    await self._node.checkpoints.covering(self._node.final)
            done = await self._node.tamper(lambda: work(self._play))
            self._caught.append(None)
            self.report = self.fork = None
            if look and (report := await self._validated()):
                self._caught[-1] = Caught.of(done, report)
            return done

    async def undo(self) -> None:
        """Undo the last act, and validate.

        Raises:
            UsageError: there is none.
        """
        async with self._lock:
            await self._node.tamper(self._play.undo)
            self._caught.pop()
            self.fork = None
            self._node.checkpoints.restart()
            await self._validated()

    async def show_two_histories(self) -> None:
        """Make a fork.

        Raises:
            CairnError: as `Playground.fork` does.
        """
        async with self._lock:
            self.fork = await asyncio.to_thread(self._play.fork)

    async def _validated(self) -> Report | None:
        """Return what validation finds; None where it comes to no verdict."""
        self.report = None
        with suppress(CairnError):
            self.report = await self._node.validate()
        return self.report
