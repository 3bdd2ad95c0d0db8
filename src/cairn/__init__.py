"""Cairn: a tamper-evident ledger.

with Ledger.open("audit.cairn") as ledger:
    ledger.append({"user": "alice", "did": "login"})
    assert ledger.validate().valid
"""

from logging import NullHandler, getLogger
from typing import TYPE_CHECKING, Any

from cairn.core.block import Block
from cairn.core.errors import (
    CairnError,
    DamagedError,
    EntryError,
    ExistsError,
    ExtendError,
    FormatError,
    InconsistentError,
    KeyReusedError,
    LockedError,
    NoSuchBlockError,
    NoSuchEntryError,
    NotFinalError,
    NotFoundError,
    OutcomeUnknownError,
    ProofError,
    ReadOnlyError,
    StoreError,
    UsageError,
)
from cairn.core.genesis import Genesis, Limits, Work
from cairn.core.rules import Failure, InvalidChainError
from cairn.ledger import Ledger
from cairn.ledger.standing import Standing
from cairn.proof.receipt import Receipt
from cairn.report import Report

if TYPE_CHECKING:
    from cairn.client import AsyncClient, Client, NodeError

__all__ = [
    "AsyncClient",
    "Block",
    "CairnError",
    "Client",
    "DamagedError",
    "EntryError",
    "ExistsError",
    "ExtendError",
    "Failure",
    "FormatError",
    "Genesis",
    "InconsistentError",
    "InvalidChainError",
    "KeyReusedError",
    "Ledger",
    "Limits",
    "LockedError",
    "NoSuchBlockError",
    "NoSuchEntryError",
    "NodeError",
    "NotFinalError",
    "NotFoundError",
    "OutcomeUnknownError",
    "ProofError",
    "ReadOnlyError",
    "Receipt",
    "Report",
    "Standing",
    "StoreError",
    "UsageError",
    "Work",
]


getLogger(__name__).addHandler(NullHandler())  # who wants to hear it says so


def __getattr__(name: str) -> Any:
    """Import the clients when they are asked for: who has no node need not load HTTP."""
    if name in ("AsyncClient", "Client", "NodeError"):
        from cairn import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
