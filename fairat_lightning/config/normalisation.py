"""The key `normalisation`: by which mean and standard deviation a network normalises its images.

`none`, the name of a data set (`cifar10`: what `conf/data/cifar10.yaml` suggests), `imagenet`, or a list of two, mean and
standard deviation, each one number for all channels or a list of one a channel: [[0.49,0.48,0.45],[0.25,0.24,0.26]], [0.5,0.5].
It sets `model.mean` and `model.std`. Left out, the file with the weights decides, or else their clean accuracy.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fairat_lightning.record.reader import read_config
from fairat_lightning.settings import number

Normalisation = tuple[list[float], list[float]]
NONE: Normalisation = ([0.0], [1.0])
IMAGENET = "folder"  # the data set that suggests ImageNet's
KEYS = ("mean", "std")


def meant(word: Any) -> Normalisation:
    """Mean and standard deviation that a value of `normalisation` means; ValueError for an unknown one."""
    from fairat_lightning.config.compose import CONF  # Hydra takes its time

    node = OmegaConf.to_container(word) if OmegaConf.is_config(word) else word
    if isinstance(node, list | tuple):  # from Python
        node = [list(part) if isinstance(part, tuple) else part for part in node]
    if node == "none":
        return NONE
    if isinstance(node, str):
        names = {path.stem: path.stem for path in sorted((CONF / "data").glob("*.yaml")) if path.stem != "custom"}
        names["imagenet"] = names.pop(IMAGENET)
        if node not in names:
            raise ValueError(f"normalisation={node} is unknown: choose none, {', '.join(names)}, or [MEAN,STD] such as [0.5,0.5]")
        suggests = OmegaConf.load(CONF / "data" / f"{names[node]}.yaml").suggests
        return list(suggests.mean), list(suggests.std)
    if not isinstance(node, list) or len(node) != 2:
        raise ValueError(f"normalisation={node} must be none, a data set's name, or two values [MEAN,STD], such as [0.5,0.5]")
    mean, std = ([number("normalisation", v) for v in (part if isinstance(part, list) else [part])] for part in node)
    if not mean or not std or min(std) <= 0:
        raise ValueError(
            f"normalisation={node} must have a mean and a standard deviation above 0: images are divided by the latter"
        )
    return mean, std


def of_model(cfg: DictConfig) -> Normalisation:
    """`model.mean` and `model.std`; a class of one's own that was given none has none in front of it."""
    mean, std = (cfg.model.get(key, default) for key, default in zip(KEYS, NONE, strict=True))
    return list(mean), list(std)


def set_model(cfg: DictConfig, normalisation: Normalisation) -> None:
    """Let `model.mean` and `model.std` say it; without a model, which is refused elsewhere, nothing."""
    if OmegaConf.is_dict(cfg.model):
        cfg.model.mean, cfg.model.std = normalisation


def normalised_as_begun(cfg: DictConfig, folder: Path, source: str) -> bool:
    """Whether what is in `folder` began with the same `source` of weights; its mean and standard deviation are then `cfg`'s."""
    with suppress(OSError, ValueError, AttributeError):  # a damaged configuration is refused elsewhere
        begun = read_config(folder) or {}
        model = begun.get("model") or {}
        if begun.get(source) == cfg[source] and all(key in model for key in KEYS):
            set_model(cfg, (model["mean"], model["std"]))
            return True
    return False


def mean_given(*, _root_: DictConfig) -> bool:
    """For `conf/classifier.yaml`: whether the command, or the run that it reads, says `model.mean` or `model.std`."""
    model = _root_.model
    return OmegaConf.is_dict(model) and any(key in model and not OmegaConf.is_interpolation(model, key) for key in KEYS)


OmegaConf.register_new_resolver("mean_given", mean_given, replace=True)
