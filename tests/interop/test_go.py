"""Programs in Go that are not Cairn's: they check whole logs, notes, cosignatures and proofs.

That they can refuse is shown on the reference; then they are given what Cairn makes.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cairn.core.proofs import prove_consistency, prove_inclusion
from cairn.lab.tampering import forging
from tests.core.reference import leaf, tree
from tests.interop import programs, reference
from tests.interop.ledgers import Tree, grown, made, tree_of, wait_for_checkpoint
from tests.interop.programs import RefusedError
from tests.interop.reference import COSIGNATURE, Signer
from tests.service.harness import Server, cairn, running, start

pytestmark = pytest.mark.skipif(programs.GO is None, reason="Go is not installed")

LOG = Signer.of("cairn/" + "0123456789abcdef" * 4)
SIZE = 600
"""Two full tiles, a partial one, and one above them."""


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    programs.build()


def checked(files: dict[str, bytes], folder: Path, signer: Signer = LOG) -> Tree:
    """Have the log of `files` checked from a folder."""
    return programs.fsck(reference.write(files, folder / "log").as_uri(), signer.vkey, folder)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of `folder`, and yield the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# That the reference is a log, and that what is not one is refused


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 70_000])
def test_log_of_the_reference_is_right_in_all_parts(size: int, tmp_path: Path) -> None:
    headers = made(size)
    assert checked(reference.log(headers, LOG), tmp_path) == tree_of(headers)


def test_served_log_is_right_in_all_parts(tmp_path: Path) -> None:
    folder = reference.write(reference.log(made(SIZE), LOG), tmp_path / "log")
    with served(folder) as url:
        assert programs.fsck(url, LOG.vkey, tmp_path) == tree_of(made(SIZE))
        (folder / "tile/0/001").unlink()
        with pytest.raises(RefusedError, match="file does not exist"):
            programs.fsck(url, LOG.vkey, tmp_path)


def test_flipped_bit_in_any_byte_of_tiles_and_bundles_is_refused(tmp_path: Path) -> None:
    files = reference.log(made(1), LOG)
    for path in ("tile/0/000.p/1", "tile/entries/000.p/1"):
        for at in range(len(files[path])):
            with pytest.raises(RefusedError):
                checked(files | {path: flipped(files[path], at, at % 8)}, tmp_path)


@pytest.mark.parametrize("at", [0, 1, 32, -1])
def test_flipped_bit_of_any_file_is_refused(at: int, tmp_path: Path) -> None:
    files = reference.log(made(SIZE), LOG)
    assert len(files) == 8
    for path, data in files.items():
        with pytest.raises(RefusedError):
            checked(files | {path: flipped(data, at, 0)}, tmp_path)


def flipped(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("path", reference.tiles(made(SIZE)))
def test_missing_file_is_refused(path: str, tmp_path: Path) -> None:
    files = reference.log(made(SIZE), LOG)
    del files[path]
    with pytest.raises(RefusedError):
        checked(files, tmp_path)


@pytest.mark.parametrize("path", reference.tiles(made(SIZE)))
def test_cut_file_is_refused(path: str, tmp_path: Path) -> None:
    files = reference.log(made(SIZE), LOG)
    unit = 106 if "entries" in path else 32
    for cut in (1, unit):
        with pytest.raises(RefusedError):
            checked(files | {path: files[path][:-cut]}, tmp_path)


def test_checkpoint_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    files = reference.log(made(SIZE), LOG)
    text, _, signature = files["checkpoint"].decode().partition("\n\n")
    origin, size, root = text.split("\n")
    wrong = reference.Signer.of(LOG.name, b"\x01" * 32)
    for lie in (
        [origin, size, b64encode(bytes(32)).decode()],
        [origin, str(SIZE - 1), root],
        [origin, str(SIZE + 1), root],
        [LOG.name[:-1] + "0", size, root],
    ):
        said = "\n".join(lie) + "\n"
        unsigned = reference.note(said, signature)
        by_another = reference.note(said, wrong.line(said))
        by_the_log = reference.note(said, LOG.line(said))
        for checkpoint in (unsigned, by_another, by_the_log):
            with pytest.raises(RefusedError):
                checked(files | {"checkpoint": checkpoint.encode()}, tmp_path)
    with pytest.raises(RefusedError):
        checked(files, tmp_path, wrong)


def test_rewritten_history_is_refused_by_the_signed_root(tmp_path: Path) -> None:
    """Every tile and bundle follows from the change; only the checkpoint remembers."""
    headers = made(SIZE)
    signed = reference.log(headers, LOG)["checkpoint"]
    for changed in (
        [*headers[:300], bytes(104), *headers[301:]],
        [*headers[:300], headers[301], headers[300], *headers[302:]],
    ):
        rewritten = reference.tiles(changed)
        with pytest.raises(RefusedError, match="calculated root"):
            checked(rewritten | {"checkpoint": signed}, tmp_path)


# Notes and cosignatures


def test_notes_and_cosignatures_of_the_reference_open() -> None:
    witness = Signer.of("witness.example/w1", b"\x02" * 32, COSIGNATURE)
    text = reference.checkpoint_text(LOG.name, 5, bytes(32))
    both = reference.note(text, LOG.line(text), witness.line(text, 1_679_315_147))
    alone = reference.note(text, LOG.line(text))
    keys = [LOG.vkey, witness.vkey]
    assert programs.judge([opening(both, *keys), opening(alone, *keys)]) == [
        {"signed": [LOG.name, witness.name]},
        {"signed": [LOG.name]},
    ]


def test_note_with_any_changed_character_of_what_is_signed_does_not_open() -> None:
    witness = Signer.of("witness.example/w1", b"\x02" * 32, COSIGNATURE)
    text = reference.checkpoint_text(LOG.name, 5, bytes(32))
    lies = [text[:i] + chr(ord(text[i]) ^ 1) + text[i + 1 :] for i in range(len(text))]
    notes = [reference.note(lie, LOG.line(text), witness.line(text, 7)) for lie in lies]
    for key in (LOG.vkey, witness.vkey):
        answers = programs.judge([opening(note, key) for note in notes])
        assert len(answers) == len(text)
        assert all("error" in answer for answer in answers)


def opening(note: str, *keys: str) -> dict[str, Any]:
    return {"open": {"note": note, "keys": keys}}


# Proofs, which tlog-tiles readers make for themselves, and Cairn gives

MOST = 40
"""Leaves of the largest tree that every proof is asked of."""
LEAVES = [leaf(header) for header in made(MOST)]


def node(level: int, i: int) -> bytes:
    return tree(LEAVES[i << level : (i + 1) << level])


def text_of(digest: bytes) -> str:
    return b64encode(digest).decode()


def inclusion(index: int, size: int, proof: Sequence[bytes], leaf_hash: bytes) -> dict[str, Any]:
    return {
        "inclusion": {
            "proof": list(map(text_of, proof)),
            "index": index,
            "size": size,
            "leaf": text_of(leaf_hash),
            "root": text_of(tree(LEAVES[:size])),
        }
    }


def consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes) -> dict[str, Any]:
    return {
        "consistency": {
            "proof": list(map(text_of, proof)),
            "old": old,
            "new": new,
            "oldRoot": text_of(old_root),
            "newRoot": text_of(tree(LEAVES[:new])),
        }
    }


def spoiled(proof: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the proof with a bit flipped in each hash, and with one hash more and less."""
    for i in range(len(proof)):
        yield [*proof[:i], flipped(proof[i], i, i % 8), *proof[i + 1 :]]
    yield [*proof, bytes(32)]
    if proof:
        yield proof[:-1]


