"""BAT: balance adversarial training. A RECONSTRUCTION from the paper's abstract: neither code nor its details could be read.

Sun, Xu, Yao, Liang, Wu, Liang, Liu and Liu, "Improving Robust Fairness via Balance Adversarial Training", AAAI 2023, arXiv
2209.07534. Source-class fairness: the attack on an example ends `patience` steps after it is first misclassified, near the
boundary (as in "friendly" training). Target-class fairness: while crafting, the probabilities of the wrong classes are drawn to
uniform,

    max_{x'}  CE(f(x'), y) - mu KL( uniform over the wrong classes || p(x') renormalised over them ).

Outside, the objective is minimised as it is (TRADES by default). mu and patience are our choice.
"""

from collections.abc import Callable
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairat_lightning.methods.base import Method
from fairat_lightning.objectives import logits_of
from fairat_lightning.settings import within


class BAT(Method):
    """`mu`, 0 or more: the pull towards uniform wrong classes. `patience`: steps past misclassification."""

    def __init__(self, *args: Any, mu: float, patience: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        within("method.mu", mu, "[0, inf)")
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 0:
            raise ValueError(f"method.patience={patience} must be a whole number of steps, 0 or more")
        self.mu, self.patience = mu, patience

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y, inner=self.balanced)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        return self.reduce(self.objective.total(terms))

    def balanced(self, net: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        """The inner loss. It is 0, and so is its gradient, for an example whose attack has ended."""
        left, fooled = torch.full_like(y, self.patience), torch.zeros_like(y)

        def loss(image: Tensor) -> Tensor:
            logits = logits_of(net, image)
            value = F.cross_entropy(logits, y, reduction="none")
            if self.mu:
                value = value - self.mu * wrong_class_imbalance(logits, y)
            fooled.logical_or_(logits.detach().argmax(1) != y)
            active = left >= fooled
            left.sub_(fooled)
            return torch.where(active, value, 0.0)

        return loss


def wrong_class_imbalance(logits: Tensor, y: Tensor) -> Tensor:
    """KL(uniform || p) over the K - 1 wrong classes, p renormalised: logits (B,K), labels (B,) -> (B,), in nats."""
    own = torch.arange(logits.shape[1], device=y.device) == y[:, None]
    among = logits.masked_fill(own, -torch.inf).log_softmax(1).masked_fill(own, 0.0)
    others = logits.shape[1] - 1
    return -among.sum(1) / others - log(others)
