"""The network on real sockets: a machine that decides, its thread, and its links to peers.

The machine runs in a thread of its own, so that neither waits for the other: the event loop never
for a block to be checked, and the machine never for a peer to read.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from ipaddress import ip_address
from itertools import count
from queue import Empty, SimpleQueue
from socket import SOCK_STREAM
from threading import Thread
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from websockets.client import ClientProtocol
from websockets.server import ServerProtocol

from cairn.core.errors import CairnError, StoreError
from cairn.net.addresses import Address, scope_of
from cairn.net.events import (
    Action,
    Close,
    Dial,
    DialFailed,
    Event,
    Opened,
    PeerId,
    Received,
    Send,
    Tick,
)
from cairn.net.limits import DIALLED, HANDSHAKE_SECONDS, PEERS, TICK_SECONDS
from cairn.node.link import Link, answer_upgrade, dialling

Result = TypeVar("Result")

ACCEPTED: Final = PEERS - DIALLED - 1
"""Links that others open, at most: one more than we keep up is ours, to see what else there is."""
TURN: Final = 256
"""What the machine did is carried out so many events at a time, before others have their turn."""
TRIED: Final = 4
"""Addresses of one name that are tried."""
LOOKUPS: Final = 2
"""Names that peers have told are looked up, so many at a time: each takes one of few threads, and
cannot be ended; one is to be left for the names of the operator."""
PAUSE_SECONDS: Final = 1.0
"""Before a machine that the store has failed is made anew; doubled while that fails, too."""
PAUSE_MOST_SECONDS: Final = 60.0
STORE_FAILED: Final = "the node's store has failed"
STEP_SECONDS: Final = 60.0
"""By how much the system's clock may be set without our following it: a tenth of how far a block
may be ahead of it."""

log = logging.getLogger(__name__)


class NetworkStoppedError(CairnError):
    """The network is not running: the node stops, or a bug has ended it."""


class NetworkPausedError(NetworkStoppedError):
    """The network is not running just now: the store has failed, and is tried again."""


class SteadyClock:
    """Unix time in seconds that goes on evenly, whatever is made of the system's clock.

    So that no deadline comes early or late. `wall` is that clock, and `steady` one that nobody can
    set.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._steady = wall, steady
        self.follow()

    def __call__(self) -> float:
        """Return the time."""
        return self._steady() + self._difference

    def follow(self) -> None:
        """Go on from what the system's clock says now."""
        self._difference = self._wall() - self._steady()

    @property
    def error(self) -> float:
        """By how much the system's clock is ahead of this one."""
        return self._wall() - self()


class Machine(Protocol):
    """What decides: `cairn.net`'s network, or a stand-in."""

    def handle(self, event: Event, now: float) -> list[Action]:
        """Return what is to be done about `event`; `now` is Unix time in seconds."""


