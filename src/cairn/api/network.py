"""With whom a work ledger is shared, and how its chain has forked: JSON, page and live parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from cairn.api.operations import Operation
from cairn.api.schemas import ref
from cairn.api.service import JSON, Service
from cairn.core.block import rfc3339
from cairn.explorer.render import render
from cairn.explorer.shown import count
from cairn.explorer.tree import HEIGHT, WIDTH, drawing
from cairn.node.forks import Branch, Reorganisation, TreeBlock
from cairn.node.peering import Peering

PARTS: Final = ("news", "facts", "peers", "tree", "branches", "reorganisations")
"""Of the page: what changes while it is looked at."""
EXACT: Final = 10**12
"""Hashes are counted one by one up to here, and from here on by their first digits."""
RAISED: Final = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


async def read_peers(service: Service, _request: Request) -> Response:
    """Read with whom a work ledger is shared, and how this node does.

    With the last blocks of its chain and the branches beside them, and the last reorganisations.
    """
    peering = service.node.peering
    value = {"peers": []} if peering is None else await _state(service, peering)
    return Response(json.dumps(value), media_type=JSON)


async def show_peers(service: Service, _request: Request) -> Response:
    """Show the same as a page."""
    parts = None
    if service.node.peering is not None:
        parts = await service.views["network"].get()
    return service.page("/peers", "network.html", parts=parts)


async def network_parts(service: Service) -> dict[str, str]:
    """Return all that changes on the page, as HTML by part. Requires a work ledger.

    It is another when the chain has moved, and, as peers come and go, every other second.
    """
    peering = service.node.peering
    assert peering is not None
    state = await _state(service, peering)
    values = {
        "state": state,
        "drawing": drawing(state["tree"]),
        "block_width": WIDTH,
        "block_height": HEIGHT,
        "hashes": _hashes,
    }
    return {part: render(f"network_{part}.html", **values) for part in PARTS}


def _hashes(work: str) -> str:
    """Return work (hex) as people read it."""
    number = int(work, 16)
    if number < EXACT:
        return count(number)
    mantissa, _, exponent = f"{number:.2e}".partition("e+")
    return f"{mantissa} × 10{exponent.translate(RAISED)}"


async def _state(service: Service, peering: Peering) -> dict[str, Any]:
    """Return the JSON of a node of a work ledger.

    Raises:
        NetworkStoppedError: the network does not run.
        DamagedError: the end of the chain cannot be read.
    """
    peers = await peering.peers()
    tree = await service.node.read(peering.forks.tree)
    head = [block for block in tree if block.status != "side"][-1]
    entries, size = peering.pooled
    return {
        "peers": [peer._asdict() for peer in peers],
        "address": peering.address,
        "key": peering.identity.key.hex(),
        "halted": peering.halted,
        "head": {"index": head.index, "hash": head.hash.hex()},
        "final": peering.final,
        "missing": max(peering.missing, 0),
        "work": f"{peering.work:x}",
        "pool": {"entries": entries, "bytes": size},
        "hash_rate": peering.hash_rate,
        "reorganisations": peering.reorganisations,
        "last_reorganisations": [_reorganisation(one) for one in peering.forks.reorganisations],
        "tree": [_block(block) for block in tree],
    }


def _block(block: TreeBlock) -> dict[str, Any]:
    return {
        "index": block.index,
        "timestamp": rfc3339(block.timestamp),
        "previous_hash": block.previous_hash.hex(),
        "hash": block.hash.hex(),
        "count": block.count,
        "status": block.status,
    }


def _reorganisation(one: Reorganisation) -> dict[str, Any]:
    return {
        "timestamp": rfc3339(one.timestamp),
        "depth": one.depth,
        "before": _branch(one.before),
        "after": _branch(one.after),
        "returned": one.returned,
    }


def _branch(branch: Branch) -> dict[str, Any]:
    return {"index": branch.index, "hash": branch.hash.hex(), "work": f"{branch.work:x}"}


OPERATIONS: Sequence[Operation] = [
    Operation(
        method="GET",
        path="/peers",
        handler=read_peers,
        page=show_peers,
        answers={
            200: (
                "The peers; the rest only on a work ledger.",
                {JSON: {"schema": ref("Peers")}},
            )
        },
    )
]
