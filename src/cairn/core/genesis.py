"""Genesis: block 0, the record that fixes a ledger's rules. Its hash is the network's id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from cairn.core.block import Block
from cairn.core.canonical import DEFAULT_DEPTH, canonical, parse
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.errors import EntryError, FormatError
from cairn.core.header import FORMAT_VERSION, NO_HASH, Kind

MAX_DEPTH: Final = 256
"""Containers inside one another that any Python stack can take."""
MAX_U32: Final = 2**32 - 1

_KEYS: Final = {"format", "limits", "message", "name", "seal"}


def _require_str(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{name} is a string, found {value!r}")
    return value


def _require_range(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise FormatError(f"{name} is an integer from {low} to {high}, found {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a block may hold; those a genesis does not name have these defaults."""

    count: int = 65_536
    """Entries in a block."""
    size: int = 16 * 2**20
    """Bytes of a block's entries, salts included: bounds what a reader must hold in memory."""
    depth: int = DEFAULT_DEPTH
    """Containers inside one another in a value; checked where values enter, not in validation."""

    def __post_init__(self) -> None:
        _require_range("limits.count", self.count, 1, MAX_U32)
        _require_range("limits.size", self.size, SALT_BYTES + 1, MAX_U32)
        _require_range("limits.depth", self.depth, 1, MAX_DEPTH)

    def to_value(self) -> dict[str, int]:
        """Return the JSON object of the limits that differ from the defaults."""
        default = Limits()
        names = [field.name for field in fields(self)]
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(default, n)}

    @classmethod
    def from_value(cls, value: object) -> Limits:
        """Read the `limits` object of a genesis.

        Raises:
            FormatError: no object, an unknown limit, or one out of range.
        """
        if not isinstance(value, Mapping):
            raise FormatError(f"limits is an object, found {value!r}")
        known = {field.name for field in fields(cls)}
        if unknown := set(value) - known:
            raise FormatError(f"unknown limit {min(unknown)!r}")
        return cls(**value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """A ledger's rules, on which two nodes agree exactly when they agree on genesis."""

    name: str = "ledger"
    """For people; 1 to 255 characters."""
    message: str = ""
    """For people."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not 1 <= len(_require_str("name", self.name)) <= 255:
            raise FormatError(f"name is a string of 1 to 255 characters, found {self.name!r}")
        _require_str("message", self.message)

    def to_value(self) -> dict[str, Any]:
        """Return the JSON object that the genesis block records."""
        return {
            "format": FORMAT_VERSION,
            "name": self.name,
            "seal": {"kind": "instant"},
            "limits": self.limits.to_value(),
            "message": self.message,
        }

    @classmethod
    def from_value(cls, value: object) -> Genesis:
        """Read the JSON object of a genesis block; nothing unknown is passed over.

        Raises:
            FormatError: not exactly the members of format 1, or one of them is wrong.
        """
        if not isinstance(value, Mapping) or set(value) != _KEYS:
            raise FormatError(f"genesis is an object with the members {sorted(_KEYS)}")
        if value["format"] is True or value["format"] != FORMAT_VERSION:
            raise FormatError(f"format {value['format']!r} is not known; this is {FORMAT_VERSION}")
        if value["seal"] != {"kind": "instant"}:
            raise FormatError(f"seal {value['seal']!r} is not known to this version of Cairn")
        return cls(
            name=value["name"],
            message=value["message"],
            limits=Limits.from_value(value["limits"]),
        )

    @classmethod
    def of(cls, block: Block) -> Genesis:
        """Read what a genesis block records.

        Raises:
            FormatError: not a genesis, or its JSON is not canonical.
        """
        if len(block.entries) != 1:
            raise FormatError(f"genesis is one entry, found {len(block.entries)}")
        text = block.entries[0].canonical
        try:
            value = parse(text)
            if canonical(value, depth=MAX_DEPTH) != text:
                raise FormatError("the JSON of genesis is not in canonical form")
        except EntryError as error:
            raise FormatError(f"the JSON of genesis is bad: {error}") from None
        return cls.from_value(value)

    def block(self, *, timestamp: int, salt: bytes) -> Block:
        """Return block 0 of a new ledger.

        `timestamp` is in µs since the Unix epoch; `salt` has 16 bytes, and makes the id of each
        ledger its own even when name and message are equal.

        Raises:
            FormatError: it does not fit the limit that it sets.
        """
        entry = Entry(salt, canonical(self.to_value()))
        if (size := len(entry.to_bytes())) > self.limits.size:
            raise FormatError(f"a genesis of {size} bytes does not fit its own limit")
        return Block.of(Kind.RECORD, entry, index=0, previous_hash=NO_HASH, timestamp=timestamp)
