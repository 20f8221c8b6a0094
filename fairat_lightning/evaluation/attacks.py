"""The attacks by which a run is evaluated, the same for every method.

Under the run's threat model, its norm and eps, with step eps/4 and a random start:

    fgsm           one step of size eps from the image itself (Goodfellow et al., ICLR 2015, arXiv 1412.6572)
    pgd<s>         s steps on the cross-entropy (Madry et al., ICLR 2018, arXiv 1706.06083)
    cw20           20 steps on the margin loss of Carlini and Wagner (S&P 2017, arXiv 1608.04644)
    pgd100         100 steps, 5 restarts
    multitargeted  20 steps on z_t - z_y towards each of the min(9, C-1) classes t nearest at the clean image (Gowal et al.,
                   arXiv 1910.09338)
    noise          no step: the best of 10 random points of the ball

Of several restarts or targets the first that is misclassified counts, else the last. A start is a hash of the image's index
in its set, so that a number depends neither on the batch size nor on the number of processes. Everything runs in full
precision, but for the validation of each epoch where the training is in bfloat16.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairat_lightning.attacks import PGD, mode, unit_offset
from fairat_lightning.classwise import ClassMeans
from fairat_lightning.data import as_float
from fairat_lightning.objectives import logits_of, margin


@dataclass(frozen=True)
class Spec:
    """An attack: the `loss` it maximises ("cross_entropy", "margin" or "targeted"), its steps, and its restarts or targets."""

    loss: str
    steps: int
    tries: int = 1
    start: str = "random"


ATTACKS = {
    "fgsm": Spec("cross_entropy", 1, start="zero"),
    "pgd10": Spec("cross_entropy", 10),
    "pgd20": Spec("cross_entropy", 20),
    "cw20": Spec("margin", 20),
    "pgd100": Spec("cross_entropy", 100, tries=5),
    "multitargeted": Spec("targeted", 20, tries=9),
    "noise": Spec("cross_entropy", 0, tries=10),
}


def named(attack: str | Spec) -> Spec:
    """One of ATTACKS by its name, or an attack itself."""
    return attack if isinstance(attack, Spec) else ATTACKS[attack]


@torch.no_grad()
def class_means(
    net: nn.Module,
    batches: Iterable[Any],
    num_classes: int,
    values: Callable[[Tensor, Tensor, Tensor], Tensor],
    width: int | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """The class means of `values(x, y, index)`, (B,) or (B,width), over batches: (C,) or (C,width), nan where absent.

    The network is in eval mode, `context` around each batch. Images come uint8 or in [0,1] and go to the network's device in
    [0,1]. All processes that train together know the same result.
    """
    device = next(net.parameters()).device
    means = ClassMeans(num_classes, width).to(device)
    with mode(net, training=False):
        for batch in batches:
            x, y, index = (t.to(device) for t in batch)
            with context():
                means.update(values(as_float(x), y, index), y)
    return means.compute()


def class_robust(net: nn.Module, batches: Iterable[Any], threat: PGD, num_classes: int, attack: str = "pgd10") -> Tensor:
    """The accuracy of each class under `attack`: `class_means` of what is predicted right, (C,)."""
    return class_means(net, batches, num_classes, lambda x, y, i: (predict(net, x, y, i, threat, attack) == y).float())


def predict(
    net: nn.Module, x: Tensor, y: Tensor, index: Tensor, threat: PGD, attack: str | Spec | None = None, *, exact: bool = True
) -> Tensor:
    """Predicted classes (B,), see `logits_under`."""
    return logits_under(net, x, y, index, threat, attack, exact=exact).argmax(1)


def logits_under(
    net: nn.Module, x: Tensor, y: Tensor, index: Tensor, threat: PGD, attack: str | Spec | None = None, *, exact: bool = True
) -> Tensor:
    """Logits (B,C) at clean images, or at images crafted by one of ATTACKS under `threat`.

    `x` (B,C,H,W) in [0,1], labels `y` (B,), `index` (B,) position of each image in its set. `net` must be in eval mode. With
    `exact=False` a training in bfloat16 keeps its precision, in which no figure is published.
    """
    assert not net.training, "evaluation needs the network in eval mode"
    kind = x.device.type
    on = not exact and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    fast = on and torch.get_autocast_dtype(kind) is torch.bfloat16
    # A Trainer with inference_mode=True hands over tensors that no gradient may touch: leave the mode and copy them.
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(kind, enabled=fast, dtype=torch.bfloat16),
        full_float32(),
        uncompiled(),
    ):
        x, y, index = x.clone(), y.clone(), index.clone()
        if attack is not None:
            x = craft(net, x, y, index, threat, attack)
        return logits_of(net, x)


def uncompiled() -> AbstractContextManager[Any]:
    """The network as it is written, also where it was compiled for training: no verdict depends on a compiler."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


