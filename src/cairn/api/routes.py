"""The operations of the service: what each does, and what the document says of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from cairn.api import network
from cairn.api.bodies import canonical_lines, canonical_text
from cairn.api.bounds import HEARTBEAT_SECONDS, PAGE_BLOCKS, WAIT_SECONDS
from cairn.api.budget import Answer, pieces
from cairn.api.explorer import OPERATIONS as EXPLORER
from cairn.api.explorer import block_page, entry_page, found_page
from cairn.api.home import OPERATIONS as HOME
from cairn.api.home import home_page
from cairn.api.html import HTML, Fixed
from cairn.api.lab import OPERATIONS as LAB
from cairn.api.operations import Operation, Parameter, document
from cairn.api.pages import BlockPage
from cairn.api.problems import ProblemError, bad_request
from cairn.api.schemas import ref
from cairn.api.service import JSON, Service, stream
from cairn.api.validation import OPERATIONS as VALIDATION
from cairn.api.verify import VERIFY_CSP, VERIFY_PAGE
from cairn.core.errors import CairnError, ErasedError, FormatError, NoSuchBlockError, ProofError
from cairn.core.header import LIMIT_63
from cairn.ledger.search import Page, first_at, moment
from cairn.ledger.standing import Standing
from cairn.ledger.writer import MAX_KEY, Append
from cairn.node import Node
from cairn.node.changes import Change, Connected, Tip
from cairn.proof.checkpoint import Checkpoint
from cairn.proof.tiles import Tile

NDJSON: Final = "application/x-ndjson"
TEXT: Final = "text/plain"
BYTES: Final = "application/octet-stream"
FOR_GOOD: Final = "max-age=31536000, immutable"
"""How long a tile may be cached: it never changes. Not `public`: a proxy must not give to everyone
what somebody got with a token."""


def operations(*, lab: bool) -> list[Operation]:
    """Return the operations of a service, those of the lab too if it is one."""
    always = [*_APPENDING, *_READING, *VALIDATION, *HOME, *EXPLORER, *_RUNNING]
    return [*always, *LAB] if lab else always


def description(*, lab: bool) -> dict[str, Any]:
    """Return the OpenAPI document of a service."""
    return document(operations(lab=lab), version("cairn-ledger"))


# Appending


async def append_block(
    service: Service,
    request: Request,
    *,
    idempotency_key: str | None = None,
    cairn_seal: str | None = None,
    wait: int | None = None,
) -> Response:
    """Record a JSON value.

    It is durable when the answer comes. The content type of the body does not matter. On a work
    ledger it waits to be mined then: if that takes longer, the answer is the id of its entry; else
    the block, which is not final yet.
    """
    node = service.node
    _require_seal(node, cairn_seal)
    async with service.body(request) as body:
        canonical = await service.canonical(body, canonical_text)
        if node.peering is None:
            block = await node.append(Append((canonical,), idempotency_key))
            # What is recorded is not refused any more, for want of memory or anything else.
            view, place = block.to_json(fresh=True), f"/blocks/{block.index}"
            return Answer(view, JSON, service.budget, created=place)
        [entry_id] = await node.submit((canonical,), idempotency_key)
    seconds = node.mining_seconds if wait is None else wait
    standing = await node.mined(entry_id, seconds)
    if standing is not None and standing.block is not None:
        with suppress(CairnError):  # which says less than the id of the entry
            return await _mined(service, standing)
    pending = {"entry": entry_id.hex(), "status": "pending"}
    return _accepted(pending, f"/entries/{entry_id.hex()}")


async def append_blocks(
    service: Service,
    request: Request,
    *,
    idempotency_key: str | None = None,
    cairn_seal: str | None = None,
) -> Response:
    """Record many JSON values, a line each: all or nothing.

    Each in a block of its own; on a work ledger they wait to be mined.
    """
    node = service.node
    _require_seal(node, cairn_seal)
    async with service.body(request) as body:
        lines = await service.canonical(body, canonical_lines)
        if node.peering is not None:
            ids = [one.hex() for one in await node.submit(lines, idempotency_key)]
            return _accepted({"count": len(ids), "entries": ids}, f"/entries/{ids[0]}")
        last = await node.append(Append(lines, idempotency_key))
    first = last.index - len(lines) + 1
    recorded = {"count": len(lines), "first": first, "last": last.index, "hash": last.hash}
    return Answer(json.dumps(recorded), JSON, service.budget, created=f"/blocks/{first}")


def _require_seal(node: Node, wanted: str | None) -> None:
    """Refuse what is meant for the other kind of ledger.

    Raises:
        ProblemError: so it is.
    """
    seal = "instant" if node.peering is None else "work"
    if wanted is not None and wanted != seal:
        detail = {
            "instant": "this is an instant ledger, of which no block is mined: use append",
            "work": "this is a work ledger, of which every block is mined: use submit",
        }
        raise ProblemError(HTTPStatus.CONFLICT, "other-seal", detail[seal])


async def _mined(service: Service, standing: Standing) -> Response:
    """Return the answer with the block that an entry is in.

    Raises:
        NoSuchBlockError: it is there no more: the chain was reorganised.
    """
    node, index = service.node, standing.block
    assert index is not None
    facts = {"entry": standing.id, "place": standing.place, "status": standing.status}
    after = ", " + json.dumps(facts)[1:]

    def read() -> str:
        block = node.ledger[index]
        if [entry.id.hex() for entry in block.entries].count(standing.id) == 0:
            raise NoSuchBlockError(f"block {index} is another one now")
        return block.to_json()[:-1] + after

    view = await node.read(read)
    return Answer(view, JSON, service.budget, created=f"/blocks/{index}")


def _accepted(value: dict[str, Any], place: str) -> Response:
    return Response(json.dumps(value), HTTPStatus.ACCEPTED, {"Location": place}, JSON)


# Reading


async def read_chain(
    service: Service, _request: Request, *, start: int = 0, limit: int = PAGE_BLOCKS
) -> BlockPage:
    """Read the chain, from genesis on."""
    node = service.node
    length = await service.require_place(start)
    return BlockPage(
        ledger=node.ledger,
        run=node.read,
        budget=service.budget,
        start=start,
        stop=length,
        limit=limit,
        name="chain",
        place="start",
        facts={"length": length},
    )


async def search_blocks(
    service: Service,
    _request: Request,
    *,
    since: int | None = None,
    until: int | None = None,
    contains: str = "",
    cursor: int | None = None,
    limit: int = PAGE_BLOCKS,
) -> BlockPage:
    """Find blocks.

    One request searches for a second: a page may be empty, and the next one not.
    """
    ledger = service.node.ledger
    if cursor is None:
        cursor = 0 if since is None else await service.search(lambda: first_at(ledger, since))
    await service.require_place(cursor)
    stop = None if until is None else await service.search(lambda: first_at(ledger, until))
    return BlockPage(
        ledger=ledger,
        run=service.search,
        budget=service.budget,
        start=cursor,
        stop=stop,
        contains=contains,
        limit=limit,
        name="blocks",
        place="cursor",
    )


async def read_block(service: Service, _request: Request, *, reference: int | str) -> Response:
    """Read a block."""
    return await service.block(lambda: service.find(reference))


async def read_block_data(service: Service, _request: Request, *, reference: int | str) -> Response:
    """Read the exact bytes that a block records.

    Of an erased block there are none; the block says the id of its entry.
    """
    block = await service.node.read(lambda: service.find(reference))
    if block.erased:
        raise ErasedError(f"the entry of block {block.index} was erased")
    if block.is_batch:
        lines = b"".join(entry.canonical + b"\n" for entry in block.entries)
        return Answer(lines, NDJSON, service.budget)
    return Answer(block.data_json(), JSON, service.budget)


async def read_receipt(
    service: Service, _request: Request, *, reference: int | str, entry: int = 0
) -> Response:
    """Prove that a block is in the ledger.

    The receipt can be checked without the node: `cairn verify`, or the page at `/verify`. It is
    under a checkpoint that covers the block; if there is none yet, it is waited for.
    """
    node = service.node
    index = (await node.read(lambda: service.find(reference))).index
    _require_final(node, index)
    note = await node.checkpoints.covering(index + 1)
    receipt = await node.read(lambda: node.ledger.notary.receipt(index, entry, note).to_json())
    return Answer(receipt, JSON, service.budget)


async def read_checkpoint(service: Service, _request: Request, *, covering: int = 1) -> Response:
    """Read the signed checkpoint (C2SP tlog-checkpoint)."""
    await service.require_place(covering)
    _require_final(service.node, covering - 1)
    note = await service.node.checkpoints.covering(covering)
    return Response(str(note), media_type=TEXT, headers={"Cache-Control": "no-cache"})


def _require_final(node: Node, index: int) -> None:
    """Refuse to prove a block of a work ledger that is there, and may still change.

    Raises:
        ProblemError: it is such a one: how many blocks have to follow first.
    """
    if node.peering is None or index < node.final:
        return
    depth = node.ledger.terms.final_depth
    missing = index - node.final + 1
    raise ProblemError(
        HTTPStatus.CONFLICT,
        "not-final",
        f"block {index} is confirmed and not final: {max(depth - missing, 0)} of {depth} blocks "
        f"follow it, and only final blocks are signed",
        final=node.final,
        missing=missing,
    )


async def read_tile(service: Service, _request: Request, *, path: Tile) -> Response:
    """Read a tile of the tree, or a bundle of headers (C2SP tlog-tiles).

    Only those that a checkpoint covers are there, and they never change.
    """
    checkpoint = Checkpoint.parse((await service.node.checkpoints.covering(1)).text)
    if not path.is_of(checkpoint.size):
        detail = f"there is no {path.path} in a tree of {checkpoint.size}"
        raise ProblemError(HTTPStatus.NOT_FOUND, "no-such-tile", detail)
    data = await service.node.read(lambda: service.node.ledger.notary.tile(path, checkpoint))
    return Response(data, media_type=BYTES, headers={"Cache-Control": FOR_GOOD})


async def read_verify_page(_service: Service, request: Request) -> Response:
    """Read a page that checks receipts in the browser."""
    return _VERIFY.answer(request)


_VERIFY: Final = Fixed(VERIFY_PAGE.encode(), HTML, VERIFY_CSP)


async def read_head(service: Service, _request: Request) -> Response:
    """Read the last block."""
    return await service.block(lambda: service.node.ledger.head)


async def follow_blocks(
    service: Service,
    request: Request,
    *,
    start: int | None = None,
    cairn_final: str = "false",
    last_event_id: _EventId | None = None,
) -> Response:
    """Follow the chain: server-sent events, one a block as it is recorded.

    An event `block` has the block's index as its id, and the block as its data. On a work ledger
    that is so with `Cairn-Final: true`, as blocks become final. Without, there is an event
    `connected` for each block that comes to the end of the chain, with the block as its data; and
    one `disconnected` for each that is taken off its end, the last one first, with its index and
    hash. The id of both says what the last block is then, by index and hash: who comes again with
    it is told of all that has changed since.
    """
    node = service.node
    if node.peering is None or cairn_final == "true":
        if last_event_id is not None and last_event_id.hash is not None:
            raise bad_request("Last-Event-ID is the index of a block here")
        if last_event_id is not None:
            start = last_event_id.position + 1
        elif start is None:
            start = node.final
        await service.require_place(start)
        follow = node.follow(start, _as_events, seconds=HEARTBEAT_SECONDS)
    else:
        if last_event_id is not None:
            if last_event_id.hash is None:
                raise bad_request("Last-Event-ID has the index and the hash of a block here")
            tip = Tip(last_event_id.position, last_event_id.hash)
            await node.require_known(tip)
        else:
            length = await service.require_place(start or 0)
            tip = await node.tip(length if start is None else start)
        follow = node.follow_changes(tip, _as_changes, seconds=HEARTBEAT_SECONDS)
    return stream(request, _events(service, follow))


_Shown = tuple[bytes, bool]
"""Events, and whether these are all that there were to show."""


async def _events(
    service: Service, follow: AsyncGenerator[_Shown | None, None]
) -> AsyncGenerator[bytes, None]:
    """Yield server-sent events (WHATWG HTML, section 9.2).

    Ends where a block cannot be shown, or when there is no memory: a client comes again.
    """
    yield b": following\n\n"
    with service.metrics.followers.track_inprogress(), suppress(CairnError, ProblemError):
        async with aclosing(follow) as events:
            async for found in events:
                text, whole = (b": alive\n\n", True) if found is None else found
                with service.budget.holding(len(text)):
                    for piece in pieces(text):
                        yield piece
                if not whole:
                    return


def _as_events(found: Page) -> _Shown:
    """Return blocks as events, those before the first that cannot be shown; and if it is all."""
    events: list[str] = []
    with suppress(FormatError):
        events.extend(
            f"id: {place}\nevent: block\ndata: {block.to_json()}\n\n"
            for place, block in zip(found.places, found.blocks, strict=True)
        )
    return "".join(events).encode(), len(events) == len(found.blocks)


def _as_changes(found: list[Change]) -> _Shown:
    """Do so with changes of the chain."""
    events: list[str] = []
    with suppress(FormatError):
        for change in found:
            if isinstance(change, Connected):
                name, data = "connected", change.block.to_json()
            else:
                gone = {"index": change.gone.position, "hash": change.gone.hash.hex()}
                name, data = "disconnected", json.dumps(gone)
            last = f"{change.tip.position}-{change.tip.hash.hex()}"
            events.append(f"id: {last}\nevent: {name}\ndata: {data}\n\n")
    return "".join(events).encode(), len(events) == len(found)


async def read_entry(service: Service, _request: Request, *, entry: str) -> Response:
    """Read where an entry stands.

    `pending`: it waits to be mined. `confirmed`: it is in a block, which other blocks may still
    take the place of; then it waits again. `final`: it stays there. Of `duplicates`, other places
    where somebody has mined it again, none counts. An instant ledger, where all are final, is read
    from end to end for this.
    """
    standing = await service.entry(bytes.fromhex(entry))
    value = {
        "entry": standing.id,
        "status": standing.status,
        "block": standing.block,
        "place": standing.place,
        "depth": standing.depth,
        "duplicates": [{"block": block, "place": at} for block, at in standing.duplicates],
    }
    return Response(json.dumps(value), media_type=JSON)


async def read_health(service: Service, _request: Request) -> Response:
    """Whether the node is alive. Needs no token."""
    if service.node.healthy:
        return Response('{"status": "ok"}', media_type=JSON)
    return Response('{"status": "failed"}', HTTPStatus.SERVICE_UNAVAILABLE, media_type=JSON)


async def read_metrics(service: Service, _request: Request) -> Response:
    """Read the metrics for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def read_document(service: Service, _request: Request) -> Response:
    """Read this document."""
    return Response(json.dumps(description(lab=service.lab)), media_type=JSON)


