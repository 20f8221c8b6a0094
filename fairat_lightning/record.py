"""The run's folder: its name, its files, and the callbacks that keep its history.

config.yaml      the resolved configuration          metrics.json   the test, one `metrics.summary` per attack
history.csv      one row an epoch                    run.json       command, versions, seed, hardware, git revision
classes.png      class-wise accuracy                 checkpoints/   best.ckpt, last.ckpt
"""

import csv
import io
import json
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from fairat_lightning import __version__

FILES = (
    *("config.yaml", "metrics.json", "run.json", "samples.jsonl", "history.csv", "classes.png", "hardest.npz"),
    *("checkpoints", "evaluation", "tensorboard", "wandb"),
)
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


def environment(seed: int, module: str = "fairat_lightning") -> dict[str, Any]:
    """What a reader needs to repeat the run: command, versions, seed, hardware, git revision and start time."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "seed": seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "versions": {"fairat_lightning": __version__, **{name: version(name) for name in PACKAGES}},
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu},
        "git": _git_revision(),
    }


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
            summary["average"], summary["worst"], summary["per_class"].items()
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} is not a run's metrics.json") from None
    assert isinstance(metrics, dict)
    return metrics


def is_finished(folder: Path, config: dict[str, Any]) -> bool:
    """Whether `folder` holds this very run, finished. ValueError if it holds a run of another configuration."""
    if not any((folder / name).exists() for name in FILES):
        return False
    try:
        other = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        other = None
    if other != yaml.safe_load(yaml.safe_dump(config)):
        raise ValueError(f"{folder} holds a run of another configuration: choose another hydra.run.dir, or overwrite=true")
    return read_metrics(folder) is not None


def open_folder(folder: Path, config: dict[str, Any], resume: Path | None) -> None:
    """Begin a record: remove what an earlier run left unless it is resumed; write the configuration and the environment."""
    folder.mkdir(parents=True, exist_ok=True)
    if resume is None:
        for name in FILES:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    run = environment(config["seed"])
    if resume is not None and (folder / "run.json").exists():
        before = read_facts(folder)
        run = {**before, "resumed": [*before.get("resumed", []), run]}
    write_json(folder / "run.json", run)


def resumable(folder: Path) -> Path | None:
    """The checkpoint that an unfinished run goes on from, if there is one. ValueError if it cannot be read."""
    last, best = (folder / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    if not (last.exists() and best.exists()):
        return None
    for path in (last, best):
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{path} cannot be read: overwrite=true starts the run anew") from error
    return last


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


class EpochSeed(Callback):
    """Seed the generators at the start of each epoch from (seed, epoch, process), so that a resumed run goes on exactly."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.manual_seed(random.Random(f"{self.seed}/{trainer.current_epoch}/{trainer.global_rank}").getrandbits(63))


class Keep(ModelCheckpoint):
    """A ModelCheckpoint that knows its best score again in a folder that was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class Bar(RichProgressBar):
    """Lightning's progress bar with the names shortened to fit a line; it reads the device every 50 steps."""

    shown: dict[str, Any] = {}

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        if trainer.training and self.shown and trainer.fit_loop.epoch_loop.batch_idx % 50 != 49:
            return self.shown
        metrics = super().get_metrics(trainer, pl_module)
        self.shown = {key.removeprefix("val/").replace("robust_worst", "worst"): value for key, value in metrics.items()}
        return self.shown


class History(Checkpoint):
    """One row an epoch in history.csv, and one line on the terminal. The rows are in the checkpoint.

    Lightning lets only Checkpoint callbacks see what a module logs at its epoch's end, in their order: this one comes first.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.clock, self.work = time.perf_counter(), time.process_time()
        self.rate = float("nan")

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock, self.work = time.perf_counter(), time.process_time()
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]  # at the epoch's end it is the next epoch's

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        seconds, work = time.perf_counter() - self.clock, time.process_time() - self.work
        values = {k: v.item() for k, v in sorted(trainer.callback_metrics.items()) if "/" in k and not k.endswith("_step")}
        clocks = {"seconds": round(seconds, 3), "cpu_seconds": round(work, 3)}
        self.rows.append({"epoch": trainer.current_epoch, **clocks, "lr": self.rate, **values})
        self._write(trainer)

    @rank_zero_only
    def _write(self, trainer: L.Trainer) -> None:
        columns = list(dict.fromkeys(k for row in self.rows for k in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write(self.path, text.getvalue())
        row = self.rows[-1]
        line = (
            f"epoch {row['epoch'] + 1:>3}/{trainer.max_epochs}   loss {row.get('train/loss', float('nan')):6.3f}   "
            f"clean {100 * row.get('val/clean', float('nan')):5.1f}   robust {100 * row.get('val/robust', float('nan')):5.1f}   "
            f"worst class {100 * row.get('val/robust_worst', float('nan')):5.1f}   {row['seconds']:6.1f} s"
        )
        bar = trainer.progress_bar_callback
        print(line, flush=True) if bar is None else bar.print(line)


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
