"""A branch: a chain that peers have shown by headers, and what is here of its blocks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from cairn.core.header import HEADER_DTYPE
from cairn.core.segment import Segment
from cairn.core.validation import Edge
from cairn.ledger.chain import Run
from cairn.net import limits
from cairn.net.events import PeerId
from cairn.net.messages import Bodies, Refusal


@dataclass(eq=False, slots=True)
class Part:
    """Some headers of a branch, as many as came in one answer."""

    before: Edge
    end: Edge
    run: Run | None
    """None where they have to be asked for again."""

    @property
    def start(self) -> int:
        """Position of the first block."""
        return self.before.index + 1

    @property
    def stop(self) -> int:
        """Position after the last block."""
        return self.end.index + 1


@dataclass(frozen=True, slots=True)
class Span:
    """Some blocks of a part: what is asked for at once."""

    part: Part
    run: Run
    """The part's."""
    start: int
    stop: int

    @property
    def places(self) -> slice:
        """Where they are in the run."""
        return slice(self.start - self.part.start, self.stop - self.part.start)

    @property
    def last_hash(self) -> bytes:
        """Of the last block."""
        return bytes(self.run.hashes[self.places][-1])

    @property
    def answer_bytes(self) -> int:
        """Of the data of the blocks, as far as they come in one answer."""
        sizes = self.run.headers[self.places].view(HEADER_DTYPE).reshape(-1)["size"]
        return max(int(sizes[0]), min(int(sizes.sum()), limits.ANSWER_BYTES))

    def segment(self, message: Bodies) -> Segment:
        """Return the blocks of an answer, of which there may be fewer than were asked for.

        Raises:
            Refusal: it is not of whole blocks, from the first on.
        """
        headers, hashes = self.run.headers[self.places], self.run.hashes[self.places]
        lengths = np.frombuffer(message.lengths, ">u4")
        counts = headers.view(HEADER_DTYPE).reshape(-1)["count"]
        ends = np.cumsum(counts, dtype=np.int64)
        n = int(np.searchsorted(ends, len(lengths), "right"))
        if n == 0 or ends[n - 1] != len(lengths):
            raise Refusal("bodies", f"{len(lengths)} entries are not those of whole blocks")
        offsets = np.zeros(len(lengths) + 1, np.uint64)
        np.cumsum(lengths, out=offsets[1:], dtype=np.uint64)
        data = np.frombuffer(message.data, np.uint8)
        return Segment(self.start, headers[:n], hashes[:n], data, offsets)


class BodyRequest(NamedTuple):
    """Blocks that a peer was asked for."""

    branch: Branch
    span: Span
    asked: float
    until: float
    size: int
    """Bytes of data that may come."""


@dataclass(eq=False, slots=True)
class Branch:
    """What was shown, each header checked, from a block of our chain on; and its blocks."""

    base: Edge
    """The last block that is on our chain, too."""
    end: Edge
    work: int
    """Of the chain that ends there; no less than that, where `is_deep`."""
    before: int
    """What of that is of the blocks up to `base`, as it was when that was last looked at."""
    is_deep: bool
    """Whether following it would take final blocks off. Then no parts are kept."""
    since: float
    """When its first headers came."""
    shown: set[PeerId] = field(default_factory=set)
    """Who has shown it."""
    lacking: set[PeerId] = field(default_factory=set)
    """Who does not have it."""
    parts: deque[Part] = field(default_factory=deque)
    """From `base` on."""
    spans: deque[Span] = field(default_factory=deque)
    """Wanted, and asked of nobody."""
    here: dict[int, Segment] = field(default_factory=dict)
    """Blocks that have come, checked, by position."""
    cut: int = 0
    """The blocks before this position were in `spans`."""

    @property
    def is_long(self) -> bool:
        """Whether it is more than what one answer shows."""
        return len(self.parts) > 1

    def extend(self, run: Run) -> None:
        """Let checked headers go on with it."""
        if not self.is_deep:
            is_kept = sum(part.run is not None for part in self.parts) < limits.KEPT_PARTS
            self.parts.append(Part(self.end, run.end, run if is_kept else None))
        self.end = run.end
        self.work += run.work

    def rebase(self, base: Edge) -> None:
        """Let go of what is on our chain now: all up to `base`."""
        self.base = base
        while self.parts and self.parts[0].stop <= base.index + 1:
            self.parts.popleft()
        self.here = {at: piece for at, piece in self.here.items() if at > base.index}
        self.spans = deque(span for span in self.spans if span.stop > base.index + 1)

    def cut_next(self, window: int) -> Part | None:
        """Add to the spans what follows, up to so many parts ahead, as far as there are headers.

        Returns the first part whose headers have to be asked for again.
        """
        self.cut = max(self.cut, self.base.index + 1)
        if self.waiting_bytes > limits.WINDOW_BYTES:
            return None
        for part in islice(self.parts, window):
            if part.stop <= self.cut:
                continue
            if part.run is None:
                return part
            self.spans.append(Span(part, part.run, self.cut, part.stop))
            self.cut = part.stop
        return None

    def ready(self) -> list[Segment]:
        """Return the blocks that follow `base` without a gap, as far as they are here."""
        pieces: list[Segment] = []
        at = self.base.index + 1
        while (piece := self.here.get(at)) is not None:
            pieces.append(piece)
            at = piece.stop
        return pieces

    @property
    def waiting_bytes(self) -> int:
        """Of the data of blocks that are here."""
        return sum(len(piece.data) for piece in self.here.values())

    @property
    def first_missing(self) -> int:
        """Position of the first block that is not here."""
        return next((piece.stop for piece in reversed(self.ready())), self.base.index + 1)
