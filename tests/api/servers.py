"""Servers in processes of their own, and what speaks to them over sockets."""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT: Final = Path(__file__).parents[2]
CAIRN: Final = Path(sys.executable).with_name("cairn")
PATIENCE: Final = 30.0
"""Seconds after which something has hung: far more than anything here takes on a busy machine."""


UNKNOWN: Final = "0" * 64
"""The id of no entry."""


class Answer(NamedTuple):
    """One HTTP response, read off a socket."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes


class Wire:
    """A connection on which anything can be sent."""

    def __init__(
        self, server: Server, *, seconds: float = 10.0, receive_bytes: int | None = None
    ) -> None:
        """Wait at most `seconds` for anything. A small `receive_bytes` makes it a slow reader."""
        self.socket = socket.socket(server.family)
        self.socket.settimeout(seconds)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self.socket.connect((server.host, server.port))
        except BaseException:
            self.socket.close()
            raise
        self.stream = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        """Send `parts`; returns when the system has taken them."""
        self.socket.sendall(b"".join(parts))

    def send_if_open(self, data: bytes) -> bool:
        """Send; return whether the other end was there still."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def heard(self, seconds: float) -> bool:
        """Whether something comes within so many seconds, be it the end."""
        return bool(select.select([self.socket], [], [], seconds)[0])

    def answer(self, *, head: bool = False) -> Answer:
        """Read one response; with `head`, one without a body."""
        begun = self.answer_begins()
        if head or begun.status == 100:
            return begun
        if begun.headers.get("transfer-encoding") == "chunked":
            return begun._replace(body=b"".join(iter(self.chunk, b"")))
        return begun._replace(body=self.stream.read(int(begun.headers["content-length"])))

    def answer_begins(self) -> Answer:
        """Read the beginning of a response, and leave its body."""
        line = self.stream.readline()
        assert line.startswith(b"HTTP/1.1 "), f"no response: {line!r}"
        status = int(line.split()[1])
        headers = {}
        while (line := self.stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in headers, f"two headers {name}"
            headers[name.lower()] = value.strip()
        return Answer(status, headers, b"")

    def chunk(self) -> bytes:
        """Read one chunk of a chunked body; an empty one is the last."""
        size = int(self.stream.readline(), 16)
        content = self.stream.read(size)
        assert self.stream.readline() == b"\r\n"
        return content

    def rest(self) -> bytes:
        """Read to the end of the connection."""
        try:
            return self.stream.read()
        except ConnectionResetError:  # what we had sent was not read to its end
            return b""

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Server:
    """A server process that listens."""

    def __init__(self, process: subprocess.Popen[str], greeting: str, log: Path) -> None:
        self.process = process
        self.greeting = greeting
        """The line that it printed."""
        self.url = greeting.split()[2]
        self.host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.host = self.host.strip("[]")
        self.port = int(port)
        self.family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._log = log

    @property
    def in_lab(self) -> bool:
        """Whether it lets itself be tampered with."""
        return "(ledger a scratch copy of " in self.greeting

    @property
    def authority(self) -> bytes:
        """What goes into the Host header."""
        return self.url.removeprefix("http://").encode()

    def log(self) -> str:
        """Return what it has written to its stderr."""
        return self._log.read_text()

    def stop(self) -> int:
        """Ask it to stop, and wait; return its exit code. Stopping twice is fine."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, by: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(by)
        try:
            return self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def client(self, **options: Any) -> httpx.Client:
        """Return a client of this server, which looks at no proxy settings."""
        return httpx.Client(
            **{"base_url": self.url, "timeout": PATIENCE, "trust_env": False, **options}
        )

    def wire(self, *, receive_bytes: int | None = None) -> Wire:
        return Wire(self, receive_bytes=receive_bytes)

    def ask(self, *parts: bytes, head: bool = False) -> Answer:
        """Send bytes on a connection of their own; return the first response."""
        with self.wire() as wire:
            wire.send_if_open(b"".join(parts))
            return wire.answer(head=head)

    def request(self, line: str, *headers: str, body: bytes = b"") -> bytes:
        """Return the bytes of a request: `line` is such as `GET /head`."""
        lines = [f"{line} HTTP/1.1", f"Host: {self.authority.decode()}", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start(
    ledger: Path, *options: str, bounds: Mapping[str, float] | None = None, port: int = 0
) -> Server:
    """Start a server of the ledger in directory `ledger`; return once it listens.

    `options` are those of `cairn serve`; `bounds` those of `cairn.api.bounds.Bounds`. It is to be
    stopped, or used as a context. Its stderr goes to a file beside the ledger.
    """
    log = ledger.with_name(f"{ledger.name}.{len(list(ledger.parent.glob('*.log')))}.log")
    command = [str(CAIRN)]
    if bounds is not None:
        command = [sys.executable, "-m", "tests.api.bounded", json.dumps(bounds)]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, "serve", "--ledger", str(ledger), "--port", str(port), *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    try:
        select.select([process.stdout], [], [], PATIENCE)
        greeting = process.stdout.readline()
        assert greeting.startswith("Cairn on http://"), f"{greeting!r}; {log.read_text()}"
        return Server(process, greeting, log)
    except BaseException:
        process.kill()
        process.wait()
        process.stdout.close()
        raise


def refusal(ledger: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Return what becomes of a server that should not start."""
    command = [str(CAIRN), "serve", "--ledger", str(ledger), "--port", "0", *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=ROOT
    )


def example(path: str, entry: str = UNKNOWN) -> str:
    """Return a path that is there, of a path as the document has it.

    No entry has the same id on all ledgers: one has to be given.
    """
    path = (
        path.replace("{name}", "style.css")
        .replace("{reference}", "0")
        .replace("{path}", "0/000.p/1")
    )
    return path.replace("{entry}", entry)


def success(path: str) -> int:
    """Return the status of a good answer to a GET of `path`."""
    return 303 if path == "/search" else 200


def genesis_entry(client: httpx.Client, **options: Any) -> str:
    """Return the id of the entry of genesis."""
    found = client.get("/blocks/0", **options).json()["data_root"]
    assert isinstance(found, str)
    return found


def length(client: httpx.Client) -> int:
    """Return how many blocks there are."""
    found = client.get("/", params={"start": 0, "limit": 1}).json()["length"]
    assert isinstance(found, int)
    return found


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """Return the value of a sample in /metrics; 0 if there is none."""
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0


def resident_bytes(server: Server) -> int:
    """Return how much memory the server has now."""
    command = ["ps", "-o", "rss=", "-p", str(server.process.pid)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024


def free_port() -> int:
    """Return a port that nobody has just now."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port
