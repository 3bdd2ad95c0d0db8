"""What is recorded of a log record: canonical JSON, whatever the application put into it."""

from __future__ import annotations

import logging
import math
import reprlib
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from cairn.core.block import rfc3339
from cairn.core.canonical import MAX_INTEGER, MIN_INTEGER
from cairn.core.errors import EntryError
from cairn.core.genesis import Limits
from cairn.encoding import Encoder


class _Bounds(NamedTuple):
    """How much of an entry is kept."""

    chars: int
    """Characters of a text."""
    values: int
    """Values inside a member of the entry, in all."""
    depth: int
    """Containers inside one another in a member."""


_BOUNDS: Final = (
    _Bounds(2**24, 2**13, 100),
    _Bounds(2**16, 2**10, 16),
    _Bounds(2**12, 2**8, 8),
    _Bounds(2**8, 2**4, 2),
    _Bounds(2**5, 0, 0),
)
"""What is tried in turn where an entry is odd or too large. The first keeps what can be kept, such
as all texts beside a NaN; the last makes some 250 bytes, without a container in it."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What a record has by itself, or from a formatter; all else came in as `extra`."""

_ENCODER: Final = Encoder(Limits())
_TRACEBACKS: Final = logging.Formatter()


def entry_of(record: logging.LogRecord, message: str) -> bytes:
    """Return what is recorded of `record`, as canonical JSON within the default limits."""
    entry: dict[str, Any] = {
        "time": _time(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": message,
    }
    if exception := _exception(record):
        entry["exception"] = exception
    if record.stack_info:
        entry["stack"] = record.stack_info
    if extra := {name: value for name, value in vars(record).items() if name not in _STANDARD}:
        entry["extra"] = extra
    try:
        return _ENCODER.value(entry)
    except Exception:  # whatever the application put into it: cyclic, hostile, too large
        return _fitting(entry)


def _fitting(entry: dict[str, Any]) -> bytes:
    for bounds in _BOUNDS:
        try:
            return _ENCODER.value(_Plain(bounds).entry(entry))
        except EntryError as error:  # too large, since all else is plain now
            refusal = error
    raise refusal


def shrunk(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an entry in less and less bytes."""
    for bounds in _BOUNDS[1:]:
        plain = _Plain(bounds)
        smaller = plain.entry(value)
        if plain.cut:
            yield smaller


def _time(created: float) -> str:
    """Return a time in seconds since the Unix epoch as RFC 3339, or as it is if it is none."""
    try:
        return rfc3339(round(float(created) * 1_000_000))
    except (TypeError, ValueError, OverflowError):
        return shown(created)


def _exception(record: logging.LogRecord) -> str | None:
    if record.exc_text or not record.exc_info:
        return record.exc_text
    try:
        return _TRACEBACKS.formatException(record.exc_info)
    except Exception:  # an exception of the application that cannot even be shown
        return shown(record.exc_info[0])


class _Plain:
    """Makes canonical-JSON-able values of any, within `bounds`. `cut` tells if something is gone.

    What JSON cannot say becomes text: numbers past its range, bytes, objects, odd keys.
    """

    def __init__(self, bounds: _Bounds) -> None:
        self._bounds = bounds
        self.cut = False

    def entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return an entry with plain members, and a mark if it was truncated."""
        plain = {
            name: self._value(value, self._bounds.values, self._bounds.depth)
            for name, value in entry.items()
        }
        return {**plain, "truncated": True} if self.cut else plain

    def _value(self, value: object, budget: int, depth: int) -> object:
        """Return `value`, with at most `budget` values in it."""
        if value is None or isinstance(value, bool) or _is_number(value):
            return value
        try:
            if isinstance(value, dict | list | tuple | set | frozenset):
                return self._container(value, budget, depth)
            return self._text(shown(value))
        except Exception as error:  # such as another thread that changes it meanwhile
            self.cut = True
            return _not_shown(value, error)

    def _container(self, value: Collection[Any], budget: int, depth: int) -> object:
        kept = min(len(value), budget)
        if depth == 0 or (value and not kept):
            self.cut = True
            return self._text(shown(value))
        # An equal share for each, so that no member can use up the room of the next.
        share = (budget - kept) // kept if kept else 0
        left = len(value) - kept
        self.cut = self.cut or left > 0
        if not isinstance(value, dict):
            items = [self._value(item, share, depth - 1) for item in islice(value, kept)]
            return [*items, f"… ({left} more)"] if left else items
        members: dict[str, object] = {}
        for key, item in islice(value.items(), kept):
            members[self._key(key, members)] = self._value(item, share, depth - 1)
        if left:
            members[self._key("…", members)] = f"{left} more"
        return members

    def _key(self, key: object, members: dict[str, object]) -> str:
        """Return `key` as a text that is no key of `members` yet."""
        text = self._text(shown(key))
        while text in members:
            text += "~"
        return text

    def _text(self, text: str) -> str:
        kept = text[: self._bounds.chars]
        if len(kept) < len(text):
            self.cut = True
            kept += f"… ({len(text)} characters)"
        return kept.encode("utf-8", "backslashreplace").decode()  # half a surrogate is no text


def _is_number(value: object) -> bool:
    if isinstance(value, int):
        return MIN_INTEGER <= value <= MAX_INTEGER
    return isinstance(value, float) and math.isfinite(value)


def shown(value: object) -> str:
    """Return any value as text, whatever its own methods do."""
    try:
        if isinstance(value, dict | list | tuple | set | frozenset):
            return reprlib.repr(value)  # does not follow cycles, nor grow without end
        if isinstance(value, int) and value.bit_length() > 1000:
            return hex(value)  # its decimal digits would take quadratic time
        if isinstance(value, BaseException | bytes | bytearray):
            return repr(value)
        return str(value)
    except Exception as error:
        return _not_shown(value, error)


def _not_shown(value: object, error: Exception) -> str:
    return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
