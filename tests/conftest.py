"""What every test shares."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SHARED = Path(__file__).parent.parent.parent / "shared"

settings.register_profile(
    "cairn", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("cairn")


def shared(name: str) -> Path:
    """Return a file of published data beside the project, or skip saying that it is not there."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {path}, which is not here")
    return path
