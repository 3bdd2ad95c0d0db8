"""The explorer: pages of blocks and entries, search, and what keeps open pages current."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cairn.api.bounds import HEARTBEAT_SECONDS, SEARCH_SECONDS
from cairn.api.home import CARD_CHARACTERS, Home
from cairn.api.html import CSP
from cairn.api.kept import Kept
from cairn.api.network import network_parts
from cairn.api.operations import Operation, Parameter
from cairn.api.problems import ProblemError
from cairn.api.service import EVENTS, Service, stream
from cairn.api.verify import RECEIPT_MODULE
from cairn.core.errors import CairnError
from cairn.explorer.blocks import Card, ShownBlock
from cairn.explorer.render import STATIC
from cairn.ledger import Ledger
from cairn.ledger.search import find_blocks, first_at, moment

PAGE_CHARACTERS: Final = 50_000
"""Of a block's data on its own page: what a browser lays out at once. More is a click away."""
FOUND: Final = 50
"""Blocks on a page of those that were found."""
PART_SECONDS: Final = 0.25
"""Between two times that an open page is told of what is new: quick for people."""
IDLE_SECONDS: Final = 2.0
"""Between two looks at what changes without a block: rates, peers."""


async def block_page(service: Service, _request: Request, *, reference: int | str) -> Response:
    """Show a block."""
    node = service.node

    def read() -> dict[str, Any]:
        block = service.find(reference)
        place = reference if isinstance(reference, int) else block.index
        return {
            "place": place,
            "block": ShownBlock.of(block, PAGE_CHARACTERS, on_lines=True),
            "before": _header(node.ledger, place - 1),
            "after": _header(node.ledger, place + 1),
        }

    values = await node.read(read)
    place = values["place"]
    return service.page(
        "/",
        "block.html",
        length=node.length,
        final=place < node.final,
        missing=place - node.final + 1,
        **values,
    )


def _header(ledger: Ledger, place: int) -> str | None:
    """Return the header at a position as hex, if there is one that can be read."""
    with suppress(CairnError):
        if place >= 0:
            return ledger.headers(place, place + 1).tobytes().hex() or None
    return None


async def found_page(
    service: Service,
    request: Request,
    *,
    since: int | None = None,
    until: int | None = None,
    contains: str = "",
    cursor: int | None = None,
    limit: int = FOUND,
) -> Response:
    """Show the blocks that are looked for."""
    node, ledger = service.node, service.node.ledger
    query = {name: text for name, text in request.query_params.items() if text}
    shown: dict[str, Any] = {name: query.get(name, "") for name in ("contains", "since", "until")}
    if not (query.keys() - {"cursor", "limit"}):
        return service.page("/blocks", "blocks.html", asked=False, cards=[], next=None, **shown)
    if cursor is not None:
        await service.require_place(cursor)

    def read() -> tuple[list[Card], int | None]:
        start = cursor or 0
        if cursor is None and since is not None:
            start = first_at(ledger, since)
        page = find_blocks(
            ledger,
            start=start,
            stop=None if until is None else first_at(ledger, until),
            contains=contains,
            limit=min(limit, FOUND),
            seconds=SEARCH_SECONDS,
        )
        final = ledger.final
        found = zip(page.places, page.blocks, strict=True)
        cards = [
            Card(place, ShownBlock.of(block, CARD_CHARACTERS), "", place < final)
            for place, block in found
        ]
        return cards, page.next

    cards, following = await node.search(read)
    link = following and f"/blocks?{urlencode({**query, 'cursor': following})}"
    return service.page("/blocks", "blocks.html", asked=True, cards=cards, next=link, **shown)


async def entry_page(service: Service, _request: Request, *, entry: str) -> Response:
    """Show where an entry stands."""
    standing = await service.node.entry(bytes.fromhex(entry))
    doubles = [{"block": block} for block, _ in standing.duplicates]
    shown = {**asdict(standing), "entry": standing.id, "duplicates": doubles}
    return service.page("/", "entry.html", entry=shown)


async def search(service: Service, _request: Request, *, q: str = "") -> Response:
    """Go to what somebody looks for: a block's index or hash, an entry's id, a time, or text."""
    return RedirectResponse(await _sought(service, q.strip()), HTTPStatus.SEE_OTHER)


