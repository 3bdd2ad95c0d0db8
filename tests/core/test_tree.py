"""Rows of the tree in bulk, against the definition, on all hashers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cairn.core.merkle import tree_hash
from cairn.core.tree import WIDTH, as_hashes, levels_above, subtree_roots
from cairn.hashing import best_hasher, hasher, names

HASHES: NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, (2567, 32), np.uint8)
LEAVES = [row.tobytes() for row in HASHES]


@pytest.mark.parametrize("name", names())
def test_levels_and_roots_are_those_of_the_definition_on_all_hashers(name: str) -> None:
    using = hasher(name)
    for count in (0, 1, 2, 3, 5, 127, 128, 255, 256, 257, 511, 512, 600, 1023, 2567):
        levels = levels_above(HASHES[:count], using)
        assert len(levels) == 8
        for height, level in enumerate(levels, 1):
            step = 1 << height
            leaves = (LEAVES[at : at + step] for at in range(0, count - step + 1, step))
            assert [row.tobytes() for row in level] == [tree_hash(some) for some in leaves]
        roots = subtree_roots(HASHES[:count], using)
        assert roots.shape == (count // WIDTH, 32)
        assert np.array_equal(roots, levels[-1])


def test_hashes_that_do_not_lie_end_to_end_have_the_same_roots() -> None:
    apart = np.ascontiguousarray(np.repeat(HASHES[:512], 2, axis=0))[::2]
    assert np.array_equal(
        subtree_roots(apart, best_hasher()), subtree_roots(HASHES[:512], best_hasher())
    )
    assert as_hashes(HASHES[:3].tobytes()).shape == (3, 32)
    assert as_hashes(b"").shape == (0, 32)