class Links:
    """A machine, the thread that it runs in, and its links to peers."""

    def __init__(
        self,
        machine: Machine,
        *,
        is_ready: Callable[[PeerId], bool],
        frame_bytes: int,
        told: Callable[[Action], None],
        renew: Callable[[], Machine] | None = None,
        named: Collection[str] = (),
        tls: ssl.SSLContext | None = None,
        clock: SteadyClock | None = None,
        dial_seconds: float = HANDSHAKE_SECONDS,
    ) -> None:
        """Run `machine`, from `start` on.

        Peers of which `is_ready` says, in the machine's thread, that they have proven their key,
        may send frames of `frame_bytes`. `told` is given, on the event loop, the actions that are
        not about links. `renew` is called in the machine's thread, with all links gone, for another
        machine in place of one that the store has failed, or whose clock was set by much; without
        it, either goes on as it can. URLs that the operator has `named` may lead to private
        addresses by name.
        A dial has `dial_seconds` from looking up its name to being a link; by `tls` the
        certificates of wss are checked, by default as browsers do.

        Raises:
            ValueError: one of `named` is no address.
        """
        self._machine = machine
        self._is_ready = is_ready
        self._frame_bytes = frame_bytes
        self._told = told
        self._named = {str(Address.parse(url)) for url in named}
        self._tls = tls or ssl.create_default_context()
        self._renew = renew
        self._clock = clock or SteadyClock()
        self._dial_seconds = dial_seconds
        self._numbers = count(1)
        self._links: dict[PeerId, Link] = {}  # of the event loop, as all from here on
        self.traffic: dict[tuple[str, int], tuple[int, int]] = {}
        """Messages and bytes that were `sent` and `received`, by that and the kind of the frame."""
        self._accepted: set[PeerId] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._lookups: set[asyncio.Task[Any]] = set()  # of names that peers have told
        self._stopping = False
        self._empty = asyncio.Event()
        self._asked: SimpleQueue[Event | _Call | None] = SimpleQueue()  # to the machine
        self._done: deque[tuple[_Asked, bool, Sequence[Action]]] = deque()  # by the machine
        self._woken = False  # the event loop has been told that something is done
        self._bug: BaseException | None = None  # which ended the thread
        self._is_paused = False
        self._thread = Thread(target=self._run, name="cairn-network", daemon=True)

    # For the node

    def start(self) -> None:
        """Begin. Requires a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everyone, and have no new links. Waits for nobody; may be called twice."""
        self._stopping = True
        self._hang_up("the node stops")

    async def close(self) -> None:
        """Stop, and wait for it.

        Links are gone after `LINGER_SECONDS` at most; the machine handles what it was told before.
        """
        self.stop()
        while self._links or self._dials:
            self._empty.clear()
            await self._empty.wait()
        for look in self._lookups:
            look.cancel()
        self._asked.put(None)
        await asyncio.to_thread(self._thread.join)
        self._bug = self._bug or NetworkStoppedError("the node stops")
        while self._done:
            self._carry_out()
        self._fail_asked()

    @property
    def count(self) -> int:
        """How many links there are, those included that we are opening."""
        return len(self._links)

    @property
    def alive(self) -> bool:
        """Whether the machine runs; not after a bug of ours, or while the store fails."""
        return self._thread.is_alive() and self._bug is None and not self._is_paused

    def tell(self, event: Event) -> None:
        """Have the machine handle an event. Can be called in any thread."""
        self._asked.put(event)

    async def call(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, which is run in the machine's thread, between two events.

        Raises:
            CairnError: as `work`.
            NetworkPausedError: the store has failed; later it may be done.
            NetworkStoppedError: the machine runs no more.
        """
        future: asyncio.Future[Result] = self._loop.create_future()
        self._asked.put(_Call(work, future))
        if self._bug is not None:  # and nobody takes it any more
            self._fail_asked()
        return await future

    # For the server

    @property
    def has_room(self) -> bool:
        """Whether one who asks for a link may have one."""
        return not self._stopping and self.alive and len(self._accepted) < ACCEPTED

    def accept(self, transport: asyncio.Transport, head: bytes, rest: bytes) -> None:
        """Make a link of a connection on which `head` was received, an HTTP request, and `rest`.

        Requires `has_room`.

        Raises:
            UpgradeError: the request is not as it must be; the connection is left alone.
        """
        websocket, answer = answer_upgrade(head)
        link = self._link(next(self._numbers), websocket, None)
        self._accepted.add(link.peer)
        transport.set_protocol(link)
        transport.write(answer)
        link.connection_made(transport)
        link.begin()
        link.data_received(rest)

    # On the event loop

    def _link(
        self, peer: PeerId, websocket: ServerProtocol | ClientProtocol, url: str | None
    ) -> Link:
        link = self._links[peer] = Link(
            peer,
            websocket,
            url=url,
            frame_bytes=self._frame_bytes,
            tell=self.tell,
            gone=self._forget,
        )
        return link

    def _hang_up(self, reason: str) -> None:
        for dial in self._dials:
            dial.cancel()
        for link in list(self._links.values()):
            link.close(1001, reason)

    def _forget(self, peer: PeerId) -> None:
        self._links.pop(peer, None)
        self._accepted.discard(peer)
        self._empty.set()

    def _carry_out(self) -> None:
        """Do what the machine wants done."""
        self._woken = False  # first: what is done from now on wakes us again
        try:
            for _ in range(TURN):
                if not self._done:
                    return
                asked, ready, actions = self._done.popleft()
                if isinstance(asked, _Call):
                    asked.answer()
                elif isinstance(asked, _HangUp):
                    self._hang_up(asked.reason)
                elif isinstance(asked, Received) and asked.peer in self._links:
                    self._count("received", asked.frame)
                    self._links[asked.peer].handled(len(asked.frame), ready=ready)
                for action in actions:
                    self._act(action)
        except Exception as error:
            self._end_by(error)
            self._asked.put(None)
            self._fail()
        else:
            self._loop.call_soon(self._carry_out)

    def _count(self, way: str, frame: bytes) -> None:
        kind = frame[1] if len(frame) > 1 else 0  # after that it is an array, of so many fields
        messages, size = self.traffic.get((way, kind), (0, 0))
        self.traffic[way, kind] = messages + 1, size + len(frame)

    def _act(self, action: Action) -> None:
        match action:
            case Send(peer, frame):
                if peer in self._links:
                    self._count("sent", frame)
                    self._links[peer].send(frame)
            case Close(peer, reason):
                if peer in self._links:
                    self._links[peer].close(1000, reason)
            case Dial(url):
                if not self._stopping:
                    dial = self._loop.create_task(self._dial(url))
                    self._dials.add(dial)
                    dial.add_done_callback(self._dialled)
            case _:
                self._told(action)

    def _dialled(self, dial: asyncio.Task[None]) -> None:
        self._dials.discard(dial)
        self._empty.set()

    async def _dial(self, url: str) -> None:
        """Open a link, or tell that there is none."""
        try:
            if len(self._links) >= PEERS:
                raise ConnectionError("there are enough links")
            async with asyncio.timeout(self._dial_seconds):
                await self._connect(url)
        except (OSError, ValueError) as error:  # names, addresses, certificates and time included
            log.info("no link to %s: %s", url, str(error) or "it takes too long")
            self.tell(DialFailed(url))

    async def _look_up(self, address: Address) -> list[str]:
        """Return the IP addresses of a host.

        Raises:
            OSError: it has none, or too many others are being looked up.
        """
        look = self._loop.getaddrinfo(address.host, address.port, type=SOCK_STREAM)
        if str(address) not in self._named and _is_name(address.host):
            if len(self._lookups) >= LOOKUPS:
                look.close()
                raise ConnectionError("too many names are being looked up")
            task = self._loop.create_task(look)
            self._lookups.add(task)
            task.add_done_callback(self._looked_up)
            found = await asyncio.shield(task)
        else:
            found = await look
        return list(dict.fromkeys(str(socket[0]) for *_, socket in found))

    def _looked_up(self, task: asyncio.Task[Any]) -> None:
        self._lookups.discard(task)
        if not task.cancelled():
            task.exception()  # whether anybody waits for it or not

    async def _connect(self, url: str) -> None:
        """Open a link at the first address of the name that gives one.

        Raises:
            ConnectionError: none does; or another OSError, or ValueError.
        """
        address = Address.parse(url)
        ips = await self._look_up(address)
        if str(address) not in self._named:
            # A name may be made up to have us knock at doors that whoever says it cannot reach.
            ips = [ip for ip in ips if scope_of(ip) >= scope_of(address.host)]
        error: Exception = ConnectionError("the name stands for no address that may be dialled")
        for ip in ips[:TRIED]:
            try:
                async with asyncio.timeout(self._dial_seconds / min(len(ips), TRIED)):
                    return await self._open(url, address, ip)
            except (OSError, ValueError) as caught:
                error = caught
        raise error

    async def _open(self, url: str, address: Address, ip: str) -> None:
        link = self._link(next(self._numbers), dialling(str(address)), url)
        secure = address.scheme == "wss"
        try:
            await self._loop.create_connection(
                lambda: link,
                ip,
                address.port,
                ssl=self._tls if secure else None,
                server_hostname=address.host if secure else None,
            )
            await link.opened
        except BaseException:
            link.give_up()
            raise

    # In the machine's thread

    def _run(self) -> None:
        """Have the machine handle what it is told, until it is told None."""
        due = 0.0
        while True:
            try:
                asked = self._asked.get(timeout=max(0.0, due - time.monotonic()))
            except Empty:
                asked = Tick()
            if asked is None or not self._handle(asked):
                return
            if time.monotonic() >= due:  # however much there is to do
                due = time.monotonic() + TICK_SECONDS
                if not isinstance(asked, Tick) and not self._handle(Tick()):
                    return

    def _handle(self, asked: Event | _Call) -> bool:
        """Handle one thing; return whether there may be more."""
        try:
            if isinstance(asked, Tick) and self._renew and abs(self._clock.error) > STEP_SECONDS:
                return self._follow_clock(self._renew)
            return self._have_handled(asked)
        except BaseException as error:
            self._end_by(error)
            self._asked.put(asked)
            self._on_loop(self._fail)
            return False

    def _have_handled(self, asked: Event | _Call) -> bool:
        """Have the machine handle one thing; return whether there may be more."""
        ready, actions = False, list[Action]()
        try:
            if isinstance(asked, _Call):
                asked.run()
            else:
                actions = self._machine.handle(asked, self._clock())
                ready = isinstance(asked, Received) and self._is_ready(asked.peer)
        except StoreError as error:
            if self._renew is None:
                raise
            return self._begin_anew(error, self._renew)
        self._answer(asked, actions, ready=ready)
        return True

    def _answer(
        self, asked: _Asked, actions: Sequence[Action] = (), *, ready: bool = False
    ) -> None:
        """Have the event loop do what is to be done."""
        self._done.append((asked, ready, actions))
        if not self._woken:
            self._woken = True
            self._on_loop(self._carry_out)

    def _follow_clock(self, renew: Callable[[], Machine]) -> bool:
        """Begin anew by the system's clock; return whether there may be more."""
        log.warning("the clock was set by %+.0f s: the network begins anew", self._clock.error)
        self._answer(_HangUp("the node begins anew"))
        self._clock.follow()
        try:
            self._machine = renew()
        except StoreError as error:
            return self._begin_anew(error, renew)
        return True

    def _begin_anew(self, error: CairnError, renew: Callable[[], Machine]) -> bool:
        """Have another machine when the store works again; return whether there may be more.

        Meanwhile all links are let go, and who asks is told so: what was kept by then is for the
        next machine to find.
        """
        self._is_paused = True
        self._answer(_HangUp(STORE_FAILED))
        pause = PAUSE_SECONDS
        while True:
            log.error("the network begins anew in %.0f s: %s", pause, error)
            if not self._pass_over(time.monotonic() + pause, error):
                return False
            try:
                self._machine = renew()
            except CairnError as caught:
                error, pause = caught, min(2 * pause, PAUSE_MOST_SECONDS)
            else:
                self._is_paused = False
                return True

    def _pass_over(self, until: float, error: CairnError) -> bool:
        """Do nothing of what is asked until then; return whether there may be more."""
        while (left := until - time.monotonic()) > 0:
            try:
                asked = self._asked.get(timeout=left)
            except Empty:
                break
            if asked is None:
                return False
            if isinstance(asked, _Call):
                asked.error = NetworkPausedError(f"the network begins anew: {error}")
            if isinstance(asked, Opened):  # a link that was about to be there
                self._answer(asked, [Close(asked.peer, STORE_FAILED)])
            else:
                self._answer(asked)
        return True

    def _on_loop(self, work: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(work)

    def _end_by(self, bug: BaseException) -> None:
        log.error("the network stops: this is a bug", exc_info=bug)
        self._bug = bug

    def _fail(self) -> None:
        """End what there is, after a bug."""
        self.stop()
        self._fail_asked()

    def _fail_asked(self) -> None:
        """Answer those whom the machine will not answer any more."""
        with suppress(Empty):
            while True:
                asked = self._asked.get_nowait()
                if isinstance(asked, _Call):
                    asked.error = NetworkStoppedError(f"the network has stopped: {self._bug}")
                    asked.answer()


class _HangUp(NamedTuple):
    """Said by the machine's thread: what it did before is all that is left of its links."""

    reason: str


class _Call:
    """Work for the machine's thread, and who waits for its result."""

    def __init__(self, work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self._work = work
        self._future = future
        self._result: Any = None
        self.error: CairnError | None = None

    def run(self) -> None:
        """Do it, in the machine's thread. What is no error of Cairn's own is a bug, and raised."""
        try:
            self._result = self._work()
        except CairnError as error:
            self.error = error

    def answer(self) -> None:
        """Say what came of it, on the event loop."""
        if self._future.done():  # who asked has gone
            return
        if self.error is not None:
            self._future.set_exception(self.error)
        else:
            self._future.set_result(self._result)


_Asked: TypeAlias = Event | _Call | _HangUp


def _is_name(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return True
    return False
