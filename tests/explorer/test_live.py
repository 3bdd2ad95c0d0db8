"""The first page while the ledger grows: nothing is loaded again, nobody is interrupted."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from cairn import Ledger
from tests.api.servers import Server, metric, resident_bytes, start
from tests.explorer.conftest import Visit, require_accessible
from tests.explorer.test_pages import BROWSER

LONG_TASKS: Final = """
    window.longTasks = [];
    new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((e) => e.duration)))
      .observe({ type: "longtask", buffered: true });
"""
"""The browser itself tells of tasks over 50 ms (W3C Long Tasks)."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Ledger.open(tmp_path / "harbour.cairn") as ledger:
        ledger.extend({"ship": i} for i in range(1, 20))
    with start(tmp_path / "harbour.cairn") as server:
        yield server


def post(server: Server, value: Any) -> dict[str, Any]:
    with server.client() as client:
        answer = client.post("/block", json=value)
        assert answer.status_code == 201
        block: dict[str, Any] = answer.json()
        return block


def newest(page: Page) -> Any:
    return page.locator("article.block").first


def test_block_of_another_client_arrives_live(server: Server, visit: Visit) -> None:
    page = visit(server.url)
    expect(newest(page)).to_have_id("block-19")
    page.evaluate("window.marked = document.getElementById('block-19')")
    block = post(server, {"ship": "Aurora"})
    expect(newest(page)).to_have_id("block-20")
    expect(newest(page)).to_contain_text("Aurora")
    expect(newest(page)).to_contain_text(block["hash"])
    expect(page.locator("#facts")).to_contain_text("21")
    assert page.locator("article.block").count() == 12
    assert page.evaluate("marked === document.getElementById('block-19')"), "it was made anew"
    require_accessible(page)


def test_one_who_is_at_a_block_stays_there(server: Server, visit: Visit) -> None:
    page = visit(server.url)
    page.locator("#block-17 h3 a").focus()
    post(server, 1)
    expect(newest(page)).to_have_id("block-20")
    assert page.evaluate("document.activeElement.closest('article').id") == "block-17"


def test_one_whose_block_would_go_keeps_it_until_they_leave(server: Server, visit: Visit) -> None:
    page = visit(server.url)
    page.locator("#block-15 h3 a").focus()
    with server.client() as client:
        client.post("/blocks", content=b"\n".join(b"%d" % i for i in range(15)))
    expect(page.locator("#facts")).to_contain_text("35")  # what nobody stands in goes on
    assert page.evaluate("document.activeElement.closest('article').id") == "block-15"
    expect(newest(page)).to_have_id("block-19")
    page.keyboard.press("Shift+Tab")  # to the block above, which would go, too
    assert page.evaluate("document.activeElement.closest('article').id") == "block-16"
    page.locator("#q").focus()
    expect(newest(page)).to_have_id("block-34")
    assert page.evaluate("document.activeElement.id") == "q"


def test_one_who_is_at_the_link_to_older_blocks_stays_there(server: Server, visit: Visit) -> None:
    page = visit(server.url)
    page.locator("#chain [rel=next]").focus()
    post(server, 1)
    expect(newest(page)).to_have_id("block-20")
    assert page.evaluate("document.activeElement.rel") == "next"
    assert page.evaluate("document.activeElement.isConnected")


def test_a_page_that_is_paused_stays_as_it_is(server: Server, visit: Visit) -> None:
    page = visit(server.url)
    expect(newest(page)).to_have_id("block-19")
    button = page.get_by_role("button", name="Pause")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    expect(page.locator("main .live span")).to_contain_text("Paused")
    until(lambda: followers(server) == 0)
    post(server, "meanwhile")
    page.wait_for_timeout(700)
    expect(newest(page)).to_have_id("block-19")
    require_accessible(page)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    expect(newest(page)).to_have_id("block-20")
    expect(page.locator("main .live span")).to_be_empty()


VISIBLE: Final = """
    let state = "visible";
    Object.defineProperty(document, "visibilityState", { get: () => state });
    window.turn = (to) => { state = to; document.dispatchEvent(new Event("visibilitychange")); };
"""
"""Tabs of a browser without a window all count as visible: here they are turned by hand."""


