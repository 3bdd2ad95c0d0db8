"""Which peers there are to dial, and when: the address book.

An address is `ws://host:port` or `wss://host:port`, with a port always; the path is the transport's
and fixed. One heard from a peer is a hint, and perhaps a trap: a peer may name a machine of ours
that it cannot reach itself. So it counts only if it is public, or as private as the peer that said
it.

Not protected: a name that looks public can stand for a private address. Whoever dials a heard one
has to look at what the name stands for, with `scope_of`.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from random import Random
from typing import Final, NamedTuple

from cairn.net.limits import (
    DISCOURAGED_SECONDS,
    MAX_ADDRESSES,
    MAX_URL,
    REDIAL_MOST_SECONDS,
    REDIAL_SECONDS,
)

MAX_KNOWN: Final = 1000
"""Addresses heard of, from all peers."""
MAX_FAILURES: Final = 10
"""In a row, until one that was only heard of is forgotten: a quarter of an hour. Those met stay, as
the network may have been cut in two; the last of them take their place."""
MAX_DISCOURAGED: Final = 1000
"""Hosts, and keys."""
REMEMBERED: Final = 4096
"""Hosts and URLs of which the same is not worked out again."""
NEVER: Final = float("inf")

_URL: Final = re.compile(
    r"(wss?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?/?", re.ASCII | re.IGNORECASE
)
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEFAULT_PORT: Final = {"ws": 80, "wss": 443}


class Scope(IntEnum):
    """From where a host can be reached."""

    NOWHERE = 0
    """From nowhere as a peer, or only from the same wire."""
    LOOPBACK = 1
    PRIVATE = 2
    PUBLIC = 3


def _networks(text: str) -> list[IPv4Network | IPv6Network]:
    return [ip_network(network) for network in text.split()]


_LOOPBACK: Final = _networks("127.0.0.0/8 ::1/128")
_PRIVATE: Final = _networks("10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7")
_PUBLIC_6: Final = IPv6Network("2000::/3")
_SPECIAL: Final = _networks(
    "0.0.0.0/8 169.254.0.0/16 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15"
    " 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3 2001::/23 2001:db8::/32 2002::/16 3fff::/20"
)
"""The rest of the IANA registries of special-purpose addresses (RFC 6890). Of IPv6, only what is in
2000::/3 can be public at all: so what stands for an IPv4 address, as in NAT64 and 6to4, is not."""
_PRIVATE_NAMES: Final = frozenset(
    {
        *("alt", "arpa", "example", "internal", "invalid", "local", "onion", "test"),
        *("corp", "home", "intranet", "lan", "localdomain", "mail", "private"),
    }
)
"""Last labels of no public host: those set aside (RFC 6761, 6762, 7686, 8375 and 9476, and ICANN's
`internal`), and those that private networks use all the same."""


class Address(NamedTuple):
    """Where a peer can be dialled."""

    scheme: str
    """`ws` or `wss`."""
    host: str
    """A name in lower case, or an IP address in its shortest form, without brackets."""
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read an address. Other spellings of an IPv4 address than the usual one are refused.

        Raises:
            ValueError: it is none.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise ValueError(f"an address is ws://host:port or wss://host:port, found {url!r:.300}")
        scheme = match[1].lower()
        port = int(match[3]) if match[3] else _DEFAULT_PORT[scheme]
        if not 1 <= port <= 65535:
            raise ValueError(f"a port is from 1 to 65535, found {port}")
        address = cls(scheme, _host(match[2].lower()), port)
        if len(str(address)) > MAX_URL:
            raise ValueError(f"an address has {MAX_URL} characters at most, found {url!r:.300}")
        return address


def _host(text: str) -> str:
    if text.startswith("["):
        return str(_unmapped(IPv6Address(text[1:-1])))
    labels = text.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # what other programs take for an IPv4 address
        return str(IPv4Address(text))
    if not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"a host is a name or an IP address, found {text!r:.300}")
    return text


@lru_cache(REMEMBERED)
def scope_of(host: str) -> Scope:
    """Return from where `host`, a name or an IP address, can be reached, by the looks of it."""
    try:
        ip = _unmapped(ip_address(host))
    except ValueError:
        return _scope_of_name(host)
    if any(ip in network for network in _LOOPBACK):
        return Scope.LOOPBACK
    if any(ip in network for network in _PRIVATE):
        return Scope.PRIVATE
    if any(ip in network for network in _SPECIAL):
        return Scope.NOWHERE
    return Scope.PUBLIC if ip.version == 4 or ip in _PUBLIC_6 else Scope.NOWHERE


@lru_cache(REMEMBERED)
def group_of(host: str) -> str:
    """Return what one party has of addresses at least: an IPv4 address, or 64 bits of an IPv6 one.

    Bounds for one host go by this, as anyone has 2^64 IPv6 addresses.
    """
    try:
        ip = _unmapped(ip_address(host))
    except ValueError:
        return host.lower()
    if isinstance(ip, IPv4Address):
        return str(ip)
    return str(IPv6Network((int(ip) >> 64 << 64, 64)))


def _unmapped(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def _scope_of_name(name: str) -> Scope:
    labels = name.lower().removesuffix(".").split(".")
    if labels[-1] == "localhost":
        return Scope.LOOPBACK
    if len(labels) == 1 or labels[-1] in _PRIVATE_NAMES:
        return Scope.PRIVATE
    return Scope.PUBLIC


class _Discouraged:
    """Hosts or keys for some time; past `MAX_DISCOURAGED`, the oldest go."""

    def __init__(self) -> None:
        self._until: dict[Hashable, float] = {}

    def add(self, who: Hashable, now: float) -> None:
        self._until.pop(who, None)  # to the end: the first is the oldest
        self._until[who] = now + DISCOURAGED_SECONDS
        if len(self._until) > MAX_DISCOURAGED:
            del self._until[next(iter(self._until))]

    def until(self, who: Hashable) -> float:
        return self._until.get(who, -NEVER)


@dataclass(slots=True, eq=False)
class _Known:
    address: Address
    scope: Scope
    configured: bool
    source: str | None = None
    """Group of the host that it was heard of from, until a handshake there is done."""
    met: float | None = None
    """When one was, the last time."""
    failures: int = 0
    """Since then, a dial that is not over included."""
    due: float = -NEVER
    in_use: bool = False


class AddressBook:
    """Addresses by URL: configured by the operator, met (a handshake there was done), or heard of.

    Configured ones stay, whatever happens, and may be private. Of those met, the last stay. Of
    those heard of, each source has a share, and the smaller share is never cut for a larger one.
    Times (`now`) are in seconds.

    Not protected: one who has many addresses that all answer can come to be most of the book. The
    configured ones are dialled first.
    """

    def __init__(
        self,
        configured: Iterable[str] = (),
        remembered: Iterable[str] = (),
        *,
        own: str = "",
        random: Random,
    ) -> None:
        """`remembered` is what `urls` returned in an earlier run.

        `own` is where we can be dialled ourselves, or empty. If it is public, no private address is
        taken from anyone: behind a proxy, every peer looks as if it were on this machine.

        Raises:
            ValueError: a configured address, or `own`, is none.
        """
        self._random: Final = random
        self._own: Final = Address.parse(own) if own else None
        self._known: dict[str, _Known] = {}
        self._met: OrderedDict[str, None] = OrderedDict()  # the last met at the end; configured not
        self._heard: dict[str, dict[str, None]] = {}  # by source; no source without any
        self._hosts: Final = _Discouraged()
        self._keys: Final = _Discouraged()
        self._none_before = -NEVER  # no address is due before then
        for address in map(Address.parse, configured):
            if address != self._own:
                self._add(_Known(address, scope_of(address.host), configured=True))
        for met in filter(None, map(_parsed, reversed(list(remembered)))):
            if str(met) not in self._known:
                self._add(_Known(met, scope_of(met.host), configured=False, met=-NEVER))
                self._remember(str(met))

    @property
    def begins_with(self) -> int:
        """How many addresses it would dial before anybody has told it of more."""
        return sum(known.configured or known.met is not None for known in self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, url: str) -> bool:
        return url in self._known

    def urls(self) -> list[str]:
        """Return those to begin with after a restart: met, the last first."""
        return list(reversed(self._met))

    def hear(self, urls: Iterable[str], host: str) -> None:
        """Take note of addresses that a peer at `host` (an IP address) has said: any text at all.

        What is no address, not for us, or past the source's share, is passed over.
        """
        source, near = group_of(host), scope_of(host)
        for address in filter(None, map(_parsed, urls)):
            scope = scope_of(address.host)
            if str(address) not in self._known and self._is_for_us(address, scope, near):
                self._hear(_Known(address, scope, configured=False, source=source), source)

    def is_configured(self, url: str) -> bool:
        """Whether the operator has named it."""
        return url in self._known and self._known[url].configured

    def due(self, now: float, count: int, most: int = MAX_KNOWN) -> list[str]:
        """Return up to `count` addresses to dial now, and take them to be in use until `ended`.

        First those configured, and of these up to `most`: who has filled the other places, in a
        network that was cut in two, say, is not to keep us from them. Then those met, the last
        first; then those heard of, from one source after the other.
        """
        if now < self._none_before:
            return []
        ready = [known for known in self._known.values() if self._is_due(known, now)]
        chosen = self._in_order(ready)
        chosen = chosen[: min(most, max(count, sum(known.configured for known in ready)))]
        for known in chosen:
            known.in_use = True
            known.failures += 1
        if len(ready) < count:
            idle = (known.due for known in self._known.values() if not known.in_use)
            self._none_before = min(idle, default=NEVER)
        return [str(known.address) for known in chosen]

    def met(self, url: str, now: float) -> None:
        """Take note that a handshake at `url`, which we dialled, is done."""
        if known := self._known.get(url):
            known.met, known.failures = now, 0
            if not known.configured:
                self._remember(url)

    def ended(self, url: str, now: float) -> None:
        """Take note that a link to `url` is gone, or never came to be; it is due again later."""
        known = self._known.get(url)
        if known is None or not known.in_use:
            return
        known.in_use = False
        if known.failures >= MAX_FAILURES and not known.configured and known.met is None:
            self._drop(url)
            return
        doublings = min(max(known.failures - 1, 0), 30)
        wait = min(REDIAL_SECONDS * 2**doublings, REDIAL_MOST_SECONDS)
        self._set_due(known, max(known.due, now + wait))

    def is_own(self, url: str) -> None:
        """Take note that we have dialled ourselves: never again, whoever says it."""
        if known := self._known.get(url):
            known.due = NEVER

    def avoid(self, url: str, now: float) -> None:
        """Do not dial `url` for `DISCOURAGED_SECONDS`: nobody is there who could be a peer."""
        if known := self._known.get(url):
            known.due = max(known.due, now + DISCOURAGED_SECONDS)

    def discourage(self, now: float, *, host: str, key: bytes | None, url: str | None) -> None:
        """Neither dial nor let in one who broke a rule, for `DISCOURAGED_SECONDS`.

        `key` is None where none was proven: anyone can claim one. A host of loopback stays, as all
        of this machine and all that a proxy lets in share it.
        """
        if scope_of(host) != Scope.LOOPBACK:
            self._hosts.add(group_of(host), now)
        if key is not None:
            self._keys.add(key, now)
        if url is not None:
            self.avoid(url, now)

    def is_discouraged(self, now: float, *, host: str, key: bytes | None = None) -> bool:
        """Whether one at `host`, or with this key, is to be let go."""
        by_key = key is not None and self._keys.until(key) > now
        return by_key or self._hosts.until(group_of(host)) > now

    def shared(self, host: str) -> list[str]:
        """Return what to tell a peer at `host`: those met first, then some of those heard of.

        It hears of private addresses only if it has one of the same kind.
        """
        near = scope_of(host)
        fit = [
            known
            for known in self._known.values()
            if known.due != NEVER
            and (known.met is not None or known.source is not None)
            and _reaches(known.scope, near)
        ]
        return [str(known.address) for known in self._in_order(fit)[:MAX_ADDRESSES]]

    def _is_for_us(self, address: Address, scope: Scope, near: Scope) -> bool:
        if self._own is None:
            return _reaches(scope, near)
        is_public = scope_of(self._own.host) == Scope.PUBLIC
        return address != self._own and _reaches(scope, Scope.PUBLIC if is_public else near)

    def _hear(self, known: _Known, source: str) -> None:
        mine = self._heard.get(source, {})
        if len(mine) >= MAX_ADDRESSES:
            return
        if sum(map(len, self._heard.values())) >= MAX_KNOWN:
            largest = max(self._heard.values(), key=len)
            idle = [url for url in largest if not self._known[url].in_use]
            if len(largest) <= len(mine) + 1 or not idle:
                return
            self._drop(idle[-1])
        self._heard.setdefault(source, {})[str(known.address)] = None
        self._add(known)

    def _remember(self, url: str) -> None:
        """Put `url` last among those met."""
        self._unhear(url)
        self._met[url] = None
        self._met.move_to_end(url)
        idle = [other for other in self._met if not self._known[other].in_use]
        if len(self._met) > MAX_ADDRESSES and idle:
            self._drop(idle[0])

    def _add(self, known: _Known) -> None:
        self._known[str(known.address)] = known
        self._none_before = min(self._none_before, known.due)

    def _set_due(self, known: _Known, due: float) -> None:
        known.due = due
        self._none_before = min(self._none_before, due)

    def _drop(self, url: str) -> None:
        self._unhear(url)
        self._met.pop(url, None)
        del self._known[url]

    def _unhear(self, url: str) -> None:
        known = self._known[url]
        if known.source is None:
            return
        del self._heard[known.source][url]
        if not self._heard[known.source]:
            del self._heard[known.source]
        known.source = None

    def _is_due(self, known: _Known, now: float) -> bool:
        if known.in_use or known.due > now:
            return False
        return not self.is_discouraged(now, host=known.address.host)

    def _in_order(self, some: list[_Known]) -> list[_Known]:
        self._random.shuffle(some)
        turns: Counter[str | None] = Counter()

        def place(known: _Known) -> tuple[int, float]:
            if known.configured:
                return 0, 0.0
            if known.met is not None:
                return 1, -known.met
            turns[known.source] += 1
            return 2, turns[known.source]

        return sorted(some, key=place)


@lru_cache(REMEMBERED)
def _parsed(url: str) -> Address | None:
    try:
        return Address.parse(url)
    except ValueError:
        return None


def _reaches(scope: Scope, near: Scope) -> bool:
    return scope == Scope.PUBLIC or (scope == near and scope != Scope.NOWHERE)
