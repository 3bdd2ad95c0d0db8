"""Commands that read: show, export, backup."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, Final

import click

from cairn.cli.common import ledger_option, open_to_prove, progress
from cairn.core.canonical import parse
from cairn.core.errors import NoSuchBlockError
from cairn.ledger import Ledger
from cairn.ledger.exchange import export_lines
from cairn.ledger.mirror import write_mirror

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
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write here.")
@click.option(
    "--parquet",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a Parquet file, with a typed column for each fact, instead of lines.",
)
@click.option(
    "--tiles",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write the checkpoint and tiles (C2SP tlog-tiles), for any web server; only what is new.",
)
@ledger_option
def export(directory: Path, output: Path | None, parquet: Path | None, tiles: Path | None) -> None:
    """Write every block's JSON view, a line each, to standard output or a file."""
    if sum(option is not None for option in (output, parquet, tiles)) > 1:
        raise click.UsageError(
            "--output is for lines, --parquet for columns, --tiles for proofs: name one"
        )
    if tiles:
        with open_to_prove(directory) as ledger, progress("exporting", len(ledger)) as show_done:
            checkpoint = write_mirror(ledger, tiles, lambda done, _size: show_done(done))
        click.echo(f"wrote the checkpoint of {checkpoint.size} blocks, and its tiles, to {tiles}")
        return
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
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    path = path.resolve()
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
