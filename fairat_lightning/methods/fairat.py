"""FairAT: fair adversarial training by identifying and augmenting hard examples.

Mou, Yue, Zhao and Wang, Frontiers of Computer Science 19(3):193803, 2025, doi 10.1007/s11704-024-3587-1. Before epoch M the
clean, unaugmented training set is fed to the model of epoch M-1; examples with a high cross-entropy are hard. Epoch M is
adversarial training on the augmented hard examples, which replace their originals, together with the untouched rest.

Our choices, where no source we could read says more: the hard part is the top `hard_fraction` by cross-entropy (or
everything above `hard_threshold` nats); "untouched" means the data set's ordinary crop and flip, and hard examples get the
stronger `augmentation` on top, drawn afresh each time; scoring runs in eval mode with the weights at the epoch's end;
the first `warmup_epochs` augment nothing. `subset` holds the controls that make the claim testable: "hard", "random" (as
many, redrawn each epoch), "all", "none".
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairat_lightning.attacks import mode
from fairat_lightning.augment import named
from fairat_lightning.classwise import global_sum
from fairat_lightning.data import as_float
from fairat_lightning.methods.base import Method
from fairat_lightning.objectives import logits_of

SUBSETS = ("hard", "random", "all", "none")
SHOWN = 24  # images that a report shows


class FairAT(Method):
    """Augment the hard examples of the last epoch.

    `num_samples`: the size of the training set. The datamodule must have `scoring_dataloader()`: the clean training images,
    each once, as batches `(x, y, index)` of images that are uint8 or in [0,1].
    """

    sample_loss: Tensor
    augmented: Tensor
    times: Tensor
    labels: Tensor

    def __init__(
        self,
        *args: Any,
        num_samples: int,
        augmentation: str,
        hard_fraction: float | None = None,
        hard_threshold: float | None = None,
        subset: str = "hard",
        warmup_epochs: int = 1,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if (hard_fraction is None) == (hard_threshold is None):
            raise ValueError(
                f"method.hard_fraction={hard_fraction} and method.hard_threshold={hard_threshold}: set one, the other null"
            )
        if hard_fraction is not None and not (isinstance(hard_fraction, int | float) and 0 <= hard_fraction <= 1):
            raise ValueError(f"method.hard_fraction={hard_fraction} must lie in [0, 1]")
        if hard_threshold is not None and not isinstance(hard_threshold, int | float):
            raise ValueError(f"method.hard_threshold={hard_threshold} must be a number of nats")
        if subset not in SUBSETS:
            raise ValueError(f"method.subset={subset} is unknown: choose one of {', '.join(SUBSETS)}")
        if not isinstance(warmup_epochs, int) or warmup_epochs < 1:
            raise ValueError(f"method.warmup_epochs={warmup_epochs} must be 1 or more: epoch 0 has no model before it")
        self.augment = named(augmentation)
        self.hard_fraction, self.hard_threshold = hard_fraction, hard_threshold
        self.subset, self.warmup_epochs = subset, warmup_epochs
        self.generator: torch.Generator | None = None
        self.register_buffer("sample_loss", torch.full((num_samples,), torch.nan))
        self.register_buffer("augmented", torch.zeros(num_samples, dtype=torch.bool))
        self.register_buffer("times", torch.zeros(num_samples, dtype=torch.long))  # epochs for which each was chosen
        self.register_buffer("labels", torch.zeros(num_samples, dtype=torch.long))

    def setup(self, stage: str) -> None:
        if stage == "fit" and (size := len(self._scoring_loader().dataset)) != len(self.sample_loss):
            raise ValueError(f"num_samples={len(self.sample_loss)}, but the training set has {size} examples")

    def on_train_epoch_start(self) -> None:
        # A stream of its own, so that with nothing hard the run is plain adversarial training bit for bit.
        seed = (torch.initial_seed() ^ 0x5EED) + 0x9E3779B9 * self.current_epoch
        self.generator = torch.Generator(self.device).manual_seed(seed % 2**63)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = self.unpack(batch)
        chosen = self.augmented[index].view(-1, 1, 1, 1)
        x = torch.where(chosen, self.augment(x, generator=self.generator), x)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        return self.reduce(self.objective.total(terms))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.current_epoch + 1 < self.warmup_epochs:
            return
        self.sample_loss.copy_(self.score_training_set())
        self.augmented.copy_(self.choose())
        self.times += self.augmented
        self.log("train/augmented", self.augmented.float().mean())
        chosen, counts = (y.bincount(minlength=self.num_classes) for y in (self.labels[self.augmented], self.labels))
        self.log_classes("train/augmented_class", chosen / torch.where(counts > 0, counts, torch.nan))

    def keepsakes(self, pixels: Tensor) -> dict[str, Tensor]:
        """The hardest images: chosen for most epochs and, among those, of the highest last cross-entropy."""
        order = sorted(range(len(self.times)), key=lambda i: (-int(self.times[i]), -float(self.sample_loss[i])))[:SHOWN]
        if self.sample_loss.isnan().all():
            return {}
        index = torch.tensor(order)
        found = {"label": self.labels, "loss": self.sample_loss, "times": self.times}
        return {"pixels": pixels[index], "index": index, **{key: value.cpu()[index] for key, value in found.items()}}

    @torch.no_grad()
    def score_training_set(self) -> Tensor:
        """The clean cross-entropy of every training example under the current weights: (N,), in nats."""
        losses, labels = torch.zeros_like(self.sample_loss), torch.zeros_like(self.labels)
        with mode(self.net, training=False):
            for batch in self._scoring_loader():
                x, y, index = (t.to(self.device) for t in self.unpack(batch))
                with self.trainer.precision_plugin.forward_context():
                    logits = logits_of(self.net, as_float(x))
                losses[index] = F.cross_entropy(logits, y, reduction="none").to(losses.dtype)
                labels[index] = y
        self.labels.copy_(global_sum(labels))
        return global_sum(losses)

    def choose(self) -> Tensor:
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
            order = self.trainer.strategy.broadcast(torch.randperm(size)).to(self.device)
            return hard[order]
        return torch.full_like(hard, self.subset == "all")

    def _scoring_loader(self) -> Any:
        loader = getattr(getattr(self.trainer, "datamodule", None), "scoring_dataloader", None)
        if loader is None:
            raise ValueError("FairAT needs a datamodule with scoring_dataloader(): the clean training images in order")
        return loader()
