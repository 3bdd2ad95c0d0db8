"""What else works on the ledger of a running node, and what may not."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cairn import Ledger
from tests.service.harness import CAIRN, PATIENCE, Server, cairn, running, start, threads, until


@contextmanager
def under_load(server: Server) -> Iterator[list[int]]:
    """Have clients append; yield the positions that were answered, as they come."""
    over = threading.Event()
    answered: list[int] = []

    def write() -> None:
        with server.client() as client:
            while not over.is_set():
                answered.append(client.post({"text": "x" * 100}).value["index"])
                answered.append(client.post_all([1, 2, 3]).value["last"])
                over.wait(0.002)  # the commands shall get somewhere, too

    with threads(write, 4):
        try:
            until(lambda: len(answered) > 50)
            yield answered
        finally:
            over.set()


def test_a_second_node_is_told_who_holds_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with running(start(path)) as server, server.client() as client:
        client.post("first")
        holder = rf"is being written by process {server.process.pid} on \S+ \('.+'\) since "
        for command in (("serve", "--port", 0), ("add", "-")):
            result = cairn(*command, "--ledger", path, stdin='"second"\n')
            assert result.returncode == 2, command
            assert re.search(holder, result.stderr), result.stderr
            assert "Traceback" not in result.stderr
            assert result.stdout == ""
        assert client.post("goes on").value["index"] == 2
        assert client.get("/validate").value["valid"] is True


def test_of_nodes_that_start_at_once_one_gets_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    servers = [start(path) for _ in range(4)]
    try:
        with ThreadPoolExecutor(4) as pool:
            lines = list(pool.map(Server.line, servers))
        (winner,) = [s for s, line in zip(servers, lines, strict=True) if line]
        for server in servers:
            if server is not winner:
                assert server.process.wait(PATIENCE) == 2
                assert "is being written by" in server.errors()
        winner.stop()
    finally:
        for server in servers:
            server.close()
    with Ledger.open(path, read_only=True) as ledger:
        assert len(ledger) == 1
        assert ledger.validate().valid


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = cairn("serve", "--ledger", tmp_path / "ledger", "--port", port)
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr
    assert "in use" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "ledger").exists(), "nothing was made"


def test_reading_commands_beside_a_node_under_load_agree_with_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with running(start(path)) as server, under_load(server) as answered:
        backup, imported, file = tmp_path / "backup", tmp_path / "imported", tmp_path / "export"

        def validate() -> None:
            least = max(answered) + 1
            result = cairn("validate", "--json", "--ledger", path)
            assert result.returncode == 0, result
            report = json.loads(result.stdout)
            assert report["valid"] is True
            assert least <= report["blocks"] <= server.get("/head").value["index"] + 1

        def log() -> None:
            least = max(answered)
            result = cairn("log", "--json", "--ledger", path)
            assert result.returncode == 0, result.stderr
            shown = [json.loads(line) for line in result.stdout.splitlines()]
            assert [block["index"] for block in shown] == list(range(len(shown)))
            assert len(shown) > least
            for index in (0, 1, least, len(shown) - 1):
                assert shown[index] == server.get(f"/blocks/{index}").value

        def back_up() -> None:
            least = max(answered)
            result = cairn("backup", backup, "--ledger", path)
            assert result.returncode == 0, result.stderr
            with Ledger.open(backup, read_only=True) as copy:
                assert copy.validate(older=True).valid  # than what the node has signed since
                assert len(copy) > least
                assert copy.head.hash == server.get(f"/blocks/{copy.head.index}").value["hash"]

        def export() -> None:
            least = max(answered)
            result = cairn("export", "-o", file, "--ledger", path)
            assert result.returncode == 0, result.stderr
            lines = file.read_text().splitlines()
            assert len(lines) > least
            assert json.loads(lines[-1]) == server.get(f"/blocks/{len(lines) - 1}").value
            assert cairn("import", file, "--ledger", imported).returncode == 0

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(work) for work in (validate, log, back_up, export)]:
                done.result(2 * PATIENCE)
        before = len(answered)
        until(lambda: len(answered) > before)


def test_a_command_that_follows_sees_what_the_node_records(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with running(start(path)) as server, server.client() as client:
        command = [*CAIRN, "log", "--follow", "--json", "--ledger", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                shown = [json.loads(process.stdout.readline())]
                for step in range(5):
                    block = client.post(step).value
                    shown.append(json.loads(process.stdout.readline()))
                    assert shown[-1] == block
            finally:
                process.kill()
        assert server.stop() < PATIENCE
    with Ledger.open(path) as ledger:  # also with the reader gone badly
        assert len(ledger) == 6
        assert ledger.validate().valid


def test_a_node_whose_directory_is_taken_away_says_so_and_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with running(start(path), may_log=True) as server, server.client() as client:
        kept = [client.post(step).value for step in range(5)]
        shutil.move(path, tmp_path / "moved")
        for answer in (client.get("/validate"), client.get("/"), client.get("/blocks/1")):
            assert answer.status in (200, 503), answer
        assert client.post("where to?").status in (201, 503)
        assert server.stop() < PATIENCE
    with Ledger.open(tmp_path / "moved") as ledger:
        assert [json.loads(block.to_json()) for block in ledger][1:6] == kept
        assert ledger.validate().valid
