"""A ledger is a directory: how one comes to be, whole or not at all, and who may write to it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cairn.core.errors import ExistsError, LockedError, StoreError

FILE_NAME: Final = "tail.sqlite"
"""The blocks. The ledger is there exactly when this name is."""
SEGMENTS_NAME: Final = "segments"
"""The folder of sealed segments."""
LOCK_NAME: Final = "lock"
REWRITE_BYTES: Final = 2**20
"""Bytes rewritten at once, to bound memory."""

_HIDDEN: Final = re.compile(r"\.cairn-\d+-[0-9a-f]{16}\.new")
"""The directories that ledgers are built in."""
_FOREIGN: Final = frozenset({"lost+found"})
"""What a file system itself puts into its topmost directory."""
_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS})
"""Why a directory above a ledger cannot be synced, where that is no failure: it may not be read, or
the file system keeps no writes."""


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty hidden directory whose `FILE_NAME` becomes the ledger `path`, at the end.

    Whole and durable, or not at all. `path` may be missing, with or without its parents, or be
    there and not `occupied`: also as a mount point, as a symbolic link, or where its parent may not
    be written to. One that is there keeps its mode and owner; one that is made is given those that
    the hidden directory has at the end. On an error nothing is left behind but new parents; or the
    ledger, whole, if it was there and only syncing its name failed.

    Raises:
        ExistsError: something is at `path` already, or has come there meanwhile.
        StoreError: the database in the hidden directory was not closed well.
    """
    creation = _Creation(path.absolute())
    try:
        creation.begin()
        yield creation.hidden
        creation.finish()
    except BaseException:
        creation.abandon()
        raise
    finally:
        creation.let_go()


class _Creation:
    """A ledger on its way into the directory `path`.

    Creators keep each other out by flock on `path` itself: for moments only, never while they
    build. Each also holds a lock on its own hidden directory, so that its leftovers can be told
    from its work: the lock ends with its holder, however that ends.

    The comments say what a crash leaves, of the process or of the machine, until the next step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hidden = path / f".cairn-{os.getpid()}-{secrets.token_hex(8)}.new"
        self._is_ours = False
        self._descriptor = -1

    def begin(self) -> None:
        """Make the hidden directory, and `path` if missing."""
        while self._descriptor < 0:
            _require_unoccupied(self.path)
            # 1. A crash leaves an empty directory, which is as good as none.
            self._is_ours = _make(self.path)
            with suppress(_GoneError), _alone_in(self.path):  # gone by whoever made it, and failed
                _remove_leftovers(self.path)
                # 2. From here to 5, a crash leaves leftovers: a hidden directory that nothing
                # reads, nobody holds, and the next creator removes.
                self.hidden.mkdir()
                self._descriptor = _hold(self.hidden)

    def finish(self) -> None:
        """Move the ledger to where it belongs."""
        # 3. What was built is in one file, the log having gone into it, and is now durable there.
        self._require_closed()
        sync(self.hidden / FILE_NAME)
        with _alone_in(self.path):
            _require_unoccupied(self.path)
            # 4. Before the ledger comes: it must never lie open to more than it was meant for.
            if self._is_ours:
                keep_access(self.hidden, self.path)
            # From here to 5, a crash leaves the segments beside leftovers: all goes with them.
            self._move_segments()
            # 5. Now it is there, whole, for all to open; whoever opens it to write makes sure of
            # its name first. A crash of the process leaves it, one of the machine it or leftovers.
            # Either may also leave the hidden directory beside it, for good, which does no harm.
            (self.hidden / FILE_NAME).rename(self.path / FILE_NAME)
            # 6. In the hidden directory is at most the lock file of who wrote there.
            shutil.rmtree(self.hidden)
            # 7. Now it is durable, and so are the names that lead to it. Until here creators that
            # were slower wait, so that what they find is.
            sync_names(self.path / FILE_NAME)
            # 8. Whose the segments were does not matter any more.
            with suppress(OSError):
                _mark_of(self.hidden, self.path).unlink()

    def abandon(self) -> None:
        """Remove all that was made, as far as that works; after 5, the ledger stays."""
        with suppress(OSError):
            _take_back_segments(self.hidden)
            shutil.rmtree(self.hidden, ignore_errors=True)
        if self._is_ours:
            # It fails where the ledger is in it, or another creator is at work in it.
            with suppress(OSError), _alone_in(self.path):
                self.path.rmdir()

    def let_go(self) -> None:
        """Let go of the hidden directory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _move_segments(self) -> None:
        """Move the segments, marked as ours until the ledger is there, to where they belong."""
        if not (self.hidden / SEGMENTS_NAME).exists():
            return
        _mark_of(self.hidden, self.hidden).touch()
        for directory in (self.hidden / SEGMENTS_NAME, self.hidden, self.path):
            sync(directory)  # what tells whose they are must not come later than they
        (self.hidden / SEGMENTS_NAME).rename(self.path / SEGMENTS_NAME)
        sync(self.path)

    def _require_closed(self) -> None:
        """Refuse to part a database from its log: SQLite keeps quiet where closing fails."""
        if left := sorted(file.name for file in self.hidden.glob(f"{FILE_NAME}-*")):
            raise StoreError(f"{self.hidden / FILE_NAME} was not closed: there is {left[0]}")


