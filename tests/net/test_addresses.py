"""The address book: what is an address, what is private, and that no peer fills it or aims us."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.net.addresses import (
    MAX_DISCOURAGED,
    MAX_FAILURES,
    MAX_KNOWN,
    Address,
    AddressBook,
    Scope,
    group_of,
    scope_of,
)
from cairn.net.limits import (
    DISCOURAGED_SECONDS,
    MAX_ADDRESSES,
    MAX_URL,
    REDIAL_MOST_SECONDS,
    REDIAL_SECONDS,
)

PEER = "9.9.9.9"
"""A public host."""


def book(
    configured: Iterable[str] = (), remembered: Iterable[str] = (), own: str = ""
) -> AddressBook:
    return AddressBook(configured, remembered, own=own, random=Random(1))


def public(source: int, number: int = 0) -> str:
    return f"ws://44.{source // 256}.{source % 256}.{number}:5000"


def heard(url: str, host: str, own: str = "") -> bool:
    """Whether a peer at `host` can make us know `url`."""
    one = book(own=own)
    one.hear([url], host)
    assert len(one) <= 1
    return bool(one.due(0.0, 1))


# What is an address

GOOD = {
    "ws://1.2.3.4:5000": "ws://1.2.3.4:5000",
    "WS://Node.Example.ORG:5000": "ws://node.example.org:5000",
    "wss://node.example.org": "wss://node.example.org:443",
    "ws://node.example.org/": "ws://node.example.org:80",
    "ws://xn--bcher-kva.example:1": "ws://xn--bcher-kva.example:1",
    "ws://localhost:65535": "ws://localhost:65535",
    "ws://node_1:5000": "ws://node_1:5000",
    "ws://3com.com:1": "ws://3com.com:1",
    "ws://[2001:DB8:0:0::1]:5000": "ws://[2001:db8::1]:5000",
    "ws://[::1]:5000": "ws://[::1]:5000",
    "ws://[::ffff:1.2.3.4]:5000": "ws://1.2.3.4:5000",
    "ws://[::FFFF:102:304]:5000": "ws://1.2.3.4:5000",
}


@pytest.mark.parametrize(("url", "shown"), GOOD.items(), ids=GOOD)
def test_an_address_has_one_spelling(url: str, shown: str) -> None:
    assert str(Address.parse(url)) == shown
    assert str(Address.parse(shown)) == shown


BAD = [
    *("", "ws:", "ws://", "ws://:5000", "node.example.org:5000", "//node.example.org", "ws:/a.b"),
    *("http://a.example", "https://a.example", "file:///etc/passwd", "gopher://a.example:70"),
    # a part that an address does not have
    *("ws://user@a.example:1", "ws://user:pass@a.example:1", "ws://a.example@127.0.0.1:1"),
    *("ws://a.example:1/path", "ws://a.example:1/peer", "ws://a.example:1//", "ws://a.example:1?q"),
    *("ws://a.example:1#x", "ws://a.example\\@127.0.0.1:1", "ws://a.example:1\\", "ws://a.example;1"),
    # ports
    *("ws://a.example:", "ws://a.example:0", "ws://a.example:65536", "ws://a.example:-1"),
    *("ws://a.example:+1", "ws://a.example:1e3", "ws://a.example:0x50", "ws://a.example:1:2"),
    *("ws://a.example:099999", "ws://a.example:\u0661"),
    # other spellings of IPv4 addresses
    *("ws://127.1:1", "ws://2130706433:1", "ws://0x7f000001:1", "ws://0x7f.0.0.1:1"),
    *("ws://0177.0.0.1:1", "ws://010.0.0.1:1", "ws://127.0.0.01:1", "ws://017700000001:1"),
    *("ws://127.0.0.1.:1", "ws://1.2.3:1", "ws://1.2.3.4.5:1", "ws://256.1.1.1:1", "ws://1.2.3.0x:1"),
    *("ws://1.2.3.0x4:1", "ws://a.1:1", "ws://a.0x1f:1"),
    # IPv6
    *("ws://::1:5000", "ws://[::1:5000", "ws://[::1]5000", "ws://[]:1", "ws://[:]:1", "ws://[1.2.3.4]:1"),
    *("ws://[fe80::1%eth0]:1", "ws://[fe80::1%25eth0]:1", "ws://[::ffff:127.1]:1", "ws://[v1.x]:1"),
    *("ws://[1::2::3]:1", "ws://[::12345]:1", "ws://[::1%]:1"),
    # names
    *("ws://a.example.:1", "ws://.example:1", "ws://a..example:1", "ws://.:1", "ws://-a.example:1"),
    *("ws://a-.example:1", "ws://a.example-:1", "ws://a b.example:1", "ws://a%2eexample:1"),
    f"ws://{'a' * 64}.example:1",
    f"ws://{'.'.join(['a' * 50] * 6)}:1",
    f"ws://{'a.' * 130}example:1",
    # not ASCII, which IDNA or others would make ASCII of
    *("ws://bücher.example:1", "ws://a。example:1", "ws://１２７.0.0.1:1", "ws://ⓛocalhost:1"),
    *("ws://\u212aexample.org:1", "wſ://a.example:1", "ws://a\u200b.example:1", "ws://a.example\u202e:1"),
    # what a log or a request line should not carry
    *("ws://a.example:1\n", "\nws://a.example:1", " ws://a.example:1", "ws://a.example:1 "),
    *("ws://a.example\r\nHost: b:1", "ws://a.example\0.b.example:1", "ws://a\t.example:1"),
]  # fmt: skip


@pytest.mark.parametrize("url", BAD, ids=ascii)
def test_what_is_no_address_is_refused_and_passed_over(url: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(url)
    assert not heard(url, "127.0.0.1")
    with pytest.raises(ValueError):
        book([url])


@given(st.text(max_size=30) | st.text("ws:/[]@.:01aAxf-%", max_size=30).map("ws://{}".format))
def test_any_text_is_an_address_or_refused(url: str) -> None:
    one = book()
    one.hear([url], "127.0.0.1")
    for shown in one.due(0.0, 1):
        assert str(Address.parse(shown)) == shown
        assert shown.isascii()
        assert shown.isprintable()


def test_an_address_in_its_one_spelling_can_always_be_sent() -> None:
    name = ".".join("a" * length for length in (62, 62, 62, 61))
    assert len(f"ws://{name}:80") > MAX_URL >= len(f"ws://{name}")
    with pytest.raises(ValueError):
        Address.parse(f"ws://{name}")


# What is private

SCOPES = {
    Scope.LOOPBACK: "127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 localhost LOCALHOST a.localhost"
    " localhost.",
    Scope.PRIVATE: "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255"
    " 100.64.0.1 100.127.255.255 fc00::1 fd12:3456:789a::1 fdff:ffff::1 ::ffff:10.0.0.1"
    " ::ffff:192.168.1.1 node node_1 router.lan printer.local db.internal a.home.arpa a.corp a.home"
    " a.intranet localhost.localdomain a.test a.example a.invalid a.onion 1.0.0.127.in-addr.arpa",
    Scope.NOWHERE: "0.0.0.0 0.1.2.3 169.254.169.254 169.254.0.1 192.0.0.1 192.0.2.1 192.88.99.1"
    " 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1"
    " 255.255.255.255 :: fe80::1 febf::1 fec0::1 ff02::1 ::7f00:1 ::127.0.0.1 2001:db8::1 3fff::1"
    " 2001:0:7f00:1:: 2002:7f00:1:: 2002:a00:1:: 2002:c0a8:101::1 2002:808:808::1 64:ff9b::7f00:1"
    " 64:ff9b::10.0.0.1 64:ff9b::8.8.8.8 64:ff9b:1::a00:1 100::1 5f00::1 ::ffff:0:127.0.0.1"
    " ::ffff:169.254.169.254 2001:20::1 4000::1",
    Scope.PUBLIC: "1.1.1.1 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255"
    " 128.0.0.1 169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 192.167.255.255 192.169.0.1"
    " 198.17.255.255 198.20.0.1 223.255.255.255 ::ffff:8.8.8.8 2001:200::1 2606:4700::1111 2a00::1"
    " node.example.org example.com localhost.org local.net a.b.c.de xn--bcher-kva.de",
}


@pytest.mark.parametrize(
    ("host", "scope"), [(host, scope) for scope in SCOPES for host in SCOPES[scope].split()]
)
def test_scope_of_a_host(host: str, scope: Scope) -> None:
    assert scope_of(host) == scope


def url_of(host: str) -> str:
    return f"ws://[{host}]:1" if ":" in host else f"ws://{host.removesuffix('.')}:1"


@pytest.mark.parametrize(
    "host", [host for scope in SCOPES if scope != Scope.PUBLIC for host in SCOPES[scope].split()]
)
def test_a_private_address_heard_from_a_public_host_is_passed_over(host: str) -> None:
    for public_host in ("9.9.9.9", "2606:4700::1111", "node.example.org"):
        assert not heard(url_of(host), public_host)


@pytest.mark.parametrize("host", SCOPES[Scope.PUBLIC].split())
def test_a_public_address_is_taken_from_anyone(host: str) -> None:
    for source in ("9.9.9.9", "10.0.0.1", "127.0.0.1", "169.254.1.1"):
        assert heard(url_of(host), source)


@pytest.mark.parametrize(
    ("url", "source", "taken"),
    [
        ("ws://10.0.0.2:1", "10.0.0.1", True),
        ("ws://192.168.0.2:1", "fd00::1", True),
        ("ws://node2:1", "10.0.0.1", True),
        ("ws://n2:1", "n1", True),
        ("ws://127.0.0.1:1", "127.0.0.1", True),
        ("ws://127.0.0.1:1", "::ffff:127.0.0.1", True),
        ("ws://127.0.0.1:1", "10.0.0.1", False),
        ("ws://localhost:1", "10.0.0.1", False),
        ("ws://10.0.0.1:1", "127.0.0.1", False),
        ("ws://169.254.169.254:80", "127.0.0.1", False),
        ("ws://169.254.169.254:80", "10.0.0.1", False),
        ("ws://169.254.1.2:1", "169.254.1.1", False),
        ("ws://0.0.0.0:1", "0.0.0.0", False),
        ("ws://127.0.0.1:1", "192.0.2.1", False),
    ],
)
def test_an_address_is_as_private_as_the_peer_that_says_it(
    url: str, source: str, taken: bool
) -> None:
    assert heard(url, source) is taken


def test_behind_a_proxy_no_private_address_is_taken_even_from_this_machine() -> None:
    own = "wss://node.example.org:443"
    assert not heard("ws://127.0.0.1:6379", "127.0.0.1", own)
    assert not heard("ws://10.0.0.1:6379", "10.0.0.2", own)
    assert heard("ws://1.1.1.1:5000", "127.0.0.1", own)
    assert heard("ws://127.0.0.1:5001", "127.0.0.1", "ws://127.0.0.1:5000")


def test_a_configured_address_may_be_private() -> None:
    urls = ["ws://127.0.0.1:5000", "ws://10.0.0.1:5000", "ws://node2:5000", "ws://[fe80::1]:5000"]
    assert sorted(book(urls, own="wss://node.example.org").due(0.0, 10)) == sorted(urls)


def test_our_own_address_is_never_dialled() -> None:
    assert not heard("wss://Node.example.org", PEER, "wss://node.example.org:443")
    one = book(["wss://node.example.org", "ws://1.1.1.1:1"], own="wss://node.example.org")
    assert one.due(0.0, 10) == ["ws://1.1.1.1:1"]
    assert one.shared(PEER) == []


def test_an_address_that_leads_to_ourselves_is_dialled_once() -> None:
    one = book(["ws://seed.example.org:1"])
    one.hear(["ws://1.1.1.1:1"], PEER)
    for url in one.due(0.0, 10):
        one.is_own(url)
        one.ended(url, 1.0)
    one.hear(["ws://1.1.1.1:1"], PEER)
    assert one.due(1e9, 10) == []
    assert one.shared(PEER) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.2.3.4", "::ffff:1.2.3.4", True),
        ("1.2.3.4", "1.2.3.5", False),
        ("2a00::1", "2a00:0:0:0:ffff::2", True),
        ("2a00::1", "2a00:0:0:1::1", False),
        ("Node", "node", True),
        ("n1", "n2", False),
    ],
)
def test_ipv6_addresses_of_one_network_count_as_one_host(one: str, other: str, same: bool) -> None:
    assert (group_of(one) == group_of(other)) is same


# A poisoned book


def test_one_peer_that_sends_a_hundred_addresses_again_and_again_has_its_share_and_no_more() -> (
    None
):
    one = book(["ws://seed.example.org:5000"])
    one.hear(["ws://8.8.8.8:5000"], "8.8.4.4")
    for turn in range(20):
        one.hear([public(turn, number) for number in range(100)], PEER)
    assert len(one) == 2 + MAX_ADDRESSES
    assert "ws://8.8.8.8:5000" in one
    assert one.due(0.0, 1) == ["ws://seed.example.org:5000"]


def test_an_ipv6_network_has_one_share_however_many_addresses_it_speaks_from() -> None:
    one = book()
    for turn in range(10):
        one.hear([public(turn, number) for number in range(100)], f"2a00::{turn + 1:x}")
    assert len(one) == MAX_ADDRESSES


def test_many_peers_that_fill_the_book_do_not_push_out_those_who_say_little() -> None:
    one = book()
    one.hear(["ws://8.8.8.8:5000", "ws://8.8.8.9:5000"], "8.8.4.4")
    for peer in range(40):
        one.hear([public(peer, number) for number in range(100)], f"7.0.0.{peer}")
        assert len(one) <= MAX_KNOWN
    assert "ws://8.8.8.8:5000" in one
    assert "ws://8.8.8.9:5000" in one
    one.hear(["ws://8.8.8.10:5000"], "8.8.4.5")
    assert "ws://8.8.8.10:5000" in one
    assert len(one) == MAX_KNOWN


def test_shares_that_are_equal_do_not_push_each_other_out() -> None:
    one = book()
    for peer in range(10):
        one.hear([public(peer, number) for number in range(100)], f"7.0.0.{peer}")
    before = set(one.due(0.0, MAX_KNOWN))
    one = book()
    for peer in range(10):
        one.hear([public(peer, number) for number in range(100)], f"7.0.0.{peer}")
    for peer in range(10):
        one.hear([public(100 + peer, number) for number in range(100)], f"7.0.0.{peer}")
    assert set(one.due(0.0, MAX_KNOWN)) == before


def test_a_share_is_not_cut_for_one_that_would_be_as_large() -> None:
    one = book()
    for peer, count in enumerate([50] * 19 + [49, 1]):
        one.hear([public(peer, number) for number in range(count)], f"7.0.0.{peer}")
    assert len(one) == MAX_KNOWN
    one.hear([public(100)], "7.0.0.18")  # has 50
    one.hear([public(101)], "7.0.0.19")  # has 49
    one.hear([public(102)], "7.0.0.20")  # has 1
    assert [public(n) in one for n in (100, 101, 102)] == [False, False, True]
    assert len(one) == MAX_KNOWN


def test_each_source_has_its_turn_to_be_dialled() -> None:
    """One who sends a hundred addresses does not get a hundred chances."""
    one = book()
    one.hear([public(1, number) for number in range(100)], PEER)
    one.hear(["ws://8.8.8.8:5000"], "8.8.4.4")
    one.hear(["ws://8.8.8.9:5000"], "8.8.4.5")
    assert {"ws://8.8.8.8:5000", "ws://8.8.8.9:5000"} <= set(one.due(0.0, 3))


def test_a_link_in_use_is_not_forgotten_when_the_book_is_full() -> None:
    one = book()
    for peer in range(10):
        one.hear([public(peer, number) for number in range(100)], f"7.0.0.{peer}")
    used = set(one.due(0.0, MAX_KNOWN))
    one.hear(["ws://8.8.8.8:5000"], "8.8.4.4")
    assert all(url in one for url in used)
    assert len(one) == MAX_KNOWN


def test_met_addresses_are_bounded_and_the_last_stay() -> None:
    one = book()
    urls = [public(peer) for peer in range(150)]
    for now, url in enumerate(urls):
        one.hear([url], f"7.0.0.{now}")
        assert one.due(float(now), 1) == [url]
        one.met(url, float(now))
        one.ended(url, float(now))
        one.discourage(float(now), host="7.7.7.7", key=None, url=url)  # so that it is not due again
    assert one.urls() == urls[:49:-1]
    assert len(one) == MAX_ADDRESSES


def test_a_met_address_is_not_forgotten_while_it_is_in_use() -> None:
    one = book()
    urls = [public(peer) for peer in range(MAX_ADDRESSES + 2)]
    for number, url in enumerate(urls):
        one.hear([url], f"7.0.0.{number}")
    for url in one.due(0.0, 1000):
        one.met(url, 0.0)
    assert len(one) == MAX_ADDRESSES + 2


# When to dial


def test_an_address_is_dialled_once_at_a_time() -> None:
    one = book()
    one.hear(["ws://1.1.1.1:1", "ws://1.1.1.2:1", "ws://1.1.1.3:1"], PEER)
    first = one.due(0.0, 2)
    assert len(first) == 2
    assert one.due(0.0, 0) == []
    second = one.due(0.0, 2)
    assert len(second) == 1
    assert set(first + second) == {"ws://1.1.1.1:1", "ws://1.1.1.2:1", "ws://1.1.1.3:1"}
    assert one.due(1e9, 2) == []


def test_configured_ones_are_dialled_also_where_others_take_all_places() -> None:
    one = book(["ws://1.1.1.1:1", "ws://1.1.1.2:1"])
    one.hear([public(1)], PEER)
    assert set(one.due(0.0, 0)) == {"ws://1.1.1.1:1", "ws://1.1.1.2:1"}
    assert one.due(0.0, 0) == []


def test_configured_come_first_then_met_then_heard() -> None:
    one = book(["ws://10.0.0.1:1"], ["ws://1.1.1.1:1"])
    one.hear([public(1)], PEER)
    assert one.due(0.0, 3) == ["ws://10.0.0.1:1", "ws://1.1.1.1:1", public(1)]


def test_of_those_met_the_last_comes_first() -> None:
    one, urls = book(), [public(peer) for peer in range(5)]
    one.hear(urls, PEER)
    one.due(0.0, 5)
    order = [urls[n] for n in (3, 0, 4, 1, 2, 3)]
    for now, url in enumerate(order):
        one.met(url, float(now))
    for url in urls:
        one.ended(url, 10.0)
    assert one.urls() == order[:0:-1]
    assert one.due(100.0, 5) == order[:0:-1]


def waits(one: AddressBook, url: str, count: int) -> list[float]:
    """Return how long it takes each time from a failure until `url` is due again."""
    found, now = [], 0.0
    assert one.due(now, 1) == [url]
    for _ in range(count):
        one.ended(url, now)
        ended = now
        while not one.due(now, 1):
            now += 0.25
            assert now - ended <= REDIAL_MOST_SECONDS
        found.append(now - ended)
    return found


def test_each_failure_doubles_the_wait_up_to_the_most() -> None:
    url = "ws://10.0.0.1:1"
    doubled = [min(REDIAL_SECONDS * 2**n, REDIAL_MOST_SECONDS) for n in range(14)]
    assert waits(book([url]), url, 14) == doubled


def test_a_handshake_resets_the_wait() -> None:
    url = "ws://10.0.0.1:1"
    one = book([url])
    waits(one, url, 6)
    one.met(url, 1000.0)
    one.ended(url, 1000.0)
    assert one.due(1000.0 + REDIAL_SECONDS - 0.01, 1) == []
    assert one.due(1000.0 + REDIAL_SECONDS, 1) == [url]
    one.ended(url, 2000.0)
    assert one.due(2000.0 + REDIAL_SECONDS, 1) == [url]


def test_one_heard_of_that_never_answers_is_forgotten_and_one_met_or_configured_never() -> None:
    one = book(["ws://10.0.0.1:1"], ["ws://1.1.1.1:1"])
    one.hear([public(1)], PEER)
    for day in range(MAX_FAILURES):
        assert len(one) == 3
        for url in one.due(day * 1e5, 3):
            one.ended(url, day * 1e5)
    assert one.due(1e7, 3) == ["ws://10.0.0.1:1", "ws://1.1.1.1:1"]


def test_what_was_not_dialled_has_not_ended() -> None:
    one = book(["ws://10.0.0.1:1"])
    one.ended("ws://10.0.0.1:1", 5.0)
    one.ended("ws://10.0.0.2:1", 5.0)
    one.met("ws://10.0.0.2:1", 5.0)
    one.is_own("ws://10.0.0.2:1")
    assert one.due(0.0, 3) == ["ws://10.0.0.1:1"]


def test_news_is_due_at_once_after_nothing_was() -> None:
    one = book(["ws://10.0.0.1:1"])
    one.due(0.0, 2)
    assert one.due(1.0, 2) == []
    one.hear([public(1)], PEER)
    assert one.due(1.0, 2) == [public(1)]


# Discouraged


def test_one_who_broke_a_rule_is_neither_dialled_nor_let_in_for_a_while() -> None:
    one = book(["ws://1.1.1.1:1", "ws://node.example.org:1"])
    one.due(0.0, 2)
    one.discourage(0.0, host="::ffff:1.1.1.1", key=b"k" * 32, url=None)
    one.discourage(0.0, host="1.1.1.2", key=None, url="ws://node.example.org:1")
    for url in ("ws://1.1.1.1:1", "ws://node.example.org:1"):
        one.ended(url, 0.0)
    before, after = DISCOURAGED_SECONDS - 1, DISCOURAGED_SECONDS
    assert one.due(before, 2) == []
    for host in ("1.1.1.1", "::ffff:1.1.1.1", "1.1.1.2"):
        assert one.is_discouraged(before, host=host)
        assert not one.is_discouraged(after, host=host)
    assert one.is_discouraged(before, host="5.5.5.5", key=b"k" * 32)
    assert not one.is_discouraged(after, host="5.5.5.5", key=b"k" * 32)
    assert not one.is_discouraged(before, host="5.5.5.5", key=b"l" * 32)
    assert sorted(one.due(after, 2)) == ["ws://1.1.1.1:1", "ws://node.example.org:1"]


def test_other_ports_of_a_discouraged_host_are_not_dialled() -> None:
    one = book()
    one.hear(["ws://1.1.1.1:1", "ws://1.1.1.1:2"], PEER)
    one.discourage(0.0, host="1.1.1.1", key=None, url=None)
    assert one.due(1.0, 2) == []
    assert len(one.due(DISCOURAGED_SECONDS, 2)) == 2


def test_one_peer_on_loopback_does_not_discourage_all_of_this_machine() -> None:
    one = book()
    one.discourage(0.0, host="127.0.0.1", key=b"k" * 32, url=None)
    assert not one.is_discouraged(1.0, host="127.0.0.1")
    assert one.is_discouraged(1.0, host="127.0.0.1", key=b"k" * 32)


def test_a_crowd_of_discouraged_is_bounded_and_the_oldest_go() -> None:
    one = book()
    one.discourage(0.0, host="8.2.0.1", key=b"k" * 32, url=None)
    for n in range(MAX_DISCOURAGED + 10):
        one.discourage(0.0, host=f"8.1.{n // 256}.{n % 256}", key=n.to_bytes(32, "big"), url=None)
        if n == MAX_DISCOURAGED // 2:
            one.discourage(0.0, host="8.2.0.1", key=b"k" * 32, url=None)  # again
    assert not one.is_discouraged(1.0, host="8.1.0.0", key=bytes(32))
    assert one.is_discouraged(1.0, host="8.1.1.0")
    assert one.is_discouraged(1.0, host="8.2.0.1")


# What is told to others, and remembered


def test_private_addresses_are_not_told_to_public_hosts() -> None:
    one = book(["ws://10.0.0.1:1", "ws://127.0.0.1:1", "ws://1.1.1.1:1"])
    assert one.shared(PEER) == []  # not met yet
    for url in one.due(0.0, 3):
        one.met(url, 0.0)
    one.hear(["ws://10.0.0.9:1"], "10.0.0.8")
    assert one.shared(PEER) == ["ws://1.1.1.1:1"]
    assert sorted(one.shared("10.0.0.2")) == [
        "ws://1.1.1.1:1",
        "ws://10.0.0.1:1",
        "ws://10.0.0.9:1",
    ]
    assert sorted(one.shared("127.0.0.1")) == ["ws://1.1.1.1:1", "ws://127.0.0.1:1"]
    assert one.shared("169.254.1.1") == ["ws://1.1.1.1:1"]


def test_so_many_addresses_are_told_and_those_met_first() -> None:
    one = book()
    for source in range(3):
        one.hear([public(source, number) for number in range(100)], f"7.0.0.{source}")
    (url,) = one.due(0.0, 1)
    one.met(url, 0.0)
    told = one.shared(PEER)
    assert len(told) == len(set(told)) == MAX_ADDRESSES
    assert told[0] == url


def test_met_addresses_survive_a_restart_in_their_order() -> None:
    one = book(["ws://10.0.0.1:1"])
    urls = [public(source) for source in range(3)]
    for now, url in enumerate(urls):
        one.hear([url], PEER)
        one.due(float(now), 2)
        one.met(url, float(now))
    one.hear([public(9)], PEER)
    assert one.urls() == urls[::-1]
    again = book(["ws://10.0.0.1:1"], one.urls())
    assert again.urls() == urls[::-1]
    assert len(again) == 4


def test_remembered_addresses_are_bounded_and_bad_ones_passed_over() -> None:
    urls = [public(source) for source in range(150)]
    one = book(["ws://10.0.0.1:1"], ["nonsense", "ws://10.0.0.1:1", *urls, *urls])
    assert one.urls() == urls[:MAX_ADDRESSES]


def test_the_same_events_give_the_same_order() -> None:
    def told(seed: int) -> list[str]:
        one = AddressBook(random=Random(seed))
        for source in range(12):
            one.hear([public(source, number) for number in range(100)], f"7.0.0.{source}")
        return one.due(0.0, 20) + one.shared(PEER)

    assert told(7) == told(7)
    assert sorted(told(7)) != sorted(told(8))


steps = st.lists(
    st.tuples(
        st.sampled_from(["hear", "due", "met", "ended", "discourage", "own", "shared"]),
        st.integers(0, 6),
        st.sampled_from([0.0, 1.0, 100.0, 700.0]),
    ),
    max_size=60,
)


@given(steps)
def test_no_sequence_loses_a_configured_address_or_dials_one_twice(
    script: list[tuple[str, int, float]],
) -> None:
    one, now, dialled = book([public(0), public(1)], [public(2)]), 0.0, set[str]()
    for what, number, seconds in script:
        url, now = public(number), now + seconds
        match what:
            case "hear":
                one.hear([url], f"7.0.0.{number % 2}")
            case "due":
                new = one.due(now, number)
                assert dialled.isdisjoint(new)
                assert len(new) == len(set(new)) <= max(number, 2)
                dialled |= set(new)
            case "met":
                if url in dialled:
                    one.met(url, now)
            case "ended":
                one.ended(url, now)
                dialled.discard(url)
            case "discourage":
                one.discourage(now, host=f"44.0.{number}.0", key=None, url=None)
            case "own" if number > 1:
                one.is_own(url)
            case "shared":
                one.shared(PEER)
        assert public(0) in one
        assert all(known in one for known in dialled)
    for url in dialled:
        one.ended(url, now)
    assert {public(0), public(1)} <= set(one.due(now + 1e6, 100))
