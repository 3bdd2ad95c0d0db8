"""Reading many blocks, a page at a time. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from cairn.client import wire
from cairn.client.answers import Page, bad_answer, read_chain, read_found, to_block
from cairn.client.calls import Calls, Read
from cairn.client.errors import BadAnswerError
from cairn.client.retry import Steps
from cairn.core.block import Block
from cairn.core.errors import NoSuchBlockError

PAGE_BLOCKS: Final = 1000
"""Blocks in a page: the most that a node gives. It ends a page sooner where blocks are large."""
EMPTY_PAGES: Final = 10_000
"""Pages without a block, one after the other, at most: a node searches for a second before it gives
one, so that these are hours."""


class Pages:
    """Blocks that come in pages: take each `turn` until `done`."""

    def __init__(self, calls: Calls, path: str, query: dict[str, str], read: Read[Page]) -> None:
        """Begin at `path`, and follow what the answers call the next; `read` reads each."""
        self.done = False
        self._last = -1  # position of the last block that came
        self._empty = 0  # pages since then
        self._known = 0  # blocks that there are at least
        self._calls = calls
        self._request = wire.get(path, query)
        self._read = read

    def turn(self) -> Steps[Iterator[Block]]:
        """Read the next page; return its blocks, of which there may be none."""
        trust = self._calls.trust
        self._known = yield from trust.known()
        try:
            return (yield from self._page())
        except NoSuchBlockError as error:
            if not self._may_be_past_the_end():
                raise (yield from trust.withheld("the next page")) from error
            self.done = True
            return iter(())
        except BadAnswerError:
            yield from trust.doubt()
            raise

    def _may_be_past_the_end(self) -> bool:
        """Whether a page may not be there."""
        return False

    def _page(self) -> Steps[Iterator[Block]]:
        request = self._request
        page = yield from self._calls.read(request, self._read)
        views = self._take(page)
        if page.next is None:
            self.done = True
        else:
            self._request = wire.get(page.next)
        blocks = [to_block(request, view) for view in views]
        self._empty = 0 if blocks else self._empty + 1
        if self._empty > EMPTY_PAGES:
            raise bad_answer(request, f"no block on {self._empty} pages, and more pages")
        return iter((yield from self._calls.trust.check(self._expected(blocks))))

    def _take(self, page: Page) -> list[Any]:
        """Return those blocks of the page that are wanted."""
        return page.views

    def _expected(self, blocks: list[Block]) -> list[Block]:
        """Return the blocks of a page, if they are in the order that was asked for."""
        places = [block.index for block in blocks]
        if any(after <= before for before, after in pairwise([self._last, *places])):
            raise bad_answer(self._request, "blocks that are out of order")
        self._last = places[-1] if places else self._last
        return blocks


class Search(Pages):
    """The blocks that a node finds; the times are RFC 3339, or datetimes with a zone."""

    def __init__(
        self,
        calls: Calls,
        since: str | datetime | None,
        until: str | datetime | None,
        contains: str | None,
    ) -> None:
        asked = {"since": since, "until": until, "contains": contains}
        query = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asked.items()
            if value is not None
        }
        super().__init__(calls, "/blocks", query | {"limit": str(PAGE_BLOCKS)}, read_found)


class Scan(Pages):
    """The blocks from `start` to `stop`, or to the end that is there when the first page is."""

    def __init__(self, calls: Calls, start: int, stop: int | None) -> None:
        limit = PAGE_BLOCKS if stop is None else min(PAGE_BLOCKS, stop - start)
        super().__init__(calls, "/", {"start": str(start), "limit": str(limit)}, read_chain)
        self.done = limit <= 0
        self._start, self._stop = start, stop
        self._next = start
        self._left: int | None = None  # until the first page says how many there are

    def _may_be_past_the_end(self) -> bool:
        """Whether it is the first: from a start past the end there is nothing, as of a ledger."""
        return self._left is None and self._start >= self._known

    def _take(self, page: Page) -> list[Any]:
        if self._left is None:
            if page.length < self._known:
                raise bad_answer(
                    self._request, f"{page.length} blocks, of {self._known} that were signed"
                )
            stop = page.length if self._stop is None else min(self._stop, page.length)
            self._left = max(0, stop - self._start)
        views = page.views[: self._left]
        self._left -= len(views)
        self.done = self._left == 0
        if page.next is None and not self.done:
            raise bad_answer(self._request, f"the last page, {self._left} blocks before the end")
        return views

    def _expected(self, blocks: list[Block]) -> list[Block]:
        for block in blocks:
            if block.index != self._next:
                raise bad_answer(self._request, f"block {block.index}, where {self._next} is due")
            self._next += 1
        return blocks
