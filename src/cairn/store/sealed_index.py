"""Finding a block of a sealed file by a hash, of itself or of an entry: by indexes in memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cairn.core.errors import StoreError
from cairn.store import flat
from cairn.store.flat import MOST_BLOCKS, Column, Sealed

MOST_WORDS: Final = 2**23
"""Words of 8 bytes in memory, at most: 64 MiB."""
GROWTH: Final = 2
"""An array that is not so many times longer than the next is merged with it."""
LONGEST: Final = 2**21
"""Words of a merged array, at most: bounds how long a search takes that merges, to about 0.2 s."""

_PLACES: Final = np.uint64(MOST_BLOCKS - 1)


class SealedIndex:
    """One of the indexes of all files: what a search needs of it, in memory, as far as it fits.

    A word of a file's index has the place of a block in the file; here it has its position. Each
    search takes in as many more files as it looks for hashes, so that none has to wait for all of
    history to be read, and one alone costs little more than to ask each file. The words lie in few
    sorted arrays, that are merged as they become many.

    What lies beyond the bounds (`MOST_WORDS`, or positions that a word has no room for) is asked
    for file by file. An index that was changed after it was read is not looked at any more.
    """

    def __init__(self, folder: Path, column: Column) -> None:
        self._folder = folder
        self._column = column
        self._lock = Lock()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._files: list[Sealed] = []  # owned by _lock, as is the rest: those that were taken in
        self._arrays: list[NDArray[np.uint64]] = []
        self._is_full = False

    def candidates(
        self, files: Sequence[Sealed], hashes: Sequence[bytes]
    ) -> tuple[list[list[int]], Sequence[Sealed]]:
        """Return for each hash (32 bytes) the positions of blocks in `files` that have its prefix.

        `files` is all of the manifest. Those that also come back have yet to be asked: one that
        cannot be read stands in nobody's way but theirs who need it.
        """
        with self._lock:
            if list(files[: len(self._files)]) != self._files:
                self._begin_anew()
            with suppress(StoreError, MemoryError):
                for sealed in files[len(self._files) :][: len(hashes)]:
                    if not self._is_full:
                        self._take_in(sealed)
            return self._found(hashes), files[len(self._files) :]

    def _take_in(self, sealed: Sealed) -> None:
        """Keep a file's words, if there is room. Requires the lock."""
        room = MOST_WORDS - sum(map(len, self._arrays)) if sealed.stop <= MOST_BLOCKS else 0
        words = flat.words(self._folder, sealed, self._column, room)
        if words is None:
            self._is_full = True
            return
        # A place and where the file begins come to a position, which no prefix is touched by.
        arrays = [*self._arrays, words + np.uint64(sealed.first)]
        while any(
            len(a) <= GROWTH * len(b) and len(a) + len(b) <= LONGEST
            for a, b in pairwise(arrays[-2:])
        ):
            # Of two arrays that are sorted, which a stable sort makes use of.
            arrays[-2:] = [np.sort(np.concatenate(arrays[-2:]), kind="stable")]
        self._arrays = [array for array in arrays if len(array)]
        self._files.append(sealed)

    def _found(self, hashes: Sequence[bytes]) -> list[list[int]]:
        """Look for hashes in what is in memory. Requires the lock."""
        found: list[list[int]] = [[] for _ in hashes]
        least = flat.prefixes(hashes)
        most = least | _PLACES
        for array in self._arrays:
            begins = array.searchsorted(least)
            is_there = array.take(begins, mode="clip") - least <= _PLACES  # the last may be less
            for i in np.flatnonzero(is_there).tolist():
                end = array.searchsorted(most[i], "right")
                found[i] += (array[begins[i] : end] & _PLACES).tolist()
        return found
