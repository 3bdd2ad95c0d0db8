"""The node: a ledger and all that works on it, put together for a service."""

from cairn.node.node import Node

__all__ = ["Node"]
