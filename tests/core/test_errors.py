"""The errors of bad data: what they say, and that they survive being sent to another process."""

from __future__ import annotations

import copy
import pickle

import pytest

from cairn.core.errors import CairnError, EntryError, ExtendError, FormatError, InconsistentError
from cairn.core.rules import Failure, InvalidChainError

FAILURE = Failure(3, "link", "aa", "bb", "block 3 breaks rule 'link'")


def test_every_error_is_a_cairn_error_and_bad_values_are_value_errors() -> None:
    for kind in (EntryError, FormatError):
        assert issubclass(kind, CairnError)
        assert issubclass(kind, ValueError)
    assert issubclass(InvalidChainError, CairnError)


def test_an_entry_error_says_why_and_where() -> None:
    error = EntryError("too odd")
    assert (error.reason, error.path, str(error)) == ("too odd", "", "too odd")
    inside = error.inside("[3]").inside(".items")
    assert (inside.reason, inside.path) == ("too odd", ".items[3]")
    assert str(inside) == "too odd (at $.items[3])"


def test_an_extend_error_says_where_and_why() -> None:
    error = ExtendError(7, EntryError("too odd"))
    assert (error.durable, error.cause.reason) == (7, "too odd")
    assert str(error) == "item 7 is refused: too odd; the items before it are durable"


def test_an_inconsistent_error_carries_both_statements_and_says_where_they_are() -> None:
    error = InconsistentError("it was cut", "ten blocks", "nine blocks", "/the/evidence")
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert (each.remembered, each.found, each.evidence) == (
            "ten blocks",
            "nine blocks",
            "/the/evidence",
        )
        assert str(each) == "it was cut; the evidence is in /the/evidence"


def test_an_invalid_chain_error_carries_the_failure() -> None:
    error = InvalidChainError(FAILURE)
    assert error.failure == FAILURE
    assert str(error) == FAILURE.message


@pytest.mark.parametrize(
    "error",
    [
        EntryError("too odd", ".a"),
        FormatError("no header"),
        InvalidChainError(FAILURE),
        ExtendError(7, EntryError("too odd")),
    ],
)
def test_errors_survive_copying_and_pickling(error: CairnError) -> None:
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert str(vars(again)) == str(vars(error))
