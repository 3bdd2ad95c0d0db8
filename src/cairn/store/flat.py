"""Sealed segments: final history in flat files that never change, mapped and never parsed.

But for an entry that is erased on purpose: zeros take its place, where it lies.

A file is a header of 64 bytes and its columns, each at a multiple of 64 bytes, with zeros between.
The header is the magic, the version (u32), how many blocks have other than one entry (u32), the
position of the first block, n blocks, m entries, bytes of data (u64 each) and zeros. Version 2, of
work ledgers, has one column more.

| column | size | holds |
|---|---|---|
| hashes | n × 32 | as stored |
| headers | n × 104 | |
| offsets | (m + 1) × 8 | little-endian, the first 0, the last the length of the data |
| index | n × 8 | little-endian, rising: the first 40 bits of each hash, then its place (24) |
| ids | m × 8 | of version 2: the same of each entry's id, with its block's place |
| data | | m entries end to end |

The rules cover headers, hashes and data, and by them the offsets between the first and the last.
The file's header, index and ids are covered by a digest, which the manifest keeps: a table beside
the tail. What the file holds besides is zero. So every flipped bit is found, and named.

A file is read in parts. Where nothing is damaged it does not matter how it is cut; where it is,
which blocks fail after the first may depend on it, so the cuts of a validation are part of the
format.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cairn.core.errors import DamagedError, StoreError
from cairn.core.hasher import Hasher
from cairn.core.header import HEADER_BYTES, HEADER_DTYPE, Kind
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment

MAGIC: Final = b"CAIRNSEG"
VERSION: Final = 1
WITH_IDS: Final = 2
"""The version of files in which blocks are found by the entries that they hold."""
SUFFIX: Final = ".segment"
ALIGNMENT: Final = 64
"""Bytes: a cache line, and the widest vector."""
PLACE_BITS: Final = 24
"""Of an index word: the block's place in its file; the others are the first bits of a hash."""
MOST_BLOCKS: Final = 2**PLACE_BITS
"""Blocks in a file, at most."""
PART_BLOCKS: Final = 131_072
"""Blocks in a part, at most: enough to make the cost of a part small. Of the format."""
PART_BYTES: Final = 32 * 2**20
"""Bytes of a file in a part, about: bounds what is mapped at once. Of the format."""
ZEROS_BYTES: Final = 2**20
"""Bytes overwritten at once, to bound memory."""
PAGE: Final = 4096
"""Bytes of the index that are hashed together."""

Column = Literal["index", "ids"]
"""The indexes: of the blocks' hashes, and of their entries' ids."""

_HEADER: Final = struct.Struct("<8sIIQQQQ16x")
_PLACE: Final = np.uint64(PLACE_BITS)
_POPULATE_READ: Final = 22
"""`MADV_POPULATE_READ`, which Python has no name for: Linux 5.14 and later."""
_UNREADABLE: Final = frozenset({errno.EIO, errno.EFAULT, getattr(errno, "EHWPOISON", 133)})
"""Errors that say that the disk has lost what was stored."""
_UNMAPPABLE: Final = frozenset({errno.EINVAL, errno.ENODEV})
"""Errors that say that the system does not know `_POPULATE_READ`, or the file system no mapping."""


class Sealed(NamedTuple):
    """A file as the manifest records it."""

    first: int
    """Position of its first block."""
    blocks: int
    size: int
    """Bytes of the file."""
    digest: bytes
    """Of what no rule covers: 32 bytes, SHA-256 of the file's header and of its indexes' pages."""

    @property
    def stop(self) -> int:
        """Position after its last block."""
        return self.first + self.blocks

    @property
    def name(self) -> str:
        """The file's name in the folder of segments."""
        return f"{self.first:015}{SUFFIX}"


class _Layout(NamedTuple):
    """Where the columns of a file lie: byte offsets."""

    hashes: int
    headers: int
    offsets: int
    lookup: int
    ids: int
    data: int
    size: int

    @classmethod
    def of(cls, blocks: int, entries: int, data: int, version: int = VERSION) -> _Layout:
        """Lay out a file of so many blocks, entries and bytes of data."""
        at, places = _aligned(_HEADER.size), []
        for width in _widths(blocks, entries, version):
            places.append(at)
            at = _aligned(at + width)
        hashes, headers, offsets, lookup, ids = places
        return cls(hashes, headers, offsets, lookup, ids, at, at + data)


