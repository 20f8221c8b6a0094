"""Any network on any labelled images, in memory: the suites of `fairat_lightning.evaluate`, and their record."""

import tempfile
import time
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fairat_lightning.config.build import build_part
from fairat_lightning.config.compose import plain
from fairat_lightning.evaluation.audit import Audit, Suite
from fairat_lightning.evaluation.result import Result
from fairat_lightning.evaluation.run import record_findings, run_suite
from fairat_lightning.record.fingerprint import fingerprint
from fairat_lightning.record.writer import open_evaluation

NEAR_CHANCE = 1.5  # times the accuracy of guessing
DOUBT = (
    "The clean accuracy is near that of guessing: the weights may be of another architecture, the images normalised otherwise "
    "(normalisation=), the labels in another order, or the colours in another (RGB, BGR)."
)


@torch.no_grad()
def width_of(net: nn.Module, pixels: Tensor, device: str) -> int:
    """How many classes the network tells apart; ValueError where it returns no logits for such images."""
    x = pixels[:2].to(device)
    x = x / 255 if x.dtype == torch.uint8 else x
    try:
        logits = net(x)
    except ValueError:
        raise
    except Exception as error:  # whatever its layers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the network does not take images of shape {tuple(pixels.shape[1:])}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network returns {what} for {len(x)} images: logits (images, classes) are needed, see logits=")
    return logits.shape[1]


def benchmark(cfg: DictConfig, net: nn.Module, pixels: Tensor, labels: Tensor, classes: list[str], device: str) -> Result:
    """Judge `net` on `pixels` (N,C,H,W), `labels` (N,) by the suite and threat model of `cfg`, an evaluation's configuration."""
    suite: Suite = build_part(cfg, "suite")
    index = torch.arange(len(labels))
    suite.check(pixels, labels, index)
    own = net.state_dict()
    cfg = OmegaConf.merge(cfg, {})  # type: ignore[assignment]
    cfg.model = {"class": f"{type(net).__module__}.{type(net).__qualname__}", "weights": fingerprint(own) if own else None}
    cfg.data = {"images": len(labels), "fingerprint": fingerprint({"pixels": pixels, "targets": labels})}
    modes = [(module, module.training) for module in net.modules()]
    before = next((weight.device for weight in net.parameters()), torch.device(device))
    gradients = [(weight, weight.requires_grad) for weight in net.parameters()]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        header = {"config": plain(cfg), "torch": torch.__version__, **suite.versions}
        config, command = {**plain(cfg), "checkpoint": None}, "fairat_lightning.benchmark(...)"
        try:
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
            if "clean" in findings.metrics and findings.metrics["clean"]["average"] < NEAR_CHANCE / len(classes):
                findings.notes.append(DOUBT)
            record_findings(folder, cfg, audit, findings, seconds=round(time.perf_counter() - began, 1))
        finally:  # the network is its user's
            for module, training in modes:
                module.training = training
            for weight, wanted in gradients:
                weight.requires_grad_(wanted)
            net.to(before)
        return Result.read(folder, in_memory=True)
