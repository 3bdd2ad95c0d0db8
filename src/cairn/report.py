"""What validation found, of a whole chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cairn.core.errors import FormatError
from cairn.core.rules import Failure


@dataclass(frozen=True, slots=True)
class Report:
    """What validation found."""

    valid: bool
    blocks: int
    """Blocks that were read."""
    bytes: int
    """Bytes of headers and entries that were checked."""
    seconds: float
    failures: tuple[Failure, ...]
    """By position; only the first unless `all=True` was asked for."""
    erased: int = 0
    """Blocks that were read and are erased, with a record of it."""

    @property
    def failure(self) -> Failure | None:
        """The first failure."""
        return self.failures[0] if self.failures else None

    def to_value(self) -> dict[str, Any]:
        """Return the JSON object that `cairn validate --json` prints."""
        value: dict[str, Any] = {
            "valid": self.valid,
            "execution_time": self.seconds,
            "blocks": self.blocks,
            "bytes": self.bytes,
        }
        if self.erased:
            value["erased"] = self.erased
        if self.failure is not None:
            value["failed_block"] = self.failure.index
            value["failure"] = self.failure.to_value()
        return value

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Report:
        """Read what `to_value` returned.

        Raises:
            FormatError: it is not that.
        """
        try:
            return cls(
                valid=value["valid"],
                blocks=value["blocks"],
                bytes=value["bytes"],
                seconds=value["execution_time"],
                failures=(Failure(**value["failure"]),) if "failure" in value else (),
                erased=value.get("erased", 0),
            )
        except (KeyError, TypeError) as error:
            raise FormatError(f"not a report: {value!r:.200}") from error
