"""The embedded product: a ledger that a program opens, appends to, reads and validates."""

from cairn.ledger.ledger import Ledger

__all__ = ["Ledger"]
