"""Pages of blocks: read a batch at a time, and sent as fast as they are read."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from cairn.api.bounds import PAGE_BYTES, SEARCH_SECONDS
from cairn.api.budget import Budget, pieces
from cairn.api.problems import ProblemError, of_error
from cairn.core.errors import CairnError, DamagedError, FormatError
from cairn.ledger import Ledger
from cairn.ledger.search import find_blocks

BATCH_BLOCKS: Final = 128
"""Blocks read at once: enough to make going to a thread cheap, few enough to hold for long."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some blocks as JSON."""

    text: bytes
    """Their views, with commas between."""
    count: int
    size: int
    """Bytes of their entries."""
    next: int | None
    """Where to go on; None at the end."""


@dataclass(frozen=True, kw_only=True)
class BlockPage:
    """The answer with a page of blocks, as an ASGI application.

    Damage in the middle of a page ends it early, and the next one, which begins with it, tells
    (`problem_of_damage`).
    """

    ledger: Ledger
    run: Callable[[Callable[[], Any]], Awaitable[Any]]
    """Runs a function in a thread."""
    budget: Budget
    start: int
    stop: int | None
    """Where to end; None where the ledger does."""
    limit: int
    contains: str = ""
    """What the JSON text of a block must have in it."""
    name: str
    """Of the member that holds the blocks."""
    place: str
    """Of the parameter that says where a page starts."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further members, before the blocks."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it.

        Raises:
            CairnError, ProblemError: what is at the start cannot be read. Nothing was sent.
        """
        deadline = time.monotonic() + SEARCH_SECONDS
        try:
            batch = await self._read(self.start, self.limit, deadline)
        except (DamagedError, FormatError) as error:
            raise await self.run(partial(self._damage, error, scope)) from error
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        facts = "".join(f'"{key}": {json.dumps(value)}, ' for key, value in self.facts.items())
        before = f'{{{facts}"{self.name}": ['.encode()
        count = size = 0
        while True:
            try:
                comma = b",\n" if count and batch.count else b""
                for piece in pieces(before + comma + batch.text):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            finally:
                self.budget.give(len(batch.text))
            before = b""
            count, size, following = count + batch.count, size + batch.size, batch.next
            full = count >= self.limit or size > PAGE_BYTES or time.monotonic() > deadline
            if following is None or full:
                break
            try:
                batch = await self._read(following, self.limit - count, deadline)
            except (CairnError, ProblemError):
                break
        after = f'], "next": {json.dumps(self._link(scope, following))}}}'.encode()
        await send({"type": "http.response.body", "body": after})

    async def _read(self, at: int, most: int, deadline: float) -> Batch:
        """Read a batch, and hold it within the budget."""

        def read() -> Batch:
            found = find_blocks(
                self.ledger,
                start=at,
                stop=self.stop,
                contains=self.contains,
                limit=min(most, BATCH_BLOCKS),
                seconds=deadline - time.monotonic(),
            )
            views: list[bytes] = []
            following = found.next
            try:
                views.extend(block.to_json().encode() for block in found.blocks)
            except FormatError:
                if not views:
                    raise
                following = found.places[len(views)]
            size = sum(block.header.size for block in found.blocks)
            return Batch(b",\n".join(views), len(views), size, following)

        batch: Batch = await self.run(read)
        self.budget.take(len(batch.text))
        return batch

    def _damage(self, error: DamagedError | FormatError, scope: Scope) -> ProblemError:
        return problem_of_damage(
            error,
            self.ledger,
            start=self.start,
            stop=self.stop,
            contains=self.contains,
            link=lambda after: self._link(scope, after),
        )

    def _link(self, scope: Scope, following: int | None) -> str | None:
        if following is None:
            return None
        query = {**QueryParams(scope["query_string"]), self.place: following}
        return f"{scope['path']}?{urlencode(query)}"


def problem_of_damage(
    error: DamagedError | FormatError,
    ledger: Ledger,
    *,
    start: int,
    stop: int | None,
    contains: str = "",
    link: Callable[[int | None], str | None],
) -> ProblemError:
    """Return the problem of a page that begins with damage: where it is, and what is behind it.

    It was to be a page of the blocks from `start` to `stop` that contain `contains`; `error` is why
    it has none. `link` returns the address of the page from a position on. Reads for a second or
    two: behind much damage, that page may begin with damage again.

    Raises:
        StoreError: the store cannot be read at all.
    """
    problem = of_error(error)
    end = len(ledger) if stop is None else stop
    deadline = time.monotonic() + SEARCH_SECONDS
    if isinstance(error, FormatError):  # a block that was found, and cannot be shown
        places = find_blocks(ledger, start=start, stop=end, contains=contains, limit=1).places
        first = places[0] if places else None
    else:
        first = _damaged_from(ledger, start, end, deadline)
    if first is None:  # it was another chain, which has just been reorganised
        return problem
    after = first + 1
    while after < end and time.monotonic() < deadline and _is_damaged(ledger, after):
        after += 1
    named = f"block {first}" if after == first + 1 else f"blocks {first} to {after - 1}"
    return ProblemError(
        problem.status,
        problem.slug,
        f"{named} cannot be read: {problem.detail}",
        index=first,
        next=link(after if after < end else None),
    )


def _damaged_from(ledger: Ledger, start: int, end: int, deadline: float) -> int | None:
    """Return the position from which on a scan fails; None if it does not until `deadline`."""
    at = start
    try:
        for segment in ledger.scan(start, end):
            at = segment.stop
            if time.monotonic() > deadline:
                break
    except DamagedError:
        return at
    return None


def _is_damaged(ledger: Ledger, position: int) -> bool:
    """Whether a scan fails there; one passes over what is missing."""
    return _damaged_from(ledger, position, position + 1, math.inf) is not None
