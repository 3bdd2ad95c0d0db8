"""Validating a whole store, genesis to head, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from cairn.core import rules
from cairn.core.errors import DamagedError
from cairn.core.genesis import Limits
from cairn.core.hasher import Hasher
from cairn.core.rules import NUMBERS, Broken, Failure, InvalidChainError
from cairn.core.validation import Summary, validate
from cairn.report import Report
from cairn.store.interface import Head, Store


def validate_store(
    store: Store,
    hasher: Hasher,
    limits: Limits,
    *,
    every: bool,
    progress: Callable[[Summary], None],
) -> Report:
    """Read `store` from genesis to head and check every rule, as `Ledger.validate` says."""
    began = time.perf_counter()
    total: Summary | None = None
    ends: list[Failure] = []
    try:
        head = store.head()
        for segment in store.scan(0, head.length):
            summary = validate(segment, hasher, limits, every=every)
            if total is None and (broken := rules.index_follows(0, summary.start)):
                ends.append(rules.failure(0, "index", broken))
            total = total + summary if total else summary
            progress(total)
            if total.failures and not every:
                break
        else:
            ends += _check_end(store, head, total.stop if total else 0, total)
    except DamagedError as error:
        at = total.stop if total else 0
        ends.append(rules.failure(at, "storage", Broken("readable", "damaged", str(error))))
    failures = [*(total.failures if total else ()), *ends]
    failures.sort(key=lambda failure: (failure.index, NUMBERS.get(failure.rule, len(NUMBERS) + 1)))
    return Report(
        valid=not failures,
        blocks=total.blocks if total else 0,
        bytes=total.nbytes if total else 0,
        seconds=time.perf_counter() - began,
        failures=tuple(failures if every else failures[:1]),
    )


def require_sound_ends(store: Store, hasher: Hasher, limits: Limits) -> None:
    """Refuse a store whose first or last block breaks a rule, or whose end is not the recorded one.

    Raises:
        InvalidChainError: which block, which rule.
    """
    head = store.head()
    last: Summary | None = None
    for at in dict.fromkeys((0, head.length - 1)):
        for segment in store.scan(at, at + 1):
            last = validate(segment, hasher, limits)
            for failure in last.failures:
                raise InvalidChainError(failure)
    whole = last and last.stop == head.length
    stop = head.length if whole else min(store.end(), head.length - 1)
    for failure in _check_end(store, head, stop, last):
        raise InvalidChainError(failure)


def _check_end(store: Store, head: Head, stop: int, last: Summary | None) -> Iterator[Failure]:
    """Yield how the stored chain does not end where the store has recorded that it does.

    `stop` is where what was read ends.
    """
    end = store.end()  # before the head is looked at again: there may be appends meanwhile
    length = store.head().length
    if stop < max(head.length, 1):
        meaning = "blocks are missing at the end" if stop > 0 else "genesis is missing"
        yield rules.failure(max(stop, 0), "head", Broken(head.length, max(stop, 0), meaning))
    elif end > length:
        meaning = "there are blocks past the recorded end"
        yield rules.failure(length, "head", Broken(length, end, meaning))
    elif last and last.last_hash != head.hash:
        meaning = "the last block is not the one recorded as head"
        broken = Broken(head.hash.hex(), last.last_hash.hex(), meaning)
        yield rules.failure(head.length - 1, "head", broken)
