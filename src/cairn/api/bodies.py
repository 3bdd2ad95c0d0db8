"""Reading the body of a request, within bounds."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import ClientDisconnect, Request

from cairn.api.bounds import Bounds
from cairn.api.budget import Budget
from cairn.api.problems import bad_entry, too_large
from cairn.core.errors import EntryError
from cairn.encoding import Encoder

_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class Body:
    """The body of a request, held within the budget inside an `async with`."""

    def __init__(self, request: Request, bounds: Bounds, budget: Budget) -> None:
        self._request = request
        self._most = bounds.body_bytes
        self._budget = budget
        self._held = 0

    async def __aenter__(self) -> bytes:
        """Return the whole body. The connection sees to it that it comes in time.

        Raises:
            ProblemError: it is too large, or there is no room for it just now.
            ClientDisconnect: the client went away, or was too slow.
        """
        try:
            return await self._read()
        except BaseException:
            self._budget.give(self._held)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._budget.give(self._held)

    async def _read(self) -> bytes:
        declared = self._request.headers.get("content-length", "0")
        self._require_size(int(declared) if declared.isdecimal() else 0)
        chunks: list[bytes] = []
        more = True
        while more:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
            size = len(chunks[-1])
            self._require_size(self._held + size)
            self._budget.take(size)
            self._held += size
        return b"".join(chunks) if len(chunks) > 1 else chunks[0]

    def _require_size(self, size: int) -> None:
        if size > self._most:
            raise too_large(f"a body may have {self._most} bytes")


def canonical_text(text: bytes, encoder: Encoder, bounds: Bounds) -> bytes:
    """Return the canonical JSON of a JSON text.

    Raises:
        ProblemError: it holds more values than `bounds.values`: parsed, each takes some 100 bytes.
        EntryError: it is refused.
    """
    _require_few_values(text, bounds)
    return encoder.text(text)


def _require_few_values(text: bytes, bounds: Bounds) -> None:
    if len(text) > bounds.values and _holds_more(text, bounds.values):
        raise too_large(f"a value may hold {bounds.values} values and members")


def _holds_more(text: bytes, most: int) -> bool:
    """Whether there are more than `most` values in a JSON text, in little time and memory."""
    if _values(text) <= most:
        return False
    if text.count(b'"') - text.count(rb"\"") > 2 * most:  # as many strings
        return True
    return _values(_STRING.sub(b"", text)) > most


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
    lines = [
        (number, line)
        for number, line in enumerate(body.split(b"\n"), start=1)
        if line and not line.isspace()
    ]
    texts = [line for _, line in lines]
    for line in texts:
        _require_few_values(line, bounds)
    canonical, error = encoder.texts(texts)
    if error is not None:
        raise bad_entry(error, line=lines[len(canonical)][0]) from error
    if not canonical:
        raise bad_entry(EntryError("there is no value to record"))
    return canonical
