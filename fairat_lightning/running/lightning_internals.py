"""Every private name of Lightning and torchmetrics that this package cannot do without; a test looks at each of them.

What they are needed for has no public way: which processes a Trainer starts and how it watches them, who hears its signals, the
step it is at, when a callback looks at a figure, an average of weights that leaves a part of the module out, a metric's count of
updates, and the W&B run of a logger. `pyproject.toml` bounds the versions of both for them.
"""

from collections.abc import Callable
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping, WeightAveraging
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.optim.swa_utils import AveragedModel
from torchmetrics import Metric

ScriptLauncher = _SubprocessScriptLauncher  # starts the other processes of a node by the arguments of the command


class WatchedLauncher(_SubprocessScriptLauncher):
    """Lightning's, whose processes are started and then held by `start`, which a subclass gives."""

    def start(self, start_all: Callable[[], None]) -> None:
        """Call `start_all`, and take the processes out of `self.procs`: those left there are watched by Lightning."""
        raise NotImplementedError

    def _call_children_scripts(self) -> None:
        self.start(super()._call_children_scripts)


class PartialAveraging(WeightAveraging):
    """Lightning's, where a subclass gives which weights are exchanged with the average, and sees the average."""

    @property
    def average(self) -> AveragedModel:
        """The copy of the module that holds the average, there from `setup` on."""
        assert self._average_model is not None
        return self._average_model

    @average.setter
    def average(self, model: AveragedModel) -> None:
        self._average_model = model

    @property
    def last_step(self) -> int:
        """The optimiser's step at which the average was last brought up to date; in checkpoints."""
        return self._latest_update_step

    @last_step.setter
    def last_step(self, step: int) -> None:
        self._latest_update_step = step

    def swap(self, pl_module: L.LightningModule) -> None:
        """Exchange the average and the current weights: before and after a validation."""
        raise NotImplementedError

    def take_average(self, pl_module: L.LightningModule) -> None:
        """Put the average into the place of the current weights: at the end of the training."""
        raise NotImplementedError

    def _swap_models(self, pl_module: L.LightningModule) -> None:
        self.swap(pl_module)

    def _copy_average_to_current(self, pl_module: L.LightningModule) -> None:
        self.take_average(pl_module)


def set_launcher(trainer: L.Trainer, launcher: WatchedLauncher) -> None:
    trainer.strategy._launcher = launcher


def leave_signals_alone(trainer: L.Trainer) -> None:
    """Keep Lightning's own handlers of signals from being installed."""
    cast(Any, trainer)._signal_connector.register_signal_handlers = lambda: None


def check_at_validations(callback: Callback) -> None:
    """Let Lightning's EarlyStopping look at a figure of the validation after each validation, and not after each epoch."""
    if isinstance(callback, EarlyStopping) and callback.monitor.startswith("val/"):
        callback._check_on_train_epoch_end = False


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
