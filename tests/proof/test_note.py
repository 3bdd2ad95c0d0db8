"""Signed notes and verifier keys against C2SP signed-note and tlog-cosignature, and attacks."""

from __future__ import annotations

import copy
import pickle
from base64 import b64decode, b64encode
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from cairn.core.errors import ProofError
from cairn.proof.note import (
    MAX_NOTE,
    Algorithm,
    Note,
    Signature,
    SigningKey,
    UnknownSignerError,
    VerifierKey,
)
from tests.page.reference import LOG, WITNESS, Key
from tests.proof.makers import TIME, WITNESSES, flips, signed

SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""  # noqa: E501
SPEC_POEM = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""  # noqa: E501

LINE = "— a.example AAAAAAA=\n"  # id 00000000 and one byte of signature
ALICE, BOB = Key("alice.example", LOG), Key("bob.example", LOG, b"\x08" * 32)
TEXT = "one line\n\nand another\n"
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of Ed25519."""

WHITE_SPACE = [
    *range(0x09, 0x0E),
    *(0x20, 0x85, 0xA0, 0x1680),
    *range(0x2000, 0x200B),
    *(0x2028, 0x2029, 0x202F, 0x205F, 0x3000),
]
"""The code points that Unicode gives the property White_Space."""


def key_of(key: Key) -> VerifierKey:
    return VerifierKey.parse(key.vkey)


def verified(data: bytes | str, *keys: Key) -> dict[VerifierKey, int]:
    return Note.parse(data).verified(map(key_of, keys))


# The specifications' own examples


def test_published_note_is_verified_by_its_published_key() -> None:
    key = VerifierKey.parse(SPEC_VKEY)
    assert (key.name, key.algorithm) == ("example.com/foo", Algorithm.ED25519)
    assert str(key) == SPEC_VKEY
    note = Note.parse(SPEC_NOTE)
    assert note.text == "This is an example message.\n"
    assert note.verified([key]) == {key: 0}
    assert str(note) == SPEC_NOTE


def test_published_note_with_an_empty_line_in_its_text_is_read() -> None:
    note = Note.parse(SPEC_POEM)
    assert note.text.count("\n") == 4
    assert note.text.endswith("\n\ned è subito sera.\n")
    assert note.signers() == ["quasimodo.example/salvatore+367ba04b"]
    assert str(note) == SPEC_POEM


# Making and checking, by two hands


@pytest.mark.parametrize("kind", [LOG, WITNESS])
def test_signatures_made_here_are_those_of_the_reference(kind: int) -> None:
    other = Key("signer.example/x", kind)
    mine = SigningKey(other.name, Algorithm(kind), other.private)
    assert str(mine.verifier) == other.vkey
    for time in (0, TIME, 2**63 - 1):
        assert str(mine.sign(TEXT, time=time)) == other.line(TEXT, time)
        expected = time if kind == WITNESS else 0
        assert verified(signed(TEXT, other, time=time), other) == {mine.verifier: expected}


def test_same_key_has_another_id_for_each_thing_that_it_signs() -> None:
    assert key_of(Key("a", LOG)).id != key_of(Key("a", WITNESS)).id


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(32))))
)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1).map(
    lambda name: name.replace("+", "-")
)


@given(
    st.lists(TEXTS, min_size=1, max_size=5),
    st.lists(st.tuples(NAMES, st.binary(min_size=5, max_size=80)), min_size=1, max_size=16),
)
@example([""], [("a", bytes(5))])
@example(["— a AAAAAAA=", "", "— a AAAAAAA=", ""], [("\u200b", bytes(5))])
@example(["\x7f\u0085\ufeff"], [("\N{EM DASH}", bytes(5))])
def test_any_note_is_read_as_it_was_written(lines: list[str], by: list[tuple[str, bytes]]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    note = Note(text, tuple(Signature(name, data[:4], data[4:]) for name, data in by))
    assert Note.parse(str(note)) == Note.parse(str(note).encode()) == note


# What separates text and signatures


def test_text_that_looks_like_a_signed_note_is_split_at_the_last_empty_line() -> None:
    inner = signed(TEXT, BOB)
    for text in (inner, inner + "\n", "\n" + inner, "\n", "\n\n\n", BOB.line(TEXT)):
        assert Note.parse(signed(text, ALICE)).text == text
        assert verified(signed(text, ALICE), ALICE, BOB) == {key_of(ALICE): 0}


def test_signature_lines_moved_into_the_text_sign_nothing() -> None:
    note = signed(TEXT, ALICE, BOB)
    moved = note.replace(BOB.line(TEXT), "\n" + BOB.line(TEXT))
    with pytest.raises(ProofError, match=r"by bob\.example.* is not of this text"):
        verified(moved, ALICE, BOB)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "\n",
        "\n\n",
        "text\n",
        "text\n\n",
        LINE,
        "\n" + LINE,
        "text\n" + LINE,
        "text" + LINE,
        "text\n\n" + LINE.removesuffix("\n"),
        "text\n\n" + LINE + "\n",
        "text\n\n" + LINE + " ",
        "text\n\n\ufeff" + LINE,
        "text\r\n\r\n" + LINE.replace("\n", "\r\n"),
        "text\n\r\n" + LINE,
        "text\n\n" + LINE.replace("\n", "\r\n"),
        "text\u2028\u2028" + LINE,
    ],
)
def test_what_is_not_text_an_empty_line_and_signatures_is_refused(data: str) -> None:
    with pytest.raises(ProofError):
        Note.parse(data)


@pytest.mark.parametrize("code", [code for code in range(32) if code != 10])
def test_control_characters_are_refused_wherever_they_stand(code: int) -> None:
    for data in (f"te{chr(code)}xt\n\n{LINE}", f"text\n\n— a{chr(code)}b AAAAAAA=\n"):
        with pytest.raises(ProofError, match="no control characters"):
            Note.parse(data)


@pytest.mark.parametrize("raw", [b"\xff", b"\xc0\x8a", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
def test_what_is_not_utf8_is_refused(raw: bytes) -> None:
    with pytest.raises(ProofError, match="UTF-8"):
        Note.parse(raw + b"\n\n" + LINE.encode())


def test_lone_surrogate_in_a_note_is_refused() -> None:
    with pytest.raises(ProofError, match="UTF-8"):
        Note.parse("\ud800\n\n" + LINE)


# Signature lines


@pytest.mark.parametrize(
    "line",
    [
        "- a.example AAAAAAA=",  # hyphen
        "– a.example AAAAAAA=",  # en dash
        "—a.example AAAAAAA=",
        "—  a.example AAAAAAA=",
        "— a.example  AAAAAAA=",
        "— a.example AAAAAAA= ",
        " — a.example AAAAAAA=",
        "—\u00a0a.example AAAAAAA=",
        "— AAAAAAA=",
        "— a.example",
        "— a.example ",
        "— a.example AAAA",  # 3 bytes: no id
        "— a.example AAAAAA==",  # an id alone
        "— a.example AAAAAAA",  # no padding
        "— a.example AAAAAAB=",  # bits after the end
        "— a.example AAAAAAA==",
        "— a.example AAAAAAA=AAAA",
        "— a.example AAAA_AA=",  # the alphabet for URLs
        "— a.example AAAA-AA=",
        "— a.example AAAA\u00a0AAA",
        "— a.example ＡＡＡＡＡＡＡ=",  # full width
        "— a+b AAAAAAA=",
        *(f"— a{chr(code)}b AAAAAAA=" for code in WHITE_SPACE if code != 10),
        *(f"— {chr(code)} AAAAAAA=" for code in WHITE_SPACE if code != 10),
    ],
)
def test_malformed_signature_line_spoils_the_note(line: str) -> None:
    for lines in (f"{line}\n", f"{LINE}{line}\n", f"{line}\n{LINE}"):
        with pytest.raises(ProofError):
            Note.parse("text\n\n" + lines)


@pytest.mark.parametrize("count", [1, 16, 100])
def test_up_to_a_hundred_signatures_are_read(count: int) -> None:
    note = signed(TEXT, *[Key(f"stranger/{i}", LOG) for i in range(count - 1)], ALICE)
    assert verified(note, ALICE) == {key_of(ALICE): 0}


def test_more_than_a_hundred_signatures_are_refused() -> None:
    with pytest.raises(ProofError, match="101 signatures are past the limit, 100"):
        Note.parse("text\n\n" + 101 * LINE)


def test_note_past_the_limit_is_refused_unread() -> None:
    line = "— a " + b64encode(bytes(6000)).decode() + "\n"
    sixteen = "text\n\n" + 16 * line  # as long as signatures of any kind in use
    assert len(Note.parse(sixteen).signatures) == 16
    text = "x" * (MAX_NOTE - 2 - len(LINE.encode()))
    assert len(Note.parse(f"{text}\n\n{LINE}").text) == len(text) + 1
    with pytest.raises(ProofError, match=f"{MAX_NOTE + 1} bytes is past the limit"):
        Note.parse(f"{text}x\n\n{LINE}")
    with pytest.raises(ProofError, match="past the limit"):
        Note.parse(b"\xff" * (MAX_NOTE + 1))


# Who has signed


def test_signature_of_an_unknown_key_is_passed_over() -> None:
    forged = Key(ALICE.name, LOG, b"\x09" * 32)  # the same name
    assert verified(signed(TEXT, forged, ALICE, BOB), ALICE) == {key_of(ALICE): 0}
    assert verified(signed(TEXT, forged), ALICE) == {}
    assert verified(signed(TEXT, WITNESSES[0]), ALICE) == {}
    renamed = ALICE.line(TEXT).replace("alice", "alicf")  # the same id
    assert verified(f"{TEXT}\n{renamed}", ALICE) == {}


def test_failing_signature_of_a_known_key_is_refused_though_another_verifies() -> None:
    wrong = ALICE.line("another text\n")
    for lines in (wrong + BOB.line(TEXT), BOB.line(TEXT) + wrong):
        with pytest.raises(ProofError, match=r"alice\.example\+[0-9a-f]{8} is not of this text"):
            verified(f"{TEXT}\n{lines}", ALICE, BOB)
        assert verified(f"{TEXT}\n{lines}", BOB) == {key_of(BOB): 0}


def test_failing_signature_beside_a_right_one_of_the_same_key_is_refused() -> None:
    right, wrong = ALICE.line(TEXT), ALICE.line("another text\n")
    for lines in (right + wrong, wrong + right):
        with pytest.raises(ProofError, match="is not of this text"):
            verified(f"{TEXT}\n{lines}", ALICE)


def test_repeated_signature_counts_once() -> None:
    assert verified(signed(TEXT, ALICE, ALICE, ALICE), ALICE) == {key_of(ALICE): 0}
    witness = WITNESSES[0]
    lines = "".join(witness.line(TEXT, time) for time in (5, 9, 7))
    assert verified(f"{TEXT}\n{lines}", witness) == {key_of(witness): 9}


def test_key_that_collides_in_name_and_id_verifies_nothing() -> None:
    forged = replace(key_of(ALICE), public=key_of(BOB).public)
    vars(forged)["id"] = key_of(ALICE).id  # as if somebody had found it
    with pytest.raises(ProofError, match="is not of this text"):
        Note.parse(signed(TEXT, ALICE)).verified([forged])


def test_unknown_signer_error_survives_copying_and_pickling() -> None:
    error = UnknownSignerError(["a+00000000", "b+11111111"])
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert again.signers == ("a+00000000", "b+11111111")
        assert str(again) == str(error)
    assert str(error).endswith("it is signed by a+00000000, b+11111111")
    assert str(UnknownSignerError([])).endswith("signed by none")


def altered(line: str, start: int, new: bytes) -> str:
    """Return a signature line with some bytes replaced: 0 is the first of the key's id."""
    dash, name, encoded = line.split()
    data = b64decode(encoded)
    data = data[:start] + new + data[start + len(new) :]
    return f"{dash} {name} {b64encode(data).decode()}\n"


