"""Cairn: a tamper-evident ledger.

with Ledger.open("audit.cairn") as ledger:
    ledger.append({"user": "alice", "did": "login"})
    assert ledger.validate().valid
"""

from cairn.core.block import Block
from cairn.core.errors import (
    CairnError,
    DamagedError,
    EntryError,
    ExistsError,
    ExtendError,
    FormatError,
    KeyReusedError,
    LockedError,
    NoSuchBlockError,
    NotFoundError,
    OutcomeUnknownError,
    ReadOnlyError,
    StoreError,
    UsageError,
)
from cairn.core.genesis import Genesis, Limits
from cairn.core.rules import Failure, InvalidChainError
from cairn.ledger import Ledger
from cairn.report import Report

__all__ = [
    "Block",
    "CairnError",
    "DamagedError",
    "EntryError",
    "ExistsError",
    "ExtendError",
    "Failure",
    "FormatError",
    "Genesis",
    "InvalidChainError",
    "KeyReusedError",
    "Ledger",
    "Limits",
    "LockedError",
    "NoSuchBlockError",
    "NotFoundError",
    "OutcomeUnknownError",
    "ReadOnlyError",
    "Report",
    "StoreError",
    "UsageError",
]
