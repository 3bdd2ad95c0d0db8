"""A node whose stored history was changed or damaged serves what it can, and names the rest."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cairn import Ledger
from cairn.lab.tampering import Forgery, forging
from cairn.store.directory import FILE_NAME
from tests.service.harness import (
    ROOT,
    STOP_SECONDS,
    Follower,
    Server,
    cairn,
    running,
    start,
)
from tests.store import sealed

LENGTH = 40
AT = 17


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend({"step": step} for step in range(1, LENGTH))
    return path


def edit(path: Path, index: int, change: Callable[[Forgery], None]) -> None:
    """Change a stored block, each in a row of its own; the record of the end stays."""
    with forging(path, cover_tracks=False) as blocks:
        change(blocks[index])


def replace_data(block: Forgery) -> None:
    block.entries[0] = block.entries[0][:16] + b'{"step":"forged"}'


def not_json(block: Forgery) -> None:
    block.entries[0] = block.entries[0][:-1] + b"\xff"


def wrong_index(block: Forgery) -> None:
    block.change(index=3)


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path / FILE_NAME)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def require_works(server: Server, failed: int, rule: str) -> None:
    """Check that the node names the block, and serves and records everything else."""
    with server.client() as client:
        report = client.get("/validate").value
        assert (report["valid"], report["failed_block"]) == (False, failed)
        assert report["failure"]["rule"] == rule
        assert client.get("/blocks/1").value["data"] == {"step": 1}
        assert client.get(f"/blocks/{AT + 2}").value["data"] == {"step": AT + 2}
        page = client.get(f"/?start={AT + 1}").value
        assert page["chain"][0]["data"] == {"step": AT + 1}
        new = client.post("goes on")
        assert new.status == 201
        assert client.get("/head").value == new.value
        assert client.get("/health").status == 200
        assert client.get("/validate").value["failed_block"] == failed


@pytest.mark.parametrize(
    ("change", "rule"), [(replace_data, "size"), (wrong_index, "index")], ids=["data", "index"]
)
def test_a_changed_block_is_served_as_it_is_and_named(
    change: Callable[[Forgery], None], rule: str, path: Path
) -> None:
    edit(path, AT, change)
    with Ledger.open(path, read_only=True) as ledger:
        stored = json.loads(ledger[AT].to_json())
    with running(start(path), unsigned=True) as server:
        require_works(server, AT, rule)
        assert server.get(f"/blocks/{AT}").value == stored
        chain = server.get("/").value["chain"]
        assert chain[AT] == stored
        assert len(chain) == LENGTH + 1
        with Follower(server.port, "?start=0") as follower:
            events = follower.read_to(LENGTH)
        assert [event.id for event in events] == list(range(LENGTH + 1))  # positions, not claims
        assert [event.block for event in events] == chain
        assert server.stop() < STOP_SECONDS


def damage_text(path: Path) -> None:
    edit(path, AT, not_json)


def damage_offsets(path: Path) -> None:
    edit(path, AT, replace_data)  # rows of their own
    execute(path, f"UPDATE runs SET offsets = x'00' WHERE first = {AT}")


def damage_headers(path: Path) -> None:
    edit(path, AT, replace_data)
    execute(path, f"UPDATE runs SET headers = x'0001' WHERE first = {AT}")


def remove_block(path: Path) -> None:
    edit(path, AT, replace_data)
    execute(path, f"DELETE FROM runs WHERE first = {AT}")


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (damage_text, "data_root"),
        (damage_offsets, "storage"),
        (damage_headers, "storage"),
        (remove_block, "index"),
    ],
)
def test_what_cannot_be_shown_is_a_problem_and_all_else_is_served(
    damage: Callable[[Path], None], rule: str, path: Path
) -> None:
    damage(path)
    is_gone = damage is remove_block
    with running(start(path), may_log=True) as server, server.client() as client:
        require_works(server, AT, rule)
        for target in (f"/blocks/{AT}", f"/?start={AT}", f"/blocks?cursor={AT}"):
            answer = client.get(target)
            if is_gone and "=" in target:
                assert answer.status == 200
            else:
                assert (answer.status, answer.problem()) == (500, "damaged"), target
        assert client.get(f"/blocks/{AT}/data").status in (200, 500)
        page = client.get("/").value
        if not is_gone:
            assert [block["index"] for block in page["chain"]] == list(range(AT))
            assert page["next"] == f"/?start={AT}"
        assert client.get("/blocks?contains=forged").status in (200, 500)
        with Follower(server.port, "?start=0", timeout=5) as follower:  # good ones, then the end
            for seen in range(AT):
                assert next(follower.events()).id == seen
            if not is_gone:
                assert next(follower.events(), None) is None
        with Follower(server.port, f"?start={AT + 1}") as follower:
            assert next(follower.events()).id == AT + 1
        with Follower(server.port) as follower:
            index = client.post("for who follows").value["index"]
            assert next(follower.events()).id == index
        assert server.stop() < STOP_SECONDS


def test_a_search_goes_on_behind_damage(path: Path) -> None:
    """Two blocks that cannot be read, and one that can be read and not be shown."""
    edit(path, AT, replace_data)  # rows of their own
    edit(path, AT + 5, not_json)
    execute(path, f"UPDATE runs SET offsets = x'00' WHERE first IN ({AT}, {AT + 1})")
    with running(start(path), may_log=True) as server, server.client() as client:
        page = client.get("/blocks?contains=step&limit=30").value
        assert [block["index"] for block in page["blocks"]] == list(range(1, AT))
        for target in (page["next"], f"/blocks?contains=step&limit=30&cursor={AT}"):
            answer = client.get(target)
            assert (answer.status, answer.problem()) == (500, "damaged")
            assert answer.value["index"] == AT
            said = answer.value["detail"]
            assert said.startswith(f"blocks {AT} to {AT + 1} cannot be read: {FILE_NAME}: damaged")
        page = client.get(answer.value["next"]).value
        assert [block["index"] for block in page["blocks"]] == [AT + 2, AT + 3, AT + 4]
        answer = client.get(page["next"])
        assert (answer.status, answer.value["index"]) == (500, AT + 5)
        page = client.get(answer.value["next"]).value
        assert [block["index"] for block in page["blocks"]] == list(range(AT + 6, LENGTH))
        assert page["next"] is None

        browser = {"Accept": "text/html"}
        shown = client.get(f"/blocks?contains=step&cursor={AT}", browser)
        assert shown.status == 500
        assert f"blocks {AT} to {AT + 1} cannot be read" in shown.body.decode()
        assert f'href="/blocks?contains=step&amp;cursor={AT + 2}"' in shown.body.decode()

        answer = client.get("/blocks?contains=nowhere")  # nothing is found before it either
        assert (answer.status, answer.value["index"]) == (500, AT)
        assert client.get(answer.value["next"]).value == {"blocks": [], "next": None}
        answer = client.get(f"/?start={AT}&limit=2")
        assert (answer.value["index"], answer.value["next"]) == (AT, f"/?start={AT + 2}&limit=2")


def test_nobody_is_told_where_the_ledger_lies(path: Path) -> None:
    """Its files go by their names: only the log has the folder."""
    at = LENGTH - 4
    edit(path, at, replace_data)  # rows of their own
    execute(path, f"UPDATE runs SET offsets = x'00' WHERE first = {at}")
    targets = [f"/blocks/{at}", f"/blocks/{at}/data", f"/?start={at}", f"/blocks?cursor={at}"]
    pages = [f"/blocks/{at}", f"/blocks?contains=x&cursor={at}", f"/?start={at}", "/"]
    browser = {"Accept": "text/html"}
    with running(start(path), may_log=True) as server, server.client() as client:
        for target in targets:
            answer = client.get(target)
            assert answer.status == 500
            assert f"{FILE_NAME}: damaged run at block {at}" in answer.value["detail"]
            assert str(path.parent) not in answer.value["detail"]
        for target in pages:
            text = client.get(target, browser).body.decode()
            assert f"{FILE_NAME}: damaged run at block {at}" in text, target
            assert str(path.parent) not in text, target
        said = client.get("/validate").value["failure"]["message"]
        assert f"{FILE_NAME}: damaged run at block {at}" in said
        assert str(path.parent) not in said
        for shown in (client.get("/validate/events"), client.get("/validate", browser)):
            assert str(path.parent).encode() not in shown.body
        assert f"{path / FILE_NAME}: damaged run" in server.errors()


# Sealed segments


def remove_file(file: Path) -> None:
    file.unlink()


def cut_off_file(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.fixture
def sealed_path(tmp_path: Path) -> Path:
    """A ledger with two files of 20 blocks and one in the tail."""
    with Ledger.open(tmp_path / "plain") as ledger:
        ledger.extend({"step": step} for step in range(1, LENGTH + 1))
        sealed.build(tmp_path / "ledger", list(ledger), 20, 20)
    return tmp_path / "ledger"


@pytest.mark.parametrize("damage", [remove_file, cut_off_file])
def test_a_file_that_cannot_be_read_is_a_problem_and_all_else_is_served(
    damage: Callable[[Path], None], sealed_path: Path
) -> None:
    with running(start(sealed_path), may_log=True) as server, server.client() as client:
        assert client.get("/validate").value["valid"] is True
        known = client.get("/blocks/25").value
        assert client.get(f"/blocks/{known['hash']}").value == known
        damage(sealed.files_of(sealed_path)[1])
        report = client.get("/validate").value
        assert (report["failed_block"], report["failure"]["rule"]) == (20, "storage")
        for target in ("/blocks/25", "/?start=25", "/blocks?cursor=25", f"/blocks/{known['hash']}"):
            answer = client.get(target)
            assert (answer.status, answer.problem()) == (500, "damaged"), target
        problem = client.get("/blocks?contains=step&cursor=20").value
        assert (problem["index"], problem["next"]) == (20, "/blocks?contains=step&cursor=40")
        assert problem["detail"].startswith("blocks 20 to 39 cannot be read: segments/")
        page = client.get("/").value
        assert [block["index"] for block in page["chain"]] == list(range(20))
        assert client.get("/blocks/3").value["data"] == {"step": 3}
        new = client.post("goes on")
        assert new.status == 201
        assert client.get(f"/blocks/{new.value['hash']}").value == new.value
        assert client.get("/?start=40").value["chain"][-1] == new.value
        assert client.get("/health").status == 200
        assert server.stop() < STOP_SECONDS


def test_a_changed_byte_of_a_file_is_served_as_it_is_and_named(sealed_path: Path) -> None:
    file = sealed.files_of(sealed_path)[0]
    file.write_bytes(file.read_bytes().replace(b'{"step":17}', b'{"step":71}'))
    with running(start(sealed_path), unsigned=True) as server:
        with server.client() as client:
            report = client.get("/validate").value
            assert (report["failed_block"], report["failure"]["rule"]) == (17, "data_root")
            assert client.get("/blocks/17").value["data"] == {"step": 71}
        assert server.stop() < STOP_SECONDS


CUT_OFF = """
import os
from cairn.store import flat
mapped = flat.Part.mapped
def cut_off(part, hasher):
    segment = mapped(part, hasher)
    os.truncate(part.folder / part.sealed.name, 0)
    return segment
