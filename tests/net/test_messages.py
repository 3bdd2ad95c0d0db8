"""Messages: what is said comes out again, and nothing that a peer sends does harm."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.core.genesis import Limits
from cairn.net import limits, messages
from cairn.net.messages import (
    Addresses,
    Bodies,
    Entries,
    GetAddresses,
    GetBodies,
    GetHeaders,
    Have,
    Head,
    Headers,
    Hello,
    Message,
    Missing,
    Ping,
    Pong,
    Proof,
    Refusal,
    Refused,
    Want,
    decode,
    encode,
    frame_limit,
    split,
)

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
HEADER = b"h" * 104
SMALL: list[Message] = [
    Hello(1, A, B, C, "wss://node.example:5000"),
    Proof(b"s" * 64),
    Head(HEADER, C),
    GetHeaders(7, [A, B]),
    Headers(7, HEADER),
    Headers(7, b""),
    GetBodies(7, 2, 3, A),
    Bodies(7, b"\0\0\0\x11\0\0\0\x12", b"d" * 35),
    Bodies(7, b"", b""),
    Missing(7),
    Have(A + B),
    Want(A),
    Entries([b"e" * 17, b"f" * 18]),
    Entries([]),
    GetAddresses(),
    Addresses(["ws://192.0.2.1:5000", "wss://node.example:443"]),
    Ping(7),
    Pong(300),
    Refused("genesis", "ours is another (-:"),
]
NUMBER = 2**63 - 1
LARGEST: list[Message] = [
    Hello(NUMBER, A, B, C, "u" * limits.MAX_URL),
    Proof(b"s" * 64),
    Head(HEADER, C),
    GetHeaders(NUMBER, [A] * limits.MAX_LOCATOR),
    Headers(NUMBER, HEADER * limits.MAX_HEADERS),
    GetBodies(NUMBER, NUMBER, NUMBER, A),
    Missing(NUMBER),
    Have(A * limits.MAX_IDS),
    Want(A * limits.MAX_IDS),
    Entries([b"e" * (limits.ANSWER_BYTES // limits.MAX_IDS)] * limits.MAX_IDS),
    GetAddresses(),
    Addresses(["u" * limits.MAX_URL] * limits.MAX_ADDRESSES),
    Ping(NUMBER),
    Pong(NUMBER),
    Refused("r" * messages.MAX_RULE, "d" * limits.MAX_REASON),
]


def name_of(message: Message) -> str:
    return type(message).__name__


def raw(*fields: Any) -> bytes:
    return msgspec.msgpack.encode(list(fields))


def is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def is_bytes(value: Any, unit: int, low: int, high: int) -> bool:
    """Whether it is `low` to `high` units of so many bytes."""
    return type(value) is bytes and len(value) % unit == 0 and low <= len(value) // unit <= high


def is_text(value: Any, most: int, characters: str) -> bool:
    return type(value) is str and len(value) <= most and set(value) <= set(characters)


def is_list(value: Any, low: int, high: int) -> bool:
    return type(value) is list and low <= len(value) <= high


INK = "".join(map(chr, range(33, 127)))
WORD = "abcdefghijklmnopqrstuvwxyz_-"


def is_message(value: Any) -> bool:
    """Say by hand, of a value without types, whether `decode` should take it: the slow oracle."""
    if type(value) is not list or not value or type(value[0]) is not int:
        return False
    match value:
        case [1, version, genesis, key, nonce, address]:
            hashes = all(is_bytes(h, 32, 1, 1) for h in (genesis, key, nonce))
            return is_number(version) and hashes and is_text(address, 255, INK)
        case [2, signature]:
            return is_bytes(signature, 64, 1, 1)
        case [3, header, work]:
            return is_bytes(header, 104, 1, 1) and is_bytes(work, 32, 1, 1)
        case [4, number, locator]:
            return (
                is_number(number)
                and is_list(locator, 1, 64)
                and all(is_bytes(h, 32, 1, 1) for h in locator)
            )
        case [5, number, headers]:
            return is_number(number) and is_bytes(headers, 104, 0, 2000)
        case [6, number, first, count, last]:
            numbers = all(map(is_number, (number, first, count)))
            return numbers and count >= 1 and is_bytes(last, 32, 1, 1)
        case [7, number, lengths, data]:
            if not (is_number(number) and is_bytes(lengths, 4, 0, 2**32) and type(data) is bytes):
                return False
            return sum(int.from_bytes(n, "big") for n in split(lengths, 4)) == len(data)
        case [8 | 14 | 15, number]:
            return is_number(number)
        case [9 | 10, ids]:
            return is_bytes(ids, 32, 1, 1000)
        case [11, entries]:
            return is_list(entries, 0, 1000) and all(is_bytes(e, 1, 17, 2**32) for e in entries)
        case [12]:
            return True
        case [13, urls]:
            return is_list(urls, 0, 100) and all(is_text(url, 255, INK) for url in urls)
        case [16, rule, detail]:
            words = is_text(rule, 32, WORD) and rule[:1].isalpha()
            return words and is_text(detail, 255, INK + " ")
    return False


def judged(frame: bytes) -> Message | None:
    """Decode `frame` and hold the outcome to the oracle; None where it is refused."""
    outcome = outcome_of(frame)
    if isinstance(outcome, Refusal):
        assert outcome.rule == "garbage"
        assert outcome.detail.isprintable()
        assert len(outcome.detail) <= limits.MAX_REASON
        return None
    assert is_message(msgspec.msgpack.decode(encode(outcome)))
    assert decode(encode(outcome)) == outcome
    return outcome


def outcome_of(frame: bytes) -> Message | Refusal:
    try:
        return decode(frame)
    except Refusal as refusal:
        return refusal


# What is said


@pytest.mark.parametrize("message", [*SMALL, *LARGEST], ids=name_of)
def test_every_message_comes_out_as_it_went_in(message: Message) -> None:
    assert decode(encode(message)) == message
    assert is_message(msgspec.msgpack.decode(encode(message)))


def test_the_bytes_on_the_wire_stay_what_they_are() -> None:
    tags = [encode(message)[1] for message in LARGEST]
    assert tags == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    assert encode(Ping(7)) == bytes.fromhex("92 0e 07")
    assert encode(GetAddresses()) == bytes.fromhex("91 0c")
    assert encode(GetBodies(1, 2, 3, A)) == bytes.fromhex("95 06 01 02 03 c4 20") + A
    assert encode(Bodies(1, b"\0\0\0\1", b"x")) == bytes.fromhex("94 07 01 c4 04 00000001 c4 01 78")
    assert encode(Refused("self", "")) == bytes.fromhex("93 10 a4 73656c66 a0")


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_ids_and_headers_that_came_end_to_end_are_split(count: int) -> None:
    pieces = [bytes([n]) * 32 for n in range(count)]
    assert split(b"".join(pieces), 32) == pieces


# What a peer may send


@pytest.mark.parametrize("message", SMALL, ids=name_of)
def test_every_truncation_of_every_message_is_refused(message: Message) -> None:
    frame = encode(message)
    for length in range(len(frame)):
        assert judged(frame[:length]) is None, length


@pytest.mark.parametrize("message", SMALL, ids=name_of)
def test_bytes_after_a_message_are_refused(message: Message) -> None:
    frame = encode(message)
    for more in (b"\0", b"\xc0", frame):
        assert judged(frame + more) is None


@pytest.mark.parametrize("message", SMALL, ids=name_of)
def test_every_flipped_bit_gives_another_message_within_bounds_or_a_refusal(
    message: Message,
) -> None:
    frame = encode(message)
    for at in range(8 * len(frame)):
        changed = bytearray(frame)
        changed[at // 8] ^= 1 << at % 8
        assert judged(bytes(changed)) != message, at


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(frame: bytes) -> None:
    judged(frame)


@given(st.integers(0x90, 0x97), st.integers(0, 17), st.binary(max_size=120))
def test_any_bytes_that_begin_like_a_message_are_one_or_refused(
    array: int, tag: int, rest: bytes
) -> None:
    judged(bytes([array, tag]) + rest)


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-1, 300),
    st.floats(allow_nan=False),
    st.text(max_size=40),
    st.text(WORD, max_size=40),
    st.sampled_from([0, 1, 16, 17, 31, 32, 33, 63, 64, 65, 103, 104, 105, 208]).map(bytes),
    st.lists(st.sampled_from([b"x" * 16, b"x" * 17, A, B + b"x", "ws://a", "ä"]), max_size=66),
)


@given(st.integers(0, 17), st.lists(plain, max_size=6))
def test_what_is_taken_is_exactly_what_the_oracle_takes(tag: int, fields: list[Any]) -> None:
    value = [tag, *fields]
    assert (judged(raw(*value)) is not None) == is_message(value)


OUT_OF_BOUNDS = {
    "no array": 7,
    "a map": {"type": 14, "number": 7},
    "an empty array": [],
    "an unknown message": [17],
    "no message": [0],
    "a tag that is text": ["14", 7],
    "a tag that is a float": [14.0, 7],
    "a tag that is true": [True, 1, A, B, C, ""],
    "one field too few": [6, 1, 2, 3],
    "one field too many": [14, 7, 8],
    "a field where there is none": [12, None],
    "nothing for a number": [14, None],
    "true for a number": [14, True],
    "a float for a number": [14, 7.0],
    "a negative number": [14, -1],
    "a number past 63 bits": [14, 2**63],
    "text for bytes": [2, "s" * 64],
    "bytes for text": [16, b"rule", "detail"],
    "a genesis of 31 bytes": [1, 1, A[1:], B, C, ""],
    "a key of 33 bytes": [1, 1, A, B + b"b", C, ""],
    "no nonce": [1, 1, A, B, b"", ""],
    "an address that is too long": [1, 1, A, B, C, "u" * 256],
    "a signature of 63 bytes": [2, b"s" * 63],
    "a signature of 65 bytes": [2, b"s" * 65],
    "a header of 103 bytes": [3, HEADER[1:], C],
    "a header of 105 bytes": [3, HEADER + b"h", C],
    "work of 33 bytes": [3, HEADER, C + b"c"],
    "an empty locator": [4, 1, []],
    "a locator of 65 hashes": [4, 1, [A] * 65],
    "a hash of 31 bytes in a locator": [4, 1, [A, A[1:]]],
    "headers and a half": [5, 1, HEADER + HEADER[:52]],
    "2,001 headers": [5, 1, HEADER * 2001],
    "no blocks asked for": [6, 1, 2, 0, A],
    "lengths and a half": [7, 1, b"\0\0\0\0\0\0", b""],
    "lengths short of the data": [7, 1, b"\0\0\0\x11", b"d" * 18],
    "lengths past the data": [7, 1, b"\xff\xff\xff\xff", b"d" * 18],
    "lengths that add up past 32 bits": [7, 1, b"\xff\xff\xff\xff\0\0\0\x03", b"dd"],
    "data without lengths": [7, 1, b"", b"d"],
    "no ids": [9, b""],
    "an id and a half": [9, A + A[:16]],
    "1,001 ids": [9, A * 1001],
    "no ids asked for": [10, b""],
    "1,001 ids asked for": [10, A * 1001],
    "an entry of salt alone": [11, [b"e" * 16]],
    "1,001 entries": [11, [b"e" * 17] * 1001],
    "101 addresses": [13, ["u"] * 101],
    "an address that is too long among others": [13, ["u", "u" * 256]],
    "no rule": [16, "", "detail"],
    "a rule of many words": [16, "one two", "detail"],
    "a rule that is too long": [16, "r" * 33, "detail"],
    "a detail that is too long": [16, "rule", "d" * 256],
}


@pytest.mark.parametrize("value", OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS)
def test_out_of_bounds_is_refused(value: Any) -> None:
    assert not is_message(value)
    assert judged(msgspec.msgpack.encode(value)) is None


UNFIT = {
    "newline": "a\nb",
    "newline at the end": "a\n",
    "carriage return": "a\rb",
    "escape": "a\x1b[31mb",
    "nul": "a\0b",
    "delete": "a\x7fb",
    "C1 control": "a\x9bb",
    "line separator": "a\u2028b",
    "right-to-left override": "a\u202eb",
    "right-to-left isolate": "a\u2067b",
    "zero width": "a\u200bb",
    "homograph": "\u0430b",
}


@pytest.mark.parametrize("text", UNFIT.values(), ids=UNFIT)
def test_log_injection_is_refused_in_every_text(text: str) -> None:
    assert judged(raw(1, 1, A, B, C, text)) is None
    assert judged(raw(13, [text])) is None
    assert judged(raw(16, text, "detail")) is None
    assert judged(raw(16, "rule", text)) is None


@pytest.mark.parametrize("text", UNFIT.values(), ids=UNFIT)
def test_a_refusal_that_quotes_a_peer_is_one_printable_line_and_can_be_sent(text: str) -> None:
    refusal = Refusal("order", f"found {text}" + "x" * 1000)
    assert refusal.detail.startswith("found ")
    assert "?" in refusal.detail
    assert str(refusal) == f"order: {refusal.detail}"
    message = Refused(refusal.rule, refusal.detail)
    assert judged(encode(message)) == message


@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
def test_text_that_is_not_utf_8_is_refused(text: bytes) -> None:
    frame = b"\x93\x10\xa4rule" + bytes([0xA0 + len(text)]) + text
    assert judged(frame) is None


# What it costs

HEAD_OF_2_32 = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "text": b"\xdb\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\1",
}
BEFORE = {
    "alone": b"",
    "hello": b"\x96\1\1",
    "address": encode(Hello(1, A, B, C, ""))[:-1],
    "locator": b"\x93\4\1",
    "hash in a locator": b"\x93\4\1\x91",
    "headers": b"\x93\5\1",
    "lengths": b"\x94\7\1",
    "data": b"\x94\7\1\xc4\0",
    "ids": b"\x92\x09",
    "entries": b"\x92\x0b",
    "entry": b"\x92\x0b\x91",
    "urls": b"\x92\x0d",
    "url": b"\x92\x0d\x91",
    "rule": b"\x93\x10",
    "field too many": b"\x93\x0e\1",
}


def peak(frame: bytes) -> int:
    """Bytes that decoding takes at most."""
    tracemalloc.start()
    try:
        judged(frame)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("head", HEAD_OF_2_32.values(), ids=HEAD_OF_2_32)
def test_an_announced_length_of_4_gib_costs_nothing(before: bytes, head: bytes) -> None:
    frame = before + head + b"x" * 100
    assert judged(frame) is None
    assert peak(frame) < 50_000


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("level", [b"\x91", b"\x81", b"\x81\xa1a", b"\xdd\0\0\0\1"])
def test_deep_nesting_is_refused(before: bytes, level: bytes) -> None:
    assert judged(before + level * 200_000) is None
    assert judged(before + level * 200_000 + b"\xc0") is None


@pytest.mark.parametrize("message", LARGEST, ids=name_of)
def test_the_largest_messages_take_little_more_than_their_frame(message: Message) -> None:
    frame = encode(message)
    tracemalloc.start()
    try:
        decoded = decode(frame)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoded == message
    assert most < 2 * len(frame) + 100_000


# How large a frame can be


@pytest.mark.parametrize("message", LARGEST, ids=name_of)
def test_the_largest_message_of_each_kind_fits_a_frame_on_any_ledger(message: Message) -> None:
    assert len(encode(message)) <= frame_limit(Limits(count=1, size=17))


def test_what_is_said_before_a_key_is_proven_fits_its_frame() -> None:
    for message in LARGEST:
        if isinstance(message, Hello | Proof | Refused):
            assert len(encode(message)) <= limits.HANDSHAKE_BYTES


def bodies(size: int, count: int) -> Bodies:
    """Return the entries of blocks that have `size` bytes in `count` entries, of few sizes."""
    first = size - 17 * (count - 1)
    return Bodies(NUMBER, first.to_bytes(4, "big") + b"\0\0\0\x11" * (count - 1), bytes(size))


@pytest.mark.parametrize("size", [17, 1000, 100_000, limits.ANSWER_BYTES, 16 * 2**20])
@pytest.mark.parametrize("count", [1, 2, 1000, 65_536, 2**32 - 1])
def test_the_largest_block_of_a_ledger_fits_a_frame(size: int, count: int) -> None:
    allowed = Limits(size=size, count=count)
    frame = encode(bodies(size, min(count, size // 17)))
    assert len(frame) <= frame_limit(allowed)
    assert len(encode(Entries([bytes(size)]))) <= frame_limit(allowed)


def test_an_answer_of_many_small_blocks_fits_a_frame() -> None:
    size = limits.ANSWER_BYTES
    assert len(encode(bodies(size, size // 17))) <= frame_limit(Limits(count=1, size=17))


def test_a_frame_is_bounded_by_what_the_genesis_allows() -> None:
    allowed = Limits(count=65_536, size=16 * 2**20)
    most = 16 * 2**20 + 4 * 65_536 + limits.OVERHEAD_BYTES
    assert frame_limit(allowed) == most
