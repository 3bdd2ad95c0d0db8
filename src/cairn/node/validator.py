"""Validation in a process of its own: it has its own cores, memory and page faults."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from cairn.core.errors import FormatError, StoreError, UsageError
from cairn.report import Report

NICENESS: Final = 10
"""Validation can wait; appends cannot."""


class StoppingError(UsageError):
    """The node is stopping, and begins nothing that may take long."""

    def __str__(self) -> str:
        return "the node is stopping"


class Validator:
    """Runs `cairn validate` on a directory, one run at a time."""

    def __init__(self, directory: Path, home: Path) -> None:
        """Validate what is in `directory`; the user's keys and memories are in `home`."""
        self._directory = directory
        self._home = home
        self._current: asyncio.Task[Report] | None = None
        self._next: asyncio.Task[Report] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = False

    async def run(self) -> Report:
        """Validate the ledger as it is now, or as it is when the run that is under way has ended.

        Who asks meanwhile shares the run after it.

        Raises:
            StoreError: the run came to no verdict.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._run_after(self._current))
            self._next.add_done_callback(_look_at)  # who asked may have gone
        return await asyncio.shield(self._next)

    def stop(self) -> None:
        """End what is under way, without a verdict, and begin nothing more."""
        self._stopped = True
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    async def _run_after(self, current: asyncio.Task[Report] | None) -> Report:
        if current is not None:
            await asyncio.wait([current])
        self._current, self._next = self._next, None
        return await self._validate()

    async def _validate(self) -> Report:
        if self._stopped:
            raise StoppingError
        command = (sys.executable, "-P", "-m", "cairn", "validate", "--json", "--ledger")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                str(self._directory.absolute()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "CAIRN_HOME": str(self._home.absolute())},
            )
        except OSError as error:
            raise StoreError(f"validation cannot be started: {error}") from error
        if self._stopped:  # meanwhile
            self._process.terminate()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
        output, errors = await self._process.communicate()
        if self._stopped:
            raise StoppingError
        try:
            return Report.from_value(json.loads(output))
        except (ValueError, FormatError):
            said = errors.decode(errors="replace").strip() or f"exit {self._process.returncode}"
            raise StoreError(f"validation came to no verdict: {said}") from None


def _look_at(task: asyncio.Task[Report]) -> None:
    if not task.cancelled():
        task.exception()
