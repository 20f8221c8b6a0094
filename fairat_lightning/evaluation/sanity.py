"""The sanity checks of a suite: they unmask robustness that is none.

After Carlini et al., "On Evaluating Adversarial Robustness", 2019, arXiv 1902.06705,
section 3.5 and 4, and Athalye, Carlini and Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018,
arXiv 1802.00420, section 3.1: a sound attack gains with steps and with eps, breaks everything at a large eps, is stronger than
one step, than noise and than a black box, and has gradients to follow. They run on a stratified part of the images; all
thresholds are our choice.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fairat_lightning.attacks import PGD
from fairat_lightning.evaluation import autoattack
from fairat_lightning.evaluation.attacks import Spec, seeded_start
from fairat_lightning.evaluation.audit import Audit, Check
from fairat_lightning.record.attack_titles import TITLES

SLACK = 0.01  # of accuracy, or two images where that is more
NOTHING_LEFT = 0.05
SQUARE_QUERIES = 1000
CHECKS = {"noise": 20.0, "pgd1": 3.0, "pgd5": 15.0, "pgd100": 300.0, "square": float(SQUARE_QUERIES)}  # forward passes an image
CHECKS |= dict.fromkeys(("eps_half", "eps_double", "eps_large"), 60.0)


def sanity_checks(audit: Audit, places: Tensor) -> list[Check]:
    """Every check of the module's docstring, on the images at `places` (n,)."""
    right: dict[str, Tensor] = {}

    def judge(name: str, predicted: Tensor) -> None:
        right[name] = predicted == audit.labels[places]

    def run(name: str, attack: str | Spec, threat: PGD | None = None) -> None:
        judge(name, audit.stage(f"check_{name}", attack, threat=threat, places=places))

    def at(eps: float) -> PGD:
        return replace(audit.threat, eps=limit(audit.threat, eps), step=None)

    eps, slack = float(audit.threat.eps), max(SLACK, 2 / len(places))
    for name in ("clean", "fgsm", "pgd20", "cw20", "multitargeted"):
        judge(name, audit.stage(name, None if name == "clean" else name)[places])
    run("noise", "noise")
    for steps in (1, 5, 100):
        run(f"pgd{steps}", Spec("cross_entropy", steps))
    eps_of = {"eps_half": eps / 2, "pgd20": eps, "eps_double": 2 * eps, "eps_large": _large(audit)}
    for name, other in eps_of.items():
        if name != "pgd20":
            run(name, "pgd20", at(other))
    accuracy = {name: mask.double().mean().item() for name, mask in right.items()}
    checks = [
        _falls("more steps are stronger", [f"pgd{s}" for s in (1, 5, 20, 100)], accuracy, slack),
        _falls("a larger eps is stronger", ["clean", *sorted(eps_of, key=eps_of.__getitem__)], accuracy, slack),
        Check(
            "nothing survives a large eps",
            accuracy["eps_large"] <= NOTHING_LEFT,
            f"{100 * accuracy['eps_large']:.1f} % right at eps {limit(audit.threat, _large(audit)):.3g}",
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
        f"{TITLES['square']} ({SQUARE_QUERIES} queries) {100 * accuracy:.1f}, best white-box attack {100 * best:.1f}, "
        f"{100 * missed:.1f} % of the images are misclassified under Square alone"
    )
    return Check(name, accuracy >= best - slack and missed <= slack, detail)


def _large(audit: Audit) -> float:
    """An eps that lets every image become uniformly grey."""
    return 0.5 if audit.threat.norm == "linf" else 0.5 * audit.pixels[0].numel() ** 0.5


def limit(threat: PGD, eps: float) -> float:
    return min(eps, 1.0) if threat.norm == "linf" else eps
