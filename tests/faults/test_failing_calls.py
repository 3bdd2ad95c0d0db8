"""Every system call of every operation fails once: nothing acknowledged is lost, nothing leaks.

Each step fails in a process of its own making (see scenarios.py). Judged is what it said, and what
this process then finds on the disk: as it was right after the fault, and after the writer went on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn import CairnError
from tests.faults.harness import Said, finish, judge, start
from tests.faults.scenarios import FAULTS, SCENARIOS, SOAKED
from tests.faults.shim import environment


def cases(output: str) -> Iterator[tuple[str, list[list[Any]]]]:
    """Yield the name of each case and what was said in it."""
    name, heard = "", list[list[Any]]()
    for line in [*map(json.loads, output.splitlines()), ["case", ""]]:
        if line[0] == "case":
            if name:
                yield name, heard
            name, heard = line[1], []
        else:
            heard.append(line)


@pytest.mark.parametrize(
    ("scenario", "every"),
    [
        *((name, 3) for name in SCENARIOS),
        *(pytest.param(name, 1, marks=pytest.mark.soak) for name in (*SCENARIOS, *SOAKED)),
    ],
)
def test_each_call_may_fail(
    scenario: str, every: int, shim_library: Path, memory_path: Path
) -> None:
    watched, copies = memory_path / "watched", memory_path / "copies"
    watched.mkdir()
    copies.mkdir()
    faults = [fault for fault in FAULTS if fault not in ("none", "sync fails")]
    process = start(
        "scenarios",
        scenario,
        memory_path,
        every,
        *faults,
        environment=environment(shim_library, watched),
    )
    template = memory_path / "template" / "closed"
    cannot_tidy_up = ("kill", "disk dead", *(["disk full"] if "files" in scenario else []))
    problems: list[str] = []
    names: list[str] = []
    for name, words in cases(finish(process)):
        names.append(name)
        said = Said()
        rubbish = name.startswith(cannot_tidy_up)
        try:
            for line in words:
                if line == ["copy"]:
                    judge(copies / name, said, template, may_leave_rubbish=rubbish)
                else:
                    said.hear(line)
            judge(watched / name, said, template, may_leave_rubbish=rubbish)
        except (AssertionError, CairnError) as error:
            said.problems.append(str(error))
        problems += [f"{name}: {problem}" for problem in said.problems]
    assert f"EIO once {1 + every}" in names, "no call was seen: does SQLite go past the library?"
    shown = "\n".join(f"{p.splitlines()[0]} … {p.splitlines()[-1]}" for p in problems)
    assert not problems, f"{problems[0]}\n\nAll {len(problems)} in {len(names)} steps:\n{shown}"
