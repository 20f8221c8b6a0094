"""Class statistics of the GLOBAL batch, and their accumulation over an epoch.

Sums and counts are reduced over all processes before anything is divided, so that the statistics of eight processes
equal those of one. An absent class is nan, never 0.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric


def world_size() -> int:
    """The number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all processes, same shape; no gradient flows through it."""
    if world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def class_sums(values: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sums and counts per class of the global batch: values (B,), labels (B,) -> (C,), (C,)."""
    both = torch.zeros(2, num_classes, dtype=values.dtype, device=values.device)
    both[0].index_add_(0, y, values)
    both[1].index_add_(0, y, torch.ones_like(values))
    sums, counts = global_sum(both)
    return sums, counts


def global_mean(values: Tensor) -> Tensor:
    """The mean of per-sample losses (B,) over the global batch, as the scalar this process must backpropagate.

    Data-parallel training averages gradients over processes, so a process that holds B of N samples among W processes
    contributes sum / N * W; the average over processes is then the mean over all N, also when shares are unequal.
    """
    processes = world_size()
    if processes == 1:
        return values.mean()
    count = global_sum(torch.tensor(float(len(values)), dtype=values.dtype, device=values.device))
    return values.sum() * (processes / count)


class ClassMeans(Metric):
    """The mean of per-sample values for each class over everything seen since the last reset: (C,), nan if unseen."""

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, num_classes: int):
        super().__init__()
        self.add_state("sums", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor, y: Tensor) -> None:
        """Take per-sample values (B,) with labels (B,)."""
        self.sums.index_add_(0, y, values.detach().double())
        self.counts.index_add_(0, y, torch.ones_like(y, dtype=torch.float64))

    def compute(self) -> Tensor:
        """Per-class means (C,)."""
        return self.sums / torch.where(self.counts > 0, self.counts, torch.nan)
