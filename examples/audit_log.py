"""A notebook that everyone shares in the browser, and a ledger of who wrote and removed what.

    python examples/audit_log.py [--ledger DIR | --node URL] [--port N]

The application logs as any does; what makes the log tamper-evident is one handler. Afterwards:

    cairn log --ledger audit.cairn
    cairn validate --ledger audit.cairn
"""

from __future__ import annotations

import argparse
import html
import logging
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

from cairn.logging import LedgerHandler

MAX_BODY = 64 * 1024
"""Bytes of a form."""
PAGE = """<!doctype html><title>Notebook</title><h1>Notebook</h1>
<form method="post" action="/add">
<input name="user" placeholder="your name"> <input name="text"> <button>Add</button></form>
<form method="post" action="/remove">
<input name="user" placeholder="your name"> <input name="note" size="4"> <button>Remove</button>
</form><ol>{notes}</ol>"""

audit = logging.getLogger("notebook.audit")
notes: dict[int, str] = {}
lock = threading.Lock()


class Notebook(BaseHTTPRequestHandler):
    """Shows the notes, and lets everyone add and remove them."""

    def do_GET(self) -> None:
        """Show the notes."""
        with lock:
            shown = [f'<li value="{n}">{html.escape(text)}' for n, text in notes.items()]
        self.answer(HTTPStatus.OK, PAGE.format(notes="\n".join(shown)))

    def do_POST(self) -> None:
        """Add or remove a note, as the form says."""
        size = int(self.headers.get("Content-Length", 0))
        if not 0 <= size <= MAX_BODY:
            audit.warning("form refused", extra={"from": self.client_address[0], "size": size})
            return self.answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large")
        form = dict(parse_qsl(self.rfile.read(size).decode(errors="replace")))
        who = {"user": form.get("user", "nobody"), "from": self.client_address[0]}
        if self.path == "/add":
            return self.add(form.get("text", ""), who)
        return self.remove(form.get("note", ""), who)

    def add(self, text: str, who: dict[str, str]) -> None:
        """Add a note. That is on record a moment later."""
        with lock:
            note = max(notes, default=0) + 1
            notes[note] = text
            audit.info("note %d added", note, extra={**who, "note": note, "text": text})
        self.answer(HTTPStatus.SEE_OTHER, "")

    def remove(self, number: str, who: dict[str, str]) -> None:
        """Remove a note, but not before it is on record who did."""
        with lock:
            text = notes.get(int(number)) if number.isdecimal() else None
            if text is None:
                audit.warning("no note %s to remove", number, extra=who)
                return self.answer(HTTPStatus.NOT_FOUND, "there is no such note")
            audit.warning("removing note %s", number, extra={**who, "text": text})
            if not on_record():
                return self.answer(HTTPStatus.SERVICE_UNAVAILABLE, "it cannot be recorded now")
            del notes[int(number)]
        return self.answer(HTTPStatus.SEE_OTHER, "")

    def answer(self, status: HTTPStatus, page: str) -> None:
        """Send a page, or where to find one."""
        body = page.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.SEE_OTHER:
            self.send_header("Location", "/")
        self.end_headers()
        self.wfile.write(body)


def on_record() -> bool:
    """Whether all that was logged so far is in the ledger; waits for it some seconds."""
    return all(h.flush() for h in audit.handlers if isinstance(h, LedgerHandler))


def main() -> None:
    """Serve the notebook until told to stop."""
    parser = argparse.ArgumentParser(description="A shared notebook with an audit trail.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--ledger", metavar="DIR", default="audit.cairn")
    where.add_argument("--node", metavar="URL")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    arguments = parser.parse_args()

    audit.setLevel(logging.INFO)
    audit.addHandler(LedgerHandler(arguments.node or arguments.ledger))
    with ThreadingHTTPServer(("127.0.0.1", arguments.port), Notebook) as server:
        audit.info("notebook opened", extra={"port": server.server_port})
        print(f"a notebook on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
