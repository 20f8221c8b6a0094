"""The command `python -m fairat_lightning.evaluate`, as its user meets it."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers import ROOT, start

from fairat_lightning.commands import evaluate as judge
from fairat_lightning.commands.errors import refuse
from fairat_lightning.config.compose import WRONG_INPUT
from fairat_lightning.record.journal import read
from fairat_lightning.report import read_run

MODULE = "fairat_lightning.evaluate"


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A finished tiny run, and the directory above it as the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained("method=pgd_at", "data.test_size=80")[0], tmp_path / "run"))


def evaluate(*words):
    """The command in this process; a SystemExit for wrong input."""
    try:
        judge.main(list(words))
    except WRONG_INPUT as error:
        refuse(error)


def load(folder, name="metrics.json"):
    return json.loads((folder / name).read_text())


def test_quick_repeats_what_the_run_said_of_itself(run, capsys):
    evaluate(f"checkpoint={run}")
    place = run / "evaluation" / "quick"
    mine, theirs = load(place), load(run)
    assert list(mine) == ["clean", "fgsm", "pgd20", "cw20"]
    for name, record in theirs.items():
        assert record.pop("shift")["error"] == mine[name]["shift"]["error"]
        assert record == {key: mine[name][key] for key in record}, name
    assert read(place / "samples.jsonl")[0]["config"]["suite"]["suite"] == "quick"
    assert {p.name for p in place.iterdir()} == {"config.yaml", "metrics.json", "run.json", "samples.jsonl", "classes.png"}
    out = capsys.readouterr().out
    assert "80 images" in out and "worst class" in out
    evaluate(f"checkpoint={run}/checkpoints/best.ckpt")
    assert "finished" in capsys.readouterr().out and load(place) == mine


def test_finished_evaluation_in_a_folder_that_cannot_be_written_to_is_shown(run, capsys, monkeypatch):
    evaluate(f"checkpoint={run}")
    before = capsys.readouterr().out

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fairat_lightning.evaluation.run.FileLock", refused)
    evaluate(f"checkpoint={run}")
    assert (shown := capsys.readouterr().out) and shown in before
    for word, told in (
        ("seed=1 name=quick", "another evaluation"),
        ("overwrite=true", "written to"),
        ("split=val", "written to"),
    ):
        with pytest.raises(SystemExit):
            evaluate(f"checkpoint={run}", *word.split())
        assert told in capsys.readouterr().err


def test_words_change_the_runs_own(run):
    evaluate(
        f"checkpoint={run}", "attack=l2_pgd10", "attack.eps=0.3", "name=l2", "classes=[class_1,class_3]", "samples_per_class=5"
    )
    facts, found = load(run / "evaluation" / "l2", "run.json"), load(run / "evaluation" / "l2")
    assert facts["threat"] == {"norm": "l2", "eps": 0.3} and facts["images"] == 10
    assert found["clean"]["counts"] == {"class_0": 0, "class_1": 5, "class_2": 0, "class_3": 5}
    assert found["clean"]["per_class"]["class_0"] is None and any("5 images of each class" in n for n in facts["notes"])


def test_classes_in_full_have_all_their_images_and_the_worst_is_sought_among_them(run):
    evaluate(f"checkpoint={run}", "samples_per_class=5", "in_full=[class_2,class_1]", "name=claim")
    facts, found = load(run / "evaluation" / "claim", "run.json"), load(run / "evaluation" / "claim")
    evaluate(f"checkpoint={run}")
    every = load(run / "evaluation" / "quick")
    assert facts["images"] == 50 and any("All images of class_1, class_2: the worst" in note for note in facts["notes"])
    for key, record in found.items():
        assert record["counts"] == {"class_0": 5, "class_1": 20, "class_2": 20, "class_3": 5}
        both = {name: every[key]["per_class"][name] for name in ("class_1", "class_2")}
        assert {name: record["per_class"][name] for name in both} == both
        assert record["worst"] == min(both.values()) and record["worst_of"] == ["class_1", "class_2"]
        assert record["interval"]["worst"][0] <= record["worst"] <= record["interval"]["worst"][1]


def test_so_many_images_of_some_classes_are_a_part_of_all_of_them(run):
    evaluate(f"checkpoint={run}", "samples_per_class=5", "in_full=[class_2]", "samples_in_full=12", "name=claim")
    facts, found = load(run / "evaluation" / "claim", "run.json"), load(run / "evaluation" / "claim")
    assert found["clean"]["counts"] == {"class_0": 5, "class_1": 5, "class_2": 12, "class_3": 5}
    assert any("Up to 12 images of class_2: the worst" in note for note in facts["notes"])
    evaluate(f"checkpoint={run}", "samples_per_class=5", "in_full=[class_2]", "name=whole")
    small, large = (set(read(run / "evaluation" / name / "samples.jsonl")[1][0].index) for name in ("claim", "whole"))
    assert small < large


@pytest.mark.parametrize("split", ["val", "train"])
def test_validation_and_training_images_can_be_judged_and_are_never_taken_for_test_images(run, split, capsys):
    evaluate(f"checkpoint={run}", f"split={split}")
    place = run / "evaluation" / f"quick-{split}"
    history = list(csv.DictReader((run / "history.csv").open()))
    kept = history[load(run, "run.json")["selected_epoch"]]
    if split == "val":
        assert load(place)["clean"]["average"] == pytest.approx(float(kept["val/clean"]))
    assert sum(load(place)["clean"]["counts"].values()) == (20 if split == "val" else 64)
    assert f"These are {split} images, not test images." in capsys.readouterr().out
    found = read_run(run)
    assert "fgsm" not in found.summaries and any(f"{split} images, not test images" in note for note in found.notes)


def test_an_evaluation_of_before_is_found_finished(run, capsys):
    """Keys that an evaluation did not have once are left out of what says which one it is."""
    evaluate(f"checkpoint={run}")
    place = run / "evaluation" / "quick"
    stored = (place / "config.yaml").read_text() + (place / "samples.jsonl").read_text()
    assert "split" not in stored and "samples_in_full" not in stored
    evaluate(f"checkpoint={run}")
    assert "This evaluation is finished" in capsys.readouterr().out


def test_another_network_is_another_evaluation(run, capsys):
    evaluate(f"checkpoint={run}")
    path = run / "checkpoints" / "best.ckpt"
    state = torch.load(path, weights_only=True)
    state["state_dict"]["net.model.linear.bias"] += 1
    torch.save(state, path)
    with pytest.raises(SystemExit):
        evaluate(f"checkpoint={run}")
    assert "(another logits, another weights)" in capsys.readouterr().err
    evaluate(f"checkpoint={run}", "overwrite=true")


def refused(capsys, *words) -> str:
    """The one line that the command says."""
    with pytest.raises(SystemExit) as stop:
        evaluate(*words)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    return err


def test_another_process_is_told_to_wait(run, capsys):
    (run / "evaluation" / "quick").mkdir(parents=True)
    with FileLock(run / "evaluation" / "quick" / ".lock"):
        assert "being evaluated by another process" in refused(capsys, f"checkpoint={run}")
    evaluate(f"checkpoint={run}")


def test_figures_without_their_images_are_not_taken_for_these(run, capsys):
    evaluate(f"checkpoint={run}")
    (run / "evaluation" / "quick" / "samples.jsonl").unlink()
    assert "has figures but no samples.jsonl" in refused(capsys, f"checkpoint={run}", "attack.eps=0.01")
    assert load(run / "evaluation" / "quick")["pgd20"]


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_damaged_run_json_is_one_line(run, capsys, content):
    evaluate(f"checkpoint={run}")
    path = run / "evaluation" / "quick" / "run.json"
    path.unlink() if content is None else path.write_text(content)
    assert "run.json is missing or damaged" in refused(capsys, f"checkpoint={run}")


def test_another_checkpoint_of_a_run_is_not_taken_for_its_best(run):
    path = run / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    state["state_dict"]["net.model.linear.bias"] += 1
    torch.save(state, path)
    evaluate(f"checkpoint={path}")
    assert not (run / "evaluation" / "quick").exists() and load(run / "evaluation" / "quick-last")
    found = read_run(run)
    assert found.summaries["pgd20"] == load(run)["pgd20"]
    assert found.summaries["pgd20@last"] == load(run / "evaluation" / "quick-last")["pgd20"] != load(run)["pgd20"]
    assert (
        found.titles["pgd20@last"] == "PGD-20, last epoch" and "pgd20@last" in found.headline and "pgd20@last" in found.verdicts
    )
    path.rename(path.with_name("mine.ckpt"))
    evaluate(f"checkpoint={path.with_name('mine.ckpt')}", "name=mine")
    assert any("other weights" in note for note in read_run(run).notes)


def test_a_configuration_that_is_none(run, capsys):
    (run / "config.yaml").write_text("data: 3\nmodel: foo\n")
    assert "has no model" in refused(capsys, f"checkpoint={run}")
    (run / "config.yaml").unlink()
    assert "has no config.yaml" in refused(capsys, f"checkpoint={run}")


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, hidden=8):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
    def forward(self, x):
        return self.net(x)

class Random(Net):
    def forward(self, x):
        return self.net(x) + torch.randn(1)

def nothing():
    return 3
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A package of somebody's own, and a state dict for its network."""
    (tmp_path / "mypackage.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mypackage", None)
    import mypackage

    torch.manual_seed(0)
    net = mypackage.Net(4, hidden=6)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    torch.save({key: value * torch.nan for key, value in net.state_dict().items()}, tmp_path / "bad.pt")
    return net


