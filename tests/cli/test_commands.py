"""The command line: what it prints, what it writes, how it exits."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cairn import Ledger
from cairn.cli import main
from cairn.lab.tampering import forging, rechain
from cairn.store.directory import FILE_NAME
from tests.conftest import shared

CAIRN = (sys.executable, "-m", "cairn")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger"
    monkeypatch.setenv("CAIRN_LEDGER", str(path))
    return path


def cairn(*arguments: str | Path, code: int = 0, stdin: str | bytes = "") -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert result.exit_code == code, result.output
    return result


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run([*CAIRN, *arguments], capture_output=True, text=True, check=False)


def add(*values: object) -> None:
    cairn("add", "-", stdin="".join(json.dumps(value) + "\n" for value in values))


def test_init_creates_a_ledger_once(directory: Path) -> None:
    assert "created" in cairn("init", "--name", "audit", "--message", "hello").output
    with Ledger.open(directory, read_only=True) as ledger:
        assert (ledger.genesis.name, ledger.genesis.message) == ("audit", "hello")
    assert "exists already" in cairn("init", code=2).output
    assert (
        "1 to 255 characters" in cairn("init", "--ledger", "x", "--name", "x" * 256, code=2).output
    )


def test_real_events_are_recorded_and_validate_in_a_new_process(directory: Path) -> None:
    file = shared("data/cloudtrail.ndjson")
    output = subprocess.run(
        [*CAIRN, "add", file], capture_output=True, text=True, check=True
    ).stdout
    assert output.startswith("recorded 2900 entries in ")
    with Ledger.open(directory, read_only=True) as ledger:
        head = ledger.head.hash
        for block, line in zip(ledger[1:], file.read_bytes().splitlines(), strict=True):
            assert block.data == json.loads(line)
    shown = subprocess.run(
        [*CAIRN, "show", "2900"], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(shown)["hash"] == head
    result = subprocess.run([*CAIRN, "validate"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("valid: 2901 blocks, ")


def test_add_reads_lines_blank_ones_aside_and_a_last_one_without_its_end() -> None:
    assert "recorded 3 entries" in cairn("add", "-", stdin='1\n\n  \r\n{"a": 2}\r\n"last"').output
    values = [json.loads(line)["data"] for line in cairn("log", "--json").output.splitlines()]
    assert values[1:] == [1, {"a": 2}, "last"]
    assert "recorded 0 entries" in cairn("add", "-").output


def test_add_stops_at_a_bad_line_and_says_what_is_durable(tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_text('1\n\n2\n{"a":1,"a":2}\n3\n')
    output = cairn("add", file, code=2).output
    assert "line 4 is refused: duplicate key 'a'; the 2 entries before it are durable" in output
    assert len(cairn("log", "--json").output.splitlines()) == 3


def test_add_counts_lines_across_chunks(tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_text("".join(f'"{i:0100}"\n' for i in range(30_000)) + "NaN\n")
    output = cairn("add", file, code=2).output
    assert "line 30001 is refused: NaN is not JSON; the 30000 entries" in output


def test_add_records_what_a_pipe_has_ready_before_it_waits(directory: Path) -> None:
    with subprocess.Popen([*CAIRN, "add", "-"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n2\n3")
        process.stdin.flush()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.05)
            if (directory / FILE_NAME).exists():
                with Ledger.open(directory, read_only=True) as ledger:
                    if len(ledger) == 3:
                        break
        else:
            pytest.fail("the two whole lines were not recorded while the pipe was open")
        process.stdin.close()
        assert process.wait() == 0
    assert "valid: 4 blocks" in cairn("validate").output


def test_a_line_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn.cli.write.MAX_LINE", 1000)
    monkeypatch.setattr("cairn.cli.write.CHUNK", 100)
    assert "a line is longer than 1000 bytes" in cairn("add", "-", stdin="x" * 2000, code=2).output


def test_show_finds_a_block_by_index_and_by_hash(directory: Path) -> None:
    add({"id": 2**63, "é": "😀\u001b[31m"}, "second")
    by_index = cairn("show", "1").output
    view = json.loads(by_index)
    assert list(view)[:5] == ["index", "timestamp", "data", "previous_hash", "hash"]
    assert view["data"] == {"id": 2**63, "é": "😀\u001b[31m"}
    assert "\u001b" not in by_index
    assert cairn("show", view["hash"]).output == by_index
    assert "no block 3; the ledger has 3" in cairn("show", "3", code=2).output
    assert "no block with hash" in cairn("show", "0" * 64, code=2).output
    assert "neither an index nor a hash" in cairn("show", "zz", code=2).output


def test_log_is_a_table_of_one_line_a_block() -> None:
    add("plain", {"text": "two\nlines\u001b[2J"})
    lines = cairn("log").output.splitlines()
    assert lines[0].split() == ["index", "time", "(UTC)", "hash", "kind", "data"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2"]
    assert re.search(r'T\d\d:\d\d:\d\dZ  [0-9a-f]{12}  value   "plain"$', lines[2])
    assert r'{"text":"two\nlines\u001b[2J"}' in lines[3]


def test_log_filters_by_time_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([f"2026-01-0{day}T12:00:00+00:00" for day in range(1, 6)])

    def clock() -> int:
        from datetime import datetime

        return int(datetime.fromisoformat(next(times)).timestamp()) * 1_000_000

    monkeypatch.setattr("cairn.ledger.ledger.now_us", clock)
    monkeypatch.setattr(Ledger.__init__, "__kwdefaults__", {"clock": clock, **_others()})
    for value in ("a", "b", "ab", "c"):
        add(value)

    def data(*options: str) -> list[object]:
        lines = cairn("log", "--json", *options).output.splitlines()
        return [json.loads(line)["data"] for line in lines]

    assert data("--since", "2026-01-03") == ["b", "ab", "c"]
    assert data("--since", "2026-01-03T12:00:00Z", "--until", "2026-01-04T14:00:00+02:00") == ["b"]
    assert data("--until", "2026-01-02", "--grep", "x") == []
    assert data("--grep", "^.a") == ["a", "ab"]
    assert data("--since", "1h") == []
    assert data("--since", "99999d")[1:] == ["a", "b", "ab", "c"]
    assert "neither a time" in cairn("log", "--since", "soon", code=2).output
    assert "not a regular expression" in cairn("log", "--grep", "(", code=2).output


def _others() -> dict[str, object]:
    defaults = dict(Ledger.__init__.__kwdefaults__ or {})
    defaults.pop("clock")
    return defaults


def test_log_follows_until_it_is_stopped(directory: Path) -> None:
    add("before")
    command = [*CAIRN, "log", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["index"] for _ in range(2)]
        for i in range(3):
            with Ledger.open(directory) as ledger:
                ledger.append(i)
            seen.append(json.loads(process.stdout.readline())["index"])
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert seen == [0, 1, 2, 3, 4]


def test_validate_exits_1_and_names_block_and_rule(directory: Path) -> None:
    add(1, 2, 3)
    assert cairn("validate").output.startswith("valid: 4 blocks, ")
    report = json.loads(cairn("validate", "--json").output)
    assert (report["valid"], report["blocks"]) == (True, 4)
    assert report.keys() == {"valid", "execution_time", "blocks", "bytes"}
    with forging(directory, cover_tracks=False) as blocks:
        blocks[1].change(version=9)
        blocks[3].change(nonce=1)
    output = cairn("validate", code=1).output
    assert output.startswith("NOT VALID: ")
    assert "block 1 breaks rule 'version'" in output
    assert "block 3" not in output
    assert "block 3 breaks rule 'hash'" in cairn("validate", "--all", code=1).output
    report = json.loads(cairn("validate", "--json", "--all", code=1).output)
    assert (report["valid"], report["failed_block"]) == (False, 1)
    assert report["failure"]["rule"] == "version"
    assert [failure["index"] for failure in report["failures"]] == [1, 3]


def test_validate_says_to_a_program_how_far_it_is(directory: Path) -> None:
    add(*range(9))
    assert run("validate", "--json").stderr == ""
    result = run("validate", "--json", "--progress")
    assert json.loads(result.stdout)["blocks"] == 10
    line, *_ = map(json.loads, result.stderr.splitlines())
    assert line.keys() == {"blocks", "of", "bytes", "seconds"}
    assert (line["blocks"], line["of"]) == (10, 10)
    assert line["bytes"] > 0
    assert line["seconds"] >= 0


def test_validate_takes_a_portion_and_starts_where_it_ended(directory: Path) -> None:
    add(*range(9))
    assert cairn("validate", "--from", "4").output.startswith("valid: 6 blocks, ")
    assert cairn("validate", "--from", "10").output.startswith("valid: 0 blocks, ")
    output = cairn("validate", "--from", "11", code=2).output
    assert "there is no block 11; the ledger has 10" in output
    cairn("validate", "--from", "-1", code=2)
    assert not (directory / "validated.json").exists()
    assert cairn("validate", "--incremental").output.startswith("valid: 10 blocks, ")
    assert cairn("validate", "--incremental").output.startswith("valid: 0 blocks, ")
    add("more")
    assert cairn("validate", "--incremental").output.startswith("valid: 1 blocks, ")
    assert cairn("validate").output.startswith("valid: 11 blocks, ")
    output = cairn("validate", "--incremental", "--from", "3", code=2).output
    assert "an incremental run starts where the last one ended" in output
    with forging(directory, cover_tracks=True) as blocks:
        del blocks[-1]
    result = run("validate", "--incremental")
    assert (result.returncode, result.stderr) == (1, "")
    assert "block 10 breaks rule 'mark': the chain is shorter than when" in result.stdout
    assert run("validate", "--from", "3").returncode == 0


def test_validate_gives_its_verdict_where_it_cannot_note_it(directory: Path) -> None:
    add(1)
    (directory / "validated.json").mkdir()
    result = run("validate", "--incremental")
    assert (result.returncode, result.stdout[:16]) == (0, "valid: 2 blocks,")
    assert "RuntimeWarning: validated.json cannot be written: " in result.stderr


def test_validate_finds_json_that_is_not_canonical(directory: Path) -> None:
    add(1, 2)
    with forging(directory, cover_tracks=True) as blocks:
        blocks[1].entries[0] = blocks[1].entries[0][:-1] + b" 1"
        rechain(blocks)
    assert run("validate").returncode == 0
    result = run("validate", "--canonical", "--all")
    assert result.returncode == 1
    assert "block 1 breaks rule 'canonical': the data is not canonical JSON" in result.stdout


def test_validate_names_the_hashers_there_are_and_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(1)
    assert "valid: 2 blocks" in cairn("validate", "--hasher", "hashlib").output
    output = cairn("validate", "--hasher", "md5", code=2).output
    assert "no hasher is called 'md5'; here are hashlib" in output
    for address in ("nonsense", "foo://localhost:1", "tls://localhost:1"):
        output = cairn("validate", "--dask", address, code=2).output
        assert f"there is no Dask scheduler at {address}: " in output
    monkeypatch.setitem(sys.modules, "distributed", None)
    output = cairn("validate", "--dask", "tcp://localhost:1", code=2).output
    assert "Dask is not installed: pip install 'cairn-ledger[dask]'" in output


def test_a_damaged_file_exits_1_without_a_traceback(directory: Path) -> None:
    add(1)
    (directory / "tail.sqlite").write_bytes(b"junk" * 5000)
    for command in (["validate"], ["log"], ["show", "1"], ["export"], ["add", "-"]):
        result = subprocess.run(
            [*CAIRN, *command],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert result.returncode == 1, command
        assert "Traceback" not in result.stderr
        assert "tail.sqlite cannot be read: file is not a database" in result.stderr


def test_data_that_is_no_json_any_more_is_shown_as_damage(directory: Path) -> None:
    add("text")
    with forging(directory, cover_tracks=False) as blocks:
        blocks[1].entries[0] = blocks[1].entries[0][:-1] + b"\xff"
    assert '"text�' in cairn("log").output
    for command in (["show", "1"], ["export"], ["log", "--json"]):
        assert "the data of block 1 is not JSON" in cairn(*command, code=1).output


@pytest.mark.parametrize("command", [["validate"], ["log"], ["show", "0"], ["export"]])
def test_an_absent_ledger_exits_2(command: list[str], directory: Path) -> None:
    assert f"there is no ledger at {directory}" in cairn(*command, code=2).output


def test_a_locked_ledger_exits_2_and_names_the_holder() -> None:
    add(1)
    with subprocess.Popen([*CAIRN, "add", "-"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b'"holding"\n')
        process.stdin.flush()
        deadline = time.monotonic() + 20
        while "valid: 3" not in cairn("validate").output and time.monotonic() < deadline:
            time.sleep(0.05)
        output = cairn("add", "-", stdin="2", code=2).output
        assert f"is being written by process {process.pid} on" in output
        process.stdin.close()


def test_export_and_import_give_the_same_chain(tmp_path: Path, directory: Path) -> None:
    add({"big": 18446744073709551615, "tiny": 1e-7, "é": ["😀", None, True]}, "x" * 5000, [])
    exported = cairn("export").output
    assert len(exported.splitlines()) == 4
    file = tmp_path / "export.ndjson"
    cairn("export", "-o", file)
    assert file.read_text() == exported
    other = tmp_path / "other"
    output = cairn("import", file, "--ledger", other).output
    with Ledger.open(directory, read_only=True) as ledger:
        assert f"imported 4 blocks, all valid; head {ledger.head.hash}" in output
    assert cairn("export", "--ledger", other).output == exported
    with Ledger.open(other) as ledger:
        assert ledger.append("goes on").index == 4


def test_import_takes_reformatted_json_but_no_other_values(tmp_path: Path) -> None:
    add({"b": 1, "a": 2}, "x")
    views = [json.loads(line) for line in cairn("export").output.splitlines()]
    loose = "\n\n".join(json.dumps(dict(reversed(view.items()))) for view in views)
    cairn("import", "-", "--ledger", tmp_path / "loose", stdin=loose)

    def refused(index: int, code: int = 1, **members: object) -> str:
        changed = [view | members if view["index"] == index else view for view in views]
        lines = "\n".join(json.dumps(view) for view in changed)
        target = tmp_path / "refused"
        output = cairn("import", "-", "--ledger", target, stdin=lines, code=code).output
        assert not target.exists()
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
        return output

    assert "block 1 breaks rule 'data_root'" in refused(1, data={"b": 1, "a": 3})
    assert "block 1 breaks rule 'hash'" in refused(1, hash="00" * 32)
    assert "line 3: timestamp is" in refused(2, timestamp="2026-01-01T00:00:00.000000Z")
    assert "line 2: salt has 32 lower-case hex digits" in refused(1, salt="xx")
    assert "line 2: a block is an object with the members" in refused(1, extra=1)
    assert "block 0 breaks rule" in refused(0, data={"format": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "block 0 breaks rule 'kind'"),
        (lambda lines: [lines[0], *lines[2:]], "block 1 breaks rule 'index'"),
        (lambda lines: [*lines, lines[-1]], "block 3 breaks rule 'index'"),
        (lambda lines: [lines[0], lines[2], lines[1]], "block 1 breaks rule 'index'"),
        (lambda lines: [], "there is no block to import"),
        (lambda lines: [lines[0], "{"], "line 2: not JSON"),
    ],
)
def test_import_refuses_a_broken_chain(tmp_path: Path, change: object, message: str) -> None:
    add(1, 2)
    lines = cairn("export").output.splitlines()
    assert callable(change)
    target = tmp_path / "refused"
    output = cairn("import", "-", "--ledger", target, stdin="\n".join(change(lines)), code=1).output
    assert message in output
    assert not target.exists()


def test_import_does_not_touch_a_ledger_that_is_there(directory: Path) -> None:
    add(1)
    exported = cairn("export").output
    assert f"{directory} exists already" in cairn("import", "-", stdin=exported, code=2).output


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, directory: Path) -> None:
    add("good", "bad")
    file = tmp_path / "export"
    file.write_text("the export of yesterday")
    with forging(directory, cover_tracks=False) as blocks:
        blocks[2].entries[0] = blocks[2].entries[0][:-1]
    cairn("export", "-o", file, code=1)
    assert file.read_text() == "the export of yesterday"


def test_export_writes_into_what_is_no_regular_file(tmp_path: Path) -> None:
    add(1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        cairn("export", "-o", pipe)
        assert reader.communicate()[0] == cairn("export").output
    assert pipe.is_fifo()
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    cairn("export", "-o", link)
    assert link.is_symlink()
    assert target.read_text() == cairn("export").output


def test_odd_arguments_are_used_wrongly_not_crashes(tmp_path: Path) -> None:
    add("\x9b31m\x7f")
    for block in ("9" * 30, "9" * 5000):
        cairn("show", block, code=2)
    cairn("log", "--since", "99999999999d", code=2)
    output = cairn("show", "1").output
    assert r"\u009b31m\u007f" in output
    assert json.loads(output)["data"] == "\x9b31m\x7f"
    cairn("init", "--ledger", tmp_path / "other", "--name", "", code=2)


def test_exit_codes_of_a_closed_pipe_and_ctrl_c_are_not_those_of_a_bad_ledger() -> None:
    add(*("x" * 1000 for _ in range(500)))
    log = f"{sys.executable} -m cairn log --json"
    command = f"{log} | head -c 100 >/dev/null; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 141
    follow = [*CAIRN, "log", "--follow"]
    with subprocess.Popen(follow, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(20) == 130


def test_backup_copies_a_ledger_that_validates(tmp_path: Path) -> None:
    add(*range(100))
    assert "copied 101 blocks" in cairn("backup", tmp_path / "copy").output
    assert "valid: 101 blocks" in cairn("validate", "--ledger", tmp_path / "copy").output
    assert "exists already" in cairn("backup", tmp_path / "copy", code=2).output


def test_output_that_is_no_longer_read_is_no_error() -> None:
    add(*("x" * 1000 for _ in range(500)))
    command = f"{sys.executable} -m cairn log --json | head -c 100"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stderr == ""


def test_a_progress_bar_is_drawn_for_a_person() -> None:
    add(*range(1000))
    command = ["script", "-qec", f"{sys.executable} -m cairn validate", "/dev/null"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "TERM": "xterm"}
    )
    assert "validating" in result.stdout
    assert "100%" in result.stdout
    assert re.search(r"[\d,]+ blocks/s  \d+\.\d\d GB/s \S*0:00:00", result.stdout)
    assert "valid: 1001 blocks" in result.stdout


def test_demo_shows_what_each_attack_is_caught_by() -> None:
    output = cairn("demo").output
    assert "53 caught, 0 not." in output
    for caught_by, times in (("checkpoint", 4), ("head", 2), ("clients", 1), ("a witness", 1)):
        assert output.count(f"│ {caught_by} ") == times


def test_usage_errors_exit_2() -> None:
    for arguments in (["nothing"], ["add"], ["add", "/no/such/file"], ["validate", "--nothing"]):
        cairn(*arguments, code=2)
    assert cairn("--version").output.startswith("cairn ")


def test_erase_removes_an_entry_and_says_what_is_out_of_reach(directory: Path) -> None:
    add({"user": "alice"}, "kept")
    result = cairn("erase", "1", "--reason", "asked for", "--yes")
    assert result.output == (
        "erased block 1; block 3 records it\n"
        "Out of reach: earlier exports, backups and receipts, and the copies of other nodes.\n"
    )
    shown = json.loads(cairn("show", "1").output)
    assert (shown["data"], shown["salt"]) == ({"erased": shown["data_root"]}, None)
    assert json.loads(cairn("show", "3").output)["data"]["reason"] == "asked for"
    assert cairn("validate").output.rstrip().endswith(" blocks/s), 1 erased; chained")
    assert json.loads(cairn("validate", "--json", "--canonical").output)["erased"] == 1
    assert "alice" not in cairn("log").output + cairn("export").output
    assert not any(b"alice" in path.read_bytes() for path in directory.rglob("*"))


def test_erase_asks_first(directory: Path) -> None:
    add("one", "two")
    command = [*CAIRN, "erase", "1", "--reason", "asked for"]
    for answer, code in ((b"n\n", 2), (b"y\n", 0)):
        terminal, its_end = pty.openpty()
        with subprocess.Popen(
            command, stdin=its_end, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            os.write(terminal, answer)
            assert process.stdout is not None
            said = process.stdout.read().decode()
        os.close(terminal)
        os.close(its_end)
        assert process.returncode == code, said
        assert re.search(r"Erase block 1, of 20\S+Z, for good\? \[y/N\]", said)
        with Ledger.open(directory, read_only=True) as ledger:
            assert ledger[1].erased == (code == 0)
    assert "nobody to ask: --yes" in cairn("erase", "2", "--reason", "x", code=2).output


def test_erase_refuses(directory: Path) -> None:
    absent = cairn("erase", "1", "--reason", "x", "--yes", code=2)
    assert "there is no ledger" in absent.output
    assert not directory.exists()
    add("one")
    cairn("erase", "1", "--reason", "x", "--yes")
    for index, code, said in (
        ("1", 2, "block 1 is erased already"),
        ("0", 2, "block 0 is genesis"),
        ("2", 2, "block 2 is a record"),
        ("9", 2, "there is no block 9"),
        ("-1", 2, ""),
        ("one", 2, "not a valid integer"),
    ):
        assert said in cairn("erase", "--reason", "x", "--yes", "--", index, code=code).output
    assert "Missing option '--reason'" in cairn("erase", "1", "--yes", code=2).output
    assert "1 to 1000 characters" in cairn("erase", "1", "--reason", "", "--yes", code=2).output
    add("two", "three")
    with forging(directory, cover_tracks=False) as blocks:
        blocks[3].entries[0] = blocks[3].entries[0][:-2] + b'2"'
    assert "damaged" in cairn("erase", "3", "--reason", "x", "--yes", code=1).output
    with (
        Ledger.open(directory),
        subprocess.Popen(
            [*CAIRN, "erase", "4", "--reason", "x", "--yes"], stderr=subprocess.PIPE
        ) as process,
    ):
        assert b"is being written by process" in process.communicate()[1]
        assert process.returncode == 2
