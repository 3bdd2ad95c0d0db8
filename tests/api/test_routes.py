"""Every route: what it takes, what it gives, and the headers of its answers."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from cairn import Client, Ledger
from cairn.api.routes import operations
from cairn.core.block import VIEW_KEYS
from cairn.core.entry import SALT_BYTES
from cairn.lab.tampering import forging
from tests.api.answers import guarded, problem
from tests.api.servers import UNKNOWN, Server, example, genesis_entry, length, start, success

ROUTES = [(o.method, example(o.path)) for o in operations(lab=False)]
GETS = [path for method, path in ROUTES if method == "GET"]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def test_a_posted_value_is_a_new_block(client: httpx.Client) -> None:
    before = client.get("/head").json()
    answer = client.post("/block", content=b'"example data"')
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    block = answer.json()
    assert tuple(block) == VIEW_KEYS
    assert block["index"] == before["index"] + 1
    assert block["previous_hash"] == before["hash"]
    assert block["timestamp"] >= before["timestamp"]
    assert (block["data"], block["kind"], block["count"]) == ("example data", "value", 1)
    assert answer.headers["location"] == f"/blocks/{block['index']}"
    for path in (answer.headers["location"], f"/blocks/{block['hash']}", "/head"):
        again = client.get(path)
        assert again.status_code == 200
        assert again.headers["content-type"] == "application/json"
        assert again.content == answer.content


def test_the_content_type_of_a_value_does_not_matter(client: httpx.Client) -> None:
    """As with `curl -d`, which says that it sends a form."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/json", "x", ""):
        answer = client.post("/block", content=b'{"a": 1}', headers={"content-type": kind})
        assert answer.status_code == 201
        assert answer.json()["data"] == {"a": 1}


def test_lines_are_recorded_a_block_each(client: httpx.Client) -> None:
    before = length(client)
    answer = client.post("/blocks", content=b'\n1\r\n  \n{"b":\t2, "a": 1}\n\n"three"')
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    recorded = answer.json()
    assert list(recorded) == ["count", "first", "last", "hash"]
    assert (recorded["count"], recorded["first"], recorded["last"]) == (3, before, before + 2)
    assert answer.headers["location"] == f"/blocks/{before}"
    page = client.get("/", params={"start": before}).json()
    assert [block["data"] for block in page["chain"]] == [1, {"a": 1, "b": 2}, "three"]
    assert {block["kind"] for block in page["chain"]} == {"value"}
    assert page["chain"][-1]["hash"] == recorded["hash"] == client.get("/head").json()["hash"]


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [
        (b' { "b" : 1.0 , "a" : [ ] } ', b'{"a":[],"b":1}'),
        (b"1e2", b"100"),
        (b"-0.0", b"0"),
        (b'"\\u0041\\/\\u00e9"', '"A/é"'.encode()),
        (b'{"\\ufb33": 1, "\\ud83d\\ude00": 2}', '{"😀":2,"\ufb33":1}'.encode()),
        (b"18446744073709551615", b"18446744073709551615"),
        (b'"\\u000a\\u0000"', b'"\\n\\u0000"'),
    ],
)
def test_the_data_of_a_block_are_its_canonical_bytes(
    client: httpx.Client, sent: bytes, canonical: bytes
) -> None:
    block = client.post("/block", content=sent).json()
    for reference in (block["index"], block["hash"]):
        data = client.get(f"/blocks/{reference}/data")
        assert data.status_code == 200
        assert data.headers["content-type"] == "application/json"
        assert data.content == canonical
    assert block["size"] == 16 + len(canonical)
    assert (
        sha256(b"\0" + bytes.fromhex(block["salt"]) + canonical).hexdigest() == (block["data_root"])
    )


def test_genesis_is_block_0(client: httpx.Client) -> None:
    genesis = client.get("/blocks/0").json()
    assert (genesis["kind"], genesis["previous_hash"]) == ("record", "0" * 64)
    assert genesis["data"]["format"] == 1
    assert client.get("/blocks/00").json() == genesis
    assert json.loads(client.get("/blocks/0/data").content) == genesis["data"]


@pytest.mark.parametrize("tail", ["", "/data"])
@pytest.mark.parametrize(
    ("reference", "status"),
    [
        ("9" * 18, 404),
        ("9223372036854775807", 404),
        ("9223372036854775808", 404),
        ("9999999999999999999", 404),
        ("10000000000000000000", 400),
        ("1" + "0" * 30, 400),
        ("0" * 64, 404),
        ("f" * 64, 404),
        ("F" * 64, 400),
        ("f" * 63, 400),
        ("f" * 65, 400),
        ("-1", 400),
        ("+1", 400),
        ("1.0", 400),
        ("0x1", 400),
        ("1_0", 400),
        ("%D9%A3", 400),  # the digit three in Arabic
        ("%C2%B2", 400),  # a superscript two
        ("%20", 400),
        ("0%0A", 400),
        ("0%00", 400),
        ("%ff", 400),
        ("head", 400),
        ("..", 400),
    ],
)
def test_no_such_block(server: Server, reference: str, status: int, tail: str) -> None:
    answer = server.ask(server.request(f"GET /blocks/{reference}{tail}"))
    problem(answer, status, "no-such-block" if status == 404 else "bad-request")


def test_the_chain_says_that_it_is_valid(client: httpx.Client) -> None:
    report = client.get("/validate")
    assert report.status_code == 200
    value = report.json()
    assert list(value) == ["valid", "execution_time", "blocks", "bytes"]
    assert value["valid"] is True
    assert value["blocks"] == length(client)
    assert 0 < value["execution_time"] < 60


