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
from fairat_lightning.record.atomic_write import write
from fairat_lightning.running.checkpoints import Whole
from fairat_lightning.running.terminal import short


def balance_best(method: Method, data: DataModule, head: BalancedHead, trainer: L.Trainer, best: Path) -> dict[str, Any]:
    """Balance the last layer of the selected weights at the end of a training, and write them back.

    What it found out is in the checkpoint too.
    """
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    if "head" not in checkpoint:  # else the run was stopped after this
        method.load_state_dict(checkpoint["state_dict"])
        method.to(trainer.strategy.root_device)

        def accuracy() -> torch.Tensor:
            return class_robust(method.net, data.whole_val_dataloader(), method.attack, method.num_classes)

        found = head.fit(method.net, method.num_classes, lambda: float(selection_score(accuracy(), method.select)))
        robust = map(none_if_nan, accuracy().tolist())
        checkpoint["head"] = {**found, "robust_class": dict(zip(data.classes, robust, strict=True))}
        checkpoint["state_dict"] |= {f"net.{name}": value.cpu() for name, value in method.net.state_dict().items()}
        if trainer.is_global_zero:
            Whole().save_checkpoint(checkpoint, best)
        trainer.strategy.barrier()
    kept: dict[str, Any] = checkpoint["head"]
    return kept


def balance(cfg: DictConfig, to: Path) -> None:
    """Find the strength on validation, write the balanced weights to `to`, and show what was tried. Raises ValueError."""
    found = load(cfg)
    net, data, attack = found.net.to("cuda" if torch.cuda.is_available() else "cpu"), found.data, build_part(cfg, "attack")
    accuracies = []

    def score() -> float:
        accuracies.append(class_robust(net, data.whole_val_dataloader(), attack, data.num_classes))
        return float(selection_score(accuracies[-1], cfg.select))

    head = build_part(cfg, "head")
    result = head.fit(net, data.num_classes, score)
    state = {name: value.cpu() for name, value in net.state_dict().items()}
    content = state if cfg.to is not None else {"state_dict": {f"net.{name}": v for name, v in state.items()}, "head": result}
    written = io.BytesIO()
    torch.save(content, written)
    try:
        write(to, written.getbuffer())
    except OSError as error:  # the disk is full, or the folder has gone
        raise ValueError(f"to={to} cannot be written: {error.strerror}") from error
    table = Table("strength", "PGD-10 average", "worst class", title="Validation", title_justify="left")
    for strength, accuracy in zip(head.strengths, accuracies, strict=True):
        mark = " *" if strength == result["strength"] else ""
        table.add_row(f"{strength:g}{mark}", f"{100 * average(accuracy):.1f}", f"{100 * worst(accuracy):.1f}")
    Console().print(table)
    print(f"balanced with strength {result['strength']:g}: {short(to.absolute())}")
