"""What each method costs beside plain adversarial training, measured side by side: `make bench`.

    python studies/cost.py [--to FILE] [--rounds 7] [WORD ...]

Words go to every configuration: model=preactresnet18 trainer=gpu. All methods are built first; then each takes one training
step in turn, round after round, and the medians are divided by that of TRADES, if that is the method's objective, or else of
PGD-AT. "epoch" adds what a method does between epochs, over a training and a validation set in CIFAR-10's proportion (47 : 3).
Times include forward, backward and the optimiser, not data loading.
"""

import argparse
import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from fairat_lightning.attacks import mode
from fairat_lightning.config.compose import CONF, resolved
from fairat_lightning.data import as_float
from fairat_lightning.record.atomic_write import write_json
from fairat_lightning.record.environment import environment
from fairat_lightning.training.run import prepare

PLAIN = {"AT": "pgd_at", "TRADES": "trades"}
ROWS = {
    **{name: f"method={name}" for name in ("pgd_at", "trades", "mart", "faal", "fairat", "frl", "bat", "wat", "cfa", "dafa")},
    **{name: f"method={name}" for name in ("cfol", "csr", "fair_tat", "codat", "fair_ard")},
    **{name: f"method={name}" for name in ("absld", "trix", "variance", "decosam", "floor")},
    "ham": "method=ham method.warmup=0",
    "pgd_at awp": "method=pgd_at awp=awp",
}
TRAINED = {  # what HAM drops are examples that a trained network still has right
    "pgd_at, trained": "method=pgd_at",
    "ham, trained": "method=ham method.warmup=0",
    "ham, trained, dropping": "method=ham method.warmup=0 method.drop=true",
}
DIGITS = ("data=digits", "data.batch_size=128", "trainer=auto", "init_from=pretrained:digits_pgd_at")
SET = (
    *(
        "data=synthetic",
        "data.image_size=32",
        "data.load.num_classes=10",
        "data.load.train_per_class=136",
        "data.val_per_class=8",
    ),
    *("data.load.test_per_class=1", "data.batch_size=128", "data.suggests.augmentation=randaugment", "trainer=auto"),
)


class Candidate:
    """A method with its optimiser, in the middle of a training of three epochs; `step` and `between` return seconds.

    It keeps `batches` of the training set for its steps, by default all.
    """

    def __init__(self, words: list[str], folder: Path, device: torch.device, batches: int | None = None):
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = OmegaConf.create(resolved(hydra.compose("config", words, return_hydra_config=True)))
        job = prepare(cfg, folder)
        assert job is not None
        self.objective = type(job.method.objective).__name__
        self.gated = bool(cfg.averaging) and cfg.averaging._target_.endswith("FAWA")
        self.method, data = job.method.to(device), job.datamodule
        self.data, self.precision = data, job.trainer.precision_plugin
        self.method._trainer = SimpleNamespace(  # type: ignore[assignment]
            current_epoch=2,
            max_epochs=3,
            callbacks=job.trainer.callbacks,
            datamodule=data,
            val_dataloaders=data.val_dataloader(),
            precision_plugin=self.precision,
            strategy=SimpleNamespace(broadcast=lambda value: value),
        )
        self.method.log = self.method.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
        self.method.setup("fit")
        if hasattr(self.method, "_teacher"):
            self.method._teacher[0].to(device)
        kept = [[t.to(device) for t in batch] for batch in islice(data.train_dataloader(), batches)]
        self.batches = [(as_float(x), y, index) for x, y, index in kept]
        self.optimizer = self.method.optim(self.method.net.parameters(), epochs=3, steps=100)["optimizer"]
        self.method.trainer.optimizers = [self.optimizer]
        self.method.train()
        self.taken = 0
        self.method.on_train_epoch_start()

    def step(self) -> float:
        k = self.taken % len(self.batches)
        if hasattr(self.method, "draw"):
            self.method.draw(k)
        self.taken += 1
        before = clock()
        self.take(self.batches[k])
        return clock() - before

    def take(self, batch: Any) -> None:
        """One optimiser step on a batch, as Lightning takes it."""
        with self.precision.forward_context():
            loss = self.method.training_step(batch, 0)
        self.optimizer.zero_grad()
        loss.backward()
        self.method.on_after_backward()
        self.optimizer.step()

    def between(self) -> float:
        before = clock()
        self.method.on_train_epoch_end()
        self.method.on_train_epoch_start()
        seconds = clock() - before
        if self.gated:
            before = clock()
            self.method.validation_robust()
            seconds += clock() - before
        return seconds

    def validate(self) -> float:
        """Seconds of what a training does at the end of an epoch: the clean and robust accuracy on the monitored images."""
        device, before = next(self.method.parameters()).device, clock()
        with mode(self.method.net, training=False), self.precision.forward_context():
            for k, (x, y, index) in enumerate(self.data.val_dataloader()):
                self.method.validation_step((as_float(x.to(device)), y.to(device), index.to(device)), k)
        return clock() - before


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--to", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as place:
        teacher = Path(place) / "teacher.pt"
        candidates = {}
        for name, words in ROWS.items():
            given = [*SET, *words.split(), *options.words]
            if name in ("fair_ard", "absld", "decosam"):
                torch.save(candidates["pgd_at"].method.net.state_dict(), teacher)
                given.append(f"{'init_from' if name == 'decosam' else 'method.teacher'}={teacher}")
            candidates[name] = Candidate(given, Path(place) / name, device)
        for name, words in TRAINED.items() if not options.words else ():
            candidates[name] = Candidate([*DIGITS, *words.split()], Path(place) / name, device)
        steps: dict[str, list[float]] = {name: [] for name in candidates}
        hooks: dict[str, list[float]] = {name: [] for name in candidates}
        for turn in range(options.rounds + 1):  # the first is a warm-up
            for name, candidate in candidates.items():
                seconds = candidate.step()
                if turn:
                    steps[name].append(seconds)
                if 0 < turn <= 3:
                    hooks[name].append(candidate.between())
    rows = [row(name, candidates, steps, hooks) for name in candidates]
    table = Table("", "objective", "step", "spread", "epoch", title="Times the cost of plain training", title_justify="left")
    for r in rows:
        table.add_row(r["name"], r["objective"], f"{r['step']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}", f"{r['epoch']:.2f}")
    Console().print(table)
    if options.to:
        facts = {k: v for k, v in environment(0).items() if k != "command"}
        facts["command"] = " ".join(["python", *sys.argv])
        write_json(options.to, {"rows": rows, "rounds": options.rounds, **facts})
        print(json.dumps(str(options.to)))


def row(name: str, candidates: dict, steps: dict, hooks: dict) -> dict:
    """One method's ratios to the plain method of its objective; the spread is over the rounds, each against its own."""
    objective = candidates[name].objective
    plain = "pgd_at, trained" if name in TRAINED else PLAIN.get(objective, "pgd_at")
    ratios = sorted(a / b for a, b in zip(steps[name], steps[plain], strict=True))
    batches = len(candidates[name].batches)
    epoch = (batches * median(steps[name]) + median(hooks[name])) / (batches * median(steps[plain]) + median(hooks[plain]))
    return {
        "name": name,
        "objective": objective,
        "step": median(steps[name]) / median(steps[plain]),
        "low": ratios[0],
        "high": ratios[-1],
        "epoch": epoch,
        "seconds": median(steps[name]),
    }


if __name__ == "__main__":
    main()
