"""The ASGI application: operations, guard and metrics around a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cairn.api.bounds import Bounds
from cairn.api.budget import Budget
from cairn.api.explorer import views
from cairn.api.guard import Access, Guard
from cairn.api.html import prefers_html
from cairn.api.laboratory import Laboratory
from cairn.api.metrics import Metered, Metrics
from cairn.api.operations import Operation
from cairn.api.problems import ProblemError, problem_of
from cairn.api.routes import operations
from cairn.api.service import Service
from cairn.core.errors import CairnError
from cairn.node import Node
from cairn.node.link import PATH


class Endpoint:
    """The operations of one path as an ASGI application."""

    def __init__(self, operations: Iterable[Operation], service: Service) -> None:
        self._operations = {operation.method: operation for operation in operations}
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        operation = self._operations.get(scope["method"])
        if operation is None:
            allowed = ", ".join(self._operations)
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": allowed})
        scope["operation"] = (scope["method"], operation.path)  # for the metrics
        request = Request(scope, receive)
        response = await operation.answer(self._service, request)
        await response(scope, receive, send)


def application(
    node: Node,
    *,
    access: Access,
    bounds: Bounds,
    lab: bool = False,
    connections: Callable[[], int] = lambda: 0,
) -> ASGIApp:
    """Return the application that serves `node`, and runs it for as long as it runs itself.

    `connections` returns how many there are now.
    """
    metrics = Metrics(length=lambda: node.length, connections=connections, peering=node.peering)
    node.committed = metrics.committed
    node.moved = metrics.moved
    node.validated = metrics.validated
    node.checkpoints.published = metrics.published
    service = Service(
        node=node,
        bounds=bounds,
        budget=Budget(bounds.held_bytes),
        searches=Budget(bounds.searches, f"{bounds.searches} others search, or wait to"),
        metrics=metrics,
        laboratory=Laboratory(node, asks_for_token=bool(access.tokens)) if lab else None,
        large=asyncio.Semaphore(1),
    )
    service.views.update(views(service))
    by_path: dict[str, list[Operation]] = {}
    for operation in operations(lab=lab):
        by_path.setdefault(operation.path, []).append(operation)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with node:
            yield

    routes = [
        # A tile's path has slashes in it.
        Route(path.replace("{path}", "{path:path}"), Endpoint(several, service))
        for path, several in by_path.items()
    ]
    if node.links is not None:
        routes.append(Route(PATH, answer_no_peer, methods=["GET"]))

    async def answer_error(request: Request, error: Exception) -> Response:
        """Say what was wrong: as a page, to those who would have got one."""
        problem = service.told(problem_of(request, error))
        response = problem.response()
        if prefers_html(request.headers.get("accept", "")):
            response = service.page("", "problem.html", problem.status, problem=problem)
            response.headers.update(problem.headers)
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})
        return response

    told = dict.fromkeys((CairnError, ProblemError, HTTPException, Exception), answer_error)
    app = Starlette(
        routes=routes,
        exception_handlers={**told, ClientDisconnect: answer_nobody},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return Metered(Guard(app, access), metrics)


async def answer_no_peer(request: Request) -> Response:
    """Answer one who asks for /peer, but for no link, or may not have one."""
    if "origin" in request.headers:
        raise ProblemError(HTTPStatus.FORBIDDEN, "forbidden", "web pages cannot be peers")
    detail = "this is where other nodes open links to this one, by WebSocket"
    response = ProblemError(HTTPStatus.UPGRADE_REQUIRED, "upgrade-required", detail).response()
    response.headers.update({"Upgrade": "websocket", "Connection": "upgrade"})
    return response


async def answer_nobody(_request: Request, _error: Exception) -> Response:
    """Answer a client that has gone before its body came."""
    return Response(status_code=400)
