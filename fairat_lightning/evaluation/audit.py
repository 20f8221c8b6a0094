"""An audit: attacks ("stages") on the test images of one classifier, batch by batch, with every verdict in a journal.

A stage that the journal already holds is not run again, in whole or in part, so that an audit continues exactly where it
was stopped. Processes that share an audit divide the batches of a stage, and wait at its end until each knows all verdicts, so
that the next stage attacks the same images in the same batches as in one process. The suites (`suites.py`, `autoattack.py`,
`corruptions.py`) say which stages there are and what follows from them.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairat_lightning.attacks import PGD
from fairat_lightning.data import as_float
from fairat_lightning.evaluation.attacks import Spec, logits_under, named
from fairat_lightning.evaluation.progress import Progress
from fairat_lightning.metrics import class_accuracy, confusion_matrix, summary
from fairat_lightning.models.checked_logits import Checked
from fairat_lightning.record.journal import Batch, Journal

FORWARD_ONLY = 4  # times the batch size where no gradient is kept
PAUSE = 0.01  # seconds between two looks at what other processes have finished


@dataclass
class Check:
    """A sanity check: `passed` is None where it could not be run."""

    name: str
    passed: bool | None
    detail: str


@dataclass
class Findings:
    """What a suite found: one `metrics.summary` a key, the keys' titles, and the keys worth a column in a table."""

    metrics: dict[str, dict[str, Any]]
    titles: dict[str, str]
    headline: list[str]
    notes: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


class Suite(ABC):
    """What an audit consists of."""

    versions: dict[str, str] = {}  # of libraries that verdicts depend on

    def check(self, pixels: Tensor, labels: Tensor, index: Tensor) -> None:
        """Raise ValueError, before anything is written, where the suite cannot be run on these images."""
        return

    @abstractmethod
    def __call__(self, audit: "Audit") -> Findings:
        """Run what the audit's journal does not hold yet."""


