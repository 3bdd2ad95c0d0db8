"""Cairn: a tamper-evident ledger.

with Ledger.open("audit.cairn") as ledger:
    ledger.append({"user": "alice", "did": "login"})
    assert ledger.validate().valid
"""

from cairn.core.block import Block
from cairn.core.errors import CairnError, EntryError, FormatError
from cairn.core.genesis import Genesis, Limits
from cairn.core.rules import Failure, InvalidChainError
from cairn.ledger import ExtendError, Ledger, Report
from cairn.store.errors import (
    DamagedError,
    ExistsError,
    LockedError,
    NoSuchBlockError,
    NotFoundError,
    OutcomeUnknownError,
    ReadOnlyError,
    StoreError,
    UsageError,
)

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
