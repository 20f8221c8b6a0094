"""The run's folder and its files: what begins and what finishes a record.

config.yaml      the resolved configuration          metrics.json   the test, one `metrics.summary` per attack
history.csv      one row an epoch                    run.json       command, versions, seed, hardware, git revision
samples.jsonl    the verdict on every test image     classes.png    class-wise accuracy
checkpoints/     best.ckpt, last.ckpt                evaluation/    later evaluations, a folder of such files each
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fairat_lightning.record.atomic_write import write, write_json
from fairat_lightning.record.environment import environment
from fairat_lightning.record.identity import identity
from fairat_lightning.record.reader import read_config, read_facts, read_metrics

FILES = (
    *("config.yaml", "metrics.json", "run.json", "samples.jsonl", "history.csv", "classes.png", "hardest.npz"),
    *("checkpoints", "evaluation", "tensorboard", "wandb"),
)


def is_finished(folder: Path, config: dict[str, Any]) -> bool:
    """Whether `folder` holds this very run, finished. ValueError if it holds a run of another configuration.

    An unfinished run may go on with another number of processes: a batch is of all of them together.
    """
    if not any((folder / name).exists() for name in FILES):
        return False
    try:
        other = read_config(folder)
    except ValueError:
        other = None
    if other is None:
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


def close_folder(folder: Path, metrics: Mapping[str, Any], **facts: Any) -> None:
    """Finish a record: what the run has found out about itself, then the metrics, whose presence says that it is finished."""
    write_json(folder / "run.json", {**read_facts(folder), **facts})
    write_json(folder / "metrics.json", metrics)
