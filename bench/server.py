"""A node with one more operation, which does nothing: what the server costs by itself.

python -m bench.server DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

import cairn.api.app
from cairn.api.guard import Access
from cairn.api.operations import Operation
from cairn.api.routes import operations
from cairn.api.server import serve
from cairn.api.service import Service


async def do_nothing(service: Service, request: Request) -> Response:
    """Take a body, and answer with as much as the JSON view of a block has."""
    async with service.body(request) as body:
        return Response(b'"' + b"x" * (640 + len(body)) + b'"', 201, media_type="application/json")


def with_nothing(*, lab: bool) -> list[Operation]:
    """Return the operations of a node, and the one that does nothing."""
    nothing = Operation(method="POST", path="/nothing", handler=do_nothing, answers={})
    return [*operations(lab=lab), nothing]


if __name__ == "__main__":
    setattr(cairn.api.app, "operations", with_nothing)  # noqa: B010 - for mypy, too
    serve(
        Path(sys.argv[1]),
        host="127.0.0.1",
        port=0,
        access=Access(),
        ready=lambda url, _ledger: print(url, flush=True),
    )
