"""Bodies that are not acceptable: the right refusal, and nothing is recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from cairn.api.bounds import Bounds
from tests.api.answers import problem
from tests.api.servers import Server, length

BODY_BYTES = Bounds().body_bytes
MANY = 100_000

NOT_JSON = "not JSON"
BAD: dict[str, tuple[bytes, str]] = {
    "word": (b"hello", NOT_JSON),
    "form": (b"a=b&c=d", NOT_JSON),
    "multipart": (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1', NOT_JSON),
    "single quotes": (b"{'a': 1}", NOT_JSON),
    "trailing comma": (b"[1,]", NOT_JSON),
    "trailing garbage": (b'{"a": 1} x', NOT_JSON),
    "two values": (b"1 2", NOT_JSON),
    "comment": (b"1 // one", NOT_JSON),
    "NUL": (b"\0", NOT_JSON),
    "NUL after": (b"1\0", NOT_JSON),
    "open string": (b'"abc', NOT_JSON),
    "open object": (b'{"a":', NOT_JSON),
    "closed only": (b"]", NOT_JSON),
    "leading zero": (b"01", NOT_JSON),
    "plus": (b"+1", NOT_JSON),
    "hex": (b"0x10", NOT_JSON),
    "half a fraction": (b"1.", NOT_JSON),
    "no whole": (b".5", NOT_JSON),
    "non-ASCII digits": ("٣".encode(), NOT_JSON),
    "True": (b"True", NOT_JSON),
    "no key": (b"{1: 2}", NOT_JSON),
    "bad escape": (b'"\\x41"', NOT_JSON),
    "half an escape": (b'"\\u12', NOT_JSON),
    "control character": (b'"a\x01b"', NOT_JSON),
    "tab in string": (b'"a\tb"', NOT_JSON),
    "escape in string": (b'"\x1b[2J"', NOT_JSON),
    "no-break space": ("\u00a01".encode(), NOT_JSON),
    "NaN": (b"NaN", "NaN is not JSON"),
    "NaN inside": (b'{"a": [1, NaN]}', "NaN is not JSON"),
    "Infinity": (b"Infinity", "Infinity is not JSON"),
    "minus Infinity": (b"[-Infinity]", "-Infinity is not JSON"),
    "1e400": (b"1e400", "past the range"),
    "-1e400": (b'{"a": -1e400}', "past the range"),
    "million digits and a fraction": (b"9" * 10**6 + b".5", "past the range"),
    "2**64": (b"18446744073709551616", "past 64 bits"),
    "-2**63 - 1": (b"[-9223372036854775809]", "past 64 bits"),
    "million digits": (b"-" + b"7" * 10**6, "past 64 bits"),
    "equal keys": (b'{"a": 1, "a": 1}', "duplicate key"),
    "equal keys, one escaped": (b'{"a": 1, "\\u0061": 2}', "duplicate key"),
    "equal keys below": (b'[{"x": {"b": 1, "c": 2, "b": 3}}]', "duplicate key"),
    "equal keys far below": (b'{"a":' * 99 + b'{"":1,"":1}' + b"}" * 99, "duplicate key"),
    "equal empty keys": (b'{"": 1, "": 2}', "duplicate key"),
    "lone high surrogate": (b'"\\ud800"', "lone surrogate U\\+D800"),
    "lone low surrogate": (b'["\\udc00\\ud800"]', "lone surrogate"),
    "lone surrogate in a key": (b'{"\\uDFFF": 1}', "lone surrogate"),
    "raw surrogate": (b'"\xed\xa0\x80"', "not UTF-8"),
    "raw pair": (b'"\xed\xa0\xbd\xed\xb8\x80"', "not UTF-8"),
    "byte ff": (b'"\xff"', "not UTF-8"),
    "overlong": (b'"\xc0\xaf"', "not UTF-8"),
    "past Unicode": (b'"\xf4\x90\x80\x80"', "not UTF-8"),
    "cut off": (b'"\xf0\x9f\x98"', "not UTF-8"),
    "Latin-1": ('"é"'.encode("latin-1"), "not UTF-8"),
    "UTF-8 BOM": (b"\xef\xbb\xbf1", "BOM|byte-order|not JSON"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "UTF-16 LE": ('{"a": 1}'.encode("utf-16-le"), NOT_JSON),
    "UTF-32": ("[1]".encode("utf-32"), "not UTF-8"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "not UTF-8"),
    "open brackets": (b"[" * MANY, "nested too deeply|not JSON"),
    "open objects": (b'{"a":' * MANY, "nested too deeply|not JSON"),
    "nested": (b"[" * MANY + b"]" * MANY, "nested too deeply"),
    "nested objects": (b'{"a":' * MANY + b"1" + b"}" * MANY, "nested too deeply"),
    "129 deep": (b"[" * 129 + b"]" * 129, "nested too deeply"),
    "129 deep, objects": (b'{"a":' * 129 + b"1" + b"}" * 129, "nested too deeply"),
    "many commas": (b"[" + b"," * 500_000, NOT_JSON),
    "a long key twice": (b'{"%b":1,"%b":1}' % ((b"k" * 10**6,) * 2), "duplicate key"),
    "a long key above": (b'{"%b":' % (b"k" * 10**6) + b"[" * 128 + b"]" * 128 + b"}", "nested"),
    "long keys above": (b'{"%b":' % ("😀" * 9999).encode() * 99 + b"[" * 99 + b"]" * 99 + b"}" * 99,
                        "nested"),
}  # fmt: skip
EMPTY = {"empty": b"", "blank": b" ", "blank lines": b"\r\n \n\t"}


@pytest.fixture
def unchanged(client: httpx.Client) -> Iterator[None]:
    """Check that nothing was recorded meanwhile, and that the node works."""
    head = client.get("/head").content
    yield
    assert client.get("/head").content == head
    assert client.get("/health").status_code == 200


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", BAD)
def test_it_is_refused(client: httpx.Client, name: str) -> None:
    body, reason = BAD[name]
    found = problem(client.post("/block", content=body), 400, "bad-entry")
    assert list(found) == ["type", "title", "status", "detail", "reason", "path"]
    assert re.search(reason, found["reason"]), found
    assert found["reason"] in found["detail"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", BAD)
def test_one_bad_line_refuses_all_and_is_named(client: httpx.Client, name: str) -> None:
    bad, _ = BAD[name]
    bad = bad.replace(b"\r\n", b" ")
    for body, line in (
        (b"1\n" + bad + b"\n3\n", 2),
        (bad + b"\n2", 1),
        (b"1\n\n \r\n" + bad, 4),
    ):
        found = problem(client.post("/blocks", content=body), 400, "bad-entry")
        assert list(found) == ["type", "title", "status", "detail", "reason", "path", "line"]
        assert found["line"] == line


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("route", ["/block", "/blocks"])
@pytest.mark.parametrize("name", EMPTY)
def test_there_is_no_value(client: httpx.Client, route: str, name: str) -> None:
    problem(client.post(route, content=EMPTY[name]), 400, "bad-entry")


@pytest.mark.usefixtures("unchanged")
def test_a_request_without_a_body(server: Server) -> None:
    for route in ("/block", "/blocks"):
        problem(server.ask(server.request(f"POST {route}")), 400, "bad-entry")


@pytest.mark.usefixtures("unchanged")
def test_the_place_in_a_value_is_named(client: httpx.Client) -> None:
    deep = b"[" * 126 + b"]" * 126
    found = problem(
        client.post("/block", content=b'{"a": [1, {"b": %b}]}' % deep), 400, "bad-entry"
    )
    assert found["path"].startswith(".a[1].b[0][0]")


@pytest.mark.usefixtures("unchanged")
def test_a_string_past_the_limit_of_the_ledger(client: httpx.Client) -> None:
    body = b'"' + b"x" * 2**24 + b'"'
    for route in ("/block", "/blocks"):
        found = problem(client.post(route, content=body), 400, "bad-entry")
        assert "past the limit of this ledger" in found["reason"]


def test_a_string_at_the_limit_of_the_ledger(client: httpx.Client) -> None:
    most = 2**24 - 16 - 2
    answer = client.post("/block", content=b'"' + b"x" * most + b'"')
    assert answer.status_code == 201
    assert answer.json()["size"] == 2**24
    problem(client.post("/block", content=b'"' + b"x" * (most + 1) + b'"'), 400, "bad-entry")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("route", ["/block", "/blocks"])
def test_a_body_of_50_mb_is_refused(client: httpx.Client, route: str) -> None:
    """And who sends it hears why, whether it says its length or not."""
    part = b" " * 2**20
    problem(client.post(route, content=part * 50), 413, "too-large")
    problem(client.post(route, content=(part for _ in range(50))), 413, "too-large")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("route", ["/block", "/blocks"])
@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
def test_a_declared_length_is_refused_before_the_body_comes(
    server: Server, route: str, expect: tuple[str, ...]
) -> None:
    for declared in (BODY_BYTES + 1, 10**15, 2**64 - 1):
        request = server.request(f"POST {route}", f"Content-Length: {declared}", *expect)
        problem(server.ask(request), 413, "too-large")


def test_the_longest_body_is_taken(server: Server, client: httpx.Client) -> None:
    blank = b" " * (BODY_BYTES - 1)
    assert client.post("/block", content=blank + b"7").json()["data"] == 7
    assert client.post("/blocks", content=(blank, b"7")).json()["count"] == 1
    problem(client.post("/block", content=blank + b"77"), 413, "too-large")
    problem(client.post("/block", content=iter((blank, b"7", b"7"))), 413, "too-large")


def test_none_of_it_is_in_the_chain(client: httpx.Client) -> None:
    assert client.get("/validate").json()["valid"]
    assert client.get("/", params={"start": length(client) - 1}).status_code == 200
