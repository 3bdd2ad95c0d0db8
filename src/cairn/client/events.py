"""Following a node: server-sent events, going on where they broke off. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from cairn.client import wire
from cairn.client.answers import bad_answer, parse_json, refusal, to_block
from cairn.client.retry import TRY_AGAIN, Outcome, Tries, given_up
from cairn.client.wire import MAX_ANSWER, Answer, Lost, Request
from cairn.core.block import Block

SILENCE_SECONDS: Final = 50.0
"""How long a node may be silent before it is taken for gone: three of its heartbeats, of 15 s."""

_ENDED: Final = Lost(EOFError("the stream of events ended"), sent=True)


class Event(NamedTuple):
    """An event, with the fields that a node sends."""

    name: str
    id: str
    data: bytes


class EventParser:
    """Makes events of the bytes of a stream, however they are cut.

    Source: HTML Living Standard, section 9.2.6, without byte-order mark and reconnection time.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []  # the pieces of a line that has not ended
        self._fields: dict[bytes, bytes] = {}
        self._data: list[bytes] = []
        self._line_bytes = self._data_bytes = 0
        self._after_cr = False  # so that LF would not end another line

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that end in `chunk`.

        Raises:
            ValueError: an event is not UTF-8, or larger than any answer may be.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        for piece in chunk.splitlines(keepends=True):
            self._line.append(piece)
            self._line_bytes += len(piece)
            if self._line_bytes + self._data_bytes > MAX_ANSWER:
                raise ValueError(f"an event of more than {MAX_ANSWER} bytes")
            if piece.endswith((b"\n", b"\r")):
                line = b"".join(self._line).rstrip(b"\r\n")
                self._line, self._line_bytes = [], 0
                yield from self._end_of(line)

    def _end_of(self, line: bytes) -> Iterator[Event]:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            yield from self._dispatch()
        elif name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif name in (b"event", b"id"):  # all others are comments, or for others
            self._fields[name] = value

    def _dispatch(self) -> Iterator[Event]:
        fields, data = self._fields, self._data
        self._fields, self._data, self._data_bytes = {}, [], 0
        if data:
            name, of = fields.get(b"event", b"message").decode(), fields.get(b"id", b"").decode()
            yield Event(name, of, b"\n".join(data))


class Follower:
    """The blocks of a ledger from one on, over as many connections as that takes.

    Open the `request`; if it `is_stream`, `take` its chunks, else tell `failed` what it was; then
    `pause` before the next.
    """

    def __init__(self, start: int, patience: float) -> None:
        """Begin with the block at `start`, which may be still to come."""
        self._next = start
        self._tries = Tries(patience)
        self._last: Outcome = _ENDED
        self._streaming = False

    @property
    def position(self) -> int:
        """Of the block that is due."""
        return self._next

    def request(self) -> Request:
        """Return the request for all that was not taken yet."""
        self._parser = EventParser()
        self._request = replace(
            wire.get("/events", {"start": str(self._next)}),
            headers={"Accept": "text/event-stream", "Cairn-Final": "true"},
            read_seconds=SILENCE_SECONDS,
        )
        return self._request

    def is_stream(self, status: int, headers: Mapping[str, str]) -> bool:
        """Whether an answer is a stream of events."""
        if status != 200 or not headers.get("Content-Type", "").startswith("text/event-stream"):
            return False
        self._last, self._streaming = _ENDED, True
        return True

    def take(self, chunk: bytes) -> Iterator[Block]:
        """Yield the blocks that end in a chunk of the stream, none twice and none left out.

        Raises:
            BadAnswerError: it leaves one out, or is no stream of blocks.
        """
        try:
            for event in self._parser.feed(chunk):
                if event.name == "block" and self._is_next(event.id):
                    block = self._block(event)
                    self._next += 1
                    self._tries.went_well()
                    yield block
        except ValueError as error:
            raise bad_answer(self._request, str(error)) from error

    def _block(self, event: Event) -> Block:
        block = to_block(self._request, parse_json(self._request, event.data))
        if block.index != self._next:
            raise bad_answer(self._request, f"block {block.index}, where {self._next} is due")
        return block

    def failed(self, outcome: Outcome) -> None:
        """Note that there was no stream, or that it broke off.

        Raises:
            CairnError: trying again would not help.
        """
        self._last = outcome
        if isinstance(outcome, Answer) and outcome.status not in TRY_AGAIN:
            if outcome.status == 200:
                raise bad_answer(self._request, "no stream of events")
            raise refusal(self._request, outcome)

    def pause(self) -> float:
        """Return the seconds to wait before the next request.

        Raises:
            UnreachableError: there was no stream for too long.
        """
        if self._streaming:  # until now; so patience begins now
            self._tries.reached()
            self._streaming = False
        pause = self._tries.pause(self._last.retry_after)
        if pause is None:
            raise given_up(self._request, self._last, self._tries.patience)
        return pause

    def _is_next(self, text: str) -> bool:
        """Whether an event with this id is due; False where it was taken before."""
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= self._next):
            raise ValueError(f"an event with the id {text!r:.80} where block {self._next} is due")
        return int(text) == self._next
