"""Validation beside a writer that appends and seals all the time: never a false failure."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path

import pytest

from cairn import Ledger
from tests.ledger.conftest import files, tiny

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


@pytest.mark.parametrize("writing", [writing_thread, writing_process])
@pytest.mark.parametrize("seconds", [2, pytest.param(120, marks=pytest.mark.soak)])
def test_a_run_beside_a_writer_finds_no_fault(
    tmp_path: Path, writing: Callable[[Path], AbstractContextManager[Ledger]], seconds: float
) -> None:
    with tiny(seal=5), ThreadPoolExecutor(2) as executor:
        path = tmp_path / "ledger"
        with writing(path) as ledger:
            before = len(ledger)
            runs = validate_for(seconds, ledger, executor)
            assert len(ledger) > before + 20
        assert runs > 5
        assert len(files(path)) > 5
        with Ledger.open(path, read_only=True) as ledger:
            assert ledger.validate(all=True).valid
