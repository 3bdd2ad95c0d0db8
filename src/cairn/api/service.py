"""What all handlers work with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cairn.api.bodies import Body
from cairn.api.bounds import Bounds
from cairn.api.budget import Answer, Budget
from cairn.api.html import html, site
from cairn.api.kept import Kept
from cairn.api.laboratory import Laboratory
from cairn.api.metrics import Metrics
from cairn.api.problems import ProblemError, outside
from cairn.core.block import Block
from cairn.core.errors import NoSuchBlockError
from cairn.explorer.blocks import Card
from cairn.ledger.standing import Standing
from cairn.node import Node
from cairn.report import Report

Result = TypeVar("Result")

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
INLINE_BYTES: Final = 2**16
"""Bytes of a body that the event loop handles itself: less than a millisecond of work."""


def stream(request: Request, events: AsyncGenerator[bytes, None]) -> Response:
    """Return the answer with server-sent events (WHATWG HTML, section 9.2)."""
    if request.method == "HEAD":
        return Response(media_type=EVENTS)
    headers = {"X-Accel-Buffering": "no"}  # nginx would hold them back
    return StreamingResponse(events, headers=headers, media_type=EVENTS)


@dataclass(frozen=True)
class Service:
    """What the handlers work with."""

    node: Node
    bounds: Bounds
    budget: Budget
    searches: Budget
    """Requests that search, or wait for their turn."""
    metrics: Metrics
    laboratory: Laboratory | None
    """Of a lab."""
    large: asyncio.Semaphore
    """Held while a large body is worked on: one at a time, for the others' sake."""
    views: dict[str, Kept[dict[str, str]]] = field(default_factory=dict)
    """The parts of open pages, as HTML by id; by the page's name."""

    @property
    def lab(self) -> bool:
        """Whether what is served is a scratch copy, to which everything may be done."""
        return self.laboratory is not None

    def body(self, request: Request) -> Body:
        """Return the body of a request, to be read."""
        return Body(request, self.bounds, self.budget)

    async def canonical(self, body: bytes, work: Callable[..., Result]) -> Result:
        """Return what `work` makes of a body; if it is large, off the event loop."""
        encoder = self.node.ledger.encoder
        if len(body) <= INLINE_BYTES:
            return work(body, encoder, self.bounds)
        async with self.large:
            return await asyncio.to_thread(work, body, encoder, self.bounds)

    async def block(self, read: Callable[[], Block]) -> Response:
        """Return the answer with a block, which `read` reads."""
        text = await self.node.read(lambda: read().to_json())
        return Answer(text, JSON, self.budget)

    async def search(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, which reads many blocks: one search at a time.

        Raises:
            ProblemError: too many wait for their turn.
        """
        with self.searches.holding(1):
            return await self.node.search(work)

    async def entry(self, entry_id: bytes) -> Standing:
        """Return where an entry stands; an instant ledger is searched for it.

        Raises:
            NoSuchEntryError: there is none.
            ProblemError: as for `search`.
        """
        if self.node.peering is not None:
            return await self.node.entry(entry_id)
        with self.searches.holding(1):
            return await self.node.entry(entry_id)

    def find(self, reference: int | str) -> Block:
        """Read the block at an index, or with a hash.

        Raises:
            NoSuchBlockError: there is none.
            DamagedError: it cannot be read.
        """
        ledger = self.node.ledger
        if isinstance(reference, int):
            return ledger[reference]
        block = ledger.find(reference)
        if block is None:
            raise NoSuchBlockError(f"there is no block with hash {reference}")
        return block

    async def require_place(self, start: int) -> int:
        """Return the length, if a page may start there: the end is an empty page.

        Raises:
            NoSuchBlockError: it may not.
        """
        length = self.node.length
        if start > length:  # who has read the store may know of blocks a moment before us
            length = await self.node.read(lambda: len(self.node.ledger))
        if start > length:
            raise NoSuchBlockError(f"there is no block {start}; the ledger has {length}")
        return length

    def outside(self, text: str) -> str:
        """Return what is said to everyone in place of `text`: without where the ledger lies."""
        return outside(text, (self.node.directory, self.node.ledger.keyring.folder))

    def told(self, problem: ProblemError) -> ProblemError:
        """Return `problem` as everyone may read it."""
        return ProblemError(
            problem.status, problem.slug, self.outside(problem.detail), **problem.members
        )

    def report(self, report: Report) -> Report:
        """Return what validation has found as everyone may read it."""
        failures = (replace(f, message=self.outside(f.message)) for f in report.failures)
        return replace(report, failures=tuple(failures))

    def card(self, place: int, limit: int, final: int) -> Card:
        """Read what is at a place of the chain, as `Card.read` does, as everyone may read it."""
        card = Card.read(self.node.ledger, place, limit, final)
        return card._replace(why=self.outside(card.why))

    def page(
        self, here: str, template: str, status: HTTPStatus = HTTPStatus.OK, **values: Any
    ) -> Response:
        """Return the answer with a page, of which `here` is the path in the menu."""
        return html(site(self.node, lab=self.lab, here=here), template, status, **values)