def test_second_form_of_a_signature_is_refused() -> None:
    """A signature whose number is past the group's order would be a second one of the same text."""
    line = ALICE.line(TEXT)
    number = int.from_bytes(b64decode(line.split()[2])[-32:], "little")
    other = altered(line, 4 + 32, (number + GROUP_ORDER).to_bytes(32, "little"))
    with pytest.raises(ProofError, match="is not of this text"):
        verified(f"{TEXT}\n{other}", ALICE)


@pytest.mark.parametrize("length", [1, 7, 8, 63, 65, 71, 73])
def test_signature_of_another_length_is_refused(length: int) -> None:
    for key in (ALICE, WITNESSES[0]):
        material = (key.id + bytes(length))[: 4 + length]
        line = f"— {key.name} {b64encode(material).decode()}\n"
        with pytest.raises(ProofError, match=rf"{key.name}.* (has {length} bytes|is not of)"):
            verified(f"{TEXT}\n{line}", key)


# Cosignatures


def test_altered_time_of_a_cosignature_is_refused() -> None:
    witness = WITNESSES[0]
    line = witness.line(TEXT, TIME)
    assert verified(f"{TEXT}\n{line}", witness) == {key_of(witness): TIME}
    for time in (0, TIME - 1, TIME + 1, 2**63 - 1):
        other = altered(line, 4, time.to_bytes(8, "big"))
        with pytest.raises(ProofError, match="is not of this text"):
            verified(f"{TEXT}\n{other}", witness)


