"""Finding blocks in very many files: what is in memory of them, and what is not, is the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from cairn import DamagedError
from cairn.core.block import Block
from cairn.core.tree import as_hashes
from cairn.hashing import best_hasher
from cairn.store import disk, flat, sealed_index
from cairn.store.disk import DiskStore
from cairn.store.flat import Column, Sealed
from cairn.store.sealed_index import SealedIndex
from tests.store.branches import GENESIS, branch, segment_of
from tests.store.sealed import database, files_of
from tests.store.test_disk import Between

BLOCKS = [GENESIS, *branch(GENESIS, "a", 60)]
FINAL = 58
PER_FILE = 4


def opened(directory: Path, *, read_only: bool = False) -> DiskStore:
    return DiskStore(directory, best_hasher(), read_only=read_only)


@pytest.fixture
def directory(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work ledger of 14 files."""
    monkeypatch.setattr(disk, "SEAL_BLOCKS", PER_FILE)
    DiskStore.create(memory_path)
    with closing(opened(memory_path)) as store:
        advance(store, BLOCKS[:1], 1)
        for at in range(1, len(BLOCKS), PER_FILE):
            some = BLOCKS[at : at + PER_FILE]
            advance(store, some, min(some[-1].index + 1, FINAL))
    assert len(files_of(memory_path)) == 14
    return memory_path


def advance(store: DiskStore, blocks: list[Block], final: int) -> None:
    store.advance(segment_of(blocks), work=0, final=final)


def check(store: DiskStore, blocks: list[Block] = BLOCKS) -> None:
    """Hold what is found, of blocks and of entries, to what there is."""
    ids = [entry.id for block in blocks for entry in block.entries]
    places = [[(b.index, place)] for b in blocks for place in range(len(b.entries))]
    absent = [bytes(32), b"\xff" * 32, ids[0][:5] + bytes(27)]
    assert store.find_entries([*absent, *ids, *absent]) == [[]] * 3 + places + [[]] * 3
    assert store.find_entries([]) == []
    assert [store.find_entry(one) for one in (*absent, *ids[::7])] == [[]] * 3 + places[::7]
    hashes = [block.stored_hash for block in blocks]
    assert list(map(store.find, hashes)) == [block.index for block in blocks]
    for one in (*absent, hashes[3][:5] + bytes(27)):
        assert store.find(one) is None


