"""From a resolved configuration to its parts, for every command; `targets.py` says what they may be."""

import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.averaging import Averaging
from fairat_lightning.awp import AWP
from fairat_lightning.config.compose import CONF, plain
from fairat_lightning.config.loading import Loaded, load_trained
from fairat_lightning.config.normalisation import Normalisation
from fairat_lightning.config.targets import allowed, stored
from fairat_lightning.data import DataModule, as_float
from fairat_lightning.head import BalancedHead
from fairat_lightning.models import Normalized
from fairat_lightning.models.checked_logits import tried
from fairat_lightning.models.logits import picking
from fairat_lightning.models.weights import set_normalisation
from fairat_lightning.objectives import AT
from fairat_lightning.optim import scheduled
from fairat_lightning.record.environment import install
from fairat_lightning.record.reader import run_folder
from fairat_lightning.settings import first_line, nearest, number

OURS = ("suggests", "suite")  # keys that the configuration keeps beside a constructor's
PACKAGE_PREFIX = "fairat_lightning."
RECIPES = ("fairat_lightning.optim.multistep", "fairat_lightning.optim.onecycle")  # with a schedule of their own
PART_OF: dict[str, type] = {  # what a part must be
    **{"data": DataModule, "attack": PGD, "objective": AT, "awp": AWP, "averaging": Averaging, "head": BalancedHead},
}
NUMBERS = {"lr", "weight_decay", "momentum"}  # of an optimiser, whichever it is
PATHS = ("teacher",)  # keys whose path is loaded first: the constructor gets what lies there


def build_part(cfg: DictConfig, group: str, instead: Mapping[str, str] | None = None, /, **values: Any) -> Any:
    """Call what `cfg[group]._target_` names, see `build_node`."""
    node = {key: value for key, value in (cfg[group] or {}).items() if key not in OURS}
    if not node:
        raise ValueError(f"{group}=none chooses nothing: choose another option of {group}; --help lists them")
    wanted = PART_OF.get(group)
    with suppress(ImportError, AttributeError, ValueError):  # the error is raised where it is called
        found = pkgutil.resolve_name(str(node.get("_target_")))
        if wanted is not None and inspect.isclass(found) and not issubclass(found, wanted):
            raise TypeError(_no_subclass(group, node, found.__name__, wanted))
    part = build_node(node, group, instead, **values)
    if wanted is not None and not isinstance(part, wanted):
        raise ValueError(_no_subclass(group, node, type(part).__name__, wanted))
    return part


def prepared_data(cfg: DictConfig, processes: int = 1) -> Any:
    """The data module of `cfg`, its images read, by each of `processes` on this machine."""
    data = build_part(cfg, "data")
    data.processes = processes
    data.prepare()
    return data


def _no_subclass(group: str, node: Mapping[Any, Any], name: str, wanted: type) -> str:
    what = f"{wanted.__module__}.{wanted.__name__}"
    return f"{group}._target_={node['_target_']} gives {name}: it must be a subclass of {what}"


def build_node(node: Mapping[Any, Any], group: str, instead: Mapping[str, str] | None = None, /, **values: Any) -> Any:
    """Call what the `_target_` of a part of the configuration names; `group` is what the user calls that part.

    `values` go past Hydra, which would turn our dataclasses into configurations. Raises ValueError where the configuration says
    something else than `values`; `instead` says for a key what to set then.
    """
    if "_target_" not in node:
        raise ValueError(f"{group}.{next(iter(node))} is set, but the chosen option of {group} has no keys: remove it")
    if clash := [key for key in values if key not in PATHS and node.get(key) not in (None, values[key])]:
        key, here = clash[0], values[clash[0]]
        way_out = f": its value here is {here}" if isinstance(here, bool | int | str | Path) else ""
        if instead and key in instead:
            way_out = f": {instead[key]}"
        raise ValueError(f"{group}.{key}={node[key]} cannot be set{way_out}")
    with naming(group):
        rest = {key: value for key, value in node.items() if key not in PATHS}
        _refuse_unknown(rest, group)
        return instantiate(rest, _partial_=True, _convert_="all")(**values)


