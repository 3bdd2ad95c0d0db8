"""The queue between an application and its ledger: full, failing, flushed, closed."""

from __future__ import annotations

import asyncio
import gc
import logging
import logging.handlers
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import cairn.logging.handler
import cairn.logging.queue
from cairn import Genesis, Ledger, Limits, LockedError, OutcomeUnknownError, UsageError
from cairn.core.block import rfc3339
from cairn.logging import LedgerHandler, Target
from tests.logs.targets import Failing, Gated, Memory, Talking, recorded

Attach = Callable[..., tuple[logging.Logger, LedgerHandler]]


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Return a function that gives a target a handler, and a logger that has it."""
    made: list[LedgerHandler] = []

    def attached(target: Target, **options: Any) -> tuple[logging.Logger, LedgerHandler]:
        handler = LedgerHandler(target, **options)
        made.append(handler)
        logger = logging.Logger("test")
        logger.addHandler(handler)
        return logger, handler

    yield attached
    for handler in made:
        handler.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cairn.logging.handler, "FIRST_PAUSE_SECONDS", 0.001)


def fill(logger: logging.Logger, target: Gated, count: int) -> None:
    """Log `count` records, of which the first is being recorded when the second comes."""
    logger.info("0")
    assert target.reached.wait(10)
    for number in range(1, count):
        logger.info("%d", number)


def texts(count: int) -> list[str]:
    return [str(number) for number in range(count)]


# Order, batches, flush


def test_all_is_recorded_once_in_order(attach: Attach) -> None:
    target = Memory()
    logger, handler = attach(target)
    for number in range(3000):
        logger.info("%d", number)
    assert handler.flush()
    assert target.messages == texts(3000)
    assert len(set(target.keys)) == len(target.keys)


def test_what_comes_while_the_ledger_is_busy_is_recorded_together(attach: Attach) -> None:
    target = Gated()
    logger, handler = attach(target)
    fill(logger, target, 2501)
    target.gate.set()
    assert handler.flush()
    assert target.messages == texts(2501)
    assert len(target.keys) == 4  # the first, two full batches, and the rest


def test_a_batch_is_not_too_large_for_a_node(attach: Attach) -> None:
    target = Gated()
    logger, handler = attach(target)
    fill(logger, target, 1)
    for _ in range(10):
        logger.info("x" * 400_000)
    target.gate.set()
    assert handler.flush()
    assert len(target.keys) == 1 + 4  # three make more than a MiB
    assert len(target.values) == 11


def test_flush_says_whether_all_is_durable(attach: Attach) -> None:
    target = Gated()
    logger, handler = attach(target)
    assert handler.flush(0)
    fill(logger, target, 2)
    assert not handler.flush(0.05)
    target.gate.set()
    assert handler.flush(None)
    assert target.messages == ["0", "1"]


def test_flush_does_not_wait_for_what_comes_after(attach: Attach) -> None:
    target = Gated(once=True)
    logger, handler = attach(target)
    fill(logger, target, 1)

    def go_on() -> None:
        logger.info("after")
        target.gate.set()  # for what came before

    threading.Timer(0.2, go_on).start()
    assert handler.flush(5)
    target.gate.set()
    assert handler.flush(5)


# Overload


def test_a_gap_is_recorded_where_records_are_missing(attach: Attach) -> None:
    target = Gated()
    logger, handler = attach(target, capacity=2, wait=0)
    fill(logger, target, 3)
    before = time.time_ns() // 1000
    logger.info("dropped")
    logger.info("dropped")
    assert handler.dropped == 2
    target.gate.set()
    assert handler.flush()
    logger.info("3")
    assert handler.flush()
    *first, gap, last = target.values
    assert [value["message"] for value in first] == texts(3)
    assert (gap["dropped"], gap["level"], gap["logger"]) == (2, "ERROR", "cairn.logging")
    assert gap["message"] == "records dropped: there was no room for them"
    assert rfc3339(before) <= gap["since"] <= gap["time"]
    assert last["message"] == "3"


def test_a_queue_of_large_entries_is_full_too(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cairn.logging.queue, "QUEUE_BYTES", 1500)
    target = Gated()
    logger, handler = attach(target, wait=0)
    fill(logger, target, 1)
    for _ in range(10):
        logger.info("x" * 900)
    assert handler.dropped == 8
    target.gate.set()
    assert handler.flush()
    for _ in range(10):
        logger.info("x" * 900)
        assert handler.flush()
    assert (len(target.messages), target.gaps) == (1 + 2 + 10, [8])


@pytest.mark.parametrize("wait", [0, 0.002])
def test_under_overload_every_record_is_either_there_or_counted(
    attach: Attach, wait: float
) -> None:
    target = Gated()
    logger, handler = attach(target, capacity=20, wait=wait)
    threads, each = 8, 300

    def log(thread: int) -> None:
        for number in range(each):
            logger.info("%d %d", thread, number)

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(log, thread) for thread in range(threads)]
        while not all(future.done() for future in running):
            target.gate.set()
            time.sleep(0.001)
            target.gate.clear()
            time.sleep(0.005)
    target.gate.set()
    assert handler.flush()
    assert handler.dropped > 0
    assert sum(target.gaps) == handler.dropped
    assert len(target.messages) + handler.dropped == threads * each
    for thread in range(threads):
        pairs = [tuple(map(int, message.split())) for message in target.messages]
        numbers = [number for own, number in pairs if own == thread]
        assert numbers == sorted(set(numbers))


def test_a_full_queue_waits_for_room(attach: Attach) -> None:
    target = Gated()
    logger, handler = attach(target, capacity=1, wait=10)
    fill(logger, target, 2)
    threading.Timer(0.05, target.gate.set).start()
    logger.info("2")
    assert handler.flush()
    assert (handler.dropped, target.messages) == (0, texts(3))


def test_threads_do_not_wait_for_room_one_after_the_other(attach: Attach) -> None:
    target = Gated()
    logger, handler = attach(target, capacity=1, wait=0.2)
    fill(logger, target, 2)
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(logger.info, texts(16)))
    assert time.monotonic() - began < 16 * 0.2 / 2
    assert handler.dropped == 16
    target.gate.set()


def test_an_event_loop_is_not_blocked_for_longer_than_it_may(attach: Attach) -> None:
    target = Gated()
    logger, handler = attach(target, capacity=5, wait=0.05)
    longest = 0.0

    async def serve() -> None:
        nonlocal longest
        for number in range(20):
            began = time.monotonic()
            logger.info("%d", number)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0)

    asyncio.run(serve())
    assert 0.05 <= longest < 1
    target.gate.set()
    assert handler.flush()
    assert len(target.messages) + handler.dropped == 20


# Failures


@pytest.mark.parametrize("records", [False, True], ids=["nothing written", "written all the same"])
@pytest.mark.parametrize("error", [OSError(28, "no space left"), OutcomeUnknownError("who knows")])
def test_what_fails_is_tried_again_with_the_same_key(
    attach: Attach, capsys: pytest.CaptureFixture[str], error: Exception, records: bool
) -> None:
    target = Failing([error] * 5, records=records)
    logger, handler = attach(target)
    logger.info("0")
    assert handler.flush()
    logger.info("1")
    assert handler.flush()
    assert target.messages == ["0", "1"]
    assert [target.keys.count(key) for key in dict.fromkeys(target.keys)] == [6, 1]
    reports = capsys.readouterr().err.count("Message: 'log entries cannot be recorded yet")
    assert reports == 1  # not one for each try


def test_recording_goes_on_when_the_report_of_an_error_fails(attach: Attach) -> None:
    target = Failing([OSError()])
    logger, handler = attach(target)

    def strict(record: logging.LogRecord) -> None:
        raise RuntimeError(record.msg)

    handler.handleError = strict  # type: ignore[method-assign]
    logger.info("0")
    assert handler.flush()
    assert target.messages == ["0"]


def test_pauses_grow_between_tries(attach: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(cairn.logging.handler, "LONGEST_PAUSE_SECONDS", 0.02)
    pauses: list[float] = []
    monkeypatch.setattr(cairn.logging.queue.Queue, "pause", lambda _, s: pauses.append(s))
    logger, handler = attach(Failing([OSError()] * 8))
    logger.info("0")
    assert handler.flush()
    assert pauses == [0.001, 0.002, 0.004, 0.008, 0.016, 0.02, 0.02, 0.02]


def test_one_refused_entry_does_not_keep_the_others_out(attach: Attach) -> None:
    ledger = Ledger.in_memory(Genesis(limits=Limits(size=1000, depth=4)))
    logger, handler = attach(ledger)
    for number in range(50):
        logger.info("%d", number, extra={"user": "alice", "body": "x" * (1000 * (number == 20))})
        logger.info("deep", extra={"user": "bob", "deep": [[[number]]]} if number == 30 else {})
    assert handler.flush()
    entries = recorded(ledger)
    assert [entry["message"] for entry in entries] == [
        text for number in range(50) for text in (str(number), "deep")
    ]
    assert [at for at, entry in enumerate(entries) if "truncated" in entry] == [40, 61]
    assert entries[40]["extra"]["user"] == "alice"  # only what is too long is cut
    assert entries[40]["extra"]["body"] == "x" * 256 + "… (1000 characters)"
    assert entries[61]["extra"]["user"] == "bob"
    assert handler.dropped == 0


def test_what_the_ledger_refuses_in_any_form_is_a_gap(attach: Attach) -> None:
    ledger = Ledger.in_memory(Genesis(limits=Limits(size=260)))
    logger, handler = attach(ledger)
    logger.info("before")
    logger.info("a" * 100, exc_info=OSError("b" * 100), extra={"c" * 50: "d" * 100})
    logger.info("after")
    assert handler.flush()
    first, gap, last = recorded(ledger)
    assert (first["message"], last["message"]) == ("before", "after")
    assert gap["dropped"] == handler.dropped == 1
    assert gap["message"].startswith("records dropped: refused, ")


def test_what_cannot_be_recorded_at_all_is_reported(
    attach: Attach, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger.in_memory(Genesis(limits=Limits(size=130)))
    logger, handler = attach(ledger)
    logger.info("hello" * 100)
    assert handler.flush()
    assert recorded(ledger) == []
    assert "an entry is not recorded at all" in capsys.readouterr().err


# Close


def test_close_records_what_is_queued_and_then_lets_nothing_in(
    attach: Attach, capsys: pytest.CaptureFixture[str]
) -> None:
    target = Gated()
    logger, handler = attach(target)
    fill(logger, target, 100)
    threading.Timer(0.05, target.gate.set).start()
    handler.close()
    assert target.messages == texts(100)
    assert not target.closed  # it belongs to the application
    assert capsys.readouterr().err == ""
    logger.info("too late")
    assert "UsageError: the handler is closed" in capsys.readouterr().err
    handler.close()


def test_close_reports_what_it_could_not_record(
    attach: Attach, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cairn.logging.queue, "FLUSH_SECONDS", 0.1)
    logger, handler = attach(Failing(OSError(5, "I/O error") for _ in iter(int, 1)))
    for _ in range(7):
        logger.info("x")
    handler.close()
    assert "StoreError: 7 log entries are not known to be recorded" in capsys.readouterr().err
    assert handler._worker is not None
    assert not handler._worker.is_alive()


def test_at_exit_flush_and_close_do_not_wait_twice(
    attach: Attach, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cairn.logging.handler, "STOP_SECONDS", 0.05)
    monkeypatch.setattr(cairn.logging.queue, "FLUSH_SECONDS", 1.0)
    target = Gated()
    logger, handler = attach(target)
    fill(logger, target, 3)
    assert not handler.flush(1.0)
    began = time.monotonic()
    handler.close()
    assert time.monotonic() - began < 0.9
    assert "3 log entries are not known to be recorded" in capsys.readouterr().err
    target.gate.set()


def test_a_ledger_that_was_opened_here_is_closed_here(tmp_path: Path) -> None:
    handler = LedgerHandler(tmp_path / "audit.cairn")
    with pytest.raises(LockedError):
        LedgerHandler(str(tmp_path / "audit.cairn"))
    handler.close()
    with Ledger.open(tmp_path / "audit.cairn") as ledger:
        own = LedgerHandler(ledger)
        own.close()
        ledger.append("still open")


def test_a_queue_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match="capacity of at least 1, found 0"):
        LedgerHandler(Memory(), capacity=0)


def test_an_application_never_sees_an_error(
    attach: Attach, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, handler = attach(Memory())
    monkeypatch.setattr(cairn.logging.handler, "entry_of", lambda *_: 1 / 0)
    logger.info("hello")
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert handler.flush()


# Feedback


@pytest.fixture
def talker() -> Iterator[logging.Logger]:
    logger = logging.Logger("httpx")
    yield logger
    for handler in logger.handlers:
        handler.close()


def test_what_the_recording_thread_logs_is_not_recorded(talker: logging.Logger) -> None:
    target = Talking(lambda: talker.info("a request was made"))
    handler = LedgerHandler(target)
    talker.addHandler(handler)
    for number in range(100):
        talker.info("%d", number)
    assert handler.flush()
    time.sleep(0.05)  # it would go on by itself
    assert target.messages == texts(100)


def test_two_handlers_do_not_feed_each_other(talker: logging.Logger) -> None:
    targets = [Talking(lambda: talker.info("a request was made")) for _ in range(2)]
    handlers = [LedgerHandler(target) for target in targets]
    for handler in handlers:
        talker.addHandler(handler)
    talker.info("0")
    assert all(handler.flush() for handler in handlers)
    time.sleep(0.05)
    assert [target.messages for target in targets] == [["0"], ["0"]]


def test_nor_does_one_behind_a_queue_feed_itself(talker: logging.Logger) -> None:
    target = Talking(lambda: talker.info("a request was made"))
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = LedgerHandler(target)
    listener = logging.handlers.QueueListener(records, handler)
    listener.start()
    talker.addHandler(logging.handlers.QueueHandler(records))
    talker.info("0")
    time.sleep(0.1)
    listener.stop()
    handler.close()
    assert target.messages == ["0"]


def test_a_record_of_another_process_s_thread_is_no_feedback(attach: Attach) -> None:
    target = Memory()
    logger, handler = attach(target)
    worker = handler._worker
    assert worker is not None
    record = logging.makeLogRecord({"levelno": 20, "msg": "ours", "thread": worker.ident})
    record.process = os.getpid()
    logger.handle(record)
    record.msg, record.process = "another's", os.getpid() + 1
    logger.handle(record)
    assert handler.flush()
    assert target.messages == ["another's"]


def test_a_finalizer_that_logs_may_come_at_any_time(attach: Attach) -> None:
    """Whatever thread a garbage collection interrupts, which may hold the lock of the queue."""
    target = Memory()
    logger, handler = attach(target)

    class Resource:
        def __del__(self) -> None:
            logger.info("not closed")

    for _ in range(200):
        cycle: list[object] = [Resource()]
        cycle.append(cycle)
        del cycle
        logger.info("step")
        logger.info("step", extra={"resource": Resource()})
    gc.collect()
    assert handler.flush()
    assert target.messages.count("step") == 400
