"""Links on real sockets: what peers may send, and what becomes of those who do not keep to it."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import itertools
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.client
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.utils import accept_key

from cairn.core.errors import DamagedError, OutcomeUnknownError, StoreError, UsageError
from cairn.net.events import (
    Close,
    Closed,
    DialFailed,
    Note,
    Opened,
    Received,
    Send,
    Tick,
)
from cairn.net.limits import (
    HANDSHAKE_BYTES,
    MESSAGE_BURST,
    PEERS,
    QUEUED_BYTES,
    TICK_SECONDS,
)
from cairn.node import links
from cairn.node.link import (
    LINGER_SECONDS,
    SUBPROTOCOL,
    UNHANDLED_BYTES,
    UNHANDLED_FRAMES,
    UPGRADE_BYTES,
)
from cairn.node.links import (
    ACCEPTED,
    STEP_SECONDS,
    NetworkPausedError,
    NetworkStoppedError,
    SteadyClock,
)
from tests.net.sockets import (
    BINARY,
    CLOSE,
    FRAME_BYTES,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    Echo,
    Here,
    frame,
    here,
    until,
    upgrade,
)

SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, FRAME_BYTES)
"""Of payloads, where their header changes, and the largest."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Here]:
    """Links that tests share whose peers do nothing that outlives them."""
    with here() as running:
        yield running


def opened(running: Here, count: int) -> list[Opened]:
    """Wait for so many links."""
    until(lambda: len(running.machine.seen(Opened)) >= count)
    found: list[Opened] = running.machine.seen(Opened)
    return found


def last_peer(running: Here) -> int:
    return int(running.machine.seen(Opened)[-1].peer)


def until_gone(running: Here) -> None:
    """Wait until no peer is left, and the machine has handled that."""
    until(lambda: running.links.count == 0)
    running.do(lambda: running.links.call(lambda: None))


def received(running: Here, peer: int) -> list[bytes]:
    return [event.frame for event in running.machine.seen(Received) if event.peer == peer]


# Frames


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_frames_go_both_ways_between_two_nodes(loop: str) -> None:
    with here(Echo(mute=True), loop=loop) as one, here(Echo(mute=True), loop=loop) as other:
        one.dial(other.url)
        (dialled,), (accepted,) = opened(one, 1), opened(other, 1)
        assert (dialled.dialled, dialled.host) == (other.url, "127.0.0.1")
        assert (accepted.dialled, accepted.host) == (None, "127.0.0.1")
        frames = [b"ready", *map(random.randbytes, SIZES)]
        one.act(*(Send(dialled.peer, each) for each in frames))
        other.act(*(Send(accepted.peer, each) for each in frames))
        until(lambda: received(one, dialled.peer) == frames)
        until(lambda: received(other, accepted.peer) == frames)
        one.act(Send(dialled.peer, b"the last"), Close(dialled.peer, "enough"))
        until(lambda: other.machine.seen(Closed) and one.machine.seen(Closed))
        assert received(other, accepted.peer)[-1] == b"the last"
        until(lambda: one.links.count == other.links.count == 0)


def test_another_implementation_may_be_a_peer(shared: Here) -> None:
    with websockets.sync.client.connect(
        f"{shared.url}/peer", subprotocols=[SUBPROTOCOL], compression=None, proxy=None
    ) as client:
        client.send(b"ready")
        assert client.recv() == b"ready"
        for size in SIZES:
            client.send(data := random.randbytes(size))
            assert client.recv() == data
        client.send([b"in ", b"two"])
        assert client.recv() == b"in two"
        client.ping().wait(PATIENCE)


def test_compression_that_is_offered_is_declined(shared: Here) -> None:
    with websockets.sync.client.connect(
        f"{shared.url}/peer", subprotocols=[SUBPROTOCOL], compression="deflate", proxy=None
    ) as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        client.send(bytes(1000))
        assert client.recv() == bytes(1000)
    with shared.peer() as peer:  # and is not taken uninvited
        peer.send(b"compressed", reserved=4)
        assert peer.closed()[0] == 1002


def test_frames_in_one_piece_or_byte_by_byte_are_the_same(shared: Here) -> None:
    frames = [b"ready", b"", b"x", bytes(125), bytes(126), bytes(1000), bytes(70_000)]
    data = b"".join(map(frame, frames))
    with shared.peer() as peer:
        peer.socket.sendall(data)
        assert [peer.receive() for _ in frames] == frames
    with shared.peer() as peer:
        for at in range(1600):
            peer.socket.sendall(data[at : at + 1])
        peer.socket.sendall(data[1600:])
        assert [peer.receive() for _ in frames] == frames


