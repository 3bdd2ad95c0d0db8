"""The lab: break a chain, see what catches it and why, and undo that; mine; count chances."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Event
from typing import Any, Final
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from cairn import Ledger
from cairn.api.lab import EXAMPLES
from cairn.api.lab_attack import percent
from cairn.api.lab_page import suggestion
from cairn.core.block import Block
from cairn.core.entry import Entry
from cairn.core.genesis import Genesis
from cairn.core.header import Header, Kind
from cairn.core.rules import Stored, check_link, check_work
from cairn.lab.tampering import tamper
from tests.builders import SEAL
from tests.explorer.conftest import Visit, require_accessible
from tests.explorer.test_live import TRACED, cpu_of_tasks
from tests.explorer.test_pages import HOSTILE
from tests.service.harness import (
    PATIENCE,
    Answer,
    Client,
    Follower,
    Server,
    running,
    start,
    threads,
    until,
)

WAIT: Final = 1000 * PATIENCE
"""Milliseconds that an act may take, with the validation after it: that yields to all else."""
PAYMENTS: Final = [{"from": "alice", "to": "bob", "amount": 100 + i} for i in range(9)]


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a lab of ten blocks."""
    with Ledger.open(folder / "ledger") as ledger:
        ledger.extend(PAYMENTS)
    with running(start(folder / "ledger", "--lab")) as server:
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture
def lab(shared: Server) -> Iterator[Server]:
    """A lab of ten blocks, to which nothing is appended, and in which nothing is done yet."""
    yield shared
    with shared.client() as client:
        if done(client):
            assert submit(client, "/lab/undo", all="on").status == 303
        assert client.get("/?limit=1").value["length"] == 10


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Server]:
    """One for a single test."""
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Server]:
    """A lab of genesis alone."""
    with running(start(tmp_path / "ledger", "--lab")) as server:
        yield server


def url(server: Server, path: str = "/lab") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click(timeout=WAIT)


def change(page: Page) -> None:
    """Press the button that says which block it changes."""
    page.get_by_role("button", name=re.compile("^Change block")).click(timeout=WAIT)


def title(page: Page) -> Any:
    return expect(page.locator("#result-title"))


def states(page: Page) -> dict[str, str | None]:
    """Return which blocks are shown, and what as, once this browser has checked them, too."""
    unchecked = page.locator("#result article .checked", has_text=re.compile("^not checked$"))
    expect(unchecked).to_have_count(0)
    articles = page.locator("#result article").all()
    return {a.get_attribute("id") or "": a.get_attribute("data-state") for a in articles}


def comparison(page: Page) -> list[str]:
    return page.locator("#result > .comparison dd").all_inner_texts()


def submit(client: Client, path: str, headers: dict[str, str] | None = None, **form: str) -> Answer:
    """Submit a form as a browser does."""
    return client.ask("POST", path, urlencode(form).encode(), headers)


