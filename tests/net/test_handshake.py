"""The handshake: honest nodes come together, and no one passes for another."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from cairn.net.handshake import Handshake, KeyIdentity
from cairn.net.limits import PROTOCOL_VERSION
from cairn.net.messages import (
    GetAddresses,
    Head,
    Hello,
    Message,
    Ping,
    Proof,
    Refusal,
    Refused,
    decode,
    encode,
)

GENESIS = b"g" * 32


def identity(number: int) -> KeyIdentity:
    return KeyIdentity(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


ALICE, BOB, MALLORY = identity(1), identity(2), identity(3)


def side(who: KeyIdentity, nonce: int, *, dialled: bool, **changes: Any) -> Handshake:
    settings: dict[str, Any] = {
        "genesis": GENESIS,
        "nonce": bytes([nonce]) * 32,
        "address": "",
        "allowed": lambda key: True,
    }
    return Handshake(who, dialled=dialled, **(settings | changes))


@dataclass
class Link:
    """Alice dials Bob; `said` is what went to and fro, by who said it."""

    alice: Handshake
    bob: Handshake
    said: list[tuple[str, Message]] = field(default_factory=list)

    def run(self) -> None:
        """Pass on all that is said, through the wire form, until nobody has more to say."""
        ahead: list[tuple[str, Message]] = [
            ("alice", self.alice.hello()),
            ("bob", self.bob.hello()),
        ]
        while ahead:
            who, message = ahead.pop(0)
            self.said.append((who, message))
            other, hears = ("bob", self.bob) if who == "alice" else ("alice", self.alice)
            ahead += [(other, answer) for answer in hears.take(decode(encode(message)))]


def link(nonce: int = 1, **changes: Any) -> Link:
    """Return a link with fresh nonces, `nonce` and the one after."""
    return Link(
        side(ALICE, nonce, dialled=True, **changes), side(BOB, nonce + 1, dialled=False, **changes)
    )


def refused(handshake: Handshake, message: Message) -> str:
    """Return the rule by which `handshake` refuses `message`."""
    with pytest.raises(Refusal) as caught:
        handshake.take(message)
    assert not handshake.ready
    assert handshake.peer_key is None
    assert handshake.peer_address == ""
    return caught.value.rule


def proof(answers: list[Message]) -> Proof:
    (answer,) = answers
    assert isinstance(answer, Proof)
    return answer


# Honest nodes


def test_two_nodes_prove_their_keys_to_each_other() -> None:
    both = link(address="wss://node.example:443")
    both.run()
    assert both.alice.ready
    assert both.bob.ready
    assert (both.alice.peer_key, both.bob.peer_key) == (BOB.key, ALICE.key)
    assert both.alice.peer_address == "wss://node.example:443"
    assert [type(message) for _, message in both.said] == [Hello, Hello, Proof, Proof]


def test_hello_says_version_network_key_and_address() -> None:
    hello = side(ALICE, 5, dialled=True, address="ws://10.0.0.1:5000").hello()
    assert hello == Hello(PROTOCOL_VERSION, GENESIS, ALICE.key, b"\5" * 32, "ws://10.0.0.1:5000")


def test_nothing_is_believed_before_the_proof() -> None:
    both = link(address="ws://10.0.0.1:5000")
    both.alice.take(both.bob.hello())
    assert not both.alice.ready
    assert both.alice.peer_key is None
    assert both.alice.peer_address == ""


def test_two_links_between_the_same_nodes_need_proofs_of_their_own() -> None:
    first, second = link(1), link(3)
    first.run()
    second.run()
    assert {m for _, m in first.said}.isdisjoint(m for _, m in second.said)


def test_a_signature_is_over_all_that_the_format_names() -> None:
    both = link()
    both.run()
    made = [message for who, message in both.said if who == "alice"][1]
    assert isinstance(made, Proof)
    signed = (
        *(b"cairn/peer/1", GENESIS, b"\0", ALICE.key, BOB.key),
        *(both.alice.hello().nonce, both.bob.hello().nonce),
    )
    assert BOB.verify(ALICE.key, made.signature, b"".join(signed))


def test_a_key_on_the_allow_list_is_let_in() -> None:
    both = link()
    both.bob = side(BOB, 2, dialled=False, allowed=lambda key: key == ALICE.key)
    both.run()
    assert both.bob.ready


# Who is not welcome


def test_another_genesis_is_refused() -> None:
    stranger = side(MALLORY, 7, dialled=True, genesis=b"h" * 32)
    assert refused(link().bob, stranger.hello()) == "genesis"


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1, 2**63 - 1])
def test_another_version_is_refused(version: int) -> None:
    hello = msgspec.structs.replace(link().alice.hello(), version=version)
    assert refused(link().bob, hello) == "version"


def test_version_is_judged_before_genesis_and_genesis_before_key() -> None:
    hello = Hello(PROTOCOL_VERSION + 1, b"h" * 32, BOB.key, b"n" * 32, "")
    assert refused(link().bob, hello) == "version"
    hello = Hello(PROTOCOL_VERSION, b"h" * 32, BOB.key, b"n" * 32, "")
    assert refused(link().bob, hello) == "genesis"


def test_our_own_key_is_refused_on_both_ends_of_a_link_to_ourselves() -> None:
    dials, listens = side(ALICE, 1, dialled=True), side(ALICE, 2, dialled=False)
    assert refused(dials, listens.hello()) == "self"
    assert refused(listens, dials.hello()) == "self"


def test_a_key_that_is_not_on_the_allow_list_is_refused_before_anything_is_signed() -> None:
    bob = side(BOB, 2, dialled=False, allowed=lambda key: key == ALICE.key)
    assert refused(bob, side(MALLORY, 1, dialled=True).hello()) == "not-allowed"


def test_a_claimed_key_of_the_allow_list_is_refused_without_its_proof() -> None:
    bob = side(BOB, 2, dialled=False, allowed=lambda key: key == ALICE.key)
    hello = msgspec.structs.replace(side(MALLORY, 1, dialled=True).hello(), key=ALICE.key)
    bob.take(hello)
    assert refused(bob, Proof(MALLORY.sign(b"anything"))) == "signature"


# Out of order


def test_a_proof_before_hello_is_refused() -> None:
    assert refused(link().bob, Proof(b"s" * 64)) == "order"


def test_a_second_hello_is_refused() -> None:
    both = link()
    both.bob.take(both.alice.hello())
    assert refused(both.bob, both.alice.hello()) == "order"
    assert refused(both.bob, side(MALLORY, 9, dialled=True).hello()) == "order"


@pytest.mark.parametrize(
    "message", [Head(b"h" * 104, b"w" * 32), Ping(1), GetAddresses(), Refused("genesis", "")]
)
def test_other_messages_are_refused_before_the_key_is_proven(message: Message) -> None:
    both = link()
    assert refused(both.bob, message) == "order"
    both.bob.take(both.alice.hello())
    assert refused(both.bob, message) == "order"


def test_a_second_proof_is_refused() -> None:
    both = link()
    both.run()
    for _, message in both.said:
        with pytest.raises(Refusal, match="order"):
            both.bob.take(message)


# Who passes for another


def test_a_replayed_handshake_is_refused() -> None:
    """One who has listened says what Alice said then: Bob's nonce is another now."""
    recorded = link()
    recorded.run()
    hello, proved = (message for who, message in recorded.said if who == "alice")
    bob = side(BOB, 99, dialled=False)
    bob.take(hello)
    assert refused(bob, proved) == "signature"


