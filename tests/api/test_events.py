"""Following the chain: server-sent events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.api.answers import guarded, problem
from tests.api.conftest import Serve
from tests.api.servers import Server, Wire, length, metric


@contextmanager
def following(server: Server, query: str = "", *headers: str) -> Iterator[Iterator[str]]:
    """Follow the chain; yield its lines, once it has begun."""
    with server.client() as client:
        sent = dict(header.split(": ", 1) for header in headers)
        with client.stream("GET", f"/events{query}", headers=sent) as answer:
            assert answer.status_code == 200
            guarded(answer.headers)
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = split(answer.iter_bytes())
            assert next(lines).startswith(":")
            assert next(lines) == ""
            yield lines


def split(chunks: Iterator[bytes]) -> Iterator[str]:
    """Yield lines as the standard has them: they end with LF, CR or both, and nothing else."""
    kept = b""
    for chunk in chunks:
        *lines, kept = re.split(b"\r\n|\n|\r", kept + chunk)
        yield from (line.decode() for line in lines)


def event(lines: Iterator[str]) -> dict[str, object]:
    """Read one event; return its block."""
    fields = {}
    for line in iter(lambda: next(lines), ""):
        name, _, value = line.partition(": ")
        assert name not in fields
        fields[name] = value
    assert list(fields) == ["id", "event", "data"]
    assert fields["event"] == "block"
    block = json.loads(fields["data"])
    assert str(block["index"]) == fields["id"]
    return dict(block)


def test_blocks_come_as_they_are_recorded(server: Server, client: httpx.Client) -> None:
    with following(server) as lines:
        for value in ("one", "line\u2028 and\u0085 breaks\n\r", {"event": "block"}):
            posted = client.post("/block", content=json.dumps(value)).json()
            assert posted["data"] == value
            assert event(lines) == posted
        client.post("/blocks", content=b"1\n2\n3")
        assert [event(lines)["data"] for _ in range(3)] == [1, 2, 3]


def test_going_on_where_one_was(server: Server, client: httpx.Client) -> None:
    client.post("/blocks", content=b"\n".join(b"%d" % i for i in range(600)))
    blocks = length(client)
    for query, headers, first in (
        (f"?start={blocks - 300}", [], blocks - 300),
        ("", [f"Last-Event-ID: {blocks - 300}"], blocks - 299),
        ("?start=0", [f"Last-Event-ID: {blocks - 1}"], blocks),
        (f"?start={blocks}", [], blocks),
    ):
        with following(server, query, *headers) as lines:
            posted = client.post("/block", content=b'"last"').json()
            wanted = list(range(first, posted["index"] + 1))
            assert [event(lines)["index"] for _ in wanted] == wanted
        blocks += 1


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("?start=-1", {}, 400),
        ("?start=", {}, 400),
        ("?begin=1", {}, 400),
        ("", {"last-event-id": "x"}, 400),
        ("", {"last-event-id": ""}, 400),
        ("", {"last-event-id": "-1"}, 400),
        ("", {"last-event-id": "9223372036854775808"}, 400),
        ("", {"last-event-id": "9223372036854775807"}, 404),
        ("?start=999999999999", {}, 404),
    ],
)
def test_what_cannot_be_followed(
    client: httpx.Client, query: str, headers: dict[str, str], status: int
) -> None:
    slug = "no-such-block" if status == 404 else "bad-request"
    problem(client.get(f"/events{query}", headers=headers), status, slug)


def followers(client: httpx.Client, wanted: int) -> int:
    """Return how many follow, once it is `wanted` or enough blocks were recorded to show."""
    found = -1
    for _ in range(40):
        client.post("/block", content=b'"tick"')
        found = int(metric(client, "cairn_followers"))
        if found == wanted:
            break
    return found


@pytest.mark.parametrize("requests", [1, 2, 5])
def test_who_hangs_up_follows_no_more(server: Server, client: httpx.Client, requests: int) -> None:
    """Also when requests that wait for their turn are lost with it."""
    assert followers(client, 0) == 0
    wires = [Wire(server) for _ in range(3)]
    for wire in wires:
        wire.send(server.request("GET /events") * requests)
        assert wire.stream.readline().startswith(b"HTTP/1.1 200")
    assert followers(client, 3) == 3
    for wire in wires:
        wire.close()
    assert followers(client, 0) == 0


def test_a_stop_ends_the_answer_properly(serve: Serve) -> None:
    """So the client can tell a stop from a broken connection."""
    server = serve()
    with following(server) as lines:
        server.process.terminate()
        assert list(lines) == []  # httpx would raise if the last chunk did not come
    assert server.stop() == 0
