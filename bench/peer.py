"""A node of a work ledger that only dials, and has a twist: what a synced or measured node meets.

python -m bench.peer LEDGER URL TWIST

It does as every node does, and as TWIST says. `honest`: nothing else. `stalls`: its blocks never
come. `corrupts`: one byte of them is another. `mines`: it mines a block of so many bytes as each
line of standard input says, and prints when that has joined its chain, in seconds since the Unix
epoch.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from cairn import Ledger
from cairn.core.merkle import leaf_hash
from cairn.core.segment import Segment
from cairn.core.work import target_of
from cairn.hashing.search import NONCE_BYTES, NONCES, search_all
from cairn.ledger.chain import Chain
from cairn.net.addresses import AddressBook
from cairn.net.events import Action, Event, HeadMoved, Mined, Send
from cairn.net.handshake import KeyIdentity
from cairn.net.messages import Bodies, frame_limit
from cairn.net.network import Network
from cairn.net.pool import Pool
from cairn.node.links import Links

ENTRY_BYTES: Final = 16_384
NOWHERE: Final = "ws://11.0.0.1:9"
"""Where nodes say that they are, so that nobody dials them there, nor any address they hear of."""
_BODIES: Final = Bodies.__struct_config__.tag


class Twisted(Network):
    """The protocol, but for what is done to blocks that are sent."""

    twist: str

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take an event; return what is to be done."""
        actions = super().handle(event, now)
        if self.twist not in ("stalls", "corrupts"):
            return actions
        return [changed for action in actions if (changed := self._changed(action)) is not None]

    def _changed(self, action: Action) -> Action | None:
        if not isinstance(action, Send) or action.frame[1] != _BODIES:
            return action
        if self.twist == "stalls":
            return None
        return replace(action, frame=action.frame[:-1] + bytes([action.frame[-1] ^ 1]))


def main(directory: str, url: str, twist: str) -> None:
    """Run it until it is told to stop."""
    with Ledger.open(directory) as ledger:
        chain = ledger.chain()
        network = Twisted(
            chain,
            KeyIdentity(ledger.keyring.node_key(ledger.id, Path(directory))),
            pool=Pool(),
            book=AddressBook([url], own=NOWHERE, random=random.Random(1)),
            random=random.SystemRandom(),
            now=time.time(),
        )
        network.twist = twist
        asyncio.run(_run(network, chain, url))


async def _run(network: Twisted, chain: Chain, url: str) -> None:
    moved: asyncio.Queue[float] = asyncio.Queue()

    def told(action: Action) -> None:
        if isinstance(action, HeadMoved):
            moved.put_nowait(time.time())

    links = Links(
        network,
        is_ready=network.is_ready,
        frame_bytes=frame_limit(chain.terms.limits),
        told=told,
        named=[url],
    )
    links.start()
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    mining = asyncio.create_task(_mine(links, chain, moved)) if network.twist == "mines" else None
    await ending.wait()
    if mining is not None:
        mining.cancel()
    await links.close()


async def _mine(links: Links, chain: Chain, moved: asyncio.Queue[float]) -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        entries = _entries(int(line))
        candidate = await links.call(lambda: chain.candidate(entries, int(time.time() * 1e6)))  # noqa: B023
        links.tell(Mined(await asyncio.to_thread(_found, candidate)))
        print(await moved.get(), flush=True)


def _entries(size: int) -> list[bytes]:
    """Return entries of so many bytes in all, about."""
    count = max(size // ENTRY_BYTES, 1)
    filled = size // count - 18
    return [
        os.urandom(16) + b'"' + os.urandom(filled // 2).hex().encode() + b'"' for _ in range(count)
    ]


def _found(block: Segment) -> Segment:
    """Return a block with its nonce."""
    header = block.headers[0].tobytes()
    outcome = search_all(header, 0, NONCES, target_of(int(block.fields["bits"][0])))
    assert outcome.nonce is not None
    header = header[:-NONCE_BYTES] + outcome.nonce.to_bytes(NONCE_BYTES, "big")
    hashed = np.frombuffer(leaf_hash(header), np.uint8).reshape(1, -1)
    headers = np.frombuffer(header, np.uint8).reshape(1, -1)
    return Segment(block.start, headers, hashed, block.data, block.offsets)


if __name__ == "__main__":
    main(*sys.argv[1:])
