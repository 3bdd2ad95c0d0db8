"""The header: 104 bytes that commit to everything in a block."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from cairn.core.errors import FormatError
from cairn.core.merkle import HASH_BYTES, leaf_hash

FORMAT_VERSION: Final = 1
HEADER_BYTES: Final = 104
NO_HASH: Final = bytes(HASH_BYTES)
"""`previous_hash` of genesis."""

LIMIT_63: Final = 2**63
"""Index and timestamp stay below this, so that they fit signed 64-bit columns everywhere."""

_STRUCT: Final = struct.Struct(">HHIQ32sQII32sQ")

HEADER_DTYPE: Final = np.dtype(
    [
        ("version", ">u2"),
        ("kind", ">u2"),
        ("bits", ">u4"),
        ("index", ">u8"),
        ("previous_hash", "V32"),
        ("timestamp", ">u8"),
        ("count", ">u4"),
        ("size", ">u4"),
        ("data_root", "V32"),
        ("nonce", ">u8"),
    ]
)
"""The same layout as a NumPy record, for `(n, 104) uint8` columns viewed field by field."""

LINK: Final = slice(16, 48)
"""Where `previous_hash` lies in the 104 bytes."""
DATA_ROOT: Final = slice(64, 96)
"""Where `data_root` lies in the 104 bytes."""


class Kind(IntEnum):
    """What a block holds."""

    VALUE = 0
    """One value of a user; count is 1."""
    BATCH = 1
    """Any number of values, none included: what a mined block holds."""
    RECORD = 2
    """One record by the ledger itself (genesis, erasure, key change); count is 1."""

    @property
    def label(self) -> str:
        """The name in JSON: "value", "batch" or "record"."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The hashed part of a block, in the order of its bytes. Integers are big-endian."""

    version: int = FORMAT_VERSION
    """2 bytes. Commits to this table."""
    kind: int
    """2 bytes. Commits to how the entries are to be read (`Kind`)."""
    bits: int = 0
    """4 bytes. Commits to the work asked for, as Bitcoin's compact target; 0 asks for none."""
    index: int
    """8 bytes. Commits to the position in the chain; genesis is 0."""
    previous_hash: bytes
    """32 bytes. Commits to the whole chain before; zeros for genesis."""
    timestamp: int
    """8 bytes. Microseconds since the Unix epoch, UTC."""
    count: int
    """4 bytes. Commits to the number of entries."""
    size: int
    """4 bytes. Commits to the bytes of all entries, salts included."""
    data_root: bytes
    """32 bytes. Commits to every entry and their order: RFC 9162 tree hash."""
    nonce: int = 0
    """8 bytes. Found by mining; 0 otherwise. Last, in the second block of SHA-256's input."""

    def pack(self) -> bytes:
        """Return the 104 bytes.

        Raises:
            FormatError: a field does not fit its bytes.
        """
        if len(self.previous_hash) != HASH_BYTES or len(self.data_root) != HASH_BYTES:
            raise FormatError("previous_hash and data_root have 32 bytes each")
        try:
            return _STRUCT.pack(
                self.version,
                self.kind,
                self.bits,
                self.index,
                self.previous_hash,
                self.timestamp,
                self.count,
                self.size,
                self.data_root,
                self.nonce,
            )
        except struct.error as error:
            raise FormatError(f"header field out of range: {error}") from None

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """Read 104 bytes. Any 104 bytes are some header; the rules judge it.

        Raises:
            FormatError: another length.
        """
        if len(data) != HEADER_BYTES:
            raise FormatError(f"a header has {HEADER_BYTES} bytes, found {len(data)}")
        names = HEADER_DTYPE.names
        assert names is not None
        return cls(**dict(zip(names, _STRUCT.unpack(data), strict=True)))

    @property
    def hash(self) -> bytes:
        """The block's hash, `SHA-256(0x00 ‖ header)`: its leaf hash in the tree of headers."""
        return leaf_hash(self.pack())
