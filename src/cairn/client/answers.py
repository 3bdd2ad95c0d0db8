"""What the answers of a node mean. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, NamedTuple

import orjson

from cairn.client.errors import BadAnswerError, NodeError, NotPermittedError, RefusedEntryError
from cairn.client.wire import ENCODER, MAX_ANSWER, Answer, Request
from cairn.core.block import Block
from cairn.core.errors import (
    CairnError,
    DamagedError,
    EntryError,
    FormatError,
    KeyReusedError,
    NoSuchBlockError,
    NoSuchEntryError,
    UsageError,
)
from cairn.core.header import LIMIT_63
from cairn.report import Report

PROBLEM: Final = "urn:cairn:problem:"
"""What the types of all problems of a node begin with."""
SHOWN_BYTES: Final = 200
"""Bytes of an answer that an error shows, where it has no problem details."""
_HASH: Final = re.compile("[0-9a-f]{64}")


def read_block(request: Request, answer: Answer) -> Block:
    """Return the block that the answer shows, valid or not.

    Raises:
        CairnError: the answer is another; see `refusal`.
    """
    return to_block(request, _value(request, answer))


def read_recorded(request: Request, answer: Answer, known: int) -> Block:
    """Return the block that `request` was recorded in.

    Raises:
        BadAnswerError: the block holds something else, or its hashes are not of what it holds; or
            it is one of the first `known`, which were there before.
        CairnError: as for `read_block`.
    """
    block = read_block(request, answer)
    ids = [entry.id for entry in block.entries]
    if block.erased or block.data_json() != request.body or ids != [block.header.data_root]:
        raise bad_answer(request, f"acknowledges something else: {block!r:.{SHOWN_BYTES}}")
    if block.header.hash != block.stored_hash:
        raise bad_answer(request, f"acknowledges a block whose hash is not {block.hash}")
    if block.index < known:
        raise bad_answer(request, f"acknowledges block {block.index}, which was there before")
    return block


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an entry of a ledger stands."""

    id: str
    """64 hex digits."""
    status: str
    """`pending`: it waits to be mined. `confirmed`: a block has it, which other blocks may yet
    take the place of. `final`: it stays there."""
    block: int | None = None
    """Index of the first block that has it; None while it is pending."""
    place: int | None = None
    """Its place in that block."""
    depth: int | None = None
    """Blocks that follow that one, as the node says."""
    duplicates: tuple[tuple[int, int], ...] = ()
    """Where it is once more, as the node says: only the first counts."""


def read_submitted(request: Request, answer: Answer) -> str:
    """Return the id of the entry that was submitted.

    Raises:
        CairnError: as for `read_block`.
    """
    if answer.status not in (201, 202):
        raise refusal(request, answer)
    value = _object(request, parse_json(request, answer.body))
    found = value.get("entry")
    if isinstance(found, str) and _HASH.fullmatch(found):
        return found
    raise bad_answer(request, f"takes an entry, and does not say its id: {answer.body[:200]!r}")


def read_standing(request: Request, answer: Answer, entry_id: str) -> Standing:
    """Return where the entry with this id stands, as the node says.

    Raises:
        CairnError: as for `read_block`.
    """
    value = _object(request, _value(request, answer))
    try:
        duplicates = tuple((one["block"], one["place"]) for one in value["duplicates"])
        standing = Standing(
            value["entry"], value["status"], value["block"], value["place"], value["depth"],
            duplicates,
        )  # fmt: skip
    except (KeyError, TypeError):
        raise bad_answer(request, f"no standing: {value!r:.{SHOWN_BYTES}}") from None
    places = (standing.block, standing.place, standing.depth)
    are_there = standing.status in ("confirmed", "final")
    are_numbers = all(
        type(n) is int and 0 <= n < LIMIT_63
        for n in (*(places if are_there else ()), *chain.from_iterable(duplicates))
    )
    is_known = are_there or (standing.status == "pending" and places == (None, None, None))
    if not (standing.id == entry_id and is_known and are_numbers):
        raise bad_answer(request, f"no standing of {entry_id}: {value!r:.{SHOWN_BYTES}}")
    return standing


def read_peers(request: Request, answer: Answer) -> dict[str, Any]:
    """Return what the node says of itself and its peers.

    Raises:
        CairnError: as for `read_block`.
    """
    value = _object(request, _value(request, answer))
    if not isinstance(value.get("peers"), list):
        raise bad_answer(request, f"no peers: {value!r:.{SHOWN_BYTES}}")
    return value


def read_range(request: Request, answer: Answer, count: int, known: int) -> tuple[range, bytes]:
    """Return the positions of `count` values that were recorded together, and the last hash.

    Raises:
        BadAnswerError: it says something else, or the first `known` blocks, which were there.
        CairnError: as for `read_block`.
    """
    value = _object(request, _value(request, answer))
    first, last, text = value.get("first"), value.get("last"), value.get("hash")
    if type(first) is int and type(last) is int and value.get("count") == count:
        positions = range(first, last + 1) if known <= first <= last < LIMIT_63 else range(0)
        if len(positions) == count and isinstance(text, str) and _HASH.fullmatch(text):
            return positions, bytes.fromhex(text)
    raise bad_answer(request, f"acknowledges {value!r:.{SHOWN_BYTES}} for {count} values")


