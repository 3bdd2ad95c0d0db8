"""Odd requests: parameters, paths, methods, and what is hardly HTTP. Never a 500, never a hang."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.api.answers import problem
from tests.api.conftest import Serve
from tests.api.servers import Answer, Server, length

OVERFLOWS = ["9223372036854775808", "1" + "0" * 30, "9" * 5000]
BAD_NUMBERS = ["", "-1", "+1", "1.0", "1e3", "0x1", "1_0", "%201", "1%0A", "1%00", "%D9%A3",
               "%C2%B2", "%EF%BC%91", "true", "null", "NaN", "%ff", "[1]", *OVERFLOWS]  # fmt: skip


@pytest.fixture(scope="module")
def quick(serve_all: Serve) -> Server:
    """Return a server that soon tires of waiting, for what it may take for half a request."""
    return serve_all(bounds={"header_seconds": 0.3, "chunk_seconds": 0.3, "idle_seconds": 0.3})


@pytest.fixture(autouse=True)
def works_as_before(client: httpx.Client, request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that nothing here is recorded, and that the node goes on."""
    before = length(client)
    yield
    if "records" not in request.node.name:
        assert length(client) == before


@pytest.mark.parametrize("value", BAD_NUMBERS)
@pytest.mark.parametrize(
    "where", ["/?start=", "/?limit=", "/blocks?cursor=", "/blocks?limit=", "/events?start="]
)
def test_what_is_no_number_or_out_of_range(server: Server, where: str, value: str) -> None:
    found = problem(server.ask(server.request(f"GET {where}{value}")), 400, "bad-request")
    assert where.split("?")[1].removesuffix("=") in found["detail"]


@pytest.mark.parametrize("value", ["0", "1001", "9223372036854775807"])
def test_a_page_has_1_to_1000_blocks(client: httpx.Client, value: str) -> None:
    for path in ("/", "/blocks"):
        problem(client.get(path, params={"limit": value}), 400, "bad-request")


def test_a_start_past_the_end(client: httpx.Client) -> None:
    past = length(client) + 1
    for value in (past, 2**63 - 1):
        for where in ("/?start=", "/blocks?cursor=", "/events?start="):
            problem(client.get(f"{where}{value}"), 404, "no-such-block")


def test_leading_zeros_are_fine(client: httpx.Client) -> None:
    assert client.get("/?start=000&limit=0001").json()["chain"][0]["index"] == 0


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/?begin=0", "'begin'"),
        ("/?Start=0", "'Start'"),
        ("/?start=0&start=0", "twice"),
        ("/?start=0&%73tart=0", "twice"),
        ("/?limit=5&start=0&limit=5", "twice"),
        ("/?=", "''"),
        ("/?start", "start"),
        ("/?start[]=0", "'start[]'"),
        ("/?" + "a" * 1000, "'aaaaa"),
        ("/?" + "&".join(f"p{i}=1" for i in range(5000)), "'p0'"),
        ("/head?x=1", "'x'"),
        ("/health?x", "'x'"),
        ("/blocks/0?x=1", "'x'"),
        ("/blocks/0/data?start=0", "'start'"),
        ("/validate?all=1", "'all'"),
        ("/metrics?name[]=x", "'name[]'"),
        ("/docs?theme=dark", "'theme'"),
        ("/openapi.json?x=1", "'x'"),
    ],
)
def test_parameters_that_are_not_known(server: Server, target: str, shown: str) -> None:
    found = problem(server.ask(server.request(f"GET {target}")), 400, "bad-request")
    assert shown in found["detail"]


@pytest.mark.parametrize("route", ["/block", "/blocks"])
def test_a_post_takes_no_parameters(client: httpx.Client, route: str) -> None:
    problem(client.post(f"{route}?a=1", content=b"1"), 400, "bad-request")


@pytest.mark.parametrize("target", ["/?", "/head?", "/blocks?&", "/?&&", "/blocks?contains="])
def test_an_empty_query_is_none(server: Server, target: str) -> None:
    assert server.ask(server.request(f"GET {target}")).status == 200


