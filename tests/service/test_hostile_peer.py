"""A node that is used by a hostile peer as much as bounds allow goes on as if it were not there."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median

import pytest

from cairn.cli.init import first_bits
from cairn.core.block import Block
from cairn.core.genesis import Work
from cairn.core.header import Header
from cairn.core.segment import Segment
from cairn.core.work import work_of
from cairn.ledger.exchange import import_chain
from cairn.net.limits import PEERS, QUEUED_BYTES
from cairn.net.messages import Bodies, GetBodies, Head, Ping, Pong
from tests.builders import mined
from tests.service.harness import ROOT, Server, running, start
from tests.service.hostile import KINDS, Link
from tests.service.network import make_ledgers, start_peer

SECOND = 1_000_000
HEALTH_SECONDS = 0.1
"""The goal: 99 of 100 answers of `/health` take less."""
RELAY_SECONDS = 1.0
"""Half of all blocks have gone through the node in that time."""
RELAY_MOST = 10.0
"""And all of them in that, on a machine that has other things to do."""
MEMORY = PEERS * QUEUED_BYTES
"""What links may make a node hold, in all: what waits for those to read it that do not."""
CHAIN_BLOCKS = 60
LARGE = "x" * 100_000
EVERY = 0.005
"""Seconds between two requests for `/health`."""


@dataclass
class Health:
    """What requests for `/health` took, one after another on one connection, in seconds."""

    server: Server
    took: list[float] = field(default_factory=list)

    def ask_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self.server.client() as client:
            while time.monotonic() < until:
                began = time.perf_counter()
                assert client.get("/health").status == 200
                self.took.append(time.perf_counter() - began)
                time.sleep(EVERY)

    @property
    def p99(self) -> float:
        return sorted(self.took)[len(self.took) * 99 // 100]


class Miner(threading.Thread):
    """An honest peer that mines a block now and then, and one that waits for it."""

    def __init__(self, server: Server, blocks: list[Block]) -> None:
        super().__init__(daemon=True)
        genesis = blocks[0].stored_hash
        self._link, self._other = Link(server.port, genesis), Link(server.port, genesis)
        self._blocks = blocks
        self._heard: dict[bytes, float] = {}
        self._new = threading.Event()
        self._stopping = threading.Event()
        self.relayed: list[float] = []
        """Seconds that each block took."""
        works = (self._serve, self._listen)
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def run(self) -> None:
        for number in count():
            if self._stopping.wait(0.3):
                return
            self._blocks += mined([["honest", number]], first=self._blocks)[len(self._blocks) :]
            block = self._blocks[-1]
            work = sum(work_of(one.header.bits) for one in self._blocks[1:])
            began = time.perf_counter()
            self._link.say(Head(block.header.pack(), work.to_bytes(32)))
            while block.stored_hash not in self._heard:
                if time.perf_counter() - began > 30:
                    self.relayed.append(float("inf"))
                    return
                self._new.wait(0.05)
                self._new.clear()
            self.relayed.append(self._heard[block.stored_hash] - began)

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        for link in (self._link, self._other):
            with suppress(OSError):
                link.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._link.close()
        self._other.close()

    def _serve(self) -> None:
        with suppress(OSError, ValueError):
            while True:
                match self._link.hear():
                    case GetBodies(number, first, n):
                        segment = Segment.from_blocks(first, self._blocks[first : first + n])
                        lengths = (segment.offsets[1:] - segment.offsets[:-1]).astype(">u4")
                        self._link.say(Bodies(number, lengths.tobytes(), segment.data.tobytes()))
                    case Ping(number):
                        self._link.say(Pong(number))

    def _listen(self) -> None:
        with suppress(OSError, ValueError):
            while True:
                match self._other.hear():
                    case Head(header):
                        self._heard[Header.unpack(header).hash] = time.perf_counter()
                        self._new.set()
                    case Ping(number):
                        self._other.say(Pong(number))


def attack(tmp_path: Path, seconds: float) -> None:
    blocks = mined(*[[LARGE, i] for i in range(CHAIN_BLOCKS)])
    ledger = tmp_path / "ledger"
    import_chain(ledger, [block.to_json().encode() for block in blocks])
    with running(start_peer(ledger), may_log=True) as server:
        quiet, health = Health(server), Health(server)
        quiet.ask_for(1)
        before = server.resident()
        miner = Miner(server, list(blocks))
        miner.start()
        tip = blocks[-1]
        hostile = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.service.hostile", str(server.port)),
                *(blocks[0].stored_hash.hex(), str(len(blocks)), tip.stored_hash.hex()),
                str(seconds),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        most = [before]
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                most.append(server.resident())

        watcher = threading.Thread(target=watch)
        watcher.start()
        health.ask_for(seconds + 0.5)
        ended.set()
        watcher.join()
        said, _ = hostile.communicate(timeout=30)
        miner.stop()
        came = json.loads(said)
        metrics = server.get("/metrics").body.decode()
        server.stop()
    found = re.findall(
        r'^cairn_peer_messages_total\{direction="(\w+)",kind="(\w+)"\} (\S+)$',
        metrics,
        re.MULTILINE,
    )
    rates = {f"{way} {kind}": round(float(many) / seconds) for way, kind, many in found}
    print(
        f"{came}; messages a second {rates}; /health p99 {1e3 * health.p99:.1f} ms of "
        f"{len(health.took)}, quiet {1e3 * quiet.p99:.1f} ms; {len(miner.relayed)} blocks relayed "
        f"in {1e3 * median(miner.relayed):.0f} ms, {1e3 * max(miner.relayed):.0f} at most; RSS "
        f"{before / 2**20:.0f} MiB before, {max(most) / 2**20:.0f} at most"
    )
    assert came.keys() == set(KINDS)
    assert health.p99 < HEALTH_SECONDS
    assert len(miner.relayed) > seconds / 2
    assert median(miner.relayed) < RELAY_SECONDS
    assert max(miner.relayed) < RELAY_MOST
    assert max(most) - before < MEMORY


def test_hostile_peer_that_uses_all_bounds_is_not_noticed(tmp_path: Path) -> None:
    attack(tmp_path, 5)


@pytest.mark.soak
def test_hostile_peer_is_not_noticed_for_a_minute(tmp_path: Path) -> None:
    attack(tmp_path, 60)


def test_mining_on_one_core_leaves_time_for_requests(tmp_path: Path) -> None:
    seal = Work(interval=SECOND, half_life=60 * SECOND, final_depth=60)
    [ledger] = make_ledgers(tmp_path, 1, seal, bits=first_bits(SECOND))
    with running(start(ledger, "--mine")) as server:
        health = Health(server)
        health.ask_for(4)
        server.stop()
    print(f"/health p99 {1e3 * health.p99:.1f} ms of {len(health.took)}")
    assert health.p99 < HEALTH_SECONDS
