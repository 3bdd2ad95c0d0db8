"""Checkpoints and policies against C2SP tlog-checkpoint and tlog-cosignature, and attacks."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.core.errors import ProofError
from cairn.core.merkle import EMPTY_ROOT
from cairn.core.proofs import check_consistency
from cairn.proof.checkpoint import Checkpoint, Policy, hinted, ledger_of, origin_of
from cairn.proof.note import Note, UnknownSignerError, VerifierKey
from tests.page.reference import LOG, WITNESS, Key, Ledger, checkpoint, tree
from tests.proof.makers import TIME, WITNESSES, believing, signed

SPEC_NOTE = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501

ORIGIN = "cairn/" + "ab" * 32
LEDGER_KEY = Key(ORIGIN, LOG)
ROOT = sha256(b"a root").digest()
TEXT = checkpoint(ORIGIN, 7, ROOT)
EMPTY = b64encode(sha256().digest()).decode()


def key_of(key: Key) -> VerifierKey:
    return VerifierKey.parse(key.vkey)


# The text


def test_published_checkpoint_is_read() -> None:
    note = Note.parse(SPEC_NOTE)
    found = Checkpoint.parse(note.text)
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20852163)
    assert found.root.hex().startswith("0ac5186a91863e8e")
    assert found.text == note.text
    assert [line.name for line in note.signatures] == [
        "example.com/behind-the-sofa",
        "witness.example.com/w1",
    ]
    assert int.from_bytes(note.signatures[1].data[:8], "big") == 1679315147


@pytest.mark.parametrize("size", [1, 9, 10, 2**53 + 1, 2**63 - 1])
def test_checkpoint_of_any_size_is_read_as_it_was_written(size: int) -> None:
    found = Checkpoint.parse(checkpoint(ORIGIN, size, ROOT))
    assert found == Checkpoint(ORIGIN, size, ROOT)
    assert found.text == checkpoint(ORIGIN, size, ROOT)


@pytest.mark.parametrize(
    "size",
    [
        *("", "00", "01", "007", "+7", "-7", "-0", " 7", "7 ", "7.0", "7e0", "0x7", "1_0", "7\r"),
        *("٧", "７", "7²", "Ⅶ", "seven"),
        *map(str, (2**63, 2**63 + 7, 2**64, 2**64 + 7, 10**19)),
        10_000 * "9",
    ],
)
def test_size_that_is_not_a_plain_number_below_2_63_is_refused(size: str) -> None:
    text = TEXT.replace("\n7\n", f"\n{size}\n")
    with pytest.raises(ProofError):
        Checkpoint.parse(text)
    with pytest.raises(ProofError):
        believing(LEDGER_KEY).open(signed(text, LEDGER_KEY))


@pytest.mark.parametrize(
    "root",
    [
        ROOT.hex(),
        b64encode(ROOT[:31]).decode(),
        b64encode(ROOT + b"\0").decode(),
        b64encode(ROOT).decode().rstrip("="),
        b64encode(bytes(32)).decode().replace("A=", "B="),  # bits after the end
        b64encode(b"\xff" * 32).decode().replace("/", "_"),
        b64encode(ROOT).decode() + " ",
        " " + b64encode(ROOT).decode(),
        b64encode(ROOT).decode() + "====",
        "",
    ],
)
def test_root_that_is_not_a_hash_in_base64_is_refused(root: str) -> None:
    with pytest.raises(ProofError):
        Checkpoint.parse(f"{ORIGIN}\n7\n{root}\n")


def test_empty_tree_has_one_root() -> None:
    assert Checkpoint.parse(f"{ORIGIN}\n0\n{EMPTY}\n").root == EMPTY_ROOT
    with pytest.raises(ProofError, match="empty tree"):
        Checkpoint.parse(checkpoint(ORIGIN, 0, ROOT))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"{ORIGIN}\n7\n",
        TEXT.removesuffix("\n"),
        TEXT + "\n",
        "\n" + TEXT,
        TEXT + "\nextension\n",
        TEXT + "extension",
        TEXT.replace("\n7\n", "\n\n7\n"),
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\u2028"),
    ],
)
def test_what_is_not_three_lines_is_refused(text: str) -> None:
    with pytest.raises(ProofError):
        Checkpoint.parse(text)


def test_extension_lines_are_signed_and_passed_over() -> None:
    text = TEXT + "extension\n— looks like a signature\n7\n"
    opened = believing(LEDGER_KEY, WITNESSES[0], quorum=1).open(
        signed(text, LEDGER_KEY, WITNESSES[0])
    )
    assert opened.checkpoint == Checkpoint(ORIGIN, 7, ROOT)
    for note in (signed(text, LEDGER_KEY), signed(TEXT, LEDGER_KEY)):
        without, added = note.replace("extension\n", ""), note.replace("=\n\n", "=\nmore\n\n", 1)
        for changed in {without, added} - {note}:
            with pytest.raises(ProofError, match="not of this text"):
                believing(LEDGER_KEY).open(changed)


@given(
    st.text() | st.lists(st.sampled_from([ORIGIN, "\n", "7", EMPTY, "0", "\ud800"])).map("".join)
)
def test_any_text_is_a_checkpoint_or_refused(text: str) -> None:
    try:
        found = Checkpoint.parse(text)
    except ProofError:
        return
    assert text.startswith(found.text)


def test_origin_names_the_ledger() -> None:
    ledger = Ledger([1, 1])
    assert origin_of(ledger.origin.removeprefix("cairn/")) == ledger.origin
    assert ledger_of(ledger.origin) == ledger.origin.removeprefix("cairn/")
    for origin in (
        "",
        "cairn/",
        ledger.origin[:-1],
        ledger.origin + "0",
        ledger.origin.upper(),
        ledger.origin + "\n",
        ledger.origin.removeprefix("cairn/"),
        "x" + ledger.origin,
        "example.com/behind-the-sofa",
        "cairn/" + "٠" * 64,
    ):
        with pytest.raises(ProofError, match="is not the origin of a ledger"):
            ledger_of(origin)


# Whom to believe


def test_checkpoint_signed_by_the_ledger_is_opened() -> None:
    for data in (signed(TEXT, LEDGER_KEY), signed(TEXT, LEDGER_KEY).encode()):
        opened = believing(LEDGER_KEY).open(data)
        assert opened.checkpoint == Checkpoint(ORIGIN, 7, ROOT)
        assert opened.log_keys == (key_of(LEDGER_KEY),)
        assert (opened.witnesses, opened.assurance) == ({}, "signed")
        assert believing(LEDGER_KEY).open(opened.note) == opened


def test_forked_checkpoint_of_the_same_size_is_no_older_tree() -> None:
    """Both are rightly signed: only who remembers one of them can tell."""
    key, notes = Ledger([1] * 7).key, []
    for fork in (Ledger([1] * 7), Ledger([1] * 7, lambda index, _: str(index // 6))):
        hashes = [sha256(b"\x00" + header).digest() for header in fork.headers]
        notes.append(signed(checkpoint(key.name, 7, tree(hashes)), key))
    first, second = (believing(key).open(note).checkpoint for note in notes)
    assert first.size == second.size
    with pytest.raises(ProofError, match="the tree of 7 has root"):
        check_consistency([], 7, 7, first.root, second.root)


def test_signature_moved_to_a_forked_checkpoint_is_refused() -> None:
    other = checkpoint(ORIGIN, 7, bytes(32))
    with pytest.raises(ProofError, match="not of this text"):
        believing(LEDGER_KEY).open(f"{other}\n{LEDGER_KEY.line(TEXT)}")


def test_unknown_signer_is_named() -> None:
    stranger = Key(ORIGIN, LOG, b"\x33" * 32)
    for policy in (Policy(), believing(LEDGER_KEY)):
        with pytest.raises(UnknownSignerError) as caught:
            policy.open(signed(TEXT, stranger, WITNESSES[0]))
        assert caught.value.signers == (
            f"{ORIGIN}+{stranger.id.hex()}",
            f"{WITNESSES[0].name}+{WITNESSES[0].id.hex()}",
        )
        assert all(signer in str(caught.value) for signer in caught.value.signers)


def test_checkpoint_of_another_ledger_is_not_signed_by_this_one() -> None:
    other = "cairn/" + "cd" * 32
    with pytest.raises(UnknownSignerError):
        believing(LEDGER_KEY).open(signed(checkpoint(other, 7, ROOT), LEDGER_KEY))


def test_key_whose_name_is_not_the_origin_does_not_sign_for_it() -> None:
    for name in ("cairn", ORIGIN.upper(), ORIGIN + "0", "cairn/" + "cd" * 32):
        key = Key(name, LOG)
        with pytest.raises(UnknownSignerError):
            believing(key).open(signed(TEXT, key))
    key = Key("cairn/" + "cd" * 32, LOG)  # beside the right one, it says nothing
    assert believing(LEDGER_KEY, key).open(signed(TEXT, key, LEDGER_KEY)).log_keys == (
        key_of(LEDGER_KEY),
    )


def test_witness_key_offered_as_a_ledgers_key_is_refused() -> None:
    witness = key_of(Key(ORIGIN, WITNESS))
    with pytest.raises(ProofError, match=f"the key of {ORIGIN} is not of the kind"):
        Policy(keys=(witness,))
    with pytest.raises(UnknownSignerError):  # the ledger's own key, used as a witness's
        believing(LEDGER_KEY).open(signed(TEXT, Key(ORIGIN, WITNESS)))


def test_ledgers_key_offered_as_a_witness_is_refused() -> None:
    with pytest.raises(ProofError, match=f"the key of {ORIGIN} is not of the kind"):
        Policy(witnesses=(key_of(LEDGER_KEY),))
    witness = WITNESSES[0]
    plain = Key(witness.name, LOG, witness.seed)  # the same key, without a time
    with pytest.raises(ProofError, match="0 of 1 trusted witnesses"):
        believing(LEDGER_KEY, witness, quorum=1).open(signed(TEXT, LEDGER_KEY, plain))


@pytest.mark.parametrize("n", range(5))
def test_quorum_is_met_by_exactly_as_many_witnesses(n: int) -> None:
    trusted, strangers = WITNESSES[:n], WITNESSES[n:]
    for quorum in range(n + 1):
        policy = believing(LEDGER_KEY, *trusted, quorum=quorum)
        for count in range(n + 1):
            for some in combinations(trusted, count):
                note = signed(TEXT, *strangers, LEDGER_KEY, *some)
                if count < quorum:
                    message = f"{count} of {n} trusted .* of size 7; {quorum} are asked for"
                    with pytest.raises(ProofError, match=message):
                        policy.open(note)
                    continue
                opened = policy.open(note)
                assert opened.witnesses == {key_of(witness): TIME for witness in some}
                assert opened.assurance == ("witnessed" if some else "signed")


@pytest.mark.parametrize(("n", "quorum"), [(0, 1), (0, -1), (2, 3), (4, -1), (4, 5)])
def test_quorum_that_cannot_be_is_refused(n: int, quorum: int) -> None:
    with pytest.raises(ProofError, match=f"{quorum} of {n} witnesses is no quorum"):
        believing(LEDGER_KEY, *WITNESSES[:n], quorum=quorum)


def test_witness_that_cosigns_twice_counts_once() -> None:
    witness = WITNESSES[0]
    lines = LEDGER_KEY.line(TEXT) + witness.line(TEXT, TIME) + witness.line(TEXT, TIME + 60)
    policy = believing(LEDGER_KEY, *WITNESSES[:2], quorum=2)
    with pytest.raises(ProofError, match="1 of 2 trusted witnesses"):
        policy.open(f"{TEXT}\n{lines}")
    with pytest.raises(ProofError, match="1 of 2 trusted witnesses"):
        policy.open(f"{TEXT}\n{LEDGER_KEY.line(TEXT)}{99 * witness.line(TEXT, TIME)}")


def test_witness_named_twice_in_a_policy_is_refused() -> None:
    witness = WITNESSES[0]
    for twin in (witness, Key("another.name", WITNESS, witness.seed)):
        with pytest.raises(ProofError, match="named twice"):
            believing(LEDGER_KEY, witness, twin)


def test_cosignature_moved_to_another_checkpoint_is_refused_whatever_the_quorum() -> None:
    moved = WITNESSES[0].line(checkpoint(ORIGIN, 6, ROOT), TIME)
    for quorum in (0, 1):
        policy = believing(LEDGER_KEY, *WITNESSES[:2], quorum=quorum)
        note = signed(TEXT, LEDGER_KEY, WITNESSES[1]) + moved
        with pytest.raises(ProofError, match=f"by {WITNESSES[0].name}.* is not of this text"):
            policy.open(note)


def test_witnesses_do_not_stand_in_for_the_ledger() -> None:
    with pytest.raises(UnknownSignerError):
        believing(LEDGER_KEY, *WITNESSES, quorum=4).open(signed(TEXT, *WITNESSES))


def test_one_of_several_keys_of_a_ledger_will_do_and_none_may_fail() -> None:
    new = Key(ORIGIN, LOG, b"\x44" * 32)
    policy = believing(LEDGER_KEY, new)
    assert policy.open(signed(TEXT, new)).log_keys == (key_of(new),)
    assert set(policy.open(signed(TEXT, new, LEDGER_KEY)).log_keys) == set(policy.keys)
    with pytest.raises(ProofError, match="is not of this text"):
        policy.open(signed(TEXT, new) + LEDGER_KEY.line("another\n"))


# Whom a note is said to be signed by


def test_only_keys_that_have_signed_are_named() -> None:
    note = Note.parse(signed(TEXT, LEDGER_KEY, WITNESSES[0]))
    keys = [key_of(k) for k in (WITNESSES[1], LEDGER_KEY, WITNESSES[0], LEDGER_KEY)]
    assert hinted(keys, note) == [key_of(LEDGER_KEY), key_of(WITNESSES[0])]
    collides = VerifierKey(ORIGIN, keys[1].algorithm, key_of(WITNESSES[1]).public)
    vars(collides)["id"] = LEDGER_KEY.id  # as if somebody had found it
    assert hinted([collides], note) == []
