"""The signals that ask a process to stop: SIGTERM and SIGUSR1, and under submitit on SLURM SIGUSR2 too.

A training does not end where it stands: it notes that it was asked, and saves at the end of its step (`checkpoints.py`).
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fairat_lightning.running.slurm import queue_again, through_submitit

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
TOLD = "told to stop: the same command goes on"


class Preempted(SystemExit):
    """The process was told to stop; what it knew is saved."""

    def __init__(self) -> None:
        super().__init__(os.EX_TEMPFAIL)  # 75


class StopRequest:
    """Whether the process was `asked` to stop while it was `listening`."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Remember SIGTERM and SIGUSR1 for as long as this lasts; where they cannot be heard, nothing.

        In a job that submitit has given to SLURM, SIGUSR2 too; once all is saved, the job is queued again.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (*SIGNALS, signal.SIGUSR2) if through_submitit() else SIGNALS
        before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        except Preempted:
            if callable(submitit := before.get(signal.SIGUSR2)):
                queue_again(submitit)
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
