"""The run's folder and its files: what begins and what finishes a record.

config.yaml      the resolved configuration          metrics.json   the test, one `metrics.summary` per attack
history.csv      one row an epoch                    run.json       command, versions, seed, hardware, git revision
samples.jsonl    the verdict on every test image     classes.png    class-wise accuracy
checkpoints/     best.ckpt, last.ckpt                evaluation/    later evaluations, a folder of such files each
"""

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from fairat_lightning.record import BEST, journal
from fairat_lightning.record.atomic_write import write, write_json
from fairat_lightning.record.environment import environment, hardware
from fairat_lightning.record.identity import checked, differences, identity, in_words, of_all_epochs
from fairat_lightning.record.journal import Journal
from fairat_lightning.record.reader import read_config, read_facts, read_metrics

FILES = (
    *("config.yaml", "metrics.json", "run.json", "samples.jsonl", "history.csv", "classes.png", "hardest.npz"),
    *("checkpoints", "evaluation", "tensorboard", "wandb"),
)
OF_A_RUN = {"method", "trainer", "attack"}  # keys of a run's configuration


def is_finished(folder: Path, config: dict[str, Any], *, overwrite: bool = False) -> bool:
    """Whether `folder` holds this very run, finished. ValueError if it holds a run of another configuration.

    With `overwrite` it is False, and ValueError alone if the folder holds files under a run's names that are of no run.

    A run is the same on another device and with another number of processes, since a batch is of all of them together; and with
    more epochs it continues, where its schedule does not depend on how many there are.
    """
    present = [name for name in FILES if (folder / name).exists()]
    if not present:
        return False
    try:
        other = read_config(folder)
    except ValueError:
        other = None
    if not (other or {}).keys() >= OF_A_RUN and ("suite" in (other or {}) or not _is_run(folder)):
        raise ValueError(f"{folder} holds {present[0]}, which is of no run of this package: choose another hydra.run.dir")
    if overwrite:
        return False
    if other is None:
        raise ValueError(f"{folder / 'config.yaml'} is missing or damaged: choose another hydra.run.dir, or set overwrite=true")
    mine, finished = yaml.safe_load(yaml.safe_dump(config)), read_metrics(folder) is not None
    theirs, ours = (identity(config, machine=False) for config in (other, mine))
    if theirs == ours:
        return finished
    if _longer(folder, theirs, ours):
        return False
    same = f"to continue it: {command}; " if (command := _command(folder)) else ""
    raise ValueError(
        f"{folder} holds a run of another configuration: {in_words(differences(theirs, ours))}; {same}"
        f"for a new run choose another hydra.run.dir, or set overwrite=true to replace it"
    )


def _is_run(folder: Path) -> bool:
    """Whether the folder has the facts of a run, where its configuration says neither that nor that it is an evaluation's."""
    try:
        facts = read_facts(folder, {})
        return "fairat_lightning" in (facts.get("versions") or {}) and "suite" not in facts
    except ValueError:
        return False


