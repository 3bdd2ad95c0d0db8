"""Witnesses in processes of their own. As a program: one with other bounds, or one after the other.

`python -m tests.witness.serving JSON witness ...` is `cairn witness ...` with the bounds in JSON;
with `null`, one more begins for every line on standard input, and its process id is printed first.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Self

from tests.api.servers import CAIRN, PATIENCE, ROOT, Server
from tests.witness.logs import Log

NAME = "witness.example/1"


def begin(
    folder: Path, log: Log, *options: str, bounds: Mapping[str, float] | None = None
) -> subprocess.Popen[str]:
    """Start a witness of `log`, of which keys and memory lie in `folder`."""
    command = [str(CAIRN)]
    if bounds is not None:
        command = [sys.executable, "-m", "tests.witness.serving", json.dumps(bounds or None)]
    vkey = str(log.key.verifier)
    with (folder / "log").open("a") as stderr:
        return subprocess.Popen(
            [*command, "witness", "--name", NAME, "--log", vkey, "--port", "0", *options],
            cwd=ROOT,
            env={**os.environ, "CAIRN_HOME": str(folder / "home")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )


def start(
    folder: Path, log: Log, *options: str, bounds: Mapping[str, float] | None = None
) -> Server:
    """Do so; return once it listens."""
    process = begin(folder, log, *options, bounds=bounds)
    try:
        assert process.stdin is not None
        process.stdin.close()
        return Server(process, _greeting(process, folder), folder / "log")
    except BaseException:
        process.kill()
        process.wait()
        raise


def _greeting(process: subprocess.Popen[str], folder: Path) -> str:
    assert process.stdout is not None
    select.select([process.stdout], [], [], PATIENCE)
    greeting = process.stdout.readline()
    assert greeting.startswith("Witness on http://"), (greeting, (folder / "log").read_text())
    return greeting


class Nursery:
    """Starts witnesses in no time: they are forked from a process that has loaded everything."""

    def __init__(self, folder: Path, log: Log) -> None:
        self._folder = folder
        self._process = begin(folder, log, bounds={})

    def begin(self) -> int:
        """Start one; return its process id. One at a time: `listening` comes between."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def listening(self) -> Server:
        """Return the one that began last once it listens, not to be ended by its own methods."""
        assert self._process.stdout is not None
        server = Server(self._process, _greeting(self._process, self._folder), self._folder / "log")
        assert self._process.stdout.readline().startswith(NAME)
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def _fork_for_each_line() -> None:
    """Return in a new process for every line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while os.read(sys.stdin.fileno(), 1):
        child = os.fork()
        if child == 0:
            return
        print(child, flush=True)
    sys.exit()


if __name__ == "__main__":
    from cairn.api import witness
    from cairn.api.bounds import Bounds
    from cairn.cli import main

    limits = json.loads(sys.argv.pop(1))
    if limits is None:
        _fork_for_each_line()
    else:
        witness.serve = partial(witness.serve, bounds=Bounds(**limits))
    main(prog_name="cairn")
