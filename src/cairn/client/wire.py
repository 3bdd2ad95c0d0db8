"""What goes over the wire: requests and answers, not looked into. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import urlencode

from cairn.core.errors import EntryError
from cairn.core.genesis import MAX_DEPTH, MAX_U32, Limits
from cairn.encoding import Encoder

MAX_BODY: Final = 32 * 2**20
"""Bytes of a request that a node takes at most. Refused here, so that they need not be sent."""
MAX_ANSWER: Final = 64 * 2**20
"""Bytes of an answer or event that are read at most: a page of 8 MiB, whose last block is as large
as the default limits allow, with room for salts in hex."""
MAX_KEY: Final = 255
"""Characters of an idempotency key."""

ENCODER: Final = Encoder(Limits(size=MAX_U32, depth=MAX_DEPTH))
"""Refuses what has no canonical form. The limits of the ledger are left to the node, which knows
them."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask a node for."""

    method: str
    path: str
    """From the URL of the node on, with the query."""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    read_seconds: float | None = None
    """How long the answer may pause; None is the timeout of the client."""

    def __str__(self) -> str:
        return f"{self.method} {self.path:.200}"


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """By name in any case."""
    body: bytes
    """All of it, or a little more than `MAX_ANSWER` bytes."""

    @property
    def retry_after(self) -> float:
        """Seconds that the node wants to be left alone for; 0 where it does not say, in digits."""
        text = self.headers.get("Retry-After", "")
        return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


class Lost(NamedTuple):
    """No answer, or not all of it."""

    cause: Exception
    sent: bool
    """Whether the node may have seen the request."""
    retry_after: float = 0.0
    """As of an answer."""


def encode_text(text: bytes | str) -> bytes:
    """Return the canonical form of one JSON text; a lone surrogate is bad UTF-8, and refused.

    Raises:
        EntryError: it is not acceptable JSON.
    """
    return ENCODER.text(
        text.encode(errors="surrogatepass") if isinstance(text, str) else bytes(text)
    )


def get(path: str, query: Mapping[str, str] | None = None) -> Request:
    """Return the request for `path`, with `query` in it."""
    tail = f"?{urlencode(query, errors='surrogatepass')}" if query else ""
    return Request("GET", path + tail, headers={"Accept": "application/json"})


def post(path: str, lines: Sequence[bytes], key: str, *, seal: str = "instant") -> Request:
    """Return the request to record `lines`, JSON texts without line ends, under `key`.

    On a ledger with that `seal`; any other refuses it.

    Raises:
        EntryError: together they are too large for a request, or the key cannot be a header.
    """
    if len(key) > MAX_KEY or not is_word(key):
        raise EntryError(
            f"a key has 1 to {MAX_KEY} printable ASCII characters and no spaces, found {key!r:.80}"
        )
    body = b"\n".join(lines)
    require_size(len(body))
    json_type = "application/x-ndjson" if path == "/blocks" else "application/json"
    headers = {"Content-Type": json_type, "Accept": "application/json", "Idempotency-Key": key}
    return Request("POST", path, body, headers | {"Cairn-Seal": seal})


def is_word(text: str) -> bool:
    """Whether any header can carry `text` as it is: printable ASCII without spaces, not empty."""
    return text.isascii() and text.isprintable() and text != "" and " " not in text


def require_size(size: int) -> None:
    """Refuse what is too large for a request, in bytes.

    Raises:
        EntryError: it is.
    """
    if size > MAX_BODY:
        raise EntryError(f"{size} bytes are past what a node takes at once, {MAX_BODY}")
