"""Reading the body of a request, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request

from cairn.api.bounds import Bounds
from cairn.api.problems import ProblemError, bad_entry, too_large, unavailable
from cairn.core.errors import EntryError
from cairn.encoding import Encoder


class Bodies:
    """Reads bodies, and knows how much memory those take that are not done with."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the whole body.

        Raises:
            ProblemError: it is too large or too slow, or there is no room for it just now.
        """
        declared = request.headers.get("content-length", "0")
        self._require_size(int(declared) if declared.isdecimal() else 0)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._bounds.body_seconds):
                async for chunk in self._chunks(request):
                    size += len(chunk)
                    self._held += len(chunk)
                    self._require_size(size)
                    if self._held > self._bounds.held_bytes:
                        raise unavailable("the node has no room for this body just now", "busy")
                    chunks.append(chunk)
            yield b"".join(chunks)
        except TimeoutError:
            detail = (
                f"the body did not come: {size} bytes so far; each part has "
                f"{self._bounds.chunk_seconds} s, the whole {self._bounds.body_seconds} s"
            )
            raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, "timeout", detail) from None
        finally:
            self._held -= size

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        more = True
        while more:
            async with asyncio.timeout(self._bounds.chunk_seconds):
                message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            yield message.get("body", b"")

    def _require_size(self, size: int) -> None:
        if size > self._bounds.body_bytes:
            raise too_large(f"a body may have {self._bounds.body_bytes} bytes")


def canonical_lines(body: bytes, encoder: Encoder, most: int) -> list[bytes]:
    """Return the canonical JSON of each line of an NDJSON body; blank lines are passed over.

    Raises:
        ProblemError: a line is refused, and says which; or there are more than `most`, or none.
    """
    if body.count(b"\n") > most:
        raise too_large(f"a body may have {most} lines; send the others in a request of their own")
    canonical = []
    for number, line in enumerate(body.split(b"\n"), start=1):
        if line and not line.isspace():
            try:
                canonical.append(encoder.text(line))
            except EntryError as error:
                raise bad_entry(error, line=number) from error
    if not canonical:
        raise bad_entry(EntryError("there is no value to record"))
    return canonical
