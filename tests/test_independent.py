"""`Ledger.validate` held to the validator that was written from docs/format.md alone."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from itertools import count, pairwise
from pathlib import Path
from random import Random
from struct import pack, unpack

import pytest

from cairn import DamagedError, Ledger
from cairn.core.block import Block
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.header import HEADER_BYTES
from cairn.core.merkle import HASH_BYTES, leaf_hash, tree_hash
from cairn.hashing import best_hasher
from cairn.lab.attacks import Attack, attacks
from cairn.lab.tampering import Forgery, forging, rechain
from cairn.store import disk, flat, stored_runs
from cairn.store.database import Database
from cairn.store.directory import FILE_NAME
from cairn.store.disk import DiskStore
from cairn.store.tail import Tail
from tests import independent
from tests.builders import START, chain, segments
from tests.independent import Finding
from tests.store import sealed

UNITS = {"hashes": HASH_BYTES, "headers": HEADER_BYTES, "offsets": 8, "data": 1}
"""Each column, and the bytes of one thing in it."""
LEDGERS = ("appended", "extended", "batches", "rows")
PAGE = 4096
"""Bytes of a page of the database."""
SALT = b"\x09" * SALT_BYTES

Copy = Callable[[str], Path]
SealedCopy = Callable[..., Path]
Row = tuple[int, bytes, bytes, bytes, bytes]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ledgers to copy: at least 8 blocks each, with entries in the fourth and the last."""
    folder = tmp_path_factory.mktemp("originals")
    stones = [{"step": step, "did": "laid a stone"} for step in range(12)]
    for name in ("appended", "extended"):
        build(folder / name, chain())
        with_genesis(folder / name, SALT + members(name='"original"'))
    with opened(folder / "appended") as ledger:
        for stone in stones[:7]:
            ledger.append(stone)
    with opened(folder / "extended") as ledger:
        ledger.extend(stones[:5])
        ledger.append(stones[5])
        ledger.extend(stones[6:])
    blocks = chain(
        (),
        tuple(stones[:3]),
        "stone",
        (),
        (stones[3],),
        (),
        ("stone", 1, None),
        2,
        ("stone", {}, 3),
    )
    build(folder / "batches", blocks, *[1] * len(blocks))
    with_genesis(folder / "batches", SALT + members(name='"original"'))
    shutil.copytree(folder / "batches", folder / "rows")
    regroup(folder / "rows", 2, 4, 1, 2)
    return folder


@pytest.fixture
def copy(originals: Path, tmp_path: Path) -> Copy:
    """Return a function that makes a fresh copy of one of the ledgers."""
    numbers = count()

    def make(ledger: str) -> Path:
        return Path(shutil.copytree(originals / ledger, tmp_path / f"{ledger}-{next(numbers)}"))

    return make


def build(directory: Path, blocks: Sequence[Block], *sizes: int) -> None:
    """Make a ledger of `blocks`, with so many of them in each row."""
    directory.mkdir(exist_ok=True)
    Database.create(directory)
    with closing(Database(directory)) as database:
        tail = Tail(database, best_hasher())
        for segment in segments(blocks, *sizes):
            tail.append(segment, {})


def opened(directory: Path) -> Ledger:
    """Open a ledger to write, without clock or randomness."""
    ticks = count(START + 1)
    store = DiskStore(directory, best_hasher())
    return Ledger(store, clock=lambda: next(ticks), entropy=Random(1).randbytes)


def agreed(directory: Path) -> list[Finding]:
    """Return what both validators find."""
    findings = independent.check(directory)
    assert validated(directory, every=True) == findings
    assert validated(directory, every=False) == findings[:1]
    return findings


def validated(directory: Path, *, every: bool) -> list[Finding]:
    try:
        with Ledger.open(directory, read_only=True) as ledger:
            report = ledger.validate(all=every)
    except DamagedError:  # not even the head can be read
        return [Finding(0, "storage")]
    return [Finding(failure.index, failure.rule) for failure in report.failures]


