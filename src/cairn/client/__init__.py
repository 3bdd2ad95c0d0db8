"""Clients of a node over HTTP: `Client`, and `AsyncClient` for asyncio.

Read errors, wire, answers, retry, calls, then pages, batches, events: these do no I/O. `sync` and
`aio` carry them out, with httpx.
"""

from cairn.client.aio import AsyncClient
from cairn.client.answers import Standing
from cairn.client.errors import (
    BadAnswerError,
    NodeError,
    NotPermittedError,
    RefusedEntryError,
    UnreachableError,
)
from cairn.client.sync import Client

__all__ = [
    "AsyncClient",
    "BadAnswerError",
    "Client",
    "NodeError",
    "NotPermittedError",
    "RefusedEntryError",
    "Standing",
    "UnreachableError",
]
