"""The benchmark's sides take steps: ours as it trains, and published code as it is re-stated. Its goals, and the speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import quick_for, script

BENCH = Path(__file__).resolve().parents[2] / "studies" / "bench"
OURS = ["data=synthetic", "data.train_size=32", "data.batch_size=16", "data.image_size=32", "data.test_size=4", "trainer=cpu"]
OURS += ["model=preactresnet18", "model.width=2"]
SIDES = {
    "ours": {"kind": "ours", "words": [*OURS, "method=fairat"]},
    "weights": {"kind": "ours", "words": [*OURS, "method=faal"], "off": "image-only gradients"},
    "published": {"kind": "published", "method": "faal", "width": 2, "batch_size": 16, "classes": 4},
}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return script("studies/bench/quick.py")


@pytest.mark.parametrize("name", quick_for(list(SIDES)))
def test_a_side_takes_steps(name):
    asked = ["step", "step"] + (["count", "between", "profile", "validation"] if name == "ours" else [])
    done = subprocess.run(
        [sys.executable, BENCH / "side.py", json.dumps(SIDES[name])], input="\n".join(asked), capture_output=True, text=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == 1 + len(asked), done.stderr[-2000:]
    assert all(answer["seconds"] > answer["fetching"] >= 0 for answer in answers[1:3])
    if name == "ours":
        assert answers[3]["flops"] > 1e7 and answers[3]["bytes"] > 1e6 and answers[4]["seconds"] > 0
        assert sum(share for _, share, _ in answers[5]["rows"]) <= 1.001


def test_a_goal_is_met_not_met_or_not_run(quick):
    rows = {
        (limit, figure): quick.Goal("x", "a figure", limit, lambda figure=figure: figure).row()
        for limit in ("at least 2", "at most 2")
        for figure in (1.5, 2.0, 2.5, "there is no cvxpy")
    }
    met = [key for key, row in rows.items() if row.get("met")]
    assert met == [("at least 2", 2.0), ("at least 2", 2.5), ("at most 2", 1.5), ("at most 2", 2.0)]
    assert quick.said(rows["at most 2", 2.5]) == "2.5, not met"
    recorded = quick.Goal("x", "a figure", "at least 2", lambda: (1.5, "bench.py --parts x takes minutes")).row()
    assert quick.said(recorded) == "1.5, not met in the record; here: bench.py --parts x takes minutes"
    assert all(isinstance(goal.measure(), tuple) for goal in quick.GOALS if goal.part in "km")
    assert "met" not in rows["at least 2", "there is no cvxpy"]
    assert quick.said(rows["at most 2", "there is no cvxpy"]) == "not run: there is no cvxpy"


def test_the_start_of_a_training_is_timed_to_its_first_step(quick, tmp_path):
    words = ["data=digits", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}", "callbacks=[first_step.FirstStep]"]
    clock, processor = quick.taken(["-m", "fairat_lightning", *words, "allow=[first_step.]"])
    assert clock > 0.5 and processor > 0.5
    assert (tmp_path / "config.yaml").exists()  # it has begun
    assert not list(tmp_path.glob("history.csv")) and not (tmp_path / "metrics.json").exists()  # and no epoch has ended


def test_the_model_of_the_speed_finds_the_constants_that_made_the_cells():
    speed = script("studies/speed.py")
    cells = [
        {"precision": "32-true", "cores": cores, "width": width, "attack": attack, "flops": 270_000.0 * width**2}
        for cores in (1, 2)
        for width in (16, 32, 64)
        for attack in speed.ATTACKS
    ]
    for cell in cells:
        seconds = speed.passes(cell) * (cell["flops"] / (1e11 * cell["cores"]) + cell["width"] * 5e-5)
        cell["images_per_second"] = 1 / seconds
    for cores, model in zip((1, 2), speed.models(cells), strict=True):
        assert model["rate"] == pytest.approx(1e11 * cores) and model["overhead"] == pytest.approx(5e-5)
        assert model["error"] < 1e-9
    cells[0]["images_per_second"] /= 1.5
    slower, as_before = speed.models(cells)
    assert slower["error"] > 0.1 and as_before["error"] < 1e-9


def test_the_speed_of_a_processor_is_measured_and_other_cells_are_kept(monkeypatch, tmp_path, capsys):
    speed = script("studies/speed.py")
    monkeypatch.setattr(speed, "best_precision", lambda _: "32-true")
    path = tmp_path / "speed.json"
    for width in (4, 2):
        given = ["--to", str(path), "--rounds", "1", "--batch-size", "10", "--widths", str(width), "--cores", "1"]
        monkeypatch.setattr("sys.argv", ["speed.py", *given])
        speed.main()
    cells = json.loads(path.read_text())["cells"]
    assert [(c["width"], c["attack"]) for c in cells] == [(w, a) for w in (2, 4) for a in ("n_fgsm", "pgd3", "pgd10")]
    assert all(c["images_per_second"] > 0 and c["flops"] > 1e5 for c in cells)
    monkeypatch.setattr("sys.argv", ["speed.py", "--cores", "999"])
    with pytest.raises(SystemExit, match="2"):
        speed.main()
    assert "--cores 999" in capsys.readouterr().err
