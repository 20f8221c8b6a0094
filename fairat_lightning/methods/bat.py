"""BAT: balance adversarial training.

Sun, Xu, Yao, Liang, Wu, Liang, Liu and Liu, "Improving Robust Fairness via Balance Adversarial Training", AAAI 2023, arXiv
2209.07534; details from the authors' code. Two searches of the friendly kind climb KL(p(x) || p(x')) by signed steps:

    x_last   the iterate before the first that is misclassified (the start, if that is misclassified itself)
    x_first  the second iterate that is misclassified: one step past the boundary, as a rule
    both     the last iterate, for an example that is not misclassified (so often) before it

    loss = CE(f(x_last), y) + beta KL(p(x) || p(x_first)) + entropy [ KL(p(x_last) || u) + KL(p(x_first) || u) ],

u uniform over the K classes, `entropy` 1 in the code, three forwards in training mode. beta and the smoothing of the labels are
those of `objective=trades`, the only one that it takes. Deviations: both searches share one path, as they do in the code but for
their noise of 0.001; an example that has its image is moved on unseen, so that the step has one shape and waits for no device.
AWP, if chosen, climbs this loss. `train/robust` is the accuracy at x_first.
"""

from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from fairat_lightning.methods.base import Method
from fairat_lightning.objectives import TRADES, kl, logits_of
from fairat_lightning.settings import within


class BAT(Method):
    """`entropy`, 0 or more: the weight of both terms that ask for uniform predictions. Needs `objective=trades`."""

    def __init__(self, *args: Any, entropy: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        within("method.entropy", entropy, "[0, inf)")
        if type(self.objective) is not TRADES:
            raise ValueError("method=bat has its own loss, which extends that of TRADES: set objective=trades")
        self.entropy = entropy

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_last, x_first = self.search(x, y)
        self.ascend(x, x_first, y, lambda: self.losses(x, x_last, x_first, y)[0])
        losses, logits = self.losses(x, x_last, x_first, y)
        self.train_robust.update((logits.argmax(1) == y).float(), y)
        return self.reduce(losses)

    def search(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x_last and x_first of images `x` (B,C,H,W) and labels `y` (B,)."""
        found = Boundary(y)
        end = self.craft(x, y, inner=found.watch)
        return found.images(end)

    def losses(self, x: Tensor, x_last: Tensor, x_first: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss (B,), and the logits (B,K) at `x_first`."""
        last, first, clean = (logits_of(self.net, images) for images in (x_last, x_first, x))
        loss = self.objective.cross_entropy(last, y) + self.objective.beta * kl(clean, first)
        if self.entropy:
            loss = loss + self.entropy * (from_uniform(last) + from_uniform(first))
        return loss, first


class Boundary:
    """Keeps the images around the first misclassification of each example while an attack is on its way; labels `y` (B,)."""

    def __init__(self, y: Tensor):
        self.y, self.hits = y, torch.zeros_like(y)
        self.before: Tensor | None = None

    def watch(self, net: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        """KL(p(x) || p(x')) (B,) of an image x' (B,C,H,W), which is recorded as well."""
        with torch.no_grad():
            clean = logits_of(net, x)

        def loss(image: Tensor) -> Tensor:
            logits = logits_of(net, image)
            self.look(image.detach(), logits.detach().argmax(1) != self.y)
            return kl(clean, logits)

        return loss

    def look(self, image: Tensor, wrong: Tensor) -> None:
        """The next iterate (B,C,H,W), and which of its examples are misclassified (B,)."""
        if self.before is None:
            self.last = self.first = self.before = image
        self.last = torch.where(_each(wrong & (self.hits == 0)), self.before, self.last)
        self.first = torch.where(_each(wrong & (self.hits == 1)), image, self.first)
        self.hits += wrong
        self.before = image

    def images(self, end: Tensor) -> tuple[Tensor, Tensor]:
        """x_last and x_first, where `end` is the attack's last iterate, whose class is not asked for."""
        if self.before is None:
            return end, end
        return torch.where(_each(self.hits == 0), end, self.last), torch.where(_each(self.hits < 2), end, self.first)


def from_uniform(logits: Tensor) -> Tensor:
    """KL(p || u) of softmax p from uniform u: (B,K) -> (B,), in nats."""
    p = logits.log_softmax(1)
    return (p.exp() * p).sum(1) + log(logits.shape[1])


def _each(chosen: Tensor) -> Tensor:
    return chosen.view(-1, 1, 1, 1)
