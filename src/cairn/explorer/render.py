"""Pages from templates. Whatever is put into one is escaped, unless it is `Markup` already."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.resources import files
from mimetypes import types_map
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cairn.explorer import shown
from cairn.explorer.blocks import SALTS_SHOWN, short

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("cairn.explorer"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "ago": shown.ago,
    "count": shown.count,
    "json": lambda value, indent=None: json.dumps(value, indent=indent),
    "plain": shown.plain,
    "rate": shown.rate,
    "seconds": shown.seconds,
    "short": short,
    "size": shown.size,
}
_ENVIRONMENT.globals["SALTS_SHOWN"] = SALTS_SHOWN

STATIC: Final = {
    file.name: (file.read_bytes(), types_map[f".{file.name.rpartition('.')[2]}"])
    for file in files("cairn.explorer").joinpath("static").iterdir()
    if file.is_file()
}
"""The files that pages refer to: name to content and media type."""


def render(template: str, **values: Any) -> Markup:
    """Return the page, or part of one, that a template makes of `values`."""
    return Markup(_ENVIRONMENT.get_template(template).render(values, now=datetime.now(UTC)))
