"""Applications that log and end, each in its own way; the tests run them as processes.

    python -m tests.logs.programs NAME TARGET

A line `THREAD NUMBER` on standard output says that the call that logged NUMBER has returned.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import logging.config
import logging.handlers
import multiprocessing
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Never

from cairn import Ledger
from cairn.logging import LedgerHandler
from tests.logs.targets import Slow

COUNT = 500
"""Records that a program of fixed length logs."""

log = logging.getLogger("program")
log.setLevel(logging.INFO)


def add(*arguments: object, **keywords: object) -> LedgerHandler:
    handler = LedgerHandler(*arguments, **keywords)  # type: ignore[arg-type]
    log.addHandler(handler)
    return handler


def say(*words: object) -> None:
    os.write(1, " ".join(map(str, words)).encode() + b"\n")


def one(number: int, thread: str = "main") -> None:
    log.info("%d", number, extra={"thread_": thread})
    say(thread, number)


def several(thread: str = "main") -> None:
    for number in range(COUNT):
        one(number, thread)


def forever(thread: str) -> None:
    for number in itertools.count():
        one(number, thread)


def idle() -> Never:
    """Wait to be ended: in short naps, as Python sleeps over a signal that comes just before."""
    while True:
        time.sleep(0.05)


def start(*names: str, daemon: bool = True) -> None:
    for name in names:
        threading.Thread(target=forever, args=(name,), daemon=daemon).start()


# Exits


def exit_by_exception(target: str) -> None:
    add(target)
    several()
    raise RuntimeError("this program ends badly")


def exit_with_a_thread(target: str) -> None:
    """A thread goes on for some time after the main one has ended."""
    add(target)

    def later() -> None:
        time.sleep(0.2)
        several("later")

    threading.Thread(target=later).start()
    several()


def exit_with_a_callback(target: str) -> None:
    add(target)
    atexit.register(several, "callback")


def exit_with_a_slow_disk(target: str) -> None:
    add(Slow(Ledger.open(target)))
    several()


def exit_after_a_full_disk(target: str) -> None:
    """No file can grow for a while."""
    handler = add(target)
    one(0, "before")
    assert handler.flush()
    size = (Path(target) / "tail.sqlite-wal").stat().st_size
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    several()
    assert not handler.flush(0.2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def exit_from_a_multiprocessing_child(target: str) -> None:
    """The child ends by `os._exit`, which is how multiprocessing does it."""

    def child() -> None:
        add(target)
        several("child")

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    sys.exit(process.exitcode)


def exit_while_others_log(target: str) -> None:
    """Daemon threads log until the interpreter is gone."""
    add(target)
    start("a", "b")
    time.sleep(0.3)


# Signals


def logs_in_all_threads(target: str) -> None:
    add(Slow(Ledger.open(target)))
    start("a", "b", "c")
    forever("main")


def logs_while_main_sleeps(target: str) -> None:
    add(Slow(Ledger.open(target)))
    start("a", "b", "c")
    time.sleep(60)


def logs_while_main_joins(target: str) -> None:
    add(Slow(Ledger.open(target)))
    start("a", "b", "c", daemon=False)


def logs_while_main_appends(target: str) -> None:
    """The main thread writes to the same ledger by itself: the signal finds it amidst that."""
    ledger = Ledger.open(target)
    add(ledger)
    start("a", "b", "c")
    while True:
        ledger.append_all([{"dropped": 0}] * 50)


def logs_into_a_full_queue(target: str) -> None:
    add(Slow(Ledger.open(target)), capacity=3)
    start("a", "b", "c")
    forever("main")


def logs_into_two(target: str) -> None:
    add(Slow(Ledger.open(target)))
    add(Slow(Ledger.open(f"{target}-second")))
    forever("main")


def logs_a_little(target: str) -> None:
    """Then it is idle: the signal finds only what is queued."""
    add(Slow(Ledger.open(target)))
    several()
    idle()


def logs_from_signal_handlers(target: str) -> None:
    """A signal handler that logs interrupts logging in the same thread, many times a second."""
    add(Slow(Ledger.open(target), 0.01))
    numbers, turn = itertools.count(), threading.Lock()

    def interrupt(_signal: int, _frame: object) -> None:
        if turn.acquire(blocking=False):  # not amidst itself, or they were not in order
            one(next(numbers), "handler")
            turn.release()

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    forever("main")


def handles_the_signal_itself(target: str) -> None:
    def end(_signal: int, _frame: object) -> None:
        sys.exit(7)

    signal.signal(signal.SIGTERM, end)
    add(Slow(Ledger.open(target)))
    assert signal.getsignal(signal.SIGTERM) is end
    several()
    idle()


def handles_the_signal_later(target: str) -> None:
    add(Slow(Ledger.open(target)))
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(7))
    several()
    idle()


def looks_at_the_signal(target: str) -> None:
    """It is taken only in the main thread, and given back with the last handler."""
    thread = threading.Thread(target=add, args=(f"{target}-first",))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    logging.shutdown()
    second, third = add(f"{target}-second"), add(f"{target}-third")
    second.close()
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    third.close()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def never_gets_it_recorded(target: str) -> None:
    """The disk takes longer than a process may take to die."""
    import cairn.logging.process

    vars(cairn.logging.process)["FLUSH_SECONDS"] = 0.5
    add(Slow(Ledger.open(target), 60))
    several()
    idle()


def flushes_and_goes_on(target: str) -> None:
    handler = add(Slow(Ledger.open(target), 0.3))
    several()
    assert handler.flush()
    say("flushed")
    forever("after")


# Forks


def forks(target: str) -> None:
    """Children log while a thread of the parent does, so that locks are held at a fork."""
    handler = add(target)
    threading.Thread(target=several, args=("thread",)).start()
    for number in range(20):
        child = os.fork()
        if child == 0:
            os.close(1)
            log.info("from child %d", number)
            handler.flush()
            logging.shutdown()
            os._exit(0)
        one(number)
        assert os.waitpid(child, 0)[1] == 0


def forks_and_both_exit(target: str) -> None:
    """The child exits as the parent does, through all that runs at exit."""
    add(target)
    one(0)
    child = os.fork()
    if child == 0:
        log.info("from the child")
        sys.exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    one(1)


def forks_with_a_node(target: str) -> None:
    """Children log to the node, over connections of their own, while the parent does."""
    handler = add(target)
    threading.Thread(target=several, args=("thread",)).start()
    children = []
    for name in "xyz":
        child = os.fork()
        if child == 0:
            for number in range(50):
                one(number, name)
            os._exit(0 if handler.flush() else 1)
        children.append(child)
    several()
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def imports_nothing_by_then(target: str) -> None:
    """What is imported while another thread forks is missing in the child for good."""
    handler = add(target)
    before = set(sys.modules)
    one(0)
    assert handler.flush()
    assert set(sys.modules) == before


def forks_with_multiprocessing(target: str) -> None:
    """The handler is the parent's; the child ends without a flush of its own."""
    add(target)
    one(0)
    process = multiprocessing.get_context("fork").Process(target=several, args=("child",))
    process.start()
    process.join()
    one(1)


def dies_in_a_forked_child(target: str) -> None:
    """A child must end by SIGTERM as its parent would."""
    add(target)
    one(0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b".")
        idle()
    os.read(reader, 1)  # Python forgets signals that come amidst a fork
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    one(1)


# Configuration


def is_configured(target: str) -> None:
    """As frameworks do it: from a dictionary, and more than once."""
    configuration = {
        "version": 1,
        "handlers": {
            "audit": {
                "class": "cairn.logging.LedgerHandler",
                "target": target,
                "capacity": 100,
                "level": "INFO",
                "formatter": "short",
            }
        },
        "formatters": {"short": {"format": "<%(message)s>"}},
        "loggers": {"program": {"handlers": ["audit"], "level": "DEBUG"}},
        "disable_existing_loggers": False,
    }
    for number in range(2):
        logging.config.dictConfig(configuration)
        log.info("%d", number)
        log.debug("not recorded")


def has_a_queue_in_front(target: str) -> None:
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, LedgerHandler(target))
    listener.start()
    log.addHandler(logging.handlers.QueueHandler(records))
    several()
    listener.stop()


if __name__ == "__main__":
    program: Callable[[str], None] = globals()[sys.argv[1]]
    program(sys.argv[2])
