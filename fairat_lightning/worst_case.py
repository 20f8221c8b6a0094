"""FAAL's block: the worst class distribution for the margins of a batch (paper and choices in `methods/faal.py`).

With `memory` = d > 0 the margin of a class is remembered across batches, m_k <- d m_k + (1 - d) mbar_k for the classes present,
so that the distribution is over all classes seen so far and not over the few of one batch: ours, for 100 or 1,000 classes.
"""

import torch
from torch import Tensor, nn

from fairat_lightning.classwise import class_sums, keep
from fairat_lightning.dro import kl_worst_weights
from fairat_lightning.objectives import margin


class WorstCase(nn.Module):
    """Class weights from a KL ball of `radius` nats around uniform; `memory` in [0, 1), 0 looks at the batch alone."""

    class_margin: Tensor
    weight_sum: Tensor

    def __init__(self, num_classes: int, *, radius: float, memory: float = 0.0, count_weighted: bool = False):
        super().__init__()
        if isinstance(radius, bool) or not isinstance(radius, int | float) or not radius >= 0:
            raise ValueError(f"method.radius={radius} must be a number, 0 or more")
        if not isinstance(memory, int | float) or not 0 <= memory < 1:
            raise ValueError(f"method.memory={memory} must lie in [0, 1)")
        if not isinstance(count_weighted, bool):
            raise ValueError(f"method.count_weighted={count_weighted} must be true or false")
        self.radius, self.memory, self.count_weighted = float(radius), float(memory), count_weighted
        self.register_buffer("class_margin", torch.full((num_classes,), torch.nan))
        self.register_buffer("weight_sum", torch.zeros(num_classes), persistent=False)
        self.batches = 0

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """K' p* for the global batch: logits (B,C) at x', labels (B,) -> (C,), mean 1 over the K' classes known."""
        sums, counts = class_sums(margin(logits.detach().softmax(1), y), y, len(self.class_margin))
        scores = sums if self.count_weighted else sums / torch.where(counts > 0, counts, torch.nan)
        if self.memory:
            before = self.class_margin.to(scores)
            scores = keep(scores, before).lerp(keep(before, scores), self.memory)
            self.class_margin.copy_(scores)
        weights = kl_worst_weights(scores, self.radius)
        self.weight_sum += weights
        self.batches += 1
        return weights

    def mean_weights(self) -> Tensor:
        """The mean of the weights (C,) since the last call."""
        mean = self.weight_sum / max(self.batches, 1)
        self.weight_sum.zero_()
        self.batches = 0
        return mean