async def _sought(service: Service, text: str) -> str:
    node = service.node
    number = re.fullmatch(r"#?([0-9]{1,19}|[0-9]{1,3}(?:,[0-9]{3}){1,6})", text)
    if number and (index := int(number[1].replace(",", ""))) < node.length:
        return f"/blocks/{index}"
    lower = text.lower()
    if len(lower) == 64 and not lower.strip("0123456789abcdef"):
        if await node.read(lambda: node.ledger.find(lower)) is not None:
            return f"/blocks/{lower}"
        return f"/entries/{lower}"
    with suppress(ValueError):
        moment(text)
        return f"/blocks?{urlencode({'since': text})}"
    return f"/blocks?{urlencode({'contains': text})}"


async def follow_page(service: Service, request: Request, *, view: str = "home") -> Response:
    """Follow an open page: server-sent events, with those of its parts that are new."""
    if view not in service.views:
        raise ProblemError(HTTPStatus.NOT_FOUND, "not-found", f"there is no live {view!r:.80}")
    return stream(request, _parts(service, view))


async def _parts(service: Service, view: str) -> AsyncGenerator[bytes, None]:
    """Yield an event whenever a part is another one than before."""
    yield b": following\n\n"
    shown: Mapping[str, str] = {}
    silent = 0.0
    with service.metrics.followers.track_inprogress(), suppress(CairnError):
        while True:
            growth = service.node.growth
            parts = await service.views[view].get()
            new = "".join(text for part, text in parts.items() if shown.get(part) != text)
            shown = parts
            if new:
                yield f"event: part\ndata: {json.dumps(new)}\n\n".encode()
                silent = 0.0
            elif silent >= HEARTBEAT_SECONDS:
                yield b": alive\n\n"
                silent = 0.0
            if not await service.node.wait(growth, PART_SECONDS, IDLE_SECONDS):
                return
            silent += IDLE_SECONDS


async def read_static(_service: Service, _request: Request, *, name: str) -> Response:
    """Read a file that pages refer to."""
    if name not in FILES:
        raise ProblemError(HTTPStatus.NOT_FOUND, "not-found", f"there is no file {name!r:.80}")
    content, media_type = FILES[name]
    headers = {"Content-Security-Policy": CSP}  # that of what a worker runs
    return Response(content, media_type=media_type, headers=headers)


FILES: Final = {**STATIC, "receipt.js": (RECEIPT_MODULE.encode(), "text/javascript")}


def views(service: Service) -> dict[str, Kept[dict[str, str]]]:
    """Return what open pages are told of: their parts, by the page's name."""
    found = {"home": Kept(Home(service).parts, PART_SECONDS)}
    if service.node.peering is not None:
        found["network"] = Kept(partial(network_parts, service), PART_SECONDS)
    return found


_MEDIA: Final = sorted({media_type for _, media_type in FILES.values()})
OPERATIONS: Final = [
    Operation(
        method="GET",
        path="/search",
        handler=search,
        parameters=[
            Parameter(
                "q",
                "query",
                "What to look for.",
                {"type": "string", "minLength": 1, "maxLength": 1000},
            )
        ],
        answers={303: ("Where it is.", {})},
    ),
    Operation(
        method="GET",
        path="/live",
        handler=follow_page,
        parameters=[
            Parameter(
                "view",
                "query",
                "Which page.",
                {"type": "string", "pattern": "^(home|network)$", "maxLength": 20},
            )
        ],
        answers={
            200: ("Events `part`: HTML as a JSON string.", {EVENTS: {"schema": {"type": "string"}}})
        },
        refusals={404: "This node has no such page."},
    ),
    Operation(
        method="GET",
        path="/explorer/{name}",
        handler=read_static,
        parameters=[
            Parameter(
                "name",
                "path",
                "Of the file.",
                {"type": "string", "pattern": r"^[a-z_]+\.[a-z]+$", "maxLength": 40},
            )
        ],
        answers={200: ("The file.", {m: {"schema": {"type": "string"}} for m in _MEDIA})},
        refusals={404: "There is no such file."},
    ),
]