@pytest.mark.parametrize(
    "target",
    [
        "/%ff",
        "/%00",
        "/%",
        "/%zz",
        "/%c0%af",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/../../etc/passwd",
        "/./head",
        "/head/.",
        "/head/..",
        "/x/../head",
        "/HEAD",
        "/head%20",
        "/head%2f",
        "/head;x=1",
        "//",
        "//head",
        "//evil.example/head",
        "///",
        "/\\head",
        "/%5chead",
        "/blocks//0",
        "/blocks/0//data",
        "/blocks/%2e%2e/head",
        "/blocks/0/data/0",
        "/" + "a" * 60_000,
        "/" + "%41" * 20_000,
        "/" + "a/" * 20_000,
        "/\u00e9",
        "/.git/config",
        "/favicon.ico",
        "/tail.sqlite",
        "/lock",
        "*",
        "http://localhost/nope",
        "http://evil.example:99999/nope",
    ],
)
def test_paths_that_lead_nowhere(server: Server, target: str) -> None:
    for method in ("GET", "POST"):
        answer = server.ask(server.request(f"{method} {target}"))
        assert answer.status in (400, 404)
        problem(answer, answer.status, "not-found" if answer.status == 404 else "bad-request")


def test_escapes_in_a_path_are_read(server: Server) -> None:
    assert server.ask(server.request("GET /%68ead")).status == 200
    assert server.ask(server.request("GET /blocks/%30")).status == 200
    assert server.ask(server.request("GET http://localhost/head")).status == 200


@pytest.mark.parametrize(
    "method",
    ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "PURGE", "QUERY", "M-SEARCH"],
)
def test_methods_that_are_not_there(server: Server, method: str) -> None:
    for path in ("/", "/block", "/blocks", "/blocks/0", "/health"):
        answer = server.ask(server.request(f"{method} {path}", body=b"1"))
        assert answer.status in (400, 405)
        problem(answer, answer.status, "bad-request")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0",
        b"\xff\xfe\xfd",
        b"GET",
        b"GET /head",
        b"GET  /head HTTP/1.1",
        b"GET head HTTP/1.1",
        b"GET /he ad HTTP/1.1",
        b"GET /he\tad HTTP/1.1",
        b"GET /head\xff HTTP/1.1",
        b"GET /head HTTP/1.1 x",
        b"GET /head HTTP/2.0",
        b"GET /head HTTP/9.9",
        b"GET /head HTTP/1",
        b"GET /head http/1.1",
        b"GET /head FTP/1.1",
        b"GET ? HTTP/1.1",
        b"GET # HTTP/1.1",
        b"GET :// HTTP/1.1",
        b"GET http:// HTTP/1.1",
        b"GET http://[ HTTP/1.1",
        b"GET http://[::1/head HTTP/1.1",
        b"get /head HTTP/1.1",
        b"G\0T /head HTTP/1.1",
        b"INVENTED /head HTTP/1.1",
        b"A" * 300 + b" /head HTTP/1.1",
        b"CONNECT evil.example:443 HTTP/1.1",
        b"CONNECT /head HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\x20" * 100,
        b"SSH-2.0-OpenSSH_9.6",
        b"*1\r\n$4\r\nPING",
        b"{}",
    ],
    ids=lambda line: ascii(line)[:40],
)
def test_what_is_hardly_http(quick: Server, line: bytes) -> None:
    """Refused, and the connection closed; or taken for what it is nearest to."""
    host = b"Host: " + quick.authority
    with quick.wire() as wire:
        wire.send(line, b"\r\n", host, b"\r\n\r\n\r\n")
        answer = wire.answer()
        if answer.status == 200:
            assert b"/head" in line
            assert b'"index": 0' in answer.body
        else:
            assert answer.status in (400, 405, 408, 501, 505)
            problem(answer, answer.status, "timeout" if answer.status == 408 else "bad-request")
        assert wire.rest() == b""


