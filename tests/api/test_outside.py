"""What is said of the ledger to everyone: nothing of where it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from cairn.api.problems import outside

LEDGER = Path("/srv/my ledgers/one")


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("/srv/my ledgers/one/tail.sqlite: damaged run", "tail.sqlite: damaged run"),
        ("/srv/my ledgers/one/segments/00.segment is missing", "segments/00.segment is missing"),
        ("[Errno 13] no: '/srv/my ledgers/one/tail.sqlite'", "[Errno 13] no: 'tail.sqlite'"),
        ("a (/srv/my ledgers/one/lock), /srv/my ledgers/one/b.", "a (lock), b."),
        ("/srv/my ledgers/one: block 3 is missing", "its folder: block 3 is missing"),
        ("it is in /srv/my ledgers/one.", "it is in its folder."),
        ("/srv/my ledgers/one2/tail.sqlite", "/srv/my ledgers/one2/tail.sqlite"),
        ("there is no GET /blocks/one/x", "there is no GET /blocks/one/x"),
    ],
)
def test_a_file_goes_by_its_name_within_the_ledger(inside: str, said: str) -> None:
    assert outside(inside, [LEDGER]) == said


@pytest.mark.parametrize("name", ["one", "ledgers/one", "../one", "."])
def test_so_it_does_where_the_folder_was_given_relative(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = Path(name)
    for path in (given, given.absolute()):
        text = outside(f"{path / 'tail.sqlite'}: damaged; none of .., none/one.", [given])
        assert text == "tail.sqlite: damaged; none of .., none/one."


def test_of_several_folders_none_is_named() -> None:
    text = "/srv/my ledgers/one/x and /home/them/.config/cairn/signed.sqlite"
    assert outside(text, [LEDGER, Path("/home/them/.config/cairn")]) == "x and signed.sqlite"
