"""The checkpoints of a node: signed as it grows, cosigned, and never two that do not agree."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from cairn import Ledger
from cairn.client import Client
from cairn.core.errors import CairnError, InconsistentError, ProofError
from cairn.core.proofs import check_consistency
from cairn.lab.tampering import forging, rechain
from cairn.ledger.notary import Notary
from cairn.ledger.writer import Append
from cairn.node import Node, checkpoints
from cairn.node.checkpoints import NotSignedError, WitnessAddress
from cairn.proof.checkpoint import Checkpoint, Policy, SignedCheckpoint
from cairn.proof.keyring import Keyring
from cairn.proof.note import Algorithm, Note, SigningKey, VerifierKey
from cairn.proof.receipt import Receipt
from cairn.proof.witness import Request
from tests.faults import shim
from tests.proof.processes import started
from tests.service.harness import (
    CAIRN,
    PATIENCE,
    STOP_SECONDS,
    UNSIGNED,
    Answer,
    Server,
    cairn,
    running,
    start,
    start_node,
    until,
)
from tests.witness.logs import new_key

RETRY: Final = "cairn.node.checkpoints.RETRY_SECONDS"
WITNESS: Final = "witness.example/1"


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "home")


@pytest.fixture
def home(keyring: Keyring) -> dict[str, str]:
    """Return the environment in which that is the user's."""
    return {"CAIRN_HOME": str(keyring.folder)}


def size_of(text: str | bytes | Note) -> int:
    note = text if isinstance(text, Note) else Note.parse(text)
    return Checkpoint.parse(note.text).size


def with_node(
    path: Path,
    keyring: Keyring,
    work: Callable[[Node], Any],
    witnesses: Sequence[WitnessAddress] = (),
) -> list[tuple[int, int]]:
    """Run `work` on a node in this process; return sizes and cosignatures that were published."""
    published: list[tuple[int, int]] = []

    async def run() -> None:
        node = Node(Ledger.open(path, keyring=keyring), path, witnesses)
        node.checkpoints.published = lambda size, count: published.append((size, count))
        async with node:
            await work(node)
            began = time.monotonic()
        assert time.monotonic() - began < STOP_SECONDS

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
    return published


async def append(node: Node, count: int = 1) -> int:
    """Append values; return how many blocks there are."""
    return (await node.append(Append((b"1",) * count, None))).index + 1


# As it grows


