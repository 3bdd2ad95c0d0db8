"""The `hashlib` hasher: the definition of what is hashed, and what works everywhere."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from cairn.core.genesis import Terms
from cairn.core.header import LINK
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment


class HashlibHasher:
    """`cairn.core.hasher.Hasher` by `hashlib`, one message after another."""

    name = "hashlib"

    def leaf_hashes(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """See `Hasher.leaf_hashes`."""
        view = data.data
        digests = [
            sha256(b"\x00" + view[start:stop]).digest()
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
        return _rows(digests)

    def node_hashes(self, children: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `Hasher.node_hashes`."""
        return _rows([sha256(b"\x01" + pair).digest() for pair in _byte_rows(children)])

    def link(self, headers: NDArray[np.uint8], previous_hash: bytes) -> NDArray[np.uint8]:
        """See `Hasher.link`."""
        before, after = _byte_rows(headers[:, : LINK.start]), _byte_rows(headers[:, LINK.stop :])
        digests = [previous_hash]
        for head, tail in zip(before, after, strict=True):
            digests.append(sha256(b"\x00" + head + digests[-1] + tail).digest())
        headers[:, LINK] = _rows(digests[:-1])
        return _rows(digests[1:])

    def screen(self, segment: Segment, terms: Terms) -> None:
        """Leave it to the plain way; see `Hasher.screen`."""


def _byte_rows(columns: NDArray[np.uint8]) -> list[bytes]:
    """Return each row of `(n, width) uint8` as bytes."""
    rows: list[bytes] = np.ascontiguousarray(columns).view(f"V{columns.shape[1]}").ravel().tolist()
    return rows


def _rows(digests: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, HASH_BYTES)
