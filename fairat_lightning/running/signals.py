"""The signals that ask a process to stop: Ctrl-C (SIGINT), SIGTERM and SIGUSR1, and under submitit on SLURM SIGUSR2 too.

A training does not end at once: it remembers the request, and saves at the end of its step (`checkpoints.py`). A second
Ctrl-C ends the process at once.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fairat_lightning.running.slurm import queue_again, through_submitit

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # Windows has no USR1
TOLD = "stopped by a signal: the same command continues"
SAVING = "Stopping: the run is saved at the end of this step or validation. Press Ctrl-C again to stop at once without saving."
CURSOR = "\x1b[?25h"  # shows it again: a progress bar hides it, and a process that leaves at once cannot


class Preempted(SystemExit):
    """The process was told to stop; its state is saved."""

    def __init__(self) -> None:
        super().__init__(os.EX_TEMPFAIL)  # 75


def listen(handler: Callable[[int, Any], Any], more: tuple[int, ...] = ()) -> dict[int, Any]:
    """Let `handler` answer the signals, and `more` of them; what answered each before.

    Where Ctrl-C is ignored it stays ignored: a command in the background of a script must not end by the Ctrl-C for another.
    """
    numbers = [n for n in (*SIGNALS, *more) if n != signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def leave_next(before: Any = None) -> Any:
    """Let the next Ctrl-C end the process at once; what answers it now.

    As the system does it, also while other code is at work; in a Python session, where `before` is Python's own, as a
    KeyboardInterrupt.
    """
    after = before if before is signal.default_int_handler else signal.SIG_DFL
    signal.signal(signal.SIGINT, after)
    return after


def say_saving() -> None:
    """Answer the first Ctrl-C of a training, in one of the processes that hear it: by no print, which it may have interrupted."""
    if multiprocessing.parent_process() is None and os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError, ValueError):
            show = CURSOR if sys.stderr.isatty() else ""
            os.write(sys.stderr.fileno(), f"{show}\n{SAVING}\n".encode())


class StopRequest:
    """Whether the process was `asked` to stop while it was `listening`."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[Any, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Remember the signals within this block; outside the main thread, where they cannot be heard, do nothing.

        In a job that submitit has given to SLURM, SIGUSR2 too; once all is saved, the job is queued again.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.before = listen(self._ask, (signal.SIGUSR2,) if through_submitit() else ())
        try:
            yield
        except Preempted:
            if through_submitit() and callable(submitit := self.before[signal.SIGUSR2]):
                queue_again(submitit)
            raise
        finally:
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        if number == signal.SIGINT:
            self.before[number] = leave_next(self.before[number])
            say_saving()
