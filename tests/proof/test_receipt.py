"""Receipts in both forms: whatever is altered, they prove the same as before, or nothing."""

from __future__ import annotations

import copy
import json
import pickle
import struct
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairn.core.entry import Entry
from cairn.core.errors import ProofError
from cairn.core.merkle import leaf_hash
from cairn.proof.checkpoint import Policy
from cairn.proof.note import VerifierKey
from cairn.proof.receipt import MAX_RECEIPT, Proved, Receipt, UntrustedSignerError
from tests.page import reference
from tests.page.reference import LOG, Key, Ledger, checkpoint, one_block, to_json
from tests.proof.makers import WITNESSES, believing, flips, resigned, signed, to_tlog_proof

LEDGER = Ledger([1, 1, 3, 1, 1, 5, 1])
OTHER = Ledger([1, 1, 3, 1, 1, 5, 1], lambda index, entry: f"[{index},{entry}]")
TRUSTING = believing(LEDGER.key)
ALL_WITNESSES = believing(LEDGER.key, *WITNESSES[:2], quorum=2)
BATCH = LEDGER.receipt(5, 2, witnesses=WITNESSES[:2])
SINGLE = LEDGER.receipt(3)
KINDS = {
    "value": SINGLE,
    "batch": BATCH,
    "genesis": LEDGER.receipt(0),
    "first": LEDGER.receipt(0, size=1, witnesses=WITNESSES[:2]),
    "cosigned": LEDGER.receipt(6, witnesses=WITNESSES[:3]),
}
FORMS: dict[str, Callable[[dict[str, Any]], str]] = {
    "json": to_json,
    "pretty": lambda receipt: json.dumps(receipt, indent=2),
    "tlog-proof": to_tlog_proof,
}


def check(data: bytes | str, policy: Policy = TRUSTING) -> Proved:
    return Receipt.parse(data).check(policy)


def outcome(data: bytes | str, policy: Policy = TRUSTING) -> Proved | None:
    """Return what is proved, or None where it is refused with a reason; nothing else may come."""
    try:
        return check(data, policy)
    except ProofError as error:
        reason = str(error)
    assert len(reason) > 10
    return None


def refused(receipt: dict[str, Any], match: str, policy: Policy = TRUSTING) -> None:
    """It is refused in both forms."""
    for form in (to_json, to_tlog_proof):
        with pytest.raises(ProofError, match=match) as caught:
            check(form(receipt), policy)
        assert not isinstance(caught.value, UntrustedSignerError)


def same(found: Proved, right: Proved) -> bool:
    return (found.entry, found.header, found.signed.checkpoint) == (
        right.entry,
        right.header,
        right.signed.checkpoint,
    )


def header_of(receipt: dict[str, Any], at: int, new: bytes) -> str:
    """Return its header with some bytes replaced."""
    data = bytes.fromhex(receipt["header"])
    return (data[:at] + new + data[at + len(new) :]).hex()


# What is right passes


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_receipt_proves_its_entry_to_who_trusts_the_ledger(kind: str, form: str) -> None:
    made = KINDS[kind]
    proved = check(FORMS[form](made))
    assert proved.entry == Entry(bytes.fromhex(made["salt"]), made["data"].encode())
    assert proved.header.pack().hex() == made["header"]
    assert proved.header.index == made["index"]
    assert f"cairn/{proved.ledger}" == LEDGER.origin
    assert proved.signed.assurance == "signed"


@pytest.mark.parametrize("kind", KINDS)
def test_receipt_is_read_as_it_was_written_in_either_form(kind: str) -> None:
    receipt = Receipt.parse(to_json(KINDS[kind]))
    for text in (receipt.to_json(), receipt.to_tlog_proof(), to_tlog_proof(KINDS[kind])):
        assert Receipt.parse(text) == Receipt.parse(text.encode()) == receipt
    assert json.loads(receipt.to_json()) == KINDS[kind]
    assert receipt.to_tlog_proof().split("\n")[2:] == to_tlog_proof(KINDS[kind]).split("\n")[2:]


