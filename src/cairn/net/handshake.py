"""The handshake: both sides say who they are, and prove that their key is theirs.

Each sends `Hello` and, when it has the other's, `Proof`: a signature over both keys and nonces, the
network and which side it is. So a proof is of no use in another link, to the other side, or in
another network.

Not protected: what follows on the link is not signed, and one who sits between two nodes can pass
on their handshake and then speak for both. On `wss` links TLS keeps him out, on `ws` links nothing
does; what he sends is judged like what any peer sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cairn.net.limits import PROTOCOL_VERSION
from cairn.net.messages import Hello, Message, Proof, Refusal

PURPOSE: Final = b"cairn/peer/1"
"""No signature that is made for anything else begins like this."""
DIALLER: Final = b"\0"
LISTENER: Final = b"\1"
_P: Final = 2**255 - 19
_ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_NOBODYS_KEYS: Final = frozenset({0, 1, _ORDER_8, _P - _ORDER_8, _P - 1, _P, _P + 1})
"""Ed25519 points of small order, by their y-coordinate: with one of them as a key, signatures pass
that were made without any private key."""


class Identity(Protocol):
    """A node's key, and how to check those of others."""

    @property
    def key(self) -> bytes:
        """The public key, 32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return a signature of 64 bytes."""
        ...

    def verify(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """Whether `signature` of `message` was made with the private half of `key`."""
        ...


class KeyIdentity:
    """An `Identity` by an Ed25519 key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key: Final = private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """See `Identity.sign`."""
        return self._private.sign(message)

    def verify(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """See `Identity.verify`."""
        if int.from_bytes(key, "little") % 2**255 in _NOBODYS_KEYS:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        except (InvalidSignature, ValueError):  # the second where the key is no point of the curve
            return False
        return True


class Handshake:
    """Our side of one link's handshake: send `hello`, then what `take` returns, until `ready`.

    Whoever has the link keeps the deadline.
    """

    def __init__(
        self,
        identity: Identity,
        genesis: bytes,
        *,
        dialled: bool,
        nonce: bytes,
        address: str,
        allowed: Callable[[bytes], bool],
    ) -> None:
        """`dialled`: whether we have opened the link. `nonce`: 32 random bytes for this link alone.

        `address` is where we can be dialled, or empty. `allowed` says whether a key may join.
        """
        self._identity: Final = identity
        self._role: Final = DIALLER if dialled else LISTENER
        self._allowed: Final = allowed
        self._ours: Final = Hello(PROTOCOL_VERSION, genesis, identity.key, nonce, address)
        self._theirs: Hello | None = None
        self.ready = False
        """Whether the peer has proven its key."""

    def hello(self) -> Hello:
        """Return what to send first."""
        return self._ours

    @property
    def peer_key(self) -> bytes | None:
        """The peer's public key, or None until it is proven: anyone can claim a key."""
        return self._theirs.key if self._theirs and self.ready else None

    @property
    def peer_address(self) -> str:
        """Where the peer says that it can be dialled: any text, also when its key is proven."""
        return self._theirs.address if self._theirs and self.ready else ""

    def take(self, message: Message) -> list[Message]:
        """Return what to answer to `message`, which the peer has sent.

        Raises:
            Refusal: by rule `version`, `genesis`, `self`, `not-allowed`, `signature` or `order`.
        """
        match message:
            case Hello() if self._theirs is None:
                self._require_acceptable(message)
                self._theirs = message
                return [Proof(self._identity.sign(self._signed(self._ours, message, self._role)))]
            case Proof() if self._theirs is not None and not self.ready:
                self._require_proven(self._theirs, message)
                self.ready = True
                return []
        raise Refusal("order", f"{type(message).__name__} is not what comes next in the handshake")

    def _require_acceptable(self, hello: Hello) -> None:
        ours = self._ours
        if hello.version != ours.version:
            raise Refusal("version", f"we speak {ours.version}, the other {hello.version}")
        if hello.genesis != ours.genesis:
            raise Refusal("genesis", f"ours is {ours.genesis.hex()}, theirs {hello.genesis.hex()}")
        if hello.key == ours.key:
            raise Refusal("self", "this is our own key")
        if not self._allowed(hello.key):
            raise Refusal("not-allowed", f"the key {hello.key.hex()} is not on our list")

    def _require_proven(self, theirs: Hello, proof: Proof) -> None:
        role = LISTENER if self._role == DIALLER else DIALLER
        signed = self._signed(theirs, self._ours, role)
        if not self._identity.verify(theirs.key, proof.signature, signed):
            raise Refusal("signature", f"not by {theirs.key.hex()} for this link")

    @staticmethod
    def _signed(signer: Hello, other: Hello, role: bytes) -> bytes:
        keys, nonces = signer.key + other.key, signer.nonce + other.nonce
        return PURPOSE + signer.genesis + role + keys + nonces
