"""Values that many ask for and that cost something: made anew now and then, by one for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """What `make` returns, made anew when it is asked for and older than so many seconds.

    Who asks while it is being made waits for that; who goes meanwhile does not end it.
    """

    def __init__(self, make: Callable[[], Awaitable[Value]], seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._making: asyncio.Task[Value] | None = None
        self._until = 0.0  # as `time.monotonic`

    async def get(self) -> Value:
        """Return it; raises what `make` raises."""
        if self._making is None or (self._making.done() and time.monotonic() > self._until):
            self._making = asyncio.create_task(self._made())
            self._making.add_done_callback(_look_at)  # who asked may have gone
        return await asyncio.shield(self._making)

    async def _made(self) -> Value:
        self._until = 0.0  # if it cannot be made, the next one who asks tries again
        value = await self._make()
        self._until = time.monotonic() + self._seconds
        return value


def _look_at(task: asyncio.Task[Value]) -> None:
    if not task.cancelled():
        task.exception()
