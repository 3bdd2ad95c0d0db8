"""The teaching session as typed: append, validate, tamper, validate. It leaves the ledger alone."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from cairn import Ledger
from cairn.lab.tampering import Forgery, forging, rechain, tamper
from cairn.node.scratch import scratch_copy
from cairn.store.directory import FILE_NAME
from tests.builders import chain
from tests.service.harness import Client, Server, running, start, threads
from tests.store import sealed

CURL: Final = {"User-Agent": "curl/8.0", "Accept": "*/*"}
FORM: Final = {**CURL, "Content-Type": "application/x-www-form-urlencoded"}
"""What curl says that the body is, unless told."""


def curl(server: Server, *typed: str) -> Any:
    """Return what `curl` prints, or where it is not installed, what its request is answered."""
    *options, path = typed
    if shutil.which("curl"):
        command = ["curl", "--silent", "--max-time", "30", *options]
        command.append(f"http://127.0.0.1:{server.port}{path}")
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    with server.client() as client:
        if options:
            return client.ask("POST", path, options[-1].encode(), FORM).value
        return client.get(path, CURL).value


def contents(directory: Path) -> dict[str, bytes] | None:
    """Return all files, but what SQLite leaves after reading: a log with nothing in it."""
    if not directory.exists():
        return None
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    if not files.get(f"{FILE_NAME}-wal"):
        files.pop(f"{FILE_NAME}-wal", None)
        files.pop(f"{FILE_NAME}-shm", None)
    return files


@pytest.mark.parametrize("entries", [None, 0, 7])
def test_the_teaching_session_as_typed(entries: int | None, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    if entries is not None:
        with Ledger.open(path) as ledger:
            ledger.extend(range(entries))
    before = contents(path)
    length = 1 + (entries or 0)
    with running(start(path, "--lab"), unsigned=True) as server:
        for step in range(5):
            block = curl(server, "-X", "POST", "-d", '"example data"', "/block")
            assert list(block)[:5] == ["index", "timestamp", "data", "previous_hash", "hash"]
            assert (block["index"], block["data"]) == (length + step, "example data")
        report = curl(server, "/validate")
        assert (report["valid"], report["blocks"]) == (True, length + 5)
        assert report.keys() == {"valid", "execution_time", "blocks", "bytes"}
        tampered = curl(server, "/tamper")
        assert tampered["data"] != "example data"
        assert curl(server, f"/blocks/{tampered['index']}") == tampered
        report = curl(server, "/validate")
        assert report["valid"] is False
        assert report["failed_block"] == report["failure"]["index"] == tampered["index"]
        page = curl(server, "/")
        assert page["length"] == len(page["chain"]) == length + 5
        assert page["chain"][tampered["index"]] == tampered
        server.stop()
    assert contents(path) == before


def test_thirty_labs_name_the_very_block(tmp_path: Path) -> None:
    choose = random.Random(30)
    named: set[str] = set()
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.extend({"step": step} for step in range(4))
    before = contents(tmp_path / "ledger")
    for number in range(30):
        with scratch_copy(tmp_path / "ledger") as copy, Ledger.open(copy) as ledger:
            for _ in range(number % 3):
                ledger.append("example data")
            assert ledger.validate().valid
            block = tamper(copy, choose)
            report = ledger.validate()
            assert not report.valid
            assert report.failure is not None
            assert report.failure.index == block.index
            assert ledger[block.index] == block
            last = len(ledger) - 1
            named.add({0: "genesis", last: "the last"}.get(block.index, "the middle"))
            assert ledger.append("goes on").index == last + 1
            assert ledger.validate().failure == report.failure
        assert not copy.exists()
    assert named == {"genesis", "the middle", "the last"}
    assert contents(tmp_path / "ledger") == before


def test_labs_of_sealed_ledgers_name_the_very_block(tmp_path: Path) -> None:
    """In files of any shape and in the tail, whether they hold values or batches."""
    choose = random.Random(31)
    named: set[int] = set()
    blocks = chain("one", ("a", "b"), {"three": 3}, ("c",), "five", 6, [7], None)
    for number, sizes in enumerate([(1,), (9,), (3, 3), (2, 3), (1, 1, 4)] * 5):
        path = tmp_path / str(number)
        sealed.build(path, blocks, *sizes)
        with Ledger.open(path) as ledger:
            before = list(ledger)
            assert ledger.validate().valid
            block = tamper(path, choose)
            named.add(block.index)
            report = ledger.validate(all=True)
            assert [failure.index for failure in report.failures] == [block.index]
            assert {failure.rule for failure in report.failures} <= {"size", "data_root", "genesis"}
            assert ledger[block.index] == block
            assert [block for block in ledger if block not in before] == [block]
            assert ledger.find(block.hash) == block
            assert ledger.append("goes on").index == len(blocks)
    assert len(named) > 6


@pytest.mark.parametrize("cover_tracks", [False, True])
def test_a_forgery_of_sealed_blocks_lies_where_they_lay(cover_tracks: bool, tmp_path: Path) -> None:
    blocks = chain(*range(9))
    for count in (10, 7, 5, 2, 12):
        path = tmp_path / str(count)
        sealed.build(path, blocks, 3, 3)
        with forging(path, cover_tracks=cover_tracks) as forged:
            forged[count:] = []
            forged += [
                Forgery(b.header, b.hash, list(b.entries)) for b in forged[: max(count - 10, 0)]
            ]
            rechain(forged)
        with Ledger.open(path, read_only=True) as ledger:
            report = ledger.validate()
            assert report.valid is (cover_tracks or count == 10)
            assert len(sealed.files_of(path)) == (1 if count == 2 else 2)
            if cover_tracks:
                assert len(list(ledger)) == count


def test_a_lab_of_a_node_with_sealed_blocks(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    sealed.build(path, chain(*range(30)), 20, 11)
    before = contents(path)
    files = [file.read_bytes() for file in sealed.files_of(path)]
    with running(start(path, "--lab"), unsigned=True) as server, server.client() as client:
        tampered = set()
        for _ in range(4):
            block = client.get("/tamper").value
            assert client.get(f"/blocks/{block['index']}").value == block
            tampered.add(block["index"])
            assert client.get("/validate").value["failed_block"] == min(tampered)
        assert client.post("goes on").status == 201
        server.stop()
    assert contents(path) == before
    assert [file.read_bytes() for file in sealed.files_of(path)] == files


def test_appends_go_on_in_a_lab_and_what_was_tampered_with_stays_named(tmp_path: Path) -> None:
    """Only a retry of what was changed is refused: its key was used for what is there now."""
    with (
        running(start(tmp_path / "ledger", "--lab"), unsigned=True) as server,
        server.client() as client,
    ):
        for step in range(3):
            assert client.post({"step": step}, f"key-{step}").status == 201
        tampered: dict[int, Any] = {}
        while len(tampered) < 4:  # all four blocks
            block = client.get("/tamper").value
            tampered[block["index"]] = block
            assert client.post("goes on").status == 201
            assert client.post_all(["goes", "on"]).status == 201
            assert client.get("/validate").value["failed_block"] == min(tampered)
            for step in range(3):
                answer = client.post({"step": step}, f"key-{step}")
                if step + 1 in tampered:
                    assert (answer.status, answer.problem()) == (422, "key-reused")
                else:
                    assert answer.value["index"] == step + 1
            if len(client.get("/").value["chain"]) > 200:
                break
        chain = client.get("/").value["chain"]
        assert all(chain[index] == block for index, block in tampered.items())


def test_what_a_killed_lab_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """And nothing of one that is at work, nor what is none of ours."""
    foreign = tmp_path / "cairn-lab-notes"
    foreign.mkdir()

    def folders() -> set[Path]:
        return {file for file in tmp_path.glob("cairn-lab-*") if file != foreign}

    def begin() -> Server:
        return start(tmp_path / "ledger", "--lab")

    with running(begin()) as at_work:
        (own,) = folders()
        with running(begin()) as killed:
            assert killed.get("/checkpoint").status == 200
            killed.process.kill()
            killed.process.wait()
        (left,) = folders() - {own}
        assert list(left.glob("cairn-lab-keys/**/*.pem"))
        with running(begin()) as third:
            assert own in folders()
            assert left not in folders()
            assert len(folders()) == 2
            third.stop()
        assert folders() == {own}
        assert at_work.get("/validate").value["valid"] is True
    assert foreign.exists()


def test_tampering_under_load_always_succeeds(tmp_path: Path) -> None:
    over = threading.Event()

    def write(server: Server) -> None:
        with server.client() as client:
            while not over.is_set():
                assert client.post("x" * 500).status == 201

    with running(start(tmp_path / "ledger", "--lab"), unsigned=True) as server:
        with threads(lambda: write(server), 8):
            try:
                with server.client() as client:
                    answers = [client.get("/tamper") for _ in range(30)]
            finally:
                over.set()
        assert {answer.status for answer in answers} == {200}
        first = min(answer.value["index"] for answer in answers)
        assert server.get("/validate").value["failed_block"] == first


def test_there_is_no_tampering_outside_a_lab(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with running(start(path)) as server, server.client() as client:
        client.post("real")

        def refused(client: Client, method: str) -> None:
            answer = client.ask(method, "/tamper")
            assert answer.status == 404
            assert answer.problem() == "not-found"

        refused(client, "GET")
        refused(client, "POST")
        assert b"/tamper" not in client.get("/openapi.json").body
        assert client.get("/validate").value["valid"] is True
        server.stop()
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.validate().valid


def test_a_lab_of_a_ledger_that_is_being_written(tmp_path: Path) -> None:
    """Another node may be writing it: a lab needs no more than to read."""
    path = tmp_path / "ledger"
    with running(start(path)) as real, real.client() as client:
        client.post_all([*range(50)])
        with running(start(path, "--lab"), unsigned=True) as lab:
            assert lab.get("/head").value == real.get("/head").value
            client.post("only in the real one")
            assert lab.get("/tamper").status == 200
            assert lab.get("/validate").value["valid"] is False
            assert lab.get("/?limit=1").value["length"] == 51
        assert client.get("/validate").value["valid"] is True
        assert client.get("/?limit=1").value["length"] == 52
