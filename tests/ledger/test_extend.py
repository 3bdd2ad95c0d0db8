"""Bulk appends: groups encoded at once, batches committed while the next is encoded."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn import EntryError, ExtendError, Genesis, Ledger, Limits, OutcomeUnknownError, UsageError
from cairn.core.segment import Segment
from cairn.ledger import writer
from cairn.ledger.writer import Writer
from tests.core import strategies

REFUSED = [math.nan, "\ud800", {1: 2}, {"a": {1}}, 10**30, "x" * 200, [[[[1]]]]]
"""No ledger takes the first ones; that of the tests has no room for the last ones."""


@contextmanager
def batches_of(entries: int, *, background: int = 1, group: int = 128) -> Iterator[None]:
    """Have batches be that small, and committed in the background from so many entries on."""
    with (
        patch.object(writer, "BATCH_ENTRIES", entries),
        patch.object(writer, "BACKGROUND_FROM", background),
        patch.object(writer, "GROUP_TEXTS", group),
    ):
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as ledger:
        yield ledger


def data(ledger: Ledger) -> list[Any]:
    return [block.data for block in ledger][1:]


def require_no_threads() -> None:
    assert not [t.name for t in threading.enumerate() if t.name.startswith("cairn-")]


# Groups


@given(
    st.lists(st.one_of(strategies.plain_values, strategies.values), max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(REFUSED)), max_size=2),
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
)
@settings(max_examples=100)
def test_many_at_once_are_recorded_as_one_by_one(
    values: list[Any], bad: list[tuple[int, Any]], batch: int, group: int, background: bool
) -> None:
    for at, value in bad:
        values.insert(at, value)
    genesis = Genesis(limits=Limits(size=16 + 130, depth=3))
    expected: list[bytes] = []
    refused = None
    with Ledger.in_memory(genesis) as one_by_one:
        for value in values:
            try:
                expected.append(one_by_one.append(value).data_json())
            except EntryError as error:
                refused = str(error)
                break
    from_ = 1 if background else 10**9
    with Ledger.in_memory(genesis) as ledger, batches_of(batch, background=from_, group=group):
        why = None
        try:
            durable = ledger.extend(iter(values))
        except ExtendError as error:
            durable, why = error.durable, str(error.cause)
        assert (durable, why) == (len(expected), refused)
        assert [block.data_json() for block in ledger][1:] == expected
        assert ledger.validate().valid


def test_an_item_may_be_the_same_object_each_time(ledger: Ledger) -> None:
    def items() -> Iterator[dict[str, Any]]:
        item: dict[str, Any] = {"in": [0]}
        for i in range(300):
            item["i"], item["in"][0] = i, -i
            yield item

    ledger.extend(items())
    assert data(ledger) == [{"i": i, "in": [-i]} for i in range(300)]


def test_after_a_refusal_the_iterator_stands_behind_the_item(ledger: Ledger) -> None:
    items = iter([*range(200), math.nan, *range(200, 400)])
    with pytest.raises(ExtendError):
        ledger.extend(items)
    ledger.extend(items)
    assert data(ledger) == list(range(400))


@pytest.mark.parametrize("size", [1, 5, 128, 300])
def test_a_refusal_at_each_place_of_a_group_leaves_all_before_it_durable(
    path: Path, size: int
) -> None:
    with batches_of(150):
        for at in {0, 1, size // 2, size - 2, size - 1} & set(range(size)):
            values: list[object] = list(range(size))
            values[at] = math.nan
            with Ledger.open(path / str(at)) as ledger, pytest.raises(ExtendError) as error:
                ledger.extend(values)
            assert error.value.durable == at
            with Ledger.open(path / str(at), read_only=True) as ledger:
                assert data(ledger) == list(range(at))
    require_no_threads()


def test_texts_are_refused_likewise(path: Path) -> None:
    bad = '{"a":1,"a":2}'
    for at in (0, 1, 127, 128, 200):
        texts = [json.dumps({"n": i}) for i in range(at)]
        with Ledger.open(path / str(at)) as ledger, pytest.raises(ExtendError) as error:
            ledger.extend_json([*texts, bad, "1"])
        assert error.value.durable == at
        with Ledger.open(path / str(at), read_only=True) as ledger:
            assert data(ledger) == [{"n": i} for i in range(at)]


def test_large_items_are_not_gathered(ledger: Ledger) -> None:
    """As many are held as make a megabyte, going by those before; at first it is one."""
    held = most = 0

    class Large(list[str]):
        def __init__(self) -> None:
            nonlocal held, most
            super().__init__(["x" * 2**20])
            held += 1
            most = max(most, held)

        def __del__(self) -> None:
            nonlocal held
            held -= 1

    assert ledger.extend(Large() for _ in range(40)) == 40
    assert most <= 3
    assert len(ledger) == 41


# Iterables


def test_a_slow_iterable_is_durable_half_a_second_after_at_most(ledger: Ledger) -> None:
    seen: list[tuple[float, int]] = []

    def values() -> Iterator[int]:
        for i in range(60):
            time.sleep(0.02)
            seen.append((time.monotonic(), len(ledger) - 1))
            yield i

    assert ledger.extend(values()) == 60
    waited = [
        next(at for at, durable in seen if durable > i) - given
        for i, (given, _) in enumerate(seen)
        if seen[-1][1] > i
    ]
    assert len(waited) > 20
    assert max(waited) < writer.BATCH_SECONDS + 0.3


@pytest.mark.parametrize("background", [1, 10**9])
@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 25])
def test_what_the_iterable_raises_leaves_all_before_it_durable(
    path: Path, count: int, background: int
) -> None:
    def values() -> Iterator[int]:
        yield from range(count)
        raise ConnectionError("the source went away")

    with batches_of(10, background=background), Ledger.open(path) as ledger:
        with pytest.raises(ConnectionError) as error:
            ledger.extend(values())
        assert error.value.__notes__ == [f"the {count} items before are durable"]
        assert data(ledger) == list(range(count))
        require_no_threads()


def test_an_iterable_may_append_to_the_same_ledger(ledger: Ledger) -> None:
    def values() -> Iterator[int]:
        for i in range(50):
            ledger.append(f"own {i}")
            yield i

    with batches_of(10):
        assert ledger.extend(values()) == 50
    recorded = data(ledger)
    own = [value for value in recorded if isinstance(value, str)]
    assert own == [f"own {i}" for i in range(50)]
    assert [value for value in recorded if value not in own] == list(range(50))
    assert ledger.validate().valid


def test_an_iterable_may_extend_the_same_ledger(ledger: Ledger) -> None:
    def values() -> Iterator[int]:
        for i in range(50):
            if i % 7 == 0:
                ledger.extend(["own"] * 30)
            yield i

    with batches_of(10):
        assert ledger.extend(values()) == 50
    assert [value for value in data(ledger) if value != "own"] == list(range(50))
    assert ledger.validate().valid


def test_a_thread_that_commits_does_not_wait_for_one_of_its_own() -> None:
    """Such as a signal handler that extends while its thread is committing."""
    refused: list[str] = []

    def clock() -> int:
        if not refused and "ledger" in globals_:
            refused.append("…")
            with pytest.raises(UsageError, match="cannot wait for itself"):
                globals_["ledger"].extend(range(50))
        return 1

    globals_: dict[str, Ledger] = {}
    with batches_of(10), Ledger.in_memory(clock=clock) as ledger:
        globals_["ledger"] = ledger
        assert ledger.append("outer").index == 1
        assert refused
        assert data(ledger) == ["outer"]


def test_threads_that_extend_at_once_keep_their_order(ledger: Ledger) -> None:
    def work(worker: int) -> None:
        ledger.extend([worker, i] for i in range(200))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    with batches_of(30):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    recorded = data(ledger)
    for worker in range(4):
        assert [i for who, i in recorded if who == worker] == list(range(200))
    assert ledger.validate().valid
    require_no_threads()


# Interrupted, and failing


@contextmanager
def slow_commits(seconds: float, began: threading.Event) -> Iterator[None]:
    commit = Writer._commit_batch

    def slow(self: Writer, batch: Any) -> None:
        began.set()
        time.sleep(seconds)
        commit(self, batch)

    with patch.object(Writer, "_commit_batch", slow):
        yield


def interrupt_when(ready: threading.Event, after: float) -> threading.Thread:
    """Have the main thread get a Ctrl-C so long after `ready`."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        ready.wait()
        time.sleep(after)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


