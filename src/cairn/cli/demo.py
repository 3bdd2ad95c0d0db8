"""The demo command: attacks on a real ledger, and what catches each."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from cairn.lab.attacks import perform_all


@click.command()
def demo() -> None:
    """Build a small ledger, attack it in every way, and show what is caught, and by which rule."""
    table = Table(title="Attacks on a stored chain, and what validation says")
    for heading in ("attack", "caught", "by rule", "at block"):
        table.add_column(heading)
    caught = missed = 0
    for outcome in perform_all():
        failure = outcome.failure
        if failure:
            caught += 1
            table.add_row(outcome.attack.name, "[green]yes", failure.rule, str(failure.index))
        else:
            missed += 1
            table.add_row(outcome.attack.name, "[red]not yet", "", "")
    console = Console()
    console.print(table)
    console.print(
        f"{caught} caught, {missed} not caught yet: a chain made anew up to its end agrees "
        "with itself. Only a head that someone else remembers can tell it from the real one."
    )
