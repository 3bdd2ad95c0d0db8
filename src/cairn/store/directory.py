"""A ledger is a directory: how one comes to be, whole or not at all, and who may write to it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cairn.core.errors import ExistsError, LockedError

LOCK_NAME: Final = "lock"
REWRITE_BYTES: Final = 2**20
"""Bytes rewritten at once, to bound memory."""


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty hidden directory beside `path` that becomes `path` when the block ends well.

    A crash before the rename leaves only the hidden directory, which nothing reads; after it the
    ledger is there, whole and durable. On an error the hidden directory is removed.

    Raises:
        ExistsError: `path` is there already and not an empty directory.
    """
    path = path.absolute()
    if occupied(path):
        raise ExistsError(f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.new")
    temporary.mkdir()
    try:
        if path.exists():  # an empty directory, perhaps private, and not ours
            keep_access(path, temporary)
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        temporary.rename(path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise ExistsError(f"{path} exists already") from None
        raise
    sync_names(path)


def keep_access(source: Path, target: Path) -> None:
    """Give `target` the mode of `source`, and its owner as far as we may."""
    shutil.copymode(source, target)
    status = source.stat()
    with suppress(PermissionError):
        os.chown(target, status.st_uid, status.st_gid)


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def occupied(path: Path) -> bool:
    """Whether there is something at `path` other than an empty directory."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def sync_names(path: Path) -> None:
    """Flush the names that lead to `path`, as far up as we may.

    A new file or directory can be durable in itself and yet lost, if its name is not.
    """
    sync(path.parent)
    for ancestor in path.absolute().parent.parents:
        with suppress(PermissionError):
            sync(ancestor)


def rewrite(path: Path) -> None:
    """Write the bytes of a file again where they are, and flush them to the disk.

    After a failed fsync the system may hold bytes that never reached the disk and think that they
    did; written again, they do.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        at = 0
        while chunk := os.pread(descriptor, REWRITE_BYTES, at):
            at += os.pwrite(descriptor, chunk, at)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class WriterLock:
    """The right to write to a ledger directory, held by one process at a time.

    Kept by the operating system (flock), so that it ends with its holder, however that ends. The
    file says who holds it, for people.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK_NAME
        self._process = os.getpid()
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._acquire(directory)
        except BaseException:
            self.release()
            raise

    def _acquire(self, directory: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 4096, 0).decode(errors="replace")
            raise LockedError(f"{directory} is being written by {_shown(holder)}") from None
        note = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "program": Path(sys.argv[0]).name,  # no arguments: they may hold secrets
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(note).encode(), 0)

    def release(self) -> None:
        """Let the next writer in."""
        if self._descriptor < 0:
            return
        if os.getpid() == self._process:  # a forked child shares it: closing alone would not do
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        self.release()


def _shown(holder: str) -> str:
    try:
        note = json.loads(holder)
        return "process {process} on {host} ({program!r}) since {since}".format(**note)
    except (ValueError, KeyError, TypeError):
        return "another process, which is just starting"
