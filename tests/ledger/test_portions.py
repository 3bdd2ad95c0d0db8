"""Runs over a portion of a chain, or that ask more than the rules do."""

from __future__ import annotations

import json
import multiprocessing
import random
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cairn import Ledger, NoSuchBlockError, Report, UsageError
from cairn.core.canonical import canonical
from cairn.core.errors import DamagedError
from cairn.core.segment import Segment
from cairn.core.validation import Summary
from cairn.lab.tampering import Forgery, forging, rechain
from cairn.store.disk import MARK_NAME
from tests.core.chains import chain, flipped, sealed
from tests.ledger.conftest import files, flip, tail, tiny, write

N = 14
"""Blocks: three files of four, and a tail of two."""

Rules = list[tuple[int, str]]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with tiny(seal=3):
        write(tmp_path / "ledger", chain("g" + "v2r0v" * 2 + "v3v"), at_once=2)
        yield tmp_path / "ledger"


def validated(path: Path, **options: Any) -> Report:
    with Ledger.open(path, read_only=True) as ledger:
        return ledger.validate(**options)


def rules_of(report: Report) -> Rules:
    return [(failure.index, failure.rule) for failure in report.failures]


# From a block on


@pytest.mark.parametrize("start", range(N + 1))
def test_a_run_from_a_block_on_reads_the_blocks_from_there(path: Path, start: int) -> None:
    seen: list[Summary] = []
    report = validated(path, start=start, progress=seen.append)
    assert report.valid
    assert report.blocks == N - start
    assert [total.stop for total in seen[-1:]] == ([N] if start < N else [])
    with Ledger.open(path, read_only=True) as ledger:
        sizes = [104 + block.header.size for block in ledger]
    assert report.bytes == sum(sizes[start:])


@pytest.mark.parametrize("start", [-1, N + 1, 10**6, 2**63, 2**64])
def test_a_run_from_past_the_end_or_before_the_start_is_refused(path: Path, start: int) -> None:
    with pytest.raises(NoSuchBlockError, match=f"there is no block {start}; the ledger has {N}"):
        validated(path, start=start)
    with Ledger.in_memory() as ledger, pytest.raises(NoSuchBlockError, match="the ledger has 1"):
        ledger.validate(start=-1 if start < 0 else start)


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("i", range(12))
def test_damage_before_the_start_is_not_reported_and_after_it_is(
    path: Path, i: int, *, every: bool
) -> None:
    flip(path, "hashes", 8 * 32 * i + 3)
    whole = rules_of(validated(path, all=True))
    assert whole == [(i, "hash"), (i + 1, "link")]
    for start in range(N + 1):
        expected = [(index, rule) for index, rule in whole if index >= start]
        assert rules_of(validated(path, all=every, start=start)) == expected[: None if every else 1]


def test_the_first_block_is_held_to_the_one_before_it(path: Path) -> None:
    """Only the stored hash and the time of that one count, not whether it is sound."""
    for start in range(1, 12):
        bit = 8 * (104 * (start - 1) + 48)
        flip(path, "headers", bit)  # its time: the highest bit, so that it is in the far future
        assert rules_of(validated(path, start=start)) == [(start, "timestamp")]
        flip(path, "headers", bit)
    assert validated(path).valid


def test_a_file_before_the_start_may_be_lost(path: Path) -> None:
    first, second, *_ = files(path)
    first.unlink()
    begin = int(second.stem)
    assert rules_of(validated(path)) == [(0, "storage")]
    assert rules_of(validated(path, start=begin + 1)) == []
    assert rules_of(validated(path, start=begin)) == [(begin, "storage")]  # it follows what is lost


def test_what_is_no_part_of_the_ledger_is_for_whole_runs_to_find(path: Path) -> None:
    files(path)[0].with_stem("9" * 15).write_bytes(b"")
    assert rules_of(validated(path)) == [(N, "storage")]
    assert rules_of(validated(path, start=1)) == []


def test_a_head_that_cannot_be_read_is_a_failure_from_wherever(path: Path) -> None:
    tail(path).write_bytes(b"junk" * 5000)
    with pytest.raises(DamagedError):
        Ledger.open(path, read_only=True)
    with Ledger.in_memory() as ledger:

        def damaged() -> Any:
            raise DamagedError("no head")

        ledger._store.head = damaged  # type: ignore[method-assign]
        for start in (0, 5):
            assert rules_of(ledger.validate(start=start)) == [(start, "storage")]


# From where the last run ended


def mark(path: Path) -> Path:
    return path / MARK_NAME


def noted(path: Path) -> int:
    return int(json.loads(mark(path).read_bytes())["length"])


def more(path: Path, count: int) -> None:
    with Ledger.open(path) as ledger:
        for i in range(count):
            ledger.append(i)


def test_the_next_run_starts_where_the_last_one_ended(path: Path) -> None:
    assert not mark(path).exists()
    assert validated(path, incremental=True).blocks == N
    assert noted(path) == N
    assert validated(path, incremental=True).blocks == 0
    more(path, 5)
    report = validated(path, incremental=True)
    assert (report.valid, report.blocks, noted(path)) == (True, 5, N + 5)
    with pytest.raises(UsageError, match="starts where the last one ended"):
        validated(path, incremental=True, start=3)


