"""What clients do when requests and answers are lost, refused, wrong or late."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from cairn import (
    Block,
    CairnError,
    DamagedError,
    EntryError,
    ExtendError,
    KeyReusedError,
    NoSuchBlockError,
    OutcomeUnknownError,
)
from cairn.client import (
    AsyncClient,
    BadAnswerError,
    Client,
    NodeError,
    NotPermittedError,
    UnreachableError,
    batches,
    retry,
)
from tests.client.conftest import Connect
from tests.client.nodes import (
    EVENTS,
    FakeNode,
    Fault,
    Stream,
    answering,
    event,
    losing_the_answer,
    lost_on_the_way,
    problem,
    unreachable,
)

Ask = Callable[[], object]

SHORT = 0.3
"""s of patience: for a few tries."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses as short as a test with many of them needs."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)


def keys(node: FakeNode) -> list[str]:
    return [request.headers["Idempotency-Key"] for request in node.requests]


# Trying again


@pytest.mark.usefixtures("quick")
def test_a_lost_answer_does_not_record_twice(node: FakeNode, client: Client) -> None:
    for record in (
        lambda: client.append("one"),
        lambda: client.append_json('"one"'),
        lambda: client.append_all(["one", "two"]),
        lambda: client.append("mine", key="mine"),
    ):
        before = len(node.ledger)
        node.requests.clear()
        node.faults.extend([losing_the_answer(node), losing_the_answer(node)])
        recorded = record()
        assert len(set(keys(node))) == 1
        assert len(keys(node)) == 3
        if isinstance(recorded, Block):
            assert recorded == node.ledger[before] == node.ledger.head
        else:
            assert recorded == range(before, len(node.ledger)) == range(before, before + 2)


def test_every_append_has_a_key_of_its_own(node: FakeNode, client: Client) -> None:
    for _ in range(3):
        client.append("same")
        client.append_all(["same"])
    assert len(set(keys(node))) == 6
    assert len(node.ledger) == 7


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "fault",
    [
        unreachable,
        lost_on_the_way,
        answering(httpx.Response(502, text="<h1>Bad gateway</h1>")),
        answering(httpx.Response(504)),
        answering(problem(503, "unavailable")),
        answering(problem(503, "outcome-unknown")),
        answering(problem(429, "busy")),
        answering(problem(408, "timeout")),
    ],
)
def test_what_may_pass_is_tried_again(node: FakeNode, client: Client, fault: Fault) -> None:
    for ask in (
        lambda: client.append(1),
        lambda: client.append_all([1]),
        lambda: client.extend([1]),
        lambda: client[0],
        lambda: client.head,
        lambda: len(client),
        lambda: list(client.scan()),
        lambda: client.find("0" * 64),
        lambda: client.validate(),
        lambda: list(client.search(contains="1")),
        lambda: next(client.follow(0)),
    ):
        node.requests.clear()
        node.faults.append(fault)
        ask()
        assert len(node.requests) == 2
        assert len({(str(r.url), r.content) for r in node.requests}) == 1


def test_a_node_is_left_alone_for_as_long_as_it_asks(node: FakeNode, client: Client) -> None:
    asks: list[Ask] = [lambda: client.append(1), lambda: next(client.follow(0))]
    for ask in asks:
        node.faults.append(answering(problem(503, "busy", retry_after=1)))
        began = time.monotonic()
        ask()
        assert 1 < time.monotonic() - began < 3


def test_no_try_begins_when_patience_is_up(node: FakeNode, connect: Connect) -> None:
    client = connect(transport=node.transport, patience=2)
    node.faults.append(answering(problem(503, "busy", retry_after=3)))
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="2 s of patience are up") as error:
        client.append(1)
    assert error.value.status == 503
    assert time.monotonic() - began < 1
    assert len(node.requests) == 1


@pytest.mark.parametrize(
    "fault", [unreachable, answering(problem(503, "busy")), answering(problem(408, "timeout"))]
)
def test_what_never_got_there_is_not_recorded(
    node: FakeNode, connect: Connect, fault: Fault
) -> None:
    client = connect(transport=node.transport, patience=SHORT)
    node.faults.extend([fault] * 100)
    for ask in (lambda: client.append(1), lambda: client.append_all([1]), lambda: client.head):
        node.requests.clear()
        with pytest.raises(UnreachableError, match=r"0\.3 s of patience are up"):
            ask()
        assert 1 < len(node.requests) < 6


