"""Ledgers with sealed segments, for tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cairn.core.block import Block
from cairn.hashing import best_hasher
from cairn.store import disk, flat
from cairn.store.directory import FILE_NAME, SEGMENTS_NAME
from cairn.store.disk import DiskStore
from tests import independent
from tests.builders import segments


def build(directory: Path, blocks: Sequence[Block], *sizes: int) -> None:
    """Make a ledger of `blocks`: files with so many of them each, and the rest in the tail."""
    directory.mkdir(parents=True, exist_ok=True)
    DiskStore.create(directory)
    with closing(DiskStore(directory, best_hasher())) as store:
        for number, segment in enumerate(segments(blocks, *sizes)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(disk, "SEAL_BLOCKS", 0 if number < len(sizes) else 2**30)
                store._room = None
                store.append(segment, {})


def cut_into_parts(patch: pytest.MonkeyPatch, blocks: int, size: int = 2**25) -> None:
    """Let files be read in parts of so many blocks or bytes, here and by the second opinion."""
    for module in (flat, independent):
        patch.setattr(module, "PART_BLOCKS", blocks)
        patch.setattr(module, "PART_BYTES", size)


def files_of(directory: Path) -> list[Path]:
    return sorted((directory / SEGMENTS_NAME).glob("*.segment"))


@contextmanager
def database(directory: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a ledger's database; commit what is done with it."""
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")  # hundreds of ledgers, none to keep
        yield connection
