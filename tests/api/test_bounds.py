"""What a client may take: time, memory, connections. Nobody can keep others out."""

from __future__ import annotations

import resource
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from cairn import Ledger
from tests.api.answers import problem
from tests.api.conftest import Serve
from tests.api.servers import PATIENCE, UNKNOWN, Server, Wire, length, metric, resident_bytes

QUICK = {
    "header_seconds": 0.3,
    "chunk_seconds": 0.3,
    "body_seconds": 0.7,
    "idle_seconds": 0.6,
    "stalled_seconds": 1.0,
    "body_bytes": 2**20,
    "body_lines": 5,
    "stop_seconds": 1,
}
MANY = 12 * 2**20
"""Bytes of entries in the ledger of `quick`, in blocks of 1 MiB: more than sockets buffer."""


@pytest.fixture(scope="module")
def quick(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Return a server with small bounds, and some large blocks to read."""
    path = tmp_path_factory.mktemp("quick") / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend("x" * 2**20 for _ in range(MANY // 2**20))
    return serve_all(ledger=path, bounds=QUICK)


@pytest.fixture(scope="module")
def patient(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Return a server that waits a minute for the next request, and not for half a one."""
    bounds = {"header_seconds": 0.3, "chunk_seconds": 0.3}
    return serve_all(ledger=tmp_path_factory.mktemp("patient") / "ledger", bounds=bounds)


@pytest.fixture(scope="module")
def crowded(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Return a server with enough blocks to search for some milliseconds, and room for two."""
    path = tmp_path_factory.mktemp("crowded") / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(range(50_000))
    return serve_all(ledger=path, bounds={"searches": 2})


@pytest.fixture
def asker(quick: Server) -> Iterator[httpx.Client]:
    """Return a client of `quick` that makes a connection for each request."""
    limits = httpx.Limits(max_keepalive_connections=0)
    with quick.client(limits=limits) as client:
        yield client


def wait_until(happens: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return when it has happened."""
    began = time.monotonic()
    while not happens():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.02)


def connections(client: httpx.Client) -> int:
    """Return how many connections there are, besides the one that asks."""
    return int(metric(client, "cairn_connections")) - 1


# Time


def test_headers_byte_by_byte(quick: Server) -> None:
    """Each byte in time, all of them not."""
    request = quick.request("GET /head", "X-Slow: " + "x" * 500)
    with quick.wire() as wire:
        sent = 0
        while not wire.heard(0.02):
            sent += 1
            assert sent < len(request), "it took all of them"
            wire.send_if_open(request[sent - 1 : sent])
        problem(wire.answer(), 408, "timeout")
        assert wire.rest() == b""


@pytest.mark.parametrize("begun", [b"G", b"GET /head HTTP/1.1\r\nHost: localhost\r\n"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_headers_that_do_not_come(patient: Server, before: int, begun: bytes) -> None:
    """Neither at first nor after requests, in one packet with them or not."""
    for apart in (False, True):
        with patient.wire() as wire:
            requests = patient.request("GET /health") * before
            wire.send(requests if apart else requests + begun)
            assert [wire.answer().status for _ in range(before)] == [200] * before
            if apart:
                wire.send(begun)
            problem(wire.answer(), 408, "timeout")
            assert wire.rest() == b""


def test_a_first_request_that_does_not_come(patient: Server) -> None:
    with patient.wire() as wire:
        assert wire.rest() == b""


@pytest.mark.parametrize(
    ("route", "header"),
    [
        ("/block", "Content-Length: 500"),
        ("/blocks", "Transfer-Encoding: chunked"),
        ("/nope", "Content-Length: 500"),
    ],
)
def test_a_body_byte_by_byte(quick: Server, route: str, header: str) -> None:
    """Each byte in time, all of them not."""
    with quick.wire() as wire:
        wire.send(quick.request(f"POST {route}", header))
        piece = b"1\r\n1\r\n" if "chunked" in header else b"1"
        sent = 0
        while not wire.heard(0.02):
            sent += 1
            assert sent < 400, "it took all of them"
            wire.send_if_open(piece)
        answer = wire.answer()
        if route == "/nope":
            problem(answer, 404, "not-found")
        else:
            problem(answer, 408, "timeout")
        while wire.send_if_open(piece):
            sent += 1
            assert sent < 800, "it goes on to take them"
            time.sleep(0.02)


@pytest.mark.parametrize("begun", [b"", b'"' + b"x" * 100_000])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_body_that_does_not_come(patient: Server, before: int, begun: bytes) -> None:
    with patient.wire() as wire:
        requests = patient.request("GET /health") * before
        wire.send(requests, patient.request("POST /block", "Content-Length: 200000"), begun)
        assert [wire.answer().status for _ in range(before)] == [200] * before
        problem(wire.answer(), 408, "timeout")
        assert wire.rest() == b""


def test_an_answer_is_not_cut_off_by_the_deadline_of_the_next_request(quick: Server) -> None:
    with quick.wire() as wire:
        wire.send(quick.request("GET /events"), b"GET /hea")
        assert wire.answer_begins().status == 200
        assert wire.chunk().startswith(b":")
        assert not wire.heard(2 * QUICK["header_seconds"])


def test_a_connection_that_waits_is_closed_after_a_while(quick: Server) -> None:
    with quick.wire() as wire:
        for _ in range(3):  # each request begins the wait anew
            wire.send(quick.request("GET /health"))
            assert wire.answer().status == 200
            assert not wire.heard(QUICK["idle_seconds"] / 2)
        began = time.monotonic()
        assert wire.rest() == b""
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("begun", [b"", b"GET /hea", b"nonsense"])
def test_who_follows_and_hangs_up_is_gone(quick: Server, asker: httpx.Client, begun: bytes) -> None:
    """At once: not only when there is news to send."""
    before = connections(asker)
    with quick.wire() as wire:
        wire.send(quick.request("GET /events"), begun)
        assert wire.answer_begins().status == 200
        wire.chunk()
        if begun:
            assert not wire.heard(2 * QUICK["header_seconds"])
        assert connections(asker) == before + 1
    wait_until(lambda: connections(asker) <= before, 5)
    assert metric(asker, "cairn_followers") == 0


def test_who_never_reads_is_hung_up_on(quick: Server, asker: httpx.Client) -> None:
    before = connections(asker)
    with ExitStack() as stack:
        for path in ("/", "/blocks?contains=x", "/events?start=0"):
            wire = stack.enter_context(quick.wire(receive_bytes=4096))
            wire.send(quick.request(f"GET {path}"))
            assert wire.heard(PATIENCE)
        wait_until(lambda: connections(asker) <= before)


def test_who_reads_slowly_is_served(quick: Server) -> None:
    """For longer than one may read nothing."""
    with quick.wire(receive_bytes=65_536) as wire:
        wire.send(quick.request("GET /events?start=0"))
        began = time.monotonic()
        assert wire.answer_begins().status == 200
        taken = 0
        while taken < 6 * 2**20:
            part = wire.stream.read1(65_536)
            assert part, f"cut off after {taken} bytes"
            taken += len(part)
            time.sleep(0.02)
        assert time.monotonic() - began > QUICK["stalled_seconds"]


# Size


def test_as_many_lines_as_the_bound_says(quick: Server, asker: httpx.Client) -> None:
    before = length(asker)
    for body in (b"1\n" * 6, b"1\n" * 5 + b"1", b"\n" * 6):
        problem(asker.post("/blocks", content=body), 413, "too-large")
    assert length(asker) == before
    for body in (b"1\n" * 5, b"1\n" * 4 + b"1"):
        assert asker.post("/blocks", content=body).json()["count"] == 5
    assert length(asker) == before + 10


@pytest.mark.parametrize("line", ["GET /health", "POST /block"])
@pytest.mark.parametrize("trailer", [b"x" * 1000, b"X: y\r\n" * 200])
def test_trailers_without_end(quick: Server, line: str, trailer: bytes) -> None:
    start = quick.request(line, "Transfer-Encoding: chunked") + b"1\r\n1\r\n0\r\nX-Long: "
    with quick.wire() as wire:
        wire.send(start)
        taken = 0
        while wire.send_if_open(trailer):
            taken += len(trailer)
            assert taken < 64 * 2**20, "it takes all of them"


def test_chunk_extensions_without_end(quick: Server) -> None:
    with quick.wire() as wire:
        wire.send(quick.request("POST /block", "Transfer-Encoding: chunked"), b"1;")
        taken = 0
        while wire.send_if_open(b"x" * 1000):
            taken += 1000
            assert taken < 64 * 2**20, "it takes all of them"


def test_a_body_without_end(quick: Server) -> None:
    """Refused when it is past the limit; and some time after that the connection is closed."""
    with quick.wire() as wire:
        wire.send(quick.request("POST /block", "Transfer-Encoding: chunked"))
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        began = time.monotonic()
        while wire.send_if_open(chunk):
            assert time.monotonic() - began < 10, "it takes all of it"
            if wire.heard(0):
                break
        problem(wire.answer(), 413, "too-large")


def test_upgrades_without_end(quick: Server, asker: httpx.Client) -> None:
    asked = quick.request("GET /health", "Connection: Upgrade", "Upgrade: x")
    with quick.wire() as wire:
        wire.send(asked * 2500)
        for _ in range(2500):
            assert wire.answer().body == b'{"status": "ok"}'


# Connections


def hold_on(server: Server, count: int, stack: ExitStack, begun: bytes = b"") -> list[Wire]:
    """Make connections that send no more than the beginning of a request."""
    wires = []
    for _ in range(count):
        wires.append(stack.enter_context(server.wire()))
        if begun:
            wires[-1].send(begun)
    return wires


def test_a_thousand_that_do_nothing_are_in_nobodys_way(serve: Serve) -> None:
    """500 connections silent, 300 half-open, 300 with half a body: more than there may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2500 if hard == resource.RLIM_INFINITY else min(2500, hard)
    assert wanted >= 1500, "this machine allows too few open files for this test"
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    server = serve()
    half = server.request("POST /block", "Content-Length: 10") + b"1"
    with ExitStack() as stack, server.client() as client:
        hold_on(server, 500, stack)
        hold_on(server, 300, stack, b"GET / HTTP/1.1\r\nHost: ")
        hold_on(server, 300, stack, half)
        assert median_seconds(server) < 0.1 or median_seconds(server) < 0.1
        assert client.post("/block", content=b"1").status_code == 201
        assert 950 <= connections(client) + 1 <= 1000


def median_seconds(server: Server) -> float:
    """Return how long /health takes on a new connection."""
    took = []
    for _ in range(21):
        began = time.monotonic()
        assert server.ask(server.request("GET /health")).status == 200
        took.append(time.monotonic() - began)
    return statistics.median(took)


def test_the_one_that_waits_longest_makes_room(serve: Serve) -> None:
    """Busy ones are not closed, however old."""
    server = serve(bounds={"connections": 6})
    with ExitStack() as stack:
        busy = stack.enter_context(server.wire())
        busy.send(server.request("GET /events"))
        assert busy.answer_begins().status == 200
        busy.chunk()
        silent, half, body = (
            *hold_on(server, 1, stack),
            *hold_on(server, 1, stack, b"GET /head HTTP/1.1\r\n"),
            *hold_on(server, 1, stack, server.request("POST /block", "Content-Length: 9") + b"1"),
        )
        used = stack.enter_context(server.wire())
        used.send(server.request("GET /health"))
        assert used.answer().status == 200
        for longest in (silent, half, body):
            for other in (silent, half, body):
                if other is not longest and other.socket.fileno() >= 0:
                    assert not other.heard(0)
            assert not used.heard(0)
            newcomer = stack.enter_context(server.wire())
            newcomer.send(server.request("GET /health"))
            assert newcomer.answer().status == 200
            newcomer.send(server.request("GET /events"))  # busy from now on
            assert newcomer.answer_begins().status == 200
            newcomer.chunk()
            if longest is silent:  # there was room for one more
                assert not longest.heard(0.05)
                extra = stack.enter_context(server.wire())
                extra.send(server.request("GET /events"))
                assert extra.answer_begins().status == 200
                extra.chunk()
            assert longest.rest() == b""
            longest.close()
        newcomer = stack.enter_context(server.wire())
        newcomer.send(server.request("POST /block", body=b'"news"'))
        assert newcomer.answer().status == 201
        assert used.rest() == b""
        assert b'"news"' in busy.chunk()


def test_when_all_are_busy_another_is_told_so(serve: Serve) -> None:
    server = serve(bounds={"connections": 5})
    with ExitStack() as stack:
        for wire in hold_on(server, 5, stack, server.request("GET /events")):
            assert wire.answer_begins().status == 200
        for _ in range(10):
            with server.wire() as wire:
                wire.send_if_open(server.request("GET /health"))
                problem(wire.answer(), 503, "busy")
                assert wire.rest() == b""


def test_a_burst_is_bounded(serve: Serve) -> None:
    server = serve(bounds={"connections": 20})
    with ExitStack() as stack, server.client() as client:
        hold_on(server, 300, stack)
        assert connections(client) + 1 <= 20


def test_a_request_whose_body_never_comes_makes_room_too(serve: Serve) -> None:
    """Also where it follows another one in the same packet."""
    server = serve(bounds={"connections": 5})
    begun = server.request("GET /health") + server.request("POST /block", "Content-Length: 9")
    with ExitStack() as stack:
        for wire in hold_on(server, 5, stack, begun):
            assert wire.answer().status == 200
        for _ in range(10):
            assert server.ask(server.request("GET /health")).status == 200


# Turns


@pytest.mark.parametrize("target", [f"/entries/{UNKNOWN}", "/blocks?contains=nowhere"])
def test_a_crowd_of_searches_does_not_make_the_next_one_wait(crowded: Server, target: str) -> None:
    """Who comes to a long line is told so; when it has gone, all are let in again."""
    served = 404 if "entries" in target else 200
    with ExitStack() as stack, crowded.client() as client:
        wires = [stack.enter_context(crowded.wire()) for _ in range(40)]
        for wire in wires:
            wire.send(crowded.request(f"GET {target}"))
        answers = [wire.answer() for wire in wires]
        refused = [answer for answer in answers if answer.status != served]
        assert len(answers) - len(refused) >= 2
        assert refused
        for answer in refused:
            assert "2 others search" in problem(answer, 503, "busy")["detail"]
        for _ in range(3):
            assert client.get(target).status_code == served
        for wire in wires:  # and so it is with pages
            wire.send(crowded.request(f"GET {target}", "Accept: text/html"))
        assert {wire.answer().status for wire in wires} == {served, 503}


# Clients that go away


@pytest.mark.parametrize("abruptly", [False, True])
def test_who_goes_away_leaves_nothing(quick: Server, asker: httpx.Client, abruptly: bool) -> None:
    """In the middle of headers, of a body, before an answer, in the middle of it."""
    before, others = length(asker), connections(asker)
    for begun in (
        b"POST /block HT",
        quick.request("POST /block", "Content-Length: 10") + b"1",
        quick.request("POST /blocks", "Content-Length: 10") + b"1\n2\n3",
        quick.request("POST /block", "Transfer-Encoding: chunked") + b"5\r\n12",
        quick.request("POST /block", "Content-Length: 10", "Expect: 100-continue"),
        quick.request("GET /"),
        quick.request("GET /") * 5,
        quick.request("GET /blocks/1/data"),
        quick.request("GET /blocks?contains=x"),
        quick.request("GET /events?start=0"),
        quick.request("GET /events") * 3,
        quick.request("GET /validate"),
        quick.request("GET /validate") * 3,
    ):
        for wait in (False, True):
            wire = quick.wire(receive_bytes=4096)
            wire.send(begun)
            if wait and b"GET" in begun:
                assert wire.heard(PATIENCE)
            if abruptly:  # a reset, not an end
                at_once = struct.pack("ii", 1, 0)
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            wire.close()
    wait_until(lambda: connections(asker) <= others)
    assert length(asker) == before
    asker.post("/block", content=b"1")
    asker.post("/block", content=b"1")
    wait_until(lambda: metric(asker, "cairn_followers") == 0)


# Memory


def test_bodies_that_are_held_are_bounded(serve: Serve) -> None:
    server = serve(bounds={"held_bytes": 10**6})
    with server.client() as client, server.wire() as wire:
        wire.send(server.request("POST /block", "Content-Length: 900002"), b'"' + b"x" * 900_000)
        for _ in range(100):  # in each round it reads some of that
            assert client.get("/health").status_code == 200
        problem(client.post("/block", content=b'"%b"' % (b"x" * 210_000)), 503, "busy")
        assert client.post("/block", content=b'"small ones are taken"').status_code == 201
        wire.send(b'"')
        assert wire.answer().status == 201
        assert client.post("/block", content=b'"%b"' % (b"x" * 210_000)).status_code == 201


def test_what_was_recorded_is_not_refused_for_want_of_memory(serve: Serve) -> None:
    """Whatever the size: who was refused would send it again."""
    server = serve(bounds={"held_bytes": 200_000})
    with server.client() as client:
        for size in (10_000, 80_000, 100_000, 150_000, 199_000, 199_900, 200_000, 250_000):
            before = length(client)
            answer = client.post("/block", content=b'"' + b"x" * (size - 2) + b'"')
            if answer.status_code != 201:
                problem(answer, 503, "busy")
            assert length(client) - before == (answer.status_code == 201)
        assert client.get("/validate").json()["valid"]


def test_many_large_bodies_take_a_bounded_memory(serve: Serve) -> None:
    """40 clients send 6 MiB each and do not end; there is room for five of them."""
    server = serve(bounds={"held_bytes": 32 * 2**20, "body_bytes": 8 * 2**20})
    with ExitStack() as stack, server.client() as client:
        before = resident_bytes(server)
        wires = hold_on(server, 40, stack, server.request("POST /block", "Content-Length: 7340032"))
        for wire in wires:
            for _ in range(96):
                if wire.heard(0) or not wire.send_if_open(b" " * 65_536):
                    break
        refused = 0
        for wire in wires:
            if wire.heard(0):
                problem(wire.answer(), 503, "busy")
                refused += 1
        assert 34 <= refused < 40
        assert resident_bytes(server) - before < 100 * 2**20
        assert client.get("/health").status_code == 200


def test_many_who_do_not_read_take_a_bounded_memory(serve: Serve, tmp_path: Path) -> None:
    """15 clients ask for 8 MiB each."""
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend("x" * 2**18 for _ in range(40))
    server = serve(bounds={"held_bytes": 16 * 2**20})
    with ExitStack() as stack, server.client() as client:
        client.get("/")
        before = resident_bytes(server)
        for _ in range(15):
            wire = stack.enter_context(server.wire(receive_bytes=4096))
            wire.send(server.request("GET /"))
            assert wire.heard(PATIENCE)
        assert resident_bytes(server) - before < 70 * 2**20
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "piece", [b"[],", *(pytest.param(p, marks=pytest.mark.soak) for p in (b'"",', b'{"a":1},'))]
)
def test_a_body_of_very_many_values_takes_a_bounded_memory_and_time(
    heavy: Server, piece: bytes
) -> None:
    """Four of 16 MiB at once: others are answered meanwhile."""
    body = b"[" + piece * (16 * 2**20 // len(piece)) + b"0]"
    statuses: list[int] = []

    def post() -> None:
        with heavy.client() as client:
            statuses.append(client.post("/block", content=body).status_code)

    threads = [threading.Thread(target=post) for _ in range(4)]
    most, slowest = 0, 0.0
    with heavy.client() as client:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            assert client.get("/health").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
            most = max(most, resident_bytes(heavy))
            time.sleep(0.01)
        for thread in threads:
            thread.join()
        assert len(statuses) == 4
        assert set(statuses) <= {201, 413, 503}
        assert most < 2**30, "the defaults suit a machine with 1 GiB"
        assert slowest < 2
        assert client.get("/validate").json()["valid"]


@pytest.fixture(scope="module")
def heavy(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return serve_all(ledger=tmp_path_factory.mktemp("heavy") / "ledger")
