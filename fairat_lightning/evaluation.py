"""The attacks a run is judged by, the same for every method.

PGD with s steps and CW with s steps (PGD on the margin loss of Carlini and Wagner, S&P 2017) under the run's threat
model: its norm and eps, step eps/4, one random start per image. The start is a hash of the image's index in its set, so
that a number depends neither on the batch size nor on the number of processes. Everything runs in full precision.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairat_lightning.attacks import PGD, unit_offset
from fairat_lightning.objectives import logits_of, margin

# name -> (loss that the attack maximises, steps)
ATTACKS = {
    "pgd10": ("cross_entropy", 10),
    "pgd20": ("cross_entropy", 20),
    "cw20": ("margin", 20),
}


def predict(net: nn.Module, x: Tensor, y: Tensor, index: Tensor, threat: PGD, attack: str | None = None) -> Tensor:
    """Predicted classes (B,) at clean images, or at images crafted by one of ATTACKS under `threat`.

    `x` (B,C,H,W) in [0,1], labels `y` (B,), `index` (B,) position of each image in its set. `net` must be in eval mode.
    """
    assert not net.training, "evaluation needs the network in eval mode"
    # A Trainer with inference_mode=True hands over tensors that no gradient may touch: leave the mode and copy them.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False), full_float32():
        x, y, index = x.clone(), y.clone(), index.clone()
        if attack is not None:
            x = craft(net, x, y, index, threat, attack)
        return logits_of(net, x).argmax(1)


@contextmanager
def full_float32() -> Iterator[None]:
    """No TF32, which cuDNN's convolutions use by default on GPUs that have it."""
    # Not `cudnn.flags`, which would reset the benchmark and deterministic flags on the way.
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def craft(net: nn.Module, x: Tensor, y: Tensor, index: Tensor, threat: PGD, attack: str) -> Tensor:
    """The adversarial images (B,C,H,W) that `predict` looks at."""
    kind, steps = ATTACKS[attack]

    def loss(image: Tensor) -> Tensor:
        logits = logits_of(net, image)
        return margin(logits, y) if kind == "margin" else F.cross_entropy(logits, y, reduction="none")

    return threat.with_steps(steps)(loss, x, start=seeded_start(x, index, threat))


def seeded_start(x: Tensor, index: Tensor, threat: PGD) -> Tensor:
    """A random offset in the threat model's ball, a pure function of each image's index: (B,C,H,W)."""
    u = seeded_uniform(index, x[0].numel() + 1).to(x.dtype)
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
