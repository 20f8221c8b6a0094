"""How many images a processor trains on in a second, and what an hour of it gives: `make speed`.

    python studies/speed.py [--to FILE] [--rounds 3] [--batch-size 64] [--widths 16 32 64] [--cores 1 2]

PreAct ResNet-18 on images of 32x32, adversarial training by N-FGSM (1 step), PGD-3 and PGD-10, in float32 and, where the
processor has it, in bf16. A cell is the median of `--rounds` steps after one that warms up: forward, backward and the optimiser.
The time of a step is the processor's on one core, which other work on the machine disturbs little, and the clock's on several.

The model of a cell, for S attack steps and a network of width w whose forward pass over an image has F(w) operations:

    seconds an image = (2 S + 3) (F(w) / rate + w * overhead)

2 S + 3 is what S gradients into the image and one into the weights cost in forward passes (`docs/performance.md`); convolutions
grow with w squared, what is done to each activation with w. For each precision and number of cores, `rate` (operations a second)
and `overhead` (seconds) are those with the least squares of the relative error; the largest error over the cells is shown.
Cells that FILE has already, of other widths, cores or precisions, are kept.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cost import Candidate  # noqa: E402

from fairat_lightning.record.atomic_write import write_json  # noqa: E402
from fairat_lightning.record.environment import environment  # noqa: E402
from fairat_lightning.running.machine import best_precision, flops, threads  # noqa: E402

ATTACKS = {"n_fgsm": 1, "pgd3": 3, "pgd10": 10}  # and their steps
IMAGES = 50_000  # an epoch of CIFAR-10
KEY = ("precision", "cores", "width", "attack")


def cells(o: argparse.Namespace) -> list[dict[str, Any]]:
    """The measured cells: images a second with the range over the rounds, and the operations of a forward pass over an image."""
    found = []
    for precision in dict.fromkeys(("32-true", best_precision("cpu"))):
        for width in o.widths:
            for attack in ATTACKS:
                with tempfile.TemporaryDirectory() as place:
                    candidate = Candidate(words(precision, width, attack, o.batch_size), Path(place), torch.device("cpu"))
                operations = flops(candidate.method.net, candidate.batches[0][0][:1])
                for cores in o.cores:
                    with threads(cores):
                        taken = [step(candidate, cores) for _ in range(o.rounds + 1)][1:]
                    rates = [o.batch_size / seconds for seconds in taken]
                    cell = {"precision": precision, "cores": cores, "width": width, "attack": attack, "flops": operations}
                    cell |= {"batch_size": o.batch_size, "rounds": o.rounds}
                    found.append({**cell, "images_per_second": median(rates), "low": min(rates), "high": max(rates)})
                    print(f"{precision} width {width} {attack} cores {cores}: {median(rates):.1f} images/s", flush=True)
    return found


def words(precision: str, width: int, attack: str, batch_size: int) -> list[str]:
    """The configuration of a cell, on a synthetic set of CIFAR-10's shape."""
    data = ["data=synthetic", "data.image_size=32", "data.load.num_classes=10", "data.load.test_per_class=1"]
    data += [f"data.load.train_per_class={batch_size // 10 + 2}", "data.val_per_class=1", f"data.batch_size={batch_size}"]
    part = ["model=preactresnet18", f"model.width={width}", "method=pgd_at", f"attack={attack}"]
    return [*data, *part, "trainer=cpu", f"trainer.precision={precision}"]


def step(candidate: Candidate, cores: int) -> float:
    """Seconds of a training step: of the processor on one core, of the clock on several."""
    clock = time.process_time if cores == 1 else time.perf_counter
    before = clock()
    candidate.take(candidate.batches[0])
    return clock() - before


def passes(cell: dict[str, Any]) -> int:
    """What a training step costs in forward passes over its batch."""
    return 2 * ATTACKS[cell["attack"]] + 3


def models(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each precision and number of cores: rate, overhead and the largest relative error of the model over their cells."""
    fitted = []
    for precision, cores in dict.fromkeys((cell["precision"], cell["cores"]) for cell in found):
        mine = [cell for cell in found if (cell["precision"], cell["cores"]) == (precision, cores)]
        terms = np.array([[passes(c) * c["flops"], passes(c) * c["width"]] for c in mine], dtype=float)
        terms *= [[c["images_per_second"]] for c in mine]  # so that 1 is the measured time
        scale = terms.max(0)
        solution = np.linalg.lstsq(terms / scale, np.ones(len(mine)), rcond=None)[0] / scale
        error = float(np.abs(terms @ solution - 1).max())
        fitted.append({"precision": precision, "cores": cores, "rate": 1 / solution[0], "overhead": solution[1], "error": error})
    return fitted


def show(record: dict[str, Any], console: Console) -> None:
    kinds = list(dict.fromkeys((cell["precision"], cell["cores"]) for cell in record["cells"]))
    table = Table("width", "attack", *(f"{p}, cores: {n}" for p, n in kinds), title="Images a second (epochs an hour)")
    by_key = {tuple(cell[part] for part in KEY): cell["images_per_second"] for cell in record["cells"]}
    for width, attack in dict.fromkeys((cell["width"], cell["attack"]) for cell in record["cells"]):
        rates = [by_key.get((*kind, width, attack)) for kind in kinds]
        table.add_row(str(width), attack, *("–" if r is None else f"{r:.1f} ({3600 * r / IMAGES:.2f})" for r in rates))
    console.print(table)
    for m in record["models"]:
        formula = f"(2 S + 3) (F / {m['rate']:.3g} + width * {m['overhead']:.3g})"
        console.print(f"{m['precision']}, cores: {m['cores']}: {formula} seconds an image, at most {100 * m['error']:.0f} % off")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--cores", type=int, nargs="+", default=sorted({1, min(2, here)}))
    o = parser.parse_args()
    if max(o.cores) > here:
        parser.error(f"--cores {max(o.cores)}: this process may use {here}")
    found = cells(o)
    if o.to and o.to.exists():
        new = {tuple(cell[part] for part in KEY) for cell in found}
        found += [cell for cell in json.loads(o.to.read_text())["cells"] if tuple(cell[part] for part in KEY) not in new]
    found.sort(key=lambda cell: (cell["cores"], cell["precision"], cell["width"], passes(cell)))
    record = {"cells": found, "models": models(found)}
    show(record, Console())
    if o.to:
        facts = {k: v for k, v in environment(0).items() if k != "command"}
        write_json(o.to, {**record, "command": " ".join(["python", *sys.argv]), **facts})
        print(o.to)


if __name__ == "__main__":
    main()
