"""A later version, and another machine, know a run again."""

import shutil
from pathlib import Path

import pytest
import yaml
from helpers import SMALL, call

from fairat_lightning.commands.tables import recipes
from fairat_lightning.config.compose import compose_training
from fairat_lightning.record.identity import ADDED, identity
from fairat_lightning.running import machine as speed

RUNS = Path(__file__).resolve().parents[2] / "runs"  # of earlier commits, as their run.json says: configuration and figures
BEFORE_WORDS = [*(word for word in SMALL if "per_class" not in word), "data.test_size=40"]
BEFORE = "synthetic-preactresnet_tiny-faal-at-s0-b620d95e"
NAMES = {  # as commit f4a75fa named them
    "": "digits-preactresnet_tiny-pgd_at-at-s0-02fff686",
    "method=faal data=cifar100": "cifar100-preactresnet18-faal-at-s0-bd00512c",
    "experiment=dafa_resnet18": "cifar10-resnet18-dafa-trades-s0-77fdde0e",
    "experiment=cfol_resnet18": "cifar10-resnet18-cfol-at-s0-561f3269",
    "experiment=cfa_at_preactresnet18": "cifar10-preactresnet18-cfa-at-fawa-s0-d7ca2ed9",
    "experiment=trades_wrn34_10": "cifar10-wrn34_10-trades-trades-s0-ed209373",
    "logger=wandb": "digits-preactresnet_tiny-pgd_at-at-s0-d1016c9a",
}


@pytest.mark.parametrize("words", NAMES)
def test_a_run_has_the_name_that_an_earlier_version_gave_it(words):
    assert compose_training(["trainer.precision=32-true", *words.split()])[1].name == NAMES[words]


def test_a_run_of_an_earlier_version_is_found_finished_by_its_command(tmp_path, monkeypatch, capsys):
    stored = yaml.safe_load((RUNS / BEFORE / "config.yaml").read_text())
    assert not set(ADDED) & set(stored), "else it is no run of an earlier version"
    shutil.copytree(RUNS / BEFORE, tmp_path / "runs" / BEFORE)
    code, out, err = call(monkeypatch, capsys, tmp_path, *BEFORE_WORDS, "method=faal")
    assert (code, err) == (0, "") and "This run is finished" in out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [BEFORE]


def test_a_run_of_the_night_is_found_finished_by_reproduce(tmp_path, monkeypatch):
    """The folder that a long run has left, by the commit in its run.json; only its configuration and figures are kept here."""
    shutil.copytree(RUNS / "faal-night", tmp_path / "runs" / "reproduce" / "faal-night")
    monkeypatch.chdir(tmp_path)
    for words, found in (([], True), (["optim.lr=0.2"], False)):
        (job,) = recipes.parse(["table=faal", "budget=night", "rows=[pgd_at]", "data.root=data", *words]).jobs()
        assert recipes.finished(job) == found


def test_a_new_key_counts_where_it_has_another_value():
    assert identity({"seed": 1, **ADDED}) == identity({"seed": 1}) != identity({"seed": 1, "val_every": 2})
    assert compose_training(["val_every=2"])[1] != compose_training([])[1] == compose_training(["val_every=1"])[1]


def test_only_an_unfinished_run_may_change_its_number_of_processes():
    one, two = ({"trainer": {"devices": n, "num_nodes": 1, "max_epochs": 3}} for n in (1, 2))
    assert identity(one) != identity(two) and identity(one, processes=False) == identity(two, processes=False)


WORDS = [word for word in SMALL if "precision" not in word]


@pytest.mark.parametrize("named", [True, False])
def test_a_run_keeps_the_precision_it_began_with_on_a_machine_that_would_choose_another(tmp_path, monkeypatch, capsys, named):
    words = [*WORDS, *([] if named else ["hydra.run.dir=runs/mine"])]
    monkeypatch.setattr(speed, "best_precision", lambda accelerator: "bf16-mixed")
    assert call(monkeypatch, capsys, tmp_path, *words)[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "metrics.json").unlink()  # as if it had been stopped in its test
    monkeypatch.setattr(speed, "best_precision", lambda accelerator: "32-true")
    code, out, err = call(monkeypatch, capsys, tmp_path, *words)
    line = "This run began with trainer.precision=bf16-mixed and goes on with it; a new one here would have 32-true.\n"
    assert (code, err, out.count(line)) == (0, "", 1) and ", resumed" in out
    code, out, err = call(monkeypatch, capsys, tmp_path, *words)
    assert (code, err) == (0, "") and "This run is finished" in out and line not in out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]
    code, out, err = call(monkeypatch, capsys, tmp_path, *words, "trainer.precision=32-true")  # asked for: another run
    assert (code, "another configuration" in err) == ((0, False) if named else (2, True))


def test_a_run_anew_takes_what_the_machine_would_choose(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "best_precision", lambda accelerator: "bf16-mixed")
    words = [*WORDS, "hydra.run.dir=runs/mine"]
    assert call(monkeypatch, capsys, tmp_path, *words)[0] == 0
    monkeypatch.setattr(speed, "best_precision", lambda accelerator: "32-true")
    code, out, _ = call(monkeypatch, capsys, tmp_path, *words, "overwrite=true")
    stored = yaml.safe_load((tmp_path / "runs" / "mine" / "config.yaml").read_text())
    assert (code, stored["trainer"]["precision"]) == (0, "32-true") and "goes on with it" not in out


def test_the_jobs_of_a_sweep_keep_theirs_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "best_precision", lambda accelerator: "bf16-mixed")
    assert call(monkeypatch, capsys, tmp_path, *WORDS)[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    monkeypatch.setattr(speed, "best_precision", lambda accelerator: "32-true")
    code, out, err = call(monkeypatch, capsys, tmp_path, "-m", *WORDS, "seed=0")
    assert code == 0 and "This run is finished" in out, err
    assert [path.name for path in (tmp_path / "runs").glob("*-s0-*")] == [folder.name]


@pytest.mark.parametrize("here", ["bf16-mixed", "32-true"])
def test_a_run_of_a_recipe_that_once_fixed_its_precision_is_found(tmp_path, monkeypatch, here):
    """`experiment=cifar10_cpu` asked for bf16-mixed before it left the choice to the machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed, "best_precision", lambda accelerator: here)
    folder = tmp_path / "runs" / "cifar10-preactresnet18-pgd_at-at-s0-5b35699e"  # as commit b9ef833 named it
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("trainer: {precision: bf16-mixed}")
    cfg, found = compose_training(["experiment=cifar10_cpu", "trainer=cpu"])
    assert (found, cfg.trainer.precision) == (folder, "bf16-mixed")


def test_who_asks_for_a_precision_that_the_machine_lacks_is_told_so_once_and_not_at_a_resume(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "best_precision", lambda accelerator: "32-true")
    words = [*WORDS, "trainer.precision=bf16-mixed", "hydra.run.dir=run"]
    code, out, err = call(monkeypatch, capsys, tmp_path, *words)
    assert (code, err, out.count("warning: trainer.precision=bf16-mixed, but")) == (0, "", 1)
    (tmp_path / "run" / "metrics.json").unlink()
    code, out, err = call(monkeypatch, capsys, tmp_path, *words)
    assert (code, err) == (0, "") and ", resumed" in out and "warning" not in out