@pytest.mark.parametrize("wait", [True, False])
def test_ctrl_c_while_a_batch_is_committed_says_what_is_durable(path: Path, *, wait: bool) -> None:
    """It comes while the main thread waits for the commit, or is in the iterable."""
    began = threading.Event()

    def values() -> Iterator[int]:
        for i in range(1000):
            if i == 15 and not wait:
                began.wait()
                time.sleep(10)
            yield i

    with batches_of(10), slow_commits(0.3, began), Ledger.open(path) as ledger:
        thread = interrupt_when(began, 0.1)
        before = time.monotonic()
        with pytest.raises(KeyboardInterrupt) as error:
            ledger.extend(values())
        assert time.monotonic() - before < 5
        thread.join()
        require_no_threads()
        durable = len(ledger) - 1
        assert error.value.__notes__ == [f"the {durable} items before are durable"]
        assert durable == (10 if wait else 15)
        assert data(ledger) == list(range(durable))
        assert ledger.append("goes on").index == durable + 1
        assert ledger.extend(range(20)) == 20
        assert ledger.validate().valid


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
@pytest.mark.parametrize("background", [1, 10**9])
def test_a_disk_that_fails_says_what_is_durable(path: Path, failing: int, background: int) -> None:
    pulled = 0

    def values() -> Iterator[int]:
        nonlocal pulled
        for i in range(100):
            pulled += 1
            yield i

    with batches_of(10, background=background), Ledger.open(path) as ledger:
        append, calls = ledger._store.append, 0

        def fails(segment: Segment, keys: Any, erase: int | None = None) -> None:
            nonlocal calls
            calls += 1
            if calls == failing + 1:
                raise OutcomeUnknownError("the disk")
            append(segment, keys)

        with patch.object(ledger._store, "append", fails):
            with pytest.raises(OutcomeUnknownError) as error:
                ledger.extend(values())
            assert error.value.durable == failing * 10
            assert calls == failing + 1, "more was written after what failed"
            assert pulled <= (failing + 2) * 10
        assert data(ledger) == list(range(failing * 10))
        require_no_threads()
        assert ledger.extend(range(30)) == 30
        assert ledger.validate().valid


