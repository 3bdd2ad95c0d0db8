"""Checkpoints, tiles, receipts and the page that checks them, over HTTP."""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from cairn import Ledger
from cairn.proof.checkpoint import Policy
from cairn.proof.note import VerifierKey
from cairn.proof.receipt import Receipt
from tests.api.answers import problem
from tests.api.conftest import Serve
from tests.api.servers import Server, length, metric
from tests.builders import chain
from tests.core.reference import leaf
from tests.interop import reference
from tests.interop.ledgers import text_of_checkpoint
from tests.page.reference import path as inclusion_path
from tests.store import sealed

BATCH = 101
"""Position of a block that holds several entries."""
SECONDS = 2.0
"""A checkpoint of the newest block comes within that: some 20 ms, on a machine that is not busy."""


@pytest.fixture(scope="module")
def node(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A node of 301 blocks, one of them a batch, in two files and the tail."""
    ledger = tmp_path_factory.mktemp("proofs") / "ledger"
    values = [*range(BATCH - 1), tuple(f"entry {n}" for n in range(7)), *range(BATCH + 1, 301)]
    sealed.build(ledger, chain(*values), 70, 150)
    return serve_all(ledger=ledger)


@pytest.fixture
def reader(node: Server) -> Iterator[httpx.Client]:
    with node.client() as client:
        yield client


def headers_of(client: httpx.Client) -> list[bytes]:
    """Return the headers of all blocks, as the pages of the chain show them."""
    found: list[bytes] = []
    place: str | None = "/"
    while place:
        page = client.get(place).json()
        found += [bytes.fromhex(block["header"]) for block in page["chain"]]
        place = page["next"]
    return found


def checkpoint(client: httpx.Client, covering: int) -> str:
    answer = client.get("/checkpoint", params={"covering": covering})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    return answer.text


def grow(client: httpx.Client, size: int) -> list[bytes]:
    """Let the ledger have so many blocks; return their headers when a checkpoint covers them."""
    if lines := [b"%d" % n for n in range(length(client), size)]:
        assert client.post("/blocks", content=b"\n".join(lines)).status_code == 201
    checkpoint(client, size)
    return headers_of(client)


def policy(client: httpx.Client) -> Policy:
    """Return the policy of who trusts the key that the node says is its own."""
    return Policy(tuple(map(VerifierKey.parse, client.get("/blocks/0/receipt").json()["keys"])))


# Tiles


def test_every_tile_of_a_growing_ledger_is_that_of_the_reference(reader: httpx.Client) -> None:
    ever: set[str] = set()
    for size in (301, 302, 511, 512, 513, 768, 800):
        headers = grow(reader, size)
        assert checkpoint(reader, size).startswith(text_of_checkpoint(headers) + "\n— cairn/")
        expected = reference.tiles(headers)
        ever |= set(expected)
        for path, data in expected.items():
            answer = reader.get(f"/{path}")
            assert (answer.status_code, answer.content) == (200, data), path
            assert answer.headers["content-type"] == "application/octet-stream"
    assert len([path for path in ever if ".p/" in path]) > 10


def test_partial_tile_of_every_width_is_the_beginning_of_the_full_one(
    reader: httpx.Client,
) -> None:
    """Also after there is a full one: who has an older checkpoint asks for them."""
    grow(reader, 520)
    for kind, unit in (("entries", 106), ("0", 32)):
        full = reader.get(f"/tile/{kind}/001").content
        assert len(full) == 256 * unit
        for width in range(1, 256):
            assert reader.get(f"/tile/{kind}/001.p/{width}").content == full[: width * unit]
    above = reader.get("/tile/1/000.p/2").content
    assert reader.get("/tile/1/000.p/1").content == above[:32]


def test_tile_past_the_checkpoint_is_not_there(reader: httpx.Client) -> None:
    size = len(grow(reader, 301))
    full, rest = divmod(size, 256)
    past = [f"tile/{kind}/{full:03}" for kind in ("entries", "0")]
    past += [f"{tile}.p/{width}" for tile in past for width in range(rest + 1, 256)]
    past += ["tile/1/000", f"tile/1/000.p/{full + 1}", "tile/2/000.p/1", "tile/0/x001/000",
             "tile/7/000.p/1", "tile/0/x999/x999/x999/999"]  # fmt: skip
    for path in past:
        found = problem(reader.get(f"/{path}"), 404, "no-such-tile")
        assert path in found["detail"]


@pytest.mark.parametrize(
    "path",
    ["", "0", "0/", "0/0", "0/00", "0/0000", "0/000/", "0//000", "00/000", "-1/000", "x/000",
     "0/000.p/0", "0/000.p/00", "0/000.p/01", "0/000.p/256", "0/000.p/-1", "0/000.p/1/", "0/000.p",
     "0/x000/000", "0/001/000", "0/x001/x000/00", "entries", "ENTRIES/000", "0/000%00", "64/000",
     "0/..%2f..%2fcheckpoint", "0/000?x", "8/" + "x999/" * 12 + "999", "9" * 500, "%ff/000",
     "0/%D9%A3%D9%A3%D9%A3"],
)  # fmt: skip
def test_what_is_no_path_of_a_tile(node: Server, path: str) -> None:
    problem(node.ask(node.request(f"GET /tile/{path}")), 400, "bad-request")


def test_tiles_may_be_kept_for_good_by_who_may_read_and_by_nobody_else(
    reader: httpx.Client,
) -> None:
    """`public` would let a proxy give to everyone what somebody got with a token."""
    for path in ("tile/0/000", "tile/entries/000", "tile/1/000.p/1", "tile/0/001.p/3"):
        for answer in (reader.get(f"/{path}"), reader.head(f"/{path}")):
            assert answer.headers["cache-control"] == "max-age=31536000, immutable"
            assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/head", "/", "/blocks/0", "/blocks/0/receipt", "/tile/0/999"):
        assert reader.get(path).headers["cache-control"] == "no-store"


def test_head_has_the_headers_of_get_and_no_body(reader: httpx.Client) -> None:
    for path in ("/checkpoint", "/tile/0/000", "/tile/entries/000.p/9", "/blocks/1/receipt",
                 "/verify", "/tile/0/999", "/checkpoint?covering=999999"):  # fmt: skip
        head, get = reader.head(path), reader.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        for name in ("content-type", "content-length", "cache-control", "content-security-policy"):
            assert head.headers[name] == get.headers[name], (path, name)


# Checkpoints


def test_checkpoint_of_a_block_is_waited_for(reader: httpx.Client) -> None:
    for _ in range(20):
        index = reader.post("/block", content=b'"new"').json()["index"]
        began = time.monotonic()
        size = int(checkpoint(reader, index + 1).split("\n")[1])
        assert time.monotonic() - began < SECONDS
        assert size >= index + 1
        assert int(checkpoint(reader, 0).split("\n")[1]) >= size


def test_checkpoint_past_the_end_is_refused_at_once(reader: httpx.Client) -> None:
    began = time.monotonic()
    for covering in (length(reader) + 1, 10**9, 2**63 - 1):
        problem(reader.get("/checkpoint", params={"covering": covering}), 404, "no-such-block")
    for text in ("", "-1", "x", "1.0", str(2**63), "9" * 5000):
        problem(reader.get("/checkpoint", params={"covering": text}), 400, "bad-request")
    assert time.monotonic() - began < SECONDS


def test_checkpoint_is_signed_without_being_asked_for(reader: httpx.Client) -> None:
    reader.post("/block", content=b"1")
    size = length(reader)
    deadline = time.monotonic() + 5
    while int(checkpoint(reader, 1).split("\n")[1]) < size:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_checkpoints_in_the_metrics(reader: httpx.Client) -> None:
    before = metric(reader, "cairn_checkpoint_timestamp_seconds")
    size = len(grow(reader, length(reader) + 3))
    assert metric(reader, "cairn_checkpoint_blocks") == size == metric(reader, "cairn_blocks")
    assert before < metric(reader, "cairn_checkpoint_timestamp_seconds") <= time.time()
    assert metric(reader, "cairn_checkpoint_cosignatures") == 0
    tiles = {"method": "GET", "path": "/tile/{path}", "status": "200"}
    asked = metric(reader, "cairn_http_requests_total", **tiles)
    reader.get("/tile/0/000")
    reader.get("/tile/0/000.p/7")
    assert metric(reader, "cairn_http_requests_total", **tiles) == asked + 2


# Receipts


def test_receipt_of_the_newest_block_at_once(reader: httpx.Client) -> None:
    trusted = policy(reader)
    for number in range(20):
        block = reader.post("/block", content=b'{"n": %d}' % number).json()
        began = time.monotonic()
        answer = reader.get(f"/blocks/{block['hash']}/receipt")
        assert time.monotonic() - began < SECONDS
        assert answer.headers["content-type"] == "application/json"
        proved = Receipt.parse(answer.content).check(trusted)
        assert proved.entry.value == {"n": number}
        assert proved.header.hash.hex() == block["hash"]


def test_receipt_by_index_or_hash_is_that_of_the_reference(reader: httpx.Client) -> None:
    trusted = policy(reader)
    headers = grow(reader, 301)
    leaves = [leaf(header) for header in headers]
    for index in (0, 1, 69, 70, 219, 220, 255, 256, 300):
        block = reader.get(f"/blocks/{index}").json()
        for reference_ in (index, block["hash"]):
            found = reader.get(f"/blocks/{reference_}/receipt").json()
            assert found["cairn"] == "receipt/1"
            assert (found["index"], found["entry"]) == (index, 0)
            assert (found["header"], found["salt"]) == (block["header"], block["salt"])
            proof = [bytes.fromhex(sibling) for sibling in found["block_proof"]]
            assert proof == inclusion_path(index, leaves)
            assert found["checkpoint"].startswith(text_of_checkpoint(headers))
            proved = Receipt.parse(reader.get(f"/blocks/{reference_}/receipt").content)
            assert proved.check(trusted).entry.value == block["data"]


def test_every_entry_of_a_batch_has_a_receipt(reader: httpx.Client) -> None:
    trusted = policy(reader)
    block = reader.get(f"/blocks/{BATCH}").json()
    assert (block["kind"], block["count"]) == ("batch", 7)
    for place in range(7):
        answer = reader.get(f"/blocks/{BATCH}/receipt", params={"entry": place})
        receipt = Receipt.parse(answer.content)
        assert receipt.place == place
        assert receipt.check(trusted).entry.value == f"entry {place}"
    assert reader.get(f"/blocks/{BATCH}/receipt").json()["entry"] == 0


def test_entry_that_a_block_has_not(reader: httpx.Client) -> None:
    for place, index in ((1, 0), (1, 1), (7, BATCH), (2**63 - 1, BATCH)):
        answer = reader.get(f"/blocks/{index}/receipt", params={"entry": place})
        assert (
            f"no entry {place} in block {index}" in problem(answer, 404, "no-such-block")["detail"]
        )
    for text in ("", "-1", "x", str(2**63)):
        answer = reader.get(f"/blocks/{BATCH}/receipt", params={"entry": text})
        assert "entry" in problem(answer, 400, "bad-request")["detail"]
    problem(reader.get(f"/blocks/{length(reader)}/receipt"), 404, "no-such-block")
    problem(reader.get(f"/blocks/{'0' * 64}/receipt"), 404, "no-such-block")
    problem(reader.get("/blocks/x/receipt"), 400, "bad-request")


def test_many_receipts_while_the_ledger_grows(node: Server, reader: httpx.Client) -> None:
    """Each is under one checkpoint, whatever is signed meanwhile."""
    trusted = policy(reader)

    def ask(number: int) -> None:
        with node.client() as client:
            for _ in range(10):
                index = client.post("/block", content=b"%d" % number).json()["index"]
                receipt = Receipt.parse(client.get(f"/blocks/{index}/receipt").content)
                assert receipt.check(trusted).entry.value == number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_receipt_outlives_20000_appends_and_the_node(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    with server.client() as client:
        index = client.post("/block", content=b'{"paid": 100}').json()["index"]
        text = client.get(f"/blocks/{index}/receipt").text
        trusted = policy(client)
        for _ in range(4):
            answer = client.post("/blocks", content=b"\n".join([b"1"] * 5000))
            assert answer.status_code == 201
        newest = client.get("/blocks/20001/receipt").text
        again = client.get(f"/blocks/{index}/receipt").text
    assert server.stop() == 0
    assert Receipt.parse(text).check(trusted).entry.value == {"paid": 100}
    assert Receipt.parse(again).check(trusted).signed.checkpoint.size == 20_002
    assert Receipt.parse(newest).check(trusted).header.index == 20_001
    with Ledger.open(tmp_path / "ledger", read_only=True) as ledger:
        assert ledger.checkpoint().checkpoint.size == 20_002


# The page


class Sources(HTMLParser):
    """What a page runs, styles and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.attributes: list[tuple[str, str | None]] = []
        self._open: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag if tag in self.inline else None
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inline[self._open].append(data)


def test_page_that_verifies_may_run_its_script_and_nothing_else(reader: httpx.Client) -> None:
    answer = reader.get("/verify")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.content == files("cairn.proof").joinpath("verify.html").read_bytes()
    sources = Sources(answer.text)
    policies = answer.headers["content-security-policy"].split(";")
    allowed: dict[str, Any] = dict(part.strip().split(" ", 1) for part in policies)
    for kind, [text] in sources.inline.items():
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert allowed.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert allowed == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    for name, value in sources.attributes:
        assert not name.startswith("on"), f"a handler that the policy does not let run: {name}"
        assert name not in ("src", "href", "style") or str(value).startswith("#"), (name, value)


def test_page_needs_no_node(reader: httpx.Client) -> None:
    """Nothing of the ledger is in it, so it needs no more of the node than any other."""
    page = reader.get("/verify").text
    key = reader.get("/blocks/0/receipt").json()["keys"][0]
    assert key not in page
    assert reader.get("/blocks/0").json()["hash"] not in page
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon", page)
