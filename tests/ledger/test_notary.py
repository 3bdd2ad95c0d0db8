"""What a ledger signs: never two heads that do not agree, and receipts for every entry."""

from __future__ import annotations

import json
import shutil
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from cairn import Ledger
from cairn.core.errors import (
    DamagedError,
    InconsistentError,
    NoSuchBlockError,
    NotFoundError,
    ProofError,
    StoreError,
)
from cairn.core.rules import InvalidChainError
from cairn.core.segment import Segment
from cairn.lab.tampering import Forgery, forging, rechain
from cairn.proof.checkpoint import Checkpoint, Policy
from cairn.proof.keyring import Keyring
from cairn.proof.note import Note, VerifierKey
from cairn.proof.receipt import Receipt
from cairn.store.memory import MemoryStore
from tests.builders import chain
from tests.core.reference import leaf, tree
from tests.interop import reference
from tests.ledger.conftest import tail, tiny, write
from tests.page.reference import path as inclusion_path

SIZE = 20


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "home")


@pytest.fixture
def path(tmp_path: Path, keyring: Keyring) -> Path:
    """A ledger of 20 blocks that was signed, and closed."""
    path = tmp_path / "ledger"
    with Ledger.open(path, keyring=keyring) as ledger:
        ledger.extend(range(1, SIZE))
        ledger.checkpoint()
    return path


def forge(path: Path, change: Callable[[list[Forgery]], object]) -> None:
    """Rewrite a ledger as its owner could: everything agrees afterwards."""
    with forging(path, cover_tracks=True) as blocks:
        change(blocks)
        rechain(blocks)


def rewrite(block: Forgery) -> None:
    block.entries[0] = block.entries[0][:16] + b'"rewritten"'


def sizes(keyring: Keyring, origin: str) -> tuple[int, ...]:
    """Return the size that is remembered as signed; none if there is none."""
    text = keyring.signed.last(origin)
    return () if text is None else (Checkpoint.parse(Note.parse(text).text).size,)


# What is signed


def test_signed_checkpoint_is_that_of_the_reference(path: Path, keyring: Keyring) -> None:
    with Ledger.open(path, keyring=keyring) as ledger:
        for _ in range(3):
            ledger.extend(range(100))
            headers = [block.header.pack() for block in ledger]
            origin = f"cairn/{leaf(headers[0]).hex()}"
            root = tree([leaf(header) for header in headers])
            note = ledger.notary.sign()
            assert note.text == reference.checkpoint_text(origin, len(headers), root)
            [key] = keyring.trusted(origin)
            assert note.verified([key]) == {key: 0}
            assert keyring.signed.last(origin) == str(note)


def test_nothing_is_published_that_is_not_remembered(path: Path, keyring: Keyring) -> None:
    with Ledger.open(path, keyring=keyring) as ledger:
        before = ledger.notary.published()
        ledger.append("more")
        with (
            patch.object(keyring.signed, "replace", side_effect=StoreError("full")),
            pytest.raises(StoreError, match="full"),
        ):
            ledger.checkpoint()
        assert ledger.notary.published() == before
        assert sizes(keyring, ledger.notary.origin) == (SIZE,)
        assert ledger.checkpoint().checkpoint.size == SIZE + 1


def test_what_was_remembered_and_not_published_is_published_later(
    path: Path, keyring: Keyring
) -> None:
    with Ledger.open(path, keyring=keyring) as ledger:
        ledger.append("more")
        signed = ledger.notary.sign()
        assert ledger.notary.published() != signed
    with Ledger.open(path, keyring=keyring) as ledger:
        assert ledger.checkpoint().note == signed == ledger.notary.published()


