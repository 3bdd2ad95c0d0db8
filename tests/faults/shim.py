"""Python's side of shim.c: build it, load it into a process, talk to it there, read its trace."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

SOURCE: Final = Path(__file__).with_name("shim.c")
RECORD: Final = struct.Struct("=IIQQQQQ")


class Mode(IntEnum):
    """What happens to the k-th call."""

    UNARMED = 0
    """Nothing."""
    ONCE = 1
    """It fails."""
    STICKY = 2
    """It fails, and so do all after it."""
    SHORT = 3
    """It is a write and writes the first half of its bytes; the next write fails."""
    KILL = 4
    """The process is killed before it, or in the middle of it if it is a write."""
    SYNC_ONCE = 5
    """It fails, and only fsync and fdatasync count."""
    SYNC_KILL = 6
    """The process is killed before it, and only fsync and fdatasync count."""


class Operation(IntEnum):
    CREATE = 1
    """Of a file, or of a directory where `offset` is 1."""
    WRITE = 2
    TRUNCATE = 3
    """To `offset` bytes."""
    SYNC = 4
    """Of a file, or of the names in a directory."""
    RENAME = 5
    """`data` is the new name."""
    UNLINK = 6
    MARK = 7
    FAILED_SYNC = 8


class Record(NamedTuple):
    """A call that succeeded, or a mark (`data`). Files and directories are inode numbers."""

    operation: Operation
    inode: int
    parent: int
    new_parent: int
    name: str
    offset: int
    data: bytes


def build(directory: Path) -> Path:
    """Compile the library into `directory`."""
    library = directory / "shim.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-U_FORTIFY_SOURCE", "-Wall", "-Werror"]
    subprocess.run([*command, "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)
    return library


def environment(library: Path, watched: Path) -> dict[str, str]:
    """Return the environment of a process whose calls below `watched` go through the library."""
    return {**os.environ, "LD_PRELOAD": str(library), "SHIM_DIR": str(watched)}


class Shim:
    """The library inside a process that was started with it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._library.shim_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int]
        self._library.shim_disarm.restype = ctypes.c_long
        self._library.shim_calls.restype = ctypes.c_long

    def arm(self, k: int, mode: Mode, number: int = errno.EIO) -> None:
        """Let the k-th call from now on, from 1, meet its fate; `number` is the errno."""
        self._library.shim_arm(k, number, mode)

    def disarm(self) -> int:
        """Let calls pass again; return how many were made to fail."""
        return int(self._library.shim_disarm())

    def calls(self) -> int:
        """Return how many calls there were since it was armed."""
        return int(self._library.shim_calls())

    def trace(self, path: Path) -> None:
        """Record calls from now on, at the end of the file `path`."""
        if self._library.shim_trace(os.fsencode(path)):
            raise OSError(f"cannot write {path}")

    def mark(self, text: str) -> None:
        """Put `text` into the trace."""
        self._library.shim_mark(text.encode())


def read_trace(path: Path) -> Iterator[Record]:
    """Yield what was recorded."""
    content = path.read_bytes()
    at = 0
    while at < len(content):
        operation, name_size, inode, parent, new_parent, offset, size = RECORD.unpack_from(
            content, at
        )
        at += RECORD.size
        name = content[at : at + name_size].decode()
        at += name_size
        data = content[at : at + size]
        at += size
        yield Record(Operation(operation), inode, parent, new_parent, name, offset, data)
