"""The page that checks receipts, and what decides in it."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

VERIFY_PAGE: Final = files("cairn.proof").joinpath("verify.html").read_text("utf-8")
"""A page that checks receipts, which is the same when it is opened from a disk."""
_META: Final = re.search(r'Content-Security-Policy" content="([^"]+)"', VERIFY_PAGE)
VERIFY_CSP: Final = f"{_META[1] if _META else ''}; frame-ancestors 'none'"
"""What it says of itself, and what only a header can say."""
_EXPORTED: Final = (
    "CannotCheck LEAF LOG MAX_SHOWN NODE NotProved hex isHex parseCheckpoint parseHeader parseKey "
    "parseNote parseReceipt pretty requireCryptography seen sha256 unhex utf8 verifyReceipt "
    "verifySignatures"
)
RECEIPT_MODULE: Final = (
    VERIFY_PAGE.partition("<script>\n")[2].partition("// From here on: what is shown.")[0]
    + f"export {{ {', '.join(_EXPORTED.split())} }};\n"
)
"""What decides in that page, as a module: other pages check receipts by the very same code."""
