"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import httpx

from cairn.client import http
from cairn.client.answers import Standing
from cairn.client.batches import Extension
from cairn.client.calls import Calls
from cairn.client.events import Follower
from cairn.client.pages import Pages, Scan, Search
from cairn.client.retry import Outcome, Steps, Try
from cairn.client.trust import Trust, parse_keys
from cairn.client.wire import ENCODER, MAX_ANSWER, Answer, Request, encode_text
from cairn.core.block import Block
from cairn.core.errors import CairnError, UsageError
from cairn.core.genesis import Genesis
from cairn.proof.checkpoint import SignedCheckpoint
from cairn.proof.keyring import Keyring
from cairn.proof.receipt import Receipt
from cairn.report import Report

T = TypeVar("T")


class Client:
    """A ledger on a node, over HTTP: used as a `Ledger` is, also by many threads at once.

    Every request is tried again, with growing pauses, until there is an answer or patience is up;
    no retry records anything twice.

    Nothing that the node says of the ledger is believed. Every block that is returned keeps the
    rules and is in the tree of a checkpoint that is signed by a trusted key, and consistent with
    all that this user was shown before. An append returns before it is signed; it is held to a
    later checkpoint. On a work ledger, only final blocks are signed; one above is returned if it
    follows them, with all between, and each shows the work that was asked for: a reorganisation may
    still take it back.

    What cannot be checked: that a search has found everything, and nothing else; what `validate`
    reports; and that the last block is the last.

    What any of the methods may raise, beside what it names:
        UnreachableError: there was no answer until patience was up.
        NotPermittedError: the token is missing or wrong, or the node goes by another name.
        DamagedError: the node cannot read what it stores.
        NodeError: it refuses for another reason; a `BadAnswerError` where it seems to be no node,
            or does not show what it has signed.
        InvalidChainError: it shows a block that breaks a rule.
        InconsistentError: it shows another history than before, or than it has signed. The error
            holds both statements, and they are kept on disk.
        UntrustedSignerError: the checkpoint is signed by another key than a trusted one.
        ProofError: its signatures are wrong, or fewer witnesses have cosigned than are asked for.
        StoreError: what this user remembers cannot be read or written.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:5000",
        *,
        token: str | None = None,
        timeout: float = http.TIMEOUT_SECONDS,
        patience: float = http.PATIENCE_SECONDS,
        key: str | Sequence[str] | None = None,
        witnesses: Sequence[str] = (),
        quorum: int | None = None,
        keyring: Keyring | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare to ask the node at `url`; nothing is sent yet.

        `timeout` is the seconds without progress after which a try has failed, `patience` those
        after which none begins any more. `transport` is another way to get there, such as a Unix
        socket.

        `key` is the verifier key, or keys, to believe (`cairn key` prints it). Without, those that
        this user has recorded for the ledger are; if there are none, the first that is seen, from
        then on, as ssh does: then a forged first contact is not found out. `quorum` of `witnesses`
        (verifier keys; by default, all) must have cosigned a checkpoint. `keyring` is where keys
        and checkpoints are remembered: by default, in the user's configuration folder.

        Raises:
            UsageError: `url` is not that of a node, or `token` cannot be sent.
            ProofError: a key is none, or fewer witnesses than `quorum` are given.
        """
        self._http = httpx.Client(transport=transport, **http.settings(url, token))
        self._timeout = timeout
        trust = Trust(
            str(self._http.base_url),
            patience,
            keyring or Keyring(),
            keys=parse_keys(key),
            witnesses=parse_keys(witnesses),
            quorum=quorum,
        )
        self._calls = Calls(patience, trust)

    def append(self, value: object, *, key: str | None = None) -> Block:
        """Record one JSON value; return its block, durable. On a work ledger, use `submit`.

        With a `key` (1 to 255 printable ASCII characters), a later retry of the same value, even
        by another program, returns the block of the first try instead of recording it again.

        Raises:
            EntryError: `value` has no canonical JSON or is past a limit. Nothing was written.
            KeyReusedError: `key` was used for another value. Nothing was written.
            OutcomeUnknownError: no answer, or none that says whether it is recorded. The message
                has the key that a retry needs.
            UsageError: this is a work ledger. Nothing was written.
        """
        return self._run(self._calls.append(ENCODER.value(value), key))

    def append_json(self, text: bytes | str, *, key: str | None = None) -> Block:
        """Record the value of one JSON text, as `append` does.

        Raises:
            EntryError: also where the text is not acceptable JSON (see `core.canonical.parse`).
        """
        return self._run(self._calls.append(encode_text(text), key))

    def append_all(self, values: Iterable[object], *, key: str | None = None) -> range:
        """Record values, a block each, all or nothing; return their positions.

        They are sent together, 32 MiB at most: for many, use `extend`. A `key` tells a retry of
        the same values, as for `append`.

        Raises:
            EntryError: there is no value, one is refused, or they are too large together. Nothing
                was written. A `RefusedEntryError` says which it was.
            KeyReusedError: `key` was used for other values. Nothing was written.
            OutcomeUnknownError: as for `append`.
        """
        return self._run(self._calls.append_all([ENCODER.value(v) for v in values], key))

    def extend(self, values: Iterable[object]) -> int:
        """Record many JSON values, a block each; return how many. All are durable.

        Takes any iterable, once, and sends batches as it goes. Of every error, `durable` or a note
        says how many items are recorded.

        Raises:
            ExtendError: an item was refused; all before it are durable, and `durable` is their
                number. Whatever the iterable itself raises leaves the same behind.
            OutcomeUnknownError: its `durable` items are recorded, those of one more batch may be.
        """
        return self._extend(values, ENCODER.value)

    def extend_json(self, texts: Iterable[bytes | str]) -> int:
        """Record the values of many JSON texts, such as the lines of an NDJSON file, as `extend`.

        Raises:
            ExtendError: also where a text is not acceptable JSON.
        """
        return self._extend(texts, encode_text)

    def submit(self, value: object, *, key: str | None = None, wait: int = 0) -> str:
        """Let one JSON value wait to be mined into a work ledger; return its entry's id.

        64 hex digits; `entry` says what becomes of it. It is durable on the node then, which has
        `wait` seconds (0 to 60) to get it into a block before it answers. With a `key`, a later
        retry of the same value, even by another program or at another node, has the same id, and is
        mined once.

        Raises:
            EntryError: `value` has no canonical JSON or is past a limit. Nothing was written.
            KeyReusedError: `key` was used for another value. Nothing was written.
            OutcomeUnknownError: no answer, or none that says whether it is durable. The message has
                the key that a retry needs.
            UsageError: this is an instant ledger: use `append`.
        """
        return self._run(self._calls.submit(ENCODER.value(value), key, wait))

    def submit_json(self, text: bytes | str, *, key: str | None = None, wait: int = 0) -> str:
        """Submit the value of one JSON text, as `submit` does.

        Raises:
            EntryError: also where the text is not acceptable JSON (see `core.canonical.parse`).
        """
        return self._run(self._calls.submit(encode_text(text), key, wait))

    def entry(self, entry_id: str) -> Standing:
        """Return where the entry with this id (64 hex digits) stands: see `Standing`.

        The block that is said to have it was looked at: it has it, and is in the signed tree if it
        is said to be final. That an entry waits is the node's word alone.

        Raises:
            NoSuchEntryError: the node knows of none.
        """
        return self._run(self._calls.entry(entry_id))

    def peers(self) -> dict[str, Any]:
        """Return what the node says of itself and its peers, as `GET /peers` does; unchecked."""
        return self._run(self._calls.peers())

    @cached_property
    def genesis(self) -> Genesis:
        """The rules of this ledger, from block 0.

        Raises:
            FormatError: block 0 does not record a genesis (damage).
        """
        return Genesis.of(self[0])

    @property
    def id(self) -> str:
        """The ledger's id in every network: the hash of genesis, 64 hex digits."""
        return self[0].hash

    @property
    def head(self) -> Block:
        """The last block."""
        return self[-1]

    def __len__(self) -> int:
        return self._run(self._calls.length())

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        """Return the block at `index`, or those of a slice. Negative ones count from the end.

        Raises:
            NoSuchBlockError: there is none (it is an `IndexError`, too).
        """
        if isinstance(index, slice):
            positions = range(*index.indices(len(self)))
            if positions.step == 1:
                return list(self.scan(positions.start, positions.stop))
            return [self[i] for i in positions]
        return self._run(self._calls.get(index))

    def __iter__(self) -> Iterator[Block]:
        return self.scan()

    def find(self, block_hash: str) -> Block | None:
        """Return the block with this hash (64 hex digits), or None."""
        return self._run(self._calls.find(block_hash))

    def scan(self, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Yield the blocks from `start` to `stop` (by default all there are now).

        A page at a time, in constant memory, while appends go on.
        """
        return self._turn(Scan(self._calls, start, stop))

    def search(
        self,
        *,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        contains: str | None = None,
    ) -> Iterator[Block]:
        """Yield the blocks of a span of time whose data has `contains` in it, as they are found.

        `since` and `until` are RFC 3339, or datetimes with a zone.
        """
        return self._turn(Search(self._calls, since, until, contains))

    def follow(self, start: int | None = None) -> Iterator[Block]:
        """Yield the blocks from `start` on, and then each new one as it comes, without end.

        By default those that are recorded after this call. Connects again by itself when the
        stream breaks off; no block is left out, and none comes twice. Of a work ledger, blocks come
        as they become final: none is ever taken back. (`GET /events` tells of all changes.)
        """
        first = len(self) if start is None else start
        return self._follow(Follower(first, self._calls.patience))

    def checkpoint(self) -> SignedCheckpoint:
        """Return the node's signed checkpoint: checked, consistent with all that were seen before.

        What was appended by this client, and is covered, is found in it.

        Raises:
            InconsistentError: it contradicts one that this user was shown before.
        """
        return self._run(self._calls.trust.checkpoint())

    def receipt(self, index: int, entry: int = 0) -> Receipt:
        """Return the receipt of an entry, which proves it to whoever trusts the node's key.

        Raises:
            NoSuchBlockError: there is no such block.
            ProofError: the node gives one that proves nothing.
        """
        return self._run(self._calls.trust.receipt(index, entry))

    @property
    def assurance(self) -> str:
        """The rung of the ladder that the ledger has reached: `signed` or `witnessed`.

        `witnessed` is it only by witnesses that this client was given.
        """
        return self.checkpoint().assurance

    def validate(self) -> Report:
        """Have the node check every rule on every block that it stores; may take minutes."""
        return self._run(self._calls.validate())

    def close(self) -> None:
        """Let go of the connections. Closing twice is fine."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._http.base_url)!r})"

    def _extend(self, items: Iterable[Any], encode: Callable[[Any], bytes]) -> int:
        extension = Extension(self._calls, encode)
        with extension.accounting():
            try:
                for item in items:
                    self._run(extension.take(item))
            except Exception:
                self._run(extension.flush())
                raise
            self._run(extension.flush())
        return extension.durable

    def _turn(self, pages: Pages) -> Iterator[Block]:
        while not pages.done:
            yield from self._run(pages.turn())

    def _follow(self, follower: Follower) -> Iterator[Block]:
        while True:
            try:
                with self._open(follower.request()) as response:
                    if follower.is_stream(response.status_code, response.headers):
                        for chunk in response.iter_bytes():
                            yield from self._run(self._calls.taken(follower, chunk))
                    else:
                        self._run(self._calls.not_followed(follower, _answer(response)))
            except http.LOST as error:
                follower.failed(http.lost(error))
            time.sleep(follower.pause())

    def _run(self, steps: Steps[T]) -> T:
        """Carry out `steps`."""
        try:
            todo = next(steps)
            while True:
                if isinstance(todo, Try):
                    if todo.wait:
                        time.sleep(todo.wait)
                    outcome: Any = self._send(todo.request)
                else:
                    try:
                        outcome = todo()
                    except CairnError as error:
                        todo = steps.throw(error)
                        continue
                todo = steps.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, request: Request) -> Outcome:
        try:
            with self._open(request) as response:
                return _answer(response)
        except http.LOST as error:
            return http.lost(error)

    def _open(self, request: Request) -> AbstractContextManager[httpx.Response]:
        if self._http.is_closed:
            raise UsageError("this client is closed")
        return self._http.stream(**http.arguments(request, self._timeout))


def _answer(response: httpx.Response) -> Answer:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            break
    return Answer(response.status_code, response.headers, bytes(body))
