"""Memory whose neighbours cannot be read: one byte too many ends the process."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

PAGE = mmap.PAGESIZE
PROT_NONE = 0


def guarded(size: int) -> NDArray[np.uint8]:
    """Return whole pages, at least one and at least `size` bytes, alone between closed ones."""
    pages = max(1, -(-size // PAGE))
    area = mmap.mmap(-1, (pages + 2) * PAGE)
    whole = np.frombuffer(area, np.uint8)
    for position in (0, (pages + 1) * PAGE):
        address = ctypes.c_void_p(whole.ctypes.data + position)
        failed = ctypes.CDLL(None).mprotect(address, ctypes.c_size_t(PAGE), PROT_NONE)
        assert not failed
    return whole[PAGE:-PAGE]


def at_the_end(column: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy of `column` that ends where readable memory does."""
    memory = guarded(column.nbytes)
    last = memory[len(memory) - column.nbytes :].reshape(column.shape)
    last[...] = column
    return last


def at_the_start(column: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy of `column` that begins where readable memory does."""
    first = guarded(column.nbytes)[: column.nbytes].reshape(column.shape)
    first[...] = column
    return first
