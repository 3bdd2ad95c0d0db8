"""Where a ledger can be made, and what is left where it cannot. Crashes are in tests/faults."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from cairn import DamagedError, ExistsError, Ledger, NotFoundError, StoreError
from cairn.ledger.exchange import export_lines, import_chain
from cairn.store import directory
from cairn.store.database import Database
from cairn.store.directory import (
    FILE_NAME,
    LOCK_NAME,
    SEGMENTS_NAME,
    new_directory,
    occupied,
)
from tests.builders import chain
from tests.store import sealed

ROOT: Final = Path(__file__).parents[2]
NOBODY: Final = 65534
LEFTOVER: Final = ".cairn-1-0123456789abcdef.new"
WHOLE: Final = [LOCK_NAME, FILE_NAME]
TIMEOUT: Final = 10.0
"""Seconds to wait for another thread, at most."""

Maker = Callable[[Path], None]


def names_in(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def require_usable(path: Path) -> None:
    """Check that there is a whole ledger, and nothing else."""
    with Ledger.open(path) as ledger:
        ledger.append("goes on")
        assert ledger.validate().valid
    assert names_in(path) == WHOLE


@pytest.fixture
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger to make others of, with an export beside it."""
    path = tmp_path_factory.mktemp("source") / "ledger"
    with Ledger.create(path) as ledger:
        ledger.extend(range(20))
        path.with_name("export").write_text("\n".join(export_lines(ledger)))
    return path


@pytest.fixture(params=["create", "open", "import", "backup"])
def make(request: pytest.FixtureRequest, source: Path) -> Maker:
    """Each way of making a ledger."""

    def back_up(path: Path) -> None:
        with Ledger.open(source, read_only=True) as ledger:
            ledger.backup(path)

    def import_(path: Path) -> None:
        import_chain(path, source.with_name("export").read_bytes().splitlines())

    makers: dict[str, Maker] = {
        "create": lambda path: Ledger.create(path).close(),
        "open": lambda path: Ledger.open(path).close(),
        "import": import_,
        "backup": back_up,
    }
    return makers[request.param]


# Processes


def start(*arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a creator, through the command `before`, and wait until it is ready."""
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "tests.store.creator", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if hear(process) != "ready":
        end(process)
        pytest.fail(f"{process.args!r} did not start")
    return process


@contextmanager
def creator(*arguments: object, before: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    process = start(*arguments, before=before)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    with process:
        pass


def tell(process: subprocess.Popen[str], path: Path | str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{path}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def ask(process: subprocess.Popen[str], path: Path) -> str:
    tell(process, path)
    return hear(process)


# Where one can be made


@pytest.mark.parametrize("names", [[], ["lost+found"], [LEFTOVER], ["lost+found", LEFTOVER]])
def test_a_directory_that_is_as_good_as_empty_becomes_a_ledger(
    make: Maker, names: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    path.mkdir()
    for name in names:
        (path / name).mkdir()
    inode = path.stat().st_ino
    make(path)
    if "lost+found" in names:
        (path / "lost+found").rmdir()  # nobody has taken it
    require_usable(path)
    assert path.stat().st_ino == inode
    assert names_in(tmp_path) == ["ledger"]


def test_a_missing_directory_becomes_a_ledger_and_so_do_its_parents(
    make: Maker, tmp_path: Path
) -> None:
    make(tmp_path / "a" / "b" / "ledger")
    require_usable(tmp_path / "a" / "b" / "ledger")
    assert names_in(tmp_path / "a" / "b") == ["ledger"]


@pytest.mark.parametrize("path", ["ledger", "a/b", "../other", "."])
def test_a_path_may_be_relative(
    make: Maker, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make(Path(path))
    require_usable(tmp_path / "here" / path)


def test_a_relative_path_is_one_from_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with new_directory(Path("ledger")) as hidden:
        os.chdir(tmp_path / "elsewhere")
        Database.create(hidden)
    assert names_in(tmp_path / "ledger") == [FILE_NAME]


def test_a_symbolic_link_to_an_empty_directory_leads_to_a_ledger(
    make: Maker, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    make(link)
    assert link.is_symlink()
    require_usable(tmp_path / "real")
    require_usable(link)
    assert names_in(tmp_path) == ["link", "real"]


@pytest.mark.parametrize("target", ["missing", "missing/too", "link"])
def test_a_symbolic_link_that_leads_nowhere_is_left_alone(
    make: Maker, target: str, tmp_path: Path
) -> None:
    """It may lead to a disk that is not mounted."""
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises((ExistsError, NotFoundError), match=r"leads nowhere|there is no ledger"):
        make(link)
    assert link.is_symlink()
    assert names_in(tmp_path) == ["link"]


@contextmanager
def sealed_parent() -> Iterator[tuple[Path, int]]:
    """Yield a directory in a parent that a user may not write to, and that user (0: ourselves)."""
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        volume = parent / "volume"
        volume.mkdir(mode=0o750)
        if os.getuid() == 0:
            os.chown(volume, NOBODY, NOBODY)
            parent.chmod(0o755)
            yield volume, NOBODY
        else:
            parent.chmod(0o555)
            try:
                yield volume, 0
            finally:
                parent.chmod(0o755)


@pytest.mark.parametrize("action", ["create", "open", "import", "backup"])
def test_a_parent_that_may_not_be_written_to_is_no_hindrance(
    action: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd's StateDirectory= and the volumes of containers have it."""
    monkeypatch.setenv("CAIRN_HOME", "/no/such/folder")  # ours is not another user's to read
    with sealed_parent() as (volume, user), tempfile.TemporaryDirectory() as readable:
        copy = Path(readable) / "ledger"
        shutil.copytree(source.parent, readable, dirs_exist_ok=True)
        for file in (copy.parent, copy):
            file.chmod(0o755)
        argument = {"import": copy.with_name("export"), "backup": copy}.get(action, "")
        with creator(user, action, argument) as process:
            assert ask(process, volume.parent / "sibling").startswith("PermissionError")
            with Ledger.open(source, read_only=True) as original:
                same = argument and original.id
            answer = ask(process, volume)
        assert len(answer) == 64, answer
        assert same in ("", answer)
        assert names_in(volume) == WHOLE
        assert names_in(volume.parent) == ["volume"]
        assert mode_of(volume) == 0o750


@pytest.fixture
def mount(tmp_path: Path) -> tuple[str, ...]:
    """A command that runs another where a file system is mounted at `tmp_path`/volume."""
    (tmp_path / "volume").mkdir()
    script = 'mount -t tmpfs none "$0" && mkdir "$0/lost+found" && exec "$@"'
    command = ("unshare", "-rm", "sh", "-c", script, str(tmp_path / "volume"))
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, to mount something")
    probe = [*command, sys.executable, "-c", ""]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"may not mount anything here, or not run there: {tried.stderr.strip()}")
    return command


