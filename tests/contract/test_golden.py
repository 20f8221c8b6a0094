"""20 steps of every method on a tiny network, in float64 and in bf16, against silent change.

In float64 the figures of every epoch are the same on every machine. In bf16 rounding alone turns signs in the attack, and the
trainings part: `golden_bf16.json` has the mean loss of the 20 steps, the distance (L2) that the weights have moved, and beside
each how far it may be off (relative). That is three times what the case was off in other arithmetic, measured when the file is
written: without oneDNN, and in the other memory format; and at least `LEAST`, because two trials may agree by chance. `LEAST` is
such that kernels without vector instructions (ATEN_CPU_CAPABILITY=default, without oneDNN) and those of AMX stay within it in
every case.

`PYTHONPATH=tests python tests/contract/test_golden.py [CASE ...]` rewrites those cases, or all of them.
"""

import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import hydra
import pytest
import torch
from helpers import DISTIL, options
from lightning.pytorch.callbacks import Callback

from fairat_lightning.commands.one_run import run
from fairat_lightning.config.compose import CONF

GOLDEN = Path(__file__).with_name("golden.json")
GOLDEN_BF16 = Path(__file__).with_name("golden_bf16.json")
CASES = {
    name: words.split()
    for name, words in {
        "standard": "method=standard",
        "pgd_at": "method=pgd_at",
        "trades": "method=trades",
        "mart": "method=mart",
        "faal": "method=faal",
        "faal-count_weighted": "method=faal method.count_weighted=true",
        "faal-trades-awp": "method=faal objective=trades awp=awp",
        "fairat": "method=fairat method.augmentation=cutout",
        **{
            m: f"method={m}"
            for m in ("frl", "bat", "wat", "cfa", "dafa", "csr", "fair_tat", "codat", "fair_ard", "absld", "ham", "trix")
        },
        "variance": "method=variance method.variance=1",
        "variance-harl": "method=variance method.weight=0.1 method.concentration=0.1 method.over=classes "
        "method.present_only=false",
        "variance-released": "method=variance method.variance=1 method.padded_to=100",
        "absld-released": "method=absld method.aliased=true method.reduction=mean method.class_loss=sum",
        "dafa-second-step": "method=dafa objective=at attack.second_step=true method.warmup=0.5",
        "csr-multiplied": "method=csr method.multiplied=true",
        "faal-memory": "method=faal method.memory=0.9",
        "cfol": "method=cfol method.eta=0.01",
        "cfol-uniform": "method=cfol method.eta=0.01 method.sampling=uniform",
        "decosam": "method=decosam",
        "ham-drop": "method=ham method.warmup=0 method.drop=true",
        "floor": "method=floor method.memory=0.9 awp=awp averaging=fawa method.augmentation=cutout averaging.threshold=0.0",
        "pgd_at-swa-balanced": "method=pgd_at averaging=swa averaging.start=0.5 head=balanced",
        "fairat-random": "method=fairat method.augmentation=cutout method.subset=random",
        "pgd_at-ema-onecycle-smoothing": "method=pgd_at averaging=ema averaging.decay=0.9 optim=onecycle "
        "objective.label_smoothing=0.1",
        "pgd_at-l2": "method=pgd_at attack=l2_pgd10",
    }.items()
}
IN_BF16 = [case for case, words in CASES.items() if words[0] == f"method={case}" or case == "faal-trades-awp"]
LEAST = {"loss": 0.01, "moved": 0.06}
FAULTS = [  # a tenth larger steps of the attack and of the optimiser, and the batch's statistics in the attack
    ("mart", "attack.step=0.275eps", "loss"),
    ("fairat", "optim.lr=0.022", "moved"),
    ("pgd_at", "attack.batch_norm=train", "loss"),
]
STEPS = (
    *("data=synthetic", "data.train_size=160", "data.test_size=4", "data.batch_size=32", "model.width=4", "optim.lr=0.02"),
    *("trainer=cpu", "trainer.precision=64-true", "trainer.max_epochs=4", "attack.steps=3"),
)


