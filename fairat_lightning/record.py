"""The run's folder and its files.

config.yaml      the resolved configuration          metrics.json   the test, one `metrics.summary` per attack
history.csv      one row an epoch                    run.json       command, versions, seed, hardware, git revision
classes.png      class-wise accuracy                 checkpoints/   best.ckpt, last.ckpt
"""

import csv
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from fairat_lightning import __version__
from fairat_lightning.identity import identity

FILES = (
    *("config.yaml", "metrics.json", "run.json", "samples.jsonl", "history.csv", "classes.png", "hardest.npz"),
    *("checkpoints", "evaluation", "tensorboard", "wandb"),
)
PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step"}  # of a checkpoint
SECRET = r"\w*(?:api_?key|access_?key|auth|token|passw\w+|secret|credential)s?"
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


def environment(seed: int, module: str = "fairat_lightning") -> dict[str, Any]:
    """What a reader needs to repeat the run: command, versions, seed, hardware, git revision and start time."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": shlex.join(["python", "-m", module, *map(redacted, sys.argv[1:])]),
        "seed": seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "versions": {"fairat_lightning": __version__, **{name: version(name) for name in PACKAGES}},
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu},
        "git": _git_revision(),
    }


def redacted(text: str) -> str:
    """A word of a command without what follows a key such as api_key= or token=, and an address without its credentials."""
    text = re.sub(r"//[^\s'\"]*@", "//***@", text)
    if found := re.match(rf"(?i)([+~]*[\w./@]*(?:{SECRET})[\w.]*=).", text):
        return f"{found[1]}***"
    return re.sub(rf"(?i)([\w.]*(?:{SECRET})[\w.]*['\"]?[=:]\s*)[^\s,}}\]]+", r"\1***", text)


def refuse_secrets(node: Any) -> None:
    """ValueError for a key that sounds like a secret anywhere in a configuration, which is written down."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if value is not None and re.search(rf"(?i)^({SECRET})$", str(key)):
            raise ValueError(f"{key} does not belong in a configuration, which every record holds: give it in the environment")
        refuse_secrets(value)


def write(path: Path, text: str) -> None:
    """Write atomically: a reader sees the old file or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The metrics of a finished run, or None; ValueError if the file cannot be read."""
    path = folder / "metrics.json"
    if not path.exists():
        return None
    try:
        metrics = json.loads(path.read_text())
        if not metrics:
            raise ValueError("empty")
        for summary in metrics.values():
            _ = summary["worst_class"], summary["average"] + summary["worst"]
            classes = [value for value in summary["per_class"].values() if value is not None]
            if not all(isinstance(value, int | float) for value in classes):
                raise TypeError(classes)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} is not a run's metrics.json") from None
    assert isinstance(metrics, dict)
    return metrics


def is_finished(folder: Path, config: dict[str, Any]) -> bool:
    """Whether `folder` holds this very run, finished. ValueError if it holds a run of another configuration.

    An unfinished run may go on with another number of processes: a batch is of all of them together.
    """
    if not any((folder / name).exists() for name in FILES):
        return False
    try:
        other = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        other = None
    if not isinstance(other, dict):
        raise ValueError(f"{folder / 'config.yaml'} is missing or damaged: choose another hydra.run.dir, or overwrite=true")
    mine, finished = yaml.safe_load(yaml.safe_dump(config)), read_metrics(folder) is not None
    if identity(other, processes=finished) != identity(mine, processes=finished):
        raise ValueError(f"{folder} holds a run of another configuration: choose another hydra.run.dir, or overwrite=true")
    return finished


def evaluation_name(name: str | None, suite: str, checkpoint: Path | None, split: str) -> str:
    """The name of an evaluation's folder: that which was given, or the suite's; `checkpoint` is of a run."""
    if name not in (None, suite):
        return str(name)
    other = checkpoint is not None and checkpoint.suffix and checkpoint.name != "best.ckpt"
    return suite + (f"-{checkpoint.stem}" if other and checkpoint else "") + (f"-{split}" if split != "test" else "")


def open_folder(folder: Path, config: dict[str, Any], resume: Path | None, **facts: Any) -> None:
    """Begin a record: remove what an earlier run left unless it is resumed; write the configuration, the environment, `facts`."""
    folder.mkdir(parents=True, exist_ok=True)
    if resume is None:
        for name in FILES[1:]:  # the configuration says whose the rest is, until its place is taken
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    run = environment(config["seed"]) | facts
    if resume is not None and (folder / "run.json").exists():
        before = read_facts(folder)
        run = {**before, "resumed": [*before.get("resumed", []), run]}
    write_json(folder / "run.json", run)


def check_resumable(folder: Path, path: Path, state: Mapping[str, Any], first_best: int = 1) -> None:
    """ValueError unless all is there and whole that a run of this `state` dict goes on from: `path`, best.ckpt, its records.

    `first_best`: after how many epochs there is a best.ckpt.
    """
    best, content = folder / "checkpoints" / "best.ckpt", load_checkpoint(path)
    # Epochs that have passed; one is taken as passed where the file is none of ours, which the loop below says.
    begun = content["within"]["position"][0] if "within" in content else content.get("epoch", 0) + 1
    for place in [path, *([best] if begun >= first_best or best.exists() else [])]:
        if not place.exists():
            raise ValueError(f"{place} is missing: overwrite=true starts the run anew")
        content = load_checkpoint(place)
        if not content.keys() >= PARTS or _shapes(content["state_dict"]) != _shapes(state):
            raise ValueError(f"{place} does not hold this run's network: overwrite=true starts the run anew")
    if (folder / "run.json").exists():
        read_facts(folder)
    if begun:
        try:
            trained_seconds(folder)
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            raise ValueError(f"{folder / 'history.csv'} is missing or damaged: overwrite=true starts the run anew") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint of ours holds; ValueError if it is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what is no checkpoint makes torch raise UnpicklingError, RuntimeError, AttributeError, ...
        raise ValueError(f"{path} is no checkpoint of a run: overwrite=true starts the run anew") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no checkpoint of a run: overwrite=true starts the run anew")
    return content


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.shape for name, value in state.items() if name.startswith("net.")}


def trained_seconds(folder: Path) -> dict[str, float]:
    """Seconds of all epochs of the run, validation included, over all its sessions: of the clock, and of the processors."""
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = {"train": "seconds", "train_cpu": "cpu_seconds"}
    return {name: round(sum(float(row[key]) for row in rows), 1) for name, key in names.items()}


def peak_memory() -> dict[str, float]:
    """The most that this process has held, in GB: of main memory, and of the GPU's by torch."""
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    if torch.cuda.is_available():
        peak["gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return {name: round(value, 3) for name, value in peak.items()}


def read_facts(folder: Path) -> dict[str, Any]:
    """run.json; ValueError if it cannot be read."""
    try:
        facts = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        facts = None
    if not isinstance(facts, dict):
        raise ValueError(f"{folder / 'run.json'} is missing or damaged: overwrite=true runs it anew")
    return facts


def close_folder(folder: Path, metrics: Mapping[str, Any], **facts: Any) -> None:
    """Finish a record: what the run has found out about itself, then the metrics, whose presence says that it is finished."""
    write_json(folder / "run.json", {**read_facts(folder), **facts})
    write_json(folder / "metrics.json", metrics)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    """The revision of the checkout the package runs from, "+dirty" if tracked files differ; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):
            return None
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
