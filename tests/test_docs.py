"""The documents say what is so: their examples run, their tables and links agree with the code."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cairn.cli import main
from cairn.core.genesis import Limits
from cairn.core.header import HEADER_DTYPE, Kind
from cairn.core.rules import RULES

ROOT = Path(__file__).parent.parent
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


def test_the_readme_s_program_prints_what_it_says(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    programs, outputs = blocks(README, "python"), blocks(README, "text")
    assert len(programs) == len(outputs) == 1
    for program, output in zip(programs, outputs, strict=True):
        result = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        assert_matches(output, result.stdout)


def test_the_readme_s_commands_print_what_it_says(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    sessions = "".join(blocks(README, "console"))
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", sessions, flags=re.MULTILINE)
    assert len(commands) == 5
    for command, output in commands:
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        assert_matches(output, result.stdout + result.stderr)


def test_the_readme_lists_every_command() -> None:
    listed = set(re.findall(r"`cairn (\w+)[^`]*`", README))
    assert listed == set(main.commands)


def test_every_option_the_readme_names_is_there() -> None:
    for line in re.findall(r"^\| `cairn (\w+).*(?:--.*)$", README, flags=re.MULTILINE):
        row = next(r for r in README.splitlines() if r.startswith(f"| `cairn {line}"))
        options = {option for parameter in main.commands[line].params for option in parameter.opts}
        assert set(re.findall(r"--\w+", row)) <= options


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
    assert rules == [(str(n), rule.name) for n, rule in enumerate(RULES, start=1)]
    limits = re.findall(r"^\| `(\w+)` \| (\d+) \| ", FORMAT, flags=re.MULTILINE)
    assert {name: int(value) for name, value in limits} == {
        name: getattr(Limits(), name) for name in ("count", "size", "depth")
    }
    for kind in Kind:
        assert f'`"{kind.label}"`' in FORMAT


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", page.read_text()):
        assert not target or (page.parent / target).exists(), target


def test_the_changelog_knows_this_version() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
