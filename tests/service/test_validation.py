"""Validation beside the node: it never stops appends, and never answers for what was before."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cairn import Ledger
from cairn.lab.tampering import tamper
from tests.service.harness import (
    PATIENCE,
    ROOT,
    STOP_SECONDS,
    Answer,
    Server,
    cairn,
    hold_validation,
    processes,
    running,
    start,
    threads,
    until,
)

SLOWEST = 2.0
"""Seconds that an append may take beside a validation, with other tests on the same cores."""


class Chosen(random.Random):
    """Chooses the block that it is told to."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self._positions = [position]

    def randrange(self, *bounds: Any) -> int:
        return self._positions.pop() if self._positions else super().randrange(*bounds)


def change(directory: Path, position: int) -> None:
    assert tamper(directory, Chosen(position)).index == position


def failed_block(answer: Answer) -> int | None:
    assert answer.status == 200, answer
    report = answer.value
    assert report["valid"] == ("failed_block" not in report)
    return int(report["failed_block"]) if "failed_block" in report else None


def test_appends_go_on_while_a_long_ledger_is_validated(long_ledger: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    shutil.copytree(long_ledger, path)
    took: list[tuple[float, float]] = []
    at_once: list[int] = []
    over = threading.Event()

    def write(server: Server) -> None:
        with server.client() as client:
            while not over.is_set():
                began = time.monotonic()
                assert client.post({"at": began}).status == 201
                took.append((began, time.monotonic() - began))
                over.wait(0.002)

    def count(server: Server) -> None:
        while not over.is_set():
            at_once.append(len(server.validations()))
            over.wait(0.02)

    with running(start(path)) as server:
        with threads(lambda: write(server), 2), threads(lambda: count(server)):
            try:
                until(lambda: len(took) > 50)
                began = time.monotonic()
                with ThreadPoolExecutor(6) as pool:
                    answers = list(pool.map(lambda _: server.get("/validate"), range(6)))
                ended = time.monotonic()
            finally:
                over.set()
        took = [one for one in took if began < one[0] < ended]
        server.stop()
    assert {failed_block(answer) for answer in answers} == {None}
    assert min(answer.value["blocks"] for answer in answers) > 200_000
    assert max(at_once) == 1, "there was more than one validation, or none was seen"
    assert len(took) > 20 * (ended - began), "appends were hardly going on"
    assert max(seconds for _, seconds in took) < SLOWEST
    report = json.loads(cairn("validate", "--json", "--ledger", path).stdout)
    with Ledger.open(path, read_only=True) as ledger:
        assert report["blocks"] == len(ledger) >= 200_001 + len(took)


def test_who_asks_meanwhile_shares_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    environment, gate = hold_validation(tmp_path)
    with running(start(path, environment=environment)) as server, ThreadPoolExecutor(12) as pool:
        first = pool.submit(server.get, "/validate")
        until(server.validations)
        others = [pool.submit(server.get, "/validate") for _ in range(10)]
        with server.client() as client:
            for step in range(20):  # the node goes on
                assert client.post(step).status == 201
        until(lambda: b"cairn_connections 12.0" in server.get("/metrics").body)
        assert len(server.validations()) == 1
        gate.touch()
        shared = {other.result(PATIENCE).body for other in others}
        assert len(shared) == 1
        assert first.result(PATIENCE).body not in shared
        assert json.loads(shared.pop())["blocks"] == 21
        assert server.get("/validate").body != first.result().body


def test_a_change_made_before_the_request_is_seen_though_a_run_has_all_but_ended(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(range(10))
    environment, gate = hold_validation(tmp_path, at_end=True)
    with running(start(path, environment=environment)) as server, ThreadPoolExecutor(2) as pool:
        before = pool.submit(server.get, "/validate")
        until(Path(f"{gate}.reached").exists)
        change(path, 5)
        after = pool.submit(server.get, "/validate")
        until(lambda: b"cairn_connections 3.0" in server.get("/metrics").body)
        gate.touch()
        assert failed_block(before.result(PATIENCE)) is None
        assert failed_block(after.result(PATIENCE)) == 5


@pytest.mark.parametrize(
    "positions", [(300, 100, 0), pytest.param((300, 299, 100, 1, 0), marks=pytest.mark.soak)]
)
def test_a_change_made_before_the_request_is_always_seen(
    positions: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(range(300))
    over = threading.Event()

    def ask(server: Server) -> None:
        while not over.is_set():
            server.get("/validate")

    with running(start(path)) as server:
        assert failed_block(server.get("/validate")) is None
        with threads(lambda: ask(server)), server.client() as client:
            try:
                for position in positions:  # what comes first is named
                    change(path, position)
                    assert failed_block(client.get("/validate")) == position
                    assert client.post("goes on").status == 201
            finally:
                over.set()


def test_a_killed_validation_is_a_problem_and_the_node_lives(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    environment, gate = hold_validation(tmp_path)
    server = start(path, environment=environment)
    with running(server, may_log=True), ThreadPoolExecutor(2) as pool:
        for number in (signal.SIGKILL, signal.SIGTERM):
            asked = pool.submit(server.get, "/validate")
            (process,) = until(server.validations)
            os.kill(process, number)
            answer = asked.result(PATIENCE)
            assert (answer.status, answer.problem()) == (503, "unavailable")
            assert answer.headers["retry-after"]
            with server.client() as client:
                assert client.post("goes on").status == 201
        asked = pool.submit(server.get, "/validate")
        (process,) = until(server.validations)
        waits = pool.submit(server.get, "/validate")
        until(lambda: b"cairn_connections 3.0" in server.get("/metrics").body)
        gate.touch()
        assert failed_block(asked.result(PATIENCE)) is None
        assert failed_block(waits.result(PATIENCE)) is None
        assert "came to no verdict" in server.errors()
        assert server.stop() < STOP_SECONDS


def test_who_asked_may_go_and_the_next_is_answered(tmp_path: Path) -> None:
    environment, gate = hold_validation(tmp_path)
    with running(start(tmp_path / "ledger", environment=environment)) as server:
        for _ in range(5):
            with server.client() as client:
                client.send("GET", "/validate")
                until(server.validations)
        with server.client() as client:
            client.send("GET", "/validate")
            gate.touch()
            assert failed_block(client.receive()) is None
        until(lambda: not server.validations())


SLOW = """
import os, sys, time

def opened(path, *others, **options):
    if str(path).endswith(".segment"):
        time.sleep(0.1)
    return open_(path, *others, **options)

open_, os.open = os.open, opened
sys.modules["cairn.hashing._lanes"] = None
"""
"""Python runs this before anything else: no C kernel is there, and no file opens at once."""


@pytest.fixture
def slow(memory_path: Path) -> tuple[Path, dict[str, str]]:
    """A ledger of many files, and an environment in which it is validated by slow processes."""
    path = memory_path / "ledger"
    with Ledger.open(path) as ledger:
        for _ in range(16):
            ledger._store._room = (0, 0)  # type: ignore[attr-defined]  # seal with each append
            ledger.append("x")
    assert len(list((path / "segments").iterdir())) == 16
    (memory_path / "slow").mkdir()
    (memory_path / "slow" / "sitecustomize.py").write_text(SLOW)
    return path, {"PYTHONPATH": os.pathsep.join([str(memory_path / "slow"), str(ROOT)])}


def below(parent: int) -> set[int]:
    """Return the processes that this one has started, and those that they have."""
    alive = processes()
    found, level = set[int](), {parent}
    while level:
        level = {process for process, above, _ in alive if above in level}
        found |= level
    return found


def gone(started: set[int]) -> bool:
    return not started & {process for process, _, _ in processes()}


@pytest.mark.parametrize(
    ("number", "wait"),
    [
        (signal.SIGTERM, 0.7),
        (signal.SIGKILL, 0.7),
        (signal.SIGINT, 0.7),
        (signal.SIGINT, 0.0),  # while workers begin
    ],
)
def test_processes_that_validate_end_with_the_command(
    slow: tuple[Path, dict[str, str]], number: int, wait: float
) -> None:
    path, environment = slow
    command = [sys.executable, "-m", "cairn", "validate", "--ledger", str(path)]
    with subprocess.Popen(
        command, env=os.environ | environment, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
        until(lambda: len(below(process.pid)) > cores)  # with the one that looks after them
        started = below(process.pid)
        time.sleep(wait)
        if number == signal.SIGINT:  # as a terminal does
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        began = time.monotonic()
        assert process.wait(PATIENCE) == (130 if number == signal.SIGINT else -number)
        until(lambda: gone(started))
        assert time.monotonic() - began < 3 * STOP_SECONDS  # on a machine that is busy
        assert process.stderr is not None
        said = process.stderr.read()
        assert number != signal.SIGINT or said == b"", said


def test_a_node_without_the_kernel_validates_in_processes_and_leaves_none(
    slow: tuple[Path, dict[str, str]],
) -> None:
    path, environment = slow
    with running(start(path, environment=environment)) as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.get, "/validate")
        (process,) = until(server.validations)
        started = until(lambda: below(process))
        assert failed_block(asked.result(PATIENCE)) is None
        until(lambda: gone(started), STOP_SECONDS)
        asked = pool.submit(server.get, "/validate")
        (process,) = until(server.validations)
        until(lambda: len(below(process)) > 1)
        started = below(process)
        assert server.stop() < STOP_SECONDS
        until(lambda: gone(started | {process}), STOP_SECONDS)
        assert asked.result(PATIENCE).status in (200, 503)  # it may just have ended
