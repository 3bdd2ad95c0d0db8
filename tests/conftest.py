"""What every test shares."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from cairn import Ledger, Report
from cairn.store.disk import DiskStore
from tests import independent

SHARED = Path(__file__).parent.parent.parent / "shared"
MEMORY = Path("/dev/shm")
ROOM = 6 * 2**30
"""Bytes that are free where memory is a folder with room for all that tests write."""

settings.register_profile(
    "cairn",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    max_examples=50,
)
settings.register_profile("soak", settings.get_profile("cairn"), max_examples=2000)
settings.load_profile("cairn")


def pytest_configure(config: pytest.Config) -> None:
    """Have the folders of tests in memory, if there is room: a sync takes no time there.

    They are gone afterwards; `--basetemp` says where to keep them.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    if hasattr(config, "workerinput") or not os.access(MEMORY, os.W_OK):
        return
    for left in MEMORY.glob("cairn-suite-*"):  # by runs that were killed
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    is_fit = not os.statvfs(MEMORY).f_flag & getattr(os, "ST_NOEXEC", 0)  # some run what they build
    if is_fit and shutil.disk_usage(MEMORY).free > ROOM:
        name = f"cairn-suite-{os.getpid()}-"
        folder = TemporaryDirectory(dir=MEMORY, prefix=name, ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder.name


@pytest.fixture(autouse=True, scope="session")
def own_home() -> Iterator[Path]:
    """Keep keys and memories of the suite, and of the programs that it starts, to themselves.

    In memory, where that is a folder: each of thousands of memories is fsynced.
    """
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(dir=folder) as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAIRN_HOME", home)
        yield Path(home)


@pytest.fixture(autouse=True)
def every_verdict_has_a_second_opinion(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Hold every validation of a stored ledger, anywhere in the suite, to the independent one.

    Not where the database file itself is damaged: what SQLite makes of it depends on what it is
    asked.
    """
    if request.node.get_closest_marker("damages_database"):
        return
    validate = Ledger.validate

    def held(self: Ledger, *, all: bool = False, **others: Any) -> Report:  # noqa: A002
        report = validate(self, all=all, **others)
        whole = not any(others.get(name) for name in ("start", "incremental", "canonical"))
        if whole and isinstance(self._store, DiskStore):
            second = independent.check(self._store.directory)
            found = [
                independent.Finding(f.index, f.rule)
                for f in report.failures
                if f.rule != "checkpoint"  # of which the store knows nothing
            ]
            assert found == (second if all else second[:1])
        return report

    monkeypatch.setattr(Ledger, "validate", held)


def shared(name: str) -> Path:
    """Return a file of published data beside the project, or skip saying that it is not there."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {path}, which is not here")
    return path
