"""What a client can ask of a node, as steps that a driver carries out (see `retry`). No I/O."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from cairn.client import answers, wire
from cairn.client.answers import Standing
from cairn.client.errors import NodeError
from cairn.client.events import Follower
from cairn.client.retry import Steps, Tries, answered
from cairn.client.trust import Trust
from cairn.client.wire import Answer, Request
from cairn.core.block import Block
from cairn.core.errors import (
    DamagedError,
    EntryError,
    NoSuchBlockError,
    NoSuchEntryError,
    OutcomeUnknownError,
    UsageError,
)
from cairn.core.header import LIMIT_63
from cairn.core.merkle import HASH_BYTES
from cairn.core.rules import InvalidChainError
from cairn.report import Report

KEY_BYTES: Final = 16
"""128 random bits: no two appends of anyone have the same key by chance."""
MOST_WAIT: Final = 60
"""Seconds that a node waits for an entry to be mined, at most."""
WAIT_MARGIN: Final = 10.0
"""Seconds that an answer may take besides."""
ENTRY_TRIES: Final = 4
"""Looks at what a reorganisation may have changed between two answers."""
VALIDATION_SECONDS: Final = 3600.0
"""How long a node may be silent while it validates: it reads everything that it holds."""

T = TypeVar("T")
Read = Callable[[Request, Answer], T]
"""What makes sense of the answer to a request; it raises what else the answer means."""


class Calls:
    """The requests of one client, each tried again until `patience` seconds have passed."""

    def __init__(self, patience: float, trust: Trust) -> None:
        """Check what comes back by `trust`."""
        self.patience = patience
        self.trust = trust

    def append(self, text: bytes, key: str | None) -> Steps[Block]:
        """Record one canonical JSON text."""
        request = wire.post("/block", [text], _or_random(key))
        known = self._known_before(key)
        block = yield from self._record(request, lambda r, a: answers.read_recorded(r, a, known))
        yield from self.trust.acknowledged(block.index, block.stored_hash)
        return block

    def append_all(self, texts: Sequence[bytes], key: str | None) -> Steps[range]:
        """Record canonical JSON texts, all or nothing; return their positions."""
        if not texts:
            raise EntryError("there is no value to record")
        request = wire.post("/blocks", texts, _or_random(key))
        known, count = self._known_before(key), len(texts)
        positions, last_hash = yield from self._record(
            request, lambda r, a: answers.read_range(r, a, count, known)
        )
        yield from self.trust.acknowledged(positions[-1], last_hash)
        return positions

    def _known_before(self, key: str | None) -> int:
        """Return before which position nothing new can be; with a key, a retry may be anywhere."""
        return self.trust.size if key is None else 0

    def submit(self, text: bytes, key: str | None, wait: int) -> Steps[str]:
        """Submit one canonical JSON text; return the id of its entry."""
        if not 0 <= wait <= MOST_WAIT:
            raise UsageError(f"a node waits from 0 to {MOST_WAIT} seconds, found {wait!r}")
        request = wire.post("/block", [text], _or_random(key), seal="work")
        request = replace(request, path=f"/block?wait={wait}", read_seconds=wait + WAIT_MARGIN)
        return (yield from self._record(request, answers.read_submitted))

    def entry(self, entry_id: str) -> Steps[Standing]:
        """Read where an entry stands; look at the block that is said to have it."""
        if not re.fullmatch("[0-9a-f]{64}", entry_id):
            raise NoSuchEntryError(f"the id of an entry has 64 hex digits, found {entry_id!r:.80}")
        request = wire.get(f"/entries/{entry_id}")
        for _ in range(ENTRY_TRIES):
            standing = yield from self.read(
                request, lambda r, a: answers.read_standing(r, a, entry_id)
            )
            if standing.block is None:
                return standing
            try:
                block = yield from self.get(standing.block)
            except NoSuchBlockError:
                continue  # it was taken off the chain between the two answers
            ids = [entry.id.hex() for entry in block.entries]
            if block.erased:
                ids = [block.header.data_root.hex()]
            if ids[standing.place : standing.place + 1] == [entry_id]:  # type: ignore[operator]
                if standing.status == "final":
                    yield from self.trust.covering(standing.block + 1)
                return standing
        raise answers.bad_answer(request, "a block that does not have this entry")

    def peers(self) -> Steps[dict[str, Any]]:
        """Read what the node says of its peers."""
        return self.read(wire.get("/peers"), answers.read_peers)

    def get(self, index: int) -> Steps[Block]:
        """Read the block at `index`, which counts from the end where it is negative."""
        if index == -1:
            return (yield from self._of_now(self._head))
        position = index if index >= 0 else index + (yield from self.length())
        if not 0 <= position < LIMIT_63:
            raise NoSuchBlockError(f"there is no block {index}")
        return (yield from self._of_now(lambda: self._at(position, has=index < 0)))

    def _at(self, position: int, *, has: bool) -> Steps[Block]:
        """Read the block at a position, which the node `has`, as it has said."""
        known = yield from self.trust.known()
        try:
            block = yield from self._shown(f"/blocks/{position}", lambda b: b.index == position)
        except NoSuchBlockError as error:
            if position < known or has:
                raise (yield from self.trust.withheld(f"block {position}")) from error
            raise
        return (yield from self._checked(block))

    def find(self, block_hash: str) -> Steps[Block | None]:
        """Read the block with this hash, if there is one."""
        try:
            raw = bytes.fromhex(block_hash)
        except ValueError:
            return None
        if len(raw) != HASH_BYTES:
            return None
        yield from self.trust.known()
        try:
            block = yield from self._shown(f"/blocks/{raw.hex()}", lambda b: b.stored_hash == raw)
        except NoSuchBlockError:
            return None
        return (yield from self._checked(block))

    def _head(self) -> Steps[Block]:
        """Read the last block: none before what is known to be there."""
        known = yield from self.trust.known()
        try:
            block = yield from self._shown("/head", lambda _block: True)
        except NoSuchBlockError as error:
            raise (yield from self.trust.withheld("its head")) from error
        if block.index < known - 1:
            raise (yield from self.trust.withheld(f"block {known - 1}"))
        return (yield from self._checked(block))

    def _shown(self, path: str, is_asked: Callable[[Block], bool]) -> Steps[Block]:
        """Read a block, which is not checked yet."""
        request = wire.get(path)
        block = yield from self.read(request, answers.read_block)
        if not is_asked(block):
            raise answers.bad_answer(request, f"another block: {block!r:.200}")
        return block

    def _checked(self, block: Block) -> Steps[Block]:
        yield from self.trust.check([block])
        return block

    def _of_now(self, read: Callable[[], Steps[Block]]) -> Steps[Block]:
        """Read a block again that the chain has lost since it was read: it was reorganised."""
        for _ in range(ENTRY_TRIES - 1):
            try:
                return (yield from read())
            except InvalidChainError as error:
                if error.failure.rule != "link" or not self.trust.is_mined:
                    raise
        return (yield from read())

    def taken(self, follower: Follower, chunk: bytes) -> Steps[Sequence[Block]]:
        """Return the blocks that end in a chunk of a stream, checked."""
        return (yield from self.trust.check(list(follower.take(chunk))))

    def not_followed(self, follower: Follower, answer: Answer) -> Steps[None]:
        """Tell `follower` of an answer that is no stream.

        Raises:
            CairnError: trying again would not help.
        """
        known = self.trust.size
        try:
            follower.failed(answer)
        except NoSuchBlockError as error:
            blocks = f"the blocks from {follower.position} on"
            withheld = yield from self.trust.withheld(blocks)
            if follower.position <= known:
                raise withheld from error
            raise

    def length(self) -> Steps[int]:
        """Read how many blocks there are: on a page of genesis, as the head may be large."""
        known = yield from self.trust.known()
        request = wire.get("/", {"start": "0", "limit": "1"})
        page = yield from self.read(request, answers.read_chain)
        if page.length < known:
            raise (yield from self.trust.withheld(f"block {known - 1}"))
        if page.views and answers.to_block(request, page.views[0]).header.bits:
            if page.length > known:  # it is no more than said, but not nothing
                yield from self.get(page.length - 1)
        else:
            yield from self.trust.covering(page.length)
        return page.length

    def validate(self) -> Steps[Report]:
        """Have the node validate what it holds."""
        request = replace(wire.get("/validate"), read_seconds=VALIDATION_SECONDS)
        return self.read(request, answers.read_report)

    def read(self, request: Request, read: Read[T]) -> Steps[T]:
        """Ask for something, and return what `read` makes of the answer."""
        return read(request, (yield from answered(request, Tries(self.patience))))

    def _record(self, request: Request, read: Read[T]) -> Steps[T]:
        """Have something recorded.

        Raises:
            OutcomeUnknownError: it may be recorded, for all that the node has answered.
        """
        tries = Tries(self.patience)
        try:
            answer = yield from answered(request, tries)
            tries.note(answer)
            return read(request, answer)
        except (NodeError, DamagedError) as error:
            if not tries.maybe_done:
                raise
            raise OutcomeUnknownError(
                f"{error}; whether it is recorded is not known: the same again with the key "
                f"{request.headers['Idempotency-Key']!r} cannot record it twice"
            ) from error


def _or_random(key: str | None) -> str:
    return secrets.token_hex(KEY_BYTES) if key is None else key
