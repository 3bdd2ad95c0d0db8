"""What a witness answers, by C2SP tlog-witness, and to what is none of it."""

from __future__ import annotations

import logging
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from cairn.core.errors import ProofError
from cairn.core.merkle import EMPTY_ROOT
from cairn.proof.checkpoint import Checkpoint
from cairn.proof.memory import Memory
from cairn.proof.note import Algorithm, Note, Signature, SigningKey
from cairn.proof.witness import (
    MAX_BODY,
    MAX_EVIDENCE,
    PLAIN,
    SIZE,
    Request,
    Witness,
    cosignatures,
    origin_hash,
)
from tests.witness.conftest import Clock
from tests.witness.logs import Log, body_of, new_key


def shown(witness: Witness, log: Log) -> Note:
    found = witness.checkpoint(origin_hash(log.origin))
    assert found is not None
    return Note.parse(found)


def size_of(witness: Witness, log: Log) -> int:
    return Checkpoint.parse(shown(witness, log).text).size


# 200


def test_first_checkpoint_is_cosigned(
    witness: Witness, log: Log, key: SigningKey, clock: Clock
) -> None:
    answer = witness.add_checkpoint(log.request(0, 7))

    assert (answer.status, answer.media_type) == (200, PLAIN)
    assert answer.body.decode().startswith("— witness.example/1 ")
    assert answer.body.endswith(b"\n")
    # As a client may: answer and checkpoint together are a note.
    whole = Note.parse(str(log.checkpoint(7)).encode() + answer.body)
    assert whole.verified([key.verifier, log.key.verifier]) == {
        key.verifier: int(clock.now),
        log.key.verifier: 0,
    }


def test_extension_is_cosigned_and_shown_to_monitors(
    witness: Witness, log: Log, key: SigningKey
) -> None:
    sizes = (3, 4, 4, 5, 16, 20)
    before = 0
    for size in sizes:
        answer = witness.add_checkpoint(log.request(before, size))
        assert answer.status == 200, answer
        note = shown(witness, log)
        assert note.text == log.checkpoint(size).text
        assert set(note.verified([key.verifier, log.key.verifier])) == {
            key.verifier,
            log.key.verifier,
        }
        assert str(note).encode().endswith(answer.body)
        before = size


def test_empty_tree_is_cosigned(witness: Witness, log: Log) -> None:
    assert witness.add_checkpoint(log.request(0, 0)).status == 200
    assert witness.add_checkpoint(log.request(0, 0)).status == 200
    assert witness.add_checkpoint(log.request(0, 9)).status == 200
    assert witness.add_checkpoint(log.request(0, 0)).body == b"9\n"


def test_same_checkpoint_is_cosigned_again_with_a_new_time(
    witness: Witness, log: Log, clock: Clock, key: SigningKey
) -> None:
    witness.add_checkpoint(log.request(0, 7))
    clock.now += 60

    answer = witness.add_checkpoint(log.request(7, 7))

    assert answer.status == 200
    assert shown(witness, log).verified([key.verifier]) == {key.verifier: int(clock.now)}


def test_clock_that_is_set_back_does_not_date_a_cosignature_earlier(
    witness: Witness, log: Log, clock: Clock, key: SigningKey
) -> None:
    witness.add_checkpoint(log.request(0, 7))
    before, clock.now = clock.now, 5.0

    assert witness.add_checkpoint(log.request(7, 8)).status == 200

    assert shown(witness, log).verified([key.verifier]) == {key.verifier: int(before)}


def test_cosignature_has_a_time_though_the_clock_has_none(
    witness: Witness, log: Log, clock: Clock, key: SigningKey
) -> None:
    clock.now = 0.0
    witness.add_checkpoint(log.request(0, 7))
    assert shown(witness, log).verified([key.verifier]) == {key.verifier: 1}


def test_extension_lines_are_cosigned(witness: Witness, log: Log) -> None:
    note = log.checkpoint(7, "timestamp 123", "more")
    answer = witness.add_checkpoint(Request(0, (), note).body)
    assert answer.status == 200
    assert shown(witness, log).text == note.text
    assert witness.add_checkpoint(log.request(7, 8)).status == 200


