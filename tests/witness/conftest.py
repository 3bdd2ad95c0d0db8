"""A witness of one log, in memory that is durable."""

from __future__ import annotations

from pathlib import Path

import pytest

from cairn.proof.memory import Memory
from cairn.proof.note import Algorithm, SigningKey
from cairn.proof.witness import Witness
from tests.witness.logs import Log, new_key


class Clock:
    """Stands still, unless it is set."""

    now = 1_700_000_000.9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def key() -> SigningKey:
    return new_key("witness.example/1", Algorithm.COSIGNATURE)


@pytest.fixture(scope="session")
def log() -> Log:
    return Log.of(20)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cosigned.sqlite")


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    return tmp_path / "evidence"


@pytest.fixture
def witness(key: SigningKey, log: Log, memory: Memory, evidence: Path, clock: Clock) -> Witness:
    return Witness(key, {log.origin: [log.key.verifier]}, memory, evidence, clock=clock)
