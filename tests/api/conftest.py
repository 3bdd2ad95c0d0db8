"""Servers for the tests of the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.servers import Server, start

Serve = Callable[..., Server]
OF_TAMPERING = (
    "CRITICAL cairn.node.checkpoints: nothing is signed any more: block ",
    "ERROR cairn.api.problems: the data of block ",
    "ERROR cairn.api.problems: block ",
)


@pytest.fixture(scope="session")
def started() -> list[Server]:
    """Every server that tests have started here."""
    return []


@pytest.fixture(scope="module", autouse=True)
def no_server_has_complained(started: list[Server]) -> Iterator[None]:
    """Check, after every module, that no request made a server write to its log.

    What a client sends is no news for whoever runs a node; a traceback is a bug. A lab may say that
    it neither signs nor proves what was tampered with.
    """
    yield
    wrote = [f"{server.process.args!r} wrote:\n{complaints(server)[-3000:]}" for server in started
             if complaints(server)]  # fmt: skip
    started[:] = [server for server in started if server.process.poll() is None]
    assert not wrote, "\n".join(wrote)


def complaints(server: Server) -> str:
    lines = server.log().splitlines()
    if server.in_lab:
        lines = [line for line in lines if not any(known in line for known in OF_TAMPERING)]
    return "\n".join(lines)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, started: list[Server]) -> Iterator[Server]:
    """Return a server as `cairn serve` gives it, shared by many tests."""
    with start(tmp_path_factory.mktemp("server") / "ledger") as running:
        started.append(running)
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    """Return a client of `server`."""
    with server.client() as client:
        yield client


@pytest.fixture
def serve(tmp_path: Path, started: list[Server]) -> Iterator[Serve]:
    """Return what starts servers (see `servers.start`), by default of `tmp_path / "ledger"`."""
    with ExitStack() as stack:
        yield _starter(tmp_path, started, stack)


@pytest.fixture(scope="module")
def serve_all(tmp_path_factory: pytest.TempPathFactory, started: list[Server]) -> Iterator[Serve]:
    """Do the same for servers that the tests of a module share."""
    with ExitStack() as stack:
        yield _starter(tmp_path_factory.mktemp("server"), started, stack)


def _starter(directory: Path, started: list[Server], stack: ExitStack) -> Serve:
    def run(*options: str, ledger: Path | None = None, **others: Any) -> Server:
        server = start(ledger or directory / "ledger", *options, **others)
        stack.push(server)
        started.append(server)
        return server

    return run
