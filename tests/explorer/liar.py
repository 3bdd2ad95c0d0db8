"""A proxy in front of a node, which changes what the node says on its way to the browser."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final, NamedTuple

from tests.api.servers import Server

PASSED_ON = ("Accept", "Last-Event-ID")
"""Headers that the node gets. It sees no Origin: what reaches it comes from the proxy."""
KEPT = ("Content-Type", "Content-Security-Policy", "Cache-Control")
"""Headers of its answer that the browser gets."""


DATA: Final = b"data: "
"""Before what an event says."""


class Said(NamedTuple):
    """What the node has said: an answer, or the HTML of an event."""

    path: str
    """With the query."""
    is_page: bool
    body: bytes


Lie = Callable[[Said], bytes]


def honest(said: Said) -> bytes:
    return said.body


class Liar(ThreadingHTTPServer):
    """The proxy. What it says may be changed at any time."""

    daemon_threads = True

    def __init__(self, node: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.node = node
        """Whom it asks."""
        self.lie: Lie = honest
        self.following: set[HTTPResponse] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def replace(self, *pairs: tuple[str, str], within: str = "", pages: bool = True) -> None:
        """Say the second of each pair for the first, wherever the path has `within` in it.

        With `pages` or without: programs are then told the truth, or people.
        """

        def lie(said: Said) -> bytes:
            body = said.body
            if within in said.path and said.is_page == pages:
                for truth, other in pairs:
                    body = body.replace(truth.encode(), other.encode())
            return body

        self.lie = lie

    def handle_error(self, *_: Any) -> None:
        """Browsers go when they like."""


class _Handler(BaseHTTPRequestHandler):
    server: Liar
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        node = self.server.node
        connection = HTTPConnection(node.host, node.port, timeout=60)
        headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        connection.request("GET", self.path, headers=headers)
        answer = connection.getresponse()
        try:
            self._pass_on(answer)
        finally:
            answer.close()
            connection.close()

    def _pass_on(self, answer: HTTPResponse) -> None:
        kind = answer.headers["Content-Type"]
        events = kind.startswith("text/event-stream")
        is_page = events or kind.startswith("text/html")
        body = b"" if events else self.server.lie(Said(self.path, is_page, answer.read()))
        self.send_response(answer.status)
        for name in KEPT:
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("Connection", "close")
        self.close_connection = True
        if not events:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if events:
            self._follow(answer)

    def _follow(self, answer: HTTPResponse) -> None:
        self.server.following.add(answer)
        with suppress(OSError, ValueError, AttributeError):  # one of the two has gone
            while line := answer.readline():
                if line.startswith(DATA):
                    text = json.loads(line.removeprefix(DATA)).encode()
                    line = self.server.lie(Said(self.path, True, text))
                    line = DATA + json.dumps(line.decode()).encode() + b"\n"
                self.wfile.write(line)
                self.wfile.flush()
        self.server.following.discard(answer)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def lying(node: Server) -> Iterator[Liar]:
    """Run a proxy in front of `node`, honest until it is told otherwise."""
    with Liar(node) as liar:
        thread = Thread(target=liar.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield liar
        finally:
            for answer in list(liar.following):
                with suppress(OSError, AttributeError):
                    answer.fp.raw._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
            liar.shutdown()
            thread.join()
