"""FairAT's hard examples against random ones, 30 % and half of the images, and with FAAL (FLOOR), on images that no run has seen.

    python studies/fairat_variants.py RUNS [--to results/fairat-variants/table.json]

RUNS holds the runs hard-s0, random-s0 and none-s0 of `reproduce table=fairat budget=night`. Each variant is the command of
hard-s0 with more words: a training of 150 epochs, about 35 minutes on one core, in the folder fairat-variants beside RUNS. The
last epoch of each is judged on 5,000 training images of CIFAR-10 that neither training nor the choice of an epoch has seen,
never on test images. What is done is not done again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import fairat_lightning as fl
from fairat_lightning.evaluation.result import Result
from fairat_lightning.record.atomic_write import write_json

PER_CLASS = 500
VARIANTS = {  # run: the words that change hard-s0's command; without any, the runs of the table
    "none": [],
    "random": [],
    "hard": [],
    "hard_half": ["method.hard_fraction=0.5"],
    "random_half": ["method.hard_fraction=0.5", "method.subset=random"],
    "faal": ["method=faal", "method.radius=0.1"],
    "floor": ["method=floor"],
}
PAIRS = [("none", "hard"), ("random", "hard"), ("random_half", "hard_half"), ("hard", "hard_half")]
PAIRS += [("none", "faal"), ("none", "floor"), ("faal", "floor"), ("hard", "floor")]
FIGURES = ("average", "worst")


def words_of(run: Path) -> list[str]:
    """The words of the command that made `run`, without its folder."""
    command: str = json.loads((run / "run.json").read_text())["command"]
    return [word for word in shlex.split(command)[3:] if not word.startswith("hydra.run.dir=")]


def beside(runs: Path) -> Path:
    return runs.parent / "fairat-variants"


def train(runs: Path, name: str) -> Path:
    """The folder of the variant `name`, trained if it is not there yet."""
    folder = (beside(runs) if VARIANTS[name] else runs) / f"{name}-s0"
    if not (folder / "metrics.json").exists():
        if not VARIANTS[name]:
            raise SystemExit(f"{folder} is not finished: run table=fairat budget=night first")
        words = [*words_of(runs / "hard-s0"), *VARIANTS[name], f"hydra.run.dir={folder}"]
        subprocess.run([sys.executable, "-m", "fairat_lightning", *words], check=True)
    return folder


def unseen(words: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (5000,3,32,32) and labels of training images that a run of `words` neither learns from nor chooses by."""
    given = ["data=cifar10", "data.test_size=10"]
    given += [word for word in words if word.startswith("data.") and not word.startswith("data.test_size=")]
    few, whole = fl.load_data(given), fl.load_data([*given, "data.train_size=null"])
    taken = {image.numpy().tobytes() for image in few.train.pixels[:]}
    rest = torch.tensor([image.numpy().tobytes() not in taken for image in whole.train.pixels[:]])
    rows = torch.cat([((whole.train.targets == k) & rest).nonzero().flatten()[:PER_CLASS] for k in range(len(whole.classes))])
    return whole.train.pixels[rows], whole.train.targets[rows]


def judged(runs: Path, name: str, images: tuple[torch.Tensor, torch.Tensor]) -> Result:
    """The verdicts on `images` of the last epoch of the run `name`."""
    folder, place = train(runs, name), beside(runs) / "verdicts" / name
    if not (place / "metrics.json").exists():
        net = fl.load_run(folder / "checkpoints" / "last.ckpt")
        fl.benchmark(net, images, eps="8/255", classes=net.classes, device="cpu").save(place)
    return Result.read(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--to", type=Path, default=Path("results/fairat-variants/table.json"))
    given = parser.parse_args()
    images = unseen(words_of(given.runs / "hard-s0"))
    found = {name: judged(given.runs, name, images) for name in given.rows}
    rows: dict[str, Any] = {
        name: {attack: {key: values[key] for key in FIGURES} for attack, values in result.metrics.items()}
        for name, result in found.items()
    }
    compared = {f"{b} - {a}": fl.compare(found[a], found[b]).to_dict() for a, b in PAIRS if a in found and b in found}
    write_json(given.to, {"images": len(images[0]), "rows": rows, "differences": compared})


if __name__ == "__main__":
    main()
