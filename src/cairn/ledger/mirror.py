"""Writing a ledger's checkpoint and tiles to a folder that any web server or bucket can serve."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cairn.core.errors import ProofError, StoreError, UsageError
from cairn.core.tree import WIDTH
from cairn.ledger.ledger import Ledger
from cairn.proof.checkpoint import Checkpoint
from cairn.proof.note import Note
from cairn.proof.tiles import tiles_of


def write_mirror(
    ledger: Ledger, folder: Path, progress: Callable[[int, int], None] = lambda _done, _size: None
) -> Checkpoint:
    """Write the tiles of the published checkpoint to `folder`, and then that; return it.

    Signs one first, if the ledger is open to write. Full tiles that are there are left, since they
    never change: so the same folder can be brought up to date, and each step leaves a mirror that
    is whole. `progress` is called with how many blocks of how many are done.

    Raises:
        StoreError: a file cannot be written.
        UsageError: `folder` has the mirror of another ledger.
        InconsistentError, InvalidChainError, NotFoundError: as for `Ledger.checkpoint`.
    """
    note = ledger.published()
    checkpoint = Checkpoint.parse(note.text)
    try:
        _require_own(folder, checkpoint.origin)
        for tile in tiles_of(checkpoint.size):
            path = folder / tile.path
            if tile.width == WIDTH and path.exists() and path.stat().st_size == tile.nbytes:
                continue
            _write(path, ledger.notary.tile(tile, checkpoint))
            progress(min(tile.leaves[1], checkpoint.size), checkpoint.size)
        _write(folder / "checkpoint", str(note).encode())
    except OSError as error:
        raise StoreError(f"the mirror cannot be written: {error}") from error
    return checkpoint


def _require_own(folder: Path, origin: str) -> None:
    """Refuse a folder that has the mirror of another ledger: its tiles would be left."""
    with suppress(FileNotFoundError, ProofError):
        note = Note.parse((folder / "checkpoint").read_bytes())
        if (there := Checkpoint.parse(note.text).origin) != origin:
            raise UsageError(f"{folder} has the mirror of {there}")


def _write(path: Path, data: bytes) -> None:
    """Let a file have this content: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