def test_two_processes_with_one_key_sign_one_history(path: Path, keyring: Keyring) -> None:
    """Whoever is slower looks again, and signs what extends the faster one's."""
    with Ledger.open(path, keyring=keyring) as ledger:
        other = Ledger.open(path, read_only=True, keyring=Keyring(keyring.folder))
        replace = keyring.signed.replace

        def overtaken(origin: str, before: str | None, note: str) -> bool:
            keyring.signed.replace = replace  # type: ignore[method-assign]
            ledger.append("even more")
            other.notary.sign()
            return replace(origin, before, note)

        ledger.append("more")
        keyring.signed.replace = overtaken  # type: ignore[method-assign]
        with other:
            assert Checkpoint.parse(ledger.notary.sign().text).size == SIZE + 2
        assert sizes(keyring, ledger.notary.origin) == (SIZE + 2,)


# What is refused


@pytest.mark.parametrize("at", [0, 1, SIZE // 2, SIZE - 1])
@pytest.mark.parametrize("more", [0, 1, 50])
def test_rewritten_and_rechained_ledger_is_not_signed(
    at: int, more: int, path: Path, keyring: Keyring
) -> None:
    with Ledger.open(path, read_only=True, keyring=keyring) as ledger:
        origin = ledger.notary.origin
    if at == 0:
        forge(path, lambda blocks: blocks[0].change(timestamp=blocks[0].header.timestamp - 1))
    else:
        forge(path, lambda blocks: rewrite(blocks[at]))
    with Ledger.open(path, keyring=keyring) as ledger:
        if more:
            ledger.extend(range(more))
        if at == 0:  # that is another ledger, and its checkpoint is not of it
            assert ledger.notary.origin != origin
            with pytest.raises(InconsistentError, match="signed for another ledger"):
                ledger.checkpoint()
            assert not ledger.validate().valid
            return
        with pytest.raises(InconsistentError) as caught:
            ledger.checkpoint()
        assert f"the first {SIZE} blocks are not those" in str(caught.value)
        evidence = Path(caught.value.evidence)
        assert evidence.parent == keyring.evidence
        text = evidence.read_text("utf-8")
        assert str(keyring.signed.last(origin)) in text
        assert f"{origin}\n{SIZE + more}\n" in text
        report = ledger.validate()
        assert report.failure is not None
        assert (report.failure.rule, report.failure.index) == ("checkpoint", SIZE - 1)
    assert sizes(keyring, origin) == (SIZE,)


@pytest.mark.parametrize("left", [1, 2, SIZE - 1])
def test_truncated_ledger_is_not_signed_before_or_after_it_has_grown_again(
    left: int, path: Path, keyring: Keyring
) -> None:
    with forging(path, cover_tracks=True) as blocks:
        del blocks[left:]
    with Ledger.open(path, keyring=keyring) as ledger:
        with pytest.raises(InconsistentError, match="the ledger was cut since"):
            ledger.checkpoint()
        ledger.extend(range(SIZE - left + 5))
        with pytest.raises(InconsistentError, match=f"the first {SIZE} blocks are not those"):
            ledger.checkpoint()


def test_backup_that_was_put_back_is_not_signed(
    path: Path, tmp_path: Path, keyring: Keyring
) -> None:
    shutil.copytree(path, tmp_path / "old")
    with Ledger.open(path, keyring=keyring) as ledger:
        ledger.append("after the backup")
        ledger.checkpoint()
    with Ledger.open(tmp_path / "old", keyring=keyring) as ledger:
        with pytest.raises(InconsistentError, match="the ledger was cut since"):
            ledger.checkpoint()
        ledger.append("instead")
        with pytest.raises(InconsistentError):
            ledger.receipt(1)


def test_block_that_breaks_a_rule_is_not_signed(path: Path, keyring: Keyring) -> None:
    with Ledger.open(path, keyring=keyring) as ledger:
        ledger.extend(["more"] * 5)
        origin = ledger.notary.origin
    with forging(path, cover_tracks=False) as blocks:
        rewrite(blocks[SIZE + 2])
    with (
        Ledger.open(path, keyring=keyring) as ledger,
        pytest.raises(InvalidChainError, match=f"block {SIZE + 2} breaks rule 'size'"),
    ):
        ledger.checkpoint()
    assert sizes(keyring, origin) == (SIZE,)


def test_contradiction_is_told_where_the_evidence_cannot_be_written(
    path: Path, keyring: Keyring
) -> None:
    forge(path, lambda blocks: rewrite(blocks[3]))
    keyring.evidence.write_text("a file where a folder should be")
    with Ledger.open(path, keyring=keyring) as ledger:
        with pytest.raises(InconsistentError, match="the evidence is in no file: "):
            ledger.checkpoint()
        assert not ledger.validate().valid


def test_published_checkpoint_by_a_stranger_is_not_remembered(
    path: Path, tmp_path: Path, keyring: Keyring
) -> None:
    """Nor one of another ledger, nor what is none: the directory is anybody's to write."""
    stranger = Keyring(tmp_path / "elsewhere")
    with Ledger.open(path, keyring=keyring) as ledger:
        origin = ledger.notary.origin
        own = ledger.notary.remembered()
        text = Checkpoint(origin, 1000, bytes(32)).text
        forged = Note(text, (stranger.signing_key(origin).sign(text),))
        for published in (str(forged), "nothing of the kind", ""):
            (path / "checkpoint").write_text(published)
            assert ledger.notary.remembered()[0] == own[0]
            assert len(ledger.notary.remembered()) == 1
            assert ledger.validate().valid
    with Ledger.open(path, read_only=True, keyring=keyring) as ledger:
        (path / "checkpoint").write_text(str(forged))
        assert ledger.assurance == "chained"
        with pytest.raises(ProofError, match="no trusted key"):
            ledger.checkpoint()
        text = Checkpoint(f"cairn/{'0' * 64}", SIZE, bytes(32)).text
        (path / "checkpoint").write_text(str(Note(text, forged.signatures)))
        with pytest.raises(ProofError, match="the published checkpoint is of cairn/000"):
            ledger.checkpoint()
        (path / "checkpoint").unlink()
        with pytest.raises(NotFoundError):
            ledger.checkpoint()


# Receipts


def with_batches(path: Path, keyring: Keyring) -> Ledger:
    """Return a ledger of 40 blocks, some of which hold several entries, in files and the tail."""
    values = [n if n % 3 else tuple(range(n % 7 + 1)) for n in range(1, 40)]
    with tiny(seal=8):
        write(path, chain(*values))
    return Ledger.open(path, keyring=keyring)


def test_receipt_of_every_entry_proves_it_as_the_reference_does(
    tmp_path: Path, keyring: Keyring
) -> None:
    with with_batches(tmp_path / "ledger", keyring) as ledger:
        note = ledger.published()
        policy = ledger.notary.policy()
        leaves = [block.header.hash for block in ledger]
        proved = 0
        for block in ledger:
            ids = [entry.id for entry in block.entries]
            for place in range(len(ids)):
                receipt = ledger.notary.receipt(block.index, place, note)
                assert list(receipt.entry_proof) == inclusion_path(place, ids)
                assert list(receipt.block_proof) == inclusion_path(block.index, leaves)
                for text in (receipt.to_json(), receipt.to_tlog_proof()):
                    found = Receipt.parse(text).check(policy)
                    assert found.entry == block.entries[place]
                    assert found.header == block.header
                proved += 1
            for place in (-1, len(ids), 2**40):
                with pytest.raises(NoSuchBlockError, match=f"no entry {place} in block"):
                    ledger.notary.receipt(block.index, place, note)
        assert proved > 60
        for index in (-1, 40, 2**70):
            with pytest.raises(NoSuchBlockError, match=f"no block {index} below size 40"):
                ledger.notary.receipt(index, 0, note)


def test_receipt_under_an_older_checkpoint_is_made_for_what_that_covers(
    path: Path, keyring: Keyring
) -> None:
    with Ledger.open(path, keyring=keyring) as ledger:
        old = ledger.published()
        ledger.extend(range(700))
        new = ledger.published()
        policy = ledger.notary.policy()
        for index in range(SIZE):
            for note, size in ((old, SIZE), (new, SIZE + 700)):
                proved = ledger.notary.receipt(index, 0, note).check(policy)
                assert proved.signed.checkpoint.size == size
        with pytest.raises(NoSuchBlockError):
            ledger.notary.receipt(SIZE, 0, old)


def test_receipt_names_its_signer_in_full(path: Path, tmp_path: Path, keyring: Keyring) -> None:
    with Ledger.open(path, keyring=keyring) as ledger:
        receipt = ledger.receipt(3)
        [vkey] = receipt.keys
        assert vkey == str(keyring.signing_key(ledger.notary.origin).verifier)
    with pytest.raises(ProofError) as caught:
        receipt.check(Policy())
    assert vkey in str(caught.value)
    assert receipt.check(Policy((VerifierKey.parse(vkey),))).entry.value == 3


@pytest.mark.parametrize("at", [1, 7, SIZE - 1])
def test_data_that_was_changed_gets_no_receipt(at: int, path: Path, keyring: Keyring) -> None:
    with Ledger.open(path, keyring=keyring) as ledger:
        note = ledger.published()
    with forging(path, cover_tracks=False) as blocks:
        rewrite(blocks[at])
    with Ledger.open(path, read_only=True, keyring=keyring) as ledger:
        with pytest.raises(DamagedError, match=f"the data of block {at} was changed"):
            ledger.notary.receipt(at, 0, note)
        other = (at + 1) % SIZE
        receipt = ledger.notary.receipt(other, 0, note)
        assert receipt.check(ledger.notary.policy()).header.index == other


def test_block_that_was_replaced_gets_no_receipt(path: Path, keyring: Keyring) -> None:
    with Ledger.open(path, keyring=keyring) as ledger:
        note = ledger.published()
    forge(path, lambda blocks: rewrite(blocks[7]))
    with Ledger.open(path, read_only=True, keyring=keyring) as ledger:
        for index in range(SIZE):
            with pytest.raises(DamagedError, match=f"block {index} is not what was signed"):
                ledger.notary.receipt(index, 0, note)


def test_kept_node_that_was_changed_does_not_stop_signing(tmp_path: Path, keyring: Keyring) -> None:
    """Those are copies: the blocks are what counts."""
    path = tmp_path / "ledger"
    with tiny(seal=300, part=100), Ledger.open(path, keyring=keyring) as ledger:
        for _ in range(4):
            ledger.extend(range(300))
        note = ledger.published()
    with closing(sqlite3.connect(tail(path))) as connection, connection:
        assert connection.execute("UPDATE nodes SET hash = zeroblob(32)").rowcount > 2
    with Ledger.open(path, keyring=keyring) as ledger:
        assert ledger.notary.tree.root(len(ledger)) != Checkpoint.parse(note.text).root
        assert ledger.notary.contradiction(note) is None
        receipt = ledger.notary.receipt(500, 0, note)
        assert receipt.check(ledger.notary.policy()).entry.value == 199


@pytest.mark.parametrize("size", [257, 1024, 1201])
def test_root_is_made_of_blocks_where_kept_nodes_were_changed(
    size: int, tmp_path: Path, keyring: Keyring
) -> None:
    """A root that is made of wrong ones would be a fork, once it is signed."""
    path = tmp_path / "ledger"
    with tiny(seal=100, part=100), Ledger.open(path, keyring=keyring) as ledger:
        while len(ledger) < size:
            ledger.extend(range(min(size - len(ledger), 256 - len(ledger) % 256)))
        ledger.checkpoint()
    with closing(sqlite3.connect(tail(path))) as connection, connection:
        assert connection.execute("UPDATE nodes SET hash = zeroblob(32)").rowcount
    for more in (1, 255, 256, 1):
        with Ledger.open(path, keyring=keyring) as ledger:
            ledger.extend(range(more))
            root = ledger.checkpoint().checkpoint.root
            assert root == tree([leaf(block.header.pack()) for block in ledger])


@pytest.mark.parametrize("more", [1, 212, 300, 700])
def test_hash_that_was_changed_among_what_was_signed_makes_no_fork(
    more: int, tmp_path: Path, keyring: Keyring
) -> None:
    """What is signed goes on from the tree that was, whatever is stored of its blocks now."""
    path = tmp_path / "ledger"
    with tiny(seal=100, part=100), Ledger.open(path, keyring=keyring) as ledger:
        ledger.extend(range(255))
        ledger.extend(range(44))
        ledger.checkpoint()
        leaves = [block.header.hash for block in ledger]
    with forging(path, cover_tracks=False) as blocks:
        blocks[5].hash = bytes(32)
    with Ledger.open(path, keyring=keyring) as ledger:
        ledger.extend(range(more))
        leaves += [block.header.hash for block in ledger[300:]]
        assert ledger.checkpoint().checkpoint.root == tree(leaves)
        assert not ledger.validate().valid


@pytest.mark.parametrize("at", [1, 700, 1023])
def test_rewritten_ledger_whose_kept_nodes_were_left_is_found_out(
    at: int, tmp_path: Path, keyring: Keyring
) -> None:
    """They alone lead to the root that was signed: its size is that of full tiles."""
    path = tmp_path / "sealed"
    with tiny(seal=100, part=100), Ledger.open(path, keyring=keyring) as ledger:
        for size in (256, 512, 768, 1024):
            ledger.extend(range(size - len(ledger)))
        root = ledger.checkpoint().checkpoint.root
    forge(path, lambda blocks: rewrite(blocks[at]))
    with Ledger.open(path, keyring=keyring) as ledger:
        assert ledger.notary.tree.root(1024) == root
        report = ledger.validate()
        assert report.failure is not None
        assert (report.failure.rule, report.failure.index) == ("checkpoint", 1023)
        ledger.append("more")
        with pytest.raises(InconsistentError):
            ledger.checkpoint()


def test_receipt_outlives_a_hundred_checkpoints_and_the_ledger(
    tmp_path: Path, keyring: Keyring
) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path, keyring=keyring) as ledger:
        ledger.append({"paid": 100})
        text = ledger.receipt(1).to_json()
        policy = ledger.notary.policy()
        for _ in range(100):
            ledger.extend(range(200))
            ledger.checkpoint()
        assert len(ledger) > 20_000
        again = ledger.receipt(1)
        assert again.check(policy).signed.checkpoint.size == len(ledger)
    shutil.rmtree(path)
    proved = Receipt.parse(text).check(policy)
    assert proved.entry.value == {"paid": 100}
    assert proved.signed.checkpoint.size == 2


@pytest.mark.soak
def test_receipt_outlives_a_million_appends(tmp_path: Path, keyring: Keyring) -> None:
    with Ledger.open(tmp_path / "ledger", keyring=keyring) as ledger:
        ledger.append({"paid": 100})
        text = ledger.receipt(1).to_json()
        policy = ledger.notary.policy()
        for _ in range(20):
            ledger.extend(range(50_000))
            ledger.checkpoint()
        assert Receipt.parse(text).check(policy).entry.value == {"paid": 100}
        for index in (0, 1, 65_536, 500_000, 1_000_001):
            assert ledger.receipt(index).check(policy).signed.checkpoint.size == 1_000_002


def test_memory_store_signs_as_well(keyring: Keyring) -> None:
    blocks = chain(*range(5))
    ledger = Ledger(MemoryStore(Segment.from_blocks(0, blocks)), keyring=keyring)
    signed = ledger.checkpoint()
    root = b64encode(tree([leaf(block.header.pack()) for block in blocks])).decode()
    assert signed.note.text.split("\n")[1:3] == ["6", root]
    assert json.loads(ledger.receipt(5).to_json())["data"] == "4"
