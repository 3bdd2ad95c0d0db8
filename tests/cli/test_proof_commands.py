"""receipt, verify, key and export --tiles: what they print, what they refuse, how they exit."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cairn import Ledger
from cairn.cli import main
from cairn.lab.tampering import forging, rechain
from cairn.proof.checkpoint import Policy
from cairn.proof.keyring import Keyring
from cairn.proof.note import Algorithm, Note, VerifierKey
from cairn.proof.receipt import Receipt
from tests.builders import chain
from tests.interop import reference
from tests.proof.processes import ended_well, folder_of_nobody
from tests.proof.processes import started as started_process
from tests.service.harness import running, start
from tests.store import sealed

SIZE = 12
WITNESS = "witness.example/1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys and memories of this test alone."""
    monkeypatch.setenv("CAIRN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """A ledger of 12 blocks that nobody has signed yet."""
    path = tmp_path / "ledger"
    monkeypatch.setenv("CAIRN_LEDGER", str(path))
    with Ledger.open(path) as ledger:
        ledger.extend({"n": n} for n in range(1, SIZE))
    return path


def cairn(*arguments: object, code: int = 0, stdin: str | bytes = "") -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Go on as somebody who trusts nobody yet."""
    monkeypatch.setenv("CAIRN_HOME", str(tmp_path / "elsewhere"))


def own_key() -> str:
    return cairn("key").output.strip()


# Receipts


def test_receipt_is_verified_in_both_forms_from_a_file_and_from_a_pipe(
    directory: Path, tmp_path: Path
) -> None:
    for options in ((), ("--tlog-proof",)):
        file = tmp_path / "receipt"
        said = cairn("receipt", 5, "-o", file, *options).output
        assert said == f"wrote {file}: block 5, {file.stat().st_size} bytes\n"
        assert cairn("receipt", 5, *options).output == file.read_text("utf-8")
        for output in (
            cairn("verify", file).output,
            cairn("verify", "-", stdin=file.read_bytes()).output,
        ):
            lines = output.splitlines()
            assert lines[0].startswith("PROVED: block 5 of ledger ")
            assert lines[1] == '  data       {"n":5}'
            assert lines[-1] == f"  signed by  {own_key()}"
    assert json.loads(cairn("receipt", -0).output)["index"] == 0
    assert json.loads(cairn("receipt", "--", -1).output)["index"] == SIZE - 1


def test_verify_as_json_says_what_is_proved_and_by_whom(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "receipt"
    cairn("receipt", 7, "-o", file)
    facts = json.loads(cairn("verify", "--json", file).output)
    with Ledger.open(directory, read_only=True) as ledger:
        block = ledger[7]
        assert facts == {
            "proved": True,
            "index": 7,
            "data": {"n": 7},
            "timestamp": block.timestamp,
            "hash": block.hash,
            "ledger": ledger.id,
            "size": SIZE,
            "signed_by": [own_key()],
            "witnessed_by": {},
            "assurance": "signed",
        }


def test_receipt_of_what_is_not_there_exits_2(directory: Path, tmp_path: Path) -> None:
    assert "there is no block 12 below size 12" in cairn("receipt", SIZE, code=2).output
    assert "there is no block" in cairn("receipt", "--", -13, code=2).output
    assert "there is no block" in cairn("receipt", "9" * 30, code=2).output
    assert "no entry 1 in block 3" in cairn("receipt", 3, "--entry", 1, code=2).output
    assert "no entry -1" in cairn("receipt", 3, "--entry", -1, code=2).output
    cairn("receipt", "x", code=2)
    output = cairn("receipt", 0, "--ledger", tmp_path / "none", code=2).output
    assert "there is no ledger at" in output
    assert not (tmp_path / "none").exists()
    cairn("receipt", 3, "-o", tmp_path / "no" / "folder", code=2)


def test_who_asks_for_proof_in_an_empty_folder_makes_no_ledger(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for command in (["receipt", "0"], ["key"], ["export", "--tiles", str(tmp_path / "mirror")]):
        assert "there is no ledger at" in cairn(*command, "--ledger", empty, code=2).output
        assert not list(empty.iterdir())


def test_every_entry_of_a_batch_has_a_receipt(tmp_path: Path) -> None:
    path = tmp_path / "batches"
    sealed.build(path, chain(1, ("a", "b", "c"), 3))
    for place, value in enumerate("abc"):
        text = cairn("receipt", 2, "--entry", place, "--ledger", path).output
        assert json.loads(cairn("verify", "--json", "-", stdin=text).output)["data"] == value
    cairn("receipt", 2, "--entry", 3, "--ledger", path, code=2)


def test_receipt_while_a_node_runs_is_under_what_that_has_published(
    directory: Path, home: Path
) -> None:
    with running(start(directory)) as server, server.client() as client:
        size = client.post("by the node").value["index"] + 1
        published = client.get(f"/checkpoint?covering={size}").body.decode()
        receipt = Receipt.parse(cairn("receipt", size - 1).output)
        assert receipt.checkpoint == published
        assert json.loads(cairn("verify", "--json", "-", stdin=receipt.to_json()).output)["proved"]
        cairn("export", "--tiles", directory.with_name("mirror"))
        assert directory.with_name("mirror").joinpath("checkpoint").read_text() == published
        assert cairn("key").output.strip() in receipt.keys
        server.stop()


def test_receipt_from_a_directory_that_cannot_be_written(home: Path) -> None:
    """What was published is used; where nothing was, there is nothing to prove it under."""
    with folder_of_nobody() as folder:
        path = folder / "ledger"
        with Ledger.open(path, keyring=Keyring(folder / "home")) as ledger:
            ledger.extend(range(5))
        for signed in (False, True):
            if signed:
                with Ledger.open(path, keyring=Keyring(folder / "home")) as ledger:
                    ledger.checkpoint()
            for file in (path, *path.rglob("*")):
                file.chmod(0o555 if file.is_dir() else 0o444)

            def ask(signed: bool = signed) -> None:
                os.environ["CAIRN_HOME"] = str(folder / "other")
                result = cairn("receipt", 3, "--ledger", path, code=0 if signed else 2)
                if signed:
                    assert Receipt.parse(result.output).index == 3
                else:
                    assert "no checkpoint of this ledger has been published" in result.output
                if signed:
                    cairn("export", "--tiles", folder / "mirror", "--ledger", path)
                    assert (folder / "mirror" / "checkpoint").exists()

            if os.geteuid() == 0:
                os.chmod(folder, 0o777)  # noqa: PTH101
            assert ended_well(started_process(ask, as_nobody=True))
            for file in (path, *path.rglob("*")):
                file.chmod(0o755 if file.is_dir() else 0o644)


@pytest.mark.parametrize("form", ["json", "tlog-proof"])
def test_changed_receipt_exits_1(form: str, directory: Path) -> None:
    text = cairn("receipt", 4, *(["--tlog-proof"] if form == "tlog-proof" else [])).output
    data = text.encode()
    choose = random.Random(form)
    for _ in range(120):
        at = choose.randrange(len(data))
        changed = data[:at] + bytes([data[at] ^ 1 << choose.randrange(7)]) + data[at + 1 :]
        result = CliRunner().invoke(main, ["verify", "-"], input=changed)
        if result.exit_code == 0:  # of what is not part of the proof: white space, a hint
            assert '"n":4' in result.output
        else:
            assert result.exit_code == 1, (at, result.output)
            assert result.output.startswith("Error: ")
            assert result.exception is None or isinstance(result.exception, SystemExit)
    for junk in (
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 10_000,
        data[: len(data) // 2],
        b"x" * 99,
    ):
        cairn("verify", "-", code=1, stdin=junk)


def test_verify_of_what_is_not_there_exits_2(tmp_path: Path) -> None:
    cairn("verify", tmp_path / "none", code=2)
    cairn("verify", code=2)
    cairn("verify", tmp_path / "none", "--key", "no key", code=2)
    cairn("verify", "-", "--data", tmp_path / "none", code=2)


def test_data_goes_with_a_folder_only(directory: Path, tmp_path: Path) -> None:
    file, export = tmp_path / "receipt", tmp_path / "export"
    cairn("receipt", 4, "-o", file)
    cairn("export", "-o", export)
    assert "--data goes with a folder" in cairn("verify", file, "--data", export, code=2).output


# Whom to believe


def test_unknown_signer_exits_1_and_is_named(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, vkey = tmp_path / "receipt", own_key()
    cairn("receipt", 4, "-o", file)
    elsewhere(monkeypatch, tmp_path)
    for options in ((), ("--json",)):
        output = cairn("verify", file, *options, code=1).output
        assert "no trusted key has signed it; it is signed by" in output
        assert vkey in output
        assert "PROVED" not in output
        assert '"proved": true' not in output
    assert not (tmp_path / "elsewhere").exists(), "who verifies leaves nothing behind"
    assert "PROVED" in cairn("verify", file, "--key", vkey).output
    cairn("verify", file, code=1)
    assert cairn("key", "trust", vkey).output == f"trusted: {vkey}\n"
    assert "PROVED" in cairn("verify", file).output


def test_key_that_is_given_is_the_only_one_that_is_trusted(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "receipt"
    cairn("receipt", 4, "-o", file)
    name = own_key().partition("+")[0]
    stranger = str(Keyring(tmp_path / "stranger").signing_key(name).verifier)
    output = cairn("verify", file, "--key", stranger, code=1).output
    assert own_key() in output
    assert "PROVED" in cairn("verify", file, "--key", stranger, "--key", own_key()).output


def test_key_is_made_once_for_its_user_alone_and_trusted(
    directory: Path, tmp_path: Path, home: Path
) -> None:
    assert cairn("key", "list").output == ""
    vkey = own_key()
    with Ledger.open(directory, read_only=True) as ledger:
        assert vkey.startswith(f"cairn/{ledger.id}+")
    assert own_key() == vkey
    assert cairn("key", "list").output == f"{vkey}\n"
    [file] = (home / "keys").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = tmp_path / "other"
    cairn("init", "--ledger", other)
    second = cairn("key", "--ledger", other).output.strip()
    assert cairn("key", "list").output.splitlines() == [vkey, second]
    assert "there is no ledger at" in cairn("key", "--ledger", tmp_path / "x", code=2).output
    cairn("key", "trust", "no key", code=2)
    cairn("key", "trust", vkey[:-4] + "AAAA", code=2)


def test_key_that_others_can_read_is_not_used(directory: Path, home: Path) -> None:
    own_key()
    [file] = (home / "keys").iterdir()
    file.chmod(0o640)
    for command in (["key"], ["receipt", "1"], ["export", "--tiles", str(home / "mirror")]):
        assert "others can read the private key: chmod 600" in cairn(*command, code=2).output
    file.chmod(0o600)
    file.write_text("no key")
    assert "is not a private key" in cairn("key", code=2).output


def test_quorum_of_witnesses_is_asked_for(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that are given, or else recorded. One quorum that cannot be is misuse."""
    file, log = tmp_path / "receipt", own_key()
    witness = Keyring(tmp_path / "w").signing_key(WITNESS, Algorithm.COSIGNATURE)
    other = Keyring(tmp_path / "v").signing_key("witness.example/2", Algorithm.COSIGNATURE)
    with Ledger.open(directory) as ledger:
        note = ledger.published()
        cosigned = Note(note.text, (*note.signatures, witness.sign(note.text, time=1_700_000_000)))
        ledger.notary.publish(cosigned)
    cairn("receipt", 4, "-o", file)
    elsewhere(monkeypatch, tmp_path)
    trusted = ("verify", file, "--key", log, "--witness", witness.verifier)
    output = cairn(*trusted, "--quorum", 1).output
    assert f"  witnessed  2023-11-14T22:13:20Z by {witness.verifier}" in output
    facts = json.loads(cairn(*trusted, "--quorum", 1, "--json").output)
    assert facts["witnessed_by"] == {str(witness.verifier): "2023-11-14T22:13:20Z"}
    assert facts["assurance"] == "witnessed"
    both = (*trusted, "--witness", other.verifier)
    assert "PROVED" in cairn(*both, "--quorum", 1).output
    output = cairn(*both, "--quorum", 2, code=1).output
    assert "1 of 2 trusted witnesses have cosigned" in output
    assert "3 of 2 witnesses is no quorum" in cairn(*both, "--quorum", 3, code=2).output
    assert "no quorum" in cairn(*both, "--quorum", -1, code=2).output
    assert "no quorum" in cairn("verify", file, "--key", log, "--quorum", 1, code=2).output
    cairn("verify", file, "--key", str(witness.verifier), code=2)
    cairn("verify", file, "--key", log, "--witness", log, code=2)
    cairn("key", "trust", witness.verifier)
    assert "PROVED" in cairn("verify", file, "--key", log, "--quorum", 1).output


# Mirrors


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Return a mirror of 600 blocks, an export of them, and the key. Not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAIRN_HOME", str(folder / "home"))
        with Ledger.open(folder / "ledger") as ledger:
            ledger.extend(range(1, 600))
        options = ("--ledger", folder / "ledger")
        cairn("export", "--tiles", folder / "mirror", *options)
        cairn("export", "-o", folder / "export", *options)
        vkey = cairn("key", *options).output.strip()
    return folder / "mirror", folder / "export", vkey


def test_mirror_is_verified_with_and_without_data(made: tuple[Path, Path, str]) -> None:
    mirror, export, vkey = made
    origin = vkey.partition("+")[0]
    trusted = ("verify", mirror, "--key", vkey)
    assert cairn(*trusted).output == (
        f"VERIFIED: 600 blocks (headers and tree) of {origin}\n  signed by  {vkey}\n"
    )
    output = cairn(*trusted, "--data", export).output
    assert output.startswith("VERIFIED: 600 blocks (headers, data and tree) of ")
    assert json.loads(
        cairn(*trusted, "--json", "--data", "-", stdin=export.read_bytes()).output
    ) == {
        "proved": True,
        "data": True,
        "ledger": origin.removeprefix("cairn/"),
        "size": 600,
        "signed_by": [vkey],
        "witnessed_by": {},
        "assurance": "signed",
    }
    assert "it is signed by" in cairn("verify", mirror, code=1).output


def test_mirror_has_the_files_of_the_reference(made: tuple[Path, Path, str]) -> None:
    mirror, export, _ = made
    views = [json.loads(line) for line in export.read_text().splitlines()]
    expected = reference.tiles([bytes.fromhex(view["header"]) for view in views])
    found = reference.read(mirror)
    checkpoint = found.pop("checkpoint")
    assert found == expected
    assert checkpoint.startswith(b"cairn/")


def cut(data: bytes) -> bytes:
    return data[:-1]


def flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("change", [cut, flip, None, bytes.upper], ids=["cut", "flip", "no", "up"])
def test_mirror_with_a_damaged_file_exits_1_and_names_it(
    change: Callable[[bytes], bytes] | None, made: tuple[Path, Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    names = sorted(reference.read(folder))
    assert len(names) == 8
    for name in names:
        file = folder / name
        whole = file.read_bytes()
        if change is None:
            file.unlink()
        else:
            file.write_bytes(change(whole))
        output = cairn("verify", folder, "--key", made[2], code=1).output
        assert name in output or (name == "checkpoint" and "no trusted key" in output), output
        file.write_bytes(whole)
    cairn("verify", folder, "--key", made[2])


def test_mirror_with_swapped_files_exits_1_and_names_one(
    made: tuple[Path, Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    for kind in ("entries", "0"):
        one, other = (folder / "tile" / kind / number for number in ("000", "001"))
        swapped = one.read_bytes(), other.read_bytes()
        other.write_bytes(swapped[0])
        one.write_bytes(swapped[1])
        output = cairn("verify", folder, "--key", made[2], code=1).output
        assert f"tile/{kind}/000" in output
        one.write_bytes(swapped[0])
        other.write_bytes(swapped[1])


def test_data_that_is_not_what_was_signed_exits_1(
    made: tuple[Path, Path, str], directory: Path, tmp_path: Path
) -> None:
    mirror, export, vkey = made
    lines = export.read_text().splitlines()
    view = json.loads(lines[5])

    def refused(*given: str) -> str:
        text = "\n".join(given)
        return cairn("verify", mirror, "--key", vkey, "--data", "-", stdin=text, code=1).output

    other = cairn("export").output.splitlines()
    assert "block 0 of the data is not the one that was signed" in refused(*other)
    assert "block 5 breaks rule 'size'" in refused(
        *lines[:5], json.dumps(view | {"data": "no"}), *lines[6:]
    )
    assert "block 5 of the data" in refused(*lines[:5], *lines[6:])
    assert "the data ends before block 599" in refused(*lines[:-1])
    assert "goes on after the 600 blocks" in refused(*lines, lines[-1])
    for bad in ("{", "[]", json.dumps({**view, "more": 1}), lines[5][:-9]):
        assert "line 6 of the data: " in refused(*lines[:5], bad, *lines[6:])
    assert "line 1 of the data: " in refused("\xff\0")


def test_mirror_is_brought_up_to_date(directory: Path, tmp_path: Path) -> None:
    """Full tiles are left as they are; every state between is one that verifies."""
    folder = tmp_path / "mirror"
    cairn("export", "--tiles", folder)
    for size in (300, 512, 700):
        with Ledger.open(directory) as ledger:
            ledger.extend(range(size - len(ledger)))
        full = [folder / path for path in ("tile/0/000", "tile/entries/000")]
        before = [file.stat().st_mtime_ns for file in full if file.exists()]
        output = cairn("export", "--tiles", folder).output
        assert output == f"wrote the checkpoint of {size} blocks, and its tiles, to {folder}\n"
        after = [file.stat().st_mtime_ns for file in full]
        assert before in ([], after)
        assert f"VERIFIED: {size} blocks" in cairn("verify", folder).output
    assert not list(folder.rglob(".*"))


def test_mirror_of_another_ledger_is_left_alone(directory: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "mirror", tmp_path / "other"
    cairn("export", "--tiles", folder)
    before = reference.read(folder)
    cairn("init", "--ledger", other)
    output = cairn("export", "--tiles", folder, "--ledger", other, code=2).output
    assert f"{folder} has the mirror of cairn/" in output
    assert reference.read(folder) == before
    cairn("export", "--tiles", folder, "-o", tmp_path / "x", code=2)
    (tmp_path / "file").write_text("")
    assert (
        "the mirror cannot be written"
        in cairn("export", "--tiles", tmp_path / "file", code=2).output
    )


# Rewriting


def test_validate_finds_a_rewritten_and_rechained_ledger_by_what_was_signed(
    directory: Path, tmp_path: Path, home: Path
) -> None:
    file = tmp_path / "receipt"
    cairn("receipt", 4, "-o", file)
    assert cairn("validate").output.startswith("valid: ")
    with forging(directory, cover_tracks=True) as blocks:
        blocks[4].entries[0] = blocks[4].entries[0][:16] + b'{"n":"rewritten"}'
        rechain(blocks)
    output = cairn("validate", code=1).output
    assert "block 11 breaks rule 'checkpoint': the first 12 blocks are not those" in output
    report = json.loads(cairn("validate", "--json", "--all", code=1).output)
    assert report["failure"]["rule"] == "checkpoint"
    for command in (("receipt", 4), ("export", "--tiles", tmp_path / "mirror")):
        assert "the evidence is in " in cairn(*command, code=1).output
    evidence = sorted((home / "evidence").iterdir())
    assert evidence
    assert Receipt.parse(file.read_bytes()).checkpoint in evidence[0].read_text("utf-8")
    assert '{"n":4}' in cairn("verify", file).output, "what was given away still proves"


def test_validate_finds_a_truncated_ledger_by_what_was_signed(directory: Path) -> None:
    cairn("receipt", 4)
    with forging(directory, cover_tracks=True) as blocks:
        del blocks[9:]
    output = cairn("validate", code=1).output
    assert "breaks rule 'checkpoint': the ledger was cut since" in output


def test_validate_by_somebody_who_has_seen_nothing_finds_nothing(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes alone do not catch a rewriter: a remembered head does."""
    cairn("receipt", 4)
    vkey = own_key()
    with forging(directory, cover_tracks=True) as blocks:
        blocks[4].entries[0] = blocks[4].entries[0][:16] + b'{"n":"rewritten"}'
        rechain(blocks)
    elsewhere(monkeypatch, tmp_path)
    assert cairn("validate").output.startswith("valid: ")
    cairn("key", "trust", vkey)  # then the published checkpoint counts
    assert "breaks rule 'checkpoint'" in cairn("validate", code=1).output
    assert Policy((VerifierKey.parse(vkey),)).keys
