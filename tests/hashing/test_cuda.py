"""The CUDA hasher against `hashlib`: its kernels on the CPU always, and on a GPU where one is."""

from __future__ import annotations

import ctypes
import io
import mmap
import sys
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cairn.core.errors import UsageError
from cairn.hashing import cuda
from cairn.hashing.cuda import CudaHasher
from cairn.hashing.portable import HashlibHasher
from cairn.hashing.search import plain
from tests.hashing.fake_cuda import FakeBuffer, FakeCore, compiled

SLICE = 4096
HEADER = bytes(range(104))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(tmp_path_factory.mktemp("cuda"))


def missing() -> str | None:
    """Return why nothing can run on a GPU here."""
    try:
        cuda.open_device()
    except UsageError as error:
        return str(error)
    return None


NO_GPU = missing()


@pytest.fixture(params=["at once", "when waited for", *([] if NO_GPU else ["gpu"])])
def hasher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CudaHasher:
    """A hasher with slices so small that most tests need many.

    What is put on a stream is done at once, or when somebody waits for it, or by a GPU.
    """
    monkeypatch.setattr(cuda, "DATA_BYTES", SLICE)
    monkeypatch.setattr(cuda, "MESSAGES", 50)
    monkeypatch.setattr(cuda, "LONGEST", 1500)
    monkeypatch.setattr(cuda, "THREADS", 32)
    monkeypatch.setattr(cuda, "BLOCKS_PER_PROCESSOR", 1)
    if request.param != "gpu":
        library = request.getfixturevalue("library")
        fake = FakeCore(library, lazy=request.param == "when waited for")
        monkeypatch.setitem(sys.modules, "cuda.core", fake)
    return CudaHasher()


def positions(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def assert_hashed(hasher: CudaHasher, raw: bytes, bounds: list[tuple[int, int]]) -> None:
    starts, stops = positions([a for a, _ in bounds]), positions([b for _, b in bounds])
    found = hasher.leaf_hashes(np.frombuffer(raw, np.uint8), starts, stops)
    assert found.shape == (len(bounds), 32)
    expected = [sha256(b"\x00" + raw[a:b]).hexdigest() for a, b in bounds]
    assert [row.tobytes().hex() for row in found] == expected


def noise(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


# Hashing


@pytest.mark.parametrize("shift", range(16))
def test_every_length_up_to_300_is_hashed_wherever_it_begins(
    hasher: CudaHasher, shift: int
) -> None:
    ends = [shift, *(shift + np.cumsum(np.arange(301))).tolist()]
    assert_hashed(hasher, noise(ends[-1]), list(pairwise(ends)))


def test_one_length_after_the_other_alone(hasher: CudaHasher) -> None:
    raw = noise(300)
    for size in range(301):
        assert_hashed(hasher, raw, [(300 - size, 300)])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_cuts_of_any_data_in_any_order(hasher: CudaHasher, data: st.DataObject) -> None:
    raw = noise(data.draw(st.integers(0, 3 * SLICE)))
    place = st.integers(0, len(raw))
    short = place.flatmap(lambda a: st.tuples(st.just(a), st.integers(a, min(a + 200, len(raw)))))
    any_size = st.tuples(place, place).map(lambda pair: (min(pair), max(pair)))
    assert_hashed(hasher, raw, data.draw(st.lists(short | any_size, max_size=130)))


def test_messages_around_the_longest_that_goes_to_the_device(hasher: CudaHasher) -> None:
    raw = noise(3 * SLICE)
    sizes = [1499, 1500, 1501, 0, SLICE - 1, SLICE, SLICE + 1, 3 * SLICE, 1500]
    assert_hashed(hasher, raw, [(0, size) for size in sizes])
    assert_hashed(hasher, raw, [(3 * SLICE - size, 3 * SLICE) for size in sizes])


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 100, 101, 1000])
def test_counts_around_that_of_a_slice(hasher: CudaHasher, count: int) -> None:
    assert_hashed(hasher, noise(7 * count), [(7 * i, 7 * i + 7) for i in range(count)])
    assert_hashed(hasher, b"", [(0, 0)] * count)


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 63, 64, 65, 500])
def test_nodes(hasher: CudaHasher, count: int) -> None:
    children = np.frombuffer(noise(64 * count), np.uint8).reshape(count, 64)
    expected = HashlibHasher().node_hashes(children).tobytes()
    assert hasher.node_hashes(children).tobytes() == expected


def test_linking_is_done_by_the_cpu(hasher: CudaHasher) -> None:
    ours, plain_ = (np.frombuffer(bytearray(HEADER * 9), np.uint8).reshape(9, 104) for _ in "ab")
    expected = HashlibHasher().link(plain_, b"\x11" * 32)
    assert hasher.link(ours, b"\x11" * 32).tobytes() == expected.tobytes()
    assert ours.tobytes() == plain_.tobytes()


def test_a_slice_is_full_before_the_next_begins(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "DATA_BYTES", SLICE)
    monkeypatch.setattr(cuda, "LONGEST", SLICE)
    core = FakeCore(library, lazy=True)
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    monkeypatch.setattr(cuda, "MESSAGES", 64)
    hasher = CudaHasher()
    assert_hashed(hasher, noise(4 * SLICE), [(64 * i, 64 * i + 64) for i in range(256)])
    assert core.launches == {"leaf_hashes": 4}
    hasher.node_hashes(np.zeros((129, 64), np.uint8))
    assert core.launches == {"leaf_hashes": 4, "node_hashes": 3}


