"""Several processes that train as one: which strategies may, how they are started, and what happens when one of them ends.

The command starts the other processes of its node by its own arguments. If one dies the rest cannot continue: what was saved
stays, and each node says so in one line. A process that waits for a dead one in the middle of a collective would wait for half
an hour, so everyone watches: the command its children, and they the command.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from fairat_lightning.running.errors import Lost
from fairat_lightning.running.lightning_internals import ScriptLauncher, WatchedLauncher, leave_signals_alone, set_launcher
from fairat_lightning.running.signals import SIGNALS

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
TYPES = (SingleDeviceStrategy, DDPStrategy)
PARENT = "FAIRAT_LIGHTNING_PARENT"  # the command's process, in the environment of those that it starts
GRACE = 10.0  # seconds that a process has to end by itself
ENDED = re.compile(r"(?i)connection (was likely )?(closed|reset)|broken pipe|remote process|failed to recv")


def check_strategy(strategy: Any) -> None:
    """Raise ValueError for a strategy other than one device and DDP in processes that are started afresh.

    `strategy`: a name, a configuration with a `_target_`, or the strategy itself.
    """
    if isinstance(strategy, Strategy):
        name: Any = type(strategy).__name__
        fits = isinstance(strategy.launcher, ScriptLauncher | None) and type(strategy) in TYPES
    else:
        name = strategy.get("_target_") if isinstance(strategy, Mapping) else strategy
        fits = name in STRATEGIES or str(name).rpartition(".")[2] in {kind.__name__ for kind in TYPES}
    if not fits:
        raise ValueError(
            f"trainer.strategy={name} is not supported: choose auto or ddp, with which every process holds all the weights"
        )


def join(trainer: L.Trainer) -> None:
    """Check the built Trainer's strategy, and let it start, watch and end processes as this file does."""
    check_strategy(trainer.strategy)
    if isinstance(before := trainer.strategy.launcher, ScriptLauncher):
        set_launcher(trainer, Launcher(before.cluster_environment, before.num_processes, before.num_nodes))
    # Lightning's own handler of SIGTERM talks to other processes in the middle of a step, and ends a validation with exit code 0.
    leave_signals_alone(trainer)


class Launcher(WatchedLauncher):
    """Lightning's, but for its watch: it kills the command where a process has told by its exit code that all is saved."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.children: list[subprocess.Popen[bytes]] = []
        self.over = threading.Event()

    def start(self, start_all: Callable[[], None]) -> None:
        os.environ[PARENT] = str(os.getpid())
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a signal waits until a child can hear it
        try:
            start_all()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.children, self.procs = self.procs, []
        watch(self.failed, self.over, self.give_up)

    def failed(self) -> bool:
        return any(child.poll() not in (None, 0, os.EX_TEMPFAIL) for child in self.children)

    def give_up(self) -> None:
        print(f"error: {Lost()}", file=sys.stderr, flush=True)
        self.kill(signal.SIGKILL)
        os._exit(1)

    def kill(self, signum: Any) -> None:
        for child in self.children:
            child.send_signal(signum)

    def end(self, patience: float) -> None:
        """Wait so many seconds for the children to end, then end them."""
        self.over.set()
        for child in self.children:
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def watch(gone: Callable[[], bool], over: threading.Event, then: Callable[[], None]) -> None:
    """Beside all else, call `then` where something is `gone`, and after GRACE seconds it is not yet `over`."""

    def look() -> None:
        while not over.wait(0.5):
            if gone():
                if not over.wait(GRACE):
                    then()
                return

    threading.Thread(target=look, daemon=True).start()


@contextmanager
def together(trainer: L.Trainer) -> Iterator[None]:
    """Around all that the processes of a run do together: raises Lost where one has ended; no child outlasts this."""
    launcher, child = trainer.strategy.launcher, trainer.local_rank > 0 and PARENT in os.environ
    if child:
        if orphaned():
            raise SystemExit(last_words(trainer.local_rank))
        watch(orphaned, threading.Event(), lambda: os._exit(last_words(trainer.local_rank)))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    patience = GRACE
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or not is_loss(error):
            raise
        if child:  # the command speaks and ends its children; unless it is the one that has ended
            until = time.monotonic() + GRACE
            while not orphaned() and time.monotonic() < until:
                time.sleep(0.02)
            raise SystemExit(last_words(trainer.local_rank)) from None
        patience = 0
        raise Lost from error
    finally:
        if isinstance(launcher, Launcher):
            launcher.end(patience)


def is_loss(error: RuntimeError) -> bool:
    """Whether a collective has failed because another process has ended."""
    return (isinstance(error, dist.DistError) or "gloo" in str(error)) and ENDED.search(str(error)) is not None


def orphaned() -> bool:
    """Whether the command that started this process has ended."""
    return os.getppid() != int(os.environ[PARENT])


def last_words(local_rank: int) -> int:
    """An orphan's exit code; the first of them says why."""
    if local_rank == 1 and orphaned():
        print(f"error: {Lost()}", file=sys.stderr, flush=True)
    return 1
