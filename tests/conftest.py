"""Two cores: the tests run in parallel processes, each on one thread."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import yaml
from helpers import CLASSES, DISTIL, SMALL, judge
from omegaconf import DictConfig, OmegaConf

from fairat_lightning.commands.one_run import run
from fairat_lightning.config.compose import CONF
from fairat_lightning.config.words import with_own_parts
from fairat_lightning.models import preactresnet_tiny

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _pictures(request, monkeypatch) -> None:
    """Pictures are drawn where a test is marked `pictures`, and are empty elsewhere: one takes as long as a tiny training."""
    if "pictures" not in request.keywords:
        monkeypatch.setattr("fairat_lightning.training.run.draw_classes", lambda metrics, path: path.write_text("not drawn"))
        monkeypatch.setattr("fairat_lightning.report.style.svg", lambda *arguments: "<svg></svg>")
        for module in ("evaluation.run", "report.write"):
            monkeypatch.setattr(f"fairat_lightning.{module}.save", lambda figure, path: path.write_text("not drawn"))


@pytest.fixture(scope="session", autouse=True)
def _composed_once():
    """Hydra reads conf/ for every composition, in pure Python: here each file is parsed, and each command composed, once."""
    parsed: dict[str, Any] = {}
    composed: dict[tuple, DictConfig] = {}
    load, compose = OmegaConf.load, hydra.compose

    def load_once(file: Any) -> Any:
        text = file.read() if hasattr(file, "read") else Path(file).read_text()
        if text not in parsed:
            parsed[text] = load(io.StringIO(text))
        return copy.deepcopy(parsed[text])

    def compose_once(name: str, overrides: Any, **options: Any) -> DictConfig:
        key = (name, *overrides, *options.items())
        if key not in composed:
            composed[key] = compose(name, overrides, **options)
        return copy.deepcopy(composed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load_once)
        patch.setattr(hydra, "compose", compose_once)
        yield


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    """The weights of a network of SMALL's shape, for what distils, or changes a trained network's last layer.

    It is untrained, but sure of itself: two networks that are both near 1/K differ by roundings.
    """
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.manual_seed(0)
    weights = preactresnet_tiny(num_classes=4, in_channels=1, width=4, mean=[0.5], std=[0.25]).state_dict()
    weights["model.linear.weight"] *= 20
    torch.save(weights, path)
    return path


@pytest.fixture(scope="session")
def compose(teacher):
    """Compose the project's configuration with these overrides, as the command does; where a teacher is needed, there is one."""

    def compose(*overrides: str) -> DictConfig:
        distils = {f"method={name}" for name in DISTIL} & set(overrides)
        if distils and not any(word.startswith("method.teacher=") for word in overrides):
            overrides = (*overrides, f"method.teacher={teacher}")
        if "method=decosam" in overrides and not any(word.startswith("init_from=") for word in overrides):
            overrides = (*overrides, f"init_from={teacher}")
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", with_own_parts(overrides), return_hydra_config=True)

    return compose


@pytest.fixture
def launch(compose, tmp_path):
    """Run the command in this process: overrides -> (folder, metrics). Small and synthetic unless the overrides say more."""

    def launch(*overrides: str, folder: str = "run") -> tuple[Path, dict]:
        cfg = compose(*SMALL, *overrides)
        run(cfg, tmp_path / folder)
        return tmp_path / folder, json.loads((tmp_path / folder / "metrics.json").read_text())

    return launch


@pytest.fixture(scope="session")
def trained(compose, tmp_path_factory):
    """As `launch`, but what was trained with the same overrides is taken from there: for who reads alone."""
    found: dict[tuple[str, ...], tuple[Path, dict]] = {}

    def trained(*overrides: str) -> tuple[Path, dict]:
        if overrides not in found:
            folder = tmp_path_factory.mktemp("trained") / "run"
            run(compose(*SMALL, *overrides), folder)
            found[overrides] = folder, json.loads((folder / "metrics.json").read_text())
        return found[overrides]

    return trained


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
