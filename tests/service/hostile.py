"""A hostile peer: many links, each of which takes all that one bound lets it have.

python -m tests.service.hostile PORT GENESIS LENGTH LAST SECONDS [KIND ...]

GENESIS and LAST are hashes: of the chain that the node at PORT has, of LENGTH blocks. Every link
has a key of its own, and whoever is let go comes again with another one. At the end it prints how
often each kind came, as a JSON object.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cairn.core.merkle import leaf_hash
from cairn.net.handshake import Handshake, KeyIdentity
from cairn.net.limits import ENTRY_RATE, MAX_IDS, MAX_LOCATOR, MESSAGE_RATE, WAITING_REQUESTS
from cairn.net.messages import (
    Addresses,
    Bodies,
    Entries,
    GetAddresses,
    GetBodies,
    GetHeaders,
    Have,
    Head,
    Headers,
    Message,
    Missing,
    Ping,
    Pong,
    Want,
    decode,
    encode,
    split,
)
from tests.net.sockets import BINARY, Peer, frame

DEAF_LINKS: Final = 4
DEAF_BYTES: Final = 24 * 2**20
"""Of answers that one of them never reads: less than a node lets go of."""


class Link(Peer):
    """A link to a node, whose key is proven."""

    def __init__(self, port: int, genesis: bytes, *, receive_bytes: int = 0) -> None:
        super().__init__(port, receive_bytes=receive_bytes)
        if self.status != 101:
            raise ConnectionError(f"no link: {self.status}")
        handshake = Handshake(
            KeyIdentity(Ed25519PrivateKey.generate()), genesis, dialled=True,
            nonce=os.urandom(32), address="", allowed=lambda _: True,
        )  # fmt: skip
        self.say(handshake.hello())
        while not handshake.ready:
            for answer in handshake.take(self.hear()):
                self.say(answer)

    def say(self, *messages: Message) -> None:
        self.socket.sendall(b"".join(frame(encode(message)) for message in messages))

    def hear(self) -> Message:
        """Return the next message.

        Raises:
            ConnectionError: there is none any more.
        """
        opcode, payload = self.next()
        if opcode != BINARY:
            raise ConnectionError(f"it hung up: {payload!r}")
        return decode(payload)


class Attack:
    """What the links share."""

    def __init__(self, port: int, genesis: bytes, length: int, last: bytes, seconds: float) -> None:
        self.port, self.genesis, self.length, self.last = port, genesis, length, last
        self.until = time.monotonic() + seconds
        self.came: Counter[str] = Counter()

    def run(self, kind: str) -> None:
        """Come, and come again, until the time is over."""
        attack: Callable[[Link], None] = getattr(self, kind)
        while self.left() > 0:
            try:
                size = 4096 if kind == "deaf" else 0
                with Link(self.port, self.genesis, receive_bytes=size) as link:
                    self.came[kind] += 1
                    attack(link)
            except (OSError, ValueError, IndexError):
                time.sleep(0.01)

    def left(self) -> float:
        return self.until - time.monotonic()

    # Each takes a link, until it is let go, or the time is over

    def pings(self, link: Link) -> None:
        """As many messages as there may be."""
        self._pace(link, MESSAGE_RATE, (Ping(n) for n in count()))

    def unasked(self, link: Link) -> None:
        """Answers to nothing, as many as there may be."""
        urls = [f"ws://host{n}.example.net:5000/"[:-1] for n in range(100)]
        spam: list[Message] = [
            Addresses(urls),
            Bodies(7, b"", b""),
            Headers(7, bytes(104 * 2000)),
            Missing(7),
        ]
        self._pace(link, MESSAGE_RATE, (random.choice(spam) for _ in count()))

    def large(self, link: Link) -> None:
        """The same, as large as they may be."""
        size = 2**20
        self._pace(link, 50, (Bodies(7, size.to_bytes(4), bytes(size)) for _ in count()))

    def haves(self, link: Link) -> None:
        """Offers of entries that do not come."""
        rate = ENTRY_RATE / MAX_IDS
        self._pace(link, rate, (Have(os.urandom(32 * MAX_IDS)) for _ in count()))

    def wants(self, link: Link) -> None:
        """Requests for entries that nobody has."""
        rate = ENTRY_RATE / MAX_IDS
        self._pace(link, rate, (Want(os.urandom(32 * MAX_IDS)) for _ in count()))

    def entries(self, link: Link) -> None:
        """Entries, which are told and sent as they should be, as many as there may be."""
        made: dict[bytes, bytes] = {}
        threading.Thread(target=self._give, args=(link, made), daemon=True).start()
        for _ in self._beats(ENTRY_RATE / 2 / 500):
            some = [os.urandom(16) + b'"%032x"' % random.getrandbits(128) for _ in range(500)]
            new = {leaf_hash(entry): entry for entry in some}
            made.update(new)
            link.say(Have(b"".join(new)))

    def locators(self, link: Link) -> None:
        """Requests for headers that follow nothing the node knows."""

        def ask(number: int) -> Message:
            return GetHeaders(
                number, [*split(os.urandom(32 * (MAX_LOCATOR - 1)), 32), self.genesis]
            )

        self._ask(link, ask)

    def bodies(self, link: Link) -> None:
        """Requests for all there is, whose answers are read."""
        self._ask(link, lambda number: GetBodies(number, 1, self.length - 1, self.last))

    def deaf(self, link: Link) -> None:
        """Requests for blocks, whose answers are never read."""
        for number in range(DEAF_BYTES // (4 * 2**20)):
            link.say(GetBodies(number, 1, self.length - 1, self.last))
        while self.left() > 0:
            time.sleep(0.2)
            link.say(Ping(1))

    def addresses(self, link: Link) -> None:
        """The same request again and again."""
        self._pace(link, MESSAGE_RATE, (GetAddresses() for _ in count()))

    def liars(self, link: Link) -> None:
        """Claims of more work, which are refused when they are looked at; then it comes again."""
        header = bytes.fromhex("00010001207fffff") + (10**6).to_bytes(8) + os.urandom(88)
        link.say(Head(header[:104], b"\x0f" * 32))
        while True:
            message = link.hear()
            if isinstance(message, GetHeaders):
                link.say(Headers(message.number, header[:104] * 2000))

    def fragments(self, link: Link) -> None:
        """Messages in as many pieces as there may be."""
        payload = encode(Ping(1))
        first, *rest = (bytes([byte]) for byte in payload)
        pieces = [frame(first, last=False), *(frame(one, opcode=0, last=False) for one in rest)]
        pieces[-1] = frame(rest[-1], opcode=0)
        threading.Thread(target=self._drain, args=(link,), daemon=True).start()
        for _ in self._beats(MESSAGE_RATE / len(pieces)):
            link.socket.sendall(b"".join(pieces))

    # How

    def _beats(self, rate: float) -> Iterator[None]:
        """Yield so many times a second, until the time is over."""
        began = time.monotonic()
        for number in count():
            if self.left() <= 0:
                return
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            yield

    def _pace(self, link: Link, rate: float, messages: Iterator[Message]) -> None:
        threading.Thread(target=self._drain, args=(link,), daemon=True).start()
        size = max(1, int(rate / 50))  # some at once: it is not us who are to be slow
        for _ in self._beats(rate / size):
            link.say(*(next(messages) for _ in range(size)))

    def _ask(self, link: Link, ask: Callable[[int], Message]) -> None:
        """Have as many requests wait as may, until the time is over."""
        for number in count():
            if self.left() <= 0:
                return
            link.say(ask(number))
            if number >= WAITING_REQUESTS - 1:
                while isinstance(link.hear(), Head | Have | Ping | Pong):
                    pass

    def _drain(self, link: Link) -> None:
        try:
            while True:
                link.next()
        except (OSError, ValueError, IndexError):
            pass

    def _give(self, link: Link, made: dict[bytes, bytes]) -> None:
        try:
            while True:
                message = link.hear()
                if isinstance(message, Want):
                    wanted = [made.pop(i) for i in split(message.ids, 32) if i in made]
                    link.say(Entries(wanted))
        except (OSError, ValueError, IndexError):
            pass


KINDS: Final = (
    *("pings", "unasked", "haves", "wants", "entries", "locators", "bodies", "addresses"),
    *("large", "liars", "fragments", *["deaf"] * DEAF_LINKS),
)


def main(port: str, genesis: str, length: str, last: str, seconds: str, *kinds: str) -> None:
    attack = Attack(
        int(port), bytes.fromhex(genesis), int(length), bytes.fromhex(last), float(seconds)
    )
    threads = [
        threading.Thread(target=attack.run, args=(kind,), daemon=True) for kind in kinds or KINDS
    ]
    for thread in threads:
        thread.start()
    while attack.left() > 0:
        time.sleep(0.05)
    print(json.dumps(attack.came))


if __name__ == "__main__":
    main(*sys.argv[1:])
