"""The lab: pages to break a scratch copy of the ledger, see what catches it, and undo it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cairn.api.html import HTML, prefers_html
from cairn.api.laboratory import Laboratory
from cairn.api.operations import Operation, Parameter
from cairn.api.problems import ProblemError, bad_request, of_error
from cairn.api.schemas import ref
from cairn.api.service import JSON, Service
from cairn.core.block import Block
from cairn.core.canonical import canonical
from cairn.core.errors import CairnError, NoSuchBlockError, UsageError
from cairn.core.header import LIMIT_63
from cairn.core.rules import NUMBERS, InvalidChainError
from cairn.core.work import bits_of
from cairn.explorer import charts
from cairn.explorer.blocks import ShownBlock
from cairn.explorer.shown import digits
from cairn.lab.caught import Caught
from cairn.lab.playground import MOST_REWRITTEN, Act, Done, Playground
from cairn.lab.reversal import confirmations as confirmations_below
from cairn.lab.reversal import exact, whitepaper
from cairn.ledger import Ledger
from cairn.ledger.writer import Append

FORM: Final = "application/x-www-form-urlencoded"
DATA_SHOWN: Final = 500
"""Characters of the data of a block among others."""
LINE: Final = 200
"""Characters of data in a sentence."""
DATA_EDITED: Final = 20_000
"""Characters of data that a form holds: more is for programs."""
ACTS_SHOWN: Final = 20
"""Of what was done, the last ones."""
EASIEST, HARDEST = 4, 24
"""Leading zero bits of a hash, for mining by hand: from some tries to some seconds of a browser."""
EXAMPLES: Final = (
    {"from": "alice", "to": "bob", "amount": 10},
    {"from": "bob", "to": "carol", "amount": 4},
    {"from": "alice", "to": "dave", "amount": 25},
    {"from": "carol", "to": "alice", "amount": 3},
    {"from": "dave", "to": "bob", "amount": 12},
    {"from": "bob", "to": "alice", "amount": 7},
)
"""What a lab offers to record, on a ledger that has nothing but genesis."""
SHARES: Final = (0.01, 0.5)
MOST_CONFIRMATIONS: Final = 60
LEAST_SHOWN: Final = 1e-9
"""Chances below are not drawn."""
PRINTED: Final = ((0.1, range(11)), (0.3, range(0, 51, 5)))
"""Shares, and confirmations, of which the whitepaper prints the chance."""
PRINTED_SHARES: Final = (0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45)
"""Shares of which it prints after how many confirmations the chance is below `PRINTED_BELOW`."""
PRINTED_BELOW: Final = 0.001
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9.]+(?:[eE][-+]?[0-9]+)?')

WORDS: Final = {
    Act.EDIT: "Changed the data of block {index}, and nothing else",
    Act.REHASH: "Changed the data of block {index}, and computed its hash anew",
    Act.RECHAIN: "Changed the data of block {index}, and made everything after it anew",
    Act.CUT: "Cut off the chain from block {index} on",
    Act.TRUNCATE: "Cut off the chain from block {index} on, and the record of its end",
}


# What is shown


class Card(NamedTuple):
    """A place in the chain, and what is there."""

    place: int
    block: ShownBlock | None
    state: str = ""
    note: str = ""
    gone: bool = False
    """Whether the block was there before, and is not any more."""


def told(done: Done, caught: Caught | None) -> dict[str, Any]:
    """Return an act for people: what it did, what catches it, and why."""
    failure = caught.report.failure if caught else None
    return {
        "words": WORDS[done.act].format(index=f"{done.index:,}"),
        "act": str(done.act),
        "index": done.index,
        "changed": done.changed,
        "caught": caught,
        "failure": failure,
        "number": NUMBERS.get(failure.rule) if failure else None,
    }


def around(ledger: Ledger, done: Done, caught: Caught | None) -> list[Card]:
    """Return the chain around an act, as it is now: what is broken there, and what follows it."""
    failure = caught.report.failure if caught else None
    broken = done.index if caught is None or caught.chain_holds or not failure else failure.index
    places = {*range(done.index - 1, done.index + 3), broken, broken + 1}
    length = len(ledger) if done.after else done.index + 1
    return [
        _card(ledger, place, done, broken, is_caught=failure is not None, caught=caught)
        for place in sorted(places)
        if 0 <= place < length
    ]


def _card(
    ledger: Ledger, place: int, done: Done, broken: int, *, is_caught: bool, caught: Caught | None
) -> Card:
    state, notes = "", []
    holds = caught is None or caught.chain_holds
    if place == done.index and done.after is not None:
        notes.append(_CHANGED[done.act])
    if place == broken and is_caught:
        state = "bad"
        notes.append("This is not the block that was signed." if holds else "It breaks a rule.")
    elif place > broken and is_caught:
        state = "follows"
        notes.append("Made anew to follow it." if holds else "Follows a broken block.")
    try:
        block = ledger[place]
    except CairnError:
        was = done.before if place == done.index else None
        shown = ShownBlock.of(was, DATA_SHOWN) if was else None
        return Card(place, shown, "bad", "It was here, and was cut off.", gone=True)
    return Card(place, ShownBlock.of(block, DATA_SHOWN), state, " ".join(notes))


_CHANGED: Final = {
    Act.EDIT: "Its data was changed, and nothing else.",
    Act.REHASH: "Its data was changed, and its hash computed anew.",
    Act.RECHAIN: "Its data was changed, and its hash computed anew.",
}


def suggestion(text: str) -> tuple[str, str] | None:
    """Return what to change in some JSON, and into what: a lie that is worth telling."""
    for match in _TOKEN.finditer(text):
        if re.fullmatch(r"[1-9][0-9]{0,6}", token := match[0]):
            return token, f"{token}00"
    for match in _TOKEN.finditer(text):
        token, after = match[0], text[match.end() :].lstrip()
        if len(token) > 2 and token.startswith('"') and not after.startswith(":"):
            return token, '"somebody else"'
    return None


def mining(ledger: Ledger) -> dict[str, Any]:
    """Return what a header on top of the chain is made of, to be mined by hand."""
    head = ledger.head
    return {
        "index": head.index + 1,
        "previous": head.hash,
        "timestamp": head.header.timestamp + 1,
        "easiest": EASIEST,
        "hardest": HARDEST,
        "bits": [f"{bits_of((1 << 256 - n) - 1):08x}" for n in range(EASIEST, HARDEST + 1)],
    }


def chances(share: float, confirmations: int) -> dict[str, Any]:
    """Return how likely an attacker reverses a payment, drawn and in numbers."""
    depths = range(MOST_CONFIRMATIONS + 1)
    series = [
        charts.Series(name, [(z, p) for z in depths if (p := chance(share, z)) >= LEAST_SHOWN])
        for name, chance in (("exact", exact), ("whitepaper", whitepaper))
    ]
    return {
        "share": share,
        "confirmations": confirmations,
        "whitepaper": _percent(whitepaper(share, confirmations)),
        "exact": _percent(exact(share, confirmations)),
        "chart": charts.line(
            "Chance that a payment is reversed",
            series,
            x="Confirmations",
            y="Chance",
            log=True,
            show=_percent,
        ),
        "enough": None if share >= 0.5 else confirmations_below(share, PRINTED_BELOW),
        "printed": [(q, [(z, f"{whitepaper(q, z):.7f}") for z in depths]) for q, depths in PRINTED],
        "below": [(q, confirmations_below(q, PRINTED_BELOW)) for q in PRINTED_SHARES],
        "shares": SHARES,
        "most": MOST_CONFIRMATIONS,
    }


def _percent(chance: float) -> str:
    return f"{digits(100 * chance)} %"


# Pages


async def read_lab(service: Service, _request: Request, *, block: int | None = None) -> Response:
    """Read what was done in the lab, and what catches it."""
    value = {
        "done": [
            {
                "act": str(done.act),
                "index": done.index,
                "changed": done.changed,
                "report": caught.report.to_value() if caught else None,
                "why": caught.why if caught else None,
            }
            for done, caught in _laboratory(service).done
        ]
    }
    return Response(json.dumps(value), media_type=JSON)


async def lab_page(service: Service, _request: Request, *, block: int | None = None) -> Response:
    """Show the lab."""
    return await _page(service, {} if block is None else {"block": str(block)})


async def _page(
    service: Service, typed: dict[str, str], problem: ProblemError | None = None
) -> Response:
    """Show the lab, with what somebody has typed, and what was wrong with it."""
    node, laboratory = service.node, _laboratory(service)
    ledger, acts = node.ledger, laboratory.done

    def read() -> dict[str, Any]:
        length = len(ledger)
        index = int(typed["block"]) if re.fullmatch("[0-9]{1,19}", typed.get("block", "")) else 1
        index = min(index, length - 1)
        target = _data_of(ledger, index)
        return {
            "length": length,
            "is_mined": ledger.is_mined,
            "index": index,
            "text": typed.get("data", target),
            "suggestion": None if target is None else suggestion(target),
            "cards": around(ledger, *acts[-1]) if acts else [],
            "fork": laboratory.fork,
            "fork_blocks": [ShownBlock.of(b, DATA_SHOWN) for b in laboratory.fork.blocks]
            if laboratory.fork
            else [],
            "mining": _or_none(lambda: mining(ledger)),
        }

    return service.page(
        "/lab",
        "lab.html",
        problem.status if problem else HTTPStatus.OK,
        problem=problem,
        typed=typed,
        acts=[told(*act) for act in acts[-ACTS_SHOWN:]],
        count=len(acts),
        before=_said(acts[-1][0].before) if acts else None,
        report=laboratory.report,
        chances=chances(0.1, 6),
        most=MOST_REWRITTEN,
        **await node.read(read),
    )


def _said(block: Block | None) -> str | None:
    """Return what a block recorded, in a line."""
    if block is None:
        return None
    text = block.data_json()[: 4 * LINE].decode(errors="replace")
    return text if len(text) <= LINE else f"{text[:LINE]}…"


def _or_none(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except CairnError:
        return None


def _data_of(ledger: Ledger, index: int) -> str | None:
    """Return the JSON that a block records, if a form can hold it."""
    block: Block | None = _or_none(lambda: ledger[index])
    if block is None or block.header.size > DATA_EDITED or not block.entries:
        return None
    return block.data_json().decode(errors="replace")


async def attack_chances(
    service: Service, _request: Request, *, share: float = 0.1, confirmations: int = 6
) -> Response:
    """Compute how likely one with a share of the hash power reverses a payment."""
    value = {
        "share": share,
        "confirmations": confirmations,
        "whitepaper": whitepaper(share, confirmations),
        "exact": exact(share, confirmations),
    }
    return Response(json.dumps(value), media_type=JSON)


async def attack_page(
    service: Service, _request: Request, *, share: float = 0.1, confirmations: int = 6
) -> Response:
    """Show how likely that is."""
    return service.page("/lab", "lab_attack.html", chances=chances(share, confirmations))


# What is done


async def edit_block(service: Service, request: Request) -> Response:
    """Change the data of a block; with `rehash`, compute its hash anew."""
    form = await _form(service, request, "block", "data", "rehash")
    rehash = "rehash" in form
    return await _done(
        service, request, form, lambda play: play.edit(_number(form), _data(form), rehash=rehash)
    )


async def rechain_blocks(service: Service, request: Request) -> Response:
    """Change the data of a block, and make all blocks after it anew."""
    form = await _form(service, request, "block", "data")
    return await _done(
        service, request, form, lambda play: play.rechain(_number(form), _data(form))
    )


async def truncate_chain(service: Service, request: Request) -> Response:
    """Cut off the chain from a block on; with `record`, the record of its end, too."""
    form = await _form(service, request, "block", "record")
    covered = "record" in form
    return await _done(
        service, request, form, lambda play: play.truncate(_number(form), cover_tracks=covered)
    )


async def fork_chain(service: Service, request: Request) -> Response:
    """Show two people two histories, of copies."""
    await _form(service, request)
    try:
        await _laboratory(service).show_two_histories()
    except (UsageError, InvalidChainError) as error:
        return await _refused(service, request, {}, error)
    return _see("fork")


async def undo_act(service: Service, request: Request) -> Response:
    """Undo what was done last."""
    await _form(service, request)
    try:
        await _laboratory(service).undo()
    except UsageError as error:
        return await _refused(service, request, {}, error)
    return _see("result")


async def add_examples(service: Service, request: Request) -> Response:
    """Record some example values, on a ledger with nothing but genesis."""
    await _form(service, request)
    node = service.node
    if node.length > 1 or node.peering is not None:
        error = UsageError("examples are for an instant ledger that has recorded nothing yet")
        return await _refused(service, request, {}, error)
    await node.append(Append([canonical(value) for value in EXAMPLES], None))
    return _see("edit")


async def tamper_block(service: Service, _request: Request) -> Response:
    """Change the data of a random block in the scratch copy (in the lab only)."""
    done = await _laboratory(service).act(_at_random, look=False)
    block = done.after
    if block is None:
        raise NoSuchBlockError(f"there is no block {done.index} any more")
    return await service.block(lambda: block)


async def tamper_page(service: Service, _request: Request) -> Response:
    """Do so, and show what catches it."""
    await _laboratory(service).act(_at_random)
    return _see("result")


def _at_random(play: Playground) -> Done:
    return play.edit_at_random(random.SystemRandom())


async def _done(
    service: Service, request: Request, form: dict[str, str], work: Callable[[Playground], Done]
) -> Response:
    """Let something be done, and answer with where it is shown."""
    try:
        _number(form)
        await _laboratory(service).act(work)
    except (ProblemError, CairnError) as error:
        return await _refused(service, request, form, error)
    return _see("result")


async def _refused(
    service: Service, request: Request, form: dict[str, str], error: Exception
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
        return await _page(service, form, problem)
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


def _number(form: dict[str, str]) -> int:
    text = form.get("block", "").strip()
    if not re.fullmatch("[0-9]{1,19}", text):
        raise bad_request(f"block is the index of one, found {text!r:.80}")
    return int(text)


def _data(form: dict[str, str]) -> bytes:
    return form.get("data", "").encode(errors="surrogatepass")


def _see(part: str) -> Response:
    return RedirectResponse(f"/lab#{part}", HTTPStatus.SEE_OTHER)


def _laboratory(service: Service) -> Laboratory:
    assert service.laboratory is not None
    return service.laboratory


# What the document says


def _share(text: str) -> float:
    if not SHARES[0] <= float(text) <= SHARES[1]:
        raise ValueError(f"from {SHARES[0]} to {SHARES[1]}, found {text}")
    return float(text)


def _fields(**meanings: str) -> dict[str, Any]:
    properties = {
        name: {"type": "string", "description": meaning} for name, meaning in meanings.items()
    }
    return {FORM: {"schema": {"type": "object", "properties": properties}}}


_BLOCK: Final = "The index of a block."
_DATA: Final = "What it is to record: JSON. Of a batch, the list of its values."
_SEEN: Final = {303: ("Where it is shown.", {HTML: {"schema": {"type": "string"}}})}
_REFUSALS: Final = {404: "There is no such block.", 409: "That cannot be done here: why not."}
_CHANCES: Final = [
    Parameter(
        "share",
        "query",
        "The attacker's part of all hash power.",
        {"type": "string", "pattern": r"^0?\.[0-9]{1,6}$", "maxLength": 8, "default": "0.1"},
        _share,
    ),
    Parameter(
        "confirmations",
        "query",
        "How many blocks have confirmed the payment.",
        {"type": "integer", "minimum": 0, "maximum": MOST_CONFIRMATIONS},
    ),
]
_CHANCE: Final = {"type": "number", "minimum": 0, "maximum": 1}
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
            )
        ],
        answers={200: ("What was done.", {JSON: {"schema": {"type": "object"}}})},
    ),
    Operation(
        method="GET",
        path="/lab/attack",
        handler=attack_chances,
        page=attack_page,
        parameters=_CHANCES,
        answers={
            200: (
                "The chances.",
                {
                    JSON: {
                        "schema": {
                            "type": "object",
                            "properties": {"whitepaper": _CHANCE, "exact": _CHANCE},
                        }
                    }
                },
            )
        },
    ),
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
