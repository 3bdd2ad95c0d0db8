"""Stored ledgers of work, by `cairn validate` and by the validator that the format page made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cairn import Ledger
from cairn.core.block import Block
from cairn.core.genesis import Work
from cairn.ledger.exchange import import_chain
from tests import independent
from tests.builders import mined
from tests.independent import Finding

CHAIN = mined(
    *([i, {"batch": i}] for i in range(6)),
    seal=Work(interval=1_000_000, half_life=4_000_000, final_depth=3),
    bits=0x201FFFFF,
    times=(200_000, 1_900_000, 700_000),
)
LENGTH = len(CHAIN)


def imported(directory: Path, blocks: list[Block] = CHAIN) -> Path:
    import_chain(directory, [block.to_json().encode() for block in blocks])
    return directory


def agreed(directory: Path) -> list[Finding]:
    """Return what both validators find."""
    findings = independent.check(directory)
    with Ledger.open(directory, read_only=True) as ledger:
        for every in (True, False):
            report = ledger.validate(all=every)
            found = [Finding(f.index, f.rule) for f in report.failures]
            assert found == (findings if every else findings[:1])
    return findings


def change(directory: Path, column: str, position: int, mask: int) -> None:
    """Flip bits of one byte of a column of the tail, whose rows are laid end to end."""
    with closing(sqlite3.connect(directory / "tail.sqlite", isolation_level=None)) as database:
        rows = database.execute(f"SELECT rowid, {column} FROM runs ORDER BY first").fetchall()
        for row, data in rows:
            if position < len(data):
                changed = bytearray(data)
                changed[position] ^= mask
                database.execute(
                    f"UPDATE runs SET {column} = ? WHERE rowid = ?", (bytes(changed), row)
                )
                return
            position -= len(data)
    raise AssertionError(position)


def test_a_mined_ledger_is_valid_to_both(tmp_path: Path) -> None:
    assert len({block.header.bits for block in CHAIN}) > 4, "the target moves"
    assert agreed(imported(tmp_path / "ledger")) == []


@pytest.mark.parametrize("at", range(LENGTH))
def test_changed_bytes_of_a_mined_header_are_named_alike(tmp_path: Path, at: int) -> None:
    directory = imported(tmp_path / "ledger")
    for byte in (0, 3, 4, 7, 15, 20, 50, 59, 63, 64, 103):
        change(directory, "headers", 104 * at + byte, 0x11)
        assert agreed(directory)[0].index == at
        change(directory, "headers", 104 * at + byte, 0x11)
    change(directory, "hashes", 32 * at, 1)
    assert agreed(directory)[0] == Finding(at, "hash")


def test_terms_that_were_changed_in_genesis_are_read_alike(tmp_path: Path) -> None:
    """All that follow are judged by them, and genesis itself is named for the change."""
    directory = imported(tmp_path / "ledger")
    rules = set()
    for byte in range(16, CHAIN[0].header.size):
        change(directory, "data", byte, 1)
        findings = agreed(directory)
        assert findings[0] == Finding(0, "data_root")
        rules |= {finding.rule for finding in findings}
        change(directory, "data", byte, 1)
    assert rules == {"data_root", "work"}
