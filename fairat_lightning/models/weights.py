"""The weights of a network out of a file, and nothing else of it.

Read are a run folder (its `checkpoints/best.ckpt`), an exported one (its `model.safetensors`), a network of the package
(`pretrained:NAME`), any Lightning checkpoint, a plain state dict (.pt, .pth) and .safetensors. The weights
may be under any keys of the file and behind any prefix (`weight_sets.py`).
Reading is always weights-only: a pickle that holds more than tensors, plain containers and what `ALSO_READ` lists is refused.
"""

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fairat_lightning.models.normalized import Normalized
from fairat_lightning.models.weight_sets import (
    COMPILED,
    COUNTERS,
    CURRENT,
    WITH_OTHERS,
    WeightSet,
    closest_set,
    dictionaries,
    find,
    labels,
    statistics,
    under_key,
)
from fairat_lightning.record.reader import weights_file

SCALAR = np.float64(0).__reduce__()[0]
ALSO_READ: list[Any] = [  # found beside weights from elsewhere; reading these runs no code of the file
    argparse.Namespace,
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(name)) for name in ("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64")),
]
TOLERANCE = 1e-5  # two roundings of one mean are the same mean
Normalisation = tuple[list[float], list[float]]  # mean and standard deviation, one number for all channels or one a channel


@dataclass(frozen=True)
class Fitted:
    """What a file holds for a network: `state`, which may be laid over its state dict, and the file's own normalisation or None.

    `ours`: the file is of a `Normalized` network, as this package writes it. `text` says what was taken out of the file.
    """

    state: dict[str, Tensor]
    normalisation: Normalisation | None
    ours: bool
    text: str


def fitted(net: nn.Module, path: str | os.PathLike[str], key: str | None = None) -> Fitted:
    """The weights at `path` that fit `net`; `key` says which, where there are several sets of them.

    Batch counters may be absent. Raises ValueError, one line with the path, for a missing, damaged or refused file, another
    architecture or shape, weights that are not finite numbers, and several sets without a `key`, listing these.
    """
    path = weights_file(path)
    inner, front = (net.model, "model.") if isinstance(net, Normalized) else (net, "")
    own = inner.state_dict()
    names = _short(own)
    content = read(path)
    try:
        one = _chosen(content, {name: own[whole] for name, whole in names.items()}, key)
        pairs = statistics(one, net.mean.numel() if isinstance(net, Normalized) else 3)
        _check_names(one, names, {".".join(place) for place in pairs})
        for name, value in one.weights.items():
            _check_tensor(name, value, own[names[name]])
        if len({str(pair) for pair in pairs.values()}) > 1:
            places = ", ".join(sorted(".".join(place) for place in pairs))
            raise ValueError(f"holds several normalisations ({places}): save the network's own weights alone")
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    mean = (*one.prefix[:-1], "mean")
    beside = [name for name in one.beside if tuple(name.split(".")) not in pairs]
    return Fitted(
        {front + names[name]: value for name, value in one.weights.items()},
        next(iter(pairs.values()), None),
        ours=one.prefix[-1:] == ("model",) and mean in pairs,
        text=f"{'.'.join(one.place) or 'all'} of {path.name}"
        + (f"; left out {len(beside)} tensor{'s' * (len(beside) > 1)} beside them (first {beside[0]})" if beside else ""),
    )


def load_weights(net: nn.Module, path: str | os.PathLike[str], key: str | None = None) -> Fitted:
    """Copy the weights at `path` into `net`, all or none, and say what they were.

    Without a mean and std in the file those of `net` stay. Raises ValueError as `fitted` does, and for another mean or std
    than the file's; `net` then stays.
    """
    found = fitted(net, path, key)
    if found.normalisation is not None and isinstance(net, Normalized):
        check_normalisation(net, found.normalisation, path)
    net.load_state_dict(net.state_dict() | found.state)
    torch.clear_autocast_cache()  # which keeps casts of the weights from before
    return found


def check_normalisation(net: Normalized, stated: Normalisation, path: str | os.PathLike[str]) -> None:
    """ValueError where the network does not normalise as the file at `path` states."""
    if not same_normalisation(net, stated):
        mean, std = (",".join(f"{v:.6g}" for v in values) for values in stated)
        raise ValueError(
            f"{weights_file(path)} was trained with mean [{mean}], std [{std}]: set model.mean=[{mean}] model.std=[{std}]"
        )


def same_normalisation(net: Normalized, stated: Normalisation) -> bool:
    """Whether the network normalises by this mean and standard deviation."""
    pairs = zip((net.mean, net.std), stated, strict=True)
    return all(bool(((own.flatten().double().cpu() - torch.tensor(v).double()).abs() <= TOLERANCE).all()) for own, v in pairs)


