"""How often a payment is reversed by who has less than half of the hash power: by real nodes.

What is simulated. An attacker with share q of the hash power has found a block that nobody knows
of, and that leaves out a payment. Honest nodes mine on; when n blocks of theirs were found, the
first with the payment, the goods are handed over. Meanwhile the attacker mines on his own chain. He
shows it when it has more work than that of the honest, and the payment is reversed; he gives up
when he is `GIVE_UP` blocks behind. Targets stand still, and the honest never fork.

Compared with one of two numbers for the same n and q:

- *exact* (Rosenfeld 2014, section 4), where all blocks come at random: the attacker's until the
  n-th honest one are of a negative binomial distribution;
- *whitepaper* (Nakamoto 2008, section 11), which takes it that the n honest blocks come in the time
  that they take on average: the attacker's are of a Poisson distribution. So it is in no real
  network, and up to half of the exact rate is missing. It is simulated as well, by giving the
  honest blocks those times.

Both let the attacker have a tie. Here a tie is lost, and the block that he has from the beginning
makes up for it, as Rosenfeld says. His giving up is in both numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import pytest

from cairn.core.genesis import MAX_HALF_LIFE, Work
from cairn.core.header import Header
from cairn.core.work import MAX_BITS
from cairn.lab.reversal import exact, whitepaper
from cairn.net.events import Mined
from tests.simulator.byzantine import Forged, Hostile
from tests.simulator.runs import quick
from tests.simulator.world import Faults, Node, World, seal, url_of

SHARES = (0.1, 0.2, 0.3)
DEPTHS = (1, 2, 3, 4, 5, 6)
GIVE_UP = 12
"""Blocks behind at which the attacker gives up: he would come back from there once in 26,000 times
with a share of 0.3."""
LOST = GIVE_UP + 1
"""The same without the block that the attacker has from the beginning."""
ATTEMPTS = 500
UNLIKELY = 1e-5
"""Of the rate that is expected: a count of successes further out than this fails."""
INTERVAL = 30.0
AGREED = 3.0
"""Seconds in which all honest nodes have heard of a block: no forks among them."""


class Merchant(Node):
    """An honest node, whose user has been paid."""


class Attacker(Hostile):
    """Mines on a chain of its own, which the honest part of it knows nothing of."""

    returns = False

    last: Forged
    """The end of its chain."""

    def begin(self) -> None:
        """Have a block that follows the chain as it is."""
        self.forged.clear()
        self.last = self.forge([self.entry()])

    def find(self) -> None:
        self.last = self.forge([self.entry()], before=self.last)

    @property
    def ahead(self) -> int:
        """Blocks that its chain has more than that of the honest."""
        return Header.unpack(self.last.header).index - self.chain.tip.index

    def show(self) -> None:
        self.tell(self.last.head)


@dataclass
class Market:
    """Honest nodes, a merchant among them, and an attacker, linked with one another."""

    world: World
    miners: list[Node]
    attacker: Attacker

    @classmethod
    def open(cls, seed: int) -> Market:
        terms = Work(interval=int(INTERVAL * 1e6), half_life=MAX_HALF_LIFE, final_depth=100)
        world = World(seed, seal=terms, faults=Faults(), delay=0.05, tick=10.0, bits=MAX_BITS,
                      prefix=2)  # fmt: skip
        urls = [url_of(f"20.0.0.{i}") for i in range(3)]
        miners: list[Node] = [Node(world, 0), Merchant(world, 1, configured=urls[:1])]
        attacker = Attacker(world, 2, configured=urls[:2])
        for node in (*miners, attacker):
            world.add(node)
        world.run(15)
        return cls(world, miners, attacker)

    def honest_block(self) -> None:
        node = self.world.random.choice(self.miners)
        node.handle(Mined(seal(node.network.candidate(node.clock))))
        self.world.run(AGREED)

    def attempt(self, share: float, depth: int, *, is_regular: bool) -> bool:
        """Whether a payment with `depth` blocks is reversed."""
        world, attacker = self.world, self.attacker
        random = world.random
        merchant = self.miners[1]
        attacker.begin()
        base = merchant.chain.tip.index
        for _ in range(depth):
            # From one honest block to the next, the attacker's are a Poisson process.
            span = 1.0 if is_regular else random.expovariate(1.0)
            at = random.expovariate(share / (1 - share))
            while at < span:
                attacker.find()
                at += random.expovariate(share / (1 - share))
            self.honest_block()
        paid = merchant.chain.edge(base + 1).hash
        while 0 >= attacker.ahead > -GIVE_UP:
            if random.random() < share:
                attacker.find()
            else:
                self.honest_block()
        is_more = attacker.ahead > 0
        attacker.show()
        world.run(AGREED)
        is_reversed = merchant.chain.edge(base + 1).hash != paid
        assert is_reversed == is_more, "the chain with the most work is that of all"
        self.honest_block()
        assert len({node.head for node in world.nodes}) == 1
        return is_reversed


def require_close(seed: int, share: float, depth: int, attempts: int, *, is_regular: bool) -> None:
    """Let so many attempts be made, and hold their successes to the expected rate."""
    with quick(3):
        market = Market.open(seed)
        found = sum(market.attempt(share, depth, is_regular=is_regular) for _ in range(attempts))
    rate = (whitepaper if is_regular else exact)(share, depth, give_up=LOST)
    chance = [
        comb(attempts, k) * rate**k * (1 - rate) ** (attempts - k) for k in range(attempts + 1)
    ]
    few, many = sum(chance[: found + 1]), sum(chance[found:])
    assert min(few, many) > UNLIKELY, f"{found} of {attempts}, expected {rate * attempts:.1f}"


@pytest.mark.parametrize(
    ("share", "depth", "published"),
    [(0.1, 1, 0.2045873), (0.1, 2, 0.0509779), (0.1, 6, 0.0002428), (0.3, 5, 0.1773523)],
)
def test_the_formula_is_that_of_the_whitepaper(share: float, depth: int, published: float) -> None:
    assert whitepaper(share, depth, give_up=LOST) == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize(
    ("share", "depth", "published"), [(0.1, 1, 0.2), (0.1, 2, 0.056), (0.3, 6, 0.15645)]
)
def test_the_exact_rate_is_that_of_rosenfeld(share: float, depth: int, published: float) -> None:
    assert exact(share, depth, give_up=LOST) == pytest.approx(published, abs=2e-4)


@pytest.mark.parametrize(("share", "depth"), [(0.3, 1), (0.2, 2)])
def test_a_few_payments_are_reversed_as_often_as_they_should_be(share: float, depth: int) -> None:
    require_close(1, share, depth, 40, is_regular=False)


@pytest.mark.soak
@pytest.mark.parametrize("is_regular", [False, True])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("depth", DEPTHS)
def test_payments_are_reversed_as_often_as_they_should_be(
    share: float, depth: int, is_regular: bool
) -> None:
    require_close(depth, share, depth, ATTEMPTS, is_regular=is_regular)
