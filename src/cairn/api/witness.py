"""The service of a witness: what it answers, over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cairn.api.app import answer_nobody
from cairn.api.bodies import Body
from cairn.api.bounds import Bounds
from cairn.api.budget import Budget
from cairn.api.guard import HEADERS
from cairn.api.problems import ProblemError
from cairn.api.server import Server, listen, signals_end_it
from cairn.core.errors import StoreError
from cairn.proof.witness import MAX_BODY, Witness

BOUNDS: Final = Bounds(body_bytes=MAX_BODY, held_bytes=64 * 2**20, body_seconds=60.0)

log = logging.getLogger(__name__)


def serve(
    witness: Witness,
    *,
    host: str,
    port: int,
    bounds: Bounds = BOUNDS,
    ready: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve `witness` over HTTP until SIGTERM or SIGINT.

    `ready` is called with the URL once requests are taken; port 0 takes one that is free.

    Raises:
        UsageError: the address cannot be had.
    """
    with signals_end_it(), listen(host, port) as listener:
        Server(application(witness, bounds), listener, bounds, ready).run_until_stopped()


def application(witness: Witness, bounds: Bounds) -> ASGIApp:
    """Return the application that serves `witness`."""
    budget = Budget(bounds.held_bytes)

    async def add_checkpoint(request: Request) -> Response:
        if "origin" in request.headers:  # browsers send it with every POST
            return _plain(HTTPStatus.FORBIDDEN, "web pages cannot ask a witness")
        async with Body(request, bounds, budget) as body:
            answer = await asyncio.to_thread(witness.add_checkpoint, body)
        response = Response(answer.body, answer.status, HEADERS)
        response.headers["Content-Type"] = answer.media_type
        return response

    async def checkpoint(request: Request) -> Response:
        found = await asyncio.to_thread(witness.checkpoint, request.path_params["origin_hash"])
        if found is None:
            return _plain(HTTPStatus.NOT_FOUND, "no checkpoint of this log has been cosigned")
        return PlainTextResponse(found, headers=HEADERS)

    async def index(_request: Request) -> Response:
        text = f"a witness of transparency logs (c2sp.org/tlog-witness): {witness.verifier}"
        return _plain(HTTPStatus.OK, text)

    async def health(_request: Request) -> Response:
        return _plain(HTTPStatus.OK, "ok")

    app = Starlette(
        routes=[
            Route("/", index),
            Route("/health", health),
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{origin_hash}/checkpoint", checkpoint),
        ],
        exception_handlers={
            ProblemError: _answer_problem,
            StoreError: _answer_store_error,
            ClientDisconnect: answer_nobody,
        },
    )
    app.router.redirect_slashes = False
    return app


def _plain(status: HTTPStatus, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, HEADERS)


async def _answer_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _plain(error.status, error.detail)


async def _answer_store_error(_request: Request, error: Exception) -> Response:
    log.error("%s", error)
    return _plain(HTTPStatus.SERVICE_UNAVAILABLE, "the witness cannot use its memory")
