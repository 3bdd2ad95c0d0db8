"""Who may ask what: names, origins and tokens; and what browsers are told to keep to.

A browser lets any web page send requests to this machine. So a request must name the node as it is
known (against DNS rebinding), and one that says that it comes from another page is refused.
Programs such as curl send neither `Origin` nor `Sec-Fetch-Site`.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn.api.html import bare_page, prefers_html
from cairn.api.problems import ProblemError, bad_request

_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|([^:\[\]]+))(?::[0-9]{1,5})?")
"""An IPv6 address, or a name or IPv4 address; and a port."""
SAFE: Final = {"GET", "HEAD"}
OPEN: Final = {"/health"}
"""Paths for which no token is asked: they say nothing of the ledger.

Nor does the page at /verify, or what pages refer to. But one rule is easier to keep than two, and
nobody needs these without a token: a refusal is a page that needs no other file, and who has just a
receipt should not take what checks it from the node that is to be checked.
"""
CHANGING: Final = {"/tamper"}
"""Paths that change something however they are asked for."""
DECIDING: Final = {
    b"authorization",
    b"host",
    b"origin",
    b"sec-fetch-dest",
    b"sec-fetch-mode",
    b"sec-fetch-site",
}

HEADERS: Final = {
    "Cache-Control": "no-store",  # a changed ledger must show
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""On every answer that does not say otherwise: recorded data is never taken for a page, nor read
by another one."""


_RAW_HEADERS: Final = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
HOSTS: Final = 64
"""Names by which the node was asked for, that are remembered: reading one takes some 5 µs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask, and by which names for the node."""

    tokens: Sequence[bytes] = ()
    """Any of them may read and write. None: everyone may."""
    read_tokens: Sequence[bytes] = ()
    """Any of them may read."""
    public_read: bool = False
    """Whether everyone may read."""
    names: frozenset[str] = frozenset()
    """What the node may be called in `Host`, besides localhost."""
    any_address: bool = False
    """Whether it may be called by any IP address: a web page has to use a name that it controls."""

    def knows_host(self, host: str) -> bool:
        """Whether `host`, as in a Host header, is a name of this node."""
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = (parts[1] or parts[2]).lower().removesuffix(".")
        if name in self.names or name == "localhost":
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback

    def require(self, path: str, authorization: str, *, writing: bool) -> None:
        """Refuse who may not do this.

        Raises:
            ProblemError: no token, or not the right one.
        """
        if not self.tokens or path in OPEN or (self.public_read and not writing):
            return
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ProblemError(HTTPStatus.UNAUTHORIZED, "unauthorized", "a bearer token is needed")
        given = token.strip().encode("latin-1")
        may_write = _is_one_of(given, self.tokens)
        may_read = _is_one_of(given, self.read_tokens)
        if not (may_write or may_read):
            raise ProblemError(HTTPStatus.UNAUTHORIZED, "unauthorized", "this token is not known")
        if writing and not may_write:
            raise ProblemError(HTTPStatus.FORBIDDEN, "forbidden", "this token may only read")


def _is_one_of(token: bytes, known: Sequence[bytes]) -> bool:
    """Compare with all, in a time that does not depend on how much is right."""
    return sum([hmac.compare_digest(token, one) for one in known]) > 0


class Guard:
    """Refuses requests before an ASGI application sees them, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._knows_host = lru_cache(HOSTS)(access.knows_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                usual = (header for header in _RAW_HEADERS if header[0] not in own)
                message["headers"] = [*message["headers"], *usual]
            await send(message)

        try:
            self._require(scope)
        except ProblemError as problem:
            shown = prefers_html(Headers(scope=scope).get("accept", ""))
            answer = bare_page(problem) if shown else problem.response()
            await answer(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)

    def _require(self, scope: Scope) -> None:
        headers, path = _deciding(scope), scope["path"]
        writing = scope["method"] not in SAFE or path in CHANGING
        host = headers.get(b"host")
        if host is None:
            raise bad_request("a request says in Host which name of the node it means")
        if not self._knows_host(host):
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                "wrong-host",
                f"{host!r:.200} is not a name of this node; the operator adds names",
            )
        harmless = not (writing or _validates(scope))
        _require_own_page(headers, host, navigating_is_fine=harmless)
        self._access.require(path, headers.get(b"authorization", ""), writing=writing)


def _validates(scope: Scope) -> bool:
    """Whether one who goes there makes the node validate, which may cost much."""
    accept = Headers(scope=scope).get("accept", "")
    shows = prefers_html(accept) and b"run" not in scope["query_string"]
    return scope["path"] == "/validate/events" or (scope["path"] == "/validate" and not shows)


def _deciding(scope: Scope) -> dict[bytes, str]:
    """Return the headers by which is decided.

    Raises:
        ProblemError: one is given twice: who is asked next might take the other.
    """
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in DECIDING:
            if name in found:
                raise bad_request(f"the header {name.decode()} is given twice")
            found[name] = value.decode("latin-1")
    return found


def _require_own_page(headers: dict[bytes, str], host: str, *, navigating_is_fine: bool) -> None:
    """Refuse what a browser sends for a page that is not ours.

    Source: W3C Fetch Metadata; the Origin header of the Fetch standard, section 3.2.
    """
    origin = headers.get(b"origin")
    if origin is not None and origin.partition("://")[2] != host.lower():
        raise ProblemError(
            HTTPStatus.FORBIDDEN, "forbidden", f"requests from pages of {origin!r:.200} are refused"
        )
    if headers.get(b"sec-fetch-site", "none") in ("none", "same-origin"):
        return
    navigating = headers.get(b"sec-fetch-mode") == "navigate"
    if not (navigating_is_fine and navigating and headers.get(b"sec-fetch-dest") == "document"):
        detail = "requests from other sites are refused"
        raise ProblemError(HTTPStatus.FORBIDDEN, "forbidden", detail)
