"""Inclusion and consistency proofs against RFC 9162 section 2.1, and the attacks on them by name.

Where nothing else is said, all leaves of a tree differ: leaves that are equal share their proofs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairn.core.errors import ProofError
from cairn.core.merkle import EMPTY_ROOT, leaf_hash, node_hash
from cairn.core.proofs import (
    MAX_SIZE,
    Nodes,
    check_consistency,
    check_inclusion,
    prove_consistency,
    prove_inclusion,
    root,
)
from tests.conftest import shared
from tests.core import rfc9162

LEAVES = [leaf_hash(b"leaf %d" % i) for i in range(66)]
LEAF, OTHER, STRANGER = LEAVES[0], LEAVES[1], leaf_hash(b"in no tree")
SIZES = range(1, 65)
EVERY_BIT = range(256)
MTH = rfc9162.mth(LEAVES)


def nodes(mth: rfc9162.Mth, size: int) -> Nodes:
    """Return the full subtrees of a tree, which break the test when another is asked for."""

    def node(level: int, i: int) -> bytes:
        subtree = range(i << level, (i + 1) << level)
        assert level >= 0
        assert 0 <= subtree.start < subtree.stop <= size
        return mth(subtree)

    return node


@cache
def inclusion(index: int, size: int) -> list[bytes]:
    return prove_inclusion(index, size, nodes(MTH, size))


@cache
def consistency(old: int, new: int) -> list[bytes]:
    return prove_consistency(old, new, nodes(MTH, new))


def tree(size: int) -> bytes:
    return MTH(range(size))


def pairs(sizes: Iterable[int]) -> list[tuple[int, int]]:
    """Return every (index, size) with an index in the tree."""
    return [(index, size) for size in sizes for index in range(size)]


def holds(check: Callable[..., None], *arguments: object) -> bool:
    try:
        check(*arguments)
    except ProofError:
        return False
    return True


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


def replaced(hashes: Sequence[bytes], i: int, other: bytes) -> list[bytes]:
    return [*hashes[:i], other, *hashes[i + 1 :]]


def flips(hashes: Sequence[bytes], bits: Iterable[int]) -> Iterator[list[bytes]]:
    """Yield `hashes` with each of `bits` of each hash flipped, one at a time."""
    for i, found in enumerate(hashes):
        for bit in bits:
            yield replaced(hashes, i, flipped(found, bit))


def other_numbers(number: int, stop: int) -> set[int]:
    """Return all others below `stop`, and those that differ in a bit, past 64 bits too."""
    return ({*range(stop)} | {number ^ 1 << bit for bit in range(66)}) - {number}


# Every small tree: what is right passes


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_is_proved_as_the_rfc_says_and_passes(size: int) -> None:
    for index in range(size):
        proof = inclusion(index, size)
        assert proof == rfc9162.path(index, range(size), MTH)
        assert rfc9162.verify_inclusion(proof, index, size, LEAVES[index], tree(size))
        check_inclusion(proof, index, size, LEAVES[index], tree(size))


@pytest.mark.parametrize("new", range(65))
def test_every_older_tree_is_proved_as_the_rfc_says_and_passes(new: int) -> None:
    for old in range(new + 1):
        proof = consistency(old, new)
        if 0 < old < new:
            assert proof == rfc9162.proof(old, range(new), MTH)
            assert rfc9162.verify_consistency(proof, old, new, tree(old), tree(new))
        else:
            assert proof == []
        check_consistency(proof, old, new, tree(old), tree(new))


@pytest.mark.parametrize("size", range(65))
def test_root_is_that_of_the_rfc(size: int) -> None:
    assert root(size, nodes(MTH, size)) == tree(size)


# Every small tree: what is altered fails


def refuse_flipped_hashes(size: int, bits: Callable[[int], Iterable[int]]) -> None:
    """Flip, in all proofs in a tree, the bits that `bits` names for an index or an older size."""
    for index in range(size):
        right = [LEAVES[index], tree(size), *inclusion(index, size)]
        for leaf, expected, *proof in flips(right, bits(index)):
            assert not holds(check_inclusion, proof, index, size, leaf, expected)
    for old in range(1, size + 1):
        right = [tree(old), tree(size), *consistency(old, size)]
        for old_root, new_root, *proof in flips(right, bits(old)):
            assert not holds(check_consistency, proof, old, size, old_root, new_root)


@pytest.mark.parametrize("size", SIZES)
def test_flipped_bit_of_any_hash_is_refused(size: int) -> None:
    refuse_flipped_hashes(size, lambda place: [(67 * size + 5 * place) % 256])


@pytest.mark.parametrize("size", [*range(1, 10), 13, 16, 63])
def test_every_flipped_bit_of_any_hash_is_refused(size: int) -> None:
    refuse_flipped_hashes(size, lambda _: EVERY_BIT)


@pytest.mark.soak
@pytest.mark.parametrize("size", SIZES)
def test_every_flipped_bit_of_any_hash_in_every_tree_is_refused(size: int) -> None:
    refuse_flipped_hashes(size, lambda _: EVERY_BIT)


@pytest.mark.parametrize("size", SIZES)
def test_leaf_at_any_other_index_is_refused(size: int) -> None:
    for index in range(size):
        proof = inclusion(index, size)
        for other in other_numbers(index, size):
            assert not holds(check_inclusion, proof, other, size, LEAVES[index], tree(size))


@pytest.mark.parametrize("new", SIZES)
def test_old_root_of_any_other_size_is_refused(new: int) -> None:
    for old in range(new + 1):
        proof = consistency(old, new)
        for other in other_numbers(old, new + 1):
            assert not holds(check_consistency, proof, other, new, tree(old), tree(new))
            if other <= new:
                assert not holds(check_consistency, proof, old, new, tree(other), tree(new))


@pytest.mark.parametrize("size", SIZES)
def test_other_leaf_and_root_of_another_size_are_refused(size: int) -> None:
    for index in range(size):
        proof = inclusion(index, size)
        for leaf in (LEAVES[index - 1 if index else size], STRANGER, tree(size + 1)):
            assert not holds(check_inclusion, proof, index, size, leaf, tree(size))
        for other in {*range(66)} - {size}:
            assert not holds(check_inclusion, proof, index, size, LEAVES[index], tree(other))


def wrong_numbers_of_hashes(proof: list[bytes]) -> Iterator[list[bytes]]:
    """Yield `proof` with one hash missing, one twice, and one from elsewhere, at every place."""
    for i in range(len(proof)):
        yield proof[:i] + proof[i + 1 :]
        yield proof[: i + 1] + proof[i:]
    for i in range(len(proof) + 1):
        yield [*proof[:i], STRANGER, *proof[i:]]


@pytest.mark.parametrize("size", SIZES)
def test_missing_repeated_and_trailing_hashes_are_refused(size: int) -> None:
    for index in range(size):
        for proof in wrong_numbers_of_hashes(inclusion(index, size)):
            assert not holds(check_inclusion, proof, index, size, LEAVES[index], tree(size))
    for old in range(size + 1):
        for proof in wrong_numbers_of_hashes(consistency(old, size)):
            assert not holds(check_consistency, proof, old, size, tree(old), tree(size))


@pytest.mark.parametrize("size", SIZES)
def test_reordered_hashes_are_refused(size: int) -> None:
    for i in range(size + 1):
        for whole in (inclusion(i, size) if i < size else [], consistency(i, size)):
            proofs = [[*whole[:k], *reversed(whole[k : k + 2]), *whole[k + 2 :]] for k in range(6)]
            for proof in [*proofs, whole[::-1]]:
                if proof != whole:
                    assert not holds(check_inclusion, proof, i, size, LEAVES[i], tree(size))
                    assert not holds(check_consistency, proof, i, size, tree(i), tree(size))


def test_proof_of_one_leaf_used_for_another_is_refused() -> None:
    places = pairs(range(1, 18))
    for index, size in places:
        for i, n in places:
            alike = (i, n) == (index, size)
            assert (
                holds(check_inclusion, inclusion(i, n), index, size, LEAVES[index], tree(size))
                == alike
            )


def test_proof_of_one_pair_of_trees_used_for_another_is_refused() -> None:
    places = [(old, new) for new in range(14) for old in range(new + 1)]
    for old, new in places:
        for o, n in places:
            proof = consistency(o, n)
            alike = proof == consistency(old, new)  # as between one tree and another, from 0
            assert holds(check_consistency, proof, old, new, tree(old), tree(new)) == alike
            if 0 < old < new:
                assert alike == ((o, n) == (old, new))


# What only trust in a root and its size together protects


def test_another_size_passes_only_where_the_path_turns_alike() -> None:
    """A root does not tell its size: so says `check_inclusion`, and the RFC's check too."""
    places = pairs(range(1, 18))
    for index, size in places:
        found = (inclusion(index, size), LEAVES[index], tree(size))
        for i, n in places:
            proof, leaf, expected = found
            passes = holds(check_inclusion, proof, i, n, leaf, expected)
            assert passes == (rfc9162.turns(i, n) == rfc9162.turns(index, size))
            assert passes == rfc9162.verify_inclusion(proof, i, n, leaf, expected)
            assert not passes or n != size or i == index


