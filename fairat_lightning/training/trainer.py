"""Lightning's Trainer of a run: its callbacks in their order, its logger, its checkpoints."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor, LearningRateMonitor, WeightAveraging
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from fairat_lightning.config.build import build_part, loggers
from fairat_lightning.config.build import callbacks as own_callbacks
from fairat_lightning.config.trainer_keys import INSTEAD, UNSUPPORTED
from fairat_lightning.running.checkpoints import Last, Whole
from fairat_lightning.running.lightning_internals import check_at_validations
from fairat_lightning.running.processes import check_strategy, join
from fairat_lightning.running.slurm import GPU
from fairat_lightning.settings import switch, whole, within
from fairat_lightning.training.callbacks import Bar, Cadence, History, Keep
from fairat_lightning.training.catastrophic_overfitting import Collapse
from fairat_lightning.training.nonfinite import Finite

SWITCHES = ("benchmark", "detect_anomaly")
LOGGED = tuple(f"val/{name}" for name in ("clean", "clean_worst", "robust", "robust_worst", "select"))
CLASSES = ("val/clean_class/", "val/robust_class/")


def build_trainer(cfg: DictConfig, folder: Path, *, anew: bool = False) -> L.Trainer:
    """Lightning's Trainer with our callbacks and the chosen logger; `anew`: whatever is in the folder."""
    check_strategy(cfg.trainer.strategy)
    if cfg.select == "last" and cfg.on_collapse == "stop":
        raise ValueError("select=last with on_collapse=stop would keep the epoch that has collapsed: set select=sum")
    if cfg.on_nonfinite == "skip" and cfg.trainer.precision == "16-mixed":
        raise ValueError(
            "on_nonfinite=skip with trainer.precision=16-mixed, which skips by itself: set bf16-mixed or on_nonfinite=stop"
        )
    callbacks: list[Callback] = [
        History(folder / "history.csv"),
        Collapse(cfg.on_collapse),  # before what writes the checkpoints, which hold what it knows
        Keep(folder / "checkpoints", cfg.select),
        Last(folder / "checkpoints", seed=cfg.seed, minutes=cfg.save_minutes, anew=anew),
        Finite(cfg.on_nonfinite),
        Cadence(cfg.val_every),
    ]
    if cfg.get("averaging"):
        callbacks.append(build_part(cfg, "averaging"))
    logger: Any = loggers(cfg, folder) or False
    if logger and any(isinstance(one, WandbLogger) for one in logger):
        from fairat_lightning.training.wandb import WandbFigures

        callbacks.append(WandbFigures())
    callbacks += (own := own_callbacks(cfg))
    _check_own(own, bool(logger))
    if cfg.val_every > 1:
        for callback in own:
            check_at_validations(callback)
    bar = sys.stdout.isatty()
    if "enable_progress_bar" in cfg.trainer:
        switch("trainer.enable_progress_bar", cfg.trainer.enable_progress_bar)
        bar = bar and cfg.trainer.enable_progress_bar
        cfg = OmegaConf.merge(cfg, {"trainer": {"enable_progress_bar": bar}})  # type: ignore[assignment]
    if bar:
        callbacks.append(Bar())
    on_gpus = torch.cuda.is_available() and cfg.trainer.accelerator != "cpu"
    if on_gpus and cfg.trainer.devices == 1 and GPU in os.environ:
        cfg = OmegaConf.merge(cfg, {"trainer": {"devices": [int(os.environ[GPU])]}})  # type: ignore[assignment]
    if cfg.trainer.accelerator == "auto" and torch.backends.mps.is_available():
        cfg = OmegaConf.merge(cfg, {"trainer": {"accelerator": "cpu"}})  # type: ignore[assignment]
    if cfg.deterministic:
        deterministic: Any = torch.utils.deterministic
        deterministic.fill_uninitialized_memory = False  # every allocation, of which nothing is read before it is written
    trainer: L.Trainer = build_part(
        cfg,
        "trainer",
        INSTEAD,
        callbacks=callbacks,
        plugins=[Whole()],
        logger=logger,
        default_root_dir=folder,
        enable_progress_bar=bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the datamodule shards, without repeating a sample
        inference_mode=False,
        check_val_every_n_epoch=1,  # `Cadence` says when
        fast_dev_run=False,
        deterministic=cfg.deterministic,
        sync_batchnorm=on_gpus and (cfg.trainer.devices, cfg.trainer.get("num_nodes", 1)) != (1, 1),
    )
    join(trainer)
    return trainer


def processes_here(trainer: DictConfig) -> int:
    """How many processes of a training run on this machine."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, int) and devices > 0:
        return devices
    if not isinstance(devices, int | str):  # a list of GPUs
        return len(devices)
    return max(1, 0 if trainer.accelerator == "cpu" else torch.cuda.device_count())


def _check_own(callbacks: list[Callback], logger: bool) -> None:
    """ValueError for a callback that would end the run later: it has no logger, or goes by a value that no run logs."""
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, LearningRateMonitor | DeviceStatsMonitor) and not logger:
            raise ValueError(
                f"callbacks: {name} writes to a Lightning logger, and the run has none: add logger=tensorboard or logger=wandb"
            )
        if isinstance(callback, WeightAveraging):
            raise ValueError(
                f"callbacks: {name} averages the weights, but the test would not take its average: set averaging=ema or swa,"
                " or a class of your own by averaging._target_="
            )
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in LOGGED and not monitor.startswith(("train/", *CLASSES)):
            raise ValueError(
                f"callbacks: {name} has monitor={monitor}, which is not logged: set it to one of {', '.join(LOGGED)}"
            )


def check_trainer(trainer: DictConfig) -> None:
    """What Lightning itself would find in the middle of a run, or never. Raises ValueError."""
    for key in trainer:
        if key in UNSUPPORTED:
            raise ValueError(f"trainer.{key}={trainer[key]} is not supported: {UNSUPPORTED[str(key)]}")
        if key in SWITCHES:
            switch(f"trainer.{key}", trainer[key])
    if trainer.accelerator == "mps":
        raise ValueError(
            "trainer.accelerator=mps: Apple's GPU has no float64, in which class statistics are computed; use trainer=cpu"
        )
    steps, clip, devices = (trainer.get(key, 1) for key in ("accumulate_grad_batches", "gradient_clip_val", "devices"))
    whole("trainer.accumulate_grad_batches", steps)
    if clip is not None:
        within("trainer.gradient_clip_val", clip, "(0, inf)")
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.cuda.is_available())
    if on_cpu and devices != "auto":
        cores = max(8, os.cpu_count() or 1)
        if isinstance(devices, bool) or not isinstance(devices, int) or not 1 <= devices <= cores:
            raise ValueError(f"trainer.devices={devices} must be a number of processes, 1 to {cores} on this machine, or auto")
    if devices != -1 and isinstance(devices, int) and (isinstance(devices, bool) or devices < 1):
        raise ValueError(f"trainer.devices={devices} must be a number of GPUs, 1 or more, a list of them, -1 for all, or auto")
