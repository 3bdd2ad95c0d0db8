"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from cairn.client import http
from cairn.client.answers import Standing
from cairn.client.batches import Extension
from cairn.client.calls import Calls
from cairn.client.events import Follower
from cairn.client.pages import Pages, Scan, Search
from cairn.client.retry import Outcome, Steps, Try
from cairn.client.trust import Trust, parse_keys
from cairn.client.wire import ENCODER, MAX_ANSWER, Answer, Request, encode_text
from cairn.core.block import Block
from cairn.core.errors import CairnError, UsageError
from cairn.core.genesis import Genesis
from cairn.proof.checkpoint import SignedCheckpoint
from cairn.proof.keyring import Keyring
from cairn.proof.receipt import Receipt
from cairn.report import Report

T = TypeVar("T")


class AsyncClient:
    """A ledger on a node, over HTTP, for asyncio: `Client`, with `await` and `async for`.

    What a `Client` has as `client[index]`, `len(client)`, `client.head`, `.id` and `.genesis` are
    methods here. What is said and raised there holds here.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:5000",
        *,
        token: str | None = None,
        timeout: float = http.TIMEOUT_SECONDS,
        patience: float = http.PATIENCE_SECONDS,
        key: str | Sequence[str] | None = None,
        witnesses: Sequence[str] = (),
        quorum: int | None = None,
        keyring: Keyring | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare to ask the node at `url`, as `Client` does; nothing is sent yet.

        Raises:
            UsageError: `url` is not that of a node, or `token` cannot be sent.
            ProofError: a key is none, or fewer witnesses than `quorum` are given.
        """
        self._http = httpx.AsyncClient(transport=transport, **http.settings(url, token))
        self._timeout = timeout
        trust = Trust(
            str(self._http.base_url),
            patience,
            keyring or Keyring(),
            keys=parse_keys(key),
            witnesses=parse_keys(witnesses),
            quorum=quorum,
        )
        self._calls = Calls(patience, trust)

    async def append(self, value: object, *, key: str | None = None) -> Block:
        """Record one JSON value; return its block, durable. See `Client.append`."""
        return await self._run(self._calls.append(ENCODER.value(value), key))

    async def append_json(self, text: bytes | str, *, key: str | None = None) -> Block:
        """Record the value of one JSON text, as `append` does."""
        return await self._run(self._calls.append(encode_text(text), key))

    async def append_all(self, values: Iterable[object], *, key: str | None = None) -> range:
        """Record values, a block each, all or nothing; return their positions.

        See `Client.append_all`.
        """
        return await self._run(self._calls.append_all([ENCODER.value(v) for v in values], key))

    async def extend(self, values: Iterable[object] | AsyncIterable[object]) -> int:
        """Record many JSON values, a block each; return how many. See `Client.extend`.

        When cancelled, what was not sent yet is not.
        """
        return await self._extend(values, ENCODER.value)

    async def extend_json(self, texts: Iterable[bytes | str] | AsyncIterable[bytes | str]) -> int:
        """Record the values of many JSON texts, such as the lines of an NDJSON file."""
        return await self._extend(texts, encode_text)

    async def submit(self, value: object, *, key: str | None = None, wait: int = 0) -> str:
        """Let one JSON value wait to be mined into a work ledger; return its entry's id.

        See `Client.submit`.
        """
        return await self._run(self._calls.submit(ENCODER.value(value), key, wait))

    async def submit_json(self, text: bytes | str, *, key: str | None = None, wait: int = 0) -> str:
        """Submit the value of one JSON text, as `submit` does."""
        return await self._run(self._calls.submit(encode_text(text), key, wait))

    async def entry(self, entry_id: str) -> Standing:
        """Return where the entry with this id (64 hex digits) stands. See `Client.entry`."""
        return await self._run(self._calls.entry(entry_id))

    async def peers(self) -> dict[str, Any]:
        """Return what the node says of itself and its peers. See `Client.peers`."""
        return await self._run(self._calls.peers())

    async def genesis(self) -> Genesis:
        """Return the rules of this ledger, from block 0.

        Raises:
            FormatError: block 0 does not record a genesis (damage).
        """
        return Genesis.of(await self.get(0))

    async def id(self) -> str:
        """Return the ledger's id in every network: the hash of genesis, 64 hex digits."""
        return (await self.get(0)).hash

    async def head(self) -> Block:
        """Return the last block."""
        return await self.get(-1)

    async def length(self) -> int:
        """Return how many blocks there are."""
        return await self._run(self._calls.length())

    async def get(self, index: int) -> Block:
        """Return the block at `index`. A negative one counts from the end.

        Raises:
            NoSuchBlockError: there is none (it is an `IndexError`, too).
        """
        return await self._run(self._calls.get(index))

    def __aiter__(self) -> AsyncIterator[Block]:
        return self.scan()

    async def find(self, block_hash: str) -> Block | None:
        """Return the block with this hash (64 hex digits), or None."""
        return await self._run(self._calls.find(block_hash))

    def scan(self, start: int = 0, stop: int | None = None) -> AsyncIterator[Block]:
        """Yield the blocks from `start` to `stop` (by default all there are now).

        A page at a time, in constant memory, while appends go on.
        """
        return self._turn(Scan(self._calls, start, stop))

    def search(
        self,
        *,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        contains: str | None = None,
    ) -> AsyncIterator[Block]:
        """Yield the blocks of a span of time whose data has `contains` in it, as they are found.

        `since` and `until` are RFC 3339, or datetimes with a zone.
        """
        return self._turn(Search(self._calls, since, until, contains))

    async def follow(self, start: int | None = None) -> AsyncIterator[Block]:
        """Yield the blocks from `start` on, and then each new one as it comes, without end.

        By default those that are recorded after the first is asked for. See `Client.follow`; leave
        it by `contextlib.aclosing`, or the connection stays until the garbage is collected.
        """
        first = await self.length() if start is None else start
        follower = Follower(first, self._calls.patience)
        while True:
            try:
                async with self._open(follower.request()) as response:
                    if follower.is_stream(response.status_code, response.headers):
                        async for chunk in response.aiter_bytes():
                            for block in await self._run(self._calls.taken(follower, chunk)):
                                yield block
                    else:
                        answer = await _answer(response)
                        await self._run(self._calls.not_followed(follower, answer))
            except http.LOST as error:
                follower.failed(http.lost(error))
            await asyncio.sleep(follower.pause())

    async def checkpoint(self) -> SignedCheckpoint:
        """Return the node's signed checkpoint, checked. See `Client.checkpoint`."""
        return await self._run(self._calls.trust.checkpoint())

    async def receipt(self, index: int, entry: int = 0) -> Receipt:
        """Return the receipt of an entry, checked. See `Client.receipt`."""
        return await self._run(self._calls.trust.receipt(index, entry))

    async def assurance(self) -> str:
        """Return the rung of the ladder that the ledger has reached. See `Client.assurance`."""
        return (await self.checkpoint()).assurance

    async def validate(self) -> Report:
        """Have the node check every rule on every block that it stores; may take minutes."""
        return await self._run(self._calls.validate())

    async def close(self) -> None:
        """Let go of the connections. Closing twice is fine."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._http.base_url)!r})"

    async def _extend(
        self, items: Iterable[Any] | AsyncIterable[Any], encode: Callable[[Any], bytes]
    ) -> int:
        extension = Extension(self._calls, encode)
        with extension.accounting():
            try:
                async with aclosing(_each(items)) as each:
                    async for item in each:
                        await self._run(extension.take(item))
            except Exception:
                await self._run(extension.flush())
                raise
            await self._run(extension.flush())
        return extension.durable

    async def _turn(self, pages: Pages) -> AsyncIterator[Block]:
        while not pages.done:
            for block in await self._run(pages.turn()):
                yield block

    async def _run(self, steps: Steps[T]) -> T:
        """Carry out `steps`."""
        try:
            todo = next(steps)
            while True:
                if isinstance(todo, Try):
                    if todo.wait:
                        await asyncio.sleep(todo.wait)
                    outcome: Any = await self._send(todo.request)
                else:
                    try:
                        outcome = await asyncio.to_thread(todo)
                    except CairnError as error:
                        todo = steps.throw(error)
                        continue
                todo = steps.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, request: Request) -> Outcome:
        try:
            async with self._open(request) as response:
                return await _answer(response)
        except http.LOST as error:
            return http.lost(error)

    def _open(self, request: Request) -> AbstractAsyncContextManager[httpx.Response]:
        if self._http.is_closed:
            raise UsageError("this client is closed")
        return self._http.stream(**http.arguments(request, self._timeout))


async def _answer(response: httpx.Response) -> Answer:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            break
    return Answer(response.status_code, response.headers, bytes(body))


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
