"""Tiles: the tree of a ledger's headers in pieces that never change, for proofs and for mirrors.

A tile holds up to 256 hashes, 8 levels apart from those of the next. Those of level 0 are the
hashes of blocks; beside them lie bundles of the headers that they are the hashes of.

Source: C2SP tlog-tiles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cairn.core.errors import ProofError
from cairn.core.header import HEADER_BYTES, LIMIT_63
from cairn.core.merkle import HASH_BYTES, node_hash
from cairn.core.proofs import Nodes
from cairn.core.tree import HEIGHT, WIDTH

LENGTH_BYTES: Final = 2
"""Before every header in a bundle: its length, big-endian."""
ENTRIES: Final = -1
"""In the place of a level: a bundle of headers."""

_PATH: Final = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)


class Tile(NamedTuple):
    """Which tile, or bundle: where its first hash stands, and how many it has."""

    level: int
    """Of its hashes, in steps of 8; `ENTRIES` for a bundle of headers."""
    number: int
    """Of the tile on its level, from 0."""
    width: int = WIDTH
    """Hashes or headers: less than 256 only at the end of a tree."""

    @property
    def path(self) -> str:
        """Where it is served, from the URL of the log on, without a slash before it."""
        digits = f"{self.number:03}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
        folders = "".join(f"x{group}/" for group in groups[:-1])
        level = "entries" if self.level == ENTRIES else self.level
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{folders}{groups[-1]}{partial}"

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Read the path of a tile.

        Raises:
            ProofError: it is that of none.
        """
        found = _PATH.fullmatch(path)
        if found is not None:
            level = ENTRIES if found[1] == "entries" else int(found[1])
            number = int(found[2].replace("x", "").replace("/", "")[:40])
            tile = cls(level, number, int(found[3] or WIDTH))
            full = WIDTH + (found[3] is None)
            if tile.path == path and tile.width < full and tile.leaves[1] < LIMIT_63:
                return tile
        raise ProofError(f"{path!r:.200} is not the path of a tile")

    @property
    def start(self) -> int:
        """Position, on its level, of its first hash."""
        return self.number * WIDTH

    @property
    def leaves(self) -> tuple[int, int]:
        """Positions of the first block below it, and after the last."""
        shift = HEIGHT * max(self.level, 0)
        return self.start << shift, self.start + self.width << shift

    @property
    def nbytes(self) -> int:
        """Its size."""
        entry = LENGTH_BYTES + HEADER_BYTES if self.level == ENTRIES else HASH_BYTES
        return self.width * entry

    def is_of(self, size: int) -> bool:
        """Whether the tree of `size` leaves has it: full, or as it ends there or ended before."""
        return self.leaves[1] <= size < LIMIT_63


def tiles_of(size: int) -> Iterator[Tile]:
    """Yield every tile and bundle of the tree of `size` leaves, those at its end partial."""
    yield from _row(ENTRIES, size)
    level = 0
    while size:
        yield from _row(level, size)
        level, size = level + 1, size >> HEIGHT


def _row(level: int, hashes: int) -> Iterator[Tile]:
    full, rest = divmod(hashes, WIDTH)
    yield from (Tile(level, number) for number in range(full))
    if rest:
        yield Tile(level, full, rest)


def tile_with(level: int, index: int, size: int) -> Tile:
    """Return the tile, in the tree of `size` leaves, from which node `index` of `level` is made.

    `level` counts single steps up from the leaves.
    """
    row, step = divmod(level, HEIGHT)
    place = (index << step) >> HEIGHT
    return Tile(row, place, min((size >> HEIGHT * row) - place * WIDTH, WIDTH))


def nodes_of(size: int, read: Callable[[Tile], bytes]) -> Nodes:
    """Return what proofs of the tree of `size` leaves ask, answered from tiles that `read` reads.

    Raises, when asked:
        ProofError: a tile is not as long as it must be.
    """
    made: dict[tuple[int, int], bytes] = {}  # inside tiles

    def node(level: int, index: int) -> bytes:
        if level % HEIGHT:
            if (level, index) not in made:
                children = node(level - 1, 2 * index), node(level - 1, 2 * index + 1)
                made[level, index] = node_hash(*children)
            return made[level, index]
        tile = tile_with(level, index, size)
        data = read(tile)
        if len(data) != tile.nbytes:
            raise ProofError(f"{tile.path} has {len(data)} bytes, not {tile.nbytes}")
        first = (index - tile.start) * HASH_BYTES
        return data[first : first + HASH_BYTES]

    return node


def tiles_for(size: int, prove: Callable[[Nodes], object]) -> list[Tile]:
    """Return the tiles of the tree of `size` leaves that `prove` will ask for, to be read ahead."""
    asked: dict[Tile, None] = {}

    def node(level: int, index: int) -> bytes:
        asked[tile_with(level, index, size)] = None
        return bytes(HASH_BYTES)

    prove(node)
    return list(asked)


def bundle_of(headers: NDArray[np.uint8]) -> bytes:
    """Return the bundle of `headers`, `(n, 104)`."""
    length = np.array([[0, HEADER_BYTES]], np.uint8)
    return np.concatenate([np.repeat(length, len(headers), axis=0), headers], axis=1).tobytes()


def headers_in(bundle: bytes) -> list[bytes]:
    """Return the headers of a bundle, 104 bytes each.

    Raises:
        ProofError: it is not exactly that.
    """
    step = LENGTH_BYTES + HEADER_BYTES
    length = HEADER_BYTES.to_bytes(LENGTH_BYTES, "big")
    found = [bundle[at : at + step] for at in range(0, len(bundle), step)]
    if any(len(entry) != step or entry[:LENGTH_BYTES] != length for entry in found):
        raise ProofError(f"a bundle holds headers of {HEADER_BYTES} bytes, each after its length")
    return [entry[LENGTH_BYTES:] for entry in found]