def test_other_sizes_pass_where_those_of_the_rfc_do() -> None:
    places = [(old, new) for new in range(14) for old in range(1, new)]
    for old, new in places:
        proof = consistency(old, new)
        for o, n in places:
            passes = holds(check_consistency, proof, o, n, tree(old), tree(new))
            assert passes == rfc9162.verify_consistency(proof, o, n, tree(old), tree(new))
            assert not passes or n != new or o == old


def test_from_the_empty_tree_nothing_is_shown_of_the_new_root() -> None:
    check_consistency([], 0, 5, EMPTY_ROOT, STRANGER)


def test_equal_leaves_share_their_proofs() -> None:
    mth = rfc9162.sparse_mth({}, LEAF)
    proof = prove_inclusion(0, MAX_SIZE, nodes(mth, MAX_SIZE))
    for index in (0, 1, 2**63 - 1, 2**63, 2**64 - 1):
        check_inclusion(proof, index, MAX_SIZE, LEAF, mth(range(MAX_SIZE)))


# Attacks by name


def inner_nodes(d: range, proof: list[bytes]) -> Iterator[tuple[bytes, bytes, list[bytes]]]:
    """Yield the children and the path of every inner node below the one over `d`, and its own."""
    if len(d) == 1:
        return
    k = rfc9162.largest_power_below(len(d))
    left, right = d[:k], d[k:]
    yield MTH(left), MTH(right), proof
    yield from inner_nodes(left, [MTH(right), *proof])
    yield from inner_nodes(right, [MTH(left), *proof])


