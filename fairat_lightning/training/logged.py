"""What the loggers of a run are told besides its curves: its configuration before it begins, its test when it has ended."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from fairat_lightning.record.reader import kept_epoch, read_metrics
from fairat_lightning.running.signals import Preempted

KEPT = ("val/clean", "val/clean_worst", "val/robust", "val/robust_worst")


def begin(trainer: L.Trainer, config: Mapping[str, Any], *, resumed: bool) -> None:
    """Log the configuration, by which a dashboard can group and filter runs; when a run continues, for W&B alone.

    Not every logger lets a value be changed, and more epochs or other devices are other values.
    """
    told = described(config)
    for logger in trainer.loggers:
        if not resumed or isinstance(logger, WandbLogger):
            logger.log_hyperparams(told)


def described(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as loggers get it: with the classes of its parts under `names`."""
    names = {group: name.rpartition(".")[2] for group, node in config.items() if (name := _target(node, group))}
    return {key: value for key, value in config.items() if key not in ("logger", "allow")} | {"names": names}


def _target(node: Any, group: str) -> str:
    found = node.get("load" if group == "data" else "_target_") if isinstance(node, Mapping) else None
    return str(found.get("_target_", "")) if isinstance(found, Mapping) else str(found or "")


def end(trainer: L.Trainer, config: Mapping[str, Any], folder: Path) -> None:
    """Log the figures of the finished run in `folder`: its test, and the validation of the epoch that was kept."""
    metrics, row = read_metrics(folder), kept_epoch(folder)
    assert metrics is not None
    found = {f"kept/{key.removeprefix('val/')}": row[key] for key in (*KEPT, "epoch") if key in row}
    for name, of in (("", "average"), ("_worst", "worst")):
        found |= {f"test/{key}{name}": summary[of] for key, summary in metrics.items() if summary[of] is not None}
    for logger in trainer.loggers:
        logger.log_metrics(found, trainer.global_step + isinstance(logger, WandbLogger))  # see `wandb._send`
        if isinstance(logger, TensorBoardLogger):  # which shows settings beside figures
            logger.log_hyperparams(described(config), found)
        logger.save()  # Lightning did so before the test
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        from fairat_lightning.training.wandb import log_report

        log_report(trainer, folder)


def close(trainer: L.Trainer, error: BaseException | None) -> None:
    """Let go of W&B's run, so that the next job of a sweep has one of its own; it is told how this one has ended."""
    wandb: Any = sys.modules.get("wandb")
    if wandb is None or wandb.run is None or not any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        return
    if isinstance(error, Preempted):
        wandb.run.mark_preempting()
    wandb.finish(exit_code=0 if error is None else getattr(error, "code", None) or 1)
