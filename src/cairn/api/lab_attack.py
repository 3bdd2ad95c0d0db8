"""The lab's page on how likely an attacker reverses a payment."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from cairn.api.operations import Operation, Parameter
from cairn.api.service import JSON, Service
from cairn.explorer import charts
from cairn.explorer.shown import digits
from cairn.lab.reversal import MOST, exact, whitepaper
from cairn.lab.reversal import confirmations as confirmations_below

SHARES: Final = (0.01, 0.5)
MOST_CONFIRMATIONS: Final = 60
LEAST_SHOWN: Final = 1e-9
"""Chances below are not drawn."""
PRINTED: Final = ((0.1, range(11)), (0.3, range(0, 51, 5)))
"""Shares, and confirmations, of which the whitepaper prints the chance."""
PRINTED_SHARES: Final = (0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45)
"""Shares of which it prints after how many confirmations the chance is below `PRINTED_BELOW`."""
PRINTED_BELOW: Final = 0.001
_RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@lru_cache(64)
def chances(share: float, depth: int) -> dict[str, Any]:
    """Return how likely an attacker reverses a payment, drawn and in numbers."""
    depths = range(MOST_CONFIRMATIONS + 1)
    series = [
        charts.Series(name, [(z, p) for z in depths if (p := chance(share, z)) >= LEAST_SHOWN])
        for name, chance in (("exact", exact), ("whitepaper", whitepaper))
    ]
    return {
        "share": share,
        "confirmations": depth,
        "whitepaper": percent(whitepaper(share, depth)),
        "exact": percent(exact(share, depth)),
        "chart": charts.line(
            "Chance that a payment is reversed",
            series,
            x="Confirmations",
            y="Chance",
            log=True,
            show=percent,
            across=(0, MOST_CONFIRMATIONS),
            up=(LEAST_SHOWN, 1),
            mark=depth,
        ),
        "enough": confirmations_below(share, PRINTED_BELOW),
        "thought_about": MOST,
        "printed": [(q, [(z, f"{whitepaper(q, z):.7f}") for z in depths]) for q, depths in PRINTED],
        "below": [(q, confirmations_below(q, PRINTED_BELOW, whitepaper)) for q in PRINTED_SHARES],
        "shares": SHARES,
        "most": MOST_CONFIRMATIONS,
    }


def percent(chance: float) -> str:
    """Return a chance for people: `15.6 %`, `2.4 × 10⁻⁵ %`, or that it is too small to be drawn."""
    if chance < LEAST_SHOWN:
        return f"less than {percent(LEAST_SHOWN)}"
    mantissa, _, exponent = digits(100 * chance).partition("e")
    if not exponent:
        return f"{mantissa} %"
    factor = "" if mantissa == "1" else f"{mantissa} × "
    return f"{factor}10{exponent.translate(_RAISED)} %"


async def attack_chances(
    service: Service, _request: Request, *, share: float = 0.1, confirmations: int = 6
) -> Response:
    """Compute how likely one with a share of the hash power reverses a payment."""
    value = {
        "share": share,
        "confirmations": confirmations,
        "whitepaper": whitepaper(share, confirmations),
        "exact": exact(share, confirmations),
    }
    return Response(json.dumps(value), media_type=JSON)


async def attack_page(
    service: Service, _request: Request, *, share: float = 0.1, confirmations: int = 6
) -> Response:
    """Show how likely that is."""
    found = await service.node.read(lambda: chances(share, confirmations))
    return service.page("/lab", "lab_attack.html", chances=found)


def _share(text: str) -> float:
    if not SHARES[0] <= float(text) <= SHARES[1]:
        raise ValueError(f"from {SHARES[0]} to {SHARES[1]}, found {text}")
    return float(text)


_CHANCES: Final = [
    Parameter(
        "share",
        "query",
        "The attacker's part of all hash power.",
        {"type": "string", "pattern": r"^0?\.[0-9]{1,6}$", "maxLength": 8, "default": "0.1"},
        _share,
    ),
    Parameter(
        "confirmations",
        "query",
        "How many blocks have confirmed the payment.",
        {"type": "integer", "minimum": 0, "maximum": MOST_CONFIRMATIONS},
    ),
]
_CHANCE: Final = {"type": "number", "minimum": 0, "maximum": 1}
OPERATIONS: Final = [
    Operation(
        method="GET",
        path="/lab/attack",
        handler=attack_chances,
        page=attack_page,
        parameters=_CHANCES,
        answers={
            200: (
                "The chances.",
                {
                    JSON: {
                        "schema": {
                            "type": "object",
                            "properties": {"whitepaper": _CHANCE, "exact": _CHANCE},
                        }
                    }
                },
            )
        },
    ),
]
