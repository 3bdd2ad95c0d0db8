"""The errors of bad data: what was given is at fault, and trying again will not help."""

from __future__ import annotations


class CairnError(Exception):
    """Base of every error that Cairn raises on purpose."""


class EntryError(CairnError, ValueError):
    """A value or JSON text that cannot be recorded: no canonical form, or past a limit.

    `reason` says why; `path` says where in the value, as in `$.items[3].id`.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def inside(self, step: str) -> EntryError:
        """Return this error as seen from the container that holds the offender at `step`."""
        return EntryError(self.reason, step + self.path)

    def __str__(self) -> str:
        return f"{self.reason} (at ${self.path})" if self.path else self.reason


class FormatError(CairnError, ValueError):
    """Bytes or JSON that are not a block, header or genesis of format version 1."""
