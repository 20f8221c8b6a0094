"""WAT: worst-class adversarial training.

Li and Liu, "WAT: Improve the Worst-Class Robustness in Adversarial Training", AAAI 2023, arXiv 2302.04025. A game against K + 1
experts, the classes and their average, played by Hedge. After epoch s the validation split gives each class's cost c_s,k, the
objective's mean at the objective's own adversarial images, and c_s,avg = mean_k c_s,k. Then

    q = softmax( eta * sum_s c_s ),      loss = mean_i [ K q[y_i] l_i ] + scale * q_avg * mean_i l_i .

scale = 1 is the theory, and with eta = 0 the plain objective; the released code multiplies the average expert by K too, so that
the loss begins at 2 K / (K + 1) times the plain one: `average_scale=classes`. (In its first epoch the code's weights are 1 and
not K / (K + 1) each.) Costs are taken from a uniform start that is fixed for each image. A class absent from validation is
given the average cost.
"""

from typing import Any

import torch
from torch import Tensor

from fairat_lightning.dro import hedge
from fairat_lightning.methods.base import Method
from fairat_lightning.settings import within


class WAT(Method):
    """`eta`: Hedge's rate. `average_scale`: a number, or "classes" for their number."""

    cumulative_cost: Tensor

    def __init__(self, *args: Any, eta: float, average_scale: float | str = 1.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        within("method.eta", eta, "[0, inf)")
        if average_scale != "classes":
            within("method.average_scale", average_scale, "[0, inf)")
        self.eta = eta
        self.average_scale = float(self.num_classes if average_scale == "classes" else average_scale)
        self.register_buffer("cumulative_cost", torch.zeros(self.num_classes + 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        weights = self.class_weight()
        return self.reduce(weights[y] * self.objective.total(terms))

    def class_weight(self) -> Tensor:
        """K q_k + scale * q_avg for each class (C,)."""
        q = hedge(self.cumulative_cost, self.eta)
        return self.num_classes * q[:-1] + self.average_scale * q[-1]

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()

        def cost(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
            return self.objective.total(self.objective(self.net, x, self.craft_fixed(x, y, index), y))

        self.pay(self.measure(self.validation_batches(), cost))
        self.log_classes("train/class_weight", self.class_weight())

    def pay(self, cost: Tensor) -> None:
        """Add an epoch's costs (C,), nan for an absent class, to every expert's account."""
        average = cost.nanmean()
        self.cumulative_cost += torch.cat([torch.where(cost.isnan(), average, cost), average[None]]).to(self.cumulative_cost)