@pytest.mark.parametrize(
    "fault",
    [
        lost_on_the_way,
        answering(httpx.Response(502)),
        answering(httpx.Response(503)),
        answering(problem(503, "outcome-unknown")),
    ],
)
def test_an_append_that_may_be_recorded_says_so_and_with_which_key_to_find_out(
    node: FakeNode, connect: Connect, fault: Fault
) -> None:
    client = connect(transport=node.transport, patience=SHORT)
    node.faults.extend([losing_the_answer(node), *[fault] * 20])
    with pytest.raises(OutcomeUnknownError) as error:
        client.append("once")
    node.faults.clear()
    [key] = set(keys(node))
    assert repr(key) in str(error.value)
    assert isinstance(error.value.__cause__, UnreachableError)
    assert client.append("once", key=key) == node.ledger[1]
    assert len(node.ledger) == 2


def test_reading_never_leaves_an_outcome_unknown(node: FakeNode, connect: Connect) -> None:
    client = connect(transport=node.transport, patience=SHORT)
    node.faults.extend([lost_on_the_way] * 100)
    for ask in (lambda: client[0], lambda: list(client.scan()), lambda: client.validate()):
        with pytest.raises(UnreachableError) as error:
            ask()
        assert isinstance(error.value.__cause__, httpx.ReadTimeout)


# Refusals


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (problem(400, "bad-entry", reason="too odd", path=".a[1]"), EntryError, r"odd \(at \$\.a"),
        (problem(413, "too-large", detail="past 1 byte"), EntryError, "past 1 byte"),
        (httpx.Response(413, text="<h1>Too large"), EntryError, "1 bytes are too large"),
        (problem(422, "key-reused", detail="key 'a'"), KeyReusedError, "key 'a'"),
        (problem(400, "bad-request", detail="because"), NodeError, "400: because"),
        (problem(401, "unauthorized"), NotPermittedError, "401: No"),
        (problem(403, "forbidden"), NotPermittedError, "403"),
        (problem(421, "wrong-host"), NotPermittedError, "421"),
        (problem(404, "not-found"), NodeError, "404"),
        (httpx.Response(405, text="<h1>"), NodeError, "405: b'<h1>'"),
        (httpx.Response(418, json=["teapot"]), NodeError, "418"),
        (httpx.Response(307, headers={"Location": "http://evil"}), NodeError, "to 'http://evil'"),
        (problem(500, "damaged", detail="hole"), DamagedError, "hole"),
        (problem(500, "bug"), OutcomeUnknownError, "POST /block was answered with 500"),
        (httpx.Response(501), OutcomeUnknownError, "501"),
    ],
)
def test_a_refusal_is_final_and_has_its_type(
    node: FakeNode, client: Client, response: httpx.Response, kind: type, words: str
) -> None:
    node.faults.append(answering(response))
    with pytest.raises(kind, match=words) as error:
        client.append(1)
    assert type(error.value) is kind or kind is EntryError
    assert len(node.requests) == 1


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (problem(500, "bug", detail="log"), NodeError),
        (problem(500, "damaged", detail="hole"), DamagedError),
        (problem(404, "no-such-block", detail="none"), NoSuchBlockError),
        (problem(401, "unauthorized"), NotPermittedError),
        (httpx.Response(302, headers={"Location": "/login"}), NodeError),
        (httpx.Response(204), NodeError),
        (httpx.Response(413), NodeError),
    ],
)
def test_a_refusal_to_read_is_final_and_has_its_type(
    node: FakeNode, client: Client, response: httpx.Response, kind: type
) -> None:
    asks: list[Ask] = [
        lambda: client[1],
        lambda: len(client),
        lambda: client.validate(),
        lambda: next(client.follow(2)),
    ]
    for ask in asks:
        node.requests.clear()
        node.faults.append(answering(response))
        with pytest.raises(kind) as error:
            ask()
        assert type(error.value) is kind
        assert len(node.requests) == 1


