"""Any network on any labelled images, in memory: the suites of `fairat_lightning.evaluate`, and their record."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fairat_lightning.config.build import build_part
from fairat_lightning.config.compose import plain
from fairat_lightning.config.targets import allowed, check_targets
from fairat_lightning.data import as_float
from fairat_lightning.evaluation.audit import Audit
from fairat_lightning.evaluation.result import Result
from fairat_lightning.evaluation.run import record_findings, run_suite
from fairat_lightning.evaluation.suites import suite_of
from fairat_lightning.metrics import near_chance
from fairat_lightning.models.checked_logits import tried
from fairat_lightning.record.fingerprint import fingerprint, of_evaluated
from fairat_lightning.record.writer import open_evaluation

DOUBT = (
    "The clean accuracy is near that of guessing: the weights may be of another architecture, the images normalised otherwise "
    "(set normalisation=), or the labels or the colours (RGB, BGR) in another order."
)


def width_of(net: nn.Module, pixels: Tensor, device: str) -> int:
    """The number of classes of the network; ValueError where it is not a classifier of such images, or cannot be attacked."""
    with torch.inference_mode(False), kept_as_it_is(net, device), torch.enable_grad():
        x = as_float(pixels[:2].clone().to(device))
        width = tried(net.to(device), x, hint=", see logits=").shape[1]
        try:
            gradient = torch.autograd.grad(net.eval()(x.requires_grad_()).sum(), x, allow_unused=True)[0]
        except RuntimeError:
            gradient = None
        if gradient is None:
            raise ValueError(
                "the network's logits have no gradient by its images, and so it cannot be attacked: remove detach() or no_grad()"
            )
    return width


class InTypeOf(nn.Module):
    """`net`, which is given its images in the type of its weights."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.dtype = next((weight.dtype for weight in net.parameters() if weight.is_floating_point()), torch.float32)

    def forward(self, x: Tensor) -> Any:
        return self.net(x.to(self.dtype))


def as_bytes(pixels: Tensor) -> Tensor:
    """Images in [0,1] as uint8 where they are bytes that were divided by 255, as they are elsewhere."""
    grey = pixels * 255 if pixels.is_floating_point() else pixels
    nearest = grey.round()
    return nearest.to(torch.uint8) if bool((grey - nearest).abs().max() < 0.01) else pixels


@contextmanager
def kept_as_it_is(net: nn.Module, device: str) -> Iterator[None]:
    """Afterwards the user's network has its modes, its device and its weights' `requires_grad` back."""
    modes = [(module, module.training) for module in net.modules()]
    before = next((weight.device for weight in net.parameters()), torch.device(device))
    gradients = [(weight, weight.requires_grad) for weight in net.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, wanted in gradients:
            weight.requires_grad_(wanted)
        net.to(before)


def benchmark(cfg: DictConfig, net: nn.Module, pixels: Tensor, labels: Tensor, classes: list[str], device: str) -> Result:
    """Evaluate `net` on `pixels` (N,C,H,W), `labels` (N,) by the suite and threat model of `cfg`, an evaluation's."""
    check_targets(plain(cfg), allowed(cfg))
    suite = suite_of(cfg)
    index = torch.arange(len(labels))
    suite.check(pixels, labels, index)
    own, of = net.state_dict(), type(next((module.net for module in net.modules() if isinstance(module, InTypeOf)), net))
    cfg = OmegaConf.merge(cfg, {})  # type: ignore[assignment]
    cfg.model = {"class": f"{of.__module__}.{of.__qualname__}", "weights": fingerprint(own) if own else None}
    cfg.data = {"images": len(labels), "fingerprint": fingerprint({"pixels": pixels, "targets": labels})}
    with tempfile.TemporaryDirectory() as place, kept_as_it_is(net, device):
        folder = Path(place)
        images = of_evaluated(as_bytes(pixels), labels, index)
        header = {"config": plain(cfg), "images": images, "torch": torch.__version__, **suite.versions}
        config, command = {**plain(cfg), "checkpoint": None}, "fairat_lightning.benchmark(...)"
        audit = Audit(
            *(net, pixels, labels, index, classes),
            threat=build_part(cfg, "attack"),
            journal=open_evaluation(folder, config, header, overwrite=False, command=command),
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            device=device,
        )
        began = time.perf_counter()
        findings = run_suite(audit, suite)
        if "clean" in findings.metrics and near_chance(audit.stage("clean", None) == labels, labels):
            findings.notes.append(DOUBT)
        record_findings(folder, cfg, audit, findings, seconds=round(time.perf_counter() - began, 1))
        return Result.read(folder, in_memory=True)
