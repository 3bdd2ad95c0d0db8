"""The lab: a scratch copy of the ledger to break, see what catches it, and undo it."""

from __future__ import annotations

import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cairn.api import lab_attack
from cairn.api.html import HTML, prefers_html
from cairn.api.lab_page import NOTHING, Typed, lab_page, laboratory_of, page, read_lab
from cairn.api.operations import Operation, Parameter
from cairn.api.problems import ProblemError, bad_request, of_error
from cairn.api.schemas import ref
from cairn.api.service import JSON, Service
from cairn.core.canonical import canonical
from cairn.core.errors import CairnError, NoSuchBlockError, UsageError
from cairn.core.header import LIMIT_63
from cairn.core.rules import InvalidChainError
from cairn.lab.playground import Done, Playground
from cairn.ledger.writer import Append

FORM: Final = "application/x-www-form-urlencoded"
EXAMPLES: Final = (
    {"from": "alice", "to": "bob", "amount": 10},
    {"from": "bob", "to": "carol", "amount": 4},
    {"from": "alice", "to": "dave", "amount": 25},
    {"from": "carol", "to": "alice", "amount": 3},
    {"from": "dave", "to": "bob", "amount": 12},
    {"from": "bob", "to": "alice", "amount": 7},
)
"""What a lab offers to record, on a ledger that has nothing but genesis."""


async def edit_block(service: Service, request: Request) -> Response:
    """Change the data of a block; with `rehash`, compute its hash anew."""
    form = await _form(service, request, "block", "data", "rehash")
    rehash = "rehash" in form

    def edit(play: Playground, index: int) -> Done:
        return play.edit(index, _data(form), rehash=rehash)

    return await _done(service, request, Typed("edit", form), edit)


async def rechain_blocks(service: Service, request: Request) -> Response:
    """Change the data of a block, and make all blocks after it anew."""
    form = await _form(service, request, "block", "data")

    def rechain(play: Playground, index: int) -> Done:
        return play.rechain(index, _data(form))

    return await _done(service, request, Typed("rechain", form), rechain)


async def truncate_chain(service: Service, request: Request) -> Response:
    """Cut off the chain from a block on; with `record`, the record of its end, too."""
    form = await _form(service, request, "block", "record")
    covered = "record" in form

    def truncate(play: Playground, index: int) -> Done:
        return play.truncate(index, cover_tracks=covered)

    return await _done(service, request, Typed("truncate", form), truncate)


async def fork_chain(service: Service, request: Request) -> Response:
    """Show two people two histories, of copies."""
    await _form(service, request)
    try:
        await laboratory_of(service).show_two_histories()
    except (UsageError, InvalidChainError) as error:
        return await _refused(service, request, error)
    return _see("/lab#fork")


async def undo_act(service: Service, request: Request) -> Response:
    """Undo what was done last; with `all`, all that was done."""
    form = await _form(service, request, "all")
    try:
        await laboratory_of(service).undo(everything="all" in form)
    except UsageError as error:
        return await _refused(service, request, error)
    return _see("/lab?undone=true#result")


async def add_examples(service: Service, request: Request) -> Response:
    """Record some example values, on a ledger with nothing but genesis."""
    await _form(service, request)
    node = service.node
    if node.length > 1 or node.peering is not None:
        error = UsageError("examples are for an instant ledger that has recorded nothing yet")
        return await _refused(service, request, error)
    await node.append(Append([canonical(value) for value in EXAMPLES], None))
    return _see("/lab#edit")


async def tamper_block(service: Service, request: Request) -> Response:
    """Change the data of a random block in the scratch copy (in the lab only)."""
    if request.method == "HEAD":  # asks what a GET would answer, and changes nothing
        return Response(media_type=JSON)
    done = await laboratory_of(service).act(_at_random, look=False)
    return await service.block(lambda: service.node.ledger[done.index])


async def tamper_page(service: Service, request: Request) -> Response:
    """Do so, and show what catches it."""
    if request.method != "HEAD":
        try:
            await laboratory_of(service).act(_at_random)
        except UsageError as error:
            return await _refused(service, request, error)
    return _see("/lab#result")


def _at_random(play: Playground) -> Done:
    return play.edit_at_random(random.SystemRandom())


async def _done(
    service: Service, request: Request, typed: Typed, work: Callable[[Playground, int], Done]
) -> Response:
    """Let something be done to the block that is meant, and answer with where it is shown."""
    try:
        index = typed.block
        if index is None:
            found = typed.fields.get("block", "")
            raise bad_request(f"block is the index of one, found {found!r:.80}")
        await laboratory_of(service).act(lambda play: work(play, index))
    except (ProblemError, CairnError) as error:
        return await _refused(service, request, error, typed)
    return _see("/lab#result")


