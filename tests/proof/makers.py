"""What the tests of proofs start from: receipts in both forms, and ways to damage them.

The makers share no code with cairn; `tests.page.reference` makes the JSON form.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence

from cairn.proof.checkpoint import Policy
from cairn.proof.note import VerifierKey
from tests.page.reference import LOG, WITNESS, Key, Receipt, checkpoint, path, tree

WITNESSES = tuple(Key(f"witness.example/{n}", WITNESS, bytes([n]) * 32) for n in range(1, 5))
TIME = 1_700_000_000
"""Seconds since 1970, at which they cosign."""
BESIDE = ("entry", "salt", "data", "entry_proof", "header", "keys")
"""The members of a receipt that a tlog-proof carries as extra data."""


def believing(*keys: Key, quorum: int = 0) -> Policy:
    """Return the policy that trusts these keys, of ledgers and witnesses, as it is tested."""
    parsed = [(key.type, VerifierKey.parse(key.vkey)) for key in keys]
    return Policy(
        tuple(key for kind, key in parsed if kind == LOG),
        tuple(key for kind, key in parsed if kind == WITNESS),
        quorum,
    )


def signed(text: str, *keys: Key, time: int = TIME) -> str:
    """Return the note of `text`, signed by each of `keys`."""
    return text + "\n" + "".join(key.line(text, time) for key in keys)


def to_tlog_proof(receipt: Receipt) -> str:
    """Return the tlog-proof that says the same as a receipt."""
    extra = json.dumps({name: receipt[name] for name in BESIDE}, ensure_ascii=False)
    hashes = [b64encode(bytes.fromhex(sibling)).decode() for sibling in receipt["block_proof"]]
    lines = [
        "c2sp.org/tlog-proof@v1",
        f"extra {b64encode(extra.encode()).decode()}",
        f"index {receipt['index']}",
        *hashes,
    ]
    return "\n".join(lines) + f"\n\n{receipt['checkpoint']}"


def flips(data: bytes) -> Iterator[bytes]:
    """Yield `data` with each of its bits flipped."""
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def resigned(receipt: Receipt, hashes: Sequence[bytes], *keys: Key) -> Receipt:
    """Return the receipt under a checkpoint over `hashes`, with the path of its block there.

    It is signed by `keys`, the first of which is the ledger's.
    """
    text = checkpoint(keys[0].name, len(hashes), tree(hashes))
    return receipt | {
        "block_proof": [sibling.hex() for sibling in path(receipt["index"], hashes)],
        "checkpoint": signed(text, *keys),
    }
