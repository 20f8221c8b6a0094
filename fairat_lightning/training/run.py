"""One run: build every part, fit, test the selected weights, write the record.

Everything that a user can get wrong is built before anything is written.
"""

import io
import re
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from fairat_lightning.config.build import build_part, naming, network, optimiser, prepared_data
from fairat_lightning.config.compose import plain
from fairat_lightning.data import DataModule
from fairat_lightning.evaluation.attacks import ARITHMETIC
from fairat_lightning.head import BalancedHead, last_layer
from fairat_lightning.methods.base import Method
from fairat_lightning.methods.parts.checked_batches import check_first
from fairat_lightning.models.gradient_checkpointing import checkpoint_blocks
from fairat_lightning.optim import try_optimiser
from fairat_lightning.record import BEST, journal
from fairat_lightning.record.atomic_write import write
from fairat_lightning.record.environment import peak_memory
from fairat_lightning.record.fingerprint import fingerprint, of_images
from fairat_lightning.record.journal import Batch
from fairat_lightning.record.reader import read_metrics, trained_seconds
from fairat_lightning.record.writer import close_folder, elsewhere, is_finished, open_folder
from fairat_lightning.report import class_table, draw_classes
from fairat_lightning.running.checkpoints import LAST, PREVIOUS, Last
from fairat_lightning.running.machine import begin_on, keep_memory, threads, threads_for
from fairat_lightning.running.processes import together
from fairat_lightning.running.resume import check_resumable, resumable
from fairat_lightning.running.terminal import quieten, short
from fairat_lightning.training import logged
from fairat_lightning.training.balance import balance_best
from fairat_lightning.training.brought import Brought
from fairat_lightning.training.callbacks import History
from fairat_lightning.training.catastrophic_overfitting import Collapse
from fairat_lightning.training.checks import check, check_trainable, try_augmentation, try_one
from fairat_lightning.training.nonfinite import Finite
from fairat_lightning.training.trainer import build_trainer, check_trainer, processes_here


@dataclass
class Training:
    """The parts of a run, built and checked, before anything is written."""

    cfg: DictConfig
    folder: Path
    datamodule: DataModule
    method: Method
    trainer: L.Trainer
    head: BalancedHead | None
    resume: Path | None
    brought: Brought
    threads: int
    anew: bool  # whatever is in the folder
    command: str | None = None  # what repeats the run, where that is not the line that the process was started with
    fitted: bool = False  # whether the training is over


