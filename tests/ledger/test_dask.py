"""`cairn validate --dask` on real clusters: a scheduler, and workers in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cairn import Ledger
from tests.ledger.conftest import files, flip, tiny

PATIENCE = 60.0
"""Seconds in which a process of Dask's has said that it is there."""
HOLD = """
import importlib.metadata, os, time

def opened(path, *others, **options):
    path = os.fspath(path)
    if os.environ.get("HOLD_UNSEEN", "//") in path:
        raise FileNotFoundError(path)
    if "slow" in path:
        time.sleep(0.1)
    return open_(path, *others, **options)

open_, os.open = os.open, opened

def version(name):
    if name == "cairn-ledger":
        raise importlib.metadata.PackageNotFoundError(name)
    return version_(name)

if "HOLD_ABSENT" in os.environ:
    version_, importlib.metadata.version = importlib.metadata.version, version
    version.__module__ = "importlib.metadata"
"""
"""What a worker does first: it is made slow for some paths, and blind for others."""


class Cluster(NamedTuple):
    address: str
    workers: list[subprocess.Popen[bytes]]
    environment: dict[str, str]


@contextmanager
def cluster(folder: Path, workers: int, **environment: str) -> Iterator[Cluster]:
    """Start a scheduler and workers, a process and a thread each."""
    (folder / "sitecustomize.py").write_text(HOLD)
    file = folder / "scheduler.json"
    chosen = {**os.environ, **environment}
    held = {**chosen, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    plain = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    if "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in environment:
        plain += ["--protocol", "tls"]
    alone = ("--nthreads", "1", "--no-nanny", "--local-directory", str(folder / "scratch"))
    with ExitStack() as stack:

        def start(name: str, env: Mapping[str, str], *options: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((folder / "log").open("ab"))
            command = (sys.executable, "-m", f"distributed.cli.dask_{name}", *plain, *options)
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start("scheduler", chosen, "--port", "0", "--dashboard-address", ":0")
        until(file.exists, folder)
        started = [start("worker", held, *alone) for _ in range(workers)]
        address = json.loads(file.read_text())["address"]
        until(lambda: (folder / "log").read_text().count("Registered to:") >= workers, folder)
        yield Cluster(address, started, chosen)


def until(condition: Any, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.02)


def tls(folder: Path) -> dict[str, str]:
    """Make a certificate that signs itself; return Dask's own configuration to use it."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = "openssl req -x509 -nodes -newkey rsa:2048 -days 2 -subj /CN=127.0.0.1"
    command = [*make.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    settings = {"CA_FILE": certificate}
    for role in ("CLIENT", "SCHEDULER", "WORKER"):
        settings |= {f"{role}__CERT": certificate, f"{role}__KEY": key}
    return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(path) for name, path in settings.items()}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three, by TLS."""
    folder = tmp_path_factory.mktemp("cluster")
    with cluster(folder, 3, HOLD_UNSEEN="/unseen", **tls(folder)) as started:
        assert started.address.startswith("tls://")
        yield started


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of 20,001 blocks in six files and a tail, to be copied."""
    path = tmp_path_factory.mktemp("dask") / "ledger"
    with tiny(seal=3000), Ledger.create(path) as ledger:
        for start in range(0, 20_000, 1000):
            ledger.extend({"n": n} for n in range(start, start + 1000))
    return path


def copied(made: Path, target: Path) -> Path:
    with Ledger.open(made, read_only=True) as ledger:
        ledger.backup(target)
    return target


def here(path: Path, *, every: bool = True, **options: Any) -> tuple[int, dict[str, Any]]:
    """Validate without a cluster; return the exit code and the report that are due."""
    with Ledger.open(path, read_only=True) as ledger:
        report = ledger.validate(all=every, **options)
    value = report.to_value()
    del value["execution_time"]
    if every:
        value["failures"] = [failure.to_value() for failure in report.failures]
    return (0 if report.valid else 1), value


def validate(
    path: Path, cluster: Cluster | None, *options: str, parts: int = 500
) -> tuple[int, dict[str, Any], str]:
    """Run `cairn validate`; return its exit code, its report but for the time, and its errors."""
    program = (
        "import sys; from cairn.store import flat; from cairn.cli import main; "
        f"flat.PART_BLOCKS = {parts}; main()"
    )
    where = ("--dask", cluster.address) if cluster else ()
    result = subprocess.run(
        [sys.executable, "-c", program, "validate", "--json", "--ledger", path, *where, *options],
        env=cluster.environment if cluster else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    report = json.loads(result.stdout) if result.stdout else {}
    report.pop("execution_time", None)
    return result.returncode, report, result.stderr


def test_a_cluster_reports_what_this_machine_does(
    made: Path, workers: Cluster, tmp_path: Path
) -> None:
    path = copied(made, tmp_path / "ledger")
    code, report, errors = validate(path, workers, "--all")
    assert (code, report["valid"], report["blocks"], errors) == (0, True, 20_001, "")
    assert (code, report) == here(path)
    flip(path, "data", 8 * 90_000)
    flip(path, "headers", 8 * 104 * 9000 + 8)
    code, report, errors = validate(path, workers, "--all", "--hasher", "hashlib", "--canonical")
    assert (code, report["valid"], errors) == (1, False, "")
    assert (code, report) == here(path)
    code, report, errors = validate(path, workers)  # what is called off, Dask may speak of
    assert (code, report["failure"]) == (1, here(path)[1]["failure"])
    assert "Traceback" not in errors
    file = files(path)[3]
    file.write_bytes(file.read_bytes()[:-1])
    code, report, errors = validate(path, workers, "--all")
    assert (code, report["failures"][-1]["rule"], errors) == (1, "storage", "")
    assert (code, report) == here(path)


def test_a_worker_that_is_killed_midway_costs_nothing_but_time(
    made: Path, workers: Cluster, tmp_path: Path
) -> None:
    path = copied(made, tmp_path / "slow")
    alive = [worker for worker in workers.workers if worker.poll() is None]
    assert len(alive) > 1
    killed = threading.Timer(2.5, alive[0].kill)
    killed.start()
    code, report, _ = validate(path, workers, "--all", parts=250)
    killed.join()
    assert alive[0].wait(PATIENCE) == -signal.SIGKILL
    assert (code, report) == here(path)
    assert report["valid"]


def test_a_worker_that_does_not_see_the_files_is_no_verdict(
    made: Path, workers: Cluster, tmp_path: Path
) -> None:
    path = copied(made, tmp_path / "unseen")
    code, report, errors = validate(path, workers)
    assert (code, report) == (2, {})
    assert "a worker could not read what can be read here" in errors
    assert "NOT VALID" not in errors
    assert "Traceback" not in errors


def test_who_has_no_certificate_gets_no_verdict(made: Path, workers: Cluster) -> None:
    code, report, errors = validate(made, workers._replace(environment=dict(os.environ)))
    assert (code, report) == (2, {})
    assert f"there is no Dask scheduler at {workers.address}: TLS expects" in errors
    assert "Traceback" not in errors


@pytest.mark.soak
def test_without_tls_it_is_the_same(made: Path, tmp_path: Path) -> None:
    with cluster(tmp_path, 3) as open_to_all:
        assert open_to_all.address.startswith("tcp://")
        assert validate(made, open_to_all, "--all") == (*here(made), "")


@pytest.mark.soak
def test_what_a_cluster_lacks_is_said(made: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with cluster(tmp_path / "none", 0) as none:
        code, _, errors = validate(made, none)
        said = f"Error: the Dask scheduler at {none.address} has no workers\n"
        assert (code, errors) == (2, said)
    (tmp_path / "absent").mkdir()
    with cluster(tmp_path / "absent", 1, HOLD_ABSENT="1") as absent:
        code, _, errors = validate(made, absent)
        assert (code, "a Dask worker has no cairn-ledger" in errors) == (2, True), errors
        assert absent.workers[0].poll() is None


@pytest.mark.soak
def test_where_no_scheduler_is_it_is_given_up_in_ten_seconds(made: Path) -> None:
    began = time.monotonic()
    code, report, errors = validate(made, None, "--dask", "tcp://127.0.0.1:1")
    assert (code, report) == (2, {})
    assert "there is no Dask scheduler at tcp://127.0.0.1:1: Timed out" in errors
    assert time.monotonic() - began < 15
