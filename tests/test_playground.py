"""The lab's playground: every act is caught as it says, and undone to the byte."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cairn import Ledger
from cairn.core.errors import CairnError, EntryError, NoSuchBlockError, UsageError
from cairn.core.genesis import Genesis
from cairn.core.segment import Segment
from cairn.hashing import best_hasher
from cairn.lab import playground
from cairn.lab.caught import Caught
from cairn.lab.playground import CUTS, IN_PLACE, MOST_SAID, Act, Done, Playground
from cairn.ledger.outline import Outliner
from cairn.ledger.tree import Tree
from cairn.proof.keyring import Keyring
from cairn.store import disk
from cairn.store.directory import FILE_NAME
from tests.builders import SEAL, chain, mined
from tests.store import sealed

BLOCKS = 24
SHAPES = {
    "tail": (),
    "files": (9, 9, BLOCKS - 18),
    "both": (5, 1, 11),
}
"""How many blocks the files of a ledger have; the others are in its tail."""
PLACES = (0, 1, 5, 9, 17, 18, BLOCKS - 1)

Dump = tuple[list[str], dict[str, bytes]]


def dump(path: Path) -> Dump:
    """Return all that is stored: what SQLite would write out, and all bytes of all files."""
    with closing(sqlite3.connect(path / FILE_NAME)) as connection:
        return list(connection.iterdump()), {f.name: f.read_bytes() for f in sealed.files_of(path)}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return SHAPES[request.param]


@pytest.fixture
def ledger(shape: tuple[int, ...], tmp_path: Path) -> Iterator[Ledger]:
    """A signed ledger."""
    path = tmp_path / "ledger"
    sealed.build(path, chain(*({"step": i, "paid": 100} for i in range(1, BLOCKS))), *shape)
    with Ledger.open(path, keyring=Keyring(tmp_path / "keys")) as ledger:
        ledger.checkpoint()
        yield ledger


@pytest.fixture
def play(ledger: Ledger, tmp_path: Path) -> Playground:
    return Playground(ledger, tmp_path / "ledger")


def look(ledger: Ledger) -> None:
    """Use all that a ledger remembers of what is stored."""
    for block in ledger:
        ledger.find(block.hash)
    ledger.receipt(len(ledger) - 1)
    ledger.outline(50)


def require_sound(ledger: Ledger, path: Path, before: Dump) -> None:
    """Check that all is as it was, and that the ledger goes on."""
    assert dump(path) == before
    assert ledger.validate(all=True).failures == ()
    assert [ledger.find(block.hash) for block in ledger] == list(ledger)
    length = len(ledger)
    assert ledger.append("goes on").index == length
    assert ledger.receipt(length).index == length
    assert ledger.checkpoint().checkpoint.size == length + 1
    assert ledger.validate().valid


Try = Callable[[Playground, int], Done]
LIE = b'{"step": 2, "paid": 1000}'
TRIES: dict[Act, Try] = {
    Act.EDIT: lambda play, at: play.edit(at, LIE),
    Act.REHASH: lambda play, at: play.edit(at, LIE, rehash=True),
    Act.RECHAIN: lambda play, at: play.rechain(at, LIE),
    Act.CUT: lambda play, at: play.truncate(at, cover_tracks=False),
    Act.TRUNCATE: lambda play, at: play.truncate(at, cover_tracks=True),
}


def rules(act: Act, at: int) -> set[tuple[int, str]]:
    """Return which block may break which rule then."""
    last = BLOCKS - 1
    if act == Act.EDIT:
        return {(at, "size"), (at, "data_root")}
    if act in (Act.REHASH, Act.RECHAIN) and at == 0:
        return {(0, "genesis")}
    if act == Act.REHASH:
        return {(last, "head")} if at == last else {(at + 1, "link")}
    if act == Act.RECHAIN:
        return {(last, "checkpoint")}
    return {(at, "head" if act == Act.CUT else "checkpoint")}


@pytest.mark.parametrize("act", Act)
def test_each_act_is_caught_by_what_it_says_and_undone_to_the_byte(
    act: Act, ledger: Ledger, play: Playground, tmp_path: Path
) -> None:
    path, blocks = tmp_path / "ledger", list(ledger)
    before = dump(path)
    for at in PLACES:
        if at == 0 and act in (Act.CUT, Act.TRUNCATE):
            continue
        look(ledger)
        done = TRIES[act](play, at)
        said = blocks[at].data_json()
        assert (done.act, done.index, done.length, done.said) == (act, at, BLOCKS, said)
        assert done.replaced_from == (None if act in IN_PLACE else at)
        assert ledger.outline(50) == Outliner(ledger._store).outline(50)
        report = ledger.validate()
        assert report.failure
        assert (report.failure.index, report.failure.rule) in rules(act, at)
        caught = Caught.of(done, report)
        assert caught.chain_holds is (report.failure.rule == "checkpoint")
        assert "{" not in caught.why
        assert "was broken before" not in caught.why
        if act in CUTS:
            assert done.changed == BLOCKS - at
            assert list(ledger) == blocks[:at]
            assert len(ledger) == (BLOCKS if act == Act.CUT else at)
        else:
            assert ledger[at] != blocks[at]
            assert ledger[at].data == {"step": 2, "paid": 1000}
            assert ledger.find(ledger[at].hash) == ledger[at]
            changed = [block for block in ledger if block not in blocks]
            assert len(changed) == done.changed == (BLOCKS - at if act == Act.RECHAIN else 1)
        assert play.undo() == done
        assert play.done == []
        assert dump(path) == before
        assert ledger.validate().valid
    require_sound(ledger, path, before)
    assert [*tmp_path.glob("ledger-before/*")] == []


@pytest.mark.parametrize("seed", range(4))
def test_many_acts_and_appends_are_undone_one_after_another(
    seed: int, ledger: Ledger, play: Playground, tmp_path: Path
) -> None:
    choose, path = random.Random(seed), tmp_path / "ledger"
    states = [dump(path)]
    for _ in range(8):
        act = choose.choice([*Act])
        try:
            TRIES[act](play, choose.randrange(1, BLOCKS))
        except NoSuchBlockError:  # it was cut off
            continue
        states.append(dump(path))
    while play.done:
        assert dump(path) == states.pop()
        play.undo()
    require_sound(ledger, path, states.pop())
    assert states == []


@pytest.mark.parametrize("act", Act)
def test_what_is_appended_after_an_act(
    act: Act, ledger: Ledger, play: Playground, tmp_path: Path
) -> None:
    """It stays when the act is undone, if it follows what was there before."""
    path, before, at = tmp_path / "ledger", dump(tmp_path / "ledger"), 7
    TRIES[act](play, at)
    if act == Act.CUT:
        with pytest.raises(CairnError, match=f"block {BLOCKS - 1}, the recorded head, is not ther"):
            ledger.append("more")
        assert len(ledger) == BLOCKS
        stays = False
    else:
        more = ledger.append("more", key="a key")
        assert more.index == (at if act == Act.TRUNCATE else BLOCKS)
        assert more.previous_hash == ledger[more.index - 1].hash
        stays = act in (Act.EDIT, Act.REHASH)
    play.undo()
    if stays:
        assert ledger[-1].data == "more"
        assert len(ledger) == BLOCKS + 1
        assert ledger.validate().valid
        assert ledger.append("more", key="a key") == ledger[-1]
        assert len(ledger) == BLOCKS + 1
    else:
        require_sound(ledger, path, before)


def test_nothing_follows_a_last_block_with_another_hash(
    ledger: Ledger, play: Playground, tmp_path: Path
) -> None:
    before = dump(tmp_path / "ledger")
    play.edit(BLOCKS - 1, b'"rehashed"', rehash=True)
    with pytest.raises(CairnError, match="the blocks do not follow the recorded head"):
        ledger.append("more")
    play.undo()
    require_sound(ledger, tmp_path / "ledger", before)


def test_an_edit_is_undone_in_a_file_that_was_made_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(tmp_path / "ledger", keyring=Keyring(tmp_path / "keys")) as ledger:
        for i in range(10):
            ledger.append(i)
        play = Playground(ledger, tmp_path / "ledger")
        monkeypatch.setattr(disk, "SEAL_BLOCKS", 12)
        look(ledger)
        play.edit(3, b'"a lie"')
        play.edit(5, b'"another"', rehash=True)
        ledger.append_all(range(10, 20))
        assert len(sealed.files_of(tmp_path / "ledger")) == 1
        assert ledger[3].data == "a lie"
        play.undo()
        play.undo()
        assert [block.data for block in ledger][1:] == list(range(20))
        assert ledger.validate().valid
        # What was cut off comes back, and the file that was made meanwhile goes.
        before = dump(tmp_path / "ledger")
        play.truncate(15, cover_tracks=True)
        ledger.append_all(range(20, 60))
        assert len(sealed.files_of(tmp_path / "ledger")) == 2
        look_up = ledger[30].hash
        assert ledger.find(look_up) == ledger[30]
        play.undo()
        assert dump(tmp_path / "ledger") == before
        assert ledger.find(look_up) is None
        assert ledger.validate().valid


def test_retries_of_what_was_cut_off_are_recorded_anew(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger", keyring=Keyring(tmp_path / "keys")) as ledger:
        for i in range(5):
            ledger.append(i, key=f"key-{i}")
        play = Playground(ledger, tmp_path / "ledger")
        before = dump(tmp_path / "ledger")
        play.truncate(3, cover_tracks=True)
        assert ledger.append(1, key="key-1").index == 2
        assert ledger.append(4, key="key-4").index == 3
        play.undo()
        assert dump(tmp_path / "ledger") == before
        assert ledger.append(4, key="key-4").index == 5


def test_what_nobody_has_signed_nothing_catches(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger", keyring=Keyring(tmp_path / "keys")) as ledger:
        ledger.extend(range(5))
        play = Playground(ledger, tmp_path / "ledger")
        for act in (Act.RECHAIN, Act.TRUNCATE):
            done = TRIES[act](play, 3)
            caught = Caught.of(done, ledger.validate())
            assert caught.report.valid
            assert caught.chain_holds
            assert caught.why.startswith("Nothing here catches it")
            play.undo()


def test_an_earlier_lie_is_what_validation_names(ledger: Ledger, play: Playground) -> None:
    play.edit(2, LIE)
    done = play.edit(9, LIE)
    assert "block 2, which was broken before" in Caught.of(done, ledger.validate()).why


def test_an_act_that_is_refused_changes_nothing(
    ledger: Ledger, play: Playground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dump(tmp_path / "ledger")
    with pytest.raises(UsageError, match="nothing was done"):
        play.undo()
    for text in (b"{", b"NaN", b'{"a": 1, "a": 2}', b"", b'"\\ud800"'):
        with pytest.raises(EntryError):
            play.edit(1, text)
        with pytest.raises(EntryError):
            play.rechain(1, text)
    for at in (-1, BLOCKS, 2**63, 2**70):
        with pytest.raises(NoSuchBlockError):
            play.edit(at, b"1")
        with pytest.raises(NoSuchBlockError):
            play.rechain(at, b"1")
        with pytest.raises(NoSuchBlockError):
            play.truncate(at, cover_tracks=True)
    with pytest.raises(NoSuchBlockError, match=f"no block {BLOCKS}: the last is {BLOCKS - 1}"):
        play.truncate(BLOCKS, cover_tracks=False)
    with pytest.raises(UsageError, match="block 0 stays"):
        play.truncate(0, cover_tracks=False)
    monkeypatch.setattr(playground, "MOST_REWRITTEN", 5)
    for act in (Act.RECHAIN, Act.TRUNCATE):
        with pytest.raises(UsageError, match=r"21 blocks would .*; this lab does that with 5 at"):
            TRIES[act](play, 3)
    assert play.done == []
    assert play.truncate(BLOCKS - 5, cover_tracks=True).changed == 5
    play.undo()
    monkeypatch.setattr(playground, "MOST_COPIES", 1)
    monkeypatch.setattr(playground, "MOST_ACTS", 3)
    play.rechain(20, b"1")
    with pytest.raises(UsageError, match="undo some of it"):
        play.rechain(20, b"2")
    play.edit(1, b"1")
    with pytest.raises(UsageError, match="block 1 says that already"):
        play.edit(1, b"1")
    play.edit(1, b"2")
    with pytest.raises(UsageError, match="undo some of it"):
        play.edit(1, b"3")
    for _ in range(3):
        play.undo()
    require_sound(ledger, tmp_path / "ledger", before)


def test_memory_for_undoing_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "MOST_BYTES", 250_000)
    with Ledger.open(tmp_path / "ledger", keyring=Keyring(tmp_path / "keys")) as ledger:
        ledger.append("x" * 100_000)
        play = Playground(ledger, tmp_path / "ledger")
        for i in range(3):
            done = play.edit(1, json.dumps(str(i) * 100_000).encode())
            assert len(done.said) == MOST_SAID
        with pytest.raises(UsageError, match="undo some of it"):
            play.edit(1, b"1")
        assert play.truncate(1, cover_tracks=True).said  # a copy on the disk
        for _ in range(4):
            play.undo()
        assert ledger[1].data == "x" * 100_000
        play.edit(1, b"1")


def test_an_act_that_fails_half_way_leaves_nothing(
    ledger: Ledger, play: Playground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dump(tmp_path / "ledger")

    def fail(*_: Any) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("cairn.lab.tampering.Stored.cover_tracks", fail)
        for act in (Act.RECHAIN, Act.TRUNCATE):
            with pytest.raises(OSError, match="no room"):
                TRIES[act](play, 4)
            assert dump(tmp_path / "ledger") == before
    assert play.done == []
    require_sound(ledger, tmp_path / "ledger", before)


def test_a_lie_at_random_is_found_and_undone(
    ledger: Ledger, play: Playground, tmp_path: Path
) -> None:
    before, choose = dump(tmp_path / "ledger"), random.Random(7)
    for _ in range(20):
        done = play.edit_at_random(choose)
        assert (failure := ledger.validate().failure)
        assert failure.index == min(d.index for d in play.done)
        assert str(ledger[done.index].data).startswith("tampered with: ")
    play.truncate(5, cover_tracks=False)
    assert play.edit_at_random(choose).index < 5
    while play.done:
        play.undo()
    require_sound(ledger, tmp_path / "ledger", before)


def test_two_histories_are_shown_and_the_ledger_stays(
    ledger: Ledger, play: Playground, tmp_path: Path
) -> None:
    before = dump(tmp_path / "ledger")
    fork = play.fork()
    one, other = fork.blocks
    assert one.previous_hash == other.previous_hash == ledger.head.hash
    assert one.hash != other.hash
    mine, theirs = fork.checkpoints
    assert (mine.size, mine.origin) == (theirs.size, theirs.origin) == (BLOCKS + 1, mine.origin)
    assert mine.root != theirs.root
    assert [outcome.caught_by for outcome in fork.outcomes] == ["clients", "a witness"]
    play.edit(4, LIE)
    with pytest.raises(CairnError, match="block 4 breaks rule"):
        play.fork()
    play.undo()
    require_sound(ledger, tmp_path / "ledger", before)


def test_of_a_work_ledger_data_can_be_edited_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.create(path, Genesis(seal=SEAL), keyring=Keyring(tmp_path / "keys")) as ledger:
        following = mined([{"paid": 100}, "two"], [], ["three"], first=[ledger[0]])[1:]
        ledger._store.advance(Segment.from_blocks(1, following), work=8, final=1)
        play = Playground(ledger, path)
        before = dump(path)
        play.edit(1, b'[{"paid": 1000}, "two"]')
        assert ledger[1].data == [{"paid": 1000}, "two"]
        assert (failure := ledger.validate().failure)
        assert (failure.index, failure.rule) == (1, "size")
        play.undo()
        assert dump(path) == before
        for text in (b'{"paid": 1}', b"[]", b"[1]", b"[1, 2, 3]"):
            with pytest.raises(UsageError):
                play.edit(1, text)
        with pytest.raises(UsageError, match="0 entries"):
            play.edit(2, b"[]")
        refused: list[Callable[[], object]] = [
            lambda: play.edit(1, b"[1, 2]", rehash=True),
            lambda: play.rechain(1, b"[1, 2]"),
            lambda: play.truncate(2, cover_tracks=True),
            play.fork,
        ]
        for act in refused:
            with pytest.raises(UsageError, match="this is a work ledger: "):
                act()
        # A block that others have replaced meanwhile is left alone.
        play.edit(3, b'["a lie"]')
        other = mined(["other"], first=[ledger[0], *following[:2]], times=(5,))[-1:]
        ledger._store.advance(Segment.from_blocks(3, other), work=9, final=1)
        play.undo()
        assert ledger[3].data == ["other"]
        for _ in range(20):
            play.edit_at_random(random.Random(1))
            play.undo()


def test_an_erased_block_can_be_lied_about(ledger: Ledger, play: Playground) -> None:
    ledger.erase(4, reason="asked to")
    assert ledger.validate().valid
    before = ledger[4]
    play.edit(4, LIE)
    assert (failure := ledger.validate().failure)
    assert failure.index == 4
    play.undo()
    assert ledger[4] == before
    assert ledger.validate().valid


def test_a_large_ledger_is_edited_quickly(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path, keyring=Keyring(tmp_path / "keys")) as ledger:
        ledger.extend({"step": i, "did": "laid a stone"} for i in range(70_000))
        ledger.checkpoint()
        play = Playground(ledger, path)
        files = {file.name: file.read_bytes() for file in sealed.files_of(path)}
        assert len(files) == 1
        choose, began = random.Random(3), time.monotonic()
        for at in (0, 65_535, 65_536, choose.randrange(65_536), 70_000):
            play.edit(at, LIE)
            play.undo()
        assert time.monotonic() - began < 20  # some 0.1 s each
        for at, few in ((60_001, False), (60_002, True)):
            for act in (Act.RECHAIN, Act.TRUNCATE):
                if not few:
                    with pytest.raises(UsageError, match="choose a block nearer to the end"):
                        TRIES[act](play, at - 1)
                    continue
                ledger.receipt(at - 1)
                TRIES[act](play, at)
                assert (failure := ledger.validate().failure)
                assert failure.rule == "checkpoint"
                if act == Act.RECHAIN:
                    pristine = Tree(ledger._store, best_hasher(), kept=False)
                    assert ledger.notary.tree.root(70_001) == pristine.root(70_001)
                play.undo()
        assert {file.name: file.read_bytes() for file in sealed.files_of(path)} == files
        assert ledger.validate().valid
        assert ledger.append("goes on").index == 70_001
