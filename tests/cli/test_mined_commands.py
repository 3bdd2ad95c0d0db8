"""The command line on a work ledger: how it is made, added to, read, proved and copied."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cairn import Ledger
from cairn.cli import init, main
from cairn.core.genesis import Limits, Work
from cairn.core.segment import Segment
from cairn.core.work import MAX_BITS, work_of
from cairn.net import limits
from tests.builders import mined

EASY = ("init", "--seal", "work", "--interval", "1s", "--final-depth", "3", "--bits", "207fffff")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger"
    monkeypatch.setenv("CAIRN_LEDGER", str(path))
    return path


def cairn(*arguments: str | Path, code: int = 0, stdin: str | bytes = "") -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert result.exit_code == code, result.output
    return result


def grow(ledger: Ledger, *contents: list[Any], at: int) -> None:
    """Mine a batch of each of `contents` on the block before position `at`."""
    blocks = mined(*contents, first=ledger[:at])[at:]
    ledger.chain().advance([Segment.from_blocks(at, blocks)])


# Making one


def test_init_makes_a_work_ledger_and_says_of_what_kind(directory: Path) -> None:
    output = cairn("init", "--seal", "work", "--bits", "1d00ffff", "--message", "hello").output
    with Ledger.open(directory, read_only=True) as ledger:
        assert f"created {directory}, id {ledger.id}\n" in output
        seal = Work(interval=600 * 10**6, half_life=2 * 86_400 * 10**6, final_depth=60)
        assert ledger.genesis.seal == seal
        assert ledger.genesis.limits == Limits(size=2 * 2**20)
        assert (ledger.genesis.name, ledger.genesis.message) == ("ledger", "hello")
        assert ledger[0].header.bits == 0x1D00FFFF
    assert "one in 10m; the first target is 1d00ffff, 4295032833 hashes" in output
    assert "late by 2d, they are twice as easy; 60 blocks make one final" in output
    assert "exists already" in cairn("init", "--seal", "work", code=2).output


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("500ms", 500_000),
        ("10s", 10**7),
        ("10m", 6 * 10**8),
        ("2h", 72 * 10**8),
        ("1d", 864 * 10**8),
    ],
)
def test_lengths_of_time_are_read_and_shown(directory: Path, text: str, microseconds: int) -> None:
    options = ("--interval", text, "--half-life", text, "--final-depth", "7", "--bits", "207fffff")
    output = cairn("init", "--seal", "work", *options).output
    assert f"one in {text};" in output
    with Ledger.open(directory, read_only=True) as ledger:
        expected = Work(interval=microseconds, half_life=microseconds, final_depth=7)
        assert ledger.genesis.seal == expected


def test_first_target_is_what_a_core_meets_once_an_interval(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a million hashes a second, on a clock that only the search moves."""
    now = 0.0

    def search(_header: bytes, _first: int, count: int, _target: int) -> None:
        nonlocal now
        now += count / 10**6

    monkeypatch.setattr(init, "search", search)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    cairn("init", "--seal", "work", "--interval", "10s")
    with Ledger.open(directory, read_only=True) as ledger:
        assert work_of(ledger[0].header.bits) == pytest.approx(10**7, rel=1e-4)
    assert work_of(init.first_bits(10**6, cores=4)) == pytest.approx(4 * 10**6, rel=1e-4)
    monkeypatch.setattr(init, "TIMED_SECONDS", 10.0)
    assert work_of(init.first_bits(86_400 * 10**6)) == pytest.approx(864 * 10**8, rel=1e-4)


def test_first_target_is_never_easier_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**9))
    monkeypatch.setattr(init, "search", lambda *_: None)
    monkeypatch.setattr(time, "perf_counter", lambda: 10.0**9 * next(ticks))
    assert init.first_bits(1000) == MAX_BITS


def test_first_target_of_this_machine_is_one(directory: Path) -> None:
    cairn("init", "--seal", "work", "--interval", "1s")
    with Ledger.open(directory, read_only=True) as ledger:
        assert 10**4 < work_of(ledger[0].header.bits) < 10**12


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--interval", "1s"), "go with --seal work"),
        (("--seal", "instant", "--bits", "207fffff"), "go with --seal work"),
        (("--final-depth", "3"), "go with --seal work"),
        (("--seal", "work", "--interval", "1y"), "no length of time such as"),
        (("--seal", "work", "--interval", "10"), "no length of time such as"),
        (("--seal", "work", "--interval", "2d"), "seal.interval is an integer from"),
        (("--seal", "work", "--half-life", "1s"), "seal.half_life is an integer from"),
        (("--seal", "work", "--final-depth", "0"), "seal.final_depth is an integer from"),
        (("--seal", "work", "--bits", "xyz"), "no compact target of 8 hex digits"),
        (("--seal", "work", "--bits", "217fffff"), "do not go with the seal"),
        (("--seal", "play"), "is not one of"),
    ],
)
def test_init_refuses_what_is_no_work_ledger(
    directory: Path, options: tuple[str, ...], why: str
) -> None:
    assert why in cairn("init", *options, code=2).output
    assert not directory.exists()


# Adding to it, and what cannot be done


def test_add_submits_lines_and_prints_ids(directory: Path) -> None:
    cairn(*EASY)
    result = cairn("add", "-", stdin='1\n\n{"b": 1, "a": 2}\n1')
    ids = result.stdout.split()
    assert len(set(ids)) == 3
    assert result.stderr == "submitted 3 entries, which wait to be mined\n"
    with Ledger.open(directory, read_only=True) as ledger:
        assert [ledger.entry(one).status for one in ids] == ["pending"] * 3
        assert len(ledger) == 1


