"""The suites of an audit that need no other library: quick, standard with its sanity checks (`sanity.py`), and the eps sweep."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from math import inf
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from fairat_lightning.config.build import build_part
from fairat_lightning.data.stratified import evenly, stratified
from fairat_lightning.evaluation import autoattack
from fairat_lightning.evaluation.attacks import ATTACKS
from fairat_lightning.evaluation.audit import Audit, Findings, Suite
from fairat_lightning.evaluation.sanity import CHECKS, limit, sanity_checks
from fairat_lightning.record.attack_titles import TITLES
from fairat_lightning.settings import number, whole

QUICK = ("clean", "fgsm", "pgd20", "cw20")
STANDARD = (*QUICK, "pgd100", "multitargeted")


def suite_of(cfg: DictConfig) -> Suite:
    """The suite of an evaluation's configuration; ValueError for a class that is none."""
    suite = build_part(cfg, "suite")
    if not isinstance(suite, Suite):
        given = f"suite._target_={cfg.suite['_target_']} gives {type(suite).__name__}"
        raise ValueError(f"{given}: it must be a subclass of {Suite.__module__}.{Suite.__name__}")
    return suite


class Quick(Suite):
    """Clean, FGSM, PGD-20 and CW-20."""

    def __call__(self, audit: Audit) -> Findings:
        audit.progress.expect({name: _cost(name, audit) for name in QUICK}, len(audit.labels))
        return Findings(_summaries(audit, QUICK), {name: TITLES[name] for name in QUICK}, ["clean", "pgd20", "cw20"])


class StandardSuite(Suite):
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
        findings = Findings(
            _summaries(audit, STANDARD), {name: TITLES[name] for name in STANDARD}, ["clean", "pgd20", "cw20", "multitargeted"]
        )
        if self.other_eps is None:
            findings.notes.append(f"PGD-20 in {other} was not run: set suite.other_eps to run it.")
        else:
            name, threat = f"pgd20_{other}", replace(audit.threat, norm=other, eps=self.other_eps, step=None)
            predicted = audit.stage(name, "pgd20", threat=threat)
            findings.metrics[name] = audit.summary(name, predicted)
            findings.titles[name] = f"{TITLES[name]} {self.other_eps:.3g}"
            findings.extra["threats"] = {name: {"norm": other, "eps": self.other_eps}}
        findings.checks = sanity_checks(audit, places)
        if len(audit.stage("clean", None).unique()) == 1:
            findings.notes.append("The network predicts the same class for every image.")
        return findings


class EpsSweep(Suite):
    """PGD-20 at every multiple of the threat model's eps in `multiples`: a curve of robust accuracy per class."""

    def __init__(self, multiples: Sequence[float]):
        numbers = list(multiples) if isinstance(multiples, Sequence) else []
        if not numbers or not all(isinstance(m, int | float) and not isinstance(m, bool) and 0 <= m < inf for m in numbers):
            raise ValueError(f"suite.multiples={multiples} must be a list of numbers, 0 or more")
        self.multiples = sorted(set(map(float, numbers)))

    def __call__(self, audit: Audit) -> Findings:
        eps = [limit(audit.threat, float(audit.threat.eps) * m) for m in self.multiples]
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


def _summaries(audit: Audit, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {name: audit.summary(name, audit.stage(name, None if name == "clean" else name)) for name in names}


def _cost(name: str, audit: Audit) -> float:
    """Forward passes an image, a backward pass counted as two; tries that later ones may be spared are counted."""
    if name == "clean":
        return 1.0
    spec = ATTACKS[name]
    tries = min(spec.tries, len(audit.classes) - 1) if spec.loss == "targeted" else spec.tries
    return tries * (3.0 * spec.steps + 1)