def test_an_audit_of_somebodys_own_class(foreign, tmp_path):
    words = ["checkpoint=net.pt", "model._target_=mypackage.Net", "model.hidden=6", "data=synthetic", "samples_per_class=10"]
    with pytest.raises(SystemExit):
        evaluate(*words)
    assert not (tmp_path / "runs").exists()
    evaluate(*words, "allow=[mypackage.]", "model.mean=[0.5]", "model.std=[0.25]")
    found = load(tmp_path / "runs" / "audit-net" / "evaluation" / "quick")
    from fairat_lightning.data.sets import synthetic

    test = synthetic(num_classes=4, train_per_class=200, test_per_class=200, image_size=8).test
    header, batches = read(tmp_path / "runs" / "audit-net" / "evaluation" / "quick" / "samples.jsonl")
    x = (test.pixels[batches[0].index].float() / 255 - 0.5) / 0.25
    assert foreign(x).argmax(1).tolist() == batches[0].predicted, "mean and std stand in front of it"
    assert found["clean"]["average"] is not None


def test_changed_code_is_another_network(foreign, tmp_path, capsys, monkeypatch):
    words = ["checkpoint=net.pt", *MINE.split(), "data=synthetic", "samples_per_class=3"]
    evaluate(*words)
    monkeypatch.setattr(sys.modules["mypackage"].Net, "forward", lambda self, x: -self.net(x))
    assert "(another logits)" in refused(capsys, *words)


