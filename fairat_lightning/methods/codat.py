"""CODAT: class optimal distribution adversarial training.

Zhi, Yu, Li, Zhao and Wu, "Towards Fair Class-wise Robustness: Class Optimal Distribution Adversarial Training", arXiv
2501.04527, 2025. The worst class distribution for the class losses L_k of a batch, in a chi-square ball around uniform:

    min_theta  max_{q: (1/K) sum_k (K q_k - 1)^2 <= rho}  sum_k q_k L_k  =  mean L + sqrt(rho) std L   (while no q_k is 0).

The gradient of the maximum is that of the loss weighted by the maximiser, so the weights (`dro.py`) carry none. K counts the
classes present in the global batch. rho is our choice: we found no published value.
"""

from typing import Any

from torch import Tensor

from fairat_lightning.classwise import class_sums
from fairat_lightning.dro import chi2_worst_weights
from fairat_lightning.methods.base import Method
from fairat_lightning.settings import within


class CODAT(Method):
    """`rho`, 0 or more: the radius of the chi-square ball. With 0 the loss is the mean of the class means."""

    def __init__(self, *args: Any, rho: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        within("method.rho", rho, "[0, inf)")
        self.rho = float(rho)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        losses = self.objective.total(terms)
        return self.reduce(self.sample_weight(losses.detach(), y) * losses)

    def sample_weight(self, losses: Tensor, y: Tensor) -> Tensor:
        """B q[y_i] / n[y_i] (B,) from losses (B,), B the global batch and n its class counts: their mean is sum_k q_k L_k."""
        sums, counts = class_sums(losses, y, self.num_classes)
        present = counts > 0
        weights = chi2_worst_weights(sums / counts.where(present, float("nan")), self.rho)
        return (weights * counts.sum() / (present.sum() * counts.clamp(min=1)))[y]
