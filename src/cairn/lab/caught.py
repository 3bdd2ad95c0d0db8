"""What catches an act of the playground, and why, in words for one who sees it the first time."""

from __future__ import annotations

from typing import NamedTuple

from cairn.core.rules import Failure
from cairn.lab.playground import CUTS, Done
from cairn.report import Report


class Caught(NamedTuple):
    """What validation said after an act."""

    report: Report
    chain_holds: bool
    """Whether the chain alone breaks no rule: only who remembers it can tell."""
    why: str

    @property
    def failure(self) -> Failure | None:
        """What was found; None: nothing."""
        return self.report.failure

    @classmethod
    def of(cls, done: Done, report: Report) -> Caught:
        """Say in words what a validation after an act has found."""
        rule = report.failure.rule if report.failure else None
        return cls(report, rule in (None, "checkpoint"), _why(done, report))


def _why(done: Done, report: Report) -> str:
    failure = report.failure
    if failure is None:
        return (
            "Nothing here catches it: the chain agrees with itself, and nobody had signed those "
            "blocks before. It takes somebody who remembers: one who holds a receipt or a "
            "checkpoint, a witness, or another node with the chain."
        )
    at = failure.index
    is_about_it = at in (done.index, done.index + 1) or failure.rule in ("head", "checkpoint")
    if not is_about_it or failure.rule not in _WHY:
        return (
            f"Validation reads from the beginning, and stops at block {at}, which was broken "
            "before. Undo the last change, or all of them, to see one alone."
        )
    key = failure.rule
    if key == "head":
        key = "cut" if done.act in CUTS else key
    return _WHY[key].format(at=at, before=at - 1, expected=failure.expected, found=failure.found)


_WHY = {
    "size": "The header of block {at} says how many bytes its data has, {expected}, and now there "
    "are {found}. To correct the header is no way out: the block’s hash is made of it.",
    "data_root": "The header of block {at} holds the hash of its data, and the data has another "
    "hash now. To correct the header is no way out: the block’s own hash is made of it.",
    "genesis": "Block 0 records the rules of the ledger itself, and they cannot be read any more.",
    "link": "Block {before} agrees with itself again, but has another hash now. Block {at} "
    "still repeats the old one as its previous_hash: that is what makes blocks a chain.",
    "head": "The last block agrees with itself again, and nothing comes after it that could tell. "
    "But the ledger has noted in another place which hash its last block has.",
    "cut": "What is left is a perfect chain. But the ledger has noted in another place how many "
    "blocks there are.",
    "checkpoint": "The chain alone is perfect: every block follows the one before, and the record "
    "of its end agrees. No rule can catch this. But before it was done, the ledger had signed a "
    "checkpoint of what was there, and that is remembered in another place than the chain.",
}