def _refuse_unknown(node: Mapping[Any, Any], group: str) -> None:
    """ValueError for a key that the constructor does not accept, with the one that the user may have meant."""
    try:
        takes = _keywords(pkgutil.resolve_name(str(node["_target_"])))
    except (ImportError, AttributeError, ValueError, TypeError):
        return  # the error is raised where it is called
    if takes is None:
        return
    if unknown := [str(key) for key in node if not str(key).startswith("_") and key not in takes]:
        like = nearest(unknown[0], takes).replace("mean ", f"mean {group}.")
        raise ValueError(f"{group}.{unknown[0]} is not a parameter of {node['_target_']}{like}")


def _keywords(target: Any) -> set[str] | None:
    """What a function or class takes by name, with what it hands on to the classes that it is made from; None for anything."""
    found: set[str] = set()
    classes = target.__mro__[:-1] if inspect.isclass(target) else ()
    for part in [vars(base)["__init__"] for base in classes if "__init__" in vars(base)] or [target]:
        takes = inspect.signature(part).parameters
        found |= set(takes)
        if not any(value.kind is inspect.Parameter.VAR_KEYWORD for value in takes.values()):
            return found - {"self"}
    return None


def network(cfg: DictConfig, data: DataModule) -> Any:
    """The network that `cfg.model` names, for the classes, channels and image size of `data`."""
    if not str(cfg.model.get("_target_", PACKAGE_PREFIX)).startswith(PACKAGE_PREFIX):
        return foreign_network(cfg, data)
    shape = {"num_classes": data.num_classes, "in_channels": data.channels}
    if "image_size" in cfg.model:
        shape["image_size"] = data.image_size
    return build_part(cfg, "model", **shape)


def target_of(cfg: DictConfig) -> Any:
    """The class or function that `model._target_` names; ValueError where it cannot be imported."""
    module, _, name = str(cfg.model._target_).rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model._target_={cfg.model._target_} cannot be imported: {error}") from error


