"""What bulk code asks of an implementation of SHA-256.

`core` names the two primitives; `cairn.hashing` implements them, the plain `hashlib` one being
their definition.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Hasher(Protocol):
    """SHA-256 of many messages, and the linking of a run of headers."""

    def leaf_hashes(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Return `(m, 32) uint8`: row i is `SHA-256(0x00 ‖ data[starts[i]:stops[i]])`.

        `data` is one contiguous buffer of bytes; requires 0 <= starts[i] <= stops[i] <= len(data).
        """
        ...

    def link(self, headers: NDArray[np.uint8], previous_hash: bytes) -> NDArray[np.uint8]:
        """Write each header's `previous_hash` in place; return the block hashes, `(n, 32) uint8`.

        `headers` is `(n, 104) uint8`, contiguous and complete but for that field; the first links
        to `previous_hash` (32 bytes), each later one to the hash of the one before.
        """
        ...