HEADERS = {
    "obs-fold": b"X-A: 1\r\n  2\r\n",
    "obs-fold, tab": b"X-A: 1\r\n\t2\r\n",
    "fold first": b"  X-A: 1\r\n",
    "no name": b": 1\r\n",
    "no colon": b"X-A\r\n",
    "space before the colon": b"X-A : 1\r\n",
    "space in the name": b"X A: 1\r\n",
    "NUL in the name": b"X\0A: 1\r\n",
    "NUL in the value": b"X-A: a\0b\r\n",
    "control in the value": b"X-A: a\x01b\r\n",
    "bare CR": b"X-A: a\rb\r\n",
    "bare CR at the end": b"X-A: a\r\r\n",
    "brackets": b"X[A]: 1\r\n",
    "non-ASCII name": b"X-\xe9: 1\r\n",
    "two lengths": b"Content-Length: 1\r\nContent-Length: 2\r\n",
    "the same length twice": b"Content-Length: 1\r\nContent-Length: 1\r\n",
    "a list of lengths": b"Content-Length: 1, 1\r\n",
    "negative length": b"Content-Length: -1\r\n",
    "plus length": b"Content-Length: +1\r\n",
    "hex length": b"Content-Length: 0x1\r\n",
    "length past 64 bits": b"Content-Length: 99999999999999999999999\r\n",
    "length in Arabic": "Content-Length: ٣\r\n".encode(),
    "empty length": b"Content-Length:\r\n",
    "length and chunks": b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
    "chunked is not last": b"Transfer-Encoding: chunked, gzip\r\n",
    "not chunked": b"Transfer-Encoding: gzip\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "chunks of another kind": b"Transfer-Encoding: xchunked\r\n",
    "chunked, hidden": b"Transfer-Encoding: \x0bchunked\r\n",
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_two_programs_may_read_differently(quick: Server, name: str) -> None:
    """So a proxy in front and the node could see two requests where there is one."""
    for line in (b"POST /block HTTP/1.1\r\n", b"GET /head HTTP/1.1\r\n"):
        host = b"Host: " + quick.authority + b"\r\n"
        rest = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n" + host + b"\r\n"
        with quick.wire() as wire:
            wire.send(line, host, HEADERS[name], b"\r\n", rest)
            problem(wire.answer(), 400, "bad-request")
            assert wire.rest() == b"", "what followed was taken for a request"
    with quick.client() as client:
        assert length(client) == 1


CHUNKS = {
    "no size": b"\r\n1\r\n0\r\n\r\n",
    "negative size": b"-1\r\n1\r\n0\r\n\r\n",
    "hex prefix": b"0x1\r\n1\r\n0\r\n\r\n",
    "size past 64 bits": b"fffffffffffffffff\r\n1\r\n0\r\n\r\n",
    "too long a chunk": b"1\r\n12\r\n0\r\n\r\n",
    "no line end": b"1\r\n1" + b"0\r\n\r\n",
    "not hex": b"g\r\n1\r\n0\r\n\r\n",
    "bad trailer": b"1\r\n1\r\n0\r\nX Y\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_that_are_none(quick: Server, name: str) -> None:
    request = quick.request("POST /block", "Transfer-Encoding: chunked")
    with quick.wire() as wire:
        wire.send(request, CHUNKS[name])
        problem(wire.answer(), 400, "bad-request")
        assert wire.rest() == b""
    with quick.client() as client:
        assert length(client) == 1


def test_chunks_of_any_size_are_records(server: Server, client: httpx.Client) -> None:
    for chunks in (
        b"1\r\n[\r\n1\r\n1\r\n1\r\n]\r\n0\r\n\r\n",
        b"3;name=value\r\n[1]\r\n0\r\nTrailer: ignored\r\n\r\n",
        b"00000003\r\n[1]\r\n000\r\n\r\n",
    ):
        answer = server.ask(server.request("POST /block", "Transfer-Encoding: chunked"), chunks)
        assert answer.status == 201
        assert client.get("/head").json()["data"] == [1]


def test_what_a_trailer_says_does_not_count(server: Server) -> None:
    """The key has come too late; nor does a second Host matter."""
    body = b"1\r\n1\r\n0\r\nIdempotency-Key: late\r\nHost: evil.example\r\n\r\n"
    request = server.request("POST /nope", "Transfer-Encoding: chunked") + body
    problem(server.ask(request), 404, "not-found")


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_one_long_header(server: Server, size: int) -> None:
    """In one piece or many: there is a bound."""
    start = server.request("GET /head")[:-2] + b"X-Long: "
    with server.wire() as wire:
        wire.send_if_open(start + b"a" * size + b"\r\n\r\n")
        problem(wire.answer(), 431, "too-large")
        assert wire.rest() == b""
    with server.wire() as wire:
        wire.send(start)
        for _ in range(size // 1000):
            if not wire.send_if_open(b"a" * 1000):
                break
        problem(wire.answer(), 431, "too-large")


def test_ten_thousand_headers(server: Server) -> None:
    request = server.request("GET /head")[:-2]
    many = b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(10_000))
    problem(server.ask(request + many + b"\r\n"), 431, "too-large")
    few = many[:30_000].rpartition(b"\r\n")[0]
    assert server.ask(request + few + b"\r\n\r\n").status == 200


def test_a_long_target(server: Server) -> None:
    """Within the bound it is answered, past it refused."""
    assert server.ask(server.request("GET /" + "x" * 60_000)).status == 404
    assert server.ask(server.request("GET /" + "x" * 100_000)).status in (400, 414, 431)


def test_http_1_0(server: Server) -> None:
    """One request a connection, with a Host as of a browser's; answered as 1.1 is."""
    host = b"Host: " + server.authority + b"\r\n"
    with server.wire() as wire:
        wire.send(b"GET /health HTTP/1.0\r\n", host, b"\r\n")
        answer = wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert wire.rest() == b""
    problem(server.ask(b"GET /health HTTP/1.0\r\n\r\n"), 400, "bad-request")


def test_a_connection_is_closed_if_asked_for(server: Server) -> None:
    for line in ("GET /health", "GET /nope", "POST /block"):
        with server.wire() as wire:
            wire.send(server.request(line, "Connection: close"))
            assert wire.answer().headers["connection"] == "close"
            assert wire.rest() == b""


def test_requests_in_one_packet_are_answered_in_order_and_records(
    server: Server, client: httpx.Client
) -> None:
    before = length(client)
    lines = [
        server.request("POST /block", body=b'"first"'),
        server.request("GET /head"),
        server.request("GET /nope"),
        server.request("POST /blocks", body=b"1\n2"),
        server.request("GET /validate"),
        server.request("POST /block", body=b"NaN"),
        server.request("POST /block", "Transfer-Encoding: chunked") + b"1\r\n1\r\n0\r\n\r\n",
        server.request(f"GET /blocks/{before}"),
    ]
    with server.wire() as wire:
        wire.send(*lines)
        answers = [wire.answer() for _ in lines]
    assert [answer.status for answer in answers] == [201, 200, 404, 201, 200, 400, 201, 200]
    assert answers[0].body == answers[1].body == answers[7].body
    assert length(client) == before + 4


def test_hundreds_of_requests_in_one_packet(server: Server) -> None:
    with server.wire() as wire:
        wire.send(server.request("GET /health") * 500)
        for _ in range(500):
            assert wire.answer().body == b'{"status": "ok"}'


@pytest.mark.parametrize(
    "second", [b"nonsense\r\n\r\n", b"GET /head HTTP/1.1\r\nX A: 1\r\n\r\n", b"\0\0"]
)
@pytest.mark.parametrize("line", ["POST /block", "GET /validate"])
def test_nonsense_after_a_request_does_not_take_its_answer_and_records(
    server: Server, client: httpx.Client, line: str, second: bytes
) -> None:
    """Else a client is told that what was recorded was refused."""
    before = length(client)
    body = b"1" if line.startswith("POST") else b""
    with server.wire() as wire:
        wire.send(server.request(line, body=body), second)
        answer = wire.answer()
        assert answer.status == (201 if body else 200)
        rest = wire.rest()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 400 ")
    assert length(client) == before + len(body)


def test_expecting_100_continue_records(server: Server) -> None:
    with server.wire() as wire:
        wire.send(server.request("POST /block", "Content-Length: 5", "Expect: 100-continue"))
        assert wire.answer().status == 100
        wire.send(b'"yes"')
        assert wire.answer().status == 201
        wire.send(server.request("GET /head"))
        assert b'"yes"' in wire.answer().body


def test_expecting_anything_else(server: Server) -> None:
    for expect in ("200-ok", "100-continue, x", ""):
        answer = server.ask(server.request("GET /health", f"Expect: {expect}"))
        assert answer.status in (200, 417)


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0", "x"])
def test_an_upgrade_is_ignored_and_records(
    server: Server, client: httpx.Client, upgrade: str
) -> None:
    """As RFC 9110 (7.8) has it. Java's client asks for h2c with every first request."""
    asked = (
        "Connection: Upgrade, HTTP2-Settings",
        f"Upgrade: {upgrade}",
        "HTTP2-Settings: AAEAAEA",
    )
    before = length(client)
    with server.wire() as wire:
        wire.send(server.request("POST /block", *asked, body=b'"body"'))
        wire.send(server.request("GET /head", *asked))
        wire.send(server.request("GET /health"))
        posted, head, health = (wire.answer() for _ in range(3))
    assert (posted.status, head.status, health.status) == (201, 200, 200)
    assert head.body == posted.body
    assert health.body == b'{"status": "ok"}'
    assert length(client) == before + 1


def test_an_upgrade_in_pieces_is_ignored_and_records(server: Server) -> None:
    request = server.request(
        "POST /block",
        "Upgrade: h2c",
        "Connection: Upgrade",
        "Transfer-Encoding: chunked",
    )
    with server.wire() as wire:
        for piece in (
            request[:30],
            request[30:-1],
            request[-1:],
            b"4\r\n[1,2\r\n",
            b"1\r\n]\r\n0\r\n\r\n",
        ):
            wire.send(piece)
        assert wire.answer().status == 201
        wire.send(server.request("GET /head"))
        assert b"[1,2]" in wire.answer().body


def test_any_byte_changed_or_lost_gets_an_answer(serve: Serve) -> None:
    """Any damage to a request is answered with what it then is; some of it is harmless."""
    server = serve(bounds={"header_seconds": 0.1, "chunk_seconds": 0.1, "idle_seconds": 0.1})
    request = server.request("POST /block", "X-Header: value", "Idempotency-Key: k", body=b"[1]")
    found: Counter[int] = Counter()
    for at in range(len(request)):
        for changed in (b"", b"\xff", b"\0", b" "):
            with server.wire() as wire:
                wire.send(request[:at] + changed + request[at + 1 :])
                found[wire.answer().status] += 1
    assert found.keys() <= {201, 400, 404, 405, 408, 421, 422}
    assert found[400] > 100
    assert found[201] > 30


def test_a_request_after_a_refused_one(server: Server) -> None:
    """The rest of a body that is not wanted is not taken for a request."""
    inside = server.request("GET /smuggled")
    with server.wire() as wire:
        for line in ("POST /nope", "DELETE /head", "GET /health", "POST /block"):
            wire.send(server.request(line, body=inside))
            answer = wire.answer()
            assert answer.status in (200, 400, 404, 405)
            assert b"smuggled" not in answer.body
        wire.send(server.request("GET /health"))
        assert wire.answer() == Answer(200, wire_headers(server), b'{"status": "ok"}')


def wire_headers(server: Server) -> dict[str, str]:
    return server.ask(server.request("GET /health")).headers