@pytest.mark.parametrize("size", range(2, 34))
def test_inner_node_passed_off_as_a_leaf_is_refused(size: int) -> None:
    """Second preimage: the path of an inner node leads to the root from too far up."""
    for left, right, proof in inner_nodes(range(size), []):
        for index in range(size):
            for leaf in (node_hash(left, right), leaf_hash(left + right)):
                assert not holds(check_inclusion, proof, index, size, leaf, tree(size))


def test_inner_node_as_data_of_a_leaf_is_refused_in_a_tree_cut_to_fit() -> None:
    """With the size forged too, it rests on leaves being hashed after 0x00 and nodes after 0x01."""
    proof = [node_hash(LEAVES[2], LEAVES[3])]
    forged = LEAVES[0] + LEAVES[1]
    check_inclusion(proof, 0, 2, node_hash(LEAVES[0], LEAVES[1]), tree(4))
    with pytest.raises(ProofError, match="leaf 0 is not in the tree of 2"):
        check_inclusion(proof, 0, 2, leaf_hash(forged), tree(4))


@pytest.mark.parametrize("size", SIZES)
def test_odd_leaf_doubled_is_refused(size: int) -> None:
    """CVE-2012-2459: where an odd leaf is hashed with itself, two lists share one root."""
    last = LEAVES[size - 1]
    doubled = rfc9162.mth([*LEAVES[:size], last])
    longer = range(size + 1)
    for index in (size - 1, size):
        own = [last, *inclusion(size - 1, size)]
        for proof in (rfc9162.path(index, longer, doubled), own):
            assert not holds(check_inclusion, proof, index, size + 1, last, tree(size))
            assert not holds(check_inclusion, proof, index, size, last, tree(size))
    proof = rfc9162.proof(size, longer, doubled)
    check_consistency(proof, size, size + 1, tree(size), doubled(longer))
    for hashes in (proof, [last], []):
        assert not holds(check_consistency, hashes, size, size + 1, tree(size), tree(size))


