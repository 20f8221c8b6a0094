"""What an evaluation runs on: the device, how many of them, the threads of each, and how many images at once."""

import os
from pathlib import Path

import torch
from omegaconf import DictConfig

from fairat_lightning.config.classifier import Classifier
from fairat_lightning.data import as_float
from fairat_lightning.evaluation.attacks import full_float32
from fairat_lightning.models.checked_logits import Checked
from fairat_lightning.record.reader import read_config
from fairat_lightning.running.machine import largest_batch
from fairat_lightning.settings import one_of


def device_of(cfg: DictConfig) -> str:
    """The device that `device=` means; ValueError for one that is unknown, or missing on this machine."""
    one_of("device", cfg.device, ("auto", "cpu", "cuda"))
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch finds no CUDA on this machine; set device=cpu or device=auto")
    return str(cfg.device) if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def check_devices(cfg: DictConfig) -> None:
    """Raise ValueError for a device that is missing, and for more `devices` than this machine has."""
    gpus = device_of(cfg) == "cuda"
    there = torch.cuda.device_count() if gpus else os.cpu_count() or 1
    most = there if gpus else max(8, there)  # as for trainer.devices: processes may share a core
    if cfg.devices > most:
        what = ("GPU" if gpus else "core") + ("s" if there > 1 else "")
        raise ValueError(f"devices={cfg.devices}: this machine has {there} {what}; set devices={most}{' or less' * (most > 1)}")


def threads_of_each(devices: int) -> int:
    """The threads of each of so many processes: an equal part of the cores, unless OMP_NUM_THREADS says it."""
    every = torch.get_num_threads()
    return every if "OMP_NUM_THREADS" in os.environ else max(1, every // devices)


def batch_of(judged: Classifier, device: str, begun: Path | None) -> int:
    """The most images that a GPU attacks at once, or as many as an evaluation that has `begun` took; 250 on a CPU."""
    if begun is not None and (config := read_config(begun)) is not None:
        return int(config["batch_size"])
    if device == "cpu":
        return 250
    net = Checked(judged.net, len(judged.data.classes)).to(device).eval().requires_grad_(False)
    image = as_float(judged.data.test.pixels[:1]).to(device)

    def step(size: int) -> None:
        x = image.repeat(size, 1, 1, 1).requires_grad_()
        with full_float32():
            torch.autograd.grad(net(x).sum(), x)

    return largest_batch(step)