def test_in_memory_it_is_remembered_likewise() -> None:
    with Ledger.in_memory() as ledger:
        ledger.extend(range(10))
        assert ledger.validate(incremental=True).blocks == 11
        assert ledger.validate().blocks == 11
        ledger.extend(range(5))
        assert ledger.validate(incremental=True).blocks == 5
        [segment, *rest] = ledger._store._segments  # type: ignore[attr-defined]
        ledger._store._segments = [flipped(segment, "hashes", 0), *rest]  # type: ignore[attr-defined]
        assert rules_of(ledger.validate(all=True)) == [(0, "hash"), (1, "link")]
        assert ledger.validate(incremental=True).valid
        rest[-1] = flipped(rest[-1], "hashes", 8 * 32 * 4)
        ledger._store._segments = [segment, *rest]  # type: ignore[attr-defined]
        assert rules_of(ledger.validate(incremental=True)) == [(15, "mark")]


def test_damage_before_the_mark_is_not_looked_for_and_after_it_is(path: Path) -> None:
    with Ledger.open(path, read_only=True) as ledger:
        ledger.validate(incremental=True)
    more(path, 8)
    flip(path, "data", 8 * 200)
    assert validated(path, incremental=True).valid
    assert noted(path) == N + 8
    more(path, 8)
    with forging(path, cover_tracks=False) as blocks:
        blocks[N + 10].change(nonce=1)
    assert not validated(path).valid
    for _ in range(2):  # a run that was not valid moves no mark
        assert rules_of(validated(path, incremental=True)) == [(N + 10, "hash")]
        assert noted(path) == N + 8


def cut_off(blocks: list[Forgery]) -> None:
    del blocks[-1]


def rewritten(blocks: list[Forgery]) -> None:
    blocks[5].entries = [bytes(16) + b'"other"']
    blocks[5].change(count=1, kind=0)
    rechain(blocks)


def rewritten_and_longer(blocks: list[Forgery]) -> None:
    blocks.append(Forgery(blocks[-1].header, blocks[-1].hash, blocks[-1].entries))
    rewritten(blocks)


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize(
    ("attack", "index"), [(cut_off, N - 1), (rewritten, N - 1), (rewritten_and_longer, N - 1)]
)
def test_a_chain_that_is_another_one_now_is_found_though_it_agrees_with_itself(
    path: Path, attack: Callable[[list[Forgery]], None], index: int, *, every: bool
) -> None:
    assert validated(path, incremental=True).valid
    before = mark(path).read_bytes()
    with forging(path, cover_tracks=True) as blocks:
        attack(blocks)
    assert validated(path).valid
    report = validated(path, incremental=True, all=every)
    assert rules_of(report) == [(index, "mark")]
    assert mark(path).read_bytes() == before


def test_a_chain_whose_last_validated_block_is_gone_is_found(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    more(path, 3)
    assert validated(path, incremental=True).valid
    more(path, 2)
    with closing(sqlite3.connect(tail(path))) as connection, connection:
        connection.execute("DELETE FROM runs WHERE first = 3")
    for every in (True, False):
        report = validated(path, incremental=True, all=every)
        assert rules_of(report) == [(3, "mark")]
        assert report.failures[0].found == "missing"
    assert rules_of(validated(path, start=4)) == []


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"junk",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"length": 3}',
        b'{"length": "3", "hash": "' + b"00" * 32 + b'"}',
        b'{"length": true, "hash": "' + b"00" * 32 + b'"}',
        b'{"length": 0, "hash": "' + b"00" * 32 + b'"}',
        b'{"length": -1, "hash": "' + b"00" * 32 + b'"}',
        b'{"length": 3, "hash": "00"}',
        b'{"length": 3, "hash": 5}',
        b'{"length": 3.5, "hash": "' + b"00" * 32 + b'"}',
    ],
)
def test_a_damaged_mark_is_as_good_as_none(path: Path, note: bytes) -> None:
    mark(path).write_bytes(note)
    report = validated(path, incremental=True)
    assert (report.valid, report.blocks, noted(path)) == (True, N, N)


@pytest.mark.parametrize("length", [1, 5, N, N + 1, 2**62, 2**63, 2**70])
def test_the_mark_of_another_ledger_is_found(path: Path, length: int) -> None:
    mark(path).write_text(json.dumps({"length": length, "hash": "ab" * 32}))
    for every in (True, False):
        report = validated(path, incremental=True, all=every)
        assert rules_of(report) == [(min(length - 1, N), "mark")]
    assert noted(path) == length
    assert validated(path).valid  # a full run does not ask


def test_a_full_run_neither_reads_nor_writes_a_mark(path: Path) -> None:
    for options in ({}, {"all": True}, {"start": 3}, {"canonical": True}):
        assert validated(path, **options).valid
        assert not mark(path).exists()
    mark(path).write_text("junk")
    assert validated(path).blocks == N
    assert mark(path).read_text() == "junk"