@pytest.mark.parametrize("size", SIZES)
def test_swapped_children_are_refused(size: int) -> None:
    """Each side has its place: a proof made with any two children swapped leads elsewhere."""
    for index in range(size):
        proof, sides = inclusion(index, size), rfc9162.turns(index, size)
        for swapped in range(len(proof)):
            found = LEAVES[index]
            for i, (sibling, side) in enumerate(zip(proof, sides, strict=True)):
                before = (side == "l") != (i == swapped)
                found = node_hash(sibling, found) if before else node_hash(found, sibling)
            assert not holds(check_inclusion, proof, index, size, LEAVES[index], found)
        if proof:
            neighbour, *above = proof
            leaf = [LEAVES[index], *above]
            assert not holds(check_inclusion, leaf, index, size, neighbour, tree(size))


@pytest.mark.parametrize("new", range(2, 18))
def test_rewritten_history_is_refused_by_the_remembered_root(new: int) -> None:
    for i in range(new):
        rewritten = rfc9162.mth([*LEAVES[:i], STRANGER, *LEAVES[i + 1 :]])
        forged = rewritten(range(new))
        for old in range(1, new + 1):
            proof = prove_consistency(old, new, nodes(rewritten, new))
            kept = i >= old
            assert holds(check_consistency, proof, old, new, tree(old), forged) == kept
            mine = consistency(old, new)
            assert not holds(check_consistency, mine, old, new, tree(old), forged)


@pytest.mark.parametrize("old", range(1, 18))
def test_truncated_log_is_refused_by_the_remembered_size(old: int) -> None:
    for new in range(old):
        for proof in (consistency(new, old), []):
            with pytest.raises(
                ProofError, match=f"a tree of {new} does not begin with one of {old}"
            ):
                check_consistency(proof, old, new, tree(old), tree(new))
        assert not holds(check_consistency, consistency(new, old), new, old, tree(old), tree(new))


def test_hashes_after_the_root_are_refused_though_they_lead_to_a_root() -> None:
    with pytest.raises(ProofError, match="1 hashes, too many"):
        check_inclusion([OTHER], 0, 1, LEAF, node_hash(OTHER, LEAF))
    [neighbour] = consistency(1, 2)
    further = [node_hash(OTHER, tree(1)), node_hash(OTHER, tree(2))]
    with pytest.raises(ProofError, match="2 hashes, too many"):
        check_consistency([neighbour, OTHER], 1, 2, further[0], further[1])
    [first, *rest] = consistency(3, 4)
    with pytest.raises(ProofError, match="4 hashes, too many"):
        check_consistency(
            [first, *rest, OTHER], 3, 4, node_hash(OTHER, tree(3)), node_hash(OTHER, tree(4))
        )


def test_paths_that_stop_below_the_root_are_refused_though_they_lead_there() -> None:
    with pytest.raises(ProofError, match="0 hashes, too few"):
        check_inclusion([], 0, 2, LEAF, LEAF)
    with pytest.raises(ProofError, match="1 hashes, too few"):
        check_inclusion([OTHER], 0, 4, LEAF, node_hash(LEAF, OTHER))
    for old, new in ((1, 2), (2, 3), (3, 4), (4, 9)):
        with pytest.raises(ProofError, match="0 hashes, too few"):
            check_consistency([], old, new, tree(old), tree(old))
    with pytest.raises(ProofError, match="1 hashes, too few"):
        check_consistency([tree(3)], 3, 4, tree(3), tree(3))