def _longer(folder: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether `ours` is the run of `folder` with more epochs. ValueError where it is, and its schedule forbids it."""
    before, after = ((config.get("trainer") or {}).get("max_epochs") for config in (theirs, ours))
    if not isinstance(before, int) or not isinstance(after, int) or after <= before:
        return False
    if {**theirs, "trainer": {**theirs["trainer"], "max_epochs": after}} != ours:
        return False
    every = theirs.get("val_every") or 1
    if before % every:
        raise ValueError(
            f"{folder} holds this run with trainer.max_epochs={before}, which cannot be made longer: its last epoch was"
            f" validated, and in a longer run with val_every={every} it would not have been; start a new run from it, with"
            f" init_from={folder} and another hydra.run.dir"
        )
    if (reason := of_all_epochs(theirs)) is not None:
        raise ValueError(
            f"{folder} holds this run with trainer.max_epochs={before}, which cannot be made longer, because {reason} depends on "
            f"the number of epochs (schedule=constant does not): start a new run from it, with init_from={folder} "
            f"and another hydra.run.dir"
        )
    return True


def shorter(folder: Path, config: dict[str, Any]) -> Path | None:
    """A run beside `folder`, which holds none, that `config` would make longer; None where there is none."""
    if of_all_epochs(config) is not None:
        return None
    ours = identity(yaml.safe_load(yaml.safe_dump(config)), machine=False)
    for place in _beside(folder):
        with suppress(ValueError, OSError):
            if (other := read_config(place)) is not None and _longer(place, identity(other, machine=False), ours):
                return place
    return None


def _beside(folder: Path) -> list[Path]:
    """The runs beside `folder`, which holds none, whose names differ in the digest alone."""
    with suppress(OSError):  # a name that is too long is refused where the folder is made
        if not (folder / "config.yaml").exists():
            return sorted(folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*"))
    return []


def same_elsewhere(folder: Path, config: dict[str, Any]) -> Path | None:
    """The run of `config` beside `folder` that 0.2 named after another data.root; None where there is none."""
    ours = identity(yaml.safe_load(yaml.safe_dump(config)))
    for place in _beside(folder) if checked(config["data"]) else ():
        with suppress(ValueError, OSError):
            if (other := read_config(place)) is not None and identity(other) == ours:
                return place
    return None


def _command(folder: Path) -> str:
    try:
        facts = read_facts(folder, {})
        return str((facts.get("resumed") or [facts])[-1].get("command", ""))
    except ValueError:
        return ""


def evaluation_name(name: str | None, suite: str, checkpoint: Path | None, split: str) -> str:
    """The name of an evaluation's folder: that which was given, or the suite's; `checkpoint` is of a run."""
    if name not in (None, suite):
        return str(name)
    other = checkpoint is not None and checkpoint.suffix and checkpoint.name != BEST
    return suite + (f"-{checkpoint.stem}" if other and checkpoint else "") + (f"-{split}" if split != "test" else "")


def open_folder(folder: Path, config: dict[str, Any], resume: Path | None, **facts: Any) -> None:
    """Begin a record: remove what an earlier run left unless it is resumed; write the configuration, the environment, `facts`."""
    folder.mkdir(parents=True, exist_ok=True)
    if resume is None:
        _clear(folder, FILES[1:])  # the configuration says whose the rest is, until its place is taken
    (folder / "metrics.json").unlink(missing_ok=True)  # of a run that is being made longer
    write(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    run = environment(config["seed"]) | facts
    if resume is not None and (folder / "run.json").exists():
        before = read_facts(folder)
        run = {**before, "resumed": [*before.get("resumed", []), run]}
    write_json(folder / "run.json", run)


def elsewhere(folder: Path, processes: int) -> bool:
    """Whether a run began, or last continued, with another device, processor or number of processes than now."""
    facts = read_facts(folder, {})
    session = (facts.get("resumed") or [facts])[-1]
    last, here = session.get("hardware") or {}, hardware()
    others = session.get("processes", processes) != processes
    return others or any(last.get(part, here[part]) != here[part] for part in ("cpu", "gpu"))


def close_folder(folder: Path, metrics: Mapping[str, Any], **facts: Any) -> None:
    """Finish a record: what the run has found out about itself, then the metrics, whose presence says that it is finished."""
    write_json(folder / "run.json", {**read_facts(folder), **facts})
    write_json(folder / "metrics.json", metrics)


def open_evaluation(folder: Path, config: dict[str, Any], header: dict[str, Any], *, overwrite: bool, **facts: Any) -> Journal:
    """Begin the record of an evaluation, or continue it: the journal, whose finished batches are kept.

    ValueError where the folder holds another evaluation, or its record is damaged.
    """
    if overwrite:
        shares = (path.name for path in journal.shares_of(folder / journal.NAME))
        _clear(folder, (*FILES[1:], journal.CLAIMS, *shares, FILES[0]))  # the configuration says whose the rest is
    if (folder / "metrics.json").exists() and not (folder / journal.NAME).exists():
        raise ValueError(
            f"{folder} has figures but no {journal.NAME}, from which they come: set overwrite=true to evaluate again"
        )
    opened = Journal(folder / journal.NAME, header)
    opened.merge()
    if opened.batches:
        read_facts(folder)
    else:
        write(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        write_json(folder / "run.json", environment(config["seed"], "fairat_lightning.evaluate") | facts)
    return opened


def _clear(folder: Path, names: Iterable[str]) -> None:
    for path in (folder / name for name in names):
        if path.is_symlink() and path.is_dir():  # to another disk, on which the new files go too
            _clear(path, [inner.name for inner in path.iterdir()])
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
