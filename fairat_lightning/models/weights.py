"""The weights of a network out of a file, and nothing else of it.

Read are a run folder (its `checkpoints/best.ckpt`), an exported one (its `model.safetensors`), a network of the package
(`pretrained:NAME`), a Lightning checkpoint of ours (`net.*` of its "state_dict"), a plain state dict (.pt, .pth, possibly under
"state_dict", "model" or "net") and .safetensors.
Reading is always weights-only: a pickle that holds more than tensors and plain containers is refused.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fairat_lightning.models.normalized import Normalized
from fairat_lightning.record.reader import weights_file

NESTED = ("state_dict", "model", "net")
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")  # DataParallel, torch.compile, Normalized
UNUSED = "sub_block1."  # the public TRADES code builds this stage, saves it, and never calls it
STATISTICS = ("mean", "std")
TOLERANCE = 1e-5  # two roundings of one mean are the same mean


def load_weights(net: Normalized, path: str | os.PathLike[str]) -> None:
    """Copy the weights at `path` into `net`, all or none.

    `module.`, `_orig_mod.` and `model.` before a name do not matter, and batch counters may be absent.
    Without a mean and std in the file those of `net` stay. Raises ValueError, one line with the path, for a
    missing, damaged or refused file, another architecture or shape, another mean or std, and weights that are not
    finite numbers; `net` then stays.
    """
    path = weights_file(path)
    own = net.state_dict()
    names = {_bare(name): name for name in own}
    assert len(names) == len(own)
    found = _network(_read(path), names, path)
    statistics = {name: found.pop(name) for name in STATISTICS if name in found}
    _check_names(names, found, path)
    for name, value in found.items():
        if value.shape != own[names[name]].shape:
            raise ValueError(
                f"{path} does not fit this network: {name} has shape {tuple(value.shape)} in the file and "
                f"{tuple(own[names[name]].shape)} here (another number of classes or another width)"
            )
        if own[names[name]].is_floating_point() and not value.is_floating_point():
            raise ValueError(
                f"{path} holds {name} as {value.dtype}: save the network's own weights, neither quantised nor complex"
            )
        if not value.isfinite().all():
            raise ValueError(
                f"{path} holds a {name} that is nan or infinite: the training that wrote it diverged, choose another"
            )
    _check_statistics(net, statistics, path)
    net.load_state_dict(own | {names[name]: value for name, value in found.items()})
    torch.clear_autocast_cache()  # which keeps casts of the weights from before


def stored_channels(path: str | os.PathLike[str]) -> int:
    """How many channels the images of one of our own networks have, by the mean that its file holds."""
    found = _network(_read(weights_file(path)), {}, weights_file(path))
    if "mean" not in found:
        raise ValueError(f"{path} holds no mean: it is no network of fairat_lightning")
    return len(found["mean"].flatten())


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise RuntimeError, KeyError, EOFError, ...
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path} holds {refused[1]} and not only tensors: refused, since reading it could run code "
                f"(save the network's state_dict alone)"
            ) from error
        raise ValueError(f"{path} cannot be read: damaged, or no .ckpt, .pt, .pth or .safetensors") from error


def _network(content: Any, names: dict[str, str], path: Path) -> dict[str, Tensor]:
    """The network's tensors by their bare names; `names` are those it needs."""
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {}
    if isinstance(content, dict):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    # Lightning's checkpoints of ours hold the network as `net`; another's network may have a part of that name.
    if any(name.startswith("net.") for name in tensors) and not any(name.startswith("net.") for name in names):
        tensors = {name[4:]: value for name, value in tensors.items() if name.startswith("net.")}
    tensors = {name: value for name, value in tensors.items() if not _bare(name).startswith(UNUSED)}
    if not tensors:
        raise ValueError(f"{path} holds no network weights")
    bare = {_bare(name): value for name, value in tensors.items()}
    if len(bare) < len(tensors):
        raise ValueError(f"{path} holds more than one network: save the state_dict of one alone")
    return bare


def _bare(name: str) -> str:
    return WRAPPERS.sub("", name)


def _check_names(names: dict[str, str], found: dict[str, Tensor], path: Path) -> None:
    needed = [name for name in names if name not in STATISTICS and not name.endswith("num_batches_tracked")]
    missing = [name for name in needed if name not in found]
    unexpected = [name for name in found if name not in names]
    faults = []
    if missing:
        faults.append(f"{len(missing)} of this network's tensors are missing (first {missing[0]})")
    if unexpected:
        faults.append(f"{len(unexpected)} of the file's are unknown here (first {unexpected[0]})")
    if faults:
        raise ValueError(f"{path} holds another architecture: {', '.join(faults)}")


def _check_statistics(net: Normalized, statistics: dict[str, Tensor], path: Path) -> None:
    own = {"mean": net.mean, "std": net.std}
    used = {name: statistics.get(name, value).flatten().double().cpu() for name, value in own.items()}
    for name, value in used.items():
        here = own[name].flatten().double().cpu()
        if len(value) in (1, len(here)) and bool(((value - here).abs() <= TOLERANCE).all()):
            continue
        mean, std = (",".join(f"{v:.6g}" for v in used[key].tolist()) for key in STATISTICS)
        raise ValueError(f"{path} was trained with mean [{mean}], std [{std}]: set model.mean=[{mean}] model.std=[{std}]")
