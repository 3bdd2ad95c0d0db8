"""The page that checks a receipt, in a real Chromium."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import FAR_HOST, PAGE, OpenPage, serving
from tests.page.reference import (
    LOG,
    WITNESS,
    Key,
    Ledger,
    Receipt,
    checkpoint,
    equal_leaves,
    key_id,
    leaf,
    lonely,
    one_block,
    path,
    to_json,
    tree,
)

WITNESSES = (
    Key("witness.example/one", WITNESS, b"\x01" * 32),
    Key("witness.example/two", WITNESS, b"\x02" * 32),
)
LEDGER = Ledger([1, 1, 3, 1, 1, 5, 1])
"""Its block 5 has several entries, and inclusion proofs of both kinds of step."""

Result = dict[str, Any]


def verify(page: Page, receipt: Receipt | str, keys: Sequence[Key | str]) -> Result:
    [result] = verify_all(page, [receipt], keys)
    return result


def verify_all(
    page: Page, receipts: Sequence[Receipt | str], keys: Sequence[Key | str]
) -> list[Result]:
    texts = [r if isinstance(r, str) else to_json(r) for r in receipts]
    results: list[Result] = page.evaluate(
        """async ([texts, keys]) => {
          const results = [];
          for (const text of texts) results.push(await verifyReceipt(text, keys));
          return results;
        }""",
        [texts, [k if isinstance(k, str) else k.vkey for k in keys]],
    )
    return results


def refused(result: Result, reason: str) -> None:
    """It is not proved, for this reason (a part of it), and nothing else is said."""
    assert (result["verdict"], "facts" in result) == ("not proved", False), result
    assert reason in result["reason"]
    assert result["reason"].endswith(".")
    assert "Error" not in result["reason"]


# Good receipts


def test_every_block_of_every_size_is_proved(page: Page) -> None:
    ledger = Ledger([1] * 70)
    sizes = [*range(1, 18), 31, 32, 33, 64, 70]
    receipts = [ledger.receipt(index, size=size) for size in sizes for index in range(size)]
    results = verify_all(page, receipts, [ledger.key])
    assert [r["verdict"] for r in results] == ["proved"] * len(receipts)
    assert [r["value"] for r in results] == [r["data"] for r in receipts]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_every_entry_of_a_batch_is_proved(page: Page, count: int) -> None:
    ledger = Ledger([1, 1, count, 1])
    results = verify_all(page, [ledger.receipt(2, e) for e in range(count)], [ledger.key])
    assert [r["verdict"] for r in results] == ["proved"] * count
    assert [r["value"] for r in results] == [f'{{"block":2,"entry":{e}}}' for e in range(count)]


def test_witnesses_are_named_with_their_time(page: Page) -> None:
    receipt = LEDGER.receipt(3, witnesses=WITNESSES[:1])
    result = verify(page, receipt, [LEDGER.key, *WITNESSES])
    assert result["verdict"] == "proved"
    facts = [tuple(fact) for fact in result["facts"]]
    assert ("Signed by", LEDGER.key.vkey) in facts
    assert ("Witnessed", "by witness.example/one, 2023-11-14 22:13:20.000000 UTC") in facts
    assert ("Not witnessed", "by witness.example/two, whose key you gave") in facts


def test_signatures_by_unknown_keys_are_passed_over_and_named(page: Page) -> None:
    result = verify(page, LEDGER.receipt(3, witnesses=WITNESSES), [LEDGER.key])
    assert result["verdict"] == "proved"
    names = "witness.example/one, witness.example/two"
    assert ["Not checked: signatures by", names] in result["facts"]


def test_an_index_past_doubles_is_proved_with_all_its_digits(page: Page) -> None:
    index = 2**53 + 1
    receipt, key = one_block(index=index, size=2**63 - 1)
    result = verify(page, receipt, [key])
    assert result["verdict"] == "proved"
    assert ["Block", f"{index}; the checkpoint has {2**63 - 1} blocks"] in result["facts"]


def test_a_time_past_what_browsers_know_is_shown_as_a_number(page: Page) -> None:
    receipt, key = one_block(timestamp=2**63 - 1)
    result = verify(page, receipt, [key])
    assert ["Time of the block", f"{2**63 - 1} µs after 1970 began"] in result["facts"]


def test_sixteen_signatures_an_extension_line_and_members_in_any_order_are_read(page: Page) -> None:
    others = [Key(f"other.example/{k}", LOG, bytes([k]) * 32) for k in range(15)]
    receipt, key = one_block(
        extension="an extension line\n",
        lines=lambda text: [k.line(text) for k in [*others, Key("cairn/" + "ab" * 32, LOG)]],
    )
    backwards = dict(reversed(receipt.items()))
    assert verify(page, backwards, [key])["verdict"] == "proved"


# Keys


def test_without_a_key_it_is_not_proved_and_the_key_to_compare_is_named(page: Page) -> None:
    result = verify(page, LEDGER.receipt(3), [])
    assert result["verdict"] == "not proved"
    assert "who signed is not known" in result["reason"]
    assert ["Compare: key named in the receipt", LEDGER.key.vkey] in result["facts"]


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["not a key"],
        [LEDGER.key.vkey[:-1]],
        [Key(LEDGER.origin, LOG, b"\x09" * 32).vkey],
        [Key("cairn/" + "00" * 32, LOG).vkey],
    ],
)
def test_without_a_key_a_receipt_that_names_none_says_to_ask(page: Page, keys: list[str]) -> None:
    result = verify(page, LEDGER.receipt(3) | {"keys": keys}, [])
    assert result["verdict"] == "not proved"
    assert "Ask the ledger’s operator" in result["reason"]
    assert not any("Compare" in term for term, _ in result["facts"])


def test_a_receipt_signed_by_its_own_forger_is_refused_by_the_key_that_is_trusted(
    page: Page,
) -> None:
    forger = Key(LEDGER.origin, LOG, b"\x66" * 32)
    receipt, _ = one_block(signer=forger, origin=LEDGER.origin)
    refused(verify(page, receipt, [LEDGER.key]), "should be by a key that you gave")
    assert verify(page, receipt, [forger])["verdict"] == "proved"


def test_a_receipt_of_another_ledger_with_the_same_key_pair_is_refused(page: Page) -> None:
    receipt, other = one_block(origin="cairn/" + "cd" * 32)
    assert other.seed == LEDGER.key.seed
    refused(verify(page, receipt, [LEDGER.key]), "should be by a key that you gave")


def test_a_witness_alone_proves_nothing(page: Page) -> None:
    receipt = LEDGER.receipt(3, witnesses=WITNESSES)
    refused(verify(page, receipt, WITNESSES), "should be by a key that you gave")


def test_a_log_key_of_another_name_that_signed_too_proves_nothing(page: Page) -> None:
    other = Key("cairn/" + "00" * 32, LOG)
    receipt, key = one_block(lines=lambda text: [other.line(text)])
    refused(verify(page, receipt, [other, key]), "should be by a key that you gave")


def test_a_cosignature_is_no_signature_of_the_log(page: Page) -> None:
    origin = "cairn/" + "ab" * 32
    as_witness = Key(origin, WITNESS)
    receipt, key = one_block(lines=lambda text: [as_witness.line(text)])
    line = receipt["checkpoint"].splitlines()[-1]
    signature = b64decode(line.split()[2])[12:]
    disguised = f"— {origin} {b64encode(key.id + signature).decode()}"
    disguised_receipt = receipt | {"checkpoint": receipt["checkpoint"].replace(line, disguised)}
    refused(verify(page, receipt, [key, as_witness]), "should be by a key that you gave")
    refused(verify(page, disguised_receipt, [key]), "is wrong")


def test_a_signature_of_the_text_alone_is_no_cosignature(page: Page) -> None:
    witness = WITNESSES[0]

    def lines(text: str) -> list[str]:
        signature = witness.id + bytes(8) + witness.private.sign(text.encode())
        return [
            Key("cairn/" + "ab" * 32, LOG).line(text),
            f"— {witness.name} {b64encode(signature).decode()}\n",
        ]

    receipt, key = one_block(lines=lines)
    refused(verify(page, receipt, [key, witness]), "is wrong")


@pytest.mark.parametrize("which", [0, 1])
def test_one_wrong_signature_of_a_known_key_spoils_the_receipt(page: Page, which: int) -> None:
    origin = "cairn/" + "ab" * 32
    keys = [Key(origin, LOG), WITNESSES[0]]
    elsewhere = checkpoint(origin, 9, bytes(32))
    receipt, _ = one_block(
        lines=lambda text: [k.line(elsewhere if k is keys[which] else text) for k in keys]
    )
    refused(verify(page, receipt, keys), f"The signature by {keys[which].name} should be by")
    assert verify(page, receipt, keys[:1])["verdict"] == ("not proved", "proved")[which]


def test_a_second_signature_by_the_same_key_must_be_right_too(page: Page) -> None:
    origin = "cairn/" + "ab" * 32
    key = Key(origin, LOG)
    receipt, _ = one_block(lines=lambda text: [key.line(text), key.line("another\n")])
    refused(verify(page, receipt, [key]), "is wrong")


@pytest.mark.parametrize(
    "lines",
    [
        lambda text: [f"— {LEDGER.origin} {b64encode(LEDGER.key.id + b's' * 63).decode()}\n"],
        lambda text: [f"— {LEDGER.origin} {b64encode(LEDGER.key.id + b's' * 65).decode()}\n"],
    ],
    ids=["short", "long"],
)
def test_a_signature_of_the_wrong_length_is_refused(
    page: Page, lines: Callable[[str], Sequence[str]]
) -> None:
    receipt, key = one_block(origin=LEDGER.origin, lines=lines)
    refused(verify(page, receipt, [key]), "should have 64 bytes, but has 6")


def test_a_cosignature_past_the_range_of_time_is_refused(page: Page) -> None:
    witness = WITNESSES[0]
    receipt, key = one_block(
        lines=lambda text: [
            Key("cairn/" + "ab" * 32, LOG).line(text),
            witness.line(text, 2**63),
        ]
    )
    refused(verify(page, receipt, [key, witness]), "past 2^63")


def test_a_key_that_is_no_point_of_the_curve_verifies_nothing(page: Page) -> None:
    origin = "cairn/" + "ab" * 32
    public = bytes([LOG]) + b"\xff" * 32
    id_ = key_id(origin, public)
    vkey = f"{origin}+{id_.hex()}+{b64encode(public).decode()}"
    line = f"— {origin} {b64encode(id_ + bytes(64)).decode()}\n"
    receipt, _ = one_block(origin=origin, lines=lambda text: [line])
    refused(verify(page, receipt, [vkey]), "is wrong")


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "x",
        "name+00000000",
        LEDGER.key.vkey.replace("cairn", "Cairn", 1),
        LEDGER.key.vkey[:-4],
        LEDGER.key.vkey.replace("+", "+0", 1),
        LEDGER.key.vkey + "=",
        "\u202e" + LEDGER.key.vkey,
        re.sub(r"\+(.{8})\+", lambda m: f"+{m[1].upper()}+", LEDGER.key.vkey),
        Key("ml-dsa.example", 6).vkey,
    ],
)
def test_a_key_that_was_not_copied_well_is_told_from_a_bad_receipt(page: Page, vkey: str) -> None:
    result = verify(page, LEDGER.receipt(3), [LEDGER.key, vkey])
    assert result["verdict"] == "cannot check"
    assert "key" in result["reason"]


# Members


@pytest.mark.parametrize("name", list(LEDGER.receipt(1)))
def test_a_missing_member_is_refused(page: Page, name: str) -> None:
    receipt = LEDGER.receipt(5, 3)
    del receipt[name]
    refused(verify(page, receipt, [LEDGER.key]), f"should have a member “{name}”")


@pytest.mark.parametrize("name", list(LEDGER.receipt(1)))
def test_a_member_of_another_type_is_refused(page: Page, name: str) -> None:
    receipt = LEDGER.receipt(5, 3)
    others: list[object] = [
        None,
        True,
        -1,
        1.5,
        2**63,
        10**30,
        "",
        "G" * 64,
        [1],
        [[]],
        {},
        ["A" * 64],
    ]
    others = [o for o in others if not (name in ("data", "checkpoint") and isinstance(o, str))]
    others = [o for o in others if not (name == "keys" and o == ["A" * 64])]
    for result in verify_all(page, [receipt | {name: o} for o in others], [LEDGER.key]):
        refused(result, f"“{name}” should be")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("cairn", "receipt/2", '“cairn” should be “receipt/1”, but is "receipt/2"'),
        ("index", 4, "The header’s index should be 4, but is 5."),
        ("index", 2**53 + 5, "The header’s index should be 9007199254740997, but is 5."),
        ("entry", 2, "Entry 2 is not in the block: the root should be"),
        ("entry", 4, "Entry 4 is in the block, which has 5, is too long: 3 hashes."),
        ("entry", 5, "Entry 5 cannot be in the block: it has 5, from 0 on."),
        ("salt", "00" * 16, "Entry 3 is not in the block: the root should be"),
        ("salt", "AB" * 16, "32 lower-case hex digits"),
        ("data", '{"block":5,"entry":4}', "Entry 3 is not in the block"),
        ("data", "{", "The value should be JSON, but is not"),
        ("entry_proof", [], "is too short: 0 hashes."),
        ("block_proof", ["00" * 32] * 64, "is too long: 64 hashes."),
        ("block_proof", ["00" * 32] * 3, "Block 5 is not in the ledger: the root should be"),
        ("header", "00" * 104, "Entry 3 cannot be in the block: it has 0"),
        ("keys", [1], "“keys” should be a list of at most 100 texts"),
        ("keys", [LEDGER.key.vkey] * 101, "“keys” should be a list of at most 100 texts"),
    ],
)
def test_an_altered_member_is_refused(page: Page, name: str, value: object, reason: str) -> None:
    receipt = LEDGER.receipt(5, 3)
    assert receipt[name] != value
    refused(verify(page, receipt | {name: value}, [LEDGER.key]), reason)


def test_a_proof_one_hash_longer_or_shorter_is_refused(page: Page) -> None:
    receipt = LEDGER.receipt(5, 3)
    for name in ("entry_proof", "block_proof"):
        proof = receipt[name]
        for other in (proof[1:], proof[:-1], [*proof, proof[0]], [proof[0], *proof]):
            refused(verify(page, receipt | {name: other}, [LEDGER.key]), "The proof that")


def test_a_header_of_another_version_is_refused(page: Page) -> None:
    receipt, key = one_block(version=2)
    refused(verify(page, receipt, [key]), "The header’s version should be 1, but is 2.")


def test_a_header_of_another_size_is_refused(page: Page) -> None:
    receipt, key = one_block("[]", bytes_of_entries=19)
    refused(verify(page, receipt, [key]), "the header’s size, 19 bytes, but has 18.")


def test_another_index_that_is_the_same_double_is_refused(page: Page) -> None:
    receipt, key = one_block(index=2**53 + 1, size=2**60)
    refused(verify(page, receipt | {"index": 2**53}, [key]), "should be 9007199254740992, but is")


def test_a_block_zero_that_is_not_the_one_the_origin_names_is_refused(page: Page) -> None:
    receipt, key = one_block(index=0, size=2)
    refused(verify(page, receipt, [key]), f"should be the ledger’s id, {'ab' * 32}, but is")


def test_what_is_not_a_receipt_is_refused(page: Page) -> None:
    good = to_json(LEDGER.receipt(5, 3))
    deep = "[" * 200_000
    for text, reason in [
        ("", "should be JSON"),
        ("nonsense", "should be JSON"),
        (deep, "should be JSON"),
        (deep + "]" * 200_000, "should be a JSON object"),
        ("[]", "should be a JSON object"),
        ("null", "should be a JSON object"),
        ("5", "should be a JSON object"),
        ("{}", "should have a member “cairn”"),
        ("\ufeff" + good, "should be JSON"),
        (good + "x", "should be JSON"),
        (good[:-1] + ', "more": 1}', 'a member too many: "more"'),
        (good[:-1] + ', "__proto__": {}}', 'a member too many: "__proto__"'),
        (good[:-1] + ', "toString": 1}', 'a member too many: "toString"'),
        ('{"index": 5, ' + good[1:], "a member twice"),
        ('{"\\u0069ndex": 5, ' + good[1:], "a member twice"),
        ('{"data": "\\"x\\": :", ' + good[1:], "a member twice"),
        (good.replace('"index": 5', '"index": 5.0'), "a whole number"),
        (good.replace('"index": 5', '"index": 5e0'), "a whole number"),
        (good.replace("block", "\\ud800", 1), "“data” should be a text"),
    ]:
        refused(verify(page, text, [LEDGER.key]), reason)


def test_a_value_that_looks_like_members_is_proved(page: Page) -> None:
    data = '{"\\"index\\": 7, \\"entry\\"":":x","a":"\\\\\\"entry\\":9,"}'
    receipt, key = one_block(data)
    assert verify(page, receipt, [key])["verdict"] == "proved"


def test_bytes_that_are_not_utf_8_are_refused(page: Page) -> None:
    receipt, key = one_block('"a \ufffd"')  # what a lax decoder would put for a wrong byte
    good = to_json(receipt).encode()
    bad = good.replace("\ufffd".encode(), b"\xff")
    for data, verdict in ((good, "proved"), (bad, "not proved"), (b"\xef\xbb\xbf" + good, "not p")):
        result = page.evaluate(
            "([base64, keys]) => verifyReceipt("
            "Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)), keys)",
            [b64encode(data).decode(), [key.vkey]],
        )
        assert result["verdict"].startswith(verdict)


def test_more_than_64_mib_are_refused_and_less_are_read(page: Page) -> None:
    receipt, key = one_block('"' + "x" * 64 + '"')
    for size, reason in ((2**26 + 1, "larger than 64 MiB"), (2**26, "Entry 0 is not in the block")):
        result = page.evaluate(
            "([text, size, keys]) => verifyReceipt("
            "text.replace(/x{64}/, 'x'.repeat(size - text.length + 64)), keys)",
            [to_json(receipt), size, [key.vkey]],
        )
        refused(result, reason)


@pytest.mark.parametrize("name", ["salt", "header", "checkpoint", "data", "cairn"])
def test_a_very_long_member_is_refused_at_once(page: Page, name: str) -> None:
    result = page.evaluate(
        """([text, name, keys]) => {
          const receipt = { ...JSON.parse(text), [name]: "a".repeat(3e7) };
          return verifyReceipt(JSON.stringify(receipt), keys);
        }""",
        [to_json(LEDGER.receipt(5, 3)), name, [LEDGER.key.vkey]],
    )
    refused(result, "")
    assert len(result["reason"]) < 400


# The checkpoint


def notes() -> Mapping[str, tuple[str, str]]:
    """Checkpoints that are not exactly one, each with the reason."""
    good = LEDGER.receipt(5, 3)["checkpoint"]
    origin, size, root, _, line, _ = good.split("\n")
    signature = line.split()[2]
    last = signature[-2]  # before the one "=": its lowest two bits say nothing
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = alphabet[alphabet.index(last) ^ 1]
    form = "should be a text, an empty line and lines of signatures"
    return {
        "nothing": ("", form),
        "no-signatures": (f"{origin}\n{size}\n{root}\n", form),
        "no-signature-line": (f"{origin}\n{size}\n{root}\n\n", "A signature should be"),
        "no-last-newline": (good[:-1], form),
        "carriage-returns": (good.replace("\n", "\r\n"), "control character"),
        "tab": (good.replace(" ", "\t"), "control character"),
        "empty-line-first": ("\n" + good, "origin should be"),
        "empty-line-inside": (good.replace(f"{root}\n", f"{root}\n\n\n"), "no empty line"),
        "empty-line-between-signatures": (good + f"\n{line}\n", "no empty line"),
        "a-line-after": (good + "x\n", "A signature should be"),
        "hyphen-for-dash": (good.replace("—", "-"), "A signature should be"),
        "two-spaces": (good.replace("— ", "—  "), "A signature should be"),
        "space-at-the-end": (good[:-1] + " \n", "A signature should be"),
        "no-break-space": (good.replace("— cairn", "— ca\u00a0irn"), "A signature should be"),
        "only-a-key-id": (good.replace(signature, "AAAAAA=="), "A signature should be"),
        "unpadded": (good.replace(signature, signature.rstrip("=")), "A signature should be"),
        "url-base64": (good.replace(signature, "__" + signature[2:]), "A signature should be"),
        "loose-bits": (good.replace(signature, signature[:-2] + twin + "="), "A signature should"),
        "space-in-base64": (good.replace(root, root[:4] + " " + root[4:]), "root should be"),
        "short-root": (good.replace(root, "AAAA"), "root should be"),
        "zero-before-size": (good.replace(f"\n{size}\n", f"\n0{size}\n"), "size should be"),
        "plus-before-size": (good.replace(f"\n{size}\n", f"\n+{size}\n"), "size should be"),
        "size-in-hex": (good.replace(f"\n{size}\n", "\n0x7\n"), "size should be"),
        "size-2-to-the-63": (good.replace(f"\n{size}\n", f"\n{2**63}\n"), "size should be"),
        "empty-tree": (good.replace(f"\n{size}\n", "\n0\n"), "Block 5 cannot be in the ledger"),
        "smaller-tree": (good.replace(f"\n{size}\n", "\n5\n"), "Block 5 cannot be in the ledger"),
        "another-size": (good.replace(f"\n{size}\n", "\n6\n"), "Block 5 is"),
        "other-origin": (good.replace("cairn/", "stone/"), "origin should be"),
        "upper-case-origin": (origin.upper() + good[len(origin) :], "origin should be"),
        "origin-and-more": (good.replace(f"{origin}\n", f"{origin}0\n"), "origin should be"),
        "signature-of-another-ledger": (
            good.replace(f"{origin}\n", f"cairn/{'0' * 64}\n"),
            "should be by a key that you gave",
        ),
        "too-many-signatures": (good + f"{line}\n" * 100, "at most 100 signatures"),
        "too-long": (good + "— x " + "A" * 2**18 + "\n", "larger than"),
    }


@pytest.mark.parametrize("name", notes())
def test_a_checkpoint_that_is_not_exactly_one_is_refused(page: Page, name: str) -> None:
    note, reason = notes()[name]
    refused(verify(page, LEDGER.receipt(5, 3) | {"checkpoint": note}, [LEDGER.key]), reason)


def test_an_older_checkpoint_with_the_proof_of_a_newer_one_is_refused(page: Page) -> None:
    older = LEDGER.receipt(5, 3, size=6)
    newer = LEDGER.receipt(5, 3)
    mixed = newer | {"checkpoint": older["checkpoint"]}
    refused(verify(page, mixed, [LEDGER.key]), "Block 5 is")


# Every bit

FLIP = """async ([text, name, keys]) => {
  const receipt = JSON.parse(text), isHex = !["data", "checkpoint"].includes(name);
  const values = [receipt[name]].flat();
  const bytesOf = (value) => isHex
    ? Uint8Array.from(value.match(/../g), (pair) => parseInt(pair, 16))
    : new TextEncoder().encode(value);
  const found = { flips: 0, proved: [], cannot: [], unreasoned: [] };
  for (const [place, value] of values.entries()) {
    const bytes = bytesOf(value);
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = bytes.slice();
      flipped[bit >> 3] ^= 1 << (bit & 7);
      let other;
      if (isHex) other = Array.from(flipped, (b) => b.toString(16).padStart(2, "0")).join("");
      else other = String.fromCharCode(...flipped); // a byte a character, to become bytes again
      const member = Array.isArray(receipt[name]) ? receipt[name].with(place, other) : other;
      const json = JSON.stringify({ ...receipt, [name]: isHex ? member : "?!" });
      const whole = new TextEncoder().encode(json);
      const input = isHex ? whole : splice(json, flipped);
      const result = await verifyReceipt(input, keys);
      found.flips += 1;
      if (result.verdict === "proved") found.proved.push(bit);
      if (result.verdict === "cannot check") found.cannot.push(result.reason);
      if (!result.reason || /Error|undefined|NaN/.test(result.reason)) found.unreasoned.push(bit);
    }
  }
  return found;

  function splice(json, bytes) { // into the file, as bytes: they need not be UTF-8 any more
    const escaped = [];
    for (const byte of bytes)
      if (byte === 0x22 || byte === 0x5c) escaped.push(0x5c, byte);
      else if (byte < 0x20) escaped.push(...new TextEncoder().encode(
        `\\\\u${byte.toString(16).padStart(4, "0")}`));
      else escaped.push(byte);
    const [before, after] = json.split('"?!"').map((part) => new TextEncoder().encode(part));
    return Uint8Array.of(...before, 0x22, ...escaped, 0x22, ...after);
  }
}"""


@pytest.mark.parametrize(
    "name", ["salt", "data", "entry_proof", "header", "block_proof", "checkpoint"]
)
def test_every_flipped_bit_is_refused_with_a_reason(page: Page, name: str) -> None:
    receipt = LEDGER.receipt(5, 3)
    found = page.evaluate(FLIP, [to_json(receipt), name, [LEDGER.key.vkey]])
    values = receipt[name] if isinstance(receipt[name], list) else [receipt[name]]
    text = name in ("data", "checkpoint")
    bits = sum(len(v.encode()) * 8 if text else len(v) * 4 for v in values)
    assert found == {"flips": bits, "proved": [], "cannot": [], "unreasoned": []}


def test_every_flipped_bit_of_the_file_is_refused_with_a_reason(page: Page) -> None:
    text = to_json(LEDGER.receipt(5, 3) | {"keys": []})
    found = page.evaluate(
        """async ([text, keys]) => {
          const bytes = new TextEncoder().encode(text), wrong = [];
          for (let bit = 0; bit < bytes.length * 8; bit++) {
            bytes[bit >> 3] ^= 1 << (bit & 7);
            const { verdict, reason } = await verifyReceipt(bytes, keys);
            if (verdict !== "not proved" || !reason.endsWith(".")) wrong.push([bit, reason]);
            bytes[bit >> 3] ^= 1 << (bit & 7);
          }
          return wrong;
        }""",
        [text, [LEDGER.key.vkey]],
    )
    assert found == []


def test_a_flipped_bit_of_a_witness_loses_the_witness_or_the_proof(page: Page) -> None:
    receipt = LEDGER.receipt(5, 3, witnesses=WITNESSES[:1])
    good = receipt["checkpoint"]
    start = good.index("— witness")
    wrong = []
    for at in range(start, len(good)):
        for bit in range(7):
            other = good[:at] + chr(ord(good[at]) ^ 1 << bit) + good[at + 1 :]
            wrong.append(receipt | {"checkpoint": other})
    results = verify_all(page, wrong, [LEDGER.key, WITNESSES[0]])
    assert {r["verdict"] for r in results} == {"proved", "not proved"}
    for result in results:
        if result["verdict"] == "proved":
            assert ["Not witnessed", "by witness.example/one, whose key you gave"] in result[
                "facts"
            ]


# The steps of a proof


def steps_of(result: Result) -> list[tuple[str, bool | None]]:
    return [(step["name"], step["holds"]) for step in result["steps"]]


STEPS = (
    *("Receipt", "Id of the entry", "The entry is in the block", "Header of the block"),
    *("Hash of the block", "Checkpoint", "The block is in the ledger"),
)


def test_every_step_of_a_proof_is_told(page: Page) -> None:
    receipt = LEDGER.receipt(5, 3, witnesses=WITNESSES[:1])
    result = verify(page, receipt, [LEDGER.key, *WITNESSES])
    assert steps_of(result) == [
        *((name, True) for name in STEPS),
        ("Keys that you trust", True),
        ("Signature of the ledger", True),
        ("Cosignature of witness.example/one", True),
        ("Cosignature of witness.example/two", None),
        ("Signed by whom you trust", True),
    ]
    said = {step["name"]: step["said"] for step in result["steps"]}
    salt, data = LEDGER.entries[5][3]
    assert leaf(salt + data.encode()).hex() in said["Id of the entry"]
    assert leaf(LEDGER.headers[5]).hex() in said["Hash of the block"]
    assert tree([leaf(header) for header in LEDGER.headers]).hex() in said["Checkpoint"]
    assert LEDGER.key.vkey in said["Signature of the ledger"]
    assert WITNESSES[0].vkey in said["Cosignature of witness.example/one"]
    assert ("Id of the ledger", True) in steps_of(verify(page, LEDGER.receipt(0), [LEDGER.key]))


def test_without_a_key_the_last_step_is_left_to_the_person(page: Page) -> None:
    result = verify(page, LEDGER.receipt(3), [])
    assert steps_of(result)[-3:] == [
        ("Keys that you trust", None),
        ("Signature of the ledger", True),
        ("Signed by whom you trust", None),
    ]
    assert result["log"] == LEDGER.key.vkey


def test_the_last_step_that_is_told_is_the_one_that_fails(page: Page) -> None:
    receipt, other = LEDGER.receipt(5, 3), LEDGER.receipt(3)
    lines = receipt["checkpoint"].split("\n")
    for altered, name in (
        ({"salt": 1}, "Receipt"),
        ({"data": "1"}, "The entry is in the block"),
        ({"index": 4}, "Header of the block"),
        ({"checkpoint": "x"}, "Checkpoint"),
        ({"block_proof": other["block_proof"]}, "The block is in the ledger"),
        (
            {"checkpoint": "\n".join([*lines[:-2], f"{lines[-2][:-8]}AAAAAAA=", ""])},
            "Signature of the ledger",
        ),
    ):
        result = verify(page, receipt | altered, [LEDGER.key])
        *before, last = steps_of(result)
        assert (last, {holds for _, holds in before} <= {True}) == ((name, False), True)
        assert result["steps"][-1]["said"] == result["reason"]
    result = verify(page, receipt, [WITNESSES[0]])
    assert steps_of(result)[-1] == ("Signed by whom you trust", False)


def test_expected_and_found_are_told_of_a_hash_that_is_another(page: Page) -> None:
    salt, _ = LEDGER.entries[3][0]
    step = verify(page, LEDGER.receipt(3) | {"data": "1"}, [LEDGER.key])["steps"][-1]
    assert step["expected"] == LEDGER.headers[3][64:96].hex()
    assert step["found"] == leaf(salt + b"1").hex()


# What a person sees


def test_a_chosen_file_is_proved_and_shown(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    file = tmp_path / "receipt.json"
    file.write_text(to_json(LEDGER.receipt(5, 3, witnesses=WITNESSES)), encoding="utf-8")
    page.get_by_label("Keys that you trust").fill(
        "\n".join(key.vkey for key in (LEDGER.key, WITNESSES[0]))
    )
    page.get_by_label("Choose a file").set_input_files(file)
    verdict = page.get_by_role("region", name="Verdict")
    expect(verdict.get_by_role("heading", level=2)).to_have_text("Proved")
    expect(page.locator("#value")).to_have_text('{\n  "block": 5,\n  "entry": 3\n}')
    for text in (
        LEDGER.origin.removeprefix("cairn/"),
        "5, entry 3 of its 5, counted from 0; the checkpoint has 7 blocks",
        "2018-05-22 13:23:23.022221 UTC",
        LEDGER.key.vkey,
        "by witness.example/one, 2023-11-14 22:13:20.000000 UTC",
        "witness.example/two",
    ):
        expect(verdict.get_by_text(text, exact=True)).to_be_visible()


def test_a_pasted_receipt_waits_for_its_key(open_page: OpenPage) -> None:
    page = open_page()
    title = page.get_by_role("status").get_by_role("heading")
    expect(title).to_have_text("No receipt yet")
    page.get_by_label("Receipt", exact=True).fill(to_json(LEDGER.receipt(3)))
    expect(title).to_have_text("Everything fits; the signer is not known to you")
    expect(page.locator("#verdict")).to_have_attribute("data-state", "open")
    expect(page.locator("#reason")).to_contain_text("who signed is not known")
    page.get_by_label("Keys that you trust").fill(LEDGER.key.vkey)
    expect(title).to_have_text("Proved")
    page.get_by_label("Keys that you trust").fill("x")
    expect(title).to_have_text("Cannot check")
    page.get_by_label("Receipt", exact=True).fill("x")
    expect(title).to_have_text("Not proved")
    expect(page.locator("#facts")).to_be_empty()
    page.get_by_label("Receipt", exact=True).fill("")
    expect(title).to_have_text("No receipt yet")


def test_the_steps_are_shown_with_signs_and_words(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Keys that you trust").fill(f"{LEDGER.key.vkey} {WITNESSES[0].vkey}")
    page.get_by_label("Receipt", exact=True).fill(to_json(LEDGER.receipt(3)))
    steps = page.locator("#steps > li")
    expect(steps).to_have_count(11)
    expect(steps.nth(2)).to_contain_text("✓The entry is in the block: holdsIt is the data root")
    expect(steps.nth(9)).to_contain_text("–Cosignature of witness.example/one: open")
    page.get_by_label("Receipt", exact=True).fill(to_json(LEDGER.receipt(3) | {"data": "1"}))
    expect(steps).to_have_count(3)
    expect(steps.nth(2)).to_contain_text("✗The entry is in the block: does not hold")
    expect(steps.nth(2).locator("dd").first).to_have_text(LEDGER.headers[3][64:96].hex())
    expect(page.locator("#steps [aria-hidden=true]")).to_have_count(3)
    page.get_by_label("Receipt", exact=True).fill("")
    expect(page.get_by_text("Step by step")).to_be_hidden()


def test_a_dropped_file_is_proved(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Keys that you trust").fill(LEDGER.key.vkey)
    transfer = page.evaluate_handle(
        """(text) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([text], "dropped.json"));
          return transfer;
        }""",
        to_json(LEDGER.receipt(3)),
    )
    for event in ("dragover", "drop"):
        page.dispatch_event("main", event, {"dataTransfer": transfer})
    expect(page.get_by_role("status").get_by_role("heading")).to_have_text("Proved")
    expect(page.locator("#from")).to_have_text("dropped.json")


def test_a_file_that_vanished_is_said_to_be_unreadable(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    file = tmp_path / "receipt.json"
    file.write_text("x")
    page.get_by_label("Choose a file").set_input_files(file)
    expect(page.locator("#reason")).to_contain_text("should be JSON")
    page.evaluate(
        "File.prototype.slice = () => ({ arrayBuffer: () => Promise.reject(new Error('gone')) })"
    )
    page.get_by_label("Choose a file").set_input_files(file)
    expect(page.locator("#reason")).to_have_text("The file cannot be read.")


def test_a_value_is_shown_as_text_whatever_it_holds(open_page: OpenPage) -> None:
    page = open_page()
    data = (
        '{"html":"<img src=x onerror=alert(1)><script>alert(2)</script>","long":'
        '18446744073709551615,"bidi":"\u202egnp.exe","empty":[{},[]],"quotes":"\\"{[,:\\\\","list":[1,-0.5]}'
    )
    receipt, key = one_block(data)
    page.get_by_label("Keys that you trust").fill(key.vkey)
    page.get_by_label("Receipt", exact=True).fill(to_json(receipt))
    shown = page.locator("#value")
    expect(shown).to_have_text(
        "{\n"
        '  "html": "<img src=x onerror=alert(1)><script>alert(2)</script>",\n'
        '  "long": 18446744073709551615,\n'
        '  "bidi": "\\u202egnp.exe",\n'
        '  "empty": [\n    {},\n    []\n  ],\n'
        '  "quotes": "\\"{[,:\\\\",\n'
        '  "list": [\n    1,\n    -0.5\n  ]\n'
        "}"
    )
    assert page.locator("#verdict img, #verdict script").count() == 0


def test_a_long_value_is_proved_whole_and_shown_in_part(open_page: OpenPage) -> None:
    page = open_page()
    receipt, key = one_block("[" + ",".join(["[1]"] * 50_000) + "]")
    page.get_by_label("Keys that you trust").fill(key.vkey)
    page.get_by_label("Choose a file").set_input_files(
        {"name": "long.json", "mimeType": "", "buffer": to_json(receipt).encode()}
    )
    expect(page.get_by_role("status").get_by_role("heading")).to_have_text("Proved")
    expect(page.get_by_text("its first 100000 of 200001 characters")).to_be_visible()


def test_a_value_nested_without_end_is_shown(open_page: OpenPage) -> None:
    page = open_page()
    receipt, key = one_block("[" * 20_000 + "]" * 20_000)
    page.get_by_label("Keys that you trust").fill(key.vkey)
    page.get_by_label("Receipt", exact=True).fill(to_json(receipt))
    expect(page.get_by_role("status").get_by_role("heading")).to_have_text("Proved")
    expect(page.locator("#value")).to_contain_text("[]")


def test_what_an_earlier_check_finds_does_not_replace_a_later_one(open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate(
        """() => {
          const verify = globalThis.verifyReceipt;
          const gate = new Promise((open) => { globalThis.letPass = open; });
          globalThis.verifyReceipt = (input, keys) => {
            if (input !== "slow") return verify(input, keys);
            globalThis.slow = gate.then(() => verify(input, keys));
            return globalThis.slow;
          };
        }"""
    )
    receipt = page.get_by_label("Receipt", exact=True)
    receipt.fill("slow")
    receipt.fill("[]")
    expect(page.locator("#reason")).to_contain_text("should be a JSON object")
    assert page.evaluate("letPass(), slow")["reason"].startswith("The receipt should be JSON,")
    expect(page.locator("#reason")).to_contain_text("should be a JSON object")


def test_the_page_can_be_used_by_keyboard(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Keys that you trust").fill(LEDGER.key.vkey)
    page.get_by_label("Receipt", exact=True).fill(to_json(LEDGER.receipt(3)))
    expect(page.locator("#value")).to_be_visible()
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["keys", "value", "", "file", "receipt"]


# Where it runs


@pytest.fixture
def strict() -> dict[str, str]:
    """The headers that a server sends at its strictest."""
    sources = "; ".join(
        f"{tag}-src 'sha256-{b64encode(sha256(body.encode()).digest()).decode()}'"
        for tag, body in inline().items()
    )
    return {"Content-Security-Policy": f"default-src 'none'; {sources}"}


def inline() -> dict[str, str]:
    text = PAGE.read_text(encoding="utf-8")
    return {
        tag: body
        for tag in ("script", "style")
        for body in re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    }


def proves(page: Page) -> None:
    page.get_by_label("Keys that you trust").fill(LEDGER.key.vkey)
    page.get_by_label("Receipt", exact=True).fill(to_json(LEDGER.receipt(5, 3)))
    expect(page.get_by_role("status").get_by_role("heading")).to_have_text("Proved")
    assert page.locator("main").evaluate("(main) => getComputedStyle(main).maxWidth") != "none"


def test_it_works_from_disk_without_a_network(open_page: OpenPage) -> None:
    proves(open_page(offline=True))


def test_it_leads_back_to_the_node_that_serves_it_and_from_a_disk_nowhere(
    open_page: OpenPage, strict: dict[str, str]
) -> None:
    with serving(strict) as port:
        page = open_page(f"http://127.0.0.1:{port}/")
        expect(page.get_by_role("link", name="The ledger")).to_have_attribute("href", "/")
    expect(open_page().get_by_role("link")).to_have_count(0)


def test_it_works_from_a_server_with_a_strict_policy(
    open_page: OpenPage, strict: dict[str, str]
) -> None:
    with serving(strict) as port:
        proves(open_page(f"http://127.0.0.1:{port}/"))
        proves(open_page(f"http://localhost:{port}/"))


def test_over_plain_http_from_elsewhere_it_says_why_it_cannot_check(open_page: OpenPage) -> None:
    with serving({}) as port:
        page = open_page(f"http://{FAR_HOST}:{port}/")
        title = page.get_by_role("status").get_by_role("heading")
        expect(title).to_have_text("Cannot check")
        page.get_by_label("Receipt", exact=True).fill(to_json(LEDGER.receipt(5, 3)))
        page.get_by_label("Keys that you trust").fill(LEDGER.key.vkey)
        expect(title).to_have_text("Cannot check")
        for words in ("plain http", "WebCrypto", "from disk", "https", "cairn verify FILE"):
            expect(page.locator("#reason")).to_contain_text(words)


@pytest.mark.parametrize(
    ("init", "name"),
    [
        (
            """globalThis.SubtleCrypto && (SubtleCrypto.prototype.importKey = async () => {
              throw new DOMException("Unrecognized name.", "NotSupportedError");
            })""",
            "NotSupportedError",
        ),
        ("Object.defineProperty(crypto, 'subtle', { value: undefined });", "TypeError"),
    ],
    ids=["ed25519", "subtle"],
)
def test_a_browser_that_lacks_cryptography_says_so(
    open_page: OpenPage, init: str, name: str
) -> None:
    page = open_page(init=init)
    expect(page.get_by_role("status").get_by_role("heading")).to_have_text("Cannot check")
    expect(page.locator("#reason")).to_contain_text(f"no Ed25519 signatures ({name})")
    expect(page.locator("#reason")).to_contain_text("cairn verify FILE")
    assert verify(page, LEDGER.receipt(3), [LEDGER.key])["verdict"] == "cannot check"


def test_a_fault_of_the_page_is_not_called_one_of_the_receipt(open_page: OpenPage) -> None:
    page = open_page(
        init="globalThis.SubtleCrypto && (SubtleCrypto.prototype.digest = async () => {"
        " throw new Error('out of luck'); })"
    )
    result = verify(page, LEDGER.receipt(3), [LEDGER.key])
    assert result["verdict"] == "cannot check"
    assert "This page failed (Error: out of luck)" in result["reason"]


def test_without_scripts_it_says_that_it_cannot_check(browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(PAGE.as_uri())
    expect(page.get_by_role("heading", name="Cannot check")).to_be_visible()
    expect(page.get_by_text("cairn verify FILE")).to_be_visible()
    context.close()


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_it_is_one_file_that_a_strict_policy_can_name() -> None:
    parser = Elements()
    parser.feed(PAGE.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in parser.found]
    assert (tags.count("script"), tags.count("style")) == (1, 1)
    assert not {"link", "img", "iframe", "object", "form", "base"} & set(tags)
    for _, attributes in parser.found:
        for name in attributes:
            assert not name.startswith("on")
            assert name not in ("style", "src", "href", "srcset", "action")


def test_its_own_policy_names_its_script_and_its_style(strict: dict[str, str]) -> None:
    [policy] = re.findall(
        'http-equiv="Content-Security-Policy" content="([^"]*)"', PAGE.read_text(encoding="utf-8")
    )
    expected = strict["Content-Security-Policy"] + "; base-uri 'none'; form-action 'none'"
    assert policy == expected


# The reference itself


def test_the_reference_makes_keys_as_c2sp_does() -> None:
    vkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    name, id_, public = vkey.split("+")
    assert key_id(name, b64decode(public)).hex() == id_


def test_roots_of_equal_leaves_are_those_of_the_definition() -> None:
    for n in range(1, 20):
        for m in range(n):
            leaves = [leaf(b"filler")] * n
            leaves[m] = leaf(b"mine")
            assert lonely(m, n, leaf(b"mine")) == (tree(leaves), path(m, leaves))
        assert equal_leaves(n) == tree([leaf(b"filler")] * n)
