"""Starting and stopping a server: what it prints, how it exits, what becomes of those it serves."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import closing
from pathlib import Path

import pytest

from cairn import Ledger
from tests.api.conftest import Serve
from tests.api.servers import PATIENCE, length, refusal


def test_the_greeting_says_where_and_what(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    with server.client() as client:
        genesis = client.get("/blocks/0").json()["hash"]
    assert server.greeting == (
        f"Cairn on {server.url}  (ledger {tmp_path / 'ledger'}, 1 blocks, id {genesis})\n"
    )


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_other_loopback_addresses(serve: Serve, host: str) -> None:
    server = serve("--host", host)
    with server.client() as client:
        assert client.post("/block", content=b"1").status_code == 201
        by_name = client.get("/head", headers={"host": f"localhost:{server.port}"})
        assert by_name.status_code == 200


def test_a_port_that_is_taken(serve: Serve, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        result = refusal(tmp_path / "ledger", "--port", str(port))
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "ledger").exists()


def test_a_ledger_that_another_one_serves(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    result = refusal(tmp_path / "ledger")
    assert result.returncode == 2
    assert str(server.process.pid) in result.stderr
    assert "Traceback" not in result.stderr
    with server.client() as client:
        assert client.get("/health").status_code == 200


def test_the_port_is_free_again_at_once(serve: Serve) -> None:
    """Though connections are left in TIME_WAIT."""
    server = serve()
    with server.client() as client:
        assert client.get("/health").status_code == 200
        server.stop()
    assert serve(port=server.port).url == server.url


@pytest.mark.parametrize(
    ("by", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_it_stops_at_once_whoever_waits(serve: Serve, by: signal.Signals, code: int) -> None:
    """Idle, half-open and following connections do not hold it up, nor does a validation."""
    server = serve()
    begun = (b"", b"GET /he", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    asked = ("GET /events", "GET /events?start=0", "GET /validate", "GET /validate")
    wires = [server.wire() for _ in (*begun, *asked)]
    for wire, sent in zip(wires, (*begun, *map(server.request, asked)), strict=True):
        wire.send(sent)
    assert wires[3].answer_begins().status == 200
    began = time.monotonic()
    server.process.send_signal(by)
    assert server.process.wait(PATIENCE) == code
    assert time.monotonic() - began < 10
    for wire in wires:
        wire.rest()
        wire.close()
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""


def test_what_is_being_appended_is_answered(serve: Serve) -> None:
    """A stop lets requests end that are under way; it takes no new ones."""
    server = serve()
    with server.wire() as wire:
        wire.send(server.request("POST /block", "Content-Length: 6"), b'"la')
        with server.client() as client:
            client.get("/health")  # by now the server has read the other one, too
        server.process.terminate()
        while True:
            try:
                server.wire().close()
            except ConnectionRefusedError:
                break
            time.sleep(0.01)
        wire.send(b'st"')
        answer = wire.answer()
        assert answer.status == 201
        assert wire.rest() == b""
    assert server.stop() == 0
    with serve().client() as client:
        assert client.get("/head").json()["data"] == "last"


def test_a_body_that_does_not_come_holds_up_a_stop_for_a_bounded_time(serve: Serve) -> None:
    server = serve(bounds={"stop_seconds": 1})
    with server.wire() as wire:
        wire.send(server.request("POST /block", "Content-Length: 6"), b'"la')
        with server.client() as client:
            client.get("/health")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 8
        wire.rest()


def test_a_killed_server_leaves_no_lock(serve: Serve) -> None:
    server = serve()
    with server.client() as client:
        client.post("/block", content=b"1")
    server.kill()
    with serve().client() as client:
        assert length(client) == 2


@pytest.mark.parametrize("there", [False, True])
def test_the_scratch_copy_of_the_lab_is_gone_at_exit(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    if there:
        with Ledger.open(tmp_path / "ledger") as ledger:
            ledger.append("original")
    server = serve("--lab")
    assert "a scratch copy of" in server.greeting
    assert len(list(scratch.iterdir())) == 1
    with server.client() as client:
        client.post("/block", content=b"1")
        client.get("/tamper")
        assert length(client) == 2 + there
    assert server.stop() == 0
    assert list(scratch.iterdir()) == []
    assert (tmp_path / "ledger").exists() == there
    if there:
        with Ledger.open(tmp_path / "ledger", read_only=True) as ledger:
            assert [block.data for block in ledger][1:] == ["original"]


def test_a_damaged_ledger_is_not_served(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.append(1)
    (tmp_path / "ledger" / "tail.sqlite").write_bytes(b"not a database" * 1000)
    result = refusal(tmp_path / "ledger")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