def test_bytes_moved_between_neighbouring_hashes_are_refused() -> None:
    """Both hash alike, 32 + 32 bytes or 31 + 33: only the lengths tell."""
    for k in (0, 1, 31, 33, 63, 64):
        both = LEAVES[0] + LEAVES[1]
        assert node_hash(both[:k], both[k:]) == tree(2)
        with pytest.raises(ProofError, match="a hash has 32 bytes, found"):
            check_inclusion([both[k:]], 0, 2, both[:k], tree(2))
        with pytest.raises(ProofError, match="a hash has 32 bytes, found"):
            check_inclusion([both[:k]], 1, 2, both[k:], tree(2))
        with pytest.raises(ProofError, match="a hash has 32 bytes, found"):
            check_consistency([both[k:]], 1, 2, both[:k], tree(2))


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_hash_of_another_length_is_refused_wherever_it_stands(length: int) -> None:
    odd = (LEAF + OTHER)[:length]
    for index, size in pairs((1, 2, 7)):
        right = [LEAVES[index], tree(size), *inclusion(index, size)]
        for i in range(len(right)):
            leaf, expected, *proof = replaced(right, i, odd)
            with pytest.raises(ProofError, match=f"a hash has 32 bytes, found {length}"):
                check_inclusion(proof, index, size, leaf, expected)
    for old, new in ((0, 0), (0, 5), (5, 5), (4, 7), (5, 7)):
        right = [tree(old), tree(new), *consistency(old, new)]
        for i in range(len(right)):
            old_root, new_root, *proof = replaced(right, i, odd)
            with pytest.raises(ProofError, match=f"a hash has 32 bytes, found {length}"):
                check_consistency(proof, old, new, old_root, new_root)
    with pytest.raises(ProofError, match=f"a hash has 32 bytes, found {length}"):
        check_consistency([], 5, 5, odd, odd)


# The empty tree


def test_nothing_is_in_the_empty_tree() -> None:
    for index in (-1, 0, 1):
        for leaf in (LEAF, EMPTY_ROOT):
            with pytest.raises(ProofError, match="not in a tree of 0"):
                check_inclusion([], index, 0, leaf, EMPTY_ROOT)


@pytest.mark.parametrize("new", [0, 1, 2, 5, 64])
def test_empty_tree_has_one_root_and_no_proof(new: int) -> None:
    check_consistency([], 0, new, EMPTY_ROOT, tree(new))
    for forged in (tree(1), bytes(32), tree(new) if new else STRANGER):
        with pytest.raises(ProofError, match="the empty tree has root e3b0c442"):
            check_consistency([], 0, new, forged, tree(new))
    with pytest.raises(ProofError, match="1 hashes, too many"):
        check_consistency([tree(new)], 0, new, EMPTY_ROOT, tree(new))


def test_empty_tree_with_another_root_twice_is_refused() -> None:
    for old_root, new_root in (
        (STRANGER, STRANGER),
        (EMPTY_ROOT, STRANGER),
        (STRANGER, EMPTY_ROOT),
    ):
        assert not holds(check_consistency, [], 0, 0, old_root, new_root)


def test_same_size_with_two_roots_is_refused_as_a_fork() -> None:
    for size in SIZES:
        with pytest.raises(ProofError, match=f"the tree of {size} has root"):
            check_consistency([], size, size, tree(size), STRANGER)
        with pytest.raises(ProofError, match="1 hashes, too many"):
            check_consistency([tree(size)], size, size, tree(size), tree(size))


# Numbers out of range