def test_eight_open_tabs_do_not_keep_one_another_from_the_node(
    server: Server, browser: Browser
) -> None:
    """A browser has six connections to one host, for all its tabs."""
    context = browser.new_context()
    context.add_init_script(VISIBLE)
    pages: list[Page] = []
    for _ in range(8):
        if pages:
            pages[-1].evaluate("turn('hidden')")
        pages.append(context.new_page())
        pages[-1].goto(server.url, timeout=8000)
        expect(newest(pages[-1])).to_have_attribute("data-state", "good")
    until(lambda: followers(server) == 1)
    post(server, "seen by the tab in front")
    expect(newest(pages[-1])).to_have_id("block-20")
    assert newest(pages[0]).get_attribute("id") == "block-19"
    pages[-1].evaluate("turn('hidden')")
    pages[0].evaluate("turn('visible')")
    expect(newest(pages[0])).to_have_id("block-20")
    context.close()


def test_windows_that_are_all_seen_share_one_stream(server: Server, browser: Browser) -> None:
    """The seventh would wait for ever for a connection, if each had its own."""
    context = browser.new_context()
    pages: list[Page] = []
    for _ in range(7):
        pages.append(context.new_page())
        pages[-1].goto(server.url, timeout=8000)
        expect(newest(pages[-1])).to_have_attribute("data-state", "good")
    post(server, "seen in every window")
    for page in pages:
        expect(newest(page)).to_have_id("block-20")
    assert followers(server) == 1
    pages.pop(0).close()  # the one that had the stream
    post(server, "seen in all that are left")
    for page in pages:
        expect(newest(page)).to_have_id("block-21")
    until(lambda: followers(server) == 1)
    context.close()


def test_window_that_is_opened_late_is_told_what_it_has_missed(
    server: Server, browser: Browser
) -> None:
    context = browser.new_context()
    first, second = context.new_page(), context.new_page()
    first.goto(server.url)
    second.goto(server.url)
    expect(newest(second)).to_have_attribute("data-state", "good")
    pause = second.get_by_role("button", name="Pause")
    pause.click()
    post(server, "meanwhile")
    expect(newest(first)).to_have_id("block-20")
    assert newest(second).get_attribute("id") == "block-19"
    pause.click()
    expect(newest(second)).to_have_id("block-20")
    context.close()


@pytest.mark.parametrize("locks", ["navigator.locks", "undefined"])
def test_every_window_says_when_the_node_is_gone(
    tmp_path: Path, browser: Browser, locks: str
) -> None:
    """Also where the browser has no locks, as by http from another machine."""
    Ledger.open(tmp_path / "ledger").close()
    context = browser.new_context()
    context.add_init_script(f"Object.defineProperty(navigator, 'locks', {{ value: {locks} }})")
    with start(tmp_path / "ledger") as server:
        pages = [context.new_page() for _ in range(2)]
        for page in pages:
            page.goto(server.url)
        until(lambda: followers(server) == (1 if locks != "undefined" else 2))
        post(server, 1)
        for page in pages:
            expect(newest(page)).to_have_id("block-1")
        server.kill()
        for page in pages:
            expect(page.locator("html")).to_have_class("offline")
    context.close()


def followers(server: Server) -> float:
    with server.client() as client:
        return metric(client, "cairn_followers")


def until(holds: Callable[[], bool]) -> None:
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("it did not come about")


@pytest.mark.parametrize("width", [360, 1280])
def test_data_that_is_clipped_leads_to_all_of_it(tmp_path: Path, visit: Visit, width: int) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend([{"text": "word " * 70, "important": "NOT"}, "short"])
    with start(tmp_path / "ledger") as server:
        page = visit(server.url, viewport={"width": width, "height": 800})
        states = page.locator("article.block .checked[data-checked=good]")
        expect(states).to_have_count(3)
        assert page.locator("#block-2 .more").count() == 0
        sign = page.locator("#block-1 .more")
        if width == 360:
            expect(sign).to_have_text("… all of its data")
            require_accessible(page)
            page.set_viewport_size({"width": 1280, "height": 800})
        expect(sign).to_have_count(0)
        page.set_viewport_size({"width": 360, "height": 800})
        sign.get_by_role("link").click()
        expect(page.locator("h1")).to_have_text("Block 1")


def test_page_of_a_large_block_stays_quick_and_asks_for_no_other(
    tmp_path: Path, browser: Browser
) -> None:
    """Not larger, since a browser that is watched decodes every answer for those who watch."""
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend(["x" * 2**22, ["y\n" * 20_000] * 100, "z" * 2**23])
    with start(tmp_path / "ledger") as server:
        page = browser.new_page()
        page.goto(server.url)  # so that it has its process
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.removeprefix(server.url)))
        for place in (1, 2):
            asked.clear()
            browser.start_tracing(page=page, categories=TRACED)
            page.goto(f"{server.url}/blocks/{place}")
            line = page.locator("article .checked")
            expect(line).to_contain_text("data, of which this is the beginning", timeout=30_000)
            tasks = cpu_of_tasks(browser.stop_tracing())
            assert len(tasks) > 20
            about = {path for path in asked if path.startswith("/blocks/")}
            assert about == {f"/blocks/{place}{what}" for what in ("", "/data", "/receipt")}
            assert max(tasks) < 50
        page.close()


