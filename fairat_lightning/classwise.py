"""Class statistics of the GLOBAL batch, and their accumulation over an epoch.

Sums and counts are reduced over all processes before anything is divided, so that the statistics of eight processes
equal those of one. An absent class is nan, never 0.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors


def world_size() -> int:
    """The number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all processes, same shape; no gradient flows through it."""
    if world_size() == 1:
        return value.detach()
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def global_ranks(values: Tensor) -> Tensor:
    """The place (B,) of each of `values` (B,) among those of all processes, 0 for the largest; equal ones in order."""
    parts = [values] if world_size() == 1 else gather_all_tensors(values)
    places = torch.cat(parts).argsort(descending=True, stable=True).argsort()
    return places.split([len(part) for part in parts])[dist.get_rank() if len(parts) > 1 else 0]


def class_sums(values: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sums and counts per class of the global batch, without gradient: values (B,), labels (B,) -> (C,), (C,)."""
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
    count = global_sum(values.new_full((), float(len(values))))  # filled on the device: a copy from the host would wait
    return values.sum() * (processes / count)


def share_statistics(net: nn.Module) -> None:
    """Give every process the first one's batch statistics, where each has its own: what is evaluated, averaged and saved is one
    network then. DDP would do so only before the next step."""
    if world_size() == 1:
        return
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm)]
    buffers = [buffer for norm in norms for buffer in norm.buffers() if buffer.is_floating_point()]
    if buffers:
        flat = torch.cat(buffers)
        dist.broadcast(flat, 0)
        torch._foreach_copy_(buffers, flat.split([len(buffer) for buffer in buffers]))


def keep(new: Tensor, old: Tensor) -> Tensor:
    """`new` (...), with the values of `old` wherever it is nan: an absent class keeps what it had."""
    return torch.where(new.isnan(), old.to(new), new)


def calibrated(offset: float, robust: Tensor) -> Tensor:
    """Class budgets offset + t_k (C,) from robust accuracies t_k (CFA's rule); 1 where t_k is nan, not known yet."""
    return torch.where(robust.isnan(), 1.0, offset + robust)


class ClassMeans(Metric):
    """The mean of per-sample values for each class over everything seen since the last reset: nan if unseen.

    Values are numbers, (B,) -> (C,), or vectors of length `width`, (B,width) -> (C,width).
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, width: int | None = None):
        super().__init__()
        shape = (num_classes,) if width is None else (num_classes, width)
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor, y: Tensor) -> None:
        """Take per-sample values (B,) or (B,width) with labels (B,)."""
        self.sums.index_add_(0, y, values.detach().double())
        self.counts.index_add_(0, y, torch.ones_like(y, dtype=torch.float64))

    def compute(self) -> Tensor:
        """Per-class means (C,) or (C,width)."""
        counts = self.counts if self.sums.ndim == 1 else self.counts[:, None]
        return self.sums / torch.where(counts > 0, counts, torch.nan)


class VerdictMeter(Metric):
    """Index, label and predicted class of every image of all processes: `compute` gives three (N,), in the order of index."""

    full_state_update = False
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, index: Tensor, y: Tensor, predicted: Tensor) -> None:
        self.rows.append(torch.stack([index.long(), y.long(), predicted.long()], dim=1))

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        rows = dim_zero_cat(self.rows).cpu()
        index, y, predicted = rows[rows[:, 0].argsort()].unbind(1)
        return index, y, predicted
