"""Which checkpoint an unfinished run continues from, and whether all that it needs is there and undamaged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairat_lightning.record import BEST
from fairat_lightning.record.reader import read_facts, trained_seconds
from fairat_lightning.running.checkpoints import FORMAT, LAST, PREVIOUS, intact, load_checkpoint

PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step"}  # of a checkpoint


def resumable(folder: Path) -> Path | None:
    """The checkpoint that an unfinished run continues from: last.ckpt, or the one before if it is damaged. None: from the start.

    Raises ValueError where all of them are damaged, or best.ckpt is, or they are of another version.
    """
    last, previous, best = (folder / "checkpoints" / name for name in (LAST, PREVIOUS, BEST))
    found = [path for path in (last, previous) if path.exists()]
    if not found:
        return None
    path = next((path for path in found if intact(path)), None)
    if path is None or (best.exists() and not intact(best)):
        raise ValueError(f"{best if path else found[0]} is damaged: set overwrite=true to start the run again")
    if load_checkpoint(path).get("format") != FORMAT:
        raise ValueError(f"{path} was written by another version of fairat_lightning: set overwrite=true to start the run again")
    return path


def check_resumable(folder: Path, path: Path, state: Mapping[str, Any], first_best: int = 1) -> None:
    """ValueError unless everything is undamaged that a run of this `state` dict continues from: `path`, best.ckpt, its records.

    `first_best`: after how many epochs there is a best.ckpt.
    """
    best, content = folder / "checkpoints" / BEST, load_checkpoint(path)
    # Epochs that have passed; one is taken as passed where the file is not a checkpoint, which the loop below refuses.
    begun = content["within"]["position"][0] if "within" in content else content.get("epoch", 0) + 1
    for place in [path, *([best] if begun >= first_best or best.exists() else [])]:
        if not place.exists():
            raise ValueError(f"{place} is missing: set overwrite=true to start the run again")
        content = load_checkpoint(place)
        if not content.keys() >= PARTS or not _fits(content["state_dict"], state):
            raise ValueError(f"{place} does not hold this run's network and method: set overwrite=true to start the run again")
    if (folder / "run.json").exists():
        read_facts(folder)
    if begun:
        trained_seconds(folder)


def _fits(there: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Whether `there` is the same network, and has all that the method holds; a method may hold more after its first step."""
    networks = [{name: value.shape for name, value in each.items() if name.startswith("net.")} for each in (there, state)]
    return networks[0] == networks[1] and there.keys() >= state.keys()
