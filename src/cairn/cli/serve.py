"""The serve command: the ledger over HTTP."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Final

import click

from cairn.cli.common import VKEY, Failed, ledger_option
from cairn.cli.peers import peer_options, peers_of
from cairn.ledger import Ledger
from cairn.proof.note import VerifierKey

PORT: Final = 5000
TOKEN_CHARACTERS: Final = 16
"""Of a token, at least: some 95 bits if they are random letters and digits."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)
@click.option("--lab", is_flag=True, help="Serve a scratch copy, and let it be tampered with.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CAIRN_TOKEN_FILE",
    help="Ask for one of the tokens in this file (a line each) to read and write.",
)
@click.option(
    "--read-token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CAIRN_READ_TOKEN_FILE",
    help="Tokens that may only read.",
)
@click.option("--public-read", is_flag=True, help="Ask for no token to read.")
@click.option(
    "--no-token", is_flag=True, help="Let everyone who can reach the node read and write."
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="A name the node goes by, as behind a proxy.",
)
@click.option(
    "--witness",
    "witnesses",
    type=(str, VKEY),
    multiple=True,
    metavar="URL VKEY",
    help="Have this C2SP witness cosign checkpoints; and trust it.",
)
@click.option("--mine", is_flag=True, help="Mine, too: on a ledger of work.")
@peer_options
@click.option("--verbose", is_flag=True, help="Log what happens, and not only what is wrong.")
@ledger_option
def serve(
    directory: Path,
    host: str,
    port: int,
    lab: bool,
    token_file: Path | None,
    read_token_file: Path | None,
    public_read: bool,
    no_token: bool,
    allow_host: tuple[str, ...],
    witnesses: tuple[tuple[str, VerifierKey], ...],
    mine: bool,
    verbose: bool,
    **peer_options: Any,
) -> None:
    """Serve the ledger over HTTP until told to stop; it is created if missing."""
    from cairn.api.guard import Access  # all this takes longer to import than other commands do
    from cairn.api.server import is_loopback
    from cairn.api.server import serve as run
    from cairn.node.checkpoints import WitnessAddress

    tokens, read_tokens = _tokens(token_file), _tokens(read_token_file)
    if not tokens and (read_tokens or public_read):
        raise Failed("--read-token-file and --public-read go with --token-file: who may write?")
    if tokens and no_token:
        raise Failed("--no-token contradicts --token-file")
    if not (tokens or no_token or is_loopback(host)):
        raise Failed(
            f"{host} can be reached from other machines: give --token-file FILE "
            "(and --public-read, if all may read), or --no-token if you mean it"
        )
    access = Access(
        tokens=tokens,
        read_tokens=read_tokens,
        public_read=public_read,
        names=frozenset(name.lower().removesuffix(".") for name in (host, *allow_host)),
        any_address=not is_loopback(host),
    )
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if verbose:
        logging.getLogger("cairn").setLevel(logging.INFO)
    peers = peers_of(**peer_options, mines=mine)

    def ready(url: str, ledger: Ledger) -> None:
        what = f"a scratch copy of {directory}" if lab else str(directory)
        click.echo(f"Cairn on {url}  (ledger {what}, {len(ledger)} blocks, id {ledger.id})")

    addresses = [WitnessAddress(url, key) for url, key in witnesses]
    for address in addresses:
        if not address.key.is_witness:
            raise Failed(f"the key of {address.key.name} is not that of a witness")
        if not re.match("https?://[^/?#]", address.url):
            raise Failed(f"{address.url!r} is not the address of a witness, as http://host:5001")
    run(
        directory,
        host=host,
        port=port,
        access=access,
        lab=lab,
        witnesses=addresses,
        peers=peers,
        ready=ready,
    )


def _tokens(file: Path | None) -> list[bytes]:
    if file is None:
        return []
    tokens = [line.strip() for line in file.read_bytes().splitlines() if line.strip()]
    if not tokens or min(map(len, tokens)) < TOKEN_CHARACTERS:
        raise Failed(f"{file} needs a token a line, of {TOKEN_CHARACTERS} characters or more")
    return tokens
