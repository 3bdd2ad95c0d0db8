"""The embedded product: what `Ledger` promises to a program that uses it."""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cairn.ledger.writer
from cairn import (
    Block,
    DamagedError,
    EntryError,
    ExistsError,
    ExtendError,
    FormatError,
    Genesis,
    InvalidChainError,
    KeyReusedError,
    Ledger,
    Limits,
    NoSuchBlockError,
    NotFoundError,
    ReadOnlyError,
    UsageError,
)
from cairn.core.validation import Summary
from cairn.hashing import best_hasher
from cairn.lab.tampering import forging
from cairn.ledger.writer import Append
from cairn.store.disk import DiskStore
from tests.conftest import shared

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) < 2**53)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.cairn"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as ledger:
        yield ledger


def test_an_append_returns_its_block_with_the_five_facts(ledger: Ledger) -> None:
    block = ledger.append({"user": "alice", "did": "login"})
    assert (block.index, block.data) == (1, {"user": "alice", "did": "login"})
    assert block.previous_hash == ledger[0].hash
    assert block.hash == block.header.hash.hex()
    assert block.timestamp.endswith("Z")
    assert ledger[1] == ledger.head == block
    assert len(ledger) == 2


def test_what_was_appended_is_there_after_reopening(path: Path) -> None:
    with Ledger.open(path) as ledger:
        blocks = [ledger.append(i) for i in range(5)]
        ledger_id = ledger.id
    with Ledger.open(path, read_only=True) as ledger:
        assert list(ledger)[1:] == blocks
        assert ledger.id == ledger_id
        assert ledger.genesis.name == "audit"


@given(JSON)
def test_every_value_reads_back_equal(value: Any) -> None:
    with Ledger.in_memory() as ledger:
        assert ledger.append(value).data == value
        assert ledger.head.data == value
        assert ledger.append_json(json.dumps(value)).data == value


def test_real_events_read_back_equal(ledger: Ledger) -> None:
    lines = shared("data/cloudtrail.ndjson").read_bytes().splitlines()
    assert ledger.extend_json(lines) == len(lines) == 2900
    assert [block.data for block in ledger][1:] == [json.loads(line) for line in lines]
    assert ledger.validate().valid


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**64, 10**30, {1: 2}, {"a": {1, 2}}, "\ud800"]
)
def test_a_refused_value_leaves_no_trace(ledger: Ledger, path: Path, value: object) -> None:
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(EntryError):
        ledger.append(value)
    with pytest.raises(EntryError):
        ledger.append(value, key="key")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert ledger.append("fine", key="key").index == 1


@pytest.mark.parametrize(
    "text",
    ["NaN", "1e400", '{"a":1,"a":2}', "[" * 100_000, "", "\ufeff1", '"\\ud800"', "{} {}", b"\xff"],
)
def test_refused_json_leaves_no_trace(ledger: Ledger, text: str | bytes) -> None:
    with pytest.raises(EntryError):
        ledger.append_json(text)
    assert len(ledger) == 1


def test_limits_of_genesis_are_kept(path: Path) -> None:
    limits = Limits(size=16 + 110, depth=2)
    with Ledger.create(path, Genesis(name="small", limits=limits)) as ledger:
        assert ledger.append("x" * 108).header.size == 126
        with pytest.raises(EntryError, match="111 bytes of canonical JSON are past the limit"):
            ledger.append("x" * 109)
        assert ledger.append([[]]).data == [[]]
        with pytest.raises(EntryError, match=r"nested too deeply.* \(at \$\[0\]\[0\]\)"):
            ledger.append([[[]]])
        assert ledger.validate().valid
    with pytest.raises(FormatError, match="does not fit its own limit"):
        Ledger.create(path.with_name("tiny"), Genesis(limits=Limits(size=50)))


