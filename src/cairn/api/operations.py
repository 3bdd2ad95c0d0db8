"""The operations of the service: what each takes and gives, in one place for code and document.

An `Operation` reads its parameters from a request by the same schema that the OpenAPI document
shows; so the two cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from cairn.api.html import HTML, prefers_html
from cairn.api.problems import bad_request
from cairn.api.schemas import SCHEMAS
from cairn.api.service import Service

Handler = Callable[..., Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the query, the path or a header; its schema is JSON Schema."""

    name: str
    place: str
    description: str
    schema: Mapping[str, Any]
    convert: Callable[[str], Any] = str
    """Makes the value of the text; raises ValueError for what the schema cannot say."""

    def read(self, text: str) -> Any:
        """Return the value.

        Raises:
            ProblemError: it is not as the schema says.
        """
        if self.schema["type"] == "integer":
            low, high = self.schema["minimum"], self.schema["maximum"]
            if not re.fullmatch(r"[0-9]{1,19}", text) or not low <= int(text) <= high:
                raise bad_request(
                    f"{self.name} is an integer from {low} to {high}, found {text!r:.80}"
                )
            return int(text)
        least, most = self.schema.get("minLength", 0), self.schema["maxLength"]
        pattern = self.schema.get("pattern", "")
        if not least <= len(text) <= most or not re.search(pattern, text):
            what = f"{least} to {most} characters" + (f" that match {pattern}" if pattern else "")
            raise bad_request(f"{self.name} has {what}, found {text!r:.80}")
        try:
            return self.convert(text)
        except ValueError as error:
            raise bad_request(f"{self.name}: {error}") from None

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI parameter object."""
        return {
            "name": self.name,
            "in": self.place,
            "description": self.description,
            "required": self.place == "path",
            "schema": dict(self.schema),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    handler: Handler
    """Its docstring is shown, too."""
    page: Handler | None = None
    """What one who prefers HTML gets in its place: a page of the same."""
    parameters: Sequence[Parameter] = ()
    body: Mapping[str, Any] = field(default_factory=dict)
    """OpenAPI media types by name."""
    answers: Mapping[int, tuple[str, Mapping[str, Any]]]
    """By status: what it means, and OpenAPI media types by name."""
    refusals: Mapping[int, str] = field(default_factory=dict)
    """By status: what was wrong. All are problem details."""

    async def answer(self, service: Service, request: Request) -> ASGIApp:
        """Return what answers a request to `service`.

        Raises:
            ProblemError, CairnError: as the handler does.
        """
        if self.page is None or not prefers_html(request.headers.get("accept", "")):
            return await self.handler(service, request, **self.read(request))
        return await self.page(service, request, **self.read(request, form=True))

    def read(self, request: Request, *, form: bool = False) -> dict[str, Any]:
        """Return the values of the parameters that the request gives, by their names in Python.

        A `form` sends what was left blank, too: that is not given.

        Raises:
            ProblemError: one is unknown, given twice, or not as the document says.
        """
        values: dict[str, Any] = {}
        known = {parameter.name: parameter for parameter in self.parameters}
        for name, text in self._given(request):
            if name not in known or name in values:
                what = "is given twice" if name in known else "is not known here"
                raise bad_request(f"the parameter {name!r:.80} {what}; known: {', '.join(known)}")
            if text or not form:
                values[name] = known[name].read(text)
        return {name.lower().replace("-", "_"): value for name, value in values.items()}

    def _given(self, request: Request) -> Iterator[tuple[str, str]]:
        """Yield the parameters that a request gives: all of the query, and those we know."""
        yield from request.path_params.items()
        if request.scope["query_string"]:
            yield from request.query_params.multi_items()
        for parameter in self.parameters:
            if parameter.place == "header":
                for text in request.headers.getlist(parameter.name):
                    yield parameter.name, text

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI operation object."""
        answers: dict[str, dict[str, Any]] = {
            str(status): {"description": description, "content": dict(content)}
            for status, (description, content) in self.answers.items()
        }
        if self.page is not None:
            answers["200"]["content"] |= {HTML: {"schema": {"type": "string"}}}
        problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        refusals = {
            str(status): {"description": description, "content": problem}
            for status, description in {**COMMON_REFUSALS, **self.refusals}.items()
        }
        summary, _, description = (self.handler.__doc__ or "").partition("\n")
        shown: dict[str, Any] = {
            "operationId": self.handler.__name__,
            "summary": summary,
            "description": " ".join(description.split()),
            "parameters": [parameter.document() for parameter in self.parameters],
            "responses": {**answers, **refusals},
        }
        if self.body:
            shown["requestBody"] = {"required": True, "content": dict(self.body)}
        return shown


COMMON_REFUSALS = {
    400: "The request is not as this document says.",
    401: "The node asks for a token: `Authorization: Bearer …`.",
    403: "The token may not do this, or the request comes from another web page.",
    421: "The node does not go by the name in `Host`.",
    503: "The disk failed, or the node is stopping or has no room: try again, with the same key.",
}


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of `operations`."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = operation.document()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cairn node",
            "version": version,
            "summary": "A tamper-evident ledger.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }
