"""Signed notes: text, and signatures by one or more keys.

Source: C2SP signed-note and, for cosignatures, tlog-cosignature. Keys are Ed25519.
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from cairn.core.errors import ProofError
from cairn.core.header import LIMIT_63

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_NOTE: Final = 2**18
"""Bytes of a note, at most: one or two dozen signatures of any kind in use."""
MAX_SIGNATURES: Final = 100
ID_BYTES: Final = 4
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_TIME: Final = struct.Struct(">Q")


class Algorithm(IntEnum):
    """What a key signs, by the identifier byte of C2SP signed-note."""

    ED25519 = 0x01
    """The text."""
    COSIGNATURE = 0x04
    """A time and the text of a checkpoint: that a witness has found it consistent."""


class UnknownSignerError(ProofError):
    """None of the signatures is by a key that is trusted; `signers` names those there are."""

    def __init__(self, signers: Sequence[str]) -> None:
        super().__init__(signers)
        self.signers = tuple(signers)

    def __str__(self) -> str:
        return f"no trusted key has signed it; it is signed by {', '.join(self.signers) or 'none'}"


class Signature(NamedTuple):
    """One signature line."""

    name: str
    """Of the key."""
    key_id: bytes
    """4 bytes."""
    data: bytes
    """The signature itself; of a cosignature, 8 bytes of time before it."""

    def __str__(self) -> str:
        return f"— {self.name} {b64encode(self.key_id + self.data).decode()}\n"

    @property
    def label(self) -> str:
        """Name and id of the key, as at the beginning of its verifier key."""
        return f"{self.name}+{self.key_id.hex()}"


@dataclass(frozen=True)
class VerifierKey:
    """A public key with its name: `<name>+<id, 8 hex digits>+<base64>`, called vkey for short."""

    name: str
    algorithm: Algorithm
    public: bytes
    """32 bytes."""

    def __post_init__(self) -> None:
        require_name(self.name)
        if len(self.public) != PUBLIC_BYTES:
            raise ProofError(f"a public key has {PUBLIC_BYTES} bytes, found {len(self.public)}")

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a vkey.

        Raises:
            ProofError: it is none, its id is not its own, or it is of an algorithm not known here.
        """
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        material = unbase64(encoded)
        if not material or material[0] not in set(map(int, Algorithm)):
            raise ProofError(f"not an Ed25519 verifier key: {text!r:.200}")
        key = cls(name, Algorithm(material[0]), material[1:])
        if key_id != key.id.hex():
            raise ProofError(f"the verifier key {text!r:.200} has id {key.id.hex()}, not {key_id}")
        return key

    @cached_property
    def id(self) -> bytes:
        """The 4 bytes that name the key in its signatures."""
        return sha256(self.name.encode() + b"\n" + self._material).digest()[:ID_BYTES]

    @property
    def _material(self) -> bytes:
        return bytes([self.algorithm]) + self.public

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64encode(self._material).decode()}"

    @property
    def is_witness(self) -> bool:
        """Whether it is a witness's, and not a ledger's own."""
        return self.algorithm == Algorithm.COSIGNATURE

    def has_made(self, signature: Signature) -> bool:
        """Whether name and id say so; whether it is true, `check` says."""
        return (signature.name, signature.key_id) == (self.name, self.id)

    def check(self, signature: Signature, text: str) -> int:
        """Check that this key has signed `text`.

        Returns the time of a cosignature, in seconds since the Unix epoch, else 0.

        Raises:
            ProofError: it has not.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        signed, data, time = text.encode(), signature.data, 0
        if self.algorithm == Algorithm.COSIGNATURE:
            if len(data) != _TIME.size + SIGNATURE_BYTES:
                raise ProofError(f"the cosignature by {self.name} has {len(data)} bytes")
            (time,) = _TIME.unpack_from(data)
            if time >= LIMIT_63:
                raise ProofError(f"the time of a cosignature is below 2^63, found {time}")
            signed, data = _cosigned(text, time), data[_TIME.size :]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(data, signed)
        except (InvalidSignature, ValueError):
            raise ProofError(f"the signature by {signature.label} is not of this text") from None
        return time


class SigningKey:
    """A private key with its name."""

    def __init__(self, name: str, algorithm: Algorithm, private: Ed25519PrivateKey) -> None:
        self._private = private
        public = private.public_key().public_bytes_raw()
        self.verifier: Final = VerifierKey(name, algorithm, public)

    def sign(self, text: str, *, time: int = 0) -> Signature:
        """Return the signature of `text`; of a witness's key, a cosignature at `time`.

        `time` is in seconds since the Unix epoch.
        """
        key, prefix, signed = self.verifier, b"", text.encode()
        if key.algorithm == Algorithm.COSIGNATURE:
            prefix, signed = _TIME.pack(time), _cosigned(text, time)
        return Signature(key.name, key.id, prefix + self._private.sign(signed))


@dataclass(frozen=True)
class Note:
    """Text and signatures, valid or not."""

    text: str
    """With its final newline."""
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes | str) -> Note:
        """Read a signed note.

        Raises:
            ProofError: it is not exactly one.
        """
        whole = decoded("a note", data, MAX_NOTE)
        if any(character < " " and character != "\n" for character in whole):
            raise ProofError("a note has no control characters but newlines")
        text, separator, lines = whole.rpartition("\n\n")
        if not separator or not lines.endswith("\n"):
            raise ProofError(
                "a note is text, an empty line and signatures, each ended by a newline"
            )
        return cls(text + "\n", parse_signatures(lines))

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"

    def verified(self, keys: Iterable[VerifierKey]) -> dict[VerifierKey, int]:
        """Return which of `keys` have signed, with the time of each cosignature (else 0).

        Signatures by others are passed over.

        Raises:
            ProofError: one that claims to be by one of `keys` is not.
        """
        found: dict[VerifierKey, int] = {}
        for key in keys:
            for signature in self.signatures:
                if key.has_made(signature):
                    found[key] = max(key.check(signature, self.text), found.get(key, 0))
        return found

    def signers(self) -> list[str]:
        """Return name and id of every key that claims to have signed."""
        return [signature.label for signature in self.signatures]


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Read signature lines (at least one), each ended by a newline.

    Raises:
        ProofError: they are not exactly that.
    """
    found = []
    for line in lines.removesuffix("\n").split("\n"):
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        material = unbase64(encoded)
        if dash != "—" or material is None or len(material) <= ID_BYTES:
            raise ProofError(f"not a signature line: {line!r:.200}")
        require_name(name)
        found.append(Signature(name, material[:ID_BYTES], material[ID_BYTES:]))
    if len(found) > MAX_SIGNATURES:
        raise ProofError(f"{len(found)} signatures are past the limit, {MAX_SIGNATURES}")
    return tuple(found)


def decoded(what: str, data: bytes | str, most: int) -> str:
    """Return the text of what somebody else has made, of at most so many bytes.

    Raises:
        ProofError: it is longer, or not UTF-8.
    """
    raw = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    if len(raw) > most:
        raise ProofError(f"{what} of {len(raw)} bytes is past the limit, {most}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ProofError(f"{what} is UTF-8: {error}") from None


def unbase64(text: str) -> bytes | None:
    """Return what `text` is the standard base64 of, or None: only its one exact form counts."""
    try:
        data = b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        return None
    return data if b64encode(data).decode() == text else None


def require_name(name: str) -> None:
    """Refuse a name that no key can have.

    Raises:
        ProofError: it is empty, no text, or has spaces or a plus in it.
    """
    if not name or any(
        c == "+" or c.isspace() or c < " " or "\ud800" <= c <= "\udfff" for c in name
    ):
        raise ProofError(f"the name of a key has no spaces and no plus, found {name!r:.200}")


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()