def test_extend_streams_any_iterable_in_batches(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cairn.ledger.writer, "BATCH_ENTRIES", 10)
    durable_when_pulled = []

    def values() -> Iterator[int]:
        for i in range(35):
            durable_when_pulled.append(len(ledger) - 1)
            yield i

    assert ledger.extend(values()) == 35
    assert durable_when_pulled == [i // 10 * 10 for i in range(35)]
    assert [block.data for block in ledger][1:] == list(range(35))
    assert ledger.extend([]) == 0


def test_extend_does_not_sit_on_a_slow_stream(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cairn.ledger.writer, "BATCH_SECONDS", 0)
    assert ledger.extend(len(ledger) for _ in range(3)) == 3
    assert [block.data for block in ledger][1:] == [1, 2, 3]


@pytest.mark.parametrize("bad", [0, 1, 9, 10, 11, 25])
def test_extend_says_how_many_are_durable_and_which_failed(
    path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    monkeypatch.setattr(cairn.ledger.writer, "BATCH_ENTRIES", 10)
    values: list[object] = list(range(30))
    values[bad] = {"deep": [math.nan]}
    with Ledger.open(path) as ledger:
        with pytest.raises(
            ExtendError, match=rf"item {bad} is refused: nan .*\$\.deep\[0\]"
        ) as error:
            ledger.extend(values)
        assert error.value.durable == bad
        assert error.value.__cause__ is error.value.cause
    with Ledger.open(path, read_only=True) as ledger:
        assert [block.data for block in ledger][1:] == list(range(bad))


def test_extend_keeps_what_came_before_an_error_of_the_iterable(ledger: Ledger) -> None:
    def values() -> Iterator[int]:
        yield from range(3)
        raise ConnectionError("the source went away")

    with pytest.raises(ConnectionError) as error:
        ledger.extend(values())
    assert error.value.__notes__ == ["the 3 items before are durable"]
    assert len(ledger) == 4


def test_a_retry_with_its_key_is_recorded_once(path: Path) -> None:
    with Ledger.open(path) as ledger:
        first = ledger.append({"pay": 10}, key="order 7")
        assert ledger.append({"pay": 10}, key="order 7") == first
        ledger.append({"pay": 10})
        with pytest.raises(EntryError, match="key 'order 7' was used for another value"):
            ledger.append({"pay": 11}, key="order 7")
    with Ledger.open(path) as ledger:
        assert ledger.append({"pay": 10}, key="order 7") == first
        assert len(ledger) == 3
        for key in ("", "x" * 256, "\ud800", "new\nline", b"k", 5):
            with pytest.raises(EntryError, match="a key has 1 to 255 printable characters"):
                ledger.append(1, key=key)  # type: ignore[arg-type]


@pytest.mark.parametrize("in_memory", [True, False])
def test_threads_that_append_together_get_a_block_each(path: Path, *, in_memory: bool) -> None:
    ledger = Ledger.in_memory() if in_memory else Ledger.open(path)
    results: dict[int, Block] = {}

    def work(worker: int) -> None:
        for i in range(25):
            number = worker * 100 + i
            results[number] = ledger.append(number, key=f"key {number}")
            assert ledger.append(number, key=f"key {number}") == results[number]

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger) == 1 + 16 * 25
    assert sorted(block.index for block in results.values()) == list(range(1, 401))
    assert all(ledger[block.index].data == number for number, block in results.items())
    assert ledger.validate().valid
    ledger.close()


def test_one_bad_key_does_not_fail_the_others_of_its_commit(ledger: Ledger) -> None:
    ledger.append("first", key="taken")
    outcomes: list[object] = []

    def work(value: str, key: str) -> None:
        try:
            outcomes.append(ledger.append(value, key=key).data)
        except EntryError as error:
            outcomes.append(str(error))

    pairs = [("a", "1"), ("other", "taken"), ("b", "2"), ("b", "2"), ("c", "2")] * 3
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    with ledger._writer.own_turn():  # so that all of them come together
        for thread in threads:
            thread.start()
        while len(ledger._writer._pending) < len(pairs):
            pass
    for thread in threads:
        thread.join()
    assert len(outcomes) == len(pairs)
    assert outcomes.count("key 'taken' was used for another value") == 3
    assert len(ledger) == 2 + 2
    assert ledger.validate().valid


def test_timestamps_never_fall_though_the_clock_does() -> None:
    times = iter([100, 200, 150, 50, 300])
    with Ledger.in_memory(clock=lambda: next(times)) as ledger:
        stamps = [ledger.append(i).header.timestamp for i in range(2)]
        ledger.extend(["c"])
        stamps += [ledger.head.header.timestamp, ledger.append("d").header.timestamp]
        assert stamps == [200, 200, 200, 300]
        assert ledger.validate().valid


def test_equal_values_have_different_ids(ledger: Ledger) -> None:
    ledger.extend(["same"] * 500)
    ids = [entry.id for block in ledger for entry in block.entries]
    assert len(set(ids)) == 501


def test_it_is_a_sequence_of_blocks(ledger: Ledger) -> None:
    ledger.extend("abcdefgh")
    blocks = list(ledger)
    for index in range(-9, 9):
        assert ledger[index] == blocks[index]
    for start, stop, step in itertools.product(
        (None, 0, 3, -3, 99), (None, 0, 5, -1), (None, 2, -1)
    ):
        assert ledger[start:stop:step] == blocks[start:stop:step]
    for index in (9, -10, 10**12, 10**30):
        with pytest.raises(NoSuchBlockError, match="the ledger has 9") as error:
            ledger[index]
        assert isinstance(error.value, IndexError)
    assert ledger.find(blocks[4].hash) == blocks[4]
    assert ledger.find("00" * 32) is None
    assert ledger.find("no hash") is None
    assert ledger.find("00") is None


def test_it_opens_what_is_there_and_creates_what_is_not(path: Path) -> None:
    with pytest.raises(NotFoundError):
        Ledger.open(path, read_only=True)
    path.mkdir()
    with pytest.raises(NotFoundError):
        Ledger.open(path, read_only=True)
    Ledger.open(path).close()  # an empty directory is as good as none
    with pytest.raises(ExistsError):
        Ledger.create(path)
    file = path.parent / "file"
    file.write_text("not a ledger")
    with pytest.raises(NotFoundError):
        Ledger.open(file)
    with pytest.raises(ExistsError):
        Ledger.create(file)
    assert sorted(p.name for p in path.parent.iterdir()) == ["audit.cairn", "file"]


def test_parents_are_made_and_relative_paths_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger.open("a/b/c.d.cairn") as ledger:
        assert ledger.genesis.name == "c.d"
    assert (tmp_path / "a/b/c.d.cairn/tail.sqlite").is_file()


def test_two_ledgers_have_different_ids(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "x" / "same") as a, Ledger.open(tmp_path / "y" / "same") as b:
        assert a.genesis == b.genesis
        assert a.id != b.id


def test_a_reader_cannot_append(path: Path) -> None:
    Ledger.open(path).close()
    with Ledger.open(path, read_only=True) as ledger, pytest.raises(ReadOnlyError):
        ledger.append(1)


def test_a_closed_ledger_refuses(ledger: Ledger) -> None:
    ledger.append(1)
    ledger.close()
    ledger.close()
    for use in (lambda: ledger.append(1), lambda: len(ledger), lambda: ledger[0], ledger.validate):
        with pytest.raises(ReadOnlyError):
            use()


@pytest.mark.parametrize("index", [0, -1])
def test_nothing_is_written_after_a_damaged_end(path: Path, index: int) -> None:
    with Ledger.open(path) as ledger:
        ledger.extend(range(5))
    with forging(path, cover_tracks=False) as blocks:
        blocks[index].change(nonce=1)
    with pytest.raises(InvalidChainError) as error:
        Ledger.open(path)
    assert error.value.failure.index == index % 6
    assert error.value.failure.rule == "hash"
    with forging(path, cover_tracks=False) as blocks:
        blocks[index].change(nonce=0)
    Ledger.open(path).close()  # the refusal let go of the lock


def test_nothing_is_written_where_the_end_is_not_the_recorded_one(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.extend(range(5))
    with forging(path, cover_tracks=False) as blocks:
        del blocks[-1]
    with pytest.raises(InvalidChainError, match="blocks are missing at the end"):
        Ledger.open(path)


def test_a_failure_says_which_block_which_rule_expected_and_found(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.extend(range(5))
        link, honest = ledger[3].previous_hash, ledger.validate()
    assert honest.to_value().keys() == {"valid", "execution_time", "blocks", "bytes"}
    with forging(path, cover_tracks=False) as blocks:
        blocks[2].entries[0] = blocks[2].entries[0][:-1] + b"7"
        blocks[2].rehash()
        forged = blocks[2].hash.hex()
        blocks[4].entries[0] += b" "
    with Ledger.open(path, read_only=True) as ledger:
        report, full = ledger.validate(), ledger.validate(all=True)
    failure = report.failure
    assert failure is not None
    assert (failure.index, failure.rule, failure.expected, failure.found) == (
        3,
        "link",
        forged,
        link,
    )
    assert report.failures == (failure,)
    assert [(f.index, f.rule) for f in full.failures] == [(3, "link"), (4, "size")]
    value = report.to_value()
    assert (value["valid"], value["failed_block"]) == (False, 3)
    assert value["failure"] == {
        "index": 3,
        "rule": "link",
        "expected": forged,
        "found": link,
        "message": failure.message,
    }


def test_validation_counts_what_it_read_and_shows_progress(ledger: Ledger) -> None:
    ledger.extend("x" * 100 for _ in range(20_000))
    seen: list[Summary] = []
    report = ledger.validate(progress=seen.append)
    assert report.blocks == 20_001
    assert report.bytes == 20_001 * 104 + sum(block.header.size for block in ledger)
    assert report.seconds > 0
    assert len(seen) > 1
    assert [s.start for s in seen] == [0] * len(seen)
    assert seen[-1].stop == 20_001


def test_validation_rereads_the_store_and_edits_nothing(ledger: Ledger, path: Path) -> None:
    ledger.extend(range(100))
    assert ledger.validate().valid
    ledger.close()
    before = (path / "tail.sqlite").read_bytes()
    with Ledger.open(path, read_only=True) as reader:
        reader.validate(all=True)
    assert (path / "tail.sqlite").read_bytes() == before


def test_a_backup_is_a_ledger_of_its_own(ledger: Ledger, tmp_path: Path) -> None:
    ledger.extend(range(1000))
    ledger.append("x", key="key")
    shown: list[tuple[int, int]] = []
    ledger.backup(tmp_path / "copy", progress=lambda done, total: shown.append((done, total)))
    ledger.append("later")
    with Ledger.open(tmp_path / "copy") as copy:
        assert list(copy) == ledger[:1002]
        assert copy.validate().valid
        assert copy.append("x", key="key").index == 1001
    assert shown[-1][0] == shown[-1][1] > 0
    with pytest.raises(ExistsError):
        ledger.backup(tmp_path / "copy")
    with Ledger.in_memory() as memory, pytest.raises(UsageError, match="no files to back up"):
        memory.backup(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_thread_does_not_wait_for_itself(path: Path) -> None:
    """Such as a signal handler that appends while its thread is committing."""
    outcomes: list[str] = []

    def clock() -> int:
        uses = (lambda: own.append("inner"), lambda: own.extend(["inner"]), lambda: own.close())
        for use in uses if not outcomes else ():
            with pytest.raises(UsageError, match="cannot wait for itself"):
                use()
            outcomes.append("refused")
        return 1

    Ledger.open(path).close()
    own = Ledger(DiskStore(path, best_hasher()), clock=clock)
    assert own.append("outer").index == 1
    assert outcomes == ["refused"] * 3
    assert own.append("after").index == 2
    own.close()


def test_an_iterable_may_use_the_ledger_and_its_own_errors_are_not_an_item_s(
    ledger: Ledger,
) -> None:
    def values() -> Iterator[int]:
        yield ledger.append("inner").index
        ledger.append(math.nan)

    with pytest.raises(EntryError):
        ledger.extend(values())
    assert [block.data for block in ledger][1:] == ["inner", 1]


def test_a_writer_whose_head_is_gone_says_so(ledger: Ledger, path: Path) -> None:
    with closing(sqlite3.connect(path / "tail.sqlite")) as connection, connection:
        connection.execute("DELETE FROM runs")
    with pytest.raises(DamagedError, match="block 0, the recorded head, is not there"):
        ledger.append("x", key=None)


def test_a_ledger_that_is_forgotten_lets_go_of_its_lock(path: Path) -> None:
    forgotten: Ledger | None = Ledger.open(path)
    assert forgotten is not None
    forgotten = None
    gc.collect()
    Ledger.open(path).close()


def test_a_private_place_stays_private(path: Path, tmp_path: Path) -> None:
    path.mkdir(mode=0o700)
    with Ledger.open(path) as ledger:
        ledger.append(1)
        (path / "tail.sqlite").chmod(0o600)
        ledger.backup(tmp_path / "copy")
    for directory in (path, tmp_path / "copy"):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "copy" / "tail.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_ledger_is_not_used_on_both_sides_of_a_fork(ledger: Ledger) -> None:
    ledger.append("parent")
    child = os.fork()
    if child == 0:
        uses = (lambda: ledger.append("child"), lambda: len(ledger), lambda: ledger[0])
        with suppress(BaseException):
            for use in uses:
                with pytest.raises(UsageError, match="open it again in this one"):
                    use()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert ledger.append("parent").index == 2
    assert ledger.validate().valid


def test_an_abandoned_iteration_leaves_nothing_open(ledger: Ledger) -> None:
    ledger.extend(range(10))
    for block in ledger:
        if block.index == 3:
            break
    gc.collect()
    assert ledger.validate().valid


def test_random_use_equals_a_list(path: Path) -> None:
    """A list as oracle: whatever the mix of calls, the ledger holds what was acknowledged."""
    generator = random.Random(7)
    expected: list[Any] = []
    for _ in range(5):
        with Ledger.open(path) as ledger:
            for _ in range(20):
                values = [generator.choice([None, 1.5, "é", {"a": [generator.random()]}])] * 3
                if generator.random() < 0.5:
                    ledger.append(values[0])
                    expected.append(values[0])
                else:
                    ledger.extend(values)
                    expected += values
            assert [block.data for block in ledger][1:] == expected
            assert ledger.validate().blocks == len(expected) + 1


def test_all_or_nothing_is_recorded_in_one_commit(path: Path) -> None:
    with Ledger.open(path) as ledger:
        before = len(ledger)
        for count in (1, 3, 200):
            values = [{"n": n} for n in range(count)]
            places = ledger.append_all(values)
            assert places == range(before, before + count)
            assert [ledger[i].data for i in places] == values
            before += count
        with pytest.raises(EntryError, match="nan"):
            ledger.append_all([1, 2, math.nan])
        with pytest.raises(EntryError, match="no value"):
            ledger.append_all([])
        assert len(ledger) == before
        assert ledger.validate().valid


@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_retry_of_many_values_is_told_by_its_key(path: Path, count: int) -> None:
    values = list(range(count))
    with Ledger.open(path) as ledger:
        places = ledger.append_all(values, key="k")
        assert ledger.append_all(values, key="k") == places
        for others in ([*values, 0], values[1:], [*values[:-1], "other"]):
            with pytest.raises((KeyReusedError, EntryError)):
                ledger.append_all(others, key="k")
    with Ledger.open(path) as ledger:
        assert ledger.append_all(values, key="k") == places
        assert len(ledger) == places.stop


def test_appends_of_one_commit_get_their_own_answers(path: Path) -> None:
    with Ledger.open(path) as ledger:
        appends = [
            Append([b"1"], "a"),
            Append([b"2", b"3"]),
            Append([b"1"], "a"),  # a retry that came together with the first try
            Append([b"4"], "a"),
            Append([b"5"] * 100, "b"),
        ]
        ledger.commit(appends)
        ledger.commit([])
        first = appends[0].result().index
        assert [a.last and a.last.index - first for a in appends] == [0, 2, 0, None, 102]
        with pytest.raises(KeyReusedError, match="used for another value"):
            appends[3].result()
        assert ledger.validate().valid
