"""One link to a peer: a WebSocket (RFC 6455) whose binary messages are the frames of the network.

Whatever the other end does costs bounded memory: a frame's length is checked when its header is
there, reading stops while what came is not handled, and who does not read is let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from cairn.net.events import Closed, Event, Opened, PeerId, Received
from cairn.net.limits import HANDSHAKE_BYTES, MESSAGE_BURST, MESSAGE_RATE, QUEUED_BYTES

PATH: Final = "/peer"
SUBPROTOCOL: Final = Subprotocol("cairn.1")
UPGRADE_BYTES: Final = 16_384
"""Of an answer to our asking for a link: what servers and proxies add to one is a tenth of it."""
UNHANDLED_FRAMES: Final = 64
"""Frames of one peer that have come and wait to be handled: some milliseconds of work, so that
others' do not wait long behind them."""
UNHANDLED_BYTES: Final = 2**20
"""Bytes of those after which no more is read. A last frame may go past it."""
FRAMES_AT_ONCE: Final = 64
"""Frames that are taken apart before the event loop turns to others: less than 2 ms."""
LINGER_SECONDS: Final = 1.0
"""For the other end to read why we hang up, and do so too."""
REASON_BYTES: Final = 123
"""Of a reason in a frame that closes (RFC 6455, section 5.5)."""


class UpgradeError(Exception):
    """What came is no request for a link, or no answer to one."""


def answer_upgrade(head: bytes) -> tuple[ServerProtocol, bytes]:
    """Return our end of the WebSocket that is asked for in `head`, and the answer to send.

    Raises:
        UpgradeError: there is something wrong with it.
    """
    protocol = ServerProtocol(subprotocols=[SUBPROTOCOL], max_size=None)  # and no extensions
    protocol.receive_data(head)
    for request in protocol.events_received():
        protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
    if protocol.state is not OPEN:
        raise UpgradeError(f"no link: {protocol.handshake_exc}"[:200])
    return protocol, b"".join(protocol.data_to_send())


