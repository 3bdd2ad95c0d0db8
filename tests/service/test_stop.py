"""A node that is told to stop answers what it was asked, keeps what it answered, and goes soon.

A request that was sent as a whole before the signal is answered. One that comes later may be
answered, refused, or left without an answer: whether it was recorded is then not known, as after a
crash, and its key tells. Who only reads, follows or validates is let go.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from cairn import Ledger
from tests.service.harness import (
    PATIENCE,
    STOP_SECONDS,
    Answer,
    Client,
    Event,
    Follower,
    Server,
    hold_validation,
    processes,
    require_closed,
    require_valid,
    running,
    start,
    start_node,
    threads,
    until,
)

WRITERS = 24
FOLLOWERS = 4
LARGE = "x" * 200_000


@pytest.fixture(autouse=True)
def leaves_no_process(tmp_path: Path) -> Iterator[None]:
    yield
    assert [call for _, _, call in processes() if str(tmp_path) in call] == []


class Sent(NamedTuple):
    """What became of a request."""

    at: float
    """When all of it had been sent."""
    values: list[object]
    answer: Answer | None
    """None: it was left without one."""

    @property
    def last(self) -> int | None:
        """The position of the last value, if it was said."""
        if self.answer is None or self.answer.status != 201:
            return None
        value = self.answer.value
        return int(value["last"] if "last" in value else value["index"])


class Load:
    """Clients that write, and clients that follow, until the node lets them go."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.sent: list[Sent] = []
        self.seen: list[list[Event]] = []

    def write(self) -> None:
        me, deadline = threading.get_ident(), time.monotonic() + PATIENCE
        with suppress(ConnectionError), self._server.client() as client:
            step = 0
            while time.monotonic() < deadline:
                step += 1
                values: list[object] = [[me, step, part] for part in range(step % 4 or 1)]
                self._send(client, values)

    def _send(self, client: Client, values: list[object]) -> None:
        target = "/block" if len(values) == 1 else "/blocks"
        client.send("POST", target, "\n".join(map(json.dumps, values)).encode())
        at, answer = time.monotonic(), None
        try:
            answer = client.receive()
        finally:
            self.sent.append(Sent(at, values, answer))

    def follow(self) -> None:
        with Follower(self._server.port, "?start=0") as follower:
            seen: list[Event] = []
            self.seen.append(seen)
            seen.extend(follower.events())  # to the proper end, or it raises


@pytest.mark.parametrize("stop", ["SIGTERM", "SIGINT", "Ctrl-C"])
def test_a_stop_under_load_answers_and_keeps(stop: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with running(start(path, own_group=True)) as server:
        load = Load(server)
        with threads(load.write, WRITERS), threads(load.follow, FOLLOWERS):
            until(lambda: len(load.sent) > 300)
            asked = time.monotonic()
            if stop == "Ctrl-C":  # reaches all that the terminal has started
                os.killpg(server.process.pid, signal.SIGINT)
            else:
                server.process.send_signal(getattr(signal, stop))
            assert server.ended(asked, 0 if stop == "SIGTERM" else 130) < STOP_SECONDS
        assert server.errors() == ""
    require_closed(path)
    require_valid(path)
    assert [one for one in load.sent if one.at < asked and one.answer is None] == []
    assert {one.answer.status for one in load.sent if one.answer} <= {201, 503}
    with Ledger.open(path, read_only=True) as ledger:
        recorded = [block.data for block in ledger]
        hashes = [block.hash for block in ledger]
    places = [one.last for one in load.sent if one.last is not None]
    for one in load.sent:
        if one.last is not None:
            assert recorded[one.last - len(one.values) + 1 : one.last + 1] == one.values
    answered = sum(len(one.values) for one in load.sent if one.last is not None)
    open_ = sum(len(one.values) for one in load.sent if one.last is None)
    assert 1 + answered <= len(recorded) <= 1 + answered + open_
    assert len(load.seen) == FOLLOWERS
    assert places
    for seen in load.seen:
        assert [event.id for event in seen] == list(range(len(seen)))
        assert [event.block["hash"] for event in seen] == hashes[: len(seen)]


def test_followers_of_a_silent_node_are_let_go(tmp_path: Path) -> None:
    with running(start(tmp_path / "ledger")) as server, ExitStack() as stack:
        followers = [stack.enter_context(Follower(server.port)) for _ in range(5)]
        assert server.stop() < STOP_SECONDS
        for follower in followers:
            assert list(follower.events()) == []  # to the proper end


def test_what_was_sent_before_a_stop_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with running(start(path)) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(8)]
        for client in clients:
            assert client.post("before").status == 201
        server.process.send_signal(signal.SIGSTOP)  # it reads nothing until it goes on
        clients += [stack.enter_context(server.client()) for _ in range(8)]
        for number, client in enumerate(clients):
            if number % 2:
                client.send("POST", "/block", b'"sent"')
            else:
                client.send("POST", "/blocks", b"\n".join([b'"sent"'] * 100))
        reader = stack.enter_context(server.client())
        reader.send("GET", "/?limit=9")
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        answers = [client.receive() for client in clients]
        assert [answer.status for answer in answers] == [201] * 16
        assert len(reader.receive().value["chain"]) == 9
        assert server.ended(asked, 0) < STOP_SECONDS
    require_closed(path)
    with Ledger.open(path, read_only=True) as ledger:
        assert len(ledger) == 1 + 8 + 8 + 800


