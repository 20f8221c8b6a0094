"""CFOL: class-focused online learning.

Pethick, Chrysos and Cevher, "Revisiting Adversarial Training for the Worst-Performing Class", TMLR 2023, arXiv 2302.08872. An
adversarial bandit (EXP3) chooses the classes that are trained on. With log-weights w (C,), after each batch:

    p = gamma u + (1 - gamma) softmax(w),        w_k += sum_{i: y_i = k} eta 1[ argmax f(x'_i) != y_i ] / p_k .

sampling="class": batches are drawn class ~ p, then an image of the class, with replacement; an epoch has as many batches as
ever. sampling="uniform": ordinary batches, and p[y_i] over the share of class y_i weights the loss,
and the share divides its errors: the same in expectation.

The p that divides an error is the one that its batch was drawn with, which with prefetching workers is some batches old; every
process draws the same batch and trains on its share. Choose eta by the images seen: w moves by about eta * (images seen) *
(error of k), and the code's 5e-6 is meant for 200 epochs of CIFAR-10. A class without training images has p = 0.
"""

from typing import Any

import torch
from torch import Tensor

from fairat_lightning.classwise import class_sums
from fairat_lightning.data import DataModule
from fairat_lightning.dro import hedge
from fairat_lightning.methods.base import Method
from fairat_lightning.settings import one_of, within


class CFOL(Method):
    """`eta`: the bandit's rate, 0 or more. `gamma`: the share of uniform exploration, in (0, 1]. `sampling`: class, uniform."""

    log_weight: Tensor
    share: Tensor

    def __init__(self, *args: Any, eta: float, gamma: float, sampling: str = "class", **kwargs: Any):
        super().__init__(*args, **kwargs)
        within("method.eta", eta, "[0, inf)")
        within("method.gamma", gamma, "(0, 1]")
        one_of("method.sampling", sampling, ("class", "uniform"))
        self.eta, self.gamma, self.sampling = eta, gamma, sampling
        self.drawn: dict[int, Tensor] = {}  # by the number of the batch in its epoch
        self.register_buffer("log_weight", torch.zeros(self.num_classes, dtype=torch.float64))
        self.register_buffer("share", torch.full((self.num_classes,), 1 / self.num_classes, dtype=torch.float64))

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, DataModule):
            raise ValueError("CFOL draws the batches of a fairat_lightning.data.DataModule: give the Trainer one")
        counts = data.train.targets.bincount(minlength=self.num_classes).double()
        self.share.copy_(counts / counts.sum())
        data.draw = self.draw if self.sampling == "class" else None

    def probability(self) -> Tensor:
        """p (C,), 0 for a class that the training set does not have."""
        present = self.share > 0
        q = hedge(self.log_weight.masked_fill(~present, -torch.inf))
        return torch.where(present, self.gamma / present.sum() + (1 - self.gamma) * q, 0.0)

    def draw(self, batch_idx: int) -> Tensor:
        """The distribution of the classes of a batch that is about to be drawn; it is remembered until its training step."""
        self.drawn[batch_idx] = self.probability()
        return self.drawn[batch_idx]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        drawn = self.drawn.pop(next(iter(self.drawn))) if self.sampling == "class" else self.share  # in the order of drawing
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        losses = self.objective.total(terms)
        if self.sampling == "uniform":
            losses = (self.probability() / self.share.clamp(min=1e-12)).to(losses)[y] * losses
        wrong, _ = class_sums((terms.logits.argmax(1) != y).double(), y, self.num_classes)
        self.log_weight += self.eta * wrong / drawn.clamp(min=1e-12)
        return self.reduce(losses)

    def teardown(self, stage: str) -> None:
        if stage == "fit" and isinstance(data := getattr(self.trainer, "datamodule", None), DataModule):
            data.draw = None

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.drawn.clear()
        self.log_classes("train/class_weight", self.num_classes * self.probability())
