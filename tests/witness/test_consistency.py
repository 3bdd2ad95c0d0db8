"""Whatever it is asked, in whatever order, a witness never cosigns two heads that disagree."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cairn.proof.note import Algorithm, SigningKey
from cairn.proof.witness import Request, Witness
from tests.witness.logs import Cosigned, Log, Volatile, new_key

SIZE = 8
KEY = new_key("witness.example/1", Algorithm.COSIGNATURE)
LOG = Log.of(SIZE)


def volatile(key: SigningKey = KEY) -> tuple[Witness, Volatile]:
    memory = Volatile()
    keys = {LOG.origin: [LOG.key.verifier]}
    return Witness(key, keys, memory, Path("/dev/null/none"), clock=lambda: 1_700_000_000.0), memory


def heads_of(logs: Sequence[Log], at: int) -> list[tuple[Log, int]]:
    """Return every head of two logs that are one up to `at`, once."""
    first, second = logs
    return [(first, n) for n in range(first.size + 1)] + [
        (second, n) for n in range(at + 1, second.size + 1)
    ]


def extends(new: tuple[Log, int], old: tuple[Log, int]) -> bool:
    """Whether one head is of a tree that begins with the other, by the leaves."""
    (log, size), (before, least) = new, old
    return size >= least and log.leaves[:least] == before.leaves[:least]


def some(run: Sequence[int], soak: Sequence[int]) -> list[object]:
    """Return parameters, of which `soak` take long."""
    return [*run, *(pytest.param(one, marks=pytest.mark.soak) for one in soak)]


@pytest.mark.parametrize("at", some([3], [0, 1, 2, 4, 5, 6, 7]))
def test_from_any_head_only_to_one_that_extends_it(at: int) -> None:
    """Every request, from every head: any old size, any new head, and any proof of either fork."""
    logs = (LOG, LOG.forked(at))
    heads = heads_of(logs, at)
    right = 0
    for start in heads:
        witness, memory = volatile()
        if start[1]:
            body = Request(0, (), start[0].checkpoint(start[1])).body
            assert witness.add_checkpoint(body).status == 200
        before = dict(memory.notes)
        for end, body, honest in _requests(logs, heads, start[1]):
            memory.notes = dict(before)
            answer = witness.add_checkpoint(body)
            if answer.status == 200:
                assert extends(end, start), f"{start[1]} to {end[1]}, forked at {at}"
                right += honest
            else:
                assert memory.notes == before
                assert not (honest and extends(end, start)), f"{start[1]} to {end[1]}: {answer}"
    # Nothing that is right was refused, so that this shows something.
    assert right == sum(extends(end, start) for start, end in product(heads, heads))


def _requests(
    logs: Sequence[Log], heads: Sequence[tuple[Log, int]], size: int
) -> Iterator[tuple[tuple[Log, int], bytes, bool]]:
    """Yield what may be asked of a witness at `size`: the new head, the body, whether it is honest.

    Of other old sizes there is one proof each: a witness does not read it.
    """
    notes = {end: end[0].checkpoint(end[1]) for end in heads}
    for end in heads:
        log, new = end
        note = notes[end]
        for old in range(SIZE + 1):
            proofs = {tuple(log.proof(old, new))}
            if old == size:
                proofs |= {tuple(one.proof(a, b)) for one in logs for a, b in _pairs()}
            for proof in proofs:
                honest = old == size <= new and list(proof) == log.proof(old, new)
                yield end, Request(old, proof, note).body, honest


def _pairs() -> list[tuple[int, int]]:
    """Return some sizes that proofs may be made for wrongly."""
    return [(0, 0), (1, 2), (2, 5), (3, 7), (4, 8), (6, 7), (7, 8)]


@pytest.mark.parametrize("at", some([3], [0, 1, 2, 4, 5, 6, 7]))
def test_every_order_of_three_checkpoints_of_two_forks(at: int) -> None:
    """As an attacker would who asks for the size first, and proves from it as well as can be."""
    logs = (LOG, LOG.forked(at))
    heads = heads_of(logs, at)
    notes = {(id(log), size): log.checkpoint(size) for log, size in heads}
    witness, memory = volatile()

    def walk(cosigned: list[tuple[Log, int]], depth: int) -> None:
        before = dict(memory.notes)
        for log, size in heads:
            memory.notes = dict(before)
            old = cosigned[-1][1] if cosigned else 0
            body = Request(old, tuple(log.proof(old, size)), notes[id(log), size]).body
            after = cosigned
            if witness.add_checkpoint(body).status == 200:
                after = [*cosigned, (log, size)]
                assert all(extends(after[-1], one) for one in cosigned)
            if depth > 1:
                walk(after, depth - 1)

    walk([], 3)


@pytest.mark.parametrize("seed", some(range(3), range(3, 100)))
def test_long_random_sequences_with_replays(seed: int) -> None:
    choose = random.Random(seed)
    log = Log.of(200)
    logs = [log, *(log.forked(at, fork=at + 1) for at in (0, 1, 5, 30, 90))]
    witness, _ = _witness_of(log)
    cosigned = Cosigned(logs, (KEY.verifier,))
    sent: list[bytes] = []
    at = 0
    for _ in range(200):
        if sent and choose.random() < 0.2:
            body = choose.choice(sent)
        else:
            one = choose.choice(logs)
            old = at if choose.random() < 0.8 else choose.randrange(log.size)
            new = min(old + choose.choice((0, 1, 1, 2, 5)), log.size)
            body = Request(
                old, tuple(choose.choice(logs).proof(old, new)), one.checkpoint(new)
            ).body
            if choose.random() < 0.7:
                body = one.request(old, new)
            sent.append(body)
        answer = witness.add_checkpoint(body)
        if answer.status == 200:
            at = cosigned.note(body, answer.body).size
        elif answer.status == 409:
            assert int(answer.body) == at
    cosigned.check()
    assert at > 10


def _witness_of(log: Log, clock: Mapping[str, float] | None = None) -> tuple[Witness, Volatile]:
    memory, times = Volatile(), clock or {"now": 1.7e9}
    keys = {log.origin: [log.key.verifier]}
    return Witness(KEY, keys, memory, Path("/dev/null/none"), clock=lambda: times["now"]), memory


class Asking(RuleBasedStateMachine):
    """Any requests, with a clock that goes anywhere, and restarts."""

    FORKS = (LOG, *(LOG.forked(at, fork=at + 1) for at in range(SIZE)))
    forks = st.sampled_from(FORKS)
    sizes = st.integers(0, SIZE)

    def __init__(self) -> None:
        super().__init__()
        self.clock = {"now": 1.7e9}
        self.witness, self.memory = _witness_of(LOG, self.clock)
        self.cosigned = Cosigned(self.FORKS, (KEY.verifier,))
        self.sent: list[bytes] = []
        self.at = 0

    def ask(self, body: bytes) -> None:
        before = dict(self.memory.notes)
        answer = self.witness.add_checkpoint(body)
        self.sent.append(body)
        if answer.status == 200:
            head = self.cosigned.note(body, answer.body)
            assert head.size >= self.at
            self.at = head.size
        else:
            assert self.memory.notes == before
            assert answer.status != 503

    @rule(log=forks, size=sizes)
    def honest(self, log: Log, size: int) -> None:
        self.ask(log.request(self.at, size))

    @rule(log=forks, other=forks, old=sizes, size=sizes, place=sizes)
    def mixed(self, log: Log, other: Log, old: int, size: int, place: int) -> None:
        self.ask(Request(old, tuple(other.proof(place, size)), log.checkpoint(size)).body)

    @rule(log=forks, line=st.text("ab", min_size=1, max_size=3))
    def same_head_with_other_lines(self, log: Log, line: str) -> None:
        self.ask(Request(self.at, (), log.checkpoint(self.at, line)).body)

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        if self.sent:
            self.ask(data.draw(st.sampled_from(self.sent)))

    @rule(seconds=st.integers(-(10**6), 10**6))
    def clock_is_set(self, seconds: int) -> None:
        self.clock["now"] += seconds

    @rule()
    def restart(self) -> None:
        notes = dict(self.memory.notes)
        self.witness, self.memory = _witness_of(LOG, self.clock)
        self.memory.notes = notes

    @invariant()
    def heads_agree(self) -> None:
        self.cosigned.check()
        times = [head.time for head in self.cosigned.heads]
        assert times == sorted(times)


TestAsking = Asking.TestCase
TestAsking.settings = settings(max_examples=25, stateful_step_count=20)
