"""The tree hash against the recursion of RFC 9162 section 2.1.1."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.core.merkle import EMPTY_ROOT, HASH_BYTES, leaf_hash, node_hash, tree_hash
from tests.core import reference


def leaves(n: int) -> list[bytes]:
    return [reference.leaf(b"leaf %d" % i) for i in range(n)]


@pytest.mark.parametrize("n", [*range(65), 100, 127, 128, 129, 255, 256, 257, 1000, 4097])
def test_root_of_every_size_is_that_of_the_rfc(n: int) -> None:
    assert tree_hash(leaves(n)) == reference.tree(leaves(n))


def test_root_of_small_trees_written_out() -> None:
    a, b, c, d, e = leaves(5)
    ab, cd = node_hash(a, b), node_hash(c, d)
    assert tree_hash([]) == sha256(b"").digest() == EMPTY_ROOT
    assert tree_hash([a]) == a
    assert tree_hash([a, b]) == sha256(b"\x01" + a + b).digest()
    assert tree_hash([a, b, c]) == node_hash(ab, c)
    assert tree_hash([a, b, c, d]) == node_hash(ab, cd)
    assert tree_hash([a, b, c, d, e]) == node_hash(node_hash(ab, cd), e)


def test_leaf_and_node_hashes_are_sha_256_with_their_prefixes() -> None:
    assert HASH_BYTES == 32
    assert leaf_hash(b"") == sha256(b"\x00").digest()
    assert leaf_hash(b"abc") == sha256(b"\x00abc").digest()
    left, right = leaves(2)
    assert node_hash(left, right) == sha256(b"\x01" + left + right).digest()
    assert node_hash(left, right) != node_hash(right, left)


def test_leaves_may_come_from_any_iterable_once() -> None:
    assert tree_hash(iter(leaves(7))) == tree_hash(tuple(leaves(7)))


@pytest.mark.parametrize("n", range(1, 18))
def test_every_flipped_bit_of_every_leaf_changes_the_root(n: int) -> None:
    roots = {tree_hash(leaves(n))}
    for i in range(n):
        for bit in range(256):
            changed = leaves(n)
            changed[i] = (int.from_bytes(changed[i], "big") ^ 1 << bit).to_bytes(32, "big")
            roots.add(tree_hash(changed))
    assert len(roots) == 1 + n * 256


@pytest.mark.parametrize("n", range(2, 18))
def test_swapping_any_two_leaves_changes_the_root(n: int) -> None:
    roots = {tree_hash(leaves(n))}
    for i in range(n):
        for j in range(i):
            swapped = leaves(n)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            roots.add(tree_hash(swapped))
    assert len(roots) == 1 + n * (n - 1) // 2


def test_odd_leaf_doubled_is_another_root() -> None:
    """CVE-2012-2459: where an odd leaf is hashed with itself, two lists share one root."""
    for n in range(1, 33):
        assert tree_hash(leaves(n)) != tree_hash([*leaves(n), leaves(n)[-1]])


def test_inner_nodes_passed_off_as_leaves_give_another_root() -> None:
    """Without the prefixes, a tree of four would share its root with one of two."""
    a, b, c, d = leaves(4)
    forged = [leaf_hash(a + b), leaf_hash(c + d)]
    assert tree_hash(forged) != tree_hash([a, b, c, d])


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=300))
def test_any_leaves_have_the_root_of_the_reference(hashes: list[bytes]) -> None:
    assert tree_hash(hashes) == reference.tree(hashes)
