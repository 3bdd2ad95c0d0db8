"""Mirrors: checkpoint and tiles of a reference, checked whole; and every way to damage them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from cairn.core.block import Block
from cairn.core.entry import Entry
from cairn.core.erasure import Erasure
from cairn.core.errors import ProofError
from cairn.core.header import Header, Kind
from cairn.core.rules import InvalidChainError
from cairn.proof.checkpoint import Policy, SignedCheckpoint
from cairn.proof.mirror import check_mirror
from cairn.proof.note import UnknownSignerError, VerifierKey
from tests.builders import block, chain
from tests.core.reference import leaf, put, tree
from tests.interop import reference
from tests.interop.reference import Signer

BLOCKS = chain(*range(300), ("of", "a", "batch"), {"last": True}, *range(302, 700))
HEADERS = [block.header.pack() for block in BLOCKS]
SIGNER = Signer.of(f"cairn/{leaf(HEADERS[0]).hex()}")
POLICY = Policy((VerifierKey.parse(SIGNER.vkey),))
SIZE = 600
"""Two full tiles, a partial one, and one above them."""
FILES = reference.log(HEADERS[:SIZE], SIGNER)

Files = dict[str, bytes]


def check(
    files: Files, blocks: Iterable[Block] | None = None, policy: Policy = POLICY
) -> SignedCheckpoint:
    asked: set[str] = set()

    def read(path: str, most: int) -> bytes:
        assert path not in asked, f"{path} is read twice: it may be another then"
        asked.add(path)
        if path not in files:
            raise ProofError(f"the mirror has no {path}")
        return files[path][: most + 1]

    return check_mirror(read, policy, blocks)


def refused(files: Files, *names: str, blocks: Iterable[Block] | None = None) -> str:
    """Check that a mirror is refused, by a message that has one of these names in it."""
    with pytest.raises((ProofError, InvalidChainError)) as caught:
        check(files, blocks)
    message = str(caught.value)
    assert not names or any(name in message for name in names), message
    return message


def relogged(headers: Sequence[bytes], signer: Signer = SIGNER) -> Files:
    """Return the log of other headers, all of which agrees and is signed."""
    return reference.log(headers, signer)


@pytest.mark.parametrize("size", [*range(1, 9), 255, 256, 257, 511, 512, 513, 699])
def test_mirror_of_the_reference_is_what_was_signed(size: int) -> None:
    for blocks in (None, BLOCKS[:size]):
        signed = check(relogged(HEADERS[:size]), blocks)
        assert (signed.checkpoint.size, signed.checkpoint.origin) == (size, SIGNER.name)
        assert signed.checkpoint.root == tree([leaf(header) for header in HEADERS[:size]])
        assert [str(key) for key in signed.log_keys] == [SIGNER.vkey]


@pytest.mark.parametrize("path", FILES)
def test_missing_file_is_named(path: str) -> None:
    refused({name: data for name, data in FILES.items() if name != path}, path)


@pytest.mark.parametrize("path", FILES)
def test_cut_or_longer_file_is_named(path: str) -> None:
    data = FILES[path]
    unit = 106 if "entries" in path else 32
    for changed in (b"", data[:-1], data[:-unit], data + b"\0", data + bytes(unit), data + data):
        if changed != data:
            refused(FILES | {path: changed}, path)


@pytest.mark.parametrize("path", [path for path in FILES if path != "checkpoint"])
def test_flipped_bit_of_a_tile_is_named(path: str) -> None:
    choose = random.Random(path)
    for at in [0, 1, 2, 31, 32, *(choose.randrange(len(FILES[path])) for _ in range(20)), -1]:
        data = bytearray(FILES[path])
        data[at] ^= 1 << choose.randrange(8)
        refused(FILES | {path: bytes(data)}, path)


def test_flipped_bit_of_the_checkpoint_is_refused() -> None:
    data = FILES["checkpoint"]
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        refused(FILES | {"checkpoint": bytes(changed)}, "checkpoint", "no trusted key")


def test_swapped_tiles_are_named() -> None:
    for kind in ("entries", "0"):
        one, other = f"tile/{kind}/000", f"tile/{kind}/001"
        refused(FILES | {one: FILES[other], other: FILES[one]}, one)


def test_swapped_bundles_with_their_hashes_are_refused() -> None:
    """All that lies on the lowest level agrees: the links do not, nor the level above."""
    swapped = dict(FILES)
    for kind in ("entries", "0"):
        one, other = f"tile/{kind}/000", f"tile/{kind}/001"
        swapped |= {one: FILES[other], other: FILES[one]}
    assert "breaks rule" in refused(swapped)


def test_changed_last_block_with_its_hash_is_refused() -> None:
    """Nothing links to it: it is the root that tells."""
    header = put(HEADERS[SIZE - 1], "timestamp", 2**62)
    changed = relogged([*HEADERS[: SIZE - 1], header])
    refused(changed | {"checkpoint": FILES["checkpoint"]}, "root")


def test_mirror_that_is_older_or_newer_than_its_checkpoint_is_refused() -> None:
    for size in (SIZE - 1, SIZE + 1, 256, 700):
        other = relogged(HEADERS[:size])
        refused(other | {"checkpoint": FILES["checkpoint"]}, "the mirror has no tile/")
        refused(FILES | {"checkpoint": other["checkpoint"]}, "the mirror has no tile/", "root")


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("index", 7, "index"),
        ("previous_hash", b"\1" * 32, "link"),
        ("timestamp", 1, "timestamp"),
        ("version", 2, "version"),
        ("kind", 77, "kind"),
        ("bits", 0x1D00FFFF, "work"),
    ],
)
def test_signed_chain_that_breaks_a_rule_is_refused(
    field: str, value: int | bytes, rule: str
) -> None:
    """The signer may be the one who lies: headers are held to the rules all the same."""
    headers = HEADERS[:20]
    headers[9] = put(headers[9], field, value)
    assert f"block 9 breaks rule '{rule}'" in refused(relogged(headers))


def test_signed_chain_with_another_genesis_than_its_origin_says_is_refused() -> None:
    other = Signer.of(f"cairn/{'ab' * 32}")
    policy = Policy((VerifierKey.parse(other.vkey),))
    with pytest.raises(ProofError, match="block 0 is not the genesis of ledger abab"):
        check(relogged(HEADERS[:5], other), policy=policy)
    nameless = Signer.of("example.com/log")
    policy = Policy((VerifierKey.parse(nameless.vkey),))
    with pytest.raises(ProofError, match="not the origin of a ledger"):
        check(relogged(HEADERS[:5], nameless), policy=policy)


def test_stranger_s_signature_is_refused_and_named() -> None:
    stranger = Signer.of(SIGNER.name, b"\1" * 32)
    with pytest.raises(UnknownSignerError, match=stranger.vkey.split("+")[1]):
        check(relogged(HEADERS[:5], stranger))


def test_data_is_held_to_the_headers() -> None:
    other = chain(*range(1000, 999 + SIZE))
    given = {
        "another ledger": other,
        "a block changed": [*BLOCKS[:7], other[7], *BLOCKS[8:SIZE]],
        "two blocks swapped": [BLOCKS[0], BLOCKS[2], BLOCKS[1], *BLOCKS[3:SIZE]],
        "one left out": [*BLOCKS[:5], *BLOCKS[6:SIZE]],
        "one twice": [*BLOCKS[:5], BLOCKS[4], *BLOCKS[5:SIZE]],
    }
    for what, blocks in given.items():
        message = refused(FILES, blocks=blocks)
        assert "of the data is not the one that was signed" in message, what
    assert "the data ends before block 0" in refused(FILES, blocks=[])
    assert "the data ends before block 599" in refused(FILES, blocks=BLOCKS[: SIZE - 1])
    assert "goes on after the 600 blocks" in refused(FILES, blocks=BLOCKS[: SIZE + 1])


def test_changed_entry_below_a_right_header_is_refused() -> None:
    """Of a value and of a batch, also where the block claims its right hash."""
    for at, rule in ((5, "size"), (301, "data_root")):
        entries = list(BLOCKS[at].entries)
        entries[-1] = entries[-1]._replace(
            canonical=b"9" * (len(entries[-1].canonical) + (at == 5))
        )
        lying = Block(BLOCKS[at].header, BLOCKS[at].stored_hash, tuple(entries))
        blocks = [*BLOCKS[:at], lying, *BLOCKS[at + 1 : SIZE]]
        assert f"block {at} breaks rule '{rule}'" in refused(FILES, blocks=blocks)


def test_any_104_bytes_are_a_header_and_none_crashes_the_check() -> None:
    choose = random.Random(5)
    for _ in range(200):
        header = choose.randbytes(104)
        Header.unpack(header)
        refused(relogged([*HEADERS[:3], header]))


def erased(block: Block) -> Block:
    """Return the block as it is when its value was removed."""
    entry = block.entries[0].to_bytes()
    return replace(block, entries=(Entry.from_bytes(bytes(len(entry))),))


def test_value_that_was_removed_without_a_record_is_missed() -> None:
    blocks = [erased(block) if block.index == 7 else block for block in BLOCKS[:SIZE]]
    assert "block 7 was removed" in refused(FILES, blocks=blocks)


@pytest.mark.parametrize(("said", "at"), [(7, 7), (8, 7), (7, 20)])
def test_value_that_was_removed_needs_a_record_of_it_and_after_it(said: int, at: int) -> None:
    """The record is block 12."""
    data_root = BLOCKS[7].header.data_root
    values = [*range(11), "record", *range(12, 30)]
    blocks = chain(*values)
    record = Erasure(said, blocks[said].header.data_root, "because").to_value()
    salt = iter([bytes(16)])
    made = block(Kind.RECORD, [record], blocks[11], salt)
    rest = [made]
    for after in blocks[13:]:
        entry = after.entries[0]
        header = replace(after.header, previous_hash=rest[-1].stored_hash)
        rest.append(Block(header, header.hash, (entry,)))
    blocks = [*blocks[:12], *rest]
    assert data_root == blocks[7].header.data_root
    signer = Signer.of(f"cairn/{blocks[0].hash}")
    policy = Policy((VerifierKey.parse(signer.vkey),))
    files = relogged([each.header.pack() for each in blocks], signer)
    given = [erased(each) if each.index == at else each for each in blocks]
    if (said, at) == (7, 7):
        check(files, given, policy)
    else:
        with pytest.raises(ProofError, match=f"block {at} was removed"):
            check(files, given, policy)
