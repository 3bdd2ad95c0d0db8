"""The `cairn` command."""

from cairn.cli.main import main

__all__ = ["main"]
