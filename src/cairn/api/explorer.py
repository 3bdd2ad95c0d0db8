"""The explorer: pages of the chain, of blocks and entries; and what keeps open pages current."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cairn.api.bounds import HEARTBEAT_SECONDS, SEARCH_SECONDS
from cairn.api.docs import RECEIPT_MODULE
from cairn.api.html import CSP
from cairn.api.kept import Kept
from cairn.api.network import network_parts
from cairn.api.operations import Operation, Parameter
from cairn.api.problems import ProblemError
from cairn.api.schemas import ref
from cairn.api.service import EVENTS, JSON, Service, stream
from cairn.core.errors import CairnError
from cairn.core.header import Header
from cairn.explorer import charts
from cairn.explorer.blocks import Card, ShownBlock
from cairn.explorer.render import STATIC, render
from cairn.ledger import Ledger
from cairn.ledger.ledger import now_us
from cairn.ledger.search import find_blocks, first_at, moment

CARDS: Final = 12
"""Blocks on a page of the chain: two or three screens."""
LOOKED_AT: Final = 100
"""Blocks from the end among which these are looked for, where the last ones cannot be read."""
CARD_CHARACTERS: Final = 600
"""Of a block's data among others: what there is room for."""
PAGE_CHARACTERS: Final = 50_000
"""Of a block's data on its own page: what a browser lays out at once. More is a click away."""
FOUND: Final = 50
"""Blocks on a page of those that were found."""
POINTS: Final = 120
"""Of a chart: a few pixels each."""
INTERVALS: Final = 100
"""Blocks, the last ones, between which the chart shows how long it took."""
PART_SECONDS: Final = 0.25
"""Between two times that an open page is told of what is new: quick for people."""
CHARTS_SECONDS: Final = 2.0
"""How old a chart may be."""
IDLE_SECONDS: Final = 2.0
"""Between two looks at what changes without a block: rates, peers."""
LARGE_BYTES: Final = 65_536
"""A block with more is not read again at once for a page that shows its beginning."""
LARGE_SECONDS: Final = 30.0
"""How long it may be shown as it was."""
RATE_SECONDS: Final = 60
"""The time of which the rate of blocks is the mean."""


# What pages show


async def summary(service: Service) -> dict[str, Any]:
    """Return how the ledger is, in numbers."""
    node = service.node
    ledger = node.ledger

    def read() -> dict[str, Any]:
        length = len(ledger)
        recent = length - first_at(ledger, now_us() - RATE_SECONDS * 1_000_000)
        return {
            "length": length,
            "final": ledger.final,
            "head": ledger.hashes(length - 1, length).tobytes().hex(),
            "bytes": ledger.outline(points=1).size,
            "blocks_per_second": recent / RATE_SECONDS,
            "assurance": ledger.assurance,
        }

    last = node.last_validation
    validation = None
    if last is not None:
        speed = last.report.bytes / last.report.seconds if last.report.seconds else 0.0
        validation = {"valid": last.report.valid, "ended": last.ended, "bytes_per_second": speed}
    peers = None if node.peering is None else node.peering.connected
    contradiction = node.checkpoints.contradiction
    more = {"contradiction": contradiction, "validation": validation, "peers": peers}
    return {**await node.read(read), **more}


