"""HAM: hard adversarial example mining.

Lin, Ji, Yang, Li, Shen, Wang and Fang, "Hard Adversarial Example Mining for Improving Robust Fairness", IEEE TIFS 2025, arXiv
2308.01823; details from the authors' code. An example still right after `decide_after` steps of the attack is easy and dropped:

    kept_i = [ f(x'_i after decide_after steps) != y_i ],    loss = sum_i kept_i objective_i(x'_i) / sum_i kept_i,

x' the last iterate. Before the share `warmup` of the epochs all are kept. An attack of no more steps than that is decided by its
last iterate. A batch of which nothing is kept has loss 0, and moves the weights by momentum and weight decay alone.

`drop=false`, our default, masks what is dropped: the step has one shape and waits for no device, and batch norms see all images.
`drop=true` is the authors': the rest of the attack and the training forward are of the kept examples alone, which saves their
compute, and makes the step wait to know how many they are. Of fewer than two, dropped ones of weight 0 fill the forward up to
two, which batch norms then see. What is dropped counts as right in `train/robust`. On CIFAR-100 the authors also keep the easy
examples of which the network is most confident: the share `keep_confident` of a batch's easy ones, .3. By which iterate their
confidence is measured we found nowhere; by the one that decides is our choice. With several processes that makes each step wait.
Deviations: the released code for CIFAR-10 fails
on an empty batch; its paper weighs the kept ones, its code does not, nor do we. The objective is the cross-entropy there;
others, and AWP, which climbs the loss of the kept, are our extension.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fairat_lightning.attacks import crafting
from fairat_lightning.classwise import global_ranks, global_sum
from fairat_lightning.methods.base import Method
from fairat_lightning.objectives import logits_of
from fairat_lightning.settings import switch, whole, within


class HAM(Method):
    """`decide_after`: steps of the attack, 0 or more. `warmup`, a share of the epochs, and `keep_confident`: in [0, 1]."""

    def __init__(self, *args: Any, decide_after: int, warmup: float, drop: bool, keep_confident: float = 0.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        whole("method.decide_after", decide_after, least=0)
        within("method.warmup", warmup, "[0, 1]")
        switch("method.drop", drop)
        within("method.keep_confident", keep_confident, "[0, 1]")
        self.decide_after, self.warmup, self.drop, self.keep_confident = decide_after, warmup, drop, keep_confident

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
        seen: list[Tensor] = []

        def watched(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
            both = self.objective.inner_with_logits(net, x, y)

            def loss(image: Tensor) -> Tensor:
                value, logits = both(image)
                seen.append(logits.detach())
                return value

            return loss

        x_adv = self.craft(x, y, inner=watched)
        logits = seen[self.decide_after] if self.decide_after < len(seen) else self.predict(x_adv)
        return self.keep(logits, y), x_adv

    def craft_kept(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the kept examples: True (N,), images, labels, adversarial images. Dropped ones, False, fill up to two."""
        early = min(self.decide_after, self.attack.steps)
        with crafting(self.net, self.attack, training=self.attack.batch_norm == "train"):
            start = self.objective.start
            x_adv = replace(self.attack, steps=early)(self.objective.inner(self.net, x, y), x, start=start)
        kept = self.keep(self.predict(x_adv), y)
        # Every process needs a forward, and a batch norm two images: dropped ones fill up, with a weight of 0.
        if len(rows := kept.nonzero().flatten()) < 2:
            rows = torch.cat([rows, (~kept).nonzero().flatten()])[:2]
        self.count_dropped(rows, y)
        kept, x, y, x_adv = kept[rows], x[rows], y[rows], x_adv[rows]
        if left := self.attack.steps - early:
            with crafting(self.net, self.attack, training=self.attack.batch_norm == "train"):
                x_adv = replace(self.attack, steps=left)(self.objective.inner(self.net, x, y), x, start=x_adv - x)
        return kept, x, y, x_adv

    def keep(self, logits: Tensor, y: Tensor) -> Tensor:
        """Which examples (B,) of `logits` (B,C) are learned from: what is fooled, and the most confident of the easy ones."""
        easy = logits.argmax(1) == y
        if not self.keep_confident:
            return ~easy
        confidence = logits.softmax(1).amax(1).masked_fill(~easy, -1)
        place = global_ranks(confidence)  # the easy ones first, from the surest on
        return ~easy | (place < (self.keep_confident * global_sum(easy.sum())).floor())

    def count_dropped(self, rows: Tensor, y: Tensor) -> None:
        """Count the examples outside `rows` as right under the training attack, as they were when they were dropped."""
        dropped = torch.ones_like(y, dtype=torch.bool)
        dropped[rows] = False
        self.train_robust.update(torch.ones_like(y[dropped], dtype=torch.float32), y[dropped])

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The logits (B,C) of images (B,C,H,W), as the attack's loss sees them: in its mode and precision, then float32."""
        with crafting(self.net, self.attack, training=self.attack.batch_norm == "train"):
            return logits_of(self.net, images)


def kept_weight(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights (B,) by which the mean of the losses of all processes is the mean of those that are `kept` (B,)."""
    weight = kept.to(dtype)
    total, found = global_sum(torch.stack([torch.ones_like(weight).sum(), weight.sum()]))
    return weight * (total / found.clamp(min=1))