async def read_docs(service: Service, _request: Request) -> Response:
    """Read this document as a page."""
    return service.page("/docs", "docs.html", document=description(lab=service.lab))


# What the document says


def _reference(text: str) -> int | str:
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return text
    if re.fullmatch(r"[0-9]{1,19}", text):
        return int(text)
    raise ValueError(f"{text!r:.80} is neither an index nor a hash of 64 lower-case hex digits")


class _EventId(NamedTuple):
    """What the id of an event says: the last block that was told of."""

    position: int
    hash: bytes | None


def _event_id(text: str) -> _EventId:
    index, _, of = text.partition("-")
    if int(index) >= LIMIT_63:
        raise ValueError(f"there is no block {index}")
    return _EventId(int(index), bytes.fromhex(of) or None)


def _tile(text: str) -> Tile:
    try:
        return Tile.parse(f"tile/{text}")
    except ProofError as error:
        raise ValueError(str(error)) from None


def _index(name: str, meaning: str, place: str = "query") -> Parameter:
    schema = {"type": "integer", "minimum": 0, "maximum": LIMIT_63 - 1}
    return Parameter(name, place, meaning, schema)


def _content(name: str, media: str = JSON) -> dict[str, Any]:
    return {media: {"schema": ref(name)}}


def _text(media: str, meaning: str) -> dict[str, Any]:
    return {media: {"schema": {"type": "string", "description": meaning}}}


