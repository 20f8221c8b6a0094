"""Whether two checkouts record the same, to the bit: trainings of every method, every evaluation, a resumed run, `make run`.

    python studies/same_bits.py OTHER      OTHER is the folder of another checkout; this one is the second

Both run the same commands, one after the other, in the environment of this Python and on one thread. Compared are metrics.json,
history.csv without its clocks, samples.jsonl, weights and optimiser of the checkpoints, and exported networks. Names of classes
that have moved since count as the same.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fairat_lightning.record.old_names import today  # noqa: E402

METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
SMALL = (
    *("data=synthetic", "data.image_size=32", "data.train_size=160", "data.test_size=40", "data.batch_size=32", "trainer=cpu"),
    *("model=preactresnet_tiny", "model.width=4", "trainer.precision=32-true", "trainer.max_epochs=4", "attack.steps=3"),
)
STOPPED = """
import os, signal, sys
from fairat_lightning.methods import FAAL
step, calls = FAAL.training_step, []
def stopping(self, *a, **k):
    calls.append(1)
    if len(calls) == 7:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *a, **k)
FAAL.training_step = stopping
import runpy
runpy.run_module("fairat_lightning", run_name="__main__", alter_sys=True)
"""
SUITES = (
    "suite=quick",
    "suite=standard suite.check_images=10",
    "suite=apgd suite.steps=3 suite.targets=2",
    "suite=autoattack suite.steps=3 suite.queries=5",
    "suite=sweep",
    "suite=corruptions suite.kinds=[contrast,fog] suite.severities=[1,3]",
)


def commands() -> list[tuple[str, list[str]]]:
    """Every command: its module, or a program, and its words."""
    extra = {"fairat": ["method.augmentation=cutout"], "floor": ["method.augmentation=cutout", "averaging=ema"]}
    extra["fair_ard"] = extra["absld"] = ["method.teacher=pgd_at"]
    extra["decosam"] = ["init_from=pgd_at"]
    ordered = ["pgd_at", *(name for name in METHODS if name != "pgd_at")]
    found = [("", [*SMALL, f"method={name}", *extra.get(name, []), f"hydra.run.dir={name}"]) for name in ordered]
    found += [("", [*SMALL, "method=faal", "objective=trades", "awp=awp", "averaging=ema", "hydra.run.dir=faal_trades"])]
    found += [("", [*SMALL, "method=pgd_at", "head=balanced", "optim=onecycle", "hydra.run.dir=balanced"])]
    found += [(".evaluate", ["checkpoint=faal", "samples_per_class=4", *words.split()]) for words in SUITES]
    found += [(".export", ["checkpoint=faal", "to=exported"]), (".balance", ["checkpoint=faal"])]
    words = [*SMALL, "method=faal", "hydra.run.dir=stopped"]
    found += [(STOPPED, words), ("", words)]
    found += [("", ["experiment=digits_pgd_at", "hydra.run.dir=demo/pgd_at"])]
    found += [("", ["experiment=digits_faal", "init_from=demo/pgd_at", "hydra.run.dir=demo/faal"])]
    return found


def run(checkout: Path, place: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    for module, words in commands():
        start = ["-c", module] if "\n" in module else ["-m", f"fairat_lightning{module}"]
        done = subprocess.run([sys.executable, *start, *words], cwd=place, env=env, capture_output=True, text=True)
        if done.returncode not in (0, os.EX_TEMPFAIL):
            raise SystemExit(f"{checkout}: {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")


def content(path: Path) -> object:
    """What of a file must be the same."""
    if path.suffix == ".json":
        return json.loads(path.read_text()) if path.name == "metrics.json" else None
    if path.name == "history.csv":
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(path.open())]
    if path.name == "samples.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in today(line).items() if k != "crc"} for line in lines]
    if path.name == "config.yaml":
        import yaml

        return today(yaml.safe_load(path.read_text()))
    if path.suffix == ".ckpt":
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {
            key: flat(state.get(key)) for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "head", "epoch")
        }
    return path.read_bytes() if path.suffix in (".safetensors", ".py", ".npz") else None


def flat(value: object) -> object:
    """Tensors as bytes, so that they are compared to the bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: flat(child) for key, child in value.items()}
    return [flat(child) for child in value] if isinstance(value, list | tuple) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("other", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        places = [Path(place) / name for name in ("other", "this")]
        for checkout, folder in zip((options.other.resolve(), ROOT), places, strict=True):
            folder.mkdir()
            run(checkout, folder)
        files = [{path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()} for folder in places]
        missing = sorted(map(str, files[0].keys() ^ files[1].keys()))
        compared, different = 0, []
        for name in sorted(files[0].keys() & files[1].keys()):
            a, b = (content(found[name]) for found in files)
            compared += a is not None
            if a != b:
                different.append(str(name))
    print(f"{len(commands())} commands, {compared} files compared, {len(different)} differ, {len(missing)} are in one alone")
    for line in (*different, *missing):
        print(f"  {line}")
    raise SystemExit(1 if different or missing else 0)


if __name__ == "__main__":
    main()
