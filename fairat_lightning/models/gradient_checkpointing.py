"""Activation checkpointing (Chen, Xu, Zhang and Guestrin, 2016, arXiv 1604.06174): a block's activations are recomputed in the
backward pass: about half more work in adversarial training (34 F to 23 F, `docs/performance.md`) for a fraction of the memory.

Computed twice, a batch norm would take each batch into its running statistics twice; the second time counts for nothing here.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from fairat_lightning.models import resnet, wide_resnet

BLOCKS = (resnet.Block, resnet.PreActBlock, wide_resnet.Block)


def checkpoint_blocks(net: nn.Module) -> None:
    """Let the residual blocks of `net` keep only their inputs for the backward pass; ValueError where there are none."""
    blocks = [module for module in net.modules() if isinstance(module, BLOCKS)]
    if not blocks:
        raise ValueError(
            "checkpointing=true: this network has none of the residual blocks of fairat_lightning; set checkpointing=false"
        )
    for block in blocks:
        block.forward = partial(_checkpointed, block)  # type: ignore[method-assign]


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return cast(Tensor, forward(x))
    contexts = lambda: (nullcontext(), _without_statistics(block))  # noqa: E731
    return cast(Tensor, checkpoint(forward, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts))


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
