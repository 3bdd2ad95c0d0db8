"""The checkpoints of a node: signed as the ledger grows, cosigned by witnesses, then published."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

import httpx

from cairn.core.errors import CairnError, InconsistentError, ProofError, StoreError
from cairn.core.rules import InvalidChainError
from cairn.ledger.notary import Notary
from cairn.proof.checkpoint import Checkpoint
from cairn.proof.note import Note, Signature, VerifierKey
from cairn.proof.witness import Request, cosignatures

SECONDS: Final = 0.25
"""Between checkpoints, at least, while blocks come: one costs some milliseconds."""
WITNESS_SECONDS: Final = 5.0
"""How long witnesses may take, all together, before a checkpoint is published without them."""
RETRY_SECONDS: Final = 5.0
"""How long to wait after keys or memories could not be written."""
WAIT_SECONDS: Final = 15.0
"""How long one may wait for a checkpoint that covers a block."""
WITNESS_TRIES: Final = 3
"""A witness that remembers another size than we thought says which, and is asked again."""
MAX_ANSWER: Final = 2**16
"""Bytes of a witness's answer, at most."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class WitnessAddress(NamedTuple):
    """A witness that is asked for cosignatures."""

    url: str
    """Its submission prefix."""
    key: VerifierKey


class Checkpoints:
    """Signs and publishes, on one event loop. Blocking work is done in a thread of its own."""

    def __init__(
        self, notary: Callable[[], Notary], witnesses: Sequence[WitnessAddress] = ()
    ) -> None:
        self._notary = notary
        self._witnesses = witnesses
        self._sizes: dict[VerifierKey, int] = {}  # that each witness has cosigned, as far as known
        self._thread = ThreadPoolExecutor(1, "cairn-checkpoints")
        self._note: Note | None = None
        self._failure: CairnError | None = None
        self.published: Callable[[int, int], None] = lambda _size, _witnesses: None
        """Told of every checkpoint: its size, and how many witnesses have cosigned it."""

    def start(self) -> None:
        """Begin, with a running event loop."""
        self._wanted, self._urgent = asyncio.Event(), asyncio.Event()
        self._changed = asyncio.Event()  # set, and replaced, by each that is published
        self._wanted.set()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End. What was signed and not yet published will be, after the next start."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await asyncio.to_thread(self._thread.shutdown)

    def grown(self) -> None:
        """Say that blocks have come."""
        self._wanted.set()

    async def covering(self, size: int) -> Note:
        """Return the published checkpoint, once it is of at least so many blocks.

        Raises:
            InconsistentError, InvalidChainError: nothing more is signed, and why.
            StoreError: it takes too long.
        """
        until = time.monotonic() + WAIT_SECONDS
        while self._note is None or Checkpoint.parse(self._note.text).size < size:
            if self._failure is not None:
                raise self._failure
            changed = self._changed
            self._urgent.set()
            self._wanted.set()
            try:
                await asyncio.wait_for(changed.wait(), until - time.monotonic())
            except TimeoutError:
                raise StoreError("no checkpoint was signed in time; the log says more") from None
        return self._note

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            with suppress(TimeoutError):  # unless somebody waits, let more blocks come first
                await asyncio.wait_for(self._urgent.wait(), SECONDS if self._note else 0)
            self._wanted.clear()
            self._urgent.clear()
            try:
                await self._publish()
            except (InconsistentError, InvalidChainError) as error:
                log.critical("nothing is signed any more: %s", error)
                self._failure = error
                self._announce()
                return
            except CairnError as error:
                log.error("the ledger is not signed: %s", error)  # noqa: TRY400 - no bug of ours
                self._wanted.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def _publish(self) -> None:
        """Sign, have it cosigned, publish."""
        note = await self._in_thread(lambda: self._notary().sign())
        if self._note is not None and self._note.text == note.text:
            return
        found = await asyncio.gather(*(self._cosigned(one, note) for one in self._witnesses))
        cosigned = Note(note.text, note.signatures + tuple(s for each in found for s in each))
        await self._in_thread(lambda: self._notary().publish(cosigned))
        self._note = cosigned
        self._announce()
        self.published(Checkpoint.parse(note.text).size, sum(1 for each in found if each))

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _cosigned(self, address: WitnessAddress, note: Note) -> list[Signature]:
        """Return the cosignature of a witness, if it gives one in time."""
        try:
            async with asyncio.timeout(WITNESS_SECONDS):
                return await self._ask(address, note)
        except (httpx.HTTPError, TimeoutError, ProofError) as error:
            why = str(error) or type(error).__name__
            log.warning("witness %s does not cosign: %s", address.key.name, why)
            return []

    async def _ask(self, address: WitnessAddress, note: Note) -> list[Signature]:
        checkpoint, old = Checkpoint.parse(note.text), self._sizes.get(address.key, 0)
        url = f"{address.url.rstrip('/')}/add-checkpoint"
        async with httpx.AsyncClient(timeout=WITNESS_SECONDS, trust_env=False) as client:
            for _ in range(WITNESS_TRIES):
                proof = await self._consistency(old, checkpoint.size)
                answer = await client.post(url, content=Request(old, tuple(proof), note).body)
                if len(answer.content) > MAX_ANSWER:
                    raise ProofError(f"it answers with {len(answer.content)} bytes")
                if answer.status_code == httpx.codes.OK:
                    self._sizes[address.key] = checkpoint.size
                    return cosignatures(answer.content, note, [address.key])
                if answer.status_code != httpx.codes.CONFLICT:
                    break
                old = _size(answer.text)
                if old > checkpoint.size:
                    raise ProofError(f"it has seen {old} blocks, of {checkpoint.size}")
        raise ProofError(f"it answers {answer.status_code}: {answer.text[:200]!r}")

    async def _consistency(self, old: int, new: int) -> list[bytes]:
        return await self._in_thread(lambda: self._notary().tree.prove_consistency(old, new))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _size(answer: str) -> int:
    """Return the size that a witness says it is at."""
    found = re.fullmatch(r"(0|[1-9][0-9]{0,18})\n", answer)
    if found is None:
        raise ProofError(f"it conflicts, and answers {answer[:200]!r}")
    return int(found[1])
