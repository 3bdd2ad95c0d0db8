"""`cairn validate`."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from threading import Thread
from typing import Final

import click

from cairn.cli.common import NOT_VALID, Failed, ledger_option, progress
from cairn.core.errors import DamagedError
from cairn.core.validation import Summary
from cairn.hashing import best_hasher
from cairn.ledger import Ledger
from cairn.proof.checkpoint import Checkpoint
from cairn.report import Report

DASK_SECONDS: Final = 10
"""How long to wait for a Dask scheduler."""
TOLD_SECONDS: Final = 0.125
"""Between two lines of `--progress`: enough for a bar that moves, and nothing beside the work."""


@click.command()
@click.option(
    "--all", "every", is_flag=True, help="Report every failing block, not the first only."
)
@click.option(
    "--from",
    "start",
    type=click.IntRange(min=0),
    default=0,
    metavar="INDEX",
    help="Leave out the blocks before this one.",
)
@click.option(
    "--incremental",
    is_flag=True,
    help="Start where the last incremental run ended well, as noted in the ledger's directory.",
)
@click.option(
    "--canonical",
    is_flag=True,
    help="Check also that all data is canonical JSON. This parses it, and so is slow.",
)
@click.option(
    "--older", is_flag=True, help="It is a backup: it may end before what is remembered of it."
)
@click.option("--hasher", metavar="NAME", help="What hashes: hashlib, lanes, cuda and so on.")
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Let the workers of a Dask cluster do it, such as tls://host:8786. They must see the "
    "ledger's directory under the same path.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--progress",
    "as_lines",
    is_flag=True,
    help="Say on standard error how far it is, as JSON lines: blocks, of how many, bytes, seconds.",
)
@ledger_option
@click.pass_context
def validate(
    ctx: click.Context,
    directory: Path,
    every: bool,
    start: int,
    incremental: bool,
    canonical: bool,
    older: bool,
    hasher: str | None,
    dask: str | None,
    as_json: bool,
    as_lines: bool,
) -> None:
    """Read the whole ledger again and check every rule, from genesis to head."""
    in_python = canonical or (hasher or best_hasher().name) == "hashlib"
    with Ledger.open(directory, read_only=True) as ledger, _executor(dask, in_python) as executor:
        length = None
        with suppress(DamagedError):  # which the report will name
            length = len(ledger)
        with _showing(length, as_lines=as_lines) as show:
            report = ledger.validate(
                all=every,
                start=start,
                incremental=incremental,
                canonical=canonical,
                older=older,
                hasher=hasher,
                executor=executor,
                progress=show,
            )
        assurance = _assurance(ledger) if report.valid else ""
    if as_json:
        value = report.to_value()
        if every:
            value["failures"] = [failure.to_value() for failure in report.failures]
        click.echo(json.dumps(value))
    else:
        click.echo(_in_words(report, assurance))
    ctx.exit(0 if report.valid else NOT_VALID)


@contextmanager
def _showing(length: int | None, *, as_lines: bool) -> Iterator[Callable[[Summary], None]]:
    """Yield what to call with all that is done: draws a bar, or says it `as_lines` for a program.

    `length` is that of the ledger; None where it is not known.
    """
    began = time.monotonic()
    due = began

    def tell(total: Summary) -> None:
        nonlocal due
        if (now := time.monotonic()) >= due:
            due = now + TOLD_SECONDS
            done = {"blocks": total.stop, "of": length, "bytes": total.nbytes}
            click.echo(json.dumps({**done, "seconds": now - began}), err=True)

    if as_lines:
        yield tell
        return
    with progress("validating", length) as show:
        yield lambda total: show(total.stop, _speed(total, time.monotonic() - began))


@contextmanager
def _executor(dask: str | None, in_python: bool) -> Iterator[Executor | None]:
    """Yield what does the work; None: the ledger's own threads.

    Work that is `in_python` gets processes: Python's own lock lets one thread at a time do it.
    """
    if dask is not None:
        with _dask_executor(dask) as executor:
            yield executor
    elif in_python:
        with ProcessPoolExecutor(mp_context=_Spawn(), initializer=_follow_parent) as executor:
            yield executor
    else:
        yield None


class _Worker(SpawnProcess):
    """A process without Ctrl-C, which a terminal sends to all: when to end is for the parent."""

    def start(self) -> None:
        """Start it, with the signal blocked from its first moment on."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Spawn(SpawnContext):
    Process = _Worker


def _follow_parent() -> None:
    """End with the parent, however it ends: a pool alone would wait for ever."""
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _dask_executor(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise Failed("Dask is not installed: pip install 'cairn-ledger[dask]'") from None
    # It logs, with a traceback, each answer that comes in just when its task was called off.
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
    try:
        asyncio.run(_reach(address))
        client = Client(  # type: ignore[no-untyped-call]
            address, timeout=DASK_SECONDS, set_as_default=False
        )
    except (OSError, ValueError, TypeError) as error:
        raise Failed(f"there is no Dask scheduler at {address}: {error}") from error
    with client, client.get_executor(pure=False) as executor:  # type: ignore[no-untyped-call]
        try:
            client.wait_for_workers(1, timeout=DASK_SECONDS)
            _require_own_version(client.run(version, "cairn-ledger"))
        except TimeoutError as error:
            raise Failed(f"the Dask scheduler at {address} has no workers") from error
        except PackageNotFoundError as error:
            raise Failed(f"a Dask worker has no cairn-ledger: {error}") from error
        try:
            yield executor
        except KilledWorker as error:
            raise Failed(f"validation came to no verdict: {error}") from error


def _require_own_version(found: Mapping[str, str]) -> None:
    """Refuse workers that may have other rules; `found` maps their addresses to their versions."""
    own = version("cairn-ledger")
    for worker, other in found.items():
        if other != own:
            raise Failed(f"the Dask worker at {worker} has cairn-ledger {other}, and this is {own}")


async def _reach(address: str) -> None:
    """Connect once: a client of Dask's that cannot would keep the process for a while.

    Raises:
        OSError, ValueError, TypeError: what is in the way.
    """
    from distributed import Security
    from distributed.comm.core import connect

    arguments = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
    comm = await connect(address, timeout=DASK_SECONDS, **arguments)  # type: ignore[no-untyped-call]
    await comm.close()


def _assurance(ledger: Ledger) -> str:
    """Return the rung that the ledger has reached, and how far."""
    rung = ledger.assurance
    if rung == "chained":
        return rung
    size = Checkpoint.parse(ledger.notary.published().text).size
    return rung if size == len(ledger) else f"{rung} up to block {size - 1}"


def _speed(total: Summary, seconds: float) -> str:
    """Return blocks and gigabytes a second, for people."""
    if not seconds:
        return ""
    return f"{total.blocks / seconds:,.0f} blocks/s  {total.nbytes / seconds / 1e9:.2f} GB/s"


def _in_words(report: Report, assurance: str) -> str:
    speed = "no time"
    if report.seconds:
        speed = f"{report.blocks / report.seconds:,.0f} blocks/s"
    checked = f"{report.blocks} blocks, {report.bytes} bytes in {report.seconds:.3f} s ({speed})"
    if report.erased:
        checked += f", {report.erased} erased"
    if report.valid:
        return f"valid: {checked}; {assurance}"
    return "\n".join([f"NOT VALID: {checked}", *(failure.message for failure in report.failures)])