def test_a_disk_that_fails_for_the_last_batch_is_not_passed_over(ledger: Ledger) -> None:
    def broken(segment: Segment, keys: Any, erase: int | None = None) -> None:
        raise OutcomeUnknownError("the disk")

    def gives_up() -> Iterator[int]:
        yield from range(10)
        time.sleep(0.2)
        raise ConnectionError("the source went away, too")

    with batches_of(10), patch.object(ledger._store, "append", broken):
        for values in (iter(range(10)), gives_up(), iter([*range(10), math.nan])):
            with pytest.raises(OutcomeUnknownError) as error:
                ledger.extend(values)
            assert error.value.durable == 0
    assert len(ledger) == 1
    require_no_threads()


# On both sides of a fork


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; return its exit status, or that of the alarm that ends it."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        with suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1]


def test_a_child_does_not_wait_for_a_thread_that_has_not_come_along(path: Path) -> None:
    began = threading.Event()
    statuses: list[int] = []

    def use() -> None:
        with pytest.raises(UsageError, match="open it again in this one"):
            own.append("child")
        with pytest.raises(UsageError, match="open it again in this one"):
            own.extend(range(50))
        own.close()

    def values() -> Iterator[int]:
        for i in range(30):
            if i == 15:
                began.wait()
                statuses.append(in_child(use))
            yield i

    with batches_of(10), slow_commits(0.3, began), Ledger.open(path) as own:
        assert own.extend(values()) == 30
        with own._writer.own_turn():
            thread = threading.Thread(target=lambda: own.append("waits"))
            thread.start()
            statuses.append(in_child(use))
        thread.join()
        assert statuses == [0, 0]
        assert data(own) == [*range(30), "waits"]
        assert own.validate().valid


def test_a_ledger_in_memory_goes_on_in_a_child() -> None:
    def use() -> None:
        assert own.append("child").index == 2
        assert own.extend(range(50)) == 50
        assert own.validate().valid

    with batches_of(10), Ledger.in_memory() as own:
        own.append("parent")
        thread = threading.Thread(target=lambda: own.append("waits"))
        with own._writer.own_turn():
            thread.start()
            assert in_child(use) == 0
        thread.join()
        assert data(own) == ["parent", "waits"]
