"""The commands of a network: mine, network, init --join."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from cairn import Ledger
from tests.service.harness import running, start

RUN_SECONDS = 60.0
"""What takes longer, on a busy machine, does not end."""


def cairn(*arguments: str | Path, home: Path, code: int = 0) -> str:
    command = [sys.executable, "-m", "cairn", *map(str, arguments)]
    environment = {**os.environ, "CAIRN_HOME": str(home)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_SECONDS, env=environment
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def init_work(directory: Path, home: Path) -> str:
    options = ("--seal", "work", "--interval", "1s", "--final-depth", "3", "--bits", "1f00ffff")
    return cairn("init", *options, "--ledger", directory, home=home)


def test_mine_records_what_waits_and_ends_after_so_many_blocks(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    init_work(ledger, tmp_path)
    (tmp_path / "lines").write_text('{"a": 1}\n{"a": 2}\n')
    cairn("add", tmp_path / "lines", "--ledger", ledger, home=tmp_path)
    output = cairn("mine", "--blocks", "2", "--ledger", ledger, home=tmp_path)
    assert re.search(
        r"^block 1 [0-9a-f]{16} with 2 entries, mined here; work", output, re.MULTILINE
    )
    assert re.search(r"^found [2-9] blocks in \S+ s; the chain has", output, re.MULTILINE)
    assert cairn("validate", "--ledger", ledger, home=tmp_path).startswith("valid")
    with Ledger.open(ledger, read_only=True) as opened:
        assert opened[1].data == [{"a": 1}, {"a": 2}]


def test_mine_ends_well_when_it_is_told_to(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    init_work(ledger, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "cairn", "mine", "--ledger", ledger],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CAIRN_HOME": str(tmp_path)},
    )
    assert process.stdout is not None
    assert "mined here" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0
    assert re.search(r"^found \d+ blocks in", rest, re.MULTILINE)


def test_mine_is_for_ledgers_of_work(tmp_path: Path) -> None:
    cairn("init", "--ledger", tmp_path / "ledger", home=tmp_path)
    output = cairn("mine", "--ledger", tmp_path / "ledger", home=tmp_path, code=2)
    assert "ledgers of work" in output


def test_join_takes_the_genesis_of_another_node_and_its_chain_by_serving(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    init_work(first, tmp_path)
    with running(start(first, "--mine", environment={"CAIRN_HOME": str(tmp_path)})) as server:
        url = f"http://127.0.0.1:{server.port}"
        with Ledger.open(first, read_only=True) as ledger:
            ledger_id = ledger.id
        wrong = cairn(
            "init", "--join", url, "--id", "0" * 64, "--ledger", third, home=tmp_path, code=2
        )
        assert f"is a node of {ledger_id}" in wrong
        assert not third.exists()
        cairn("init", "--join", url, "--id", ledger_id, "--ledger", second, home=tmp_path)
        home = tmp_path / "other"
        options = ("--peer", f"ws://127.0.0.1:{server.port}", "--ledger", second, "--blocks", "1")
        output = cairn("mine", *options, home=home)
        assert f"peer ws://127.0.0.1:{server.port} is there" in output
        with Ledger.open(second, read_only=True) as mine, server.client() as client:
            assert len(mine) >= 2
            deadline = time.monotonic() + RUN_SECONDS
            while client.get(f"/blocks/{mine[1].hash}").status != 200:
                assert time.monotonic() < deadline, "they do not agree on block 1"
                time.sleep(0.1)


def test_join_needs_a_node(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9"
    output = cairn("init", "--join", url, "--ledger", tmp_path / "x", home=tmp_path, code=2)
    assert "does not show its genesis" in output
    assert not (tmp_path / "x").exists()


def test_network_starts_nodes_that_mine_one_chain_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "network"
    options = ("--nodes", "2", "--interval", "500ms", "--seconds", "8", "--directory", folder)
    output = cairn("network", *options, home=tmp_path)
    assert re.search(r"^node 1  http://127\.0\.0\.1:\d+  ", output, re.MULTILINE)
    assert re.search(r"s  node [12]  peer .* is there, with key", output)
    mined = re.findall(r"s  node [12]  block (\d+) ([0-9a-f]{16}) .*, mined here;", output)
    assert mined
    with (
        Ledger.open(folder / "node1" / "ledger", read_only=True) as first,
        Ledger.open(folder / "node2" / "ledger", read_only=True) as second,
    ):
        common = min(first.final, second.final)
        assert first.id == second.id
        assert first[common - 1] == second[common - 1]
        assert first.validate().valid
        assert second.validate().valid
