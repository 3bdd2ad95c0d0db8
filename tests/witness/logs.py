"""Logs, honest and forked, and what is known of every head that a witness has cosigned."""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cairn.proof.checkpoint import Checkpoint
from cairn.proof.memory import Memory
from cairn.proof.note import Algorithm, Note, SigningKey, VerifierKey
from cairn.proof.witness import Answer, Request, cosignatures
from tests.core import rfc9162

ORIGIN: Final = "log.example/a"


def new_key(name: str, algorithm: Algorithm = Algorithm.ED25519) -> SigningKey:
    return SigningKey(name, algorithm, Ed25519PrivateKey.generate())


def leaf(fork: int, index: int) -> bytes:
    return sha256(b"\x00%d of fork %d" % (index, fork)).digest()


@dataclass(frozen=True)
class Log:
    """A log, the leaves of which are known. Its key signs any tree that it is asked to."""

    key: SigningKey
    leaves: tuple[bytes, ...]
    """Their hashes."""

    @classmethod
    def of(cls, size: int, *, key: SigningKey | None = None) -> Log:
        return cls(key or new_key(ORIGIN), tuple(leaf(0, i) for i in range(size)))

    def forked(self, at: int, *, fork: int = 1) -> Log:
        """Return one with the same key and other leaves from position `at` on."""
        others = tuple(leaf(fork, i) for i in range(at, len(self.leaves)))
        return Log(self.key, self.leaves[:at] + others)

    @property
    def origin(self) -> str:
        return self.key.verifier.name

    @property
    def size(self) -> int:
        return len(self.leaves)

    @cached_property
    def _mth(self) -> rfc9162.Mth:
        return rfc9162.mth(self.leaves)

    def root(self, size: int) -> bytes:
        return self._mth(range(size))

    def proof(self, old: int, new: int) -> list[bytes]:
        return rfc9162.proof(old, range(new), self._mth) if 0 < old < new else []

    def checkpoint(self, size: int, *extensions: str) -> Note:
        text = Checkpoint(self.origin, size, self.root(size)).text
        text += "".join(f"{line}\n" for line in extensions)
        return Note(text, (self.key.sign(text),))

    def request(self, old: int, new: int) -> bytes:
        """Return the request that is right for a witness that is at `old`."""
        return Request(old, tuple(self.proof(old, new)), self.checkpoint(new)).body


class Head(NamedTuple):
    """What a witness has said of one log."""

    size: int
    root: bytes
    time: int
    """Seconds since the epoch."""


@dataclass
class Cosigned:
    """Every head that one witness has cosigned, of forks of one log."""

    logs: Sequence[Log]
    keys: tuple[VerifierKey, ...]
    heads: list[Head] = field(default_factory=list)

    def note(self, body: bytes, answer: bytes) -> Head:
        """Note what was cosigned; the signature is checked."""
        note = Request.parse(body).note
        (cosignature,) = cosignatures(answer, note, self.keys)
        return self._note(Note(note.text, (cosignature,)))

    def note_shown(self, note: str) -> Head:
        """The same for what monitors are shown."""
        return self._note(Note.parse(note))

    def _note(self, note: Note) -> Head:
        ((_, time),) = note.verified(self.keys).items()
        checkpoint = Checkpoint.parse(note.text)
        head = Head(checkpoint.size, checkpoint.root, time)
        self.heads.append(head)
        return head

    def check(self) -> None:
        """Check that any two are of one tree, and that the larger is not dated earlier."""
        last = max(self.heads, default=None, key=lambda head: head.size)
        if last is None:
            return
        whole = next(log for log in self.logs if self._is_of(last, log))
        for head in self.heads:  # all begin the largest one: so each begins every larger one
            assert head.root == whole.root(head.size), f"{head} is not of the tree of {last}"
        for before, after in itertools.pairwise(sorted(self.heads, key=lambda h: (h.size, h.time))):
            assert before.time <= after.time, f"{after} is dated before {before}"

    @staticmethod
    def _is_of(head: Head, log: Log) -> bool:
        return head.size <= log.size and log.root(head.size) == head.root


class Volatile(Memory):
    """A memory that lasts as long as the object, for many thousand requests."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}

    def last(self, origin: str) -> str | None:
        return self.notes.get(origin)

    def replace(self, origin: str, before: str | None, note: str) -> bool:
        if self.notes.get(origin) != before:
            return False
        self.notes[origin] = note
        return True


def lines(answer: Answer) -> list[str]:
    return answer.body.decode().splitlines()


def body_of(old: str, proof: Sequence[bytes], note: object) -> bytes:
    """Return a request as the specification writes it, from parts that may be wrong."""
    encoded = [b64encode(sibling).decode() for sibling in proof]
    return "\n".join([f"old {old}", *encoded, "", str(note)]).encode()