def test_node_signs_as_it_grows_and_not_much_more_often(tmp_path: Path, keyring: Keyring) -> None:
    seen: list[tuple[float, int]] = []

    async def work(node: Node) -> None:
        node.checkpoints.published = lambda size, _: seen.append((time.monotonic(), size))
        began = time.monotonic()
        while time.monotonic() - began < 4 * checkpoints.SECONDS:
            size = await append(node)
            await asyncio.sleep(0.001)
        while seen[-1][1] < size:
            assert time.monotonic() - began < PATIENCE
            await asyncio.sleep(0.01)

    with_node(tmp_path / "ledger", keyring, work)
    times, sizes = zip(*seen, strict=True)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert len(sizes) > 3
    assert list(sizes) == sorted(set(sizes))
    assert min(gaps) > checkpoints.SECONDS * 0.9
    assert sorted(gaps)[len(gaps) // 2] < 4 * checkpoints.SECONDS


def test_many_who_wait_share_one_signing(tmp_path: Path, keyring: Keyring) -> None:
    async def work(node: Node) -> None:
        await node.checkpoints.covering(1)
        size = await append(node, 10)
        began = time.monotonic()
        notes = await asyncio.gather(*(node.checkpoints.covering(size) for _ in range(500)))
        assert {size_of(note) for note in notes} == {size}
        assert time.monotonic() - began < 2

    assert with_node(tmp_path / "ledger", keyring, work) == [(1, 0), (11, 0)]


def test_who_waits_is_not_kept_for_more_blocks_to_come(tmp_path: Path, keyring: Keyring) -> None:
    took: list[float] = []

    async def work(node: Node) -> None:
        await node.checkpoints.covering(1)
        for _ in range(10):
            size = await append(node)
            began = time.monotonic()
            await node.checkpoints.covering(size)
            took.append(time.monotonic() - began)

    with_node(tmp_path / "ledger", keyring, work)
    assert min(took) < checkpoints.SECONDS / 2


def test_checkpoints_of_several_lives_are_consistent(tmp_path: Path, keyring: Keyring) -> None:
    """What was signed last is what the next life goes on from."""
    path = tmp_path / "ledger"
    notes: list[Note] = []

    async def work(node: Node) -> None:
        before = keyring.signed.last(node.ledger.notary.origin)
        notes.append(await node.checkpoints.covering(1))
        assert before is None or notes[-1] == Note.parse(before)
        sizes = [await append(node, 7) for _ in range(4)]
        notes.extend([await node.checkpoints.covering(size) for size in sizes])
        assert keyring.signed.last(node.ledger.notary.origin) == str(notes[-1])
        assert node.ledger.notary.published() == notes[-1]

    for _ in range(4):
        with_node(path, keyring, work)
    with Ledger.open(path, keyring=keyring) as ledger:
        tree = ledger.notary.tree
        for old, new in itertools.pairwise(notes):
            one, other = Checkpoint.parse(old.text), Checkpoint.parse(new.text)
            proof = tree.prove_consistency(one.size, other.size)
            check_consistency(proof, one.size, other.size, one.root, other.root)
    assert size_of(notes[-1]) == 1 + 4 * 4 * 7


# What it refuses


def rewritten(path: Path) -> None:
    with forging(path, cover_tracks=True) as blocks:
        blocks[3].entries[0] = blocks[3].entries[0][:16] + b'"forged"'
        rechain(blocks)


def truncated(path: Path) -> None:
    with forging(path, cover_tracks=True) as blocks:
        del blocks[7:]


def from_a_backup(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(path.with_name("old"), path)


@pytest.mark.parametrize("attack", [rewritten, truncated, from_a_backup])
def test_ledger_that_was_changed_while_the_node_was_down_is_not_signed(
    attack: Callable[[Path], None], tmp_path: Path, keyring: Keyring, home: dict[str, str]
) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(range(5))
    shutil.copytree(path, tmp_path / "old")
    with running(start(path, environment=home)) as server, server.client() as client:
        assert client.post_all([1, 2, 3]).status == 201
        signed = client.get("/checkpoint?covering=9").body
        server.stop()
    attack(path)
    with running(start(path, environment=home), may_log=True) as server, server.client() as client:
        for target in ("/checkpoint", "/blocks/0/receipt", "/tile/0/000.p/1", "/checkpoint"):
            answer = client.get(target)
            assert (answer.status, answer.problem()) == (500, "damaged")
            assert "remembered checkpoint" in answer.value["detail"]
            assert str(keyring.folder) not in answer.value["detail"]
        assert client.get("/health").status == 200
        for _ in range(3):
            assert client.post("goes on").status == 201
        assert client.get("/checkpoint?covering=2").status == 500
        report = client.get("/validate").value
        assert report["failure"]["rule"] == "checkpoint"
        said = [line for line in server.errors().splitlines() if "CRITICAL" in line]
        assert len(said) == 1
        assert "nothing is signed any more: " in said[0]
        evidence = Path(said[0].rpartition("the evidence is in ")[2])
        assert signed.decode() in evidence.read_text("utf-8")
        assert server.stop() < STOP_SECONDS
    [origin] = {Checkpoint.parse(Note.parse(signed).text).origin}
    assert keyring.signed.last(origin) == signed.decode()


def test_block_that_breaks_a_rule_is_never_covered(tmp_path: Path, home: dict[str, str]) -> None:
    """What was signed before it stays, and is served."""
    path = tmp_path / "ledger"
    with running(start(path, environment=home)) as server, server.client() as client:
        client.post_all(["signed"] * 4)
        before = client.get("/checkpoint?covering=5").body
        server.stop()
    with Ledger.open(path) as ledger:
        ledger.extend(["bad", "good"])
    with forging(path, cover_tracks=False) as blocks:
        blocks[5].entries[0] = blocks[5].entries[0][:16] + b'"worse"'
    with running(start(path, environment=home), may_log=True) as server:
        answer = server.get("/checkpoint")
        assert (answer.status, answer.problem()) == (500, "damaged")
        assert "block 5 breaks rule 'size'" in answer.value["detail"]
        assert UNSIGNED in server.errors()
        assert server.get("/blocks/1").status == 200
    assert (path / "checkpoint").read_bytes() == before


def test_who_asks_for_what_is_not_signed_leaves_nothing_behind(
    tmp_path: Path, keyring: Keyring
) -> None:
    """An error that is raised again and again must not collect where it was."""
    path = tmp_path / "ledger"
    with Ledger.open(path, keyring=keyring) as ledger:
        ledger.extend(range(5))
        ledger.checkpoint()
    rewritten(path)

    async def work(node: Node) -> None:
        depths = []
        for _ in range(5):
            with pytest.raises(InconsistentError) as caught:
                await node.checkpoints.covering(1)
            depths.append(len(caught.traceback))
        assert len(set(depths[1:])) == 1, depths

    with_node(path, keyring, work)


# When keys and memories cannot be used


@pytest.mark.parametrize("error", ["EROFS", "ENOSPC", "EIO"])
def test_keys_and_memories_that_cannot_be_written_stop_nothing_but_signing(
    error: str, shim_library: Path, memory_path: Path
) -> None:
    path, folder = memory_path / "ledger", memory_path / "home"
    folder.mkdir()
    environment = {**shim.environment(shim_library, folder), "CAIRN_HOME": str(folder)}
    server = start_node(path, environment=environment, constants={RETRY: 0.1})
    with running(server, may_log=True), server.client() as client:
        before = client.get("/checkpoint").body
        assert server.tell(f"fail 1 {error} STICKY") == "done"
        for number in range(3):
            index = client.post({"n": number}).value["index"]
            for target in (f"/checkpoint?covering={index + 1}", f"/blocks/{index}/receipt"):
                answer = client.get(target)
                assert (answer.status, answer.problem()) == (503, "unavailable")
                assert answer.headers["retry-after"]
                assert answer.value["detail"] == "nothing can be signed; the node's log says why"
        assert client.get("/checkpoint").body == before, "what was published is there still"
        # It names who has signed, by the trusted keys; of a full disk, those can be read.
        assert client.get("/blocks/0/receipt").status == (200 if error == "ENOSPC" else 503)
        assert client.get("/health").status == 200
        assert "the ledger is not signed: " in server.errors()
        assert int(server.tell("heal")) > 0
        until(lambda: client.get("/checkpoint?covering=4").status == 200)
        assert client.get("/blocks/3/receipt").status == 200
        assert server.stop() < STOP_SECONDS


def test_node_starts_where_it_cannot_have_a_key_and_signs_when_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.write_text("no folder")
    server = start_node(
        tmp_path / "ledger",
        environment={"CAIRN_HOME": str(folder)},
        constants={RETRY: 0.1},
    )
    with running(server, may_log=True), server.client() as client:
        assert client.post("recorded").status == 201
        answer = client.get("/checkpoint")
        assert (answer.status, answer.problem()) == (503, "unavailable")
        folder.unlink()
        until(lambda: client.get("/checkpoint?covering=2").status == 200)
        [key] = (folder / "keys").iterdir()
        key.chmod(0o644)
        index = client.post("recorded, too").value["index"]
        until(lambda: client.get(f"/checkpoint?covering={index + 1}").status == 503)
        assert "others can read the private key: chmod 600" in server.errors()
        key.chmod(0o600)
        until(lambda: client.get(f"/checkpoint?covering={index + 1}").status == 200)


def test_key_is_the_user_s_alone_and_lies_away_from_the_ledger(
    tmp_path: Path, keyring: Keyring, home: dict[str, str]
) -> None:
    path = tmp_path / "ledger"
    with running(start(path, environment=home)) as server:
        assert server.get("/checkpoint").status == 200
        origin = server.get("/checkpoint").body.split(b"\n")[0].decode()
        server.stop()
    key = keyring.path_of(origin)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for folder in (keyring.folder, key.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    secret = key.read_bytes()
    inside = [file for file in path.rglob("*") if file.is_file()]
    assert len(inside) > 1
    assert not any(secret[30:60] in file.read_bytes() for file in inside)
    assert not any(file.suffix == ".pem" for file in inside)


def test_lab_signs_with_keys_that_go_with_it(tmp_path: Path, home: dict[str, str]) -> None:
    path, folder = tmp_path / "ledger", Path(home["CAIRN_HOME"])
    with running(start(path, environment=home)) as server:
        own = server.get("/checkpoint").body
        server.stop()
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with running(start(path, "--lab", environment=home), unsigned=True) as lab:
        assert lab.get("/checkpoint").status == 200
        shown = lab.get("/checkpoint").body
        keys = lab.get("/blocks/0/receipt").value["keys"]
        assert len(keys) == 1
        assert keys[0] not in (folder / "trusted-keys").read_text()
        with lab.client() as client:
            assert client.post("only here").status == 201
            assert client.get("/checkpoint?covering=2").status == 200
            client.get("/tamper")
            assert client.get("/validate").value["valid"] is False
        lab.stop()
    assert shown.split(b"\n\n")[0] == own.split(b"\n\n")[0]
    assert shown != own
    after = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert after == before
    assert not list(tmp_path.glob("cairn-lab-*"))


# Killed


def live(path: Path, keyring: Keyring, ready: int, before: int = 0) -> None:
    """Append and have it signed, for as long as this process lives; so many `before` it says so."""

    async def run() -> None:
        async with Node(Ledger.open(path, keyring=keyring), path) as node:
            if before:
                await node.checkpoints.covering(await append(node, before))
            os.write(ready, b"!")
            while True:
                await node.checkpoints.covering(await append(node, random.randint(1, 5)))

    asyncio.run(run())


@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.soak)])
def test_killed_node_has_published_nothing_that_is_not_remembered(kills: int) -> None:
    choose = random.Random(int(os.environ.get("FAULT_SEED", "7")))
    signed = behind = 0
    with TemporaryDirectory() as folder:
        path, keyring = Path(folder) / "ledger", Keyring(Path(folder) / "home")
        with Ledger.open(path, keyring=keyring) as ledger:
            origin = ledger.notary.origin
        for kill in range(kills):
            here, there = os.pipe()
            before = 5 * (kill % 2)
            child = started(lambda: live(path, keyring, there, before))  # noqa: B023
            assert os.read(here, 1) == b"!"
            time.sleep(choose.uniform(0, 0.06))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            for end in (here, there):
                os.close(end)
            remembered = keyring.signed.last(origin)
            with Ledger.open(path, read_only=True, keyring=keyring) as ledger:
                if not (path / "checkpoint").exists():
                    assert signed == 0
                    continue
                assert remembered is not None
                published = ledger.notary.published()
                assert size_of(published) <= size_of(remembered)
                if size_of(published) == size_of(remembered):
                    assert str(published) == remembered
                behind += str(published) != remembered
                assert size_of(remembered) >= signed
                signed = size_of(remembered)
                for note in (published, Note.parse(remembered)):
                    assert ledger.notary.contradiction(note) is None
        with Ledger.open(path, keyring=keyring) as ledger:
            assert ledger.validate().valid
            assert ledger.checkpoint().checkpoint.size == len(ledger) >= signed
    assert signed > 25


