"""Show one run: `python -m tests.simulator SEED [--nodes N] [--to SEED]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulator.invariants import Violation
from tests.simulator.runs import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the network in a simulated world.")
    parser.add_argument("seed", type=int)
    parser.add_argument("--nodes", type=int, help="in place of what the seed draws")
    parser.add_argument("--to", type=int, help="run all seeds up to this one, without their events")
    arguments = parser.parse_args()
    if arguments.to is None:
        plan = Plan.of(arguments.seed, arguments.nodes)
        print(plan)
        try:
            print(run(plan, sys.stdout))
        except Violation as violation:
            print(f"FAILS {violation}")
            return 1
        return 0
    found: Counter[str] = Counter()
    longest = slowest = 0.0
    began = time.perf_counter()
    for seed in range(arguments.seed, arguments.to):
        start = time.perf_counter()
        plan = Plan.of(seed, arguments.nodes)
        try:
            longest = max(longest, run(plan).agreed)
            found["good"] += 1
        except Violation as violation:
            kinds = [kind.__name__ for kind, _ in plan.hostile]
            print(f"{seed} FAILS {violation} {kinds}", flush=True)
            found[violation.name] += 1
        slowest = max(slowest, time.perf_counter() - start)
    seconds = time.perf_counter() - began
    print(f"{dict(found)}, {seconds:.1f} s, the longest {slowest:.1f} s")
    print(f"one head after {longest:.1f} intervals at most")
    return int(set(found) != {"good"})


if __name__ == "__main__":
    sys.exit(main())
