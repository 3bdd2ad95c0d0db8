"""The rules that make a chain valid: numbered, in the order they are checked, each a pure function.

A rule looks at one stored block and returns None, or what it expected and what it found. The first
rule that a block breaks is its failure. `cairn.core.validation` applies them in bulk; this is the
definition it is held to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from cairn.core.block import Block, is_erased
from cairn.core.entry import Entry
from cairn.core.errors import CairnError, FormatError
from cairn.core.genesis import MAX_U32, Genesis, Limits, Terms, is_first_target
from cairn.core.header import FORMAT_VERSION, LIMIT_63, NO_HASH, Header, Kind
from cairn.core.merkle import HASH_BYTES, leaf_hash, tree_hash
from cairn.core.work import MAX_BITS, Asert, is_target, target_of


@dataclass(frozen=True, slots=True)
class Failure:
    """Which block breaks which rule."""

    index: int
    """Position of the block, whatever index its header claims."""
    rule: str
    expected: int | str
    found: int | str
    message: str

    def to_value(self) -> dict[str, Any]:
        """Return the JSON object `{index, rule, expected, found, message}`."""
        return asdict(self)


class InvalidChainError(CairnError):
    """A chain breaks a rule; `failure` says which block, which rule, expected and found."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.message


_ANY: Final = Limits(count=MAX_U32, size=MAX_U32)


class Stored(NamedTuple):
    """One block as it lies in the store, and what the rules need to know around it."""

    position: int
    header: Header
    hash: bytes
    """As stored beside the header; 32 bytes."""
    entries: tuple[bytes, ...]
    size: int
    """Bytes that lie in the store for this block."""
    previous_hash: bytes | None
    """As stored for the block before; None where that block is not at hand."""
    previous_timestamp: int | None
    """µs; None where the block before is not at hand."""
    terms: Terms | None
    """Those of the chain's genesis; None where they are not known."""

    @classmethod
    def of(cls, block: Block, position: int, before: Block | None) -> Stored:
        """Return a block as somebody shows it who does not say what the ledger's terms are.

        `before` is the block before it, where that is at hand.
        """
        entries = tuple(entry.to_bytes() for entry in block.entries)
        return cls(
            position=position,
            header=block.header,
            hash=block.stored_hash,
            entries=entries,
            size=sum(map(len, entries)),
            previous_hash=before.stored_hash if before else None,
            previous_timestamp=before.header.timestamp if before else None,
            terms=None,
        )

    @property
    def is_erased(self) -> bool:
        """Whether its entry was erased."""
        return is_erased(self.header, tuple(map(Entry.from_bytes, self.entries)))


class Broken(NamedTuple):
    """What a rule expected, what it found, and what that means in words."""

    expected: int | str
    found: int | str
    meaning: str


def check_version(block: Stored) -> Broken | None:
    """Return how the format version is unknown, or None."""
    found = block.header.version
    if found == FORMAT_VERSION:
        return None
    return Broken(FORMAT_VERSION, found, "the format version is not known")


def check_kind(block: Stored) -> Broken | None:
    """Return how the kind is unknown, or not the one that is asked for here, or None."""
    found = block.header.kind
    if block.position == 0 and found != Kind.RECORD:
        return Broken(int(Kind.RECORD), found, "genesis is a record")
    if block.position > 0 and block.terms and block.terms.asert and found != Kind.BATCH:
        return Broken(int(Kind.BATCH), found, "a ledger of work has batches alone after genesis")
    if found > max(Kind):
        return Broken("0, 1 or 2", found, "the kind is not known")
    return None


def check_count(block: Stored) -> Broken | None:
    """Return how the count does not fit the kind, or the entries stored, or None."""
    found = block.header.count
    if block.header.kind != Kind.BATCH and found != 1:
        return Broken(1, found, "a value or record has one entry")
    if found != len(block.entries):
        return Broken(len(block.entries), found, "the count is not the number of entries stored")
    return None


def check_index(block: Stored) -> Broken | None:
    """Return how the index is not the block's position, or None."""
    return index_follows(block.position, block.header.index)


def index_follows(position: int, found: int) -> Broken | None:
    """Return how a block with index `found` does not belong at `position`, or None."""
    if found == position:
        return None
    return Broken(position, found, "a block is missing, added or out of place")


def check_timestamp(block: Stored) -> Broken | None:
    """Return how the timestamp is out of range or before the one before, or None."""
    return timestamp_follows(block.previous_timestamp, block.header.timestamp)


def timestamp_follows(previous: int | None, found: int) -> Broken | None:
    """Return how `found` cannot follow `previous` (µs; None where not known), or None."""
    if found >= LIMIT_63:
        return Broken(f"below {LIMIT_63}", found, "the timestamp is out of range")
    if previous is not None and found < previous:
        return Broken(f"{previous} or later", found, "the timestamp is before the one before")
    return None


def check_link(block: Stored) -> Broken | None:
    """Return how the block does not link to the stored hash of the one before, or None."""
    previous = NO_HASH if block.position == 0 else block.previous_hash
    return link_follows(previous, block.header.previous_hash)


def link_follows(previous: bytes | None, found: bytes) -> Broken | None:
    """Return how `found` is not the hash `previous` (None where it is not known), or None."""
    if previous is None or found == previous:
        return None
    return Broken(previous.hex(), found.hex(), "previous_hash is not the hash of the block before")


def check_hash(block: Stored) -> Broken | None:
    """Return how the stored hash is not the hash of the header, or None."""
    computed = block.header.hash
    if block.hash == computed:
        return None
    return Broken(computed.hex(), block.hash.hex(), "the header or its stored hash was changed")


