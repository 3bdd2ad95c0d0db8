"""Validation beside a writer that erases all the time: never a false failure."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from cairn import Ledger
from cairn.core.segment import Segment
from cairn.ledger import validation
from cairn.ledger.validation import Task, check
from cairn.store import flat
from cairn.store.disk import DiskStore
from cairn.store.flat import Part
from tests import independent
from tests.ledger.conftest import files, tiny

LENGTH = 400
SIZE = 20_000
"""Bytes of most values: several pages, which do not become zero at once."""
ERASER = """
import sys
from cairn import Ledger

with Ledger.open(sys.argv[1]) as ledger:
    print("open", flush=True)
    for i in range(1, int(sys.argv[2])):
        ledger.erase(i * 8 % int(sys.argv[2]), reason="all go")
"""
SECONDS = 0.3
"""How long half an entry is erased."""
SPAWN = get_context("spawn")


def fill(path: Path) -> None:
    with tiny(seal=40), Ledger.open(path) as ledger:
        ledger.extend("x" * SIZE for _ in range(LENGTH // 2))
        ledger.extend("y" * SIZE for _ in range(LENGTH // 2 - 11))
        for i in range(10):
            ledger.append(f"in the tail {i}")
        assert len(ledger) == LENGTH
        assert files(path)


def test_validation_beside_a_process_that_erases_never_calls_it_damage(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    fill(path)
    command = [sys.executable, "-c", ERASER, str(path), str(LENGTH - 1)]
    runs, counts = 0, set()
    with (
        tiny(part=30),
        ThreadPoolExecutor(2) as executor,
        Ledger.open(path, read_only=True) as ledger,
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None or not runs:
            for options in ({"all": True}, {}, {"start": 5}, {"canonical": True}):
                report = ledger.validate(executor=executor, **options)
                assert report.failures == ()
                counts.add(report.erased)
            runs += 1
        assert process.wait() == 0
        assert ledger.validate(all=True).erased == LENGTH - 2
    assert len(counts) > 3
    assert independent.check(path) == []


def test_reading_beside_a_process_that_erases_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    fill(path)
    process = subprocess.Popen([sys.executable, "-c", ERASER, str(path), str(LENGTH - 1)])
    with Ledger.open(path, read_only=True) as ledger:
        while process.poll() is None:
            for block in ledger[1:LENGTH:37]:
                data = block.entries[0].canonical
                assert block.erased or data.strip(b'\0xy"') == b"" or b"tail" in data
    assert process.wait() == 0


@contextmanager
def slowly() -> Iterator[None]:
    """Have half of an entry in a file erased, and a while later the rest."""
    overwrite = flat._overwrite

    def slow(descriptor: int, at: int, size: int) -> None:
        overwrite(descriptor, at, size // 2)
        time.sleep(SECONDS)
        overwrite(descriptor, at, size)

    with patch.object(flat, "_overwrite", slow):
        yield


@pytest.mark.parametrize("options", [{"all": True}, {}, {"canonical": True}, {"start": 3}])
@pytest.mark.parametrize("where", ["threads", "processes"])
def test_an_entry_that_is_half_erased_is_no_damage(
    tmp_path: Path, options: dict[str, bool], where: str
) -> None:
    path = tmp_path / "ledger"
    with tiny(seal=4), Ledger.open(path) as ledger:
        ledger.extend("x" * SIZE for _ in range(9))
    executor: Executor = (
        ThreadPoolExecutor(1) if where == "threads" else ProcessPoolExecutor(1, mp_context=SPAWN)
    )
    found: list[int] = []

    def watch(part: Segment | Part, task: Task) -> Any:
        said = check(part, task)
        found.append(len(said.summary.failures) if isinstance(said, validation.Checked) else 0)
        return said

    with (
        executor,
        Ledger.open(path) as writer,
        Ledger.open(path, read_only=True) as ledger,
        slowly(),
    ):
        list(executor.map(abs, [1]))  # it has begun
        thread = threading.Thread(target=writer.erase, args=(5,), kwargs={"reason": "slowly"})
        thread.start()
        while not writer._store.erasing():
            time.sleep(0.001)
        time.sleep(0.05)
        with patch.object(validation, "check", watch) if where == "threads" else tiny():
            report = ledger.validate(executor=executor, **options)  # type: ignore[arg-type]
        thread.join()
        assert report.failures == ()
        assert report.erased == 1
        assert where == "processes" or sum(found) == 1  # it was seen half erased, once
        assert ledger.validate().erased == 1


def test_an_entry_that_stays_half_erased_is_damage_until_it_is_finished(tmp_path: Path) -> None:
    """A crash in the middle: the next writer goes on, and a validation does not wait for ever."""
    path = tmp_path / "ledger"
    with tiny(seal=4), Ledger.open(path) as ledger:
        ledger.extend("x" * SIZE for _ in range(9))
        salt = ledger[5].entries[0].salt
        with patch.object(DiskStore, "finish_erasing", lambda _: {}):
            ledger.erase(5, reason="slowly")
    file = files(path)[0]
    data = bytearray(file.read_bytes())
    at = data.index(salt)
    data[at : at + SIZE // 2] = bytes(SIZE // 2)
    file.write_bytes(data)
    with (
        patch.object(validation, "ERASING_SECONDS", 0.1),
        Ledger.open(path, read_only=True) as ledger,
    ):
        failure = ledger.validate().failure
        assert failure is not None
        assert (failure.index, failure.rule) == (5, "data_root")
    assert independent.check(path) == [independent.Finding(5, "data_root")]
    Ledger.open(path).close()
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.validate(all=True).erased == 1


def test_changed_entries_are_believed_when_they_are_seen_again(tmp_path: Path) -> None:
    """Damage costs a second look at its part, and no wait where nothing is being erased."""
    path = tmp_path / "ledger"
    with tiny(seal=4), Ledger.open(path) as ledger:
        ledger.extend("x" * 50 for _ in range(9))
    file = files(path)[0]
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with Ledger.open(path, read_only=True) as ledger:
        began = time.monotonic()
        failure = ledger.validate().failure
        assert failure is not None
        assert failure.rule == "data_root"
        assert time.monotonic() - began < validation.ERASING_SECONDS / 2