def _bytes() -> dict[str, Any]:
    return {BYTES: {"schema": {"type": "string", "format": "binary"}}}


_LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID",
    "header",
    "Go on after the event with this id; comes before `start`.",
    {"type": "string", "pattern": "^[0-9]{1,19}(-[0-9a-f]{64})?$", "maxLength": 84},
    _event_id,
)
_WAIT: Final = Parameter(
    "wait",
    "query",
    "Seconds to wait for a block on a work ledger; by default, two of its intervals, 5 at most.",
    {"type": "integer", "minimum": 0, "maximum": WAIT_SECONDS},
)
_FINAL: Final = Parameter(
    "Cairn-Final",
    "header",
    "Whether to tell of final blocks alone, as on an instant ledger.",
    {"type": "string", "pattern": "^(true|false)$", "maxLength": 5, "default": "false"},
)
_SEAL: Final = Parameter(
    "Cairn-Seal",
    "header",
    "Which kind of ledger it is meant for: refused if this is another. Clients send it whose user "
    "expects a block at once, or none.",
    {"type": "string", "pattern": "^(instant|work)$", "maxLength": 7},
)
_ENTRY: Final = Parameter(
    "entry",
    "path",
    "The id of an entry: its leaf hash.",
    {"type": "string", "pattern": "^[0-9a-f]{64}$", "maxLength": 64},
)
_REFERENCE: Final = Parameter(
    "reference",
    "path",
    "The index of a block, or its hash.",
    {"type": "string", "pattern": "^([0-9]{1,19}|[0-9a-f]{64})$", "maxLength": 64},
    _reference,
)
_LIMIT: Final = Parameter(
    "limit",
    "query",
    "Blocks on the page, at most; it also ends at about 8 MiB.",
    {"type": "integer", "minimum": 1, "maximum": PAGE_BLOCKS, "default": PAGE_BLOCKS},
)
_KEY: Final = Parameter(
    "Idempotency-Key",
    "header",
    "Tells a retry of the same request: it is answered as the first was, and recorded once.",
    {"type": "string", "minLength": 1, "maxLength": MAX_KEY, "pattern": "^[!-~]+$"},
)


