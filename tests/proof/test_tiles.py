"""Tiles against C2SP tlog-tiles, by a slow reference, and paths that are none."""

from __future__ import annotations

from functools import cache, partial
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairn.core import proofs
from cairn.core.errors import ProofError
from cairn.core.header import HEADER_BYTES
from cairn.core.tree import WIDTH
from cairn.proof.tiles import (
    ENTRIES,
    Tile,
    bundle_of,
    headers_in,
    nodes_of,
    tile_with,
    tiles_for,
    tiles_of,
)
from tests.core import rfc9162

LEAVES = [sha256(b"leaf %d" % i).digest() for i in range(70_000)]
MTH = rfc9162.mth(LEAVES)
SPREAD = [*range(1, 18), *range(255, 258), 512, 1100, *range(65_535, 65_538), 70_000]


@cache
def slow_tile(level: int, number: int, width: int) -> bytes:
    """Return a tile's hashes as the specification writes them, one MTH each."""
    span = 256**level
    first = number * 256
    return b"".join(MTH(range(i * span, (i + 1) * span)) for i in range(first, first + width))


@cache
def slow_tiles(size: int) -> set[tuple[int, int, int]]:
    """Return level, number and width of all tiles of a tree, from the formula for partial ones."""
    found = set()
    for level in range(64):
        found |= {(level, n, 256) for n in range(size // 256 ** (level + 1))}
        if width := size // 256**level % 256:
            found.add((level, size // 256 ** (level + 1), width))
    return found


def read(size: int, tile: Tile) -> bytes:
    """Answer from the tree of `size` leaves, and from nothing past its end."""
    assert tuple(tile) in slow_tiles(size)
    return slow_tile(*tile)


# Which there are


@pytest.mark.parametrize("sizes", [range(a, b) for a, b in pairwise(range(0, 1200, 100))])
def test_tiles_of_a_tree_are_those_of_the_formula(sizes: range) -> None:
    for size in sizes:
        tiles = list(tiles_of(size))
        of_hashes = [tuple(tile) for tile in tiles if tile.level != ENTRIES]
        bundles = [tile for tile in tiles if tile.level == ENTRIES]
        assert len(set(tiles)) == len(tiles)
        assert set(of_hashes) == slow_tiles(size)
        assert {tile[1:] for tile in bundles} == {t[1:] for t in slow_tiles(size) if t[0] == 0}
        assert all(tile.is_of(size) and tile.width > 0 for tile in tiles)
        assert not any(tile.is_of(tile.leaves[1] - 1) for tile in tiles)


def test_published_examples() -> None:
    tiles = [tile for tile in tiles_of(70_000) if tile.level != ENTRIES]
    full = [tile for tile in tiles if tile.width == WIDTH]
    assert sum(tile.level == 0 for tile in full) == 273
    assert [tile for tile in full if tile.level] == [Tile(1, 0)]
    partial_ones = [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert [tile for tile in tiles if tile.width < WIDTH] == partial_ones
    assert list(tiles_of(256)) == [Tile(ENTRIES, 0), Tile(0, 0), Tile(1, 0, 1)]
    assert Tile(3, 1_234_067).path == "tile/3/x001/x234/067"
    assert Tile(ENTRIES, 0, 1).path == "tile/entries/000.p/1"


def test_tile_past_the_end_of_a_tree_is_not_of_it() -> None:
    for tile, size in (
        (Tile(0, 0), 255),
        (Tile(0, 0, 2), 1),
        (Tile(1, 0, 1), 255),
        (Tile(0, 1, 1), 256),
        (Tile(7, 127, 255), 2**63 - 1),
    ):
        assert not tile.is_of(size)
    assert Tile(0, 0, 1).is_of(1)
    assert Tile(0, 0, 1).is_of(300)  # it has been
    assert Tile(7, 0, 127).is_of(2**63 - 1)


# Paths


@given(
    st.sampled_from([ENTRIES, *range(8)]),
    st.integers(0, 2**56) | st.sampled_from([999, 1000, 999_999, 10**6, 10**9]),
    st.integers(1, 256),
)
def test_path_of_a_tile_is_read_as_it_was_written(level: int, number: int, width: int) -> None:
    tile = Tile(level, number, width)
    if tile.leaves[1] < 2**63:
        assert Tile.parse(tile.path) == tile
    else:
        with pytest.raises(ProofError):
            Tile.parse(tile.path)


def test_paths_of_all_tiles_of_a_tree_differ() -> None:
    tiles = list(tiles_of(70_000))
    assert len({tile.path for tile in tiles}) == len(tiles)
    assert [Tile.parse(tile.path) for tile in tiles] == tiles


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/x000",
        "tile/0/x000/000",  # the same number as 000
        "tile/0/x000/x001/000",
        "tile/0/x001",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/x001000",
        "tile/0/X001/000",
        "tile/00/000",
        "tile/01/000",
        "tile/+0/000",
        "tile/-1/000",
        "tile/8/000",
        "tile/63/000",
        "tile/64/000",
        "tile/100/000",
        "tile/data/000",
        "tile/ENTRIES/000",
        "tile//000",
        "tile/0//000",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/-1",
        "tile/0/000.p/+1",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p/1000",
        "tile/0/000.p/1/",
        "tile/0/000.p/1.p/1",
        "tile/0/x001.p/1/000",
        "tile/0/٠٠٠",
        "tile/٠/000",
        "tile/0/000.p/٣",
        "tile/0/../000",
        "tile/0/%30%30%30",
        "tile/7/128",
        "tile/0/x036/x028/x797/x018/x963/968",  # it would end at 2^63
        "tile/0/" + 13 * "x999/" + "999",
        "tile/0/" + 5_000 * "x999/" + "999",
        "tile/0/" + 5_000 * "x000/" + "000",
        "tile/0/" + "9" * 9_999,
        "checkpoint",
    ],
)
def test_path_that_is_of_no_tile_is_refused(path: str) -> None:
    with pytest.raises(ProofError, match="is not the path of a tile"):
        Tile.parse(path)


PIECES = ["tile", "/", "0", "entries", "x", "000", "001", "999", ".p", "12", "256", "\n", "٣", "7"]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map(lambda found: "tile/" + "".join(found)))
@example("tile/1/x001/234.p/5")
def test_any_text_is_the_path_of_one_tile_or_refused(path: str) -> None:
    try:
        tile = Tile.parse(path)
    except ProofError:
        return
    assert tile.path == path
    assert 1 <= tile.width <= WIDTH
    assert 0 <= tile.leaves[0] < tile.leaves[1] < 2**63


# What they hold, and what is proved from them


@pytest.mark.parametrize("size", SPREAD)
def test_leaves_are_proved_from_tiles(size: int) -> None:
    root, node = MTH(range(size)), nodes_of(size, partial(read, size))
    step = 1 if size < 20 else size // 7
    for index in {*range(0, size, step), *range(max(size - 3, 0), size), min(255, size - 1)}:
        proof = proofs.prove_inclusion(index, size, node)
        assert proof == rfc9162.path(index, range(size), MTH)
        proofs.check_inclusion(proof, index, size, LEAVES[index], root)
    assert proofs.root(size, node) == root


@pytest.mark.parametrize("size", SPREAD)
def test_older_trees_are_proved_from_tiles(size: int) -> None:
    node = nodes_of(size, partial(read, size))
    for old in {1, size // 2, size - 1, *(s for s in SPREAD if s < size)} - {0}:
        if 0 < old < size:
            proof = proofs.prove_consistency(old, size, node)
            assert proof == rfc9162.proof(old, range(size), MTH)


@pytest.mark.soak
@pytest.mark.parametrize("sizes", [range(a, b) for a, b in pairwise(range(1, 1200, 100))])
def test_every_leaf_of_every_tree_is_proved_from_tiles(sizes: range) -> None:
    for size in sizes:
        held = {tile: slow_tile(*tile) for tile in tiles_of(size) if tile.level != ENTRIES}
        node = nodes_of(size, held.__getitem__)
        for index in range(size):
            proof = proofs.prove_inclusion(index, size, node)
            assert proof == rfc9162.path(index, range(size), MTH)


@pytest.mark.parametrize("size", [*range(1, 40), 254, *range(255, 259), 512, 1100, 65_537, 70_000])
def test_only_tiles_of_the_tree_are_asked_for_each_once(size: int) -> None:
    there = slow_tiles(size)
    step = max(size // 40, 1)
    for index in {*range(0, size, step), size - 1}:
        for prove in (proofs.prove_inclusion, proofs.prove_consistency):
            asked = tiles_for(size, partial(prove, index, size))
            assert len(asked) == len(set(asked))
            assert {tuple(tile) for tile in asked} <= there
            held = {tile: slow_tile(*tile) for tile in asked}
            prove(index, size, nodes_of(size, held.__getitem__))  # no other is read
    everything = partial(proofs.prove_consistency, 0, size)
    assert tiles_for(size, everything) == []


@given(st.integers(1, 2**63 - 1), st.integers(0, 62), st.integers(0, 2**63))
@example(256, 8, 0)
@example(2**63 - 1, 62, 0)
@example(2**63 - 1, 0, 2**63 - 2)
def test_tile_with_a_node_is_as_the_tree_ends(size: int, level: int, index: int) -> None:
    level %= size.bit_length()
    index %= size >> level
    tile = tile_with(level, index, size)
    ends = size // 256**tile.level % 256
    full = (tile.number + 1) * 256 ** (tile.level + 1) <= size
    assert tile.level == level // 8
    assert tile.width == (256 if full else ends) > 0
    assert tile.is_of(size)
    assert tile.leaves[0] <= index << level < (index + 1) << level <= tile.leaves[1]


def test_tile_of_another_length_is_refused() -> None:
    for size in (1, 255, 256, 300):
        for wrong in (b"", bytes(31), bytes(8191), bytes(8193)):
            node = nodes_of(size, lambda _, wrong=wrong: wrong)  # type: ignore[misc]
            with pytest.raises(ProofError, match=rf"tile/\d/\S+ has {len(wrong)} bytes, not \d+"):
                node(0, size - 1)


def test_forged_tile_proves_nothing() -> None:
    size = 600
    root = MTH(range(size))

    def forged(tile: Tile) -> bytes:
        data = bytearray(read(size, tile))
        data[-1] ^= 1
        return bytes(data)

    for index in (0, 255, 256, 599):
        proof = proofs.prove_inclusion(index, size, nodes_of(size, forged))
        with pytest.raises(ProofError):
            proofs.check_inclusion(proof, index, size, LEAVES[index], root)


# Bundles


@pytest.mark.parametrize("count", [1, 2, 255, 256])
def test_bundle_holds_headers_each_after_its_length(count: int) -> None:
    headers = [sha256(b"%d" % i).digest() * 3 + bytes(8) for i in range(count)]
    bundle = b"".join(b"\x00\x68" + header for header in headers)
    assert headers_in(bundle) == headers
    rows = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, HEADER_BYTES)
    assert bundle_of(rows) == bundle
    assert Tile(ENTRIES, 0, count).nbytes == len(bundle)


@pytest.mark.parametrize(
    "bundle",
    [
        b"\x00",
        b"\x00\x68",
        b"\x00\x68" + bytes(103),
        b"\x00\x68" + bytes(105),
        b"\x00\x67" + bytes(103),
        b"\x00\x67" + bytes(104),
        b"\x68\x00" + bytes(104),
        b"\x00\x69" + bytes(105),
        b"\x00\x00" * 53,
        (b"\x00\x68" + bytes(104)) + (b"\x00\x68" + bytes(103)),
        (b"\x00\x68" + bytes(104)) + (b"\x01\x68" + bytes(104)),
    ],
)
def test_bundle_of_anything_else_is_refused(bundle: bytes) -> None:
    with pytest.raises(ProofError, match="a bundle holds headers"):
        headers_in(bundle)
