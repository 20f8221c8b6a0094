"""FAAL's block: the worst class distribution for the margins of a batch (paper and choices in `methods/faal.py`).

With `memory` = d > 0 the margin of a class is remembered across batches, m_k <- d m_k + (1 - d) mbar_k for the classes present,
so that the distribution is over all classes seen so far and not over the few of one batch: ours, for 100 or 1,000 classes.
"""

import torch
from torch import Tensor, nn

from fairat_lightning.classwise import class_sums, keep
from fairat_lightning.dro import kl_worst_weights
from fairat_lightning.objectives import margin
from fairat_lightning.settings import switch, within


class WorstCase(nn.Module):
    """Class weights from a KL ball of `radius` nats around uniform; `memory` in [0, 1), 0 looks at the batch alone."""

    class_margin: Tensor
    weight_sum: Tensor
    weight_count: Tensor

    def __init__(self, num_classes: int, *, radius: float, memory: float = 0.0, count_weighted: bool = False):
        super().__init__()
        within("method.radius", radius, "[0, inf]")
        within("method.memory", memory, "[0, 1)")
        switch("method.count_weighted", count_weighted)
        self.radius, self.memory, self.count_weighted = float(radius), float(memory), count_weighted
        self.register_buffer("class_margin", torch.full((num_classes,), torch.nan), persistent=memory > 0)
        self.register_buffer("weight_sum", torch.zeros(num_classes))
        self.register_buffer("weight_count", torch.zeros(num_classes))

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """K' p* for the global batch: logits (B,C) at x', labels (B,) -> (C,), mean 1 over the K' classes known."""
        sums, counts = class_sums(margin(logits.detach().softmax(1), y), y, len(self.class_margin))
        scores = sums if self.count_weighted else sums / torch.where(counts > 0, counts, torch.nan)
        if self.memory:
            scores = scores.where(counts > 0, torch.nan)
            before = self.class_margin.to(scores)
            scores = keep(scores, before).lerp(keep(before, scores), self.memory)
            self.class_margin.copy_(scores)
        weights = kl_worst_weights(scores, self.radius)
        self.weight_sum += weights
        self.weight_count += ~scores.isnan()
        return weights

    def mean_weights(self) -> Tensor:
        """The mean of each class's weights (C,) since the last call, over the batches that knew it; nan if none did."""
        mean = self.weight_sum / self.weight_count.where(self.weight_count > 0, torch.nan)
        self.weight_sum.zero_()
        self.weight_count.zero_()
        return mean
