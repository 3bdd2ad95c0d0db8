"""A stand-in for the few parts of `cuda.core` that Cairn uses, on the CPU.

Memory is plain memory; kernels are the real source, compiled by the C++ compiler. What is put on
a stream is done at once, or only when somebody waits for the stream: an order of things that
relies on either is found out.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cairn.hashing.cuda import SOURCE

SHIM = Path(__file__).with_name("cuda_shim.cpp")


def compiled(folder: Path) -> ctypes.CDLL:
    """Compile the CUDA source for the CPU, such that undefined behaviour ends the process."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler to compile the CUDA source for the CPU")
    library = folder / "shim.so"
    options = "-O1 -Wall -Wextra -Werror -Wno-unknown-pragmas -shared -fPIC -fsanitize=undefined"
    command = [compiler, *options.split(), "-fsanitize-undefined-trap-on-error"]
    command += [f"-I{SOURCE.parent}", str(SHIM), "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return ctypes.CDLL(str(library))


class FakeBuffer:
    """Memory at `handle`, kept by `owner`."""

    def __init__(self, handle: int, size: int, owner: object) -> None:
        self.handle, self.size, self.owner = handle, size, owner

    @classmethod
    def from_handle(cls, handle: int, size: int, *, owner: object) -> FakeBuffer:
        return cls(handle, size, owner)

    @classmethod
    def allocate(cls, size: int, *, stream: object = None) -> FakeBuffer:
        memory = bytearray(b"\xa5" * (size + 64))
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return cls(start + -start % 64, size, memory)

    def copy_from(self, source: FakeBuffer, *, stream: FakeStream) -> None:
        assert source.size == self.size
        stream.put(lambda: ctypes.memmove(self.handle, source.handle, self.size))


class FakeStream:
    """Work in order, done at once or when waited for."""

    def __init__(self, *, lazy: bool) -> None:
        self._lazy = lazy
        self._work: list[Callable[[], object]] = []

    def put(self, work: Callable[[], object]) -> None:
        self._work.append(work)
        if not self._lazy:
            self.sync()

    def sync(self) -> None:
        while self._work:
            self._work.pop(0)()


class FakeCore(SimpleNamespace):
    """What `import cuda.core` gives. `launches` counts kernels run, by name."""

    def __init__(self, library: ctypes.CDLL, *, lazy: bool) -> None:
        self.launches: dict[str, int] = {}

        def launch(stream: FakeStream, config: Any, kernel: str, *arguments: Any) -> None:
            self.launches[kernel] = self.launches.get(kernel, 0) + 1
            plain = [
                ctypes.c_void_p(a.handle) if isinstance(a, FakeBuffer) else by_dtype(a)
                for a in arguments
            ]
            run = getattr(library, f"run_{kernel}")
            stream.put(lambda: run(config.grid, config.block, *plain))

        def by_dtype(number: Any) -> Any:
            return {4: ctypes.c_uint32, 8: ctypes.c_uint64}[number.dtype.itemsize](int(number))

        def program(code: str, kind: str, options: Any) -> Any:
            assert "__global__" in code
            assert (kind, options.arch) == ("c++", "sm_90")
            return SimpleNamespace(
                compile=lambda target: SimpleNamespace(get_kernel=lambda name: name)
            )

        device = SimpleNamespace(
            name="a fake",
            arch="90",
            set_current=lambda: None,
            create_stream=lambda: FakeStream(lazy=lazy),
            allocate=FakeBuffer.allocate,
            properties=SimpleNamespace(multiprocessor_count=2),
        )
        super().__init__(
            Device=lambda number: device,
            LegacyPinnedMemoryResource=lambda: FakeBuffer,
            Buffer=FakeBuffer,
            LaunchConfig=SimpleNamespace,
            ProgramOptions=SimpleNamespace,
            Program=program,
            launch=launch,
        )
