"""A block, for people and APIs: header, stored hash and entries, and its JSON view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from cairn.core.canonical import canonical
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.errors import EntryError, FormatError
from cairn.core.header import HEADER_BYTES, LIMIT_63, Header, Kind
from cairn.core.merkle import HASH_BYTES

VIEW_KEYS: Final = (
    "index",
    "timestamp",
    "data",
    "previous_hash",
    "hash",
    "kind",
    "count",
    "size",
    "data_root",
    "bits",
    "nonce",
    "salt",
    "header",
)
"""The members of a block's JSON view, in order; the five facts of a block come first."""
_BARE: Final = {"index", "data", "count", "size", "salt"}
_VIEW: Final = (
    "{"
    + ", ".join(
        f'"{key}": %({key})s' if key in _BARE else f'"{key}": "%({key})s"' for key in VIEW_KEYS
    )
    + "}"
)
"""The view on one line, to be filled: in what is quoted here there is nothing to escape."""
_LABELS: Final = {int(kind): kind.label for kind in Kind}
ERASED_BYTES: Final = 16 * 2**20
"""Bytes that an erased entry in a view may have had, by default, as what is allocated for it is not
bounded by the bytes of the view. The default limit of a block."""


def is_erased(header: Header, entries: Sequence[Entry]) -> bool:
    """Whether the one entry of a value block was erased: as many zeros as it had bytes are left."""
    single = header.kind == Kind.VALUE and header.count == 1 and len(entries) == 1
    return single and entries[0].is_zeroed


@dataclass(frozen=True, repr=False)
class Block:
    """One block as it is stored, valid or not: the rules judge it, not this class.

    The facts for people come first: `index`, `timestamp`, `data`, `previous_hash`, `hash`.
    """

    header: Header
    stored_hash: bytes
    """32 bytes, as stored beside the header; `header.hash` is the computed one."""
    entries: tuple[Entry, ...]

    @classmethod
    def of(
        cls, kind: Kind, entry: Entry, *, index: int, previous_hash: bytes, timestamp: int
    ) -> Block:
        """Seal one entry, of a user or a record of the ledger, in a block.

        It links to `previous_hash` (32 bytes); `timestamp` is in µs since the Unix epoch.
        """
        size, data_root = len(entry.salt) + len(entry.canonical), entry.id
        header = Header(
            kind=kind,
            index=index,
            previous_hash=previous_hash,
            timestamp=timestamp,
            count=1,
            size=size,
            data_root=data_root,
        )
        return cls(header, header.hash, (entry,))

    @property
    def index(self) -> int:
        """Position in the chain; genesis is 0."""
        return self.header.index

    @property
    def timestamp(self) -> str:
        """RFC 3339 UTC with six decimals and `Z`; `header.timestamp` has it in µs."""
        return rfc3339(self.header.timestamp)

    @property
    def erased(self) -> bool:
        """Whether its entry was erased: `data` says which one, and `salt` is null in the view.

        Whether a record says so, too, is for validation.
        """
        return is_erased(self.header, self.entries)

    @property
    def data(self) -> Any:
        """The recorded JSON value; for a batch, the list of its values.

        Of an erased block it is `{"erased": id}`, the entry's id in 64 hex digits. A recorded value
        may look the same: `erased` tells.

        Raises:
            EntryError: the stored bytes are not acceptable JSON (damage).
        """
        if self.erased:
            return {"erased": self.header.data_root.hex()}
        values = [entry.value for entry in self.entries]
        return values if self.is_batch else values[0]

    @property
    def previous_hash(self) -> str:
        """Hash of the block before, 64 hex digits."""
        return self.header.previous_hash.hex()

    @property
    def hash(self) -> str:
        """The stored hash, 64 hex digits."""
        return self.stored_hash.hex()

    @property
    def kind(self) -> str:
        """`value`, `batch` or `record`; the number where it is none of these (damage)."""
        return _LABELS.get(self.header.kind) or str(self.header.kind)

    @property
    def is_batch(self) -> bool:
        """Whether `data` is a list of values, however many entries were stored."""
        return self.header.kind == Kind.BATCH or len(self.entries) != 1

    def data_json(self) -> bytes:
        """Return the exact recorded JSON, without salts; for a batch, the JSON list of values.

        Of an erased block, the JSON of what `data` is.
        """
        if self.erased:
            return b'{"erased":"%s"}' % self.header.data_root.hex().encode()
        texts = [entry.canonical for entry in self.entries]
        return b"[" + b",".join(texts) + b"]" if self.is_batch else texts[0]

    def to_json(self, *, fresh: bool = False) -> str:
        """Return the JSON view on one line; `data` holds the recorded bytes as they are.

        A `fresh` block was just sealed, so that its data is known to be JSON.

        Raises:
            FormatError: the stored data is not JSON (damage).
        """
        try:
            data = self.data_json().decode()
            if not fresh:
                self.data  # noqa: B018 - so that the line is JSON whatever was stored
        except (UnicodeDecodeError, EntryError) as error:
            raise FormatError(f"the data of block {self.index} is not JSON: {error}") from None
        facts = self.facts()
        # White space in stored JSON that is not canonical must not end the line.
        facts["data"] = data if fresh else data.replace("\n", " ").replace("\r", " ")
        facts["salt"] = (
            str(facts["salt"]).replace("'", '"')
            if self.is_batch
            else "null"
            if facts["salt"] is None
            else f'"{facts["salt"]}"'
        )
        return _VIEW % facts

    @classmethod
    def from_view(
        cls,
        view: object,
        *,
        encode: Callable[[object], bytes] = canonical,
        erased_bytes: int = ERASED_BYTES,
    ) -> Block:
        """Read a block from its parsed JSON view.

        `encode` makes the canonical JSON of each value. Whether the block is valid is left to the
        rules; but no member of the view may say other than its header, hash, data and salt do. An
        erased entry that had more than `erased_bytes` is refused.

        Raises:
            FormatError: not such a view, or two of its members disagree.
            EntryError: its data has no canonical form.
        """
        if not isinstance(view, Mapping) or set(view) != set(VIEW_KEYS):
            raise FormatError(f"a block is an object with the members {', '.join(VIEW_KEYS)}")
        header = Header.unpack(_unhex("header", view["header"], HEADER_BYTES))
        entries = (
            _zeros(header, view["data"], erased_bytes)
            if header.kind == Kind.VALUE and view["salt"] is None
            else _entries(header, view["data"], view["salt"], encode)
        )
        block = cls(header, _unhex("hash", view["hash"], HASH_BYTES), entries)
        for key, value in block.facts().items():
            if view[key] != value or type(view[key]) is not type(value):
                raise FormatError(f"{key} is {view[key]!r}, but the header says {value!r}")
        return block

    def facts(self) -> dict[str, Any]:
        """Return every member of the JSON view but `data`."""
        header = self.header
        packed = header.pack().hex()
        salts = [entry.salt.hex() for entry in self.entries]
        return {
            "index": header.index,
            "timestamp": self.timestamp,
            "previous_hash": self.previous_hash,
            "hash": self.hash,
            "kind": self.kind,
            "count": header.count,
            "size": header.size,
            "data_root": header.data_root.hex(),
            "bits": packed[8:16],
            "nonce": packed[-16:],
            "salt": salts if self.is_batch else None if self.erased else salts[0],
            "header": packed,
        }

    def __repr__(self) -> str:
        data = self.data_json().decode(errors="replace")
        return (
            f"Block(index={self.index}, timestamp={self.timestamp!r}, data={data}, "
            f"previous_hash={self.previous_hash!r}, hash={self.hash!r})"
        )