def foreign_network(cfg: DictConfig, data: DataModule) -> Normalized:
    """A network of somebody else's class, called with the `model.*` values alone, and with `num_classes` and `in_channels` where
    it takes them; `model.mean` and `model.std`, where it does not take them, are put in front of it. `model.logits` says where
    the logits are in what it returns, an index or a key; "logits" and index 0 are found. ValueError for what is no classifier.
    """
    values = {str(key): value for key, value in plain(cfg)["model"].items() if key != "_target_"}
    target, name = target_of(cfg), str(cfg.model._target_).rpartition(".")[2]
    takes = inspect.signature(target).parameters
    shape = {"num_classes": data.num_classes, "in_channels": data.channels}
    values |= {key: value for key, value in shape.items() if key in takes and key not in values}
    front = {key: values.pop(key) for key in ("mean", "std", "logits") if key in values and key not in takes}
    try:
        net = target(**values)
    except Exception as error:  # a foreign class may raise anything
        raise ValueError(f"model: {name} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ValueError(f"model._target_={cfg.model._target_} gives {type(net).__name__}, not a torch.nn.Module")
    pick, _ = picking(net, front.get("logits"), data.num_classes)
    whole = Normalized(net.float(), front.get("mean", [0.0]), front.get("std", [1.0]), in_channels=data.channels)
    tried(whole, as_float(data.test.pixels[:2]), data.num_classes, hint="; set model.logits= to their index or key", steady=False)
    if pick.found is not None and "logits" not in front:
        print(f"The network returns more than logits: those at {pick.found} are used; model.logits= changes this.", flush=True)
    return whole


def optimiser(cfg: DictConfig) -> Any:
    """The function (parameters, epochs=, steps=) that makes the optimiser and its schedule, see `optim.py`."""
    recipe, has_schedule = str(cfg.optim._target_) in RECIPES, bool(cfg.get("schedule"))
    if recipe and has_schedule:
        own = str(cfg.optim._target_).rpartition(".")[2]
        raise ValueError(f"schedule= needs optim=sgd, optim=adamw or an optimiser of your own: optim={own} has its own schedule")
    if not recipe and not has_schedule:
        raise ValueError(
            "schedule=none, but this optimiser has no schedule of its own: choose constant, cosine, multistep or onecycle"
        )
    for key in NUMBERS & cfg.optim.keys():
        number(f"optim.{key}", cfg.optim[key])
    optim = instantiate(cfg.optim, _partial_=True, _convert_="all")
    if not recipe:
        optim = partial(scheduled, optimizer=optim, schedule=instantiate(cfg.schedule, _partial_=True, _convert_="all"))
    clipped = cfg.trainer.get("gradient_clip_val") is not None
    return partial(optim, fused=False) if clipped else optim  # Lightning clips no fused optimiser's gradients in mixed precision


def loggers(cfg: DictConfig, folder: Path) -> list[Any]:
    """The loggers of a run, each under a name of its own in `cfg.logger`; they write into the run's `folder`."""
    found = []
    for name, node in (cfg.get("logger") or {}).items():
        if not OmegaConf.is_dict(node) or "_target_" not in node:
            raise ValueError(f"logger.{name} is not a logger: choose logger=NAME, and set its values by logger.NAME.key=value")
        try:
            takes = inspect.signature(pkgutil.resolve_name(str(node._target_))).parameters
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise ValueError(f"logger.{name}._target_={node._target_} cannot be imported: {error}") from error
        values: dict[str, Any] = {"save_dir": folder} if "save_dir" in takes and node.get("save_dir") is None else {}
        if "name" in takes and node.get("name") is None:
            values["name"] = folder.name
        found.append(build_node(node, f"logger.{name}", **values))
    return found


def callbacks(cfg: DictConfig) -> list[Any]:
    """The callbacks of `cfg.callbacks`: names of classes, or `_target_` with their values. ValueError for anything else."""
    listed = cfg.get("callbacks")
    if not OmegaConf.is_list(listed):
        raise ValueError(f"callbacks={listed} must be a list, such as callbacks=[mypackage.Mine]")
    found = []
    for item in listed:
        node = {"_target_": item} if isinstance(item, str) else item
        if not OmegaConf.is_dict(node) and not isinstance(node, dict) or "_target_" not in node:
            raise ValueError(f"callbacks: {item} must be the name of a class, or {{_target_: NAME, key: value}}")
        made = build_node(node, "callbacks")
        if not isinstance(made, Callback):
            raise ValueError(f"callbacks: {node['_target_']} gives {type(made).__name__}: it must be a Lightning Callback")
        found.append(made)
    return found


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
        raise ValueError(f"{path!r} must be a path: a run folder, checkpoint or state dict")
    if (run := run_folder(path)) is not None:
        cfg, given = OmegaConf.create({**stored(run, ["model"], allowed(cfg)), "data": cfg.data}), True
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
        where = f"; conf/{group}/ lists the keys of each option" if (CONF / group).is_dir() else ""
        if where and (key := str(error).partition("unexpected keyword argument '")[2].partition("'")[0]):
            where += f", and ~{group}.{key} removes it where a recipe has set it"
        raise ValueError(f"{group}: {error}{where}") from error
    except ModuleNotFoundError as error:
        if "tensorboard" in str(error):
            raise ValueError(f"{group}: TensorBoard is not installed: {install('tensorboard')}") from error
        raise
    except MisconfigurationException as error:  # of Lightning's Trainer
        raise ValueError(str(error)) from error
    except (RuntimeError, MemoryError, OverflowError) as error:  # how torch and NumPy report a number that is far too large
        raise ValueError(f"{group} cannot be built: {first_line(error)}") from error
