"""A real node as target: it is killed and comes back, and processes that log to it fork."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cairn import Ledger, UsageError
from cairn.logging import LedgerHandler
from tests.logs.processes import numbers, run
from tests.logs.programs import COUNT
from tests.logs.targets import recorded

TOKEN = "a token of the tests"[:16].replace(" ", "-")


class Node:
    """A node in a process of its own, always at the same port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.options: list[str] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "cairn", "serve", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--ledger", str(self.directory), *self.options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.url in self.process.stdout.readline()

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            with self.process:
                self.process.send_signal(number)
            self.process = None

    def entries(self) -> list[Any]:
        """Return what is recorded, once the node has stopped."""
        self.stop()
        with Ledger.open(self.directory) as ledger:
            return recorded(ledger)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "ledger")
    yield node
    node.stop()


def log(logger: logging.Logger, thread: str) -> None:
    for number in range(200):
        logger.info("%d", number, extra={"thread_": thread})
        time.sleep(0.003)  # that is for longer than a restart takes


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_is_there_once_and_in_order_when_the_node_was_restarted_meanwhile(
    node: Node, number: signal.Signals
) -> None:
    node.start()
    logger, handler = logging.Logger("test"), LedgerHandler(node.url)
    logger.addHandler(handler)
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(log, logger, thread) for thread in "abc"]
        time.sleep(0.2)
        node.stop(number)
        node.start()
        for future in running:
            future.result()
    handler.close()
    assert numbers(node.entries()) == {thread: list(range(200)) for thread in "abc"}
    assert handler.dropped == 0


def test_a_node_that_comes_late_gets_what_was_logged_before(
    node: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairn.logging.handler.PATIENCE_SECONDS", 0.1)
    node.directory.with_name("tokens").write_text(TOKEN)
    node.options = ["--token-file", str(node.directory.with_name("tokens"))]
    logger, handler = logging.Logger("test"), LedgerHandler(node.url, token=TOKEN)
    logger.addHandler(handler)
    logger.info("first")
    assert not handler.flush(0.5)
    assert capsys.readouterr().err.count("Message: 'log entries cannot be recorded yet") == 1
    node.start()
    handler.close()
    assert [entry["message"] for entry in node.entries()] == ["first"]


def test_children_of_a_fork_log_to_the_node_over_connections_of_their_own(node: Node) -> None:
    node.start()
    said = run("forks_with_a_node", node.url)
    assert (said.code, said.errors) == (0, "")
    assert numbers(node.entries()) == {
        **{name: list(range(50)) for name in "xyz"},
        **{name: list(range(COUNT)) for name in ("main", "thread")},
    }


def test_no_request_imports_anything_that_a_child_could_miss(node: Node) -> None:
    node.start()
    said = run("imports_nothing_by_then", node.url)
    assert said.code == 0, said.errors


def test_children_of_multiprocessing_lose_nothing_when_they_end(node: Node) -> None:
    node.start()
    said = run("forks_with_multiprocessing", node.url)
    assert (said.code, said.errors) == (0, "")
    assert numbers(node.entries()) == {"main": [0, 1], "child": list(range(COUNT))}


def test_a_url_that_cannot_be_a_node_s_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="a node is at"):
        LedgerHandler("http://")
