"""Bounds on everything that a peer can send or make us do; each with its reason.

Times are in seconds unless they say otherwise.
"""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1
HANDSHAKE_SECONDS: Final = 10.0
"""From the first byte to a proven key: a slow link needs three round trips."""
HANDSHAKE_BYTES: Final = 1024
"""Of a frame of one who has not proven a key: its messages are small."""
OVERHEAD_BYTES: Final = 2**16
"""Of a frame besides the data of a block: what says how long its entries are, and the rest."""
MAX_HEADERS: Final = 2000
"""Headers in an answer: 203 KiB, some milliseconds of checking."""
MAX_LOCATOR: Final = 64
"""Hashes in a locator: they are spaced in powers of two, so 64 reach as far as there is."""
MAX_IDS: Final = 1000
"""Ids in one announcement of entries, or one request for them."""
MAX_ADDRESSES: Final = 100
"""Addresses in an answer, and kept of those heard of from one peer."""
MAX_URL: Final = 255
MAX_REASON: Final = 255
ANSWER_BYTES: Final = 4 * 2**20
"""Data of blocks in an answer, unless one block is larger: keeps a link from being taken by one
request for long."""
WAITING_REQUESTS: Final = 6
"""Requests for blocks and headers that a peer may have waiting with us: their answers fit in what
may wait to be sent."""
PEERS: Final = 32
"""Links in all; each may hold a frame and the answers to its requests."""
DIALLED: Final = 8
"""Links that we open ourselves and keep up: whoever dials us cannot take these."""
FEELER_SECONDS: Final = 60.0
"""When we have all the links that we want, we open another so often, to see what there is: all of
our peers may be on one side of a network that was cut in two."""
FEELER_KEPT_SECONDS: Final = 15.0
"""How long a link is kept that is one too many, for what it has to tell us: the last that we have
opened goes, and none that the operator has asked for."""
SAME_HOST: Final = 8
"""Links from one address: one machine is not to be all our peers. Loopback is not counted."""
QUEUED_BYTES: Final = 32 * 2**20
"""Bytes that wait to be sent to a peer; one that reads slower is let go."""
TICK_SECONDS: Final = 0.25
PING_SECONDS: Final = 30.0
"""After so much silence we ask whether a peer is there."""
SILENT_SECONDS: Final = 60.0
"""After so much we let it go."""
HEADERS_SECONDS: Final = 5.0
"""For an answer with headers: a large one takes a second on a link of 2 Mbit/s."""
BODIES_SECONDS: Final = 10.0
"""For an answer with blocks, however it is asked: 4 MiB take that long on a link of 3.4 Mbit/s."""
STALLED_SECONDS: Final = 2.0
"""For blocks that all others wait for: after so long another peer is asked for them, too."""
SLOW_PEERS: Final = 1000
"""Keys that are remembered of those who took so long: they are asked last."""
DISCOURAGED_SECONDS: Final = 600.0
"""How long one who broke a rule is neither dialled nor let in."""
REDIAL_SECONDS: Final = 1.0
"""Before an address is dialled again; doubled by each failure."""
REDIAL_MOST_SECONDS: Final = 300.0
HELD_INTERVALS: Final = 5
"""Intervals for which blocks must have been followed by enough others before they are final, and"""
HELD_SECONDS: Final = 30.0
"""at most so long: time to show us another chain, if there is one with more work."""
CLAIMED_SECONDS: Final = 300.0
"""How long nothing becomes final while a peer claims more work than was shown: time to be asked for
it, when others have shown what they have, and to show it."""
SETTLING_SECONDS: Final = 5.0
"""After the start, peers that we know of have so long to say where their chains end, before we
follow any."""
FUTURE_SECONDS: Final = 600.0
"""A header's time may be so far ahead of our clock: see docs/format.md."""

POOL_ENTRIES: Final = 50_000
POOL_BYTES: Final = 64 * 2**20
POOL_SECONDS: Final = 24 * 3600.0
"""What nobody has mined for a day is dropped."""
POOL_SHARE: Final = 4
"""One peer may fill a quarter of the pool: there are no fees that would keep it from more."""
ENTRY_RATE: Final = 8000.0
"""Entries a second that a peer announces, asks for or sends, over time."""
ENTRY_BURST: Final = 80_000
ENTRY_BYTES_RATE: Final = 8 * 2**20
ENTRY_BYTES_BURST: Final = 64 * 2**20
"""Bytes a second of entries that we ask a peer for, over time: all links together 184 MiB."""
TELLING_SHARE: Final = 4
"""We announce to a peer at a quarter of that: it asks, and is sent, as many, and so does it."""
LEAST_TOLD: Final = 16
"""Entries that one announcement counts as, at least: what a message costs."""
MESSAGE_RATE: Final = 500.0
"""Messages a second from a peer, over time; each costs some 20 µs to read."""
MESSAGE_BURST: Final = 5_000
UNASKED_RATE: Final = 2**20
UNASKED_BURST: Final = 4 * 2**20
"""Bytes from a peer that are no answer to us: more than the ids that it may tell of."""
SERVED_RATE: Final = 64 * 2**20
"""Bytes a second of blocks and headers that one peer is served, over time."""
SERVED_BURST: Final = 64 * 2**20
LITTLE_RATE: Final = 2 * 2**20
LITTLE_BURST: Final = 16 * 2**20
"""As much of that is served at once: who wants new blocks does not wait for those who want all."""
SHARED_RATE: Final = 64 * 2**20
"""Bytes a second that all are served together beyond that: a third of a slow core's time."""
SHARED_BURST: Final = 16 * 2**20
ENTRIES_SECONDS: Final = 5.0
"""For entries that were asked for, before another peer is."""
REPEAT_SECONDS: Final = 60.0
"""Peers are told again, so often, of the entries that wait longest: they may have had no room."""
ASKED_ENTRIES: Final = 1000
"""Entries that we wait for, of one peer."""
KNOWN_IDS: Final = 20_000
"""Entries that a peer is remembered to know, and that it may offer: what is forgotten is announced
once more."""
KEPT_PARTS: Final = 4
"""Answers with headers of a branch that are kept until its blocks are asked for: the others are
asked for again, so that a long branch costs 100 bytes for every 2,000 headers."""
BRANCHES: Final = 64
"""Branches that are followed at once; each has cost the work of a block."""
SHOWING_SECONDS: Final = 60.0
"""While one peer shows a long branch, others that claim no more are not asked for so long."""
WINDOW_PARTS: Final = 16
"""Answers' worth of blocks that are asked for ahead of the chain's end, in all."""
WRITTEN_BLOCKS: Final = 8192
"""Blocks of a long branch that are written at once, unless the next ones keep us waiting: each
write waits for the disk."""
WRITTEN_BYTES: Final = 8 * 2**20
"""The same, by their data."""
WINDOW_BYTES: Final = 64 * 2**20
"""Bytes of blocks that may wait for those before them."""
