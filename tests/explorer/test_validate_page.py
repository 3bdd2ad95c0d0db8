"""Validation in the browser: watched as it goes, and shown at the block that breaks a rule."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page, expect

from cairn import Ledger
from cairn.core.rules import NUMBERS
from cairn.explorer.rules import MEANINGS
from cairn.store.directory import FILE_NAME
from tests.explorer.conftest import Visit, require_accessible
from tests.explorer.test_pages import BROWSER
from tests.service.harness import PATIENCE, Server, hold_validation, running, start, until
from tests.service.test_validation import SLOW, change, first_run, of_many_files

KEEP: Final = """() => {
    window.kept = {};
    for (const id of ["told", "blocks", "speed", "rate", "elapsed"]) {
        const element = document.getElementById(id);
        window.kept[id] = [];
        const keep = () => window.kept[id].push(element.textContent);
        new MutationObserver(keep).observe(element, { childList: true });
    }
    window.kept.done = [];
    const bar = document.getElementById("done");
    const keep = () => window.kept.done.push(bar.position);
    new MutationObserver(keep).observe(bar, { attributes: true });
}"""
"""Keeps what the page shows, and what its bar is at (-1: it does not know)."""


def url(server: Server, query: str = "") -> str:
    return f"http://127.0.0.1:{server.port}/validate{query}"


def press(page: Page) -> None:
    page.get_by_role("button", name="Validate").click()


def expect_verdict(page: Page, verdict: str) -> None:
    """Wait for it: validation yields to all else that goes on."""
    expect(page.locator("#verdict")).to_have_text(verdict, timeout=1000 * PATIENCE)


def validations_asked_for(visit: Visit) -> int:
    return len([one for one in visit.requests if "/validate/events" in one or "run=" in one])


def test_validation_is_watched_as_it_goes_and_its_report_shown(
    tmp_path: Path, visit: Visit
) -> None:
    path = of_many_files(tmp_path / "ledger")
    environment = first_run(tmp_path / "slow", SLOW)
    with running(start(path, environment=environment)) as server:
        page = visit(url(server))
        expect(page.locator("#verdict")).to_have_text("Not validated yet")
        expect(page.get_by_role("progressbar")).to_have_count(0)
        require_accessible(page)
        page.evaluate(KEEP)
        press(page)
        expect(page.get_by_role("progressbar", name="Blocks read")).to_be_visible()
        expect(page.get_by_role("button", name="Validate")).to_be_disabled()
        require_accessible(page)
        expect_verdict(page, "Valid")
        expect(page.get_by_role("button", name="Validate")).to_be_enabled()
        expect(page.get_by_role("progressbar")).to_have_count(0)
        expect(page.get_by_role("status")).to_have_text("The ledger is valid.")
        expect(page.locator("#report")).to_contain_text("17")
        kept: dict[str, list[Any]] = page.evaluate("kept")
        blocks = [int(text) for text in kept["blocks"]]
        assert blocks == sorted(blocks)
        assert len(set(blocks)) > 3, "it has hardly moved"
        known = [position for position in kept["done"] if position >= 0]
        assert known == sorted(known)
        assert 0 < known[0] < known[-1] <= 1
        assert re.fullmatch(r"\d+\.\d\d GB/s", kept["speed"][-1])
        assert re.fullmatch(r"[\d,]+ blocks/s", kept["rate"][-1])
        assert re.fullmatch(r"\d+\.\d s", kept["elapsed"][-1])
        assert kept["told"][0] == "Validation has begun."
        assert len(kept["told"]) <= 5, "who listens to the page is flooded"
        assert validations_asked_for(visit) == 1
        require_accessible(page)


def test_button_keeps_the_focus_of_one_who_presses_it_by_keyboard(
    tmp_path: Path, visit: Visit
) -> None:
    environment, gate = hold_validation(tmp_path)
    with running(start(tmp_path / "ledger", environment=environment)) as server:
        page = visit(url(server))
        button = page.get_by_role("button", name="Validate")
        button.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("progressbar")).to_be_visible()
        expect(button).to_be_focused()
        expect(button).to_be_disabled()
        page.keyboard.press("Enter")  # which does nothing meanwhile
        gate.touch()
        expect_verdict(page, "Valid")
        expect(button).to_be_focused()
        expect(button).to_be_enabled()
        assert validations_asked_for(visit) == 1


def test_page_that_is_opened_meanwhile_joins_the_run(tmp_path: Path, visit: Visit) -> None:
    environment, gate = hold_validation(tmp_path)
    with running(start(tmp_path / "ledger", environment=environment)) as server:
        first = visit(url(server))
        press(first)
        (process,) = until(server.validations)
        second = visit(url(server))
        expect(second.get_by_role("progressbar")).to_be_visible()
        bare = visit(url(server), java_script_enabled=False)
        expect(bare.get_by_role("status")).to_have_text("A run is under way.")
        assert server.validations() == [process]
        gate.touch()
        for page in (first, second):
            expect_verdict(page, "Valid")


def test_button_validates_without_script(tmp_path: Path, visit: Visit) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(range(10))
    with running(start(path), unsigned=True) as server:
        page = visit(url(server), java_script_enabled=False)
        press(page)
        expect_verdict(page, "Valid")
        change(path, 5)
        page.goto(url(server))
        expect_verdict(page, "Valid")  # that was what was found last
        press(page)
        expect_verdict(page, "NOT VALID")
        expect(page.locator("#block-5")).to_have_attribute("data-state", "bad")


def test_tampered_block_is_shown_red_between_its_neighbours(tmp_path: Path, visit: Visit) -> None:
    path = tmp_path / "ledger"
    lie = "</pre><img src=x onerror='document.title = 1'>"
    with Ledger.open(path) as ledger:
        ledger.extend({"ship": step, "says": lie} for step in range(1, 40))
    change(path, 20)
    with running(start(path), unsigned=True) as server:
        page = visit(url(server))
        press(page)
        expect_verdict(page, "NOT VALID")
        expect(page.locator("#told")).to_have_text("NOT VALID: see block 20.")
        report = page.locator("#report")
        expect(report).to_contain_text("Block 20 breaks rule 8, size.")
        expect(report).to_contain_text(MEANINGS["size"])
        with server.client() as client:
            failure = client.get("/validate").value["failure"]
        found = report.locator(".comparison:not(.ours) dd").all_inner_texts()
        assert found == [str(failure["expected"]), str(failure["found"])]
        shown = page.locator(".chain article").evaluate_all(
            "all => all.map((one) => [one.id, one.dataset.state ?? ''])"
        )
        assert shown == [["block-19", "good"], ["block-20", "bad"], ["block-21", "follows"]]
        expect(page.locator("#block-21")).to_contain_text("Follows a broken block.")
        expect(page.locator("#block-21")).to_contain_text(lie)
        expect(report).to_contain_text(
            "By its own record the ledger has 40 blocks. What is there after block 20 rests on a "
            "broken one."
        )
        assert page.title() == "Validate · ledger · Cairn"
        require_accessible(page)
        dark = visit(url(server), color_scheme="dark")  # what was found last
        narrow = visit(url(server), viewport={"width": 320, "height": 640})
        for page in (dark, narrow):
            expect(page.locator("#block-20")).to_have_attribute("data-state", "bad")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            require_accessible(page)


def test_store_that_cannot_be_read_still_has_its_page(tmp_path: Path, visit: Visit) -> None:
    path = of_many_files(tmp_path / "ledger")
    with running(start(path), may_log=True) as server:
        (path / "segments").joinpath(sorted((path / "segments").iterdir())[8]).write_bytes(b"gone")
        page = visit(url(server))
        press(page)
        expect_verdict(page, "NOT VALID")
        expect(page.locator("#report")).to_contain_text("breaks the rule storage.")
        expect(page.locator("#report")).to_contain_text(MEANINGS["storage"])
        broken = page.locator(".chain article[data-state=bad]").first
        expect(broken).to_contain_text("It cannot be read:")
        require_accessible(page)


def test_end_that_was_cut_off_is_shown_where_it_was(tmp_path: Path, visit: Visit) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        for step in range(10):
            ledger.append(step)
    with running(start(path), may_log=True) as server:
        with sqlite3.connect(path / FILE_NAME) as connection:
            connection.execute("DELETE FROM runs WHERE first >= 8")
        page = visit(url(server, "?run=true"))
        expect(page.locator("#report")).to_contain_text("Block 8 breaks the rule head.")
        expect(page.locator("#block-7")).not_to_have_attribute("data-state", "bad")
        expect(page.locator("#block-8")).to_contain_text("It cannot be read")
        expect(page.locator("#block-9")).to_have_count(0)


def test_blocks_that_are_gone_are_not_said_to_follow(tmp_path: Path, visit: Visit) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        for step in range(20):
            ledger.append(step)
    with running(start(path), may_log=True) as server:
        with sqlite3.connect(path / FILE_NAME) as connection:
            connection.execute("DELETE FROM runs WHERE first >= 8")
            connection.execute("UPDATE runs SET data = zeroblob(length(data)) WHERE first = 5")
        page = visit(url(server, "?run=true"))
        expect(page.locator("#verdict")).to_have_text("NOT VALID")
        expect(page.locator("#report")).to_contain_text(
            "By its own record the ledger has 21 blocks."
        )
        expect(page.locator("#report")).not_to_contain_text("follow it")


def test_stop_or_an_end_meanwhile_is_no_verdict(tmp_path: Path, visit: Visit) -> None:
    environment, _ = hold_validation(tmp_path)
    server = start(tmp_path / "ledger", environment=environment)
    with running(server, may_log=True):
        page = visit(url(server))
        press(page)
        (process,) = until(server.validations)
        server.stop()
        expect(page.get_by_role("status")).to_have_text("There is no verdict: the node is stopping")
        until(lambda: process not in server.validations())
        press(page)
        expect(page.get_by_role("status")).to_contain_text("The node does not answer any more")
        expect(page.get_by_role("button", name="Validate")).to_be_enabled()
        assert any("ERR_CONNECTION_REFUSED" in said for said in visit.trouble)
        visit.trouble.clear()


def test_looking_at_the_page_validates_nothing(tmp_path: Path) -> None:
    with running(start(tmp_path / "ledger")) as server, server.client() as client:
        for query in ("", "?run=false"):
            answer = client.get(f"/validate{query}", {"Accept": BROWSER})
            assert "Not validated yet" in answer.body.decode()
        assert b"cairn_validated_blocks 0.0" in client.get("/metrics").body
        assert client.get("/validate?run=yes").problem() == "bad-request"
        assert client.get("/validate?run=false").value["valid"], "programs have it run"
        assert "Every block" in client.get("/validate", {"Accept": BROWSER}).body.decode()


def test_what_each_rule_means_is_said() -> None:
    assert [*MEANINGS] == [*NUMBERS, "storage", "head", "checkpoint"]