def test_signatures_by_others_are_passed_over_and_not_remembered(
    witness: Witness, log: Log, key: SigningKey
) -> None:
    note = log.checkpoint(7)
    wrong = Signature(key.verifier.name, b"\0\0\0\0", bytes(72))
    unknown = new_key("somebody.example/else").sign(note.text)
    same_name = new_key(log.origin).sign("something else")
    same_id = Signature("another.example/name", note.signatures[0].key_id, bytes(64))
    # Our own cosignature is not a log's; a wrong one is nothing to us.
    ours = Signature(key.verifier.name, key.verifier.id, bytes(72))
    signatures = (wrong, unknown, same_name, same_id, ours, *note.signatures)

    answer = witness.add_checkpoint(Request(0, (), Note(note.text, signatures)).body)

    assert answer.status == 200
    assert [one.name for one in shown(witness, log).signatures] == [log.origin, key.verifier.name]


def test_signature_that_is_given_100_times_is_remembered_once(witness: Witness, log: Log) -> None:
    note = log.checkpoint(7)
    many = Note(note.text, note.signatures * 100)
    assert witness.add_checkpoint(Request(0, (), many).body).status == 200
    assert len(shown(witness, log).signatures) == 2
    assert witness.add_checkpoint(log.request(7, 8)).status == 200


def test_largest_request_can_be_remembered(witness: Witness, log: Log) -> None:
    room = MAX_BODY - len(Request(0, (), log.checkpoint(7, "")).body)
    body = Request(0, (), log.checkpoint(7, "x" * room)).body
    assert len(body) == MAX_BODY
    assert witness.add_checkpoint(body).status == 200
    assert witness.add_checkpoint(log.request(7, 8)).status == 200


def test_either_key_of_a_log_is_enough(
    log: Log, key: SigningKey, memory: Memory, evidence: Path
) -> None:
    other = Log(new_key(log.origin), log.leaves)
    keys = [log.key.verifier, other.key.verifier]
    witness = Witness(key, {log.origin: keys}, memory, evidence)
    assert witness.add_checkpoint(log.request(0, 7)).status == 200
    assert witness.add_checkpoint(other.request(7, 8)).status == 200
    both = other.checkpoint(9)
    both = Note(both.text, (*both.signatures, log.key.sign(both.text)))
    assert witness.add_checkpoint(Request(8, tuple(log.proof(8, 9)), both).body).status == 200
    assert set(shown(witness, log).verified(keys)) == set(keys)


def test_new_key_of_the_witness_goes_on_where_the_old_one_was(
    witness: Witness, log: Log, key: SigningKey, memory: Memory, evidence: Path
) -> None:
    witness.add_checkpoint(log.request(0, 7))
    renewed = new_key(key.verifier.name, Algorithm.COSIGNATURE)
    again = Witness(renewed, {log.origin: [log.key.verifier]}, memory, evidence)
    assert again.add_checkpoint(log.forked(3).request(7, 8)).status == 422
    assert again.add_checkpoint(log.request(7, 8)).status == 200


def test_logs_are_remembered_apart(
    key: SigningKey, log: Log, memory: Memory, evidence: Path
) -> None:
    other = Log.of(20, key=new_key("log.example/b"))
    logs = {one.origin: [one.key.verifier] for one in (log, other)}
    witness = Witness(key, logs, memory, evidence)
    assert witness.add_checkpoint(log.request(0, 7)).status == 200
    assert witness.checkpoint(origin_hash(other.origin)) is None
    assert witness.add_checkpoint(other.request(0, 9)).status == 200
    assert (size_of(witness, log), size_of(witness, other)) == (7, 9)


def test_origin_that_is_not_the_name_of_its_key_is_served(
    key: SigningKey, memory: Memory, evidence: Path
) -> None:
    signer = new_key("sum.example")
    text = Checkpoint("go.sum database tree", 0, EMPTY_ROOT).text
    witness = Witness(key, {"go.sum database tree": [signer.verifier]}, memory, evidence)
    note = Note(text, (signer.sign(text),))
    assert witness.add_checkpoint(Request(0, (), note).body).status == 200


# 404


