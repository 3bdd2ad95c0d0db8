"""Clients of both kinds, of nodes of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cairn.client import AsyncClient, Client
from tests.client.nodes import Blocking, FakeNode, RealNode

Connect = Callable[..., Client]


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """What makes clients: of the kind that blocks, and of the other one made to block."""
    made: list[Blocking | Client] = []

    def connect(*args: Any, **kwargs: Any) -> Client:
        if request.param == "sync":
            made.append(Client(*args, **kwargs))
        else:
            made.append(Blocking(AsyncClient(*args, **kwargs)))
        return cast(Client, made[-1])

    yield connect
    for client in made:
        client.end() if isinstance(client, Blocking) else client.close()


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def client(connect: Connect, node: FakeNode) -> Client:
    return connect(transport=node.transport)


@pytest.fixture(scope="session")
def real_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    with RealNode(tmp_path_factory.mktemp("node") / "real.cairn") as node:
        yield node


@pytest.fixture
def ledger_directory(tmp_path: Path) -> Path:
    return tmp_path / "audit.cairn"