def prepare(
    cfg: DictConfig, folder: Path, *, overwrite: bool = False, mean_given: bool = False, command: str | None = None
) -> Training | None:
    """Check the resolved configuration and instantiate every part of its run; None if it is finished in `folder`.

    `mean_given`: the command itself sets model.mean or model.std, and no default or recipe. `command`: see `Training`.
    Raises what WRONG_INPUT lists for wrong input. The folder is made last; nothing else is written.
    """
    quieten()
    check(cfg)
    brought = Brought(cfg, folder, mean_given=mean_given, anew=overwrite)
    try:
        if is_finished(folder, plain(cfg), overwrite=overwrite):
            return None
    except OSError as error:
        raise ValueError(f"hydra.run.dir={folder} cannot be read: {error.strerror}") from error
    resume = None if overwrite else resumable(folder)
    if cfg.init_from is not None and resume is None:
        brought.check()
    L.seed_everything(cfg.seed, verbose=False)
    check_trainer(cfg.trainer)
    datamodule: DataModule = prepared_data(cfg, processes_here(cfg.trainer))
    datamodule.monitor = datamodule.val if cfg.select == "worst" else datamodule.monitor  # the worst of few images is chance
    check_first(datamodule)
    keep_memory()
    net = network(cfg, datamodule)
    check_trainable(net)
    if cfg.init_from is not None and resume is None:
        brought.start(net, datamodule)
    if cfg.checkpointing:
        checkpoint_blocks(net)
    teacher = {"teacher": brought.teacher(datamodule, resumed=resume is not None)} if "teacher" in cfg.method else {}
    method = build_method(cfg, net, datamodule.classes, datamodule.num_train, **teacher)
    try_augmentation(method, datamodule)
    with naming("optim"):  # built once, so that a wrong value is found now and not in the middle of fit
        try:
            method.optim(net.parameters(), epochs=cfg.trainer.max_epochs, steps=100)
            try_optimiser(method.optim, cfg.trainer.max_epochs)
        except ValueError as error:  # torch's own names no key
            raise ValueError(str(error) if re.match(r"optim|schedule", str(error)) else f"optim: {error}") from error
    head: BalancedHead | None = build_part(cfg, "head") if cfg.get("head") else None
    if head is not None:
        last_layer(net, datamodule.num_classes)
    trainer = build_trainer(cfg, folder, anew=overwrite)
    datamodule.check_shares(trainer.world_size)
    if datamodule.batch_size == trainer.world_size:
        try_one(net, datamodule)
    if resume is not None:
        first_best = 1 if cfg.select == "last" else min(cfg.val_every, cfg.trainer.max_epochs)
        check_resumable(folder, resume, method.state_dict(), first_best)
    on_cpu = trainer.strategy.root_device.type == "cpu"
    number = threads_for(net, datamodule.train.pixels[: datamodule.batch_size]) if on_cpu else torch.get_num_threads()
    if cfg.compile:
        method.compile_all(trainer.strategy.root_device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"hydra.run.dir={folder} cannot be created: {error.strerror}") from error
    return Training(cfg, folder, datamodule, method, trainer, head, resume, brought, number, overwrite, command)


def build_method(cfg: DictConfig, net: torch.nn.Module, classes: list[str], num_samples: int, **teacher: Any) -> Method:
    """The method that `cfg.method` names, with its attack, objective, optimiser and AWP, for `net` and a training set."""
    method = build_part(
        cfg,
        "method",
        **teacher,
        net=net,
        classes=classes,
        attack=build_part(cfg, "attack"),
        objective=build_part(cfg, "objective"),
        optim=optimiser(cfg),
        awp=build_part(cfg, "awp") if cfg.get("awp") else None,
        select=cfg.select,
        num_samples=num_samples,
    )
    if not isinstance(method, Method):
        raise ValueError(f"method._target_={cfg.method._target_} must be a subclass of {Method.__module__}.Method")
    return method.double() if cfg.trainer.precision == "64-true" else method  # before weights are loaded


def execute(training: Training) -> None:
    """Train, test the selected weights, and write the record.

    Raises Preempted where a signal asked to stop, Lost where another process has ended, and filelock's Timeout while another
    command runs this very run.
    """
    first = training.trainer.is_global_zero
    lock, ended = FileLock(training.folder / ".lock", timeout=0) if first else nullcontext(), None
    try:
        with lock, _callback(training, Last).request.listening(), together(training.trainer), threads(training.threads):
            if first and not training.anew and _moved(training):
                raise Timeout(str(training.folder))
            _execute(training)
    except BaseException as error:
        ended = error
        raise
    finally:
        logged.close(training.trainer, ended)


def _moved(training: Training) -> bool:
    """Whether another command has continued the run since this one looked at its folder."""
    try:
        return is_finished(training.folder, plain(training.cfg)) or resumable(training.folder) != training.resume
    except ValueError:
        return True


def _callback(training: Training, kind: type[Any]) -> Any:
    return next(c for c in cast(Any, training.trainer).callbacks if isinstance(c, kind))


