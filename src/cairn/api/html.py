"""Answers that are pages, for those who prefer them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, NamedTuple

from starlette.responses import Response

from cairn.core.errors import CairnError
from cairn.explorer.render import render
from cairn.node import Node

HTML: Final = "text/html"
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a page may do: nothing that it brings itself is run, and nothing asks another host."""


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
