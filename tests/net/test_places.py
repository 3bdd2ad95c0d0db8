"""How many links there are at once, and which of them stay."""

from __future__ import annotations

from itertools import count

from cairn.net.events import DialFailed
from cairn.net.limits import DIALLED, FEELER_KEPT_SECONDS, FEELER_SECONDS, PEERS
from cairn.net.messages import Refused
from cairn.net.network import Network
from tests.builders import mined
from tests.net.test_refusals import NOW
from tests.net.wiring import Script, Wires
from tests.simulator.world import url_of

NAMED = [url_of(f"20.1.0.{i}") for i in range(12)]
"""Addresses as `Wires.node(expects=…)` names them."""
HEARD = [url_of(f"20.3.0.{i}") for i in range(40)]


class Places:
    """A node that dials, and those who answer."""

    def __init__(self, named: int = 0, heard: int = 0) -> None:
        self.wires = Wires(mined(), NOW)
        self.node = self.wires.node(expects=named)
        self.node._book.hear(HEARD[:heard], "20.0.0.1")
        self.answering = set(HEARD)
        self.most = 0
        self._names = count()

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.wires.tick(1.0)
            dials, self.wires.dials = self.wires.dials, []
            for node, url in dials:
                if node is self.node:
                    self._dial(url)
            self.most = max(self.most, self.links)

    def _dial(self, url: str) -> None:
        if url in self.answering:
            self.wires.open(self.node, url, self.wires.node())
        else:
            self.wires.handle(self.node, DialFailed(url))

    @property
    def links(self) -> int:
        return len(self.node._hub.peers)

    @property
    def dialled(self) -> list[str]:
        """What the node has dialled, the oldest link first."""
        return [peer.dialled for peer in self.node._hub.ready if peer.dialled is not None]

    def dialled_by(self, others: int) -> list[Script]:
        scripts = [
            Script(self.wires, self.node, f"other {next(self._names)}") for _ in range(others)
        ]
        self.most = max(self.most, self.links)
        return scripts


def test_one_link_more_is_opened_now_and_then_and_not_kept() -> None:
    places = Places(heard=20)
    places.wait(FEELER_SECONDS)
    first = places.dialled
    assert len(first) == DIALLED
    places.wait(5)
    assert places.dialled[:-1] == first
    places.wait(FEELER_KEPT_SECONDS)
    assert places.dialled == first
    assert places.most == DIALLED + 1


def test_who_was_named_takes_the_place_of_the_link_that_was_opened_last() -> None:
    places = Places(named=3, heard=DIALLED)
    places.wait(30)
    others = places.dialled
    assert sorted(others) == sorted(HEARD[:DIALLED])
    places.answering |= set(NAMED)
    places.wait(600)
    assert places.dialled == [*others[: DIALLED - 3], *places.dialled[-3:]]
    assert sorted(places.dialled[-3:]) == NAMED[:3]


def test_all_that_were_named_stay_also_if_they_are_more_than_we_keep_up() -> None:
    places = Places(named=12, heard=DIALLED)
    places.answering |= set(NAMED)
    places.wait(1000)
    assert sorted(set(places.dialled) - set(HEARD)) == sorted(NAMED)


def test_who_dials_us_cannot_keep_us_from_those_that_were_named() -> None:
    places = Places(named=6, heard=DIALLED)
    places.wait(30)
    scripts = places.dialled_by(PEERS)
    kept = PEERS - DIALLED - 1
    assert [isinstance(script.heard[-1], Refused) for script in scripts] == (
        [False] * kept + [True] * (PEERS - kept)
    )
    places.answering |= set(NAMED)
    for _ in range(20):  # silent ones are let go, and come again
        places.wait(100)
        places.dialled_by(2)
    assert set(NAMED[:6]) <= set(places.dialled)
    assert places.most <= PEERS


def test_there_are_never_more_links_than_there_may_be() -> None:
    places = Places(named=12)
    places.answering |= set(NAMED)
    places.wait(30)
    assert len(places.dialled) == 12
    scripts = places.dialled_by(PEERS)
    assert places.links == PEERS
    refused = scripts[PEERS - 12].heard[-1]
    assert refused == Refused("busy", f"this node has {PEERS} links already")


def test_a_dial_that_is_under_way_has_its_place() -> None:
    wires = Wires(mined(), NOW)
    node: Network = wires.node(expects=12)
    wires.tick(1.0)
    assert len(wires.dials) == 12
    for i in range(PEERS):
        Script(wires, node, f"script {i}")
    for _, url in wires.dials:
        wires.open(node, url, wires.node())
    assert len(node._hub.peers) <= PEERS
