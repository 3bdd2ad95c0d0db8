"""A work ledger's life in steps, each of which is made whole or not at all; and what it leaves.

After every step the store must be what a model of it is then: chain, work, final blocks, side
blocks and pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

from cairn.core.block import Block
from cairn.core.genesis import Terms
from cairn.core.work import total_work
from cairn.hashing import best_hasher
from cairn.ledger.validation import Task, validate_store
from cairn.store.disk import DiskStore
from cairn.store.interface import Pooled, Store
from tests.builders import mined
from tests.store.branches import Model, segment_of

KEY: Final = "of the first"


class State(Model):
    """What a store of mined blocks must be, its pool included."""

    def __init__(self) -> None:
        super().__init__([], 0, [], [])
        self.pool: list[Pooled] = []
        self.is_keyed = False

    @property
    def work(self) -> int:
        return total_work(segment_of(self.chain).fields["bits"][1:])

    def copy(self) -> State:
        found = State()
        found.chain, found.sides, found.seen = [*self.chain], [*self.sides], [*self.seen]
        found.final, found.pool, found.is_keyed = self.final, self.pool, self.is_keyed
        return found

    def is_that_of(self, store: Store) -> bool:
        """Whether a store may be in this state, by what differs from step to step."""
        last = self.chain[-1].stored_hash if self.chain else bytes(32)
        return (store.head().hash, store.pool()) == (last, self.pool)

    def check(self, store: Store, every: int = 1) -> None:
        super().check(store, every)
        assert store.pool() == self.pool
        assert store.pool_key(KEY) == (ENTRIES[0].id if self.is_keyed else None)
        with ThreadPoolExecutor(1) as executor:
            task = Task(Terms.of(self.chain[0]))
            report, _ = validate_store(store, task, executor=executor)
        assert report.valid, report.failures


Step = Callable[[State, Sequence[Store]], None]


def advance(blocks: Sequence[Block], final: int) -> Step:
    return lambda state, stores: state.advance(stores, blocks, final)


def pool(state: State, stores: Sequence[Store]) -> None:
    state.pool, state.is_keyed = ENTRIES, True
    for store in stores:
        store.pool_add(ENTRIES, KEY)


def unpool(state: State, stores: Sequence[Store]) -> None:
    state.pool = ENTRIES[2:]
    for store in stores:
        store.pool_remove([one.id for one in ENTRIES[:2]])


FIRST: Final = mined(*(["first", i, "x" * i * 100] for i in range(9)))
OTHER: Final = mined(*(["other", i, "x" * i * 500] for i in range(9)), first=FIRST[:8], times=[5])
AGAIN: Final = mined(*(["again", i] for i in range(6)), first=OTHER[:14], times=[7])
ENTRIES: Final = [
    Pooled(entry.id, entry.to_bytes(), 1_700_000_000_000_000)
    for block in mined(*(["pooled", i] for i in range(4)))[1:]
    for entry in block.entries[:1]
]
STEPS: Final[Sequence[Step]] = (
    advance(FIRST[:1], 1),
    advance(FIRST[1:], 4),
    pool,
    advance(OTHER[8:12], 6),
    unpool,
    advance(OTHER[12:16], 9),
    advance(AGAIN[14:18], 12),
    advance(AGAIN[18:19], 13),
    advance(AGAIN[19:], 20),
)
POOL, REORGANISE, EXTEND, RETURN = 2, 3, 5, 6
"""The steps that are made to fail."""


def states() -> list[State]:
    """Return the state before each step, and after the last."""
    found = [State()]
    for step in STEPS:
        state = found[-1].copy()
        step(state, ())
        found.append(state)
    return found


STATES: Final = states()


def steps_of(store: Store) -> int:
    """Return how many steps were made."""
    (found,) = (number for number, state in enumerate(STATES) if state.is_that_of(store))
    return found


def make_step(store: Store) -> None:
    """Make the next step."""
    number = steps_of(store)
    STEPS[number](STATES[number].copy(), [store])


def make(directory: Path, steps: int) -> None:
    """Make a work ledger to which so many steps were done."""
    directory.mkdir()
    DiskStore.create(directory)
    with closing(DiskStore(directory, best_hasher())) as store:
        for _ in range(steps):
            make_step(store)


def judge(directory: Path, least: int, most: int) -> None:
    """Check that a ledger is in one of some states, whole: for readers, and for the next writer."""
    for read_only in (True, False):
        with closing(DiskStore(directory, best_hasher(), read_only=read_only)) as store:
            steps = steps_of(store)
            assert least <= steps <= most, f"{least} to {most} steps were made, found {steps}"
            if not read_only:
                STATES[steps].check(store, 50)
