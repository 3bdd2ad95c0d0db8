"""Where an entry stands: waiting to be mined, in a block that may yet change, or final."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cairn.core.errors import NoSuchEntryError
from cairn.store.interface import Store

Status = Literal["pending", "confirmed", "final"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of an entry."""

    id: str
    """64 hex digits."""
    status: Status
    block: int | None = None
    """Position of the first block that has it; None while it is pending."""
    place: int | None = None
    """Its place in that block."""
    depth: int | None = None
    """Blocks that follow that one."""
    duplicates: tuple[tuple[int, int], ...] = ()
    """Later blocks that have it again, and the places there: only the first counts."""


def standing_of(store: Store, entry_id: bytes) -> Standing:
    """Return where the entry with this id (32 bytes) stands.

    Raises:
        NoSuchEntryError: the store knows nothing of it.
    """
    shown = entry_id.hex()
    for _ in range(2):  # it may go from the pool into a block between the two looks
        final = store.final()  # first: what is found below it cannot have changed since
        if places := store.find_entry(entry_id):
            (block, place), *others = places
            depth = max(store.head().length - 1 - block, 0)
            status: Status = "final" if block < final else "confirmed"
            return Standing(shown, status, block, place, depth, tuple(others))
        if store.pool_has(entry_id):
            return Standing(shown, "pending")
    raise NoSuchEntryError(f"there is no entry {shown}")
