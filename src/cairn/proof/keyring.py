"""The user's keys: private ones to sign with, and public ones that are trusted.

They lie in the user's configuration folder, away from any ledger: a signature means nothing against
whoever holds the disk if the key lies on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from cairn.core.errors import ProofError, StoreError, UsageError
from cairn.proof.memory import Memory, private_folder, sync_folder
from cairn.proof.note import Algorithm, SigningKey, VerifierKey, require_name

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OTHERS: Final = 0o077
"""The bits of a file's mode that let others than its owner in."""


def home(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the configuration folder: $CAIRN_HOME, or `cairn` where such folders lie.

    Raises:
        UsageError: none is given, and the user has no home.
    """
    if given := environment.get("CAIRN_HOME"):
        return Path(given)
    try:
        return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "cairn"
    except RuntimeError as error:
        raise UsageError("there is no home folder for keys: set CAIRN_HOME") from error


class Keyring:
    """Keys and memories of one user, in `folder` (by default `home()`)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = home() if folder is None else folder
        self._keys = self.folder / "keys"
        self._trusted = self.folder / "trusted-keys"
        self.signed = Memory(self.folder / "signed.sqlite")
        """What was signed here: nothing that contradicts it will be."""
        self.seen = Memory(self.folder / "seen.sqlite")
        """What nodes have shown, and was found consistent."""
        self.nodes = Memory(self.folder / "nodes.sqlite")
        """Which ledger was where, and the first key seen of each."""
        self.evidence = self.folder / "evidence"
        """Where contradictions are written down."""

    def signing_key(self, name: str, algorithm: Algorithm = Algorithm.ED25519) -> SigningKey:
        """Return the private key of this name; made, and trusted, on first use.

        Raises:
            StoreError: it cannot be read or made.
            UsageError: others can read it, it is no such key, or no key can have that name.
        """
        try:
            require_name(name)
        except ProofError as error:
            raise UsageError(str(error)) from None
        path = self.path_of(name)
        if not os.path.lexists(path):
            new_key(path)
        key = load_key(path, name, algorithm)
        self.trust(key.verifier)
        return key

    def node_key(self, ledger_id: str, directory: Path) -> Ed25519PrivateKey:
        """Return the key by which a node of this ledger is known to its peers; made on first use.

        It is the node's own: another of the same user, in another directory, has another.

        Raises:
            StoreError, UsageError: as for `signing_key`.
        """
        place = sha256(str(directory.resolve()).encode(errors="surrogateescape")).hexdigest()
        name = f"peer/{ledger_id[:16]}/{place[:16]}"
        path = self.path_of(name)
        if not os.path.lexists(path):
            new_key(path)
        return load_private(path)

    def next_key(self, name: str) -> SigningKey:
        """Return the key that is to take the place of the one of this name; made on first use.

        Raises:
            StoreError, UsageError: as for `signing_key`.
        """
        path = self._next_path(name)
        if not os.path.lexists(path):
            new_key(path)
        return load_key(path, name, Algorithm.ED25519)

    def adopt_next(self, name: str) -> None:
        """Let the next key of this name take the place of the one there is, which is gone then.

        Both stay trusted: what the old one has signed is still true.

        Raises:
            StoreError: it cannot be done; the next key is still there.
        """
        self.trust(self.next_key(name).verifier)
        try:
            self._next_path(name).replace(self.path_of(name))
            sync_folder(self._keys)
        except OSError as error:
            raise StoreError(f"the key cannot be replaced: {error}") from error

    def _next_path(self, name: str) -> Path:
        return self.path_of(name).with_suffix(".next.pem")

    def path_of(self, name: str) -> Path:
        """Return where the private key of this name lies."""
        return self._keys / f"{quote(name, safe='')}.pem"

    def trust(self, key: VerifierKey) -> None:
        """Record that `key` is trusted for what bears its name, if it is not yet.

        Raises:
            StoreError: it cannot be recorded.
        """
        before = self._text()
        if str(key) in self._lines():
            return
        line = f"{key}\n" if before.endswith("\n") or not before else f"\n{key}\n"
        private_folder(self.folder)
        try:
            with open(self._trusted, "a", encoding="utf-8", opener=_open_private) as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"the key cannot be recorded: {error}") from error

    def trusted(self, name: str | None = None) -> list[VerifierKey]:
        """Return the trusted keys, of this name if one is given, oldest first.

        Raises:
            StoreError: they cannot be read.
            UsageError: a line is no key.
        """
        try:
            keys = [VerifierKey.parse(line) for line in dict.fromkeys(self._lines())]
        except ProofError as error:
            raise UsageError(f"{self._trusted}: {error}") from error
        return [key for key in keys if name in (None, key.name)]

    def keys_of(self, origin: str) -> list[VerifierKey]:
        """Return the keys that are believed about a ledger: the recorded ones; else the first seen.

        Raises:
            StoreError: what is recorded or remembered cannot be read.
            UsageError: a recorded line is no key.
        """
        if recorded := [key for key in self.trusted(origin) if not key.is_witness]:
            return recorded
        first = self.nodes.last(origin)
        try:
            return [VerifierKey.parse(first)] if first else []
        except ProofError as error:
            raise StoreError(f"what is remembered of {origin} was damaged: {error}") from error

    def _lines(self) -> list[str]:
        lines = map(str.strip, self._text().split("\n"))
        return [line for line in lines if line and not line.startswith("#")]

    def _text(self) -> str:
        try:
            return self._trusted.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"the trusted keys cannot be read: {error}") from error


def new_key(path: Path) -> None:
    """Make an Ed25519 key (PKCS #8, PEM) in the new file `path`, whole or not at all.

    Where another process was faster, its key stays.

    Raises:
        StoreError: it cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    temporary = path.with_name(f".{token_hex(8)}.new")
    private_folder(path.parent)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                path.hardlink_to(temporary)
        finally:
            temporary.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"the key {path} cannot be made: {error}") from error


def load_key(path: Path, name: str, algorithm: Algorithm) -> SigningKey:
    """Read the private key in the file `path`, to sign as `name`.

    Raises:
        StoreError, UsageError: as for `load_private`.
    """
    return SigningKey(name, algorithm, load_private(path))


def load_private(path: Path) -> Ed25519PrivateKey:
    """Read the private key in the file `path`.

    Raises:
        StoreError: it cannot be read.
        UsageError: others can read it, or it is no Ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if path.stat().st_mode & OTHERS:
            raise UsageError(f"others can read the private key: chmod 600 {path}")
        private = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise StoreError(f"the key cannot be read: {error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a private key: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise UsageError(f"{path} is not an Ed25519 key")
    return private


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