@pytest.mark.parametrize(
    ("index", "size"),
    [
        *((-1, 0), (-1, 1), (-(2**63), 2**64), (0, -1), (-2, -1), (1, 1), (2, 1)),
        *((size, size) for size in (2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64)),
        *((2**64, 2**64 - 1), (2**200, 2**64), (2**200 + 1, 2**200)),
    ],
)
def test_index_outside_the_tree_is_refused(index: int, size: int) -> None:
    for proof in ([], [OTHER] * 63, [OTHER] * 64):
        with pytest.raises(ProofError, match=f"leaf {index} is not in a tree of {size}"):
            check_inclusion(proof, index, size, LEAF, LEAF)
    with pytest.raises(ProofError, match=f"leaf {index} is not in a tree of {size}"):
        prove_inclusion(index, size, nodes(MTH, 0))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *((-1, -1), (-1, 0), (-1, 5), (0, -1), (-(2**64), 2**64), (1, 0), (6, 5)),
        *((2**63, 2**63 - 1), (2**64, 2**64 - 1), (2**64 + 1, 2**64), (2**200, 2**64)),
    ],
)
def test_older_tree_that_is_larger_or_negative_is_refused(old: int, new: int) -> None:
    for proof in ([], [OTHER] * 64, [OTHER] * 65):
        with pytest.raises(ProofError, match=f"a tree of {new} does not begin with one of {old}"):
            check_consistency(proof, old, new, EMPTY_ROOT, EMPTY_ROOT)
    with pytest.raises(ProofError, match=f"a tree of {new} does not begin with one of {old}"):
        prove_consistency(old, new, nodes(MTH, 0))


def test_trees_past_64_bits_are_refused_though_the_proof_is_right() -> None:
    size = MAX_SIZE + 1
    mth = rfc9162.sparse_mth({0: LEAF}, OTHER)
    expected = mth(range(size))
    proof = rfc9162.path(0, range(size), mth)
    assert rfc9162.verify_inclusion(proof, 0, size, LEAF, expected)
    with pytest.raises(ProofError, match="not in a tree of 18446744073709551617"):
        check_inclusion(proof, 0, size, LEAF, expected)
    old_root = mth(range(MAX_SIZE))
    proof = rfc9162.proof(MAX_SIZE, range(size), mth)
    assert rfc9162.verify_consistency(proof, MAX_SIZE, size, old_root, expected)
    assert not holds(check_consistency, proof, MAX_SIZE, size, old_root, expected)
    assert not holds(check_consistency, [], size, size, expected, expected)
    assert not holds(check_consistency, [], 0, size, EMPTY_ROOT, expected)


# Trees of any size


def near_powers(low: int, high: int) -> st.SearchStrategy[int]:
    """Draw from `low` to `high`, often a power of two or a number beside one."""
    beside = st.builds(
        lambda e, d: min(max(low, 2**e + d), high), st.integers(0, 64), st.integers(-2, 2)
    )
    return st.one_of(st.integers(low, min(high, 130)), beside, st.integers(low, high))


@st.composite
def leaf_places(draw: st.DrawFn) -> tuple[int, int]:
    size = draw(near_powers(1, MAX_SIZE))
    from_end = draw(st.booleans())
    index = draw(near_powers(0, size - 1))
    return size - 1 - index if from_end else index, size


@st.composite
def tree_pairs(draw: st.DrawFn) -> tuple[int, int]:
    new = draw(near_powers(1, MAX_SIZE))
    from_end = draw(st.booleans())
    old = draw(near_powers(1, new))
    return new + 1 - old if from_end else old, new


