"""The tree over many hashes at once: in steps of 8 levels, as tiles hold it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cairn.core.hasher import Hasher
from cairn.core.merkle import HASH_BYTES

HEIGHT: Final = 8
"""Levels from one row of the tree to the next."""
WIDTH: Final = 1 << HEIGHT
"""Hashes below a node of the next row."""


def as_hashes(data: bytes | bytearray) -> NDArray[np.uint8]:
    """Return hashes that lie end to end as `(n, 32) uint8`, without copying."""
    return np.frombuffer(data, np.uint8).reshape(-1, HASH_BYTES)


def levels_above(hashes: NDArray[np.uint8], hasher: Hasher) -> list[NDArray[np.uint8]]:
    """Return the 8 levels above `hashes`, `(n, 32)` each half as long as the one before.

    Only whole subtrees: of an odd node at the end there is no parent.
    """
    found = []
    for _ in range(HEIGHT):
        children = np.ascontiguousarray(hashes[: len(hashes) // 2 * 2]).reshape(-1, 2 * HASH_BYTES)
        hashes = hasher.node_hashes(children)
        found.append(hashes)
    return found


def subtree_roots(hashes: NDArray[np.uint8], hasher: Hasher) -> NDArray[np.uint8]:
    """Return the root over each 256 of `hashes`: of `(256 × n, 32)`, `(n, 32)`.

    What is left at the end has none.
    """
    return levels_above(hashes, hasher)[-1]
