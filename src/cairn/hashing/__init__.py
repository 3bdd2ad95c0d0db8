"""SHA-256 in bulk: implementations of `cairn.core.hasher.Hasher`, and which to use."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from warnings import warn

from cairn.core.errors import UsageError
from cairn.core.hasher import Hasher
from cairn.hashing.lanes import INSTRUCTION_SETS, LanesHasher, works
from cairn.hashing.portable import HashlibHasher


def best_hasher() -> Hasher:
    """Return the fastest hasher that works here on the CPU, after asking it for known answers."""
    return LanesHasher() if _lanes_work() else HashlibHasher()


def hasher(name: str) -> Hasher:
    """Return the hasher of that name, one of `names()`.

    Raises:
        UsageError: there is none of that name, or this machine cannot run it.
    """
    if name == "hashlib":
        return HashlibHasher()
    if name == "cuda":
        from cairn.hashing.cuda import CudaHasher

        return CudaHasher(cpu=best_hasher())
    kind, _, isa = name.partition("-")
    if kind != "lanes" or name == "lanes-":
        raise UsageError(f"no hasher is called {name!r}; here are {', '.join(names())}")
    if INSTRUCTION_SETS and not _lanes_work():
        raise UsageError("the C kernel gives wrong hashes here")
    return LanesHasher(isa or None)


def names() -> tuple[str, ...]:
    """Return the names of the hashers that this machine can run, the definition first."""
    from cairn.hashing.cuda import open_device

    found = ["hashlib"]
    if _lanes_work():
        found += ["lanes", *(f"lanes-{isa}" for isa in INSTRUCTION_SETS)]
    with suppress(UsageError):
        open_device()
        found.append("cuda")
    return tuple(found)


@cache
def _lanes_work() -> bool:
    """Return whether the C kernel is there and gives known answers; warn if they are wrong."""
    wrong = [isa for isa in INSTRUCTION_SETS if not works(isa)]
    if wrong:
        warn(
            f"the C kernel gives wrong hashes with {', '.join(wrong)}: using hashlib instead",
            RuntimeWarning,
            stacklevel=3,
        )
    return bool(INSTRUCTION_SETS) and not wrong
