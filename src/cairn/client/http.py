"""What both drivers share of httpx."""

from __future__ import annotations

from typing import Any, Final

import httpx

from cairn.client.wire import Lost, Request, is_word
from cairn.core.errors import UsageError

TIMEOUT_SECONDS: Final = 10.0
"""How long a node may make no progress: much longer than a commit on a slow disk takes."""
PATIENCE_SECONDS: Final = 30.0
"""How long to try again: a node that is restarted is back by then."""

LOST: Final = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
    httpx.DecodingError,
)
"""What httpx raises where there is no answer, or not all of it. Anything else is a bug."""
_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
)
"""Those that come before the first byte of a request is sent."""


def settings(url: str, token: str | None) -> dict[str, Any]:
    """Return what to make a client of httpx with.

    Raises:
        UsageError: `url` is not that of a node, or `token` cannot be sent.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise UsageError(f"a node is at http://HOST:PORT or https://HOST:PORT, not at {url!r}")
    if token is not None and not is_word(token):
        raise UsageError("a token is printable ASCII without spaces, and not empty")
    # So that no short answer unpacks to a long one before its length is looked at.
    headers = {"Accept-Encoding": "identity"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return {
        "base_url": parsed,
        "headers": headers,
        # As many at once as there are callers: each follower holds one for good.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
    }


def arguments(request: Request, timeout: float) -> dict[str, Any]:
    """Return what to send `request` with; each step of it may take `timeout` seconds."""
    return {
        "method": request.method,
        "url": request.path,
        "content": request.body or None,
        "headers": request.headers,
        "timeout": httpx.Timeout(timeout, read=request.read_seconds or timeout),
    }


def lost(error: Exception) -> Lost:
    """Return what one of `LOST` says of a request."""
    return Lost(error, sent=not isinstance(error, _NOT_SENT))
