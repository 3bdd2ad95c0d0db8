"""Validation as a fold: whoever checks the parts, in whatever order, the report is the same."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cairn import Ledger, Report, StoreError, UsageError
from cairn.core.genesis import Terms
from cairn.core.hasher import Hasher
from cairn.core.segment import Segment
from cairn.core.validation import Summary
from cairn.hashing import best_hasher, hasher
from cairn.ledger import validation
from cairn.ledger.validation import Task, check
from cairn.store.disk import DiskStore
from cairn.store.flat import Part
from cairn.store.memory import MemoryStore
from tests.core.chains import chain, flipped
from tests.ledger.conftest import files, flip, quick_folder, tiny, write
from tests.ledger.executors import Late

SPAWN = multiprocessing.get_context("spawn")
SOON = 3.0
"""Seconds: more than to finish what is under way, far less than to finish all that waits."""


def plain(report: Report) -> Report:
    return replace(report, seconds=0.0)


def validated(path: Path, executor: Executor | None = None, **options: Any) -> Report:
    with Ledger.open(path, read_only=True) as ledger:
        return plain(ledger.validate(executor=executor, **options))


def in_one_piece(blocks: Any, places: list[tuple[str, int]], *, every: bool) -> Report:
    """Return the report on the same blocks with the same damage, held as one segment in memory."""
    segment = Segment.from_blocks(0, blocks)
    recorded = segment.hashes[-1].tobytes()
    for column, bit in places:
        segment = flipped(segment, column, bit)
    store = MemoryStore(segment)
    head = store.head()._replace(hash=recorded)
    with patch.object(store, "head", lambda: head):
        return plain(Ledger(store).validate(all=every))


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=SPAWN) as executor:
        yield executor


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of 201 blocks in files of 40, or fewer."""
    path = tmp_path_factory.mktemp("fold") / "long"
    with tiny(seal=40), Ledger.create(path) as ledger:
        for i in range(0, 200, 10):
            ledger.extend(range(i, i + 10))
    return path


@pytest.fixture
def parts_of_two() -> Iterator[None]:
    with tiny():
        yield


def changes_count(column: str, bit: int) -> bool:
    return column == "headers" and 56 <= bit // 8 % 104 < 60


faults = st.lists(
    st.tuples(st.sampled_from(("headers", "hashes", "data")), st.integers(0, 2**20)), max_size=3
)


@given(
    st.text("vvr0123", min_size=4, max_size=12),
    st.integers(1, 5),
    st.integers(2, 9),
    st.integers(1, 4),
    faults,
    st.booleans(),
    st.integers(0, 9),
)
@example("vvvvvvvv", 1, 2, 1, [("headers", 104 * 8 * 3 + 130)], True, 0)
@settings(max_examples=25)
def test_any_split_by_any_executor_gives_the_report_of_the_whole(
    shape: str,
    at_once: int,
    seal: int,
    part: int,
    damage: list[tuple[str, int]],
    every: bool,
    seed: int,
) -> None:
    """Sealed files, their parts and the tail; damage in files; tasks done in any order.

    A changed count says which entries are whose, so what is cut off before it may look otherwise:
    then the first failing block is the same.
    """
    blocks = chain("g" + shape)
    with quick_folder() as folder, tiny(seal=seal, part=part):
        path = folder / "ledger"
        write(path, blocks, at_once=at_once)
        held = DiskStore(path, best_hasher(), read_only=True)
        sealed = held._tail.sealed()[-1].stop if held._tail.sealed() else 0
        held.close()
        within = Segment.from_blocks(0, blocks[:sealed]) if sealed else None
        places = [
            (column, bit % (8 * getattr(within, column).nbytes))
            for column, bit in damage
            if within is not None and getattr(within, column).nbytes
        ]
        for column, bit in places:
            flip(path, column, bit)
        expected = in_one_piece(blocks, places, every=every)
        executors: list[Executor] = [Late(seed), ThreadPoolExecutor(1 + seed % 4)]
        for executor in executors:
            with executor:
                found = validated(path, executor, all=every)
            assert found.valid == expected.valid
            if any(changes_count(*place) for place in places):
                assert [f.index for f in found.failures[:1]] == [
                    f.index for f in expected.failures[:1]
                ]
                continue
            assert found.failures == expected.failures
            if every or found.valid:
                assert found == expected