def read_report(request: Request, answer: Answer) -> Report:
    """Return what validation found.

    Raises:
        CairnError: as for `read_block`.
    """
    value = _object(request, _value(request, answer))
    try:
        report = Report.from_value(value)
    except FormatError as error:
        raise bad_answer(request, str(error)) from error
    numbers = (report.blocks, report.bytes, report.seconds, report.erased)
    if type(value["valid"]) is not bool or not {int, float}.issuperset(map(type, numbers)):
        raise bad_answer(request, f"not a report: {value!r:.{SHOWN_BYTES}}")
    return report


class Page(NamedTuple):
    """A page of blocks."""

    views: list[Any]
    """Parsed, but not looked at."""
    next: str | None
    """The path and query of the page that follows."""
    length: int = 0
    """Blocks in the ledger; only a page of the chain says it."""


def read_chain(request: Request, answer: Answer) -> Page:
    """Return a page of the chain.

    Raises:
        CairnError: as for `read_block`.
    """
    value = _object(request, _value(request, answer))
    length = value.get("length")
    if type(length) is not int or not 1 <= length < LIMIT_63:
        raise bad_answer(request, f"a ledger of {length!r:.{SHOWN_BYTES}} blocks")
    return _page(request, value, "chain")._replace(length=length)


def read_found(request: Request, answer: Answer) -> Page:
    """Return a page of blocks that were found.

    Raises:
        CairnError: as for `read_block`.
    """
    return _page(request, _object(request, _value(request, answer)), "blocks")


def _page(request: Request, value: dict[str, Any], name: str) -> Page:
    """Return a page, the blocks of which are in the member `name`.

    Of the address of the next one only the query is taken, so that no node can send a client, and
    its token, anywhere else.
    """
    views, following = value.get(name), value.get("next")
    if not (isinstance(views, list) and isinstance(following, str | None)):
        raise bad_answer(request, f"not a page of blocks: {value!r:.{SHOWN_BYTES}}")
    if following is not None:
        path = request.path.partition("?")[0]
        following = f"{path}?{following.partition('#')[0].partition('?')[2]}"
        if following == request.path:
            raise bad_answer(request, "a page that is followed by itself")
    return Page(views, following)


def to_block(request: Request, view: object) -> Block:
    """Return the block that a parsed view shows, valid or not.

    Raises:
        BadAnswerError: it is not a view of a block.
    """
    try:
        return Block.from_view(view, encode=ENCODER.value, erased_bytes=MAX_ANSWER)
    except (FormatError, EntryError) as error:
        raise bad_answer(request, f"not a block: {error}") from error


def slug(answer: Answer) -> str:
    """Return the name of the problem that an answer reports, or an empty string."""
    return str(_problem(answer).get("type", "")).removeprefix(PROBLEM)


def refusal(request: Request, answer: Answer) -> CairnError:
    """Return the error that an answer means, that is not what was asked for."""
    problem = _problem(answer)
    detail = str(problem.get("detail") or problem.get("title") or "")
    match slug(answer):
        case "bad-entry":
            return _refused_entry(problem, detail)
        case "key-reused":
            return KeyReusedError(detail)
        case "no-such-block":
            return NoSuchBlockError(detail)
        case "no-such-entry":
            return NoSuchEntryError(detail)
        case "other-seal":
            return UsageError(detail)
        case "damaged":
            return DamagedError(detail)
    if answer.status == 413 and request.body:  # also from what stands between, in its own words
        return _refused_entry(problem, detail or f"{len(request.body)} bytes are too large")
    if answer.status in range(300, 400):
        detail = f"redirected to {answer.headers.get('Location', 'nowhere')!r:.{SHOWN_BYTES}}"
    kind = NotPermittedError if answer.status in (401, 403, 421) else NodeError
    shown = detail or repr(answer.body[:SHOWN_BYTES])
    message = f"{request} was answered with {answer.status}: {shown}"
    return kind(message, status=answer.status, problem=problem)


def bad_answer(request: Request, what: str) -> BadAnswerError:
    """Return the error for an answer that is none."""
    return BadAnswerError(f"{request} was answered with what no node says: {what}")


def parse_json(request: Request, text: bytes) -> Any:
    """Return the value of a JSON text.

    Not by `core.canonical.parse`, as orjson is several times as fast: they differ only in texts
    that are not canonical, and that is for the rules to find, by the hashes.

    Raises:
        BadAnswerError: it is none, or larger than any answer may be.
    """
    if len(text) > MAX_ANSWER:
        raise bad_answer(request, f"more than {MAX_ANSWER} bytes")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise bad_answer(request, f"{text[:SHOWN_BYTES]!r}, not JSON: {error}") from error


def _value(request: Request, answer: Answer) -> Any:
    """Return the JSON value of an answer that is what was asked for."""
    if answer.status not in (200, 201):
        raise refusal(request, answer)
    return parse_json(request, answer.body)


def _object(request: Request, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad_answer(request, f"not an object: {value!r:.{SHOWN_BYTES}}")
    return value


def _problem(answer: Answer) -> dict[str, Any]:
    """Return the problem details of an answer; nothing where it has none, or is too large."""
    try:
        problem = orjson.loads(answer.body) if len(answer.body) <= MAX_ANSWER else None
    except orjson.JSONDecodeError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _refused_entry(problem: Mapping[str, Any], detail: str) -> RefusedEntryError:
    error = RefusedEntryError(str(problem.get("reason") or detail), str(problem.get("path") or ""))
    line = problem.get("line")
    if type(line) is int and line >= 1:
        error.position = line - 1
    return error