@pytest.mark.parametrize("time", [2**63, 2**64 - 1])
def test_time_past_63_bits_is_refused_though_it_is_signed(time: int) -> None:
    with pytest.raises(ProofError, match=f"below 2\\^63, found {time}"):
        verified(signed(TEXT, WITNESSES[0], time=time), WITNESSES[0])


def test_cosignature_moved_to_another_text_is_refused() -> None:
    witness = WITNESSES[0]
    with pytest.raises(ProofError, match="is not of this text"):
        verified(f"another text\n\n{witness.line(TEXT, TIME)}", witness)


def test_plain_signature_is_no_cosignature_and_the_other_way_round() -> None:
    """Not even by the same key, nor of a text that looks like what is signed in the other way."""
    log, witness = Key("same.example", LOG), Key("same.example", WITNESS)
    prefixed = f"cosignature/v1\ntime {TIME}\n{TEXT}"
    as_log, as_witness = (Signature(k.name, k.id, b"") for k in (log, witness))
    plain = log.private.sign(prefixed.encode())
    crossed = as_witness._replace(data=TIME.to_bytes(8, "big") + log.private.sign(TEXT.encode()))
    for note in (
        Note(TEXT, (as_log._replace(data=plain),)),
        Note(TEXT, (crossed,)),
        Note(TEXT, (as_log._replace(data=TIME.to_bytes(8, "big") + plain),)),
    ):
        with pytest.raises(ProofError):
            note.verified([key_of(log), key_of(witness)])


