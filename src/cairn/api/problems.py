"""Errors as RFC 9457 problem details: one table from what went wrong to what a client is told."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cairn.core.errors import (
    CairnError,
    DamagedError,
    EntryError,
    ErasedError,
    FormatError,
    InconsistentError,
    KeyReusedError,
    NoSuchBlockError,
    NoSuchEntryError,
    OutcomeUnknownError,
    StoreError,
)
from cairn.core.rules import InvalidChainError
from cairn.node.appender import WriterStoppedError
from cairn.node.peering import NodeHaltedError, PoolFullError, TooManyEntriesError

MEDIA_TYPE: Final = "application/problem+json"
QUOTED: Final = 300
"""Characters of a refused entry's message, at most."""
RETRY_SECONDS: Final = 1
"""What Retry-After says where waiting may help: a disk or a restart takes longer than that to
come back, but not being asked once a second."""

log = logging.getLogger(__name__)


class ProblemError(Exception):
    """A request that is answered with a problem; `slug` names its type for programs."""

    def __init__(self, status: HTTPStatus, slug: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.members = members
        """Further members of the JSON object."""

    def to_value(self) -> dict[str, Any]:
        """Return the JSON object (RFC 9457, section 3)."""
        return {
            "type": f"urn:cairn:problem:{self.slug}",
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
            **self.members,
        }

    @property
    def headers(self) -> dict[str, str]:
        """What goes with it, whatever it is written as."""
        if self.status == HTTPStatus.UNAUTHORIZED:
            return {"WWW-Authenticate": "Bearer"}
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return {"Retry-After": str(RETRY_SECONDS)}
        return {}

    def response(self) -> Response:
        """Return the response that says so."""
        content = json.dumps(self.to_value(), ensure_ascii=False).encode(errors="replace")
        return Response(content, self.status, self.headers, MEDIA_TYPE)


def bad_entry(error: EntryError, **where: int) -> ProblemError:
    """Return the problem of a value that cannot be recorded."""
    return ProblemError(
        HTTPStatus.BAD_REQUEST,
        "bad-entry",
        _short(str(error)),
        reason=_short(error.reason),
        path=_short(error.path),
        **where,
    )


def _short(text: str) -> str:
    """Return `text`, or its beginning: what it quotes may be as large as a body."""
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"


def bad_request(detail: str) -> ProblemError:
    """Return the problem of a request that is not as the document says."""
    return ProblemError(HTTPStatus.BAD_REQUEST, "bad-request", detail)


def too_large(detail: str) -> ProblemError:
    """Return the problem of a body past a limit."""
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", detail)


def outside(text: str, folders: Iterable[Path]) -> str:
    """Return what is said to everyone in place of `text`, of what lies in some folders.

    Files go by their names in these: where they are is for the operator, and in the log.
    """
    for folder in folders:
        for name in {str(folder.absolute()), str(folder)}:
            text = re.sub(rf"(?<![\w./-]){re.escape(name)}/", "", text)
        whole = re.escape(str(folder.absolute()))
        text = re.sub(rf"(?<![\w./-]){whole}(?![\w-]|\.\w)", "its folder", text)
    return text


def unavailable(detail: str, slug: str = "unavailable") -> ProblemError:
    """Return the problem of something that may work when tried again."""
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, slug, detail)


def of_error(error: CairnError) -> ProblemError:
    """Return what a client is told of an error."""
    match error:
        case KeyReusedError():
            return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "key-reused", str(error))
        case EntryError():
            return bad_entry(error)
        case ErasedError():
            return ProblemError(HTTPStatus.GONE, "erased", str(error))
        case NoSuchEntryError():
            return ProblemError(HTTPStatus.NOT_FOUND, "no-such-entry", str(error))
        case NoSuchBlockError():
            return ProblemError(HTTPStatus.NOT_FOUND, "no-such-block", str(error))
        case InconsistentError():  # where the evidence lies is for the operator
            log.error("%s", error)
            return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "damaged", error.message)
        case DamagedError() | FormatError() | InvalidChainError():
            log.error("%s", error)
            return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "damaged", str(error))
        case OutcomeUnknownError():
            log.error("%s", error)
            return unavailable(
                "the disk failed: whether this was recorded is not known; ask again with the same "
                "Idempotency-Key",
                "outcome-unknown",
            )
        case StoreError():
            log.error("%s", error)
            return unavailable("the ledger cannot be reached just now")
        case WriterStoppedError():
            return _bug()
        case PoolFullError():
            return unavailable(str(error), "pool-full")
        case TooManyEntriesError():
            return too_large(str(error))
        case NodeHaltedError():
            return unavailable(str(error), "halted")
    return unavailable(str(error))


def problem_of(request: Request, error: Exception) -> ProblemError:
    """Return what is answered to a request that has raised `error`; the server logs our bugs."""
    match error:
        case ProblemError():
            return error
        case CairnError():
            return of_error(error)
        case HTTPException():
            status = HTTPStatus(error.status_code)
            slug = "not-found" if status == HTTPStatus.NOT_FOUND else "bad-request"
            path = request.url.path
            return ProblemError(status, slug, f"there is no {request.method} {path:.200}")
    return _bug()


def _bug() -> ProblemError:
    detail = "this is a bug in the node; its log says more"
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "bug", detail)
