"""Commands that read: show, validate, export, backup."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, Final

import click

from cairn.cli.common import NOT_VALID, ledger_option, progress
from cairn.core.canonical import parse
from cairn.core.errors import DamagedError, NoSuchBlockError
from cairn.ledger import Ledger
from cairn.ledger.exchange import export_lines
from cairn.report import Report

HASH_DIGITS: Final = 64


@click.command()
@click.argument("block", metavar="INDEX|HASH")
@ledger_option
def show(directory: Path, block: str) -> None:
    """Print one block as JSON, by its index or its hash."""
    with Ledger.open(directory, read_only=True) as ledger:
        if len(block) == HASH_DIGITS:
            found = ledger.find(block)
        elif block.isdecimal() and len(block) < HASH_DIGITS:
            found = ledger[int(block)]
        else:
            raise click.BadParameter(f"{block!r} is neither an index nor a hash")
        if found is None:
            raise NoSuchBlockError(f"there is no block with hash {block}")
        text = json.dumps(parse(found.to_json()), indent=2, ensure_ascii=False)
        # Recorded text must not drive the terminal; the other control characters are escaped.
        click.echo(re.sub(r"[\x7f-\x9f]", lambda c: f"\\u{ord(c[0]):04x}", text))


@click.command()
@click.option(
    "--all", "every", is_flag=True, help="Report every failing block, not the first only."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@ledger_option
@click.pass_context
def validate(ctx: click.Context, directory: Path, every: bool, as_json: bool) -> None:
    """Read the whole ledger again and check every rule, from genesis to head."""
    with Ledger.open(directory, read_only=True) as ledger:
        length = None
        with suppress(DamagedError):  # which the report will name
            length = len(ledger)
        with progress("validating", length) as show_done:
            report = ledger.validate(all=every, progress=lambda total: show_done(total.stop))
    if as_json:
        value = report.to_value()
        if every:
            value["failures"] = [failure.to_value() for failure in report.failures]
        click.echo(json.dumps(value))
    else:
        click.echo(_in_words(report))
    ctx.exit(0 if report.valid else NOT_VALID)


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write here.")
@click.option(
    "--parquet",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a Parquet file, with a typed column for each fact, instead of lines.",
)
@ledger_option
def export(directory: Path, output: Path | None, parquet: Path | None) -> None:
    """Write every block's JSON view, a line each, to standard output or a file."""
    if output and parquet:
        raise click.UsageError("--output is for lines and --parquet for columns: name one")
    with (
        Ledger.open(directory, read_only=True) as ledger,
        progress("exporting", len(ledger)) as show_done,
    ):
        if parquet:
            from cairn.ledger.arrow import write_parquet  # pyarrow may not be installed

            with _whole_file(parquet) as stream:
                write_parquet(ledger, stream, progress=show_done)
            return
        with _whole_file(output) if output else nullcontext(sys.stdout.buffer) as stream:
            for done, line in enumerate(export_lines(ledger), start=1):
                stream.write(line.encode() + b"\n")
                show_done(done)


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream whose content becomes the file `path` when the block ends well.

    What is there and is no regular file (a pipe, a device) is written to directly.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@click.command()
@click.argument("target", type=click.Path(path_type=Path), metavar="DIR")
@ledger_option
def backup(directory: Path, target: Path) -> None:
    """Copy the ledger to DIR, consistent, also while a writer works."""
    with (
        Ledger.open(directory, read_only=True) as ledger,
        progress("copying", 100) as show_percent,
    ):
        ledger.backup(target, progress=lambda done, total: show_percent(100 * done // (total or 1)))
    with Ledger.open(target, read_only=True) as copy:
        click.echo(f"copied {len(copy)} blocks to {target}; head {copy.head.hash}")


def _in_words(report: Report) -> str:
    speed = f"{report.blocks / report.seconds:,.0f} blocks/s" if report.seconds else "no time"
    checked = f"{report.blocks} blocks, {report.bytes} bytes in {report.seconds:.3f} s ({speed})"
    if report.valid:
        return f"valid: {checked}"
    return "\n".join([f"NOT VALID: {checked}", *(failure.message for failure in report.failures)])
