"""Blocks as they are shown: the facts of the JSON view, and data that can be read."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from cairn.core.block import Block
from cairn.core.errors import CairnError
from cairn.explorer.shown import plain, readable
from cairn.ledger import Ledger

SALTS_SHOWN: Final = 100
"""Salts of a batch that are in its page, at most; the JSON has them all."""


@dataclass(frozen=True, slots=True)
class ShownBlock:
    """One block, as much of it as a page shows."""

    facts: dict[str, Any]
    """The members of the JSON view but `data`, under the same names and written the same."""
    data: str
    """Canonical JSON, but for escapes; or the beginning of it."""
    whole: bool
    """Whether it is all of it."""
    erased: bool
    is_batch: bool
    kind: int
    """The number of the kind."""

    @classmethod
    def of(cls, block: Block, limit: int, *, on_lines: bool = False) -> ShownBlock:
        """Show a block, and so many characters of its data, or a few more; if so, on many lines."""
        text, cut = _beginning(block, limit)
        data, whole = (
            readable(text, limit) if on_lines else (plain(text[:limit]), len(text) <= limit)
        )
        return cls(
            facts=block.facts(),
            data=data,
            whole=whole and not cut,
            erased=block.erased,
            is_batch=block.is_batch,
            kind=block.header.kind,
        )

    @property
    def index(self) -> int:
        """What its header says; where it is stored is for whoever has read it."""
        index: int = self.facts["index"]
        return index

    @property
    def salts(self) -> list[str]:
        """Hex, one an entry; none where they are erased."""
        salt = self.facts["salt"]
        if salt is None:
            return []
        return salt if isinstance(salt, list) else [salt]


class Card(NamedTuple):
    """A place of the chain, and what is there."""

    place: int
    block: ShownBlock | None
    why: str
    """Why it cannot be read, if it cannot: a sentence."""
    final: bool
    """Whether it can no longer change."""
    state: str = ""
    """What it is marked as: bad, or follows, after one that is bad."""
    note: str = ""
    """What is to be said of it: a sentence."""
    gone: bool = False
    """Whether a block was there, and was cut off."""

    @property
    def key(self) -> str:
        """What is another one when anything else is shown."""
        return blake2b(repr(self).encode(errors="replace"), digest_size=8).hexdigest()

    @classmethod
    def read(cls, ledger: Ledger, place: int, limit: int, final: int) -> Card:
        """Read what is there, and so many characters of its data; `final` blocks are final."""
        try:
            return cls(place, ShownBlock.of(ledger[place], limit), "", place < final)
        except CairnError as error:
            return cls(place, None, f"{error}.", place < final)


def _beginning(block: Block, limit: int) -> tuple[str, bool]:
    """Return the JSON of the data, and whether it was cut: no more is decoded than is shown.

    4 bytes are enough for a character.
    """
    most = 4 * limit
    if block.header.size <= most or not block.entries:
        return _text(block.data_json()), False
    if not block.is_batch:
        return _text(block.entries[0].canonical[:most]), True
    size, texts = 0, []
    for entry in block.entries:
        texts.append(entry.canonical[: most - size])
        size += len(texts[-1]) + 1
        if size >= most:
            break
    return "[" + _text(b",".join(texts)), True


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def short(digits: str) -> str:
    """Return the beginning of a hash: enough to tell it from others by eye, and no more."""
    return f"{digits[:12]}…"
