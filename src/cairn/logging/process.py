"""What concerns the process as a whole: SIGTERM, forks, and the children of multiprocessing."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Final, Protocol

from cairn.logging.queue import FLUSH_SECONDS

RESEND_SECONDS: Final = 0.05
"""How soon a signal that was missed is sent again."""


class OpenHandler(Protocol):
    """What is asked of a handler that is not closed."""

    synchronous: bool
    """Whether a logging call returns only when its record is durable."""

    def flush(self, timeout: float | None = FLUSH_SECONDS) -> bool:
        """Wait until all that was logged before is durable; return whether it is."""

    def start_over(self) -> None:
        """Begin anew in the child of a fork."""


open_handlers: Final[set[OpenHandler]] = set()
"""Every handler that is not closed: what a signal or a fork concerns."""
workers: Final[set[int]] = set()
"""The numbers of the threads that record."""


class _Termination:
    """What SIGTERM does, where nobody else handles it: record what is queued, then die of it.

    Python runs a handler of a signal in the main thread, between any two of its bytecodes: it may
    hold any lock. So nothing is waited for there. A new thread waits, and then sends the signal
    again, as only the main thread may set what a signal does.
    """

    def __init__(self) -> None:
        self._begun = self._flushed = False

    def install(self) -> None:
        """Handle SIGTERM, if this is the main thread and nobody handles it."""
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self)

    def uninstall(self) -> None:
        """Let SIGTERM be, when the last handler is closed."""
        idle = not open_handlers and not self._begun and _in_main_thread()
        if idle and signal.getsignal(signal.SIGTERM) is self:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if self._flushed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self._begun:  # a second signal does not cut short what the first began
            self._begun = True
            for handler in list(open_handlers):
                handler.synchronous = True
            try:
                # Not threading.Thread: starting one takes a lock that may be held.
                _thread.start_new_thread(self._flush, ())
            except RuntimeError:  # the interpreter is exiting, and starts no threads any more
                self._flush()

    def _flush(self) -> None:
        try:
            end = time.monotonic() + FLUSH_SECONDS
            for handler in list(open_handlers):
                handler.flush(max(0.0, end - time.monotonic()))
        finally:
            self._flushed = True
            self._signal_main_thread()

    def _signal_main_thread(self) -> None:
        """Have the main thread called again, out of whatever it waits for.

        More than once: a signal that comes when the main thread is about to wait does not wake it.
        """
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)
        while signal.getsignal(signal.SIGTERM) is self:
            time.sleep(RESEND_SECONDS)
            signal.pthread_kill(main, signal.SIGTERM)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def flush_with_multiprocessing(handler: OpenHandler) -> None:
    """Flush at the end of a child of `multiprocessing`: it ends by `os._exit`."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(handler, handler.flush, exitpriority=0)


def _after_fork() -> None:
    """Leave the threads, locks and connections of the parent to it."""
    workers.clear()
    for handler in list(open_handlers):
        handler.start_over()
    termination._begun = termination._flushed = False


termination: Final = _Termination()

os.register_at_fork(after_in_child=_after_fork)
