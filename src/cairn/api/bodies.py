"""Reading the body of a request, within bounds."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from starlette.requests import ClientDisconnect, Request

from cairn.api.bounds import Bounds
from cairn.api.budget import Budget
from cairn.api.problems import ProblemError, bad_entry, too_large
from cairn.core.errors import EntryError
from cairn.encoding import Encoder

_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class Bodies:
    """Reads bodies, and knows how much memory those take that are not done with."""

    def __init__(self, bounds: Bounds, budget: Budget) -> None:
        self._bounds = bounds
        self._budget = budget

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the whole body, held within the budget inside the block.

        Raises:
            ProblemError: it is too large or too slow, or there is no room for it just now.
            ClientDisconnect: the client went away.
        """
        declared = request.headers.get("content-length", "0")
        self._require_size(int(declared) if declared.isdecimal() else 0)
        chunks: list[bytes] = []
        size = 0
        try:
            try:
                async with asyncio.timeout(self._bounds.body_seconds):
                    async for chunk in self._chunks(request):
                        self._require_size(size + len(chunk))
                        self._budget.take(len(chunk))
                        size += len(chunk)
                        chunks.append(chunk)
            except TimeoutError:
                raise self._too_slow(size) from None
            yield b"".join(chunks)
        finally:
            self._budget.give(size)

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

    def _too_slow(self, size: int) -> ProblemError:
        detail = (
            f"the body did not come: {size} bytes so far; each part has "
            f"{self._bounds.chunk_seconds} s, the whole {self._bounds.body_seconds} s"
        )
        return ProblemError(HTTPStatus.REQUEST_TIMEOUT, "timeout", detail)


def canonical_text(text: bytes, encoder: Encoder, bounds: Bounds) -> bytes:
    """Return the canonical JSON of a JSON text.

    Raises:
        ProblemError: it holds more values than `bounds.values`: parsed, each takes some 100 bytes.
        EntryError: it is refused.
    """
    most = bounds.values
    # Only a count of what is not in strings is exact; it is slower.
    if len(text) > most and _values(text) > most and _values(_STRING.sub(b"", text)) > most:
        raise too_large(f"a value may hold {most} values and members")
    return encoder.text(text)


def _values(text: bytes) -> int:
    """Return how many values there are in a JSON text, about, or more."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def canonical_lines(body: bytes, encoder: Encoder, bounds: Bounds) -> list[bytes]:
    """Return the canonical JSON of each line of an NDJSON body; blank lines are passed over.

    Raises:
        ProblemError: a line is refused, and says which; or there are too many, or none.
    """
    most = bounds.body_lines
    if body.count(b"\n") + (not body.endswith(b"\n")) > most:
        raise too_large(f"a body may have {most} lines; send the others in a request of their own")
    canonical = []
    for number, line in enumerate(body.split(b"\n"), start=1):
        if line and not line.isspace():
            try:
                canonical.append(canonical_text(line, encoder, bounds))
            except EntryError as error:
                raise bad_entry(error, line=number) from error
    if not canonical:
        raise bad_entry(EntryError("there is no value to record"))
    return canonical
