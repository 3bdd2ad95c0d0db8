"""Reading the chain a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cairn import Ledger
from cairn.api.bounds import PAGE_BLOCKS, PAGE_BYTES
from tests.api.answers import guarded
from tests.api.conftest import Serve

BLOCKS = 2 * PAGE_BLOCKS + 345
"""Of the ledger that is read here, genesis included."""


@pytest.fixture(scope="module")
def chain(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = tmp_path_factory.mktemp("chain") / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(range(1, BLOCKS))
    with serve_all(ledger=path).client() as client:
        yield client


def pages(client: httpx.Client, first: str, name: str) -> Iterator[dict[str, Any]]:
    """Follow the links from page to page; check that the two places of each link agree."""
    following: str | None = first
    for _ in range(10_000):
        answer = client.get(following or "")
        assert answer.status_code == 200, answer.text
        guarded(answer.headers)
        page = answer.json()
        assert len(page[name]) <= PAGE_BLOCKS
        yield page
        following = page["next"]
        link = f'<{following}>; rel="next"' if following else None
        assert answer.headers.get("link") in (None, link)
        if following is None:
            return
    raise AssertionError("the pages do not end")


def test_the_first_page(chain: httpx.Client) -> None:
    page = chain.get("/").json()
    assert list(page) == ["length", "chain", "next"]
    assert page["length"] == BLOCKS
    assert [block["index"] for block in page["chain"]] == list(range(PAGE_BLOCKS))
    assert page["next"] == f"/?start={PAGE_BLOCKS}"


@pytest.mark.parametrize(
    ("query", "start", "limit"),
    [
        ("", 0, 1000),
        ("?start=1500", 1500, 1000),
        ("?limit=999", 0, 999),
        (f"?limit=1&start={BLOCKS - 3}", BLOCKS - 3, 1),
        (f"?start={BLOCKS - 400}&limit=200", BLOCKS - 400, 200),
        (f"?start={BLOCKS - 1}", BLOCKS - 1, 1000),
        (f"?start={BLOCKS}", BLOCKS, 1000),
        (f"?start={BLOCKS - 1}&limit=1", BLOCKS - 1, 1),
    ],
)
def test_following_the_links_gives_every_block_once(
    chain: httpx.Client, query: str, start: int, limit: int
) -> None:
    found = list(pages(chain, f"/{query}", "chain"))
    sizes = [len(page["chain"]) for page in found]
    assert max(sizes) <= limit
    blocks = [block for page in found for block in page["chain"]]
    assert [block["index"] for block in blocks] == list(range(start, BLOCKS))
    assert all(block["data"] == block["index"] for block in blocks[start == 0 :])
    assert [block["hash"] for block in blocks[:-1]] == [b["previous_hash"] for b in blocks[1:]]
    assert {page["length"] for page in found} == {BLOCKS}


def test_a_page_holds_what_its_block_alone_does(chain: httpx.Client) -> None:
    for block in chain.get("/?start=998&limit=5").json()["chain"]:
        assert chain.get(f"/blocks/{block['index']}").json() == block


def test_the_chain_may_grow_while_it_is_read(chain: httpx.Client, serve: Serve) -> None:
    with serve().client() as client:
        client.post("/blocks", content=b"1\n2\n3")
        reading = pages(client, "/?limit=2", "chain")
        first = next(reading)
        client.post("/block", content=b"4")
        others = list(reading)
    indexes = [b["index"] for page in (first, *others) for b in page["chain"]]
    assert indexes == [0, 1, 2, 3, 4]
    assert [page["length"] for page in (first, *others)] == [4, 5, 5]


def test_a_page_has_a_bounded_size(serve: Serve, tmp_path: Path) -> None:
    """Of 30 MiB, each page holds 8 MiB and what was read at once when they were passed."""
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(letter * 2**20 for letter in "abcdefghijklmnopqrstuvwxyzABCD")
    with serve().client() as client:
        for path, name in (("/", "chain"), ("/blocks?contains=%22", "blocks")):
            found = list(pages(client, path, name))
            assert len(found) > 2
            for page in found:
                sizes = [block["size"] for block in page[name]]
                assert sizes
                assert sum(sizes) <= PAGE_BYTES + 2 * 2**20
            indexes = [block["index"] for page in found for block in page[name]]
            assert indexes == list(range(31))
