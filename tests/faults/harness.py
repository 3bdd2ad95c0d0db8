"""What the fault tests share: numbered values, and what must hold of a ledger of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from cairn import Block, Ledger
from cairn.store.directory import FILE_NAME, LOCK_NAME, SEGMENTS_NAME, occupied
from tests.faults import mining

ROOT: Final = Path(__file__).parents[2]
ALLOWED: Final = frozenset({"StoreError", "OSError"})
"""Errors that may come of a failing disk; OutcomeUnknownError is a StoreError."""
FILES: Final = frozenset(
    {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", LOCK_NAME, SEGMENTS_NAME}
)
"""What there is in the directory of a ledger."""
LEFTOVER: Final = re.compile(r"\.cairn-\d+-[0-9a-f]{16}\.new")
"""What a creator that died leaves behind."""


class Place(NamedTuple):
    """Where an acknowledged value was recorded."""

    position: int
    hash: str


def value(number: int) -> dict[str, object]:
    """Return the value that carries `number`, of some length that depends on it."""
    return {"n": number, "text": "x" * (number * 7919 % 600)}


def key(number: int) -> str:
    return f"key {number}"


def place(block: Block) -> Place:
    return Place(block.index, block.hash)


def numbers(ledger: Ledger) -> dict[int, Place]:
    """Return where each number is, having checked that none is there twice or changed."""
    found: dict[int, Place] = {}
    for index, block in enumerate(ledger):
        assert block.index == index, f"block {block.index} at position {index}"
        if index > 0 and not is_of_erasing(block):
            data = block.data
            number = data["n"]
            assert number not in found, f"{number} is at {found[number]} and at {index}"
            assert data == value(number), f"{number} was recorded as {data}"
            found[number] = place(block)
    return found


def is_of_erasing(block: Block) -> bool:
    """Whether it was erased, or records that of another."""
    return block.erased or block.kind == "record"


def require_no_trace(path: Path, salt: str, *, is_open: bool = False) -> None:
    """Check that no file of the ledger holds an entry, by its salt.

    Not the index of the log of a ledger that is open here: where the log has no whole frame,
    SQLite's recovery fills the index with memory that it has not cleared, until the next write.
    This process has read the entry; one that comes after a power loss has not.
    """
    needle = bytes.fromhex(salt)
    files = [file for file in path.rglob("*") if file.is_file()]
    if is_open:
        files = [file for file in files if not file.name.endswith("-shm")]
    holds = [file for file in files if needle in file.read_bytes()]
    assert not holds, f"what was erased is in {holds}"


def check(
    ledger: Ledger, acknowledged: Mapping[int, Place | None], tried: Container[int]
) -> dict[int, Place]:
    """Check the promise of durability; return where each number is.

    `acknowledged` says where each number was said to be, or None where nobody looked.
    """
    report = ledger.validate(all=True)
    assert report.valid, report.failures[:3]
    found = numbers(ledger)
    assert len(ledger) == len(found) + 1 + sum(map(is_of_erasing, ledger[1:]))
    for number, at in acknowledged.items():
        assert number in found, f"{number} was acknowledged at {at} and is lost"
        assert at in (None, found[number]), f"{number} was at {at} and is at {found[number]}"
    strangers = [number for number in found if number not in tried]
    assert not strangers, f"nobody recorded {strangers}"
    return found


def open_and_check(
    path: Path, acknowledged: Mapping[int, Place | None], tried: Container[int]
) -> dict[int, Place]:
    """Open the ledger to write, which recovers it, and check it; then that it goes on."""
    with Ledger.open(path) as ledger:
        found = check(ledger, acknowledged, tried)
        last = ledger.head
        assert ledger.append("goes on").header.previous_hash == bytes.fromhex(last.hash)
        assert ledger.validate().valid
    return found


@dataclass
class Said:
    """What a process of `scenarios` said until some moment."""

    acknowledged: dict[int, Place | None] = field(default_factory=dict)
    tried: set[int] = field(default_factory=set)
    keyed: list[int] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    empty: set[str] = field(default_factory=set)
    """Directories that were there before anything was done."""
    left: set[str] = field(default_factory=set)
    """What earlier creators had left in them."""
    erasing: dict[int, str] = field(default_factory=dict)
    """Numbers that were to be erased, and the salts of their entries."""
    erased: set[int] = field(default_factory=set)
    """Those that were said to be."""
    stepped: int | None = None
    """Steps of `mining` that were said to be made; of a work ledger."""
    step: int = 0
    """The last one that was tried."""
    problems: list[str] = field(default_factory=list)

    def hear(self, words: list[Any]) -> None:
        match words:
            case ["try", number]:
                self.tried.add(number)
            case ["key", number]:
                self.keyed.append(number)
            case ["ack", number]:
                self.acknowledged.setdefault(number, None)
            case ["ack", number, index, block_hash]:
                at = Place(index, block_hash)
                if self.acknowledged.get(number) not in (None, at):
                    self.problems.append(f"{number} moved from {self.acknowledged[number]}")
                self.acknowledged[number] = at
            case ["erase", number, salt]:
                self.erasing[number] = salt
            case ["erased", number]:
                self.erased.add(number)
            case ["step", steps]:
                self.step = steps
            case ["stepped", steps]:
                self.step = self.stepped = steps
            case ["made", name]:
                self.made.add(name)
            case ["empty", name]:
                self.empty.add(name)
            case ["left", name]:
                self.left.add(name)
            case ["error", kinds, shown] if not ALLOWED & set(kinds):
                self.problems.append(f"this error leaked:\n{shown}")
            case ["broken", _, shown]:
                self.problems.append(f"it does not work after the fault:\n{shown}")


def judge(directory: Path, said: Said, template: Path, *, may_leave_rubbish: bool) -> None:
    """Check what is in the directory of one case against what was said."""
    present = names_in(directory) if directory.is_dir() else set()
    assert present <= {"ledger", "target"}, f"left behind: {present}"
    assert said.empty <= present, f"{said.empty - present} was there before"
    names = {
        name for name in present if is_ledger(directory / name, said, rubbish=may_leave_rubbish)
    }
    assert said.made <= names, f"{said.made - names} was made and is lost"
    assert "ledger" in names or not said.acknowledged
    for name in present - names:
        require_as_good_as_none(directory / name)
    if said.stepped is not None:
        mining.judge(directory / "ledger", said.stepped, said.step)
    elif "ledger" in names:
        for number in said.erased:
            require_no_trace(directory / "ledger", said.erasing[number])
        with Ledger.open(directory / "ledger") as ledger:
            gone = {number for number in said.erasing if ledger[number].erased}
            assert said.erased <= gone
            for number in gone:
                require_no_trace(directory / "ledger", said.erasing[number], is_open=True)
            kept = {number: at for number, at in said.acknowledged.items() if number not in gone}
            found = check(ledger, kept, said.tried)
            for number in said.keyed:
                again = place(ledger.append(value(number), key=key(number)))
                assert again == found.setdefault(number, again)
            if said.keyed:
                assert numbers(ledger) == found
                assert ledger.validate().valid
    if "target" in names:
        with (
            Ledger.open(directory / "target") as copy,
            Ledger.open(template, read_only=True) as original,
        ):
            assert copy.validate().valid
            assert list(copy) == list(original)


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def files_in(path: Path) -> set[str]:
    """Return the names in the folder of segments of a ledger."""
    return names_in(path / SEGMENTS_NAME) if (path / SEGMENTS_NAME).exists() else set()


def is_ledger(path: Path, said: Said, *, rubbish: bool) -> bool:
    """Whether there is a ledger in the directory `path`, having checked what else there is."""
    names = names_in(path)
    strange = names - FILES - said.left
    assert not strange or rubbish, f"left behind in {path.name}: {strange}"
    assert all(LEFTOVER.fullmatch(name) for name in strange), f"in {path.name} is {strange}"
    if FILE_NAME in names:
        # A creator's mark may stay where it failed after the ledger was there.
        files = {name for name in files_in(path) if not LEFTOVER.fullmatch(name)}
        left = {name for name in files if not name.endswith(".segment")}
        assert not left or rubbish, f"left behind in the segments of {path.name}: {left}"
        return True
    assert not occupied(path), f"there is a piece of a ledger: {names}"
    assert rubbish or path.name in said.empty, f"left behind: {path.name}"
    return False


def require_as_good_as_none(path: Path) -> None:
    """Check that what a failure left is in nobody's way, and goes with the next ledger there."""
    Ledger.create(path).close()
    assert names_in(path) == {FILE_NAME, LOCK_NAME}


def tune(module: ModuleType, **constants: float) -> None:
    """Make what a module does on a large scale happen on a small one."""
    assert constants.keys() <= vars(module).keys()
    vars(module).update(constants)


def start(
    module: str, *arguments: object, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a module of this package as a process, with its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.faults.{module}", *map(str, arguments)],
        cwd=ROOT,
        env=dict(environment or os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that must end well; return its output."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, f"{process.args!r} ended with {process.returncode}"
    return output
