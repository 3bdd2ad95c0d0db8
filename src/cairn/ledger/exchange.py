"""Export and import: a whole chain as NDJSON, a block's JSON view a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from cairn.core.block import Block
from cairn.core.canonical import canonical, parse
from cairn.core.errors import EntryError, FormatError
from cairn.core.genesis import MAX_DEPTH, MAX_U32, Limits, Terms
from cairn.core.rules import InvalidChainError
from cairn.core.segment import Segment
from cairn.core.validation import Named, Summary, erasures, validate
from cairn.encoding import Encoder
from cairn.hashing import best_hasher
from cairn.ledger.ledger import Ledger
from cairn.ledger.lines import read_lines, write_lines
from cairn.store.directory import new_directory
from cairn.store.disk import DiskStore

BATCH_ENTRIES: Final = 8192
"""Lines that an import reads at once, at most, and blocks that are objects, which are large."""
BATCH_BYTES: Final = 8 * 2**20
"""Bytes of these lines, or of the entries of such blocks, about."""

Item = TypeVar("Item")


def export_lines(ledger: Ledger) -> Iterator[str]:
    """Yield the JSON view of each block as stored, genesis to head, without line ends.

    Where an entry is erased meanwhile, it goes on to the record of that.

    Raises:
        FormatError: a block whose stored data is not JSON (damage).
        DamagedError: stored columns that cannot be read.
    """
    encoder = Encoder(Limits(size=MAX_U32, depth=MAX_DEPTH))  # genesis may be damaged, too
    at, stop = 0, len(ledger)
    while at < stop:
        lacking: set[Named] = set()
        for segment in ledger.scan(at, stop):
            if (lines := write_lines(segment, encoder)) is not None:
                yield from lines
                lacking.difference_update(erasures(segment))
                continue
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
    numbered = (_Line(number, line) for number, line in enumerate(lines, start=1) if line.strip())
    with new_directory(Path(path)) as directory:
        for first in numbered:
            genesis = first.block(canonical)
            break
        else:
            raise FormatError("there is no block to import")
        terms = _terms_of(genesis)
        segments = chain([Segment.from_blocks(0, [genesis])], _segments(numbered, terms))
        return _fill(directory, segments, terms)


def _fill(directory: Path, segments: Iterable[Segment], terms: Terms) -> Summary:
    """Validate `segments` and store them in `directory`."""
    hasher = best_hasher()
    DiskStore.create(directory)
    total: Summary | None = None
    recorded: set[Named] = set()
    with closing(DiskStore(directory, hasher)) as store:
        for segment in segments:
            summary = validate(segment, hasher, terms)
            total = total + summary if total else summary
            recorded.update(erasures(segment))
            if total.failures:
                raise InvalidChainError(total.failures[0])
            if terms.asert:
                final = max(total.stop - terms.final_depth, 1)
                store.advance(segment, work=total.work, final=final)
            else:
                store.append(segment, {})
    assert total is not None
    for failure in total.unrecorded(recorded):
        raise InvalidChainError(failure)
    return total


class _Line(NamedTuple):
    """A line, and which one it is, from 1."""

    number: int
    text: bytes

    def block(self, encode: Callable[[object], bytes], erased_bytes: int = 0) -> Block:
        """Return the block that it shows.

        Raises:
            FormatError: it shows none.
        """
        try:
            return Block.from_view(parse(self.text), encode=encode, erased_bytes=erased_bytes)
        except (EntryError, FormatError) as error:
            raise FormatError(f"line {self.number}: {error}") from error


def _segments(lines: Iterable[_Line], terms: Terms) -> Iterator[Segment]:
    """Yield the blocks that lines show, from block 1 on, many at once.

    Raises:
        FormatError: a line shows none.
    """
    encoder, hasher, at = Encoder(terms.limits), best_hasher(), 1
    for batch in _batches(lines, lambda line: len(line.text)):
        texts = [line.text.rstrip(b"\r\n") for line in batch]
        if (segment := read_lines(texts, at, encoder, hasher)) is not None:
            yield segment
            at = segment.stop
            continue
        blocks = (line.block(encoder.value, terms.limits.size) for line in batch)
        for some in _batches(blocks, lambda block: block.header.size):
            yield Segment.from_blocks(at, some)
            at += len(some)


def _terms_of(genesis: Block) -> Terms:
    try:
        return Terms.of(genesis)
    except FormatError:
        return Terms()  # validation names what is wrong with it


def _batches(items: Iterable[Item], size_of: Callable[[Item], int]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if len(batch) >= BATCH_ENTRIES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