BOUNDS = {
    "all is in memory": {},
    "a part of the words is": {"MOST_WORDS": 25},
    "a part of the positions is": {"MOST_BLOCKS": 21},
    "nothing is": {"MOST_WORDS": 0},
}


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("read_only", [False, True])
def test_everything_is_found_whatever_is_in_memory(
    bounds: str, read_only: bool, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, bound in BOUNDS[bounds].items():
        monkeypatch.setattr(sealed_index, name, bound)
    read: list[Sealed] = []

    def words(folder: Path, sealed: Sealed, column: Column, most: int) -> Any:
        read.append(sealed)
        return read_words(folder, sealed, column, most)

    read_words = flat.words
    monkeypatch.setattr(flat, "words", words)
    with closing(opened(directory, read_only=read_only)) as store:
        for _ in range(3):
            check(store)
        for index in (store._hash_index, store._entry_index):
            assert sum(map(len, index._arrays)) <= sealed_index.MOST_WORDS
            assert (len(index._files) == 14) == (not BOUNDS[bounds])
            assert (len(index._files) == 0) == (bounds == "nothing is")
        assert len(read) <= 2 * 14, "an index was read twice"


def some_hash(choose: random.Random) -> bytes:
    """Few prefixes, so that many are equal, the extremes among them."""
    return choose.choice([b"\x00", b"\x7f", b"\xff"]) * 5 + bytes([choose.randrange(3)]) * 27


@pytest.mark.parametrize("longest", [2**21, 30])
@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_those_that_the_files_name(
    seed: int, longest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of very many equal prefixes, and of files of many sizes."""
    monkeypatch.setattr(sealed_index, "LONGEST", longest)
    choose = random.Random(seed)
    files: list[Sealed] = []
    at = 0
    for _ in range(12):
        blocks = BLOCKS[at : at + choose.choice([1, 1, 2, 9])]
        hashes = as_hashes(b"".join(some_hash(choose) for _ in blocks))
        segment = replace(segment_of(blocks), hashes=hashes)
        path = tmp_path / Sealed(at, 0, 0, b"").name
        files.append(flat.write(path, segment, best_hasher(), with_ids=True))
        at += len(blocks)
    ids = [entry.id for block in BLOCKS for entry in block.entries]
    wanted = [*{some_hash(choose) for _ in range(20)}, *ids, bytes(32), b"\xff" * 32]
    for column in get_args(Column):
        index = SealedIndex(tmp_path, column)
        for some in (*([one] for one in wanted[:5]), [], wanted[:3], wanted, wanted):
            found, rest = index.candidates(files, some)
            for sealed in rest:
                more = flat.find(tmp_path, sealed, column, some)
                found = [[*a, *b] for a, b in zip(found, more, strict=True)]
            expected = [
                [at for sealed in files for at in flat.find(tmp_path, sealed, column, [one])[0]]
                for one in some
            ]
            assert list(map(sorted, found)) == list(map(sorted, expected))
        assert not rest
        assert all(np.all(array[1:] >= array[:-1]) for array in index._arrays)
        assert 1 <= len(index._arrays) < 5
        assert max(map(len, index._arrays)) <= longest


def test_no_file_is_opened_for_what_is_not_there(directory: Path) -> None:
    with closing(opened(directory, read_only=True)) as store:
        check(store)
        for path in files_of(directory):
            path.rename(path.with_suffix(".away"))
        absent = [bytes([n]) * 32 for n in range(99)]
        assert store.find_entries(absent) == [[]] * 99
        assert [store.find(one) for one in absent] == [None] * 99
        with pytest.raises(DamagedError, match="is missing"):
            store.find_entry(next(e.id for block in BLOCKS for e in block.entries))
        with pytest.raises(DamagedError, match="is missing"):
            store.find(BLOCKS[9].stored_hash)


def test_one_search_takes_in_no_more_than_one_file(directory: Path) -> None:
    """So that none waits for all of history to be read; a batch, as many as it has hashes."""
    with closing(opened(directory, read_only=True)) as store:
        assert (store._hash_index._files, store._entry_index._files) == ([], [])
        for n in (1, 2, 3):
            store.find(bytes(32))
            store.find_entry(bytes(32))
            assert len(store._hash_index._files) == len(store._entry_index._files) == n
        store.find_entries([bytes(32)] * 6)
        assert (len(store._hash_index._files), len(store._entry_index._files)) == (3, 9)


def test_a_search_asks_the_database_once_where_nothing_was_written(directory: Path) -> None:
    def asked(store: DiskStore, *ids: bytes) -> list[str]:
        statements: list[str] = []
        connection = store._database._reader._connection
        assert connection is not None
        connection.set_trace_callback(statements.append)
        store.find_entries(ids)
        connection.set_trace_callback(None)
        return statements

    with (
        closing(opened(directory)) as writer,
        closing(opened(directory, read_only=True)) as reader,
    ):
        for store in (reader, writer):
            check(store)
            assert asked(store, *(bytes([n]) * 32 for n in range(9))) == ["PRAGMA data_version"]
        chain = [*BLOCKS, *branch(BLOCKS[-1], "b", 1, entries=9)]
        advance(writer, chain[-1:], FINAL)
        for store in (reader, writer):
            assert len(asked(store, bytes(32))) > 1
            assert len(asked(store, bytes(32))) == 1
            check(store, chain)


def test_a_damaged_file_stands_in_the_way_of_nobody_who_does_not_need_it(directory: Path) -> None:
    files = files_of(directory)
    files[5].write_bytes(files[5].read_bytes()[:-1])
    lost = range(int(files[5].stem), int(files[6].stem))
    with closing(opened(directory, read_only=True)) as store:
        for _ in range(2):
            for block in BLOCKS:
                if block.index in lost:
                    with pytest.raises(DamagedError):
                        store.find(block.stored_hash)
                else:
                    assert store.find(block.stored_hash) == block.index
            with pytest.raises(DamagedError):
                store.find(bytes(32))
            with pytest.raises(DamagedError):
                store.find_entry(bytes(32))


@pytest.fixture
def beside(directory: Path) -> Iterator[tuple[DiskStore, DiskStore]]:
    """A writer, and a reader that has all in memory."""
    with (
        closing(opened(directory)) as writer,
        closing(opened(directory, read_only=True)) as reader,
    ):
        check(reader)
        yield writer, reader


def test_what_another_seals_is_found(beside: tuple[DiskStore, DiskStore]) -> None:
    writer, reader = beside
    chain = list(BLOCKS)
    for n in range(6):
        more = branch(chain[-1], f"{n}", 3)
        chain += more
        advance(writer, more, chain[-1].index - 1)
        check(reader, chain)
        check(writer, chain)
    assert len(files_of(reader.directory)) > 16
    # A block that came and went between two searches is of no consequence.
    lost = branch(chain[-1], "lost", 4)
    advance(writer, lost, len(chain) - 2)
    more = branch(chain[-3], "won", 9)
    advance(writer, more, more[-1].index)
    chain[-2:] = more
    check(reader, chain)
    assert all(reader.find(block.stored_hash) is None for block in lost)


@pytest.mark.parametrize("n", range(1, 9))
def test_a_block_is_found_that_is_sealed_while_it_is_looked_for(n: int, directory: Path) -> None:
    """At the n-th moment before, in or after what is asked of the tail."""
    last = next(block for block in BLOCKS[FINAL - 1 :] if len(block.entries) > 1)
    more = branch(BLOCKS[-1], "more", 9)
    for wanted in ("block", "entry"):
        with closing(opened(directory, read_only=True)) as reader:
            reader.find_entry(bytes(32))
            assert last.index >= (reader._tail.begin() or 0)
            copy = directory / f"{n} {wanted}"
            copy.mkdir()
            reader.backup(copy, lambda *_: None)
        with closing(opened(copy)) as writer, closing(opened(copy, read_only=True)) as reader:
            event = partial(advance, writer, more, more[-1].index)
            between: Any = Between(reader._tail, event, n, often=False)
            reader._tail = between
            if wanted == "block":
                assert reader.find(last.stored_hash) == last.index
            else:
                assert reader.find_entry(last.entries[1].id) == [(last.index, 1)]
            assert between._left > 0 or writer._tail.begin() == more[-1].index


def test_a_manifest_that_is_another_one_is_read_anew(beside: tuple[DiskStore, DiskStore]) -> None:
    _, reader = beside
    with database(reader.directory) as connection:
        connection.execute("UPDATE segments SET digest = zeroblob(32)")
    check(reader)
    for index in (reader._hash_index, reader._entry_index):
        assert {sealed.digest for sealed in index._files} == {bytes(32)}
