"""Checking a whole ledger by its checkpoint and tiles alone, and its data where that is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from cairn.core import rules
from cairn.core.block import Block
from cairn.core.erasure import Erasure
from cairn.core.errors import ProofError
from cairn.core.header import Header, Kind
from cairn.core.merkle import tree_hash
from cairn.core.rules import InvalidChainError, Stored
from cairn.core.tree import WIDTH
from cairn.proof.checkpoint import Policy, SignedCheckpoint, ledger_of
from cairn.proof.note import MAX_NOTE, UnknownSignerError
from cairn.proof.tiles import ENTRIES, headers_in, tiles_of

Read = Callable[[str, int], bytes]
"""`read(path, most)` returns what a path of the mirror holds, of which it need not read more than
`most` bytes and one; raises ProofError where that is nothing."""


def check_mirror(
    read: Read, policy: Policy, blocks: Iterable[Block] | None = None
) -> SignedCheckpoint:
    """Check every header and every hash of the tree of a mirror; return its checkpoint.

    With `blocks`, which are all of them in order (as an export has them), and no more, their data,
    too. Each file is read once. Holds 32 bytes of memory a block.

    Raises:
        UnknownSignerError: no key that `policy` trusts has signed it.
        InvalidChainError: a block breaks a rule.
        ProofError: something is missing, or is not what was signed.
    """
    signed = _opened(read("checkpoint", MAX_NOTE), policy)
    checkpoint = signed.checkpoint
    size, genesis = checkpoint.size, ledger_of(checkpoint.origin)
    given = iter(blocks) if blocks is not None else None
    before: Block | None = None
    row: list[bytes] = []
    unrecorded: dict[int, bytes] = {}  # erased blocks, by position: their data roots
    for index, header in enumerate(_headers(read, size)):
        block = _next(given, index) if given else Block(header, header.hash, ())
        if block.header != header:
            raise ProofError(f"block {index} of the data is not the one that was signed")
        if failure := _broken(block, index, before, with_data=given is not None):
            raise InvalidChainError(failure)
        if index == 0 and header.hash.hex() != genesis:
            raise ProofError(f"block 0 is not the genesis of ledger {genesis}")
        if block.erased:
            unrecorded[index] = header.data_root
        elif given and header.kind == Kind.RECORD:
            erasure = Erasure.of(block.data_json())
            if erasure and unrecorded.get(erasure.index) == erasure.id:
                del unrecorded[erasure.index]
        row.append(header.hash)
        before = block
    if given and next(given, None):
        raise ProofError(f"the data goes on after the {size} blocks that were signed")
    for index in unrecorded:
        raise ProofError(f"the value of block {index} was removed, and no record says so")
    if (found := tree_hash(row)) != checkpoint.root:
        raise ProofError(f"the root of the tiles is {found.hex()}, not {checkpoint.root.hex()}")
    _check_tree(read, size, row)
    return signed


def _opened(data: bytes, policy: Policy) -> SignedCheckpoint:
    try:
        return policy.open(data)
    except UnknownSignerError:
        raise
    except ProofError as error:
        raise ProofError(f"checkpoint: {error}") from None


def _headers(read: Read, size: int) -> Iterator[Header]:
    """Yield the headers of the mirror, each of which has the hash that its tile says."""
    for tile in tiles_of(size):
        if tile.level != ENTRIES:
            return
        hashes = tile._replace(level=0)
        bundle, expected = (read(part.path, part.nbytes) for part in (tile, hashes))
        try:
            headers = list(map(Header.unpack, headers_in(bundle)))
        except ProofError as error:
            raise ProofError(f"{tile.path}: {error}") from None
        if b"".join(header.hash for header in headers) != expected or len(headers) != tile.width:
            raise ProofError(f"{tile.path} is not what {hashes.path} has the hashes of")
        yield from headers


def _check_tree(read: Read, size: int, row: list[bytes]) -> None:
    """Check that the higher tiles are those over `row`, the hashes of all blocks."""
    level = 0
    for tile in tiles_of(size):
        if tile.level <= 0:
            continue
        if tile.level > level:
            full = range(0, len(row) // WIDTH * WIDTH, WIDTH)
            row, level = [tree_hash(row[at : at + WIDTH]) for at in full], tile.level
        expected = b"".join(row[tile.start : tile.start + tile.width])
        if read(tile.path, tile.nbytes) != expected:
            raise ProofError(f"{tile.path} is not what lies below it has the roots of")


def _next(blocks: Iterator[Block], index: int) -> Block:
    for block in islice(blocks, 1):
        return block
    raise ProofError(f"the data ends before block {index}")


def _broken(
    block: Block, index: int, before: Block | None, *, with_data: bool
) -> rules.Failure | None:
    """Return the first rule that a block breaks, of those that can be asked."""
    stored = Stored.of(block, index, before)
    if with_data:
        return rules.first_broken(stored)
    for rule in rules.RULES:
        if rule.check in _OF_HEADERS and (broken := rule.check(stored)):
            return rules.failure(index, rule.name, broken)
    return None


_OF_HEADERS = (
    rules.check_version,
    rules.check_kind,
    rules.check_index,
    rules.check_timestamp,
    rules.check_link,
    rules.check_hash,
    rules.check_work,
)
"""The rules that need no data."""
