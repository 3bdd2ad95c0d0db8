"""What the commands share: the --ledger option, exit codes, a progress bar."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import click

from cairn.core.errors import (
    CairnError,
    DamagedError,
    FormatError,
    LockedError,
    ProofError,
    StoreError,
)
from cairn.core.rules import InvalidChainError
from cairn.ledger import Ledger
from cairn.proof.note import VerifierKey
from cairn.store.directory import occupied

NOT_VALID: Final = 1
"""Exit code: the ledger, or what was imported, is not valid or is damaged."""
MISUSED: Final = 2
"""Exit code: used wrongly, absent, locked or not permitted."""

INTERRUPTED: Final = 130
"""Exit code: Ctrl-C, as shells count signals."""
PIPE_CLOSED: Final = 141
"""Exit code: nobody reads our output any more, as shells count signals."""

ledger_option: Final[Callable[[Any], Any]] = click.option(
    "--ledger",
    "directory",
    type=click.Path(path_type=Path),
    envvar="CAIRN_LEDGER",
    default="cairn-data",
    show_default="$CAIRN_LEDGER, else ./cairn-data",
    metavar="DIR",
    help="The ledger's directory.",
)


class _VerifierKeyType(click.ParamType):  # type: ignore[type-arg]
    """A verifier key, as C2SP signed-note writes it."""

    name = "vkey"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> VerifierKey:
        """Read it."""
        try:
            return VerifierKey.parse(value)
        except ProofError as error:
            self.fail(str(error), param, ctx)


VKEY: Final = _VerifierKeyType()


class Show(Protocol):
    """Draws how much is done, and a note beside it."""

    def __call__(self, done: int, note: str = "", /) -> None:
        """Draw."""


class Failed(click.ClickException):
    """Ends the command with a message on standard error, and exit code 2."""

    exit_code = MISUSED


class Invalid(Failed):
    """The same, for a ledger that is not valid."""

    exit_code = NOT_VALID


class Commands(click.Group):
    """Turns the errors that Cairn raises on purpose into messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(PIPE_CLOSED) from None
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(INTERRUPTED) from None
        except (InvalidChainError, DamagedError, FormatError, ProofError) as error:
            raise Invalid(str(error)) from error
        except (CairnError, OSError) as error:
            raise Failed(str(error)) from error


def open_to_prove(directory: Path) -> Ledger:
    """Open a ledger to sign it; or, while another process writes it, to use what that has signed.

    Raises:
        NotFoundError: nothing is there.
    """
    if occupied(directory):  # else it would be made
        with suppress(LockedError, StoreError, PermissionError):
            return Ledger.open(directory)
    return Ledger.open(directory, read_only=True)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Show]:
    """Yield a function to call with how much is done; draws a bar if a person is watching.

    `total` is in the same unit; None where it is not known.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _note="": None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), note, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda done, note="": bar.update(task, completed=done, note=note)
