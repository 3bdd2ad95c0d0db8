"""The checkpoints of a node: signed as the ledger grows, cosigned by witnesses, then published."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import Final, NamedTuple, TypeVar

import httpx

from cairn.core.errors import (
    CairnError,
    DamagedError,
    InconsistentError,
    NotFoundError,
    ProofError,
)
from cairn.core.rules import InvalidChainError
from cairn.ledger.notary import Notary
from cairn.proof.checkpoint import Checkpoint, hinted
from cairn.proof.note import Note, Signature, VerifierKey
from cairn.proof.witness import Request, cosignatures

SECONDS: Final = 0.25
"""Between checkpoints, at least, while blocks come: one costs some milliseconds."""
WITNESS_SECONDS: Final = 5.0
"""How long witnesses may take, all together, before a checkpoint is published without them."""
REFUSING_SECONDS: Final = 0.5
"""The same for one that did not cosign the last time: what is down is not to hold up the others."""
RETRY_SECONDS: Final = 5.0
"""How long to wait after keys or memories could not be written, or a witness did not cosign."""
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


class NotSignedError(CairnError):
    """There is no such checkpoint just now; later there may be."""


class Checkpoints:
    """Signs and publishes, on one event loop. Blocking work is done in a thread of its own."""

    def __init__(
        self, notary: Callable[[], Notary], witnesses: Sequence[WitnessAddress] = ()
    ) -> None:
        self._notary = notary
        self._witnesses = witnesses
        self._sizes: dict[VerifierKey, int] = {}  # that each witness has cosigned, as far as known
        self._refusing: set[VerifierKey] = set()  # witnesses of which the log has been told
        self._thread = ThreadPoolExecutor(1, "cairn-checkpoints")
        self._note: Note | None = None
        self._failure: CairnError | None = None  # what those are told who wait; None: go on
        self.published: Callable[[int, int], None] = lambda _size, _witnesses: None
        """Told of every checkpoint: its size, and how many witnesses have cosigned it."""

    def start(self) -> None:
        """Begin, with a running event loop."""
        self._wanted, self._urgent = asyncio.Event(), asyncio.Event()
        self._changed = asyncio.Event()  # set, and replaced, by each that is published
        self._wanted.set()
        # It makes a TLS context, which takes some 20 ms: one for all.
        self._client = httpx.AsyncClient(timeout=WITNESS_SECONDS, trust_env=False)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End. What was signed and not yet published will be, after the next start."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._client.aclose()
        await asyncio.to_thread(self._thread.shutdown)

    def grown(self) -> None:
        """Say that blocks have come."""
        self._wanted.set()

    def restart(self) -> None:
        """Begin anew, where a block that breaks a rule has ended it: in a lab it may be mended."""
        self._failure = None
        if self._task.done():
            self._task = asyncio.create_task(self._run())
        self._wanted.set()

    @property
    def contradiction(self) -> str | None:
        """Why nothing more is signed, if the chain is not the one that was; or breaks a rule."""
        ended = isinstance(self._failure, InconsistentError | InvalidChainError)
        return str(self._failure) if ended else None

    async def covering(self, size: int) -> Note:
        """Return the published checkpoint, once it is of at least so many blocks.

        Raises:
            InconsistentError, InvalidChainError: nothing more is signed, and why.
            NotSignedError: it takes too long, or nothing can be signed just now.
        """
        until = time.monotonic() + WAIT_SECONDS
        while self._note is None or Checkpoint.parse(self._note.text).size < size:
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # else it grows with everyone who asks
            changed = self._changed
            self._urgent.set()
            self._wanted.set()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await changed.wait()
            except TimeoutError:
                raise NotSignedError("the checkpoint takes longer: ask again") from None
        return self._note

    async def _run(self) -> None:
        while True:
            # Not wait_for: before Python 3.12, it can lose the cancelling that `stop` asks for.
            with suppress(TimeoutError):  # who has not cosigned is asked again
                async with asyncio.timeout(RETRY_SECONDS if self._refusing else None):
                    await self._wanted.wait()
            with suppress(TimeoutError):  # unless somebody waits, let more blocks come first
                async with asyncio.timeout(SECONDS if self._note else 0):
                    await self._urgent.wait()
            self._wanted.clear()
            self._urgent.clear()
            try:
                await self._publish()
                self._failure = None
            except (InconsistentError, InvalidChainError) as error:
                log.critical("nothing is signed any more: %s", error)
                self._failure = error
                self._announce()
                return
            except (CairnError, OSError) as error:
                log.error("the ledger is not signed: %s", error)  # noqa: TRY400 - no bug of ours
                unsigned = NotSignedError("nothing can be signed; the node's log says why")
                self._failure = error if isinstance(error, DamagedError) else unsigned
                self._announce()
                self._wanted.set()
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("nothing is signed any more: this is a bug")
                self._failure = NotSignedError("nothing is signed any more: this is a bug")
                self._announce()
                return

    async def _publish(self) -> None:
        """Sign, have it cosigned, publish."""
        note = await self._in_thread(lambda: self._notary().sign())
        last = self._note or await self._in_thread(self._published_before)
        have: list[VerifierKey] = []  # witnesses that have cosigned it already
        if last is not None and last.text == note.text:
            have = hinted((one.key for one in self._witnesses), last)
        asked = [one for one in self._witnesses if one.key not in have]
        found = await asyncio.gather(*(self._cosigned(one, note) for one in asked))
        kept = [s for s in last.signatures if any(k.has_made(s) for k in have)] if last else []
        cosigned = Note(note.text, (*note.signatures, *kept, *chain.from_iterable(found)))
        if cosigned == self._note:
            return
        await self._in_thread(lambda: self._notary().publish(cosigned))
        self._note = cosigned
        self._announce()
        self.published(Checkpoint.parse(note.text).size, len(have) + sum(map(bool, found)))

    def _published_before(self) -> Note | None:
        """Return what was published before the node was started."""
        with suppress(NotFoundError, ProofError):
            return self._notary().published()
        return None

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _cosigned(self, address: WitnessAddress, note: Note) -> list[Signature]:
        """Return the cosignature of a witness, if it gives one in time."""
        key = address.key
        try:
            seconds = REFUSING_SECONDS if key in self._refusing else WITNESS_SECONDS
            async with asyncio.timeout(seconds):
                found = await self._ask(address, note)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ProofError) as error:
            if key not in self._refusing:  # said once, and not four times a second
                why = str(error) or type(error).__name__
                log.warning("witness %s does not cosign: %s", key.name, why)
            self._refusing.add(key)
            return []
        if key in self._refusing:
            log.warning("witness %s cosigns again", key.name)
        self._refusing.discard(key)
        self._sizes[key] = Checkpoint.parse(note.text).size
        return found

    async def _ask(self, address: WitnessAddress, note: Note) -> list[Signature]:
        """Return what a witness answers, checked, when it has been shown all that it asks for."""
        checkpoint, old = Checkpoint.parse(note.text), self._sizes.get(address.key, 0)
        url = f"{address.url.rstrip('/')}/add-checkpoint"
        for _ in range(WITNESS_TRIES):
            proof = await self._consistency(old, checkpoint)
            status, answer = await self._post(url, Request(old, tuple(proof), note).body)
            if status == httpx.codes.OK:
                found = cosignatures(answer, note, [address.key])
                if not found:
                    raise ProofError("it answers with no signature by its key")
                return found
            if status != httpx.codes.CONFLICT:
                break
            old = _size(answer)
            if old > checkpoint.size:
                raise ProofError(f"it has seen {old} blocks, of {checkpoint.size}")
        raise ProofError(f"it answers {status}: {answer[:200]!r}")

    async def _post(self, url: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer.

        Raises:
            ProofError: it is too long.
        """
        headers = {"Accept-Encoding": "identity"}  # what is packed may be longer than it looks
        async with self._client.stream("POST", url, content=body, headers=headers) as answer:
            found = b""
            async for piece in answer.aiter_raw():
                found += piece
                if len(found) > MAX_ANSWER:
                    raise ProofError(f"it answers with more than {MAX_ANSWER} bytes")
            return answer.status_code, found

    async def _consistency(self, old: int, new: Checkpoint) -> list[bytes]:
        return await self._in_thread(lambda: self._notary().prove_consistency(old, new))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _size(answer: bytes) -> int:
    """Return the size that a witness says it is at."""
    found = re.fullmatch(rb"(0|[1-9][0-9]{0,18})\n", answer)
    if found is None:
        raise ProofError(f"it conflicts, and answers {answer[:200]!r}")
    return int(found[1])