def test_add_to_a_work_ledger_stops_at_a_line_that_is_refused(directory: Path) -> None:
    cairn(*EASY)
    result = cairn("add", "-", stdin="1\n\n2\nNaN\n3\n", code=2)
    assert "line 4 is refused: " in result.stderr
    assert "the 2 entries before it are durable" in result.stderr
    with Ledger.open(directory, read_only=True) as ledger:
        pool = [one.id.hex() for one in ledger._store.pool()]
    assert result.stdout.split() == pool


def test_erase_and_rotate_say_why_not(directory: Path) -> None:
    cairn(*EASY)
    with Ledger.open(directory) as ledger:
        grow(ledger, [1], at=1)
    why = cairn("erase", "1", "--reason", "asked to", code=2).output
    assert "work ledger, of which every block is mined: there is no record of an erasure" in why
    assert "every node signs with a key of its own" in cairn("key", "rotate", code=2).output
    assert "valid: 2 blocks" in cairn("validate").output


# Reading it


def test_show_and_log_have_batches(directory: Path) -> None:
    cairn(*EASY)
    with Ledger.open(directory) as ledger:
        grow(ledger, ["a", {"b": 1}], [], at=1)
    shown = json.loads(cairn("show", "1").output)
    assert (shown["kind"], shown["data"], len(shown["salt"])) == ("batch", ["a", {"b": 1}], 2)
    assert shown["bits"] == "207fffff"
    rows = cairn("log").output.splitlines()
    assert [re.split(r"\s{2,}", row.strip())[-2:] for row in rows[2:]] == [
        ["batch", '["a",{"b":1}]'],
        ["batch", "[]"],
    ]
    assert [json.loads(row)["index"] for row in cairn("log", "--json").output.splitlines()] == [
        0,
        1,
        2,
    ]


def test_log_follows_a_chain_that_gives_way(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cairn(*EASY)
    with Ledger.open(directory) as ledger:
        grow(ledger, ["a"], ["b"], ["c"], at=1)

        def steps() -> Any:
            grow(ledger, ["d"], at=4)
            yield
            yield  # nothing new
            grow(ledger, ["c'"], ["d'"], ["e'"], at=3)
            yield
            grow(ledger, ["c''", 1], ["d''"], ["e''"], ["f''"], at=3)
            yield
            raise KeyboardInterrupt

        step = steps()
        monkeypatch.setattr(time, "sleep", lambda _: next(step))
        result = cairn("log", "--follow", "--json", code=130)
    rows = [json.loads(row) for row in result.stdout.splitlines()]
    expected = ["a", "b", "c", "d", "c'", "d'", "e'", "c''", "d''", "e''", "f''"]
    assert [row["data"][0] for row in rows[1:]] == expected
    assert result.stderr.splitlines() == [
        "blocks 3 to 4 gave way to a chain of more work",
        "blocks 3 to 5 gave way to a chain of more work",
    ]


def test_receipt_is_of_final_blocks_only(directory: Path, tmp_path: Path) -> None:
    cairn(*EASY)
    with Ledger.open(directory) as ledger:
        grow(ledger, ["a", "b"], ["c"], [], [], at=1)
    output = cairn("receipt", "2", "-o", tmp_path / "r", code=2).output
    assert "block 2 is confirmed and not final: 2 of 3 blocks follow it" in output
    cairn("receipt", "1", "--entry", "1", "-o", tmp_path / "r")
    output = cairn("verify", tmp_path / "r").output
    assert "PROVED: block 1" in output
    assert '"b"' in output
    assert "checkpoint of 2 blocks" in output


def test_mined_chain_goes_out_and_in_and_is_copied(directory: Path, tmp_path: Path) -> None:
    cairn(*EASY)
    with Ledger.open(directory) as ledger:
        grow(ledger, ["a", "b"], [], ["c"], [], [], at=1)
        head = ledger.head.hash
    cairn("export", "-o", tmp_path / "lines")
    output = cairn("import", tmp_path / "lines", "--ledger", tmp_path / "again").output
    assert f"imported 6 blocks, all valid; head {head}" in output
    cairn("backup", tmp_path / "copy")
    for copy in ("again", "copy"):
        cairn("export", "-o", tmp_path / copy / "lines", "--ledger", tmp_path / copy)
        assert (tmp_path / copy / "lines").read_bytes() == (tmp_path / "lines").read_bytes()
        assert "valid: 6 blocks" in cairn("validate", "--ledger", tmp_path / copy).output
    changed = (tmp_path / "lines").read_text().replace('["a","b"]', '["a","B"]')
    (tmp_path / "changed").write_text(changed)
    output = cairn("import", tmp_path / "changed", "--ledger", tmp_path / "not", code=1).output
    assert "block 1 breaks rule 'data_root'" in output
    assert not (tmp_path / "not").exists()


# Peers that are gone


@pytest.mark.parametrize("forgets", [False, True])
def test_a_node_whose_peers_are_gone_for_good_is_final_when_it_forgets_them(
    directory: Path, forgets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_SECONDS", 0.0)
    cairn(*EASY)
    with Ledger.open(directory) as ledger:
        ledger.chain().store.set_addresses(["ws://192.0.2.1:5000"])
    cairn("mine", "--blocks", "8", *(["--forget-peers"] if forgets else []))
    with Ledger.open(directory) as ledger:
        chain = ledger.chain()
        assert chain.length == 9
        assert (chain.final > 1) is forgets
        assert bool(chain.store.addresses()) is not forgets
