"""What a disk may hold after a power loss, from the trace of what was done to it (see shim.c).

Only what was synced is sure: the bytes of a file by a sync of the file, a name by a sync of its
directory. Of all else anything may be there: writes torn at sectors, in any order; names in any
order, too, but those of one directory in their own order when a rename is among them.

When a sync fails, the kernel forgets that the pages were to be written, so a later sync of the same
file does not save them: only writing to a page again does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Final

from tests.faults.shim import Operation, Record

SECTOR: Final = 512
PAGE: Final = 4096


@dataclass
class Change:
    """Bytes written at `offset`, or the file cut off there."""

    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        missing = self.offset - len(content)
        content.extend(bytes(max(missing, 0)))
        if self.data is None:
            del content[self.offset :]
        else:
            content[self.offset : self.offset + len(self.data)] = self.data

    def torn(self, choose: random.Random) -> list[Change]:
        """Return what may have reached the disk of this."""
        fate = choose.random()
        if fate < 0.3 or self.data is None:
            return [self] if fate < 0.5 else []
        if fate < 0.6:
            return []
        end = self.offset + len(self.data)
        cuts = range(self.offset - self.offset % SECTOR, end, SECTOR)
        pieces = []
        for cut in cuts:
            start, stop = max(cut, self.offset), min(cut + SECTOR, end)
            if choose.random() < 0.5:
                data = self.data[start - self.offset : stop - self.offset]
                pieces.append(Change(start, data))
        return pieces


@dataclass
class File:
    durable: bytearray = field(default_factory=bytearray)
    seen: bytearray = field(default_factory=bytearray)
    """What programs read: all that was written."""
    pending: list[Change] = field(default_factory=list)
    is_doubtful: bool = False
    """A sync has failed."""

    def change(self, change: Change) -> None:
        change.apply(self.seen)
        if self.is_doubtful and change.data is not None:
            start = change.offset - change.offset % PAGE
            stop = -(-(change.offset + len(change.data)) // PAGE) * PAGE
            change = Change(start, bytes(self.seen[start:stop]))
        self.pending.append(change)

    def sync(self) -> None:
        for change in self.pending:
            change.apply(self.durable)
        self.pending = []

    def fail_sync(self) -> None:
        self.pending = []
        self.is_doubtful = True

    def put(self, path: Path, choose: random.Random | None) -> None:
        content = bytearray(self.durable)
        for change in self.pending if choose else ():
            for piece in change.torn(choose) if choose else ():
                piece.apply(content)
        path.write_bytes(content)


@dataclass(eq=False)
class NameChange:
    """Names that go, and one that comes."""

    gone: str | None
    new: str | None
    node: File | Directory | None
    is_half: bool = False
    """Of a rename between two directories."""
    other: tuple[Directory, NameChange] | None = None
    """Where the name comes that goes here: never to be in neither."""

    @property
    def is_rename(self) -> bool:
        return self.is_half or bool(self.gone and self.new)

    @property
    def may_be_durable(self) -> bool:
        return self.other is None or self.other[1] not in self.other[0].pending

    def apply(self, names: dict[str, File | Directory]) -> None:
        if self.gone is not None:
            names.pop(self.gone, None)
        if self.new is not None and self.node is not None:
            names[self.new] = self.node


@dataclass
class Directory:
    durable: dict[str, File | Directory] = field(default_factory=dict)
    pending: list[NameChange] = field(default_factory=list)

    def sync(self) -> None:
        self.sync_to(len(self.pending))

    def sync_to(self, end: int) -> None:
        changes, self.pending = self.pending[:end], self.pending[end:]
        for change in changes:
            if change.other is not None and not change.may_be_durable:
                directory, coming = change.other
                directory.sync_to(directory.pending.index(coming) + 1)
            change.apply(self.durable)

    def fail_sync(self) -> None:
        pass

    def put(self, path: Path, choose: random.Random | None) -> None:
        path.mkdir()
        names = dict(self.durable)
        for change in self._surviving(choose) if choose else ():
            change.apply(names)
        for name, node in names.items():
            node.put(path / name, choose)

    def _surviving(self, choose: random.Random) -> list[NameChange]:
        if any(change.is_rename for change in self.pending):
            kept = list(takewhile(lambda change: change.may_be_durable, self.pending))
            return kept[: choose.randint(0, len(kept))]
        kept = []
        lost: set[str | None] = set()
        for change in self.pending:
            name = change.gone or change.new
            if name in lost or choose.random() < 0.5:
                lost.add(name)
            else:
                kept.append(change)
        return kept


class Disk:
    """The directory that was watched, while the records of a trace are applied one by one."""

    def __init__(self, root: Path) -> None:
        self.root = Directory()
        self._nodes: dict[int, File | Directory] = {root.stat().st_ino: self.root}

    def apply(self, record: Record) -> None:
        match record.operation:
            case Operation.CREATE:
                node = Directory() if record.offset else File()
                self._nodes[record.inode] = node
                self._directory(record.parent).pending.append(NameChange(None, record.name, node))
            case Operation.WRITE:
                self._file(record.inode).change(Change(record.offset, record.data))
            case Operation.TRUNCATE:
                self._file(record.inode).change(Change(record.offset, None))
            case Operation.SYNC:
                self._nodes[record.inode].sync()
            case Operation.FAILED_SYNC:
                self._nodes[record.inode].fail_sync()
            case Operation.RENAME:
                self._rename(record)
            case Operation.UNLINK:
                self._directory(record.parent).pending.append(NameChange(record.name, None, None))
            case Operation.MARK:
                pass

    def put(self, target: Path, choose: random.Random | None = None) -> None:
        """Make `target` what is left of the directory: only what is sure, or more by chance."""
        self.root.put(target, choose)

    def _rename(self, record: Record) -> None:
        """Between two directories, each has its half on the disk only when it is synced itself.

        The old name does not go before the new one has come: file systems promise that much.
        """
        gone, new, node = record.name, record.data.decode(), self._nodes[record.inode]
        if record.parent == record.new_parent:
            self._directory(record.parent).pending.append(NameChange(gone, new, node))
        else:
            source, target = self._directory(record.parent), self._directory(record.new_parent)
            coming = NameChange(None, new, node, is_half=True)
            going = NameChange(gone, None, None, is_half=True, other=(target, coming))
            source.pending.append(going)
            target.pending.append(coming)

    def _file(self, inode: int) -> File:
        node = self._nodes[inode]
        assert isinstance(node, File)
        return node

    def _directory(self, inode: int) -> Directory:
        node = self._nodes[inode]
        assert isinstance(node, Directory)
        return node
