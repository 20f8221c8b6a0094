"""AutoAttack at full budgets against the authors' loop, sample for sample, and against kill -9 at random moments.

    python studies/autoattack.py RUN --to FILE.json [words of the evaluate command]

evaluates RUN three times: with our command, with our command killed again and again, and with pyautoattack's own
`run_standard_evaluation` at the same batch size, seed and images. Every predicted class must be the same.
"""

import argparse
import json
import random
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyautoattack
import torch

from fairat_lightning.attacks import PGD
from fairat_lightning.config.build import build_part
from fairat_lightning.config.classifier import load
from fairat_lightning.config.compose import compose_classifier
from fairat_lightning.data import as_float
from fairat_lightning.record.atomic_write import write_json
from fairat_lightning.record.environment import environment
from fairat_lightning.record.journal import by_stage, read
from fairat_lightning.record.reader import read_metrics

START = 8.0  # seconds that a process needs to begin


def ours(run: Path, name: str, words: list[str], *, kills: int = 0, patience: float = 0.0) -> None:
    """Evaluate to the end, after `kills` kills at random moments, each within `patience` seconds of work."""
    command = [sys.executable, "-m", "fairat_lightning.evaluate", f"checkpoint={run}", "suite=autoattack", f"name={name}", *words]
    for kill in range(kills + 1):
        process = subprocess.Popen(command)
        try:
            if process.wait(None if kill == kills else START + random.random() * patience) != 0:
                raise SystemExit("the evaluation failed")
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()


def authors(run: Path, words: list[str], index: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The class that each image is taken for after the authors' loop, and its seconds."""
    judged = load(compose_classifier("evaluate", [f"checkpoint={run}", "suite=autoattack", *words]))
    threat: PGD = build_part(judged.cfg, "attack")
    net = judged.net.requires_grad_(False)
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    attack = pyautoattack.AutoAttack(net, norm=norm, eps=threat.eps, seed=judged.cfg.seed, version="standard")
    attack.verbose = False
    test = judged.data.test.subset(index)
    began = time.perf_counter()
    _, predicted = attack.run_standard_evaluation(as_float(test.pixels), test.targets, batch_size=judged.cfg.batch_size)
    return predicted, time.perf_counter() - began


def verdicts(run: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Index and last predicted class of every image."""
    found = read(run / "evaluation" / name / "samples.jsonl")
    assert found is not None
    stages = by_stage(found[1])
    index, _, last = (part.copy() for part in stages.pop("clean"))
    for places, _, predicted in stages.values():
        last[np.searchsorted(index, places)] = predicted
    return torch.from_numpy(index), torch.from_numpy(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to a kill, at most")
    parser.add_argument("--name", default="autoattack")
    options, words = parser.parse_known_args()
    run, name = options.run, options.name
    random.seed(0)
    ours(run, name, words)
    ours(run, f"{name}-killed", words, kills=options.kills, patience=options.patience)
    index, mine = verdicts(run, name)
    _, killed = verdicts(run, f"{name}-killed")
    theirs, their_seconds = authors(run, words, index)
    paths = [run / "evaluation" / n / "samples.jsonl" for n in (name, f"{name}-killed")]
    facts = json.loads((run / "evaluation" / name / "run.json").read_text())
    metrics = read_metrics(run / "evaluation" / name)
    assert metrics is not None
    result = {
        **environment(0),
        "command": shlex.join(["python", *sys.argv]),
        "pyautoattack": version("pyautoattack"),
        "threat": facts["threat"],
        "batch_size": facts["batch_size"],
        "images": len(index),
        "differences_to_the_authors_loop": int((mine != theirs).sum()),
        "kills": options.kills,
        "record_after_kills_is_the_same": paths[0].read_bytes() == paths[1].read_bytes(),
        "differences_after_kills": int((mine != killed).sum()),
        "seconds": {"ours": facts["seconds"], "authors": round(their_seconds, 1)},
        "metrics": {key: {k: m[k] for k in ("average", "worst", "worst_class", "per_class")} for key, m in metrics.items()},
    }
    options.to.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.to, result)
    print(json.dumps({k: result[k] for k in list(result)[-8:-1]}, indent=2))


if __name__ == "__main__":
    main()
