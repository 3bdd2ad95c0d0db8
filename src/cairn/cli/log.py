"""The log command: history for people, a line a block."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import get_terminal_size
from typing import Final

import click

from cairn.cli.common import ledger_option
from cairn.core.block import Block
from cairn.ledger import Ledger
from cairn.ledger.search import first_at, moment

FOLLOW_SECONDS: Final = 0.2
"""Between looks for new blocks: soon enough for a person, cheap enough to leave running."""


class Moment(click.ParamType[int]):
    """A point in time, in µs since the Unix epoch."""

    name = "TIME"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        try:
            return moment(value)
        except ValueError as error:
            self.fail(str(error))


class Regex(click.ParamType[re.Pattern[str]]):
    """A regular expression, as Python's `re` has them."""

    name = "REGEX"

    def convert(
        self,
        value: str | re.Pattern[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> re.Pattern[str]:
        """Compile it."""
        try:
            return re.compile(value)
        except re.error as error:
            self.fail(f"{value!r} is not a regular expression: {error}")


@click.command()
@click.option(
    "--since", type=Moment(), help="Blocks at or after TIME: RFC 3339, a date, or an age (2h)."
)
@click.option("--until", type=Moment(), help="Blocks before TIME.")
@click.option("--grep", type=Regex(), help="Blocks whose JSON data matches.")
@click.option("--follow", "-f", is_flag=True, help="Go on with blocks as they are appended.")
@click.option("--json", "as_json", is_flag=True, help="Print each block's JSON view, a line each.")
@ledger_option
def log(
    directory: Path,
    since: int | None,
    until: int | None,
    grep: re.Pattern[str] | None,
    follow: bool,
    as_json: bool,
) -> None:
    """List blocks, oldest first: index, time, hash, kind and data.

    With --follow, blocks of a work ledger that give way to others are followed by these.
    """
    show = Block.to_json if as_json else _table_row()
    with Ledger.open(directory, read_only=True) as ledger:
        start = 0 if since is None else first_at(ledger, since)
        for block in _blocks(ledger, start, follow=follow):
            if until is not None and block.header.timestamp >= until:
                return
            if grep is None or grep.search(block.data_json().decode(errors="replace")):
                click.echo(show(block))


def _blocks(ledger: Ledger, start: int, *, follow: bool) -> Iterator[Block]:
    shown: dict[int, bytes] = {}  # hashes of those that may give way yet, by position
    while True:
        for segment in ledger.scan(start):
            yield from segment.blocks()
            start = segment.stop
            first = min(max(ledger.final - segment.start, 0), len(segment))
            shown.update(enumerate(map(bytes, segment.hashes[first:]), segment.start + first))
        if not follow:
            return
        sys.stdout.flush()
        time.sleep(FOLLOW_SECONDS)
        start = _kept(ledger, shown, start)


def _kept(ledger: Ledger, shown: dict[int, bytes], start: int) -> int:
    """Return the position up to which what was shown is still there; forget all else."""
    stop, final = start, ledger.final
    while start - 1 in shown and _hash(ledger, start - 1) != shown[start - 1]:
        start -= 1
    if start < stop:
        click.echo(f"blocks {start} to {stop - 1} gave way to a chain of more work", err=True)
    for position in [at for at in shown if at < final or at >= start]:
        del shown[position]
    return start


def _hash(ledger: Ledger, position: int) -> bytes | None:
    return next((block.stored_hash for block in ledger[position : position + 1]), None)


def _table_row() -> Callable[[Block], str]:
    """Print the table's heading; return what makes a row of a block."""
    form = "{:>9}  {:<20}  {:<12}  {:<6}  {}"
    click.echo(form.format("index", "time (UTC)", "hash", "kind", "data"))
    width = get_terminal_size().columns if sys.stdout.isatty() else None

    def row(block: Block) -> str:
        seconds = block.timestamp.partition(".")[0] + "Z"
        # Whatever was recorded, a row is one line and cannot drive the terminal.
        data = re.sub(
            r"[^\x20-\x7e\xa0-\U0010ffff]", "�", block.data_json().decode(errors="replace")
        )
        return form.format(block.index, seconds, block.hash[:12], block.kind, data)[:width]

    return row
