"""Validation as a fold: each segment gives a summary, and summaries combine in any order.

The columns are screened in bulk for blocks that break some rule; only those are handed to
`cairn.core.rules`, which names the rule. A good chain never loops over blocks in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cairn.core import rules
from cairn.core.entry import Entry
from cairn.core.erasure import Erasure
from cairn.core.genesis import Terms
from cairn.core.hasher import Hasher
from cairn.core.header import (
    DATA_ROOT,
    FORMAT_VERSION,
    HEADER_BYTES,
    LIMIT_63,
    Header,
    Kind,
)
from cairn.core.merkle import EMPTY_ROOT, HASH_BYTES
from cairn.core.rules import ERASURE, NUMBERS, Failure, InvalidChainError, Stored
from cairn.core.segment import Segment
from cairn.core.work import Asert, are_met, total_work

_WORDS: Final = ">u8"
"""Hashes are compared as four 8-byte words each."""

Named = tuple[int, bytes]
"""A block by its position, and the data root that it has, or that a record says that it has."""

FEW_HEADERS: Final = 8
"""Headers for which asking the rules one by one is quicker than looking at columns."""


@dataclass(frozen=True, slots=True)
class Edge:
    """The block that others are to follow."""

    index: int
    hash: bytes
    timestamp: int
    """µs."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a validated segment says of itself: all that its neighbours need to know.

    `a + b` is the summary of both where b comes after a. It is associative, so segments may be
    validated in any order, by any number of workers.
    """

    start: int
    """Position of the first block."""
    stop: int
    """Position after the last block."""
    blocks: int
    entries: int
    nbytes: int
    """Bytes of headers and entries that were checked."""
    work: int
    """What the headers' bits ask for, genesis not counted: chain work if nothing fails."""
    link: bytes
    """`previous_hash` of the first block: what the block before must hash to."""
    last_hash: bytes
    """Stored hash of the last block."""
    first_bits: int
    first_timestamp: int
    """µs."""
    last_timestamp: int
    """µs."""
    asert: Asert | None
    """What the targets are judged by, if any."""
    every: bool
    """Whether every failing block is kept, or the first only."""
    failures: tuple[Failure, ...]
    """At most one a block, the first rule it breaks; by position."""
    erased: tuple[Named, ...] = ()
    """The erased blocks, by position: whether a record names each is asked when all is read."""

    def __add__(self, other: Summary) -> Summary:
        found = [*self.failures, *other.failures, *_boundary(self, other)]
        return replace(
            self,
            stop=other.stop,
            blocks=self.blocks + other.blocks,
            entries=self.entries + other.entries,
            nbytes=self.nbytes + other.nbytes,
            work=self.work + other.work,
            last_hash=other.last_hash,
            last_timestamp=other.last_timestamp,
            failures=_first_of_each(found, every=self.every),
            erased=self.erased + other.erased,
        )

    def unrecorded(self, recorded: Set[Named]) -> Iterator[Failure]:
        """Yield which erased blocks break rule `erasure`, where the records name `recorded`."""
        for named in self.erased:
            if broken := rules.erasure_recorded(named in recorded):
                yield rules.failure(named[0], ERASURE, broken)


def validate(segment: Segment, hasher: Hasher, terms: Terms, *, every: bool = False) -> Summary:
    """Check every rule on every block of `segment`; `terms` are those of the chain's genesis.

    How its first block follows the one before is left to `+` (genesis follows nothing). With
    `every`, the summary lists each failing block, else the first.
    """
    screened = hasher.screen(segment, terms)
    bad = screen(segment, hasher, terms) if screened is None else screened
    size = segment.sizes.sum() if screened is None else len(segment.data)
    erased: list[int] = []
    if terms.asert:  # nothing is excused: what can be erased has no place there
        bad |= _screen_work(segment, terms.asert)
    elif bad.any():
        erased = _excuse_erased(segment, bad, hasher, terms)
    failures = []
    for i in _suspects(segment, bad, terms):
        stored = _stored(segment, i, terms)
        failure = rules.first_broken(stored)
        if failure is None and stored.is_erased:  # while it was read
            erased.append(i)
            continue
        # The screen and the rules are two statements of one thing; never believe just one.
        assert failure is not None, f"block {segment.start + i} was screened out by no rule"
        failures.append(failure)
        if not every:
            break
    bits, timestamps = segment.fields["bits"], segment.fields["timestamp"]
    return Summary(
        start=segment.start,
        stop=segment.stop,
        blocks=len(segment),
        entries=len(segment.offsets) - 1,
        nbytes=segment.headers.nbytes + int(size),
        work=total_work(bits[1:] if segment.start == 0 else bits) if terms.asert else 0,
        link=segment.fields["previous_hash"][0].tobytes(),
        last_hash=segment.hashes[-1].tobytes(),
        first_bits=int(bits[0]),
        first_timestamp=int(timestamps[0]),
        last_timestamp=int(timestamps[-1]),
        asert=terms.asert,
        every=every,
        failures=tuple(failures),
        erased=tuple(_named(segment, i) for i in sorted(erased)),
    )


