"""Commands that write: add, erase, import."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from io import SEEK_END, BufferedReader
from itertools import chain
from pathlib import Path
from typing import Final

import click

from cairn.cli.common import Failed, ledger_option, progress
from cairn.core.errors import ExtendError
from cairn.ledger import Ledger
from cairn.ledger.exchange import import_chain

CHUNK: Final = 2**20
"""Bytes read at once. What a pipe has ready is recorded before more is waited for."""
MAX_LINE: Final = 2**26
"""Bytes of one input line: 64 MiB, four times what an entry may have by default."""


@click.command()
@click.argument("file", type=click.File("rb"))
@ledger_option
def add(directory: Path, file: BufferedReader) -> None:
    """Record each line of FILE (NDJSON; - for standard input) in a block of its own.

    Blank lines are passed over. Creates the ledger if missing. Stops at a line that cannot be
    recorded: the lines before it are durable.

    On a work ledger the lines are submitted: they wait until a node of it mines them. Prints the id
    of each, to ask for.
    """
    with Ledger.open(directory) as ledger, progress("recording", _size(file)) as show:
        if ledger.is_mined:
            _submit(ledger, _chunks(file, show))
        else:
            _record(ledger, _chunks(file, show))


def _submit(ledger: Ledger, chunks: Iterator[list[bytes]]) -> None:
    submitted = number = 0
    for chunk in chunks:
        lines = [(n, line) for n, line in enumerate(chunk, number + 1) if line.strip()]
        texts, error = ledger.encoder.texts([line for _, line in lines])
        if texts:
            pooled = ledger.make_entries(texts)
            ledger.keep(pooled)
            click.echo("\n".join(one.id.hex() for one in pooled))
        submitted += len(texts)
        if error is not None:
            raise Failed(
                f"line {lines[len(texts)][0]} is refused: {error}; "
                f"the {submitted} entries before it are durable"
            ) from error
        number += len(chunk)
    click.echo(f"submitted {submitted} entries, which wait to be mined", err=True)


def _record(ledger: Ledger, chunks: Iterator[list[bytes]]) -> None:
    began = time.perf_counter()
    recorded = number = 0
    for chunk in chunks:
        lines = [(n, line) for n, line in enumerate(chunk, number + 1) if line.strip()]
        try:
            recorded += ledger.extend_json(line for _, line in lines)
        except ExtendError as error:
            recorded += error.durable
            raise Failed(
                f"line {lines[error.durable][0]} is refused: {error.cause}; "
                f"the {recorded} entries before it are durable"
            ) from error
        number += len(chunk)
    took = time.perf_counter() - began
    head = ledger.head.index
    click.echo(f"recorded {recorded} entries in {took:.2f} s; the head is block {head}")


@click.command()
@click.argument("index", type=click.IntRange(min=0), metavar="INDEX")
@click.option("--reason", required=True, metavar="TEXT", help="Why: recorded, for good.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@ledger_option
def erase(directory: Path, index: int, reason: str, yes: bool) -> None:
    """Remove the entry of block INDEX, value and salt, for good; a new block records that and why.

    All else stays as it is and validates. What earlier exports, backups and receipts hold, and the
    copies of others, is out of reach.
    """
    with Ledger.open(directory, read_only=True) as ledger:
        block = ledger[index]
        if ledger.is_mined:  # it says why not, before anybody is asked
            ledger.erase(index, reason=reason)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is nobody to ask: --yes says that it is meant")
        if not click.confirm(f"Erase block {index}, of {block.timestamp}, for good?"):
            raise Failed("nothing was erased")
    with Ledger.open(directory) as ledger:
        record = ledger.erase(index, reason=reason)
    click.echo(
        f"erased block {index}; block {record.index} records it\n"
        "Out of reach: earlier exports, backups and receipts, and the copies of other nodes."
    )


@click.command("import")
@click.argument("file", type=click.File("rb"))
@ledger_option
def import_(directory: Path, file: BufferedReader) -> None:
    """Make a new ledger of an export (FILE, or - for standard input), validating every block."""
    with progress("importing", _size(file)) as show:
        total = import_chain(directory, chain.from_iterable(_chunks(file, show)))
    click.echo(f"imported {total.blocks} blocks, all valid; head {total.last_hash.hex()}")


def _chunks(stream: BufferedReader, show: Callable[[int], None]) -> Iterator[list[bytes]]:
    """Yield the lines that each reading completes, as many as are ready; show the bytes read."""
    done, rest = 0, b""
    while chunk := stream.read1(CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE:
            raise Failed(f"a line is longer than {MAX_LINE} bytes")
        if lines:
            yield lines
        done += len(chunk)
        show(done)
    if rest:
        yield [rest]


def _size(file: BufferedReader) -> int | None:
    """Return the bytes that are left in a file; None for a pipe or terminal."""
    if not file.seekable():
        return None
    at = file.tell()
    size = file.seek(0, SEEK_END) - at
    file.seek(at)
    return size
