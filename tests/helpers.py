"""What tests of several files use; fixtures are in `conftest.py`."""

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fairat_lightning import metrics
from fairat_lightning.commands import cli
from fairat_lightning.config.compose import CONF
from fairat_lightning.record import journal as samples
from fairat_lightning.running.signals import SIGNALS

ROOT = Path(__file__).resolve().parent.parent
# A run of seconds: two epochs of a few batches.
SMALL = (
    "data=synthetic",
    "data.train_size=64",
    "data.test_size=20",
    "data.val_per_class=5",
    "data.batch_size=32",
    "model.width=4",
    "trainer=cpu",
    "trainer.precision=32-true",  # the same on every machine
    "trainer.max_epochs=2",
    "attack.steps=2",
)


LONG = "a" * 300  # a name too long for any file


def script(path: str) -> Any:
    """A file of the repository that is no part of the package, "studies/keep.py", as a module."""
    spec = spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "custom")


TABLES = [
    (table, budget) for table in ("faal", "faal100", "fairat", "leaderboard") for budget in ("smoke", "night", "hour", "full")
]
METHODS = options("method")
DISTIL = ("absld", "fair_ard")  # the methods that have a teacher


def quick_for(values: list, *quick) -> list:
    """Parameters of a test: those that are `quick`, and the others marked slow."""

    def parts(value):
        return value if isinstance(value, tuple) else (value,)

    return [value if value in quick else pytest.param(*parts(value), marks=pytest.mark.slow) for value in values]


def start(cwd: Path, *words: str, module: str = "fairat_lightning") -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    return subprocess.run([sys.executable, "-m", module, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def call(monkeypatch, capsys, cwd: Path, *words: str, command: str = "train") -> tuple[int, str, str]:
    """A command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["fairat_lightning", *words])
    answers = {number: signal.getsignal(number) for number in SIGNALS}
    code = 0
    try:
        if command in ("train", "report"):
            import_module(f"fairat_lightning.commands.{command}").main()
        else:
            cli.start(command, "help")
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        for number, handler in answers.items():  # a command is the process's last work, and leaves its own
            signal.signal(number, handler)
    out, err = capsys.readouterr()
    return code, out, err


def other(monkeypatch, capsys, cwd: Path, name: str, *words: str) -> tuple[int, str]:
    """`call` of another command than train: exit code and stderr."""
    code, _, err = call(monkeypatch, capsys, cwd, *words, command=name)
    return code, err


def refused(code: int, err: str, said: str) -> None:
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err, (code, err)
    assert len(err) < 1200, err  # the longest names twelve differing keys and a command


def network_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The network's part of a run's last checkpoint."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}


def same(whole: Path, parts: Path) -> None:
    assert rows(whole) == rows(parts)
    a, b = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (whole, parts))
    for key in ("state_dict", "current_model_state"):
        assert (key in a) == (key in b)
        for name, value in a.get(key, {}).items():
            assert torch.allclose(value, b[key][name], rtol=0, atol=0, equal_nan=True), name
    for key in ("optimizer_states", "lr_schedulers", "loops"):
        assert alike(a[key], b[key]), key
    assert a["global_step"] == b["global_step"]


def alike(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def rows(folder: Path) -> list[str]:
    """The history without its clocks."""
    lines = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    clock = lines[0].index("seconds")
    return [",".join(cells[:clock] + cells[clock + 2 :]) for cells in lines]


# -- folders of images

FOLDER = (
    *("data=folder", "data.root=photos", "data.image_size=8", "data.batch_size=8", "data.padding=1", "model=preactresnet_tiny"),
    *("model.width=2", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1", "attack.steps=1", "hydra.run.dir=run"),
)
KINDS = {"grey": "L", "rgba": "RGBA", "bits": "1", "palette": "P", "cmyk": "CMYK"}


def picture(path: Path, *, kind: str = "", size: tuple[int, int] = (9, 9)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels).convert(KINDS.get(kind, "RGB"))
    if kind == "16-bit":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
    image.save(path)
    return path


def photos(at: Path, classes=("cat", "dog"), *, parts=("train", "test"), images: int = 3, **options) -> Path:
    for part in parts:
        for name in classes:
            for i in range(images):
                picture(at / "photos" / part / name / f"{i}.png", **options)
    return at / "photos"


# -- run folders made by hand: what a report can meet

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


def seeds(make_run, label, worst, **config):
    """The command's words for runs whose worst class has these accuracies, one a seed."""
    return [f"{label}={make_run(f'{label}{s}', (0.6, w, 0.8), seed=s, **config)}" for s, w in enumerate(worst)]