def _widths(blocks: int, entries: int, version: int) -> tuple[int, ...]:
    """Return the bytes of each column but the data."""
    ids = entries * 8 if version == WITH_IDS else 0
    return blocks * HASH_BYTES, blocks * HEADER_BYTES, (entries + 1) * 8, blocks * 8, ids


def write(path: Path, segment: Segment, hasher: Hasher, *, with_ids: bool = False) -> Sealed:
    """Write `segment`, which `is_regular`, to the new file `path`, durable but for its name.

    `with_ids`, its blocks can be found by the entries that they hold.

    Raises:
        StoreError: it has more than `MOST_BLOCKS` blocks.
    """
    if len(segment) > MOST_BLOCKS:
        raise StoreError(f"{len(segment)} blocks are more than a file holds, {MOST_BLOCKS}")
    blocks, entries, size = len(segment), len(segment.offsets) - 1, len(segment.data)
    version = WITH_IDS if with_ids else VERSION
    layout = _Layout.of(blocks, entries, size, version)
    batches = int((segment.fields["count"] != 1).sum())
    header = _HEADER.pack(MAGIC, version, batches, segment.start, blocks, entries, size)
    index = _index(segment.hashes, np.arange(blocks, dtype=np.uint64))
    ids = _index(*entry_ids(segment, hasher)) if with_ids else index[:0]
    offsets = segment.offsets.astype("<u8")
    columns = (segment.hashes, segment.headers, offsets, index, ids, segment.data)
    with path.open("xb", buffering=0) as file:
        pieces = [memoryview(header)]
        for at, column in zip(layout, columns, strict=False):
            pieces.append(memoryview(bytes(at - sum(map(len, pieces)))))
            pieces.append(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)
        _write_all(file.fileno(), pieces)
        os.fsync(file.fileno())
    return Sealed(segment.start, blocks, layout.size, _digest(header, (index, ids), hasher))


