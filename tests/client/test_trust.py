"""What clients believe of nodes whose operator lies, and holds the key."""

from __future__ import annotations

import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import pytest

from cairn import Block, CairnError, NoSuchBlockError, OutcomeUnknownError, StoreError
from cairn.client import BadAnswerError, Client, NodeError, aio, pages, retry, sync, trust
from cairn.core.errors import InconsistentError, ProofError
from cairn.core.header import Kind
from cairn.core.merkle import EMPTY_ROOT
from cairn.core.rules import InvalidChainError
from cairn.proof.checkpoint import Checkpoint, Policy
from cairn.proof.keyring import Keyring
from cairn.proof.note import Algorithm, Note, VerifierKey
from cairn.proof.receipt import UntrustedSignerError
from cairn.proof.rotation import KeyChange
from tests.builders import block, chain
from tests.client.conftest import Connect
from tests.client.liars import (
    FAST,
    URL,
    Lie,
    Operator,
    history,
    new_key,
    rewritten,
    with_body,
    with_json,
)
from tests.client.nodes import EVENTS, RealNode, Stream, event, problem
from tests.proof.processes import at_once

LENGTH: Final = 12
BLOCKS: Final = history(LENGTH)
OTHERS: Final = rewritten(chain(*({"other": i} for i in range(1, LENGTH))), 0)
"""Another ledger."""
FEW: Final = 60
"""Requests that no look takes more of."""

Comeback = Callable[..., Client]
Look = Callable[[Client], Any]


@pytest.fixture
def home() -> Iterator[Path]:
    """The folder of one user, where nothing waits for a disk."""
    with TemporaryDirectory(dir=FAST) as folder:
        yield Path(folder) / "home"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "STALE_SECONDS", 0.0)
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)


@pytest.fixture
def node() -> Operator:
    return Operator(BLOCKS)


@pytest.fixture
def comeback(connect: Connect, node: Operator, home: Path) -> Comeback:
    """What makes clients of one user, each as after a restart."""

    def comeback(url: str = URL, **kwargs: Any) -> Client:
        options = {"transport": node.transport, "keyring": Keyring(home), "patience": 0.05}
        return connect(url, **options | kwargs)

    return comeback


def following(client: Client, start: int = 0, count: int = 3) -> list[Block]:
    with closing(client.follow(start)) as blocks:  # type: ignore[type-var]
        return list(itertools.islice(blocks, count))


def shown(blocks: Sequence[Block] | Iterator[Block]) -> list[str]:
    return [block.to_json() for block in blocks]


LOOKS: Final[dict[str, Look]] = {
    "block": lambda client: client[5].to_json(),
    "genesis": lambda client: (client.genesis.name, client.id),
    "from the end": lambda client: client[-2].to_json(),
    "head": lambda client: client.head.to_json(),
    "length": len,
    "scan": lambda client: shown(iter(client)),
    "slice": lambda client: shown(client[3:7]),
    "find": lambda client: shown(filter(None, [client.find(BLOCKS[5].hash)])),
    "search": lambda client: shown(client.search(contains="step")),
    "follow": lambda client: shown(following(client)),
    "checkpoint": lambda client: client.checkpoint().checkpoint,
    "receipt": lambda client: client.receipt(5).entry.value,
    "assurance": lambda client: a() if callable(a := client.assurance) else a,
}


@cache
def honest() -> dict[str, Any]:
    """What an honest node would have each look see."""
    with TemporaryDirectory(dir=FAST) as folder:
        transport = Operator(BLOCKS).transport
        with Client(URL, transport=transport, keyring=Keyring(Path(folder))) as client:
            found = {name: look(client) for name, look in LOOKS.items()}
    return found


def outcome(look: Look, client: Client) -> Any:
    """Return what is seen, or the error; anything but an error of Cairn's is a bug."""
    try:
        return look(client)
    except CairnError as error:
        return error


def is_honest(name: str, found: Any) -> bool:
    return bool(found == honest()[name])


def require_evidence(error: object, node: Operator) -> None:
    """Check that it has two signed notes, and that both are on disk."""
    assert isinstance(error, InconsistentError), repr(error)
    written = Path(error.evidence).read_text(encoding="utf-8")
    for statement in (error.remembered, error.found):
        opened = Policy((node.key.verifier,)).open(statement)
        assert str(opened.note) in written
    assert error.remembered != error.found


# Histories


@pytest.mark.parametrize("at", range(LENGTH))
def test_rewritten_block_is_found_by_whatever_is_asked_after_a_restart(
    node: Operator, comeback: Comeback, at: int
) -> None:
    """Block 0, too: the ledger's id is in what the operator signs, and stays as it was."""
    comeback().checkpoint()
    node.show(rewritten(BLOCKS, at))
    for look in LOOKS.values():
        require_evidence(outcome(look, comeback()), node)


@pytest.mark.parametrize("length", range(1, LENGTH))
def test_truncated_chain_is_found_by_whatever_is_asked_after_a_restart(
    node: Operator, comeback: Comeback, length: int
) -> None:
    comeback().checkpoint()
    node.show(BLOCKS[:length])
    for look in LOOKS.values():
        require_evidence(outcome(look, comeback()), node)


@pytest.mark.parametrize("at", range(1, LENGTH))
@pytest.mark.parametrize("longer", [0, 5])
def test_fork_is_found_by_whatever_is_asked_after_a_restart(
    node: Operator, comeback: Comeback, at: int, longer: int
) -> None:
    comeback().checkpoint()
    node.show(rewritten(history(LENGTH + longer), at))
    for name in ("block", "scan", "checkpoint", "receipt"):
        require_evidence(outcome(LOOKS[name], comeback()), node)


@pytest.mark.parametrize("at", range(LENGTH))
def test_rewritten_block_is_never_shown_to_a_client_that_has_seen_it(
    node: Operator, comeback: Comeback, at: int
) -> None:
    client = comeback()
    client.checkpoint()
    node.show(rewritten(BLOCKS, at))
    require_evidence(outcome(lambda c: c[at], client), node)
    require_evidence(outcome(lambda c: list(c), client), node)
    require_evidence(outcome(lambda c: c.head, client), node)
    for i in range(LENGTH):  # what cannot be shown to be the old one, is not shown
        found = outcome(lambda c: c[i], client)  # noqa: B023
        assert isinstance(found, InconsistentError) or (i < at and found == BLOCKS[i])


@pytest.mark.parametrize("length", range(1, LENGTH))
def test_truncated_chain_is_never_shown_to_a_client_that_has_seen_it(
    node: Operator, comeback: Comeback, length: int
) -> None:
    client = comeback()
    client.checkpoint()
    node.show(BLOCKS[:length])
    looks: list[Look] = [
        lambda c: c[LENGTH - 1],
        lambda c: c.head,
        len,
        list,
        lambda c: list(c.scan(length)),
        lambda c: list(c.scan(length + 1, length + 2)),
        lambda c: c.receipt(LENGTH - 1),
        lambda c: c.checkpoint(),
    ]
    for look in looks if length < LENGTH - 1 else looks[:5]:
        require_evidence(outcome(look, client), node)


BORDERS: Final = (1, 2, 3, 8, 255, 256, 257, 512, 513)


def test_honest_growth_is_never_taken_for_a_lie(connect: Connect) -> None:
    blocks = history(513)
    node = Operator(blocks)
    for old, new in itertools.combinations_with_replacement(BORDERS, 2):
        with TemporaryDirectory(dir=FAST) as folder:
            client = connect(URL, transport=node.transport, keyring=Keyring(Path(folder)))
            for size in (old, new):
                node.show(blocks[:size])
                assert client.head == blocks[size - 1]
                assert client.checkpoint().checkpoint.size == size


