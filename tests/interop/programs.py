"""Programs in Go that are not Cairn's, and what they say of a log.

`go/go.mod` pins them. They are built once, into `build/`; Go knows when that is to be done again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tests.interop.ledgers import Tree

GO: Final = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
"""The command of Go, 1.24 or newer, on the path or where it is installed by default; or None."""
SOURCE: Final = Path(__file__).parent / "go"
BUILT: Final = Path(__file__).parents[2] / "build" / "interop"
WORKERS: Final = 16
"""A worker that finds a fault ends, and with none left fsck waits for ever."""
SECONDS: Final = 60
"""Far more than any of them takes, once built."""

_FOUND = re.compile(r"Successfully fsck'd log with size (\d+) and root \S+ \(([0-9a-f]{64})\)")


class RefusedError(Exception):
    """The program found a fault."""


def build() -> None:
    """Build the programs, unless they are as they should be."""
    assert GO is not None
    BUILT.mkdir(parents=True, exist_ok=True)
    folder = os.open(BUILT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # tests run in several processes
        command = [GO, "build", "-buildvcs=false", "-o", f"{BUILT}/", "tool", "./judge"]
        done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        os.close(folder)


def fsck(url: str, vkey: str, scratch: Path) -> Tree:
    """Have Tessera's `fsck` check the whole log at `url`, http: or file:.

    Its release 1.0.4 ends with 0 whatever it finds, so what it says decides, too.

    Raises:
        RefusedError: the log is not right in all parts.
    """
    key = scratch / "vkey"
    key.write_text(vkey)
    options = ("--ui=false", f"--N={WORKERS}", f"--storage_url={url}", f"--public_key={key}")
    done = subprocess.run(
        (str(BUILT / "fsck"), *options),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    found = _FOUND.search(done.stderr)
    if done.returncode != 0 or found is None or "fsck failed" in done.stderr:
        raise RefusedError(done.stderr)
    return Tree(int(found[1]), bytes.fromhex(found[2]))


def judge(questions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the answers of `go/judge`, one to each question."""
    asked = "".join(json.dumps(question) + "\n" for question in questions)
    done = subprocess.run(
        [BUILT / "judge"], input=asked, capture_output=True, text=True, check=True, timeout=SECONDS
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