def test_a_replayed_handshake_is_refused_by_one_who_dials() -> None:
    recorded = link()
    recorded.run()
    hello, proved = (message for who, message in recorded.said if who == "bob")
    alice = side(ALICE, 99, dialled=True)
    alice.take(hello)
    assert refused(alice, proved) == "signature"


def test_reflection_of_our_own_hello_is_refused() -> None:
    alice = link().alice
    assert refused(alice, alice.hello()) == "self"


@pytest.mark.parametrize("dialled", [True, False])
def test_reflection_of_our_own_proof_is_refused(dialled: bool) -> None:
    alice = side(ALICE, 1, dialled=dialled)
    hello = side(BOB, 2, dialled=not dialled).hello()
    assert refused(alice, proof(alice.take(hello))) == "signature"


@pytest.mark.parametrize("dialled", [True, False])
def test_reflection_of_our_own_nonce_and_proof_is_refused(dialled: bool) -> None:
    """With equal nonces, only keys and roles tell the two signatures apart."""
    alice = side(ALICE, 1, dialled=dialled)
    hello = side(BOB, 1, dialled=not dialled).hello()
    assert refused(alice, proof(alice.take(hello))) == "signature"


def test_swapped_roles_are_refused() -> None:
    """Mallory dials Alice and Bob, who each think that the other has dialled."""
    alice, bob = side(ALICE, 1, dialled=False), side(BOB, 2, dialled=False)
    proved = proof(bob.take(alice.hello()))
    alice.take(bob.hello())
    assert refused(alice, proved) == "signature"


def test_swapped_roles_are_refused_where_both_dial() -> None:
    alice, bob = side(ALICE, 1, dialled=True), side(BOB, 2, dialled=True)
    proved = proof(bob.take(alice.hello()))
    alice.take(bob.hello())
    assert refused(alice, proved) == "signature"


def test_a_signature_by_another_key_is_refused() -> None:
    both = link()
    forger = side(MALLORY, 1, dialled=True)
    both.bob.take(both.alice.hello())
    assert refused(both.bob, proof(forger.take(both.bob.hello()))) == "signature"


