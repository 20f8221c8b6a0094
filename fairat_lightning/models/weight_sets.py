"""Which tensors of a file are a network's: under which keys of it, behind which prefix, and what normalises its images.

A file is a dictionary of tensors, or holds some at whatever depth: "state_dict", "model_ema", "student". In each the network's
names are sought behind one prefix: "", "module.", "backbone.", any other. A place that has all of them is a *set* of weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

DEPTH = 3  # dictionaries within dictionaries that are looked into
CURRENT = "current_model_state"  # Lightning keeps the weights in training there, where "state_dict" is their average
WITH_OTHERS = {"model", "net", "network", "backbone", "encoder", "student", "teacher", "ema", "model_ema", "ema_model"}
COMPILED = "_orig_mod"  # of torch.compile, anywhere in a name
COUNTERS = ("num_batches_tracked", "n_averaged")  # nothing depends on them in eval mode
UNUSED = "sub_block1"  # the public TRADES code builds this stage, saves it, and never calls it
PAIRS = (("mean", "std"), ("mu", "sigma"), ("means", "sds"), ("new_mean", "new_std"))
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class WeightSet:
    """One set: where it is, its tensors by the network's names, and the other tensors of the same dictionary."""

    keys: tuple[str, ...]
    prefix: tuple[str, ...]
    weights: Tensors
    within: Tensors = field(default_factory=dict)  # behind the prefix, without a place in the network
    beside: Tensors = field(default_factory=dict)  # without the prefix

    @property
    def place(self) -> tuple[str, ...]:
        return *self.keys, *self.prefix


def find(content: Any, names: list[str]) -> list[WeightSet]:
    """Every set of weights in the file that has all of `names` (a counter may be absent), each once."""
    needed = {name for name in names if not name.endswith(COUNTERS)}
    found: list[WeightSet] = []
    for keys, tensors in dictionaries(content):
        prefixes = [prefix for prefix, present in _behind(tensors, names).items() if needed and present >= needed]
        taken = {_joined(prefix, name) for prefix in prefixes for name in names}
        rest = {name: value for name, value in tensors.items() if name not in taken and not _left(name)}
        for prefix in prefixes:
            weights = {name: tensors[_joined(prefix, name)] for name in names if _joined(prefix, name) in tensors}
            within = {name: value for name, value in rest.items() if _below(name, prefix)}
            beside = {name: value for name, value in rest.items() if name not in within}
            one = WeightSet(keys, prefix, weights, within, beside)
            if not any(_same(one.weights, other.weights) for other in found):
                found.append(one)
    return found


def closest_set(content: Any, names: list[str]) -> WeightSet | None:
    """What comes nearest to a set where none has all names; None for a file without tensors."""
    best: WeightSet | None = None
    for keys, tensors in dictionaries(content):
        behind = _behind(tensors, names) or {(): set()}
        prefix = max(behind, key=lambda prefix: (len(behind[prefix]), -len(prefix)))
        weights = {name: tensors[_joined(prefix, name)] for name in names if name in behind[prefix]}
        taken = {_joined(prefix, name) for name in weights}
        rest = {name for name in tensors if _below(name, prefix) and not _left(name)} - taken
        one = WeightSet(keys, prefix, weights, {name: value for name, value in tensors.items() if name in rest})
        if best is None or len(one.weights) > len(best.weights):
            best = one
    return best


def dictionaries(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    """The dictionaries of a file that hold tensors, outer ones first, with their keys. ValueError for a name twice."""
    if not isinstance(content, Mapping):
        return
    tensors: Tensors = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            plain = ".".join(part for part in str(name).split(".") if part != COMPILED)
            if plain in tensors:
                raise ValueError(f"holds more than one network ({plain} occurs twice): save the state_dict of one alone")
            tensors[plain] = value
    if tensors:
        yield keys, tensors
    for name, value in content.items():
        if len(keys) < DEPTH:
            yield from dictionaries(value, (*keys, str(name)))


def statistics(one: WeightSet, channels: int) -> dict[tuple[str, ...], tuple[list[float], list[float]]]:
    """The pairs of mean and standard deviation around a set, by their place: before its prefix, or in a layer there."""
    found = {}
    tensors = one.within | one.beside
    for first, second in PAIRS:
        for name in tensors:
            *place, last = name.split(".")
            partner = ".".join([*place, second])
            at_it = tuple(place) == one.prefix[: len(place)] or tuple(place[:-1]) == one.prefix[: len(place) - 1]
            if last != first or partner not in tensors or not at_it:
                continue
            mean, std = _numbers(tensors[name], channels), _numbers(tensors[partner], channels)
            if mean and std and min(std) > 0:
                found[(*place, first)] = (mean, std)
                found[(*place, second)] = (mean, std)
    return found


def labels(sets: list[WeightSet]) -> list[str]:
    """What to call each set: its place without what all of several share and without "module", `.` for no place at all."""
    shared = {"module"} | (set.intersection(*(set(one.place) for one in sets)) if len(sets) > 1 else set())
    short = [".".join(part for part in one.place if part not in shared) for one in sets]
    return short if all(short) and len(set(short)) == len(short) else [".".join(one.place) or "." for one in sets]


def under_key(sets: list[WeightSet], key: str) -> list[WeightSet]:
    """Those that `key` names: by their label, else by their whole place, else by a part of it."""
    by_label = [one for one, label in zip(sets, labels(sets), strict=True) if label == key]
    whole = [one for one in sets if ".".join(one.place) == key]
    return by_label or whole or [one for one in sets if f".{key}." in f".{'.'.join(one.place)}."]


def _behind(tensors: Tensors, names: list[str]) -> dict[tuple[str, ...], set[str]]:
    """For every prefix, those of the names that are found behind it."""
    wanted = set(names)
    found: dict[tuple[str, ...], set[str]] = {}
    for name in tensors:
        parts = name.split(".")
        for k in range(len(parts)):
            if (rest := ".".join(parts[k:])) in wanted:
                found.setdefault(tuple(parts[:k]), set()).add(rest)
    return found


def _joined(prefix: tuple[str, ...], name: str) -> str:
    return ".".join((*prefix, name))


def _below(name: str, prefix: tuple[str, ...]) -> bool:
    return tuple(name.split("."))[: len(prefix)] == prefix


def _left(name: str) -> bool:
    return name.endswith(COUNTERS) or UNUSED in name.split(".")


def _same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def _numbers(value: Tensor, channels: int) -> list[float]:
    """One number, or one a channel, as the shortest decimals of float32; empty for any other tensor."""
    if not value.is_floating_point() or value.numel() not in (1, channels):
        return []
    numbers = [float(str(number)) for number in value.detach().flatten().float().numpy()]
    return numbers if all(map(isfinite, numbers)) else []
