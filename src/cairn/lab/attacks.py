"""The attacks of the README's table, by name, each performed on a real store."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

from cairn.core.block import Block
from cairn.core.entry import SALT_BYTES
from cairn.core.errors import ProofError
from cairn.core.proofs import check_consistency
from cairn.lab.tampering import Forgery, forging, rechain
from cairn.ledger import Ledger
from cairn.proof.checkpoint import Checkpoint
from cairn.proof.keyring import Keyring
from cairn.proof.memory import Memory
from cairn.proof.note import Algorithm
from cairn.proof.witness import Request, Witness

TARGET: Final = 3
"""The block in the middle that attacks aim at."""
LENGTH: Final = 7
"""Blocks of the ledger that is attacked: some before the target, some after."""


@dataclass(frozen=True)
class Attack:
    """A way to change stored history."""

    name: str
    perform: Callable[[list[Forgery]], None]
    """Changes the list of stored blocks in place."""
    cover_tracks: bool = False
    """Whether the attacker also corrects the store's record of where the chain ends."""


class Outcome(NamedTuple):
    """What became of an attack."""

    attack: str
    caught_by: str | None
    """None: not caught."""
    what: str = ""
    """What was found."""


class Fork(NamedTuple):
    """Two histories of one ledger, for two people."""

    blocks: tuple[Block, ...]
    """The last block of each; what comes before is the same."""
    checkpoints: tuple[Checkpoint, Checkpoint]
    """What was signed for each."""
    outcomes: tuple[Outcome, Outcome]
    """Who finds out."""


def attacks() -> Iterator[Attack]:
    """Yield every attack, the plain ones first."""
    for place, index in (("genesis", 0), (f"block {TARGET}", TARGET), ("the last block", -1)):
        for name, field in _EDITS.items():
            yield Attack(f"{name} of {place}", _edit(index, field))
    yield Attack(f"edit the data of block {TARGET} and recompute its hash", _edit_rehash(TARGET))
    yield Attack("edit the data of genesis and recompute its hash", _edit_rehash(0))
    yield Attack("edit the last block and recompute its hash", _edit_rehash(-1))
    yield Attack(f"remove the entry of block {TARGET} without a record", _edit(TARGET, _remove))
    yield Attack(f"swap blocks {TARGET} and {TARGET + 1}", _swap)
    yield Attack(f"insert a copy of block {TARGET} after it", _insert)
    yield Attack(f"delete block {TARGET}", _delete)
    yield Attack("cut off the last two blocks", _truncate)
    yield Attack("cut off the end, and the record of it", _truncate, cover_tracks=True)
    yield Attack(
        "edit the last block, its hash and the record", _edit_rehash(-1), cover_tracks=True
    )
    yield Attack(f"rewrite block {TARGET} and re-chain all after it", _rewrite, cover_tracks=True)
    yield Attack("replace the whole chain by another", _replace, cover_tracks=True)


def perform_all() -> Iterator[Outcome]:
    """Build a small ledger on disk, and sign it; for each attack, tamper with a copy and validate.

    The attacker has the disk with the ledger, and not that with the keys and what was signed. In
    the end, the one who signs is the attacker.
    """
    with tempfile.TemporaryDirectory(prefix="cairn-demo-") as folder:
        original, keyring = Path(folder) / "original", Keyring(Path(folder) / "keys")
        with Ledger.open(original, keyring=keyring) as ledger:
            ledger.extend({"step": i, "did": "laid a stone"} for i in range(1, LENGTH))
            ledger.checkpoint()
        for number, attack in enumerate(attacks()):
            copy = Path(folder) / str(number)
            shutil.copytree(original, copy)
            with forging(copy, cover_tracks=attack.cover_tracks) as blocks:
                attack.perform(blocks)
            with Ledger.open(copy, read_only=True, keyring=keyring) as ledger:
                failure = ledger.validate().failure
            if failure is None:
                yield Outcome(attack.name, None)
            else:
                yield Outcome(attack.name, failure.rule, f"at block {failure.index}")
        fork = show_two_histories(lambda to: shutil.copytree(original, to), keyring, Path(folder))
        yield from fork.outcomes


