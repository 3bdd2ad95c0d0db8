"""Trying again: when, how often, and what is known when there was never an answer. No I/O.

Steps are a generator: it yields each `Try`, is sent the outcome, and returns the result; what may
wait for the disk likewise, as `Work`. So the same steps serve a client that blocks and one that
awaits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple, TypeVar

from cairn.client.answers import refusal, slug
from cairn.client.errors import UnreachableError
from cairn.client.wire import Answer, Lost, Request

FIRST_PAUSE: Final = 0.1
"""Seconds before the second try, at most: a lost connection is back at once."""
LONGEST_PAUSE: Final = 5.0
"""Seconds that the pause grows to, doubling: a node that was restarted is soon found."""

TRY_AGAIN: Final = frozenset({408, 429, 502, 503, 504})
"""Statuses that say: not now."""
NOTHING_DONE: Final = frozenset({"unavailable", "busy", "damaged", "pool-full", "halted"})
"""Problems by which a node says that it has not begun, with statuses that leave it open."""

Outcome = Answer | Lost
T = TypeVar("T")


class Try(NamedTuple):
    """What is to be done next."""

    request: Request
    wait: float
    """Seconds to wait before."""


Work = Callable[[], Any]
"""What may wait for the disk: a client that awaits does it in a thread."""

Steps = Generator[Try | Work, Any, T]


class Tries:
    """The tries of one request: how long to wait before the next, and what may have come of them.

    `clock` returns seconds that never go back; `chance()` a random number in [0, 1).
    """

    def __init__(
        self,
        patience: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Begin now; no try begins later than `patience` seconds from now."""
        self.patience = patience
        self.maybe_done = False
        """Whether the node may have done what one of the tries asked for."""
        self._clock = clock
        self._chance = chance
        self._pause = FIRST_PAUSE
        self._until = clock() + patience

    def note(self, outcome: Outcome) -> None:
        """Note what came of a try."""
        self.maybe_done = self.maybe_done or may_be_done(outcome)

    def pause(self, at_least: float = 0.0) -> float | None:
        """Return the seconds to wait before the next try; None if that would be too late.

        They are those that the node asked for, `at_least`, and a random part on top, so that those
        who failed together do not come back together.
        """
        pause = at_least + self._pause * (1 + self._chance()) / 2
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return pause if self._clock() + pause <= self._until else None

    def reached(self) -> None:
        """Be patient anew: the node is there."""
        self._until = self._clock() + self.patience

    def went_well(self) -> None:
        """Begin with short pauses again: it does its work, too."""
        self._pause = FIRST_PAUSE


def answered(request: Request, tries: Tries, wait: float | None = 0.0) -> Steps[Answer]:
    """Try until there is an answer that trying again would not change; return it.

    The first try is after `wait` seconds.

    Raises:
        UnreachableError: there was none until patience was up.
    """
    while wait is not None:
        outcome: Outcome = yield Try(request, wait)
        if isinstance(outcome, Answer) and not _says_not_now(outcome):
            return outcome
        tries.note(outcome)
        wait = tries.pause(outcome.retry_after)
    raise given_up(request, outcome, tries.patience)


def _says_not_now(answer: Answer) -> bool:
    """Whether trying again may help: not where a person has to decide first."""
    return answer.status in TRY_AGAIN and slug(answer) != "halted"


def given_up(request: Request, last: Outcome, patience: float) -> UnreachableError:
    """Return the error for a node that did not answer for too long; `last` is the last try's."""
    cause = last.cause if isinstance(last, Lost) else refusal(request, last)
    shown = str(cause) or type(cause).__name__
    error = UnreachableError(
        f"{request} had no answer, and {patience:g} s of patience are up; at last: {shown}",
        status=last.status if isinstance(last, Answer) else None,
    )
    error.__cause__ = cause
    return error


def may_be_done(outcome: Outcome) -> bool:
    """Whether the node may have done what it was asked for: an answer in the 3xx or 4xx denies it.

    A 5xx may come from something in between, which lost the answer of the node.
    """
    if isinstance(outcome, Lost):
        return outcome.sent
    if outcome.status < 500:
        return outcome.status < 300
    return slug(outcome) not in NOTHING_DONE
