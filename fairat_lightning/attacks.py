"""Projected gradient ascent on any per-sample function of the image.

PGD: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks",
ICLR 2018, arXiv 1706.06083. With g the gradient of the function at x', one step is

    linf:  x' <- clip[0,1]( clip[x-eps, x+eps]( x' + step * sign g ) )
    l2:    x' <- clip[0,1]( x + P_eps( x' - x + step * g / |g| ) ),   P_eps: projection onto the ball of radius eps

The attack knows no labels, no loss and no method. All lengths are in pixel units where the full range is 1.

One step from a random start is the cheap training attack of Wong, Rice and Kolter, "Fast is better than free", ICLR 2020,
arXiv 2001.03994 (FGSM-RS: uniform in the ball, a step of 1.25 eps, projected). N-FGSM, de Jorge et al., NeurIPS 2022,
arXiv 2202.01181, starts k times as far away and never projects onto the ball:

    x' = clip[0,1]( x0 + eps sign g(x0) ),   x0 = clip[0,1]( x + U(-k eps, k eps) ),   k = 2
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, nn

from fairat_lightning.settings import number, one_of, switch, whole

NORMS = ("linf", "l2")
STARTS = ("uniform", "gaussian", "zero")
PRECISIONS = ("float32", "bfloat16")
GAUSSIAN_START = 0.001  # TRADES's standard deviation (Zhang et al. 2019, authors' code)


def pgd(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    eps: float | Tensor,
    step: float | Tensor,
    steps: int,
    start: str | Tensor = "uniform",
    norm: str = "linf",
    noise: float | None = None,
    second: tuple[float, float] | None = None,
) -> Tensor:
    """Maximise `loss` inside the eps-ball around `x` and inside [0, 1].

    `loss` maps images (B,C,H,W) to values (B,); `eps` and `step` are floats or (B,) tensors. `start` is "uniform" in the
    linf ball (in l2: in direction and in radius), "gaussian" (standard deviation 0.001), "zero", or an offset (B,C,H,W) that
    is added to `x` and projected. With `noise` a uniform start is that many times eps away, and nothing is projected onto the
    ball. With `second`, an eps and a step, each step is followed by one of that length within that eps, along the same gradient.
    Returns images (B,C,H,W) without a graph. Raises ValueError for an unknown norm or start and for negative numbers.
    """
    one_of("norm", norm, NORMS)
    if steps < 0 or any(isinstance(v, int | float) and not v >= 0 for v in (eps, step)):
        raise ValueError(f"eps={eps}, step={step}, steps={steps}: none of them may be negative")
    eps, step = _per_sample(eps, x), _per_sample(step, x)
    x = x.detach()
    offset = start if isinstance(start, Tensor) else _random_offset(start, x, eps if noise is None else noise * eps, norm)
    radius = eps if noise is None else inf
    adv = _project(x, offset, radius, norm)
    for _ in range(steps):
        adv.requires_grad_(True)
        with torch.enable_grad():
            # Asking for the image's gradient alone skips every weight gradient, about a third of the work.
            (gradient,) = torch.autograd.grad(loss(adv).sum(), adv)
        adv = adv.detach()
        direction = gradient.sign() if norm == "linf" else _unit(gradient)
        adv = _project(x, adv - x + step * direction, radius, norm)
        if second is not None:
            adv = _project(x, adv - x + second[1] * direction, second[0] if noise is None else inf, norm)
    return adv.detach()


@dataclass(frozen=True)
class PGD:
    """A threat model (`norm`, `eps`) with the strength of the attack inside it.

    `eps` and `step` are numbers or fractions such as "8/255"; `step` may also be a multiple, "1.25 eps", and defaults to eps / 4.
    `start=None` leaves the start to the objective. `batch_norm` is the mode of the network's batch norms (and dropout) while
    crafting, "eval" or "train"; `precision` the one it crafts in, "float32" or "bfloat16" autocast, None that of the training.
    `noise`: see `pgd`. `scale_step=False` keeps the step where a method scales eps; `second_step=True` has each step, scaled or
    not, followed by one of the plain size within the plain eps (DAFA's released code). Raises ValueError for values out of range.
    """

    eps: float | str
    steps: int
    step: float | str | None = None
    start: str | None = None
    norm: str = "linf"
    batch_norm: str = "eval"
    noise: float | None = None
    precision: str | None = None
    scale_step: bool = True
    second_step: bool = False

    def __post_init__(self) -> None:
        eps = number("attack.eps", self.eps)
        object.__setattr__(self, "eps", eps)
        step = self._step(eps)
        object.__setattr__(self, "step", step)
        one_of("attack.norm", self.norm, NORMS)
        if eps < 0 or (self.norm == "linf" and eps > 1):
            raise ValueError(f"attack.eps={self.eps} is out of range: pixels are from 0 to 1, so write 8/255 for 8 grey levels")
        if step < 0:
            raise ValueError(f"attack.step={self.step} is negative")
        whole("attack.steps", self.steps, least=0)
        if self.start is not None:
            one_of("attack.start", self.start, STARTS, ", or null")
        one_of("attack.batch_norm", self.batch_norm, ("eval", "train"))
        if self.precision is not None:
            one_of("attack.precision", self.precision, PRECISIONS, ", or null")
        switch("attack.scale_step", self.scale_step)
        switch("attack.second_step", self.second_step)
        if self.noise is not None:
            object.__setattr__(self, "noise", number("attack.noise", self.noise))
            if self.noise < 0 or self.start != "uniform":
                raise ValueError(
                    f"attack.noise={self.noise} must be null, or 0 or more: the radius of attack.start=uniform in eps"
                )

    def _step(self, eps: float) -> float:
        if self.step is None:
            return eps / 4
        text = str(self.step).strip()
        if text.endswith("eps"):
            return eps * number("attack.step", text.removesuffix("eps").strip() or 1)
        return number("attack.step", self.step)

    def __call__(
        self,
        loss: Callable[[Tensor], Tensor],
        x: Tensor,
        *,
        scale: Tensor | None = None,
        start: str | Tensor | None = None,
    ) -> Tensor:
        """Craft with `pgd`: images (B,C,H,W) in and out.

        `scale` (B,) multiplies each sample's eps, and its step unless `scale_step` is off; see `second_step` too. An offset given
        as `start` wins over the attack's own start, and that over a name given here (the objective's).
        """
        assert isinstance(self.eps, float) and isinstance(self.step, float)
        eps = self.eps if scale is None else self.eps * scale
        step = self.step if scale is None or not self.scale_step else self.step * scale
        if self.start is not None and not isinstance(start, Tensor):
            start = self.start
        start = "uniform" if start is None else start
        second = (self.eps, self.step) if self.second_step else None
        return pgd(loss, x, eps=eps, step=step, steps=self.steps, start=start, norm=self.norm, noise=self.noise, second=second)

    def with_steps(self, steps: int) -> "PGD":
        """The attack of this threat model with `steps` steps of eps/4 from a uniform start: what evaluates."""
        return replace(
            self, steps=steps, step=None, start="uniform", batch_norm="eval", noise=None, precision=None, second_step=False
        )


@contextmanager
def mode(net: nn.Module, training: bool) -> Iterator[None]:
    """Hold `net` in training or evaluation mode, and give every module back its own mode afterwards."""
    before = [(module, module.training) for module in net.modules()]
    net.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def crafting(net: nn.Module, attack: PGD, *, training: bool) -> Iterator[None]:
    """Hold `net` in a mode and in the attack's precision, with no gradient for its weights, nor memory for one."""
    weights = [p for p in net.parameters() if p.requires_grad]
    device = weights[0].device.type if weights else "cpu"
    low = attack.precision == "bfloat16"
    precision = torch.autocast(device, torch.bfloat16, enabled=low) if attack.precision else nullcontext()
    with mode(net, training), precision:
        for p in weights:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in weights:
                p.requires_grad_(True)