def test_an_audit_of_a_timm_model(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("mobilenetv3_small_050", num_classes=4, in_chans=1).state_dict(), tmp_path / "weights.pt")
    evaluate(
        "checkpoint=weights.pt", "model=timm", "model.name=mobilenetv3_small_050", "data=synthetic", "data.test_size=8",
        "data.image_size=32", "to=here",
    )  # fmt: skip
    assert load(tmp_path / "here" / "evaluation" / "quick")["pgd20"]["counts"]["class_0"] == 2


def test_an_audit_of_timms_own_network(tmp_path, monkeypatch):
    """Its stem stays as it is, unlike with `model=timm`."""
    timm = pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("resnet10t", num_classes=4, in_chans=1).state_dict(), tmp_path / "weights.pt")
    words = ["model._target_=timm.create_model", "model.model_name=resnet10t", "model.num_classes=4", "model.in_chans=1"]
    evaluate("checkpoint=weights.pt", *words, "data=synthetic", "data.test_size=8", "data.image_size=32", "to=here")
    assert load(tmp_path / "here" / "evaluation" / "quick")["pgd20"]["counts"]["class_0"] == 2


WRONG = {
    "": "set checkpoint=PATH",
    "checkpoint=nowhere": "nowhere does not exist",
    "checkpoint={run} suite=slow": "suite=slow is unknown",
    "checkpoint={run} suite.steps=3": "suite.steps",
    "checkpoint={run} suite=autoattack suite.steps=0": "suite.steps=0",
    "checkpoint={run} suite=standard suite.check_images=no": "check_images=no",
    "checkpoint={run} suite=corruptions": "32x32 or more",
    "checkpoint={run} suite=corruptions suite.root={run}": "labels.npy is missing",
    "checkpoint={run} classes=[cat]": "classes=cat is unknown",
    "checkpoint={run} classes=cat": "must be a list",
    "checkpoint={run} samples_per_class=2 in_full=[cat]": "in_full=cat is unknown",
    "checkpoint={run} samples_per_class=2 in_full=cat": "in_full=cat must be a list",
    "checkpoint={run} in_full=[class_1]": "in_full needs samples_per_class",
    "checkpoint={run} in_full=[class_1] classes=[class_2] samples_per_class=2": "and no classes=",
    "checkpoint={run} samples_per_class=1000": "has only 20 test images",
    "checkpoint={run} samples_per_class=9 split=val samples_in_full=8": "samples_in_full needs in_full",
    "checkpoint={run} samples_per_class=2 in_full=[class_1] samples_in_full=0": "samples_in_full=0",
    "checkpoint={run} samples_per_class=5 in_full=[class_1] samples_in_full=2": "samples_per_class or more",
    "checkpoint={run} samples_per_class=1000 split=val": "val images",
    "checkpoint={run} split=all": "split=all is unknown: choose one of test, val, train",
    "checkpoint={run} suite=apgd suite.targets=0": "suite.targets=0",
    "checkpoint={run} samples_per_class=0": "samples_per_class=0",
    "checkpoint={run} batch_size=0": "batch_size=0",
    "checkpoint={run} batch_size=null": "batch_size=None",
    "checkpoint={run} device=tpu": "device=tpu",
    "checkpoint={run} devices=0": "devices=0",
    "checkpoint={run} device=cpu devices=1000": "devices=1000: this machine has",
    "checkpoint={run} name=../x": "name=../x",
    "checkpoint={run} seed=-1": "seed=-1",
    "checkpoint={run} overwrite=no": "overwrite=no",
    "checkpoint={run} allow=mypackage": "must be a list of prefixes",
    "checkpoint={run} model.width=8": "does not fit this network",
    "checkpoint={run} model=wrn28_10": "another architecture",
    "checkpoint={run} attack.epsilon=3": "attack.epsilon",
    "checkpoint={run} attack.eps=8": "attack.eps=8",
    "checkpoint={run} data=cifar10 data.root={run}": "does not hold CIFAR-10",
    "checkpoint={run} model._target_=os.system": "_target_=os.system is not allowed",
    "checkpoint={run} model._target_=os.system allow=[os]": "must be a list of prefixes",
    "checkpoint=net.pt model._target_=mypackage.Nut allow=[mypackage.] data=synthetic": "mypackage has no Nut",
    "checkpoint=net.pt model._target_=nopackage.Net allow=[nopackage.] data=synthetic": "cannot be imported",
    "checkpoint=net.pt model._target_=mypackage.nothing allow=[mypackage.] data=synthetic": "gives int",
    "checkpoint=net.pt model._target_=mypackage.Net allow=[mypackage.] model.depth=3 data=synthetic": "cannot be built",
    "checkpoint=net.pt model._target_=mypackage.Net allow=[mypackage.] model.hidden=7 data=synthetic": "does not fit",
    "checkpoint=net.pt {mine} data=synthetic data.image_size=9": "(1, 9, 9)",
    "checkpoint=bad.pt {mine} data=synthetic": "nan or infinite",
    "checkpoint=net.pt model._target_=mypackage.Random allow=[mypackage.] model.hidden=6 data=synthetic": "random in eval mode",
}
MINE = "model._target_=mypackage.Net allow=[mypackage.] model.hidden=6"


