"""The simulator finds what it is there for: each safety rule is taken out of the protocol in turn.

A rule is taken out of the code as it stands: its text is replaced, and a test fails where the text
is not there any more.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import cairn.store.memory
from cairn.core.header import LIMIT_63
from cairn.core.merkle import leaf_hash
from cairn.core.rules import InvalidChainError
from cairn.core.work import work_of
from cairn.ledger.chain import Chain, Run
from cairn.net.finality import Finality
from cairn.net.pool import Pool
from cairn.net.relay import Relay
from cairn.net.sync import Sync
from tests.simulator.byzantine import (
    Claiming,
    Dating,
    Doubling,
    Equivocating,
    Hostile,
    Invalid,
    Replaying,
)
from tests.simulator.invariants import Violation
from tests.simulator.runs import Plan, run
from tests.simulator.world import Faults

SEEDS = range(1, 7)
"""Tried in turn, until one fails."""

Patch = pytest.MonkeyPatch

EVERY_ENTRY = (
    "zip(self._chain.ids(segment), (e for i in range(len(segment)) for e in segment.entries(i)))"
)
"""What a segment holds, as `Chain.unmined` says it, those on the chain included."""


def plan(seed: int, *kinds: type[Hostile], **others: Any) -> Plan:
    """Return a small run with these hostile peers, and nothing else that goes wrong."""
    calm: dict[str, Any] = {
        "nodes": 5,
        "final_depth": 60,
        "hostile": tuple((kind, 0.25 / len(kinds)) for kind in kinds),
        "faults": Faults(),
        "delay": 0.3,
        "dialled": 3,
        "blocks": 15,
        "entries": 1.0,
        "crashes": 0.0,
        "skew": 0.0,
        "partitions": 0,
        "is_parted": False,
    }
    return replace(Plan.of(seed), **(calm | others))


def breaking(*names: str) -> type[Hostile]:
    """Return a hostile peer that breaks these rules alone."""
    return type("Invalid", (Invalid,), {"breaks": names})


def found(*kinds: type[Hostile], **others: Any) -> str:
    """Return the invariant that the first failing run breaks."""
    for seed in SEEDS:
        try:
            run(plan(seed, *kinds, **others))
        except Violation as violation:
            return violation.name
    return "nothing"


def without(patch: Patch, owner: type, name: str, *texts: tuple[str, str]) -> None:
    """Replace some of a method's text."""
    function = inspect.getattr_static(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in texts:
        assert source.count(old) == 1, f"{owner.__name__}.{name} has no longer {old!r} in it once"
        source = source.replace(old, new)
    scope = dict(function.__globals__)
    exec("from __future__ import annotations\n" + source, scope)
    patch.setattr(owner, name, scope[name])


def passing(patch: Patch, rule: str, meaning: str = "") -> None:
    """Take blocks that break a rule for good ones, wherever blocks are checked."""
    headers, bodies = Chain.check_headers, Chain.check_bodies

    def is_meant(error: InvalidChainError) -> bool:
        return error.failure.rule == rule and meaning in error.failure.message

    def check_headers(self: Chain, rows: Any, before: Any) -> Run:
        try:
            return headers(self, rows, before)
        except InvalidChainError as error:
            if not is_meant(error):
                raise
            hashes = [np.frombuffer(leaf_hash(row.tobytes()), np.uint8) for row in rows]
            bits = [int.from_bytes(row[4:8].tobytes(), "big") for row in rows]
            return Run(rows, np.stack(hashes), sum(map(work_of, bits)))

    def check_bodies(self: Chain, segment: Any) -> None:
        try:
            bodies(self, segment)
        except InvalidChainError as error:
            if not is_meant(error):
                raise

    patch.setattr(Chain, "check_headers", check_headers)
    patch.setattr(Chain, "check_bodies", check_bodies)


@pytest.mark.parametrize(
    ("rule", "meaning", "broken"),
    [
        ("version", "", "break_version"),
        ("kind", "", "break_kind_record"),
        ("timestamp", "", "break_timestamp"),
        ("link", "", "break_chain"),
        ("work", "past the target", "break_work"),
        ("work", "not the one asked for", "break_target"),
        ("size", "", "break_size"),
        ("data_root", "", "break_data"),
        ("limits", "", "break_limits"),
        ("canonical", "", "break_canonical"),
    ],
)
def test_a_rule_of_the_format_that_is_not_checked(
    rule: str, meaning: str, broken: str, monkeypatch: Patch
) -> None:
    if broken == "break_limits":  # the size is a lie then, too
        passing(monkeypatch, "size")
    passing(monkeypatch, rule, meaning)
    assert found(breaking(broken)) in {"valid", "link", "bug"}


def test_bodies_that_are_not_checked(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Chain, "check_bodies", lambda self, segment: None)
    assert found(breaking("break_data", "break_canonical")) == "valid"


def test_blocks_from_the_future(monkeypatch: Patch) -> None:
    without(monkeypatch, Sync, "_extend", ("if due > self._hub.now:", "if False:"))
    assert found(breaking("break_future")) == "future"


def test_blocks_from_the_future_that_are_blamed_on_who_passes_them_on(monkeypatch: Patch) -> None:
    refusal = 'raise Refusal("future", "")'
    without(monkeypatch, Sync, "_extend", ("peer.early = due", refusal))
    assert found(Dating, skew=10.0) == "innocent"


def test_a_tie_goes_to_the_later_chain(monkeypatch: Patch) -> None:
    without(monkeypatch, Sync, "on_head", ("claim.work <= chain.work", "claim.work < chain.work"))
    without(monkeypatch, Sync, "ask", ("claim.work <= self._chain", "claim.work < self._chain"))
    without(monkeypatch, Sync, "_consider", ("is_deep and branch.work > best and branch",
            "is_deep and branch.work >= best and branch"))  # fmt: skip
    without(
        monkeypatch,
        Sync,
        "settle",
        ("and branch.work > self._chain", "and branch.work >= self._chain"),
    )
    without(monkeypatch, Sync, "_connect", ("if work <= chain.work or", "if work < chain.work or"))
    without(monkeypatch, Chain, "advance", ("assert work > self.work", "assert work >= self.work"))
    assert found(Equivocating, delay=1.0) == "work"


def test_the_longest_chain_in_place_of_that_with_the_most_work(monkeypatch: Patch) -> None:
    import cairn.ledger.chain as chain
    import cairn.net.sync as sync

    monkeypatch.setattr(chain, "work_of", lambda bits: 1)
    monkeypatch.setattr(chain, "total_work", len)
    monkeypatch.setattr(sync, "total_work", len)
    checked = Chain.check_headers

    def check_headers(self: Chain, rows: Any, before: Any) -> Run:
        return checked(self, rows, before)._replace(work=len(rows))

    monkeypatch.setattr(Chain, "check_headers", check_headers)
    assert found(Equivocating) == "work"


def test_claims_that_are_believed(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Sync, "_require_shown", lambda self, branch, claim: None)
    assert found(Claiming) == "liar"


def test_no_block_is_ever_final(monkeypatch: Patch) -> None:
    without(monkeypatch, Sync, "_begin", ("position + 1 < self._chain.final", "False"))
    without(monkeypatch, Sync, "_is_from_ours", ("branch.base.index + 1 < chain.final", "False"))
    without(monkeypatch, Chain, "advance", ("if segment.start < self.final:", "if False:"))
    monkeypatch.setattr(cairn.store.memory, "require_advance", lambda *_, **__: None)
    assert found(final_depth=4, is_parted=True) == "final"


def test_nobody_stops_when_final_blocks_are_in_question(monkeypatch: Patch) -> None:
    without(monkeypatch, Sync, "_consider", ("if branch.is_deep and", "if False and"))
    assert found(final_depth=4, is_parted=True) == "halt"


def test_a_node_stops_though_nothing_final_is_in_question(monkeypatch: Patch) -> None:
    without(monkeypatch, Sync, "_begin", ("position + 1 < self._chain.final", "True"))
    assert found(partitions=2, blocks=25) == "halt"


def test_a_node_stops_for_a_chain_of_less_work(monkeypatch: Patch) -> None:
    without(monkeypatch, Sync, "on_head", ("claim.work <= chain.work or", ""))
    without(monkeypatch, Sync, "ask", ("or claim.work <= self._chain.work or", "or"))
    without(monkeypatch, Sync, "_consider",
            ("if branch.is_deep and self._chain.work_above(base) + shown > best:",
            "if branch.is_deep:"), ("(base) + shown > best", "(base) >= 0"))  # fmt: skip
    assert found(final_depth=4, is_parted=True) == "halt"


def test_what_is_final_is_not_counted(monkeypatch: Patch) -> None:
    without(monkeypatch, Chain, "advance",
            ("segment.stop - self.terms.final_depth", "segment.stop - 2"))  # fmt: skip
    without(monkeypatch, Finality, "most", ("self._hub.chain.terms.final_depth", "2"))
    assert found() == "final"


def late(seed: int) -> Plan:
    """Return a small run with nodes that begin late, and a hostile peer that waits for them."""
    return replace(plan(seed, blocks=8), nodes=6).with_late(2)


def found_late() -> str:
    """Return the invariant that the first failing run with late nodes breaks."""
    for seed in SEEDS:
        try:
            run(late(seed))
        except Violation as violation:
            return violation.name
    return "nothing"


def test_a_block_is_final_as_soon_as_the_depth_is_there(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Finality, "most", lambda self, *_: LIMIT_63)
    assert found_late() == "final"


def test_a_long_chain_is_final_as_it_comes_from_the_first_peer_to_answer(
    monkeypatch: Patch,
) -> None:
    without(monkeypatch, Finality, "most", ("peer.since > until", "False"),
            ("branch.since <= until", "True"))  # fmt: skip
    assert found_late() == "final"


def test_what_is_due_never_becomes_final(monkeypatch: Patch) -> None:
    without(monkeypatch, Finality, "most", ("if since <= until", "if since < 0"))
    assert found(blocks=20) == "lag"


def test_nodes_that_begin_late_are_safe_from_a_cheap_chain() -> None:
    for seed in SEEDS:
        run(late(seed))


def test_entries_that_a_reorganisation_takes_off_are_not_given_back(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Pool, "give_back", lambda self, entries, now: None)
    assert found(entries=3.0, partitions=2, blocks=25) == "mined"


def test_entries_that_were_mined_stay_in_the_pool(monkeypatch: Patch) -> None:
    without(monkeypatch, Relay, "moved", ("self.pool.remove(connected)", "pass"))
    assert found() == "twice"


def test_entries_that_are_on_the_chain_come_into_the_pool(monkeypatch: Patch) -> None:
    without(monkeypatch, Relay, "_taken", ("and self._chain.has_entry(entry_id)", "and False"))
    assert found(Replaying) == "twice"


def test_entries_that_are_on_the_new_chain_are_given_back(monkeypatch: Patch) -> None:
    without(monkeypatch, Relay, "moved", ("self._chain.unmined(segment)", EVERY_ENTRY))
    assert found(Equivocating, entries=3.0, partitions=2, blocks=25) == "twice"


def test_a_restart_forgets_what_waits(monkeypatch: Patch) -> None:
    def forget(self: Chain) -> list[Any]:
        return []

    monkeypatch.setattr(Chain, "waiting", forget)
    assert found(entries=5.0, crashes=0.3, delay=2.0) == "mined"


@pytest.mark.parametrize("kinds", [(), (Invalid,), (Claiming,), (Doubling,), (Replaying,)])
def test_the_protocol_as_it_is_passes_the_same_runs(kinds: tuple[type[Hostile], ...]) -> None:
    for seed in SEEDS[:2]:
        run(plan(seed, *kinds))


def test_the_protocol_as_it_is_passes_the_same_runs_with_faults() -> None:
    calls: list[Callable[[], Plan]] = [
        lambda: plan(1, Dating, skew=10.0),
        lambda: plan(1, Equivocating, delay=1.0),
        lambda: plan(1, entries=3.0, partitions=2, blocks=25),
        lambda: plan(1, final_depth=4, is_parted=True),
        lambda: plan(1, entries=5.0, crashes=0.3, delay=2.0),
    ]
    for call in calls:
        run(call())