def test_every_block_and_entry_of_ledgers_up_to_70_blocks() -> None:
    counts = [1, *(1 + i % 5 for i in range(69))]
    ledger = Ledger(counts)
    policy = believing(ledger.key)
    for size in range(1, 71):
        for index in sorted({0, 1, size // 3, size // 2, size - 2, size - 1} & set(range(size))):
            for entry in {0, size % counts[index], counts[index] - 1}:
                proved = check(to_json(ledger.receipt(index, entry, size)), policy)
                assert proved.header.index == index
                assert proved.signed.checkpoint.size == size
                assert proved.entry.canonical == ledger.entries[index][entry][1].encode()


@pytest.mark.parametrize(
    ("index", "size"),
    [(1, 2), (2**31, 2**32), (2**53 + 1, 2**60), (2**63 - 2, 2**63 - 1), (1, 2**63 - 1)],
)
def test_block_of_a_ledger_of_any_size_is_proved(index: int, size: int) -> None:
    made, key = one_block(index=index, size=size)
    for form in FORMS.values():
        assert check(form(made), believing(key)).header.index == index


@pytest.mark.parametrize(
    "data",
    [
        *("null", "0", '""', "{}", "[]", "18446744073709551615", "-9223372036854775808"),
        *("1e-7", "1e+21", "100000000000000000000", "1.5", '"\\u0000\\n\\"\\\\"'),
        *('"é😀\u2028\x7f"', '{"😀":2,"\ufb33":1}', '{"":{"":""}}', 256 * "[" + 256 * "]"),
    ],
)
def test_any_canonical_value_is_proved(data: str) -> None:
    made, key = one_block(data)
    for form in FORMS.values():
        assert check(form(made), believing(key)).entry.canonical == data.encode()


# Whatever bit is flipped


def flip_bits(data: bytes, right: Proved, policy: Policy, step: int = 1) -> int:
    """Flip every `step`th bit alone; return after how many the same is still proved."""
    still = 0
    for changed in islice(flips(data), 0, None, step):
        found = outcome(changed, policy)
        if found is not None:
            assert same(found, right)
            still += 1
    return still


def bits_that_do_not_matter(receipt: dict[str, Any]) -> int:
    """How many there are at most: those of the hints who has signed, and of their quotes."""
    return 8 * len(json.dumps(receipt["keys"], indent=2)) * 4 // 3 + 8


@pytest.mark.parametrize(
    ("kind", "form", "step"),
    [
        ("batch", "json", 3),
        ("batch", "tlog-proof", 7),
        ("value", "pretty", 5),
        ("value", "tlog-proof", 3),
        ("genesis", "json", 5),
        ("genesis", "tlog-proof", 7),
        ("first", "json", 9),
    ],
)
def test_flipped_bit_proves_the_same_or_nothing(kind: str, form: str, step: int) -> None:
    made = KINDS[kind]
    policy = ALL_WITNESSES if len(made["keys"]) == 3 else TRUSTING
    data = FORMS[form](made).encode()
    still = flip_bits(data, check(data, policy), policy, step)
    assert still <= bits_that_do_not_matter(made)


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", [TRUSTING, ALL_WITNESSES])
def test_every_flipped_bit_proves_the_same_or_nothing(kind: str, form: str, policy: Policy) -> None:
    data = FORMS[form](KINDS[kind]).encode()
    right = outcome(data, policy)
    if right is None:
        right = check(data)
        assert flip_bits(data, right, policy) == 0
    else:
        flip_bits(data, right, policy)


def test_flipped_bit_outside_the_hints_proves_nothing() -> None:
    """With no hint, every bit of the file counts."""
    for form in FORMS.values():
        data = form(SINGLE | {"keys": []}).encode()
        assert flip_bits(data, check(data), TRUSTING, 7) == 0


def test_flipped_bit_of_every_field_of_the_header_is_refused() -> None:
    receipt = Receipt.parse(to_json(BATCH))
    for header in flips(receipt.header):
        with pytest.raises(ProofError):
            replace(receipt, header=header).check(ALL_WITNESSES)


def test_truncated_receipt_is_refused() -> None:
    for form in FORMS.values():
        data = form(BATCH).encode()
        for end in range(0, len(data), 3):
            assert outcome(data[:end], ALL_WITNESSES) is None


def test_white_space_between_tokens_does_not_matter() -> None:
    loose = json.dumps(BATCH, indent="\t\r\n ", separators=(" ,\n", " :\t"))
    assert same(check(f"\n {loose} \r\n", ALL_WITNESSES), check(to_json(BATCH), ALL_WITNESSES))


# Attacks by name


def test_receipt_of_one_block_presented_as_another_is_refused() -> None:
    for other in (0, 2, 4, 6, 7, 2**63 - 1):
        refused(SINGLE | {"index": other}, f"the header is of block 3, not {other}")
        moved = SINGLE | {"index": other, "header": header_of(SINGLE, 8, struct.pack(">Q", other))}
        refused(moved, "not in the ledger|block 0 has hash")
        if other < 7:
            refused(LEDGER.receipt(other) | {"index": 3}, f"the header is of block {other}, not 3")
            theirs = LEDGER.receipt(other)["block_proof"]
            refused(SINGLE | {"block_proof": theirs}, "the block is not in the ledger")


def test_block_at_another_place_than_its_header_says_is_refused_though_it_is_signed() -> None:
    hashes = [leaf_hash(header) for header in LEDGER.headers]
    hashes[3], hashes[4] = hashes[4], hashes[3]
    refused(resigned(SINGLE, hashes, LEDGER.key), "the block is not in the ledger")
    refused(resigned(SINGLE | {"index": 4}, hashes, LEDGER.key), "the header is of block 3, not 4")


@pytest.mark.parametrize("index", [2**63, 2**63 + 3, 2**64 - 1])
def test_index_past_63_bits_is_refused_though_it_is_signed(index: int) -> None:
    made, key = one_block(index=index, size=2**64)
    with pytest.raises(ProofError, match=f"index of a receipt is {index}"):
        check(to_json(made), believing(key))
    with pytest.raises(ProofError):
        check(to_tlog_proof(made), believing(key))
    direct = Receipt.parse(to_json(made | {"index": 1}))
    with pytest.raises(ProofError):
        replace(direct, index=index).check(believing(key))


def test_entry_of_one_block_presented_in_another_is_refused() -> None:
    for block in (1, 4, 6):
        salt, data = LEDGER.entries[block][0]
        moved = SINGLE | {"salt": salt.hex(), "data": data}
        refused(moved, "the entry is not in the block")


def test_entry_presented_at_another_place_of_its_batch_is_refused() -> None:
    for place in (0, 1, 3, 4, 5, 2**63 - 1):
        refused(BATCH | {"entry": place}, "the entry is not in the block")
        if place < 5:
            theirs = LEDGER.receipt(5, place)
            refused(BATCH | {"entry_proof": theirs["entry_proof"]}, "the entry is not in the block")
            refused(theirs | {"entry": 2}, "the entry is not in the block")


def test_entry_that_is_twice_in_a_batch_is_proved_at_its_own_places_only() -> None:
    entries = [(bytes(16), data) for data in ("1", "2", "1", "1", "2")]
    header = reference.header(1, entries, kind=1)
    key = Key("cairn/" + "ab" * 32, LOG)
    root, proof = reference.lonely(1, 2, leaf_hash(header))
    text = checkpoint(key.name, 2, root)
    for place in range(5):
        made = reference.receipt(
            header, entries, place, block_proof=proof, text=text, lines=[key.line(text)], keys=[]
        )
        for other in range(5):
            found = outcome(to_json(made | {"entry": other}), believing(key))
            alike = path_of(entries, place) == path_of(entries, other)
            assert (found is not None) == (entries[place] == entries[other] and alike)


def path_of(entries: Sequence[tuple[bytes, str]], place: int) -> list[bytes]:
    return reference.path(place, [leaf_hash(salt + data.encode()) for salt, data in entries])


def test_entry_of_an_empty_batch_is_refused() -> None:
    empty = struct.pack(">II32s", 0, 0, sha256().digest())
    header = header_of(LEDGER.receipt(1), 56, empty)
    hashes = [leaf_hash(LEDGER.headers[0]), leaf_hash(bytes.fromhex(header))]
    made = resigned(LEDGER.receipt(1) | {"header": header}, hashes, LEDGER.key)
    refused(made, "leaf 0 is not in a tree of 0")


def test_inner_node_of_a_batch_presented_as_an_entry_is_refused() -> None:
    ids = [leaf_hash(salt + data.encode()) for salt, data in LEDGER.entries[5]]
    receipt = Receipt.parse(to_json(LEDGER.receipt(5, 0)))
    both = ids[0] + ids[1]
    for entry in (Entry(both[:16], both[16:]), Entry(b"\x01" + both[:15], both[15:])):
        with pytest.raises(ProofError, match="the entry is not in the block"):
            replace(receipt, entry=entry, entry_proof=receipt.entry_proof[1:]).check(TRUSTING)


@pytest.mark.parametrize("name", ["entry_proof", "block_proof"])
def test_proof_with_a_hash_too_few_or_too_many_is_refused(name: str) -> None:
    right = BATCH[name]
    for i in range(len(right)):
        refused(BATCH | {name: right[:i] + right[i + 1 :]}, "too few|not in the")
    refused(BATCH | {name: right[::-1]}, "not in the")
    for i in range(len(right) + 1):
        refused(BATCH | {name: [*right[:i], "00" * 32, *right[i:]]}, "too many|not in the")
    refused(BATCH | {name: ["00" * 32] * 64}, "too many")
    alone = LEDGER.receipt(0, size=1)
    refused(alone | {name: ["00" * 32]}, "too many")


def test_entry_whose_size_is_not_that_of_the_header_is_refused_though_it_is_signed() -> None:
    for size in (0, 1, len(SINGLE["data"]) + 15, len(SINGLE["data"]) + 17, 2**32 - 1):
        header = header_of(SINGLE, 60, struct.pack(">I", size))
        hashes = [leaf_hash(h) for h in LEDGER.headers]
        hashes[3] = leaf_hash(bytes.fromhex(header))
        made = resigned(SINGLE | {"header": header}, hashes, LEDGER.key)
        refused(made, rf"the entry has \d+ bytes, not {size}")


@pytest.mark.parametrize("version", [0, 2, 256, 2**16 - 1])
def test_version_that_is_not_known_is_refused_though_it_is_signed(version: int) -> None:
    made, key = one_block(version=version)
    refused(made, f"format version {version} is not known", believing(key))


def test_genesis_of_another_ledger_is_refused_though_it_is_signed() -> None:
    hashes = [leaf_hash(header) for header in OTHER.headers]
    made = resigned(OTHER.receipt(0), hashes, LEDGER.key)
    refused(made, f"block 0 has hash {hashes[0].hex()}, not {LEDGER.origin[6:]}")


def test_checkpoint_of_a_fork_of_the_same_size_does_not_hold_the_block() -> None:
    refused(SINGLE | {"checkpoint": OTHER.receipt(3)["checkpoint"]}, "not in the ledger")
    hashes = [leaf_hash(header) for header in OTHER.headers]
    fork = signed(checkpoint(LEDGER.origin, 7, reference.tree(hashes)), LEDGER.key)
    refused(SINGLE | {"checkpoint": fork}, "the block is not in the ledger")


def test_checkpoint_of_another_size_does_not_hold_the_block() -> None:
    for size in (1, 3, 4, 6):
        older = LEDGER.receipt(0, size=size)["checkpoint"]
        refused(SINGLE | {"checkpoint": older}, "the block is not in the ledger")
    lied = SINGLE["checkpoint"].replace("\n7\n", "\n8\n")
    refused(SINGLE | {"checkpoint": lied}, "not in the ledger|not of this text")


def test_altered_checkpoint_whose_proof_was_altered_with_it_is_refused() -> None:
    forged = resigned(SINGLE, [leaf_hash(h) for h in LEDGER.headers[:5]], LEDGER.key)
    text = forged["checkpoint"].partition("\n\n")[0]
    signature = SINGLE["checkpoint"].partition("\n\n")[2]
    refused(forged | {"checkpoint": f"{text}\n\n{signature}"}, "is not of this text")


@pytest.mark.parametrize(
    "origin", ["example.com/log", "cairn/", "cairn/" + "AB" * 32, "cairn/" + "ab" * 33, "Cairn"]
)
def test_log_that_is_no_ledger_is_refused_though_it_is_signed(origin: str) -> None:
    made, key = one_block(origin=origin)
    refused(made, "is not the origin of a ledger", believing(key))


def test_quorum_is_asked_for_in_receipts_too() -> None:
    assert len(check(to_json(BATCH), ALL_WITNESSES).signed.witnesses) == 2
    assert check(to_json(BATCH), ALL_WITNESSES).signed.assurance == "witnessed"
    policy = believing(LEDGER.key, *WITNESSES, quorum=3)
    refused(BATCH, "2 of 4 trusted witnesses", policy)
    refused(SINGLE, "0 of 2 trusted witnesses", ALL_WITNESSES)


# Data


def test_erased_entry_never_yields_a_receipt_that_checks() -> None:
    size = len(SINGLE["data"])
    refused(SINGLE | {"data": "\0" * size}, "not JSON")
    refused(SINGLE | {"data": "\0" * size, "salt": "00" * 16}, "not JSON")
    erased = replace(Receipt.parse(to_json(SINGLE)), entry=Entry(bytes(16), bytes(size)))
    with pytest.raises(ProofError, match="the entry is not in the block"):
        erased.check(TRUSTING)
    made, key = one_block("\0" * 20)  # as if they had been sealed
    refused(made, "not JSON", believing(key))


@pytest.mark.parametrize(
    "data",
    [
        *(" 1", "1 ", "\n1", "[1, 2]", '{"b":1,"a":2}', "1.0", "-0", "1e0", "1E5", "0.10"),
        *('"\\u0041"', '"\\/"', '"\\u000a"', "100000000000000000000.0", "1e21", '{"a":1 }'),
    ],
)
def test_data_that_is_not_canonical_is_refused_though_it_hashes_right(data: str) -> None:
    """A ledger holds none such: two texts of one value would be two entries."""
    made, key = one_block(data)
    refused(made, "canonical", believing(key))


@pytest.mark.parametrize(
    "data",
    [
        *("", "nul", "NaN", "Infinity", "1e999", "01", "'a'", "[1,]", "\ufeff1", "1 2", '"'),
        *('{"a":1,"a":2}', '"\\ud800"', "[" * 100_000, '{"a":' * 100_000, "9" * 100_000),
        *("18446744073709551616", 257 * "[" + 257 * "]"),
    ],
)
def test_data_that_is_no_acceptable_json_is_refused_though_it_hashes_right(data: str) -> None:
    made, key = one_block(data)
    refused(made, "the data of a receipt is not JSON", believing(key))


# The files


def text_with(member: str, value: str) -> str:
    """Return a receipt in JSON in which this text stands for the value of a member."""
    marked = json.dumps(SINGLE | {member: "%"}, ensure_ascii=False)
    return marked.replace('"%"', value)


@pytest.mark.parametrize("name", list(SINGLE))
@pytest.mark.parametrize(
    "value",
    [
        *("null", "true", "-1", "1.5", "1e3", "9223372036854775808", "18446744073709551616"),
        *('""', '"x"', '"\\u0000"', '"\ud7ff"', "[]", "[null]", '[[""]]', "{}", '["é"]', '"' * 2),
    ],
)
def test_member_of_another_type_or_form_is_refused(name: str, value: str) -> None:
    found = outcome(text_with(name, value))
    if found is not None:
        assert name == "keys" or (name, value) == ("entry_proof", "[]")
        assert same(found, check(to_json(SINGLE)))


def test_true_is_no_number() -> None:
    for form in (LEDGER.receipt(1), LEDGER.receipt(5, 1)):
        for name in ("index", "entry"):
            if form[name] == 1:
                with pytest.raises(ProofError, match=f"{name} of a receipt is no int"):
                    check(to_json(form | {name: True}))


def test_more_hashes_than_a_proof_can_have_are_refused_unread() -> None:
    for count in (65, 100_000):
        for name in ("entry_proof", "block_proof"):
            for form in (to_json, to_tlog_proof):
                with pytest.raises(ProofError, match=f"{count} hashes, too many"):
                    Receipt.parse(form(BATCH | {name: ["00" * 32] * count}))


def test_missing_and_additional_members_are_refused() -> None:
    for name in SINGLE:
        fewer = {key: value for key, value in SINGLE.items() if key != name}
        assert outcome(to_json(fewer)) is None
        assert outcome(to_json(fewer | {name + " ": SINGLE[name]})) is None
    with pytest.raises(ProofError, match="a receipt has the members cairn, index, entry, salt"):
        check(to_json(SINGLE | {"more": 1}))


def test_member_that_is_there_twice_is_refused() -> None:
    for name in SINGLE:
        twice = to_json(SINGLE)[:-1] + f', "{name}": {json.dumps(SINGLE[name])}}}'
        with pytest.raises(ProofError, match=f"duplicate key '{name}'"):
            check(twice)


@pytest.mark.parametrize("name", ["salt", "header", "entry_proof", "block_proof"])
def test_hex_in_another_form_is_refused(name: str) -> None:
    listed = isinstance(BATCH[name], list)
    right = BATCH[name][0] if listed else BATCH[name]
    for wrong in (
        *(right.upper(), right[:-1], right[:-2], right + "00", right + "0", " " + right[1:]),
        *(right + "\n", "0x" + right[2:], right.replace(right[0], "٠"), "g" + right[1:], ""),
    ):
        made = BATCH | {name: [wrong, *BATCH[name][1:]] if listed else wrong}
        assert outcome(to_json(made)) is None


@pytest.mark.parametrize("format_", ["receipt/2", "receipt/1 ", "RECEIPT/1", "", "receipt"])
def test_other_formats_are_refused(format_: str) -> None:
    with pytest.raises(ProofError, match="is not known; this is 'receipt/1'"):
        check(to_json(SINGLE | {"cairn": format_}))


@pytest.mark.parametrize(
    "data",
    [
        *("", " ", "null", "[]", "1", '"receipt"', "{", "{}", "{]", "NaN", "\ufeff{}", "\0"),
        *(100_000 * "[", 100_000 * '{"a":', "[" * 900 + "]" * 900, '{"cairn":' * 900 + "1"),
        *("9" * 100_000, "-" * 9, '"\\ud800"', '{"a":1,"a":2}', "c2sp.org/tlog-proof@v"),
        to_json(SINGLE) + to_json(SINGLE),
        to_json(SINGLE) + "x",
        f"[{to_json(SINGLE)}]",
        "\ufeff" + to_json(SINGLE),
        text_with("keys", 100_000 * "["),
        text_with("keys", 900 * "[" + 900 * "]"),
        text_with("entry_proof", 900 * '{"a":[' + "1" + 900 * "]}"),
    ],
)
def test_what_is_no_receipt_is_refused(data: str) -> None:
    assert outcome(data) is None
    assert outcome(data.encode()) is None


def test_what_is_not_utf8_is_refused() -> None:
    for data in (b"\xff", b"\xed\xa0\x80", to_json(SINGLE).encode("utf-16"), b"\xc3" * 99):
        with pytest.raises(ProofError, match="UTF-8"):
            check(data)
    with pytest.raises(ProofError, match="UTF-8"):
        check(to_json(SINGLE).replace("block", "\ud800"))


@pytest.mark.parametrize("filler", [b" ", b"[", b"\xff", b"c2sp.org/tlog-proof@v1\n"])
def test_huge_receipt_is_refused_unread(filler: bytes) -> None:
    data = (filler * (MAX_RECEIPT // len(filler) + 1))[: MAX_RECEIPT + 1]
    with pytest.raises(ProofError, match=f"a receipt of {MAX_RECEIPT + 1} bytes is past the limit"):
        check(data)


@pytest.mark.parametrize("character", ["é", '\\"', "😀", "\\u0001", "\\n", "a", "ࠀ", "\x7f"])
def test_receipt_of_the_largest_entry_is_not_too_large(character: str) -> None:
    """In either form; the largest has 16 MiB by default, here a part of that."""
    size = 2**16
    made, _ = one_block('"' + character * (size // len(character.encode())) + '"')
    receipt = Receipt.parse(to_json(made))
    for text in (receipt.to_json(), receipt.to_tlog_proof()):
        assert len(text.encode()) - 4096 < MAX_RECEIPT * size / 2**24


@pytest.mark.soak
@pytest.mark.parametrize("character", ["é", '\\"'])
def test_receipt_of_a_16_mib_entry_is_read(character: str) -> None:
    made, key = one_block('"' + character * ((2**24 - 18) // len(character.encode())) + '"')
    receipt = Receipt.parse(to_json(made))
    for text in (receipt.to_json(), receipt.to_tlog_proof()):
        assert check(text, believing(key)).entry == receipt.entry


# The other form


def lines_of(receipt: dict[str, Any]) -> list[str]:
    return to_tlog_proof(receipt).split("\n")


def with_line(at: int, *new: str) -> str:
    lines = lines_of(BATCH)
    return "\n".join([*lines[:at], *new, *lines[at + 1 :]])


EXTRA = lines_of(BATCH)[1]
HASH = lines_of(BATCH)[3]


@pytest.mark.parametrize(
    "text",
    [
        with_line(0, "c2sp.org/tlog-proof@v2"),
        with_line(0, "c2sp.org/tlog-proof@v1 "),
        with_line(0, "c2sp.org/tlog-proof@v1\r"),
        with_line(0, "", "c2sp.org/tlog-proof@v1"),
        with_line(0, "c2sp.org/tlog-proof@v1", ""),
        with_line(1),
        with_line(1, EXTRA, EXTRA),
        with_line(1, EXTRA.removeprefix("extra ")),
        with_line(1, EXTRA.replace("extra ", "extra  ")),
        with_line(1, "Extra " + EXTRA.removeprefix("extra ")),
        with_line(1, EXTRA + "="),
        with_line(1, "extra " + b64encode(b"\xff").decode()),
        with_line(1, "extra " + b64encode(b"[]").decode()),
        with_line(1, "extra " + b64encode(b"{}").decode()),
        with_line(1, "extra " + b64encode(100_000 * b"[").decode()),
        with_line(1, "extra " + b64encode(to_json(BATCH).encode()).decode()),
        with_line(1, "index 5", EXTRA),
        with_line(2),
        with_line(2, "index"),
        with_line(2, "index "),
        *(with_line(2, f"index {n}") for n in ("05", "+5", "-5", "5 ", " 5", "٥", "5.0", "4")),
        *(with_line(2, f"index {n}") for n in (2**63, 2**64 + 5, 10**18 * 10, 10**4000)),
        with_line(2, "Index 5"),
        with_line(3),
        with_line(3, HASH, HASH),
        with_line(3, HASH.rstrip("=")),
        with_line(3, HASH + " "),
        with_line(3, " " + HASH),
        with_line(3, b64encode(bytes(31)).decode()),
        with_line(3, b64encode(bytes(33)).decode()),
        with_line(3, HASH, ""),
        with_line(3, *(65 * [HASH])),
        with_line(3, *(100_000 * [HASH])),
        to_tlog_proof(BATCH).removesuffix("\n"),
        to_tlog_proof(BATCH) + "\n",
        to_tlog_proof(BATCH).replace("\n", "\r\n"),
        to_tlog_proof(BATCH).partition("\n\n")[0],
        to_tlog_proof(BATCH).partition("\n\n")[0] + "\n\n",
        "c2sp.org/tlog-proof@v1",
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v1\n\n",
        "c2sp.org/tlog-proof@v1\nextra e30=\nindex 0\n\n",
    ],
)
def test_malformed_tlog_proof_is_refused(text: str) -> None:
    assert outcome(to_tlog_proof(BATCH)) is not None
    assert outcome(text) is None


# Who has signed


def test_unknown_signer_is_named_in_full() -> None:
    with pytest.raises(UntrustedSignerError) as caught:
        check(to_json(BATCH), Policy())
    keys = [LEDGER.key, *WITNESSES[:2]]
    assert [str(key) for key in caught.value.keys] == [key.vkey for key in keys]
    for key in keys:
        assert key.vkey in str(caught.value)
    for again in (copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert str(again) == str(caught.value)
        assert vars(again) == vars(caught.value)


def test_hint_that_is_not_of_a_signer_is_not_shown_as_one() -> None:
    stranger = Key(LEDGER.origin, LOG, b"\x66" * 32)  # of the same name
    own_id = f"{LEDGER.origin}+{LEDGER.key.id.hex()}"
    forged = stranger.vkey.replace(stranger.id.hex(), LEDGER.key.id.hex())
    for hint in (stranger.vkey, forged, OTHER.key.vkey, WITNESSES[0].vkey, "", "x", "+" * 99):
        with pytest.raises(UntrustedSignerError) as caught:
            check(to_json(SINGLE | {"keys": [hint]}), Policy())
        assert caught.value.keys == ()
        assert str(caught.value).endswith(f"it is signed by {own_id}")
        check(to_json(SINGLE | {"keys": [hint]}))  # to who trusts it, it does not matter


def test_hint_beside_one_that_cannot_be_read_is_shown() -> None:
    keys = ["a+00000000+BgAA", LEDGER.key.vkey, "\u2028", LEDGER.key.vkey]
    with pytest.raises(UntrustedSignerError) as caught:
        check(to_json(SINGLE | {"keys": keys}), Policy())
    assert [str(key) for key in caught.value.keys] == [LEDGER.key.vkey]


def test_hinted_key_whose_signature_is_wrong_is_not_shown() -> None:
    """Else a forged checkpoint would be said to be signed by a key that somebody else published."""
    hashes = [leaf_hash(header) for header in LEDGER.headers]
    forged = resigned(SINGLE, hashes[:5], LEDGER.key)
    text = forged["checkpoint"].partition("\n\n")[0] + "\n"
    note = f"{text}\n{LEDGER.key.line('another text')}"
    with pytest.raises(UntrustedSignerError) as caught:
        check(to_json(forged | {"checkpoint": note}), Policy())
    assert caught.value.keys == ()


def test_hints_are_no_reason_to_trust() -> None:
    mallory = Key(LEDGER.origin, LOG, b"\x66" * 32)
    forged = resigned(SINGLE, [leaf_hash(h) for h in LEDGER.headers], mallory)
    with pytest.raises(UntrustedSignerError):
        check(to_json(forged | {"keys": [mallory.vkey]}))


def test_more_hints_than_signatures_can_be_are_refused() -> None:
    check(to_json(SINGLE | {"keys": ["x"] * 100}))
    with pytest.raises(ProofError, match="100 at most"):
        check(to_json(SINGLE | {"keys": ["x"] * 101}))


def test_what_is_wrong_otherwise_is_said_before_who_has_signed() -> None:
    refused(SINGLE | {"salt": "00" * 16}, "the entry is not in the block", Policy())
    refused(SINGLE | {"block_proof": []}, "the block is not in the ledger", Policy())


def test_receipt_signed_by_nobody_at_all_is_refused() -> None:
    text = SINGLE["checkpoint"].partition("\n\n")[0] + "\n"
    for note in (text, text + "\n", ""):
        refused(SINGLE | {"checkpoint": note}, "a note is text, an empty line and signatures")


# Anything at all

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.binary() | st.text() | st.binary().map(b"c2sp.org/tlog-proof@v1\n".__add__))
@example("c2sp.org/tlog-proof@v1\nextra \nindex 0\n\n")
def test_any_bytes_are_refused(data: bytes | str) -> None:
    assert outcome(data) is None


@given(st.dictionaries(st.sampled_from(list(BATCH)), JSON, min_size=1, max_size=3))
def test_any_other_members_prove_the_same_or_nothing(changed: dict[str, Any]) -> None:
    for form in (to_json, to_tlog_proof):
        try:
            text = form(BATCH | changed)
        except (TypeError, ValueError):  # there is no tlog-proof of that
            continue
        found = outcome(text, ALL_WITNESSES)
        assert found is None or same(found, check(to_json(BATCH), ALL_WITNESSES))


@given(
    st.sampled_from([to_json, to_tlog_proof]),
    st.lists(
        st.tuples(st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=9)), max_size=4
    ),
)
def test_any_cuts_and_insertions_prove_the_same_or_nothing(
    form: Callable[[dict[str, Any]], str], edits: list[tuple[int, int, bytes]]
) -> None:
    data = form(BATCH).encode()
    for at, cut, new in edits:
        data = data[:at] + new + data[at + cut :]
    found = outcome(data, ALL_WITNESSES)
    assert found is None or same(found, check(to_json(BATCH), ALL_WITNESSES))


def test_hints_are_verifier_keys_of_signers() -> None:
    receipt = Receipt.parse(to_json(BATCH))
    assert receipt.keys == tuple(k.vkey for k in (LEDGER.key, *WITNESSES[:2]))
    assert all(VerifierKey.parse(key) for key in receipt.keys)
