"""When a client tries again, under a clock of the test's own."""

from __future__ import annotations

import httpx
import pytest

from cairn.client import UnreachableError
from cairn.client.retry import FIRST_PAUSE, LONGEST_PAUSE, Tries, Try, Work, answered
from cairn.client.wire import Answer, Lost, Request, get

REFUSED = Lost(httpx.ConnectError("refused"), sent=False)
LOST = Lost(httpx.ReadTimeout("lost"), sent=True)
OK = Answer(200, {}, b"{}")


class Clock:
    """A clock that only goes as far as it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def tries(patience: float, clock: Clock, chance: float = 0.0) -> Tries:
    return Tries(patience, clock=clock, chance=lambda: chance)


def busy(retry_after: str) -> Answer:
    return Answer(503, {"Retry-After": retry_after}, b"")


def waited(step: Try | Work) -> float:
    assert isinstance(step, Try)
    return step.wait


def test_pauses_double_up_to_the_longest() -> None:
    clock = Clock()
    shortest, longest = tries(1e6, clock, 0.0), tries(1e6, clock, 1.0)
    for n in range(2000):
        pause = min(FIRST_PAUSE * 2.0 ** min(n, 50), LONGEST_PAUSE)
        assert shortest.pause() == pytest.approx(pause / 2)
        assert longest.pause() == pytest.approx(pause)
    longest.went_well()
    assert longest.pause() == FIRST_PAUSE


def test_chance_spreads_pauses() -> None:
    pauses = {Tries(10).pause() for _ in range(50)}
    assert len(pauses) > 40
    assert all(pause and FIRST_PAUSE / 2 <= pause <= FIRST_PAUSE for pause in pauses)


def test_no_try_is_to_begin_after_patience() -> None:
    clock = Clock()
    one = tries(1.0, clock)
    clock.now += 1.0 - FIRST_PAUSE / 2 - 1e-6
    assert one.pause() is not None
    clock.now += 1e-3
    assert one.pause() is None
    one.reached()
    assert one.pause() is not None
    assert tries(0.0, clock).pause() is None


def test_patience_is_over_all_tries_and_their_answers() -> None:
    clock = Clock()
    request = get("/head")
    steps = answered(request, tries(30.0, clock))
    assert next(steps) == (request, 0.0)
    for _ in range(2):
        clock.now += 10  # each try takes its timeout
        clock.now += waited(steps.send(LOST))
    clock.now += 10
    with pytest.raises(UnreachableError, match="GET /head had no answer, and 30 s") as error:
        steps.send(LOST)
    assert error.value.__cause__ is LOST.cause
    assert error.value.status is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("-7", 0),
        ("", 0),
        ("²", 0),
        ("1e3", 0),
        ("9" * 400, 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_a_pause_is_at_least_what_the_node_asks_for(text: str, seconds: int) -> None:
    steps = answered(get("/"), tries(60.0, Clock()))
    next(steps)
    assert waited(steps.send(busy(text))) == pytest.approx(seconds + FIRST_PAUSE / 2)
    with pytest.raises(StopIteration) as end:
        steps.send(OK)
    assert end.value.value is OK


@pytest.mark.parametrize("status", [200, 201, 204, 301, 400, 401, 404, 409, 413, 422, 500, 501])
def test_other_answers_are_final(status: int) -> None:
    steps = answered(get("/"), tries(60.0, Clock()))
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(Answer(status, {}, b""))
    assert end.value.value.status == status


@pytest.mark.parametrize(
    ("outcome", "maybe"),
    [
        (REFUSED, False),
        (LOST, True),
        (OK, True),
        (Answer(307, {}, b""), False),
        (Answer(408, {}, b""), False),
        (Answer(429, {}, b""), False),
        (Answer(500, {}, b""), True),
        (Answer(502, {}, b"<html>"), True),
        (Answer(503, {}, b'{"type": "urn:cairn:problem:unavailable"}'), False),
        (Answer(503, {}, b'{"type": "urn:cairn:problem:busy"}'), False),
        (Answer(503, {}, b'{"type": "urn:cairn:problem:outcome-unknown"}'), True),
        (Answer(500, {}, b'{"type": "urn:cairn:problem:damaged"}'), False),
        (Answer(503, {}, b'{"type": 5}'), True),
    ],
)
def test_what_may_have_been_done_is_known(outcome: Answer | Lost, maybe: bool) -> None:
    one = tries(1.0, Clock())
    one.note(outcome)
    assert one.maybe_done is maybe
    one.note(REFUSED)
    assert one.maybe_done is maybe


def test_a_request_is_shown_in_short() -> None:
    assert len(str(Request("GET", "/" + "x" * 10_000))) < 250