@pytest.mark.parametrize("action", ["create", "import", "backup"])
def test_a_mount_point_becomes_a_ledger(
    action: str, mount: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    argument = {"import": source.with_name("export"), "backup": source}.get(action, "")
    with creator(0, action, argument, before=mount) as process:
        answer = ask(process, tmp_path / "volume")
        assert len(answer) == 64, answer
        assert ask(process, tmp_path / "volume").startswith("ExistsError")
    assert names_in(tmp_path / "volume") == []  # it was on the other file system


# What stays as it was


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o2770])
def test_a_directory_that_is_there_keeps_its_mode_and_owner(
    make: Maker, mode: int, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    path.mkdir()
    path.chmod(mode)
    if os.getuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    before = path.stat()
    make(path)
    after = path.stat()
    assert mode_of(path) == mode
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


@pytest.mark.parametrize(("mode", "expected"), [(0o700, 0o700), (0o775, 0o775), (0o555, 0o755)])
def test_a_backup_s_new_directory_has_the_mode_of_the_ledger_s(
    mode: int, expected: int, source: Path, tmp_path: Path
) -> None:
    """But stays open to its owner."""
    source.chmod(mode)
    with Ledger.open(source, read_only=True) as ledger:
        ledger.backup(tmp_path / "copy")
    source.chmod(0o755)
    assert mode_of(tmp_path / "copy") == expected
    require_usable(tmp_path / "copy")


def test_a_backup_of_a_private_ledger_is_private_from_the_beginning(
    source: Path, tmp_path: Path
) -> None:
    source.chmod(0o700)
    modes: list[int] = []

    def look(*_: int) -> None:
        modes.extend(mode_of(hidden) for hidden in (tmp_path / "copy").iterdir())

    with Ledger.open(source, read_only=True) as ledger:
        ledger.backup(tmp_path / "copy", progress=look)
    assert set(modes) == {0o700}


def test_a_new_directory_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    Ledger.create(tmp_path / "ledger").close()
    assert mode_of(tmp_path / "ledger") == mode_of(tmp_path / "usual")


def files_below(path: Path) -> dict[str, bytes | None]:
    return {
        str(file.relative_to(path)): file.read_bytes() if file.is_file() else None
        for file in path.rglob("*")
    }


@pytest.mark.parametrize(
    "name", ["ledger/data", "ledger/.cairn", "ledger/.cairn-1-2.new", "ledger/lock", "ledger"]
)
def test_what_is_there_is_left_alone(make: Maker, name: str, tmp_path: Path) -> None:
    """Whatever it is; and a ledger that lost its file is damage, never a place for a new one."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("somebody's")
    before = files_below(tmp_path)
    with pytest.raises((ExistsError, DamagedError, NotFoundError)):
        make(tmp_path / "ledger")
    assert files_below(tmp_path) == before


def test_a_ledger_that_is_there_is_not_replaced(make: Maker, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.create(path) as ledger:
        known = ledger.id
    with suppress(ExistsError):
        make(path)
    with Ledger.open(path) as ledger:
        assert ledger.id == known
    assert names_in(path) == WHOLE


# What an error leaves


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
def test_an_error_leaves_nothing(
    error: type[BaseException], is_there: bool, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    if is_there:
        path.mkdir()

    def fail() -> None:
        with new_directory(path) as hidden:
            Database.create(hidden)
            raise error

    with pytest.raises(error):
        fail()
    assert names_in(tmp_path) == (["ledger"] if is_there else [])
    assert not is_there or names_in(path) == []


def test_a_database_is_never_parted_from_its_log(tmp_path: Path) -> None:
    """SQLite says nothing where it cannot put the log into the file when closing."""

    def create() -> None:
        with new_directory(tmp_path / "ledger") as hidden:
            Database.create(hidden)
            (hidden / f"{FILE_NAME}-wal").write_bytes(b"the blocks")

    with pytest.raises(StoreError, match=r"was not closed: there is tail\.sqlite-wal"):
        create()
    assert names_in(tmp_path) == []


# Leftovers


@pytest.mark.parametrize("is_there", [True, False])
def test_what_a_killed_creator_left_goes_with_the_next(is_there: bool, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    if is_there:
        path.mkdir()
    with creator(0, "build") as process:
        assert ask(process, path) == "building"
    (leftover,) = path.iterdir()
    assert names_in(leftover) == [FILE_NAME]
    assert not occupied(path)
    with pytest.raises(NotFoundError):
        Ledger.open(path, read_only=True)
    require_usable(path)


def test_what_a_creator_is_at_work_on_is_left_to_it(make: Maker, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with creator(0, "build") as process:
        assert ask(process, path) == "building"
        (hidden,) = path.iterdir()
        make(path)
        with Ledger.open(path) as ledger:
            known = ledger.id
        assert names_in(path) == sorted([hidden.name, *WHOLE])
        tell(process, "finish")
        assert hear(process).startswith("ExistsError")
        with Ledger.open(path) as ledger:
            assert ledger.id == known
        require_usable(path)


def test_a_leftover_that_cannot_be_removed_is_in_nobody_s_way(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.mkdir()
    (path / LEFTOVER).symlink_to(tmp_path)  # not what it seems: it is not followed
    Ledger.create(path).close()
    assert names_in(path) == sorted([LEFTOVER, *WHOLE])
    assert names_in(tmp_path) == ["ledger"]


# Rivals


@pytest.mark.parametrize("place", ["missing", "directory", "link"])
def test_of_eight_processes_that_create_at_once_one_wins(place: str, tmp_path: Path) -> None:
    rivals = [start(0, "create") for _ in range(8)]
    try:
        for attempt in range(10):
            path = real = tmp_path / str(attempt)
            if place == "link":
                real = tmp_path / f"{attempt}.real"
                path.symlink_to(real)
            if place != "missing":
                real.mkdir()
            for rival in rivals:
                tell(rival, path)
            answers = sorted(map(hear, rivals))
            won = [answer for answer in answers if len(answer) == 64]
            lost = [answer for answer in answers if answer.startswith("ExistsError")]
            assert (len(won), len(lost)) == (1, 7), answers
            with Ledger.open(path) as ledger:
                assert ledger.id == won[0]
            require_usable(path)
    finally:
        for rival in rivals:
            end(rival)


def test_of_processes_that_open_at_once_all_find_the_same_ledger(tmp_path: Path) -> None:
    rivals = [start(0, "open") for _ in range(4)]
    try:
        for attempt in range(10):
            for rival in rivals:
                tell(rival, tmp_path / str(attempt))
            answers = set(map(hear, rivals))
            found = {answer for answer in answers if not answer.startswith("LockedError")}
            assert len(found) == 1, answers
            with Ledger.open(tmp_path / str(attempt)) as ledger:
                assert found == {ledger.id}
    finally:
        for rival in rivals:
            end(rival)


def test_creators_that_fail_do_not_take_the_directory_from_others(tmp_path: Path) -> None:
    """Who made the directory removes it, unless somebody else is at work there."""
    unexpected: list[BaseException] = []

    def create(path: Path, barrier: threading.Barrier, *, fail: bool) -> None:
        try:
            barrier.wait(TIMEOUT)
            with new_directory(path) as hidden:
                name = "elsewhere" if fail else FILE_NAME
                (hidden / name).write_bytes(b"whole")
        except FileNotFoundError as error:
            if not fail or Path(error.filename).name != FILE_NAME:
                unexpected.append(error)
        except ExistsError:
            pass
        except BaseException as error:
            unexpected.append(error)

    for attempt in range(150):
        path, barrier = tmp_path / str(attempt), threading.Barrier(4)
        threads = [
            threading.Thread(target=create, args=(path, barrier), kwargs={"fail": n > 0})
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not unexpected, unexpected[0]
        assert names_in(path) == [FILE_NAME]


def test_a_directory_that_is_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    real, times = fcntl.flock, iter(range(100))

    def flock(descriptor: int, operation: int) -> None:
        if next(times) == 0:
            path.rmdir()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    Ledger.create(path).close()
    require_usable(path)


def test_no_rival_comes_between_the_last_look_and_the_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    fates: list[str] = []
    require_unoccupied, looks = directory._require_unoccupied, iter(range(100))

    def compete() -> None:
        try:
            Ledger.create(path).close()
        except ExistsError:
            fates.append("told")

    rival = threading.Thread(target=compete)

    def look(path: Path) -> None:
        require_unoccupied(path)
        if threading.current_thread() is not rival and next(looks) == 1:
            rival.start()
            rival.join(0.3)

    monkeypatch.setattr(directory, "_require_unoccupied", look)
    with new_directory(path) as hidden:
        Database.create(hidden)
    rival.join(TIMEOUT)
    assert fates == ["told"]
    assert names_in(path) == [FILE_NAME]


def test_a_loser_is_told_only_when_the_winner_s_ledger_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    fates: list[str] = []
    sync_names = directory.sync_names

    def lose() -> None:
        try:
            with new_directory(path) as hidden:
                (hidden / FILE_NAME).write_bytes(b"late")
                begun.set()
                won.wait(TIMEOUT)
        except ExistsError:
            fates.append("told")

    def sync_slowly(name: Path) -> None:
        won.set()
        rival.join(0.3)
        fates.append("durable")
        sync_names(name)

    begun, won, rival = threading.Event(), threading.Event(), threading.Thread(target=lose)
    rival.start()
    assert begun.wait(TIMEOUT)
    monkeypatch.setattr(directory, "sync_names", sync_slowly)
    with new_directory(path) as hidden:
        Database.create(hidden)
    rival.join(TIMEOUT)
    assert fates == ["durable", "told"]


# Syncing the names above


def synced_while_creating(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    sync = directory.sync

    def note(file: Path) -> None:
        seen.append(Path(os.path.realpath(file)))
        sync(file)

    monkeypatch.setattr(directory, "sync", note)
    with new_directory(path) as hidden:
        Database.create(hidden)
    return seen


def test_the_names_that_really_lead_to_a_ledger_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/deep")
    seen = synced_while_creating(tmp_path / "link" / "new" / "ledger", monkeypatch)
    real = (tmp_path / "disk" / "deep" / "new" / "ledger").resolve()
    assert {real, *real.parents} <= set(seen)


@pytest.mark.parametrize(
    ("number", "is_failure"),
    [(errno.EINVAL, False), (errno.EROFS, False), (errno.EACCES, False), (errno.EIO, True)],
)
def test_a_directory_above_that_cannot_be_synced_is_no_failure_of_ours(
    number: int, is_failure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may belong to another, or to a file system that keeps no writes; but may not fail to."""
    path = tmp_path / "ledger"
    sync = directory.sync

    def fail(file: Path) -> None:
        if file == Path(os.path.realpath(tmp_path)):
            raise OSError(number, os.strerror(number))
        sync(file)

    def create() -> None:
        with new_directory(path) as hidden:
            Database.create(hidden)

    monkeypatch.setattr(directory, "sync", fail)
    if is_failure:
        with pytest.raises(OSError, match=os.strerror(number)):
            create()
    else:
        create()
    assert names_in(path) == [FILE_NAME]  # whole in any case


# Sealed segments


@pytest.fixture(scope="module")
def sealed_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "ledger"
    sealed.build(path, chain(*range(20)), 8, 8)
    return path


def back_up(source: Path, path: Path) -> None:
    with Ledger.open(source, read_only=True) as ledger:
        ledger.backup(path)


def import_again(source: Path, path: Path) -> None:
    with Ledger.open(source, read_only=True) as ledger:
        lines = [line.encode() for line in export_lines(ledger)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cairn.store.disk.SEAL_BLOCKS", 3)
        patch.setattr("cairn.ledger.exchange.BATCH_ENTRIES", 4)
        import_chain(path, lines)


COPIES = pytest.mark.parametrize("copy", [back_up, import_again])
Copying = Callable[[Path, Path], None]


def require_whole(path: Path, source: Path) -> None:
    """Check that there is a copy of `source`, and nothing else."""
    with Ledger.open(path, read_only=True) as copy, Ledger.open(source, read_only=True) as ledger:
        assert copy.validate().valid
        assert list(copy) == list(ledger)
    folder = path / SEGMENTS_NAME
    assert all(name.endswith(".segment") for name in names_in(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == mode_of(path)


@COPIES
def test_files_come_with_their_ledger(copy: Copying, sealed_source: Path, tmp_path: Path) -> None:
    copy(sealed_source, tmp_path / "copy")
    require_whole(tmp_path / "copy", sealed_source)
    assert len(sealed.files_of(tmp_path / "copy")) > 1


def rename_but(name: str, act: Callable[[], None]) -> Callable[[Path, Path], Path]:
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        if path.name == name:
            act()
        return rename(path, target)

    return renamed


@COPIES
@pytest.mark.parametrize("name", [SEGMENTS_NAME, FILE_NAME])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_crash_between_the_names_leaves_what_the_next_creator_removes(
    copy: Copying, name: str, is_there: bool, sealed_source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "copy"
    if is_there:
        path.mkdir()
    child = os.fork()
    if child == 0:
        Path.rename = rename_but(name, lambda: os._exit(9))  # type: ignore[method-assign, assignment]
        try:
            copy(sealed_source, path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (path / SEGMENTS_NAME).exists() is (name == FILE_NAME)
    assert not occupied(path)
    with pytest.raises(NotFoundError):
        Ledger.open(path, read_only=True)
    require_usable(path)
    assert names_in(path) == WHOLE


@COPIES
@pytest.mark.parametrize("name", [SEGMENTS_NAME, FILE_NAME])
@pytest.mark.parametrize("is_there", [True, False])
def test_an_error_between_the_names_leaves_nothing(
    copy: Copying, name: str, is_there: bool, sealed_source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "copy"
    if is_there:
        path.mkdir()

    def fail() -> None:
        raise OSError("the disk has failed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", rename_but(name, fail))
        with pytest.raises(OSError, match="the disk has failed"):
            copy(sealed_source, path)
    assert names_in(tmp_path) == (["copy"] if is_there else [])
    assert not is_there or names_in(path) == []


@COPIES
def test_a_creator_that_comes_late_leaves_the_files_of_the_first(
    copy: Copying, sealed_source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"

    def create_late() -> None:
        with new_directory(path) as hidden:
            Database.create(hidden)
            copy(sealed_source, path)

    with pytest.raises(ExistsError):
        create_late()
    require_whole(path, sealed_source)


def test_a_ledger_that_has_lost_its_database_is_never_removed(
    sealed_source: Path, tmp_path: Path
) -> None:
    """Not even where there are leftovers, of creators that came late or crashed at the end."""
    path = tmp_path / "ledger"
    back_up(sealed_source, path)
    files = {file.name: file.read_bytes() for file in sealed.files_of(path)}
    (path / FILE_NAME).unlink()
    late, crashed = path / LEFTOVER, path / ".cairn-7-0000000000000007.new"
    late.mkdir()
    (late / FILE_NAME).write_bytes(b"half a ledger")
    crashed.mkdir()
    (path / SEGMENTS_NAME / crashed.name).touch()
    for read_only in (False, True):
        with pytest.raises(DamagedError, match="not in it"):
            Ledger.open(path, read_only=read_only)
    with pytest.raises(ExistsError):
        Ledger.create(path)
    with pytest.raises(ExistsError):
        back_up(sealed_source, path)
    assert {file.name: file.read_bytes() for file in sealed.files_of(path)} == files
