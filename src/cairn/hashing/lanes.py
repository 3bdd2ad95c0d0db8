"""The `lanes` hasher: the C kernel, where it was built, on one instruction set of this CPU."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cairn.core.errors import UsageError
from cairn.core.genesis import Terms
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment
from cairn.hashing.portable import HashlibHasher

try:
    from cairn.hashing import _lanes
except ImportError:  # installed without a compiler
    INSTRUCTION_SETS: tuple[str, ...] = ()
    """What the kernel can use here, best first; none where it was not built."""
else:
    INSTRUCTION_SETS = _lanes.available()

EXAMPLES: Final = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
    b"hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu": (
        "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"
    ),
}
"""Messages of none to two blocks and their SHA-256, as FIPS 180-4 gives them."""


class LanesHasher:
    """`cairn.core.hasher.Hasher` by the C kernel. Any number of threads may use it at once.

    `isa` is one of `INSTRUCTION_SETS`; the best is the default.

    Raises:
        UsageError: the kernel was not built, or cannot use that here.
    """

    def __init__(self, isa: str | None = None) -> None:
        if not INSTRUCTION_SETS:
            raise UsageError("the C kernel was not built when cairn-ledger was installed")
        if isa is not None and isa not in INSTRUCTION_SETS:
            known = ", ".join(INSTRUCTION_SETS)
            raise UsageError(f"the C kernel has no {isa!r} for this CPU; it has {known}")
        self.name = "lanes" if isa is None else f"lanes-{isa}"
        self._isa = isa or INSTRUCTION_SETS[0]

    def leaf_hashes(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """See `Hasher.leaf_hashes`."""
        out = _rows(len(starts))
        starts, stops = (np.ascontiguousarray(bounds, np.int64) for bounds in (starts, stops))
        _lanes.leaf_hashes(self._isa, data, starts, stops, out)
        return out

    def node_hashes(self, children: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `Hasher.node_hashes`."""
        out = _rows(len(children))
        _lanes.node_hashes(self._isa, children, out)
        return out

    def link(self, headers: NDArray[np.uint8], previous_hash: bytes) -> NDArray[np.uint8]:
        """See `Hasher.link`. By the CPU's SHA instructions if it has them, whatever the lanes."""
        out = _rows(len(headers))
        _lanes.link(headers, previous_hash, out)
        return out

    def screen(self, segment: Segment, terms: Terms) -> NDArray[np.bool_] | None:
        """See `Hasher.screen`."""
        flags = np.empty(len(segment), np.uint8)
        regular = _lanes.screen(
            self._isa,
            segment.start,
            np.ascontiguousarray(segment.headers),
            np.ascontiguousarray(segment.hashes),
            np.ascontiguousarray(segment.data),
            np.ascontiguousarray(segment.offsets, np.uint64),
            terms.limits.count,
            terms.limits.size,
            terms.asert is not None,
            flags,
        )
        return flags.view(np.bool_) if regular else None


def works(isa: str) -> bool:
    """Return whether the kernel gives known answers on that instruction set.

    Raw messages are answered by FIPS 180-4's own examples; leaves, nodes and links by `hashlib`.
    Each message comes more often than there are lanes, so that all lanes are asked.
    """
    hasher = LanesHasher(isa)
    data = np.frombuffer(b"".join(EXAMPLES), np.uint8)
    lengths = np.array([len(message) for message in EXAMPLES], np.int64)
    stops = np.cumsum(lengths, dtype=np.int64)
    starts = stops - lengths
    starts, stops = np.tile(starts, 35), np.tile(stops, 35)
    out = _rows(len(starts))
    _lanes.sha256(isa, data, starts, stops, out)
    children = np.arange(35 * 64, dtype=np.uint16).astype(np.uint8).reshape(35, 64)
    headers = np.arange(3 * 104, dtype=np.uint16).astype(np.uint8).reshape(3, 104)
    plain = HashlibHasher()
    linked = headers.copy()
    return (
        out.tobytes() == bytes.fromhex("".join(EXAMPLES.values())) * 35
        and _same(hasher.leaf_hashes(data, starts, stops), plain.leaf_hashes(data, starts, stops))
        and _same(hasher.node_hashes(children), plain.node_hashes(children))
        and _same(hasher.link(headers, bytes(32)), plain.link(linked, bytes(32)))
        and _same(headers, linked)
    )


def _same(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> bool:
    return found.tobytes() == expected.tobytes()


def _rows(n: int) -> NDArray[np.uint8]:
    return np.empty((n, HASH_BYTES), np.uint8)
