"""Links on real sockets, with machines that do what they are told, and peers that do anything.

`python -m tests.net.sockets BOUNDS serve …` is `cairn serve` of a node that has links, with bounds
as a JSON object.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, cast
from unittest.mock import patch

import uvloop
from starlette.types import Receive, Scope, Send

from cairn import Ledger
from cairn.api import server
from cairn.api.bounds import Bounds
from cairn.cli import main
from cairn.net import events
from cairn.net.events import Action, Event, PeerId, Received
from cairn.node import Node
from cairn.node.links import Links

PATIENCE: Final = 20.0
"""Seconds after which what has not come does not come."""
FRAME_BYTES: Final = 2**20
BINARY, TEXT, CLOSE, PING, PONG = 2, 1, 8, 9, 10


@dataclass(frozen=True)
class Do:
    """What a test tells an `Echo` to do."""

    actions: tuple[Action, ...]


class Echo:
    """A machine that sends every frame back, but those that order something else.

    A peer is ready when it has said "ready".
    """

    def __init__(self, *, mute: bool = False, forgets: bool = False) -> None:
        """If `mute`, send nothing back; if it `forgets`, keep no `events`."""
        self._mute = mute
        self._forgets = forgets
        self.events: list[Event] = []
        self.ready: set[PeerId] = set()
        self.go_on = threading.Event()
        """Lets a machine go on that was told to "wait"."""

    def handle(self, event: Event, now: float) -> list[Action]:
        if not self._forgets:
            self.events.append(event)
        if isinstance(event, Do):
            return list(event.actions)
        if not isinstance(event, Received):
            return []
        peer, words = event.peer, event.frame[:200].split()
        match words:
            case [b"ready"]:
                self.ready.add(peer)
            case [b"send", size, times]:
                return [events.Send(peer, bytes(int(size)))] * int(times)
            case [b"wait"]:
                self.go_on.wait(PATIENCE)
                self.go_on.clear()
            case [b"close", *reason]:
                last = events.Send(peer, b"goodbye")
                return [last, events.Close(peer, b" ".join(reason).decode())]
            case [b"fail"]:
                raise RuntimeError("a bug")
        return [] if self._mute else [events.Send(peer, event.frame)]

    def is_ready(self, peer: PeerId) -> bool:
        return peer in self.ready

    def seen(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Here:
    """Links and their server, on an event loop in a thread."""

    def __init__(self, machine: Echo, *, loop: str, bounds: Bounds, **options: Any) -> None:
        self.machine = machine
        self.told: list[Action] = []
        options = {"frame_bytes": FRAME_BYTES, **options}
        self._options = {"is_ready": machine.is_ready, "told": self.told.append, **options}
        self._bounds = bounds
        self._begun = threading.Event()
        self._factory = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}[loop]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._begun.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.go_on.set()
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def act(self, *actions: Action) -> None:
        """Have its machine do something."""
        self.links.tell(cast(Event, Do(actions)))

    def dial(self, url: str) -> None:
        self.act(events.Dial(url))

    def do(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns or what it awaits, done on the event loop."""

        async def doing() -> Any:
            result = work()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(doing(), self.loop).result(PATIENCE)

    def peer(self, **options: Any) -> Peer:
        return Peer(self.port, **options)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._factory) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.links = Links(self.machine, **self._options)
        self.links.start()
        with server.listen("127.0.0.1", 0) as listener:
            self.port = listener.getsockname()[1]
            self._server = QuietServer(
                answer, listener, self._bounds, lambda _: None,
                stop=self.links.stop, links=self.links,
            )  # fmt: skip
            self.loop.call_soon(self._begun.set)
            await self._server.serve(sockets=[listener])
        await self.links.close()


class QuietServer(server.Server):
    def capture_signals(self) -> Any:
        return nullcontext()


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer anything with nothing."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def here(
    machine: Echo | None = None,
    *,
    loop: str = "uvloop",
    bounds: Bounds | None = None,
    **options: Any,
) -> Iterator[Here]:
    """Run links of `machine`; the options are those of `Links`."""
    with Here(machine or Echo(), loop=loop, bounds=bounds or Bounds(), **options) as running:
        yield running


class Peer:
    """A connection on which anything can be sent; it asks for a link at once."""

    def __init__(self, port: int, *, ready: bool = False, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")
        self.socket.sendall(upgrade())
        self.status, self.headers = self.answer()
        if ready:
            self.send(b"ready")
            assert self.receive() == b"ready"

    def answer(self) -> tuple[int, dict[str, str]]:
        status = int(self.stream.readline().split()[1])
        headers = {}
        while line := self.stream.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status, headers

    def send(self, payload: bytes, **options: Any) -> None:
        self.socket.sendall(frame(payload, **options))

    def next(self) -> tuple[int, bytes]:
        """Return the opcode and the payload of the next frame; (0, b"") at the end."""
        head = self.stream.read(2)
        if not head:
            return 0, b""
        assert head[0] & 0x70 == 0
        assert head[1] < 128, "a server does not mask"
        size = head[1]
        if size >= 126:
            size = int.from_bytes(self.stream.read(2 if size == 126 else 8))
        return head[0] & 15, self.stream.read(size)

    def receive(self) -> bytes:
        opcode, payload = self.next()
        assert opcode == BINARY, (opcode, payload)
        return payload

    def closed(self) -> tuple[int, str]:
        """Return the code and the reason by which it is closed, having passed over the rest."""
        while (found := self.next())[0] not in (CLOSE, 0):
            pass
        assert found[0] == CLOSE, "hung up without a word"
        assert self.stream.read() == b""
        return int.from_bytes(found[1][:2]), found[1][2:].decode()

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def upgrade(*headers: str, leave: str = "", line: str = "GET /peer HTTP/1.1") -> bytes:
    """Return a request for a link, without the header `leave`, and with more."""
    usual = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "cairn.1",
    }
    lines = [f"{name}: {value}" for name, value in usual.items() if name != leave]
    return "\r\n".join([line, *lines, *headers, "", ""]).encode()


def frame(
    payload: bytes,
    *,
    opcode: int = BINARY,
    last: bool = True,
    reserved: int = 0,
    masked: bool = True,
    announced: int | None = None,
) -> bytes:
    """Return a frame, by default one as a client should send it, whose header may lie."""
    size = len(payload) if announced is None else announced
    short = size if size < 126 else 126 if size < 2**16 else 127
    head = bytes([last << 7 | reserved << 4 | opcode, masked << 7 | short])
    head += b"" if short < 126 else size.to_bytes(2 if short == 126 else 8)
    return head + (bytes(4) if masked else b"") + payload  # a mask of zeros changes nothing


def until(holds: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it has not come to be"
        time.sleep(0.005)


class LinkedNode(Node):
    """A node that echoes what its peers send."""

    def __init__(self, ledger: Ledger, directory: Path, *others: Any) -> None:
        super().__init__(ledger, directory, *others)
        echo = Echo(forgets=True)
        self._links = Links(
            echo, is_ready=echo.is_ready, frame_bytes=FRAME_BYTES, told=lambda _: None
        )

    @property
    def links(self) -> Links:
        return self._links

    async def __aenter__(self) -> Self:
        self.links.start()
        return await super().__aenter__()

    def stop(self) -> None:
        self.links.stop()
        super().stop()

    async def __aexit__(self, *error: object) -> None:
        await self.links.close()
        await super().__aexit__(*error)


if __name__ == "__main__":
    serve = partial(server.serve, bounds=Bounds(**json.loads(sys.argv.pop(1))))
    with patch.multiple(server, Node=LinkedNode, serve=serve):
        main(prog_name="cairn")
