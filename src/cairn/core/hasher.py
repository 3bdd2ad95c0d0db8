"""What bulk code asks of an implementation of SHA-256.

`core` names the primitives; `cairn.hashing` implements them. `hashlib` and the plain NumPy of
`cairn.core.validation` define what they return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cairn.core.genesis import Terms
    from cairn.core.segment import Segment


class Hasher(Protocol):
    """SHA-256 of many messages, and the linking of a run of headers."""

    @property
    def name(self) -> str:
        """What people choose it by, such as "hashlib"."""
        ...

    def leaf_hashes(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Return `(m, 32) uint8`: row i is `SHA-256(0x00 ‖ data[starts[i]:stops[i]])`.

        `data` is one contiguous buffer of bytes; requires 0 <= starts[i] <= stops[i] <= len(data).
        """
        ...

    def node_hashes(self, children: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return `(k, 32) uint8`: row i is `SHA-256(0x01 ‖ children[i])`.

        `children` is `(k, 64) uint8`, contiguous: the hashes of a left and a right child each.
        """
        ...

    def link(self, headers: NDArray[np.uint8], previous_hash: bytes) -> NDArray[np.uint8]:
        """Write each header's `previous_hash` in place; return the block hashes, `(n, 32) uint8`.

        `headers` is `(n, 104) uint8`, contiguous and complete but for that field; the first links
        to `previous_hash` (32 bytes), each later one to the hash of the one before.
        """
        ...

    def screen(self, segment: Segment, terms: Terms) -> NDArray[np.bool_] | None:
        """Return `(n,)`: which blocks break a rule, as `cairn.core.validation.screen` finds them.

        None where it leaves that to the plain way: always, or for a segment that is not
        `is_regular`. What that leaves, this leaves, too: what only genesis is asked, or blocks of a
        ledger of work. Erased blocks are not spared.
        """
        ...
