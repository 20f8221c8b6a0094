"""A trained network's weights into a network of a configuration, with the normalisation that they were trained under.

A file of this package says it. Where a file from elsewhere does not say it, and the command does not either, the clean accuracy
under each usual one decides, on validation images; the choice is printed, and the caller records it. A file from elsewhere whose
clean accuracy is near chance gets a warning: it fits the network by its names and shapes, but may be of another one.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from fairat_lightning.config.normalisation import NONE, Normalisation, meant, of_model
from fairat_lightning.data import DataModule, as_float
from fairat_lightning.data.images import Images
from fairat_lightning.data.stratified import evenly, stratified
from fairat_lightning.metrics import near_chance
from fairat_lightning.models.checked_logits import Checked
from fairat_lightning.models.normalized import Normalized
from fairat_lightning.models.weight_sets import WeightSet, statistics
from fairat_lightning.models.weights import check_normalisation, fitted, same_normalisation, set_normalisation
from fairat_lightning.record.reader import read_classes, run_folder
from fairat_lightning.running.slurm import GPU
from fairat_lightning.settings import first_line, listed

IMAGES = 500  # of the validation split, as many of each class
SHOWN = 10  # names of classes in a line


@dataclass
class Loaded:
    """The result of loading: lines for the user, facts for the record (none for a file of this package), and perhaps a warning.

    `normalisation` is what the configuration of the network has to say from now on; None where it stays as it is.
    """

    normalisation: Normalisation | None = None
    lines: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    warning: str | None = None


def load_trained(
    net: nn.Module,
    path: str,
    cfg: DictConfig,
    data: DataModule,
    *,
    key: str | None = None,
    given: bool,
    judge: bool = True,
    check: Callable[[], object] = lambda: None,
) -> Loaded:
    """Load the weights at `path` into `net`, which `cfg.model` has built, and settle its normalisation.

    `given`: the command or the file's run sets the normalisation that `net` has; a file of this package must agree.
    `judge=False`: the clean accuracy was looked at before. `check` is called when the weights are in. Raises ValueError as
    `load_weights` does, and for a network that does not take the images.
    """
    found = fitted(net, path, key)
    stated = found.normalisation
    if isinstance(net, Normalized) and stated is not None and found.ours and given:
        check_normalisation(net, stated, path)
    net.load_state_dict(net.state_dict() | found.state)
    torch.clear_autocast_cache()  # which keeps casts of the weights from before
    check()
    if not isinstance(net, Normalized):
        return Loaded()
    loaded = Loaded(lines=[] if found.ours else [f"weights: {found.text}"])
    correct = None
    if stated is not None and not given:
        by = "the file"
        if not same_normalisation(net, stated):
            set_normalisation(net, stated)
            loaded.normalisation = stated
    elif given:
        by = "the command"
        if stated is not None and not same_normalisation(net, stated):
            loaded.lines.append(f"normalisation: as the command sets it; the file says {_words(stated)}")
    elif itself(net):
        by = "the network itself"
    else:
        images = sample(data)
        by = f"clean accuracy on {len(images)} validation images"
        loaded.normalisation, correct, line, loaded.facts["tried"] = _decide(net, cfg, data, images)
        loaded.lines.append(f"{line} ({by})")
    if by == "the file" and (loaded.normalisation or not found.ours):
        loaded.lines.append(f"normalisation: {_words(stated or NONE)}, as the file says")
    if found.ours:
        return loaded
    mean, std = loaded.normalisation or of_model(cfg)
    loaded.facts |= {"taken": found.text, "mean": mean, "std": std, "normalisation_by": by}
    if judge:
        images = sample(data)
        correct = answers(net, images, data, gpu_of(cfg)) if correct is None else correct
        loaded.facts["clean_accuracy"] = float(correct.double().mean())
        loaded.warning = _near_chance(correct, images.targets)
        loaded.lines += [f"warning: {loaded.warning}"] if loaded.warning else []
    return loaded


def named_set(cfg: DictConfig) -> str | None:
    """Which set of weights in a file the command names; a configuration that names none keeps no key for it."""
    key = cfg.pop("key", None)
    if key is not None:
        if not isinstance(key, str) or not key:
            raise ValueError(f"key={key} must be the name of a set of weights in the file, such as key=model_ema")
        cfg.key = key
    return key


def itself(net: Normalized) -> bool:
    """Whether the network inside normalises its images by buffers of its own."""
    state = net.model.state_dict()
    return bool(statistics(WeightSet((), (), {}, dict(state)), net.mean.numel()))


def gpu_of(cfg: DictConfig) -> torch.device:
    """The GPU of this process, if there is one and the command does not say CPU."""
    on_cpu = "cpu" in (cfg.get("device"), (cfg.get("trainer") or {}).get("accelerator"))
    if on_cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    own = os.environ.get("LOCAL_RANK", os.environ.get(GPU))
    return torch.device("cuda", torch.cuda.current_device() if own is None else int(own))


@torch.no_grad()
def answers(net: nn.Module, images: Images, data: DataModule, device: torch.device) -> Tensor:
    """Whether the network, in eval mode on this device, is right about each image: (n,). It stays on the CPU and as it was."""
    training, found = net.training, []
    checked = Checked(net, data.num_classes).to(device).eval()
    try:
        for pixels in images.pixels[:].split(data.eval_batch_size):
            found.append(checked(as_float(pixels.to(device))).argmax(1).cpu())
    except ValueError:
        raise
    except torch.OutOfMemoryError as error:
        raise ValueError("out of memory: set a smaller data.eval_batch_size") from error
    except Exception as error:  # whatever its layers raise
        shape, reason = tuple(images.pixels.shape[1:]), first_line(error)
        raise ValueError(f"the network does not accept images of shape {shape}: {reason}") from error
    finally:
        net.to("cpu").train(training)
    return torch.cat(found) == images.targets


def sample(data: DataModule) -> Images:
    """The validation images that decide: IMAGES, or all where there are fewer, as equally of each class as there are."""
    targets = data.val.targets
    return data.val.subset(stratified(targets, evenly(min(IMAGES, len(targets)), targets.bincount())))


def _decide(
    net: Normalized, cfg: DictConfig, data: DataModule, images: Images
) -> tuple[Normalisation, Tensor, str, dict[str, float]]:
    """The candidate of highest clean accuracy, which `net` then has; the data set's own where two are equal."""
    candidates = _candidates(cfg, data)
    correct = {}
    for name, candidate in candidates.items():
        set_normalisation(net, candidate)
        correct[name] = answers(net, images, data, gpu_of(cfg))
    best = max(candidates, key=lambda name: (int(correct[name].sum()), name == _own(cfg)))
    set_normalisation(net, candidates[best])
    accuracies = {name: float(right.double().mean()) for name, right in correct.items()}
    line = f"normalisation: {', '.join(f'{name} {100 * value:.1f} %' for name, value in accuracies.items())}: {best} is used"
    if close := [name for name in candidates if name != best and _close(correct[best], correct[name])]:
        line += f", but {' or '.join(close)} may be right too: set normalisation= if you know it"
    return candidates[best], correct[best], line, accuracies