def test_frames_that_come_with_the_request_are_not_lost(shared: Here) -> None:
    with closing(socket.create_connection(("127.0.0.1", shared.port), PATIENCE)) as connection:
        connection.sendall(upgrade() + frame(b"ready") + frame(bytes(5000)) + frame(b"last"))
        data = b""
        while not data.endswith(frame(b"last", masked=False)):
            more = connection.recv(65_536)
            assert more
            data += more
        assert data.endswith(b"\r\n\r\n" + b"".join(
            frame(each, masked=False) for each in (b"ready", bytes(5000), b"last")
        ))  # fmt: skip


# Those who do not keep to the protocol


@pytest.mark.parametrize("ready", [False, True], ids=["unknown", "ready"])
@pytest.mark.parametrize("announced", ["one more", 2**40, 2**62, 2**64 - 1])
def test_oversized_frame_is_refused_at_its_header(
    ready: bool, announced: int | str, shared: Here
) -> None:
    most = FRAME_BYTES if ready else HANDSHAKE_BYTES
    with shared.peer(ready=ready) as peer:
        peer.send(bytes(most))
        assert peer.receive() == bytes(most)
        size = most + 1 if isinstance(announced, str) else announced
        peer.send(b"", announced=size)  # nothing of it has to come
        assert peer.closed() == (1009, f"a message has at most {most} bytes")


def test_a_large_frame_right_after_the_proof_is_one_of_a_ready_peer(shared: Here) -> None:
    for _ in range(20):
        with shared.peer() as peer:
            peer.socket.sendall(frame(b"ready") + frame(bytes(FRAME_BYTES)))
            assert peer.receive() == b"ready"
            assert peer.receive() == bytes(FRAME_BYTES)


