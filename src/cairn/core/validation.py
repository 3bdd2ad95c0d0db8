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
from cairn.core.genesis import Limits
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
from cairn.core.rules import ERASURE, NUMBERS, Failure, Stored
from cairn.core.segment import Segment

_WORDS: Final = ">u8"
"""Hashes are compared as four 8-byte words each."""

Named = tuple[int, bytes]
"""A block by its position, and the data root that it has, or that a record says that it has."""


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
    link: bytes
    """`previous_hash` of the first block: what the block before must hash to."""
    last_hash: bytes
    """Stored hash of the last block."""
    first_timestamp: int
    """µs."""
    last_timestamp: int
    """µs."""
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


def validate(segment: Segment, hasher: Hasher, limits: Limits, *, every: bool = False) -> Summary:
    """Check every rule on every block of `segment`; `limits` are those of the chain's genesis.

    How its first block follows the one before is left to `+` (genesis follows nothing). With
    `every`, the summary lists each failing block, else the first.
    """
    screened = hasher.screen(segment, limits)
    bad = screen(segment, hasher, limits) if screened is None else screened
    size = segment.sizes.sum() if screened is None else len(segment.data)
    erased = _excuse_erased(segment, bad, hasher, limits) if bad.any() else []
    failures = []
    for i in _suspects(segment, bad, limits):
        stored = _stored(segment, i, limits)
        failure = rules.first_broken(stored)
        if failure is None and stored.is_erased:  # while it was read
            erased.append(i)
            continue
        # The screen and the rules are two statements of one thing; never believe just one.
        assert failure is not None, f"block {segment.start + i} was screened out by no rule"
        failures.append(failure)
        if not every:
            break
    timestamps = segment.fields["timestamp"]
    return Summary(
        start=segment.start,
        stop=segment.stop,
        blocks=len(segment),
        entries=len(segment.offsets) - 1,
        nbytes=segment.headers.nbytes + int(size),
        link=segment.fields["previous_hash"][0].tobytes(),
        last_hash=segment.hashes[-1].tobytes(),
        first_timestamp=int(timestamps[0]),
        last_timestamp=int(timestamps[-1]),
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
    segment: Segment, bad: NDArray[np.bool_], hasher: Hasher, limits: Limits
) -> list[int]:
    """Take those off `bad` that are erased and break no rule but `data_root`; return them."""
    excused = segment.erased & bad
    if excused.any():
        excused &= ~_screen_all_but_data(segment, hasher, limits)
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


def _first_of_each(failures: Iterable[Failure], *, every: bool) -> tuple[Failure, ...]:
    """Keep the failure with the lowest rule number of each block, or of the first block only.

    The order is total, so that it does not matter which failures meet first.
    """
    by_index: dict[int, Failure] = {}
    for failure in sorted(failures, key=lambda f: (f.index, NUMBERS[f.rule], f.message)):
        by_index.setdefault(failure.index, failure)
    kept = tuple(by_index.values())
    return kept if every else kept[:1]


def _stored(segment: Segment, i: int, limits: Limits) -> Stored:
    """Return block i as the rules want to see it."""
    return Stored(
        position=segment.start + i,
        header=Header.unpack(segment.headers[i].tobytes()),
        hash=segment.hashes[i].tobytes(),
        entries=segment.entries(i),
        size=int(segment.sizes[i]),
        previous_hash=segment.hashes[i - 1].tobytes() if i else None,
        previous_timestamp=int(segment.fields["timestamp"][i - 1]) if i else None,
        limits=limits,
    )


def _suspects(segment: Segment, bad: NDArray[np.bool_], limits: Limits) -> list[int]:
    """Return, in order, every i whose block breaks a rule; `bad` are those screened out."""
    suspects: list[int] = np.flatnonzero(bad).tolist()
    if segment.start == 0 and 0 not in suspects[:1]:
        genesis = rules.first_broken(_stored(segment, 0, limits))
        suspects[:0] = [0] if genesis else []
    return suspects


def screen(segment: Segment, hasher: Hasher, limits: Limits) -> NDArray[np.bool_]:
    """Return `(n,)`: which blocks break a rule, but for what only genesis is asked.

    This is what `Hasher.screen` is held to, and the way for every segment that it leaves. Erased
    blocks are among them, for their data root: most segments have none, so they are seen to after.
    """
    bad = _screen_all_but_data(segment, hasher, limits)
    bad |= _differ(segment.fields["data_root"], _data_roots(segment, hasher))
    return bad


def _screen_all_but_data(segment: Segment, hasher: Hasher, limits: Limits) -> NDArray[np.bool_]:
    """Return the same but for the rule `data_root`."""
    fields = segment.fields
    kind, count = fields["kind"], fields["count"]
    timestamp = fields["timestamp"].astype(np.uint64)
    positions = np.uint64(segment.start) + np.arange(len(segment), dtype=np.uint64)
    bad: NDArray[np.bool_] = (fields["version"] != FORMAT_VERSION) | (kind > max(Kind))
    bad |= (kind != Kind.BATCH) & (count != 1)
    bad |= np.diff(segment.block_bounds) != count
    bad |= fields["index"] != positions
    bad |= timestamp >= LIMIT_63
    bad[1:] |= timestamp[1:] < timestamp[:-1]
    bad[1:] |= _differ(fields["previous_hash"][1:], segment.hashes[:-1])
    bad |= _differ(segment.hashes, _header_hashes(segment, hasher))
    bad |= segment.sizes != fields["size"]
    bad |= (fields["bits"] != 0) | (fields["nonce"] != 0)
    bad |= (count > limits.count) | (fields["size"] > limits.size)
    return bad


def _header_hashes(segment: Segment, hasher: Hasher) -> NDArray[np.uint8]:
    headers = np.ascontiguousarray(segment.headers).reshape(-1)
    starts = np.arange(0, len(headers), HEADER_BYTES, dtype=np.int64)
    return hasher.leaf_hashes(headers, starts, starts + HEADER_BYTES)


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