def _time(name: str, meaning: str) -> Parameter:
    schema = {
        "type": "string",
        "maxLength": 64,
        "examples": ["2026-01-31T12:00:00Z", "2026-01-31", "2h"],
    }
    return Parameter(name, "query", meaning, schema, moment)


_TOO_LARGE: Final = {
    408: "The body did not come in time.",
    409: "It is meant for another kind of ledger.",
    413: "The body is past a limit of the node.",
    422: "The key was used for another value, or for one that is erased.",
}
_NOT_FINAL: Final = {409: "The block is not final: `missing` blocks have to follow first."}
_NOT_THERE: Final = {
    404: "There is no such block.",
    500: "What is stored cannot be read: validate.",
}

_DAMAGE: Final = {
    404: _NOT_THERE[404],
    500: "Block `index` cannot be read: validate. `next` is the page behind the damage.",
}

_APPENDING: Final = [
    Operation(
        method="POST",
        path="/block",
        handler=append_block,
        parameters=[_KEY, _SEAL, _WAIT],
        body=_content("Value"),
        answers={
            201: ("The new block.", {JSON: {"schema": {"oneOf": [ref("Block"), ref("Mined")]}}}),
            202: ("It waits to be mined.", _content("Pending")),
        },
        refusals={400: "The body is not acceptable JSON.", **_TOO_LARGE},
    ),
    Operation(
        method="POST",
        path="/blocks",
        handler=append_blocks,
        parameters=[_KEY, _SEAL],
        body=_text(NDJSON, "A JSON value a line."),
        answers={
            201: ("What was recorded.", _content("Recorded")),
            202: ("They wait to be mined.", _content("Submitted")),
        },
        refusals={400: "A line is not acceptable JSON; `line` says which.", **_TOO_LARGE},
    ),
]
_READING: Final = [
    Operation(
        method="GET",
        path="/",
        handler=read_chain,
        page=home_page,
        parameters=[_index("start", "The first block."), _LIMIT],
        answers={200: ("A page of it.", _content("Chain"))},
        refusals=_DAMAGE,
    ),
    Operation(
        method="GET",
        path="/blocks",
        handler=search_blocks,
        page=found_page,
        parameters=[
            _time("since", "Blocks at or after this time: RFC 3339, a date, or an age."),
            _time("until", "Blocks before this time."),
            Parameter(
                "contains",
                "query",
                "Blocks whose JSON text has this in it, as it stands or quoted in a string.",
                {"type": "string", "maxLength": 1000},
            ),
            _index("cursor", "Where to go on, from the link to the next page."),
            _LIMIT,
        ],
        answers={200: ("A page of them, oldest first.", _content("Found"))},
        refusals=_DAMAGE,
    ),
    Operation(
        method="GET",
        path="/blocks/{reference}",
        handler=read_block,
        page=block_page,
        parameters=[_REFERENCE],
        answers={200: ("The block.", _content("Block"))},
        refusals=_NOT_THERE,
    ),
    Operation(
        method="GET",
        path="/blocks/{reference}/data",
        handler=read_block_data,
        parameters=[_REFERENCE],
        answers={
            200: (
                "Canonical JSON; of a batch, a line each.",
                {**_content("Value"), **_text(NDJSON, "Canonical JSON, a value a line.")},
            )
        },
        refusals={**_NOT_THERE, 410: "The block is erased."},
    ),
    Operation(
        method="GET",
        path="/blocks/{reference}/receipt",
        handler=read_receipt,
        parameters=[_REFERENCE, _index("entry", "Which entry of a batch, from 0.")],
        answers={200: ("The receipt.", _content("Receipt"))},
        refusals={**_NOT_THERE, **_NOT_FINAL, 410: "The block is erased."},
    ),
    Operation(
        method="GET",
        path="/checkpoint",
        handler=read_checkpoint,
        parameters=[_index("covering", "Wait for one of at least so many blocks.")],
        answers={200: ("A signed note.", _text(TEXT, "Origin, size, root; signatures."))},
        refusals={
            404: _NOT_THERE[404],
            **_NOT_FINAL,
            500: "The ledger is not the one that was signed before.",
        },
    ),
    Operation(
        method="GET",
        path="/tile/{path}",
        handler=read_tile,
        parameters=[
            Parameter(
                "path",
                "path",
                "Level and number, as in `0/x001/234` or `entries/000.p/7`.",
                {
                    "type": "string",
                    "pattern": r"^(entries|[0-9]{1,2})/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?$",
                    "maxLength": 64,
                    "examples": ["0/000.p/1", "entries/000.p/1"],
                },
                _tile,
            )
        ],
        answers={200: ("Hashes end to end; or headers, each after its length.", _bytes())},
        refusals={404: "There is no such tile.", 500: _NOT_THERE[500]},
    ),
    Operation(
        method="GET",
        path="/verify",
        handler=read_verify_page,
        answers={
            200: ("The page.", _text(HTML, "HTML.")),
            304: ("It is the one that `If-None-Match` names.", {}),
        },
    ),
    Operation(
        method="GET",
        path="/head",
        handler=read_head,
        answers={200: ("The block.", _content("Block"))},
        refusals={500: _NOT_THERE[500]},
    ),
    Operation(
        method="GET",
        path="/events",
        handler=follow_blocks,
        parameters=[
            _index("start", "Begin with this block; else with the next one."),
            _FINAL,
            _LAST_EVENT_ID,
        ],
        answers={200: ("Events, without end.", _text("text/event-stream", "Server-sent events."))},
        refusals=_NOT_THERE,
    ),
    Operation(
        method="GET",
        path="/entries/{entry}",
        handler=read_entry,
        page=entry_page,
        parameters=[_ENTRY],
        answers={200: ("Where it stands.", _content("Standing"))},
        refusals={404: "There is no such entry.", 500: _NOT_THERE[500]},
    ),
    *network.OPERATIONS,
]
_RUNNING: Final = [
    Operation(
        method="GET",
        path="/health",
        handler=read_health,
        answers={
            200: ("It is.", _content("Health")),
            503: ("It has to be restarted.", _content("Health")),
        },
    ),
    Operation(
        method="GET",
        path="/metrics",
        handler=read_metrics,
        answers={200: ("Its text format.", _text("text/plain", "Metrics."))},
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        handler=read_document,
        answers={200: ("OpenAPI 3.1.", {JSON: {"schema": {"type": "object"}}})},
    ),
    Operation(
        method="GET",
        path="/docs",
        handler=read_docs,
        answers={200: ("The page.", _text(HTML, "HTML."))},
    ),
]
