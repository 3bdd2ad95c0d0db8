"""The embedded product: a ledger that a program opens, appends to, reads and validates."""

from cairn.ledger.ledger import Ledger
from cairn.ledger.report import Report
from cairn.ledger.writer import ExtendError

__all__ = ["ExtendError", "Ledger", "Report"]
