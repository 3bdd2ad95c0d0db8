"""The `hashlib` hasher: the definition of both primitives, and what works everywhere."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from cairn.core.header import HEADER_BYTES, LINK
from cairn.core.merkle import HASH_BYTES


class HashlibHasher:
    """`cairn.core.hasher.Hasher` by `hashlib`, one message after another."""

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

    def link(self, headers: NDArray[np.uint8], previous_hash: bytes) -> NDArray[np.uint8]:
        """See `Hasher.link`."""
        before, after = slice(0, LINK.start), slice(LINK.stop, HEADER_BYTES)
        rows = headers.tobytes()
        digests = []
        link = previous_hash
        for at in range(0, len(rows), HEADER_BYTES):
            row = rows[at : at + HEADER_BYTES]
            digests.append(link)
            link = sha256(b"\x00" + row[before] + link + row[after]).digest()
        digests.append(link)
        headers[:, LINK] = _rows(digests[:-1])
        return _rows(digests[1:])


def _rows(digests: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, HASH_BYTES)
