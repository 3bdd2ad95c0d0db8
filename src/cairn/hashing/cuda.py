"""SHA-256 of many messages, and the mining search, on an NVIDIA GPU.

One thread hashes one message, by the rounds that the CPU kernel uses too, compiled when a
`CudaHasher` is made. Data goes up in slices through page-locked memory, on two streams in turn:
while one slice is copied and hashed, the next is gathered.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cairn.core.errors import UsageError
from cairn.core.genesis import Terms
from cairn.core.hasher import Hasher
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment
from cairn.hashing.portable import HashlibHasher
from cairn.hashing.search import MOST, NONCE_BYTES, NONCES, check, plain

SOURCE: Final = Path(__file__).parent / "kernel" / "cuda.cu"

DATA_BYTES: Final = 64 << 20
"""Message bytes of a slice. Large, since 64 KB messages make only 1,024 threads of it."""
MESSAGES: Final = 1 << 20
"""Messages of a slice at most: 64 MiB of 64-byte ones."""
LONGEST: Final = 1 << 20
"""Bytes of a message for the GPU. One thread hashes some 20 MB/s, so a longer message would be
waited for; the CPU takes it."""
SPARE: Final = 16
"""Bytes before the children of nodes, since the kernel reads from one byte before a message."""
THREADS: Final = 128
"""Threads of a block."""
BLOCKS_PER_PROCESSOR: Final = 16
"""For the search, whose threads take many nonces: 2,048 threads, the most one can hold."""
TASK_BYTES: Final = 168
"""A search's message (32 words), target (8 words) and nonce found (8 bytes), in this order."""

Rows = NDArray[np.int64] | slice


