"""Any classifier, for the commands that evaluate or export one: a run of this package, or a network and a file with its weights.

`checkpoint=RUN` brings the run's own model, data and threat model, and so does `checkpoint=pretrained:NAME`; settings of the
command change them. Any other file needs `model=` and `data=`. `model._target_` names any other function or class: of
torchvision or timm, or with `allow=[mypackage.]` of one's own. It is called with the `model.*` settings alone, and with
`num_classes` and `in_channels` where it takes them; `model.mean` and `model.std`, where it does not take them, are put in front
of it, because images are in [0,1]. Where neither the command nor the file with the weights says them, the clean accuracy under
each usual one decides (`loading.py`), or `normalisation=` does.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from fairat_lightning.config.build import PACKAGE_PREFIX, network, prepared_data, target_of
from fairat_lightning.config.compose import plain
from fairat_lightning.config.loading import classes_differ, load_trained, named_set
from fairat_lightning.config.normalisation import KEYS, meant, normalised_as_begun, set_model
from fairat_lightning.config.targets import allowed, check_targets
from fairat_lightning.data import DataModule, as_float
from fairat_lightning.data.stratified import stratified
from fairat_lightning.models import Normalized
from fairat_lightning.models.checked_logits import tried
from fairat_lightning.pretrained import is_pretrained
from fairat_lightning.record.reader import run_folder
from fairat_lightning.running.terminal import quieten
from fairat_lightning.settings import listed, nearest


@dataclass
class Classifier:
    """A network in eval mode that maps images in [0,1] to logits, its data, and its run, if it lies in the folder of one."""

    net: Normalized
    data: DataModule
    cfg: DictConfig
    run: Path | None
    logits: list[float]  # of the first test images, to three digits: what the weights alone do not say of a network
    facts: dict[str, Any] = field(
        default_factory=dict
    )  # of weights from elsewhere, for the record: what was read from the file, and how
    warning: str | None = None  # what may be wrong with such a file

    @cached_property
    def images(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels uint8 (N,C,H,W), labels (N,) and places in the split (N,) of the images that `cfg` asks to evaluate."""
        chosen = places(self.cfg, self.data)
        part = getattr(self.data, self.cfg.split).subset(chosen)
        return part.pixels[:], part.targets, chosen


def load(cfg: DictConfig, begun: Callable[[Path | None], Path] | None = None) -> Classifier:
    """Build the network, load the weights of `cfg.checkpoint` into it, and read the data.

    `begun` says, of the run that the checkpoint lies in, where an evaluation may have begun, whose normalisation then stays.
    """
    quieten()
    check_targets(plain(cfg), allowed(cfg))
    of_run = run_folder(cfg.checkpoint) is not None
    run = None if is_pretrained(cfg.checkpoint) else run_folder(cfg.checkpoint)  # nothing is written into the package
    given, key = _said(cfg, of_run), named_set(cfg)
    if not given and begun is not None:
        given = normalised_as_begun(cfg, begun(run), "checkpoint")
    data: DataModule = prepared_data(cfg, cfg.get("devices", 1))
    named = classes_differ("checkpoint", cfg.checkpoint, data.classes)
    net = network(cfg, data)
    if not isinstance(net, Normalized):
        raise ValueError(f"model._target_={cfg.model._target_} gives {type(net).__name__}: name a function listed in conf/model/")
    ours = str(cfg.model.get("_target_", PACKAGE_PREFIX)).startswith(PACKAGE_PREFIX)
    takes_its_own = not ours and bool(set(KEYS) & inspect.signature(target_of(cfg)).parameters.keys())
    given = given or of_run or takes_its_own
    loaded = load_trained(net, cfg.checkpoint, cfg, data, key=key, given=given, check=lambda: _try(net.eval(), data))
    logits = _try(net, data)
    for line in (*loaded.lines, *named):
        print(line, flush=True)
    if loaded.normalisation is not None:
        set_model(cfg, loaded.normalisation)
    return Classifier(net, data, cfg, run, logits, loaded.facts, loaded.warning)


def _said(cfg: DictConfig, of_run: bool) -> bool:
    """Whether the command sets the normalisation; `normalisation=`, if it is given, becomes `model.mean` and `model.std`."""
    word, given = cfg.pop("normalisation", None), cfg.pop("mean_given", False)
    if word is None:
        return bool(given)
    if given and not of_run:
        raise ValueError("normalisation= sets model.mean and model.std: set either it or these, not both")
    set_model(cfg, meant(word))
    return True


def places(cfg: DictConfig, data: DataModule) -> Tensor:
    """Which images of the split are evaluated: (n,), in their order."""
    names, targets = data.classes, getattr(data, cfg.split).targets
    sizes = targets.bincount(minlength=len(names))

    def among(key: str) -> Tensor:
        for name in map(str, cfg[key]):
            if name not in names:
                raise ValueError(
                    f"{key}={name} is unknown: the classes of the data are {listed(names, 20)}{nearest(name, names)}"
                )
            if not sizes[names.index(name)]:
                raise ValueError(f"{key}={name}: the {cfg.split} split has no image of this class; leave it out")
        return torch.tensor([name in map(str, cfg[key]) for name in names])

    wanted = (sizes > 0) if cfg.classes is None else among("classes")
    if cfg.samples_per_class is None:
        return wanted[targets].nonzero().flatten()
    counts = torch.where(wanted, cfg.samples_per_class, 0)
    if cfg.in_full is not None:
        most = sizes if cfg.samples_in_full is None else sizes.clamp(max=cfg.samples_in_full)
        counts = torch.where(among("in_full"), most, counts)
    if (counts > sizes).any():
        least = int((sizes - counts).argmin())
        here = f"class {names[least]!r} has only {sizes[least]} {cfg.split} images; set that or less"
        raise ValueError(f"samples_per_class={cfg.samples_per_class}: {here}")
    return stratified(targets, counts[: int(targets.max()) + 1])


def _try(net: nn.Module, data: DataModule) -> list[float]:
    """The logits of two test images, before anything is written; ValueError for what is no classifier of such images."""
    logits = tried(net, as_float(data.test.pixels[:2]), data.num_classes)
    return [float(f"{v:.3g}") for v in logits.flatten().tolist()]