def test_messages_of_as_many_blocks_stand_together_in_a_slice() -> None:
    sizes = np.random.default_rng(1).integers(0, 2000, 500)
    stops = np.cumsum(sizes, dtype=np.int64)
    data = np.zeros(stops[-1], np.uint8)
    [(_, count, rows)] = cuda._leaf_slices(data, stops - sizes, stops)
    assert count == 500
    blocks = [(1 + size + 8) // 64 + 1 for size in sizes[rows].tolist()]
    assert blocks == sorted(blocks, reverse=True)


def test_after_a_failure_the_next_call_is_right(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "DATA_BYTES", SLICE)
    monkeypatch.setattr(cuda, "LONGEST", SLICE)
    monkeypatch.setattr(cuda, "MESSAGES", 10)
    core = FakeCore(library, lazy=True)
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    hasher, launch = CudaHasher(), core.launch
    bounds = [(i, 2 * i) for i in range(100)]

    def failing(*arguments: Any) -> None:
        if core.launches.get("leaf_hashes", 0) == 3:
            raise RuntimeError("the device is gone")
        launch(*arguments)

    core.launch = failing
    with pytest.raises(RuntimeError, match="gone"):
        assert_hashed(hasher, noise(200), bounds)
    core.launch = launch
    assert_hashed(hasher, noise(200), bounds)


def test_nothing_outside_the_slice_is_read(library: ctypes.CDLL) -> None:
    """The slice fills the end of a page, and the next must not be touched."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    guard = ctypes.c_void_p(base + page), ctypes.c_size_t(page), 0
    assert ctypes.CDLL(None).mprotect(*guard) == 0
    out = FakeBuffer.allocate(32)
    for size in (0, 1, 54, 55, 56, 63, 64, 65, 119, 120, 400):
        length = -(-(8 + size) // 16) * 16
        index = np.array([length - size, size], "<u4").tobytes()
        memory[page - length : page] = index + bytes(length - 8 - size) + noise(size)
        slice_ = ctypes.c_void_p(base + page - length)
        library.run_leaf_hashes(1, 1, slice_, 1, ctypes.c_void_p(out.handle))
        assert ctypes.string_at(out.handle, 32) == sha256(b"\x00" + noise(size)).digest()


# Searching


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(min_size=104, max_size=104),
    st.integers(0, 2**64 - 1) | st.integers(0, 600) | st.integers(2**64 - 600, 2**64 - 1),
    st.integers(0, 2000),
    st.integers(238, 257),
)
def test_search_finds_the_nonce_that_the_plain_one_finds(
    hasher: CudaHasher, header: bytes, first: int, count: int, bits: int
) -> None:
    count, target = min(count, 2**64 - first), 2**bits
    assert hasher.search(header, first, count, target) == plain(header, first, count, target)


def test_search_returns_the_lowest_of_many_in_groups_far_apart(hasher: CudaHasher) -> None:
    """Each thread takes many groups, and finds nonces in several."""
    for number in range(20):
        header = bytes([number]) * 104
        nonce = plain(header, 0, 2**20, 2**242)
        assert nonce is not None
        for first in (0, nonce - 1, nonce):
            assert hasher.search(header, first, 2**17, 2**242) == nonce
        assert hasher.search(header, 0, nonce, 2**242) is None


def test_search_compares_all_bits_of_the_target(hasher: CudaHasher) -> None:
    header, nonce = HEADER[:-8], 1234567
    found = int.from_bytes(sha256(b"\x00" + header + nonce.to_bytes(8, "big")).digest(), "big")
    for target, expected in ((found, nonce), (found - 1, None), (found + 1, nonce)):
        assert hasher.search(HEADER, nonce, 1, target) == expected


def test_search_may_find_the_last_nonce_of_all(hasher: CudaHasher) -> None:
    for target in (2**256, 2**256 - 1, 0):
        expected = 2**64 - 1 if target else None
        assert hasher.search(HEADER, 2**64 - 1, 1, target) == expected


# With slices of the real size, and on a real device


@pytest.mark.skipif(NO_GPU is not None, reason=f"nothing ran on a GPU: {NO_GPU}")
def test_a_gpu_hashes_more_than_one_slice_of_every_size() -> None:
    hasher, raw = CudaHasher(), noise(200 << 20)
    data = np.frombuffer(raw, np.uint8)
    for size in (64, 1000, 65536, cuda.LONGEST):
        starts = np.arange(0, len(raw) - size, size, dtype=np.int64)
        expected = HashlibHasher().leaf_hashes(data, starts, starts + size)
        assert np.array_equal(hasher.leaf_hashes(data, starts, starts + size), expected)
    nonce = hasher.search(HEADER, 0, 2**34, 2**224)
    assert nonce is not None
    assert plain(HEADER, nonce, 1, 2**224) == nonce


# What is missing is named


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(UsageError, match=r"pip install 'cairn-ledger\[cuda\]'"):
        CudaHasher()


def test_without_a_device_it_says_why(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_device(number: int) -> None:
        raise ValueError("no driver")

    core = FakeCore(library, lazy=False)
    core.Device = no_device
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    with pytest.raises(UsageError, match="no CUDA device 0 to use: no driver"):
        CudaHasher()


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90"])
def test_the_source_is_valid_cuda_and_needs_no_memory_for_its_arrays(arch: str) -> None:
    """By the real compiler, which needs no GPU."""
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    options = core.ProgramOptions(
        arch=arch, std="c++17", include_path=str(cuda.SOURCE.parent), ptxas_options=["-v"]
    )
    log = io.StringIO()
    core.Program(cuda.SOURCE.read_text(encoding="utf-8"), "c++", options).compile("cubin", logs=log)
    assert log.getvalue().count("0 bytes stack frame") == 3
    assert "warning" not in log.getvalue()
