"""Who may read and write: tokens, and what a server that can be reached from outside asks for."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from cairn.api.guard import Access
from cairn.api.problems import ProblemError
from cairn.api.routes import operations
from cairn.cli import main
from tests.api.answers import BROWSER, bare_page, guarded, problem
from tests.api.conftest import Serve
from tests.api.servers import UNKNOWN, Server, example, genesis_entry, refusal, success

TOKEN = "a-token-of-32-characters-or-more-"
OTHER = "another+token/that=may.write~too"
READER = "this-token-may-only-read-and-no-more"
GETS = [example(o.path) for o in operations(lab=True) if o.method == "GET"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokens")
    (directory / "write").write_text(f"{TOKEN}\n\n  {OTHER}  \r\n")
    (directory / "read").write_text(f"{READER}\n")
    return directory


@pytest.fixture(scope="module")
def closed(serve_all: Serve, files: Path) -> Server:
    """Serve to those who have a token."""
    write, read = str(files / "write"), str(files / "read")
    return serve_all("--lab", "--token-file", write, "--read-token-file", read)


@pytest.fixture(scope="module")
def public(serve_all: Serve, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Let all read, and those write who have a token."""
    ledger = tmp_path_factory.mktemp("public") / "ledger"
    return serve_all("--lab", "--token-file", str(files / "write"), "--public-read", ledger=ledger)


@pytest.fixture
def outsider(closed: Server) -> Iterator[httpx.Client]:
    with closed.client() as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("path", GETS)
def test_nothing_is_read_without_a_token(outsider: httpx.Client, path: str) -> None:
    if path == "/health":
        assert outsider.get(path).status_code == 200
        return
    problem(outsider.get(path), 401, "unauthorized")
    assert outsider.head(path).status_code == 401
    path = path.replace(UNKNOWN, genesis_entry(outsider, headers=bearer(TOKEN)))
    with outsider.stream("GET", path, headers=bearer(TOKEN)) as answer:
        assert answer.status_code == success(path)
        guarded(answer.headers, path)
    with outsider.stream("GET", path, headers=bearer(READER)) as answer:
        assert answer.status_code == (403 if path == "/tamper" else success(path))


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        TOKEN,
        f"Basic {TOKEN}",
        f"Token {TOKEN}",
        f"Digest {TOKEN}",
        "Basic YTph",
        f"BearerX {TOKEN}",
        f"Bearer{TOKEN}",
        f"Bearer: {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        f"Bearer {TOKEN},{OTHER}",
        f"Bearer \xe9{TOKEN}",
        f'Bearer "{TOKEN}"',
        "Bearer null",
        "Bearer " + "x" * 10_000,
    ],
)
def test_a_wrong_token(closed: Server, outsider: httpx.Client, authorization: str) -> None:
    """Nothing of it is in the answer, which may be logged somewhere."""
    headers = {b"authorization": authorization.encode("latin-1")}
    before = outsider.get("/head", headers=bearer(TOKEN)).content
    for answer in (
        outsider.get("/head", headers=headers),
        outsider.post("/block", content=b"1", headers=headers),
        outsider.post("/blocks", content=b"1", headers=headers),
        outsider.get("/tamper", headers=headers),
        outsider.get("/nope", headers=headers),
        outsider.delete("/head", headers=headers),
    ):
        found = problem(answer, 401, "unauthorized")
        assert TOKEN[:-1] not in str(found)
        assert "xxxx" not in str(found)
    assert outsider.get("/head", headers=bearer(TOKEN)).content == before


