"""Each flaw of the teaching example that Cairn grew out of, shown to be gone.

The flaws of its REST API are tested where the HTTP service is.
"""

from __future__ import annotations

import math
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cairn import EntryError, Ledger
from cairn.core.canonical import canonical
from cairn.core.entry import Entry
from cairn.core.header import Header, Kind
from cairn.lab.tampering import Forgery, forging, rechain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(["one", {"two": 2}, "three"])
    return tmp_path / "ledger"


def failure(path: Path) -> tuple[int, str] | None:
    """Return block and rule of the first failure."""
    with Ledger.open(path, read_only=True) as ledger:
        found = ledger.validate().failure
    return None if found is None else (found.index, found.rule)


def tamper(
    path: Path, change: Callable[[list[Forgery]], object], *, cover_tracks: bool = False
) -> tuple[int, str] | None:
    with forging(path, cover_tracks=cover_tracks) as blocks:
        change(blocks)
    return failure(path)


def test_genesis_is_validated(path: Path) -> None:
    def edit(blocks: list[Forgery]) -> None:
        blocks[0].entries[0] = blocks[0].entries[0].replace(b"ledger", b"forged")

    assert tamper(path, edit) == (0, "data_root")


def test_a_thousand_tampers_on_a_two_block_ledger_are_a_thousand_caught(tmp_path: Path) -> None:
    """Half of them passed: those that hit genesis."""
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.append({"amount": 10})
    generator = random.Random(1)
    with Ledger.open(path, read_only=True) as ledger:
        with forging(path, cover_tracks=True) as blocks:
            original = [Forgery(b.header, b.hash, [*b.entries]) for b in blocks]
        for _ in range(1000):
            with forging(path, cover_tracks=True) as blocks:
                blocks[:] = [Forgery(b.header, b.hash, [*b.entries]) for b in original]
                block = generator.choice(blocks)
                entry = bytearray(block.entries[0])
                entry[generator.randrange(len(entry))] ^= 1 << generator.randrange(8)
                block.entries[0] = bytes(entry)
            report = ledger.validate()
            assert report.failure is not None
            assert report.failure.index == blocks.index(block)
        with forging(path, cover_tracks=True) as blocks:
            blocks[:] = original
        assert ledger.validate().valid


def test_the_stored_index_is_compared(path: Path) -> None:
    assert tamper(path, lambda blocks: blocks[2].change(index=7)) == (2, "index")


def test_the_stored_previous_hash_is_compared(path: Path) -> None:
    assert tamper(path, lambda blocks: blocks[2].change(previous_hash=bytes(32))) == (2, "link")


def test_an_edited_and_rehashed_last_block_is_caught(path: Path) -> None:
    def edit(blocks: list[Forgery]) -> None:
        blocks[-1].entries[0] = blocks[-1].entries[0].replace(b"three", b"seven")
        blocks[-1].rehash()

    assert tamper(path, edit) == (3, "head")


def test_a_rewritten_and_rechained_history_has_another_head(path: Path) -> None:
    """It agrees with itself; what it cannot have is the head that was recorded or noted."""
    with Ledger.open(path, read_only=True) as ledger:
        noted = ledger.head.hash

    def rewrite(blocks: list[Forgery]) -> None:
        blocks[1].entries[0] = blocks[1].entries[0].replace(b"one", b"two")
        rechain(blocks)

    assert tamper(path, rewrite) == (3, "head")
    assert tamper(path, rewrite, cover_tracks=True) is None
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.head.hash != noted


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_truncated_chain_is_caught_by_the_recorded_head(path: Path, left: int) -> None:
    assert tamper(path, lambda blocks: blocks.__delitem__(slice(left, None))) == (left, "head")


def test_python_without_asserts_finds_the_same(path: Path) -> None:
    """Validation by `assert` makes everything valid under `python -O`."""
    tamper(path, lambda blocks: blocks[2].change(nonce=1))
    command = [sys.executable, "-O", "-m", "cairn", "validate", "--ledger", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "block 2 breaks rule 'hash'" in result.stdout


def test_fields_cannot_run_into_one_another() -> None:
    """Concatenated without lengths, index 1 at 23 and index 12 at 3 were one block."""

    def header(index: int, timestamp: int) -> Header:
        return Header(
            kind=Kind.VALUE,
            index=index,
            previous_hash=bytes(32),
            timestamp=timestamp,
            count=1,
            size=17,
            data_root=bytes(32),
        )

    assert header(1, 23).hash != header(12, 3).hash
    assert Entry(b"\x00" * 16, b"12").id != Entry(b"\x00" * 15 + b"1", b"2").id


def test_a_number_is_not_its_string_and_key_order_does_not_matter() -> None:
    """`repr` of Python values was hashed."""
    assert canonical(1) != canonical("1")
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical(True) != canonical(1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_is_refused_before_the_append_and_every_read_works(path: Path, value: float) -> None:
    with Ledger.open(path) as ledger:
        with pytest.raises(EntryError):
            ledger.append({"reading": value})
        assert [block.data for block in ledger][1:] == ["one", {"two": 2}, "three"]


def test_deep_nesting_is_refused_before_the_append_and_every_read_works(path: Path) -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with Ledger.open(path) as ledger:
        with pytest.raises(EntryError, match="nested too deeply"):
            ledger.append(deep)
        with pytest.raises(EntryError, match="nested too deeply"):
            ledger.append_json("[" * 100_000 + "]" * 100_000)
        assert [block.to_json() for block in ledger]
    while deep:  # taken apart by hand: the interpreter would recurse
        deep = deep[0]  # type: ignore[assignment]


def test_an_entry_has_a_bounded_size(path: Path) -> None:
    with Ledger.open(path) as ledger:
        with pytest.raises(EntryError, match="past the limit"):
            ledger.append("x" * 2**24)
        assert len(ledger) == 4


def test_genesis_is_the_same_at_every_start(path: Path) -> None:
    ids = set()
    for _ in range(3):
        with Ledger.open(path) as ledger:
            ids.add(ledger.id)
    assert len(ids) == 1


def test_races_do_not_give_duplicate_indexes(path: Path) -> None:
    indexes: list[int] = []
    with Ledger.open(path) as ledger:

        def work() -> None:
            indexes.extend(ledger.append("race").index for _ in range(50))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(indexes) == list(range(4, 404))
    assert failure(path) is None


def test_a_retry_does_not_write_twice(path: Path) -> None:
    with Ledger.open(path) as ledger:
        assert ledger.append("pay", key="k") == ledger.append("pay", key="k")
        assert len(ledger) == 5


def test_everything_survives_a_restart(path: Path) -> None:
    with Ledger.open(path, read_only=True) as ledger:
        assert [block.data for block in ledger][1:] == ["one", {"two": 2}, "three"]
        assert ledger.validate().valid