def entry_ids(segment: Segment, hasher: Hasher) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Return the id of each entry, `(m, 32)`, and the place of its block in the segment, `(m,)`."""
    ids = hasher.leaf_hashes(np.ascontiguousarray(segment.data), *segment.entry_bounds)
    places = np.arange(len(segment), dtype=np.uint64)
    return ids, np.repeat(places, np.diff(segment.block_bounds))


@dataclass(frozen=True, slots=True)
class Part:
    """Some consecutive blocks of a sealed file: what one worker reads at a time.

    Whoever sees the same folder can read it, in this process or on another machine.
    """

    folder: Path
    sealed: Sealed
    start: int
    """Position of the first block."""
    stop: int
    """Position after the last block."""

    def segment(self) -> Segment:
        """Read the blocks into memory.

        Raises:
            DamagedError: the file is missing, has another length or header than was recorded, or
                cannot be read.
        """
        with _opened(self.folder, self.sealed) as file:
            return _columns(file, self, file.read)

    def mapped(self, hasher: Hasher) -> Segment:
        """Map the blocks, and check what no rule covers where this part is the file's first.

        The pages are let go of with the segment. A page that fails later than here ends the
        process: let it be one that nothing else depends on.

        Raises:
            DamagedError: also where a page cannot be read.
        """
        with _opened(self.folder, self.sealed) as file:
            segment = _columns(file, self, file.map)
            if self.start == self.sealed.first:
                _check_rest(file, hasher)
            return segment

    def has_records(self, hasher: Hasher) -> bool:
        """Whether the ledger itself recorded any of the blocks. Maps no more than their headers.

        Raises:
            DamagedError: as for `mapped`.
        """
        with _opened(self.folder, self.sealed) as file:
            if self.start == self.sealed.first:
                _check_rest(file, hasher)
            at = file.layout.headers + (self.start - self.sealed.first) * HEADER_BYTES
            size = (self.stop - self.start) * HEADER_BYTES
            headers = np.frombuffer(file.map(at, size), HEADER_DTYPE)
            return bool((headers["kind"] == Kind.RECORD).any())


def parts(folder: Path, sealed: Sealed, start: int, stop: int) -> Iterator[Part]:
    """Yield the blocks of a file from position `start` to `stop` in parts, in order.

    However many are asked for, the file is cut in the same places.
    """
    start, stop = max(start, sealed.first), min(stop, sealed.stop)
    step = min(max(sealed.blocks * PART_BYTES // max(sealed.size, 1), 1), PART_BLOCKS)
    while start < stop:
        following = min(start - (start - sealed.first) % step + step, stop)
        yield Part(folder, sealed, start, following)
        start = following


def hashes(folder: Path, sealed: Sealed, start: int, stop: int) -> bytes:
    """Read the hashes of the blocks from position `start` to `stop`, all of which are in the file.

    Raises:
        DamagedError: as for `Part.segment`.
    """
    with _opened(folder, sealed) as file:
        at = file.layout.hashes + (start - sealed.first) * HASH_BYTES
        return file.read(at, (stop - start) * HASH_BYTES)


def headers(folder: Path, sealed: Sealed, start: int, stop: int) -> bytes:
    """Read the headers of the blocks from position `start` to `stop`, likewise.

    Raises:
        DamagedError: as for `Part.segment`.
    """
    with _opened(folder, sealed) as file:
        at = file.layout.headers + (start - sealed.first) * HEADER_BYTES
        return file.read(at, (stop - start) * HEADER_BYTES)


def stored_bytes(folder: Path, sealed: Sealed, start: int, stop: int) -> int:
    """Return the bytes of the entries of the blocks from position `start` to `stop`, likewise.

    Raises:
        DamagedError: as for `Part.segment`.
    """
    with _opened(folder, sealed) as file:
        lo, hi = start - sealed.first, stop - sealed.first
        if (lo, hi) == (0, sealed.blocks):
            return int(file.data_size)
        if file.batches == 0:  # an offset a block
            ends = [file.words(file.layout.offsets, at, at + 1)[0] for at in (lo, hi)]
            begin, end = (min(int(end), int(file.data_size)) for end in ends)
            return max(end - begin, 0)
        headers = file.read(file.layout.headers + lo * HEADER_BYTES, (hi - lo) * HEADER_BYTES)
        return int(np.frombuffer(headers, HEADER_DTYPE)["size"].sum(dtype=np.uint64))


def find(folder: Path, sealed: Sealed, column: Column, hashes: Sequence[bytes]) -> list[list[int]]:
    """Return for each hash (32 bytes) the positions in the file of blocks that have its prefix.

    Raises:
        DamagedError: as for `Part.segment`.
    """
    with _opened(folder, sealed) as file:
        at, n = _words_of(file, column)
        return [_found(file, at, n, one) for one in hashes]


def words(folder: Path, sealed: Sealed, column: Column, most: int) -> NDArray[np.uint64] | None:
    """Return the words of an index, `(n,)`, rising unless it is damaged; None for more than `most`.

    Raises:
        DamagedError: as for `Part.segment`.
    """
    with _opened(folder, sealed) as file:
        at, n = _words_of(file, column)
        return file.words(at, 0, n) if n <= most else None


def prefixes(hashes: Sequence[bytes]) -> NDArray[np.uint64]:
    """Return the least word that an index may have for each hash (32 bytes), `(n,)`."""
    firsts = np.frombuffer(b"".join(one[:8] for one in hashes), ">u8").astype(np.uint64)
    return firsts >> _PLACE << _PLACE


def _words_of(file: _File, column: Column) -> tuple[int, int]:
    """Return where an index begins, and how many words it has: none, where it is not there."""
    if column == "index":
        return file.layout.lookup, file.sealed.blocks
    return file.layout.ids, file.entries if file.version == WITH_IDS else 0


def _found(file: _File, column: int, n: int, wanted_hash: bytes) -> list[int]:
    """Look a hash up in a column of n words, as `_index` makes them; return positions of blocks."""
    wanted = int.from_bytes(wanted_hash[:8], "big") >> PLACE_BITS << PLACE_BITS
    low, high = 0, n
    while high - low > PAGE // 8:  # by pages: hashes are spread evenly, but need not be
        middle = (low + high) // 2
        if file.words(column, middle, middle + 1)[0] < wanted:
            low = middle + 1
        else:
            high = middle
    found: list[int] = []
    while low < n:  # once, unless very many are the same
        words = file.words(column, low, min(high + PAGE // 8, n))
        same = words[words >> _PLACE == np.uint64(wanted >> PLACE_BITS)]
        found += (same & np.uint64(MOST_BLOCKS - 1)).tolist()
        low += len(words)
        high = low
        if words[-1] >> _PLACE > np.uint64(wanted >> PLACE_BITS):
            break
    return [file.sealed.first + place for place in found]


def erase(folder: Path, sealed: Sealed, position: int) -> None:
    """Overwrite the one entry of a block with zeros where it lies, durably.

    Who has the file mapped sees that happen, and nothing else.

    Raises:
        DamagedError: as for `Part.segment`, and where the entry is not as long as its header says.
        StoreError: it cannot be written.
    """
    with _opened(folder, sealed) as file:
        at, size = _place_of_entry(file, position - sealed.first)
    path = folder / sealed.name
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _overwrite(descriptor, at, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"{path} cannot be overwritten: {error}") from error


class _File:
    """An open file whose length and header are those that were recorded."""

    def __init__(self, descriptor: int, path: Path, sealed: Sealed) -> None:
        self.path = path
        self.sealed = sealed
        self._descriptor = descriptor
        self._mapping: mmap.mmap | None = None
        size = os.fstat(descriptor).st_size
        if size != sealed.size:
            raise DamagedError(f"{path} has {size} bytes; {sealed.size} were recorded")
        self.header = os.pread(descriptor, _HEADER.size, 0)
        found = _HEADER.unpack(self.header.ljust(_HEADER.size, b"\0"))
        magic, self.version, self.batches, first, blocks, self.entries, self.data_size = found
        self.layout = _Layout.of(blocks, self.entries, self.data_size, self.version)
        is_known = magic == MAGIC and self.version in (VERSION, WITH_IDS)
        if not is_known or (first, blocks, self.layout.size) != (sealed.first, sealed.blocks, size):
            raise DamagedError(f"{path} is not the segment that was recorded under its name")

    def read(self, at: int, size: int) -> bytes:
        """Read bytes into memory."""
        read = os.pread(self._descriptor, size, at)
        while len(read) < size:
            more = os.pread(self._descriptor, size - len(read), at + len(read))
            if not more:
                raise DamagedError(f"{self.path} ends at byte {at + len(read)}")
            read += more
        return read

    def map(self, at: int, size: int) -> memoryview | bytes:
        """Map bytes, with all pages at hand, or read them where the system cannot promise that."""
        if size == 0 or sys.platform != "linux":
            return self.read(at, size)
        start = at - at % mmap.PAGESIZE
        try:
            # The whole file, since that lets the system map large pages.
            self._mapping = self._mapping or mmap.mmap(
                self._descriptor, self.sealed.size, prot=mmap.PROT_READ
            )
            self._mapping.madvise(_POPULATE_READ, start, at + size - start)
        except ValueError:  # Python looks at the length of the file again
            raise DamagedError(f"{self.path} was cut off while it was read") from None
        except OSError as error:
            if error.errno in _UNMAPPABLE:
                return self.read(at, size)
            raise
        return memoryview(self._mapping)[at : at + size]

    def words(self, column: int, first: int, last: int) -> NDArray[np.uint64]:
        """Read words of a column that begins at byte `column`."""
        words = self.read(column + first * 8, (last - first) * 8)
        return np.frombuffer(words, "<u8").astype(np.uint64)


@contextmanager
def _opened(folder: Path, sealed: Sealed) -> Iterator[_File]:
    """Yield the file; turn the system's errors into ours."""
    path = folder / sealed.name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield _File(descriptor, path, sealed)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"{path} is missing") from None
    except OSError as error:
        kind = DamagedError if error.errno in _UNREADABLE else StoreError
        raise kind(f"{path} cannot be read: {error}") from error


