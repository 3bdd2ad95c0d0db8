"""Idempotency keys: a retry is answered as the first request was, and recorded once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.api.answers import problem
from tests.api.conftest import Serve
from tests.api.servers import Server, length, start

NUMBERS = count()


@pytest.fixture
def key() -> dict[str, str]:
    """Return the header with a key that is new."""
    return {"idempotency-key": f"key-{next(NUMBERS)}"}


def test_a_retry_is_answered_as_the_first_request(
    client: httpx.Client, key: dict[str, str]
) -> None:
    first = client.post("/block", content=b'{"pay": 1, "to": "bob"}', headers=key)
    assert first.status_code == 201
    client.post("/block", content=b'"something else"')
    before = length(client)
    for body in (b'{"pay": 1, "to": "bob"}', b' {"to":"\\u0062ob","pay":1e0}\n'):
        again = client.post("/block", content=body, headers=key)
        assert again.status_code == 201
        assert again.content == first.content
        assert again.headers["location"] == first.headers["location"]
    assert length(client) == before


def test_a_retry_of_lines(client: httpx.Client, key: dict[str, str]) -> None:
    first = client.post("/blocks", content=b"1\n2\n3", headers=key)
    assert first.json()["count"] == 3
    client.post("/block", content=b"4")
    before = length(client)
    again = client.post("/blocks", content=b"\n1\n 2\r\n\n3\n", headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert length(client) == before


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("/block", b"1"), ("/block", b"2")),
        (("/block", b"1"), ("/block", b'"1"')),
        (("/block", b"[1]"), ("/block", b"1")),
        (("/block", b"1"), ("/blocks", b"1\n1")),
        (("/blocks", b"1\n2"), ("/block", b"1")),
        (("/blocks", b"1\n2"), ("/block", b"2")),
        (("/blocks", b"1\n2"), ("/blocks", b"1")),
        (("/blocks", b"1\n2"), ("/blocks", b"2\n1")),
        (("/blocks", b"1\n2"), ("/blocks", b"1\n2\n3")),
        (("/blocks", b"1\n2"), ("/blocks", b"12")),
    ],
)
def test_another_body_is_refused(
    client: httpx.Client,
    key: dict[str, str],
    first: tuple[str, bytes],
    then: tuple[str, bytes],
) -> None:
    done = client.post(first[0], content=first[1], headers=key)
    assert done.status_code == 201
    before = length(client)
    found = problem(client.post(then[0], content=then[1], headers=key), 422, "key-reused")
    assert key["idempotency-key"] in found["detail"]
    assert length(client) == before
    assert client.post(first[0], content=first[1], headers=key).content == done.content


def test_a_refused_body_does_not_use_up_its_key(client: httpx.Client, key: dict[str, str]) -> None:
    for path, body in (("/block", b"NaN"), ("/blocks", b"1\nNaN"), ("/block", b"")):
        problem(client.post(path, content=body, headers=key), 400, "bad-entry")
    assert client.post("/block", content=b"1", headers=key).status_code == 201


def test_keys_differ_by_case_and_length(client: httpx.Client, key: dict[str, str]) -> None:
    before = length(client)
    name = key["idempotency-key"]
    for spelt in (name, name.upper(), name + ".", name * 30):
        headers = {"idempotency-key": spelt}
        assert client.post("/block", content=b"1", headers=headers).status_code == 201
    assert length(client) == before + 4


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"x" * 256,
        b"x" * 20_000,
        b"a b",
        b"a\tb",
        b"\xe9",
        "é".encode(),
        "😀".encode(),
        b"\x7f",
        b"\x80",
        b"\xa0",
        b"\xad",
        b"\xff",
    ],
)
@pytest.mark.parametrize("path", ["/block", "/blocks"])
def test_odd_keys_are_refused(server: Server, client: httpx.Client, path: str, odd: bytes) -> None:
    """As the document says: printable ASCII without spaces, 1 to 255 of it."""
    before = length(client)
    request = server.request(f"POST {path}", "Idempotency-Key: KEY", body=b"1")
    answer = server.ask(request.replace(b"KEY", odd))
    problem(answer, 400, "bad-request")
    assert length(client) == before


def test_two_keys_are_refused(server: Server, client: httpx.Client) -> None:
    before = length(client)
    keys = ("Idempotency-Key: one", "Idempotency-Key: two")
    problem(server.ask(server.request("POST /block", *keys, body=b"1")), 400, "bad-request")
    assert length(client) == before


def test_any_printable_ascii_is_a_key(client: httpx.Client) -> None:
    text = "".join(map(chr, range(33, 127)))
    for name in (text, "x" * 255, '"quoted"', "');DROP_TABLE_keys;--", "%s", "../../x"):
        headers = {"idempotency-key": name}
        first = client.post("/block", content=b"1", headers=headers)
        assert first.status_code == 201
        assert client.post("/block", content=b"1", headers=headers).content == first.content


def at_once(*requests: Callable[[], httpx.Response]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return [future.result() for future in [pool.submit(request) for request in requests]]


@pytest.mark.parametrize(("path", "body"), [("/block", b'"pay"'), ("/blocks", b'"pay"\n"again"')])
def test_one_key_at_once_records_once(
    client: httpx.Client, key: dict[str, str], path: str, body: bytes
) -> None:
    before = length(client)
    for _ in range(5):
        answers = at_once(*[lambda: client.post(path, content=body, headers=key)] * 16)
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
    assert length(client) == before + body.count(b"pay") + body.count(b"again")


def test_one_key_at_once_with_several_bodies(client: httpx.Client, key: dict[str, str]) -> None:
    """One of them is recorded; those who sent it are told so, all others that it is taken."""
    before = length(client)

    def post(number: int) -> Callable[[], httpx.Response]:
        return lambda: client.post("/block", content=json.dumps(number), headers=key)

    answers = at_once(*[post(i % 4) for i in range(16)])
    created = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in created}) == 1
    assert len(created) == 4
    for answer in answers:
        if answer not in created:
            problem(answer, 422, "key-reused")
    assert length(client) == before + 1


def test_keys_are_remembered_across_restarts_and_crashes(serve: Serve, tmp_path: Path) -> None:
    headers = {"idempotency-key": "once"}
    server = serve()
    with server.client() as client:
        first = client.post("/blocks", content=b"1\n2", headers=headers)
    server.stop()
    server = serve()
    with server.client() as client:
        assert client.post("/blocks", content=b"1\n2", headers=headers).content == first.content
        other = client.post("/block", content=b"3", headers={"idempotency-key": "twice"})
    server.kill()
    with start(tmp_path / "ledger") as server, server.client() as client:
        again = client.post("/block", content=b"3", headers={"idempotency-key": "twice"})
        assert again.content == other.content
        assert length(client) == 4
        assert client.get("/validate").json()["valid"]