@pytest.mark.parametrize("path", ["/", "/blocks/0", "/explorer/style.css", "/verify", "/nope"])
def test_a_browser_without_a_token_gets_a_page(outsider: httpx.Client, path: str) -> None:
    """It refers to no file, for which a token would be needed, too."""
    answer = outsider.get(path, headers=BROWSER)
    bare_page(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "a bearer token is needed" in answer.text
    assert "proxy" in answer.text
    assert outsider.head(path, headers=BROWSER).headers["content-type"].startswith("text/html")
    problem(outsider.get(path, headers={"accept": "*/*"}), 401, "unauthorized")


def test_a_browser_that_may_only_read_gets_a_page(outsider: httpx.Client) -> None:
    answer = outsider.get("/tamper", headers={**BROWSER, **bearer(READER)})
    assert "may only read" in bare_page(answer, 403).text


def test_a_token_in_the_query_is_none(outsider: httpx.Client) -> None:
    """It would be in logs and histories."""
    for name in ("token", "access_token", "authorization"):
        problem(outsider.get("/head", params={name: TOKEN}), 401, "unauthorized")


@pytest.mark.parametrize("token", [TOKEN, OTHER])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_right_token_may_read_and_write(
    outsider: httpx.Client, token: str, scheme: str
) -> None:
    headers = {"authorization": f"{scheme} {token}"}
    assert outsider.post("/block", content=b"1", headers=headers).status_code == 201
    assert outsider.post("/blocks", content=b"1", headers=headers).status_code == 201
    assert outsider.get("/head", headers=headers).status_code == 200


def test_a_read_token_may_not_write(outsider: httpx.Client) -> None:
    headers = bearer(READER)
    before = outsider.get("/head", headers=headers).content
    for answer in (
        outsider.post("/block", content=b"1", headers=headers),
        outsider.post("/blocks", content=b"1", headers=headers),
        outsider.get("/tamper", headers=headers),
        outsider.put("/block", content=b"1", headers=headers),
    ):
        problem(answer, 403, "forbidden")
    assert outsider.head("/tamper", headers=headers).status_code == 403
    assert outsider.get("/head", headers=headers).content == before


def test_two_tokens_are_none(closed: Server) -> None:
    """Of two headers a proxy may have looked at the other one."""
    for first, second in ((TOKEN, "x" * 20), ("x" * 20, TOKEN), (READER, TOKEN), (TOKEN, READER)):
        answer = closed.ask(
            closed.request(
                "POST /block",
                f"Authorization: Bearer {first}",
                f"Authorization: Bearer {second}",
                body=b"1",
            )
        )
        assert answer.status in (400, 401, 403)


def test_all_may_read_where_reading_is_public(public: Server) -> None:
    with public.client() as client:
        before = client.get("/head").content
        entry = genesis_entry(client)
        for path in (path.replace(UNKNOWN, entry) for path in GETS):
            if path == "/tamper":
                problem(client.get(path), 401, "unauthorized")
                continue
            for headers in ({}, bearer("x" * 20), {"authorization": "Basic YTph"}):
                with client.stream("GET", path, headers=headers) as answer:
                    assert answer.status_code == success(path)
        for path in ("/block", "/blocks"):
            problem(client.post(path, content=b"1"), 401, "unauthorized")
            problem(client.post(path, content=b"1", headers=bearer("x" * 20)), 401, "unauthorized")
        assert client.get("/head").content == before
        assert client.post("/block", content=b"1", headers=bearer(TOKEN)).status_code == 201


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With each one there is, whichever is right."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr("cairn.api.guard.hmac.compare_digest", spy)
    access = Access(tokens=[b"first", b"second"], read_tokens=[b"third"])
    for given in (b"first", b"second", b"third", b"none of them"):
        compared.clear()
        authorization = f"Bearer {given.decode()}"
        if given == b"none of them":
            with pytest.raises(ProblemError, match="not known"):
                access.require("/", authorization, writing=False)
        else:
            access.require("/", authorization, writing=False)
        known = [b"first", b"second", b"third"]
        assert [given in pair for pair in compared] == [True] * 3
        assert sorted(b"".join(pair).replace(given, b"", 1) or given for pair in compared) == known


def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str) -> str:
    """Run the command here, where it must not come so far as to serve; return what it says."""

    def serve(*_: object, **__: object) -> None:
        raise AssertionError("it would have started")

    monkeypatch.setattr("cairn.api.server.serve", serve)
    result = CliRunner().invoke(main, ["serve", "--ledger", str(tmp_path / "ledger"), *options])
    assert result.exit_code == 2, result
    assert TOKEN not in result.output
    assert not (tmp_path / "ledger").exists()
    return result.output


WEAK = ["", "\n\n", "  \n", "short\n", f"{TOKEN}\nshort\n", "x" * 15, f"{TOKEN}\n{'y' * 15}"]


@pytest.mark.parametrize("content", WEAK)
@pytest.mark.parametrize("option", ["--token-file", "--read-token-file"])
def test_weak_tokens_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: Path, content: str, option: str
) -> None:
    (tmp_path / "weak").write_text(content)
    options = [option, str(tmp_path / "weak")]
    if option == "--read-token-file":
        options += ["--token-file", str(files / "write")]
    assert "16 characters or more" in refused(monkeypatch, tmp_path, *options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--host", "0.0.0.0"], "can be reached from other machines"),
        (["--host", "::"], "can be reached from other machines"),
        (["--host", ""], "can be reached from other machines"),
        (["--host", "192.0.2.1"], "can be reached from other machines"),
        (["--host", "localhost.evil.example"], "can be reached from other machines"),
        (["--host", "0.0.0.0", "--public-read"], "--token-file"),
        (["--public-read"], "--token-file"),
        (["--public-read", "--no-token"], "--token-file"),
        (["--read-token-file", "FILES/read"], "--token-file"),
        (["--no-token", "--token-file", "FILES/write"], "contradicts"),
        (["--token-file", "FILES/absent"], "absent"),
        (["--token-file", "FILES"], "directory"),
    ],
)
def test_what_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: Path, options: list[str], why: str
) -> None:
    given = [option.replace("FILES", str(files)) for option in options]
    assert why in refused(monkeypatch, tmp_path, *given)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--host", "0.0.0.0"], "can be reached from other machines"),
        (["--token-file", "nowhere"], "nowhere"),
        (["--host", "192.0.2.1", "--no-token"], "cannot listen on 192.0.2.1"),
    ],
)
def test_a_process_that_does_not_start(tmp_path: Path, options: list[str], why: str) -> None:
    result = refusal(tmp_path / "ledger", *options)
    assert result.returncode == 2, result
    assert why in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "ledger").exists()


def test_the_whole_network_with_a_token(serve: Serve, files: Path) -> None:
    server = serve("--host", "0.0.0.0", "--token-file", str(files / "write"))
    with server.client(base_url=f"http://127.0.0.1:{server.port}") as client:
        problem(client.get("/head"), 401, "unauthorized")
        assert client.get("/head", headers=bearer(TOKEN)).status_code == 200


def test_the_whole_network_without_one_if_asked_for(serve: Serve) -> None:
    """By any address, as it has many; by no name, which a web page could make its own."""
    server = serve("--host", "0.0.0.0", "--no-token", "--allow-host", "Ledger.Example.")
    with server.client(base_url=f"http://127.0.0.1:{server.port}") as client:
        assert client.post("/block", content=b"1").status_code == 201
        for host in ("192.0.2.7", "192.0.2.7:80", "[2001:db8::1]:5000", "ledger.example:5000"):
            assert client.get("/head", headers={"host": host}).status_code == 200
        for host in ("evil.example", "192.0.2.7.evil.example", "[2001:db8::1].evil.example"):
            problem(client.get("/head", headers={"host": host}), 421, "wrong-host")


def test_tokens_may_come_from_the_environment(
    serve: Serve, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAIRN_TOKEN_FILE", str(files / "write"))
    monkeypatch.setenv("CAIRN_READ_TOKEN_FILE", str(files / "read"))
    with serve().client() as client:
        problem(client.get("/head"), 401, "unauthorized")
        assert client.get("/head", headers=bearer(READER)).status_code == 200
        problem(client.post("/block", content=b"1", headers=bearer(READER)), 403, "forbidden")
