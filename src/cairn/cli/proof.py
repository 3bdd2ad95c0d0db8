"""Commands that prove: receipt, verify, key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from cairn.cli.common import VKEY, Failed, ledger_option, open_to_prove
from cairn.cli.write import MAX_LINE
from cairn.core.block import Block, rfc3339
from cairn.core.canonical import parse
from cairn.core.errors import EntryError, FormatError, ProofError
from cairn.core.genesis import MAX_DEPTH, MAX_U32, Limits
from cairn.encoding import Encoder
from cairn.ledger import Ledger
from cairn.proof.checkpoint import Policy, SignedCheckpoint, ledger_of
from cairn.proof.keyring import Keyring
from cairn.proof.mirror import check_mirror
from cairn.proof.note import VerifierKey
from cairn.proof.receipt import MAX_RECEIPT, Proved, Receipt


@click.command()
@click.argument("index", type=int)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The file; else standard output."
)
@click.option("--entry", default=0, show_default=True, help="Which entry of a batch.")
@click.option("--tlog-proof", is_flag=True, help="Write a C2SP tlog-proof.")
@ledger_option
def receipt(
    directory: Path, index: int, output: Path | None, entry: int, *, tlog_proof: bool
) -> None:
    """Prove that block INDEX is in the ledger, to whoever trusts its key.

    While a node runs, under the checkpoint that it has published; else, under one signed now.
    """
    with open_to_prove(directory) as ledger:
        found = ledger.receipt(index if index >= 0 else index + len(ledger), entry)
    text = found.to_tlog_proof() if tlog_proof else found.to_json()
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        click.echo(f"wrote {output}: block {found.index}, {len(text.encode())} bytes")


@click.command()
@click.argument("file", type=click.Path(exists=True, allow_dash=True))
@click.option(
    "--key", "keys", type=VKEY, multiple=True, help="Trust this key, and no recorded one."
)
@click.option("--witness", "witnesses", type=VKEY, multiple=True, help="Trust this witness.")
@click.option("--quorum", default=0, help="How many of the trusted witnesses must have cosigned.")
@click.option(
    "--data",
    type=click.File("rb"),
    metavar="FILE",
    help="Of a folder: check this export (NDJSON) of the ledger's data against it, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(
    file: str,
    keys: tuple[VerifierKey, ...],
    witnesses: tuple[VerifierKey, ...],
    quorum: int,
    data: BinaryIO | None,
    *,
    as_json: bool,
) -> None:
    """Check the receipt in FILE, offline: no ledger and no node is needed.

    FILE can also be a folder of checkpoint and tiles, as export --tiles makes it: then every header
    and hash of the ledger is checked.

    Exits with 1 where nothing is proved, or where the signer is not trusted. Without --key, the
    keys are trusted that were recorded (cairn key).
    """
    recorded = [] if keys and witnesses else Keyring().trusted()
    try:
        policy = Policy(
            keys or tuple(key for key in recorded if not key.is_witness),
            witnesses or tuple(key for key in recorded if key.is_witness),
            quorum,
        )
    except ProofError as error:
        raise Failed(str(error)) from error
    if Path(file).is_dir():
        signed = _check_mirror(Path(file), policy, data)
        if as_json:
            facts = {"proved": True, "data": data is not None, **_signers(signed)}
            click.echo(json.dumps(facts, ensure_ascii=False))
        else:
            _show_mirror(signed, with_data=data is not None)
        return
    if data is not None:
        raise click.UsageError("--data goes with a folder: a receipt has its data in it")
    with click.open_file(file, "rb") as stream:
        proved = Receipt.parse(stream.read(MAX_RECEIPT + 1)).check(policy)
    if as_json:
        click.echo(json.dumps(_facts(proved), ensure_ascii=False))
    else:
        _show(proved)


def _check_mirror(folder: Path, policy: Policy, data: BinaryIO | None) -> SignedCheckpoint:
    def read(path: str, most: int) -> bytes:
        try:
            if not (folder / path).is_file():
                raise ProofError(f"the mirror has no {path}")
            with (folder / path).open("rb") as file:
                return file.read(most + 1)
        except OSError as error:
            raise ProofError(f"the mirror has no {path}: {error}") from error

    return check_mirror(read, policy, _blocks(data) if data else None)


def _blocks(lines: BinaryIO) -> Iterator[Block]:
    """Yield the blocks of an export.

    Raises:
        ProofError: a line is no block's.
    """
    encode = Encoder(Limits(size=MAX_U32, depth=MAX_DEPTH)).value
    for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE + 1), b""), start=1):
        if len(line) > MAX_LINE:
            raise ProofError(f"line {number} of the data is longer than {MAX_LINE} bytes")
        if line.strip():
            try:
                yield Block.from_view(parse(line), encode=encode)
            except (EntryError, FormatError) as error:
                raise ProofError(f"line {number} of the data: {error}") from None


def _facts(proved: Proved) -> dict[str, object]:
    return {
        "proved": True,
        "index": proved.header.index,
        "data": proved.entry.value,
        "timestamp": rfc3339(proved.header.timestamp),
        "hash": proved.header.hash.hex(),
        **_signers(proved.signed),
    }


def _signers(signed: SignedCheckpoint) -> dict[str, object]:
    return {
        "ledger": ledger_of(signed.checkpoint.origin),
        "size": signed.checkpoint.size,
        "signed_by": [str(key) for key in signed.log_keys],
        "witnessed_by": {str(key): _time(time) for key, time in signed.witnesses.items()},
        "assurance": signed.assurance,
    }


def _show(proved: Proved) -> None:
    signed = proved.signed
    click.echo(f"PROVED: block {proved.header.index} of ledger {proved.ledger}")
    click.echo(f"  data       {proved.entry.canonical.decode()}")
    click.echo(f"  recorded   {rfc3339(proved.header.timestamp)}, by the recorder's clock")
    click.echo(f"  hash       {proved.header.hash.hex()}")
    click.echo(f"  checkpoint of {signed.checkpoint.size} blocks")
    _show_signers(signed)


def _show_mirror(signed: SignedCheckpoint, *, with_data: bool) -> None:
    what = "headers, data and tree" if with_data else "headers and tree"
    click.echo(f"VERIFIED: {signed.checkpoint.size} blocks ({what}) of {signed.checkpoint.origin}")
    _show_signers(signed)


def _show_signers(signed: SignedCheckpoint) -> None:
    for key in signed.log_keys:
        click.echo(f"  signed by  {key}")
    for key, time in signed.witnesses.items():
        click.echo(f"  witnessed  {_time(time)} by {key}")


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


@click.group(invoke_without_command=True)
@ledger_option
@click.pass_context
def key(ctx: click.Context, directory: Path) -> None:
    """Print the verifier key that signs for the ledger, and make it if there is none yet.

    Give it to whoever shall check your receipts and checkpoints.
    """
    if ctx.invoked_subcommand is None:
        with Ledger.open(directory, read_only=True) as ledger:
            click.echo(str(ledger.notary.key().verifier))


@key.command("list")
def list_keys() -> None:
    """Print the keys that you trust, one a line."""
    for trusted in Keyring().trusted():
        click.echo(str(trusted))


@key.command()
@click.argument("vkey", type=VKEY)
def trust(vkey: VerifierKey) -> None:
    """Trust VKEY, of a ledger or a witness, from now on."""
    Keyring().trust(vkey)
    click.echo(f"trusted: {vkey}")


@key.command()
@ledger_option
def rotate(directory: Path) -> None:
    """Sign the ledger with a new key from now on, and record the change in it.

    The old key signs the record, so that whoever trusts it can follow; then it is thrown away.
    """
    with Ledger.open(directory) as ledger:
        record = ledger.rotate_key()
        new = ledger.keyring.signing_key(ledger.notary.origin).verifier
        click.echo(f"block {record.index} records the new key: {new}")
