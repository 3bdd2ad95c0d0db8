"""Real nodes that mine one ledger, through a crash and partitions."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from cairn import Ledger
from cairn.cli.init import first_bits
from cairn.core.genesis import Work
from tests.service.harness import CAIRN, PATIENCE
from tests.service.network import Changes, Net, Node, make_ledgers, until, work_of_all

SECOND = 1_000_000
AGREED = 5
"""Intervals after which all are of one mind."""
APART_BLOCKS = 3
"""That each side of a partition mines for itself, at least."""


def stop(nodes: list[Node]) -> None:
    """Stop nodes, and check that they end well, and what they leave."""
    for node in nodes:
        node.server.process.send_signal(signal.SIGTERM)
    for node in nodes:
        assert node.server.process.wait(2 * PATIENCE) == 0, node.server.errors()
        assert "Traceback" not in node.server.errors(), node.server.errors()
    validations = [
        subprocess.Popen(
            [*CAIRN, "validate", "--ledger", str(node.ledger)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in nodes
    ]
    for validation in validations:
        said, _ = validation.communicate(timeout=2 * PATIENCE)
        assert validation.returncode == 0, said


def require_each_once(node: Node, posted: list[str]) -> None:
    """Check that the chain has all entries that were posted, each once, and no others."""
    with Ledger.open(node.ledger, read_only=True) as ledger:
        found = Counter(entry.id.hex() for block in ledger[1:] for entry in block.entries)
    assert found == Counter(posted)


def await_mined(net: Net, entries: list[str]) -> None:
    """Wait until all nodes have these entries in blocks."""
    for node in net.nodes:
        node.await_mined(entries)


def crash(net: Net, number: int) -> str:
    """Kill a node that has an entry that nobody else has, and start it again; return the entry."""
    others = {other for other in range(len(net.nodes)) if other != number}
    lines = net.between({number}, others)
    for proxy in lines:
        proxy.cut()
    entry = net.nodes[number].post(["before the crash", number])
    net.nodes[number].server.kill()
    for proxy in lines:
        proxy.heal()
    net.nodes[number].restart()
    net.ready(number)
    return entry


def part(net: Net, *sides: set[int], hold: bool, final: bool = False) -> list[list[str]]:
    """Cut the network until each side has blocks of its own, `final` ones if so; then heal it.

    Returns the entries that were posted to each side meanwhile, which are mined there.
    """
    lines = net.between(*sides)
    for proxy in lines:
        proxy.hold() if hold else proxy.cut()
    fork = max(node.head[0] for node in net.nodes)
    some = [net.nodes[min(side)] for side in sides]
    posted = [
        [net.nodes[number].post(["apart", number, i]) for number in side for i in range(3)]
        for side in sides
    ]
    for node, entries in zip(some, posted, strict=True):
        node.await_length(fork + 1 + APART_BLOCKS)
        node.await_mined(entries)
    until(lambda: not final or all(node.final > fork + 1 for node in net.nodes))
    assert some[0].head != some[1].head
    until(lambda: some[0].work != some[1].work)
    for proxy in lines:
        proxy.heal()
    return posted


def live(tmp_path: Path, rounds: int) -> None:
    seal = Work(interval=SECOND, half_life=5 * SECOND, final_depth=60)
    ledgers = make_ledgers(tmp_path, 4, seal, bits=first_bits(SECOND // 2))
    with Net(ledgers, lambda _: ["--mine"]) as net:
        followers = [Changes(node) for node in net.nodes]
        posted = [node.post(["first", i]) for node in net.nodes for i in range(3)]
        await_mined(net, posted)
        for number in range(rounds):
            assert until(net.agree) <= AGREED
            posted.append(crash(net, number % 4))
            await_mined(net, posted)
            assert until(net.agree) <= AGREED

            sides = ({0, 1}, {2, 3}) if number % 2 == 0 else ({0, 2}, {1, 3})
            apart = part(net, *sides, hold=number % 2 == 1)
            posted += [entry for entries in apart for entry in entries]
            until(net.agree)
            await_mined(net, posted)
        stop(net.nodes)
    for follower, node in zip(followers, net.nodes, strict=True):
        follower.stop()
        require_each_once(node, posted)
        with Ledger.open(node.ledger, read_only=True) as ledger:
            assert [block["hash"] for block in follower.chain] == [b.hash for b in ledger[:]]
    require_losers_came_over(followers, rounds)


def require_losers_came_over(followers: list[Changes], rounds: int) -> None:
    """Check that after each partition one side, and not the other, has given up its blocks."""
    losers: dict[int, set[int]] = {}
    for number, follower in enumerate(followers):
        for gone, came in follower.reorganisations:
            assert work_of_all(came) > work_of_all(gone)
            if len(gone) >= APART_BLOCKS:
                losers.setdefault(gone[0]["index"], set()).add(number)
    assert len(losers) >= rounds
    assert all(len(side) < len(followers) for side in losers.values())


def test_four_nodes_come_to_one_chain_after_a_crash_and_a_partition(tmp_path: Path) -> None:
    live(tmp_path, 1)


@pytest.mark.soak
def test_four_nodes_come_to_one_chain_again_and_again(tmp_path: Path) -> None:
    live(tmp_path, 12)


def test_a_partition_longer_than_the_final_depth_stops_the_losing_side(tmp_path: Path) -> None:
    seal = Work(interval=SECOND // 2, half_life=3 * SECOND, final_depth=4)
    ledgers = make_ledgers(tmp_path, 4, seal, bits=first_bits(SECOND // 2))
    with Net(ledgers, lambda _: ["--mine"]) as net:
        until(lambda: all(len(node.get("/peers")["peers"]) == 3 for node in net.nodes))
        until(net.agree)
        sides = [{0, 1}, {2, 3}]
        part(net, *sides, hold=True, final=True)

        until(lambda: any(has_stopped(node) for node in net.nodes))
        [lost] = [s for s in sides if any(has_stopped(net.nodes[number]) for number in s)]
        until(lambda: all(has_stopped(net.nodes[number]) for number in lost))
        for number, node in enumerate(net.nodes):
            assert has_stopped(node) == (number in lost)
            assert (" CRITICAL " in node.server.errors()) == (number in lost)
            with node.server.client() as client:
                answer = client.ask("POST", "/block?wait=0", b"1")
            assert answer.status == (503 if number in lost else 202)
            assert bool(node.get("/peers")["halted"]) == (number in lost)
        stop(net.nodes)


def has_stopped(node: Node) -> bool:
    return node.server.get("/health").status == 503