def test_page_says_when_the_node_is_gone_and_goes_on_when_it_is_back(
    server: Server, tmp_path: Path, visit: Visit
) -> None:
    page = visit(server.url)
    expect(newest(page)).to_have_id("block-19")
    server.kill()
    expect(page.locator("html")).to_have_class("offline")
    with Ledger.open(tmp_path / "harbour.cairn") as ledger:
        ledger.append("meanwhile")
    with start(tmp_path / "harbour.cairn", port=server.port):
        expect(newest(page)).to_have_id("block-20", timeout=20_000)
        expect(page.locator("html")).not_to_have_class("offline")
    visit.trouble.clear()  # the browser complains that nobody listened


def grow(server: Server, stop: Event, rate: int) -> None:
    """Append so many blocks a second, until told to stop."""
    with server.client() as client:
        began, done = time.monotonic(), 0
        while not stop.is_set():
            client.post("/block", json={"n": done, "text": "some words of an event " * 4})
            done += 1
            time.sleep(max(began + done / rate - time.monotonic(), 0))


@contextmanager
def growing(server: Server, rate: int) -> Iterator[None]:
    stop = Event()
    thread = Thread(target=grow, args=(server, stop, rate))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


TRACED: Final = ["toplevel", "disabled-by-default-devtools.timeline"]
"""Tasks, and which process is the page's."""


def cpu_of_tasks(trace: bytes) -> list[float]:
    """Return the milliseconds of CPU that each task of the page's main thread took.

    The browser has pages of its own, which it makes ready meanwhile.
    """
    events = json.loads(trace)["traceEvents"]
    [began] = (event for event in events if event["name"] == "TracingStartedInBrowser")
    [frame] = (one for one in began["args"]["data"]["frames"] if "parent" not in one)
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name"
        and event["args"]["name"] == "CrRendererMain"
        and event["pid"] == frame["processId"]
    }
    return [
        event["tdur"] / 1000
        for event in events
        if event["name"].endswith("RunTask")
        and "tdur" in event
        and (event["pid"], event["tid"]) in mains
    ]


def test_hundred_blocks_a_second_keep_the_page_calm(
    server: Server, browser: Browser, visit: Visit
) -> None:
    """By the CPU of its tasks, since other programs run beside this test."""
    page = visit(server.url)
    expect(page.locator("article.block .checked[data-checked=good]")).to_have_count(12)
    before = int(newest(page).get_attribute("data-index"))
    with growing(server, 100):
        browser.start_tracing(page=page, categories=TRACED)
        page.wait_for_timeout(5000)
        tasks = cpu_of_tasks(browser.stop_tracing())
    assert int(newest(page).get_attribute("data-index")) > before + 50
    assert len(tasks) > 100
    assert max(tasks) < 50
    assert page.evaluate("document.querySelectorAll('*').length") < 1000


@pytest.mark.soak
def test_hundred_blocks_a_second_for_a_minute_on_a_million(million: Server, visit: Visit) -> None:
    """For a quiet machine: by the browser's own long tasks."""
    page = visit(million.url, init=LONG_TASKS)
    page.wait_for_timeout(1000)
    page.evaluate("longTasks.length = 0")  # loading is not what is asked about
    before = int(newest(page).get_attribute("data-index"))
    with growing(million, 100):
        page.wait_for_timeout(60_000)
    assert int(newest(page).get_attribute("data-index")) > before + 5000
    assert page.evaluate("longTasks") == []


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("million") / "long.cairn"
    with Ledger.open(path) as ledger:
        ledger.extend({"n": i, "did": "something"} for i in range(1_000_000))
    with start(path) as server:
        yield server


@pytest.mark.parametrize("path", ["/", "/blocks/500000", "/blocks/3", "/?start=700000", "/summary"])
def test_pages_of_a_million_blocks_are_quick_and_small(million: Server, path: str) -> None:
    with million.client(headers={"Accept": BROWSER}) as client:
        client.get(path)
        held = resident_bytes(million)
        seconds = [timed(client, path) for _ in range(15)]
    assert statistics.median(seconds) < 0.05
    assert resident_bytes(million) - held < 32 * 2**20


def timed(client: httpx.Client, path: str) -> float:
    began = time.perf_counter()
    assert client.get(path).status_code == 200
    return time.perf_counter() - began
