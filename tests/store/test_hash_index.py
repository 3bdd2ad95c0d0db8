"""Finding blocks by hash, against a plain search."""

from __future__ import annotations

import random

import pytest

from cairn.core.merkle import HASH_BYTES
from cairn.store.hash_index import HashIndex


def some_hash(choose: random.Random) -> bytes:
    """Few prefixes, so that many are equal, the extremes among them."""
    prefix = choose.choice([b"\x00", b"\x7f", b"\x80", b"\xff"]) * 7 + bytes([choose.randrange(4)])
    return prefix + choose.randbytes(HASH_BYTES - 8)


@pytest.mark.parametrize("seed", range(5))
def test_every_hash_is_among_its_candidates_and_no_other_prefix_is(seed: int) -> None:
    choose = random.Random(seed)
    index, known = HashIndex(), list[bytes]()
    for _ in range(40):
        runs = []
        for _ in range(choose.randrange(4)):
            hashes = [some_hash(choose) for _ in range(choose.randrange(1, 6))]
            runs.append((len(known), b"".join(hashes)))
            known += hashes
        if runs:
            index.add(runs)
        for wanted in [*known[-5:], *known[:5], some_hash(choose), bytes(32), b"\xff" * 32]:
            same = [at for at, one in enumerate(known) if one[:8] == wanted[:8]]
            assert index.candidates(wanted) == same


def test_a_damaged_column_of_hashes_gives_its_whole_hashes() -> None:
    index = HashIndex()
    index.add([(5, b"a" * 32 + b"b" * 31), (9, b"c" * 32), (20, b"")])
    assert index.candidates(b"a" * 32) == [5]
    assert index.candidates(b"b" * 32) == []
    assert index.candidates(b"c" * 32) == [9]
