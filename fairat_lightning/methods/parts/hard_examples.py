"""FairAT's block: which training examples are hard, and their stronger augmentation (paper and choices in `methods/fairat.py`).

hard_M = { i : CE(f_{M-1}(x_i), y_i) among the largest }        x_i of epoch M  <-  augment(x_i) for i in hard_M
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from fairat_lightning.attacks import mode
from fairat_lightning.augment import augmentation_of
from fairat_lightning.classwise import global_sum
from fairat_lightning.data import as_float
from fairat_lightning.data.images import Pixels
from fairat_lightning.objectives import logits_of
from fairat_lightning.settings import first_line, one_of, within

SUBSETS = ("hard", "random", "all", "none")
SHOWN = 24  # images that a report shows


class HardExamples(nn.Module):
    """A mask over the training set, chosen again after each epoch by the clean cross-entropy, and the augmentation of the chosen.

    `num_samples`: the size of the training set. Everything is a buffer, equal on every process.
    """

    sample_loss: Tensor
    augmented: Tensor
    times: Tensor
    labels: Tensor

    def __init__(
        self,
        num_samples: int | None,
        *,
        augmentation: str,
        hard_fraction: float | None = None,
        hard_threshold: float | None = None,
        subset: str = "hard",
        warmup_epochs: int = 1,
    ):
        super().__init__()
        if num_samples is None:
            raise ValueError("num_samples must be given: set it to the size of the training set")
        if (hard_fraction is None) == (hard_threshold is None):
            raise ValueError(
                f"method.hard_fraction={hard_fraction} and method.hard_threshold={hard_threshold}: set one of them to null"
            )
        if hard_fraction is not None:
            within("method.hard_fraction", hard_fraction, "[0, 1]")
        if hard_threshold is not None:
            within("method.hard_threshold", hard_threshold, "[0, inf]")  # nats
        one_of("method.subset", subset, SUBSETS)
        if isinstance(warmup_epochs, bool) or not isinstance(warmup_epochs, int) or warmup_epochs < 1:
            raise ValueError(
                f"method.warmup_epochs={warmup_epochs} must be 1 or more: before epoch 0 there is no model to find hard examples"
            )
        self.augment, self.augmentation = augmentation_of(augmentation), augmentation
        self.hard_fraction, self.hard_threshold = hard_fraction, hard_threshold
        self.subset, self.warmup_epochs = subset, warmup_epochs
        self.register_buffer("sample_loss", torch.full((num_samples,), torch.nan))
        self.register_buffer("augmented", torch.zeros(num_samples, dtype=torch.bool))
        self.register_buffer("times", torch.zeros(num_samples, dtype=torch.long))  # epochs for which each was chosen
        self.register_buffer("labels", torch.zeros(num_samples, dtype=torch.long))

    def check(self, method: Any, stage: str) -> None:
        """ValueError where the training set is not of the size that the mask was made for."""
        if stage == "fit" and (size := len(method.training_batches().dataset)) != len(self.augmented):
            raise ValueError(
                f"num_samples={len(self.augmented)}, but the training set has {size} examples: set num_samples={size}"
            )

    def try_on(self, x: Tensor) -> None:
        """ValueError for an augmentation that does not turn `x` (B,C,H,W) into such images; no other random number changes."""
        name = f"method.augmentation={self.augmentation}"
        try:
            with isolate_rng(include_cuda=False):
                found = self.augment(x.clone(), generator=torch.Generator(x.device).manual_seed(0))
        except Exception as error:  # somebody else's function may raise anything
            raise ValueError(f"{name}: {first_line(error)}") from error
        if not isinstance(found, Tensor) or (found.shape, found.dtype) != (x.shape, x.dtype):
            what = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ValueError(f"{name} gives {what}: it must give {x.dtype} of the same shape, {tuple(x.shape)}")
        if not ((found > -1e-3) & (found < 1 + 1e-3)).all():  # what is nan is neither
            raise ValueError(f"{name} gives values outside [0, 1]")

    def forward(self, x: Tensor, index: Tensor, batch_idx: int, method: Any) -> Tensor:
        """The batch (B,C,H,W) of the method's epoch with its hard images augmented, the others as they are.

        Each batch of an epoch has a stream of random numbers of its own, so that with nothing hard no other number changes.
        """
        chosen = self.augmented[index].view(-1, 1, 1, 1)
        seed = (torch.initial_seed() ^ 0x5EED) + 0x9E3779B9 * (batch_idx + 1) + 0xBF58476D1CE4E5B9 * _place(method.trainer)
        generator = torch.Generator(x.device).manual_seed(seed % 2**63)
        return torch.where(chosen, self.augment(x, generator=generator), x)

    def refresh(self, method: Any) -> None:
        """Score the training set under the method's current weights, and choose for its next epoch."""
        if method.current_epoch + 1 < self.warmup_epochs:
            return
        self.sample_loss.copy_(self.score(method))
        self.augmented.copy_(self.choose(method.trainer.strategy.broadcast))
        self.times += self.augmented
        method.log("train/augmented", self.augmented.float().mean())
        chosen, counts = (y.bincount(minlength=method.num_classes) for y in (self.labels[self.augmented], self.labels))
        method.log_classes("train/augmented_class", chosen / torch.where(counts > 0, counts, torch.nan))

    @torch.no_grad()
    def score(self, method: Any) -> Tensor:
        """The clean cross-entropy of every training example under the current weights: (N,), in nats."""
        losses, labels = torch.zeros_like(self.sample_loss), torch.zeros_like(self.labels)
        with mode(method.net, training=False):
            for batch in method.training_batches():
                x, y, index = (t.to(losses.device) for t in method.unpack(batch))
                with method.trainer.precision_plugin.forward_context():
                    logits = logits_of(method.net, as_float(x))
                losses[index] = F.cross_entropy(logits, y, reduction="none").to(losses.dtype)
                labels[index] = y
        self.labels.copy_(global_sum(labels))
        return global_sum(losses)

    def choose(self, broadcast: Any) -> Tensor:
        """The examples to augment in the next epoch: a mask (N,), equal on every process."""
        loss, size = self.sample_loss, len(self.sample_loss)
        if self.hard_threshold is not None:
            hard = loss > self.hard_threshold
        else:
            assert self.hard_fraction is not None
            count = round(self.hard_fraction * size)
            hard = torch.zeros_like(self.augmented)
            # A stable sort: ties go to the first examples, on every process alike.
            hard[loss.argsort(descending=True, stable=True)[:count]] = True
        if self.subset == "hard":
            return hard
        if self.subset == "random":
            return hard[broadcast(torch.randperm(size)).to(hard.device)]
        return torch.full_like(hard, self.subset == "all")

    def hardest(self, pixels: Pixels) -> dict[str, Tensor]:
        """The images chosen for most epochs and, among those, of the highest last cross-entropy; nothing before any scoring."""
        order = sorted(range(len(self.times)), key=lambda i: (-int(self.times[i]), -float(self.sample_loss[i])))[:SHOWN]
        if self.sample_loss.isnan().all():
            return {}
        index = torch.tensor(order)
        found = {"label": self.labels, "loss": self.sample_loss, "times": self.times}
        return {"pixels": pixels[index], "index": index, **{key: value.cpu()[index] for key, value in found.items()}}


def _place(trainer: Any) -> int:
    """What tells this epoch and process from the others: 0 where the trainer begins each of them from a seed of its own."""
    if any(getattr(callback, "seeds_epochs", False) for callback in trainer.callbacks):
        return 0
    return int(trainer.current_epoch * trainer.world_size + trainer.global_rank)
