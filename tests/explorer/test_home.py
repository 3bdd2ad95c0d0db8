"""The first page of ledgers that are not as usual: changed under it, damaged, of large blocks."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from playwright.sync_api import expect

from cairn import Ledger
from cairn.store.directory import FILE_NAME
from tests.api.servers import resident_bytes, start
from tests.explorer.conftest import Visit
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
