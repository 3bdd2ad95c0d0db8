"""The OpenAPI document as a page: readable without script, and without the internet."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any, Final

STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid #8886; border-radius: 0.4rem; }
section { border-top: 1px solid #8886; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 1rem 0.25rem 0; }
th { font-weight: 600; white-space: nowrap; }
"""
STYLE_SOURCE: Final = f"'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'"
"""What a Content-Security-Policy allows the style by."""

VERIFY_PAGE: Final = files("cairn.proof").joinpath("verify.html").read_text("utf-8")
"""A page that checks receipts, which is the same when it is opened from a disk."""
_META: Final = re.search(r'Content-Security-Policy" content="([^"]+)"', VERIFY_PAGE)
VERIFY_CSP: Final = f"{_META[1] if _META else ''}; frame-ancestors 'none'"
"""What it says of itself, and what only a header can say."""


def page(document: Mapping[str, Any]) -> str:
    """Return the HTML page of an OpenAPI document."""
    info = document["info"]
    return "".join(
        [
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width, initial-scale=1'>",
            f"<title>{escape(info['title'])}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(info['title'])}</h1>",
            f"<p>{escape(info['summary'])} Version {escape(info['version'])}. ",
            "The same for programs: <a href='/openapi.json'>openapi.json</a>.</p><nav><ul>",
            *(
                f"<li><a href='#{o['operationId']}'><code>{method.upper()} {escape(path)}</code>"
                f"</a> {escape(o['summary'])}</li>"
                for path, method, o in _operations(document)
            ),
            "</ul></nav><main>",
            *(_section(path, method, o) for path, method, o in _operations(document)),
            *(_schema(name, schema) for name, schema in document["components"]["schemas"].items()),
            "</main></body></html>",
        ]
    )


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _section(path: str, method: str, operation: Mapping[str, Any]) -> str:
    parameters = [
        (p["name"], f"{p['description']} ({p['in']}; {json.dumps(p['schema'])})")
        for p in operation["parameters"]
    ]
    body = [
        (media, json.dumps(content["schema"]))
        for media, content in operation.get("requestBody", {"content": {}})["content"].items()
    ]
    answers = [
        (status, f"{answer['description']} ({', '.join(answer['content']) or 'no content'})")
        for status, answer in operation["responses"].items()
    ]
    return (
        f"<section id='{operation['operationId']}'>"
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p>{escape(operation['summary'])} {escape(operation['description'])}</p>"
        + _table("Parameters", parameters)
        + _table("Body", body)
        + _table("Answers", answers)
        + "</section>"
    )


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = (
        f"<tr><th scope='row'><code>{escape(name)}</code></th><td>{escape(text)}</td></tr>"
        for name, text in rows
    )
    return f"<h3>{title}</h3><table>{''.join(cells)}</table>"


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    text = escape(json.dumps(schema, indent=2))
    return f"<section id='schema-{name}'><h2>{name}</h2><pre>{text}</pre></section>"
