"""Erasing an entry on purpose: it is gone from every file, and everything else validates."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from cairn import (
    Block,
    DamagedError,
    EntryError,
    FormatError,
    Genesis,
    InvalidChainError,
    KeyReusedError,
    Ledger,
    Limits,
    NoSuchBlockError,
    OutcomeUnknownError,
    ReadOnlyError,
    StoreError,
    UsageError,
)
from cairn.core.canonical import canonical
from cairn.core.erasure import Erasure
from cairn.lab.tampering import Forgery, forging, rechain
from cairn.ledger.exchange import export_lines, import_chain
from cairn.ledger.search import find_blocks
from cairn.store import database as databases
from cairn.store import disk, flat, stored_runs
from cairn.store.database import Database
from cairn.store.directory import FILE_NAME
from cairn.store.disk import DiskStore
from cairn.store.flat import Sealed
from cairn.store.tail import Tail
from tests.builders import chain
from tests.ledger.conftest import quick_folder
from tests.store.sealed import build, database, files_of

WHY = "asked for by the person it is of"
SECRET = "078-05-1120 of Hilda Schrader Whitcher"
SIZES = (1, 150, 100_000)
"""How often it comes: in a page of the database, in pages of its own, in many of them."""
NAMES = ("tail", "files", "moved into a file", "moved when erased")


def secret(times: int) -> dict[str, str]:
    return {"number": SECRET * times}


def traces(directory: Path, block: Block) -> list[str]:
    """Return which files hold the value of `block`, or its salt."""
    needles = (SECRET.encode(), block.entries[0].salt)
    files = (path for path in directory.rglob("*") if path.is_file())
    return [str(path) for path in files if any(n in path.read_bytes() for n in needles)]


@contextmanager
def small_tails(blocks: int) -> Iterator[None]:
    with patch.object(disk, "SEAL_BLOCKS", blocks):
        yield


def seal(ledger: Ledger) -> None:
    """Move what is in the tail into a file."""
    with small_tails(0):
        store = ledger._store
        assert isinstance(store, DiskStore)
        store._room = None
        ledger.append("into a file with all before it")
        store._room = None


@pytest.fixture(params=SIZES)
def times(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def memory_path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.fixture(autouse=True)
def sqlite_overwrites_only_what_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """As most builds of it; some overwrite what is deleted by themselves."""
    plain = Database._open

    def opened(self: Database, mode: str) -> sqlite3.Connection:
        connection = plain(self, mode)
        connection.execute("PRAGMA secure_delete = OFF").fetchone()
        return connection

    monkeypatch.setattr(Database, "_open", opened)


@pytest.fixture
def path(memory_path: Path) -> Path:
    return memory_path / "ledger"


def others(ledger: Ledger, *positions: int) -> list[Block]:
    return [block for block in ledger if block.index not in positions]


# It is gone, and nothing else is


@pytest.mark.parametrize("place", NAMES)
@pytest.mark.parametrize("among", ["appended", "extended"])
def test_value_and_salt_are_in_no_file_any_more(
    path: Path, times: int, place: str, among: str
) -> None:
    with Ledger.open(path) as ledger:
        neighbours = [f"neighbour {i}" * 20 for i in range(40)]
        values: list[object] = [*neighbours[:20], secret(times), *neighbours[20:]]
        if among == "appended":
            for value in values:
                ledger.append(value)
        else:
            ledger.extend(values)
        block = ledger[21]
        assert block.data == secret(times)
        if place == "files":
            seal(ledger)
        before = list(ledger)
        assert traces(path, block)
        if place == "moved when erased":
            with small_tails(0):
                ledger._store._room = None  # type: ignore[attr-defined]
                record = ledger.erase(21, reason=WHY)
            assert len(files_of(path)) == 1
        else:
            record = ledger.erase(21, reason=WHY)
        assert traces(path, block) == []
        if place == "moved into a file":
            seal(ledger)
        assert (
            [b for b in ledger if b.index != 21][: len(before) - 1]
            == others(ledger, 21)[: len(before) - 1]
            == [b for b in before if b.index != 21]
        )
        assert ledger[record.index] == record
        assert ledger.head.index == len(ledger) - 1
        found = ledger[21]
        assert found.erased
        assert (found.header, found.stored_hash) == (block.header, block.stored_hash)
        assert ledger.find(block.hash) == found
        for every in (False, True):
            report = ledger.validate(all=every, canonical=True)
            assert (report.valid, report.erased, report.failures) == (True, 1, ())
    assert traces(path, block) == []
    with Ledger.open(path) as ledger:
        assert ledger.validate(all=True).erased == 1
        assert ledger[21].erased


def test_the_record_says_which_entry_and_why(path: Path) -> None:
    with Ledger.open(path) as ledger:
        block = ledger.append(secret(1))
        record = ledger.erase(1, reason=WHY)
        assert record.kind == "record"
        assert record.data == {
            "id": block.header.data_root.hex(),
            "index": 1,
            "reason": WHY,
            "record": "erasure",
        }
        assert ledger[1].data == {"erased": block.entries[0].id.hex()}
        assert record.header.previous_hash == block.stored_hash


def test_what_was_sealed_in_pieces_leaves_nothing_in_the_tail(path: Path) -> None:
    """Rows that are deleted while others stay are overwritten, too."""
    with patch.object(stored_runs, "SCAN_BLOCKS", 1), Ledger.open(path) as ledger:
        for i in range(60):
            ledger.append(secret(1) if i % 3 == 0 else f"neighbour {i}" * (i * 7 % 50))
        salts = [ledger[i].entries[0].salt for i in range(1, 40)]
        with small_tails(10):
            ledger._store._room = None  # type: ignore[attr-defined]
            ledger.append("more than a tail holds")
        assert len(files_of(path)) > 2
        with closing(sqlite3.connect(path / FILE_NAME)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        tail = (path / FILE_NAME).read_bytes()
        assert not any(salt in tail for salt in salts)
        assert SECRET.encode() not in tail


def test_erasing_one_after_another_leaves_the_others(path: Path) -> None:
    values = [secret(1) | {"n": i} for i in range(30)]
    with Ledger.open(path) as ledger:
        ledger.extend(values[:15])
        seal(ledger)
        ledger.extend(values[15:])
        blocks = list(ledger)
        victims = [block for block in blocks if block.kind == "value" and block.index % 2]
        for done, block in enumerate(victims, start=1):
            ledger.erase(block.index, reason=WHY)
            report = ledger.validate(all=True)
            assert (report.valid, report.erased) == (True, done)
        kept = [block for block in blocks if block not in victims]
        assert [ledger[block.index] for block in kept] == kept
    salts = {block.entries[0].salt for block in victims}
    data = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert not any(salt in data for salt in salts)


def test_a_copy_that_a_crash_left_of_a_file_goes_too(path: Path) -> None:
    with Ledger.open(path) as ledger:
        block = ledger.append(secret(1))
        seal(ledger)
        folder = path / "segments"
        whole = files_of(path)[0].read_bytes()
        (folder / ".new").write_bytes(whole[:-7])
        (folder / Sealed(len(ledger), 0, 0, b"").name).write_bytes(whole)
        ledger.erase(1, reason=WHY)
        assert traces(path, block) == []
        assert len(files_of(path)) == 1
        assert ledger.validate().valid


def test_in_memory(times: int) -> None:
    ledger = Ledger.in_memory()
    ledger.append(secret(times))
    segments = list(ledger.scan())
    block, after = ledger[1], ledger.append("after")
    ledger.erase(1, reason=WHY)
    assert ledger[1].erased
    assert ledger[2] == after
    assert ledger.validate(all=True).erased == 1
    assert segments[1].block(0) == block  # what was handed out stays what it was


# What is refused


def test_what_cannot_be_erased(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
        ledger.erase(1, reason=WHY)
        for index, why in {
            0: "block 0 is genesis: only what holds one value can be erased",
            2: "block 2 is a record: only",
            1: "block 1 is erased already",
        }.items():
            with pytest.raises(UsageError, match=why):
                ledger.erase(index, reason=WHY)
        for index in (3, -1, 2**63, -(2**70)):
            with pytest.raises(NoSuchBlockError, match="the ledger has 3"):
                ledger.erase(index, reason=WHY)
        assert len(ledger) == 3


def test_a_batch_cannot_be_erased(path: Path) -> None:
    build(path, chain(("a", "b"), "c"))
    with Ledger.open(path) as ledger, pytest.raises(UsageError, match="block 1 is a batch"):
        ledger.erase(1, reason=WHY)


@pytest.mark.parametrize("reason", ["", "x" * 1001, "\ud800", None, 7])
def test_a_reason_has_to_be_one(path: Path, reason: object) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
        with pytest.raises(EntryError):
            ledger.erase(1, reason=reason)  # type: ignore[arg-type]
        assert (len(ledger), ledger[1].data) == (2, secret(1))
        ledger.erase(1, reason="x" * 1000)
        assert ledger.validate().valid


def test_a_record_that_does_not_fit_the_ledger_s_limits_is_refused(path: Path) -> None:
    with Ledger.create(path, Genesis(name="x", limits=Limits(size=200))) as ledger:
        ledger.append("short")
        with pytest.raises(EntryError, match="past the limit of this ledger, 184"):
            ledger.erase(1, reason="x" * 100)
        assert ledger.validate().valid


def test_a_reader_cannot_erase(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
    with Ledger.open(path, read_only=True) as ledger, pytest.raises(ReadOnlyError):
        ledger.erase(1, reason=WHY)


def test_evidence_is_not_erased(path: Path) -> None:
    """What was changed would look as if it had been what the record says."""
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
        ledger.append("after")
    with forging(path, cover_tracks=False) as blocks:
        blocks[1].entries[0] = blocks[1].entries[0][:-3] + b'!"}'
    with Ledger.open(path) as ledger:
        with pytest.raises(DamagedError, match="block 1 is damaged: its entry is not the one"):
            ledger.erase(1, reason=WHY)
        assert len(ledger) == 3


def test_no_value_of_a_user_is_a_record(path: Path) -> None:
    with Ledger.open(path) as ledger:
        block = ledger.append(secret(1))
        ledger.append(Erasure(1, block.header.data_root, WHY).to_value())
        ledger.append("after")
    with forging(path, cover_tracks=False) as blocks:
        blocks[1].entries[0] = bytes(len(blocks[1].entries[0]))
    with Ledger.open(path) as ledger:
        failure = ledger.validate().failure
        assert failure is not None
        assert (failure.index, failure.rule) == (1, "erasure")


def test_a_key_of_what_is_erased_is_answered(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1), key="one")
        ledger.append_all([secret(1), "b"], key="many")
        ledger.append("kept", key="kept")
        ledger.erase(1, reason=WHY)
        ledger.erase(2, reason=WHY)
        for again in (secret(1), "other", ledger[1].data):
            with pytest.raises(
                KeyReusedError, match="key 'one' was used for a value that is erased"
            ):
                ledger.append(again, key="one")
        with pytest.raises(KeyReusedError, match="key 'many' was used for a value that is erased"):
            ledger.append_all([secret(1), "b"], key="many")
        assert ledger.append("kept", key="kept").index == 4


# What a record does not say is damage

Change = Callable[[list[Forgery]], None]


def zero(index: int) -> Change:
    def change(blocks: list[Forgery]) -> None:
        blocks[index].entries[0] = bytes(len(blocks[index].entries[0]))

    return change


def record_again(**changes: object) -> Change:
    """Make the record say something else, as someone who can make the chain anew."""

    def change(blocks: list[Forgery]) -> None:
        salt, value = blocks[4].entries[0][:16], json.loads(blocks[4].entries[0][16:])
        blocks[4].entries[0] = salt + canonical(value | changes)
        erased, root = blocks[2].entries, blocks[2].header.data_root
        rechain_from(blocks, 4)
        assert (blocks[2].entries, blocks[2].header.data_root) == (erased, root)

    return change


def rechain_from(blocks: list[Forgery], start: int) -> None:
    """Make what comes from position `start` on consistent with all before it."""
    for index in range(start, len(blocks)):
        blocks[index].change(index=index, previous_hash=blocks[index - 1].hash)
        blocks[index].rehash()


def move_record_before(blocks: list[Forgery]) -> None:
    blocks.insert(2, blocks.pop(4))
    value = json.loads(blocks[2].entries[0][16:]) | {"index": 3}
    blocks[2].entries[0] = blocks[2].entries[0][:16] + canonical(value)
    root, entries = blocks[3].header.data_root, blocks[3].entries
    for index in range(2, len(blocks)):
        blocks[index].change(
            index=index, previous_hash=blocks[index - 1].hash, timestamp=blocks[-1].header.timestamp
        )
        if index == 3:
            blocks[index].change(data_root=root)
            blocks[index].hash = blocks[index].header.hash
        else:
            blocks[index].rehash()
    assert blocks[3].entries == entries


def make_a_value(blocks: list[Forgery]) -> None:
    blocks[4].change(kind=0)
    rechain_from(blocks, 4)


def drop_record(blocks: list[Forgery]) -> None:
    del blocks[4]
    rechain_from(blocks, 4)


ATTACKS: dict[str, tuple[Change, list[tuple[int, str]]]] = {
    "remove an entry without a record": (zero(1), [(1, "erasure")]),
    "remove the last entry without a record": (zero(5), [(5, "erasure")]),
    "remove the record's text": (zero(4), [(2, "erasure"), (4, "data_root")]),
    "record another id": (record_again(id="00" * 32), [(2, "erasure")]),
    "record another block": (record_again(index=3), [(2, "erasure")]),
    "record more than is in a record": (record_again(more=1), [(2, "erasure")]),
    "record it as a value": (make_a_value, [(2, "erasure")]),
    "record it before": (move_record_before, [(3, "erasure")]),
    "leave out the record": (drop_record, [(2, "erasure")]),
    "put something into the place of an erased entry": (
        lambda blocks: blocks[2].entries.__setitem__(0, bytes(16) + b'"nothing"'),
        [(2, "size")],
    ),
    "erase genesis": (zero(0), [(0, "data_root")]),
    "erase and break the hash": (
        lambda blocks: setattr(blocks[2], "hash", bytes(32)),
        [(2, "hash"), (3, "link")],
    ),
    "say another reason": (record_again(reason="none"), []),
    "make it anew": (rechain, []),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of six blocks, of which the third is erased by the fifth."""
    path = tmp_path_factory.mktemp("erased") / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend([{"n": 1}, secret(1), {"n": 3}])
        ledger.erase(2, reason=WHY)
        ledger.append({"n": 5})
    return path