# Verifier keys


def test_flipped_bit_of_a_verifier_key_is_refused() -> None:
    for text in flips(WITNESSES[0].vkey.encode()):
        with pytest.raises(ProofError):
            VerifierKey.parse(text.decode(errors="replace"))


def vkey(name: str, material: bytes, key_id: str | None = None) -> str:
    own = Key.id.fget  # type: ignore[attr-defined]
    found = type("K", (), {"name": name, "public": material})()
    return f"{name}+{key_id or own(found).hex()}+{b64encode(material).decode()}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "++",
        "+++",
        "a",
        "a+00000000",
        "a+00000000+",
        vkey("", b"\x01" + bytes(32)),
        vkey("a b", b"\x01" + bytes(32)),
        *(vkey("a", bytes([kind]) + bytes(32)) for kind in (0, 2, 3, 5, 6, 0xFA, 0xFF)),
        *(vkey("a", b"\x01" + bytes(length)) for length in (0, 31, 33)),
        vkey("a", b"\x06" + bytes(1312)),
        vkey("a", b"\x01" + bytes(32), "00000000"),
        vkey("a", b"\x01" + bytes(32)).upper(),
        vkey("a", b"\x01" + bytes(32)) + "\n" + vkey("b", b"\x01" + bytes(32)),
        *(vkey(f"a{chr(code)}b", b"\x01" + bytes(32)) for code in WHITE_SPACE),
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(ProofError):
        VerifierKey.parse(text)


def test_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(ProofError, match="name of a key"):
        VerifierKey.parse("a\ud800+00000000+" + b64encode(b"\x01" + bytes(32)).decode())
    with pytest.raises(ProofError, match="name of a key"):
        SigningKey("\udfff", Algorithm.ED25519, Ed25519PrivateKey.generate())


def test_public_key_that_is_no_point_verifies_nothing() -> None:
    for public in (b"\xff" * 32, b"\x02" + bytes(31)):
        key = VerifierKey("a", Algorithm.ED25519, public)
        note = Note(TEXT, (Signature("a", key.id, bytes(64)),))
        with pytest.raises(ProofError, match="is not of this text"):
            note.verified([key])


def test_private_key_is_not_shown() -> None:
    key = SigningKey("a", Algorithm.ED25519, ALICE.private)
    secret = ALICE.private.private_bytes_raw()
    for shown in (repr(key), str(key), repr(vars(key))):
        assert secret.hex() not in shown.lower()
        assert b64encode(secret).decode() not in shown
        assert repr(secret) not in shown


# Anything at all


def test_flipped_bit_of_a_note_is_refused_or_signed_by_nobody() -> None:
    keys = (ALICE, WITNESSES[0])
    right = signed("a short text\n", *keys)
    assert len(verified(right, *keys)) == 2
    for data in flips(right.encode()):
        try:
            found = verified(data, *keys)
        except ProofError:
            continue
        assert len(found) == 1  # the name or the id of the other
        assert Note.parse(data).text == "a short text\n"


PIECES = st.sampled_from(
    ["\n", "\n\n", "text", "— ", "a.example", " ", "+", "AAAAAAA=", LINE, "\r", "\x00", "\ud800"]
)


@given(st.one_of(st.binary(), st.text(), st.lists(PIECES).map("".join)))
def test_any_bytes_are_a_note_or_refused(data: bytes | str) -> None:
    try:
        note = Note.parse(data)
    except ProofError:
        return
    assert str(note) == (data.decode() if isinstance(data, bytes) else data)


@given(
    st.one_of(st.text(), st.lists(PIECES | st.sampled_from([ALICE.vkey, "00000000"])).map("".join))
)
def test_any_text_is_a_verifier_key_or_refused(text: str) -> None:
    try:
        key = VerifierKey.parse(text)
    except ProofError:
        return
    assert str(key) == text.strip()
