"""The C kernel itself: NIST's answers, and what it refuses. Nothing here without one."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

_lanes = pytest.importorskip("cairn.hashing._lanes", reason="no C kernel was built")

ISAS: tuple[str, ...] = _lanes.available()


def cavp() -> list[tuple[bytes, bytes]]:
    """Return NIST's messages and their digests."""
    found = []
    for line in (Path(__file__).parent / "cavp.txt").read_text("ascii").splitlines():
        if line and not line.startswith("#"):
            bits, message, digest = line.split(" ")
            raw = bytes.fromhex(message.strip("-"))
            assert len(raw) * 8 == int(bits)
            found.append((raw, bytes.fromhex(digest)))
    assert len(found) == 65 + 13
    return found


CAVP = cavp()


def digests(isa: str, data: bytes, cuts: list[tuple[int, int]]) -> list[bytes]:
    starts, stops = (np.array([cut[i] for cut in cuts], np.int64) for i in (0, 1))
    out = np.empty((len(cuts), 32), np.uint8)
    _lanes.sha256(isa, data, starts, stops, out)
    return [row.tobytes() for row in out]


def laid_out(messages: list[bytes]) -> tuple[bytes, list[tuple[int, int]]]:
    ends = np.cumsum([len(message) for message in messages]).tolist()
    return b"".join(messages), list(zip([0, *ends[:-1]], ends, strict=True))


@pytest.mark.parametrize("isa", ISAS)
def test_nist_agrees(isa: str) -> None:
    """In NIST's order, alone, in groups of the same message, and shuffled."""
    messages, expected = [list(column) for column in zip(*CAVP, strict=True)]
    assert digests(isa, *laid_out(messages)) == expected
    for message, digest in CAVP:
        assert digests(isa, message, [(0, len(message))]) == [digest]
        data = b"before" + message + bytes(80)
        assert digests(isa, data, [(6, 6 + len(message))] * 33) == [digest] * 33
    chance = random.Random(3)
    for _ in range(20):
        drawn = chance.choices(CAVP, k=100)
        found = digests(isa, *laid_out([message for message, _ in drawn]))
        assert found == [digest for _, digest in drawn]


def test_the_length_in_the_padding_has_more_than_32_bits() -> None:
    """Half a gigabyte and one byte of zeros; all instruction sets share this padding."""
    size = 2**29 + 1
    out = room(1)
    _lanes.sha256(ISAS[0], np.zeros(size, np.uint8), int64s(0), int64s(size), out)
    digest = "7c40fe5ce847740d0f0d0cdde3949d6585804cdec3ae61a15b923165699c8137"
    assert out.tobytes().hex() == digest


def test_instruction_sets_are_named_best_first() -> None:
    known = ("avx512", "sha", "avx2", "neon", "scalar")
    assert [isa for isa in known if isa in ISAS] == list(ISAS)
    assert ISAS[-1] == "scalar"


@pytest.mark.parametrize("isa", ISAS)
def test_compressions_are_counted_by_lane(isa: str) -> None:
    lanes = {"avx512": 16, "sha": 2, "avx2": 8, "neon": 4, "scalar": 1}[isa]
    assert [_lanes.compress(isa, times) for times in (0, 1, 1000)] == [0, lanes, 1000 * lanes]


