"""What all clients share: memory for what is large, bodies and answers; and turns to search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cairn.api.problems import unavailable

PIECE_BYTES: Final = 65_536
"""Bytes that are handed to a connection at once: it says when it can take more."""


class Budget:
    """How much may be held at once, of bytes or anything else, for all clients together."""

    def __init__(
        self, limit: int, refusal: str = "the node has no memory for this just now"
    ) -> None:
        """Hold at most `limit`; `refusal` is said to whom more would be."""
        self._limit = limit
        self._refusal = refusal
        self._held = 0

    def take(self, size: int, *, must: bool = False) -> None:
        """Hold `size` more.

        Raises:
            ProblemError: there is no room just now.
        """
        if self._held + size > self._limit and not must:
            raise unavailable(self._refusal, "busy")
        self._held += size

    def give(self, size: int) -> None:
        """Hold `size` less."""
        self._held -= size

    @contextmanager
    def holding(self, size: int, *, must: bool = False) -> Iterator[None]:
        """Hold `size` inside the block."""
        self.take(size, must=must)
        try:
            yield
        finally:
            self.give(size)


class Answer(Response):
    """A response that may be large: sent as fast as it is read, and held within a budget."""

    def __init__(
        self, content: str | bytes, media_type: str, budget: Budget, *, created: str | None = None
    ) -> None:
        """Take it from `budget`; even past its limit if it tells where something was `created`."""
        if created is None:
            super().__init__(content, media_type=media_type)
        else:
            super().__init__(content, HTTPStatus.CREATED, {"Location": created}, media_type)
        self._budget = budget
        self._must = created is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if len(self.body) <= PIECE_BYTES:
            await super().__call__(scope, receive, send)
            return
        with self._budget.holding(len(self.body), must=self._must):
            start = {"type": "http.response.start", "status": self.status_code}
            await send({**start, "headers": self.raw_headers})
            for piece in pieces(bytes(self.body)):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def pieces(content: bytes) -> Iterator[bytes]:
    """Yield `content` in pieces of `PIECE_BYTES`."""
    for at in range(0, len(content), PIECE_BYTES):
        yield content[at : at + PIECE_BYTES]
