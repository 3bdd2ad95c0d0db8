"""The chain of a work ledger: where it ends, what may follow, and how another takes its place.

One thread uses it, and no other writes to the store meanwhile. What is stored is taken as it is:
everything new is checked here before it comes in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cairn.core import rules
from cairn.core.block import Block
from cairn.core.entry import SALT_BYTES
from cairn.core.errors import CairnError, DamagedError, EntryError
from cairn.core.genesis import Genesis, Terms
from cairn.core.hasher import Hasher
from cairn.core.header import HEADER_BYTES, HEADER_DTYPE, LIMIT_63, Header, Kind
from cairn.core.merkle import HASH_BYTES, leaf_hash, tree_hash
from cairn.core.rules import Broken, InvalidChainError
from cairn.core.segment import Segment
from cairn.core.validation import Edge, check_headers, validate
from cairn.core.work import total_work, work_of
from cairn.encoding import Encoder
from cairn.store.interface import Store

REMEMBERED: Final = 1024
"""Blocks below the final depth whose hashes are kept at hand, about: where branches meet us."""
LOCATOR_STEPS: Final = 10
"""Hashes in a locator before the steps between them double, as in Bitcoin."""
FINAL_AT_ONCE: Final = 65_536
"""Blocks that become final with one advance, at most: nodes of the tree are made of them meanwhile,
and about as many are sealed. For what a first sync has brought, it takes some more blocks."""
FEW_FINAL: Final = 8192
"""Blocks whose entries are looked for one by one among those that are kept: some 60 ms."""


class TooDeepError(CairnError):
    """A branch with more work would take the place of final blocks: no node may follow it."""


class Run(NamedTuple):
    """Headers that follow one another, checked."""

    headers: NDArray[np.uint8]
    """`(n, 104)`."""
    hashes: NDArray[np.uint8]
    """`(n, 32)`."""
    work: int
    """Of them all."""

    @property
    def end(self) -> Edge:
        """The last of them."""
        last = Header.unpack(self.headers[-1].tobytes())
        return Edge(last.index, self.hashes[-1].tobytes(), last.timestamp)


class Move(NamedTuple):
    """How the chain has changed."""

    disconnected: tuple[Segment, ...]
    connected: tuple[Segment, ...]


class _End(NamedTuple):
    """Where the chain ends: what other threads may ask for while it changes."""

    tip: Edge
    work: int
    final: int


class _Known(NamedTuple):
    hash: bytes
    timestamp: int
    work: int
    """Of the chain, this block included."""


class Chain:
    """The chain of a work ledger, in a store that holds at least genesis.

    Any thread may ask for `tip`, `length`, `work` and `final` while it changes, and for what is in
    the `store`.
    """

    def __init__(self, store: Store, hasher: Hasher) -> None:
        """Take the chain as it is stored.

        Raises:
            DamagedError: it cannot be read.
            FormatError: it is not that of a work ledger.
        """
        self.store = store
        """What it lies in."""
        self._hasher = hasher
        genesis = self._block(0)
        self.id = genesis.stored_hash
        """The hash of genesis: what two nodes agree on when they agree on the rules."""
        self.terms = Terms.of(genesis)
        self._encoder = Encoder(Genesis.of(genesis).limits)
        self._base = 0  # position of the first of `_known`
        self._known: list[_Known] = []
        self._positions: dict[bytes, int] = {}  # of those known
        self._forgotten: int | None = None  # final blocks whose entries were let go of
        final = store.final()
        self._remember()
        self._end = self._known_end(final)  # replaced as a whole

    @property
    def tip(self) -> Edge:
        """The last block."""
        return self._end.tip

    @property
    def length(self) -> int:
        """Blocks, genesis included."""
        return self._end.tip.index + 1

    @property
    def work(self) -> int:
        """The work of all blocks: by it, and nothing else, chains are compared."""
        return self._end.work

    @property
    def final(self) -> int:
        """Blocks that can no longer change, from genesis on."""
        return self._end.final

    @property
    def header(self) -> bytes:
        """The last block's header, 104 bytes."""
        return self.headers(self.length - 1, 1)

    def position(self, block_hash: bytes) -> int | None:
        """Return the position of a block of this chain (hash of 32 bytes), or None."""
        known = self._positions.get(block_hash)
        if known is not None or self._base == 0:
            return known
        found = self.store.find(block_hash)
        return found if found is not None and found < self._base else None

    def edge(self, position: int) -> Edge:
        """Return what may be built on at a position of this chain."""
        if position >= self._base:
            known = self._known[position - self._base]
            return Edge(position, known.hash, known.timestamp)
        headers = self.store.headers(position, position + 1)
        hashes = self.store.hashes(position, position + 1)
        if len(headers) != 1 or len(hashes) != 1:
            raise DamagedError(f"block {position} is missing")
        return Edge(position, hashes[0].tobytes(), Header.unpack(headers[0].tobytes()).timestamp)

    def has(self, edge: Edge) -> bool:
        """Whether a block is on this chain."""
        return edge.index < self.length and self.edge(edge.index).hash == edge.hash

    def work_at(self, position: int) -> int:
        """Return the work of the chain up to a block, which is included.

        Far below the end all headers after it are read.
        """
        if position >= self._base:
            return self._known[position - self._base].work
        bits = self.store.headers(position + 1, self._base + 1).view(HEADER_DTYPE)["bits"]
        return self._known[0].work - total_work(bits.reshape(-1))

    def work_above(self, position: int) -> int:
        """Return what `work_at` does, or more where the block is far below the end: at once."""
        return self._known[max(position - self._base, 0)].work

    def locator(self) -> list[bytes]:
        """Return hashes of this chain, the last first, further and further apart, to genesis."""
        found, position, step = [], self.length - 1, 1
        while position > 0:
            found.append(self.edge(position).hash)
            step = step * 2 if len(found) >= LOCATOR_STEPS else 1
            position -= step
        return [*found, self.id]

    def after(self, locator: Sequence[bytes]) -> int | None:
        """Return the position after the first block of a locator that is on this chain."""
        for block_hash in locator:
            position = self.position(block_hash)
            if position is not None:
                return position + 1
        return None

    def headers(self, start: int, limit: int) -> bytes:
        """Return the headers from a position on, as many as there are up to a limit."""
        stop = min(start + limit, self.length)
        return self.store.headers(start, stop).tobytes()

    def bodies(self, first: int, limit: int, size: int) -> tuple[bytes, bytes]:
        """Return the entries of blocks from a position on: lengths (u32, big-endian), and data.

        Of at most `limit` blocks, and of no more than `size` bytes unless the first alone is
        larger.
        """
        lengths: list[bytes] = []
        data: list[bytes] = []
        room = size
        for segment in self.store.scan(first, min(first + limit, self.length)):
            ends = np.cumsum(segment.sizes)
            n = int(np.searchsorted(ends, room, "right"))
            if n == 0 and not data:
                n = 1
            if n > 0:
                piece = segment.cut(0, n)
                data.append(piece.data.tobytes())
                lengths.append(np.diff(piece.offsets).astype(">u4").tobytes())
                room -= int(ends[n - 1])
            if n < len(segment):
                break
        return b"".join(lengths), b"".join(data)

    def check_headers(self, headers: NDArray[np.uint8], before: Edge) -> Run:
        """Check headers `(n, 104)`, at least one, which follow a block.

        Raises:
            InvalidChainError: the first that breaks a rule.
        """
        hashes, work = check_headers(headers, before, self.terms, self._hasher)
        return Run(headers, hashes, work)

    def check_bodies(self, segment: Segment) -> None:
        """Check blocks whose headers were checked already: all else that the rules ask for.

        Raises:
            InvalidChainError: the first that breaks a rule, or whose data is not canonical.
        """
        for failure in validate(segment, self._hasher, self.terms).failures:
            raise InvalidChainError(failure)
        stored = segment.data.tobytes()
        starts, stops = (bounds.tolist() for bounds in segment.entry_bounds)
        texts = [stored[a + SALT_BYTES : b] for a, b in zip(starts, stops, strict=True)]
        encoded = self._encoder.texts(texts)
        if encoded.error is None and encoded.texts == texts:
            return
        good = next((i for i, t in enumerate(encoded.texts) if t != texts[i]), len(encoded.texts))
        at = int(np.searchsorted(segment.block_bounds, good, "right")) - 1
        broken = Broken("canonical JSON", str(encoded.error or "another form"), "not canonical")
        raise InvalidChainError(rules.failure(segment.start + at, "canonical", broken))

    def is_entry(self, entry: bytes) -> bool:
        """Whether bytes are an entry that a block of this chain may hold."""
        text = entry[SALT_BYTES:]
        try:
            return len(entry) > SALT_BYTES and self._encoder.text(text) == text
        except EntryError:
            return False

    def has_entry(self, entry_id: bytes) -> bool:
        """Whether an entry is on this chain."""
        return bool(self.store.find_entry(entry_id))

    def ids(self, segment: Segment) -> list[bytes]:
        """Return the ids of all entries of checked blocks, in order."""
        if len(segment.offsets) == 1:
            return []
        rows = self._hasher.leaf_hashes(np.ascontiguousarray(segment.data), *segment.entry_bounds)
        return [row.tobytes() for row in rows]

    def advance(self, pieces: Sequence[Segment], most_final: int = LIMIT_63) -> Move:
        """Let checked blocks follow the block before the first of them, in place of what does now.

        Durable when it returns. Requires that they are more work than what they replace. All that
        enough blocks follow becomes final, but no more than `most_final` blocks in all, and no more
        than `FINAL_AT_ONCE` that were not.

        Raises:
            TooDeepError: a final block would go.
            OutcomeUnknownError: a write failed; make another `Chain` of the store.
        """
        segment = Segment.join(pieces)
        if segment.start < self.final:
            raise TooDeepError(f"block {segment.start} is final, as are {self.final} in all")
        gone = tuple(self.store.scan(segment.start, self.length))
        work = self.work_at(segment.start - 1) + total_work(segment.fields["bits"])
        assert work > self.work, "a chain never gives way to one of less work, or of as much"
        due = min(segment.stop - self.terms.final_depth, most_final)
        final = max(self.final, min(due, self.final + FINAL_AT_ONCE))
        self.store.advance(segment, work=work, final=final)
        self._follow(segment, final)
        return Move(gone, (segment,))

    def candidate(self, entries: Sequence[bytes], now: int) -> Segment:
        """Return a block of these entries that lacks only its nonce; `now` is in µs."""
        tip = self.tip
        assert self.terms.asert is not None
        header = Header(
            kind=Kind.BATCH,
            bits=self.terms.asert.bits_after(tip.index, tip.timestamp),
            index=tip.index + 1,
            previous_hash=tip.hash,
            timestamp=max(now, tip.timestamp),
            count=len(entries),
            size=sum(map(len, entries)),
            data_root=tree_hash(map(leaf_hash, entries)),
        ).pack()
        data = b"".join(entries)
        offsets = np.cumsum([0, *map(len, entries)], dtype=np.uint64)
        return Segment(
            tip.index + 1, _rows(header, HEADER_BYTES), _rows(leaf_hash(header), HASH_BYTES),
            np.frombuffer(data, np.uint8), offsets,
        )  # fmt: skip

    def waiting(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield id and bytes of what is to be mined, after a restart.

        What this node's user has given it, and what blocks hold that were taken off the chain.
        """
        for segment in self.store.sides():
            yield from self.unmined(segment)
        kept = self.store.pool()
        yield from self._without_mined([one.id for one in kept], [one.entry for one in kept])

    def unmined(self, segment: Segment) -> Iterator[tuple[bytes, bytes]]:
        """Return id and bytes of what checked blocks hold that is not on this chain, in order."""
        entries = [entry for i in range(len(segment)) for entry in segment.entries(i)]
        return self._without_mined(self.ids(segment), entries)

    def forget_final(self) -> None:
        """Let go of entries of this node's user that are final: they are kept until then.

        Looks all of them up the first time, and then only at the blocks that have become final
        since, unless these are many. May be called in another thread, by one at a time.

        Raises:
            OutcomeUnknownError: a write failed.
            DamagedError: a block cannot be read.
        """
        final = self.store.final()
        if self._forgotten is None or final - self._forgotten > FEW_FINAL:
            kept = [pooled.id for pooled in self.store.pool()]
            places = zip(kept, self.store.find_entries(kept), strict=True)
            self._forget([one for one, found in places if found and found[0][0] < final])
        else:
            for segment in self.store.scan(self._forgotten, final):
                self._forget([one for one in self.ids(segment) if self.store.pool_has(one)])
                self._forgotten = segment.stop
        self._forgotten = final

    def _without_mined(
        self, ids: Sequence[bytes], entries: Sequence[bytes]
    ) -> Iterator[tuple[bytes, bytes]]:
        places = self.store.find_entries(ids)
        return ((i, entry) for i, entry, at in zip(ids, entries, places, strict=True) if not at)

    def _forget(self, ids: Sequence[bytes]) -> None:
        if ids:
            self.store.pool_remove(ids)

    def _follow(self, segment: Segment, final: int) -> None:
        """Note that these blocks are on the chain now, and so many final."""
        keep = REMEMBERED + self.terms.final_depth
        work = self.work_at(segment.start - 1)
        for known in self._known[segment.start - self._base :]:
            del self._positions[known.hash]
        del self._known[segment.start - self._base :]
        skipped = max(len(segment) - keep, 0)
        if skipped:  # of so many none before is asked for
            self._known, self._positions = [], {}
            self._base = segment.start + skipped
            work += total_work(segment.fields["bits"][:skipped])
        fields = segment.fields[skipped:]
        rows = zip(
            count(self._base + len(self._known)),
            segment.hashes[skipped:],
            fields["timestamp"].tolist(),
            fields["bits"].tolist(),
            strict=False,
        )
        for position, row, timestamp, bits in rows:
            work += work_of(bits)
            block_hash = row.tobytes()
            self._known.append(_Known(block_hash, timestamp, work))
            self._positions[block_hash] = position
        if len(self._known) > 2 * keep:
            for known in self._known[:-keep]:
                del self._positions[known.hash]
            self._base += len(self._known) - keep
            del self._known[:-keep]
        self._end = self._known_end(final)

    def _known_end(self, final: int) -> _End:
        last = self._known[-1]
        index = self._base + len(self._known) - 1
        return _End(Edge(index, last.hash, last.timestamp), last.work, final)

    def _remember(self) -> None:
        """Take what is at hand from the store."""
        length = self.store.head().length
        start = max(length - REMEMBERED - self.terms.final_depth, 0)
        work = self.store.work()
        for segment in self.store.scan(start, length):
            bits = segment.fields["bits"].tolist()
            times = segment.fields["timestamp"].tolist()
            for row, timestamp, of in zip(segment.hashes, times, bits, strict=True):
                # Genesis asks for work of others, and has none itself.
                worth = work_of(of) if self._known or start > 0 else 0
                self._known.append(_Known(row.tobytes(), timestamp, worth))
        if len(self._known) != length - start:
            raise DamagedError(f"{length - start - len(self._known)} blocks are missing at the end")
        for i in reversed(range(len(self._known))):
            known = self._known[i]
            self._known[i] = known._replace(work=work)
            work -= known.work
        self._base = start
        self._positions = {known.hash: start + i for i, known in enumerate(self._known)}

    def _block(self, position: int) -> Block:
        block = self.store.get(position)
        if block is None:
            raise DamagedError(f"block {position} is missing")
        return block


def _rows(data: bytes, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).reshape(-1, width)
