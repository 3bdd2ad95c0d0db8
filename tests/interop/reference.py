"""A transparency log as a folder of files, slow and plain, from RFC 9162 and C2SP's pages.

Those are tlog-tiles, tlog-checkpoint, signed-note and tlog-cosignature. Nothing here calls the code
under test.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.core.reference import leaf, tree

TILE_WIDTH = 256
"""Hashes in a full tile, and entries in a full bundle."""
SIGNATURE, COSIGNATURE = b"\x01", b"\x04"
"""What an Ed25519 key signs: a note, or a checkpoint and the time."""


class Signer(NamedTuple):
    """A named key."""

    name: str
    key: Ed25519PrivateKey
    kind: bytes = SIGNATURE

    @classmethod
    def of(cls, name: str, seed: bytes = bytes(32), kind: bytes = SIGNATURE) -> Self:
        return cls(name, Ed25519PrivateKey.from_private_bytes(seed), kind)

    @property
    def material(self) -> bytes:
        return self.kind + self.key.public_key().public_bytes_raw()

    @property
    def key_id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + self.material).digest()[:4]

    @property
    def vkey(self) -> str:
        """What verifies: name, id in hex, kind and key in base64."""
        return f"{self.name}+{self.key_id.hex()}+{b64encode(self.material).decode()}"

    def line(self, text: str, time: int = 0) -> str:
        """The line that signs `text`; a cosignature says at what `time` (s since 1970)."""
        if self.kind == COSIGNATURE:
            cosigned = f"cosignature/v1\ntime {time}\n{text}".encode()
            signature = time.to_bytes(8, "big") + self.key.sign(cosigned)
        else:
            signature = self.key.sign(text.encode())
        return f"— {self.name} {b64encode(self.key_id + signature).decode()}\n"


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    return f"{origin}\n{size}\n{b64encode(root).decode()}\n"


def note(text: str, *lines: str) -> str:
    """Return a signed note: its text, a blank line, the lines of its signatures."""
    return text + "\n" + "".join(lines)


def tile_path(level: str, n: int, width: int) -> str:
    """Return the path of tile `n` of a level, or of bundle `n` of the level "entries"."""
    digits = str(n)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    path = "/".join(["tile", level, *("x" + part for part in parts[:-1]), parts[-1]])
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def tiles(headers: Sequence[bytes]) -> dict[str, bytes]:
    """Return path to bytes, of every tile and every bundle of the log of these entries."""
    files = {}
    for i in range(0, len(headers), TILE_WIDTH):
        entries = headers[i : i + TILE_WIDTH]
        bundle = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
        files[tile_path("entries", i // TILE_WIDTH, len(entries))] = bundle
    leaves = [leaf(header) for header in headers]
    level, hashes = 0, leaves
    while hashes:
        for i in range(0, len(hashes), TILE_WIDTH):
            tile = hashes[i : i + TILE_WIDTH]
            files[tile_path(str(level), i // TILE_WIDTH, len(tile))] = b"".join(tile)
        level += 1
        span = TILE_WIDTH**level  # leaves below each hash of this level
        hashes = [tree(leaves[i : i + span]) for i in range(0, len(leaves) - span + 1, span)]
    return files


def log(headers: Sequence[bytes], signer: Signer) -> dict[str, bytes]:
    """Return path to bytes, of all files of the log of these entries."""
    root = tree([leaf(header) for header in headers])
    text = checkpoint_text(signer.name, len(headers), root)
    return {"checkpoint": note(text, signer.line(text)).encode(), **tiles(headers)}


def write(files: dict[str, bytes], folder: Path) -> Path:
    """Write `files` below `folder`, and return that."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    """Return path to bytes, of all files below `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
