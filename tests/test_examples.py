"""The examples run, and do what they say, on real repositories."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


@contextmanager
def running(*command: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server that prints where it is; yield that URL and the process; then end it."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None
        yield url[0], process
    finally:
        with process:
            process.terminate()


def submit(url: str, **form: str) -> int:
    """Send a form to the notebook as a browser does; return the status of the answer."""
    try:
        with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode()) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def use_notebook(url: str) -> None:
    """Let several people write at once, and two remove something."""
    with ThreadPoolExecutor(4) as people:
        forms = [{"user": f"user {n}", "text": f"<note> {n}"} for n in range(20)]
        assert set(people.map(lambda form: submit(f"{url}/add", **form), forms)) == {200}
    assert submit(f"{url}/remove", user="mallory", note="7") == 200
    assert submit(f"{url}/remove", user="mallory", note="7") == 404
    with urllib.request.urlopen(url) as page:
        shown = page.read().decode()
    assert shown.count("<li") == shown.count("&lt;note&gt;") == 19


def assert_audited(ledger: Path) -> None:
    """Hold that all which `use_notebook` did is on record, by whom and in order."""
    with Ledger.open(ledger) as opened:
        assert opened.validate().valid
        first, *entries = [block.data for block in opened if block.kind == "value"]
    assert first["message"] == "notebook opened"
    *added, removed, refused = entries
    assert [entry["extra"]["note"] for entry in added] == list(range(1, 21))
    assert {entry["extra"]["user"] for entry in added} == {f"user {n}" for n in range(20)}
    assert removed["message"] == "removing note 7"
    assert removed["extra"]["text"] == added[6]["extra"]["text"]
    assert removed["extra"]["user"] == refused["extra"]["user"] == "mallory"
    assert refused["message"] == "no note 7 to remove"


def test_the_notebook_s_audit_trail_is_complete_when_it_is_terminated(tmp_path: Path) -> None:
    script = ROOT / "examples" / "audit_log.py"
    path = tmp_path / "audit.cairn"
    with running(script, "--ledger", path, "--port", 0) as (url, process):
        use_notebook(url)
    assert process.returncode == -signal.SIGTERM
    assert_audited(path)


def test_the_notebook_s_audit_trail_may_be_at_a_node(tmp_path: Path) -> None:
    script = ROOT / "examples" / "audit_log.py"
    path = tmp_path / "node"
    with (
        running("-m", "cairn", "serve", "--ledger", path, "--port", 0) as (node, _),
        running(script, "--node", node, "--port", 0) as (url, _),
    ):
        use_notebook(url)
    assert_audited(path)


def test_every_example_is_run_by_this_file() -> None:
    names = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert names == ["audit_log.py", "git_history.py"]