def set_normalisation(net: Normalized, normalisation: Normalisation) -> None:
    """Let the network normalise by this mean and standard deviation; ValueError where its channels are others."""
    other = Normalized(nn.Identity(), *normalisation, in_channels=net.mean.numel())
    for own, value in ((net.mean, other.mean), (net.std, other.std)):
        own.copy_(value)


def stored_channels(path: str | os.PathLike[str]) -> int:
    """How many channels the images of one of our own networks have, by the mean that its file holds."""
    content = read(weights_file(path))
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    mean = next((state[name] for name in ("net.mean", "mean") if name in state), None)
    if mean is None:
        raise ValueError(f"{path} holds no mean: it is not a network of fairat_lightning")
    return mean.numel()


def read(path: Path) -> Any:
    """The content of a file with weights. ValueError for one that is damaged, or that asks for more than may be read."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(ALSO_READ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise RuntimeError, KeyError, EOFError, ...
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path} holds {refused[1]} and not only tensors: refused, since reading it could run code "
                f"(save the network's state_dict alone)"
            ) from error
        raise ValueError(f"{path} cannot be read: it is damaged, or not a .ckpt, .pt, .pth or .safetensors file") from error


def _short(own: dict[str, Tensor]) -> dict[str, str]:
    """The network's names by what is sought for them: without what torch.compile adds, and what wraps the whole network."""
    names = {".".join(part for part in name.split(".") if part != COMPILED): name for name in own}
    while names and all(name.startswith(("model.", "module.")) for name in names):
        names = {name.partition(".")[2]: whole for name, whole in names.items()}
    assert len(names) == len(own)
    return names


def _chosen(content: Any, own: dict[str, Tensor], key: str | None) -> WeightSet:
    """The one set of weights to take. ValueError where there is none, or more than one and no `key` for it."""
    if not any(True for _ in dictionaries(content)):
        raise ValueError("holds no network weights")
    names = list(own)
    sets = find(content, names)
    sets = [one for one in sets if all(value.shape == own[name].shape for name, value in one.weights.items())] or sets
    if key is not None:
        chosen = under_key(sets, key)
        if not chosen and not sets:
            raise ValueError(_other_architecture(content, names))
    else:
        chosen = [one for one in sets if CURRENT not in one.keys] or sets
        if not chosen:
            raise ValueError(_other_architecture(content, names))
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(f"key={label}" for label in labels(chosen or sets))
    if key is None or chosen:
        raise ValueError(f"holds {len(chosen)} sets of weights for this network: choose one, {listed}")
    there = "one set of weights, so leave key= out" if labels(sets) == ["."] else listed
    raise ValueError(f"holds no weights for this network at key={key}: it has {there}")


def _other_architecture(content: Any, names: list[str]) -> str:
    one = closest_set(content, names)
    assert one is not None
    needed = [name for name in names if not name.endswith(COUNTERS)]
    return _architecture([name for name in needed if name not in one.weights], list(one.within))


def _check_names(one: WeightSet, names: dict[str, str], pairs: set[str]) -> None:
    """ValueError for tensors that the network has no place for, unless they belong to another part of a training."""
    prefix = len(one.prefix)
    unknown = [".".join(name.split(".")[prefix:]) for name in one.within if name not in pairs]
    if not WITH_OTHERS & set(one.prefix):
        unknown += [name for name in one.beside if name not in pairs]
    if unknown:
        raise ValueError(_architecture([], unknown))


def _architecture(missing: list[str], unexpected: list[str]) -> str:
    faults = []
    if missing:
        faults.append(f"{len(missing)} of this network's tensors are missing (first {missing[0]})")
    if unexpected:
        faults.append(f"{len(unexpected)} of the file's tensors are unknown to it (first {unexpected[0]})")
    return f"holds another architecture: {', '.join(faults)}"


def _check_tensor(name: str, value: Tensor, own: Tensor) -> None:
    if value.shape != own.shape:
        raise ValueError(
            f"does not fit this network: {name} has shape {tuple(value.shape)} in the file and "
            f"{tuple(own.shape)} here (another number of classes, another width, or another kind of this layer)"
        )
    if own.is_floating_point() and not value.is_floating_point():
        raise ValueError(f"holds {name} as {value.dtype}: save the network's own weights, neither quantised nor complex")
    if not value.isfinite().all():
        raise ValueError(f"holds a {name} that is nan or infinite: the training that wrote it diverged; choose another file")