def test_unknown_origin_is_not_found(witness: Witness, log: Log) -> None:
    other = Log.of(7, key=new_key("log.example/b"))
    assert witness.add_checkpoint(other.request(0, 7)).status == 404
    assert witness.checkpoint(origin_hash(other.origin)) is None


@pytest.mark.parametrize("name", ["", "a", "log.example/a", "0" * 64])
def test_monitor_is_shown_nothing_that_was_not_cosigned(
    witness: Witness, log: Log, name: str
) -> None:
    assert witness.checkpoint(origin_hash(log.origin)) is None
    witness.add_checkpoint(log.request(0, 7))
    assert witness.checkpoint(name) is None
    assert witness.checkpoint(origin_hash(log.origin).upper()) is None
    assert witness.checkpoint(sha256(b"log.example/a").hexdigest()) is not None


# 403


def test_checkpoint_that_the_log_has_not_signed_is_forbidden(witness: Witness, log: Log) -> None:
    stranger = Log(new_key(log.origin), log.leaves)
    assert witness.add_checkpoint(stranger.request(0, 7)).status == 403


def test_signature_line_of_a_known_key_that_does_not_verify_is_forbidden(
    witness: Witness, log: Log
) -> None:
    note, other = log.checkpoint(7), log.checkpoint(8)
    for signatures in (
        other.signatures,
        (*other.signatures, *note.signatures),
        (*note.signatures, *other.signatures),
        (note.signatures[0]._replace(data=b"short"),),
    ):
        body = Request(0, (), Note(note.text, signatures)).body
        assert witness.add_checkpoint(body).status == 403


def test_cosignature_of_a_witness_is_no_signature_of_the_log(witness: Witness, log: Log) -> None:
    twin = SigningKey(log.origin, Algorithm.COSIGNATURE, log.key._private)
    text = log.checkpoint(7).text
    body = Request(0, (), Note(text, (twin.sign(text, time=1),))).body
    assert witness.add_checkpoint(body).status == 403


# 409


@pytest.mark.parametrize("old", [0, 3, 6, 8, 9])
def test_other_old_size_conflicts_and_is_told_the_right_one(
    witness: Witness, log: Log, old: int
) -> None:
    witness.add_checkpoint(log.request(0, 7))
    answer = witness.add_checkpoint(log.request(old, 9))
    assert (answer.status, answer.body, answer.media_type) == (409, b"7\n", SIZE)
    assert SIZE == "text/x.tlog.size"
    assert size_of(witness, log) == 7


def test_old_size_conflicts_where_nothing_was_cosigned(witness: Witness, log: Log) -> None:
    answer = witness.add_checkpoint(log.request(3, 9))
    assert (answer.status, answer.body, answer.media_type) == (409, b"0\n", SIZE)


def test_conflict_comes_before_a_wrong_proof(witness: Witness, log: Log) -> None:
    witness.add_checkpoint(log.request(0, 7))
    body = Request(5, (bytes(32),), log.checkpoint(9)).body
    assert witness.add_checkpoint(body).status == 409


def test_old_checkpoint_that_is_replayed_does_not_roll_back(witness: Witness, log: Log) -> None:
    requests = [log.request(0, 7), log.request(7, 9), log.request(9, 12)]
    assert [witness.add_checkpoint(body).status for body in requests] == [200] * 3
    assert {witness.add_checkpoint(body).body for body in requests} == {b"12\n"}
    for size in range(12):  # an older one, offered as if it were the witness's own
        assert witness.add_checkpoint(log.request(size, size)).body == b"12\n"
    assert size_of(witness, log) == 12


# 400


def test_old_size_past_the_checkpoint_is_a_bad_request(witness: Witness, log: Log) -> None:
    witness.add_checkpoint(log.request(0, 7))
    assert witness.add_checkpoint(log.request(7, 6)).status == 400
    assert witness.add_checkpoint(body_of(str(10**18), [], log.checkpoint(6))).status == 400


NOTE = "origin\n7\nAAAA\n\n— log.example/a AAAAAAAA\n"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"\n\n",
        b"old 0",
        b"old 0\n",
        b"old 0\n\n",
        b"old 0\n\n\n",
        b"\x00" * 1000,
        b"\xff\xfe" * 1000,
        b'{"old": 0}',
    ],
)
def test_garbage_is_a_bad_request(witness: Witness, body: bytes) -> None:
    assert witness.add_checkpoint(body).status == 400


