"""Run folders made by hand: what a report can meet."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fairat_lightning import metrics, samples

CLASSES = ("cat", "dog", "fox")


def old_summary(*accuracies: float | None, names: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    """A summary as the first records had it: without counts, intervals or figures."""
    present = [a for a in accuracies if a is not None]
    return {
        "average": sum(present) / len(present),
        "worst": min(present),
        "worst_class": names[accuracies.index(min(present))],
        "per_class": dict(zip(names, accuracies, strict=True)),
    }


def old_metrics(*accuracies: float | None, names: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    return {key: old_summary(*accuracies, names=names) for key in ("clean", "pgd20", "cw20")}


def predictions(accuracies: tuple[float, ...], images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and predicted classes (N,) that give each class its accuracy, on `images` images a class."""
    generator = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(accuracies)), images)
    predicted = y.copy()
    for k, accuracy in enumerate(accuracies):
        wrong = generator.permutation(np.flatnonzero(y == k))[: images - round(accuracy * images)]
        predicted[wrong] = (k + 1) % len(accuracies)
    return torch.tensor(y), torch.tensor(predicted)


def judge(place: Path, stages: dict[str, tuple[float, ...]], images: int = 100, names: tuple[str, ...] = CLASSES) -> None:
    """metrics.json and samples.jsonl of attacks with these class accuracies."""
    place.mkdir(parents=True, exist_ok=True)
    record, batches = {}, []
    for k, (stage, accuracies) in enumerate(stages.items()):
        y, predicted = predictions(accuracies, images, seed=k + round(1000 * sum(accuracies)))
        record[stage] = metrics.summary(metrics.confusion_matrix(y, predicted, len(names)), names)
        batches.append(samples.Batch(stage, list(range(len(y))), y.tolist(), predicted.tolist()))
    (place / "metrics.json").write_text(json.dumps(record))
    samples.write(place / "samples.jsonl", {"of": "test"}, batches)


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """make_run(name, (cat, dog, fox)): a run with these accuracies under PGD-20 and its configuration; the folder."""

    def make_run(
        name: str,
        accuracies: tuple[float, ...],
        *,
        seed: int = 0,
        images: int = 100,
        names: tuple[str, ...] = CLASSES,
        **config: Any,
    ) -> Path:
        folder = tmp_path / name
        clean = tuple(min(1.0, a + 0.2) for a in accuracies)
        judge(folder, {"clean": clean, "pgd20": accuracies, "cw20": accuracies}, images, names)
        method = {"_target_": "fairat_lightning.methods.AdversarialTraining"}
        objective = {"_target_": "fairat_lightning.objectives.AT"}
        attack = {"norm": "linf", "eps": "8/255"}
        whole = {"seed": seed, "init_from": f"base{seed}", "attack": attack, "objective": objective, "awp": {}, "method": method}
        (folder / "config.yaml").write_text(yaml.safe_dump({**whole, "data": {"name": "synthetic", "seed": seed}, **config}))
        command = f"python -m fairat_lightning seed={seed}"
        (folder / "run.json").write_text(json.dumps({"command": command, "seed": seed, "versions": {"torch": "2"}}))
        return folder

    return make_run


@pytest.fixture
def full_run(make_run) -> Path:
    """A run with everything: history, hardest images, a failed check, a sweep and an unfinished evaluation."""
    folder = make_run("full", (0.5, 0.3, 0.7), method={"_target_": "fairat_lightning.methods.FairAT"})
    columns = ["epoch", "val/clean", "val/robust", "val/robust_worst"]
    columns += [f"{kind}/{name}" for kind in ("train/class_weight", "train/augmented_class") for name in CLASSES]
    lines = [",".join(columns)] + [",".join(map(str, [epoch, 0.9, 0.5, 0.3, 1.0, 1.5, 0.5, 0.2, 0.4, ""])) for epoch in range(4)]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8)).astype(np.uint8)
    facts = {"label": np.array([0, 1, 2, 1, 1]), "loss": np.arange(5.0), "times": np.arange(5), "index": np.arange(5)}
    np.savez(folder / "hardest.npz", pixels=pixels, **facts)
    place = folder / "evaluation" / "sweep"
    judge(place, {"pgd20@0.01": (0.6, 0.5, 0.8), "pgd20@0.02": (0.5, 0.3, 0.7)})
    facts = {
        "suite": "sweep",
        "titles": {"pgd20@0.01": "PGD-20 at 0.01"},
        "headline": [],
        "notes": ["100 images a class"],
        "checks": [
            {"name": "a large eps breaks all", "passed": False, "detail": "12 % are left"},
            {"name": "transfer", "passed": None, "detail": ""},
        ],
        "threat": {"norm": "linf", "eps": 8 / 255},
        "curve": {"eps": [0.01, 0.02], "keys": ["pgd20@0.01", "pgd20@0.02"]},
    }
    (place / "run.json").write_text(json.dumps(facts))
    (folder / "evaluation" / "autoattack").mkdir()
    return folder
