"""How the chain of a work ledger changes, for those who follow it.

Nobody has a queue here. Who follows is known by the last block that it was told of: whatever has
become of that block since, what to tell next follows from it.
"""

from __future__ import annotations

from threading import Lock
from typing import Final, NamedTuple

from cairn.core.block import Block
from cairn.core.errors import NoSuchBlockError
from cairn.core.header import LINK, NO_HASH
from cairn.core.segment import Segment
from cairn.ledger import Ledger
from cairn.ledger.search import find_blocks
from cairn.net.events import HeadMoved
from cairn.node.peering import Peering
from cairn.store.interface import Head

KEPT: Final = 100_000
"""Blocks that were taken off whose links are remembered, of some 200 bytes each: the store forgets
them when they are below the final ones, and one who follows may be slower than that."""


class Tip(NamedTuple):
    """The last block that one who follows was told of."""

    position: int
    """-1: none, not even genesis."""
    hash: bytes


class Connected(NamedTuple):
    """A block follows those before it."""

    block: Block

    @property
    def tip(self) -> Tip:
        """The last block then."""
        return Tip(self.block.index, self.block.stored_hash)


class Disconnected(NamedTuple):
    """The last block is not on the chain any more."""

    gone: Tip
    tip: Tip
    """The last block then."""


Change = Connected | Disconnected


class Changes:
    """Says what has changed since somebody was told."""

    def __init__(self, ledger: Ledger, peering: Peering) -> None:
        self._ledger = ledger
        self._peering = peering
        self._lock = Lock()  # of what is next
        self._before: dict[Tip, Tip] = {}  # what blocks follow that were taken off
        self._reading = Lock()  # of what is next
        self._read: Head | None = None  # the end of the chain when all side blocks were read

    def moved(self, move: HeadMoved) -> None:
        """Note that the chain has moved."""
        for segment in move.disconnected:
            self._note(segment)

    def tip(self, length: int) -> Tip:
        """Return the last of so many blocks, as they are now.

        Raises:
            NoSuchBlockError: there are fewer.
        """
        if length == 0:
            return Tip(-1, NO_HASH)
        found = self._peering.hash_at(length - 1)
        if found is None:
            raise NoSuchBlockError(f"there is no block {length - 1}")
        return Tip(length - 1, found)

    def require(self, tip: Tip) -> None:
        """Refuse to go on after a block that is not on the chain, and never was as far as we know.

        Raises:
            NoSuchBlockError: so it is.
        """
        if not self._is_on_chain(tip):
            self._link(tip)

    def after(self, tip: Tip, limit: int) -> list[Change]:
        """Return what one who knows the chain up to `tip` is to be told next; nothing: all is said.

        Of blocks that come, about `limit` at most.

        Raises:
            NoSuchBlockError: as for `require`.
            DamagedError: what is next cannot be read.
        """
        changes: list[Change] = []
        while not self._is_on_chain(tip):
            gone, tip = tip, self._link(tip)
            changes.append(Disconnected(gone, tip))
        for block in find_blocks(self._ledger, start=tip.position + 1, limit=limit).blocks:
            if block.header.previous_hash != tip.hash:
                break  # the chain has changed since we looked: the next look shows it
            changes.append(Connected(block))
            tip = Tip(block.index, block.stored_hash)
        return changes

    def _is_on_chain(self, tip: Tip) -> bool:
        return tip.position < 0 or self._peering.hash_at(tip.position) == tip.hash

    def _link(self, tip: Tip) -> Tip:
        """Return the block before one that was taken off."""
        if tip not in self._before:
            self._read_sides()
        if tip in self._before:
            return self._before[tip]
        raise NoSuchBlockError(
            f"no chain that this node remembers has a block {tip.position} with the hash "
            f"{tip.hash.hex()}"
        )

    def _read_sides(self) -> None:
        """Note all that the store has taken off: before a restart, or a moment ago.

        Once for each end of the chain, as they are read with all that is in them.
        """
        with self._reading:
            head = self._peering.head()
            if head != self._read:
                for segment in self._peering.sides():
                    self._note(segment)
                self._read = head

    def _note(self, segment: Segment) -> None:
        rows = zip(segment.hashes, segment.headers[:, LINK], strict=True)
        with self._lock:
            for position, (row, link) in enumerate(rows, segment.start):
                self._before[Tip(position, row.tobytes())] = Tip(position - 1, link.tobytes())
            while len(self._before) > KEPT:
                del self._before[next(iter(self._before))]
