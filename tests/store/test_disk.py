"""The store on disk: how the tail becomes files, and what readers see meanwhile."""

from __future__ import annotations

import errno
import mmap
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cairn import DamagedError, Ledger, OutcomeUnknownError, StoreError
from cairn.core.block import Block
from cairn.core.segment import Segment
from cairn.hashing import best_hasher
from cairn.store import directory as directories
from cairn.store import disk, flat, stored_runs, tail
from cairn.store.database import Database
from cairn.store.directory import SEGMENTS_NAME
from cairn.store.disk import DiskStore
from cairn.store.flat import Part, Sealed
from cairn.store.interface import Pooled
from tests.builders import chain, segments
from tests.store.branches import GENESIS, branch, segment_of, side_blocks, with_entries
from tests.store.sealed import build, cut_into_parts, database, files_of

BLOCKS = chain(*range(40))


def opened(directory: Path, *, read_only: bool = False) -> DiskStore:
    return DiskStore(directory, best_hasher(), read_only=read_only)


def positions(store: DiskStore, start: int, stop: int) -> list[int]:
    found = [block.index for segment in store.scan(start, stop) for block in segment.blocks()]
    assert found == list(range(start, min(stop, start + len(found))))
    return found


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / SEGMENTS_NAME).iterdir())


@pytest.fixture
def small_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 3)
    cut_into_parts(monkeypatch, 2)


# Readers beside a writer