def test_many_threads_may_hash_at_once() -> None:
    messages = [message for message, _ in CAVP] * 20
    data, cuts = laid_out(messages)
    expected = [digest for _, digest in CAVP] * 20
    wrong: list[str] = []

    def work(isa: str) -> None:
        wrong.extend(isa for _ in range(5) if digests(isa, data, cuts) != expected)

    threads = [threading.Thread(target=work, args=(isa,)) for isa in ISAS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# What is refused

ISA = ISAS[0]
DATA = bytes(100)


def int64s(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def room(rows: int) -> NDArray[np.uint8]:
    return np.zeros((rows, 32), np.uint8)


def unaligned(size: int) -> memoryview:
    return memoryview(bytearray(size + 8))[1 : size + 1]


@pytest.mark.parametrize("function", ["leaf_hashes", "sha256"])
@pytest.mark.parametrize(
    ("start", "stop"),
    [(-1, 5), (0, 101), (5, 4), (101, 101), (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (0, -1)],
)
@pytest.mark.parametrize("place", [0, 15, 16, 20, 39])
@pytest.mark.parametrize("isa", ISAS)
def test_a_cut_outside_the_data_is_refused(
    function: str, start: int, stop: int, place: int, isa: str
) -> None:
    starts, stops = np.full(40, 10, np.int64), np.full(40, 20, np.int64)
    starts[place], stops[place] = start, stop
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        getattr(_lanes, function)(isa, DATA, starts, stops, room(40))


@pytest.mark.parametrize(
    ("starts", "stops", "out"),
    [
        (int64s(0), int64s(1, 2), room(1)),
        (int64s(0), int64s(1), room(2)),
        (int64s(0), int64s(1), room(0)),
        (int64s(0), int64s(1), np.zeros(31, np.uint8)),
        (int64s(0), int64s(1), np.zeros(33, np.uint8)),
        (bytes(7), bytes(7), room(1)),
        (bytes(9), bytes(9), room(1)),
        (unaligned(8), int64s(1), room(1)),
        (int64s(0), unaligned(8), room(1)),
    ],
)
@pytest.mark.parametrize("function", ["leaf_hashes", "sha256"])
def test_columns_that_do_not_fit_are_refused(
    function: str, starts: Any, stops: Any, out: Any
) -> None:
    with pytest.raises(ValueError, match="32 n bytes"):
        getattr(_lanes, function)(ISA, DATA, starts, stops, out)


@pytest.mark.parametrize(
    ("children", "out"), [(64, 31), (64, 64), (63, 32), (128, 32), (32, 16), (1, 0)]
)
def test_children_that_do_not_fit_are_refused(children: int, out: int) -> None:
    with pytest.raises(ValueError, match="64 n bytes"):
        _lanes.node_hashes(ISA, bytes(children), bytearray(out))


@pytest.mark.parametrize(
    ("headers", "previous", "out"),
    [(104, 31, 32), (104, 33, 32), (103, 32, 32), (104, 32, 33), (104, 32, 64), (208, 32, 32)],
)
def test_headers_that_do_not_fit_are_refused(headers: int, previous: int, out: int) -> None:
    with pytest.raises(ValueError, match="104 n bytes"):
        _lanes.link(bytearray(headers), bytes(previous), bytearray(out))


SCREEN = {
    "start": 0,
    "headers": bytes(208),
    "hashes": bytes(64),
    "data": b"",
    "offsets": bytes(8),
    "most_count": 1,
    "most_size": 1,
    "mined": False,
    "flags": bytearray(2),
}


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": bytes(104)},
        {"headers": bytes(209)},
        {"hashes": bytes(32)},
        {"hashes": bytes(65)},
        {"offsets": b""},
        {"offsets": bytes(12)},
        {"offsets": unaligned(8)},
        {"flags": bytearray(1)},
        {"flags": bytearray(3)},
    ],
)
def test_a_segment_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    assert _lanes.screen(ISA, *SCREEN.values()) is True
    with pytest.raises(ValueError, match="flags n"):
        _lanes.screen(ISA, *(SCREEN | changes).values())


@pytest.mark.parametrize("name", ["start", "most_count", "most_size"])
@pytest.mark.parametrize(("value", "error"), [(-1, OverflowError), (2**64, OverflowError)])
def test_numbers_past_64_bits_are_refused(name: str, value: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        _lanes.screen(ISA, *(SCREEN | {name: value}).values())


@pytest.mark.parametrize("name", list(SCREEN))
@pytest.mark.parametrize("value", [None, "0", 1.5])
def test_arguments_of_another_type_are_refused(name: str, value: object) -> None:
    with pytest.raises(TypeError):
        _lanes.screen(ISA, *(SCREEN | {name: value}).values())


def test_what_is_written_must_be_writable_and_contiguous() -> None:
    starts, stops = int64s(0), int64s(1)
    with pytest.raises((TypeError, BufferError)):
        _lanes.leaf_hashes(ISA, DATA, starts, stops, bytes(32))
    with pytest.raises((TypeError, BufferError)):
        _lanes.link(bytes(104), bytes(32), bytearray(32))
    with pytest.raises((TypeError, BufferError, ValueError)):
        _lanes.leaf_hashes(ISA, DATA, starts, stops, np.zeros((1, 64), np.uint8)[:, ::2])
    with pytest.raises((TypeError, BufferError, ValueError)):
        _lanes.node_hashes(ISA, np.zeros((4, 128), np.uint8)[:, ::2], room(4))


@pytest.mark.parametrize("isa", ["", "AVX512", "sse2", "neon", None, 1])
def test_an_instruction_set_that_is_not_there_is_refused(isa: Any) -> None:
    if isa in ISAS:
        return
    error = TypeError if not isinstance(isa, str) else ValueError
    calls: tuple[Callable[[], object], ...] = (
        lambda: _lanes.compress(isa, 1),
        lambda: _lanes.leaf_hashes(isa, DATA, int64s(0), int64s(1), room(1)),
        lambda: _lanes.sha256(isa, DATA, int64s(0), int64s(1), room(1)),
        lambda: _lanes.node_hashes(isa, bytes(64), room(1)),
        lambda: _lanes.screen(isa, *SCREEN.values()),
    )
    for call in calls:
        with pytest.raises(error):
            call()
