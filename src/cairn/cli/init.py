"""The init command: a new ledger, instant or of work, or another node's copy of one."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

import click

from cairn.cli.common import Failed, ledger_option
from cairn.core.block import Block
from cairn.core.errors import FormatError
from cairn.core.genesis import Genesis, Limits, Work
from cairn.core.header import HEADER_BYTES
from cairn.core.work import HASH_BITS, MAX_BITS, bits_of, target_of, work_of
from cairn.hashing.search import search
from cairn.ledger import Ledger
from cairn.ledger.exchange import import_chain

JOIN_SECONDS: Final = 10.0
"""How long the other node has to show its genesis."""
INTERVAL: Final = 600 * 1_000_000
"""µs between the blocks of a work ledger, by default: Bitcoin's."""
HALF_LIFE_INTERVALS: Final = 288
"""Half-life by default, in intervals: two days of blocks that come every ten minutes, which is what
Bitcoin Cash settled on."""
FINAL_DEPTH: Final = 60
MINED_LIMITS: Final = Limits(size=2 * 2**20)
"""A block goes from node to node whole, and nobody mines on it before it is there."""
TIMED_HASHES: Final = 1 << 16
"""Hashes to begin with in finding out how many this machine computes in a second."""
TIMED_SECONDS: Final = 0.1
"""How long that should take at least."""

_MICROSECONDS: Final = {
    "ms": 1000,
    "s": 10**6,
    "m": 60 * 10**6,
    "h": 3600 * 10**6,
    "d": 86400 * 10**6,
}


class _DurationType(click.ParamType[int]):
    """A length of time, in µs."""

    name = "TIME"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,18})(ms|s|m|h|d)", value)
        if not found:
            self.fail(f"{value!r} is no length of time such as 500ms, 10s, 10m, 2h or 2d")
        return int(found[1]) * _MICROSECONDS[found[2]]


class _BitsType(click.ParamType[int]):
    """A compact target."""

    name = "HEX"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"[0-9a-fA-F]{8}", value):
            self.fail(f"{value!r} is no compact target of 8 hex digits, such as 1d00ffff")
        return int(value, 16)


DURATION: Final = _DurationType()
BITS: Final = _BitsType()


@click.command()
@click.option("--name", help="For people; by default the directory's name.")
@click.option("--message", default="", help="For people, in genesis for good.")
@click.option(
    "--seal",
    type=click.Choice(["instant", "work"]),
    default="instant",
    show_default=True,
    help="How blocks become final: when they are written, or by the work of those after them.",
)
@click.option("--interval", type=DURATION, help="Work: time between blocks.  [default: 10m]")
@click.option(
    "--half-life",
    type=DURATION,
    help="Work: how late blocks are when they become twice as easy.  [default: 288 intervals]",
)
@click.option(
    "--final-depth",
    type=int,
    help=f"Work: how many blocks must follow one that is final.  [default: {FINAL_DEPTH}]",
)
@click.option(
    "--bits",
    type=BITS,
    help="Work: the first target, as Bitcoin writes it.  [default: one core of this machine meets "
    "it once an interval]",
)
@click.option(
    "--join",
    metavar="URL",
    help="Begin with the genesis of the node at URL: a work ledger's other blocks come by `serve`.",
)
@click.option("--id", "ledger_id", metavar="HEX", help="With --join: which ledger it must be.")
@ledger_option
def init(
    directory: Path,
    name: str | None,
    message: str,
    seal: str,
    interval: int | None,
    half_life: int | None,
    final_depth: int | None,
    bits: int | None,
    join: str | None,
    ledger_id: str | None,
) -> None:
    """Create a ledger, or another node's copy of one."""
    if join is not None:
        _join(directory, join, ledger_id)
        return
    name = directory.absolute().stem if name is None else name
    try:
        if seal == "instant":
            if any(option is not None for option in (interval, half_life, final_depth, bits)):
                raise click.UsageError(
                    "--interval, --half-life, --final-depth and --bits go with --seal work"
                )
            genesis = Genesis(name=name, message=message)
        else:
            interval = INTERVAL if interval is None else interval
            work = Work(
                interval=interval,
                half_life=HALF_LIFE_INTERVALS * interval if half_life is None else half_life,
                final_depth=FINAL_DEPTH if final_depth is None else final_depth,
            )
            genesis = Genesis(name=name, message=message, limits=MINED_LIMITS, seal=work)
            bits = first_bits(interval) if bits is None else bits
        ledger = Ledger.create(directory, genesis, bits=bits)
    except FormatError as error:
        raise Failed(str(error)) from error
    with ledger:
        click.echo(f"created {directory}, id {ledger.id}")
        if genesis.seal is not None:
            click.echo(_shown(genesis.seal, ledger[0].header.bits))


def _join(directory: Path, url: str, ledger_id: str | None) -> None:
    """Create a ledger with the genesis of another node's.

    Raises:
        Failed: it cannot be had, or is not that of the ledger that is wanted.
    """
    import httpx

    try:
        with httpx.Client(timeout=JOIN_SECONDS, trust_env=False) as client:
            answer = client.get(f"{url.rstrip('/')}/blocks/0").raise_for_status()
        block = Block.from_view(answer.json())
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise Failed(f"{url} does not show its genesis: {error}") from error
    if ledger_id not in (None, block.hash):
        raise Failed(f"{url} is a node of {block.hash}, not of {ledger_id}")
    import_chain(directory, [answer.content])
    click.echo(f"created {directory}, id {block.hash}")
    if ledger_id is None:
        click.echo("make sure that this id is the one that you mean: all trust begins with it")


def first_bits(interval: int, *, cores: int = 1) -> int:
    """Return the target that some cores of this machine meet once in `interval` µs, about."""
    count, seconds = TIMED_HASHES, 0.0
    while seconds < TIMED_SECONDS:
        count *= 2
        began = time.perf_counter()
        search(bytes(HEADER_BYTES), 0, count, 0)
        seconds = time.perf_counter() - began
    tries = max(int(cores * count / seconds * interval / 10**6), 1)
    return bits_of(min((1 << HASH_BITS) // tries, target_of(MAX_BITS)))


def _shown(seal: Work, bits: int) -> str:
    return (
        f"blocks are mined, one in {_duration(seal.interval)}; the first target is {bits:08x}, "
        f"{work_of(bits)} hashes\n"
        f"late by {_duration(seal.half_life)}, they are twice as easy; {seal.final_depth} blocks "
        "make one final"
    )


def _duration(microseconds: int) -> str:
    """Return a length of time as `DURATION` reads it, if it is in whole milliseconds."""
    for unit in reversed(_MICROSECONDS):
        if microseconds % _MICROSECONDS[unit] == 0:
            return f"{microseconds // _MICROSECONDS[unit]}{unit}"
    return f"{microseconds} µs"