@contextmanager
def connected(directory: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a ledger's database; commit what is done with it."""
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")  # hundreds of ledgers, none to keep
        yield connection


def execute(directory: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with connected(directory) as connection:
        return connection.execute(statement, values).fetchall()


def rows_of(directory: Path) -> list[Row]:
    with connected(directory) as connection:
        return connection.execute(
            "SELECT first, hashes, headers, offsets, data FROM runs ORDER BY first"
        ).fetchall()


def columns_of(row: Row) -> dict[str, bytes]:
    _, hashes, headers, offsets, data = row
    return {"hashes": hashes, "headers": headers, "offsets": offsets, "data": data}


def write_rows(directory: Path, rows: Sequence[Row]) -> None:
    with connected(directory) as connection:
        connection.execute("DELETE FROM runs")
        connection.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", rows)


def insert_row(directory: Path, row: Row) -> None:
    execute(directory, "INSERT INTO runs VALUES (?, ?, ?, ?, ?)", *row)


def set_column(directory: Path, first: int, column: str, value: bytes) -> None:
    execute(directory, f"UPDATE runs SET {column} = ? WHERE first = ?", value, first)


def set_head(directory: Path, length: int, last_hash: bytes) -> None:
    execute(directory, "UPDATE head SET length = ?, hash = ?", length, last_hash)


def head_of(directory: Path) -> tuple[int, bytes]:
    ((length, last_hash),) = execute(directory, "SELECT length, hash FROM head")
    assert isinstance(length, int)
    assert isinstance(last_hash, bytes)
    return length, last_hash


def joined(rows: Sequence[Row]) -> Row:
    """Return one row with the blocks of `rows`, which hold their entries end to end."""
    hashes, headers, offsets, data = b"", b"", bytes(8), b""
    for row in rows:
        hashes, headers = hashes + row[1], headers + row[2]
        for (offset,) in (unpack(">Q", row[3][at : at + 8]) for at in range(8, len(row[3]), 8)):
            offsets += pack(">Q", len(data) + offset)
        data += row[4]
    return rows[0][0], hashes, headers, offsets, data


def regroup(directory: Path, *sizes: int) -> None:
    """Join so many rows into one each; the last one takes the rest."""
    rows, groups = rows_of(directory), []
    for size in (*sizes, len(rows)):
        group, rows = rows[:size], rows[size:]
        if group:
            groups.append(joined(group))
    write_rows(directory, groups)


@pytest.mark.parametrize("ledger", LEDGERS)
def test_intact_ledgers_are_valid(copy: Copy, ledger: str) -> None:
    assert agreed(copy(ledger)) == []


def test_a_long_ledger_is_valid_and_one_edit_in_it_is_found(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger") as ledger:
        ledger.extend(range(20_000))
    assert agreed(tmp_path / "ledger") == []
    first, *_, data = rows_of(tmp_path / "ledger")[-1]
    set_column(tmp_path / "ledger", first, "data", data[:-1] + b"0")
    assert [finding.rule for finding in agreed(tmp_path / "ledger")] == ["data_root"]


@pytest.mark.parametrize("ledger", ["appended", "extended", "batches"])
@pytest.mark.parametrize("attack", list(attacks()), ids=lambda attack: attack.name)
def test_attack(copy: Copy, attack: Attack, ledger: str) -> None:
    directory = copy(ledger)
    with forging(directory, cover_tracks=attack.cover_tracks) as blocks:
        if "whole chain" in attack.name:  # it wants an entry in each block
            blocks[:] = [block for block in blocks if block.entries]
        attack.perform(blocks)
    for _ in range(2):
        assert agreed(directory) != [] or attack.cover_tracks
        regroup(directory, *[3] * 10)


def test_two_attacks_at_once(copy: Copy) -> None:
    every = [attack for attack in attacks() if "whole chain" not in attack.name]
    for seed in range(60):
        random = Random(seed)
        directory = copy(random.choice(["appended", "extended", "batches"]))
        pair = random.sample(every, 2)
        with forging(directory, cover_tracks=any(a.cover_tracks for a in pair)) as blocks:
            for attack in pair:
                with suppress(IndexError):  # where the first has put a batch of no entries
                    attack.perform(blocks)
        for _ in range(2):
            agreed(directory)
            regroup(directory, *random.choices([1, 2, 3, 4], k=20))


@pytest.mark.parametrize("ledger", LEDGERS)
def test_delete_a_row(copy: Copy, ledger: str) -> None:
    for first, *_ in rows_of(copy(ledger)):
        directory = copy(ledger)
        execute(directory, "DELETE FROM runs WHERE first = ?", first)
        assert agreed(directory)[0].index == first


@pytest.mark.parametrize("ledger", LEDGERS)
def test_delete_a_row_and_close_the_gap(copy: Copy, ledger: str) -> None:
    rows = rows_of(copy(ledger))
    for gone in range(len(rows) - 1):
        directory = copy(ledger)
        kept, at = [], 0
        for row in rows[:gone] + rows[gone + 1 :]:
            kept.append((at, *row[1:]))
            at += len(row[1]) // HASH_BYTES
        write_rows(directory, kept)
        assert agreed(directory) != []
        set_head(directory, at, head_of(directory)[1])
        assert agreed(directory) != []


@pytest.mark.parametrize("ledger", LEDGERS)
def test_delete_the_first_rows(copy: Copy, ledger: str) -> None:
    for row in rows_of(copy(ledger))[1:]:
        directory = copy(ledger)
        execute(directory, "DELETE FROM runs WHERE first < ?", row[0])
        assert agreed(directory)[0] == Finding(0, "index")


def test_delete_all_rows(copy: Copy) -> None:
    directory = copy("rows")
    execute(directory, "DELETE FROM runs")
    assert agreed(directory) != []


def test_delete_all_rows_and_the_record_of_them(copy: Copy) -> None:
    directory = copy("rows")
    execute(directory, "DELETE FROM runs")
    set_head(directory, 0, bytes(HASH_BYTES))
    agreed(directory)


@pytest.mark.parametrize("by", [-3, -2, -1, 1, 2, 1000])
@pytest.mark.parametrize("ledger", LEDGERS)
def test_move_a_row(copy: Copy, ledger: str, by: int) -> None:
    rows = rows_of(copy(ledger))
    taken = {row[0] for row in rows}
    for first in taken:
        if first + by not in taken and first + by >= 0:
            directory = copy(ledger)
            execute(directory, "UPDATE runs SET first = ? WHERE first = ?", first + by, first)
            assert agreed(directory) != []


@pytest.mark.parametrize("by", [-2, -1, 1, 5])
@pytest.mark.parametrize("ledger", LEDGERS)
def test_move_all_rows_from_one_on(copy: Copy, ledger: str, by: int) -> None:
    rows = rows_of(copy(ledger))
    for at in range(1, len(rows)):
        moved = [(row[0] + by, *row[1:]) for row in rows[at:]]
        if moved[0][0] > rows[at - 1][0]:
            directory = copy(ledger)
            write_rows(directory, [*rows[:at], *moved])
            assert agreed(directory) != []
            length, last_hash = head_of(directory)
            set_head(directory, length + by, last_hash)
            assert agreed(directory) != []


def test_move_all_rows(copy: Copy) -> None:
    directory = copy("rows")
    write_rows(directory, [(row[0] + 3, *row[1:]) for row in rows_of(directory)])
    assert agreed(directory)[0] == Finding(0, "index")
    set_head(directory, head_of(directory)[0] + 3, head_of(directory)[1])
    assert agreed(directory)[0] == Finding(0, "index")


def test_move_the_first_row_below_zero(copy: Copy) -> None:
    directory = copy("rows")
    execute(directory, "UPDATE runs SET first = -2 WHERE first = 0")
    assert agreed(directory) == [Finding(0, "storage")]


def test_a_row_inside_another(copy: Copy) -> None:
    directory = copy("rows")
    rows = rows_of(directory)
    assert len(rows[1][1]) > 3 * HASH_BYTES
    insert_row(directory, (rows[1][0] + 1, *rows[2][1:]))
    assert agreed(directory) != []


def test_a_row_inside_the_last_one(copy: Copy) -> None:
    directory = copy("extended")
    regroup(directory, 1)
    insert_row(directory, (3, *rows_of(copy("appended"))[3][1:]))
    assert agreed(directory) != []


@pytest.mark.parametrize("beyond", [0, 1, 1000, 2**40])
@pytest.mark.parametrize("ledger", LEDGERS)
def test_a_row_past_the_recorded_length(copy: Copy, ledger: str, beyond: int) -> None:
    directory = copy(ledger)
    length, _ = head_of(directory)
    insert_row(directory, (length + beyond, *rows_of(directory)[-1][1:]))
    assert agreed(directory) == [Finding(length, "head")]


def test_a_row_at_the_last_position_there_is(copy: Copy) -> None:
    directory = copy("rows")
    insert_row(directory, (2**63 - 1, *rows_of(directory)[-1][1:]))
    assert agreed(directory) == [Finding(head_of(directory)[0], "head")]


def test_a_row_past_the_recorded_length_that_cannot_be_read(copy: Copy) -> None:
    directory = copy("rows")
    length, _ = head_of(directory)
    insert_row(directory, (length, bytes(33), bytes(1), bytes(2), bytes(3)))
    assert agreed(directory) == [Finding(length, "head")]


def test_a_row_past_the_recorded_length_without_hashes(copy: Copy) -> None:
    directory = copy("rows")
    length, _ = head_of(directory)
    insert_row(directory, (length, b"", b"", b"", b"smuggled"))
    assert agreed(directory) == [Finding(length, "head")]


def test_a_row_past_the_recorded_length_where_the_end_is_missing(copy: Copy) -> None:
    directory = copy("rows")
    length, _ = head_of(directory)
    last = rows_of(directory)[-1]
    execute(directory, "UPDATE runs SET first = ? WHERE first = ?", length + 2, last[0])
    assert agreed(directory) == [Finding(last[0], "head")]


@pytest.mark.parametrize("ledger", LEDGERS)
def test_the_recorded_length(copy: Copy, ledger: str) -> None:
    stored, last_hash = head_of(copy(ledger))
    hashes = b"".join(row[1] for row in rows_of(copy(ledger)))
    for length in range(1, stored + 3):
        directory = copy(ledger)
        set_head(directory, length, last_hash)
        assert (agreed(directory) == []) == (length == stored)
        set_head(directory, length, hashes[(length - 1) * HASH_BYTES : length * HASH_BYTES])
        assert (agreed(directory) == []) == (length == stored)


def test_a_recorded_length_of_zero(copy: Copy) -> None:
    directory = copy("rows")
    set_head(directory, 0, bytes(HASH_BYTES))
    assert agreed(directory) == [Finding(0, "head")]


@pytest.mark.parametrize("last_hash", [b"", bytes(32), bytes(31), bytes(64)])
def test_the_recorded_hash(copy: Copy, last_hash: bytes) -> None:
    directory = copy("rows")
    length, _ = head_of(directory)
    set_head(directory, length, last_hash)
    assert agreed(directory) == [Finding(length - 1, "head")]


def test_an_edited_last_hash_breaks_a_rule_and_is_not_the_recorded_one(copy: Copy) -> None:
    directory = copy("rows")
    first, hashes, *_ = rows_of(directory)[-1]
    set_column(directory, first, "hashes", hashes[:-1] + bytes([hashes[-1] ^ 1]))
    last = head_of(directory)[0] - 1
    assert agreed(directory) == [Finding(last, "hash"), Finding(last, "head")]


def test_no_head(copy: Copy) -> None:
    directory = copy("rows")
    execute(directory, "DELETE FROM head")
    assert agreed(directory) == [Finding(0, "storage")]


def test_two_heads(copy: Copy) -> None:
    directory = copy("rows")
    execute(directory, "INSERT INTO head (length, hash) SELECT length + 1, hash FROM head")
    assert agreed(directory) == [Finding(0, "storage")]


def test_no_table_of_rows(copy: Copy) -> None:
    directory = copy("rows")
    execute(directory, "DROP TABLE runs")
    assert agreed(directory) == [Finding(0, "storage")]


def test_no_database(copy: Copy) -> None:
    directory = copy("rows")
    (directory / FILE_NAME).write_bytes(b"not a database, but long enough to be taken for one" * 9)
    assert agreed(directory) == [Finding(0, "storage")]


def test_a_lost_page(tmp_path: Path) -> None:
    with opened_new(tmp_path / "ledger") as ledger:
        for _ in range(8):
            ledger.extend(range(100))
    pages = (tmp_path / "ledger" / FILE_NAME).stat().st_size // PAGE
    # The first page of the last row's columns: its b-tree entry shares a leaf with the row before.
    assert lose_page(tmp_path / "ledger", pages - 1) <= {601, 701}


def opened_new(directory: Path) -> Ledger:
    build(directory, chain())
    return opened(directory)


def lose_page(directory: Path, page: int) -> set[int]:
    """Overwrite a page of a copy of the database; return which blocks then cannot be read."""
    copied = Path(shutil.copytree(directory, directory.with_name(f"page-{page}")))
    stored = (copied / FILE_NAME).read_bytes()
    at = page * PAGE
    (copied / FILE_NAME).write_bytes(stored[:at] + bytes(PAGE) + stored[at + PAGE :])
    return {finding.index for finding in agreed(copied) if finding.rule == "storage"}


def test_a_text_where_bytes_belong(copy: Copy) -> None:
    directory = copy("rows")
    row = rows_of(directory)[2]
    execute(directory, "DROP VIEW appends")
    execute(directory, "DROP VIEW seals")
    execute(directory, "CREATE TABLE copied AS SELECT * FROM runs")
    execute(directory, "DROP TABLE runs")
    execute(directory, "ALTER TABLE copied RENAME TO runs")
    assert agreed(directory) == []
    execute(directory, "UPDATE runs SET data = 'text' WHERE first = ?", row[0])
    assert agreed(directory) == [Finding(row[0], "storage")]


@pytest.mark.parametrize("change", ["shorten", "lengthen", "less", "more", "empty"])
@pytest.mark.parametrize("column", UNITS)
@pytest.mark.parametrize("ledger", LEDGERS)
def test_the_length_of_a_column(copy: Copy, ledger: str, column: str, change: str) -> None:
    for row in rows_of(copy(ledger)):
        old = columns_of(row)[column]
        unit = UNITS[column]
        new = {
            "shorten": old[:-1],
            "lengthen": old + b"\x01",
            "less": old[:-unit],
            "more": old + old[-unit:],
            "empty": b"",
        }[change]
        if new != old:
            directory = copy(ledger)
            set_column(directory, row[0], column, new)
            assert agreed(directory) != []


@pytest.mark.parametrize("first_failing", [0, 2])
def test_a_row_that_cannot_be_read_after_a_broken_rule(copy: Copy, first_failing: int) -> None:
    directory = copy("rows")
    rows = rows_of(directory)
    broken = rows[0 if first_failing == 0 else 1]
    set_column(directory, broken[0], "hashes", b"\x00" + broken[1][1:])
    set_column(directory, rows[-1][0], "offsets", b"")
    assert agreed(directory) == [
        Finding(broken[0], "hash"),
        *([Finding(1, "link")] if first_failing == 0 else [Finding(3, "link")]),
        Finding(rows[-1][0], "storage"),
    ]


def test_a_row_that_cannot_be_read_where_genesis_is_missing(copy: Copy) -> None:
    directory = copy("rows")
    rows = rows_of(directory)
    execute(directory, "DELETE FROM runs WHERE first = 0")
    set_column(directory, rows[-1][0], "offsets", b"")
    assert agreed(directory) == [Finding(0, "index"), Finding(rows[-1][0], "storage")]


def test_a_row_that_cannot_be_read_behind_a_gap(copy: Copy) -> None:
    directory = copy("rows")
    rows = rows_of(directory)
    execute(directory, "DELETE FROM runs WHERE first = ?", rows[1][0])
    set_column(directory, rows[2][0], "offsets", b"")
    assert agreed(directory) == [Finding(rows[1][0], "storage")]


@pytest.mark.parametrize("ledger", LEDGERS)
@pytest.mark.parametrize("column", UNITS)
def test_drop_or_double_a_block_in_every_column_but_one(
    copy: Copy, ledger: str, column: str
) -> None:
    for row in rows_of(copy(ledger)):
        for times in (0, 2):
            directory = copy(ledger)
            for other, old in columns_of(row).items():
                if other != column:
                    changed = old[: -UNITS[other]] + old[-UNITS[other] :] * times
                    set_column(directory, row[0], other, changed)
            assert agreed(directory) != []


@pytest.mark.parametrize("value", [0, 1, 16, 2**32, 2**64 - 9])
@pytest.mark.parametrize("ledger", ["extended", "rows"])
def test_set_an_offset(copy: Copy, ledger: str, value: int) -> None:
    for row in rows_of(copy(ledger)):
        for at in range(0, len(row[3]), 8):
            directory = copy(ledger)
            changed = row[3][:at] + pack(">Q", value) + row[3][at + 8 :]
            set_column(directory, row[0], "offsets", changed)
            agreed(directory)


def with_block(entries: Sequence[bytes], **fields: int | bytes) -> list[Block]:
    """Return a chain whose fourth block, a batch, holds exactly the bytes of `entries`."""
    blocks = chain("one", "two", (), "four", "five")
    header = replace(
        blocks[3].header,
        count=len(entries),
        size=sum(map(len, entries)),
        data_root=tree_hash(map(leaf_hash, entries)),
    )
    header = replace(header, **fields)  # type: ignore[arg-type]
    blocks[3] = Block(header, header.hash, tuple(map(Entry.from_bytes, entries)))
    for at in (4, 5):
        header = replace(blocks[at].header, previous_hash=blocks[at - 1].stored_hash)
        blocks[at] = Block(header, header.hash, blocks[at].entries)
    return blocks


@pytest.mark.parametrize("offset", [50, 1000, 2**63, 2**64 - 5, 2**64 - 1])
def test_an_offset_past_the_end_counts_as_the_end_of_its_own_row(
    tmp_path: Path, offset: int
) -> None:
    build(tmp_path, with_block([SALT + b'"some words"', b""]), 3, 1, 1)
    assert agreed(tmp_path) == []
    row = rows_of(tmp_path)[1]
    set_column(tmp_path, row[0], "offsets", pack(">QQQ", 0, offset, len(row[4])))
    assert agreed(tmp_path) == []


@pytest.mark.parametrize("sizes", [(3, 1, 1), (3, 1, 2), (3, 3), (1, 1, 1, 1, 1)])
def test_no_entry_reaches_into_the_next_row(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    own = SALT + b'"some words"'
    following = Entry.to_bytes(with_block([own])[4].entries[0])
    lent = [own + following[:5], b""]
    blocks = with_block([own, b""], data_root=tree_hash(map(leaf_hash, lent)))
    build(tmp_path, blocks, *sizes)
    for row in rows_of(tmp_path):
        at = 3 - row[0]
        if 0 <= at < len(row[1]) // HASH_BYTES:
            offsets = row[3].replace(
                pack(">QQ", len(own), len(own)), pack(">QQ", len(own) + 5, len(own))
            )
            set_column(tmp_path, row[0], "offsets", offsets)
    agreed(tmp_path)


def test_offsets_that_step_back_make_entries_share_bytes(tmp_path: Path) -> None:
    text = SALT + b'"some words"'
    entries = [text, b"", text[5:]]
    build(tmp_path, with_block(entries, size=len(text)), 3, 1, 1)
    row = rows_of(tmp_path)[1]
    set_column(tmp_path, row[0], "data", text)
    set_column(tmp_path, row[0], "offsets", pack(">QQQQ", 0, len(text), 5, len(text)))
    assert agreed(tmp_path) == [Finding(3, "size")]


def test_a_first_offset_past_zero_leaves_bytes_that_no_entry_holds(tmp_path: Path) -> None:
    text = SALT + b'"some words"'
    build(tmp_path, with_block([text], size=len(text) + 2), 3, 1, 1)
    row = rows_of(tmp_path)[1]
    set_column(tmp_path, row[0], "data", b"??" + text)
    set_column(tmp_path, row[0], "offsets", pack(">QQ", 2, len(text) + 2))
    assert agreed(tmp_path) == []


def members(**changed: str) -> bytes:
    """Return the text of a genesis, some members changed (the empty text: left out)."""
    texts = {
        "format": "1",
        "limits": "{}",
        "message": '"m"',
        "name": '"n"',
        "seal": '{"kind":"instant"}',
    } | changed
    shown = [f'"{name}":{text}' for name, text in texts.items() if text]
    return ("{" + ",".join(shown) + "}").encode(errors="surrogatepass")


GOOD_GENESES = [
    members(),
    members(message='""'),
    members(message=r'"\u0000\u000b\u001f\b\t\n\f\r\"\\"'),
    members(message='"/\x7f\x80\u2028é\U0001f600\ufb33\uffff"'),
    members(name='"' + "é" * 255 + '"'),
    members(name='"' + "\U0001f600" * 255 + '"'),
    members(limits='{"count":1,"depth":1,"size":4294967295}'),
    members(limits='{"count":4294967295,"depth":256}'),
    members(limits='{"size":17}'),
    members(limits='{"size":109}'),
]
BAD_GENESES = [
    *(members(format=text) for text in ("", "0", "2", "1.0", "1e0", '"1"', "true", "-1", "null")),
    *(members(name=text) for text in ("", '""', "1", "null", '"' + "x" * 256 + '"', '["n"]')),
    *(members(name=f'"{text}"') for text in (r"\u006e", r"\/", r"\ud800", r"\u000B", r"\u0008")),
    *(members(name=f'"{text}"') for text in (r"\u001", r"\x", "\n", "\x00", "\ud800", r"\u00e9")),
    *(members(name='"' + r"\ud83d\ude00" + '"'), members(name="'n'")),
    *(members(message=text) for text in ("", "null", "[]", "{}", "NaN", "-Infinity", "1e999")),
    members(message="[" * 300 + "]" * 300),
    members(message="[" * 100_000 + "]" * 100_000),
    members(message='{"":' * 100_000 + "1" + "}" * 100_000),
    members(message="9" * 5000),
    *(members(seal=text) for text in ("", "{}", "null", '"instant"', '{"kind":"proof"}')),
    members(seal='{"kind":"instant","kind":"instant"}'),
    members(seal='{"extra":1,"kind":"instant"}'),
    members(seal='{"kind":["instant"]}'),
    *(members(limits=text) for text in ("", "null", "[]", '"{}"', "0")),
    *(
        members(limits=f'{{"count":{text}}}')
        for text in ("0", "-1", "4294967296", "true", "1.5", "1.0", "1e3", '"1"', "null", "-0")
    ),
    members(limits='{"count":18446744073709551616}'),
    members(limits='{"count":100000000000000000000}'),
    members(limits='{"count":' + "1" * 5000 + "}"),
    members(limits='{"count":1,"count":1}'),
    members(limits='{"size":16}'),
    members(limits='{"size":4294967296}'),
    members(limits='{"depth":0}'),
    members(limits='{"depth":257}'),
    members(limits='{"":1}'),
    members(limits='{"blocks":1}'),
    members(limits='{"size":100,"count":5}'),
    members(extra="1"),
    members(name="", nam="1"),
    members(name='"n","name":"n"'),
    b'{"name":"n","format":1,"limits":{},"message":"m","seal":{"kind":"instant"}}',
    b" " + members(),
    members() + b"\n",
    members() + members(),
    members().replace(b":", b": "),
    b"\xef\xbb\xbf" + members(),
    members().decode().encode("utf-16-le"),
    members(name='"\u00e9"').decode().encode("latin-1"),
    members()[:-1],
    *(b"", b"null", b"1", b'"genesis"', b"[]", b"{}", b"\x00", b"[" + members() + b"]"),
]


def with_genesis(directory: Path, entry: bytes) -> None:
    with forging(directory, cover_tracks=True) as blocks:
        blocks[0].entries = [entry]
        rechain(blocks)


@pytest.mark.parametrize("text", GOOD_GENESES)
def test_a_good_genesis(copy: Copy, text: bytes) -> None:
    directory = copy("batches")
    with_genesis(directory, SALT + text)
    assert {finding.rule for finding in agreed(directory)} <= {"limits"}


@pytest.mark.parametrize("text", BAD_GENESES, ids=range(len(BAD_GENESES)))
def test_a_bad_genesis(copy: Copy, text: bytes) -> None:
    directory = copy("batches")
    with_genesis(directory, SALT + text)
    assert agreed(directory) == [Finding(0, "genesis")]


@pytest.mark.parametrize("entry", [b"", b"{}", bytes(SALT_BYTES - 1), SALT, members()])
def test_a_genesis_without_room_for_a_salt(copy: Copy, entry: bytes) -> None:
    directory = copy("batches")
    with_genesis(directory, entry)
    assert agreed(directory) == [Finding(0, "genesis")]


def test_a_genesis_in_two_entries_sets_no_limits(copy: Copy) -> None:
    directory = copy("batches")
    text = members(limits='{"count":1}')
    with forging(directory, cover_tracks=True) as blocks:
        blocks[0].entries = [SALT + text[:9], SALT + text[9:]]
        blocks[0].change(count=2)
        rechain(blocks)
    assert agreed(directory) == [Finding(0, "count")]


def test_a_genesis_that_breaks_another_rule_still_sets_the_limits(copy: Copy) -> None:
    directory = copy("batches")
    with_genesis(directory, SALT + members(limits='{"count":2}'))
    with forging(directory, cover_tracks=True) as blocks:
        blocks[0].hash = bytes(HASH_BYTES)
        blocks[1].change(previous_hash=blocks[0].hash)
        blocks[1].rehash()
        for before, after in pairwise(blocks[1:]):
            after.change(previous_hash=before.hash)
            after.rehash()
    assert [finding.rule for finding in agreed(directory)] == ["hash", "limits", "limits", "limits"]


@pytest.mark.parametrize(("limit", "over"), [("count", 2), ("size", 100)])
def test_blocks_past_a_limit(tmp_path: Path, limit: str, over: int) -> None:
    text = '{"' + limit + '":' + str(over) + "}"
    blocks = chain((1,), (1, 2), (1, 2, 3), "x" * 200, "short", ("x" * 82,), ("x" * 83,))
    build(tmp_path, blocks, 2, 3)
    with_genesis(tmp_path, SALT + members(limits=text))
    assert {finding.rule for finding in agreed(tmp_path)} == {"limits"}


def test_a_count_and_a_size_at_their_default_limits(tmp_path: Path) -> None:
    full = tuple([0] * 65_536)
    build(tmp_path / "count", chain(full, (*full, 1)))
    assert independent.check(tmp_path / "count") == [Finding(2, "limits")]
    assert validated(tmp_path / "count", every=True) == [Finding(2, "limits")]
    letters = "x" * (16_777_216 - SALT_BYTES - 2)
    build(tmp_path / "size", chain(letters, letters + "x"))
    assert agreed(tmp_path / "size") == [Finding(2, "limits")]


FIELDS: dict[str, tuple[int, ...]] = {
    "version": (0, 2, 2**16 - 1),  # the last one is the highest
    "kind": (0, 1, 2, 3, 2**16 - 1),
    "bits": (1, 2**32 - 1),
    "index": (0, 1, 4, 2**63 - 1, 2**63, 2**64 - 1),
    "timestamp": (0, 1_700_000_000_000_003, 2**63 - 1, 2**63, 2**64 - 1),
    "count": (0, 1, 2, 3, 4, 2**31, 2**32 - 1),
    "size": (0, 1, 17, 2**32 - 1),
    "nonce": (1, 2**64 - 1),
}


def forge(random: Random, blocks: list[Forgery]) -> None:
    """Change something in one block, sometimes so that the rules checked before are kept."""
    at = random.randrange(len(blocks))
    block = blocks[at]
    what = random.choice([*FIELDS, *FIELDS, "hash", "data_root", "previous_hash", "entries"])
    if what in FIELDS:
        near = getattr(block.header, what)
        values = [*FIELDS[what], near + 1, max(near - 1, 0)]
        if what == "timestamp":
            values.append(blocks[at - 1].header.timestamp)
        block.change(**{what: min(random.choice(values), FIELDS[what][-1])})
    elif what == "hash":
        block.hash = random.choice([bytes(HASH_BYTES), block.header.hash, random.randbytes(32)])
    elif what == "entries":
        entries = [SALT + b"1", b"", b"short", *blocks[at - 1].entries, *block.entries]
        block.entries = random.choices(entries, k=random.randrange(4))
        if random.random() < 0.5:
            block.change(count=len(block.entries))
    else:
        block.change(**{what: random.choice([bytes(HASH_BYTES), blocks[at - 1].hash])})
    if random.random() < 0.3:
        size, kept = block.header.size, random.random() < 0.5
        block.rehash()
        if kept:
            block.change(size=size)
    if random.random() < 0.6:
        block.hash = block.header.hash
    for before, after in pairwise(blocks[at:]):
        if random.random() < 0.8:
            break
        after.change(previous_hash=before.hash)
        after.hash = after.header.hash


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_random_forgeries(copy: Copy, times: int) -> None:
    rules = set()
    for seed in range(80 * times):
        random = Random(seed)
        directory = copy(random.choice(["appended", "batches"]))
        with forging(directory, cover_tracks=random.random() < 0.5) as blocks:
            for _ in range(random.choice([1, 1, 2, 5])):
                forge(random, blocks)
        for _ in range(2):
            rules |= {finding.rule for finding in agreed(directory)}
            regroup(directory, *random.choices([1, 2, 3, 4], k=20))
    assert rules > {"version", "kind", "count", "index", "timestamp", "link", "hash", "size"}
    assert rules > {"data_root", "work", "head"}


def mutate(random: Random, directory: Path) -> None:
    """Change a few bits, bytes or stretches of bytes of a column of a row."""
    row = random.choice(rows_of(directory))
    column = random.choice(list(UNITS))
    changed = bytearray(columns_of(row)[column])
    if not changed:
        return
    for _ in range(random.choice([1, 1, 2, 8])):
        at = random.randrange(len(changed))
        unit = UNITS[column]
        start = at - at % unit
        match random.choice(["bit", "byte", "small", "unit"]):
            case "bit":
                changed[at] ^= 1 << random.randrange(8)
            case "byte":
                changed[at] = random.randrange(256)
            case "small":
                changed[at] = min(changed[at] + random.choice([1, 2]), 255)
            case _:
                other = random.randrange(0, len(changed), unit)
                changed[start : start + unit] = changed[other : other + unit]
    set_column(directory, row[0], column, bytes(changed))


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.soak)])
@pytest.mark.parametrize("step", [1, 4, stored_runs.SCAN_BLOCKS])
def test_random_bytes_in_random_columns(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, step: int, times: int
) -> None:
    monkeypatch.setattr(stored_runs, "SCAN_BLOCKS", step)  # where rows are joined must not matter
    for seed in range(step, step + 60 * times):
        random = Random(seed)
        directory = copy(random.choice(["extended", "rows"]))
        for _ in range(random.choice([1, 1, 2, 4])):
            mutate(random, directory)
        agreed(directory)


def rearrange(random: Random, directory: Path) -> None:
    """Move, drop, double, join, swap or cut rows, or change the head."""
    rows = rows_of(directory)
    at = random.randrange(len(rows))
    first, hashes, headers, offsets, data = rows[at]
    taken = {row[0] for row in rows}
    where = max(0, first + random.randrange(-3, 4))
    match random.choice(["move", "drop", "double", "swap", "join", "cut", "head"]):
        case "move" if where not in taken:
            rows[at] = (where, *rows[at][1:])
        case "double" if where not in taken:
            rows.append((where, *rows[at][1:]))
        case "drop" if len(rows) > 1:
            del rows[at]
        case "swap":
            other = random.randrange(len(rows))
            rows[at] = (first, *rows[other][1:])
            rows[other] = (rows[other][0], hashes, headers, offsets, data)
        case "join":
            rows[at : at + 2] = [joined(rows[at : at + 2])]
        case "cut" if len(hashes) > HASH_BYTES:
            rows[at] = (first, hashes[:-HASH_BYTES], headers[:-HEADER_BYTES], offsets, data)
        case _:
            length, last_hash = head_of(directory)
            length = max(1, length + random.randrange(-3, 4))
            set_head(directory, length, random.choice([last_hash, hashes[-HASH_BYTES:]]))
    write_rows(directory, rows)


def overlap(rows: Sequence[Row]) -> bool:
    return any(row[0] + len(row[1]) // HASH_BYTES > after[0] for row, after in pairwise(rows))


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.soak)])
@pytest.mark.parametrize("overlapping", [False, True], ids=["apart", "overlapping"])
def test_random_rearrangements_of_rows(copy: Copy, overlapping: bool, times: int) -> None:
    for seed in range(100 * times):
        random = Random(seed)
        directory = copy(random.choice(["extended", "rows", "batches"]))
        for _ in range(random.choice([1, 1, 2, 4])):
            rearrange(random, directory)
        if overlap(rows_of(directory)) == overlapping:
            agreed(directory)


