"""Mining: looks for a nonce for the block that the network wants next, until there is another."""

from __future__ import annotations

import logging
import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from threading import Event, Thread
from typing import Final

import numpy as np

from cairn.core.errors import CairnError
from cairn.core.header import HEADER_BYTES
from cairn.core.merkle import HASH_BYTES, leaf_hash
from cairn.core.segment import Segment
from cairn.core.work import target_of
from cairn.hashing.search import NONCE_BYTES, NONCES, search_all

FRESH_SECONDS: Final = 1.0
"""How long one block is worked on, before its time and its entries are those of then."""
RATE_SECONDS: Final = 10.0
"""What the hash rate is a mean of, about."""
NICENESS: Final = 10
"""Mining can wait; answering cannot."""

log = logging.getLogger(__name__)


class Miner:
    """Mines in threads of its own, from `start` on."""

    def __init__(
        self,
        candidate: Callable[[], Segment],
        found: Callable[[Segment], None],
        *,
        threads: int = 1,
    ) -> None:
        """`candidate` returns the block to work on, and `found` is given it with its nonce.

        Both are called in the miner's thread; `candidate` may raise CairnError or CancelledError
        to end the mining.
        """
        self._candidate = candidate
        self._found = found
        self._threads = threads
        self._stale = Event()
        self._stopping = False
        self._rate = 0.0
        self._thread = Thread(target=self._run, name="cairn-miner", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def refresh(self) -> None:
        """Say that there is something else to work on: a new head, or new entries."""
        self._stale.set()

    def stop(self) -> None:
        """End, as soon as the slice under way is tried. Does not wait."""
        self._stopping = True
        self._stale.set()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it mines."""
        return self._thread.is_alive()

    @property
    def rate(self) -> float:
        """Hashes a second, lately."""
        return self._rate if self.alive else 0.0

    def _run(self) -> None:
        _be_nice()
        try:
            while not self._stopping:
                self._stale.clear()
                self._mine(self._candidate())
        except (CairnError, CancelledError) as error:
            if not self._stopping:
                log.warning("mining ends: %s", error)
        except Exception:
            log.exception("mining ends: this is a bug")

    def _mine(self, block: Segment) -> None:
        """Work on a block for a while."""
        header = block.headers[0].tobytes()
        target = target_of(int(block.fields["bits"][0]))
        first = random.getrandbits(62)  # two who work on the same block do not do the same work
        began = time.perf_counter()
        outcome = search_all(
            header,
            first,
            NONCES - first,
            target,
            should_stop=lambda _tried: (
                self._stale.is_set() or time.perf_counter() - began > FRESH_SECONDS
            ),
            threads=self._threads,
        )
        self._count(outcome.tried, time.perf_counter() - began)
        if outcome.nonce is not None and not self._stopping:
            self._found(_with_nonce(block, header, outcome.nonce))
            # What comes next follows that block, once the network has it.
            self._stale.wait(FRESH_SECONDS)

    def _count(self, tried: int, seconds: float) -> None:
        share = min(seconds / RATE_SECONDS, 1.0) if self._rate else 1.0
        self._rate += share * (tried / max(seconds, 1e-6) - self._rate)


def _with_nonce(block: Segment, header: bytes, nonce: int) -> Segment:
    header = header[:-NONCE_BYTES] + nonce.to_bytes(NONCE_BYTES, "big")
    return Segment(
        block.start,
        np.frombuffer(header, np.uint8).reshape(1, HEADER_BYTES),
        np.frombuffer(leaf_hash(header), np.uint8).reshape(1, HASH_BYTES),
        block.data,
        block.offsets,
    )


def _be_nice() -> None:
    """Let all other threads come first, those of this process too: Linux has a priority each."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