class Between:
    """A reader's tail; something happens at the n-th moment before, in or after a call of it."""

    def __init__(self, tail: Any, event: Callable[[], None], n: int, *, often: bool) -> None:
        self._tail, self._event, self._left, self._often, self._n = tail, event, n, often, n

    def __getattr__(self, name: str) -> Any:
        return self._scan if name == "scan" else partial(self._call, getattr(self._tail, name))

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        self._pass()
        result = method(*arguments)
        self._pass()
        return result

    def _scan(self, start: int, stop: int) -> Iterator[Segment]:
        for segment in self._tail.scan(start, stop):
            yield segment
            self._pass()

    def _pass(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._event()
            self._left = self._n if self._often else 0


def append_some(store: DiskStore, rest: Iterator[Segment]) -> None:
    for segment in islice(rest, 8):
        store.append(segment, {})


@pytest.mark.parametrize("often", [False, True])
@pytest.mark.usefixtures("small_tails")
def test_a_reader_sees_each_block_once_whenever_the_tail_is_sealed(
    often: bool, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_runs, "SCAN_BLOCKS", 1)
    sealed = set()
    for n in range(1, 16):
        for length in (3, 5, 9):
            directory = memory_path / f"{n} {length}"
            build(directory, BLOCKS[:length], *([2, 1] if length > 5 else [2]))
            rest = iter(segments(BLOCKS, length, *[1] * 30)[1:])
            with (
                closing(opened(directory)) as writer,
                closing(opened(directory, read_only=True)) as reader,
            ):
                event = partial(append_some, writer, rest)
                between: Any = Between(reader._tail, event, n, often=often)
                reader._tail = between
                reader.require_nothing_else()
                assert len(positions(reader, 0, 10**6)) >= length
                for index in range(length):
                    assert reader.get(index) == BLOCKS[index]
                    assert reader.find(BLOCKS[index].stored_hash) == index
                reader.require_nothing_else()
                assert reader.end() >= length
                sealed.add(len(files_of(directory)))
    assert len(sealed) > 1


@pytest.mark.usefixtures("small_tails")
def test_threads_that_read_while_another_seals(memory_path: Path) -> None:
    build(memory_path / "ledger", BLOCKS[:1])
    path, over, problems = memory_path / "ledger", threading.Event(), list[BaseException]()

    def read(ledger: Ledger) -> None:
        try:
            while not over.is_set():
                length, head = len(ledger), ledger.head
                assert [block.index for block in ledger[:length]] == list(range(length))
                assert ledger.validate().valid
                assert ledger.find(head.hash) == head
        except BaseException as error:
            problems.append(error)

    with Ledger.open(path) as writer, Ledger.open(path, read_only=True) as other:
        threads = [threading.Thread(target=read, args=(one,)) for one in (writer, other)]
        for thread in threads:
            thread.start()
        for number in range(150):
            writer.append({"number": number})
        over.set()
        for thread in threads:
            thread.join()
        assert not problems, problems[0]
        assert len(files_of(path)) > 30


@pytest.mark.usefixtures("small_tails")
def test_what_a_reader_keeps_of_the_tail_s_hashes_goes_when_it_is_sealed(memory_path: Path) -> None:
    build(memory_path, BLOCKS[:1])
    with (
        closing(opened(memory_path)) as writer,
        closing(opened(memory_path, read_only=True)) as reader,
    ):
        for segment in segments(BLOCKS, *[1] * 39)[1:]:
            writer.append(segment, {})
            for store in (writer, reader):
                for block in (BLOCKS[segment.start], BLOCKS[segment.start // 2]):
                    assert store.find(block.stored_hash) == block.index
                assert len(store._tail._hash_index._hashes._positions) <= disk.SEAL_BLOCKS


# Sealing that fails


def refuse(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, "no space")


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("cairn.store.flat", "write"),
        ("cairn.store.disk", "keep_access"),
        ("cairn.store.disk", "sync"),
        ("pathlib.Path", "rename"),
        ("os", "writev"),
    ],
)
@pytest.mark.usefixtures("small_tails")
def test_an_append_goes_to_the_tail_where_it_cannot_be_sealed(
    where: str, name: str, tmp_path: Path
) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.append(1)
        ledger.append(2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{where}.{name}", refuse)
            with pytest.warns(RuntimeWarning, match="was not sealed: .*no space"):
                ledger.append(3)
            ledger.append(4)  # no warning: the next try comes when the tail has grown as much again
            ledger.append(5)
            ledger.append(6)
            with pytest.warns(RuntimeWarning):
                ledger.append(7)
        assert files_of(tmp_path / "ledger") == []
        assert names_in(tmp_path / "ledger") == []
        assert ledger.validate().valid
        for number in (8, 9, 10, 11):
            ledger.append(number)
        assert names_in(tmp_path / "ledger") == ["000000000000000.segment"]
        assert [block.data for block in ledger][1:] == [*range(1, 12)]
        assert ledger.validate().valid


@pytest.mark.usefixtures("small_tails")
def test_a_file_whose_name_may_not_be_durable_is_written_again(tmp_path: Path) -> None:
    sync, calls = directories.sync, iter(range(9))

    def fail(path: Path) -> None:
        if next(calls) == 1:  # after that of the ledger's directory
            refuse()
        sync(path)

    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.append(1)
        ledger.append(2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(disk, "sync", fail)
            with pytest.warns(RuntimeWarning):
                ledger.append(3)
        (path,) = files_of(tmp_path / "ledger")
        before = path.stat().st_ino, path.stat().st_size
        assert ledger.validate().valid  # nothing reads it
        for number in range(4, 8):
            ledger.append(number)
        assert files_of(tmp_path / "ledger") == [path]
        assert (path.stat().st_ino, path.stat().st_size) != before
        assert ledger.validate().valid
        assert len(ledger) == 8


@pytest.mark.usefixtures("small_tails")
def test_the_folder_s_name_is_made_durable_also_where_somebody_else_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash may have come between making it and syncing its name."""
    path = tmp_path / "ledger"
    synced: list[Path] = []

    def note(path: Path) -> None:
        synced.append(path)
        directories.sync(path)

    monkeypatch.setattr(disk, "sync", note)
    with Ledger.open(path) as ledger:
        (path / SEGMENTS_NAME).mkdir(mode=0o700)
        path.chmod(0o750)
        ledger.extend(range(9))
    assert files_of(path)
    assert path in synced
    assert (path / SEGMENTS_NAME).stat().st_mode & 0o777 == 0o750
    assert synced.index(path) < synced.index(path / SEGMENTS_NAME)


def test_a_tail_that_has_grown_is_sealed_in_pieces(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(memory_path, BLOCKS[:1])
    with closing(opened(memory_path)) as store:
        for segment in segments(BLOCKS, *[1] * 30)[1:30]:
            store.append(segment, {})
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 4)
    monkeypatch.setattr(stored_runs, "SCAN_BLOCKS", 2)
    with closing(opened(memory_path)) as store:
        store.append(segments(BLOCKS, *[1] * 31)[30], {"key": range(30, 31)})
        assert [path.stem.lstrip("0") for path in files_of(memory_path)] == ["", "10", "20"]
        assert store.recall("key") == range(30, 31)
        assert len(positions(store, 0, 31)) == 31
    with Ledger.open(memory_path) as ledger:
        assert list(ledger) == BLOCKS[:31]
        assert ledger.validate().valid


@pytest.mark.usefixtures("small_tails")
def test_a_damaged_tail_is_left_where_it_is(tmp_path: Path) -> None:
    build(tmp_path, BLOCKS[:4])
    with database(tmp_path) as connection:
        connection.execute("UPDATE runs SET offsets = zeroblob(length(offsets))")
    with closing(opened(tmp_path)) as store:
        with pytest.warns(RuntimeWarning, match="block 0 is missing or damaged"):
            store.append(segments(BLOCKS, 4, 1)[1], {})
        assert files_of(tmp_path) == []
        assert store.head().length == 5


@pytest.mark.usefixtures("small_tails")
def test_a_transaction_that_fails_leaves_the_tail_and_a_file_that_nothing_reads(
    tmp_path: Path,
) -> None:
    build(tmp_path, BLOCKS[:3])
    parts = segments(BLOCKS, 3, 1, 1)
    with closing(opened(tmp_path)) as store:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tail._Beside, "write", lambda *_: refuse())
            with pytest.raises(OutcomeUnknownError):
                store.append(parts[1], {})
        assert (store.head().length, store.end()) == (3, 3)
        store.require_nothing_else()
        store.append(parts[1], {})
        assert len(files_of(tmp_path)) == 1
        assert len(positions(store, 0, 4)) == 4


@pytest.mark.parametrize("link", [b"\x00" * 32, b""])
def test_a_file_that_does_not_follow_the_recorded_head_is_never_recorded(
    link: bytes, tmp_path: Path
) -> None:
    build(tmp_path, BLOCKS[:3])
    with database(tmp_path) as connection, pytest.raises(sqlite3.IntegrityError, match="follow"):
        connection.execute(tail._SEAL, (0, 4, 1, b"", 3, link, b""))
    with closing(opened(tmp_path)) as store:
        assert len(positions(store, 0, 3)) == 3


def test_what_a_crash_left_of_a_file_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, BLOCKS[:6], 4)
    folder = tmp_path / SEGMENTS_NAME
    (folder / disk.HIDDEN_NAME).write_bytes(b"half a file")
    (folder / Sealed(4, 0, 0, b"").name).write_bytes(b"whole, but not recorded")
    with Ledger.open(tmp_path) as ledger:
        assert ledger.validate().valid
        monkeypatch.setattr(disk, "SEAL_BLOCKS", 0)
        ledger.append("more")
        assert ledger.validate().valid
        assert names_in(tmp_path) == ["000000000000000.segment", "000000000000004.segment"]


# Files that cannot be read


def part_of(directory: Path) -> Part:
    with closing(opened(directory, read_only=True)) as store:
        (part,) = store.parts(0, store.head().length)
    assert isinstance(part, Part)
    return part


def test_where_pages_cannot_be_asked_for_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, BLOCKS, len(BLOCKS))
    part, reads = part_of(tmp_path), list[int]()
    read = flat._File.read

    def note(self: flat._File, at: int, size: int) -> bytes:
        reads.append(size)
        return read(self, at, size)

    monkeypatch.setattr(flat._File, "read", note)
    assert list(part.mapped(best_hasher()).blocks()) == BLOCKS
    mapped = sum(reads)
    monkeypatch.setattr(flat, "_POPULATE_READ", 9999)  # no system knows it
    assert list(part.mapped(best_hasher()).blocks()) == BLOCKS
    assert sum(reads) - mapped > mapped + 100 * len(BLOCKS)


@pytest.mark.parametrize("number", [errno.EFAULT, errno.EIO, 133])
def test_a_page_that_the_disk_has_lost_is_damage(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, BLOCKS, len(BLOCKS))

    class Lost(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(number, "the page is gone")

    part = part_of(tmp_path)
    monkeypatch.setattr(mmap, "mmap", Lost)
    with pytest.raises(DamagedError, match="the page is gone"):
        part.mapped(best_hasher())


def test_a_file_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    """Before it is mapped, and between that and looking at its pages."""
    build(tmp_path, chain("x" * 20_000, "y" * 20_000), 3)
    part = part_of(tmp_path)
    path, whole = files_of(tmp_path)[0], files_of(tmp_path)[0].read_bytes()
    at = len(whole) - 100

    def cut_off(*, before: tuple[int, int] | None = None, then: Callable[..., object]) -> None:
        try:
            with flat._opened(part.folder, part.sealed) as file:
                if before:
                    then(file, *before)
                os.truncate(path, 5000)
                then(file, at, 100)
        finally:
            path.write_bytes(whole)

    with pytest.raises(DamagedError, match="was cut off"):
        cut_off(then=flat._File.map)
    with pytest.raises(DamagedError, match=r"cannot be read: .*Bad address"):
        cut_off(before=(0, 8), then=flat._File.map)
    with pytest.raises(DamagedError, match=f"ends at byte {at}"):
        cut_off(then=flat._File.read)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, DamagedError), (errno.EMFILE, StoreError)]
)
def test_a_read_that_fails_is_damage_or_the_world_s(
    number: int, kind: type[StoreError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, BLOCKS, 20)

    def fail(*_: object) -> bytes:
        raise OSError(number, "failed")

    with Ledger.open(tmp_path, read_only=True) as ledger:
        assert ledger.head == BLOCKS[-1]
        monkeypatch.setattr(os, "pread", fail)
        for act in (lambda: ledger[3], lambda: list(ledger), lambda: ledger.find("00" * 32)):
            with pytest.raises(kind, match=r"cannot be read: .*failed"):
                act()
        assert ledger[30] == BLOCKS[30]


def test_a_backup_without_one_of_the_files_is_none(tmp_path: Path) -> None:
    build(tmp_path / "ledger", BLOCKS, 20, 10)
    files_of(tmp_path / "ledger")[1].unlink()
    with (
        Ledger.open(tmp_path / "ledger", read_only=True) as ledger,
        pytest.raises(DamagedError, match=r"000000000000020.segment is missing"),
    ):
        ledger.backup(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


# Long ledgers


def test_a_ledger_of_ten_million_blocks_opens_at_once(tmp_path: Path) -> None:
    """Its manifest, that is: opening reads genesis, the last block and nothing between."""
    blocks = chain(*range(200))
    build(tmp_path, blocks, 101)
    with database(tmp_path) as connection:
        connection.executemany(
            "INSERT INTO segments VALUES (?, 32768, 1, zeroblob(32))",
            ((101 + at * 32768,) for at in range(300)),
        )
        connection.execute("DELETE FROM runs WHERE first = 0")
        connection.execute("UPDATE runs SET first = first + 300 * 32768")
        connection.execute("UPDATE head SET length = length + 300 * 32768")
    began = time.perf_counter()
    with closing(opened(tmp_path)) as store:
        length = store.head().length
        assert length == 201 + 300 * 32768
        for index in (0, length - 1):
            (segment,) = store.scan(index, index + 1)
            assert segment.start == index
        assert time.perf_counter() - began < 0.2
        assert store.get(100) == blocks[100]
        with pytest.raises(DamagedError):
            store.get(101)


def test_files_are_cut_in_the_same_places_wherever_reading_begins(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_into_parts(monkeypatch, 4)
    build(memory_path, BLOCKS, 3, 14)
    with closing(opened(memory_path, read_only=True)) as store:
        for start in range(17):
            parts = [part for part in store.parts(start, 16) if isinstance(part, Part)]
            assert [part.stop for part in parts] == [
                stop for stop in (3, 7, 11, 15, 16) if stop > start
            ]


def test_no_file_is_replaced_while_the_log_may_still_record_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that failed may lie in the log, until something is written over it."""
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 2)
    DiskStore.create(tmp_path)
    store = DiskStore(tmp_path, best_hasher())
    blocks = chain(*range(9))
    store.append(Segment.from_blocks(0, blocks[:2]), {})
    folder = tmp_path / "segments"
    folder.mkdir()
    (folder / "000000000000000.segment").write_bytes(b"of a commit that failed")
    seen: list[bytes] = []
    overwrite = Database.overwrite_log

    def look(self: Database) -> None:
        seen.append((folder / "000000000000000.segment").read_bytes())
        overwrite(self)

    monkeypatch.setattr(Database, "overwrite_log", look)
    store.append(Segment.from_blocks(2, blocks[2:4]), {})
    assert seen == [b"of a commit that failed"]
    assert [b for s in store.scan(0, 9) for b in s.blocks()] == blocks[:4]
    store.close()


def test_more_blocks_than_a_file_holds_stay_in_the_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 2)
    monkeypatch.setattr(flat, "MOST_BLOCKS", 3)
    DiskStore.create(tmp_path)
    blocks = chain(*range(9))
    with closing(DiskStore(tmp_path, best_hasher())) as store:
        with pytest.warns(RuntimeWarning, match="4 blocks are more than a file holds, 3"):
            store.append(Segment.from_blocks(0, blocks[:4]), {})
        assert not (tmp_path / "segments" / "000000000000000.segment").exists()
        assert [b for s in store.scan(0, 9) for b in s.blocks()] == blocks[:4]


# Work ledgers


def mined_store(directory: Path, blocks: list[Block], final: int, *, at_once: int = 5) -> DiskStore:
    DiskStore.create(directory)
    store = opened(directory)
    store.advance(segment_of(blocks[:1]), work=0, final=1)
    for at in range(1, len(blocks), at_once):
        some = segment_of(blocks[at : at + at_once])
        store.advance(some, work=some.stop, final=max(1, min(some.stop, final)))
    return store


@pytest.mark.usefixtures("small_tails")
def test_only_final_blocks_are_sealed_and_a_run_is_cut_for_it(tmp_path: Path) -> None:
    blocks = [GENESIS, *branch(GENESIS, "a", 20)]
    with closing(mined_store(tmp_path, blocks, 8, at_once=20)) as store:
        assert store._tail.begin() == 8
        store.advance(segment_of(branch(blocks[15], "b", 3)), work=99, final=12)
        assert store._tail.begin() == 12
        assert [sealed.stop for sealed in store._tail.sealed()] == [8, 12]
        assert len(positions(store, 0, 99)) == 19


@pytest.mark.usefixtures("small_tails")
def test_an_advance_goes_to_the_tail_where_final_blocks_cannot_be_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [GENESIS, *branch(GENESIS, "a", 20)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "write", refuse)
        with pytest.warns(RuntimeWarning, match="was not sealed: .*no space"):
            store = mined_store(tmp_path, blocks, 15)
    with closing(store):
        assert files_of(tmp_path) == []
        assert len(positions(store, 0, 99)) == 21
        for block in branch(blocks[-1], "b", 5):
            store.advance(segment_of([block]), work=99, final=18)
        assert files_of(tmp_path) != []
        assert store._tail.begin() == 18
        assert len(positions(store, 0, 99)) == 26


def test_a_tail_with_much_to_seal_is_sealed_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [GENESIS, *branch(GENESIS, "a", 40)]
    with closing(mined_store(tmp_path, blocks, 1, at_once=2)) as store:
        monkeypatch.setattr(disk, "SEAL_BLOCKS", 4)
        monkeypatch.setattr(stored_runs, "SCAN_BLOCKS", 2)
        store._room = None
        for block in branch(blocks[-1], "b", 6):
            store.advance(segment_of([block]), work=99, final=40)
        assert [path.stem.lstrip("0") for path in files_of(tmp_path)] == ["", "9", "19", "29"]
        assert len(positions(store, 0, 99)) == 47


def test_an_entry_is_found_among_very_many_with_the_same_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as itself, mined again and again by a hostile miner."""
    monkeypatch.setattr(disk, "SEAL_BLOCKS", 3)
    monkeypatch.setattr(flat, "PAGE", 64)
    first = branch(GENESIS, "a", 6, entries=2)
    twice = next(block for block in first if block.entries).entries[0]
    again = with_entries(branch(first[-1], "again", 1)[0], (twice,) * 100)
    blocks = [GENESIS, *first, again, *branch(again, "last", 9)]
    with closing(mined_store(tmp_path, blocks, len(blocks))) as store:
        found = store.find_entry(twice.id)
        assert found[-100:] == [(7, place) for place in range(100)]
        for block in blocks:
            for entry in block.entries:
                assert (block.index, block.entries.index(entry)) in store.find_entry(entry.id)


@pytest.mark.usefixtures("small_tails")
def test_every_changed_byte_of_the_index_of_entries_is_found(tmp_path: Path) -> None:
    blocks = [GENESIS, *branch(GENESIS, "a", 8)]
    mined_store(tmp_path, blocks, len(blocks)).close()
    with closing(opened(tmp_path, read_only=True)) as store:
        part = next(part for part in store.parts(0, 9) if isinstance(part, Part))
        with flat._opened(part.folder, part.sealed) as file:
            begin, end = file.layout.ids, file.layout.data
        assert end > begin
        path = part.folder / part.sealed.name
        whole = path.read_bytes()
        for at in (8, *range(begin, end)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(DamagedError):
                part.mapped(best_hasher())
        path.write_bytes(whole)
        part.mapped(best_hasher())


@pytest.mark.usefixtures("small_tails")
def test_a_backup_has_side_blocks_the_pool_and_all(memory_path: Path) -> None:
    blocks = [GENESIS, *branch(GENESIS, "a", 20)]
    pooled = Pooled(bytes(32), b"entry", 7)
    (memory_path / "copy").mkdir()
    (memory_path / "ledger").mkdir()
    with closing(mined_store(memory_path / "ledger", blocks, 8)) as store:
        store.advance(segment_of(branch(blocks[15], "b", 9)), work=50, final=12)
        store.pool_add([pooled], "key")
        store.set_addresses(["ws://a:1"])
        store.backup(memory_path / "copy", lambda *_: None)
        with closing(opened(memory_path / "copy")) as copy:
            assert copy.head() == store.head()
            assert (copy.work(), copy.final()) == (50, 12)
            assert positions(copy, 0, 99) == positions(store, 0, 99)
            assert side_blocks(copy) == side_blocks(store) == blocks[16:]
            assert (copy.pool(), copy.pool_key("key")) == ([pooled], pooled.id)
            assert copy.addresses() == ["ws://a:1"]
            assert copy.find_entry(blocks[2].entries[0].id) == [(2, 0)]
