"""Proof of work: compact targets as Bitcoin has them, the work they stand for, and ASERT.

ASERT is aserti3-2d, as Bitcoin Cash specifies it (upgrade of 2020-11-15): the target doubles for
every half-life that the chain is behind its schedule, and halves for every one that it is ahead.
It asks nothing but the block before and genesis, so that the target is known before any body is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cairn.core.errors import FormatError

MAX_BITS: Final = 0x207FFFFF
"""The easiest target that a ledger can ask for, met by every second hash: Bitcoin's regtest."""
HASH_BITS: Final = 256

_RADIX: Final = 1 << 16
"""Exponents are fixed-point numbers with 16 binary digits after the point."""
_FAR: Final = (2 * HASH_BITS) * _RADIX
"""An exponent past which every target is out of range, whatever it was: keeps shifts small."""
_SAFE: Final = 2**61
"""Times below this in µs, 73,000 years, can be added and subtracted as signed 64-bit integers."""
_LEADING: Final = 2
"""Bytes before the 32 of a target that the largest exponent writes to, where nothing may be."""
_POWERS: Final = np.int64(1) << np.arange(62, dtype=np.int64)


def target_of(bits: int) -> int:
    """Return the target that compact `bits` stand for; `arith_uint256::SetCompact` in Bitcoin.

    The first byte is the target's length in bytes, the other three are its first digits.

    Raises:
        FormatError: they stand for no target: zero, a negative number, or one past 256 bits.
    """
    size, mantissa = bits >> 24, bits & 0x7FFFFF
    target = mantissa << 8 * (size - 3) if size > 3 else mantissa >> 8 * (3 - size)
    if bits & 0x800000 or not 0 < target < 1 << HASH_BITS:
        raise FormatError(f"bits {bits:08x} are no target")
    return target


def bits_of(target: int) -> int:
    """Return the compact form of a target, rounded down to it; `GetCompact` in Bitcoin.

    Requires 0 <= target < 2^256.
    """
    size = (target.bit_length() + 7) // 8
    mantissa = target >> 8 * (size - 3) if size > 3 else target << 8 * (3 - size)
    if mantissa & 0x800000:  # that bit is the sign
        mantissa >>= 8
        size += 1
    return size << 24 | mantissa


def work_of(bits: int) -> int:
    """Return the work that `bits` ask for: how many hashes are tried until one serves, on average.

    Raises:
        FormatError: they stand for no target.
    """
    return (1 << HASH_BITS) // (target_of(bits) + 1)


def total_work(bits: NDArray[np.uint32]) -> int:
    """Return the work of blocks with these bits `(n,)`. Those that are no target count none."""
    values, counts = np.unique(bits, return_counts=True)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return sum(work_of(value) * count for value, count in pairs if is_target(value))


def is_target(bits: int) -> bool:
    """Whether `bits` stand for a target."""
    try:
        target_of(bits)
    except FormatError:
        return False
    return True


