"""How likely a payment is reversed, by one with a share of the network's hash power.

The attacker hands in a payment, and mines in secret on a chain without it. When `depth` blocks of
the others have come, the first with the payment, the goods are handed over; from then on the
attacker mines until the secret chain is as long as the other, or for ever. A tie counts as success,
which makes up for the block that the attacker may have found before the payment was sent.

Where the attacker gives up at some distance, the chance is that of the gambler's ruin.

What is not in it: blocks that honest miners find at the same time, targets that change meanwhile,
an attacker who rents more power later, and what being caught costs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from math import exp, lgamma, log
from typing import Final

MOST: Final = 10_000
"""Confirmations that are thought about: to compute one chance at that depth takes some 20 ms."""
TINY: Final = 1e-17
"""Part of the sum so far below which what is left of it changes no digit."""


def caught_up(share: float, behind: int, give_up: int | None = None) -> float:
    """Return how likely one who is `behind` by so many blocks ever has as many.

    `share` of all hash power, from 0 to 1. With `give_up`, who is that far behind stops.

    Source: Feller, An Introduction to Probability Theory, XIV.2 (the gambler's ruin).
    """
    if behind <= 0:
        return 1.0
    if share <= 0 or (give_up is not None and behind >= give_up):
        return 0.0
    ratio = min(share, 1 - share) / max(share, 1 - share)
    if give_up is None:
        return 1.0 if share >= 0.5 else ratio**behind
    if ratio == 1:
        return (give_up - behind) / give_up
    chance = (1 - ratio ** (give_up - behind)) / (1 - ratio**give_up)
    return chance if share > 0.5 else ratio**behind * chance


def whitepaper(share: float, depth: int, *, give_up: int | None = None) -> float:
    """Return the chance as Bitcoin's whitepaper has it: 0 <= share <= 1, depth >= 0.

    It takes it that the honest blocks come in the time that they take on average, so that the
    attacker's until then are of a Poisson distribution. That is somewhat too little.

    Source: Nakamoto, Bitcoin: A Peer-to-Peer Electronic Cash System (2008), section 11.
    """
    if (edge := _at_edge(share, depth, give_up)) is not None:
        return edge
    rate = depth * share / (1 - share)
    log_rate = log(rate)
    return _summed(lambda k: k * log_rate - rate - lgamma(k + 1), share, depth, give_up)


def exact(share: float, depth: int, *, give_up: int | None = None) -> float:
    """Return the chance where all blocks come at random: 0 <= share <= 1, depth >= 0.

    The attacker's until the `depth`-th honest one are of a negative binomial distribution.

    Source: Rosenfeld, Analysis of Hashrate-Based Double Spending (2012), section 4; the same as a
    regularised incomplete beta function: Grunspan and Pérez-Marco, Double Spend Races (2017).
    """
    if (edge := _at_edge(share, depth, give_up)) is not None:
        return edge
    log_honest, log_share = depth * log(1 - share), log(share)

    def log_chance(k: int) -> float:
        ways = lgamma(k + depth) - lgamma(k + 1) - lgamma(depth)
        return ways + log_honest + k * log_share

    return _summed(log_chance, share, depth, give_up)


@lru_cache(1000)
def confirmations(
    share: float, below: float, chance: Callable[[float, int], float] = exact
) -> int | None:
    """Return after how many blocks the chance is `below` that; None: after more than `MOST`.

    Requires 0 <= share <= 1: from 1/2 on there is no such number.
    """
    if chance(share, MOST) >= below:
        return None
    return bisect_left(range(MOST), True, key=lambda depth: chance(share, depth) < below)


def _at_edge(share: float, depth: int, give_up: int | None) -> float | None:
    """Return the chance where there is nothing to sum up."""
    if depth == 0 or share >= (0.5 if give_up is None else 1.0):
        return 1.0
    return 0.0 if share <= 0 else None


def _summed(
    log_chance: Callable[[int], float], share: float, depth: int, give_up: int | None
) -> float:
    """Return the chance of success, over how many blocks k the attacker has at first.

    `log_chance(k)` is the logarithm of how likely that number is. No term is negative, so nothing
    cancels out, however large `depth` is.
    """
    total = 0.0
    for k in count():
        chance = exp(log_chance(k))
        total += chance * caught_up(share, depth - k, give_up)
        # Past what is expected, terms only fall.
        if k > depth and k > depth * share / (1 - share) and chance <= TINY * total:
            return min(total, 1.0)
    raise AssertionError
