"""The node: a ledger, its writer, its readers and those who follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from cairn.core.block import Block
from cairn.core.errors import CairnError, NoSuchEntryError, UsageError
from cairn.ledger import Ledger
from cairn.ledger.notary import Notary
from cairn.ledger.search import Page, find_blocks
from cairn.ledger.standing import Standing
from cairn.ledger.writer import Append
from cairn.net.events import HeadMoved
from cairn.node.appender import Appender
from cairn.node.changes import Change, Changes, Tip
from cairn.node.checkpoints import Checkpoints, WitnessAddress
from cairn.node.links import Links
from cairn.node.peering import Peering, Peers
from cairn.node.submitter import Submitter
from cairn.node.validator import Progress, Validated, Validator
from cairn.report import Report

Result = TypeVar("Result")
Shown = TypeVar("Shown")

READERS: Final = 4
"""Threads that read blocks: enough to keep a disk busy, few enough to bound memory."""
MINING_SECONDS: Final = 5.0
"""What one who submits an entry waits for a block, at most, if not told how long."""
FOLLOW_BLOCKS: Final = 128
"""Blocks that one who follows is given at once, at most."""


class Node:
    """Everything that a service does with one ledger, on one event loop.

    An asynchronous context manager: it starts with a running loop, and closes the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        directory: Path,
        witnesses: Sequence[WitnessAddress] = (),
        peers: Peers | None = None,
    ) -> None:
        """Serve `ledger`, open to write, which lies in `directory`.

        `witnesses` are asked to cosign its checkpoints; `peers` says with whom a work ledger is
        shared, and whether it is mined here.

        Raises:
            UsageError: there are `peers`, and it is no work ledger.
        """
        self.ledger = ledger
        self.directory = directory
        self.committed: Callable[[list[Append], float], None] = lambda _appends, _seconds: None
        """Told of every commit and the seconds it took, on the event loop."""
        self.moved: Callable[[HeadMoved], None] = lambda _move: None
        """Told when the chain of a work ledger has moved, on the event loop."""
        self.validated: Callable[[Report], None] = lambda _report: None
        """Told of what every validation has found, on the event loop."""
        self.noted: Callable[[str], None] = lambda _line: None
        """Told, in a line for people, what happens among peers; on the event loop."""
        if peers is not None and not ledger.is_mined:
            raise UsageError("peers and mining are for ledgers of work: cairn init --seal work")
        self.peering = self._peering(peers or Peers()) if ledger.is_mined else None
        """What only a node of a work ledger has; so with the next two."""
        self._submitter = Submitter(ledger, self.peering) if self.peering else None
        self._changes = Changes(ledger, self.peering) if self.peering else None
        self.checkpoints = Checkpoints(self._notary, witnesses)
        self._validator = Validator(
            directory, ledger.keyring.folder, lambda report: self.validated(report)
        )
        self._readers = ThreadPoolExecutor(READERS, "cairn-reader")
        self._searcher = ThreadPoolExecutor(1, "cairn-searcher")  # so that reading goes on

    async def __aenter__(self) -> Self:
        self._appender = Appender(self.ledger, self._committed)
        self._grown = asyncio.Event()  # set, and replaced by a new one, by every commit
        self._stopping = False
        self._replaced: list[int] = []  # by each `tamper`: from where on other blocks follow
        self._latest: tuple[int, Callable[..., Any], asyncio.Future[Any]] | None = None
        self._told: tuple[Tip, asyncio.Event, asyncio.Future[Any]] | None = None
        self.length = len(self.ledger)
        """Blocks, those of the last commit included."""
        self.final = self.ledger.final
        """How many of them can no longer change: all, on an instant ledger."""
        self._waiting: dict[bytes, set[asyncio.Event]] = {}  # for entries to be mined, by id
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        if self.peering is not None:
            self.peering.start()
        if self._submitter is not None:
            self._submitter.start()
        self.checkpoints.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        if self._submitter is not None:
            await self._submitter.close()
        if self.peering is not None:
            await self.peering.close()
        if self._looking is not None:
            await asyncio.wait([self._looking])
        await self.checkpoints.stop()
        await asyncio.to_thread(self._close)

    def stop(self) -> None:
        """Let those go who wait for what may take long: followers, and validation."""
        self._stopping = True
        if self.peering is not None:
            self.peering.stop()
        self._validator.stop()
        self._grown.set()
        for waiting in self._waiting.values():
            for mined in waiting:
                mined.set()

    def _close(self) -> None:
        self._appender.close()
        self._readers.shutdown()
        self._searcher.shutdown()
        self.ledger.close()

    @property
    def links(self) -> Links | None:
        """The links to peers, of a node that can have some."""
        return self.peering.links if self.peering else None

    @property
    def healthy(self) -> bool:
        """Whether the node can do its work: a bug of ours makes it false; so does its halting."""
        submits = self._submitter is None or self._submitter.alive
        return self._appender.alive and submits and (self.peering is None or self.peering.alive)

    @property
    def mining_seconds(self) -> float:
        """How long it is worth to wait for a block of a work ledger, unless told otherwise."""
        seal = self.ledger.genesis.seal
        assert seal is not None
        return min(2 * seal.interval / 1e6, MINING_SECONDS)

    async def append(self, append: Append) -> Block:
        """Record what `append` holds; return the block of its last value, durable.

        Raises:
            CairnError: as for `Ledger.append_all`.
        """
        return await self._appender.append(append)

    async def submit(self, texts: Sequence[bytes], key: str | None = None) -> list[bytes]:
        """Let canonical JSON texts wait to be mined; return the ids of their entries, durable.

        Requires a work ledger.

        Raises:
            CairnError: as for `Submitter.submit`.
        """
        assert self._submitter is not None
        return await self._submitter.submit(texts, key)

    async def mined(self, entry_id: bytes, seconds: float) -> Standing | None:
        """Return where an entry stands once it is in a block; None if that takes too long.

        Who waits costs a set entry; all are looked up together when the chain has moved. Requires a
        work ledger.
        """
        mined = asyncio.Event()
        self._waiting.setdefault(entry_id, set()).add(mined)
        try:
            if not await self.read(lambda: self._is_mined(entry_id)):  # it may be a retry
                if self._stopping:
                    return None
                async with asyncio.timeout(seconds):
                    await mined.wait()
            standing = await self.entry(entry_id)
        except (TimeoutError, NoSuchEntryError):
            return None
        finally:
            waiting = self._waiting[entry_id]
            waiting.discard(mined)
            if not waiting:
                del self._waiting[entry_id]
        return None if standing.status == "pending" else standing

    async def entry(self, entry_id: bytes) -> Standing:
        """Return where an entry stands, whoever has submitted it.

        Raises:
            NoSuchEntryError: neither the chain nor the pool has it.
        """
        shown = entry_id.hex()
        if self.peering is None:
            return await self.search(lambda: self.ledger.entry(shown))
        for _ in range(2):  # it may go from the pool into a block between the two looks
            if await self.read(lambda: self._is_mined(entry_id)):
                return await self.read(lambda: self.ledger.entry(shown))
            if await self.peering.is_pending(entry_id):
                return Standing(shown, "pending")
        raise NoSuchEntryError(f"there is no entry {shown}")

    async def read(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, which reads a few blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def search(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, which reads many blocks: one search at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._searcher, work)

    async def validate(self) -> Report:
        """Validate the stored ledger, in a process of its own.

        Raises:
            StoreError: the run came to no verdict.
        """
        return await self._validator.run()

    def watch_validation(self, *, seconds: float) -> AsyncGenerator[Progress | Report | None, None]:
        """Yield how far a validation is, and its report; see `Validator.watch`."""
        return self._validator.watch(seconds=seconds)

    @property
    def is_validating(self) -> bool:
        """Whether a validation is under way, which others can watch, too."""
        return self._validator.is_running

    @property
    def last_validation(self) -> Validated | None:
        """What the last validation found, since the node was started."""
        return self._validator.last

    async def tamper(self, work: Callable[[], tuple[Result, int | None]]) -> Result:
        """Return the first of what `work` returns, which changes what is stored: for the lab.

        The second is the position from which on there are other blocks now, or none; None: what was
        changed lies where it lay. Who follows is told of what comes from there on. `work` keeps who
        writes waiting itself (`Ledger.tampering`).
        """
        loop = asyncio.get_running_loop()

        def change() -> Result:
            replaced: int | None = None
            try:
                result, replaced = work()
                return result
            finally:
                length, final = len(self.ledger), self.ledger.final
                loop.call_soon_threadsafe(self._note_tampering, length, final, replaced)

        return await self._appender.between(change)

    async def follow(
        self, start: int, show: Callable[[Page], Shown], *, seconds: float
    ) -> AsyncGenerator[Shown | None, None]:
        """Yield what `show` makes of the blocks from position `start` on, as they become final.

        None when none has come for so many `seconds`. Ends when the node stops. Holds no queue: one
        who is slow reads later. Those who keep up share the reading and the showing.
        """
        seen = len(self._replaced)
        while not self._stopping:
            grown = self._grown
            if seen < len(self._replaced):
                start = min(start, self.final, *self._replaced[seen:])
                seen = len(self._replaced)
            if start < self.final:
                start, shown = await self._shared(start, show)
                yield shown
                continue
            try:
                await asyncio.wait_for(grown.wait(), seconds)
            except TimeoutError:
                yield None

    async def _shared(self, start: int, show: Callable[[Page], Shown]) -> tuple[int, Shown]:
        """Return the position after the next blocks, and what `show` makes of them."""
        stop = self.final

        def work() -> tuple[int, Shown]:
            page = find_blocks(self.ledger, start=start, stop=stop, limit=FOLLOW_BLOCKS)
            after = page.places[-1] + 1 if page.places else stop  # a gap is passed over
            return after if page.next is None else page.next, show(page)

        latest = self._latest
        if latest is None or latest[:2] != (start, show):
            task = asyncio.ensure_future(self.read(work))
            task.add_done_callback(self._forget_failed)
            latest = self._latest = (start, show, task)
        following, shown = await asyncio.shield(latest[2])
        return following, shown

    @property
    def growth(self) -> asyncio.Event:
        """What is set with the next block; or already is, of one who has asked before."""
        return self._grown

    async def wait(self, growth: asyncio.Event, least: float, most: float) -> bool:
        """Wait for `growth`, between `least` and `most` seconds; False: the node stops."""
        await asyncio.sleep(least)
        with suppress(TimeoutError):
            await asyncio.wait_for(growth.wait(), most - least)
        return not self._stopping

    async def tip(self, length: int) -> Tip:
        """Return the last of so many blocks, to follow the changes after it.

        Raises:
            NoSuchBlockError: there are fewer.
        """
        changes = self._changes
        assert changes is not None
        return await self.read(lambda: changes.tip(length))

    async def require_known(self, tip: Tip) -> None:
        """Refuse to follow the changes after a block that was never on the chain.

        Raises:
            NoSuchBlockError: so it is, or the node has forgotten.
        """
        changes = self._changes
        assert changes is not None
        await self.read(lambda: changes.require(tip))

    async def follow_changes(
        self, tip: Tip, show: Callable[[list[Change]], Shown], *, seconds: float
    ) -> AsyncGenerator[Shown | None, None]:
        """Yield what `show` makes of the changes of a work ledger's chain, after block `tip`.

        As `follow` does, which see; `show` is the same for all.
        """
        while not self._stopping:
            grown = self._grown
            following, shown = await self._shared_changes(tip, show, grown)
            if following != tip:
                tip = following
                yield shown
                continue
            try:
                await asyncio.wait_for(grown.wait(), seconds)
            except TimeoutError:
                yield None

    async def _shared_changes(
        self, tip: Tip, show: Callable[[list[Change]], Shown], grown: asyncio.Event
    ) -> tuple[Tip, Shown]:
        """Return the last block after the next changes, and what `show` makes of them."""
        changes = self._changes
        assert changes is not None

        def work() -> tuple[Tip, Shown]:
            found = changes.after(tip, FOLLOW_BLOCKS)
            return found[-1].tip if found else tip, show(found)

        told = self._told
        if told is None or told[:2] != (tip, grown):
            task = asyncio.ensure_future(self.read(work))
            task.add_done_callback(self._forget_failed)
            told = self._told = (tip, grown, task)
        following, shown = await asyncio.shield(told[2])
        return following, shown

    def _is_mined(self, entry_id: bytes) -> bool:
        assert self.peering is not None
        return bool(self.peering.where(entry_id))

    async def _look(self) -> None:
        """Wake those whose entries are in a block now, as long as the chain moves meanwhile."""
        while self._look_again and not self._stopping:
            self._look_again = False
            ids = list(self._waiting)
            with suppress(CairnError):  # then they wait until it takes too long
                found = await self.read(lambda: [one for one in ids if self._is_mined(one)])  # noqa: B023
                for mined in chain.from_iterable(self._waiting.get(one, ()) for one in found):
                    mined.set()
        self._looking = None

    def _peering(self, peers: Peers) -> Peering:
        return Peering(
            self.ledger,
            self.directory,
            peers,
            moved=self._moved,
            renewed=self._renewed,
            noted=lambda line: self.noted(line),
        )

    def _notary(self) -> Notary:
        """Return what signs.

        Raises:
            NodeHaltedError: nothing does, as what is final here is in question.
        """
        if self.peering is not None:
            self.peering.require_running()
        return self.ledger.notary

    def _renewed(self) -> None:
        """Note that the chain may have moved without our being told."""
        assert self.peering is not None
        self.length, self.final = self.peering.length, self.peering.final
        self._look_for_waiting()
        self._announce()

    def _moved(self, move: HeadMoved) -> None:
        """Note that the chain of a work ledger has moved."""
        assert self.peering is not None
        assert self._changes is not None
        self.length = move.connected[-1].stop
        self.final = self.peering.final
        self._changes.moved(move)
        self._announce()
        self._look_for_waiting()
        self.moved(move)

    def _look_for_waiting(self) -> None:
        self._look_again = True
        if self._waiting and self._looking is None:
            self._looking = asyncio.create_task(self._look())

    def _forget_failed(self, task: asyncio.Future[Any]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._latest = self._told = None

    def _committed(self, appends: list[Append], seconds: float) -> None:
        ends = [append.last.index + 1 for append in appends if append.last]
        self.length = self.final = max([self.length, *ends])
        self._announce()
        self.committed(appends, seconds)

    def _note_tampering(self, length: int, final: int, replaced: int | None) -> None:
        """Note that what is stored was changed: how much there is now, and from where on it is new.

        It may be that nothing was changed but in its place.
        """
        if self.peering is None:
            self.length, self.final = length, final
        self._replaced.append(length if replaced is None else replaced)
        self._latest = self._told = None
        self._announce()

    def _announce(self) -> None:
        """Wake all who follow."""
        self._grown.set()
        self._grown = asyncio.Event()
        self.checkpoints.grown()