def unit_offset(u: Tensor, radius: Tensor, norm: str) -> Tensor:
    """A random offset in the unit ball from uniform numbers: `u` (B,C,H,W) in [-1,1], `radius` (B,1,1,1) in [0,1].

    linf: `u` itself. l2: the Gaussian direction of `u` (by the inverse error function) at distance `radius`.
    """
    if norm == "linf":
        return u
    return radius * _unit(torch.erfinv(u.clamp(-1 + 1e-6, 1 - 1e-6)))


def _per_sample(value: float | Tensor, x: Tensor) -> float | Tensor:
    return value.to(x).view(-1, 1, 1, 1) if isinstance(value, Tensor) and value.ndim else value


def _random_offset(start: str, x: Tensor, eps: float | Tensor, norm: str) -> Tensor:
    if start == "zero":
        return torch.zeros_like(x)
    if start == "gaussian":
        return GAUSSIAN_START * torch.randn_like(x)
    if start == "uniform":
        u = torch.rand_like(x) * 2 - 1
        radius = torch.rand_like(x[:, :1, :1, :1]) if norm == "l2" else u
        return eps * unit_offset(u, radius, norm)
    raise ValueError(f"start={start!r} is unknown: choose one of {', '.join(STARTS)}, or give a tensor")


def _project(x: Tensor, offset: Tensor, eps: float | Tensor, norm: str) -> Tensor:
    if norm == "linf":
        # Clipping the image, not the offset: x + clip(offset) can leave the ball by a rounding.
        return torch.maximum(torch.minimum(x + offset, x + eps), x - eps).clamp(0, 1)
    length = offset.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (x + offset * (eps / length.clamp(min=1e-12)).clamp(max=1)).clamp(0, 1)


def _unit(direction: Tensor) -> Tensor:
    return direction / direction.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
