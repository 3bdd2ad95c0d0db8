"""The power fails at any moment: what was acknowledged is on the disk, whatever else is not.

A process records all that it does to the disk, and when something was acknowledged to it. From that
is rebuilt what the disk holds in the worst case, and in worse ones, by chance (see disk.py).
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn import CairnError
from tests.faults.disk import Disk
from tests.faults.harness import Said, finish, judge, start
from tests.faults.scenarios import SCENARIOS, SOAKED
from tests.faults.shim import Operation, environment, read_trace


class PowerLoss:
    """Runs a scenario, and judges what is on the disk after power losses."""

    def __init__(self, library: Path, directory: Path) -> None:
        self._library = library
        self._directory = directory
        self._count = itertools.count()
        self.watched = directory / "watched"
        for name in ("watched", "copies", "traces", "states"):
            (directory / name).mkdir()

    def run(self, scenario: str, *faults: str, every: int = 1) -> Iterator[Path]:
        """Yield the trace of each case."""
        through = environment(self._library, self.watched)
        finish(start("scenarios", scenario, self._directory, every, *faults, environment=through))
        yield from (self._directory / "traces").iterdir()

    def judge(
        self, disk: Disk, place: Path, said: Said, choose: random.Random | None = None
    ) -> None:
        state = self._directory / "states" / str(next(self._count))
        disk.put(state, choose)
        template = self._directory / "template" / "closed"
        judge(state / place, said, template, may_leave_rubbish=True)
        shutil.rmtree(state)

    def judge_trace(self, trace: Path, *, folder: str = "", chances: float = 0.02) -> list[str]:
        """Lose power at every moment that matters; return what was wrong.

        In the worst case only syncs matter. By chance, also after `chances` of all calls.
        """
        place = Path(trace.name, folder)
        disk, said = Disk(self.watched), Said()
        choose = random.Random(trace.name)
        begun = promised = False
        problems: list[str] = []
        for number, record in enumerate(read_trace(trace)):
            try:
                if record.operation is Operation.MARK:
                    words = json.loads(record.data)
                    said.hear(words)
                    begun |= words[0] == "begin"
                    promised |= words[0] in ("ack", "made")
                    continue
                if record.operation is Operation.SYNC and promised:
                    self.judge(disk, place, said)
                    promised = False
                disk.apply(record)
                if begun and choose.random() < chances:
                    self.judge(disk, place, said, choose)
            except (AssertionError, CairnError) as error:
                problems.append(f"{trace.name}, call {number}: {error}")
                promised = False
        try:
            self.judge(disk, place, said)
        except (AssertionError, CairnError) as error:
            problems.append(f"{trace.name}, at the end: {error}")
        return problems


@pytest.fixture
def power_loss(shim_library: Path, memory_path: Path) -> PowerLoss:
    return PowerLoss(shim_library, memory_path)


@pytest.mark.parametrize(("story", "chances"), [("live", 0.3), ("live and seal", 0.1)])
def test_a_life_of_writing_survives_a_power_loss_at_any_moment(
    story: str, chances: float, power_loss: PowerLoss
) -> None:
    (trace,) = power_loss.run(story, "none")
    problems = power_loss.judge_trace(trace, chances=chances)
    assert not problems, "\n".join(problems)


def test_a_ledger_in_a_new_folder_survives_a_power_loss(power_loss: PowerLoss) -> None:
    (trace,) = power_loss.run("folder is missing", "none")
    problems = power_loss.judge_trace(trace, folder="missing")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("story", ["die of a failed sync", "recover beside a backup"])
def test_what_recovery_finds_survives_a_power_loss(story: str, power_loss: PowerLoss) -> None:
    (trace,) = power_loss.run(story, "none")
    problems = power_loss.judge_trace(trace)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("scenario", "every"),
    [
        *((name, 3) for name in SCENARIOS),
        *(pytest.param(name, 1, marks=pytest.mark.soak) for name in (*SCENARIOS, *SOAKED)),
    ],
)
def test_a_power_loss_after_a_fault_loses_nothing(
    scenario: str, every: int, power_loss: PowerLoss
) -> None:
    problems: list[str] = []
    for trace in power_loss.run(scenario, "sync fails", "kill", every=every):
        problems += power_loss.judge_trace(trace)
    assert not problems, "\n".join(problems)