class Home:
    """The first page of one service, and what is remembered of it for all who look at it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._charts = Kept(partial(_home_charts, service), CHARTS_SECONDS)
        self._large: dict[bytes, tuple[float, Card]] = {}  # by header: when it was read, and that

    async def parts(self) -> dict[str, str]:
        """Return its sections, as HTML by id."""
        node = self._service.node
        length = node.length
        cards = await node.read(lambda: self._cards(length))
        return {
            "facts": await _facts(self._service),
            "chain": render("home_chain.html", cards=cards, **_pages(cards, length)),
            "charts": await self._charts.get(),
        }

    def _cards(self, length: int) -> list[Card]:
        """Return the last of so many blocks; a row of them that cannot be read as one."""
        final = self._service.node.ledger.final
        known, self._large = self._large, {}
        cards: list[Card] = []
        for place in reversed(range(max(length - LOOKED_AT, 0), length)):
            card = self._card(place, final, known)
            if card.block is None and cards and cards[-1].block is None:
                cards[-1] = card._replace(why=f"Nor can those up to {length - 1}: {card.why}")
            elif len(cards) < CARDS:
                cards.append(card)
            else:
                break
        return cards

    def _card(self, place: int, final: int, known: dict[bytes, tuple[float, Card]]) -> Card:
        """Read a block, unless it is large and was read a while ago."""
        ledger, now = self._service.node.ledger, time.monotonic()
        with suppress(CairnError):
            header = ledger.headers(place, place + 1).tobytes()
            if Header.unpack(header).size > LARGE_BYTES:
                when, card = known.get(header, (now - LARGE_SECONDS, None))
                if card is None or now >= when + LARGE_SECONDS:
                    when, card = now, Card.read(ledger, place, CARD_CHARACTERS, final)
                self._large[header] = when, card
                return card._replace(final=place < final)
        return Card.read(ledger, place, CARD_CHARACTERS, final)


async def _facts(service: Service) -> str:
    try:
        return render("home_facts.html", facts=await summary(service))
    except CairnError as error:
        return render("home_damaged.html", why=str(error))


async def _home_charts(service: Service) -> str:
    """Return the section with the charts of the whole life of a ledger, as HTML."""
    ledger = service.node.ledger

    def draw() -> str:
        outline = ledger.outline(points=POINTS)
        drawn = [
            ("Blocks over time", charts.growth(outline, "blocks")),
            ("Bytes over time", charts.growth(outline, "bytes")),
        ]
        if ledger.is_mined:
            seal = ledger.genesis.seal
            assert seal is not None
            length = len(ledger)
            start = max(length - INTERVALS - 1, 0)
            times = [
                Header.unpack(row.tobytes()).timestamp for row in ledger.headers(start, length)
            ]
            drawn += [
                ("Interval of the last blocks", charts.intervals(start, times, seal.interval)),
                ("Interval over time", charts.mean_intervals(outline, seal.interval)),
                ("Difficulty over time", charts.difficulty(outline)),
            ]
        return render("home_charts.html", charts=drawn, complete=outline.complete)

    try:
        return await service.node.read(draw)
    except CairnError:  # what is wrong is said beside it
        return render("home_charts.html", charts=[], complete=False)


def _pages(cards: list[Card], length: int) -> dict[str, str | None]:
    """Return the links to the blocks after and before those that are shown, of so many."""
    after, first = (cards[0].place + 1, cards[-1].place) if cards else (length, length)
    return {
        "newer": f"/?start={after}" if after < length else None,
        "older": f"/?start={max(first - CARDS, 0)}" if first else None,
    }


# Pages


async def home_page(
    service: Service, _request: Request, *, start: int | None = None, limit: int = CARDS
) -> Response:
    """Show the chain, the newest blocks first."""
    node, ledger = service.node, service.node.ledger
    length = await service.require_place(start or 0)
    if start is None:
        parts = await service.views["home"].get()
        return service.page("/", "home.html", sections=parts, live=True)

    def read() -> list[Card]:
        stop, final = min(start + min(limit, CARDS), length), ledger.final
        places = reversed(range(start, stop))
        return [Card.read(ledger, place, CARD_CHARACTERS, final) for place in places]

    cards = await node.read(read)
    parts = {"chain": render("home_chain.html", cards=cards, **_pages(cards, length))}
    return service.page("/", "home.html", sections=parts, live=False)


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


# What belongs to pages


async def read_summary(service: Service, _request: Request) -> Response:
    """Read how the ledger is, in numbers: what the first page shows."""
    text = json.dumps(await summary(service), default=datetime.isoformat)
    return Response(text, media_type=JSON)


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
        path="/summary",
        handler=read_summary,
        answers={200: ("The numbers.", {JSON: {"schema": ref("Summary")}})},
        refusals={500: "What is stored cannot be read: validate."},
    ),
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