def erasures(segment: Segment) -> Iterator[Named]:
    """Yield what the records of erasures in `segment` name, of the blocks before each of them.

    Not a part of the fold: in most chains nothing is erased, and so nothing asks for them.
    """
    for i in np.flatnonzero(segment.fields["kind"] == Kind.RECORD).tolist():
        entries = segment.entries(i)
        erasure = Erasure.of(Entry.from_bytes(entries[0]).canonical) if len(entries) == 1 else None
        if erasure is not None and 0 <= erasure.index < segment.start + i:
            yield erasure.index, erasure.id


def _excuse_erased(
    segment: Segment, bad: NDArray[np.bool_], hasher: Hasher, terms: Terms
) -> list[int]:
    """Take those off `bad` that are erased and break no rule but `data_root`; return them."""
    excused = segment.erased & bad
    if excused.any():
        excused &= ~_screen_all_but_data(segment, hasher, terms)
        bad &= ~excused
    places: list[int] = np.flatnonzero(excused).tolist()
    return places


def _named(segment: Segment, i: int) -> Named:
    return segment.start + i, segment.headers[i, DATA_ROOT].tobytes()


def _boundary(before: Summary, after: Summary) -> Iterable[Failure]:
    """Yield how the first block of `after` does not follow the last of `before`."""
    if broken := rules.index_follows(before.stop, after.start):
        yield rules.failure(before.stop, "index", broken)
        return
    if broken := rules.timestamp_follows(before.last_timestamp, after.first_timestamp):
        yield rules.failure(after.start, "timestamp", broken)
    if broken := rules.link_follows(before.last_hash, after.link):
        yield rules.failure(after.start, "link", broken)
    if before.asert is None or ("work", after.start) in ((f.rule, f.index) for f in after.failures):
        return
    last = before.stop - 1, before.last_timestamp
    if broken := rules.target_follows(before.asert, *last, after.first_bits):
        yield rules.failure(after.start, "work", broken)


def _first_of_each(failures: Iterable[Failure], *, every: bool) -> tuple[Failure, ...]:
    """Keep the failure with the lowest rule number of each block, or of the first block only.

    The order is total, so that it does not matter which failures meet first.
    """
    by_index: dict[int, Failure] = {}
    for failure in sorted(failures, key=lambda f: (f.index, NUMBERS[f.rule], f.message)):
        by_index.setdefault(failure.index, failure)
    kept = tuple(by_index.values())
    return kept if every else kept[:1]


def _stored(segment: Segment, i: int, terms: Terms) -> Stored:
    """Return block i as the rules want to see it."""
    return Stored(
        position=segment.start + i,
        header=Header.unpack(segment.headers[i].tobytes()),
        hash=segment.hashes[i].tobytes(),
        entries=segment.entries(i),
        size=int(segment.sizes[i]),
        previous_hash=segment.hashes[i - 1].tobytes() if i else None,
        previous_timestamp=int(segment.fields["timestamp"][i - 1]) if i else None,
        terms=terms,
    )


def _suspects(segment: Segment, bad: NDArray[np.bool_], terms: Terms) -> list[int]:
    """Return, in order, every i whose block breaks a rule; `bad` are those screened out."""
    suspects: list[int] = np.flatnonzero(bad).tolist()
    if segment.start == 0 and 0 not in suspects[:1]:
        genesis = rules.first_broken(_stored(segment, 0, terms))
        suspects[:0] = [0] if genesis else []
    return suspects


def screen(segment: Segment, hasher: Hasher, terms: Terms) -> NDArray[np.bool_]:
    """Return `(n,)`: which blocks break a rule, but for what only some blocks are asked.

    That is what genesis is asked, and what a ledger of work asks of kind, bits and nonce. This is
    what `Hasher.screen` is held to, and the way for every segment that it leaves. Erased blocks are
    among them, for their data root: most segments have none, so they are seen to after.
    """
    bad = _screen_all_but_data(segment, hasher, terms)
    bad |= _differ(segment.fields["data_root"], _data_roots(segment, hasher))
    return bad


def _screen_all_but_data(segment: Segment, hasher: Hasher, terms: Terms) -> NDArray[np.bool_]:
    """Return the same but for the rule `data_root`."""
    fields = segment.fields
    bad = _screen_headers(segment, terms)
    bad |= (fields["kind"] != Kind.BATCH) & (fields["count"] != 1)
    bad |= np.diff(segment.block_bounds) != fields["count"]
    bad |= _differ(segment.hashes, _header_hashes(segment.headers, hasher))
    bad |= segment.sizes != fields["size"]
    return bad


def _screen_headers(segment: Segment, terms: Terms) -> NDArray[np.bool_]:
    """Return the same but for what asks hashes to be computed, or the data."""
    fields = segment.fields
    kind, count = fields["kind"], fields["count"]
    timestamp = fields["timestamp"].astype(np.uint64)
    positions = np.uint64(segment.start) + np.arange(len(segment), dtype=np.uint64)
    bad: NDArray[np.bool_] = (fields["version"] != FORMAT_VERSION) | (kind > max(Kind))
    bad |= fields["index"] != positions
    bad |= timestamp >= LIMIT_63
    bad[1:] |= timestamp[1:] < timestamp[:-1]
    bad[1:] |= _differ(fields["previous_hash"][1:], segment.hashes[:-1])
    if terms.asert is None:
        bad |= (fields["bits"] != 0) | (fields["nonce"] != 0)
    bad |= (count > terms.limits.count) | (fields["size"] > terms.limits.size)
    return bad


