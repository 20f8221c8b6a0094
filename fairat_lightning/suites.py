"""The suites of an audit that need no other library: quick, standard with its sanity checks, and the eps sweep.

The checks unmask robustness that is none, after Carlini et al., "On Evaluating Adversarial Robustness", 2019, arXiv 1902.06705,
section 3.5 and 4, and Athalye, Carlini and Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018,
arXiv 1802.00420, section 3.1: a sound attack gains with steps and with eps, breaks everything at a large eps, is stronger than
one step, than noise and than a black box, and has gradients to follow. They run on a stratified part of the images; all
thresholds are our choice.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairat_lightning import autoattack
from fairat_lightning.attacks import PGD, number
from fairat_lightning.audit import Audit, Check, Findings, Suite
from fairat_lightning.checks import whole
from fairat_lightning.data.stratified import evenly, stratified
from fairat_lightning.evaluation import ATTACKS, Spec, seeded_start

TITLES = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "cw20": "CW-20",
    "pgd100": "PGD-100 x5",
    "multitargeted": "Targeted",
}
QUICK = ("clean", "fgsm", "pgd20", "cw20")
STANDARD = (*QUICK, "pgd100", "multitargeted")
SLACK = 0.01  # of accuracy, or two images where that is more
NOTHING_LEFT = 0.05
SQUARE_QUERIES = 1000
CHECKS = {"noise": 20.0, "pgd1": 3.0, "pgd5": 15.0, "pgd100": 300.0, "square": float(SQUARE_QUERIES)}  # forward passes an image
CHECKS |= dict.fromkeys(("eps_half", "eps_double", "eps_large"), 60.0)


class Quick(Suite):
    """Clean, FGSM, PGD-20 and CW-20."""

    def __call__(self, audit: Audit) -> Findings:
        audit.progress.expect({name: _cost(name, audit) for name in QUICK}, len(audit.labels))
        return Findings(_summaries(audit, QUICK), {name: TITLES[name] for name in QUICK}, ["clean", "pgd20", "cw20"])


class Standard(Suite):
    """`Quick` with PGD-100, MultiTargeted, PGD-20 in the other norm at `other_eps` (None: left out), and the sanity checks on
    about `check_images` images."""

    def __init__(self, other_eps: float | str | None, check_images: int):
        self.other_eps = None if other_eps is None else number("suite.other_eps", other_eps)
        if self.other_eps is not None and self.other_eps < 0:
            raise ValueError(f"suite.other_eps={other_eps} is negative")
        whole("suite.check_images", check_images)
        self.check_images = check_images
        self.versions = {"pyautoattack": version("pyautoattack")} if autoattack.available() else {}

    def __call__(self, audit: Audit) -> Findings:
        plan = {name: _cost(name, audit) for name in STANDARD}
        other = "l2" if audit.threat.norm == "linf" else "linf"
        if self.other_eps is not None:
            plan[f"pgd20_{other}"] = 60.0
        audit.progress.expect(plan, len(audit.labels))
        places = _some(audit, self.check_images)
        audit.progress.expect({f"check_{name}": cost for name, cost in CHECKS.items()}, len(places))
        findings = Findings(_summaries(audit, STANDARD), dict(TITLES), ["clean", "pgd20", "cw20", "multitargeted"])
        if self.other_eps is None:
            findings.notes.append(f"PGD-20 in {other} was not run: set suite.other_eps.")
        else:
            name, threat = f"pgd20_{other}", replace(audit.threat, norm=other, eps=self.other_eps, step=None)
            predicted = audit.stage(name, "pgd20", threat=threat)
            findings.metrics[name] = audit.summary(name, predicted)
            findings.titles[name] = f"PGD-20 {'L2' if other == 'l2' else 'Linf'} {self.other_eps:.3g}"
            findings.extra["threats"] = {name: {"norm": other, "eps": self.other_eps}}
        findings.checks = sanity_checks(audit, places)
        if len(audit.stage("clean", None).unique()) == 1:
            findings.notes.append("It predicts one and the same class for every image.")
        return findings


class Sweep(Suite):
    """PGD-20 at every multiple of the threat model's eps in `multiples`: a curve of robust accuracy per class."""

    def __init__(self, multiples: Sequence[float]):
        numbers = list(multiples) if isinstance(multiples, Sequence) else []
        if not numbers or not all(isinstance(m, int | float) and not isinstance(m, bool) and 0 <= m < inf for m in numbers):
            raise ValueError(f"suite.multiples={multiples} must be a list of numbers, 0 or more")
        self.multiples = sorted(set(map(float, numbers)))

    def __call__(self, audit: Audit) -> Findings:
        eps = [_limit(audit.threat, float(audit.threat.eps) * m) for m in self.multiples]
        keys = [f"pgd20@{value:.4g}" for value in eps]
        audit.progress.expect(dict.fromkeys(keys, 60.0), len(audit.labels))
        metrics = {}
        for key, value in zip(keys, eps, strict=True):
            metrics[key] = audit.summary(key, audit.stage(key, "pgd20", threat=replace(audit.threat, eps=value, step=None)))
        titles = {key: f"eps {value:.4g}" for key, value in zip(keys, eps, strict=True)}
        return Findings(metrics, titles, [], extra={"curve": {"eps": eps, "keys": keys}})


