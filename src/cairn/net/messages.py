"""What peers say to one another: msgpack arrays that begin with a number, one a frame.

Whatever a peer sends, `decode` returns a message whose every field is within its bounds, or raises
`Refusal`. Memory for it is a small multiple of the frame at most: lengths are checked before
anything is laid out. A frame's own length is the transport's to check, by `HANDSHAKE_BYTES` and
`frame_limit`. All integers in bytes are big-endian.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import numpy as np
from msgspec import Meta, Struct
from msgspec.msgpack import Decoder, Encoder

from cairn.core.entry import SALT_BYTES
from cairn.core.errors import CairnError
from cairn.core.genesis import Limits
from cairn.net.limits import (
    ANSWER_BYTES,
    MAX_ADDRESSES,
    MAX_HEADERS,
    MAX_IDS,
    MAX_LOCATOR,
    MAX_REASON,
    MAX_URL,
    OVERHEAD_BYTES,
)

HASH: Final = 32
HEADER: Final = 104
LENGTH: Final = 4
"""Bytes that say how long an entry is."""
MAX_RULE: Final = 32
LEAST_ENTRY: Final = SALT_BYTES + 1
"""Bytes of an entry: no JSON text is empty."""


class Refusal(CairnError):  # noqa: N818 - it refuses, and is no error of ours
    """A peer broke a rule, or will not have us: `rule` names it in logs, metrics and messages.

    `detail` is one line of printable ASCII, whatever was put in: it may quote the peer.
    """

    def __init__(self, rule: str, detail: str) -> None:
        self.rule = rule
        self.detail = "".join(c if " " <= c <= "~" else "?" for c in detail[:MAX_REASON])
        super().__init__(rule, self.detail)

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


Hash: TypeAlias = Annotated[bytes, Meta(min_length=HASH, max_length=HASH)]
Number: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Ids: TypeAlias = Annotated[bytes, Meta(min_length=HASH, max_length=HASH * MAX_IDS)]
"""Entry ids, 32 bytes each, end to end."""
Url: TypeAlias = Annotated[str, Meta(max_length=MAX_URL, pattern=r"^[!-~]*\Z")]
"""Characters that are safe to show; whether it can be dialled, the address book says."""


class _Message(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """An array of its tag and its fields; no more fields, no fewer."""


class Hello(_Message, frozen=True, tag=1):
    """The first message of either side: who it claims to be."""

    version: Number
    genesis: Hash
    key: Hash
    """Ed25519 public key of the node."""
    nonce: Hash
    """Random, and never used before."""
    address: Url
    """Where the node can be dialled; empty for nowhere."""


class Proof(_Message, frozen=True, tag=2):
    """The second message of either side: that the key it claimed is its own."""

    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Head(_Message, frozen=True, tag=3):
    """The end of my chain: sent when the handshake is done, and whenever it moves."""

    header: Annotated[bytes, Meta(min_length=HEADER, max_length=HEADER)]
    work: Hash
    """Chain work up to it, as an integer of 32 bytes: a claim, until its headers are there."""


class GetHeaders(_Message, frozen=True, tag=4):
    """Ask for the headers after the first of these hashes that is on the other's chain."""

    number: Number
    """Comes back in the answer, so that answers find their requests."""
    locator: Annotated[list[Hash], Meta(min_length=1, max_length=MAX_LOCATOR)]
    """From the end of my chain down to genesis, ever further apart."""


class Headers(_Message, frozen=True, tag=5):
    """The answer to `GetHeaders`: none where there are no more."""

    number: Number
    headers: Annotated[bytes, Meta(max_length=HEADER * MAX_HEADERS)]
    """104 bytes each, end to end, each following the one before."""

    def __post_init__(self) -> None:
        _require_multiple("headers", self.headers, HEADER)


class GetBodies(_Message, frozen=True, tag=6):
    """Ask for the entries of some blocks of one chain."""

    number: Number
    first: Number
    """Index of the first block."""
    count: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    last_hash: Hash
    """Of the block at `first + count - 1`: which chain is meant."""


class Bodies(_Message, frozen=True, tag=7):
    """An answer to `GetBodies`: the entries of as many of the blocks as fit, and at least of one.

    How many blocks these are, follows from the headers. Blocks without entries after the last one
    that has some are among them.
    """

    number: Number
    lengths: bytes
    """Of each entry, salt included, as 4 bytes."""
    data: bytes
    """The entries end to end."""

    def __post_init__(self) -> None:
        lengths = np.frombuffer(self.lengths, ">u4")  # ValueError, unless they are whole
        total = int(lengths.sum(dtype=np.uint64))
        if total != len(self.data):
            raise ValueError(f"lengths add up to {total}, the data has {len(self.data)} bytes")


class Missing(_Message, frozen=True, tag=8):
    """The other answer to `GetBodies`: I have no chain with that block."""

    number: Number


class Have(_Message, frozen=True, tag=9):
    """Entries that wait with me to be mined."""

    ids: Ids

    def __post_init__(self) -> None:
        _require_multiple("ids", self.ids, HASH)


class Want(_Message, frozen=True, tag=10):
    """Ask for entries."""

    ids: Ids

    def __post_init__(self) -> None:
        _require_multiple("ids", self.ids, HASH)


class Entries(_Message, frozen=True, tag=11):
    """The answer to `Want`: those that are still there and fit, in the order that was asked."""

    entries: Annotated[
        list[Annotated[bytes, Meta(min_length=LEAST_ENTRY)]], Meta(max_length=MAX_IDS)
    ]


class GetAddresses(_Message, frozen=True, tag=12):
    """Ask for addresses of other peers."""


class Addresses(_Message, frozen=True, tag=13):
    """The answer to `GetAddresses`."""

    urls: Annotated[list[Url], Meta(max_length=MAX_ADDRESSES)]


class Ping(_Message, frozen=True, tag=14):
    """Ask whether anybody is there."""

    number: Number


class Pong(_Message, frozen=True, tag=15):
    """The answer to `Ping`, with its number."""

    number: Number


class Refused(_Message, frozen=True, tag=16):
    """The last message before hanging up: why. From another node, so a hint and no more."""

    rule: Annotated[str, Meta(max_length=MAX_RULE, pattern=r"^[a-z][a-z_-]*\Z")]
    detail: Annotated[str, Meta(max_length=MAX_REASON, pattern=r"^[ -~]*\Z")]


Message: TypeAlias = (
    Hello
    | Proof
    | Head
    | GetHeaders
    | Headers
    | GetBodies
    | Bodies
    | Missing
    | Have
    | Want
    | Entries
    | GetAddresses
    | Addresses
    | Ping
    | Pong
    | Refused
)

_encoder: Final = Encoder()
_decoder: Final[Decoder[Message]] = Decoder(Message)


def encode(message: Message) -> bytes:
    """Return the frame that says `message`, whose fields the caller has kept within bounds."""
    return _encoder.encode(message)


def decode(frame: bytes) -> Message:
    """Read a frame from a peer.

    Raises:
        Refusal: by rule `garbage`: it is not exactly one message with every field within bounds.
    """
    try:
        return _decoder.decode(frame)
    except (ValueError, RecursionError) as error:  # text that is not UTF-8 is a ValueError as well
        raise Refusal("garbage", str(error)) from None


def split(joined: bytes, width: int) -> list[bytes]:
    """Return the pieces of `width` bytes of ids or headers that came end to end."""
    return [joined[at : at + width] for at in range(0, len(joined), width)]


def frame_limit(limits: Limits) -> int:
    """Return how many bytes the largest frame of a peer has on a ledger with these `limits`.

    That is `Bodies`: either of one block as large as can be, or of several with `ANSWER_BYTES` of
    data. As no entry has fewer than 17 bytes, that bounds how many lengths come with them.
    """
    return OVERHEAD_BYTES + max(_body(limits.size, limits.count), _body(ANSWER_BYTES, ANSWER_BYTES))


def _body(size: int, count: int) -> int:
    return size + LENGTH * min(count, size // LEAST_ENTRY)


def _require_multiple(name: str, data: bytes, width: int) -> None:
    if len(data) % width:
        raise ValueError(f"{name} come in {width} bytes each, found {len(data)} bytes")