@lru_cache(maxsize=16)
def rfc3339(microseconds: int) -> str:
    """Return a timestamp in µs since the Unix epoch as RFC 3339 UTC, six decimals and `Z`.

    Years past 9999 get as many digits as they need. 2**63 and above, which no rule allows, are
    shown as the number.
    """
    if not -LIMIT_63 < microseconds < LIMIT_63:
        return str(microseconds)
    return f"{np.datetime64(microseconds, 'us')}Z"


def _entries(
    header: Header, data: object, salt: object, encode: Callable[[object], bytes]
) -> tuple[Entry, ...]:
    """Return the entries that a view shows."""
    values, salts = (data, salt) if header.kind == Kind.BATCH else ([data], [salt])
    if not (isinstance(values, list) and isinstance(salts, list) and len(values) == len(salts)):
        raise FormatError("a batch has a list of values and as many salts")
    return tuple(
        Entry(_unhex("salt", salt, SALT_BYTES), encode(value))
        for salt, value in zip(salts, values, strict=True)
    )


def _zeros(header: Header, data: object, most: int) -> tuple[Entry, ...]:
    """Return what is left of the erased entry that a view shows."""
    if header.size > most:
        raise FormatError(f"an erased entry of {header.size} bytes; at most {most} are read")
    entries = (Entry(bytes(SALT_BYTES), bytes(max(header.size - SALT_BYTES, 0))),)
    if not is_erased(header, entries) or data != {"erased": header.data_root.hex()}:
        raise FormatError("salt is null where the entry is erased, and data says its id")
    return entries


def _unhex(name: str, text: object, size: int) -> bytes:
    try:
        if isinstance(text, str) and len(text) == 2 * size and text == text.lower():
            return bytes.fromhex(text)
    except ValueError:
        pass
    raise FormatError(f"{name} has {2 * size} lower-case hex digits, found {text!r:.80}")
