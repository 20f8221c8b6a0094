"""HAM: hard adversarial example mining.

Lin, Ji, Yang, Li, Shen, Wang and Fang, "Hard Adversarial Example Mining for Improving Robust Fairness", IEEE TIFS 2025, arXiv
2308.01823; details from the authors' code. An example still right after `decide_after` steps of the attack is easy and dropped:

    kept_i = [ f(x'_i after decide_after steps) != y_i ],    loss = sum_i kept_i objective_i(x'_i) / sum_i kept_i,

x' the last iterate. Before the share `warmup` of the epochs all are kept. An attack of no more steps than that is decided by its
last iterate. A batch of which nothing is kept has loss 0, and moves the weights by momentum and weight decay alone.

`drop=false`, our default, masks what is dropped: the step has one shape and waits for no device, and batch norms see all images.
`drop=true` is the authors': the rest of the attack and the training forward are of the kept examples alone, which saves their
compute, and makes the step wait to know how many they are. Of fewer than two, dropped ones of weight 0 fill the forward up to
two, which batch norms then see. What is dropped counts as right in `train/robust`. Deviations: the released code fails on an
empty batch; on CIFAR-100 it also keeps the most confident 30 % of the easy examples, which is not here; its paper weighs the
kept ones, its code does not, nor do we. The objective is the cross-entropy there; others, and AWP, which climbs the loss of the
kept, are our extension.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fairat_lightning.attacks import crafting
from fairat_lightning.classwise import global_sum
from fairat_lightning.methods.base import Method
from fairat_lightning.settings import switch, whole, within


class HAM(Method):
    """`decide_after`: steps of the attack, 0 or more. `warmup`: a share of the epochs, in [0, 1]. `drop`: see above."""

    def __init__(self, *args: Any, decide_after: int, warmup: float, drop: bool, **kwargs: Any):
        super().__init__(*args, **kwargs)
        whole("method.decide_after", decide_after, least=0)
        within("method.warmup", warmup, "[0, 1]")
        switch("method.drop", drop)
        self.decide_after, self.warmup, self.drop = decide_after, warmup, drop

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        if self.current_epoch < round(self.warmup * self.epochs):
            kept, x_adv = torch.ones_like(y, dtype=torch.bool), self.craft(x, y)
        elif self.drop:
            kept, x, y, x_adv = self.craft_kept(x, y)
        else:
            kept, x_adv = self.craft_all(x, y)
        weight = kept_weight(kept, x.dtype)
        self.ascend(x, x_adv, y, lambda: weight * self.objective.total(self.objective(self.net, x, x_adv, y)))
        return self.reduce(weight * self.objective.total(self.score(x, x_adv, y)))

    def craft_all(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Which examples are kept (B,), and the adversarial images of all (B,C,H,W)."""
        predicted: list[Tensor] = []

        def watched(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
            both = self.objective.inner_with_logits(net, x, y)

            def loss(image: Tensor) -> Tensor:
                value, logits = both(image)
                predicted.append(logits.argmax(1))
                return value

            return loss

        x_adv = self.craft(x, y, inner=watched)
        at = predicted[self.decide_after] if self.decide_after < len(predicted) else self.predict(x_adv)
        return at != y, x_adv

    def craft_kept(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the kept examples: True (N,), images, labels, adversarial images. Dropped ones, False, fill up to two."""
        early = min(self.decide_after, self.attack.steps)
        with crafting(self.net, self.attack, training=self.attack.batch_norm == "train"):
            start = self.objective.start
            x_adv = replace(self.attack, steps=early)(self.objective.inner(self.net, x, y), x, start=start)
        kept = self.predict(x_adv) != y
        # Every process needs a forward, and a batch norm two images: dropped ones fill up, with a weight of 0.
        if len(rows := kept.nonzero().flatten()) < 2:
            rows = torch.cat([rows, (~kept).nonzero().flatten()])[:2]
        self.count_dropped(rows, y)
        kept, x, y, x_adv = kept[rows], x[rows], y[rows], x_adv[rows]
        if left := self.attack.steps - early:
            with crafting(self.net, self.attack, training=self.attack.batch_norm == "train"):
                x_adv = replace(self.attack, steps=left)(self.objective.inner(self.net, x, y), x, start=x_adv - x)
        return kept, x, y, x_adv

    def count_dropped(self, rows: Tensor, y: Tensor) -> None:
        """Count the examples outside `rows` as right under the training attack, as they were when they were dropped."""
        dropped = torch.ones_like(y, dtype=torch.bool)
        dropped[rows] = False
        self.train_robust.update(torch.ones_like(y[dropped], dtype=torch.float32), y[dropped])

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The classes (B,) of images (B,C,H,W), in the mode and precision of the attack."""
        with crafting(self.net, self.attack, training=self.attack.batch_norm == "train"):
            return self.net(images).argmax(1)


def kept_weight(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights (B,) by which the mean of the losses of all processes is the mean of those that are `kept` (B,)."""
    weight = kept.to(dtype)
    total, found = global_sum(torch.stack([torch.ones_like(weight).sum(), weight.sum()]))
    return weight * (total / found.clamp(min=1))
