"""Executors that do what no good one does: late, in any order, or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class _Late(Future[Any]):
    """A future that is worked on when somebody wants to know."""

    def __init__(self, begin: Callable[[], None]) -> None:
        super().__init__()
        self._begin = begin

    def result(self, timeout: float | None = None) -> Any:
        self._begin()
        return super().result(0)


class Late(Executor):
    """Runs what it was given when the first result is asked for, in an order by chance.

    `fails` is raised instead of running the so-manieth task.
    """

    def __init__(self, seed: int, fails: tuple[int, BaseException] | None = None) -> None:
        self._chance = random.Random(seed)
        self._fails = fails
        self._tasks: list[tuple[_Late, Callable[[], Any]]] = []
        self.given = 0
        self.cancelled = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = _Late(self._run)
        self._tasks.append((future, lambda: fn(*args, **kwargs)))
        if self._fails is not None and self.given == self._fails[0]:
            error = self._fails[1]
            self._tasks[-1] = (future, lambda: _raise(error))
        self.given += 1
        return future

    def _run(self) -> None:
        tasks, self._tasks = self._tasks, []
        self._chance.shuffle(tasks)
        for future, run in tasks:
            try:
                future.set_result(run())
            except BaseException as error:
                future.set_exception(error)

    def left(self) -> int:
        """Return how many tasks still wait, and have not been called off."""
        return sum(not future.cancelled() for future, _ in self._tasks)


def _raise(error: BaseException) -> None:
    raise error
