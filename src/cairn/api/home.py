"""The first page: the chain from its end, the ledger in numbers, and charts of its whole life."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from cairn.api.kept import Kept
from cairn.api.operations import Operation
from cairn.api.schemas import ref
from cairn.api.service import JSON, Service
from cairn.core.errors import CairnError
from cairn.core.header import HEADER_DTYPE, Header
from cairn.explorer import charts
from cairn.explorer.blocks import Card
from cairn.explorer.render import render
from cairn.ledger.ledger import now_us
from cairn.ledger.search import first_at

CARDS: Final = 12
"""Blocks on a page of the chain: two or three screens."""
CARD_CHARACTERS: Final = 600
"""Of a block's data among others: what there is room for."""
LOOKED_AT: Final = 100
"""Blocks from the end among which these are looked for, where the last ones cannot be read."""
POINTS: Final = 120
"""Of a chart: a few pixels each."""
INTERVALS: Final = 100
"""Blocks, the last ones, between which the chart shows how long it took."""
CHARTS_SECONDS: Final = 2.0
"""How old a chart may be."""
LARGE_BYTES: Final = 65_536
"""A block with more is not read again at once for a page that shows its beginning."""
LARGE_SECONDS: Final = 30.0
"""How long it may be shown as it was."""
RATE_SECONDS: Final = 60
"""The time of which the rate of blocks is the mean."""


async def summary(service: Service) -> dict[str, Any]:
    """Return how the ledger is, in numbers."""
    node = service.node
    ledger = node.ledger

    def read() -> dict[str, Any]:
        signed = ledger.notary.believed()  # first: what is signed is there
        length = len(ledger)
        begun = first_at(ledger, now_us() - RATE_SECONDS * 1_000_000)
        recent = length - max(begun, 1)  # genesis was made, and did not arrive
        return {
            "length": length,
            "final": ledger.final,
            "head": ledger.hashes(length - 1, length).tobytes().hex(),
            "bytes": ledger.outline(points=1).size,
            "blocks_per_second": recent / RATE_SECONDS,
            "assurance": signed.assurance if signed else "chained",
            "signed": signed.checkpoint.size if signed else 0,
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
            "begin": render("home_begin.html", url=None) if length > 1 else "",
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
                when, card = known.get(header, (0.0, None))
                if card is None or now >= when + LARGE_SECONDS:
                    when, card = now, self._service.card(place, CARD_CHARACTERS, final)
                self._large[header] = when, card
                return card._replace(final=place < final)
        return self._service.card(place, CARD_CHARACTERS, final)


async def _facts(service: Service) -> str:
    try:
        return render("home_facts.html", facts=await summary(service))
    except CairnError as error:
        return render("home_damaged.html", why=service.outside(str(error)))


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
            fields = ledger.headers(start, length).view(HEADER_DTYPE)
            times = fields["timestamp"].reshape(-1).tolist()
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


async def home_page(
    service: Service, request: Request, *, start: int | None = None, limit: int = CARDS
) -> Response:
    """Show the chain, the newest blocks first."""
    node, ledger = service.node, service.node.ledger
    length = await service.require_place(start or 0)
    if start is None:
        parts = await service.views["home"].get()
        return service.page("/", "home.html", sections=parts, live=True, url=request.base_url)

    def read() -> list[Card]:
        stop, final = min(start + min(limit, CARDS), length), ledger.final
        places = reversed(range(start, stop))
        return [service.card(place, CARD_CHARACTERS, final) for place in places]

    cards = await node.read(read)
    parts = {"chain": render("home_chain.html", cards=cards, **_pages(cards, length))}
    return service.page("/", "home.html", sections=parts, live=False, url="")


async def read_summary(service: Service, _request: Request) -> Response:
    """Read how the ledger is, in numbers: what the first page shows."""
    text = json.dumps(await summary(service), default=datetime.isoformat)
    return Response(text, media_type=JSON)


OPERATIONS: Final = [
    Operation(
        method="GET",
        path="/summary",
        handler=read_summary,
        answers={200: ("The numbers.", {JSON: {"schema": ref("Summary")}})},
        refusals={500: "What is stored cannot be read: validate."},
    ),
]
