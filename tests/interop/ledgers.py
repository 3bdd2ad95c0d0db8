"""Entries and ledgers whose log is looked at, and what is believed of them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from cairn import Ledger
from tests.core.reference import leaf, tree
from tests.interop import reference
from tests.service.harness import Server, until


class Tree(NamedTuple):
    """What a log claims, and what it was found to have."""

    size: int
    root: bytes


def made(size: int) -> list[bytes]:
    """Return so many different entries of 104 bytes."""
    return [
        b"".join(sha256(b"%d %d" % (i, j)).digest() for j in range(4))[:104] for i in range(size)
    ]


def grown(directory: Path, size: int) -> list[bytes]:
    """Make the ledger so many blocks long, and return its headers."""
    with Ledger.open(directory) as ledger:
        ledger.extend({"step": step} for step in range(len(ledger), size))
        return [block.header.pack() for block in ledger]


def tree_of(headers: Sequence[bytes]) -> Tree:
    return Tree(len(headers), tree([leaf(header) for header in headers]))


def text_of_checkpoint(headers: Sequence[bytes]) -> str:
    """Return what the ledger of these blocks signs."""
    return reference.checkpoint_text(f"cairn/{leaf(headers[0]).hex()}", *tree_of(headers))


def wait_for_checkpoint(server: Server, size: int) -> None:
    """Return when the node shows a checkpoint of so many blocks."""
    until(lambda: b"\n%d\n" % size in server.get("/checkpoint").body)
