"""The log that Cairn serves and exports against the reference, to the last byte.

Programs of others look past some of it: what follows the entries of a bundle, or a full tile in the
place of a partial one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cairn.proof.note import Algorithm, SigningKey
from tests.interop import reference
from tests.interop.ledgers import grown, made, text_of_checkpoint, wait_for_checkpoint
from tests.interop.reference import Signer
from tests.service.harness import cairn, running, start


def test_reference_has_the_tiles_that_tlog_tiles_counts_up() -> None:
    paths = reference.tiles([bytes(104)] * 70_000).keys()
    full = {f"tile/0/{n:03}" for n in range(273)}
    assert {path for path in paths if path.startswith("tile/0/")} == full | {"tile/0/273.p/112"}
    assert {path for path in paths if path.startswith("tile/1/")} == {
        "tile/1/000",
        "tile/1/001.p/17",
    }
    assert {path for path in paths if path.startswith("tile/2/")} == {"tile/2/000.p/1"}
    assert reference.tile_path("0", 1_234_067, 256) == "tile/0/x001/x234/067"


@pytest.mark.parametrize("algorithm", Algorithm)
def test_cairn_signs_as_the_reference_does(algorithm: Algorithm) -> None:
    believed = Signer.of("witness.example/w1", b"\x02" * 32, bytes([algorithm]))
    key = SigningKey(believed.name, algorithm, believed.key)
    text = text_of_checkpoint(made(5))
    assert str(key.verifier) == believed.vkey
    assert str(key.sign(text, time=1_679_315_147)) == believed.line(text, 1_679_315_147)


def test_node_serves_every_file_of_the_reference(ledger: Path) -> None:
    headers = grown(ledger, 600)
    with running(start(ledger)) as server:
        wait_for_checkpoint(server, len(headers))
        for path, data in reference.tiles(headers).items():
            answer = server.get(f"/{path}")
            assert (answer.status, answer.body) == (200, data), path
            assert answer.headers["content-type"] == "application/octet-stream"
        answer = server.get("/checkpoint")
        assert answer.body.decode().startswith(text_of_checkpoint(headers) + "\n")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_node_serves_partial_tiles_of_an_earlier_checkpoint(ledger: Path) -> None:
    """Whoever has read that checkpoint goes on reading while the ledger grows."""
    headers = grown(ledger, 255)
    with running(start(ledger)) as server, server.client() as client:
        wait_for_checkpoint(server, 255)
        client.post_all([1, 2, 3])
        wait_for_checkpoint(server, 258)
        for path, data in reference.tiles(headers).items():
            assert client.get(f"/{path}").body == data, path


@pytest.mark.parametrize("size", [1, 256, 257, 70_000])
def test_exported_folder_is_that_of_the_reference(size: int, ledger: Path, tmp_path: Path) -> None:
    headers = grown(ledger, size)
    said = cairn("export", "--ledger", ledger, "--tiles", tmp_path / "log")
    assert said.returncode == 0, said.stderr
    files = reference.read(tmp_path / "log")
    checkpoint = files.pop("checkpoint").decode()
    assert files == reference.tiles(headers)
    assert checkpoint.startswith(text_of_checkpoint(headers) + "\n")