ARITHMETIC = "float32 without TF32"  # of every verdict, for the records


@contextmanager
def full_float32() -> Iterator[None]:
    """No TF32, which cuDNN's convolutions use by default on GPUs that have it, and algorithms of cuDNN that repeat their bits."""
    # Not `cudnn.flags`, which would reset the benchmark and deterministic flags on the way.
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    newer = hasattr(matmul, "fp32_precision") and hasattr(cudnn, "conv")  # since torch 2.9, which lets nobody mix both kinds
    name, off = ("fp32_precision", "ieee") if newer else ("allow_tf32", False)
    wanted = [(switch, name, off) for switch in ((matmul, cudnn.conv, cudnn.rnn) if newer else (matmul, cudnn))]
    wanted += [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    before = [(place, name, getattr(place, name)) for place, name, _ in wanted]
    try:
        for switch in wanted:
            setattr(*switch)
        yield
    finally:
        for switch in before:
            setattr(*switch)


def craft(net: nn.Module, x: Tensor, y: Tensor, index: Tensor, threat: PGD, attack: str | Spec) -> Tensor:
    """The adversarial images (B,C,H,W) that `logits_under` looks at."""
    spec = named(attack)
    pgd = threat.with_steps(spec.steps)
    if spec.start == "zero":
        pgd = replace(pgd, step=threat.eps, start="zero")
    tries, nearest = spec.tries, y[:, None]
    if spec.loss == "targeted":
        nearest = _nearest(logits_of(net, x), y, spec.tries)
        tries = nearest.shape[1]
    result, left = x, torch.arange(len(x), device=x.device)
    for k in range(tries):
        part, labels, target = x[left], y[left], nearest[left, min(k, nearest.shape[1] - 1)]
        start = seeded_start(part, index[left], threat, k) if spec.start == "random" else None
        adv = pgd(_loss(net, spec.loss, labels, target), part, start=start)
        result = result.index_copy(0, left, adv)
        if k + 1 < tries:
            left = left[logits_of(net, adv).argmax(1) == labels]
        if not len(left):
            break
    return result


def _loss(net: nn.Module, kind: str, y: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    def loss(image: Tensor) -> Tensor:
        logits = logits_of(net, image)
        if kind == "cross_entropy":
            return F.cross_entropy(logits, y, reduction="none")
        if kind == "margin":
            return margin(logits, y)
        return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)

    return loss


def _nearest(logits: Tensor, y: Tensor, most: int) -> Tensor:
    """The wrong classes of highest logit, nearest first: (B, min(most, C-1))."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.topk(min(most, logits.shape[1] - 1), dim=1).indices


def seeded_start(x: Tensor, index: Tensor, threat: PGD, restart: int = 0) -> Tensor:
    """A random offset in the threat model's ball, a pure function of each image's index and the restart: (B,C,H,W)."""
    u = seeded_uniform(index + (restart << 32), x[0].numel() + 1).to(x.dtype)
    noise = u[:, 1:].view_as(x) * 2 - 1
    return float(threat.eps) * unit_offset(noise, u[:, 0].view(-1, 1, 1, 1), threat.norm)


def seeded_uniform(index: Tensor, count: int) -> Tensor:
    """`count` numbers in [0,1) for each index (B,): float64 (B,count), by the finaliser of SplitMix64 (Steele et al. 2014)."""
    z = index.long()[:, None] * count + torch.arange(1, count + 1, device=index.device)
    z = z * _wrap(0x9E3779B97F4A7C15)
    z = (z ^ _shift(z, 30)) * _wrap(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _wrap(0x94D049BB133111EB)
    return _shift(z ^ _shift(z, 31), 11).double() / 2**53


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _wrap(constant: int) -> int:
    """An unsigned 64-bit constant as the signed one with the same bits."""
    return constant - (1 << 64)
