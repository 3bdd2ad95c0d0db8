"""The group that all commands are in."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import click

from cairn.cli.bench import bench
from cairn.cli.common import Commands
from cairn.cli.demo import demo
from cairn.cli.init import init
from cairn.cli.log import log
from cairn.cli.network import network
from cairn.cli.peers import mine, resume
from cairn.cli.proof import key, receipt, verify
from cairn.cli.read import backup, export, show
from cairn.cli.serve import serve
from cairn.cli.validate import validate
from cairn.cli.witness import witness
from cairn.cli.write import add, erase, import_


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cairn-ledger", message="cairn %(version)s")
def main() -> None:
    """Keep a tamper-evident ledger: append JSON, validate the whole chain.

    Exit codes: 0 fine; 1 the ledger is not valid or is damaged; 2 used wrongly, absent, locked or
    not permitted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show a character
            stream.reconfigure(errors="backslashreplace")


for command in (
    *(init, serve, add, show, log, validate, export, import_, backup, erase),
    *(key, receipt, verify, witness, mine, resume, network, demo, bench),
):
    main.add_command(command)
