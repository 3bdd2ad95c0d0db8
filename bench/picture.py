"""Take the README's picture: `python -m bench.picture` writes docs/explorer.png.

A node in the lab, a few payments, one of them changed in the store: the first page of the explorer,
as Chromium shows it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import httpx
from playwright.sync_api import sync_playwright

TARGET: Final = Path(__file__).parents[1] / "docs" / "explorer.png"
PAYMENTS: Final = (("alice", "bob", 100), ("bob", "carol", 40), ("carol", "alice", 15))
CHANGED: Final = (2, '{"amount":90,"from":"bob","to":"carol"}')
WIDTH, HEIGHT = 1100, 900


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cairn", "serve", "--lab", "--port", "0"]
        ledger = ["--ledger", str(Path(folder) / "payments")]
        with subprocess.Popen([*command, *ledger], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = process.stdout.readline().split()[2]
            try:
                prepare(url)
                TARGET.write_bytes(screenshot(url))
            finally:
                process.terminate()


def prepare(url: str) -> None:
    """Record the payments, and change one in the store."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        for payer, payee, amount in PAYMENTS:
            value = {"from": payer, "to": payee, "amount": amount}
            client.post("/block", json=value).raise_for_status()
        block, data = CHANGED
        form = {"block": str(block), "data": data}
        client.post("/lab/edit", data=form, headers={"Accept": "text/html"})
        client.get("/validate").raise_for_status()


def screenshot(url: str) -> bytes:
    """Return a PNG of the first page, once its blocks are checked."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(url)
        page.locator(f"#block-{CHANGED[0]} .checked[data-checked=bad]").wait_for()
        picture = page.screenshot()
        browser.close()
    return picture


if __name__ == "__main__":
    main()
