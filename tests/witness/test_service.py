"""`cairn witness` over real HTTP: what it serves, and what it keeps through restarts and kills."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from cairn.cli import main
from cairn.proof.keyring import Keyring
from cairn.proof.note import Algorithm, Note, VerifierKey
from cairn.proof.witness import MAX_BODY, SIZE, Request, origin_hash
from tests.api.servers import PATIENCE, Server
from tests.witness.logs import Cosigned, Log
from tests.witness.serving import NAME, Nursery, start

LARGE = Log.of(5000)
FORKS = [LARGE, *(LARGE.forked(at, fork=at + 1) for at in (0, 3, 10, 30, 100))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("witness")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with start(folder, LARGE) as running:
        yield running
    assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def key_of(folder: Path) -> VerifierKey:
    keyring = Keyring(folder / "home")
    return keyring.signing_key(NAME, Algorithm.COSIGNATURE).verifier


def test_what_a_witness_serves(server: Server, client: httpx.Client, folder: Path) -> None:
    key = key_of(folder)
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == f"{key}\n"
    assert str(key) in client.get("/").text
    assert client.get("/health").text == "ok\n"
    monitored = f"/{origin_hash(LARGE.origin)}/checkpoint"
    assert client.get(monitored).status_code == 404

    first = client.post("/add-checkpoint", content=LARGE.request(0, 7))
    assert (first.status_code, first.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    cosigned = Cosigned([LARGE], (key,))
    assert cosigned.note(LARGE.request(0, 7), first.content).time <= time.time()
    conflict = client.post("/add-checkpoint", content=LARGE.request(0, 9))
    assert (conflict.status_code, conflict.content) == (409, b"7\n")
    assert conflict.headers["Content-Type"] == SIZE
    shown = client.get(monitored)
    assert shown.headers["Content-Type"] == "text/plain; charset=utf-8"
    keys = [key, LARGE.key.verifier]
    assert set(Note.parse(shown.content).verified(keys)) == set(keys)
    assert client.head(monitored).status_code == 200
    for status, body in (
        (422, FORKS[1].request(7, 9)),
        (400, LARGE.request(9, 7)),
        (404, Log.of(9, key=FORKS[0].key).request(0, 9).replace(b"log.ex", b"gol.ex")),
        (403, Log.of(9).request(0, 9)),
    ):
        refused = client.post("/add-checkpoint", content=body)
        assert (refused.status_code, b"\xe2\x80\x94" in refused.content) == (status, False)
        assert refused.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_post_adds(client: httpx.Client, method: str) -> None:
    assert client.request(method, "/add-checkpoint").status_code == 405


def test_web_page_cannot_ask(client: httpx.Client, server: Server) -> None:
    for origin in ("https://evil.example", "null", server.url):
        answer = client.post(
            "/add-checkpoint", content=LARGE.request(0, 7), headers={"Origin": origin}
        )
        assert answer.status_code == 403


def test_huge_body_is_refused_before_it_is_read(server: Server) -> None:
    request = server.request("POST /add-checkpoint", f"Content-Length: {10**12}")
    assert server.ask(request).status == 413
    with server.wire() as wire:  # without a length, it is as much as comes
        wire.send(server.request("POST /add-checkpoint", "Transfer-Encoding: chunked"))
        piece = b"8000\r\n" + bytes(0x8000) + b"\r\n"
        for _ in range(MAX_BODY // 0x8000 + 1):
            wire.send_if_open(piece)
        assert wire.answer().status == 413


def test_slow_body_is_cut_off_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    limits = {"chunk_seconds": 0.3, "body_bytes": MAX_BODY}
    with start(tmp_path, LARGE, bounds=limits) as server, ExitStack() as stack:
        wires = [stack.enter_context(server.wire()) for _ in range(20)]
        for wire in wires:
            wire.send(server.request("POST /add-checkpoint", "Content-Length: 500"), b"old 0\n")
        with server.client() as client:
            answer = client.post("/add-checkpoint", content=LARGE.request(0, 7))
            assert answer.status_code == 200
        assert {wire.answer().status for wire in wires} == {408}


def test_restart_keeps_what_was_cosigned(tmp_path: Path) -> None:
    with start(tmp_path, LARGE) as server, server.client() as client:
        assert client.post("/add-checkpoint", content=LARGE.request(0, 7)).status_code == 200
        monitored = f"/{origin_hash(LARGE.origin)}/checkpoint"
        shown = client.get(monitored).text
        assert server.stop() == 0
    with start(tmp_path, LARGE) as server, server.client() as client:
        assert client.get(monitored).text == shown
        fork = FORKS[2]
        assert client.post("/add-checkpoint", content=fork.request(0, 7)).content == b"7\n"
        assert client.post("/add-checkpoint", content=fork.request(7, 7)).status_code == 422
        assert client.post("/add-checkpoint", content=fork.request(7, 8)).status_code == 422
        assert client.post("/add-checkpoint", content=LARGE.request(7, 8)).status_code == 200
    evidence = tmp_path / "home" / "witness" / "evidence" / origin_hash(LARGE.origin)
    assert len(list(evidence.iterdir())) == 2


class Askers:
    """Clients of witnesses, which offer forks, replay, and note every cosignature."""

    def __init__(self, cosigned: Cosigned, seed: int) -> None:
        self.cosigned = cosigned
        self.choose = random.Random(seed)
        self.sent: list[bytes] = []
        self.at = 0

    def ask(self, server: Server, seconds: float) -> None:
        """Ask until the server is gone, or so long."""
        choose, until = random.Random(self.choose.random()), time.monotonic() + seconds
        with suppress(httpx.TransportError), server.client(verify=False) as client:
            while time.monotonic() < until:
                body = self._next(choose)
                answer = client.post("/add-checkpoint", content=body)
                if answer.status_code == 200:
                    self.at = self.cosigned.note(body, answer.content).size
                elif answer.status_code == 409:
                    self.at = int(answer.content)
                else:
                    assert answer.status_code in (400, 422), answer.text

    def _next(self, choose: random.Random) -> bytes:
        if self.sent and choose.random() < 0.15:
            return choose.choice(self.sent)
        log = choose.choice(self.cosigned.logs)
        body = log.request(self.at, min(self.at + choose.choice((0, 1, 1, 3)), log.size))
        self.sent.append(body)
        return body

    def together(self, *servers: Server, each: int, seconds: float) -> list[threading.Thread]:
        """Start `each` clients of each server, and return them."""
        threads = [
            threading.Thread(target=self.ask, args=(server, seconds))
            for server in servers
            for _ in range(each)
        ]
        for thread in threads:
            thread.start()
        return threads


def killed_again_and_again(folder: Path, rounds: int, seed: int) -> None:
    askers = Askers(Cosigned(FORKS, (key_of(folder),)), seed)
    choose = random.Random(seed)
    with Nursery(folder, LARGE) as nursery:
        following = nursery.begin()
        for _ in range(rounds):
            # The next one starts while this one is asked: they are two on one memory, too.
            server, running = nursery.listening(), following
            following = nursery.begin()
            threads = askers.together(server, each=4, seconds=PATIENCE)
            time.sleep(choose.uniform(0.02, 0.25))
            os.kill(running, signal.SIGKILL)
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive()
            askers.cosigned.check()
        with nursery.listening().client() as client:
            shown = client.get(f"/{origin_hash(LARGE.origin)}/checkpoint").text
    answered = max(head.size for head in askers.cosigned.heads)
    assert askers.cosigned.note_shown(shown).size >= answered > rounds
    askers.cosigned.check()
    assert "Traceback" not in (folder / "log").read_text()


def test_witness_that_is_killed_at_any_moment_cosigns_no_fork(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path, 10, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_witness_that_is_killed_40_times_as_often(tmp_path: Path, seed: int) -> None:
    killed_again_and_again(tmp_path, 40, seed=seed)


def test_two_processes_with_one_memory_cosign_no_fork(tmp_path: Path) -> None:
    askers = Askers(Cosigned(FORKS, (key_of(tmp_path),)), 2)
    with start(tmp_path, LARGE) as one, start(tmp_path, LARGE) as two:
        for thread in askers.together(one, two, each=4, seconds=0.5):
            thread.join(PATIENCE)
            assert not thread.is_alive()
        askers.cosigned.check()
        assert {one.stop(), two.stop()} == {0}
    assert len({head.size for head in askers.cosigned.heads}) > 3
    assert (tmp_path / "log").read_text().count("Traceback") == 0


# The command


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return what runs `cairn witness`, where it is to end by itself."""
    monkeypatch.setenv("CAIRN_HOME", str(tmp_path / "home"))
    return lambda *options: CliRunner().invoke(main, ["witness", *options])


