"""`cairn bench`: figures that belong to one another, and rivals that are fair and do check."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from cairn import Ledger
from cairn.bench import rivals, show, validate
from cairn.bench.data import build, objects, strings
from cairn.bench.measure import Contender, Spread, in_turn, number, others_cpu, with_range
from cairn.cli import main
from cairn.core.canonical import canonical
from cairn.core.header import HEADER_BYTES
from cairn.hashing.lanes import INSTRUCTION_SETS
from cairn.lab.tampering import Forgery, forging
from cairn.store.flat import Part

SIZES = validate.QUICK.sizes
SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Run:
    tables: list[list[list[str]]]
    """Tables, rows, cells; without the line under the heading."""
    value: dict[str, Any]
    svg: str


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("bench")
    files = ["--json", str(folder / "figures.json"), "--svg", str(folder / "chart.svg")]
    command = [sys.executable, "-m", "cairn", "bench", "validate", "--quick", *files]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return Run(
        tables(result.stdout),
        json.loads((folder / "figures.json").read_text()),
        (folder / "chart.svg").read_text(),
    )


def tables(text: str) -> list[list[list[str]]]:
    found = re.findall(r"^\|.*\n\|(?:---\|)+\n(?:\|.*\n)+", text, flags=re.MULTILINE)
    return [
        [line.strip("| ").split(" | ") for line in table.splitlines() if not line.startswith("|-")]
        for table in found
    ]


# What a run says


def test_the_figures_are_those_of_every_contender_and_size(quick: Run) -> None:
    assert [size["size"] for size in quick.value["sizes"]] == list(SIZES)
    for size in quick.value["sizes"]:
        rates = {rate["name"]: rate for rate in size["rates"]}
        here = {validate.OPENSSL} if rivals.openssl_version() else set()
        if INSTRUCTION_SETS:
            here |= {
                validate.CEILING,
                *(f"cairn, lanes-{i}, 1 thread" for i in INSTRUCTION_SETS[1:]),
            }
        always = {validate.EXAMPLE, validate.EXAMPLE_OBJECTS, validate.EXAMPLE_JSON}
        always |= {validate.CAREFUL, validate.OURS, validate.OURS_OBJECTS}
        assert rates.keys() >= always | here
        assert "cairn, hashlib, a process for each core" in rates
        assert len(rates) == len(size["rates"])
        for rate in rates.values():
            spread, scaled = rate["per_second"], rate["gigabytes_per_second"]
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
            message = rate["name"] == validate.OPENSSL
            assert rate["bytes"] == size["size"] + 16 + (1 if message else HEADER_BYTES)
            assert scaled["median"] == pytest.approx(spread["median"] * rate["bytes"] / 1e9)


def test_ratios_are_those_of_the_medians_shown(quick: Run) -> None:
    for column, size in enumerate(quick.value["sizes"], start=1):
        blocks = {rate["name"]: rate["per_second"]["median"] for rate in size["rates"]}
        data = {rate["name"]: rate["gigabytes_per_second"]["median"] for rate in size["rates"]}
        objects_, ours = blocks["cairn, all cores, objects"], blocks["cairn, all cores"]
        expected = {
            "over the example, strings": ours / blocks["example's loop, strings"],
            "over the example, objects": objects_ / blocks["example's loop, objects"],
            "over the example, objects as sorted JSON": objects_
            / blocks["example's loop, objects as sorted JSON"],
            "over the careful loop": ours / blocks["careful hashlib loop, 1 thread"],
        }
        if rivals.openssl_version():
            expected["over OpenSSL"] = data["cairn, all cores"] / data["openssl speed, all cores"]
        if INSTRUCTION_SETS:
            expected["of the ceiling"] = ours / blocks["pure compressions, all cores"]
        assert {r["name"]: r["value"] for r in size["ratios"]} == pytest.approx(expected)
        goals = {r["name"]: r["goal"] for r in size["ratios"]}
        shown = {row[0]: row[column] for row in quick.tables[0][1:]}
        assert shown == {
            name: number(value) + (f" ({goals[name]:g})" if goals[name] else "")
            for name, value in expected.items()
        }


def test_the_tables_show_the_figures(quick: Run) -> None:
    ratios, blocks, data = quick.tables
    for table in (ratios, blocks, data):
        assert table[0][1:] == ["64 B", "256 B"]
    for column, size in enumerate(quick.value["sizes"], start=1):
        rates = {r["name"]: Spread(**r["per_second"]).times(1e-3) for r in size["rates"]}
        assert {row[0]: row[column] for row in blocks[1:]} == {
            name: with_range(rate) for name, rate in rates.items()
        }
        medians = {r["name"]: r["gigabytes_per_second"]["median"] for r in size["rates"]}
        assert {row[0]: row[column] for row in data[1:]} == {
            name: number(median) for name, median in medians.items()
        }


def test_the_chart_shows_the_medians_within_its_frame(quick: Run) -> None:
    assert "prefers-color-scheme:dark" in quick.svg
    root = ElementTree.fromstring(quick.svg)
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    last = {
        r["name"]: r["gigabytes_per_second"]["median"] for r in quick.value["sizes"][-1]["rates"]
    }
    for name, _ in show.LINES:
        if name in last:
            assert f"{name}, {number(last[name])}" in texts
    heights = {}
    for path in root.iter(f"{SVG}path"):
        points = re.findall(r"([\d.]+) ([\d.]+)", path.attrib["d"])
        for x, y in points:
            assert 0 <= float(x) <= show.WIDTH
            assert show.TOP - 1 <= float(y) <= show.BOTTOM + 1
        heights[path.attrib["class"]] = float(points[0][1])
    first = {
        r["name"]: r["gigabytes_per_second"]["median"] for r in quick.value["sizes"][0]["rates"]
    }
    styles = [style for name, style in sorted(show.LINES, key=lambda line: -first.get(line[0], 0))]
    drawn = [heights[style] for style in styles if style in heights]
    assert drawn == sorted(drawn)


@pytest.mark.skipif(not INSTRUCTION_SETS, reason="the C kernel was not built here")
def test_the_search_is_shown_beside_its_ceiling() -> None:
    result = CliRunner().invoke(main, ["bench", "search", "--quick"])
    assert result.exit_code == 0, result.output
    [table] = tables(result.output)
    cells = dict(table[1:])
    for where in (
        *(f"{isa}, 1 thread" for isa in INSTRUCTION_SETS),
        f"{INSTRUCTION_SETS[0]}, all cores",
    ):
        rates = [
            float(cells[f"{what}, {where}"].split()[0].replace(",", ""))
            for what in ("search", "pure compressions")
        ]
        shown = cells[f"**of pure compressions, {where} (goal at least 0.8)**"]
        assert float(shown.removesuffix(" ×")) == pytest.approx(rates[0] / rates[1], rel=0.02)


def test_what_is_missing_is_said_and_all_else_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr(validate, "INSTRUCTION_SETS", ())
    plan = validate.Plan(example=640)
    with ThreadPoolExecutor() as pool:
        names = [c.name for c in validate.contenders(64, 81, plan, tmp_path, pool)]
    assert {validate.EXAMPLE, validate.CAREFUL, validate.OURS} <= set(names)
    assert not {validate.OPENSSL, validate.CEILING} & set(names)
    rates = {name: Spread(2e6, 1e6, 3e6) for name in names}
    result = validate.Result(64, 1000, 3, rates, dict.fromkeys(names, 184))
    outcome = validate.Outcome("this one", 0.256, 1, tuple(validate.missing()), (result,))
    text = show.markdown(outcome)
    assert "Not measured: openssl speed, all cores: openssl is not installed" in text
    assert "Not measured: pure compressions, all cores: the C kernel was not built" in text
    assert "1 rounds in turn; other programs took 26% of the cores meanwhile" in text
    assert "| over the careful loop | 1.00 |" in text
    assert "| over OpenSSL |" not in text
    assert "| cairn, all cores | 2,000 (1,000 to 3,000) |" in text
    assert "openssl" not in show.svg(outcome).partition("</style>")[2]


# How it measures


def test_contenders_run_in_turn_and_the_first_round_is_not_counted() -> None:
    ran: list[str] = []
    values = {"a": iter([100.0, 3.0, 1.0, 2.0]), "b": iter([0.0, 8.0, 9.0, 7.0])}

    def run(name: str) -> float:
        ran.append(name)
        return next(values[name])

    def contender(name: str) -> Contender:
        return Contender(name, lambda: run(name))

    rates = in_turn([contender("a"), contender("b")], 3, lambda _done: None)
    assert ran == ["a", "b"] * 4
    assert rates == {"a": Spread(2, 1, 3), "b": Spread(8, 7, 9)}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what others took")
def test_what_others_take_is_not_what_our_children_take() -> None:
    work = "import time\nwhile time.process_time() < 0.5: pass"
    with subprocess.Popen([sys.executable, "-c", work]) as child:
        before = others_cpu()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        not_yet_ours = others_cpu()
        child.wait()
        after = others_cpu()
    assert before is not None
    assert not_yet_ours is not None
    assert after is not None
    assert not_yet_ours - before > 0.4
    assert after - not_yet_ours < -0.4


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05678, "0.0568"), (0.999, "0.999"), (5.678, "5.68"), (56.78, "56.8"), (12345.6, "12,346")],
)
def test_numbers_show_what_counts(value: float, text: str) -> None:
    assert number(value) == text


def test_every_compression_that_the_format_needs_is_counted() -> None:
    def padded(message: bytes) -> int:
        message += b"\x80"
        while len(message) % 64 != 56:
            message += b"\x00"
        return len(message + bytes(8)) // 64

    for size in range(300):
        leaf, header = b"\x00" + bytes(16 + size), b"\x00" + bytes(HEADER_BYTES)
        assert validate.compressions(size) == padded(leaf) + padded(header)


@pytest.mark.parametrize("size", [64, 100, 256, 4096, 65536])
@pytest.mark.parametrize("values", [strings, objects])
def test_values_are_distinct_and_of_their_size(values: Callable[[int], Any], size: int) -> None:
    texts = [canonical(value) for value in islice(values(size), 100)]
    assert {len(text) for text in texts} == {size}
    assert len(set(texts)) == len(texts)


def test_objects_have_a_member_for_about_twenty_bytes() -> None:
    assert [len(next(objects(size))) for size in (64, 256, 4096)] == [3, 14, 210]


def test_what_is_measured_is_sealed(tmp_path: Path) -> None:
    blocks = build(tmp_path / "ledger", strings(64), 64, 1000)
    with Ledger.open(tmp_path / "ledger", read_only=True) as ledger:
        assert len(ledger) == blocks >= 1000
        assert all(isinstance(part, Part) for part in ledger._store.parts(0, blocks))


# The rivals


def test_the_example_hashes_the_text_of_its_fields() -> None:
    [genesis, block] = rivals.example_chain(["a", {"b": 1}], rivals.example_hash)
    text = f"1{block.timestamp}{{'b': 1}}{genesis.hash}"
    assert block.hash == sha256(text.encode()).hexdigest()
    [genesis, block] = rivals.example_chain(["a", {"c": 2, "b": 1}], rivals.example_json_hash)
    text = f'1{block.timestamp}{{"b": 1, "c": 2}}{genesis.hash}'
    assert block.hash == sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("field", ["index", "timestamp", "data", "hash"])
def test_the_example_notices_a_change_after_genesis(field: str) -> None:
    chain = rivals.example_chain(list("abc"), rivals.example_hash)
    assert rivals.example_is_valid(chain, rivals.example_hash)
    for at, valid in ((0, field != "hash"), (1, False), (2, False)):
        kept = getattr(chain[at], field)
        setattr(chain[at], field, "changed")
        assert rivals.example_is_valid(chain, rivals.example_hash) is valid
        setattr(chain[at], field, kept)


CHANGES: dict[str, Callable[[Forgery], object]] = {
    "data": lambda block: block.entries.__setitem__(0, block.entries[0][:-1] + b"9"),
    "hash": lambda block: setattr(block, "hash", bytes(32)),
    "link": lambda block: block.change(previous_hash=bytes(32)),
    "index": lambda block: block.change(index=7),
    "timestamp": lambda block: block.change(timestamp=1),
    "kind": lambda block: block.change(kind=1),
    "version": lambda block: block.change(version=2),
    "bits": lambda block: block.change(bits=1),
    "nonce": lambda block: block.change(nonce=1),
    "size": lambda block: block.change(size=1),
    "root": lambda block: block.change(data_root=bytes(32)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_careful_loop_finds_what_was_changed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(range(5))
        assert rivals.validate_by_hashlib(ledger) == 6
    with forging(path, cover_tracks=False) as blocks:
        CHANGES[name](blocks[3])
        if name not in ("data", "hash"):
            blocks[3].hash = blocks[3].header.hash
            for before, after in pairwise(blocks[3:]):
                after.change(previous_hash=before.hash)
                after.hash = after.header.hash
    with Ledger.open(path, read_only=True) as ledger, pytest.raises(ValueError, match="block 3 "):
        rivals.validate_by_hashlib(ledger)


def test_openssl_s_total_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "openssl"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program.write_text(
        '#!/bin/sh\necho "Got: +F:25:sha256:1.00 from 0"\necho "+F:25:sha256:8100.00"\n'
    )
    program.chmod(0o755)
    assert rivals.openssl_rate(81, 2) == 100
    program.write_text("#!/bin/sh\necho no such option >&2\n")
    with pytest.raises(ValueError, match="no such option"):
        rivals.openssl_rate(81, 2)
