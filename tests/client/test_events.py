"""The parser of server-sent events: the same events, however the stream is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.client import events
from cairn.client.events import Event, EventParser

STREAM = (
    b": following\n\n"
    b"id: 1\nevent: block\ndata: {}\n\n"
    b"id:2\revent:block\rdata:  a:b\r\r"
    b"id: 3\r\nevent: block\r\ndata: one\r\ndata:\r\ndata: two\r\n\r\n"
    b"retry: 5\nunknown\nid: lost\n\n"
    b"data\n\n"
    b"\n\n\r\n\r\r"
    b"event: other\ndata: \xc3\xa9\xe2\x80\xa8\x85\x0b\x0c\x1c\n\n"
    b": alive\n\n"
    b"id: 9\nevent: block\ndata: cut off\n"
)
EVENTS = [
    Event("block", "1", b"{}"),
    Event("block", "2", b" a:b"),
    Event("block", "3", b"one\n\ntwo"),
    Event("message", "", b""),
    Event("other", "", b"\xc3\xa9\xe2\x80\xa8\x85\x0b\x0c\x1c"),
]


def parse(*chunks: bytes) -> list[Event]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_events_are_as_the_standard_says() -> None:
    assert parse(STREAM) == EVENTS


def test_events_are_the_same_however_the_stream_is_cut() -> None:
    assert parse(*(bytes([byte]) for byte in STREAM)) == EVENTS
    for i in range(len(STREAM)):
        assert parse(STREAM[:i], b"", STREAM[i:]) == EVENTS


def by_the_book(stream: bytes) -> list[Event]:
    """Split into lines first, then read fields: what the standard says, slowly."""
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    found, fields = [], dict[bytes, list[bytes]]()
    for line in lines:
        if line:
            name, _, value = line.partition(b":")
            fields.setdefault(name, []).append(value[1:] if value[:1] == b" " else value)
            continue
        if b"data" in fields:
            name, of = fields.get(b"event", [b"message"])[-1], fields.get(b"id", [b""])[-1]
            found.append(Event(name.decode(), of.decode(), b"\n".join(fields[b"data"])))
        fields = {}
    return found


@given(
    st.lists(
        st.sampled_from(
            [
                b"data",
                b"id",
                b"event",
                b":",
                b" ",
                b"x",
                b"\n",
                b"\r",
                b"\r\n",
                b"\n\n",
                b"\xc3\xa9",
            ]
        ),
        max_size=60,
    ),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_any_stream_is_read_as_by_the_book(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(bounds)]
    assert parse(*chunks) == by_the_book(stream)


@pytest.mark.parametrize("endless", [b"data: x", b"data: x\n", b": x", b"id: x"])
def test_no_event_is_held_beyond_the_bound(monkeypatch: pytest.MonkeyPatch, endless: bytes) -> None:
    monkeypatch.setattr(events, "MAX_ANSWER", 1000)
    with pytest.raises(ValueError, match="an event of more than 1000 bytes"):
        parse(*[endless] * 1000)


def test_comments_and_many_events_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_ANSWER", 1000)
    assert parse(*[b": alive\n\n", b"id: 5\n"] * 1000) == []
    assert len(parse(*[b"data: x\n\n"] * 1000)) == 1000