def done(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/lab").value["done"]
    return found


def told(follower: Follower, index: int) -> list[dict[str, Any]]:
    """Return the blocks that one who follows is told of, until this one; in good time."""
    deadline = time.monotonic() + PATIENCE
    blocks: list[dict[str, Any]] = []
    for message in follower.messages():
        assert time.monotonic() < deadline, "nothing was told"
        if not message.startswith(":"):
            blocks.append(json.loads(message.partition("\ndata: ")[2]))
            if blocks[-1]["index"] >= index:
                return blocks
    raise AssertionError("the node let us go")


# In the browser


def test_a_newcomer_sees_a_block_turn_red_in_three_clicks(empty: Server, visit: Visit) -> None:
    page = visit(url(empty, "/"))
    page.get_by_role("link", name="Lab", exact=True).click()
    press(page, "Record six payments")
    expect(page.locator("#edit-data")).to_have_value(re.compile('"amount":10,'), timeout=WAIT)
    page.get_by_role("button", name="Change something at random").press("Space", timeout=WAIT)
    expect(page.locator("#result .block[data-state=bad]")).to_be_visible(timeout=WAIT)
    expect(page.locator("#result .verdict")).to_contain_text(re.compile("Caught at block [0-6]"))
    with empty.client() as client:
        blocks = client.get("/").value["chain"]
        tampered = [b for b in blocks if "tampered" in str(b["data"])]
        assert len(blocks) == 1 + len(EXAMPLES)
        assert len(tampered) == 1


def test_a_lie_turns_red_says_why_and_is_undone(lab: Server, visit: Visit) -> None:
    with lab.client() as client:
        before = client.get("/").body
        page = visit(url(lab))
        require_accessible(page)
        text = page.locator("#edit-data").input_value()
        assert json.loads(text) == PAYMENTS[0]
        hint = re.fullmatch(r"Try: change (\d+) to (\d+)\.", page.locator("#try").inner_text())
        assert hint
        page.locator("#edit-data").fill(text.replace(hint[1], hint[2]))
        page.get_by_role("button", name="Change block 1", exact=True).click()
        title(page).to_have_text("Changed the data of block 1, and nothing else", timeout=WAIT)
        assert page.url.endswith("/lab#result")
        expect(page.locator("#result .verdict")).to_have_text("Caught at block 1, by rule 8, size.")
        expect(page.locator("#result")).to_contain_text("The header of block 1 says how many bytes")
        failure = client.get("/validate").value["failure"]
        assert comparison(page) == [str(failure["expected"]), str(failure["found"])]
        assert states(page) == {
            "block-0": "good",
            "block-1": "bad",
            "block-2": "follows",
            "block-3": "follows",
        }
        expect(page.locator("#block-1")).to_contain_text(re.compile(f'"amount": ?{hint[2]}'))
        found = page.locator("#block-1 .checked")  # by itself
        expect(found).to_contain_text("WRONG. This does not hold: size is that of all entries")
        expect(page.locator("#block-2")).to_contain_text("Follows a broken block.")
        expect(page.locator("#result > .soft")).to_have_text(f"Block 1 said before: {text}")
        assert client.get("/blocks/1").value["data"]["amount"] == int(hint[2])
        press(page, "Undo")
        title(page).to_have_text("Undone, and valid", timeout=WAIT)
        assert states(page) == {}
        assert client.get("/").body == before
        require_accessible(page)


def test_a_block_that_agrees_with_itself_is_caught_by_the_next(lab: Server, visit: Visit) -> None:
    page = visit(url(lab, "/lab?block=4"))
    page.locator("#edit-data").fill('{"from": "alice", "to": "eve", "amount": 103}')
    page.get_by_role("checkbox", name="and compute the block’s hash anew").check()
    change(page)
    expect(page.locator("#result .verdict")).to_contain_text("at block 5, by rule 6", timeout=WAIT)
    assert states(page) == {
        "block-3": "good",
        "block-4": "bad",  # this browser cannot tell which of the two is wrong
        "block-5": "bad",
        "block-6": "follows",
    }
    expect(page.locator("#block-4")).to_contain_text("its hash computed anew")
    with lab.client() as client:
        assert comparison(page)[0] == client.get("/blocks/4").value["hash"]


def test_blocks_that_are_left_out_between_two_broken_ones_are_no_fault(
    lab: Server, visit: Visit
) -> None:
    with lab.client() as client:
        for index in (2, 8):
            assert submit(client, "/lab/edit", block=str(index), data='"a lie"').status == 303
    page = visit(url(lab))
    expect(page.locator("#result .gap")).to_have_text("3 blocks between are not shown.")
    assert states(page) == {
        "block-2": "bad",
        "block-3": "follows",
        "block-7": "follows",
        "block-8": "bad",
        "block-9": "follows",
    }
    expect(page.locator("#block-8 .checked")).to_contain_text("size is that of all entries")


def test_a_perfect_chain_is_caught_by_who_remembers(lab: Server, visit: Visit) -> None:
    page = visit(url(lab, "/lab?block=4"))
    page.locator("#rechain-data").fill('{"from": "alice", "to": "eve", "amount": 1}')
    press(page, "Make it anew")
    verdict = "The chain alone is valid. What catches it is a remembered checkpoint."
    expect(page.locator("#result .verdict")).to_have_text(verdict, timeout=WAIT)
    assert states(page)["block-4"] == "bad"
    assert states(page)["block-5"] == "follows"
    expect(page.locator("#block-4 .checked")).to_contain_text("✓ agrees with itself")
    press(page, "Undo")
    title(page).to_have_text("Undone, and valid", timeout=WAIT)
    page.locator("#truncate-block").fill("6")
    press(page, "Cut it off")
    expect(page.locator("#result .verdict")).to_contain_text("the check head", timeout=WAIT)
    assert comparison(page) == ["10", "6"]
    assert states(page) == {"block-5": "good", "block-6": "bad"}
    expect(page.locator("#block-6")).to_contain_text("It was here, and was cut off.")
    expect(page.locator("#mine")).to_contain_text("cannot be read just now")
    press(page, "Undo")
    title(page).to_have_text("Undone, and valid", timeout=WAIT)
    page.locator("#truncate-block").fill("6")
    page.get_by_role("checkbox", name="and change the record").check()
    press(page, "Cut it off")
    expect(page.locator("#result .verdict")).to_have_text(verdict, timeout=WAIT)
    require_accessible(page)


def test_a_chain_that_was_made_anew_is_not_the_one_that_was_signed(
    lab: Server, visit: Visit
) -> None:
    """Which of its blocks are others no browser can tell: none is blamed that is as it was."""
    with lab.client() as client:
        before = client.get("/blocks/2").value
        lie = '{"from": "alice", "to": "eve", "amount": 1}'
        assert submit(client, "/lab/rechain", block="4", data=lie).status == 303
        assert client.get("/blocks/2").value == before
        page = visit(url(lab, "/blocks/4"))
        for index in (4, 9, 2, 0):
            page.goto(url(lab, f"/blocks/{index}"))
            line = page.locator("article .checked")
            expect(line).to_contain_text("This chain is not the one that was signed")
            expect(line).to_have_attribute("data-checked", "bad")
            expect(line).to_contain_text(f"Block {index} agrees with itself")
            expect(line).not_to_contain_text("WRONG")
            assert page.locator("article > .comparison dd").count() == 2
        assert all("500" in text for text in visit.trouble)  # there is no receipt
        visit.trouble.clear()


def test_two_stories_are_told_and_who_compares_knows(lab: Server, visit: Visit) -> None:
    page = visit(url(lab))
    press(page, "Show two histories")
    fork = page.locator("#fork")
    expect(fork).to_contain_text("Nothing in either chain catches it", timeout=WAIT)
    expect(fork).to_contain_text("clients, who compare what they were shown")
    expect(fork).to_contain_text("a witness, which cosigns the first, and no other")
    hashes = fork.locator("article").all_inner_texts()
    assert len(set(hashes)) == 2
    require_accessible(page)
    assert fork.locator(".checked, [data-state]").count() == 0  # they are no part of the chain
    with lab.client() as client:
        assert client.get("/validate").value["valid"] is True
        assert client.get("/?limit=1").value["length"] == 10


def test_what_was_refused_stays_in_the_form(lab: Server, visit: Visit) -> None:
    page = visit(url(lab))
    page.locator("#edit-data").fill('{"amount": 1')
    change(page)
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("Nothing was changed", timeout=WAIT)
    expect(page.locator("#edit-data")).to_have_value('{"amount": 1')
    page.goto(url(lab))
    change(page)
    expect(problem).to_contain_text("block 1 says that already: change something")
    page.goto(url(lab, "/lab?block=4"))
    page.locator("#truncate-block").fill("500")
    page.get_by_role("checkbox", name="and change the record").check()
    press(page, "Cut it off")
    expect(problem).to_have_text("Nothing was changed: there is no block 500: the last is 9")
    expect(page.locator("#truncate-block")).to_have_value("500")
    expect(page.get_by_role("checkbox", name="and change the record")).to_be_checked()
    expect(page.locator("#fetch")).to_have_value("1")
    page.locator("#rechain-data").fill("{")
    press(page, "Make it anew")
    expect(page.locator("#rechain-data")).to_have_value("{")
    assert json.loads(page.locator("#edit-data").input_value()) == PAYMENTS[0]
    assert len(visit.trouble) == 4  # a browser notes every answer of 400 and more
    visit.trouble.clear()


def test_another_block_is_fetched_before_it_can_be_changed(lab: Server, visit: Visit) -> None:
    page = visit(url(lab))
    page.locator("#fetch").fill("4")
    page.locator("#fetch").press("Enter")
    expect(page.locator("#edit-data")).to_have_value(re.compile('"amount":103,'), timeout=WAIT)
    with lab.client() as client:
        assert done(client) == []
    page.locator("#edit-data").fill('"a lie"')
    page.get_by_role("button", name="Change block 4", exact=True).click()
    title(page).to_have_text("Changed the data of block 4, and nothing else", timeout=WAIT)
    page.goto(url(lab, "/lab?block=99"))
    expect(page.get_by_role("alert")).to_have_text("there is no block 99: the last is 9")
    expect(page.locator("label[for=edit-data]")).to_have_text("What block 1 says (JSON)")
    page.locator("#fetch").fill("")
    page.locator("#fetch").press("Enter")
    assert page.url.endswith("?block=99")  # the browser asks for a number first
    assert len(visit.trouble) == 1
    visit.trouble.clear()


def test_all_of_it_works_without_script(empty: Server, visit: Visit) -> None:
    page = visit(url(empty), java_script_enabled=False)
    press(page, "Record six payments")
    page.locator("#edit-data").fill('"a lie"')
    change(page)
    expect(page.locator("#result .verdict")).to_contain_text("Caught at block 1", timeout=WAIT)
    press(page, "Undo")
    title(page).to_have_text("Undone, and valid", timeout=WAIT)
    press(page, "Show two histories")
    expect(page.locator("#fork")).to_contain_text("a witness", timeout=WAIT)
    expect(page.locator("#mine")).to_contain_text("This takes the page’s script.")
    page.locator("#share").evaluate("(slider) => { slider.value = 0.3; }")
    press(page, "Compute")
    expect(page.locator("#chances")).to_contain_text("15.6 %", timeout=WAIT)
    assert page.url.endswith("/lab/attack?share=0.3&confirmations=6")


def test_acts_are_undone_one_after_another(lab: Server, visit: Visit) -> None:
    with lab.client() as client:
        before = client.get("/").body
        for index in (7, 3):
            assert submit(client, "/lab/edit", block=str(index), data='"a lie"').status == 303
        assert submit(client, "/lab/truncate", block="5", record="on").status == 303
        page = visit(url(lab))
        title(page).to_have_text("Cut off the chain from block 5 on, and the record of its end")
        expect(page.locator("#result")).to_contain_text("stops at block 3, which was broken before")
        expect(page.locator("#result")).to_contain_text("3 changes can be undone")
        assert page.locator(".done").get_attribute("start") == "2"
        press(page, "Undo")
        title(page).to_have_text("Changed the data of block 3, and nothing else", timeout=WAIT)
        press(page, "Undo all")
        title(page).to_have_text("Undone, and valid", timeout=WAIT)
        assert client.get("/").body == before
        # It is told to who has undone it, and to nobody else.
        page.goto(url(lab))
        title(page).to_have_text("What was done")


def test_what_was_broken_before_is_said_to_be_so_when_all_is_undone(
    tmp_path: Path, visit: Visit
) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(PAYMENTS)
    forged = tamper(tmp_path / "ledger", Random(4))
    with running(start(tmp_path / "ledger", "--lab"), unsigned=True) as server:
        page = visit(url(server, "/lab?block=7"))
        page.locator("#edit-data").fill('"a lie"')
        change(page)
        press(page, "Undo")
        title(page).to_have_text(f"Undone; still broken at block {forged.index}", timeout=WAIT)
        require_accessible(page)


def test_an_erased_block_says_nothing_and_can_be_lied_about(tmp_path: Path, visit: Visit) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(PAYMENTS)
        ledger.erase(4, reason="asked to")
    with running(start(tmp_path / "ledger", "--lab")) as server:
        page = visit(url(server, "/lab?block=4"))
        expect(page.locator("#edit-data")).to_have_value("")
        expect(page.locator("#try")).to_have_text("It was erased.")
        page.locator("#edit-data").fill('"a lie"')
        change(page)
        expect(page.locator("#result .verdict")).to_contain_text("Caught at block 4", timeout=WAIT)


def test_who_has_no_token_is_told_so_and_gets_no_forms(tmp_path: Path, visit: Visit) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{'t' * 32}\n")
    tokens.chmod(0o600)
    options = ("--lab", "--token-file", tokens, "--public-read")
    with (
        running(start(tmp_path / "ledger", *options)) as server,
        server.client() as client,
    ):
        bearer = {"Authorization": f"Bearer {'t' * 32}"}
        assert submit(client, "/lab/examples", bearer).status == 303
        assert submit(client, "/lab/edit", bearer, block="1", data="1").status == 303
        page = visit(url(server))
        assert page.locator("main form").evaluate_all("all => all.map((one) => one.action)") == [
            url(server, "/lab/attack")
        ]
        expect(page.locator("main")).to_contain_text("This node asks for a token")
        expect(page.locator("#result .verdict")).to_contain_text("Caught at block 1")
        html = {"Accept": "text/html", **bearer}
        assert b'action="/lab/edit"' in client.get("/lab", html).body


@pytest.mark.parametrize("width", [320, 1280])
def test_it_fits_narrow_and_wide_pages(lab: Server, visit: Visit, width: int) -> None:
    page = visit(url(lab, "/tamper"), viewport={"width": width, "height": 800})
    expect(page.locator("#result .verdict")).to_be_visible(timeout=WAIT)
    for path in ("/lab", "/lab/attack?share=0.45&confirmations=60"):
        page.goto(url(lab, path))
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_pages_are_accessible(lab: Server, visit: Visit, scheme: str) -> None:
    page = visit(url(lab, "/lab/attack"), color_scheme=scheme)
    require_accessible(page)
    page.goto(url(lab, "/tamper"))
    expect(page.locator("#result .verdict")).to_be_visible(timeout=WAIT)
    page.locator("#difficulty").fill("4")
    press(page, "Keep trying")
    expect(page.locator("#mined")).to_have_attribute("data-found", "good", timeout=WAIT)
    require_accessible(page)


def test_hostile_data_is_text_in_the_lab_too(tmp_path: Path, visit: Visit) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend([*HOSTILE, "</textarea><script>alert(1)</script>", "x" * 1_000_000])
    with running(start(tmp_path / "ledger", "--lab")) as server:
        page = visit(url(server))
        for index in (1, len(HOSTILE) + 1, len(HOSTILE) + 2):
            page.goto(url(server, f"/lab?block={index}"))
            page.locator("#edit-data").fill(json.dumps(f"</textarea><b id=own>{HOSTILE[0]}"))
            change(page)
            title(page).to_contain_text(f"block {index}, ", timeout=WAIT)
            assert page.locator("#own, script:not([src])").count() == 0


# Mining


def mined(page: Page) -> Header:
    """Return the header that was mined, as core reads it, having found it good enough."""
    shown = {
        name: page.locator(f'[data-mined="{name}"]').inner_text()
        for name in ("index", "nonce", "hash", "previous", "header")
    }
    header = Header.unpack(bytes.fromhex(shown["header"]))
    assert header.hash.hex() == shown["hash"]
    assert f"{header.nonce:016x}" == shown["nonce"]
    assert (str(header.index), header.previous_hash.hex()) == (shown["index"], shown["previous"])
    assert (header.version, header.kind, header.count) == (1, Kind.BATCH, 1)
    return header


def require_mined(header: Header, head: Block, bits: int) -> None:
    stored = Stored(
        position=head.index + 1,
        header=header,
        hash=header.hash,
        entries=(),
        size=0,
        previous_hash=head.stored_hash,
        previous_timestamp=None,
        terms=None,
    )
    assert check_work(stored) is None
    assert check_link(stored) is None
    assert int.from_bytes(header.hash, "big") < 1 << 256 - bits


def test_what_is_mined_by_hand_is_good_enough_for_core(lab: Server, visit: Visit) -> None:
    with lab.client() as client:
        head = Block.from_view(client.get("/head").value)
    page = visit(url(lab))
    page.locator("#difficulty").fill("8")
    expect(page.locator("#expected")).to_have_text("256")
    press(page, "Try one nonce")
    expect(page.locator("#tries")).to_have_text("1")
    expect(page.locator("#hash")).not_to_have_text("")
    if page.locator("#mined").get_attribute("data-found") == "open":
        expect(page.locator("#mined")).to_contain_text("Nonce 0: ")
        press(page, "Keep trying")
    said = page.locator("#mined")
    expect(said).to_have_attribute("data-found", "good", timeout=WAIT)
    first = mined(page)
    require_mined(first, head, 8)
    # One letter more, and the work was for nothing.
    page.locator("#mine-data").press_sequentially("0")
    expect(said).to_contain_text("Its hash is another one")
    changed = mined(page)
    assert changed.nonce == first.nonce
    assert changed.data_root != first.data_root
    assert changed.size == first.size + 1
    if said.get_attribute("data-found") == "bad":  # else it is by a chance of one in 256
        expect(said).to_contain_text("It has to be mined anew.")
        press(page, "Keep trying")
        expect(said).to_contain_text("Found after", timeout=WAIT)
        require_mined(mined(page), head, 8)


def test_the_entry_of_a_mined_block_is_what_was_typed(lab: Server, visit: Visit) -> None:
    page = visit(url(lab), init="crypto.getRandomValues = (row) => row.fill(7);")
    text = 'Zoë pays "Bob" \\ 10 € 😀'
    page.locator("#mine-data").fill(text)
    page.locator("#difficulty").fill("4")
    press(page, "Keep trying")
    expect(page.locator("#mined")).to_have_attribute("data-found", "good", timeout=WAIT)
    entry = Entry(b"\7" * 16, json.dumps(text, ensure_ascii=False).encode())
    header = mined(page)
    assert (header.data_root, header.size) == (entry.id, len(entry.to_bytes()))


def test_mining_never_keeps_the_page_waiting(lab: Server, browser: Browser, visit: Visit) -> None:
    page = visit(url(lab))
    page.locator("#difficulty").fill("24")
    browser.start_tracing(page=page, categories=TRACED)
    press(page, "Keep trying")
    page.wait_for_timeout(1500)
    tasks = cpu_of_tasks(browser.stop_tracing())
    assert int(page.locator("#tries").inner_text().replace(",", "")) > 1000
    assert max(tasks) < 50


def test_the_sha256_of_the_page_is_that_of_the_browser(lab: Server, visit: Visit) -> None:
    page = visit(url(lab))
    wrong = page.evaluate(
        """async () => {
            const { sha256, hex } = await import("/explorer/lab.js");
            const wrong = [];
            for (let n = 0; n < 200; n += 1) {
                const message = Uint8Array.from({ length: n }, (_, i) => 31 * i + n);
                const own = hex(sha256(message));
                const theirs = new Uint8Array(await crypto.subtle.digest("SHA-256", message));
                if (own !== hex(theirs)) wrong.push(n);
            }
            return wrong;
        }"""
    )
    assert wrong == []


# An attacker's chances


def test_the_chances_follow_the_sliders(lab: Server, visit: Visit) -> None:
    page = visit(url(lab))
    expect(page.locator("#chances")).to_contain_text("0.0591 %")
    expect(page.locator("#chances")).to_contain_text("For less than 0.1 %, wait for 6 confirma")
    labels = page.locator("#chances .label").all_inner_texts()
    expect(page.get_by_role("button", name="Compute")).to_be_hidden()
    page.locator("#chances summary").click()
    page.locator("#share").fill("0.3")
    expect(page.locator("#chances")).to_contain_text("15.6 % of such", timeout=WAIT)
    expect(page.locator("#share-shown")).to_have_text("30 %")
    expect(page.locator("#chances")).to_contain_text("wait for 32 confirmations")
    assert page.locator("#chances details").evaluate("(details) => details.open")
    page.locator("#confirmations").fill("0")
    expect(page.locator("#chances")).to_contain_text("100 % of such", timeout=WAIT)
    page.locator("#share").fill("0.49")
    expect(page.locator("#chances")).to_contain_text("wait for more than 10,000", timeout=WAIT)
    page.locator("#share").fill("0.5")
    expect(page.locator("#chances")).to_contain_text("no number of confirmations", timeout=WAIT)
    expect(page.locator("#chances .mark")).to_have_attribute("x1", "0%")
    assert page.locator("#chances .label").all_inner_texts() == labels


@pytest.mark.parametrize(
    ("chance", "text"),
    [
        (1, "100 %"),
        (0.156, "15.6 %"),
        (1e-6, "10⁻⁴ %"),
        (2.43e-8, "2.43 × 10⁻⁶ %"),
        (1e-9, "10⁻⁷ %"),
        (5e-86, "less than 10⁻⁷ %"),
        (0, "less than 10⁻⁷ %"),
    ],
)
def test_a_chance_is_written_for_people(chance: float, text: str) -> None:
    assert percent(chance) == text


def test_the_table_of_the_whitepaper_is_on_the_page(lab: Server, visit: Visit) -> None:
    page = visit(url(lab, "/lab/attack?share=.3&confirmations=5"))
    tables = page.locator(".tables table").all_inner_texts()
    rows = [" ".join(table.split()) for table in tables]
    assert rows[0].startswith("q=0.1 z P 0 1.0000000 1 0.2045873 2 0.0509779 3 0.0131722")
    assert rows[1].endswith("45 0.0000024 50 0.0000006")
    assert rows[2].endswith("0.35 41 0.40 89 0.45 340")
    with lab.client() as client:
        found = client.get("/lab/attack?share=0.3&confirmations=5").value
        assert f"{found['whitepaper']:.7f}" == "0.1773523"
        for query in ("share=0.6", "share=1", "share=0.005", "confirmations=61", "share=nan"):
            assert client.get(f"/lab/attack?{query}").status == 400


# Over HTTP


def test_a_node_goes_on_after_every_act_and_its_undoing(own_lab: Server) -> None:
    with own_lab.client() as client, Follower(own_lab.port) as follower:
        assert client.post("ten").value["index"] == 10
        assert [block["index"] for block in told(follower, 10)] == [10]
        before = client.get("/").body
        assert submit(client, "/lab/truncate", block="6", record="on").status == 303
        [act] = done(client)
        assert (act["act"], act["index"], act["changed"]) == ("truncate", 6, 5)
        assert act["report"]["failure"]["rule"] == "checkpoint"
        assert client.get("/?limit=1").value["length"] == 6
        assert client.get("/blocks/6").problem() == "no-such-block"
        assert client.get("/head").value["index"] == 5
        # Whoever follows is told of what comes in the place of what they knew.
        other = client.post("another six").value
        assert (other["index"], other["previous_hash"]) == (
            6,
            client.get("/blocks/5").value["hash"],
        )
        [block] = told(follower, 6)
        assert (block["index"], block["data"]) == (6, "another six")
        assert submit(client, "/lab/undo").status == 303
        assert client.get("/").body == before
        real = told(follower, 10)
        assert [block["index"] for block in real] == [6, 7, 8, 9, 10]
        assert real[0]["data"] == PAYMENTS[5]
        # What is changed in its place is not told again.
        assert submit(client, "/lab/edit", block="3", data="1").status == 303
        assert submit(client, "/lab/undo").status == 303
        assert client.post("eleven").value["index"] == 11
        assert [block["data"] for block in told(follower, 11)] == ["eleven"]
        # And it signs again.
        assert client.get("/blocks/11/receipt").status == 200
        assert client.get("/validate").value["valid"] is True
        assert client.get("/health").status == 200
        # What has just come is signed before somebody cuts it off.
        assert submit(client, "/lab/truncate", block="11", record="on").status == 303
        assert submit(client, "/lab/undo").status == 303
        assert client.post("twelve").value["index"] == 12
        assert submit(client, "/lab/truncate", block="12", record="on").status == 303
        assert done(client)[-1]["report"]["failure"]["rule"] == "checkpoint"


def test_what_cannot_be_appended_says_why(own_lab: Server) -> None:
    with own_lab.client() as client:
        assert submit(client, "/lab/truncate", block="6").status == 303
        assert client.get("/?limit=1").value["length"] == 10
        answer = client.post("more")
        assert (answer.status, answer.problem()) == (500, "damaged")
        assert "block 9, the recorded head, is not there" in answer.value["detail"]
        assert client.get("/lab", {"Accept": "text/html"}).status == 200
        assert client.get("/tamper").status == 200
        for _ in range(2):
            assert submit(client, "/lab/undo").status == 303
        assert client.post("more").value["index"] == 10
        assert client.get("/validate").value["valid"] is True


def test_acts_under_load_leave_the_length_right(own_lab: Server) -> None:
    over = Event()

    def write() -> None:
        with own_lab.client() as client:
            while not over.is_set():
                assert client.post("x" * 50).status == 201

    with own_lab.client() as client:
        with threads(write, 4):
            try:
                last = str(client.get("/head").value["index"])
                assert submit(client, "/lab/truncate", block=last, record="on").status == 303
                assert submit(client, "/lab/undo").status == 303
                assert submit(client, "/lab/edit", block="3", data="1").status == 303
                assert submit(client, "/lab/undo").status == 303
            finally:
                over.set()
        head = client.get("/head").value
        assert client.get("/?limit=1").value["length"] == head["index"] + 1
        assert client.get("/validate").value["valid"] is True
        assert client.post("last").value["index"] == head["index"] + 1
        with Follower(own_lab.port, f"?start={head['index']}") as follower:
            found = [event.id for event in follower.read_to(head["index"] + 1)]
            assert found == [head["index"], head["index"] + 1]


def test_only_a_get_tampers(lab: Server) -> None:
    with lab.client() as client:
        for accept in ("*/*", "text/html"):
            client.send("HEAD", "/tamper", headers={"Accept": accept})
            assert client.receive_head()[0] in (200, 303)
        assert done(client) == []


def test_forms_are_read_strictly(lab: Server) -> None:
    bad = [
        b"block=1",
        b"",
        b"block=1&block=2&data=1",
        b"block=1&data=1&more=1",
        b"block=one&data=1",
        b"block=-1&data=1",
        b"block=1&data=%ff",
        b"block=1&data=%ed%a0%80",
        b"\xff\xfe",
        b"block=1&data={",
        b'{"block": 1}',
    ]
    with lab.client() as client:
        for body in bad:
            assert client.ask("POST", "/lab/edit", body).status == 400, body
        assert client.ask("POST", "/lab/undo", b"a=b").status == 400
        assert submit(client, "/lab/edit", block="99", data="1").problem() == "no-such-block"
        assert submit(client, "/lab/undo").problem() == "refused"
        assert submit(client, "/lab/examples").problem() == "refused"
        assert submit(client, "/lab/truncate", block="0").problem() == "refused"
        assert done(client) == []


@pytest.mark.parametrize(
    "headers",
    [
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        },
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
    ids=["navigation", "origin", "sandbox"],
)
def test_pages_of_other_sites_change_nothing(lab: Server, headers: dict[str, str]) -> None:
    with lab.client() as client:
        for path in ("edit", "rechain", "truncate", "fork", "undo", "examples"):
            form = {"block": "1", "data": "1"}
            assert submit(client, f"/lab/{path}", headers, **form).status == 403
        assert client.get("/tamper", headers).status == 403
        assert done(client) == []


def test_of_a_work_ledger_data_can_be_changed(tmp_path: Path, visit: Visit) -> None:
    Ledger.create(tmp_path / "ledger", Genesis(name="mined", seal=SEAL)).close()
    mining = start(tmp_path / "ledger", "--lab", "--mine")
    with running(mining) as server, server.client() as client:
        client.ask("POST", "/block", b'{"from": "alice", "amount": 100}')
        until(lambda: client.get("/?limit=1").value["length"] > 2)
        page = visit(url(server, "/lab?block=0"))
        expect(page.locator("#truncate, #rechain, #fork, #examples")).to_have_count(0)
        page.locator("#edit-data").fill('"a lie"')
        change(page)
        expect(page.locator("#result .verdict")).to_contain_text("at block 0", timeout=WAIT)
        answer = submit(client, "/lab/truncate", block="1")
        assert answer.problem() == "refused"
        assert "this is a work ledger" in answer.value["detail"]
        press(page, "Undo")
        title(page).to_have_text("Undone, and valid", timeout=WAIT)


def test_there_is_no_lab_outside_a_lab(tmp_path: Path) -> None:
    with running(start(tmp_path / "ledger")) as server, server.client() as client:
        for path in ("", "/attack", "/edit", "/undo", "/fork"):
            for method in ("GET", "POST"):
                assert client.ask(method, f"/lab{path}").status == 404
        assert b'href="/lab"' not in client.get("/", {"Accept": "text/html"}).body


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"amount":10,"from":"alice"}', ("10", "1000")),
        ('{"10":"10","a":[7]}', ("7", "700")),
        ('{"a":-3,"b":0,"c":"me"}', ('"me"', '"somebody else"')),
        ('"me"', ('"me"', '"somebody else"')),
        ("null", None),
        ("{}", None),
        ("", None),
    ],
)
def test_a_lie_is_suggested(text: str, found: tuple[str, str] | None) -> None:
    assert suggestion(text) == found
