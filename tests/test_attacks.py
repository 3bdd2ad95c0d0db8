"""Attacks by an operator who has the disk, the source code and the ledger's key.

A history that was made anew agrees with itself, and is signed. Who remembers an earlier checkpoint
tells it from the real one: a client, a witness, and `cairn validate`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from cairn import Ledger
from cairn.client import Client, trust
from cairn.core.canonical import canonical
from cairn.core.entry import SALT_BYTES
from cairn.core.errors import InconsistentError, ProofError
from cairn.lab.tampering import Forgery, forging, rechain
from cairn.proof.checkpoint import Policy, origin_of
from cairn.proof.keyring import Keyring
from cairn.proof.memory import Memory
from cairn.proof.note import Algorithm, SigningKey
from cairn.proof.witness import Witness
from cairn.store.disk import CHECKPOINT_NAME
from tests.client.liars import FAST, URL, Operator, new_key
from tests.client.nodes import RealNode

LENGTH: Final = 12

Attack = Callable[[list[Forgery]], None]


def rewrite(at: int) -> Attack:
    """Record something else in one block, and chain all after it anew."""

    def attack(blocks: list[Forgery]) -> None:
        salt, text = blocks[at].entries[0][:SALT_BYTES], blocks[at].entries[0][SALT_BYTES:]
        forged = text.replace(b'"ledger"', b'"bridge"') if at == 0 else canonical("forged")
        blocks[at].entries[0] = salt + forged
        rechain(blocks)

    return attack


def truncate(length: int) -> Attack:
    """Cut off the end."""
    return lambda blocks: blocks.__delitem__(slice(length, None))


def regrow(length: int) -> Attack:
    """Cut off the end, and record other things in its place."""

    def attack(blocks: list[Forgery]) -> None:
        for at in range(length, LENGTH):
            rewrite(at)(blocks)

    return attack


@dataclass(frozen=True)
class World:
    """A ledger, its operator, and those who have seen its checkpoint."""

    folder: Path
    origin: str
    key: SigningKey
    witness: Witness
    cosigner: SigningKey

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    @property
    def user(self) -> Keyring:
        """Who has seen the checkpoint."""
        return Keyring(self.folder / "user")

    @property
    def evidence(self) -> Path:
        """What the witness has written down."""
        return self.folder / "witnessed"

    def forge(self, attack: Attack) -> Operator:
        """Attack the ledger where it lies; return the node that shows what is there then.

        What the operator's own program remembers of its signatures is thrown away, and what it has
        published.
        """
        with forging(self.ledger, cover_tracks=True) as blocks:
            attack(blocks)
        (self.folder / "operator" / "signed.sqlite").unlink()
        (self.ledger / CHECKPOINT_NAME).unlink()
        with Ledger.open(self.ledger, keyring=Keyring(self.folder / "operator")) as ledger:
            blocks_now = [*ledger]
            ledger.checkpoint()  # which is signed and published: nothing is wrong with it
            assert ledger.notary.contradiction(ledger.published()) is None
        return Operator(blocks_now, self.key)

    def client(self, node: Operator, keyring: Keyring | None = None) -> Client:
        return Client(URL, transport=node.transport, keyring=keyring or self.user)

    def require_evidence(self, folder: Path, *, both_signed: bool = True) -> None:
        """Check that two statements that contradict one another lie there, and let them go."""
        (file, *_) = files = sorted(folder.rglob("*.txt"))
        text = file.read_text(encoding="utf-8")
        remembered, found = text.partition("--- remembered ---\n")[2].split("--- found ---\n")
        policy = Policy((self.key.verifier,))
        before = policy.open(remembered.removesuffix("\n")).checkpoint
        assert before.size == LENGTH
        if both_signed:
            assert policy.open(found).checkpoint != before
        for file in files:
            file.unlink()


@pytest.fixture(scope="module")
def template() -> Iterator[World]:
    """The world before the attack."""
    with TemporaryDirectory(dir=FAST) as name:
        folder = Path(name)
        operator = Keyring(folder / "operator")
        with Ledger.open(folder / "ledger", keyring=operator) as ledger:
            ledger.extend({"step": i} for i in range(1, LENGTH))
            ledger.checkpoint()
            origin = origin_of(ledger.id)
        cosigner = new_key("witness.example", Algorithm.COSIGNATURE)
        yield _world(folder, origin, operator.signing_key(origin), cosigner)


def _world(folder: Path, origin: str, key: SigningKey, cosigner: SigningKey) -> World:
    memory = Memory(folder / "cosigned.sqlite")
    witness = Witness(cosigner, {origin: [key.verifier]}, memory, folder / "witnessed")
    return World(folder, origin, key, witness, cosigner)


@pytest.fixture
def world(template: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """One of its own for each attack: a user and a witness have seen the checkpoint."""
    monkeypatch.setattr(trust, "STALE_SECONDS", 0.0)
    with TemporaryDirectory(dir=FAST) as name:
        folder = Path(name) / "world"
        shutil.copytree(template.folder, folder)
        world = _world(folder, template.origin, template.key, template.cosigner)
        with Ledger.open(world.ledger, read_only=True) as ledger:
            node = Operator([*ledger], world.key)
        with world.client(node) as client:
            assert client.checkpoint().checkpoint.size == LENGTH
        assert node.ask(world.witness, 0).status == 200
        yield world


def require_found_by_client(world: World, node: Operator) -> None:
    looks: list[Callable[[Client], object]] = [
        lambda client: client[0],
        lambda client: list(client.scan()),
        lambda client: client.head,
        lambda client: client.receipt(0),
        lambda client: client.checkpoint(),
    ]
    for look in looks:
        with world.client(node) as client, pytest.raises(InconsistentError) as error:
            look(client)
        assert Path(error.value.evidence).exists()
    world.require_evidence(world.user.evidence)


def require_not_cosigned(world: World, node: Operator) -> None:
    """Check that the witness cosigns it whatever it is told, and nobody who asks for that."""
    for old in range(LENGTH + 1):
        assert node.ask(world.witness, old).status != 200
    witness = str(world.witness.verifier)
    stranger = Keyring(world.folder / "stranger")
    with (
        Client(URL, transport=node.transport, keyring=stranger, witnesses=[witness]) as client,
        pytest.raises(ProofError, match="0 of 1 trusted witnesses have cosigned"),
    ):
        client.checkpoint()


def require_found_by_validation(world: World) -> None:
    stranger = Keyring(world.folder / "stranger")
    for keyring, rule in ((stranger, None), (world.user, "checkpoint")):
        with Ledger.open(world.ledger, read_only=True, keyring=keyring) as ledger:
            failure = ledger.validate().failure
        assert (failure and failure.rule) == rule
    world.require_evidence(world.user.evidence, both_signed=False)


@pytest.mark.parametrize("at", range(1, LENGTH))
def test_rewritten_block_is_found_by_client_witness_and_validation(world: World, at: int) -> None:
    node = world.forge(rewrite(at))
    require_found_by_client(world, node)
    require_not_cosigned(world, node)
    world.require_evidence(world.evidence)
    require_found_by_validation(world)


@pytest.mark.parametrize("length", range(1, LENGTH))
def test_truncated_chain_is_found_by_client_witness_and_validation(
    world: World, length: int
) -> None:
    """To a witness, a smaller tree is no contradiction yet: it does not cosign it."""
    node = world.forge(truncate(length))
    require_found_by_client(world, node)
    require_not_cosigned(world, node)
    require_found_by_validation(world)


@pytest.mark.parametrize("length", range(1, LENGTH))
def test_chain_that_was_cut_and_grown_anew_is_found_by_client_witness_and_validation(
    world: World, length: int
) -> None:
    node = world.forge(regrow(length))
    require_found_by_client(world, node)
    require_not_cosigned(world, node)
    world.require_evidence(world.evidence)
    require_found_by_validation(world)


def test_rewritten_genesis_makes_another_ledger(world: World) -> None:
    """Of which nobody has seen anything; but at the address, and the path, another was."""
    with forging(world.ledger, cover_tracks=True) as blocks:
        rewrite(0)(blocks)
    with Ledger.open(world.ledger, keyring=Keyring(world.folder / "operator")) as ledger:
        node = Operator([*ledger])
        assert origin_of(ledger.id) == node.origin != world.origin
    with world.client(node) as client, pytest.raises(InconsistentError, match="another ledger"):
        client[5]
    assert [*world.user.evidence.glob("*.txt")]
    assert node.ask(world.witness, 0).status == 404


@pytest.mark.parametrize("at", [1, 6, 11])
def test_fork_shown_to_two_clients_is_found_when_they_meet(world: World, at: int) -> None:
    """Each alone sees a ledger that grows. One witness that both ask for cannot serve both."""
    with Ledger.open(world.ledger, read_only=True) as ledger:
        real = Operator([*ledger], world.key)
    fork = world.forge(rewrite(at))
    stranger = Keyring(world.folder / "stranger")
    with world.client(real) as mine, world.client(fork, stranger) as theirs:
        assert mine[at] != theirs[at]
        assert mine.checkpoint().checkpoint.size == theirs.checkpoint().checkpoint.size
    require_not_cosigned(world, fork)
    world.require_evidence(world.evidence)
    with world.client(real, stranger) as client, pytest.raises(InconsistentError):
        client[at]  # who has seen the one is shown the other
    require_found_by_client(world, fork)
    require_found_by_validation(world)


def test_fork_is_cosigned_for_one_of_two_clients_at_most(world: World) -> None:
    """Both branches grow; the witness goes on with the one that it has seen."""
    with Ledger.open(world.ledger, read_only=True) as ledger:
        real = Operator([*ledger], world.key)
    fork = world.forge(rewrite(6))
    for node in (real, fork):
        node.ledger.append("more")
    assert fork.ask(world.witness, LENGTH).status == 422
    assert real.ask(world.witness, LENGTH).status == 200
    for old in range(LENGTH + 2):
        assert fork.ask(world.witness, old).status != 200


# By a real node


ATTACKS: Final = {
    "rewritten": rewrite(3),
    "truncated": truncate(7),
}


@dataclass(frozen=True)
class Served:
    """A ledger that a real node served, and a user who has seen it."""

    folder: Path
    user: Path


def serve(directory: Path, home: Path) -> RealNode:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAIRN_HOME", str(home))
        return RealNode(directory)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with TemporaryDirectory(dir=FAST) as name:
        folder = Path(name)
        with (
            serve(folder / "ledger", folder / "operator") as node,
            Client(node.url, keyring=Keyring(folder / "user")) as client,
        ):
            client.extend({"step": i} for i in range(1, LENGTH))
            assert client.checkpoint().checkpoint.size == len(client) == LENGTH
        yield Served(folder, folder / "user")


@pytest.mark.parametrize("name", ATTACKS)
def test_node_that_was_attacked_while_it_was_down_is_found(served: Served, name: str) -> None:
    """By the client of another process, and by the command on the disk; not by who is new."""
    with TemporaryDirectory(dir=FAST) as folder:
        directory, liar = Path(folder) / "ledger", Path(folder) / "liar"
        shutil.copytree(served.folder / "ledger", directory)
        shutil.copytree(served.folder / "operator" / "keys", liar / "keys")
        with forging(directory, cover_tracks=True) as blocks:
            ATTACKS[name](blocks)
        (directory / CHECKPOINT_NAME).unlink()
        with serve(directory, liar) as node:
            program = "from cairn import Client\nimport sys\nprint(Client(sys.argv[1])[1].data)"
            environment = os.environ | {"CAIRN_HOME": str(served.user)}
            run = subprocess.run(
                [sys.executable, "-c", program, node.url],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert "InconsistentError: the node" in run.stderr
            assert run.stdout == ""
            with Client(node.url, keyring=Keyring(Path(folder) / "stranger")) as client:
                assert len([*client.scan()]) == len(client)
        validate = [sys.executable, "-m", "cairn", "validate", "--ledger", str(directory)]
        run = subprocess.run(
            validate, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode == 1
        assert "breaks rule 'checkpoint'" in run.stdout
        assert len([*(served.user / "evidence").glob("*.txt")]) >= 2