def test_the_node_is_alive(client: httpx.Client) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", GETS)
def test_a_head_request_gets_the_headers_of_a_get(server: Server, path: str) -> None:
    with server.client() as client:
        path = path.replace(UNKNOWN, genesis_entry(client))
    with server.wire() as wire:
        wire.send(server.request(f"HEAD {path}"))
        head = wire.answer(head=True)
        wire.send(server.request("GET /health"))
        assert wire.answer().body == b'{"status": "ok"}', "a body came after the HEAD"
    assert head.status == success(path)
    guarded(head.headers, path)
    with server.client() as client, client.stream("GET", path) as get:
        assert head.headers.get("content-type") == get.headers.get("content-type")
        endless = ("/events", "/live", "/validate/events")
        if path not in (*endless, "/metrics", "/validate"):  # not the same twice
            assert head.headers.get("content-length") == get.headers.get("content-length")


@pytest.mark.parametrize("path", sorted({path for _, path in ROUTES}))
def test_another_method_is_refused_with_those_that_are_allowed(server: Server, path: str) -> None:
    allowed = {method for method, of in ROUTES if of == path}
    if "GET" in allowed:
        allowed.add("HEAD")
    for method in set(METHODS) - allowed:
        answer = server.ask(server.request(f"{method} {path}"), head=method == "HEAD")
        if method == "HEAD":
            assert answer.status == 405
        else:
            problem(answer, 405, "bad-request")
        assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "path", ["/nope", "/block/", "/blocks/", "/blocks/0/", "/head/x", "/tamper"]
)
def test_an_unknown_path(server: Server, client: httpx.Client, path: str) -> None:
    before = length(client)
    for method in ("GET", "POST", "DELETE"):
        answer = server.ask(server.request(f"{method} {path}", body=b"1"))
        detail = problem(answer, 404, "not-found")["detail"]
        assert f"{method} {path}" in detail
    assert length(client) == before


@pytest.mark.parametrize("path", [*GETS, "/nope", "/blocks/x", "/?a=b"])
def test_every_answer_is_guarded(client: httpx.Client, path: str) -> None:
    with client.stream("GET", path) as answer:
        guarded(answer.headers, path)
        assert answer.headers["date"]


def test_every_answer_to_a_post_is_guarded(client: httpx.Client) -> None:
    for path in ("/block", "/blocks"):
        for body in (b"1", b"", b"{"):
            guarded(client.post(path, content=body).headers)


def test_answers_before_there_is_a_request_are_guarded_too(server: Server) -> None:
    problem(server.ask(b"nonsense\r\n\r\n"), 400, "bad-request")


def test_a_damaged_block_is_no_fleeting_trouble(tmp_path: Path) -> None:
    """`Retry-After` would be a lie."""
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(["one", "two", "three"])
    with forging(tmp_path / "ledger", cover_tracks=False) as blocks:
        blocks[1].entries[0] = blocks[1].entries[0][:SALT_BYTES] + b"not JSON"
    with start(tmp_path / "ledger") as server, server.client() as client:
        for path in ("/blocks/1", "/?start=1", "/blocks?cursor=1"):
            problem(client.get(path), 500, "damaged")
        for path, name in (("/", "chain"), ("/blocks", "blocks")):
            page = client.get(path).json()  # what is before it can be read
            assert [block["index"] for block in page[name]] == [0]
            problem(client.get(page["next"]), 500, "damaged")
        for path, name in (("/?start=2", "chain"), ("/blocks?cursor=2", "blocks")):
            page = client.get(path).json()
            assert [block["index"] for block in page[name]] == [2, 3]
            assert page["next"] is None
        assert client.get("/blocks/1/data").content == b"not JSON"
        assert client.get("/blocks/2").json()["data"] == "two"
        report = client.get("/validate").json()
        assert (report["valid"], report["failed_block"]) == (False, 1)
        assert report["failure"]["rule"] in ("size", "data_root")
        assert "Traceback" not in server.log()


def test_an_erased_block_has_its_id_and_no_data(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.append({"user": "alice"}, key="alice")
        ledger.append("kept")
        block = ledger[1]
        ledger.erase(1, reason="asked for")
    with start(tmp_path / "ledger") as server, server.client() as client:
        for reference in (1, block.hash):
            view = client.get(f"/blocks/{reference}").json()
            assert (view["data"], view["salt"]) == ({"erased": view["data_root"]}, None)
            assert view["hash"] == block.hash
            answer = client.get(f"/blocks/{reference}/data")
            assert problem(answer, 410, "erased")["detail"] == "the entry of block 1 was erased"
        assert client.get("/blocks/2/data").content == b'"kept"'
        assert client.get("/").json()["chain"][1] == view
        assert client.get("/blocks", params={"contains": "alice"}).json()["blocks"] == []
        report = client.get("/validate").json()
        assert (report["valid"], report["erased"]) == (True, 1)
        answer = client.post(
            "/block", content=b'{"user": "alice"}', headers={"Idempotency-Key": "alice"}
        )
        assert problem(answer, 422, "key-reused")["detail"].endswith("for a value that is erased")
        with Client(server.url) as node:
            assert node[1].erased
            assert node[1].data == view["data"]
            assert node.validate().erased == 1
        assert client.get("/blocks/3").json()["kind"] == "record"
