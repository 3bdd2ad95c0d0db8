"""Validation in a process of its own: it has its own cores, memory and page faults."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio import StreamReader
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from cairn.core.errors import FormatError, StoreError, UsageError
from cairn.core.header import LIMIT_63
from cairn.report import Report

NICENESS: Final = 10
"""Validation can wait; appends cannot."""
WATCH_SECONDS: Final = 0.125
"""Between two looks of one who watches, however often the process says something."""
REPORT_BYTES: Final = 2**20
"""What a process may print for a report: far more than one takes."""
SAID_BYTES: Final = 4096
"""How much of what a process says else is kept: its end, where the reason is."""

_Count = Annotated[int, Meta(ge=0, le=LIMIT_63 - 1)]


class StoppingError(UsageError):
    """The node is stopping, and begins nothing that may take long."""

    def __str__(self) -> str:
        return "the node is stopping"


class Progress(Struct, frozen=True):
    """How far a run is, as its process says: a line of `cairn validate --progress`."""

    blocks: _Count
    of: _Count | None
    """Blocks when the run began; None where that cannot be read."""
    bytes: _Count
    seconds: Annotated[float, Meta(ge=0)]


class Validated(NamedTuple):
    """What a run found, and when that was."""

    report: Report
    ended: datetime
    """UTC."""


class Validator:
    """Runs `cairn validate` on a directory, one run at a time."""

    def __init__(
        self,
        directory: Path,
        home: Path,
        validated: Callable[[Report], None] = lambda _report: None,
    ) -> None:
        """Validate what is in `directory`; the user's keys and memories are in `home`.

        `validated` is told of every report.
        """
        self._validated = validated
        self._directory = directory
        self._home = home
        self._current: asyncio.Task[Report] | None = None
        self._next: asyncio.Task[Report] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._progress: Progress | None = None  # of the run that is under way
        self._stopped = False
        self.last: Validated | None = None
        """The last run that came to a verdict, since the node was started."""

    @property
    def is_running(self) -> bool:
        """Whether a run is under way, which `watch` would join."""
        return self._current is not None and not self._current.done()

    async def run(self) -> Report:
        """Validate the ledger as it is now, or as it is when the run that is under way has ended.

        Who asks meanwhile shares the run after it.

        Raises:
            StoreError: the run came to no verdict.
            StoppingError: the node stops.
        """
        return await asyncio.shield(self._coming())

    async def watch(self, *, seconds: float) -> AsyncGenerator[Progress | Report | None, None]:
        """Yield how far the run is that is under way, or else a new one; its report comes last.

        None when there is nothing new for so many `seconds`. To be watched costs a run nothing, and
        who goes does not end it.

        Raises:
            StoreError, StoppingError: as `run`.
        """
        run = self._current
        if run is None or run.done():
            run = self._coming()
        shown: Progress | None = None
        due = time.monotonic() + seconds
        while not (await asyncio.wait([run], timeout=WATCH_SECONDS))[0]:
            found = self._progress
            if found is shown and time.monotonic() < due:
                continue
            yield None if found is shown else found
            shown, due = found, time.monotonic() + seconds
        yield run.result()

    def stop(self) -> None:
        """End what is under way, without a verdict, and begin nothing more."""
        self._stopped = True
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    def _coming(self) -> asyncio.Task[Report]:
        """Return the run that begins when none is under way."""
        if self._next is None:
            self._next = asyncio.create_task(self._run_after(self._current))
            self._next.add_done_callback(_look_at)  # who asked may have gone
        return self._next

    async def _run_after(self, current: asyncio.Task[Report] | None) -> Report:
        if current is not None:
            await asyncio.wait([current])
        self._current, self._next = self._next, None
        try:
            report = await self._validate()
        finally:
            self._progress = None
        self.last = Validated(report, datetime.now(UTC))
        self._validated(report)
        return report

    async def _validate(self) -> Report:
        if self._stopped:
            raise StoppingError
        command = (sys.executable, "-P", "-m", "cairn", "validate", "--json", "--progress")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                "--ledger",
                str(self._directory.absolute()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "CAIRN_HOME": str(self._home.absolute())},
                limit=SAID_BYTES,  # so that no more than this and a bit comes at once
            )
        except OSError as error:
            raise StoreError(f"validation cannot be started: {error}") from error
        if self._stopped:  # meanwhile
            self._process.terminate()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None
        assert stderr is not None
        output, said = await asyncio.gather(_beginning(stdout), self._listen(stderr))
        code = await self._process.wait()
        if self._stopped:
            raise StoppingError
        try:
            return _report(output)
        except (ValueError, FormatError, RecursionError):
            why = said.decode(errors="replace").strip() or f"exit {code}"
            raise StoreError(f"validation came to no verdict: {why}") from None

    async def _listen(self, stream: StreamReader) -> bytes:
        """Note how far the process is; return the end of what it says else."""
        said = line = b""
        while read := await stream.read(SAID_BYTES):
            *lines, line = (line + read).split(b"\n")
            for whole in lines:
                try:
                    self._progress = msgspec.json.decode(whole, type=Progress)
                except (ValueError, RecursionError):
                    said = (said + whole + b"\n")[-SAID_BYTES:]
            line = line[-SAID_BYTES:]
        return (said + line)[-SAID_BYTES:]


async def _beginning(stream: StreamReader) -> bytes:
    """Return what a process says, read to its end; but no more than the beginning is kept."""
    kept = bytearray()
    while read := await stream.read(REPORT_BYTES):
        kept += read[: REPORT_BYTES - len(kept)]
    return bytes(kept)


def _report(text: bytes) -> Report:
    """Read a report, of which nothing is taken for granted.

    Raises:
        ValueError, FormatError, RecursionError: it is not one.
    """
    report = Report.from_value(msgspec.json.decode(text))
    return msgspec.convert(msgspec.to_builtins(report), Report)  # the types of its members, too


def _look_at(task: asyncio.Task[Report]) -> None:
    if not task.cancelled():
        task.exception()
