"""TRIX: mixed adversarial training.

Medi, Jung and Keuper, "TRIX: Trading Adversarial Fairness via Mixed Adversarial Training", arXiv 2507.07768, 2025. Strong classes
are attacked weakly, towards a class drawn uniformly, weak classes strongly, away from their own; weights and eps differ by class:

    inner loss   weak class:    the objective's            strong class:  -CE(f(x'), t),  t uniform over the other classes
    eps_k        (lambda1 + t_k) eps, and the step with it
    w_k          (lambda2 + 1 - t_k) / mean_j (lambda2 + 1 - t_j),        loss = mean_i w[y_i] objective_i

t_k is class k's robust accuracy on the training batches of the last epoch, under its own attack, so that a strong class, which
faces the weaker one, tends to stay strong; strong is a class of t_k above the mean. In epoch 0 all are weak, and both factors 1.
eps works against the rest: a weak class has the smaller one. No code is public and we could read the abstract alone, so that what
it leaves open is OUR CHOICE: how t_k is taken, where strong begins, both rules (eps_k is CFA's, which the same authors use in
FAIR-TAT), both lambdas.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairat_lightning.classwise import calibrated, keep
from fairat_lightning.methods.base import Method
from fairat_lightning.settings import switch, within


class TRIX(Method):
    """`lambda1`, `lambda2`, 0 or more: the offsets of eps and of the weights. `targeted`: the weak attack of strong classes."""

    class_robust: Tensor

    def __init__(self, *args: Any, lambda1: float, lambda2: float, targeted: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        within("method.lambda1", lambda1, "[0, inf)")
        within("method.lambda2", lambda2, "[0, inf)")
        switch("method.targeted", targeted)
        self.lambda1, self.lambda2, self.targeted = lambda1, lambda2, targeted
        self.register_buffer("class_robust", torch.full((self.num_classes,), torch.nan))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        inner = self.mixed(self.strong()[y], self.targets(y)) if self.targeted else None
        x_adv = self.craft(x, y, scale=calibrated(self.lambda1, self.class_robust)[y], inner=inner)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        return self.reduce(self.class_weight()[y] * self.objective.total(terms))

    def mixed(self, strong: Tensor, target: Tensor) -> Any:
        """The inner loss: away from the own class, or towards `target` (B,) where `strong` (B,)."""

        def inner(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
            both = self.objective.inner_with_logits(net, x, y)

            def loss(image: Tensor) -> Tensor:
                away, logits = both(image)
                return torch.where(strong, -F.cross_entropy(logits, target, reduction="none"), away)

            return loss

        return inner

    def targets(self, y: Tensor) -> Tensor:
        """A class other than `y` (B,) for each example, all equally likely."""
        return (y + torch.randint(1, self.num_classes, y.shape, device=y.device)) % self.num_classes

    def strong(self) -> Tensor:
        """Which classes (C,) are attacked weakly: none while their accuracies are not known."""
        robust = self.class_robust.double()
        return robust > robust.nanmean() + 1e-9  # not the rounding of equal ones

    def class_weight(self) -> Tensor:
        """w (C,), of mean 1 over the classes known; 1 for a class not seen yet."""
        need = self.lambda2 + 1 - self.class_robust
        mean = need.nanmean()
        return torch.where(need.isnan() | (mean <= 0), 1.0, need / mean)

    def on_train_epoch_end(self) -> None:
        self.class_robust.copy_(keep(self.train_robust.compute(), self.class_robust))
        super().on_train_epoch_end()
        self.log_classes("train/class_eps", calibrated(self.lambda1, self.class_robust))
        self.log_classes("train/class_weight", self.class_weight())