def _columns(file: _File, part: Part, get: Callable[[int, int], Any]) -> Segment:
    """Return the blocks of `part`; `get(at, size)` gives bytes of the file.

    Offsets are as stored, whatever they are, but for where the data of the part begins. Those that
    lie before it become too large, and so count as the end of the data, like all too large ones.
    """
    layout, blocks = file.layout, part.sealed.blocks
    lo, hi = part.start - part.sealed.first, part.stop - part.sealed.first
    first, last = _entries_between(file, lo, hi, blocks)
    offsets = np.frombuffer(get(layout.offsets + first * 8, (last - first + 1) * 8), "<u8")
    begin = int(offsets[0]) if lo > 0 else 0
    begin = min(begin, file.data_size)
    # Where the last one is too small, it is the last entry that is to suffer, not those before.
    end = int(offsets[-2:].max()) if hi < blocks else file.data_size
    end = min(max(end, begin), file.data_size)
    return Segment(
        part.start,
        _rows(get(layout.headers + lo * HEADER_BYTES, (hi - lo) * HEADER_BYTES), HEADER_BYTES),
        _rows(get(layout.hashes + lo * HASH_BYTES, (hi - lo) * HASH_BYTES), HASH_BYTES),
        np.frombuffer(get(layout.data + begin, end - begin), np.uint8),
        np.subtract(offsets, np.uint64(begin), dtype=np.uint64),
    )


