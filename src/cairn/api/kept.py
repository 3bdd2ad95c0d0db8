"""Values that many ask for and that cost something: made anew now and then, by one for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """What `make` returns, made anew when it is asked for and older than so many seconds."""

    def __init__(self, make: Callable[[], Awaitable[Value]], seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._value: tuple[float, Value] | None = None  # and when it was made

    async def get(self) -> Value:
        """Return it."""
        async with self._lock:
            if self._value is None or time.monotonic() > self._value[0] + self._seconds:
                self._value = time.monotonic(), await self._make()
            return self._value[1]
