"""Record the commits of a git repository, oldest first, and notice when its history is rewritten.

    python examples/git_history.py REPOSITORY --ledger DIR

Run it again to record what was committed since. Git can rewrite a branch without leaving a trace
in it; a ledger that recorded the commits cannot be made to agree.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from cairn import Ledger

FIELDS = {
    "commit": "%H",
    "tree": "%T",
    "parents": "%P",
    "author": "%an <%ae>",
    "authored": "%aI",
    "committer": "%cn <%ce>",
    "committed": "%cI",
    "message": "%B",
}
END_OF_FIELD, END_OF_COMMIT = "%x1f", "%x1e"


def git(repository: str, *arguments: str) -> str:
    """Return what a git command prints."""
    command = ["git", "-C", repository, *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", errors="replace"
    ).stdout


def commits(repository: str, since: str | None) -> Iterator[dict[str, Any]]:
    """Yield the commits that HEAD reaches and `since` does not, parents first."""
    form = END_OF_FIELD.join(FIELDS.values()) + END_OF_COMMIT
    revisions = f"{since}..HEAD" if since else "HEAD"
    text = git(repository, "log", "--reverse", "--topo-order", f"--format={form}", revisions)
    for record in text.split("\x1e")[:-1]:
        commit: dict[str, Any] = dict(zip(FIELDS, record.strip("\n").split("\x1f"), strict=True))
        commit["parents"] = commit["parents"].split()
        yield commit


def main() -> int:
    """Bring the ledger up to date with the repository."""
    parser = argparse.ArgumentParser(description="Record a git repository's history in a ledger.")
    parser.add_argument("repository")
    parser.add_argument("--ledger", default="git-history.cairn")
    arguments = parser.parse_args()

    with Ledger.open(arguments.ledger) as ledger:
        last = ledger.head.data["commit"] if len(ledger) > 1 else None
        if last is not None and last not in git(arguments.repository, "rev-list", "HEAD").split():
            print(f"history was rewritten: commit {last}, recorded in block {ledger.head.index},")
            print("is no longer part of HEAD")
            return 1
        recorded = ledger.extend(commits(arguments.repository, last))
        print(
            f"recorded {recorded} commits in {arguments.ledger}, head is block {ledger.head.index}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
