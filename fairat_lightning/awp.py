"""Adversarial weight perturbation.

Wu, Xia and Wang, "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020, arXiv 2004.05884. Before the
loss is taken, every weight tensor (not biases, not batch norms) moves to where the loss is larger,

    w_l <- w_l + gamma * |w_l| * g_l / |g_l|,      g_l = d loss / d w_l,

and after backward it moves back. The authors' proxy copy takes one SGD step, of which only this direction remains. They
undo the perturbation after the optimiser's step; we copy the saved tensors back before it, which differs by weight decay
alone and is exact.

Within torch.autocast the weights are cast to low precision once and the casts are kept: they are dropped whenever weights change
here, or the next forward would use the weights from before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fairat_lightning.classwise import global_sum, world_size
from fairat_lightning.settings import whole, within


class AWP:
    """`gamma`: relative size of the perturbation, 0 or more. `warmup_epochs`: epochs before it begins."""

    def __init__(self, gamma: float, warmup_epochs: int = 0):
        within("awp.gamma", gamma, "[0, inf)")
        whole("awp.warmup_epochs", warmup_epochs, least=0)
        self.gamma, self.warmup_epochs = float(gamma), warmup_epochs
        self._saved: list[tuple[Tensor, Tensor]] = []

    def ascend(self, net: nn.Module, loss: Callable[[], Tensor]) -> None:
        """Perturb the weights of `net` along the gradient of the scalar `loss()`; its forward moves no batch statistics."""
        self.restore()
        weights = [p for name, p in net.named_parameters() if "weight" in name and p.ndim > 1 and p.requires_grad]
        with frozen_statistics(net):
            gradients = torch.autograd.grad(loss(), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                self._saved.append((weight, weight.detach().clone()))
                gradient = global_sum(gradient) / world_size()
                weight.add_(gradient * (self.gamma * weight.norm() / gradient.norm().clamp(min=1e-20)))
        torch.clear_autocast_cache()

    def restore(self) -> None:
        """Copy the saved weights back, bit for bit; nothing where nothing is perturbed."""
        if not self._saved:
            return
        with torch.no_grad():
            for weight, saved in self._saved:
                weight.copy_(saved)
        self._saved.clear()
        torch.clear_autocast_cache()


@contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Batch norms normalise as their mode says, but their running statistics stay as they are, bit for bit."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    saved = [(norm, [buffer.clone() for buffer in norm.buffers()]) for norm in norms]
    try:
        yield
    finally:
        for norm, buffers in saved:
            for buffer, value in zip(norm.buffers(), buffers, strict=True):
                buffer.copy_(value)
