"""FRL: fair robust learning.

Xu, Liu, Li, Jain and Tang, "To be Robust or to be Fair: Towards Fairness in Adversarial Training", ICML 2021, arXiv 2010.06121.
Before each epoch, on the validation split, the errors R_nat,k (clean) and R_bdy,k (clean minus robust accuracy) of each class
against their means over classes give the violations gamma_k = R_k - mean R - tau, and multipliers

    phi_nat += a gamma_nat,  phi_bdy += 2 a gamma_bdy,   both then clamped to >= 0 and rescaled to a sum of at most `limit`,
    w_k = K (1/K + phi_k - mean phi),                    loss = mean_i [ w_nat[y] supervised + beta w_bdy[y] consistency ]

("reweight"), and margins phi_eps += a_margin gamma_bdy, eps_k = eps clip(exp(2 phi_eps,k), least, most) ("remargin"); "both"
does both. It fine-tunes a robust model, with TRADES (beta 1.5 in the authors' code; set `objective.beta`).

Deviations: robust means PGD-10; the code divides each term by the batch's sum of weights, so that a batch of easy classes
counts as much as one of hard ones: `batch_normalized=True`. The code's attack steps a quarter of the LARGEST eps for every
class, ours the attack's step times the class's factor. With an objective without consistency term only w_nat and the margins act.
"""

from typing import Any

import torch
from torch import Tensor

from fairat_lightning.classwise import global_sum
from fairat_lightning.dro import capped
from fairat_lightning.evaluation.attacks import predict
from fairat_lightning.methods.base import Method
from fairat_lightning.settings import one_of, switch, within

MODES = ("reweight", "remargin", "both")


class FRL(Method):
    """`tau` (natural, boundary): tolerated violations. `rate`, `margin_rate`: a and a_margin. `eps_range`: least and most."""

    natural: Tensor
    boundary: Tensor
    margin: Tensor

    def __init__(
        self,
        *args: Any,
        mode: str,
        tau: tuple[float, float],
        rate: float,
        margin_rate: float,
        limit: float,
        eps_range: tuple[float, float],
        batch_normalized: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        one_of("method.mode", mode, MODES)
        for name, pair in (("tau", tau), ("eps_range", eps_range)):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise ValueError(f"method.{name}={pair} must be a list of two numbers")
            for value in pair:
                within(f"method.{name}", value, "[0, inf)")
        if eps_range[0] > eps_range[1]:
            raise ValueError(f"method.eps_range={eps_range} must be the smallest and then the largest factor")
        within("method.rate", rate, "[0, inf)")
        within("method.margin_rate", margin_rate, "[0, inf)")
        within("method.limit", limit, "[0, 1)")  # above it a weight could be negative
        switch("method.batch_normalized", batch_normalized)
        self.reweights, self.remargins = mode != "remargin", mode != "reweight"
        self.tau, self.rate, self.margin_rate, self.limit = tau, rate, margin_rate, limit
        self.eps_range, self.batch_normalized = eps_range, batch_normalized
        for name in ("natural", "boundary", "margin"):  # the multipliers phi
            self.register_buffer(name, torch.zeros(self.num_classes))

    def on_train_epoch_start(self) -> None:
        def errors(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
            found = [predict(self.net, x, y, index, self.attack, attack) != y for attack in (None, "pgd10")]
            return torch.stack(found, 1).float()

        clean, robust = self.measure(self.validation_batches(), errors, width=2).unbind(1)
        self.multiply(clean, robust - clean)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log_classes("train/class_weight", self.class_weight(self.natural))
        self.log_classes("train/class_eps", self.class_scale())

    def multiply(self, natural: Tensor, boundary: Tensor) -> None:
        """One step of the multipliers from the natural and boundary errors (C,); a class that is nan adds nothing."""
        nat, bdy = (
            (error - error.nanmean() - tau).nan_to_num(nan=0.0).to(self.natural)
            for error, tau in zip((natural, boundary), self.tau, strict=True)
        )
        if self.reweights:
            self.natural.copy_(capped(self.natural + self.rate * nat, self.limit))
            self.boundary.copy_(capped(self.boundary + 2 * self.rate * bdy, self.limit))
        if self.remargins:
            self.margin += self.margin_rate * bdy

    def class_weight(self, multiplier: Tensor) -> Tensor:
        """K w (C,), of mean 1."""
        return 1 + self.num_classes * (multiplier - multiplier.mean())

    def class_scale(self) -> Tensor:
        """eps_k / eps (C,)."""
        least, most = self.eps_range
        return (2 * self.margin).exp().clamp(least, most) if self.remargins else torch.ones_like(self.margin)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y, scale=self.class_scale()[y] if self.remargins else None)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        natural, boundary = (self.class_weight(phi)[y] for phi in (self.natural, self.boundary))
        if self.batch_normalized:
            sums = global_sum(torch.stack([natural.sum(), boundary.sum(), torch.ones_like(natural).sum()]))
            natural, boundary = natural * (sums[2] / sums[0]), boundary * (sums[2] / sums[1])
        return self.reduce(natural * terms.supervised + self.objective.beta * boundary * terms.consistency)
