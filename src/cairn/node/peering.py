"""A node of a work ledger: its chain, pool, miner and links to peers, put together."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cairn.core.errors import CairnError, DamagedError, StoreError
from cairn.core.segment import Segment
from cairn.ledger import Ledger
from cairn.ledger.chain import Chain
from cairn.net.addresses import AddressBook
from cairn.net.events import Action, Halted, HeadMoved, Mined, Note, Pooled, Submitted, Taken
from cairn.net.handshake import KeyIdentity
from cairn.net.limits import MAX_HEADERS
from cairn.net.messages import frame_limit
from cairn.net.network import Network, PeerInfo
from cairn.net.pool import Added, Pool
from cairn.node.forks import Forks
from cairn.node.links import Links, NetworkPausedError, SteadyClock
from cairn.node.miner import Miner
from cairn.store.directory import sync
from cairn.store.interface import Head
from cairn.store.interface import Pooled as StoredEntry

START_SECONDS: Final = 10.0
"""What peers that we know of have, at the start, to show their chain before we mine on ours."""
WAITING_SECONDS: Final = 0.1
HOUSEKEEPING_SECONDS: Final = 30.0
"""Between two times that addresses are written down, and entries that are final let go of."""
SUBMITTED_AT_ONCE: Final = 500
"""Entries that are submitted before others have their turn: each is looked up on the chain."""
HALTED_NAME: Final = "halted"
"""The file of a ledger's directory that says why its node has halted."""

log = logging.getLogger(__name__)


class PoolFullError(CairnError):
    """The pool has no room for another entry; later it may."""


class TooManyEntriesError(CairnError):
    """The pool never has room for so many entries at once."""


class NodeHaltedError(CairnError):
    """The node takes part no more: a person has to decide; the message says why."""


def why_halted(directory: Path) -> str | None:
    """Return why the node of the ledger in `directory` has halted, or None if it has not.

    Raises:
        StoreError: that cannot be read.
    """
    try:
        return (directory / HALTED_NAME).read_text().strip() or "it does not say why"
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"why the node has halted cannot be read: {error}") from error


def halt(directory: Path, reason: str) -> None:
    """Write down, durably, why the node has halted.

    Raises:
        StoreError: it cannot be written.
    """
    path = directory / HALTED_NAME
    try:
        with path.open("w") as file:
            file.write(f"{reason}\n")
            file.flush()
            os.fsync(file.fileno())
        sync(directory)
    except OSError as error:
        raise StoreError(f"why the node has halted cannot be written: {error}") from error


