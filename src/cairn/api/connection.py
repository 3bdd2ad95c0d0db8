"""One HTTP connection, within bounds: uvicorn leaves slow, idle and half-open ones alone."""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from collections.abc import Collection
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from cairn.api.bounds import Bounds
from cairn.api.guard import HEADERS
from cairn.api.problems import ProblemError
from cairn.node.link import PATH, UpgradeError
from cairn.node.links import ACCEPTED, Links

UPGRADE_HEADERS: Final = {b"connection", b"upgrade", b"http2-settings"}
"""What a client sends that would rather speak something else, as Java's does by default."""
_LINK: Final = PATH.encode()


@dataclass(eq=False, slots=True)
class Crowd:
    """What the connections of a server know of each other."""

    waiting: dict[Connection, None] = field(default_factory=dict)
    """Those that wait for a request or the rest of one, the one that waits longest first."""
    stopping: bool = False
    """Whether every answer is the last of its connection."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with a deadline for everything that it waits for."""

    def __init__(
        self, *args: Any, bounds: Bounds, crowd: Crowd, links: Links | None, **others: Any
    ) -> None:
        """Keep within `bounds`; `crowd` is shared by all connections of a server.

        It may become one of the `links`, if there are any.
        """
        super().__init__(*args, **others)
        self._bounds = bounds
        self._crowd = crowd
        self._links = links
        self._deadline: TimerHandle | None = None
        self._stalled: TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._in_headers = False  # of a request that has begun
        self._in_body = False
        self._body_began = 0.0
        self._header_bytes = 0  # with trailers
        self._idle_bytes = 0  # received since anything came of it
        self._too_large = False
        self._hanging_up = False  # when what was asked for is answered

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Make room, if there is none; else refuse."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            longest = next(iter(self._crowd.waiting), None)
            if longest is None:
                most = self._bounds.connections
                self._refuse(
                    HTTPStatus.SERVICE_UNAVAILABLE, "busy", f"all {most} connections are in use"
                )
                return
            longest.transport.close()
        self._wait(self._bounds.header_seconds)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._hanging_up:
            return
        self._unset_keepalive_if_required()
        self._idle_bytes += len(data)
        while data and not self.transport.is_closing():
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if self._links is not None and self._asks_for_link():
                    self._become_link(self._links, data)
                    return
                data = self._without_upgrade(data)
            except httptools.HttpParserError:
                self.send_400_response("this is not HTTP/1.1")
                data = b""
        if (self._in_headers or self._in_body) and self._idle_bytes > self._bounds.header_bytes:
            self._too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_headers, self._header_bytes = True, 0
        if not self._answering:
            self._set_deadline(self._bounds.header_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, if there are not too many."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > self._bounds.header_bytes:
            self._too_large = True
            raise ValueError  # the parser stops, and we answer
        if self._in_headers:  # a trailer must not pass for one (RFC 9110, section 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Answer the request; its body is read within the bounds that are kept where it is read."""
        if self.parser.should_upgrade():
            return
        self._in_headers, self._in_body, self._idle_bytes = False, True, 0
        self._body_began = self.loop.time()
        super().on_headers_complete()
        if self._crowd.stopping:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Hand on a part of the body."""
        self._idle_bytes = 0
        if self.loop.time() - self._body_began > self._bounds.body_seconds:
            self._too_slow()
        elif not self.pipeline:
            self._set_deadline(self._bounds.chunk_seconds)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that nothing more is to come."""
        if self.parser.should_upgrade():
            return
        self._in_body = False
        self._idle_bytes = 0
        super().on_message_complete()
        if self._answering:
            self._stop_waiting()
        else:  # refused before it was all there
            self._wait(self._bounds.idle_seconds)

    def on_response_complete(self) -> None:
        """Wait for the next request, or begin with the one that is there already."""
        another = bool(self.pipeline)
        super().on_response_complete()
        if another or self.transport.is_closing():
            return
        if self._hanging_up:
            self.transport.close()
        elif self._in_headers:
            self._wait(self._bounds.header_seconds)
        else:
            self._wait(self._bounds.idle_seconds)

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Note that it does."""
        self._stop_watching()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and tell all who answer it."""
        self._stop_waiting()
        self._stop_watching()
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or too much of it."""
        if self._too_large:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too-large",
                f"a request may have {self._bounds.header_bytes} bytes besides its body",
            )
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "bad-request", msg)

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Return a request as if it did not ask for another protocol (RFC 9110, section 7.8).

        The parser stops at such a request, before its body. `rest` is what it has left.
        """
        if self.parser.get_method() == b"CONNECT":
            self.send_400_response("this is no proxy")
            return b""
        head = self._head(without=UPGRADE_HEADERS)
        self.parser = httptools.HttpRequestParser(self)
        return head + rest

    def _head(self, *, without: Collection[bytes] = ()) -> bytes:
        """Return the beginning of the request as it came, but for some of its headers."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in without]
        return b"\r\n".join([*lines, b"", b""])

    def _asks_for_link(self) -> bool:
        """Whether this is a request for a WebSocket to a peer.

        Not one with `Origin`: it comes from a web page, as no browser leaves that out, and pages
        are not peers. It is answered as what it is without the upgrade.
        """
        headers = dict(self.headers)
        is_websocket = headers.get(b"upgrade", b"").lower() == b"websocket"
        idle = not self._answering and not self.pipeline
        return self.url == _LINK and is_websocket and b"origin" not in headers and idle

    def _become_link(self, links: Links, rest: bytes) -> None:
        """Hand the connection over to `links`; `rest` came after the request."""
        if not links.has_room:
            detail = f"no links are open for others, or all {ACCEPTED} are taken"
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "busy", detail)
            return
        try:
            links.accept(self.transport, self._head(), rest)
        except UpgradeError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, "bad-request", str(error))
            return
        self._stop_waiting()
        self._stop_watching()
        self.connections.discard(self)  # a stop does not wait for it: the links are let go

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if self._in_body and cycle is self.cycle:
            self._wait(self._bounds.chunk_seconds)
        else:
            self._stop_waiting()
        super()._start_asgi_task(cycle, app)

    @property
    def keeps_waiting(self) -> bool:
        """Whether it is for the client to do something: send, or read."""
        return self in self._crowd.waiting or self._stalled is not None

    @property
    def _answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _watch(self, left: int) -> None:
        """Hang up if the client reads nothing of the `left` bytes until the next look."""
        self._stop_watching()
        self._stalled = self.loop.call_later(self._bounds.stalled_seconds, self._look, left)

    def _look(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < before:
            self._watch(left)
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _wait(self, seconds: float) -> None:
        self._crowd.waiting.pop(self, None)
        self._crowd.waiting[self] = None  # last
        self._set_deadline(seconds)

    def _stop_waiting(self) -> None:
        self._crowd.waiting.pop(self, None)
        self._set_deadline(None)

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self._in_headers:
            detail = f"the headers of a request have {self._bounds.header_seconds} s to come"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "timeout", detail)
        elif self._in_body:
            part, whole = self._bounds.chunk_seconds, self._bounds.body_seconds
            detail = f"each part of a body has {part} s to come, the whole {whole} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "timeout", detail)
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, slug: str, detail: str) -> None:
        """Hang up, and say why if no answer to an earlier request is under way."""
        if self.transport.is_closing():
            return
        this_one = self._in_body and not self.pipeline  # is what is being answered
        if self._answering and not this_one:
            self._hanging_up = True
            return
        if not (this_one and self._running and self._running.response_started):
            response = ProblemError(status, slug, detail).response()
            headers = {"date": formatdate(usegmt=True), "connection": "close", **HEADERS}
            headers |= dict(response.headers)
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = STATUS_LINE[status] + lines.encode() + b"\r\n"
            self.transport.write(head + bytes(response.body))
        self.transport.close()
