"""AutoAttack, class by class and exactly resumable.

Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks", ICML 2020,
arXiv 2003.01690. The standard suite runs APGD-CE, APGD-T, FAB-T and Square one after the other, each only on images that
survived those before. The attacks are pyautoattack's, bit-identical to the authors'; this is a driver around them.

Each attack seeds torch's generator when it begins a batch, so that a verdict depends on the seed and on which images are in
the batch, and on nothing before. Batches are packed from a stage's survivors in the order of the test set, as the authors' loop
does; so they are the same after a kill, and verdicts equal those of the authors' loop at the same batch size.

Targets are min(9, C-1). Below 4 classes the targeted DLR loss does not exist: APGD-T is left out, and the result is not called
AutoAttack; nor is it with fewer steps or queries than the standard.

`APGD` is the first half of it, APGD-CE and then APGD-T on what is left, for machines that cannot afford FAB-T and Square. Its
figure never goes by the name of AutoAttack, whose figures are as a rule lower.
"""

import logging
from abc import abstractmethod
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from fairat_lightning.evaluation.attacks import full_float32
from fairat_lightning.evaluation.audit import Audit, Findings, Suite
from fairat_lightning.metrics import class_accuracy, summary
from fairat_lightning.record.attack_titles import TITLES
from fairat_lightning.record.environment import install
from fairat_lightning.settings import whole

STEPS, QUERIES, TARGETS = 100, 5000, 9
STAGES = ("apgd_ce", "apgd_t", "fab_t", "square")
MISSING = f"pyautoattack is not installed: {install('autoattack')}"


def available() -> bool:
    """Whether the extra is installed."""
    try:
        import pyautoattack  # noqa: F401
    except ImportError:
        return False
    return True


class Ensemble(Suite):
    """Attacks one after the other, each on what survived those before; a subclass names its `stages`, and itself."""

    name: str
    stages: tuple[str, ...]

    def __init__(self, steps: int, queries: int, targets: int, square_batch_size: int | None = None):
        for key, value in (("steps", steps), ("queries", queries), ("targets", targets)):
            whole(f"suite.{key}", value)
        if square_batch_size is not None:
            whole("suite.square_batch_size", square_batch_size)
        self.steps, self.queries, self.targets, self.square_batch_size = steps, queries, targets, square_batch_size
        if not available():
            raise ValueError(f"suite={self.name} cannot be run: {MISSING}")
        self.versions = {"pyautoattack": version("pyautoattack")}

    def __call__(self, audit: Audit) -> Findings:
        stages = [name for name in self.stages if name != "apgd_t" or len(audit.classes) > 3]
        targets = min(self.targets, len(audit.classes) - 1)
        cost = {
            "apgd_ce": 3.0 * self.steps,
            "apgd_t": 3.0 * self.steps * targets,
            "fab_t": 4.0 * self.steps * targets,
            "square": float(self.queries),
        }
        audit.progress.expect({"clean": 1.0, **{name: cost[name] for name in stages}}, len(audit.labels))
        predicted = audit.stage("clean", None)
        summaries = {"clean": audit.summary("clean", predicted)}
        for position, name in enumerate(stages):
            audit.progress.shorten(stages[position:], int((predicted == audit.labels).sum()))
            predicted = self._stage(audit, name, predicted, stages[position:])
            summaries[name] = summary(audit.confusion(predicted), audit.classes)
            audit.progress.report(f"after {TITLES[name]}", class_accuracy(audit.confusion(predicted)))
        return self._findings(audit, summaries, stages)

    def _stage(self, audit: Audit, name: str, before: Tensor, coming: list[str]) -> Tensor:
        """Attack the survivors of `before`, predictions (N,); the predictions after it."""
        after = before.clone()
        survivors = (before == audit.labels).nonzero().flatten()

        def judge(x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, None]:
            return attack(name, audit, x, y, steps=self.steps, queries=self.queries, targets=self.targets), None

        def so_far(places: Tensor, predicted: Tensor) -> Tensor:
            after[places] = predicted
            audit.progress.shorten(coming[1:], int((after == audit.labels).sum()))
            return class_accuracy(audit.confusion(after))

        after[survivors] = audit.run(name, survivors, judge, so_far, self.square_batch_size if name == "square" else None)
        return after

    @abstractmethod
    def _findings(self, audit: Audit, summaries: dict[str, Any], stages: list[str]) -> Findings:
        """What is said of the figures after each stage."""


def steps_of(number: int) -> str:
    return f"{number} step{'s' if number > 1 else ''}"


