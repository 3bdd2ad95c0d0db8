"""The route /peer of a real server, where other nodes open links to it."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.api.servers import PATIENCE, ROOT, Answer, Server, resident_bytes
from tests.net.sockets import PING, Peer, frame, upgrade

PROMPT_SECONDS = 0.5
"""What no one who asks for something else waits, whatever peers do: far more than it takes."""


@contextmanager
def linked(directory: Path, *options: str, **bounds: float) -> Iterator[Server]:
    """Run a node that has links, and echoes what its peers send."""
    log = directory / "server.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.net.sockets", json.dumps(bounds)),
                *("serve", "--ledger", str(directory / "ledger"), "--port", "0", *options),
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    select.select([process.stdout], [], [], PATIENCE)
    greeting = process.stdout.readline()
    assert greeting.startswith("Cairn on http://"), log.read_text()
    with Server(process, greeting, log) as server:
        yield server
    assert server.log() == ""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that tests share."""
    with linked(tmp_path_factory.mktemp("linked")) as server:
        yield server


def refusal(answer: Answer) -> str:
    """Return the name of a problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer
    value = json.loads(answer.body)
    assert value["status"] == answer.status
    return str(value["type"]).removeprefix("urn:cairn:problem:")


# Who gets a link


def test_peer_gets_a_link_on_the_port_of_the_api(node: Server) -> None:
    with Peer(node.port) as peer, node.client() as client:
        assert peer.status == 101
        assert peer.headers["sec-websocket-protocol"] == "cairn.1"
        peer.send(b"hello")
        assert peer.receive() == b"hello"
        assert client.get("/health").status_code == 200


def test_there_is_no_such_route_on_a_node_without_links(server: Server) -> None:
    for asked in (upgrade(), server.request("GET /peer")):
        answer = server.ask(asked)
        assert (answer.status, refusal(answer)) == (404, "not-found")


@pytest.mark.parametrize("origin", ["http://localhost", "https://example.org", "null", ""])
def test_web_pages_get_no_link(origin: str, node: Server) -> None:
    answer = node.ask(upgrade(f"Origin: {origin}"))
    assert (answer.status, refusal(answer)) == (403, "forbidden")
    own = f"http://{node.authority.decode()}"
    answer = node.ask(upgrade(f"Origin: {own}", f"Host: {own[7:]}", leave="Host"))
    assert (answer.status, refusal(answer)) == (403, "forbidden")


def test_one_of_two_origins_is_enough(node: Server) -> None:
    answer = node.ask(upgrade("Origin: http://localhost", "ORIGIN: http://localhost"))
    assert answer.status == 400


def test_who_asks_for_no_link_is_told_what_the_route_is_for(node: Server) -> None:
    answer = node.ask(node.request("GET /peer"))
    assert (answer.status, refusal(answer)) == (426, "upgrade-required")
    assert answer.headers["upgrade"] == "websocket"
    assert node.ask(node.request("POST /peer", body=b"1")).status == 405


@pytest.mark.parametrize(
    "path", ["/", "/head", "/peer/", "/peer/x", "/PEER", "/peer?x=1", "//peer"]
)
def test_no_other_path_is_upgraded(path: str, node: Server) -> None:
    assert node.ask(upgrade(line=f"GET {path} HTTP/1.1")).status in (200, 400, 404, 426)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (upgrade(leave="Sec-WebSocket-Key"), 400),
        (upgrade("Sec-WebSocket-Key: c2hvcnQ=", leave="Sec-WebSocket-Key"), 400),
        (upgrade("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 400),  # a second one
        (upgrade(leave="Sec-WebSocket-Version"), 400),
        (upgrade("Sec-WebSocket-Version: 8", leave="Sec-WebSocket-Version"), 400),
        (upgrade(leave="Sec-WebSocket-Protocol"), 400),
        (upgrade("Sec-WebSocket-Protocol: cairn.2", leave="Sec-WebSocket-Protocol"), 400),
        (upgrade("Content-Length: 1"), 400),
        (upgrade("Transfer-Encoding: chunked"), 400),
        (upgrade(line="POST /peer HTTP/1.1"), 400),
        (upgrade(leave="Upgrade"), 426),
        (upgrade("Upgrade: h2c", leave="Upgrade"), 426),
        (upgrade("X: " + "x" * 70_000), 431),
        (upgrade(*(f"X-{number}: y" for number in range(200))), 400),
    ],
)
def test_request_that_is_not_as_it_must_be_is_refused(
    asked: bytes, status: int, node: Server
) -> None:
    answer = node.ask(asked)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_request_in_pieces_is_one(node: Server) -> None:
    with node.wire() as wire:
        for byte in upgrade():
            wire.send(bytes([byte]))
        assert wire.answer(head=True).status == 101
        wire.send(frame(b"hello"))
        assert wire.stream.read(7) == frame(b"hello", masked=False)


def test_request_after_others_on_a_connection(node: Server) -> None:
    with node.wire() as wire:
        for _ in range(3):
            wire.send(node.request("GET /health"))
            assert wire.answer().status == 200
        wire.send(upgrade(), frame(b"hello"))
        assert wire.answer(head=True).status == 101
        assert wire.stream.read(7) == frame(b"hello", masked=False)
    with node.wire() as wire:  # but not while another is being answered
        wire.send(node.request("GET /head"), upgrade())
        assert wire.answer().status == 200
        assert wire.answer().status in (101, 426)


def test_peers_need_no_token_and_may_call_the_node_by_any_name(tmp_path: Path) -> None:
    """They prove who they are by their keys, and find the node by names that others gave."""
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-32-characters-or-more\n")
    tokens.chmod(0o600)
    with linked(tmp_path, "--token-file", str(tokens)) as node:
        assert node.ask(node.request("GET /head")).status == 401
        with node.wire() as wire:
            wire.send(upgrade("Host: some.node.example:5000", leave="Host"))
            assert wire.answer(head=True).status == 101


# What it costs


def test_oversized_frames_take_no_memory(node: Server) -> None:
    before = resident_bytes(node)
    for announced in (2**21, 2**30, 2**40, 2**63, 2**64 - 1):
        for _ in range(20):
            with Peer(node.port, ready=True) as peer:
                peer.send(b"", announced=announced)
                with suppress(ConnectionError):  # it may be gone
                    peer.socket.sendall(bytes(2**18))
                with suppress(ConnectionError):
                    assert peer.closed()[0] == 1009
    assert resident_bytes(node) - before < 16 * 2**20


def test_peers_that_flood_hold_up_nobody(node: Server) -> None:
    """Pings, small frames and halves of large ones, from many peers at once."""
    over = threading.Event()
    floods = [frame(b"", opcode=PING) * 500, frame(b"x") * 500, frame(bytes(2**19))]

    def flood(data: bytes) -> None:
        while not over.is_set():
            with suppress(OSError, AssertionError), Peer(node.port, ready=True) as peer:
                peer.socket.settimeout(0.2)
                while not over.is_set():
                    peer.socket.sendall(data)

    before = resident_bytes(node)
    threads = [threading.Thread(target=flood, args=[data]) for data in floods]
    for thread in threads:
        thread.start()
    took = []
    with node.client() as client:
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            began = time.perf_counter()
            assert client.get("/health").status_code == 200
            took.append(time.perf_counter() - began)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    took.sort()
    assert took[len(took) * 95 // 100] < PROMPT_SECONDS
    assert resident_bytes(node) - before < 64 * 2**20


def test_upgrade_that_never_completes_is_ended(tmp_path: Path) -> None:
    with linked(tmp_path, header_seconds=1.0) as node, node.wire() as wire:
        wire.send(upgrade()[:-2])
        assert wire.answer().status == 408
        assert wire.rest() == b""


# The end


def test_a_stop_closes_links_and_waits_for_no_slow_one(tmp_path: Path) -> None:
    with linked(tmp_path) as node, ExitStack() as stack:
        polite = stack.enter_context(Peer(node.port, ready=True))
        slow = stack.enter_context(Peer(node.port, ready=True, receive_bytes=4096))
        slow.send(b"send 1000000 20")
        silent = stack.enter_context(Peer(node.port))
        silent.socket.sendall(frame(bytes(500))[:100])
        polite.send(b"hello")
        assert polite.receive() == b"hello"
        began = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        assert polite.closed() == (1001, "the node stops")
        assert node.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 4.0


def test_links_are_not_among_the_connections_that_make_room(node: Server) -> None:
    """They have a bound of their own."""
    with Peer(node.port) as peer, node.client() as client:
        shown = client.get("/metrics").text
        assert "cairn_connections 1.0" in shown
        with httpx.Client(base_url=node.url, trust_env=False) as another:
            assert "cairn_connections 2.0" in another.get("/metrics").text
        peer.send(b"hello")
        assert peer.receive() == b"hello"
