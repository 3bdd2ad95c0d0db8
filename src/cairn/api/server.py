"""The server: a ledger on a socket, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from cairn.api.app import application
from cairn.api.bounds import Bounds
from cairn.api.connection import Connection, Crowd
from cairn.api.guard import Access
from cairn.core.errors import UsageError
from cairn.ledger import Ledger
from cairn.node import Node
from cairn.node.checkpoints import WitnessAddress
from cairn.node.links import Links
from cairn.node.peering import Peers
from cairn.node.scratch import LAB_KEYS, scratch_copy
from cairn.proof.keyring import Keyring

BACKLOG: Final = 1024
"""Connections that the system holds until they are accepted."""
SETTLE_SECONDS: Final = 0.05
"""Time for the event loop to read what the system has already received."""
GRACE_SECONDS: Final = 1.0
"""What a client has, when the node stops, to finish sending a request or go on reading."""
SIGNALS: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""What ends the service: Ctrl-C, who manages services, a terminal that is closed."""
SPARE_FILES: Final = 256
"""Open files besides connections: databases, threads' pipes, libraries."""


def serve(
    directory: Path,
    *,
    host: str,
    port: int,
    access: Access,
    lab: bool = False,
    witnesses: Sequence[WitnessAddress] = (),
    peers: Peers | None = None,
    bounds: Bounds | None = None,
    ready: Callable[[str, Ledger], None] = lambda _url, _ledger: None,
) -> None:
    """Serve the ledger in `directory` over HTTP until SIGTERM or SIGINT.

    It is created if missing. In the lab, a scratch copy of it is served, which is removed at the
    end, with the keys that have signed it. `witnesses` are asked to cosign checkpoints. `peers`
    says with whom a work ledger is shared, and whether it is mined here. `ready` is called with the
    URL once requests are taken; port 0 takes one that is free.

    Raises:
        UsageError: the address cannot be had.
        CairnError: as `Ledger.open`.
    """
    bounds = bounds or Bounds()
    with ExitStack() as stack:
        stack.enter_context(signals_end_it())
        listener = stack.enter_context(listen(host, port))
        keyring = Keyring()
        if lab:
            directory = stack.enter_context(scratch_copy(directory))
            keyring = Keyring(directory.with_name(LAB_KEYS))
        for address in witnesses:
            keyring.trust(address.key)
        ledger = stack.enter_context(Ledger.open(directory, keyring=keyring))
        if ledger.is_mined:
            peers = peers or Peers()
            peers = replace(peers, address=peers.address or _peer_address(listener))
        node = Node(ledger, directory, witnesses, peers)
        app = application(
            node,
            access=access,
            bounds=bounds,
            lab=lab,
            connections=lambda: len(server.server_state.connections),
        )
        server = Server(
            app,
            listener,
            bounds,
            lambda url: ready(url, ledger),
            stop=node.stop,  # who follows would keep us waiting: the node lets them go
            links=node.links,
        )
        server.run_until_stopped()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


class Server(uvicorn.Server):
    """An application on a socket, within bounds, until it is told to stop."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        bounds: Bounds,
        ready: Callable[[str], None],
        *,
        stop: Callable[[], None] = lambda: None,
        links: Links | None = None,
    ) -> None:
        """Serve `app`. `ready` is called with the URL, and `stop` when it is to stop.

        Peers may become some of the `links`; it is for `stop` to let them go.
        """
        self._crowd = Crowd()
        config = uvicorn.Config(
            app,
            http=partial(  # type: ignore[arg-type]
                Connection, bounds=bounds, crowd=self._crowd, links=links
            ),
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(bounds.idle_seconds) + 1,  # ours comes first
            timeout_graceful_shutdown=bounds.stop_seconds,
        )
        super().__init__(config)
        self._listener = listener
        self._files = bounds.connections + SPARE_FILES
        self._ready = ready
        self._stop = stop
        self._failure: Exception | None = None
        self._interrupted = False  # by Ctrl-C, and not by who manages services

    def run_until_stopped(self) -> None:
        """Serve; raises what `ready` raised, and KeyboardInterrupt where Ctrl-C was the end."""
        _allow_files(self._files)
        log = logging.getLogger("uvicorn.error")
        log.setLevel(logging.ERROR)
        log.addFilter(_says_something)
        self.run(sockets=[self._listener])
        if self._failure is not None:
            raise self._failure
        if self._interrupted:
            raise KeyboardInterrupt

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop well on a signal; then keep them out until everything is cleared away."""
        for number in SIGNALS:
            signal.signal(number, self.handle_exit)
        yield
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; when asked again, hang up on everyone."""
        self._interrupted = self._interrupted or sig == signal.SIGINT
        if self.should_exit:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and say so."""
        await super().startup(sockets)
        try:
            self._ready(f"http://{_authority(self._listener)}")
        except Exception as error:  # nobody can be told where we are: stop, but stop well
            self._failure = error
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was sent; wait for nobody who only waits."""
        self._stop()
        self._crowd.stopping = True
        await asyncio.sleep(SETTLE_SECONDS)  # what was sent before is read, and answered
        for server in self.servers:
            server.close()
        await asyncio.sleep(SETTLE_SECONDS)
        leaving = asyncio.create_task(self._leave())
        await super().shutdown(sockets)
        leaving.cancel()

    async def _leave(self) -> None:
        """Leave those who have not sent their request yet, or do not read its answer."""
        while True:
            await asyncio.sleep(GRACE_SECONDS)
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                if connection.keeps_waiting:
                    connection.transport.abort()


def _says_something(record: logging.LogRecord) -> bool:
    """Leave out that a stop waited for requests, where there was none any more."""
    return not record.getMessage().startswith("Cancel 0 running")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes one that is free.

    Raises:
        UsageError: the address cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(f"cannot listen on {host} port {port}: {error}") from error


def _authority(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _peer_address(listener: socket.socket) -> str:
    """Return where peers can dial us, if that is all that we know of it; or nothing."""
    is_any = ip_address(listener.getsockname()[0].partition("%")[0]).is_unspecified
    return "" if is_any else f"ws://{_authority(listener)}"


def _allow_files(wanted: int) -> None:
    """Raise the soft limit of open files, which is commonly 1024, as far as we need and may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def signals_end_it() -> Iterator[None]:
    """Turn signals that would end the process at once into SystemExit, to clear away."""

    def leave(*_: object) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, leave) for number in SIGNALS - {signal.SIGINT}}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
