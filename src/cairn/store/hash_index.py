"""Finding a block by its hash: sorted columns of 8-byte prefixes, and no tree over all hashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cairn.core.merkle import HASH_BYTES

CHUNK: Final = 65_536
"""Blocks in a sorted chunk: a search looks into each, and at fewer than this one by one."""


class HashIndex:
    """Positions by the first 8 bytes of their hash: 16 bytes of memory a block.

    Chunks are sorted once, when they are full; what is left is searched as it is.
    """

    def __init__(self) -> None:
        self._sorted: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._recent = (np.empty(0, np.uint64), np.empty(0, np.int64))

    def add(self, runs: Sequence[tuple[int, bytes]]) -> None:
        """Add runs of blocks: the position of the first, and their hashes end to end."""
        new = [(first, len(hashes) // HASH_BYTES) for first, hashes in runs]
        hashes = b"".join(h[: len(h) - len(h) % HASH_BYTES] for _, h in runs)
        words = np.frombuffer(hashes, ">u8")[:: HASH_BYTES // 8]
        prefixes = np.concatenate([self._recent[0], words])
        positions = np.concatenate(
            [self._recent[1], *(np.arange(first, first + n) for first, n in new)]
        )
        while len(prefixes) >= CHUNK:
            order = np.argsort(prefixes[:CHUNK])
            self._sorted.append((prefixes[:CHUNK][order], positions[:CHUNK][order]))
            prefixes, positions = prefixes[CHUNK:].copy(), positions[CHUNK:].copy()
        self._recent = (prefixes, positions)

    def candidates(self, block_hash: bytes) -> list[int]:
        """Return the positions whose hash has the prefix of this one (32 bytes), in order."""
        wanted = np.uint64(int.from_bytes(block_hash[:8], "big"))
        found = [self._recent[1][self._recent[0] == wanted]]
        for prefixes, positions in self._sorted:
            first = np.searchsorted(prefixes, wanted, "left")
            last = np.searchsorted(prefixes, wanted, "right")
            found.append(positions[first:last])
        matching: list[int] = np.sort(np.concatenate(found)).tolist()
        return matching