def test_truncated_frame_and_hang_up_is_not_received(shared: Here) -> None:
    whole = frame(bytes(200))
    for length in [*range(1, 10), 100, len(whole) - 1]:
        with shared.peer() as peer:
            peer.send(b"whole")
            assert peer.receive() == b"whole"
            peer.socket.sendall(whole[:length])
        until_gone(shared)
        assert received(shared, last_peer(shared)) == [b"whole"]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"text", opcode=TEXT), 1003),
        (frame(b"\xff", opcode=TEXT), 1003),
        (frame(b"te", opcode=TEXT, last=False), 1003),
        (frame(b"not masked", masked=False), 1002),
        *((frame(b"", reserved=bit), 1002) for bit in (1, 2, 4)),
        *((frame(b"", opcode=opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        (frame(b"", opcode=0), 1002),  # goes on with nothing
        (frame(b"a", last=False) + frame(b"b"), 1002),  # a message within a message
        (frame(b"", opcode=PING, last=False), 1002),
        (frame(bytes(126), opcode=PING), 1002),
        (frame(b"\x03", opcode=CLOSE), 1002),
        (frame(b"\x03\xe8\xff", opcode=CLOSE), 1007),
    ],
)
def test_what_is_no_binary_message_is_refused(sent: bytes, code: int, shared: Here) -> None:
    with shared.peer() as peer:
        peer.socket.sendall(sent)
        assert peer.closed()[0] == code
    until_gone(shared)
    assert received(shared, last_peer(shared)) == []


def test_a_peer_that_hangs_up_well_is_answered(shared: Here) -> None:
    with shared.peer() as peer:
        peer.send((1001).to_bytes(2) + b"bye", opcode=CLOSE)
        assert peer.closed() == (1001, "bye")


def test_fragments_are_bounded_as_one_message(shared: Here) -> None:
    with shared.peer(ready=True) as peer:
        piece = FRAME_BYTES // 4
        for opcode, last in ((BINARY, False), (0, False), (0, False), (0, True)):
            peer.send(bytes(piece), opcode=opcode, last=last)
        assert len(peer.receive()) == FRAME_BYTES
        for opcode in (BINARY, 0, 0, 0):
            peer.send(bytes(piece), opcode=opcode, last=False)
        peer.send(b"", opcode=PING)  # may come in between
        assert peer.next() == (PONG, b"")
        peer.send(b"x", opcode=0)
        assert peer.closed() == (1009, f"a message has at most {FRAME_BYTES} bytes")


@pytest.mark.parametrize(
    "flood",
    [
        frame(b"", opcode=PING),
        frame(bytes(125), opcode=PING),
        frame(b"", opcode=PONG),
        frame(b"", opcode=0, last=False),
    ],
    ids=["pings", "large pings", "pongs", "empty fragments"],
)
def test_flood_of_frames_that_are_no_message_is_ended(flood: bytes, shared: Here) -> None:
    with shared.peer(ready=True) as flooding, shared.peer() as other:
        flooding.send(b"", last=False)
        with suppress(ConnectionError):
            flooding.socket.sendall(flood * (MESSAGE_BURST // 2))
            other.send(b"others are served")
            assert other.receive() == b"others are served"
            flooding.socket.sendall(flood * (2 * MESSAGE_BURST))
        with suppress(ConnectionError):  # what it still sent takes its last word away
            assert flooding.closed() == (1008, "too many frames that are no message")
        other.send(b"others stay")
        assert other.receive() == b"others stay"
        flooding.close()
        until(lambda: shared.links.count == 1)


# Those who are slow, and those who are fast


def test_slow_reader_is_let_go_and_others_are_not_held_up() -> None:
    with here() as running, running.peer(ready=True, receive_bytes=4096) as slow:
        with running.peer(ready=True) as other:
            number = running.machine.seen(Opened)[0].peer
            piece = bytes(2**20)
            running.act(*[Send(number, piece)] * (QUEUED_BYTES // len(piece)))
            other.send(b"sent meanwhile")
            assert other.receive() == b"sent meanwhile"
            assert running.machine.seen(Closed) == []  # so much may wait
            running.act(*[Send(number, piece)] * 10)  # more than the system takes for it
            until(lambda: Closed(number) in running.machine.events)
            other.send(b"still there")
            assert other.receive() == b"still there"
        with suppress(ConnectionError):
            while slow.stream.read(2**20):
                pass


def test_one_frame_is_sent_however_large_it_is() -> None:
    with here() as running, running.peer() as peer:
        opened(running, 1)
        running.act(Send(1, bytes(QUEUED_BYTES + 2**20)))
        assert len(peer.receive()) == QUEUED_BYTES + 2**20


@pytest.mark.parametrize("size", [200, FRAME_BYTES // 3], ids=["small", "large"])
def test_a_peer_who_sends_faster_than_the_machine_is_slowed_down(size: int) -> None:
    machine = Echo(mute=True)
    with here(machine) as running, running.peer() as flooding, running.peer() as other:
        flooding.send(b"ready")
        flooding.send(b"wait")
        until(lambda: len(machine.seen(Received)) == 2)
        flooding.socket.settimeout(0.5)
        one, sent = frame(bytes(size)), 0
        data = memoryview(one * (100_000 // len(one) + 1))
        with suppress(TimeoutError):
            while sent < 2**26:  # the position is kept, as a part of a frame may be sent
                sent += flooding.socket.send(data[sent % len(data) :])
        assert sent < 2**25  # the buffers of the system included
        queued = running.links._asked.qsize()
        held = UNHANDLED_FRAMES if size == 200 else -(-UNHANDLED_BYTES // size)
        assert queued <= held + 1 + 2 / TICK_SECONDS
        with other:  # what it says waits its turn, and is not lost
            other.send(b"a word")
        machine.go_on.set()
        flooding.socket.settimeout(PATIENCE)
        flooding.socket.sendall(data[sent % len(data) :] if sent % len(data) else b"")
        frames = -(-sent // len(data)) * (len(data) // len(one))
        until(lambda: len(machine.seen(Received)) == 3 + frames)
        until(lambda: b"a word" in received(running, 2))
        assert set(received(running, 1)) == {b"ready", b"wait", bytes(size)}


def test_until_a_peer_is_ready_one_frame_is_handled_at_a_time() -> None:
    machine = Echo()
    with here(machine) as running, running.peer() as peer:
        peer.send(b"wait")
        for _ in range(10):
            peer.send(b"more")
        until(lambda: machine.seen(Received))
        time.sleep(0.05)
        assert running.links._asked.qsize() == 0
        machine.go_on.set()
        assert [peer.receive() for _ in range(11)] == [b"wait", *[b"more"] * 10]


# How many


def test_no_more_links_than_there_may_be() -> None:
    with here() as running, ExitStack() as stack:
        peers = [stack.enter_context(running.peer()) for _ in range(ACCEPTED)]
        with running.peer() as refused:
            assert refused.status == 503
            assert b"busy" in refused.stream.read()
        peers[0].close()
        until(lambda: running.links.count == ACCEPTED - 1)
        peers[0] = stack.enter_context(running.peer())
        assert peers[0].status == 101
        for peer in peers:
            peer.send(b"here")
            assert peer.receive() == b"here"
        with here(Echo(mute=True)) as other:
            for _ in range(PEERS - ACCEPTED + 1):
                running.dial(other.url)
            until(lambda: DialFailed(other.url) in running.machine.events)
            opened(other, PEERS - ACCEPTED)
            assert len(other.machine.seen(Opened)) == PEERS - ACCEPTED
            assert running.links.count == PEERS
        until(lambda: running.links.count == ACCEPTED)  # and new ones can be had
        running.dial(running.url)
        until(lambda: running.machine.events.count(DialFailed(running.url)) == 1)


# Dialling


@contextmanager
def answering(
    answer: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Run a server that does `answer` with each connection; yield its port and who connected."""
    asked: list[str] = []
    over = ExitStack()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, address = listener.accept()
                    asked.append(address[0])
                    over.callback(hang_up, connection)
                    with suppress(OSError), closing(connection):
                        if tls is None:
                            answer(connection)
                        else:
                            with tls.wrap_socket(connection, server_side=True) as secured:
                                answer(secured)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            over.close()
            thread.join(PATIENCE)
            assert not thread.is_alive()


def wait_for_end(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed
        connection.shutdown(socket.SHUT_RDWR)


def failed_dial(running: Here, url: str, caplog: pytest.LogCaptureFixture) -> str:
    """Dial in vain, and return why that is."""
    before, links = len(running.machine.seen(DialFailed)), len(running.machine.seen(Opened))
    with caplog.at_level(logging.INFO, "cairn.node.links"):
        running.dial(url)
        until(lambda: len(running.machine.seen(DialFailed)) > before)
    assert running.machine.seen(DialFailed)[-1] == DialFailed(url)
    until(lambda: running.links.count == 0)
    assert len(running.machine.seen(Opened)) == links
    return caplog.messages[-1].removeprefix(f"no link to {url}: ")


def test_dial_to_a_port_where_nobody_listens(
    shared: Here, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    assert "Connect" in failed_dial(shared, f"ws://127.0.0.1:{port}", caplog)


@pytest.mark.parametrize("how", ["nothing", "a byte at a time", "headers without end"])
def test_dial_to_a_port_that_never_answers(how: str, caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        parts = {
            "nothing": [b""] * 1000,
            "a byte at a time": [b"H"] * 1000,
            "headers without end": [b"HTTP/1.1 101 x\r\n", *[b"X: y\r\n" * 1000] * 1000],
        }
        for part in parts[how]:
            connection.sendall(part)
            if over.wait(0.01):
                return

    with here(dial_seconds=0.3) as running, answering(answer) as (port, _):
        began = time.monotonic()
        why = failed_dial(running, f"ws://127.0.0.1:{port}", caplog)
        expected = "its answer does not end" if "headers" in how else "it takes too long"
        assert why == expected
        assert time.monotonic() - began < 2
        over.set()


def test_the_longest_answer_is_bounded_even_if_it_comes_at_once(
    shared: Here,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 101 " + b"x" * UPGRADE_BYTES)
        connection.recv(65_536)
        connection.recv(1)

    with answering(answer) as (port, _):
        why = failed_dial(shared, f"ws://127.0.0.1:{port}", caplog)
        assert why == "its answer does not end"


def accepting(*, without: str = "", added: str = "") -> Callable[[socket.socket], None]:
    """Return what answers with a link, but for something."""

    def answer(connection: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            more = connection.recv(4096)
            if not more:
                return
            request += more
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
        lines = [
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_key(key)}",
            "Sec-WebSocket-Protocol: cairn.1",
        ]
        lines = [line for line in lines if not without or not line.startswith(without)]
        head = "\r\n".join(["HTTP/1.1 101 Fine", *lines, *([added] if added else []), "", ""])
        connection.sendall(head.encode() + frame(b"hello", masked=False))
        wait_for_end(connection)

    return answer


@pytest.mark.parametrize(
    ("without", "added"),
    [
        ("Sec-WebSocket-Protocol", ""),
        ("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: cairn.2"),
        ("", "Sec-WebSocket-Protocol: cairn.2"),
        ("Sec-WebSocket-Accept", ""),
        ("Sec-WebSocket-Accept", "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("Upgrade", ""),
        ("Connection", ""),
        ("", "Sec-WebSocket-Extensions: permessage-deflate"),
    ],
)
def test_answer_that_is_not_as_asked_for_is_no_link(
    without: str, added: str, shared: Here, caplog: pytest.LogCaptureFixture
) -> None:
    with answering(accepting(without=without, added=added)) as (port, _):
        why = failed_dial(shared, f"ws://127.0.0.1:{port}", caplog)
        assert why == "it answers b'HTTP/1.1 101 Fine'"


def test_answer_as_asked_for_is_a_link() -> None:
    with here(Echo(mute=True)) as running, answering(accepting()) as (port, _):
        running.dial(f"ws://127.0.0.1:{port}")
        opened(running, 1)
        until(lambda: received(running, last_peer(running)) == [b"hello"])


def test_dial_to_a_server_that_is_no_node(shared: Here, caplog: pytest.LogCaptureFixture) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 404 Not here\r\nContent-Length: 2\r\n\r\nno")
        connection.recv(1)

    with answering(answer) as (port, _):
        why = failed_dial(shared, f"ws://127.0.0.1:{port}", caplog)
        assert why == "it answers b'HTTP/1.1 404 Not here'"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(
    status: int, shared: Here, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        where = f"Location: {shared.url}/peer\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(f"HTTP/1.1 {status} Go\r\n{where}".encode())
        connection.recv(1)

    with answering(answer) as (port, asked):
        why = failed_dial(shared, f"ws://127.0.0.1:{port}", caplog)
        assert why == f"it answers b'HTTP/1.1 {status} Go'"
    assert len(asked) == 1


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:80", "http://127.0.0.1:80", "ws://", "ws://127.0.0.1:0", "ws://127.0.0.1:x",
     "ws://a@127.0.0.1:1", "ws://127.0.0.1:1/other", "ws://127.0.0.1:1/?x", "ws://0x7f.1:1",
     "ws://a..b:1"],
)  # fmt: skip
def test_dial_to_what_is_no_address(
    url: str, shared: Here, caplog: pytest.LogCaptureFixture
) -> None:
    failed_dial(shared, url, caplog)


def test_name_that_stands_for_a_private_address_is_dialled_only_for_the_operator(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with here(Echo(mute=True)) as other:
        url = f"ws://peer.example.org:{other.port}"

        async def found(*_: Any, **__: Any) -> list[Any]:
            return [(2, 1, 6, "", ("127.0.0.1", other.port))]

        for named in ([], [url]):
            with here(Echo(mute=True), named=named) as running:
                running.links._loop = Resolving(running.links._loop, found)  # type: ignore[assignment]
                if named:
                    running.dial(url)
                    assert opened(running, 1)[0].dialled == url
                else:
                    why = failed_dial(running, url, caplog)
                    assert why == "the name stands for no address that may be dialled"
                    assert other.machine.seen(Opened) == []


class Resolving:
    """An event loop that looks names up elsewhere."""

    def __init__(self, loop: asyncio.AbstractEventLoop, getaddrinfo: Any) -> None:
        self._loop = loop
        self.getaddrinfo = getaddrinfo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def test_names_that_are_never_found_keep_nobody_from_those_of_the_operator() -> None:
    threads, forever = threading.Semaphore(4), threading.Event()
    with here(Echo(mute=True)) as other:
        named = f"ws://named.example.org:{other.port}"

        async def found(host: str, *_: Any, **__: Any) -> list[Any]:
            if not threads.acquire(blocking=False):
                await asyncio.sleep(60)  # until one is free
            if host != "named.example.org":
                await asyncio.to_thread(forever.wait)  # which nobody can end
            threads.release()
            return [(2, 1, 6, "", ("127.0.0.1", other.port))]

        with here(Echo(mute=True), named=[named], dial_seconds=0.3) as running:
            running.links._loop = Resolving(running.links._loop, found)  # type: ignore[assignment]
            for number in range(12):
                running.dial(f"ws://told{number}.example.org:5000")
            until(lambda: len(running.machine.seen(DialFailed)) == 12)
            running.dial(named)
            assert opened(running, 1)[0].dialled == named
            forever.set()


def test_the_next_address_of_a_name_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    with here(Echo(mute=True)) as running, here(Echo(mute=True)) as other:

        async def found(*_: Any, **__: Any) -> list[Any]:
            return [(2, 1, 6, "", (ip, other.port)) for ip in ("127.0.0.2", "127.0.0.1")]

        running.links._loop = Resolving(running.links._loop, found)  # type: ignore[assignment]
        running.dial(f"ws://localhost:{other.port}")
        assert opened(other, 1)
        assert opened(running, 1)[0].host == "127.0.0.1"


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1)

    with answering(answer) as (port, asked), here(Echo(mute=True)) as one, here() as other:
        for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "socks_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
            monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        one.dial(other.url)
        opened(one, 1)
        assert asked == []


# Certificates


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class Authority:
    """Who signs certificates that nobody trusts who is not told to."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A throw-away authority")])
        self.certificate = self._sign(self._name, self._key, None, days=1)

    def context(self, directory: Path, name: x509.GeneralName, *, days: int) -> ssl.SSLContext:
        """Return what a server called `name` has, for so many days from yesterday on."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a node")])
        path = directory / "server.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self._sign(subject, key, name, days=days)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def trusting(self) -> ssl.SSLContext:
        """Return what trusts this authority alone."""
        return ssl.create_default_context(cadata=self.certificate.decode())

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        name: x509.GeneralName | None,
        *,
        days: int,
    ) -> bytes:
        began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1, hours=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(began + datetime.timedelta(days=days + (name is None)))
            .add_extension(x509.BasicConstraints(ca=name is None, path_length=None), critical=True)
        )
        if name is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


LOCAL = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def test_wss_links_to_who_has_the_right_certificate(authority: Authority, tmp_path: Path) -> None:
    tls = authority.context(tmp_path, LOCAL, days=2)
    with (
        answering(accepting(), tls) as (port, _),
        here(Echo(mute=True), tls=authority.trusting()) as running,
    ):
        running.dial(f"wss://127.0.0.1:{port}")
        opened(running, 1)
        until(lambda: received(running, last_peer(running)) == [b"hello"])


@pytest.mark.parametrize(
    ("name", "days", "trusted", "why"),
    [
        (LOCAL, 2, False, "self-signed|unable to get local issuer"),
        (x509.DNSName("localhost"), 2, True, "IP address mismatch"),
        (x509.IPAddress(ipaddress.ip_address("127.0.0.2")), 2, True, "IP address mismatch"),
        (LOCAL, 1, True, "certificate has expired"),
    ],
    ids=["signed by nobody we know", "another name", "another address", "expired"],
)
def test_wss_with_a_wrong_certificate_is_refused(
    name: x509.GeneralName,
    days: int,
    trusted: bool,
    why: str,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = {"tls": authority.trusting()} if trusted else {}
    tls = authority.context(tmp_path, name, days=days)
    with answering(accepting(), tls) as (port, asked), here(**options) as running:  # type: ignore[arg-type]
        said = failed_dial(running, f"wss://127.0.0.1:{port}", caplog)
        assert "CERTIFICATE_VERIFY_FAILED" in said
        assert any(each in said for each in why.split("|"))
        assert asked == ["127.0.0.1"]


def test_wss_to_a_port_without_tls_is_no_link(caplog: pytest.LogCaptureFixture) -> None:
    with here(dial_seconds=0.3) as running, answering(accepting()) as (port, _):
        failed_dial(running, f"wss://127.0.0.1:{port}", caplog)


# The machine and its thread


def test_the_machine_has_its_thread_and_ticks_however_much_comes() -> None:
    threads, done = set(), threading.Event()

    class Noting(Echo):
        def handle(self, event: Any, now: float) -> Any:
            threads.add(threading.current_thread().name)
            assert abs(now - time.time()) < 5
            if isinstance(event, Received):
                time.sleep(0.001)  # so that there is always something to do
            return super().handle(event, now)

    with here(Noting(mute=True)) as running, running.peer(ready=False) as peer:
        peer.send(b"ready")

        def flood() -> None:
            with suppress(OSError):
                while not done.is_set():
                    peer.socket.sendall(frame(b"x") * 1000)

        flooding = threading.Thread(target=flood)
        flooding.start()
        time.sleep(5 * TICK_SECONDS)
        ticks = len(running.machine.seen(Tick))
        done.set()
        flooding.join(PATIENCE)
        assert 4 <= ticks <= 7
        assert threads == {"cairn-network"}
        assert len(running.machine.seen(Received)) > 100


def test_call_returns_what_is_done_in_the_thread_of_the_machine(shared: Here) -> None:
    name = shared.do(lambda: shared.links.call(lambda: threading.current_thread().name))
    assert name == "cairn-network"

    def refuse() -> None:
        raise UsageError("not like this")

    with pytest.raises(UsageError, match="not like this"):
        shared.do(lambda: shared.links.call(refuse))
    assert shared.links.alive


def test_calls_whose_callers_have_gone_harm_nobody() -> None:
    machine = Echo()
    with here(machine) as running, running.peer() as peer:
        peer.send(b"wait")
        until(lambda: machine.seen(Received))

        async def impatient() -> None:
            await asyncio.wait_for(running.links.call(lambda: 1), 0.01)

        with pytest.raises(TimeoutError):
            running.do(impatient)
        machine.go_on.set()
        assert peer.receive() == b"wait"
        assert running.do(lambda: running.links.call(lambda: 2)) == 2


def test_other_actions_are_told_on_the_event_loop() -> None:
    where: list[str] = []
    with here(told=lambda action: where.append(f"{action} {threading.get_ident()}")) as running:
        running.act(Note("one"), Note("two"))
        until(lambda: len(where) == 2)
        thread = running.do(threading.get_ident)
        assert where == [f"{Note('one')} {thread}", f"{Note('two')} {thread}"]


@pytest.mark.parametrize("where", ["handling", "calling", "told"])
def test_a_bug_stops_the_network_and_lets_everyone_go(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    def told(_: object) -> None:
        raise ZeroDivisionError

    with here(told=told) as running, running.peer() as peer:
        if where == "handling":
            peer.send(b"fail")
        elif where == "told":
            running.act(Note("x"))
        else:
            with pytest.raises(NetworkStoppedError):
                running.do(lambda: running.links.call(lambda: 1 // 0))
        assert peer.closed() == (1001, "the node stops")
        assert not running.links.alive
        with pytest.raises(NetworkStoppedError, match="stopped"):
            running.do(lambda: running.links.call(lambda: 1))
        with running.peer() as refused:
            assert refused.status == 503
        assert "this is a bug" in caplog.text
        caplog.clear()


class Failing(Echo):
    """An echo whose store fails when it is told to."""

    def handle(self, event: Any, now: float) -> Any:
        if isinstance(event, Received) and event.frame == b"disk full":
            raise OutcomeUnknownError("writing failed")
        return super().handle(event, now)


@pytest.mark.parametrize("failures", [0, 3])
def test_a_store_that_fails_pauses_the_network_until_it_does_not(
    failures: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(links, "PAUSE_SECONDS", 0.1)
    machine, another = Failing(), Echo()
    tried: list[str] = []
    seen: list[bool] = []

    def renew() -> Echo:
        tried.append(threading.current_thread().name)
        seen.append(running.links.alive or running.links.has_room)
        if len(tried) <= failures:
            raise DamagedError("it cannot be read")
        return another

    with here(machine, renew=renew) as running, running.peer() as peer, here() as other:
        running.dial(other.url)
        opened(running, 2)
        peer.send(b"disk full")
        assert peer.closed() == (1001, "the node's store has failed")
        until(lambda: other.links.count == 0)
        if failures:
            with running.peer() as refused:
                assert refused.status == 503
            with pytest.raises(NetworkPausedError, match="begins anew: "):
                running.do(lambda: running.links.call(lambda: 1))
        until(lambda: running.links.alive)
        assert tried == ["cairn-network"] * (failures + 1)
        assert not any(seen)
        assert running.do(lambda: running.links.call(lambda: 1)) == 1
        with running.peer() as again:
            again.send(b"hello")
            assert again.receive() == b"hello"
        assert received(running, 3) == []
        assert [event.frame for event in another.seen(Received)] == [b"hello"]
        assert "bug" not in caplog.text
        assert caplog.text.count("the network begins anew in") == failures + 1
        caplog.clear()


def test_a_network_whose_store_fails_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def renew() -> Echo:
        raise StoreError("it fails on")

    monkeypatch.setattr(links, "PAUSE_SECONDS", 30.0)
    with here(Failing(), renew=renew) as running, running.peer() as peer:
        peer.send(b"disk full")
        peer.closed()
        began = time.monotonic()
        running.do(running.links.close)
        assert time.monotonic() - began < 5


def test_a_bug_while_the_network_begins_anew_ends_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(links, "PAUSE_SECONDS", 0.05)
    with here(Failing(), renew=lambda: 1 // 0) as running, running.peer() as peer:
        peer.send(b"disk full")
        until(lambda: "this is a bug" in caplog.text)
        until(lambda: running.links._bug is not None)
        with pytest.raises(NetworkStoppedError, match="stopped"):
            running.do(lambda: running.links.call(lambda: 1))
        assert not running.links.alive
        caplog.clear()


# Time


class Timed(Echo):
    """An echo that keeps the times it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def handle(self, event: Any, now: float) -> Any:
        self.times.append(now)
        return super().handle(event, now)


@pytest.mark.parametrize("by", [-STEP_SECONDS + 1, STEP_SECONDS - 1])
def test_clock_that_is_set_by_little_changes_no_deadline(by: float) -> None:
    wrong = [0.0]
    machine = Timed()
    clock = SteadyClock(lambda: time.time() + wrong[0])
    with here(machine, clock=clock, renew=Timed) as running, running.peer() as peer:
        peer.send(b"before")
        assert peer.receive() == b"before"
        wrong[0] = by
        time.sleep(2 * TICK_SECONDS)
        peer.send(b"after")
        assert peer.receive() == b"after"
        steps = [after - before for before, after in itertools.pairwise(machine.times)]
        assert all(0 <= step < 2 for step in steps)


@pytest.mark.parametrize("by", [-3600.0, STEP_SECONDS + 1, 3600.0])
def test_clock_that_is_set_by_much_is_followed_with_no_deadline_under_way(
    by: float, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = [0.0]
    machine, another = Timed(), Timed()
    clock = SteadyClock(lambda: time.time() + wrong[0])
    with here(machine, clock=clock, renew=lambda: another) as running, running.peer() as peer:
        peer.send(b"before")
        assert peer.receive() == b"before"
        wrong[0] = by
        assert peer.closed() == (1001, "the node begins anew")
        until(lambda: another.times)
        assert abs(machine.times[-1] - time.time()) < 5, "it never saw the step"
        assert abs(another.times[0] - time.time() - by) < 5
        assert running.links.alive
        with running.peer() as again:
            again.send(b"after")
            assert again.receive() == b"after"
        assert caplog.text.count("the clock was set by") == 1
        caplog.clear()


# The end


def test_a_node_that_stops_hangs_up_and_waits_for_no_slow_one() -> None:
    with ExitStack() as stack:
        running = stack.enter_context(here())
        polite = stack.enter_context(running.peer())
        silent = [stack.enter_context(running.peer(receive_bytes=4096)) for _ in range(3)]
        opened(running, 4)
        for number in (2, 3, 4):
            running.act(*[Send(number, bytes(2**20))] * 20)
        silent[1].socket.sendall(frame(bytes(500))[:200])
        dialled = stack.enter_context(here(Echo(mute=True)))
        running.dial(dialled.url)
        opened(dialled, 1)
        with answering(wait_for_end) as (
            port,
            _,
        ):
            running.dial(f"ws://127.0.0.1:{port}")  # and is not there yet
            until(lambda: running.links.count == 6)
            began = time.monotonic()
            running.do(running.links.close)
            assert time.monotonic() - began < LINGER_SECONDS + 1
        assert polite.closed() == (1001, "the node stops")
        until(lambda: dialled.machine.seen(Closed))
        assert len(running.machine.seen(Closed)) == 5
        with pytest.raises(NetworkStoppedError, match="the node stops"):
            running.do(lambda: running.links.call(lambda: 1))
        with running.peer() as late:
            assert late.status == 503


def test_a_close_gives_its_reason_after_what_was_sent(shared: Here) -> None:
    with shared.peer(ready=True) as peer:
        peer.send(b"send 300000 5")
        peer.send(b"close " + "ö".encode() * 100)
        for _ in range(5):
            assert len(peer.receive()) == 300_000
        assert peer.receive() == b"goodbye"
        assert peer.closed() == (1000, "ö" * 61)  # as much as fits


def test_what_comes_after_we_have_hung_up_is_not_told(shared: Here) -> None:
    with shared.peer() as peer:
        peer.send(b"close")
        assert peer.receive() == b"goodbye"
        with suppress(ConnectionError):
            peer.send(b"one more thing")
    until_gone(shared)
    assert received(shared, last_peer(shared)) == [b"close"]


def test_actions_for_peers_that_have_gone_are_passed_over(shared: Here) -> None:
    shared.act(Send(10**9, b"x"), Close(10**9, "y"))
    with shared.peer() as peer:
        peer.send(b"fine")
        assert peer.receive() == b"fine"


def test_there_is_no_thread_or_task_left() -> None:
    before = threading.active_count()
    with here() as running, running.peer():
        pass
    assert threading.active_count() == before
    assert running.links.count == 0
