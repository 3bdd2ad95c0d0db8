"""Every error that Cairn raises on purpose, in three families.

The data is bad, and trying again will not help; the world failed (disk, files, other processes);
or Cairn was used wrongly. Anything else that is raised is a bug.
"""

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


class KeyReusedError(EntryError):
    """A key was used before, for another value: keys tell retries, and are not names.

    Or for one that was erased since, which nothing can be compared with.
    """


class FormatError(CairnError, ValueError):
    """Bytes or JSON that are not a block, header or genesis of format version 1."""


class ProofError(CairnError, ValueError):
    """A proof, signature, checkpoint or receipt that does not show what it claims."""


class InconsistentError(ProofError):
    """Two statements of one ledger that cannot both be true: it was rewritten, cut off or forked.

    `remembered` is the signed checkpoint that was seen, or made, before; `found` is what does not
    agree with it. Both are kept in the file `evidence`.
    """

    def __init__(self, message: str, remembered: str, found: str, evidence: str) -> None:
        super().__init__(message, remembered, found, evidence)
        self.message = message
        self.remembered = remembered
        self.found = found
        self.evidence = evidence

    def __str__(self) -> str:
        return f"{self.message}; the evidence is in {self.evidence}"


class ExtendError(CairnError):
    """`extend` stopped at an item that cannot be recorded; `cause` is the item's error.

    All items before it are durable: there are `durable` of them, so it is also the position of
    the bad one, from 0.
    """

    def __init__(self, durable: int, cause: EntryError) -> None:
        super().__init__(durable, cause)
        self.durable = durable
        self.cause = cause

    def __str__(self) -> str:
        return f"item {self.durable} is refused: {self.cause}; the items before it are durable"


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


class NotFinalError(UsageError):
    """A block of a work ledger may still give way to another, so that nothing is proved of it."""


class NoSuchEntryError(UsageError, LookupError):
    """Neither the ledger nor its pool has such an entry."""


class ErasedError(UsageError):
    """The entry was erased on purpose; the ledger has a record of it."""


class LockedError(UsageError):
    """Another writer holds this ledger; the message says who."""


class NotFoundError(UsageError):
    """There is no ledger here."""


class ExistsError(UsageError):
    """There is something already where a new ledger should go."""


class ReadOnlyError(UsageError):
    """The ledger was opened for reading, or is closed."""
