"""What the users of this node submit to a work ledger: made durable, then given to the pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from cairn.core.entry import SALT_BYTES
from cairn.core.errors import CairnError
from cairn.ledger import Ledger
from cairn.net.limits import POOL_BYTES, POOL_ENTRIES
from cairn.node.appender import WriterStoppedError
from cairn.node.peering import Peering, PoolFullError, TooManyEntriesError
from cairn.store.interface import Pooled

GROUP_ENTRIES: Final = 65_536
"""Entries that are made durable together, about: more would only make the first wait longer."""

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Asked:
    """What one request submits."""

    texts: Sequence[bytes]
    key: str | None
    future: asyncio.Future[list[bytes]]
    entries: list[Pooled] = field(default_factory=list)
    error: CairnError | None = None


class Submitter:
    """Takes what is submitted, as much at once as has come meanwhile, on one event loop.

    The order: is there room; durable; into the pool, and told to peers. After a crash in between
    it is mined all the same, though nobody was told of it: a retry with its key finds it.
    """

    def __init__(self, ledger: Ledger, peering: Peering) -> None:
        self._ledger = ledger
        self._peering = peering
        self._queue: list[_Asked] = []
        self._why: CairnError | None = None  # nothing is taken any more

    def start(self) -> None:
        """Begin. Requires a running event loop."""
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Take what was asked for, and stop."""
        self._why = self._why or WriterStoppedError("the node stops")
        self._wanted.set()
        await self._task

    @property
    def alive(self) -> bool:
        """Whether what is submitted is answered; not after a bug of ours."""
        return not self._task.done()

    async def submit(self, texts: Sequence[bytes], key: str | None) -> list[bytes]:
        """Let canonical JSON texts wait to be mined, all or none; return the ids of their entries.

        Durable when it returns. Of a retry with its `key`, the ids are those of the first try.

        Raises:
            EntryError, KeyReusedError, OutcomeUnknownError: as for `Ledger.submit`.
            PoolFullError: there is no room for all of them. Nothing was written.
            TooManyEntriesError: there never is. Nothing was written.
            NodeHaltedError: this node takes part no more. Nothing was written.
            WriterStoppedError: the node stops, or a bug has ended this.
        """
        self._peering.require_running()
        if self._why is not None:
            raise self._why.with_traceback(None)  # else it grows with everyone who asks
        if len(texts) > POOL_ENTRIES or sum(map(len, texts)) > POOL_BYTES - SALT_BYTES * len(texts):
            raise TooManyEntriesError(
                f"{len(texts)} entries are more than may wait to be mined: {POOL_ENTRIES} with "
                f"{POOL_BYTES} bytes, salts included"
            )
        asked = _Asked(texts, key, asyncio.get_running_loop().create_future())
        self._queue.append(asked)
        self._wanted.set()
        return await asked.future

    async def _run(self) -> None:
        while self._queue or self._why is None:
            await self._wanted.wait()
            self._wanted.clear()
            while group := self._next():
                try:
                    await self._take(group)
                except CairnError as error:  # not one of theirs: the network has ended, say
                    _answer(group, error)
                except Exception as error:
                    log.exception("nothing can be submitted any more: this is a bug")
                    self._why = WriterStoppedError(f"nothing can be submitted: {error!r}")
                    _answer([*group, *self._queue], self._why)
                    return

    def _next(self) -> list[_Asked]:
        """Return what is to be taken at once."""
        count = entries = 0
        while count < len(self._queue) and entries < GROUP_ENTRIES:
            entries += len(self._queue[count].texts)
            count += 1
        group, self._queue = self._queue[:count], self._queue[count:]
        return group

    async def _take(self, group: list[_Asked]) -> None:
        await asyncio.to_thread(self._make, group)
        good = [asked for asked in group if asked.error is None]
        has_room = await self._peering.has_room([asked.entries for asked in good])
        for asked, fits in zip(good, has_room, strict=True):
            if not fits:
                asked.error = PoolFullError("too many entries wait to be mined already")
        await asyncio.to_thread(self._keep, [asked for asked in good if asked.error is None])
        kept = [one for asked in good if asked.error is None for one in asked.entries]
        with suppress(CairnError):  # they are safe, and mined when the node is back
            await self._peering.submit(kept)
        _answer(group)

    def _make(self, group: list[_Asked]) -> None:
        for asked in group:
            with _noting([asked]):
                asked.entries = self._ledger.make_entries(asked.texts, key=asked.key)

    def _keep(self, group: list[_Asked]) -> None:
        """Make entries durable: all without a key in one write, each of the others in its own."""
        plain = [asked for asked in group if asked.key is None]
        if plain:
            with _noting(plain):
                self._ledger.keep([one for asked in plain for one in asked.entries])
        for asked in group:
            if asked.key is not None:
                with _noting([asked]):
                    self._ledger.keep(asked.entries, key=asked.key)


@contextmanager
def _noting(group: Sequence[_Asked]) -> Iterator[None]:
    """Keep the error of some requests from being that of others."""
    try:
        yield
    except CairnError as error:
        for asked in group:
            asked.error = error


def _answer(group: Sequence[_Asked], error: CairnError | None = None) -> None:
    for asked in group:
        if asked.future.done():  # who asked has gone
            continue
        if found := asked.error or error:
            asked.future.set_exception(found)
        else:
            asked.future.set_result([one.id for one in asked.entries])
