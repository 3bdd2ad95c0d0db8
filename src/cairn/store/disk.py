"""The store on disk: a tail in SQLite, and final history in sealed segments.

An append that makes the tail long enough does not go into it: it is written to a flat file, with
all that is in the tail. The order is

1. the file is written under a hidden name, and fsynced: a crash leaves a file that nothing reads,
   and that the next one to seal removes;
2. it is renamed, and the names are fsynced: the same, but that the next one replaces it;
3. one transaction of the tail records the file, moves the head and drops the tail's blocks. Only
   this makes the append, and recovery is that of the tail.

So every block is in one place, files never change, and a reader that finds a run of the tail gone
finds its blocks in a new file.

What is erased is the one thing that changes where it lies. The order is

1. one transaction of the tail appends the record, and notes in `erasing` what it asks for: a crash
   before leaves nothing of it, and after it, at any moment, a note that the next writer finds;
2. zeros are written over the entry, in its row or its file, and are durable: a crash in the middle
   leaves some, and validation calls them damage until the next writer has gone on;
3. a file that a crash left while it was sealed goes, as it may hold the entry, too;
4. the log goes into the database and is cut to nothing;
5. the note goes.
"""

from __future__ import annotations

import json
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Final
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from cairn.core.block import Block
from cairn.core.erasure import Erasure
from cairn.core.errors import DamagedError, StoreError, UsageError
from cairn.core.hasher import Hasher
from cairn.core.header import DATA_ROOT, HEADER_BYTES, Header, Kind
from cairn.core.merkle import HASH_BYTES
from cairn.core.segment import Segment
from cairn.core.tree import WIDTH, as_hashes, subtree_roots
from cairn.core.validation import erasures
from cairn.store import flat
from cairn.store.database import Database
from cairn.store.directory import FILE_NAME, SEGMENTS_NAME, keep_access, sync
from cairn.store.flat import Part, Sealed
from cairn.store.interface import Head, Pooled, require_advance
from cairn.store.off_chain import StoredAddresses, StoredPool
from cairn.store.runs import before, places_of
from cairn.store.sealed_index import SealedIndex
from cairn.store.tail import Node, Tail

CHECKPOINT_NAME: Final = "checkpoint"
"""The checkpoint that was published last, a signed note."""
MARK_NAME: Final = "validated.json"
"""Up to where an incremental validation has come."""
HIDDEN_NAME: Final = ".new"
"""A file that is being written."""
SEAL_BLOCKS: Final = 32_768
"""Blocks that a tail holds, at most: an append that would make them more seals them all."""
SEAL_BYTES: Final = 16 * 2**20
"""Bytes of entries that a tail holds, likewise."""
OVERGROWN: Final = 2
"""A tail that holds so many times more, since it could not be sealed, is sealed in pieces."""


_ColumnOf = Callable[[Path, Sealed, int, int], bytes]
"""What reads a column of a file from one position to another."""


