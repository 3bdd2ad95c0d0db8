"""Nodes that lie: their operator holds the ledger's key, and signs what the node shows just now."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from threading import Lock
from typing import Any, Final

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cairn import Block, Ledger
from cairn.core.canonical import canonical
from cairn.core.entry import SALT_BYTES, Entry
from cairn.core.errors import NoSuchBlockError, ProofError
from cairn.core.merkle import tree_hash
from cairn.core.proofs import prove_consistency
from cairn.core.segment import Segment
from cairn.lab.tampering import Forgery, rechain
from cairn.proof.checkpoint import Checkpoint, origin_of
from cairn.proof.note import Algorithm, Note, SigningKey
from cairn.proof.tiles import Tile
from cairn.proof.witness import Answer, Request, Witness
from cairn.store.memory import MemoryStore
from tests.builders import chain
from tests.client.nodes import FakeNode, problem

URL: Final = "http://node.example:5000/"
"""Not on this machine: which ledger is there is remembered."""
FAST: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where memories need not wait for a disk."""

Lie = Callable[[httpx.Request, httpx.Response], httpx.Response]


def new_key(name: str, algorithm: Algorithm = Algorithm.ED25519) -> SigningKey:
    return SigningKey(name, algorithm, Ed25519PrivateKey.generate())


@cache
def _history(length: int) -> list[Block]:
    return chain(*({"step": i} for i in range(1, length)))


def history(length: int) -> list[Block]:
    """Return a ledger of so many blocks, always the same."""
    return _history(1 << (length - 1).bit_length())[:length]


class Operator(FakeNode):
    """A node that shows `blocks`, and signs them, whatever it has shown and signed before.

    `lie` may change every answer. `paths` has all that was asked.
    """

    def __init__(self, blocks: Sequence[Block], key: SigningKey | None = None) -> None:
        super().__init__()
        self.key = key or new_key(origin_of(blocks[0].hash))
        self.vkeys = [str(self.key.verifier)]
        """What its receipts name."""
        self.cosigners: list[SigningKey] = []
        self.lie: Lie = lambda _request, answer: answer
        self.paths: list[str] = []
        self._lock = Lock()
        self.show(blocks)

    def show(self, blocks: Sequence[Block]) -> None:
        """Show these blocks from now on."""
        self.ledger = Ledger(MemoryStore(Segment.from_blocks(0, blocks)))
        self._known = [block.stored_hash for block in blocks]

    @property
    def origin(self) -> str:
        return self.key.verifier.name

    def checkpoint(self, *, size: int | None = None) -> Note:
        """Return what it signs: a checkpoint of all, or of the first `size` blocks."""
        hashes = self._hashes()[:size]
        text = Checkpoint(self.origin, len(hashes), tree_hash(hashes)).text
        keys = [self.key, *self.cosigners]
        return Note(text, tuple(key.sign(text, time=1_700_000_000) for key in keys))

    def ask(self, witness: Witness, old: int) -> Answer:
        """Have a witness that has cosigned `old` blocks cosign all that are shown."""
        hashes = self._hashes()

        def node(level: int, i: int) -> bytes:
            return tree_hash(hashes[i << level : (i + 1) << level])

        proof = prove_consistency(min(old, len(hashes)), len(hashes), node)
        return witness.add_checkpoint(Request(old, tuple(proof), self.checkpoint()).body)

    def read(self, path: str) -> bytes:
        """Return the body of the honest answer to a request that is neither counted nor lied to."""
        found = self._prove(httpx.Request("GET", URL + path[1:]))
        assert found is not None
        return found.content

    def answer(self, request: httpx.Request) -> httpx.Response:
        if (request.method, request.url.path) == ("GET", "/blocks"):
            limit = request.url.params.get("limit", "1000")
            request = httpx.Request("GET", request.url.copy_set_param("limit", limit))
        return super().answer(request)

    def _hashes(self) -> list[bytes]:
        with self._lock:
            self._known += [block.stored_hash for block in self.ledger[len(self._known) :]]
            return self._known.copy()

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.raw_path.decode())
        found = self._prove(request)
        return self.lie(request, self.answer(request) if found is None else found)

    def _prove(self, request: httpx.Request) -> httpx.Response | None:
        path, query = request.url.path, request.url.params
        if path == "/checkpoint":
            if int(query.get("covering", "1")) > len(self.ledger):
                return problem(404, "no-such-block", detail="not yet")
            return httpx.Response(200, content=str(self.checkpoint()))
        if path.startswith("/tile/"):
            try:
                tile = Tile.parse(path[1:])
            except ProofError:
                return problem(404, "no-such-tile")
            if not tile.is_of(len(self.ledger)):
                return problem(404, "no-such-tile")
            return httpx.Response(200, content=self._tile(tile))
        if path.endswith("/receipt"):
            index, entry = int(path.split("/")[2]), int(query.get("entry", "0"))
            try:
                found = self.ledger.notary.receipt(index, entry, self.checkpoint())
            except NoSuchBlockError as error:
                return problem(404, "no-such-block", detail=str(error))
            return httpx.Response(200, content=replace(found, keys=tuple(self.vkeys)).to_json())
        return None

    def _tile(self, tile: Tile) -> bytes:
        hashes, step = self._hashes(), 256**tile.level
        places = range(tile.start, tile.start + tile.width)
        return b"".join(tree_hash(hashes[i * step : (i + 1) * step]) for i in places)


# Histories


def rewritten(blocks: Sequence[Block], at: int) -> list[Block]:
    """Return `blocks` with another entry in one, and all after it chained anew."""
    forged = [Forgery(b.header, b.stored_hash, [e.to_bytes() for e in b.entries]) for b in blocks]
    salt, text = forged[at].entries[0][:SALT_BYTES], forged[at].entries[0][SALT_BYTES:]
    text = text.replace(b'"test"', b'"fest"') if at == 0 else canonical("forged")
    forged[at].entries[0] = salt + text
    rechain(forged)
    return [
        Block(f.header, f.hash, tuple(Entry(e[:SALT_BYTES], e[SALT_BYTES:]) for e in f.entries))
        for f in forged
    ]


# Answers


def with_body(answer: httpx.Response, body: bytes | str) -> httpx.Response:
    return httpx.Response(answer.status_code, headers=_type(answer), content=body)


def with_json(answer: httpx.Response, change: Callable[[Any], Any]) -> httpx.Response:
    """Return an answer with its JSON value changed: in place, or to what `change` returns."""
    value = deepcopy(json.loads(answer.read()))
    changed = change(value)
    return with_body(answer, json.dumps(value if changed is None else changed))


def _type(answer: httpx.Response) -> dict[str, str]:
    found = answer.headers.get("Content-Type")
    return {"Content-Type": found} if found else {}
