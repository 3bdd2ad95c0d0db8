"""Nodes of a work ledger in processes of their own, and the lines between them, which can be cut.

Every node dials every other one, through a proxy for each direction. Addresses that nodes hear of
are of no use to them, so that nobody goes around a proxy that is cut.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from cairn import Ledger
from cairn.core.genesis import Genesis, Limits, Work
from cairn.core.work import MAX_BITS, work_of
from cairn.ledger.exchange import import_chain
from tests.service.harness import Server, start

NOWHERE: Final = "ws://11.0.0.1:9"
"""Where each says that it is: a public address, so that none takes a private one from another."""
Block = dict[str, Any]
"""As JSON shows it; or what `/events` says of one that is gone."""
SLOW: Final = 60.0
"""Seconds after which what has not come does not come: mining takes its time on a busy machine."""


def make_ledgers(
    folder: Path, count: int, seal: Work, *, bits: int = MAX_BITS, limits: Limits | None = None
) -> list[Path]:
    """Make ledgers with the same genesis; return where they are."""
    paths = [folder / f"node{number}" / "ledger" for number in range(count)]
    genesis = Genesis(name="network", seal=seal, limits=limits or Limits())
    with Ledger.create(paths[0], genesis, bits=bits) as ledger:
        first = ledger[0].to_json().encode()
    for path in paths[1:]:
        import_chain(path, [first])
    return paths


def start_peer(ledger: Path, *options: object) -> Server:
    """Start `cairn serve` with its own keys; it is not ready yet."""
    environment = {"CAIRN_HOME": str(ledger.with_name("home"))}
    return start(ledger, "--verbose", "--peer-address", NOWHERE, *options, environment=environment)


class Proxy:
    """A port of its own that leads to another, unless it is cut."""

    def __init__(self) -> None:
        self.target: int | None = None
        """A port; until it is known, who comes is let go."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(None)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._is_cut = False
        self._open = threading.Event()
        self._open.set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break the connections, and let nobody through."""
        with self._lock:
            self._is_cut = True
            self._break()

    def hold(self) -> None:
        """Keep what comes from either end, from now on."""
        self._open.clear()

    def heal(self) -> None:
        """Let everything through again, what was kept first."""
        with self._lock:
            self._is_cut = False
        self._open.set()

    def close(self) -> None:
        self.cut()
        self._open.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _break(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                here, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(here,), daemon=True).start()

    def _connect(self, here: socket.socket) -> None:
        with here, suppress(OSError):
            self._open.wait()
            if self._is_cut or self.target is None:
                return
            with socket.create_connection(("127.0.0.1", self.target)) as there:
                with self._lock:
                    if self._is_cut:
                        return
                    self._sockets |= {here, there}
                back = threading.Thread(target=self._carry, args=(there, here), daemon=True)
                back.start()
                self._carry(here, there)
                back.join()
                with self._lock:
                    self._sockets -= {here, there}

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            for one in (source, sink):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := source.recv(2**16):
                self._open.wait()
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Changes:
    """What `/events` of a node tells, read in a thread, from block 0 on; it comes again if let go.

    It holds what it is told to its rules: what comes follows what is there, what goes is the last,
    and of what goes there comes more.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._stopping = False
        self._last: str | None = None
        self.chain: list[Block] = []
        self.reorganisations: list[tuple[list[Block], list[Block]]] = []
        """The blocks that went, and those that came."""
        self._before: list[Block] | None = None  # the chain, until there is one of more work
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read to the end, which is that of the node."""
        self._stopping = True
        self._thread.join(SLOW)
        assert not self._thread.is_alive()
        if self._fault is not None:
            raise self._fault
        assert self._before is None, "the chain has given way to one of less work"

    @property
    def gone(self) -> set[str]:
        """Hashes of the blocks that went."""
        return {block["hash"] for gone, _ in self.reorganisations for block in gone}

    def _follow(self) -> None:
        try:
            while not self._stopping:
                try:
                    for name, data, event in self._events():
                        self._take(name, data)
                        self._last = event
                except OSError:
                    time.sleep(0.05)
        except BaseException as fault:
            self._fault = fault

    def _events(self) -> Iterator[tuple[str, Block, str]]:
        last = self._last
        with self._node.server.client(timeout=SLOW) as client:
            headers = {} if last is None else {"Last-Event-ID": last}
            client.send("GET", "/events" + ("?start=0" if last is None else ""), headers=headers)
            status, _ = client.receive_head()
            assert status == 200, status
            rest = ""
            for chunk in client.chunks():
                *whole, rest = (rest + chunk.decode()).split("\n\n")
                for message in whole:
                    if not message.startswith(":"):
                        fields = dict(line.split(": ", 1) for line in message.split("\n"))
                        yield fields["event"], json.loads(fields["data"]), fields["id"]

    def _take(self, name: str, data: Block) -> None:
        if name == "disconnected":
            self._before = self._before or list(self.chain)
            block = self.chain.pop()
            assert (block["index"], block["hash"]) == (data["index"], data["hash"])
            return
        assert name == "connected"
        assert data["index"] == len(self.chain)
        assert not self.chain or data["previous_hash"] == self.chain[-1]["hash"]
        self.chain.append(data)
        before = self._before
        if before is not None and work_of_all(self.chain) > work_of_all(before):
            pairs = enumerate(zip(before, self.chain, strict=False))
            fork = next(i for i, (a, b) in pairs if a["hash"] != b["hash"])
            self.reorganisations.append((before[fork:], self.chain[fork:]))
            self._before = None


def work_of_all(blocks: Iterable[Block]) -> int:
    """Return the work of blocks as JSON shows them."""
    return sum(work_of(int(block["bits"], 16)) for block in blocks if block["index"] > 0)


class Node:
    """A node in a process of its own."""

    def __init__(self, ledger: Path, *options: object) -> None:
        self.ledger = ledger
        self._options = options
        self.server = start_peer(ledger, *options)
        """Another one after each restart."""

    def restart(self) -> None:
        """Start it again, after its end."""
        self.server.close()
        self.server = start_peer(self.ledger, *self._options)

    def get(self, target: str) -> Any:
        answer = self.server.get(target)
        assert answer.status == 200, answer
        return answer.value

    @property
    def head(self) -> tuple[int, str]:
        value = self.get("/head")
        return value["index"], value["hash"]

    @property
    def work(self) -> int:
        return int(self.get("/peers")["work"], 16)

    @property
    def final(self) -> int:
        metrics = self.server.get("/metrics").body.decode()
        [found] = re.findall(r"^cairn_final_blocks (\S+)$", metrics, re.MULTILINE)
        return int(float(found))

    def post(self, value: object) -> str:
        """Submit an entry and return its id."""
        with self.server.client() as client:
            answer = client.ask("POST", "/block?wait=0", json.dumps(value).encode())
        assert answer.status == 202, answer
        entry: str = answer.value["entry"]
        return entry

    def depth(self, entry: str) -> int | None:
        """Return how many blocks follow the one that has the entry; None while none does."""
        answer = self.server.get(f"/entries/{entry}")
        if answer.status == 404:
            return None
        assert not answer.value["duplicates"]
        depth: int | None = answer.value["depth"]
        return depth

    def await_mined(self, entries: Sequence[str]) -> None:
        """Wait until blocks have these entries."""
        until(lambda: all(self.depth(entry) is not None for entry in entries))

    def await_length(self, length: int) -> None:
        """Wait until there are so many blocks."""
        until(lambda: self.head[0] + 1 >= length)


class Net:
    """Nodes, each of which dials all others through proxies."""

    def __init__(self, ledgers: Sequence[Path], options: Callable[[int], Sequence[object]]) -> None:
        count = len(ledgers)
        pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
        self.proxies = {pair: Proxy() for pair in pairs}
        self.nodes = [
            Node(
                ledger,
                *options(a),
                *(part for b in range(count) if b != a for part in ("--peer", self.url(a, b))),
            )
            for a, ledger in enumerate(ledgers)
        ]

    def url(self, a: int, b: int) -> str:
        return self.proxies[a, b].url

    def ready(self, number: int) -> None:
        """Wait until a node listens, and lead all others to it."""
        port = self.nodes[number].server.ready().port
        for (_, b), proxy in self.proxies.items():
            if b == number:
                proxy.target = port

    def between(self, *sides: set[int]) -> list[Proxy]:
        """Return the proxies from one side to another."""
        side = {number: i for i, numbers in enumerate(sides) for number in numbers}
        return [proxy for (a, b), proxy in self.proxies.items() if side[a] != side[b]]

    def agree(self) -> bool:
        return len({node.head for node in self.nodes}) == 1

    def close(self) -> None:
        for node in self.nodes:
            node.server.close()
        for proxy in self.proxies.values():
            proxy.close()

    def __enter__(self) -> Self:
        try:
            for number in range(len(self.nodes)):
                self.ready(number)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def until(condition: Callable[[], object], seconds: float = SLOW, every: float = 0.02) -> float:
    """Wait until it holds; return the seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, "it never happened"
        time.sleep(every)
    return time.monotonic() - began
