"""Nodes to test clients with: one in memory that can be made to fail, and the real one."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Self

import httpx

from cairn import Block, EntryError, KeyReusedError, Ledger
from cairn.client import AsyncClient
from cairn.ledger.writer import Append
from cairn.proof.checkpoint import Checkpoint
from cairn.proof.tiles import Tile

Fault = Callable[[httpx.Request], httpx.Response]
"""What happens to one request instead of an answer."""

EVENTS: Final = {"Content-Type": "text/event-stream"}


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in chunks, and may break off: where a chunk is an error, it is raised."""

    def __init__(self, chunks: Iterable[bytes | Exception]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


def problem(status: int, slug: str, **members: Any) -> httpx.Response:
    """Return problem details as a node gives them."""
    headers = {"Content-Type": "application/problem+json"}
    if "retry_after" in members:
        headers["Retry-After"] = str(members.pop("retry_after"))
    value = {"type": f"urn:cairn:problem:{slug}", "title": "No", "status": status, **members}
    return httpx.Response(status, json=value, headers=headers)


def event(block: Block) -> bytes:
    return f"id: {block.index}\nevent: block\ndata: {block.to_json()}\n\n".encode()


class FakeNode:
    """The contract in few lines, over a ledger in memory, with faults on demand.

    Its pages have `page` blocks at most, so that few blocks make many pages.
    """

    page = 1000

    def __init__(self) -> None:
        self.ledger = Ledger.in_memory()
        self.requests: list[httpx.Request] = []
        self.faults: deque[Fault] = deque()
        """What happens to the next requests; None in it lets one pass."""
        self.transport = httpx.MockTransport(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if (beside := self._prove(request)) is not None:
            return beside
        self.requests.append(request)
        return self.faults.popleft()(request) if self.faults else self.answer(request)

    def _prove(self, request: httpx.Request) -> httpx.Response | None:
        """Answer what a client asks to check the rest, which is neither counted nor fails."""
        path, query = request.url.path, request.url.params
        notary = self.ledger.notary
        if path == "/checkpoint":
            if int(query.get("covering", "1")) > len(self.ledger):
                return problem(404, "no-such-block", detail="not yet")
            self.ledger.checkpoint()
            return httpx.Response(200, content=str(notary.published()))
        if path.startswith("/tile/"):
            tile = Tile.parse(path[1:])
            checkpoint = Checkpoint.parse(notary.published().text)
            assert tile.is_of(checkpoint.size), path
            return httpx.Response(200, content=notary.tile(tile, checkpoint))
        if path.endswith("/receipt"):
            index, entry = int(path.split("/")[2]), int(query.get("entry", "0"))
            return httpx.Response(200, content=self.ledger.receipt(index, entry).to_json())
        return None

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer as a node does."""
        if request.method == "POST":
            return self._append(request)
        path, query = request.url.path, request.url.params
        if int(query.get("start", "0")) > len(self.ledger):
            return problem(404, "no-such-block", detail=f"no {query['start']}")
        if path == "/":
            start = int(query["start"])
            return self._page(request, "start", "chain", range(start, len(self.ledger)))
        if path == "/blocks":
            start = int(query.get("cursor", "0"))
            found = [i for i in range(start, len(self.ledger)) if self._matches(i, query)]
            return self._page(request, "cursor", "blocks", found)
        if path == "/head":
            return _view(self.ledger.head)
        if path == "/validate":
            return httpx.Response(200, json=self.ledger.validate().to_value())
        if path == "/events":
            blocks = self.ledger[int(query["start"]) :]
            chunks: list[bytes | Exception] = [b": following\n\n", *map(event, blocks)]
            chunks.append(httpx.ReadError("cut"))
            return httpx.Response(200, headers=EVENTS, stream=Stream(chunks))
        reference = path.removeprefix("/blocks/")
        if len(reference) == 64:
            block = self.ledger.find(reference)
        else:
            block = self.ledger[int(reference)] if int(reference) < len(self.ledger) else None
        return _view(block) if block else problem(404, "no-such-block", detail=f"no {reference}")

    def _append(self, request: httpx.Request) -> httpx.Response:
        texts: list[bytes] = []
        try:
            for line in request.content.split(b"\n"):
                texts.append(self.ledger.encoder.text(line))  # noqa: PERF401 - counted on the way
            append = Append(texts, request.headers["Idempotency-Key"])
            self.ledger.commit([append])
            last = append.result()
        except KeyReusedError as error:
            return problem(422, "key-reused", detail=str(error))
        except EntryError as error:
            where = {"line": len(texts) + 1} if request.url.path == "/blocks" else {}
            return problem(400, "bad-entry", reason=error.reason, path=error.path, **where)
        if request.url.path == "/block":
            return _view(last, 201)
        first = last.index - len(texts) + 1
        facts = {"count": len(texts), "first": first, "last": last.index, "hash": last.hash}
        return httpx.Response(201, json=facts)

    def _matches(self, index: int, query: httpx.QueryParams) -> bool:
        block = self.ledger[index]
        return query.get("contains", "").encode() in block.data_json() and (
            query.get("since", "") <= block.timestamp < query.get("until", "9")
        )

    def _page(
        self, request: httpx.Request, place: str, name: str, indices: Iterable[int]
    ) -> httpx.Response:
        found = list(indices)
        limit = min(self.page, int(request.url.params["limit"]))
        views = [json.loads(self.ledger[i].to_json()) for i in found[:limit]]
        following = None
        if len(found) > limit:
            query = request.url.params.set(place, found[limit])
            following = f"{request.url.path}?{query}"
        value = {"length": len(self.ledger), name: views, "next": following}
        return httpx.Response(200, json=value)


def _view(block: Block, status: int = 200) -> httpx.Response:
    return httpx.Response(status, content=block.to_json())


# Faults


def unreachable(request: httpx.Request) -> httpx.Response:
    """Let the request get nowhere."""
    raise httpx.ConnectError("refused", request=request)


def lost_on_the_way(request: httpx.Request) -> httpx.Response:
    """Lose the request, in a way that looks as if the answer were lost."""
    raise httpx.ReadTimeout("lost", request=request)


def losing_the_answer(node: FakeNode) -> Fault:
    """Do what the request asks for, and lose the answer."""

    def fault(request: httpx.Request) -> httpx.Response:
        node.answer(request)
        raise httpx.ReadError("lost", request=request)

    return fault


def answering(response: httpx.Response) -> Fault:
    """Give a copy of `response`, as each can be read only once."""
    status, headers, content = response.status_code, response.headers, response.content
    return lambda _request: httpx.Response(status, headers=headers, content=content)


# An AsyncClient, used as a Client is


class Blocking:
    """Makes every method of an `AsyncClient` block, so that one test serves both."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ("genesis", "id", "head"):
            return self._run(method())
        if name in ("scan", "search", "follow"):
            return lambda *args, **kwargs: self._iterate(method(*args, **kwargs))
        return lambda *args, **kwargs: self._run(method(*args, **kwargs))

    def __len__(self) -> int:
        length: int = self._run(self._client.length())
        return length

    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        if isinstance(index, slice):
            positions = range(*index.indices(len(self)))
            return list(self._iterate(self._client.scan(positions.start, positions.stop)))
        block: Block = self._run(self._client.get(index))
        return block

    def __iter__(self) -> Iterator[Block]:
        return self._iterate(aiter(self._client))

    def __repr__(self) -> str:
        return repr(self._client)

    def close(self) -> None:
        self._run(self._client.close())

    def end(self) -> None:
        self.close()
        self._runner.close()

    def _run(self, coroutine: Any) -> Any:
        return self._runner.run(coroutine)

    def _iterate(self, blocks: Any) -> Iterator[Block]:
        async def step() -> Block:
            block: Block = await anext(blocks)
            return block

        try:
            while True:
                try:
                    block = self._run(step())
                except StopAsyncIteration:
                    return
                yield block
        finally:
            self._run(blocks.aclose())


# The real one


class RealNode:
    """`cairn serve` as a process of its own, that can be killed and started again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self._options = options
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        cairn = [sys.executable, "-m", "cairn"]
        where = ["--ledger", str(self.directory), "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*cairn, "serve", *where, *self._options], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if self.url not in line:
            self.kill()
            raise RuntimeError(f"the node did not start: {line!r}")

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an operator does."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        self._process.send_signal(number)
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Proxy:
    """Forwards connections to a port, and can cut them before an answer gets through."""

    def __init__(self, port: int) -> None:
        self.losing = 0
        """Answers that are still to be lost, after the node has given them."""
        self.cutting = 0
        """Bytes of answers after which the next connection is cut; 0 is never."""
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        """Take no more connections, and wait for the end of all; both ends are to hang up."""
        _hang_up(self._server)
        for thread in self._threads:
            thread.join(10)
        self._server.close()

    def _start(self, work: Callable[..., None], *args: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._forward, self._server.accept()[0])

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as node:
            up = self._start(self._up, client, node)
            self._down(client, node)
            up.join()

    def _up(self, client: socket.socket, node: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                node.sendall(data)
        _hang_up(client, node)

    def _down(self, client: socket.socket, node: socket.socket) -> None:
        left, self.cutting = self.cutting or None, 0
        with suppress(OSError):
            while data := node.recv(65536):
                if self.losing:
                    self.losing -= 1
                    break
                client.sendall(data[:left])
                if left is not None and (left := left - len(data)) <= 0:
                    break
        _hang_up(client, node)


def _hang_up(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