@given(leaf_places())
@example((2**64 - 1, 2**64))
@example((2**64 - 2, 2**64 - 1))
@example((0, 2**64))
@example((2**63, 2**63 + 1))
def test_leaf_of_a_tree_of_any_size_is_proved_and_no_other(place: tuple[int, int]) -> None:
    index, size = place
    mth = rfc9162.sparse_mth({index: LEAF, index ^ 1: OTHER}, STRANGER)
    node, expected = nodes(mth, size), mth(range(size))
    proof = prove_inclusion(index, size, node)
    assert len(proof) <= 64
    assert proof == rfc9162.path(index, range(size), mth)
    assert rfc9162.verify_inclusion(proof, index, size, LEAF, expected)
    assert root(size, node) == expected
    check_inclusion(proof, index, size, LEAF, expected)

    for bit in range(66):
        assert not holds(check_inclusion, proof, index ^ 1 << bit, size, LEAF, expected)
    for leaf, forged, *hashes in flips([LEAF, expected, *proof], [index % 256]):
        assert not holds(check_inclusion, hashes, index, size, leaf, forged)
    for hashes in ([*proof, OTHER], [OTHER, *proof], proof[1:], proof[:-1]):
        if hashes != proof:
            assert not holds(check_inclusion, hashes, index, size, LEAF, expected)


@given(tree_pairs())
@example((2**64 - 1, 2**64))
@example((2**64 - 2, 2**64 - 1))
@example((2**63, 2**64))
@example((2**63 + 1, 2**64))
@example((1, 2**64))
def test_older_tree_of_any_size_is_proved_and_no_other(sizes: tuple[int, int]) -> None:
    old, new = sizes
    mth = rfc9162.sparse_mth({0: STRANGER, old - 1: LEAF}, OTHER)
    old_root, new_root = mth(range(old)), mth(range(new))
    proof = prove_consistency(old, new, nodes(mth, new))
    assert len(proof) <= 65
    if old < new:
        assert proof == rfc9162.proof(old, range(new), mth)
        assert rfc9162.verify_consistency(proof, old, new, old_root, new_root)
    check_consistency(proof, old, new, old_root, new_root)

    for bit in range(66):
        assert not holds(check_consistency, proof, old ^ 1 << bit, new, old_root, new_root)
    for first, second, *hashes in flips([old_root, new_root, *proof], [old % 256]):
        assert not holds(check_consistency, hashes, old, new, first, second)
    for hashes in ([*proof, OTHER], [OTHER, *proof], proof[1:], proof[:-1]):
        if hashes != proof:
            assert not holds(check_consistency, hashes, old, new, old_root, new_root)


@given(leaf_places())
def test_few_nodes_are_read_however_large_the_tree(place: tuple[int, int]) -> None:
    """At most two for each of 64 levels: the siblings, and those that an odd end is hashed of."""
    index, size = place
    read: list[tuple[int, int]] = []

    def node(level: int, i: int) -> bytes:
        read.append((level, i))
        return LEAF

    for prove in (prove_inclusion, prove_consistency):
        read.clear()
        prove(index, size, node)
        assert len(read) == len(set(read)) <= 128


@given(st.integers(0, 66), st.dictionaries(st.integers(0, 65), st.sampled_from(LEAVES), max_size=4))
def test_sparse_reference_is_the_plain_one(size: int, leaves: dict[int, bytes]) -> None:
    plain = rfc9162.mth([leaves.get(i, STRANGER) for i in range(66)])
    assert rfc9162.sparse_mth(leaves, STRANGER)(range(size)) == plain(range(size))


# Published vectors


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    loaded = json.loads(shared("vectors/format-v1.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_published_roots_and_inclusion_proof(vectors: dict[str, Any]) -> None:
    hashes = [bytes.fromhex(block["hash"]) for block in vectors["blocks"]]
    mth = rfc9162.mth(hashes)
    roots = [root(size, nodes(mth, size)).hex() for size in range(len(hashes) + 1)]
    assert roots == vectors["tree_roots_by_size"]
    proof = prove_inclusion(4, 7, nodes(mth, 7))
    assert [found.hex() for found in proof] == vectors["inclusion_proof_of_block_4_in_size_7"]
    check_inclusion(proof, 4, 7, hashes[4], bytes.fromhex(roots[7]))
    for old in range(8):
        proof = prove_consistency(old, 7, nodes(mth, 7))
        check_consistency(proof, old, 7, bytes.fromhex(roots[old]), bytes.fromhex(roots[7]))
