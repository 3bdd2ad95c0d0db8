"""Finding a block of the tail by a hash, of itself or of an entry: by 8-byte prefixes in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class HashIndex:
    """Positions by the first 8 bytes of a hash: 16 bytes of memory each.

    Searched from end to end, as a tail is short: 32,768 hashes take 10 µs, and for many at once
    about 1 ms in all.
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

    def drop_before(self, position: int) -> None:
        """Forget all before `position`."""
        gone = int(np.searchsorted(self._positions, position))
        self._prefixes, self._positions = self._prefixes[gone:], self._positions[gone:]

    def candidates(self, hashes: Sequence[bytes]) -> list[list[int]]:
        """Return for each hash (32 bytes) the positions with its prefix, in order."""
        wanted = [int.from_bytes(one[:8], "big") for one in hashes]
        found: dict[int, list[int]] = {prefix: [] for prefix in wanted}
        among = np.array(sorted(found), np.uint64)
        if len(among) == 1:
            places = np.flatnonzero(self._prefixes == among[0])
        elif len(among) > 1:
            nearest = np.minimum(among.searchsorted(self._prefixes), len(among) - 1)
            places = np.flatnonzero(among[nearest] == self._prefixes)
        else:
            return []
        same = self._prefixes[places].tolist(), self._positions[places].tolist()
        for prefix, position in zip(*same, strict=True):
            found[prefix].append(position)
        return [found[prefix] for prefix in wanted]
