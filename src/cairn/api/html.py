"""Answers that are pages, for those who prefer them."""

from __future__ import annotations

from hashlib import sha256
from html import escape
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from cairn.api.problems import ProblemError
from cairn.core.errors import CairnError
from cairn.explorer.render import render
from cairn.node import Node

HTML: Final = "text/html"
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a page may do: nothing that it brings itself is run, and nothing asks another host."""


_BARE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · Cairn</title>
</head>
<body>
<h1>{title}</h1>
<p>{detail}.</p>
{help}</body>
</html>
"""
_HELP: Final = {
    HTTPStatus.UNAUTHORIZED: "<p>A browser sends none by itself. Whoever runs this node can let "
    "people in by a proxy that asks them who they are.</p>\n"
}


class Site(NamedTuple):
    """What is on every page."""

    name: str
    """Of the ledger."""
    id: str
    """Of the ledger: the hash of its genesis."""
    pages: list[tuple[str, str]]
    """Path and name of those in the menu."""
    here: str
    """The path of this one."""
    lab: bool
    seal: str
    """How blocks become final: instant or work."""


def site(node: Node, *, lab: bool, here: str) -> Site:
    """Return what is on every page of `node`."""
    pages = [("/", "Chain"), ("/blocks", "Find"), ("/validate", "Validate")]
    if node.peering is not None:
        pages.append(("/peers", "Network"))
    if lab:
        pages.append(("/lab", "Lab"))
    pages += [("/verify", "Check a receipt"), ("/docs", "API")]
    try:
        name, ledger_id = node.ledger.genesis.name, node.ledger.id
    except CairnError:  # genesis is damaged: its pages say so
        name, ledger_id = "a damaged ledger", "unknown"
    seal = "instant" if node.peering is None else "work"
    return Site(name, ledger_id, pages, here, lab, seal)


def html(site: Site, template: str, status: HTTPStatus = HTTPStatus.OK, **values: Any) -> Response:
    """Return the answer with a page."""
    text = render(template, site=site, **values)
    return Response(
        text.encode(errors="replace"),
        status,
        {"Content-Security-Policy": CSP},
        f"{HTML}; charset=utf-8",
    )


def bare_page(problem: ProblemError) -> Response:
    """Return the answer with a problem as a page, to who may not have any other.

    It needs no other file, and nothing of the ledger is read for it.
    """
    text = _BARE.format(
        title=problem.status.phrase,
        detail=escape(problem.detail),
        help=_HELP.get(problem.status, ""),
    )
    return Response(
        text.encode(errors="replace"), problem.status, problem.headers, f"{HTML}; charset=utf-8"
    )


class Fixed:
    """What is the same for as long as the program is: browsers keep it.

    They ask each time whether it still is (RFC 9110, section 13.1.2), so that no page of a new
    version meets a script of an old one.
    """

    def __init__(self, content: bytes, media_type: str, policy: str) -> None:
        self._content = content
        self._media_type = media_type
        self._tag = f'"{sha256(content).hexdigest()}"'
        # With a 304, too: its headers take the place of those that are kept.
        self._headers = {
            "Cache-Control": "no-cache",
            "Content-Security-Policy": policy,
            "ETag": self._tag,
        }

    def answer(self, request: Request) -> Response:
        """Return it, or that it has not changed."""
        known = ",".join(request.headers.getlist("if-none-match")).split(",")
        if {tag.strip().removeprefix("W/") for tag in known} & {self._tag, "*"}:
            return Response(None, HTTPStatus.NOT_MODIFIED, self._headers)
        return Response(self._content, HTTPStatus.OK, self._headers, self._media_type)


def prefers_html(accept: str) -> bool:
    """Whether who sends this Accept header would rather have HTML than JSON (RFC 9110, 12.5.1).

    It has to be named: a program that takes anything gets JSON.
    """
    weights: dict[str, float] = {}
    for choice in accept.split(","):
        media, *parameters = (part.strip().lower() for part in choice.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            weights[media] = float(quality)
        except ValueError:
            weights[media] = 0.0
    return weights.get(HTML, 0.0) > weights.get("application/json", 0.0)
