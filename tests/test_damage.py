"""Damage to what is stored: every bit of a small ledger, and the database file itself."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from cairn import CairnError, Ledger
from cairn.core.block import Block
from cairn.core.header import Kind
from cairn.core.rules import NUMBERS
from cairn.store.sqlite import FILE_NAME, SqliteStore
from tests.builders import block, chain, segments


def small_chain() -> list[Block]:
    """Genesis, values, batches of 0, 1 and 3 entries, and a record."""
    blocks = chain("one", (), ("a",), ("b", {"c": 3}, []), 5)
    salt = iter([b"\xaa" * 16, b"\xbb" * 16])
    blocks.append(block(Kind.RECORD, [{"record": True}], blocks[-1], salt))
    blocks.append(block(Kind.VALUE, ["last"], blocks[-1], salt))
    return blocks


BLOCKS = small_chain()


def write(directory: Path, *sizes: int) -> None:
    SqliteStore.create(directory)
    with closing(SqliteStore(directory)) as store:
        for segment in segments(BLOCKS, *sizes):
            store.append(segment, {})


def column_owner(column: str, first: int, count: int, at: int) -> int:
    """Return the position of the block that byte `at` of a run's column belongs to."""
    if column == "headers":
        return first + at // 104
    if column == "hashes":
        return first + at // 32
    for stored in BLOCKS[first : first + count]:
        at -= stored.header.size
        if at < 0:
            return stored.index
    raise AssertionError("past the end")


def flips(connection: sqlite3.Connection, column: str) -> Iterator[int]:
    """Flip each bit of a column, every row; yield whose bit is flipped, then undo."""
    rows = connection.execute(f"SELECT first, length(hashes) / 32, {column} FROM runs").fetchall()
    for first, count, original in rows:
        for bit in range(len(original) * 8):
            changed = bytearray(original)
            changed[bit // 8] ^= 1 << bit % 8
            with connection:
                connection.execute(
                    f"UPDATE runs SET {column} = ? WHERE first = ?", (changed, first)
                )
            yield column_owner(column, first, count, bit // 8)
        with connection:
            connection.execute(f"UPDATE runs SET {column} = ? WHERE first = ?", (original, first))


@pytest.mark.parametrize("sizes", [(8,), (1,) * 8, (3, 2, 3)], ids=["a run", "a row each", "runs"])
@pytest.mark.parametrize("column", ["headers", "hashes", "data"])
def test_every_flipped_bit_is_reported_at_that_very_block(
    tmp_path: Path, column: str, sizes: tuple[int, ...]
) -> None:
    write(tmp_path, *sizes)
    with (
        Ledger.open(tmp_path, read_only=True) as ledger,
        closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection,
    ):
        connection.execute("PRAGMA synchronous = OFF")
        flipped = 0
        for owner in flips(connection, column):
            failure = ledger.validate().failure
            assert failure is not None
            assert failure.index == owner
            assert failure.rule in NUMBERS
            assert failure.expected != failure.found
            flipped += 1
        assert flipped == 8 * sum(
            {"headers": 104, "hashes": 32, "data": stored.header.size}[column] for stored in BLOCKS
        )
        assert ledger.validate().valid


def outcome(directory: Path) -> list[Block] | None:
    """Return the blocks of a ledger that opens and validates, None if it reports damage."""
    with suppress(CairnError), Ledger.open(directory, read_only=True) as ledger:
        if ledger.validate().valid:
            return list(ledger)
    return None


@pytest.mark.damages_database
def test_any_flipped_byte_of_the_file_is_harmless_or_found(tmp_path: Path) -> None:
    """Whatever is not found must not matter: a valid ledger still has every block as it was."""
    write(tmp_path, 1, 2, 5)
    file = tmp_path / FILE_NAME
    original = file.read_bytes()
    generator = random.Random(5)
    found = 0
    used = [i for i in range(len(original)) if original[i]]
    for at in generator.sample(used, min(1500, len(used))):
        changed = bytearray(original)
        changed[at] ^= 1 << generator.randrange(8)
        file.write_bytes(changed)
        blocks = outcome(tmp_path)
        assert blocks is None or blocks == BLOCKS
        found += blocks is None
    assert found > 500


@pytest.mark.damages_database
def test_a_truncated_file_is_found(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 5)
    file = tmp_path / FILE_NAME
    original = file.read_bytes()
    for length in range(0, len(original), 512):
        file.write_bytes(original[:length])
        blocks = outcome(tmp_path)
        assert blocks is None or (blocks == BLOCKS and length > len(original) - 4096)


@pytest.mark.damages_database
def test_overwritten_pages_are_found(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend("x" * 300 for _ in range(300))
        blocks = list(ledger)
    file = tmp_path / "ledger" / FILE_NAME
    original = file.read_bytes()
    generator = random.Random(6)
    for page in range(0, len(original), 4096):
        for junk in (bytes(4096), generator.randbytes(4096), original[:4096]):
            file.write_bytes(original[:page] + junk + original[page + 4096 :])
            left = outcome(tmp_path / "ledger")
            assert left is None or left == blocks


@pytest.mark.damages_database
def test_a_damaged_file_is_never_written_to(tmp_path: Path) -> None:
    """Opening to write says what is wrong, for any damage that it can meet."""
    write(tmp_path, 1, 2, 5)
    file = tmp_path / FILE_NAME
    original = file.read_bytes()
    generator = random.Random(7)
    for at in generator.sample(range(len(original)), 200):
        changed = bytearray(original)
        changed[at] ^= 0xFF
        file.write_bytes(changed)
        with suppress(CairnError), Ledger.open(tmp_path) as ledger:
            ledger.append("more")