@pytest.mark.usefixtures("parts_of_two")
@pytest.mark.parametrize("every", [True, False])
def test_processes_find_what_threads_find(
    tmp_path: Path, processes: Executor, *, every: bool
) -> None:
    blocks = chain("g" + "v2r01" * 6)
    write(tmp_path / "ledger", blocks)
    for column, bit in (("data", 8 * 150), ("headers", 104 * 8 * 11 + 200), ("hashes", 32 * 8 * 3)):
        report = validated(tmp_path / "ledger", all=every)
        assert report == validated(tmp_path / "ledger", processes, all=every)
        assert report == validated(tmp_path / "ledger", processes, all=every, hasher="hashlib")
        flip(tmp_path / "ledger", column, bit)
    report = validated(tmp_path / "ledger", processes, all=every)
    assert len(report.failures) == (4 if every else 1)
    assert report == validated(tmp_path / "ledger", all=every)
    files(tmp_path / "ledger")[4].unlink()
    report = validated(tmp_path / "ledger", processes, all=every)
    assert report == validated(tmp_path / "ledger", all=every)
    assert report.failures[-1].rule == ("storage" if every else "data_root")


@pytest.mark.usefixtures("parts_of_two")
def test_what_travels_is_small(long: Path) -> None:
    """A part by name, and a summary: never blocks."""
    with Ledger.open(long, read_only=True) as ledger:
        parts = [p for p in ledger._store.parts(0, 201) if isinstance(p, Part)]
    task = Task(Terms(), every=True)
    assert len(parts) > 50
    for part in parts:
        assert len(pickle.dumps((check, part, task))) < 700
        assert len(pickle.dumps(check(part, task))) < 700


# What ends a run early


@pytest.mark.usefixtures("parts_of_two")
def test_a_run_that_is_over_calls_off_what_waits(long: Path) -> None:
    executor = Late(0)
    report = validated(long, executor)
    assert (report.valid, executor.left()) == (True, 0)
    with patch.object(validation, "WAITING", 8), Ledger.open(long, read_only=True) as ledger:
        executor = Late(0)

        def stop(total: Summary) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ledger.validate(executor=executor, progress=stop)
        assert (executor.given, executor.left()) == (8, 0)


@pytest.mark.usefixtures("parts_of_two")
def test_the_first_failure_ends_a_run_unless_all_are_asked_for(tmp_path: Path) -> None:
    with tiny(seal=40), Ledger.create(tmp_path / "ledger") as ledger:
        for _ in range(20):
            ledger.extend(range(10))
    flip(tmp_path / "ledger", "hashes", 32 * 8 * 5)
    checked: list[object] = []

    def counting(part: Segment | Part, task: Task) -> Any:
        checked.append(part)
        time.sleep(0.002)
        return check(part, task)

    with patch.object(validation, "check", counting):
        with ThreadPoolExecutor(2) as executor:
            report = validated(tmp_path / "ledger", executor)
        assert [(f.index, f.rule) for f in report.failures] == [(5, "hash")]
        assert report.blocks < 20
        assert len(checked) < 20
        checked.clear()
        with ThreadPoolExecutor(2) as executor:
            report = validated(tmp_path / "ledger", executor, all=True)
        assert [(f.index, f.rule) for f in report.failures] == [(5, "hash"), (6, "link")]
        assert len(checked) > 80