def check_size(block: Stored) -> Broken | None:
    """Return how the size is not that of the data stored, or None."""
    if block.header.size == block.size:
        return None
    return Broken(block.header.size, block.size, "the data has another length than was recorded")


def check_data_root(block: Stored) -> Broken | None:
    """Return how the data root is not that of the entries stored, or None.

    Of an erased block it is not asked, but that a record says so: see `erasure_recorded`.
    """
    found = tree_hash(leaf_hash(entry) for entry in block.entries)
    if block.header.data_root == found or block.is_erased:
        return None
    return Broken(block.header.data_root.hex(), found.hex(), "the data was changed")


def check_work(block: Stored) -> Broken | None:
    """Return how the block lacks the work that is asked for, or shows some where none is, or None.

    Where the terms are not known, a block is held to the target that it claims itself.
    """
    bits, nonce = block.header.bits, block.header.nonce
    asert = block.terms.asert if block.terms else None
    if not (asert if block.terms else bits):
        if bits == nonce == 0:
            return None
        shown = "bits {:08x}, nonce {:016x}"
        meaning = "this ledger asks for no work"
        return Broken(shown.format(0, 0), shown.format(bits, nonce), meaning)
    if block.position == 0:
        return _first_target(bits, nonce)
    if broken := _target_met(bits, block.hash):
        return broken
    if asert is None or block.previous_timestamp is None:
        return None
    return target_follows(asert, block.position - 1, block.previous_timestamp, bits)


def _first_target(bits: int, nonce: int) -> Broken | None:
    """Return how these are not the bits and nonce of the genesis of a ledger of work, or None."""
    if not is_first_target(bits):
        expected = f"a target of at most {MAX_BITS:08x}"
        return Broken(expected, f"{bits:08x}", "genesis asks for no target that can be met")
    if nonce:
        return Broken(f"nonce {0:016x}", f"nonce {nonce:016x}", "genesis needs no work")
    return None


def _target_met(bits: int, found: bytes) -> Broken | None:
    """Return how the hash `found` is past the target that `bits` stand for, or None."""
    if not is_target(bits):
        return Broken("a target", f"{bits:08x}", "the bits are no target")
    most = target_of(bits).to_bytes(HASH_BYTES, "big")
    if found <= most:
        return None
    return Broken(f"at most {most.hex()}", found.hex(), "the hash is past the target: no work")


def target_follows(asert: Asert, position: int, timestamp: int, found: int) -> Broken | None:
    """Return how bits `found` are not those after a block, by position and timestamp, or None."""
    expected = asert.bits_after(position, timestamp)
    if found == expected:
        return None
    return Broken(f"{expected:08x}", f"{found:08x}", "the target is not the one asked for")


def check_genesis(block: Stored) -> Broken | None:
    """Return how block 0 does not record a genesis, or None."""
    if block.position > 0:
        return None
    try:
        Genesis.of(Block(block.header, block.hash, tuple(map(Entry.from_bytes, block.entries))))
    except FormatError as error:
        return Broken("a genesis of format 1", str(error), "the ledger's own rules are unreadable")
    return None


def check_limits(block: Stored) -> Broken | None:
    """Return how the block is larger than its ledger allows, or None."""
    limits = block.terms.limits if block.terms else _ANY
    for name in ("count", "size"):
        most, found = getattr(limits, name), getattr(block.header, name)
        if found > most:
            return Broken(f"{name} at most {most}", found, f"the {name} is past the limit")
    return None


def erasure_recorded(is_recorded: bool) -> Broken | None:
    """Return how no record after an erased block names it, or None."""
    if is_recorded:
        return None
    return Broken("a record of its erasure", "none", "the entry was removed without a record")


class Rule(NamedTuple):
    """A rule of the format: its number is its place in `RULES`, counted from 1."""

    name: str
    check: Callable[[Stored], Broken | None]


RULES: Final = (
    Rule("version", check_version),
    Rule("kind", check_kind),
    Rule("count", check_count),
    Rule("index", check_index),
    Rule("timestamp", check_timestamp),
    Rule("link", check_link),
    Rule("hash", check_hash),
    Rule("size", check_size),
    Rule("data_root", check_data_root),
    Rule("work", check_work),
    Rule("genesis", check_genesis),
    Rule("limits", check_limits),
)
"""Those that ask a block and what is before it, in the order of checking. A stored block's fields
are judged before its bytes, so that an edit has one name: the block after an edited one links to
its *stored* hash, and stays good."""

OF_HEADERS: Final = tuple(
    rule for rule in RULES if rule.name not in {"count", "size", "data_root", "genesis"}
)
"""Those that need no data."""

ERASURE: Final = "erasure"
"""The last rule asks what comes after: a later record names an erased block."""

NUMBERS: Final = {
    name: number for number, name in enumerate([*(rule.name for rule in RULES), ERASURE], start=1)
}
"""Rule name to number, from 1."""


def first_broken(block: Stored, asked: Sequence[Rule] = RULES) -> Failure | None:
    """Return the failure of the first rule that `block` breaks, or None for a valid block.

    `asked` are some of `RULES`, in their order.
    """
    for rule in asked:
        if broken := rule.check(block):
            return failure(block.position, rule.name, broken)
    return None


def failure(index: int, rule: str, broken: Broken) -> Failure:
    """Put `broken` into the words of a `Failure`."""
    expected, found, meaning = broken
    message = f"block {index} breaks rule {rule!r}: {meaning} (expected {expected}, found {found})"
    return Failure(index, rule, expected, found, message)
