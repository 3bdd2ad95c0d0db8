"""Export and import: a whole chain as NDJSON, a block's JSON view a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Final

from cairn.core.block import Block
from cairn.core.canonical import canonical, parse
from cairn.core.errors import EntryError, FormatError
from cairn.core.genesis import Genesis, Limits
from cairn.core.rules import InvalidChainError
from cairn.core.segment import Segment
from cairn.core.validation import Named, Summary, erasures, validate
from cairn.encoding import Encoder
from cairn.hashing import best_hasher
from cairn.ledger.ledger import Ledger
from cairn.store.directory import new_directory
from cairn.store.disk import DiskStore

BATCH_ENTRIES: Final = 8192
"""Blocks that an import stores at once, at most: they are objects, which are large."""
BATCH_BYTES: Final = 4 * 2**20
"""Bytes of their entries, about."""


def export_lines(ledger: Ledger) -> Iterator[str]:
    """Yield the JSON view of each block as stored, genesis to head, without line ends.

    Where an entry is erased meanwhile, it goes on to the record of that.

    Raises:
        FormatError: a block whose stored data is not JSON (damage).
        DamagedError: stored columns that cannot be read.
    """
    at, stop = 0, len(ledger)
    while at < stop:
        lacking: set[Named] = set()
        for segment in ledger.scan(at, stop):
            for block in segment.blocks():
                if block.erased:
                    lacking.add((block.index, block.header.data_root))
                yield block.to_json()
            lacking.difference_update(erasures(segment))
        at, stop = stop, len(ledger) if lacking else stop


def import_chain(path: str | PathLike[str], lines: Iterable[bytes]) -> Summary:
    """Make a new ledger in directory `path` of exported lines, validating every block.

    Whole or not at all: after an error nothing is left behind. Returns the summary of all blocks.

    Raises:
        ExistsError: something is at `path` already.
        FormatError: a line is not the JSON view of a block, or there is none; it says which.
        InvalidChainError: the blocks break a rule.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    with new_directory(Path(path)) as directory:
        for number, line in numbered:
            genesis = _read(number, line, canonical)
            break
        else:
            raise FormatError("there is no block to import")
        limits = _limits_of(genesis)
        encode = Encoder(limits).value
        most = limits.size
        rest = (_read(number, line, encode, most) for number, line in numbered)
        blocks = chain([genesis], rest)
        return _fill(directory, blocks, limits)


def _fill(directory: Path, blocks: Iterable[Block], limits: Limits) -> Summary:
    """Validate `blocks` and store them in `directory`, in batches."""
    hasher = best_hasher()
    DiskStore.create(directory)
    total: Summary | None = None
    recorded: set[Named] = set()
    with closing(DiskStore(directory, hasher)) as store:
        for batch in _batches(blocks):
            segment = Segment.from_blocks(total.stop if total else 0, batch)
            summary = validate(segment, hasher, limits)
            total = total + summary if total else summary
            recorded.update(erasures(segment))
            if total.failures:
                raise InvalidChainError(total.failures[0])
            store.append(segment, {})
    assert total is not None
    for failure in total.unrecorded(recorded):
        raise InvalidChainError(failure)
    return total


def _read(
    number: int, line: bytes, encode: Callable[[object], bytes], erased_bytes: int = 0
) -> Block:
    try:
        return Block.from_view(parse(line), encode=encode, erased_bytes=erased_bytes)
    except (EntryError, FormatError) as error:
        raise FormatError(f"line {number}: {error}") from error


def _limits_of(genesis: Block) -> Limits:
    try:
        return Genesis.of(genesis).limits
    except FormatError:
        return Limits()  # validation names what is wrong with it


def _batches(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    batch: list[Block] = []
    size = 0
    for block in blocks:
        batch.append(block)
        size += block.header.size
        if len(batch) >= BATCH_ENTRIES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
