"""What clients believe of nodes whose operator lies, and holds the key."""

from __future__ import annotations

import itertools
import json
import logging
import random
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import pytest

from cairn import Block, CairnError, NoSuchBlockError, StoreError
from cairn.client import BadAnswerError, Client, NodeError, aio, pages, retry, sync, trust
from cairn.client.events import Follower
from cairn.core.errors import InconsistentError, ProofError
from cairn.core.header import Kind
from cairn.core.merkle import EMPTY_ROOT
from cairn.core.rules import InvalidChainError
from cairn.proof.checkpoint import Checkpoint, Policy
from cairn.proof.keyring import Keyring
from cairn.proof.note import Algorithm, Note, VerifierKey
from cairn.proof.receipt import UntrustedSignerError
from tests.builders import chain
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
    "scan": lambda client: shown(client),
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


BORDERS: Final = (1, 2, 3, 7, 8, 9, 255, 256, 257, 258, 511, 512, 513)


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


@pytest.mark.parametrize("host", ["127.evil.example", "127.0.0.1.evil.example", "localhost.example"])
def test_name_that_looks_like_this_machine_is_not(
    node: Operator, comeback: Comeback, host: str
) -> None:
    comeback(f"http://{host}").checkpoint()
    other = Operator(OTHERS)
    client = comeback(f"http://{host}", transport=other.transport)
    with pytest.raises(InconsistentError, match="another ledger answers"):
        client.checkpoint()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_ledgers_come_and_go_on_this_machine(
    node: Operator, comeback: Comeback, host: str
) -> None:
    for operator in (node, Operator(OTHERS)):
        found = comeback(f"http://{host}:5000", transport=operator.transport).checkpoint()
        assert found.checkpoint.origin == operator.origin
