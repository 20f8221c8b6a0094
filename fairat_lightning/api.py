"""The package from Python: `import fairat_lightning as fl`, then fl.load_run, fl.benchmark, fl.compare and the others below.

Wrong input raises a ValueError whose message is one line.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fairat_lightning.commands.errors import (  # with it the process's environment is set, before torch is imported
    behind,
    reworded,
)
from fairat_lightning.commands.one_run import prepared
from fairat_lightning.config.compose import WRONG_INPUT, compose_classifier, compose_training, plain, resolved
from fairat_lightning.config.home import expanded
from fairat_lightning.config.targets import allowed, check_targets
from fairat_lightning.config.words import with_config_dir

# isort: split
import torch
from omegaconf import OmegaConf
from torch import nn

from fairat_lightning import report
from fairat_lightning.config import from_python
from fairat_lightning.config.normalisation import meant
from fairat_lightning.data import DataModule
from fairat_lightning.data.foreign import read_images
from fairat_lightning.evaluation import benchmark as judging
from fairat_lightning.evaluation.devices import device_of
from fairat_lightning.evaluation.result import Result
from fairat_lightning.methods.base import Method
from fairat_lightning.models import Normalized
from fairat_lightning.models.logits import Place, Width, picking
from fairat_lightning.record.secrets import redacted
from fairat_lightning.report.terminal import Comparison
from fairat_lightning.running.errors import explain
from fairat_lightning.running.terminal import quieten
from fairat_lightning.settings import class_names, number, whole
from fairat_lightning.training import run as training

P = ParamSpec("P")
R = TypeVar("R")
Judged = Result | str | Path
# The settings of evaluate that `benchmark` takes.
OF_BENCHMARK = ("suite", "attack", "seed", "batch_size", "device", "allow", "hydra")


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except WRONG_INPUT as error:
        raise ValueError(reworded(str(behind(error)))) from error


def _in_one_line(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def wrapped(*args: P.args, **rest: P.kwargs) -> R:
        with _one_line():
            return function(*args, **rest)

    return wrapped


load_run = _in_one_line(from_python.load_run)
load_data = _in_one_line(from_python.load_data)


def benchmark(
    net: nn.Module,
    data: Any,
    *,
    eps: float | str,
    norm: str = "linf",
    suite: str = "quick",
    classes: int | Sequence[str] | None = None,
    device: str = "auto",
    normalisation: str | tuple[Sequence[float], Sequence[float]] | None = None,
    logits: int | str | Callable[[Any], Any] | None = None,
    batch_size: int = 250,
    overrides: Sequence[str] = (),
) -> Result:
    """Evaluate any network, class by class, under attacks within `eps` (8/255 or "8/255", in units of images in [0,1]).

    `data`: a DataLoader, a data set, a pair (images, labels) of arrays, tensors or lists, rows that are dicts, or a `DataModule`;
    images uint8 or in [0,1]. `suite`: "quick", "standard", "apgd" or "autoattack". `classes`: their names, by default the data's.
    `normalisation`: what the network expects to be done to such images, "cifar10" or any other data set's name, or (mean, std);
    None: nothing. `logits`: where they are in what the network returns, an index, a key or a function; "logits" and index 0 are
    found without it. `overrides` are settings of `python -m fairat_lightning.evaluate`, such as "suite.other_eps=0.5", but for
    those that choose images: these are what `data` holds. The network is not changed.
    """
    quieten()
    with _one_line():
        _network(net)
        pixels, labels, names = data.whole_test() if isinstance(data, DataModule) else read_images(data)
        if pixels.dtype == torch.uint8 and not isinstance(data, DataModule):
            print("The images are bytes from 0 to 255, and are divided by 255.", flush=True)
        overrides = _words("benchmark", overrides)
        words = [f"suite={suite}", f"attack.norm={norm}", f"attack.eps={number('eps', eps)}", f"batch_size={batch_size}"]
        words += [] if suite != "standard" or any("other_eps" in word for word in overrides) else ["suite.other_eps=null"]
        if other := next((word for word in overrides if re.split(r"[.=]", word.lstrip("+~"))[0] not in OF_BENCHMARK), None):
            raise ValueError(f"benchmark has no setting {other}: it takes {', '.join(OF_BENCHMARK)}; data holds the images")
        cfg = compose_classifier("evaluate", [*words, f"device={device}", *overrides], check=None)
        whole("batch_size", cfg.batch_size)
        place = device_of(cfg)
        own = classes if classes is not None else names
        named = None if own is None else class_names(own)
        typed = judging.InTypeOf(net)
        model = nn.Sequential(_normalise(normalisation, pixels.shape[1]), typed) if normalisation is not None else typed
        pick, handle = picking(net, logits, None if named is None else len(named))
        try:
            width = judging.width_of(model, pixels, place)
            if pick.found is not None and logits is None:
                where = f"those at {pick.found} are used; logits= changes this"
                print(f"The network returns more than its logits: {where}.", flush=True)
            named = [f"class_{k}" for k in range(width)] if named is None else named
            if len(named) != width or int(labels.max()) >= width or int(labels.min()) < 0:
                labelled = f"labels from {int(labels.min())} to {int(labels.max())}"
                given = f"{len(named)} classes" if len(named) != width else labelled
                raise ValueError(
                    f"the network has {width} logits, but the data has {given}: give a network and classes= that fit the data"
                )
            return judging.benchmark(cfg, model, pixels, labels, named, place)
        finally:
            handle.remove()


def compare(a: Judged, b: Judged) -> Comparison:
    """`b` minus `a`, each a `Result` or the folder of a run or evaluation: a paired test where both have the same images."""
    with _one_line(), _folders({"a": a, "b": b}) as words:
        found = report.gather(words)
        return Comparison(found, report.rows(found))


def write_report(results: Mapping[str, Judged | Sequence[Judged]], folder: str | Path) -> Path:
    """Write tables, figures and index.html into `folder`. `results` maps a label to a result or to a list of them, one a seed."""
    with _one_line(), _folders(results) as words:
        found = report.gather(words)
        report.publish(found, report.rows(found), Path(folder).expanduser())
    return Path(folder).expanduser()


def train(overrides: Sequence[str]) -> Result:
    """Train by the same overrides as on the command line: train(["method=faal", "data=cifar10"]). A finished run is only read.

    `.folder` is the run's. Errors that end the command with an exit code are raised here: ValueError for wrong input.
    """
    with _one_line():
        words = _words("train", overrides)
        cfg, folder = compose_training(words)
        command = f"fairat_lightning.train({[redacted(word) for word in overrides]})"
        job = prepared(cfg, folder, words, command)
    if job is not None:
        try:
            training.execute(job)
        except Exception as error:
            if (line := explain(error, cfg, training=not job.fitted)) is None:
                raise
            raise RuntimeError(line) from error
    return Result.read(folder)


def method(
    name: str,
    net: nn.Module,
    *,
    classes: int | Sequence[str],
    eps: float | str,
    num_samples: int = 0,
    teacher: nn.Module | None = None,
    logits: Place = None,
    overrides: Sequence[str] = (),
) -> Method:
    """A method as a `LightningModule` for a `Trainer` of your own: method("faal", net, classes=10, eps="8/255").

    `net` maps images (B,C,H,W) in [0,1] to logits; `logits` says where these are in what it returns, see `benchmark`. Batches are
    (x, y, index), see `fairat_lightning.data.Indexed`. All other values come from `conf/`, as for the command;
    `overrides` change them: ["method.radius=1", "optim.lr=0.01"]. `teacher` is for methods that distil: a network, or in
    `overrides` a run, "method.teacher=RUN". CFA and FAIR-TAT come with an average of the weights, which belongs to a whole
    training: "averaging=none". FRL and WAT need a validation loader. FairAT, FLOOR and CSR read the whole training set between
    epochs, and CFOL draws from it: they need a `DataModule` (`load_data`), and FairAT and FLOOR also its size, `num_samples`.
    """
    with _one_line():
        _network(net)
        given = ["method.teacher=given"] if teacher is not None else []
        words = [f"method={name}", f"attack.eps={number('eps', eps)}", "init_from=given", *given, *_words("method", overrides)]
        cfg = OmegaConf.create(resolved(compose_training(words, say=False)[0]))
        check_targets(plain(cfg), allowed(cfg))
        if taken := next((group for group in ("averaging", "head") if cfg.get(group)), None):
            raise ValueError(f"method builds no {taken}=, which belongs to a whole training: set {taken}=none, or use fl.train")
        names = class_names(classes)
        if teacher is None and "teacher" in cfg.method:
            teacher = from_python.teacher(cfg, None if isinstance(classes, int) else names)
        passed = {"teacher": teacher} if teacher is not None else {}
        with ExitStack() as undo:
            undo.callback(picking(net, logits, len(names))[1].remove)
            undo.callback(net.register_forward_hook(Width(len(names))).remove)
            built = training.build_method(cfg, net, names, num_samples, **passed)
            undo.pop_all()  # nothing was refused: the hooks stay
        return built


def _network(net: Any) -> None:
    if not isinstance(net, nn.Module):
        raise ValueError(f"net is of type {type(net).__name__}: give a torch.nn.Module")


def _words(function: str, overrides: Sequence[str]) -> list[str]:
    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        raise ValueError(f'{function}: overrides must be a list of settings, such as ["optim.lr=0.01"]')
    return with_config_dir(expanded(overrides))


def _normalise(normalisation: Any, channels: int) -> nn.Module:
    return Normalized(nn.Identity(), *meant(normalisation), in_channels=channels)


@contextmanager
def _folders(results: Mapping[str, Any]) -> Iterator[list[str]]:
    """Each result as LABEL=FOLDER, in a folder of its own where it has none yet."""
    if not isinstance(results, Mapping) or not results:
        raise ValueError("results must be a dictionary from labels to a result or a list of results: {'mine': result}")
    with tempfile.TemporaryDirectory() as place:
        words: list[str] = []
        if len({str(label) for label in results}) < len(results):
            raise ValueError("two labels of the results read the same: give each row a name of its own")
        for label, given in results.items():
            if not str(label).strip():
                raise ValueError("a label of the results is empty: give each result a name")
            if isinstance(given, list | tuple) and not given:
                raise ValueError(f"{label} has no results: its list is empty")
            for one in given if isinstance(given, list | tuple) else [given]:
                if not isinstance(one, Result | str | Path):
                    raise ValueError(f"{label} is of type {type(one).__name__}: give a result or the folder of one")
                folder = one if isinstance(one, str | Path) else one.folder or one.save(Path(place) / str(len(words)))
                words.append(f"{label}={folder}")
        yield words
