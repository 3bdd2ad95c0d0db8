"""Real servers in processes of their own, and clients that tell what they were told.

Clients speak HTTP on plain sockets: they are quick, and know what was sent, and when an answer was
cut off.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self, TypeVar

from cairn import Ledger
from cairn.store.directory import FILE_NAME

ROOT: Final = Path(__file__).parents[2]
CAIRN: Final = (sys.executable, "-m", "cairn")
PATIENCE: Final = 30.0
"""Seconds after which what has not come does not come: far more than anything takes."""
STOP_SECONDS: Final = 5.0
"""How long a stop may take: a few seconds, on a machine that is busy with other tests."""

UNSIGNED: Final = "cairn.node.checkpoints: nothing is signed any more: block "
"""What a node says that has found a block to break a rule."""

Headers = Mapping[str, str]
Result = TypeVar("Result")

_HELD: Final = """
import atexit, os, sys, time

def wait():
    open({gate!r} + ".reached", "w").close()
    deadline = time.monotonic() + 60
    while not os.path.exists({gate!r}) and time.monotonic() < deadline:
        time.sleep(0.01)

if "validate" in sys.orig_argv:
    {when}
"""
"""Python runs this before anything else."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    def problem(self) -> str:
        """Return the name of the problem, having checked that it is one."""
        assert self.headers["content-type"] == "application/problem+json", self
        assert self.value["status"] == self.status, self
        assert self.value["detail"], self
        return str(self.value["type"]).removeprefix("urn:cairn:problem:")


class Client:
    """One connection, kept alive."""

    def __init__(self, port: int, *, timeout: float = PATIENCE, buffer: int | None = None) -> None:
        """`buffer` is how many bytes the system takes for a client that does not read, about."""
        self._socket = socket.socket()
        try:
            if buffer is not None:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self._socket.settimeout(timeout)
            self._socket.connect(("127.0.0.1", port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._file = self._socket.makefile("rb")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def ask(
        self, method: str, target: str, body: bytes = b"", headers: Headers | None = None
    ) -> Answer:
        """Send a request and return the answer.

        Raises:
            ConnectionError: there is no answer, or not the whole of it.
        """
        self.send(method, target, body, headers)
        return self.receive()

    def get(self, target: str, headers: Headers | None = None) -> Answer:
        return self.ask("GET", target, headers=headers)

    def post(self, value: object, key: str | None = None) -> Answer:
        """Append one value."""
        return self.ask("POST", "/block", json.dumps(value).encode(), _key(key))

    def post_all(self, values: Sequence[object], key: str | None = None) -> Answer:
        """Append values, all or nothing."""
        return self.ask("POST", "/blocks", "\n".join(map(json.dumps, values)).encode(), _key(key))

    def send(
        self, method: str, target: str, body: bytes = b"", headers: Headers | None = None
    ) -> None:
        """Send a whole request."""
        shown = "".join(f"{name}: {text}\r\n" for name, text in (headers or {}).items())
        length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{length}{shown}\r\n"
        self._socket.sendall(head.encode() + body)

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> Answer:
        """Return the next answer."""
        status, headers = self.receive_head()
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, b"".join(self.chunks()))
        return Answer(status, headers, self._exactly(int(headers["content-length"])))

    def receive_head(self) -> tuple[int, dict[str, str]]:
        """Return the status and the headers of the next answer."""
        status = int(self._line().split()[1])
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, text = line.decode("latin-1").partition(":")
            headers[name.lower()] = text.strip()
        return status, headers

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks of a body that has no length, to its proper end."""
        while size := int(self._line(), 16):
            yield self._exactly(size + 2)[:-2]
        self._line()

    def _line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionAbortedError(f"cut off after {line!r}")
        return line[:-2]

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ConnectionAbortedError(f"cut off after {len(data)} of {size} bytes")
        return data


def _key(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}


class Event(NamedTuple):
    """A block as /events tells of it."""

    id: int
    block: dict[str, Any]


class Follower(Client):
    """A connection that follows /events."""

    def __init__(
        self,
        port: int,
        query: str = "",
        *,
        seen: int | None = None,
        timeout: float = PATIENCE,
        buffer: int | None = None,
    ) -> None:
        """Return when the node has said that it lets us follow; `seen` is the last id."""
        super().__init__(port, timeout=timeout, buffer=buffer)
        try:
            headers = {} if seen is None else {"Last-Event-ID": str(seen)}
            self.send("GET", f"/events{query}", headers=headers)
            status, got = self.receive_head()
            assert status == 200, self._exactly(int(got["content-length"]))
            assert got["content-type"].startswith("text/event-stream")
            self._messages = self._read_messages()
            assert next(self._messages) == ": following"
        except BaseException:
            self.close()
            raise

    def messages(self) -> Iterator[str]:
        """Yield what comes, without the blank line after it, to the proper end."""
        return self._messages

    def events(self) -> Iterator[Event]:
        """Yield the blocks that come, to the proper end."""
        for message in self._messages:
            if not message.startswith(":"):
                fields = dict(line.split(": ", 1) for line in message.split("\n"))
                assert fields["event"] == "block"
                yield Event(int(fields["id"]), json.loads(fields["data"]))

    def read_to(self, index: int) -> list[Event]:
        """Return the events until that of block `index`."""
        events: list[Event] = []
        for event in self.events():
            events.append(event)
            if event.id >= index:
                return events
        raise AssertionError(f"the node let us go before block {index}")

    def _read_messages(self) -> Iterator[str]:
        rest = ""
        for chunk in self.chunks():
            *whole, rest = (rest + chunk.decode()).split("\n\n")
            yield from whole
        assert rest == ""


class Server:
    """A server process."""

    def __init__(
        self,
        command: Sequence[object],
        environment: Mapping[str, str] | None,
        *,
        own_group: bool = False,
    ) -> None:
        self.port = 0
        self._stderr: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=own_group,
        )

    def ready(self) -> Self:
        """Wait until it listens."""
        line = self.line()
        address = re.match(r"Cairn on http://127\.0\.0\.1:(\d+)  \(ledger ", line)
        assert address, f"{line!r}; on standard error:\n{self.errors()}"
        self.port = int(address[1])
        return self

    def line(self) -> str:
        """Return the next line that it says, or what there is of it when it ends or is late."""
        assert self.process.stdout is not None
        late = threading.Timer(PATIENCE, self.process.kill)
        late.start()
        try:
            return self.process.stdout.readline()
        finally:
            late.cancel()
            late.join()

    def tell(self, line: str) -> str:
        """Say a line to it, and return what it says."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.line().rstrip("\n")

    def errors(self) -> str:
        """Return what it has said on standard error."""
        self._stderr.seek(0)
        return self._stderr.read()

    def client(self, *, timeout: float = PATIENCE, buffer: int | None = None) -> Client:
        return Client(self.port, timeout=timeout, buffer=buffer)

    def get(self, target: str) -> Answer:
        """Ask on a connection of its own."""
        with self.client() as client:
            return client.get(target)

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Have it end by a signal, as it must; return how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.ended(began, 130 if number == signal.SIGINT else 0)

    def ended(self, since: float, code: int) -> float:
        """Wait for its end, as it must be; return how many seconds that took."""
        assert self.process.wait(2 * PATIENCE) == code, self.errors()
        return time.monotonic() - since

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout, self._stderr):
            assert stream is not None
            stream.close()

    def validations(self) -> list[int]:
        """Return the processes of its own that validate just now."""
        return [
            process
            for process, parent, call in processes()
            if parent == self.process.pid and "validate" in call
        ]

    def resident(self) -> int:
        """Return how many bytes of memory it takes."""
        command = ["ps", "-o", "rss=", "-p", str(self.process.pid)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout) * 1024


