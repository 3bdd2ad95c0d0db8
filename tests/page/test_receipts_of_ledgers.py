"""Receipts that Cairn makes, in the page and in `cairn verify` alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from playwright.sync_api import Page

from cairn import Ledger
from cairn.cli import main
from cairn.core.errors import ProofError
from cairn.core.segment import Segment
from cairn.proof.keyring import Keyring
from cairn.proof.note import Algorithm, Note, VerifierKey
from cairn.proof.receipt import Receipt
from cairn.store.memory import MemoryStore
from tests.builders import chain


def in_page(page: Page, receipt: str, *keys: VerifierKey | str) -> dict[str, Any]:
    result: dict[str, Any] = page.evaluate(
        "([text, keys]) => verifyReceipt(text, keys)", [receipt, [str(key) for key in keys]]
    )
    return result


def in_command(path: Path, receipt: str, *keys: VerifierKey | str) -> int:
    path.write_text(receipt, encoding="utf-8")
    options = [word for key in keys for word in ("--key", str(key))]
    return CliRunner().invoke(main, ["verify", str(path), *options]).exit_code


def test_receipts_of_every_entry_are_proved(page: Page, tmp_path: Path) -> None:
    blocks = chain("one", {"two": 2}, ("three", "four", 5), (), [None, 1.5, "é€😀"], ("six",))
    store = MemoryStore(Segment.from_blocks(0, blocks))
    ledger = Ledger(store, keyring=Keyring(tmp_path / "home"))
    key = ledger.checkpoint().log_keys[0]
    for block in blocks:
        for place in range(len(block.entries)):
            receipt = ledger.receipt(block.index, place)
            result = in_page(page, receipt.to_json(), key)
            assert result["verdict"] == "proved", result
            assert result["value"] == block.entries[place].canonical.decode()
            assert in_command(tmp_path / "r.json", receipt.to_json(), key) == 0
            assert in_command(tmp_path / "r.txt", receipt.to_tlog_proof(), key) == 0


def test_a_receipt_stays_good_while_the_ledger_grows_and_goes(page: Page, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger", keyring=Keyring(tmp_path / "home")) as ledger:
        ledger.extend({"step": i} for i in range(300))
        receipt = ledger.receipt(17).to_json()
        key = ledger.checkpoint().log_keys[0]
        ledger.extend({"step": i} for i in range(20_000))
        later = ledger.receipt(17).to_json()
        assert ledger.validate().valid
    assert receipt != later
    for text in (receipt, later):
        assert in_page(page, text, key)["value"] == '{"step":16}'
        assert in_command(tmp_path / "r.json", text, key) == 0


def test_a_cosignature_is_seen(page: Page, tmp_path: Path) -> None:
    ledger = Ledger.in_memory(keyring=Keyring(tmp_path / "home"))
    ledger.append("here")
    witness = Keyring(tmp_path / "other").signing_key("witness.example", Algorithm.COSIGNATURE)
    note = ledger.published()
    cosignature = witness.sign(note.text, time=1_800_000_000)
    ledger.notary.publish(Note(note.text, (*note.signatures, cosignature)))
    key = ledger.checkpoint().log_keys[0]
    result = in_page(page, ledger.receipt(1).to_json(), key, witness.verifier)
    assert result["verdict"] == "proved"
    assert "2027-01-15" in json.dumps(result["facts"])
    assert "witness.example" in json.dumps(result["facts"])


def test_page_and_command_agree_on_every_altered_member(page: Page, tmp_path: Path) -> None:
    ledger = Ledger.in_memory(keyring=Keyring(tmp_path / "home"))
    ledger.append_all(["a", "b", "c", "d"])
    key = ledger.checkpoint().log_keys[0]
    members = json.loads(ledger.receipt(3).to_json())
    other = json.loads(ledger.receipt(2).to_json())
    policy = ledger.notary.policy()
    for name in set(members) - {"keys"}:
        for value in (other[name], None, 0, "", [], "x", -1, 2**63, [""], ["00" * 32]):
            if value == members[name] and type(value) is type(members[name]):
                continue
            text = json.dumps({**members, name: value})
            with pytest.raises(ProofError):
                Receipt.parse(text).check(policy)
            assert in_page(page, text, key)["verdict"] == "not proved", (name, value)
