"""What the tests of the service share."""

from __future__ import annotations

from pathlib import Path

import pytest

from cairn import Ledger
from tests.faults.conftest import memory_path, shim_library

__all__ = ["long_ledger", "memory_path", "shim_library"]


@pytest.fixture(scope="session")
def long_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of 200,001 blocks, to be copied and not changed."""
    path = tmp_path_factory.mktemp("long") / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend({"step": step, "did": "x" * 100} for step in range(200_000))
    return path
