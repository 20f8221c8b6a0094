"""Guards over a training: one for numbers that are no longer finite, one for single-step training that collapses.

Catastrophic overfitting (Wong, Rice and Kolter, "Fast is better than free", ICLR 2020, arXiv 2001.03994): within an epoch or two,
training against one large step can lose all robustness to several small ones, while its accuracy under its own attack rises.
We call it so when the accuracy under PGD-10, whenever the run is validated, is below half of its best, and that under the
training attack above that best: our choice, for which no image is attacked that was not attacked anyway, but where an average
of the weights is validated: then the current ones are too.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from torch import Tensor
from torchmetrics import Metric

from fairat_lightning.callbacks import say, validated
from fairat_lightning.classwise import global_sum
from fairat_lightning.methods.base import Method
from fairat_lightning.metrics import average

ACTIONS = ("warn", "stop", "strengthen")
NONFINITE = ("stop", "skip")
KEPT = "the checkpoints are of earlier steps"
PATIENCE = 10  # bad steps in a row: our choice
EVERY = 50  # steps between two looks at what the device knows


class Diverged(RuntimeError):
    """The loss, a gradient or a weight is not finite."""


class Finite(Callback):
    """Watch loss and gradients in every step, and the weights before they are saved: nothing that is nan or infinite is.

    `action`: "stop" raises Diverged, "skip" leaves such a step out, until PATIENCE in a row: weights, optimiser and every count
    stay as they were. All is looked at on the device, which is asked every EVERY steps and before a checkpoint; to skip, in every
    step. With 16-mixed Lightning's gradient scaler skips by itself.
    """

    def __init__(self, action: str):
        if action not in NONFINITE:
            raise ValueError(f"on_nonfinite={action} is unknown: choose one of {', '.join(NONFINITE)}")
        self.action = action
        self.skipped = self.in_a_row = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a resume within an epoch has no start of one
        self.good += trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        def zero(kind: torch.dtype) -> Tensor:
            return torch.zeros((), dtype=kind, device=pl_module.device)

        self.good = zero(torch.long)  # steps of this epoch before the first bad one
        self.bad, self.bad_loss, self.bad_gradient, self.first = *(zero(torch.bool) for _ in range(3)), zero(torch.long)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.action == "skip" and batch_idx % trainer.accumulate_grad_batches == 0:
            self.before = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}
            self.counts = [(m, m.update_count, {k: v.clone() for k, v in m.metric_state.items()}) for m in meters(pl_module)]

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.precision == "16-mixed":
            return
        gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        self.names, bad = list(gradients), not_finite(list(gradients.values()))
        self.first = torch.where(self.bad_gradient, self.first, bad.long().argmax())
        self.bad_gradient = self.bad_gradient | bad.any()
        if self.action == "skip":
            self.skip(trainer, pl_module)

    def skip(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not self.bad_gradient:
            self.in_a_row = 0
            return
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.in_a_row == PATIENCE:
            raise Diverged(f"{PATIENCE} steps in a row were skipped, the last {when(trainer)}: a lower optim.lr may help; {KEPT}")
        say(trainer, f"skipped: {self.where()} is nan or infinite {when(trainer)}")
        module.zero_grad(set_to_none=True)  # an optimiser passes over what has no gradient
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(self.before[name])
        for metric, updates, states in self.counts:
            metric._update_count = updates
            for key, value in states.items():
                getattr(metric, key).copy_(value)
        self.bad, self.bad_loss, self.bad_gradient = (torch.zeros_like(self.bad) for _ in range(3))
        self.good.fill_(trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.in_a_row == 0:
            self.bad_loss |= ~self.bad & ~outputs["loss"].detach().isfinite()
        self.bad |= self.bad_loss | self.bad_gradient
        self.good += ~self.bad
        if batch_idx % EVERY == EVERY - 1 and self.action == "stop":
            self.read(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.read(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.read(trainer)  # also within an epoch
        named = [(name, p) for name, p in pl_module.named_parameters() if p.is_floating_point()]
        bad = not_finite([p.detach() for _, p in named])
        if bad.any():  # equal on every process
            raise Diverged(f"the weight {named[int(bad.long().argmax())][0]} is nan or infinite {when(trainer)}; {KEPT}")

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def read(self, trainer: L.Trainer) -> None:
        if not global_sum(self.bad.long()):
            return
        step = f"in step {int(self.good) + 1} of epoch {trainer.current_epoch + 1}"
        where = f"{self.where()} is nan or infinite {step}" if self.bad else "a loss is nan or infinite on another process"
        raise Diverged(f"{where}: a lower optim.lr may help; {KEPT}")

    def where(self) -> str:
        return "the loss" if self.bad_loss else f"the gradient of {self.names[int(self.first)]}"


def not_finite(tensors: list[Tensor]) -> Tensor:
    """Which of the tensors hold nan or infinity: (len(tensors),) bool, on their device."""
    return ~torch.stack(torch._foreach_norm(tensors, torch.inf)).isfinite()


def meters(module: L.LightningModule) -> list[Any]:
    """The metrics that a training step counts with: sums, not lists of what was seen."""
    return [m for m in module.modules() if isinstance(m, Metric) and all(map(torch.is_tensor, m.metric_state.values()))]


def when(trainer: L.Trainer) -> str:
    return f"in step {trainer.fit_loop.epoch_loop.batch_progress.current.ready} of epoch {trainer.current_epoch + 1}"


class Collapse(Checkpoint):
    """Watch for catastrophic overfitting each epoch: say so; `action` may also "stop", or "strengthen" the attack to PGD-10.

    Lightning lets only Checkpoint callbacks see what a module logs at its epoch's end.
    """

    def __init__(self, action: str):
        if action not in ACTIONS:
            raise ValueError(f"on_collapse={action} is unknown: choose one of {', '.join(ACTIONS)}")
        self.action = action
        self.best = 0.0
        self.epoch: int | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.epoch is not None:
            self.act(trainer, cast(Method, pl_module))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not validated(trainer):
            return
        own, robust = (float(trainer.callback_metrics.get(key, torch.nan)) for key in ("train/robust", "val/robust"))
        averaged = any(isinstance(callback, WeightAveraging) for callback in cast(Any, trainer).callbacks)
        if averaged:  # then validation saw the average, whose collapse comes late or never
            robust = float(average(cast(Method, pl_module).validation_robust()))
        if self.epoch is None and robust < self.best / 2 and own > self.best:
            self.epoch = trainer.current_epoch
            self.act(trainer, cast(Method, pl_module))
            self.alarm(trainer, own, robust)
        self.best = max(self.best, robust)

    def act(self, trainer: L.Trainer, method: Method) -> None:
        if self.action == "stop":
            trainer.should_stop = True
        if self.action == "strengthen":
            steps = max(10, method.attack.steps)
            method.attack = replace(method.attack, steps=steps, step=None, start=None, noise=None)

    def alarm(self, trainer: L.Trainer, own: float, robust: float) -> None:
        then = {"warn": "", "stop": "; the training stops", "strengthen": "; it goes on with PGD-10 or more"}[self.action]
        text = (
            f"CATASTROPHIC OVERFITTING in epoch {trainer.current_epoch + 1}: {100 * own:.1f}% under the training attack, but"
            f" {100 * robust:.1f}% under PGD-10, which was {100 * self.best:.1f}% before{then}"
        )
        say(trainer, text)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