def test_a_refusal_shows_its_problem(node: FakeNode, client: Client) -> None:
    node.faults.append(answering(problem(400, "bad-request", detail="because", extra=[1])))
    with pytest.raises(NodeError) as error:
        client.head  # noqa: B018
    assert (error.value.status, error.value.problem["extra"]) == (400, [1])
    assert error.value.problem["type"] == "urn:cairn:problem:bad-request"


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (problem(401, "unauthorized", detail="no"), NotPermittedError),
        (problem(404, "not-found", detail="no"), NodeError),
        (problem(500, "damaged", detail="no"), DamagedError),
    ],
)
def test_a_refusal_after_a_lost_answer_leaves_the_outcome_open(
    node: FakeNode, client: Client, response: httpx.Response, kind: type
) -> None:
    node.faults.extend([losing_the_answer(node), answering(response)])
    with pytest.raises(OutcomeUnknownError, match="no; whether it is recorded") as error:
        client.append(1)
    assert isinstance(error.value.__cause__, kind)
    assert len(node.ledger) == 2


def test_an_entry_that_is_refused_was_never_recorded(node: FakeNode, client: Client) -> None:
    node.faults.extend([lost_on_the_way, answering(problem(400, "bad-entry", reason="no"))])
    with pytest.raises(EntryError, match="no"):
        client.append(1)


# Answers that are none