def _screen_work(segment: Segment, asert: Asert) -> NDArray[np.bool_]:
    """Return `(n,)`: which blocks break what a ledger of work asks of kind, bits and hash.

    Genesis is not looked at; what the first block's bits must be is left to `+`.
    """
    fields = segment.fields
    bits, timestamps = fields["bits"], fields["timestamp"]
    bad: NDArray[np.bool_] = fields["kind"] != Kind.BATCH
    bad |= ~are_met(bits, segment.hashes)
    bad[1:] |= bits[1:] != asert.bits_after_each(segment.start, timestamps[:-1])
    bad[0] &= segment.start != 0
    return bad


def check_headers(
    headers: NDArray[np.uint8], edge: Edge, terms: Terms, hasher: Hasher
) -> tuple[NDArray[np.uint8], int]:
    """Check all that the rules ask of headers `(n, 104)`, n > 0, which are to follow `edge`.

    That is all but what needs the data: number of entries, size, data root. Returns the hashes,
    `(n, 32)`, and the work of them all.

    Raises:
        InvalidChainError: the first header that breaks a rule, the first rule that it breaks.
    """
    hashes = _header_hashes(headers, hasher)
    segment = Segment(
        edge.index + 1, headers, hashes, np.empty(0, np.uint8), np.zeros(1, np.uint64)
    )
    suspects: Iterable[int] = range(len(segment))
    if len(segment) > FEW_HEADERS:
        bad = _screen_headers(segment, terms)
        bad |= _screen_work(segment, terms.asert) if terms.asert else False
        bad[0] = True  # it is not looked at how that one follows `edge`
        suspects = np.flatnonzero(bad).tolist()
    for i in suspects:
        before = edge if i == 0 else _edge(segment, i - 1)
        stored = Stored(
            position=segment.start + i,
            header=Header.unpack(headers[i].tobytes()),
            hash=hashes[i].tobytes(),
            entries=(),
            size=0,
            previous_hash=before.hash,
            previous_timestamp=before.timestamp,
            terms=terms,
        )
        if failure := rules.first_broken(stored, rules.OF_HEADERS):
            raise InvalidChainError(failure)
        assert i == 0 or len(segment) <= FEW_HEADERS, f"header {i} was screened out by no rule"
    return hashes, total_work(segment.fields["bits"]) if terms.asert else 0


def _edge(segment: Segment, i: int) -> Edge:
    timestamp = int(segment.fields["timestamp"][i])
    return Edge(segment.start + i, segment.hashes[i].tobytes(), timestamp)


def _header_hashes(headers: NDArray[np.uint8], hasher: Hasher) -> NDArray[np.uint8]:
    data = np.ascontiguousarray(headers).reshape(-1)
    starts = np.arange(0, len(data), HEADER_BYTES, dtype=np.int64)
    return hasher.leaf_hashes(data, starts, starts + HEADER_BYTES)


def _data_roots(segment: Segment, hasher: Hasher) -> NDArray[np.uint8]:
    """Return the data root of each block's stored entries, `(n, 32)`."""
    level = hasher.leaf_hashes(np.ascontiguousarray(segment.data), *segment.entry_bounds)
    counts = np.diff(segment.block_bounds)
    while counts.max() > 1:
        level, counts = _parents(level, counts, hasher)
    roots = np.empty((len(segment), HASH_BYTES), np.uint8)
    roots[counts == 1] = level
    roots[counts == 0] = np.frombuffer(EMPTY_ROOT, np.uint8)
    return roots


def _parents(
    level: NDArray[np.uint8], counts: NDArray[np.int64], hasher: Hasher
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the next level of many trees, and how many nodes each has there.

    `level` is `(sum(counts), 32)`, a run of `counts[i]` nodes for tree i. Pairs are hashed; an odd
    node at the end is carried up.
    """
    above = (counts + 1) // 2
    firsts = np.repeat(np.cumsum(counts) - counts, above)
    lefts = firsts + 2 * (np.arange(len(firsts)) - np.repeat(np.cumsum(above) - above, above))
    paired = lefts + 1 < firsts + np.repeat(counts, above)
    parents = level[lefts]
    pairs = lefts[paired]
    children = np.concatenate([level[pairs], level[pairs + 1]], axis=1)
    parents[paired] = hasher.node_hashes(children)
    return parents, above


def _differ(left: NDArray[np.generic], right: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return `(n,)`: whether the n-th hashes differ, compared as 8-byte words."""
    a = np.ascontiguousarray(left).view(_WORDS).reshape(-1, HASH_BYTES // 8)
    b = np.ascontiguousarray(right).view(_WORDS).reshape(-1, HASH_BYTES // 8)
    differ: NDArray[np.bool_] = np.any(a != b, axis=1)
    return differ