@pytest.mark.parametrize("at", [1, 254, 255, 256, 257, 510, 511, 512])
def test_rewritten_block_at_the_border_of_a_tile_is_found(
    node: Operator, comeback: Comeback, at: int
) -> None:
    node.show(history(513))
    comeback().checkpoint()
    for forged in (rewritten(history(513), at), rewritten(history(520), at), history(at)):
        node.show(forged)
        require_evidence(outcome(lambda c: c[0], comeback()), node)
        require_evidence(outcome(lambda c: c.checkpoint(), comeback()), node)


def test_client_of_another_process_finds_the_rewritten_block(
    node: Operator, comeback: Comeback, home: Path, connect: Connect
) -> None:
    """What one process was shown, the next one of this user remembers."""
    comeback().checkpoint()
    program = """if True:
        import sys
        from pathlib import Path
        from cairn.client import Client
        from cairn.core.errors import InconsistentError
        from cairn.proof.keyring import Keyring
        from cairn.proof.note import SigningKey, Algorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from tests.client.liars import URL, Operator, history, rewritten
        home, name, pem = sys.argv[1:]
        key = SigningKey(name, Algorithm.ED25519, load_pem_private_key(pem.encode(), None))
        for blocks in (history(12), rewritten(history(12), 7)):
            node = Operator(blocks, key)
            with Client(URL, transport=node.transport, keyring=Keyring(Path(home))) as client:
                try:
                    print(client[7].data)
                except InconsistentError as error:
                    print(Path(error.evidence).exists())
    """
    pem = _pem(node)
    run = subprocess.run(
        [sys.executable, "-c", program, str(home), node.origin, pem],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout.split("\n") == ["{'step': 7}", "True", ""], run.stderr


def _pem(node: Operator) -> str:
    from cryptography.hazmat.primitives import serialization

    return node.key._private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def test_what_another_client_of_this_user_was_shown_counts(
    node: Operator, comeback: Comeback
) -> None:
    slow = comeback()
    node.show(BLOCKS[:5])
    assert slow.head == BLOCKS[4]
    node.show(BLOCKS)
    assert comeback().head == BLOCKS[-1]
    assert slow[3] == BLOCKS[3]  # of the older checkpoint that it holds
    node.show(BLOCKS[:8])
    require_evidence(outcome(lambda c: c.checkpoint(), slow), node)
    node.show(rewritten(BLOCKS, 6))
    require_evidence(outcome(lambda c: c.checkpoint(), slow), node)
    node.show(BLOCKS)
    assert slow.checkpoint().checkpoint.size == LENGTH


def test_user_who_has_seen_nothing_yet_is_fooled_by_a_rewritten_chain(
    node: Operator, comeback: Comeback, tmp_path: Path
) -> None:
    comeback().checkpoint()
    node.show(rewritten(BLOCKS, 5))
    stranger = comeback(keyring=Keyring(tmp_path / "stranger"))
    assert stranger[5].data == "forged"
    node.show(BLOCKS)
    require_evidence(outcome(lambda c: c.checkpoint(), stranger), node)  # but not for long


def test_block_that_nobody_was_shown_can_be_rewritten(node: Operator, comeback: Comeback) -> None:
    node.show(BLOCKS[:5])
    comeback().checkpoint()
    node.show(rewritten(BLOCKS, 5))
    assert comeback()[5].data == "forged"


def test_fork_shown_to_two_clients_is_found_when_they_compare(
    node: Operator, comeback: Comeback, home: Path, tmp_path: Path
) -> None:
    fork = rewritten(BLOCKS, 8)
    other = Keyring(tmp_path / "other")
    for size in (9, 10, 11, 12):  # each alone sees a ledger that grows as it should
        node.show(BLOCKS[:size])
        assert comeback().head == BLOCKS[size - 1]
        node.show(fork[:size])
        assert comeback(keyring=other).head == fork[size - 1]
    theirs = other.seen.last(node.origin)
    assert theirs is not None
    assert Keyring(home).seen.replace(node.origin, Keyring(home).seen.last(node.origin), theirs)
    node.show(BLOCKS)
    require_evidence(outcome(lambda c: c.head, comeback()), node)


def test_ledger_replaced_by_another_at_the_same_address_is_found(
    node: Operator, comeback: Comeback, connect: Connect, home: Path
) -> None:
    comeback().checkpoint()
    other = Operator(rewritten(BLOCKS, 0))
    for look in LOOKS.values():
        error = outcome(look, comeback(transport=other.transport))
        assert isinstance(error, InconsistentError)
        assert "another ledger answers at http://node.example:5000/" in str(error)
        assert Policy((node.key.verifier,)).open(error.remembered).checkpoint.size == LENGTH
        assert Policy((other.key.verifier,)).open(error.found).checkpoint.size == LENGTH


def test_ledger_replaced_by_another_on_this_machine_is_found_by_clients_that_saw_it_only(
    node: Operator, comeback: Comeback
) -> None:
    """There, ledgers come and go between programs, but not while one of them runs."""
    here = "http://127.0.0.1:5000"
    client = comeback(here)
    client.checkpoint()
    other = Operator(rewritten(BLOCKS, 0))
    assert comeback(here, transport=other.transport).id == other.ledger.id
    node.transport.handler = other.transport.handler
    assert isinstance(outcome(lambda c: c.checkpoint(), client), InconsistentError)
    assert isinstance(outcome(lambda c: c[0], client), InconsistentError)


@pytest.mark.parametrize(
    "host", ["127.evil.example", "127.0.0.1.evil.example", "localhost.example"]
)
def test_name_that_looks_like_this_machine_is_not(
    node: Operator, comeback: Comeback, host: str
) -> None:
    comeback(f"http://{host}").checkpoint()
    other = Operator(OTHERS)
    client = comeback(f"http://{host}", transport=other.transport)
    with pytest.raises(InconsistentError, match="another ledger answers"):
        client.checkpoint()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_ledgers_come_and_go_on_this_machine(node: Operator, comeback: Comeback, host: str) -> None:
    for operator in (node, Operator(OTHERS)):
        found = comeback(f"http://{host}:5000", transport=operator.transport).checkpoint()
        assert found.checkpoint.origin == operator.origin


# Lies about single answers

TYPED: Final = (InvalidChainError, ProofError, BadAnswerError)
"""What a lie may end in. InconsistentError and UntrustedSignerError are a ProofError."""


def view(block: Block) -> Any:
    return json.loads(block.to_json())


def forged(block: Block, *, sealed: bool = True, **fields: Any) -> Any:
    """Return the view of a block with other header fields, with the hash of them if `sealed`."""
    header = replace(block.header, **fields)
    return view(
        replace(block, header=header, stored_hash=header.hash if sealed else block.stored_hash)
    )


def on(path: str, change: Callable[[Any], Any]) -> Lie:
    """Change the JSON value of the answers to `path`."""

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        is_meant = request.url.path == path and answer.status_code == 200
        return with_json(answer, change) if is_meant else answer

    return lie


def instead(path: str, status: int, body: bytes | str) -> Lie:
    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        return httpx.Response(status, content=body) if request.url.path == path else answer

    return lie


def absent(*paths: str) -> Lie:
    """Say that these, or what is below them, are no block."""

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        path = request.url.path
        is_meant = path in paths or path.startswith(tuple(p for p in paths if p.endswith("/")))
        return problem(404, "no-such-block") if is_meant else answer

    return lie


def streaming(*blocks: tuple[int, Any]) -> Lie:
    """Let events be of these ids and views."""

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path != "/events":
            return answer
        texts = [f"id: {i}\nevent: block\ndata: {json.dumps(v)}\n\n".encode() for i, v in blocks]
        return httpx.Response(200, headers=EVENTS, stream=Stream(texts))

    return lie


def member(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda shown: shown | {name: value}


def in_page(name: str, change: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    """Change the list of blocks in a page, in place, but of a short one."""

    def changed(page: Any) -> None:
        if len(page[name]) > 5:
            change(page[name])

    return changed


def put(at: int, value: Any) -> Callable[[list[Any]], Any]:
    return lambda listed: listed.__setitem__(at, value)


def swap(listed: list[Any]) -> None:
    listed[3], listed[4] = listed[4], listed[3]


FIVE, SIX = BLOCKS[5], BLOCKS[6]
STRANGE = view(OTHERS[5])
BY_HASH = f"/blocks/{FIVE.hash}"

LIES: Final[dict[str, tuple[Lie, dict[str, type[CairnError]]]]] = {
    "data": (on("/blocks/5", member("data", {"step": 99})), {"block": InvalidChainError}),
    "salt": (on("/blocks/5", member("salt", "00" * 16)), {"block": InvalidChainError}),
    "hash": (on("/blocks/5", member("hash", "00" * 32)), {"block": InvalidChainError}),
    "index": (on("/blocks/5", member("index", 6)), {"block": BadAnswerError}),
    "number": (on("/blocks/5", member("index", 5.0)), {"block": BadAnswerError}),
    "member": (on("/blocks/5", member("more", 1)), {"block": BadAnswerError}),
    **{
        f"unsealed {name}": (
            on("/blocks/5", lambda _, f={name: v}: forged(FIVE, sealed=False, **f)),  # type: ignore[misc]
            {"block": InvalidChainError},
        )
        for name, v in {"nonce": 1, "timestamp": 1, "previous_hash": bytes(32)}.items()
    },
    **{
        f"sealed {name}": (
            on("/blocks/5", lambda _, f={name: v}: forged(FIVE, **f)),  # type: ignore[misc]
            {"block": kind},
        )
        for name, v, kind in [
            ("nonce", 1, InvalidChainError),
            ("timestamp", 1, InconsistentError),
            ("timestamp", 2**64 - 1, InvalidChainError),
            ("previous_hash", bytes(32), InconsistentError),
            ("data_root", bytes(32), InvalidChainError),
            ("version", 9, InvalidChainError),
            ("kind", 9, InvalidChainError),
            ("kind", Kind.RECORD, InconsistentError),
            ("count", 2, InvalidChainError),
            ("size", 2**32 - 1, InvalidChainError),
            ("bits", 2**31, InvalidChainError),
        ]
    },
    "another block": (on("/blocks/5", lambda _: view(SIX)), {"block": BadAnswerError}),
    "a block in another's place": (
        on("/blocks/5", lambda _: forged(SIX, index=5)),
        {"block": InconsistentError},
    ),
    "another ledger's block": (on("/blocks/5", lambda _: STRANGE), {"block": InconsistentError}),
    "another genesis": (on("/blocks/0", lambda _: view(OTHERS[0])), {"genesis": InconsistentError}),
    "no block": (
        absent("/blocks/5", "/blocks/5/receipt"),
        {"block": BadAnswerError, "receipt": BadAnswerError},
    ),
    "no head": (absent("/head"), {"head": BadAnswerError}),
    "nothing": (absent("/", "/events/"), dict.fromkeys(LOOKS, BadAnswerError)),
    "no events": (absent("/events"), {"follow": BadAnswerError}),
    "no results": (absent("/blocks"), {"search": BadAnswerError}),
    "no tiles": (absent("/tile/"), {"block": BadAnswerError, "scan": BadAnswerError}),
    "no checkpoint": (absent("/checkpoint"), dict.fromkeys(LOOKS, BadAnswerError)),
    "found: another": (on(BY_HASH, lambda _: view(SIX)), {"find": BadAnswerError}),
    "found: with that hash": (
        on(BY_HASH, lambda _: view(SIX) | {"hash": FIVE.hash}),
        {"find": InvalidChainError},
    ),
    "older head": (on("/head", lambda _: view(BLOCKS[9])), {"head": BadAnswerError}),
    "forged head": (
        on("/head", lambda _: forged(BLOCKS[-1], timestamp=1)),
        {"head": InconsistentError},
    ),
    "new head": (on("/head", lambda _: forged(BLOCKS[-1], index=LENGTH)), {"head": BadAnswerError}),
    "far head": (
        on("/head", lambda _: forged(BLOCKS[-1], index=2**63 - 1)),
        {"head": BadAnswerError},
    ),
    "past all heads": (
        on("/head", lambda _: forged(BLOCKS[-1], index=2**64 - 1)),
        {"head": CairnError},
    ),
    "left out": (on("/", in_page("chain", lambda c: c.pop(4))), {"scan": BadAnswerError}),
    "doubled": (on("/", in_page("chain", lambda c: c.insert(4, c[4]))), {"scan": BadAnswerError}),
    "out of order": (on("/", in_page("chain", swap)), {"scan": BadAnswerError}),
    "strange": (on("/", in_page("chain", put(-1, STRANGE))), {"scan": BadAnswerError}),
    "strange in place": (
        on("/", lambda page: page | {"chain": [*map(view, OTHERS)][: len(page["chain"])]}),
        {"scan": InconsistentError},
    ),
    "edited page": (
        on("/", in_page("chain", lambda c: c[-1].update(data=1))),
        {"scan": InvalidChainError},
    ),
    "unlinked page": (
        on("/", in_page("chain", lambda c: c.__setitem__(2, forged(BLOCKS[2], timestamp=1)))),
        {"scan": InvalidChainError},
    ),
    "shorter": (
        on("/", lambda p: p | {"length": 5, "chain": p["chain"][:5], "next": None}),
        {"scan": BadAnswerError, "length": BadAnswerError, "from the end": BadAnswerError},
    ),
    "shorter by a page": (on("/", in_page("chain", lambda c: c.pop())), {"scan": BadAnswerError}),
    "longer": (
        on("/", member("length", 99)),
        {"scan": BadAnswerError, "length": BadAnswerError, "from the end": BadAnswerError},
    ),
    "longer than can be": (on("/", member("length", 2**63)), {"length": BadAnswerError}),
    "empty": (on("/", member("chain", [])), {"scan": BadAnswerError}),
    "results doubled": (
        on("/blocks", in_page("blocks", lambda c: c.insert(4, c[4]))),
        {"search": BadAnswerError},
    ),
    "results out of order": (on("/blocks", in_page("blocks", swap)), {"search": BadAnswerError}),
    "result that is not there": (
        on("/blocks", in_page("blocks", put(-1, forged(BLOCKS[-1], timestamp=1)))),
        {"search": InvalidChainError},
    ),
    "result that is not there, before one that is": (
        on("/blocks", lambda p: p | {"blocks": [forged(BLOCKS[3], timestamp=1), view(BLOCKS[8])]}),
        {"search": InconsistentError},
    ),
    "results that are not there": (
        on("/blocks", lambda p: p | {"blocks": [STRANGE]}),
        {"search": InconsistentError},
    ),
    "result past the end": (
        on("/blocks", lambda p: p | {"blocks": [forged(FIVE, index=99)]}),
        {"search": BadAnswerError},
    ),
    "event of another block": (streaming((0, view(BLOCKS[3]))), {"follow": BadAnswerError}),
    "event left out": (streaming((1, view(BLOCKS[1]))), {"follow": BadAnswerError}),
    "event that is not there": (
        streaming((0, forged(BLOCKS[0], timestamp=1))),
        {"follow": InconsistentError},
    ),
    "receipt of another": (
        on("/blocks/5/receipt", lambda r: r | {"index": 6}),
        {"receipt": ProofError},
    ),
    **{
        f"receipt with {name}": (
            on("/blocks/5/receipt", lambda r, n=name, c=change: r | {n: c(r[n])}),  # type: ignore[misc]
            {"receipt": kind},
        )
        for name, change, kind in [
            ("data", lambda _: '{"step":99}', ProofError),
            ("salt", lambda _: "00" * 16, ProofError),
            ("entry", lambda _: 1, ProofError),
            ("header", lambda _: BLOCKS[6].header.pack().hex(), ProofError),
            ("header", lambda _: "00", BadAnswerError),
            ("block_proof", lambda p: ["00" * 32, *p[1:]], ProofError),
            ("block_proof", lambda p: p[:-1], ProofError),
            ("block_proof", lambda p: [*p, p[0]], ProofError),
            ("block_proof", lambda p: p * 99, BadAnswerError),
            ("entry_proof", lambda _: ["00" * 32], ProofError),
            ("keys", lambda _: [1], BadAnswerError),
            ("checkpoint", lambda _: "", ProofError),
            ("checkpoint", lambda c: c.replace("\n12\n", "\n13\n"), ProofError),
        ]
    },
    "receipt of nothing": (instead("/blocks/5/receipt", 200, "{}"), {"receipt": BadAnswerError}),
    "huge checkpoint": (
        instead("/checkpoint", 200, "x\n" * 2**18),
        dict.fromkeys(LOOKS, BadAnswerError),
    ),
    **{
        f"checkpoint {body!r:.20}": (
            instead("/checkpoint", 200, body),
            dict.fromkeys(LOOKS, BadAnswerError),
        )
        for body in [
            b"",
            b"\n",
            b"<html>",
            b"\xff",
            b"cairn/0\n12\n",
            b"x\n\n\xe2\x80\x94 x AAAAAAA=\n",
        ]
    },
}


@pytest.mark.parametrize("name", LIES)
def test_no_lie_is_believed(node: Operator, comeback: Comeback, name: str) -> None:
    """What a client returns is what an honest node would have it return, or an error of its kind.

    Nor does it ask without end.
    """
    is_whole = isinstance(comeback(), Client)  # of the other kind, which takes the same steps,
    comeback().checkpoint()
    node.lie, expected = LIES[name]
    for look_name, look in LOOKS.items():
        if not (is_whole or look_name in expected):  # what must fail is enough
            continue
        node.paths.clear()
        found = outcome(look, comeback())
        if (kind := expected.get(look_name)) is not None:
            assert isinstance(found, kind), f"{look_name}: {found!r:.300}"
        elif isinstance(found, CairnError):
            assert isinstance(found, TYPED), f"{look_name}: {found!r:.300}"
        else:
            assert is_honest(look_name, found), f"{look_name}: {found!r:.300}"
        assert len(node.paths) < FEW, node.paths


def test_pages_without_blocks_end(
    node: Operator, comeback: Comeback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "EMPTY_PAGES", 20)
    numbers = itertools.count()

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path not in ("/", "/blocks"):
            return answer
        following = f"?start=0&limit=1&cursor={next(numbers)}"
        page = {"length": LENGTH, "chain": [], "blocks": [], "next": following}
        return httpx.Response(200, json=page)

    node.lie = lie
    for name in ("search", "scan"):
        node.paths.clear()
        with pytest.raises(BadAnswerError, match="no block on 21 pages"):
            LOOKS[name](comeback())
        assert 20 < len(node.paths) < 30


def test_answers_of_a_garbled_node_are_refused_or_right(node: Operator, comeback: Comeback) -> None:
    """Bits, bytes and ends of every kind of answer, by chance: none is believed or a crash."""
    comeback().checkpoint()
    chance = random.Random(1)

    def garble(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if chance.random() < 0.6:
            return answer
        if request.url.path == "/events":
            body = bytearray(b"".join(event(block) for block in BLOCKS[:4]))
        else:
            body = bytearray(answer.read())
        for _ in range(chance.choice([1, 1, 2, 8])):
            at, what = chance.randrange(len(body) + 1), chance.randrange(5)
            if what == 0:
                body[at : at + 1] = bytes([chance.randrange(256)])
            elif what == 1:
                body[at : at + 1] = bytes([c ^ 1 << chance.randrange(8) for c in body[at : at + 1]])
            elif what == 2:
                del body[at : at + chance.choice([1, 30, 10_000])]
            elif what == 3:
                body[at:at] = chance.choice(
                    [b"9", b"-", b"null", b'"', b"\n\n", b"\xf0", b"[" * 2000]
                )
            else:
                body = bytearray(body.replace(b"12", b"%d" % chance.choice([0, 5, 11, 2**63])))
        status = chance.choice([answer.status_code] * 9 + [204, 301, 400, 404, 500])
        return httpx.Response(status, headers=answer.headers, stream=Stream([bytes(body)]))

    node.lie = garble
    tally = {"honest": 0, "refused": 0}
    for _ in range(25):
        for look_name, look in LOOKS.items():
            node.paths.clear()
            found = outcome(look, comeback())
            if isinstance(found, CairnError):
                assert isinstance(found, (*TYPED, NodeError)), f"{look_name}: {found!r:.300}"
                tally["refused"] += 1
            else:
                assert is_honest(look_name, found), f"{look_name}: {found!r:.300}"
                tally["honest"] += 1
            assert len(node.paths) < FEW, node.paths
    assert min(tally.values()) > 30


# Tiles


def test_every_tile_is_held_to_what_was_signed(node: Operator, comeback: Comeback) -> None:
    """Each that is asked for, with each of some of its hashes wrong, too short, too long, gone."""
    blocks = history(600)
    node.show(blocks[:300])
    comeback().checkpoint()
    node.show(blocks)
    node.paths.clear()
    comeback().checkpoint()
    consistency = {path for path in node.paths if path.startswith("/tile/")}
    node.paths.clear()
    assert comeback()[270] == blocks[270]
    inclusion = {path for path in node.paths if path.startswith("/tile/")}
    assert consistency
    assert len(inclusion) >= 2
    refused = 0
    for path in consistency | inclusion:
        hashes = len(node.read(path)) // 32
        for at in sorted({*range(0, hashes, 23), *range(min(hashes, 20)), hashes - 1}):
            refused += _with_tile(node, comeback, path, lambda body: _without(body, at))  # noqa: B023
        damages: list[Callable[[bytes], bytes]] = [
            lambda body: body[:-1],
            lambda body: body[:-32],
            lambda body: body + bytes(32),
            lambda _: b"",
        ]
        for damage in damages if path in inclusion else []:
            assert _with_tile(node, comeback, path, damage)
    assert refused > 10


def _without(tile: bytes, at: int) -> bytes:
    return tile[: 32 * at] + bytes(32) + tile[32 * at + 32 :]


def _with_tile(
    node: Operator, comeback: Comeback, path: str, change: Callable[[bytes], bytes]
) -> bool:
    """Return whether a block is refused where a tile is another; if not, it is the right one."""

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        return with_body(answer, change(answer.read())) if request.url.path == path else answer

    node.lie = lie
    node.paths.clear()
    found = outcome(lambda client: client[270], comeback())
    assert len(node.paths) < FEW
    if isinstance(found, Block):
        assert found == node.ledger[270]
        return False
    assert isinstance(found, (InconsistentError, BadAnswerError)), found
    return True


def test_wrong_tile_does_not_outlast_what_it_was_asked_for(
    node: Operator, comeback: Comeback
) -> None:
    client = comeback()
    client.checkpoint()
    node.lie = lambda r, a: with_body(a, bytes(len(a.content))) if "/tile/" in str(r.url) else a
    assert isinstance(outcome(lambda c: c[5], client), InconsistentError)
    node.lie = lambda _, answer: answer
    assert client[5] == FIVE


def test_partial_tile_that_is_gone_is_read_from_the_full_one(
    node: Operator, comeback: Comeback
) -> None:
    """As C2SP tlog-tiles lets a log do. What is not there at all is asked for twice at most."""
    node.show(history(200))
    client = comeback()
    client.checkpoint()
    node.show(history(300))
    node.lie = lambda r, a: problem(404, "no-such-tile") if ".p/" in r.url.path else a
    assert client[150].index == 150
    node.paths.clear()
    node.lie = lambda r, a: problem(404, "no-such-block") if "/tile/" in r.url.path else a
    assert isinstance(outcome(lambda c: c[150], comeback()), BadAnswerError)
    assert len([path for path in node.paths if "/tile/" in path]) == 2


@pytest.mark.parametrize("path", ["/tile/", "/checkpoint", "/blocks/5/receipt", "/blocks/5", "/"])
def test_no_more_is_read_of_what_proves_than_an_answer_may_have(
    node: Operator, comeback: Comeback, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sync, aio):
        monkeypatch.setattr(module, "MAX_ANSWER", 2**20)
    comeback().checkpoint()
    given = 0

    def without_end() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield bytes(2**16)

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path.startswith(path) and (path != "/" or request.url.path == "/"):
            return httpx.Response(200, stream=Stream(without_end()))
        return answer

    node.lie = lie
    look: Look = {"/": len, "/blocks/5/receipt": LOOKS["receipt"]}.get(path, LOOKS["block"])
    assert isinstance(outcome(look, comeback()), BadAnswerError)
    assert given <= 2 * 18


# Checkpoints


def checkpoints(change: Callable[[str], str]) -> Lie:
    """Change every checkpoint that is shown as one."""

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        is_one = request.url.path == "/checkpoint" and answer.status_code == 200
        return with_body(answer, change(answer.text)) if is_one else answer

    return lie


def test_signature_that_is_wrong_or_none_is_refused(node: Operator, comeback: Comeback) -> None:
    comeback().checkpoint()
    note = node.checkpoint()
    line = str(note.signatures[0])
    other = new_key(node.origin).sign(note.text)
    disguised = other._replace(key_id=node.key.verifier.id)
    elsewhere = new_key("cairn/elsewhere").sign(note.text)
    stale = node.key.sign(Checkpoint(node.origin, 11, bytes(32)).text)
    for signature, kind in [
        ("", BadAnswerError),
        ("— x\n", BadAnswerError),
        (str(other), UntrustedSignerError),
        (str(elsewhere), UntrustedSignerError),
        (str(disguised), ProofError),
        (str(stale), ProofError),
        (line + str(disguised), ProofError),
    ]:
        node.lie = checkpoints(lambda _, s=signature: f"{note.text}\n{s}")  # type: ignore[misc]
        for name in ("block", "scan", "checkpoint", "receipt"):
            found = outcome(LOOKS[name], comeback())
            assert isinstance(found, kind), (signature, name, found)
            assert not isinstance(found, InconsistentError)


def test_checkpoint_that_was_not_signed_so_is_refused(node: Operator, comeback: Comeback) -> None:
    comeback().checkpoint()
    for old, new in [("\n12\n", "\n11\n"), ("\n12\n", "\n13\n"), ("cairn/", "cairn/0")]:
        node.lie = checkpoints(lambda text, o=old, n=new: text.replace(o, n, 1))  # type: ignore[misc]
        assert isinstance(outcome(LOOKS["block"], comeback()), (ProofError, BadAnswerError))


def signed(node: Operator, text: str) -> Lie:
    return checkpoints(lambda _: str(Note(text, (node.key.sign(text),))))


@pytest.mark.parametrize("size", [0, 1, 5, 11])
def test_smaller_checkpoint_than_before_is_found(
    node: Operator, comeback: Comeback, size: int
) -> None:
    comeback().checkpoint()
    root = node.checkpoint(size=size) if size else None
    text = root.text if root else Checkpoint(node.origin, 0, EMPTY_ROOT).text
    node.lie = signed(node, text)
    for look in LOOKS.values():
        node.paths.clear()
        require_evidence(outcome(look, comeback()), node)
        assert len(node.paths) < FEW


def test_empty_ledger_is_no_ledger(node: Operator, comeback: Comeback) -> None:
    node.lie = signed(node, Checkpoint(node.origin, 0, EMPTY_ROOT).text)
    for look in LOOKS.values():
        assert isinstance(outcome(look, comeback()), BadAnswerError)


@pytest.mark.parametrize("size", [13, 256, 257, 2**40, 2**63 - 1])
def test_larger_checkpoint_of_what_is_not_there_is_refused(
    node: Operator, comeback: Comeback, size: int
) -> None:
    comeback().checkpoint()
    node.lie = signed(node, Checkpoint(node.origin, size, bytes(32)).text)
    for look in LOOKS.values():
        node.paths.clear()
        assert isinstance(outcome(look, comeback()), (InconsistentError, BadAnswerError))
        assert len(node.paths) < FEW


def test_block_past_what_is_signed_is_not_shown(node: Operator, comeback: Comeback) -> None:
    """A node that signs nothing new shows nothing new."""
    comeback().checkpoint()
    signed_once = str(node.checkpoint())
    node.lie = checkpoints(lambda _: signed_once)
    node.show(history(15))
    client = comeback()
    with pytest.raises(BadAnswerError, match="a checkpoint of 12 blocks only"):
        client[13]
    assert client[11] == BLOCKS[11]


def test_extension_lines_are_passed_over(node: Operator, comeback: Comeback) -> None:
    node.lie = signed(node, node.checkpoint().text + "more\nand more\n")
    assert comeback()[5] == FIVE
    node.lie = lambda _, answer: answer
    assert comeback()[5] == FIVE


def test_genesis_that_is_not_that_of_the_origin_is_refused(comeback: Comeback) -> None:
    """An operator may name any ledger, and sign any tree."""
    node = Operator(BLOCKS, new_key(f"cairn/{'0' * 64}"))
    for name in ("genesis", "scan"):
        error = outcome(LOOKS[name], comeback(transport=node.transport))
        assert isinstance(error, InconsistentError)
        assert "is not the genesis of cairn/0000" in str(error)


@pytest.mark.parametrize("origin", ["http://bank.example/", "example.com/log", "cairn/1"])
def test_log_that_is_no_ledger_is_refused_and_leaves_no_trace(
    comeback: Comeback, home: Path, origin: str
) -> None:
    """Nor can it take the place of the ledger at another address."""
    node = Operator(BLOCKS, new_key(origin))
    for look in LOOKS.values():
        assert isinstance(outcome(look, comeback(transport=node.transport)), BadAnswerError)
    assert Keyring(home).nodes.last(origin) is None
    assert Keyring(home).seen.last(origin) is None


# Whom to believe


def test_first_key_that_is_seen_is_trusted_from_then_on_and_logged(
    node: Operator, comeback: Comeback, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert comeback()[5] == FIVE
    assert [r.getMessage() for r in caplog.records] == [
        f"trusting {node.key.verifier}, the first key seen for its ledger"
    ]
    changed = Operator(BLOCKS, new_key(node.origin))
    for look in LOOKS.values():
        error = outcome(look, comeback(transport=changed.transport))
        assert isinstance(error, UntrustedSignerError)
        assert str(changed.key.verifier) in str(error)
        assert error.keys == (changed.key.verifier,)
    assert comeback()[5] == FIVE


@pytest.mark.parametrize(
    "lie", [absent("/blocks/0/receipt"), instead("/blocks/0/receipt", 200, "")]
)
def test_changed_key_is_refused_also_where_its_name_cannot_be_read(
    node: Operator, comeback: Comeback, lie: Lie
) -> None:
    comeback().checkpoint()
    changed = Operator(BLOCKS, new_key(node.origin))
    changed.lie = lie
    error = outcome(LOOKS["block"], comeback(transport=changed.transport))
    assert isinstance(error, UntrustedSignerError)
    assert changed.key.verifier.id.hex() in str(error)


def test_key_that_is_given_is_believed_and_no_other(
    node: Operator, comeback: Comeback, home: Path
) -> None:
    wrong, right = str(new_key(node.origin).verifier), str(node.key.verifier)
    assert comeback(key=right)[5] == FIVE
    assert comeback(key=[wrong, right])[5] == FIVE
    assert Keyring(home).nodes.last(node.origin) is None  # nothing was taken on trust
    for _ in range(2):
        error = outcome(LOOKS["block"], comeback(key=wrong))
        assert isinstance(error, UntrustedSignerError)
        assert right in str(error)


def test_key_on_record_is_believed_and_no_first_contact(
    node: Operator, comeback: Comeback, home: Path
) -> None:
    Keyring(home).trust(new_key(node.origin).verifier)
    assert isinstance(outcome(LOOKS["block"], comeback()), UntrustedSignerError)
    Keyring(home).trust(node.key.verifier)
    assert comeback()[5] == FIVE


def test_first_key_is_the_ledgers_own_and_has_signed(
    node: Operator, comeback: Comeback, home: Path
) -> None:
    """A receipt may name any number of keys, of any kind."""
    idle, foreign = new_key(node.origin), new_key("else.example")
    witness = new_key("witness.example", Algorithm.COSIGNATURE)
    node.cosigners = [foreign, witness]
    named = [idle.verifier, foreign.verifier, witness.verifier, node.key.verifier]
    node.vkeys = ["x+00000000+AAAA", *map(str, named)]
    assert comeback()[5] == FIVE
    assert Keyring(home).nodes.last(node.origin) == str(node.key.verifier)
    stranger = Operator(BLOCKS)
    stranger.vkeys = []
    error = outcome(LOOKS["block"], comeback(transport=stranger.transport))
    assert isinstance(error, UntrustedSignerError)


def test_first_key_that_another_process_saw_first_counts(
    node: Operator, comeback: Comeback, home: Path
) -> None:
    honest_key = new_key(node.origin).verifier

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/receipt"):  # it is asked who it is, just now
            Keyring(home).nodes.replace(node.origin, None, str(honest_key))
        return answer

    node.lie = lie
    assert isinstance(outcome(LOOKS["block"], comeback()), UntrustedSignerError)
    assert Keyring(home).nodes.last(node.origin) == str(honest_key)


def with_record(value: object) -> list[Block]:
    """Return the blocks, and a record after them."""
    salts = iter([bytes(16)])
    return [*BLOCKS, block(Kind.RECORD, [value], BLOCKS[-1], salts)]


def test_key_that_the_old_one_has_named_in_the_ledger_is_followed(
    node: Operator, comeback: Comeback
) -> None:
    comeback().checkpoint()
    new = new_key(node.origin)
    node.show(with_record(KeyChange.sign(node.key, new.verifier).to_value()))
    node.key, node.vkeys = new, [str(new.verifier)]
    for look in (LOOKS["block"], LOOKS["checkpoint"], LOOKS["receipt"]):
        assert not isinstance(outcome(look, comeback()), CairnError)


def test_key_change_that_is_not_the_old_keys_or_not_in_the_ledger_is_not_followed(
    node: Operator, comeback: Comeback
) -> None:
    comeback().checkpoint()
    old, new = node.key, new_key(node.origin)
    good = KeyChange.sign(old, new.verifier)
    own = KeyChange.sign(new, new.verifier)
    elsewhere = KeyChange.sign(old, new_key("cairn/1").verifier)
    node.key, node.vkeys = new, [str(new.verifier)]
    for change in (own, elsewhere):
        node.show(with_record(change.to_value()))
        assert isinstance(outcome(LOOKS["block"], comeback()), UntrustedSignerError)
    node.show(with_record(good.to_value()))
    shown_only = view(node.ledger[LENGTH])
    node.show(history(LENGTH + 1))
    node.lie = lambda r, a: (
        httpx.Response(200, json={"blocks": [shown_only], "next": None})
        if r.url.path == "/blocks"
        else a
    )
    error = outcome(LOOKS["block"], comeback())
    assert isinstance(error, InconsistentError)
    assert "the key was changed in block 12, which is not signed" in str(error)


def test_search_for_a_change_of_the_key_ends(
    node: Operator, comeback: Comeback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "SEARCH_PAGES", 20)
    comeback().checkpoint()
    node.key, numbers = new_key(node.origin), itertools.count(1)
    node.lie = lambda r, a: (
        httpx.Response(200, json={"blocks": [], "next": f"?cursor={next(numbers)}"})
        if r.url.path == "/blocks"
        else a
    )
    node.paths.clear()
    assert isinstance(outcome(LOOKS["block"], comeback()), UntrustedSignerError)
    assert 20 < len(node.paths) < FEW


@pytest.mark.parametrize("n", range(4))
def test_witnesses_that_are_asked_for_must_have_cosigned(
    node: Operator, comeback: Comeback, n: int
) -> None:
    """All k of n, and all who may have cosigned."""
    witnesses = [new_key(f"witness.example/{i}", Algorithm.COSIGNATURE) for i in range(n)]
    stranger = new_key("witness.example/0", Algorithm.COSIGNATURE)
    names = [str(witness.verifier) for witness in witnesses]
    for k in [None, *range(n + 1)]:
        asked = n if k is None else k
        for has_cosigned in itertools.product([False, True], repeat=n):
            node.cosigners = [stranger, *itertools.compress(witnesses, has_cosigned)]
            client = comeback(key=str(node.key.verifier), witnesses=names, quorum=k)
            found = outcome(lambda c: c[5], client)
            if sum(has_cosigned) >= asked:
                assert found == FIVE
                assert client.checkpoint().assurance == (
                    "witnessed" if any(has_cosigned) else "signed"
                )
            else:
                assert isinstance(found, ProofError)
                assert f"; {asked} are asked for" in str(found)


def test_cosignature_that_is_wrong_is_refused(node: Operator, comeback: Comeback) -> None:
    """Also where it is not needed: somebody has made it up."""
    witness = new_key("witness.example/0", Algorithm.COSIGNATURE)
    text = node.checkpoint().text
    wrong = witness.sign(text + "x\n", time=1)
    node.lie = checkpoints(lambda note: note + str(wrong))
    for quorum in (0, 1, None):
        client = comeback(witnesses=str(witness.verifier), quorum=quorum)
        with pytest.raises(ProofError, match=r"the signature by witness\.example/0"):
            client.checkpoint()
    assert comeback()[5] == FIVE  # who does not know the witness does not ask


@pytest.mark.parametrize(
    "options",
    [
        {"key": "x"},
        {"key": ["x+00000000+AAAA"]},
        {"key": str(new_key("w", Algorithm.COSIGNATURE).verifier)},
        {"witnesses": [str(new_key("cairn/1").verifier)]},
        {"witnesses": [str(new_key("w", Algorithm.COSIGNATURE).verifier)], "quorum": 2},
        {"quorum": 1},
        {"quorum": -1},
        {"witnesses": [str(VerifierKey("w", Algorithm.COSIGNATURE, bytes(32)))] * 2},
    ],
)
def test_policy_that_cannot_be_is_refused_at_once(comeback: Comeback, options: Any) -> None:
    with pytest.raises(ProofError):
        comeback(**options)


# What was acknowledged


RECORDS: Final[dict[str, Look]] = {
    "append": lambda client: client.append("mine"),
    "append_all": lambda client: client.append_all(["mine", "mine, too"]),
    "extend": lambda client: client.extend(["mine", "mine, too"]),
}


@pytest.mark.parametrize("how", RECORDS)
def test_acknowledged_append_that_is_forgotten_is_found(
    node: Operator, comeback: Comeback, how: str
) -> None:
    client = comeback()
    RECORDS[how](client)
    node.show(BLOCKS)  # as if nothing had been recorded
    with pytest.raises(InconsistentError, match="was acknowledged, and is not in the ledger"):
        client.checkpoint()
    node.show(history(LENGTH + 2))  # and others were
    for name in ("head", "checkpoint"):
        with pytest.raises(InconsistentError, match="was acknowledged, and is not in the") as error:
            LOOKS[name](client)
    assert "was acknowledged with the hash" in Path(error.value.evidence).read_text()


@pytest.mark.parametrize("name", RECORDS)
def test_client_that_only_appends_finds_that_nothing_is_signed(
    node: Operator, comeback: Comeback, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that shows the same checkpoint for ever is consistent with itself."""
    monkeypatch.setattr(trust, "LOOK_APPENDS", 3)
    signed_once = str(node.checkpoint())
    node.lie = checkpoints(lambda _: signed_once)
    client = comeback()
    RECORDS[name](client)
    RECORDS[name](client)
    with pytest.raises(InconsistentError) as error:
        RECORDS[name](client)
    assert [note for note in error.value.__notes__ if "was acknowledged" in note]


def test_client_that_only_appends_looks_after_a_while(
    node: Operator, comeback: Comeback, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = comeback()
    client.append("forgotten")
    node.show(BLOCKS)
    monkeypatch.setattr(trust, "LOOK_SECONDS", -1.0)
    with pytest.raises(InconsistentError, match="was acknowledged twice, as two blocks"):
        client.append("in its place")
    node.show(history(LENGTH + 9))
    with pytest.raises(InconsistentError, match="was acknowledged, and is not in the ledger"):
        client.append("later")


def test_appends_that_are_there_are_found_and_let_go(
    node: Operator, comeback: Comeback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "LOOK_APPENDS", 4)
    client = comeback()
    for i in range(10):
        client.append(i)
        client.append_all([i, i])
        client.append("the same", key="k")  # which is acknowledged once more
        node.paths.clear()
    client.checkpoint()
    node.paths.clear()
    client.checkpoint()
    assert node.paths == ["/checkpoint"]  # nothing is due


@pytest.mark.parametrize(
    "lie",
    [
        instead("/checkpoint", 503, ""),
        instead("/checkpoint", 500, ""),
        instead("/checkpoint", 403, ""),
    ],
)
def test_appends_go_on_where_there_is_no_checkpoint_just_now(
    node: Operator, comeback: Comeback, lie: Lie, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are they held up: a look is one try, and the next is not sooner."""
    monkeypatch.setattr(trust, "LOOK_APPENDS", 4)
    monkeypatch.setattr(trust, "ACKNOWLEDGED", 6)
    node.lie = lie
    client = comeback(patience=30)
    began = time.monotonic()
    for i in range(12):
        client.append(i)
    assert time.monotonic() - began < 5
    assert node.paths.count("/checkpoint?covering=16") == 1
    assert len([path for path in node.paths if path.startswith("/checkpoint")]) == 3
    node.lie = lambda _, answer: answer
    node.show([*node.ledger][:-1])
    assert isinstance(outcome(lambda c: c.checkpoint(), client), InconsistentError)


def test_older_block_is_no_acknowledgement_of_a_new_append(
    node: Operator, comeback: Comeback
) -> None:
    """Of the same value, or of anything: a node that records nothing would be found much later."""
    client = comeback()
    for i in (5, 11):
        client.checkpoint()
        again: dict[str, tuple[Any, Look]] = {
            "/block": (view(BLOCKS[i]), lambda c, i=i: c.append({"step": i})),  # type: ignore[misc]
            "/blocks": (
                {"count": 1, "first": i, "last": i, "hash": BLOCKS[i].hash},
                lambda c, i=i: c.append_all([{"step": i}]),  # type: ignore[misc]
            ),
        }
        for path, (answer, look) in again.items():
            node.lie = lambda r, a, p=path, v=answer: (  # type: ignore[misc]
                httpx.Response(201, json=v) if (r.method, r.url.path) == ("POST", p) else a
            )
            assert isinstance(outcome(look, client), OutcomeUnknownError)
    node.lie = lambda _, answer: answer
    assert client.append({"step": 5}, key="k") == client.append({"step": 5}, key="k")


@pytest.mark.parametrize("value", [None, 5, "00", "0" * 63 + "g", "A" * 64])
def test_batch_that_is_acknowledged_without_its_last_hash_is_not(
    node: Operator, comeback: Comeback, value: object
) -> None:
    node.lie = lambda r, a: with_json(a, member("hash", value)) if r.method == "POST" else a
    assert isinstance(outcome(lambda c: c.append_all([1]), comeback()), OutcomeUnknownError)


# What is remembered


def size_in(home: Path, origin: str) -> int:
    note = Keyring(home).seen.last(origin)
    return Checkpoint.parse(Note.parse(note).text).size if note else 0


def test_client_that_others_are_faster_than_accuses_nobody(
    node: Operator, comeback: Comeback, home: Path
) -> None:
    """Each time that it has read a checkpoint, another process has remembered a newer one."""
    node.show(BLOCKS[:2])
    others = Operator(BLOCKS[:2], node.key)

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path == "/checkpoint" and len(node.ledger) < LENGTH:
            others.show(BLOCKS[: len(node.ledger) + 1])
            with Client(URL, transport=others.transport, keyring=Keyring(home)) as other:
                other.checkpoint()
            node.show(BLOCKS[: len(node.ledger) + 1])
        return answer

    node.lie = lie
    client = comeback()
    sizes = []
    for _ in range(8):
        found = client.checkpoint().checkpoint.size
        sizes.append(found)
        assert size_in(home, node.origin) >= found
    assert sizes == sorted(sizes)


def test_fork_that_another_process_sees_meanwhile_is_found(
    node: Operator, comeback: Comeback, home: Path
) -> None:
    others = Operator(rewritten(history(15), 4), node.key)

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path == "/checkpoint" and not size_in(home, node.origin):
            with Client(URL, transport=others.transport, keyring=Keyring(home)) as other:
                other.checkpoint()
        return answer

    node.lie = lie
    require_evidence(outcome(LOOKS["checkpoint"], comeback()), node)
    node.show(history(20))
    require_evidence(outcome(LOOKS["checkpoint"], comeback()), node)


def test_receipt_under_a_checkpoint_of_another_history_is_found(
    node: Operator, comeback: Comeback
) -> None:
    """Also where it is newer than what this client holds, and older than what is remembered."""
    client = comeback()
    node.show(BLOCKS[:8])
    client.checkpoint()
    node.show(BLOCKS)
    comeback().checkpoint()
    fork = Operator(rewritten(BLOCKS[:10], 4), node.key)
    for size in (6, 8, 10):
        fork.show(rewritten(BLOCKS[:size], 4))
        node.lie = lambda r, a: fork.transport.handler(r) if "receipt" in str(r.url) else a  # type: ignore[assignment,return-value]
        require_evidence(outcome(lambda c: c.receipt(5), client), node)
        require_evidence(outcome(lambda c: c.receipt(5), comeback()), node)


def test_older_receipt_is_as_good_as_a_new_one_and_makes_nobody_forget(
    node: Operator, comeback: Comeback, home: Path
) -> None:
    old = Operator(BLOCKS[:7], node.key)
    node.lie = lambda r, a: old.transport.handler(r) if "receipt" in str(r.url) else a  # type: ignore[assignment,return-value]
    for client in (comeback(), comeback()):
        assert client.receipt(5).entry.value == {"step": 5}
        assert isinstance(outcome(lambda c: c.receipt(9), client), BadAnswerError)
        assert size_in(home, node.origin) == LENGTH


def test_receipt_that_is_asked_for_and_cannot_be_is_no_lie(comeback: Comeback) -> None:
    with pytest.raises(NoSuchBlockError):
        comeback().receipt(99)
    with pytest.raises(NoSuchBlockError):
        comeback().receipt(5, 1)


@pytest.mark.parametrize("name", ["seen.sqlite", "nodes.sqlite"])
@pytest.mark.parametrize("damage", ["garbage", "a folder", "another value"])
def test_nothing_is_shown_where_memory_is_damaged(
    node: Operator, comeback: Comeback, home: Path, name: str, damage: str
) -> None:
    comeback().checkpoint()
    path = home / name
    if damage == "another value":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE checkpoints SET note = 'x'")
    else:
        path.unlink()
        path.mkdir() if damage == "a folder" else path.write_text("garbage" * 1000)
    for look in LOOKS.values():
        error = outcome(look, comeback())
        is_other = (name, damage) == ("nodes.sqlite", "another value")
        assert isinstance(error, InconsistentError if is_other else StoreError), error


def test_nothing_is_shown_where_nothing_can_be_remembered(
    comeback: Comeback, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for look in LOOKS.values():
        assert isinstance(outcome(look, comeback(keyring=Keyring(tmp_path / "file"))), StoreError)


def test_contradiction_is_told_also_where_evidence_cannot_be_written(
    node: Operator, comeback: Comeback, home: Path
) -> None:
    comeback().checkpoint()
    (home / "evidence").touch()
    node.show(rewritten(BLOCKS, 3))
    error = outcome(LOOKS["block"], comeback())
    assert isinstance(error, InconsistentError)
    assert "the evidence is in nowhere: " in str(error)
    Policy((node.key.verifier,)).open(error.found)


def test_same_contradiction_is_written_down_once(
    node: Operator, comeback: Comeback, home: Path
) -> None:
    client = comeback()
    client.checkpoint()
    node.show(rewritten(BLOCKS, 3))
    errors = [outcome(LOOKS["checkpoint"], client) for _ in range(5)]
    assert len({error.evidence for error in errors}) == len([*(home / "evidence").iterdir()]) == 1


def test_threads_of_one_client_agree(
    node: Operator, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "KEPT_TILES", 2)
    monkeypatch.setattr(trust, "LOOK_APPENDS", 5)
    failures: list[BaseException] = []

    def work(client: Client, number: int) -> None:
        chance, last = random.Random(number), 0
        try:
            for i in range(30):
                block = client.append([number, i])
                assert client[block.index] == block
                size = client.checkpoint().checkpoint.size
                assert size >= max(last, block.index + 1)
                last = size
                at = chance.randrange(last)
                assert client[at] == node.ledger[at]
        except BaseException as error:
            failures.append(error)

    with Client(URL, transport=node.transport, keyring=Keyring(home)) as client:
        threads = [threading.Thread(target=work, args=(client, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures, failures
        assert client.checkpoint().checkpoint.size == LENGTH + 4 * 30


def test_thread_that_is_slower_does_not_take_its_client_back(node: Operator, home: Path) -> None:
    node.show(BLOCKS[:3])
    with Client(URL, transport=node.transport, keyring=Keyring(home)) as client:
        client.checkpoint()
        node.show(BLOCKS[:5])

        def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
            if "/tile/" in request.url.path and len(node.ledger) == 5:
                node.show(BLOCKS)
                assert client.checkpoint().checkpoint.size == LENGTH  # of another thread
                return with_body(answer, answer.read())
            return answer

        node.lie = lie
        assert client.checkpoint().checkpoint.size == 5
        node.paths.clear()
        assert client[LENGTH - 1] == BLOCKS[-1]
        assert not [path for path in node.paths if path.startswith("/checkpoint")]


def test_processes_of_one_user_never_disagree(real_node: RealNode, home: Path) -> None:
    """Eight, that append and read at once. What is remembered never gets smaller."""

    def work() -> None:
        with Client(real_node.url, keyring=Keyring(home)) as client:
            last = 0
            for i in range(6):
                block = client.append([os.getpid(), i])
                assert client[block.index] == block
                checkpoint = client.checkpoint().checkpoint
                remembered = size_in(home, checkpoint.origin)
                assert remembered >= checkpoint.size > block.index
                assert remembered >= last
                last = remembered

    at_once(8, 1, work)


# What it costs


def test_what_a_client_asks_for(node: Operator, comeback: Comeback) -> None:
    """Requests, beside those for the blocks: one for a checkpoint, and tiles."""
    blocks = history(3000)
    node.show(blocks)
    comeback().checkpoint()

    def asked(look: Look, client: Client) -> list[str]:
        node.paths.clear()
        look(client)
        return node.paths.copy()

    client = comeback()
    assert asked(lambda c: c[700], client) == [
        "/checkpoint",
        "/blocks/700",
        "/tile/1/000.p/11",
        "/tile/0/011.p/184",
        "/tile/0/002",
    ]
    assert asked(lambda c: c[701], client) == ["/blocks/701"]
    assert asked(lambda c: c[9], client) == ["/blocks/9", "/tile/0/000"]
    scanned = asked(lambda c: list(c.scan()), client)
    assert len([path for path in scanned if path.startswith("/?")]) == 3
    assert len(scanned) <= 3 + 12  # and each tile of hashes once
    assert len(asked(lambda c: following(c, 0, 300), client)) <= 1 + 2
    node.show([*blocks, *history(3001)[3000:]])
    assert asked(lambda c: c[3000], client)[:2] == ["/blocks/3000", "/checkpoint?covering=3001"]
    assert len(asked(lambda c: c[2999], client)) <= 1
    assert asked(lambda c: c.checkpoint(), client) == ["/checkpoint"]


def test_each_new_block_that_is_followed_takes_a_checkpoint_and_few_tiles(
    node: Operator, comeback: Comeback
) -> None:
    node.show(history(300))

    def lie(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path == "/events":
            node.show(history(310))
            events = [event(block) for block in node.ledger[300:]]
            return httpx.Response(200, headers=EVENTS, stream=Stream(events))
        return answer

    client = comeback()
    client.checkpoint()
    node.lie = lie
    node.paths.clear()
    assert [b.index for b in following(client, 300, 10)] == list(range(300, 310))
    assert len(node.paths) <= 6  # the first asks for what covers it, and the rest with it
