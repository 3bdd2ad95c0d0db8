"""What charts over the whole life of a ledger are made of: few samples, and no reading of history.

Between two samples a store is asked for the bytes of entries only, which files and runs know of
themselves. What lies at samples that cannot change any more is remembered, so a later outline costs
what is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from cairn.core.errors import StoreError
from cairn.core.header import HEADER_DTYPE
from cairn.store.interface import Store

MOST_KNOWN: Final = 2048
"""Samples that are remembered until those go that the latest outline does without."""


class Sample(NamedTuple):
    """One block, as a chart has it."""

    position: int
    timestamp: int
    """µs since the Unix epoch, as stored."""
    before: int
    """Bytes of the entries of all blocks before it."""
    bits: int
    """The work asked for, as a compact target; 0 on an instant ledger."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A ledger from genesis to head, by a few of its blocks."""

    samples: tuple[Sample, ...]
    """In order; without those that cannot be read."""
    length: int
    """Blocks."""
    size: int
    """Bytes of the entries of all blocks, as far as they can be read."""
    complete: bool
    """Whether all could be read. Where not, samples are missing, or have too few bytes before."""


NOTHING: Final = Outline((), 0, 0, complete=False)
"""Of a store that cannot be read at all."""


class Outliner:
    """Makes the outlines of one ledger, and remembers what they had in common.

    Any number of threads may use it: each outline works on a copy of what is remembered.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[int, Sample] = {}
        self._newest: tuple[int, bytes] = (-1, b"")  # position and header of the last in _known

    def outline(self, points: int) -> Outline:
        """Return samples of the chain as it is now: see `positions`. Requires `points` > 0.

        Of a work ledger that is reorganised meanwhile, those past `final` may be of either chain.
        """
        try:
            length, final = self._store.head().length, self._store.final()
        except StoreError:
            return NOTHING
        known = self._held_to_the_store(length)
        wanted = set(positions(length, points))
        walk = _Walk(self._store)
        samples: list[Sample] = []
        for position in sorted(wanted.union(known)):
            sample = walk.to(position, known.get(position))
            if sample is not None and position in wanted:
                samples.append(sample)
            if sample is not None and position < final and walk.complete:
                known[position] = sample
        walk.skip(length)
        self._remember(known, samples, final)
        return Outline(tuple(samples), length, walk.before, walk.complete)

    def _held_to_the_store(self, length: int) -> dict[int, Sample]:
        """Return what is remembered, while its last block is still the one that is stored.

        It always is, unless somebody has changed the store: as the lab does.
        """
        position, header = self._newest
        if position < 0:
            return {}
        try:
            held = position < length and _header(self._store, position) == header
        except StoreError:
            held = False
        return dict(self._known) if held else {}

    def _remember(self, known: dict[int, Sample], samples: list[Sample], final: int) -> None:
        if len(known) > MOST_KNOWN:
            known = {sample.position: sample for sample in samples if sample.position in known}
        newest = max((position for position in known if position < final), default=-1)
        try:
            header = _header(self._store, newest) if newest >= 0 else b""
        except StoreError:
            return
        self._known, self._newest = known, (newest, header)


class _Walk:
    """Adds up bytes from genesis on, from one position to the next."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._at = 0
        self.before = 0
        """Bytes of the entries before where it has come."""
        self.complete = True
        """Whether all could be read so far."""

    def to(self, position: int, known: Sample | None) -> Sample | None:
        """Go on to a block; return its sample, or None where it cannot be read."""
        if known is not None:
            self._at, self.before = position, known.before
            return known
        self.skip(position)
        try:
            [header] = np.frombuffer(_header(self._store, position), HEADER_DTYPE)
        except StoreError:
            self.complete = False
            return None
        return Sample(position, int(header["timestamp"]), self.before, int(header["bits"]))

    def skip(self, position: int) -> None:
        """Go on to a position, which may be the end."""
        try:
            self.before += self._store.stored_bytes(self._at, position)
        except StoreError:
            self.complete = False
        self._at = position


def positions(length: int, points: int) -> list[int]:
    """Return where to sample a ledger of so many blocks: at most `points` + 1 positions, rising.

    Genesis, the head, and all multiples of a power of two between them: so a ledger that has grown
    is sampled where it was before, or at every second of these positions.
    """
    step = 1
    while -(-length // step) > points:
        step *= 2
    found = list(range(0, length, step))
    return found if not found or found[-1] == length - 1 else [*found, length - 1]


def _header(store: Store, position: int) -> bytes:
    return store.headers(position, position + 1).tobytes()