def _some(audit: Audit, images: int) -> Tensor:
    """The places of about `images` images, as equally of each class as there are: (n,)."""
    sizes = audit.labels.bincount(minlength=len(audit.classes))
    return stratified(audit.labels, evenly(min(images, len(audit.labels)), sizes)[: int(audit.labels.max()) + 1])


def sanity_checks(audit: Audit, places: Tensor) -> list[Check]:
    """Every check of the module's docstring, on the images at `places` (n,)."""
    right: dict[str, Tensor] = {}

    def judge(name: str, predicted: Tensor) -> None:
        right[name] = predicted == audit.labels[places]

    def run(name: str, attack: str | Spec, threat: PGD | None = None) -> None:
        judge(name, audit.stage(f"check_{name}", attack, threat=threat, places=places))

    def at(eps: float) -> PGD:
        return replace(audit.threat, eps=_limit(audit.threat, eps), step=None)

    eps, slack = float(audit.threat.eps), max(SLACK, 2 / len(places))
    for name in ("clean", "fgsm", "pgd20", "cw20", "multitargeted"):
        judge(name, audit.stage(name, None if name == "clean" else name)[places])
    run("noise", "noise")
    for steps in (1, 5, 100):
        run(f"pgd{steps}", Spec("cross_entropy", steps))
    run("eps_half", "pgd20", at(eps / 2))
    run("eps_double", "pgd20", at(eps * 2))
    run("eps_large", "pgd20", at(_large(audit)))
    accuracy = {name: mask.double().mean().item() for name, mask in right.items()}
    checks = [
        _falls("more steps are stronger", [f"pgd{s}" for s in (1, 5, 20, 100)], accuracy, slack),
        _falls("a larger eps is stronger", ["clean", "eps_half", "pgd20", "eps_double", "eps_large"], accuracy, slack),
        Check(
            "nothing survives a large eps",
            accuracy["eps_large"] <= NOTHING_LEFT,
            f"{100 * accuracy['eps_large']:.1f} % right at eps {_limit(audit.threat, _large(audit)):.3g}",
        ),
        _falls("iterations are stronger than one step", ["fgsm", "pgd20"], accuracy, slack),
        _falls("attacks are stronger than noise", ["noise", "pgd20"], accuracy, slack),
        _gradients(audit, places),
        _black_box(audit, places, right, slack),
    ]
    return checks


def _falls(name: str, stages: Sequence[str], accuracy: dict[str, float], slack: float) -> Check:
    values = [accuracy[stage] for stage in stages]
    passed = all(after <= before + slack for before, after in zip(values, values[1:], strict=False))
    return Check(name, passed, ", ".join(f"{s} {100 * v:.1f}" for s, v in zip(stages, values, strict=True)))


def _gradients(audit: Audit, places: Tensor) -> Check:
    """The gradient of the cross-entropy at each image's random start, where PGD sets out."""
    zero = bad = 0
    for part in places.split(audit.batch_size):
        x, y, index = audit.images(part)
        x = (x + seeded_start(x, index, audit.threat)).clamp(0, 1).requires_grad_(True)
        with torch.enable_grad():
            loss = F.cross_entropy(audit.net(x), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x, allow_unused=True) if loss.requires_grad else (None,)
        flat = torch.zeros_like(x).flatten(1) if gradient is None else gradient.flatten(1)
        zero += int((flat == 0).all(1).sum())
        bad += int((~flat.isfinite()).any(1).sum())
    detail = f"of {len(places)} images {zero} have a zero gradient and {bad} one with nan or infinity"
    return Check("gradients can be followed", zero == bad == 0, detail)


def _black_box(audit: Audit, places: Tensor, right: dict[str, Tensor], slack: float) -> Check:
    name = "a black box is not stronger"
    if not autoattack.available():
        audit.progress.begin("check_square", 0)
        return Check(name, None, f"Square was not run: {autoattack.MISSING}")

    def judge(x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, None]:
        return autoattack.attack("square", audit, x, y, queries=SQUARE_QUERIES), None

    square = audit.run("check_square", places, judge) == audit.labels[places]
    white = torch.stack([right[k] for k in ("pgd20", "pgd100", "cw20", "multitargeted")])
    best, union = white.double().mean(1).min().item(), white.all(0)
    missed = (union & ~square).double().mean().item()
    accuracy = square.double().mean().item()
    detail = (
        f"Square ({SQUARE_QUERIES} queries) {100 * accuracy:.1f}, best white-box attack {100 * best:.1f}, "
        f"{100 * missed:.1f} % fall to Square alone"
    )
    return Check(name, accuracy >= best - slack and missed <= slack, detail)


def _summaries(audit: Audit, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {name: audit.summary(name, audit.stage(name, None if name == "clean" else name)) for name in names}


def _cost(name: str, audit: Audit) -> float:
    """Forward passes an image, a backward pass counted as two; tries that later ones may be spared are counted."""
    if name == "clean":
        return 1.0
    spec = ATTACKS[name]
    tries = min(spec.tries, len(audit.classes) - 1) if spec.loss == "targeted" else spec.tries
    return tries * (3.0 * spec.steps + 1)


def _large(audit: Audit) -> float:
    """An eps that lets every image become uniformly grey."""
    return 0.5 if audit.threat.norm == "linf" else 0.5 * audit.pixels[0].numel() ** 0.5


def _limit(threat: PGD, eps: float) -> float:
    return min(eps, 1.0) if threat.norm == "linf" else eps
