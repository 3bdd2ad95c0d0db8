"""The witness command: a service that cosigns the checkpoints of logs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import click

from cairn.cli.common import VKEY, Failed
from cairn.core.errors import ProofError
from cairn.proof.keyring import Keyring, home
from cairn.proof.memory import Memory
from cairn.proof.note import Algorithm, VerifierKey, require_name
from cairn.proof.witness import Witness

PORT: Final = 5001


@click.command()
@click.option("--name", required=True, help="What the witness is called, as witness.example/1.")
@click.option(
    "--log",
    "logs",
    type=VKEY,
    multiple=True,
    help="A log to cosign for: its verifier key, named as its origin.",
)
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="More of them, a line each.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder for what was cosigned; by default `witness` in the configuration folder.",
)
@click.option("--show-key", is_flag=True, help="Print the witness's verifier key, and exit.")
def witness(
    name: str,
    logs: tuple[VerifierKey, ...],
    log_file: Path | None,
    host: str,
    port: int,
    state: Path | None,
    show_key: bool,
) -> None:
    """Cosign the checkpoints of logs as a C2SP witness, until told to stop.

    Only what extends the checkpoint before it is cosigned. The key is made on first use. Keep the
    state: with an old copy of it, the witness could cosign a fork.
    """
    try:
        require_name(name)
    except ProofError as error:
        raise Failed(str(error)) from error
    key = Keyring().signing_key(name, Algorithm.COSIGNATURE)
    if show_key:
        click.echo(str(key.verifier))
        return
    keys = _by_origin([*logs, *(_keys_in(log_file) if log_file else [])])
    if not keys:
        raise Failed("which logs? give --log VKEY or --log-file FILE")
    from cairn.api.witness import serve as run  # takes longer to import than other commands do

    folder = home() / "witness" if state is None else state
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    decider = Witness(key, keys, Memory(folder / "cosigned.sqlite"), folder / "evidence")

    def ready(url: str) -> None:
        click.echo(f"Witness on {url}  ({len(keys)} logs, state in {folder})\n{key.verifier}")

    run(decider, host=host, port=port, ready=ready)


def _keys_in(file: Path) -> list[VerifierKey]:
    lines = map(str.strip, file.read_text(encoding="utf-8").splitlines())
    try:
        return [VerifierKey.parse(line) for line in lines if line and not line.startswith("#")]
    except ProofError as error:
        raise Failed(f"{file}: {error}") from error


def _by_origin(keys: list[VerifierKey]) -> dict[str, list[VerifierKey]]:
    """Return keys by the origin of the log that each is trusted for: its own name."""
    found: dict[str, list[VerifierKey]] = {}
    for key in dict.fromkeys(keys):
        if key.is_witness:
            raise Failed(f"the key of {key.name} is that of a witness, not of a log")
        found.setdefault(key.name, []).append(key)
    return found
