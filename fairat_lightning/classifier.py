"""Any classifier, for the commands that judge or export one: a run of ours, or a network and a file with its weights.

`checkpoint=RUN` brings the run's own model, data and threat model, and so does `checkpoint=pretrained:NAME`; words of the command
change them. Any other file needs `model=` and `data=`. `model._target_` names any other function or class: of torchvision or
timm, or with `allow=[mypackage.]` of one's own. It is called with the `model.*` words alone, and with `num_classes` and
`in_channels` where it takes them; `model.mean` and `model.std`, where it does not take them, are put in front of it, because
images are in [0,1].
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from fairat_lightning.__main__ import CONF
from fairat_lightning.audit import Checked
from fairat_lightning.build import check_targets, network, part, plain, quieten, run_folder, stored
from fairat_lightning.data import DataModule, as_float
from fairat_lightning.data.stratified import stratified
from fairat_lightning.models import Normalized, load_weights
from fairat_lightning.pretrained import is_pretrained

OWN = "fairat_lightning."
GROUPS = ("model", "data", "attack")


@dataclass
class Classifier:
    """A network in eval mode that maps images in [0,1] to logits, its data, and its run, if it lies in the folder of one."""

    net: Normalized
    data: DataModule
    cfg: DictConfig
    run: Path | None
    logits: list[float]  # of the first test images, to three digits: what the weights alone do not say of a network


def compose(name: str, words: Sequence[str]) -> DictConfig:
    """`conf/<name>.yaml` with the command's words, on top of the model, data and attack of the run that `checkpoint` names.

    Raises what WRONG_INPUT lists.
    """
    parsed = [(word, parse_word(word)) for word in words]
    given = {o.key_or_group: (word, o.value()) for word, o in parsed}
    run = run_folder(given["checkpoint"][1]) if "checkpoint" in given else None
    own_class = "model._target_" in given
    ours = GROUPS if run else ()
    dotted = [key for key in given if "." in key and (key.split(".")[0] in ours or (own_class and key.startswith("model.")))]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(name, [word for key, (word, _) in given.items() if key not in dotted])
    with open_dict(cfg):
        if run is not None:
            replaced = {"model"} if own_class else set()
            groups = [group for group in GROUPS if group not in given and group not in replaced]
            for group, saved in stored(run, groups, _allowed(cfg)).items():
                cfg[group] = saved
        if own_class:
            cfg.model = {}
        for key in dotted:
            word, value = given[key]
            if not (own_class and key.startswith("model.")) and not word.startswith("+"):
                parent, _, leaf = key.rpartition(".")
                if leaf not in (OmegaConf.select(cfg, parent) or {}):
                    raise ValueError(f"there is no key {key} in the configuration of {run}")
            OmegaConf.update(cfg, key, value)
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))  # type: ignore[return-value]


def parse_word(word: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ValueError(f"cannot read {word}, each word must be key=value: {error}") from error
    if override.is_sweep_override():
        raise ValueError(f"{word}: this command takes one value a key, write a list as [a,b]")
    return override


def load(cfg: DictConfig) -> Classifier:
    """Build the network, load the weights of `cfg.checkpoint` into it, and read the data."""
    quieten()
    if cfg.checkpoint is None:
        raise ValueError("checkpoint=PATH must be given: a run folder, a checkpoint, a state dict or pretrained:NAME")
    if not isinstance(cfg.checkpoint, str) or not cfg.checkpoint:
        raise ValueError(f"checkpoint={cfg.checkpoint} must be a path")
    if Path(cfg.checkpoint).expanduser().is_dir() and run_folder(cfg.checkpoint) is None:
        raise ValueError(f"checkpoint={cfg.checkpoint} has no config.yaml: name the file with the weights, model= and data=")
    check_targets(plain(cfg), _allowed(cfg))
    data: DataModule = part(cfg, "data")
    data.prepare()
    ours = str(cfg.model.get("_target_", OWN)).startswith(OWN)
    net = network(cfg, data) if ours else _foreign(cfg, data)
    if not isinstance(net, Normalized):
        raise ValueError(f"model._target_={cfg.model._target_} gives {type(net).__name__}: name one of conf/model's functions")
    load_weights(net, cfg.checkpoint)
    run = None if is_pretrained(cfg.checkpoint) else run_folder(cfg.checkpoint)  # nothing is written into the package
    return Classifier(net.eval(), data, cfg, run, _try(net, data))


def places(cfg: DictConfig, data: DataModule) -> Tensor:
    """Which images of the split are judged: (n,), in their order."""
    names, targets = data.classes, getattr(data, cfg.split).targets
    sizes = targets.bincount(minlength=len(names))

    def among(key: str) -> Tensor:
        for name in map(str, cfg[key]):
            if name not in names:
                few = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
                raise ValueError(f"{key}={name} is unknown: the data has {few}")
            if not sizes[names.index(name)]:
                raise ValueError(f"{key}={name}: there is no {cfg.split} image of this class")
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
        here = f"class {names[least]!r} has only {sizes[least]} {cfg.split} images"
        raise ValueError(f"samples_per_class={cfg.samples_per_class}: {here}")
    return stratified(targets, counts[: int(targets.max()) + 1])


def other_eps(*, _root_: DictConfig) -> Any:
    """The data set's eps in the norm that the threat model is not in; None where it suggests none."""
    norm = "l2" if _root_.attack.norm == "linf" else "linf"
    return OmegaConf.select(_root_, f"data.suggests.eps.{norm}")


OmegaConf.register_new_resolver("other_eps", other_eps, replace=True)


def _allowed(cfg: DictConfig) -> list[str]:
    allow = cfg.get("allow")
    if not OmegaConf.is_list(allow) or not all(isinstance(prefix, str) and prefix.endswith(".") for prefix in allow):
        raise ValueError(f"allow={allow} must be a list of prefixes that end in a dot: allow=[mypackage.]")
    return list(allow)


@torch.no_grad()
def _try(net: nn.Module, data: DataModule) -> list[float]:
    """The logits of two test images, before anything is written; ValueError for what is no classifier of such images."""
    images = as_float(data.test.pixels[:2])
    try:
        first, second = (Checked(net, data.num_classes)(images) for _ in range(2))
    except ValueError:
        raise
    except Exception as error:  # whatever its layers raise
        shape, reason = tuple(images.shape[1:]), (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the network does not take images of shape {shape}: {reason}") from error
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-6):
        raise ValueError(
            "the network is random in eval mode: asked twice it answers differently, and no verdict on it would hold"
        )
    return [float(f"{v:.3g}") for v in first.flatten().tolist()]


def _foreign(cfg: DictConfig, data: DataModule) -> Normalized:
    values = {str(key): value for key, value in plain(cfg)["model"].items() if key != "_target_"}
    module, _, name = str(cfg.model._target_).rpartition(".")
    try:
        target = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model._target_={cfg.model._target_} cannot be imported: {error}") from error
    takes = inspect.signature(target).parameters
    shape = {"num_classes": data.num_classes, "in_channels": data.channels}
    values |= {key: value for key, value in shape.items() if key in takes and key not in values}
    front = {key: values.pop(key) for key in ("mean", "std") if key in values and key not in takes}
    try:
        net = target(**values)
    except Exception as error:  # another's class, and whatever it raises
        raise ValueError(f"model: {name} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ValueError(f"model._target_={cfg.model._target_} gives {type(net).__name__}, not a torch.nn.Module")
    return Normalized(net.float(), front.get("mean", [0.0]), front.get("std", [1.0]), in_channels=data.channels)
