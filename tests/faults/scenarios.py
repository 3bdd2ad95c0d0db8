"""A process in which calls of an operation fail, one at a time, each time in a fresh directory.

Usage: scenarios SCENARIO DIRECTORY EVERY FAULT ..., started with the library of shim.c: of all
calls each fails if EVERY is 1, each third if it is 3, with every fault another third. Where
DIRECTORY has a folder "traces", all that each case does to the disk is recorded there. It only acts
and says what happened, a JSON list a line and in the traces; who started it judges.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import sqlite3
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final

from cairn import Block, Ledger, OutcomeUnknownError, UsageError
from cairn.hashing import best_hasher
from cairn.ledger import exchange as cairn_exchange
from cairn.ledger import writer as cairn_writer
from cairn.ledger.exchange import export_lines, import_chain
from cairn.store import database as databases
from cairn.store import disk, stored_runs
from cairn.store.directory import FILE_NAME, sync
from cairn.store.disk import DiskStore
from tests.faults import mining
from tests.faults.harness import key, numbers, place, tune, value
from tests.faults.shim import Mode, Shim

FAULTS: Final = {
    "EIO once": (Mode.ONCE, errno.EIO),
    "ENOSPC once": (Mode.ONCE, errno.ENOSPC),
    "disk dead": (Mode.STICKY, errno.EIO),
    "disk full": (Mode.STICKY, errno.ENOSPC),
    "short write": (Mode.SHORT, errno.ENOSPC),
    "kill": (Mode.KILL, errno.EIO),
    "sync fails": (Mode.SYNC_ONCE, errno.EIO),
    "none": (Mode.UNARMED, 0),
}
LOG_PAGES: Final = 12
SEAL_BLOCKS: Final = disk.SEAL_BLOCKS
LEFTOVER: Final = ".cairn-1-0123456789abcdef.new"
BATCH: Final = 3
"""Items that one commit of `extend` takes here."""


class Case:
    """One directory: a ledger, what becomes of it, and what is promised on the way."""

    def __init__(self, directory: Path, template: Path, shim: Shim) -> None:
        self.path = directory / "ledger"
        self.target = directory / "target"
        self.template = template
        self.shim = shim
        self.ledger: Ledger | None = None
        self.store: DiskStore | None = None
        """In place of a ledger, where blocks are mined."""
        self.keyed: list[int] = []
        self.erasing: list[int] = []
        self.count = itertools.count(101)

    def say(self, *words: object) -> None:
        text = json.dumps(words)
        self.shim.mark(text)
        os.write(1, text.encode() + b"\n")

    def open(self) -> Ledger:
        self.ledger = Ledger.open(self.path)
        self.say("made", self.path.name)
        return self.ledger

    def append(self, *, keyed: bool = False) -> None:
        assert self.ledger is not None
        number = next(self.count)
        self.say("try", number)
        if keyed:
            self.keyed.append(number)
            self.say("key", number)
        block = self.ledger.append(value(number), key=key(number) if keyed else None)
        self.acknowledge(number, block)

    def retry(self) -> None:
        assert self.ledger is not None
        for number in self.keyed:
            self.acknowledge(number, self.ledger.append(value(number), key=key(number)))

    def extend(self, count: int) -> None:
        assert self.ledger is not None
        batch = [next(self.count) for _ in range(count)]
        for number in batch:
            self.say("try", number)
        try:
            durable = self.ledger.extend(map(value, batch))
        except OutcomeUnknownError as error:
            durable = error.durable
            raise
        except BaseException as error:
            durable = next(int(n.split()[1]) for n in error.__notes__ if "are durable" in n)
            raise
        finally:
            for number in batch[:durable]:
                self.say("ack", number)

    def erase(self, number: int) -> None:
        """Erase what a template holds: each number is in the block of that index."""
        assert self.ledger is not None
        self.say("erase", number, self.ledger[number].entries[0].salt.hex())
        self.erasing.append(number)
        self.ledger.erase(number, reason="to see what becomes of it")
        self.say("erased", number)

    def erase_again(self) -> None:
        assert self.ledger is not None
        for number in self.erasing:
            with suppress(UsageError):  # it is erased already
                self.ledger.erase(number, reason="again")
            self.say("erased", number)

    def copy_mined(self, steps: int) -> None:
        """Put a work ledger there, and on the disk."""
        shutil.copytree(self.template / f"mined {steps}", self.path)
        for path in (*self.path.rglob("*"), self.path, self.path.parent):
            sync(path)
        self.say("stepped", steps)
        self.open_mined()

    def open_mined(self) -> DiskStore:
        self.store = DiskStore(self.path, best_hasher())
        self.say("made", self.path.name)
        return self.store

    def step(self) -> None:
        """Make the next step of `mining`."""
        assert self.store is not None
        steps = mining.steps_of(self.store)
        self.say("step", steps + 1)
        mining.make_step(self.store)
        self.say("stepped", steps + 1)

    def close(self) -> None:
        assert self.ledger is not None
        self.ledger.close()
        self.ledger = None

    def acknowledge(self, number: int, block: Block) -> None:
        self.say("ack", number, *place(block))

    def copy_template(self, name: str) -> None:
        """Put a ledger there, and on the disk."""
        shutil.copytree(self.template / name, self.path)
        for path in (*self.path.rglob("*"), self.path, self.path.parent):
            sync(path)
        for number in range(1, 8):
            at = json.loads((self.template / "places").read_text())[number]
            self.say("try", number)
            self.say("ack", number, *at)

    def make_empty(self, path: Path, *leftovers: str) -> None:
        """Put a directory there, and on the disk, with what earlier creators left in it."""
        path.mkdir()
        for name in leftovers:
            (path / name).mkdir()
            (path / name / FILE_NAME).write_bytes(b"half a ledger")
            sync(path / name)
            self.say("left", name)
        sync(path)
        sync(path.parent)
        self.say("empty", path.name)

    def attempt(self, act: Callable[[], None], word: str) -> bool:
        """Do something, say how it ended, and return whether it ended well."""
        try:
            act()
        except Exception as error:  # which ones may come is for the judge
            kinds = [kind.__name__ for kind in type(error).__mro__]
            self.say(word, kinds, "".join(traceback.format_exception(error)))
            return False
        return True


# What is there before, and what is done while calls fail.


def nothing(_: Case) -> None:
    pass


def closed(case: Case) -> None:
    case.copy_template("closed")


def left_over(case: Case) -> None:
    case.make_empty(case.path, LEFTOVER)


def target_empty(case: Case) -> None:
    case.make_empty(case.target)


def opened_and_target_empty(case: Case) -> None:
    opened(case)
    target_empty(case)


def killed(case: Case) -> None:
    case.copy_template("killed")


def crashed(case: Case) -> None:
    case.copy_template("crashed")


def opened(case: Case) -> None:
    closed(case)
    case.open()


def appended(case: Case) -> None:
    opened(case)
    case.append()


def log_nearly_full(case: Case) -> None:
    """The next append moves the log into the database."""
    opened(case)
    for _ in range(appends_before_checkpoint(case.template)):
        case.append()


def tail_full(case: Case) -> None:
    """Two files and two blocks in the tail: each block more goes to a file with them."""
    tune(disk, SEAL_BLOCKS=2)
    case.copy_template("sealed")
    case.open()


def tail_not_full(case: Case) -> None:
    """The same, and room for two blocks more."""
    tune(disk, SEAL_BLOCKS=4)
    case.copy_template("sealed")
    case.open()


def nothing_sealed(case: Case) -> None:
    """The next block goes to the first file, with all others."""
    opened(case)
    tune(disk, SEAL_BLOCKS=5)


def tail_overgrown(case: Case) -> None:
    """The next block goes to the third file, after four blocks each went to the first two."""
    opened(case)
    tune(disk, SEAL_BLOCKS=1)
    tune(stored_runs, SCAN_BLOCKS=1)


def tail_full_and_target_empty(case: Case) -> None:
    tail_full(case)
    target_empty(case)


def nothing_and_small_tails(_: Case) -> None:
    tune(disk, SEAL_BLOCKS=2)


def target_empty_and_small_tails(case: Case) -> None:
    tune(disk, SEAL_BLOCKS=2)
    target_empty(case)


def before_step(steps: int, **constants: int) -> Callable[[Case], None]:
    """Return what puts a work ledger there to which so many steps were done."""

    def prepare(case: Case) -> None:
        tune(disk, **constants)
        case.copy_mined(steps)

    return prepare


def step(case: Case) -> None:
    case.step()


def create(case: Case) -> None:
    case.ledger = Ledger.create(case.path)
    case.say("made", case.path.name)


def open_(case: Case) -> None:
    case.open()


def append(case: Case) -> None:
    case.append()


def append_keyed(case: Case) -> None:
    case.append(keyed=True)


def append_twice(case: Case) -> None:
    case.append()
    case.append(keyed=True)


def extend(case: Case) -> None:
    case.extend(3 * BATCH + 1)


def erase_first(case: Case) -> None:
    case.erase(1)


def erase_last(case: Case) -> None:
    case.erase(7)


def close(case: Case) -> None:
    case.close()


def backup(case: Case) -> None:
    assert case.ledger is not None
    case.ledger.backup(case.target)
    case.say("made", case.target.name)


def import_(case: Case) -> None:
    lines = (case.template / "lines").read_bytes().splitlines()
    import_chain(case.target, lines)
    case.say("made", case.target.name)


def live_and_seal(case: Case) -> None:
    tune(disk, SEAL_BLOCKS=6)
    live(case)
    assert len(list(case.path.glob("segments/*.segment"))) > 9


def live(case: Case) -> None:
    """All that a writer does in its life, through many checkpoints."""
    create(case)
    choose = random.Random(1)
    for turn in range(4):
        for _ in range(10):
            choose.choice((case.append, lambda: case.append(keyed=True), lambda: case.extend(5)))()
        if turn == 1:  # a reader is in the way of checkpoints
            uri = f"{(case.path / FILE_NAME).as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT * FROM head").fetchall()
                case.extend(20)
        elif turn == 2:
            threads = [threading.Thread(target=case.extend, args=(7,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        case.close()
        case.open()
        case.retry()


def folder_is_missing(case: Case) -> None:
    case.path = case.path.parent / "missing" / "ledger"


def die_of_a_failed_sync(case: Case) -> None:
    """A writer gives up when a sync fails; the next one finds a log that only memory holds."""

    def write_and_die() -> None:
        case.open()
        case.append()
        case.shim.arm(1, Mode.SYNC_ONCE)
        case.append(keyed=True)

    def recover_and_retry() -> None:
        case.open()
        case.keyed = [102]
        case.retry()

    for act in (write_and_die, recover_and_retry):
        os.waitpid(in_a_process(act), 0)
    case.count = itertools.count(201)


def recover_beside_a_backup(case: Case) -> None:
    """A writer dies before its last sync; a long backup finds its log, then the next writer."""

    def write_and_die() -> None:
        case.open()
        case.append()
        case.shim.arm(1, Mode.SYNC_KILL)
        case.append(keyed=True)

    def back_up() -> None:
        with Ledger.open(case.path, read_only=True) as ledger:
            ledger.backup(case.target, progress=lambda *_: wait())

    def wait() -> None:
        os.write(began[1], b".")
        os.read(end[0], 1)
        os._exit(0)

    def recover_and_retry() -> None:
        tune(databases, BUSY_SECONDS=0.1)  # the backup may take longer
        case.open()
        case.keyed = [102]
        case.retry()

    began, end = os.pipe(), os.pipe()
    os.waitpid(in_a_process(write_and_die), 0)
    reader = in_a_process(back_up)
    os.read(began[0], 1)
    os.waitpid(in_a_process(recover_and_retry), 0)
    os.write(end[1], b".")
    os.waitpid(reader, 0)
    case.count = itertools.count(201)


def in_a_process(act: Callable[[], object]) -> int:
    """Start a process that does this and is gone, without closing anything; return its id."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    return child


Scenarios = dict[str, tuple[Callable[[Case], None], Callable[[Case], None]]]
SCENARIOS: Final[Scenarios] = {
    "create": (nothing, create),
    "open": (closed, open_),
    "recover from a kill": (killed, open_),
    "recover from a crash": (crashed, open_),
    "append": (opened, append),
    "append with a key": (opened, append_keyed),
    "extend": (opened, extend),
    "append with a checkpoint": (log_nearly_full, append_twice),
    "close": (appended, close),
    "backup": (opened, backup),
    "seal": (tail_full, append_keyed),
    "erase": (opened, erase_last),
    "erase in a file": (tail_not_full, erase_first),
    "reorganise and seal": (before_step(mining.RETURN, SEAL_BLOCKS=2), step),
}
"""Each call of these may fail."""
SOAKED: Final[Scenarios] = {
    "create over leftovers": (left_over, create),
    "backup into an empty directory": (opened_and_target_empty, backup),
    "import": (nothing, import_),
    "import into an empty directory": (target_empty, import_),
    "seal the first file": (nothing_sealed, append_keyed),
    "seal an overgrown tail": (tail_overgrown, append),
    "extend and seal": (tail_full, extend),
    "erase in a file, and seal": (tail_full, erase_first),
    "erase what is sealed with the record": (tail_full, erase_last),
    "backup of files": (tail_full, backup),
    "backup of files into an empty directory": (tail_full_and_target_empty, backup),
    "import into files": (nothing_and_small_tails, import_),
    "import into files in an empty directory": (target_empty_and_small_tails, import_),
    "reorganise": (before_step(mining.REORGANISE), step),
    "advance": (before_step(mining.EXTEND), step),
    "advance and seal": (before_step(mining.EXTEND, SEAL_BLOCKS=2), step),
    "pool": (before_step(mining.POOL), step),
}
"""Of these too: they take long."""
STORIES: Final[Scenarios] = {
    "live": (nothing, live),
    "live and seal": (nothing, live_and_seal),
    "folder is missing": (folder_is_missing, create),
    "die of a failed sync": (closed, die_of_a_failed_sync),
    "recover beside a backup": (closed, recover_beside_a_backup),
}
"""In these none does."""


