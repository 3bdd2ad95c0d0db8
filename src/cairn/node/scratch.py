"""The lab's scratch copy: everything may be done to it, and it is gone at exit.

What a lab leaves that is killed is removed when the next one starts. It is told from one at work by
a lock that ends with its holder, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cairn.ledger import Ledger
from cairn.store.directory import occupied
from cairn.store.disk import CHECKPOINT_NAME

LAB_KEYS: Final = "cairn-lab-keys"
"""The folder beside the copy with the keys that sign it: the user's own sign one chain only."""
LAB_LOCK: Final = "cairn-lab-lock"
"""The file beside them that is locked while a lab is at work."""
_PREFIX: Final = "cairn-lab-"


@contextmanager
def scratch_copy(directory: Path) -> Iterator[Path]:
    """Yield the directory of a copy of the ledger in `directory`, or of none if there is none.

    Raises:
        CairnError: what is there cannot be read.
    """
    _remove_left()
    scratch = Path(tempfile.mkdtemp(prefix=_PREFIX))
    descriptor = -1
    try:
        descriptor = _locked(scratch)
        copy = scratch / directory.absolute().name
        if occupied(directory):
            with Ledger.open(directory, read_only=True) as ledger:
                ledger.backup(copy)
            # It is signed anew, by other keys: that is refused where there is a checkpoint.
            (copy / CHECKPOINT_NAME).unlink(missing_ok=True)
        yield copy
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if descriptor >= 0:
            os.close(descriptor)


def _locked(scratch: Path) -> int:
    """Return the descriptor that holds the lock of a new scratch folder."""
    hidden = scratch / f"{LAB_LOCK}.new"  # under its own name it is never seen unlocked
    descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    hidden.rename(scratch / LAB_LOCK)
    return descriptor


def _remove_left() -> None:
    """Remove what labs have left that were killed."""
    for scratch in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is somebody else's, or at work, or no such folder
            descriptor = os.open(scratch / LAB_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(scratch, ignore_errors=True)
            finally:
                os.close(descriptor)