@pytest.mark.parametrize("sealed", [False, True], ids=["tail", "file"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_on_an_erased_ledger(
    original: Path, memory_path: Path, attack: str, sealed: bool
) -> None:
    """The second opinion is asked each time, too."""
    path = Path(shutil.copytree(original, memory_path / "ledger"))
    if sealed:
        with Ledger.open(path) as ledger:
            seal(ledger)
    change, expected = ATTACKS[attack]
    with forging(path, cover_tracks=True) as blocks:
        change(blocks)
    with Ledger.open(path, read_only=True) as ledger:
        report = ledger.validate(all=True)
        assert [(f.index, f.rule) for f in report.failures] == expected
        assert ledger.validate().failures == report.failures[:1]


def test_an_erased_head_is_nothing_to_append_to(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
    with forging(path, cover_tracks=True) as blocks:
        zero(1)(blocks)
    with pytest.raises(InvalidChainError, match="block 1 breaks rule 'erasure'"):
        Ledger.open(path)


def test_the_first_failure_is_the_same_whether_all_are_asked_for(path: Path) -> None:
    """What comes first is known last: the record of an erasure may be after another failure."""
    with Ledger.open(path) as ledger:
        for i in range(8):
            ledger.append(secret(1) | {"n": i})
        for i in (2, 4, 7):
            ledger.erase(i, reason=WHY)
    for change in (zero(3), zero(5), zero(8), zero(1)):
        with forging(path, cover_tracks=False) as blocks:
            change(blocks)
            blocks[6].hash = bytes(32)
        with Ledger.open(path, read_only=True) as ledger:
            failures = ledger.validate(all=True).failures
            assert ledger.validate().failures == failures[:1]
    assert [(f.index, f.rule) for f in failures] == [
        *((i, "erasure") for i in (1, 3, 5)),
        *((6, "hash"), (7, "link"), (8, "erasure")),
    ]


def test_where_the_record_cannot_be_read_an_erased_block_is_not_blamed(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
        seal(ledger)
        ledger.erase(1, reason=WHY)
        seal(ledger)
    files_of(path)[1].write_bytes(b"")
    with Ledger.open(path, read_only=True) as ledger:
        for every in (True, False):
            failures = ledger.validate(all=every).failures
            assert [(f.index, f.rule) for f in failures] == [(3, "storage")]


def test_every_flipped_bit_of_an_erased_ledger_is_named_and_seconded(memory_path: Path) -> None:
    path = memory_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.append("abc")
        record = ledger.erase(1, reason="x")
    assert record.index == 2
    with Ledger.open(path, read_only=True) as ledger, database(path) as connection:
        rows = connection.execute("SELECT first, headers, hashes, data FROM runs").fetchall()
        found = set()
        for first, *columns in rows:
            for name, column in zip(("headers", "hashes", "data"), columns, strict=True):
                for at in range(len(column)) if first else range(0, len(column), 7):
                    changed = bytearray(column)
                    changed[at] ^= 1 << (at % 8)
                    statement = f"UPDATE runs SET {name} = ? WHERE first = ?"
                    connection.execute(statement, (changed, first))
                    connection.commit()
                    failure = ledger.validate().failure
                    assert failure is not None
                    found.add((failure.index, failure.rule))
                    assert failure.index in {first, 1}  # what names the erased block may be gone
                    connection.execute(statement, (column, first))
                    connection.commit()
        assert {(1, "data_root"), (1, "erasure"), (2, "data_root"), (1, "hash")} <= found
        assert ledger.validate().valid


# Parts of a validation


def test_portions_and_increments_see_the_records_that_matter(path: Path) -> None:
    with small_tails(4), Ledger.open(path) as ledger:
        for i in range(20):
            ledger.append(secret(1) | {"n": i})
        assert ledger.validate(incremental=True).erased == 0
        for i in (3, 10, 20):
            ledger.erase(i, reason=WHY)
        for start, erased in ((0, 3), (3, 3), (4, 2), (10, 2), (11, 1), (20, 1), (21, 0), (24, 0)):
            report = ledger.validate(start=start)
            assert (report.valid, report.erased) == (True, erased)
        assert ledger.validate(incremental=True).erased == 0
        ledger.append("more")
        assert ledger.validate(incremental=True).blocks == 1
        assert ledger.validate(all=True).erased == 3


def test_processes_count_what_is_erased(path: Path) -> None:
    with small_tails(4), Ledger.open(path) as ledger:
        for i in range(20):
            ledger.append(secret(1) | {"n": i})
        ledger.erase(3, reason=WHY)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
            report = ledger.validate(executor=executor, canonical=True, hasher="hashlib")
            assert (report.valid, report.erased) == (True, 1)


def test_the_report_says_how_many_only_where_there_are_any(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
        assert "erased" not in ledger.validate().to_value()
        ledger.erase(1, reason=WHY)
        report = ledger.validate()
        assert report.to_value()["erased"] == 1
        assert type(report).from_value(report.to_value()) == report


# Copies


def test_later_exports_have_no_trace_and_import(path: Path, memory_path: Path) -> None:
    with Ledger.open(path) as ledger:
        block = ledger.append(secret(1))
        ledger.append({"erased": block.header.data_root.hex()})
        ledger.erase(1, reason=WHY)
        lines = [line.encode() for line in export_lines(ledger)]
        blocks = list(ledger)
    assert not any(
        SECRET.encode() in line or block.entries[0].salt.hex().encode() in line for line in lines
    )
    import_chain(memory_path / "again", lines)
    with Ledger.open(memory_path / "again") as again:
        assert list(again) == blocks
        assert [b.erased for b in again] == [False, True, False, False]
        assert again.validate(canonical=True).erased == 1
    with pytest.raises(InvalidChainError, match="block 1 breaks rule 'erasure'"):
        import_chain(memory_path / "without the record", lines[:3])
    assert not (memory_path / "without the record").exists()


def test_an_export_goes_on_to_the_record_of_what_is_erased_meanwhile(
    path: Path, memory_path: Path
) -> None:
    with Ledger.open(path) as ledger:
        for _ in range(3):
            ledger.append(secret(1))
            seal(ledger)
        export = export_lines(ledger)
        lines = [next(export)]
        ledger.erase(5, reason=WHY)
        lines += export
    assert len(lines) == 8
    import_chain(memory_path / "again", [line.encode() for line in lines])


def test_an_import_does_not_allocate_what_a_line_only_claims(path: Path, memory_path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
        ledger.erase(1, reason=WHY)
        lines = [json.loads(line) for line in export_lines(ledger)]
    view = lines[1]
    header = bytearray.fromhex(view["header"])
    header[60:64] = b"\xff" * 4
    view |= {"header": header.hex(), "size": 2**32 - 1}
    with pytest.raises(FormatError, match="line 2: an erased entry of 4294967295 bytes"):
        import_chain(memory_path / "again", [json.dumps(line).encode() for line in lines])


def test_later_backups_have_no_trace(path: Path, memory_path: Path) -> None:
    with Ledger.open(path) as ledger:
        block = ledger.append(secret(1))
        seal(ledger)
        other = ledger.append(secret(1))
        ledger.erase(1, reason=WHY)
        ledger.erase(3, reason=WHY)
        ledger.backup(memory_path / "backup")
    assert traces(memory_path / "backup", block) == traces(memory_path / "backup", other) == []
    with Ledger.open(memory_path / "backup") as copy:
        assert copy.validate().erased == 2


@pytest.mark.parametrize("at", range(4))
def test_a_backup_during_which_something_is_erased_validates(
    path: Path, memory_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0.05)
    with Ledger.open(path) as ledger:
        block = ledger.append(secret(1))
        seal(ledger)
        ledger.append("in the tail")
        steps = iter(range(100))

        def progress(_done: int, _total: int) -> None:
            if next(steps) == at:
                with suppress(StoreError):  # the backup reads what is in the log
                    ledger.erase(1, reason=WHY)

        ledger.backup(memory_path / "backup", progress=progress)
    with Ledger.open(memory_path / "backup") as copy:
        report = copy.validate(all=True)
        assert report.valid
        assert report.erased == (not traces(memory_path / "backup", block))


def test_a_search_finds_nothing_of_it(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
        ledger.append({"nul": "a\0b"})
        ledger.erase(1, reason=WHY)
        for text, found in {SECRET: [], "\0": [2], "\0\0": [], "erased": []}.items():
            assert find_blocks(ledger, contains=text, limit=10).places == found
        assert find_blocks(ledger, contains="erasure", limit=10).places == [3]


# What is in the way


def unfinished(path: Path) -> list[tuple[int, int]]:
    with database(path) as connection:
        return connection.execute("SELECT position, record FROM erasing").fetchall()


@contextmanager
def reading_the_log(path: Path) -> Iterator[None]:
    uri = f"{(path / FILE_NAME).as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM head").fetchall()
        yield


def test_a_reader_in_the_way_is_named_and_the_next_writer_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0.05)
    with Ledger.open(path) as ledger:
        block = ledger.append(secret(1))
        with reading_the_log(path):
            with pytest.raises(
                StoreError,
                match=r"the erasure, which block 2 records, is not finished: .*tail.sqlite-wal may "
                r"still hold the entry: it is being read; opening the ledger .* goes on with it",
            ):
                ledger.erase(1, reason=WHY)
            assert ledger[1].erased
            assert ledger.validate().erased == 1
            assert unfinished(path) == [(1, 2)]
            assert traces(path, block) == [str(path / f"{FILE_NAME}-wal")]
            with pytest.raises(StoreError, match="an earlier erasure is not finished"):
                ledger.erase(1, reason=WHY)
            assert ledger.append("goes on").index == 3
        ledger.close()
        with reading_the_log(path), pytest.warns(RuntimeWarning, match="is not finished"):
            Ledger.open(path).close()
    with Ledger.open(path):
        assert unfinished(path) == []
        assert traces(path, block) == []


def test_erasing_again_goes_on_and_returns_the_record(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0.05)
    with Ledger.open(path) as ledger:
        block = ledger.append(secret(1))
        with reading_the_log(path), pytest.raises(StoreError, match="is not finished"):
            ledger.erase(1, reason=WHY)
        assert ledger.erase(1, reason="again").data["reason"] == WHY
        assert (len(ledger), traces(path, block), unfinished(path)) == (3, [], [])
        with pytest.raises(UsageError, match="is erased already"):
            ledger.erase(1, reason=WHY)


@pytest.mark.parametrize("place", ["tail", "file", "sealed since"])
def test_the_next_writer_removes_what_a_crash_left(path: Path, place: str) -> None:
    """As it is right after the record was written."""
    with Ledger.open(path) as ledger:
        block = ledger.append(secret(1))
        if place == "file":
            seal(ledger)
        with (
            patch.object(DiskStore, "finish_erasing", lambda _: {}),
        ):
            ledger.erase(1, reason=WHY)
            if place == "sealed since":
                seal(ledger)
        assert traces(path, block)
        assert ledger.validate().valid
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger[1].data == secret(1)
    with Ledger.open(path) as ledger:
        assert ledger[1].erased
        assert traces(path, block) == []
        assert ledger.validate(all=True).erased == 1


def test_a_note_that_no_record_stands_behind_destroys_nothing(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
        ledger.append("other")
        ledger.erase(2, reason=WHY)
    for position, record in ((1, 3), (1, 1), (1, 99), (0, 3), (50, 3)):
        with database(path) as connection:
            connection.execute("DELETE FROM erasing")
            connection.execute("INSERT INTO erasing VALUES (?, ?)", (position, record))
        with pytest.warns(RuntimeWarning, match=f"block {record} is no record that {position} is"):
            ledger = Ledger.open(path)
        with ledger:
            assert ledger[1].data == secret(1)
            with pytest.raises(StoreError, match="is no record"):
                ledger.erase(1, reason=WHY)


@pytest.mark.parametrize("sealed", [False, True])
def test_an_entry_whose_place_is_damaged_is_not_overwritten(path: Path, sealed: bool) -> None:
    with Ledger.open(path) as ledger:
        ledger.extend([secret(1), "two", "three"])
        if sealed:
            seal(ledger)
        with patch.object(DiskStore, "finish_erasing", lambda _: {}):
            ledger.erase(1, reason=WHY)
    if sealed:
        file = files_of(path)[0]
        data = bytearray(file.read_bytes())
        data[flat._Layout.of(5, 5, 0).offsets + 16] += 1
        file.write_bytes(data)
    else:
        with database(path) as connection:
            (first, data) = connection.execute(
                "SELECT first, offsets FROM runs WHERE first = 1"
            ).fetchone()
            changed = bytearray(data)
            changed[15] += 1
            connection.execute("UPDATE runs SET offsets = ? WHERE first = ?", (changed, first))
    with pytest.warns(RuntimeWarning, match="the entry of block 1 is damaged"):
        Ledger.open(path).close()
    assert SECRET.encode() in b"".join(f.read_bytes() for f in path.rglob("*") if f.is_file())


def test_a_file_that_cannot_be_written_keeps_the_erasure_waiting(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(path) as ledger:
        block = ledger.append(secret(1))
        seal(ledger)

        def refuse(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr("os.pwrite", refuse)
            with pytest.raises(StoreError, match=r"cannot be overwritten: .*No space"):
                ledger.erase(1, reason=WHY)
        assert unfinished(path) == [(1, 3)]
        assert ledger.erase(1, reason=WHY).index == 3
        assert traces(path, block) == []


def test_a_file_that_comes_back_is_seen_to(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
        seal(ledger)
        with patch.object(DiskStore, "finish_erasing", lambda _: {}):
            ledger.erase(1, reason=WHY)
    (file,) = files_of(path)
    moved = file.rename(path / "moved")
    with pytest.raises(DamagedError, match="is missing"):
        Ledger.open(path)
    moved.rename(file)
    with Ledger.open(path) as ledger:
        assert ledger[1].erased


def test_the_record_is_durable_before_the_entry_goes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it may be in a log that was not synced, that is written again first."""
    with Ledger.open(path) as ledger:
        ledger.append(secret(1))
        seal(ledger)
        store = ledger._store
        assert isinstance(store, DiskStore)
        append, erase, rewritten = Tail.append, flat.erase, list[str]()

        def fails(self: Tail, *arguments: Any) -> None:
            append(self, *arguments)
            self._database._drop_writer()  # without closing well, as there is a reader
            raise OutcomeUnknownError("the sync failed")

        def recorded(path: Path) -> None:
            rewritten.append(path.name)

        def checked(*arguments: Any) -> None:
            assert rewritten == ["tail.sqlite-wal"]
            erase(*arguments)

        with reading_the_log(path):
            with monkeypatch.context() as broken:
                broken.setattr(Tail, "append", fails)
                with pytest.raises(OutcomeUnknownError):
                    ledger.erase(1, reason=WHY)
            monkeypatch.setattr(databases, "rewrite", recorded)
            monkeypatch.setattr(flat, "erase", checked)
            monkeypatch.setattr(databases, "BUSY_SECONDS", 0.05)
            with pytest.raises(StoreError, match="an earlier erasure is not finished"):
                ledger.erase(1, reason=WHY)
        assert ledger[1].erased
        assert ledger.erase(1, reason=WHY).index == 3
