"""The mining search: the lowest nonce that makes a header's hash small enough.

The nonce is the header's last field, so every try shares the first 64 of the 105 hashed bytes and
costs one compression. `plain` is the definition; `search` is the same by the compiled kernel
where it was built; `search_all` works on all cores and can be stopped.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

from cairn.core.header import HEADER_BYTES
from cairn.hashing.lanes import INSTRUCTION_SETS

NONCE_BYTES: Final = 8
NONCES: Final = 2**64
MOST: Final = 2**256 - 1
"""The greatest hash: a target of this or more accepts the first nonce."""

STEP: Final = 1 << 20
"""Nonces to try between two looks at whether to go on: about 15 ms of AVX-512 on one core, and
a quarter of a second without any vectors."""
PLAIN_STEP: Final = 1 << 14
"""The same for `plain`: about 15 ms."""


class Search(Protocol):
    """What finds a nonce: `plain`, `search`, `CudaHasher.search`."""

    def __call__(self, header: bytes, first: int, count: int, target: int, /) -> int | None:
        """Return the lowest nonce in [first, first + count) that serves; see `plain`."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a search on all cores ended."""

    nonce: int | None
    """The lowest nonce of the range that serves, or None: there is none, or it was stopped."""
    tried: int
    """Nonces tried, from the first of the range on without a gap: that is where to go on."""


def plain(header: bytes, first: int, count: int, target: int, /) -> int | None:
    """Return the lowest nonce in [first, first + count) whose hash is at most `target`, or None.

    The hash is `SHA-256(0x00 ‖ header)` with the nonce in the last 8 of its 104 bytes, read as a
    big-endian integer. Requires first >= 0, count >= 0, first + count <= 2^64 and target >= 0;
    what stands in the header as nonce does not matter.

    Raises:
        ValueError: the arguments do not meet that.
    """
    check(header, first, count, target)
    limit = min(target, MOST).to_bytes(32, "big")
    prefix = sha256(b"\x00" + header[:-NONCE_BYTES])
    for nonce in range(first, first + count):
        attempt = prefix.copy()
        attempt.update(nonce.to_bytes(NONCE_BYTES, "big"))
        if attempt.digest() <= limit:
            return nonce
    return None


def search(
    header: bytes, first: int, count: int, target: int, /, *, isa: str | None = None
) -> int | None:
    """Return what `plain` returns, by the compiled kernel where there is one.

    `isa` is one of `INSTRUCTION_SETS`; None takes the best. It runs to its end without
    the GIL and hears no signal meanwhile, so `count` should be some seconds' worth at most.
    """
    if not INSTRUCTION_SETS:
        return plain(header, first, count, target)
    from cairn.hashing import _lanes  # absent where it was not built

    check(header, first, count, target)
    if count == 0:
        return None
    limit = min(target, MOST).to_bytes(32, "big")
    return _lanes.search(isa or INSTRUCTION_SETS[0], header, first, first + count - 1, limit)


def search_all(
    header: bytes,
    first: int,
    count: int,
    target: int,
    /,
    *,
    should_stop: Callable[[int], bool] = lambda tried: False,
    by: Search = search,
    threads: int | None = None,
    step: int | None = None,
) -> Outcome:
    """Search on all cores, in slices of `step` nonces that are begun in order.

    The nonce found is the lowest of the range, as with `plain`, whatever the number of threads.
    After each slice `should_stop` is asked, in the calling thread, with the nonces tried so far;
    once it says so (a new head has come, say) the search ends as soon as the slices under way
    are done. So it does on an exception, such as KeyboardInterrupt.

    By default there is a thread for each CPU that this process may use, and slices of `STEP`.
    On a GPU, by=CudaHasher().search wants one thread, and larger slices.

    Raises:
        ValueError: as `plain`; or `threads` or `step` is below 1.
    """
    check(header, first, count, target)
    if threads is None:
        threads = cpus() if INSTRUCTION_SETS else 1  # `plain` holds the lock of all threads
    if step is None:
        step = STEP if INSTRUCTION_SETS else PLAIN_STEP
    if threads < 1 or step < 1:
        raise ValueError(f"threads and step are at least 1, not {threads} and {step}")

    end, begun, done = first + count, first, first
    under_way: deque[tuple[int, Future[int | None]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="cairn-search") as pool:
        try:
            while done < end:
                while begun < end and len(under_way) < 2 * threads:  # so that no thread waits
                    stop = min(begun + step, end)
                    work = pool.submit(by, header, begun, stop - begun, target)
                    under_way.append((stop, work))
                    begun = stop
                stop, work = under_way.popleft()
                nonce = work.result()
                if nonce is not None:
                    return Outcome(nonce, nonce + 1 - first)
                done = stop
                if should_stop(done - first):
                    break
        finally:
            for _, work in under_way:
                work.cancel()
    return Outcome(None, done - first)


def check(header: bytes, first: int, count: int, target: int) -> None:
    """Raise ValueError for what `plain` refuses."""
    if len(header) != HEADER_BYTES:
        raise ValueError(f"a header has {HEADER_BYTES} bytes, not {len(header)}")
    if first < 0 or count < 0 or first + count > NONCES:
        raise ValueError(f"nonces are below 2^64: cannot try {count} from {first} on")
    if target < 0:
        raise ValueError(f"a target is at least 0, not {target}")


def cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