def test_inclusion_of_every_leaf_in_every_tree_is_proved() -> None:
    right, wrong = [], []
    for size in range(1, MOST + 1):
        for index in range(size):
            proof = prove_inclusion(index, size, node)
            right.append(inclusion(index, size, proof, LEAVES[index]))
            wrong.append(
                inclusion(index, size, proof, LEAVES[index - 1] if size > 1 else bytes(32))
            )
            wrong += [inclusion(index, size, bad, LEAVES[index]) for bad in spoiled(proof)]
    assert programs.judge(right) == [{}] * len(right)
    assert all("error" in answer for answer in programs.judge(wrong))


def test_consistency_of_every_tree_with_every_later_one_is_proved() -> None:
    right, wrong = [], []
    for new in range(1, MOST + 1):
        for old in range(1, new + 1):
            proof, old_root = prove_consistency(old, new, node), tree(LEAVES[:old])
            right.append(consistency(old, new, proof, old_root))
            wrong.append(consistency(old, new, proof, bytes(32)))
            wrong += [consistency(old, new, bad, old_root) for bad in spoiled(proof)]
    assert programs.judge(right) == [{}] * len(right)
    assert all("error" in answer for answer in programs.judge(wrong))


# What Cairn serves


def vkey_of(directory: Path) -> str:
    """Return the key that verifies the checkpoints of the ledger."""
    said = cairn("key", "--ledger", directory)
    assert said.returncode == 0, said.stderr
    assert programs.judge([opening("", said.stdout.strip())]) == [{"error": "malformed note"}]
    return said.stdout.strip()


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.mark.parametrize("size", [1, 256, 70_000])
def test_log_of_a_node_is_right_in_all_parts(size: int, ledger: Path, tmp_path: Path) -> None:
    headers = grown(ledger, size)
    with running(start(ledger)) as server:
        wait_for_checkpoint(server, len(headers))
        assert programs.fsck(url_of(server), vkey_of(ledger), tmp_path) == tree_of(headers)


def test_log_of_a_node_stays_right_as_it_grows(ledger: Path, tmp_path: Path) -> None:
    found = []
    grown(ledger, 254)
    with running(start(ledger)) as server, server.client() as client:
        vkey = vkey_of(ledger)
        for size in range(255, 259):
            client.post({"size": size})
            wait_for_checkpoint(server, size)
            found.append(programs.fsck(url_of(server), vkey, tmp_path))
    headers = grown(ledger, 258)
    assert found == [tree_of(headers[:size]) for size in range(255, 259)]


def test_exported_log_is_right_in_all_parts(ledger: Path, tmp_path: Path) -> None:
    headers = grown(ledger, SIZE)
    said = cairn("export", "--ledger", ledger, "--tiles", tmp_path / "log")
    assert said.returncode == 0, said.stderr
    found = programs.fsck((tmp_path / "log").as_uri(), vkey_of(ledger), tmp_path)
    assert found == tree_of(headers)


def test_block_edited_after_it_was_signed_is_refused(ledger: Path, tmp_path: Path) -> None:
    headers = grown(ledger, SIZE)
    with running(start(ledger)) as server:
        wait_for_checkpoint(server, len(headers))
        assert programs.fsck(url_of(server), vkey_of(ledger), tmp_path) == tree_of(headers)
    with forging(ledger, cover_tracks=True) as blocks:
        blocks[300].change(data_root=bytes(32))
    with running(start(ledger), may_log=True) as server, pytest.raises(RefusedError):
        programs.fsck(url_of(server), vkey_of(ledger), tmp_path)