def show_two_histories(copy_to: Callable[[Path], object], keyring: Keyring, folder: Path) -> Fork:
    """Show two people two histories of a ledger, both signed with its own key.

    `copy_to` makes a copy of the ledger, which `keyring` has signed, in a directory in `folder`.
    """
    notes, blocks = [], []
    for name in ("one", "other"):
        copy, own = folder / f"for {name}", Keyring(folder / f"keys for {name}")
        copy_to(copy)
        shutil.copytree(keyring.folder / "keys", own.folder / "keys")
        with Ledger.open(copy, keyring=own) as ledger:
            blocks.append(ledger.append({"paid": f"to the {name}"}))
            notes.append(ledger.published())
    mine, theirs = (Checkpoint.parse(note.text) for note in notes)
    attack = "show two people different histories, signed with the ledger's own key"
    try:
        check_consistency([], mine.size, theirs.size, mine.root, theirs.root)
    except ProofError:
        by_clients = Outcome(attack, "clients", "who compare what they were shown")
    else:
        by_clients = Outcome(attack, None)
    witness = Witness(
        Keyring(folder / "witness").signing_key("witness.example", Algorithm.COSIGNATURE),
        {mine.origin: keyring.trusted(mine.origin)},
        Memory(folder / "witness" / "cosigned.sqlite"),
        folder / "witness" / "evidence",
    )
    asked = (Request(0, (), notes[0]), Request(mine.size, (), notes[1]))
    answers = [witness.add_checkpoint(request.body).status for request in asked]
    if answers == [HTTPStatus.OK, HTTPStatus.UNPROCESSABLE_ENTITY]:
        by_witness = Outcome(attack, "a witness", "which cosigns the first, and no other")
    else:
        by_witness = Outcome(attack, None)
    return Fork(tuple(blocks), (mine, theirs), (by_clients, by_witness))


def _edit(index: int, change: Callable[[Forgery], None]) -> Callable[[list[Forgery]], None]:
    return lambda blocks: change(blocks[index])


def _edit_data(block: Forgery) -> None:
    """Change what is recorded to something as long and as plausible."""
    salt, text = block.entries[0][:SALT_BYTES], block.entries[0][SALT_BYTES:]
    block.entries[0] = salt + text.replace(b"stone", b"money").replace(b"original", b"backdate")


def _edit_salt(block: Forgery) -> None:
    block.entries[0] = bytes(SALT_BYTES) + block.entries[0][SALT_BYTES:]


def _remove(block: Forgery) -> None:
    """Leave what an erasure leaves."""
    block.entries[0] = bytes(len(block.entries[0]))


def _edit_hash(block: Forgery) -> None:
    block.hash = bytes([block.hash[0] ^ 1]) + block.hash[1:]


def _add_to(field: str) -> Callable[[Forgery], None]:
    return lambda block: block.change(**{field: getattr(block.header, field) + 1})


def _flip_in(field: str) -> Callable[[Forgery], None]:
    def change(block: Forgery) -> None:
        value: bytes = getattr(block.header, field)
        block.change(**{field: value[:-1] + bytes([value[-1] ^ 1])})

    return change


_EDITS: Final = {
    "edit the data": _edit_data,
    "edit the salt": _edit_salt,
    "edit the stored hash": _edit_hash,
    **{f"edit the {f}": _flip_in(f) for f in ("previous_hash", "data_root")},
    **{
        f"edit the {f}": _add_to(f)
        for f in ("version", "kind", "bits", "index", "timestamp", "count", "size", "nonce")
    },
}


def _edit_rehash(index: int) -> Callable[[list[Forgery]], None]:
    def perform(blocks: list[Forgery]) -> None:
        _edit_data(blocks[index])
        blocks[index].rehash()

    return perform


def _swap(blocks: list[Forgery]) -> None:
    blocks[TARGET], blocks[TARGET + 1] = blocks[TARGET + 1], blocks[TARGET]


def _insert(blocks: list[Forgery]) -> None:
    blocks.insert(TARGET + 1, deepcopy(blocks[TARGET]))


def _delete(blocks: list[Forgery]) -> None:
    del blocks[TARGET]


def _truncate(blocks: list[Forgery]) -> None:
    del blocks[-2:]


def _rewrite(blocks: list[Forgery]) -> None:
    _edit_data(blocks[TARGET])
    rechain(blocks)


def _replace(blocks: list[Forgery]) -> None:
    for block in blocks[1:]:
        block.entries[0] = bytes(SALT_BYTES) + b'"nothing to see"'
    rechain(blocks)
