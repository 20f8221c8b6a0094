"""DecoSAM: the last layer of a trained network is trained again, the more sharply attacked the weaker the class.

An anonymous ICLR 2026 submission, which we know from a reading note only: adversarial training gives the rows w_k of the last
layer norms that go with the classes' robustness. All but those rows stays as it is, the biases and the batch norms' statistics
too, and for one epoch each step of sharpness-aware minimisation (Foret et al., ICLR 2021, arXiv 2010.01412) moves every row
before the loss

    w_k <- w_k + radius nu_k g_k / |g_k|,      nu = softmax(-tau |w|),      g_k = d loss / d w_k,

and back after backward: a row of small norm, of a weak class, has the larger radius. OUR CHOICE, for the note is silent: tau,
radius 1, the learning rate, training images with their augmentation, and AT's loss at the training attack's images, or another
objective's. It begins from a trained network (`init_from=`), and is one command on a finished run; `head.py` has the step that
needs no training. `experiment=decosam` sets one epoch and the learning rate; `data=` and `model=` are those of the run.
"""

from collections.abc import Callable
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn

from fairat_lightning.awp import AWP
from fairat_lightning.classwise import global_sum, world_size
from fairat_lightning.head import last_layer
from fairat_lightning.methods.base import Method
from fairat_lightning.settings import within


class RowAscent(AWP):
    """The perturbation of the rows of one layer, within their radii; `tau` and `radius` are 0 or more."""

    def __init__(self, layer: nn.Linear, tau: float, radius: float):
        super().__init__(gamma=0.0)
        self.layer, self.tau, self.radius = layer, tau, radius

    def ascend(self, net: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.restore()
        weight = self.layer.weight
        (gradient,) = torch.autograd.grad(loss(), [weight])
        with torch.no_grad():
            gradient = global_sum(gradient) / world_size()
            self._saved.append((weight, weight.detach().clone()))
            weight.add_(self.radii() * gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-20))
        torch.clear_autocast_cache()

    def radii(self) -> Tensor:
        """radius nu (K,1)."""
        return self.radius * (-self.tau * self.layer.weight.norm(dim=1, keepdim=True)).softmax(0)


class GivesBack(L.Callback):
    """Calls `give_back` when a training has ended, also by an error, of which Lightning tells callbacks alone."""

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        cast(DecoSAM, pl_module).give_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        cast(DecoSAM, pl_module).give_back()


class DecoSAM(Method):
    """`tau`, `radius`: 0 or more. Needs `awp=none`, and a network whose last layer is linear."""

    def __init__(self, *args: Any, tau: float, radius: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        within("method.tau", tau, "[0, inf)")
        within("method.radius", radius, "[0, inf)")
        if self.awp is not None:
            raise ValueError("method=decosam perturbs the last layer itself: set awp=none")
        if self.attack.batch_norm == "train":
            raise ValueError("method=decosam leaves the batch norms' statistics as they are: set attack.batch_norm=eval")
        self.awp = RowAscent(last_layer(self.net, self.num_classes, "method=decosam"), tau, radius)
        self.learning: list[bool] = []

    def setup(self, stage: str) -> None:
        """Freeze all but the rows as long as this method trains them."""
        if stage == "fit":
            self.learning = [weights.requires_grad for weights in self.net.parameters()]
            self.net.requires_grad_(False)
            last_layer(self.net, self.num_classes).weight.requires_grad_(True)

    def give_back(self) -> None:
        """Undo `setup`, if it has been."""
        for weights, learning in zip(self.net.parameters(), self.learning, strict=False):
            weights.requires_grad_(learning)
        self.learning = []

    def configure_callbacks(self) -> list[L.Callback]:
        return [GivesBack()]

    def train(self, mode: bool = True) -> "DecoSAM":
        """The network stays in eval mode, so that what its batch norms have counted stays as it is."""
        super().train(mode)
        self.net.eval()
        return self

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        return self.reduce(self.objective.total(terms))

    def configure_optimizers(self) -> Any:
        weights = [p for p in self.net.parameters() if p.requires_grad]
        return self.optim(weights, epochs=self.epochs, steps=int(self.trainer.estimated_stepping_batches))