@pytest.mark.parametrize(
    "old",
    [
        *("", "00", "01", "+0", "-0", "-1", "0x0", "0 ", " 0", "0\r", "0\t", "1e0", "0.0", "a"),
        *("٠", "１", "²", "9" * 20, "9" * 5000),
    ],
)
def test_old_size_is_strict_decimal(witness: Witness, log: Log, old: str) -> None:
    assert witness.add_checkpoint(body_of(old, [], log.checkpoint(7))).status == 400


@pytest.mark.parametrize("first", ["OLD 0", "old  0", "old\t0", "old0", "old", "size 0", "0"])
def test_first_line_is_strict(witness: Witness, log: Log, first: str) -> None:
    body = f"{first}\n\n{log.checkpoint(7)}".encode()
    assert witness.add_checkpoint(body).status == 400


@pytest.mark.parametrize(
    "line",
    [
        "A",
        "AAAA",
        "A" * 43,
        "A" * 42 + "B=",  # bits past the end
        "A" * 44 + "====",
        b64encode(bytes(31)).decode(),
        b64encode(bytes(33)).decode(),
        b64encode(bytes(32)).decode() + " ",
        " " + b64encode(bytes(32)).decode(),
        b64encode(bytes(32)).decode() + "\r",
        "_" * 43 + "=",
        "-" * 43 + "=",
        "ＡＡＡＡ",
    ],
)
def test_line_of_a_proof_is_strict_base64_of_a_hash(witness: Witness, log: Log, line: str) -> None:
    witness.add_checkpoint(log.request(0, 7))
    body = f"old 7\n{line}\n\n{log.checkpoint(8)}".encode()
    assert witness.add_checkpoint(body).status == 400


def test_proof_has_63_lines_at_most(witness: Witness, log: Log) -> None:
    witness.add_checkpoint(log.request(0, 7))
    assert witness.add_checkpoint(body_of("7", [bytes(32)] * 64, log.checkpoint(8))).status == 400
    assert witness.add_checkpoint(body_of("7", [bytes(32)] * 63, log.checkpoint(8))).status == 422


def test_request_with_other_line_ends_is_a_bad_request(witness: Witness, log: Log) -> None:
    body = log.request(0, 7)
    assert witness.add_checkpoint(body.replace(b"\n", b"\r\n")).status == 400
    assert witness.add_checkpoint(body.replace(b"\n", b"\r")).status == 400
    assert witness.add_checkpoint(body.removesuffix(b"\n")).status == 400
    assert witness.add_checkpoint(body + b"\n").status == 400
    assert witness.add_checkpoint(body.replace(b"\n\n", b"\n", 1)).status == 400
    assert witness.add_checkpoint(b"\n" + body).status == 400
    assert witness.add_checkpoint(body).status == 200


def test_note_without_a_signature_is_a_bad_request(witness: Witness, log: Log) -> None:
    assert witness.add_checkpoint(f"old 0\n\n{log.checkpoint(7).text}".encode()).status == 400
    assert witness.add_checkpoint(f"old 0\n\n{log.checkpoint(7).text}\n".encode()).status == 400


@pytest.mark.parametrize(
    "rest",
    [
        *("", "7\n", "7\nAAAA\n", "07\n{root}\n", "٧\n{root}\n", "-7\n{root}\n"),
        *("7\n{root}\n\nmore\n", "9223372036854775808\n{root}\n", "7\n{root}x\n"),
    ],
)
def test_signed_text_that_is_no_checkpoint_is_a_bad_request(
    witness: Witness, log: Log, rest: str
) -> None:
    text = f"{log.origin}\n{rest.format(root=b64encode(log.root(7)).decode())}"
    body = Request(0, (), Note(text, (log.key.sign(text),))).body
    assert witness.add_checkpoint(body).status == 400