def test_a_mark_that_cannot_be_written_does_not_cost_the_verdict(path: Path) -> None:
    assert validated(path, incremental=True).valid
    more(path, 3)
    mark(path).unlink()
    mark(path).mkdir()  # nobody may write there, not even who may do all
    with pytest.warns(RuntimeWarning, match="validated.json cannot be written"):
        report = validated(path, incremental=True)
    assert (report.valid, report.blocks) == (True, N + 3)
    assert [file.name for file in path.iterdir() if file.name.endswith(".new")] == []


# Canonical, too

NOT_CANONICAL = [
    b'{"b":1,"a":2}',
    b'{"a": 1}',
    b" 1",
    b"1\n",
    b"1.0",
    b"1e2",
    b"-0",
    b"0.10",
    b'"\\u0061"',
    b'"\\/"',
    b'"\\u000a"',
    b'"\\uD83D\\uDE00"',
    b'{"a":1,"a":1}',
    b'{"a":{"b":1,"b":2}}',
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b'"\\ud800"',
    b"NaN",
    b"18446744073709551616",
    b"1e400",
    b"",
    b"{",
    b"1 2",
    b"[" * 200 + b"]" * 200,
    '{"\ue000":1,"\U00010000":2}'.encode(),
    b'"' + b" " * 1000 + b'\\u0061"',
    b'{"' + b"x" * 1000 + b'":1,"' + b"x" * 1000 + b'":1}',
]
CANONICAL = [
    canonical({"b": [1, 1.5], "a": "é\n"}),
    b"1",
    b'"x"',
    '{"\U00010000":2,"\ue000":1}'.encode(),
]


def odd_chain(texts: list[bytes]) -> Segment:
    """Return a chain that is sound but for what its blocks' texts are."""
    blocks = chain("g")
    for i, text in enumerate(texts, start=1):
        blocks.append(
            sealed(
                0,
                [bytes(16) + text],
                index=i,
                previous_hash=blocks[-1].stored_hash,
                timestamp=blocks[-1].header.timestamp,
            )
        )
    return Segment.from_blocks(0, blocks)


@pytest.mark.parametrize("text", NOT_CANONICAL, ids=lambda text: repr(text[:20]))
def test_every_kind_of_text_that_is_not_canonical_is_found(tmp_path: Path, text: bytes) -> None:
    segment = odd_chain([*CANONICAL, text, *CANONICAL, text])
    with tiny():
        write(tmp_path / "ledger", list(segment.blocks()))
        assert validated(tmp_path / "ledger", all=True).valid
        report = validated(tmp_path / "ledger", all=True, canonical=True)
        first = validated(tmp_path / "ledger", canonical=True)
    at = len(CANONICAL) + 1
    assert rules_of(report) == [(at, "canonical"), (2 * at, "canonical")]
    assert first.failures == report.failures[:1]
    failure = report.failures[0]
    assert failure.message.startswith(f"block {at} breaks rule 'canonical': the data is not ")
    assert len(str(failure.expected)) < 400
    assert len(str(failure.found)) < 400


def test_a_block_has_one_failure_that_of_the_rules_first(tmp_path: Path) -> None:
    """Also where a rule is broken between two parts, which no worker sees."""
    chance = random.Random(3)
    texts = [chance.choice([b"1", b" 1", b"1.0"]) for _ in range(30)]
    odd = {i for i, text in enumerate(texts, start=1) if text != b"1"}
    with tiny(seal=7, part=3):
        write(tmp_path / "ledger", list(odd_chain(texts).blocks()))
        for i in range(24):
            flip(tmp_path / "ledger", "hashes", 8 * 32 * i)
            broken = {i: "hash", i + 1: "link"}
            expected = sorted((broken | dict.fromkeys(odd - broken.keys(), "canonical")).items())
            report = validated(tmp_path / "ledger", all=True, canonical=True)
            assert rules_of(report) == expected
            first = validated(tmp_path / "ledger", canonical=True)
            assert rules_of(first) == expected[:1]
            flip(tmp_path / "ledger", "hashes", 8 * 32 * i)


def test_processes_find_it_too_and_batches_are_looked_through(tmp_path: Path) -> None:
    blocks = chain("g3v2v")
    last = blocks[-1]
    entries = [bytes(16) + text for text in (b"1", b" 2", b" 3", b"4")]
    for i in range(5, 11):
        last = sealed(
            1, entries, index=i, previous_hash=last.stored_hash, timestamp=last.header.timestamp
        )
        blocks.append(last)
    with tiny(), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        write(tmp_path / "ledger", blocks)
        expected = validated(tmp_path / "ledger", all=True, canonical=True)
        report = validated(tmp_path / "ledger", all=True, canonical=True, executor=executor)
        assert report.failures == expected.failures
        assert rules_of(report) == [(i, "canonical") for i in range(5, 11)]
        assert (report.failures[0].expected, report.failures[0].found) == ("2", " 2")
