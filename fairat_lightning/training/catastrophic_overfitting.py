"""The guard over single-step training that collapses.

Catastrophic overfitting (Wong, Rice and Kolter, "Fast is better than free", ICLR 2020, arXiv 2001.03994): within an epoch or two,
training against one large step can lose all robustness to several small ones, while its accuracy under its own attack rises.
We call it so when the accuracy under PGD-10, whenever the run is validated, is below half of its best, and that under the
training attack above that best: our choice, for which no image is attacked that was not attacked anyway, but where an average
of the weights is validated: then the current ones are too. Where clean accuracy is below half of that under the training attack,
validation fails as a whole, as in the first epochs of a short training, whose batch norms lag behind: that is no collapse.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from fairat_lightning.evaluation.attacks import class_robust
from fairat_lightning.methods.base import Method
from fairat_lightning.metrics import average
from fairat_lightning.running.terminal import say
from fairat_lightning.settings import one_of
from fairat_lightning.training.callbacks import validated

STEPS = 10  # of an attack that does not collapse
ACTIONS = ("warn", "stop", "strengthen")


class Collapse(Checkpoint):
    """Watch for catastrophic overfitting in each epoch and print it; `action` may also be "stop", or "strengthen" (to PGD-10).

    Lightning lets only Checkpoint callbacks see what a module logs at its epoch's end.
    """

    def __init__(self, action: str):
        one_of("on_collapse", action, ACTIONS)
        self.action = action
        self.best = 0.0
        self.epoch: int | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.epoch is not None:
            self.act(trainer, cast(Method, pl_module))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not validated(trainer):
            return
        keys = ("train/robust", "val/robust", "val/clean")
        own, robust, clean = (float(trainer.callback_metrics.get(key, torch.nan)) for key in keys)
        averaged = any(isinstance(callback, WeightAveraging) for callback in cast(Any, trainer).callbacks)
        if averaged:  # then validation saw the average, whose collapse comes late or never
            method, batches, clean = cast(Method, pl_module), cast(Any, trainer.val_dataloaders), torch.nan
            robust = float(average(class_robust(method.net, batches, method.attack, method.num_classes)))
        few = cast(Method, pl_module).attack.steps < STEPS
        if self.epoch is None and few and robust < self.best / 2 and own > self.best and not clean < own / 2:
            self.epoch = trainer.current_epoch
            self.act(trainer, cast(Method, pl_module))
            self.alarm(trainer, own, robust)
        self.best = max(self.best, robust)

    def act(self, trainer: L.Trainer, method: Method) -> None:
        if self.action == "stop":
            trainer.should_stop = True
        if self.action == "strengthen":
            steps = max(STEPS, method.attack.steps)
            method.attack = replace(method.attack, steps=steps, step=None, start=None, noise=None)

    def alarm(self, trainer: L.Trainer, own: float, robust: float) -> None:
        then = {
            "warn": "; train with attack=pgd10, or set on_collapse=strengthen",
            "stop": "; the training stops",
            "strengthen": "; the training continues with PGD-10 or a stronger attack",
        }[self.action]
        text = (
            f"CATASTROPHIC OVERFITTING in epoch {trainer.current_epoch + 1}: {100 * own:.1f}% under the training attack, but"
            f" {100 * robust:.1f}% under PGD-10, which was {100 * self.best:.1f}% before{then}"
        )
        say(trainer, text)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
