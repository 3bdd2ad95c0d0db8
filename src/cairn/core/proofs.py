"""Inclusion and consistency proofs of RFC 9162, section 2.1: each proved and checked side by side.

A tree of n leaves has a root; a leaf or an older tree is in it, and a few hashes show that. What is
proved is read by the hashes of full subtrees (`Nodes`); checking needs nothing but the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from cairn.core.errors import ProofError
from cairn.core.merkle import EMPTY_ROOT, HASH_BYTES, node_hash

MAX_SIZE: Final = 2**64
"""Leaves of a tree, at most: what 8 bytes count, and more than any log has."""

Nodes = Callable[[int, int], bytes]
"""`node(level, i)` is the 32-byte root of the full subtree over leaves `i << level` to
`(i + 1) << level`; it is only asked for subtrees that lie in the tree."""


def root(size: int, node: Nodes) -> bytes:
    """Return the 32-byte root of the tree of the first `size` leaves. Requires 0 <= size."""
    return _subtree(0, size, node) if size else EMPTY_ROOT


def prove_inclusion(index: int, size: int, node: Nodes) -> list[bytes]:
    """Return the proof that leaf `index` is in the tree of `size` leaves.

    Requires 0 <= index < size. At most 64 hashes of 32 bytes, the leaf's sibling first.

    Source: RFC 9162 section 2.1.3.1 (PATH).
    """
    if not 0 <= index < size:
        raise ProofError(f"leaf {index} is not in a tree of {size}")
    proof = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            proof.append(_subtree(middle, stop, node))
            stop = middle
        else:
            proof.append(_subtree(start, middle, node))
            start = middle
    return proof[::-1]


def check_inclusion(
    proof: Sequence[bytes], index: int, size: int, leaf: bytes, expected: bytes
) -> None:
    """Check that `leaf` (its hash, 32 bytes) is leaf `index` of the tree with root `expected`.

    `size` and `expected` must come together from who is believed: a root does not tell its size.

    Raises:
        ProofError: it is not, or the proof is not exactly one for these numbers.

    Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofError(f"leaf {index} is not in a tree of {size}")
    _require_hashes(leaf, expected, *proof)
    at, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError(f"the inclusion proof has {len(proof)} hashes, too many")
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:  # carried up: it had no sibling
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofError(f"the inclusion proof has {len(proof)} hashes, too few")
    if found != expected:
        raise ProofError(
            f"leaf {index} is not in the tree of {size} with root {expected.hex()}: "
            f"the proof leads to {found.hex()}"
        )


def prove_consistency(old: int, new: int, node: Nodes) -> list[bytes]:
    """Return the proof that the tree of `old` leaves is what the tree of `new` leaves begins with.

    Requires 0 <= old <= new. From the empty tree, and from a tree to itself, it is empty.

    Source: RFC 9162 section 2.1.4.1 (PROOF).
    """
    if not 0 <= old <= new:
        raise ProofError(f"a tree of {new} does not begin with one of {old}")
    if old == 0:
        return []
    proof = []
    start, stop = 0, new
    while stop != old:
        middle = start + _split(stop - start)
        if old <= middle:
            proof.append(_subtree(middle, stop, node))
            stop = middle
        else:
            proof.append(_subtree(start, middle, node))
            start = middle
    if start > 0:  # else who checks knows this subtree: it is the old tree
        proof.append(_subtree(start, stop, node))
    return proof[::-1]


def check_consistency(
    proof: Sequence[bytes], old: int, new: int, old_root: bytes, new_root: bytes
) -> None:
    """Check that the tree of `old` leaves is what the tree of `new` leaves begins with.

    Every tree begins with the empty one, so from `old` = 0 nothing is shown of `new_root`. As in
    `check_inclusion`, each root and its size must come together.

    Raises:
        ProofError: it is not, or the proof is not exactly one for these numbers.

    Source: RFC 9162 section 2.1.4.2.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise ProofError(f"a tree of {new} does not begin with one of {old}")
    _require_hashes(old_root, new_root, *proof)
    if old == 0 and old_root != EMPTY_ROOT:
        raise ProofError(f"the empty tree has root {EMPTY_ROOT.hex()}, not {old_root.hex()}")
    if old == new and old_root != new_root:
        raise ProofError(f"the tree of {new} has root {new_root.hex()}, not {old_root.hex()}")
    if old in (0, new):
        if proof:
            raise ProofError(f"the consistency proof has {len(proof)} hashes, too many")
        return
    at, last = old - 1, new - 1
    while at & 1:  # up to the largest full subtree that the old tree ends with
        at, last = at >> 1, last >> 1
    rest = list(proof)
    # Where that subtree is the whole old tree, its root is known; else the proof begins with it.
    older = newer = rest.pop(0) if at and rest else old_root
    for sibling in rest:
        if last == 0:
            raise ProofError(f"the consistency proof has {len(proof)} hashes, too many")
        if at & 1 or at == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofError(f"the consistency proof has {len(proof)} hashes, too few")
    if (older, newer) != (old_root, new_root):
        raise ProofError(
            f"the tree of {new} with root {new_root.hex()} does not begin with the tree of {old} "
            f"with root {old_root.hex()}"
        )


def _subtree(start: int, stop: int, node: Nodes) -> bytes:
    """Return the root over leaves `start` to `stop`.

    Requires that `start` is a multiple of the power of two that the number of leaves fits in.
    """
    sizes = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        sizes.append(node(level, start >> level))
        start += 1 << level
    found = sizes.pop()
    while sizes:
        found = node_hash(sizes.pop(), found)
    return found


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size`, which is at least 2."""
    return 1 << (size - 1).bit_length() - 1


def _require_hashes(*hashes: bytes) -> None:
    for found in hashes:
        if len(found) != HASH_BYTES:
            raise ProofError(f"a hash has {HASH_BYTES} bytes, found {len(found)}")
