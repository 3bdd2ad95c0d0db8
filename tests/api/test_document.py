"""The OpenAPI document, its page, and the metrics: what programs read about the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
import schemathesis
from prometheus_client.parser import text_string_to_metric_families

from cairn.api.html import CSP
from cairn.api.routes import operations
from tests.api.conftest import Serve
from tests.api.servers import Server, example, genesis_entry, length, metric


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    value = answer.json()
    assert isinstance(value, dict)
    return value


def nodes(value: object) -> Iterator[Any]:
    """Yield every object and array in a JSON value."""
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from nodes(item)


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(document).validate()
    broken = {**document, "info": {}}
    with pytest.raises(Exception, match="title"):
        schemathesis.openapi.from_dict(broken).validate()


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = [n["$ref"] for n in nodes(document) if isinstance(n, dict) and "$ref" in n]
    assert len(references) > 10
    for reference in references:
        at: Any = document
        assert reference.startswith("#/")
        for step in reference[2:].split("/"):
            at = at[step]
        assert at


def test_operation_ids_and_parameters_are_unique(document: dict[str, Any]) -> None:
    shown = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in shown]
    assert len(ids) == len(set(ids))
    for operation in shown:
        named = [(p["name"], p["in"]) for p in operation["parameters"]]
        assert len(named) == len(set(named))
        assert operation["summary"].endswith(".")
    for path, methods in document["paths"].items():
        for operation in methods.values():
            in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}


@pytest.mark.parametrize("lab", [False, True])
def test_what_is_served_is_what_is_shown(serve: Serve, lab: bool) -> None:
    """Every operation of the document is served, and nothing else is, whatever the method."""
    methods = ("get", "post", "put", "patch", "delete", "options")
    with serve(*(["--lab"] if lab else [])).client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        entry = genesis_entry(client)
        assert ("/tamper" in paths) == lab
        assert set(paths) == {operation.path for operation in operations(lab=lab)}
        for path in {*paths, "/tamper", "/docs/", "/metrics/x", "/redoc"}:
            for method in methods:
                with client.stream(method, example(path, entry)) as answer:
                    served = answer.status_code not in (404, 405)
                assert served == (method in paths.get(path, {})), (method, path)


def test_answers_are_as_their_schemas_say(client: httpx.Client, document: dict[str, Any]) -> None:
    import jsonschema_rs

    def schema(path: str, method: str, status: int, media: str) -> Any:
        content = document["paths"][path][method]["responses"][str(status)]["content"]
        return {**content[media]["schema"], "components": document["components"]}

    def check(path: str, answer: httpx.Response, status: int) -> None:
        assert answer.status_code == status
        method, media = answer.request.method.lower(), answer.headers["content-type"]
        validator = jsonschema_rs.Draft202012Validator(schema(path, method, status, media))
        validator.validate(answer.json())
        if media == "application/json" and isinstance(answer.json(), dict):
            assert not validator.is_valid({**answer.json(), "more": 1}), "the schema says nothing"

    check("/block", client.post("/block", content=b"1"), 201)
    check("/block", client.post("/block", content=b"NaN"), 400)
    check("/blocks", client.post("/blocks", content=b"1"), 201)
    check("/blocks", client.post("/blocks", content=b"1\nNaN"), 400)
    check("/", client.get("/", params={"limit": 3}), 200)
    check("/", client.get("/", params={"start": 10**9}), 404)
    check("/blocks", client.get("/blocks", params={"limit": 3}), 200)
    check("/blocks/{reference}", client.get("/blocks/0"), 200)
    check("/blocks/{reference}", client.get("/blocks/x"), 400)
    check("/blocks/{reference}/receipt", client.get("/blocks/1/receipt"), 200)
    check("/blocks/{reference}/receipt", client.get("/blocks/1/receipt?entry=1"), 404)
    check("/checkpoint", client.get(f"/checkpoint?covering={10**9}"), 404)
    check("/tile/{path}", client.get("/tile/0/999"), 404)
    check("/head", client.get("/head"), 200)
    check("/validate", client.get("/validate"), 200)
    check("/health", client.get("/health"), 200)


def test_the_document_says_every_media_type(client: httpx.Client, document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        if "get" in methods:
            answer = client.head(example(path, genesis_entry(client)))
            said = methods["get"]["responses"][str(answer.status_code)]["content"]
            media = answer.headers.get("content-type", "").partition(";")[0]
            assert media in said if said else not media, path


class Page(HTMLParser):
    """Everything on a page that could make a browser ask for something or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("href", "src"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_asks_for_nothing_elsewhere_and_runs_nothing(client: httpx.Client) -> None:
    answer = client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    page = Page(answer.text)
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "base", "style"}
    assert not [name for name in page.attributes if name == "style" or name.startswith("on")]
    assert "//" not in answer.text.replace("<!doctype", "")
    for link in page.links:
        assert link.startswith("/") or link[1:] in page.ids, link
    assert len(page.ids) == len(set(page.ids))
    assert answer.headers["content-security-policy"] == CSP


