"""The disk fails under the node: nobody is told wrong, and it goes on when the disk does."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn import Ledger
from cairn.core.genesis import Genesis, Work
from tests.faults import shim
from tests.service.harness import (
    PATIENCE,
    STOP_SECONDS,
    Answer,
    Server,
    require_valid,
    running,
    start,
    start_node,
    threads,
    until,
)

FAULTS = [
    ("ENOSPC", "STICKY"),
    ("EIO", "STICKY"),
    ("EIO", "SYNC_ONCE"),
    ("EIO", "ONCE"),
    ("ENOSPC", "SHORT"),
]
REFUSALS = {"outcome-unknown", "unavailable"}
WRITERS = 8


@contextmanager
def failing(path: Path, library: Path, **options: Any) -> Iterator[Server]:
    """Run a node whose disk fails when it is told to."""
    path.parent.mkdir(exist_ok=True)
    environment = shim.environment(library, path.parent)
    server = start_node(path, environment=environment, **options)
    with running(server, may_log=True):
        yield server


def refusal(answer: Answer) -> str:
    """Return the name of the problem: the disk failed, and trying again may help."""
    assert answer.status == 503, answer
    assert answer.headers["retry-after"]
    return answer.problem()


def test_a_failing_disk_is_told_and_a_retry_records_once(
    shim_library: Path, memory_path: Path
) -> None:
    path = memory_path / "disk" / "ledger"
    with failing(path, shim_library) as server, server.client() as client:
        for number, (error, mode) in enumerate(FAULTS):
            values, key = [number, "bulk"], f"key-{number}"
            assert client.post(["before", number]).status == 201
            for in_bulk in (False, True):
                key = f"key-{number}-{in_bulk}"
                assert server.tell(f"fail 1 {error} {mode}") == "done"
                answer = client.post_all(values, key) if in_bulk else client.post(values, key)
                assert refusal(answer) in REFUSALS, (error, mode)
                if mode == "STICKY":
                    again = client.post_all(values, key) if in_bulk else client.post(values, key)
                    assert refusal(again) in REFUSALS
                    assert refusal(client.post("unkeyed")) in REFUSALS
                    assert client.get("/head").status == 200, "reading needs no space"
                    assert client.get("/health").status == 200
                assert int(server.tell("heal")) > 0, "nothing has failed"
                first, second = (
                    client.post_all(values, key) if in_bulk else client.post(values, key)
                    for _ in range(2)
                )
                assert first.status == second.status == 201, (error, mode, first)
                assert first.value == second.value
        report = client.get("/validate").value
        assert report["valid"], report
        chain = client.get("/").value["chain"]
        for number in range(len(FAULTS)):
            data = [block["data"] for block in chain]
            assert data.count([number, "bulk"]) == 1
            assert data.count(["before", number]) == 1
            assert data.count(number) == 1
        assert data.count("bulk") == len(FAULTS)
        assert server.stop() < STOP_SECONDS
    require_valid(path)


def test_what_is_answered_under_load_on_a_bad_disk_is_there_once(
    shim_library: Path, memory_path: Path
) -> None:
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(2**32))
    choose = random.Random(seed)
    path = memory_path / "disk" / "ledger"
    over = threading.Event()
    numbers = itertools.count()
    recorded: dict[int, tuple[int, str]] = {}
    refused: list[str] = []

    def write(server: Server) -> None:
        """Try each value until it is answered."""
        with server.client() as client:
            while not over.is_set():
                number = next(numbers)
                deadline = time.monotonic() + PATIENCE
                while (answer := client.post({"n": number}, f"key-{number}")).status != 201:
                    refused.append(refusal(answer))
                    assert refused[-1] in REFUSALS
                    assert time.monotonic() < deadline, "it does not recover"
                recorded[number] = (answer.value["index"], answer.value["hash"])

    try:
        with failing(path, shim_library) as server:
            with threads(lambda: write(server), WRITERS):
                try:
                    for _ in range(40):
                        error, mode = choose.choice(FAULTS)
                        server.tell(f"fail {choose.randint(1, 12)} {error} {mode}")
                        done = len(recorded) + len(refused)
                        until(lambda: len(recorded) + len(refused) > done + 20)  # noqa: B023
                        server.tell("heal")
                        done = len(recorded)
                        until(lambda: len(recorded) > done + 5)  # noqa: B023
                finally:
                    server.tell("heal")
                    over.set()
            assert server.get("/validate").value["valid"] is True
            assert server.get("/health").status == 200
            assert server.stop() < STOP_SECONDS
        assert len(refused) > 20
        require_valid(path)
        with Ledger.open(path, read_only=True) as ledger:
            found = {block.data["n"]: (block.index, block.hash) for block in ledger if block.index}
            assert len(ledger) == len(found) + 1, "a value is there twice"
        assert found == recorded
    except BaseException as error:
        error.add_note(f"FAULT_SEED={seed}")
        raise


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_node_can_be_stopped_while_its_disk_fails(
    error: str, shim_library: Path, memory_path: Path
) -> None:
    path = memory_path / "disk" / "ledger"
    with failing(path, shim_library) as server, server.client() as client:
        kept = [client.post(number, f"key-{number}").value for number in range(20)]
        server.tell(f"fail 1 {error} STICKY")
        assert refusal(client.post("lost?", "key-lost")) in REFUSALS
        assert server.stop() < STOP_SECONDS
    with running(start(path)) as server, server.client() as client:
        chain = client.get("/").value["chain"]
        assert chain[1 : len(kept) + 1] == kept
        again = client.post("lost?", "key-lost")
        assert again.status == 201
        assert client.get("/validate").value["valid"] is True
        assert [b["data"] for b in client.get("/").value["chain"]].count("lost?") == 1


def test_a_miner_goes_on_when_its_disk_does(shim_library: Path, memory_path: Path) -> None:
    path = memory_path / "disk" / "ledger"
    path.parent.mkdir()
    seal = Work(interval=30_000, half_life=1_000_000, final_depth=4)
    Ledger.create(path, Genesis(seal=seal), bits=0x1F00FFFF).close()
    with (
        failing(path, shim_library, mines=True) as server,
        server.client() as client,
        server.client() as other,
    ):

        def height() -> int:
            index = other.get("/head").value["index"]
            assert isinstance(index, int)
            return index

        def submitted(key: str) -> str:
            answer = client.ask("POST", "/block?wait=30", b'"x"', {"idempotency-key": key})
            assert answer.status == 201, answer
            entry = answer.value["entry"]
            assert isinstance(entry, str)
            return entry

        entries = [submitted("before")]
        for error, mode in (("ENOSPC", "STICKY"), ("EIO", "SYNC_ONCE")):
            server.tell(f"fail 1 {error} {mode}")
            until(lambda: other.get("/health").status == 503)
            if mode == "STICKY":
                assert refusal(client.post("lost?", f"{error}-lost")) in REFUSALS
                stood = height()
                time.sleep(2.5)  # it tries again after one second, and after two
                assert (height(), other.get("/health").status) == (stood, 503)
                assert client.get("/blocks/1").status == 200, "reading needs no space"
            assert int(server.tell("heal")) > 0
            until(lambda: other.get("/health").status == 200)
            entries.append(submitted(f"after-{error}-{mode}"))
        for entry in entries:
            found = client.get(f"/entries/{entry}").value
            assert found["status"] in ("confirmed", "final")
            assert found["duplicates"] == []
        assert "bug" not in server.errors()
        assert server.stop() < STOP_SECONDS
    require_valid(path)


def test_a_bug_in_the_writer_is_answered_and_shown_and_the_node_can_be_stopped(
    tmp_path: Path,
) -> None:
    server = start_node(tmp_path / "ledger", broken_commit=4)
    with running(server, may_break=True), server.client() as client:
        kept = [client.post(number).value for number in range(3)]
        answer = client.post("meets the bug")
        assert (answer.status, answer.problem()) == (500, "bug")
        for _ in range(3):  # and nobody waits for ever
            with server.client(timeout=5) as other:
                assert other.post("after it").status in (500, 503)
                assert other.post_all(["after it", "too"]).status in (500, 503)
        assert client.get("/health").status == 503
        assert client.get("/").value["chain"][1:] == kept
        assert client.get("/validate").value["valid"] is True
        assert server.stop() < STOP_SECONDS
        assert "no error of Cairn's own" in server.errors()