async def _refused(
    service: Service, request: Request, error: Exception, typed: Typed = NOTHING
) -> Response:
    """Answer that something was not done, and why: with the page, and what was typed."""
    if isinstance(error, ProblemError):
        problem = error
    elif isinstance(error, UsageError) and not isinstance(error, NoSuchBlockError):
        problem = ProblemError(HTTPStatus.CONFLICT, "refused", str(error))
    elif isinstance(error, InvalidChainError):
        detail = f"the chain is broken, and nothing can follow it: {error}. Undo what was done"
        problem = ProblemError(HTTPStatus.CONFLICT, "refused", detail)
    else:
        assert isinstance(error, CairnError)
        problem = of_error(error)
    if prefers_html(request.headers.get("accept", "")):
        return await page(service, request, typed, problem)
    raise problem


async def _form(service: Service, request: Request, *names: str) -> dict[str, str]:
    """Return the fields of a form: some of `names`, each once.

    Raises:
        ProblemError: it is no such form.
    """
    async with service.body(request) as body:
        try:
            fields = parse_qsl(
                body.decode("ascii"), True, True, errors="strict", max_num_fields=len(names)
            )
        except ValueError:
            fields = [] if not body else [("", "")]
    form = dict(fields)
    if len(form) < len(fields) or not form.keys() <= {*names}:
        shown = f"the fields {', '.join(names)}" if names else "no field"
        raise bad_request(f"the body is a form ({FORM}) with {shown}, each once")
    return form


def _data(form: dict[str, str]) -> bytes:
    return form.get("data", "").encode(errors="surrogatepass")


def _see(place: str) -> Response:
    return RedirectResponse(place, HTTPStatus.SEE_OTHER)


# What the document says


def _fields(**meanings: str) -> dict[str, Any]:
    properties = {
        name: {"type": "string", "description": meaning} for name, meaning in meanings.items()
    }
    return {FORM: {"schema": {"type": "object", "properties": properties}}}


_BLOCK: Final = "The index of a block."
_DATA: Final = "What it is to record: JSON. Of a batch, the list of its values."
_SEEN: Final = {303: ("Where it is shown.", {HTML: {"schema": {"type": "string"}}})}
_REFUSALS: Final = {404: "There is no such block.", 409: "That cannot be done here: why not."}
OPERATIONS: Final = [
    Operation(
        method="GET",
        path="/tamper",
        handler=tamper_block,
        page=tamper_page,
        answers={200: ("The block, as it is now.", {JSON: {"schema": ref("Block")}})},
    ),
    Operation(
        method="GET",
        path="/lab",
        handler=read_lab,
        page=lab_page,
        parameters=[
            Parameter(
                "block",
                "query",
                "Of the page: which block its form begins with.",
                {"type": "integer", "minimum": 0, "maximum": LIMIT_63 - 1},
            ),
            Parameter(
                "undone",
                "query",
                "Of the page: whether something was just undone, of which it tells.",
                {"type": "string", "pattern": "^true$", "maxLength": 4},
                bool,
            ),
        ],
        answers={200: ("What was done.", {JSON: {"schema": {"type": "object"}}})},
    ),
    *lab_attack.OPERATIONS,
    Operation(
        method="POST",
        path="/lab/edit",
        handler=edit_block,
        body=_fields(block=_BLOCK, data=_DATA, rehash="If given, its hash is computed anew."),
        answers=_SEEN,
        refusals=_REFUSALS,
    ),
    Operation(
        method="POST",
        path="/lab/rechain",
        handler=rechain_blocks,
        body=_fields(block=_BLOCK, data=_DATA),
        answers=_SEEN,
        refusals=_REFUSALS,
    ),
    Operation(
        method="POST",
        path="/lab/truncate",
        handler=truncate_chain,
        body=_fields(block="The first block to go.", record="If given, so does the record of it."),
        answers=_SEEN,
        refusals=_REFUSALS,
    ),
    Operation(
        method="POST",
        path="/lab/fork",
        handler=fork_chain,
        answers=_SEEN,
        refusals={409: _REFUSALS[409]},
    ),
    Operation(
        method="POST",
        path="/lab/undo",
        handler=undo_act,
        body=_fields(all="If given, all that was done is undone."),
        answers=_SEEN,
        refusals={409: _REFUSALS[409]},
    ),
    Operation(
        method="POST",
        path="/lab/examples",
        handler=add_examples,
        answers=_SEEN,
        refusals={409: _REFUSALS[409]},
    ),
]