def make_template(template: Path) -> None:
    """Make what cases begin with: ledgers of the numbers 1 to 7."""
    with Ledger.create(template / "live") as ledger:
        for number in range(1, 8):
            ledger.append(value(number), key=key(number))
        (template / "places").write_text(json.dumps([place(block) for block in ledger]))
        (template / "lines").write_text("\n".join(export_lines(ledger)))
        shutil.copytree(template / "live", template / "killed")
        no_index = shutil.ignore_patterns("*-shm")  # the whole machine crashed
        shutil.copytree(template / "live", template / "crashed", ignore=no_index)
    shutil.copytree(template / "live", template / "closed")
    tune(disk, SEAL_BLOCKS=2)
    import_chain(template / "sealed", (template / "lines").read_bytes().splitlines())
    assert len(list(template.glob("sealed/segments/*.segment"))) == 2
    tune(disk, SEAL_BLOCKS=SEAL_BLOCKS)
    for steps in (mining.POOL, mining.REORGANISE, mining.EXTEND, mining.RETURN):
        mining.make(template / f"mined {steps}", steps)


def appends_before_checkpoint(template: Path) -> int:
    """Return how many appends leave the database as it is, so that the next changes it."""
    known = template / "appends"
    if known.exists():
        return int(known.read_text())
    shutil.copytree(template / "closed", template / "probe")
    database = template / "probe" / FILE_NAME
    with Ledger.open(template / "probe") as ledger:
        before = database.read_bytes()
        for appends in itertools.count():
            ledger.append(value(101 + appends))
            if database.read_bytes() != before:
                break
    known.write_text(str(appends))
    return appends