def test_request_past_the_limit_is_a_bad_request(witness: Witness, log: Log) -> None:
    note = log.checkpoint(7, "x" * MAX_BODY)
    assert witness.add_checkpoint(Request(0, (), note).body).status == 400
    assert witness.add_checkpoint(b"A" * (MAX_BODY + 1)).status == 400
    assert witness.add_checkpoint(b"old 0\n" + b"A\n" * (MAX_BODY // 2 - 8)).status == 400
    note = log.checkpoint(7)
    assert witness.add_checkpoint(
        Request(0, (), Note(note.text, note.signatures * 101)).body
    ).status == 400  # fmt: skip


# 422


def test_fork_of_the_same_size_is_refused(witness: Witness, log: Log) -> None:
    witness.add_checkpoint(log.request(0, 7))
    assert witness.add_checkpoint(log.forked(6).request(7, 7)).status == 422
    assert shown(witness, log).text == log.checkpoint(7).text


@pytest.mark.parametrize("at", [0, 3, 6])
def test_fork_that_grows_is_refused(witness: Witness, log: Log, at: int) -> None:
    fork = log.forked(at)
    witness.add_checkpoint(log.request(0, 7))
    for new in range(8, 20):
        for proof in (fork.proof(7, new), log.proof(7, new)):
            body = Request(7, tuple(proof), fork.checkpoint(new)).body
            assert witness.add_checkpoint(body).status == 422


def test_proof_of_any_other_length_or_bit_is_refused(witness: Witness, log: Log) -> None:
    witness.add_checkpoint(log.request(0, 7))
    proof, note = log.proof(7, 12), log.checkpoint(12)
    wrong = [proof[:i] + proof[i + 1 :] for i in range(len(proof))]
    wrong += [[*proof[:i], bytes(32), *proof[i:]] for i in range(len(proof) + 1)]
    wrong += [
        [*proof[:i], bytes([proof[i][0] ^ 1]) + proof[i][1:], *proof[i + 1 :]]
        for i in range(len(proof))
    ]
    for one in [*wrong, []]:
        assert witness.add_checkpoint(Request(7, tuple(one), note).body).status == 422
    assert witness.add_checkpoint(Request(7, tuple(proof), note).body).status == 200


def test_proof_from_nothing_is_empty(witness: Witness, log: Log) -> None:
    body = Request(0, (bytes(32),), log.checkpoint(7)).body
    assert witness.add_checkpoint(body).status == 422


def test_proof_to_the_same_size_is_empty(witness: Witness, log: Log) -> None:
    witness.add_checkpoint(log.request(0, 7))
    body = Request(7, (log.root(7),), log.checkpoint(7)).body
    assert witness.add_checkpoint(body).status == 422


def test_empty_tree_with_another_root_is_refused(witness: Witness, log: Log) -> None:
    text = Checkpoint(log.origin, 0, log.root(1)).text
    body = Request(0, (), Note(text, (log.key.sign(text),))).body
    assert witness.add_checkpoint(body).status == 422
    assert witness.checkpoint(origin_hash(log.origin)) is None


# Evidence


def test_fork_of_the_same_size_is_kept_as_evidence(
    witness: Witness, log: Log, evidence: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fork = log.forked(3)
    witness.add_checkpoint(log.request(0, 7))
    with caplog.at_level(logging.WARNING):
        witness.add_checkpoint(fork.request(7, 7))

    (path,) = (evidence / origin_hash(log.origin)).iterdir()
    text = path.read_text()
    assert "two trees of 7 leaves are signed" in text
    assert str(fork.checkpoint(7)) in text
    assert str(shown(witness, log)) in text
    assert str(path) in caplog.text


def test_fork_is_kept_as_evidence_though_its_sender_is_told_of_a_conflict(
    witness: Witness, log: Log, evidence: Path
) -> None:
    witness.add_checkpoint(log.request(0, 7))
    assert witness.add_checkpoint(log.forked(3).request(0, 7)).status == 409
    assert len(list(evidence.rglob("*.txt"))) == 1


def test_honest_log_leaves_no_evidence(witness: Witness, log: Log, evidence: Path) -> None:
    for old, new in [(0, 7), (0, 7), (7, 9), (9, 5), (3, 5), (9, 9), (0, 20), (9, 20)]:
        witness.add_checkpoint(log.request(old, new))
    assert not evidence.exists()


def test_fork_that_is_sent_again_is_written_down_once(
    witness: Witness, log: Log, evidence: Path
) -> None:
    witness.add_checkpoint(log.request(0, 7))
    for _ in range(3):
        witness.add_checkpoint(log.forked(3).request(7, 9))
    assert len(list(evidence.rglob("*.txt"))) == 1


def test_fork_is_kept_though_the_same_was_only_suspected(
    witness: Witness, log: Log, evidence: Path
) -> None:
    witness.add_checkpoint(log.request(0, 7))
    witness.add_checkpoint(log.forked(3).request(7, 9))
    witness.add_checkpoint(log.request(7, 9))
    assert witness.add_checkpoint(log.forked(3).request(9, 9)).status == 422
    found = sorted(path.read_text().splitlines()[0] for path in evidence.rglob("*.txt"))
    assert len(found) == 2
    assert found[1] == "two trees of 9 leaves are signed"


def test_evidence_does_not_fill_the_disk(witness: Witness, log: Log, evidence: Path) -> None:
    witness.add_checkpoint(log.request(0, 7))
    for number in range(MAX_EVIDENCE):  # anybody may send these
        body = Request(7, (bytes(32),), log.checkpoint(9, f"{number}")).body
        assert witness.add_checkpoint(body).status == 422
    assert len(list(evidence.rglob("*.txt"))) == MAX_EVIDENCE // 2
    for number in range(MAX_EVIDENCE):  # these, who has the log's key
        body = Request(7, (), log.forked(3).checkpoint(7, f"{number}")).body
        assert witness.add_checkpoint(body).status == 422
    assert len(list(evidence.rglob("*.txt"))) == MAX_EVIDENCE


def test_evidence_that_cannot_be_written_changes_no_answer(
    witness: Witness, log: Log, evidence: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evidence.write_text("in the way")
    witness.add_checkpoint(log.request(0, 7))
    assert witness.add_checkpoint(log.forked(3).request(7, 7)).status == 422
    assert "two trees of 7 leaves are signed" in caplog.text


# Who asks


def test_answer_is_read_by_who_trusts_the_witness(
    witness: Witness, log: Log, key: SigningKey
) -> None:
    note = log.checkpoint(7)
    answer = witness.add_checkpoint(Request(0, (), note).body).body
    stranger = new_key("w.example/2", Algorithm.COSIGNATURE)

    found = cosignatures(answer, note, [stranger.verifier, key.verifier])

    assert [str(one).encode() for one in found] == [answer]
    assert cosignatures(answer, note, [stranger.verifier]) == []
    other = str(stranger.sign(note.text, time=5)).encode()
    assert cosignatures(other + answer + answer, note, [key.verifier]) == found


def test_answer_that_lies_is_refused(log: Log, key: SigningKey) -> None:
    note, other = log.checkpoint(7), log.checkpoint(8)
    for time, signed in ((5, other.text), (0, note.text), (2**63, note.text)):
        answer = str(key.sign(signed, time=time)).encode()
        with pytest.raises(ProofError):
            cosignatures(answer, note, [key.verifier])
    for garbage in (b"", b"\n", b"7\n", b"\xff\n", b"x" * 10**6, b"\xe2\x80\x94 a b\n"):
        with pytest.raises(ProofError):
            cosignatures(garbage, note, [key.verifier])


def test_logs_own_key_is_no_witness(log: Log) -> None:
    note = log.checkpoint(7)
    answer = str(note.signatures[0]).encode()
    assert cosignatures(answer, note, [log.key.verifier]) == []


def test_example_of_the_specification_is_read() -> None:
    body = (
        "old 20852014\n"
        "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
        "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
        "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n"
        "/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n"
        "\n"
        "example.com/behind-the-sofa\n"
        "20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        "\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhc"
        "yv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    ).encode()
    request = Request.parse(body)
    assert (request.old_size, len(request.proof)) == (20852014, 4)
    assert request.note.text.startswith("example.com/behind-the-sofa\n20852163\n")
    assert request.body == body


def test_keys_of_the_wrong_kind_are_refused(
    log: Log, key: SigningKey, memory: Memory, evidence: Path
) -> None:
    with pytest.raises(ProofError, match="not that of a witness"):
        Witness(log.key, {}, memory, evidence)
    with pytest.raises(ProofError, match="not one that logs sign with"):
        Witness(key, {log.origin: [key.verifier]}, memory, evidence)