def processes() -> list[tuple[int, int, str]]:
    """Return the process, its parent and its call, of every process that is alive."""
    command = ["ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "args="]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in output.splitlines()]
    return [(int(r[0]), int(r[1]), r[3]) for r in rows if len(r) == 4 and not r[2].startswith("Z")]


def start(
    directory: Path,
    *options: object,
    environment: Mapping[str, str] | None = None,
    own_group: bool = False,
) -> Server:
    """Start `cairn serve` on a free port; it is not ready yet.

    In its `own_group`, as a shell does: a signal to that reaches all that it has started, too. A
    lab's copy lies beside the ledger: a lab that is killed leaves it.
    """
    command = (*CAIRN, "serve", "--ledger", directory, "--port", 0, *options)
    chosen = {"TMPDIR": str(directory.parent), **(environment or {})}
    return Server(command, chosen if "--lab" in options else environment, own_group=own_group)


def start_node(
    directory: Path, *, environment: Mapping[str, str] | None = None, **options: Any
) -> Server:
    """Start a server as `tests.service.node` makes one; it is not ready yet."""
    command = (sys.executable, "-m", "tests.service.node", directory, json.dumps(options))
    return Server(command, environment)


@contextmanager
def running(
    server: Server,
    *,
    may_log: bool = False,
    may_break: bool = False,
    unsigned: bool = False,
) -> Iterator[Server]:
    """Yield a server that is ready; kill it at the end, if it has not ended by then.

    It must not have logged anything, unless it `may_log`, nor met a bug, unless it `may_break`. An
    `unsigned` one may have said, once, that it does not sign blocks that break a rule.
    """
    try:
        yield server.ready()
        errors = server.errors()
        assert may_break or "Traceback" not in errors, errors
        lines = errors.splitlines()
        if unsigned and len(lines) == 1:
            assert UNSIGNED in lines[0]
            lines = []
        assert may_log or may_break or not lines, errors
    finally:
        server.close()


def until(condition: Callable[[], Result], seconds: float = PATIENCE) -> Result:
    """Return what `condition` returns, once that is true."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
    return result


def cairn(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [*CAIRN, *map(str, arguments)],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE,
    )


def hold_validation(directory: Path, *, at_end: bool = False) -> tuple[dict[str, str], Path]:
    """Return an environment in which `cairn validate` waits for a file, and that file.

    Before it has read anything, or when it has said what it found and all but ended. Then there is
    a file of the same name with .reached at its end.
    """
    gate, held = directory / "gate", directory / "held"
    when = "atexit.register(wait)" if at_end else "wait()"
    held.mkdir()
    (held / "sitecustomize.py").write_text(_HELD.format(gate=str(gate), when=when))
    paths = [str(held), str(ROOT), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}, gate


def require_closed(directory: Path) -> None:
    """Check what a writer that ended well leaves: no log with anything in it, and no lock held."""
    log = directory / f"{FILE_NAME}-wal"
    assert not log.exists() or log.stat().st_size == 0, f"{log.stat().st_size} bytes in the log"
    Ledger.open(directory).close()


def require_valid(directory: Path) -> None:
    """Check that validation finds no fault; each is held to the independent one."""
    with Ledger.open(directory, read_only=True) as ledger:
        report = ledger.validate(all=True)
        assert report.valid, report.failures[:3]


@contextmanager
def threads(work: Callable[[], object], count: int = 1) -> Iterator[list[threading.Thread]]:
    """Run `work` in threads beside the block; then wait for them and raise what they raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in started:
        thread.start()
    try:
        yield started
    finally:
        deadline = time.monotonic() + 2 * PATIENCE
        for thread in started:
            thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in started), "a client waits for ever"
    for error in errors:
        raise error