def _entries_between(file: _File, lo: int, hi: int, blocks: int) -> tuple[int, int]:
    """Return which entries the blocks `lo` to `hi` of the file hold, by the headers' counts."""
    if file.batches == 0:
        return min(lo, file.entries), min(hi, file.entries) if hi < blocks else file.entries
    headers = np.frombuffer(file.read(file.layout.headers, hi * HEADER_BYTES), HEADER_DTYPE)
    ends = np.cumsum(headers["count"], dtype=np.uint64)
    first = min(int(ends[lo - 1]), file.entries) if lo > 0 else 0
    return first, min(int(ends[hi - 1]), file.entries) if hi < blocks else file.entries


def _place_of_entry(file: _File, i: int) -> tuple[int, int]:
    """Return where in the file the one entry of its i-th block begins, and its size."""
    layout, blocks = file.layout, file.sealed.blocks
    header = np.frombuffer(file.read(layout.headers + i * HEADER_BYTES, HEADER_BYTES), HEADER_DTYPE)
    first, last = _entries_between(file, i, i + 1, blocks)
    words = np.frombuffer(file.read(layout.offsets + first * 8, (last - first + 1) * 8), "<u8")
    size = int(header["size"][0])
    if len(words) != 2 or int(words[0]) + size != int(words[1]) or int(words[1]) > file.data_size:
        raise DamagedError(f"{file.path}: the entry of block {file.sealed.first + i} is damaged")
    return layout.data + int(words[0]), size


def _check_rest(file: _File, hasher: Hasher) -> None:
    """Check what no rule covers: the file's header, its index, the ends of offsets, and zeros.

    Raises:
        DamagedError: what was changed.
    """
    layout, blocks = file.layout, file.sealed.blocks
    widths = _widths(blocks, file.entries, file.version)
    indexes = [
        np.frombuffer(file.map(at, width), np.uint8)
        for at, width in ((layout.lookup, widths[-2]), (layout.ids, widths[-1]))
    ]
    if _digest(file.header, indexes, hasher) != file.sealed.digest:
        raise DamagedError(f"{file.path}: its header or index is not what was recorded")
    ends = [file.read(layout.offsets + at * 8, 8) for at in (0, file.entries)]
    if [int.from_bytes(end, "little") for end in ends] != [0, file.data_size]:
        raise DamagedError(f"{file.path}: its first or last offset was changed")
    for at, width, following in zip(layout, widths, layout[1:], strict=False):
        if any(file.read(at + width, following - at - width)):
            raise DamagedError(f"{file.path}: bytes that are zero were changed")


def _index(hashes: NDArray[np.uint8], places: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return `(n,)` words: the prefix of each hash, and the place of its block; rising."""
    firsts = np.ascontiguousarray(hashes).view(">u8")[:, 0].astype(np.uint64)
    return np.sort(firsts >> _PLACE << _PLACE | places).astype("<u8")


def _digest(header: bytes, indexes: Sequence[NDArray[Any]], hasher: Hasher) -> bytes:
    covered = header
    for index in indexes:
        data = np.ascontiguousarray(index).view(np.uint8)
        starts = np.arange(0, len(data), PAGE, dtype=np.int64)
        stops = np.minimum(starts + PAGE, len(data))
        covered += hasher.leaf_hashes(data, starts, stops).tobytes()
    return sha256(covered).digest()


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT


def _rows(data: Any, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def _overwrite(descriptor: int, at: int, size: int) -> None:
    """Write so many zeros."""
    end = at + size
    while at < end:
        at += os.pwrite(descriptor, bytes(min(end - at, ZEROS_BYTES)), at)


def _write_all(descriptor: int, pieces: list[memoryview]) -> None:
    """Write `pieces` end to end, by as few calls as can be.

    A system that is given much at once caches it in large pages, which are mapped quickly.
    """
    while pieces := [piece for piece in pieces if len(piece)]:
        written = os.writev(descriptor, pieces)
        for i, piece in enumerate(pieces):
            pieces[i] = piece[written:]
            written = max(written - len(piece), 0)
