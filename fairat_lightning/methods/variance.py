"""The variance penalty: class losses that are to be equal.

Ma, Wang and Liu, "On the Tradeoff Between Robustness and Fairness" ("Fairly adversarial training"), NeurIPS 2022, add the
variance of the class losses; HARL, the second stage of Wang et al., "TAET", CVPR 2025, arXiv 2503.01924, takes three terms. With
L_k the mean objective of class k over the global batch, and sums and means over the K' classes that are present,

    loss = weight mean L + variance mean_k (L_k - mean_j L_j)^2 + concentration sum_k (L_k / sum_j L_j)^2,

mean L over the examples (`over="examples"`) or the classes (`over="classes"`). Fairly AT: variance .1, as in its authors' README;
its code takes the unbiased variance of 100 losses, of which those that no class has are 0 (CIFAR-10: 90): `padded_to=100`.
HARL: weight = variance = concentration = .1, over the classes, on a network that cross-entropy has trained first (init_from= a
run of method=standard); its code counts an absent class as one of loss 0, so that K' = K: `present_only=false`. The gradient
goes through all three terms.
"""

from typing import Any

import torch
from torch import Tensor

from fairat_lightning.classwise import class_sums
from fairat_lightning.methods.base import Method
from fairat_lightning.settings import one_of, switch, whole, within


class VariancePenalty(Method):
    """`weight`, `variance`, `concentration`: 0 or more. `over`: what the mean is over, "examples" or "classes".

    `padded_to`: None, or a number of losses, at least the number of classes and 2, see above.
    """

    def __init__(
        self,
        *args: Any,
        variance: float,
        concentration: float,
        weight: float,
        over: str,
        present_only: bool,
        padded_to: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        for name, value in (("variance", variance), ("concentration", concentration), ("weight", weight)):
            within(f"method.{name}", value, "[0, inf)")
        one_of("method.over", over, ("examples", "classes"))
        switch("method.present_only", present_only)
        self.variance, self.concentration, self.weight, self.over = variance, concentration, weight, over
        if padded_to is not None:
            whole("method.padded_to", padded_to, least=max(2, self.num_classes))
        self.present_only, self.padded_to = present_only, padded_to

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        losses = self.objective.total(self.score(x, x_adv, y))
        value, slope = self.penalised(*class_sums(losses.detach(), y, self.num_classes))
        weighted = slope[y] * losses
        return self.reduce(weighted + (value - weighted).detach())  # the loss's value, the weighted mean's gradient

    def penalised(self, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and N times its derivative by an example's own loss (C,), from the class sums and counts (C,) of N losses."""
        with torch.enable_grad():
            sums = sums.clone().requires_grad_()
            present = (counts > 0) if self.present_only else torch.ones_like(counts, dtype=torch.bool)
            means, number = sums / counts.clamp(min=1), present.sum()
            mean = means.sum() / number
            if self.padded_to is None:
                spread = torch.where(present, (means - mean).square(), 0.0).sum() / number
            else:
                spread = (means.square().sum() - means.sum().square() / self.padded_to) / (self.padded_to - 1)
            share = (means / means.sum().clamp(min=torch.finfo(means.dtype).tiny)).square().sum()
            centre = mean if self.over == "classes" else sums.sum() / counts.sum()
            loss = self.weight * centre + self.variance * spread + self.concentration * share
            (slope,) = torch.autograd.grad(loss, sums)
        return loss.detach(), slope * counts.sum()