class _GoneError(FileNotFoundError):
    """A directory has been removed."""


def _make(path: Path) -> bool:
    """Make the directory `path`, and its parents, if missing; return whether it was."""
    if path.is_dir():  # then nothing is asked of its parent
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:  # by another creator, or what it is will show
        return False
    return True


@contextmanager
def _alone_in(path: Path) -> Iterator[None]:
    """Keep other creators waiting at the directory `path`.

    Raises:
        _GoneError: it is not there, or not any more.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError as error:
        raise _GoneError(*error.args) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _require_at(path, descriptor)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would not do: see `WriterLock`
        os.close(descriptor)


def _require_at(path: Path, descriptor: int) -> None:
    """Refuse a directory that was replaced while we waited."""
    try:
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return
    except FileNotFoundError:
        pass
    raise _GoneError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _hold(directory: Path) -> int:
    """Lock a hidden directory until the descriptor that is returned is closed.

    Raises:
        BlockingIOError: its creator is alive.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _remove_leftovers(path: Path) -> None:
    """Remove the hidden directories in `path` whose creators are gone, as far as we may.

    Only while alone in `path`, since a creator that has just made its own does not hold it yet.
    """
    for hidden in filter(_is_hidden, path.iterdir()):
        with suppress(OSError):  # its creator is alive, or it is not ours; it is in nobody's way
            descriptor = _hold(hidden)
            try:
                _take_back_segments(hidden)
                shutil.rmtree(hidden)
            finally:
                os.close(descriptor)


def _owns_segments(hidden: Path) -> bool:
    """Whether the segments beside this hidden directory came out of it, and their ledger did not.

    They say so themselves: those of a ledger that has only lost its database are never taken for
    leftovers.
    """
    marked = _mark_of(hidden, hidden.parent).exists()
    return marked and (hidden / FILE_NAME).exists() and not (hidden.parent / FILE_NAME).exists()


def _take_back_segments(hidden: Path) -> None:
    """Move segments that belong to this hidden directory back into it, all at once."""
    if _owns_segments(hidden):
        shutil.rmtree(hidden / SEGMENTS_NAME, ignore_errors=True)  # half of a rename may be lost
        (hidden.parent / SEGMENTS_NAME).rename(hidden / SEGMENTS_NAME)


def _mark_of(hidden: Path, directory: Path) -> Path:
    """Return what the segments in `directory` hold while they belong to a hidden directory."""
    return directory / SEGMENTS_NAME / hidden.name


def _is_hidden(path: Path) -> bool:
    return _HIDDEN.fullmatch(path.name) is not None


def occupied(path: Path) -> bool:
    """Whether there is something at `path` in the way of a new ledger.

    A directory is not that holds nothing but hidden directories, left by crashed creators or of
    ones at work, and what a file system puts there itself. A symbolic link that leads nowhere is:
    what it leads to may come back.
    """
    # Asked once, and by names alone: creators may be making and removing things right now.
    try:
        files = list(path.iterdir())
    except NotADirectoryError:
        return path.exists()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return path.is_symlink()
        raise
    ignored = {file.name for file in files if _is_hidden(file)} | _FOREIGN
    if any(_owns_segments(file) for file in files if _is_hidden(file)):
        ignored |= {SEGMENTS_NAME}
    return any(file.name not in ignored for file in files)


def _require_unoccupied(path: Path) -> None:
    if occupied(path):
        leads_nowhere = path.is_symlink() and not path.exists()
        what = "is a symbolic link that leads nowhere" if leads_nowhere else "exists already"
        raise ExistsError(f"{path} {what}")


def keep_access(source: Path, target: Path) -> None:
    """Give `target` the mode of `source`, and its owner as far as we may.

    A directory stays open to its owner, who has yet to put something into it.
    """
    status = source.stat()
    always = stat.S_IRWXU if target.is_dir() else 0
    target.chmod(stat.S_IMODE(status.st_mode) | always)
    with suppress(PermissionError):
        os.chown(target, status.st_uid, status.st_gid)


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(path: Path) -> None:
    """Flush the names that lead to `path`, as far up as we may.

    A new file or directory can be durable in itself and yet lost, if its name is not.
    """
    sync(path.parent)
    for ancestor in Path(os.path.realpath(path.parent)).parents:
        try:
            sync(ancestor)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise


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