@pytest.mark.parametrize("others", ["none", "one waits for the next run", "all have gone"])
def test_a_validation_under_way_does_not_hold_up_a_stop(others: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    environment, _gate = hold_validation(tmp_path)
    server = start(path, environment=environment)
    with running(server, may_log=True), ExitStack() as stack:
        clients = [stack.enter_context(server.client())]
        clients[0].post("something")
        clients[0].send("GET", "/validate")
        until(server.validations)
        if others != "none":
            clients.append(stack.enter_context(server.client()))
            clients[1].send("GET", "/validate")
        server.get("/health")  # by now it has read the other request, too
        if others == "all have gone":
            for client in clients:
                client.close()
            server.get("/health")
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        if others != "all have gone":
            for client in clients:
                answer = client.receive()
                assert (answer.status, answer.problem()) == (503, "unavailable")
        assert server.ended(asked, 0) < STOP_SECONDS
    require_closed(path)


def test_a_validation_that_is_being_started_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    environment, _gate = hold_validation(tmp_path)
    server = start_node(tmp_path / "ledger", environment=environment, slow_start=0.5)
    with running(server, may_log=True), server.client() as client:
        client.send("GET", "/validate")
        until(server.validations)
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        answer = client.receive()
        assert (answer.status, answer.problem()) == (503, "unavailable")
        assert server.ended(asked, 0) < STOP_SECONDS


def test_who_neither_sends_nor_reads_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(LARGE for _ in range(100))
    head = b"POST /block HTTP/1.1\r\nHost: localhost\r\n"
    with running(start(path)) as server, ExitStack() as stack:

        def connect() -> Client:
            return stack.enter_context(server.client(buffer=4096))

        stack.enter_context(Follower(server.port, "?start=0", buffer=4096))
        for data in (
            b"",
            head,
            head + b'Content-Length: 100\r\n\r\n"half',
            head + b'Transfer-Encoding: chunked\r\n\r\n5\r\n"half\r\n',
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /blocks?contains=x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            connect().send_raw(data)
        trickling, over = connect(), threading.Event()
        trickling.send_raw(head + b"Content-Length: 1000\r\n\r\n")

        def trickle() -> None:
            with suppress(ConnectionError):
                for _ in range(1000):
                    trickling.send_raw(b" ")
                    if over.wait(0.05):
                        return

        with threads(trickle):
            with server.client() as client:
                assert client.post("the others are served").status == 201
            took = server.stop()
            over.set()
        assert took < STOP_SECONDS
        assert server.errors() == ""
    require_closed(path)


def test_a_long_answer_that_is_being_read_is_not_cut_off_by_a_stop(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(LARGE for _ in range(100))
    with running(start(path)) as server, server.client() as client:
        client.send("GET", "/")
        assert client.receive_head()[0] == 200
        server.process.send_signal(signal.SIGTERM)
        page = json.loads(b"".join(client.chunks()))
        assert [block["index"] for block in page["chain"]] == list(range(len(page["chain"])))
        assert server.process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("numbers", "codes"),
    [
        ([signal.SIGTERM], {0}),
        ([signal.SIGINT], {130}),
        ([signal.SIGHUP], {0}),
        pytest.param([signal.SIGINT] * 2, {130}, marks=pytest.mark.soak),
        ([signal.SIGINT] * 6, {130, -signal.SIGINT}),  # the last may come when all is done
        pytest.param([signal.SIGTERM] * 2, {0}, marks=pytest.mark.soak),
        ([signal.SIGTERM, signal.SIGINT], {130}),
    ],
    ids=["TERM", "INT", "HUP", "INT twice", "INT six times", "TERM twice", "TERM and INT"],
)
def test_the_scratch_copy_of_a_lab_is_gone_however_it_is_stopped(
    numbers: list[signal.Signals], codes: set[int], tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(range(1000))
    environment, _gate = hold_validation(tmp_path)
    environment["TMPDIR"] = str(scratch)
    server = start(tmp_path / "ledger", "--lab", environment=environment)
    with running(server, may_log=True), server.client() as client:
        load = Load(server)
        client.send("GET", "/validate")
        with threads(load.write, 4):
            until(lambda: len(load.sent) > 20 and server.validations())
            assert len(list(scratch.iterdir())) == 1
            asked = time.monotonic()
            for number in numbers:
                server.process.send_signal(number)  # to nobody, if it has ended
                time.sleep(0.05)  # as a person would
            code = server.process.wait(2 * PATIENCE)
            assert time.monotonic() - asked < STOP_SECONDS
            assert code in codes, server.errors()
    assert list(scratch.iterdir()) == []


def test_a_lab_that_is_stopped_while_it_starts_leaves_no_scratch_copy(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend("x" * 500 for _ in range(40_000))  # some time to copy
    with ExitStack() as stack:

        def start_lab() -> Server:
            server = start(tmp_path / "ledger", "--lab", environment={"TMPDIR": str(scratch)})
            stack.callback(server.close)
            return server

        def stop_after(seconds: float) -> int:
            server = start_lab()
            time.sleep(seconds)
            server.process.send_signal(signal.SIGTERM)
            return server.process.wait(PATIENCE)

        for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)):
            server = start_lab()
            until(lambda: list(scratch.glob("cairn-lab-*/*")))
            server.process.send_signal(number)
            assert server.process.wait(PATIENCE) == code
            assert list(scratch.iterdir()) == []
        with ThreadPoolExecutor(4) as pool:
            codes = set(pool.map(stop_after, [0.1 + 0.3 * step for step in range(4)]))
        assert codes <= {0, -signal.SIGTERM}, codes  # the latter before it has begun
    assert list(scratch.iterdir()) == []
