"""The errors of the world: disk, files and other processes. And of asking for what is not there."""

from __future__ import annotations

from cairn.core.errors import CairnError


class StoreError(CairnError):
    """The store could not do what was asked: disk, permissions, or another process."""


class DamagedError(StoreError):
    """What is stored cannot be read as a ledger: the files were damaged or replaced."""


class OutcomeUnknownError(StoreError):
    """A write failed in a way that leaves open whether it is durable.

    The writer has stopped and recovers on next use. Look whether the entry is there, or append it
    again with the same `key`, which cannot record it twice.
    """

    durable = 0
    """Items of the same `extend` that are durable."""


class UsageError(CairnError):
    """Cairn was asked for something that cannot be: wrong use, absent, locked, not permitted."""


class NoSuchBlockError(UsageError, IndexError):
    """The ledger has no such block."""


class LockedError(UsageError):
    """Another writer holds this ledger; the message says who."""


class NotFoundError(UsageError):
    """There is no ledger here."""


class ExistsError(UsageError):
    """There is something already where a new ledger should go."""


class ReadOnlyError(UsageError):
    """The ledger was opened for reading, or is closed."""
