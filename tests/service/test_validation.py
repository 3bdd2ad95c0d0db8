"""Validation beside the node: it never stops appends, and never answers for what was before."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from cairn import Ledger
from cairn.core.errors import StoreError
from cairn.lab.tampering import tamper
from cairn.node.validator import REPORT_BYTES, SAID_BYTES, Progress, Validator
from cairn.report import Report
from tests.service.harness import (
    PATIENCE,
    ROOT,
    STOP_SECONDS,
    Answer,
    Client,
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


SLOW: Final = """
import os, sys, time

def opened(path, *others, **options):
    if str(path).endswith(".segment"):
        time.sleep(0.1)
    return open_(path, *others, **options)

open_, os.open = os.open, opened
"""
"""Python runs this before anything else: no file opens at once."""
NO_KERNEL: Final = 'sys.modules["cairn.hashing._lanes"] = None'


def of_many_files(path: Path) -> Path:
    """Make a ledger of 17 blocks, nearly each in a file of its own."""
    with Ledger.open(path) as ledger:
        for _ in range(16):
            ledger._store._room = (0, 0)  # type: ignore[attr-defined]  # seal with each append
            ledger.append("x")
    assert len(list((path / "segments").iterdir())) == 16
    return path


def first_run(directory: Path, program: str) -> dict[str, str]:
    """Return an environment in which Python runs `program` before anything else."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(program)
    paths = [str(directory), str(ROOT), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture
def slow(memory_path: Path) -> tuple[Path, dict[str, str]]:
    """A ledger of many files, and an environment in which it is validated by slow processes."""
    path = of_many_files(memory_path / "ledger")
    return path, first_run(memory_path / "slow", SLOW + NO_KERNEL)


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


# Watching


class Watcher(Client):
    """A connection that watches a validation."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.send("GET", "/validate/events")
        status, headers = self.receive_head()
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        self._messages = self._read()
        assert next(self._messages) == ": watching"

    def events(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and the value of what comes, to the proper end."""
        for message in self._messages:
            name, data = message.split("\n")
            yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def last(self) -> tuple[str, Any]:
        """Return what comes last."""
        *_, last = self.events()
        return last

    def _read(self) -> Iterator[str]:
        rest = ""
        for chunk in self.chunks():
            *whole, rest = (rest + chunk.decode()).split("\n\n")
            yield from whole
        assert rest == ""


@contextmanager
def watching(server: Server, count: int) -> Iterator[list[Watcher]]:
    """Yield so many who watch the same run, which has begun."""
    watchers = [Watcher(server.port) for _ in range(count)]
    try:
        until(server.validations)
        yield watchers
    finally:
        for watcher in watchers:
            watcher.close()


def test_who_watches_is_told_how_far_it_is_and_then_the_report(tmp_path: Path) -> None:
    path = of_many_files(tmp_path / "ledger")
    environment = first_run(tmp_path / "slow", SLOW)
    with running(start(path, environment=environment)) as server:
        with Watcher(server.port) as watcher:
            events = list(watcher.events())
        assert [name for name, _ in events[:-1]] == ["progress"] * (len(events) - 1)
        told = [value for _, value in events[:-1]]
        assert all(value.keys() == {"blocks", "of", "bytes", "seconds"} for value in told)
        for member in ("blocks", "bytes", "seconds"):
            assert sorted({value[member] for value in told}) == [value[member] for value in told]
        assert len(told) > 2, "it has hardly moved"
        assert {value["of"] for value in told} == {17}
        assert told[0]["blocks"] < told[-1]["blocks"] <= 17
        name, report = events[-1]
        assert name == "report"
        assert (report["valid"], report["blocks"]) == (True, 17)
        assert report.keys() == server.get("/validate").value.keys()


def test_all_who_watch_see_the_run_that_is_under_way(tmp_path: Path) -> None:
    environment, gate = hold_validation(tmp_path)
    server = start(tmp_path / "ledger", environment=environment)
    with running(server), ThreadPoolExecutor(2) as pool:
        asked = pool.submit(server.get, "/validate")
        (process,) = until(server.validations)
        with watching(server, 5) as watchers:
            later = pool.submit(server.get, "/validate")
            until(lambda: b"cairn_connections 8.0" in server.get("/metrics").body)
            assert server.validations() == [process]
            gate.touch()
            for watcher in watchers:
                assert watcher.last() == ("report", asked.result(PATIENCE).value)
        assert later.result(PATIENCE).body != asked.result().body, (
            "it was answered by what was before"
        )


def test_who_watches_may_go_and_the_run_goes_on(tmp_path: Path) -> None:
    environment, gate = hold_validation(tmp_path)
    with running(start(tmp_path / "ledger", environment=environment)) as server:
        with watching(server, 2):
            (process,) = server.validations()
        with watching(server, 1) as (watcher,):
            assert server.validations() == [process]
            gate.touch()
            assert watcher.last()[1]["valid"]
        until(lambda: b"cairn_valid 1.0" in server.get("/metrics").body)


def test_a_stop_lets_go_who_watches(tmp_path: Path) -> None:
    environment, _ = hold_validation(tmp_path)
    with (
        running(start(tmp_path / "ledger", environment=environment)) as server,
        watching(server, 2) as watchers,
    ):
        assert server.stop() < STOP_SECONDS
        for watcher in watchers:
            name, problem = watcher.last()
            assert (name, problem["detail"]) == ("failed", "the node is stopping")


def test_who_watches_a_run_that_is_killed_is_told_so_and_may_start_another(tmp_path: Path) -> None:
    environment, gate = hold_validation(tmp_path)
    server = start(tmp_path / "ledger", environment=environment)
    with running(server, may_log=True):
        with watching(server, 1) as (watcher,):
            (process,) = server.validations()
            os.kill(process, signal.SIGKILL)
            name, problem = watcher.last()
            assert (name, problem["status"]) == ("failed", 503)
        gate.touch()
        with Watcher(server.port) as watcher:
            assert watcher.last()[0] == "report"


def test_who_watches_sees_which_block_was_tampered_with(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(range(300))
    change(path, 123)
    with running(start(path), unsigned=True) as server, Watcher(server.port) as watcher:
        name, report = watcher.last()
        assert (name, report["failed_block"]) == ("report", 123)


def test_no_other_page_can_have_a_browser_watch(tmp_path: Path) -> None:
    headers = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    with running(start(tmp_path / "ledger")) as server, server.client() as client:
        for path in ("/validate", "/validate?run=true", "/validate/events"):
            assert client.get(path, headers).problem() == "forbidden"
        assert not server.validations()


RAVING: Final = """
import os, sys, time

def say(path, to):
    with open(path, "rb") as file:
        text = file.read()
    while text:
        text = text[os.write(to, text):]

if "validate" in sys.orig_argv:
    for place in range({count}):
        say(f"{directory}/{{place}}", 2)
        time.sleep(0.5)  # so that it is seen
    say("{directory}/report", 1)
    os._exit(0)
"""
"""Python runs this in place of a validation."""
VALID: Final = b'{"valid": true, "execution_time": 1.5, "blocks": 7, "bytes": 9}'


def watched(
    directory: Path, said: Sequence[bytes], report: bytes, monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    """Return what one is told who watches a process that says such things, and such a report.

    One who watches the next run is told the same.
    """
    folder = directory / "program"
    program = RAVING.format(count=len(said), directory=folder)
    for name, value in first_run(folder, program).items():
        monkeypatch.setenv(name, value)
    (folder / "report").write_bytes(report)
    for place, text in enumerate(said):
        (folder / str(place)).write_bytes(text)

    async def watch() -> list[Any]:
        validator = Validator(directory / "ledger", directory)
        first = [found async for found in validator.watch(seconds=60)]
        assert [found async for found in validator.watch(seconds=60)] == first
        return first

    return asyncio.run(watch())


def test_a_process_that_raves_is_told_apart_from_what_it_says_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = b'{"blocks": 1, "of": 7, "bytes": 2, "seconds": 0.5}\n'
    ravings = [
        b"x" * 200_000 + b"\n" * 5000,
        b"\xff\x00{\n{}\nnull\n[]\n" + b"[" * 50_000 + b"\n",
        line.replace(b"1,", b"-1,"),
        line.replace(b"1,", b"true,"),
        line.replace(b"0.5", b"1e999"),
        line.replace(b"0.5", b"NaN"),
        line.replace(b"0.5", b'"0.5"'),
        line.replace(b"7", b"9" * 4000),
        line.replace(b"7", b"%d" % 2**63),
    ]
    raving = b"".join(ravings)
    said = [raving + line.replace(b"7", b"null"), line + raving]
    assert watched(tmp_path, said, VALID, monkeypatch) == [
        Progress(1, None, 2, 0.5),
        Progress(1, 7, 2, 0.5),
        Report(valid=True, blocks=7, bytes=9, seconds=1.5, failures=()),
    ]


def test_who_watches_a_run_that_says_nothing_is_told_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger.open(tmp_path / "ledger").close()
    environment, gate = hold_validation(tmp_path)
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])

    async def watch() -> list[Any]:
        validator = Validator(tmp_path / "ledger", tmp_path)
        found: list[Any] = []
        async for one in validator.watch(seconds=0.2):
            found.append(one)
            if len(found) == 3:
                assert validator.is_running
                gate.touch()
        assert not validator.is_running
        assert validator.last is not None
        assert found[-1] == validator.last.report
        return found

    assert asyncio.run(watch())[:3] == [None, None, None]


@pytest.mark.parametrize(
    "report",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 50_000,
        b"\xff",
        VALID.replace(b"true", b'"yes"'),
        VALID.replace(b"7", b"7.5"),
        VALID.replace(b"1.5", b"NaN"),
        VALID[:-1] + b', "failure": {"index": 1}}',
        VALID[:-1] + b', "failure": "x"}',
        b" " * REPORT_BYTES + VALID,
    ],
    ids=range(12),
)
def test_what_is_no_report_is_no_verdict_and_the_reason_given_is_short(
    report: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [b"no\n" * 10_000 + b"no " * 100_000 + b"the reason"]
    with pytest.raises(StoreError, match=r"came to no verdict: .* the reason$") as caught:
        watched(tmp_path, said, report, monkeypatch)
    assert len(str(caught.value)) < SAID_BYTES + 100
