"""Processes of one machine that share a command's work, and meet in what they write to the disk.

Each is started afresh, what it prints is not shown, and none outlasts the command, which alone answers Ctrl-C and other signals.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from fairat_lightning.running.errors import Lost
from fairat_lightning.running.signals import SIGNALS

WRONG_INPUT = 2  # the exit code of a process that has met a ValueError


@contextmanager
def workers(count: int, work: Callable[..., None], *given: Any) -> Iterator[Callable[[], None]]:
    """Run `work(rank, *given)` in `count` processes beside this one, `rank` from 1, and end them with this block.

    What it gives is a check: it raises Lost where one of them has ended too early, and its ValueError where it met one.
    """
    if not count:
        yield lambda: None
        return
    context = multiprocessing.get_context("spawn")
    started: list[tuple[SpawnProcess, Connection]] = []

    def check() -> None:
        for rank, (process, message) in enumerate(started, 1):
            if process.exitcode == WRONG_INPUT:
                with suppress(EOFError):  # it has ended with this code for another reason
                    raise ValueError(message.recv())
            if process.exitcode:
                raise Lost(
                    f"process {rank + 1} of {count + 1} has ended {_how(process.exitcode)}: what was finished is kept, and"
                    " the same command continues, also with another number of devices"
                )

    resource_tracker.ensure_running()  # multiprocessing's own process: its start unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # for the processes, which inherit it
    try:
        try:
            for rank in range(1, count + 1):
                message, answer = context.Pipe(duplex=False)
                process = context.Process(target=_begin, args=(answer, work, rank, *given))
                process.start()
                started.append((process, message))
                answer.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield check
    finally:
        for process, _ in started:
            process.kill()
            process.join()


def _begin(answer: Connection, work: Callable[..., None], rank: int, *given: Any) -> None:
    """What a started process does."""
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        work(rank, *given)
    except ValueError as error:
        answer.send(" ".join(str(error).split()))
        raise SystemExit(WRONG_INPUT) from None


def _end_with_the_command() -> None:
    if (command := multiprocessing.parent_process()) is not None:
        command.join()
    os._exit(1)


def _how(code: int) -> str:
    return f"by signal {-code}, perhaps for want of memory" if code < 0 else f"with exit code {code}, see its own message above"
