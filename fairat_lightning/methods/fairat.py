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

from torch import Tensor

from fairat_lightning.data.images import Pixels
from fairat_lightning.methods.base import Method
from fairat_lightning.methods.parts.hard_examples import HardExamples


class FairAT(Method):
    """Augment the hard examples of the last epoch.

    `num_samples`: the size of the training set. The datamodule must have `scoring_dataloader()`: the clean training images,
    each once, as batches `(x, y, index)` of images that are uint8 or in [0,1]. For the rest see `HardExamples`.
    """

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
        self.hard = HardExamples(
            num_samples,
            augmentation=augmentation,
            hard_fraction=hard_fraction,
            hard_threshold=hard_threshold,
            subset=subset,
            warmup_epochs=warmup_epochs,
        )

    def setup(self, stage: str) -> None:
        self.hard.check(self, stage)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = self.unpack(batch)
        x = self.hard(x, index, batch_idx, self)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        return self.reduce(self.objective.total(terms))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.hard.refresh(self)

    def keepsakes(self, pixels: Pixels) -> dict[str, Tensor]:
        return self.hard.hardest(pixels)
