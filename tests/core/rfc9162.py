"""Merkle proofs as RFC 9162 section 2.1 writes them, slow and plain: what the tests believe.

Nothing here calls the code under test. D[n] is a `range` of leaf numbers, which slices as the RFC
writes it and may be as long as 2^64; `Mth` is MTH of such a range. Leaves are given as hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256

Mth = Callable[[range], bytes]


def hash_children(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def length(d: range) -> int:
    """Return n of D[n]; `len` stops at 2^63."""
    return d.stop - d.start


def largest_power_below(n: int) -> int:
    """Return k, the largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k = 2 * k
    return k


# 2.1.1: MTH


def mth(leaves: Sequence[bytes]) -> Mth:
    """Return MTH over `leaves`."""

    @cache
    def tree(d: range) -> bytes:
        n = length(d)
        if n == 0:
            return sha256(b"").digest()
        if n == 1:
            return leaves[d[0]]
        k = largest_power_below(n)
        return hash_children(tree(d[:k]), tree(d[k:]))

    return tree


def sparse_mth(leaves: Mapping[int, bytes], other: bytes) -> Mth:
    """Return MTH over `leaves` and, at every other number, the leaf `other`.

    Where all leaves are equal, MTH depends on how many they are alone, so that a tree of 2^64
    leaves takes a few hundred hashes.
    """

    @cache
    def tree(d: range) -> bytes:
        n = length(d)
        if n == 0:
            return sha256(b"").digest()
        if not any(i in d for i in leaves):
            return equal(n)
        if n == 1:
            return leaves[d[0]]
        k = largest_power_below(n)
        return hash_children(tree(d[:k]), tree(d[k:]))

    @cache
    def equal(n: int) -> bytes:
        if n == 1:
            return other
        k = largest_power_below(n)
        return hash_children(equal(k), equal(n - k))

    return tree


# 2.1.3.1: PATH


def path(m: int, d: range, mth: Mth) -> list[bytes]:
    """Return PATH(m, D[n]), with m counted from the beginning of `d`."""
    n = length(d)
    if n == 1:
        return []
    k = largest_power_below(n)
    if m < k:
        return [*path(m, d[:k], mth), mth(d[k:])]
    return [*path(m - k, d[k:], mth), mth(d[:k])]


def turns(m: int, n: int) -> str:
    """Return on which side each hash of PATH(m, D[n]) stands: `l` or `r`."""
    if n == 1:
        return ""
    k = largest_power_below(n)
    return turns(m, k) + "r" if m < k else turns(m - k, n - k) + "l"


# 2.1.3.2


def verify_inclusion(
    inclusion_path: Sequence[bytes], leaf_index: int, tree_size: int, leaf: bytes, root: bytes
) -> bool:
    if leaf_index >= tree_size:
        return False
    fn, sn = leaf_index, tree_size - 1
    r = leaf
    for p in inclusion_path:
        if sn == 0:
            return False
        if fn % 2 == 1 or fn == sn:
            r = hash_children(p, r)
            if fn % 2 == 0:
                while True:
                    fn, sn = fn // 2, sn // 2
                    if fn % 2 == 1 or fn == 0:
                        break
        else:
            r = hash_children(r, p)
        fn, sn = fn // 2, sn // 2
    return sn == 0 and r == root


# 2.1.4.1: PROOF and SUBPROOF


def proof(m: int, d: range, mth: Mth) -> list[bytes]:
    """Return PROOF(m, D[n]), which is defined for 0 < m < n."""
    assert 0 < m < length(d)
    return subproof(m, d, True, mth)


def subproof(m: int, d: range, b: bool, mth: Mth) -> list[bytes]:
    """Return SUBPROOF(m, D[n], b); b says whether the verifier knows the tree of m leaves."""
    n = length(d)
    if m == n:
        return [] if b else [mth(d)]
    k = largest_power_below(n)
    if m <= k:
        return [*subproof(m, d[:k], b, mth), mth(d[k:])]
    return [*subproof(m - k, d[k:], False, mth), mth(d[:k])]


# 2.1.4.2


def verify_consistency(
    consistency_path: Sequence[bytes],
    first: int,
    second: int,
    first_hash: bytes,
    second_hash: bytes,
) -> bool:
    """Verify as for 0 < first < second, the only numbers that the RFC gives steps for."""
    assert 0 < first < second
    steps = list(consistency_path)
    if not steps:
        return False
    if first in {2**i for i in range(first.bit_length())}:
        steps.insert(0, first_hash)
    fn, sn = first - 1, second - 1
    while fn % 2 == 1:
        fn, sn = fn // 2, sn // 2
    fr = sr = steps[0]
    for c in steps[1:]:
        if sn == 0:
            return False
        if fn % 2 == 1 or fn == sn:
            fr = hash_children(c, fr)
            sr = hash_children(c, sr)
            if fn % 2 == 0:
                while True:
                    fn, sn = fn // 2, sn // 2
                    if fn % 2 == 1 or fn == 0:
                        break
        else:
            sr = hash_children(sr, c)
        fn, sn = fn // 2, sn // 2
    return fr == first_hash and sr == second_hash and sn == 0
