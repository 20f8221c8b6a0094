"""Weights & Biases: the class-wise picture of a run, under names that make a good dashboard by themselves.

Scalars per class, FAAL's class weights among them, come through the ordinary log and draw themselves over time; this adds
bars of the accuracy per class and the confusion matrices, after every validation and after the test.
"""

from pathlib import Path
from typing import Any

import lightning as L
import wandb
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from fairat_lightning.methods.base import Method
from fairat_lightning.metrics import class_accuracy


def wandb_logger(*, project: str, entity: str | None, offline: bool | None, save_dir: Path, name: str) -> WandbLogger:
    """The W&B logger of a run; `offline=None` means offline unless somebody is logged in."""
    if offline is None:
        offline = not wandb.login(prompt=False, verify=False)
    mode = "offline" if offline else "online"  # said to wandb itself: Lightning's `offline` comes too late after a login
    return WandbLogger(name=name, save_dir=save_dir, project=project, entity=entity, mode=mode)


class WandbFigures(Callback):
    """Bars and confusion matrices for every `WandbLogger` of the trainer."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(trainer, pl_module, "val/")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(trainer, pl_module, "test/")

    @rank_zero_only
    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        assert isinstance(pl_module, Method)
        figures: dict[str, Any] = {}
        for key, confusion in pl_module.matrices.items():
            if key.startswith(split):
                figures |= _figures(key, confusion.cpu(), pl_module.classes)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.log(figures)


def _figures(key: str, confusion: Tensor, classes: list[str]) -> dict[str, Any]:
    accuracy = class_accuracy(confusion).tolist()
    bars = wandb.Table(["class", "accuracy"], [list(row) for row in zip(classes, accuracy, strict=True)])
    true, predicted = confusion.nonzero(as_tuple=True)
    counts = confusion[true, predicted]
    return {
        f"{key}_bars": wandb.plot.bar(bars, "class", "accuracy", title=f"{key}: accuracy per class"),
        f"{key}_confusion": wandb.plot.confusion_matrix(
            y_true=true.repeat_interleave(counts).tolist(),
            preds=predicted.repeat_interleave(counts).tolist(),
            class_names=classes,
            title=f"{key}: confusion",
        ),
    }
