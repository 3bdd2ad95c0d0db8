"""The tree over a ledger's blocks: roots, proofs and tiles, from what is stored.

Rows are the hashes of the tree 8 levels apart, row 0 those of the blocks. What the store has kept
of the higher ones is used, the rest is made from the row below; so any proof reads a few tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import RLock
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cairn.core import proofs
from cairn.core.errors import DamagedError, ProofError
from cairn.core.hasher import Hasher
from cairn.core.merkle import HASH_BYTES, node_hash
from cairn.core.tree import HEIGHT, WIDTH, as_hashes, levels_above, subtree_roots
from cairn.store.interface import Store

KEPT_TILES: Final = 1024
"""Tiles that are held with what is above them, about 16 KiB each."""
KEPT_NODES: Final = 2**16
"""Nodes of the higher rows that are held since the store has none of them yet."""
BULK_PROOFS: Final = 16_384
"""Proofs that are made at once: some 20 MiB."""
BULK_TILES: Final = 512
"""Tiles that they are made from at once: 8 MiB with what is above them."""
BULK_HASHES: Final = 2**20
"""Hashes of one row that are read at once: 32 MiB."""

_Levels = list[NDArray[np.uint8]]


class Tree:
    """The tree of a store. May be used by many threads."""

    def __init__(self, store: Store, hasher: Hasher, *, kept: bool = True) -> None:
        """Read from `store`; without `kept`, make all from the hashes of the blocks."""
        self._store = store
        self._hasher = hasher
        self._kept = kept
        self._lock = RLock()
        self._tiles: dict[tuple[int, int], _Levels] = {}  # owned by _lock, with the next
        self._made: dict[tuple[int, int], bytes] = {}

    def root(self, size: int) -> bytes:
        """Return the 32-byte root of the tree of the first `size` blocks."""
        return proofs.root(size, self._nodes_of(size))

    def prove_inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the proof that block `index` is in the tree of `size`; see `core.proofs`."""
        return proofs.prove_inclusion(index, size, self._nodes_of(size))

    def prove_consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the tree of `new` begins with that of `old`; see `core.proofs`."""
        return proofs.prove_consistency(old, new, self._nodes_of(new))

    def row(self, row: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Return hashes `start` to `stop` of a row, `(n, 32)`. All below them must be there.

        Raises:
            DamagedError: blocks are missing.
        """
        if row == 0:
            return self._store.hashes(start, stop)
        kept = self._store.nodes(row, start, stop) if self._kept else as_hashes(b"")
        start += len(kept)
        made = []
        with self._lock:
            while start < stop and (row, start) in self._made:
                made.append(self._made[row, start])
                start += 1
        return np.concatenate([kept, as_hashes(b"".join(made)), *self._make(row, start, stop)])

    def forget(self) -> None:
        """Make anew what was made of blocks: they were changed."""
        with self._lock:
            self._tiles.clear()
            self._made.clear()

    def _make(self, row: int, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Yield hashes of a higher row, made from the row below; remember them."""
        step = BULK_HASHES // WIDTH
        for at in range(start, stop, step):
            below = self.row(row - 1, at * WIDTH, min(at + step, stop) * WIDTH)
            roots = subtree_roots(below, self._hasher)
            with self._lock:
                self._made |= {(row, at + i): root.tobytes() for i, root in enumerate(roots)}
                while len(self._made) > KEPT_NODES:
                    del self._made[next(iter(self._made))]
            yield roots

    def _nodes_of(self, size: int) -> proofs.Nodes:
        """Return what proofs of the tree of `size` blocks ask."""

        def node(level: int, index: int) -> bytes:
            row, step = divmod(level, HEIGHT)
            number, place = divmod(index << step, WIDTH)
            width = min((size >> HEIGHT * row) - number * WIDTH, WIDTH)
            return bytes(self._tile(row, number, width)[step][place >> step])

        return node

    def _tile(self, row: int, number: int, width: int) -> _Levels:
        """Return a tile of at least so many hashes, with what is above them: 8 levels."""
        with self._lock:
            levels = self._tiles.pop((row, number), None)
            if levels is None or len(levels[0]) < width:
                hashes = self.row(row, number * WIDTH, number * WIDTH + width)
                levels = [hashes, *levels_above(hashes, self._hasher)[:-1]]
            self._tiles[row, number] = levels  # the last to be dropped
            while len(self._tiles) > KEPT_TILES:
                del self._tiles[next(iter(self._tiles))]
            return levels

    def prove_inclusions(
        self, indexes: Sequence[int], size: int, expected: bytes
    ) -> Iterator[list[bytes]]:
        """Yield the proof of each of `indexes` in the tree of `size`, in bulk.

        In the order given; quickest where they are near one another. Each has been checked against
        the root that is `expected`.

        Raises:
            ProofError: an index is not below `size`.
            DamagedError: what is stored does not lead to that root.
        """
        if len(indexes) and not 0 <= min(indexes) <= max(indexes) < size:
            raise ProofError(f"one of the blocks is not in a tree of {size}")
        places, edges = np.asarray(indexes, np.int64), self._edges(size)
        for first in range(0, len(places), BULK_PROOFS):
            some = places[first : first + BULK_PROOFS]
            path = self._paths(some, size, edges)
            if not path.lead_to(expected, self._hasher):
                raise DamagedError("what is stored of the tree does not lead to its root")
            for siblings, there in zip(path.siblings, path.there, strict=True):
                proof = siblings[there].tobytes()
                yield [proof[at : at + HASH_BYTES] for at in range(0, len(proof), HASH_BYTES)]

    def _edges(self, size: int) -> list[bytes]:
        """Return, by level, the root over what comes after the last full subtree of that level."""
        node, edges = self._nodes_of(size), [b""]
        for level in range(size.bit_length()):
            edge = edges[-1]
            if size >> level & 1:
                full = node(level, (size >> level) - 1)
                edge = node_hash(full, edge) if edge else full
            edges.append(edge)
        return edges

    def _paths(self, places: NDArray[np.int64], size: int, edges: Sequence[bytes]) -> _Paths:
        """Return the siblings of blocks, level by level up to the root."""
        levels = (size - 1).bit_length()
        path = _Paths(
            places,
            np.zeros((len(places), HASH_BYTES), np.uint8),
            np.zeros((len(places), levels, HASH_BYTES), np.uint8),
            np.zeros((len(places), levels), np.bool_),
        )
        for level in range(levels):
            sibling = (places >> level) ^ 1
            path.there[:, level] = sibling << level < size
            partial = path.there[:, level] & ((sibling + 1) << level > size)
            if partial.any():
                path.siblings[partial, level] = np.frombuffer(edges[level], np.uint8)
        for row in range(max(-(-levels // HEIGHT), 1)):
            self._fill(path, row, size >> row * HEIGHT)
        return path

    def _fill(self, path: _Paths, row: int, hashes: int) -> None:
        """Fill in the siblings that are full subtrees, from tiles of a row of so many hashes."""
        places = path.places >> row * HEIGHT
        order = np.argsort(places, kind="stable")
        order = order[places[order] // WIDTH * WIDTH < hashes]  # else there is none in its tile
        numbers, begins = np.unique(places[order] // WIDTH, return_index=True)
        bounds = np.append(begins, len(order))
        for at in range(0, len(numbers), BULK_TILES):
            some = numbers[at : at + BULK_TILES]
            levels = self._levels_of(row, some, hashes)
            mine = order[bounds[at] : bounds[at + len(some)]]
            tile, inside = np.searchsorted(some, places[mine] // WIDTH), places[mine] % WIDTH
            if row == 0:
                path.leaves[mine] = levels[0][tile, inside]
            for step in range(min(HEIGHT, path.siblings.shape[1] - row * HEIGHT)):
                sibling = (places[mine] >> step) ^ 1
                full = (sibling + 1) << step <= hashes
                found = levels[step][tile[full], (inside[full] >> step) ^ 1]
                path.siblings[mine[full], row * HEIGHT + step] = found

    def _levels_of(self, row: int, numbers: NDArray[np.int64], hashes: int) -> _Levels:
        """Return tiles (rising `numbers`) with what is above: `(tiles, 256 >> level, 32)` each.

        Where the last one is not full, what it lacks is made of zeros.
        """
        tiles = np.zeros((len(numbers), WIDTH, HASH_BYTES), np.uint8)
        flat, at = tiles.reshape(-1, HASH_BYTES), 0
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            start, stop = int(run[0]) * WIDTH, min((int(run[-1]) + 1) * WIDTH, hashes)
            flat[at : at + stop - start] = self.row(row, start, stop)
            at += len(run) * WIDTH
        above = levels_above(flat, self._hasher)[:-1]
        return [tiles, *(level.reshape(len(numbers), -1, HASH_BYTES) for level in above)]


class _Paths(NamedTuple):
    """Ways from k blocks to the root."""

    places: NDArray[np.int64]
    """`(k,)`"""
    leaves: NDArray[np.uint8]
    """`(k, 32)`: the hashes of the blocks."""
    siblings: NDArray[np.uint8]
    """`(k, levels, 32)`"""
    there: NDArray[np.bool_]
    """`(k, levels)`: of which there is one; else the node is carried up."""

    def lead_to(self, root: bytes, hasher: Hasher) -> bool:
        """Whether they all do."""
        found = self.leaves.copy()
        for level in range(self.siblings.shape[1]):
            some = np.flatnonzero(self.there[:, level])
            mine, other = found[some], self.siblings[some, level]
            is_right = (self.places[some] >> level & 1).astype(np.bool_)[:, None]
            left, right = np.where(is_right, other, mine), np.where(is_right, mine, other)
            found[some] = hasher.node_hashes(np.concatenate([left, right], axis=1))
        return bool(np.all(found == np.frombuffer(root, np.uint8)))