def run(case: Case, scenario: str, fault: str, k: int) -> int:
    """Let the k-th call meet its fate; return how many calls failed."""
    mode, number = FAULTS[fault]
    prepare, act = (SCENARIOS | SOAKED | STORIES)[scenario]
    prepare(case)
    case.say("begin")
    case.shim.arm(k, mode, number)
    case.attempt(lambda: act(case), "error")
    if mode is Mode.STICKY and case.ledger is not None:
        ledger = case.ledger
        case.attempt(lambda: case.append(keyed=True), "error")
        if number == errno.ENOSPC:
            case.attempt(lambda: case.say("read", len(numbers(ledger))), "broken")
    return case.shim.disarm()


def run_and_die(case: Case, scenario: str, fault: str, k: int) -> bool:
    """Do it in a process that is killed; return whether it was."""
    _, status = os.waitpid(in_a_process(lambda: run(case, scenario, fault, k)), 0)
    case.count = itertools.count(201)
    return os.WIFSIGNALED(status)


def go_on(case: Case) -> None:
    """Use the ledger again after the fault: the same object, then a new one."""
    if case.ledger is not None:
        with closing(case.ledger):
            case.erase_again()
            case.append()
            case.retry()
    with closing(case.open()):
        case.erase_again()
        case.retry()
        case.append(keyed=True)
        case.retry()


def go_on_mining(case: Case) -> None:
    """Do the same with a work ledger."""
    if case.store is not None:
        with closing(case.store):
            case.step()
    with closing(case.open_mined()):
        case.step()


def main(scenario: str, root: str, every: str, *faults: str) -> None:
    warnings.simplefilter("ignore")  # a tail that could not be sealed
    tune(databases, LOG_PAGES=LOG_PAGES)
    tune(cairn_writer, BATCH_ENTRIES=BATCH)
    tune(cairn_exchange, BATCH_ENTRIES=BATCH)
    shim = Shim()
    template, traces = Path(root) / "template", Path(root) / "traces"
    template.mkdir()
    make_template(template)
    appends_before_checkpoint(template)
    _, act = (SCENARIOS | SOAKED | STORIES)[scenario]
    for number, fault in enumerate(faults):
        for k in itertools.count(1 + number % int(every), int(every)):
            name = f"{fault} {k}"
            if traces.exists():
                shim.trace(traces / name)
            directory = Path(root) / "watched" / name
            directory.mkdir()
            sync(directory.parent)
            case = Case(directory, template, shim)
            case.say("case", name)
            failed = (run_and_die if fault == "kill" else run)(case, scenario, fault, k)
            # As if the process were killed here. (Closing the files of a copy lets go of this
            # process's locks on them, but there is no other process.)
            shutil.copytree(directory, Path(root) / "copies" / name)
            case.say("copy")
            case.attempt(partial(go_on_mining if act is step else go_on, case), "broken")
            if not failed:
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
