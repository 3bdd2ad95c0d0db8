"""What is recorded to measure: JSON values of an exact size, and sealed ledgers of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

from cairn.core.genesis import Limits
from cairn.core.segment import Segment
from cairn.encoding import Encoder
from cairn.ledger import Ledger

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz      "
TEMPLATES: Final = 32
"""Objects made from nothing; all others are one of them with another id."""
FIRST_ID: Final = 10**9
"""So that all ids have as many digits."""
STEP_BLOCKS: Final = 4096
STEP_BYTES: Final = 4 * 2**20
"""Recorded at once while a ledger is brought to where all of it is sealed: one commit."""


def strings(size: int) -> Iterator[str]:
    """Yield strings without end whose canonical JSON has `size` bytes: a number, then text."""
    generator = random.Random(size)
    text = "".join(generator.choices(LETTERS, k=size + 4096))
    for number in count(FIRST_ID):
        at = number % 4096
        yield f"{number}{text[at : at + size - 12]}"


def objects(size: int) -> Iterator[dict[str, Any]]:
    """Yield objects without end whose canonical JSON has `size` bytes.

    Flat, a member for about every 20 bytes, by turns a small integer and a short string; an id
    comes first and a text last, which makes up the size.
    """
    templates = [_template(size, random.Random(seed)) for seed in range(TEMPLATES)]
    for number in count(FIRST_ID):
        yield templates[number % TEMPLATES] | {"id": number}


def build(path: Path, values: Iterator[object], size: int, blocks: int) -> int:
    """Record at least `blocks` of `values`, of `size` bytes each, in a new ledger; return how many.

    More are recorded until none is left in the tail: what is measured is sealed history.
    """
    step = min(STEP_BLOCKS, STEP_BYTES // size)
    with Ledger.create(path) as ledger:
        ledger.extend(islice(values, blocks))
        while any(isinstance(p, Segment) for p in ledger._store.parts(0, len(ledger))):
            ledger.extend(islice(values, step))
        return len(ledger)


def _template(size: int, generator: random.Random) -> dict[str, Any]:
    encoder = Encoder(Limits())
    members: dict[str, Any] = {"id": FIRST_ID}
    rest = size - len(encoder.value(members | {"text": ""}))
    while rest > 22:
        name = f"field{len(members)}"
        text = f"{generator.randrange(16**7):07x}"
        members[name] = generator.randrange(10**6, 10**7) if len(members) % 2 else text
        rest -= len(encoder.value({name: members[name]})) - 1
    return members | {"text": "x" * rest}
