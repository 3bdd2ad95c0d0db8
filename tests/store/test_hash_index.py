"""Finding blocks by hash, against a plain search."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cairn.core.merkle import HASH_BYTES
from cairn.core.tree import as_hashes
from cairn.store.hash_index import HashIndex


def some_hash(choose: random.Random) -> bytes:
    """Few prefixes, so that many are equal, the extremes among them."""
    prefix = choose.choice([b"\x00", b"\x7f", b"\x80", b"\xff"]) * 7 + bytes([choose.randrange(4)])
    return prefix + choose.randbytes(HASH_BYTES - 8)


def added(index: HashIndex, first: int, hashes: list[bytes]) -> None:
    positions = np.arange(first, first + len(hashes))
    index.add(positions, as_hashes(b"".join(hashes)))


@pytest.mark.parametrize("seed", range(5))
def test_every_hash_is_among_its_candidates_and_no_other_prefix_is(seed: int) -> None:
    """Also after some were dropped."""
    choose = random.Random(seed)
    index, known = HashIndex(), list[bytes]()
    for _ in range(60):
        if choose.random() < 0.3:
            at = choose.randrange(len(known) + 2)
            index.drop(at)
            del known[at:]
        hashes = [some_hash(choose) for _ in range(choose.randrange(9))]
        added(index, len(known), hashes)
        known += hashes
        for wanted in [*known[-5:], *known[:5], some_hash(choose), bytes(32), b"\xff" * 32]:
            same = [at for at, one in enumerate(known) if one[:8] == wanted[:8]]
            assert index.candidates([wanted]) == [same]


def test_a_position_may_have_any_number_of_hashes() -> None:
    index = HashIndex()
    hashes = [bytes([at]) * 32 for at in range(5)]
    index.add(np.array([3, 3, 3, 7, 8]), as_hashes(b"".join(hashes)))
    assert index.candidates(hashes) == [[3], [3], [3], [7], [8]]
    index.drop(4)
    assert index.candidates(hashes) == [[3], [3], [3], [], []]
