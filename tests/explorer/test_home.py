"""The first page of ledgers that are not as usual: changed under it, damaged, of large blocks."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from playwright.sync_api import expect

from cairn import Ledger
from cairn.store.directory import FILE_NAME
from tests.api.servers import resident_bytes, start
from tests.explorer.conftest import Visit, require_accessible
from tests.explorer.test_pages import BROWSER


def test_block_that_is_changed_and_restored_in_the_lab_is_shown_so_on_an_open_page(
    tmp_path: Path, visit: Visit
) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend({"pay": i} for i in range(1, 6))
    with start(tmp_path / "ledger", "--lab") as server, server.client() as client:
        page = visit(server.url)
        card = page.locator("#block-5")
        expect(card.locator(".checked")).to_have_attribute("data-checked", "good")
        client.post("/lab/edit", data={"block": "5", "data": '{"pay":9}'})
        expect(card).to_contain_text('{"pay":9}')
        expect(card.locator(".checked")).to_have_attribute("data-checked", "bad")
        client.post("/lab/undo")
        expect(card).to_contain_text('{"pay":5}')
        expect(card.locator(".checked")).to_have_attribute("data-checked", "good")


def test_end_that_cannot_be_read_is_told_in_sentences_and_leaves_the_cards_their_room(
    tmp_path: Path, visit: Visit
) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        for i in range(30):
            ledger.append({"n": i})
    with start(tmp_path / "ledger") as server:
        with sqlite3.connect(tmp_path / "ledger" / FILE_NAME) as connection:
            connection.execute("DELETE FROM runs WHERE first >= 20")
        page = visit(server.url, viewport={"width": 1280, "height": 800})
        expect(page.get_by_role("alert")).to_have_text(
            re.compile(r"cannot be read: .*block 30 is missing\. Validate says what is wrong\.$")
        )
        button = page.get_by_role("button", name="Pause").bounding_box()
        card = page.locator("article.block").first.bounding_box()
        assert button
        assert card
        assert button["y"] + button["height"] <= card["y"]
        assert "1 blocks" not in page.locator("main").inner_text()


def test_hint_for_a_fresh_ledger_goes_when_a_block_comes(tmp_path: Path, visit: Visit) -> None:
    with start(tmp_path / "ledger") as server, server.client() as client:
        page = visit(server.url)
        expect(page.locator("#begin")).to_contain_text(f"{server.url}/block")
        require_accessible(page)
        client.post("/block", json=1)
        expect(page.locator("#block-1")).to_be_visible()
        expect(page.locator("#begin")).to_be_hidden()


def test_damage_long_ago_takes_nothing_from_the_page(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        for i in range(200):
            ledger.append({"n": i})
    with sqlite3.connect(tmp_path / "ledger" / FILE_NAME) as connection:
        connection.execute("UPDATE runs SET headers = x'00' WHERE first = 100")
    with start(tmp_path / "ledger") as server, server.client(headers={"Accept": BROWSER}) as client:
        home = client.get("/").text
        assert "cannot be read" in home.partition('id="charts"')[2]
        assert "cannot be read" not in home.partition('id="charts"')[0]
        assert client.get("/summary").json()["length"] == 201
        assert client.get("/blocks?contains=12").status_code == 200
        assert client.get("/blocks?since=1h").status_code == 200


def test_large_blocks_are_not_read_again_and_again(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        for i in range(12):
            ledger.append({"n": i, "text": "x" * 2_000_000})
    with start(tmp_path / "ledger") as server, server.client(headers={"Accept": BROWSER}) as client:
        assert len(client.get("/").text) < 100_000
        held = resident_bytes(server)
        for _ in range(10):
            client.get("/")
        assert resident_bytes(server) - held < 16 * 2**20
