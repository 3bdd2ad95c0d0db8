"""Keys: who may read them, that there is one, files that are none, and that they stay private."""

from __future__ import annotations

import os
import random
import signal
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cairn.core.errors import StoreError, UsageError
from cairn.proof.keyring import Keyring, home, load_key, new_key
from cairn.proof.note import Algorithm, Note, SigningKey, VerifierKey
from tests.page.reference import LOG, WITNESS, Key
from tests.proof.processes import at_once, ended_well, folder_of_nobody, started

NAME = "cairn/" + "ab" * 32
OTHER = VerifierKey.parse(Key("other.example", WITNESS).vkey)
PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()
OF_NO_ALGORITHM = b"""-----BEGIN PRIVATE KEY-----
MA0CAQAwBgYEKgMEBQQA
-----END PRIVATE KEY-----
"""


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "not" / "there" / "cairn")


@pytest.fixture
def nobodys() -> Iterator[Path]:
    with folder_of_nobody() as folder:
        yield folder


def key_file(keyring: Keyring, content: bytes, mode: int = 0o600) -> Path:
    path = keyring.path_of(NAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# Making and finding them


def test_key_is_made_once_trusted_and_signs(keyring: Keyring) -> None:
    assert keyring.trusted() == []
    assert not keyring.folder.parents[1].exists()
    key = keyring.signing_key(NAME)
    again = Keyring(keyring.folder).signing_key(NAME)
    assert key.verifier == again.verifier
    assert keyring.trusted() == keyring.trusted(NAME) == [key.verifier]
    assert Note("text\n", (again.sign("text\n"),)).verified(keyring.trusted()) == {key.verifier: 0}
    stored = serialization.load_pem_private_key(keyring.path_of(NAME).read_bytes(), None)
    assert isinstance(stored, Ed25519PrivateKey)
    assert stored.public_key().public_bytes_raw() == key.verifier.public


def test_witness_key_cosigns(keyring: Keyring) -> None:
    key = keyring.signing_key("witness.example", Algorithm.COSIGNATURE)
    assert key.verifier.algorithm == Algorithm.COSIGNATURE
    assert keyring.trusted("witness.example") == [key.verifier]


def test_new_key_leaves_the_one_that_is_there(keyring: Keyring) -> None:
    key = keyring.signing_key(NAME)
    new_key(keyring.path_of(NAME))
    assert keyring.signing_key(NAME).verifier == key.verifier
    assert len(list(keyring.path_of(NAME).parent.iterdir())) == 1


def test_private_things_are_for_the_user_alone_whatever_the_umask(keyring: Keyring) -> None:
    before = os.umask(0)
    try:
        keyring.signing_key(NAME)
    finally:
        os.umask(before)
    path = keyring.path_of(NAME)
    assert mode(path) == mode(keyring.folder / "trusted-keys") == 0o600
    for folder in (path.parent, keyring.folder, *keyring.folder.parents[:2]):
        assert mode(folder) == 0o700


@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_key_that_others_get_at_is_refused(keyring: Keyring, bit: int) -> None:
    keyring.signing_key(NAME)
    path = keyring.path_of(NAME)
    path.chmod(0o600 | bit)
    with pytest.raises(UsageError, match=f"others can read the private key: chmod 600 {path}"):
        keyring.signing_key(NAME)
    path.chmod(0o400)
    keyring.signing_key(NAME)


def test_many_that_make_the_first_key_at_once_get_the_same(tmp_path: Path) -> None:
    for number in range(4):
        keyring, seen = Keyring(tmp_path / str(number) / "cairn"), tmp_path / f"seen{number}"

        def make(keyring: Keyring = keyring, seen: Path = seen) -> None:
            with seen.open("a") as file:
                file.write(f"{keyring.signing_key(NAME).verifier}\n")

        at_once(4, 4, make)
        keys = seen.read_text().splitlines()
        assert len(keys) == 16
        assert set(keys) == {str(keyring.signing_key(NAME).verifier)}
        assert list(map(str, keyring.trusted())) == keys[:1]
        assert list(keyring.path_of(NAME).parent.iterdir()) == [keyring.path_of(NAME)]


def test_key_is_whole_or_not_there_after_sigkill(tmp_path: Path) -> None:
    chance = random.Random(3)
    for number in range(12):
        keyring = Keyring(tmp_path / str(number))
        child = started(lambda keyring=keyring: keyring.signing_key(NAME))  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        ended_well(child)
        assert keyring.signing_key(NAME).verifier in keyring.trusted()


@pytest.mark.parametrize(
    "name", ["../../up", "/etc/passwd", ".", "..", "a/b", "a%2Fb", "é", "C:\\x"]
)
def test_any_name_is_one_file_in_the_folder(keyring: Keyring, name: str) -> None:
    key = keyring.signing_key(name)
    assert key.verifier.name == name
    assert list((keyring.folder / "keys").iterdir()) == [keyring.path_of(name)]
    assert keyring.path_of(name).parent == keyring.folder / "keys"


def test_different_names_have_different_files(keyring: Keyring) -> None:
    names = ["a/b", "a%2Fb", "a%2fb", "a_b", ".", "..", "é", "e\u0301"]
    assert len({keyring.path_of(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2003b", "a\u3000", "\n", "a\0b", "\ud800"])
def test_name_that_no_key_can_have_is_refused_and_nothing_made(keyring: Keyring, name: str) -> None:
    with pytest.raises(UsageError, match="the name of a key"):
        keyring.signing_key(name)
    assert not keyring.folder.exists()


def test_name_that_is_too_long_for_a_file_is_refused(keyring: Keyring) -> None:
    with pytest.raises(StoreError, match="cannot be made"):
        keyring.signing_key("x" * 300)


# Where they lie


def test_folder_is_cairn_home_or_in_the_users_configuration(tmp_path: Path) -> None:
    assert home({"CAIRN_HOME": "/a/b", "XDG_CONFIG_HOME": "/c"}) == Path("/a/b")
    assert home({"CAIRN_HOME": "", "XDG_CONFIG_HOME": "/c"}) == Path("/c/cairn")
    assert home({"XDG_CONFIG_HOME": ""}) == home({}) == Path.home() / ".config" / "cairn"


def test_folder_is_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAIRN_HOME", str(tmp_path / "mine"))
    assert home() == Keyring().folder == tmp_path / "mine"
    monkeypatch.delenv("CAIRN_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert home() == Keyring().folder == tmp_path / "cairn"


def test_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UsageError, match="set CAIRN_HOME"):
        home({})


# Files that are something else


def other_keys() -> dict[str, bytes]:
    mine = Ed25519PrivateKey.generate()
    return {
        "rsa": rsa.generate_private_key(65537, 1024).private_bytes(PEM, PKCS8, PLAIN),
        "ec": ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, PLAIN),
        "x25519": x25519.X25519PrivateKey.generate().private_bytes(PEM, PKCS8, PLAIN),
        "ed448": ed448.Ed448PrivateKey.generate().private_bytes(PEM, PKCS8, PLAIN),
        "encrypted": mine.private_bytes(
            PEM, PKCS8, serialization.BestAvailableEncryption(b"secret")
        ),
        "public": mine.public_key().public_bytes(
            PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "openssh": mine.private_bytes(PEM, serialization.PrivateFormat.OpenSSH, PLAIN),
        "der": mine.private_bytes(serialization.Encoding.DER, PKCS8, PLAIN),
        "raw": mine.private_bytes_raw(),
        "unknown": OF_NO_ALGORITHM,
    }


@pytest.mark.parametrize("kind", list(other_keys()))
def test_key_of_another_kind_is_refused(keyring: Keyring, kind: str) -> None:
    path = key_file(keyring, other_keys()[kind])
    with pytest.raises(UsageError, match=f"{path} is not an? (private|Ed25519) key"):
        keyring.signing_key(NAME)
    assert keyring.trusted() == []


@pytest.mark.parametrize("content", [b"", b"\n", b"garbage", b"\xff\xfe" * 50, bytes(4096)])
def test_file_that_is_no_key_is_refused_and_left_alone(keyring: Keyring, content: bytes) -> None:
    path = key_file(keyring, content)
    with pytest.raises(UsageError, match="is not a private key"):
        keyring.signing_key(NAME)
    assert path.read_bytes() == content


def test_what_cannot_be_read_is_refused(keyring: Keyring) -> None:
    keyring.path_of(NAME).mkdir(parents=True, mode=0o700)
    with pytest.raises(StoreError, match="cannot be read"):
        keyring.signing_key(NAME)
    keyring.path_of("dangling").symlink_to("nowhere")
    with pytest.raises(StoreError, match="cannot be read"):
        keyring.signing_key("dangling")
    (keyring.folder / "trusted-keys").mkdir()
    for use in (keyring.trusted, lambda: keyring.trust(OTHER)):
        with pytest.raises(StoreError, match="cannot be read"):
            use()


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for keyring in (Keyring(tmp_path / "file"), Keyring(tmp_path / "file" / "inside")):
        with pytest.raises(StoreError):
            keyring.signing_key(NAME)
        with pytest.raises(StoreError):
            keyring.trust(OTHER)


def test_what_may_not_be_read_is_refused(nobodys: Path) -> None:
    def work() -> None:
        keyring = Keyring(nobodys / "cairn")
        keyring.signing_key(NAME)

        def refused(*uses: Callable[[], object]) -> None:
            for use in uses:
                with pytest.raises(StoreError):
                    use()

        keyring.path_of(NAME).chmod(0)
        refused(lambda: keyring.signing_key(NAME))
        keyring.path_of(NAME).chmod(0o600)
        (keyring.folder / "trusted-keys").chmod(0)
        refused(keyring.trusted, lambda: keyring.signing_key(NAME))
        (keyring.folder / "trusted-keys").chmod(0o400)
        refused(lambda: keyring.trust(OTHER), lambda: keyring.signing_key("another"))
        keyring.path_of(NAME).parent.chmod(0o500)
        refused(lambda: keyring.signing_key("more"))
        keyring.path_of(NAME).parent.chmod(0)
        refused(lambda: keyring.signing_key(NAME))

    assert ended_well(started(work, as_nobody=True))


# Trusted keys


def test_trusted_keys_are_read_with_comments_and_whatever_ends_lines(keyring: Keyring) -> None:
    first, second = (Key(name, LOG).vkey for name in ("a.example", "b.example"))
    keyring.folder.mkdir(parents=True)
    (keyring.folder / "trusted-keys").write_bytes(
        f"# keys\r\n\r\n  {second}\r\n#{first}\n\t# more\n{first}\n{second}\n\n{OTHER}".encode()
    )
    assert list(map(str, keyring.trusted())) == [second, first, str(OTHER)]
    assert list(map(str, keyring.trusted("a.example"))) == [first]
    assert keyring.trusted("a.exampl") == []


def test_key_is_trusted_beside_a_line_that_somebody_left_open(keyring: Keyring) -> None:
    first = Key("a.example", LOG).vkey
    keyring.folder.mkdir(parents=True)
    for before in (first, f"{first}\n", f"# a comment\n{first}", f"{first}\n# a comment"):
        (keyring.folder / "trusted-keys").write_text(before)
        keyring.trust(OTHER)
        assert list(map(str, keyring.trusted())) == [first, str(OTHER)]
        assert (keyring.folder / "trusted-keys").read_text().endswith(f"\n{OTHER}\n")


@pytest.mark.parametrize(
    "line", ["x", "a.example", Key("a", LOG).vkey + " # mine", Key("a", LOG).vkey[:-1], "\u2028"]
)
def test_line_that_is_no_key_is_refused(keyring: Keyring, line: str) -> None:
    keyring.folder.mkdir(parents=True)
    (keyring.folder / "trusted-keys").write_text(f"{OTHER}\n{line}\n", encoding="utf-8")
    if line.strip():
        with pytest.raises(UsageError, match=r"trusted-keys: .*verifier key"):
            keyring.trusted()
    else:
        assert keyring.trusted() == [OTHER]


def test_trusted_keys_that_are_not_text_are_refused(keyring: Keyring) -> None:
    keyring.folder.mkdir(parents=True)
    (keyring.folder / "trusted-keys").write_bytes(b"\xff\n")
    with pytest.raises(StoreError, match="the trusted keys cannot be read"):
        keyring.trusted()


# That they stay private


def secrets(path: Path) -> list[str]:
    """Return the private key in a file in the ways that it could be shown."""
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    raw = key.private_bytes_raw()
    body = path.read_text().splitlines()[1]
    return [raw.hex(), raw.hex(":"), b64encode(raw).decode(), repr(raw)[2:-1], str(list(raw)), body]


def shown(key: SigningKey, keyring: Keyring) -> Iterator[str]:
    for thing in (key, key.verifier, keyring, vars(key), vars(keyring), key.sign("text\n")):
        yield repr(thing)
        yield str(thing)


def test_private_key_is_never_shown(keyring: Keyring) -> None:
    key = keyring.signing_key(NAME)
    path = keyring.path_of(NAME)
    private = secrets(path)
    for text in (*shown(key, keyring), (keyring.folder / "trusted-keys").read_text()):
        assert not any(secret in text for secret in private)


def test_damaged_key_file_is_refused_without_showing_it(keyring: Keyring) -> None:
    keyring.signing_key(NAME)
    path = keyring.path_of(NAME)
    right, private = path.read_bytes(), secrets(path)
    body = private[-1]
    pieces = [body[at : at + 16] for at in range(len(body) - 16)]
    for at in range(len(right)):
        for damaged in (right[:at], right[:at] + bytes([right[at] ^ 4]) + right[at + 1 :]):
            path.write_bytes(damaged)
            said = ""
            try:
                load_key(path, NAME, Algorithm.ED25519)
            except UsageError as error:
                said = f"{error} {error!r} {error.__cause__!r}"
            assert not any(secret in said for secret in [*private, *pieces])
