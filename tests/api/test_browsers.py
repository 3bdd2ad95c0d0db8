"""What other web pages cannot do: DNS rebinding, requests across origins and sites."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.api.answers import BROWSER, bare_page, problem
from tests.api.conftest import Serve
from tests.api.servers import Server, length

NAVIGATION = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.fixture(scope="module")
def named(serve_all: Serve) -> Iterator[httpx.Client]:
    """Serve by two more names."""
    options = ("--allow-host", "ledger.example", "--allow-host", "OTHER.example.")
    with serve_all(*options).client() as client:
        yield client


@pytest.fixture(scope="module")
def lab(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serve_all("--lab", ledger=tmp_path_factory.mktemp("lab") / "ledger").client() as client:
        yield client


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:5000",
        "localhost.",
        "LOCALHOST:1",
        "LocalHost.:65535",
        "127.0.0.1",
        "127.0.0.1:5000",
        "127.1.2.3",
        "[::1]",
        "[::1]:5000",
        "[0:0:0:0:0:0:0:1]",
        "ledger.example",
        "ledger.example:443",
        "Ledger.EXAMPLE.",
        "other.example",
    ],
)
def test_names_of_this_node(named: httpx.Client, host: str) -> None:
    assert named.get("/head", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:5000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example.",
        "evillocalhost",
        "xledger.example",
        "ledger.example.evil.example",
        "ledger.example..",
        "localhost..",
        ".localhost",
        "sub.localhost",
        "0.0.0.0",
        "0.0.0.0:5000",
        "192.0.2.1",
        "10.0.0.1:5000",
        "169.254.169.254",
        "[2001:db8::1]",
        "[::]",
        "[::ffff:192.0.2.1]",
        "::1",
        "[::1",
        "::1]",
        "[::1]]",
        "[localhost]",
        "localhost]",
        "[127.0.0.1",
        "[127.0.0.1]",
        "[::1]x",
        "[::1]:x",
        "127.0.0.1:x",
        "127.0.0.1:80:80",
        "127.0.0.1:-1",
        "127.0.0.1:123456",
        "localhost:5000@evil.example",
        "localhost:x.evil.example",
        "evil.example@localhost",
        "localhost/evil",
        "localhost:5000/x",
        "localhost evil.example",
        "localhost,evil.example",
        "http://localhost",
        "2130706433",
        "0x7f.0.0.1",
        "127.1",
        "0177.0.0.1",
        "127.0.0.01",
        "local\u017fhost".encode().decode("latin-1"),
        "xn--localhost",
        "",
        ":",
        ":5000",
        "*",
        "null",
        "x" * 5000,
        "\xff",
        "%6cocalhost",
    ],
)
def test_other_names(named: httpx.Client, host: str) -> None:
    """A web page can make any name that is its own lead to this machine."""
    before = length(named)
    name = host.encode("latin-1")
    headers = {b"host": name}
    own = {**headers, b"origin": b"http://" + name, b"sec-fetch-site": b"same-origin"}
    for answer in (
        named.get("/head", headers=headers),
        named.get("/health", headers=headers),
        named.get("/docs", headers=headers),
        named.get("/nope", headers=headers),
        named.post("/block", content=b"1", headers=headers),
        named.post("/block", content=b"1", headers=own),
    ):
        problem(answer, 421, "wrong-host")
    assert length(named) == before


@pytest.mark.parametrize("name", ["evil.example", "<script>alert(1)</script>", "\u202e.example"])
def test_a_browser_is_told_of_a_wrong_name_with_a_page(named: httpx.Client, name: str) -> None:
    answer = named.get("/", headers={b"host": name.encode(), b"accept": b"text/html"})
    assert "is not a name of this node" in bare_page(answer, 421).text


@pytest.mark.parametrize("body", [b"", b"1"])
def test_a_request_has_one_host(server: Server, body: bytes) -> None:
    method = "POST /block" if body else "GET /head"
    end = f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    for hosts in (b"", b"Host: localhost\r\nHost: localhost\r\n",
                  b"Host: localhost\r\nhost: evil.example\r\n",
                  b"Host: evil.example\r\nHost: localhost\r\n"):  # fmt: skip
        answer = server.ask(f"{method} HTTP/1.1\r\n".encode(), hosts, end)
        problem(answer, 400, "bad-request")
    problem(server.ask(b"GET /head HTTP/1.1\r\nHost:\r\n\r\n"), 421, "wrong-host")


def test_a_name_in_the_target_does_not_stand_for_the_host(server: Server) -> None:
    request = b"GET http://localhost/head HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    problem(server.ask(request), 421, "wrong-host")


ORIGINS = [
    "null",
    "http://evil.example",
    "https://evil.example:5000",
    "http://localhost",
    "http://localhost:1",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "http://[::1]",
    "http://AUTHORITY.evil.example",
    "http://evil.example/AUTHORITY",
    "http://evil.example?AUTHORITY",
    "http://user@AUTHORITY",
    "chrome-extension://abcdef",
    "file://",
    "http://",
    "AUTHORITY",
    "",
    "://",
    "x" * 5000,
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_pages_of_other_origins_are_refused(
    server: Server, client: httpx.Client, origin: str
) -> None:
    """Whatever else is said: `null` is a sandboxed page, or a file."""
    before = length(client)
    origin = origin.replace("AUTHORITY", server.authority.decode())
    for more in ({}, {"sec-fetch-site": "same-origin"}, NAVIGATION):
        headers = {"origin": origin, **more}
        for method, path in (("POST", "/block"), ("POST", "/blocks"), ("GET", "/head")):
            body = b"1" if method == "POST" else None
            problem(client.request(method, path, content=body, headers=headers), 403, "forbidden")
    assert length(client) == before


def test_its_own_pages_are_let_in(server: Server, client: httpx.Client) -> None:
    for host in (server.authority.decode(), f"localhost:{server.port}", f"[::1]:{server.port}"):
        headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        assert client.post("/block", content=b"1", headers=headers).status_code == 201
        assert client.get("/head", headers=headers).status_code == 200
        other = {**headers, "host": f"127.0.0.2:{server.port}"}
        problem(client.post("/block", content=b"1", headers=other), 403, "forbidden")


def test_a_browser_that_comes_from_another_page_gets_a_page(client: httpx.Client) -> None:
    for headers in (
        {"origin": "http://<b>.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ):
        answer = bare_page(client.get("/", headers={**BROWSER, **headers}), 403)
        assert "are refused" in answer.text


def test_two_origins_are_refused(server: Server) -> None:
    own = f"Origin: {server.url}"
    for origins in ((own, "Origin: http://evil.example"), ("Origin: http://evil.example", own)):
        answer = server.ask(server.request("POST /block", *origins, body=b"1"))
        assert answer.status in (400, 403)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "CROSS-SITE", "", "x"])
@pytest.mark.parametrize("mode", ["cors", "no-cors", "navigate", "websocket", ""])
def test_requests_from_other_sites_are_refused(lab: httpx.Client, site: str, mode: str) -> None:
    """As images, scripts, frames, forms: all but going to a page."""
    before = lab.get("/").content
    for dest in ("image", "script", "iframe", "embed", "empty", "document", ""):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        going = mode == "navigate" and dest == "document"
        for path in ("/validate", "/tamper"):
            problem(lab.get(path, headers=headers), 403, "forbidden")
            assert lab.head(path, headers=headers).status_code == 403
        for path in ("/block", "/blocks"):
            problem(lab.post(path, content=b"1", headers=headers), 403, "forbidden")
        if not going:
            for path in ("/", "/head", "/docs", "/events", "/health"):
                problem(lab.get(path, headers=headers), 403, "forbidden")
    assert lab.get("/").content == before


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin", "none"])
def test_going_to_a_page_by_a_link_is_fine(lab: httpx.Client, site: str) -> None:
    headers = {"sec-fetch-site": site, "sec-fetch-user": "?1", **NAVIGATION}
    for path in ("/", "/docs", "/head", "/blocks/0", "/blocks?contains=a"):
        assert lab.get(path, headers=headers).status_code == 200
    problem(lab.get("/nope", headers=headers), 404, "not-found")


def test_typing_an_address_may_validate(lab: httpx.Client) -> None:
    headers = {"sec-fetch-site": "none", **NAVIGATION}
    assert lab.get("/validate", headers=headers).json()["valid"]  # nothing above tampered


def test_no_page_is_told_that_it_may(server: Server) -> None:
    """No answer, to a preflight above all, has a header that lets another origin in."""
    for method in ("OPTIONS /block", "OPTIONS /", "GET /head", "POST /block"):
        for origin in ("http://evil.example", "null", server.url):
            answer = server.ask(
                server.request(
                    method,
                    f"Origin: {origin}",
                    "Access-Control-Request-Method: POST",
                    "Access-Control-Request-Headers: idempotency-key",
                    "Access-Control-Request-Private-Network: true",
                    body=b"1" if method.startswith("POST") else b"",
                )
            )
            assert not [name for name in answer.headers if name.startswith("access-control")]


def test_curl_needs_no_options(server: Server, client: httpx.Client) -> None:
    """`curl -d '"example data"' http://127.0.0.1:5000/block`, byte by byte."""
    before = length(client)
    answer = server.ask(
        b"POST /block HTTP/1.1\r\nHost: ",
        server.authority,
        b"\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nContent-Length: 14\r\n"
        b'Content-Type: application/x-www-form-urlencoded\r\n\r\n"example data"',
    )
    assert answer.status == 201
    assert client.get(answer.headers["location"]).json()["data"] == "example data"
    assert length(client) == before + 1
