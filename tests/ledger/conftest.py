"""What the tests of the ledger share: stores whose history lies in many small files and parts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest

from cairn.core.block import Block
from cairn.core.segment import Segment
from cairn.hashing import best_hasher
from cairn.store import disk, flat
from cairn.store.directory import FILE_NAME, SEGMENTS_NAME
from cairn.store.disk import DiskStore


@pytest.fixture(autouse=True)
def every_verdict_has_a_second_opinion() -> None:
    """Not here: these runs leave blocks out, or go on beside a writer, and are held to a fold."""


@contextmanager
def quick_folder() -> Iterator[Path]:
    """Yield an empty folder, in memory if there is room: a sync takes no time there."""
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    with TemporaryDirectory(dir=memory if roomy else None) as folder:
        yield Path(folder)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@contextmanager
def tiny(*, seal: int = 4, part: int = 2) -> Iterator[None]:
    """Have a tail hold `seal` blocks at most, and a part `part` of them."""
    with patch.object(disk, "SEAL_BLOCKS", seal), patch.object(flat, "PART_BLOCKS", part):
        yield


def write(path: Path, blocks: Sequence[Block], *, at_once: int = 3) -> None:
    """Make a store in `path` that holds `blocks`, appended so many at once."""
    path.mkdir()
    DiskStore.create(path)
    store = DiskStore(path, best_hasher())
    for start in range(0, len(blocks), at_once):
        store.append(Segment.from_blocks(start, blocks[start : start + at_once]), {})
    store.close()


def flip(path: Path, column: str, bit: int) -> None:
    """Change one bit of the files of a store: of their `column`s, as if they lay end to end."""
    at = bit // 8
    store = DiskStore(path, best_hasher(), read_only=True)
    files = store._tail.sealed()
    store.close()
    for sealed in files:
        file = path / SEGMENTS_NAME / sealed.name
        data = bytearray(file.read_bytes())
        entries, size = (int.from_bytes(data[i : i + 8], "little") for i in (32, 40))
        layout = flat._Layout.of(sealed.blocks, entries, size)
        width = {"hashes": sealed.blocks * 32, "headers": sealed.blocks * 104, "data": size}[column]
        if at < width:
            data[getattr(layout, column) + at] ^= 1 << bit % 8
            file.write_bytes(data)
            return
        at -= width
    raise IndexError(f"the files hold {bit // 8 - at} bytes of {column}")


def files(path: Path) -> list[Path]:
    """Return the sealed files of a ledger, in order."""
    return sorted((path / SEGMENTS_NAME).glob(f"*{flat.SUFFIX}"))


def tail(path: Path) -> Path:
    return path / FILE_NAME