def test_killed_between_remembering_and_publishing_it_publishes_later(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path, keyring=keyring) as ledger:
        ledger.checkpoint()
        origin = ledger.notary.origin

    publish = Notary.publish

    def die(self: Notary, note: Note) -> None:
        if size_of(note) > 1:
            os._exit(7)
        publish(self, note)

    def life() -> None:
        monkeypatch.setattr(Notary, "publish", die)
        live(path, keyring, os.pipe()[1])

    _, status = os.waitpid(started(life), 0)
    assert os.waitstatus_to_exitcode(status) == 7
    remembered = Note.parse(str(keyring.signed.last(origin)))
    with Ledger.open(path, read_only=True, keyring=keyring) as ledger:
        assert size_of(ledger.notary.published()) == 1 < size_of(remembered)

    async def work(node: Node) -> None:
        assert await node.checkpoints.covering(1) == remembered == node.ledger.notary.published()

    with_node(path, keyring, work)


# Witnesses


class Witness:
    """A real `cairn witness`, which can be ended and started again at the same address."""

    def __init__(self, folder: Path, log: VerifierKey) -> None:
        self._folder = folder
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        folder.mkdir()

    def start(self) -> None:
        command = [*CAIRN, "witness", "--name", WITNESS, "--log", str(self._log)]
        with (self._folder / "log").open("a") as stderr:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env={**os.environ, "CAIRN_HOME": str(self._folder / "home")},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self._process.stdout is not None
        greeting = self._process.stdout.readline()
        assert greeting.startswith("Witness on http://127.0.0.1:"), self.log()
        self.port = int(greeting.split()[2].rpartition(":")[2])
        self.vkey = self._process.stdout.readline().strip()

    def stop(self) -> None:
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def log(self) -> str:
        return (self._folder / "log").read_text()

    @property
    def address(self) -> tuple[str, str]:
        return f"http://127.0.0.1:{self.port}", self.vkey


