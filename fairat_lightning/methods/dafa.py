"""DAFA: class weights that move importance from the easier to the harder of each similar pair of classes.

Lee, Lee, Jang, Park, Bae and Yoon, "DAFA: Distance-Aware Fair Adversarial Training", ICLR 2024, arXiv 2401.12532. With the
similarity S_ij = mean_{y = i} p_j(x') over the last warm-up epoch, S_ii says how easy class i is, and

    W_i = 1 + lambda [ sum_{j: S_ii < S_jj} S_ij S_jj  -  sum_{j: S_ii > S_jj} S_ji S_ii ].

What one of a pair gains the other loses, so the mean of W is 1. After the warm-up, with W fixed, a hard class is both weighted
more and attacked harder:

    eps_i = W[y_i] eps,  step_i = W[y_i] step,      mean_i [ W[y_i] supervised_i + beta * consistency_i ].

Deviations: W is clamped from below (the formula can go negative); a class that was never seen is left out. Releases before
September 2024 had another index in the second sum. For the cross-entropy objective the released code follows each step by a
second one, with the same gradient, of the plain size and within the plain eps, from a Gaussian start, in the warm-up too:
`attack.second_step=true attack.start=gaussian`. No image then leaves the plain eps, and the two steps together are 1 + W as
long. Without the option the margins act; `margins=False` weights the loss alone.
"""

from typing import Any

import torch
from torch import Tensor

from fairat_lightning.classwise import ClassMeans
from fairat_lightning.methods.base import Method
from fairat_lightning.settings import switch, within

LEAST = 0.1  # our clamp


def class_transfer(similarity: Tensor, strength: float) -> Tensor:
    """W (C,) of the similarities S (C,C), whose row is nan for a class that was not seen; that class has weight 1."""
    seen = ~similarity.isnan().any(1)
    s = similarity.nan_to_num(nan=0.0)
    ease = s.diagonal()
    harder = (ease[:, None] < ease) & seen[:, None] & seen  # (i, j): i is the harder one
    moved = torch.where(harder, s * ease, 0.0)  # from j to i: S_ij S_jj
    return (1 + strength * (moved.sum(1) - moved.sum(0))).clamp(min=LEAST)


class DAFA(Method):
    """`strength`: the paper's lambda; 0 is the plain objective. `warmup`: the share of the epochs before the weights act.

    `margins`: whether they scale eps and step too, or weight the loss alone.
    """

    class_weight: Tensor

    def __init__(self, *args: Any, strength: float, warmup: float, margins: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        within("method.strength", strength, "[0, inf)")
        within("method.warmup", warmup, "(0, 1]")
        switch("method.margins", margins)
        self.strength, self.warmup, self.margins = float(strength), float(warmup), margins
        self.register_buffer("class_weight", torch.ones(self.num_classes))
        self.similarity = ClassMeans(self.num_classes, self.num_classes)

    @property
    def first(self) -> int:
        """The first epoch in which the weights act."""
        return max(1, round(self.warmup * self.epochs))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        acts = self.strength > 0 and self.current_epoch >= self.first
        weight = self.class_weight[y] if acts else None
        x_adv = self.craft(x, y, scale=weight if self.margins else None)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        if self.strength > 0 and self.current_epoch + 1 == self.first:
            self.similarity.update(terms.logits.detach().softmax(1), y)
        if weight is not None:
            terms = terms._replace(supervised=weight * terms.supervised)
        return self.reduce(self.objective.total(terms))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.similarity.update_called:
            self.class_weight.copy_(class_transfer(self.similarity.compute(), self.strength))
            self.similarity.reset()
        self.log_classes("train/class_weight", self.class_weight)
