"""Every private name of Lightning and torchmetrics that this package cannot do without; a test looks at each of them.

What they are needed for has no public way: which processes a Trainer starts and how it watches them, who hears its signals, the
step it is at, a metric's count of updates, and the W&B run of a logger. `pyproject.toml` bounds Lightning's version for them.
"""

from collections.abc import Callable
from typing import Any, cast

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torchmetrics import Metric

ScriptLauncher = _SubprocessScriptLauncher  # starts the other processes of a node by the words of the command


class WatchedLauncher(_SubprocessScriptLauncher):
    """Lightning's, whose processes are started and then held by `start`, which a subclass gives."""

    def start(self, start_all: Callable[[], None]) -> None:
        """Call `start_all`, and take the processes out of `self.procs`: those left there are watched by Lightning."""
        raise NotImplementedError

    def _call_children_scripts(self) -> None:
        self.start(super()._call_children_scripts)


def set_launcher(trainer: L.Trainer, launcher: WatchedLauncher) -> None:
    trainer.strategy._launcher = launcher


def leave_signals_alone(trainer: L.Trainer) -> None:
    """Keep Lightning's own handlers of signals from being installed."""
    cast(Any, trainer)._signal_connector.register_signal_handlers = lambda: None


def step_of_epoch(trainer: L.Trainer) -> int:
    """The number of the training step at work within its epoch, counted from 1; in between, of the last one."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)


def set_update_count(metric: Metric, count: int) -> None:
    metric._update_count = count


def wandb_run(logger: WandbLogger) -> Any:
    """The W&B run that a logger has begun; None before."""
    return logger._experiment


def wandb_settings(logger: WandbLogger) -> dict[str, Any]:
    """What a logger will begin its W&B run with; it may be changed."""
    return logger._wandb_init
