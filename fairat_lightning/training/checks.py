"""The checks that no single part of a run can make: of its settings before any part is built, and of parts on its images."""

import copy

import torch
from omegaconf import DictConfig, OmegaConf

from fairat_lightning.config.compose import plain
from fairat_lightning.config.targets import allowed, check_targets
from fairat_lightning.data import DataModule, as_float
from fairat_lightning.methods.base import Method
from fairat_lightning.methods.parts import HardExamples
from fairat_lightning.record.secrets import refuse_secrets
from fairat_lightning.settings import one_of, seed_number, switch, whole

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")  # the weights stay in float32 or better


def check(cfg: DictConfig) -> None:
    """Raise ValueError for wrong settings of a run."""
    check_targets(plain(cfg), allowed(cfg))
    listed = cfg.callbacks if OmegaConf.is_list(cfg.get("callbacks")) else []
    augmentation = cfg.method.get("augmentation", "") if OmegaConf.is_dict(cfg.method) else ""
    for place, name in (*(("callbacks", name) for name in listed), ("method.augmentation", augmentation)):
        if isinstance(name, str) and "." in name:  # a class by its name alone
            check_targets({"_target_": name}, allowed(cfg), where=place)
    refuse_secrets(plain(cfg))
    seed_number("seed", cfg.seed)
    for key in ("compile", "checkpointing", "deterministic"):
        switch(key, cfg[key])
    if cfg.compile and cfg.checkpointing:
        raise ValueError("compile=true and checkpointing=true: torch cannot compile checkpointed blocks; choose one of the two")
    if cfg.attack.get("precision") is not None and str(cfg.trainer.precision) == "64-true":
        raise ValueError(f"attack.precision={cfg.attack.precision} with trainer.precision=64-true: set attack.precision=null")
    whole("trainer.max_epochs", cfg.trainer.max_epochs)
    for key, value in (("init_from", cfg.init_from), ("data.root", cfg.data.get("root"))):
        if value is not None and (not isinstance(value, str) or not value):
            raise ValueError(f"{key}={value} must be a path")
    one_of("trainer.precision", str(cfg.trainer.precision), PRECISIONS)
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        here = f"torch {torch.__version__} finds no CUDA on this machine"
        raise ValueError(f"trainer.accelerator={cfg.trainer.accelerator}: {here}; use trainer=cpu or trainer=auto")


def check_trainable(net: torch.nn.Module) -> None:
    """ValueError for a network that has nothing to learn."""
    if not any(weights.requires_grad for weights in net.parameters()):
        raise ValueError("model: the network has no weights to train")


def try_augmentation(method: Method, data: DataModule) -> None:
    """ValueError for an augmentation of the user's that does not give images like those it gets."""
    for part in method.children():
        if isinstance(part, HardExamples):
            part.try_on(as_float(data.train.pixels[:4]))


def try_one(net: torch.nn.Module, data: DataModule) -> None:
    """ValueError for a network that cannot be trained on one image a step."""
    with torch.random.fork_rng(devices=[]):
        try:
            copy.deepcopy(net).train()(as_float(data.train.pixels[:1]))
        except ValueError as error:  # of batch norm
            raise ValueError(f"data.batch_size={data.batch_size}: {error}; give each process two images or more") from error
