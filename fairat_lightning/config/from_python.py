"""A trained network and the data of a run, for Python: `fairat_lightning.load_run` and `fairat_lightning.load_data`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from fairat_lightning.config.build import PACKAGE_PREFIX, build_part, network, prepared_data
from fairat_lightning.config.compose import compose_training, resolved
from fairat_lightning.config.home import expanded
from fairat_lightning.config.loading import classes_differ, load_trained
from fairat_lightning.config.normalisation import NONE, meant
from fairat_lightning.config.targets import allowed, check_targets, prefixes, stored
from fairat_lightning.config.words import with_config_dir
from fairat_lightning.data import DataModule
from fairat_lightning.models import Normalized
from fairat_lightning.models.logits import Place, picking
from fairat_lightning.models.weights import fitted, load_weights, set_normalisation, stored_channels
from fairat_lightning.record.reader import read_classes, run_folder, weights_file
from fairat_lightning.settings import value_of


def load_run(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    data: DataModule | Sequence[str] | str | Path | None = None,
    normalisation: Any = None,
    key: str | None = None,
    logits: Place = None,
    allow: Sequence[str] = (),
) -> Normalized:
    """A trained network in eval mode: images (B,C,H,W) in [0,1] go in, logits (B,classes) come out.

    `path` is a run folder, its checkpoint, or `pretrained:NAME`: then `.classes` are the names, `.eps` and `.norm` the threat
    model of the training. `allow` lists packages of your own, as `allow=` of the commands does.

    Any other file needs `model`, the network without its weights. `key` names the set of weights, if the file holds several, and
    `logits` says where the logits are in what the network returns (see `benchmark`). The normalisation of the images is the one
    that the file says, or `normalisation` ("none", "cifar10", [mean, std]), or else the one with the highest clean accuracy on
    `data` (see `load_data`). `.eps` and `.norm` are None.
    """
    run = run_folder(path)
    if run is None:
        return foreign_run(str(path), model, data, normalisation, key, logits)
    of_others = {"model": model, "data": data, "normalisation": normalisation, "key": key, "logits": logits}
    if given := [name for name, value in of_others.items() if value is not None]:
        raise ValueError(f"{given[0]}= is only for weights from elsewhere: leave it out, since the run {path} contains it")
    cfg = OmegaConf.create(stored(run, ["model", "data", "attack"], prefixes(allow)))
    names = read_classes(run)
    size = cfg.data.get("image_size")
    ours = str(cfg.model.get("_target_")).startswith(PACKAGE_PREFIX)  # another's network is tried on images
    if ours and names and ("image_size" not in cfg.model or size):
        shape: Any = _Shape(names, stored_channels(path), size)
    else:  # only the data themselves say it
        shape = prepared_data(cfg)
    net: Normalized = network(cfg, shape)
    load_weights(net, path)
    attack = build_part(cfg, "attack")
    net.classes, net.eps, net.norm = list(shape.classes), float(attack.eps), str(attack.norm)  # type: ignore[assignment]
    return net.eval()


def teacher(cfg: DictConfig, classes: Sequence[str] | None) -> Normalized:
    """The run that `method.teacher` names; ValueError for any other file, and for `classes` at other places, if known."""
    path = cfg.method.teacher
    if run_folder(path) is None:
        raise ValueError(f"method.teacher={path} is no run: load it, and give it as teacher=")
    for line in classes_differ("method.teacher", path, classes) if classes is not None else ():
        print(line, flush=True)
    with value_of("method.teacher"):
        return load_run(path, allow=list(cfg.get("allow") or ()))


def foreign_run(path: str, model: Any, data: Any, normalisation: Any, key: str | None, logits: Place) -> Normalized:
    """`load_run` of a file that this package did not write."""
    weights_file(path)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{path} is not a run of fairat_lightning: give model=, the network that the weights belong to")
    cfg = OmegaConf.create({"model": {"mean": [0.0], "std": [1.0]}, "data": {}})
    of_data = data if isinstance(data, DataModule) else None
    if of_data is not None:
        of_data.prepare()
    elif data is not None:
        cfg.data = _data_config(data)
        of_data = prepared_data(cfg)
    pick, _ = picking(model, logits, None if of_data is None else of_data.num_classes)
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = of_data.channels if of_data is not None else convolution.in_channels if convolution is not None else None
    net = Normalized(model, *(meant(normalisation) if normalisation is not None else NONE), in_channels=channels)
    if of_data is None:
        found = fitted(net, path, key)
        if normalisation is None and found.normalisation is None:
            raise ValueError(f"{path} does not say how its network normalises images: give normalisation= or data=")
        if normalisation is None and found.normalisation is not None:
            set_normalisation(net, found.normalisation)
        net.load_state_dict(net.state_dict() | found.state)
    else:
        loaded = load_trained(net, path, cfg, of_data, key=key, given=normalisation is not None)
        print("\n".join(loaded.lines), flush=True)
    if pick.found is not None and logits is None:
        print(f"The network returns more than its logits: those at {pick.found} are used; logits= changes this.", flush=True)
    net.classes = list(of_data.classes) if of_data is not None else None  # type: ignore[assignment]
    net.eps = net.norm = None  # type: ignore[assignment]
    return net.eval()


def load_data(source: str | Path | Sequence[str]) -> DataModule:
    """The data of a run's folder, or of overrides such as ["data=cifar10", "data.root=FOLDER"], already read.

    `train_dataloader()`, `val_dataloader()` and `test_dataloader()` give (x uint8, y, index); `.train`, `.val` and `.test` are
    whole: `.pixels[:]` uint8 (N,C,H,W) and `.targets` (N,).
    """
    return prepared_data(OmegaConf.create({"data": _data_config(source)}))


def _data_config(source: str | Path | Sequence[str]) -> Any:
    if not isinstance(source, str | Path):
        cfg = resolved(compose_training(with_config_dir(expanded(source)))[0])
        check_targets(cfg["data"], allowed(OmegaConf.create(cfg)))
        return cfg["data"]
    run = run_folder(source)
    if run is None:
        raise ValueError(f"{source} is not a run folder; for overrides, give a list: load_data(['data=cifar10'])")
    return stored(run, ["data"])["data"]


class _Shape:
    """What a network must know of its data, without the data."""

    def __init__(self, classes: list[str], channels: int, image_size: int | None = None):
        self.classes, self.num_classes, self.channels, self.image_size = classes, len(classes), channels, image_size
