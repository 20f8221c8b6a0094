"""From a resolved configuration to its parts, for every command.

Hydra imports and calls whatever `_target_` names, so only parts of our own package and of the ones we build on are allowed, and
only what is defined there: no module that one of them has imported. A command that takes `allow` widens the list by what its
user says, and nothing else does. A configuration out of a run's folder, which may be anybody's, names our own parts alone.
"""

import logging
import pkgutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fairat_lightning.data import DataModule
from fairat_lightning.models.weights import load_weights
from fairat_lightning.pretrained import located

OURS_TO_CALL = tuple(
    f"fairat_lightning.{name}."
    for name in ("data", "models", "methods", "attacks", "objectives", "awp", "averaging", "head", "optim", "suites")
) + ("fairat_lightning.autoattack.", "fairat_lightning.corruptions.", "fairat_lightning.dashboards.")
TARGETS = (*OURS_TO_CALL, "torch.nn.", "torch.optim.", "torchvision.models.", "torchmetrics.", "timm.")
LIGHTNING = ("lightning.Trainer", *(f"lightning.pytorch.{name}." for name in ("callbacks", "loggers", "profilers", "strategies")))
OURS = ("suggests", "suite")  # keys that the configuration keeps beside a constructor's
PATHS = ("teacher",)  # keys whose path is loaded first: the constructor gets what lies there
WRONG_INPUT = (
    *(ValueError, TypeError, ModuleNotFoundError, MisconfigurationException),
    *(InstantiationException, HydraException, OmegaConfBaseException),
)


def part(cfg: DictConfig, group: str, **values: Any) -> Any:
    """Call what `cfg[group]._target_` names. `values` go past Hydra, which would turn our dataclasses into configurations."""
    node = {key: value for key, value in (cfg[group] or {}).items() if key not in OURS}
    if not node:
        raise ValueError(f"{group}=none chooses nothing: choose an option of {group}")
    if "_target_" not in node:
        raise ValueError(f"{group}.{next(iter(node))} is set, but the chosen option of {group} takes none: a recipe's leftover?")
    if clash := [key for key in values if key not in PATHS and node.get(key) not in (None, values[key])]:
        here = values[clash[0]]
        instead = f": here it is {here}" if isinstance(here, bool | int | str | Path) else ""
        raise ValueError(f"{group}.{clash[0]}={node[clash[0]]} is not yours to set{instead}")
    with naming(group):
        rest = {key: value for key, value in node.items() if key not in PATHS}
        return instantiate(rest, _partial_=True, _convert_="all")(**values)


def network(cfg: DictConfig, data: DataModule) -> Any:
    """The network that `cfg.model` names, for the classes, channels and image size of `data`."""
    shape = {"num_classes": data.num_classes, "in_channels": data.channels}
    if "image_size" in cfg.model:
        shape["image_size"] = data.image_size
    return part(cfg, "model", **shape)


def optimiser(cfg: DictConfig) -> Any:
    """The function that makes the optimiser, see `optim.py`."""
    optim = instantiate(cfg.optim, _partial_=True, _convert_="all")
    clipped = cfg.trainer.get("gradient_clip_val") is not None and cfg.optim._target_.startswith("fairat_lightning.")
    return partial(optim, fused=False) if clipped else optim  # Lightning clips no fused optimiser's gradients in mixed precision


def trained(path: Any, cfg: DictConfig, data: DataModule) -> Any:
    """The trained network at `path`: of a run's own architecture, or for any other file of that of `cfg.model`."""
    if not isinstance(path, str) or not path:
        raise ValueError(f"method.teacher={path} must be a path: a run folder, checkpoint or state dict")
    if (run := run_folder(path)) is not None:
        cfg = OmegaConf.create(stored(run, ["model"]))
    net = network(cfg, data)
    load_weights(net, path)
    return net


def run_folder(checkpoint: Any) -> Path | None:
    """The run that a checkpoint belongs to: its folder, or the folder above its `checkpoints/`; None for any other file.

    The folder of a pretrained network holds the configuration of its run, and counts.
    """
    path = located(str(checkpoint))
    for folder in (path, path.parent.parent if path.parent.name == "checkpoints" else path):
        if (folder / "config.yaml").is_file():
            return folder
    return None


@contextmanager
def naming(group: str) -> Iterator[None]:
    """Say which group a call that does not fit its constructor belongs to."""
    try:
        yield
    except TypeError as error:
        raise ValueError(f"{group}: {error}; see the keys of each option in conf/{group}/, and what a recipe sets") from error
    except (RuntimeError, MemoryError, OverflowError) as error:  # torch's and NumPy's words for a number that is far too large
        raise ValueError(f"{group} cannot be built: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def check_targets(node: Any, allow: Sequence[str] = (), base: Sequence[str] = (*TARGETS, *LIGHTNING)) -> None:
    """Raise ValueError for a `_target_` anywhere in `node` that begins with none of `base` and `allow`, or is from elsewhere."""
    if isinstance(node, dict):
        if "_target_" in node:
            _check_target(str(node["_target_"]), (*base, *allow))
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            check_targets(child, allow, base)


def _check_target(target: str, prefixes: tuple[str, ...]) -> None:
    if not target.startswith(prefixes):
        others = sorted({prefix.rstrip(".") for prefix in prefixes if prefix not in (*OURS_TO_CALL, *LIGHTNING)})
        parts = ", ".join(["a part of fairat_lightning", *(["Lightning's"] if LIGHTNING[0] in prefixes else []), *others])
        raise ValueError(f"_target_={target} is not allowed here: it must be {parts}")
    try:
        found = pkgutil.resolve_name(target)
    except Exception:  # the import of whatever is named; hydra says what is wrong with it when it is called
        return
    home = getattr(found, "__module__", None) or type(found).__module__
    if home.partition(".")[0] != target.partition(".")[0]:
        raise ValueError(f"_target_={target} is not allowed: it is of {home}, which that module has only imported")


def stored(run: Path, groups: Sequence[str], allow: Sequence[str] = ()) -> dict[str, Any]:
    """These groups of the configuration in a run's folder.

    ValueError where it is damaged or lacks one, asks for anything to be computed, or names what is not ours.
    """
    place = run / "config.yaml"
    try:
        text = place.read_text()
        found = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        text, found = "", None
    if not isinstance(found, dict) or "${" in text:
        raise ValueError(f"{place} cannot be read: it is no configuration of a run")
    if missing := next((group for group in groups if not isinstance(found.get(group), dict)), None):
        raise ValueError(f"{place} has no {missing}: it is no configuration of a run")
    found = {group: found[group] for group in groups}
    try:
        check_targets(found, allow, base=OURS_TO_CALL)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    return found


def plain(cfg: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg))


def refuse_seed(seed: Any) -> None:
    """Raise ValueError unless `seed` can seed every generator."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} must be a whole number from 0 to 4294967295")


def short(path: Path) -> Path:
    """`path` from the working directory if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def quieten() -> None:
    """Lightning's hints about workers, hardware and loggers are noise in a command that has chosen them."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
