"""The lab's scratch copy: everything may be done to it, and it is gone at exit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cairn.ledger import Ledger
from cairn.store.directory import occupied
from cairn.store.disk import CHECKPOINT_NAME

LAB_KEYS: Final = "cairn-lab-keys"
"""The folder beside the copy with the keys that sign it: the user's own sign one chain only."""


@contextmanager
def scratch_copy(directory: Path) -> Iterator[Path]:
    """Yield the directory of a copy of the ledger in `directory`, or of none if there is none.

    Raises:
        CairnError: what is there cannot be read.
    """
    scratch = Path(tempfile.mkdtemp(prefix="cairn-lab-"))
    try:
        copy = scratch / directory.absolute().name
        if occupied(directory):
            with Ledger.open(directory, read_only=True) as ledger:
                ledger.backup(copy)
            # It is signed anew, by other keys: that is refused where there is a checkpoint.
            (copy / CHECKPOINT_NAME).unlink(missing_ok=True)
        yield copy
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
