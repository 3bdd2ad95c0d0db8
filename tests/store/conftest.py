"""What the tests of stores share."""

from __future__ import annotations

from tests.faults.conftest import memory_path

__all__ = ["memory_path"]
