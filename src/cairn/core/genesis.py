"""Genesis: block 0, the record that fixes a ledger's rules. Its hash is the network's id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from cairn.core.block import Block
from cairn.core.canonical import DEFAULT_DEPTH, canonical, parse
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.errors import EntryError, FormatError
from cairn.core.header import FORMAT_VERSION, NO_HASH, Kind
from cairn.core.work import MAX_BITS, Asert, is_target, target_of

MAX_DEPTH: Final = 256
"""Containers inside one another that any Python stack can take."""
MAX_U32: Final = 2**32 - 1
MAX_MINED_SIZE: Final = 16 * 2**20
"""Bytes of a block's entries on a ledger of work: nodes send blocks whole, and hold some."""

MIN_INTERVAL: Final = 1_000
"""µs. Blocks that come faster than they cross a network are made for nothing."""
MAX_INTERVAL: Final = 24 * 3_600 * 1_000_000
"""µs: a day."""
MAX_HALF_LIFE: Final = 2**46
"""µs: two years, and what `Asert` can take."""
MAX_FINAL_DEPTH: Final = 2**20
"""Blocks: as many may be taken off at once, and wait in the tail until they are final."""

_INSTANT: Final = {"kind": "instant"}
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
class Work:
    """The seal of a ledger whose blocks are mined, and become final by those that follow them."""

    interval: int
    """µs between blocks that the targets aim at."""
    half_life: int
    """µs that the chain is behind its schedule when the target has doubled; see `Asert`."""
    final_depth: int
    """Blocks that must follow a block until it can no longer change."""

    def __post_init__(self) -> None:
        _require_range("seal.interval", self.interval, MIN_INTERVAL, MAX_INTERVAL)
        _require_range("seal.half_life", self.half_life, self.interval, MAX_HALF_LIFE)
        _require_range("seal.final_depth", self.final_depth, 1, MAX_FINAL_DEPTH)

    def to_value(self) -> dict[str, Any]:
        """Return the JSON object `seal` of a genesis."""
        return {"kind": "work"} | {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_value(cls, value: object) -> Work:
        """Read the `seal` object of a genesis.

        Raises:
            FormatError: not exactly the members of this seal, or one is out of range.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(value, Mapping) or set(value) != {"kind", *names}:
            raise FormatError(f"seal {value!r} is not known to this version of Cairn")
        if value["kind"] != "work":
            raise FormatError(f"seal {value!r} is not known to this version of Cairn")
        return cls(**{name: value[name] for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """A ledger's rules, on which two nodes agree exactly when they agree on genesis."""

    name: str = "ledger"
    """For people; 1 to 255 characters."""
    message: str = ""
    """For people."""
    limits: Limits = Limits()
    seal: Work | None = None
    """None: instant, a block is final when it is written."""

    def __post_init__(self) -> None:
        if not 1 <= len(_require_str("name", self.name)) <= 255:
            raise FormatError(f"name is a string of 1 to 255 characters, found {self.name!r}")
        _require_str("message", self.message)
        if self.seal is not None:
            _require_range("limits.size of a ledger of work", self.limits.size, 1, MAX_MINED_SIZE)

    def to_value(self) -> dict[str, Any]:
        """Return the JSON object that the genesis block records."""
        return {
            "format": FORMAT_VERSION,
            "name": self.name,
            "seal": self.seal.to_value() if self.seal else _INSTANT,
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
        return cls(
            name=value["name"],
            message=value["message"],
            limits=Limits.from_value(value["limits"]),
            seal=None if value["seal"] == _INSTANT else Work.from_value(value["seal"]),
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

    def block(self, *, timestamp: int, salt: bytes, bits: int = 0) -> Block:
        """Return block 0 of a new ledger.

        `timestamp` is in µs since the Unix epoch; `salt` has 16 bytes, and makes the id of each
        ledger its own even when name and message are equal. `bits` are the target of the first
        blocks of a ledger of work, and 0 on others.

        Raises:
            FormatError: it does not fit the limit that it sets, or `bits` do not go with the seal.
        """
        entry = Entry(salt, canonical(self.to_value()))
        if (size := len(entry.to_bytes())) > self.limits.size:
            raise FormatError(f"a genesis of {size} bytes does not fit its own limit")
        if not (is_first_target(bits) if self.seal else bits == 0):
            raise FormatError(f"bits {bits:08x} do not go with the seal")
        block = Block.of(Kind.RECORD, entry, index=0, previous_hash=NO_HASH, timestamp=timestamp)
        header = replace(block.header, bits=bits)
        return replace(block, header=header, stored_hash=header.hash)


def is_first_target(bits: int) -> bool:
    """Whether `bits` may be those of the genesis of a ledger of work."""
    return is_target(bits) and target_of(bits) <= target_of(MAX_BITS)


@dataclass(frozen=True, slots=True)
class Terms:
    """What genesis fixes for all blocks after it. The defaults are for one that is unreadable."""

    limits: Limits = Limits()
    asert: Asert | None = None
    """What targets blocks must meet; None: no work is asked for."""
    final_depth: int = 0
    """Blocks that must follow a block until it is final; 0 where the seal is instant."""

    @classmethod
    def of(cls, block: Block) -> Terms:
        """Read what a genesis block fixes. Bits that are no target count as `MAX_BITS`.

        Raises:
            FormatError: not a genesis, or its JSON is not canonical.
        """
        genesis = Genesis.of(block)
        seal, header = genesis.seal, block.header
        if seal is None:
            return cls(genesis.limits)
        bits = header.bits if is_first_target(header.bits) else MAX_BITS
        asert = Asert(bits, header.timestamp - seal.interval, seal.interval, seal.half_life)
        return cls(genesis.limits, asert, seal.final_depth)