def test_key_is_made_once_and_for_its_owner_alone(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    shown = run("--name", NAME, "--show-key")
    assert (shown.exit_code, shown.output) == (0, f"{key_of(tmp_path)}\n")
    assert run("--name", NAME, "--show-key").output == shown.output
    key = VerifierKey.parse(shown.output)
    assert (key.is_witness, key.name) == (True, NAME)
    (file,) = (tmp_path / "home" / "keys").iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_logs_may_be_named_in_a_file(tmp_path: Path) -> None:
    other = Log.of(9)
    more = tmp_path / "logs"
    more.write_text(f"# a log a line\n\n{other.key.verifier}\n{other.key.verifier}\n")
    with start(tmp_path, LARGE, "--log-file", str(more), "--state", str(tmp_path / "s")) as server:
        assert "(1 logs" in server.greeting  # of the same origin: two keys of one log
        with server.client() as client:
            assert client.post("/add-checkpoint", content=other.request(0, 7)).status_code == 200
            body = Request(7, tuple(other.proof(7, 9)), LARGE.checkpoint(9)).body
            assert client.post("/add-checkpoint", content=body).status_code == 200
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"cosigned.sqlite"}


def test_wrong_use_is_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    key = key_of(tmp_path)
    bad = tmp_path / "logs"
    bad.write_text("no key\n")
    for options, why in (
        (["--name", NAME], "which logs?"),
        (["--name", NAME, "--log", "no key"], "not an Ed25519 verifier key"),
        (["--name", NAME, "--log", str(key)], "that of a witness, not of a log"),
        (["--name", NAME, "--log-file", str(bad)], str(bad)),
        (["--name", NAME, "--log-file", str(tmp_path / "none")], "none"),
        (["--name", "two words", "--show-key"], "no spaces and no plus"),
        ([], "--name"),
    ):
        refused = run(*options)
        assert (refused.exit_code, why in refused.output) == (2, True), refused.output
    assert len(list((tmp_path / "home" / "keys").iterdir())) == 1