@pytest.mark.usefixtures("parts_of_two")
def test_ctrl_c_ends_a_run_soon_and_leaves_no_thread(long: Path) -> None:
    began: list[float] = []

    def slow(part: Segment | Part, task: Task) -> Any:
        began.append(time.monotonic())
        time.sleep(0.1)
        return check(part, task)

    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.35, lambda: signal.pthread_kill(main, signal.SIGINT))
    with patch.object(validation, "check", slow), Ledger.open(long, read_only=True) as ledger:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            ledger.validate()
        assert time.monotonic() - began[0] < SOON
        assert len(began) < 40  # of a hundred
        timer.join()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("cairn-")]
    assert validated(long).valid


@pytest.mark.usefixtures("parts_of_two")
@pytest.mark.parametrize("task", [0, 1, 60])
def test_what_a_worker_raises_ends_the_run(long: Path, task: int) -> None:
    executor = Late(task, (task, MemoryError("of the worker's")))
    with pytest.raises(MemoryError, match="of the worker's"):
        validated(long, executor)
    assert executor.left() == 0


@pytest.mark.usefixtures("parts_of_two")
def test_an_executor_that_takes_no_more_ends_the_run(long: Path) -> None:
    class Full(Late):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            if self.given == 7:
                raise RuntimeError("no more")
            return super().submit(fn, *args, **kwargs)

    executor = Full(0)
    with pytest.raises(RuntimeError, match="no more"):
        validated(long, executor)
    assert (executor.given, executor.left()) == (7, 0)


@pytest.mark.usefixtures("parts_of_two")
def test_workers_that_die_are_no_verdict(long: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=SPAWN) as executor:
        executor.submit(_die, 0.2)  # while the run waits behind it
        began = time.monotonic()
        with pytest.raises(StoreError, match="no verdict, its workers are gone: A process"):
            validated(long, executor)
        with pytest.raises(StoreError, match="no verdict, its workers are gone: A "):
            validated(long, executor)  # which takes nothing any more
        assert time.monotonic() - began < 10 * SOON


def _die(after: float) -> None:
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("parts_of_two")
def test_tasks_that_somebody_calls_off_are_no_verdict(long: Path) -> None:
    class Off(Late):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.cancel()
            return future

    with pytest.raises(StoreError, match="no verdict, its workers are gone: they were called off"):
        validated(long, Off(0))


# Damage is believed where it is found again


@pytest.mark.usefixtures("parts_of_two")
def test_a_worker_that_cannot_see_the_files_is_an_error_and_no_verdict(long: Path) -> None:
    class Blind(Late):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            part, task = args
            return super().submit(fn, replace(part, folder=Path("/not/mounted")), task)

    with pytest.raises(StoreError, match=r"a worker could not read .*/not/mounted/.* is missing"):
        validated(long, Blind(0))


@pytest.mark.usefixtures("parts_of_two")
def test_damage_that_a_worker_and_this_process_see_is_a_failure(
    tmp_path: Path, processes: Executor
) -> None:
    with tiny(seal=10), Ledger.create(tmp_path / "ledger") as ledger:
        for _ in range(10):
            ledger.extend(range(10))
    file = files(tmp_path / "ledger")[3]
    file.write_bytes(file.read_bytes()[:-1])
    for executor in (None, processes):
        for every in (True, False):
            report = validated(tmp_path / "ledger", executor, all=every)
            assert [f.rule for f in report.failures] == ["storage"]
            assert report.failures[0].index == int(file.stem)
            assert report.blocks == int(file.stem)


@pytest.mark.usefixtures("parts_of_two")
def test_a_hasher_that_is_not_there_is_refused_also_where_nothing_is_to_be_hashed(
    long: Path,
) -> None:
    for start in (0, 201):
        with pytest.raises(UsageError, match="no hasher is called 'md5'"):
            validated(long, start=start, hasher="md5")


@pytest.mark.usefixtures("parts_of_two")
def test_a_hasher_is_made_once_and_not_for_each_part(long: Path) -> None:
    made: list[str] = []

    def making(name: str) -> Hasher:
        made.append(name)
        return hasher(name)

    validation._named.cache_clear()
    with patch.object(validation, "hasher", making):
        for _ in range(2):
            assert validated(long, hasher="hashlib").valid
    validation._named.cache_clear()
    assert made == ["hashlib"]