def are_met(bits: NDArray[np.uint32], hashes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return `(n,)`: whether each hash is at most the target of its bits, and these are one.

    `hashes` are `(n, 32)`, and read as big-endian integers.
    """
    bits = bits.astype(np.uint32)
    size = np.minimum(bits >> 24, HASH_BITS // 8 + _LEADING).astype(np.int64)
    # With room on both sides for the digits that the largest and smallest lengths put outside.
    width = _LEADING + HASH_BITS // 8
    padded = np.zeros((len(bits), width + 3), np.uint8)
    rows = np.arange(len(bits))
    for digit, shift in enumerate((16, 8, 0)):
        padded[rows, width - size + digit] = (bits >> shift) & 0xFF
    targets = np.ascontiguousarray(padded[:, _LEADING:width])
    good: NDArray[np.bool_] = (bits & 0x800000) == 0
    good &= bits >> 24 <= HASH_BITS // 8 + _LEADING
    good &= ~padded[:, :_LEADING].any(axis=1) & targets.any(axis=1)
    good &= _strings(hashes) <= _strings(targets)
    return good


def _strings(rows: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return `(n, 32)` bytes as strings, which compare like big-endian integers."""
    strings: NDArray[Any] = np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(-1)
    return strings


@dataclass(frozen=True, slots=True)
class Asert:
    """What the targets of a chain are, given when its blocks were made: aserti3-2d.

    The unit of time may be any. As signed 64-bit integers are to hold times 2^16, `half_life` is
    at most 2^46.
    """

    bits: int
    """Target of the block after genesis if all goes by the schedule; a valid one."""
    time: int
    """When the schedule begins: the timestamp of genesis less one interval."""
    interval: int
    """Time between blocks that is aimed at."""
    half_life: int
    """How far behind the schedule the chain is when the target has doubled."""
    limit: int = MAX_BITS
    """The easiest target that there may be, in bits."""

    def bits_after(self, height: int, timestamp: int) -> int:
        """Return the bits of the block after the one at `height` (genesis: 0) with that timestamp.

        Any integers will do.
        """
        late = timestamp - self.time - self.interval * (height + 1)
        exponent = min(abs(late) * _RADIX // self.half_life, _FAR)
        exponent = exponent if late >= 0 else -exponent  # so the division truncates toward zero
        shift = exponent // _RADIX - 16
        target = target_of(self.bits) * _factor(exponent % _RADIX)
        target = target << shift if shift >= 0 else target >> -shift
        return bits_of(min(max(target, 1), target_of(self.limit)))

    def bits_after_each(self, start: int, timestamps: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Return `(n,)`: the same for each of the blocks from height `start` on.

        `timestamps` are theirs, `(n,)`.
        """
        n = len(timestamps)
        far = (abs(self.time), self.interval * (start + n), int(timestamps.max(initial=0)))
        if max(far) >= _SAFE:
            each = enumerate(timestamps.tolist(), start)
            return np.array([self.bits_after(*block) for block in each], np.uint32)
        heights = np.arange(start + 1, start + n + 1, dtype=np.int64)
        late = timestamps.astype(np.int64) - self.time - self.interval * heights
        whole, rest = np.divmod(np.abs(late), self.half_life)
        exponent = np.minimum(whole, 2 * HASH_BITS) * _RADIX + rest * _RADIX // self.half_life
        exponent = np.sign(late) * np.minimum(exponent, _FAR)
        return self._compact(exponent // _RADIX - 16, _factor(exponent % _RADIX))

    def _compact(self, shift: NDArray[np.int64], factor: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the bits of `target_of(self.bits) * factor * 2^shift`, rounded and bounded."""
        bits = bits_of(target_of(self.bits))  # the same target has more than one compact form
        zeros = max(8 * ((bits >> 24) - 3), 0)
        digits = (target_of(bits) >> zeros) * factor  # of 40 bits
        shift = shift + zeros
        digits >>= np.clip(-shift, 0, 63)
        shift = np.maximum(shift, 0)
        length = np.searchsorted(_POWERS, digits, side="right")  # in bits
        size = (length + shift + 7) // 8
        shift -= 8 * (size - 3)
        mantissa = (digits << np.maximum(shift, 0)) >> np.maximum(-shift, 0)
        signed = mantissa >= 0x800000
        compact = (size + signed << 24) | np.where(signed, mantissa >> 8, mantissa)
        bounded = np.clip(compact, bits_of(1), bits_of(target_of(self.limit)))
        column: NDArray[np.uint32] = bounded.astype(np.uint32)
        return column


def _factor(fraction: Any) -> Any:
    """Return 2^16 · 2^(fraction / 2^16), about: a cubic polynomial for 0 <= fraction < 2^16.

    Of an integer or a column of them. The sum needs all of 64 bits, without a sign.
    """
    x = fraction.astype(np.uint64) if isinstance(fraction, np.ndarray) else fraction
    cubic = 195_766_423_245_049 * x + 971_821_376 * x**2 + 5_127 * x**3 + 2**47 >> 48
    return _RADIX + (cubic.astype(np.int64) if isinstance(cubic, np.ndarray) else cubic)
