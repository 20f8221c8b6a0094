"""DAFA's block: class weights that move importance from the easier to the harder of each similar pair.

Lee, Lee, Jang, Park, Bae and Yoon, "DAFA: Distance-Aware Fair Adversarial Training", ICLR 2024, arXiv 2401.12532. With the
similarity S_ij = mean_{y = i} p_j(x') over the last warm-up epoch, S_ii says how easy class i is, and

    W_i = 1 + lambda [ sum_{j: S_ii < S_jj} S_ij S_jj  -  sum_{j: S_ii > S_jj} S_ji S_ii ].

What one of a pair gains the other loses, so the mean of W is 1. Ours: W is clamped from below (the formula can go negative); a
class that was never seen is left out. Releases before September 2024 had another index in the second sum.
"""

import torch
from torch import Tensor, nn

from fairat_lightning.classwise import ClassMeans
from fairat_lightning.settings import within

LEAST = 0.1  # our clamp


def class_transfer(similarity: Tensor, strength: float) -> Tensor:
    """W (C,) of the similarities S (C,C), whose row is nan for a class that was not seen; that class has weight 1."""
    seen = ~similarity.isnan().any(1)
    s = similarity.nan_to_num(nan=0.0)
    ease = s.diagonal()
    harder = (ease[:, None] < ease) & seen[:, None] & seen  # (i, j): i is the harder one
    moved = torch.where(harder, s * ease, 0.0)  # from j to i: S_ij S_jj
    return (1 + strength * (moved.sum(1) - moved.sum(0))).clamp(min=LEAST)


class Transfer(nn.Module):
    """The weights, learned once: all 1 until the share `warmup` of the epochs has passed, fixed afterwards."""

    class_weight: Tensor

    def __init__(self, num_classes: int, *, strength: float, warmup: float):
        super().__init__()
        within("method.strength", strength, "[0, inf)")
        within("method.warmup", warmup, "(0, 1]")
        self.strength, self.warmup = float(strength), float(warmup)
        self.register_buffer("class_weight", torch.ones(num_classes))
        self.similarity = ClassMeans(num_classes, num_classes)

    def first(self, epochs: int) -> int:
        """The first of `epochs` epochs in which the weights act."""
        return max(1, round(self.warmup * epochs))

    def weight(self, y: Tensor, epoch: int, epochs: int) -> Tensor | None:
        """W[y_i] (B,) for labels (B,), or None while the weights do not act."""
        return self.class_weight[y] if self.strength > 0 and epoch >= self.first(epochs) else None

    def learn(self, logits: Tensor, y: Tensor, epoch: int, epochs: int) -> None:
        """Take the probabilities at x' of a batch, logits (B,C), labels (B,), if this is the last warm-up epoch."""
        if self.strength > 0 and epoch + 1 == self.first(epochs):
            self.similarity.update(logits.detach().softmax(1), y)

    def settle(self) -> None:
        """At the epoch's end: turn what was learned into the weights."""
        if self.similarity.update_called:
            self.class_weight.copy_(class_transfer(self.similarity.compute(), self.strength))
            self.similarity.reset()