def test_wrong_input_is_one_line_and_nothing_is_written(run, foreign, tmp_path, capsys):
    before = sorted(str(p) for p in tmp_path.rglob("*") if "__pycache__" not in str(p))
    for words, said in WRONG.items():
        with pytest.raises(SystemExit) as stop:
            evaluate(*words.replace("{run}", str(run)).replace("{mine}", MINE).split())
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err, (words, err)
        assert sorted(str(p) for p in tmp_path.rglob("*") if "__pycache__" not in str(p)) == before, words


def test_a_damaged_record_is_refused_and_kept(run, capsys):
    evaluate(f"checkpoint={run}")
    place = run / "evaluation" / "quick"
    path = place / "samples.jsonl"
    damaged = path.read_text().replace('"predicted":[', '"predicted":[9', 1)
    path.write_text(damaged)
    with pytest.raises(SystemExit):
        evaluate(f"checkpoint={run}")
    assert "damaged at line 2" in capsys.readouterr().err and path.read_text() == damaged
    (place / "metrics.json").write_text("{")
    path.write_text(damaged.replace('"predicted":[9', '"predicted":[', 1))
    with pytest.raises(SystemExit):
        evaluate(f"checkpoint={run}")
    assert "not a run's metrics.json" in capsys.readouterr().err


