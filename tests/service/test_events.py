"""Who follows is told of every block, once and in order, whatever else happens."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from cairn import Ledger
from tests.service.harness import (
    PATIENCE,
    Event,
    Follower,
    Server,
    running,
    start,
    start_node,
    threads,
    until,
)

LARGE = "x" * 200_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(start(tmp_path / "ledger")) as server:
        yield server


def write(server: Server, steps: int) -> None:
    """Append so many values, and some more in bulk."""
    me = threading.get_ident()
    with server.client() as client:
        for step in range(steps):
            assert client.post([me, step]).status == 201
            if step % 10 == 0:
                assert client.post_all([[me, step, part] for part in range(20)]).status == 201


def blocks(server: Server, start: int = 0) -> list[dict[str, object]]:
    """Return all blocks from position `start` on, as pages of GET / have them."""
    found: list[dict[str, object]] = []
    following: str | None = f"/?start={start}"
    with server.client() as client:
        while following is not None:
            page = client.get(following).value
            found += page["chain"]
            following = page["next"]
    return found


def require_all(events: list[Event], first: int, chain: list[dict[str, object]]) -> None:
    """Check that the events are those of all blocks from `first` on."""
    assert [event.id for event in events] == list(range(first, first + len(events)))
    assert [event.block for event in events] == chain[first : first + len(events)]


def test_every_follower_is_told_of_every_block_once_and_in_order(server: Server) -> None:
    writers, steps = 8, 30
    last = writers * (steps + 20 * 3)
    told: list[tuple[int, list[Event]]] = []

    def follow(query: str, first: int) -> None:
        with Follower(server.port, query) as follower:
            told.append((first, follower.read_to(last)))

    with server.client() as client:
        assert client.get("/events?start=2").status == 404
    with ExitStack() as stack:
        for query, first in (("", 1), ("?start=0", 0), ("?start=1", 1)):
            stack.enter_context(threads(partial(follow, query, first), 3))
        until(lambda: b"cairn_followers 9.0" in server.get("/metrics").body)
        with threads(lambda: write(server, steps), writers):
            pass
    chain = blocks(server)
    assert len(chain) == last + 1
    assert len(told) == 9
    for first, events in told:
        assert len(events) == last + 1 - first
        require_all(events, first, chain)


def test_a_follower_that_comes_again_misses_nothing_and_hears_nothing_twice(
    server: Server,
) -> None:
    choose = random.Random(1)
    writers, steps = 4, 60
    last = writers * (steps + 20 * 6)
    events: list[Event] = []
    with threads(lambda: write(server, steps), writers):
        while not events or events[-1].id < last:
            seen = events[-1].id if events else None
            query = "?start=0" if seen is None or choose.random() < 0.5 else ""  # is overruled
            with Follower(server.port, query, seen=seen) as follower:
                most = choose.randrange(1, 100)
                for event in follower.events():
                    events.append(event)
                    most -= 1
                    if not most or event.id == last:
                        break
    require_all(events, 0, blocks(server))
    assert len(events) == last + 1


def test_a_follower_goes_on_where_it_was_after_a_restart_of_the_node(tmp_path: Path) -> None:
    events: list[Event] = []
    lives = 3
    for life in range(lives):
        with running(start(tmp_path / "ledger")) as server:
            seen = events[-1].id if events else None
            with Follower(server.port, "?start=0", seen=seen) as follower:
                write(server, 20)
                last = server.get("/head").value["index"]
                events += follower.read_to(last - life)  # not always to the end
            if life % 2:
                server.kill()
            else:
                server.stop()
    with running(start(tmp_path / "ledger")) as server:
        with Follower(server.port, seen=events[-1].id) as follower:
            events += follower.read_to(last)
        require_all(events, 0, blocks(server))
        assert len(events) == 1 + lives * 60


def test_a_follower_that_leaves_is_not_kept(server: Server) -> None:
    for _ in range(20):
        Follower(server.port).close()
    until(lambda: b"cairn_followers 0.0" in server.get("/metrics").body, seconds=5)
    until(lambda: b"cairn_connections 1.0" in server.get("/metrics").body, seconds=5)


def test_no_one_follows_from_past_the_end(server: Server) -> None:
    with server.client() as client:
        length = client.post("something").value["index"] + 1
        for query, seen in (
            (f"?start={length + 1}", None),
            (f"?start={2**62}", None),
            ("", length),
            ("?start=0", length + 5),
        ):
            headers = {} if seen is None else {"Last-Event-ID": str(seen)}
            answer = client.get(f"/events{query}", headers)
            assert (answer.status, answer.problem()) == (404, "no-such-block"), query
        for bad in ("?start=-1", "?start=x", "?start=1&start=1", "?begin=1"):
            assert client.get(f"/events{bad}").status == 400
        for bad in ("x", "-1", "1.0"):
            assert client.get("/events", {"Last-Event-ID": bad}).status == 400
    with (
        Follower(server.port, f"?start={length}") as by_start,
        Follower(server.port, seen=length - 1) as by_id,
        server.client() as client,
    ):
        assert client.post("the next").value["index"] == length
        assert next(by_start.events()).id == length
        assert next(by_id.events()).id == length


def test_who_has_seen_the_head_may_follow_from_it(tmp_path: Path) -> None:
    with (
        running(start_node(tmp_path / "ledger", slow_commit=0.4)) as server,
        server.client() as client,
        server.client() as writer,
    ):
        writer.send("POST", "/block", b'"durable, and not yet answered"')
        until(lambda: client.get("/head").value["index"] == 1)
        assert client.get("/?start=2").status == 200
        page = client.get("/?start=1").value
        assert page["length"] == 1 + len(page["chain"])
        with Follower(server.port, seen=1) as follower:
            assert writer.receive().value["index"] == 1
            assert writer.post("the next").value["index"] == 2
            assert next(follower.events()).id == 2


def test_silence_is_broken_by_heartbeats_and_ended_by_blocks(tmp_path: Path) -> None:
    constants = {"cairn.api.routes.HEARTBEAT_SECONDS": 0.2}
    with (
        running(start_node(tmp_path / "ledger", constants=constants)) as server,
        server.client() as client,
        Follower(server.port) as follower,
    ):
        heard: list[tuple[float, str]] = []

        def listen() -> None:
            for message in follower.messages():
                heard.append((time.monotonic(), message))
                if "the last" in message:
                    return

        with threads(listen):
            for round_ in range(3):
                before = len(heard)
                until(lambda: len(heard) >= before + 3)  # noqa: B023
                assert {message for _, message in heard[before + 1 :]} == {": alive"}
                client.post("the last" if round_ == 2 else round_)
        for (before_, _), (at, message) in pairwise(heard):
            assert at - before_ < 2.0, "silence"
            assert message == ": alive" or message.startswith("id: ")
        assert re.findall(r"id: (\d+)", "".join(m for _, m in heard)) == ["1", "2", "3"]


def test_one_who_does_not_read_costs_neither_the_others_nor_memory(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(LARGE for _ in range(100))
    with (
        running(start(tmp_path / "ledger")) as server,
        Follower(server.port, "?start=0", buffer=4096),
        Follower(server.port, buffer=4096),
        Follower(server.port) as other,
        server.client() as client,
    ):
        for _ in range(10):
            client.post(LARGE)  # by now it has all the memory that it needs for one
        before = server.resident()
        slowest = 0.0
        for _ in range(250):  # 50 MB
            began = time.monotonic()
            index = client.post(LARGE).value["index"]
            assert next(event for event in other.events() if event.id == index)
            slowest = max(slowest, time.monotonic() - began)
        grown = server.resident() - before
        assert slowest < 2.0
        assert grown < 50e6, f"{grown / 1e6:.0f} MB for 100 that two do not read"


def test_one_who_reads_slowly_gets_everything(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.append("x" * 8_000_000)
    server = start_node(tmp_path / "ledger", bounds={"stalled_seconds": 1.0})
    with running(server), Follower(server.port, "?start=1", buffer=65_536) as follower:
        began, got = time.monotonic(), 0
        for chunk in follower.chunks():
            got += len(chunk)
            time.sleep(len(chunk) * 0.25e-6)  # 4 MB/s
            if chunk.endswith(b"\n\n"):
                break
        assert got > 8e6
        assert time.monotonic() - began > 1.0, "that was not slow"


def test_100_followers_are_told_of_every_block(server: Server) -> None:
    followers, writers, steps = 100, 2, 40
    last = writers * (steps + 20 * 4)
    told: list[list[Event]] = []
    slowest = 0.0
    with ExitStack() as stack:
        connected = [stack.enter_context(Follower(server.port)) for _ in range(followers)]
        waiting = iter(connected)
        stack.enter_context(threads(lambda: told.append(next(waiting).read_to(last)), followers))
        stack.enter_context(threads(lambda: write(server, steps), writers))
        with server.client() as client:
            deadline = time.monotonic() + PATIENCE
            while len(told) < followers and time.monotonic() < deadline:
                began = time.monotonic()
                assert client.get("/head").status == 200
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(0.01)
    assert len(told) == followers
    chain = blocks(server)
    for events in told:
        assert len(events) == last
        require_all(events, 1, chain)
    assert slowest < 2.0, "others wait for followers"
