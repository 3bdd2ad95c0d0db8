"""Damage to what is stored: every bit of a small ledger, its files and the database itself."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import accumulate, product
from pathlib import Path

import pytest

from cairn import CairnError, DamagedError, Ledger
from cairn.core.block import Block
from cairn.core.header import Kind
from cairn.core.rules import NUMBERS
from cairn.hashing import best_hasher
from cairn.store import flat
from cairn.store.database import Database
from cairn.store.directory import FILE_NAME
from cairn.store.tail import Tail
from tests.builders import block, chain, segments
from tests.store import sealed
from tests.store.sealed import cut_into_parts, database, files_of


def small_chain() -> list[Block]:
    """Genesis, values, batches of 0, 1 and 3 entries, and a record."""
    blocks = chain("one", (), ("a",), ("b", {"c": 3}, []), 5)
    salt = iter([b"\xaa" * 16, b"\xbb" * 16])
    blocks.append(block(Kind.RECORD, [{"record": True}], blocks[-1], salt))
    blocks.append(block(Kind.VALUE, ["last"], blocks[-1], salt))
    return blocks


BLOCKS = small_chain()


def write(directory: Path, *sizes: int) -> None:
    Database.create(directory)
    with closing(Database(directory)) as opened:
        tail = Tail(opened, best_hasher())
        for segment in segments(BLOCKS, *sizes):
            tail.append(segment, {})


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


def flips(connection: sqlite3.Connection, column: str, each: int) -> Iterator[int]:
    """Flip `each` bits of every byte of a column, every row; yield whose is flipped, then undo."""
    rows = connection.execute(f"SELECT first, length(hashes) / 32, {column} FROM runs").fetchall()
    for first, count, original in rows:
        for at, bit in product(range(len(original)), range(each)):
            changed = bytearray(original)
            changed[at] ^= 1 << (at + bit + len(rows)) % 8
            with connection:
                connection.execute(
                    f"UPDATE runs SET {column} = ? WHERE first = ?", (changed, first)
                )
            yield column_owner(column, first, count, at)
        with connection:
            connection.execute(f"UPDATE runs SET {column} = ? WHERE first = ?", (original, first))


@pytest.mark.parametrize("sizes", [(8,), (1,) * 8, (3, 2, 3)], ids=["a run", "a row each", "runs"])
@pytest.mark.parametrize("column", ["headers", "hashes", "data"])
@pytest.mark.parametrize("each", [1, pytest.param(8, marks=pytest.mark.soak)])
def test_every_flipped_byte_is_reported_at_that_very_block(
    tmp_path: Path, each: int, column: str, sizes: tuple[int, ...]
) -> None:
    """By one of its bits; in the soak by each."""
    write(tmp_path, *sizes)
    with (
        Ledger.open(tmp_path, read_only=True) as ledger,
        closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection,
    ):
        connection.execute("PRAGMA synchronous = OFF")
        flipped = 0
        for owner in flips(connection, column, each):
            failure = ledger.validate().failure
            assert failure is not None
            assert failure.index == owner
            assert failure.rule in NUMBERS
            assert failure.expected != failure.found
            flipped += 1
        assert flipped == each * sum(
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
    for at in generator.sample(used, min(600, len(used))):
        changed = bytearray(original)
        changed[at] ^= 1 << generator.randrange(8)
        file.write_bytes(changed)
        blocks = outcome(tmp_path)
        assert blocks is None or blocks == BLOCKS
        found += blocks is None
    assert found > 200


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


# Sealed segments

SHAPES: dict[str, tuple[list[Block], tuple[int, ...]]] = {
    "values": (chain("one", "two", 3, "four", "x" * 40), (5,)),
    "all kinds": (BLOCKS, (8,)),
    "two files": (BLOCKS, (3, 4)),
    "one block": (chain("the tail"), (1,)),
    "an empty batch": (chain((), "the tail"), (1, 1)),
}
"""Blocks, and how many of them are in each file."""


def owner(blocks: Sequence[Block], at: int) -> tuple[int, bool]:
    """Return what byte `at` of a file of `blocks` belongs to: a position, and whether to a block.

    What is of no block is named where the file begins.
    """
    sizes = [len(entry.to_bytes()) for block in blocks for entry in block.entries]
    layout = flat._Layout.of(len(blocks), len(sizes), sum(sizes))
    counts = list(accumulate(len(block.entries) for block in blocks))
    offset = (at - layout.offsets) // 8
    if layout.hashes <= at < layout.hashes + 32 * len(blocks):
        place = (at - layout.hashes) // 32
    elif layout.headers <= at < layout.headers + 104 * len(blocks):
        place = (at - layout.headers) // 104
    elif 0 < offset < len(sizes):
        place = bisect_right(counts, offset - 1)  # that of the entry that ends there
    elif layout.data <= at:
        entry = bisect_right(list(accumulate(sizes)), at - layout.data)
        place = bisect_right(counts, entry)
    else:
        return blocks[0].index, False
    return blocks[0].index + place, True


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """Flip a bit of a file where it lies: a worker may still be looking at it."""
    with path.open("r+b", buffering=0) as file:
        (byte,) = os.pread(file.fileno(), 1, bit // 8)
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)
        yield
        os.pwrite(file.fileno(), bytes([byte]), bit // 8)


def read_all(ledger: Ledger, blocks: Sequence[Block]) -> None:
    """Read every block in every way: what comes is a block, or an error of ours."""
    for known in blocks:
        with suppress(CairnError):
            ledger[known.index]
        with suppress(CairnError):
            found = ledger.find(known.hash)
            assert found is None or found.stored_hash == known.stored_hash
    with suppress(CairnError):
        list(ledger)


def require_each_flip_is_named(
    directory: Path, shape: str, bits: Callable[[int], Iterator[int]]
) -> None:
    blocks, sizes = SHAPES[shape]
    sealed.build(directory, blocks, *sizes)
    with (
        ThreadPoolExecutor(2) as executor,
        Ledger.open(directory, read_only=True) as ledger,
    ):
        for path, part in zip(files_of(directory), segments(blocks, *sizes), strict=False):
            own = list(part.blocks())
            for bit in bits(path.stat().st_size):
                with flipped(path, bit):
                    failure = ledger.validate(executor=executor).failure
                    assert failure is not None
                    index, of_a_block = owner(own, bit // 8)
                    assert failure.index == index, (bit, failure)
                    assert failure.rule in NUMBERS if of_a_block else failure.rule == "storage"
                    assert failure.expected != failure.found
                    if bit % 5 == 0:
                        ledger.validate(all=True, executor=executor)
                        read_all(ledger, blocks)
        assert ledger.validate().valid
        assert list(ledger) == blocks


@pytest.mark.parametrize("part", [1, 3, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_flipped_bits_all_over_a_file_are_named(
    shape: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the file is cut into parts; one in eight bytes each time."""
    cut_into_parts(monkeypatch, part)

    def bits(size: int) -> Iterator[int]:
        return (at * 8 + (at // 8 + part) % 8 for at in range(part % 8, size, 8))

    require_each_flip_is_named(tmp_path, shape, bits)


@pytest.mark.soak
@pytest.mark.parametrize("part", [1, 2, 3, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_flipped_bit_of_a_file_is_named(
    shape: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_into_parts(monkeypatch, part)
    require_each_flip_is_named(tmp_path, shape, lambda size: iter(range(size * 8)))


def test_flipped_bits_of_the_manifest_are_named(tmp_path: Path) -> None:
    sealed.build(tmp_path, BLOCKS, 2, 3)
    with (
        ThreadPoolExecutor(1) as executor,
        Ledger.open(tmp_path, read_only=True) as ledger,
        closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as connection,
    ):
        connection.execute("PRAGMA synchronous = OFF")
        columns = "first", "blocks", "size", "digest"
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM segments").fetchall()
        for row in rows:
            for column, value in zip(columns, row, strict=True):
                for bit in range(0, 256, 5) if column == "digest" else range(64):
                    flipped: bytes | int
                    if isinstance(value, bytes):
                        flipped = (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(32, "big")
                    else:
                        flipped = (value ^ 1 << bit) - (2**64 if bit == 63 else 0)
                    connection.execute("BEGIN")
                    with suppress(sqlite3.IntegrityError):  # the other row's
                        connection.execute(
                            f"UPDATE segments SET {column} = ? WHERE first = ?", (flipped, row[0])
                        )
                        connection.execute("COMMIT")
                        failure = ledger.validate(executor=executor).failure
                        assert failure is not None, (column, bit)
                        assert failure.index in (0, row[0], len(BLOCKS))
                        ledger.validate(all=bit % 8 < 2, executor=executor)
                        read_all(ledger, BLOCKS[:: 1 + bit % 3])
                        connection.execute("BEGIN")
                    connection.execute("DELETE FROM segments")
                    connection.executemany("INSERT INTO segments VALUES (?, ?, ?, ?)", rows)
                    connection.execute("COMMIT")
        assert ledger.validate().valid


def test_a_file_of_another_length_is_named(tmp_path: Path) -> None:
    sealed.build(tmp_path, BLOCKS, 2, 3)
    _, path = files_of(tmp_path)
    original = path.read_bytes()
    with ThreadPoolExecutor(1) as executor, Ledger.open(tmp_path, read_only=True) as ledger:
        for size in (
            *range(0, len(original), 7),
            *(len(original) + more for more in (1, 64, 4096)),
        ):
            path.write_bytes(original[:size].ljust(size, b"\0"))
            failure = ledger.validate(executor=executor).failure
            assert failure is not None
            assert (failure.index, failure.rule) == (2, "storage")
            assert f"has {size} bytes; {len(original)} were recorded" in failure.message
            read_all(ledger, BLOCKS[1:4])


def remove(_: Path, second: Path) -> None:
    second.unlink()


def copy_over(first: Path, second: Path) -> None:
    shutil.copy(first, second)


def swap(first: Path, second: Path) -> None:
    between = first.with_suffix(".between")
    first.rename(between)
    second.rename(first)
    between.rename(second)


def put_a_folder(_: Path, second: Path) -> None:
    second.unlink()
    second.mkdir()


def copy_beside(_: Path, second: Path) -> None:
    shutil.copy(second, second.with_name("000000000000003.segment"))


def link_elsewhere(_: Path, second: Path) -> None:
    second.unlink()
    second.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("change", "index"),
    [
        (remove, 2),
        (copy_over, 2),
        (swap, 0),
        (put_a_folder, 2),
        (copy_beside, len(BLOCKS)),
        (link_elsewhere, 2),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(
    change: Callable[[Path, Path], None], index: int, tmp_path: Path
) -> None:
    sealed.build(tmp_path, BLOCKS, 2, 2)
    change(*files_of(tmp_path))
    with Ledger.open(tmp_path, read_only=True) as ledger:
        for every in (False, True):
            failure = ledger.validate(all=every).failure
            assert failure is not None
            assert (failure.index, failure.rule) == (index, "storage")
        read_all(ledger, BLOCKS)
        if index == 2:
            with pytest.raises(DamagedError):
                ledger[3]
            with pytest.raises(DamagedError):
                list(ledger)
            assert ledger[0] == BLOCKS[0]
            assert ledger[6] == BLOCKS[6]
            assert next(iter(ledger.scan(4))).start == 4


def test_another_ledger_s_file_of_the_same_shape_is_named(tmp_path: Path) -> None:
    others = chain("eno", (), ("z",), ("y", {"c": 4}, []), 6)
    for name, blocks in (("ours", BLOCKS), ("theirs", others)):
        sealed.build(tmp_path / name, blocks, 2, 3)
    ours, theirs = (files_of(tmp_path / name)[1] for name in ("ours", "theirs"))
    assert ours.stat().st_size == theirs.stat().st_size
    shutil.copy(theirs, ours)
    with Ledger.open(tmp_path / "ours", read_only=True) as ledger:
        failure = ledger.validate().failure
        assert failure is not None
        assert (failure.index, failure.rule) == (2, "storage")
        with database(tmp_path / "theirs") as connection:
            rows = connection.execute("SELECT * FROM segments WHERE first = 2").fetchall()
        with database(tmp_path / "ours") as connection:
            connection.executemany("REPLACE INTO segments VALUES (?, ?, ?, ?)", rows)
        failure = ledger.validate().failure
        assert failure is not None
        assert (failure.index, failure.rule) == (2, "link")


AGAIN = "INSERT INTO segments SELECT first + {}, blocks, size, digest FROM segments WHERE first = 2"


@pytest.mark.parametrize(
    ("statement", "index", "rule"),
    [
        ("DELETE FROM segments WHERE first = 0", 0, "index"),
        ("DELETE FROM segments WHERE first = 2", 2, "index"),
        ("DELETE FROM segments", 0, "index"),
        (AGAIN.format(2), 4, "storage"),  # named where the tail says the same
        (AGAIN.format(-1), 0, "storage"),
        (AGAIN.format(1), 0, "storage"),
        (AGAIN.format(-3), 0, "storage"),
        (AGAIN.format(2**40), len(BLOCKS), "storage"),
        (AGAIN.format("9223372036854775805"), len(BLOCKS), "storage"),
        ("UPDATE segments SET first = first + 1 WHERE first = 2", 2, "storage"),
        ("UPDATE segments SET first = 7 - first", 0, "storage"),
        (
            "INSERT INTO runs VALUES (2, zeroblob(32), zeroblob(104), zeroblob(16), x'')",
            8,
            "storage",
        ),
        (
            "INSERT INTO runs VALUES (-1, zeroblob(32), zeroblob(104), zeroblob(16), x'')",
            8,
            "storage",
        ),
        ("DELETE FROM runs", 4, "head"),
        ("UPDATE head SET length = 3", 3, "head"),
        ("UPDATE head SET length = 9", 8, "head"),
        ("DROP TABLE segments", 0, "storage"),
    ],
)
def test_a_manifest_that_does_not_fit_is_named(
    statement: str, index: int, rule: str, tmp_path: Path
) -> None:
    sealed.build(tmp_path, BLOCKS, 2, 2)
    with Ledger.open(tmp_path, read_only=True) as ledger:
        with database(tmp_path) as connection:
            connection.execute(statement)
        for every in (False, True):
            failure = ledger.validate(all=every).failure
            assert failure is not None
            assert (failure.index, failure.rule) == (index, rule)
        read_all(ledger, BLOCKS)
