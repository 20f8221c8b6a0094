"""20 steps of every method in float64 on a tiny network, against silent change.

`PYTHONPATH=tests python tests/contract/test_golden.py [CASE ...]` rewrites those cases, or all of them.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

import hydra
import pytest
from helpers import DISTIL, options

from fairat_lightning.commands.one_run import run
from fairat_lightning.config.compose import CONF

GOLDEN = Path(__file__).with_name("golden.json")
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
        "faal-memory": "method=faal method.memory=0.9",
        "cfol": "method=cfol method.eta=0.01",
        "cfol-uniform": "method=cfol method.eta=0.01 method.sampling=uniform",
        "decosam": "method=decosam",
        "ham-drop": "method=ham method.warmup=0 method.drop=true",
        "floor": "method=floor method.augmentation=cutout averaging.threshold=0.0",
        "pgd_at-swa-balanced": "method=pgd_at averaging=swa averaging.start=0.5 head=balanced",
        "fairat-random": "method=fairat method.augmentation=cutout method.subset=random",
        "pgd_at-ema-onecycle-smoothing": "method=pgd_at averaging=ema averaging.decay=0.9 optim=onecycle "
        "objective.label_smoothing=0.1",
        "pgd_at-l2": "method=pgd_at attack=l2_pgd10",
    }.items()
}
STEPS = (
    *("data=synthetic", "data.train_size=160", "data.test_size=4", "data.batch_size=32", "model.width=4", "optim.lr=0.02"),
    *("trainer=cpu", "trainer.precision=64-true", "trainer.max_epochs=4", "attack.steps=3"),
)


def figures(words: list[str], folder: Path) -> dict[str, list[float]]:
    if {f"method={name}" for name in DISTIL} & set(words):
        figures(["method=pgd_at"], folder.with_name("teacher"))
        words = [*words, f"method.teacher={folder.with_name('teacher')}"]
    if "method=decosam" in words:
        figures(["method=pgd_at"], folder.with_name("base"))
        words = [*words, f"init_from={folder.with_name('base')}"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", [*STEPS, *words], return_hydra_config=True)
    run(cfg, folder)
    rows = list(csv.DictReader((folder / "history.csv").open()))
    return {key: [float(row[key]) for row in rows] for key in ("train/loss", "val/clean", "val/robust")}


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_what_they_were(case, tmp_path):
    for key, values in figures(CASES[case], tmp_path / "run").items():
        assert values == pytest.approx(json.loads(GOLDEN.read_text())[case][key], rel=1e-6), key


def test_every_method_is_here():
    methods = {words.partition("=")[2] for case in CASES.values() for words in case if words.startswith("method=")}
    assert methods == set(options("method"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        made = {case: figures(CASES[case], Path(place) / case) for case in sys.argv[1:] or CASES}
    golden = json.loads(GOLDEN.read_text()) | made
    GOLDEN.write_text(json.dumps({case: golden[case] for case in CASES}, indent=1) + "\n")
    print(f"rewrote {GOLDEN}", file=sys.stderr)