def _execute(training: Training) -> None:
    begin_on(training.trainer.strategy.root_device)
    if training.trainer.is_global_zero:
        begun: dict[str, Any] = {"processes": training.trainer.world_size}
        if training.command is not None:
            begun["command"] = training.command
        if training.resume is None:
            begun |= {"classes": training.datamodule.classes, **training.brought.facts(training.method.net)}
        moved = training.resume is not None and elsewhere(training.folder, begun["processes"])
        open_folder(training.folder, plain(training.cfg), training.resume, **begun)
        _introduce(training)
        if moved:
            print("It began on another device, processor or number of processes: the bits will not be the same.", flush=True)
        logged.begin(training.trainer, plain(training.cfg), resumed=training.resume is not None)
    training.trainer.fit(training.method, training.datamodule, ckpt_path=training.resume, weights_only=True)
    training.fitted = True
    kept = training.method.keepsakes(training.datamodule.train.pixels)  # before the best epoch's state takes the last one's place
    best = training.folder / "checkpoints" / BEST
    facts: dict[str, Any] = {}
    if training.head is not None:
        facts["head"] = balance_best(training.method, training.datamodule, training.head, training.trainer, best)
    if (collapse := _callback(training, Collapse)).epoch is not None:
        facts["collapsed_epoch"] = collapse.epoch
    if skipped := _callback(training, Finite).skipped:
        facts["skipped_steps"] = skipped
    if (epochs := len(_callback(training, History).rows)) < training.cfg.trainer.max_epochs and collapse.epoch is None:
        facts["stopped_after_epochs"] = epochs
        print(f"A callback ended the training after {epochs} of {training.cfg.trainer.max_epochs} epochs.", flush=True)
    fitted = time.perf_counter()
    selected = torch.load(best, map_location="cpu", weights_only=True)["epoch"]
    training.trainer.test(training.method, training.datamodule, ckpt_path=best, weights_only=True, verbose=False)
    if training.trainer.is_global_zero:
        seconds = {**trained_seconds(training.folder), "test": round(time.perf_counter() - fitted, 1)}
        inside = ARITHMETIC if (precision := training.cfg.trainer.precision) == "32-true" else precision
        facts |= {"validated_on": len(training.datamodule.monitor), "validated_in": inside}
        draw_classes({training.folder.name: training.method.results}, training.folder / "classes.png")
        batches = [Batch(name, *(t.tolist() for t in rows)) for name, rows in training.method.verdicts.items()]
        tested = {"weights": fingerprint(training.method.net.state_dict()), "images": of_images(training.datamodule.test)}
        journal.write(training.folder / journal.NAME, {"config": plain(training.cfg), **tested}, batches)
        if kept:
            arrays: dict[str, Any] = {key: value.numpy() for key, value in kept.items()}
            content = io.BytesIO()
            np.savez(content, **arrays)
            write(training.folder / "hardest.npz", content.getbuffer())
        facts |= {"selected_epoch": selected, "selected_by": training.cfg.select, "judged_in": ARITHMETIC}
        close_folder(training.folder, training.method.results, seconds=seconds, memory=peak_memory(), **facts)
        logged.end(training.trainer, plain(training.cfg), training.folder)
        show(training.folder)


def _introduce(training: Training) -> None:
    data, attack = training.datamodule, training.method.attack
    print(f"{short(training.folder)}" + (", resumed" if training.resume else ""))
    if training.resume is not None and training.resume.name == PREVIOUS:
        print(f"{LAST} is missing or damaged: continuing from the checkpoint before it, {PREVIOUS}")
    part = f" ({len(data.monitor):,} of them each epoch)" if len(data.monitor) < len(data.val) else ""
    images = f"{data.num_train:,} + {len(data.val):,} + {len(data.test):,} images to train, validate{part} and test"
    print("".join(f"{line}\n" for line in training.brought.lines), end="")
    size = f"{sum(p.numel() for p in training.method.net.parameters()):,}"
    print(f"{images}, {data.num_classes} classes, {size} parameters, {attack.norm} eps {attack.eps:.4g}", flush=True)


def show(folder: Path) -> None:
    """Print the class-wise table of a finished run, and where its files are."""
    metrics = read_metrics(folder)
    assert metrics is not None
    console = Console()
    console.print(class_table({folder.name: metrics}))
    for name, what in (("metrics.json", "figures"), ("history.csv", "history"), ("classes.png", "picture")):
        console.print(f"[dim]{what:8}[/dim] {escape(str(short(folder / name)))}", soft_wrap=True, highlight=False)
