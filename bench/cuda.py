"""Measure the CUDA hasher: on the device alone, from memory, from disk, and the search."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.measure import spread, timed
from cairn.core.errors import UsageError
from cairn.core.hasher import Hasher
from cairn.hashing import best_hasher
from cairn.hashing import cuda as gpu
from cairn.hashing.search import search

TOTAL = 1 << 30
"""Bytes hashed from memory and from disk: many slices."""
SIZES = [64, 256, 1024, 4096, 16384, 65536]
ROUNDS = 7
HEADER = bytes(range(104))


def bench_cuda(folder: Path) -> Iterator[tuple[str, str]]:
    """Leaf hashes and the mining search on a GPU, beside the CPU on one core."""
    try:
        hasher = gpu.CudaHasher(cpu=best_hasher())
    except UsageError as error:
        yield "not measured", str(error)
        return
    data = np.random.default_rng(0).integers(0, 256, TOTAL, np.uint8)
    path = folder / "data"
    data.tofile(path)
    yield "device", f"{hasher.device_name}; {ROUNDS} rounds in turn, {TOTAL >> 20} MiB each"
    for size in SIZES:
        starts = np.arange(0, TOTAL - size + 1, size, dtype=np.int64)
        bounds = starts, starts + size
        device, memory, disk, cpu = [], [], [], []
        for _ in range(ROUNDS):
            device.append(resident(hasher, data, *bounds))
            memory.append(TOTAL / timed(partial(hasher.leaf_hashes, data, *bounds)))
            disk.append(TOTAL / from_disk(hasher, path, *bounds))
            cpu.append(TOTAL / timed(partial(hasher.cpu.leaf_hashes, data, *bounds)))
        yield f"{size:,} B, data on the device", spread(device, 1e-9, "GB/s")
        yield f"{size:,} B, from memory", spread(memory, 1e-9, "GB/s")
        yield f"{size:,} B, from disk, not cached", spread(disk, 1e-9, "GB/s")
        yield f"{size:,} B, {hasher.cpu.name} from memory, one core", spread(cpu, 1e-9, "GB/s")
    ours, cores = [], []
    for _ in range(ROUNDS):
        ours.append(2**32 / timed(lambda: hasher.search(HEADER, 0, 2**32, 0)))
        cores.append(2**23 / timed(lambda: search(HEADER, 0, 2**23, 0)))
    yield "search on the device", spread(ours, 1e-9, "G/s")
    yield "search on one core", spread(cores, 1e-9, "G/s")


def resident(
    hasher: gpu.CudaHasher,
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
) -> float:
    """Return bytes a second of the kernel alone, run again and again on one slice."""
    times, slot = 20, hasher._slots[0]
    hasher._device.set_current()
    fill, count, _ = next(gpu._leaf_slices(data, starts, stops))
    slot.upload(fill(slot.pinned_in))

    def run() -> None:
        for _ in range(times):
            slot.launch_rows(hasher._kernels["leaf_hashes"], count)
        slot.stream.sync()

    run()
    return times * count * int(stops[0] - starts[0]) / timed(run)


def from_disk(
    hasher: Hasher, path: Path, starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> float:
    """Return the seconds from a mapped file, after asking the system to forget its pages."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = np.memmap(path, np.uint8, "r")
    return timed(lambda: hasher.leaf_hashes(mapped, starts, stops))


BENCHES = {"cuda": bench_cuda}