def view(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(FakeNode().ledger[0].to_json())
    return value | changes


BAD_BODIES: list[bytes] = [
    b"",
    b"<html>",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"{}",
    b"\xff",
    b"NaN",
    b"[" * 100_000,
    b"1" * 5000,
    b'{"chain": {}, "next": null, "length": 1}',
    b'{"chain": [], "next": 1, "length": 1}',
    b'{"chain": [], "next": null, "length": "1"}',
    b'{"chain": [], "next": null, "length": 0}',
    b'{"chain": [[]], "next": null, "length": "1"}',
    b'{"valid": "false", "execution_time": 1.0, "blocks": 1, "bytes": 1}',
    b'{"valid": true, "execution_time": "1", "blocks": 1, "bytes": 1}',
    b'{"valid": true, "execution_time": 1.0, "blocks": 1, "bytes": 1, "failure": 5}',
    json.dumps(view(header="00")).encode(),
    json.dumps(view(index=True)).encode(),
    json.dumps(view(salt=None)).encode(),
    json.dumps(view(data="\ud800")).encode(),
    json.dumps(view(more=1)).encode(),
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: repr(body[:30]))
def test_an_answer_that_is_none_is_a_typed_error(
    node: FakeNode, client: Client, body: bytes
) -> None:
    asks: list[tuple[Ask, type[CairnError]]] = [
        (lambda: client[0], BadAnswerError),
        (lambda: client.head, BadAnswerError),
        (lambda: len(client), BadAnswerError),
        (lambda: client.validate(), BadAnswerError),
        (lambda: list(client.scan()), BadAnswerError),
        (lambda: list(client.search()), BadAnswerError),
        (lambda: next(client.follow(0)), BadAnswerError),
        (lambda: client.append(1), OutcomeUnknownError),
        (lambda: client.append_all([1]), OutcomeUnknownError),
    ]
    for ask, kind in asks:
        node.requests.clear()
        node.faults.append(answering(httpx.Response(200, content=body)))
        with pytest.raises(kind) as error:
            ask()
        assert len(str(error.value)) < 1500
        assert len(node.requests) == 1


def test_a_block_that_holds_something_else_is_no_acknowledgement(
    node: FakeNode, client: Client
) -> None:
    right = json.loads(node.ledger.append("right").to_json())
    wrong = json.loads(node.ledger.append("wrong").to_json())
    for answer in (wrong, right | {"hash": wrong["hash"]}, wrong | {"data": "right"}):
        node.faults.append(answering(httpx.Response(201, json=answer)))
        with pytest.raises(OutcomeUnknownError, match="acknowledges") as error:
            client.append("right")
        assert isinstance(error.value.__cause__, BadAnswerError)


@pytest.mark.parametrize(
    "changes", [{"count": 3}, {"first": 2}, {"last": "2"}, {"first": None}, {"first": 3, "last": 2}]
)
def test_positions_that_cannot_be_are_no_acknowledgement(
    node: FakeNode, client: Client, changes: dict[str, Any]
) -> None:
    answer = {"count": 2, "first": 1, "last": 2, "hash": "0" * 64} | changes
    node.faults.append(answering(httpx.Response(201, json=answer)))
    with pytest.raises(OutcomeUnknownError, match="for 2 values"):
        client.append_all([1, 2])


def test_no_more_is_read_than_an_answer_may_have(node: FakeNode, client: Client) -> None:
    sent = itertools.count()

    def without_end() -> Iterator[bytes]:
        for _ in sent:
            yield b" " * 2**20

    def fault(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=EVENTS, stream=Stream(without_end()))

    asks: list[Ask] = [lambda: client.head, lambda: next(client.follow(0))]
    asks.append(lambda: client.append(1))
    for ask in asks:
        sent = itertools.count()
        node.faults.append(fault)
        with pytest.raises(CairnError, match="more than 67108864 bytes"):
            ask()
        assert next(sent) == 65


# Pages


def test_pages_are_followed_nowhere_but_on(node: FakeNode, client: Client) -> None:
    client.append_all(range(5))
    for address in ("http://evil/?%s", "//evil/?%s", "/evil?%s", "?%s", "/?%s#/evil"):
        node.requests.clear()
        first = [json.loads(block.to_json()) for block in node.ledger[:2]]
        page = {"length": 6, "chain": first, "next": address % "start=2&limit=4"}
        node.faults.append(answering(httpx.Response(200, json=page)))
        client_blocks = list(client.scan())
        assert [block.index for block in client_blocks] == [0, 1, 2, 3, 4, 5]
        assert {request.url.host for request in node.requests} == {"127.0.0.1"}
        assert {request.url.path for request in node.requests} == {"/"}


def test_an_empty_page_is_not_the_end(node: FakeNode, client: Client) -> None:
    client.append_all(["a", "b"])
    page: dict[str, Any] = {"length": 3, "chain": [], "next": "/?start=1&limit=5"}
    node.faults.append(answering(httpx.Response(200, json=page)))
    assert [block.data for block in client.scan(1)] == ["a", "b"]
    page = {"blocks": [], "next": "/blocks?cursor=2&limit=5"}
    node.faults.append(answering(httpx.Response(200, json=page)))
    assert [block.data for block in client.search(contains="b")] == ["b"]


def test_pages_that_lead_nowhere_are_an_error(node: FakeNode, client: Client) -> None:
    page = {"length": 3, "chain": [], "next": "?start=0&limit=1000"}
    node.faults.append(answering(httpx.Response(200, json=page)))
    with pytest.raises(BadAnswerError, match="followed by itself"):
        list(client.scan())
    page = {"length": 3, "chain": [view()], "next": None}
    node.faults.append(answering(httpx.Response(200, json=page)))
    with pytest.raises(BadAnswerError, match="2 blocks before the end"):
        list(client.scan())


# Recording many


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_LINES", 3)


def sent(node: FakeNode) -> list[list[Any]]:
    return [json.loads(b"[" + r.content.replace(b"\n", b",") + b"]") for r in node.requests]


@pytest.mark.usefixtures("small_batches")
def test_extend_sends_batches_with_keys_of_their_own(node: FakeNode, client: Client) -> None:
    assert client.extend(range(7)) == 7
    assert sent(node) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(set(keys(node))) == 3


def test_a_batch_is_bounded_in_bytes(
    node: FakeNode, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_BYTES", 10)
    assert client.extend(["a" * 4, "b", "c" * 30, "d", "e"]) == 5
    assert sent(node) == [["aaaa", "b"], ["c" * 30], ["d", "e"]]


def test_what_waited_long_enough_is_sent(
    node: FakeNode, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_SECONDS", 0.3)

    def slow() -> Iterator[int]:
        yield from range(2)
        time.sleep(0.4)
        assert sent(node) == []
        yield 2
        assert sent(node) == [[0, 1, 2]]
        yield 3

    assert client.extend(slow()) == 4
    assert sent(node) == [[0, 1, 2], [3]]


@pytest.mark.usefixtures("small_batches")
def test_a_lost_answer_does_not_record_a_batch_twice(node: FakeNode, client: Client) -> None:
    node.faults.extend([node.answer, losing_the_answer(node), losing_the_answer(node)])
    assert client.extend(range(7)) == 7
    assert [block.data for block in node.ledger][1:] == list(range(7))
    assert sent(node) == [[0, 1, 2], [3, 4, 5], [3, 4, 5], [3, 4, 5], [6]]


@pytest.mark.usefixtures("small_batches")
def test_extend_says_how_much_is_durable_when_the_node_is_gone(
    node: FakeNode, connect: Connect
) -> None:
    client = connect(transport=node.transport, patience=SHORT)
    for fault, kind in ((unreachable, UnreachableError), (lost_on_the_way, OutcomeUnknownError)):
        node.faults.extend([node.answer, node.answer, *[fault] * 20])
        with pytest.raises((UnreachableError, OutcomeUnknownError)) as error:
            client.extend(range(10))
        assert type(error.value) is kind
        assert error.value.durable == 6
        node.faults.clear()
    assert [block.data for block in node.ledger][1:] == [*range(6), *range(6)]


@pytest.mark.usefixtures("small_batches")
def test_nothing_is_sent_after_what_failed(node: FakeNode, client: Client) -> None:
    node.faults.append(answering(problem(403, "forbidden")))
    with pytest.raises(NotPermittedError):
        client.extend(range(100))
    assert sent(node) == [[0, 1, 2]]


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_a_smaller_limit_on_the_way_does_not_stop_extend(
    node: FakeNode, client: Client, most: int
) -> None:
    def small(request: httpx.Request) -> httpx.Response:
        lines = request.content.count(b"\n") + 1
        return node.answer(request) if lines <= most else httpx.Response(413, text="nginx")

    node.faults.extend([small] * 50)
    assert client.extend(range(11)) == 11
    assert [block.data for block in node.ledger][1:] == list(range(11))


def test_an_item_that_is_too_large_on_the_way_is_named(node: FakeNode, client: Client) -> None:
    def small(request: httpx.Request) -> httpx.Response:
        too_large = b"xxx" in request.content
        return httpx.Response(413) if too_large else node.answer(request)

    node.faults.extend([small] * 50)
    with pytest.raises(ExtendError, match="item 5 is refused: 5 bytes are too large"):
        client.extend([0, 1, 2, 3, 4, "xxx", 6, 7, "xxx"])
    assert [block.data for block in node.ledger][1:] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("line", [0, -1, 4, 10**20, "1", None, True])
def test_a_line_that_cannot_be_names_none(node: FakeNode, client: Client, line: object) -> None:
    def odd(request: httpx.Request) -> httpx.Response:
        if b"bad" not in request.content:
            return node.answer(request)
        return problem(400, "bad-entry", reason="no", line=line)

    node.faults.extend([odd] * 50)
    with pytest.raises(ExtendError, match="item 2 is refused: no"):
        client.extend([0, 1, "bad"])
    assert [block.data for block in node.ledger][1:] == [0, 1]


def test_what_is_cancelled_is_not_sent(node: FakeNode) -> None:
    async def run() -> None:
        async def items() -> Any:
            yield "never sent"
            await asyncio.sleep(60)

        async with AsyncClient(transport=node.transport) as client:
            task = asyncio.create_task(client.extend(items()))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert node.requests == []


# Following


def streaming(*chunks: bytes | Exception) -> Fault:
    return lambda _request: httpx.Response(200, headers=EVENTS, stream=Stream(chunks))


def follow(client: Client, count: int, start: int = 0) -> list[int]:
    return [block.index for block in itertools.islice(client.follow(start), count)]


def starts(node: FakeNode) -> list[int]:
    return [int(request.url.params["start"]) for request in node.requests]


@pytest.mark.usefixtures("quick")
def test_following_goes_on_after_every_cut_without_gap_or_repeat(
    node: FakeNode, client: Client
) -> None:
    node.ledger.append_all("ab")
    first, second = event(node.ledger[0]), event(node.ledger[1])
    for end in (httpx.ReadError("cut"), httpx.ReadTimeout("silent"), None):
        for cut in range(0, len(first + second) + 1, 97):
            node.requests.clear()
            chunks = [(first + second)[:cut], *([end] if end else [])]
            node.faults.append(streaming(*chunks))
            assert follow(client, 3) == [0, 1, 2]
            whole = (cut >= len(first)) + (cut >= len(first + second))
            assert starts(node) == [0, whole]


def test_a_block_that_comes_again_is_not_given_again(node: FakeNode, client: Client) -> None:
    node.ledger.append_all("abc")
    zero, one, two = (event(node.ledger[i]) for i in range(3))
    node.faults.append(streaming(zero, zero, one, zero, one, two))
    assert follow(client, 4) == [0, 1, 2, 3]
    assert starts(node) == [0, 3]


@pytest.mark.parametrize(
    "chunk",
    [
        b"id: 2\nevent: block\ndata: {}\n\n",
        b"id: \nevent: block\ndata: {}\n\n",
        b"event: block\ndata: {}\n\n",
        b"id: -1\nevent: block\ndata: {}\n\n",
        b"id: \xc2\xb2\nevent: block\ndata: {}\n\n",
        b"id: \xff\nevent: block\ndata: {}\n\n",
        b"id: 0\nevent: block\ndata: {}\n\n",
        b"id: 0\nevent: block\ndata: <html>\n\n",
        b"id: 99999999999999999999999999\nevent: block\ndata: {}\n\n",
    ],
)
def test_a_block_that_is_left_out_or_none_is_an_error(
    node: FakeNode, client: Client, chunk: bytes
) -> None:
    node.faults.append(streaming(chunk))
    with pytest.raises(BadAnswerError, match="GET /events"):
        follow(client, 1)
    assert len(node.requests) == 1


def test_other_events_are_passed_over(node: FakeNode, client: Client) -> None:
    other = b": comment\n\nretry: 5\n\nevent: other\nid: x\ndata: {}\n\ndata: {}\n\nid: 7\n\n"
    node.faults.append(streaming(other + event(node.ledger[0])))
    assert follow(client, 1) == [0]


def test_an_answer_that_is_no_stream_is_an_error(node: FakeNode, client: Client) -> None:
    node.faults.append(answering(httpx.Response(200, json={})))
    with pytest.raises(BadAnswerError, match="no stream of events"):
        follow(client, 1)


def test_following_gives_up_when_patience_is_up(node: FakeNode, connect: Connect) -> None:
    client = connect(transport=node.transport, patience=SHORT)
    node.faults.append(streaming(event(node.ledger[0])))
    node.faults.extend([unreachable] * 20)
    blocks = client.follow(0)
    assert next(blocks).index == 0
    with pytest.raises(UnreachableError, match=r"GET /events\?start=1 had no answer"):
        next(blocks)
    assert 2 < len(node.requests) < 7


def test_patience_begins_when_a_stream_breaks_off(node: FakeNode, connect: Connect) -> None:
    def long(_request: httpx.Request) -> httpx.Response:
        def chunks() -> Iterator[bytes | Exception]:
            time.sleep(2 * SHORT)
            yield httpx.ReadTimeout("silent")

        return httpx.Response(200, headers=EVENTS, stream=Stream(chunks()))

    client = connect(transport=node.transport, patience=SHORT)
    node.faults.extend([long, long])
    assert follow(client, 1) == [0]
    assert len(node.requests) == 3


def test_a_node_that_hangs_up_at_once_is_not_asked_more_and_more(
    node: FakeNode, connect: Connect
) -> None:
    client = connect(transport=node.transport, patience=2)
    node.faults.extend([streaming(b": following\n\n")] * 4)
    began = time.monotonic()
    assert follow(client, 1) == [0]
    assert time.monotonic() - began > 0.05 + 0.1 + 0.2 + 0.4


def test_a_stream_that_brought_a_block_is_soon_asked_for_again(
    node: FakeNode, client: Client
) -> None:
    node.ledger.append_all(range(8))
    node.faults.extend(streaming(event(block)) for block in node.ledger)
    began = time.monotonic()
    assert follow(client, 9) == list(range(9))
    assert time.monotonic() - began < 4  # 8 pauses that grow take 5 s and more


# Requests


def test_what_every_request_says(node: FakeNode, connect: Connect) -> None:
    client = connect("https://example.org:8443/cairn/", token="t0k", transport=node.transport)
    node.faults.extend([answering(problem(401, "unauthorized"))] * 2)
    asks: list[Ask] = [lambda: client.append("é"), lambda: client.validate()]
    for ask in asks:
        with pytest.raises(NotPermittedError):
            ask()
    post, get = node.requests
    assert str(post.url) == "https://example.org:8443/cairn/block"
    assert str(get.url) == "https://example.org:8443/cairn/validate"
    assert post.content == '"é"'.encode()
    assert post.headers["Content-Type"] == "application/json"
    for request in (post, get):
        assert request.headers["Authorization"] == "Bearer t0k"
        assert request.headers["Accept-Encoding"] == "identity"
        assert request.headers["Accept"] == "application/json"


def test_every_request_has_timeouts(node: FakeNode, connect: Connect) -> None:
    client = connect(transport=node.transport, timeout=7)
    client.append(1)
    client.validate()
    follow(client, 1)
    timeouts = [request.extensions["timeout"] for request in node.requests]
    assert [t["read"] for t in timeouts] == [7, 3600, 50]
    assert all(t[step] == 7 for t in timeouts for step in ("connect", "write", "pool"))
