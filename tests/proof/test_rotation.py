"""Changes of a ledger's key: what is recorded, and who may follow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn import Ledger, ProofError
from cairn.core.canonical import canonical
from cairn.core.errors import StoreError
from cairn.core.header import Kind
from cairn.proof.checkpoint import Checkpoint, Policy
from cairn.proof.keyring import Keyring, load_key, new_key
from cairn.proof.note import Algorithm, Note, SigningKey, UnknownSignerError
from cairn.proof.rotation import KeyChange

NAME = "cairn/" + "ab" * 32
OTHER = "cairn/" + "cd" * 32


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "home")


@pytest.fixture
def ledger(tmp_path: Path, keyring: Keyring) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger", keyring=keyring) as ledger:
        yield ledger


def key(path: Path, name: str = NAME, algorithm: Algorithm = Algorithm.ED25519) -> SigningKey:
    new_key(path)
    return load_key(path, name, algorithm)


def test_a_new_key_signs_and_the_old_one_is_gone(ledger: Ledger, keyring: Keyring) -> None:
    ledger.append("before")
    receipt = ledger.receipt(1)
    [old] = keyring.trusted()
    record = ledger.rotate_key()
    [_, new] = keyring.trusted()
    assert record.header.kind == Kind.RECORD
    assert keyring.signing_key(ledger.notary.origin).verifier == new
    assert list(ledger.checkpoint().log_keys) == [new]
    assert receipt.check(Policy((old,))).header.index == 1
    assert [path.name for path in (keyring.folder / "keys").iterdir()] == [
        keyring.path_of(ledger.notary.origin).name
    ]
    assert ledger.validate().valid


def test_who_trusts_the_old_key_can_follow_through_many(ledger: Ledger, keyring: Keyring) -> None:
    ledger.checkpoint()
    [trusted] = keyring.trusted()
    known = [trusted]
    for _ in range(3):
        record = ledger.rotate_key()
        change = KeyChange.of(record.data_json())
        assert change is not None
        known.append(change.check(ledger.notary.origin, known))
        ledger.checkpoint()
    assert known == keyring.trusted()


def test_what_is_cut_short_is_done_again(
    ledger: Ledger, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ledger.checkpoint().log_keys

    def fail(_self: Keyring, _name: str) -> None:
        raise StoreError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Keyring, "adopt_next", fail)
        with pytest.raises(StoreError):
            ledger.rotate_key()
    assert ledger.checkpoint().log_keys == old
    named = keyring.next_key(ledger.notary.origin).verifier
    record = ledger.rotate_key()
    change = KeyChange.of(record.data_json())
    assert change is not None
    assert change.check(ledger.notary.origin, old) == named
    assert ledger.checkpoint().log_keys == (named,)


def test_a_change_by_another_key_is_not_followed(tmp_path: Path) -> None:
    old, new, thief = (key(tmp_path / name) for name in ("old", "new", "thief"))
    change = KeyChange.sign(thief, new.verifier)
    with pytest.raises(UnknownSignerError):
        change.check(NAME, [old.verifier])
    forged = KeyChange(Note(KeyChange.sign(old, new.verifier).note.text, change.note.signatures))
    with pytest.raises(UnknownSignerError):
        forged.check(NAME, [old.verifier])


def test_a_change_in_another_ledger_is_not_followed(tmp_path: Path) -> None:
    old, new = key(tmp_path / "old", OTHER), key(tmp_path / "new", OTHER)
    with pytest.raises(UnknownSignerError):
        KeyChange.sign(old, new.verifier).check(NAME, [old.verifier])


@pytest.mark.parametrize("name", ["another name", "a witness"])
def test_a_change_to_what_is_no_key_of_the_ledger_is_not_followed(
    tmp_path: Path, name: str
) -> None:
    old = key(tmp_path / "old")
    new = (
        key(tmp_path / "new", OTHER)
        if name == "another name"
        else key(tmp_path / "new", NAME, Algorithm.COSIGNATURE)
    )
    with pytest.raises(ProofError, match="is no key of"):
        KeyChange.sign(old, new.verifier).check(NAME, [old.verifier])


def test_a_checkpoint_is_no_key_change_and_a_key_change_no_checkpoint(tmp_path: Path) -> None:
    old, new = key(tmp_path / "old"), key(tmp_path / "new")
    text = Checkpoint(NAME, 5, bytes(32)).text
    with pytest.raises(ProofError, match="not a change"):
        KeyChange(Note(text, (old.sign(text),))).check(NAME, [old.verifier])
    with pytest.raises(ProofError, match="size of a checkpoint"):
        Policy((old.verifier,)).open(KeyChange.sign(old, new.verifier).note)


def test_what_is_read_is_what_was_recorded_and_nothing_else(tmp_path: Path) -> None:
    change = KeyChange.sign(key(tmp_path / "old"), key(tmp_path / "new").verifier)
    value = change.to_value()
    assert KeyChange.of(canonical(value)) == change
    for wrong in (
        {**value, "more": 1},
        {**value, "note": 5},
        {**value, "note": "no note"},
        {**value, "record": "erasure"},
        {"record": "key"},
        [value],
    ):
        assert KeyChange.of(canonical(wrong)) is None
    assert KeyChange.of(b'{"note":"\xff","record":"key"}') is None