def resume(directory: Path) -> None:
    """Let the node take part again from its next start on.

    Raises:
        StoreError: this cannot be done.
    """
    try:
        (directory / HALTED_NAME).unlink(missing_ok=True)
        sync(directory)
    except OSError as error:
        raise StoreError(f"the node cannot be resumed: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """With whom a node works, and how it mines."""

    urls: Sequence[str] = ()
    """Peers to dial, as ws://host:port or wss://host:port."""
    address: str = ""
    """Where peers can dial this node, if they can."""
    allowed: Sequence[bytes] = ()
    """Keys of those that may be peers; all nodes of the ledger may, if there are none."""
    forgets: bool = False
    """Whether to begin without those that were met in earlier runs."""
    minimum_work: int = 0
    """Chain work that a chain must show before its blocks are asked for."""
    threads: int = 0
    """That mine; 0: this node does not."""


class Peering:
    """Everything of a node that only a work ledger has, on one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        directory: Path,
        peers: Peers,
        *,
        moved: Callable[[HeadMoved], None],
        renewed: Callable[[], None],
        noted: Callable[[str], None],
    ) -> None:
        """Work for `ledger`, which is open to write and lies in `directory`.

        `moved`, `renewed` and `noted` are called on the event loop: when the chain has moved, when
        it was taken from the store anew, and with a line for people when something has happened.

        Raises:
            StoreError: what the node needs cannot be read.
        """
        self.address = peers.address
        """Where peers can dial this node; or empty."""
        self._ledger = ledger
        self._directory = directory
        self._peers = peers
        self._moved = moved
        self._renewed = renewed
        self._noted = noted
        self.identity = KeyIdentity(ledger.keyring.node_key(ledger.id, directory))
        self.halted = why_halted(directory)
        """Why this node takes part no more, if it does not."""
        self._clock = SteadyClock()
        self._has_begun = False
        self._chain, self._pool, self._book, self._network = self._begin()
        self._is_alone = not self._book.begins_with
        self.links = Links(
            self._network,
            is_ready=lambda peer: self._network.is_ready(peer),
            frame_bytes=frame_limit(self._chain.terms.limits),
            told=self._told,
            renew=self._renew,
            named=peers.urls,
            clock=self._clock,
        )
        mines = peers.threads > 0 and self.halted is None
        self.miner = Miner(self._candidate, self._found, threads=peers.threads) if mines else None
        self._taken: dict[bytes, Added] = {}  # what became of what is being submitted
        self.forks = Forks(self._chain.store)
        """What people may see of the end of the chain."""
        self.reorganisations = 0
        """Since the start, as the next."""
        self.mined = 0
        """Blocks that were found here and joined the chain."""
        self._found_here: set[bytes] = set()  # hashes; owned by the event loop

    def _begin(self) -> tuple[Chain, Pool, AddressBook, Network]:
        """Return the chain as it is stored, and what works on it.

        Raises:
            CairnError: the store cannot be read.
        """
        peers, chaos = self._peers, random.SystemRandom()
        chain, pool = self._ledger.chain(), Pool()
        if peers.forgets and not self._has_begun:
            chain.store.set_addresses([])
        self._has_begun = True
        known = chain.store.addresses()
        book = AddressBook(peers.urls, known, own=peers.address, random=chaos)
        pool.give_back(chain.waiting(), self._clock())
        network = Network(
            chain,
            self.identity,
            pool=pool,
            book=book,
            random=chaos,
            now=self._clock(),
            address=peers.address,
            allowed=peers.allowed,
            minimum_work=peers.minimum_work,
        )
        network.halted = self.halted
        return chain, pool, book, network

    def _renew(self) -> Network:
        """Begin anew with what is stored; in the machine's thread.

        Raises:
            CairnError: the store cannot be read, or not be written.
        """
        before = self._network
        self._chain.store.set_addresses(self._book.urls())  # it can be written
        self._chain, self._pool, self._book, self._network = self._begin()
        self._network.halted = before.halted
        self._network.refusals.update(before.refusals)
        self._started = time.monotonic()
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._go_on)
        return self._network

    def _go_on(self) -> None:
        """Tell of what was stored, whatever it is."""
        self._refresh()
        self._renewed()
        self._say(f"the network begins anew, after block {self.length - 1}")

    def start(self) -> None:
        """Begin. Requires a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self.links.start()
        if self.halted is not None:
            self._say_halted(self.halted)
        if self.miner is not None:
            self.miner.start()
        self._housekeeping = asyncio.create_task(self._keep_house())

    def stop(self) -> None:
        """Hang up, and mine no more; waits for nobody."""
        if self.miner is not None:
            self.miner.stop()
        self.links.stop()

    async def close(self) -> None:
        """Stop, and wait for the end of what is under way."""
        self.stop()
        self._housekeeping.cancel()
        with suppress(asyncio.CancelledError):
            await self._housekeeping
        await self.links.close()  # whose end is that of a miner who waits for a candidate
        if self.miner is not None:
            await asyncio.to_thread(self.miner.join)
        with suppress(CairnError):
            self._chain.store.set_addresses(self._book.urls())

    @property
    def alive(self) -> bool:
        """Whether it does its work: it has met no bug, and has not halted."""
        mines = self.miner is None or self.miner.alive
        return self.links.alive and mines and self.halted is None

    def require_running(self) -> None:
        """Refuse what only a node does that takes part.

        Raises:
            NodeHaltedError: this one has halted.
        """
        if self.halted is not None:
            raise NodeHaltedError(f"this node has stopped: {self.halted}")

    async def has_room(self, requests: Sequence[Sequence[StoredEntry]]) -> list[bool]:
        """Whether the pool would take all entries of each request, after those before it.

        Raises:
            NetworkStoppedError: the network does not run.
        """
        by_id = [{one.id: one.entry for one in entries} for entries in requests]
        return await self.links.call(lambda: self._pool.has_room(by_id))

    async def submit(self, entries: Sequence[StoredEntry]) -> None:
        """Let entries of this node's user, for which there was room, wait to be mined.

        They are durable already. One that finds no room any more, as a reorganisation was faster,
        is taken all the same.

        Raises:
            NetworkStoppedError: the network does not run. When it does again, it finds them.
        """
        try:
            for at in range(0, len(entries), SUBMITTED_AT_ONCE):
                for stored in entries[at : at + SUBMITTED_AT_ONCE]:
                    self.links.tell(Submitted(stored.entry))
                await self.links.call(lambda: None)  # which is after these
        except CairnError:
            self._taken.clear()
            raise
        full = [(s.id, s.entry) for s in entries if self._taken.pop(s.id, None) is Added.FULL]
        if full:
            await self.links.call(lambda: self._pool.give_back(full, self._clock()))

    def where(self, entry_id: bytes) -> list[tuple[int, int]]:
        """Return the blocks of the chain that have an entry, and its places; in any thread."""
        return self._chain.store.find_entry(entry_id)

    def sides(self) -> Iterator[Segment]:
        """Yield the blocks that were taken off the chain, as the store has them; in any thread."""
        return self._chain.store.sides()

    def head(self) -> Head:
        """Return where the chain ends; in any thread."""
        return self._chain.store.head()

    def hash_at(self, index: int) -> bytes | None:
        """Return the hash of the block at a position, or None past the end; in any thread."""
        with suppress(DamagedError):  # the end may be lower than it was
            return self._chain.store.hashes(index, index + 1).tobytes()
        return None

    @property
    def final(self) -> int:
        """How many blocks can no longer change."""
        return self._chain.final

    async def is_pending(self, entry_id: bytes) -> bool:
        """Whether an entry waits here to be mined, whoever has submitted it."""
        return await self.links.call(lambda: entry_id in self._pool)

    async def peers(self) -> list[PeerInfo]:
        """Return what is known of all peers."""
        return await self.links.call(self._network.peers)

    @property
    def pooled(self) -> tuple[int, int]:
        """How many entries wait, and their bytes."""
        return len(self._pool), self._pool.size

    @property
    def hash_rate(self) -> float:
        """Hashes a second that are tried here."""
        return self.miner.rate if self.miner else 0.0

    @property
    def length(self) -> int:
        """Blocks of the chain."""
        return self._chain.length

    @property
    def work(self) -> int:
        """Of the chain."""
        return self._chain.work

    @property
    def missing(self) -> int:
        """Blocks that are still to come of a chain with more work; 0: this node is up to date."""
        return self._network.missing

    @property
    def refusals(self) -> dict[str, int]:
        """How often peers broke each rule since the start."""
        return self._network.refusals.copy()

    @property
    def connected(self) -> int:
        """How many peers have proven their keys."""
        return self._network.connected

    def _told(self, action: Action) -> None:
        """Do what is not about links."""
        match action:
            case HeadMoved():
                self._refresh()
                self._remember(action)
                self._moved(action)
                self._tell(action)
            case Pooled():
                self._refresh()
            case Taken(entry_id, added):
                self._taken[entry_id] = added
            case Note(text):
                self._say(text)
            case Halted(reason):
                try:
                    halt(self._directory, reason)  # before anyone can see it, and restart the node
                except StoreError as error:
                    log.critical("a restart would forget it: %s", error)
                self.halted = reason
                self._say_halted(reason)
                if self.miner is not None:
                    self.miner.stop()

    def _say_halted(self, reason: str) -> None:
        """Have no links, and say why."""
        self.links.stop()
        text = f"this node has stopped: {reason}"
        log.critical("%s", text)
        self._noted(text)

    def _remember(self, move: HeadMoved) -> None:
        """Keep for people how the chain was reorganised, if it was."""
        reorganisation = self.forks.moved(move)
        if reorganisation is not None:
            self.reorganisations += 1
            self._loop.run_in_executor(None, reorganisation.count_returned, move)

    def _tell(self, move: HeadMoved) -> None:
        """Say in a line how the chain has moved."""
        first, last = move.connected[0], move.connected[-1]
        text = f"block {last.stop - 1} {last.hashes[-1].tobytes().hex()[:16]}"
        if move.disconnected:
            off = move.disconnected[-1].stop - move.disconnected[0].start
            text += f" by reorganisation: {off} off and {last.stop - first.start} on"
        elif last.stop - first.start > 1:
            text += f", {last.stop - first.start} blocks at once"
        else:
            entries = len(last.offsets) - 1
            text += f" with {entries} entr{'y' if entries == 1 else 'ies'}"
        if last.hashes[-1].tobytes() in self._found_here:
            self.mined += 1
            self._found_here.clear()
            text += ", mined here"
        self._say(f"{text}; work {self.work:x}")

    def _say(self, line: str) -> None:
        log.info("%s", line)
        self._noted(line)

    def _refresh(self) -> None:
        if self.miner is not None:
            self.miner.refresh()

    def _candidate(self) -> Segment:
        """Return the block to mine, once it makes sense; in the miner's thread."""
        while True:
            wanted = self.links.call(self._next_candidate)
            with suppress(NetworkPausedError):
                found = asyncio.run_coroutine_threadsafe(wanted, self._loop).result()
                if found is not None:
                    return found
            time.sleep(WAITING_SECONDS)

    def _next_candidate(self) -> Segment | None:
        """Return the block to mine; None while the chain is about to have another end.

        At the start peers have some time to show theirs. Later only what was shown counts, or
        whoever claims much could keep us from mining.
        """
        is_new = time.monotonic() - self._started < START_SECONDS
        waits = is_new and not (self._is_alone or self._network.is_settled)
        if waits or self._network.missing > MAX_HEADERS:
            return None
        return self._network.candidate(self._clock())

    def _found(self, block: Segment) -> None:
        """Let the network have a block; in the miner's thread."""
        self._loop.call_soon_threadsafe(self._found_here.add, block.hashes[0].tobytes())
        self.links.tell(Mined(block))

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            with suppress(CairnError):
                urls = await self.links.call(self._book.urls)
                await asyncio.to_thread(self._chain.store.set_addresses, urls)
                await asyncio.to_thread(self._chain.forget_final)
