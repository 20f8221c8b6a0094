"""How many validation images the choice of an epoch needs: six runs that keep their epochs, and what each rule would have chosen.

    python studies/validation.py ROOT [--runs runs/validation] [--to results/validation/validation.json]

Three seeds train on 2,500 images of CIFAR-10, where adversarial training overfits, and three on 10,000. Every epoch of the second
half is judged by PGD-10 on all 3,000 validation images, in float32 and in bfloat16, and on 2,000 test images. A rule that takes
fewer images or fewer epochs looks at a part of these verdicts; of the images it draws 200 parts, and its figures are means over
them. ROOT holds CIFAR-10's own files. What is done stays in the folder of the runs, so a stopped study goes on. Three hours on
one core.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fairat_lightning.attacks import PGD
from fairat_lightning.data import DataModule, Images, as_float
from fairat_lightning.data.sets import cifar10
from fairat_lightning.evaluation.attacks import predict
from fairat_lightning.models import load_weights, preactresnet18
from fairat_lightning.record.atomic_write import write_json
from fairat_lightning.record.environment import environment

WIDTH = 8
RUNS = ((2500, 40), (10000, 20))  # training images, epochs
SEEDS = (0, 1, 2)
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]  # conf/data/cifar10.yaml
THREAT = PGD(norm="linf", eps=8 / 255, step=2 / 255, steps=10)
PER_CLASS, EVERY, DRAWS = (10, 30, 60, 100, 200), (2, 4), 200
Verdicts = tuple[np.ndarray, np.ndarray]  # whether each image is right at each epoch, bool (E,N), and the labels (N,)


def train(folder: Path, root: str, size: int, epochs: int, seed: int) -> None:
    """A run of N-FGSM with a checkpoint of every epoch."""
    kept = f"dirpath: {folder}/epochs, filename: '{{epoch}}', save_top_k: -1, save_on_train_epoch_end: true"
    keep = f"{{_target_: lightning.pytorch.callbacks.ModelCheckpoint, {kept}}}"
    words = ["data=cifar10", f"data.root={root}", f"data.train_size={size}", "data.test_size=100", "attack=n_fgsm"]
    words += [f"model.width={WIDTH}", "trainer=cpu", "trainer.precision=32-true", f"trainer.max_epochs={epochs}", f"seed={seed}"]
    words += [f"val_every={epochs}", "select=last", f"callbacks=[{keep}]", f"hydra.run.dir={folder}"]
    subprocess.run([sys.executable, "-m", "fairat_lightning", *words], check=True)


def judged(folder: Path, split: str, images: Images, epochs: int, *, low: bool = False) -> Verdicts:
    """The verdicts on `images` of every epoch of the second half, each kept in `folder` once it is made; `low`: in bfloat16."""
    rows = []
    for epoch in range(epochs // 2, epochs):
        place = folder / f"{split}{'-bf16' if low else ''}-{epoch}.npy"
        if not place.exists():
            net = preactresnet18(num_classes=10, in_channels=3, mean=MEAN, std=STD, width=WIDTH)
            load_weights(net, folder / "epochs" / f"epoch={epoch}.ckpt")
            net.eval()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                parts = [
                    predict(net, as_float(images.pixels[i]), y := images.targets[i], i, THREAT, "pgd10", exact=not low) == y
                    for i in torch.arange(len(images)).split(500)
                ]
            np.save(place, torch.cat(parts).numpy())
        rows.append(np.load(place))
    return np.stack(rows), images.targets.numpy()


def accuracies(verdicts: Verdicts) -> np.ndarray:
    """The accuracy of each class at each epoch: (E,10)."""
    right, labels = verdicts
    return np.stack([right[:, labels == k].mean(1) for k in range(10)], axis=1)


def chosen(scores: np.ndarray, every: int = 1) -> int:
    """The first epoch of the highest score (E,), of those that are validated: every `every`-th and the last."""
    looked_at = np.arange(len(scores))[::-1][::every][::-1]
    return int(looked_at[scores[looked_at].argmax()])


def rules(val: Verdicts, draw: np.random.Generator, inside: str = "") -> Iterator[tuple[str, list[int]]]:
    """What each rule chooses, by its name; a rule that looks at a part of the images once for each of DRAWS parts."""
    right, labels = val
    for name in ("sum", "average"):
        score = {"sum": lambda r: r.mean(1) + r.min(1), "average": lambda r: r.mean(1)}[name]
        for every in (1, *EVERY):
            yield f"{name}, all images, every {every}{inside}", [chosen(score(accuracies(val)), every)]
        for count in PER_CLASS:
            picks = []
            for _ in range(DRAWS):
                part = np.concatenate([draw.choice(np.flatnonzero(labels == k), count, replace=False) for k in range(10)])
                picks.append(chosen(score(accuracies((right[:, part], labels[part])))))
            yield f"{name}, {count} a class{inside}", picks
    if not inside:
        yield "last epoch", [len(right) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="the folder that holds cifar-10-batches-py")
    parser.add_argument("--runs", type=Path, default=Path("runs/validation"))
    parser.add_argument("--to", type=Path, default=Path("results/validation/validation.json"))
    words = parser.parse_args()
    data = DataModule(cifar10, root=words.root, val_per_class=300, test_size=2000)
    data.prepare()
    found: dict[str, dict[str, list[float]]] = {}
    for size, epochs in RUNS:
        for seed in SEEDS:
            folder = words.runs / f"{size}-s{seed}"
            if not (folder / "metrics.json").exists():
                train(folder, words.root, size, epochs, seed)
            val, test = (judged(folder, split, getattr(data, split), epochs) for split in ("val", "test"))
            accuracy, low = accuracies(test), judged(folder, "val", data.val, epochs, low=True)
            draw = np.random.default_rng(seed)
            for rule, epoch in [*rules(val, draw), *rules(low, draw, ", in bfloat16")]:
                row = found.setdefault(rule, {})
                row.setdefault("average", []).append(float(accuracy[epoch].mean()))
                row.setdefault("worst", []).append(float(accuracy[epoch].min(1).mean()))
    reference = found["sum, all images, every 1"]
    shown = Table("rule", "average", "worst", "average less all images", "worst less all images")
    for rule, row in found.items():
        less = {key: np.array(row[key]) - np.array(reference[key]) for key in ("average", "worst")}
        row |= {f"{key}_difference": [float(v.mean()), float(v.std(ddof=1) / len(v) ** 0.5)] for key, v in less.items()}
        cells = [f"{100 * np.mean(row[key]):.1f}" for key in ("average", "worst")]
        cells += [
            f"{100 * row[f'{key}_difference'][0]:+.1f} (SE {100 * row[f'{key}_difference'][1]:.1f})"
            for key in ("average", "worst")
        ]
        shown.add_row(rule, *cells)
    Console().print(shown)
    here = {key: value for key, value in environment(0).items() if key != "command"}  # that of the lines above
    write_json(words.to, {"rules": found, "runs": RUNS, "environment": here})
    print(words.to)


if __name__ == "__main__":
    main()
