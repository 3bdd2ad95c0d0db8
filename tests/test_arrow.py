"""Ledgers as columns: each against its blocks, by those who will read them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

import cairn.ledger.arrow
from cairn import Block, DamagedError, FormatError, Ledger
from cairn.cli import main
from cairn.core.entry import SALT_BYTES
from cairn.core.header import LIMIT_63
from cairn.core.segment import Segment
from cairn.hashing import best_hasher
from cairn.lab.tampering import forging
from cairn.ledger.arrow import SCHEMA, record_batch, write_parquet
from cairn.store.database import Database
from cairn.store.memory import MemoryStore
from cairn.store.tail import Tail
from tests import builders
from tests.core import chains
from tests.core.test_segment import SHAPES

CONTENTS: tuple[Any, ...] = (
    {"user": "alice", "id": 2**64 - 1},
    ({"user": "bob"}, 2, "drei €, [vier]"),
    (),
    "plain",
    ("one",),
    ((),),
    None,
)
"""Values, and batches of 3, none, one and an empty list."""

Row = dict[str, Any]


def row(block: Block) -> Row:
    """Return what the columns should say of `block`; the timestamp in µs."""
    header = block.header
    return {
        "index": header.index,
        "timestamp": header.timestamp,
        "data": None if block.erased else block.data_json().decode(),
        "previous_hash": header.previous_hash,
        "hash": block.stored_hash,
        "kind": block.kind,
        "count": header.count,
        "size": header.size,
        "data_root": header.data_root,
        "bits": header.bits,
        "nonce": header.nonce,
        "salts": None if block.erased else [entry.salt for entry in block.entries],
        "version": header.version,
    }


def rows(table: Any) -> list[Row]:
    """Return a table or batch as `row` does; dates past the year 9999 have no Python object."""
    at = table.schema.get_field_index("timestamp")
    found: list[Row] = table.set_column(
        at, "timestamp", table.column("timestamp").cast(pa.int64())
    ).to_pylist()
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A ledger with batches, on disk, in several runs."""
    path = tmp_path / "ledger"
    path.mkdir()
    Database.create(path)
    with closing(Database(path)) as database:
        tail = Tail(database, best_hasher())
        for segment in builders.segments(builders.chain(*CONTENTS), 1, 1, 3):
            tail.append(segment, {})
    return path


@pytest.fixture
def ledger(directory: Path) -> Iterator[Ledger]:
    with Ledger.open(directory, read_only=True) as ledger:
        yield ledger


