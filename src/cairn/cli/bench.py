"""The bench commands: measure on this machine, beside others and the limits of the machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cairn.cli.common import progress


@click.group()
def bench() -> None:
    """Measure on this machine, beside rivals and its limits."""


quick_option = click.option("--quick", is_flag=True, help="Only see that it works, in seconds.")


@bench.command()
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write figures."
)
@click.option(
    "--svg", "svg_file", type=click.Path(path_type=Path), metavar="FILE", help="Write a chart."
)
@quick_option
def validate(json_file: Path | None, svg_file: Path | None, quick: bool) -> None:
    """Measure validation of ledgers on disk, and print medians and ranges as Markdown.

    In turn with the loop of the teaching example that Cairn grew out of, a careful loop of
    hashlib, OpenSSL's own speed test, and the kernel's pure compressions, for data of 64 B to
    64 KB. Takes minutes, and 1.5 GB in the folder for temporary files, while it runs.
    """
    from cairn.bench import show  # and what it imports: no other command needs that
    from cairn.bench.validate import QUICK, Plan, measure

    with progress("measuring", 100) as show_percent:
        outcome = measure(QUICK if quick else Plan(), show_percent)
    if json_file:
        json_file.write_text(json.dumps(outcome.to_value(), indent=1) + "\n", encoding="utf-8")
    if svg_file:
        svg_file.write_text(show.svg(outcome), encoding="utf-8")
    click.echo(show.markdown(outcome))


@bench.command()
@quick_option
def search(quick: bool) -> None:
    """Measure the mining search, and print medians and ranges as Markdown.

    In turn with the kernel's pure compressions, and a loop of hashlib. Takes a minute or two.
    """
    from cairn.bench.search import ROUNDS, SECONDS, measure

    seconds, rounds = (0.001, 1) if quick else (SECONDS, ROUNDS)
    with progress("measuring", 100) as show_percent:
        text = measure(seconds, rounds, lambda done: show_percent(int(100 * done)))
    click.echo(text)