def test_the_command_and_its_help(run, tmp_path):
    told = start(tmp_path, "--help", module=MODULE)
    assert told.returncode == 0 and "suite=autoattack" in told.stdout
    assert start(tmp_path, "-m", module=MODULE).returncode == 2
    done = start(tmp_path, "checkpoint=run", "suite=sweep", "suite.multiples=[0,1]", module=MODULE)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert list(load(run / "evaluation" / "sweep")) == ["pgd20@0", "pgd20@0.1"]


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["autoattack", "standard"])
def test_killed_at_random_moments_the_record_is_the_same(run, tmp_path, suite):
    """kill -9 three times and SIGTERM once, then to the end."""
    pytest.importorskip("pyautoattack")
    words = [f"checkpoint={run}", f"suite={suite}", "batch_size=8", "attack.eps=0.02"]
    words += ["suite.steps=40", "suite.queries=400"] if suite == "autoattack" else ["suite.check_images=40"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", MODULE, *words]
    subprocess.run([*command, "name=whole"], cwd=tmp_path, env=env, check=True, capture_output=True)
    whole, place = run / "evaluation" / "whole", run / "evaluation" / "killed"
    random.seed(7)
    kills, size = 0, (whole / "samples.jsonl").stat().st_size
    while not (place / "metrics.json").exists():
        process = subprocess.Popen([*command, "name=killed"], cwd=tmp_path, env=env, stdout=-3, stderr=-3)
        before = len((place / "samples.jsonl").read_bytes()) if (place / "samples.jsonl").exists() else 0
        target = before + random.randint(1, size // 4)
        while process.poll() is None and kills < 4:
            path = place / "samples.jsonl"
            if path.exists() and path.stat().st_size >= target:
                time.sleep(random.random() / 10)
                process.send_signal(signal.SIGTERM if kills == 2 else signal.SIGKILL)
                assert process.wait() == (75 if kills == 2 else -9)
                kills += 1
                break
            time.sleep(0.005)
        process.wait()
    assert kills == 4
    mine, theirs = read(place / "samples.jsonl"), read(whole / "samples.jsonl")
    assert mine[1] == theirs[1] and mine[0]["weights"] == theirs[0]["weights"]
    assert (place / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
