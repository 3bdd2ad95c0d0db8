"""Runs of the protocol with whatever can go wrong: a few always, ten thousand in the soak."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulator.byzantine import KINDS, Hostile
from tests.simulator.invariants import Checker, Violation
from tests.simulator.runs import LONG, Plan, command, run

FEW = 12
GROUPS = 100
"""Of the long runs, so that they can be shared out among processes."""
GROUP = 100
LARGE_NODES = 1000
LARGE_RUNS = 20


@pytest.mark.parametrize("seed", [seed for seed in range(FEW) if seed != LONG])
def test_all_agree_whatever_goes_wrong(seed: int) -> None:
    run(Plan.of(seed))


def test_long_runs_make_blocks_final_that_were_mined_in_them() -> None:
    outcome = run(Plan.of(LONG))
    assert 10 <= outcome.final <= outcome.blocks - Plan.of(LONG).final_depth


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_hostile_peer_gets_nowhere(kind: type[Hostile]) -> None:
    plans = (Plan.of(seed, 6, kinds=[kind]) for seed in range(1000, 2000))
    run(next(plan for plan in plans if [k for k, _ in plan.hostile] == [kind]))


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_same_seed_is_the_same_run(hash_seed: str) -> None:
    code = "from tests.simulator.runs import *; print(run(Plan.of(9)).digest)"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == run(Plan.of(9)).digest


def test_a_failing_run_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Violation("made up", "to see what is said")

    monkeypatch.setattr(Checker, "node", fail)
    plan = Plan.of(7, 5)
    with pytest.raises(Violation) as caught:
        run(plan)
    assert caught.value.__notes__ == [f"seed 7; see it by: {command(plan)}"]
    assert command(plan).endswith("-m tests.simulator 7 --nodes 5")


@pytest.mark.soak
@pytest.mark.parametrize("group", range(GROUPS))
def test_ten_thousand_runs(group: int) -> None:
    for seed in range(group * GROUP, (group + 1) * GROUP):
        run(Plan.of(seed))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(LARGE_RUNS))
def test_a_thousand_nodes(seed: int) -> None:
    run(Plan.of(seed, LARGE_NODES))
