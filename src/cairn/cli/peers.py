"""The commands of a node of a work ledger: mine, with what serve shares with it, and resume."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cairn.cli.common import Failed, ledger_option
from cairn.ledger import Ledger

if TYPE_CHECKING:  # it takes longer to import than other commands do
    from cairn.node.peering import Peers

REPORT_SECONDS: Final = 10.0
"""Between two lines that say how fast it mines."""
_OPTIONS: Final = (
    click.option(
        "--peer",
        "urls",
        multiple=True,
        metavar="URL",
        help="Keep a link to this node, as ws://host:5000 or wss://host. Others are heard of.",
    ),
    click.option(
        "--peer-address",
        "address",
        default="",
        metavar="URL",
        help="Where other nodes can open links to this one; by default, where it listens.",
    ),
    click.option(
        "--allow-peer",
        "allowed",
        multiple=True,
        metavar="KEY",
        help="Have only nodes with such a key (64 hex digits) as peers.",
    ),
    click.option(
        "--forget-peers",
        "forgets",
        is_flag=True,
        help="Begin with the nodes of --peer alone, without those met in earlier runs.",
    ),
    click.option(
        "--minimum-work",
        default="0",
        metavar="HEX",
        help="Work that a chain must show before its blocks are asked for.",
    ),
    click.option(
        "--threads",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        help="Threads that mine.",
    ),
)


def peer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say with whom a node of a work ledger works."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def peers_of(
    urls: tuple[str, ...],
    address: str,
    allowed: tuple[str, ...],
    forgets: bool,
    minimum_work: str,
    threads: int,
    *,
    mines: bool,
) -> Peers | None:
    """Return what the options say, and whether it is to mine; None if they say nothing.

    Raises:
        Failed: they say what cannot be.
    """
    from cairn.net.addresses import Address
    from cairn.node.peering import Peers

    try:
        for url in filter(None, (*urls, address)):
            Address.parse(url)
        keys = [bytes.fromhex(key) for key in allowed]
        work = int(minimum_work, 16)
    except ValueError as error:
        raise Failed(str(error)) from error
    if any(len(key) != 32 for key in keys):
        raise Failed("the key of a node has 64 hex digits: GET /peers shows its own")
    if not (mines or urls or address or keys or forgets or work):
        return None
    return Peers(
        urls=urls,
        address=address,
        allowed=keys,
        forgets=forgets,
        minimum_work=work,
        threads=threads if mines else 0,
    )


@click.command()
@peer_options
@click.option(
    "--blocks", type=click.IntRange(min=1), help="End when so many blocks were found here."
)
@ledger_option
def mine(directory: Path, blocks: int | None, **options: Any) -> None:
    """Mine what waits to be recorded in a ledger of work, until stopped.

    It needs no server: `cairn serve --mine` is both.
    """
    peers = peers_of(**options, mines=True)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with Ledger.open(directory) as ledger:
        asyncio.run(_mine(ledger, directory, peers, blocks))


@click.command()
@ledger_option
def resume(directory: Path) -> None:
    """Let a node that has stopped, as its final blocks are in question, take part again.

    For who has found out that its own chain is the right one: it mines, signs and makes blocks
    final from its next start on, and stops again when a peer shows it the other chain.
    """
    from cairn.node.peering import resume as let_go_on
    from cairn.node.peering import why_halted

    why = why_halted(directory)
    if why is None:
        raise Failed("the node of this ledger has not stopped")
    with Ledger.open(directory):  # which no node has
        let_go_on(directory)
    click.echo(f"it had stopped: {why}")


async def _mine(ledger: Ledger, directory: Path, peers: Peers | None, blocks: int | None) -> None:
    """Mine until told to stop, or until so many blocks were found."""
    from cairn.node import Node

    node = Node(ledger, directory, peers=peers)
    peering = node.peering
    assert peering is not None
    stop = asyncio.Event()

    def noted(line: str) -> None:
        click.echo(line)
        if peering.mined == blocks or peering.halted:
            stop.set()

    node.noted = noted
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    began = time.monotonic()
    async with node:
        while not stop.is_set() and peering.alive:
            try:
                async with asyncio.timeout(REPORT_SECONDS):
                    await stop.wait()
            except TimeoutError:
                click.echo(f"{peering.hash_rate / 1e6:.1f} million hashes/s")
        length = len(ledger)
    seconds = time.monotonic() - began
    click.echo(f"found {peering.mined} blocks in {seconds:.1f} s; the chain has {length}")
    if peering.halted:
        raise Failed(f"stopped: {peering.halted}")
    if not stop.is_set():
        raise Failed("it cannot go on: the log says why")
