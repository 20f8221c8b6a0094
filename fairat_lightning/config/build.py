"""From a resolved configuration to its parts, for every command; `targets.py` says what they may be."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from fairat_lightning.config.loading import Loaded, load_trained
from fairat_lightning.config.normalisation import Normalisation
from fairat_lightning.config.targets import stored
from fairat_lightning.data import DataModule
from fairat_lightning.models.weights import set_normalisation
from fairat_lightning.record.reader import run_folder

OURS = ("suggests", "suite")  # keys that the configuration keeps beside a constructor's
PATHS = ("teacher",)  # keys whose path is loaded first: the constructor gets what lies there


def build_part(cfg: DictConfig, group: str, **values: Any) -> Any:
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
    return build_part(cfg, "model", **shape)


def optimiser(cfg: DictConfig) -> Any:
    """The function that makes the optimiser, see `optim.py`."""
    optim = instantiate(cfg.optim, _partial_=True, _convert_="all")
    clipped = cfg.trainer.get("gradient_clip_val") is not None and cfg.optim._target_.startswith("fairat_lightning.")
    return partial(optim, fused=False) if clipped else optim  # Lightning clips no fused optimiser's gradients in mixed precision


def trained(
    path: Any,
    cfg: DictConfig,
    data: DataModule,
    *,
    key: str | None = None,
    given: bool = False,
    settled: Normalisation | None = None,
) -> tuple[Any, Loaded]:
    """The trained network at `path`: of a run's own architecture, or for any other file of that of `cfg.model`.

    `given`: the command says how it normalises, in `cfg.model`; `settled`: that was found out before.
    """
    if not isinstance(path, str) or not path:
        raise ValueError(f"method.teacher={path} must be a path: a run folder, checkpoint or state dict")
    if (run := run_folder(path)) is not None:
        cfg, given = OmegaConf.create({**stored(run, ["model"]), "data": cfg.data}), True
    net = network(cfg, data)
    if settled is not None:
        set_normalisation(net, settled)
    loaded = load_trained(net, path, cfg, data, key=key, given=given or settled is not None, judge=settled is None)
    return net, loaded if settled is None else Loaded()


@contextmanager
def naming(group: str) -> Iterator[None]:
    """Say which group a call that does not fit its constructor belongs to."""
    try:
        yield
    except TypeError as error:
        raise ValueError(f"{group}: {error}; see the keys of each option in conf/{group}/, and what a recipe sets") from error
    except MisconfigurationException as error:  # of Lightning's Trainer
        raise ValueError(str(error)) from error
    except (RuntimeError, MemoryError, OverflowError) as error:  # torch's and NumPy's words for a number that is far too large
        raise ValueError(f"{group} cannot be built: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
