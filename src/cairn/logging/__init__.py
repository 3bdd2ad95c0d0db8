"""A `logging.Handler` that records what an application logs in a ledger, or at a node.

    logging.getLogger("audit").addHandler(LedgerHandler("audit.cairn"))

Read in this order: `entry`, `queue`, `process`, `handler`. Each imports only those before it.
"""

from cairn.logging.handler import LedgerHandler, Target

__all__ = ["LedgerHandler", "Target"]
