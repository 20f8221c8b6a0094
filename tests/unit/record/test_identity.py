"""A later version, and another machine, know a run again."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import SMALL, call, refused, rows

from fairat_lightning.commands.tables import recipes
from fairat_lightning.config.compose import compose_training, names_of, resolved
from fairat_lightning.record.identity import ADDED, ADDED_WITHIN, identity
from fairat_lightning.record.writer import is_finished, open_folder
from fairat_lightning.running import machine as speed

RUNS = Path(__file__).resolve().parents[2] / "runs"  # of earlier commits, as their run.json says: configuration and figures
BEFORE_WORDS = [*(word for word in SMALL if "per_class" not in word), "data.test_size=40"]
BEFORE = "synthetic-preactresnet_tiny-faal-at-s0-b620d95e"
NAMES = {  # as commit f4a75fa named them
    "": "digits-preactresnet_tiny-pgd_at-at-s0-02fff686",
    "method=faal data=cifar100": "cifar100-preactresnet18-faal-at-s0-bd00512c",
    "experiment=dafa_resnet18": "cifar10-resnet18-dafa-trades-s0-77fdde0e",
    "experiment=cfol_resnet18": "cifar10-resnet18-cfol-at-s0-561f3269",
    "experiment=cfa_at_preactresnet18 attack=pgd10_batch_stats": "cifar10-preactresnet18-cfa-at-fawa-s0-d7ca2ed9",
    "experiment=trades_wrn34_10": "cifar10-wrn34_10-trades-trades-s0-ed209373",
    "logger=wandb": "digits-preactresnet_tiny-pgd_at-at-s0-d1016c9a",
}


@pytest.mark.parametrize("words", NAMES)
def test_a_run_has_the_name_that_an_earlier_version_gave_it(words):
    """What changes no bit has left the name since: a folder of that name is still looked for."""
    cfg, folder = compose_training(["trainer.precision=32-true", *words.split()])
    assert names_of(cfg, cfg.hydra.runtime.choices)[-1] == NAMES[words]
    assert folder.name == NAMES["" if "logger" in words else words]


@pytest.mark.parametrize(
    "words", ["logger=wandb", "logger=[csv,tensorboard]", "save_minutes=3", "allow=[mine.]", "schedule=none"]
)
def test_what_changes_no_bit_is_no_part_of_a_runs_name(words):
    assert compose_training([words])[1] == compose_training([])[1] != compose_training(["callbacks=[mine.X]"])[1]


def test_where_images_are_kept_is_no_part_of_a_runs_name():
    words = ["data=folder", "data.root=photos", "trainer.precision=32-true"]
    for more in (["data.in_memory=true"], ["data.in_memory=false", "data.cache=elsewhere"]):
        assert compose_training([*words, *more])[1] == compose_training(words)[1]
    assert compose_training(words)[1].name == "folder-preactresnet18-pgd_at-at-s0-563b1012"


def test_the_folder_of_an_official_set_is_no_part_of_a_run_and_that_of_own_images_is():
    """Its images are the same in any folder, and on any machine: their files are held against published checksums."""
    here, there, cached = (
        ["data=cifar10", *root, "trainer.precision=32-true"] for root in (["data.root=a"], ["data.root=b"], [])
    )
    (cfg, folder), (_, other), (_, third) = map(compose_training, (here, there, cached))
    assert folder == other == third and folder.name in names_of(cfg, cfg.hydra.runtime.choices)
    assert "cifar10-preactresnet18-pgd_at-at-s0-bd837aa4" in names_of(cfg, cfg.hydra.runtime.choices)  # commit 4194849's
    a, b = (resolved(compose_training(words)[0]) for words in (here, there))
    assert identity(a) == identity(b) != identity(a | {"seed": 1})
    of_ones_own = {**a["data"], "_target_": "mine.WithMore"}  # what it reads from data.root is not known
    assert identity(a | {"data": of_ones_own}) != identity(b | {"data": {**of_ones_own, "root": "b"}})
    for other_set in ("data=folder", "data=tiny_imagenet"):
        assert compose_training([other_set, "data.root=a"])[1] != compose_training([other_set, "data.root=b"])[1]


def test_a_run_that_0_2_named_after_its_data_folder_is_found_from_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["data=cifar10", "trainer.precision=32-true", "seed=3"]
    begun, new = compose_training([*words, "data.root=a"])
    old = new.with_name(names_of(begun, begun.hydra.runtime.choices)[1])
    open_folder(old, resolved(begun), None)
    assert compose_training([*words, "data.root=a"])[1] == old == compose_training([*words, "data.root=b"])[1] != new
    assert compose_training([*words, "data.root=b", "optim.lr=0.2"])[1] != old


def test_a_run_continues_where_an_official_set_lies_elsewhere(tmp_path):
    a, b = (resolved(compose_training(["data=cifar10", f"data.root={root}"])[0]) for root in "ab")
    own, elsewhere = (resolved(compose_training(["data=folder", f"data.root={root}"])[0]) for root in "ab")
    for name, stored in (("official", a), ("own", own)):
        open_folder(tmp_path / name, stored, None)
    assert not is_finished(tmp_path / "official", b)
    with pytest.raises(ValueError, match="data.root is a there and b here"):
        is_finished(tmp_path / "own", elsewhere)


def test_a_run_that_0_1_named_with_its_logger_is_found_finished(tmp_path, monkeypatch, capsys):
    config = yaml.safe_load((RUNS / BEFORE / "config.yaml").read_text())
    dashboard = {"_target_": "fairat_lightning.dashboards.wandb_logger", "project": "fairat_lightning"}
    config |= {"logger": dashboard | {"entity": None, "offline": None}, "save_minutes": 3}
    names = {"data": "synthetic", "model": "preactresnet_tiny", "method": "faal", "objective": "at"}
    at_first = {key: value for key, value in config.items() if key not in ADDED}
    digest = hashlib.sha256(json.dumps(at_first, sort_keys=True).encode()).hexdigest()[:8]
    folder = tmp_path / "runs" / f"{'-'.join(names.values())}-s0-{digest}"
    shutil.copytree(RUNS / BEFORE, folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    code, out, _ = call(monkeypatch, capsys, tmp_path, *BEFORE_WORDS, "method=faal", "logger=wandb", "save_minutes=3")
    assert code == 0 and "This run is finished" in out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]


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


def test_a_new_key_of_a_group_and_the_progress_bar_leave_a_run_its_name():
    old = {"_target_": "x", "strengths": [1.0]}
    new, forced = ({"head": old | {"strength": strength}} for strength in (None, 1.0))
    assert identity({"head": old}) == identity(new) != identity(forced)
    others = {
        "attack": {"scale_step": False, "second_step": True},
        "objective": {"crafting": "kl"},
        "data": {"monitor_size": None},
    }
    others["method"] = {"margins": False, "class_loss": "sum"}
    for group, key, value in ((group, key, value) for group, keys in others.items() for key, value in keys.items()):
        before, default, other = ({group: more} for more in ({}, {key: ADDED_WITHIN[group][key]}, {key: value}))
        assert identity(before) == identity(default) != identity(other)
    shown = {"trainer": {"max_epochs": 3, "enable_progress_bar": False, "log_every_n_steps": 1}}
    assert identity(shown) == identity({"trainer": {"max_epochs": 3}})


def test_the_number_of_processes_is_no_part_of_a_run():
    one, two = ({"trainer": {"devices": n, "num_nodes": 1, "max_epochs": 3}} for n in (1, 2))
    assert identity(one) != identity(two)  # in its name alone
    assert identity(one, machine=False) == identity(two, machine=False)


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
    line = "This run began with trainer.precision=bf16-mixed and keeps it; a new run on this machine would have 32-true.\n"
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
    assert (code, stored["trainer"]["precision"]) == (0, "32-true") and "and keeps it" not in out


def test_the_jobs_of_a_sweep_keep_theirs_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "best_precision", lambda accelerator: "bf16-mixed")
    assert call(monkeypatch, capsys, tmp_path, *WORDS)[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    monkeypatch.setattr(speed, "best_precision", lambda accelerator: "32-true")
    code, out, err = call(monkeypatch, capsys, tmp_path, "-m", *WORDS, "seed=0")
    assert code == 0 and "This run is finished" in out, err
    assert [path.name for path in (tmp_path / "runs").glob("*-s0-*")] == [folder.name]


def test_a_refusal_names_every_differing_key_with_both_values_and_the_command_that_goes_on(tmp_path, monkeypatch, capsys):
    words = [*SMALL, "trainer.max_epochs=1", "hydra.run.dir=mine"]
    assert call(monkeypatch, capsys, tmp_path, *words)[0] == 0
    code, _, err = call(monkeypatch, capsys, tmp_path, *words, "method=faal", "optim.lr=0.3", "attack.steps=3")
    assert code == 2
    for said in (
        "optim.lr is 0.1 there and 0.3 here",
        "attack.steps is 2 there and 3 here",
        "method is AdversarialTraining",
    ):
        assert said in err, err
    assert "radius" not in err and "to continue it: python -m fairat_lightning" in err


CONSTANT = ("optim=sgd", "schedule=constant", "hydra.run.dir=mine")


def test_a_run_with_a_constant_learning_rate_may_be_made_longer_and_is_the_run_that_was_longer_at_once(launch):
    words = [word for word in CONSTANT if "dir" not in word]
    launch(*words, "trainer.max_epochs=1", folder="mine")
    longer, metrics = launch(*words, "trainer.max_epochs=2", folder="mine")
    whole, at_once = launch(*words, "trainer.max_epochs=2", folder="whole")
    assert metrics == at_once and rows(longer) == rows(whole) and len(rows(whole)) == 3


@pytest.mark.parametrize(
    "words, reason",
    [
        (("hydra.run.dir=mine",), "optim (multistep) depends on the number of epochs"),
        (("optim=sgd", "hydra.run.dir=mine"), "schedule depends on"),
        ((*CONSTANT, "method=dafa"), "method.warmup depends on"),
        ((*CONSTANT, "averaging=swa"), "averaging.start depends on"),
        ((*CONSTANT, "val_every=2"), "its last epoch was validated"),
    ],
)
def test_another_run_cannot_be_made_longer_and_the_line_says_how_to_follow_it(tmp_path, monkeypatch, capsys, words, reason):
    assert call(monkeypatch, capsys, tmp_path, *SMALL, *words, "trainer.max_epochs=1")[0] == 0
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, *words, "trainer.max_epochs=2")
    refused(code, err, reason)
    assert "init_from=" in err


def test_an_unfinished_run_goes_on_on_another_machine_with_one_line(tmp_path, monkeypatch, capsys):
    words = [*SMALL, "trainer.max_epochs=1", "hydra.run.dir=mine"]
    assert call(monkeypatch, capsys, tmp_path, *words)[0] == 0
    (tmp_path / "mine" / "metrics.json").unlink()
    facts = json.loads((tmp_path / "mine" / "run.json").read_text())
    facts["hardware"]["cpu"] = "Another"
    (tmp_path / "mine" / "run.json").write_text(json.dumps(facts))
    code, out, err = call(monkeypatch, capsys, tmp_path, *words, "trainer=auto", "trainer.precision=32-true")
    assert (code, err) == (0, "") and out.count("the bits will not be the same") == 1, out + err


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


def test_the_command_that_goes_on_is_the_last_one(tmp_path, monkeypatch, capsys):
    """A run was made longer: the shorter command is refused, and the line names the one that is not."""
    words = [word for word in SMALL if "max_epochs" not in word]
    for epochs in (1, 2):
        assert call(monkeypatch, capsys, tmp_path, *words, *CONSTANT, f"trainer.max_epochs={epochs}")[0] == 0
    code, _, err = call(monkeypatch, capsys, tmp_path, *words, *CONSTANT, "trainer.max_epochs=1")
    refused(code, err, "trainer.max_epochs is 2 there and 1 here; to continue it: python -m fairat_lightning")
    assert "trainer.max_epochs=2" in err.partition("to continue it")[2]


def test_a_run_that_a_longer_one_could_go_on_from_is_named(tmp_path, monkeypatch, capsys):
    words = [*(word for word in SMALL if "max_epochs" not in word), "optim=sgd", "schedule=constant"]
    assert call(monkeypatch, capsys, tmp_path, *words, "trainer.max_epochs=1")[0] == 0
    (first,) = (tmp_path / "runs").iterdir()
    code, out, _ = call(monkeypatch, capsys, tmp_path, *words, "trainer.max_epochs=2")
    assert code == 0 and f"{first} is this run with fewer epochs: hydra.run.dir={first} would continue it" in out
    code, out, _ = call(monkeypatch, capsys, tmp_path, *words, "trainer.max_epochs=3", "seed=7")
    assert code == 0 and "fewer epochs" not in out


def test_another_number_of_processes_is_said_as_another_device_is(tmp_path, monkeypatch, capsys):
    words = [*SMALL, "trainer.max_epochs=1", "hydra.run.dir=mine"]
    assert call(monkeypatch, capsys, tmp_path, *words)[0] == 0
    facts = json.loads((tmp_path / "mine" / "run.json").read_text())
    assert facts["processes"] == 1
    (tmp_path / "mine" / "run.json").write_text(json.dumps(facts | {"processes": 2}))
    (tmp_path / "mine" / "metrics.json").unlink()
    code, out, _ = call(monkeypatch, capsys, tmp_path, *words)
    assert code == 0 and out.count("the bits will not be the same") == 1


def test_a_run_from_before_the_monitored_part_keeps_all_of_its_validation_images(tmp_path, capsys):
    words = ["data=cifar10", f"hydra.run.dir={tmp_path}"]
    cfg, _ = compose_training(words)
    assert cfg.data.monitor_size == 600
    old = resolved(cfg)
    del old["data"]["monitor_size"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    begun, _ = compose_training(words)
    assert "monitor_size" not in begun.data and "all validation images" in capsys.readouterr().out
    assert identity(resolved(begun)) == identity(old) == identity(resolved(cfg))
    assert identity(resolved(compose_training([*words, "data.monitor_size=null"])[0])) == identity(old), "the same, in words"
    assert compose_training([*words, "data.monitor_size=300"])[0].data.monitor_size == 300
    assert compose_training([*words, "overwrite=true"])[0].data.monitor_size == 600
