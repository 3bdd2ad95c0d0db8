"""What validation is measured against: others who do the same, and the limits of the machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from hashlib import sha256
from json import dumps
from struct import Struct
from typing import Final

from cairn.bench.measure import timed
from cairn.core.header import FORMAT_VERSION, HEADER_BYTES, NO_HASH, Kind
from cairn.core.merkle import HASH_BYTES
from cairn.ledger import Ledger

HEADER: Final = Struct(">HHIQ32sQII32sQ")
SINGLE: Final = (Kind.VALUE, Kind.RECORD)
"""Kinds of blocks with one entry."""


class ExampleBlock:
    """A block of the teaching example: any Python value, and a hash over the text of all fields."""

    def __init__(
        self, index: int, timestamp: datetime, data: object, previous_hash: str, digest: str
    ) -> None:
        self.index = index
        self.timestamp = timestamp
        self.data = data
        self.previous_hash = previous_hash
        self.hash = digest


def example_hash(index: int, timestamp: datetime, data: object, previous_hash: str) -> str:
    """Hash a block as the teaching example does: one update with Python's text of each field.

    So strings are hashed as they are, objects by their `repr`, and times by `str`.
    """
    sha = sha256()
    sha.update(f"{index}{timestamp}{data}{previous_hash}".encode())
    return sha.hexdigest()


def example_json_hash(index: int, timestamp: datetime, data: object, previous_hash: str) -> str:
    """Hash it by the least that others could recompute: JSON with its keys in order."""
    sha = sha256()
    sha.update(f"{index}{timestamp}{dumps(data, sort_keys=True)}{previous_hash}".encode())
    return sha.hexdigest()


ExampleHash = Callable[[int, datetime, object, str], str]


def example_chain(values: Sequence[object], digest: ExampleHash) -> list[ExampleBlock]:
    """Return a chain of `values` in memory, a microsecond apart."""
    time, previous_hash = datetime(2026, 1, 1, 12, 0, 0, 1), "0"
    chain = []
    for index, data in enumerate(values):
        time += timedelta(microseconds=1)
        block = ExampleBlock(
            index, time, data, previous_hash, digest(index, time, data, previous_hash)
        )
        chain.append(block)
        previous_hash = block.hash
    return chain


def example_is_valid(chain: list[ExampleBlock], digest: ExampleHash) -> bool:
    """Validate by the teaching example's own loop: each hash, made with the one before.

    Genesis is not looked at, nor are the stored links, as there.
    """
    previous_hash = chain[0].hash
    try:
        for block in chain[1:]:
            computed = digest(block.index, block.timestamp, block.data, previous_hash)
            assert block.hash == computed
            previous_hash = computed
    except AssertionError:
        return False
    return True


def validate_by_hashlib(ledger: Ledger) -> int:
    """Check a ledger of single entries by a plain loop and `hashlib`; return how many blocks.

    Every block's version, kind, count, index, time, link, hash, size and data root.

    Raises:
        ValueError: at a block that breaks one of these rules.
    """
    position, link, time = 0, NO_HASH, 0
    for segment in ledger.scan():
        headers, hashes = segment.headers.tobytes(), segment.hashes.tobytes()
        data, offsets = segment.data.tobytes(), segment.offsets.tolist()
        for i in range(len(segment)):
            packed = headers[i * HEADER_BYTES : (i + 1) * HEADER_BYTES]
            version, kind, bits, index, previous, timestamp, count, size, root, nonce = (
                HEADER.unpack(packed)
            )
            digest = sha256(b"\x00" + packed).digest()
            start, stop = offsets[i], offsets[i + 1]
            if (
                version != FORMAT_VERSION
                or kind not in SINGLE
                or count != 1
                or bits | nonce
                or index != position
                or timestamp < time
                or previous != link
                or digest != hashes[i * HASH_BYTES : (i + 1) * HASH_BYTES]
                or size != stop - start
                or root != sha256(b"\x00" + data[start:stop]).digest()
            ):
                raise ValueError(f"block {position} is not valid")
            position, link, time = position + 1, digest, timestamp
    if position != len(ledger):
        raise ValueError(f"{position} blocks of {len(ledger)} are there")
    return position


def openssl_rate(size: int, processes: int) -> float:
    """Return how many messages of `size` bytes OpenSSL's own speed test hashes in a second.

    Requires `openssl`.

    Raises:
        ValueError: it printed no figure.
    """
    options = ["-multi", str(processes), "-bytes", str(size), "-seconds", "1"]
    result = subprocess.run(
        ["openssl", "speed", *options, "-evp", "sha256", "-mr"], capture_output=True, text=True
    )
    totals = re.findall(r"^\+F:\d+:[^:]+:([\d.]+)$", result.stdout, flags=re.MULTILINE)
    if result.returncode or not totals:
        raise ValueError(f"openssl speed says nothing of use: {result.stderr or result.stdout}")
    return float(totals[-1]) / size


def openssl_version() -> str | None:
    """Return what `openssl` says of itself, or None where it is not installed."""
    if shutil.which("openssl") is None:
        return None
    result = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True)
    return result.stdout.partition("(")[0].strip()


def pure_compressions(isa: str, threads: int, times: int) -> float:
    """Return SHA-256 compressions a second of the C kernel's rounds alone, in registers.

    Each thread does `times` of all lanes of `isa`, one of `INSTRUCTION_SETS`.
    """
    from cairn.hashing import _lanes  # absent where it was not built

    done: list[int] = []

    def work() -> None:
        with ThreadPoolExecutor(threads) as pool:
            done.extend(pool.map(_lanes.compress, [isa] * threads, [times] * threads))

    seconds = timed(work)
    return sum(done) / seconds
