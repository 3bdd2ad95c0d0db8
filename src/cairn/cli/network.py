"""The network command: some nodes on this machine that mine one ledger, to look at."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final

import click

from cairn.cli.common import Failed
from cairn.cli.init import DURATION, MINED_LIMITS, first_bits
from cairn.core.genesis import Genesis, Work
from cairn.ledger import Ledger
from cairn.ledger.exchange import import_chain

STOP_SECONDS: Final = 10.0
HALF_LIFE_INTERVALS: Final = 50
_URL: Final = re.compile(r"Cairn on http://(\S+)")
_LINE: Final = re.compile(r"\S+ \S+ (?:INFO|WARNING|ERROR|CRITICAL) (cairn\S*): (.*)")
_NEWS: Final = "cairn.node.peering"


@click.command()
@click.option("--nodes", default=4, show_default=True, type=click.IntRange(2, 32))
@click.option(
    "--interval",
    default="2s",
    show_default=True,
    type=DURATION,
    metavar="TIME",
    help="Between two blocks, of them all together.",
)
@click.option("--final-depth", default=12, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", type=float, help="End after so long, and not only when stopped.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep ledgers and keys in this new folder; by default they are gone at the end.",
)
def network(
    nodes: int, interval: int, final_depth: int, seconds: float | None, directory: Path | None
) -> None:
    """Run some nodes on this machine that mine one ledger, and print what happens.

    Each has its own ledger and keys, and all are real: post to the URL of any, as in
    `curl -d '"example data"' URL/block`, and see the entry mined and spread.
    """
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-")))
        ledgers = _make(directory, nodes, interval, final_depth)
        lines: SimpleQueue[tuple[int, str]] = SimpleQueue()
        addresses: list[str] = []
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        processes = stack.enter_context(_Processes())
        for number, ledger in enumerate(ledgers, start=1):
            process = processes.start(ledger, addresses)
            Thread(target=_read, args=(number, process, lines), daemon=True).start()
            addresses.append(_address(number, process))
            click.echo(f"node {number}  http://{addresses[-1]}  {ledger}")
        until = None if seconds is None else time.monotonic() + seconds
        began = time.monotonic()
        while until is None or time.monotonic() < until:
            processes.require_alive()
            try:
                number, text = lines.get(timeout=0.2)
            except Empty:
                continue
            click.echo(f"{time.monotonic() - began:7.1f} s  node {number}  {text}")


def _make(directory: Path, nodes: int, interval: int, final_depth: int) -> list[Path]:
    """Make the ledgers, all with the same genesis; return where they are."""
    seal = Work(
        interval=interval, half_life=HALF_LIFE_INTERVALS * interval, final_depth=final_depth
    )
    folders = [directory / f"node{number}" / "ledger" for number in range(1, nodes + 1)]
    first, *others = folders
    # All mine, each with a core at best.
    cores = min(nodes, os.cpu_count() or 1)
    with Ledger.create(
        first,
        Genesis(name="network", seal=seal, limits=MINED_LIMITS),
        bits=first_bits(interval, cores=cores),
    ) as ledger:
        genesis = ledger[0]
    for folder in others:
        import_chain(folder, [genesis.to_json().encode()])
    return folders


class _Processes:
    """Nodes in processes of their own, which end with this."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []

    def start(self, ledger: Path, addresses: list[str]) -> subprocess.Popen[str]:
        """Start a node, which is to dial those that are there."""
        command = [sys.executable, "-P", "-m", "cairn", "serve", "--port", "0", "--verbose"]
        command += ["--mine", "--ledger", str(ledger)]
        for address in addresses:
            command += ["--peer", f"ws://{address}"]
        home = ledger.with_name("home")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CAIRN_HOME": str(home)},
        )
        self._running.append(process)
        return process

    def require_alive(self) -> None:
        """Raise Failed if one has ended by itself."""
        for number, process in enumerate(self._running, start=1):
            if (code := process.poll()) is not None:
                raise Failed(f"node {number} has ended, with exit code {code}")

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(number: int, process: subprocess.Popen[str]) -> str:
    """Return host and port of a node that is starting."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = _URL.search(line)
    if found is None:
        raise Failed(f"node {number} does not start")
    return found[1]


def _read(number: int, process: subprocess.Popen[str], lines: SimpleQueue[tuple[int, str]]) -> None:
    """Put what a node says in its log into `lines`."""
    assert process.stderr is not None
    for line in process.stderr:
        news = _LINE.fullmatch(line.rstrip("\n"))
        if news is None or news[1] != _NEWS:
            lines.put((number, line.rstrip("\n")))
        else:
            lines.put((number, news[2]))