class Audit:
    """A network in eval mode, test images and the threat model that its robustness is measured under.

    `pixels` (N,C,H,W) uint8 or floating in [0,1], `labels` (N,), `index` (N,) the images' places in their set. Batches of
    `batch_size` images go to `device`. No weight keeps a gradient. ValueError for images outside [0,1] and labels outside
    the classes; while it runs, for a network that does not return finite logits (B,C).
    """

    def __init__(
        self,
        net: nn.Module,
        pixels: Tensor,
        labels: Tensor,
        index: Tensor,
        classes: Sequence[str],
        *,
        threat: PGD,
        journal: Journal,
        batch_size: int = 250,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ):
        if not len(pixels) == len(labels) == len(index) or not len(labels):
            raise ValueError(
                f"{len(pixels)} images, {len(labels)} labels, {len(index)} indices: give the same number of each, one or more"
            )
        if pixels.is_floating_point() and not (pixels.amin() >= 0 and pixels.amax() <= 1):
            raise ValueError(f"images from {pixels.amin():.3g} to {pixels.amax():.3g}: they must lie in [0,1]")
        confusion_matrix(labels, labels, len(classes))
        self.device = torch.device(device)
        self.net = Checked(net, len(classes)).to(self.device).eval().requires_grad_(False)
        self.pixels, self.labels, self.index, self.classes = pixels, labels, index, list(classes)
        self.threat, self.journal, self.batch_size, self.seed = threat, journal, batch_size, seed
        self.losses: dict[str, Tensor] = {}
        self.judged: dict[str, list[Batch]] = {}  # the finished stages, as one process would have journalled them
        self.progress = Progress(self.classes)

    def images(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images in [0,1], labels and indices at `places` (B,), on the device."""
        x = as_float(self.pixels[places]).to(self.device)
        return x, self.labels[places].to(self.device), self.index[places].to(self.device)

    def stage(
        self,
        name: str,
        attack: str | Spec | None,
        *,
        threat: PGD | None = None,
        places: Tensor | None = None,
        change: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The predictions (n,) for the images at `places` (n,), all by default, attacked under `threat`, the audit's by default.

        `change` maps images and indices to other images before the attack.
        """

        def judge(x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
            x = x if change is None else change(x, index)
            logits = logits_under(self.net, x, y, index, threat or self.threat, attack)
            return logits.argmax(1), F.cross_entropy(logits, y, reduction="none")

        forward_only = attack is None or named(attack).steps == 0
        size = self.batch_size * (FORWARD_ONLY if forward_only else 1)
        predicted = self.run(name, torch.arange(len(self.labels)) if places is None else places, judge, batch_size=size)
        losses_of = (batch.loss or [] for batch in self.judged[name])
        self.losses[name] = torch.tensor([v for loss in losses_of for v in loss], dtype=torch.float64)
        return predicted

    def run(
        self,
        name: str,
        places: Tensor,
        judge: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]],
        so_far: Callable[[Tensor, Tensor], Tensor] | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """The predictions (n,) for the images at `places` (n,), batch by batch, each once for all in the journal.

        `judge` maps images, labels and indices to predictions (B,) and, or None, losses (B,). `so_far` maps the places (m,) that
        are judged and their predictions (m,) to what the classes have now, for the progress; by default their accuracy on those
        images. `batch_size` None is the audit's.
        """
        size, journal = batch_size or self.batch_size, self.journal
        parts = list(places.split(size)) if len(places) else []
        numbers = {tuple(self.index[part].tolist()): k for k, part in enumerate(parts)}
        done: dict[int, Batch] = {}
        predicted = torch.full((len(places),), -1)

        def take(batches: Sequence[Batch]) -> int:
            """Note the finished batches of this stage; how many images they have."""
            mine = [batch for batch in batches if batch.stage == name]
            for batch in mine:
                if (k := numbers.get(tuple(batch.index))) is None:
                    raise ValueError(f"{journal.path} holds other images or batches of {name}: set overwrite=true to start again")
                done[k] = batch
                predicted[k * size : k * size + len(parts[k])] = torch.tensor(batch.predicted)
            return sum(len(batch.index) for batch in mine)

        take(journal.batches)
        left = [k for k in range(len(parts)) if k not in done]
        self.progress.begin(name, sum(len(parts[k]) for k in left))
        began = time.perf_counter()
        tasks = (k for k in left if k not in done and journal.claim(name, k))  # asked for one by one
        while len(done) < len(parts):
            new = 0
            if (task := next(tasks, None)) is not None:
                part = parts[task]
                now, loss = judge(*self.images(part))
                losses = None if loss is None else [float(f"{v:.6g}") for v in loss.tolist()]
                batch = Batch(name, self.index[part].tolist(), self.labels[part].tolist(), now.tolist(), losses)
                journal.append(batch)
                new = take([batch])
            else:
                time.sleep(PAUSE)  # until the other processes have finished theirs
            if new := new + take(journal.gather()):
                known = predicted >= 0
                judged = places[known], predicted[known]
                accuracy = class_accuracy(self.confusion(judged[1], judged[0])) if so_far is None else so_far(*judged)
                self.progress.step(name, new, time.perf_counter() - began, accuracy)
                began = time.perf_counter()
        self.judged[name] = [done[k] for k in range(len(parts))]
        return predicted

    def in_order(self) -> list[Batch]:
        """Every finished batch in the order in which one process judges them."""
        return [batch for batches in self.judged.values() for batch in batches]

    def confusion(self, predicted: Tensor, places: Tensor | None = None) -> Tensor:
        """Counts (C,C) of labels against predictions."""
        labels = self.labels if places is None else self.labels[places]
        return confusion_matrix(labels, predicted, len(self.classes))

    def summary(self, name: str, predicted: Tensor) -> dict[str, Any]:
        """The `metrics.summary` of a stage over all images, with the class-wise loss."""
        confusion, loss = self.confusion(predicted), self.losses[name]
        counts = confusion.sum(1).double()
        sums = torch.zeros_like(counts).index_add_(0, self.labels, loss)
        return summary(confusion, self.classes, sums / torch.where(counts > 0, counts, torch.nan))
