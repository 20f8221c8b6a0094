"""Kill runs at random moments until the time is up, let each go on, and compare it with one that was left alone.

    python studies/soak.py [--minutes 30] [--to FILE]

In turn a run of FairAT, one of FLOOR and a sweep of four runs, all small, with a checkpoint every second besides those of the
epochs. A process is killed after a random time with SIGKILL, SIGTERM or SIGUSR1, and at times its newest checkpoint is damaged
besides; the same command goes on until it is finished. Then its histories, weights, optimisers and verdicts must be those of the
undisturbed run, to the bit.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from fairat_lightning.record.atomic_write import write_json
from fairat_lightning.record.environment import environment

SMALL = (
    *("data=synthetic", "data.train_size=160", "data.test_size=40", "data.batch_size=8", "model.width=4", "attack.steps=2"),
    *("trainer=cpu", "trainer.precision=32-true", "save_minutes=0.0167", "trainer.max_epochs=40"),
)
CASES = {
    "fairat": ("method=fairat", "method.augmentation=cutout", "averaging=ema", "hydra.run.dir={place}/run"),
    "floor": ("method=floor", "method.augmentation=cutout", "averaging=ema", "hydra.run.dir={place}/run"),
    "sweep": ("-m", "method=faal,pgd_at", "seed=0,1", "trainer.max_epochs=12", "hydra.sweep.dir={place}"),
}
SIGNALS = (signal.SIGKILL,) * 3 + (signal.SIGTERM, signal.SIGUSR1)


def command(case: str, place: Path) -> list[str]:
    return [sys.executable, "-m", "fairat_lightning", *SMALL, *(word.format(place=place) for word in CASES[case])]


def finish(case: str, place: Path, chance: random.Random, counts: Counter[str], until: float) -> None:
    """Run the case to its end; kill it meanwhile, as long as there is time."""
    while True:
        with (place.with_suffix(".log")).open("a") as log:
            process = subprocess.Popen(command(case, place), stdout=log, stderr=log, start_new_session=True)
            counts["starts"] += 1
            patience = chance.uniform(0.5, 25) if time.monotonic() < until else None
            try:
                code = process.wait(patience)
            except subprocess.TimeoutExpired:
                number = chance.choice(SIGNALS)
                process.send_signal(number)
                code = process.wait()
                counts[number.name] += 1
                if chance.random() < 0.15:
                    counts["damaged checkpoints"] += damage(place, chance)
        if code == 0:
            return
        if code not in (75, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGUSR1):
            raise SystemExit(f"{case} ended with {code}: see {place.with_suffix('.log')}")


def damage(place: Path, chance: random.Random) -> int:
    """Cut the newest last.ckpt short, if there is one before it to go back to."""
    found = sorted(place.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found or not found[-1].with_name("previous.ckpt").exists() or (found[-1].parent.parent / "metrics.json").exists():
        return 0
    content = found[-1].read_bytes()
    found[-1].write_bytes(content[: chance.randrange(len(content))])
    return 1


def differences(whole: Path, parts: Path) -> list[str]:
    """What the runs below two folders do not share."""
    runs = sorted(path.parent.relative_to(whole) for path in whole.rglob("metrics.json"))
    found = [f"{run} is missing" for run in runs if not (parts / run / "metrics.json").exists()]
    for run in runs:
        one, other = whole / run, parts / run
        for name in ("metrics.json", "samples.jsonl"):
            if (one / name).read_text() != (other / name).read_text():
                found.append(f"{run}: {name}")
        if rows(one) != rows(other):
            found.append(f"{run}: history.csv")
        for name in ("last.ckpt", "best.ckpt"):
            a, b = (torch.load(place / "checkpoints" / name, weights_only=True) for place in (one, other))
            keys = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "epoch")
            found += [f"{run}: {name} {key}" for key in keys if not alike(a.get(key), b.get(key))]
    return found


def rows(run: Path) -> list[list[str]]:
    """The history without its two clocks."""
    lines = [line.split(",") for line in (run / "history.csv").read_text().splitlines()]
    clock = lines[0].index("seconds")
    return [cells[:clock] + cells[clock + 2 :] for cells in lines]


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return torch.equal(a.nan_to_num(nan=-1e9), b.nan_to_num(nan=-1e9)) if isinstance(a, torch.Tensor) else bool(a == b)


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("--minutes", type=float, default=30)
    words.add_argument("--to", type=Path)
    words.add_argument("--seed", type=int, default=0)
    given = words.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    chance, counts, compared = random.Random(given.seed), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for case in CASES:
            finish(case, place / f"whole-{case}", chance, Counter(), 0.0)
        begun = time.monotonic()
        until = begun + 60 * given.minutes
        while time.monotonic() < until:
            for case in CASES:
                parts = place / f"parts-{case}"
                finish(case, parts, chance, counts, until)
                if found := differences(place / f"whole-{case}", parts):
                    raise SystemExit(f"after {dict(counts)} {case} is not what it was: {found}")
                print(f"{(time.monotonic() - begun) / 60:5.1f} min   {case} the same to the bit   {dict(counts)}", flush=True)
                for path in parts.rglob("last.ckpt"):
                    compared["runs"] += 1
                    compared["steps"] += torch.load(path, weights_only=True)["global_step"]
                shutil.rmtree(parts)
                if time.monotonic() > until:
                    break
        if given.to is not None:
            facts = {
                "minutes": round((time.monotonic() - begun) / 60, 1),
                "seed": given.seed,
                "finished the same": dict(compared),
            }
            write_json(given.to, {**facts, "disturbances": dict(counts)} | environment(given.seed, "studies/soak.py"))


if __name__ == "__main__":
    main()
