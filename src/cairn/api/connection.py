"""One HTTP connection, within bounds: uvicorn leaves slow, idle and half-open ones alone."""

from __future__ import annotations

import json
from asyncio import TimerHandle, Transport
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from cairn.api.bounds import Bounds
from cairn.api.problems import MEDIA_TYPE, ProblemError

Waiting = dict["Connection", None]
"""Connections that wait for a request or the rest of one, the one that waits longest first."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with a deadline for everything that it waits for."""

    def __init__(self, *args: Any, bounds: Bounds, waiting: Waiting, **others: Any) -> None:
        """Keep within `bounds`; `waiting` is shared by all connections of a server."""
        super().__init__(*args, **others)
        self._bounds = bounds
        self._waiting = waiting
        self._deadline: TimerHandle | None = None
        self._stalled: TimerHandle | None = None
        self._in_headers = False
        self._header_bytes = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Make room, if there is none; else refuse."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            for longest in self._waiting:
                longest.transport.close()
                break
            else:
                most = self._bounds.connections
                self._refuse(
                    HTTPStatus.SERVICE_UNAVAILABLE, "busy", f"all {most} connections are in use"
                )
                return
        self._wait(self._bounds.header_seconds)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > self._bounds.header_bytes:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too-large",
                f"a request may have {self._bounds.header_bytes} bytes before its body",
            )

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_headers, self._header_bytes = True, 0
        self._set_deadline(self._bounds.header_seconds)

    def on_headers_complete(self) -> None:
        """Answer the request; its body is read within the bounds that are kept where it is read."""
        self._in_headers = False
        self._set_deadline(None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that nothing more is to come."""
        super().on_message_complete()
        if self.cycle.response_complete:  # refused before it was all there
            self._wait(self._bounds.idle_seconds)
        else:
            self._waiting.pop(self, None)

    def on_response_complete(self) -> None:
        """Wait for the next request, or begin with the one that is there already."""
        another = bool(self.pipeline)
        super().on_response_complete()
        if not another and not self.transport.is_closing():
            self._wait(self._bounds.idle_seconds)

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self._bounds.stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that it does."""
        self._reading_again()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._waiting.pop(self, None)
        self._set_deadline(None)
        self._reading_again()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, "bad-request", msg)

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None until the first request
        return cycle is not None and not cycle.response_complete

    def _reading_again(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _wait(self, seconds: float) -> None:
        self._waiting.pop(self, None)
        self._waiting[self] = None  # last
        self._set_deadline(seconds)

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self._in_headers and not self._answering:
            detail = f"the headers of a request have {self._bounds.header_seconds} s to come"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "timeout", detail)
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, slug: str, detail: str) -> None:
        """Answer before there is a request to hand on, and hang up."""
        if self.transport.is_closing():
            return
        content = json.dumps(ProblemError(status, slug, detail).to_value()).encode()
        head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(content)}\r\n"
        rest = "connection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + (head + rest).encode() + content)
        self.transport.close()
