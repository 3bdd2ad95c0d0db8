"""Each flaw of the teaching example's REST API, shown to be gone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from cairn import Ledger
from cairn.api.routes import operations
from tests.api.answers import problem
from tests.api.conftest import Serve
from tests.api.servers import Server, example, length


def test_bad_json_is_no_500(client: httpx.Client) -> None:
    for body in (b"", b"{", b"hello", b"a=b", b'{"a": 1, "a": 2}', b"\xff", b"[" * 100_000):
        for path in ("/block", "/blocks"):
            problem(client.post(path, content=body), 400, "bad-entry")


def test_nan_posted_does_not_break_later_reads(serve: Serve) -> None:
    with serve().client() as client:
        for text in (b"NaN", b'{"reading": NaN}', b"[Infinity]", b"-1e999"):
            problem(client.post("/block", content=text), 400, "bad-entry")
        assert client.post("/block", content=b"1").status_code == 201
        assert [block["data"] for block in client.get("/").json()["chain"]][1:] == [1]
        assert client.get("/validate").json()["valid"]


def test_deep_nesting_posted_does_not_break_later_reads(client: httpx.Client) -> None:
    before = length(client)
    deep = b"[" * 100_000 + b"]" * 100_000
    problem(client.post("/block", content=deep), 400, "bad-entry")
    deepest = b"[" * 128 + b"]" * 128
    assert client.post("/block", content=deepest).status_code == 201
    [block] = client.get("/", params={"start": before}).json()["chain"]
    assert json.dumps(block["data"]).encode() == deepest
    assert client.get(f"/blocks/{before}/data").content == deepest


def test_a_body_is_bounded(client: httpx.Client) -> None:
    before = length(client)
    for content in (b" " * (32 * 2**20) + b"1", (b" " * 2**20 for _ in range(33))):
        problem(client.post("/block", content=content), 413, "too-large")
    assert length(client) == before


def test_a_response_is_bounded(serve: Serve, tmp_path: Path) -> None:
    """However many blocks there are, and however long."""
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(range(3000))
        ledger.extend("x" * 2**20 for _ in range(20))
    with serve().client() as client:
        for path, name in (("/", "chain"), ("/blocks", "blocks")):
            pages, following = [], path
            while following:
                answer = client.get(following)
                assert len(answer.content) < 12 * 2**20
                assert len(answer.json()[name]) <= 1000
                pages.append(answer.json()[name])
                following = answer.json()["next"]
                assert len(pages) < 100
            assert [b["index"] for page in pages for b in page] == list(range(3021))


def test_genesis_is_the_same_at_every_start_of_a_server(serve: Serve) -> None:
    seen = set()
    for _ in range(2):
        with serve() as server, server.client() as client:
            seen.add(client.get("/blocks/0").content)
            assert client.get("/blocks/0").json()["hash"] in server.greeting
    assert len(seen) == 1


def test_races_over_http_give_no_duplicate_index(serve: Serve) -> None:
    with serve().client(limits=httpx.Limits(max_connections=16)) as client:

        def post(number: int) -> list[int]:
            if number % 20 == 1:  # a page is of one moment
                page = client.get("/").json()
                indexes = [block["index"] for block in page["chain"]]
                assert indexes == list(range(page["length"]))
            if number % 10:
                return [client.post("/block", content=b"%d" % number).json()["index"]]
            recorded = client.post("/blocks", content=b"0\n0\n0").json()
            return list(range(recorded["first"], recorded["last"] + 1))

        with ThreadPoolExecutor(16) as pool:
            indexes = [index for some in pool.map(post, range(300)) for index in some]
        assert sorted(indexes) == list(range(1, 361))
        assert length(client) == 361
        assert client.get("/validate").json()["valid"]


def test_a_retry_over_http_writes_once(client: httpx.Client) -> None:
    before = length(client)
    headers = {"idempotency-key": "a6d1"}
    answers = {client.post("/block", content=b'"pay"', headers=headers).content for _ in "123"}
    assert len(answers) == 1
    assert length(client) == before + 1


def test_no_get_changes_state_outside_the_lab(serve: Serve, tmp_path: Path) -> None:
    """Nothing that a link, an image or a crawler asks for; there is no /tamper."""
    server = serve()
    with server.client() as client:
        client.post("/blocks", content=b"1\n2")
        before = client.get("/").content
        for path in {operation.path for operation in operations(lab=True)}:
            for method in ("GET", "HEAD"):
                with client.stream(method, example(path)) as answer:
                    assert answer.status_code in (200, 303, 404, 405)
        problem(client.get("/tamper"), 404, "not-found")
        problem(client.post("/tamper"), 404, "not-found")
        assert client.get("/").content == before
    server.stop()
    with Ledger.open(tmp_path / "ledger", read_only=True) as ledger:
        assert [block.data for block in ledger][1:] == [1, 2]
        assert ledger.validate().valid


def test_the_lab_tampers_with_a_copy_only(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(["one", "two"])
        head = ledger.head.hash
    server = serve("--lab")
    with server.client() as client:
        assert client.get("/validate").json()["valid"]
        tampered = client.get("/tamper").json()
        assert tampered["data"] not in ("one", "two")
        assert client.get(f"/blocks/{tampered['index']}").json() == tampered
        report = client.get("/validate").json()
        assert (report["valid"], report["failed_block"]) == (False, tampered["index"])
        assert report["failure"]["rule"] in ("size", "data_root", "kind")
        assert client.post("/block", content=b'"only in the copy"').status_code == 201
    server.stop()
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.head.hash == head
        assert ledger.validate().valid


def test_no_other_web_page_can_write(server: Server, client: httpx.Client) -> None:
    """Neither by a form or script of its own, nor by a name that it has made lead here."""
    before = length(client)
    foreign = "http://evil.example"
    rebound = {"host": "evil.example", "origin": foreign, "sec-fetch-site": "same-origin"}
    form = {"origin": foreign, "content-type": "text/plain", "sec-fetch-mode": "navigate"}
    for path in ("/block", "/blocks"):
        problem(client.post(path, content=b"1", headers={"origin": foreign}), 403, "forbidden")
        problem(client.post(path, content=b"1", headers={"origin": "null"}), 403, "forbidden")
        problem(client.post(path, content=b"1", headers=form), 403, "forbidden")
        problem(client.post(path, content=b"1", headers=rebound), 421, "wrong-host")
        cross = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
        problem(client.post(path, content=b"1", headers=cross), 403, "forbidden")
    assert length(client) == before


def test_no_other_web_page_can_read(client: httpx.Client) -> None:
    """No answer may be read across origins, or be framed, or be taken for a script."""
    for path in ("/", "/head", "/nope"):
        headers = client.get(path).headers
        assert "access-control-allow-origin" not in headers
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("crash", [False, True])
def test_everything_survives_a_restart_of_the_server(serve: Serve, crash: bool) -> None:
    """Also a crash, from the moment that an append was answered."""
    server = serve()
    with server.client() as client:
        for number in range(20):
            assert client.post("/block", content=b"%d" % number).status_code == 201
        client.post("/blocks", content=b"1\n2\n3")
        before = client.get("/").content
    if crash:
        server.kill()
    else:
        assert server.stop() == 0
    with serve().client() as client:
        assert client.get("/").content == before
        assert client.get("/validate").json()["valid"]
        assert client.post("/block", content=b"4").json()["index"] == 24
