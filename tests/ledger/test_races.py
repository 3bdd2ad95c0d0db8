"""Validation beside a writer that appends and seals all the time: never a false failure."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from cairn import Ledger
from cairn.store import stored_runs
from tests.ledger.conftest import files, tiny
from tests.service.harness import until

WRITER = """
import sys
from itertools import count
from cairn import Ledger
from cairn.store import disk

disk.SEAL_BLOCKS = 5
with Ledger.open(sys.argv[1]) as ledger:
    for i in count():
        ledger.extend(range(i % 4)) if i % 3 else ledger.append(i)
"""
"""Writes until it is killed."""


@contextmanager
def writing_thread(path: Path) -> Iterator[Ledger]:
    """Yield a ledger that another thread writes to."""
    over = threading.Event()

    def write() -> None:
        for i in count():
            if over.is_set():
                return
            ledger.append(i) if i % 3 else ledger.extend(range(i % 7))

    with Ledger.open(path) as ledger:
        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield ledger
        finally:
            over.set()
            thread.join()


@contextmanager
def writing_process(path: Path) -> Iterator[Ledger]:
    """Yield a reader of a ledger that another process writes to."""
    Ledger.open(path).close()
    process = subprocess.Popen([sys.executable, "-c", WRITER, path])
    try:
        with Ledger.open(path, read_only=True) as ledger:
            yield ledger
    finally:
        process.kill()
        process.wait()


def validate_for(seconds: float, ledger: Ledger, executor: Executor) -> int:
    """Validate in every way, over and over; return how many runs there were."""
    deadline, runs = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        length = len(ledger)
        for report in (
            ledger.validate(all=True, executor=executor),
            ledger.validate(start=length // 2, executor=executor),
            ledger.validate(incremental=True, executor=executor),
            ledger.validate(start=len(ledger), executor=executor),
        ):
            assert report.valid, report.failures
        assert ledger.validate(executor=executor).blocks >= length
        runs += 1
    return runs


def append(ledger: Ledger) -> None:
    ledger.append("meanwhile")


def seal(ledger: Ledger) -> None:
    ledger.extend(range(6))


def seal_twice_and_append(ledger: Ledger) -> None:
    seal(ledger)
    seal(ledger)
    append(ledger)


def append_and_seal(ledger: Ledger) -> None:
    append(ledger)
    seal(ledger)


LOOKS = ("head", "end", "begin", "sealed", "scan")
"""Of a tail, beside those at its runs."""


def validate_and(act: Callable[[Ledger], None], k: int, path: Path, **options: Any) -> int:
    """Validate a new ledger whose writer does `act` before the k-th look; return how many were."""
    looks = 0

    def look(at: Callable[..., Any], *given: Any, **others: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == k:
            act(writer)
        return at(*given, **others)

    glob = Path.glob
    with ExitStack() as stack:
        writer = stack.enter_context(Ledger.open(path))
        for _ in range(9):
            append(writer)
        reader = stack.enter_context(Ledger.open(path, read_only=True))
        tail = reader._store._tail  # type: ignore[attr-defined]
        for what, name in [*((tail, name) for name in LOOKS), (tail._runs, "next")]:
            stack.enter_context(patch.object(what, name, partial(look, getattr(what, name))))
        stack.enter_context(patch.object(Path, "glob", lambda *given: look(glob, *given)))
        report = reader.validate(**options)
    assert report.valid, (k, options, report.failures)
    return looks


@pytest.mark.parametrize("act", [append, seal, append_and_seal, seal_twice_and_append])
@pytest.mark.parametrize("options", [{"all": True}, {"start": 8}, {"incremental": True}])
def test_whatever_is_written_between_any_two_looks_finds_no_fault(
    tmp_path: Path, act: Callable[[Ledger], None], options: dict[str, Any]
) -> None:
    """At a row, the manifest or the names of files: the writer comes in before each in turn."""
    with tiny(seal=5), patch.object(stored_runs, "SCAN_BLOCKS", 1):
        for k in count(1):
            if validate_and(act, k, tmp_path / str(k), **options) < k:
                break
        assert k > 8


@pytest.mark.parametrize("writing", [writing_thread, writing_process])
@pytest.mark.parametrize("seconds", [1, pytest.param(120, marks=pytest.mark.soak)])
def test_a_run_beside_a_writer_finds_no_fault(
    tmp_path: Path, writing: Callable[[Path], AbstractContextManager[Ledger]], seconds: float
) -> None:
    with tiny(seal=5), ThreadPoolExecutor(2) as executor:
        path = tmp_path / "ledger"
        with writing(path) as ledger:
            until(lambda: len(ledger) > 60)
            before = len(ledger)
            assert validate_for(seconds, ledger, executor) > 0
            assert len(ledger) > before
        assert len(files(path)) > 5
        with Ledger.open(path, read_only=True) as ledger:
            assert ledger.validate(all=True).valid
