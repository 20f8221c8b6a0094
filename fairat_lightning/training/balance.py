"""Balance the last layer of a trained network: at the end of a training, or as a command (`head.py` says how and why)."""

import io
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from fairat_lightning.config.build import build_part
from fairat_lightning.config.classifier import load
from fairat_lightning.data import DataModule
from fairat_lightning.evaluation.attacks import class_robust
from fairat_lightning.head import BalancedHead
from fairat_lightning.methods.base import Method
from fairat_lightning.metrics import average, none_if_nan, selection_score, worst
from fairat_lightning.models.weights import weights_file
from fairat_lightning.record.atomic_write import write
from fairat_lightning.running.checkpoints import Whole
from fairat_lightning.running.terminal import short
from fairat_lightning.settings import reachable


def balance_best(method: Method, data: DataModule, head: BalancedHead, trainer: L.Trainer, best: Path) -> dict[str, Any]:
    """Balance the last layer of the selected weights at the end of a training, and write them back.

    What it found out is in the checkpoint too.
    """
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    if "head" not in checkpoint:  # else the run was stopped after this
        method.load_state_dict(checkpoint["state_dict"])
        method.to(trainer.strategy.root_device)

        def accuracy() -> torch.Tensor:
            return class_robust(method.net, data.val_dataloader(), method.attack, method.num_classes)

        found = head.fit(method.net, method.num_classes, lambda: float(selection_score(accuracy(), method.select)))
        robust = map(none_if_nan, accuracy().tolist())
        checkpoint["head"] = {**found, "robust_class": dict(zip(data.classes, robust, strict=True))}
        checkpoint["state_dict"] |= {f"net.{name}": value.cpu() for name, value in method.net.state_dict().items()}
        if trainer.is_global_zero:
            Whole().save_checkpoint(checkpoint, best)
        trainer.strategy.barrier()
    kept: dict[str, Any] = checkpoint["head"]
    return kept


def balance(cfg: DictConfig) -> None:
    """Find the strength on validation, write the balanced weights, and show what was tried. Raises ValueError."""
    found = load(cfg)
    if cfg.to is None and found.run is None:
        raise ValueError("to=FILE must be given: this checkpoint belongs to no run")
    to = reachable(cfg.to) if cfg.to is not None else found.run / "checkpoints" / "balanced.ckpt"  # type: ignore[operator]
    if to.is_dir() or not to.absolute().parent.is_dir():
        raise ValueError(f"to={to} must be a file in a folder that exists")
    if to.resolve() == weights_file(cfg.checkpoint).resolve():
        raise ValueError(f"to={to} is the checkpoint itself: name another file")
    if to.exists() and not cfg.overwrite:
        raise ValueError(f"to={to} exists: name another file, or overwrite=true")
    net, data, attack = found.net.to("cuda" if torch.cuda.is_available() else "cpu"), found.data, build_part(cfg, "attack")
    accuracies = []

    def score() -> float:
        accuracies.append(class_robust(net, data.val_dataloader(), attack, data.num_classes))
        return float(selection_score(accuracies[-1], cfg.select))

    head = build_part(cfg, "head")
    result = head.fit(net, data.num_classes, score)
    state = {name: value.cpu() for name, value in net.state_dict().items()}
    content = state if cfg.to is not None else {"state_dict": {f"net.{name}": v for name, v in state.items()}, "head": result}
    written = io.BytesIO()
    torch.save(content, written)
    write(to, written.getbuffer())
    table = Table("strength", "PGD-10 average", "worst class", title="Validation", title_justify="left")
    for strength, accuracy in zip(head.strengths, accuracies, strict=True):
        mark = " *" if strength == result["strength"] else ""
        table.add_row(f"{strength:g}{mark}", f"{100 * average(accuracy):.1f}", f"{100 * worst(accuracy):.1f}")
    Console().print(table)
    print(f"balanced with strength {result['strength']:g}: {short(to.absolute())}")
