"""FAAL: fairness-aware adversarial learning.

Zhang, Xue, Zhang, Hospedales and Ruan, "Towards Fairness-Aware Adversarial Learning", CVPR 2024, arXiv 2402.17729.

    min_theta  max_{p: KL(u || p) <= r}  sum_k p_k  max_{x'} loss_k

(1) craft; (2) the class margins m_k = mean_{y_i = k} [ max_{j != k} p_j(x'_i) - p_k(x'_i) ] of the batch give the worst class
distribution p*, in closed form (`dro.py`); (3) minimise (K'/B) sum_i p*[y_i] loss_i over the K' classes present.

Ours, where the paper's text and code leave a choice: the margins come, detached, from the same forward as the loss (on
the AWP-perturbed weights when AWP is on); the classes and the batch are the global ones; AWP ascends the unweighted loss. The
released code scores a class by its SUM of margins, so that an absent class scores 0, above all others:
`count_weighted=True` is that rule.
"""

from typing import Any

import torch
from torch import Tensor

from fairat_lightning.classwise import class_sums
from fairat_lightning.dro import kl_worst_weights
from fairat_lightning.methods.base import Method
from fairat_lightning.objectives import margin


class FAAL(Method):
    """Weight each class by its worst-case probability within KL `radius` (nats) of uniform."""

    def __init__(self, *args: Any, radius: float, count_weighted: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not isinstance(radius, int | float) or not radius >= 0:
            raise ValueError(f"method.radius={radius} must be a number, 0 or more")
        if not isinstance(count_weighted, bool):
            raise ValueError(f"method.count_weighted={count_weighted} must be true or false")
        self.radius, self.count_weighted = float(radius), count_weighted
        self.weight_sum = torch.zeros(self.num_classes)
        self.batches = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        weights = self.class_weights(terms.logits.detach(), y)
        return self.reduce(weights[y] * self.objective.total(terms))

    def class_weights(self, logits: Tensor, y: Tensor) -> Tensor:
        """K' p* for the global batch: logits (B,C) at x', labels (B,) -> (C,), mean 1 over the classes present."""
        sums, counts = class_sums(margin(logits.softmax(1), y), y, self.num_classes)
        scores = sums if self.count_weighted else sums / torch.where(counts > 0, counts, torch.nan)
        weights = kl_worst_weights(scores, self.radius)
        self.weight_sum = self.weight_sum.to(weights) + weights
        self.batches += 1
        return weights

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log_classes("train/class_weight", self.weight_sum / self.batches)
        self.weight_sum, self.batches = torch.zeros_like(self.weight_sum), 0