def test_a_proof_made_for_another_node_is_refused() -> None:
    """Alice dials Mallory, who shows her proof to Bob under Bob's own nonce."""
    bob = side(BOB, 2, dialled=False)
    alice = side(ALICE, 1, dialled=True)
    mallory = msgspec.structs.replace(bob.hello(), key=MALLORY.key)
    proved = proof(alice.take(mallory))
    bob.take(alice.hello())
    assert refused(bob, proved) == "signature"


def test_a_proof_made_for_another_network_is_refused() -> None:
    elsewhere = link(genesis=b"h" * 32)
    elsewhere.run()
    proved = next(m for who, m in elsewhere.said if who == "alice" and isinstance(m, Proof))
    both = link()
    both.bob.take(both.alice.hello())
    assert refused(both.bob, proved) == "signature"


@pytest.mark.parametrize("name", ["nonce", "key"])
def test_a_hello_that_was_changed_on_its_way_is_refused(name: str) -> None:
    both = link()
    changed = {name: MALLORY.key if name == "key" else b"x" * 32}
    both.bob.take(msgspec.structs.replace(both.alice.hello(), **changed))
    proved = proof(both.alice.take(both.bob.hello()))
    assert refused(both.bob, proved) == "signature"


def test_every_flipped_bit_of_a_proof_is_refused() -> None:
    both = link()
    both.bob.take(both.alice.hello())
    signature = proof(both.alice.take(both.bob.hello())).signature
    for at in range(8 * len(signature)):
        changed = bytearray(signature)
        changed[at // 8] ^= 1 << at % 8
        assert refused(both.bob, Proof(bytes(changed))) == "signature", at
    assert both.bob.take(Proof(signature)) == []
    assert both.bob.ready


@pytest.mark.parametrize("key", [b"\0" * 32, b"\1" + b"\0" * 31, b"\xff" * 32, b"\2" + b"\0" * 31])
def test_a_key_that_is_none_is_refused(key: bytes) -> None:
    bob = link().bob
    bob.take(msgspec.structs.replace(link().alice.hello(), key=key))
    assert refused(bob, Proof(b"s" * 64)) == "signature"
    assert not ALICE.verify(b"short", b"s" * 64, b"")


P = 2**255 - 19


def small_order() -> list[bytes]:
    """Return all encodings of points of order 1, 2, 4 and 8: those of y, with either sign.

    -x^2 + y^2 = 1 + d x^2 y^2. Order 1 and 2: y = 1 and -1. Order 4: y = 0. Order 8: doubled, they
    have y = 0, so y^2 = -x^2 and d y^4 + 2 y^2 = 1. What is below 2^255 - p has two encodings.
    """
    d = -121665 * pow(121666, -1, P) % P
    root = next(r for r in square_roots(1 + d) if square_roots((r - 1) * pow(d, -1, P)))
    ys = [1, P - 1, 0, *square_roots((root - 1) * pow(d, -1, P))]
    encoded = [*ys, *(y + P for y in ys if y < 19)]
    return [(y + sign * 2**255).to_bytes(32, "little") for y in encoded for sign in (0, 1)]


def square_roots(n: int) -> list[int]:
    """Return the square roots of `n` mod p, if there are any: p is 5 mod 8."""
    root = pow(n, (P + 3) // 8, P)
    found = [r for r in (root, root * pow(2, (P - 1) // 4, P) % P) if r * r % P == n % P]
    return [found[0], P - found[0]] if found else []


def forged(key: bytes, message: bytes) -> bytes | None:
    """Return a signature by a key that nobody has, if one of a few happens to pass."""
    for point in small_order():
        with suppress(InvalidSignature, ValueError):
            Ed25519PublicKey.from_public_bytes(key).verify(point + bytes(32), message)
            return point + bytes(32)
    return None


@pytest.mark.parametrize("key", small_order(), ids=bytes.hex)
def test_a_key_that_needs_no_private_key_is_refused(key: bytes) -> None:
    messages = [bytes([n]) for n in range(50)]
    forgeries = [(m, signature) for m in messages if (signature := forged(key, m))]
    assert forgeries, "the library refuses it by itself"
    assert not any(ALICE.verify(key, signature, message) for message, signature in forgeries)


@given(
    st.lists(
        st.one_of(
            st.sampled_from([Ping(1), Proof(b"s" * 64), link().alice.hello(), link().bob.hello()]),
            st.builds(Hello, st.just(1), st.just(GENESIS), st.binary(min_size=32, max_size=32),
                      st.just(b"n" * 32), st.just("")),
            st.builds(Proof, st.binary(min_size=64, max_size=64)),
        ),
        max_size=5,
    )
)  # fmt: skip
def test_no_sequence_of_messages_without_a_key_makes_a_peer(messages: list[Message]) -> None:
    bob = link().bob
    rules = {rule_of(bob, message) for message in messages} - {None}
    assert rules <= {"genesis", "self", "signature", "order"}
    assert not bob.ready


def rule_of(handshake: Handshake, message: Message) -> str | None:
    try:
        handshake.take(message)
    except Refusal as refusal:
        return refusal.rule
    return None
