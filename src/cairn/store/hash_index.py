"""Finding a block of the tail by a hash, of itself or of an entry: by 8-byte prefixes in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class HashIndex:
    """Positions by the first 8 bytes of a hash: 16 bytes of memory each.

    Searched from end to end, as a tail is short: 32,768 hashes take 10 µs.
    """

    def __init__(self) -> None:
        self._prefixes = np.empty(0, np.uint64)
        self._positions = np.empty(0, np.int64)

    def add(self, positions: NDArray[np.int64], hashes: NDArray[np.uint8]) -> None:
        """Add hashes, `(k, 32)`, with the position of the block of each, `(k,)`: after all others.

        Positions do not fall.
        """
        words = np.ascontiguousarray(hashes).view(">u8")[:, 0]
        self._prefixes = np.concatenate([self._prefixes, words])
        self._positions = np.concatenate([self._positions, positions])

    def drop(self, position: int) -> None:
        """Forget all from `position` on."""
        kept = int(np.searchsorted(self._positions, position))
        self._prefixes, self._positions = self._prefixes[:kept], self._positions[:kept]

    def candidates(self, wanted_hash: bytes) -> list[int]:
        """Return the positions with a hash that has the prefix of this one (32 bytes), in order."""
        wanted = np.uint64(int.from_bytes(wanted_hash[:8], "big"))
        found: list[int] = self._positions[self._prefixes == wanted].tolist()
        return found
