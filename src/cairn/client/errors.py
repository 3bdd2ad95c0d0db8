"""What can go wrong between a client and a node, beside the errors of the ledger itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cairn.core.errors import CairnError, EntryError


class NodeError(CairnError):
    """A node did not do what it was asked; what was to be recorded is not.

    `problem` holds the problem details of the answer (RFC 9457), and is empty where it had none.
    """

    durable = 0
    """Items of the same `extend` that are durable."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


class NotPermittedError(NodeError):
    """The node wants another token, or does not answer to the name in the URL."""


class UnreachableError(NodeError):
    """No answer until patience was up; `__cause__` says why the last try had none.

    `status` is that of the last answer, where there was one that said to try again.
    """


class BadAnswerError(NodeError):
    """An answer that is not what a node says: perhaps something else answers at this URL."""


class RefusedEntryError(EntryError):
    """The node refused an entry that has a canonical form: it is past a limit of the ledger."""

    position: int | None = None
    """Which of the values that were sent together, from 0; None where the node did not say."""