def test_the_page_shows_every_operation_and_schema(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    page = Page(client.get("/docs").text)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in page.text
            assert operation["summary"] in page.text
            for parameter in operation["parameters"]:
                assert parameter["description"] in page.text
    for name, schema in document["components"]["schemas"].items():
        assert f"schema-{name}" in page.ids
        assert json.dumps(schema, indent=2) in page.text


def test_metrics_are_prometheus_text_and_move(server: Server, client: httpx.Client) -> None:
    def value(name: str, **labels: str) -> float:
        return metric(client, name, **labels)

    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["cairn_http_requests"].type == "counter"
    assert families["cairn_commit_seconds"].type == "histogram"
    assert all(family.documentation for family in families.values())

    posted = {"method": "POST", "path": "/block", "status": "201"}
    refused = {"method": "POST", "path": "/block", "status": "400"}
    read = {"method": "GET", "path": "/blocks/{reference}", "status": "404"}
    other = {"method": "other", "path": "other", "status": "404"}
    before = {
        "posted": value("cairn_http_requests_total", **posted),
        "refused": value("cairn_http_requests_total", **refused),
        "read": value("cairn_http_requests_total", **read),
        "other": value("cairn_http_requests_total", **other),
        "commits": value("cairn_commit_seconds_count"),
        "blocks in commits": value("cairn_commit_blocks_sum"),
        "not recorded": value("cairn_appends_not_recorded_total", error="KeyReusedError"),
        "timed": value("cairn_http_request_seconds_count", path="/block"),
        "blocks": value("cairn_blocks"),
    }
    assert before["blocks"] == length(client)
    for _ in range(3):
        client.post("/block", content=b"1")
    client.post("/blocks", content=b"1\n2\n3\n4")
    client.post("/block", content=b"{")
    client.get("/blocks/999999999")
    client.get("/nothing/here")
    key = {"idempotency-key": f"metrics-{before['commits']}"}
    client.post("/block", content=b"1", headers=key)
    client.post("/block", content=b"2", headers=key)
    after = {
        "posted": value("cairn_http_requests_total", **posted),
        "refused": value("cairn_http_requests_total", **refused),
        "read": value("cairn_http_requests_total", **read),
        "other": value("cairn_http_requests_total", **other),
        "commits": value("cairn_commit_seconds_count"),
        "blocks in commits": value("cairn_commit_blocks_sum"),
        "not recorded": value("cairn_appends_not_recorded_total", error="KeyReusedError"),
        "timed": value("cairn_http_request_seconds_count", path="/block"),
        "blocks": value("cairn_blocks"),
    }
    assert {name: after[name] - before[name] for name in after} == {
        "posted": 4,
        "refused": 1,
        "read": 1,
        "other": 1,
        "commits": 6,  # the last of which recorded nothing
        "blocks in commits": 8,
        "not recorded": 1,
        "timed": 6,
        "blocks": 8,
    }
    assert client.get("/validate").json()["valid"]
    assert value("cairn_valid") == 1
    assert value("cairn_validated_blocks") == value("cairn_blocks")
    assert value("cairn_connections") >= 1


def test_unknown_paths_and_methods_make_no_new_series(server: Server, client: httpx.Client) -> None:
    """Else whoever can reach the node could fill its memory, and Prometheus' too."""

    def series() -> int:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return sum(len(f.samples) for f in families if f.name.startswith("cairn_http"))

    def round_(number: int) -> None:
        client.get(f"/unknown/{number}")
        client.get(f"/blocks/{10**9 + number}")
        for method in ("MKCOL", "PURGE"):
            server.ask(server.request(f"{method} /head?{number}"))

    round_(0)
    series()
    before = series()
    for number in range(1, 20):
        round_(number)
    assert series() == before
