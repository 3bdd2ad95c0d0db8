"""What must hold of answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import httpx

from cairn.api.guard import HEADERS
from cairn.api.html import CSP
from cairn.api.verify import VERIFY_CSP
from tests.api.servers import Answer

PROBLEM: Final = "application/problem+json"
PREFIX: Final = "urn:cairn:problem:"
BROWSER: Final = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
"""What a browser says of itself."""


def problem(answer: httpx.Response | Answer, status: int, slug: str) -> dict[str, Any]:
    """Check that this is the problem `slug` (RFC 9457), guarded as every answer; return it."""
    found, body = _parts(answer)
    assert found == status, body[:300]
    assert answer.headers["content-type"] == PROBLEM
    value = json.loads(body)
    assert list(value)[:4] == ["type", "title", "status", "detail"]
    assert value["type"] == PREFIX + slug, value
    assert value["status"] == status
    assert value["title"]
    assert value["detail"]
    assert len(body) < 4096, "an error needs no more words than that"
    for member in ("title", "detail", "type", "reason", "path"):
        assert isinstance(value.get(member, ""), str)
    guarded(answer.headers)
    if status == 401:
        assert answer.headers["www-authenticate"].split()[0] == "Bearer"
    if status == 503:
        assert int(answer.headers["retry-after"]) > 0
    return dict(value)


def bare_page(answer: httpx.Response, status: int) -> httpx.Response:
    """Check that this is a page that is whole in itself, and that nothing in it runs; return it."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    guarded(answer.headers)
    tags = set(re.findall(r"<(\w+)", answer.text))
    assert tags == {"html", "head", "meta", "title", "body", "h1", "p"}
    assert "=" not in answer.text.partition("<body>")[2], "it refers to something"
    return answer


def guarded(headers: Mapping[str, str], path: str = "") -> None:
    """Check that a browser is told what it may do with this answer, which is that of `path`."""
    own = {}
    if path == "/checkpoint":
        own = {"Cache-Control": "no-cache"}
    elif path.startswith("/tile/"):
        own = {"Cache-Control": "max-age=31536000, immutable"}
    elif path.startswith("/explorer/"):
        own = {"Cache-Control": "no-cache", "Content-Security-Policy": CSP}
    elif path == "/docs":
        own = {"Content-Security-Policy": CSP}
    elif path == "/verify":
        own = {"Cache-Control": "no-cache", "Content-Security-Policy": VERIFY_CSP}
    for name, value in {**HEADERS, **own}.items():
        assert headers.get(name.lower()) == value, f"{name}: {headers.get(name.lower())}"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def _parts(answer: httpx.Response | Answer) -> tuple[int, bytes]:
    if isinstance(answer, Answer):
        return answer.status, answer.body
    return answer.status_code, answer.content
