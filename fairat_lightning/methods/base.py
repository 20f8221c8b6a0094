"""What every method shares: crafting, weight perturbation, optimiser, validation and test. No training step.

A batch is `(x, y, index)`: images (B,C,H,W) in [0,1], labels (B,), positions in their set (B,). A method's
`training_step` crafts, ascends, scores and reduces in its last line, where its weighting can be seen.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from fairat_lightning.attacks import PGD, crafting
from fairat_lightning.awp import AWP
from fairat_lightning.classwise import ClassMeans, VerdictMeter, global_mean, share_statistics
from fairat_lightning.data.images import Pixels
from fairat_lightning.evaluation.attacks import class_means, class_robust, predict, seeded_start
from fairat_lightning.methods.parts.checked_batches import CheckedBatches
from fairat_lightning.methods.parts.cuda_graph import Captured
from fairat_lightning.metrics import average, class_accuracy, selection_score, split_errors, summary, worst
from fairat_lightning.objectives import Objective, Terms
from fairat_lightning.running.machine import compile_network
from fairat_lightning.settings import ONE_SE, SCORES, one_of

VALIDATION = {"clean": None, "robust": "pgd10"}
TEST = {"clean": None, "pgd20": "pgd20", "cw20": "cw20"}
SELECT = (*SCORES, ONE_SE, "last")
Inner = Callable[[nn.Module, Tensor, Tensor], Callable[[Tensor], Tensor]]  # (net, x, y) -> (image (B,C,H,W) -> (B,))


class Method(CheckedBatches):
    """A training method around a network that maps images in [0,1] to logits.

    `classes`: class names, or their number. `attack`: the training attack, whose norm and eps are the threat model of every
    evaluation. `optim`: `(parameters, epochs=, steps=) -> Lightning's optimiser dictionary` (see `optim.py`).
    `select`: what the best checkpoint goes by, one of SELECT. `num_samples`: the size of the training set, for
    methods that keep a state per example. After an evaluation, `matrices` holds its confusion matrices (C,C) as "val/robust";
    after a test `results` holds one `metrics.summary` per attack, and `verdicts` index, label and predicted class of every test
    image, (N,) each.
    """

    def __init__(
        self,
        net: nn.Module,
        classes: Sequence[str] | int,
        *,
        attack: PGD,
        objective: Objective,
        optim: Callable[..., dict[str, Any]],
        awp: AWP | None = None,
        select: str = "sum",
        num_samples: int | None = None,
    ):
        super().__init__()
        one_of("select", select, SELECT)
        if objective.start == "gaussian" and attack.start == "zero":
            raise ValueError("attack.start=zero: this objective has no gradient at the image itself; set attack.start=gaussian")
        self.net = net
        self.classes = [str(k) for k in range(classes)] if isinstance(classes, int) else list(classes)
        self.num_classes = len(self.classes)
        if self.num_classes < 2:
            raise ValueError(f"classes={classes}: a classifier needs two classes or more")
        self.attack, self.objective, self.optim, self.awp, self.select = attack, objective, optim, awp, select
        self.captured: Captured | None = None
        self.train_robust, self.train_loss = ClassMeans(self.num_classes), ClassMeans(1)
        counted = [f"{split}_{name}" for split, attacks in (("val", VALIDATION), ("test", TEST)) for name in attacks]
        self.confusion = nn.ModuleDict({k: MulticlassConfusionMatrix(self.num_classes, validate_args=False) for k in counted})
        self.recorded = nn.ModuleDict({name: VerdictMeter() for name in TEST})
        self.matrices: dict[str, Tensor] = {}
        self.verdicts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,C) of images (B,C,H,W) in [0,1]."""
        return self.net(x)

    @property
    def epochs(self) -> int:
        """How many epochs this training has; ValueError for a Trainer without a number of epochs."""
        if (found := self.trainer.max_epochs or 0) < 1:
            raise ValueError(f"max_epochs={found}: give the Trainer max_epochs, as learning rates and warm-ups are shares of it")
        return found

    def on_fit_start(self) -> None:
        self.train()  # Lightning leaves every module in the mode that it finds it in, and `load_run` gives a network in eval mode

    # -- the verbs of a training step

    def unpack(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The batch's `(x, y, index)`; ValueError for anything else."""
        if not isinstance(batch, list | tuple) or len(batch) != 3:
            raise ValueError("a batch must be (x, y, index): wrap your data set with fairat_lightning.data.Indexed")
        x, y, index = batch
        return x, y, index

    def craft(
        self,
        x: Tensor,
        y: Tensor,
        *,
        scale: Tensor | None = None,
        inner: Inner | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Adversarial images for the objective's inner loss, or for another that `inner(net, x, y)` returns.

        `scale` (B,) multiplies each sample's eps and step (`PGD`); `start` is an offset (B,C,H,W) in place of a random one.
        """
        if self.captured is not None and inner is None:
            return self.captured((self.attack, torch.is_autocast_enabled(x.device.type)), x, y, scale, start)
        return self._craft(x, y, scale, start, inner)

    def _craft(self, x: Tensor, y: Tensor, scale: Tensor | None, start: Tensor | None, inner: Inner | None = None) -> Tensor:
        with crafting(self.net, self.attack, training=self.attack.batch_norm == "train"):
            loss = (inner or self.objective.inner)(self.net, x, y)
            return self.attack(loss, x, scale=scale, start=self.objective.start if start is None else start)

    def compile_all(self, device: torch.device) -> None:
        """Compile the network for `device`, or say why not; on a GPU, `capture` too."""
        if (reason := compile_network(self.net, device)) is not None:
            print(f"compile=true is not possible here: the network runs uncompiled ({reason})", flush=True)
        if device.type == "cuda":
            self.capture()

    def capture(self) -> None:
        """Craft as one CUDA graph from now on (`parts/cuda_graph.py`); not where a method gives an inner loss of its own."""
        self.captured = Captured(self.net, self._craft)

    def ascend(self, x: Tensor, x_adv: Tensor, y: Tensor, losses: Callable[[], Tensor] | None = None) -> None:
        """Perturb the weights (AWP) until after backward, by the objective's losses or by `losses()` (B,); see `awp.py`."""
        if self.awp is not None and self.current_epoch >= self.awp.warmup_epochs:
            losses = losses or (lambda: self.objective.total(self.objective(self.net, x, x_adv, y)))
            self.awp.ascend(self.net, lambda: global_mean(losses()))

    def on_after_backward(self) -> None:
        """Undo `ascend`; batch statistics become one process's."""
        if self.awp is not None:
            self.awp.restore()
        share_statistics(self.net)

    def score(self, x: Tensor, x_adv: Tensor, y: Tensor) -> Terms:
        """The objective's per-sample terms; the training accuracy at `x_adv` is counted on the way."""
        terms = self.objective(self.net, x, x_adv, y)
        self.train_robust.update((terms.logits.argmax(1) == y).float(), y)
        return terms

    def reduce(self, losses: Tensor) -> Tensor:
        """The mean of the losses (B,) over the global batch, logged as `train/loss`."""
        loss = global_mean(losses)
        # Counted here and not by Lightning, whose means over an epoch are in no checkpoint.
        self.train_loss.update(loss.detach()[None], torch.zeros(1, dtype=torch.long, device=loss.device))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(losses))
        return loss

    def on_fit_end(self) -> None:
        if self.captured is not None:
            self.captured.recorded.clear()  # their memory

    def configure_optimizers(self) -> Any:
        return self.optim(self.net.parameters(), epochs=self.epochs, steps=int(self.trainer.estimated_stepping_batches))

    def on_train_epoch_end(self) -> None:
        if self.train_loss.update_called:
            self.log("train/loss", self.train_loss.compute())
            self.train_loss.reset()
        if self.train_robust.update_called:
            accuracy = self.train_robust.compute()
            self.train_robust.reset()
            self.log_dict({"train/robust": average(accuracy), "train/robust_worst": worst(accuracy)})

    # -- what a method may know of its current weights, between epochs

    def measure(self, loader: Iterable[Any], values: Callable[..., Tensor], width: int | None = None) -> Tensor:
        """`evaluation.attacks.class_means` of `values(x, y, index)` over `loader`, in the training's precision.

        (C,) or (C,width). No random number is drawn here: `values` must not either, see `craft_fixed`.
        """
        context = self.trainer.precision_plugin.forward_context
        return class_means(self.net, loader, self.num_classes, values, width, context)

    def craft_fixed(self, x: Tensor, y: Tensor, index: Tensor, inner: Inner | None = None) -> Tensor:
        """`craft` in eval mode with a random start that is a function of each image's index."""
        with crafting(self.net, self.attack, training=False):
            start = seeded_start(x, index, self.attack) * (1.0 if self.attack.noise is None else self.attack.noise)
            return self.attack((inner or self.objective.inner)(self.net, x, y), x, start=start)

    def validation_robust(self) -> Tensor:
        """The current weights' accuracy per class under PGD-10 on the validation split: (C,), nan where absent."""
        return class_robust(self.net, self.validation_batches(), self.attack, self.num_classes)

    def validation_batches(self) -> Iterable[Any]:
        """The whole validation split, for rules that learn from it; ValueError where there is none."""
        whole = getattr(getattr(self.trainer, "datamodule", None), "whole_val_dataloader", None)
        loader = self.trainer.val_dataloaders if whole is None else whole()
        if not loader:
            raise ValueError(f"{type(self).__name__} learns from a validation split: give the Trainer a validation loader")
        return cast(Iterable[Any], loader)

    def training_batches(self) -> Any:
        """The clean training images in order, each once; ValueError where the datamodule has no `scoring_dataloader()`."""
        loader = getattr(getattr(self.trainer, "datamodule", None), "scoring_dataloader", None)
        if loader is None:
            name = type(self).__name__
            raise ValueError(f"{name} needs a datamodule with scoring_dataloader(), the clean training images in order")
        return loader()

    # -- evaluation, the same for every method

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._count("val", VALIDATION, batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._count("test", TEST, batch)

    def on_validation_epoch_end(self) -> None:
        for name, confusion in self._matrices("val", VALIDATION).items():
            accuracy = class_accuracy(confusion)
            self.log(f"val/{name}", average(accuracy), prog_bar=True)
            self.log(f"val/{name}_worst", worst(accuracy), prog_bar=name == "robust")
            self.log_classes(f"val/{name}_class", accuracy)
            if name == "robust":
                self.log("val/select", selection_score(accuracy, self.select))

    def on_test_epoch_end(self) -> None:
        for name in TEST:
            recorded = cast(VerdictMeter, self.recorded[name])
            self.verdicts[name] = recorded.compute()
            recorded.reset()
        self.results = {name: summary(matrix, self.classes) for name, matrix in self._matrices("test", TEST).items()}
        split_errors(self.results)

    def keepsakes(self, pixels: Pixels) -> dict[str, Tensor]:
        """What else a finished run saves, by name, from the training images uint8 (N,C,H,W); nothing by default."""
        return {}

    def log_classes(self, key: str, values: Tensor) -> None:
        """Log a (C,) tensor as `key/<class>`, "/" in a class's name as "-"; an absent class (nan) is left out."""
        names = [name.replace("/", "-") for name in self.classes]
        self.log_dict({f"{key}/{name}": v for name, v in zip(names, values.cpu(), strict=True) if not v.isnan()})

    def _count(self, split: str, attacks: dict[str, str | None], batch: Any) -> None:
        x, y, index = self.unpack(batch)
        for name, attack in attacks.items():
            predicted = predict(self.net, x, y, index, self.attack, attack, exact=split == "test")
            self._metric(split, name).update(predicted, y)
            if split == "test":
                cast(VerdictMeter, self.recorded[name]).update(index, y, predicted)

    def _matrices(self, split: str, attacks: dict[str, str | None]) -> dict[str, Tensor]:
        matrices = {}
        for name in attacks:
            metric = self._metric(split, name)
            matrices[name] = self.matrices[f"{split}/{name}"] = metric.compute()
            metric.reset()
        return matrices

    def _metric(self, split: str, name: str) -> MulticlassConfusionMatrix:
        return cast(MulticlassConfusionMatrix, self.confusion[f"{split}_{name}"])
