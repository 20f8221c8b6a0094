"""How long a table takes on this machine: counted in gradients of one image, and timed by a few of them.

A gradient is a forward and a backward pass; a forward pass alone is a third of one. What an attack leaves for the next is not
known before: the shares here are those of a robust network of 60 % clean and 35 % robust accuracy, and the result is "about".
"""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf

from fairat_lightning.commands.tables.recipes import Job, Plan, Words, finished, folder_of_evaluation
from fairat_lightning.config.build import build_part, network
from fairat_lightning.config.compose import resolved
from fairat_lightning.data import DataModule, as_float
from fairat_lightning.data.sets import downloads
from fairat_lightning.running.machine import threads, threads_for
from fairat_lightning.settings import whole

FORWARD = 1 / 3
RIGHT, LEFT = 0.6, 0.35  # shares of images that are right before an attack, and after APGD-CE
TIMED = 64  # images
EMBEDDED = ("digits", "synthetic", "folder")  # sets that are never downloaded
Task = tuple[str, Job]  # "train" or "judge"


class Clock:
    """Says what a plan takes before it begins, and before each of its parts what is left, by what those before have taken."""

    def __init__(self, plan: Plan, jobs: Mapping[Job, DictConfig]):
        self.expected: dict[Task, float] = {}  # seconds of what is not finished
        self.spent = self.estimated = 0.0  # seconds of what this command has done: really, and as expected
        sets: dict[str, DataModule] = {}
        paces: dict[str, float] = {}
        full = plan.budget.get("only_weakest") or (plan.budget.get("weakest") or 0) + 2  # the rows' weakest are not all the same
        for job, composed in jobs.items():
            done, cfg = finished(job), OmegaConf.create(resolved(composed))
            words = plan.evaluations(job, cfg.select, ["?"])
            there = job.folder / "evaluation"
            words = [own for own in words if not (done and (there / folder_of_evaluation(own) / "metrics.json").is_file())]
            if done and not words:
                continue
            build_part(cfg, "attack")  # a wrong value of it is named before hours of training
            data = _data(cfg, sets)
            kind = str((cfg.model, cfg.trainer.precision, data.num_classes))
            if kind not in paces:
                paces[kind] = seconds_each(cfg, data)
            self.expected["train", job] = 0.0 if done else paces[kind] * training(cfg, data)
            self.expected["judge", job] = paces[kind] * sum(evaluation(own, data, full) for own in words)

    def announce(self) -> None:
        if self.expected:
            cores = torch.get_num_threads()
            where = f"{cores} core{'s' if cores > 1 else ''}" if not torch.cuda.is_available() else torch.cuda.get_device_name()
            print(
                f"This takes {spoken(sum(self.expected.values()))} on {where}, estimated from a first training step.", flush=True
            )

    def left(self, tasks: Collection[Task], elsewhere: int) -> str:
        """What is left of the plan, and how much of it other processes are at."""
        pace = self.spent / self.estimated if self.estimated else 1.0
        there = f"{elsewhere} running in another process, " if elsewhere else ""
        return f"{there}{spoken(pace * sum(self.expected.get(task, 0.0) for task in tasks))} left"

    @contextmanager
    def timing(self, task: Task) -> Iterator[None]:
        """Learn from how long a part really takes."""
        began = time.perf_counter()
        yield
        took, expected = time.perf_counter() - began, self.expected.get(task, 0.0)
        if took > expected / 20:  # else another process had done it
            self.spent, self.estimated = self.spent + took, self.estimated + expected


def training(cfg: DictConfig, data: DataModule) -> float:
    """Gradients of a run: its steps, its validations by PGD-10, its test by PGD-20 and CW-20."""
    for key, value in (("trainer.max_epochs", cfg.trainer.max_epochs), ("val_every", cfg.val_every)):
        whole(key, value)
    whole("attack.steps", cfg.attack.steps, least=0)
    epochs = cfg.trainer.max_epochs
    pair = not cfg.objective._target_.endswith(".AT")  # TRADES and MART look at the clean image too
    step = cfg.attack.steps + 1 + pair + (1 + pair if cfg.get("awp") else 0)
    scored = FORWARD if cfg.method.get("hard_fraction", 0) != 0 else 0.0  # FairAT and FLOOR look for hard examples
    validations = -(-epochs // cfg.val_every)
    return float(epochs * data.num_train * (step + scored) + validations * len(data.monitor) * 11 + len(data.test) * 41)


def evaluation(words: Words, data: DataModule, full: int) -> float:
    """Gradients of an evaluation by its settings; of `full` classes more images are evaluated, or theirs alone."""
    given = dict(word.split("=", 1) for word in words)
    each = len(getattr(data, given.get("split", "test"))) / data.num_classes
    sample, most = (min(float(given.get(key, each)), each) for key in ("samples_per_class", "samples_in_full"))
    images = each * full if "classes" in given else sample * data.num_classes
    images += max(0.0, most - sample) * full if "in_full" in given else 0.0
    if given["suite"] not in ("apgd", "autoattack"):
        return images * 42
    steps, queries = int(given.get("suite.steps", 100)), int(given.get("suite.queries", 5000))
    targets = min(int(given.get("suite.targets", 9)), data.num_classes - 1)
    cost = FORWARD + steps * (RIGHT + LEFT * targets)
    whole = LEFT * FORWARD * (4 * steps * targets + queries)  # FAB-T and Square
    return images * (cost + whole if given["suite"] == "autoattack" else cost)


def seconds_each(cfg: DictConfig, data: DataModule) -> float:
    """Seconds of one image's gradient, in the run's own precision and on its device."""
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")
    net, pixels = network(cfg, data).to(device).train(), data.train.pixels[: data.batch_size]
    x, y = as_float(pixels[:TIMED]).to(device), data.train.targets[: len(pixels)][:TIMED].to(device)
    took = []
    number = threads_for(net, pixels) if device.type == "cpu" else torch.get_num_threads()
    with threads(number):
        for _ in range(6):  # the quickest: the first one warms up, and another job may be in the way
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=str(cfg.trainer.precision).startswith("bf16")):
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            loss.item()  # waits for the device
            took.append(time.perf_counter() - began)
    return min(took) / len(x)


def spoken(seconds: float) -> str:
    """A duration as people say it: "about 14 h", "about 20 min", "a minute or less"."""
    if seconds < 90:
        return "a minute or less"
    return f"about {seconds / 3600:.0f} h" if seconds > 5400 else f"about {seconds / 60:.0f} min"


def _data(cfg: DictConfig, sets: dict[str, DataModule]) -> DataModule:
    """The data module of a run, read once for all runs that differ in the seed alone."""
    name = str({key: value for key, value in cfg.data.items() if key != "seed"})
    if name not in sets:
        if not sets and cfg.data.root is None and cfg.data.load._target_.rpartition(".")[2] not in EMBEDDED:
            print(
                f"data.root is not set: the data set is looked for in {downloads()}, and downloaded if it is not there; "
                "data.root=FOLDER names another folder.",
                flush=True,
            )
        sets[name] = build_part(cfg, "data")
        sets[name].prepare()
    return sets[name]