class DiskStore:
    """`cairn.store.interface.Store` in a directory, for one writer and any number of readers."""

    def __init__(self, directory: Path, hasher: Hasher, *, read_only: bool = False) -> None:
        self.directory = directory
        self._folder = directory.absolute() / SEGMENTS_NAME  # as other processes will find it
        self._hasher = hasher
        self._database = Database(directory, read_only=read_only)
        self._tail = Tail(self._database, hasher)
        self._pool = StoredPool(self._database)
        self._addresses = StoredAddresses(self._database)
        self._hash_index = SealedIndex(self._folder, "index")
        self._entry_index = SealedIndex(self._folder, "ids")
        self._lock = Lock()
        self._room: tuple[int, int] | None = None  # owned by _lock: blocks and bytes to the limits

    @classmethod
    def create(cls, directory: Path) -> None:
        """Make a store with no block in the empty directory `directory`.

        Not durable by itself: `new_directory` makes it so, with the name.
        """
        Database.create(directory)

    def head(self) -> Head:
        """See `Store.head`."""
        return self._tail.head()

    def end(self) -> int:
        """See `Store.end`."""
        return self._tail.end()

    def get(self, index: int) -> Block | None:
        """See `Store.get`."""
        block = self._tail.get(index)
        if block is not None:
            return block
        for part in self._sealed(index, index + 1):
            return part.segment().block(0)
        return None

    def find(self, block_hash: bytes) -> int | None:
        """See `Store.find`. Files are asked by what was recorded of them, not by their hashes."""
        (in_tail,), _, files = self._tail.find([block_hash])
        for position in in_tail:
            stored = self._row_of_tail("hashes", HASH_BYTES, position)
            if stored is None and (block := self.get(position)):  # it has just been sealed
                stored = block.stored_hash
            if stored == block_hash:
                return position
        (in_files,), rest = self._hash_index.candidates(files, [block_hash])
        for position in chain(in_files, self._asked(reversed(rest), "index", block_hash)):
            sealed = _file_of(files, position)
            if sealed and flat.hashes(self._folder, sealed, position, position + 1) == block_hash:
                return position
        return None

    def _asked(self, files: Iterable[Sealed], column: flat.Column, one: bytes) -> Iterator[int]:
        """Yield the positions in files of blocks that have the prefix of a hash."""
        for sealed in files:
            yield from flat.find(self._folder, sealed, column, [one])[0]

    def find_entry(self, entry_id: bytes) -> list[tuple[int, int]]:
        """See `Store.find_entry`."""
        return self.find_entries([entry_id])[0]

    def find_entries(self, ids: Sequence[bytes]) -> list[list[tuple[int, int]]]:
        """See `Store.find_entries`."""
        if not self._tail.is_mined():
            length = self.head().length
            return [
                [place for segment in self.scan(0, length) for place in places_of(segment, one)]
                for one in ids
            ]
        while True:
            in_tail, end, files = self._tail.find_entries(ids)
            in_files, rest = self._entry_index.candidates(files, ids)
            for sealed in rest:
                in_files += flat.find(self._folder, sealed, "ids", ids)
            found = self._places(ids, [*in_files, *in_tail], files)
            # What is in files is final. In the tail, others may have come to these positions.
            if not any(in_tail) or self._tail.find_entries(()).end == end:
                return found

    def _places(
        self, ids: Sequence[bytes], candidates: Iterable[list[int]], files: Sequence[Sealed]
    ) -> list[list[tuple[int, int]]]:
        """Return where ids are, of the positions at which one of them may be."""
        found: dict[bytes, list[tuple[int, int]]] = {entry_id: [] for entry_id in ids}
        for position in sorted(set().union(*candidates)):
            for place, entry_id in enumerate(self._ids_at(position, files)):
                if entry_id in found:
                    found[entry_id].append((position, place))
        return [found[entry_id] for entry_id in ids]

    def _ids_at(self, position: int, files: Sequence[Sealed]) -> list[bytes]:
        """Return the ids of a block's entries; none where there is no such block any more.

        A single entry is known by its block's data root.
        """
        sealed = _file_of(files, position)
        if sealed is None:
            header = self._row_of_tail("headers", HEADER_BYTES, position)
        else:
            header = flat.headers(self._folder, sealed, position, position + 1)
        if header is not None and Header.unpack(header).count == 1:
            return [header[DATA_ROOT]]
        if sealed is not None:
            segment = Part(self._folder, sealed, position, position + 1).segment()
        elif (block := self.get(position)) is not None:
            segment = Segment.from_blocks(position, [block])
        else:
            return []
        ids, _ = flat.entry_ids(segment, self._hasher)
        return [row.tobytes() for row in ids]

    def _row_of_tail(self, column: str, width: int, position: int) -> bytes | None:
        """Return what a column of the tail has for a block, or None where that is not there."""
        for first, run in self._tail.column(column, position, position + 1):
            begin = (position - first) * width
            if 0 <= begin <= len(run) - width:
                return run[begin : begin + width]
        return None

    def hashes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Store.hashes`."""
        return self._column("hashes", flat.hashes, HASH_BYTES, start, stop)

    def headers(self, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Store.headers`."""
        return self._column("headers", flat.headers, HEADER_BYTES, start, stop)

    def _column(
        self, name: str, of_file: _ColumnOf, width: int, start: int, stop: int
    ) -> NDArray[np.uint8]:
        """Return a column for the blocks from `start` to `stop`, `(n, width)`."""
        found = bytearray()
        at = start
        for sealed in self._tail.sealed(start, stop) if start < stop else ():
            if not sealed.first <= at < sealed.stop:
                continue
            upto = min(sealed.stop, stop)
            found += of_file(self._folder, sealed, at, upto)
            at = upto
        if at < stop:
            for first, run in self._tail.column(name, at, stop):
                if first > at:
                    break
                piece = run[(at - first) * width : (stop - first) * width]
                found += piece
                at += len(piece) // width
        if at < stop and any(self._sealed(at, at + 1)):  # it has just been sealed
            rest = self._column(name, of_file, width, at, stop)
            return np.concatenate([np.frombuffer(found, np.uint8).reshape(-1, width), rest])
        if at < stop or len(found) % width:
            raise DamagedError(f"{self.directory}: block {at} is missing")
        return np.frombuffer(found, np.uint8).reshape(-1, width)

    def stored_bytes(self, start: int, stop: int) -> int:
        """See `Store.stored_bytes`."""
        total, at = 0, start
        for sealed in self._tail.sealed(start, stop) if start < stop else ():
            if sealed.first <= at < sealed.stop:
                upto = min(sealed.stop, stop)
                total += flat.stored_bytes(self._folder, sealed, at, upto)
                at = upto
        if at < stop:
            size, at = self._tail.stored_bytes(at, stop)
            total += size
        if at < stop and any(self._sealed(at, at + 1)):  # it has just been sealed
            return total + self.stored_bytes(at, stop)
        if at < stop:
            raise DamagedError(f"{self.directory}: block {at} is missing")
        return total

    def nodes(self, level: int, start: int, stop: int) -> NDArray[np.uint8]:
        """See `Store.nodes`."""
        found = bytearray()
        for expected, (number, node) in enumerate(self._tail.nodes(level, start, stop), start):
            if number != expected or len(node) != HASH_BYTES:
                break
            found += node
        return as_hashes(found)

    def recall(self, key: str) -> range | None:
        """See `Store.recall`."""
        return self._tail.recall(key)

    def append(self, segment: Segment, keys: Mapping[str, range], erase: int | None = None) -> None:
        """See `Store.append`."""
        self._database.require_writable()  # before the lock, which a fork may have left taken
        with self._lock:
            if self._tail.is_mined():
                raise UsageError(f"{self.directory} is a work ledger: nothing is appended to it")
            nodes = self._nodes_with(segment.start, segment.hashes)
            is_due = not self._has_room(segment)
            sealed = self._try_to_seal(segment, segment.stop, mined=False) if is_due else None
            with self._taking(segment, sealed):
                self._tail.append(segment, keys, sealed, nodes, erase)

    def advance(self, segment: Segment, *, work: int, final: int) -> None:
        """See `Store.advance`."""
        self._database.require_writable()  # before the lock, which a fork may have left taken
        with self._lock:
            if self._tail.is_mined() is False:
                raise UsageError(f"{self.directory} is an instant ledger: nothing goes from it")
            known = self._tail.final()
            require_advance(segment, work, final, before=known)
            self._tail.require_follows(segment)
            nodes = self._nodes_with(known, self._become_final(segment, known, final))
            is_due = self._is_due(segment, final)
            sealed = self._try_to_seal(segment, final, mined=True) if is_due else None
            with self._taking(segment, sealed):
                self._tail.advance(segment, work, final, sealed, nodes)

    @contextmanager
    def _taking(self, segment: Segment, sealed: Sealed | None) -> Iterator[None]:
        """Count the room that is left while the tail takes `segment`. Requires the lock."""
        room, self._room = self._room, None  # until the tail has it
        yield
        if room is not None and sealed is None:
            self._room = (room[0] - len(segment), room[1] - len(segment.data))

    def _become_final(self, segment: Segment, known: int, final: int) -> NDArray[np.uint8]:
        """Return the hashes of the blocks that are final with `segment`, and were not before it.

        None, where it cannot be told.
        """
        if known // WIDTH == final // WIDTH:  # no node of the tree is complete with them
            return as_hashes(b"")
        try:
            stored = self.hashes(known, min(final, segment.start))
        except StoreError:
            return as_hashes(b"")
        return np.concatenate([stored, segment.hashes[: max(final - segment.start, 0)]])

    def work(self) -> int:
        """See `Store.work`."""
        return self._tail.work()

    def final(self) -> int:
        """See `Store.final`."""
        return self._tail.final()

    def sides(self) -> Iterator[Segment]:
        """See `Store.sides`."""
        return self._tail.sides()

    def pool_add(self, pooled: Sequence[Pooled], key: str | None = None) -> None:
        """See `Store.pool_add`."""
        self._pool.add(pooled, key)

    def pool_remove(self, ids: Sequence[bytes]) -> None:
        """See `Store.pool_remove`."""
        self._pool.remove(ids)

    def pool(self) -> list[Pooled]:
        """See `Store.pool`."""
        return self._pool.all()

    def pool_has(self, entry_id: bytes) -> bool:
        """See `Store.pool_has`."""
        return self._pool.has(entry_id)

    def pool_key(self, key: str) -> bytes | None:
        """See `Store.pool_key`."""
        return self._pool.key(key)

    def addresses(self) -> list[str]:
        """See `Store.addresses`."""
        return self._addresses.all()

    def set_addresses(self, urls: Sequence[str]) -> None:
        """See `Store.set_addresses`."""
        self._addresses.set(urls)

    def erasing(self) -> Mapping[int, int]:
        """See `Store.erasing`."""
        return self._tail.erasing()

    def finish_erasing(self) -> Mapping[int, int]:
        """See `Store.finish_erasing`."""
        self._database.require_writable()  # before the lock, which a fork may have left taken
        with self._lock:
            if not self._tail.erasing():
                return {}
            # A commit that failed may be in the log, and only memory know of it: the record has to
            # be durable before the entry goes, and no file be recorded any more that is removed.
            self._database.overwrite_log()
            erasing = self._tail.erasing()
            for position, record in erasing.items():
                self._require_recorded(position, record)
                if not self._tail.zero(position):
                    for sealed in self._tail.sealed(position, position + 1):
                        flat.erase(self._folder, sealed, position)
            self._remove_unrecorded()
            self._tail.forget_erasing()
            return erasing

    def _require_recorded(self, position: int, record: int) -> None:
        """Make sure that a note in `erasing` is not damage: it is about to destroy something."""
        block, said = self.get(position), self.get(record)
        if block is not None and said is not None and said.header.kind == Kind.RECORD:
            erasure = Erasure.of(said.data_json())
            if erasure and (erasure.index, erasure.id) == (position, block.header.data_root):
                return
        raise DamagedError(
            f"{self.directory}: block {record} is no record that {position} is erased"
        )

    def _remove_unrecorded(self) -> None:
        """Remove what crashes left of files that were being sealed."""
        end = max((sealed.stop for sealed in self._tail.sealed()), default=0)
        paths = [self._folder / HIDDEN_NAME, self._folder / Sealed(end, 0, 0, b"").name]
        if left := [path for path in paths if path.exists()]:
            for path in left:
                path.unlink()
            sync(self._folder)

    def parts(self, start: int, stop: int) -> Iterator[Segment | Part]:
        """See `Store.parts`."""
        while True:
            for part in self._sealed(start, stop):
                yield part
                start = part.stop
            begin = start
            for segment in self._tail.scan(start, stop):
                if segment.start > start and any(self._sealed(start, stop)):
                    break  # what is missing has just been sealed
                yield segment
                start = segment.stop
            # Of a work ledger, what is sealed meanwhile may be of another chain than the tail's.
            if (start > begin and self._tail.is_mined()) or not any(self._sealed(start, stop)):
                return

    def scan(self, start: int, stop: int) -> Iterator[Segment]:
        """See `Store.scan`."""
        for part in self.parts(start, stop):
            yield part.segment() if isinstance(part, Part) else part

    def require_nothing_else(self) -> None:
        """See `Store.require_nothing_else`."""
        # In this order: a file is there before it is recorded, and blocks move from the tail into
        # files, never back.
        paths = sorted(self._folder.glob(f"*{flat.SUFFIX}"))
        begin, files = self._tail.begin(), self._tail.sealed()
        end = files[-1].stop if files else 0
        if begin is not None and begin < end:
            begin = self._tail.begin()  # they may have been sealed between the two
        if begin is not None and begin < end:
            raise DamagedError(f"{self.directory}: block {begin} is in a file and in the tail")
        # The one that would be next is being written, or was left by a crash: nothing reads it.
        known = {sealed.name for sealed in files} | {Sealed(end, 0, 0, b"").name}
        for path in paths:
            if path.name not in known:
                raise DamagedError(f"{path} is not recorded as a part of the ledger")

    def checkpoint(self) -> bytes | None:
        """See `Store.checkpoint`."""
        try:
            return (self.directory / CHECKPOINT_NAME).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"the checkpoint cannot be read: {error}") from error

    def publish(self, checkpoint: bytes) -> None:
        """See `Store.publish`."""
        self._replace(CHECKPOINT_NAME, checkpoint)

    def mark(self) -> Head | None:
        """See `Store.mark`."""
        try:
            value = json.loads((self.directory / MARK_NAME).read_bytes())
            head = Head(value["length"], bytes.fromhex(value["hash"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        usable = type(head.length) is int and head.length > 0 and len(head.hash) == HASH_BYTES
        return head if usable else None

    def set_mark(self, head: Head) -> None:
        """See `Store.set_mark`."""
        text = json.dumps({"length": head.length, "hash": head.hash.hex()})
        self._replace(MARK_NAME, text.encode())

    def _replace(self, name: str, content: bytes) -> None:
        """Let a file of the directory have this content: whole or not at all, by a rename."""
        temporary = self.directory / f".{name}.{token_hex(8)}.new"
        try:
            temporary.write_bytes(content)
            keep_access(self.directory / FILE_NAME, temporary)
            temporary.replace(self.directory / name)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise StoreError(f"{name} cannot be written: {error}") from error

    def backup(self, target: Path, progress: Callable[[int, int], None]) -> None:
        """See `Store.backup`. In bytes."""
        while True:
            length = self.head().length
            self._copy(target, progress)
            meanwhile = self.scan(length, self.head().length)
            if not any(any(erasures(segment)) for segment in meanwhile):
                return
            # A file may lack what the copied tail has no record of. With the record, all is well.
            (target / FILE_NAME).unlink()
            shutil.rmtree(target / SEGMENTS_NAME, ignore_errors=True)

    def _copy(self, target: Path, progress: Callable[[int, int], None]) -> None:
        """Write a copy, which is consistent unless something was erased meanwhile."""
        rest = sum(sealed.size for sealed in self._tail.sealed())
        files = self._tail.backup(target, lambda done, total: progress(done, total + rest))
        if not files:
            return
        folder = target / SEGMENTS_NAME
        folder.mkdir()
        if self._folder.is_dir():
            keep_access(self._folder, folder)
        done = (target / FILE_NAME).stat().st_size
        total = done + sum(sealed.size for sealed in files)
        for sealed in files:
            try:
                shutil.copyfile(self._folder / sealed.name, folder / sealed.name)
                keep_access(self._folder / sealed.name, folder / sealed.name)
            except (FileNotFoundError, NotADirectoryError):
                raise DamagedError(f"{self._folder / sealed.name} is missing") from None
            sync(folder / sealed.name)
            done += sealed.size
            progress(done, total)
        sync(folder)

    @contextmanager
    def tampering(self) -> Iterator[None]:
        """See `Store.tampering`."""
        self._database.require_writable()  # before the lock, which a fork may have left taken
        with self._lock:
            try:
                yield
            finally:
                self._room = None
                self._tail.forget()

    def close(self) -> None:
        """See `Store.close`."""
        self._database.close()

    def _sealed(self, start: int, stop: int) -> Iterator[Part]:
        """Yield what files hold from position `start` to `stop`, in order."""
        for sealed in self._tail.sealed(start, stop):
            yield from flat.parts(self._folder, sealed, start, stop)

    def _has_room(self, segment: Segment) -> bool:
        """Whether the tail can take `segment`. Requires the lock."""
        if self._room is None:
            blocks, size = self._tail.size()
            self._room = SEAL_BLOCKS - blocks, SEAL_BYTES - size
        return len(segment) <= self._room[0] and len(segment.data) <= self._room[1]

    def _is_due(self, segment: Segment, final: int) -> bool:
        """Whether there will be enough final blocks with `segment`, to seal them.

        While all that the tail holds is not enough, it need not be asked. Requires the lock.
        """
        if self._room and len(segment) < self._room[0] and len(segment.data) < self._room[1]:
            return False
        begin = self._tail.begin()
        begin = segment.start if begin is None else begin
        blocks, size = self._tail.size()
        self._room = SEAL_BLOCKS - blocks, SEAL_BYTES - size
        _, size = self._tail.size(min(final, segment.start))
        size += sum(len(s.data) for s in _up_to(segment, final))
        return final > begin and (final - begin >= SEAL_BLOCKS or size >= SEAL_BYTES)

    def _try_to_seal(self, segment: Segment, stop: int, *, mined: bool) -> Sealed | None:
        """Write the tail and `segment`, up to `stop`, to a file; None where that does not work.

        Then the tail takes the segment, and as many more blocks until the next try.
        """
        try:
            return self._seal(segment, stop, mined)
        except (OSError, StoreError, MemoryError) as error:
            self._room = SEAL_BLOCKS + len(segment), SEAL_BYTES + len(segment.data)
            message = f"the tail of {self.directory} was not sealed: {error}"
            warn(message, RuntimeWarning, stacklevel=2)
            return None

    def _seal(self, segment: Segment, stop: int, mined: bool) -> Sealed:
        """Write the tail and `segment`, up to `stop`, to a file, durable under its name.

        As much of the tail as would take too much memory goes to files of its own before, or alone
        where blocks in it are yet to become final.
        """
        while True:
            pieces, is_all = self._first_of_tail(min(stop, segment.start))
            pieces += _up_to(segment, stop) if is_all else []
            start = max((sealed.stop for sealed in self._tail.sealed()), default=0)
            for piece in pieces:
                if piece.start != start or not piece.is_regular:
                    raise DamagedError(f"block {start} is missing or damaged")
                start = piece.stop
            sealed = self._write(Segment.join(pieces), with_ids=mined)
            if is_all or mined:
                return sealed
            self._tail.seal(sealed)

    def _nodes_with(self, start: int, row: NDArray[np.uint8]) -> list[Node]:
        """Return the nodes of the tree that are complete with these blocks, and were not before.

        `row` has their hashes, from position `start` on. Fewer, where it cannot be told what came
        before: proofs do without.
        """
        found: list[Node] = []
        level = 0
        while start // WIDTH < (start + len(row)) // WIDTH:
            missing = start % WIDTH  # of the first node that is not complete
            begin = start - missing
            try:
                before = self.nodes(level, begin, start) if level else self.hashes(begin, start)
            except StoreError:
                return found
            if len(before) < missing:
                return found
            row = np.concatenate([before, row])
            row = subtree_roots(row[: len(row) // WIDTH * WIDTH], self._hasher)
            start, level = begin // WIDTH, level + 1
            found += ((level, start + i, node.tobytes()) for i, node in enumerate(row))
        return found

    def _first_of_tail(self, end: int) -> tuple[list[Segment], bool]:
        """Return what the tail begins with, and whether that is all of it before `end`."""
        begin = self._tail.begin()
        if begin is None:
            return [], True
        pieces: list[Segment] = []
        blocks = size = 0
        for piece in self._tail.scan(begin, end):
            pieces.append(piece)
            blocks, size = blocks + len(piece), size + len(piece.data)
            if blocks > OVERGROWN * SEAL_BLOCKS or size > OVERGROWN * SEAL_BYTES:
                break
        return pieces, not pieces or pieces[-1].stop >= end

    def _write(self, segment: Segment, *, with_ids: bool) -> Sealed:
        """Write `segment` to a file, durable under its name."""
        self._folder.mkdir(exist_ok=True)
        if not any(self._folder.iterdir()):  # it is new, or a crash came before the next line
            keep_access(self.directory, self._folder)
        sync(self.directory)  # always: a crash may have come before this line, too
        temporary = self._folder / HIDDEN_NAME
        temporary.unlink(missing_ok=True)  # left by a crash
        try:
            sealed = flat.write(temporary, segment, self._hasher, with_ids=with_ids)
            keep_access(self.directory / FILE_NAME, temporary)
            self._require_unrecorded(sealed)
            temporary.rename(self._folder / sealed.name)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync(self._folder)
        return sealed

    def _require_unrecorded(self, sealed: Sealed) -> None:
        """Make sure that no file of this name is, or can come to be, recorded.

        If one is there, a commit that would record it may have failed, and yet lie in the log.
        """
        if (self._folder / sealed.name).exists():
            self._database.overwrite_log()
            if any(file.stop > sealed.first for file in self._tail.sealed(sealed.first)):
                raise StoreError(f"block {sealed.first} is sealed already")


def _file_of(files: Sequence[Sealed], position: int) -> Sealed | None:
    """Return which of `files` holds a block, or None."""
    number = bisect_right(files, position, key=lambda sealed: sealed.first)
    return files[number - 1] if number > 0 and position < files[number - 1].stop else None


def _up_to(segment: Segment, stop: int) -> list[Segment]:
    """Return the blocks of `segment` before position `stop`: all, some or none."""
    return [before(segment, stop)] if stop > segment.start else []
