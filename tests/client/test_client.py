"""What clients promise, blocking or not, of a fake node and of the real one."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings

from cairn import (
    Block,
    EntryError,
    ExtendError,
    Genesis,
    KeyReusedError,
    Ledger,
    NoSuchBlockError,
    UsageError,
)
from cairn.client import AsyncClient, Client, RefusedEntryError
from tests.client.conftest import Connect
from tests.client.nodes import FakeNode
from tests.test_ledger import JSON

TOO_DEEP: Any = []
"""Has a canonical form, but is past the limit of the ledger, so that only the node refuses it."""
for _ in range(150):
    TOO_DEEP = [TOO_DEEP]


@pytest.fixture(params=["fake", "real"])
def client(request: pytest.FixtureRequest, connect: Connect, node: FakeNode) -> Client:
    if request.param == "fake":
        node.page = 3
        return connect(transport=node.transport)
    return connect(request.getfixturevalue("real_node").url)


def data(blocks: Iterator[Block] | list[Block]) -> list[Any]:
    return [block.data for block in blocks]


# Recording


def test_an_append_returns_its_block(client: Client) -> None:
    before = len(client)
    block = client.append({"user": "alice", "did": "login"})
    assert (block.index, block.data) == (before, {"user": "alice", "did": "login"})
    assert block.hash == block.header.hash.hex()
    assert client[before] == client.head == block
    assert len(client) == before + 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        {"": {"": [[]]}},
        [-(2**63), 2**64 - 1, 2**53 + 1],
        [0.1, 1e-7, 5e-324, 1.7976931348623157e308, 1e20, 1e21, -0.5],
        '\u2028\x00\x7f\r\n"\\/é😀\U0010ffff',
        {"\ufb33": 1, "\U0001f600": 2, "\x80": 3},
        "x" * 5_000_000,
        list(range(100_000)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_every_value_reads_back_equal(client: Client, value: Any) -> None:
    block = client.append(value)
    assert block.data == value
    assert client[block.index] == block
    assert client.append_json(json.dumps(value)).data == value
    assert data(client.scan(block.index)) == [value, value]


@given(JSON)
@settings(max_examples=30)
def test_any_value_reads_back_equal(value: Any) -> None:
    with Client(transport=FakeNode().transport) as client:
        assert client.append(value).data == value
        assert client.head.data == value
        assert data(client.scan(1)) == [value]


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**64, {1: 2}, {"a": {1}}, "\ud800"])
def test_what_has_no_canonical_form_is_refused_as_by_a_ledger_and_not_sent(
    node: FakeNode, connect: Connect, value: object
) -> None:
    client = connect(transport=node.transport)
    with pytest.raises(EntryError) as expected:
        node.ledger.append(value)
    for record in (client.append, lambda v: client.append_all([1, v])):
        with pytest.raises(EntryError) as refused:
            record(value)
        assert str(refused.value) == str(expected.value)
    assert node.requests == []


@pytest.mark.parametrize("text", ["NaN", '{"a":1,"a":2}', "", "{} {}", b"\xff", "\ud800"])
def test_a_text_that_is_no_acceptable_json_is_not_sent(
    node: FakeNode, connect: Connect, text: str | bytes
) -> None:
    with pytest.raises(EntryError):
        connect(transport=node.transport).append_json(text)
    assert node.requests == []


def test_what_is_past_a_limit_of_the_ledger_is_refused_as_by_a_ledger(client: Client) -> None:
    before = len(client)
    with pytest.raises(EntryError) as expected, Ledger.in_memory() as ledger:
        ledger.append({"a": TOO_DEEP})
    with pytest.raises(EntryError) as refused:
        client.append({"a": TOO_DEEP})
    assert refused.value.reason == expected.value.reason
    assert expected.value.path.startswith(refused.value.path.rstrip("…"))  # a node shows the start
    assert refused.value.path.startswith(".a[0][0]")
    with pytest.raises(EntryError, match="17000002 bytes of canonical JSON are past the limit"):
        client.append("x" * 17_000_000)
    assert len(client) == before


def test_append_all_records_a_block_each(client: Client) -> None:
    before = len(client)
    assert client.append_all([{"n": n} for n in range(5)]) == range(before, before + 5)
    assert data(client[before:]) == [{"n": n} for n in range(5)]
    assert client.append_all([None]) == range(before + 5, before + 6)


@pytest.mark.parametrize("position", [0, 3, 6])
def test_append_all_is_all_or_nothing_and_says_which_value_was_refused(
    client: Client, position: int
) -> None:
    before = len(client)
    values: list[Any] = list(range(7))
    values[position] = TOO_DEEP
    with pytest.raises(RefusedEntryError, match="nested too deeply") as refused:
        client.append_all(values)
    assert refused.value.position == position
    assert len(client) == before


def test_append_all_of_nothing_or_of_too_much_is_refused(client: Client) -> None:
    with pytest.raises(EntryError, match="there is no value to record"):
        client.append_all([])
    with pytest.raises(EntryError, match="45000008 bytes are past what a node takes at once"):
        client.append_all(["x" * 15_000_000] * 3)


def test_a_key_makes_retries_one(client: Client) -> None:
    key = f"key-{len(client)}"
    block = client.append({"b": 1, "a": 2}, key=key)
    assert client.append({"a": 2, "b": 1}, key=key) == block
    assert client.append_json('{"b" : 1, "a":2}', key=key) == block
    positions = client.append_all([1, 2], key=key + "-all")
    assert client.append_all([1, 2], key=key + "-all") == positions
    assert len(client) == positions.stop == block.index + 3


def test_a_key_is_for_one_value(client: Client) -> None:
    key = f"key-{len(client)}"
    client.append(1, key=key)
    before = len(client)
    with pytest.raises(KeyReusedError, match=key):
        client.append(2, key=key)
    with pytest.raises(KeyReusedError, match=key):
        client.append_all([1, 2], key=key)
    assert len(client) == before


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", " a", "é", "a\nb", "a\x7f"])
def test_a_key_that_no_header_can_carry_is_refused(client: Client, key: str) -> None:
    before = len(client)
    with pytest.raises(EntryError, match="a key has 1 to 255 printable ASCII"):
        client.append(1, key=key)
    with pytest.raises(EntryError, match="a key has 1 to 255 printable ASCII"):
        client.append_all([1], key=key)
    assert len(client) == before


def test_every_key_that_may_be_is_taken(client: Client) -> None:
    for key in ("".join(map(chr, range(33, 127))), f"{len(client)}".rjust(255, "k")):
        block = client.append("once", key=key)
        assert client.append("once", key=key) == block


# Recording many


def test_extend_takes_any_iterable_once(client: Client) -> None:
    before = len(client)
    assert client.extend({"n": n} for n in range(10_000)) == 10_000
    assert client.extend([]) == 0
    assert client.extend(iter("ab")) == 2
    assert len(client) == before + 10_002
    assert data(client[before + 9998 :]) == [{"n": 9998}, {"n": 9999}, "a", "b"]


def test_extend_json_takes_lines_of_bytes_and_text(client: Client) -> None:
    before = len(client)
    assert client.extend_json([b'{"b":1,"a":2}\n', ' "x"\n', "3"]) == 3
    assert data(client[before:]) == [{"a": 2, "b": 1}, "x", 3]


@pytest.mark.parametrize("bad", [math.nan, TOO_DEEP, "x" * 17_000_000, "x" * 40_000_000])
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_what_comes_before_a_refused_item_is_durable(
    client: Client, count: int, bad: object
) -> None:
    before = len(client)
    with pytest.raises(ExtendError) as stopped:
        client.extend(itertools.chain(range(count), [bad], ["never looked at", bad]))
    assert stopped.value.durable == count
    assert stopped.value.cause is stopped.value.__cause__
    assert len(client) == before + count
    assert data(client.scan(before, before + 5)) == list(range(count))[:5]
    assert data(client[before + count - 1 :]) == ([count - 1] if count else [client.head.data])


def test_what_comes_before_an_error_of_the_iterable_is_durable(client: Client) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise LookupError("mine")

    before = len(client)
    with pytest.raises(LookupError) as error:
        client.extend(items())
    assert error.value.__notes__ == ["the 3 items before are durable"]
    assert data(client[before:]) == [0, 1, 2]


# Reading


def with_seven(client: Client) -> tuple[list[Block], int]:
    """Record seven values; return their blocks, and the length of the ledger."""
    start = client.append_all([{"n": n} for n in range(7)]).start
    return list(client.scan(start)), start + 7


def test_reading_is_as_of_a_list(client: Client) -> None:
    blocks, end = with_seven(client)
    assert [block.index for block in blocks] == list(range(end - 7, end))
    assert len(client) == end
    for n in range(1, 8):
        assert client[-n] == client[end - n] == blocks[-n]
    assert client[0] == client[-end]
    for index in (end, -end - 1, 2**63 - 1, 2**63, 10**30, -(10**30)):
        with pytest.raises(NoSuchBlockError):
            client[index]


def test_slices_are_as_of_a_list(node: FakeNode) -> None:
    node.page = 3
    with Client(transport=node.transport) as client:
        client.append_all(range(7))
        blocks = list(client)
        assert len(blocks) == 8
        bounds = [None, 0, 1, 3, 7, 8, 9, -1, -3, -9]
        for start, stop, step in itertools.product(bounds, bounds, [None, 1, 2, 3, -1, -2]):
            assert client[start:stop:step] == blocks[start:stop:step]
        assert list(reversed(client)) == blocks[::-1]


def test_a_scan_is_of_a_span(client: Client) -> None:
    blocks, end = with_seven(client)
    for start, stop in itertools.product(range(9), range(9)):
        assert list(client.scan(end - 7 + start, end - 7 + stop)) == blocks[start:stop]
    assert list(client.scan(end - 7)) == blocks
    assert list(client.scan(end + 5)) == []


def test_a_scan_ends_where_the_ledger_did_when_it_began(client: Client) -> None:
    blocks, end = with_seven(client)
    scan = client.scan(end - 5)
    found = [next(scan)]
    client.append("later")
    assert [*found, *scan] == blocks[-5:]


def test_what_is_found_by_its_hash(client: Client) -> None:
    blocks, _ = with_seven(client)
    assert client.find(blocks[-3].hash) == blocks[-3]
    assert client.find(blocks[-3].hash.upper()) == blocks[-3]
    for other in ("0" * 64, "", "x" * 64, blocks[-3].hash[:-2], "../head"):
        assert client.find(other) is None


def test_genesis_says_who_the_ledger_is(client: Client) -> None:
    assert isinstance(client.genesis, Genesis)
    assert client.genesis.limits.depth == 128
    assert client.id == client[0].hash


def test_a_search_is_by_text_and_time(client: Client) -> None:
    word = f"needle-{len(client)}"
    start = client.append(word)
    wanted = [client.append({"é&=#": [word, n]}) for n in range(5)]
    client.append("other")
    assert list(client.search(contains=f'["{word}"]')) == []
    assert list(client.search(contains=f'["{word}",')) == wanted
    assert list(client.search(contains=word, until=wanted[0].timestamp)) == [start]
    assert list(client.search(contains='é&=#":["' + word, since=wanted[2].timestamp)) == wanted[2:]
    assert list(client.search(contains="\ud800")) == []
    assert [b for b in client.search(since=start.timestamp) if b.index <= start.index] == [start]


def test_a_search_takes_datetimes(connect: Connect, request: pytest.FixtureRequest) -> None:
    client = connect(request.getfixturevalue("real_node").url)
    block = client.append("now")
    moment = datetime.fromisoformat(block.timestamp)
    elsewhere = moment.astimezone(tz=UTC) + timedelta(microseconds=1)
    assert list(client.search(since=moment, until=elsewhere)) == [block]


def test_validation_is_the_nodes(client: Client) -> None:
    client.append(1)
    report = client.validate()
    assert (report.valid, report.failures, report.blocks) == (True, (), len(client))


def test_following_begins_where_it_is_told_to(client: Client) -> None:
    before = len(client)
    client.append_all(range(5))
    assert data(list(itertools.islice(client.follow(before), 5))) == list(range(5))
    assert data(list(itertools.islice(client.follow(before + 4), 1))) == [4]
    with pytest.raises(NoSuchBlockError):
        next(client.follow(before + 1000))


# What is of one kind


def test_following_begins_with_what_is_recorded_after_the_call(node: FakeNode) -> None:
    with Client(transport=node.transport) as client:
        client.append("before")
        follow = client.follow()
        client.append("after")
        assert next(follow).data == "after"
        follow.close()  # type: ignore[attr-defined]


def test_many_threads_share_a_client(request: pytest.FixtureRequest) -> None:
    with Client(request.getfixturevalue("real_node").url) as client:
        before, indices = len(client), list[int]()

        def work(name: int) -> None:
            indices.extend(client.append([name, n]).index for n in range(25))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(indices) == list(range(before, before + 200))
        assert sorted(data(client.scan(before))) == [[i, n] for i in range(8) for n in range(25)]


async def extend_from_a_stream(client: AsyncClient) -> list[Any]:
    async def items() -> Any:
        for n in range(3):
            yield {"n": n}

    async with client:
        assert await client.extend(items()) == 3
        return [block.data async for block in client.scan(1)]


def test_extend_takes_an_async_iterable_too(node: FakeNode) -> None:
    found = asyncio.run(extend_from_a_stream(AsyncClient(transport=node.transport)))
    assert found == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_client_that_is_closed_says_so(client: Client) -> None:
    client.close()
    client.close()
    with pytest.raises(UsageError, match="this client is closed"):
        client.append(1)
    with pytest.raises(UsageError, match="this client is closed"):
        next(client.follow(1))


@pytest.mark.parametrize(
    "url", ["", "localhost:5000", "ftp://host", "http://", "http://me:secret@host", "http://h:x"]
)
def test_what_is_no_url_of_a_node_is_refused_at_once(connect: Connect, url: str) -> None:
    with pytest.raises(UsageError):
        connect(url)
    with pytest.raises(UsageError, match="a token is printable ASCII"):
        connect(token="a b")


def test_a_client_shows_where_it_is_and_not_its_token(connect: Connect) -> None:
    client = connect("http://example.org/cairn", token="secret")
    assert repr(client).endswith("Client('http://example.org/cairn/')")
