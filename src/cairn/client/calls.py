"""What a client can ask of a node, as steps that a driver carries out (see `retry`). No I/O."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from cairn.client import answers, wire
from cairn.client.errors import NodeError
from cairn.client.events import Follower
from cairn.client.retry import Steps, Tries, answered
from cairn.client.trust import Trust
from cairn.client.wire import Answer, Request
from cairn.core.block import Block
from cairn.core.errors import DamagedError, EntryError, NoSuchBlockError, OutcomeUnknownError
from cairn.core.header import LIMIT_63
from cairn.core.merkle import HASH_BYTES
from cairn.report import Report

KEY_BYTES: Final = 16
"""128 random bits: no two appends of anyone have the same key by chance."""
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

    def get(self, index: int) -> Steps[Block]:
        """Read the block at `index`, which counts from the end where it is negative."""
        if index == -1:
            return (yield from self._head())
        position = index if index >= 0 else index + (yield from self.length())
        if not 0 <= position < LIMIT_63:
            raise NoSuchBlockError(f"there is no block {index}")
        known = yield from self.trust.known()
        try:
            block = yield from self._shown(f"/blocks/{position}", lambda b: b.index == position)
        except NoSuchBlockError as error:
            if position < known or index < 0:  # it has said how many there are
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