class Link(asyncio.Protocol):
    """One end of a link, on the event loop.

    It tells of itself by events: `Opened`, any number of `Received`, `Closed`.
    """

    def __init__(
        self,
        peer: PeerId,
        websocket: ServerProtocol | ClientProtocol,
        *,
        url: str | None,
        frame_bytes: int,
        tell: Callable[[Event], None],
        gone: Callable[[PeerId], None],
    ) -> None:
        """Be called `peer`. A peer may send frames of `frame_bytes`, once it is ready.

        `url` is what was dialled, if we did; `tell` is given events, and `gone` is called when the
        connection is.
        """
        self.peer = peer
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when there is a link; a ConnectionError if there will be none."""
        self._websocket = websocket
        self._url = url
        self._frame_bytes = frame_bytes
        self._tell = tell
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._linked = False
        self._ready = False
        self._came = bytearray()  # and is not taken apart yet
        self._left = 0  # bytes of the frame that has begun
        self._message = bytearray()  # which comes in fragments
        self._frames = self._bytes = 0  # told, and not handled yet
        self._paused = False
        self._over = False  # we have hung up, and take nothing more
        self._linger: asyncio.TimerHandle | None = None
        self._spare, self._counted = float(MESSAGE_BURST), self._loop.time()
        self._why = "it hung up"

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a link, if we have dialled."""
        self._transport = cast(asyncio.Transport, transport)
        if self._over:
            self.abort()
        elif isinstance(self._websocket, ClientProtocol):
            self._websocket.send_request(self._websocket.connect())
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the link is gone, if there was one."""
        self._over = True
        self._came.clear()
        if self._linger is not None:
            self._linger.cancel()
        if self._linked:
            self._tell(Closed(self.peer))
        elif not self.opened.done():
            self.opened.set_exception(ConnectionError(self._why if exc is None else str(exc)))
        self._gone(self.peer)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._over:
            return
        self._came += data
        if not self._linked:
            self._read_answer()
        if self._linked:
            self._read_frames()

    def begin(self) -> None:
        """Tell that there is a link now."""
        assert self._transport is not None
        self._linked = True
        self.opened.set_result(None)
        address = self._transport.get_extra_info("peername")
        self._tell(Opened(self.peer, self._url, address[0] if address else ""))

    # What we do

    def send(self, frame: bytes) -> None:
        """Send a frame; let the peer go if too much waits for it to read."""
        if self._over or not self._linked:
            return
        assert self._transport is not None
        waiting = self._transport.get_write_buffer_size()
        if waiting and waiting + len(frame) > QUEUED_BYTES:
            self.abort()
            return
        self._websocket.send_binary(frame)
        self._flush()

    def close(self, code: int, reason: str) -> None:
        """Hang up when what was sent is out, or after `LINGER_SECONDS`."""
        if self._over:
            return
        if not self._linked:
            self.abort()
            return
        self._websocket.send_close(code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))
        self._hang_up()

    def abort(self) -> None:
        """Hang up at once."""
        self._over = True
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """Hang up at once, unless there is a link: nobody waits for one any more."""
        if self._linked:
            return
        if not self.opened.cancel() and not self.opened.cancelled():
            self.opened.exception()  # has been looked at
        self.abort()
        if self._transport is None:  # and never will be
            self._gone(self.peer)

    def handled(self, size: int, *, ready: bool) -> None:
        """Note that a frame of `size` bytes was handled; `ready`: the peer has proven its key."""
        self._frames -= 1
        self._bytes -= size
        self._ready = self._ready or ready
        if self._paused:
            self._read_frames()

    # What comes

    def _read_answer(self) -> None:
        """Read the answer to our asking for a link: no more, as frames may follow it at once."""
        end = self._came.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(self._came) > UPGRADE_BYTES:
                self._refuse("its answer does not end")
            return
        head = bytes(self._came[:end])
        del self._came[:end]
        self._websocket.receive_data(head)
        self._websocket.events_received()
        # Anything but a link fails, a redirection too: nobody is followed elsewhere.
        if self._websocket.state is OPEN and self._websocket.subprotocol == SUBPROTOCOL:
            self.begin()
        else:
            self._refuse(f"it answers {head.splitlines()[0][:100]!r}")

    def _refuse(self, why: str) -> None:
        self._why = why
        self.abort()

    def _read_frames(self) -> None:
        """Take apart what has come, as far as it may be told; stop reading where it may not."""
        for _ in range(FRAMES_AT_ONCE):
            if self._over:
                return
            if self._is_full():
                self._pause()
                return
            piece = self._cut()
            if piece:
                self._take(piece)
            elif not self._over:
                self._resume()
                return
        self._pause()
        self._loop.call_soon(self._read_frames)  # others have their turn

    def _is_full(self) -> bool:
        """Whether no more may be told. Until the peer is ready, one frame is handled at a time.

        So its next one is measured by what the last one has made of it.
        """
        most = UNHANDLED_FRAMES if self._ready else 1
        return self._frames >= most or self._bytes >= UNHANDLED_BYTES

    def _cut(self) -> bytes:
        """Return what there is of the first frame, if its header is there and is not too large."""
        if not self._left:
            header, payload = _measure(self._came)
            if not header:
                return b""
            limit = self._frame_bytes if self._ready else HANDSHAKE_BYTES
            if payload + len(self._message) > limit:
                self._fail(CloseCode.MESSAGE_TOO_BIG, f"a message has at most {limit} bytes")
                return b""
            self._left = header + payload
        piece = bytes(self._came[: self._left])
        del self._came[: self._left]
        self._left -= len(piece)
        return piece

    def _take(self, piece: bytes) -> None:
        """Take a frame, or a part of one."""
        self._websocket.receive_data(piece)
        for frame in self._websocket.events_received():
            assert isinstance(frame, Frame)
            self._take_frame(frame)
        if self._over:
            return
        if self._websocket.state is OPEN:
            self._flush()
        else:  # it broke the protocol, or hangs up: the WebSocket has the answer
            self._hang_up()

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT:
            self._fail(CloseCode.UNSUPPORTED_DATA, "messages are binary")
        elif frame.opcode is Opcode.BINARY and frame.fin:
            self._receive(bytes(frame.data))
        elif not self._may_spend():
            self._fail(CloseCode.POLICY_VIOLATION, "too many frames that are no message")
        elif frame.opcode in (Opcode.BINARY, Opcode.CONT):
            self._message += frame.data
            if frame.fin:
                message, self._message = bytes(self._message), bytearray()
                self._receive(message)

    def _may_spend(self) -> bool:
        """Count a frame that is not a whole message, of which there may be as many as of those."""
        now = self._loop.time()
        more = (now - self._counted) * MESSAGE_RATE
        self._spare, self._counted = min(self._spare + more, MESSAGE_BURST) - 1, now
        return self._spare >= 0

    def _receive(self, message: bytes) -> None:
        self._frames += 1
        self._bytes += len(message)
        self._tell(Received(self.peer, message))

    # The end of it

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Hang up on one who breaks the protocol."""
        if not self._over:
            self._websocket.fail(code, reason)
            self._hang_up()

    def _hang_up(self) -> None:
        """Send the last words, and wait for the other end to hang up too, but not for long."""
        assert self._transport is not None
        self._flush()
        self._over = True
        self._came.clear()
        self._message.clear()
        self._linger = self._loop.call_later(LINGER_SECONDS, self._transport.abort)
        self._resume()
        # Closing at once could take away what the other end has not read yet, why we do among it.
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _flush(self) -> None:
        assert self._transport is not None
        data = b"".join(self._websocket.data_to_send())
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()


def dialling(url: str) -> ClientProtocol:
    """Return our end of a WebSocket to the node at `url`, to be asked for."""
    return ClientProtocol(parse_uri(url + PATH), subprotocols=[SUBPROTOCOL], max_size=None)


def _measure(data: bytearray) -> tuple[int, int]:
    """Return the bytes of a frame's header and payload; (0, 0) while its header is not all there.

    Source: RFC 6455, section 5.2.
    """
    if len(data) < 2:
        return 0, 0
    masked, payload = data[1] >> 7, data[1] & 127
    extended = {126: 2, 127: 8}.get(payload, 0)
    header = 2 + extended + 4 * masked
    if len(data) < header:
        return 0, 0
    if extended:
        payload = int.from_bytes(data[2 : 2 + extended])
    return header, payload
