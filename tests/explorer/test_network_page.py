"""The network page: peers, the tree of blocks and reorganisations, as they come and go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from cairn.cli.init import first_bits
from cairn.core.genesis import Work
from tests.api.servers import start
from tests.explorer.conftest import Visit, require_accessible
from tests.service.network import SLOW, Net, Node, make_ledgers, until

SECOND = 1_000_000
APART_BLOCKS = 3
"""That each side of a partition mines for itself, at least."""
MINERS = (0, 2)
"""One on each side; more would load a small machine, and show no more."""
PATIENCE = SLOW * 1000
"""Milliseconds in which a page shows what its node knows."""
HTML = {"accept": "text/html"}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    seal = Work(interval=SECOND, half_life=10 * SECOND, final_depth=30)
    ledgers = make_ledgers(tmp_path, 4, seal, bits=first_bits(SECOND // 2))
    with Net(ledgers, lambda number: ["--mine"] if number in MINERS else []) as net:
        yield net


def test_a_partition_that_heals_is_seen_as_it_happens(net: Net, visit: Visit) -> None:
    pages = {number: visit(f"{url(net.nodes[number])}/peers") for number in MINERS}
    for page in pages.values():
        page.evaluate("window.stayed = true")
        expect(page.locator("#network-peers tbody tr")).to_have_count(3, timeout=PATIENCE)
        expect(page.get_by_role("status")).to_contain_text("3 peers are connected.")
        expect(page.locator("#network-tree a.head")).to_have_count(1)
        expect(page.locator("#network-tree a.final")).not_to_have_count(0)

    lines = net.between({0, 1}, {2, 3})
    for line in lines:
        line.cut()
    fork = max(net.nodes[number].head[0] for number in MINERS)
    for number, page in pages.items():
        expect(page.locator("#network-peers tbody tr")).to_have_count(1, timeout=PATIENCE)
        net.nodes[number].await_mined([net.nodes[number].post(["apart", number])])
        net.nodes[number].await_length(fork + 1 + APART_BLOCKS)
    until(lambda: len({net.nodes[number].work for number in MINERS}) == 2)
    for line in lines:
        line.heal()
    until(lambda: any(deepest(net.nodes[number]) for number in MINERS))
    [loser] = [number for number in MINERS if deepest(net.nodes[number])]

    page, move = pages[loser], deepest(net.nodes[loser])
    assert move is not None
    row = page.locator("#network-reorganisations tbody tr").filter(
        has_text=move["before"]["hash"][:12]
    )
    expect(row).to_contain_text(f"{move['depth']} blocks", timeout=PATIENCE)
    expect(row).to_contain_text(move["after"]["hash"][:12])
    assert move["returned"] >= 1, "an entry was on one side only"
    sides = page.locator(f"#network-tree [data-key='side {move['before']['hash']}']")
    expect(sides).to_have_count(1, timeout=PATIENCE)
    expect(page.get_by_role("status")).to_contain_text("The chain was reorganised")
    expect(page.locator("#network-branches")).to_contain_text(
        f"to {move['before']['index']}, which"
    )
    expect(page.locator("#network-peers tbody tr")).to_have_count(3, timeout=PATIENCE)
    for page in pages.values():
        assert page.evaluate("window.stayed"), "it was loaded again"
        require_accessible(page)

    page = pages[loser]
    require_links(page, net.nodes[loser])
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "its boxes scroll instead"
    plain = visit(f"{url(net.nodes[loser])}/peers", java_script_enabled=False)
    expect(plain.locator("#network-peers tbody tr")).to_have_count(3)
    expect(plain.locator("#network-tree g.side").nth(APART_BLOCKS - 1)).to_be_attached()


def url(node: Node) -> str:
    return f"http://127.0.0.1:{node.server.port}"


def deepest(node: Node) -> dict[str, Any] | None:
    """Return the reorganisation that the partition has caused, once its entries are counted."""
    found = [
        one
        for one in node.get("/peers")["last_reorganisations"]
        if one["depth"] >= APART_BLOCKS and one["returned"] is not None
    ]
    return found[0] if found else None


def require_links(page: Page, node: Node) -> None:
    """Hold the tree to what the node has: blocks of the chain lead to their pages."""
    links = page.locator("#network-tree a").evaluate_all(
        "all => all.map(one => one.getAttribute('href'))"
    )
    assert len(links) > APART_BLOCKS
    for link in (links[0], links[-1]):
        assert node.server.get(link).value["hash"] == link.rpartition("/")[2]
    assert page.locator("#network-tree g.side").count() >= APART_BLOCKS
    assert page.locator("#network-tree g.side a").count() == 0, "it is not on the chain"


def test_an_instant_ledger_says_that_it_is_shared_with_nobody(tmp_path: Path, visit: Visit) -> None:
    with start(tmp_path / "ledger") as server:
        page = visit(f"{server.url}/peers")
        expect(page.get_by_text("shared with nobody")).to_be_visible()
        expect(page.locator("table, svg#network-tree")).to_have_count(0)
        require_accessible(page)
        with server.client() as client:
            assert client.get("/peers").json() == {"peers": []}
            assert (
                client.get("/peers", headers=HTML).headers["content-type"].startswith("text/html")
            )
        page.context.close()