class AutoAttack(Ensemble):
    """The standard suite; fewer `steps` of the gradient attacks or `queries` of Square make it a reduced one.

    `square_batch_size`: images at once in Square, which keeps no gradient and so has room for more; its verdicts depend on it,
    and None, the audit's batch size, is the standard. ValueError without the extra.
    """

    name, stages = "autoattack", STAGES

    def __init__(self, steps: int = STEPS, queries: int = QUERIES, square_batch_size: int | None = None):
        super().__init__(steps, queries, TARGETS, square_batch_size)

    def _findings(self, audit: Audit, summaries: dict[str, Any], stages: list[str]) -> Findings:
        standard = len(stages) == 4 and (self.steps, self.queries) == (STEPS, QUERIES)
        titles = {"clean": "clean", **{name: f"after {TITLES[name]}" for name in stages}}
        notes = ["Survival after a stage before the last is an upper bound on robustness."]
        last = stages[-1]
        if standard:
            summaries["autoattack"] = summaries.pop(last)
            titles["autoattack"] = TITLES["autoattack"]
            del titles[last]
            last = "autoattack"
        else:
            few = f"{len(audit.classes)} classes are too few for APGD-T" if len(stages) < 4 else ""
            full = (self.steps, self.queries) == (STEPS, QUERIES)
            cut = "" if full else f"its {steps_of(self.steps)} and {self.queries} queries are reduced"
            notes.append(f"This is not the standard AutoAttack: {', '.join(filter(None, (few, cut)))}.")
            titles[last] += f" (reduced: {steps_of(self.steps)}, {self.queries} queries)" if cut else ""
        square = f", {self.square_batch_size} in Square" if self.square_batch_size else ""
        notes.append(f"Batches of {audit.batch_size} images{square}, seed {audit.seed}: the results depend on both.")
        return Findings(summaries, titles, ["clean", last], notes)


class APGD(Ensemble):
    """APGD-CE, and APGD-T towards the `targets` most likely wrong classes on what is left; the library's standard are 9.

    Below 4 classes APGD-T does not exist, and the result is APGD-CE's. ValueError without the extra.
    """

    name, stages = "apgd", ("apgd_ce", "apgd_t")

    def __init__(self, steps: int = STEPS, targets: int = TARGETS):
        super().__init__(steps, QUERIES, targets)

    def _findings(self, audit: Audit, summaries: dict[str, Any], stages: list[str]) -> Findings:
        targets = min(self.targets, len(audit.classes) - 1)
        many = f"{TITLES['apgd']} ({targets} target{'s' if targets > 1 else ''})"
        title = many if len(stages) > 1 else TITLES["apgd_ce"]
        if self.steps != STEPS:
            title += f", {steps_of(self.steps)}"
        summaries["apgd"] = summaries.pop(stages[-1])
        titles = {"clean": "clean", **{name: f"after {TITLES[name]}" for name in stages[:-1]}, "apgd": title}
        part = "half" if len(stages) > 1 else "attack"
        notes = [
            f"{title} is the first {part} of AutoAttack, not AutoAttack itself, under which accuracies are usually lower.",
            f"Batches of {audit.batch_size} images, seed {audit.seed}: the results depend on both.",
        ]
        return Findings(summaries, titles, ["clean", "apgd"], notes)


def attack(
    name: str, audit: Audit, x: Tensor, y: Tensor, *, steps: int = STEPS, queries: int = QUERIES, targets: int = TARGETS
) -> Tensor:
    """The predicted classes (B,), on the CPU, of images (B,C,H,W) with labels (B,) after one of STAGES."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    threat, classes = audit.threat, len(audit.classes)
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    common: dict[str, Any] = {"norm": norm, "eps": threat.eps, "seed": audit.seed, "device": audit.device, "verbose": False}
    gradient = {"n_restarts": 1, "n_iter": steps}
    apgd = {"eot_iter": 1, "rho": 0.75, "logger": logging.getLogger("autoattack")}  # its warnings are our checks' affair
    aims = {"n_target_classes": min(targets, classes - 1)}
    with torch.inference_mode(False), torch.no_grad(), full_float32():
        if name == "apgd_ce":
            crafted = APGDAttack(audit.net, **gradient, **apgd, **common).perturb(x, y)
        elif name == "apgd_t":
            crafted = APGDAttack_targeted(audit.net, **gradient, **apgd, **aims, **common).perturb(x, y)
        elif name == "fab_t":
            crafted = FABAttack_PT(audit.net, targeted=True, **gradient, **aims, **common).perturb(x, y)
        else:
            square = SquareAttack(audit.net, p_init=0.8, n_queries=queries, n_restarts=1, resc_schedule=False, **common)
            crafted = square.perturb(x, y)
        return audit.net(crafted).argmax(1).cpu()
