"""The Merkle tree of RFC 9162, section 2.1: entries below a data root, headers below a root."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32

EMPTY_ROOT: Final = sha256().digest()
"""Root of the tree with no leaves: SHA-256 of nothing."""


def leaf_hash(data: bytes) -> bytes:
    """Return the 32-byte hash of a leaf that holds `data`: `SHA-256(0x00 ‖ data)`."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32-byte hash of an inner node: `SHA-256(0x01 ‖ left ‖ right)`."""
    return sha256(b"\x01" + left + right).digest()


def tree_hash(leaf_hashes: Iterable[bytes]) -> bytes:
    """Return the 32-byte root over `leaf_hashes` (32 bytes each, in order).

    Keeps one root per full subtree, so memory grows with the logarithm of the leaves; an odd leaf
    is carried up, never doubled, so no two lists share a root.

    Source: RFC 9162 section 2.1.1 (MTH).
    """
    full: list[tuple[int, bytes]] = []  # (height, root), heights falling
    for leaf in leaf_hashes:
        height, root = 0, leaf
        while full and full[-1][0] == height:
            root = node_hash(full.pop()[1], root)
            height += 1
        full.append((height, root))
    if not full:
        return EMPTY_ROOT
    _, root = full.pop()
    while full:
        root = node_hash(full.pop()[1], root)
    return root
