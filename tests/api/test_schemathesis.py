"""What schemathesis finds when it holds the server to its own OpenAPI document: nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import schemathesis
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder

from cairn.core.canonical import canonical, parse
from cairn.core.errors import EntryError
from tests.api.conftest import Serve

SETTINGS: Final[dict[str, Any]] = {
    "seed": 1,
    "generation": {"max-examples": 60, "database": "none"},
    "continue-on-failure": True,
    "operations": [
        {
            "include-path": ["/block", "/blocks", "/tile/{path}"],
            # What the document cannot say is checked in `judge`. POST /block: a number past 64
            # bits has no canonical form; a key that was used for another value gives 422. GET
            # /blocks: `since` and `until` are times or ages, which no pattern says exactly. POST
            # /blocks: not every string is lines of JSON. GET /tile: a number has but one form.
            "checks": {"positive_data_acceptance": {"enabled": False}},
        },
        {
            "include-path": ["/blocks"],
            "include-method": ["POST"],
            # Whatever a body is, it is text: what is meant to be no string is one all the same.
            "checks": {"negative_data_rejection": {"enabled": False}},
        },
    ],
}


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """Write text as it is, to be refused most times; and anything else as a line."""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def test_the_server_keeps_to_its_document(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    config = schemathesis.Config.from_dict(SETTINGS)
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config)
    endless = ["/events", "/live", "/validate/events"]  # which have tests of their own
    schema = document.exclude(path=endless)
    found: list[str] = []
    asked: Counter[str] = Counter()
    for event in from_schema(schema).execute():
        match event:
            case events.NonFatalError() | events.FatalError():
                found.append(str(event))
            case events.ScenarioFinished():
                found += failures(event.recorder)
                asked.update(judge(event.recorder))
                assert event.status is not Status.ERROR
    assert not found, "\n".join(found[:5])
    for operation in ("POST /block 201", "POST /block 400", "POST /blocks 201", "GET / 200",
                      "GET /blocks 200", "GET /blocks 400", "GET /blocks/{reference} 404",
                      "GET /blocks/{reference}/data 200",
                      "GET /blocks/{reference}/receipt 200", "GET /blocks/{reference}/receipt 404",
                      "GET /checkpoint 200", "GET /checkpoint 404",
                      "GET /tile/{path} 200", "GET /tile/{path} 400"):  # fmt: skip
        assert asked[operation] > 0, f"{operation} is not among {asked}"
    with server.client() as client:
        assert client.get("/validate").json()["valid"]


def failures(recorder: ScenarioRecorder) -> list[str]:
    """Return what the checks found, each with what was sent."""
    return [
        f"{check.name}: {check.failure_info.failure}\n{check.failure_info.code_sample}"
        for checks in recorder.checks.values()
        for check in checks
        if check.failure_info is not None
    ]


def judge(recorder: ScenarioRecorder) -> list[str]:
    """Check answers that the document leaves open; return `METHOD path status` of all."""
    asked = []
    for key, interaction in recorder.interactions.items():
        case, answer = recorder.cases[key].value, interaction.response
        if answer is None:
            continue
        asked.append(f"{interaction.request.method} {case.operation.path} {answer.status_code}")
        if asked[-1].startswith("POST /block ") and answer.status_code in (201, 400):
            refused = answer.status_code == 400
            problem = json.loads(answer.content)
            if not refused or problem["type"].endswith("bad-entry"):
                assert refused == (not acceptable(interaction.request.body or b"")), problem
        if asked[-1] == "GET /blocks 400" and is_positive(case):
            detail = json.loads(answer.content)["detail"]
            assert detail.startswith(("since: ", "until: ")), detail
        if asked[-1] == "GET /tile/{path} 400" and is_positive(case):
            assert "is not the path of a tile" in json.loads(answer.content)["detail"]
    return asked


def is_positive(case: schemathesis.Case[Any]) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


def acceptable(body: bytes) -> bool:
    try:
        canonical(parse(body))
    except EntryError:
        return False
    return True
