"""The explorer: pages of blocks and entries, search, and what keeps open pages current."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cairn.api.bounds import HEARTBEAT_SECONDS, SEARCH_SECONDS
from cairn.api.home import CARD_CHARACTERS, Home
from cairn.api.html import CSP, Fixed
from cairn.api.kept import Kept
from cairn.api.network import network_parts
from cairn.api.operations import Operation, Parameter
from cairn.api.pages import problem_of_damage
from cairn.api.problems import ProblemError, bad_request
from cairn.api.service import EVENTS, Service, stream
from cairn.api.verify import RECEIPT_MODULE
from cairn.core.block import rfc3339
from cairn.core.errors import CairnError, DamagedError
from cairn.core.header import DATA_ROOT, HEADER_DTYPE
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
PIECE_BLOCKS: Final = 4096
"""Among so many at once a hash is looked for by its beginning: half a megabyte."""
_BEGINNING: Final = re.compile(r"([0-9a-f]{8,63})(…|\.\.\.)?")
"""Of a hash: as many digits as tell it from others, and the sign with which pages cut it."""


async def block_page(service: Service, _request: Request, *, reference: int | str) -> Response:
    """Show a block."""
    node = service.node

    def read() -> dict[str, Any]:
        block = service.find(reference)
        place = reference if isinstance(reference, int) else block.index
        return {
            "place": place,
            "block": ShownBlock.of(block, PAGE_CHARACTERS, on_lines=True),
            "keys": _signers(node.ledger),
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


def _signers(ledger: Ledger) -> list[str]:
    """Return the ledger's keys that have signed the published checkpoint, as verifier keys."""
    with suppress(CairnError):
        if signed := ledger.notary.believed():
            return [str(key) for key in signed.log_keys]
    return []


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
    ledger = service.node.ledger
    query = {name: text for name, text in request.query_params.items() if text}
    shown: dict[str, Any] = {name: query.get(name, "") for name in ("contains", "since", "until")}
    if not (query.keys() - {"cursor", "limit"}):
        return service.page("/blocks", "blocks.html", asked=False, cards=[], next=None, **shown)
    if cursor is not None:
        await service.require_place(cursor)

    def link(position: int | None) -> str | None:
        return None if position is None else f"/blocks?{urlencode({**query, 'cursor': position})}"

    def read() -> tuple[list[Card], int | None]:
        start = cursor or 0
        if cursor is None and since is not None:
            start = first_at(ledger, since)
        stop = None if until is None else first_at(ledger, until)
        try:
            page = find_blocks(
                ledger,
                start=start,
                stop=stop,
                contains=contains,
                limit=min(limit, FOUND),
                seconds=SEARCH_SECONDS,
            )
        except DamagedError as error:
            raise problem_of_damage(
                error, ledger, start=start, stop=stop, contains=contains, link=link
            ) from error
        final = ledger.final
        found = zip(page.places, page.blocks, strict=True)
        cards = [
            Card(place, ShownBlock.of(block, CARD_CHARACTERS), "", place < final)
            for place, block in found
        ]
        return cards, page.next

    cards, following = await service.search(read)
    return service.page(
        "/blocks",
        "blocks.html",
        asked=True,
        cards=cards,
        next=link(following),
        first=cursor or 0,
        earliest=_utc(since),
        latest=_utc(until),
        **shown,
    )


def _utc(timestamp: int | None) -> str:
    """Return a time (µs) for people, to the second; nothing of none."""
    return "" if timestamp is None else f"{rfc3339(timestamp)[:19].replace('T', ' ')} UTC"


async def entry_page(service: Service, _request: Request, *, entry: str) -> Response:
    """Show where an entry stands."""
    standing = await service.entry(bytes.fromhex(entry))
    doubles = [{"block": block} for block, _ in standing.duplicates]
    shown = {**asdict(standing), "entry": standing.id, "duplicates": doubles}
    return service.page("/", "entry.html", entry=shown)


async def search(service: Service, _request: Request, *, q: str = "") -> Response:
    """Go to what somebody looks for: a block, an entry, a time, or text.

    A block by its index, `#5` or `block 5`, or by its hash; an entry by its id, which is a hash,
    too. Of a hash 8 digits or more will do, if no other begins with them; not of the id of one
    entry of many in a block.
    """
    return RedirectResponse(await _sought(service, q.strip()), HTTPStatus.SEE_OTHER)


async def _sought(service: Service, text: str) -> str:
    node = service.node
    number = re.fullmatch(r"#?([0-9]{1,19}|[0-9]{1,3}(?:,[0-9]{3}){1,6})", text)
    if number and (index := int(number[1].replace(",", ""))) < node.length:
        return f"/blocks/{index}"
    if named := re.fullmatch(r"block\s*#?\s*([0-9]{1,18})", text, re.IGNORECASE):
        return f"/blocks/{int(named[1])}"
    lower = text.lower()
    if re.fullmatch("[0-9a-f]{64}", lower):
        if await node.read(lambda: node.ledger.find(lower)) is not None:
            return f"/blocks/{lower}"
        return f"/entries/{lower}"
    if beginning := _BEGINNING.fullmatch(lower):
        digits, cut = beginning[1], beginning[2]
        found = await service.search(lambda: _with_beginning(node.ledger, digits))
        if len(found) > 1:
            raise bad_request(f"more than one hash begins with {digits}: give more of its digits")
        if found:
            return found.pop()
        if cut:
            detail = f"no block has a hash, or an only entry, that begins with {digits}"
            raise ProblemError(HTTPStatus.NOT_FOUND, "no-such-block", detail)
    with suppress(ValueError):
        moment(text)
        return f"/blocks?{urlencode({'since': text})}"
    return f"/blocks?{urlencode({'contains': text})}"


def _with_beginning(ledger: Ledger, digits: str) -> set[str]:
    """Return the paths of the blocks and entries whose hashes begin so; two at most.

    Entries are known by the data roots of blocks that have one. What cannot be read is left out.

    Raises:
        ProblemError: it takes too long.
    """
    found: set[str] = set()
    length, deadline = len(ledger), time.monotonic() + SEARCH_SECONDS
    for start in range(0, length, PIECE_BLOCKS):
        with suppress(DamagedError):
            stop = min(start + PIECE_BLOCKS, length)
            hashes, headers = ledger.hashes(start, stop), ledger.headers(start, stop)
            alone = headers.view(HEADER_DTYPE)["count"].reshape(-1) == 1
            found |= {f"/blocks/{one}" for one in _beginning_so(hashes, digits)}
            found |= {f"/entries/{one}" for one in _beginning_so(headers[alone, DATA_ROOT], digits)}
        if len(found) > 1:
            break
        if time.monotonic() > deadline:
            raise bad_request("the ledger is too long to find a part of a hash: give all 64 digits")
    return found


def _beginning_so(hashes: NDArray[np.uint8], digits: str) -> list[str]:
    """Return those of some hashes, `(n, 32)`, whose hex digits begin so."""
    first = np.frombuffer(bytes.fromhex(digits[:8]), np.uint8)
    rows = hashes[(hashes[:, : len(first)] == first).all(axis=1)]
    return [digest for row in rows if (digest := row.tobytes().hex()).startswith(digits)]


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


async def read_static(_service: Service, request: Request, *, name: str) -> Response:
    """Read a file that pages refer to."""
    if name not in FILES:
        raise ProblemError(HTTPStatus.NOT_FOUND, "not-found", f"there is no file {name!r:.80}")
    return FILES[name].answer(request)


_STATIC: Final = {**STATIC, "receipt.js": (RECEIPT_MODULE.encode(), "text/javascript")}
FILES: Final = {
    name: Fixed(content, media_type, CSP)  # the policy is that of what a worker runs, too
    for name, (content, media_type) in _STATIC.items()
}


def views(service: Service) -> dict[str, Kept[dict[str, str]]]:
    """Return what open pages are told of: their parts, by the page's name."""
    found = {"home": Kept(Home(service).parts, PART_SECONDS)}
    if service.node.peering is not None:
        found["network"] = Kept(partial(network_parts, service), PART_SECONDS)
    return found


_MEDIA: Final = sorted({media_type for _, media_type in _STATIC.values()})
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
        refusals={404: "No hash begins with what is given as the beginning of one."},
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
        answers={
            200: ("The file.", {m: {"schema": {"type": "string"}} for m in _MEDIA}),
            304: ("It is the one that `If-None-Match` names.", {}),
        },
        refusals={404: "There is no such file."},
    ),
]
