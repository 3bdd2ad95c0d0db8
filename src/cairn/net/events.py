"""What the network is told, and what it wants done: the whole of its world.

`Network.handle(event, now)` takes one of the events and returns actions. Nothing here knows of
sockets or clocks, so that the same code runs on both and in a simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cairn.core.segment import Segment
from cairn.net.pool import Added

PeerId: TypeAlias = int
"""A link to a peer; never used again for another one."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A link is there: frames can be sent."""

    peer: PeerId
    dialled: str | None
    """The URL that we dialled, or None where the peer has dialled us."""
    host: str
    """The other end's IP address, or what stands for it in a simulation."""


@dataclass(frozen=True, slots=True)
class Received:
    """A frame has come."""

    peer: PeerId
    frame: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """A link is gone, whoever closed it."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class DialFailed:
    """Nobody answers there, or not as a peer."""

    url: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """The user of this node has given it an entry, which is checked. Answered by `Taken`."""

    entry: bytes
    """Salt and canonical JSON."""


@dataclass(frozen=True, slots=True)
class Mined:
    """A block was found, after the block that it links to."""

    block: Segment


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: what is due, is done. At least every `TICK_SECONDS`."""


Event: TypeAlias = Opened | Received | Closed | DialFailed | Submitted | Mined | Tick


@dataclass(frozen=True, slots=True)
class Send:
    """Send a frame, after those before it."""

    peer: PeerId
    frame: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close a link, when what was sent on it is out."""

    peer: PeerId
    reason: str
    """For people and the log."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a link to this URL."""

    url: str


@dataclass(frozen=True, slots=True)
class HeadMoved:
    """The chain has another end."""

    disconnected: tuple[Segment, ...]
    """What was taken off, the lowest first: none, unless this is a reorganisation."""
    connected: tuple[Segment, ...]
    """What has come, in order."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an entry of this node's user."""

    id: bytes
    added: Added


@dataclass(frozen=True, slots=True)
class Pooled:
    """Entries wait to be mined that did not before: a miner should look again."""


@dataclass(frozen=True, slots=True)
class Halted:
    """The node can no longer agree with the others, and stops: a person has to decide."""

    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something happened that people may want to read of: one plain line."""

    text: str


Action: TypeAlias = Send | Close | Dial | HeadMoved | Taken | Pooled | Halted | Note