def figures(words: list[str], folder: Path, callbacks: Sequence[Callback] = ()) -> dict[str, list[float]]:
    """The figures of each epoch. A network that the training begins with is trained in float64."""
    if {f"method={name}" for name in DISTIL} & set(words):
        figures(["method=pgd_at"], folder.with_name("teacher"))
        words = [*words, f"method.teacher={folder.with_name('teacher')}"]
    if "method=decosam" in words:
        figures(["method=pgd_at"], folder.with_name("base"))
        words = [*words, f"init_from={folder.with_name('base')}"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", [*STEPS, *words], return_hydra_config=True)
    run(cfg, folder, callbacks=callbacks)
    rows = list(csv.DictReader((folder / "history.csv").open()))
    return {key: [float(row[key]) for row in rows] for key in ("train/loss", "val/clean", "val/robust")}


class Moved(Callback):
    """The distance (L2) between the weights before the training and after it."""

    def on_train_start(self, trainer, method):
        self.before = [p.detach().clone() for p in method.net.parameters()]

    def on_train_end(self, trainer, method):
        parts = [(p.detach() - q).norm() for p, q in zip(method.net.parameters(), self.before, strict=True)]
        self.distance = float(torch.stack(parts).norm())


def in_bf16(words: list[str], folder: Path) -> dict[str, float]:
    moved = Moved()
    losses = figures([*words, "trainer.precision=bf16-mixed"], folder, [moved])["train/loss"]
    return {"loss": sum(losses) / len(losses), "moved": moved.distance}


def tolerated(words: list[str], folder: Path) -> dict[str, dict[str, float]]:
    """The figures of a case in bf16, and how far each may be off (relative)."""
    found = in_bf16(words, folder / "usual")
    with torch.backends.mkldnn.flags(enabled=False):
        others = [in_bf16(words, folder / "plain")]
    others.append(in_bf16([*words, "model.channels_last=false"], folder / "contiguous"))
    off = {key: 3 * max(abs(other[key] / found[key] - 1) for other in others) for key in found}
    return {key: {"value": found[key], "within": round(max(off[key], LEAST[key]), 4)} for key in found}


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_what_they_were(case, tmp_path):
    for key, values in figures(CASES[case], tmp_path / "run").items():
        assert values == pytest.approx(json.loads(GOLDEN.read_text())[case][key], rel=1e-6), key


@pytest.mark.parametrize("case", IN_BF16)
def test_twenty_steps_in_bf16_are_what_they_were(case, tmp_path):
    golden = json.loads(GOLDEN_BF16.read_text())[case]
    for key, value in in_bf16(CASES[case], tmp_path / "run").items():
        assert value == pytest.approx(golden[key]["value"], rel=golden[key]["within"]), key


@pytest.mark.parametrize("case, fault, key", FAULTS)
def test_a_fault_is_outside_the_tolerance_of_bf16(case, fault, key, tmp_path):
    golden = json.loads(GOLDEN_BF16.read_text())[case][key]
    assert in_bf16([*CASES[case], fault], tmp_path / "run")[key] != pytest.approx(golden["value"], rel=golden["within"])


def test_every_method_is_here():
    for cases in (CASES, IN_BF16):
        methods = {word.partition("=")[2] for case in cases for word in CASES[case] if word.startswith("method=")}
        assert methods == set(options("method"))


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(CASES)
    with tempfile.TemporaryDirectory() as place:
        made = {case: figures(CASES[case], Path(place) / "64" / case) for case in wanted}
        made_bf16 = {case: tolerated(CASES[case], Path(place) / "16" / case) for case in wanted if case in IN_BF16}
    for path, new, cases in ((GOLDEN, made, list(CASES)), (GOLDEN_BF16, made_bf16, IN_BF16)):
        golden = json.loads(path.read_text()) | new
        path.write_text(json.dumps({case: golden[case] for case in cases}, indent=1) + "\n")
        print(f"rewrote {path}", file=sys.stderr)
