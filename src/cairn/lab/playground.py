"""The lab's playground: change the history of a ledger while it is served, and undo that again.

What is changed lies on the disk, behind the back of the ledger that has it open. So is what an
attacker does who has the machine, and not the keys that have signed what was there before.

What changes one block is undone in place, whatever was appended meanwhile: that follows a hash
that is recorded elsewhere, too, and stays good. Before all else a copy is kept beside the ledger:
what is appended then follows what the act has made, and goes with it.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from cairn.core.block import Block
from cairn.core.canonical import parse
from cairn.core.errors import CairnError, DamagedError, NoSuchBlockError, UsageError
from cairn.lab.attacks import Fork, show_two_histories
from cairn.lab.tampering import Forgery, Stored, changing, made_up, rechain
from cairn.ledger import Ledger
from cairn.store.directory import FILE_NAME, SEGMENTS_NAME

MOST_REWRITTEN: Final = 10_000
"""Blocks that one act makes anew or cuts off, at most: as many as take a second."""
RANDOM_TRIES: Final = 100
"""Blocks that are tried: of what was cut off, one may be chosen."""
MOST_ACTS: Final = 1000
"""Acts that can be undone."""
MOST_COPIES: Final = 20
"""Of them, those for which a copy is kept, of some 20 MB each."""
MOST_BYTES: Final = 2**26
"""Bytes of blocks that are kept in memory to put them back; with one block more, at most."""
MOST_SAID: Final = 4000
"""Bytes of what a block has recorded that are kept to be shown: the beginning."""


class Act(StrEnum):
    """What can be done to a chain."""

    EDIT = "edit"
    """Other data, and nothing agrees with it."""
    REHASH = "rehash"
    """Other data, and the block agrees with itself."""
    RECHAIN = "rechain"
    """Other data, and all blocks after it agree with it, and the record of the end."""
    CUT = "cut"
    """No more blocks, and the record of the end says that they were there."""
    TRUNCATE = "truncate"
    """No more blocks, and no record of them."""


IN_PLACE: Final = frozenset({Act.EDIT, Act.REHASH})
"""They change one block where it lies."""
CUTS: Final = frozenset({Act.CUT, Act.TRUNCATE})
"""They leave less blocks."""


@dataclass(frozen=True, eq=False)
class Done:
    """An act, as it was done. No two are equal."""

    act: Act
    index: int
    """The first block that was changed, or cut off."""
    length: int
    """Blocks of the ledger before."""
    said: bytes
    """The beginning of what that block had recorded, as JSON; nothing where it cannot be read."""

    @property
    def changed(self) -> int:
        """Blocks that were changed or cut off."""
        return 1 if self.act in IN_PLACE else self.length - self.index

    @property
    def replaced_from(self) -> int | None:
        """From which position on other blocks follow since, or none; None if it was one in place.

        The same holds when it is undone.
        """
        return None if self.act in IN_PLACE else self.index


class _Undo(NamedTuple):
    """How an act is undone."""

    done: Done
    put_back: Callable[[], None]
    kept: int
    """Bytes in memory that it takes."""


class Playground:
    """What a lab lets people do to a ledger. For one thread at a time, but all else goes on."""

    def __init__(self, ledger: Ledger, directory: Path) -> None:
        """Change the ledger in `directory`, which is `ledger`, open to write.

        What is needed to undo it is kept beside the directory.
        """
        self._ledger = ledger
        self._directory = directory
        self._aside = directory.with_name(f"{directory.name}-before")
        self._undo: list[_Undo] = []

    @property
    def done(self) -> list[Done]:
        """What was done and not undone, in order."""
        return [one.done for one in self._undo]

    def edit(self, index: int, text: bytes, *, rehash: bool = False) -> Done:
        """Let block `index` record the value of a JSON text; with `rehash`, as if it always had.

        Of a batch, it is the list of its values.

        Raises:
            EntryError: that is not acceptable JSON.
            NoSuchBlockError: there is no such block.
            UsageError: that is what it records; the batch has another number of values; or
                `rehash`, on a work ledger.
        """
        if rehash:
            self._require_instant("a block with another hash has to be mined anew")
        texts = self._texts(index, text)
        return self._edit(Act.REHASH if rehash else Act.EDIT, index, texts)

    def edit_at_random(self, choose: random.Random) -> Done:
        """Let a block that is chosen at random record something else.

        Raises:
            DamagedError, NoSuchBlockError: what is chosen was cut off, time and again.
        """
        for tries_left in reversed(range(RANDOM_TRIES)):
            try:
                return self._edit(Act.EDIT, *made_up(self._ledger, choose))
            except (DamagedError, NoSuchBlockError):
                if not tries_left:
                    raise
        raise AssertionError

    def rechain(self, index: int, text: bytes) -> Done:
        """Let block `index` record the value of a JSON text, and all blocks after it follow that.

        Raises:
            EntryError, NoSuchBlockError: as for `edit`.
            UsageError: also where more than `MOST_REWRITTEN` blocks follow.
        """
        self._require_instant("each block that is made anew has to be mined anew")
        texts = self._texts(index, text)
        self._require_few(index, "would have to be made anew")
        with self._acting(Act.RECHAIN, index) as stored:
            blocks = [Forgery.of(block) for block in self._ledger[index:]]
            blocks[0].record(texts)
            rechain(blocks, after=stored.block(index - 1) if index else None)
            stored.follow(index, blocks)
            stored.cover_tracks(index)
        return self._undo[-1].done

    def truncate(self, length: int, *, cover_tracks: bool) -> Done:
        """Leave so many blocks; with `cover_tracks`, no record says that there were more.

        Raises:
            NoSuchBlockError: there are no more than that.
            UsageError: nothing would be left, or more than `MOST_REWRITTEN` would go; or it is a
                work ledger.
        """
        self._require_instant("its node goes by what it remembers of the chain, and by its peers")
        if length == 0:
            raise UsageError("block 0 stays: it says what ledger this is")
        self._require_there(length)
        self._require_few(length, "would be cut off")
        with self._acting(Act.TRUNCATE if cover_tracks else Act.CUT, length) as stored:
            stored.follow(length, [])
            if cover_tracks:
                stored.cover_tracks(length)
        return self._undo[-1].done

    def fork(self) -> Fork:
        """Show two people two histories that are both signed, of copies. Nothing is changed here.

        Raises:
            InvalidChainError: the chain is broken, so that nothing can follow it.
            UsageError: it is a work ledger.
        """
        self._require_instant("who makes two histories has to mine both")
        folder = self._aside / "fork"
        shutil.rmtree(folder, ignore_errors=True)
        self._ledger.notary.key()  # which is made on first use

        def copy_to(target: Path) -> None:
            with self._ledger.tampering():
                _copy(self._directory, target)

        try:
            return show_two_histories(copy_to, self._ledger.keyring, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def undo(self) -> Done:
        """Undo the last act, to the byte; return it.

        Raises:
            UsageError: there is none.
        """
        if not self._undo:
            raise UsageError("nothing was done that could be undone")
        last = self._undo[-1]
        with self._ledger.tampering():
            last.put_back()
        self._undo.pop()
        return last.done

    def _edit(self, act: Act, index: int, texts: Sequence[bytes]) -> Done:
        with self._acting(act, index) as stored:
            block = stored.block(index)
            block.record(texts)
            if act == Act.REHASH:
                block.rehash()
            stored.put(index, block)
        return self._undo[-1].done

    def _texts(self, index: int, text: bytes) -> list[bytes]:
        """Return the canonical JSON of each value that a block is to record."""
        encoder, block = self._ledger.encoder, self._block(index)
        self._require_there(index)
        if block is None:
            raise NoSuchBlockError(f"block {index} cannot be read, or was cut off")
        texts = [encoder.text(text)]
        if block.is_batch:
            values = parse(texts[0])
            if not isinstance(values, list):
                raise UsageError(f"block {index} is a batch: its data is a JSON list of its values")
            texts = [encoder.value(value) for value in values]
        if texts and texts == [entry.canonical for entry in block.entries]:
            raise UsageError(f"block {index} says that already: change something")
        return texts

    def _require_instant(self, why: str) -> None:
        if self._ledger.is_mined:
            raise UsageError(f"that is for instant ledgers, and this is a work ledger: {why}")

    def _require_there(self, index: int) -> None:
        length = len(self._ledger)
        if not 0 <= index < length:
            raise NoSuchBlockError(f"there is no block {index}: the last is {length - 1}")

    def _require_few(self, index: int, what: str) -> None:
        if len(self._ledger) - index > MOST_REWRITTEN:
            raise UsageError(
                f"{len(self._ledger) - index:,} blocks {what}; this lab does that with "
                f"{MOST_REWRITTEN:,} at most: choose a block nearer to the end"
            )

    def _block(self, index: int) -> Block | None:
        with suppress(CairnError):
            return self._ledger[index] if index >= 0 else None
        return None

    @contextmanager
    def _acting(self, act: Act, index: int) -> Iterator[Stored]:
        """Yield what is stored, to be changed; see to it that it can be undone."""
        length = len(self._ledger)
        is_in_place = act in IN_PLACE
        copies = sum(done.act not in IN_PLACE for done in self.done)
        is_too_much = len(self._undo) >= MOST_ACTS or (
            sum(one.kept for one in self._undo) >= MOST_BYTES
            if is_in_place
            else copies >= MOST_COPIES
        )
        if is_too_much:
            raise UsageError("so much was done here that more could not be undone: undo some of it")
        before = self._block(index)
        said = before.data_json()[:MOST_SAID] if before else b""
        kept = before.header.size if before and is_in_place else 0
        with self._ledger.tampering():
            put_back = self._put_back(index) if is_in_place else self._restore()
            try:
                with changing(self._directory) as stored:
                    yield stored
            except BaseException:
                put_back()
                raise
        self._undo.append(_Undo(Done(act, index, length, said), put_back, kept))

    def _put_back(self, index: int) -> Callable[[], None]:
        """Return what stores a block again as it is now, wherever it lies then."""
        with changing(self._directory) as stored:
            kept = stored.block(index)

        def put_back() -> None:
            with suppress(NoSuchBlockError), changing(self._directory) as stored:
                # On a work ledger, another block may have come to its place.
                if not self._ledger.is_mined or stored.block(index).hash == kept.hash:
                    stored.put(index, kept)

        return put_back

    def _restore(self) -> Callable[[], None]:
        """Return what makes all that is stored what it is now, of a copy that is made of it."""
        copy = self._aside / str(len(self._undo))
        shutil.rmtree(copy, ignore_errors=True)
        _copy(self._directory, copy)

        def restore() -> None:
            _copy(copy, self._directory)
            shutil.rmtree(copy)

        return restore


def _copy(source: Path, target: Path) -> None:
    """Let `target` store what `source` does. Requires that nobody writes to either.

    Files are shared, as nothing changes one: not even an attack, which puts another in its place.
    """
    wanted = {path.name: path for path in (source / SEGMENTS_NAME).glob("*")}
    folder = target / SEGMENTS_NAME
    target.mkdir(parents=True, exist_ok=True)
    if wanted:
        folder.mkdir(exist_ok=True)
    for name, path in wanted.items():
        _share(path, folder / name)
    with (
        closing(sqlite3.connect(source / FILE_NAME)) as whole,
        closing(sqlite3.connect(target / FILE_NAME)) as copy,
    ):
        copy.execute("PRAGMA synchronous = OFF")
        whole.backup(copy)
    for path in folder.glob("*"):
        if path.name not in wanted:
            path.unlink()


def _share(path: Path, target: Path) -> None:
    """Let `target` be the file at `path`; or a copy, where the file system cannot share."""
    if target.exists() and target.samefile(path):
        return
    hidden = target.with_suffix(".forged")
    hidden.unlink(missing_ok=True)
    try:
        os.link(path, hidden)
    except OSError:
        shutil.copyfile(path, hidden)
    hidden.replace(target)
