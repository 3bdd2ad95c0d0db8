"""The documents say what is so: their examples run, their tables and links agree with the code."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from cairn.api.bounds import Bounds
from cairn.api.metrics import Metrics
from cairn.cli import main
from cairn.core.genesis import Limits
from cairn.core.header import HEADER_DTYPE, Kind
from cairn.core.rules import NUMBERS

ROOT = Path(__file__).parent.parent
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
README = (ROOT / "README.md").read_text()
FORMAT = (ROOT / "docs" / "format.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def assert_matches(expected: str, found: str) -> None:
    """`…` in what the document shows stands for anything on that line."""
    pattern = ".*".join(map(re.escape, expected.strip().split("…")))
    assert re.fullmatch(pattern, found.strip()), f"expected\n{expected}\nfound\n{found}"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name != "CAIRN_LEDGER"}
    return kept | {"PATH": path, "HOME": str(tmp_path), "COLUMNS": "200"}


@pytest.fixture
def node(tmp_path: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run a node in the lab; yield its URL."""
    command = [sys.executable, "-m", "cairn", "serve", "--lab", "--port", "0"]
    with subprocess.Popen(
        [*command, "--ledger", str(tmp_path / "node")],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield re.findall(r"http://\S+", process.stdout.readline())[0]
        process.terminate()


def run(command: list[str], directory: Path, environment: dict[str, str]) -> str:
    result = subprocess.run(
        command, cwd=directory, env=environment, check=True, capture_output=True, text=True
    )
    return result.stdout + result.stderr


def test_the_readme_s_programs_print_what_it_says(
    tmp_path: Path, environment: dict[str, str], node: str
) -> None:
    programs = re.findall(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", README, re.MULTILINE | re.DOTALL
    )
    assert len(programs) == 5
    for program, output in programs:
        program = program.replace("http://127.0.0.1:5000", node)
        assert_matches(output, run([sys.executable, "-c", program], tmp_path, environment))


def test_the_readme_s_commands_print_what_it_says(
    tmp_path: Path, environment: dict[str, str], node: str
) -> None:
    sessions = "".join(blocks(README, "console"))
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", sessions, flags=re.MULTILINE)
    assert len(commands) == 11
    for command, output in commands:
        command = (
            command.replace("curl", "curl -sS")
            .replace("http://", "")
            .replace("localhost:5000", node)
        )
        assert_matches(output, run(["bash", "-c", command], tmp_path, environment))


def test_the_readme_lists_every_command() -> None:
    listed = set(re.findall(r"`cairn (\w+)[^`]*`", README))
    assert listed == set(main.commands)


def test_every_option_the_readme_names_is_there() -> None:
    for line in re.findall(r"^\| `cairn (\w+).*(?:--.*)$", README, flags=re.MULTILINE):
        row = next(r for r in README.splitlines() if r.startswith(f"| `cairn {line}"))
        options = {option for parameter in main.commands[line].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", row)) <= options


def test_the_format_s_examples_compute_what_they_show() -> None:
    result = doctest.testfile(str(ROOT / "docs" / "format.md"), module_relative=False)
    assert result.attempted > 15
    assert result.failed == 0


def test_the_format_s_tables_are_those_of_the_code() -> None:
    fields = re.findall(r"^\| (\d+) \| (\d+) \| (\w+) \|", FORMAT, flags=re.MULTILINE)
    assert [(name, int(offset)) for offset, _, name in fields] == [
        (name, HEADER_DTYPE.fields[name][1])  # type: ignore[index]
        for name in HEADER_DTYPE.names or ()
    ]
    rules = re.findall(r"^\| (\d+) \| `(\w+)` \|", FORMAT, flags=re.MULTILINE)
    assert rules == [(str(n), name) for name, n in NUMBERS.items()]
    limits = re.findall(r"^\| `(\w+)` \| (\d+) \| ", FORMAT, flags=re.MULTILINE)
    assert {name: int(value) for name, value in limits} == {
        name: getattr(Limits(), name) for name in ("count", "size", "depth")
    }
    for kind in Kind:
        assert f'`"{kind.label}"`' in FORMAT


def test_operations_tells_of_every_metric() -> None:
    metrics = Metrics(length=lambda: 1, connections=lambda: 1).text().decode()
    exposed = set(
        re.findall(r"^# TYPE (cairn_\w+?)(?:_total)? (?!.*created)", metrics, re.MULTILINE)
    )
    exposed = {name for name in exposed if not name.endswith("_created")}
    assert set(re.findall(r"^\| `(cairn_\w+)` \|", OPERATIONS, flags=re.MULTILINE)) == exposed


def test_operations_tells_of_every_limit() -> None:
    told = re.findall(r"^\| `(\w+)` \| ([0-9.]+) \|", OPERATIONS, flags=re.MULTILINE)
    assert told == [(name, str(value)) for name, value in asdict(Bounds()).items()]


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", page.read_text()):
        assert not target or (page.parent / target).exists(), target


def test_the_changelog_knows_this_version() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