flat.Part.mapped = cut_off
"""


def test_a_file_that_is_cut_off_under_a_validation_ends_the_run_and_not_the_node(
    tmp_path: Path, sealed_path: Path
) -> None:
    """The pages are gone from under the one who looks at them: so it is another process.

    Each run ends at one of the files that are still whole, until the first is cut off.
    """
    (tmp_path / "sitecustomize.py").write_text(CUT_OFF)
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    server = start(sealed_path, environment=environment)
    with running(server, may_log=True), server.client() as client:
        ended = 0
        while (answer := client.get("/validate")).status != 200:
            assert (answer.status, answer.problem()) == (503, "unavailable")
            assert client.get("/health").status == 200
            assert client.post("goes on").status == 201
            ended += 1
            assert ended <= len(sealed.files_of(sealed_path))
        assert ended > 0
        report = answer.value
        assert (report["failed_block"], report["failure"]["rule"]) == (0, "storage")
        assert server.stop() < STOP_SECONDS


LOSE_SECOND = """
import errno, mmap, os
pread = os.pread
class Lost(mmap.mmap):
    def madvise(self, *_):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
def fail(descriptor, size, at):
    if os.readlink(f"/proc/self/fd/{descriptor}").endswith("020.segment"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return pread(descriptor, size, at)
"""


@pytest.mark.parametrize(
    ("fault", "lost"), [("os.pread = fail", 20), ("mmap.mmap = Lost", 0)], ids=["read", "map"]
)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and only Linux maps")
def test_a_disk_that_cannot_read_a_file_is_named_and_the_node_lives(
    fault: str, lost: int, tmp_path: Path, sealed_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LOSE_SECOND + fault)
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    server = start(sealed_path, environment=environment)
    with running(server, may_log=True), server.client() as client:
        report = client.get("/validate").value
        assert (report["failed_block"], report["failure"]["rule"]) == (lost, "storage")
        assert "cannot be read" in report["failure"]["message"]
        assert client.get("/blocks/3").status == 200
        assert client.get("/blocks/25").status == (500 if lost == 20 else 200)  # is never mapped
        assert client.post("goes on").status == 201
        assert client.get("/health").status == 200
        assert server.stop() < STOP_SECONDS


def test_a_follower_passes_over_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path) as ledger:
        ledger.extend(range(600))
    with forging(path, cover_tracks=False):
        pass  # rows of their own
    execute(path, "DELETE FROM runs WHERE first BETWEEN 100 AND 500")
    with running(start(path), unsigned=True) as server:
        with Follower(server.port, "?start=90", timeout=5) as follower:
            told = [event.id for event in follower.read_to(600)]
        assert told == [*range(90, 100), *range(501, 601)]
        assert server.get("/validate").value["failed_block"] == 100


def change_last(path: Path) -> None:
    edit(path, LENGTH - 1, replace_data)


def change_first(path: Path) -> None:
    edit(path, 0, wrong_index)


def cut_off(path: Path) -> None:
    with forging(path, cover_tracks=False) as blocks:
        del blocks[-3:]


def wrong_head(path: Path) -> None:
    execute(path, "UPDATE head SET hash = zeroblob(32)")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (change_last, f"block {LENGTH - 1} breaks rule 'size'"),
        (change_first, "block 0 breaks rule 'index'"),
        (cut_off, f"block {LENGTH - 3} breaks rule 'head'"),
        (wrong_head, f"block {LENGTH - 1} breaks rule 'head'"),
        (lambda path: execute(path, "DROP TABLE head"), "its schema is not the one"),
        (lambda path: (path / FILE_NAME).write_bytes(b"junk" * 5000), "file is not a database"),
        (lambda path: (path / FILE_NAME).unlink(), "is there, but tail.sqlite is not in it"),
    ],
    ids=["head", "genesis", "cut off", "record", "no record", "junk", "no file"],
)
@pytest.mark.damages_database
def test_a_node_is_not_started_on_a_ledger_whose_ends_are_damaged(
    damage: Callable[[Path], object], says: str, path: Path
) -> None:
    damage(path)
    before = {file.name: file.read_bytes() for file in path.iterdir() if "-" not in file.name}
    result = cairn("serve", "--ledger", path, "--port", 0)
    assert result.returncode == 1, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    after = {file.name: file.read_bytes() for file in path.iterdir() if "-" not in file.name}
    before.pop("lock")
    after.pop("lock")  # says who held it last
    assert after == before, "it changed what it refused"


@pytest.mark.damages_database
def test_a_database_that_breaks_under_the_node_is_told_and_the_node_lives(path: Path) -> None:
    with running(start(path), may_log=True) as server, server.client() as client:
        client.post("before")
        with (path / FILE_NAME).open("r+b") as file:
            size = file.seek(0, 2)
            file.seek(4096)  # all but the first page
            file.write(b"\xa5" * (size - 4096))
        report = client.get("/validate")
        assert report.status in (200, 503)
        assert report.status == 503 or report.value["valid"] is False
        for target in ("/", "/blocks/1", "/head", "/blocks", f"/blocks/{'0' * 64}"):
            answer = client.get(target)
            assert answer.status in (200, 404, 500, 503)
            assert answer.status == 200 or answer.problem() in {
                "damaged",
                "unavailable",
                "no-such-block",
            }
        assert client.get("/health").status == 200
        assert client.post("after").status in (201, 500, 503)
        assert server.stop() < STOP_SECONDS
