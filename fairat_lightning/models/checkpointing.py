"""Activation checkpointing (Chen, Xu, Zhang and Guestrin, 2016, arXiv 1604.06174): a block's activations are computed anew in the
backward pass, about a third more work for a fraction of the memory.

Computed twice, a batch norm would take each batch into its running statistics twice; the second time counts for nothing here.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Stage(nn.Sequential):
    """Blocks one after the other; with `checkpointing` only what lies between them is kept for the backward pass."""

    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            again = self.checkpointing and torch.is_grad_enabled()
            x = _checkpointed(block, x) if again else block(x)
        return x


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    contexts = lambda: (nullcontext(), _without_statistics(block))  # noqa: E731
    return cast(Tensor, checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts))


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.num_batches_tracked is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            cast(Tensor, norm.num_batches_tracked).sub_(1)
