"""A slow maker of receipts, from the words of the format and of C2SP, to hold the page to.

It shares no code with cairn.
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Receipt = dict[str, Any]
LOG, WITNESS = 1, 4


def leaf(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << (n - 1).bit_length() - 1


def tree(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, of leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node(tree(leaves[:k]), tree(leaves[k:]))


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 9162, section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), tree(leaves[k:])]
    return [*path(m - k, leaves[k:]), tree(leaves[:k])]


@cache
def equal_leaves(n: int) -> bytes:
    """The tree hash of n leaves that are all the same."""
    return leaf(b"filler") if n == 1 else node(equal_leaves(split(n)), equal_leaves(n - split(n)))


def lonely(m: int, n: int, hash_: bytes) -> tuple[bytes, list[bytes]]:
    """Root and path of leaf m of n, where all others are the same, so that n may be huge."""
    if n == 1:
        return hash_, []
    k = split(n)
    if m < k:
        root, below = lonely(m, k, hash_)
        return node(root, equal_leaves(n - k)), [*below, equal_leaves(n - k)]
    root, below = lonely(m - k, n - k, hash_)
    return node(equal_leaves(k), root), [*below, equal_leaves(k)]


def key_id(name: str, public: bytes) -> bytes:
    """Of a public key with its type before it; C2SP signed-note."""
    return sha256(name.encode() + b"\n" + public).digest()[:4]


@dataclass(frozen=True)
class Key:
    name: str
    type: int
    seed: bytes = b"\x07" * 32

    @property
    def private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def public(self) -> bytes:
        return bytes([self.type]) + self.private.public_key().public_bytes_raw()

    @property
    def id(self) -> bytes:
        return key_id(self.name, self.public)

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64encode(self.public).decode()}"

    def line(self, text: str, time: int = 0) -> str:
        """The signature line for a note's text; of a witness, at a time in seconds."""
        if self.type == WITNESS:
            signed = f"cosignature/v1\ntime {time}\n{text}".encode()
            signature = struct.pack(">Q", time) + self.private.sign(signed)
        else:
            signature = self.private.sign(text.encode())
        return f"— {self.name} {b64encode(self.id + signature).decode()}\n"


@dataclass
class Ledger:
    """Blocks with as many entries as said, the first of them genesis."""

    counts: Sequence[int]
    values: Callable[[int, int], str] = lambda index, entry: f'{{"block":{index},"entry":{entry}}}'
    entries: list[list[tuple[bytes, str]]] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        previous = bytes(32)
        for index, count in enumerate(self.counts):
            block = [
                (sha256(b"salt %d %d" % (index, entry)).digest()[:16], self.values(index, entry))
                for entry in range(count)
            ]
            kind = 2 if index == 0 else int(count != 1)
            self.entries.append(block)
            self.headers.append(header(index, block, previous_hash=previous, kind=kind))
            previous = leaf(self.headers[-1])

    @property
    def origin(self) -> str:
        return f"cairn/{leaf(self.headers[0]).hex()}"

    @property
    def key(self) -> Key:
        return Key(self.origin, LOG)

    def receipt(
        self, index: int, entry: int = 0, size: int = 0, witnesses: Sequence[Key] = ()
    ) -> Receipt:
        """Of an entry, under a checkpoint of `size` blocks (0: of all)."""
        hashes = [leaf(h) for h in self.headers[: size or len(self.headers)]]
        text = checkpoint(self.origin, len(hashes), tree(hashes))
        return receipt(
            self.headers[index],
            self.entries[index],
            entry,
            block_proof=path(index, hashes),
            text=text,
            lines=[self.key.line(text), *(w.line(text, 1_700_000_000) for w in witnesses)],
            keys=[self.key, *witnesses],
        )


def header(
    index: int,
    entries: Sequence[tuple[bytes, str]],
    *,
    previous_hash: bytes = bytes(32),
    kind: int = 0,
    version: int = 1,
    timestamp: int | None = None,
    bytes_of_entries: int | None = None,
) -> bytes:
    data = [salt + text.encode() for salt, text in entries]
    return struct.pack(
        ">HHIQ32sQII32sQ",
        version,
        kind,
        0,
        index,
        previous_hash,
        1526995403022216 + index % 1000 if timestamp is None else timestamp,
        len(data),
        sum(map(len, data)) if bytes_of_entries is None else bytes_of_entries,
        tree([leaf(d) for d in data]),
        0,
    )


def checkpoint(origin: str, size: int, root: bytes) -> str:
    return f"{origin}\n{size}\n{b64encode(root).decode()}\n"


def receipt(
    header: bytes,
    entries: Sequence[tuple[bytes, str]],
    entry: int,
    *,
    block_proof: Sequence[bytes],
    text: str,
    lines: Sequence[str],
    keys: Sequence[Key],
) -> Receipt:
    salt, data = entries[entry]
    ids = [leaf(salt + text.encode()) for salt, text in entries]
    return {
        "cairn": "receipt/1",
        "index": struct.unpack(">Q", header[8:16])[0],
        "entry": entry,
        "salt": salt.hex(),
        "data": data,
        "entry_proof": [h.hex() for h in path(entry, ids)],
        "header": header.hex(),
        "block_proof": [h.hex() for h in block_proof],
        "checkpoint": text + "\n" + "".join(lines),
        "keys": [key.vkey for key in keys],
    }


def one_block(
    data: str = '{"user":"alice"}',
    *,
    index: int = 1,
    size: int = 2,
    signer: Key | None = None,
    origin: str = "cairn/" + "ab" * 32,
    extension: str = "",
    lines: Callable[[str], Sequence[str]] | None = None,
    version: int = 1,
    timestamp: int | None = None,
    bytes_of_entries: int | None = None,
) -> tuple[Receipt, Key]:
    """A receipt of one block in a tree where all others are the same, and the key that signs it.

    It is signed rightly whatever it says: for what no honest ledger would make.
    """
    key = signer or Key(origin, LOG)
    entries = [(b"\x02" * 16, data)]
    made = header(
        index,
        entries,
        version=version,
        timestamp=timestamp,
        bytes_of_entries=bytes_of_entries,
    )
    root, proof = lonely(index, size, leaf(made))
    text = checkpoint(origin, size, root) + extension
    signed = lines(text) if lines else [key.line(text)]
    return receipt(made, entries, 0, block_proof=proof, text=text, lines=signed, keys=[key]), key


def to_json(receipt: Receipt) -> str:
    return json.dumps(receipt, ensure_ascii=False)
