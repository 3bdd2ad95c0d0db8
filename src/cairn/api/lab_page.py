"""The page of the lab: what was done, what catches it, and the forms to do more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from cairn.api.lab_attack import chances
from cairn.api.laboratory import Laboratory
from cairn.api.problems import ProblemError
from cairn.api.service import JSON, Service
from cairn.core.errors import CairnError
from cairn.core.rules import NUMBERS
from cairn.core.work import bits_of
from cairn.explorer.blocks import Card, ShownBlock
from cairn.lab.caught import Caught
from cairn.lab.playground import CUTS, MOST_REWRITTEN, Act, Done
from cairn.ledger import Ledger

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
CHANGES: Final = ("edit", "rechain")
"""The forms that are for the block whose data is shown."""
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9.]+(?:[eE][-+]?[0-9]+)?')

WORDS: Final = {
    Act.EDIT: "Changed the data of block {index}, and nothing else",
    Act.REHASH: "Changed the data of block {index}, and computed its hash anew",
    Act.RECHAIN: "Changed the data of block {index}, and made everything after it anew",
    Act.CUT: "Cut off the chain from block {index} on",
    Act.TRUNCATE: "Cut off the chain from block {index} on, and the record of its end",
}


class Typed(NamedTuple):
    """What somebody has typed into one of the forms."""

    form: str
    fields: Mapping[str, str]

    @property
    def block(self) -> int | None:
        """The index of the block that is meant."""
        text = self.fields.get("block", "").strip()
        return int(text) if re.fullmatch("[0-9]{1,19}", text) else None


NOTHING: Final = Typed("", {})


def laboratory_of(service: Service) -> Laboratory:
    """Return the laboratory of a service that is a lab."""
    assert service.laboratory is not None
    return service.laboratory


async def read_lab(
    service: Service, _request: Request, *, block: int | None = None, undone: bool = False
) -> Response:
    """Read what was done in the lab, and what catches it."""
    value = {
        "done": [
            {
                "act": str(done.act),
                "index": done.index,
                "changed": done.changed,
                "report": service.report(caught.report).to_value() if caught else None,
                "why": caught.why if caught else None,
            }
            for done, caught in laboratory_of(service).done
        ]
    }
    return Response(json.dumps(value), media_type=JSON)


async def lab_page(
    service: Service, request: Request, *, block: int | None = None, undone: bool = False
) -> Response:
    """Show the lab."""
    problem, last = None, service.node.length - 1
    if block is not None and block > last:
        detail = f"there is no block {block}: the last is {last}"
        problem = ProblemError(HTTPStatus.NOT_FOUND, "no-such-block", detail)
    typed = Typed("fetch", {} if block is None else {"block": str(block)})
    return await page(service, request, typed, problem, undone=undone)


async def page(
    service: Service,
    request: Request,
    typed: Typed,
    problem: ProblemError | None = None,
    *,
    undone: bool = False,
) -> Response:
    """Show the lab, with what somebody has typed, and what was wrong with it.

    `undone`: say so, and what validation has found then.
    """
    node, laboratory = service.node, laboratory_of(service)
    ledger, acts = node.ledger, laboratory.done

    def read() -> dict[str, Any]:
        length, wanted = len(ledger), None if typed.form == "truncate" else typed.block
        if wanted is None and acts:  # who has changed a block may want to change it again
            wanted = min(acts[-1][0].index, length - 1)
        index = min(1, length - 1) if wanted is None or wanted >= length else wanted
        text, why = data_of(ledger, index)
        forms: dict[str, Mapping[str, str]] = {name: {} for name in (*CHANGES, "truncate")}
        if typed.form not in CHANGES or wanted == index:
            forms[typed.form] = typed.fields
        return {
            "length": length,
            "is_mined": ledger.is_mined,
            "index": index,
            "wanted": index if wanted is None else wanted,
            "text": text,
            "why": service.outside(why),
            "suggestion": suggestion(text) if text else None,
            "typed": forms,
            "cards": around(service, *acts[-1]) if acts else [],
            "fork": laboratory.fork,
            "fork_blocks": [ShownBlock.of(b, DATA_SHOWN) for b in laboratory.fork.blocks]
            if laboratory.fork
            else [],
            "mining": _or_none(lambda: mining(ledger)),
            "chances": chances(0.1, 6),
        }

    return service.page(
        "/lab",
        "lab.html",
        problem.status if problem else HTTPStatus.OK,
        problem=service.told(problem) if problem else None,
        is_fetched=typed.form == "fetch",
        can_change=not laboratory.asks_for_token or "authorization" in request.headers,
        acts=[told(*act) for act in acts[-ACTS_SHOWN:]],
        count=len(acts),
        report=laboratory.report if undone else None,
        most=MOST_REWRITTEN,
        **await node.read(read),
    )


def told(done: Done, caught: Caught | None) -> dict[str, Any]:
    """Return an act for people: what it did, what catches it, and why."""
    failure = caught.failure if caught else None
    said = done.said.decode(errors="replace")
    return {
        "words": WORDS[done.act].format(index=f"{done.index:,}"),
        "index": done.index,
        "is_cut": done.act in CUTS,
        "said": said if len(said) <= LINE else f"{said[:LINE]}…",
        "caught": caught,
        "failure": failure,
        "number": NUMBERS.get(failure.rule) if failure else None,
    }


def around(service: Service, done: Done, caught: Caught | None) -> list[Card]:
    """Return the chain around an act, as it is now: what is broken there, and what follows it."""
    ledger = service.node.ledger
    broken, its, theirs = _broken(done, caught)
    places = {*range(done.index - 1, done.index + 3), broken, broken + 1}
    length = done.index + 1 if done.act in CUTS else len(ledger)
    cards = []
    for place in sorted(place for place in places if 0 <= place < length):
        card = service.card(place, DATA_SHOWN, ledger.final)
        changed = _CHANGED.get(done.act, "") if place == done.index else ""
        if place == done.index and done.act in CUTS and not card.block:
            cards.append(card._replace(note="It was here, and was cut off.", gone=True))
        elif place == broken and its:
            cards.append(card._replace(state="bad", note=f"{changed} {its}".strip()))
        elif place > broken and theirs:
            cards.append(card._replace(state="follows", note=f"{changed} {theirs}".strip()))
        else:
            cards.append(card._replace(note=changed))
    return cards


def _broken(done: Done, caught: Caught | None) -> tuple[int, str, str]:
    """Return which block is wrong, and what is to be said of it, and of those after it."""
    failure = caught.failure if caught else None
    if caught is None or failure is None:
        return done.index, "", ""
    if caught.chain_holds:
        return done.index, "This is not the block that was signed.", "Made anew to follow it."
    return failure.index, "It breaks a rule.", "Follows a broken block."


_CHANGED: Final = {
    Act.EDIT: "Its data was changed, and nothing else.",
    Act.REHASH: "Its data was changed, and its hash computed anew.",
    Act.RECHAIN: "Its data was changed, and its hash computed anew.",
}


def data_of(ledger: Ledger, index: int) -> tuple[str | None, str]:
    """Return the JSON that a block records; or None and why a form cannot hold it."""
    try:
        block = ledger[index]
    except CairnError as error:
        return None, f"It cannot be read: {error}."
    if block.erased:
        return None, "It was erased."
    if not block.entries:
        return None, "It is a batch with nothing in it."
    if block.header.size > DATA_EDITED:
        return None, "What it says is too long to be shown here."
    return block.data_json().decode(errors="replace"), ""


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


def _or_none(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except CairnError:
        return None
