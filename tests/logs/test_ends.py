"""However a process ends: what is in the ledger of what it logged."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from cairn import Ledger
from tests.logs.processes import assert_all_recorded, numbers, run, start
from tests.logs.programs import COUNT
from tests.logs.targets import recorded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def entries(path: Path) -> list[object]:
    with Ledger.open(path) as ledger:
        return recorded(ledger)


@pytest.mark.parametrize(
    ("program", "code", "threads"),
    [
        ("exit_by_exception", 1, ["main"]),
        ("exit_with_a_thread", 0, ["main", "later"]),
        ("exit_with_a_callback", 0, ["callback"]),
        ("exit_with_a_slow_disk", 0, ["main"]),
        ("exit_from_a_multiprocessing_child", 0, ["child"]),
    ],
)
def test_at_exit_everything_is_recorded(
    path: Path, program: str, code: int, threads: list[str]
) -> None:
    said = run(program, path)
    assert said.code == code
    assert said.last == dict.fromkeys(threads, COUNT - 1)
    assert "Logging error" not in said.errors
    assert numbers(entries(path)) == {name: list(range(COUNT)) for name in threads}


def test_a_disk_that_is_full_for_a_while_loses_nothing(path: Path) -> None:
    said = run("exit_after_a_full_disk", path)
    assert said.code == 0, said.errors
    assert said.errors.count("Message: 'log entries cannot be recorded yet, and wait'") == 1
    assert numbers(entries(path)) == {"before": [0], "main": list(range(COUNT))}


def test_daemon_threads_are_told_when_it_is_too_late(path: Path) -> None:
    said = run("exit_while_others_log", path)
    assert said.code == 0
    found = numbers(entries(path))
    assert all(found[thread] == list(range(len(found[thread]))) for thread in "ab")
    lost = sum(said.last[thread] + 1 - len(found[thread]) for thread in "ab")
    assert lost <= said.errors.count("UsageError: the handler is closed")


@pytest.mark.parametrize(
    ("program", "signals"),
    [
        ("logs_in_all_threads", 3),
        ("logs_while_main_sleeps", 1),
        ("logs_while_main_joins", 1),
        ("logs_while_main_appends", 1),
        ("logs_into_a_full_queue", 1),
        ("logs_from_signal_handlers", 1),
    ],
)
def test_sigterm_ends_a_process_with_every_record_of_a_call_that_returned(
    path: Path, program: str, signals: int
) -> None:
    running = start(program, path)
    running.read_until("handler" if program == "logs_from_signal_handlers" else "a")
    time.sleep(0.15)  # so that it is amidst of it
    said = running.kill(*[signal.SIGTERM] * signals, pause=0.02)
    assert said.code == -signal.SIGTERM
    assert_all_recorded(said, entries(path))
    assert not said.errors


def test_sigterm_finds_what_is_queued_by_a_process_that_is_idle(path: Path) -> None:
    running = start("logs_a_little", path)
    while running.last != {"main": COUNT - 1}:
        running.read_until("main")
    said = running.kill(signal.SIGTERM)
    assert said.code == -signal.SIGTERM
    assert numbers(entries(path)) == {"main": list(range(COUNT))}


def test_sigterm_has_all_handlers_record(path: Path) -> None:
    running = start("logs_into_two", path)
    running.read_until("main")
    time.sleep(0.25)
    said = running.kill(signal.SIGTERM)
    assert said.code == -signal.SIGTERM
    assert_all_recorded(said, entries(path))
    assert_all_recorded(said, entries(path.with_name("ledger-second")))


@pytest.mark.parametrize("program", ["handles_the_signal_itself", "handles_the_signal_later"])
def test_an_application_s_own_handler_of_sigterm_is_not_interfered_with(
    path: Path, program: str
) -> None:
    running = start(program, path)
    while running.last != {"main": COUNT - 1}:
        running.read_until("main")
    assert running.kill(signal.SIGTERM).code == 7
    assert numbers(entries(path)) == {"main": list(range(COUNT))}


def test_sigterm_is_handled_only_where_and_while_it_may_be(path: Path) -> None:
    said = run("looks_at_the_signal", path)
    assert said.code == 0, said.errors


def test_sigterm_does_not_wait_forever(path: Path) -> None:
    running = start("never_gets_it_recorded", path)
    while running.last != {"main": COUNT - 1}:
        running.read_until("main")
    began = time.monotonic()
    assert running.kill(signal.SIGTERM).code == -signal.SIGTERM
    assert time.monotonic() - began < 20
    assert entries(path) == []


def test_what_was_flushed_survives_a_sigkill(path: Path) -> None:
    running = start("flushes_and_goes_on", path)
    running.read_until("flushed")
    running.read_until("after")
    assert running.kill(signal.SIGKILL).code == -signal.SIGKILL
    found = numbers(entries(path))
    assert found.pop("main") == list(range(COUNT))
    assert all(some == list(range(len(some))) for some in found.values())


def test_a_forked_child_neither_hangs_nor_writes_through_the_parent_s_ledger(path: Path) -> None:
    said = run("forks", path)
    assert said.code == 0
    assert said.errors.count("before a fork") == 20
    assert numbers(entries(path)) == {"thread": list(range(COUNT)), "main": list(range(20))}


@pytest.mark.parametrize("program", ["forks_and_both_exit", "dies_in_a_forked_child"])
def test_a_forked_child_that_ends_leaves_the_parent_s_ledger_alone(
    path: Path, program: str
) -> None:
    said = run(program, path)
    assert said.code == 0, said.errors
    assert numbers(entries(path)) == {"main": [0, 1]}


def test_it_is_configured_from_a_dictionary_as_often_as_one_likes(path: Path) -> None:
    said = run("is_configured", path)
    assert (said.code, said.errors) == (0, "")
    assert [entry["message"] for entry in entries(path)] == ["<0>", "<1>"]  # type: ignore[index]


def test_a_queue_handler_may_stand_in_front(path: Path) -> None:
    said = run("has_a_queue_in_front", path)
    assert (said.code, said.errors) == (0, "")
    assert numbers(entries(path)) == {"main": list(range(COUNT))}
