"""Finding blocks: by time, by bisection; by text, by a scan of the data column."""

from __future__ import annotations

import json
import re
import time
from bisect import bisect_left
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cairn.core.block import Block
from cairn.core.entry import SALT_BYTES
from cairn.core.errors import DamagedError
from cairn.core.header import LIMIT_63, Header
from cairn.core.segment import Segment
from cairn.ledger.ledger import Ledger, now_us

PAGE_BYTES: Final = 2**18
"""Bytes of entries on a page, about: bounds the memory that a reader takes, except one of a large
entry."""

NEAR: Final = 64
"""Blocks at the end among which a time is looked for first."""
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Page(NamedTuple):
    """Some blocks, and where to go on."""

    blocks: list[Block]
    places: list[int]
    """The position of each, whatever index its header claims."""
    next: int | None
    """Position to go on from; None at the end."""


def find_blocks(
    ledger: Ledger,
    *,
    start: int = 0,
    stop: int | None = None,
    contains: str = "",
    limit: int,
    seconds: float = 1.0,
) -> Page:
    """Return at most `limit` blocks from position `start` on, and before `stop`, in order.

    Only those whose JSON text contains `contains`, as it stands or as JSON writes it in a string. A
    page also ends at about `PAGE_BYTES`, when `seconds` have passed, and before damage: it may hold
    no block, and the next one some.

    Raises:
        DamagedError: stored columns that cannot be read, where no block was found before them.
    """
    end = len(ledger) if stop is None else stop
    stop = end if contains else min(start + limit, end)
    deadline = time.monotonic() + seconds
    found = Page([], [], None)
    size, at = 0, start
    try:
        for segment in ledger.scan(start, stop):
            for i in _matches(segment, contains) if contains else range(len(segment)):
                if len(found.blocks) == limit or size > PAGE_BYTES:
                    return found._replace(next=segment.start + i)
                found.blocks.append(segment.block(i))
                found.places.append(segment.start + i)
                size += len(found.blocks[-1].data_json())
            at = segment.stop
            if at < stop and time.monotonic() > deadline:
                return found._replace(next=at)
    except DamagedError:
        if not found.blocks:
            raise
        return found._replace(next=at)
    return found._replace(next=stop) if stop < end else found


def first_at(ledger: Ledger, timestamp: int) -> int:
    """Return the position of the first block at or after `timestamp` (µs); times never fall.

    What is recent is found without looking at what is old.
    """
    stop, step = len(ledger), NEAR
    while stop > 0 and _timestamp(ledger, max(stop - step, 0)) >= timestamp:
        stop, step = max(stop - step, 0), 2 * step
    start = max(stop - step, 0)
    return start + bisect_left(
        range(start, stop), timestamp, key=lambda position: _timestamp(ledger, position)
    )


def moment(text: str) -> int:
    """Read an RFC 3339 time or date (UTC unless it says otherwise), or an age such as 2h, in µs.

    Raises:
        ValueError: it is neither.
    """
    if age := re.fullmatch(r"([0-9]+)([smhd])", text):
        with suppress(OverflowError):
            span = timedelta(**{_UNITS[age[2]]: int(age[1])})
            return now_us() - span // timedelta(microseconds=1)
    try:
        when = datetime.fromisoformat(text if text.isprintable() else "")
    except ValueError:
        raise ValueError(
            f"{text!r:.80} is neither a time (2026-01-31, RFC 3339) nor an age (2h)"
        ) from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return (when - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def _timestamp(ledger: Ledger, position: int) -> int:
    """Return the timestamp (µs) of a block; of one that was taken off since, one after all."""
    try:
        [row] = ledger.headers(position, position + 1)
    except DamagedError:
        if position < len(ledger):
            raise
        return LIMIT_63
    return Header.unpack(row.tobytes()).timestamp


def _matches(segment: Segment, text: str) -> list[int]:
    """Return which blocks of `segment` have `text` in the JSON text of an entry, in order."""
    quoted = json.dumps(text, ensure_ascii=False)[1:-1]
    data = segment.data.tobytes()
    starts, stops = segment.entry_bounds
    entries: set[int] = set()
    # No JSON text has a zero byte in it: only what is left of an erased entry does.
    forms = {form for form in (text, quoted) if "\0" not in form}
    for needle in {form.encode(errors="surrogatepass") for form in forms}:
        at = data.find(needle)
        while at >= 0:
            entry = int(starts.searchsorted(at, "right")) - 1
            inside = entry >= 0 and at + len(needle) <= stops[entry]
            if inside and at >= starts[entry] + SALT_BYTES:
                entries.add(entry)
                at = int(stops[entry]) - 1  # one match of an entry is enough
            at = data.find(needle, at + 1)
    return sorted({int(segment.block_bounds.searchsorted(e, "right")) - 1 for e in entries})
