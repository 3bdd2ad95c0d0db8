"""The server is killed at any moment under many writers: what it acknowledged is there, once."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from cairn import Ledger
from tests.service.harness import (
    PATIENCE,
    Answer,
    Client,
    Server,
    require_closed,
    running,
    start,
    threads,
)

WRITERS: Final = 32
DELAYS: Final = (0.03, 0.2, 0.5)
"""Seconds that a server gets, at most, once it listens."""
START_SECONDS: Final = 1.0
"""In which a server starts, about: some are killed within it."""
SIZES: Final = (1, 1, 1, 1, 1, 2, 8, 70)
"""Values in a request; 1 is POST /block as often as POST /blocks."""


class Place(NamedTuple):
    """Where values were recorded, as the server said."""

    first: int
    last: int
    hash: str
    """Of the last block."""


@dataclass(frozen=True)
class Request:
    """Values to be recorded together."""

    number: int
    count: int
    in_bulk: bool
    keyed: bool

    def values(self) -> list[dict[str, Any]]:
        text = "x" * (self.number * 7919 % 300)
        return [{"n": self.number, "part": part, "text": text} for part in range(self.count)]

    def ask(self, client: Client) -> Answer:
        key = f"key-{self.number}" if self.keyed else None
        if self.in_bulk:
            return client.post_all(self.values(), key)
        return client.post(self.values()[0], key)

    def place(self, answer: Answer) -> Place:
        """Return where the answer says that it was recorded."""
        assert answer.status == 201, answer
        said = answer.value
        if self.in_bulk:
            assert said["count"] == self.count
            return Place(said["first"], said["last"], said["hash"])
        assert said["data"] == self.values()[0]
        return Place(said["index"], said["index"], said["hash"])


class History:
    """One ledger, and what all the servers that died on it have answered."""

    def __init__(self, directory: Path, choose: random.Random) -> None:
        self.path = directory / "ledger"
        self.copies = directory / "copies"
        self.choose = choose
        self.numbers = itertools.count(1)
        self.tried: dict[int, Request] = {}
        self.places: dict[int, Place] = {}
        self.unanswered: dict[int, Request] = {}
        """With a key: the others are never tried again."""

    def live(self, server: Server) -> None:
        """Write to a server, until it is killed: perhaps before it listens."""
        if self.choose.random() < 0.15:
            time.sleep(self.choose.uniform(0, START_SECONDS))
        else:
            server.ready()
            killer = threading.Timer(
                self.choose.uniform(0, self.choose.choice(DELAYS)), server.process.kill
            )
            killer.start()
            again = deque(self.unanswered.values())
            with suppress(ConnectionError), threads(self.writer(server, again), WRITERS):
                if self.choose.random() < 0.3:  # it is being validated, too
                    server.get("/validate")
            killer.join()
        server.process.kill()
        assert server.process.wait() == -9, server.errors()
        assert "Traceback" not in server.errors(), server.errors()

    def writer(self, server: Server, again: deque[Request]) -> Callable[[], None]:
        """Return what one client does until the server is gone, what is `again` to be tried first.

        All take from the same, and each request is given to two of them.
        """
        seed = self.choose.random()
        retried = [request for request in again for _ in range(2)]
        again.clear()
        again.extend(retried)

        def write() -> None:
            choose = random.Random(f"{seed} {threading.get_ident()}")
            deadline = time.monotonic() + PATIENCE
            with suppress(ConnectionError), server.client() as client:
                while time.monotonic() < deadline:
                    try:
                        request = again.popleft()
                    except IndexError:
                        request = self.new(choose)
                    self.record(request, client)
                    if request.keyed and choose.random() < 0.05:  # once more
                        self.record(request, client)

        return write

    def new(self, choose: random.Random) -> Request:
        count = choose.choice(SIZES)
        in_bulk = count > 1 or choose.random() < 0.5
        request = Request(next(self.numbers), count, in_bulk, keyed=choose.random() < 0.7)
        self.tried[request.number] = request
        if request.keyed:
            self.unanswered[request.number] = request
        return request

    def record(self, request: Request, client: Client) -> None:
        place = request.place(request.ask(client))
        assert self.places.setdefault(request.number, place) == place, "a retry was recorded"
        self.unanswered.pop(request.number, None)

    def finish(self) -> None:
        """Answer all that is open, by a server that ends well."""
        with running(start(self.path)) as server:
            with server.client() as client:
                for request in list(self.unanswered.values()):
                    self.record(request, client)
            server.stop()
        require_closed(self.path)
        self.check(self.path)
        keyed = {request.number for request in self.tried.values() if request.keyed}
        assert keyed <= self.places.keys()

    def copy(self) -> Path:
        """Return a copy of what a kill has left: the next server shall find it as it is."""
        copy = self.copies / str(next(self.numbers))
        if self.path.exists():
            shutil.copytree(self.path, copy)
        return copy

    def check(self, path: Path) -> None:
        """Check what a ledger holds against all that was said of it."""
        if not path.exists():
            assert not self.places
            return
        with Ledger.open(path) as ledger:  # recovers it
            report = ledger.validate(all=True)
            assert report.valid, report.failures[:3]
            found = self.read(ledger)
        strangers = found.keys() - self.tried.keys()
        assert not strangers, f"nobody recorded {strangers}"
        for number, place in self.places.items():
            assert found.get(number) == place, f"{number} was said to be at {place}"

    def read(self, ledger: Ledger) -> dict[int, Place]:
        """Return where each request was recorded: whole, once, and as it was sent."""
        found: dict[int, Place] = {}
        blocks = list(ledger)
        assert [block.index for block in blocks] == list(range(len(ledger)))
        at = 1
        while at < len(blocks):
            number = blocks[at].data["n"]
            values = self.tried[number].values()
            assert number not in found, f"{number} is at {found[number]} and at {at}"
            together = blocks[at : at + len(values)]
            assert [block.data for block in together] == values, f"{number} at {at} is not whole"
            at += len(values)
            found[number] = Place(together[0].index, together[-1].index, together[-1].hash)
        return found


def kill(times: int, directory: Path, *, on_each: int) -> int:
    """Kill `times` servers, `on_each` on the same ledger; return how many requests were safe."""
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(2**32))
    choose = random.Random(seed)
    safe = 0
    try:
        for history in range(times // on_each):
            one = History(directory / str(history), choose)
            server = start(one.path)
            try:
                for _ in range(on_each):
                    one.live(server)
                    left = one.copy()
                    server.close()
                    server = start(one.path)  # while we look at what the last one left
                    one.check(left)
            finally:
                server.close()
            one.finish()
            safe += len(one.places)
            shutil.rmtree(directory / str(history))
    except BaseException as error:
        error.add_note(f"FAULT_SEED={seed}")
        raise
    return safe


def test_what_was_answered_survives_kill_9_of_the_server_under_load(tmp_path: Path) -> None:
    assert kill(8, tmp_path, on_each=4) > 40


@pytest.mark.soak
def test_what_was_answered_survives_two_hundred_kills(tmp_path: Path) -> None:
    assert kill(200, tmp_path, on_each=20) > 1000