# Sealed segments

PARTS = (2, 3, 100)


@pytest.fixture
def sealed_copy(originals: Path, copy: Copy) -> SealedCopy:
    """Return a function that copies a ledger whose first blocks lie in files, so many in each."""

    def make(ledger: str, *sizes: int) -> Path:
        name = f"{ledger} {sizes}"
        if not (originals / name).exists():
            with Ledger.open(originals / ledger, read_only=True) as opened:
                sealed.build(originals / name, list(opened), *sizes)
        return copy(name)

    return make


def some_sizes(random: Random) -> list[int]:
    """Return how many blocks files have: at least 8 in all, which every ledger has."""
    return random.choice([[8], [1, 7], [3, 5], [2, 2, 1, 3], [4, 3]])


@pytest.mark.parametrize("ledger", LEDGERS)
def test_sealed_ledgers_are_valid(
    sealed_copy: SealedCopy, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in PARTS:
        sealed.cut_into_parts(monkeypatch, part, 500)
        for sizes in ((1,), (8,), (3, 3), (1, 2, 1, 3)):
            assert agreed(sealed_copy(ledger, *sizes)) == []


def test_what_files_have_in_common_with_the_format() -> None:
    assert (flat.PART_BLOCKS, flat.PART_BYTES) == (independent.PART_BLOCKS, independent.PART_BYTES)


def test_a_long_sealed_ledger_is_valid_and_one_edit_in_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 5000)
    sealed.cut_into_parts(monkeypatch, 2000)
    with Ledger.create(tmp_path / "ledger") as ledger:
        ledger.extend(range(6000))
        ledger.extend(range(1000))
    assert len(sealed.files_of(tmp_path / "ledger")) == 1
    assert agreed(tmp_path / "ledger") == []
    path = sealed.files_of(tmp_path / "ledger")[0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    ((last,),) = execute(tmp_path / "ledger", "SELECT first + blocks - 1 FROM segments")
    assert agreed(tmp_path / "ledger") == [Finding(int(str(last)), "data_root")]


@pytest.mark.parametrize("ledger", ["extended", "batches"])
@pytest.mark.parametrize("attack", list(attacks()), ids=lambda attack: attack.name)
def test_attack_on_sealed_blocks(
    sealed_copy: SealedCopy, attack: Attack, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed.cut_into_parts(monkeypatch, 2)
    directory = sealed_copy(ledger, 3, 4)
    with forging(directory, cover_tracks=attack.cover_tracks) as blocks:
        if "whole chain" in attack.name:  # it wants an entry in each block
            blocks[:] = [block for block in blocks if block.entries]
        attack.perform(blocks)
    assert sealed.files_of(directory)
    assert agreed(directory) != [] or attack.cover_tracks


def test_random_forgeries_of_sealed_blocks(
    sealed_copy: SealedCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = set()
    for seed in range(80):
        random = Random(seed)
        sealed.cut_into_parts(monkeypatch, random.choice(PARTS))
        ledger = random.choice(["appended", "batches"])
        directory = sealed_copy(ledger, *some_sizes(random))
        with forging(directory, cover_tracks=random.random() < 0.5) as blocks:
            for _ in range(random.choice([1, 1, 2, 5])):
                forge(random, blocks)
        rules |= {finding.rule for finding in agreed(directory)}
    assert rules > {"version", "kind", "count", "index", "timestamp", "link", "hash", "size"}
    assert rules > {"data_root", "work", "head"}


def mutate_file(random: Random, path: Path, times: int) -> None:
    """Change bits or words of a file, more often where it says how it is to be read."""
    changed = bytearray(path.read_bytes())
    n, m = unpack("<QQ", changed[24:40])
    headers = -(-(64 + n * HASH_BYTES) // 64) * 64
    offsets = -(-(headers + n * HEADER_BYTES) // 64) * 64
    for _ in range(times):
        match random.choice(["bit", "offset", "offset", "count", "count", "header"]):
            case "bit":
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
            case "offset":
                at = offsets + 8 * random.randrange(m + 1)
                (old,) = unpack("<Q", changed[at : at + 8])
                new = random.choice([0, 1, old + 1, max(old - 20, 0), old * 2, 2**63, 2**64 - 1])
                changed[at : at + 8] = pack("<Q", min(new, 2**64 - 1))
            case "count":
                at = headers + HEADER_BYTES * random.randrange(n) + 56
                changed[at : at + 4] = pack(">I", random.choice([0, 1, 2, 3, 50, 2**32 - 1]))
            case _:
                changed[random.randrange(64)] ^= 1 << random.randrange(8)
    path.write_bytes(changed)


def record_again(directory: Path, path: Path) -> None:
    """Make the manifest agree with what no rule covers of a file, as an attacker could."""
    file = path.read_bytes()
    n, m = unpack("<QQ", file[24:40])
    at = 64
    for width in (n * HASH_BYTES, n * HEADER_BYTES, (m + 1) * 8):
        at = -(-(at + width) // 64) * 64
    index = file[at : at + n * 8]
    pages = [sha256(b"\x00" + index[i : i + PAGE]).digest() for i in range(0, len(index), PAGE)]
    digest = sha256(file[:64] + b"".join(pages)).digest()
    execute(directory, "UPDATE segments SET digest = ? WHERE first = ?", digest, int(path.stem))


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_random_changes_of_files(
    sealed_copy: SealedCopy, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Both read the same out of damaged counts and offsets, wherever a file is cut into parts."""
    rules = set()
    for seed in range(100 * times):
        random = Random(seed)
        sealed.cut_into_parts(monkeypatch, random.choice([1, *PARTS]))
        ledger = random.choice(["extended", "rows", "batches"])
        directory = sealed_copy(ledger, *some_sizes(random))
        path = random.choice(sealed.files_of(directory))
        mutate_file(random, path, random.choice([1, 1, 2, 4]))
        if random.random() < 0.5:
            record_again(directory, path)
        rules |= {finding.rule for finding in agreed(directory)}
    assert rules > {"storage", "count", "size", "data_root"}


def test_random_rearrangements_of_the_manifest(sealed_copy: SealedCopy) -> None:
    rules = set()
    for seed in range(100):
        random = Random(seed)
        directory = sealed_copy("extended", *random.choice([[3, 5], [2, 2, 1, 3], [4, 3]]))
        rows = execute(directory, "SELECT * FROM segments")
        first = random.choice(rows)[0]
        by = random.choice([-3, -1, 1, 2, 4, 1000])
        with suppress(sqlite3.IntegrityError):  # it would be at the place of another
            match random.choice(["move", "drop", "double", "resize", "rename", "head", "tail"]):
                case "move":
                    statement = "UPDATE segments SET first = first + ? WHERE first = ?"
                    execute(directory, statement, by, first)
                case "drop":
                    execute(directory, "DELETE FROM segments WHERE first = ?", first)
                case "double":
                    statement = """INSERT INTO segments
                        SELECT first + ?, blocks, size, digest FROM segments WHERE first = ?"""
                    execute(directory, statement, by, first)
                case "resize":
                    statement = "UPDATE segments SET blocks = blocks + ? WHERE first = ?"
                    execute(directory, statement, by, first)
                case "rename":
                    path = random.choice(sealed.files_of(directory))
                    path.rename(path.with_name(independent.file_name(int(path.stem) + by)))
                case "head":
                    length, last_hash = head_of(directory)
                    set_head(directory, max(length + by, 1), last_hash)
                case _:
                    execute(directory, "UPDATE runs SET first = max(first + ?, 0)", by)
        rules |= {finding.rule for finding in agreed(directory)}
    assert rules >= {"storage", "index", "head"}
