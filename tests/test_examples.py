"""The examples run, and do what they say, on real repositories."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cairn import Ledger

ROOT = Path(__file__).parent.parent
GIT = ("git", "-c", "user.name=A Person", "-c", "user.email=person@example.org")


def git(repository: Path, *arguments: str) -> str:
    command = [*GIT, "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "-q")
    for number in range(3):
        git(path, "commit", "-q", "--allow-empty", "-m", f"commit {number}\n\nwith a body: é 😀")
    return path


def record(repository: Path, ledger: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "examples" / "git_history.py"
    command = [sys.executable, str(script), str(repository), "--ledger", str(ledger)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_commit_is_recorded_once_in_order(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    assert "recorded 3 commits" in record(repository, path).stdout
    git(repository, "commit", "-q", "--allow-empty", "-m", "one more")
    assert "recorded 1 commits" in record(repository, path).stdout
    assert "recorded 0 commits" in record(repository, path).stdout
    with Ledger.open(path, read_only=True) as ledger:
        recorded = [block.data["commit"] for block in ledger if block.kind == "value"]
        assert recorded == git(repository, "rev-list", "--reverse", "HEAD").split()
        assert ledger[1].data["message"] == "commit 0\n\nwith a body: é 😀"
        assert ledger[2].data["parents"] == [recorded[0]]
        assert ledger.validate().valid


def test_a_rewritten_history_is_noticed(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    record(repository, path)
    git(repository, "commit", "-q", "--amend", "--allow-empty", "-m", "nothing to see")
    second = record(repository, path)
    assert second.returncode == 1
    assert "history was rewritten" in second.stdout


def test_every_example_is_run_by_this_file() -> None:
    assert [path.name for path in (ROOT / "examples").glob("*.py")] == ["git_history.py"]