def _candidates(cfg: DictConfig, data: DataModule) -> dict[str, Normalisation]:
    """The usual normalisations, each once, by name."""
    suggests: Any = cfg.data.get("suggests") or {}
    found = {"none": NONE}
    if "mean" in suggests and "std" in suggests:
        found[_own(cfg)] = list(suggests.mean), list(suggests.std)
    found |= {"the recipe's": of_model(cfg), "-1 to 1": ([0.5], [0.5])}
    if data.channels == 3:
        found["imagenet's"] = meant("imagenet")
    kept: dict[str, Normalisation] = {}
    for name, (mean, std) in found.items():
        whole = [value * data.channels if len(value) == 1 else value for value in (mean, std)]
        known = [[v * data.channels if len(v) == 1 else v for v in other] for other in kept.values()]
        if whole not in known:
            kept[name] = mean, std
    return kept


def _own(cfg: DictConfig) -> str:
    load = cfg.data.get("load") or {}
    return f"{str(load.get('_target_', 'the data set')).rpartition('.')[2]}'s"


def _close(best: Tensor, other: Tensor) -> bool:
    """Whether another candidate is not behind by twice the standard error of the difference on the same images."""
    ahead, behind = int((best & ~other).sum()), int((other & ~best).sum())
    return ahead - behind <= 2 * sqrt(ahead + behind)


def _near_chance(correct: Tensor, targets: Tensor) -> str | None:
    if not near_chance(correct, targets):
        return None
    chance, accuracy = float(targets.bincount().max()) / len(targets), float(correct.double().mean())
    return (
        f"the clean accuracy on {len(targets)} validation images is {100 * accuracy:.1f} %, near chance "
        f"({100 * chance:.1f} %): the file may be of another architecture (in a part without weights), normalisation, order of "
        f"labels or order of colour channels"
    )


def _words(normalisation: Sequence[Sequence[float]]) -> str:
    mean, std = (",".join(f"{value:.6g}" for value in values) for values in normalisation)
    return f"mean [{mean}], std [{std}]"


def classes_differ(name: str, path: Any, classes: Sequence[str]) -> list[str]:
    """A line where the run at `path`, the value of `name`, calls its classes otherwise than the data: they are taken in order.

    ValueError where a class of both is not at the same place: answers would count for another class.
    """
    run = run_folder(path)
    own = None if run is None else read_classes(run)
    if own is None or len(own) != len(classes) or own == list(classes):
        return []
    here, there = (listed(names, SHOWN) for names in (classes, own))
    if moved := [which for k, which in enumerate(own) if which in classes and classes[k] != which]:
        raise ValueError(
            f"{name}={path} has the classes {there} and the data have {here}: {moved[0]} is at another place, so that answers"
            " would count for another class; bring the classes of the data into the order of the run"
        )
    return [f"{name}: the network's classes are called {there}, those of the data {here}: they are taken in this order"]
