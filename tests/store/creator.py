"""A process that makes ledgers, for tests of who may make one where, and of rivals.

Usage: creator USER ACTION [ARGUMENT]. With a USER other than 0 it gives up all rights for those of
that user id first. It says "ready", then takes a directory from each line of its input, acts on it
and says what came of it: the id of the ledger, or the name of an error. It can

    create
    open
    import FILE               of an export
    backup DIRECTORY          of a ledger
    build                     say "building", and wait for another line before it finishes
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cairn import CairnError, Ledger
from cairn.ledger.exchange import import_chain
from cairn.store.database import Database
from cairn.store.directory import new_directory


def say(*words: object) -> None:
    print(*words, flush=True)


def build(path: Path) -> None:
    with new_directory(path) as hidden:
        Database.create(hidden)
        say("building")
        sys.stdin.readline()


def make(action: str, path: Path, argument: Path) -> str:
    match action:
        case "create":
            with Ledger.create(path) as ledger:
                return ledger.id
        case "open":
            with Ledger.open(path) as ledger:
                return ledger.id
        case "import":
            import_chain(path, argument.read_bytes().splitlines())
        case "backup":
            with Ledger.open(argument, read_only=True) as ledger:
                ledger.backup(path)
        case "build":
            build(path)
            return "built"
    with Ledger.open(path) as ledger:
        assert ledger.validate().valid
        return ledger.id


def give_up_rights(user: int) -> None:
    with Ledger.in_memory() as ledger:  # imports all there is, while we may
        assert ledger.append({"some": "value"}) == ledger.head
        assert ledger.validate().valid
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def main(user: str, action: str, argument: str = "") -> None:
    if user != "0":
        give_up_rights(int(user))
    say("ready")
    for line in iter(sys.stdin.readline, ""):
        try:
            say(make(action, Path(line.rstrip("\n")), Path(argument)))
        except (CairnError, OSError) as error:
            say(type(error).__name__, error)


if __name__ == "__main__":
    main(*sys.argv[1:])
