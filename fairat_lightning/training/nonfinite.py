"""The check of numbers: every loss, gradient or weight that is nan or infinite is noticed, and none is saved."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics import Metric

from fairat_lightning.classwise import global_sum
from fairat_lightning.running.errors import Diverged
from fairat_lightning.running.lightning_internals import set_update_count, step_of_epoch
from fairat_lightning.running.terminal import say
from fairat_lightning.settings import one_of

NONFINITE = ("stop", "skip")
KEPT = "the saved checkpoints are from earlier steps and not affected"
PATIENCE = 10  # bad steps in a row: our choice
EVERY = 50  # steps between two looks at what the device knows


class Finite(Callback):
    """Watch loss and gradients in every step, and the weights before they are saved: nothing that is nan or infinite is.

    `action`: "stop" raises Diverged, "skip" leaves such a step out, until PATIENCE in a row: weights, optimiser and every count
    stay as they were. All is looked at on the device, which is asked every EVERY steps and before a checkpoint; to skip, in every
    step. With 16-mixed Lightning's gradient scaler skips by itself.
    """

    def __init__(self, action: str):
        one_of("on_nonfinite", action, NONFINITE)
        self.action = action
        self.skipped = self.in_a_row = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a resume within an epoch has no start of one
        self.good += step_of_epoch(trainer)

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
            raise Diverged(f"{PATIENCE} steps in a row were skipped, the last {when(trainer)}: try a lower optim.lr; {KEPT}")
        say(trainer, f"skipped a step: {self.where()} is nan or infinite {when(trainer)}")
        module.zero_grad(set_to_none=True)  # an optimiser passes over what has no gradient
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(self.before[name])
        for metric, updates, states in self.counts:
            set_update_count(metric, updates)
            for key, value in states.items():
                getattr(metric, key).copy_(value)
        self.bad, self.bad_loss, self.bad_gradient = (torch.zeros_like(self.bad) for _ in range(3))
        self.good.fill_(step_of_epoch(trainer) - 1)

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
            raise Diverged(
                f"the weight {named[int(bad.long().argmax())][0]} is nan or infinite {when(trainer)}: try a lower optim.lr"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def read(self, trainer: L.Trainer) -> None:
        if not global_sum(self.bad.long()):
            return
        step = f"in step {int(self.good) + 1} of epoch {trainer.current_epoch + 1}"
        where = f"{self.where()} is nan or infinite {step}" if self.bad else "a loss is nan or infinite on another process"
        raise Diverged(f"{where}: try a lower optim.lr; {KEPT}")

    def where(self) -> str:
        return "the loss" if self.bad_loss else f"the gradient of {self.names[int(self.first)]}"


def not_finite(tensors: list[Tensor]) -> Tensor:
    """Which of the tensors hold nan or infinity: (len(tensors),) bool, on their device."""
    return ~torch.stack(torch._foreach_norm(tensors, torch.inf)).isfinite()


def meters(module: L.LightningModule) -> list[Any]:
    """The metrics that a training step counts with: sums, not lists of what was seen."""
    return [m for m in module.modules() if isinstance(m, Metric) and all(map(torch.is_tensor, m.metric_state.values()))]


def when(trainer: L.Trainer) -> str:
    return f"in step {step_of_epoch(trainer)} of epoch {trainer.current_epoch + 1}"
