"""A real browser on real nodes: what it complains about, or asks another host for, fails a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, sync_playwright

from tests.page.conftest import chromium


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


class Visit:
    """Pages that are open in one test, each with a fresh profile."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.trouble: list[str] = []
        """Errors of scripts, and whatever the console has said."""
        self.requests: list[str] = []

    def __call__(self, url: str, *, init: str = "", **options: Any) -> Page:
        """Open a page; `options` are those of a Playwright context."""
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        context.on("weberror", lambda error: self.trouble.append(str(error.error)))
        context.on("console", lambda message: self.trouble.append(message.text))
        context.on("request", lambda request: self.requests.append(request.url))
        if init:
            context.add_init_script(init)
        page: Page = context.new_page()
        page.goto(url)
        return page

    def require_silence(self) -> None:
        """No page had an error or anything else to say, or asked another host."""
        assert self.trouble == []
        hosts = {urlsplit(url).hostname for url in self.requests if url.startswith("http")}
        assert hosts <= {"127.0.0.1"}

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Open pages; nothing that they complain about is overlooked."""
    visit = Visit(browser)
    yield visit
    visit.require_silence()
    visit.close()


def require_accessible(page: Page) -> None:
    """Ask axe for what keeps people out who do not see, or do not use a mouse."""
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []
