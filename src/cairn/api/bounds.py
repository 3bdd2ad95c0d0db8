"""What a client may take of the service, each with its unit and reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PAGE_BLOCKS: Final = 1000
"""Blocks on a page, at most: a page is some 700 KB of JSON then, and takes some 20 ms to make."""
PAGE_BYTES: Final = 8 * 2**20
"""Bytes of entries on a page, about: what comes after it is on the next one."""
SEARCH_SECONDS: Final = 1.0
"""How long one request may search, before it says where to go on."""
WAIT_SECONDS: Final = 60
"""How long one request may wait for its entry to be mined: what common proxies let an answer
take."""
HEARTBEAT_SECONDS: Final = 15.0
"""Silence on /events, at most: proxies commonly close what is silent for 30 s or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of one service. The defaults suit a machine with 1 GiB of memory or more."""

    body_bytes: int = 32 * 2**20
    """Bytes of a body: twice what an entry may have by default, for white space and escapes."""
    body_lines: int = 65_536
    """Lines of a bulk body: as many blocks take some 100 MB and a second to make."""
    values: int = 1_000_000
    """Values and members in one entry: each takes some 100 bytes of memory while it is read."""
    held_bytes: int = 256 * 2**20
    """Bytes of all bodies that come in or are worked on, and of all answers that go out, where
    they are large: bounds memory."""
    searches: int = 8
    """Requests that search, or wait to: one does at a time, for a second at most, or for as long as
    it takes to look through a whole instant ledger for the id of an entry (0.2 s a million blocks).
    So the last one waits for a few seconds, and not for minutes."""
    chunk_seconds: float = 10.0
    """How long the next part of a body may take to come."""
    body_seconds: float = 300.0
    """How long a whole body may take: the largest at 1 Mbit/s."""
    header_bytes: int = 65_536
    """Bytes of a request before its body: eight times what browsers send."""
    header_seconds: float = 10.0
    """How long a request may take from its first byte to the end of its headers."""
    idle_seconds: float = 75.0
    """How long a connection may wait for its next request: past the 60 s of common proxies, which
    would otherwise send into a connection that is just being closed."""
    stalled_seconds: float = 60.0
    """How long a client may read nothing of an answer."""
    connections: int = 1000
    """Connections at once. When they are all taken, the one that waits longest for a request, or
    for the rest of one, is closed to make room."""
    stop_seconds: int = 30
    """How long a stop waits for requests that are being answered."""
