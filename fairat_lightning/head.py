"""The balanced head: a post-fit step for any trained classifier whose last layer is linear.

Adversarial training gives the rows w_k of the last layer unequal norms, which go with the classes' robustness (an anonymous
ICLR 2026 submission, "HWNwB": head weight normalisation with bias, which we know from a reading note only). Afterwards

    w_k <- w_k ( m / |w_k| )^s,     m the mean norm, biases kept.

s = 1 is the paper's equal norms. Ours: s is chosen on the validation split among `strengths` and 0, leaving the layer as it is,
by the same score as the best epoch; ties go to the smaller s. `strength` forces one s instead.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class BalancedHead:
    """`strengths`: the exponents s in (0, 1] that are tried, besides 0. `strength`: that alone, whatever they score."""

    def __init__(self, strengths: Sequence[float], strength: float | None = None):
        if strength is not None and not _is_strength(strength):
            raise ValueError(f"head.strength={strength} must be a number in (0, 1], or null")
        if not isinstance(strengths, list | tuple) or not strengths or not all(_is_strength(s) for s in strengths):
            raise ValueError(f"head.strengths={strengths} must be a list of numbers in (0, 1]")
        self.strengths = sorted({0.0, *map(float, strengths), *([] if strength is None else [float(strength)])})
        self.strength = strength

    def fit(self, net: nn.Module, num_classes: int, score: Callable[[], float]) -> dict[str, Any]:
        """Balance the last layer of `net` in place by the strength of the highest `score()`.

        Returns "strength", and the "scores" by strength. Raises ValueError for a network without a linear last layer.
        """
        head = last_layer(net, num_classes)
        original = head.weight.detach().clone()
        scores = {}
        with torch.no_grad():
            for strength in self.strengths:
                head.weight.copy_(balanced(original, strength))
                torch.clear_autocast_cache()  # `score` may be within torch.autocast, which keeps the casts of weights
                scores[strength] = score()
            chosen = max(self.strengths, key=lambda s: (scores[s], -s)) if self.strength is None else float(self.strength)
            head.weight.copy_(balanced(original, chosen))
            torch.clear_autocast_cache()
        return {"strength": chosen, "scores": {str(s): score for s, score in scores.items()}}


def balanced(weight: Tensor, strength: float) -> Tensor:
    """Rows (C,D) whose norms are brought to their mean by the exponent `strength`; 0 leaves them as they are, bit for bit."""
    if strength == 0:
        return weight
    norms = weight.norm(dim=1, keepdim=True)
    return weight * (norms.mean() / norms.clamp(min=1e-12)) ** strength


def last_layer(net: nn.Module, num_classes: int, user: str = "head=balanced") -> nn.Linear:
    """The last linear layer of `net`, if it gives `num_classes` logits; ValueError, naming the `user`, if there is none."""
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    heads = [layer for layer in layers if layer.out_features == num_classes]
    if not layers or layers[-1].out_features != num_classes:
        raise ValueError(
            f"{user} needs a network whose last layer is an nn.Linear with {num_classes} outputs, and this one has none"
        )
    if len(heads) > 1:
        raise ValueError(f"{user} needs a network with one nn.Linear of {num_classes} outputs, and this one has {len(heads)}")
    return layers[-1]


def _is_strength(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
