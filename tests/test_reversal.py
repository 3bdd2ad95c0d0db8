"""The attacker's chances, held to what was printed and to the same sums in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import comb

import pytest

from cairn.lab.reversal import caught_up, confirmations, exact, whitepaper

PRINTED = {
    0.1: "1.0000000 0.2045873 0.0509779 0.0131722 0.0034552 0.0009137 "
    "0.0002428 0.0000647 0.0000173 0.0000046 0.0000012",
    0.3: "1.0000000 0.1773523 0.0416605 0.0101008 0.0024804 0.0006132 "
    "0.0001522 0.0000379 0.0000095 0.0000024 0.0000006",
}
"""The results of section 11, as they stand there: for z = 0 to 10, and 0, 5, … 50."""
STEP = {0.1: 1, 0.3: 5}
BELOW = {0.10: 5, 0.15: 8, 0.20: 11, 0.25: 15, 0.30: 24, 0.35: 41, 0.40: 89, 0.45: 340}
"""Solving for P less than 0.1 %: q to z, likewise."""


@pytest.mark.parametrize("share", PRINTED)
def test_the_results_of_the_whitepaper_to_the_printed_digit(share: float) -> None:
    found = [f"{whitepaper(share, z * STEP[share]):.7f}" for z in range(11)]
    assert found == PRINTED[share].split()


def test_the_confirmations_of_the_whitepaper() -> None:
    assert {share: confirmations(share, 0.001, whitepaper) for share in BELOW} == BELOW


def test_as_many_confirmations_are_enough_as_make_the_exact_chance_small() -> None:
    for share, enough in {0.01: 2, 0.10: 6, 0.15: 9, 0.30: 32, 0.45: 539}.items():
        assert confirmations(share, 0.001) == enough
        assert exact(share, enough) < 0.001 <= exact(share, enough - 1)
    assert confirmations(0, 0.001) == 1
    for share in (0.4999, 0.5, 0.7, 1):
        assert confirmations(share, 0.001) is None


@pytest.mark.parametrize(
    ("share", "depth", "printed"),
    [(0.1, 1, "20.000"), (0.1, 2, "5.600"), (0.1, 6, "0.059"), (0.3, 6, "15.645"),
     (0.5, 9, "100.000")],
)  # fmt: skip
def test_the_exact_chance_is_that_of_rosenfeld(share: float, depth: int, printed: str) -> None:
    assert f"{100 * exact(share, depth):.3f}" == printed


def fraction(share: Fraction, depth: int) -> Fraction:
    """Return the formula of Rosenfeld as he wrote it."""
    p, q = 1 - share, share
    return 1 - sum(
        (comb(m + depth - 1, m) * (p**depth * q**m - p**m * q**depth) for m in range(depth + 1)),
        Fraction(),
    )


@pytest.mark.parametrize("percent", [1, 10, 25, 33, 45, 49])
@pytest.mark.parametrize("depth", [1, 2, 3, 6, 20, 60, 340])
def test_the_exact_chance_in_fractions(percent: int, depth: int) -> None:
    expected = float(fraction(Fraction(percent, 100), depth))
    assert exact(percent / 100, depth) == pytest.approx(expected, rel=1e-10, abs=0)


@pytest.mark.parametrize("chance", [exact, whitepaper])
def test_it_is_a_chance_that_falls_with_depth_and_rises_with_the_share(chance: object) -> None:
    assert callable(chance)
    for percent in range(1, 50):
        falling = [chance(percent / 100, depth) for depth in range(61)]
        assert falling[0] == 1
        assert all(a > b > 0 for a, b in pairwise(falling))
    for depth in (1, 6, 60):
        rising = [chance(percent / 100, depth) for percent in range(101)]
        assert rising[0] == 0
        assert rising == sorted(rising)
        assert rising[49] < 1 == min(rising[50:])


@pytest.mark.parametrize("chance", [exact, whitepaper])
@pytest.mark.parametrize(("share", "depth"), [(0.45, 20_000), (0.1, 5000), (0.499, 10_000)])
def test_it_stays_a_chance_far_out(chance: object, share: float, depth: int) -> None:
    assert callable(chance)
    assert 0 <= chance(share, depth) < chance(share, depth // 10) < 1


def test_one_who_gives_up_wins_less_often() -> None:
    for share in (0.1, 0.3, 0.5, 0.6):
        for behind in range(1, 12):
            chances = [caught_up(share, behind, most) for most in (behind, behind + 1, 40, 400)]
            assert chances[0] == 0
            assert chances == sorted(chances)
            assert caught_up(share, behind) >= chances[-1]
    assert caught_up(0.5, 3, 12) == pytest.approx(9 / 12)
    assert caught_up(0.3, 2, 400) == pytest.approx(caught_up(0.3, 2))
    assert exact(0.3, 2, give_up=4) < exact(0.3, 2, give_up=400) == pytest.approx(exact(0.3, 2))
