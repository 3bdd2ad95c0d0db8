"""The demo command: attacks on a real ledger, and what catches each."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from cairn.lab.attacks import perform_all


@click.command()
def demo() -> None:
    """Build a small ledger, attack it in every way, and show what each is caught by."""
    table = Table(title="Attacks on a signed ledger, and what they are caught by")
    for heading in ("attack", "caught by", ""):
        table.add_column(heading)
    caught = missed = 0
    for outcome in perform_all():
        if outcome.caught_by is None:
            missed += 1
            table.add_row(outcome.attack, "[red]not caught", "")
        else:
            caught += 1
            table.add_row(outcome.attack, f"[green]{outcome.caught_by}", outcome.what)
    console = Console()
    console.print(table)
    console.print(
        f"{caught} caught, {missed} not. [green]checkpoint[/green] is what was signed before, and "
        "is remembered away from the ledger's disk; the other names in green are rules of the "
        "chain. Not shown, since no hash can tell: a wrong value, a wrong clock, and what was "
        "never recorded."
    )
