"""Validating over HTTP: the report, how far a run is, and the page of both."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from cairn.api.bounds import HEARTBEAT_SECONDS
from cairn.api.operations import Operation, Parameter
from cairn.api.problems import of_error
from cairn.api.schemas import ref
from cairn.api.service import EVENTS, JSON, Service, stream
from cairn.core.errors import CairnError
from cairn.core.rules import NUMBERS
from cairn.explorer.blocks import Card
from cairn.explorer.rules import MEANINGS
from cairn.node.validator import Progress

DATA_SHOWN: Final = 500
"""Characters of the data of a block that are shown in a chain of blocks."""


async def validate_ledger(service: Service, _request: Request, *, run: bool = True) -> Response:
    """Read the whole store again and check every rule on every block.

    One run at a time; who asks meanwhile shares the next. Appends go on.
    """
    report = service.report(await service.node.validate())
    return Response(json.dumps(report.to_value()), media_type=JSON)


async def validate_page(service: Service, _request: Request, *, run: bool = False) -> Response:
    """Show what the last run has found; with `run`, one that begins now."""
    node, problem = service.node, None
    if run:
        try:
            await node.validate()
        except CairnError as error:
            problem = service.told(of_error(error))
    last = node.last_validation
    failure = service.report(last.report).failure if last else None
    return service.page(
        "/validate",
        "validate.html",
        problem.status if problem else HTTPStatus.OK,
        problem=problem,
        is_running=node.is_validating,
        last=last,
        failure=failure,
        number=NUMBERS.get(failure.rule) if failure else None,
        meaning=MEANINGS.get(failure.rule, "") if failure else "",
        cards=await node.read(lambda: _around(service, failure.index)) if failure else [],
        length=node.length,
    )


async def watch_validation(service: Service, request: Request) -> Response:
    """Watch a run of validation: server-sent events, up to its report.

    It is the run that is under way, or one that begins now. An event `progress` says as JSON which
    `blocks` are done, `of` how many, how many `bytes`, and after how many `seconds`. The last event
    is `report`, as from `/validate`; or `failed`, a problem: there is no verdict. Who comes again
    after it starts another run.
    """
    return stream(request, _events(service))


async def _events(service: Service) -> AsyncGenerator[bytes, None]:
    """Yield server-sent events (WHATWG HTML, section 9.2)."""
    yield b": watching\n\n"
    try:
        async with aclosing(service.node.watch_validation(seconds=HEARTBEAT_SECONDS)) as events:
            async for found in events:
                if found is None:
                    yield b": alive\n\n"
                elif isinstance(found, Progress):
                    yield b"event: progress\ndata: %b\n\n" % msgspec.json.encode(found)
                else:
                    report = service.report(found).to_value()
                    yield f"event: report\ndata: {json.dumps(report)}\n\n".encode()
    except CairnError as error:
        problem = service.told(of_error(error)).to_value()
        yield f"event: failed\ndata: {json.dumps(problem)}\n\n".encode()


def _around(service: Service, at: int) -> list[Card]:
    """Return what stands in the store at a place, before and after it, as far as it can be read."""
    places, final = range(max(at - 1, 0), at + 2), service.node.ledger.final
    cards = [service.card(place, DATA_SHOWN, final) for place in places]
    return cards if cards[-1].block else cards[:-1]


def _flag(text: str) -> bool:
    return text == "true"


OPERATIONS: Final = [
    Operation(
        method="GET",
        path="/validate",
        handler=validate_ledger,
        page=validate_page,
        parameters=[
            Parameter(
                "run",
                "query",
                "Of the page: whether to validate now, or to show what was found last.",
                {"type": "string", "pattern": "^(true|false)$", "maxLength": 5, "default": "false"},
                _flag,
            )
        ],
        answers={200: ("What was found.", {JSON: {"schema": ref("Report")}})},
    ),
    Operation(
        method="GET",
        path="/validate/events",
        handler=watch_validation,
        answers={
            200: (
                "Events, up to the report.",
                {EVENTS: {"schema": {"type": "string", "description": "Server-sent events."}}},
            )
        },
    ),
]
