"""A real browser, and servers to open the page from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import cairn

PAGE = Path(cairn.__file__).parent / "proof" / "verify.html"
FAR_HOST = "far.example.test"
"""Leads to this machine, but a browser does not know that it does."""

OpenPage = Callable[..., Page]


def chromium() -> str:
    for name in ("chromium", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.fail("no Chromium here: `apt-get install chromium`, or have google-chrome on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", f"--host-resolver-rules=MAP {FAR_HOST} 127.0.0.1"],
        )
        yield browser
        browser.close()


class Watched:
    """Opened pages, each in a fresh profile, with all that they complain about or ask for."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._pages: list[Page] = []
        self._opened: list[str] = []
        self._trouble: list[str] = []
        self._requests: list[str] = []

    def open(self, url: str = PAGE.as_uri(), init: str = "", **options: Any) -> Page:
        context = self._browser.new_context(**options)
        context.on("request", lambda request: self._requests.append(request.url))
        context.on("weberror", lambda error: self._trouble.append(str(error.error)))
        context.on("console", lambda message: self._trouble.append(message.text))
        if init:
            context.add_init_script(init)
        self._opened.append(url)
        self._pages.append(context.new_page())
        self._pages[-1].goto(url)
        self._pages[-1].locator("#verdict:not([data-state=unready])").wait_for()
        return self._pages[-1]

    def require_silence(self) -> None:
        """No page asked for more than itself, or had an error or anything else to say."""
        for page in self._pages:
            page.evaluate("0")  # what it said before has arrived
        trouble, self._trouble = self._trouble, []
        assert trouble == []
        assert self._requests == self._opened

    def close(self) -> None:
        for page in self._pages:
            page.context.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    watched = Watched(browser)
    yield watched.open
    watched.require_silence()
    watched.close()


@pytest.fixture(scope="module")
def checker(browser: Browser) -> Iterator[tuple[Watched, Page]]:
    watched = Watched(browser)
    yield watched, watched.open()
    watched.close()


@pytest.fixture
def page(checker: tuple[Watched, Page]) -> Iterator[Page]:
    """One page for all tests that only call its function; opening one takes longer than those."""
    watched, page = checker
    yield page
    watched.require_silence()


@contextmanager
def serving(headers: dict[str, str]) -> Iterator[int]:
    """Serve the page on this machine with these headers; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = PAGE.read_bytes() if self.path == "/" else b""
            self.send_response(200 if body else 404)
            for name, value in {"Content-Type": "text/html", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
