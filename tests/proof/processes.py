"""Running parts of tests in processes of their own."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

NOBODY = 65534


def started(work: Callable[[], None], *, as_nobody: bool = False) -> int:
    """Run `work` in a process forked from this one; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if as_nobody and os.geteuid() == 0:  # who may do everything
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended_well(child: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def at_once(processes: int, threads: int, work: Callable[[], None]) -> None:
    """Run `work` in so many processes with so many threads each, and wait for all."""

    def failing_loudly() -> None:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def in_threads() -> None:
        running = [Thread(target=failing_loudly) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    children = [started(in_threads) for _ in range(processes)]
    ends = [ended_well(child) for child in children]  # of all, before one is missed
    assert all(ends)


@contextmanager
def folder_of_nobody() -> Iterator[Path]:
    """Yield an empty folder that processes of `NOBODY` may use."""
    with TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield Path(folder)