@pytest.fixture
def ledger_path(tmp_path: Path, keyring: Keyring) -> Path:
    """A ledger with one block, and a key."""
    with Ledger.open(tmp_path / "ledger", keyring=keyring) as ledger:
        keyring.signing_key(ledger.notary.origin)
    return tmp_path / "ledger"


@pytest.fixture
def log_key(ledger_path: Path, keyring: Keyring) -> VerifierKey:
    return keyring.trusted()[0]


@pytest.fixture
def witness(tmp_path: Path, log_key: VerifierKey) -> Iterator[Witness]:
    witness = Witness(tmp_path / "witness", log_key)
    witness.start()
    yield witness
    witness.stop()


def opened(answer: Answer, log: VerifierKey, *witnesses: VerifierKey) -> SignedCheckpoint:
    return Policy((log,), witnesses).open(answer.body)


def test_witness_cosigns_what_is_published_and_clients_may_ask_for_it(
    ledger_path: Path,
    log_key: VerifierKey,
    witness: Witness,
    home: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = VerifierKey.parse(witness.vkey)
    server = start(ledger_path, "--witness", *witness.address, environment=home)
    with running(server), server.client() as client:
        for size in (2, 3, 4):
            client.post("more")
            answer = client.get(f"/checkpoint?covering={size}")
            signed = opened(answer, log_key, key)
            assert signed.witnesses.keys() == {key}
            assert signed.assurance == "witnessed"
            assert abs(signed.witnesses[key] - time.time()) < 60
        assert b"cairn_checkpoint_cosignatures 1.0\n" in client.get("/metrics").body
        receipt = tmp_path / "receipt"
        receipt.write_bytes(client.get("/blocks/2/receipt").body)
        url = f"http://127.0.0.1:{server.port}"
        own = Keyring(tmp_path / "client")
        with Client(url, key=str(log_key), witnesses=[witness.vkey], keyring=own) as trusting:
            assert trusting.assurance == "witnessed"
            assert trusting.receipt(3).check(Policy((log_key,), (key,), 1)).entry.value == "more"
        other = str(new_key("witness.example/2", Algorithm.COSIGNATURE).verifier)
        both = [witness.vkey, other]
        with Client(url, key=str(log_key), witnesses=both, quorum=1, keyring=own) as trusting:
            assert trusting.assurance == "witnessed"
        with (
            Client(url, key=str(log_key), witnesses=both, keyring=own, patience=0) as trusting,
            pytest.raises(ProofError, match="1 of 2 trusted witnesses have cosigned"),
        ):
            trusting.checkpoint()
    monkeypatch.setenv("CAIRN_HOME", str(keyring_of(home).folder))  # where both are recorded
    facts = json.loads(cairn("verify", "--json", "--quorum", 1, receipt).stdout)
    assert facts["assurance"] == "witnessed"
    assert list(facts["witnessed_by"]) == [witness.vkey]
    assert facts["signed_by"] == [str(log_key)]


def keyring_of(home: dict[str, str]) -> Keyring:
    return Keyring(Path(home["CAIRN_HOME"]))


def test_witness_that_was_down_is_caught_up_with(
    ledger_path: Path, log_key: VerifierKey, witness: Witness, home: dict[str, str]
) -> None:
    """While it is down, checkpoints are published without it, and the log says so once."""
    environment = {**home, "PYTHONPATH": os.pathsep.join(sys.path)}
    key = VerifierKey.parse(witness.vkey)
    command = (sys.executable, "-c", SERVE, RETRY, "0.2")
    arguments = ("serve", "--ledger", ledger_path, "--port", 0, "--witness", *witness.address)
    server = Server((*command, *arguments), environment)
    with running(server, may_log=True), server.client() as client:
        assert opened(client.get("/checkpoint"), log_key, key).witnesses
        witness.stop()
        for size in (2, 3, 4):
            client.post("more")
            answer = client.get(f"/checkpoint?covering={size}")
            assert opened(answer, log_key, key).witnesses == {}
        assert b"cairn_checkpoint_cosignatures 0.0\n" in client.get("/metrics").body
        witness.start()
        # Nothing is appended: it is asked again all the same.
        until(lambda: opened(client.get("/checkpoint"), log_key, key).witnesses)
        said = server.errors().splitlines()
        assert [line.rpartition(": ")[0].split(" ", 3)[3] for line in said[:1]] == [
            f"cairn.node.checkpoints: witness {WITNESS} does not cosign"
        ]
        assert "cosigns again" in said[-1]
        assert len(said) == 2
        server.stop()
    # A new life does not know which size the witness is at, and is told.
    with Ledger.open(ledger_path, keyring=keyring_of(home)) as ledger:
        ledger.extend(range(300))
    server = start(ledger_path, "--witness", *witness.address, environment=home)
    with running(server), server.client() as client:
        assert opened(client.get("/checkpoint?covering=304"), log_key, key).witnesses
    assert "Traceback" not in witness.log()


SERVE: Final = """
import sys
from importlib import import_module
name, value = sys.argv.pop(1), sys.argv.pop(1)
module, _, constant = name.rpartition(".")
setattr(import_module(module), constant, float(value))
from cairn.cli import main
main(prog_name="cairn")
"""
"""`cairn` with a constant set."""


def test_cosignature_stays_where_the_witness_is_gone_after_a_restart(
    ledger_path: Path, log_key: VerifierKey, witness: Witness, keyring: Keyring
) -> None:
    key = VerifierKey.parse(witness.vkey)
    address = WitnessAddress(witness.address[0], key)

    async def work(node: Node) -> None:
        note = await node.checkpoints.covering(1)
        assert Policy((log_key,), (key,), 1).open(note).witnesses
        assert node.ledger.notary.published() == note

    with_node(ledger_path, keyring, work, [address])
    witness.stop()
    assert with_node(ledger_path, keyring, work, [address]) == [(1, 1)]
    # What the file claims is not believed, though: anybody with the disk can write it.
    text = (ledger_path / "checkpoint").read_text()
    lines = text.splitlines(keepends=True)
    at = lines[-1].rfind("A")
    lines[-1] = lines[-1][: at - 1] + ("B" if lines[-1][at - 1] != "B" else "C") + lines[-1][at:]
    (ledger_path / "checkpoint").write_text("".join(lines))

    async def without(node: Node) -> None:
        note = await node.checkpoints.covering(1)
        assert Policy((log_key,), (key,)).open(note).witnesses == {}

    with_node(ledger_path, keyring, without, [address])


@contextmanager
def answering(answer: Callable[[bytes], tuple[int, bytes]]) -> Iterator[str]:
    """Serve what is said to be a witness; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, content = answer(body)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/prefix/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


LIAR: Final = new_key(WITNESS, Algorithm.COSIGNATURE)
STRANGER: Final = new_key(WITNESS, Algorithm.COSIGNATURE)
NOW: Final = 1_700_000_000


def cosigned(key: SigningKey, text: str, time: int = NOW) -> tuple[int, bytes]:
    return 200, str(key.sign(text, time=time)).encode()


def broken(note: Note) -> tuple[int, bytes]:
    """Return the signature of another text."""
    return cosigned(LIAR, note.text.replace("\n1\n", "\n2\n"))


LIES: Final[dict[str, Callable[[Note], tuple[int, bytes]]]] = {
    "of another text": broken,
    "by another key": lambda note: cosigned(STRANGER, note.text),
    "by the log itself": lambda note: (200, str(note.signatures[0]).encode()),
    "of no time": lambda note: cosigned(LIAR, note.text, 0),
    "nothing": lambda _: (200, b""),
    "no signature": lambda _: (200, b"<html>welcome</html>\n"),
    "not text": lambda _: (200, b"\xff\xfe\n"),
    "too much": lambda note: (200, cosigned(LIAR, note.text)[1] + b"\n" * 70_000),
    "cosigned, but refused": lambda note: (202, cosigned(LIAR, note.text)[1]),
    "a conflict with what is larger": lambda _: (409, b"17\n"),
    "a conflict for ever": lambda _: (409, b"0\n"),
    "a conflict with nonsense": lambda _: (409, b"one\n"),
    "a conflict without size": lambda _: (409, b""),
    "sent elsewhere": lambda _: (302, b""),
    "an error": lambda _: (500, b"\0" * 100),
    "forbidden": lambda _: (403, b"no\n"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_witness_gives_that_is_no_cosignature_is_not_published(
    lie: str,
    ledger_path: Path,
    log_key: VerifierKey,
    keyring: Keyring,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[Request] = []

    def answer(body: bytes) -> tuple[int, bytes]:
        asked.append(Request.parse(body))
        return LIES[lie](asked[-1].note)

    async def work(node: Node) -> None:
        note = await node.checkpoints.covering(1)
        assert len(note.signatures) == 1
        assert Policy((log_key,), (LIAR.verifier,)).open(note).witnesses == {}

    with answering(answer) as url:
        address = WitnessAddress(url, LIAR.verifier)
        assert with_node(ledger_path, keyring, work, [address]) == [(1, 0)]
    assert 1 <= len(asked) <= checkpoints.WITNESS_TRIES
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"witness {WITNESS} does not cosign: ")


def test_one_good_witness_among_bad_ones_counts(
    ledger_path: Path, log_key: VerifierKey, keyring: Keyring
) -> None:
    def honest(body: bytes) -> tuple[int, bytes]:
        return cosigned(LIAR, Request.parse(body).note.text)

    def lying(body: bytes) -> tuple[int, bytes]:
        return broken(Request.parse(body).note)

    async def work(node: Node) -> None:
        note = await node.checkpoints.covering(1)
        assert Policy((log_key,), (LIAR.verifier,), 1).open(note).witnesses == {LIAR.verifier: NOW}

    with answering(honest) as good, answering(lying) as bad:
        others = [new_key(f"witness.example/{n}", Algorithm.COSIGNATURE).verifier for n in (7, 8)]
        addresses = [
            WitnessAddress(bad, others[0]),
            WitnessAddress(good, LIAR.verifier),
            WitnessAddress("http://127.0.0.1:1", others[1]),
            WitnessAddress("http://[bad", others[1]),
        ]
        assert with_node(ledger_path, keyring, work, addresses) == [(1, 1)]


def test_witness_that_hangs_delays_a_checkpoint_by_its_bound(
    ledger_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WITNESS_SECONDS", 0.4)
    took: list[float] = []

    async def work(node: Node) -> None:
        for size in (1, 2, 3):
            began = time.monotonic()
            await node.checkpoints.covering(size)
            took.append(time.monotonic() - began)
            await append(node)

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        published = with_node(ledger_path, keyring, work, [WitnessAddress(address, LIAR.verifier)])
    assert published[:3] == [(1, 0), (2, 0), (3, 0)]
    assert all(0.3 < seconds < 2 for seconds in took), took


@contextmanager
def talking(pause: float, piece: bytes) -> Iterator[str]:
    """Serve answers that do not end; yield the address."""
    over = threading.Event()

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not over.wait(pause):
                connection.sendall(piece)

    def take(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threads.append(threading.Thread(target=talk, args=(listener.accept()[0],)))
                threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taking = threading.Thread(target=take, args=(listener,))
        taking.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in (taking, *threads):
                thread.join()


@pytest.mark.parametrize(
    ("bound", "pause", "piece"),
    [(0.4, 0.05, b"\n"), (PATIENCE, 0.0, b"\n" * 10_000)],
    ids=["drop by drop", "a flood"],
)
def test_answer_of_a_witness_that_does_not_end_is_not_read_to_its_end(
    bound: float,
    pause: float,
    piece: bytes,
    ledger_path: Path,
    keyring: Keyring,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "WITNESS_SECONDS", bound)

    async def work(node: Node) -> None:
        began = time.monotonic()
        await node.checkpoints.covering(1)
        assert time.monotonic() - began < 3

    with talking(pause, piece) as url:
        published = with_node(ledger_path, keyring, work, [WitnessAddress(url, LIAR.verifier)])
    assert published == [(1, 0)]


def test_node_with_a_witness_that_hangs_can_be_stopped(
    ledger_path: Path, home: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = ("--witness", address, LIAR.verifier)
        with running(start(ledger_path, *options, environment=home), may_log=True) as server:
            assert server.stop() < STOP_SECONDS


def test_disk_that_is_slow_or_a_bug_are_told_apart(tmp_path: Path, keyring: Keyring) -> None:
    """One is tried again; the other ends signing, is logged, and stops nothing else."""
    calls: list[str] = []

    async def work(node: Node) -> None:
        await node.checkpoints.covering(1)
        sign = Notary.sign

        def broken(_self: Notary) -> Note:
            calls.append("broken")
            raise ZeroDivisionError("no error of Cairn's own")

        Notary.sign = broken  # type: ignore[assignment,method-assign]
        try:
            size = await append(node)
            for _ in range(3):
                with pytest.raises(NotSignedError, match="this is a bug"):
                    await node.checkpoints.covering(size)
            assert await append(node) == size + 1
            assert size_of(await node.checkpoints.covering(1)) == 1
            assert node.healthy
        finally:
            Notary.sign = sign  # type: ignore[method-assign]

    with_node(tmp_path / "ledger", keyring, work)
    assert calls == ["broken"]


def test_checkpoint_that_takes_too_long_is_not_waited_for_for_ever(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WAIT_SECONDS", 0.2)
    sign = Notary.sign

    def slow(self: Notary) -> Note:
        time.sleep(0.6)
        return sign(self)

    monkeypatch.setattr(Notary, "sign", slow)

    async def work(node: Node) -> None:
        began = time.monotonic()
        with pytest.raises(NotSignedError, match="ask again"):
            await node.checkpoints.covering(1)
        assert time.monotonic() - began < 0.5
        monkeypatch.setattr(checkpoints, "WAIT_SECONDS", PATIENCE)
        assert size_of(await node.checkpoints.covering(1)) == 1

    with_node(tmp_path / "ledger", keyring, work)


def test_receipts_of_a_node_are_good_when_it_is_off(
    tmp_path: Path, keyring: Keyring, home: dict[str, str]
) -> None:
    path = tmp_path / "ledger"
    with running(start(path, environment=home)) as server, server.client() as client:
        client.post_all(list(range(50)))
        receipts = [client.get(f"/blocks/{index}/receipt").body for index in range(51)]
        server.stop()
    shutil.rmtree(path)
    policy = Policy(tuple(keyring.trusted()))
    for index, receipt in enumerate(receipts):
        assert Receipt.parse(receipt).check(policy).header.index == index
    assert not isinstance(NotSignedError(""), ProofError)
    assert issubclass(NotSignedError, CairnError)
