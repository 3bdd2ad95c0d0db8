"""Runs by seed: a seed fixes how many nodes there are, what goes wrong, and who is hostile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any, Final, TextIO

from cairn.core.genesis import Work
from cairn.core.work import work_of
from cairn.net import addresses, network
from tests.simulator.byzantine import KINDS, Cheap, Hostile
from tests.simulator.invariants import Violation
from tests.simulator.world import (
    FIRST_BITS,
    INTERVAL,
    PREFIX,
    Faults,
    Node,
    World,
    settings,
    url_of,
)

MICROSECONDS: Final = 1_000_000
AGREE: Final = 30
"""Intervals after the last fault until all honest nodes have one head. An address that failed
often is dialled again after ten of them."""
MINED: Final = 60
"""Intervals more until all entries are mined that users of honest nodes have submitted."""
LAG: Final = 3
"""Blocks that enough follow, and that are not final yet, of those that came lately: there is a
moment within as many intervals when no node has more."""
LIES: Final = 5
"""After so many, somebody has refused a hostile peer: some get lost, or come to nothing."""
LARGE: Final = 100
"""Nodes from which on a run is of fewer blocks, ticks and entries."""
PARTED_EVERY: Final = 20
"""One run of so many has a partition that lasts longer than the final depth."""
LATE: Final = 5
"""And one of as many, with this remainder, has nodes that are new, or were off for long."""
LONG_EVERY: Final = 20
LONG: Final = 7
"""One of so many, with this remainder, lasts until blocks of its own are final,"""
LONGER: Final = 30
"""by so many blocks more than that takes."""
HALF_LIFE: Final = 3_600
LATE_HALF_LIFE: Final = 300
"""Seconds. With the latter, who begins where others were at the beginning of a run needs a
hundredth of their work."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    seed: int
    nodes: int
    blocks: int
    """Of the chain in the end, those that all begin with not counted."""
    final: int
    """How many of these are final on all honest nodes."""
    reorganisations: int
    agreed: float
    """Intervals after the last fault until all had one head."""
    halted: int
    frames: int
    digest: str
    """Of all changes of heads: the same for the same seed."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is drawn from a seed before anything runs."""

    seed: int
    nodes: int
    final_depth: int
    hostile: tuple[tuple[type[Hostile], float], ...]
    """Kinds, and their shares of hash power."""
    faults: Faults
    delay: float
    tick: float
    dialled: int
    blocks: int
    """Intervals with faults."""
    entries: float
    """Submitted in an interval."""
    crashes: float
    """Of each node in an interval."""
    skew: float
    """Seconds, about: some clocks are far more wrong."""
    partitions: int
    is_parted: bool
    late: int = 0
    """Nodes that begin with less of the chain than others, hours later."""

    @classmethod
    def of(cls, seed: int, nodes: int | None = None, kinds: Any = KINDS) -> Plan:
        random = Random(f"plan {seed}")
        if nodes is None:
            nodes = min(random.choice((4, 4, 5, 5, 6, 7, 8, 10, 12, 16, 20)), 20)
        large = nodes >= LARGE
        is_parted = not large and seed % PARTED_EVERY == 0
        share = random.choice((0.0, 0.1, 0.25)) if not is_parted else 0.0
        hostile = max(1, nodes // random.choice((4, 5, 8))) if share else 0
        hostile = min(hostile, 20 if large else 3)
        chosen = random.choices(kinds, k=hostile)
        late = 0 if large or seed % PARTED_EVERY != LATE else Random(f"late {seed}").choice((1, 2))
        is_bad = random.random() < 0.7

        def some(rate: float) -> float:
            return rate * random.random() if is_bad and random.random() < 0.6 else 0.0

        plan = cls(
            seed=seed,
            nodes=nodes,
            final_depth=random.choice((4, 6, 10)) if is_parted else random.choice((60, 60, 65)),
            hostile=tuple((kind, share / hostile) for kind in chosen),
            faults=Faults(some(0.03), some(0.05), some(0.05), some(0.003), some(0.3)),
            delay=random.choice((0.05, 0.3, 1.0)),
            tick=5.0 if large else 3.0,
            dialled=random.choice((2, 3, 3, 4)),
            blocks=12 if large else random.choice((20, 25, 30)),
            entries=random.choice((0.2, 1.0, 3.0)) / (5 if large else 1),
            crashes=random.choice((0.0, 0.01, 0.03)) / (10 if large else 1),
            skew=random.choice((0.0, 3.0, 10.0)),
            partitions=random.choice((0, 0, 1, 1, 2)),
            is_parted=is_parted,
        )
        if not large and seed % LONG_EVERY == LONG:
            return replace(plan, blocks=plan.final_depth + LONGER)
        return plan if not late else plan.with_late(late)

    def with_late(self, late: int) -> Plan:
        """Return it with so many late nodes, and a hostile one that is there for them."""
        random = Random(f"late {self.seed}")
        return replace(
            self,
            final_depth=random.choice((10, 20, 60)),
            hostile=((Cheap, 0.0),),
            delay=1.0,
            faults=replace(self.faults, dial=0.0),  # who reaches none but the hostile has lost
            crashes=0.0,
            partitions=0,
            late=late,
        )


class Run:
    """One run of a plan."""

    def __init__(self, plan: Plan, trace: TextIO | None = None) -> None:
        self.plan = plan
        seal = Work(
            interval=int(INTERVAL * MICROSECONDS),
            half_life=(LATE_HALF_LIFE if plan.late else HALF_LIFE) * MICROSECONDS,
            final_depth=plan.final_depth,
        )
        self.world = world = World(
            plan.seed,
            seal=seal,
            faults=plan.faults,
            delay=plan.delay,
            tick=plan.tick,
            prefix=PREFIX,
            trace=trace,
        )
        random = world.random
        honest = plan.nodes - len(plan.hostile)
        power = [random.choice((1.0, 1.0, 1.0, 2.0, 0.3)) for _ in range(honest)]
        left = 1.0 - sum(share for _, share in plan.hostile)
        sides = Random(f"sides {plan.seed}")
        side = {number: sides.randrange(2) for number in range(plan.nodes)}
        side[0], side[plan.nodes - 1] = 0, 1
        self.side = side
        """Of a long partition."""
        urls = [url_of(f"20.{i >> 16}.{i >> 8 & 255}.{i & 255}") for i in range(plan.nodes)]
        late = Random(f"late nodes {plan.seed}")
        for number in range(honest):
            is_late = number >= honest - plan.late
            some = {random.randrange(number)} if number else set()
            if number > 1 and random.random() < 0.7:
                some.add(random.randrange(number))
            if random.random() < 0.3:
                some.add(random.randrange(plan.nodes))
            if plan.is_parted:  # what one has only met is forgotten when it is gone for long
                some.add(sides.choice([i for i in side if side[i] != side[number]]))
            if is_late:
                some |= {0, plan.nodes - 1, late.randrange(honest - plan.late)}
            wrong = 120.0 if random.random() < 0.1 else plan.skew
            node = Node(
                world,
                number,
                share=left * power[number] / sum(power),
                skew=random.uniform(-wrong, wrong),
                configured=[urls[i] for i in sorted(some - {number})],
                known=late.choice((1, 1, 20, 40)) if is_late else None,
            )
            if is_late:
                node.is_down = True
                world.later(late.uniform(30, plan.blocks * world.interval), self._join, node)
            world.add(node)
        for i, (kind, share) in enumerate(plan.hostile):
            known = random.sample(urls[:honest], min(honest, 8))
            world.add(kind(world, honest + i, share=share, configured=known))

    def run(self) -> Outcome:
        """Let it happen.

        Raises:
            Violation: an invariant does not hold.
        """
        world, plan = self.world, self.plan
        world.run(5 * plan.delay + 10)
        world.start_mining()
        if plan.is_parted:
            return self._parted()
        self._schedule()
        for _ in range(plan.blocks):
            world.run(world.interval)
            world.checker.node(world.random.choice(world.honest))
        for node in world.nodes:
            if not node.is_honest and not node.is_down:
                node.crash()
        world.stop_faults()
        for node in world.nodes:
            lied = node.told if isinstance(node, Hostile) and node.lies else 0
            if lied > LIES and not world.found_out[node.number]:
                raise Violation("liar", f"{node} lied {lied} times, and nobody minds")
        agreed = self._agree(world.honest)
        if world.halted:
            raise Violation("halted", f"{world.halted[0]} stops, and nothing asks for it")
        return self._outcome(agreed)

    def _schedule(self) -> None:
        """Say when what goes wrong."""
        world, plan = self.world, self.plan
        random, span = world.random, plan.blocks * world.interval
        for _ in range(int(plan.entries * plan.blocks)):
            world.later(random.uniform(0, span), self._submit)
        for node in world.honest:
            for _ in range(_poisson(random, plan.crashes * plan.blocks)):
                world.later(random.uniform(0, span), self._crash, node)
            if plan.skew and random.random() < 0.1:
                world.later(random.uniform(0, span), self._set_clock, node)
        for i in range(plan.partitions):  # one after the other
            most = min(span / plan.partitions, 0.4 * plan.final_depth * world.interval)
            start = i * span / plan.partitions
            length = random.uniform(0.05, 0.9) * most
            world.later(start, self._part, random.random() < 0.5)
            world.later(start + length, world.heal)

    def _submit(self) -> None:
        self.world.submit(self.world.random.choice(self.world.honest))

    def _crash(self, node: Node) -> None:
        world = self.world
        if node.is_at_work:
            node.is_doomed = True
            world.later(world.random.expovariate(1 / world.interval), self._restart, node)

    def _restart(self, node: Node) -> None:
        if node.is_down:
            node.restart()
        node.is_doomed = False

    def _join(self, node: Node) -> None:
        if node.is_down:
            node.restart()

    def _set_clock(self, node: Node) -> None:
        skew = self.world.random.uniform(-self.plan.skew, self.plan.skew)
        node.has_gone_back |= skew < node.skew
        node.skew = skew

    def _part(self, reset: bool) -> None:
        world = self.world
        share = world.random.choice((0.2, 0.5))
        side = {node.number: int(world.random.random() < share) for node in world.nodes}
        world.part(side, reset=reset)

    def _agree(self, nodes: list[Node]) -> float:
        """Wait until all have one head, all entries are mined, and what is due is final.

        Returns how long the first took, in intervals.

        Raises:
            Violation: `agree`, `mined` or `lag`: it takes too long; or another one.
        """
        world = self.world
        since = world.now
        if not world.run(AGREE * world.interval, lambda: len({n.head for n in nodes}) == 1):
            heads = sorted({f"{n.chain.tip.index} {n.head.hex()[:8]}" for n in nodes})
            raise Violation("agree", f"{AGREE} intervals after the last fault: {heads}")
        agreed = (world.now - since) / world.interval
        for _ in range(MINED):
            chain = world.checker.views[nodes[0].number].chain
            mined = {i for block in chain for i in world.checker.judge.blocks[block].ids}
            missing = [i for i in world.submitted if i not in mined]
            if not missing and len({n.head for n in nodes}) == 1:
                break
            world.run(world.interval)
        else:
            raise Violation("mined", f"{len(missing)} entries are not, {MINED} intervals after")
        lag = world.checker.lag
        if not world.run(MINED * world.interval, lambda: all(lag(n) <= LAG for n in nodes)):
            lags = {str(n): lag(n) for n in nodes}
            raise Violation("lag", f"{MINED} intervals after these are not final: {lags}")
        for node in nodes:
            world.checker.node(node)
        return agreed

    def _parted(self) -> Outcome:
        """Part the nodes for longer than the final depth, and let them meet again."""
        world = self.world
        side = self.side
        self._schedule_entries()
        world.checker.is_final = False  # of all: each node is held to what was final on it
        common = len(world.prefix)
        world.part(side, reset=world.random.random() < 0.5)

        def is_deep() -> bool:
            # Who is alone knows of others, and makes nothing final.
            if not all(n.chain.final > common + 1 for n in world.nodes if self._is_linked(n)):
                return False
            best: dict[bytes | None, int] = {}
            for node in world.nodes:
                key = self._parted_at(node)
                best[key] = max(best.get(key, 0), node.chain.work)
            *_, second, first = [0, *sorted(best.values())]
            return len(best) > 1 and first - second > 4 * work_of(FIRST_BITS)  # it stays the best

        if not world.run(400 * world.interval, is_deep):
            raise Violation("agree", "one side of a partition finds no blocks, or none is final")
        before = [world.checker.views[n.number].chain[: n.chain.final] for n in world.nodes]
        bound = {n: self._parted_at(n) for n in world.nodes if n.chain.final > common + 1}
        world.stop_faults()
        since = world.now

        def others() -> list[Node]:
            return [node for node in world.nodes if node.network.halted is None]

        if not world.run(2 * AGREE * world.interval, lambda: len({n.head for n in others()}) == 1):
            left = [f"{n} at {n.chain.tip.index} {n.head.hex()[:8]}" for n in others()]
            raise Violation("halt", f"after a long partition these go on: {left}")
        agreed = (world.now - since) / world.interval
        best = self._parted_at(others()[0])
        for node, final in zip(world.nodes, before, strict=True):
            if world.checker.views[node.number].chain[: len(final)] != final:
                raise Violation("final", f"{node} has changed what was final before it stopped")
            if bound.get(node, best) != best and node not in world.halted:
                raise Violation("halt", f"{node} goes on after a long partition")
            world.checker.node(node)
        return self._outcome(agreed)

    def _parted_at(self, node: Node) -> bytes | None:
        """Return a block that only those have who were not parted from a node; None if none yet."""
        chain, at = self.world.checker.views[node.number].chain, len(self.world.prefix) + 1
        return chain[at] if len(chain) > at else None

    def _is_linked(self, node: Node) -> bool:
        """Whether a node has a link to another one on its side of a partition."""
        others = [link.ends[1 - at][0] for link, at in node.links.values() if not link.is_cut]
        return any(self.side[other.number] == self.side[node.number] for other in others)

    def _schedule_entries(self) -> None:
        world, plan = self.world, self.plan
        span = plan.blocks * world.interval
        for _ in range(int(plan.entries * plan.blocks)):
            world.later(world.random.uniform(0, span), self._submit)

    def _outcome(self, agreed: float) -> Outcome:
        world = self.world
        return Outcome(
            seed=self.plan.seed,
            nodes=self.plan.nodes,
            blocks=max(n.chain.tip.index for n in world.honest) + 1 - len(world.prefix),
            final=max(0, min(n.chain.final for n in world.honest) - len(world.prefix)),
            reorganisations=world.checker.reorganisations,
            agreed=agreed,
            halted=len(world.halted),
            frames=world.frames,
            digest=world.digest.hexdigest(),
        )


def run(plan: Plan, trace: TextIO | None = None) -> Outcome:
    """Run a plan; what fails says how to see it again.

    Raises:
        Violation: an invariant does not hold.
    """
    with quick(plan.dialled):
        try:
            return Run(plan, trace).run()
        except Violation as violation:
            violation.add_note(f"seed {plan.seed}; see it by: {command(plan)}")
            raise


def command(plan: Plan) -> str:
    """Return what shows a run once more, with all that happens in it."""
    drawn = Plan.of(plan.seed).nodes == plan.nodes
    nodes = "" if drawn else f" --nodes {plan.nodes}"
    return f"{sys.executable} -m tests.simulator {plan.seed}{nodes}"


@contextmanager
def quick(dialled: int) -> Iterator[None]:
    """Let nodes dial fewer than they would, and remember what addresses look like.

    With eight links each, 20 nodes are nearly all linked with one another, and 1,000 take minutes.
    """
    kept = {
        (addresses, "scope_of"): cache(addresses.scope_of),
        (addresses, "group_of"): cache(addresses.group_of),
        (addresses, "_parsed"): cache(addresses._parsed),
    }
    kept[(network, "scope_of")] = kept[addresses, "scope_of"]
    kept[(network, "group_of")] = kept[addresses, "group_of"]
    before = {(module, name): getattr(module, name) for module, name in kept}
    try:
        for (module, name), remembered in kept.items():
            setattr(module, name, remembered)
        with settings(DIALLED=max(dialled, 3)):
            yield
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)


def _poisson(random: Random, mean: float) -> int:
    """Return how often something happens that does so `mean` times on average."""
    found, at = 0, random.expovariate(1.0)
    while at < mean:
        found, at = found + 1, at + random.expovariate(1.0)
    return found