def export(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def file(directory: Path) -> str:
    """The ledger as a Parquet file."""
    path = directory.with_name("ledger.parquet")
    assert export("--ledger", directory, "--parquet", path) == ""
    return str(path)


# Columns against blocks


def test_every_column_says_what_the_blocks_do(ledger: Ledger) -> None:
    blocks = list(ledger)
    assert {block.kind for block in blocks} == {"value", "batch", "record"}
    table = ledger.to_arrow().read_all()
    table.validate(full=True)
    assert table.schema == SCHEMA
    assert rows(table) == [row(block) for block in blocks]
    assert [json.loads(text) for text in table["data"].to_pylist()] == [b.data for b in blocks]


def test_the_columns_are_the_members_of_the_json_view(ledger: Ledger) -> None:
    view = list(json.loads(ledger[1].to_json()))
    assert view[-2:] == ["salt", "header"]
    assert SCHEMA.names == [*view[:-2], "salts", "version"]


def test_small_chains_of_all_shapes_are_the_same_in_columns() -> None:
    for shape in SHAPES:
        blocks = chains.chain(shape, start=5)
        batch = record_batch(Segment.from_blocks(5, blocks))
        batch.validate(full=True)
        assert rows(batch) == [row(block) for block in blocks], shape


def test_every_header_field_keeps_its_largest_value() -> None:
    [block] = chains.chain("v")
    sealed = chains.sealed(
        0,
        [entry.to_bytes() for entry in block.entries],
        index=2**63 - 1,
        previous_hash=b"\xff" * 32,
        timestamp=2**63 - 1,
        version=2**16 - 1,
        bits=2**32 - 1,
        size=2**32 - 1,
        data_root=b"\xfe" * 32,
        nonce=2**64 - 1,
    )
    assert rows(record_batch(Segment.from_blocks(0, [sealed]))) == [row(sealed)]


def test_any_part_can_be_asked_for(ledger: Ledger) -> None:
    blocks, n = list(ledger), len(ledger)
    for start in range(n + 2):
        for stop in (None, *range(n + 2)):
            table = ledger.to_arrow(start, stop).read_all()
            assert rows(table) == [row(block) for block in blocks[start:stop]]
            assert table.schema == SCHEMA


def test_a_stream_ends_where_the_ledger_did_when_it_was_asked_for(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "audit") as ledger:
        ledger.append(1)
        reader = ledger.to_arrow()
        ledger.append(2)
        assert reader.read_all()["index"].to_pylist() == [0, 1]


# Without copying


def test_hashes_are_not_copied() -> None:
    whole = Segment.from_blocks(0, chains.chain("gv3v"))
    for segment in (whole, whole.cut(1, 3)):
        column = record_batch(segment).column("hash")
        _, memory = column.buffers()
        assert memory.address == segment.hashes.ctypes.data
        assert memory.size == segment.hashes.nbytes


def test_batches_outlive_their_segments() -> None:
    blocks = chains.chain("gv3v")
    reader = cairn.ledger.arrow.batches(Segment.from_blocks(i, [b]) for i, b in enumerate(blocks))
    batches = list(reader)
    assert len(batches) == 4
    junk = [os.urandom(300) for _ in range(1000)]  # takes the place of what was let go
    assert rows(pa.Table.from_batches(batches)) == [row(block) for block in blocks]
    assert junk


# Those who read it


def test_duckdb_reads_every_column(ledger: Ledger, file: str) -> None:
    columns = ", ".join(SCHEMA.names).replace("timestamp", "epoch_us(timestamp)")
    query = f"SELECT {columns} FROM source ORDER BY index"
    expected = [tuple(row(block).values()) for block in ledger]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW stored AS SELECT * FROM '{file}'")
        assert connection.execute(query.replace("source", "stored")).fetchall() == expected
        connection.register("source", ledger.to_arrow())
        assert connection.execute(query).fetchall() == expected


def test_duckdb_looks_into_the_data(ledger: Ledger, file: str) -> None:
    def ask(query: str) -> list[Any]:
        with duckdb.connect() as connection:
            return connection.execute(query).fetchall()

    users = f"SELECT json_extract(data, '$.user') FROM '{file}' WHERE index = 1"
    assert ask(users) == [('"alice"',)]
    assert ask(f"SELECT index FROM '{file}' WHERE data->>'$.user' = 'alice'") == [(1,)]
    entries = f"""SELECT index, unnest(json_extract(data, '$[*]')) AS entry
        FROM '{file}' WHERE kind = 'batch' ORDER BY index"""
    expected = [(block.index, value) for block in ledger if block.is_batch for value in block.data]
    assert [(index, json.loads(text)) for index, text in ask(entries)] == expected
    typed = f"SELECT DISTINCT typeof(timestamp), typeof(index), typeof(hash) FROM '{file}'"
    assert ask(typed) == [("TIMESTAMP WITH TIME ZONE", "BIGINT", "BLOB")]


def test_pandas_reads_every_column(ledger: Ledger, file: str) -> None:
    for frame in (pd.read_parquet(file), ledger.to_arrow().read_pandas()):
        assert str(frame["timestamp"].dtype) == "datetime64[us, UTC]"
        assert str(frame["kind"].dtype) == "category"
        frame["timestamp"] = frame["timestamp"].astype("int64")
        frame["salts"] = frame["salts"].map(list)
        assert frame.to_dict("records") == [row(block) for block in ledger]


def test_polars_reads_every_column(ledger: Ledger, file: str) -> None:
    streamed = pl.from_arrow(ledger.to_arrow())
    assert isinstance(streamed, pl.DataFrame)
    for frame in (pl.read_parquet(file), pl.scan_parquet(file).collect(), streamed):
        assert frame.schema["timestamp"] == pl.Datetime("us", "UTC")
        found = frame.with_columns(pl.col("timestamp").dt.epoch("us"), pl.col("kind").cast(str))
        assert found.to_dicts() == [row(block) for block in ledger]
        user = frame.filter(pl.col("kind") == "value").select(
            pl.col("data").str.json_path_match("$.user")
        )
        assert user.to_series().to_list() == ["alice", None, None]


def test_readers_with_threads_of_their_own_get_long_ledgers(tmp_path: Path) -> None:
    """Longer than a segment of the store, so that a stream is asked again and again."""
    n = 20_000
    with Ledger.open(tmp_path / "audit") as ledger:
        ledger.extend({"i": i} for i in range(1, n))
        assert len(list(ledger.to_arrow())) > 2
        total = n * (n - 1) // 2
        with duckdb.connect() as connection:
            connection.execute("SET threads = 2")
            connection.register("source", ledger.to_arrow())
            query = "SELECT count(*), sum(CAST(data->>'$.i' AS BIGINT)) FROM source"
            assert connection.execute(query).fetchall() == [(n, total)]
        frame = pl.from_arrow(ledger.to_arrow())
        assert isinstance(frame, pl.DataFrame)
        assert frame["index"].to_list() == list(range(n))


# The file


def test_the_file_says_whose_it_is(ledger: Ledger, file: str) -> None:
    metadata = pq.read_metadata(file).metadata
    assert metadata[b"cairn.id"].decode() == ledger.id
    assert metadata[b"cairn.name"].decode() == ledger.genesis.name == "test"
    assert pq.read_schema(file).equals(SCHEMA)


def test_row_groups_hold_many_batches_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = builders.chain(*range(40))
    ledger = Ledger(MemoryStore(Segment.from_blocks(0, blocks[:1])))
    for i, block in enumerate(blocks[1:], start=1):
        ledger._store.append(Segment.from_blocks(i, [block]), {})

    def groups() -> list[int]:
        stream, seen = io.BytesIO(), [0]
        write_parquet(ledger, stream, progress=seen.append)
        table, parts = pq.read_table(stream), pq.read_metadata(stream)
        assert rows(table) == [row(block) for block in blocks]
        sizes = [parts.row_group(i).num_rows for i in range(parts.num_row_groups)]
        assert np.diff(seen).tolist() == sizes
        return sizes

    assert groups() == [41]
    monkeypatch.setattr(cairn.ledger.arrow, "ROW_GROUP_BLOCKS", 16)
    assert groups() == [16, 16, 9]
    monkeypatch.setattr(cairn.ledger.arrow, "ROW_GROUP_BYTES", 1)
    assert groups() == [1] * 41


def test_export_writes_into_what_is_no_regular_file(directory: Path, file: str) -> None:
    pipe = directory.with_name("pipe")
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        export("--ledger", directory, "--parquet", pipe)
        content = reader.communicate()[0]
    assert pq.read_table(io.BytesIO(content)) == pq.read_table(file)


def test_lines_and_columns_at_once_are_refused(directory: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    output = export("--ledger", directory, "-o", one, "--parquet", other, code=2)
    assert "name one" in output
    assert not one.exists()
    assert not other.exists()


MEMORY = """
import resource, sys
from cairn import Ledger
from cairn.cli import main
def exported(path):
    try:
        main(["export", "--ledger", path, "--parquet", path + ".parquet"])
    except SystemExit as end:
        assert not end.code, end.code
    with Ledger.open(path, read_only=True) as ledger:
        assert sum(map(len, ledger.to_arrow())) == len(ledger)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(*map(exported, sys.argv[1:]))
"""


def test_memory_does_not_grow_with_the_ledger(tmp_path: Path) -> None:
    """A ledger of several row groups, and one of three times as many."""
    sizes, paths = (80, 240), []
    for megabytes in sizes:
        paths.append(tmp_path / f"{megabytes}")
        with Ledger.create(paths[-1]) as ledger:
            ledger.extend("x" * 100_000 for _ in range(megabytes * 10))
    command = [sys.executable, "-c", MEMORY, *map(str, paths)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    unit = 1 if sys.platform == "darwin" else 1024
    few, many = (int(peak) * unit for peak in output.split())

    assert many - few < 50e6


# Without pyarrow

WITHOUT = """
import sys
sys.modules["pyarrow"] = None
from cairn.cli import main
main()
"""


def test_without_pyarrow_it_is_told_what_to_install(directory: Path, tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT, "export", "--ledger", str(directory), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    result = run("--parquet", str(tmp_path / "file"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "Error: this needs pyarrow: pip install 'cairn-ledger[arrow]'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]
    result = run()
    assert (result.returncode, len(result.stdout.splitlines())) == (0, len(CONTENTS) + 1)


def test_pyarrow_is_imported_by_nobody_who_does_not_ask() -> None:
    program = "import sys, cairn.cli, cairn.client, cairn.logging; print('pyarrow' in sys.modules)"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"False\n"


# Damage


@pytest.mark.parametrize("each", [1, pytest.param(8, marks=pytest.mark.soak)])
def test_every_flipped_byte_is_shown_as_it_is_stored_or_refused(each: int) -> None:
    """The columns never say other than the blocks do, whichever of `each` bits was damaged."""
    segment = Segment.from_blocks(0, chains.chain("gv20v"))
    shown = refused = 0
    for column in ("headers", "hashes", "data", "offsets"):
        for at, place in product(range(getattr(segment, column).nbytes), range(each)):
            bit = at * 8 + (at + place) % 8
            changed = chains.flipped(segment, column, bit)
            try:
                batch = record_batch(changed)
            except (DamagedError, FormatError):
                refused += 1
                continue
            batch.validate(full=True)
            assert rows(batch) == [row(block) for block in changed.blocks()], (column, bit)
            shown += 1

    assert shown > 600 * each
    assert refused > 60 * each


DAMAGE: dict[str, tuple[str, Row]] = {
    "not UTF-8": ("the data of block 3 is not JSON", {"entry": b"s" * 16 + b'"\xff"'}),
    "cut in the salt": ("block 3: an entry is shorter than its salt", {"entry": b"s" * 15}),
    "an unknown kind": ("block 3: kind is 3, not below 3", {"kind": 3}),
    "a huge index": ("block 3: index is 9223372036854775808, not below", {"index": LIMIT_63}),
    "a huge time": ("block 3: timestamp is 9223372036854775809", {"timestamp": LIMIT_63 + 1}),
    "a wrong count": ("blocks 3 to 3: counts, offsets and data do not agree", {"count": 2}),
}
"""What is said, and what was changed: the entry of block 3, or a field of its header."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_leaves_the_old_file(tmp_path: Path, damage: str) -> None:
    message, changes = DAMAGE[damage]
    directory, file = tmp_path / "audit", tmp_path / "file"
    with Ledger.open(directory) as ledger:
        ledger.extend(range(5))
    with forging(directory, cover_tracks=False) as blocks:
        if "entry" in changes:
            blocks[3].entries[0] = changes["entry"]
        else:
            blocks[3].change(**changes)
    file.write_bytes(b"the export of yesterday")
    assert message in export("--ledger", directory, "--parquet", file, code=1)
    assert file.read_bytes() == b"the export of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit", "file"]
    with Ledger.open(directory, read_only=True) as ledger:
        expected = DamagedError if damage == "a wrong count" else FormatError
        with pytest.raises(expected, match=message):
            ledger.to_arrow().read_all()
        reader = ledger.to_arrow()
        with duckdb.connect() as connection:
            connection.register("source", reader)
            with pytest.raises(duckdb.Error, match=message):
                connection.execute("SELECT count(data) FROM source").fetchall()
        assert rows(ledger.to_arrow(4).read_all()) == [row(block) for block in ledger[4:]]


def test_a_damaged_database_is_no_crash(directory: Path, tmp_path: Path) -> None:
    (directory / "tail.sqlite").write_bytes(b"junk" * 5000)
    output = export("--ledger", directory, "--parquet", tmp_path / "file", code=1)
    assert "cannot be read" in output
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [(bytes(SALT_BYTES - 1), "an entry is shorter"), (bytes(SALT_BYTES) + b"\xff", "the data of")],
)
@pytest.mark.parametrize("position", [0, 1, 2, 4])  # 3 is an empty batch
def test_the_block_with_a_bad_entry_is_named(position: int, entry: bytes, message: str) -> None:
    blocks = chains.chain("gv20v")
    bad = blocks[position]
    blocks[position] = chains.sealed(
        bad.header.kind,
        [*(entry.to_bytes() for entry in bad.entries[:-1]), entry],
        index=bad.index,
        previous_hash=bad.header.previous_hash,
        timestamp=bad.header.timestamp,
    )
    with pytest.raises(FormatError, match=rf"block {7 + position}\b") as raised:
        record_batch(Segment.from_blocks(7, blocks))
    assert message in str(raised.value)


def test_what_is_erased_has_neither_data_nor_salts(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend([{"user": "alice"}, "bob", {"erased": "00" * 32}])
        salt = ledger[1].entries[0].salt
        ledger.erase(1, reason="asked for")
        table = ledger.to_arrow().read_all()
        table.validate(full=True)
        assert rows(table) == [row(block) for block in ledger]
        assert [r["data"] is None for r in rows(table)] == [False, True, False, False, False]
        file = tmp_path / "audit.parquet"
        with file.open("wb") as stream:
            write_parquet(ledger, stream)
    assert rows(pq.read_table(file)) == rows(table)
    assert salt not in file.read_bytes()
    with closing(duckdb.connect()) as connection:
        found = connection.execute(f"SELECT index FROM '{file}' WHERE data IS NULL").fetchall()
    assert found == [(1,)]