class CudaHasher:
    """`cairn.core.hasher.Hasher` on one GPU. Any number of threads may use it, one at a time.

    `cpu` does what is sequential: linking, and messages longer than `LONGEST`. It holds about
    210 MB of device memory and as much page-locked memory until it is collected.

    Raises:
        UsageError: a package, the driver, the device or the compiler is missing; the message
            says which.
    """

    name = "cuda"

    def __init__(self, device: int = 0, cpu: Hasher | None = None) -> None:
        core, self._device = open_device(device)
        self._kernels = _kernels(core, f"sm_{self._device.arch}")
        self._core = core
        self.device_name: str = self._device.name
        self.cpu: Hasher = HashlibHasher() if cpu is None else cpu
        self._slots = [_Slot(core, self._device), _Slot(core, self._device)]
        self._lock = Lock()

    def leaf_hashes(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """See `Hasher.leaf_hashes`."""
        out = np.empty((len(starts), HASH_BYTES), np.uint8)
        long = np.flatnonzero(stops - starts > LONGEST)
        with self._lock:
            self._run("leaf_hashes", _leaf_slices(data, starts, stops), out)
        if len(long):
            out[long] = self.cpu.leaf_hashes(data, starts[long], stops[long])
        return out

    def node_hashes(self, children: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `Hasher.node_hashes`."""
        out = np.empty((len(children), HASH_BYTES), np.uint8)
        with self._lock:
            self._run("node_hashes", _node_slices(children), out)
        return out

    def link(self, headers: NDArray[np.uint8], previous_hash: bytes) -> NDArray[np.uint8]:
        """See `Hasher.link`. Each hash waits for the one before: work for a CPU."""
        return self.cpu.link(headers, previous_hash)

    def screen(self, segment: Segment, terms: Terms) -> None:
        """Leave it to the plain way; see `Hasher.screen`."""

    def search(self, header: bytes, first: int, count: int, target: int, /) -> int | None:
        """Return what `cairn.hashing.search.plain` returns."""
        check(header, first, count, target)
        if count == 0:
            return None
        last = first + count - 1
        with self._lock:
            self._device.set_current()
            slot, processors = self._slots[0], self._device.properties.multiprocessor_count
            slot.pinned_in[:TASK_BYTES] = np.frombuffer(_task(header, target), np.uint8)
            groups = (last >> 8) - (first >> 8) + 1
            blocks = min(-(-groups // THREADS), processors * BLOCKS_PER_PROCESSOR)
            arguments = np.uint64(first), np.uint64(last)
            slot.upload(TASK_BYTES)
            slot.launch(self._kernels["search"], blocks, *arguments)
            slot.download(TASK_BYTES, slot.device_in)
            slot.stream.sync()
            found = int(slot.pinned_out[TASK_BYTES - 8 : TASK_BYTES].view(np.uint64)[0])
        if found < NONCES - 1:
            return found
        # All ones says that none was found. Whether that very nonce serves is asked here.
        return plain(header, last, 1, target) if last == found else None

    def _run(self, kernel: str, slices: Iterator[_Slice], out: NDArray[np.uint8]) -> None:
        """Hash slice after slice on the slots in turn; write the rows of `out`."""
        self._device.set_current()
        for number, (fill, count, rows) in enumerate(slices):
            slot = self._slots[number % len(self._slots)]
            slot.finish()
            slot.begin(self._kernels[kernel], fill(slot.pinned_in), count, rows, out)
        for slot in self._slots:
            slot.finish()


def open_device(number: int = 0) -> tuple[Any, Any]:
    """Return the module `cuda.core` and its device `number`, made current for this thread.

    Raises:
        UsageError: the package, the driver or the device is missing; the message says which.
    """
    try:
        core = import_module("cuda.core")
    except ImportError as error:
        raise UsageError(
            f"the CUDA hasher needs the package cuda-core ({error}): "
            "pip install 'cairn-ledger[cuda]'"
        ) from None
    try:
        device = core.Device(number)
        device.set_current()
    except Exception as error:  # as many types as reasons, driver and device among them
        raise UsageError(f"there is no CUDA device {number} to use: {error}") from error
    return core, device


Fill = Callable[[NDArray[np.uint8]], int]
"""Writes a slice into page-locked memory; returns how many bytes of it are to go up."""
_Slice = tuple[Fill, int, Rows]
"""How to fill it, the number of its messages, and the rows that their hashes go to."""


class _Slot:
    """A stream, and the page-locked and device memory of the one slice that is on it."""

    def __init__(self, core: Any, device: Any) -> None:
        self._core = core
        self.stream = device.create_stream()
        pinned = core.LegacyPinnedMemoryResource()
        sizes = DATA_BYTES + 8 * MESSAGES + 2 * SPARE, HASH_BYTES * MESSAGES
        self._pinned = [pinned.allocate(size) for size in sizes]
        self.device_in, self.device_out = (
            device.allocate(size, stream=self.stream) for size in sizes
        )
        self.pinned_in, self.pinned_out = (_array(buffer) for buffer in self._pinned)
        self._pending: tuple[int, Rows, NDArray[np.uint8]] | None = None

    def begin(self, kernel: Any, size: int, count: int, rows: Rows, out: NDArray[np.uint8]) -> None:
        """Send the first `size` bytes up, hash `count` messages, fetch the hashes: all later."""
        self._pending = count, rows, out
        self.upload(size)
        self.launch_rows(kernel, count)
        self.download(count * HASH_BYTES, self.device_out)

    def finish(self) -> None:
        """Wait for what was begun, if anything, and write its hashes to their rows.

        What a call that failed left behind goes to the rows of that call, which nobody sees.
        """
        if self._pending is None:
            return
        self.stream.sync()
        count, rows, out = self._pending
        out[rows] = self.pinned_out[: count * HASH_BYTES].reshape(count, HASH_BYTES)
        self._pending = None

    def upload(self, size: int) -> None:
        """Copy `size` bytes to the device."""
        self._part(self.device_in, size).copy_from(
            self._part(self._pinned[0], size), stream=self.stream
        )

    def launch_rows(self, kernel: Any, count: int) -> None:
        """Hash the `count` messages that were uploaded."""
        self.launch(kernel, -(-count // THREADS), np.uint32(count), self.device_out)

    def launch(self, kernel: Any, blocks: int, *arguments: Any) -> None:
        """Run `kernel` on what was uploaded."""
        config = self._core.LaunchConfig(grid=blocks, block=THREADS)
        self._core.launch(self.stream, config, kernel, self.device_in, *arguments)

    def download(self, size: int, source: Any) -> None:
        """Copy the first `size` bytes of `source` back."""
        self._part(self._pinned[1], size).copy_from(self._part(source, size), stream=self.stream)

    def _part(self, buffer: Any, size: int) -> Any:
        """Return the beginning of `buffer`: copies are of whole buffers."""
        return self._core.Buffer.from_handle(buffer.handle, size, owner=buffer)


def _leaf_slices(
    data: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> Iterator[_Slice]:
    """Cut the messages, but for the long ones, into slices of bytes that lie together.

    In a slice those of as many blocks of SHA-256 stand together, the longest first: threads of
    a warp wait for each other.
    """
    rows = np.flatnonzero(stops - starts <= LONGEST)
    rows = rows[np.argsort(starts[rows], kind="stable")]
    starts = starts[rows]
    sizes = stops[rows] - starts
    ends = np.maximum.accumulate(starts + sizes)
    begin = 0
    while begin < len(rows):
        # At least one message fits: none before it ends more than LONGEST after its start.
        fitting = int(np.searchsorted(ends, starts[begin] + DATA_BYTES, "right"))
        stop = min(fitting, begin + MESSAGES)
        blocks = (sizes[begin:stop] + 73) >> 6  # the padding and the prefix are 10 bytes or more
        order = begin + np.argsort((-blocks).astype(np.int16), kind="stable")
        piece = data[starts[begin] : ends[stop - 1]]
        fill = _filler(piece, starts[order] - starts[begin], sizes[order])
        yield fill, stop - begin, rows[order]
        begin = stop


def _filler(piece: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> Fill:
    def fill(memory: NDArray[np.uint8]) -> int:
        count, at = len(starts), 8 * len(starts)
        index = memory[:at].view(np.uint32)
        index[:count] = starts + at
        index[count:] = sizes
        memory[at : at + len(piece)] = piece
        return at + len(piece)

    return fill


def _node_slices(children: NDArray[np.uint8]) -> Iterator[_Slice]:
    most = min(MESSAGES, DATA_BYTES // (2 * HASH_BYTES))
    for begin in range(0, len(children), most):
        piece = children[begin : begin + most].ravel()

        def fill(memory: NDArray[np.uint8], piece: NDArray[np.uint8] = piece) -> int:
            memory[SPARE : SPARE + len(piece)] = piece
            return SPARE + len(piece)

        count = len(piece) // (2 * HASH_BYTES)
        yield fill, count, slice(begin, begin + count)


def _task(header: bytes, target: int) -> bytes:
    """Return `TASK_BYTES` for the search kernel: words in the device's order of bytes."""
    bits = 8 * (1 + len(header))
    message = b"\x00" + header[:-NONCE_BYTES] + bytes(NONCE_BYTES) + b"\x80"
    message += bytes(120 - len(message)) + bits.to_bytes(8, "big")
    words = np.frombuffer(message + min(target, MOST).to_bytes(32, "big"), ">u4")
    return words.astype("<u4").tobytes() + b"\xff" * 8


def _array(buffer: Any) -> NDArray[np.uint8]:
    """View page-locked memory. The caller keeps `buffer` for as long."""
    address, size = int(buffer.handle), int(buffer.size)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _kernels(core: Any, arch: str) -> dict[str, Any]:
    """Compile the source for `arch`, such as "sm_90".

    Raises:
        UsageError: the compiler library is missing.
    """
    options = core.ProgramOptions(arch=arch, std="c++17", include_path=str(SOURCE.parent))
    code = SOURCE.read_text(encoding="utf-8")
    try:
        compiled = core.Program(code, "c++", options).compile("cubin")
    except RuntimeError as error:
        raise UsageError(f"the CUDA hasher cannot be compiled here: {error}") from error
    return {name: compiled.get_kernel(name) for name in ("leaf_hashes", "node_hashes", "search")}
