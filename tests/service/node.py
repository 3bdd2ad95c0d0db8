"""A server with what `cairn serve` does not offer: other constants, other bounds, a failing disk.

Usage: node DIRECTORY OPTIONS. The options are a JSON object: "constants" by their full names,
"bounds" as of `cairn.api.bounds.Bounds`, "slow_start": seconds that starting a process takes,
"broken_commit": the number of the commit that meets a bug, "slow_commit": seconds from when a
commit is durable until the node knows, "mines": whether it mines. It says what `cairn serve` says.
Then it takes orders on its standard input, if its calls go through the library of
`tests.faults.shim`: "fail K ERROR MODE", as `Shim.arm`; "heal"; and says "done" to each, or how
many calls have failed.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

from cairn import Ledger
from cairn.api.bounds import Bounds
from cairn.api.guard import Access
from cairn.api.server import serve
from cairn.ledger.writer import Append
from cairn.node.peering import Peers
from tests.faults.shim import Mode, Shim


def take_orders() -> None:
    shim = Shim()
    for line in sys.stdin:
        match line.split():
            case ["fail", k, error, mode]:
                shim.arm(int(k), Mode[mode], getattr(errno, error))
                print("done", flush=True)
            case ["heal"]:
                print(shim.disarm(), flush=True)


def change_commit(broken: int | None, seconds: float) -> None:
    commit, numbers = Ledger.commit, count(1)

    def changed(self: Ledger, appends: Sequence[Append]) -> None:
        if next(numbers) == broken:
            raise MemoryError("no error of Cairn's own")
        commit(self, appends)
        time.sleep(seconds)

    Ledger.commit = changed  # type: ignore[method-assign]


async def start_slowly(
    seconds: float, *command: Any, start: Any = asyncio.create_subprocess_exec, **others: Any
) -> asyncio.subprocess.Process:
    process: asyncio.subprocess.Process = await start(*command, **others)
    await asyncio.sleep(seconds)
    return process


def main(directory: str, options: str) -> None:
    chosen = json.loads(options)
    for name, value in chosen.get("constants", {}).items():
        module, _, constant = name.rpartition(".")
        assert constant in vars(import_module(module))
        setattr(import_module(module), constant, value)
    change_commit(chosen.get("broken_commit"), chosen.get("slow_commit", 0))
    if "slow_start" in chosen:
        asyncio.create_subprocess_exec = partial(start_slowly, chosen["slow_start"])
    if "LD_PRELOAD" in os.environ:
        threading.Thread(target=take_orders, daemon=True).start()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")

    def ready(url: str, ledger: Ledger) -> None:
        print(f"Cairn on {url}  (ledger {directory}, {len(ledger)} blocks)", flush=True)

    bounds = Bounds(**chosen.get("bounds", {}))
    peers = Peers(threads=1) if chosen.get("mines") else None
    serve(
        Path(directory), host="127.0.0.1", port=0, access=Access(), bounds=bounds, peers=peers,
        ready=ready,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
